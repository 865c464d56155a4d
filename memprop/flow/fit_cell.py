"""What `memprop fit-cell` does: fit a cell's equations to waveforms, judge the twin, and store both together."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from memprop.circuit.cell import Cell
from memprop.errors import InputError
from memprop.files import ensure_folder, write_json
from memprop.flow.cell_decks import cell_deck
from memprop.flow.characterise import FINER, CharacteriseSettings, characterise
from memprop.flow.fit_gradient import SIZES, gradient_of
from memprop.flow.gradient import Comparison
from memprop.flow.stimuli import Drive, rise_of
from memprop.report.twin_figures import TwinPage, draw_page
from memprop.spice.engine import make_engine
from memprop.twin.cell import CellTwin
from memprop.twin.fitted import FIT, FORMAT, GREY_BOX, Fitted, load_fit
from memprop.twin.fitting.grey_box import GreyBoxFit, fit_parameters
from memprop.twin.fitting.metrics import (
    Errors,
    SpikeErrors,
    SpikeRule,
    drift_of,
    error_table,
    range_of,
    spike_errors,
    usual_rule,
)
from memprop.twin.fitting.predict import TwinOfCells, predict, sampled
from memprop.twin.fitting.waveforms import CellWaveforms
from memprop.twin.learned.twin import LearnedModel
from memprop.twin.ranges import Range

Floats = NDArray[np.float64]
LONGER = 10
"""Length of the runs that show drift, in runs of the fit."""


@dataclass(frozen=True, slots=True)
class TwinReport:
    """What a twin is worth against waveforms; any twin, fitted or learned."""

    dt: float
    """Step of the twin in s."""
    errors: tuple[Errors, ...]
    spikes: SpikeErrors
    """Of the runs held out."""
    range: Range
    """Of the runs of the fit."""
    drift: tuple[float, ...] = ()
    """Rms error in V of each tenth of long runs."""
    drift_duration: float = 0.0
    """Length of these runs in s."""
    ratio: float = 0.0
    """Time of the engine over that of the twin, per run; 0: not measured."""
    ratio_single: float = 0.0
    """The same, where the twin takes one run at a time."""
    gradient: tuple[Comparison, ...] = ()
    """Gradient of a small network against differences in the engine, crossbar by crossbar; empty: not measured."""

    @property
    def held_out(self) -> Errors:
        """Errors of the runs held out."""
        return next(e for e in self.errors if e.label == "held_out")


def judge(
    twin: TwinOfCells, waveforms: CellWaveforms, rule: SpikeRule | None = None
) -> tuple[TwinReport, Floats, Floats]:
    """Return the report of a twin, and the membranes in V that it and the engine have at its steps, ``[run, T + 1]``.

    The twin has one cell, or one per run. It starts from rest and has nothing but the currents.
    """
    current, true = sampled(waveforms, twin.dt)
    found = predict(twin, current)
    held = np.flatnonzero(waveforms.splits == "held_out")
    grid = np.linspace(0.0, float(waveforms.time[-1]), true.shape[1])
    part = waveforms.take(held)
    spikes = spike_errors(part, found[held], grid, rule or usual_rule(waveforms.mem))
    return (
        TwinReport(twin.dt, tuple(error_table(waveforms, found, true)), spikes, range_of(waveforms.part("fit"))),
        found,
        true,
    )


@dataclass(frozen=True, slots=True)
class FitCellSettings:
    """How a cell is fitted and judged."""

    dt: float | None = None
    """Step of the twin in s; default that of the waveforms' corners."""
    free: tuple[str, ...] | None = None
    """Parameters to fit; default all of the card."""
    rule: SpikeRule | None = None
    engine: str | None = "ngspice"
    """Engine of the long runs and of the time; None: neither is measured."""
    long_runs: int = 10
    timed_runs: int = 3
    workers: int | None = None
    fallback: Drive | None = field(default=None)
    """Drive of the long runs; default the range of the waveforms."""


