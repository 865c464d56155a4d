"""Network -> PySpice circuit, as an ordered tuple of passes; each adds one section, which becomes one file of a bundle.

Three forms of the same network share all sections but the crossbars and the input. Their node voltages are equal:

* ``naive``: every RRAM cell is a resistor, or what the user's synapse is, in tiles of at most 64 x 64 pairs; every row has its
  driver. The reference, and the only form of a synapse that is not the shipped pair.
* ``full``: every pair is a controlled source of the value ``{gp-gm}``, in the same tiles, at a fraction of the cost.
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

from memprop.circuit.cell import RAILS, Cell
from memprop.circuit.forms import (
    blocks,
    crossbars_full,
    crossbars_reduced,
    ideal,
    image_full,
    image_reduced,
    loads_full,
)
from memprop.circuit.network import INPUT, Network, Population, Projection
from memprop.circuit.section import TILE, Meter, Section
from memprop.circuit.stimulus import AlphaWave, Stimulus
from memprop.circuit.wired import wired_tiles
from memprop.circuit.wires import reduce_crossbar
from memprop.conductance.pair import Array
from memprop.errors import InputError

Form = Literal["full", "reduced", "naive"]
FORMS: tuple[Form, ...] = ("full", "reduced", "naive")

RESERVED = ("wired_pair", "column_mirror", "row_driver", "input_driver", "tile_", "mss_memristor")
"""Beginnings of the subcircuit names that decks use themselves."""


@dataclass(frozen=True, slots=True)
class Load:
    """Power that the row drivers of a population deliver to a crossbar that the netlist does not load them with."""

    population: str
    rest: tuple[float, ...]
    """Resting membranes of the rows in V."""
    matrix: Array
    """In S, ``[row, row]``."""

    def power(self, membranes: Array) -> Array:
        """Return the power in W, ``[points]``, at membranes in V, ``[points, row]``."""
        above = membranes - np.asarray(self.rest)
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
    """Return ``network`` under ``stimulus`` in one of the three forms.

    Raises
    ------
    InputError: unknown form, not one amplitude per input row, or a synapse that the form cannot replace.
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


def forms_of(network: Network) -> tuple[Form, ...]:
    """Return the forms in which a bundle holds ``network``: conductances stand in one file, so only one of those with cells."""
    if network.wires is not None:
        return ("naive", "reduced")
    return ("full", "reduced") if ideal(network) else ("naive",)


def cells_form(network: Network) -> Form:
    """Return the form in which a bundle holds every cell of ``network``."""
    return forms_of(network)[0]


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
    drives = {population.name for population in _driving(network)}
    for population in network.populations:
        for j in range(population.size):
            column = f"{population.name}_col{j}"
            mirror, values = _mirror(population, j)
            top.X(f"_{column}_mirror", mirror, column, f"{column}_mem", 0, **values)
            top.X(f"_{column}_cell", population.cell.name, f"{column}_mem", *RAILS, 0, **_instance(population, j))
            if population.name in drives:
                row = f"{population.name}_row{j}"
                top.V(f"_{population.name}_rest{j}", f"{population.name}_rest{j}", 0, population.rest[j])
                top.X(f"_{row}", "row_driver", f"{row}_p", f"{row}_n", f"{column}_mem", f"{population.name}_rest{j}")
    kinds = (_column_mirror(), *((_real_mirror(),) if any(map(_has_real_mirrors, network.populations)) else ()))
    return Section("populations.inc", "rails, neurons, column mirrors, row drivers", (*kinds, _row_driver()), top)


def _driving(network: Network) -> list[Population]:
    """Return the populations that drive rows."""
    drives = {projection.pre for projection in network.projections}
    return [population for population in network.populations if population.name in drives]


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


def _has_real_mirrors(population: Population) -> bool:
    return population.gain is not None or population.offset is not None


