"""BioGrad (Tang et al., arXiv:2110.14092): eligibility at the synapse, error at the dendrite, feedback that is learned in sleep.

Each synapse adds trace times psi over the steps. Error neurons of the outputs send spikes through a feedback crossbar B into the
dendrites of the hidden neurons; after the sample the weight moves by dendrite times eligibility. In sleep, noise drives the outputs of
a hidden layer, and Hebb's rule with Oja's decay aligns B with the product of the crossbars above:

    dW = -mean[(D / feedback steps) sum_t trace psi],    dB = sum h o^T - mean(o^2) B

No eligibility per synapse is built: the sum over steps and samples is one matrix product.

One addition: in sleep the columns are coupled by capacitors. Otherwise outputs whose mean drive is far below the threshold never fire,
and their feedback learns nothing. Another one is for samples of few steps: error neurons that start charged, see `ErrorNeurons`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from memprop.data.spikes import Bernoulli, SpikeEncoder
from memprop.errors import InputError, positive
from memprop.learn.chain import depth_of_chain
from memprop.learn.rule import Learned, Needs
from memprop.twin.biograd import BioGradNeuron, ErrorNeurons, Waves, error_spikes, run_network

SLEEP_STEPS, SLEEP_BATCH = 50, 128


class _Window(torch.autograd.Function):
    """A step whose derivative is 1 within a window."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, near: float) -> Tensor:
        ctx.save_for_backward(v)
        ctx.near = near
        return (v > 0).to(v)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (v,) = ctx.saved_tensors
        return grads[0] * (v.abs() < ctx.near).to(v), None


def surrogate_gradient(
    weights: Sequence[Tensor], arriving: Tensor, labels: Tensor, start: int, neuron: BioGradNeuron
) -> list[Tensor]:
    """Return the gradient of the cross-entropy of counts, a mean over steps from ``start`` on, by backpropagation through time.

    Weights are ``[inputs + 1, neurons]``, spikes ``[T, B, inputs]``. Derivatives of spikes are 1 in the window, resets have none. It is
    what the rule follows, and found independently of it.
    """
    layers = [weight.detach().clone().requires_grad_() for weight in weights]
    for weight in layers:
        current = arriving @ weight[:-1] + weight[-1]
        v, fired, found = torch.zeros_like(current[0]), torch.zeros_like(current[0]), []
        for drive in current:
            v = neuron.decay * v * (1.0 - fired.detach()) + drive
            fired: Tensor = _Window.apply(v - neuron.threshold, neuron.window)  # pyright: ignore[reportAssignmentType]
            found.append(fired)
        arriving = torch.stack(found)
    counts = arriving.cumsum(0)[start:]
    loss = functional.cross_entropy(counts.flatten(0, 1), labels.repeat(len(counts)))
    return list(torch.autograd.grad(loss, layers))