def fit_cell(
    cell: Cell, waveforms: CellWaveforms, settings: FitCellSettings, out: Path | None, console: Console
) -> GreyBoxFit:
    """Fit a cell to the split ``fit``, judge it on the others, write fit.json and one page, and print the table.

    Raises
    ------
    InputError: see `fit_parameters`; or the waveforms are of another version of the cell.
    """
    check_version(waveforms, cell)
    dt = settings.dt or waveforms.step * FINER
    found = fit_parameters(waveforms.part("fit"), cell, settings.free, dt)
    before, nominal, _ = judge(_nominal(cell, waveforms, dt), waveforms, settings.rule)
    after, fitted, true = judge(found.twin(waveforms), waveforms, settings.rule)
    folder = ensure_folder(out or Path("runs") / cell.name / "fit")
    if settings.engine is not None:
        values = {name: float(v[0]) for name, v in found.values.items()}
        twin = CellTwin(1, dt, cell=cell, parameters=values, dtype=torch.float64)
        after = replace(after, **_drift(twin, cell, waveforms, settings, folder, console))
        after = replace(after, **timed(twin, cell, waveforms, settings.engine, settings.timed_runs))
    write_json(folder / FIT, record(found, before, after, waveforms))
    if settings.engine is not None:
        after = replace(
            after, gradient=gradients(cell, load_fit(folder), after, waveforms, settings.engine, settings.workers)
        )
        write_json(folder / FIT, record(found, before, after, waveforms))
    page = page_of(f"{cell.name}: grey box at {dt * 1e6:g} us, fitted to {waveforms.data.attrs['engine']}",
                   waveforms, fitted, true, after, nominal)  # fmt: skip
    draw_page(folder / "fit.png", page)
    say(found, before, after, console)
    console.print(f"fit: {folder / FIT}   page: {folder / 'fit.png'}", soft_wrap=True, markup=False)
    return found


def _nominal(cell: Cell, waveforms: CellWaveforms, dt: float) -> CellTwin:
    return CellTwin(waveforms.runs, dt, cell=cell, parameters=waveforms.parameters, dtype=torch.float64)


def check_version(waveforms: CellWaveforms, cell: Cell) -> None:
    """Raise InputError unless waveforms were made of this version of the cell."""
    if waveforms.data.attrs["cell_sha256"] != cell.digest:
        raise InputError(
            f"waveforms were made of another version of cell {cell.name}: its netlist or a device changed. "
            "Make them again with `memprop characterise`."
        )


def long_waveforms(
    cell: Cell, waveforms: CellWaveforms, runs: int, engine: str, workers: int | None, folder: Path, console: Console,
    drive: Drive | None = None,
) -> CellWaveforms:  # fmt: skip
    """Return waveforms of runs ten times as long, under currents of the range of ``waveforms`` or under another drive."""
    corners, stop = (len(waveforms.time) - 1) // FINER, float(waveforms.time[-1])
    known = range_of(waveforms.part("fit")).current
    wanted = drive or Drive(*known, stop * LONGER, rise_of(cell, stop), corners * LONGER)
    return characterise(
        cell, CharacteriseSettings(wanted, max(3, runs), seed=1000, workers=workers), engine, folder / "long", console
    )


def _drift(
    twin: CellTwin, cell: Cell, waveforms: CellWaveforms, settings: FitCellSettings, folder: Path, console: Console
) -> dict[str, Any]:
    """Return the drift of a twin of one cell on long runs, its state predicted all along."""
    runs = long_waveforms(
        cell, waveforms, settings.long_runs, settings.engine or "ngspice", settings.workers, folder, console, settings.fallback
    )  # fmt: skip
    current, true = sampled(runs, twin.dt)
    drift = tuple(map(float, drift_of(predict(twin, current), true)))
    return {"drift": drift, "drift_duration": float(runs.time[-1])}


def timed(twin: TwinOfCells, cell: Cell, waveforms: CellWaveforms, engine_name: str, most: int) -> dict[str, float]:
    """Return how many times longer the engine takes than a twin of one cell, both run by turns here: on all runs, and on one."""
    part = waveforms.take(np.flatnonzero(waveforms.splits == "held_out")[: max(1, most)])
    current, _ = sampled(waveforms, twin.dt)
    predict(twin, current)  # a kernel may have to be built
    many, one = [], []
    with closing(make_engine(engine_name)) as engine:
        for k in range(part.runs):
            given = {name: float(v[k]) for name, v in part.parameters.items()}
            corners = part.current[k : k + 1, ::FINER]
            deck = cell_deck(cell, part.time[::FINER], corners, [given], part.data.attrs["max_step"])
            spice = _seconds(lambda deck=deck: engine.run(deck))
            many.append(spice * len(current) / _seconds(lambda: predict(twin, current)))
            one.append(spice / _seconds(lambda: predict(twin, current[:1])))
    return {"ratio": float(np.median(many)), "ratio_single": float(np.median(one))}


