"""``memprop simulate``: the accuracy of a network, measured in SPICE on as many images as one likes."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from memprop.circuit.network import Network
from memprop.conductance.pair import Array
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images, load
from memprop.errors import InputError
from memprop.export.bundle import load_bundle
from memprop.export.manifest import MANIFEST
from memprop.files import ensure_folder, sha256, write_atomic, write_json
from memprop.flow.commands import form_of, say_failures, simulate
from memprop.flow.image_jobs import Image, image_decks
from memprop.flow.loop import Clock, compare, summarise, twin_means, versions
from memprop.flow.settings import SETTINGS
from memprop.flow.simulate import SPLITS, SpiceResults, SpiceSettings, image_order
from memprop.flow.train import load_trained
from memprop.report.progress import progress
from memprop.report.table import summary_table
from memprop.spice.cache import ResultCache
from memprop.spice.engine import Engine, make_engine
from memprop.spice.farm import cores
from memprop.twin.network import Twin, from_network

CONFIDENCE = 1.959964
"""Half width of the normal distribution's 95 % interval, in standard deviations."""
CHUNK = 500
"""Images that the twin takes between two writes to the cache."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A trained network, from a bundle or a run folder."""

    name: str
    network: Network
    encoder: AlphaEncoder
    data: Images
    dt: float
    """Time step of the twin, in s."""
    max_step: float
    """Largest time step of the simulator, in s."""


def subject_of(folder: Path) -> Subject:
    """Return the network of a bundle, or the best one of a run folder.

    Raises
    ------
    BundleError: the folder is neither; CheckpointError: the run is damaged.
    """
    if (folder / SETTINGS).is_file() and not (folder / MANIFEST).is_file():
        run, data, twin = load_trained(folder, load)
        return Subject(run.name, twin.to_network(run.name), run.encoder, data, run.dt, SpiceSettings().max_step)
    network, encoder, manifest = load_bundle(folder)
    return Subject(manifest.name, network, encoder, load(manifest.dataset), manifest.dt, manifest.max_step)


def simulate_bundle(
    folder: Path, console: Console, *,
    images: int, form: str, engine_name: str, workers: int | None, timeout_s: float, out: Path | None,
    cluster: str | None = None, split: str = "test", waveforms: int = 20,
) -> SpiceResults:  # fmt: skip
    """Simulate images of a bundle or run in SPICE, compare with the twin, print a table and write both per image and in all.

    Raises
    ------
    InputError: more images than there are, or an unknown form or split.
    EngineError: the engine or the cluster is missing.
    """
    chosen, clock = form_of(form), Clock()
    with closing(make_engine(engine_name)) as engine:  # before the data: a missing simulator is said at once
        subject = subject_of(folder)
        order = _order(subject.data, split, images)
        target = ensure_folder(out or Path("runs") / subject.name / "spice")
        settings = SpiceSettings(
            chosen, subject.max_step, subject.dt, workers, timeout_s, target, waveforms=waveforms, cluster=cluster
        )
        clock.lap("reading")
        results = simulate(subject.network, subject.encoder, subject.data, order, engine, settings, console, split)
        clock.lap(f"SPICE, {chosen} netlist")
        twin = from_network(subject.network, subject.encoder, subject.dt)
        means = _twin_means(twin, subject, sorted(results.done), split, target, console)
        comparison = compare(twin, subject.data, results.done, split=split, means=means)
        clock.lap("twin")
        measured = summarise(comparison, None, None, results, len(order))
        measured |= _whole(measured, results, engine, settings)
        found = versions(engine)
    stem = f"simulate_{engine_name}_{chosen}" + ("" if split == "test" else f"_{split}")
    labels = getattr(subject.data, split).labels
    write_atomic(target / f"{stem}.csv", per_image(results, labels, means))
    about = {"name": subject.name, "dataset": subject.data.name, "split": split, "form": chosen, "images_asked": images}
    write_json(target / f"{stem}.json", {**about, **measured, "seconds": clock.seconds, "versions": found})
    console.print(summary_table(f"{subject.name} in {found['engine']}, {chosen} netlist", measured, clock.seconds))
    console.print(f"per image: {target / f'{stem}.csv'}   summary: {stem}.json", soft_wrap=True, markup=False)
    say_failures(results, None, console)
    return results


