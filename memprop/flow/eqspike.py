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

from memprop.data.sets import Images, load
from memprop.flow.rule_learning import PairSettings, learn_on_twin
from memprop.learn.eqspike import EqSpike
from memprop.twin.eqspike import SpikingDynamics


@dataclass(frozen=True, slots=True, kw_only=True)
class EqSpikeSettings(PairSettings):
    """A network, its task and its training. Learning rates are those of weights, without unit."""

    hidden: int
    epochs: int = 25
    batch: int = 20
    decay: float = 0.887
    rates: tuple[float, float] = (0.2, 0.1)
    nudge: float = 0.5
    wanted: float = 0.8
    lengths: tuple[int, int] = (100, 60)
    dynamics: SpikingDynamics = field(default_factory=SpikingDynamics)
    bias: float = 0.1
    """Bias of the outputs in the beginning: without it they are silent, and the silent do not learn."""


PRESETS: Mapping[str, EqSpikeSettings] = {
    "digits": EqSpikeSettings(dataset="digits", hidden=64, validation=140),
    "mnist": EqSpikeSettings(dataset="mnist", hidden=300, shift=1),
    "fashion": EqSpikeSettings(dataset="fashion", hidden=300, shift=1),
}


def fresh_conductances(settings: EqSpikeSettings, data: Images) -> list[Tensor]:
    """Return signed conductances in S, random but for the rows of bias, from the seed of the settings."""
    rng = np.random.default_rng(settings.seed)
    sizes, unit = (data.rows, settings.hidden, data.classes), settings.unit
    found = []
    for k, bias in enumerate((0.0, settings.bias)):
        widest = 1.0 / np.sqrt(sizes[k])
        weights = rng.uniform(-widest, widest, (sizes[k], sizes[k + 1]))
        found.append(torch.from_numpy(unit * np.vstack([weights, np.full(sizes[k + 1], bias)])))
    return found


def rule_on(settings: EqSpikeSettings, data: Images) -> EqSpike:
    """Return the rule on a fresh network."""
    return EqSpike(
        fresh_conductances(settings, data), settings.unit, nudge=settings.nudge, wanted=settings.wanted, lengths=settings.lengths,
        dynamics=settings.dynamics,
    )  # fmt: skip


def learn_eqspike(settings: EqSpikeSettings, run: Path, console: Console) -> dict[str, Any]:
    """Train on the twin, see `learn_on_twin`."""
    data = load(settings.dataset)
    return learn_on_twin(rule_on(settings, data), data, settings.config(settings.rates), settings, run, console)
