"""``memprop in-the-loop``: chips of a design, as they come, after learning in the loop, and against the design; all measured in SPICE."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from memprop.circuit.elaborate import Form
from memprop.circuit.network import Network
from memprop.circuit.spread import Chip
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images, load
from memprop.errors import InputError
from memprop.export.bundle import Provenance, check_target, load_bundle
from memprop.export.manifest import Manifest
from memprop.files import ensure_folder, write_json
from memprop.flow.commands import simulate
from memprop.flow.image_jobs import conductance_digest
from memprop.flow.loop import export_bundle, first_failure, versions
from memprop.flow.plant import SpicePlant
from memprop.flow.settings import TRUST
from memprop.flow.simulate import SpiceSettings, image_order
from memprop.flow.spread import ChipSettings, make_chip
from memprop.flow.trust import TrustRegion
from memprop.learn.bptt import BPTTConfig, fit
from memprop.learn.checkpoint import load_checkpoint
from memprop.learn.in_the_loop import InTheLoopConfig, fit_in_the_loop
from memprop.learn.plant import Pairs
from memprop.learn.training import History, Progress
from memprop.report.figures import mismatch_curve, training_curve
from memprop.report.progress import progress
from memprop.spice.engine import Engine, make_engine
from memprop.twin.fitted import load_fit
from memprop.twin.network import Twin, from_network

CHECKPOINT = "in_the_loop.safetensors"
TWIN_CHECKPOINT = "on_the_twin.safetensors"
SHIFTED = 20
"""Pixels a side from which on a shift by one pixel leaves an image what it is."""
TARGETS = ("design", "labels")
ROWS = ("ideal", "plain", "calibrated", "tuned")


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """How chips are tuned and judged.

    Raises
    ------
    InputError: no test image, nothing to learn, or unknown targets.
    """

    learning: InTheLoopConfig | None
    """Learning in the loop; None: the chip is written once."""
    test: int = 500
    """Test images on which design and chips are judged in SPICE."""
    workers: int | None = None
    cluster: str | None = None
    timeout_s: float = 1800.0
    states: bool = True
    """Whether device states are measured besides the membranes."""
    calibrated: Path | None = None
    """Bundle with the calibrated parameters of the chip, for the twin; None: the twin knows the design only."""
    on_twin: BPTTConfig | None = None
    """Training on the twin before the chip is written for the first time; None: the targets are those of the design."""
    form: Form = "reduced"
    """Netlist form of chip and design."""
    fit: Path | None = None
    """Fit of the cell that the twin begins with; in the loop it is fitted anew where it leaves its range."""
    shift: int | None = None
    """Training images in the loop move by up to so many pixels, so that few go further; None: 1, or 0 where they are small."""
    targets: str = "design"
    """What the chip learns in the loop: ``design``, the answers of the design's twin, or ``labels``."""

    def __post_init__(self) -> None:
        if self.targets not in TARGETS:
            raise InputError(
                f"targets = {self.targets!r}: the chip learns the answers of the {' or the '.join(TARGETS)}."
            )
        if self.test < 1:
            raise InputError(f"test = {self.test}: at least 1 test image is needed.")
        if not (self.learning or self.on_twin):
            raise InputError(
                "neither epochs in the loop nor on the twin: nothing would be learned. Ask for one of them."
            )


@dataclass(frozen=True, slots=True)
class Tuned:
    """What became of one chip."""

    settings: ChipSettings | None
    """None: the design itself."""
    accuracy: dict[str, float]
    """In SPICE on the same test images: ``ideal`` (the design), ``plain`` (the chip with the design's targets),
    ``calibrated`` (with those learned on the twin, one transfer), ``tuned`` (in the loop)."""
    failed: int
    """Images of all these that could not be simulated and count in none."""
    history: History | None
    """Of the learning in the loop."""

    @property
    def sigma(self) -> float:
        """Largest relative spread of a neuron's parameter."""
        return max(self.settings.spread.parameters.values(), default=0.0) if self.settings else 0.0


