"""What a simulator's log says: the kinds of failure, with the line that shows them.

Only these patterns count. ngspice also prints notes and warnings on stderr that are no errors, and exits with 0 after
several of these failures, so neither the exit status nor the mere presence of text decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from memprop.deck.deck import Deck
from memprop.errors import ConvergenceError, DeckError, MissingNode, SimulationError

Kinds = Sequence[tuple[type[SimulationError], str]]

_FATAL: Kinds = (
    (MissingNode, r"no data saved for"),
    (ConvergenceError, r"timestep too small|singular matrix|doAnalyses:|run simulation\(s\) aborted|iteration limit reached"),
    (DeckError, r"circuit not parsed|unknown (?:subckt|parameter|model)|can't find model|undefined parameter|no such function"
                r"|could ?n[o']t find include|too few parameters|fatal error|syntax error|no such parameter"
                r"|unimplemented dot command"),
    (DeckError, r"^\s*error\b|simulation interrupted due to error"),
)  # fmt: skip
_SUSPICIOUS: Kinds = ((ConvergenceError, r"gmin step.*failed|source stepping failed|no convergence"),)
"""What explains missing output, and is harmless where the output is there: the next way to the operating point worked."""
_NO_FAILURE = re.compile(r"^\s*circuit:|no compatibility mode|unsupported ngspice version|^\s*note:", re.IGNORECASE)


def failure_in(log: str) -> tuple[type[SimulationError], str] | None:
    """Return the kind of failure and its line, or None when the log holds none. The gravest kind wins, then the first line."""
    return _search(log, _FATAL)


def explanation_in(log: str) -> tuple[type[SimulationError], str] | None:
    """Return what may explain that output is missing: a failure, or a warning that is harmless otherwise."""
    return _search(log, _FATAL) or _search(log, _SUSPICIOUS)


def _search(log: str, kinds: Kinds) -> tuple[type[SimulationError], str] | None:
    lines = [line for line in log.splitlines() if not _NO_FAILURE.search(line)]
    for kind, pattern in kinds:
        for line in lines:
            if re.search(pattern, line, flags=re.IGNORECASE):
                return kind, line.strip()
    return None


def asked(deck: Deck, kind: type[SimulationError]) -> str:
    """Return the end of the sentence: for a missing node, which ones were asked."""
    return f"; asked were {', '.join((*deck.nodes, *deck.branches)[:5])}." if kind is MissingNode else "."


def tail(log: str, lines: int = 3) -> str:
    """Return the last non-empty lines of a log on one line."""
    return " | ".join([line.strip() for line in log.splitlines() if line.strip()][-lines:])
