"""Spiking networks that learn by BioGrad, as netlists: a clocked network (`circuit.clocked`), and what learns.

Each step eligibilities grow while the neuron is near its threshold. From step ``start`` on error neurons integrate (slot ``integrate``),
fire (``latch``), and send spikes (``send``) through the feedback crossbar into the dendrites. Nodes besides those of the network:
``x<l>_tr<i>`` (traces of the rows of crossbar l - 1), ``e<l>_<i>_<j>`` (eligibilities), ``dend<j>``, ``net<k>`` (dendrites of hidden
neurons and outputs), ``count<k>``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PySpice.Spice.Netlist import Circuit

from memprop.circuit.cell import Cell, load_cell
from memprop.circuit.clocked import (
    EDGE,
    SLOT,
    STEP,
    WIDTH,
    Somata,
    check_spikes,
    clocks,
    drive_pair,
    left,
    levels,
    mirror,
    neurons,
    pairs_of_resistors,
    time_constant,
)
from memprop.circuit.section import Section
from memprop.conductance.pair import ConductanceRange
from memprop.errors import InputError, positive

Floats = NDArray[np.float64]
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
        return time_constant(self.decay)

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
    top, (first, second, back) = Circuit("crossbars"), network.weights
    pairs_of_resistors(top, "0", first, network.window, "x0_row", "x1_col")
    pairs_of_resistors(top, "1", second, network.window, "x1_row", "x2_col")
    # The feedback crossbar has a row per class and a column per hidden neuron.
    pairs_of_resistors(top, "2", back.T, network.window, "err", "dcol")
    return top


def _clocks(start: int) -> Circuit:
    top, begin = clocks(), start * STEP - SLOT
    top.V("_late", "late", top.gnd, 1 if start == 0 else f"pwl(0 0 {begin!r} 0 {begin + EDGE!r} 1)")
    top.BehavioralSource("_learn", "learn", top.gnd, v="v(integrate)*v(late)")
    return top


def _neurons(network: BioGradNetwork) -> Circuit:
    top, current = Circuit("neurons"), network.unit * network.read
    somata = Somata(network.decay, network.threshold, network.near)
    for layer in (1, 2):
        for i in range(network.rows(layer - 1)):
            bit = "1" if i == network.sizes[layer - 1] else f"v(bit{i})" if layer == 1 else f"v(x1_spk{i})"
            pulse = f"x{layer - 1}_pulse{i}"
            top.BehavioralSource(f"_{pulse}", pulse, top.gnd, v=f"{bit}*v(pulse{layer})")
            drive_pair(top, f"x{layer - 1}_row{i}", pulse, network.read)
        for j in range(network.sizes[layer]):
            mirror(top, f"x{layer}_col{j}", f"x{layer}_soma{j}")
        neurons(top, layer, network.sizes[layer], somata, current)
    return top


def _learning(network: BioGradNetwork) -> Circuit:
    top, (_, hidden, classes) = Circuit("learning"), network.sizes
    current, c = network.unit * network.read, CAPACITANCE
    trace = {"c": repr(c), "rleak": repr(network.tau / c), "drive": repr(c / (WIDTH * left(network.tau, 0.0)))}
    # A trace of 1 right after its pulse has this mean in the slot of eligibilities, which begins three slots later.
    mean = left(network.tau, 3.0)
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
        drive_pair(top, f"err{k}", f"espk{k}", network.read)
        _integrate(top, f"net{k}", f"{DENDRITE * c / WIDTH!r}*v(espk{k})", c)
    for j in range(hidden):
        mirror(top, f"dcol{j}", f"dend{j}")
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
    check_spikes(network.name, spikes, network.sizes[0])
    if not 0 <= label < network.sizes[2]:
        raise InputError(f"network {network.name}: label {label!r}; it has classes 0 to {network.sizes[2] - 1}.")
    top = Circuit("presentation")
    for i in range(network.sizes[0]):
        top.V(f"_bit{i}", f"bit{i}", top.gnd, levels(spikes[:, i]))
    for k in range(network.sizes[2]):
        top.V(f"_wanted{k}", f"wanted{k}", top.gnd, int(k == label))
    return Section("presentation.inc", "one sample", (), top)
