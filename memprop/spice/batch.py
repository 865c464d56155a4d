"""What engines that start a program have in common: a deck by itself, and many decks that differ in values in one process.

A program of a batch writes one raw file per deck, each of which is read, checked and removed as soon as it is whole. Whatever
does not pass the checks is simulated by itself, so that the verdict on a deck is never that of the batch it was in.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from memprop.deck.changes import Change, changes
from memprop.deck.deck import Deck
from memprop.errors import RawFileError, SimulationError, SimulationTimeout, SimulatorKilled
from memprop.spice.process import Finished, Running, check_signal, log_of, run_process, started, wait_until, work_folder
from memprop.spice.raw import parse_raw
from memprop.spice.recording import Recording, make_recording

LARGEST = 25
"""Most decks of one process. Reading the deck, as long as a third of a simulation, is shared by so many."""
_COUNTS = re.compile(rb"^no\. variables:\s*(\d+)\s*?\n.*?^no\. points:\s*(\d+)\s*?\n", re.I | re.M | re.S)


@dataclass(frozen=True, slots=True)
class Written:
    """What a simulator is asked to do in a folder."""

    command: Sequence[str]
    raws: Sequence[str]
    """Raw file of each deck."""
    names: Mapping[str, str]
    """Name in ngspice's raw files, e.g. ``v(x1_col0_mem)``, -> name in these, where they differ."""


@dataclass(frozen=True, slots=True)
class Step:
    """A deck of a batch, and what makes it of the one before."""

    deck: Deck
    changes: Sequence[Change] = ()


class Simulator(Protocol):
    """A program that simulates the decks of a folder."""

    @property
    def name(self) -> str:
        """Name and version."""
        ...

    @property
    def running(self) -> Running:
        """The processes that run now."""
        ...

    def can_change(self, change: Change) -> bool:
        """Return whether the program can make this change between two runs."""
        ...

    def write(self, steps: Sequence[Step], folder: Path) -> Written:
        """Write what simulates the first deck, and after the changes of each further step the next one.

        Raises
        ------
        SimulationError: it cannot be said in the program's language.
        """
        ...

    def check(self, deck: Deck, folder: Path, raw: Path, done: Finished) -> None:
        """Raise a SimulationError if log, status or the lack of ``raw`` tell of a failure."""
        ...


def run_alone(simulator: Simulator, deck: Deck, timeout_s: float) -> Recording:
    """Simulate ``deck`` in a process of its own; the folder is kept, and named, only on failure.

    Raises
    ------
    SimulationError: one of its kinds, see `memprop.errors`.
    """
    with work_folder() as folder:
        written = simulator.write((Step(deck),), folder)
        done = run_process(written.command, folder, timeout_s, deck.title, simulator.running)
        raw = folder / written.raws[0]
        simulator.check(deck, folder, raw, done)
        return _recording(simulator, deck, folder, _bytes(raw, deck), written)


def run_batch(simulator: Simulator, decks: Iterable[Deck], timeout_s: float) -> Iterator[Recording | SimulationError]:
    """Yield what `run_alone` would say of each deck, in order; decks that differ in values share a process, up to ``LARGEST``.

    After ``abort`` of the engine the decks that were read are yielded as SimulatorKilled, and the iterator ends.
    """
    aborts = simulator.running.aborts
    for chunk in chunks(decks, simulator.can_change):
        left = chunk
        while left:
            failed = False
            with contextlib.closing(_session(simulator, left, timeout_s)) as found:
                for result in found:
                    left, failed = left[1:], isinstance(result, SimulationError)
                    yield result
                    if simulator.running.aborts != aborts:
                        break
            if left and simulator.running.aborts == aborts and not failed:
                yield outcome(lambda deck: run_alone(simulator, deck, timeout_s), left[0].deck)
                left = left[1:]
            if simulator.running.aborts != aborts:
                yield from map(_aborted, left)
                return


def _aborted(step: Step) -> SimulatorKilled:
    return SimulatorKilled(step.deck.title, "the engine was told to abort before.", remedy="Run the deck again.")


def outcome(run: Callable[[Deck], Recording], deck: Deck) -> Recording | SimulationError:
    """Return what ``run`` returns or raises: a failure of one deck stops none of the others."""
    try:
        return run(deck)
    except SimulationError as error:
        return error


class _RefusedError(Exception):
    """The batch gives no result for its next deck, which has to be simulated by itself."""


def chunks(decks: Iterable[Deck], can_change: Callable[[Change], bool]) -> Iterator[list[Step]]:
    """Yield lists of decks of which each is the one before with other values."""
    chunk: list[Step] = []
    for deck in decks:
        found = changes(chunk[-1].deck, deck) if chunk else ()
        if found is None or not all(map(can_change, found)):
            yield chunk
            chunk, found = [], ()
        chunk.append(Step(deck, found))
        if len(chunk) == LARGEST:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _session(simulator: Simulator, steps: Sequence[Step], timeout_s: float) -> Generator[Recording | SimulationError]:
    """Yield the results of the first decks from one process. It ends early after a failure, or before a deck that it refuses."""
    if len(steps) < 2:
        return
    try:
        with work_folder() as folder:
            yield from _results(simulator, steps, folder, timeout_s)
    except _RefusedError:
        return
    except SimulationError as error:
        yield error


def _results(simulator: Simulator, steps: Sequence[Step], folder: Path, timeout_s: float) -> Iterator[Recording]:
    try:
        written = simulator.write(steps, folder)
    except SimulationError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise _RefusedError from error
    said = 0
    with started(written.command, folder, simulator.running) as process:
        for step, name in zip(steps, written.raws, strict=True):
            raw = folder / name
            content = _content(process, raw, step.deck, timeout_s)
            log = log_of(folder)
            try:
                simulator.check(step.deck, folder, raw, Finished(0, log[said:]))
                recording = _recording(simulator, step.deck, folder, content, written)
            except SimulationError as error:
                raise _RefusedError from error
            said = len(log)
            raw.unlink()
            yield recording


def _content(process: subprocess.Popen[bytes], raw: Path, deck: Deck, timeout_s: float) -> bytes:
    """Wait for a raw file and return its bytes."""
    if not wait_until(process, lambda: is_whole(raw), timeout_s):
        if process.poll() is None:
            raise SimulationTimeout(deck.title, f"no end after {timeout_s:g} s.", raw.parent)
        check_signal(process.returncode, deck.title, raw.parent)
        raise _RefusedError
    return raw.read_bytes()


def is_whole(raw: Path) -> bool:
    """Return whether a binary raw file of real numbers is there with all the bytes that its header promises."""
    try:
        with raw.open("rb") as file:
            counts = _COUNTS.search(file.read(1024))
            if counts is None:
                return False
            header = os.fstat(file.fileno()).st_size - 8 * int(counts[1]) * int(counts[2])
            file.seek(0)
            return header > 0 and file.read(header).endswith(b"Binary:\n")
    except OSError:
        return False


def _bytes(raw: Path, deck: Deck) -> bytes:
    try:
        return raw.read_bytes()
    except OSError as error:
        reason = f"{raw.name} cannot be read: {error.strerror}."
        raise RawFileError(deck.title, reason, raw.parent, "Check the path and its rights.") from error


def _recording(simulator: Simulator, deck: Deck, folder: Path, content: bytes, written: Written) -> Recording:
    plot = parse_raw(content, deck.title, folder / written.raws[0])[0]
    return make_recording(deck, plot.variables, plot.values, written.names, simulator.name, folder)
