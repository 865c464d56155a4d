"""Many decks through one engine: the plain way, one run per deck, which every other way must equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from memprop.deck.deck import Deck
from memprop.errors import SimulationError
from memprop.spice.recording import Recording


def run_singly(
    run: Callable[[Deck, float], Recording], decks: Iterable[Deck], timeout_s: float
) -> Iterator[Recording | SimulationError]:
    """Yield what ``run`` says of each deck, in order; a failure of one deck stops none of the others."""
    for deck in decks:
        try:
            result: Recording | SimulationError = run(deck, timeout_s)
        except SimulationError as error:
            result = error
        yield result
