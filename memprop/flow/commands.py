"""What the command line does, step by step, with progress and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from memprop.circuit.elaborate import FORMS, Form, cells_form
from memprop.circuit.network import Network
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images, load
from memprop.errors import InputError
from memprop.export.bundle import check_target, load_bundle
from memprop.export.replay import replay
from memprop.files import ensure_folder, write_json
from memprop.flow.engines import compare_engines
from memprop.flow.gradient import Question
from memprop.flow.loop import (
    Clock,
    compare,
    export_bundle,
    first_failure,
    provenance,
    summarise,
    twin_accuracy,
    versions,
    with_form,
)
from memprop.flow.proof_cell import Proof, cell_proofs
from memprop.flow.proof_gradient import gradient_proof
from memprop.flow.settings import TRUST, RunSettings
from memprop.flow.simulate import ImageResult, SpiceResults, SpiceSettings, image_order, simulate_images
from memprop.flow.train import load_trained, train
from memprop.flow.trust import TrustRegion
from memprop.learn.training import History, Progress
from memprop.report import figures
from memprop.report.progress import Tally, progress
from memprop.report.table import summary_table
from memprop.spice.engine import ENGINES, Engine, make_engine
from memprop.spice.farm import Outcome
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.raw import read_raw
from memprop.twin.network import Twin

STORED = 2
"""Images that get a testbench in a bundle."""


def train_loop(
    settings: RunSettings, run: Path, out: Path, console: Console, *,
    images: int, full_images: int, engine_name: str, workers: int | None, timeout_s: float, device: str = "cpu",
) -> dict[str, Any]:  # fmt: skip
    """Close the loop from data to bundle, print the table and return it; every stage finds what an earlier call finished."""
    with closing(make_engine(engine_name)) as engine:  # before the long work: a missing simulator is said at once
        ensure_folder(run)
        check_target(out)
        clock = Clock()
        data = load(settings.dataset)
        clock.lap("data")
        twin, history = _train(settings, data, run, console, engine_name, workers, device)
        clock.lap("training", sum(history.seconds))
        correct = twin_accuracy(twin, data)
        clock.lap("twin on the test set")
        network = twin.to_network(settings.name)
        spice = SpiceSettings(dt=settings.dt, workers=workers, timeout_s=timeout_s, cache=run / "spice")
        reduced, full = _both_forms(network, settings, data, (images, full_images), engine, spice, console, clock)
        comparison = compare(twin, data, reduced.done)
        measured = summarise(comparison, correct, full, reduced, len(data.test.labels))
        runs = _stored([int(i) for i in image_order(data)], {"reduced": reduced, cells_form(network): full})
        origin = provenance(twin, data, engine, measured, settings.learning.seed, spice.max_step)
        export_bundle(out, network, settings.encoder, data, runs, origin)
        _draw(out / "figures", twin, network, data, history, runs[0][1])
        clock.lap("export and figures")
        versions_found = versions(engine)
    summary = {
        "name": settings.name, "sizes": list(twin.sizes), **measured, "seconds": clock.seconds, "versions": versions_found,
    }  # fmt: skip
    for folder in (run, out):
        write_json(folder / "summary.json", summary)
    title = f"{settings.name}: {'-'.join(map(str, twin.sizes))} on {settings.dataset}"
    console.print(summary_table(title, measured, clock.seconds))
    say_failures(reduced, full, console)
    console.print(
        f"bundle: {out}   figures: {out / 'figures'}   replay: memprop replay {out}", soft_wrap=True, markup=False
    )
    return summary


def _both_forms(
    network: Network, settings: RunSettings, data: Images, counts: tuple[int, int], engine: Engine,
    spice: SpiceSettings, console: Console, clock: Clock,
) -> tuple[SpiceResults, SpiceResults | None]:  # fmt: skip
    """Simulate the first images of the order, reduced and, where asked, with every cell."""
    order = [int(i) for i in image_order(data)]
    reduced = simulate(network, settings.encoder, data, order[: counts[0]], engine, spice, console)
    clock.lap("SPICE, reduced netlist")
    if not counts[1]:
        return reduced, None
    full = simulate(
        network, settings.encoder, data, order[: counts[1]], engine, with_form(spice, cells_form(network)), console
    )
    clock.lap("SPICE, every cell")
    return reduced, full


def _train(
    settings: RunSettings, data: Images, run: Path, console: Console, engine: str, workers: int | None, device: str
) -> tuple[Twin, History]:
    trust = None if settings.fit is None else TrustRegion(run / TRUST, Path(settings.fit), engine, console, workers)
    steps = -(-(len(data.train.labels) - settings.learning.validation) // settings.learning.batch)
    with progress("training", settings.learning.epochs * steps, console) as advance:

        def on_step(at: Progress) -> None:
            advance(f"epoch {at.epoch + 1}, loss {at.loss:.3f}", done=at.epoch * at.steps + at.step)

        return train(settings, data, run, on_step, trust, device)


def simulate(
    network: Network, encoder: AlphaEncoder, data: Images, indices: Sequence[int], engine: Engine,
    settings: SpiceSettings, console: Console, split: str = "test",
) -> SpiceResults:  # fmt: skip
    """Simulate with a progress bar."""
    tally = Tally()
    with progress(f"SPICE, {settings.form} netlist", len(indices), console) as advance:

        def on_done(index: int, outcome: Outcome) -> None:  # noqa: ARG001
            advance(tally.count(cached=outcome.cached, failed=outcome.error is not None))

        results = simulate_images(network, encoder, data, indices, engine, settings, on_done, split)
    error = first_failure(results)
    if error is not None and not results.done:
        raise error
    return results


def _stored(
    order: Sequence[int], results: Mapping[Form, SpiceResults | None], most: int = STORED
) -> list[tuple[Form, ImageResult]]:
    """Return what gets a testbench: of each form the first ``most`` images of the order."""
    found: dict[Form, dict[int, ImageResult]] = {form: part.done for form, part in results.items() if part}
    return [(form, done[i]) for form, done in found.items() for i in [i for i in order if i in done][:most]]


def _draw(folder: Path, twin: Twin, network: Network, data: Images, history: History, result: ImageResult) -> None:
    figures.training_curve(folder / "training.png", history.loss, history.validation, history.best)
    image = torch.from_numpy(data.pixels("test", np.array([result.index])))
    traces = {name: trace[:, 0].numpy() for name, trace in twin.traces(image).items()}
    side = np.concatenate(list(traces.values()), axis=1)
    moments = np.arange(len(side)) * twin.dt
    title = f"test image {result.index}, label {data.test.labels[result.index]}, answer {result.answer}"
    figures.waveforms(folder / "waveforms.png", moments, side, result.membranes, data.classes, result.answer, title)
    if len(twin.populations) > 1:
        first = network.populations[0]
        figures.hidden_activity(
            folder / "hidden.png", moments, result.membranes[:, : first.size], np.array(first.rest), title
        )
    figures.conductance_maps(folder / "conductances.png", network, data.train.images.shape[1:])


def say_failures(reduced: SpiceResults, full: SpiceResults | None, console: Console) -> None:
    """Print how many images failed, and why the first did."""
    for results in (reduced, full):
        error = first_failure(results) if results else None
        if results and error:
            console.print(
                f"[bold red]{len(results.failed)} images failed in SPICE[/] and count in no number above, the first: {escape(str(error))}",
                highlight=False, soft_wrap=True,
            )  # fmt: skip


def form_of(form: str) -> Form:
    """Return the netlist form called ``form``."""
    for known in FORMS:
        if form == known:
            return known
    raise InputError(f"netlist form '{form}' is unknown. Known: {', '.join(FORMS)}.")


def export_run(
    run: Path, out: Path | None, console: Console, *, images: int, engine_name: str, full: bool, timeout_s: float
) -> Path:
    """Export the best weights of a run folder."""
    settings, data, twin = load_trained(run, load)
    folder = out or Path("netlists") / settings.name
    check_target(folder)
    network = twin.to_network(settings.name)
    spice = SpiceSettings(dt=settings.dt, timeout_s=timeout_s, cache=run / "spice")
    with closing(make_engine(engine_name)) as engine:
        counts = (images, images if full else 0)
        reduced, every = _both_forms(network, settings, data, counts, engine, spice, console, Clock())
        for results in (reduced, every):
            error = first_failure(results) if results else None
            if error is not None:
                raise error
        measured = summarise(compare(twin, data, reduced.done), None, every, reduced, len(data.test.labels))
        runs = _stored(list(reduced.done), {"reduced": reduced, cells_form(network): every}, images)
        origin = provenance(twin, data, engine, measured, settings.learning.seed, spice.max_step)
        export_bundle(folder, network, settings.encoder, data, runs, origin)
    console.print(f"bundle: {folder}   replay: memprop replay {folder}", soft_wrap=True, markup=False)
    return folder


def replay_bundle(bundle: Path, console: Console, *, form: str, edited: bool, timeout_s: float) -> bool:
    """Replay a bundle, print one line per check, and return whether all passed."""
    forms = FORMS if form == "both" else (form_of(form),)
    engine = NgspiceEngine()
    console.print(f"replaying {bundle} in {engine.name} ...")
    verdicts = replay(
        bundle, engine.batch, _columns, forms=forms, edited=edited, timeout_s=timeout_s,
        on_bench=lambda file: console.print(f"running {file} ..."),
    )  # fmt: skip
    for v in verdicts:
        verdict = "[green]pass[/]" if v.passed else "[bold red]FAIL[/]"
        values = f"{v.found: .6e} {v.unit}, expected {v.expected: .6e} within {v.limit:.1e}"
        console.print(f"{verdict} {escape(f'{v.testbench} {v.check:<20} {values}')}", highlight=False, soft_wrap=True)
    failed = sum(not v.passed for v in verdicts)
    console.print(f"{len(verdicts)} checks, {failed} failed." if failed else f"all {len(verdicts)} checks pass.")
    return not failed


def _columns(path: Path, title: str) -> dict[str, np.ndarray]:
    plot = read_raw(path, title)[0]
    return {name: plot.values[:, k] for k, name in enumerate(plot.variables)}


def verify_bundle(bundle: Path, console: Console, *, conductances: int) -> bool:
    """Print the proofs on cell and gradient, and return whether all hold."""
    network, encoder, manifest = load_bundle(bundle)
    data = load(manifest.dataset)
    engine = NgspiceEngine()
    proofs: list[Proof] = []
    with progress("proofs", 3, console) as advance:
        proofs += cell_proofs(engine)
        advance("cell")
        for index in manifest.testbenches[:1]:
            pixels = torch.from_numpy(data.pixels("test", np.array([index.image])))
            proofs += gradient_proof(
                Question(network, encoder, pixels, index.label), engine, conductances, steps=(0.1e-6, manifest.dt)
            )
        advance("gradient")
        advance("done")
    table = Table("proof", "found", "goal", "verdict", title=f"verify, {engine.name}", title_justify="left")
    for proof in proofs:
        table.add_row(proof.what, proof.found, proof.goal, "[green]holds[/]" if proof.holds else "[bold red]FAILS[/]")
    console.print(table)
    return all(proof.holds for proof in proofs)


def engines_table(bundle: Path, console: Console, *, images: int, form: str, engines: Sequence[str] | None) -> Table:
    """Return the comparison of engines on a bundle as a table."""
    network, encoder, manifest = load_bundle(bundle)
    data = load(manifest.dataset)
    names = list(engines or ENGINES)
    title = f"{network.name}, {form} form, {images} images, largest step {manifest.max_step:g} s; against {names[0]}"
    table = Table("engine", "version", "rms mV", "peak mV", "output peak mV", "same answer", "time ratio", title=title)
    with progress("engines", images * len(names), console) as advance:
        found = compare_engines(
            network,
            encoder,
            data,
            names,
            images=images,
            form=form_of(form),
            max_step=manifest.max_step,
            on_done=advance,
        )
    for r in found:
        if r.problem:
            table.add_row(r.engine, "did not run")
            console.print(f"[yellow]{r.engine}[/] {escape(r.problem)}", highlight=False, soft_wrap=True)
            continue
        ratio = f"{r.ratio:.2f} ({r.spread[0]:.2f} to {r.spread[1]:.2f})"
        table.add_row(
            r.engine,
            r.version,
            f"{1e3 * r.rms:.4f}",
            f"{1e3 * r.peak:.4f}",
            f"{1e3 * r.output_peak:.4f}",
            f"{r.answers:.1%}",
            ratio,
        )
    return table
