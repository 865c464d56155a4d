"""What `memprop fit-cell --learned` does: learn a twin from waveforms alone, judge it, and store both together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from memprop.circuit.cell import Cell
from memprop.errors import InputError
from memprop.files import ensure_folder, write_json
from memprop.flow.cell_decks import ROOM_TEMPERATURE
from memprop.flow.fit_cell import (
    TwinReport,
    check_version,
    gradients,
    judge,
    long_waveforms,
    page_of,
    report_record,
    say_report,
    timed,
    waveforms_record,
)
from memprop.report.twin_figures import draw_page
from memprop.twin.fitted import FIT, FORMAT, LEARNED
from memprop.twin.fitting.metrics import SpikeRule, drift_of, spike_errors, usual_rule
from memprop.twin.fitting.predict import predict, sampled
from memprop.twin.fitting.waveforms import CellWaveforms
from memprop.twin.learned.files import save_model
from memprop.twin.learned.training import LearnedSettings, sequences, spans_of, train
from memprop.twin.learned.twin import LearnedModel, LearnedTwin
from memprop.twin.population import FOLDER

Floats = NDArray[np.float64]
TRAINING = "training"


@dataclass(frozen=True, slots=True)
class FitLearnedSettings:
    """How a twin is learned and judged."""

    training: LearnedSettings = field(default_factory=LearnedSettings)
    dt: float | None = None
    """Step at which the twin is judged, in s; default two steps of the waveforms."""
    rule: SpikeRule | None = None
    engine: str | None = "ngspice"
    """Engine of the long runs and of the time; None: neither is measured."""
    long_runs: int = 16
    timed_runs: int = 3
    workers: int | None = None


def learn_cell(
    waveforms: CellWaveforms, cell: Cell, settings: LearnedSettings, say: Callable[[str], None] = lambda _: None,
    folder: Path | None = None,
) -> LearnedModel:  # fmt: skip
    """Return a model of the cell, learned from the runs ``fit``; no errors are in it yet.

    Finished parts of the training are kept in ``folder``.

    Raises
    ------
    InputError: no node besides the membrane is recorded, or the waveforms are of another cell, or of cells that differ.
    TrainingError: the loss became no number.
    """
    _check(waveforms, cell)
    fit = waveforms.part("fit")
    rest, span = _box(fit)
    parts = [
        sequences(_states(part), part.current, part.step, rest, span) for part in (fit, waveforms.part("validation"))
    ]
    weights = train(parts[0], parts[1], settings, say, folder)
    return model_of(waveforms, cell, settings, weights)


def model_of(waveforms: CellWaveforms, cell: Cell, settings: LearnedSettings, weights: Any) -> LearnedModel:
    """Return the model of weights that were learned from the runs ``fit`` of waveforms."""
    fit = waveforms.part("fit")
    (rest, span), step = _box(fit), fit.step / settings.parts
    return LearnedModel(
        cell.name, cell.digest, ("mem", *fit.state_names), tuple(map(float, rest)), tuple(map(float, span)),
        (step, step), (float(fit.current.min()), float(fit.current.max())),
        (float(fit.mem.min()), float(fit.mem.max())), weights, {},
    )  # fmt: skip


def _check(waveforms: CellWaveforms, cell: Cell) -> None:
    check_version(waveforms, cell)
    if waveforms.parameters or np.any(waveforms.temperatures != ROOM_TEMPERATURE):
        raise InputError(
            f"waveforms of cell {cell.name} have parameters that differ from run to run, or another temperature than "
            f"{ROOM_TEMPERATURE:g} degrees Celsius; a learned twin knows one cell at that one. Characterise it without --spread and "
            "--temperatures."
        )


def _box(fit: CellWaveforms) -> tuple[Floats, Floats]:
    """Return the states at rest and the spans in V, ``[S]``, of what is learned from."""
    rest = np.round(_states(fit)[:, :, 0].mean(1), 6) + 0.0  # simulators are no better; so that no noise is in files
    return rest, spans_of(_states(fit), rest)


def _states(waveforms: CellWaveforms) -> Floats:
    """Return membrane and other nodes in V, ``[S, run, T + 1]``."""
    return np.concatenate([waveforms.mem[None], waveforms.states])


def fit_learned(
    cell: Cell, waveforms: CellWaveforms, settings: FitLearnedSettings, out: Path | None, console: Console
) -> LearnedTwin:
    """Learn a twin of a cell, judge it on runs held out, write it with fit.json and one page, and print the table.

    Raises
    ------
    InputError, TrainingError: see `learn_cell`.
    """
    console.print(f"{cell.name}: learning from {waveforms.part('fit').runs} runs", highlight=False)
    folder = _home(cell, out)
    say = partial(console.print, highlight=False)
    model = learn_cell(waveforms, cell, settings.training, say, folder / TRAINING)
    return judge_learned(model, cell, waveforms, settings, folder, console)


def _home(cell: Cell, out: Path | None) -> Path:
    return ensure_folder(out or Path("runs") / cell.name / "learned")


def judge_learned(
    model: LearnedModel, cell: Cell, waveforms: CellWaveforms, settings: FitLearnedSettings, out: Path | None, console: Console,
    long: CellWaveforms | None = None,
) -> LearnedTwin:  # fmt: skip
    """Judge a model on runs held out and on long ones; write it with its errors, fit.json and one page, and print the table.

    ``long`` are waveforms of long runs; None: the engine of the settings makes some.
    """
    dt = settings.dt or 2 * waveforms.step
    twin = LearnedTwin(1, dt, model=model, cell=cell, dtype=torch.float64)
    report, found, true = judge(twin, waveforms, settings.rule)
    errors = _errors(report, waveforms)
    half, _, _ = judge(LearnedTwin(1, dt / 2, model=model, cell=cell, dtype=torch.float64), waveforms, settings.rule)
    errors["normalised_rms_at_half_the_step"] = half.held_out.normalised
    folder = _home(cell, out)
    if long is None and settings.engine is not None:
        long = long_waveforms(cell, waveforms, settings.long_runs, settings.engine, settings.workers, folder, console)
    if long is not None:
        drift, more = long_errors(twin, long, settings.rule or usual_rule(waveforms.mem))
        report, errors = replace(report, **drift), errors | more
    if settings.engine is not None:
        report = replace(report, **timed(twin, cell, waveforms, settings.engine, settings.timed_runs))
        report = replace(report, gradient=gradients(cell, model, report, waveforms, settings.engine, settings.workers))
    model = replace(model, errors=errors)
    save_model(model, folder / FOLDER)
    write_json(folder / FIT, _record(model, report, waveforms))
    title = f"{cell.name}: learned twin at {dt * 1e6:g} us, from waveforms of {waveforms.data.attrs['engine']}"
    draw_page(folder / "learned.png", page_of(title, waveforms, found, true, report))
    say_report(report, console)
    for name, value in errors.items():
        console.print(f"{name}: {value:.4g}", highlight=False)
    console.print(f"twin: {folder / FOLDER}   page: {folder / 'learned.png'}", soft_wrap=True, markup=False)
    return LearnedTwin(1, dt, model=model, cell=cell, dtype=torch.float64)


def _errors(report: TwinReport, waveforms: CellWaveforms) -> dict[str, float]:
    spikes = report.spikes
    return {
        "dt": report.dt, "normalised_rms": report.held_out.normalised, "rms": report.held_out.rms,
        "runs": float(waveforms.part("held_out").runs), "spikes": float(spikes.true), "missed": float(spikes.missed),
        "extra": float(spikes.extra), **_intervals(spikes.relative, ""),
    }  # fmt: skip


def _intervals(relative: Floats, prefix: str) -> dict[str, float]:
    """Return how far spikes are off, over the time since the spike before."""
    if not len(relative):
        return {}
    off = np.abs(relative)
    return {
        f"{prefix}spike_time_median": float(np.median(off)),
        f"{prefix}spike_time_90_percent": float(np.quantile(off, 0.9)),
    }


def long_errors(twin: LearnedTwin, runs: CellWaveforms, rule: SpikeRule) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the entries of a report, and errors by name, of long runs under a twin of one cell."""
    current, true = sampled(runs, twin.dt)
    found = predict(twin, current)
    grid = np.linspace(0.0, float(runs.time[-1]), true.shape[1])
    spikes = spike_errors(runs, found, grid, rule)
    drift = tuple(map(float, drift_of(found, true)))
    errors = {
        "long_duration": float(runs.time[-1]), "long_runs": float(runs.runs), "long_spikes": float(spikes.true),
        "long_missed": float(spikes.missed), "long_extra": float(spikes.extra), **_intervals(spikes.relative, "long_"),
        "long_normalised_rms": float(np.sqrt(((found - true) ** 2).mean()) / np.ptp(true)),
    }  # fmt: skip
    return {"drift": drift, "drift_duration": float(runs.time[-1])}, errors


def _record(model: LearnedModel, report: TwinReport, waveforms: CellWaveforms) -> dict[str, Any]:
    return {
        "format": FORMAT, "kind": LEARNED, "cell": model.cell, "cell_sha256": model.cell_sha256, "dt": report.dt,
        "states": list(model.states), "weights": sum(w.numel() for w in model.weights), "range": asdict(report.range),
        "report": report_record(report), "errors": dict(model.errors),
        "waveforms": waveforms_record(waveforms),
        "versions": {"memprop": version("memprop"), "torch": torch.__version__, "numpy": np.__version__},
    }  # fmt: skip
