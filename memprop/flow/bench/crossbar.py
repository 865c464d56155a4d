"""Part ``crossbar``: the exact reduction of crossbars with wire resistance against general solvers."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import tracemalloc
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from memprop.circuit.wires import WiredCrossbar, Wires
from memprop.conductance.pair import Array
from memprop.flow.bench.measure import Run, as_case, by_turns, ratios, shown
from memprop.flow.bench.sheet import Row, Sheet

WIRES = Wires(1.0, 1.0)
SEED = 2026
PACKAGE = "badcrossbar"
"""Solver of another project; compared where it is installed."""


@dataclass(frozen=True, slots=True)
class CrossbarPlan:
    """What is measured; sizes are rows of pairs and columns."""

    sizes: Sequence[tuple[int, int]]
    repeats: int = 3
    splu_most: int = 70_000
    """Largest number of nodes that scipy is given: its factors fill gigabytes beyond."""
    package_most: int = 10_000
    """Largest number of nodes that the package is given, which forms its matrix in Python loops."""


def measure(sheet: Sheet, plan: CrossbarPlan) -> None:
    """Measure the rows of ``plan``."""
    made = {"repeats": plan.repeats, "splu_most": plan.splu_most, "package_most": plan.package_most}
    for rows, columns in plan.sizes:
        sheet.row(f"{rows} x {columns} pairs", lambda rows=rows, columns=columns: _row(rows, columns, plan), made)


def _row(rows: int, columns: int, plan: CrossbarPlan) -> Row:
    g = pairs(rows, columns)
    nodes = 4 * rows * columns
    solvers: dict[str, _Solver] = {"memprop": _Solver(g)}
    if nodes <= plan.splu_most:
        solvers["scipy splu"] = _Splu(g)
    if nodes <= plan.package_most and importlib.util.find_spec(PACKAGE) is not None:
        solvers[PACKAGE] = _Package(g)
    weights = {name: solver() for name, solver in solvers.items()}
    runs: dict[str, Run] = dict(solvers)
    samples = by_turns(runs, plan.repeats, warm=False)  # each has run once
    cases = {name: as_case(each) for name, each in samples.items()}
    others = [name for name in solvers if name != "memprop"]
    return {
        "kind": "size", "rows": rows, "columns": columns, "nodes": nodes, "cases": cases,
        "ratios": {f"{name}/memprop": ratios(cases, name, "memprop") for name in others},
        "deviation_relative": {
            name: shown(float(np.abs(weights[name] - weights["memprop"]).max() / np.abs(weights[name]).max()))
            for name in others
        },
        "memory_bytes": {name: solver.memory() for name, solver in solvers.items() if name != PACKAGE},
    }  # fmt: skip


def pairs(rows: int, columns: int) -> tuple[Array, Array]:
    """Return g_plus and g_minus in S, ``[row, column]``, spread evenly in logarithm from 1 to 100 uS."""
    plus, minus = np.exp(np.random.default_rng(SEED).uniform(np.log(1e-6), np.log(1e-4), (2, rows, columns)))
    return plus, minus


class _Solver:
    """The reduction of memprop; what it returns is the current into each column per V of each row, in S."""

    def __init__(self, g: tuple[Array, Array]) -> None:
        self.g = g

    def __call__(self) -> Array:
        return WiredCrossbar(*self.g, WIRES).weight()

    def memory(self) -> int:
        """Return the most bytes of arrays at a time."""
        tracemalloc.start()
        try:
            self()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


class _Splu(_Solver):
    """Sparse nodal equations, factorised by SuperLU, solved for as many right-hand sides as the matrix needs.

    By reciprocity these are columns or rows, whichever are fewer: the best that one can do with it.
    """

    def __init__(self, g: tuple[Array, Array]) -> None:
        super().__init__(g)
        self._filled = 0

    def __call__(self) -> Array:
        lines = np.stack(self.g, axis=1).reshape(-1, self.g[0].shape[1])
        matrix, drivers, grounds = nodal(lines)
        factors: Any = splu(matrix)
        self._filled = factors.L.nnz + factors.U.nnz
        count, n = lines.shape
        if n <= count:  # columns driven, currents of the drivers
            sides = np.zeros((matrix.shape[0], n))
            sides[grounds, np.arange(n)] = 1.0 / WIRES.column
            each = factors.solve(sides)[drivers] / WIRES.row
        else:
            sides = np.zeros((matrix.shape[0], count))
            sides[drivers, np.arange(count)] = 1.0 / WIRES.row
            each = factors.solve(sides)[grounds].T / WIRES.column
        return each[0::2] - each[1::2]

    def memory(self) -> int:
        """Return the bytes of the factors: a number and an index per entry."""
        return self._filled * (8 + 4)


class _Package(_Solver):
    """badcrossbar, which takes one case of line voltages per column of its first argument."""

    def __call__(self) -> Array:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its plotting, which is not used
            package: Any = importlib.import_module(PACKAGE)
        logging.getLogger(PACKAGE).setLevel(logging.ERROR)  # it tells every step
        rows, columns = self.g[0].shape
        lines = np.stack([np.eye(rows), -np.eye(rows)], axis=1).reshape(2 * rows, rows)
        resistances = 1.0 / np.stack(self.g, axis=1).reshape(2 * rows, columns)
        found = package.compute(
            lines, resistances, r_i_word_line=WIRES.row, r_i_bit_line=WIRES.column, node_voltages=False,
            all_currents=False,
        )  # fmt: skip
        return np.asarray(found.currents.output)


def nodal(g: Array) -> tuple[Any, NDArray[np.int64], NDArray[np.int64]]:
    """Return the nodal matrix of a crossbar of lines in S, and the nodes beside drivers and beside virtual grounds.

    ``g`` is ``[line, column]`` in S. Nodes on row lines come first, then those on column lines.
    """
    count, n = g.shape
    node: NDArray[np.int64] = np.arange(2 * g.size).reshape(2, count, n)
    upper, lower = node
    ends = [
        (upper, lower, g),
        (upper[:, :-1], upper[:, 1:], 1.0 / WIRES.row),
        (lower[:-1], lower[1:], 1.0 / WIRES.column),
    ]
    a = np.concatenate([x.ravel() for x, _, _ in ends])
    b = np.concatenate([y.ravel() for _, y, _ in ends])
    s = np.concatenate([np.broadcast_to(value, x.shape).ravel() for x, _, value in ends])
    own = np.concatenate([upper[:, 0], lower[-1]])
    fixed = np.concatenate([np.full(count, 1.0 / WIRES.row), np.full(n, 1.0 / WIRES.column)])
    rows, columns = np.concatenate([a, b, a, b, own]), np.concatenate([a, b, b, a, own])
    matrix = sparse.csc_matrix((np.concatenate([s, s, -s, -s, fixed]), (rows, columns)), shape=(node.size,) * 2)
    return matrix, upper[:, 0], lower[-1]


PLANS = {
    "tiny": CrossbarPlan([(2, 3), (4, 3)], 2),
    "bench": CrossbarPlan([(16, 16), (32, 32), (64, 64), (128, 64), (128, 128), (784, 10)]),
    "full": CrossbarPlan(
        [(16, 16), (32, 32), (64, 64), (128, 64), (128, 128), (256, 128), (784, 10), (784, 100)],
        5,
        splu_most=400_000,
        package_most=70_000,
    ),
}
