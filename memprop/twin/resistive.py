"""Fast solver of resistive networks: the operating points of `memprop.circuit.resistive`, many samples at once.

Nodes of each layer are tied by conductances to the rows below, which are ideal drivers: first the inputs and their negatives, later the
nodes of the layer before, amplified; two rows of bias join each. Nodes of hidden layers have a pair of antiparallel diodes to
ground. An amplifier of gain A gives the rows their voltage and returns 1/A of their current to its node (Kendall et al.,
arXiv:2006.01981). Kirchhoff's law at all nodes is solved by Newton's method; eliminating one layer after the other leaves dense systems
of the later layers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from memprop.circuit.cell import load_cell
from memprop.circuit.resistive import ResistiveNetwork
from memprop.errors import ConvergenceError, InputError, positive

THERMAL = 1.380649e-23 * 300.15 / 1.602176634e-19
"""Thermal voltage k T / q in V at 27 degrees Celsius."""
_ITERATIONS = 200
_SETTLED = 1e-12
"""Largest last step of Newton's method in V."""


@dataclass(frozen=True, slots=True)
class Settled:
    """Operating points of B samples."""

    rows: tuple[Tensor, ...]
    """Voltages of the rows of each crossbar in V, ``[B, rows]``."""
    nodes: tuple[Tensor, ...]
    """Voltages of the nodes of each layer in V, ``[B, columns]``."""

    @property
    def outputs(self) -> Tensor:
        """Voltages of the output nodes in V, ``[B, classes]``."""
        return self.nodes[-1]

    def drops(self, layer: int) -> Tensor:
        """Return the voltages across the conductances of a crossbar in V, ``[B, rows, columns]``."""
        return self.rows[layer][:, :, None] - self.nodes[layer][:, None, :]


