"""What passes make: sections of a circuit, and where power is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from PySpice.Spice.Netlist import Circuit, SubCircuit

from memprop.conductance.pair import Array

TILE = 64
"""Largest number of rows and of columns of one tile."""
Group = Literal["crossbars", "neurons"]


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

    group: Group
    node: str
    branch: str
    sign: float

    def power(self, signals: Mapping[str, Array]) -> Array:
        """Return the power in W, ``[points]``, from voltages in V by node and currents in A by ``i(branch)``."""
        return self.sign * signals[self.node] * signals[f"i({self.branch})"]


@dataclass(frozen=True, slots=True)
class Load:
    """A load that the circuit itself has not, since it moves no membrane: ``conductance x (v(node) - rest)^2``, in W."""

    group: Group
    node: str
    """A membrane, which every deck keeps."""
    rest: float
    """Voltage in V at which the load is idle."""
    conductance: float
    """Sum of the conductances of the row, in S."""

    def power(self, signals: Mapping[str, Array]) -> Array:
        """Return the power in W, ``[points]``, from voltages in V by node."""
        return self.conductance * (signals[self.node] - self.rest) ** 2
