"""Progress bars, off when the output is not a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
