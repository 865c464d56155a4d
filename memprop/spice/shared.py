"""Engine ``ngspice-shared``: libngspice in helper processes, one per thread, recycled because the library grows in memory."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from memprop.deck.deck import Deck
from memprop.deck.ngspice import main_text
from memprop.errors import DeckError, NoOutput, RawFileError, SimulationTimeout, SimulatorKilled
from memprop.spice.find import find_libngspice
from memprop.spice.log import asked, explanation_in, failure_in, tail
from memprop.spice.recording import Recording, make_recording

RUNS_PER_HELPER = 50
"""A helper grows by about 4 MB per run (PySpice 1.5, ngspice 39); after so many runs a new one takes over."""


@dataclass(slots=True)
class _Helper:
    process: subprocess.Popen[bytes]
    runs: int = 0

    @property
    def answers(self) -> IO[bytes]:
        if self.process.stdout is None:
            raise ValueError("no pipe")
        return self.process.stdout

    def request(self, line: bytes) -> None:
        """Send a request and wait until it is received; raise OSError or ValueError if nobody is there."""
        if self.process.stdin is None:
            raise ValueError("no pipe")
        self.process.stdin.write(line)
        self.process.stdin.flush()
        _line(self.answers)
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
    _helpers: dict[int, _Helper] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """Name of the engine."""
        return "ngspice-shared"

    def run(self, deck: Deck, timeout_s: float = 600.0) -> Recording:
        """Simulate ``deck`` in this thread's helper.

        Raises
        ------
        SimulationError: one of its kinds, see `memprop.errors`.
        """
        helper = self._send(deck)
        timed_out = threading.Event()
        alarm = threading.Timer(timeout_s, lambda: (timed_out.set(), helper.process.kill()))
        alarm.start()
        try:
            head, values = _receive(helper, deck.title)
        except SimulatorKilled as error:
            self._drop(helper)
            if timed_out.is_set():
                raise SimulationTimeout(deck.title, f"no end after {timeout_s:g} s.") from error
            raise
        finally:
            alarm.cancel()
        if helper.runs >= RUNS_PER_HELPER:
            self._drop(helper)
        return _recording(deck, head, values)

    def close(self) -> None:
        """End all helpers."""
        for helper in list(self._helpers.values()):
            self._drop(helper)

    def _send(self, deck: Deck) -> _Helper:
        """Hand the deck to this thread's helper; one that died while idle is replaced."""
        request = json.dumps({"netlist": _flat_text(deck)}).encode() + b"\n"
        for _ in range(2):
            helper = self._helper()
            with contextlib.suppress(OSError, ValueError):
                helper.request(request)
                return helper
            self._drop(helper)
        raise SimulatorKilled(deck.title, "the helper process with libngspice ended before it took the deck.")

    def _helper(self) -> _Helper:
        key = threading.get_ident()
        with self._lock:
            if key in self._helpers and self._helpers[key].process.poll() is not None:
                self._helpers.pop(key).end()
            if key not in self._helpers:
                script = Path(__file__).with_name("worker.py")
                process = subprocess.Popen(
                    [sys.executable, str(script)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    cwd=script.parent,  # where no .spiceinit of the user lies
                    env={**os.environ, "NGSPICE_LIBRARY_PATH": self.library},
                )
                self._helpers[key] = _Helper(process)
            return self._helpers[key]

    def _drop(self, helper: _Helper) -> None:
        helper.end()
        with self._lock:
            self._helpers = {key: value for key, value in self._helpers.items() if value is not helper}


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
    """Return the deck as one text: the library reads lines, not files."""
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
    index = {_raw_name(name): k for k, name in enumerate(head["names"])}
    engine = f"ngspice-shared-{head['version']}"
    return make_recording(
        deck, lambda name: np.ascontiguousarray(values[:, index[name]]) if name in index else None, engine, None
    )


def _raw_name(name: str) -> str:
    """Return the raw-file name of a vector of the library: ``v1#branch`` -> ``i(v1)``, ``a`` -> ``v(a)``."""
    if name == "time":
        return name
    return f"i({name.removesuffix('#branch')})" if name.endswith("#branch") else f"v({name})"
