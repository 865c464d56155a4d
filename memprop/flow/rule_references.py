"""What the updates of rules are compared with: gradients of rates, and surrogate gradients, by backpropagation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from memprop.learn.biograd import BioGrad, surrogate_gradient
from memprop.learn.eqspike import EqSpike
from memprop.learn.online import OnlineRule, SurrogateBPTT

SETTLING, DAMPING = 300, 0.1
"""Steps in which rates settle, and by which share of the way they move in each."""


def of_eqspike(rule: EqSpike, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the gradient of half the squared error of the rates without nudge, by backpropagation while they settle."""
    first, second = (g.double().div(rule.unit).requires_grad_() for g in rule.conductances)
    images = inputs.double()
    target = rule.wanted * functional.one_hot(labels, second.shape[1]).double()
    low, high = images.new_zeros(len(images), second.shape[0] - 1), torch.zeros_like(target)
    for _ in range(SETTLING):
        to_low = (images @ first[:-1] + first[-1] + high @ second[:-1].T).clamp(0.0, 1.0)
        to_high = (low @ second[:-1] + second[-1]).clamp(0.0, 1.0)
        low, high = low + DAMPING * (to_low - low), high + DAMPING * (to_high - high)
    loss = 0.5 * (high - target).square().sum(1).mean()
    return list(torch.autograd.grad(loss, (first, second)))


def of_biograd(rule: BioGrad, inputs: Tensor, labels: Tensor, seed: int) -> list[Tensor]:
    """Return the surrogate gradient for the spikes that the rule draws by ``seed``."""
    spikes = rule.encoder(inputs, rule.steps, torch.Generator().manual_seed(seed))
    weights = [g.float() / rule.unit for g in rule.conductances[: rule.depth]]
    return surrogate_gradient(weights, spikes, labels, rule.start, rule.neuron)


def of_online(rule: OnlineRule, inputs: Tensor, labels: Tensor, seed: int) -> list[Tensor]:
    """Return the surrogate gradient, resets included, for the spikes that the rule draws by ``seed``."""
    full = SurrogateBPTT(
        rule.conductances[: rule.depth], rule.unit, detached=False, steps=rule.steps, neuron=rule.neuron, dtype=rule.dtype
    )  # fmt: skip
    return list(full.learn(inputs, labels, torch.Generator().manual_seed(seed)).gradients)