def _mirror(population: Population, j: int) -> tuple[str, dict[str, float]]:
    """Return the subcircuit of the mirror of column ``j``, and its parameters."""
    given = {"gain": population.gain, "offset": population.offset}
    values = {name: float(numbers[j]) for name, numbers in given.items() if numbers is not None}
    return ("column_mirror_real" if values else "column_mirror"), values


def _real_mirror() -> SubCircuit:
    """Column mirror with gain and offset current; ``vout`` has the current that goes into the membrane."""
    mirror = SubCircuit("column_mirror_real", "col", "mem", "ref", gain=1, offset=0)
    mirror.V("sense", "col", "ref", 0)
    mirror.F("mirror", "ref", "out", "vsense", "{gain}")
    mirror.I("offset", "ref", "out", "{offset}")
    mirror.V("out", "out", "mem", 0)
    return mirror


def _row_driver() -> SubCircuit:
    """Buffered membrane relative to rest, gain +1 and -1."""
    driver = SubCircuit("row_driver", "rp", "rn", "mem", "rest")
    driver.VCVS("plus", "rp", 0, "mem", "rest", 1)
    driver.VCVS("minus", "rn", 0, "mem", "rest", -1)
    return driver


def _crossbars_naive(network: Network, stimulus: Stimulus) -> Section:  # noqa: ARG001
    """Tiles with one pair instance per synapse; the only place where conductances stand."""
    if network.wires is not None:
        about = f"crossbar tiles; gp and gm in S; wire segments of {network.wires.row!r} (rows) and {network.wires.column!r} Ohm"
        return Section("conductances.inc", about, *wired_tiles(network, network.wires, TILE))
    tiles: list[SubCircuit] = []
    top = Circuit("conductances")
    for projection in network.projections:
        for name, rows, columns in blocks(projection):
            block = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
            tiles.append(_tile(name, network.pair.name, projection.g_plus[block], projection.g_minus[block]))
            ends = [f"{projection.post}_col{j}" for j in columns]
            top.X(f"_{name}", name, *_row_lines(projection, rows), *ends)
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


def _image_naive(network: Network, stimulus: Stimulus) -> Section:
    """Give every input row a driver; the gains are the image."""
    driver = SubCircuit("input_driver", "rp", "rn", "wave", "ref", a=0)
    driver.VCVS("plus", "rp", "ref", "wave", "ref", "{a}")
    driver.VCVS("minus", "rn", "ref", "wave", "ref", "{-a}")
    top = Circuit("image")
    for i in range(network.inputs):
        row = f"{INPUT}_row{i}"
        top.X(f"_{row}", "input_driver", f"{row}_p", f"{row}_n", "x0_wave", 0, a=float(stimulus.amplitude[i]))
    return Section("image_naive.inc", "row drivers; a is the amplitude of the row in V", (driver,), top)


PASSES: dict[Form, tuple[Callable[[Network, Stimulus], Section], ...]] = {
    "full": (_cells, _populations, _wave, crossbars_full, loads_full, image_full),
    "reduced": (_cells, _populations, _wave, crossbars_reduced, image_reduced),
    "naive": (_cells, _populations, _wave, _crossbars_naive, _image_naive),
}
"""The sections of each form, in the order in which they are written."""
INPUT_FILES = ("wave", "image_")
"""How the names of the files begin whose passes read the stimulus."""


def _meters(network: Network, form: Form) -> Iterator[Meter]:
    for rail in RAILS:
        yield Meter("neurons", rail, f"v_{rail}", -1.0)
    for population in network.populations:
        source = "vout" if _has_real_mirrors(population) else "vsense"
        for j in range(population.size):
            yield Meter(
                "neurons", f"{population.name}_col{j}_mem", f"v.x_{population.name}_col{j}_mirror.{source}", 1.0
            )
    rows = [f"{p.name}_row{i}" for p in _driving(network) for i in range(p.size)]
    if form == "reduced" and network.wires is not None:
        rows = []  # see `_loads`
    if form == "naive":
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
                yield Load(projection.pre, network.population(projection.pre).rest, reduced.load)
