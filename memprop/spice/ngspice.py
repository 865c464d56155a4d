"""Engine ``ngspice``: the system's program in batch mode, one process and one folder per deck or batch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memprop.deck.changes import Change
from memprop.deck.deck import Deck
from memprop.deck.ngspice import batch_text, main_text
from memprop.deck.verilog import ngspice_names, ngspice_text
from memprop.errors import (
    ConvergenceError,
    DeckError,
    EngineError,
    InputError,
    NoOutput,
    SimulationError,
    SimulatorKilled,
)
from memprop.files import inside, write_atomic
from memprop.spice.batch import Step, Written, run_alone, run_batch
from memprop.spice.find import INSTALL_NGSPICE, NGSPICE_VARIABLE, Program, find_ngspice
from memprop.spice.log import asked, explanation_in, failure_in, tail
from memprop.spice.osdi import compile_verilog, osdi_problem
from memprop.spice.process import Finished, Running, run_process
from memprop.spice.recording import Recording


@dataclass(frozen=True, slots=True)
class NgspiceEngine:
    """ngspice as a program. Reads no ``.spiceinit`` of the user, so that a deck means the same everywhere."""

    program: Program = field(default_factory=find_ngspice)
    osdi: bool = False
    """Whether to take the devices of a deck compiled, where it has them in Verilog-A."""
    running: Running = field(default_factory=Running, compare=False, repr=False)
    """The processes that run now."""

    @property
    def name(self) -> str:
        """Name and version."""
        return f"ngspice-{'osdi-' if self.osdi else ''}{self.program.version}"

    def run(self, deck: Deck, timeout_s: float = 600.0) -> Recording:
        """Simulate ``deck``; the folder is kept, and named, only on failure.

        Raises
        ------
        SimulationError: one of its kinds, see `memprop.errors`.
        """
        return run_alone(self, deck, timeout_s)

    def run_batch(self, decks: Iterable[Deck], timeout_s: float = 600.0) -> Iterator[Recording | SimulationError]:
        """Simulate decks one after the other, see `memprop.spice.engine.Engine`; parameters of instances need a new process."""
        return run_batch(self, decks, timeout_s)

    def can_change(self, change: Change) -> bool:
        """Return whether ``alter`` makes this change: ngspice has dissolved instances of subcircuits when it has read them."""
        return not change.parameter

    def write(self, steps: Sequence[Step], folder: Path) -> Written:
        """Write the deck, and for a batch what to change before each further run.

        Raises
        ------
        DeckError: the deck cannot be read; that must stop none of the others.
        """
        deck = steps[0].deck
        names = _written(deck, folder, write_compiled if self.osdi else write_deck)
        raw_names = {f"v({node.lower()})": f"v({name.lower()})" for node, name in names.items()}
        if len(steps) == 1:
            return Written([str(self.program.path), "-n", "-b", "-r", "out.raw", "deck.cir"], ["out.raw"], raw_names)
        main = folder / "deck.cir"
        write_atomic(main, batch_text(main.read_text(encoding="utf-8"), deck.analysis, [s.changes for s in steps]))
        return Written(
            [str(self.program.path), "-n", "-b", "deck.cir"], [f"out{k}.raw" for k in range(len(steps))], raw_names
        )

    def check(self, deck: Deck, folder: Path, raw: Path, done: Finished) -> None:
        """Refuse what the log says to be wrong, and a run without data.

        Raises
        ------
        SimulationError: one of its kinds, see `memprop.errors`.
        """
        if self.osdi:
            _check_operating_point(deck, folder, done)
        missing = done.status or not raw.is_file() or not raw.stat().st_size
        failure = explanation_in(done.log) if missing else failure_in(done.log)
        if failure:
            raise failure[0](deck.title, f"ngspice says: {failure[1].rstrip('.')}{asked(deck, failure[0])}", folder)
        if done.status:
            raise SimulatorKilled(deck.title, f"ngspice ended with status {done.status}: {tail(done.log)}.", folder)
        if missing:
            raise NoOutput(deck.title, f"ngspice ended with status 0 and wrote no data: {tail(done.log)}.", folder)

    def batch(self, folder: Path, main: str, timeout_s: float, *, title: str, raw: str | None = None) -> Finished:
        """Run ``ngspice -b`` on ``folder/main`` and return status and log.

        Raises
        ------
        SimulationTimeout, SimulatorKilled: it did not end by itself.
        """
        command = [str(self.program.path), "-n", "-b", *(["-r", raw] if raw else []), main]
        return run_process(command, folder, timeout_s, title, self.running)

    def abort(self) -> None:
        """Kill the simulations that run now."""
        self.running.abort()

    def close(self) -> None:
        """End what still runs; every deck has its own process."""
        self.abort()


def osdi_engine() -> NgspiceEngine:
    """Return the engine that takes devices compiled from Verilog-A.

    Raises
    ------
    EngineError: the installed ngspice does not load compiled Verilog-A, or there is no compiler.
    """
    program = find_ngspice()
    problem = osdi_problem(program.path)
    if problem:
        raise EngineError(
            f"engine ngspice-osdi: {problem} (version {program.version}). Use the engine vacask or ngspice, or install an ngspice "
            f"that was built with OSDI (Debian 13 and newer have one) and set {NGSPICE_VARIABLE}. {INSTALL_NGSPICE}."
        )
    return NgspiceEngine(program, osdi=True)


def write_deck(deck: Deck, folder: Path) -> dict[str, str]:
    """Write the files of ``deck`` into ``folder``; the main file is ``deck.cir``. Return no other names of nodes."""
    for name, text in deck.files.items():
        write_atomic(inside(folder, name), text)
    write_atomic(folder / "deck.cir", main_text(deck))
    return {}


def _written(deck: Deck, folder: Path, write: Callable[[Deck, Path], dict[str, str]]) -> dict[str, str]:
    """Write the deck; what cannot be read or written is a failure of this deck, and must stop none of the others."""
    try:
        return write(deck, folder)
    except InputError as error:
        raise DeckError(deck.title, str(error), folder, "The deck's netlist could not be read.") from error


def write_compiled(deck: Deck, folder: Path) -> dict[str, str]:
    """Write ``deck`` with compiled devices in place of behavioural ones; return ngspice's names of nodes that differ.

    Raises
    ------
    DeckError: a Verilog-A text does not compile.
    InputError: a file is not understood; it is read only if nodes inside of subcircuits are asked for.
    """
    replaced = {model.file: ngspice_text(model) for model in deck.verilog}
    for name, text in deck.files.items():
        write_atomic(inside(folder, name), replaced.get(name, text))
    compiled = []
    for model in deck.verilog:
        compiled.append(f"models/{model.module.lower()}.osdi")
        write_atomic(inside(folder, compiled[-1]), compile_verilog(model.text, model.module).read_bytes())
    names = ngspice_names(deck)
    write_atomic(folder / "deck.cir", main_text(deck, compiled, names))
    return names


def _check_operating_point(deck: Deck, folder: Path, done: Finished) -> None:
    """Refuse a run that only the last way to an operating point saved: with compiled devices its data cannot be trusted."""
    if re.search(r"source stepping failed", done.log, re.IGNORECASE):
        raise ConvergenceError(
            deck.title,
            "ngspice says: gmin stepping and source stepping failed, so there is no operating point.",
            folder,
        )
