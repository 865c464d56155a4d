"""EqSpike: equilibrium propagation with spikes (Martin et al., arXiv:2010.07859; continual form of Ernoult et al., arXiv:2005.04168).

A sample is shown in two phases. Outputs are pushed to their target with +b, until all rates stand, then with -b; while rates move from
the one to the other, each synapse adds, at each spike of one of its neurons, how the rate of the other moves:

    dw = -(1/2b) sum_t [spike_i(t) a_j(t) + spike_j(t) a_i(t)],    of inputs that are constant: dw = -(1/2b) x sum_t a_j(t)

No free phase is needed, and the error is of the order b^2. The sign of b is drawn anew for each sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from memprop.errors import InputError, positive
from memprop.learn.rule import Learned, Needs
from memprop.twin.eqspike import SpikingDynamics, Told, run_spiking

SHOWN = 60
"""Steps of a test sample, the last two thirds of which are counted."""


class EqSpike:
    """The rule on a network of one hidden layer.

    Parameters
    ----------
    conductances: signed, G+ - G-, in S: ``[inputs + 1, hidden]`` and ``[hidden + 1, outputs]``; the last rows are of bias.
    unit: conductance in S of a weight of 1.
    nudge: b, in thresholds per step.
    wanted: rate that the labelled output is pushed to, in spikes per step; the others are pushed to 0. At 1, the highest rate, an
        output that is driven further learns no more.
    lengths: steps of the two phases. The first must be long against the slow filter, whose rest would be learned.
    dynamics: of neurons and traces.
    kernel: ``fused`` or ``eager``.

    Raises
    ------
    InputError: shapes do not fit each other, or a number is out of range.
    """

    name = "EqSpike"
    needs = Needs(2, "1 accumulator")

    def __init__(
        self, conductances: Sequence[Tensor], unit: float, *, nudge: float = 0.5, wanted: float = 0.8,
        lengths: tuple[int, int] = (100, 60), dynamics: SpikingDynamics | None = None, kernel: str = "fused",
    ) -> None:  # fmt: skip
        if len(conductances) != 2 or conductances[1].shape[0] != conductances[0].shape[1] + 1:
            shapes = ", ".join(str(tuple(g.shape)) for g in conductances)
            raise InputError(f"EqSpike: crossbars {shapes}; it needs two, with one row of bias in each.")
        if not positive(unit, nudge, wanted) or min(lengths) < 1 or wanted > 1.0:
            raise InputError(
                f"EqSpike: unit = {unit!r} S, nudge = {nudge!r}, wanted = {wanted!r} spikes per step, lengths = {lengths!r} steps must be "
                "positive, and wanted at most 1."
            )
        self.unit, self.nudge, self.wanted, self.lengths = unit, nudge, wanted, lengths
        self.dynamics, self.kernel = dynamics or SpikingDynamics(), kernel
        self.conductances: list[Tensor] = list(conductances)

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides what it learns besides the conductances."""
        return {
            "unit": self.unit,
            "nudge": self.nudge,
            "wanted": self.wanted,
            "lengths": list(self.lengths),
            "dynamics": asdict(self.dynamics),
        }

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of inputs and of classes."""
        return self.conductances[0].shape[0] - 1, self.conductances[1].shape[1]

    def program(self, conductances: Sequence[Tensor]) -> None:
        """Write signed crossbars in S."""
        self.conductances = list(conductances)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the numbers of output spikes ``[B, classes]``; membranes begin at random places that depend on the sizes alone."""
        count, (hidden, outputs) = len(inputs), self._neurons
        generator = torch.Generator().manual_seed(count)
        free = torch.zeros(count, outputs), torch.zeros(count, 1)
        told = self._run(inputs, *free, (SHOWN,), SHOWN // 3, generator)
        return told.counts[:, hidden:]

    def learn(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Learned:
        """Return what the accumulators of two phases tell. The loss is half the squared error of the output rates, both phases together."""
        hidden, outputs = self._neurons
        sign = 2.0 * torch.randint(2, (len(inputs), 1), generator=generator) - 1.0
        push = self.nudge * sign
        target = self.wanted * functional.one_hot(labels, outputs).float()
        told = self._run(inputs, target, torch.cat([push, -push], 1), self.lengths, 0, generator)
        scale = -0.5 / push
        moved, pairs = scale * told.moved, torch.einsum("b,bho->ho", scale[:, 0], told.pairs)
        first = torch.cat([inputs.T @ moved[:, :hidden], moved[:, :hidden].sum(0)[None]])
        second = torch.cat([pairs, moved[:, hidden:].sum(0)[None]])
        rates = told.counts[:, hidden:] / sum(self.lengths)
        loss = 0.5 * float((rates - target).square().sum(1).mean())
        # Per siemens of a signed conductance, and what descends: the sums above are what weights grow by.
        gradients = tuple(-g / (self.unit * len(inputs)) for g in (first, second))
        return Learned(loss, rates, gradients)

    @property
    def _neurons(self) -> tuple[int, int]:
        return self.conductances[1].shape[0] - 1, self.conductances[1].shape[1]

    def _run(
        self, inputs: Tensor, target: Tensor, nudges: Tensor, lengths: Sequence[int], counted: int, generator: torch.Generator
    ) -> Told:  # fmt: skip
        first, second = (g.float() / self.unit for g in self.conductances)
        v = torch.rand(len(inputs), sum(self._neurons), generator=generator)
        drive = inputs @ first[:-1] + first[-1]
        return run_spiking(
            second[:-1],
            drive,
            second[-1],
            target,
            v,
            nudges,
            lengths,
            self.dynamics,
            counted=counted,
            kernel=self.kernel,
        )
