"""The gradient of a learning rule against central differences of the loss, taken in SPICE."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from memprop.circuit.elaborate import Elaborated, elaborate
from memprop.circuit.network import Network, Projection
from memprop.conductance.pair import Array
from memprop.data.encode import AlphaEncoder
from memprop.deck.deck import Deck
from memprop.deck.ngspice import make_deck
from memprop.errors import InputError, SimulationError
from memprop.flow.plant import SpicePlant
from memprop.flow.reduction import image_reduction
from memprop.spice.engine import Engine
from memprop.spice.farm import Farm
from memprop.twin.fitted import Fitted
from memprop.twin.learned.twin import LearnedModel
from memprop.twin.network import from_network

POINTS = 4000
"""Least time points of a run whose loss is subtracted from another one: adaptive steps would differ and drown the difference."""
STEP, FLOOR = 0.02, 1e-6
"""Step of the differences relative to the signed weight, and the weight in S below which the step shrinks no more."""
QUARTERINGS, STEADY = 3, 0.05
"""How often a step is quartered at most, and how far two of them may be apart, relative to the largest slope."""
LONGEST = 2.0
"""Factor by which a gradient may be too long or too short: a rate makes up for it."""
SMALLEST = 1e-9
"""Relative change of the loss that differences of simulations resolve; what moves it less counts as not moving it."""


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

    def loss(self, means: Array) -> float:
        """Return the loss of mean output membranes above rest in V, ``[classes]``."""
        logits = torch.as_tensor(means / self.temperature)[None]
        return float(functional.cross_entropy(logits, torch.tensor([self.label])))


Rule = Callable[[Question, Network, float, Engine], list[Array]]
"""Question, the network that the rule believes in, time step in s, engine -> gradient per siemens of signed weight of each crossbar."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Gradients of one crossbar per siemens, at sampled pairs."""

    projection: str
    picked: NDArray[np.int64]
    """``[n, 2]``: row, column."""
    rule: Array
    spice: Array
    """Central differences, ``[n]``."""
    moved: float
    """Largest change of the loss between the two ends of a difference, relative to the loss."""

    @property
    def cosine(self) -> float:
        """Cosine; NaN where one of the two is zero throughout."""
        norms = np.linalg.norm(self.rule) * np.linalg.norm(self.spice)
        return float(self.rule @ self.spice / norms) if norms else float("nan")

    @property
    def norm_ratio(self) -> float:
        """Norm of the rule's gradient over that of the differences; NaN where these are zero."""
        norm = np.linalg.norm(self.spice)
        return float(np.linalg.norm(self.rule) / norm) if norm else float("nan")

    @property
    def worst(self) -> float:
        """Largest deviation of an element, relative to the largest difference; NaN where these are zero."""
        most = np.abs(self.spice).max()
        return float(np.abs(self.rule - self.spice).max() / most) if most else float("nan")

    def verdict(self, least: float) -> str:
        """Return ``holds``, or why not: a cosine below ``least``, a length beyond a factor of `LONGEST`, or nothing to compare."""
        if self.moved < SMALLEST:
            return "nothing to compare: the loss does not move"
        if not self.rule.any():
            return f"FAILS: the rule's gradient is zero while the loss moves by {self.moved:.1g} of itself"
        if not self.cosine >= least:
            return f"FAILS: cosine below {least:g}"
        return "holds" if 1 / LONGEST <= self.norm_ratio <= LONGEST else f"FAILS: {self.norm_ratio:.2g} times as long"


def twin_gradient(
    question: Question, believed: Network, dt: float, engine: Engine | None = None,  # noqa: ARG001
    fit: Fitted | LearnedModel | None = None,
) -> list[Array]:  # fmt: skip
    """Return the gradient by backpropagation through the twin of ``believed``, one ``[row, column]`` array per crossbar.

    With ``fit`` the twin is the fitted one.

    Raises
    ------
    InputError: the network has no twin.
    """
    twin = from_network(believed, question.encoder, dt, torch.float64, fit)
    return _backward(question, twin(question.image.double()), [c.weight for c in twin.crossbars])


def measured_gradient(question: Question, believed: Network, dt: float, engine: Engine) -> list[Array]:
    """Return the gradient of in-the-loop learning: the question's own network is measured, the twin is that of ``believed``.

    Raises
    ------
    SimulationError: the network could not be simulated.
    """
    twin = from_network(believed, question.encoder, dt, torch.float64)
    step = question.encoder.duration / POINTS
    with SpicePlant(question.network, question.encoder, engine, workers=1, max_step=step) as plant:
        found = plant.show(question.image, dt)
    outputs = twin.follow(question.image.double(), found.membranes, found.states)
    return _backward(question, outputs, [c.weight for c in twin.crossbars])


def _backward(question: Question, outputs: Tensor, weights: Sequence[Tensor]) -> list[Array]:
    functional.cross_entropy(outputs / question.temperature, torch.tensor([question.label])).backward()
    return [np.zeros(tuple(w.shape)) if w.grad is None else w.grad.double().numpy() for w in weights]


RULES: Mapping[str, Rule] = {"bptt": twin_gradient, "in_the_loop": measured_gradient}


