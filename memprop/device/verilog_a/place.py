"""Places in source files, and the errors that name one."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from memprop.errors import VerilogError


class Place(NamedTuple):
    """File, line and column, both counted from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        """Return ``file:line:column``, which editors and terminals follow."""
        return f"{self.file}:{self.line}:{self.column}"


class TooLargeError(VerilogError):
    """A text asks for more work, depth or room than any device model needs; never put aside for later."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of expanded text that comes from one run, or one macro use, of a file."""

    start: int
    place: Place
    fixed: bool
    """The text comes out of a macro: every character of it belongs to the place of its use."""


@dataclass(frozen=True)
class Expanded:
    """Preprocessed text that knows where each of its characters stood."""

    text: str
    pieces: tuple[Piece, ...]

    @cached_property
    def _breaks(self) -> list[int]:
        """Positions of the line breaks of the text."""
        return [match.start() for match in re.finditer("\n", self.text)]

    def place(self, position: int) -> Place:
        """Return where the character at ``position`` of the text comes from."""
        if not self.pieces:
            return Place("", 1, 1)
        piece = self.pieces[max(bisect_right(self.pieces, position, key=lambda p: p.start) - 1, 0)]
        if piece.fixed:
            return piece.place
        first, last = bisect_left(self._breaks, piece.start), bisect_left(self._breaks, position)
        if first == last:
            return Place(piece.place.file, piece.place.line, piece.place.column + position - piece.start)
        return Place(piece.place.file, piece.place.line + last - first, position - self._breaks[last - 1])


def refuse(place: Place, what: str, remedy: str) -> VerilogError:
    """Return the error of a source text: where, what, and what to write instead."""
    return VerilogError(f"{place}: {_shortened(what)}. {_closed(_shortened(remedy))}")


def too_large(place: Place, what: str, remedy: str) -> TooLargeError:
    """Return the error of a text that asks for too much: where, what, and what to write instead."""
    return TooLargeError(f"{place}: {_shortened(what)}. {_closed(_shortened(remedy))}")


def _shortened(text: str, longest: int = 400) -> str:
    return text if len(text) <= longest else f"{text[:longest]} ..."


def _closed(sentence: str) -> str:
    return sentence if sentence.endswith(".") else f"{sentence}."
