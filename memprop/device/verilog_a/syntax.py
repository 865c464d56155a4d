"""Verilog-A text -> syntax tree, with attributes set aside, and limits on what is read at all."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, Tree
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken

from memprop.device.verilog_a.place import Expanded, Place, refuse, too_large

Node = Any
"""A piece of the syntax tree: a tree, a token, or None for what was left out."""
_TOKENS = 150_000
_DEPTH = 120
_OPEN = re.compile(r'\(\*(?=\s*[A-Za-z_])|"(?:\\.|[^"\\\n])*"?')
_CLOSE = re.compile(r'\*\)|"(?:\\.|[^"\\\n])*"?')
_SETTING = re.compile(r'([A-Za-z_]\w*)\s*(?:=\s*("(?:\\.|[^"\\\n])*"|[^\s,"]+))?')
_WORD = re.compile(r"\w+|[^\w\s]")
_CHAINS = {"add", "sub", "mul", "div", "or_", "and_"}
"""Operators whose left operand is read in a loop, so that long sums are not deep."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """Attributes in one pair of ``(* *)``, and where they stood."""

    start: int
    end: int
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Syntax:
    """A file: its text, its tree, its attributes in order."""

    source: Expanded
    tree: Tree[Token]
    attributes: Sequence[Attribute]

    def place(self, node: Node) -> Place:
        """Return where a piece of the tree stands."""
        return self.source.place(start_of(node))

    def attributes_of(self, declaration: Node, item: Node) -> dict[str, str]:
        """Return the attributes before a declaration and after one item of it, before its comma or semicolon."""
        found: dict[str, str] = {}
        text, start, end = self.source.text, start_of(declaration), item.meta.end_pos
        index = bisect_left(self.attributes, start, key=lambda a: a.start)
        while index > 0 and not text[self.attributes[index - 1].end : start].strip():
            index -= 1
            found = {**self.attributes[index].values, **found}
            start = self.attributes[index].start
        index = bisect_left(self.attributes, end, key=lambda a: a.start)
        while index < len(self.attributes) and not text[end : self.attributes[index].start].strip():
            found |= self.attributes[index].values
            end = self.attributes[index].end
            index += 1
        return found


def start_of(node: Node) -> int:
    """Return the position at which a piece of the tree begins."""
    return (node.start_pos if isinstance(node, Token) else getattr(node.meta, "start_pos", 0)) or 0


def parts(node: Node) -> list[Node]:
    """Return the children that are there."""
    return [child for child in node.children if child is not None]


@cache
def _grammar() -> Lark:
    text = Path(__file__).with_name("grammar.lark").read_text(encoding="utf-8")
    return Lark(text, parser="lalr", propagate_positions=True, maybe_placeholders=True)


def parse(source: Expanded) -> Syntax:
    """Return the syntax of preprocessed text.

    Raises
    ------
    VerilogError: a token cannot stand where it stands, or the text is larger or nested deeper than any model.
    """
    for count, match in enumerate(_WORD.finditer(source.text)):
        if count == _TOKENS:
            raise too_large(source.place(match.start()), f"a file of more than {_TOKENS} words", "Split it")
    plain, attributes = _without_attributes(source)
    try:
        tree = _grammar().parse(plain)
    except UnexpectedInput as error:
        raise _syntax_error(source, plain, error) from None
    syntax = Syntax(source, tree, attributes)
    _check_depth(syntax)
    return syntax


def _without_attributes(source: Expanded) -> tuple[str, list[Attribute]]:
    """Return the text with attributes turned to blanks, and the attributes; so they may stand everywhere."""
    text, pieces, found, position = source.text, [], [], 0
    start = 0
    while opening := _OPEN.search(text, position):
        position = opening.end()
        if opening[0] != "(*":
            continue
        closing = _CLOSE.search(text, position)
        while closing and closing[0] != "*)":
            closing = _CLOSE.search(text, closing.end())
        if closing is None:
            raise refuse(source.place(opening.start()), "an attribute (* that is not closed", "Add the *)")
        inner = text[position : closing.start()]
        values = {m[1]: (m[2] or "").strip('"') for m in _SETTING.finditer(inner)}
        found.append(Attribute(opening.start(), closing.end(), values))
        pieces += [text[start : opening.start()], re.sub(r"[^\n]", " ", text[opening.start() : closing.end()])]
        start = position = closing.end()
    return "".join([*pieces, text[start:]]), found


def _syntax_error(source: Expanded, text: str, error: UnexpectedInput) -> Exception:
    position = error.pos_in_stream if error.pos_in_stream is not None else len(text)
    if isinstance(error, UnexpectedEOF) or (isinstance(error, UnexpectedToken) and error.token.type == "$END"):
        position = len(text.rstrip())
        return refuse(
            source.place(max(position - 1, 0)), "the file ends too early", "Close what is open: end, endmodule"
        )
    if isinstance(error, UnexpectedToken):
        return refuse(
            source.place(position),
            f"'{str(error.token)[:40]}' cannot stand here",
            _hint(text, position, str(error.token)),
        )
    word = text[position] if isinstance(error, UnexpectedCharacters) else ""
    return refuse(source.place(position), f"'{word}' cannot stand here", _hint(text, position, word))


HINTS = {
    "#": "Declare parameters in the module, and write no instances of other modules",
    "defparam": "Set parameters where the device is used",
    "generate": "Write the statements out",
    "initial": "Write analog initial, or give variables values in the analog block",
    "always": "Write an analog block; digital blocks are not read",
    "assign": "Write an analog block; digital assignments are not read",
    "else": "An if before it has no begin ... end, or a semicolon too many",
    "analog": "Close the block before it, and keep functions inside of a module",
}
_LETTERS = {"P": "e15", "E": "e18", "h": "e2", "D": "e1", "d": "e-1", "c": "e-2", "A": "e-18"}


def _hint(text: str, position: int, word: str) -> str:
    before = text[:position].rstrip()
    if word in HINTS:
        return HINTS[word]
    if word in _LETTERS and position and text[position - 1].isdigit():
        return f"Scale factors are T G M K k m u n p f a; write {_LETTERS[word]}"
    if before and before[-1] not in ";{(,=" and "\n" in text[len(before) : position]:
        return "Perhaps a semicolon is missing at the end of the line before"
    return "Check the line; what is read are behavioural models: declarations, functions and analog blocks"


def _check_depth(syntax: Syntax) -> None:
    """Refuse a tree that is nested deeper than any model; chains of one operator do not count."""
    waiting: list[tuple[Node, int]] = [(syntax.tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _DEPTH:
            raise too_large(
                syntax.place(node), f"statements or expressions nested more than {_DEPTH} deep", "Use variables"
            )
        for k, child in enumerate(node.children):
            if isinstance(child, Tree):
                chained = k == 0 and node.data in _CHAINS and child.data in _CHAINS
                waiting.append((child, depth + (not chained)))
