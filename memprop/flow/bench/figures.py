"""Figures of the bench: ratios as bars with their spread, costs as lines beside the straight one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from memprop.files import ensure_folder
from memprop.flow.bench.measure import median
from memprop.flow.bench.sheet import Row
from memprop.flow.bench.summary import Rows, exponent, forms, growth

COLORS = ("#1b6ca8", "#d95f02", "#4c9a52", "#8064a2", "#777777")
Curve = tuple[Sequence[float], Sequence[float]]


def draw(part: str, rows: Rows, path: Path) -> Path | None:
    """Draw the figure of a part; None where its rows have nothing to show yet.

    Raises
    ------
    OutputError: the folder cannot be written.
    """
    panels = [panel for panel in PANELS[part](rows) if panel is not None]
    if not panels:
        return None
    ensure_folder(path.parent)
    columns = min(2, len(panels))
    count = -(-len(panels) // columns)
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        figure = Figure(figsize=(5.6 * columns, 3.5 * count), layout="constrained")
        axes = figure.subplots(count, columns, squeeze=False).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            panel(axis)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        # Without the software tag the same picture is the same file.
        figure.savefig(path, dpi=120, metadata={"Software": None})
    return path


Panel = Callable[[Axes], None] | None


def _bars(title: str, label: str, entries: Sequence[tuple[str, Mapping[str, float]]], unit: float = 1.0) -> Panel:
    """Return bars of medians with whiskers from the lowest to the highest, on a logarithmic axis where they differ much."""
    entries = [(name, found) for name, found in entries if found]
    if not entries:
        return None

    def panel(axis: Axes) -> None:
        middle = unit * np.array([found["median"] for _, found in entries])
        low, high = (unit * np.array([found[key] for _, found in entries]) for key in ("low", "high"))
        places = np.arange(len(entries))[::-1]
        axis.barh(places, middle, color=COLORS[0], alpha=0.8, height=0.65)
        axis.errorbar(middle, places, xerr=[middle - low, high - middle], fmt="none", ecolor="black", capsize=2.5)
        log = unit == 1.0 and middle.max() > 20 * middle.min() > 0  # shares are read on an even axis
        if log:
            axis.set_xscale("log")
            axis.set_xlim(min(0.8, 0.5 * low.min()), high.max() * 6)
            axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        else:
            axis.set_xlim(0, high.max() * 1.25)
        for place, value, most in zip(places, middle, high, strict=True):
            axis.annotate(f"{value:.3g}", (most, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
        room = max(0, 4 - len(entries)) / 2  # few bars are no thicker than many
        axis.set_ylim(-0.6 - room, len(entries) - 0.4 + room)
        axis.set_yticks(places, [name for name, _ in entries])
        axis.set(xlabel=label, title=title)
        axis.grid(visible=True, axis="x", alpha=0.25)

    return panel


def _lines(title: str, x_label: str, y_label: str, curves: Mapping[str, Curve], *, flat: bool = False) -> Panel:
    """Return curves on logarithmic axes with the line of proportional growth; ``flat`` compares with none."""
    shown = {name: curve for name, curve in curves.items() if len(curve[0]) > 1}
    if not shown:
        return None

    def panel(axis: Axes) -> None:
        for color, (name, (x, y)) in zip(COLORS, shown.items(), strict=False):
            note = "" if flat or min(y) <= 0 else f", power {exponent(x, y):.2f}"
            axis.plot(x, y, "o-", color=color, markersize=4, label=f"{name}{note}")
        if not flat:
            for k, (x, y) in enumerate(shown.values()):
                guide = np.array([x[0], x[-1]], dtype=float)
                axis.plot(guide, y[-1] * guide / guide[-1], "--", color="0.6", linewidth=1, zorder=0,
                          label=None if k else "power 1")  # fmt: skip
            axis.set_yscale("log")
        else:
            axis.set_ylim(0, 1.3 * max(max(y) for _, y in shown.values()))
        axis.set_xscale("log")
        _ticks(
            axis,
            sorted({value for x, _ in shown.values() for value in x}),
            [v for _, y in shown.values() for v in y],
            flat,
        )
        axis.set(xlabel=x_label, ylabel=y_label, title=title)
        axis.grid(visible=True, alpha=0.25)
        axis.legend(frameon=False, fontsize=8)

    return panel


def _ticks(axis: Axes, x: Sequence[float], y: Sequence[float], flat: bool) -> None:
    """Put ticks at the measured sizes, and as many at the costs as their range needs."""
    axis.set_xticks(x, [f"{value:,.0f}" for value in x])
    axis.xaxis.set_minor_formatter(NullFormatter())
    if not flat:
        narrow = max(y) < 100 * min(y)
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if narrow else (1,), numticks=12))
        axis.yaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _grown(rows: Rows, over: str, key: str, cases: Sequence[str]) -> dict[str, Curve]:
    return {case: growth(rows, over, key, case) for case in cases}


def _twin(rows: Rows) -> list[Panel]:
    pairs = [row for row in rows if row["kind"] == "pair"]
    ratios = [(f"T {r['steps']}, B {r['batch']}\nN {r['neurons']}", r["ratios"]["eager/fused"]["wall"]) for r in pairs]
    names = (("arithmetic", "multiply-add"), ("divisions", "divisions"), ("memory", "memory"))
    shares = [
        (f"N {r['neurons']}, T {r['steps']}\n{label}", r["bound"][f"share_{key}"])
        for r in pairs[:2]
        for key, label in names
    ]
    kernels = ("fused", "eager")
    return [
        _bars("Fused against eager, forward and backward", "times faster, wall time", ratios),
        _bars("Fused kernel against the machine", "% of the measured peak", shares, 100.0),
        _lines("Population of MIF neurons", "neurons", "CPU time (s)", _grown(rows, "neurons", "neurons", kernels)),
        _lines("Length of a run", "time steps", "CPU time (s)", _grown(rows, "steps", "steps", kernels)),
    ]  # fmt: skip


def _training(rows: Rows) -> list[Panel]:
    steps = [
        (f"{r['network']}\nbatch {r['batch']}", r["ratios"]["eager/fused"]["wall"]) for r in rows if r["kind"] == "step"
    ]
    parts = next((row for row in rows if row["kind"] == "parts"), None)
    shares = [] if parts is None else list(parts["share_of_step"].items())
    title = "" if parts is None else f"Parts of a fused step, {parts['network']}"
    return [
        _bars("Training step, fused against eager", "times faster, wall time", steps),
        _bars(title, "% of the step", shares, 100.0),
    ]  # fmt: skip


def _spice(rows: Rows) -> list[Panel]:
    images = [row for row in rows if row["kind"] == "growth over images"]
    engines = list(dict.fromkeys(row["engine"] for row in images))
    each = {engine: [row for row in images if row["engine"] == engine] for engine in engines}
    neurons = sorted({case for row in rows if row["kind"] == "growth over neurons" for case in row["cases"]})
    memory = {
        engine: ([row["images"] for row in own], [(row["parent_peak_memory_bytes"] or 0) / 2**20 for row in own])
        for engine, own in each.items()
    }
    return [
        *(_form_bars(row) for row in forms(rows)),
        _lines("Images through the farm", "images", "CPU time (s)",
               {engine: growth(own, "images", "images", "all images") for engine, own in each.items()}),
        _lines("Memory of the calling process", "images", "peak (MiB)", memory, flat=True),
        _lines("Population, one image, reduced deck", "neurons", "CPU time (s)", _grown(rows, "neurons", "neurons", neurons)),
        _bars("Two workers against one", "times faster, wall time",
              [(row["engine"], row["ratios"]["1 workers/2 workers"]["wall"]) for row in rows if row["kind"] == "workers"]),
    ]  # fmt: skip


def _form_bars(row: Row) -> Panel:
    """Return the ratios to the slowest form of the first engine."""
    first = next(iter(row["ratios"])).split("/")[0]
    found: list[tuple[str, Any]] = [
        (pair.split("/")[1], ratio["cpu"]) for pair, ratio in row["ratios"].items() if pair.startswith(f"{first}/")
    ]
    return _bars(f"{row['network']}, against {first}", "times less CPU time per image", found)


def _crossbar(rows: Rows) -> list[Panel]:
    solvers = list(dict.fromkeys(case for row in rows for case in row["cases"]))
    square = [row for row in rows if row["rows"] == row["columns"]]
    curves: dict[str, Curve] = {}
    for solver in solvers:
        own = sorted((row for row in square if solver in row["cases"]), key=lambda row: row["nodes"])
        curves[solver] = [row["nodes"] for row in own], [median(row["cases"][solver], "cpu_s") for row in own]
    ratios = [
        (f"{row['rows']} x {row['columns']}\n{pair.split('/')[0]}", found["wall"])
        for row in rows
        for pair, found in row["ratios"].items()
    ]
    return [
        _lines("Square crossbars with wires", "nodes", "CPU time (s)", curves),
        _bars("memprop against general solvers", "times faster, wall time", ratios),
    ]  # fmt: skip


PANELS: Mapping[str, Callable[[Rows], list[Panel]]] = {
    "twin": _twin, "training": _training, "spice": _spice, "crossbar": _crossbar,
}  # fmt: skip
