"""The machine: what is installed, and what its cores and its memory can do at most."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import memprop
from memprop.errors import EngineError
from memprop.files import sha256
from memprop.flow.bench.measure import Run
from memprop.spice.engine import Engine, make_engine
from memprop.spice.find import find_ngspice
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.osdi import osdi_problem
from memprop.twin.fused.compiler import build, compiler_version

PACKAGES = ("memprop", "torch", "numpy", "scipy")
ENGINE_NAMES = ("ngspice", "ngspice-osdi", "vacask")
"""Engines that are compared, where they are there."""
FRAME = Path(__file__).with_name("peaks.cpp.in")
ROUNDS, VALUES = 4_000_000, 2**24
"""Rounds of the loops of arithmetic; numbers per vector of the loop over memory, 64 MiB of float32."""
PER_TRIAD = 3 * 4
"""Bytes that one number of ``a = b + s c`` moves, as STREAM counts them: two read, one written."""


def describe(osdi: Path | None = None) -> dict[str, Any]:
    """Return machine and versions, as far as they can change a time; ``osdi`` as in `engines`."""
    packages = {name: _version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(), **packages, "compiler": _found(compiler_version),
        "engines": {name: engine.name for name, engine in engines(osdi).items()},
        "cpu": _cpu(), "cores": os.cpu_count(), "threads": torch.get_num_threads(),
    }  # fmt: skip


def source() -> str:
    """Return a hash of the files of memprop: times of another text are times of another program."""
    package = Path(memprop.__file__).parent
    files = sorted(path for path in package.rglob("*") if path.suffix in (".py", ".in"))
    return sha256("".join(f"{path.relative_to(package)}\n{path.read_text(encoding='utf-8')}\n" for path in files))[:16]


def engines(osdi: Path | None = None) -> dict[str, Engine]:
    """Return the engines of this machine, of those that are compared; ``osdi`` is an ngspice with OSDI beside the usual one.

    Raises
    ------
    EngineError: ``osdi`` is none.
    """
    found: dict[str, Engine] = {}
    for name in ENGINE_NAMES:
        if name == "ngspice-osdi" and osdi is not None:
            found[name] = _with_osdi(osdi)
            continue
        with contextlib.suppress(EngineError):
            found[name] = make_engine(name)
    return found


def _with_osdi(path: Path) -> NgspiceEngine:
    program = find_ngspice(path)
    if problem := osdi_problem(program.path):
        raise EngineError(f"{path}: {problem} (version {program.version}). Give an ngspice that was built with OSDI.")
    return NgspiceEngine(program, osdi=True)


def _found(find: Callable[[], str]) -> str | None:
    try:
        return find()
    except EngineError:
        return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}".strip()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


class Peaks:
    """Loops that do nothing but multiply-adds, divisions, or moves of memory, with the threads of torch.

    Parameters
    ----------
    rounds: of the loops of arithmetic.
    values: numbers of each of the three vectors in memory.

    Raises
    ------
    EngineError: there is no C++ compiler.
    """

    def __init__(self, rounds: int = ROUNDS, values: int = VALUES) -> None:
        library = build(FRAME.read_text(encoding="utf-8"))
        self._loops = library.memprop_multiply_add, library.memprop_divide, library.memprop_triad
        for loop in self._loops:
            loop.restype = ctypes.c_int64
        self.rounds, self.vectors = rounds, [torch.zeros(values) for _ in range(3)]
        self._done: dict[str, int] = {}

    def cases(self) -> dict[str, Run]:
        """Return the loops by name."""
        return {"multiply-add": self._arithmetic(0), "divide": self._arithmetic(1), "triad": self._triad}

    def _arithmetic(self, which: int) -> Run:
        def run() -> None:
            threads = torch.get_num_threads()
            lanes = self._loops[which](ctypes.c_int64(self.rounds), ctypes.c_int(threads))
            self._done["divide" if which else "multiply-add"] = lanes * self.rounds * threads

        return run

    def _triad(self) -> None:
        places = [ctypes.c_void_p(vector.data_ptr()) for vector in self.vectors]
        values = ctypes.c_int64(len(self.vectors[0]))
        self._done["triad"] = self._loops[2](*places, values, ctypes.c_int(torch.get_num_threads()))

    def work(self) -> Mapping[str, float]:
        """Return what one call of each loop did: floating-point operations (two per multiply-add), divisions, bytes."""
        done = self._done
        return {"multiply-add": 2 * done["multiply-add"], "divide": done["divide"], "triad": PER_TRIAD * done["triad"]}
