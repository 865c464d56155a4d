"""Crossbars of ideal pairs in the two forms that simulators like.

Rows are ideal voltage sources and columns virtual grounds, so the current of a cell depends on its row alone. Resistors make
a simulator find that out anew in every iteration; here it is said:

* ``full``: one controlled source per pair, from its row into its column, of the value ``{gp-gm}``. What a row draws, the sum
  of its conductances, is one resistor per row line. An input row is an ideal transformer: its current, times its amplitude,
  comes back on ``x0_wave``, where one meter reads the power of all of them.
* ``reduced``: one controlled source per pair between populations, and one per column for the input.

Loads and row drivers of the neurons stay as they are in ``naive``, though no membrane depends on them: a simulator that
watches their currents takes the same time steps, and the waveforms are equal to nanovolts.
"""

from __future__ import annotations

from collections.abc import Iterator

from PySpice.Spice.Netlist import Circuit, SubCircuit

from memprop.circuit.cell import load_cell
from memprop.circuit.image import input_values
from memprop.circuit.network import INPUT, Network, Projection
from memprop.circuit.section import TILE, Section
from memprop.circuit.stimulus import Stimulus
from memprop.circuit.wires import reduce_crossbar
from memprop.conductance.pair import Array
from memprop.errors import InputError


def ideal(network: Network) -> bool:
    """Return whether the synapse is the shipped pair of two resistors, which these forms replace."""
    return network.pair.text == load_cell("rram_pair").text


def check_ideal(network: Network, form: str) -> None:
    """Raise InputError unless the synapse of ``network`` is the shipped pair."""
    if not ideal(network):
        raise InputError(
            f"network {network.name}: the {form} form replaces ideal pairs, and synapse '{network.pair.name}' is not the shipped "
            "one. Use the naive form."
        )


def crossbars_full(network: Network, stimulus: Stimulus) -> Section:  # noqa: ARG001 - one signature for all passes
    """Tiles with one controlled source per pair; the only place where conductances stand."""
    check_ideal(network, "full")
    if network.wires is not None:
        raise InputError(
            f"network {network.name} has wires of {network.wires.row!r} and {network.wires.column!r} Ohm per segment, and the full form "
            "has none. Use the naive form, with every segment, or the reduced one, which is exact."
        )
    tiles: list[SubCircuit] = []
    top = Circuit("conductances")
    for projection in network.projections:
        for name, rows, columns in blocks(projection):
            tiles.append(_tile(name, projection, rows, columns))
            lines = [f"{projection.pre}_row{i}_p" for i in rows]
            top.X(f"_{name}", name, *lines, *(f"{projection.post}_col{j}" for j in columns))
    about = "crossbar tiles; {gp-gm} are the trained conductances of one pair in S"
    return Section("conductances.inc", about, tuple(tiles), top)


def blocks(projection: Projection) -> Iterator[tuple[str, range, range]]:
    """Yield name, rows and columns of each tile of a crossbar."""
    rows, columns = projection.g_plus.shape
    for r in range(0, rows, TILE):
        for c in range(0, columns, TILE):
            name = f"tile_{projection.name}_r{r // TILE}_c{c // TILE}"
            yield name, range(r, min(r + TILE, rows)), range(c, min(c + TILE, columns))


def _tile(name: str, projection: Projection, rows: range, columns: range) -> SubCircuit:
    tile = SubCircuit(name, *(f"rp{i}" for i in range(len(rows))), *(f"col{j}" for j in range(len(columns))))
    plus, minus = (
        g[rows.start : rows.stop, columns.start : columns.stop].tolist()
        for g in (projection.g_plus, projection.g_minus)
    )
    for i, (gp, gm) in enumerate(zip(plus, minus, strict=True)):
        for j in range(len(columns)):
            tile.VCCS(f"r{i}_c{j}", 0, f"col{j}", f"rp{i}", 0, f"{{{gp[j]!r}-{gm[j]!r}}}")
    return tile


