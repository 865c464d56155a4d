"""Grey box: the cell's own equations with free parameters, fitted to waveforms; one set for all runs, or one per neuron.

All runs, their difference quotients and all trial steps are cells of one population, so that an iteration costs two calls of the
twin, however many neurons are fitted. Levenberg's and Marquardt's method runs for every neuron by itself.

The fit at the step that training uses lets the parameters take up part of that step's error; the fit at a small step gives
the parameters of the circuit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from memprop.circuit.cell import Cell
from memprop.device.card import Parameter
from memprop.errors import InputError, TrainingError
from memprop.twin.cell import CellTwin
from memprop.twin.fitting.least_squares import Knowledge, identify
from memprop.twin.fitting.predict import predict, sampled
from memprop.twin.fitting.waveforms import CellWaveforms

Floats = NDArray[np.float64]
ROOM_TEMPERATURE = 27.0
_DIFFERENCE = 1e-5
_DAMPINGS = (0.03, 1.0, 30.0)
_LONGEST = 0.5
"""Largest move of a parameter in one iteration, relative to it."""
_GAIN, _PATIENCE = 1e-4, 2
"""A fit has settled when it gained less than this part of its sum of squares this often in a row."""
_MOST = 40
_FARTHEST = 30.0
"""Largest factor between a fitted parameter and its start."""
QUIET = 10e-6
"""Least noise in V that standard errors assume, that of simulators and grids."""
_SUSPECT, _FINE = 1.5, 0.3e-3
"""A neuron is fitted again from other starts where its error is this many times the median, and above this many V rms."""
_RESTARTS = 4


@dataclass(frozen=True, slots=True)
class GreyBoxFit:
    """Parameters of a cell, or of each of several instances of it, and what the waveforms say about them."""

    cell: Cell
    dt: float
    """Time step of the twin that was fitted, in s."""
    free: tuple[str, ...]
    instances: tuple[int, ...]
    """Neurons that were fitted, ``[I]``; a single 0 where one set serves all runs."""
    factors: Floats
    """Fitted over start, ``[I, P]``; the start is the card, or what is known of a run."""
    before: Floats
    """Error with the start values in V rms, ``[I]``."""
    after: Floats
    """Error after the fit in V rms, ``[I]``."""
    knowledge: tuple[tuple[Knowledge, ...], ...]
    """Per instance and parameter."""
    iterations: int
    per_instance: bool = False
    """Whether each neuron has its own set; the runs' known parameters then did not count."""

    @property
    def values(self) -> dict[str, Floats]:
        """Fitted parameters in SI units, each ``[I]``: those of a cell whose start was the card."""
        return {n: self.cell.card.parameters[n].default * self.factors[:, k] for k, n in enumerate(self.free)}

    @property
    def errors(self) -> dict[str, Floats]:
        """Relative standard errors, each ``[I]``."""
        return {n: np.array([known[k].error for known in self.knowledge]) for k, n in enumerate(self.free)}

    def unknown(self) -> list[tuple[int, str, str]]:
        """Return instance, parameter and reason where the waveforms do not determine it."""
        return [
            (i, name, known[k].reason)
            for i, known in zip(self.instances, self.knowledge, strict=True)
            for k, name in enumerate(self.free) if not known[k].known
        ]  # fmt: skip

    def twin(self, waveforms: CellWaveforms, dt: float | None = None) -> CellTwin:
        """Return the fitted twin of runs: one cell per run, each with the parameters of its neuron.

        Raises
        ------
        InputError: a run is of a neuron that was not fitted.
        """
        where = (
            _rows(self.instances, waveforms.instances)
            if self.per_instance
            else np.zeros(waveforms.runs, dtype=np.int64)
        )
        return _population(self.cell, waveforms, self.free, self.factors[where], dt or self.dt, self.per_instance)


