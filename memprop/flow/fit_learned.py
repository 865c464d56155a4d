"""A learned twin of any neuron cell: waveforms from an engine, training on them, what it is off on others.

Waveforms are an `xarray.Dataset` with the coordinate ``time`` (s, uniform), ``current(run, time)`` in A, ``mem(run, time)`` in V,
``states(state, run, time)`` with the coordinate ``state``, and ``split(run)``: ``fit``, ``validation``, ``held_out``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from memprop.circuit.cell import RAILS, Cell
from memprop.deck.deck import Deck, Transient
from memprop.deck.models import cell_models
from memprop.deck.numbers import to_text
from memprop.errors import InputError, SimulationError
from memprop.spice.engine import Engine
from memprop.spice.pool import run_many
from memprop.spice.recording import Recording
from memprop.twin.learned.core import Weights, roll
from memprop.twin.learned.training import LearnedSettings, Sequences, sequences, spans_of, train
from memprop.twin.learned.twin import LearnedModel, cell_digest

Floats = NDArray[np.float64]
KNOT, POINTS = 1e-7, 4
"""Distance in s of the corners of stimuli, and points of the waveforms in it."""
SHARES = (("fit", 0.8), ("validation", 0.1), ("held_out", 0.1))
_OPTIONS: Mapping[str, float | str] = {"method": "trap", "reltol": 1e-4}
_ABOVE = 1.2
"""Currents go so far above the largest peak of the card."""


def learn_cell(
    data: xr.Dataset, cell: Cell, settings: LearnedSettings | None = None, say: Callable[[str], None] = lambda _: None
) -> LearnedModel:
    """Return a model of the cell, learned from the runs ``fit``, with its errors on the runs ``held_out``.

    Raises
    ------
    InputError: a split is empty, no node besides the membrane is recorded, or the waveforms are of another cell.
    TrainingError: the loss became no number.
    """
    settings = settings or LearnedSettings()
    if data.attrs.get("cell_sha256", cell_digest(cell)) != cell_digest(cell):
        raise InputError(
            f"waveforms are of cell {data.attrs.get('cell')} with another netlist than {cell.name}. Characterise the cell again."
        )
    fit = _part(data, "fit")
    step = float(fit["time"].values[-1]) / (fit.sizes["time"] - 1)
    states = _states(fit)
    rest = states[:, :, 0].mean(1)
    span = spans_of(states, rest)
    parts = {
        name: sequences(_states(part), part["current"].values, step, rest, span)
        for name, part in ((name, _part(data, name)) for name, _ in SHARES)
    }
    weights = train(parts["fit"], parts["validation"], settings, say)
    strides = settings.strides
    names = ("mem", *map(str, data["state"].values))
    current, mem = fit["current"].values, fit["mem"].values
    return LearnedModel(
        cell.name, cell_digest(cell), names, tuple(map(float, rest)), tuple(map(float, span)),
        (strides[0] * step, strides[-1] * step), (float(current.min()), float(current.max())),
        (float(mem.min()), float(mem.max())), weights, _errors(weights, parts["held_out"], span, strides),
    )  # fmt: skip


def _part(data: xr.Dataset, split: str) -> xr.Dataset:
    where = np.flatnonzero(data["split"].values == split)
    if not len(where):
        raise InputError(f"waveforms of cell {data.attrs.get('cell')} have no run in the split '{split}'. Make more.")
    return data.isel(run=where)


def _states(data: xr.Dataset) -> Floats:
    return np.concatenate([data["mem"].values[None], data["states"].values])


def _errors(weights: Weights, held: Sequences, span: Floats, strides: Sequence[int]) -> dict[str, float]:
    """Return rms errors over whole runs held out, at the longest step and at half of it, over the membrane's range."""
    found: dict[str, float] = {}
    for name, stride in (("normalised rms", strides[-1]), ("normalised rms at half the step", strides[-1] // 2)):
        if stride < 1:
            continue
        true = held.z[:, ::stride, 0].T
        with torch.no_grad():
            z = roll(weights, held.z[:, 0], held.current[:, ::stride].T.contiguous(), stride * held.step)[..., 0]
        found[name] = float((z - true).square().mean().sqrt() / (true.max() - true.min()))
    return found | {"membrane range in V": float(span[0] * (held.z[..., 0].max() - held.z[..., 0].min()))}


def learned_waveforms(
    cell: Cell, engine: Engine, runs: int, duration: float, *, seed: int = 0, workers: int | None = None,
    shares: Sequence[tuple[str, float]] = SHARES,
) -> xr.Dataset:  # fmt: skip
    """Return waveforms of ``runs`` random stimuli of ``duration`` s each, with all states of the card.

    Raises
    ------
    InputError: the card has no stimulus, or there are too few runs for all splits.
    SimulationError: a simulation failed.
    """
    counts = [max(1, round(runs * share)) for _, share in shares[1:]]
    if cell.card.stimulus is None or runs <= sum(counts):
        raise InputError(f"cell {cell.name}, {runs} runs: needs a [stimulus] in its card, and more runs. Give both.")
    most = _ABOVE * float(cell.card.stimulus.ipk.at_most or cell.card.stimulus.ipk.default)
    corners = np.stack([random_current(seed, run, round(duration / KNOT) + 1, most) for run in range(runs)])
    grid = np.arange(POINTS * (corners.shape[1] - 1) + 1) * (KNOT / POINTS)
    names = [f"x_cell.{state}" for state in cell.card.states]
    waves = np.empty((1 + len(names), runs, len(grid)))
    for run, result in run_many(engine, (_deck(cell, row, names) for row in corners), workers=workers):
        if isinstance(result, SimulationError):
            raise result
        waves[:, run] = _on(result, ("mem", *names), grid)
    current = np.stack([np.interp(grid, grid[::POINTS], row) for row in corners])
    split = [name for (name, _), count in zip(shares, (runs - sum(counts), *counts), strict=True) for _ in range(count)]
    variables = {
        "current": (("run", "time"), current), "mem": (("run", "time"), waves[0]),
        "states": (("state", "run", "time"), waves[1:]), "split": (("run",), np.array(split)),
    }  # fmt: skip
    coords = {"time": grid, "state": list(cell.card.states)}
    attrs = {"cell": cell.name, "cell_sha256": cell_digest(cell), "engine": engine.name, "seed": seed}
    return xr.Dataset(variables, coords, attrs)


def _on(recording: Recording, names: Sequence[str], grid: Floats) -> Floats:
    moments = recording["time"].values
    return np.stack([np.interp(grid, moments, recording[name].values) for name in names])


def _deck(cell: Cell, corners: Floats, states: Sequence[str]) -> Deck:
    """Return a deck of one cell; corners on a straight line are left out, since the simulator stops at each."""
    bent = np.flatnonzero(np.abs(np.diff(corners, 2)) > 1e-9 * np.abs(corners).max(initial=1e-12)) + 1
    keep = [0, *bent.tolist(), len(corners) - 1]
    pairs = [f"+ {to_text(k * KNOT)} {to_text(float(corners[k]))}" for k in keep]
    rails = [f"v_{rail} {rail} 0 {to_text(cell.card.supplies[rail].voltage)}" for rail in RAILS]
    files, verilog = cell_models([cell])
    files |= {
        "cells.inc": cell.text,
        "test.inc": "\n".join([*rails, f"x_cell mem e1 e2 0 {cell.name}", "i_in 0 mem pwl(", *pairs, "+ )", ""]),
    }
    analysis = Transient((len(corners) - 1) * KNOT, KNOT / 2)
    return Deck(f"{cell.name} waveform", files, analysis, ("mem", *states), (), _OPTIONS, verilog)


def random_current(seed: int, run: int, points: int, most: float) -> Floats:
    """Return currents in A at the corners of run ``run``, within ``most``, from 0; families take turns."""
    generator = np.random.default_rng([seed, run])
    family = _FAMILIES[run % len(_FAMILIES)]
    current = np.clip(family(generator, points) * most, -most, most)
    current[0] = 0.0
    return current


def _sign(generator: np.random.Generator) -> float:
    return 1.0 if generator.random() < 0.8 else -1.0


def _level(generator: np.random.Generator, decades: float) -> float:
    """Return an amplitude, evenly over the logarithm of so many decades below 1."""
    return float(10 ** generator.uniform(-decades, 0))


def _steps(generator: np.random.Generator, points: int) -> Floats:
    current = np.zeros(points)
    k = int(generator.integers(0, 30))
    while k < points:
        length = int(np.exp(generator.uniform(np.log(20), np.log(300))))
        if generator.random() > 0.15:
            current[k : k + length] = _sign(generator) * _level(generator, 2)
        k += length
    return current


def _alphas(generator: np.random.Generator, points: int) -> Floats:
    current = np.zeros(points)
    for _ in range(max(1, points * int(generator.integers(2, 7)) // 1000)):
        s = np.maximum(np.arange(points) - generator.uniform(0, 0.9 * points), 0) / generator.uniform(10, 150)
        current += _sign(generator) * _level(generator, 1.4) * s * np.exp(1 - s)
    return current


def _trains(generator: np.random.Generator, points: int) -> Floats:
    current = np.zeros(points)
    width, pause, level = int(generator.integers(5, 30)), generator.integers(20, 120), _level(generator, 0.8)
    k = 10
    while k < points:
        current[k : k + width] += level * generator.uniform(0.5, 1)
        k += int(width + generator.exponential(pause))
    return current + generator.uniform(-0.03, 0.16)


def _noise(
    generator: np.random.Generator, points: int, mean: tuple[float, float] = (-0.1, 0.5), size: float = 0.4
) -> Floats:
    every = int(generator.integers(5, 50))
    knots = points // every + 2
    values = generator.uniform(*mean) + size * _level(generator, 1) * generator.standard_normal(knots)
    return np.interp(np.arange(points), np.arange(knots) * every, values)


def _faint(generator: np.random.Generator, points: int) -> Floats:
    return _noise(generator, points, (-0.02, 0.04), 0.03)


_FAMILIES = (_steps, _noise, _alphas, _trains, _faint, _steps, _noise)


def long_runs(cell: Cell, engine: Engine, runs: int, duration: float, seed: int) -> xr.Dataset:
    """Return waveforms that are all held out, e.g. ten times as long as those of the training."""
    return learned_waveforms(cell, engine, runs, duration, seed=seed, shares=(("held_out", 1.0),))
