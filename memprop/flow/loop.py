"""The closed loop: twin -> conductances -> netlist -> SPICE -> bundle -> summary."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from memprop.circuit.elaborate import Form
from memprop.circuit.network import Network
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images
from memprop.errors import BundleError, InputError, SimulationError
from memprop.export.bundle import Provenance, StoredImage, load_bundle, write_bundle
from memprop.export.manifest import Manifest
from memprop.flow.simulate import MAX_STEP, ImageResult, SpiceResults, SpiceSettings, rail_sources
from memprop.learn.bptt import accuracy, evaluate
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
    rms: float
    """Deviation of all membranes, in V rms."""
    peak: float
    """Largest deviation of any membrane at any step, in V."""
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


@torch.no_grad()
def compare(twin: Twin, data: Images, results: dict[int, ImageResult], batch: int = 50) -> Comparison:
    """Return twin against SPICE.

    Raises
    ------
    InputError: SPICE gave no result.
    """
    if not results:
        raise InputError("no image was simulated in SPICE, so there is nothing to compare. Look at the failures.")
    indices = sorted(results)
    squares, count, peak, answers, mean_squares = 0.0, 0, 0.0, [], 0.0
    for start in range(0, len(indices), batch):
        part = indices[start : start + batch]
        pixels = torch.from_numpy(data.pixels("test", np.array(part)))
        traces = torch.cat(list(twin.traces(pixels).values()), dim=2).double().numpy()
        error = traces - np.stack([results[i].membranes for i in part], axis=1)
        squares, count, peak = (
            squares + float((error**2).sum()),
            count + error.size,
            max(peak, float(np.abs(error).max())),
        )
        means = twin(pixels).double().numpy()
        mean_squares += float(((means - np.stack([results[i].means for i in part])) ** 2).mean(1).sum())
        answers += means.argmax(1).tolist()
    labels = data.test.labels[indices]
    spice = np.array([results[i].answer for i in indices])
    return Comparison(
        len(indices), float((spice == labels).mean()), float((np.array(answers) == labels).mean()),
        float((spice == np.array(answers)).mean()), (squares / count) ** 0.5, peak, *_range(twin, results),
        (mean_squares / len(indices)) ** 0.5,
        float(np.mean([results[i].energy_crossbars for i in indices])), float(np.mean([results[i].energy_neurons for i in indices])),
    )  # fmt: skip


def _range(twin: Twin, results: dict[int, ImageResult]) -> tuple[float, float, int]:
    """Return the lowest and the highest membrane in V, and the number of images outside of the cards' limits."""
    limits = [layer.cell.card.limits.get("mem") for layer in twin.populations for _ in range(layer.size)]
    low = np.array([-np.inf if limit is None else limit.at_least for limit in limits])
    high = np.array([np.inf if limit is None else limit.at_most for limit in limits])
    membranes = [result.membranes for result in results.values()]
    outside = sum(bool(((m < low) | (m > high)).any()) for m in membranes)
    return float(min(m.min() for m in membranes)), float(max(m.max() for m in membranes)), outside


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
        "waveform_rms_v": comparison.rms,
        "waveform_peak_v": comparison.peak,
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
