"""What passes make: sections of a circuit, and where power is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PySpice.Spice.Netlist import Circuit, SubCircuit

TILE = 64
"""Largest number of rows and of columns of one tile."""


@dataclass(frozen=True, slots=True)
class Section:
    """Part of a circuit that goes into one file: subcircuits, and elements at the top level."""

    file: str
    about: str
    subcircuits: tuple[SubCircuit, ...]
    top: Circuit


@dataclass(frozen=True, slots=True)
class Meter:
    """Where to read the power of one source: ``sign x v(node) x i(branch)`` is what it delivers, in W."""

    group: Literal["crossbars", "neurons"]
    node: str
    branch: str
    sign: float
