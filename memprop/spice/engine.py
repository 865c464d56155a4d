"""The protocol of engines, and the registry of those that memprop has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from memprop.deck.deck import Deck
from memprop.errors import EngineError, SimulationError
from memprop.spice.ngspice import NgspiceEngine, osdi_engine
from memprop.spice.recording import Recording
from memprop.spice.shared import SharedEngine
from memprop.spice.vacask import VacaskEngine


class Engine(Protocol):
    """Something that simulates decks. Safe to call from several threads; ``close`` ends its helpers."""

    @property
    def name(self) -> str:
        """Name and version."""
        ...

    def run(self, deck: Deck, timeout_s: float = 600.0) -> Recording:
        """Simulate ``deck``; raise a SimulationError rather than return a doubtful result."""
        ...

    def run_batch(self, decks: Iterable[Deck], timeout_s: float = 600.0) -> Iterator[Recording | SimulationError]:
        """Simulate decks one after the other; yield one result per deck, in order, each as soon as it is there.

        ``timeout_s`` is the limit of each deck. Decks that differ only in values of elements at the top level share a process and
        a parse, see `memprop.deck.changes`, where the engine can change them; any other deck has a process of its own. The
        results are those of single runs, up to the rounding of sums. ``decks`` is read as far as one process needs, 25 decks at
        most. A failure is yielded in place of the recording and stops none of the others; who fails in company is simulated
        alone before that is said of it, but for a timeout and a killed process, which cost the deck in hand. Closing the
        iterator ends the process. After ``abort`` the decks in hand are failures, and the iterator ends.
        """
        ...

    def abort(self) -> None:
        """Kill the simulations that run now."""
        ...

    def close(self) -> None:
        """End helper processes."""
        ...


@dataclass(frozen=True, slots=True)
class Kind:
    """An engine and what it can do."""

    make: Callable[[], Engine]
    about: str
    osdi: bool


ENGINES: Mapping[str, Kind] = {
    "ngspice": Kind(NgspiceEngine, "ngspice as a program, one process per deck or batch", osdi=False),
    "ngspice-shared": Kind(SharedEngine, "libngspice through PySpice, in recycled helper processes", osdi=False),
    "ngspice-osdi": Kind(osdi_engine, "ngspice with compiled Verilog-A, one process per deck or batch", osdi=True),
    "vacask": Kind(VacaskEngine, "VACASK, one process per deck or batch", osdi=True),
}


def make_engine(name: str) -> Engine:
    """Return an engine by name.

    Raises
    ------
    EngineError: unknown name, or the simulator is missing or too old.
    """
    if name not in ENGINES:
        raise EngineError(f"unknown engine '{name}'. Known: {', '.join(ENGINES)}.")
    return ENGINES[name].make()
