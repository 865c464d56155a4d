"""Cells: waveforms, fitted and learned twins."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memprop.cli.app import EngineName, Timeout, Workers, app, console


@app.command(rich_help_panel="Cells")
def characterise(
    cell: Annotated[str, typer.Argument(help="Neuron cell: a shipped one, or a folder with cell.cir and cell.toml.")],
    runs: Annotated[int, typer.Option(help="Random runs; 70 in a hundred are for fits, the others for judging.")] = 200,
    duration: Annotated[
        float | None, typer.Option(help="Length of a run in s; default five times the rise of the card's stimulus.")
    ] = None,
    current: Annotated[
        str | None, typer.Option(help="Range of currents, LOW:HIGH in A; default both signs of the card's peak.")
    ] = None,
    corners: Annotated[int, typer.Option(help="Straight pieces of the current in a run.")] = 200,
    spread: Annotated[float, typer.Option(help="Relative standard deviation of the parameters from run to run.")] = 0.0,
    parameters: Annotated[str, typer.Option(help="Parameters that are spread, with commas; default all.")] = "",
    temperatures: Annotated[str, typer.Option(help="Temperatures in degrees Celsius, with commas.")] = "27",
    seed: Annotated[int, typer.Option(help="Seed of stimuli, spread and splits.")] = 0,
    engine: EngineName = "ngspice",
    workers: Workers = None,
    timeout_s: Timeout = 600.0,
    out: Annotated[Path | None, typer.Option(help="Folder; default runs/<cell>/characterise.")] = None,
) -> None:
    """Simulate a cell under random currents, and keep the waveforms as one file for fits. Interrupt and resume freely."""
    from memprop.circuit.cell import as_cell  # noqa: PLC0415
    from memprop.flow.characterise import CharacteriseSettings, characterise_cell  # noqa: PLC0415
    from memprop.flow.stimuli import drive_of, parse_numbers, parse_range  # noqa: PLC0415

    neuron = as_cell(cell, "neuron", "mif")
    drive, said = drive_of(neuron, parse_range(current) if current else None, duration, corners)
    names = tuple(part.strip() for part in parameters.split(",") if part.strip())
    degrees = parse_numbers(temperatures, "temperatures")
    settings = CharacteriseSettings(drive, runs, spread, names, degrees, seed, workers, timeout_s)
    characterise_cell(neuron, settings, engine, out, console, said)


@app.command(rich_help_panel="Cells")
def fit_cell(
    cell: Annotated[str, typer.Argument(help="Neuron cell: a shipped one, or a folder with cell.cir and cell.toml.")],
    waveforms: Annotated[
        Path | None, typer.Option(help="File of `memprop characterise`; default runs/<cell>/characterise/waveforms.nc.")
    ] = None,
    dt: Annotated[float | None, typer.Option(help="Step of the twin in s; default that of the currents.")] = None,
    parameters: Annotated[str, typer.Option(help="Parameters to fit, with commas; default all of the card.")] = "",
    spikes: Annotated[
        str | None,
        typer.Option(help="What a spike is: peaks:PROMINENCE or crossings:LEVEL in V; default peaks of 5 %."),
    ] = None,
    engine: EngineName = "ngspice",
    measure: Annotated[bool, typer.Option(help="Also simulate long runs for drift, and measure the time.")] = True,
    learned: Annotated[
        bool,
        typer.Option("--learned", help="Learn a neural twin from the waveforms alone, without the cell's equations."),
    ] = False,
    device: Annotated[
        str, typer.Option(help="Where a learned twin is trained: cpu, or cuda where torch has it.")
    ] = "cpu",
    more: Annotated[
        list[Path] | None, typer.Option(help="Further files of waveforms of the same cell, e.g. with more spikes.")
    ] = None,
    workers: Workers = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; default runs/<cell>/fit, of a learned twin runs/<cell>/learned.")
    ] = None,
) -> None:
    """Fit a cell's own equations to its waveforms at the step of the training; a table and a page say what it is worth."""
    from memprop.circuit.cell import as_cell  # noqa: PLC0415
    from memprop.flow.fit_cell import FitCellSettings, parse_rule  # noqa: PLC0415
    from memprop.flow.fit_cell import fit_cell as run  # noqa: PLC0415
    from memprop.twin.fitting.waveforms import FILE, CellWaveforms  # noqa: PLC0415

    neuron = as_cell(cell, "neuron", "mif")
    data = CellWaveforms.load(waveforms or Path("runs") / neuron.name / "characterise" / FILE)
    data = data.joined(*map(CellWaveforms.load, more or []))
    names = tuple(part.strip() for part in parameters.split(",") if part.strip())
    rule = parse_rule(spikes)
    if device != "cpu" and not learned:
        raise typer.BadParameter("--device is for --learned; the other fit runs on the CPU.")
    if learned:
        from memprop.flow.fit_learned import FitLearnedSettings, fit_learned  # noqa: PLC0415
        from memprop.twin.learned.training import LearnedSettings  # noqa: PLC0415

        training = LearnedSettings(device=device)
        how = FitLearnedSettings(training, dt, rule, engine if measure else None, workers=workers)
        fit_learned(neuron, data, how, out, console)
        return
    settings = FitCellSettings(dt, names or None, rule, engine if measure else None, workers=workers)
    run(neuron, data, settings, out, console)


@app.command(rich_help_panel="Cells")
def calibrate(
    bundle: Annotated[Path, typer.Argument(help="Folder of the chip's bundle.")],
    stimuli: Annotated[int, typer.Option(help="Designed stimuli per neuron.")] = 4,
    parameters: Annotated[str, typer.Option(help="Parameters to find, with commas; default c,tau,von,voff.")] = "",
    measured: Annotated[
        Path | None, typer.Option(help="CSV of columns time, neuron, current, mem, in the place of simulations.")
    ] = None,
    noise: Annotated[float, typer.Option(help="Noise in V rms added to simulated membranes.")] = 0.0,
    dt: Annotated[
        float | None, typer.Option(help="Step of the fitted twin in s; default a tenth of a microsecond or so.")
    ] = None,
    current: Annotated[
        str | None, typer.Option(help="Range of currents, LOW:HIGH in A; default that of the card.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of noise and of further starts.")] = 0,
    engine: EngineName = "ngspice",
    workers: Workers = None,
    timeout_s: Timeout = 600.0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the calibrated bundle; default <bundle>_calibrated.")
    ] = None,
) -> None:
    """Find the parameters of each neuron of a chip from its waveforms, and write them into a bundle of the same conductances."""
    from memprop.flow.calibrate import CalibrationSettings  # noqa: PLC0415
    from memprop.flow.calibrate import calibrate as run  # noqa: PLC0415
    from memprop.flow.stimuli import parse_range  # noqa: PLC0415

    names = tuple(part.strip() for part in parameters.split(",") if part.strip())
    settings = CalibrationSettings(names, stimuli, dt, noise, seed, workers, timeout_s)
    run(bundle, out, engine, settings, console, measured=measured, current=parse_range(current) if current else None)
