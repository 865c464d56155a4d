"""Random currents that show a cell's behaviour: pulses, trains, steps and noise, straight between the corners of a raster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memprop.circuit.cell import Cell
from memprop.errors import InputError

Floats = NDArray[np.float64]
_DECADES = 1.7
"""Peaks are drawn evenly in logarithm over this many decades below the largest."""


@dataclass(frozen=True, slots=True)
class Drive:
    """What currents are drawn from.

    Raises
    ------
    InputError: a range or a time makes no sense.
    """

    low: float
    """Least current in A."""
    high: float
    """Largest current in A."""
    duration: float
    """Length of a run in s."""
    rise: float
    """Typical time from onset to peak of a pulse, in s."""
    corners: int = 200
    """Straight pieces of a run."""

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise InputError(
                f"currents from {self.low!r} A to {self.high!r} A: give a range that rises, e.g. -1e-5:5e-5."
            )
        if not (0 < self.rise < np.inf and 0 < self.duration < np.inf):
            raise InputError(
                f"duration = {self.duration!r} s, rise = {self.rise!r} s: both must be finite and positive."
            )
        if self.corners < 10:
            raise InputError(f"corners = {self.corners}: a run needs at least 10 straight pieces.")

    @property
    def spans(self) -> float:
        """Length of a run in spans of five rises, which the number of events in it follows."""
        return self.duration / (5 * self.rise)

    @property
    def time(self) -> Floats:
        """Corners in s, ``[corners + 1]``."""
        return np.linspace(0.0, self.duration, self.corners + 1)


def drive_of(
    cell: Cell, current: tuple[float, float] | None, duration: float | None, corners: int
) -> tuple[Drive, str]:
    """Return what a cell's card asks for, and in words what was chosen where the card is silent.

    The card names the peaks of a stimulus, which are magnitudes; neurons on crossbars of pairs get both signs.

    Raises
    ------
    InputError: the card has no stimulus and nothing else is given.
    """
    card = cell.card.stimulus
    if card is None and (current is None or duration is None):
        raise InputError(
            f"card of {cell.name} has no [stimulus]. Add it, or give the range of currents and the duration."
        )
    rise = rise_of(cell, float(duration or 0.0))
    said = ""
    if current is None and card is not None:
        high = card.ipk.at_most if card.ipk.at_most is not None else 5 * card.ipk.default
        current = (-high, high)
        said = (
            f"the card of {cell.name} gives peaks of up to {high:g} A; crossbars give both signs, so currents are drawn from "
            f"{-high:g} to {high:g} A (--current LOW:HIGH for others)"
        )
    low, high = current or (0.0, 0.0)
    return Drive(low, high, duration or 5 * rise, rise, corners), said


def rise_of(cell: Cell, duration: float) -> float:
    """Return the typical rise of a pulse in s: that of the card's stimulus, else a fifth of a run."""
    return duration / 5 if cell.card.stimulus is None else cell.card.stimulus.ta.default


def random_current(drive: Drive, family: str, rng: np.random.Generator) -> Floats:
    """Return a random current in A at the corners of a drive, ``[corners + 1]``, 0 at the start, where cells rest.

    Raises
    ------
    InputError: the family is unknown.
    """
    if family not in FAMILIES:
        raise InputError(f"family '{family}' of stimuli is unknown. Known: {', '.join(FAMILIES)}.")
    shape = FAMILIES[family](drive, rng)
    peak = 10.0 ** -rng.uniform(0.0, _DECADES)
    shape = np.clip(shape / max(float(np.abs(shape).max()), 1e-12), -1.0, 1.0) * peak
    if drive.low < 0 < drive.high:
        sign = rng.choice([1.0, -1.0])
        current = np.where(sign * shape > 0, drive.high, -drive.low) * sign * shape
    else:
        current = drive.low + np.abs(shape) * (drive.high - drive.low)
    current[0] = 0.0
    return current


