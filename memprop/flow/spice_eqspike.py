"""EqSpike networks in SPICE: what their nodes show in one presentation, what follows from spikes alone, and energy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PySpice.Spice.Netlist import Circuit

from memprop.circuit.cell import Cell, load_cell
from memprop.circuit.eqspike import EqSpikeNetwork
from memprop.circuit.section import Section
from memprop.deck.deck import Deck, Transient
from memprop.deck.eqspike import MAX_STEP, eqspike_deck
from memprop.deck.models import cell_models
from memprop.deck.ngspice import DEFAULT_OPTIONS, section_text
from memprop.spice.engine import Engine

Floats = NDArray[np.float64]
SUPPLY = 1.0
"""Supply in V behind neurons, traces and accumulators."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Waveforms and accumulators of one presentation."""

    time: Floats
    """In s, ``[P]``."""
    spikes: Floats
    """``[hidden + outputs, P]``, 0 to 1."""
    learn: Floats
    """Whether accumulators count, ``[P]``."""
    pairs: Floats
    """Voltages of the synapses' accumulators in the end, ``[hidden, outputs]``."""
    moved: Floats
    """Voltages of the neurons' accumulators in the end, ``[hidden + outputs]``."""
    delivered: Floats
    """Power that the drivers of lines deliver, in W, ``[P]``."""

    def rates(self, start: float, stop: float) -> Floats:
        """Return the mean of each neuron's spikes between two times in s."""
        return mean_between(self.time, self.spikes, start, stop)


def mean_between(time: Floats, waves: Floats, start: float, stop: float) -> Floats:
    """Return the means of waves ``[N, P]``, straight between the points of ``time``, from ``start`` to ``stop`` in s, ``[N]``."""
    inside = np.union1d(time[(time > start) & (time < stop)], (start, stop))
    found = np.stack([np.interp(inside, time, wave) for wave in waves])
    return np.asarray(np.trapezoid(found, inside, axis=1)) / (stop - start)


def present(
    network: EqSpikeNetwork, inputs: Floats, target: Floats, nudges: Sequence[float], ends: Sequence[float], membranes: Floats,
    engine: Engine, timeout_s: float = 600.0,
) -> Measured:  # fmt: skip
    """Simulate one presentation, see `memprop.deck.eqspike.eqspike_deck`.

    Raises
    ------
    InputError: shapes do not fit the network.
    SimulationError: the simulation failed.
    """
    found = engine.run(eqspike_deck(network, inputs, target, nudges, ends, membranes), timeout_s)

    def waves(nodes: Sequence[str]) -> Floats:
        return np.stack([found[node].values for node in nodes])

    last = np.array([[float(found[node].values[-1]) for node in row] for row in network.sums()])
    spikes = waves(network.nodes("spk"))
    drive = line_voltages(network, inputs, spikes)
    currents = waves([f"i({name})" for name in network.drivers()])
    return Measured(
        found["time"].values, spikes, found["learn"].values, last, waves(network.nodes("acc"))[:, -1], -(drive * currents).sum(0)
    )  # fmt: skip


def line_voltages(network: EqSpikeNetwork, inputs: Floats, spikes: Floats) -> Floats:
    """Return the voltages in V of the drivers' lines, ``[drivers, P]``, in the order of `EqSpikeNetwork.drivers`."""
    one = np.ones(spikes.shape[1])
    signs = [(value, -value) for value in inputs] + [(1.0, -1.0)]
    rows = [sign * one for pair in signs for sign in pair]
    hidden = network.sizes[1]
    rows += [sign * wave for wave in spikes[:hidden] for sign in (1.0, -1.0, 1.0)]
    rows += [wave for wave in spikes[hidden:] for _ in range(2)]
    return network.read * np.stack(rows)


def traces(time: Floats, spikes: Floats, tau: float) -> Floats:
    """Return spikes ``[N, P]`` behind a filter of time constant ``tau`` in s that has settled in the beginning.

    Exact for waves that are straight between time points.
    """
    found = np.empty_like(spikes)
    found[:, 0] = spikes[:, 0]
    for k, dt in enumerate(np.diff(time)):
        left = np.exp(-dt / tau)
        ramp = 1.0 - (1.0 - left) * tau / dt if dt > 0 else 0.0
        rise = spikes[:, k + 1] - spikes[:, k]
        found[:, k + 1] = left * found[:, k] + (1.0 - left) * spikes[:, k] + ramp * rise
    return found


def formula(measured: Measured, network: EqSpikeNetwork) -> tuple[Floats, Floats]:
    """Return what the rule's formula makes of the measured spikes: pairs ``[hidden, outputs]`` and moved ``[hidden + outputs]``, in V."""
    span, hidden = network.slow - network.fast, network.sizes[1]
    fast, slow = (traces(measured.time, measured.spikes, tau) for tau in (network.fast, network.slow))
    moving = (fast - slow) / span * measured.learn
    both = (
        measured.spikes[:hidden, None] * moving[None, hidden:] + measured.spikes[None, hidden:] * moving[:hidden, None]
    )
    return np.asarray(np.trapezoid(both, measured.time)), np.asarray(np.trapezoid(moving, measured.time))


