"""Simulate test images of a network in SPICE, many at a time, keeping every finished result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memprop.circuit.elaborate import Form
from memprop.circuit.network import Network
from memprop.circuit.noise import Noise
from memprop.conductance.pair import Array
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images
from memprop.errors import InputError, SimulationError
from memprop.flow.image_jobs import Image, image_decks
from memprop.flow.reduction import GROUPS
from memprop.spice.engine import Engine
from memprop.spice.farm import Farm, Job, Outcome
from memprop.twin.cell import DT

MAX_STEP = 0.25e-6
"""Default largest time step of the simulator, in s."""
WAVEFORMS = 300
"""Default number of images whose waveforms are kept."""
SPLITS = ("test", "train")


@dataclass(frozen=True, slots=True)
class Waveforms:
    """Waveforms of one image."""

    membranes: NDArray[np.float32]
    """All membranes in V at the ends of the twin's time steps, ``[T + 1, neurons]``, populations side by side."""
    time: Array
    """Time points of the simulator in s, ``[points]``."""
    outputs: Array
    """Output membranes in V at the simulator's own time points, ``[points, classes]``."""
    rails: Array
    """Currents of the supply rails in A, ``[points, rails]``."""


@dataclass(frozen=True, slots=True)
class ImageResult:
    """What SPICE says of one image."""

    index: int
    """Index in the test set."""
    means: Array
    """Time means of the output membranes above rest in V, ``[classes]``."""
    energy_crossbars: float
    """Energy from the row drivers, in J."""
    energy_neurons: float
    """Energy from the supply rails and the column mirrors, in J."""
    lowest: Array
    """Lowest membrane of each population at the simulator's time points, in V, ``[populations]``."""
    highest: Array
    """Highest membrane of each population, in V, ``[populations]``."""
    seconds: float
    """Wall time of the simulation that made it, in s."""
    waveforms: Waveforms | None = None
    """Kept of the first images only."""

    @property
    def answer(self) -> int:
        """Class with the highest mean."""
        return int(self.means.argmax())

    @property
    def waves(self) -> Waveforms:
        """The waveforms.

        Raises
        ------
        InputError: they were not kept.
        """
        if self.waveforms is None:
            raise InputError(
                f"image {self.index} was simulated without keeping its waveforms. Raise SpiceSettings.waveforms and simulate again."
            )
        return self.waveforms

    @property
    def membranes(self) -> NDArray[np.float32]:
        """Membranes of the waveforms in V, ``[T + 1, neurons]``."""
        return self.waves.membranes

    @property
    def time(self) -> Array:
        """Time points of the waveforms in s, ``[points]``."""
        return self.waves.time

    @property
    def outputs(self) -> Array:
        """Output membranes in V, ``[points, classes]``."""
        return self.waves.outputs

    @property
    def rails(self) -> Array:
        """Currents of the supply rails in A, ``[points, rails]``."""
        return self.waves.rails


