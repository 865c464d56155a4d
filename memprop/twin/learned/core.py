"""The learned step of a cell: a kick by the input charge, then a learned flow of bounded states.

All states are counted from rest and divided by their span, so that rest is 0 and the box is -1 to 1. One step of length h is

    z <- z + kick h i(t) / 2;    z <- z + f(z, h) (target(z, h) - z);    z <- z + kick h i(t + h) / 2

``f`` in (0, 1) is ``1 - exp(-h rate)`` with a positive rate, and ``target`` is a tanh, so the flow is a mean of two points of the
box: the state cannot leave it but for the kick, which is clipped to it. Rest is a fixed point by construction, at every h. That
the input enters as a charge, with a constant factor, is what a capacitor does; it lets few waveforms teach all currents, and needs
one evaluation of the network per step. Strang's order of the parts makes the error of taking them apart second order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

H_SCALE = 1e-7
"""Step in s at which the feature that tells the network the step is 0."""


class Weights(NamedTuple):
    """What is learned, for S states and H hidden units."""

    first: Tensor
    """``[S + 1, H]``; the last row is of log2(h / H_SCALE)."""
    first_bias: Tensor
    """``[H]``."""
    second: Tensor
    """``[H, H]``."""
    second_bias: Tensor
    """``[H]``."""
    last: Tensor
    """``[H, 2 S]``: targets, then rates."""
    rate_bias: Tensor
    """``[S]``."""
    kick: Tensor
    """Change of the states per charge, times 1e-12 C, ``[S]``."""


class Folded(NamedTuple):
    """Weights for one step length."""

    first: Tensor
    first_bias: Tensor
    second: Tensor
    second_bias: Tensor
    last: Tensor
    last_bias: Tensor


def fresh(states: int, hidden: int, seed: int) -> Weights:
    """Return random weights: slow rates, and no kick but on the first state."""
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int, gain: float) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * gain / math.sqrt(rows)

    kick = torch.zeros(states)
    kick[0] = 0.02
    first = normal(states + 1, hidden, 3.0)
    first[-1] *= 0.1
    return Weights(
        first, torch.randn(hidden, generator=generator), normal(hidden, hidden, 1.2), torch.zeros(hidden),
        normal(hidden, 2 * states, 0.5), torch.full((states,), -2.0), kick,
    )  # fmt: skip


def fold(weights: Weights, h: float) -> Folded:
    """Return the weights for steps of ``h`` s, with the output at rest taken off the targets."""
    feature = math.log2(h / H_SCALE)
    bias = weights.first_bias + feature * weights.first[-1]
    states = len(weights.kick)
    at_rest = torch.tanh(torch.tanh(bias) @ weights.second + weights.second_bias) @ weights.last[:, :states]
    last_bias = torch.cat([-at_rest, weights.rate_bias + feature * math.log(2.0)])
    return Folded(weights.first[:-1], bias, weights.second, weights.second_bias, weights.last, last_bias)


def flow(z: Tensor, folded: Folded) -> Tensor:
    """Return states ``[M, S]`` after one step without input."""
    hidden = torch.tanh(torch.addmm(folded.first_bias, z, folded.first))
    hidden = torch.tanh(torch.addmm(folded.second_bias, hidden, folded.second))
    target, rate = torch.addmm(folded.last_bias, hidden, folded.last).chunk(2, 1)
    return torch.lerp(z, torch.tanh(target), torch.sigmoid(rate))


def roll(weights: Weights, z: Tensor, current: Tensor, h: float) -> Tensor:
    """Return states ``[T + 1, M, S]`` from ``z``, ``[M, S]``, under currents in A, ``[T + 1, M]``, straight between points."""
    folded = fold(weights, h)
    # Half a kick before and half after each step: between steps that is one whole one, so states are carried half a kick ahead.
    kicks = (current * (h * 1e12))[..., None] * weights.kick
    ahead = (z + 0.5 * kicks[0]).clamp(-1.0, 1.0)
    found = [z]
    for kick in kicks[1:].unbind(0):
        behind = flow(ahead, folded)
        ahead = (behind + kick).clamp(-1.0, 1.0)
        found.append(behind)
    return torch.cat([z[None], torch.stack(found[1:]) + 0.5 * kicks[1:]])
