"""What `memprop learn eqspike` does: train a spiking network by EqSpike on its twin, and measure the accuracy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from memprop.conductance.pair import ConductanceRange
from memprop.conductance.write_back import WriteBack
from memprop.data.sets import Images, load
from memprop.files import ensure_folder, write_json
from memprop.learn.eqspike import EqSpike
from memprop.learn.rule_training import RuleConfig, rule_accuracy, train_rule
from memprop.learn.training import History, Progress
from memprop.report.figures import training_curve
from memprop.report.progress import progress
from memprop.twin.eqspike import SpikingDynamics

CHECKPOINT, SUMMARY = "training.safetensors", "summary.json"


@dataclass(frozen=True, slots=True)
class EqSpikeSettings:
    """A network, its task and its training. Learning rates are those of weights, without unit."""

    dataset: str
    hidden: int
    epochs: int
    batch: int = 10
    rates: tuple[float, float] = (0.1, 0.05)
    decay: float = 0.84
    validation: int = 5000
    seed: int = 0
    nudge: float = 0.5
    lengths: tuple[int, int] = (100, 60)
    dynamics: SpikingDynamics = field(default_factory=SpikingDynamics)
    window: ConductanceRange = field(default_factory=ConductanceRange)
    largest: float = 4.0
    """Weight of the widest pair."""
    bias: float = 0.1
    """Bias of the outputs in the beginning: without it they are silent, and the silent do not learn."""
    levels: int | None = None
    noise: float = 0.0


PRESETS: Mapping[str, EqSpikeSettings] = {
    "digits": EqSpikeSettings("digits", 64, 20, validation=140),
    "mnist": EqSpikeSettings("mnist", 300, 20),
    "fashion": EqSpikeSettings("fashion", 300, 20),
}


def fresh_conductances(settings: EqSpikeSettings, data: Images) -> list[Tensor]:
    """Return signed conductances in S, random but for the rows of bias, from the seed of the settings."""
    rng = np.random.default_rng(settings.seed)
    sizes, unit = (data.rows, settings.hidden, data.classes), unit_of(settings)
    found = []
    for k, bias in enumerate((0.0, settings.bias)):
        widest = 1.0 / np.sqrt(sizes[k])
        weights = rng.uniform(-widest, widest, (sizes[k], sizes[k + 1]))
        found.append(torch.from_numpy(unit * np.vstack([weights, np.full(sizes[k + 1], bias)])))
    return found


def unit_of(settings: EqSpikeSettings) -> float:
    """Return the conductance in S of a weight of 1."""
    return settings.window.span / settings.largest


def learn_eqspike(settings: EqSpikeSettings, run: Path, console: Console) -> dict[str, Any]:
    """Train on the twin, write summary and figure into ``run``, print a table, return the summary.

    Raises
    ------
    InputError: settings and data do not fit.
    CheckpointError: ``run`` holds another training.
    """
    data, unit = load(settings.dataset), unit_of(settings)
    rule = EqSpike(
        fresh_conductances(settings, data),
        unit,
        nudge=settings.nudge,
        lengths=settings.lengths,
        dynamics=settings.dynamics,
    )
    history = _trained(rule, settings, data, ensure_folder(run), unit, console)
    summary = {
        "rule": rule.name, "needs": asdict(rule.needs), "dataset": settings.dataset,
        "sizes": [data.rows, settings.hidden, data.classes], "twin_accuracy": rule_accuracy(rule, data),
        "twin_images": len(data.test.labels), "history": asdict(history),
        "at_the_edge": [float((g.abs() >= settings.window.span).double().mean()) for g in rule.conductances],
        "settings": json.loads(json.dumps(asdict(settings))),
        "versions": {"memprop": version("memprop"), "torch": torch.__version__},
    }  # fmt: skip
    write_json(run / SUMMARY, summary)
    if history.validation:
        training_curve(run / "training.png", history.loss, history.validation, history.best)
    _say(summary, run, console)
    return summary


def _trained(
    rule: EqSpike, settings: EqSpikeSettings, data: Images, run: Path, unit: float, console: Console
) -> History:
    # Plain descent of conductances: a weight changes by its rate where the conductance changes by rate x unit^2 per gradient.
    rates = tuple(rate * unit**2 for rate in settings.rates)
    config = RuleConfig(
        settings.epochs, settings.batch, rates, "sgd", settings.decay, settings.validation, settings.seed
    )
    steps = -(-(len(data.train.labels) - config.validation) // config.batch)
    with progress("learning on the twin", config.epochs * steps, console) as advance:

        def on_step(at: Progress) -> None:
            advance(f"epoch {at.epoch + 1}, loss {at.loss:.3f}", done=at.epoch * at.steps + at.step)

        write = WriteBack(settings.window, settings.levels, signed=True, noise=settings.noise)
        return train_rule(rule, data, config, write, run / CHECKPOINT, on_step)


def _say(summary: Mapping[str, Any], run: Path, console: Console) -> None:
    table = Table(
        "what", "found", title=f"{summary['rule']}, {'-'.join(map(str, summary['sizes']))}, {summary['dataset']}"
    )
    history = summary["history"]
    table.add_row("trained", f"on the twin, {len(history['loss'])} epochs, {sum(history['seconds']):.0f} s")
    if history["validation"]:
        table.add_row("best on samples held out", f"{100 * max(history['validation']):.2f} %")
    table.add_row(f"twin, all {summary['twin_images']} test samples", f"{100 * summary['twin_accuracy']:.2f} %")
    console.print(table)
    console.print(f"summary and figure: {run}", soft_wrap=True, markup=False, highlight=False)