@dataclass(slots=True)
class SpiceResults:
    """Results and failures by image index."""

    done: dict[int, ImageResult] = field(default_factory=dict)
    failed: dict[int, SimulationError] = field(default_factory=dict)
    retried: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Why images were simulated more than once."""
    cached: int = 0


@dataclass(frozen=True, slots=True)
class SpiceSettings:
    """How to simulate.

    Raises
    ------
    InputError: ``waveforms`` is negative.
    """

    form: Form = "reduced"
    max_step: float = MAX_STEP
    """Largest time step in s."""
    dt: float = DT
    """Time step of the twin in s, at whose multiples the waveforms are kept."""
    workers: int | None = None
    """Worker processes; default one per core."""
    timeout_s: float = 1800.0
    cache: Path | None = None
    """Folder that keeps finished results; they are found again by network, image and engine."""
    waveforms: int = WAVEFORMS
    """The first so many images keep their waveforms; of the others means, energies and extremes are enough."""
    cluster: str | None = None
    """None for processes of this machine, ``local`` for a dask cluster on it, else the address of a dask scheduler."""
    retries: int = 1
    """Further tries of an image whose simulator was killed or timed out."""
    noise: Noise | None = None
    """Noise of each run; None: none. For the reduced form of ideal wires."""

    def __post_init__(self) -> None:
        if self.waveforms < 0:
            raise InputError(f"waveforms = {self.waveforms}: at least 0 images keep theirs.")


def image_order(data: Images, split: str = "test") -> NDArray[np.int64]:
    """Return all indices of a split in a fixed random order: the first n are a fair sample, and more images extend it."""
    return np.random.default_rng(2026).permutation(len(getattr(data, split).labels))


def simulate_images(
    network: Network,
    encoder: AlphaEncoder,
    data: Images,
    indices: Sequence[int],
    engine: Engine | str,
    settings: SpiceSettings | None = None,
    on_done: Callable[[int, Outcome], None] = lambda index, outcome: None,  # noqa: ARG005
    split: str = "test",
) -> SpiceResults:
    """Simulate images in SPICE; a failure is kept beside the results and stops nothing.

    ``on_done(index, outcome)`` is called after every image. Results found in the cache are not simulated again.

    Raises
    ------
    InputError: an index is not in the split, or images and network do not fit.
    EngineError: the engine or the cluster is missing.
    """
    settings = settings or SpiceSettings()
    chosen = list(dict.fromkeys(int(i) for i in indices))
    _check(network, data, chosen, split)
    results, first = SpiceResults(), set(chosen[: settings.waveforms])
    jobs = _jobs(network, encoder, data, chosen, settings, split)
    with (
        Farm(
            engine,
            settings.workers,
            settings.cluster,
            settings.cache,
            retries=settings.retries,
            timeout_s=settings.timeout_s,
        ) as farm,
        closing(farm.run(jobs)) as outcomes,
    ):
        for outcome in outcomes:
            index = chosen[outcome.index]
            _take(results, index, outcome, index in first)
            on_done(index, outcome)
    return results


def _check(network: Network, data: Images, indices: Sequence[int], split: str) -> None:
    if split not in SPLITS:
        raise InputError(f"split '{split}' of {data.name} is unknown. Known: {', '.join(SPLITS)}.")
    count = len(getattr(data, split).labels)
    wrong = [index for index in indices if not 0 <= index < count]
    if wrong:
        raise InputError(f"{split} image {wrong[0]} is not there: {data.name} has {count}, numbered from 0.")
    if data.rows != network.inputs:
        raise InputError(
            f"{data.name} has {data.rows} pixels; network {network.name} has {network.inputs} rows. Take the data it was trained on."
        )


def _jobs(
    network: Network, encoder: AlphaEncoder, data: Images, indices: Sequence[int], settings: SpiceSettings, split: str
) -> Iterator[Job]:
    decks = image_decks(network, encoder, settings.form, settings.max_step, settings.dt, settings.noise)
    for number, index in enumerate(indices):
        yield decks.job(Image(data, split, index), number < settings.waveforms)


def _take(results: SpiceResults, index: int, outcome: Outcome, waveforms: bool) -> None:
    if outcome.retries:
        results.retried[index] = outcome.retries
    if outcome.result is None:
        if outcome.error is not None:
            results.failed[index] = outcome.error
        return
    results.done[index] = _image_result(index, outcome.result, outcome.seconds, waveforms)
    results.cached += outcome.cached


def _image_result(index: int, found: dict[str, NDArray[Any]], seconds: float, waveforms: bool) -> ImageResult:
    """Return the result without a view of more than it shows: a kept result may have waveforms that nobody asked for."""
    energy = dict(zip(GROUPS, found["energies"].tolist(), strict=True))
    waves = Waveforms(found["membranes"], found["time"], found["outputs"], found["rails"]) if waveforms else None
    means, lowest, highest = (found[name].copy() for name in ("means", "lowest", "highest"))
    return ImageResult(index, means, energy["crossbars"], energy["neurons"], lowest, highest, seconds, waves)
