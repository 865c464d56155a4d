"""Clocked spiking networks as netlists: one hidden layer, in slots of each time step. Rules of discrete steps run on them.

A step has the slots ``pulse1`` (what the first crossbar gives), ``sample1`` (hidden somata), the same of the second crossbar and the
outputs, then those of what learns, and ``reset``. Currents of columns, which are virtual grounds, are mirrored into somata. Capacitors
are such that a pulse through a weight of 1 is 1 V at a soma when its sampling ends. Nodes: ``x<l>_soma<j>``, ``x<l>_spk<j>``,
``x<l>_near<j>``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PySpice.Spice.Netlist import Circuit

from memprop.circuit.cell import load_cell
from memprop.circuit.section import Section
from memprop.conductance.pair import ConductanceRange
from memprop.errors import InputError, positive

Floats = NDArray[np.float64]
CLOCKS = {
    "pulse1": 0, "sample1": 1, "pulse2": 2, "sample2": 3, "elig1": 4, "count": 5, "elig2": 6, "integrate": 7, "latch": 8, "send": 9,
    "reset": 10,
}  # fmt: skip
"""Slot of a step in which each clock is high. From its pulse to its eligibility it is as long for both crossbars."""
SLOT, EDGE = 2e-7, 5e-9
"""Length of a slot and of an edge, in s."""
WIDTH = SLOT - 3 * EDGE
"""Effective length of a pulse in a slot, in s: edges count half."""
SLOTS = 12
"""Of a step."""
STEP = SLOTS * SLOT
SAMPLED = 1.0 - 1.5 * EDGE / SLOT
"""Slots from the end of a pulse to the end of sampling."""
NEVER = 1e3
"""Threshold in V of outputs that do not spike."""


def time_constant(decay: float) -> float:
    """Return the time constant in s of what decays by ``decay`` in a step."""
    return STEP / -math.log(decay)


def left(tau: float, slots: float) -> float:
    """Return what a charge of 1, spread over one slot, has left ``slots`` after the end of the slot."""
    return tau / SLOT * (1.0 - math.exp(-SLOT / tau)) * math.exp(-slots * SLOT / tau)


def clocks() -> Circuit:
    """Return the sources of all clocks."""
    top = Circuit("clocks")
    for name, slot in CLOCKS.items():
        pulse = f"pulse(0 1 {slot * SLOT + EDGE!r} {EDGE!r} {EDGE!r} {SLOT - 4 * EDGE!r} {STEP!r})"
        top.V(f"_{name}", name, top.gnd, pulse)
    return top


def levels(values: Sequence[float] | Floats) -> str:
    """Return a source that has each value for one step; it changes in the last slot, where nobody reads it."""
    points = [(0.0, values[0])]
    for k in range(1, len(values)):
        if values[k] != values[k - 1]:
            end = k * STEP - SLOT / 2
            points += [(end, values[k - 1]), (end + EDGE, values[k])]
    return f"pwl({' '.join(f'{t!r} {float(v)!r}' for t, v in points)})"


def drive_pair(top: Circuit, row: str, pulse: str, read: float) -> None:
    """Drive both rows of pairs, at plus and minus a pulse."""
    for sign, end in ((1.0, "p"), (-1.0, "n")):
        top.VoltageControlledVoltageSource(
            f"_{row}_{end}", f"{row}_{end}", top.gnd, pulse, top.gnd, voltage_gain=repr(sign * read)
        )


def mirror(top: Circuit, column: str, into: str) -> None:
    """Hold a column at ground and mirror its current into a node."""
    top.V(f"_{column}", column, top.gnd, 0)
    top.CurrentControlledCurrentSource(f"_{column}", top.gnd, into, f"v_{column}", current_gain=1)


def pairs_of_resistors(
    top: Circuit, name: str, weight: Floats, window: ConductanceRange, row: str, column: str
) -> None:
    """Add a crossbar: two resistors for each signed conductance in S, ``[rows, columns]``."""
    pairs = [1.0 / g for g in window.to_pair(weight)]
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            for sign, r in zip("pn", pairs, strict=True):
                top.R(f"{name}_{i}_{j}_{sign}", f"{row}{i}_{sign}", f"{column}{j}", repr(float(r[i, j])))


@dataclass(frozen=True, slots=True)
class Somata:
    """Constants of the neurons of a layer; voltages are those of weights: 1 V is a weight of 1."""

    decay: float
    threshold: float
    near: float = 0.3
    """Half width of the window comparator, in V."""
    hard: bool = True
    """Whether a spike discharges the soma, or takes its threshold away."""

    def capacitance(self, current: float) -> float:
        """Return the capacitance in F at which a pulse of ``current`` in A is 1 V when it is sampled."""
        return current * WIDTH * left(time_constant(self.decay), SAMPLED)

    def parameters(self, layer: int, current: float) -> dict[str, str]:
        """Return the parameters of the cell in layer 1 or 2, where a weight of 1 gives ``current`` in A."""
        tau, c = time_constant(self.decay), self.capacitance(current)
        # Taken away in the slot of reset, it is missing, decayed, when the next step is sampled: there the rule wants decay x threshold.
        slots = SLOTS - (CLOCKS["reset"] + 1) + CLOCKS[f"sample{layer}"] + SAMPLED
        packet = self.threshold * self.decay / left(tau, slots)
        return {"c": repr(c), "rleak": repr(tau / c), "th": repr(self.threshold), "window": repr(self.near),
                "hard": repr(float(self.hard)), "packet": repr(packet), "slot": repr(WIDTH)}  # fmt: skip


def neurons(top: Circuit, layer: int, count: int, somata: Somata, current: float) -> None:
    """Add the neurons of a layer."""
    for j in range(count):
        ports = (f"x{layer}_soma{j}", f"x{layer}_spk{j}", f"x{layer}_near{j}", f"sample{layer}", "reset", top.gnd)
        top.X(f"_x{layer}_{j}", "clocked_neuron", *ports, **somata.parameters(layer, current))


@dataclass(frozen=True, slots=True)
class ClockedNetwork:
    """Inputs, one hidden layer and outputs, with a row of bias in each crossbar, that learn elsewhere.

    Outputs whose threshold is `NEVER` do not spike: their somata are the readout.

    Raises
    ------
    InputError: shapes do not follow each other, a weight is beyond the window, or a number is out of range.
    """

    name: str
    weights: tuple[Floats, Floats]
    """Signed conductances in S: ``[inputs + 1, hidden]``, ``[hidden + 1, outputs]``."""
    unit: float
    """Conductance in S of a weight of 1."""
    hidden: Somata
    outputs: Somata
    window: ConductanceRange = field(default_factory=ConductanceRange)
    read: float = 0.2
    """Voltage of a pulse on a row, in V."""

    def __post_init__(self) -> None:
        first, second = self.weights
        if first.ndim != 2 or second.ndim != 2 or second.shape[0] != first.shape[1] + 1:
            raise InputError(
                f"network {self.name}: crossbars {first.shape} and {second.shape} are no two layers with rows of bias."
            )
        decays = 0.0 < self.hidden.decay < 1.0 and 0.0 < self.outputs.decay < 1.0
        if not positive(self.unit, self.read) or not decays:
            raise InputError(
                f"network {self.name}: unit = {self.unit!r} S, read = {self.read!r} V, decays {self.hidden.decay!r} and "
                f"{self.outputs.decay!r}; need positive numbers, and decays below 1."
            )
        for weight in self.weights:
            self.window.to_pair(weight)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of inputs, hidden neurons and outputs."""
        return self.weights[0].shape[0] - 1, self.weights[0].shape[1], self.weights[1].shape[1]


