"""What `memprop characterise` does: random stimuli from a cell's card, simulated in a farm, kept as one file of waveforms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from memprop.circuit.cell import Cell
from memprop.errors import InputError, SimulationError
from memprop.flow.cell_decks import ROOM_TEMPERATURE, VERSION, CellReduction, cell_deck
from memprop.flow.stimuli import FAMILIES, Drive, random_current
from memprop.report.progress import Tally, progress
from memprop.report.twin_figures import draw_runs
from memprop.spice.engine import Engine
from memprop.spice.farm import Farm, Job
from memprop.twin.fitting.waveforms import FILE, CellWaveforms, make_waveforms

Floats = NDArray[np.float64]
BLOCK = 20
"""Runs that share the splits 14, 3 and 3 among them, so that more runs change no earlier one."""
FINER = 5
"""Recorded points per straight piece of the current."""
STEPS = 4000
"""Largest time steps of the simulator in a run."""


@dataclass(frozen=True, slots=True)
class CharacteriseSettings:
    """What is drawn, and how it is simulated.

    Raises
    ------
    InputError: a number makes no sense.
    """

    drive: Drive
    runs: int = 200
    spread: float = 0.0
    """Relative standard deviation of each parameter, from run to run."""
    parameters: tuple[str, ...] = ()
    """Parameters that are spread; none: all of the card."""
    temperatures: tuple[float, ...] = (ROOM_TEMPERATURE,)
    """In degrees Celsius, by turns."""
    seed: int = 0
    workers: int | None = None
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if self.runs < 3:
            raise InputError(f"runs = {self.runs}: at least 3 are needed, one for each split.")
        if not 0 <= self.spread <= 1:
            raise InputError(f"spread = {self.spread!r} must be a relative standard deviation from 0 to 1.")
        if not self.temperatures or not all(-200 < t < 400 for t in self.temperatures):
            raise InputError(
                f"temperatures {self.temperatures!r} must be degrees Celsius from -200 to 400. Correct them."
            )

    @property
    def max_step(self) -> float:
        """Largest time step of the simulator in s."""
        return self.drive.duration / STEPS


@dataclass(frozen=True, slots=True)
class Run:
    """One run before it is simulated."""

    stimulus: str
    current: Floats
    """At the corners, in A."""
    parameters: dict[str, float]
    temperature: float


def draw(cell: Cell, settings: CharacteriseSettings) -> list[Run]:
    """Return the runs of a characterisation; run k is the same however many there are.

    Raises
    ------
    InputError: a parameter is unknown, or temperatures are asked of a cell that has none.
    """
    unknown = set(settings.parameters) - set(cell.card.parameters)
    if unknown:
        raise InputError(f"{cell.name} has no parameter '{min(unknown)}'. Known: {', '.join(cell.card.parameters)}.")
    if set(settings.temperatures) != {ROOM_TEMPERATURE} and not depends_on_temperature(cell):
        raise InputError(
            f"cell {cell.name} does not depend on the temperature: its devices do not use it. Leave the temperatures out."
        )
    names = settings.parameters or tuple(cell.card.parameters)
    families = list(FAMILIES)
    return [
        Run(
            families[k % len(families)],
            random_current(settings.drive, families[k % len(families)], np.random.default_rng([settings.seed, k])),
            {n: spread_value(cell, n, settings.spread, [settings.seed, k]) for n in names} if settings.spread else {},
            settings.temperatures[k // len(families) % len(settings.temperatures)],
        )
        for k in range(settings.runs)
    ]


def spread_value(cell: Cell, name: str, spread: float, seed: Sequence[int]) -> float:
    """Return a parameter of the card times a lognormal factor of mean 1 and standard deviation ``spread``, in its own stream."""
    width = np.sqrt(np.log1p(spread**2))
    rng = np.random.default_rng([*seed, crc32(name.encode())])
    return float(cell.card.parameters[name].default * np.exp(width * rng.normal() - 0.5 * width**2))


def depends_on_temperature(cell: Cell) -> bool:
    """Return whether a cell does: a device of it uses the temperature, or it has elements or expressions that may."""
    from memprop.device.equations import TEMPERATURE, free_symbols  # noqa: PLC0415

    for device in cell.devices().values():
        equations = device.equations
        flows = [part for flow in equations.flows.values() for part in flow]
        if TEMPERATURE in free_symbols([expr for _, expr in equations.lets] + flows):
            return True
    return (
        re.search(r"^\s*[mqdjz]|\btemper\b|\btc[12]?\s*=|\.model", cell.text, re.MULTILINE | re.IGNORECASE) is not None
    )


def splits_of(runs: int, seed: int) -> list[str]:
    """Return the split of each run: 70, 15 and 15 in a hundred, at least one of each."""
    found: list[str] = []
    for block in range(-(-runs // BLOCK)):
        size = min(BLOCK, runs) if block == 0 else BLOCK
        few = max(1, round(0.15 * size))
        names = np.array(["held_out"] * few + ["validation"] * few + ["fit"] * (size - 2 * few))
        found += np.random.default_rng([seed, block, 7]).permutation(names).tolist()
    return found[:runs]


def jobs(cell: Cell, settings: CharacteriseSettings, runs: Sequence[Run]) -> Iterator[Job]:
    """Yield the farm's job of each run."""
    time = settings.drive.time
    step = settings.drive.duration / (settings.drive.corners * FINER)
    reduce = CellReduction(1, tuple(cell.card.states), step, settings.drive.corners * FINER)
    warm = depends_on_temperature(cell)
    for k, run in enumerate(runs):
        deck = cell_deck(
            cell, time, run.current[None], [run.parameters], settings.max_step,
            temperature=run.temperature if warm else None, title=f"{cell.name} {run.stimulus} {k}",
        )  # fmt: skip
        yield Job(f"cell {VERSION} {deck.digest} {reduce!r}", lambda deck=deck: deck, reduce)


