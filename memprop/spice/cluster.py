"""The workers of a farm on a cluster, through ``dask.distributed``, an extra: ``pip install 'memprop[farm]'``.

A batch is one task of the cluster, and its results come together. If a worker of the cluster dies, its batch is run again.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from memprop.errors import EngineError, InputError
from memprop.spice.engine import Engine
from memprop.spice.farm_worker import Done, Item, make, simulate, to_bytes
from memprop.spice.local import Lost

CONNECT_S = 15.0
"""Longest time that a scheduler may take to answer."""
LOCAL = "local"
_ENGINES: dict[bytes, Engine] = {}
"""Engines of this process, where it is a worker of a cluster."""


def work(recipe: bytes, content: bytes, timeout_s: float) -> bytes:
    """Simulate a batch in a worker of the cluster."""
    if recipe not in _ENGINES:
        _ENGINES[recipe] = make(recipe)
    items = pickle.loads(content)  # noqa: S301 - from the farm, which the cluster trusts with any code
    return pickle.dumps(list(simulate(_ENGINES[recipe], items, timeout_s)), protocol=5)


class ClusterWorkers:
    """Workers of a dask cluster: one of this machine, or one at the address of a scheduler.

    Raises
    ------
    InputError: dask.distributed is not installed.
    EngineError: the scheduler does not answer, or has no workers.
    """

    def __init__(self, recipe: bytes, count: int, timeout_s: float, address: str) -> None:
        try:
            import distributed  # noqa: PLC0415
        except ImportError as error:
            raise InputError(
                "a cluster needs dask.distributed, which is not installed. Install it: pip install 'memprop[farm]', or "
                "leave out --cluster."
            ) from error
        self._recipe, self._timeout_s, self._cluster = recipe, timeout_s, None
        if address == LOCAL:
            self._cluster = distributed.LocalCluster(
                n_workers=count, threads_per_worker=1, processes=True, dashboard_address="", silence_logs=50
            )
        try:
            self._client = distributed.Client(self._cluster or address, timeout=CONNECT_S)
        except (OSError, ValueError, TimeoutError) as error:
            raise EngineError(
                f"no dask scheduler answers at '{address}' ({error or type(error).__name__}). Start one with `dask scheduler`, check "
                "the address, e.g. tcp://host:8786, or give 'local'."
            ) from error
        self._flying: dict[Any, tuple[int, ...]] = {}
        self._distributed: Any = distributed
        self._threads = self._counted()

    @property
    def count(self) -> int:
        """Number of threads of the cluster, at least 1."""
        return self._threads

    def _counted(self) -> int:
        threads: Any = self._client.nthreads()
        return max(1, sum(threads.values()))

    def hungry(self) -> bool:
        """Return whether the cluster wants a batch: two per worker are there, so that none waits."""
        return len(self._flying) < 2 * self.count

    def submit(self, items: Sequence[Item]) -> None:
        """Give a batch to the cluster."""
        content = to_bytes(list(items), "a deck or its reducing function")
        future = self._client.submit(work, self._recipe, content, self._timeout_s, pure=False)
        self._flying[future] = tuple(item.number for item in items)

    def wait(self) -> Iterator[Done | Lost]:
        """Wait until a batch is done, and yield its results.

        Raises
        ------
        EngineError: the cluster is gone, or its workers have no engine.
        """
        with suppress(TimeoutError):
            self._distributed.wait(list(self._flying), timeout=5.0, return_when="FIRST_COMPLETED")
        if self._client.status != "running":
            raise EngineError("the dask cluster is gone. Results until now are kept; start it again and run the same.")
        self._threads = self._counted()  # a cluster grows and shrinks
        for future in [future for future in self._flying if future.done()]:
            numbers = self._flying.pop(future)
            yield from self._results(future, numbers)

    def _results(self, future: Any, numbers: tuple[int, ...]) -> Iterator[Done | Lost]:
        if future.status == "finished":
            yield from pickle.loads(future.result())  # noqa: S301 - from the cluster, which the user trusts
            return
        error = future.exception() if future.status == "error" else None
        if error is not None and not isinstance(error, self._distributed.KilledWorker):
            raise error
        # which deck of several was in hand is not known: each is tried alone
        blamed = numbers[0] if len(numbers) == 1 else None
        yield Lost(blamed, "the worker of the cluster died.", () if len(numbers) == 1 else numbers)

    def stop(self) -> Iterator[Done]:
        """Give up what runs; yield what was finished before."""
        for future in list(self._flying):
            if future.status == "finished":
                yield from pickle.loads(future.result())  # noqa: S301
        with suppress(Exception):
            self._client.cancel(list(self._flying), force=True)
        self._flying.clear()

    def close(self) -> None:
        """Leave the cluster; one of this machine ends."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()
