"""What `memprop learn biograd` does: train a spiking network by BioGrad on its twin; the feedback learns in sleep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from memprop.data.sets import Images, load
from memprop.flow.rule_learning import PairSettings, learn_on_twin, random_chain
from memprop.learn.biograd import BioGrad
from memprop.learn.rule_training import RuleConfig
from memprop.twin.biograd import BioGradNeuron


@dataclass(frozen=True, slots=True, kw_only=True)
class BioGradSettings(PairSettings):
    """A network, its task and its training. Learning rates are those of weights, without unit."""

    hidden: tuple[int, ...]
    epochs: int = 30
    batch: int = 128
    decay: float = 0.9
    rates: tuple[float, float, float] = (1e-3, 1.5e-3, 2e-5)
    """Of hidden crossbars, of the last one, and of the feedback; the hidden rate times the feedback decides."""
    momentum: float = 0.9
    """Of all crossbars but the feedback."""
    steps: int = 20
    start: int = 5
    shown: int = 60
    neuron: BioGradNeuron = field(default_factory=BioGradNeuron)


PRESETS: Mapping[str, BioGradSettings] = {
    "digits": BioGradSettings(dataset="digits", hidden=(64,), epochs=40, batch=32, decay=0.95, validation=140),
    "mnist": BioGradSettings(dataset="mnist", hidden=(500, 100), shift=1),
    "fashion": BioGradSettings(dataset="fashion", hidden=(500, 100), shift=1),
}


def fresh_crossbars(settings: BioGradSettings, data: Images) -> list[Tensor]:
    """Return signed conductances in S: normal weights, no bias, and feedback at random, as long as the product that it stands for."""
    sizes = (data.rows, *settings.hidden, data.classes)
    return random_chain(sizes, 0.5, settings.unit, settings.seed, feedback=True)


def rule_on(settings: BioGradSettings, data: Images) -> BioGrad:
    """Return the rule on a fresh network."""
    return BioGrad(
        fresh_crossbars(settings, data), settings.unit, steps=settings.steps, start=settings.start, shown=settings.shown,
        neuron=settings.neuron,
    )  # fmt: skip


def config_of(settings: BioGradSettings) -> RuleConfig:
    """Return the settings of the training: rates and momentum of all crossbars."""
    depth, (hidden, last, back) = len(settings.hidden), settings.rates
    momentum = (*[settings.momentum] * (depth + 1), *[0.0] * depth)
    return settings.config((*[hidden] * depth, last, *[back] * depth), momentum)


def learn_biograd(settings: BioGradSettings, run: Path, console: Console) -> dict[str, Any]:
    """Train on the twin, see `learn_on_twin`; also tell the angles of the feedback before and after."""
    data = load(settings.dataset)
    rule = rule_on(settings, data)
    before = rule.angles()

    def angles() -> dict[str, str]:
        words = [f"{first:.0f} before, {after:.0f} after" for first, after in zip(before, rule.angles(), strict=True)]
        return {"angles of the feedback (degrees)": "; ".join(words)}

    return learn_on_twin(rule, data, config_of(settings), settings, run, console, angles)
