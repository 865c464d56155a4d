"""A farm: simulate thousands of decks with many workers, keep every result, and never do the same twice.

    with Farm("ngspice", cache=Path("runs/mine")) as farm:
        for outcome in farm.run(decks, reduce):
            ...

Decks may come from a generator; only a few per worker exist at a time. Results come one by one, in any order. A deck that
fails stops none of the others. What is finished is in the cache before it is handed out, so an interrupt loses only what is
in hand, and the same call goes on from there.
"""

from __future__ import annotations

import inspect
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memprop.deck.deck import Deck
from memprop.errors import DeckError, InputError, RawFileError, SimulationError, SimulationTimeout, SimulatorKilled
from memprop.files import sha256
from memprop.spice.cache import ResultCache
from memprop.spice.engine import Engine, make_engine
from memprop.spice.farm_worker import Done, Item, Reduce, describe, to_bytes
from memprop.spice.local import LocalWorkers, Lost

BATCH = 25
"""Largest number of decks that a worker takes at a time."""
CHANCE = (SimulatorKilled, SimulationTimeout, RawFileError)
"""Failures that another try may not have; all others belong to the deck."""


@dataclass(frozen=True, slots=True)
class Job:
    """A deck that is made only if its result is not kept already."""

    key: str
    """All that decides the result, but engine and versions: e.g. a hash of netlist, input, options and reduction."""
    deck: Callable[[], Deck]
    reduce: Reduce
    needs: tuple[str, ...] = ()
    """Arrays that a kept result must have; one without them is made anew."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a deck; either ``result`` or ``error`` is there."""

    index: int
    """Position of the deck, from 0."""
    result: dict[str, NDArray[Any]] | None
    error: SimulationError | None
    cached: bool
    seconds: float
    """Wall time in the worker, in s; of a kept result, that of the run that made it."""
    retries: tuple[str, ...] = ()
    """Why earlier tries counted for nothing."""


class Workers(Protocol):
    """Where decks are simulated."""

    @property
    def count(self) -> int:
        """Number of workers."""
        ...

    def hungry(self) -> bool:
        """Return whether a worker wants a batch."""
        ...

    def submit(self, items: Sequence[Item]) -> None:
        """Give a batch to a worker."""
        ...

    def wait(self) -> Iterator[Done | Lost]:
        """Wait until something happens, and yield it."""
        ...

    def stop(self) -> Iterator[Done]:
        """Give up what runs; yield what was finished before."""
        ...

    def close(self) -> None:
        """End the workers."""
        ...


@dataclass(slots=True)
class _Task:
    """A job on its way."""

    index: int
    key: bytes
    deck: Deck
    reduce: Reduce
    retries: list[str] = field(default_factory=list)
    alone: bool = False
    """Whether it goes to a worker by itself, because it may be what killed one."""


class Farm:
    """Workers and a cache. Use it in a ``with`` statement; it can run many times.

    Parameters
    ----------
    engine: name of an engine, or an engine; workers make one of the same type with the same public fields.
    workers: number of worker processes; default one per core. With an address in ``cluster`` the cluster decides.
    cluster: None for processes of this machine; ``"local"`` for a dask cluster on this machine; else the address of a dask scheduler.
    cache: folder that keeps the results, or None.
    retries: further tries of a deck whose simulator or worker was killed or timed out.
    batch: largest number of decks that a worker takes at a time.
    timeout_s: seconds allowed per simulation.

    Raises
    ------
    InputError: a number makes no sense, or the engine cannot be sent to a worker.
    EngineError: the engine is unknown or missing.
    """

    def __init__(
        self, engine: str | Engine, workers: int | None = None, cluster: str | None = None, cache: Path | None = None, *,
        retries: int = 1, batch: int = BATCH, timeout_s: float = 600.0,
    ) -> None:  # fmt: skip
        _check(workers, retries, batch, timeout_s)
        self.engine: Engine = make_engine(engine) if isinstance(engine, str) else engine
        self._own = self.engine if isinstance(engine, str) else None
        self._recipe = describe(self.engine)
        self._count, self._cluster, self._retries, self._batch = workers or cores(), cluster, retries, batch
        self._timeout_s = timeout_s
        self._prefix = f"{version('memprop')} {self.engine.name}"
        self._workers: Workers | None = None
        self.cache = None if cache is None else ResultCache(cache)

    def __enter__(self) -> Farm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End workers and simulators, and close the cache."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None
        if self._own is not None:
            self._own.close()
        if self.cache is not None:
            self.cache.close()

    def run(self, decks: Iterable[Deck | Job], reduce: Reduce | None = None) -> Generator[Outcome, None, None]:
        """Yield an outcome for each deck, in any order: first those that are kept, as far as the decks were looked at.

        ``reduce`` makes of each recording the arrays that are kept; jobs bring their own. Close the generator where you may leave
        it early (`contextlib.closing`): it then ends what runs, and keeps what was finished.

        Raises
        ------
        InputError: ``reduce`` is missing or cannot be sent to a worker.
        EngineError: the engine or the cluster is gone.
        OutputError: the cache cannot be written.
        """
        run = _Run(self, decks, reduce)
        finished = False
        try:
            yield from run.outcomes()
            finished = True
        finally:
            if not finished and self._workers is not None:  # an interrupt, or nobody wants the rest
                for done in self._workers.stop():
                    run.keep(done)
                self._workers.close()
                self._workers = None

    def full_key(self, key: str) -> bytes:
        """Return the key of a result in the cache: that of a job, with engine and versions."""
        return bytes.fromhex(sha256(f"{self._prefix} {key}"))[:16]

    @property
    def workers(self) -> Workers:
        """The workers; they are started with the first deck that must be simulated."""
        if self._workers is None:
            self._workers = self._started()
        return self._workers

    def _started(self) -> Workers:
        if self._cluster is None:
            return LocalWorkers(self._recipe, self._count, self._timeout_s)
        from memprop.spice.cluster import ClusterWorkers  # noqa: PLC0415 - an extra

        return ClusterWorkers(self._recipe, self._count, self._timeout_s, self._cluster)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _source(reduce: Reduce) -> bytes:
    """Return the text of a plain function: pickle knows its name only, and another text is another result."""
    try:
        return inspect.getsource(reduce).encode() if inspect.isfunction(reduce) else b""
    except OSError:  # made at run time
        return b""


