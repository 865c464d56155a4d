"""Measured waveforms of neurons: CSV files of time, current and membrane, read with care and put on a uniform grid."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memprop.errors import InputError

Floats = NDArray[np.float64]
FEWEST = 3
"""Time points that a run needs."""
_UNITS = {"time": "s", "current": "a", "mem": "v", "neuron": ""}


class MeasuredRun(NamedTuple):
    """One run on the grid, ``[T + 1]``."""

    neuron: int
    current: Floats
    """In A."""
    mem: Floats
    """In V."""


def read_measured(path: Path, step: float | None = None) -> tuple[Floats, list[MeasuredRun]]:
    """Return a uniform grid in s and the runs of a CSV file on it; see `CellWaveforms.from_csv`.

    Raises
    ------
    InputError: the file or a row of it cannot be used; the message names the line.
    """
    runs = _read_csv(path)
    step = _step(runs, step, path)
    count = round(min(run[0][-1] for run in runs.values()) / step)
    grid = np.arange(count + 1) * step
    return grid, [MeasuredRun(neuron, *_resampled(run, grid)) for (neuron, _), run in runs.items()]


def _read_csv(path: Path) -> dict[tuple[int, int], Floats]:
    """Return time, current and membrane ``[3, points]`` of each run, by neuron and number of its run."""
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    except FileNotFoundError as error:
        raise InputError(f"measured waveforms {path} are not there. Check the path.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"measured waveforms {path} cannot be read ({error}). Give a CSV file in UTF-8.") from error
    lines = [(k, row) for k, row in enumerate(rows, 1) if row and not row[0].lstrip().startswith("#")]
    if len(lines) < 2:
        raise InputError(f"{path} holds no rows. It needs a header (time, neuron, current, mem) and rows of numbers.")
    places = _places(path, *lines[0])
    found: dict[tuple[int, int], list[list[float]]] = {}
    latest: dict[int, int] = {}
    for number, row in lines[1:]:
        values = _row(path, number, row, places)
        neuron = _neuron(path, number, values.pop("neuron", 0.0))
        run = latest.setdefault(neuron, 0)
        before = found.setdefault((neuron, run), [])
        if before and values["time"] < before[-1][0]:
            run = latest[neuron] = run + 1
            before = found.setdefault((neuron, run), [])
        if before and values["time"] == before[-1][0]:
            raise InputError(
                f"{path}, line {number}: time {values['time']!r} s is there twice. Remove one of the lines."
            )
        before.append([values["time"], values["current"], values["mem"]])
    return {key: _run(path, key, points) for key, points in found.items()}


def _places(path: Path, line: int, head: Sequence[str]) -> dict[str, int]:
    names = [text.strip().lower() for text in head]
    known = {f"{name}_{unit}" if unit else name: name for name, unit in _UNITS.items()} | {n: n for n in _UNITS}
    places = {known[name]: k for k, name in enumerate(names) if name in known}
    missing = [name for name in ("time", "current", "mem") if name not in places]
    if missing or len(set(names)) != len(names):
        raise InputError(
            f"{path}, line {line}: no column '{missing[0] if missing else 'twice'}' or one that is there twice. Found: "
            f"{', '.join(head)}. Name the columns time, neuron, current, mem, in SI units."
        )
    return places


def _row(path: Path, line: int, row: Sequence[str], places: Mapping[str, int]) -> dict[str, float]:
    found = {}
    for name, place in places.items():
        try:
            found[name] = float(row[place])
        except (ValueError, IndexError) as error:
            text = f"'{row[place]}'" if place < len(row) else "missing"
            raise InputError(
                f"{path}, line {line}: {name} is {text}, no number. Correct or remove the line."
            ) from error
        if not np.isfinite(found[name]):
            raise InputError(f"{path}, line {line}: {name} is {row[place]}, which is not finite. Remove the line.")
    return found


def _neuron(path: Path, line: int, value: float) -> int:
    if value < 0 or value != round(value) or value > 1e6:
        raise InputError(f"{path}, line {line}: neuron {value!r} is no whole number from 0. Number the neurons.")
    return int(value)


def _run(path: Path, key: tuple[int, int], points: list[list[float]]) -> Floats:
    if len(points) < FEWEST:
        raise InputError(
            f"{path}, neuron {key[0]}, run {key[1]}: {len(points)} points, at least {FEWEST} are needed. Are the lines sorted?"
        )
    run = np.array(points).T
    run[0] -= run[0, 0]
    return run


def _step(runs: Mapping[tuple[int, int], Floats], step: float | None, path: Path) -> float:
    ends = np.array([run[0, -1] for run in runs.values()])
    chosen = (
        float(np.median(np.concatenate([np.diff(run[0]) for run in runs.values()]))) if step is None else float(step)
    )
    if not 0.0 < chosen * (FEWEST - 1) <= ends.min():
        raise InputError(
            f"{path}: a grid of {chosen!r} s has fewer than {FEWEST} points in {ends.min()!r} s. Give a smaller step in s."
        )
    if np.ptp(ends) > 1.5 * chosen:
        raise InputError(
            f"{path}: runs last {ends.min()!r} s to {ends.max()!r} s; they must last equally long. Cut them to one length."
        )
    return chosen


def _resampled(run: Floats, grid: Floats) -> tuple[Floats, Floats]:
    """Return current and membrane on ``grid``: the current straight between points, the membrane without corners."""
    from scipy.interpolate import PchipInterpolator  # noqa: PLC0415 - half a second that most users of this file do not need

    time = np.clip(grid, 0.0, run[0, -1])
    return np.interp(time, run[0], run[1]), PchipInterpolator(run[0], run[2])(time)