def sampled(projection: Projection, network: Network, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Return ``count`` random pairs ``[n, 2]`` of a crossbar that a difference does not drive out of the window.

    Raises
    ------
    InputError: there are fewer.
    """
    room = np.maximum(projection.g_plus, projection.g_minus) < 0.97 * network.window.g_max
    picked = generator.permutation(np.argwhere(room))[:count]
    if len(picked) < count:
        raise InputError(
            f"crossbar {projection.name} has only {len(picked)} pairs that can be moved inside the window; {count} were asked. "
            "Ask for fewer."
        )
    return picked


def spice_gradient(
    question: Question, projection: Projection, picked: NDArray[np.int64], engine: Engine, workers: int | None = None
) -> tuple[Array, float]:
    """Return central differences of the loss in SPICE per siemens, one per picked pair, and by how much of itself the loss moved.

    Each is taken again with steps of a quarter until it holds: a step over the birth of a spike tells a jump, not a slope.

    Raises
    ------
    SimulationError: a simulation failed.
    InputError: the loss has no slope at the smallest of steps.
    """
    weight = projection.g_plus - projection.g_minus
    steps = STEP * np.maximum(np.abs(weight[picked[:, 0], picked[:, 1]]), FLOOR)
    found, moved = _differences(question, projection, picked, steps, engine, workers)
    if moved < SMALLEST:  # differences of noise never hold; that nothing moves is the answer
        return found, moved
    doubtful = np.arange(len(picked))
    for _ in range(QUARTERINGS):
        steps[doubtful] /= 4.0
        finer, _ = _differences(question, projection, picked[doubtful], steps[doubtful], engine, workers)
        apart = np.abs(finer - found[doubtful])
        found[doubtful] = finer
        doubtful = doubtful[apart > STEADY * np.abs(found).max()]
        if not len(doubtful):
            return found, moved
    row, column = picked[doubtful[0]]
    raise InputError(
        f"crossbar {projection.name}: steps of the pair in row {row}, column {column} down to {steps[doubtful[0]]:.3g} S give slopes "
        f"of the loss in SPICE that differ by more than {STEADY:.0%}: the circuit jumps there, or is noisy. Take another image or seed."
    )


def _differences(
    question: Question, projection: Projection, picked: NDArray[np.int64], steps: Array, engine: Engine, workers: int | None
) -> tuple[Array, float]:  # fmt: skip
    """Return differences of the loss per siemens with one step in S for each pair, and the largest relative change of the loss."""
    circuit = elaborate(question.network, "reduced", question.encoder.stimulus(question.image[0]))
    reduce = image_reduction(circuit, question.encoder.duration, 1)
    decks = (
        _deck(question, _moved(question, projection, int(row), int(column), pair, float(step)))
        for (row, column), step in zip(picked, steps, strict=True)
        for pair in (0, 1)
    )
    losses = np.empty(2 * len(picked))
    with Farm(engine, workers) as farm, closing(farm.run(decks, reduce)) as outcomes:
        for outcome in outcomes:
            if outcome.result is None:
                raise outcome.error or SimulationError("difference", "it was given up without a reason.")
            losses[outcome.index] = question.loss(outcome.result["means"])
    change = losses[0::2] - losses[1::2]
    return change / (2 * steps), float((np.abs(change) / np.abs(losses[0::2])).max())


def _moved(question: Question, projection: Projection, row: int, column: int, pair: int, step: float) -> Elaborated:
    """Return the circuit with one cell of a pair raised: the plus cell raises the signed weight, the minus cell lowers it.

    Raising, so that a cell at the lower edge of its window stays inside.
    """
    cells = [projection.g_plus.copy(), projection.g_minus.copy()]
    cells[pair][row, column] += step
    network = question.network.with_conductances({projection.name: (cells[0], cells[1])})
    return elaborate(network, "reduced", question.encoder.stimulus(question.image[0]))


def _deck(question: Question, circuit: Elaborated) -> Deck:
    duration = question.encoder.duration
    return make_deck(circuit, duration / POINTS, duration, options={"reltol": 1e-6})


def check_gradient(
    question: Question, rules: Sequence[str] | Mapping[str, Rule], engine: Engine, *,
    count: int = 12, dt: float = 0.25e-6, seed: int = 0, believed: Network | None = None, workers: int | None = None,
) -> Iterator[tuple[str, Comparison]]:  # fmt: skip
    """Yield rule and comparison, crossbar by crossbar, on a random sample of ``count`` pairs each.

    ``rules`` are names in `RULES`, or rules by name. ``believed`` is the network that they differentiate, with the conductances of
    the question's; default the same network.

    Raises
    ------
    InputError: a rule is unknown, a crossbar has too few pairs, or the loss jumps, see `spice_gradient`.
    SimulationError: a simulation failed.
    """
    known = rules if isinstance(rules, Mapping) else RULES
    if unknown := [rule for rule in rules if rule not in known]:
        raise InputError(f"rule '{unknown[0]}' is unknown. Known: {', '.join(RULES)}.")
    generator = np.random.default_rng(seed)
    gradients = {rule: known[rule](question, believed or question.network, dt, engine) for rule in rules}
    for k, projection in enumerate(question.network.projections):
        picked = sampled(projection, question.network, count, generator)
        found, moved = spice_gradient(question, projection, picked, engine, workers)
        for rule in rules:
            yield (
                rule,
                Comparison(projection.name, picked, gradients[rule][k][picked[:, 0], picked[:, 1]], found, moved),
            )
