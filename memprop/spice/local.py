"""The workers of a farm as processes on this machine.

Each is a fresh interpreter, no fork: threads of torch do not survive one, and the user's main script must not run again. A
socket joins it with the farm. Its end, seen by the other side, is how each learns of the death of the other.
"""

from __future__ import annotations

import json
import os
import pickle
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import NamedTuple

from memprop.errors import EngineError, MempropError
from memprop.spice.farm_worker import MARK, Done, Item, kill_marked, to_bytes

START_S = 60.0
"""Longest time that a worker may take to start."""
MOST_UNREADY = 5
"""Workers that may be killed while they start before that is a fault of the machine."""
GRACE_S = 60.0
"""A worker that says nothing for so long after the timeout of its deck hangs, and is killed."""
FEW = 2
"""A worker with so few decks left gets the next batch, so that it never waits for one."""
_START = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from memprop.spice.farm_worker import main; main(sys.argv[2])"


class Lost(NamedTuple):
    """Items that a worker took and did not finish."""

    blamed: int | None
    """The one that was in hand."""
    reason: str
    waiting: tuple[int, ...]
    """The others, which it had not begun."""
    innocent: bool = False
    """Whether it is known that none of them was in hand."""


class _Worker:
    """One process, the line to it, and the numbers of the items it holds."""

    def __init__(self, recipe: bytes, timeout_s: float, folder: Path) -> None:
        self.mark, self.folder, self.held = secrets.token_hex(16), folder, deque[int]()
        self.line, theirs = Pipe()
        folder.mkdir(parents=True)
        environment = {**os.environ, MARK: self.mark, "TMPDIR": str(folder), "OMP_NUM_THREADS": "1"}
        with theirs, (folder / "worker.log").open("wb") as log:
            # A session of its own: Ctrl-C goes to the farm, which decides what to end.
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(sys.path), str(theirs.fileno())], pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        self.ready, self.reading, self.heard, self.patience = False, False, time.monotonic(), START_S
        self._timeout_s = timeout_s
        with suppress(OSError):  # dead already: the farm sees the end of the line
            self.line.send((recipe, timeout_s))

    def give(self, items: Sequence[Item]) -> None:
        content = to_bytes(list(items), "a deck or its reducing function")
        if not self.held and self.ready:
            self.heard = time.monotonic()
        self.held.extend(item.number for item in items)
        with suppress(OSError):
            self.line.send_bytes(content)

    def take(self) -> Done | MempropError | None:
        """Return what has arrived: a result, or a fault that is none of a deck; None if that was the greeting.

        Raises
        ------
        EOFError, OSError: the worker is dead.
        """
        self.reading = True
        content = pickle.loads(self.line.recv_bytes())  # noqa: S301 - from a process that this one started
        self.reading = False
        # A deck that its batch gave up may run once more by itself.
        self.heard, self.ready, self.patience = time.monotonic(), True, 2 * self._timeout_s + GRACE_S
        if isinstance(content, Done):
            self.held.remove(content.number)
        return content

    @property
    def hangs(self) -> bool:
        silent = time.monotonic() - self.heard > self.patience
        return (
            bool(self.held or not self.ready) and silent and not self.line.poll()
        )  # the farm may not have looked for long

    def kill(self) -> int:
        """End the process and its simulators; return its exit status."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, 9)
        status = self.process.wait()
        kill_marked(self.mark)
        return status

    def said(self) -> str:
        lines = (self.folder / "worker.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing"


class LocalWorkers:
    """Worker processes; a dead one is replaced when there is work for it."""

    def __init__(self, recipe: bytes, count: int, timeout_s: float) -> None:
        self._recipe, self._count, self._timeout_s = recipe, count, timeout_s
        self._folder = Path(tempfile.mkdtemp(prefix="memprop-farm-"))
        self._workers: list[_Worker] = []
        self._started = 0
        self._kept: set[Path] = set()
        self._unready = 0

    @property
    def count(self) -> int:
        """Number of workers."""
        return self._count

    @property
    def pids(self) -> list[int]:
        """Process numbers of the workers that run now."""
        return [worker.process.pid for worker in self._workers]

    def hungry(self) -> bool:
        """Return whether a worker wants a batch."""
        return len(self._workers) < self._count or any(len(worker.held) <= FEW for worker in self._workers)

    def submit(self, items: Sequence[Item]) -> None:
        """Give a batch to the worker with the least to do."""
        if len(self._workers) < self._count:
            self._started += 1
            self._workers.append(_Worker(self._recipe, self._timeout_s, self._folder / f"worker{self._started}"))
        min(self._workers, key=lambda worker: len(worker.held)).give(items)

    def wait(self) -> Iterator[Done | Lost]:
        """Wait until something happens, and yield it.

        Raises
        ------
        EngineError: a worker does not start, or has no engine.
        """
        lines = {worker.line: worker for worker in self._workers}
        ready = wait(list(lines), timeout=1.0)
        for line in ready:
            worker = lines[line]  # pyright: ignore[reportArgumentType] - sockets in, sockets out
            try:
                done = worker.take()
            except (EOFError, OSError):
                yield from self._lost(worker, "")
                continue
            if isinstance(done, MempropError):
                raise done
            if done is not None:
                self._note(done)
                yield done
        for worker in [worker for worker in self._workers if worker.hangs]:
            yield from self._lost(worker, f"the worker process said nothing for {worker.patience:g} s and was killed.")

    def _note(self, done: Done) -> None:
        if done.error is not None and done.error.folder is not None:
            self._kept.add(done.error.folder)

    def _lost(self, worker: _Worker, reason: str) -> Iterator[Lost]:
        status = worker.kill()
        self._workers.remove(worker)
        worker.line.close()
        if not worker.ready and (status >= 0 or self._unready >= MOST_UNREADY):
            raise EngineError(
                f"a worker process of the farm does not start (status {status}). It said: {worker.said()}. Check the memory and the "
                f"installation: {sys.executable} must be able to import memprop."
            )
        end = f"ended by signal {-status}" if status < 0 else f"ended with status {status}"
        reason = reason or f"the worker process {end}."
        if not worker.ready:  # killed before it began: none of its decks is to blame
            self._unready += 1
            yield Lost(None, reason, tuple(worker.held), innocent=True)
        elif worker.held:
            first, *rest = worker.held
            yield Lost(first, reason, tuple(rest))

    def stop(self) -> Iterator[Done]:
        """Kill all workers and their simulators; yield what they had finished before."""
        workers, self._workers = self._workers, []
        for worker in workers:
            worker.kill()
        for worker in workers:
            with suppress(EOFError, OSError, pickle.UnpicklingError, MempropError):
                while not worker.reading:  # an interrupt in the middle of a message leaves its rest in the line
                    done = worker.take()
                    if isinstance(done, Done):
                        self._note(done)
                        yield done
            worker.line.close()

    def close(self) -> None:
        """End the workers, and remove their folders but those of failed decks."""
        for worker in self._workers:
            worker.line.close()  # they end by themselves, and let their engines end their helpers
        end = time.monotonic() + 2.0
        for worker in self._workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(max(0.05, end - time.monotonic()))
            worker.kill()
        self._workers = []
        for path in self._folder.glob("worker*/*"):
            if path not in self._kept:
                path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
        for folder in (*self._folder.glob("worker*"), self._folder):
            with suppress(OSError):  # not empty: a failed deck is in it
                folder.rmdir()
