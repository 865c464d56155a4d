"""What `memprop learn biograd` does: train a spiking network by BioGrad on its twin; the feedback learns in sleep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor

from memprop.data.events import PackedFrames, load_n_mnist
from memprop.data.saccades import SIMULATED, Saccades
from memprop.data.sets import Samples, load
from memprop.data.spikes import Bernoulli, SpikeEncoder
from memprop.flow.rule_learning import PairSettings, learn_on_twin, random_chain
from memprop.learn.biograd import BioGrad
from memprop.learn.rule_training import RuleConfig
from memprop.twin.biograd import BioGradNeuron, ErrorNeurons


@dataclass(frozen=True, slots=True, kw_only=True)
class BioGradSettings(PairSettings):
    """A network, its task and its training. Learning rates are those of weights, without unit."""

    hidden: tuple[int, ...]
    epochs: int = 30
    batch: int = 128
    decay: float = 0.9
    rates: tuple[float, float, float] = (7e-4, 1.5e-3, 2e-5)
    """Of hidden crossbars, of the last one, and of the feedback; the hidden rate times the feedback decides."""
    momentum: float = 0.9
    """Of all crossbars but the feedback."""
    steps: int = 20
    start: int = 5
    shown: int = 60
    neuron: BioGradNeuron = field(default_factory=BioGradNeuron)
    errors: ErrorNeurons = field(default_factory=ErrorNeurons)
    recorded: str | None = None
    """Of the data set `EVENTS`: folder of N-MNIST; none: events are simulated."""


EVENTS = "events"
"""Name of events as a data set: simulated ones of MNIST, or those of N-MNIST."""
PRESETS: Mapping[str, BioGradSettings] = {
    "digits": BioGradSettings(dataset="digits", hidden=(64,), epochs=40, batch=32, decay=0.95, validation=140),
    "mnist": BioGradSettings(dataset="mnist", hidden=(500, 100), shift=1),
    "fashion": BioGradSettings(dataset="fashion", hidden=(500, 100), shift=1),
    EVENTS: BioGradSettings(
        dataset=EVENTS, hidden=(300,), epochs=12, batch=64, decay=0.78, rates=(8e-4, 3.3e-4, 6e-5), steps=12, start=3, shown=12,
        neuron=BioGradNeuron(window=0.6), errors=ErrorNeurons(charge=0.5, gain=3.0),
    ),
}  # fmt: skip


SIMULATED_WORDS = (
    "simulated from MNIST; the 97.59 % of the paper are of N-MNIST, which a camera recorded: another data set"
)
RECORDED_WORDS = "N-MNIST, recorded by a camera; the paper reaches 97.59 %"


def samples_of(settings: BioGradSettings) -> tuple[Samples, SpikeEncoder, str]:
    """Return the data set, what makes spikes of its samples, and a sentence about the events, empty where there are none.

    Raises
    ------
    DataError: the data are not to be had.
    """
    if settings.dataset != EVENTS:
        data = load(settings.dataset)
        return data, Bernoulli(data.rows), ""
    if settings.recorded is not None:
        return load_n_mnist(Path(settings.recorded), settings.steps), PackedFrames(settings.steps), RECORDED_WORDS
    return replace(load("mnist"), name=SIMULATED), Saccades(), SIMULATED_WORDS


def fresh_crossbars(settings: BioGradSettings, data: Samples, inputs: int | None = None) -> list[Tensor]:
    """Return signed conductances in S: normal weights, no bias, and feedback at random, as long as the product that it stands for.

    ``inputs`` are the rows where spikes arrive; default one for each value of a sample.
    """
    sizes = (inputs or data.rows, *settings.hidden, data.classes)
    return random_chain(sizes, 0.5, settings.unit, settings.seed, feedback=True)


def rule_on(settings: BioGradSettings, data: Samples, encoder: SpikeEncoder | None = None) -> BioGrad:
    """Return the rule on a fresh network; default of the encoder are Bernoulli spikes, one row per pixel."""
    encoder = encoder or Bernoulli(data.rows)
    return BioGrad(
        fresh_crossbars(settings, data, encoder.rows), settings.unit, steps=settings.steps, start=settings.start, shown=settings.shown,
        neuron=settings.neuron, errors=settings.errors, encoder=encoder,
    )  # fmt: skip


def config_of(settings: BioGradSettings) -> RuleConfig:
    """Return the settings of the training: rates and momentum of all crossbars."""
    depth, (hidden, last, back) = len(settings.hidden), settings.rates
    momentum = (*[settings.momentum] * (depth + 1), *[0.0] * depth)
    return settings.config((*[hidden] * depth, last, *[back] * depth), momentum)


def learn_biograd(settings: BioGradSettings, run: Path, console: Console) -> dict[str, Any]:
    """Train on the twin, see `learn_on_twin`; also tell the angles of the feedback before and after."""
    data, encoder, about = samples_of(settings)
    rule = rule_on(settings, data, encoder)
    before = rule.angles()

    def more() -> dict[str, str]:
        words = [f"{first:.0f} before, {after:.0f} after" for first, after in zip(before, rule.angles(), strict=True)]
        found = {"angles of the feedback (degrees)": "; ".join(words)}
        return found | ({"events": about} if about else {})

    return learn_on_twin(rule, data, config_of(settings), settings, run, console, more)
