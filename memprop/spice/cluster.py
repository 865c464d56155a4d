"""The workers of a farm on a cluster, through ``dask.distributed``, an extra: ``pip install 'memprop[farm]'``.

Each deck is one task of the cluster, so that the death of a worker costs what it had in hand or had not sent back yet. The cluster
itself runs tasks again whose worker died; what it gives up after several deaths is lost.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from memprop.errors import EngineError, InputError, MempropError
from memprop.spice.engine import Engine
from memprop.spice.farm_worker import Done, Item, make, simulate, to_bytes
from memprop.spice.local import Lost

CONNECT_S = 15.0
"""Longest time that a scheduler may take to answer."""
LOCAL = "local"
FEW = 2
"""Decks per thread that are with the cluster when it wants more, so that none waits."""
_ENGINES: dict[bytes, Engine] = {}
"""Engines of this process, where it is a worker of a cluster."""


def work(recipe: bytes, content: bytes, timeout_s: float) -> bytes:
    """Simulate an item in a worker of the cluster."""
    if recipe not in _ENGINES:
        _ENGINES[recipe] = make(recipe)
    item = pickle.loads(content)  # noqa: S301 - from the farm, which the cluster trusts with any code
    (done,) = simulate(_ENGINES[recipe], [item], timeout_s)
    return pickle.dumps(done, protocol=5)


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
        self._flying: dict[Any, int] = {}
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
        """Return whether the cluster wants more decks."""
        return len(self._flying) < FEW * self.count

    def submit(self, items: Sequence[Item]) -> None:
        """Give a batch to the cluster, as one task per item."""
        for item in items:
            content = to_bytes(item, "a deck or its reducing function")
            future = self._client.submit(work, self._recipe, content, self._timeout_s, pure=False)
            self._flying[future] = item.number

    def wait(self) -> Iterator[Done | Lost]:
        """Wait until something is done, and yield it.

        Raises
        ------
        EngineError: the cluster is gone, or its workers have no engine or cannot work.
        """
        with suppress(TimeoutError):
            self._distributed.wait(list(self._flying), timeout=5.0, return_when="FIRST_COMPLETED")
        if self._client.status != "running":
            raise EngineError("the dask cluster is gone. Results until now are kept; start it again and run the same.")
        self._threads = self._counted()  # a cluster grows and shrinks
        for future in [future for future in self._flying if future.done()]:
            yield self._result(future, self._flying.pop(future))

    def _result(self, future: Any, number: int) -> Done | Lost:
        if future.status == "finished":
            return pickle.loads(future.result())  # noqa: S301 - from the cluster, which the user trusts
        error = future.exception() if future.status == "error" else None
        if error is None or isinstance(error, self._distributed.KilledWorker):
            return Lost(number, "the worker of the cluster died.", ())
        if isinstance(error, MempropError):
            raise error
        raise EngineError(
            f"worker of the cluster: {type(error).__name__}: {error}. Check that the workers have the same packages as this machine."
        ) from error

    def stop(self) -> Iterator[Done]:
        """Give up what runs; yield what was finished before."""
        for future in list(self._flying):
            if future.status == "finished":
                yield pickle.loads(future.result())  # noqa: S301
        with suppress(Exception):
            self._client.cancel(list(self._flying), force=True)
        self._flying.clear()

    def close(self) -> None:
        """Leave the cluster; one of this machine ends."""
        self._client.close()
        if self._cluster is not None:
            self._cluster.close()
