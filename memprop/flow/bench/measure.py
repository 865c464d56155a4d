"""Measure by turns: what is compared runs alternately in one run, so that a busy machine disturbs all alike."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memprop.errors import InputError

Run = Callable[[], object]
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Spent:
    """Time that a piece of work took, in s."""

    wall: float
    own: float
    """CPU time of this process, user and system, all threads."""
    children: float
    """CPU time of processes that it started, as far as they have ended: simulators, workers."""

    @property
    def cpu(self) -> float:
        """CPU time of all."""
        return self.own + self.children

    def __sub__(self, other: Spent) -> Spent:
        """Return the difference."""
        return Spent(self.wall - other.wall, self.own - other.own, self.children - other.children)


def now() -> Spent:
    """Return the time spent so far."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return Spent(time.perf_counter(), own.ru_utime + own.ru_stime, children.ru_utime + children.ru_stime)


def spent_by(run: Run) -> Spent:
    """Return what ``run`` takes."""
    before = now()
    run()
    return now() - before


def by_turns(cases: Mapping[str, Run], repeats: int, *, warm: bool = True) -> dict[str, list[Spent]]:
    """Return what each case takes, ``repeats`` times; every other round runs backwards.

    With ``warm`` each case runs once before, which is not counted: compilers, caches, memory.

    Raises
    ------
    InputError: less than one repetition.
    """
    if repeats < 1:
        raise InputError(f"repeats = {repeats}: at least 1 measurement is needed. Raise it.")
    for run in cases.values() if warm else ():
        run()
    found: dict[str, list[Spent]] = {name: [] for name in cases}
    for k in range(repeats):
        for name in list(cases)[:: -1 if k % 2 else 1]:
            found[name].append(spent_by(cases[name]))
    return found


def as_case(samples: Sequence[Spent], per: int = 1, children: str = "other_processes") -> dict[str, list[float]]:
    """Return samples as lists for a row, each divided by ``per``, e.g. a number of images.

    CPU time stands apart, that of the ``children`` under their name, where other processes took part.
    """
    columns = {"wall_s": "wall", "cpu_s": "cpu"}
    if any(s.children > 0 for s in samples):
        columns |= {"python_cpu_s": "own", f"{children}_cpu_s": "children"}
    return {key: [shown(getattr(s, name) / per) for s in samples] for key, name in columns.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float] | None:
    """Return the ratio of two cases: median, lowest and highest over the rounds of one run.

    A case that takes too long to be repeated has one value, which counts in all rounds. None where the clock of CPU time, which
    ticks, saw nothing of the lower one.
    """
    if min(below) <= 0.0:
        return None
    rounds = max(len(above), len(below))
    above, below = (list(x) * rounds if len(x) == 1 else x for x in (above, below))
    each = [a / b for a, b in zip(above, below, strict=True)]
    return {"median": shown(statistics.median(each)), "low": shown(min(each)), "high": shown(max(each))}


def ratios(cases: Mapping[str, Mapping[str, Sequence[float]]], above: str, below: str) -> dict[str, Any]:
    """Return how many times longer ``above`` takes than ``below``, in wall and in CPU time."""
    return {kind: ratio(cases[above][f"{kind}_s"], cases[below][f"{kind}_s"]) for kind in ("wall", "cpu")}


def median(case: Mapping[str, Sequence[float]], key: str = "wall_s") -> float:
    """Return the median of a case in s."""
    return statistics.median(case[key])


def shown(value: float) -> float:
    """Return ``value`` with six digits, more than any clock has."""
    return float(f"{value:.6g}")


@contextmanager
def peak_memory() -> Iterator[Callable[[], int | None]]:
    """Yield a function that says the largest resident memory of this process since here, in bytes; None but on Linux."""
    try:
        _CLEAR.write_text("5", encoding="ascii")  # sets the mark back to what is resident now
        reset = True
    except OSError:
        reset = False

    def peak() -> int | None:
        if not reset:
            return None
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])

    yield peak
