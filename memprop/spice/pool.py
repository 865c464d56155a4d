"""Many decks over several processes. A failing deck stops none of the others."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from memprop.deck.deck import Deck
from memprop.errors import InputError, SimulationError
from memprop.spice.engine import Engine
from memprop.spice.recording import Recording


def run_many(
    engine: Engine, decks: Iterable[Deck], *, workers: int | None = None, timeout_s: float = 600.0
) -> Iterator[tuple[int, Recording | SimulationError]]:
    """Simulate ``decks`` and yield ``(index, result)`` as they finish, in any order.

    Each simulation is a process of its own, so the threads here only wait. ``decks`` may be a generator: only as many as
    are being simulated, and one more for each worker, exist at a time.

    Raises
    ------
    InputError: ``workers`` is below 1.
    """
    count = workers if workers is not None else os.cpu_count() or 1
    if count < 1:
        raise InputError(f"workers = {count}: at least 1 is needed.")
    pending: dict[Future[Recording | SimulationError], int] = {}
    source = enumerate(decks)
    executor = ThreadPoolExecutor(count, thread_name_prefix="memprop-spice")
    try:
        for index, deck in source:
            pending[executor.submit(_run, engine, deck, timeout_s)] = index
            if len(pending) >= 2 * count:
                yield from _finished(pending)
        while pending:
            yield from _finished(pending)
    except BaseException:  # an interrupt, or nobody wants the rest: do not wait for minutes of simulation
        executor.shutdown(wait=False, cancel_futures=True)
        engine.abort()
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def _run(engine: Engine, deck: Deck, timeout_s: float) -> Recording | SimulationError:
    try:
        return engine.run(deck, timeout_s)
    except SimulationError as error:
        return error


def _finished(
    pending: dict[Future[Recording | SimulationError], int],
) -> Iterator[tuple[int, Recording | SimulationError]]:
    done, _ = wait(pending, return_when=FIRST_COMPLETED)
    for future in done:
        yield pending.pop(future), future.result()
