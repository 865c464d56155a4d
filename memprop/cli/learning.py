"""Rules that learn without backpropagation."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer

from memprop.cli.app import EngineName, app, console

MOST_CELLS = 20_000
"""Synapses of a network whose updates are checked."""


@app.command(rich_help_panel="Local learning")
def learn(
    rule: Annotated[
        str,
        typer.Argument(
            help="ep: equilibrium propagation on a resistive network. eqspike: its spiking form, biograd: learned feedback; eprop, "
            "eprop-random, ottt and bptt: forward in time, and their reference; these on the twin."
        ),
    ],
    dataset: Annotated[
        str, typer.Argument(help="digits, mnist or fashion; ep also iris, biograd also events.")
    ] = "digits",
    in_circuit: Annotated[
        bool,
        typer.Option("--in-circuit/--on-twin", help="Whether every update comes from simulations, or from the twin."),
    ] = False,
    hidden: Annotated[
        list[int] | None, typer.Option(help="Nodes of a hidden layer; repeat for more, but with eqspike.", min=1)
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training samples.", min=1)] = None,
    seed: Annotated[int, typer.Option(help="Seed of conductances and order.", min=0)] = 0,
    phases: Annotated[str, typer.Option(help="Of ep: symmetric or one-sided nudges.")] = "symmetric",
    levels: Annotated[int | None, typer.Option(help="Conductances that a cell can have; default any.")] = None,
    noise: Annotated[
        float, typer.Option(help="Standard deviation of a written conductance, as a share of the window.")
    ] = 0.0,
    images: Annotated[
        int | None, typer.Option(help="Of ep: test samples to measure in SPICE; default up to 300.", min=1)
    ] = None,
    nmnist: Annotated[
        Path | None,
        typer.Option(help="Of biograd events: folder with Train and Test of N-MNIST; default simulated events."),
    ] = None,
    engine: EngineName = "ngspice",
    run: Annotated[Path | None, typer.Option(help="Run folder with checkpoint; default runs/<rule>_<dataset>.")] = None,
) -> None:
    """Train with a rule that uses local quantities only. Interrupt it, the same command goes on after the last finished epoch."""
    from memprop.flow import biograd, eqspike, equilibrium, online  # noqa: PLC0415 - --help must be quick

    presets = {"ep": equilibrium.PRESETS, "eqspike": eqspike.PRESETS, "biograd": biograd.PRESETS}
    presets |= dict.fromkeys(online.RULES, online.PRESETS)
    if rule not in presets:
        raise typer.BadParameter(f"unknown rule '{rule}'. Known: {', '.join(presets)}.")
    if dataset not in presets[rule]:
        raise typer.BadParameter(f"rule {rule} has no data set '{dataset}'. Known: {', '.join(presets[rule])}.")
    if nmnist is not None and (rule, dataset) != ("biograd", biograd.EVENTS):
        raise typer.BadParameter("--nmnist is for biograd events.")
    part = "_in_circuit" if in_circuit else "_nmnist" if nmnist else ""
    where = run or Path("runs") / f"{rule}_{dataset}{part}"
    preset, common = presets[rule][dataset], {"levels": levels, "noise": noise}
    if rule == "ep":
        sizes = tuple(hidden) if hidden else preset.hidden
        settings = preset.on(sizes, seed, epochs, phases=phases, **common)
        equilibrium.learn_equilibrium(
            settings, where, console, in_circuit=in_circuit, images=images, engine_name=engine
        )
        return
    if phases != "symmetric" or images is not None or engine != "ngspice":
        raise typer.BadParameter("--phases, --images and --engine are for ep.")
    if in_circuit or (rule == "eqspike" and len(hidden or []) > 1):
        raise typer.BadParameter(f"{rule} learns on the twin{', with one hidden layer' if rule == 'eqspike' else ''}.")
    given = {"hidden": (hidden[0] if rule == "eqspike" else tuple(hidden)) if hidden else None, "epochs": epochs}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if nmnist is not None:  # recorded events stay where they are
        changes |= {"recorded": str(nmnist), "shift": 0}
    settings = replace(preset, **changes, **common, seed=seed)
    if rule == "eqspike":
        eqspike.learn_eqspike(settings, where, console)
    elif rule == "biograd":
        biograd.learn_biograd(settings, where, console)
    else:
        online.learn_online(rule, settings, where, console)


@app.command(rich_help_panel="Local learning")
def check_ep(
    sizes: Annotated[str, typer.Option(help="Inputs, hidden nodes, outputs, with dashes.")] = "16-6-4",
    samples: Annotated[int, typer.Option(help="Samples of the batch.", min=1)] = 4,
    beta: Annotated[float, typer.Option(help="Strength of the nudge in A V.")] = 1e-8,
    seed: Annotated[int, typer.Option(help="Seed of conductances, samples and noise.", min=0)] = 0,
    least: Annotated[float, typer.Option(help="Least cosine that holds.")] = 0.9999,
    engine: EngineName = "ngspice",
    out: Annotated[Path, typer.Option(help="Folder of table and figure.")] = Path("runs/check_ep"),
) -> None:
    """Compare the gradient of equilibrium propagation, measured in SPICE, with differences in SPICE; exit status 1 below --least."""
    from memprop.flow.check_equilibrium import check_equilibrium  # noqa: PLC0415

    if not check_equilibrium(
        _sizes(sizes), out, console, samples=samples, beta=beta, seed=seed, least=least, engine_name=engine
    ):
        raise typer.Exit(1)


@app.command(rich_help_panel="Local learning")
def check_eqspike(
    sizes: Annotated[str, typer.Option(help="Inputs, hidden neurons, outputs, with dashes.")] = "6-8-3",
    neuron: Annotated[
        str, typer.Option(help="packet: charge-packet reset; switch: a threshold-switch memristor.")
    ] = "packet",
    samples: Annotated[int, typer.Option(help="Samples.", min=1)] = 6,
    lengths: Annotated[tuple[float, float], typer.Option(help="Lengths of the two phases in us.")] = (200.0, 120.0),
    seed: Annotated[int, typer.Option(help="Seed of conductances and samples.", min=0)] = 0,
    engine: EngineName = "ngspice",
    out: Annotated[Path, typer.Option(help="Folder of table and figure.")] = Path("runs/check_eqspike"),
) -> None:
    """Compare EqSpike's update, measured in SPICE, with its formula and with rates; exit status 1 if it is off."""
    from memprop.flow import check_eqspike as check  # noqa: PLC0415

    if neuron not in check.NEURONS:
        raise typer.BadParameter(f"neuron '{neuron}' is unknown. Known: {', '.join(check.NEURONS)}.")
    if not all(1.0 <= length <= 1e4 for length in lengths):
        raise typer.BadParameter(f"lengths {lengths[0]:g} and {lengths[1]:g} us: give 1 us to 10000 us.")
    times = (1e-6 * lengths[0], 1e-6 * lengths[1])
    if not check.check_eqspike(
        _sizes(sizes, 3), out, console, neuron=neuron, samples=samples, lengths=times, seed=seed, engine_name=engine
    ):
        raise typer.Exit(1)


