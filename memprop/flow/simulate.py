"""Simulate test images of a network in SPICE, many at a time, keeping every finished result."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from memprop.circuit.cell import RAILS
from memprop.circuit.elaborate import Elaborated, Form, elaborate
from memprop.circuit.network import Network
from memprop.conductance.pair import Array
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images
from memprop.deck.deck import Deck
from memprop.deck.ngspice import make_deck
from memprop.errors import InputError, OutputError, SimulationError
from memprop.files import ensure_folder, sha256
from memprop.spice.engine import Engine
from memprop.spice.pool import run_many
from memprop.spice.recording import Recording
from memprop.twin.cell import DT

MAX_STEP = 0.25e-6
"""Default largest time step of the simulator, in s."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What SPICE says of one image."""

    index: int
    """Index in the test set."""
    means: Array
    """Time means of the output membranes above rest in V, ``[classes]``."""
    membranes: NDArray[np.float32]
    """All membranes in V at the ends of the twin's time steps, ``[T + 1, neurons]``, populations side by side."""
    energy_crossbars: float
    """Energy from the row drivers, in J."""
    energy_neurons: float
    """Energy from the supply rails and the column mirrors, in J."""
    time: Array
    """Time points of the simulator in s, ``[points]``."""
    outputs: Array
    """Output membranes in V at the simulator's own time points, ``[points, classes]``."""
    rails: Array
    """Currents of the supply rails in A, ``[points, rails]``."""

    @property
    def answer(self) -> int:
        """Class with the highest mean."""
        return int(self.means.argmax())


@dataclass(slots=True)
class SpiceResults:
    """Results and failures by image index."""

    done: dict[int, ImageResult] = field(default_factory=dict)
    failed: dict[int, SimulationError] = field(default_factory=dict)
    cached: int = 0


@dataclass(frozen=True, slots=True)
class SpiceSettings:
    """How to simulate."""

    form: Form = "reduced"
    max_step: float = MAX_STEP
    """Largest time step in s."""
    dt: float = DT
    """Time step of the twin in s, at whose multiples the waveforms are kept."""
    workers: int | None = None
    """Simulations at a time; default one per core."""
    timeout_s: float = 1800.0
    cache: Path | None = None
    """Folder that keeps finished results; they are found again by the hash of deck and engine."""


def image_order(data: Images) -> NDArray[np.int64]:
    """Return all test indices in a fixed random order: the first n are a fair sample, and more images extend it."""
    return np.random.default_rng(2026).permutation(len(data.test.labels))


def simulate_images(
    network: Network,
    encoder: AlphaEncoder,
    data: Images,
    indices: Sequence[int],
    engine: Engine,
    settings: SpiceSettings | None = None,
    on_done: Callable[[int, bool], None] = lambda index, failed: None,  # noqa: ARG005
) -> SpiceResults:
    """Simulate test images in SPICE; a failure is kept beside the results and stops nothing.

    ``on_done(index, failed)`` is called after every image. Results found in the cache are not simulated again.

    Raises
    ------
    InputError: an index is not in the test set, or images and network do not fit.
    """
    settings = settings or SpiceSettings()
    _check(network, data, indices)
    results = SpiceResults()
    jobs = _jobs(network, encoder, data, indices, engine, settings, results, on_done)
    waiting: dict[int, tuple[int, Elaborated, Path | None]] = {}

    def decks() -> Iterator[Deck]:
        for number, (index, circuit, deck, path) in enumerate(jobs):
            waiting[number] = (index, circuit, path)
            yield deck

    for number, outcome in run_many(engine, decks(), workers=settings.workers, timeout_s=settings.timeout_s):
        index, circuit, path = waiting.pop(number)
        if isinstance(outcome, SimulationError):
            results.failed[index] = outcome
        else:
            results.done[index] = _reduce(index, circuit, outcome, encoder, settings.dt)
            _keep(path, results.done[index])
        on_done(index, isinstance(outcome, SimulationError))
    return results