def gradients(
    cell: Cell,
    fit: Fitted | LearnedModel,
    report: TwinReport,
    waveforms: CellWaveforms,
    engine_name: str,
    workers: int | None,
) -> tuple[Comparison, ...]:
    """Return what the gradient of a small network of fitted twins is worth, crossbar by crossbar."""
    duration = float(waveforms.time[-1])
    with closing(make_engine(engine_name)) as engine:
        return tuple(gradient_of(cell, fit, report.range, report.dt, duration, engine, workers=workers))


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def record(found: GreyBoxFit, before: TwinReport, after: TwinReport, waveforms: CellWaveforms) -> dict[str, Any]:
    """Return what fit.json holds: parameters, errors, range and versions."""
    attrs = waveforms.data.attrs
    parameters = {
        name: {
            "value": float(found.values[name][0]), "unit": found.cell.card.parameters[name].unit,
            "factor": float(found.factors[0, k]), "relative_error": found.knowledge[0][k].error,
            "known": found.knowledge[0][k].known, "reason": found.knowledge[0][k].reason,
        }
        for k, name in enumerate(found.free)
    }  # fmt: skip
    return {
        "format": FORMAT, "kind": GREY_BOX, "cell": found.cell.name, "cell_sha256": attrs["cell_sha256"], "dt": found.dt,
        "parameters": parameters, "range": asdict(after.range), "report": report_record(after), "nominal": report_record(before),
        "waveforms": waveforms_record(waveforms),
        "versions": {"memprop": version("memprop"), "torch": torch.__version__, "numpy": np.__version__},
    }  # fmt: skip


def waveforms_record(waveforms: CellWaveforms) -> dict[str, Any]:
    """Return where a fit's waveforms came from, and what their runs were like."""
    attrs, corners = waveforms.data.attrs, (len(waveforms.time) - 1) // FINER
    return {
        "engine": attrs["engine"], "seed": int(attrs["seed"]), "runs": waveforms.runs, "duration": float(waveforms.time[-1]),
        "corners": corners,
    }  # fmt: skip


def report_record(report: TwinReport) -> dict[str, Any]:
    """Return a report as plain values in SI units."""
    spikes = report.spikes
    return {
        "errors": [asdict(e) for e in report.errors],
        "spikes": {
            "kind": spikes.rule.kind, "level": spikes.rule.level, "true": spikes.true, "missed": spikes.missed, "extra": spikes.extra,
            "time_rms": spikes.typical, "time_worst": spikes.worst,
            "relative_worst": float(np.abs(spikes.relative).max(initial=0.0)),
        },
        "gradient": [
            {"crossbar": g.projection, "cosine": g.cosine, "norm_ratio": g.norm_ratio, "worst": g.worst} for g in report.gradient
        ],
        "drift": list(report.drift), "drift_duration": report.drift_duration,
        "times_faster_all_runs": report.ratio, "times_faster_one_run": report.ratio_single,
    }  # fmt: skip


