"""What `memprop learn biograd` does: train a spiking network by BioGrad on its twin; the feedback learns in sleep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from memprop.conductance.pair import ConductanceRange
from memprop.conductance.write_back import WriteBack
from memprop.data.sets import Images, load
from memprop.flow.twin_learning import learn_on_twin
from memprop.learn.biograd import BioGrad
from memprop.learn.rule_training import RuleConfig
from memprop.twin.biograd import BioGradNeuron


@dataclass(frozen=True, slots=True)
class BioGradSettings:
    """A network, its task and its training. Learning rates are those of weights, without unit."""

    dataset: str
    hidden: tuple[int, ...]
    epochs: int
    batch: int = 128
    rates: tuple[float, float, float] = (5e-4, 1.5e-3, 1e-4 / 6)
    """Of hidden crossbars, of the last one, and of the feedback; the hidden rate times the feedback decides."""
    momentum: float = 0.9
    """Of all crossbars but the feedback."""
    decay: float = 0.9
    validation: int = 5000
    shift: int = 1
    """Pixels by which training images move at most."""
    seed: int = 0
    steps: int = 20
    start: int = 5
    shown: int = 20
    neuron: BioGradNeuron = field(default_factory=BioGradNeuron)
    window: ConductanceRange = field(default_factory=ConductanceRange)
    largest: float = 4.0
    """Weight of the widest pair."""
    levels: int | None = None
    noise: float = 0.0


PRESETS: Mapping[str, BioGradSettings] = {
    "digits": BioGradSettings("digits", (64,), 40, batch=32, validation=140, shift=0, decay=0.95),
    "mnist": BioGradSettings("mnist", (500, 100), 30),
    "fashion": BioGradSettings("fashion", (500, 100), 30),
}


def fresh_crossbars(settings: BioGradSettings, data: Images) -> list[Tensor]:
    """Return signed conductances in S: normal weights, no bias, and feedback at random, as long as the product that it stands for."""
    rng, unit = np.random.default_rng(settings.seed), settings.window.span / settings.largest
    sizes = (data.rows, *settings.hidden, data.classes)
    weights = [rng.normal(0.0, 0.5 * np.sqrt(2.0 / rows), (rows, columns)) for rows, columns in pairwise(sizes)]
    product, feedback = np.eye(data.classes), []
    for weight in reversed(weights[1:]):
        product = weight @ product
        drawn = rng.normal(size=product.shape)
        feedback.insert(0, drawn * np.linalg.norm(product) / np.linalg.norm(drawn))
    layers = [np.vstack([weight, np.zeros(weight.shape[1])]) for weight in weights]
    return [torch.from_numpy(unit * g) for g in (*layers, *feedback)]


def learn_biograd(settings: BioGradSettings, run: Path, console: Console) -> dict[str, Any]:
    """Train on the twin, see `learn_on_twin`; also tell the angles of the feedback before and after."""
    data, unit = load(settings.dataset), settings.window.span / settings.largest
    rule = BioGrad(
        fresh_crossbars(settings, data),
        unit,
        steps=settings.steps,
        start=settings.start,
        shown=settings.shown,
        neuron=settings.neuron,
    )
    before, depth = rule.angles(), len(settings.hidden)
    hidden, last, back = (rate * unit**2 for rate in settings.rates)
    config = RuleConfig(
        settings.epochs, settings.batch, (*[hidden] * depth, last, *[back] * depth), "sgd",
        (*[settings.momentum] * (depth + 1), *[0.0] * depth), settings.decay, settings.validation, settings.seed, settings.shift,
    )  # fmt: skip
    write = WriteBack(settings.window, settings.levels, signed=True, noise=settings.noise)

    def angles() -> dict[str, str]:
        words = [f"{first:.0f} before, {after:.0f} after" for first, after in zip(before, rule.angles(), strict=True)]
        return {"angles of the feedback (degrees)": "; ".join(words)}

    return learn_on_twin(rule, data, config, write, settings, run, console, angles)
