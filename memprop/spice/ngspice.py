"""Engine ``ngspice``: the system's program in batch mode, one process and one folder per deck."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memprop.deck.deck import Deck
from memprop.deck.ngspice import main_text
from memprop.errors import EngineError, NoOutput, SimulationError, SimulationTimeout, SimulatorKilled
from memprop.files import inside, write_atomic
from memprop.spice.find import Program, find_ngspice
from memprop.spice.log import asked, explanation_in, failure_in, tail
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
    _running: set[subprocess.Popen[bytes]] = field(default_factory=set, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Name and version."""
        return f"ngspice-{self.program.version}"

    def run(self, deck: Deck, timeout_s: float = 600.0) -> Recording:
        """Simulate ``deck``; the folder is kept, and named, only on failure.

        Raises
        ------
        SimulationError: one of its kinds, see `memprop.errors`.
        """
        folder = Path(tempfile.mkdtemp(prefix="memprop-"))
        keep = False
        try:
            write_deck(deck, folder)
            done = self.batch(folder, "deck.cir", timeout_s, title=deck.title, raw="out.raw")
            return _read(deck, folder, done, self.name)
        except SimulationError:
            keep = True
            raise
        finally:
            if not keep:
                shutil.rmtree(folder, ignore_errors=True)

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
            _kill(process)

    def close(self) -> None:
        """End what still runs; every deck has its own process."""
        self.abort()


def write_deck(deck: Deck, folder: Path) -> None:
    """Write the files of ``deck`` into ``folder``; the main file is ``deck.cir``."""
    for name, text in deck.files.items():
        write_atomic(inside(folder, name), text)
    write_atomic(folder / "deck.cir", main_text(deck))


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
            status = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            raise SimulationTimeout(title, f"no end after {timeout_s:g} s.", folder) from error
        finally:
            _kill(process)
            running.discard(process)
    text = log_path.read_text(encoding="utf-8", errors="replace")
    if status < 0:
        raise SimulatorKilled(
            title, f"the simulator was ended by signal {-status} ({signal.strsignal(-status)}).", folder
        )
    return Finished(status, text)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a simulator and all that it started, if it still runs."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with one thread per process; parallelism is over decks."""
    return {**base, "OMP_NUM_THREADS": "1"}


def _read(deck: Deck, folder: Path, done: Finished, engine: str) -> Recording:
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
    return make_recording(deck, lambda name: _column(plots[0], name), engine, folder)


def _column(plot: Plot, name: str) -> NDArray[np.float64] | None:
    return np.ascontiguousarray(plot.values[:, plot.variables.index(name)]) if name in plot.variables else None
