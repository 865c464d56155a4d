"""The command line: thin, every command is a function of the library with a progress bar."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from memprop.errors import MempropError

app = typer.Typer(
    help="Train memristive spiking networks as circuits: netlist to gradient to netlist, confirmed by ngspice.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
console = Console()

Bundle = Annotated[Path, typer.Argument(help="Folder of a bundle, e.g. netlists/digits_mif.")]
EngineName = Annotated[str, typer.Option(help="ngspice, ngspice-shared, ngspice-osdi or vacask; see `memprop doctor`.")]
Workers = Annotated[int | None, typer.Option(help="Simulations at a time; default one per core.", min=1)]
Images = Annotated[int, typer.Option(help="Test images to simulate in SPICE.", min=1)]
Timeout = Annotated[float, typer.Option(help="Seconds allowed per simulation.", min=1.0)]


@app.command()
def train(
    dataset: Annotated[str, typer.Argument(help="mnist, fashion or digits; mnist-large, fashion-large.")] = "mnist",
    hidden: Annotated[list[int] | None, typer.Option(help="Neurons of a hidden population; repeat for more.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights, order and shifts.")] = 0,
    name: Annotated[str | None, typer.Option(help="Name of network and bundle.")] = None,
    cell: Annotated[
        str | None, typer.Option(help="Neuron cell: a shipped one, or a folder with cell.cir and cell.toml.")
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
    engine: EngineName = "ngspice",
    workers: Workers = None,
    timeout_s: Timeout = 1800.0,
) -> None:
    """Train on the twin, write the conductances into a netlist, simulate it, export the bundle. Interrupt and resume freely."""
    from memprop.flow.commands import train_loop  # noqa: PLC0415 - torch takes seconds, and --help must not
    from memprop.flow.settings import PRESETS, parse_wires  # noqa: PLC0415

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
        wires=base.wires if wire_resistance is None else parse_wires(wire_resistance),
    )
    summary = train_loop(
        settings, run or Path("runs") / settings.name, out or Path("netlists") / settings.name, console,
        images=images or settings.spice_images, full_images=full_images, engine_name=engine, workers=workers, timeout_s=timeout_s,
    )  # fmt: skip
    if summary["spice_failed"] or summary.get("full_failed"):
        raise typer.Exit(1)


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
def verify(
    bundle: Bundle = Path("netlists/digits_mif"),
    conductances: Annotated[int, typer.Option(help="Conductances per crossbar whose gradient is checked.", min=1)] = 12,
) -> None:
    """Print the proofs: check tables of the cell in twin and ngspice, gradient against finite differences in ngspice."""
    from memprop.flow.commands import verify_bundle  # noqa: PLC0415

    if not verify_bundle(bundle, console, conductances=conductances):
        raise typer.Exit(1)


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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
    ] = 5,
    images: Annotated[int, typer.Option(help="Training images that the chip sees.", min=1)] = 2000,
    batch: Annotated[int, typer.Option(help="Images between two updates.", min=1)] = 50,
    validation: Annotated[int, typer.Option(help="Training images held out to choose the best epoch.", min=1)] = 200,
    rate_input: Annotated[float, typer.Option(help="Peak learning rate of the first crossbar, in S.")] = 2e-8,
    rate_hidden: Annotated[float, typer.Option(help="Peak learning rate of the other crossbars, in S.")] = 2e-7,
    temperature: Annotated[
        float, typer.Option(help="Membrane difference in V that changes a probability e-fold.")
    ] = 3e-3,
    test: Annotated[int, typer.Option(help="Test images on which design and chip are judged.", min=1)] = 500,
    states: Annotated[bool, typer.Option(help="Measure device states besides the membranes.")] = True,
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
        BPTTConfig(twin_epochs, rate_input=10 * rate_input, rate_hidden=10 * rate_hidden, dt=0.5e-6)
        if twin_epochs
        else None
    )
    learning = (
        InTheLoopConfig(epochs, batch, rate_input, rate_hidden, temperature=temperature, validation=validation, images=images)
        if epochs else None
    )  # fmt: skip
    settings = LoopSettings(learning, test, workers, cluster, timeout_s, states, calibrated, on_twin, form_of(form))
    in_the_loop(bundle, chips, settings, console, engine_name=engine, run=run, out=out)


@app.command()
def check_gradient(
    bundle: Bundle = Path("netlists/digits_mif"),
    rule: Annotated[list[str] | None, typer.Option(help="bptt or in_the_loop; repeat for more. Default both.")] = None,
    image: Annotated[int, typer.Option(help="Test image of the loss.", min=0)] = 0,
    count: Annotated[int, typer.Option(help="Conductances per crossbar, drawn at random.", min=1)] = 12,
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


@app.command()
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


@app.command()
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
    if learned:
        from memprop.flow.fit_learned import FitLearnedSettings, fit_learned  # noqa: PLC0415

        fit_learned(
            neuron,
            data,
            FitLearnedSettings(dt=dt, rule=rule, engine=engine if measure else None, workers=workers),
            out,
            console,
        )
        return
    settings = FitCellSettings(dt, names or None, rule, engine if measure else None, workers=workers)
    run(neuron, data, settings, out, console)


@app.command()
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


@app.command()
def bench(
    parts: Annotated[list[str] | None, typer.Argument(help="twin, training, spice, crossbar; default all.")] = None,
    full: Annotated[bool, typer.Option("--full", help="All sizes: an hour or two instead of minutes.")] = False,
    size: Annotated[str, typer.Option(help="tiny, bench or full; tiny only shows that all works.")] = "bench",
    out: Annotated[
        Path | None, typer.Option(help="Folder of rows and figures; default runs/bench, of tiny ones runs/bench-tiny.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure again what is there already.")] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="Network of the part spice; default random weights as large as trained ones.")
    ] = None,
    osdi_ngspice: Annotated[
        Path | None, typer.Option(help="An ngspice with OSDI, measured beside the usual one.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of torch and of the kernels; default one per core.")
    ] = None,
) -> None:
    """Measure kernels, trainings, simulators and solvers as ratios taken in one run. Finished rows are kept."""
    from memprop.flow.bench.run import BenchSettings  # noqa: PLC0415
    from memprop.flow.bench.run import bench as run  # noqa: PLC0415

    settings = BenchSettings(tuple(parts or ()), "full" if full else size, again, bundle, osdi_ngspice, threads)
    run(settings, out or Path("runs") / ("bench-tiny" if settings.size == "tiny" else "bench"), console)


@app.command()
def bench_readme(
    out: Annotated[Path, typer.Option(help="Folder that `memprop bench` wrote.")] = Path("runs/bench"),
    readme: Annotated[Path, typer.Option(help="File with the marks between which the table goes.")] = Path("README.md"),
) -> None:
    """Write the table of speeds into README, and rows and figures into docs/ beside it."""
    from memprop.flow.bench.readme import publish  # noqa: PLC0415

    console.print(f"table written into {readme} from {publish(out, readme)}", soft_wrap=True, markup=False)


@app.command()
def doctor() -> None:
    """Say what is installed, what each engine can do, what is missing and how to get it; exit status 1 if something is needed."""
    from memprop.flow.doctor import examine  # noqa: PLC0415

    table, fine = Table("what", "", "detail", title="memprop doctor", title_justify="left"), True
    for finding in examine():
        table.add_row(finding.what, "ok" if finding.good else "MISSING" if finding.needed else "-", finding.detail)
        fine &= finding.good or not finding.needed
    console.print(table)
    if not fine:
        raise typer.Exit(1)


class _Interrupted(BaseException):
    """Ctrl-C or a polite kill; typer would turn KeyboardInterrupt into a bare 'Aborted'."""


def _interrupt(_signum: int, _frame: object) -> None:
    raise _Interrupted


def main() -> None:
    """Run the command line; memprop's own errors are printed as one sentence, not as a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app()
    except MempropError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        Console(stderr=True).print(
            f"[bold red]error:[/] cannot read or write: {escape(str(error))}. Check the path, its rights and the disk space; "
            "finished work is kept.", highlight=False, soft_wrap=True,
        )  # fmt: skip
        sys.exit(1)
    except _Interrupted:
        Console(stderr=True).print("interrupted; finished work is kept, the same command goes on from there.")
        sys.exit(130)


if __name__ == "__main__":
    main()
