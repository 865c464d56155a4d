"""Preprocessor of Verilog-A: comments, includes, macros and conditions, with every character's place kept."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field

from memprop.device.verilog_a.headers import HEADERS, PREDEFINED
from memprop.device.verilog_a.place import Expanded, Piece, Place, refuse, too_large
from memprop.errors import InputError, VerilogError

_TOKEN = re.compile(r'"(?:\\.|[^"\\\n])*"?|//[^\n]*|/\*|`(?:[A-Za-z_]\w*|`)?')
_DEFINE = re.compile(r"[ \t]*([A-Za-z_]\w*)(\([^)\n]*\))?")
_SKIPPED = re.compile(r'"(?:\\.|[^"\\\n])*"?|//[^\n]*|/\*(?:[^*]|\*(?!/))*(?:\*/)?')
_MACRO_PART = re.compile(r'"(?:\\.|[^"\\\n])*"?|(?<![\w$.])`?[A-Za-z_]\w*')
_IGNORED = {
    "timescale",
    "default_discipline",
    "default_transition",
    "resetall",
    "celldefine",
    "endcelldefine",
    "default_nettype",
}
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_DEPTH = 50
_LONGEST = 4_000_000
"""Characters of expanded text, and of what macros and includes are expanded from, at most."""
_STEP = 40
"""Characters that a macro use counts for, beyond its text."""

Include = Callable[[str], str | None]
"""Name of an included file -> its text, or None where there is none."""


@dataclass(frozen=True, slots=True)
class Macro:
    """A macro: its arguments, or None where it takes none, and its text."""

    arguments: tuple[str, ...] | None
    body: str


@dataclass(slots=True)
class _Condition:
    """One level of `` `ifdef``."""

    place: Place
    active: bool
    taken: bool
    last: bool = False


@dataclass(slots=True)
class _Scanner:
    include: Include
    macros: dict[str, Macro] = field(default_factory=lambda: dict.fromkeys(PREDEFINED, Macro(None, "")))
    conditions: list[_Condition] = field(default_factory=list)
    out: list[str] = field(default_factory=list)
    pieces: list[Piece] = field(default_factory=list)
    length: int = 0
    work: int = 0
    depth: int = 0
    inactive: int = 0
    """How many of the conditions do not hold."""

    def emit(self, text: str, place: Place, *, fixed: bool) -> None:
        if text and not self.inactive:
            self.pieces.append(Piece(self.length, place, fixed))
            self.out.append(text)
            self.length += len(text)

    def scan(self, text: str, file: str, at: Place | None) -> None:
        """Read ``text``; inside a macro every place is ``at``, that of its use."""
        starts = [0, *(match.end() for match in re.finditer("\n", text))] if at is None else [0]

        def place(position: int) -> Place:
            if at is not None:
                return at
            line = bisect_right(starts, position) - 1
            return Place(file, line + 1, position - starts[line] + 1)

        self.work += len(text) + _STEP
        if self.work > _LONGEST:
            raise too_large(
                place(0), f"macros and includes expand to more than {_LONGEST} characters", "Write a function instead of the macro"
            )  # fmt: skip
        self.depth += 1
        position = 0
        while match := _TOKEN.search(text, position):
            self.emit(text[position : match.start()], place(position), fixed=at is not None)
            position = self.token(match, text, place(match.start()), fixed=at is not None)
        self.emit(text[position:], place(position), fixed=at is not None)
        self.depth -= 1

    def token(self, match: re.Match[str], text: str, place: Place, *, fixed: bool) -> int:
        """Take one comment, string or directive; return where the text goes on."""
        word = match[0]
        if word.startswith('"'):
            if not self.inactive and (len(word) < 2 or not word.endswith('"')):
                raise refuse(place, "a string that is not closed on its line", 'Add the "')
            self.emit(word, place, fixed=fixed)
            return match.end()
        if word.startswith("/"):
            end = match.end() if word != "/*" else text.find("*/", match.end()) + 2
            if end < match.end():
                raise refuse(place, "a comment /* that is not closed", "Add the */")
            self.emit(re.sub(r"[^\n]", " ", text[match.start() : end]), place, fixed=fixed)
            return end
        if len(word) < 2 or word == "``":
            raise refuse(place, f"'{word}' without a name", "Write `NAME; joining names with `` is not read")
        return self.directive(word[1:], text, match.end(), place)

    def directive(self, word: str, text: str, end: int, place: Place) -> int:
        """Obey one directive or expand one macro; return where the text goes on."""
        if self.depth > _DEPTH:
            raise too_large(place, f"macro or include '{word}' is nested more than {_DEPTH} deep", "Break the circle")
        if word in _DIRECTIVES:
            return _DIRECTIVES[word](self, text, end, place)
        if word in _IGNORED:
            return _line_end(text, end)
        return end if self.inactive else self.expand(word, text, end, place)

    def expand(self, word: str, text: str, end: int, place: Place) -> int:
        if word not in self.macros:
            hint = (
                'Add `include "constants.vams"' if re.match(r"[MP]_", word) else "Define it with `define before its use"
            )
            raise refuse(place, f"macro `{word} is not defined", hint)
        macro = self.macros[word]
        body = macro.body
        if macro.arguments is not None:
            values, end = _arguments(text, end, word, place)
            values = [] if values == [""] and not macro.arguments else values
            if len(values) != len(macro.arguments):
                raise refuse(
                    place,
                    f"macro `{word} takes {len(macro.arguments)} arguments, here are {len(values)}",
                    "Correct the call",
                )
            bound = dict(zip(macro.arguments, values, strict=True))
            body = _MACRO_PART.sub(lambda m: bound.get(m[0], m[0]), body)
        self.scan(body, place.file, place)
        return end

    def define(self, text: str, end: int, place: Place) -> int:
        stop = _line_end(text, end)
        while end < stop < len(text) and text[stop - 1] == "\\":
            stop = _line_end(text, stop + 1)
        line = text[end:stop].replace("\\\n", "\n")
        match = _DEFINE.match(line)
        if match is None:
            raise refuse(place, "`define without a name", "Write `define NAME text")
        if match[1] in _DIRECTIVES:
            raise refuse(place, f"`define {match[1]}: the name is that of a directive", "Choose another")
        words = None if match[2] is None else tuple(word.strip() for word in match[2][1:-1].split(","))
        if not self.inactive:
            self.macros[match[1]] = Macro(() if words == ("",) else words, _uncommented(line[match.end() :]).strip())
        return stop

    def undefine(self, text: str, end: int, place: Place) -> int:  # noqa: ARG002 - one signature for all directives
        name, stop = _name(text, end)
        if not self.inactive:
            self.macros.pop(name, None)
        return stop

    def if_defined(self, text: str, end: int, place: Place) -> int:
        return self.open(text, end, place, wanted=True)

    def if_not_defined(self, text: str, end: int, place: Place) -> int:
        return self.open(text, end, place, wanted=False)

    def open(self, text: str, end: int, place: Place, *, wanted: bool) -> int:
        name, stop = _name(text, end)
        if not name:
            raise refuse(place, "`ifdef without a name", "Write `ifdef NAME")
        holds = (name in self.macros) is wanted
        self.conditions.append(_Condition(place, holds, holds))
        self.inactive += not holds
        return stop

    def else_if(self, text: str, end: int, place: Place) -> int:
        name, stop = _name(text, end)
        self.turn(place, "`elsif", name in self.macros, last=False)
        return stop

    def otherwise(self, text: str, end: int, place: Place) -> int:  # noqa: ARG002
        self.turn(place, "`else", holds=True, last=True)
        return end

    def turn(self, place: Place, word: str, holds: bool, *, last: bool) -> None:
        """Go to the next alternative of the innermost condition."""
        condition = self.innermost(place, word)
        if condition.last:
            raise refuse(place, f"{word} after `else", "Remove one")
        self.inactive -= not condition.active
        condition.active, condition.last = holds and not condition.taken, last
        condition.taken |= condition.active
        self.inactive += not condition.active

    def end_if(self, text: str, end: int, place: Place) -> int:  # noqa: ARG002
        self.inactive -= not self.innermost(place, "`endif").active
        self.conditions.pop()
        return end

    def innermost(self, place: Place, word: str) -> _Condition:
        if not self.conditions:
            raise refuse(place, f"{word} without `ifdef", "Remove it, or add the `ifdef")
        return self.conditions[-1]

    def take(self, text: str, end: int, place: Place) -> int:
        """Include a file."""
        match = re.compile(r'[ \t]*["<]([^">\n]+)[">]').match(text, end)
        if match is None:
            raise refuse(place, "`include without a file in quotes", 'Write `include "constants.vams"')
        if not self.inactive:
            base = match[1].rsplit("/", 1)[-1]
            content = HEADERS[base] if base in HEADERS else self.read(match[1], place)
            self.scan(content, match[1], None)
        return match.end()

    def read(self, name: str, place: Place) -> str:
        """Return the text of an included file."""
        try:
            content = self.include(name)
        except VerilogError:
            raise
        except InputError as error:
            raise refuse(
                place, f"included file '{name}' cannot be read: {error}", "Include a text file beside this one"
            ) from error
        if content is None:
            raise refuse(place, f"included file '{name}' is not there", "Put it beside the file that includes it")
        return clean(content, name)


