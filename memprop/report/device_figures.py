"""Figures of a device: loops, kinetics, retention, pulse trains, and fits to measured curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from memprop.files import ensure_folder

Floats = NDArray[np.float64]
TWIN, SPICE, FAINT = "#d95f02", "#1b6ca8", "#7f7f7f"


@dataclass(frozen=True, slots=True)
class Trace:
    """What one drive shows of a device; the twin's part is None where it did not run."""

    label: str
    time: Floats
    """In s."""
    voltage: Floats
    """In V."""
    current: Floats
    """In A."""
    state: Floats
    twin_voltage: Floats | None = None
    twin_current: Floats | None = None
    twin_state: Floats | None = None


def _figure(rows: int, columns: int, size: tuple[float, float], title: str) -> tuple[Figure, NDArray[Any]]:
    with mpl.rc_context(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.titlesize": 10,
        }
    ):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
    figure.suptitle(title, fontsize=11)
    return figure, axes


def _save(figure: Figure, path: Path) -> Path:
    ensure_folder(path.parent)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path


def _colors(count: int) -> list[Any]:
    return [mpl.colormaps["viridis"](x) for x in np.linspace(0.0, 0.85, max(count, 1))]


def _scale(values: Sequence[Floats], unit: str) -> tuple[float, str]:
    """Return the factor and the unit, with prefix, in which the largest value is between 1 and 1000."""
    largest = max((float(np.abs(v).max()) for v in values if len(v)), default=0.0)
    if not largest:
        return 1.0, unit
    power = int(np.clip(3 * np.floor(np.log10(largest) / 3), -15, 9))
    prefix = {-15: "f", -12: "p", -9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G"}[power]
    return 10.0**-power, f"{prefix}{unit}"


def _legend(axis: Axes, title: str | None = None, twin: bool = False, engine: str = "") -> None:
    """Put the legend beside the axes, where it hides no curve; with ``twin`` also say what dashes mean."""
    if twin:
        axis.plot([], [], color=FAINT, linewidth=2.4, alpha=0.5, label=engine)
        axis.plot([], [], color=FAINT, linewidth=1.0, linestyle="--", label="twin")
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=8, title=title, title_fontsize=8)


def _pair(
    axis: Axes, x: Floats, y: Floats, other_x: Floats | None, other_y: Floats | None, color: Any, label: str
) -> None:
    axis.plot(x, y, color=color, linewidth=2.4, alpha=0.5, label=label)
    if other_x is not None and other_y is not None:
        axis.plot(other_x, other_y, color=color, linewidth=1.0, linestyle="--")


def loops(
    path: Path, title: str, traces: Sequence[Trace], frequency: Floats, area: Floats, swing: Floats, engine: str
) -> Path:
    """Draw current over voltage of the last cycle for each frequency, and loop area and state swing over frequency."""
    figure, axes = _figure(1, 2, (10.5, 4.2), title)
    factor, unit = _scale([t.current for t in traces], "A")
    for trace, color in zip(traces, _colors(len(traces)), strict=True):
        theirs = None if trace.twin_current is None else factor * trace.twin_current
        _pair(axes[0, 0], trace.voltage, factor * trace.current, trace.twin_voltage, theirs, color, trace.label)
    axes[0, 0].set(xlabel="voltage (V)", ylabel=f"current ({unit})", title="last cycle")
    _legend(axes[0, 0], "frequency", traces[0].twin_current is not None, engine)
    axis = axes[0, 1]
    axis.semilogx(frequency, area, "o-", color=SPICE, label="loop area / (largest V x I)")
    axis.semilogx(frequency, swing, "s-", color=TWIN, label="state swing (V)")
    axis.set(
        xlabel="frequency (Hz)", ylabel="loop area, state swing", title="loop area and state swing", ylim=(-0.03, None)
    )
    axis.xaxis.set_major_formatter(EngFormatter(sep=" "))
    _legend(axis)
    return _save(figure, path)


def kinetics(path: Path, title: str, panels: Mapping[str, Any], engine: str) -> Path:
    """Draw the state after pulses over their width for each height, and switching time over height.

    ``panels`` holds ``widths`` in s, ``amplitudes`` in V, ``after`` and ``twin_after`` ``[amplitude, width]`` (conductance in S),
    and ``times`` in s, NaN where the device did not switch.
    """
    figure, axes = _figure(1, 2, (10.5, 4.2), title)
    after, twin = panels["after"], panels["twin_after"]
    factor, unit = _scale([after[np.isfinite(after)]], "S")
    wide = bool(np.nanmax(after) > 50 * max(np.nanmin(after), 1e-300))
    for k, (volt, color) in enumerate(zip(panels["amplitudes"], _colors(len(after)), strict=True)):
        theirs = None if twin is None else factor * twin[k]
        _pair(axes[0, 0], panels["widths"], factor * after[k], panels["widths"], theirs, color, f"{volt:g} V")
        axes[0, 0].plot(panels["widths"], factor * after[k], "o", color=color, markersize=4)
    axes[0, 0].set(
        xlabel="width of the pulse (s)", ylabel=f"conductance after it ({unit})", xscale="log", title="after one pulse"
    )
    axes[0, 0].set_yscale("log" if wide else "linear")
    axes[0, 0].xaxis.set_major_formatter(EngFormatter(sep=" "))
    _legend(axes[0, 0], "height", twin is not None, engine)
    axis, times, switched = axes[0, 1], panels["times"], np.isfinite(panels["times"])
    axis.set(
        xlabel="height of the pulse (V)", ylabel="switching time (s)", title="half of the way to the farthest state"
    )
    if switched.any():
        axis.semilogy(np.abs(panels["amplitudes"])[switched], times[switched], "o-", color=SPICE)
        axis.yaxis.set_major_formatter(EngFormatter(sep=" "))
        few = times[switched].max() < 20 * times[switched].min()  # within a decade or so the small ticks need numbers
        axis.yaxis.set_minor_formatter(EngFormatter(sep=" ") if few else NullFormatter())
        axis.tick_params(axis="y", which="minor", labelsize=7)
        axis.xaxis.set_major_locator(MaxNLocator(6))
        low, high = np.abs(panels["amplitudes"]).min(), np.abs(panels["amplitudes"]).max()
        axis.set_xlim(low - 0.05 * (high - low + low), high + 0.05 * high)
    else:
        axis.text(0.5, 0.5, "no pulse switched the device", ha="center", transform=axis.transAxes, color=FAINT)
    axis.set_xlabel("height of the pulse, absolute (V)")
    return _save(figure, path)