def clocked_sections(network: ClockedNetwork) -> tuple[Section, ...]:
    """Return what does not depend on the sample: second crossbar, clocks, neurons.

    The spikes of the inputs are known, and so are the currents of the first crossbar: its sources, in `spikes_section`, stand for it.
    """
    crossbar, top = Circuit("crossbar"), Circuit("neurons")
    current = network.unit * network.read
    _, hidden, classes = network.sizes
    pairs_of_resistors(crossbar, "1", network.weights[1], network.window, "x1_row", "x2_col")
    neurons(top, 1, hidden, network.hidden, current)
    neurons(top, 2, classes, network.outputs, current)
    for i in range(hidden + 1):
        bit = "1" if i == hidden else f"v(x1_spk{i})"
        top.BehavioralSource(f"_x1_pulse{i}", f"x1_pulse{i}", top.gnd, v=f"{bit}*v(pulse2)")
        drive_pair(top, f"x1_row{i}", f"x1_pulse{i}", network.read)
    for k in range(classes):
        mirror(top, f"x2_col{k}", f"x2_soma{k}")
    return (
        Section("conductances.inc", "second crossbar: two resistors per pair", (), crossbar),
        Section("clocks.inc", "slots of a step", (), clocks()),
        Section("neurons.inc", "rows, columns, somata", (load_cell("clocked_neuron").subcircuit,), top),
    )


def input_section(network: ClockedNetwork, spikes: Floats) -> Section:
    """Return the currents of the first crossbar under spikes ``[steps, inputs]`` of the inputs, 0 or 1.

    Raises
    ------
    InputError: the shape does not fit the network.
    """
    check_spikes(network.name, spikes, network.sizes[0])
    weight, top, current = network.weights[0] / network.unit, Circuit("presentation"), network.unit * network.read
    drives = spikes @ weight[:-1] + weight[-1]
    for j in range(network.sizes[1]):
        top.V(f"_drive{j}", f"drive{j}", top.gnd, levels(drives[:, j]))
        top.BehavioralSource(f"_x1_soma{j}", top.gnd, f"x1_soma{j}", i=f"{current!r}*v(drive{j})*v(pulse1)")
    return Section("presentation.inc", "one sample: what the first crossbar gives", (), top)


def check_spikes(name: str, spikes: Floats, inputs: int) -> None:
    """Raise InputError unless spikes are 0 and 1 of shape ``[steps, inputs]``."""
    if spikes.ndim != 2 or spikes.shape[1] != inputs or not len(spikes) or not np.isin(spikes, (0, 1)).all():
        raise InputError(f"network {name}: spikes {spikes.shape}; give 0 and 1 of shape [steps, {inputs}].")
