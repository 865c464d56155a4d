"""Spiking networks that learn by EqSpike, as netlists: synapses read from both ends, traces, accumulators.

Rows of the second crossbar are driven at plus and minus the spikes of the hidden neurons, its columns at the spikes of the outputs. The
current into either driver is what the other side's spikes tell: one pair serves both ways. It also holds what the own spike draws from
all pairs of the line; a replica of their total conductance, driven alike, takes that away. Nodes: ``x1_spk<j>``, ``x2_spk<k>`` (spikes),
``x<l>_mov<j>`` (movement of the rate), ``x<l>_acc<j>`` (its integral), ``q_<j>_<k>`` (accumulator of a synapse), ``push`` (the nudge, in
highest rates per spike of error), ``learn`` (high while accumulators count).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PySpice.Spice.Netlist import Circuit

from memprop.circuit.cell import Cell, load_cell
from memprop.circuit.section import Section
from memprop.conductance.pair import ConductanceRange
from memprop.errors import InputError, positive

Floats = NDArray[np.float64]
READ = 0.2
"""Voltage of a spike on a line, in V."""
RAMP = 1e-7
"""Time in s in which the nudge turns over."""


@dataclass(frozen=True, slots=True)
class EqSpikeNetwork:
    """Inputs, one hidden layer and outputs, with a row of bias in each crossbar.

    Raises
    ------
    InputError: shapes do not follow each other, a weight is beyond the window, or the cell is of another kind.
    """

    name: str
    weights: tuple[Floats, Floats]
    """Signed conductances G+ - G- in S, ``[inputs + 1, hidden]`` and ``[hidden + 1, outputs]``."""
    unit: float
    """Conductance in S that drives a neuron at its highest rate, from one row at its highest rate."""
    window: ConductanceRange = field(default_factory=ConductanceRange)
    neuron: Cell = field(default_factory=lambda: load_cell("packet_neuron"))
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Parameters of all neurons that differ from the card."""
    read: float = READ
    fast: float = 2e-6
    slow: float = 15e-6
    """Time constants of the traces, in s."""

    def __post_init__(self) -> None:
        first, second = self.weights
        if first.ndim != 2 or second.ndim != 2 or second.shape[0] != first.shape[1] + 1:
            raise InputError(
                f"network {self.name}: crossbars {first.shape} and {second.shape}; the second needs one more row than the first columns."
            )
        if not positive(self.unit, self.read, self.fast, self.slow) or not self.fast < self.slow:
            raise InputError(
                f"network {self.name}: unit = {self.unit!r} S, read = {self.read!r} V, fast = {self.fast!r} s, slow = {self.slow!r} s; "
                "need positive numbers, and fast below slow."
            )
        if self.neuron.card.kind != "rate":
            raise InputError(
                f"network {self.name}: cell {self.neuron.name} has no output of spikes. Use packet_neuron or switch_neuron."
            )
        self.neuron.values(1, self.parameters)
        for weight in self.weights:
            self.window.to_pair(weight)

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Numbers of inputs, hidden neurons and outputs."""
        return self.weights[0].shape[0] - 1, self.weights[0].shape[1], self.weights[1].shape[1]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Cells of the netlist."""
        return self.neuron, load_cell("rate_trace"), load_cell("spike_accumulator")

    @property
    def neurons(self) -> list[str]:
        """Names of all neurons without their number of node: hidden ones first."""
        return [f"x{layer}_{{}}{j}" for layer in (1, 2) for j in range(self.sizes[layer])]

    def nodes(self, what: str) -> list[str]:
        """Return a node of each neuron, ``spk``, ``mov`` or ``acc``, hidden ones first."""
        return [name.format(what) for name in self.neurons]

    def sums(self) -> list[list[str]]:
        """Return the nodes of the synapses' accumulators, ``[hidden][outputs]``."""
        return [[f"q_{j}_{k}" for k in range(self.sizes[2])] for j in range(self.sizes[1])]

    def drivers(self, *, reduced: bool = False) -> list[str]:
        """Return the sources that drive lines, through which all current flows; ``reduced``: of what the first crossbar does not carry."""
        lines = [] if reduced else [f"v_x0_row{i}_{sign}" for i in range(self.sizes[0]) for sign in "pn"]
        lines += ["v_bias_p", "v_bias_n"]
        lines += [f"v_x1_row{j}_{sign}" for j in range(self.sizes[1]) for sign in "pnr"]
        return lines + [f"v_x2_col{k}{r}" for k in range(self.sizes[2]) for r in ("", "_r")]


