"""Rules that learn forward in time, and the backpropagation through time that they stand for, on one spiking network (`twin.leaky`).

The loss is the mean over samples and steps of the cross-entropy of the readout. With e the slope of a step's loss by the readout, psi
and traces of `LeakyWaves`, and k the decay of the readout:

- e-prop (Bellec et al. 2020, Nature Communications 11, 3625): dW_ij = sum_t (B e)_j F_k(psi_j trace_i), F_k the filter of the
  readout. B is the product of the crossbars above (symmetric) or fixed and random. With the product, this is the gradient without the
  derivative of resets for the last two crossbars; further down the psi of layers between are missing.
- OTTT (Xiao et al. 2022, arXiv:2210.04195): dW_ij = sum_t g_j trace_i, g what e is when sent back through the layers of the same step.
  No filter at the synapse: what a spike does to later readouts is left out.
- Surrogate gradient by autograd, with or without the derivative of resets: the reference of both.

The filter of e-prop is linear, so it can be run backwards over the error instead of forwards over each synapse. What is added up is the
same, and one matrix product over samples and steps does it. The circuit has the forward form: one capacitor per synapse.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from memprop.data.spikes import Bernoulli
from memprop.errors import InputError, positive
from memprop.learn.chain import depth_of_chain
from memprop.learn.rule import Learned, Needs
from memprop.twin.leaky import LeakyNeuron, LeakyRun, filtered, run_leaky, with_bias

FEEDBACKS = ("symmetric", "random")


class OnlineRule(ABC):
    """What these rules have in common: the network, spikes that stand for pixels, the loss.

    Parameters
    ----------
    conductances: signed, in S: crossbars ``[inputs + 1, neurons]`` of all layers, the last row of bias; two or more.
    unit: conductance in S of a weight of 1.
    steps: for which a sample is shown.
    dtype: of all numbers of the twin.

    Raises
    ------
    InputError: shapes do not fit each other, or a number is out of range.
    """

    name: str
    needs: Needs
    fed = False
    """Whether feedback crossbars follow those of the layers."""

    def __init__(
        self, conductances: Sequence[Tensor], unit: float, *, steps: int = 20, neuron: LeakyNeuron | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        self.depth = depth_of_chain(self.name, conductances, feedback=self.fed)
        if self.depth < 2:
            raise InputError(
                f"{self.name}: {self.depth} layer; it needs a hidden layer and a readout. Give two or more."
            )
        if not positive(unit) or steps < 1:
            raise InputError(f"{self.name}: unit = {unit!r} S must be positive, steps = {steps!r} at least 1.")
        self.conductances: list[Tensor] = list(conductances)
        self.encoder = Bernoulli(conductances[0].shape[0] - 1)
        self.unit, self.steps, self.neuron, self.dtype = unit, steps, neuron or LeakyNeuron(), dtype

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides what it learns besides the conductances."""
        return {"unit": self.unit, "steps": self.steps, "neuron": asdict(self.neuron), "dtype": str(self.dtype)}

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of inputs and of classes."""
        return self.conductances[0].shape[0] - 1, self.conductances[self.depth - 1].shape[1]

    def program(self, conductances: Sequence[Tensor]) -> None:
        """Write signed crossbars in S."""
        self.conductances = list(conductances)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the mean readout ``[B, classes]``; spikes of inputs are drawn by a seed that depends on sizes alone."""
        arriving = self._arriving(inputs, torch.Generator().manual_seed(len(inputs)))
        return run_leaky(self._weights()[: self.depth], arriving, self.neuron).readout.mean(0)

    def learn(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Learned:
        """Return what the rule tells, and the loss of the module's first lines; ``outputs`` are the mean readout."""
        readout, found = self._learn(self._arriving(inputs, generator), labels)
        rest = [torch.zeros_like(b) for b in self._weights()[self.depth :]]
        loss = float(step_loss(readout, labels))
        return Learned(loss, readout.mean(0), tuple(g / self.unit for g in (*found, *rest)))

    def _weights(self) -> list[Tensor]:
        return [g.to(self.dtype) / self.unit for g in self.conductances]

    def _arriving(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        return self.encoder(inputs, self.steps, generator).to(self.dtype)

    @abstractmethod
    def _learn(self, arriving: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the readout ``[T, B, classes]`` and what each layer's weight moves against, of spikes ``[T, B, inputs]``."""


def step_loss(readout: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over steps and samples of the cross-entropy of ``[T, B, classes]``."""
    return functional.cross_entropy(readout.flatten(0, 1), labels.repeat(len(readout)))


def step_error(readout: Tensor, labels: Tensor) -> Tensor:
    """Return the slope of `step_loss` by the readout of the same step, ``[T, B, classes]``."""
    wanted = functional.one_hot(labels, readout.shape[2]).to(readout)
    return (torch.softmax(readout, 2) - wanted) / readout[..., 0].numel()


def _summed(pre: Tensor, post: Tensor) -> Tensor:
    """Return the sum of outer products over steps and samples, ``[pre, post]``."""
    return pre.flatten(0, 1).T @ post.flatten(0, 1)


class EProp(OnlineRule):
    """e-prop; with ``feedback="random"`` fixed crossbars ``[neurons, classes]`` of all hidden layers follow those of the layers."""

    needs = Needs(1, "1 filter")

    def __init__(
        self, conductances: Sequence[Tensor], unit: float, *, feedback: str = "symmetric", **others: Any
    ) -> None:
        if feedback not in FEEDBACKS:
            raise InputError(f"e-prop: feedback '{feedback}' is unknown. Known: {', '.join(FEEDBACKS)}.")
        self.fed = feedback == "random"
        self.name = "e-prop, random feedback" if self.fed else "e-prop"
        super().__init__(conductances, unit, **others)

    def _learn(self, arriving: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        weights = self._weights()
        run = run_leaky(weights[: self.depth], arriving, self.neuron)
        error = step_error(run.readout, labels)
        later = filtered(error.flip(0), self.neuron.readout).flip(0)
        found = [
            _summed(waves.traces, waves.psi * (later @ b.T))
            for waves, b in zip(run.hidden, self._back(weights), strict=True)
        ]
        read = filtered(with_bias(run.hidden[-1].spikes), self.neuron.readout)
        return run.readout, [*found, _summed(read, error)]

    def _back(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Return what brings errors to each hidden layer, ``[neurons, classes]``."""
        if self.fed:
            return list(weights[self.depth :])
        found = [weights[-1][:-1]]
        for weight in reversed(weights[1:-1]):
            found.insert(0, weight[:-1] @ found[0])
        return found


class OTTT(OnlineRule):
    """Online training through time, its updates added up over the steps of a sample (OTTT A).

    As in the paper all crossbars, also that of the readout, see traces of the membrane's decay. That is exact for a readout of this
    decay, whose memory the errors of hidden layers leave out; and where readouts have no memory, it is these that are exact.
    """

    name = "OTTT"
    needs = Needs(1, "none")

    def _learn(self, arriving: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        weights = self._weights()
        run = run_leaky(weights, arriving, self.neuron)
        error = step_error(run.readout, labels)
        found = [_summed(filtered(with_bias(run.hidden[-1].spikes), self.neuron.decay), error)]
        for waves, above in zip(reversed(run.hidden), reversed(weights[1:]), strict=True):
            error = waves.psi * (error @ above[:-1].T)
            found.insert(0, _summed(waves.traces, error))
        return run.readout, found


class SurrogateBPTT(OnlineRule):
    """Backpropagation through time by autograd, psi in place of the derivative of spikes. ``detached``: without that of resets."""

    name = "surrogate BPTT"
    needs = Needs(1, "none, waves of all steps are stored elsewhere")

    def __init__(self, conductances: Sequence[Tensor], unit: float, *, detached: bool = True, **others: Any) -> None:
        super().__init__(conductances, unit, **others)
        self.detached = detached

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides what it learns besides the conductances."""
        return {**super().identity, "detached": self.detached}

    def _learn(self, arriving: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor]]:
        weights = [w.requires_grad_() for w in self._weights()]
        run: LeakyRun = run_leaky(weights, arriving, self.neuron, detached=self.detached)
        found = torch.autograd.grad(step_loss(run.readout, labels), weights)
        return run.readout.detach(), list(found)