def page_of(
    title: str, waveforms: CellWaveforms, found: Floats, true: Floats, report: TwinReport, nominal: Floats | None = None
) -> TwinPage:
    """Return the page of figures of a twin: membranes ``found`` of the twin and ``true`` ones in V, ``[run, T + 1]``."""
    held = np.flatnonzero(waveforms.splits == "held_out")
    rms = np.sqrt(((found - true) ** 2).mean(1))
    order = held[np.argsort(rms[held], kind="stable")]
    shown = order[[len(order) // 2, -min(2, len(order)), -1]]
    grid = np.linspace(0.0, float(waveforms.time[-1]), true.shape[1])
    labels = [
        f"{name} {waveforms.stimuli[k]}" for name, k in zip(("median:", "second worst:", "worst:"), shown, strict=True)
    ]
    return TwinPage(
        title, grid, found[shown], true[shown], tuple(labels), rms, tuple(map(str, waveforms.stimuli)), waveforms.splits == "held_out",
        report.spikes.late, np.array(report.drift), report.drift_duration, waveforms.current[held], waveforms.mem[held],
        (report.range.current, report.range.mem), None if nominal is None else np.sqrt(((nominal - true) ** 2).mean(1)),
    )  # fmt: skip


def say(found: GreyBoxFit, before: TwinReport, after: TwinReport, console: Console) -> None:
    """Print parameters, errors with and without the fit, and what cannot be known."""
    table = Table("parameter", "card", "fitted", "unit", "standard error", "known", title=found.cell.name,
                  title_justify="left")  # fmt: skip
    for k, name in enumerate(found.free):
        p, known = found.cell.card.parameters[name], found.knowledge[0][k]
        verdict = "[green]yes[/]" if known.known else "[bold red]NO[/]"
        table.add_row(
            name, f"{p.default:.6g}", f"{found.values[name][0]:.6g}", p.unit, f"{100 * known.error:.2g} %", verdict
        )
    console.print(table)
    for _, name, reason in found.unknown():
        console.print(f"[bold yellow]NOT identifiable[/] {name}: {escape(reason)}.", highlight=False, soft_wrap=True)
    say_report(after, console, before)
    seen = {e.label: (e.rms, b.rms) for e, b in zip(after.errors, before.errors, strict=True)}
    fitted, card = seen.get("validation", (0.0, 0.0))
    if fitted > card:
        console.print(
            f"[bold yellow]the fit is no gain[/]: {1e3 * fitted:.3g} mV rms on the runs of validation, {1e3 * card:.3g} mV with the card. "
            "Keep the card's values, or take a smaller step or range.", highlight=False, soft_wrap=True,
        )  # fmt: skip


def say_report(after: TwinReport, console: Console, before: TwinReport | None = None) -> None:
    """Print the table of a report, of any twin."""
    table = Table("runs", "number", "rms", "peak", "of range", *(["rms, card"] if before else []), title_justify="left",
                  title=f"twin at {after.dt * 1e6:g} us against SPICE")  # fmt: skip
    for k, e in enumerate(after.errors):
        row = [e.label, str(e.runs), f"{1e3 * e.rms:.3g} mV", f"{1e3 * e.peak:.3g} mV", f"{100 * e.normalised:.2g} %"]
        table.add_row(*row, *([f"{1e3 * before.errors[k].rms:.3g} mV"] if before else []))
    console.print(table)
    s = after.spikes
    console.print(
        f"spikes held out ({s.rule.kind}, {s.rule.level:.3g} V): {s.true}, missed {s.missed}, extra {s.extra}; time off by "
        f"{1e9 * s.typical:.3g} ns rms, {1e9 * s.worst:.3g} ns at most", highlight=False,
    )  # fmt: skip
    r = after.range
    console.print(
        f"range: {r.current[0]:.3g} to {r.current[1]:.3g} A, membranes {r.mem[0]:.3g} to {r.mem[1]:.3g} V",
        highlight=False,
    )
    if after.drift:
        console.print(
            f"runs of {after.drift_duration:g} s: {1e3 * after.drift[0]:.3g} mV rms at first, {1e3 * after.drift[-1]:.3g} at last",
            highlight=False,
        )
    if after.gradient:
        parts = ", ".join(f"cosine {g.cosine:.5f} norm x {g.norm_ratio:.3g}" for g in after.gradient)
        sizes = "-".join(map(str, SIZES))
        console.print(f"gradient of a {sizes} network against differences in SPICE: {parts}", highlight=False)
    if after.ratio:
        console.print(
            f"twin {after.ratio:.0f} times faster than SPICE on all runs at once, {after.ratio_single:.1f} on one",
            highlight=False,
        )


def parse_rule(text: str | None) -> SpikeRule | None:
    """Return the rule of ``peaks:0.02`` or ``crossings:1.0``; None of None.

    Raises
    ------
    InputError: it is neither.
    """
    if text is None:
        return None
    kind, _, level = text.partition(":")
    try:
        return SpikeRule(kind, float(level))
    except ValueError as error:
        raise InputError(f"spikes '{text}': give peaks:PROMINENCE or crossings:LEVEL in V, e.g. peaks:0.02.") from error
