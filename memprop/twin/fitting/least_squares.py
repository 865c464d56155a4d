"""Least squares from several starts at once, and what the data say about each parameter.

A fit here costs one integration over time per iteration, whatever the number of lanes, since the twin works on batches. So all
starts, all trial steps and all difference quotients of the Jacobian go into one batch: Levenberg's and Marquardt's method with
three dampings per iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Residuals = Callable[[Floats], Floats]
"""Points ``[lanes, P]`` -> weighted residuals ``[lanes, N]``; rows of NaN or inf where the model fails."""
_STEP = 1e-5
_DAMPINGS = np.array([0.03, 1.0, 30.0])
_LONGEST = 0.5
"""Largest step of a scaled parameter in one iteration."""
_GAIN, _PATIENCE = 1e-3, 2
"""A start has settled when it has gained less than this part of its sum of squares this often in a row: noise hides less."""
_LATE = 15
"""Iteration from which the best start alone decides when to end: another may have passed it until then."""
_LIMIT = 0.2
"""Relative standard error from which a parameter is not known."""
_FLAT = 1e-8
"""Smallest information that counts, per squared relative change."""


@dataclass(frozen=True, slots=True)
class Solution:
    """The best of all starts."""

    point: Floats
    """Scaled parameters, ``[P]``."""
    residual: Floats
    """Weighted residuals there, ``[N]``."""
    jacobian: Floats
    """``[N, P]``."""
    iterations: int
    costs: Floats
    """Half the sum of squares that each start ended with."""


@dataclass(slots=True)
class _State:
    z: Floats
    r: Floats
    j: Floats
    damping: Floats
    cost: Floats = field(init=False)
    small: NDArray[np.int64] = field(init=False)
    """How often in a row each start has gained next to nothing."""

    def __post_init__(self) -> None:
        self.cost, self.small = _cost(self.r), np.zeros(len(self.z), dtype=np.int64)


def minimise(
    residuals: Residuals, starts: Floats, low: Floats, high: Floats, *,
    most: int = 30, on_iteration: Callable[[int, float], None] = lambda k, cost: None,  # noqa: ARG005
) -> Solution:  # fmt: skip
    """Minimise the sum of squares from all ``starts`` ``[S, P]`` within ``low`` and ``high`` ``[P]``.

    Ends when all starts have settled, later when the best one has, or after ``most`` iterations.
    ``on_iteration(iteration, cost)`` is called after each.
    """
    z = np.clip(starts, low, high)
    state = _State(z, *_linear(residuals, z, high), np.full(len(z), 1e-2))
    iteration = 0
    for iteration in range(1, most + 1):
        _advance(residuals, state, low, high)
        best = int(np.argmin(state.cost))
        on_iteration(iteration, float(state.cost[best]))
        settled = (state.small >= _PATIENCE) | ~np.isfinite(state.cost)
        if settled.all() or (settled[best] and iteration >= _LATE):
            break
    best = int(np.argmin(state.cost))
    return Solution(state.z[best], state.r[best], state.j[best], iteration, state.cost)


def _cost(r: Floats) -> Floats:
    total = 0.5 * (r**2).sum(-1)
    return np.where(np.isfinite(total), total, np.inf)


def _linear(residuals: Residuals, z: Floats, high: Floats) -> tuple[Floats, Floats]:
    """Return residuals ``[lanes, N]`` and Jacobian ``[lanes, N, P]`` by difference quotients, away from the upper bound."""
    lanes, count = z.shape
    sign = np.where(z + _STEP > high, -1.0, 1.0)
    shifted = z[:, None, :] + np.concatenate([np.zeros((1, count)), np.eye(count)])[None] * (_STEP * sign)[:, None, :]
    found = residuals(shifted.reshape(-1, count)).reshape(lanes, count + 1, -1)
    slopes = (found[:, 1:] - found[:, :1]) / (_STEP * sign)[:, :, None]
    return found[:, 0], np.nan_to_num(slopes, nan=0.0, posinf=0.0, neginf=0.0).transpose(0, 2, 1)


def _advance(residuals: Residuals, state: _State, low: Floats, high: Floats) -> None:
    """Try three dampings for every start, and keep the best where it is better."""
    lanes, count = state.z.shape
    trials = np.stack([
        [_trial(state.z[s], state.r[s], state.j[s], state.damping[s] * f, low, high) for f in _DAMPINGS] for s in range(lanes)
    ])  # fmt: skip
    r, j = _linear(residuals, trials.reshape(-1, count), high)
    r, j = r.reshape(lanes, len(_DAMPINGS), -1), j.reshape(lanes, len(_DAMPINGS), -1, count)
    costs = _cost(r)
    for s in range(lanes):
        k = int(np.argmin(costs[s]))
        better = bool(costs[s, k] < state.cost[s])
        gain = 1.0 - costs[s, k] / state.cost[s] if better and state.cost[s] else 0.0
        state.small[s] = 0 if gain > _GAIN else state.small[s] + 1
        if not better:
            state.damping[s] = min(state.damping[s] * 1e3, 1e12)
            continue
        state.z[s], state.r[s], state.j[s], state.cost[s] = trials[s, k], r[s, k], j[s, k], costs[s, k]
        state.damping[s] = max(state.damping[s] * _DAMPINGS[k], 1e-10)


def _trial(z: Floats, r: Floats, j: Floats, damping: float, low: Floats, high: Floats) -> Floats:
    """Return the next point; parameters that press against a bound stay there."""
    if not np.isfinite(r).all():
        return z
    slope, curve = j.T @ r, j.T @ j
    free = ~((z <= low) & (slope > 0) | (z >= high) & (slope < 0))
    diagonal = np.diag(curve).copy()
    floor = 1e-12 * max(float(diagonal.max()), 1e-300)
    matrix = curve + np.diag(damping * np.maximum(diagonal, floor) + floor)
    matrix = np.where(free[:, None] & free[None, :], matrix, np.eye(len(z)))
    step = np.linalg.lstsq(matrix, np.where(free, -slope, 0.0), rcond=None)[0]
    return np.clip(z + step * min(1.0, _LONGEST / max(float(np.abs(step).max()), 1e-300)), low, high)


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What the data say about one parameter."""

    error: float
    """Relative standard error with all others free."""
    alone: float
    """The same if all others were known."""
    known: bool
    reason: str
    """Why it is not known; empty if it is."""