class ResistiveTwin:
    """Resistive network of crossbars ``conductances`` in S, each ``[rows, columns]``.

    Parameters
    ----------
    conductances: the first has two rows per input, ``+x`` then ``-x``, and two of bias; the others one per node before, and two of bias.
    gain: of the amplifiers A, no unit.
    saturation: saturation current of the diodes in A.
    slope: voltage in V over which their current grows e-fold.
    bias: voltage of the two rows of bias, plus and minus, in V.

    Raises
    ------
    InputError: a shape does not fit the one before, or a conductance or parameter is not positive.
    """

    def __init__(
        self, conductances: Sequence[Tensor], gain: float, saturation: float, slope: float, bias: float
    ) -> None:
        if not conductances or not positive(gain, saturation, slope) or not abs(bias) < float("inf"):
            raise InputError(
                f"resistive network: gain = {gain!r}, saturation = {saturation!r} A, slope = {slope!r} V must be positive, "
                f"bias = {bias!r} V finite, and there must be a crossbar."
            )
        for before, after in pairwise(conductances):
            if after.shape[0] != before.shape[1] + 2:
                raise InputError(
                    f"resistive network: a crossbar of {after.shape[0]} rows after {before.shape[1]} nodes; it needs one row per node and "
                    "two of bias."
                )
        self.program(conductances)
        self.gain, self.saturation, self.slope, self.bias = gain, saturation, slope, bias

    @property
    def identity(self) -> Mapping[str, Any]:
        """What it is, besides the conductances."""
        return {"gain": self.gain, "saturation": self.saturation, "slope": self.slope, "bias": self.bias}

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return (self.conductances[0].shape[0] - 2) // 2

    def program(self, conductances: Sequence[Tensor]) -> None:
        """Take other conductances in S.

        Raises
        ------
        InputError: one is no positive number.
        """
        if any(bool((g <= 0).any()) or not bool(g.isfinite().all()) for g in conductances):
            raise InputError("resistive network: every conductance must be a positive number of siemens.")
        self.conductances = list(conductances)

    def factors(self) -> list[float]:
        """Return what the gradient of each crossbar is multiplied by: behind each amplifier, the energy is smaller by A squared."""
        return [self.gain ** (2 * k) for k in reversed(range(len(self.conductances)))]

    def input_rows(self, inputs: Tensor) -> Tensor:
        """Return the voltages of the first rows in V, ``[B, rows]``, of inputs in V, ``[B, inputs]``."""
        return self._with_bias(torch.cat([inputs, -inputs], 1))

    def settle(self, inputs: Tensor, current: Tensor | None = None, start: Settled | None = None) -> Settled:
        """Return the operating points of inputs in V, ``[B, inputs]``, with ``current`` in A, ``[B, classes]``, into the outputs.

        Raises
        ------
        InputError: shapes do not fit the network.
        ConvergenceError: Newton's method does not end.
        """
        outputs = self.conductances[-1].shape[1]
        if inputs.shape != (len(inputs), self.inputs) or (
            current is not None and current.shape != (len(inputs), outputs)
        ):
            shape = "none" if current is None else tuple(current.shape)
            raise InputError(
                f"resistive network of {self.inputs} inputs and {outputs} outputs: inputs of shape {tuple(inputs.shape)}, currents of "
                f"shape {shape}; needed are [samples, {self.inputs}] and [samples, {outputs}]."
            )
        first = self.input_rows(inputs)
        nodes = (
            [inputs.new_zeros(len(inputs), g.shape[1]) for g in self.conductances]
            if start is None
            else list(start.nodes)
        )
        for _ in range(_ITERATIONS):
            left = self._left(first, nodes)
            if current is not None:
                left[-1] = left[-1] - current
            step = self._solve(nodes, left)
            # As simulators do: the exponentials of diodes bear small steps only.
            nodes = [
                v - self._limited(d) if k < len(step) - 1 else v - d
                for k, (v, d) in enumerate(zip(nodes, step, strict=True))
            ]
            if max(float(d.abs().max()) for d in step) < _SETTLED:
                return Settled(tuple(self._rows(first, nodes)), tuple(nodes))
        raise ConvergenceError(
            "resistive network",
            f"no operating point within {_ITERATIONS} steps of Newton's method",
            None,
            "Lower inputs or gain.",
        )

    def settled(self, inputs: Tensor, nodes: Sequence[Tensor]) -> Settled:
        """Return operating points of inputs in V whose nodes are known."""
        return Settled(tuple(self._rows(self.input_rows(inputs), nodes)), tuple(nodes))

    def response(self, settled: Settled, current: Tensor) -> Settled:
        """Return how rows and nodes move per unit of a small ``current`` into the outputs in A, ``[B, classes]``: what ``.ac`` finds."""
        zero = [torch.zeros_like(v) for v in settled.nodes[:-1]]
        return self.moved([-d for d in self._solve(list(settled.nodes), [*zero, -current])])

    def moved(self, nodes: Sequence[Tensor]) -> Settled:
        """Return changes of rows and nodes where those of the nodes are known: inputs and bias stay."""
        still = nodes[0].new_zeros(len(nodes[0]), self.conductances[0].shape[0])
        rows = [still, *(torch.cat([self.gain * v, v.new_zeros(len(v), 2)], 1) for v in nodes[:-1])]
        return Settled(tuple(rows), tuple(nodes))

    def _with_bias(self, rows: Tensor) -> Tensor:
        bias = rows.new_tensor([self.bias, -self.bias]).expand(len(rows), 2)
        return torch.cat([rows, bias], 1)

    def _rows(self, first: Tensor, nodes: Sequence[Tensor]) -> list[Tensor]:
        return [first, *(self._with_bias(self.gain * v) for v in nodes[:-1])]

    def _limited(self, step: Tensor) -> Tensor:
        most = 2.0 * self.slope
        beyond = torch.log1p((step.abs() - most).clamp(min=0.0) / self.slope) * self.slope
        return step.sign() * (step.abs().clamp(max=most) + beyond)

    def _left(self, first: Tensor, nodes: Sequence[Tensor]) -> list[Tensor]:
        """Return the current in A that leaves each node, ``[B, columns]`` per layer: 0 at the operating point."""
        left = []
        for g, rows, v in zip(self.conductances, self._rows(first, nodes), nodes, strict=True):
            left.append(v * g.sum(0) - rows @ g)
        for k, v in enumerate(nodes[:-1]):
            g = self.conductances[k + 1][: v.shape[1]]
            left[k] = (
                left[k]
                + 2.0 * self.saturation * torch.sinh(v / self.slope)
                + v * g.sum(1)
                - nodes[k + 1] @ g.T / self.gain
            )
        return left

    def _solve(self, nodes: Sequence[Tensor], left: Sequence[Tensor]) -> list[Tensor]:
        """Return the changes of the nodes that give the currents ``left``, by the slopes at ``nodes``."""
        own, last = [], len(nodes) - 1
        for k, (g, v) in enumerate(zip(self.conductances, nodes, strict=True)):
            total = g.sum(0).expand_as(v)
            if k < last:
                more = self.conductances[k + 1][: v.shape[1]].sum(1)
                total = total + 2.0 * self.saturation / self.slope * torch.cosh(v / self.slope) + more
            own.append(total)
        # Blocks from the first layer to the last: what is left of each is diagonal for the first layer, dense after it.
        right, blocks = [left[0]], [own[0]]
        for k in range(last):
            g = self.conductances[k + 1][: nodes[k].shape[1]]
            solved = _divided(blocks[k], g.expand(len(right[k]), *g.shape))
            blocks.append(torch.diag_embed(own[k + 1]) - g.T @ solved)
            right.append(left[k + 1] + self.gain * _divided(blocks[k], right[k][..., None])[..., 0] @ g)
        steps = [_divided(blocks[last], right[last][..., None])[..., 0]]
        for k in reversed(range(last)):
            g = self.conductances[k + 1][: nodes[k].shape[1]]
            steps.insert(0, _divided(blocks[k], (right[k] + steps[0] @ g.T / self.gain)[..., None])[..., 0])
        return steps


def resistive_twin(network: ResistiveNetwork) -> ResistiveTwin:
    """Return the twin of a network at 27 degrees Celsius, in double precision.

    Raises
    ------
    InputError: its neuron is not the shipped one, whose equations the twin has.
    """
    shipped = load_cell("diode_neuron")
    if network.neuron.text != shipped.text:
        raise InputError(
            f"cell {network.neuron.name}: the twin of resistive networks knows diode_neuron alone. Use that cell."
        )
    values = network.neuron.values(1, network.parameters)
    tensors = [torch.from_numpy(g) for g in network.conductances]
    return ResistiveTwin(tensors, values["gain"], values["isat"], values["n"] * THERMAL, network.bias)


def _divided(block: Tensor, right: Tensor) -> Tensor:
    """Return ``right``, ``[B, n, columns]``, divided by a diagonal ``[B, n]`` or a matrix ``[B, n, n]``."""
    return right / block[..., None] if block.dim() == 2 else torch.linalg.solve(block, right)