@dataclass(frozen=True, slots=True)
class _Design:
    """A bundle that chips are made of."""

    network: Network
    encoder: AlphaEncoder
    manifest: Manifest
    data: Images

    def twin(self, loop: LoopSettings, chip: Chip) -> Twin:
        """Return the twin that learns: with the parameters of the design, or those that a calibration of the chip found."""
        network = self.network
        if loop.calibrated is not None:
            measured = load_bundle(loop.calibrated)[0]
            _check_calibrated(loop.calibrated, measured, chip.network, network)
            network = replace(network, populations=measured.populations)
        step = (loop.learning and loop.learning.dt) or (loop.on_twin and loop.on_twin.dt) or self.manifest.dt
        return from_network(network, self.encoder, step)

    def teacher(self, loop: LoopSettings) -> Twin | None:
        """Return the twin of the design as it was exported, if chips learn its answers."""
        return from_network(self.network, self.encoder, self.manifest.dt) if loop.targets == "design" else None


def in_the_loop(
    bundle: Path, chips: Sequence[ChipSettings], settings: LoopSettings, console: Console, *,
    engine_name: str = "vacask", run: Path | None = None, out: Path | None = None,
) -> list[Tuned]:  # fmt: skip
    """Tune chips of the design in ``bundle``, each in a folder of its own below ``run``; interrupt it, the same command goes on.

    Writes ``summary.json``, a figure of the training of each chip, and with several chips the accuracies over the spread. A
    single chip becomes a bundle in ``out``.

    Raises
    ------
    InputError: no chip, more test images than there are, or the network has no twin.
    BundleError: ``bundle`` is none, or ``out`` holds something else.
    SimulationError: an image could not be simulated while learning.
    CheckpointError: the folder holds another training.
    """
    if not chips:
        raise InputError("no chip to tune. Give a spread, e.g. --sigma 0.3.")
    if out is not None and len(chips) > 1:
        raise InputError(f"{len(chips)} chips and one bundle {out}. Ask for a bundle of one chip.")
    network, encoder, manifest = load_bundle(bundle)
    design = _Design(network, encoder, manifest, load(manifest.dataset))
    if settings.test > len(design.data.test.labels):
        raise InputError(f"test = {settings.test}: {manifest.dataset} has {len(design.data.test.labels)} test images.")
    settings = _decided(settings, design.data)
    folder = ensure_folder(run or Path("runs") / f"{network.name}_in_the_loop")
    if out is not None:
        check_target(out)
    found: list[Tuned] = []
    with closing(make_engine(engine_name)) as engine:
        for chip in chips:
            found.append(_tune(design, chip, settings, engine, folder / _folder(chip), console))
            console.print(tuned_table(found, network.name, engine.name))
        if out is not None:
            _export(design, chips[0], settings, engine, folder / _folder(chips[0]), out, console)
        about = {
            "design": network.name,
            "engine": engine.name,
            "test_images": settings.test,
            "versions": versions(engine),
        }
    learning = None if settings.learning is None else asdict(settings.learning)
    twin = None if settings.on_twin is None else asdict(settings.on_twin)
    about |= {"learning": learning, "on_twin": twin, "targets": settings.targets}
    for one, chip in zip(found, chips, strict=True):
        write_json(ensure_folder(folder / _folder(chip)) / "summary.json", {**about, "chips": [_record(one)]})
    write_json(folder / "summary.json", {**about, "chips": [_record(one) for one in found]})
    if len(found) > 1:
        rows = {name: [one.accuracy[name] for one in found] for name in ROWS if name in found[0].accuracy}
        mismatch_curve(folder / "mismatch.png", [one.sigma for one in found], rows, settings.test)
    console.print(f"summary and figures: {folder}", soft_wrap=True, markup=False)
    return found


