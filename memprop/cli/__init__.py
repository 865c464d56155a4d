"""The command line: thin, every command is a function of the library with a progress bar."""

from __future__ import annotations

import signal
import sys

from rich.console import Console
from rich.markup import escape

# In this order the commands stand in --help.
# isort: off
from memprop.cli import networks, chips, learning, cells, devices, tools  # noqa: F401

# isort: on
from memprop.cli.app import app
from memprop.errors import MempropError

__all__ = ["app", "main"]


class _Interrupted(BaseException):
    """Ctrl-C or a polite kill; typer would turn KeyboardInterrupt into a bare 'Aborted'."""


def _interrupt(_signum: int, _frame: object) -> None:
    raise _Interrupted


def main() -> None:
    """Run the command line; memprop's own errors are printed as one sentence, not as a traceback."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app()
    except MempropError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except OSError as error:
        Console(stderr=True).print(
            f"[bold red]error:[/] cannot read or write: {escape(str(error))}. Check the path, its rights and the disk space; "
            "finished work is kept.", highlight=False, soft_wrap=True,
        )  # fmt: skip
        sys.exit(1)
    except _Interrupted:
        Console(stderr=True).print("interrupted; finished work is kept, the same command goes on from there.")
        sys.exit(130)
