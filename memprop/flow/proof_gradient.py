"""Proof that anyone can print: the gradient of the twin against central differences taken in SPICE."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from memprop.errors import InputError
from memprop.flow.gradient import Comparison, Question, spice_gradient, twin_gradient
from memprop.flow.proof_cell import Proof
from memprop.spice.engine import Engine


def gradient_proof(
    question: Question, engine: Engine, count: int, *, steps: Sequence[float] = (0.1e-6,), seed: int = 0
) -> Iterator[Proof]:
    """Yield, per crossbar and twin time step in s, the twin's gradient against central differences taken in SPICE.

    Sampled at random are ``count`` pairs per crossbar among those whose gradient is at least 5 % of the largest: each of them
    is to be right by itself, and the differences of the others drown in the simulator's tolerances.

    Raises
    ------
    InputError: the gradient of the twin is zero, or fewer than ``count`` pairs can be checked.
    SimulationError: a simulation failed.
    """
    generator = np.random.default_rng(seed)
    gradients = [twin_gradient(question, question.network, dt) for dt in steps]
    if not all(gradient.any() for gradient in gradients[0]):
        raise InputError("the gradient of the twin is zero for this image. Take an image whose loss is not zero.")
    for k, projection in enumerate(question.network.projections):
        first = np.abs(gradients[0][k])
        room = np.maximum(projection.g_plus, projection.g_minus) < 0.97 * question.network.window.g_max
        picked = generator.permutation(np.argwhere((first >= 0.05 * first.max()) & room))[:count]
        if len(picked) < count:
            raise InputError(
                f"crossbar {projection.name} has only {len(picked)} pairs whose gradient can be checked; {count} were asked. "
                "Ask for fewer, or take another image."
            )
        found, moved = spice_gradient(question, projection, picked, engine)
        for dt, gradient in zip(steps, gradients, strict=True):
            one = Comparison(projection.name, picked, gradient[k][picked[:, 0], picked[:, 1]], found, moved)
            worst = float((np.abs(one.rule - found) / np.abs(found)).max())
            where = f"gradient of {projection.name}, {len(picked)} pairs, twin at {dt * 1e6:g} us"
            yield Proof(f"{where}: cosine to SPICE", f"{one.cosine:.6f}", ">= 0.999", one.cosine >= 0.999)
            yield Proof(f"{where}: worst", f"{100 * worst:.3f} % off", "within 2 %", worst <= 0.02)