def readings(
    path: Path,
    title: str,
    x: Floats,
    found: Mapping[str, tuple[Floats, Floats | None]],
    xlabel: str,
    engine: str,
    *,
    log: bool,
) -> Path:
    """Draw conductance readings in S, ``[reads]`` by preset, over time or pulse number; the twin's as crosses."""
    figure, axes = _figure(1, 1, (7.6, 4.0), title)
    axis = axes[0, 0]
    factor, unit = _scale([ours for ours, _ in found.values()], "S")
    for (label, (ours, twin)), color in zip(found.items(), _colors(len(found)), strict=True):
        axis.plot(
            x[: len(ours)], factor * ours, "o-", color=color, markersize=3.5, linewidth=1.0, label=f"{label}, {engine}"
        )
        if twin is not None:
            every = max(len(twin) // 25, 1)
            axis.plot(
                x[: len(twin)], factor * twin, "x", color=TWIN, markersize=6, markevery=every, label=f"{label}, twin"
            )
    axis.set(xlabel=xlabel, ylabel=f"conductance ({unit})")
    lowest = min(float(ours.min()) for ours, _ in found.values())
    if lowest > 0 and max(float(ours.max()) for ours, _ in found.values()) > 50 * lowest:
        axis.set_yscale("log")
    if log:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(EngFormatter(unit="s", sep=" "))
    _legend(axis)
    return _save(figure, path)


@dataclass(frozen=True, slots=True)
class FittedCurve:
    """One measured curve and its fit."""

    label: str
    time: Floats
    """In s."""
    voltage: Floats
    """In V."""
    measured: Floats
    """In A."""
    fitted: Floats
    """In A."""
    held_out: NDArray[np.bool_]
    """Points that the fit did not see."""


def fit(path: Path, title: str, curves: Sequence[FittedCurve], most: int = 4) -> Path:
    """Draw measured and fitted currents over voltage and over time, and what is left, in % of full scale."""
    shown = [curves[k] for k in np.unique(np.linspace(0, len(curves) - 1, min(most, len(curves))).round().astype(int))]
    figure, axes = _figure(len(shown), 3, (13.0, 2.9 * len(shown) + 0.7), title)
    full = max(float(np.abs(c.measured).max()) for c in curves)
    factor, unit = _scale([c.measured for c in curves], "A")
    scale, second = _scale([c.time for c in curves], "s")
    for row, curve in zip(axes, shown, strict=True):
        seen, time = ~curve.held_out, scale * curve.time
        for axis, x, label in ((row[0], curve.voltage, "voltage (V)"), (row[1], time, f"time ({second})")):
            axis.plot(
                x[seen], factor * curve.measured[seen], ".", color=SPICE, markersize=3, alpha=0.6, label="measured"
            )
            if curve.held_out.any():
                axis.plot(
                    x[curve.held_out], factor * curve.measured[curve.held_out], ".", color="#2ca02c", markersize=3, alpha=0.6,
                    label="measured, held out",
                )  # fmt: skip
            axis.plot(x, factor * curve.fitted, color=TWIN, linewidth=1.2, label="fitted")
            axis.set(xlabel=label, ylabel=f"current ({unit})")
        left = 100 * (curve.fitted - curve.measured) / full
        row[2].plot(time[seen], left[seen], ".", color=SPICE, markersize=3)
        row[2].plot(time[curve.held_out], left[curve.held_out], ".", color="#2ca02c", markersize=3)
        row[2].axhline(0.0, color=FAINT, linewidth=0.8)
        row[2].set(xlabel=f"time ({second})", ylabel="fit - measured\n(% of full scale)")
        row[0].set_title(curve.label, fontsize=9, loc="left")
    shown_legend = next((row for row, curve in zip(axes, shown, strict=True) if curve.held_out.any()), axes[0])
    handles, labels = shown_legend[0].get_legend_handles_labels()
    extra = axes[0][0].get_legend_handles_labels()
    both = dict(zip([*extra[1], *labels], [*extra[0], *handles], strict=True))
    figure.legend(
        both.values(), both.keys(), loc="outside lower center", ncols=3, frameon=False, markerscale=3, fontsize=9
    )
    return _save(figure, path)
