"""The same images in several engines: how far the membranes are apart, and what the time is worth."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from memprop.circuit.elaborate import Form, elaborate
from memprop.circuit.network import Network
from memprop.conductance.pair import Array
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images
from memprop.deck.deck import Deck
from memprop.deck.ngspice import make_deck
from memprop.errors import EngineError, SimulationError
from memprop.flow.simulate import image_order
from memprop.spice.engine import make_engine
from memprop.spice.recording import Recording


@dataclass(frozen=True, slots=True)
class EngineResult:
    """One engine against the first one."""

    engine: str
    version: str
    problem: str
    """Why it did not run; empty if it did."""
    rms: float = 0.0
    """Of all membranes and times, in V."""
    peak: float = 0.0
    """Largest difference of any membrane at any time, in V."""
    output_peak: float = 0.0
    """The same of the output population alone, in V."""
    answers: float = 1.0
    """Share of images with the same answer."""
    ratio: float = 1.0
    """Time of this engine divided by that of the first one: median over the images."""
    spread: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest ratio."""


def compare_engines(
    network: Network, encoder: AlphaEncoder, data: Images, engines: Sequence[str], *, images: int, form: Form, max_step: float,
    on_done: Callable[[], None] = lambda: None,
) -> list[EngineResult]:  # fmt: skip
    """Simulate the same images in all engines, in turns, one at a time, and compare with the first engine.

    Raises
    ------
    EngineError: the first engine is missing.
    """
    decks = [_deck(network, encoder, data, int(index), form, max_step) for index in image_order(data)[:images]]
    runs: dict[str, list[tuple[Recording, float]]] = {name: [] for name in engines}
    problems: dict[str, str] = {}
    versions = dict.fromkeys(engines, "")
    for k, deck in enumerate(decks):
        for name in engines if k % 2 == 0 else [*engines][::-1]:
            if name in problems:
                continue
            try:
                with closing(make_engine(name)) as engine:
                    versions[name] = engine.name
                    if k == 0:
                        engine.run(deck)  # compiled models and file caches are warm from here on
                    start = time.perf_counter()
                    runs[name].append((engine.run(deck), time.perf_counter() - start))
            except (EngineError, SimulationError) as error:
                if name == engines[0]:
                    raise
                problems[name] = str(error)
            on_done()
    return [
        _result(network, name, versions[name], problems.get(name, ""), runs[engines[0]], runs[name]) for name in engines
    ]


def _deck(network: Network, encoder: AlphaEncoder, data: Images, index: int, form: Form, max_step: float) -> Deck:
    pixels = torch.from_numpy(data.pixels("test", slice(index, index + 1)))
    return make_deck(elaborate(network, form, encoder.stimulus(pixels[0])), max_step, encoder.duration)


def _result(
    network: Network, name: str, version: str, problem: str, reference: list[tuple[Recording, float]], found: list[tuple[Recording, float]]
) -> EngineResult:  # fmt: skip
    if problem or not found:
        return EngineResult(name, version, problem or "not run")
    nodes = [f"{p.name}_col{j}_mem" for p in network.populations for j in range(p.size)]
    outputs = len(nodes) - network.output.size
    squares, peaks, output_peaks, same = [], [], [], []
    for (one, _), (other, _) in zip(reference, found, strict=True):
        grid = np.linspace(0.0, float(one["time"].values[-1]), 401)
        a, b = _on(grid, one, nodes), _on(grid, other, nodes)
        squares.append(((a - b) ** 2).mean())
        peaks.append(np.abs(a - b).max())
        output_peaks.append(np.abs(a - b)[outputs:].max())
        same.append(a[outputs:].mean(1).argmax() == b[outputs:].mean(1).argmax())
    ratios = [theirs / ours for (_, ours), (_, theirs) in zip(reference, found, strict=True)]
    return EngineResult(
        name, version, "", float(np.sqrt(np.mean(squares))), float(max(peaks)), float(max(output_peaks)), float(np.mean(same)),
        float(np.median(ratios)), (min(ratios), max(ratios)),
    )  # fmt: skip


def _on(grid: Array, recording: Recording, nodes: Sequence[str]) -> Array:
    moments = recording["time"].values
    return np.stack([np.interp(grid, moments, recording[node].values) for node in nodes])
