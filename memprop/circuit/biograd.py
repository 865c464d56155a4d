"""Spiking networks that learn by BioGrad, as netlists: one hidden layer, clocked, in slots of each time step.

A step has the slots ``pulse`` (rows of the first crossbar), ``sample`` (hidden somata), then the same of the second crossbar and the
outputs, eligibilities of both crossbars, ``integrate`` (error neurons), ``latch``, ``send`` (error spikes go through the feedback
crossbar into the dendrites) and ``reset``. Currents of columns are mirrored into somata, and those of the feedback crossbar into dendrites.
Capacitors are such that 1 V at a soma is a weight of 1. Nodes: ``x<l>_spk<j>``, ``x<l>_near<j>``, ``x<l>_tr<i>`` (traces of the rows of
crossbar l - 1), ``e<l>_<i>_<j>`` (eligibilities), ``dend<j>``, ``net<k>`` (dendrites of hidden neurons and outputs), ``count<k>``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PySpice.Spice.Netlist import Circuit

from memprop.circuit.cell import Cell, load_cell
from memprop.circuit.section import Section
from memprop.conductance.pair import ConductanceRange
from memprop.errors import InputError, positive

Floats = NDArray[np.float64]
CLOCKS = {
    "pulse1": 0,
    "sample1": 1,
    "pulse2": 2,
    "sample2": 3,
    "elig1": 4,
    "count": 5,
    "elig2": 6,
    "integrate": 7,
    "latch": 8,
    "send": 9,
    "reset": 10,
}
"""Slot of a step in which each clock is high. From its pulse to its eligibility it is as long for both crossbars."""
SLOT, EDGE = 2e-7, 5e-9
"""Length of a slot and of an edge, in s."""
WIDTH = SLOT - EDGE - 2 * EDGE
"""Effective length of a pulse in a slot, in s: edges count half."""
STEP = 12 * SLOT
CAPACITANCE = 1e-12
DENDRITE = 0.05
"""Volts of a dendrite per error spike and weight of 1."""
ELIGIBILITY = 0.02
"""Volts of an eligibility per unit of a trace."""
CELLS = ("clocked_neuron", "leaky_trace", "eligibility", "error_neuron")


@dataclass(frozen=True, slots=True)
class BioGradNetwork:
    """Inputs, one hidden layer and outputs, with a row of bias in each crossbar, and a feedback crossbar.

    Raises
    ------
    InputError: shapes do not fit each other, a weight is beyond the window, or a number is out of range.
    """

    name: str
    weights: tuple[Floats, Floats, Floats]
    """Signed conductances in S: ``[inputs + 1, hidden]``, ``[hidden + 1, outputs]``, feedback ``[hidden, outputs]``."""
    unit: float
    """Conductance in S of a weight of 1."""
    decay: float = 0.3
    threshold: float = 0.3
    near: float = 0.3
    """Half width of the window, in V."""
    window: ConductanceRange = field(default_factory=ConductanceRange)
    read: float = 0.2
    """Voltage of a pulse on a row, in V."""

    def __post_init__(self) -> None:
        first, second, back = self.weights
        fits = all(w.ndim == 2 for w in self.weights) and second.shape[0] == first.shape[1] + 1
        if not fits or back.shape != (first.shape[1], second.shape[1]):
            shapes = ", ".join(str(w.shape) for w in self.weights)
            raise InputError(
                f"network {self.name}: crossbars {shapes} are no two layers with bias, followed by the feedback of the first."
            )
        if not positive(self.unit, self.threshold, self.near, self.read) or not 0.0 < self.decay < 1.0:
            raise InputError(
                f"network {self.name}: unit = {self.unit!r} S, threshold = {self.threshold!r} V, near = {self.near!r} V, "
                f"read = {self.read!r} V, decay = {self.decay!r}; need positive numbers, and a decay below 1."
            )
        for weight in self.weights:
            self.window.to_pair(weight)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of inputs, hidden neurons and outputs."""
        return self.weights[0].shape[0] - 1, self.weights[0].shape[1], self.weights[1].shape[1]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Cells of the netlist."""
        return tuple(load_cell(name) for name in CELLS)

    @property
    def tau(self) -> float:
        """Time constant of somata and traces in s: they decay by ``decay`` in a step."""
        return STEP / -math.log(self.decay)

    def left(self, slots: float) -> float:
        """Return what a charge of 1, spread over one slot, has left ``slots`` after the end of the slot."""
        return self.tau / SLOT * (1.0 - math.exp(-SLOT / self.tau)) * math.exp(-slots * SLOT / self.tau)

    def rows(self, layer: int) -> int:
        """Return the number of rows of a crossbar, with the one of bias."""
        return self.sizes[layer] + 1

    def eligibilities(self, layer: int) -> list[list[str]]:
        """Return the nodes of the eligibilities of a crossbar, ``[rows][columns]``."""
        return [[f"e{layer + 1}_{i}_{j}" for j in range(self.sizes[layer + 1])] for i in range(self.rows(layer))]

    def dendrites(self) -> list[str]:
        """Return the nodes of the dendrites: hidden neurons, then outputs."""
        return [*(f"dend{j}" for j in range(self.sizes[1])), *(f"net{k}" for k in range(self.sizes[2]))]

    def layer_nodes(self, what: str, layer: int) -> list[str]:
        """Return the nodes ``spk`` or ``near`` of a layer, 1 or 2."""
        return [f"x{layer}_{what}{j}" for j in range(self.sizes[layer])]


def biograd_sections(network: BioGradNetwork, start: int) -> tuple[Section, ...]:
    """Return what does not depend on the sample; errors are fed back from step ``start`` on."""
    cells = tuple(cell.subcircuit for cell in network.cells)
    return (
        Section("conductances.inc", "crossbars: two resistors per pair", (), _crossbars(network)),
        Section("clocks.inc", "slots of a step", (), _clocks(start)),
        Section("neurons.inc", "rows, columns, somata", cells[:1], _neurons(network)),
        Section("learning.inc", "traces, eligibilities, error neurons, dendrites", cells[1:], _learning(network)),
    )  # fmt: skip


def _crossbars(network: BioGradNetwork) -> Circuit:
    top = Circuit("crossbars")
    for k, weight in enumerate(network.weights):
        rows, columns = (f"x{k}_row", f"x{k + 1}_col") if k < 2 else ("err", "dcol")
        # The feedback crossbar has a row per class and a column per hidden neuron.
        pairs = [1.0 / (g if k < 2 else g.T) for g in network.window.to_pair(weight)]
        for i in range(pairs[0].shape[0]):
            for j in range(pairs[0].shape[1]):
                for sign, r in zip("pn", pairs, strict=True):
                    top.R(f"{k}_{i}_{j}_{sign}", f"{rows}{i}_{sign}", f"{columns}{j}", repr(float(r[i, j])))
    return top


def _clocks(start: int) -> Circuit:
    top = Circuit("clocks")
    for name, slot in CLOCKS.items():
        high = SLOT - 4 * EDGE
        pulse = f"pulse(0 1 {slot * SLOT + EDGE!r} {EDGE!r} {EDGE!r} {high!r} {STEP!r})"
        top.V(f"_{name}", name, top.gnd, pulse)
    begin = start * STEP - SLOT
    late = "1" if start == 0 else f"pwl(0 0 {begin!r} 0 {begin + EDGE!r} 1)"
    top.V("_late", "late", top.gnd, late)
    top.BehavioralSource("_learn", "learn", top.gnd, v="v(integrate)*v(late)")
    return top


def _neurons(network: BioGradNetwork) -> Circuit:
    top, current = Circuit("neurons"), network.unit * network.read
    # 1 V at a soma, when its sampling ends, is a pulse through a weight of 1.
    c = current * WIDTH * network.left(1.0 - 1.5 * EDGE / SLOT)
    given = {
        "c": repr(c),
        "rleak": repr(network.tau / c),
        "th": repr(network.threshold),
        "window": repr(network.near),
        "slot": repr(WIDTH),
    }
    for layer in (1, 2):
        for i in range(network.rows(layer - 1)):
            bit = "1" if i == network.sizes[layer - 1] else f"v(bit{i})" if layer == 1 else f"v(x1_spk{i})"
            top.BehavioralSource(
                f"_x{layer - 1}_pulse{i}", f"x{layer - 1}_pulse{i}", top.gnd, v=f"{bit}*v(pulse{layer})"
            )
            _drive(top, f"x{layer - 1}_row{i}", f"x{layer - 1}_pulse{i}", network.read)
        for j in range(network.sizes[layer]):
            _ground(top, f"x{layer}_col{j}", f"x{layer}_soma{j}")
            ports = (f"x{layer}_soma{j}", f"x{layer}_spk{j}", f"x{layer}_near{j}", f"sample{layer}", "reset", top.gnd)
            top.X(f"_x{layer}_{j}", "clocked_neuron", *ports, **given)
    return top


def _drive(top: Circuit, row: str, pulse: str, read: float) -> None:
    """Drive both rows of pairs, at plus and minus a pulse."""
    for sign, end in ((1.0, "p"), (-1.0, "n")):
        top.VoltageControlledVoltageSource(
            f"_{row}_{end}", f"{row}_{end}", top.gnd, pulse, top.gnd, voltage_gain=repr(sign * read)
        )


def _ground(top: Circuit, column: str, into: str) -> None:
    """Hold a column at ground and mirror its current into a node."""
    top.V(f"_{column}", column, top.gnd, 0)
    top.CurrentControlledCurrentSource(f"_{column}", top.gnd, into, f"v_{column}", current_gain=1)


def _learning(network: BioGradNetwork) -> Circuit:
    top, (_, hidden, classes) = Circuit("learning"), network.sizes
    current, c = network.unit * network.read, CAPACITANCE
    trace = {"c": repr(c), "rleak": repr(network.tau / c), "drive": repr(c / (WIDTH * network.left(0.0)))}
    # A trace of 1 right after its pulse has this mean in the slot of eligibilities, which begins three slots later.
    mean = network.left(3.0)
    for layer in (1, 2):
        for i, row in enumerate(network.eligibilities(layer - 1)):
            top.X(f"_x{layer}_tr{i}", "leaky_trace", f"x{layer - 1}_pulse{i}", f"x{layer}_tr{i}", top.gnd, **trace)
            for j, node in enumerate(row):
                ports = (f"x{layer}_tr{i}", f"x{layer}_near{j}", f"elig{layer}", node, top.gnd)
                top.X(f"_{node}", "eligibility", *ports, unit=repr(WIDTH * mean / ELIGIBILITY))
    odds = "+".join(f"exp(v(count{k}))" for k in range(classes))
    for k in range(classes):
        _integrate(top, f"count{k}", f"{c / WIDTH!r}*v(count)*v(x2_spk{k})", c)
        top.BehavioralSource(f"_wrong{k}", f"wrong{k}", top.gnd, v=f"exp(v(count{k}))/({odds})-v(wanted{k})")
        top.X(f"_err{k}", "error_neuron", f"wrong{k}", "learn", "latch", "send", f"espk{k}", top.gnd, slot=repr(WIDTH))
        _drive(top, f"err{k}", f"espk{k}", network.read)
        _integrate(top, f"net{k}", f"{DENDRITE * c / WIDTH!r}*v(espk{k})", c)
    for j in range(hidden):
        _ground(top, f"dcol{j}", f"dend{j}")
        _hold(top, f"dend{j}", current * WIDTH / DENDRITE)
    return top


def _integrate(top: Circuit, node: str, current: str, c: float) -> None:
    """Add a capacitor that a current in A charges."""
    top.BehavioralSource(f"_{node}", top.gnd, node, i=current)
    _hold(top, node, c)


def _hold(top: Circuit, node: str, c: float) -> None:
    top.C(f"_{node}", node, top.gnd, repr(c))
    top.R(f"_{node}", node, top.gnd, 1e15)


def spikes_section(network: BioGradNetwork, spikes: Floats, label: int) -> Section:
    """Return the sources of one sample: spikes ``[steps, inputs]``, 0 or 1, and the label.

    Raises
    ------
    InputError: shapes do not fit the network, or there is no such class.
    """
    if spikes.ndim != 2 or spikes.shape[1] != network.sizes[0] or not len(spikes) or not np.isin(spikes, (0, 1)).all():
        raise InputError(
            f"network {network.name}: spikes {spikes.shape}; give 0 and 1 of shape [steps, {network.sizes[0]}]."
        )
    if not 0 <= label < network.sizes[2]:
        raise InputError(f"network {network.name}: label {label!r}; it has classes 0 to {network.sizes[2] - 1}.")
    top = Circuit("presentation")
    for i in range(network.sizes[0]):
        top.V(f"_bit{i}", f"bit{i}", top.gnd, _bits(spikes[:, i]))
    for k in range(network.sizes[2]):
        top.V(f"_wanted{k}", f"wanted{k}", top.gnd, int(k == label))
    return Section("presentation.inc", "one sample", (), top)


def _bits(values: Sequence[float] | Floats) -> str:
    """Return a source that has each value for one step; it changes in the last slot, where nobody reads it."""
    points = [(0.0, values[0])]
    for k in range(1, len(values)):
        if values[k] != values[k - 1]:
            end = k * STEP - SLOT / 2
            points += [(end, values[k - 1]), (end + EDGE, values[k])]
    return f"pwl({' '.join(f'{t!r} {int(v)}' for t, v in points)})"
