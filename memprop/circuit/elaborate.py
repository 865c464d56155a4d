"""Network -> PySpice circuit, as an ordered tuple of passes; each adds one section, which becomes one file of a bundle.

Two forms of the same network share all sections but the crossbars and the input:

* ``full``: every RRAM cell is a resistor, in tiles of at most 64 x 64 pairs; every input row has its driver.
* ``reduced``: each crossbar is replaced by its exact transconductance. That is no approximation: rows are ideal voltage
  sources and columns virtual grounds, so the column currents are linear in the row voltages, and the load of each row
  line, which sets the energy, is the sum of its conductances. The input rows share one waveform, so their crossbar
  collapses further, to one current per column and one load.

Node names: ``<population>_row<i>_p``, ``_n`` (row lines), ``<population>_col<j>`` (virtual ground), ``<population>_col<j>_mem``
(membrane), ``<population>_rest<i>``, ``x0_wave``, rails ``e1`` and ``e2``; those of wires: see `memprop.circuit.wired`.

With wire resistance the same holds: transconductances and loads are those of the crossbar with its wires (see
`memprop.circuit.wires`). There every row loads every other one, so that the power of the hidden row drivers is a quadratic form
of their membranes. Ideal drivers do not feel it; it is computed from the recorded membranes (`Load`), not simulated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PySpice.Spice.Netlist import Circuit, SubCircuit

from memprop.circuit.cell import RAILS, Cell, load_cell
from memprop.circuit.image import input_values
from memprop.circuit.network import INPUT, Network, Population, Projection
from memprop.circuit.stimulus import AlphaWave, Stimulus
from memprop.circuit.wired import wired_tiles
from memprop.circuit.wires import reduce_crossbar
from memprop.conductance.pair import Array
from memprop.errors import InputError

Form = Literal["full", "reduced"]
FORMS: tuple[Form, ...] = ("full", "reduced")
TILE = 64
"""Largest number of rows and of columns of one tile."""


RESERVED = ("wired_pair", "column_mirror", "row_driver", "input_driver", "tile_", "mss_memristor")
"""Beginnings of the subcircuit names that decks use themselves."""


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


@dataclass(frozen=True, slots=True)
class Load:
    """Power that the row drivers of a population deliver to a crossbar that the netlist does not load them with."""

    population: Population
    matrix: Array
    """In S, ``[row, row]``."""

    def power(self, membranes: Array) -> Array:
        """Return the power in W, ``[points]``, at membranes in V, ``[points, row]``."""
        above = membranes - np.asarray(self.population.rest)
        return np.einsum("ti,ij,tj->t", above, self.matrix, above, optimize=True)


@dataclass(frozen=True, slots=True)
class Elaborated:
    """A network as sections of PySpice circuits, with the names to observe."""

    network: Network
    form: Form
    sections: tuple[Section, ...]
    meters: tuple[Meter, ...]
    loads: tuple[Load, ...] = ()

    def membranes(self) -> dict[str, list[str]]:
        """Return the membrane nodes of each population."""
        return {p.name: [f"{p.name}_col{j}_mem" for j in range(p.size)] for p in self.network.populations}

    def circuit(self) -> Circuit:
        """Return everything as one PySpice circuit (without the device models, which are text)."""
        whole = Circuit(f"{self.network.name} {self.form}")
        for section in self.sections:
            for subcircuit in section.subcircuits:
                whole.subcircuit(subcircuit)
            section.top.copy_to(whole)
        return whole


def elaborate(network: Network, form: Form, stimulus: Stimulus) -> Elaborated:
    """Return ``network`` under ``stimulus`` in one of the two forms.

    Raises
    ------
    InputError: unknown form, or not one amplitude per input row.
    """
    if form not in FORMS:
        raise InputError(f"netlist form '{form}' is unknown. Known: {', '.join(FORMS)}.")
    check_stimulus(network, stimulus)
    sections = tuple(make(network, stimulus) for make in PASSES[form])
    return Elaborated(network, form, sections, tuple(_meters(network, form)), tuple(_loads(network, form)))


def check_stimulus(network: Network, stimulus: Stimulus) -> None:
    """Raise InputError unless ``stimulus`` has one amplitude per input row."""
    if stimulus.amplitude.shape != (network.inputs,):
        raise InputError(
            f"stimulus has {stimulus.amplitude.shape[0]} rows; network {network.name} has {network.inputs}."
        )


def _cells(network: Network, stimulus: Stimulus) -> Section:  # noqa: ARG001 - one signature for all passes
    """Cell subcircuits, each once."""
    found: dict[str, Cell] = {}
    for cell in (*(population.cell for population in network.populations), network.pair):
        if cell.name.startswith(RESERVED) or found.setdefault(cell.name, cell).text != cell.text:
            raise InputError(
                f"network {network.name}: cell name '{cell.name}' stands for two subcircuits of the deck. Rename your cell."
            )
    return Section(
        "cells.inc", "neuron and synapse cells", tuple(cell.subcircuit for cell in found.values()), Circuit("cells")
    )


def _populations(network: Network, stimulus: Stimulus) -> Section:  # noqa: ARG001
    """Rails, and for every neuron its column mirror, its cell and, where it drives rows, its row driver."""
    top = Circuit("populations")
    supplies = network.populations[0].cell.card.supplies
    for rail in RAILS:
        supply = supplies[rail]
        if any(p.cell.card.supplies[rail].voltage != supply.voltage for p in network.populations):
            raise InputError(
                f"populations of {network.name} ask for different voltages of rail {rail}. Use one voltage per rail."
            )
        top.V(f"_{rail}", rail, 0, supply.voltage)
    drives = {projection.pre for projection in network.projections}
    for population in network.populations:
        for j in range(population.size):
            column = f"{population.name}_col{j}"
            top.X(f"_{column}_mirror", "column_mirror", column, f"{column}_mem", 0)
            top.X(f"_{column}_cell", population.cell.name, f"{column}_mem", *RAILS, 0, **_instance(population, j))
            if population.name in drives:
                row = f"{population.name}_row{j}"
                top.V(f"_{population.name}_rest{j}", f"{population.name}_rest{j}", 0, population.rest[j])
                top.X(f"_{row}", "row_driver", f"{row}_p", f"{row}_n", f"{column}_mem", f"{population.name}_rest{j}")
    return Section(
        "populations.inc", "rails, neurons, column mirrors, row drivers", (_column_mirror(), _row_driver()), top
    )


def _instance(population: Population, j: int) -> dict[str, float]:
    """Return the parameters of neuron ``j`` that differ from the defaults of its cell."""
    card = population.cell.card.parameters
    values = {name: float(np.broadcast_to(value, population.size)[j]) for name, value in population.parameters.items()}
    return {name: value for name, value in values.items() if value != card[name].default}


def _column_mirror() -> SubCircuit:
    """Virtual ground of a column; its current is mirrored into the membrane."""
    mirror = SubCircuit("column_mirror", "col", "mem", "ref")
    mirror.V("sense", "col", "ref", 0)
    mirror.F("mirror", "ref", "mem", "vsense", 1)
    return mirror


def _row_driver() -> SubCircuit:
    """Buffered membrane relative to rest, gain +1 and -1."""
    driver = SubCircuit("row_driver", "rp", "rn", "mem", "rest")
    driver.VCVS("plus", "rp", 0, "mem", "rest", 1)
    driver.VCVS("minus", "rn", 0, "mem", "rest", -1)
    return driver


def _crossbars_full(network: Network, stimulus: Stimulus) -> Section:  # noqa: ARG001
    """Tiles with one pair instance per synapse; the only place where conductances stand."""
    if network.wires is not None:
        about = f"crossbar tiles; gp and gm in S; wire segments of {network.wires.row!r} (rows) and {network.wires.column!r} Ohm"
        return Section("conductances.inc", about, *wired_tiles(network, network.wires, TILE))
    tiles: list[SubCircuit] = []
    top = Circuit("conductances")
    for projection in network.projections:
        rows, columns = projection.g_plus.shape
        for r in range(0, rows, TILE):
            for c in range(0, columns, TILE):
                block = (slice(r, min(r + TILE, rows)), slice(c, min(c + TILE, columns)))
                name = f"tile_{projection.name}_r{r // TILE}_c{c // TILE}"
                tiles.append(_tile(name, network.pair.name, projection.g_plus[block], projection.g_minus[block]))
                lines = _row_lines(projection, range(block[0].start, block[0].stop))
                ends = [f"{projection.post}_col{j}" for j in range(block[1].start, block[1].stop)]
                top.X(f"_{name}", name, *lines, *ends)
    return Section("conductances.inc", "crossbar tiles; gp and gm are the trained conductances in S", tuple(tiles), top)


def _row_lines(projection: Projection, rows: range) -> list[str]:
    return [f"{projection.pre}_row{i}_{sign}" for i in rows for sign in ("p", "n")]


def _tile(name: str, cell: str, g_plus: Array, g_minus: Array) -> SubCircuit:
    rows, columns = g_plus.shape
    lines = [f"r{sign}{i}" for i in range(rows) for sign in ("p", "n")]
    tile = SubCircuit(name, *lines, *(f"col{j}" for j in range(columns)))
    for i in range(rows):
        for j in range(columns):
            tile.X(f"r{i}_c{j}", cell, f"rp{i}", f"rn{i}", f"col{j}", gp=float(g_plus[i, j]), gm=float(g_minus[i, j]))
    return tile


def _crossbars_reduced(network: Network, stimulus: Stimulus) -> Section:  # noqa: ARG001
    """Crossbars between populations as transconductances."""
    if network.pair.text != load_cell("rram_pair").text:
        raise InputError(
            f"network {network.name}: the reduced form replaces ideal pairs, and synapse '{network.pair.name}' is not the shipped "
            "one. Use the full form."
        )
    top = Circuit("reduced")
    for projection in network.projections:
        if projection.pre != INPUT:
            _transconductance(top, network, projection)
    return Section("reduced.inc", "crossbars as exact transconductances and loads, in S", (), top)


def _image_reduced(network: Network, stimulus: Stimulus) -> Section:
    """Collapse the input crossbars under the image."""
    top = Circuit("image")
    for projection in network.projections:
        if projection.pre == INPUT:
            _norton(top, network, projection, stimulus.amplitude)
    return Section(
        "image_reduced.inc",
        "image seen through the input crossbar: column currents per V of x0_wave, and the load",
        (),
        top,
    )


def _norton(top: Circuit, network: Network, projection: Projection, amplitude: Array) -> None:
    """One current per column and unit of the waveform, and the load that draws the energy of all rows."""
    per_wave, load = input_values(network, projection, amplitude)
    for j, value in enumerate(per_wave):
        column = f"{projection.post}_col{j}"
        top.VCCS(f"_{projection.name}_col{j}", 0, column, "x0_wave", 0, float(value))
    if load > 0.0:
        top.R(f"_{projection.name}_load", "x0_wave", 0, 1.0 / load)


def _transconductance(top: Circuit, network: Network, projection: Projection) -> None:
    weight = reduce_crossbar(projection.g_plus, projection.g_minus, network.wires).weight
    loads = (projection.g_plus.sum(1), projection.g_minus.sum(1))
    for i in range(weight.shape[0]):
        row = f"{projection.pre}_row{i}"
        for sign, load in zip("pn", loads, strict=True) if network.wires is None else ():  # with wires: see `_loads`
            top.R(f"_{projection.name}_row{i}_{sign}_load", f"{row}_{sign}", 0, 1.0 / float(load[i]))
        for j in range(weight.shape[1]):
            top.VCCS(
                f"_{projection.name}_r{i}_c{j}", 0, f"{projection.post}_col{j}", f"{row}_p", 0, float(weight[i, j])
            )


def _wave(network: Network, stimulus: Stimulus) -> Section:  # noqa: ARG001
    """Make the waveform that all input rows share, pulses of 1 V each."""
    top = Circuit("wave")
    top.B("_x0_wave", "x0_wave", 0, v=_alpha_expression(stimulus.wave))
    # Behavioural sources set no breakpoints; this idle source makes the simulator land on every onset.
    points = sorted({0.0, *stimulus.wave.onsets, stimulus.wave.duration})
    top.V("_x0_break", "x0_break", 0, "pwl(" + " ".join(f"{point!r} 0" for point in points) + ")")
    return Section("wave.inc", "waveform of the input rows, alpha pulses of 1 V each", (), top)


def _alpha_expression(wave: AlphaWave) -> str:
    terms = []
    for onset in wave.onsets:
        s = f"((time-{onset!r})/{wave.rise!r})"
        terms.append(f"(time>{onset!r} ? {s}*exp(1-{s}) : 0)")
    return "+".join(terms)


def _image_full(network: Network, stimulus: Stimulus) -> Section:
    """Give every input row a driver; the gains are the image."""
    driver = SubCircuit("input_driver", "rp", "rn", "wave", "ref", a=0)
    driver.VCVS("plus", "rp", "ref", "wave", "ref", "{a}")
    driver.VCVS("minus", "rn", "ref", "wave", "ref", "{-a}")
    top = Circuit("image")
    for i in range(network.inputs):
        row = f"{INPUT}_row{i}"
        top.X(f"_{row}", "input_driver", f"{row}_p", f"{row}_n", "x0_wave", 0, a=float(stimulus.amplitude[i]))
    return Section("image_full.inc", "row drivers; a is the amplitude of the row in V", (driver,), top)


PASSES: dict[Form, tuple[Callable[[Network, Stimulus], Section], ...]] = {
    "full": (_cells, _populations, _wave, _crossbars_full, _image_full),
    "reduced": (_cells, _populations, _wave, _crossbars_reduced, _image_reduced),
}
"""The sections of each form, in the order in which they are written."""
INPUT_FILES = ("wave", "image_")
"""How the names of the files begin whose passes read the stimulus."""


def _meters(network: Network, form: Form) -> Iterator[Meter]:
    for rail in RAILS:
        yield Meter("neurons", rail, f"v_{rail}", -1.0)
    for population in network.populations:
        for j in range(population.size):
            yield Meter("neurons", f"{population.name}_col{j}_mem", f"v.x_{population.name}_col{j}_mirror.vsense", 1.0)
    drives = {projection.pre for projection in network.projections}
    rows = [f"{p.name}_row{i}" for p in network.populations if p.name in drives for i in range(p.size)]
    if form == "reduced" and network.wires is not None:
        rows = []
    if form == "full":
        rows += [f"{INPUT}_row{i}" for i in range(network.inputs)]
    else:
        yield Meter("crossbars", "x0_wave", "b_x0_wave", -1.0)
    for row in rows:
        yield Meter("crossbars", f"{row}_p", f"e.x_{row}.eplus", -1.0)
        yield Meter("crossbars", f"{row}_n", f"e.x_{row}.eminus", -1.0)


def _loads(network: Network, form: Form) -> Iterator[Load]:
    """Yield the loads of hidden rows with wires: every row loads every other, which ideal drivers need not be simulated for."""
    if form == "reduced" and network.wires is not None:
        for projection in network.projections:
            if projection.pre != INPUT:
                reduced = reduce_crossbar(projection.g_plus, projection.g_minus, network.wires)
                yield Load(network.population(projection.pre), reduced.load)
