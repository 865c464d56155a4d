"""The work of a farm's worker: simulate a batch of decks and reduce each recording; and the program that a local worker is.

Nothing here imports torch: a worker is ready in less than a second.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import fields, is_dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memprop.deck.deck import Deck
from memprop.errors import EngineError, InputError, MempropError, ReductionError, SimulationError

if TYPE_CHECKING:  # a worker starts faster without; unpickling its engine imports that engine alone
    from memprop.spice.engine import Engine
    from memprop.spice.recording import Recording

MARK = "MEMPROP_FARM_WORKER"
"""Environment variable that a worker and its simulators share."""
Reduce = Callable[["Recording"], dict[str, NDArray[Any]]]
"""Makes a few small arrays of a recording; a function of a module, or an object that can be pickled."""


class Item(NamedTuple):
    """One deck to simulate."""

    number: int
    deck: Deck
    reduce: Reduce


class Done(NamedTuple):
    """What became of an item; either ``arrays`` or ``error`` is there."""

    number: int
    arrays: dict[str, NDArray[Any]] | None
    error: SimulationError | None
    seconds: float
    """Wall time of simulation and reduction, in s."""


def describe(engine: Engine) -> bytes:
    """Return how a worker makes an engine like ``engine``: its type and its public fields.

    Raises
    ------
    InputError: it cannot be sent to another process.
    """
    recipe: object = engine
    if is_dataclass(engine):  # private fields are locks and running processes
        public = {f.name: getattr(engine, f.name) for f in fields(engine) if f.init and not f.name.startswith("_")}
        recipe = (type(engine), public)
    return to_bytes(recipe, f"engine {engine.name}")


def make(recipe: bytes) -> Engine:
    """Return the engine that ``describe`` described."""
    found = pickle.loads(recipe)  # noqa: S301 - from the process that started this one
    return found[0](**found[1]) if isinstance(found, tuple) else found


def to_bytes(thing: object, what: str) -> bytes:
    """Return ``thing`` as bytes for a worker.

    Raises
    ------
    InputError: it cannot be pickled, or stands in the main script, which workers do not run.
    """
    try:
        content = pickle.dumps(thing, protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise InputError(
            f"{what} cannot be sent to a worker process ({error}). Use a function or class at the top level of a module."
        ) from error
    if b"__main__" in content:
        raise InputError(
            f"{what} is defined in the main script, which worker processes do not run. Put it into a module of its own and import it."
        )
    return content


def simulate(engine: Engine, items: Sequence[Item], timeout_s: float) -> Iterator[Done]:
    """Simulate and reduce ``items``, in order; one that fails stops none of the others.

    Raises
    ------
    MempropError: no failure of a simulation, such as a missing engine.
    """
    start = time.perf_counter()
    with closing(_results(engine, [item.deck for item in items], timeout_s)) as results:
        for item, result in zip(items, results, strict=True):
            arrays, error = _reduced(item, result)
            now = time.perf_counter()
            yield Done(item.number, arrays, error, now - start)
            start = time.perf_counter()


def _results(
    engine: Engine, decks: Sequence[Deck], timeout_s: float
) -> Generator[Recording | SimulationError, None, None]:
    """Yield one result per deck; an engine that can keeps its simulator over the batch."""
    batch = getattr(engine, "run_batch", None)
    if batch is not None:
        yield from batch(decks, timeout_s)
        return
    for deck in decks:
        try:
            yield engine.run(deck, timeout_s)
        except SimulationError as error:
            yield error


def _reduced(
    item: Item, result: Recording | SimulationError
) -> tuple[dict[str, NDArray[Any]] | None, SimulationError | None]:
    if isinstance(result, SimulationError):
        return None, result
    try:
        arrays = item.reduce(result)
    except Exception as error:
        return None, ReductionError(item.deck.title, f"the reducing function raised {type(error).__name__}: {error}.")
    if wrong := _wrong(arrays):
        return None, ReductionError(
            item.deck.title, f"the reducing function returned {wrong}; it must return arrays of numbers by name."
        )
    return arrays, None


def _wrong(arrays: Any) -> str:
    """Return in words what cannot be kept of a reduction; nothing where all can."""
    if not isinstance(arrays, dict):
        return f"a {type(arrays).__name__}"
    odd = [f"{name!r}: {type(value).__name__}" for name, value in arrays.items() if not _is_array(name, value)]
    return ", ".join(odd)


def _is_array(name: Any, value: Any) -> bool:
    return isinstance(name, str) and np.asarray(value).dtype.kind in "biufc"


def main(number: str) -> None:
    """Serve the farm at the other end of socket ``number`` until it closes."""
    line = Connection(int(number))
    batches: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    try:
        recipe, timeout_s = line.recv()
        engine = make(recipe)
        line.send(None)  # ready
    except MempropError as error:
        line.send(error)
        return
    threading.Thread(target=_listen, args=(line, batches, engine), daemon=True).start()
    while True:
        try:
            items = pickle.loads(batches.get())  # noqa: S301 - from the process that started this one
            for done in simulate(engine, items, timeout_s):
                _send(line, done)
        except Exception as error:
            _send(
                line,
                error if isinstance(error, MempropError) else EngineError(f"worker: {type(error).__name__}: {error}"),
            )


def _send(line: Connection, thing: Done | MempropError) -> None:
    content = pickle.dumps(thing, protocol=5)
    try:
        line.send_bytes(content)
    except OSError:  # the farm is gone; the listener ends this process
        threading.Event().wait()


def _listen(line: Connection, batches: queue.SimpleQueue[bytes], engine: Engine) -> None:
    """Take batches while others are simulated; at the end of the farm, however it came, end simulators and this process."""
    with suppress(EOFError, OSError):
        while True:
            batches.put(line.recv_bytes())
    with suppress(Exception):
        engine.close()
    kill_marked(os.environ.get(MARK, ""))
    os._exit(0)


def kill_marked(mark: str) -> None:
    """Kill all processes but this one whose environment has ``MEMPROP_FARM_WORKER=mark``: the simulators of a worker.

    They are in sessions of their own, and a worker that was killed could not end them. Does nothing where there is no ``/proc``.
    """
    wanted = f"{MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*") if mark else ():
        with suppress(OSError):  # it ended, or belongs to somebody else
            if wanted in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                os.kill(int(folder.name), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
