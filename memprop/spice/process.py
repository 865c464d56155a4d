"""Simulators as processes: each in its own group and folder, with its output in a file, and gone when nobody waits for it."""

from __future__ import annotations

import contextlib
import math
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memprop.errors import EngineError, SimulationError, SimulationTimeout, SimulatorKilled

_LOOK_S = 2e-3
"""Shortest time between two looks at what a process has done, in s."""


class Running(set[subprocess.Popen[bytes]]):
    """The processes of an engine that run now; ``aborts`` counts how often they were told to end."""

    def __init__(self) -> None:
        super().__init__()
        self.aborts = 0

    def __reduce__(self) -> tuple[type[Running], tuple[()]]:
        """Pickle without processes: the copy of an engine in another process runs nothing yet."""
        return Running, ()

    def abort(self) -> None:
        """Kill all."""
        self.aborts += 1
        for process in list(self):
            kill(process)


@dataclass(frozen=True, slots=True)
class Finished:
    """A process that ended by itself, or the part of its log that belongs to one of its runs."""

    status: int
    log: str


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """Give a folder that is removed at the end, but for a SimulationError, which names it."""
    folder = Path(tempfile.mkdtemp(prefix="memprop-"))
    keep = False
    try:
        yield folder
    except SimulationError:
        keep = True
        raise
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def started(command: Sequence[str], folder: Path, running: Running) -> Iterator[subprocess.Popen[bytes]]:
    """Start a simulator in ``folder``; its output goes to ``log.txt``, which survives a kill. At the end it is gone.

    Raises
    ------
    EngineError: it does not start.
    """
    with (folder / "log.txt").open("wb") as log:
        try:
            process = subprocess.Popen(
                command, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env=_environment(os.environ),
            )  # fmt: skip
        except OSError as error:
            raise EngineError(f"{command[0]} does not start: {error.strerror}. Install it again.") from error
    running.add(process)
    try:
        yield process
    finally:
        kill(process)
        running.discard(process)


def run_process(command: Sequence[str], folder: Path, timeout_s: float, title: str, running: Running) -> Finished:
    """Run a simulator in ``folder`` until it ends; while it runs its process is in ``running``.

    Raises
    ------
    SimulationTimeout, SimulatorKilled: it did not end by itself.
    EngineError: it does not start.
    """
    with started(command, folder, running) as process:
        if not wait(process, timeout_s):
            raise SimulationTimeout(title, f"no end after {timeout_s:g} s.", folder)
        status = process.wait()
    check_signal(status, title, folder)
    return Finished(status, log_of(folder))


def check_signal(status: int, title: str, folder: Path) -> None:
    """Raise SimulatorKilled if ``status`` says that a signal ended the process."""
    if status < 0:
        raise SimulatorKilled(
            title, f"the simulator was ended by signal {-status} ({signal.strsignal(-status)}).", folder
        )


def log_of(folder: Path) -> str:
    """Return what the process in ``folder`` has said so far."""
    return (folder / "log.txt").read_text(encoding="utf-8", errors="replace")


def wait(process: subprocess.Popen[bytes], timeout_s: float) -> bool:
    """Return whether the process ended in time, at once when it does: waiting in Popen sleeps up to 50 ms."""
    return wait_until(process, lambda: process.poll() is not None, timeout_s, look=False)


def wait_until(
    process: subprocess.Popen[bytes], done: Callable[[], bool], timeout_s: float, *, look: bool = True
) -> bool:
    """Wait for ``done`` or the end of the process, whatever is first; return what ``done`` says then, also after ``timeout_s``.

    ``look``: ask ``done`` now and then, at intervals of a tenth of the time passed; else only when the process ended.
    """
    start = time.monotonic()
    with _handle(process) as handle:
        while not done():
            passed = time.monotonic() - start
            if process.poll() is not None or passed >= timeout_s:
                return done()  # it may have come true between the two questions
            handle(min(max(_LOOK_S, 0.1 * passed) if look else timeout_s, timeout_s - passed))
    return True


@contextlib.contextmanager
def _handle(process: subprocess.Popen[bytes]) -> Iterator[Callable[[float], object]]:
    """Give a function that waits for the end of the process, at most so many seconds."""
    if not hasattr(os, "pidfd_open") or process.poll() is not None:
        yield lambda seconds: time.sleep(min(seconds, _LOOK_S))
        return
    handle = os.pidfd_open(process.pid)
    try:
        waiter = select.poll()  # takes any handle number, which select.select does not
        waiter.register(handle, select.POLLIN)
        yield lambda seconds: waiter.poll(math.ceil(1e3 * seconds))
    finally:
        os.close(handle)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a simulator and all that it started, if it still runs."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment(base: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with one thread per process; parallelism is over decks."""
    return {**base, "OMP_NUM_THREADS": "1"}
