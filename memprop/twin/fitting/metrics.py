"""What a twin is worth: errors of its membranes, its spikes, its drift, and the range in which that was measured."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memprop.errors import InputError
from memprop.twin.fitting.predict import on_grid
from memprop.twin.fitting.waveforms import CellWaveforms
from memprop.twin.ranges import Range

Floats = NDArray[np.float64]
KINDS = ("peaks", "crossings")
_FAINTER = 0.7
"""A spike has no partner only where the other waveform has not even one of this part of the level."""
_FINER = 100


@dataclass(frozen=True, slots=True)
class Errors:
    """Errors of membranes, over runs and time."""

    label: str
    runs: int
    rms: float
    """In V."""
    peak: float
    """In V."""
    normalised: float
    """Rms over the range of the true membranes of all runs, no unit."""


@dataclass(frozen=True, slots=True)
class SpikeRule:
    """What counts as a spike: a peak that stands out by ``level`` V, or a rise through ``level`` V.

    Raises
    ------
    InputError: the kind is unknown, or the level no number, or of peaks not positive.
    """

    kind: str
    level: float

    def __post_init__(self) -> None:
        if self.kind not in KINDS or not np.isfinite(self.level) or (self.kind == "peaks" and self.level <= 0):
            raise InputError(
                f"spikes '{self.kind}:{self.level!r}': give peaks:PROMINENCE above 0 V, or crossings:LEVEL in V, e.g. peaks:0.02."
            )


@dataclass(frozen=True, slots=True)
class SpikeErrors:
    """Spikes of a twin against the true ones."""

    rule: SpikeRule
    true: int
    """Number of true spikes."""
    missed: int
    extra: int
    late: Floats
    """Twin minus true time of the spikes of both, in s."""
    relative: Floats
    """The same over the true time since the spike before, of those that have one; no unit."""

    @property
    def typical(self) -> float:
        """Rms error of the time in s; 0 without spikes."""
        return float(np.sqrt(np.mean(self.late**2))) if len(self.late) else 0.0

    @property
    def worst(self) -> float:
        """Largest error of the time in s; 0 without spikes."""
        return float(np.abs(self.late).max(initial=0.0))


def errors_of(label: str, found: Floats, true: Floats, scale: float) -> Errors:
    """Return the errors of membranes ``[run, T]`` in V; ``scale`` in V is the range they are normalised by."""
    left = found - true
    rms = float(np.sqrt(np.mean(left**2)))
    return Errors(label, len(found), rms, float(np.abs(left).max()), rms / scale if scale > 0 else 0.0)


def error_table(waveforms: CellWaveforms, found: Floats, true: Floats) -> list[Errors]:
    """Return the errors of each split, and of the runs held out those of each family of stimuli."""
    scale = float(np.ptp(true))
    parts = [(str(s), waveforms.splits == s) for s in ("fit", "validation", "held_out")]
    held = waveforms.splits == "held_out"
    parts += [(f"held_out, {f}", held & (waveforms.stimuli == f)) for f in dict.fromkeys(map(str, waveforms.stimuli))]
    return [errors_of(label, found[runs], true[runs], scale) for label, runs in parts if runs.any()]


def usual_rule(true: Floats) -> SpikeRule:
    """Return the rule where nobody gives one: peaks that stand out by 5 % of the highest rise above the start."""
    rise = float((true - true[:, :1]).max())
    return SpikeRule("peaks", max(0.05 * rise, 1e-6))


def spike_times(time: Floats, mem: Floats, rule: SpikeRule, part: float = 1.0) -> Floats:
    """Return the times of spikes in s, between the points of ``time`` too; levels of peaks are taken times ``part``."""
    if rule.kind == "crossings":
        up = np.flatnonzero((mem[:-1] < rule.level) & (mem[1:] >= rule.level))
        return time[up] + (rule.level - mem[up]) / (mem[up + 1] - mem[up]) * (time[up + 1] - time[up])
    from scipy.interpolate import CubicSpline  # noqa: PLC0415 - slow to import
    from scipy.signal import find_peaks  # noqa: PLC0415

    peaks, _ = find_peaks(mem, prominence=part * rule.level)
    if not len(peaks):
        return np.zeros(0)
    curve = CubicSpline(time, mem)
    near = time[peaks][:, None] + np.linspace(-1, 1, 2 * _FINER + 1) * (time[1] - time[0])
    return near[np.arange(len(peaks)), curve(near).argmax(1)]


def spike_errors(
    waveforms: CellWaveforms, found: Floats, grid: Floats, rule: SpikeRule, window: float | None = None
) -> SpikeErrors:
    """Compare the spikes of membranes ``found`` in V, ``[run, T]`` at ``grid`` in s, with those of all runs.

    Both are read at the points of ``grid``, with the same curve between them: what a coarse grid does to the reading of a time then
    is no error of the twin. Two spikes are the same where they are next to each other, within ``window`` s, by default 5 % of a run,
    and within half the time to the next true spike on either side: else a late spike would be taken for the one after it.
    """
    reference = on_grid(waveforms.time, waveforms.mem, grid)
    window = 0.05 * float(waveforms.time[-1]) if window is None else window
    true = missed = extra = 0
    late: list[float] = []
    relative: list[float] = []
    for run, mem in zip(found, reference, strict=True):
        ours, theirs = spike_times(grid, run, rule), spike_times(grid, mem, rule)
        faint = spike_times(grid, run, rule, _FAINTER), spike_times(grid, mem, rule, _FAINTER)
        pairs = _pairs(theirs, faint[0], _reach(theirs, window)[:, None])
        true, missed = true + len(theirs), missed + len(theirs) - len(pairs)
        extra += len(ours) - len(_pairs(ours, faint[1], _reach(faint[1], window)))
        for k, j in pairs:
            late.append(faint[0][j] - theirs[k])
            if k:
                relative.append(late[-1] / (theirs[k] - theirs[k - 1]))
    return SpikeErrors(rule, true, missed, extra, np.array(late), np.array(relative))


def _reach(times: Floats, window: float) -> Floats:
    """Return how far from each true spike, in s, a spike of the twin can be and still be that one."""
    gaps = np.diff(times, prepend=-np.inf, append=np.inf)
    return np.minimum(window, 0.5 * np.minimum(gaps[:-1], gaps[1:]))


def _pairs(ours: Floats, theirs: Floats, reach: Floats) -> list[tuple[int, int]]:
    """Return pairs of indices of spikes that are the same; nearest ones first, each once. ``reach`` is in s, ``[ours, theirs]``."""
    if not len(ours) or not len(theirs):
        return []
    gap = np.abs(ours[:, None] - theirs)
    gap[gap > reach] = np.inf
    order = np.argsort(gap, axis=None, kind="stable")
    used: tuple[set[int], set[int]] = (set(), set())
    pairs = []
    for k, j in zip(*np.unravel_index(order, gap.shape), strict=True):
        if not np.isfinite(gap[k, j]):
            break
        if int(k) not in used[0] and int(j) not in used[1]:
            used[0].add(int(k))
            used[1].add(int(j))
            pairs.append((int(k), int(j)))
    return sorted(pairs)


def drift_of(found: Floats, true: Floats, parts: int = 10) -> Floats:
    """Return the rms error in V of each tenth of the time, over all runs ``[run, T]``: of a twin on its own it must not grow."""
    left = (found - true) ** 2
    return np.array([float(np.sqrt(part.mean())) for part in np.array_split(left, parts, axis=1)])


def range_of(waveforms: CellWaveforms) -> Range:
    """Return the range of currents, membranes and temperatures of waveforms."""

    def ends(values: Floats) -> tuple[float, float]:
        return float(values.min()), float(values.max())

    return Range(ends(waveforms.current), ends(waveforms.mem), ends(waveforms.temperatures))