def _decided(settings: LoopSettings, data: Images) -> LoopSettings:
    """Return the settings with what depends on the images decided: their shift, and how many the training on the twin holds out."""
    usual = int(min(data.train.images[0].shape) >= SHIFTED)
    shift = usual if settings.shift is None else settings.shift
    learning, on_twin = settings.learning, settings.on_twin
    if learning is not None:
        learning = replace(learning, shift=shift)
    if on_twin is not None:
        on_twin = replace(on_twin, shift=shift, validation=min(on_twin.validation, len(data.train.labels) // 10))
    if settings.fit is not None:  # its factors hold at the step that they were fitted at
        step = load_fit(settings.fit).dt
        learning, on_twin = (None if one is None else replace(one, dt=step) for one in (learning, on_twin))
    return replace(settings, learning=learning, on_twin=on_twin)


def _check_calibrated(path: Path, measured: Network, chip: Network, design: Network) -> None:
    """Refuse parameters that are further from those of the chip than the design's are: they are of another chip."""
    if [(p.size, p.cell.digest) for p in measured.populations] != [(p.size, p.cell.digest) for p in chip.populations]:
        raise InputError(f"{path} has other populations or cells than {design.name}. Calibrate a chip of this design.")
    for found, true, nominal in zip(measured.populations, chip.populations, design.populations, strict=True):
        theirs, ours = (p.cell.values(p.size, p.parameters) for p in (found, nominal))
        for name, value in true.parameters.items():
            of_design, of_file = (float(np.median(np.abs(np.divide(x[name], value) - 1.0))) for x in (ours, theirs))
            if of_file > of_design > 0.0:
                raise InputError(
                    f"{path}: {name} of population {true.name} is off the chip's by {of_file:.1%} in the median, that of the "
                    f"design by {of_design:.1%}: it belongs to another chip. Calibrate the bundle that `memprop spread` "
                    "writes with the same --sigma, --corner and --seed."
                )


def _folder(chip: ChipSettings) -> str:
    """Return a folder name that tells chips of different settings apart."""
    words = [f"seed{chip.seed}", *([chip.corner] if chip.corner else [])]
    words += [f"{name}{value:g}" for name, value in chip.spread.parameters.items() if value]
    words += [f"{name}{value:g}" for name, value in asdict(chip.spread).items() if isinstance(value, float) and value]
    return "_".join(words)


def _tune(
    design: _Design, settings: ChipSettings, loop: LoopSettings, engine: Engine, folder: Path, console: Console
) -> Tuned:
    chip = make_chip(design.network, settings)
    twin = design.twin(loop, chip)
    accuracy, failed, history = {}, 0, None

    def judge(name: str, network: Network, cache: Path) -> None:
        nonlocal failed
        accuracy[name], missing = _accuracy(network, design, loop, engine, cache, console)
        failed += missing

    judge("ideal", design.network, folder.parent)
    judge("plain", chip.program(), folder)
    if loop.on_twin is not None:
        trust = _trust(loop, engine, folder / f"{TRUST}_on_twin", console)
        about = {"design": conductance_digest(design.network)}
        fit(twin, design.data, loop.on_twin, checkpoint=folder / TWIN_CHECKPOINT, trust=trust, about=about)
        judge("calibrated", _programmed(chip, twin), folder)
    if loop.learning is not None:
        history = _learn(twin, chip, design, loop, loop.learning, engine, folder, console)
        judge("tuned", _programmed(chip, twin), folder)
        curve = (history.loss, history.validation, history.best, history.validation_loss)
        training_curve(folder / "training.png", *curve)
    return Tuned(settings, accuracy, failed, history)


def _learn(
    twin: Twin, chip: Chip, design: _Design, loop: LoopSettings, learning: InTheLoopConfig, engine: Engine, folder: Path,
    console: Console,
) -> History:  # fmt: skip
    names = [projection.name for projection in design.network.projections]

    def program(pairs: Pairs) -> Network:
        return chip.program(dict(zip(names, pairs, strict=True)))

    count = min(learning.images or 10**9, len(design.data.train.labels) - learning.validation)
    steps = learning.epochs * math.ceil(count / learning.batch)
    plant = SpicePlant(
        chip.program(), design.encoder, engine, program=program, max_step=design.manifest.max_step, workers=loop.workers,
        cluster=loop.cluster, timeout_s=loop.timeout_s, cache=folder / "batch", states=loop.states, form=loop.form,
    )  # fmt: skip
    with plant, progress("in the loop", steps, console) as advance:

        def on_step(at: Progress) -> None:
            advance(f"epoch {at.epoch + 1}, loss {at.loss:.3f}", done=at.epoch * at.steps + at.step)

        trust = _trust(loop, engine, folder / TRUST, console)
        return fit_in_the_loop(
            twin, plant, design.data, learning, teacher=design.teacher(loop), checkpoint=folder / CHECKPOINT,
            on_step=on_step, trust=trust,
        )  # fmt: skip


def _trust(loop: LoopSettings, engine: Engine, folder: Path, console: Console) -> TrustRegion | None:
    return None if loop.fit is None else TrustRegion(folder, loop.fit, engine, console, loop.workers)


def _programmed(chip: Chip, twin: Twin) -> Network:
    pairs = {p.name: crossbar.pair() for p, crossbar in zip(chip.network.projections, twin.crossbars, strict=True)}
    return chip.program(pairs)


def _accuracy(
    network: Network, design: _Design, loop: LoopSettings, engine: Engine, cache: Path, console: Console
) -> tuple[float, int]:
    """Return the share of right answers in SPICE, and how many images failed."""
    order = [int(i) for i in image_order(design.data)[: loop.test]]
    spice = SpiceSettings(
        loop.form, design.manifest.max_step, design.manifest.dt, loop.workers, timeout_s=loop.timeout_s,
        cache=cache, waveforms=0, cluster=loop.cluster,
    )  # fmt: skip
    results = simulate(network, design.encoder, design.data, order, engine, spice, console)
    right = [result.answer == design.data.test.labels[index] for index, result in results.done.items()]
    return float(np.mean(right)), len(results.failed)


def _export(
    design: _Design,
    settings: ChipSettings,
    loop: LoopSettings,
    engine: Engine,
    folder: Path,
    out: Path,
    console: Console,
) -> None:
    """Write the tuned chip as a bundle with the testbenches of the design's images."""
    chip = make_chip(design.network, settings)
    twin = design.twin(loop, chip)
    _load_best(twin, folder / (CHECKPOINT if loop.learning else TWIN_CHECKPOINT))
    network = replace(_programmed(chip, twin), name=f"{design.network.name}_tuned")
    images = list(dict.fromkeys(bench.image for bench in design.manifest.testbenches))
    spice = SpiceSettings(max_step=design.manifest.max_step, dt=design.manifest.dt, timeout_s=loop.timeout_s)
    results = simulate(network, design.encoder, design.data, images, engine, spice, console)
    if error := first_failure(results):
        raise error
    manifest = design.manifest
    origin = Provenance(manifest.dataset, manifest.seed, manifest.dt, manifest.max_step, manifest.classes, versions(engine),
                        {"chip": f"{settings} of {design.network.name}, tuned in the loop"})  # fmt: skip
    export_bundle(out, network, design.encoder, design.data, [("reduced", results.done[i]) for i in images], origin)
    console.print(f"bundle: {out}", soft_wrap=True, markup=False)


def _load_best(twin: Twin, path: Path) -> None:
    tensors, _ = load_checkpoint(path)
    with torch.no_grad():
        best = {name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")}
        twin.load_state_dict(best, strict=False)


def tuned_table(found: Sequence[Tuned], name: str, engine: str) -> Table:
    """Return the accuracies of all chips as a table."""
    title = f"chips of {name} in {engine}; accuracy in SPICE on the same test images"
    words = ("design", "as it comes", "learned on the twin", "in the loop")
    table = Table("chip", *words, "time in SPICE", title=title, title_justify="left")
    for one in found:
        cells = [f"{100 * one.accuracy[key]:.2f} %" if key in one.accuracy else "-" for key in ROWS]
        table.add_row(_words(one.settings), *cells, _time(one.history))
    return table


def _words(chip: ChipSettings | None) -> str:
    """Return a chip in few words, parameters of equal spread together; all of it stands in the summary."""
    if chip is None:
        return "the design"
    alike: dict[float, list[str]] = {}
    for name, value in chip.spread.parameters.items():
        alike.setdefault(value, []).append(name)
    words = [f"seed {chip.seed}", *([chip.corner] if chip.corner else [])]
    return ", ".join([*words, *(f"{value:.0%} on {' '.join(names)}" for value, names in alike.items())])


def _time(history: History | None) -> str:
    """Return how much of the learning in the loop was the simulator's."""
    if history is None or not sum(history.seconds):
        return "-"
    return f"{sum(history.circuit_seconds):.0f} of {sum(history.seconds):.0f} s"


def _record(one: Tuned) -> dict[str, Any]:
    chip = None if one.settings is None else asdict(one.settings)
    return {
        "chip": chip,
        "accuracy": one.accuracy,
        "failed": one.failed,
        **(asdict(one.history) if one.history else {}),
    }