def loads_full(network: Network, stimulus: Stimulus) -> Section:  # noqa: ARG001
    """Load every row line with the sum of its conductances: it sets the energy, and no waveform."""
    top = Circuit("loads")
    for projection in network.projections:
        plus, minus = projection.g_plus.sum(1), projection.g_minus.sum(1)
        for i in range(len(plus)):
            if projection.pre == INPUT:
                _load(top, projection, i, "p", plus[i] + minus[i])
            else:
                _load(top, projection, i, "p", plus[i])
                _load(top, projection, i, "n", minus[i])
    return Section("loads.inc", "what each row line draws, in Ohm: for the energy, no waveform depends on it", (), top)


def _load(top: Circuit, projection: Projection, row: int, sign: str, conductance: float) -> None:
    name = f"{projection.pre}_row{row}_{sign}"
    top.R(f"_{projection.name}_row{row}_{sign}_load", name, 0, 1.0 / float(conductance))


def image_full(network: Network, stimulus: Stimulus) -> Section:  # noqa: ARG001
    """Give every input row an ideal transformer from ``x0_wave``; the ratios are the image."""
    top = Circuit("image")
    for i, amplitude in enumerate(stimulus.amplitude.tolist()):
        row = f"{INPUT}_row{i}"
        top.VCVS(f"_{row}", f"{row}_d", 0, "x0_wave", 0, amplitude)
        top.V(f"_{row}", f"{row}_d", f"{row}_p", 0)
        top.F(f"_{row}", "x0_wave", 0, f"v_{row}", amplitude)
    about = (
        "input rows; e_ gives a row its amplitude in V, f_ brings its current back to x0_wave, times the same number"
    )
    return Section("image_full.inc", about, (), top)


def crossbars_reduced(network: Network, stimulus: Stimulus) -> Section:  # noqa: ARG001
    """Crossbars between populations as transconductances."""
    check_ideal(network, "reduced")
    top = Circuit("reduced")
    for projection in network.projections:
        if projection.pre != INPUT:
            _transconductance(top, network, projection)
    return Section("reduced.inc", "crossbars as exact transconductances and loads, in S", (), top)


def _transconductance(top: Circuit, network: Network, projection: Projection) -> None:
    weight = reduce_crossbar(projection.g_plus, projection.g_minus, network.wires).weight
    loads = (projection.g_plus.sum(1), projection.g_minus.sum(1))
    for i in range(weight.shape[0]):
        for sign, load in (
            zip("pn", loads, strict=True) if network.wires is None else ()
        ):  # with wires: `Elaborated.loads`
            _load(top, projection, i, sign, load[i])
        for j in range(weight.shape[1]):
            ends = f"{projection.post}_col{j}", f"{projection.pre}_row{i}_p", 0
            top.VCCS(f"_{projection.name}_r{i}_c{j}", 0, *ends, float(weight[i, j]))


def image_reduced(network: Network, stimulus: Stimulus) -> Section:
    """Collapse the input crossbars under the image."""
    top = Circuit("image")
    for projection in network.projections:
        if projection.pre == INPUT:
            _norton(top, network, projection, stimulus.amplitude)
    about = "image seen through the input crossbar: column currents per V of x0_wave, and the load"
    return Section("image_reduced.inc", about, (), top)


def _norton(top: Circuit, network: Network, projection: Projection, amplitude: Array) -> None:
    """One current per column and unit of the waveform, and the load that draws the energy of all rows."""
    per_wave, load = input_values(network, projection, amplitude)
    for j, value in enumerate(per_wave.tolist()):
        top.VCCS(f"_{projection.name}_col{j}", 0, f"{projection.post}_col{j}", "x0_wave", 0, value)
    if load > 0.0:
        top.R(f"_{projection.name}_load", "x0_wave", 0, 1.0 / load)