def _check(workers: int | None, retries: int, batch: int, timeout_s: float) -> None:
    for name, value, least in (("workers", workers, 1), ("retries", retries, 0), ("batch", batch, 1)):
        if value is not None and value < least:
            raise InputError(f"{name} = {value}: at least {least} is needed.")
    if not 0.0 < timeout_s < np.inf:
        raise InputError(f"timeout_s = {timeout_s!r} s must be finite and positive.")


class _Run:
    """One pass over decks."""

    def __init__(self, farm: Farm, decks: Iterable[Deck | Job], reduce: Reduce | None) -> None:
        self.farm, self.source = farm, enumerate(self._jobs(decks, reduce))
        self.waiting: deque[_Task] = deque()
        self.flying: dict[int, _Task] = {}
        self.size, self.more = 1, True

    def _jobs(self, decks: Iterable[Deck | Job], reduce: Reduce | None) -> Iterator[Job]:
        label = sha256(to_bytes(reduce, "the reducing function") + _source(reduce)) if reduce is not None else ""
        for deck in decks:
            if isinstance(deck, Job):
                yield deck
            elif reduce is None:
                raise InputError(
                    f"deck '{deck.title}' came without a reducing function. Give one to run, or wrap it in a Job."
                )
            else:
                yield Job(f"{deck.digest} {label}", lambda deck=deck: deck, reduce)

    def outcomes(self) -> Iterator[Outcome]:
        while True:
            yield from self._fill()
            if not self.flying:
                return
            for event in self.farm.workers.wait():
                yield from self._lost(event) if isinstance(event, Lost) else self._done(event)

    def _fill(self) -> Iterator[Outcome]:
        """Give batches to all workers that want one; yield the results that are kept.

        Batches grow to their full size, so that few decks are shared fairly, and shrink at the end, so that all end together.
        """
        yield from self._look(1)
        while self.waiting and self.farm.workers.hungry():
            count = self.farm.workers.count
            yield from self._look(count * self.size)
            share = 1 if self.waiting[0].alone else max(1, min(self.size, -(-len(self.waiting) // count)))
            tasks = [self.waiting.popleft() for _ in range(min(share, len(self.waiting)))]
            self.flying |= {task.index: task for task in tasks}
            self.farm.workers.submit([Item(task.index, task.deck, task.reduce) for task in tasks])
            self.size = min(2 * self.size, self.farm._batch)
            yield from self._look(1)

    def _look(self, enough: int) -> Iterator[Outcome]:
        """Take jobs until ``enough`` wait; yield the results that are kept."""
        while self.more and len(self.waiting) < enough:
            index, job = next(self.source, (0, None))
            if job is None:
                self.more = False
                return
            key = self.farm.full_key(job.key)
            kept = None if self.farm.cache is None else self.farm.cache.get(key)
            if kept is not None and all(name in kept.arrays for name in job.needs):
                yield Outcome(index, kept.arrays, None, True, kept.seconds)
                continue
            try:
                deck = job.deck()
            except InputError as error:  # one bad image or value stops none of the others
                yield Outcome(index, None, DeckError(f"deck {index}", str(error)), False, 0.0)
            else:
                self.waiting.append(_Task(index, key, deck, job.reduce))

    def keep(self, done: Done) -> _Task:
        """Put a result into the cache; return its task."""
        task = self.flying.pop(done.number)
        if self.farm.cache is not None and done.arrays is not None:
            self.farm.cache.put(task.key, done.arrays, done.seconds)
        return task

    def _done(self, done: Done) -> Iterator[Outcome]:
        if isinstance(done.error, CHANCE):
            yield from self._failed(done.number, done.error, done.error.reason, done.seconds)
        else:
            task = self.keep(done)
            yield Outcome(task.index, done.arrays, done.error, False, done.seconds, tuple(task.retries))

    def _lost(self, lost: Lost) -> Iterator[Outcome]:
        for number in reversed(lost.waiting):
            self.waiting.appendleft(self.flying.pop(number))
            self.waiting[0].alone |= lost.blamed is None and not lost.innocent
        if lost.blamed is not None:
            error = SimulatorKilled(self.flying[lost.blamed].deck.title, lost.reason)
            yield from self._failed(lost.blamed, error, lost.reason, 0.0)

    def _failed(self, number: int, error: SimulationError, reason: str, seconds: float) -> Iterator[Outcome]:
        """Try a task again, or give it up."""
        task = self.flying.pop(number)
        if len(task.retries) < self.farm._retries:
            task.retries.append(reason)
            self.waiting.appendleft(task)
        else:
            yield Outcome(task.index, None, error, False, seconds, tuple(task.retries))
