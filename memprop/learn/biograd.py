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
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from memprop.data.spikes import Bernoulli, SpikeEncoder
from memprop.errors import InputError, positive
from memprop.learn.rule import Learned, Needs
from memprop.twin.biograd import BioGradNeuron, ErrorNeurons, Waves, error_spikes, run_network

SLEEP_STEPS, SLEEP_BATCH = 50, 128


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
        depth = (len(conductances) + 1) // 2
        layers, back = conductances[:depth], conductances[depth:]
        chained = all(after.shape[0] == before.shape[1] + 1 for before, after in pairwise(layers))
        fed = all(tuple(b.shape) == (g.shape[1], layers[-1].shape[1]) for b, g in zip(back, layers[:-1], strict=False))
        if len(back) != depth - 1 or not chained or not fed:
            shapes = ", ".join(str(tuple(g.shape)) for g in conductances)
            raise InputError(
                f"BioGrad: crossbars {shapes} are no chain of layers with bias, followed by one feedback per hidden layer."
            )
        if not positive(unit) or not 0 <= start < steps or shown < 1:
            raise InputError(
                f"BioGrad: unit = {unit!r} S, steps = {steps!r}, start = {start!r}, shown = {shown!r} do not fit."
            )
        self.encoder: SpikeEncoder = encoder or Bernoulli(conductances[0].shape[0] - 1)
        if self.encoder.rows != conductances[0].shape[0] - 1:
            raise InputError(
                f"BioGrad: spikes come on {self.encoder.rows} rows, the first crossbar has {layers[0].shape[0] - 1} and the bias. Make "
                "them equal."
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
        return self._run(inputs, self.shown, generator)[-1].spikes.sum(0)

    def learn(self, inputs: Tensor, labels: Tensor, generator: torch.Generator) -> Learned:
        """Return what eligibilities and dendrites tell, and what sleep tells the feedback. The loss is the cross-entropy of the counts."""
        waves = self._run(inputs, self.steps, generator)
        error = error_spikes(waves[-1].spikes, labels, self.start, self.errors)
        counts = waves[-1].spikes.sum(0)
        back = [self._weight(k) for k in range(self.depth, len(self.conductances))]
        dendrites = [*(error @ b.T for b in back), error]
        share = 1.0 / (len(inputs) * (self.steps - self.start))
        found = [self._eligible(wave, dendrite) * share for wave, dendrite in zip(waves, dendrites, strict=True)]
        asleep = [self._slept(k, b, generator) if self.sleep else torch.zeros_like(b) for k, b in enumerate(back)]
        loss = float(functional.cross_entropy(counts, labels))
        return Learned(loss, counts, tuple(g / self.unit for g in (*found, *asleep)))

    def _weight(self, k: int) -> Tensor:
        return self.conductances[k].float() / self.unit

    def _layers(self) -> list[tuple[Tensor, Tensor]]:
        return [(w[:-1], w[-1]) for w in (self._weight(k) for k in range(self.depth))]

    def _run(self, inputs: Tensor, steps: int, generator: torch.Generator) -> list[Waves]:
        return run_network(self._layers(), self.encoder(inputs, steps, generator), self.neuron)

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
