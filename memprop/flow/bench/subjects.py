"""What the part ``spice`` simulates: networks with random weights or of a bundle, and images for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from memprop.circuit.network import INPUT, Network, Projection, population_of
from memprop.conductance.pair import Array, ConductanceRange
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images, load
from memprop.export.bundle import load_bundle
from memprop.flow.bench.training import SEED, random_images
from memprop.twin.network import Twin

SPREAD = (3.4e-6, 13.5e-6)
"""Standard deviation of the trained weights of 784-100-10, in S: of the input crossbar, and of the other."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A network and images for it."""

    name: str
    network: Network
    encoder: AlphaEncoder
    images: Images


def random_subject(sizes: Sequence[int], duration: float) -> Subject:
    """Return a network whose weights are spread as those of a trained one, and images as bright as those of MNIST."""
    encoder = AlphaEncoder(onsets=(0.0, duration / 2), duration=duration)
    twin = Twin(sizes, encoder, dt=duration / 400, seed=SEED)
    with torch.no_grad():
        for k, crossbar in enumerate(twin.crossbars):
            crossbar.weight.mul_(SPREAD[min(k, 1)] / crossbar.weight.std(correction=0))
    twin.project()
    name = "-".join(map(str, sizes))
    return Subject(name, twin.to_network("bench"), encoder, random_images(10_000, round(sizes[0] ** 0.5)))


def bundle_subject(folder: Path) -> Subject:
    """Return the network of a bundle, under the test images of its data set.

    Raises
    ------
    BundleError: it is none.
    """
    network, encoder, manifest = load_bundle(folder)
    return Subject(manifest.name, network, encoder, load(manifest.dataset))


def population_subject(neurons: int, duration: float, rows: int = 16) -> Subject:
    """Return one population of MIF neurons behind 16 rows, with random weights."""
    encoder = AlphaEncoder(onsets=(0.0,), duration=duration)
    twin = Twin((rows, 1), encoder, dt=duration / 400)
    weight = np.random.default_rng(SEED).normal(0.0, 20e-6, (rows, neurons)).clip(-90e-6, 90e-6)
    window = ConductanceRange()
    g: tuple[Array, Array] = window.to_pair(weight)
    population = population_of("x1", neurons, twin.populations[0].cell, {}, float(twin.populations[0].rest[0, 0]))
    network = Network("bench", rows, (population,), (Projection(INPUT, "x1", *g),), window)
    return Subject(f"{rows}-{neurons}", network, encoder, random_images(10, round(rows**0.5)))
