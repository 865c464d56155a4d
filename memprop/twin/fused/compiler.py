"""Build C++ text into a library with the compiler of the machine, once, and keep it."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import warnings
from pathlib import Path

import torch

from memprop.errors import EngineError
from memprop.files import cache_folder, ensure_folder, sha256, write_atomic

VARIABLE = "CXX"
INSTALL = "Debian/Ubuntu: sudo apt-get install g++; macOS: xcode-select --install; or set CXX"
FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffinite-math-only",
    "-fno-signed-zeros",
    "-ffp-contract=fast",
    "-shared",
    "-fPIC",
)
_ALONE = ["-fopenmp-simd"]
_WIDE = ("-mprefer-vector-width=512",)
_BUILDING = threading.Lock()


def find_compiler() -> Path:
    """Return the C++ compiler to use.

    Raises
    ------
    EngineError: there is none.
    """
    given = os.environ.get(VARIABLE)
    for name in [given] if given else ["c++", "g++", "clang++"]:
        if found := shutil.which(name):
            return Path(found)
    where = f"as {VARIABLE}={given} says" if given else "as c++, g++ or clang++ in PATH"
    raise EngineError(f"no C++ compiler {where}. {INSTALL}.")


def compiler_version() -> str:
    """Return what the compiler says of itself in one line.

    Raises
    ------
    EngineError: there is none, or it does not run.
    """
    compiler = find_compiler()
    lines = _run([str(compiler), "--version"], Path.cwd()).stdout.splitlines()
    return lines[0].strip() if lines else compiler.name


def build(text: str) -> ctypes.CDLL:
    """Return the library of ``text``, from the cache where the same compiler has built it for the same processor.

    Raises
    ------
    EngineError: there is no compiler, or it refuses the text.
    """
    compiler = find_compiler()
    key = sha256(f"{_identity(compiler)}\n{text}")[:32]
    target = ensure_folder(cache_folder("twin")) / f"twin-{key}.so"
    with _BUILDING:
        if not target.is_file():
            write_atomic(target, _built(compiler, text))
        return _loaded(target)


@functools.cache
def _loaded(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise EngineError(
            f"the kernel {path} was built and cannot be loaded ({error}). Does the folder allow programs? Set MEMPROP_CACHE to another."
        ) from error


@functools.cache
def _identity(compiler: Path) -> str:
    """Return what decides the machine code: compiler, flags, processor, torch's threads library."""
    done = _run([str(compiler), "--version"], Path.cwd())
    return "\n".join([str(compiler), done.stdout, _processor(), *FLAGS, *_openmp()])


def _processor() -> str:
    """Return what tells processors apart that ``-march=native`` tells apart."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return "\n".join(next((line for line in lines if line.startswith(key)), "") for key in ("model name", "flags"))


def _openmp() -> list[str]:
    """Return the flags of threads: torch's own library of them, since two in one process wait for each other's threads."""
    folder = Path(torch.__file__).parent / "lib"
    own = sorted(folder.glob("libgomp*.so*"))
    return ["-fopenmp", str(own[0]), f"-Wl,-rpath,{folder}"] if own else ["-fopenmp"]


def _built(compiler: Path, text: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="memprop-twin-") as name:
        folder = Path(name)
        (folder / "twin.cpp").write_text(text, encoding="utf-8")
        tried = []
        for flags in ([*_WIDE, *_openmp()], _openmp(), _ALONE):
            done = _run([str(compiler), *FLAGS, "twin.cpp", "-o", "twin.so", *flags], folder)
            if not done.returncode and (folder / "twin.so").is_file():
                if flags is _ALONE:
                    warnings.warn(
                        f"{compiler} has no OpenMP: the kernels of twins use one core. {INSTALL}.", stacklevel=2
                    )
                return (folder / "twin.so").read_bytes()
            tried.append(done.stderr.strip())
    raise EngineError(f"{compiler} does not build the kernel of a twin: {tried[-1][:800] or 'no message'}. {INSTALL}.")


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=300, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{command[0]} does not run ({error}). {INSTALL}.") from error
