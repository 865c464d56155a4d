"""What `memprop sweep` does: drive a device as its card says, in a simulator and in the twin, and say what it is like."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from memprop.device.card import read_card
from memprop.device.library import DeviceModel, load_device
from memprop.device.waveform import (
    Drive,
    Hysteresis,
    Kinetics,
    Probe,
    Retention,
    SweepCard,
    Train,
    default_card,
    periodic,
)
from memprop.errors import InputError, MempropError
from memprop.files import ensure_folder, shipped, write_atomic
from memprop.flow.drives import Curves, Setup, setup, simulate_drives, twin_drives
from memprop.flow.merits import Merit, difference, merits
from memprop.flow.sweep_figures import draw
from memprop.report.progress import progress
from memprop.spice.engine import ENGINES, Engine, make_engine
from memprop.twin.device import DeviceTwin

TWIN = "twin"
"""Name of the engine that is no simulator."""


@dataclass(frozen=True, slots=True)
class SweepSettings:
    """How to run a sweep."""

    engine: str = "ngspice"
    """Name of an engine, or ``twin``."""
    presets: tuple[str, ...] = ()
    """Presets instead of those of the card."""
    experiments: tuple[str, ...] = ()
    """Names of experiments; none means all."""
    workers: int | None = None
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Block:
    """One experiment with one preset."""

    experiment: Hysteresis | Kinetics | Retention | Train
    case: Setup
    drives: tuple[Drive, ...]
    found: tuple[Curves | MempropError, ...]
    """By drive, in the engine that was asked for."""
    twin: tuple[Curves | MempropError | None, ...]
    """The same in the twin, None where the twin was the engine."""

    @property
    def name(self) -> str:
        """Return experiment and preset."""
        return f"{self.experiment.name} {self.case.preset}"

    def done(self) -> list[tuple[Drive, Curves, Curves | None]]:
        """Return the drives that gave a result."""
        parts = zip(self.drives, self.found, self.twin, strict=True)
        return [(d, f, t if isinstance(t, Curves) else None) for d, f, t in parts if isinstance(f, Curves)]

    def failures(self) -> list[str]:
        """Return a sentence for each drive that gave none."""
        return [
            f"{self.name}, {drive.label}: {result}"
            for results in (self.found, self.twin) for drive, result in zip(self.drives, results, strict=True)
            if isinstance(result, MempropError)
        ]  # fmt: skip


def load_sweep(name: str | Path) -> tuple[DeviceModel, SweepCard, str]:
    """Return device, card and where the card is from: ``name`` is a shipped device, a ``.va`` file or a card (``.toml``).

    Raises
    ------
    InputError: nothing of that name is there, or card and device do not fit.
    """
    path = Path(name)
    if path.suffix == ".toml":
        card = read_card(path, SweepCard)
        beside = path.parent / f"{card.device}.va"
        return load_device(beside if beside.is_file() else card.device), card, str(path)
    device = load_device(name)
    home = path.parent if path.suffix == ".va" else shipped("models")
    beside = home / f"{path.stem if path.suffix == '.va' else name}.sweep.toml"
    if not beside.is_file():
        return device, default_card(device.name, find_probe(device)), "made from the model"
    card = read_card(beside, SweepCard)
    if card.device != device.name:
        raise InputError(f"card {beside} is of '{card.device}', the module is '{device.name}'. Make the names equal.")
    return device, card, str(beside)


def find_probe(device: DeviceModel) -> Probe:
    """Return the drive that moves the device: the least amplitude that reaches half of the largest swing of a state.

    Sines of 0.1 to 10 V and 0.1 Hz to 1 GHz are tried on every port but the reference, which is port ``n``, else the last.
    Of the frequencies at that amplitude the highest is taken at which the state still swings half of what it can.

    Raises
    ------
    InputError: the device has no state, or none moves.
    """
    ports = device.equations.ports
    case = setup(device)
    if not case.states or len(ports) < 2:
        raise InputError(
            f"device {device.name} has no state to sweep: no internal node holds a charge. Write a card by hand."
        )
    reference = "n" if "n" in ports else ports[-1]
    volts, frequencies = np.round(np.geomspace(0.1, 10.0, 11), 2), 10.0 ** np.arange(-1, 10)
    best: tuple[float, Probe] | None = None
    for port in (p for p in ports if p != reference):
        swing = np.stack([_swing(case, port, volts, float(f)) for f in frequencies])
        top = float(swing.max())
        if top > 1e-3 and (best is None or top > best[0] * 1.1):
            volt = int(np.argmax((swing >= 0.5 * top).any(0)))
            rate = int(np.flatnonzero(swing[:, volt] >= 0.5 * swing[:, volt].max())[-1])
            best = top, Probe(port, float(volts[volt]), float(frequencies[rate]), ports, reference)
    if best is None:
        raise InputError(
            f"device {device.name}: no sine of 0.1 to 10 V and 0.1 Hz to 1 GHz moves a state by 1 mV. Write a card by hand."
        )
    return best[1]


def _swing(case: Setup, port: str, volts: np.ndarray, frequency: float, points: int = 60) -> np.ndarray:
    """Return the largest swing of any state in V over one period, ``[amplitudes]``; 0 where the twin fails."""
    wave = periodic("sine", 1.0, frequency, 1, points)
    twin = DeviceTwin(case.device, case.form.name)
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in case.open_values.items()}
    source = torch.tensor(wave.volt, dtype=torch.float64)[:, None] * torch.from_numpy(volts)
    try:
        with torch.no_grad():
            trace = twin.run(torch.tensor(wave.time, dtype=torch.float64), {port: source}, values)
    except MempropError:
        return np.zeros(len(volts))
    found = np.stack([(n := trace.nodes[state.lower()].numpy()).max(0) - n.min(0) for state in case.states]).max(0)
    return np.where(np.isfinite(found) & (found < 10.0), found, 0.0)


def run_sweep(
    device: DeviceModel, card: SweepCard, console: Console, settings: SweepSettings, cache: Path | None = None
) -> list[Block]:
    """Run all experiments of a card; a failing drive stops none of the others.

    Raises
    ------
    InputError: an unknown preset, port or experiment.
    EngineError: the simulator is unknown or missing.
    """
    if settings.engine != TWIN and settings.engine not in ENGINES:
        raise InputError(f"unknown engine '{settings.engine}'. Known: {', '.join(ENGINES)}, {TWIN}.")
    plans = _plans(device, card, settings)
    total = sum(len(drives) for _, _, drives in plans) * (1 if settings.engine == TWIN else 2)
    blocks = []
    with progress(f"sweep of {device.name}", total, console) as advance:
        if settings.engine == TWIN:
            for experiment, case, drives in plans:
                found = tuple(twin_drives(case, drives, advance))
                blocks.append(Block(experiment, case, tuple(drives), found, (None,) * len(drives)))
            return blocks
        with closing(make_engine(settings.engine)) as engine:
            for experiment, case, drives in plans:
                found = _simulated(case, drives, engine, settings, cache, advance)
                twin = tuple(twin_drives(case, drives, advance))
                blocks.append(Block(experiment, case, tuple(drives), found, twin))
    return blocks


def _simulated(
    case: Setup, drives: list[Drive], engine: Engine, settings: SweepSettings, cache: Path | None, advance: Callable[[], None]
) -> tuple[Curves | MempropError, ...]:  # fmt: skip
    return tuple(
        simulate_drives(
            case, drives, engine, workers=settings.workers, timeout_s=settings.timeout_s, cache=cache, on_done=advance
        )
    )


def _plans(
    device: DeviceModel, card: SweepCard, settings: SweepSettings
) -> list[tuple[Hysteresis | Kinetics | Retention | Train, Setup, list[Drive]]]:
    names = [experiment.name for experiment in card.experiments]
    unknown = set(settings.experiments) - set(names)
    if unknown:
        raise InputError(f"the card of {device.name} has no experiment '{min(unknown)}'. Known: {', '.join(names)}.")
    plans = []
    for experiment in card.experiments:
        if settings.experiments and experiment.name not in settings.experiments:
            continue
        for preset in settings.presets or experiment.presets or (None,):
            case = setup(device, preset, experiment.changes)
            if not case.states:
                raise InputError(f"device {device.name} has no state to sweep: no internal node holds a charge.")
            plans.append((experiment, case, experiment.drives(device.equations.ports)))
    return plans


def sweep(name: str | Path, out: Path | None, console: Console, settings: SweepSettings) -> list[Block]:
    """Run the sweep of a device, write table, summary and figures, print the summary, and return the blocks.

    Raises
    ------
    InputError, EngineError: see `load_sweep` and `run_sweep`.
    MempropError: no drive at all gave a result.
    """
    device, card, origin = load_sweep(name)
    folder = ensure_folder(out or Path("runs") / "sweep" / device.name)
    console.print(f"card: {origin}", soft_wrap=True, markup=False)
    blocks = run_sweep(device, card, console, settings, folder / "cache")
    if not any(block.done() for block in blocks):
        raise next(r for block in blocks for r in block.found if isinstance(r, MempropError))
    write_atomic(folder / "curves.csv", curves_csv(blocks, settings.engine))
    write_atomic(folder / "summary.csv", summary_csv(blocks))
    for block in blocks:
        if block.done():
            draw(folder, device.name, block.experiment, block.case, block.done(), settings.engine)
    console.print(_table(device.name, blocks, settings.engine))
    for sentence in (s for block in blocks for s in block.failures()):
        console.print(f"[bold red]failed[/] {escape(sentence)}", highlight=False, soft_wrap=True)
    console.print(f"table, summary and figures: {folder}", soft_wrap=True, markup=False)
    return blocks


def curves_csv(blocks: Sequence[Block], engine: str) -> str:
    """Return all waveforms in long form: one row per experiment, preset, drive, engine and time point."""
    ports = list(dict.fromkeys(port for block in blocks for drive in block.drives for port in drive.waves))
    inner = list(dict.fromkeys(state for block in blocks for state in block.case.states))
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [
        *(f"voltage_{p} (V)" for p in ports),
        *(f"current_{p} (A)" for p in ports),
        *(f"state_{s} (V)" for s in inner),
    ]
    writer.writerow(["experiment", "preset", "drive", "engine", "time (s)", *heads])
    for block in blocks:
        for drive, ours, twin in block.done():
            for source, curves in ((engine, ours), (TWIN, twin)):
                if curves is not None:
                    start = [block.experiment.name, block.case.preset, drive.label, source]
                    columns = [curves.voltages.get(p) for p in ports] + [curves.currents.get(p) for p in ports]
                    writer.writerows(_rows(start, [curves.time, *columns, *(curves.states[s] for s in inner)]))
    return buffer.getvalue()


def _rows(start: list[str], columns: Sequence[np.ndarray | None]) -> Iterator[list[str]]:
    length = next(len(column) for column in columns if column is not None)
    for k in range(length):
        yield [*start, *("" if column is None else f"{column[k]:.7g}" for column in columns)]


def summary_csv(blocks: Sequence[Block]) -> str:
    """Return the figures of merit in long form: experiment, preset, drive, quantity, value, unit."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["experiment", "preset", "drive", "quantity", "value", "unit"])
    for block in blocks:
        for label, found in block_merits(block):
            writer.writerow(
                [block.experiment.name, block.case.preset, label, found.name, f"{found.value:.6g}", found.unit]
            )
    return buffer.getvalue()


