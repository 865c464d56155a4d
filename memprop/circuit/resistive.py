"""Resistive networks that learn by equilibrium propagation, as netlists: crossbars whose columns are free nodes, with diode neurons.

Unlike the crossbars of spiking networks, columns are no virtual grounds here: a column takes the voltage at which the currents of
its conductances and diodes cancel, and loads its rows. Nodes: ``x0_row<i>_p``, ``x0_row<i>_n`` (input ``i`` and its negative),
``x<k>_col<j>`` (node of layer k), ``x<k>_row<j>`` (the same amplified), ``bias_p``, ``bias_n``, ``sample``, whose voltage counts
the samples. ``twin.resistive`` solves the same network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PySpice.Spice.Netlist import Circuit

from memprop.circuit.cell import Cell, as_cell
from memprop.circuit.section import Section
from memprop.conductance.pair import ConductanceRange
from memprop.errors import InputError

Floats = NDArray[np.float64]
SAMPLE = "v_sample"
"""The source whose voltage counts the samples."""


def crossbar_shapes(sizes: Sequence[int]) -> list[tuple[int, int]]:
    """Return rows and columns of the crossbars of a network of these numbers of inputs and nodes."""
    rows = [2 * sizes[0] + 2, *(size + 2 for size in sizes[1:-1])]
    return list(zip(rows, sizes[1:], strict=True))


@dataclass(frozen=True, slots=True)
class ResistiveNetwork:
    """Layers of free nodes between crossbars.

    Raises
    ------
    InputError: shapes do not follow each other, a conductance is outside of the window, or the cell is of another kind.
    """

    name: str
    conductances: tuple[Floats, ...]
    """In S, ``[rows, columns]`` each. Rows of the first: inputs, their negatives, two of bias; of others: nodes before, two of bias."""
    neuron: Cell = field(default_factory=lambda: as_cell("diode_neuron", "bidirectional", "diode_neuron"))
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Parameters of all neurons that differ from the card."""
    window: ConductanceRange = field(default_factory=lambda: ConductanceRange(1e-7, 1e-5))
    bias: float = 1.0
    """Voltage of the rows of bias, plus and minus, in V."""

    def __post_init__(self) -> None:
        if not self.conductances:
            raise InputError(f"network {self.name}: no crossbar. Give the conductances of one or more.")
        if not np.isfinite(self.bias):
            raise InputError(f"network {self.name}: bias = {self.bias!r} V is no finite number.")
        if self.neuron.card.kind != "bidirectional":
            raise InputError(
                f"network {self.name}: cell {self.neuron.name} is no bidirectional neuron. Use diode_neuron."
            )
        self.neuron.values(1, self.parameters)
        for k, g in enumerate(self.conductances):
            rows = f"{self.conductances[k - 1].shape[1]} nodes before and 2" if k else "twice the inputs and 2"
            fits = g.ndim == 2 and (
                g.shape[0] == self.conductances[k - 1].shape[1] + 2 if k else g.shape[0] % 2 == 0 < g.shape[0] - 2
            )
            if not fits:
                raise InputError(
                    f"network {self.name}, crossbar {k}: shape {g.shape}; it needs rows for {rows} of bias."
                )
            wrong = ~((g >= self.window.g_min) & (g <= self.window.g_max))
            if wrong.any():
                row, column = (int(i) for i in np.argwhere(wrong)[0])
                raise InputError(
                    f"network {self.name}, crossbar {k}, row {row}, column {column}: {float(g[row, column])!r} S is outside of "
                    f"[{self.window.g_min!r}, {self.window.g_max!r}] S ({int(wrong.sum())} such cells). Clip them."
                )

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return (self.conductances[0].shape[0] - 2) // 2

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of inputs and of the nodes of each layer."""
        return (self.inputs, *(g.shape[1] for g in self.conductances))

    def rows(self, layer: int) -> list[str]:
        """Return the nodes of the rows of a crossbar."""
        if layer:
            names = [f"x{layer}_row{j}" for j in range(self.sizes[layer])]
        else:
            names = [f"x0_row{i}_{sign}" for sign in "pn" for i in range(self.inputs)]
        return [*names, "bias_p", "bias_n"]

    def columns(self, layer: int) -> list[str]:
        """Return the nodes of the columns of a crossbar."""
        return [f"x{layer + 1}_col{j}" for j in range(self.sizes[layer + 1])]


def network_sections(network: ResistiveNetwork) -> tuple[Section, ...]:
    """Return what does not depend on the sample: neurons, crossbars, bias."""
    crossbars, neurons = Circuit("crossbars"), Circuit("neurons")
    neurons.V("_bias_p", "bias_p", neurons.gnd, network.bias)
    neurons.V("_bias_n", "bias_n", neurons.gnd, -network.bias)
    for layer, g in enumerate(network.conductances):
        rows, columns = network.rows(layer), network.columns(layer)
        for j, column in enumerate(columns):
            for i, row in enumerate(rows):
                crossbars.R(f"{layer}_{i}_{j}", row, column, repr(1.0 / float(g[i, j])))
    for layer in range(1, len(network.conductances)):
        for j, node in enumerate(network.columns(layer - 1)):
            given = {name: repr(float(value)) for name, value in network.parameters.items()}
            neurons.X(f"{layer}_{j}", network.neuron.name, node, f"x{layer}_row{j}", neurons.gnd, **given)
    return (
        Section("conductances.inc", "crossbars: one resistor per cell", (), crossbars),
        Section("neurons.inc", "neurons and bias", (network.neuron.subcircuit,), neurons),
    )


def sample_section(network: ResistiveNetwork, inputs: Floats, currents: Floats | None = None) -> Section:
    """Return the sources of samples: inputs in V, ``[N, inputs]``, and currents into the outputs in A, ``[N, outputs]``.

    Sample k is what they are while the voltage of ``sample`` is k.

    Raises
    ------
    InputError: shapes do not fit the network, or a value is not finite.
    """
    _check(network, inputs, network.inputs, "inputs")
    top = Circuit("samples")
    top.V(SAMPLE.removeprefix("v"), "sample", top.gnd, 0)
    for i in range(network.inputs):
        top.BehavioralSource(f"_x0_row{i}", f"x0_row{i}_p", top.gnd, v=_table(inputs[:, i]))
        top.VoltageControlledVoltageSource(
            f"_x0_row{i}", f"x0_row{i}_n", top.gnd, f"x0_row{i}_p", top.gnd, voltage_gain=-1
        )
    if currents is not None:
        _check(network, currents, network.sizes[-1], "currents")
        if len(currents) != len(inputs):
            raise InputError(
                f"network {network.name}: {len(inputs)} samples, but currents of {len(currents)}. Make them equal."
            )
        for k, node in enumerate(network.columns(len(network.conductances) - 1)):
            top.BehavioralSource(f"_nudge{k}", top.gnd, node, i=_table(currents[:, k]))
    return Section("samples.inc", f"{len(inputs)} samples", (), top)


def signal_section(network: ResistiveNetwork, inputs: Floats, currents: Floats) -> Section:
    """Return the sources of one sample, ``[inputs]`` in V, with small signals ``[outputs]`` in A into the outputs (AC values)."""
    section = sample_section(network, inputs[None])
    _check(network, currents[None], network.sizes[-1], "currents")
    for k, (node, value) in enumerate(zip(network.columns(len(network.conductances) - 1), currents, strict=True)):
        section.top.I(f"_nudge{k}", section.top.gnd, node, f"dc 0 ac {float(value)!r}")
    return section


def _check(network: ResistiveNetwork, values: Floats, width: int, what: str) -> None:
    if values.ndim != 2 or values.shape[1] != width or not len(values):
        raise InputError(f"network {network.name}: {what} of shape {values.shape}, needed is [samples, {width}].")
    if not np.isfinite(values).all():
        raise InputError(f"network {network.name}: {int((~np.isfinite(values)).sum())} {what} are not finite numbers.")


def _table(values: Sequence[float] | Floats) -> str:
    """Return an expression that is the k-th value at the k-th sample."""
    if len(values) == 1:
        return repr(float(values[0]))
    return f"pwl(v(sample),{','.join(_points(values))})"


def _points(values: Sequence[float] | Floats) -> Iterator[str]:
    for k, value in enumerate(values):
        yield f"{k},{float(value)!r}"
