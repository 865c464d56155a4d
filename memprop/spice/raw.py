"""Reader of SPICE raw files as ngspice writes them: binary and ASCII, real and complex, several plots in one file.

Every value is there and whole, or the file is refused: a file cut in the middle of its last number is still readable
text, so an ASCII value counts only with the white space after it. Sizes that a header claims are compared with the bytes
that follow before anything is allocated.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memprop.errors import InputError, RawFileError

Values = NDArray[Any]
"""float64 or complex128."""

_KEY = re.compile(r"[a-z][a-z. ]*")
"""Key of a header line. Bytes of values that a wrong count of points left over must not pass as one."""
_TOKEN = re.compile(rb"\S+")


@dataclass(frozen=True, slots=True)
class Plot:
    """One analysis of a raw file."""

    title: str
    name: str
    """Kind of analysis, e.g. ``Transient Analysis``."""
    flags: tuple[str, ...]
    variables: tuple[str, ...]
    """Names in lower case; the first is the independent variable."""
    kinds: tuple[str, ...]
    """Kind of each variable: time, frequency, voltage, current, ..."""
    values: Values
    """``[points, variables]``, float64 or complex128, read only. ``ngspice -r`` leaves the imaginary part of a frequency unset."""

    def __getitem__(self, name: str) -> Values:
        """Return the column of a variable; the case does not matter.

        Raises
        ------
        InputError: no such variable; the message names similar ones, else the first few.
        """
        if name.lower() not in self.variables:
            close = difflib.get_close_matches(name.lower(), self.variables)
            hint = f"Similar: {', '.join(close)}." if close else f"It has {', '.join(self.variables[:5])}, ..."
            raise InputError(f"plot '{self.name}' has no variable '{name}'. {hint}")
        return self.values[:, self.variables.index(name.lower())]


@dataclass(frozen=True, slots=True)
class _Variable:
    """One row of the table of variables; ``length`` in points if it states its own dimensions."""

    name: str
    kind: str
    length: int | None


@dataclass(frozen=True, slots=True)
class _Header:
    """What stands before the values."""

    fields: dict[str, str]
    variables: tuple[_Variable, ...]
    points: int
    flags: tuple[str, ...]
    binary: bool

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype("<c16" if "complex" in self.flags else "<f8")


class _Source:
    """The bytes of a file and how far they are read."""

    def __init__(self, content: bytes, deck: str, where: Path | None) -> None:
        self.content, self.at, self.deck, self.where = content, 0, deck, where

    @property
    def rest(self) -> int:
        """Bytes not read yet."""
        return len(self.content) - self.at

    def fail(self, reason: str, remedy: str | None = None) -> RawFileError:
        file = self.where.name if self.where else "raw file"
        return RawFileError(self.deck or file, f"{file}: {reason}", self.where.parent if self.where else None, remedy)

    def line(self) -> str | None:
        """Return the next line without its end, or None at the end of the file."""
        if not self.rest:
            return None
        end = self.content.find(b"\n", self.at)
        end = len(self.content) if end < 0 else end
        text, self.at = self.content[self.at : end], min(end + 1, len(self.content))
        return text.rstrip(b"\r").decode("utf-8", errors="replace")


def read_raw(path: Path, deck: str = "") -> tuple[Plot, ...]:
    """Return all plots of the raw file ``path``; ``deck`` is the title that errors name.

    Raises
    ------
    RawFileError: the file cannot be read, is cut short, or is no raw file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = f"{path.name} cannot be read: {error.strerror}."
        raise RawFileError(deck or path.name, reason, path.parent, "Check the path and its rights.") from error
    return parse_raw(content, deck, path)


def parse_raw(content: bytes, deck: str = "", where: Path | None = None) -> tuple[Plot, ...]:
    """Return all plots of the bytes of a raw file; binary values are views of ``content``.

    Raises
    ------
    RawFileError: the bytes are cut short, or are no raw file.
    """
    source = _Source(content, deck, where)
    plots = tuple(_plots(source))
    if not plots:
        raise source.fail(f"it is empty: no plot in {len(content)} bytes.")
    return plots


def _plots(source: _Source) -> Iterator[Plot]:
    while _TOKEN.search(source.content, source.at):
        header = _header(source)
        values = _binary(source, header) if header.binary else _ascii(source, header)
        names, kinds = tuple(v.name for v in header.variables), tuple(v.kind for v in header.variables)
        yield Plot(header.fields.get("title", ""), header.fields["plotname"], header.flags, names, kinds, values)


def _header(source: _Source) -> _Header:
    start = source.at
    fields: dict[str, str] = {}
    variables: tuple[_Variable, ...] = ()
    while (line := source.line()) is not None:
        key, colon, value = line.partition(":")
        key = key.strip().lower()
        if line.strip() and not (colon and _KEY.fullmatch(key)):
            raise source.fail(f"{line[:40]!a} is no line of a raw-file header.")
        if key == "variables":
            variables = _variables(source, _count(source, fields, "no. variables"), value.strip())
        elif key in ("binary", "values"):
            return _checked(source, fields, variables, binary=key == "binary")
        elif key:
            fields[key] = value.strip()
    raise source.fail(f"its header ends after {len(source.content) - start} bytes, before any value.")


