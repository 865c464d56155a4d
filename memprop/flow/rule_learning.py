"""Train a rule in a run folder that can be interrupted and resumed; on twins of pairs, also measure and tell the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from memprop.conductance.pair import ConductanceRange
from memprop.conductance.write_back import WriteBack
from memprop.data.sets import Samples
from memprop.files import ensure_folder, write_json
from memprop.learn.rule import Rule
from memprop.learn.rule_training import RuleConfig, rule_accuracy, train_rule
from memprop.learn.training import History, Progress
from memprop.report.figures import training_curve
from memprop.report.progress import progress

CHECKPOINT, SUMMARY = "training.safetensors", "summary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSettings:
    """What the trainings of networks of conductance pairs have in common."""

    dataset: str
    epochs: int
    batch: int
    decay: float
    """Factor on the learning rates after each epoch."""
    validation: int = 5000
    shift: int = 0
    """Pixels by which training images move at most."""
    seed: int = 0
    window: ConductanceRange = field(default_factory=ConductanceRange)
    largest: float = 4.0
    """Weight of the widest pair."""
    levels: int | None = None
    noise: float = 0.0

    @property
    def unit(self) -> float:
        """Conductance in S of a weight of 1."""
        return self.window.span / self.largest

    def config(self, rates: Sequence[float], momentum: Sequence[float] = ()) -> RuleConfig:
        """Return the settings of plain gradient descent with these rates of weights, without unit.

        A weight changes by its rate where its conductance changes by rate x unit^2 per gradient by the conductance.
        """
        return RuleConfig(
            self.epochs, self.batch, tuple(rate * self.unit**2 for rate in rates), "sgd", tuple(momentum), self.decay,
            self.validation, self.seed, self.shift,
        )  # fmt: skip

    def write(self) -> WriteBack:
        """Return how pairs are written."""
        return WriteBack(self.window, self.levels, signed=True, noise=self.noise)


def random_chain(sizes: Sequence[int], gain: float, unit: float, seed: int, *, feedback: bool = False) -> list[Tensor]:
    """Return signed conductances in S of layers ``[inputs + 1, neurons]``: normal weights of ``gain`` sqrt(2 / inputs), no bias.

    ``feedback``: then come crossbars ``[neurons, classes]`` of all hidden layers, at random, as long as the product of those above.
    """
    rng = np.random.default_rng(seed)
    weights = [rng.normal(0.0, gain * np.sqrt(2.0 / rows), (rows, columns)) for rows, columns in pairwise(sizes)]
    product, back = np.eye(sizes[-1]), []
    for weight in reversed(weights[1:] if feedback else []):
        product = weight @ product
        drawn = rng.normal(size=product.shape)
        back.insert(0, drawn * np.linalg.norm(product) / np.linalg.norm(drawn))
    layers = [np.vstack([weight, np.zeros(weight.shape[1])]) for weight in weights]
    return [torch.from_numpy(unit * g) for g in (*layers, *back)]


def trained(
    rule: Rule, data: Samples, config: RuleConfig, write: WriteBack, run: Path, title: str, console: Console
) -> History:
    """Train under a bar, with the checkpoint in ``run``, and draw the training where samples were held out; see `train_rule`."""
    steps = -(-(len(data.train.labels) - config.validation) // config.batch)
    with progress(title, config.epochs * steps, console) as advance:

        def on_step(at: Progress) -> None:
            advance(f"epoch {at.epoch + 1}, loss {at.loss:.3f}", done=at.epoch * at.steps + at.step)

        history = train_rule(rule, data, config, write, ensure_folder(run) / CHECKPOINT, on_step)
    if history.validation:
        training_curve(run / "training.png", history.loss, history.validation, history.best)
    return history


def learn_on_twin(
    rule: Rule, data: Samples, config: RuleConfig, settings: PairSettings, run: Path, console: Console,
    more: Callable[[], Mapping[str, Any]] = dict,
) -> dict[str, Any]:  # fmt: skip
    """Train, write summary and figure into ``run``, print a table, return the summary; ``more`` tells what else is worth a line.

    Raises
    ------
    InputError: settings and data do not fit.
    CheckpointError: ``run`` holds another training.
    """
    history = trained(rule, data, config, settings.write(), run, "learning on the twin", console)
    summary = {
        "rule": rule.name, "needs": asdict(rule.needs), "dataset": data.name,
        "crossbars": [list(g.shape) for g in rule.conductances], "twin_accuracy": rule_accuracy(rule, data),
        "twin_images": len(data.test.labels), "history": asdict(history), "more": dict(more()),
        "settings": asdict(settings),
        "versions": {"memprop": version("memprop"), "torch": torch.__version__},
    }  # fmt: skip
    write_json(run / SUMMARY, summary)
    table = Table("what", "found", title=f"{rule.name}, {data.name}")
    table.add_row("crossbars", ", ".join(" x ".join(map(str, shape)) for shape in summary["crossbars"]))
    table.add_row("trained on the twin", f"{len(history.loss)} epochs, {sum(history.seconds):.0f} s")
    if history.validation:
        table.add_row("best on samples held out", f"{100 * max(history.validation):.2f} %")
    table.add_row(f"all {summary['twin_images']} test samples", f"{100 * summary['twin_accuracy']:.2f} %")
    for name, value in summary["more"].items():
        table.add_row(name, str(value))
    console.print(table)
    console.print(
        f"summary{' and figure' if history.validation else ''}: {run}", soft_wrap=True, markup=False, highlight=False
    )
    return summary