def energies(measured: Measured, network: EqSpikeNetwork, *, learning: bool = True) -> dict[str, float]:
    """Return the energy of one presentation in J by part; without ``learning`` traces and accumulators are off.

    Counted: what drivers of lines put into crossbars, replicas and each other; a supply of 1 V behind the current that neurons spend at
    their rates, behind the accumulators and the charge of the traces. Not counted: comparators, buffers and mirrors themselves, the
    making of nudge and gate, writing the conductances.
    """
    time, spikes = measured.time, measured.spikes
    current = network.unit * network.read
    found = {
        "crossbars": float(np.trapezoid(measured.delivered, time)),
        "neurons": float(np.trapezoid(SUPPLY * current * spikes.sum(0), time)),
    }
    return found | (_learning_energies(measured, network) if learning else {})


def _learning_energies(measured: Measured, network: EqSpikeNetwork) -> dict[str, float]:
    time, spikes, hidden = measured.time, measured.spikes, network.sizes[1]
    trace, accumulator = (
        cell.card.parameters[name].default for cell, name in zip(network.cells[1:], ("ctrace", "csum"), strict=True)
    )
    fast, slow = (traces(time, spikes, tau) for tau in (network.fast, network.slow))
    charging = sum(
        spikes * np.maximum(spikes - wave, 0.0) * trace / tau
        for wave, tau in ((fast, network.fast), (slow, network.slow))
    )
    moving = np.abs(fast - slow) / (network.slow - network.fast) * measured.learn
    pairs = np.einsum("hp,op->p", spikes[:hidden], moving[hidden:]) + np.einsum(
        "op,hp->p", spikes[hidden:], moving[:hidden]
    )
    return {
        "traces": float(np.trapezoid(np.sum(charging, axis=0) * SUPPLY, time)),
        "accumulators": float(np.trapezoid(SUPPLY * accumulator * (pairs + moving.sum(0)), time)),
    }


def rate_curve(
    cell: Cell, parameters: Mapping[str, float], currents: Floats, engine: Engine, duration: float = 2e-4
) -> Floats:
    """Return the share of the second half of ``duration`` in s in which a neuron spikes, at constant currents in A, ``[N]``."""
    top = Circuit("neurons")
    for k, current in enumerate(currents):
        given = {name: repr(float(value)) for name, value in {**parameters, "v0": 0.5}.items()}
        top.I(f"_{k}", top.gnd, f"in{k}", repr(float(current)))
        top.X(f"_{k}", cell.name, f"in{k}", f"mem{k}", f"spk{k}", top.gnd, **given)
    section = Section("neurons.inc", "one neuron per current", (cell.subcircuit,), top)
    files = cell_models([cell])[0] | {section.file: section_text(section)}
    nodes = tuple(f"spk{k}" for k in range(len(currents)))
    deck = Deck(f"rates of {cell.name}", files, Transient(duration, MAX_STEP), nodes, options=DEFAULT_OPTIONS)
    found = engine.run(deck)
    waves = np.stack([found[node].values for node in nodes])
    return mean_between(found["time"].values, waves, duration / 2, duration)


def pair_updates(delays: Floats, fast: float, slow: float, width: float, engine: Engine) -> Floats:
    """Return the voltage of an accumulator after one spike of ``width`` in s on each side, the second ``delays`` s later, ``[N]``."""
    cells = load_cell("rate_trace"), load_cell("spike_accumulator")
    top, start = Circuit("pairs"), 1.5 * float(np.abs(delays).max()) + 5 * width
    stop = start + float(np.abs(delays).max()) + 12 * slow
    times = {"fast": repr(fast), "slow": repr(slow)}
    top.V("_learn", "learn", top.gnd, 1)
    top.V("_pre", "pre", top.gnd, _pulse(start, width))
    top.X("_pre", "rate_trace", "pre", "pre_mov", top.gnd, **times)
    for k, delay in enumerate(delays):
        top.V(f"_post{k}", f"post{k}", top.gnd, _pulse(start + float(delay), width))
        top.X(f"_post{k}", "rate_trace", f"post{k}", f"post_mov{k}", top.gnd, **times)
        ends = ("pre", "pre_mov", f"post{k}", f"post_mov{k}", "learn", f"q{k}", top.gnd)
        top.X(f"_q{k}", "spike_accumulator", *ends, unit=repr(slow - fast))
    section = Section("pairs.inc", "pairs of spikes", tuple(cell.subcircuit for cell in cells), top)
    nodes = tuple(f"q{k}" for k in range(len(delays)))
    files = {section.file: section_text(section)}
    deck = Deck("pairs of spikes", files, Transient(stop, width / 5), nodes, options=DEFAULT_OPTIONS)
    found = engine.run(deck)
    return np.array([float(found[node].values[-1]) for node in nodes])


def _pulse(start: float, width: float) -> str:
    edge = width / 100
    points = [(0.0, 0), (start, 0), (start + edge, 1), (start + width, 1), (start + width + edge, 0)]
    return f"pwl({' '.join(f'{t!r} {v}' for t, v in points)})"
