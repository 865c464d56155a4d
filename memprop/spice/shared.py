"""Engine ``ngspice-shared``: libngspice in helper processes, one per thread, recycled because the library grows in memory."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from memprop.deck.deck import Deck
from memprop.deck.ngspice import again, main_text
from memprop.errors import (
    DeckError,
    EngineError,
    InputError,
    NoOutput,
    RawFileError,
    SimulationError,
    SimulationTimeout,
    SimulatorKilled,
)
from memprop.spice.batch import Step, chunks
from memprop.spice.find import INSTALL_NGSPICE, find_libngspice
from memprop.spice.log import asked, explanation_in, failure_in, tail
from memprop.spice.recording import Recording, make_recording

RUNS_PER_HELPER = 50
"""A helper grows by about 4 MB per run (PySpice 1.5, ngspice 39); after so many runs a new one takes over."""


class _NobodyError(Exception):
    """The helper did not take a request."""


@dataclass(slots=True, eq=False)
class _Helper:
    process: subprocess.Popen[bytes]
    version: str = ""
    runs: int = 0

    @property
    def answers(self) -> IO[bytes]:
        if self.process.stdout is None:
            raise ValueError("no pipe")
        return self.process.stdout

    def request(self, line: bytes) -> None:
        """Send a request and wait until it is received; raise _NobodyError if nobody is there."""
        try:
            if self.process.stdin is None:
                raise ValueError("no pipe")
            self.process.stdin.write(line)
            self.process.stdin.flush()
            if _line(self.answers) != b"received\n":
                raise ValueError("an answer to something else")
        except (OSError, ValueError) as error:
            raise _NobodyError from error
        self.runs += 1

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()


@dataclass(slots=True)
class SharedEngine:
    """libngspice through PySpice. Saves the start of a process per deck; a crash costs the deck in hand only."""

    library: str = field(default_factory=find_libngspice)
    _idle: list[_Helper] = field(default_factory=list)
    _busy: list[_Helper] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _version: str = ""
    _aborts: int = 0

    @property
    def name(self) -> str:
        """Name and version; the first call starts a helper to ask."""
        if not self._version:
            self._release(self._take())
        return f"ngspice-shared-{self._version}"

    def run(self, deck: Deck, timeout_s: float = 600.0) -> Recording:
        """Simulate ``deck`` in a helper.

        Raises
        ------
        SimulationError: one of its kinds, see `memprop.errors`.
        """
        helper, recording = self._loaded(deck, timeout_s)
        self._release(helper)
        return recording

    def run_batch(self, decks: Iterable[Deck], timeout_s: float = 600.0) -> Iterator[Recording | SimulationError]:
        """Simulate decks one after the other, see `memprop.spice.engine.Engine`.

        A helper serves as many decks as it may before it is replaced; parameters of instances need the deck to be read again.
        """
        aborts = self._aborts
        for chunk in chunks(decks, lambda change: not change.parameter):
            with contextlib.closing(self._chunk(chunk, timeout_s)) as found:
                for result in found:
                    yield result
                    if self._aborts != aborts:
                        return

    def _chunk(self, steps: Sequence[Step], timeout_s: float) -> Generator[Recording | SimulationError]:
        """Yield the results of decks that differ in values; what fails after a change starts from the beginning."""
        helper: _Helper | None = None
        try:
            for step in steps:
                result, helper = self._changed(helper, step, timeout_s) if helper else (None, None)
                if result is None:
                    try:
                        helper, result = self._loaded(step.deck, timeout_s)
                    except SimulationError as error:
                        result = error
                if helper and helper.runs >= RUNS_PER_HELPER:
                    self._drop(helper)
                    helper = None
                yield result
        finally:
            if helper:
                self._release(helper)

    def _loaded(self, deck: Deck, timeout_s: float) -> tuple[_Helper, Recording]:
        """Return the recording of ``deck`` and the helper that has it loaded; one that died while idle is replaced."""
        request = {"netlist": _flat_text(deck)}
        for _ in range(2):
            helper = self._take()
            with contextlib.suppress(_NobodyError):
                head, values = self._ask(helper, request, deck.title, timeout_s)
                break
        else:
            raise SimulatorKilled(deck.title, "the helper process with libngspice ended before it took the deck.")
        try:
            return helper, _recording(deck, head, values)
        except BaseException:
            self._release(helper)
            raise

    def _changed(
        self, helper: _Helper, step: Step, timeout_s: float
    ) -> tuple[Recording | SimulationError | None, _Helper | None]:
        """Return the result and the helper, if both are as good as those of a deck that was read; what is not is None."""
        request = {"commands": again(step.deck.analysis, step.changes)}
        try:
            head, values = self._ask(helper, request, step.deck.title, timeout_s)
        except _NobodyError:
            return None, None
        except SimulationError as error:
            return error, None
        try:
            return _recording(step.deck, head, values), helper
        except SimulationError:
            self._release(helper)
            return None, None

    def _ask(
        self, helper: _Helper, request: Mapping[str, Any], title: str, timeout_s: float
    ) -> tuple[dict[str, Any], NDArray[np.float64]]:
        """Return what the helper answers; one that does not is dropped.

        Raises
        ------
        _NobodyError: it was dead before.
        SimulationError: it died, or there is no answer in time.
        """
        timed_out = threading.Event()
        alarm = threading.Timer(timeout_s, lambda: (timed_out.set(), helper.process.kill()))
        alarm.start()
        try:
            helper.request(json.dumps(request).encode() + b"\n")
            return _receive(helper, title)
        except (_NobodyError, SimulatorKilled) as error:
            self._drop(helper)
            if timed_out.is_set():
                raise SimulationTimeout(title, f"no end after {timeout_s:g} s.") from error
            raise
        except BaseException:  # whatever it was, the helper's next answer would be the answer to this deck
            self._drop(helper)
            raise
        finally:
            alarm.cancel()

    def abort(self) -> None:
        """Kill the simulations that run now."""
        self._aborts += 1
        for helper in list(self._busy):
            helper.process.kill()

    def close(self) -> None:
        """End all helpers."""
        self.abort()
        for helper in list(self._idle):
            self._drop(helper)

    def _take(self) -> _Helper:
        """Return an idle helper, or a new one."""
        with self._lock:
            helper = self._idle.pop() if self._idle else _start(self.library)
            self._busy.append(helper)
        if not self._version:
            self._version = helper.version
        return helper

    def _release(self, helper: _Helper) -> None:
        if helper.runs >= RUNS_PER_HELPER:
            self._drop(helper)
            return
        with self._lock:
            self._busy.remove(helper)
            self._idle.append(helper)

    def _drop(self, helper: _Helper) -> None:
        helper.end()
        with self._lock:
            for helpers in (self._idle, self._busy):
                if helper in helpers:
                    helpers.remove(helper)


def _start(library: str) -> _Helper:
    """Start a helper and wait until it has loaded the library.

    Raises
    ------
    EngineError: it does not start, mostly because the library cannot be loaded.
    """
    script = Path(__file__).with_name("worker.py")
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=script.parent,  # where no .spiceinit of the user lies
        env={**os.environ, "NGSPICE_LIBRARY_PATH": library},
    )
    helper = _Helper(process)
    try:
        helper.version = str(json.loads(_line(helper.answers))["version"])
    except (OSError, ValueError) as error:
        helper.end()
        raise EngineError(f"the helper process with {library} does not start. {INSTALL_NGSPICE}.") from error
    return helper


def _receive(helper: _Helper, title: str) -> tuple[dict[str, Any], NDArray[np.float64]]:
    try:
        head = json.loads(_line(helper.answers))
        points, names = head["shape"]
        content = helper.answers.read(8 * points * names)
    except (OSError, ValueError) as error:
        raise SimulatorKilled(title, "the helper process with libngspice ended while simulating.") from error
    if len(content) != 8 * points * names:
        raise RawFileError(title, f"the helper sent {len(content)} of {8 * points * names} bytes.")
    return head, np.frombuffer(content).reshape(points, names)


def _line(stream: IO[bytes]) -> bytes:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise ValueError("end of stream")
    return line


def _flat_text(deck: Deck) -> str:
    """Return the deck as one text: the library reads lines, not files.

    Raises
    ------
    DeckError: its analysis is none of this engine.
    """
    try:
        deck.transient  # noqa: B018 - asked for what it raises
    except InputError as error:
        raise DeckError(deck.title, str(error)) from error
    lines = main_text(deck).splitlines()
    body = [line for line in lines[1:] if not line.startswith(".include")]
    # PySpice takes a title with the word error for one, so the title stays here.
    return "\n".join(["* memprop", *deck.files.values(), *body]) + "\n"


def _recording(deck: Deck, head: dict[str, Any], values: NDArray[np.float64]) -> Recording:
    failure = failure_in(head["log"]) if head["names"] else explanation_in(head["log"])
    if failure:
        raise failure[0](deck.title, f"libngspice says: {failure[1].rstrip('.')}{asked(deck, failure[0])}")
    if not head["names"]:
        raise NoOutput(deck.title, f"libngspice wrote no data: {tail(head['log'])}.", remedy=DeckError.remedy)
    engine = f"ngspice-shared-{head['version']}"
    return make_recording(deck, [_raw_name(name) for name in head["names"]], values, {}, engine, None)


def _raw_name(name: str) -> str:
    """Return the raw-file name of a vector of the library: ``v1#branch`` -> ``i(v1)``, ``a`` -> ``v(a)``."""
    if name == "time":
        return name
    return f"i({name.removesuffix('#branch')})" if name.endswith("#branch") else f"v({name})"
