"""Part ``spice``: images of a network in engines, deck forms, single runs, batches and the farm."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import PchipInterpolator

from memprop.circuit.elaborate import Form
from memprop.deck.deck import Deck
from memprop.errors import EngineError, SimulationError
from memprop.flow.bench.machine import engines
from memprop.flow.bench.measure import Run, as_case, by_turns, now, peak_memory, ratios, shown
from memprop.flow.bench.sheet import Row, Sheet
from memprop.flow.bench.subjects import Subject, bundle_subject, population_subject, random_subject
from memprop.flow.image_jobs import ImageDecks, image_decks
from memprop.flow.simulate import MAX_STEP, SpiceSettings, simulate_images
from memprop.spice.engine import Engine
from memprop.spice.recording import Recording

TIMEOUT_S = 3600.0
FARM = "workers_and_simulators"
"""Who spends the CPU time of a farm, but for this process."""
BATCH = 16
"""Images of a batch."""


@dataclass(frozen=True, slots=True)
class SpicePlan:
    """What is measured."""

    small: tuple[int, ...] | None
    """Network whose naive deck is compared too: it takes seconds."""
    large: tuple[int, ...]
    forms: Sequence[Form] = ("reduced", "full")
    """Forms of the large network."""
    rounds: int = 3
    large_rounds: int = 2
    images: int = BATCH
    farm: int = 96
    """Images of the comparison of workers."""
    growth_images: Sequence[int] = (1, 10, 100)
    growth_neurons: Sequence[int] = (10, 100, 1000)
    bundle: Path | None = None
    """A trained network in place of random weights, for the large one."""
    osdi: Path | None = None
    """An ngspice with OSDI beside the usual one."""
    duration: float = 100e-6
    """Presentation in s."""


def measure(sheet: Sheet, plan: SpicePlan) -> None:
    """Measure the rows of ``plan``.

    Raises
    ------
    EngineError: no engine is there.
    SimulationError: a deck fails.
    """
    found = engines(plan.osdi)
    if not found:
        raise EngineError("no simulator is there to be measured. See `memprop doctor`.")
    try:
        made = {"duration_s": plan.duration}
        large = random_subject(plan.large, plan.duration) if plan.bundle is None else bundle_subject(plan.bundle)
        for n in plan.growth_images:  # first, as long as this process has no freed memory in which growth would hide
            for name, engine in found.items():
                row = f"growth over images, {large.name}, {n}, {name}"
                sheet.row(row, lambda n=n, engine=engine: _images(large, engine, n), made)
        if plan.small is not None:
            small = random_subject(plan.small, plan.duration)
            forms: tuple[Form, ...] = ("reduced", "full", "naive")
            sheet.row(
                f"forms, {small.name}", lambda: _forms(small, forms, found, plan.rounds, plan.images),
                {**made, "rounds": plan.rounds, "images": plan.images},
            )  # fmt: skip
        forms_row = f"forms, {large.name}" + (", naive too" if "naive" in plan.forms else "")
        sheet.row(
            forms_row, lambda: _forms(large, plan.forms, found, plan.large_rounds, plan.images),
            {**made, "rounds": plan.large_rounds, "images": plan.images},
        )  # fmt: skip
        for name, engine in found.items():
            row = f"workers, {large.name}, {name}"
            sheet.row(
                row, lambda engine=engine: _workers(large, engine, plan), {**made, "rounds": plan.rounds, "images": plan.farm}
            )  # fmt: skip
        for n in plan.growth_neurons:
            rounds = min(plan.rounds, 2)
            sheet.row(f"growth over neurons, {n}", lambda n=n: _neurons(n, found, plan), {**made, "rounds": rounds})
    finally:
        for engine in found.values():
            engine.close()


def _decks(subject: Subject, form: Form) -> ImageDecks:
    return image_decks(subject.network, subject.encoder, form, MAX_STEP, subject.encoder.duration / 400)


def _made(subject: Subject, decks: ImageDecks, images: int) -> list[Deck]:
    pixels = torch.from_numpy(subject.images.pixels("test", slice(0, images)))
    return [decks.deck(subject.encoder.stimulus(image)) for image in pixels]


class _Single:
    """Images one by one in a form and an engine, each in a process of its own, or all in a batch. Keeps the first recording."""

    def __init__(self, subject: Subject, form: Form, engine: Engine, images: int, *, batch: bool) -> None:
        self.decks, self.engine, self.images, self.batch = (
            _made(subject, _decks(subject, form), images),
            engine,
            images,
            batch,
        )
        self.membranes = [f"{p.name}_col{j}_mem" for p in subject.network.populations for j in range(p.size)]
        self.first: Recording | None = None

    def __call__(self) -> None:
        found: Iterable[Recording | SimulationError]
        if self.batch:
            found = list(self.engine.run_batch(self.decks, TIMEOUT_S))
        else:
            found = [self.engine.run(deck, TIMEOUT_S) for deck in self.decks]
        for result in found:
            if isinstance(result, SimulationError):
                raise result
        self.first = next(iter(found))  # pyright: ignore[reportAttributeAccessIssue]

    def recording(self) -> Recording:
        if self.first is None:
            self()
        return self.first  # pyright: ignore[reportReturnType]


def _forms(subject: Subject, forms: Sequence[Form], found: Mapping[str, Engine], rounds: int, most: int) -> Row:
    """Compare engines, forms, single runs and batches; the naive deck, which may take minutes, runs one image."""
    runs: dict[str, _Single] = {}
    for name, engine in found.items():
        for form in forms:
            few = 4 if form == "reduced" else 1
            runs[f"{name} {form} single"] = _Single(subject, form, engine, min(few, most), batch=False)
            if form != "naive":
                many = most if form == "reduced" else max(2, most // 8)
                runs[f"{name} {form} batch"] = _Single(subject, form, engine, many, batch=True)
    for case, run in runs.items():
        if " reduced single" in case:
            run()  # compiled models, files
    cases = {
        case: as_case(each, runs[case].images, "simulator")
        for case, each in by_turns(dict[str, Run](runs), rounds, warm=False).items()
    }
    first = next(iter(found))
    reference = f"{first} {'naive' if 'naive' in forms else 'full'} single"
    pairs = [(reference, case) for case in cases if case != reference]
    pairs += [(f"{name} naive single", case) for name in found for case in cases
              if name != first and "naive" in forms and case.startswith(f"{name} ") and "naive" not in case]  # fmt: skip
    return {
        "kind": "forms", "network": subject.name, "max_step_s": MAX_STEP, "per": "image", "cases": cases,
        "images_per_run": {case: run.images for case, run in runs.items()},
        "time_points": {case: run.recording().sizes["time"] for case, run in runs.items()},
        "ratios": {f"{above}/{below}": ratios(cases, above, below) for above, below in pairs},
        "largest_deviation_v": _deviations(runs, found, "naive" if "naive" in forms else "full"),
    }  # fmt: skip


def _deviations(runs: Mapping[str, _Single], found: Mapping[str, Engine], base: str) -> dict[str, float]:
    """Return the largest deviation of any membrane at any time from the form ``base`` in the same engine, in V."""
    result: dict[str, float] = {}
    for name in found:
        reference = runs[f"{name} {base} single"]
        for case, run in runs.items():
            if case.startswith(f"{name} ") and run is not reference:
                deviation = largest_deviation(reference.recording(), run.recording(), run.membranes)
                result[f"{case} against {base}"] = shown(deviation)
    return result


def largest_deviation(one: Recording, two: Recording, nodes: Sequence[str]) -> float:
    """Return the largest difference of the voltages of ``nodes`` in V, at the time points of the first recording."""
    a, b = (np.stack([recording.variables[node].values for node in nodes], axis=1) for recording in (one, two))
    t, s = one["time"].values, two["time"].values
    if len(t) != len(s) or not np.allclose(t, s, rtol=0, atol=1e-15):
        first = np.append(True, np.diff(s) > 0)
        b = PchipInterpolator(s[first], b[first], axis=0)(np.clip(t, s[0], s[-1]))
    return float(np.abs(a - b).max())


def _farm(subject: Subject, engine: Engine, images: int, workers: int | None) -> None:
    """Simulate images through the farm, with a cache that holds nothing yet."""
    with tempfile.TemporaryDirectory(prefix="memprop-bench-") as folder:
        settings = SpiceSettings(workers=workers, timeout_s=TIMEOUT_S, cache=Path(folder), waveforms=0)
        found = simulate_images(subject.network, subject.encoder, subject.images, range(images), engine, settings)
    for error in found.failed.values():
        raise error


def _workers(subject: Subject, engine: Engine, plan: SpicePlan) -> Row:
    """Compare one worker with two."""
    runs: dict[str, Run] = {
        f"{n} workers": lambda n=n: _farm(subject, engine, plan.farm, n) for n in (1, 2)
    }  # with the start of the workers
    samples = by_turns(runs, plan.rounds, warm=False)
    cases = {name: as_case(each, plan.farm, FARM) for name, each in samples.items()}
    return {
        "kind": "workers", "network": subject.name, "engine": engine.name, "images": plan.farm, "per": "image", "cases": cases,
        "ratios": {"1 workers/2 workers": ratios(cases, "1 workers", "2 workers")},
    }  # fmt: skip


def _images(subject: Subject, engine: Engine, images: int) -> Row:
    """Simulate so many images through the farm once; all of them together, and the memory of this process."""
    with peak_memory() as peak:
        start, before = peak(), now()
        _farm(subject, engine, images, None)
        spent, most = now() - before, peak()
    return {
        "kind": "growth over images", "network": subject.name, "engine": engine.name, "images": images,
        "cases": {"all images": as_case([spent], 1, FARM)}, "parent_memory_before_bytes": start, "parent_peak_memory_bytes": most,
    }  # fmt: skip


def _neurons(neurons: int, found: Mapping[str, Engine], plan: SpicePlan) -> Row:
    """Simulate one population, one image and few time points in the reduced form."""
    subject = population_subject(neurons, plan.duration / 20)
    decks = _decks(subject, "reduced")
    deck = _made(subject, decks, 1)[0]
    points: dict[str, int] = {}

    def runner(name: str, engine: Engine) -> Callable[[], None]:
        def run() -> None:
            points[name] = engine.run(deck, TIMEOUT_S).sizes["time"]

        return run

    samples = by_turns({name: runner(name, engine) for name, engine in found.items()}, min(plan.rounds, 2), warm=False)
    cases: dict[str, Any] = {name: as_case(each, 1, "simulator") for name, each in samples.items()}
    return {"kind": "growth over neurons", "neurons": neurons, "cases": cases, "time_points": points}


PLANS = {
    "tiny": SpicePlan((16, 3, 10), (16, 4, 10), rounds=1, images=2, farm=2, growth_images=(1, 2), growth_neurons=(1, 2),
                      duration=10e-6),
    "bench": SpicePlan((784, 16, 10), (784, 100, 10), ("reduced", "full", "naive")),
    "full": SpicePlan(
        (784, 16, 10), (784, 100, 10), ("reduced", "full", "naive"), 5, 3, 25, 400, (1, 10, 100, 1000),
        (10, 30, 100, 300, 1000, 3000, 10_000),
    ),
}  # fmt: skip
