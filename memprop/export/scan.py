"""Refuse netlists that do more than describe a circuit: a stranger's bundle is data, ngspice's control language is not."""

from __future__ import annotations

import re
from pathlib import Path

from memprop.errors import BundleError, InputError
from memprop.files import inside

CONTROL = frozenset({"run", "meas", "let", "if", "else", "end", "echo", "quit", "write", "set"})
"""Control commands a testbench needs; everything else, such as shell, is refused."""
DOT = frozenset({
    ".include", ".subckt", ".ends", ".options", ".save", ".tran", ".end", ".control", ".endc", ".param", ".model", ".ic", ".temp",
})  # fmt: skip


def scan(folder: Path, file: str, seen: set[str] | None = None) -> None:
    """Check ``folder/file`` and all that it includes.

    Raises
    ------
    BundleError: a command or card that is not needed for a circuit, or an include outside of ``folder``; with file and line.
    """
    seen = set() if seen is None else seen
    if file in seen:
        return
    seen.add(file)
    control = False
    for number, raw in enumerate(_text(folder, file).splitlines(), 1):
        line = raw.strip()
        word = line.split(None, 1)[0].lower() if line else ""
        where = f"{folder}/{file}, line {number}"
        if control and word != ".endc":
            if (word and not word.startswith("*") and word not in CONTROL) or re.search(r"[`]|\$\(|[<>|;]\s*/", line):
                raise BundleError(
                    f"{where}: command '{word}' is not allowed in a bundle. Remove it, or run the file by hand."
                )
            if word == "write" and not re.fullmatch(r"write [\w.]+\.raw( [\w()#.]+)*", line):
                raise BundleError(f"{where}: write may only make a .raw file beside the testbench. Correct the name.")
        elif word.startswith(".") and word not in DOT:
            raise BundleError(f"{where}: card '{word}' is not allowed in a bundle. Remove it, or run the file by hand.")
        elif word == ".include":
            scan(folder, line.split(None, 1)[1].strip().strip("\"'"), seen)
        elif re.search(r"\bfile\s*=", line, flags=re.IGNORECASE):
            raise BundleError(
                f"{where}: a source that reads a file is not allowed in a bundle. Write the values into the netlist."
            )
        control = (control or word == ".control") and word != ".endc"


def _text(folder: Path, file: str) -> str:
    try:
        return inside(folder, file).read_text(encoding="utf-8")
    except InputError as error:
        raise BundleError(f"bundle {folder}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(
            f"bundle {folder}: file '{file}' cannot be read ({error}). Export the bundle again."
        ) from error
