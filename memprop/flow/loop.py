"""The closed loop: twin -> conductances -> netlist -> SPICE -> bundle -> summary."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memprop.circuit.elaborate import Form
from memprop.circuit.network import Network
from memprop.conductance.pair import Array
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images
from memprop.errors import BundleError, InputError, SimulationError
from memprop.export.bundle import Provenance, StoredImage, load_bundle, write_bundle
from memprop.export.manifest import Manifest
from memprop.flow.reduction import rail_sources
from memprop.flow.simulate import MAX_STEP, ImageResult, SpiceResults, SpiceSettings
from memprop.learn.training import accuracy, evaluate
from memprop.spice.engine import Engine
from memprop.twin.network import Twin


@dataclass(frozen=True, slots=True)
class Comparison:
    """Twin against SPICE on the images that SPICE simulated."""

    images: int
    spice_correct: float
    """Share of images that SPICE classifies right."""
    twin_correct: float
    """Share of the same images that the twin classifies right."""
    agreement: float
    """Share of images that both put in the same class."""
    waveform_images: int
    """Images whose waveforms were kept."""
    rms: float
    """Deviation of all membranes of these, in V rms; NaN without any."""
    peak: float
    """Largest deviation of any of these membranes at any step, in V."""
    lowest: float
    """Lowest membrane SPICE saw, in V."""
    highest: float
    """Highest membrane SPICE saw, in V."""
    outside: int
    """Images with a membrane outside of the limits in the cells' cards."""
    mean_rms: float
    """Deviation of the mean outputs, which decide the class, in V rms."""
    energy_crossbars: float
    """Mean energy per image from the row drivers, in J."""
    energy_neurons: float
    """Mean energy per image from rails and mirrors, in J."""


def compare(
    twin: Twin, data: Images, results: Mapping[int, ImageResult], batch: int = 50, *,
    split: str = "test", means: Mapping[int, Array] | None = None,
) -> Comparison:  # fmt: skip
    """Return twin against SPICE; waveforms are compared where they were kept.

    ``means`` are the mean outputs of the twin in V by image, where they are known already.

    Raises
    ------
    InputError: SPICE gave no result.
    """
    if not results:
        raise InputError("no image was simulated in SPICE, so there is nothing to compare. Look at the failures.")
    indices = sorted(results)
    means = twin_means(twin, data, indices, split, batch) if means is None else means
    ours, theirs = np.stack([means[i] for i in indices]), np.stack([results[i].means for i in indices])
    labels = getattr(data, split).labels[indices]
    kept = [i for i in indices if results[i].waveforms is not None]
    return Comparison(
        len(indices), float((theirs.argmax(1) == labels).mean()), float((ours.argmax(1) == labels).mean()),
        float((theirs.argmax(1) == ours.argmax(1)).mean()), len(kept), *_deviation(twin, data, results, kept, split, batch),
        *_range(twin, results), float(((ours - theirs) ** 2).mean()) ** 0.5,
        float(np.mean([results[i].energy_crossbars for i in indices])), float(np.mean([results[i].energy_neurons for i in indices])),
    )  # fmt: skip


@torch.no_grad()
def twin_means(
    twin: Twin, data: Images, indices: Sequence[int], split: str = "test", batch: int = 50
) -> dict[int, Array]:
    """Return the mean outputs of the twin above rest in V, ``[classes]``, by image."""
    found: dict[int, Array] = {}
    for start in range(0, len(indices), batch):
        part = indices[start : start + batch]
        rows = twin(torch.from_numpy(data.pixels(split, np.array(part)))).double().numpy()
        found |= dict(zip(part, rows, strict=True))
    return found


@torch.no_grad()
def _deviation(
    twin: Twin, data: Images, results: Mapping[int, ImageResult], kept: Sequence[int], split: str, batch: int
) -> tuple[float, float]:
    """Return rms and peak of all membranes' deviations in V; NaN without a waveform."""
    squares, count, peak = 0.0, 0, 0.0
    for start in range(0, len(kept), batch):
        part = kept[start : start + batch]
        pixels = torch.from_numpy(data.pixels(split, np.array(part)))
        traces = torch.cat(list(twin.traces(pixels).values()), dim=2).double().numpy()
        error = traces - np.stack([results[i].membranes for i in part], axis=1)
        squares, count = squares + float((error**2).sum()), count + error.size
        peak = max(peak, float(np.abs(error).max()))
    return ((squares / count) ** 0.5, peak) if count else (math.nan, math.nan)


def _range(twin: Twin, results: Mapping[int, ImageResult]) -> tuple[float, float, int]:
    """Return the lowest and the highest membrane in V, and the number of images outside of the cards' limits."""
    limits = [layer.cell.card.limits.get("mem") for layer in twin.populations]
    low = np.array([-np.inf if limit is None else limit.at_least for limit in limits])
    high = np.array([np.inf if limit is None else limit.at_most for limit in limits])
    lowest = np.stack([result.lowest for result in results.values()])
    highest = np.stack([result.highest for result in results.values()])
    outside = int(((lowest < low) | (highest > high)).any(axis=1).sum())
    return float(lowest.min()), float(highest.max()), outside


