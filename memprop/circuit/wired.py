"""Netlist of crossbars with wire resistance: every cell and every wire segment is a resistor.

The tiles have the names, rows and columns of ideal ones, and the wires run through them. Inside of a tile, rows and columns
count from 0:

* ``r<i>_c<j>_p``, ``_n``: row lines at the crossings, ``r<i>_c<j>_cp``: column line at the crossing with the + line;
* ``xr<i>_c<j>.cn``: column line at the crossing with the - line, below the former;
* ``rp<i>``, ``rn<i>``: what row lines reach to the left, ``col<j>``: what column lines reach below.

Where a wire passes from tile to tile, its node stands at the top level, as ``<projection>_r<i>_c<j>_p`` and so on, counted over
the whole crossbar. `crossing_nodes` gives the full names.
"""

from __future__ import annotations

from collections.abc import Iterator

from PySpice.Spice.Netlist import Circuit, SubCircuit

from memprop.circuit.network import Network, Projection
from memprop.circuit.wires import Wires
from memprop.conductance.pair import Array

PAIR = "wired_pair"
"""Subcircuit of a pair with its four segments: one to the left of each cell, one below each."""


def wired_tiles(network: Network, wires: Wires, size: int) -> tuple[tuple[SubCircuit, ...], Circuit]:
    """Return the subcircuits of all crossbars, in tiles of at most ``size`` x ``size`` pairs, and their instances."""
    subcircuits = [_pair(wires)]
    top = Circuit("conductances")
    for projection in network.projections:
        for rows, columns in _blocks(projection, size):
            name = f"tile_{projection.name}_r{rows.start // size}_c{columns.start // size}"
            block = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
            subcircuits.append(_tile(name, projection.g_plus[block], projection.g_minus[block]))
            top.X(f"_{name}", name, *_outside(projection, rows, columns))
    return tuple(subcircuits), top


def crossing_nodes(projection: Projection, size: int) -> tuple[list[list[str]], list[list[str]]]:
    """Return the nodes of all crossings on row lines and on column lines, each ``[2 x row][column]``, + and - lines in turn."""
    count, width = projection.g_plus.shape
    on_rows: list[list[str]] = [[""] * width for _ in range(2 * count)]
    on_columns: list[list[str]] = [[""] * width for _ in range(2 * count)]
    for rows, columns in _blocks(projection, size):
        tile = f"x_tile_{projection.name}_r{rows.start // size}_c{columns.start // size}"
        for i in rows:
            for j in columns:
                inside, outside = f"{tile}.r{i - rows.start}_c{j - columns.start}", _crossing(projection, i, j)
                for sign, letter in enumerate("pn"):
                    edge = j == columns[-1]
                    on_rows[2 * i + sign][j] = f"{outside if edge else inside}_{letter}"
                on_columns[2 * i][j] = f"{outside if i == rows.start else inside}_cp"
                on_columns[2 * i + 1][j] = f"{tile}.xr{i - rows.start}_c{j - columns.start}.cn"
    return on_rows, on_columns


def _blocks(projection: Projection, size: int) -> Iterator[tuple[range, range]]:
    rows, columns = projection.g_plus.shape
    for r in range(0, rows, size):
        for c in range(0, columns, size):
            yield range(r, min(r + size, rows)), range(c, min(c + size, columns))


def _pair(wires: Wires) -> SubCircuit:
    pair = SubCircuit(PAIR, "pl", "p", "nl", "n", "cp", "below", gp=1e-6, gm=1e-6)
    pair.R("row_p", "pl", "p", wires.row)
    pair.R("row_n", "nl", "n", wires.row)
    pair.R("plus", "p", "cp", "{1/gp}")
    pair.R("minus", "n", "cn", "{1/gm}")
    pair.R("col_p", "cp", "cn", wires.column)
    pair.R("col_n", "cn", "below", wires.column)
    return pair


def _tile(name: str, g_plus: Array, g_minus: Array) -> SubCircuit:
    rows, columns = g_plus.shape
    left = [f"r{sign}{i}" for i in range(rows) for sign in "pn"]
    right = [f"r{i}_c{columns - 1}_{sign}" for i in range(rows) for sign in "pn"]
    tile = SubCircuit(
        name, *left, *right, *(f"r0_c{j}_cp" for j in range(columns)), *(f"col{j}" for j in range(columns))
    )
    for i in range(rows):
        for j in range(columns):
            nodes: list[str] = []
            for sign in "pn":
                nodes += [f"r{i}_c{j - 1}_{sign}" if j else f"r{sign}{i}", f"r{i}_c{j}_{sign}"]
            nodes += [f"r{i}_c{j}_cp", f"r{i + 1}_c{j}_cp" if i + 1 < rows else f"col{j}"]
            tile.X(f"r{i}_c{j}", PAIR, *nodes, gp=float(g_plus[i, j]), gm=float(g_minus[i, j]))
    return tile


def _outside(projection: Projection, rows: range, columns: range) -> list[str]:
    """Return what the ports of a tile are connected to, in the order of its ports."""
    count = projection.g_plus.shape[0]
    left = [
        f"{_crossing(projection, i, columns.start - 1)}_{sign}" if columns.start else f"{projection.pre}_row{i}_{sign}"
        for i in rows
        for sign in "pn"
    ]
    right = [f"{_crossing(projection, i, columns[-1])}_{sign}" for i in rows for sign in "pn"]
    above = [f"{_crossing(projection, rows.start, j)}_cp" for j in columns]
    below = [
        f"{_crossing(projection, rows.stop, j)}_cp" if rows.stop < count else f"{projection.post}_col{j}"
        for j in columns
    ]
    return [*left, *right, *above, *below]


def _crossing(projection: Projection, row: int, column: int) -> str:
    return f"{projection.name}_r{row}_c{column}"