def fit_parameters(  # noqa: D417 - numpy style, as below
    waveforms: CellWaveforms, cell: Cell, free: Sequence[str] | None = None, dt: float = 0.5e-6, *,
    per_instance: bool = False, noise: float = QUIET, seed: int = 0,
    on_iteration: Callable[[int, float], None] = lambda k, rms: None,  # noqa: ARG005
) -> GreyBoxFit:  # fmt: skip
    """Fit parameters of ``cell`` to the membranes of ``waveforms``, by least squares, from the values of its card.

    Parameters
    ----------
    free: names of the parameters to fit; default all of the card.
    dt: time step of the twin in s; it must divide the runs.
    per_instance: fit each neuron by itself, and look at no parameter that the waveforms know. Else one factor per parameter serves
        all runs, on top of what each run is known to have.
    noise: standard deviation of the membrane in V that standard errors assume, where the fit leaves less.
    seed: of further starts, for neurons that end with a large error.
    on_iteration: called with the number of the iteration and the rms error in V.

    Raises
    ------
    InputError: a parameter is unknown or has no size, the cell has no twin, or waveforms are not at 27 degrees Celsius.
    TrainingError: the twin fails at the start values.
    """
    names = _checked(waveforms, cell, free)
    problem = _Problem(waveforms, cell, names, dt, per_instance)
    z = np.zeros((problem.count, len(names)))
    before = problem.rms(problem.costs(z[None])[0])
    if not np.isfinite(before).all():
        raise TrainingError(f"the twin of {cell.name} left the numbers at dt = {dt!r} s. Take a smaller step.")
    z, costs, iterations = _solve(problem, z, on_iteration)
    if per_instance:
        z, costs = _again(problem, z, costs, seed)
    after = problem.rms(costs)
    knowledge = problem.knowledge(z, np.maximum(after, noise))
    return GreyBoxFit(
        cell, dt, names, problem.instances, problem.factors(z), before, after, knowledge, iterations, per_instance
    )


def slopes_of(waveforms: CellWaveforms, cell: Cell, free: Sequence[str], dt: float, factors: Floats) -> Floats:
    """Return the membranes' slopes by relative changes of parameters in V, ``[P, run, T + 1]``, at ``factors`` ``[I, P]`` of the card.

    Raises
    ------
    InputError: as `fit_parameters`.
    """
    problem = _Problem(waveforms, cell, _checked(waveforms, cell, free), dt, per_instance=True)
    _, slopes = problem.linear(problem.scaled(factors))
    relative = np.where(problem.log, 1.0, factors)
    return slopes * relative[problem.rows].T[..., None]


def _checked(waveforms: CellWaveforms, cell: Cell, free: Sequence[str] | None) -> tuple[str, ...]:
    card = cell.card.parameters
    names = tuple(card) if free is None else tuple(free)
    wrong = [name for name in names if name not in card or names.count(name) > 1]
    if wrong or not names:
        raise InputError(
            f"free parameter '{(wrong or ['none'])[0]}' of {cell.name} is unknown or there twice. Known: {', '.join(card)}."
        )
    none = [name for name in names if card[name].default == 0]
    if none:
        raise InputError(
            f"parameter {cell.name}.{none[0]} is 0 in the card, so its size is unknown. Leave it out of the fit."
        )
    if waveforms.data.attrs["cell"] != cell.name:
        raise InputError(
            f"waveforms are of cell {waveforms.data.attrs['cell']}, not of {cell.name}. Give the other cell."
        )
    hot = waveforms.temperatures[waveforms.temperatures != ROOM_TEMPERATURE]
    if len(hot):
        raise InputError(
            f"waveforms at {hot[0]:g} degrees Celsius: twins stand at {ROOM_TEMPERATURE:g}. Take runs at that temperature only."
        )
    return names