def _count(source: _Source, fields: dict[str, str], key: str) -> int:
    text = fields.get(key, "")
    if not re.fullmatch(r"[0-9]{1,18}", text):  # Python refuses to convert thousands of digits
        raise source.fail(f"header line '{key}' is missing or holds {text[:20]!a}, a count is expected.")
    return int(text)


def _variables(source: _Source, count: int, first: str) -> tuple[_Variable, ...]:
    """Read the table of variables; its first row may stand on the line of the keyword."""
    if count > source.rest:
        raise source.fail(f"its header claims {count} variables, more than the {source.rest} bytes left.")
    variables: list[_Variable] = []
    line = first or source.line()
    for number in range(count):
        words = (line or "").split()
        if len(words) < 3 or words[0] != str(number):
            raise source.fail(f"variable {number} of {count} is missing in the header.")
        variables.append(_Variable(words[1].lower(), words[2].lower(), _own_length(source, words[1], words[3:])))
        line = source.line() if number + 1 < count else None
    return tuple(variables)


def _own_length(source: _Source, name: str, extra: list[str]) -> int | None:
    """Return the product of ``dims=2,3``, which ngspice writes for a variable unlike the longest one."""
    dims = next((word for word in extra if word.startswith("dims=")), None)
    if dims is not None and not re.fullmatch(r"dims=[0-9]{1,18}(,[0-9]{1,18}){0,7}", dims):
        raise source.fail(f"variable {name} has {dims[:40]!a}, dimensions like dims=2,3 are expected.")
    return None if dims is None else math.prod(map(int, dims[5:].split(",")))


def _checked(source: _Source, fields: dict[str, str], variables: tuple[_Variable, ...], *, binary: bool) -> _Header:
    flags, points = tuple(fields.get("flags", "").lower().split()), _count(source, fields, "no. points")
    if "plotname" not in fields or not variables or ("real" in flags) == ("complex" in flags):
        raise source.fail("its header lacks Plotname, Flags (one of real and complex) or Variables.")
    if not points:
        ended = f"the simulation ended before the first one, or was killed ({source.rest} bytes follow)"
        raise source.fail(f"its header says 0 points: {ended}.")
    for variable in variables:
        # padded with zeros or left out, what is beyond the own length was never computed: a full column would be a lie
        if variable.length not in (None, points):
            remedy = "Write variables of different lengths into plots of their own."
            raise source.fail(f"variable {variable.name} has {variable.length} of {points} points.", remedy)
    return _Header(fields, variables, points, flags, binary)


def _binary(source: _Source, header: _Header) -> Values:
    points, columns = header.points, len(header.variables)
    row = columns * header.dtype.itemsize
    if source.rest < points * row:
        found = f"{source.rest} of {points * row} bytes of values, {source.rest // row} of {points} points"
        raise source.fail(f"it is cut short: {found}.")
    values = np.frombuffer(source.content, header.dtype, points * columns, source.at)
    source.at += points * row
    return values.reshape(points, columns)


def _ascii(source: _Source, header: _Header) -> Values:
    """Read points as ngspice writes them: number of the point, then its values, between any white space."""
    points, columns = header.points, len(header.variables)
    least = 2 * points * (columns + 1)  # each word has a character and white space after it
    if source.rest < least:
        raise source.fail(f"it is cut short: {source.rest} bytes of values, {points} points need at least {least}.")
    values = np.empty((points, columns), header.dtype)
    words = _TOKEN.finditer(source.content, source.at)
    for point in range(points):
        found = list(islice(words, columns + 1))
        if len(found) <= columns or found[-1].end() == len(source.content):
            raise source.fail(f"it is cut short: {point} of {points} points of {columns} values are whole.")
        if (word := found[0][0]) != b"%d" % point:
            raise source.fail(f"{word[:40].decode(errors='replace')!a} stands where point {point} of {points} belongs.")
        values[point] = [_number(source, header, point, k, value[0]) for k, value in enumerate(found[1:])]
        source.at = found[-1].end()
    values.flags.writeable = False  # as the values of a binary file are
    return values


def _number(source: _Source, header: _Header, point: int, column: int, word: bytes) -> complex:
    parts = word.split(b",")
    try:
        if b"_" in word or len(parts) != header.dtype.itemsize // 8:  # Python reads 1_0 as 10
            raise ValueError
        return complex(float(parts[0]), float(parts[1])) if len(parts) > 1 else float(word)
    except ValueError:
        place = f"point {point} of {header.points}, variable {header.variables[column].name}"
        kind = "complex" if "complex" in header.flags else "real"
        raise source.fail(f"{place}: {word[:40].decode(errors='replace')!a} is no {kind} number.") from None
