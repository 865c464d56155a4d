"""What `memprop calibrate` does: find the parameters of each neuron of a chip from its own waveforms, and write them into a bundle.

The fit starts from the card and reads no parameter of the chip. Those that a bundle holds serve as the truth to compare with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from memprop.circuit.cell import Cell
from memprop.circuit.network import Network, Population
from memprop.data.sets import load
from memprop.errors import InputError
from memprop.export.bundle import Provenance, check_target, load_bundle
from memprop.files import ensure_folder, write_json
from memprop.flow.calibration_report import Recovery, record, recovery, say, say_design
from memprop.flow.cell_decks import VERSION, CellReduction, cell_deck
from memprop.flow.characterise import FINER, STEPS
from memprop.flow.commands import simulate
from memprop.flow.loop import export_bundle, versions
from memprop.flow.simulate import SpiceSettings, image_order
from memprop.flow.stimuli import Drive, alpha, drive_of
from memprop.report.progress import Tally, progress
from memprop.spice.engine import Engine, make_engine
from memprop.spice.farm import Farm, Job
from memprop.twin.fitting.design import Design, design_stimuli
from memprop.twin.fitting.grey_box import QUIET, GreyBoxFit, fit_parameters
from memprop.twin.fitting.waveforms import FILE, CellWaveforms, make_waveforms

Floats = NDArray[np.float64]
FREE = ("c", "tau", "von", "voff")
PER_DECK = 10
"""Neurons that are simulated together; they share nothing but the rails."""
CORNERS = 200
_NAME = "calibrated"


@dataclass(frozen=True, slots=True)
class CalibrationSettings:
    """How neurons are stimulated and fitted.

    Raises
    ------
    InputError: a number makes no sense.
    """

    free: tuple[str, ...] = ()
    """Parameters to find; none: `FREE` as far as the cell has them, else all of its card."""
    stimuli: int = 4
    dt: float | None = None
    """Step of the twin in s; default the fifth part of a straight piece of the current."""
    noise: float = 0.0
    """Standard deviation in V of noise added to the simulated membranes, as of a measurement."""
    seed: int = 0
    workers: int | None = None
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if not 1 <= self.stimuli <= 20:
            raise InputError(f"stimuli = {self.stimuli}: give 1 to 20.")
        if not 0 <= self.noise < 1:
            raise InputError(f"noise = {self.noise!r} V must be from 0 to 1 V. Correct it.")

    def names(self, cell: Cell) -> tuple[str, ...]:
        """Return the parameters to find of a cell."""
        usual = tuple(name for name in FREE if name in cell.card.parameters)
        return self.free or (usual if len(usual) == len(FREE) else tuple(cell.card.parameters))


def candidates(drive: Drive) -> tuple[list[str], Floats]:
    """Return labels and currents in A, ``[K, corners + 1]``, of stimuli among which a design chooses: pulses up and down."""
    labels, shapes = [], []
    time, span, rise = drive.time, drive.duration, drive.rise
    pulse = {
        "slow": alpha(time, 0.05 * span, rise),
        "fast pair": alpha(time, 0.05 * span, rise / 4) + alpha(time, 0.55 * span, rise / 4),
        "long": np.clip((time - 0.05 * span) / (0.01 * span), 0, 1)
        * np.clip((0.6 * span - time) / (0.01 * span), 0, 1),
    }
    for part in (0.1, 0.3, 1.0):
        for name, shape in pulse.items():
            for word, edge in (("up", drive.high), ("down", drive.low)):
                labels.append(f"{name} {word} {part * edge * 1e6:.3g} uA")
                shapes.append(part * edge * shape)
        for name in ("slow", "fast pair"):  # down first, so that the other memristor is on when the pulse up comes
            labels.append(f"{name} down then up {part * drive.high * 1e6:.3g} uA")
            both = np.where(time < span / 2, drive.low, drive.high)
            shapes.append(
                part
                * both
                * (alpha(time, 0.02 * span, rise / 2) + alpha(time, span / 2, rise / 2))
                * (1 if name == "slow" else 0.6)
            )
    return labels, np.array(shapes)


def choose(
    cell: Cell, free: Sequence[str], drive: Drive, settings: CalibrationSettings
) -> tuple[list[str], Floats, Design]:
    """Return labels and currents in A of the designed stimuli, ``[stimuli, corners + 1]``, and the design."""
    labels, currents = candidates(drive)
    design = design_stimuli(cell, free, drive.time, currents, settings.stimuli, drive.duration / drive.corners)
    chosen = list(design.chosen)
    return [labels[k] for k in chosen], currents[chosen], design


def stimulate(
    population: Population, currents: Floats, drive: Drive, engine: str | Engine, cache: Path | None,
    settings: CalibrationSettings, console: Console,
) -> CellWaveforms:  # fmt: skip
    """Simulate every neuron of a population alone under each of ``currents``; instance k is neuron k.

    Raises
    ------
    SimulationError: a run failed.
    """
    groups = [np.arange(k, min(k + PER_DECK, population.size)) for k in range(0, population.size, PER_DECK)]
    kept: dict[int, Floats] = {}
    tally = Tally()
    total = len(groups) * len(currents)
    with (
        Farm(engine, settings.workers, cache=cache, timeout_s=settings.timeout_s) as farm,
        progress(f"neurons of {population.name} in SPICE", total, console) as advance,
    ):
        name = farm.engine.name
        with closing(farm.run(_jobs(population, groups, currents, drive))) as outcomes:
            for outcome in outcomes:
                advance(tally.count(cached=outcome.cached, failed=outcome.error is not None))
                if outcome.error is not None or outcome.result is None:
                    raise outcome.error or InputError("a simulation gave nothing. Run again.")
                kept[outcome.index] = outcome.result["nodes"]
    time = np.linspace(0.0, drive.duration, drive.corners * FINER + 1)
    places = [(n, s, kept[g * len(currents) + s][k]) for g, group in enumerate(groups) for s in range(len(currents))
              for k, n in enumerate(group)]  # fmt: skip
    places.sort(key=lambda place: place[:2])
    mem = np.array([nodes[0] for _, _, nodes in places])
    if settings.noise:
        mem = mem + np.random.default_rng(settings.seed).normal(scale=settings.noise, size=mem.shape)
    shapes = [np.interp(time, drive.time, row) for row in currents]
    return make_waveforms(
        population.cell, time, [shapes[s] for _, s, _ in places], mem, split=["fit"] * len(places),
        stimulus=[f"designed {s}" for _, s, _ in places], instance=[int(n) for n, _, _ in places], engine=name,
        max_step=drive.duration / STEPS, seed=settings.seed,
    )  # fmt: skip


def _jobs(population: Population, groups: Sequence[NDArray[np.int64]], currents: Floats, drive: Drive) -> Iterator[Job]:
    cell = population.cell
    values = cell.values(population.size, population.parameters)
    own = {
        n: np.broadcast_to(v, population.size)
        for n, v in values.items()
        if np.ndim(v) or v != cell.card.parameters[n].default
    }
    for group in groups:
        given = [{name: float(v[k]) for name, v in own.items()} for k in group]
        reduce = CellReduction(len(group), (), drive.duration / (drive.corners * FINER), drive.corners * FINER)
        for current in currents:
            deck = cell_deck(
                cell, drive.time, np.tile(current, (len(group), 1)), given, drive.duration / STEPS,
                title=f"neurons of {population.name} from {group[0]}",
            )  # fmt: skip
            yield Job(f"calibrate {VERSION} {deck.digest} {reduce!r}", lambda deck=deck: deck, reduce)


def calibrate_network(
    network: Network, engine: str | Engine, settings: CalibrationSettings, console: Console, *,
    current: tuple[float, float] | None = None, cache: Path | None = None, measured: Path | None = None,
) -> tuple[Network, dict[str, GreyBoxFit]]:  # fmt: skip
    """Return the network with the parameters found of every neuron, and the fits by population.

    ``current`` is the range of the stimuli in A, see `usual_drive`; ``cache`` a folder that keeps simulations. ``measured`` is a CSV
    of columns time, neuron, current, mem in the place of simulations; neurons are numbered through all populations, from the
    first hidden one. A neuron that is not in it keeps the card's values, and that is said. Mirrors are not measured: the network
    that is returned has ideal ones.

    Raises
    ------
    InputError: a cell has no such parameters or no twin; or the file names a neuron that is not there.
    """
    found, populations, first = {}, [], 0
    for population in network.populations:
        if measured is None:
            folder = None if cache is None else cache / population.name
            waveforms = _simulated(population, usual_drive(population.cell, current), engine, folder, settings, console)
        else:
            every = CellWaveforms.from_csv(measured, population.cell)
            _check_neurons(every, network, measured)
            waveforms = _own(every, first, population.size)
        first += population.size
        if waveforms is not None:
            found[population.name] = _fitted(population, waveforms, settings, console)
        # Nothing of the mirrors is measured, so nothing of them is known either.
        values = _values(found.get(population.name), population, console)
        populations.append(replace(population, parameters=values, gain=None, offset=None))
    return replace(network, populations=tuple(populations)), found


def _simulated(
    population: Population, drive: Drive, engine: str | Engine, folder: Path | None, settings: CalibrationSettings, console: Console
) -> CellWaveforms:  # fmt: skip
    """Design stimuli, say which, and return what every neuron does under them."""
    labels, currents, design = choose(population.cell, settings.names(population.cell), drive, settings)
    say_design(labels, design, population.name, console)
    waveforms = stimulate(population, currents, drive, engine, folder, settings, console)
    if folder is not None:
        waveforms.save(folder / FILE)
    return waveforms


def _fitted(
    population: Population, waveforms: CellWaveforms, settings: CalibrationSettings, console: Console
) -> GreyBoxFit:
    with progress(f"fit of {population.name}", 40, console) as advance:
        return fit_parameters(
            waveforms, population.cell, settings.names(population.cell), settings.dt or waveforms.step, per_instance=True,
            seed=settings.seed, noise=max(settings.noise, QUIET),
            on_iteration=lambda k, rms: advance(f"{1e3 * rms:.3g} mV rms", done=k),
        )  # fmt: skip


def usual_drive(cell: Cell, current: tuple[float, float] | None = None) -> Drive:
    """Return the drive of a calibration: the card's rise, and a range in A, or both signs of the card's largest peak.

    Raises
    ------
    InputError: the card has no stimulus.
    """
    if cell.card.stimulus is None:
        raise InputError(f"card of {cell.name} has no [stimulus]. Add it, so that the time of pulses is known.")
    return drive_of(cell, current, None, CORNERS)[0]


def _check_neurons(waveforms: CellWaveforms, network: Network, path: Path) -> None:
    total = sum(p.size for p in network.populations)
    if int(waveforms.instances.max()) >= total:
        raise InputError(
            f"{path}: neuron {int(waveforms.instances.max())} is not in network {network.name}, which has {total}, numbered from 0."
        )


def _own(waveforms: CellWaveforms, first: int, size: int) -> CellWaveforms | None:
    """Return the runs of neurons ``first`` to ``first + size - 1``, numbered from 0; None without any."""
    where = np.flatnonzero((waveforms.instances >= first) & (waveforms.instances < first + size))
    if not len(where):
        return None
    part = waveforms.take(where).data
    return CellWaveforms(part.assign(instance=part["instance"] - first))


def _values(fit: GreyBoxFit | None, population: Population, console: Console) -> dict[str, float | Floats]:
    """Return the parameters of a population: those found, the card's for all others."""
    cell, where = population.cell, np.array(fit.instances if fit else (), dtype=np.int64)
    changes = {}
    for name, value in (fit.values if fit else {}).items():
        changes[name] = np.full(population.size, cell.card.parameters[name].default)
        changes[name][where] = value
    if len(where) < population.size:
        missing = population.size - len(where)
        console.print(
            f"{population.name}: {missing} neurons have no waveform and keep the card's values", highlight=False
        )
    return cell.values(population.size, changes)