def _check(network: Network, data: Images, indices: Sequence[int]) -> None:
    count = len(data.test.labels)
    wrong = [index for index in indices if not 0 <= index < count]
    if wrong:
        raise InputError(f"test image {wrong[0]} is not there: {data.name} has {count}, numbered from 0.")
    if data.rows != network.inputs:
        raise InputError(
            f"{data.name} has {data.rows} pixels; network {network.name} has {network.inputs} rows. Take the data it was trained on."
        )


def _jobs(
    network: Network, encoder: AlphaEncoder, data: Images, indices: Sequence[int], engine: Engine,
    settings: SpiceSettings, results: SpiceResults, on_done: Callable[[int, bool], None],
) -> Iterator[tuple[int, Elaborated, Deck, Path | None]]:  # fmt: skip
    """Yield what must be simulated; what the cache holds goes to ``results`` at once."""
    for index in dict.fromkeys(int(i) for i in indices):
        pixels = torch.from_numpy(data.pixels("test", slice(index, index + 1)))
        circuit = elaborate(network, settings.form, encoder.stimulus(pixels[0]))
        deck = make_deck(circuit, settings.max_step, encoder.duration)
        path = _cache_path(settings, deck, engine)
        found = _kept(path, index)
        if found is None:
            yield index, circuit, deck, path
        else:
            results.done[index] = found
            results.cached += 1
            on_done(index, False)


def _cache_path(settings: SpiceSettings, deck: Deck, engine: Engine) -> Path | None:
    if settings.cache is None:
        return None
    key = sha256(f"{version('memprop')} {deck.digest} {engine.name} {settings.dt!r}")
    return ensure_folder(settings.cache) / f"{key[:32]}.npz"


def _kept(path: Path | None, index: int) -> ImageResult | None:
    """Return a kept result; a damaged file counts as none and is written again."""
    if path is None or not path.is_file():
        return None
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            crossbars, neurons = float(file["energy_crossbars"]), float(file["energy_neurons"])
            return ImageResult(
                index,
                file["means"],
                file["membranes"],
                crossbars,
                neurons,
                file["time"],
                file["outputs"],
                file["rails"],
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _keep(path: Path | None, result: ImageResult) -> None:
    if path is None:
        return
    temporary = path.with_name(f".{path.name}.tmp.npz")
    fields = {name: getattr(result, name) for name in ImageResult.__dataclass_fields__ if name != "index"}
    try:
        np.savez_compressed(temporary, **fields)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(
            f"cannot keep the result of image {result.index} in {path.parent}: {error.strerror or error}. "
            "Earlier results are kept; free some space and run again."
        ) from error


def _reduce(index: int, circuit: Elaborated, recording: Recording, encoder: AlphaEncoder, dt: float) -> ImageResult:
    """Return what is kept of a recording."""
    moments = recording["time"].values
    grid = np.arange(encoder.steps(dt) + 1) * dt
    names = circuit.membranes()
    every = [node for nodes in names.values() for node in nodes]
    # Straight lines between the simulator's points would be off by millivolts where a membrane bends.
    first = np.append(True, np.diff(moments) > 0)
    waveforms = np.stack([recording[node].values for node in every], axis=1)
    membranes = PchipInterpolator(moments[first], waveforms[first], axis=0)(np.clip(grid, moments[0], moments[-1]))
    outputs = np.stack([recording[node].values for node in names[circuit.network.output.name]], axis=1)
    means = np.trapezoid(outputs, moments, axis=0) / moments[-1] - np.array(circuit.network.output.rest)
    energy = {"crossbars": 0.0, "neurons": 0.0}
    for meter in circuit.meters:
        power = meter.sign * recording[meter.node].values * recording[f"i({meter.branch})"].values
        energy[meter.group] += float(np.trapezoid(power, moments))
    rails = np.stack([recording[f"i({name})"].values for name in rail_sources()], axis=1)
    return ImageResult(
        index, means, membranes.astype(np.float32), energy["crossbars"], energy["neurons"], moments, outputs, rails
    )


def rail_sources() -> list[str]:
    """Return the names of the supply sources, the same in every network."""
    return [f"v_{rail}" for rail in RAILS]
