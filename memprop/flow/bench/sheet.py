"""Rows of a part in a file, each kept as soon as it is measured and not measured again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from memprop.errors import InputError
from memprop.files import ensure_folder, write_json

Row = dict[str, Any]
VERSION = 1
"""Of the rows; rows of another version are measured anew."""


class Sheet:
    """Rows of one part in ``folder/<part>.json``.

    Rows are kept only while machine and versions are the same, so that all rows of a file can be compared. Each remembers the plan
    and the source of the program that made it, and is measured anew with others.

    Parameters
    ----------
    about: machine and versions.
    again: measure rows again that are there already.
    source: hash of the program, see `memprop.flow.bench.machine.source`.
    say: told one line per row.

    Raises
    ------
    InputError: the file holds no rows of a bench.
    OutputError: the folder cannot be written.
    """

    def __init__(
        self, folder: Path, part: str, about: Mapping[str, Any], *, again: bool = False, source: str = "",
        say: Callable[[str], None] = lambda line: None,  # noqa: ARG005
    ) -> None:  # fmt: skip
        self.part, self.path, self.say = part, ensure_folder(folder) / f"{part}.json", say
        self.source = source
        self.about = {"version": VERSION, "part": part, **about}
        self._rows: dict[str, Row] = {}
        content = read_sheet(self.path) if self.path.is_file() else {}
        if content.get("about") == self.about:
            self._rows = {row["id"]: row for row in content["rows"]}
        elif content:
            say(f"{part}: machine or versions are others than in {self.path}; its rows are measured anew")
        self._stale = set(self._rows) if again else set()

    @property
    def rows(self) -> list[Row]:
        """All rows."""
        return list(self._rows.values())

    def row(self, name: str, measure: Callable[[], Row], plan: Mapping[str, float] | None = None) -> Row:
        """Return the row called ``name``: the kept one, else what ``measure`` returns, which is kept.

        ``plan`` is what beside its name decides what is measured, e.g. how often.
        """
        made = {key: value for key, value in (("plan", dict(plan or {})), ("source", self.source)) if value}
        if name in self._rows and name not in self._stale:
            kept = self._rows[name]
            changed = [key for key in ("plan", "source") if kept.get(key) != made.get(key)]
            if not changed:
                self.say(f"{self.part}: {name}: kept")
                return kept
            self.say(f"{self.part}: {name}: measured anew, as its {' and '.join(changed)} changed")
        self.say(f"{self.part}: {name} ...")
        self._rows[name] = {"id": name, **made, **measure()}
        self._stale.discard(name)
        write_json(self.path, {"about": self.about, "rows": self.rows})
        return self._rows[name]


def read_sheet(path: Path) -> dict[str, Any]:
    """Return the content of a file of rows.

    Raises
    ------
    InputError: it cannot be read or holds no rows.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        names = [row["id"] for row in content["rows"]]
        if not isinstance(content["about"], dict) or not all(isinstance(name, str) for name in names):
            raise TypeError("rows without names")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no rows of `memprop bench` ({type(error).__name__}: {error}). Delete it, or run the bench again."
        ) from error
    return content
