"""What trained networks of learning rules answer in SPICE, and the energy of one answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memprop.circuit.cell import load_cell
from memprop.circuit.clocked import NEVER, SAMPLED, SLOT, STEP, WIDTH, ClockedNetwork, Somata
from memprop.circuit.eqspike import READ, EqSpikeNetwork
from memprop.conductance.pair import ConductanceRange
from memprop.deck.clocked import clocked_deck
from memprop.deck.deck import Deck
from memprop.deck.eqspike import eqspike_deck
from memprop.errors import InputError, SimulationError
from memprop.flow.resistive import SpiceResistive
from memprop.flow.spice_eqspike import line_voltages, mean_between
from memprop.learn.biograd import BioGrad
from memprop.learn.eqspike import SHOWN, EqSpike
from memprop.learn.online import OnlineRule
from memprop.spice.engine import Engine
from memprop.spice.pool import run_many
from memprop.spice.recording import Recording

Floats = NDArray[np.float64]
STEP_S = 1e-6
"""Length in s of a step of EqSpike's twin: the circuit's time constants are in it."""
SETTLE_S = 1e-6
"""Time in s that a resistive network is said to be powered for one answer; nothing here measures it."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What a network answers in SPICE."""

    outputs: Tensor
    """``[B, classes]``."""
    energy: float
    """Mean energy of its crossbars for one answer, in J."""


def answer_clocked(rule: BioGrad | OnlineRule, window: ConductanceRange, inputs: Tensor, engine: Engine) -> Answers:
    """Return what a clocked network answers, with the spikes of inputs that the twin draws for the same batch.

    The energy is that of rows at a pulse over all conductances of the row, whose columns are virtual grounds.

    Raises
    ------
    InputError: it has more than one hidden layer.
    SimulationError: a simulation failed.
    """
    network, steps = clocked_network(rule, window)
    spikes = rule.encoder(inputs, steps, torch.Generator().manual_seed(len(inputs))).double().numpy()
    decks = (clocked_deck(network, spikes[:, k]) for k in range(len(inputs)))
    found = [_read_clocked(network, recording, steps) for recording in _all(engine, decks)]
    outputs = np.stack([outputs for outputs, _ in found])
    totals = [np.add(*window.to_pair(w)).sum(1) for w in network.weights]
    first = spikes.sum((0, 1)) @ totals[0][:-1] + len(inputs) * steps * totals[0][-1]
    second = sum(hidden @ totals[1][:-1] + steps * totals[1][-1] for _, hidden in found)
    return Answers(torch.from_numpy(outputs), float(network.read**2 * WIDTH * (first + second) / len(inputs)))


def clocked_network(rule: BioGrad | OnlineRule, window: ConductanceRange) -> tuple[ClockedNetwork, int]:
    """Return the netlist's network of a rule, and the steps that it is shown."""
    if rule.depth != 2:
        raise InputError(
            f"{rule.name}: {rule.depth} layers; the clocked circuit has two crossbars. Use one hidden layer."
        )
    weights = [g.double().numpy() for g in rule.conductances[:2]]
    if isinstance(rule, BioGrad):
        k = rule.neuron
        somata, steps = (Somata(k.decay, k.threshold, k.window),) * 2, rule.shown
    else:
        n = rule.neuron
        somata, steps = (Somata(n.decay, n.threshold, hard=False), Somata(n.readout, NEVER, hard=False)), rule.steps
    return ClockedNetwork("clocked", (weights[0], weights[1]), rule.unit, *somata, window=window), steps


def _read_clocked(network: ClockedNetwork, found: Recording, steps: int) -> tuple[Floats, Floats]:
    """Return the outputs, mean readout or count of spikes, and the spikes of each hidden neuron."""
    time = found["time"].values

    def at(node: str, slot: float) -> Floats:
        return np.interp(np.arange(steps) * STEP + slot * SLOT, time, found[node].values)

    hidden = np.array([np.rint(at(f"x1_spk{j}", 2.5)).sum() for j in range(network.sizes[1])])
    silent = network.outputs.threshold >= NEVER
    outputs = [
        at(f"x2_soma{k}", 3.0 + SAMPLED).mean() if silent else np.rint(at(f"x2_spk{k}", 4.5)).sum()
        for k in range(network.sizes[2])
    ]
    return np.array(outputs), hidden


def answer_eqspike(rule: EqSpike, window: ConductanceRange, inputs: Tensor, engine: Engine) -> Answers:
    """Return the output rates of a free phase as long as the twin's; the energy is what drivers deliver to crossbars and replicas."""
    first, second = (g.double().numpy() for g in rule.conductances)
    k = rule.dynamics
    if k.keep != 1.0:
        raise InputError(f"EqSpike: keep = {k.keep!r}; the circuit's membranes have no leak. Use 1.")
    neuron = load_cell("packet_neuron")
    given = {"reset": rule.unit * READ, "csyn": k.synapse * STEP_S / neuron.card.parameters["rsyn"].default}
    network = EqSpikeNetwork(
        "eqspike", (first, second), rule.unit, window, neuron, given, fast=k.fast * STEP_S, slow=k.slow * STEP_S
    )  # fmt: skip
    rng, end = np.random.default_rng(len(inputs)), SHOWN * STEP_S
    images = inputs.double().numpy()
    starts = rng.uniform(0.0, 1.0, (len(images), len(network.neurons)))
    free = np.zeros(network.sizes[2])
    decks = (
        eqspike_deck(network, image, free, (0.0,), (end,), start, learning=False, reduced=True)
        for image, start in zip(images, starts, strict=True)
    )
    outputs, energy = [], 0.0
    for image, found in zip(images, _all(engine, decks), strict=True):
        time, spikes = found["time"].values, np.stack([found[node].values for node in network.nodes("spk")])
        outputs.append(mean_between(time, spikes[network.sizes[1] :], end / 3, end))
        currents = np.stack([found[f"i({name})"].values for name in network.drivers(reduced=True)])
        lines = line_voltages(network, image, spikes)[-len(currents) :]
        energy += float(np.trapezoid(-(lines * currents).sum(0), time))
    # The first crossbar, whose sources stand in the deck: constant rows, columns at ground.
    total = np.add(*window.to_pair(first)).sum(1)
    energy += network.read**2 * end * float((images**2 @ total[:-1]).sum() + len(images) * total[-1])
    return Answers(torch.from_numpy(np.stack(outputs)), energy / len(images))


def answer_resistive(circuit: SpiceResistive, scale: float, inputs: Tensor) -> Answers:
    """Return the output voltages of a resistive network; the energy is what its resistors turn to heat in `SETTLE_S`."""
    settled = circuit.settle(inputs.double() * scale)
    power = sum(float((g * settled.drops(k).square()).sum()) for k, g in enumerate(circuit.conductances))
    return Answers(settled.outputs, power * SETTLE_S / len(inputs))


def _all(engine: Engine, decks: Iterable[Deck]) -> Sequence[Recording]:
    found: dict[int, Recording] = {}
    for k, result in run_many(engine, decks):
        if isinstance(result, SimulationError):
            raise result
        found[k] = result
    return [found[k] for k in sorted(found)]