def eqspike_sections(network: EqSpikeNetwork, membranes: Floats, *, reduced: bool = False) -> tuple[Section, ...]:
    """Return what does not depend on the sample: crossbars, neurons with membranes of ``[hidden + outputs]`` in V, what learns.

    ``reduced``: inputs are constant and columns of the first crossbar are virtual grounds, so sources of `presentation_section` stand for
    it, with the same currents.
    """
    if membranes.shape != (len(network.neurons),) or not np.isfinite(membranes).all():
        raise InputError(
            f"network {network.name}: membranes of shape {membranes.shape}; give {len(network.neurons)} finite values in V."
        )
    return (
        Section("conductances.inc", "crossbars: two resistors per pair, replicas", (), _crossbars(network, reduced)),
        Section("neurons.inc", "neurons, drivers", (network.neuron.subcircuit,), _neurons(network, membranes, reduced)),
        Section("learning.inc", "traces and accumulators", tuple(c.subcircuit for c in network.cells[1:]), _learning(network)),
    )  # fmt: skip


def _rows(network: EqSpikeNetwork, layer: int) -> list[str]:
    return [*(f"x{layer}_row{i}" for i in range(network.sizes[layer])), "bias"]


def _crossbars(network: EqSpikeNetwork, reduced: bool) -> Circuit:
    top = Circuit("crossbars")
    for layer, weight in list(enumerate(network.weights))[reduced:]:
        pairs = [1.0 / g for g in network.window.to_pair(weight)]
        for i, row in enumerate(_rows(network, layer)):
            for j in range(weight.shape[1]):
                for sign, r in zip("pn", pairs, strict=True):
                    top.R(f"{layer}_{i}_{j}_{sign}", f"{row}_{sign}", f"x{layer + 1}_col{j}", repr(float(r[i, j])))
    total = np.add(*network.window.to_pair(network.weights[1]))
    for j in range(network.sizes[1]):
        top.R(f"_x1_row{j}_r", f"x1_row{j}_r", top.gnd, repr(float(1.0 / total[j].sum())))
    for k in range(network.sizes[2]):
        top.R(f"_x2_col{k}_r", f"x2_col{k}_r", top.gnd, repr(float(1.0 / total[:, k].sum())))
    return top


def _neurons(network: EqSpikeNetwork, membranes: Floats, reduced: bool) -> Circuit:
    top, read = Circuit("neurons"), network.read
    top.V("_bias_p", "bias_p", top.gnd, read)
    top.V("_bias_n", "bias_n", top.gnd, -read)
    for place, (spike, start) in enumerate(zip(network.nodes("spk"), membranes, strict=True)):
        given = {name: repr(float(value)) for name, value in {**network.parameters, "v0": start}.items()}
        base = spike.replace("spk", "{}")
        top.X(
            f"_{base.format('')}", network.neuron.name, base.format("in"), base.format("mem"), spike, top.gnd, **given
        )
        if place < network.sizes[1]:
            # Columns of inputs end at a virtual ground; inputs do not listen, so this array needs no replica.
            if not reduced:
                top.V(f"_{base.format('col')}", base.format("col"), top.gnd, 0)
                _mirror(top, base.format("col"), base.format("in"), 1.0)
            _line(
                top,
                base.format("row"),
                spike,
                base.format("in"),
                read,
                (("_p", 1.0, 1.0), ("_n", -1.0, -1.0), ("_r", 1.0, -1.0)),
            )
        else:
            _line(top, base.format("col"), spike, base.format("in"), read, (("", 1.0, 1.0), ("_r", 1.0, -1.0)))
    return top  # fmt: skip


def _line(
    top: Circuit, line: str, spike: str, into: str, read: float, ends: Sequence[tuple[str, float, float]]
) -> None:
    """Drive lines of a neuron at its spikes, each times its sign, and give the current into each driver, times a gain, to ``into``."""
    for end, sign, gain in ends:
        top.VoltageControlledVoltageSource(
            f"_{line}{end}", f"{line}{end}_drv", top.gnd, spike, top.gnd, voltage_gain=repr(sign * read)
        )
        top.V(f"_{line}{end}", f"{line}{end}", f"{line}{end}_drv", 0)
        _mirror(top, f"{line}{end}", into, gain)


