"""Progress bars, off when the output is not a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Advance(Protocol):
    """Tells that one more unit of work is done, with a word on how it goes."""

    def __call__(self, note: str = "", *, done: int | None = None) -> None:
        """Advance by one, or to ``done``."""
        ...


@contextmanager
def progress(title: str, total: int, console: Console) -> Iterator[Advance]:
    """Show a bar for ``total`` units of work; without a terminal only the title is printed."""
    columns = (
        TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    if not console.is_terminal:
        console.print(f"{title} ...")
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=total, note="")

        def advance(note: str = "", *, done: int | None = None) -> None:
            if done is None:
                bar.update(task, advance=1, note=note)
            else:
                bar.update(task, completed=done, note=note)

        yield advance


@dataclass(slots=True)
class Tally:
    """Counts results of a farm and says so in a few words: found, failed, rate."""

    clock: Callable[[], float] = time.monotonic
    cached: int = 0
    failed: int = 0
    made: int = 0
    _start: float = field(init=False)

    def __post_init__(self) -> None:
        self._start = self.clock()

    def count(self, *, cached: bool, failed: bool) -> str:
        """Count one more result; return the words."""
        self.cached, self.failed = self.cached + cached, self.failed + failed
        self.made += not cached
        if self.made == 0:
            self._start = self.clock()  # the rate is that of simulations, not of look-ups
        passed = self.clock() - self._start
        words = [f"{self.cached} cached"] if self.cached else []
        words += [f"{self.failed} failed"] if self.failed else []
        words += [f"{self.made / passed:.1f}/s"] if self.made and passed > 0 else []
        return ", ".join(words)
