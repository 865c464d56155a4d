"""``memprop bench``: measure parts, keep their rows, draw their figures, print a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from memprop.errors import InputError
from memprop.flow.bench import crossbar, spice, training, twin
from memprop.flow.bench.figures import draw
from memprop.flow.bench.machine import describe, source
from memprop.flow.bench.sheet import Row, Sheet
from memprop.flow.bench.summary import Line, lines, machine

SIZES = ("tiny", "bench", "full")


@dataclass(frozen=True, slots=True)
class Part:
    """What can be measured by itself."""

    measure: Callable[[Sheet, Any], None]
    plans: Mapping[str, Any]


PARTS: Mapping[str, Part] = {
    "spice": Part(spice.measure, spice.PLANS),
    "crossbar": Part(crossbar.measure, crossbar.PLANS),
    "twin": Part(twin.measure, twin.PLANS),
    "training": Part(training.measure, training.PLANS),
}
"""In this order: trainings keep freed memory, and the memory of the part ``spice`` would not be seen to grow after them."""


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What to measure.

    Raises
    ------
    InputError: an unknown part or size, or less than one thread.
    """

    parts: Sequence[str] = ()
    """All if empty."""
    size: str = "bench"
    again: bool = False
    """Measure rows again that are there already."""
    bundle: Path | None = None
    """Network of the part ``spice``; default random weights."""
    osdi: Path | None = None
    """An ngspice with OSDI, measured beside the usual one."""
    threads: int | None = None
    """Threads of torch and of the kernels; default those of torch."""

    def __post_init__(self) -> None:
        if unknown := [part for part in self.parts if part not in PARTS]:
            raise InputError(f"part '{unknown[0]}' of the bench is unknown. Known: {', '.join(PARTS)}.")
        if self.size not in SIZES:
            raise InputError(f"size '{self.size}' of the bench is unknown. Known: {', '.join(SIZES)}.")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads = {self.threads}: at least 1 is needed. Leave it out for one per core.")

    @property
    def chosen(self) -> list[str]:
        """The parts, each once."""
        return list(dict.fromkeys(self.parts)) or list(PARTS)


def bench(settings: BenchSettings, out: Path, console: Console) -> dict[str, list[Row]]:
    """Measure into ``out/<part>.json``, draw ``out/<part>.png``, print a table; return the rows.

    Raises
    ------
    EngineError: a compiler or simulator that a part needs is missing.
    OutputError: ``out`` cannot be written.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    about, program = describe(settings.osdi), source()
    found: dict[str, list[Row]] = {}
    for name in settings.chosen:
        sheet = Sheet(
            out,
            name,
            about,
            again=settings.again,
            source=program,
            say=lambda line: console.print(line, highlight=False),
        )
        plan = PARTS[name].plans[settings.size]
        if name == "spice":
            plan = replace(plan, bundle=settings.bundle, osdi=settings.osdi)
        PARTS[name].measure(sheet, plan)
        draw(name, sheet.rows, out / f"{name}.png")
        found[name] = sheet.rows
    console.print(table(lines(found), machine(about)))
    console.print(f"rows and figures: {out}", soft_wrap=True, markup=False)
    return found


def table(found: Sequence[Line], title: str) -> Table:
    """Return the lines as a table for people."""
    shown = Table("what", "against", "times faster, wall", "CPU", title=title, title_justify="left", expand=True)
    for column, share in zip(shown.columns, (6, 2, 2, 2), strict=True):
        column.ratio = share
    for line in found:
        shown.add_row(f"{escape(line.what)}\n[dim]{escape(line.more)}[/]", line.against, line.wall, line.cpu)
    return shown