@app.command(rich_help_panel="Local learning")
def check_biograd(
    sizes: Annotated[str, typer.Option(help="Inputs, hidden neurons, outputs, with dashes.")] = "8-6-4",
    samples: Annotated[int, typer.Option(help="Samples.", min=1)] = 6,
    seed: Annotated[int, typer.Option(help="Seed of conductances and samples.", min=0)] = 0,
    engine: EngineName = "ngspice",
    out: Annotated[Path, typer.Option(help="Folder of table and figure.")] = Path("runs/check_biograd"),
) -> None:
    """Compare BioGrad's update, measured in SPICE, with its formula; exit status 1 if it is off by more than 5 %."""
    from memprop.flow.check_biograd import check_biograd  # noqa: PLC0415

    if not check_biograd(_sizes(sizes, 3), out, console, samples=samples, seed=seed, engine_name=engine):
        raise typer.Exit(1)


@app.command(rich_help_panel="Local learning")
def check_online(
    hidden: Annotated[
        list[int] | None, typer.Option(help="Neurons of a hidden layer; repeat for more; default 32.", min=1)
    ] = None,
    dataset: Annotated[str, typer.Option(help="digits, mnist or fashion.")] = "digits",
    samples: Annotated[int, typer.Option(help="Samples, each of which is compared alone.", min=1)] = 50,
    steps: Annotated[int, typer.Option(help="Steps of a sample.", min=1)] = 20,
    seed: Annotated[int, typer.Option(help="Seed of conductances, samples and spikes.", min=0)] = 0,
    least: Annotated[float, typer.Option(help="Least mean cosine that holds where it must be high.")] = 0.97,
    out: Annotated[Path, typer.Option(help="Folder of the figures.")] = Path("runs/check_online"),
) -> None:
    """Compare gradients of e-prop and OTTT with backpropagation through time on a random network; exit status 1 below --least."""
    from memprop.flow import check_online, online  # noqa: PLC0415 - --help must be quick

    if not -1.0 <= least <= 1.0:
        raise typer.BadParameter(f"least = {least:g} is no cosine. Give -1 to 1.")
    if samples < check_online.LEAST_SAMPLES:
        raise typer.BadParameter(f"{samples} samples; their mean needs {check_online.LEAST_SAMPLES} or more.")
    if dataset not in online.PRESETS:
        raise typer.BadParameter(f"no data set '{dataset}'. Known: {', '.join(online.PRESETS)}.")
    settings = replace(online.PRESETS[dataset], hidden=tuple(hidden or [32]), steps=steps, seed=seed)
    if not check_online.check_online(settings, out, console, samples=samples, least=least):
        raise typer.Exit(1)


