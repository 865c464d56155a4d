"""Devices: Verilog-A, sweeps, fits."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memprop.cli.app import Timeout, Workers, app, console


@app.command(rich_help_panel="Devices")
def model(
    files: Annotated[list[Path], typer.Argument(help="Verilog-A files, e.g. models/mss_memristor.va.")],
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if a .lib is not what its .va makes.")
    ] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Also compile with openvaf-r.")] = False,
) -> None:
    """Read Verilog-A device models, say what was understood, and write each as subcircuits for ngspice beside it (.lib)."""
    from memprop.flow.model import translate_models  # noqa: PLC0415

    if not translate_models(files, console, check=check, compiled=compiled):
        raise typer.Exit(1)


@app.command(rich_help_panel="Devices")
def sweep(
    device: Annotated[
        str, typer.Argument(help="Shipped device (mss_memristor), a model (.va) or a sweep card (.toml).")
    ],
    engine: Annotated[
        str, typer.Option(help="ngspice, ngspice-shared, ngspice-osdi, vacask, or twin for the twin alone.")
    ] = "ngspice",
    preset: Annotated[
        list[str] | None, typer.Option(help="Preset instead of those of the card; repeat for more.")
    ] = None,
    experiment: Annotated[list[str] | None, typer.Option(help="Experiment of the card; repeat for more.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of table, summary, figures; default runs/sweep/<device>.")
    ] = None,
    workers: Workers = None,
    timeout_s: Timeout = 600.0,
) -> None:
    """Drive a device as its card says, in a simulator and in the twin: loops, pulses, retention; table, figures, differences.

    The card is <model>.sweep.toml beside the model. Without one, sines of 0.1 to 10 V and 0.1 Hz to 1 GHz are tried on the twin, and
    a card is made around the drive that moves the state at the least voltage.
    """
    from memprop.flow.sweep import SweepSettings  # noqa: PLC0415
    from memprop.flow.sweep import sweep as run  # noqa: PLC0415

    settings = SweepSettings(engine, tuple(preset or ()), tuple(experiment or ()), workers, timeout_s)
    if any(block.failures() for block in run(device, out, console, settings)):
        raise typer.Exit(1)


@app.command(rich_help_panel="Devices")
def fit_device(
    curves: Annotated[
        Path, typer.Argument(help="CSV: time (s), voltage (V), current (A), and curve if there are several.")
    ],
    model: Annotated[str, typer.Argument(help="Model: a .va file, or the name of a shipped device.")],
    parameters: Annotated[str, typer.Option(help="Parameters to fit, with commas: ron,roff,von.")],
    preset: Annotated[
        str | None, typer.Option(help="Preset to start from; default the model's default values.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the preset that is written.")] = "fitted",
    value: Annotated[
        list[str] | None, typer.Option(help="Value other than the preset's, name=number in SI units; repeat for more.")
    ] = None,
    bounds: Annotated[
        list[str] | None, typer.Option(help="Range of a parameter, name=low:high in SI units; repeat for more.")
    ] = None,
    series: Annotated[float, typer.Option(help="Resistance between source and device, in Ohm.")] = 0.0,
    frequency: Annotated[
        float | None, typer.Option(help="Frequency in Hz, where there is no time column: each curve is one period.")
    ] = None,
    settle: Annotated[int, typer.Option(help="Times that each curve is driven through before it is compared.")] = 0,
    noise: Annotated[
        float | None, typer.Option(help="Standard deviation of the measured current in A; default what the fit leaves.")
    ] = None,
    relative: Annotated[
        float, typer.Option(help="Noise relative to each current (0.02: 2 %); small currents count more.")
    ] = 0.0,
    starts: Annotated[int, typer.Option(help="Starts: the preset, and random ones around it.", min=1, max=100)] = 6,
    seed: Annotated[int, typer.Option(help="Seed of the random starts.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of preset and figure; default runs/fit/<name>.")] = None,
    write_card: Annotated[
        bool, typer.Option("--write-card", help="Add the preset to the card beside the model.")
    ] = False,
) -> None:
    """Fit parameters of a device to measured curves, and say which of them the curves determine.

    Every third curve is held out, of fewer than three the last quarter of the time. The voltage is that of the source, before
    --series; the device is at rest before each curve.
    """
    from memprop.flow.fit_device import FitSettings, parse_bounds, parse_values  # noqa: PLC0415
    from memprop.flow.fit_device import fit_device as run  # noqa: PLC0415

    names = tuple(part.strip() for part in parameters.split(",") if part.strip())
    settings = FitSettings(
        names,
        preset,
        parse_values(value or []),
        parse_bounds(bounds or []),
        series,
        noise,
        relative,
        starts,
        seed,
        settle,
    )
    run(curves, model, name, out, console, settings, frequency=frequency, write_card=write_card)