def calibrate(
    folder: Path, out: Path | None, engine_name: str, settings: CalibrationSettings, console: Console, *,
    measured: Path | None = None, current: tuple[float, float] | None = None,
) -> list[Recovery]:  # fmt: skip
    """Calibrate the chip in a bundle, write the calibrated bundle, and print how well its parameters were found.

    Raises
    ------
    BundleError: the folder is no bundle; InputError: see `calibrate_network`.
    """
    network, encoder, manifest = load_bundle(folder)
    target = out or folder.with_name(f"{folder.name}_{_NAME}")
    check_target(target)
    runs = ensure_folder(Path("runs") / network.name / "calibrate")
    with closing(make_engine(engine_name)) as engine:
        found, fits = calibrate_network(
            network, engine_name, settings, console, current=current, cache=runs, measured=measured
        )
        data = load(manifest.dataset)
        index = int(image_order(data)[0])
        spice = SpiceSettings(max_step=manifest.max_step, dt=manifest.dt, cache=runs, workers=settings.workers)
        images = simulate(found, encoder, data, [index], engine, spice, console)
        if images.failed:
            raise images.failed[index]
        origin = Provenance(
            manifest.dataset, manifest.seed, manifest.dt, manifest.max_step, manifest.classes, versions(engine), {}
        )
        export_bundle(target, found, encoder, data, [("reduced", images.done[index])], origin)
    rows = recovery(network, found, fits)
    known = any(np.ndim(v) for p in network.populations for v in p.parameters.values()) and measured is None
    say(rows, fits, console, known=known)
    write_json(target / "calibration.json", record(rows, fits, known=known))
    console.print(f"calibrated bundle: {target}", soft_wrap=True, markup=False)
    return rows
