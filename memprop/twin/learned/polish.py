"""Last part of the training of a learned twin: Levenberg and Marquardt's method on steps of the waveforms.

Adam ends where a slow membrane is off by some 1 % of its own speed, and such errors add up to whole spikes over long runs. A model
of a few thousand weights can be solved for as a least-squares problem instead: each iteration draws some thousand steps, takes the
Jacobian of their errors and solves the damped normal equations (Levenberg 1944, Marquardt 1963). Errors count as those of short
stretches do in `training`, and large ones less than their square (iteratively reweighted: the pseudo-Huber loss), so that the few
edges of spikes do not outweigh the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import jacrev, vmap

from memprop.twin.learned.core import Weights, finer, roll

CHUNK = {"cpu": 1000, "cuda": 16_000}
"""Steps whose Jacobian is held at once: on the CPU little, on a card enough to fill it."""
FIRST, TRIES = 1e-2, 8
"""Damping in the beginning, and how often it is raised before an iteration is given up."""


class Stretches(NamedTuple):
    """M steps of waveforms."""

    before: Tensor
    """States ``[M, S]``."""
    after: Tensor
    """States ``[M, S]``."""
    current: Tensor
    """Current in A at both ends, ``[M, 2]``."""


def polish(
    weights: Weights, draw: Callable[[], Stretches], step: float, parts: int, scale: tuple[float, float], iterations: int,
    say: Callable[[str], None] = lambda _: None,
) -> Weights:  # fmt: skip
    """Return weights in float64 with smaller errors of single steps.

    ``draw`` gives the steps of one iteration, each ``step`` s long, for which the model takes ``parts`` steps. ``scale`` is the
    error that counts as 1: in spans, plus a share of how far the state moves.
    """
    errors = partial(_errors, [w.shape for w in weights], step, parts)
    vector, damping = torch.cat([w.detach().double().flatten() for w in weights]), FIRST
    for k in range(iterations):
        stretches = draw()
        unit = 1.0 / (scale[0] + scale[1] * (stretches.after - stretches.before).abs())
        matrix, slope = _normal(errors, vector, stretches, unit)
        before = after = _cost(errors, vector, stretches, unit)
        for _ in range(TRIES):
            damped = matrix + torch.diag(damping * matrix.diagonal() + 1e-9 * matrix.diagonal().mean())
            moved = vector - torch.linalg.solve(damped, slope)
            after = _cost(errors, moved, stretches, unit)
            if after < before:
                vector, damping = moved, max(damping / 3.0, 1e-8)
                break
            damping *= 4.0
        if k % 10 == 0:
            say(f"polish {k}: {before:.4f}, then {min(before, after):.4f}")
    return Weights(*_split(vector, [w.shape for w in weights]))


def _split(vector: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    parts = vector.split([shape.numel() for shape in shapes])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _errors(
    shapes: Sequence[torch.Size], step: float, parts: int, vector: Tensor, before: Tensor, after: Tensor, current: Tensor
) -> Tensor:  # fmt: skip
    """Return the errors ``[S]`` of one step."""
    drive = finer(current[:, None], parts)
    return roll(Weights(*_split(vector, shapes)), before[None], drive, step / parts)[-1, 0] - after


def _cost(errors: Callable[..., Tensor], vector: Tensor, stretches: Stretches, unit: Tensor) -> float:
    with torch.no_grad():
        found = vmap(errors, (None, 0, 0, 0))(vector, *stretches) * unit
    return float((torch.sqrt(1.0 + found.square()) - 1.0).mean())


def _normal(errors: Callable[..., Tensor], vector: Tensor, stretches: Stretches, unit: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrix and the right-hand side of the normal equations of reweighted least squares."""
    jacobian = vmap(jacrev(errors), (None, 0, 0, 0))
    matrix, slope = vector.new_zeros(len(vector), len(vector)), torch.zeros_like(vector)
    chunk = CHUNK[vector.device.type]
    for k in range(0, len(unit), chunk):
        part = Stretches(*(x[k : k + chunk] for x in stretches))
        found = (vmap(errors, (None, 0, 0, 0))(vector, *part) * unit[k : k + chunk]).flatten()
        weight = (1.0 + found.square()) ** -0.25  # the root of what the loss makes of a square
        rows = jacobian(vector, *part).flatten(0, 1) * (unit[k : k + chunk].flatten() * weight)[:, None]
        # The matrix steers only; single precision halves its time.
        matrix += (rows.float().T @ rows.float()).double()
        slope += rows.T @ (found * weight)
    return matrix, slope