class BioGrad:
    """The rule on a network of any depth.

    Parameters
    ----------
    conductances: signed, in S: crossbars ``[inputs + 1, neurons]`` of all layers, the last row of bias, then the feedback crossbars
        ``[neurons, classes]`` of all hidden layers.
    unit: conductance in S of a weight of 1.
    steps: of a sample; the error is fed back from step ``start`` on.
    shown: steps of a test sample.
    sleep: whether the feedback learns.
    errors: constants of the error neurons.
    encoder: makes the spikes of the inputs; default: `Bernoulli` pixels.

    Raises
    ------
    InputError: shapes do not fit each other, or a number is out of range.
    """

    name = "BioGrad"
    needs = Needs(1, "1 eligibility")

    def __init__(
        self, conductances: Sequence[Tensor], unit: float, *, steps: int = 20, start: int = 5, shown: int = 20,
        neuron: BioGradNeuron | None = None, sleep: bool = True, errors: ErrorNeurons | None = None,
        encoder: SpikeEncoder | None = None,
    ) -> None:  # fmt: skip
        depth = depth_of_chain("BioGrad", conductances, feedback=True)
        if not positive(unit) or not 0 <= start < steps or shown < 1:
            raise InputError(
                f"BioGrad: unit = {unit!r} S, steps = {steps!r}, start = {start!r}, shown = {shown!r} do not fit."
            )
        self.encoder: SpikeEncoder = encoder or Bernoulli(conductances[0].shape[0] - 1)
        rows = conductances[0].shape[0] - 1
        if self.encoder.rows != rows:
            raise InputError(
                f"BioGrad: spikes come on {self.encoder.rows} rows, the first crossbar has {rows} and the bias. Make them equal."
            )
        self.conductances: list[Tensor] = list(conductances)
        self.unit, self.steps, self.start, self.shown, self.sleep = unit, steps, start, shown, sleep
        self.neuron, self.errors, self.depth = neuron or BioGradNeuron(), errors or ErrorNeurons(), depth

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides what it learns besides the conductances."""
        own = {"unit": self.unit, "steps": self.steps, "start": self.start, "shown": self.shown, "sleep": self.sleep}
        # What is as in the paper is not named, so that checkpoints from before there was a choice go on.
        changed = {} if self.errors == ErrorNeurons() else {"errors": asdict(self.errors)}
        return {**own, "neuron": asdict(self.neuron), **changed, **self.encoder.identity}

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of values of a sample and of classes."""
        return self.encoder.values, self.conductances[self.depth - 1].shape[1]

    def program(self, conductances: Sequence[Tensor]) -> None:
        """Write signed crossbars in S."""
        self.conductances = list(conductances)

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the numbers of output spikes ``[B, classes]``; spikes of inputs are drawn by a seed that depends on sizes alone."""
        generator = torch.Generator().manual_seed(len(inputs))
        spikes = self.encoder(inputs, self.shown, generator)
        return run_network(self._layers(), spikes, self.neuron)[-1].spikes.sum(0)

    def learn(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Learned:
        """Return what eligibilities and dendrites tell, and what sleep tells the feedback. The loss is the cross-entropy of the counts."""
        return self._learned(self.encoder(inputs, self.steps, generator), labels, generator)

    def learn_spikes(self, spikes: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Learned:
        """Return the same of given spikes of the inputs, ``[T, B, inputs]``; ``generator`` is of the noise in sleep."""
        return self._learned(spikes, labels, generator or torch.Generator())

    def _learned(self, spikes: Tensor, labels: Tensor, generator: torch.Generator) -> Learned:
        waves = run_network(self._layers(), spikes, self.neuron)
        error = error_spikes(waves[-1].spikes, labels, self.start, self.errors)
        counts = waves[-1].spikes.sum(0)
        back = [self._weight(k) for k in range(self.depth, len(self.conductances))]
        dendrites = [*(error @ b.T for b in back), error]
        share = 1.0 / (len(labels) * (self.steps - self.start))
        found = [self._eligible(wave, dendrite) * share for wave, dendrite in zip(waves, dendrites, strict=True)]
        asleep = [self._slept(k, b, generator) if self.sleep else torch.zeros_like(b) for k, b in enumerate(back)]
        loss = float(functional.cross_entropy(counts, labels))
        return Learned(loss, counts, tuple(g / self.unit for g in (*found, *asleep)))

    def _weight(self, k: int) -> Tensor:
        return self.conductances[k].float() / self.unit

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        return [(w[:-1], w[-1]) for w in (self._weight(k) for k in range(self.depth))]

    def _eligible(self, waves: Waves, dendrite: Tensor) -> Tensor:
        """Return the sum over samples of dendrite times eligibility, ``[inputs + 1, neurons]``; bias has inputs of 1."""
        pulled = (waves.near * dendrite).flatten(0, 1)
        bias = torch.ones_like(waves.traces[..., :1])
        for step in range(1, len(bias)):
            bias[step] += self.neuron.decay * bias[step - 1]
        return torch.cat([waves.traces, bias], 2).flatten(0, 1).T @ pulled

    def _slept(self, k: int, feedback: Tensor, generator: torch.Generator) -> Tensor:
        """Return what sleep moves the feedback of hidden layer k against."""
        rate = float(torch.rand(1, generator=generator))
        shape = (2, SLEEP_STEPS, SLEEP_BATCH, feedback.shape[0])
        noise = (torch.rand(*shape, generator=generator) < rate).float()
        driven = noise[0] - noise[1]
        out = run_network(self._layers()[k + 1 :], driven, self.neuron, coupled=True)[-1].spikes.sum(0)
        return -(driven.sum(0).T @ out - out.square().mean(0) * feedback)

    def angles(self) -> list[float]:
        """Return the angle in degrees between each feedback crossbar and the product of the crossbars above its layer."""
        found, product = [], torch.eye(self.conductances[self.depth - 1].shape[1])
        for k in reversed(range(self.depth - 1)):
            product = self._weight(k + 1)[:-1] @ product
            b = self._weight(self.depth + k)
            cosine = float((b * product).sum() / (b.norm() * product.norm()))
            found.insert(0, float(torch.rad2deg(torch.acos(torch.tensor(cosine).clamp(-1.0, 1.0)))))
        return found