def block_merits(block: Block) -> list[tuple[str, Merit]]:
    """Return the figures of merit of a block, each with the label of its drive."""
    done = block.done()
    rows = merits(block.experiment, done)
    for drive, ours, twin in done:
        if twin is not None:
            largest, rms = difference(drive, ours, twin)
            rows.append((drive.label, Merit("twin against engine, largest", largest, "%")))
            rows.append((drive.label, Merit("twin against engine, rms", rms, "%")))
    return rows


def _table(name: str, blocks: Sequence[Block], engine: str) -> Table:
    title = f"{name} in {engine}; differences of the current in % of each drive's full scale"
    columns = ("experiment", "preset", "drives", "found", "largest difference", "rms")
    table = Table(*columns, title=title, title_justify="left")
    for block in blocks:
        rows = block_merits(block)
        gaps = [
            max((m.value for _, m in rows if m.name == f"twin against engine, {k}"), default=None)
            for k in ("largest", "rms")
        ]
        shown = ["-" if gap is None else f"{gap:.2g} %" for gap in gaps]
        count = f"{len(block.done())} of {len(block.drives)}"
        table.add_row(block.experiment.name, block.case.preset, count, _words(rows), *shown)
    return table


def _words(rows: Sequence[tuple[str, Merit]]) -> str:
    """Return the range of each figure of merit in one line each."""
    lines = []
    for name in dict.fromkeys(m.name for _, m in rows if not m.name.startswith("twin")):
        found = [m for _, m in rows if m.name == name and np.isfinite(m.value)]
        if not found:
            continue
        low, high = min(m.value for m in found), max(m.value for m in found)
        unit = f" {found[0].unit}" if found[0].unit else ""
        lines.append(f"{name} {low:.3g}{unit}" if low == high else f"{name} {low:.3g} to {high:.3g}{unit}")
    return "\n".join(lines)
