"""Reader of SPICE raw files as ngspice writes them: binary and ASCII, real and complex, several plots in one file."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memprop.errors import InputError, RawFileError

Values = NDArray[Any]
"""float64 or complex128."""


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
    """``[points, variables]``, float64 or complex128."""

    def __getitem__(self, name: str) -> Values:
        """Return the column of a variable; the case does not matter.

        Raises
        ------
        InputError: no such variable; the message names similar ones.
        """
        if name.lower() not in self.variables:
            close = difflib.get_close_matches(name.lower(), self.variables) or self.variables[:5]
            raise InputError(f"plot '{self.name}' has no variable '{name}'. Similar: {', '.join(close)}.")
        return self.values[:, self.variables.index(name.lower())]


@dataclass(frozen=True, slots=True)
class _Header:
    """What stands before the values."""

    fields: dict[str, str]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    points: int
    flags: tuple[str, ...]
    binary: bool


class _Source:
    """The bytes of a file and how far they are read."""

    def __init__(self, content: bytes, deck: str, where: Path | None) -> None:
        self.content, self.at, self.deck, self.where = content, 0, deck, where

    def fail(self, reason: str) -> RawFileError:
        file = self.where.name if self.where else "raw file"
        return RawFileError(self.deck or file, f"{file}: {reason}", self.where.parent if self.where else None)

    def line(self) -> str | None:
        """Return the next line without its end, or None at the end of the file."""
        if self.at >= len(self.content):
            return None
        end = self.content.find(b"\n", self.at)
        end = len(self.content) if end < 0 else end
        text, self.at = self.content[self.at : end], end + 1
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
        raise RawFileError(deck or path.name, f"{path.name} cannot be read: {error.strerror}.", path.parent) from error
    return parse_raw(content, deck, path)


def parse_raw(content: bytes, deck: str = "", where: Path | None = None) -> tuple[Plot, ...]:
    """Return all plots of the bytes of a raw file; see `read_raw`."""
    source = _Source(content, deck, where)
    plots = tuple(_plots(source))
    if not plots:
        raise source.fail("it is empty.")
    return plots


def _plots(source: _Source) -> Iterator[Plot]:
    while source.content[source.at :].strip():
        header = _header(source)
        values = _binary(source, header) if header.binary else _ascii(source, header)
        fields = header.fields
        yield Plot(fields.get("title", ""), fields["plotname"], header.flags, header.names, header.kinds, values)


def _header(source: _Source) -> _Header:
    fields: dict[str, str] = {}
    names: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    while (line := source.line()) is not None:
        key, colon, value = line.partition(":")
        key = key.strip().lower()
        if not colon:
            if line.strip():
                raise source.fail(f"'{line[:40]}' is no line of a raw-file header.")
        elif key == "variables":
            names, kinds = _variables(source, _count(source, fields, "no. variables"), value)
        elif key in ("binary", "values"):
            return _finish(source, fields, names, kinds, key == "binary")
        else:
            fields[key] = value.strip()
    raise source.fail("its header ends before any value.")


def _count(source: _Source, fields: dict[str, str], key: str) -> int:
    text = fields.get(key, "")
    if not text.isascii() or not text.isdigit():
        raise source.fail(f"header line '{key}' holds '{text[:20]}', a count is expected.")
    return int(text)


def _variables(source: _Source, count: int, first: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Read the table of variables; its first row may stand on the line of the keyword."""
    names, kinds = [], []
    if count > len(source.content):
        raise source.fail(f"its header claims {count} variables, more than the file has bytes.")
    line: str | None = first if first.strip() else source.line()
    for number in range(count):
        words = (line or "").split()
        if len(words) < 3 or words[0] != str(number):
            raise source.fail(f"variable {number} of {count} is missing in the header.")
        if any(word.startswith("dims=") for word in words[3:]):
            raise source.fail(f"variable {words[1]} has its own dimensions; such plots are not supported.")
        names.append(words[1].lower())
        kinds.append(words[2].lower())
        line = source.line() if number + 1 < count else None
    return tuple(names), tuple(kinds)


def _finish(
    source: _Source, fields: dict[str, str], names: tuple[str, ...], kinds: tuple[str, ...], binary: bool
) -> _Header:
    flags = tuple(fields.get("flags", "").lower().split())
    points = _count(source, fields, "no. points")
    if "plotname" not in fields or not names or not {"real", "complex"} & set(flags):
        raise source.fail("its header lacks Plotname, Flags (real or complex) or Variables.")
    if "unpadded" in flags:
        raise source.fail("its plot is unpadded; write it with padding (ngspice: unset nopadding).")
    if not points:
        raise source.fail("its header says 0 points: the simulation ended before the first one.")
    return _Header(fields, names, kinds, points, flags, binary)


def _binary(source: _Source, header: _Header) -> Values:
    kind = np.dtype("<c16" if "complex" in header.flags else "<f8")
    wanted = header.points * len(header.names)
    size = wanted * kind.itemsize
    rest = len(source.content) - source.at
    if rest < size:
        raise source.fail(
            f"it is cut short: {rest} of {size} bytes of values ({header.points} points x {len(header.names)})."
        )
    values = np.frombuffer(source.content, kind, wanted, source.at)
    source.at += size
    return values.reshape(header.points, len(header.names))


def _ascii(source: _Source, header: _Header) -> Values:
    wanted = header.points * len(header.names)
    if 2 * wanted > len(source.content):
        raise source.fail(
            f"it is cut short: {header.points} points x {len(header.names)} do not fit into {len(source.content)} bytes."
        )
    numbers: list[complex] = []
    for point in range(header.points):
        for column in range(len(header.names)):
            numbers.append(_ascii_number(source, header, point, column))
    values = np.array(numbers, dtype=np.complex128).reshape(header.points, len(header.names))
    return values if "complex" in header.flags else np.ascontiguousarray(values.real)


def _ascii_number(source: _Source, header: _Header, point: int, column: int) -> complex:
    """Read one value; the first of a point has the number of the point before it."""
    line = source.line()
    while line is not None and not line.strip():
        line = source.line()
    place = f"point {point} of {header.points}, variable {header.names[column]}"
    if line is None:
        raise source.fail(f"it is cut short at {place}.")
    words = line.split()
    if len(words) != (1 if column else 2) or (not column and words[0] != str(point)):
        raise source.fail(f"{place}: '{line.strip()[:40]}' is no value.")
    parts = words[-1].split(",")
    try:
        number = complex(float(parts[0]), float(parts[1]) if len(parts) > 1 else 0.0)
    except ValueError as error:
        raise source.fail(f"{place}: '{words[-1][:40]}' is no number.") from error
    if len(parts) != (2 if "complex" in header.flags else 1):
        raise source.fail(f"{place}: '{words[-1][:40]}' does not fit the flags {' '.join(header.flags)}.")
    return number
