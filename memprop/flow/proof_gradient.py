"""Proof that anyone can print: the gradient of the twin against central differences taken in SPICE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from memprop.circuit.elaborate import elaborate
from memprop.circuit.network import Network, Projection
from memprop.conductance.pair import Array
from memprop.data.encode import AlphaEncoder
from memprop.deck.deck import Deck
from memprop.deck.ngspice import make_deck
from memprop.errors import InputError, SimulationError
from memprop.flow.proof_cell import Proof
from memprop.spice.engine import Engine
from memprop.spice.pool import run_many
from memprop.spice.recording import Recording
from memprop.twin.network import from_network


@dataclass(frozen=True, slots=True)
class Question:
    """The loss whose gradient is in question: cross-entropy of one image."""

    network: Network
    encoder: AlphaEncoder
    image: Tensor
    """Pixels in [0, 1], ``[1, ...]``."""
    label: int
    temperature: float = 20e-3
    """Membrane difference in V that changes a class probability e-fold; high, so that a well classified image has a gradient."""


def gradient_proof(
    question: Question, engine: Engine, count: int, *, steps: Sequence[float] = (0.1e-6,), seed: int = 0
) -> Iterator[Proof]:
    """Yield, per crossbar and twin time step in s, the twin's gradient against central differences taken in SPICE.

    Sampled at random are ``count`` pairs per crossbar among those whose gradient is at least 5 % of the largest: the
    differences of the others drown in the simulator's tolerances.

    Raises
    ------
    InputError: the gradient of the twin is zero, or fewer than ``count`` pairs can be checked.
    SimulationError: a simulation failed.
    """
    generator = np.random.default_rng(seed)
    gradients = [twin_gradient(question, dt) for dt in steps]
    for k, projection in enumerate(question.network.projections):
        first = np.abs(gradients[0][k])
        room = np.maximum(projection.g_plus, projection.g_minus) < 0.97 * question.network.window.g_max
        picked = generator.permutation(np.argwhere((first >= 0.05 * first.max()) & room))[:count]
        if len(picked) < count:
            raise InputError(
                f"crossbar {projection.name} has only {len(picked)} pairs whose gradient can be checked; {count} were asked. "
                "Ask for fewer, or take another image."
            )
        found = spice_gradient(question, projection, picked, engine)
        for dt, gradient in zip(steps, gradients, strict=True):
            expected = gradient[k][picked[:, 0], picked[:, 1]]
            cosine = float(found @ expected / (np.linalg.norm(found) * np.linalg.norm(expected)))
            worst = float((np.abs(expected - found) / np.abs(found)).max())
            where = f"gradient of {projection.name}, {len(picked)} pairs, twin at {dt * 1e6:g} us"
            yield Proof(f"{where}: cosine to SPICE", f"{cosine:.6f}", ">= 0.999", cosine >= 0.999)
            yield Proof(f"{where}: worst", f"{100 * worst:.3f} % off", "within 2 %", worst <= 0.02)


def twin_gradient(question: Question, dt: float) -> list[Array]:
    """Return the gradient of the loss per siemens of signed weight, one ``[row, column]`` array per crossbar."""
    twin = from_network(question.network, question.encoder, dt, torch.float64)
    outputs = twin(question.image.double()) / question.temperature
    functional.cross_entropy(outputs, torch.tensor([question.label])).backward()
    gradients = [np.zeros(0) if c.weight.grad is None else c.weight.grad.numpy() for c in twin.crossbars]
    if not all(np.any(g) for g in gradients):
        raise InputError("the gradient of the twin is zero for this image. Take an image whose loss is not zero.")
    return gradients


def spice_gradient(question: Question, projection: Projection, picked: NDArray[np.int64], engine: Engine) -> Array:
    """Return central differences of the loss in SPICE per siemens, one per picked ``[row, column]``."""
    weight = projection.g_plus - projection.g_minus
    steps = 0.02 * np.maximum(np.abs(weight[picked[:, 0], picked[:, 1]]), 1e-6)
    decks = (
        _moved(question, projection, int(row), int(column), pair, float(step))
        for (row, column), step in zip(picked, steps, strict=True)
        for pair in (0, 1)
    )
    losses = np.empty(2 * len(picked))
    for index, outcome in run_many(engine, decks):
        if isinstance(outcome, SimulationError):
            raise outcome
        losses[index] = _loss(question, outcome)
    return (losses[0::2] - losses[1::2]) / (2 * steps)


def _moved(question: Question, projection: Projection, row: int, column: int, pair: int, step: float) -> Deck:
    """Return the deck with one cell of a pair raised: the plus cell raises the signed weight, the minus cell lowers it.

    Raising, so that a cell at the lower edge of its window stays inside.
    """
    cells = [projection.g_plus.copy(), projection.g_minus.copy()]
    cells[pair][row, column] += step
    network = question.network.with_conductances({projection.name: (cells[0], cells[1])})
    circuit = elaborate(network, "reduced", question.encoder.stimulus(question.image[0]))
    # A fine bounded step and tight tolerances: adaptive steps would differ between the two runs and drown the difference.
    duration = question.encoder.duration
    return make_deck(circuit, duration / 4000, duration, energy=False, options={"reltol": 1e-6})


def _loss(question: Question, recording: Recording) -> float:
    output = question.network.output
    time = recording["time"].values
    membranes = np.stack([recording[f"{output.name}_col{j}_mem"].values for j in range(output.size)])
    means = np.trapezoid(membranes, time, axis=1) / time[-1] - np.array(output.rest)
    logits = torch.as_tensor(means / question.temperature)[None]
    return float(functional.cross_entropy(logits, torch.tensor([question.label])))
