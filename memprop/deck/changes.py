"""What differs between two decks, where it is values of elements only: a simulator can change these without reading again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from memprop.deck.deck import Deck
from memprop.deck.numbers import from_text
from memprop.errors import InputError

_WORDS: Mapping[str, int] = {"r": 4, "c": 4, "l": 4, "v": 4, "i": 4, "e": 6, "g": 6, "f": 5, "h": 5}
"""Number of words of an element whose last word is its value, by letter."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Change:
    """A new value of one element at the top level."""

    element: str
    """Name in lower case; the first letter is its kind."""
    parameter: str
    """Parameter of a subcircuit's instance; empty for the value of any other element."""
    value: str
    """The number, as the deck has it, in SI units."""


def changes(before: Deck, after: Deck) -> tuple[Change, ...] | None:
    """Return the changes of values that make ``after`` of ``before``; None if more than such values differ.

    Values count where they stand at the top level as plain numbers (no suffix): the last word of a resistor, capacitor,
    inductor, source or controlled source, or parameters of an instance. A resistance of zero does not, since simulators
    replace it.
    """
    if not _alike(before, after):
        return None
    found: list[Change] = []
    for file, text in after.files.items():
        if text != before.files[file]:
            changed = _changed_lines(before.files[file], text)
            if changed is None:
                return None
            found += changed
    return tuple(found)


def _alike(one: Deck, other: Deck) -> bool:
    return (
        list(one.files) == list(other.files)
        and (one.analysis, one.nodes, one.branches) == (other.analysis, other.nodes, other.branches)
        and list(one.options.items()) == list(other.options.items())
        and (one.verilog is other.verilog or one.verilog == other.verilog)
    )


def _changed_lines(before: str, after: str) -> list[Change] | None:
    olds, news = before.splitlines(), after.splitlines()
    if len(olds) != len(news):
        return None
    found, depth = [], 0
    for old, new in zip(olds, news, strict=True):
        if new[:1] == ".":
            word = new[:7].lower()
            depth += (word == ".subckt") - word.startswith(".ends")
        if old == new:
            continue
        changed = None if depth else _changed_line(old.lower().split(), new.lower().split())
        if changed is None:
            return None
        found += changed
    return found


def _changed_line(old: list[str], new: list[str]) -> list[Change] | None:
    """Return the changes between the words of two lines."""
    if len(old) != len(new) or not new or not _NAME.fullmatch(new[0]):
        return None
    try:
        return list(_instance(old, new) if new[0][0] == "x" else _value(old, new))
    except InputError:
        return None


def _value(old: list[str], new: list[str]) -> Iterator[Change]:
    kind, value = new[0][0], from_text(new[-1])
    from_text(old[-1])
    if old[:-1] != new[:-1] or len(new) != _WORDS.get(kind) or (kind == "r" and value == 0.0):
        raise InputError(f"{new[0]}: more than a value differs. Run the deck by itself.")
    yield Change(new[0], "", repr(value))


def _instance(old: list[str], new: list[str]) -> Iterator[Change]:
    for one, other in zip(old, new, strict=True):
        if one == other:
            continue
        name, equals, value = other.partition("=")
        before = one.partition("=")
        if not equals or before[0] != name or not _NAME.fullmatch(name):
            raise InputError(f"{new[0]}: '{other}' is no new value of a parameter. Run the deck by itself.")
        from_text(before[2])
        yield Change(new[0], name, repr(from_text(value)))
