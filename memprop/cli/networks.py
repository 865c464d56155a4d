"""Networks: train, simulate, export, replay, prove."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from memprop.cli.app import Bundle, EngineName, Images, Timeout, Workers, app, console


@app.command(rich_help_panel="Networks")
def train(
    dataset: Annotated[str, typer.Argument(help="mnist, fashion or digits; mnist-large, fashion-large.")] = "mnist",
    hidden: Annotated[list[int] | None, typer.Option(help="Neurons of a hidden population; repeat for more.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and shifts.")] = 0,
    name: Annotated[str | None, typer.Option(help="Name of network and bundle.")] = None,
    cell: Annotated[
        str | None, typer.Option(help="Neuron cell: a shipped one, or a folder with cell.cir and cell.toml.")
    ] = None,
    fit: Annotated[
        Path | None,
        typer.Option(
            help="Fit of the cell by `memprop fit-cell`; the twin has it, and a wider one where it leaves its range."
        ),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Run folder with checkpoint; default runs/<name>.")] = None,
    out: Annotated[Path | None, typer.Option(help="Bundle folder; default netlists/<name>.")] = None,
    images: Annotated[
        int | None,
        typer.Option(help="Test images to simulate in SPICE; default 300 of MNIST, all 359 of digits.", min=1),
    ] = None,
    full_images: Annotated[int, typer.Option(help="Images simulated with every RRAM cell in the netlist.", min=0)] = 2,
    wire_resistance: Annotated[
        str | None,
        typer.Option(help="Ohm per wire segment between cells; two with a comma: rows, columns. Default: ideal."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the twin is trained: cpu, or cuda where torch has it.")] = "cpu",
    engine: EngineName = "ngspice",
    workers: Workers = None,
    timeout_s: Timeout = 1800.0,
) -> None:
    """Train on the twin, write the conductances into a netlist, simulate it, export the bundle. Interrupt and resume freely."""
    from memprop.flow.commands import train_loop  # noqa: PLC0415 - torch takes seconds, and --help must not
    from memprop.flow.settings import PRESETS, parse_wires  # noqa: PLC0415
    from memprop.twin.fitted import load_fit  # noqa: PLC0415

    if dataset not in PRESETS:
        raise typer.BadParameter(f"unknown data set '{dataset}'. Known: {', '.join(PRESETS)}.")
    base = PRESETS[dataset]
    learning = replace(base.learning, seed=seed, epochs=epochs if epochs is not None else base.learning.epochs)
    settings = replace(
        base,
        name=name or base.name,
        hidden=tuple(hidden) if hidden else base.hidden,
        learning=learning,
        cell=cell or base.cell,
        fit=None if fit is None else str(fit),
        wires=base.wires if wire_resistance is None else parse_wires(wire_resistance),
    )
    if fit is not None:  # its factors hold at the step that they were fitted at
        step = load_fit(fit).dt
        settings = replace(settings, dt=step, learning=replace(settings.learning, dt=None))
    summary = train_loop(
        settings, run or Path("runs") / settings.name, out or Path("netlists") / settings.name, console,
        images=images or settings.spice_images, full_images=full_images, engine_name=engine, workers=workers, timeout_s=timeout_s,
        device=device,
    )  # fmt: skip
    if summary["spice_failed"] or summary.get("full_failed"):
        raise typer.Exit(1)


@app.command(rich_help_panel="Networks")
def simulate(
    bundle: Annotated[Path, typer.Argument(help="Folder of a bundle, e.g. netlists/digits_mif, or of a run.")],
    images: Images = 100,
    form: Annotated[str, typer.Option(help="reduced, full or naive.")] = "reduced",
    engine: EngineName = "ngspice",
    workers: Workers = None,
    cluster: Annotated[
        str | None, typer.Option(help="Address of a dask scheduler, or 'local' for a dask cluster on this machine.")
    ] = None,
    split: Annotated[str, typer.Option(help="test or train.")] = "test",
    waveforms: Annotated[int, typer.Option(help="Images whose membranes are compared with the twin's.", min=0)] = 20,
    timeout_s: Timeout = 1800.0,
    out: Annotated[Path | None, typer.Option(help="Folder of results and cache; default runs/<name>/spice.")] = None,
) -> None:
    """Simulate images of a bundle or run in SPICE and compare with the twin. Finished images are kept; more can be added.

    Writes one line per image (simulate_<engine>_<form>.csv) and a summary (.json). Interrupt it, the same command goes on.
    """
    from memprop.flow.evaluate import simulate_bundle  # noqa: PLC0415

    results = simulate_bundle(
        bundle, console, images=images, form=form, engine_name=engine, workers=workers, timeout_s=timeout_s, out=out,
        cluster=cluster, split=split, waveforms=waveforms,
    )  # fmt: skip
    if results.failed:
        raise typer.Exit(1)


@app.command(rich_help_panel="Networks")
def export(
    run: Annotated[Path, typer.Argument(help="Run folder that `memprop train` wrote.")],
    out: Annotated[Path | None, typer.Option(help="Bundle folder; default netlists/<name>.")] = None,
    images: Annotated[int, typer.Option(help="Stored images with a testbench each.", min=1)] = 2,
    engine: EngineName = "ngspice",
    full: Annotated[bool, typer.Option(help="Also a testbench with every RRAM cell.")] = True,
    timeout_s: Timeout = 1800.0,
) -> None:
    """Export the bundle of a trained run, also of one that was interrupted: the best epoch counts."""
    from memprop.flow.commands import export_run  # noqa: PLC0415

    export_run(run, out, console, images=images, engine_name=engine, full=full, timeout_s=timeout_s)


@app.command(rich_help_panel="Networks")
def replay(
    bundle: Bundle,
    form: Annotated[str, typer.Option(help="reduced, full or both.")] = "both",
    edited: Annotated[bool, typer.Option("--edited", help="Replay although files differ from the manifest.")] = False,
    timeout_s: Timeout = 1800.0,
) -> None:
    """Run the testbenches of a bundle in plain ngspice and print pass or fail per check; exit status 1 on a failure."""
    from memprop.flow.commands import replay_bundle  # noqa: PLC0415

    if not replay_bundle(bundle, console, form=form, edited=edited, timeout_s=timeout_s):
        raise typer.Exit(1)


@app.command(rich_help_panel="Networks")
def verify(
    bundle: Bundle = Path("netlists/digits_mif"),
    conductances: Annotated[int, typer.Option(help="Conductances per crossbar whose gradient is checked.", min=1)] = 12,
) -> None:
    """Print the proofs: check tables of the cell in twin and ngspice, gradient against finite differences in ngspice."""
    from memprop.flow.commands import verify_bundle  # noqa: PLC0415

    if not verify_bundle(bundle, console, conductances=conductances):
        raise typer.Exit(1)


@app.command(rich_help_panel="Networks")
def engines(
    bundle: Bundle = Path("netlists/digits_mif"),
    images: Annotated[int, typer.Option(help="Test images to simulate in every engine.", min=1)] = 5,
    form: Annotated[str, typer.Option(help="reduced, full or naive.")] = "reduced",
    engine: Annotated[
        list[str] | None, typer.Option(help="Engine; repeat for more. The first is the reference.")
    ] = None,
) -> None:
    """Simulate the same images in several engines: differences of the membranes, ratios of the time."""
    from memprop.flow.commands import engines_table  # noqa: PLC0415

    console.print(engines_table(bundle, console, images=images, form=form, engines=engine or None))
