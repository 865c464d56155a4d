"""What the gradient of a fitted twin is worth: a small random network of the cell, against differences in SPICE."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from memprop.circuit.cell import Cell
from memprop.circuit.network import Network, Population, Projection
from memprop.conductance.pair import ConductanceRange
from memprop.data.encode import AlphaEncoder
from memprop.flow.gradient import Comparison, Question, check_gradient, twin_gradient
from memprop.spice.engine import Engine
from memprop.twin.fitted import Fitted
from memprop.twin.learned.twin import LearnedModel
from memprop.twin.network import from_network
from memprop.twin.ranges import Range

Floats = NDArray[np.float64]
SIZES = (6, 4, 3)
DRIVE = 0.6
"""Part of the range of currents up to which the neurons are driven."""
WIDEST = 0.9
"""Part of the window that weights stay in, so that differences have room."""


def gradient_of(
    cell: Cell, fit: Fitted | LearnedModel, known: Range, dt: float, duration: float, engine: Engine, *,
    count: int = 9, workers: int | None = None, seed: int = 0,
) -> list[Comparison]:  # fmt: skip
    """Return the comparison of each crossbar of a network of `SIZES`, whose neurons work inside of ``known``.

    ``dt`` is the step of the twin and ``duration`` the length of a run in s; ``count`` pairs are tried in each crossbar.

    Raises
    ------
    SimulationError: a simulation failed.
    """
    rng = np.random.default_rng(seed)
    encoder = AlphaEncoder(rise=duration / 10, onsets=(0.0, duration / 2), duration=duration)
    image = torch.from_numpy(rng.uniform(0.3, 1.0, (1, SIZES[0])))
    network = _network(cell, fit, dt, encoder, image, DRIVE * max(known.current, key=abs), rng)
    with torch.no_grad():
        means = from_network(network, encoder, dt, torch.float64, fit)(image)
    # As warm as the outputs are wide, so that the loss depends on all of them.
    question = Question(network, encoder, image, 0, max(float(means.max() - means.min()), 1e-3))
    rules = {"twin": partial(twin_gradient, fit=fit)}
    return [
        found for _, found in check_gradient(question, rules, engine, count=count, dt=dt, seed=seed, workers=workers)
    ]


def _network(
    cell: Cell, fit: Fitted | LearnedModel, dt: float, encoder: AlphaEncoder, image: torch.Tensor, current: float,
    rng: np.random.Generator,
) -> Network:  # fmt: skip
    """Return a network with random conductances; the neurons of each population get up to ``current`` A."""
    window = ConductanceRange()
    names = [f"x{k + 1}" for k in range(len(SIZES) - 1)]
    populations = tuple(
        Population(name, size, cell, {}, (0.0,) * size) for name, size in zip(names, SIZES[1:], strict=True)
    )
    nothing = [np.full(shape, window.g_min) for shape in pairwise(SIZES)]
    network = Network(
        "gradient", SIZES[0], populations,
        tuple(Projection(f"x{k}", f"x{k + 1}", g, g) for k, g in enumerate(nothing)), window,
    )  # fmt: skip
    rests = [float(p.rest.double()[0, 0]) for p in from_network(network, encoder, dt, torch.float64, fit).populations]
    network = replace(
        network,
        populations=tuple(replace(p, rest=(rest,) * p.size) for p, rest in zip(populations, rests, strict=True)),
    )
    peaks = (encoder.v_peak * image.numpy()[0]).astype(np.float64)
    for k, projection in enumerate(network.projections):
        # Mostly of the sign that drives the neurons, some against it.
        shape = rng.uniform(0.3, 1.0, projection.g_plus.shape) * np.where(
            rng.random(projection.g_plus.shape) < 0.8, 1.0, -1.0
        )
        weight = shape * current / max(float((np.abs(shape) * peaks[:, None]).sum(0).max()), 1e-12)
        weight = np.clip(weight, -WIDEST * window.span, WIDEST * window.span)
        network = network.with_conductances({projection.name: window.to_pair(weight)})
        with torch.no_grad():
            traces = from_network(network, encoder, dt, torch.float64, fit).traces(image)
        peaks = np.abs(traces[names[k]][:, 0].double().numpy() - rests[k]).max(0)
    return network
