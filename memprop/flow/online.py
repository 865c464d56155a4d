"""What `memprop learn eprop`, `eprop-random`, `ottt` and `bptt` do: train a spiking network on its twin by a rule of `learn.online`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from memprop.data.sets import Images, load
from memprop.errors import InputError
from memprop.flow.rule_learning import PairSettings, learn_on_twin, random_chain
from memprop.learn.online import OTTT, EProp, OnlineRule, SurrogateBPTT
from memprop.learn.rule_training import RuleConfig
from memprop.twin.leaky import LeakyNeuron


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineSettings(PairSettings):
    """A network, its task and its training. Learning rates are those of weights, without unit."""

    hidden: tuple[int, ...]
    epochs: int = 30
    batch: int = 128
    decay: float = 0.9
    rates: tuple[float, float] = (0.1, 0.03)
    """Of hidden crossbars and of the readout: psi makes gradients of the hidden ones small."""
    momentum: float = 0.9
    steps: int = 20
    neuron: LeakyNeuron = field(default_factory=LeakyNeuron)
    gain: float = 0.7
    """Deviation of weights in the beginning is this times sqrt(2 / inputs)."""


PRESETS: Mapping[str, OnlineSettings] = {
    "digits": OnlineSettings(dataset="digits", hidden=(64,), batch=32, validation=140),
    "mnist": OnlineSettings(dataset="mnist", hidden=(300,), shift=1),
    "fashion": OnlineSettings(dataset="fashion", hidden=(300,), shift=1),
}
RULES = ("eprop", "eprop-random", "ottt", "bptt")


def online_rule(name: str, settings: OnlineSettings, data: Images) -> OnlineRule:
    """Return the rule of this name on a network that the seed of the settings draws; feedback at random comes with its crossbars.

    Raises
    ------
    InputError: the name is unknown.
    """
    if name not in RULES:
        raise InputError(f"online learning: rule '{name}' is unknown. Known: {', '.join(RULES)}.")
    fed = name == "eprop-random"
    sizes = (data.rows, *settings.hidden, data.classes)
    conductances = random_chain(sizes, settings.gain, settings.unit, settings.seed, feedback=fed)
    given: dict[str, Any] = {"steps": settings.steps, "neuron": settings.neuron}
    if name.startswith("eprop"):
        return EProp(conductances, settings.unit, feedback="random" if fed else "symmetric", **given)
    return (OTTT if name == "ottt" else SurrogateBPTT)(conductances, settings.unit, **given)


def config_of(settings: OnlineSettings, rule: OnlineRule) -> RuleConfig:
    """Return the settings of the training: rates and momentum of all crossbars."""
    count, hidden = len(rule.conductances), rule.depth - 1
    # Feedback gets a rate, as every crossbar must, but no gradient: it stays.
    rates = [settings.rates[1] if k == hidden else settings.rates[0] for k in range(count)]
    return settings.config(rates, [settings.momentum] * count)


def learn_online(name: str, settings: OnlineSettings, run: Path, console: Console) -> dict[str, Any]:
    """Train on the twin by the rule of this name, see `learn_on_twin`."""
    data = load(settings.dataset)
    rule = online_rule(name, settings, data)
    return learn_on_twin(rule, data, config_of(settings, rule), settings, run, console)
