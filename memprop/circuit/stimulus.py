"""Stimulus of a network: one waveform shared by all rows, times the amplitude of each row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memprop.conductance.pair import Array
from memprop.errors import InputError


@dataclass(frozen=True, slots=True)
class AlphaWave:
    """Sum of alpha pulses ``s exp(1 - s)``, ``s = (t - onset)/rise``, each with peak 1; ``duration`` is the presentation."""

    rise: float
    """Time from onset to peak, in s."""
    onsets: tuple[float, ...]
    """Beginnings of the pulses, in s."""
    duration: float
    """Length of the presentation, in s."""


@dataclass(frozen=True, slots=True)
class Stimulus:
    """Row voltages ``amplitude[row] x k(t)`` of one presentation.

    Raises
    ------
    InputError: the amplitudes are no finite vector.
    """

    amplitude: Array
    """Amplitude of each row in V, ``[rows]``."""
    wave: AlphaWave

    def __post_init__(self) -> None:
        if self.amplitude.ndim != 1 or not np.isfinite(self.amplitude).all():
            raise InputError(
                f"stimulus amplitudes have shape {self.amplitude.shape}, finite values in V of shape [rows] are needed."
            )
