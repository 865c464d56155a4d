"""Numbers in decks: plain exponents, shortest text that reads back to the same float. Never a suffix: 1M is 1e-3 in SPICE."""

from __future__ import annotations

import math

from memprop.errors import InputError


def to_text(value: float) -> str:
    """Return the text of ``value``; raises InputError for NaN and infinities."""
    if not math.isfinite(value):
        raise InputError(f"{value!r} cannot stand in a deck: it is not finite. Correct the value.")
    return repr(float(value))


def from_text(text: str) -> float:
    """Return the float written by `to_text`; raises InputError for anything with a suffix or unit."""
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"'{text}' is no plain number. Write an exponent (1e-6) instead of a suffix (1u).") from error
    if not math.isfinite(value) or "_" in text:
        raise InputError(f"'{text}' is no plain finite number. Write e.g. 1e-6.")
    return value