def characterise(
    cell: Cell, settings: CharacteriseSettings, engine: str | Engine, folder: Path, console: Console
) -> CellWaveforms:
    """Simulate random stimuli of a cell and return their waveforms; what is finished is kept in ``folder``, and not done again.

    A run that fails is left out, and said.

    Raises
    ------
    InputError: see `draw`.
    SimulationError: every run failed.
    EngineError: the engine is unknown or missing.
    """
    runs = draw(cell, settings)
    nodes: dict[int, Floats] = {}
    seconds: dict[int, float] = {}
    tally, failed = Tally(), []
    with (
        Farm(engine, settings.workers, cache=folder, timeout_s=settings.timeout_s) as farm,
        progress(f"{cell.name} in SPICE", len(runs), console) as advance,
    ):
        name = farm.engine.name
        with closing(farm.run(jobs(cell, settings, runs))) as outcomes:
            for outcome in outcomes:
                advance(tally.count(cached=outcome.cached, failed=outcome.error is not None))
                if outcome.error is not None or outcome.result is None:
                    failed.append((outcome.index, outcome.error))
                    continue
                nodes[outcome.index] = outcome.result["nodes"][0]
                seconds[outcome.index] = outcome.seconds
    _say_failed(failed, len(runs), console)
    return _collect(cell, settings, runs, nodes, seconds, name)


def _say_failed(failed: Sequence[tuple[int, SimulationError | None]], runs: int, console: Console) -> None:
    errors = [error for _, error in failed if error is not None]
    if errors and len(failed) == runs:
        raise errors[0]
    if errors:
        console.print(
            f"{len(failed)} of {runs} runs failed and are left out; first: {errors[0]}", soft_wrap=True, markup=False
        )


def _collect(
    cell: Cell, settings: CharacteriseSettings, runs: Sequence[Run], nodes: dict[int, Floats], seconds: dict[int, float], engine: str
) -> CellWaveforms:  # fmt: skip
    order = sorted(nodes)
    split = splits_of(len(runs), settings.seed)
    points = settings.drive.corners * FINER + 1
    time = np.linspace(0.0, settings.drive.duration, points)
    names = list(runs[0].parameters)
    return make_waveforms(
        cell, time, [np.interp(time, settings.drive.time, runs[k].current) for k in order], [nodes[k][0] for k in order],
        split=[split[k] for k in order], stimulus=[runs[k].stimulus for k in order], engine=engine,
        states={s: [nodes[k][1 + j] for k in order] for j, s in enumerate(cell.card.states)},
        parameters={n: [runs[k].parameters[n] for k in order] for n in names},
        temperature=[runs[k].temperature for k in order], seed=settings.seed, max_step=settings.max_step,
        seconds=[seconds[k] for k in order],
    )  # fmt: skip


def characterise_cell(
    cell: Cell, settings: CharacteriseSettings, engine: str, out: Path | None, console: Console, said: str = ""
) -> CellWaveforms:
    """Characterise a cell, write file and figure, and say what there is."""
    folder = out or Path("runs") / cell.name / "characterise"
    if said:
        console.print(said, soft_wrap=True, markup=False)
    found = characterise(cell, settings, engine, folder, console)
    path = found.save(folder / FILE)
    chosen = [int(np.flatnonzero(found.stimuli == name)[0]) for name in FAMILIES if name in found.stimuli]
    draw_runs(folder / "waveforms.png", f"{cell.name} in {found.data.attrs['engine']}", found.time,
              found.current[chosen], found.mem[chosen], [str(s) for s in found.stimuli[chosen]])  # fmt: skip
    limits = cell.card.limits.get("mem")
    low, high = float(found.mem.min()), float(found.mem.max())
    counts = ", ".join(f"{int((found.splits == s).sum())} {s}" for s in ("fit", "validation", "held_out"))
    console.print(f"{found.runs} runs ({counts}); membranes {low:.3g} to {high:.3g} V", highlight=False)
    if limits is not None and (low < limits.at_least or high > limits.at_most):
        outside = np.mean((found.mem < limits.at_least) | (found.mem > limits.at_most))
        console.print(
            f"{100 * outside:.2g} % of the time membranes are outside of the card's limits, {limits.at_least:g} to {limits.at_most:g} V",
            highlight=False,
        )
    console.print(f"waveforms: {path}   figure: {folder / 'waveforms.png'}", soft_wrap=True, markup=False)
    return found
