"""A network as a graph: populations of cells and projections of conductance pairs between them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from PySpice.Spice.Netlist import SubCircuit

from memprop.circuit.cell import Cell, as_cell, load_cell
from memprop.circuit.wires import Wires
from memprop.conductance.pair import Array, ConductanceRange, check_pair
from memprop.errors import InputError

INPUT = "x0"
"""Name of the input rows, as if they were a population."""


@dataclass(frozen=True, slots=True)
class Population:
    """Equal neurons with their own parameters."""

    name: str
    size: int
    cell: Cell
    parameters: Mapping[str, float | Array]
    """Cell parameters in SI units, one value or one per neuron."""
    rest: tuple[float, ...]
    """Membrane in V at zero input, per neuron, as the designer expects it; rows carry the membrane relative to it."""
    gain: tuple[float, ...] | None = None
    """Current into each membrane per current of its column; None: 1, ideal mirrors."""
    offset: tuple[float, ...] | None = None
    """Current in A that the mirror of each column adds to its membrane; None: none."""


@dataclass(frozen=True, slots=True)
class Projection:
    """A crossbar from the rows of ``pre`` to the columns of ``post``."""

    pre: str
    post: str
    g_plus: Array
    """Conductances in S from the + rows, ``[row, column]``."""
    g_minus: Array
    """Conductances in S from the - rows, ``[row, column]``."""

    @property
    def name(self) -> str:
        """Name used in netlists, e.g. ``x0_x1``."""
        return f"{self.pre}_{self.post}"


@dataclass(frozen=True, slots=True)
class Network:
    """A network of populations and projections, checked when made.

    Raises
    ------
    InputError: names are not netlist names or not unique, a projection refers to an unknown population, shapes do not fit, or
    a conductance is outside of the window; or there are wires, and the synapse is not the shipped pair.
    """

    name: str
    inputs: int
    populations: tuple[Population, ...]
    projections: tuple[Projection, ...]
    window: ConductanceRange
    synapse: Cell | SubCircuit | str = "rram_pair"
    """Cell of every pair: a Cell, the name of a shipped one, or a user's own PySpice SubCircuit."""
    wires: Wires | None = None
    """Resistance of the wires of all crossbars; None: ideal wires."""

    def __post_init__(self) -> None:
        check_name(self.name)
        object.__setattr__(self, "synapse", self.pair)  # read and checked once
        if self.inputs < 1 or not self.populations:
            raise InputError(
                f"network {self.name} has {self.inputs} input rows and {len(self.populations)} populations; needs 1 of each."
            )
        sizes = {INPUT: self.inputs}
        for population in self.populations:
            check_name(population.name)
            rest = np.asarray(population.rest, dtype=np.float64)
            if population.name in sizes or rest.shape != (population.size,) or not np.isfinite(rest).all():
                raise InputError(
                    f"population '{population.name}' is there twice, or has not one finite rest voltage in V per neuron."
                )
            _check_mirrors(population)
            as_cell(population.cell, "neuron", "mif").values(population.size, population.parameters)
            sizes[population.name] = population.size
        seen: set[str] = set()
        for projection in self.projections:
            where = f"network {self.name}, projection {projection.name}"
            if projection.pre not in sizes or projection.post not in sizes or projection.post == INPUT:
                raise InputError(f"{where}: unknown end. Populations are {', '.join(sizes)}; {INPUT} has no columns.")
            shape = (sizes[projection.pre], sizes[projection.post])
            if projection.g_plus.shape != shape or projection.name in seen:
                raise InputError(
                    f"{where}: shape {projection.g_plus.shape} is not {shape} [row, column], or it is there twice."
                )
            seen.add(projection.name)
            check_pair(projection.g_plus, projection.g_minus, self.window, f"{self.name}/{projection.name}")
        if self.wires is not None and self.pair.text != load_cell("rram_pair").text:
            raise InputError(
                f"network {self.name}: wires run through the shipped rram_pair only, and its synapse is '{self.pair.name}'. "
                "Drop the wires, or use the shipped pair."
            )

    def population(self, name: str) -> Population:
        """Return the population called ``name``."""
        for population in self.populations:
            if population.name == name:
                return population
        raise InputError(
            f"network {self.name} has no population '{name}'. Known: {', '.join(p.name for p in self.populations)}."
        )

    @property
    def pair(self) -> Cell:
        """Cell of every pair."""
        return as_cell(self.synapse, "synapse", "rram_pair")

    @property
    def cells(self) -> int:
        """Number of RRAM cells, two per pair."""
        return sum(2 * projection.g_plus.size for projection in self.projections)

    @property
    def output(self) -> Population:
        """The population that is read out: the last one."""
        return self.populations[-1]

    def with_conductances(self, pairs: Mapping[str, tuple[Array, Array]]) -> Network:
        """Return the network with other conductances, by projection name."""
        unknown = set(pairs) - {projection.name for projection in self.projections}
        if unknown:
            raise InputError(f"network {self.name} has no projection {', '.join(sorted(unknown))}.")
        projections = tuple(
            replace(p, g_plus=pairs[p.name][0], g_minus=pairs[p.name][1]) if p.name in pairs else p
            for p in self.projections
        )
        return replace(self, projections=projections)

    def check_chain(self) -> None:
        """Raise InputError unless the network is a feed-forward chain x0 -> x1 -> ..."""
        names = [INPUT, *(population.name for population in self.populations)]
        if [(p.pre, p.post) for p in self.projections] != list(pairwise(names)):
            raise InputError(
                f"network {self.name} is no feed-forward chain; the twin of a general graph is not there yet."
            )


def _check_mirrors(population: Population) -> None:
    for name, unit, lowest in (("gain", "A/A", 0.0), ("offset", "A", -np.inf)):
        given = getattr(population, name)
        values = np.zeros(0) if given is None else np.asarray(given, dtype=np.float64)
        if given is not None and (
            values.shape != (population.size,) or not (np.isfinite(values) & (values > lowest)).all()
        ):
            above = "above 0 " if lowest == 0.0 else ""
            raise InputError(
                f"population '{population.name}': {name} of its mirrors is {given!r} {unit}; needs one finite number {above}"
                f"for each of {population.size} neurons, or None for ideal mirrors."
            )


def check_name(name: str) -> None:
    """Raise InputError unless ``name`` is safe in every dialect: a lower-case letter, then letters, digits, underscores."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise InputError(
            f"name '{name}' is no netlist name: use a lower-case letter, then letters, digits or _, at most 63."
        )


def population_of(
    name: str,
    size: int,
    cell: Cell | SubCircuit | str,
    parameters: Mapping[str, ArrayLike],
    rest: float | tuple[float, ...],
) -> Population:
    """Return a population with checked parameters; ``rest`` in V is one value or one per neuron.

    ``cell`` is a Cell, the name of a shipped one, or a user's own PySpice SubCircuit with the ports of a neuron.
    """
    cell = as_cell(cell, "neuron", "mif")
    values = cell.values(size, parameters)
    level = tuple(float(v) for v in np.broadcast_to(np.asarray(rest, dtype=np.float64), size))
    return Population(name, size, cell, values, level)
