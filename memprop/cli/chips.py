"""Chips: spread, learning in the loop, gradients against SPICE."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from memprop.cli.app import Bundle, EngineName, Timeout, Workers, app, console

Sigmas = Annotated[
    list[float] | None, typer.Option("--sigma", help="Spread of the neurons' --parameters; repeat for a curve.")
]
Parameters = Annotated[str, typer.Option(help="Parameters of the neurons, with commas.")]
Resistance = Annotated[float, typer.Option(help="Relative standard deviation of each RRAM cell.")]
StuckLow = Annotated[float, typer.Option(help="Share of RRAM cells stuck at the lowest conductance.")]
StuckHigh = Annotated[float, typer.Option(help="Share of RRAM cells stuck at the highest one.")]
Gain = Annotated[float, typer.Option(help="Relative standard deviation of the gain of column mirrors.")]
Offset = Annotated[float, typer.Option(help="Standard deviation of the mirrors' offset current, in A.")]
Wire = Annotated[float, typer.Option(help="Relative standard deviation of the wires' resistance, per chip.")]
Corner = Annotated[str | None, typer.Option(help="Corner in the card of the neurons, e.g. slow.")]
ChipSeed = Annotated[int, typer.Option(help="Number of the chip.", min=0)]
SPREAD = "c,tau,von,voff"


@app.command(rich_help_panel="Chips")
def spread(
    bundle: Bundle,
    sigma: Annotated[float, typer.Option(help="Relative standard deviation of the neurons' --parameters.")] = 0.0,
    parameters: Parameters = SPREAD,
    resistance: Resistance = 0.0,
    stuck_low: StuckLow = 0.0,
    stuck_high: StuckHigh = 0.0,
    gain: Gain = 0.0,
    offset: Offset = 0.0,
    wire: Wire = 0.0,
    corner: Corner = None,
    seed: ChipSeed = 0,
    out: Annotated[Path | None, typer.Option(help="Bundle folder; default netlists/<name>_chip<seed>.")] = None,
    engine: EngineName = "ngspice",
    timeout_s: Timeout = 1800.0,
) -> None:
    """Draw one chip of a design, all of whose parts differ a little, and write it as a bundle; say what was drawn."""
    from memprop.circuit.spread import Spread  # noqa: PLC0415
    from memprop.flow.spread import ChipSettings, parse_parameters, spread_bundle  # noqa: PLC0415

    drawn = Spread(parse_parameters(parameters, sigma), resistance, stuck_low, stuck_high, gain, offset, wire)
    chip = ChipSettings(drawn, corner, seed)
    spread_bundle(bundle, out, console, chip, engine_name=engine, timeout_s=timeout_s)


@app.command(rich_help_panel="Chips")
def in_the_loop(
    bundle: Bundle,
    sigma: Sigmas = None,
    parameters: Parameters = SPREAD,
    resistance: Resistance = 0.0,
    stuck_low: StuckLow = 0.0,
    stuck_high: StuckHigh = 0.0,
    gain: Gain = 0.0,
    offset: Offset = 0.0,
    wire: Wire = 0.0,
    corner: Corner = None,
    seed: ChipSeed = 0,
    calibrated: Annotated[
        Path | None, typer.Option(help="Bundle that `memprop calibrate` wrote: its parameters are those of the twin.")
    ] = None,
    twin_epochs: Annotated[
        int, typer.Option(help="Passes on the twin, over all images, before the first transfer.", min=0)
    ] = 0,
    epochs: Annotated[
        int, typer.Option(help="Passes over the training images in the loop; 0: transfer only.", min=0)
    ] = 6,
    images: Annotated[int, typer.Option(help="Training images that the chip sees.", min=1)] = 2000,
    batch: Annotated[int, typer.Option(help="Images between two updates.", min=1)] = 50,
    validation: Annotated[int, typer.Option(help="Training images held out to choose the best epoch.", min=1)] = 200,
    rate_input: Annotated[float, typer.Option(help="Peak learning rate of the first crossbar, in S.")] = 4e-8,
    rate_hidden: Annotated[float, typer.Option(help="Peak learning rate of the other crossbars, in S.")] = 4e-7,
    shift: Annotated[
        int | None,
        typer.Option(
            help="Training images move by up to so many pixels; default 1, of images below 20 pixels 0.", min=0
        ),
    ] = None,
    dt: Annotated[float, typer.Option(help="Time step of the twin in s; it must divide the presentation.")] = 0.5e-6,
    targets: Annotated[
        str, typer.Option(help="What the chip learns in the loop: 'design', the answers of its twin, or 'labels'.")
    ] = "design",
    temperature: Annotated[
        float | None,
        typer.Option(
            help="Membrane difference in V that changes a probability e-fold; default 15e-3 of the design's, 3e-3 of labels."
        ),
    ] = None,
    test: Annotated[int, typer.Option(help="Test images on which design and chip are judged.", min=1)] = 500,
    states: Annotated[bool, typer.Option(help="Measure device states besides the membranes.")] = True,
    fit: Annotated[
        Path | None,
        typer.Option(help="Fit of the cell by `memprop fit-cell`, for the twin; widened where it leaves its range."),
    ] = None,
    form: Annotated[str, typer.Option(help="reduced, full or naive.")] = "reduced",
    engine: EngineName = "vacask",
    workers: Workers = None,
    cluster: Annotated[str | None, typer.Option(help="Address of a dask scheduler, or 'local'.")] = None,
    timeout_s: Timeout = 1800.0,
    run: Annotated[Path | None, typer.Option(help="Run folder; default runs/<name>_in_the_loop.")] = None,
    out: Annotated[Path | None, typer.Option(help="Bundle of the tuned chip; only with one --sigma.")] = None,
) -> None:
    """Tune chips of a design with SPICE in the loop; accuracy of design, chip as it comes and tuned chip. Interrupt and resume."""
    from memprop.circuit.spread import Spread  # noqa: PLC0415
    from memprop.flow.commands import form_of  # noqa: PLC0415
    from memprop.flow.in_the_loop import LoopSettings, in_the_loop  # noqa: PLC0415
    from memprop.flow.spread import ChipSettings, parse_parameters  # noqa: PLC0415
    from memprop.learn.bptt import BPTTConfig  # noqa: PLC0415
    from memprop.learn.in_the_loop import InTheLoopConfig  # noqa: PLC0415

    chips = [
        ChipSettings(
            Spread(parse_parameters(parameters, s), resistance, stuck_low, stuck_high, gain, offset, wire), corner, seed
        )
        for s in sigma or [0.0]
    ]
    on_twin = (
        BPTTConfig(twin_epochs, rate_input=5 * rate_input, rate_hidden=5 * rate_hidden, dt=dt) if twin_epochs else None
    )
    learning = (
        InTheLoopConfig(epochs, batch, rate_input, rate_hidden, dt=dt, validation=validation, images=images)
        if epochs
        else None
    )
    if learning is not None and temperature is not None:
        learning = replace(learning, **{"softness" if targets == "design" else "temperature": temperature})
    settings = LoopSettings(
        learning, test, workers, cluster, timeout_s, states, calibrated, on_twin, form_of(form), fit, shift, targets
    )
    in_the_loop(bundle, chips, settings, console, engine_name=engine, run=run, out=out)


@app.command(rich_help_panel="Chips")
def check_gradient(
    bundle: Bundle = Path("netlists/digits_mif"),
    rule: Annotated[list[str] | None, typer.Option(help="bptt or in_the_loop; repeat for more. Default both.")] = None,
    image: Annotated[int, typer.Option(help="Test image of the loss.", min=0)] = 0,
    count: Annotated[int, typer.Option(help="Conductances per crossbar, drawn at random.", min=3)] = 12,
    dt: Annotated[float | None, typer.Option(help="Time step of the twin in s; default that of the bundle.")] = None,
    sigma: Annotated[
        float, typer.Option(help="Check on a chip with this spread, of which the twin knows nothing.")
    ] = 0.0,
    parameters: Parameters = SPREAD,
    seed: Annotated[int, typer.Option(help="Of the sample, and of the chip.", min=0)] = 0,
    least: Annotated[float, typer.Option(help="Cosine that a rule must reach.")] = 0.999,
    engine: EngineName = "ngspice",
    workers: Workers = None,
) -> None:
    """Compare gradients of learning rules with central differences taken in SPICE, crossbar by crossbar."""
    from memprop.flow.check_gradient import check_bundle  # noqa: PLC0415
    from memprop.flow.spread import parse_parameters  # noqa: PLC0415

    if not check_bundle(
        bundle, rule or [], console, image=image, count=count, dt=dt, parameters=parse_parameters(parameters, sigma), seed=seed,
        least=least, engine_name=engine, workers=workers,
    ):  # fmt: skip
        raise typer.Exit(1)
