"""Engine ``ngspice``: the system's program in batch mode, one process and one folder per deck."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memprop.deck.deck import Deck
from memprop.deck.ngspice import main_text
from memprop.deck.verilog import ngspice_names, ngspice_text
from memprop.errors import (
    ConvergenceError,
    DeckError,
    EngineError,
    InputError,
    NoOutput,
    SimulationError,
    SimulationTimeout,
    SimulatorKilled,
)
from memprop.files import inside, write_atomic
from memprop.spice.batch import run_singly
from memprop.spice.find import INSTALL_NGSPICE, NGSPICE_VARIABLE, Program, find_ngspice
from memprop.spice.log import asked, explanation_in, failure_in, tail
from memprop.spice.osdi import compile_verilog, osdi_problem
from memprop.spice.raw import Plot, read_raw
from memprop.spice.recording import Recording, make_recording


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that ended by itself."""

    status: int
    log: str


@dataclass(frozen=True, slots=True)
class NgspiceEngine:
    """ngspice as a program. Reads no ``.spiceinit`` of the user, so that a deck means the same everywhere."""

    program: Program = field(default_factory=find_ngspice)
    osdi: bool = False
    """Whether to take the devices of a deck compiled, where it has them in Verilog-A."""
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set, compare=False, repr=False)

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
        folder = Path(tempfile.mkdtemp(prefix="memprop-"))
        keep = False
        try:
            names = _written_compiled(deck, folder) if self.osdi else write_deck(deck, folder)
            done = self.batch(folder, "deck.cir", timeout_s, title=deck.title, raw="out.raw")
            if self.osdi:
                _check_operating_point(deck, folder, done)
            return _read(deck, folder, done, self.name, names)
        except SimulationError:
            keep = True
            raise
        finally:
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)

    def run_batch(self, decks: Iterable[Deck], timeout_s: float = 600.0) -> Iterator[Recording | SimulationError]:
        """Simulate decks one after the other, see `memprop.spice.engine.Engine`."""
        return run_singly(self.run, decks, timeout_s)

    def batch(self, folder: Path, main: str, timeout_s: float, *, title: str, raw: str | None = None) -> Finished:
        """Run ``ngspice -b`` on ``folder/main`` and return status and log.

        Raises
        ------
        SimulationTimeout, SimulatorKilled: it did not end by itself.
        """
        command = [str(self.program.path), "-n", "-b", *(["-r", raw] if raw else []), main]
        return run_process(command, folder, timeout_s, title, self._running)

    def abort(self) -> None:
        """Kill the simulations that run now."""
        for process in list(self._running):
            kill(process)

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


def _written_compiled(deck: Deck, folder: Path) -> dict[str, str]:
    """Write the deck; what cannot be read is a failure of this deck, and must stop none of the others."""
    try:
        return write_compiled(deck, folder)
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


def run_process(
    command: Sequence[str], folder: Path, timeout_s: float, title: str, running: set[subprocess.Popen[bytes]]
) -> Finished:
    """Run a simulator in ``folder`` in its own process group; its output goes to ``log.txt``, which survives a kill.

    While it runs its process is in ``running``.
    """
    log_path = folder / "log.txt"
    with log_path.open("wb") as log:
        try:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env=_environment(os.environ),
            )  # fmt: skip
        except OSError as error:
            raise EngineError(f"{command[0]} does not start: {error.strerror}. Install it again.") from error
        running.add(process)
        try:
            status = _wait(process, timeout_s)
        except subprocess.TimeoutExpired as error:
            raise SimulationTimeout(title, f"no end after {timeout_s:g} s.", folder) from error
        finally:
            kill(process)
            running.discard(process)
    text = log_path.read_text(encoding="utf-8", errors="replace")
    if status < 0:
        raise SimulatorKilled(
            title, f"the simulator was ended by signal {-status} ({signal.strsignal(-status)}).", folder
        )
    return Finished(status, text)


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> int:
    """Return the exit status, at once when it is there: waiting in Popen sleeps up to 50 ms, as long as a small simulation.

    Raises
    ------
    subprocess.TimeoutExpired: it runs on.
    """
    if hasattr(os, "pidfd_open"):
        handle = os.pidfd_open(process.pid)
        try:
            waiter = select.poll()  # takes any handle number, which select.select does not
            waiter.register(handle, select.POLLIN)
            waiter.poll(1e3 * timeout_s)
        finally:
            os.close(handle)
        timeout_s = 0.01 if process.poll() is None else 1.0
    return process.wait(timeout=timeout_s)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a simulator and all that it started, if it still runs."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with one thread per process; parallelism is over decks."""
    return {**base, "OMP_NUM_THREADS": "1"}


def _check_operating_point(deck: Deck, folder: Path, done: Finished) -> None:
    """Refuse a run that only the last way to an operating point saved: with compiled devices its data cannot be trusted."""
    if re.search(r"source stepping failed", done.log, re.IGNORECASE):
        raise ConvergenceError(
            deck.title,
            "ngspice says: gmin stepping and source stepping failed, so there is no operating point.",
            folder,
        )


def _read(deck: Deck, folder: Path, done: Finished, engine: str, names: Mapping[str, str]) -> Recording:
    raw = folder / "out.raw"
    missing = done.status or not raw.is_file() or not raw.stat().st_size
    failure = explanation_in(done.log) if missing else failure_in(done.log)
    if failure:
        raise failure[0](deck.title, f"ngspice says: {failure[1].rstrip('.')}{asked(deck, failure[0])}", folder)
    if done.status:
        raise SimulatorKilled(deck.title, f"ngspice ended with status {done.status}: {tail(done.log)}.", folder)
    if not raw.is_file() or not raw.stat().st_size:
        raise NoOutput(deck.title, f"ngspice ended with status 0 and wrote no data: {tail(done.log)}.", folder)
    plots = read_raw(raw, deck.title)
    raw_names = {f"v({node.lower()})": f"v({name.lower()})" for node, name in names.items()}
    return make_recording(deck, lambda name: _column(plots[0], raw_names.get(name, name)), engine, folder)


def _column(plot: Plot, name: str) -> NDArray[np.float64] | None:
    return np.ascontiguousarray(plot.values[:, plot.variables.index(name)]) if name in plot.variables else None
