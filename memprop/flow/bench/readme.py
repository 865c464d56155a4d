"""The numbers of README, taken from the files of a bench, so that nobody types them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from memprop.errors import InputError
from memprop.files import write_atomic
from memprop.flow.bench.figures import draw
from memprop.flow.bench.run import PARTS
from memprop.flow.bench.sheet import read_sheet
from memprop.flow.bench.summary import Line, lines, machine

BEGIN, END = "<!-- bench -->", "<!-- /bench -->"
KEPT, WHOLE = "bench.json", "bench.md"
"""Files in ``docs/``: the rows, and a page with every line and figure made from them."""


def publish(out: Path, readme: Path) -> Path:
    """Copy the rows in ``out`` to ``docs/bench.json`` beside ``readme``, write ``docs/bench.md`` with figures, and the table.

    Returns the path of that file.

    Raises
    ------
    InputError: nothing was measured, files are of different machines or versions, or README has no place for a table.
    OutputError: a file cannot be written.
    """
    found = {name: read_sheet(out / f"{name}.json") for name in PARTS if (out / f"{name}.json").is_file()}
    if not found:
        raise InputError(f"nothing was measured in {out}. Run `memprop bench` first, or give its folder.")
    abouts = {name: {k: v for k, v in content["about"].items() if k != "part"} for name, content in found.items()}
    about = next(iter(abouts.values()))
    if odd := [name for name, other in abouts.items() if other != about]:
        raise InputError(
            f"part '{odd[0]}' in {out} was measured on another machine or with other versions than '{next(iter(abouts))}'. "
            "Measure it again, so that one sentence holds for the table."
        )
    text = _text(readme)
    content = {"about": about, "parts": {name: content["rows"] for name, content in found.items()}}
    target = readme.parent / "docs" / KEPT
    write_atomic(target, _one_row_a_line(content))
    for name, rows in content["parts"].items():
        draw(name, rows, target.parent / f"bench_{name}.png")
    write_atomic(target.with_name(WHOLE), page(content))
    write_atomic(readme, replaced(text, block(content), readme))
    return target


def block(content: Mapping[str, Any]) -> str:
    """Return the text between the marks: the lines that lead, and the machine."""
    return f"{_table(line for line in lines(content['parts']) if line.lead)}\n{machine(content['about'])}\n"


def page(content: Mapping[str, Any]) -> str:
    """Return ``docs/bench.md``: all lines, the machine and the figures."""
    figures = "\n\n".join(f"## {name}\n\n![{name}](bench_{name}.png)" for name in content["parts"])
    return (
        "# Speed\n\nWritten by `make bench-readme` from [bench.json](bench.json). Ratios are median (lowest to highest) of runs by "
        f"turns.\n\n{_table(lines(content['parts']))}\n{machine(content['about'])}\n\n{figures}\n"
    )


def _table(found: Iterable[Line]) -> str:
    rows = ["| what | against | times faster, wall time | CPU time | and |", "|---|---|---|---|---|"]
    for line in found:
        cells = (text.replace("|", "/") for text in (line.what, line.against, line.wall, line.cpu, line.more))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def read_published(path: Path) -> dict[str, Any]:
    """Return the content of ``docs/bench.json``.

    Raises
    ------
    InputError: it is no such file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        block(content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} holds no numbers for README ({type(error).__name__}: {error}). Write it anew."
        ) from error
    return content


def replaced(text: str, new: str, path: Path) -> str:
    """Return ``text`` with ``new`` between the marks.

    Raises
    ------
    InputError: the marks are not there once each and in order.
    """
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in tail:
        raise InputError(
            f"{path} needs one line '{BEGIN}' and below it one line '{END}', where the table goes. Add them."
        )
    return f"{head}{BEGIN}\n{new}{END}{tail}"


def _text(readme: Path) -> str:
    try:
        return readme.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{readme} cannot be read ({error}). Give the README that holds '{BEGIN}'.") from error


def _one_row_a_line(content: Mapping[str, Any]) -> str:
    """Return JSON whose differences can be read: one row a line."""
    parts = [
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]"
        for name, rows in content["parts"].items()
    ]
    return f'{{"about": {json.dumps(content["about"])},\n"parts": {{\n' + ",\n".join(parts) + "\n}}\n"
