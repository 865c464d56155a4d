"""Measured curves: CSV files of time, voltage and current, read with care."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memprop.errors import InputError

Floats = NDArray[np.float64]
_NAMES: Mapping[str, tuple[tuple[str, ...], str]] = {
    "time": (("time", "t"), "s"), "voltage": (("voltage", "volt", "v", "u"), "V"), "current": (("current", "i"), "A"),
    "curve": (("curve", "sweep"), ""),
}  # fmt: skip
"""Quantity -> names that its column may have, and its unit."""
_PREFIXES = {"f": -15, "p": -12, "n": -9, "u": -6, "\u00b5": -6, "\u03bc": -6, "m": -3, "": 0, "k": 3, "M": 6}
_HEAD = re.compile(r"^([A-Za-z]+)\s*(?:\(\s*([^)]*?)\s*\)|\[\s*([^\]]*?)\s*\]|[_/ ]\s*(\S+))?$")
_FEWEST = 8
"""Points that a curve needs."""
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Measured:
    """One measured curve, ``[T]``."""

    label: str
    time: Floats
    """In s, rising."""
    voltage: Floats
    """In V, of the source: before a series resistance."""
    current: Floats
    """In A into the first port."""


def read_curves(path: Path, frequency: float | None = None) -> list[Measured]:
    """Return the curves of a CSV file, in SI units.

    The first line that is no comment (``#``) names the columns: time, voltage, current, and ``curve`` where there are several
    curves; units in brackets or after an underscore, e.g. ``time (ms)``, ``current_uA``; without one SI is meant. Without a time
    column ``frequency`` in Hz is needed: every curve is then one period, its points evenly spread.

    Raises
    ------
    InputError: the file or a row of it cannot be used; the message names line and column.
    """
    rows = _rows(path)
    line, head = rows[0]
    columns = _columns(head, path, line)
    if "time" not in columns and frequency is None:
        raise InputError(
            f"{path}: no column 'time'. Found: {', '.join(head)}. Add it, or give --frequency for one period per curve."
        )
    if "time" in columns and frequency is not None:
        raise InputError(
            f"{path}: a column 'time' and a frequency of {frequency!r} Hz are both given. Leave one of them out."
        )
    if frequency is not None and not 0 < frequency < float("inf"):
        raise InputError(f"frequency = {frequency!r} Hz must be finite and above 0. Correct the value.")
    groups: dict[str, list[tuple[int, list[float]]]] = {}
    wanted = [name for name in ("time", "voltage", "current") if name in columns]
    for number, row in rows[1:]:
        if len(row) != len(head):
            raise InputError(
                f"{path}, line {number}: {len(row)} cells, the header has {len(head)}. Complete or remove the line."
            )
        label = row[columns["curve"][0]].strip() if "curve" in columns else ""
        values = [_value(row[columns[n][0]], n, path, number) * columns[n][1] for n in wanted]
        groups.setdefault(label, []).append((number, values))
    if not groups:
        raise InputError(f"{path}: no data below the header in line {line}. Add rows of numbers.")
    return [_curve(label, found, wanted, frequency, path) for label, found in groups.items()]


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Return the lines that are no comment and not empty, cut into cells, with their numbers."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"measured curves {path} are not there. Check the path.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"measured curves {path} cannot be read ({error}). Give a CSV file in UTF-8.") from error
    lines = [(k, s) for k, s in enumerate(text.splitlines(), 1) if s.strip() and not s.lstrip().startswith("#")]
    if not lines:
        raise InputError(f"{path} is empty. It needs a header (time, voltage, current) and rows of numbers.")
    if len(lines) > _MOST:
        raise InputError(
            f"{path} has {len(lines)} lines, more than {_MOST}. Thin the curves out to some hundred points each."
        )
    mark = next((m for m in ("\t", ";", ",") if m in lines[0][1]), ",")
    return [(k, [cell.strip() for cell in next(csv.reader([s], delimiter=mark))]) for k, s in lines]


def _columns(head: Sequence[str], path: Path, line: int) -> dict[str, tuple[int, float]]:
    """Return place and factor to SI of each known column."""
    found: dict[str, tuple[int, float]] = {}
    for place, text in enumerate(head):
        match = _HEAD.match(text)
        name = next((n for n, (names, _) in _NAMES.items() if match and match[1].lower() in names), None)
        if match is None or name is None:
            continue
        if name in found:
            raise InputError(
                f"{path}, line {line}: two columns hold the {name}: '{head[found[name][0]]}' and '{text}'. Remove one."
            )
        unit = match[2] or match[3] or match[4] or ""
        found[name] = (place, _factor(unit, _NAMES[name][1], f"{path}, line {line}: column '{text}'"))
    for name in ("voltage", "current"):
        if name not in found:
            raise InputError(
                f"{path}, line {line}: no column '{name}'. Found: {', '.join(head)}. Name the columns time, voltage, current."
            )
    return found


def _factor(unit: str, base: str, where: str) -> float:
    if not unit or not base:
        return 1.0
    prefix = unit.removesuffix(base) if unit.endswith(base) else None
    if prefix not in _PREFIXES:
        known = ", ".join(f"{p}{base}" for p in ("p", "n", "u", "m", "", "k"))
        raise InputError(f"{where} has the unit '{unit}', which is none of {known}. Correct the header.")
    return 10.0 ** _PREFIXES[prefix]


def _value(text: str, name: str, path: Path, line: int) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(
            f"{path}, line {line}: {name} is '{text}', which is no number. Correct or remove the line."
        ) from error
    if not np.isfinite(value):
        raise InputError(f"{path}, line {line}: {name} is {text}, which is not finite. Remove the line.")
    return value


def _curve(
    label: str, found: list[tuple[int, list[float]]], wanted: Sequence[str], frequency: float | None, path: Path
) -> Measured:
    where = f"{path}, curve '{label}'" if label else str(path)
    if len(found) < _FEWEST:
        raise InputError(f"{where}: {len(found)} points, at least {_FEWEST} are needed. Measure more points.")
    columns = dict(zip(wanted, np.array([values for _, values in found]).T, strict=True))
    if frequency is not None:
        columns["time"] = np.arange(len(found)) / (len(found) * frequency)
    back = np.flatnonzero(np.diff(columns["time"]) <= 0)
    if len(back):
        k = int(back[0])
        raise InputError(
            f"{where}, line {found[k + 1][0]}: time {columns['time'][k + 1]:g} s does not rise after {columns['time'][k]:g} s. "
            "Sort the lines, or name the curves in a column 'curve'."
        )
    for name, unit in (("voltage", "V"), ("current", "A")):
        if not np.ptp(columns[name]):
            raise InputError(f"{where}: the {name} is {columns[name][0]:g} {unit} everywhere. Give a sweep that moves.")
    return Measured(label or path.stem, columns["time"] - columns["time"][0], columns["voltage"], columns["current"])