def form_deviation(full: dict[int, ImageResult], reduced: dict[int, ImageResult]) -> float | None:
    """Return the largest deviation in V of output membranes between the two netlist forms, or None without common images."""
    common = sorted(set(full) & set(reduced))
    deviations = [
        np.abs(
            np.stack([np.interp(reduced[i].time, full[i].time, column) for column in full[i].outputs.T], 1)
            - reduced[i].outputs
        ).max()
        for i in common
    ]
    return float(max(deviations)) if common else None


def twin_accuracy(twin: Twin, data: Images) -> float:
    """Return the accuracy of the twin on the whole test set."""
    return accuracy(evaluate(twin, torch.from_numpy(data.pixels("test"))), torch.from_numpy(data.test.labels).long())


def provenance(
    twin: Twin, data: Images, engine: Engine, measured: dict[str, Any], seed: int, max_step: float = MAX_STEP
) -> Provenance:
    """Return where a bundle comes from; ``max_step`` (s) is the one its images were simulated with."""
    return Provenance(data.name, seed, twin.dt, max_step, data.classes, versions(engine), measured)


def versions(engine: Engine) -> dict[str, str]:
    """Return the versions that decide the numbers."""
    found = {name: version(name) for name in ("memprop", "torch", "numpy", "PySpice")}
    return {**found, "python": platform.python_version(), "engine": engine.name}


def export_bundle(
    folder: Path,
    network: Network,
    encoder: AlphaEncoder,
    data: Images,
    runs: Sequence[tuple[Form, ImageResult]],
    provenance: Provenance,
) -> Manifest:
    """Write the bundle, read it back, and check that not one bit of a conductance changed.

    Raises
    ------
    BundleError: what was read back differs.
    """
    nodes = [f"{network.output.name}_col{j}" + "_mem" for j in range(network.output.size)]
    images = []
    for form, result in runs:
        pixels = torch.from_numpy(data.pixels("test", slice(result.index, result.index + 1)))[0]
        outputs = dict(zip(nodes, result.outputs.T, strict=True))
        rails = dict(zip(rail_sources(), result.rails.T, strict=True))
        label = int(data.test.labels[result.index])
        images.append(StoredImage(result.index, label, encoder.stimulus(pixels), form, result.time, outputs, rails))
    manifest = write_bundle(folder, network, encoder, images, provenance)
    again = load_bundle(folder)[0]
    for before, after in zip(network.projections, again.projections, strict=True):
        if not (np.array_equal(before.g_plus, after.g_plus) and np.array_equal(before.g_minus, after.g_minus)):
            raise BundleError(
                f"bundle {folder}: conductances of {before.name} read back differ from those written. Please report this."
            )
    return manifest


class Clock:
    """Wall time of the stages, in s."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str, seconds: float | None = None) -> None:
        """End ``stage``; the next one begins. ``seconds`` counts work of earlier calls where it is known."""
        now = time.monotonic()
        self.seconds[stage] = now - self._last if seconds is None else seconds
        self._last = now


def summarise(
    comparison: Comparison, twin_correct: float | None, full: SpiceResults | None, reduced: SpiceResults, tests: int
) -> dict[str, Any]:
    """Return the measured table with units in the names, ready for JSON."""
    measured: dict[str, Any] = {} if twin_correct is None else {"twin_accuracy": twin_correct, "twin_images": tests}
    measured |= {
        "spice_accuracy": comparison.spice_correct,
        "spice_images": comparison.images,
        "spice_failed": len(reduced.failed),
        "spice_cached": reduced.cached,
        "twin_accuracy_same_images": comparison.twin_correct,
        "agreement": comparison.agreement,
        "waveform_images": comparison.waveform_images,
        "waveform_rms_v": comparison.rms if comparison.waveform_images else None,
        "waveform_peak_v": comparison.peak if comparison.waveform_images else None,
        "mean_output_rms_v": comparison.mean_rms,
        "membrane_min_v": comparison.lowest,
        "membrane_max_v": comparison.highest,
        "images_outside_limits": comparison.outside,
        "energy_crossbars_j": comparison.energy_crossbars,
        "energy_neurons_j": comparison.energy_neurons,
    }
    if full is not None:
        measured |= {
            "full_images": len(full.done),
            "full_failed": len(full.failed),
            "full_against_reduced_peak_v": form_deviation(full.done, reduced.done),
        }
    return measured


def first_failure(results: SpiceResults) -> SimulationError | None:
    """Return one failure, to show."""
    return next(iter(results.failed.values()), None)


def with_form(settings: SpiceSettings, form: Form) -> SpiceSettings:
    """Return the settings for another netlist form."""
    return replace(settings, form=form)
