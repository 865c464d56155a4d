"""Encoders: images -> row voltages."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from memprop.circuit.stimulus import AlphaWave, Stimulus
from memprop.errors import InputError


@dataclass(frozen=True, slots=True)
class AlphaEncoder:
    """Pixel in [0, 1] -> alpha pulses of row voltage, ``V(t) = v_peak x pixel x k(t)``.

    ``k(t)`` is the sum over the onsets of ``s exp(1 - s)`` with ``s = (t - onset)/rise``; each pulse alone peaks at 1. All rows share
    ``k``: the input is separable, so a crossbar sees the image once and the waveform afterwards.

    Raises
    ------
    InputError: a value is not finite and positive, or an onset is outside of the presentation.
    """

    v_peak: float = 0.1
    """Row voltage at the peak of one pulse, for a full pixel, in V."""
    rise: float = 10e-6
    """Time from onset to peak, in s."""
    onsets: tuple[float, ...] = (0.0, 50e-6)
    """Beginnings of the pulses, in s."""
    duration: float = 100e-6
    """Length of the presentation, in s."""

    def __post_init__(self) -> None:
        for name in ("v_peak", "rise", "duration"):
            value = getattr(self, name)
            if not (np.isfinite(value) and value > 0):
                raise InputError(f"AlphaEncoder: {name} = {value!r} must be finite and positive (V or s).")
        if not self.onsets or not all(0.0 <= onset < self.duration for onset in self.onsets):
            raise InputError(f"AlphaEncoder: onsets {self.onsets!r} s must lie in [0, {self.duration!r}) s.")

    def steps(self, dt: float) -> int:
        """Return the number of time steps of ``dt`` seconds."""
        count = round(self.duration / dt) if np.isfinite(dt) and dt > 0 else 0
        if count < 1 or abs(count * dt - self.duration) > 1e-6 * self.duration:
            raise InputError(
                f"time step {dt!r} s does not divide the presentation of {self.duration!r} s. Choose one that does."
            )
        return count

    def waveform(self, time: Tensor) -> Tensor:
        """Return ``k`` at ``time`` in s, no unit."""
        total = torch.zeros_like(time)
        for onset in self.onsets:
            s = ((time - onset) / self.rise).clamp(min=0.0)
            total = total + s * torch.exp(1.0 - s)
        return total

    def samples(self, dt: float) -> Tensor:
        """Return ``k`` at the ends of all steps, float64 ``[T + 1]``."""
        return self.waveform(torch.arange(self.steps(dt) + 1, dtype=torch.float64) * dt)

    def amplitude(self, images: Tensor) -> Tensor:
        """Return the row amplitudes in V, ``[B, rows]``, of images ``[B, ...]`` with pixels in [0, 1].

        Raises
        ------
        InputError: pixels are NaN or outside of [0, 1].
        """
        flat = images.flatten(1)
        if not ((flat >= 0) & (flat <= 1)).all():
            low, high = float(flat.min()), float(flat.max())
            raise InputError(
                f"images have pixels from {low!r} to {high!r}; the encoder needs [0, 1] without NaN. Scale them."
            )
        return self.v_peak * flat

    def stimulus(self, image: Tensor) -> Stimulus:
        """Return what one image ``[height, width]`` or ``[rows]`` asks of a circuit."""
        amplitude = self.amplitude(image[None].double())[0].numpy()
        return Stimulus(amplitude, AlphaWave(self.rise, self.onsets, self.duration))

    def __call__(self, images: Tensor, dt: float) -> Tensor:
        """Return row voltages in V at the time points, ``[T + 1, B, rows]``: what ``nn.Sequential`` of layers takes."""
        amplitude = self.amplitude(images)
        return self.samples(dt).to(amplitude)[:, None, None] * amplitude
