"""Input currents and voltages that are one waveform times one amplitude per line."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Separable(NamedTuple):
    """What ``waveform[:, None, None] * amplitude`` means, not multiplied out: an image under a waveform.

    Crossbars and populations take it in the place of a tensor ``[T + 1, B, lines]``; so a crossbar sees an image once.
    """

    waveform: Tensor
    """Values at the time points, no unit, ``[T + 1]``."""
    amplitude: Tensor
    """V or A per unit of the waveform, ``[B, lines]``."""

    def expand(self) -> Tensor:
        """Return the values at the time points, ``[T + 1, B, lines]``."""
        return self.waveform.to(self.amplitude)[:, None, None] * self.amplitude


def shape_of(drive: Tensor | Separable) -> tuple[int, ...]:
    """Return the shape of a drive, ``[T + 1, B, lines]`` also where it is not multiplied out."""
    if isinstance(drive, Separable):
        return (len(drive.waveform), *drive.amplitude.shape)
    return tuple(drive.shape)


def expanded(drive: Tensor | Separable) -> Tensor:
    """Return a drive as a tensor ``[T + 1, B, lines]``."""
    return drive.expand() if isinstance(drive, Separable) else drive