class _Problem:
    """Sums of squares and normal equations of every instance."""

    def __init__(
        self, waveforms: CellWaveforms, cell: Cell, names: tuple[str, ...], dt: float, per_instance: bool
    ) -> None:
        self.waveforms, self.cell, self.names, self.dt, self.per_instance = waveforms, cell, names, dt, per_instance
        found = np.unique(waveforms.instances) if per_instance else np.zeros(1, dtype=np.int64)
        self.instances = tuple(int(i) for i in found)
        self.count = len(found)
        self.rows = (
            _rows(self.instances, waveforms.instances) if per_instance else np.zeros(waveforms.runs, dtype=np.int64)
        )
        self.current, self.mem = sampled(waveforms, dt)
        self.points = np.bincount(self.rows, minlength=self.count) * self.mem.shape[1]
        parameters = [cell.card.parameters[name] for name in names]
        self.log = np.array([_one_sign(p) for p in parameters])
        edges = [_bounds(p, log) for p, log in zip(parameters, self.log, strict=True)]
        self.low, self.high = np.array(edges).T

    def part(self, instances: NDArray[np.bool_]) -> _Problem:
        """Return the problem of some instances, ``[I]``."""
        runs = self.waveforms.take(np.flatnonzero(instances[self.rows]))
        return _Problem(runs, self.cell, self.names, self.dt, self.per_instance)

    def factors(self, z: Floats) -> Floats:
        """Return what scaled parameters mean: the parameter over its start."""
        return np.where(self.log, np.exp(np.where(self.log, z, 0.0)), 1.0 + z)

    def scaled(self, factors: Floats) -> Floats:
        """Return the scaled parameters that mean ``factors``."""
        return np.where(self.log, np.log(np.where(self.log, factors, 1.0)), factors - 1.0)

    def residuals(self, z: Floats) -> Floats:
        """Return twin minus waveform in V, ``[K, runs, T + 1]``, for ``z`` ``[K, I, P]``."""
        lanes = self.factors(z)[:, self.rows]  # [K, runs, P]
        count = len(z)
        twin = _population(
            self.cell, self.waveforms, self.names, lanes.reshape(-1, len(self.names)), self.dt, self.per_instance
        )
        found = predict(twin, np.tile(self.current, (count, 1)))
        return found.reshape(count, *self.mem.shape) - self.mem

    def costs(self, z: Floats) -> Floats:
        """Return sums of squares in V^2, ``[K, I]``, infinite where the twin fails."""
        squares = (self.residuals(z) ** 2).sum(-1)
        sums = np.stack([np.bincount(self.rows, row, self.count) for row in np.nan_to_num(squares, nan=np.inf)])
        return np.where(np.isfinite(sums), sums, np.inf)

    def rms(self, costs: Floats) -> Floats:
        return np.sqrt(costs / self.points)

    def linear(self, z: Floats) -> tuple[Floats, Floats]:
        """Return residuals ``[runs, T + 1]`` and their slopes ``[P, runs, T + 1]``."""
        count = len(self.names)
        sign = np.where(z + _DIFFERENCE > self.high, -1.0, 1.0)
        moved = z + np.eye(count)[:, None, :] * (_DIFFERENCE * sign)
        found = self.residuals(np.concatenate([z[None], moved]))
        steps = (_DIFFERENCE * sign)[self.rows].T[..., None]
        return found[0], np.nan_to_num((found[1:] - found[0]) / steps, nan=0.0, posinf=0.0, neginf=0.0)

    def normal(self, z: Floats) -> tuple[Floats, Floats]:
        """Return the normal matrices ``[I, P, P]`` and gradients ``[I, P]``."""
        r, slopes = self.linear(z)
        matrices, gradients = (
            np.zeros((self.count, len(self.names), len(self.names))),
            np.zeros((self.count, len(self.names))),
        )
        np.add.at(matrices, self.rows, np.einsum("prt,qrt->rpq", slopes, slopes, optimize=True))
        np.add.at(gradients, self.rows, np.einsum("prt,rt->rp", slopes, r))
        return matrices, gradients

    def knowledge(self, z: Floats, noise: Floats) -> tuple[tuple[Knowledge, ...], ...]:
        """Return what the runs say about each parameter of each instance, at residuals of ``noise`` V ``[I]``."""
        _, slopes = self.linear(z)
        found = []
        for i in range(self.count):
            own = slopes[:, self.rows == i].reshape(len(self.names), -1).T
            relative = np.where(self.log, 1.0, self.factors(z)[i])
            at_bound = (z[i] <= self.low + 1e-6) | (z[i] >= self.high - 1e-6)
            found.append(tuple(identify(list(self.names), own, float(noise[i] ** 2), relative, at_bound)[0]))
        return tuple(found)


def _solve(
    problem: _Problem, z: Floats, on_iteration: Callable[[int, float], None] = lambda k, rms: None,  # noqa: ARG005
    most: int = _MOST,
) -> tuple[Floats, Floats, int]:  # fmt: skip
    """Return the best point ``[I, P]`` from ``z``, its costs ``[I]``, and the number of iterations."""
    costs = problem.costs(z[None])[0]
    damping, small = np.full(problem.count, 1e-2), np.zeros(problem.count, dtype=np.int64)
    iteration = 0
    for iteration in range(1, most + 1):
        matrices, gradients = problem.normal(z)
        trials = np.stack([_trial(problem, z, matrices, gradients, damping * f) for f in _DAMPINGS])
        found = problem.costs(trials)
        best = np.argmin(found, axis=0)
        each = np.arange(problem.count)
        better = found[best, each] < costs
        gain = np.where(better, 1.0 - found[best, each] / np.maximum(costs, 1e-300), 0.0)
        z = np.where(better[:, None], trials[best, each], z)
        costs = np.where(better, found[best, each], costs)
        damping = np.where(
            better, np.maximum(damping * np.array(_DAMPINGS)[best], 1e-10), np.minimum(damping * 1e3, 1e12)
        )
        small = np.where(gain > _GAIN, 0, small + 1)
        on_iteration(iteration, float(np.sqrt(costs.sum() / problem.points.sum())))
        open_ = small < _PATIENCE
        if not open_.any():
            break
        if problem.per_instance and 2 * open_.sum() <= problem.count:  # the others have settled: leave them
            z[open_], costs[open_], more = _solve(problem.part(open_), z[open_], on_iteration, most - iteration)
            return z, costs, iteration + more
    return z, costs, iteration


