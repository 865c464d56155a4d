"""What is installed, which version, what each engine can do, what is missing and how to get it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from memprop.circuit.cell import load_cell
from memprop.circuit.elaborate import elaborate
from memprop.circuit.network import Network, Projection, population_of
from memprop.circuit.stimulus import AlphaWave, Stimulus
from memprop.conductance.pair import ConductanceRange
from memprop.data.sets import cache_folder
from memprop.deck.deck import Deck, ModelForm, Transient, VerilogModel
from memprop.deck.ngspice import make_deck
from memprop.errors import MempropError
from memprop.spice.engine import ENGINES, make_engine
from memprop.spice.find import NGSPICE_VARIABLE, find_libngspice, find_ngspice, find_vacask
from memprop.spice.osdi import compiler_version, find_openvaf, osdi_problem
from memprop.twin.cell import CellTwin
from memprop.twin.fused.compiler import find_compiler

Found = TypeVar("Found", str, Path)

PACKAGES = (
    "PySpice",
    "numpy",
    "scipy",
    "torch",
    "xarray",
    "pydantic",
    "lark",
    "sympy",
    "safetensors",
    "scikit-learn",
    "matplotlib",
    "typer",
    "rich",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    what: str
    good: bool
    detail: str
    needed: bool = True


def examine() -> Iterator[Finding]:
    """Yield what is there and what is missing; every engine simulates a one-neuron circuit as proof."""
    yield Finding("python", True, f"{platform.python_version()}, {os.cpu_count()} cores")
    for name in PACKAGES:
        try:
            yield Finding(name, True, version(name))
        except PackageNotFoundError:
            yield Finding(name, False, f"missing: pip install {name}")
    yield from _ngspice()
    yield _tool("libngspice", find_libngspice, lambda name: f"{name}, for the engine ngspice-shared")
    yield _tool("openvaf-r", find_openvaf, lambda path: f"{compiler_version(path)} at {path}, compiles Verilog-A")
    yield _tool("vacask", find_vacask, lambda path: f"{path}, runs compiled Verilog-A")
    yield _kernel()
    for name, kind in ENGINES.items():
        yield _engine(
            name, f"{kind.about}; compiled Verilog-A: {'yes' if kind.osdi else 'no, behavioural subcircuits'}"
        )
    yield Finding("data cache", True, f"{cache_folder()} (set MEMPROP_DATA to move it)")


def _ngspice() -> Iterator[Finding]:
    """Yield what is known of ngspice, and whether it loads compiled Verilog-A: it is made to, versions do not tell."""
    try:
        program = find_ngspice()
    except MempropError as error:
        yield Finding("ngspice", False, str(error))
        return
    yield Finding("ngspice", True, f"version {program.version} at {program.path}")
    problem = osdi_problem(program.path)
    missing = (
        f"no: {problem}. Optional, for the engine ngspice-osdi; set {NGSPICE_VARIABLE} to an ngspice built with OSDI"
    )
    yield Finding(
        "ngspice OSDI", not problem, missing if problem else "yes, probed with a compiled model", needed=False
    )


def _kernel() -> Finding:
    """Return whether the kernels of twins can be built: one is, and runs."""
    try:
        twin = CellTwin(1, kernel="fused")
        above = twin(torch.zeros(2, 1, 1))
        good = bool(above.isfinite().all())
        return Finding("twin kernels", good, f"built with {find_compiler()}, {torch.get_num_threads()} threads")
    except MempropError as error:
        return Finding("twin kernels", False, f"optional, twins run many times slower: {error}", needed=False)


def _tool(what: str, find: Callable[[], Found], about: Callable[[Found], str]) -> Finding:
    """Return whether an optional program or library is there."""
    try:
        return Finding(what, True, about(find()), needed=False)
    except MempropError as error:
        return Finding(what, False, f"optional: {error}", needed=False)


def _engine(name: str, about: str) -> Finding:
    try:
        engine = make_engine(name)
        try:
            recording = engine.run(_compiled_probe() if ENGINES[name].osdi else _probe_deck(), timeout_s=60)
        finally:
            engine.close()
    except MempropError as error:
        return Finding(f"engine {name}", False, str(error), needed=name == "ngspice")
    return Finding(f"engine {name}", True, f"{about}; probe: {recording.sizes['time']} time points")


def _compiled_probe() -> Deck:
    """Return a compiled conductance that discharges a capacitor: the smallest deck that needs Verilog-A."""
    text = """`include "disciplines.vams"
module memprop_leak(p, n);
    inout p, n;
    electrical p, n;
    parameter real g = 1.0;
    analog I(p, n) <+ g * V(p, n);
endmodule
"""
    behavioural = ".subckt memprop_leak p n params: g=1.0\nrleak p n {1/g}\n.ends memprop_leak\n"
    model = VerilogModel("leak.lib", "memprop_leak", text, ("p", "n"), (), (ModelForm("memprop_leak", {"g": 1.0}, {}),))
    circuit = "i1 0 a 1e-6\nc1 a 0 1e-9\nx1 a 0 memprop_leak g=1e-3\n"
    files = {"leak.lib": behavioural, "probe.inc": circuit}
    return Deck("probe", files, Transient(10e-6, 0.5e-6), ("a",), verilog=(model,))


def _probe_deck() -> Deck:
    cell = load_cell("mif")
    pair = np.full((1, 1), 5e-5), np.full((1, 1), 1e-6)
    network = Network(
        "probe", 1, (population_of("x1", 1, cell, {}, 18.3e-3),), (Projection("x0", "x1", *pair),), ConductanceRange()
    )
    stimulus = Stimulus(np.array([0.1]), AlphaWave(10e-6, (0.0,), 20e-6))
    return make_deck(elaborate(network, "full", stimulus), 0.5e-6, 20e-6)
