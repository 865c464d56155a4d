"""The learned step of a cell: a kick by the input charge, then a learned flow of bounded states.

All states are counted from rest and divided by their span, so that rest is 0 and the box is -1 to 1. One step of length h is

    z <- z + kick h i(t) / 2;    z <- z + f(z, h) (target(z, h) - z);    z <- z + kick h i(t + h) / 2

``f`` in (0, 1) is ``1 - exp(-h rate)`` with a positive rate, and ``target`` is a tanh, so the flow is a mean of two points of the
box: the state cannot leave it but for the kick, which is clipped to it. Rest is a fixed point by construction, at every h. That
the input enters as a charge, with a constant factor, is what a capacitor does; it lets few waveforms teach all currents, and needs
one evaluation of the network per step. Strang's order of the parts makes the error of taking them apart second order.

The step must be short against the edges of a spike. Then this is a method for some smooth equation, and where the points of time
lie within an edge matters little. A map over a long step may have waveforms just as good, but its error changes with the place of
the points in each edge, and gradients through many spikes are products of such changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from memprop.errors import TrainingError
from memprop.twin.injection import injected

H_SCALE = 1e-7
"""Step in s at which the feature that tells the network the step is 0."""
KEPT = 2_000_000
"""Numbers of states over a run from which on the backward pass computes hidden units again instead of keeping them."""
_NEWTON = 200
_SETTLED = 1e-6


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


def half_kicks(weights: Weights, current: Tensor, h: float) -> Tensor:
    """Return half the kick of each time point, ``[T + 1, M, S]``, of currents in A, ``[T + 1, M]``."""
    return (current * (0.5e12 * h))[..., None] * weights.kick


def roll(weights: Weights, z: Tensor, current: Tensor, h: float) -> Tensor:
    """Return states ``[T + 1, M, S]`` from ``z``, ``[M, S]``, under currents in A, ``[T + 1, M]``, straight between points."""
    folded, halves = fold(weights, h), half_kicks(weights, current, h)
    # Half a kick before and half after each step: between steps that is one whole one, so states are carried half a kick ahead.
    ahead = (z + halves[0]).clamp(-1.0, 1.0)
    length = max(1, math.isqrt(len(halves)))
    keep = torch.is_grad_enabled() and (halves.requires_grad or z.requires_grad) and halves.numel() > KEPT
    found = [z[None]]
    for part in halves[1:].split(length):
        if keep:  # memory then grows with the root of the number of steps
            behind, ahead = checkpoint(_steps, ahead, part, folded, use_reentrant=False)  # pyright: ignore[reportGeneralTypeIssues]
        else:
            behind, ahead = _steps(ahead, part, folded)
        found.append(behind + part)
    return torch.cat(found)


def _steps(ahead: Tensor, halves: Tensor, folded: Folded) -> tuple[Tensor, Tensor]:
    """Return states before the second half of each step's kick, ``[T, M, S]``, and the state half a kick ahead at the end."""
    found = []
    for half in halves.unbind(0):
        found.append(flow(ahead, folded))
        ahead = (found[-1] + 2.0 * half).clamp(-1.0, 1.0)
    return torch.stack(found), ahead


def follow(weights: Weights, z: Tensor, current: Tensor, h: float, first: Tensor, every: int = 1) -> Tensor:
    """Return the first state at the points of ``first``, ``[T + 1, M]``, which has its values there and the gradient of the flow.

    At every ``every``-th step the first state is set to what was measured; the others are those of the flow along it. Current
    in A at all steps, ``[every T + 1, M]``.
    """
    folded, halves = fold(weights, h), half_kicks(weights, current, h)
    found = [injected(first[0], z[:, 0])]
    z = torch.cat([found[0][:, None], z[:, 1:]], 1)
    for n in range(1, len(halves)):
        z = flow((z + halves[n - 1]).clamp(-1.0, 1.0), folded) + halves[n]
        if n % every == 0:
            found.append(injected(first[n // every], z[:, 0]))
            z = torch.cat([found[-1][:, None], z[:, 1:]], 1)
    return torch.stack(found)


def settled(weights: Weights, current: Tensor, h: float) -> Tensor:
    """Return the states ``[M, S]`` that stay as they are under constant currents in A, ``[M]``; gradients pass through.

    Found by Newton's method from rest, which also finds resting points from which a neuron would fire.

    Raises
    ------
    TrainingError: there is none that Newton finds.
    """
    folded, half = fold(weights, h), half_kicks(weights, current, h)

    def change(z: Tensor) -> Tensor:
        return flow((z + half).clamp(-1.0, 1.0), folded) + half - z

    z = torch.zeros_like(half)
    for _ in range(_NEWTON):
        z, left, slope = _with_slope(change, z)
        step = torch.linalg.solve(slope, left[..., None])[..., 0].detach()
        if float(step.abs().max()) < _SETTLED:
            # The last step again with the gradient of the currents in it: that of the resting point.
            return z - torch.linalg.solve(slope, change(z)[..., None])[..., 0]
        z = z - step * (0.1 / step.abs().amax(1, keepdim=True).clamp(min=0.1))
    raise TrainingError(
        f"learned twin: no resting point under currents from {float(current.min()):.3g} to {float(current.max()):.3g} A within "
        f"{_NEWTON} steps of Newton's method. Keep offsets and currents at rest inside of what was learned."
    )


def _with_slope(change: Callable[[Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``z``, its change and the Jacobian of that, ``[M, S, S]``, none of them with a gradient."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        left = change(z)
        rows = [torch.autograd.grad(left[:, s].sum(), z, retain_graph=True)[0] for s in range(z.shape[1])]
    return z.detach(), left.detach(), torch.stack(rows, 1)


def finer(drive: Tensor, parts: int) -> Tensor:
    """Return currents ``[T + 1, M]`` at ``parts`` times as many points, straight between them."""
    if parts == 1:
        return drive
    share = torch.arange(parts, dtype=drive.dtype, device=drive.device)[:, None] / parts
    between = drive[:-1, None] + share * (drive[1:] - drive[:-1])[:, None]
    return torch.cat([between.flatten(0, 1), drive[-1:]])