def _trial(problem: _Problem, z: Floats, matrices: Floats, gradients: Floats, damping: Floats) -> Floats:
    """Return the next points ``[I, P]``; parameters that press against a bound stay there."""
    held = (z <= problem.low) & (gradients > 0) | (z >= problem.high) & (gradients < 0)
    diagonal = np.diagonal(matrices, axis1=1, axis2=2)
    floor = 1e-12 * np.maximum(diagonal.max(1, keepdims=True), 1e-300)
    damped = matrices + np.eye(z.shape[1]) * (damping[:, None] * np.maximum(diagonal, floor) + floor)[:, None, :]
    open_ = ~held[:, :, None] & ~held[:, None, :]
    damped = np.where(open_, damped, np.eye(z.shape[1]))
    step = -np.linalg.solve(damped, np.where(held, 0.0, gradients)[..., None])[..., 0]
    length = np.abs(step).max(1, keepdims=True)
    return np.clip(z + step * np.minimum(1.0, _LONGEST / np.maximum(length, 1e-300)), problem.low, problem.high)


def _again(problem: _Problem, z: Floats, costs: Floats, seed: int) -> tuple[Floats, Floats]:
    """Fit suspicious instances again from random starts; keep what is better."""
    rng = np.random.default_rng(seed)
    for _ in range(_RESTARTS):
        rms = problem.rms(costs)
        bad = rms > max(_FINE, _SUSPECT * float(np.median(rms)))
        if not bad.any():
            break
        smaller = problem.part(bad)
        start = np.clip(rng.normal(scale=0.4, size=(int(bad.sum()), z.shape[1])), problem.low, problem.high)
        found, less, _ = _solve(smaller, start)
        better = less < costs[bad]
        z[bad] = np.where(better[:, None], found, z[bad])
        costs[bad] = np.where(better, less, costs[bad])
    return z, costs


def _population(
    cell: Cell, waveforms: CellWaveforms, names: Sequence[str], factors: Floats, dt: float, per_instance: bool
) -> CellTwin:
    """Return a twin with one cell per row of ``factors`` ``[lanes, P]``; lanes are the runs, once or several times."""
    times = len(factors) // waveforms.runs
    known = {} if per_instance else {n: np.tile(v, times) for n, v in waveforms.parameters.items()}
    card = cell.card.parameters
    values = known | {n: known.get(n, card[n].default) * factors[:, k] for k, n in enumerate(names)}
    return CellTwin(len(factors), dt, cell=cell, parameters=values, dtype=torch.float64)


def _rows(instances: Sequence[int], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    place = {instance: k for k, instance in enumerate(instances)}
    missing = [int(i) for i in wanted if int(i) not in place]
    if missing:
        raise InputError(f"neuron {missing[0]} was not fitted. Fitted: {', '.join(map(str, instances[:20]))}.")
    return np.array([place[int(i)] for i in wanted], dtype=np.int64)


def _one_sign(p: Parameter) -> bool:
    return any(edge is not None and edge >= 0 for edge in (p.above, p.at_least))


def _bounds(p: Parameter, log: bool) -> tuple[float, float]:
    """Return how far a scaled parameter may go, inside of its range in the card."""
    low, high = (-np.log(_FARTHEST), np.log(_FARTHEST)) if log else (-_FARTHEST, _FARTHEST)
    edges = [e for e in (p.above, p.at_least, p.at_most, p.below) if e is not None]
    for edge in edges:
        factor = edge / p.default
        if log and factor <= 0:
            continue
        z = float(np.log(factor)) if log else factor - 1.0
        low, high = (max(low, z + 1e-9), high) if z < 0 else (low, min(high, z - 1e-9)) if z > 0 else (low, high)
    return low, high
