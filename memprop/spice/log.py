"""What a simulator's log says: the kinds of failure, with the line that shows them.

Only these patterns count. ngspice also prints notes and warnings on stderr that are no errors, and exits with 0 after
several of these failures, so neither the exit status nor the mere presence of text decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from memprop.errors import ConvergenceError, DeckError, SimulationError

_KINDS: Sequence[tuple[type[SimulationError], str]] = (
    (ConvergenceError, r"timestep too small|singular matrix|no convergence|iteration limit reached|gmin step.*failed"
                       r"|source stepping failed|doAnalyses:.*(?:failed|not found)|convergence problem"),
    (DeckError, r"circuit not parsed|unknown (?:subckt|parameter|model)|can't find model|undefined parameter|no such function"
                r"|could ?n[o']t find include|too few parameters|fatal error|syntax error|no such parameter|unimplemented dot command"
                r"|mismatch"),
    (DeckError, r"^\s*error\b|simulation interrupted due to error"),
)  # fmt: skip
_HARMLESS = re.compile(
    r"no compatibility mode|unsupported ngspice version|gmin step.*(?:started|successful|completed)|^\s*note:|^\s*warning: dynamic gmin",
    re.IGNORECASE,
)


def failure_in(log: str) -> tuple[type[SimulationError], str] | None:
    """Return the kind of failure and its line, or None when the log holds none. The gravest kind wins, then the first line."""
    lines = [line for line in log.splitlines() if not _HARMLESS.search(line)]
    for kind, pattern in _KINDS:
        for line in lines:
            if re.search(pattern, line, flags=re.IGNORECASE):
                return kind, line.strip()
    return None


def tail(log: str, lines: int = 3) -> str:
    """Return the last non-empty lines of a log on one line."""
    return " | ".join([line.strip() for line in log.splitlines() if line.strip()][-lines:])
