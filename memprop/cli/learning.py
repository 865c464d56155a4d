"""Rules that learn without backpropagation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from memprop.cli.app import EngineName, app, console


@app.command(rich_help_panel="Local learning")
def learn(
    rule: Annotated[
        str,
        typer.Argument(
            help="ep: equilibrium propagation on a resistive network. eqspike: its spiking form, biograd: learned feedback, both on "
            "the twin."
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
        list[int] | None, typer.Option(help="Nodes of a hidden layer; repeat for more, with ep.", min=1)
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
    from memprop.flow import biograd, eqspike, equilibrium  # noqa: PLC0415 - --help must be quick

    presets = {"ep": equilibrium.PRESETS, "eqspike": eqspike.PRESETS, "biograd": biograd.PRESETS}
    if rule not in presets:
        raise typer.BadParameter(f"unknown rule '{rule}'. Known: {', '.join(presets)}.")
    if dataset not in presets[rule]:
        raise typer.BadParameter(f"rule {rule} has no data set '{dataset}'. Known: {', '.join(presets[rule])}.")
    if nmnist is not None and (rule, dataset) != ("biograd", biograd.EVENTS):
        raise typer.BadParameter("--nmnist is for biograd events.")
    part = "_in_circuit" if in_circuit else "_nmnist" if nmnist else ""
    where = run or Path("runs") / f"{rule}_{dataset}{part}"
    if rule != "ep":
        if phases != "symmetric" or images is not None or engine != "ngspice":
            raise typer.BadParameter("--phases, --images and --engine are for ep.")
        if in_circuit or (rule == "eqspike" and hidden and len(hidden) > 1):
            raise typer.BadParameter("eqspike and biograd learn on the twin, eqspike with one hidden layer.")
        sizes = None if not hidden else hidden[0] if rule == "eqspike" else tuple(hidden)
        given = {"hidden": sizes, "epochs": epochs}
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        changes |= {"seed": seed, "levels": levels, "noise": noise}
        if rule == "eqspike":
            eqspike.learn_eqspike(replace(eqspike.PRESETS[dataset], **changes), where, console)
        else:
            changes |= (
                {} if nmnist is None else {"recorded": str(nmnist), "shift": 0}
            )  # recorded events stay where they are
            biograd.learn_biograd(replace(biograd.PRESETS[dataset], **changes), where, console)
        return
    base = equilibrium.PRESETS[dataset]
    sizes = tuple(hidden) if hidden else base.hidden
    rates = (*[base.training.rates[0]] * len(sizes), base.training.rates[-1])
    training = replace(base.training, rates=rates, seed=seed, epochs=base.training.epochs if epochs is None else epochs)
    settings = replace(base, hidden=sizes, training=training, phases=phases, levels=levels, noise=noise)
    equilibrium.learn_equilibrium(settings, where, console, in_circuit=in_circuit, images=images, engine_name=engine)


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

    try:
        numbers = [int(part) for part in sizes.split("-")]
    except ValueError:
        numbers = []
    if len(numbers) < 2 or min(numbers) < 1 or numbers[-1] < 2:
        raise typer.BadParameter(f"sizes '{sizes}': give numbers with dashes, 2 outputs or more, e.g. 16-6-4.")
    if not check_equilibrium(
        numbers, out, console, samples=samples, beta=beta, seed=seed, least=least, engine_name=engine
    ):
        raise typer.Exit(1)
