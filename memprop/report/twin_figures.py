"""Figures of cells and of fitted twins: runs, and one page that says how far a twin can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from memprop.report.device_figures import FAINT, SPICE, TWIN, _figure, _save

Floats = NDArray[np.float64]


def draw_runs(path: Path, title: str, time: Floats, current: Floats, mem: Floats, labels: Sequence[str]) -> Path:
    """Draw a few runs, current above membrane. ``time`` in s, ``[T]``; ``current`` in A and ``mem`` in V, ``[runs, T]``."""
    figure, axes = _figure(2, len(labels), (2.9 * len(labels), 4.4), title)
    factor, unit = engineering(time, "s")
    for k, label in enumerate(labels):
        axes[0, k].plot(factor * time, 1e6 * current[k], color=TWIN, linewidth=1.0)
        axes[1, k].plot(factor * time, 1e3 * mem[k], color=SPICE, linewidth=1.0)
        axes[0, k].set_title(label)
        axes[1, k].set_xlabel(f"time ({unit})")
    axes[0, 0].set_ylabel("current (uA)")
    axes[1, 0].set_ylabel("membrane (mV)")
    return _save(figure, path)


def engineering(values: Floats, unit: str) -> tuple[float, str]:
    """Return the factor and the prefixed unit in which the largest of ``values`` is a number from 1 to 1000."""
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    power = int(np.clip(np.floor(np.log10(largest) / 3), -5, 2))
    return 10.0 ** (-3 * power), {-5: "f", -4: "p", -3: "n", -2: "u", -1: "m", 0: "", 1: "k", 2: "M"}[power] + unit


@dataclass(frozen=True, slots=True)
class TwinPage:
    """What one page shows of a twin."""

    title: str
    grid: Floats
    """In s, ``[T]``."""
    found: Floats
    """Membranes of the twin in V of three runs, ``[3, T]``."""
    true: Floats
    labels: tuple[str, ...]
    rms: Floats
    """Error of every run in V."""
    stimuli: tuple[str, ...]
    held: NDArray[np.bool_]
    late: Floats
    """Errors of spike times in s."""
    drift: Floats
    """Rms error in V of each tenth of long runs; empty: not measured."""
    drift_duration: float
    current: Floats
    """Held out, in A, ``[run, points]``."""
    mem: Floats
    """Held out, in V."""
    range: tuple[tuple[float, float], tuple[float, float]]
    """Of the fit: current in A, membrane in V."""
    nominal: Floats | None = None
    """Error of every run in V before the fit."""


def draw_page(path: Path, page: TwinPage) -> Path:
    """Draw the page of a twin: held-out runs, what is left, errors by family, spikes, drift, range."""
    figure, axes = _figure(4, 3, (13.0, 11.0), page.title)
    factor, unit = engineering(page.grid, "s")
    for k, label in enumerate(page.labels):
        upper, lower = axes[0, k], axes[1, k]
        upper.plot(factor * page.grid, 1e3 * page.true[k], color=SPICE, linewidth=2.4, alpha=0.5, label="SPICE")
        upper.plot(factor * page.grid, 1e3 * page.found[k], color=TWIN, linewidth=0.9, linestyle="--", label="twin")
        lower.plot(factor * page.grid, 1e3 * (page.found[k] - page.true[k]), color=TWIN, linewidth=0.8)
        upper.set_title(f"held out, {label}")
        lower.set(xlabel=f"time ({unit})")
    axes[0, 0].set_ylabel("membrane (mV)")
    axes[1, 0].set_ylabel("twin - SPICE (mV)")
    axes[0, 0].legend(frameon=False)
    _errors(axes[2, 0], page)
    _spikes(axes[2, 1], page)
    _drift(axes[2, 2], page)
    _range(axes[3, 0], page)
    _sorted(axes[3, 1], page)
    _against(axes[3, 2], page)
    return _save(figure, path)


def _errors(axis: Axes, page: TwinPage) -> None:
    """Draw the error of each run by family."""
    families = list(dict.fromkeys(page.stimuli))
    where = np.array([families.index(s) for s in page.stimuli])
    shift = np.linspace(-0.25, 0.25, len(where))[np.argsort(np.argsort(np.arange(len(where)) * 7919 % len(where)))]
    for part, color, label in ((~page.held, FAINT, "seen"), (page.held, TWIN, "held out")):
        axis.semilogy((where + shift)[part], 1e3 * np.maximum(page.rms[part], 1e-9), ".", color=color, label=label)
    axis.set_xticks(range(len(families)), families)
    axis.set(ylabel="rms error (mV)", title="each run")
    axis.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)


def _spikes(axis: Axes, page: TwinPage) -> None:
    factor, unit = engineering(page.late, "s")
    axis.set(title="spike times, held out", xlabel=f"twin - SPICE ({unit})", ylabel="spikes")
    if len(page.late):
        axis.hist(factor * page.late, bins=30, color=SPICE)
    else:
        axis.text(0.5, 0.5, "no spikes", ha="center", transform=axis.transAxes, color=FAINT)


def _drift(axis: Axes, page: TwinPage) -> None:
    factor, unit = engineering(np.array([page.drift_duration]), "s")
    axis.set(title="long runs, state predicted", xlabel=f"time ({unit})", ylabel="rms error (mV)")
    if len(page.drift):
        middle = (np.arange(len(page.drift)) + 0.5) / len(page.drift) * page.drift_duration
        axis.plot(factor * middle, 1e3 * page.drift, "o-", color=TWIN)
        axis.set_ylim(bottom=0.0)
    else:
        axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes, color=FAINT)


def _range(axis: Axes, page: TwinPage) -> None:
    """Draw where the runs held out went, and the range of the fit."""
    every = max(1, page.mem.size // 20_000)
    axis.plot(1e6 * page.current.ravel()[::every], 1e3 * page.mem.ravel()[::every], ",", color=SPICE)
    (a, b), (c, d) = page.range
    axis.plot(
        1e6 * np.array([a, b, b, a, a]),
        1e3 * np.array([c, c, d, d, c]),
        color=TWIN,
        linewidth=1.0,
        label="range of the fit",
    )
    axis.set(title="held out, all points", xlabel="current (uA)", ylabel="membrane (mV)")
    axis.legend(frameon=False, loc="lower right")


def _sorted(axis: Axes, page: TwinPage) -> None:
    """Draw the share of held-out runs below an error."""
    for rms, color, label in ((page.nominal, FAINT, "card"), (page.rms, TWIN, "fitted")):
        if rms is not None:
            own = np.sort(1e3 * np.maximum(rms[page.held], 1e-9))
            axis.semilogx(
                own, 100 * np.arange(1, len(own) + 1) / len(own), drawstyle="steps-post", color=color, label=label
            )
    axis.set(title="runs held out", xlabel="rms error (mV)", ylabel="share below (%)")
    axis.legend(frameon=False)


def _against(axis: Axes, page: TwinPage) -> None:
    """Draw the membranes of the twin over those of SPICE, of the three runs."""
    axis.plot(1e3 * page.true.ravel(), 1e3 * page.found.ravel(), ".", color=TWIN, markersize=2)
    ends = 1e3 * np.array([page.true.min(), page.true.max()])
    axis.plot(ends, ends, color=FAINT, linewidth=0.8)
    axis.set(title="the three runs above", xlabel="SPICE (mV)", ylabel="twin (mV)")