def alpha(time: Floats, onset: float, rise: float) -> Floats:
    """Return an alpha pulse of peak 1, ``[T]``."""
    s = np.clip((time - onset) / rise, 0.0, None)
    return s * np.exp(1.0 - s)


def _encoder(drive: Drive, rng: np.random.Generator) -> Floats:  # noqa: ARG001 - one signature
    """Return what an encoder gives: equal pulses at the start and in the middle."""
    return alpha(drive.time, 0.0, drive.rise / 2) + alpha(drive.time, drive.duration / 2, drive.rise / 2)


def _alpha(drive: Drive, rng: np.random.Generator) -> Floats:
    onset, rise = rng.uniform(0.0, 0.5) * drive.duration, drive.rise * 10.0 ** rng.uniform(-0.7, 0.3)
    return alpha(drive.time, onset, rise)


def _train(drive: Drive, rng: np.random.Generator) -> Floats:
    """Return pulses at random times, at a random rate, of unlike heights; some have the other sign."""
    pulses = rng.uniform(3.0, 15.0) * drive.spans
    most = int(2 * pulses) + 20
    onsets = np.cumsum(rng.exponential(drive.duration / pulses, size=most))
    rise = drive.rise * 10.0 ** rng.uniform(-1.0, -0.3)
    heights = rng.uniform(0.4, 1.0, size=most) * np.where(rng.random(most) < rng.choice([0.0, 0.3]), -1.0, 1.0)
    return sum(
        (h * alpha(drive.time, t, rise) for t, h in zip(onsets, heights, strict=True)), np.zeros(drive.corners + 1)
    )


def _steps(drive: Drive, rng: np.random.Generator) -> Floats:
    """Return levels that last for random times; an edge takes one straight piece."""
    levels = min(int(rng.integers(2, 10) * max(drive.spans, 1.0)), drive.corners - 1)
    edges = np.sort(rng.choice(np.arange(1, drive.corners), size=levels, replace=False))
    return rng.uniform(-0.6, 1.0, size=levels + 1)[np.searchsorted(edges, np.arange(drive.corners + 1), side="right")]


def _noise(drive: Drive, rng: np.random.Generator) -> Floats:
    """Return noise up to a random frequency, around a random mean."""
    count = drive.corners + 1
    frequency = np.fft.rfftfreq(count, drive.duration / drive.corners)
    limit = 10.0 ** rng.uniform(np.log10(2.0 / drive.duration), np.log10(0.05 * drive.corners / drive.duration))
    spectrum = np.fft.rfft(rng.normal(size=count)) * np.exp(-0.5 * (frequency / limit) ** 2)
    wave = np.fft.irfft(spectrum, count)
    return wave / max(float(wave.std()), 1e-12) + rng.uniform(-1.0, 2.0)


FAMILIES: Mapping[str, Callable[[Drive, np.random.Generator], Floats]] = {
    "encoder": _encoder, "alpha": _alpha, "train": _train, "steps": _steps, "noise": _noise,
}  # fmt: skip
"""Families of stimuli, of peak about 1."""


def parse_range(text: str) -> tuple[float, float]:
    """Return the two numbers of ``LOW:HIGH``.

    Raises
    ------
    InputError: it is something else.
    """
    try:
        low, high = (float(word) for word in text.split(":"))
    except ValueError as error:
        raise InputError(f"range '{text}' is not of the form LOW:HIGH in A, e.g. -1e-5:5e-5. Correct it.") from error
    return low, high


def parse_numbers(text: str, what: str) -> tuple[float, ...]:
    """Return the numbers of a text with commas.

    Raises
    ------
    InputError: a word is no number.
    """
    try:
        return tuple(float(word) for word in text.split(",") if word.strip())
    except ValueError as error:
        raise InputError(f"{what} '{text}' are no numbers with commas between, e.g. 0,27,85. Correct them.") from error