_DIRECTIVES: dict[str, Callable[[_Scanner, str, int, Place], int]] = {
    "define": _Scanner.define, "undef": _Scanner.undefine, "ifdef": _Scanner.if_defined, "ifndef": _Scanner.if_not_defined,
    "elsif": _Scanner.else_if, "else": _Scanner.otherwise, "endif": _Scanner.end_if, "include": _Scanner.take,
}  # fmt: skip


def preprocess(text: str, file: str, include: Include = lambda _: None) -> Expanded:
    """Return ``text`` without comments and directives, macros expanded.

    Raises
    ------
    VerilogError: an unknown macro or file, wrong arguments, an open `` `ifdef``; with file, line and column.
    """
    scanner = _Scanner(include)
    scanner.scan(clean(text, file), file, None)
    if scanner.conditions:
        raise refuse(scanner.conditions[-1].place, "`ifdef without `endif", "Add the `endif")
    return Expanded("".join(scanner.out), tuple(scanner.pieces))


def clean(text: str, file: str) -> str:
    """Return a text with plain line ends; refuse one that is no text."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    found = _NO_TEXT.search(text)
    if found:
        position = found.start()
        line = text.count("\n", 0, position)
        place = Place(file, line + 1, position - text.rfind("\n", 0, position))
        raise refuse(place, f"a character of value {ord(text[position])}", "Save the file as plain UTF-8 text")
    return text


def _uncommented(text: str) -> str:
    """Return the text of a macro without comments; what looks like one in a string stays."""
    return re.sub(r'("(?:\\.|[^"\\\n])*"?)|//[^\n]*|/\*.*?(?:\*/|\Z)', lambda m: m[1] or " ", text, flags=re.DOTALL)


def _line_end(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end


def _name(text: str, end: int) -> tuple[str, int]:
    match = re.compile(r"[ \t]*([A-Za-z_]\w*)?").match(text, end)
    return (match[1] or "", match.end()) if match else ("", end)


def _arguments(text: str, end: int, word: str, place: Place) -> tuple[list[str], int]:
    """Return the arguments of a macro call and the position behind it; commas in strings and brackets divide nothing."""
    opening = re.compile(r"\s*\(").match(text, end)
    if opening is None:
        raise refuse(place, f"macro `{word} takes arguments", f"Write `{word}(...)")
    position, depth, start, found = opening.end(), 1, opening.end(), []
    while depth:
        if position >= len(text):
            raise refuse(place, f"call of macro `{word} is not closed", "Add the parenthesis")
        character = text[position]
        if skipped := _SKIPPED.match(text, position):
            position = skipped.end()
            continue
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 or (depth == 1 and character == ","):
            found.append(text[start:position].strip())
            start = position + 1
        position += 1
    return found, position
