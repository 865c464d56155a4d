"""Trust region: a twin that leaves the range of its fit gets a wider one, from new waveforms, and all of it is written down."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from memprop.circuit.cell import Cell
from memprop.errors import CheckpointError, InputError, RangeWarning
from memprop.files import ensure_folder, sha256, write_atomic
from memprop.flow.characterise import CharacteriseSettings, characterise
from memprop.flow.fit_cell import FitCellSettings, fit_cell
from memprop.flow.fit_learned import FitLearnedSettings, fit_learned
from memprop.flow.stimuli import Drive, rise_of
from memprop.spice.engine import Engine
from memprop.twin.fitted import FIT, LEARNED, Fitted, load_fit
from memprop.twin.fitting.metrics import range_of
from memprop.twin.fitting.waveforms import FILE, CellWaveforms
from memprop.twin.learned.files import ABOUT, WEIGHTS, load_model
from memprop.twin.learned.training import LearnedSettings
from memprop.twin.learned.twin import LearnedModel
from memprop.twin.network import Twin
from memprop.twin.population import FOLDER
from memprop.twin.ranges import Ends, Range, outside

WIDER = 0.25
"""Part of the currents' range that a new fit reaches further than the twin went."""
FEWEST_RUNS, FEWEST_CORNERS = 3, 10
MOST = 5
"""Characterisations of one refit."""


class TrustRegion:
    """The fits of one training, each in a folder ``<folder>/<refits>`` with its waveforms, tables and pages.

    Parameters
    ----------
    folder: of the fits; that of the start is copied there from ``start``, so that a run folder holds all it needs.
    start: fit.json of `memprop fit-cell`, or its folder; None: the copy in ``folder``.
    engine: where cells are characterised again.

    Raises
    ------
    InputError: a fit is missing or damaged.
    CheckpointError: ``folder`` holds another fit than ``start``.
    """

    def __init__(
        self, folder: Path, start: Path | None = None, engine: str | Engine = "ngspice", console: Console | None = None,
        workers: int | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.engine, self.console, self.workers = folder, engine, console or Console(quiet=True), workers
        own = folder / "0"
        if start is not None:
            fit = load_fit(start)
            if fit.runs < FEWEST_RUNS or fit.corners < FEWEST_CORNERS:
                raise InputError(
                    f"{start} was fitted to {fit.runs} runs of {fit.corners} straight pieces; a wider fit could not be made the same way. "
                    f"Characterise at least {FEWEST_RUNS} runs of {FEWEST_CORNERS}."
                )
            if (own / FIT).is_file() and load_fit(own) != fit:
                raise CheckpointError(f"{folder} holds another fit than {start}. Train into another folder.")
            _copy(start if start.is_file() else start / FIT, ensure_folder(own), fit.kind)
        self.name, self.runs = sha256(repr(load_fit(own))), load_fit(own).runs

    def install(self, twin: Twin, refits: int) -> None:
        """Give ``twin`` the fit that it has after so many refits.

        Raises
        ------
        InputError: the fit is missing, damaged or of another cell.
        """
        twin.refit(_found(self.folder / str(refits)))

    def mend(self, twin: Twin, refits: int) -> dict[str, Any] | None:
        """Characterise and fit the cell anew where ``twin`` left its range, and say what was done; None: it did not.

        Raises
        ------
        SimulationError: no run could be simulated.
        TrainingError: the fit failed.
        """
        fit = load_fit(self.folder / str(refits))
        used = _used(twin, fit)
        words = None if used is None else outside(fit.known, used, slack=0.02)
        if used is None or words is None:
            return None
        self.console.print(f"the twin of {fit.cell} left its range: {words}. It is fitted anew.", highlight=False)
        folder, quiet = self.folder / str(refits + 1), Console(quiet=True)  # a training may be showing its progress
        cell = next(p.cell for p in twin.populations if p.cell.digest == fit.cell_sha256)
        waveforms = self._characterised(cell, fit, used, folder, refits)
        waveforms.save(folder / FILE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RangeWarning)  # runs held out may go a little further than those of the fit
            if fit.kind == LEARNED:
                # A training waits for it: a small part of the usual polish.
                brief = LearnedSettings(polish=((30, 1.0),), polish_batch=8000)
                learning = FitLearnedSettings(brief, fit.dt, engine=None, workers=self.workers)
                fit_learned(cell, waveforms, learning, folder, quiet)
            else:
                free = FitCellSettings(fit.dt, tuple(fit.factors), engine=None, workers=self.workers)
                fit_cell(cell, waveforms, free, folder, quiet)
        self.install(twin, refits + 1)
        after = load_fit(folder)
        short = outside(after.known, used, slack=0.02)
        if short is not None:
            self.console.print(f"[bold yellow]still outside[/]: {short}.", highlight=False, soft_wrap=True)
        self.console.print(
            f"fitted from {after.known.current[0]:.3g} to {after.known.current[1]:.3g} A: "
            f"{1e3 * after.errors['held_out']:.3g} mV rms held out; {folder}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        return {
            "why": words,
            "still": short,
            "range": asdict(after.known),
            "rms_before": dict(fit.errors),
            "rms": dict(after.errors),
        }

    def _characterised(self, cell: Cell, fit: Fitted, used: Range, folder: Path, refits: int) -> CellWaveforms:
        """Return waveforms whose runs of the fit go as far as ``used``; until they do, currents are drawn from further and further."""
        known, parts = fit.known, []
        for attempt in range(MOST):
            known = replace(known, current=_wanted(known, used))
            drive = Drive(*known.current, fit.duration, rise_of(cell, fit.duration), fit.corners)
            settings = CharacteriseSettings(drive, self.runs, seed=MOST * refits + attempt + 1, workers=self.workers)
            parts.append(characterise(cell, settings, self.engine, folder, Console(quiet=True)))
            found = parts[0].joined(*parts[1:])
            if outside(range_of(found.part("fit")), used) is None:
                break
        return parts[0].joined(*parts[1:])


def _used(twin: Twin, fit: Fitted) -> Range | None:
    """Return where the populations of the fitted cell were since they were last asked, and forget it."""
    used = None
    for population in twin.populations:
        watch = population.watch
        if watch is None or watch.seen is None or population.cell.digest != fit.cell_sha256:
            continue
        used = watch.seen if used is None else used.joined(watch.seen)
        watch.forget()
    return used


def _wanted(known: Range, used: Range) -> Ends:
    """Return the ends of the currents to characterise: further than both, and further still where only membranes went out."""
    both = known.joined(used)
    reach = WIDER * (both.current[1] - both.current[0])
    kept = both.current == known.current
    low, high = both.current
    return (
        low - reach if kept or low < known.current[0] else low,
        high + reach if kept or high > known.current[1] else high,
    )


def _found(folder: Path) -> Fitted | LearnedModel:
    fit = load_fit(folder)
    return load_model(folder / FOLDER) if fit.kind == LEARNED else fit


def _copy(start: Path, folder: Path, kind: str) -> None:
    """Copy a fit, checked, so that a run stands on its own."""
    write_atomic(folder / FIT, start.read_bytes())
    if kind == LEARNED:
        home = start.parent / FOLDER
        load_model(home)
        for name in (WEIGHTS, ABOUT):
            write_atomic(ensure_folder(folder / FOLDER) / name, (home / name).read_bytes())
