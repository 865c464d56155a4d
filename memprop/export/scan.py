"""Refuse netlists that do more than describe a circuit: a stranger's bundle is data, ngspice's control language is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from memprop.errors import BundleError, InputError
from memprop.files import inside

_NAME = r"[\w.#]+"
_NUMBER = r"[-+]?[\d.]+(?:e[-+]?\d+)?"
_CONTROL = re.compile(
    rf"""\*(?!\#)[^;]*                                         # a comment
    | run | else | end | quit\ [01] | let\ passed\ =\ (?:0|passed\ \+\ 1) | set\ filetype=binary
    | echo\ (?:PASS|FAIL)\ {_NAME} | echo\ TESTBENCH\ (?:PASS|FAIL)
    | meas\ tran\ \w+\ (?:avg|max|min|rms|pp|integ)\ [vi]\({_NAME}\)\ from={_NUMBER}\ to={_NUMBER}
    | if\ abs\(\w+\ -\ \({_NUMBER}\)\)\ <=\ {_NUMBER} | if\ passed\ =\ \d+
    | write\ \w+\.raw(?:\ [vi]\({_NAME}\))*""",
    re.VERBOSE | re.IGNORECASE,
)
"""All that a testbench says between .control and .endc, to the letter; anything else, such as shell, is refused."""
_CARDS = frozenset({
    ".include", ".subckt", ".ends", ".options", ".save", ".tran", ".end", ".control", ".endc", ".param", ".model", ".ic", ".temp",
})  # fmt: skip
_CELL_CARDS = frozenset({".subckt", ".ends", ".param", ".model", ".ic"})
_ELEMENTS = frozenset("bcdefghijklmqrvx+")
"""First letters of elements; not a, the code models, some of which read files and start programs."""


def scan(folder: Path, file: str) -> None:
    """Check the testbench ``folder/file`` and all that it includes.

    Raises
    ------
    BundleError: a command, card or element that no circuit needs, a file included twice, a control block outside of the
    testbench, or an include outside of ``folder``; with file and line.
    """
    _scan(folder, file, {file}, main=True)


def scan_cells(folder: Path, file: str) -> None:
    """Check a file of subcircuits, which go into every deck that is made from the bundle.

    Raises
    ------
    BundleError: it holds anything but subcircuits, parameters and models; with file and line.
    """
    for line, word, where in _lines(folder, file):
        _check_netlist(line, word, where)
        if word.startswith(".") and word not in _CELL_CARDS:
            raise BundleError(f"{where}: card '{word}' is not allowed among cells. Remove it.")


def _scan(folder: Path, file: str, seen: set[str], *, main: bool) -> None:
    control = False
    for line, word, where in _lines(folder, file):
        if word == ".include":
            name = _included(line, where)
            if control or "/" in file or name in seen:
                raise BundleError(f"{where}: .include is not allowed here: once per file, from the top level. Move it.")
            seen.add(name)
            _scan(folder, name, seen, main=False)
        elif control and word != ".endc":
            _check_control(line, where)
        else:
            _check_netlist(line, word, where)
            if word == ".control" and not main:
                raise BundleError(f"{where}: a control block is not allowed in an included file. Remove it.")
            control = (control or word == ".control") and word != ".endc"


def _lines(folder: Path, file: str) -> Iterator[tuple[str, str, str]]:
    """Yield line, first word in lower case, and place; lines end where ngspice ends them, only at line feeds."""
    for number, raw in enumerate(_text(folder, file).split("\n"), 1):
        line = raw.strip()
        where = f"{folder}/{file}, line {number}"
        if not raw.removesuffix("\r").replace("\t", " ").isprintable():
            raise BundleError(f"{where}: it holds a control character, which hides what follows. Remove it.")
        yield line, (line.split(None, 1)[0].lower() if line else ""), where


def _included(line: str, where: str) -> str:
    words = line.split(None, 1)
    name = re.fullmatch(r"([\"']?)([\w./-]+)\1", words[1].strip()) if len(words) == 2 else None
    if name is None:
        raise BundleError(f"{where}: .include must name one file, of letters, digits and ._-/ only. Correct the name.")
    return name[2]


def _check_control(line: str, where: str) -> None:
    if line and not _CONTROL.fullmatch(line):
        command = line.split(maxsplit=1)[0]
        raise BundleError(
            f"{where}: command '{command}' is not allowed in a bundle like this. Remove it, or run the file by hand."
        )


def _check_netlist(line: str, word: str, where: str) -> None:
    if re.match(r"\*\s*(?:#|ng_)", line, flags=re.IGNORECASE):
        raise BundleError(f"{where}: a comment that ngspice takes as a command is not allowed in a bundle. Remove it.")
    if not line or line.startswith("*"):
        return
    if word.startswith("."):
        if word not in _CARDS:
            raise BundleError(f"{where}: card '{word}' is not allowed in a bundle. Remove it, or run the file by hand.")
    elif word[0] not in _ELEMENTS:
        raise BundleError(f"{where}: element '{word}' is not allowed in a bundle. Remove it, or run the file by hand.")
    if re.search(r"\b\w*(?:file|simulation)\s*=", line, flags=re.IGNORECASE):
        raise BundleError(
            f"{where}: a source that reads a file is not allowed in a bundle. Write the values into the netlist."
        )


def _text(folder: Path, file: str) -> str:
    try:
        return inside(folder, file).read_bytes().decode("utf-8")
    except InputError as error:
        raise BundleError(f"bundle {folder}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(
            f"bundle {folder}: file '{file}' cannot be read ({error}). Export the bundle again."
        ) from error