def _order(data: Images, split: str, images: int) -> list[int]:
    if split not in SPLITS:
        raise InputError(f"split '{split}' of {data.name} is unknown. Known: {', '.join(SPLITS)}.")
    order = [int(i) for i in image_order(data, split)]
    if not 1 <= images <= len(order):
        raise InputError(f"images = {images}: {data.name} has {len(order)} {split} images. Ask for 1 to {len(order)}.")
    return order[:images]


def _twin_means(
    twin: Twin, subject: Subject, indices: Sequence[int], split: str, folder: Path, console: Console
) -> dict[int, Array]:
    """Return the mean outputs of the twin in V by image; they are kept beside the results of SPICE."""
    prefix = f"twin {_twin_digest(subject)} {subject.dt!r}"
    found: dict[int, Array] = {}
    keys: dict[int, bytes] = {}
    with closing(ResultCache(folder)) as cache:
        for index in indices:
            keys[index] = bytes.fromhex(sha256(f"{prefix} {Image(subject.data, split, index).digest}"))[:16]
            kept = cache.get(keys[index])
            if kept is not None:
                found[index] = kept.arrays["means"]
        missing = [index for index in indices if index not in found]
        with progress("twin", len(missing), console) if missing else nullcontext(_silent) as advance:
            for start in range(0, len(missing), CHUNK):
                new = twin_means(twin, subject.data, missing[start : start + CHUNK], split)
                cache.put_many({keys[index]: {"means": row} for index, row in new.items()})
                found |= new
                advance(done=len(missing[: start + CHUNK]))
    return found


def _silent(note: str = "", *, done: int | None = None) -> None:
    """Say nothing."""


def _twin_digest(subject: Subject) -> str:
    """Return the hash of all that decides what the twin says: the netlist's description, which is its own, and torch."""
    decks = image_decks(subject.network, subject.encoder, "reduced", subject.max_step, subject.dt)
    return sha256(f"{version('memprop')} {torch.__version__} {decks.key}")


def _whole(
    measured: Mapping[str, Any], results: SpiceResults, engine: Engine, settings: SpiceSettings
) -> dict[str, Any]:
    """Return what the summary has besides: interval, failures and retries by reason, who simulated."""
    count = int(measured["spice_images"])
    low, high = interval(round(measured["spice_accuracy"] * count), count)
    failures = [
        {"image": index, "kind": type(error).__name__, "reason": error.reason}
        for index, error in sorted(results.failed.items())
    ]
    return {
        "spice_accuracy_low": low, "spice_accuracy_high": high, "engine": engine.name,
        "workers": settings.cluster or settings.workers or cores(), "failures": failures,
        "retries": dict(sorted(Counter(reason for reasons in results.retried.values() for reason in reasons).items())),
    }  # fmt: skip


def interval(right: int, count: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share, of which ``right`` of ``count`` were seen."""
    z, share = CONFIDENCE, right / count
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (middle - half) / (1 + z * z / count)), min(1.0, (middle + half) / (1 + z * z / count))


def per_image(results: SpiceResults, labels: NDArray[np.uint8], means: Mapping[int, Array]) -> str:
    """Return the results as CSV, one line per image in the order of the index, shortest numbers that read back the same."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    classes = len(next(iter(results.done.values())).means) if results.done else 0
    columns = [f"mean{j}_v" for j in range(classes)]
    writer.writerow(
        ["index", "label", "answer", "twin_answer", *columns, "energy_crossbars_j", "energy_neurons_j", "seconds"]
    )
    for index, r in sorted(results.done.items()):
        numbers = [*r.means.tolist(), r.energy_crossbars, r.energy_neurons, round(r.seconds, 4)]
        writer.writerow([index, int(labels[index]), r.answer, int(means[index].argmax()), *map(repr, numbers)])
    return text.getvalue()