@app.command(rich_help_panel="Local learning")
def compare_rules(
    rules: Annotated[
        list[str] | None, typer.Argument(help="Default all: ep eqspike biograd eprop eprop-random ottt bptt.")
    ] = None,
    dataset: Annotated[str, typer.Option(help="digits, mnist or fashion.")] = "digits",
    hidden: Annotated[int, typer.Option(help="Hidden nodes.", min=1)] = 32,
    seeds: Annotated[int, typer.Option(help="Trainings of each rule.", min=1)] = 3,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over the training samples; default those of the presets.", min=1)
    ] = None,
    images: Annotated[
        int, typer.Option(help="Test samples that the first seed's networks answer in SPICE.", min=0)
    ] = 10,
    levels: Annotated[
        int, typer.Option(help="Conductances of a cell, where written updates are compared.", min=8)
    ] = 64,
    engine: EngineName = "ngspice",
    out: Annotated[Path, typer.Option(help="Folder of table, figure and checkpoints.")] = Path("runs/compare_rules"),
) -> None:
    """Train each rule on the same task; print accuracy on twin and in SPICE, cosines to true gradients, needs and energy."""
    from memprop.flow import compare_rules as compare  # noqa: PLC0415

    names = rules or list(compare.RULES)
    if unknown := [name for name in names if name not in compare.RULES]:
        raise typer.BadParameter(f"unknown rule '{unknown[0]}'. Known: {', '.join(compare.RULES)}.")
    compare.compare_rules(
        names,
        dataset,
        out,
        console,
        hidden=hidden,
        seeds=seeds,
        epochs=epochs,
        images=images,
        levels=levels,
        engine_name=engine,
    )


def _sizes(text: str, count: int | None = None) -> list[int]:
    """Return the numbers of a text as 16-6-4; 2 outputs or more, and ``count`` numbers where that is given."""
    try:
        numbers = [int(part) for part in text.split("-")]
    except ValueError:
        numbers = []
    if len(numbers) < 2 or min(numbers) < 1 or numbers[-1] < 2 or len(numbers) != (count or len(numbers)):
        what = f"{count} numbers" if count else "numbers"
        raise typer.BadParameter(f"sizes '{text}': give {what} with dashes, 2 outputs or more, e.g. 16-6-4.")
    cells = sum(a * b for a, b in pairwise(numbers))
    if cells > MOST_CELLS:
        raise typer.BadParameter(
            f"sizes '{text}': {cells} synapses; a check simulates {MOST_CELLS} at most. Give a smaller network."
        )
    return numbers