def _mirror(top: Circuit, meter: str, into: str, gain: float) -> None:
    top.CurrentControlledCurrentSource(f"_{meter}", top.gnd, into, f"V_{meter}".lower(), current_gain=repr(gain))


def _learning(network: EqSpikeNetwork) -> Circuit:
    top = Circuit("learning")
    top.V("_one", "one", top.gnd, 1)
    unit = repr(network.slow - network.fast)
    times = {"fast": repr(network.fast), "slow": repr(network.slow)}
    spikes, moving, sums = (network.nodes(what) for what in ("spk", "mov", "acc"))
    for spike, mov, acc in zip(spikes, moving, sums, strict=True):
        top.X(f"_{mov}", "rate_trace", spike, mov, top.gnd, **times)
        top.X(f"_{acc}", "spike_accumulator", "one", top.gnd, top.gnd, mov, "learn", acc, top.gnd, unit=unit)
    hidden = network.sizes[1]
    for j, row in enumerate(network.sums()):
        for k, node in enumerate(row):
            ends = (spikes[j], moving[j], spikes[hidden + k], moving[hidden + k])
            top.X(f"_{node}", "spike_accumulator", *ends, "learn", node, top.gnd, unit=unit)
    return top


def presentation_section(
    network: EqSpikeNetwork, inputs: Floats, target: Floats, nudges: Sequence[float], ends: Sequence[float],
    *, reduced: bool = False,
) -> Section:  # fmt: skip
    """Return the sources of one sample: inputs ``[inputs]`` in 0 to 1, wanted rates ``[outputs]``, and the nudge of each phase.

    ``ends`` are the times in s at which phases end. Outputs get the nudge times (wanted - spike) as a current, 1 being the unit times the
    voltage of a spike; accumulators count in the last phase.

    Raises
    ------
    InputError: shapes do not fit the network, or times do not rise.
    """
    sizes = network.sizes
    if inputs.shape != sizes[:1] or target.shape != sizes[2:] or not np.isfinite([*inputs, *target, *nudges]).all():
        raise InputError(
            f"network {network.name}: inputs {inputs.shape}, targets {target.shape}, nudges {list(nudges)!r}; give {sizes[0]} and "
            f"{sizes[2]} numbers, all finite."
        )
    if len(nudges) != len(ends) or not ends or any(b - a <= 2 * RAMP for a, b in zip([0.0, *ends], ends, strict=False)):
        raise InputError(
            f"network {network.name}: nudges {list(nudges)!r} until {list(ends)!r} s; each phase needs its end, in order."
        )
    top = _reduced_inputs(network, inputs) if reduced else _inputs(network, inputs)
    current = network.unit * network.read
    top.V("_push", "push", top.gnd, _steps(nudges, ends))
    top.V("_learn", "learn", top.gnd, _steps([0.0] * (len(ends) - 1) + [1.0], ends))
    for k, wanted in enumerate(target):
        top.BehavioralSource(
            f"_nudge{k}", top.gnd, f"x2_mem{k}", i=f"{current!r}*v(push)*({float(wanted)!r}-v(x2_spk{k}))"
        )
    return Section("presentation.inc", "one sample", (), top)  # fmt: skip


def _inputs(network: EqSpikeNetwork, inputs: Floats) -> Circuit:
    top = Circuit("presentation")
    for i, value in enumerate(inputs):
        for sign, end in ((1.0, "p"), (-1.0, "n")):
            top.V(f"_x0_row{i}_{end}", f"x0_row{i}_{end}", top.gnd, repr(sign * network.read * float(value)))
    return top


def _reduced_inputs(network: EqSpikeNetwork, inputs: Floats) -> Circuit:
    """Return the currents of the first crossbar's columns."""
    top, first = Circuit("presentation"), network.weights[0]
    for j, current in enumerate(network.read * (inputs @ first[:-1] + first[-1])):
        top.I(f"_x1_in{j}", top.gnd, f"x1_in{j}", repr(float(current)))
    return top


def _steps(values: Sequence[float], ends: Sequence[float]) -> str:
    """Return a source that has each value until its end."""
    points = [(0.0, values[0])]
    for before, after, end in zip(values, values[1:], ends, strict=False):
        points += [(end, before), (end + RAMP, after)]
    return f"pwl({' '.join(f'{t!r} {float(v)!r}' for t, v in points)})"
