"""What `memprop learn eqspike` does: train a spiking network by EqSpike on its twin, and measure the accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
from memprop.learn.eqspike import EqSpike
from memprop.learn.rule_training import RuleConfig
from memprop.twin.eqspike import SpikingDynamics


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
    shift: int = 0
    """Pixels by which training images move at most; 1 drives outputs over their highest rate, where they learn no more."""
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
    """Train on the twin, see `learn_on_twin`."""
    data, unit = load(settings.dataset), unit_of(settings)
    rule = EqSpike(
        fresh_conductances(settings, data),
        unit,
        nudge=settings.nudge,
        lengths=settings.lengths,
        dynamics=settings.dynamics,
    )
    # Plain descent of conductances: a weight changes by its rate where the conductance changes by rate x unit^2 per gradient.
    config = RuleConfig(
        settings.epochs, settings.batch, tuple(rate * unit**2 for rate in settings.rates), "sgd", decay=settings.decay,
        validation=settings.validation, seed=settings.seed, shift=settings.shift,
    )  # fmt: skip
    write = WriteBack(settings.window, settings.levels, signed=True, noise=settings.noise)
    return learn_on_twin(rule, data, config, write, settings, run, console)