def identify(
    names: list[str], jacobian: Floats, variance: float, relative: Floats, at_bound: NDArray[np.bool_]
) -> tuple[list[Knowledge], Floats]:
    """Return what the data say about each parameter, and the correlations ``[P, P]``.

    ``variance`` is that of the weighted residuals; ``relative`` is how far a scaled parameter moves when the parameter changes
    by its own size, ``[P]``.
    """
    information = (jacobian * relative).T @ (jacobian * relative) / variance
    values, vectors = np.linalg.eigh(information)
    covariance = (vectors / np.maximum(values, _FLAT)) @ vectors.T
    errors = np.sqrt(np.diag(covariance))
    alone = 1.0 / np.sqrt(np.maximum(np.diag(information), _FLAT))
    correlation = covariance / errors[:, None] / errors[None, :]
    found = []
    for k, error in enumerate(errors):
        reason = _reason(k, names, error, alone[k], correlation, bool(at_bound[k]))
        found.append(Knowledge(float(error), float(alone[k]), not reason, reason))
    return found, correlation


def _reason(k: int, names: list[str], error: float, alone: float, correlation: Floats, at_bound: bool) -> str:
    if error <= _LIMIT and not at_bound:
        return ""
    if alone > _LIMIT:
        size = (
            "not at all"
            if alone >= 0.99 / np.sqrt(_FLAT)
            else f"so little that its error is {100 * alone:.3g} % even with all others known"
        )
        return f"the curves depend on it {size}"
    if at_bound:
        return "it ended at its bound; the curves would take it farther"
    others = np.abs(correlation[k]) * (np.arange(len(names)) != k)
    partner = int(np.argmax(others))
    return f"only its combination with {names[partner]} shows (correlation {correlation[k, partner]:+.3f})"
