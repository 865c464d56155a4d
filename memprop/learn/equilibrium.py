"""Equilibrium propagation on resistive networks (Scellier and Bengio 2017; Kendall et al., arXiv:2006.01981).

A network of conductances and diodes settles where its co-content is least. A small current ``-beta dC/dv`` into the outputs, C the
loss, moves all nodes a little, and each conductance finds the gradient of the loss from the voltage across itself alone:

    dC/dG = [(drop at +beta)^2 - (drop at -beta)^2] / (4 beta)

Behind each amplifier of gain A the energy counts 1/A^2, so crossbars before k amplifiers need the factor A^(2k). The two signs of the
nudge leave an error of the order beta^2 instead of beta (Laborieux et al., arXiv:2006.03824).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional

from memprop.errors import InputError, positive
from memprop.learn.rule import Learned, Needs
from memprop.twin.resistive import Settled

PHASES = ("symmetric", "one-sided")


class Resistive(Protocol):
    """A resistive network that can be programmed and measured: its twin, or its netlist in SPICE."""

    @property
    def conductances(self) -> list[Tensor]:
        """Crossbars in S."""
        ...

    def program(self, conductances: Sequence[Tensor]) -> None:
        """Write crossbars in S."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """What it is, besides the conductances."""
        ...

    def factors(self) -> list[float]:
        """Return by what the gradient of each crossbar is multiplied."""
        ...

    def settle(self, inputs: Tensor, current: Tensor | None = None) -> Settled:
        """Return operating points of inputs in V, ``[B, inputs]``, with currents in A, ``[B, classes]``, into the outputs."""
        ...


class EquilibriumPropagation:
    """The rule on one network.

    Parameters
    ----------
    circuit: what settles.
    scale: voltage of an input of 1, in V.
    temperature: voltage over which the odds of a class grow e-fold, in V: the loss is the cross-entropy of outputs over it.
    beta: strength of the nudge in A V; currents are beta times the slope of the loss in 1/V.
    phases: ``symmetric``, or ``one-sided``, with an error of the order of beta.

    Raises
    ------
    InputError: a number is not positive, or the phases are unknown.
    """

    name = "equilibrium propagation"

    def __init__(
        self,
        circuit: Resistive,
        *,
        scale: float = 10.0,
        temperature: float = 0.02,
        beta: float = 1e-7,
        phases: str = "symmetric",
    ) -> None:
        if not positive(scale, temperature, beta):
            raise InputError(
                f"equilibrium propagation: scale = {scale!r} V, temperature = {temperature!r} V, beta = {beta!r} A V must be positive."
            )
        if phases not in PHASES:
            raise InputError(f"equilibrium propagation: phases '{phases}' are unknown. Known: {', '.join(PHASES)}.")
        self.circuit, self.scale, self.temperature, self.beta, self.phases = circuit, scale, temperature, beta, phases

    @property
    def needs(self) -> Needs:
        """What it needs of a circuit."""
        count = 3 if self.phases == "symmetric" else 2
        return Needs(count, f"{count - 1} voltages until the update")

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides what it learns besides the conductances."""
        own = {"scale": self.scale, "temperature": self.temperature, "beta": self.beta, "phases": self.phases}
        return {**own, "circuit": self.circuit.identity}

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of inputs and of classes."""
        return (self.conductances[0].shape[0] - 2) // 2, self.conductances[-1].shape[1]

    @property
    def conductances(self) -> list[Tensor]:
        """Crossbars in S."""
        return self.circuit.conductances

    def program(self, conductances: Sequence[Tensor]) -> None:
        """Write crossbars in S."""
        self.circuit.program(conductances)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the voltages of the outputs in V, ``[B, classes]``, of samples in [0, 1]."""
        return self.circuit.settle(inputs.double() * self.scale).outputs

    def learn(self, inputs: Tensor, labels: Tensor, generator: Generator | None = None) -> Learned:  # noqa: ARG002
        """Return the gradients that the drops tell, from two or three operating points of each sample."""
        volts = inputs.double() * self.scale
        free = self.circuit.settle(volts)
        loss, slope = self.loss(free.outputs, labels)
        nudge = self.beta * slope
        if self.phases == "symmetric":
            both = self.circuit.settle(torch.cat([volts, volts]), torch.cat([-nudge, nudge]))
            count, width = len(volts), 4.0 * self.beta
            pulled = [
                _squares(both, k, slice(0, count)) - _squares(both, k, slice(count, None))
                for k in range(len(self.conductances))
            ]
        else:
            nudged, width = self.circuit.settle(volts, -nudge), 2.0 * self.beta
            everyone = slice(None)
            pulled = [
                _squares(nudged, k, everyone) - _squares(free, k, everyone) for k in range(len(self.conductances))
            ]
        gradients = [f * d / (width * len(volts)) for f, d in zip(self.circuit.factors(), pulled, strict=True)]
        return Learned(loss, free.outputs, tuple(gradients))

    def loss(self, outputs: Tensor, labels: Tensor) -> tuple[float, Tensor]:
        """Return the mean cross-entropy, and its slope by the outputs of each sample in 1/V, ``[B, classes]``."""
        odds = outputs / self.temperature
        wrong = torch.softmax(odds, 1) - functional.one_hot(labels, outputs.shape[1])
        return float(functional.cross_entropy(odds, labels)), wrong / self.temperature


def _squares(settled: Settled, layer: int, samples: slice) -> Tensor:
    """Return the sum over samples of the squared drops in V^2, ``[rows, columns]``, without one array per sample."""
    rows, nodes = settled.rows[layer][samples], settled.nodes[layer][samples]
    return rows.square().sum(0)[:, None] + nodes.square().sum(0) - 2.0 * rows.T @ nodes
