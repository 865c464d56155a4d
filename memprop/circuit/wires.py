"""Crossbars whose lines have resistance, solved exactly: line by line, with dense blocks as wide as the crossbar.

A cell stands wherever a row line crosses a column line. Every pair has two row lines, + and -, one below the other. Each row
line is driven from its left end; each column line ends at the bottom in the virtual ground::

                         col0          col1
                          |             |            r = Wires.row, R = Wires.column, in Ohm
    +V0 --r--+-----------(g+)--r-------(g+)          (g) = RRAM cell from the row line to the column line
                          R             R
    -V0 --r--+-----------(g-)--r-------(g-)
                          R             R
    +V1 --r--+-----------(g+)--r-------(g+)
                          R             R
    -V1 --r--+-----------(g-)--r-------(g-)
                          R             R
                       ground        ground          virtual, its current goes into the neuron

So there is one segment between a driver and its first cell, one between any two neighbouring cells of a line, and one between
the lowest cell of a column and the virtual ground. Nothing hangs on the far ends.

Seen from the column lines a row line is a matrix of admittances, ``columns x columns``. The part of the crossbar above a
column segment is one too, and each further line adds to it: ``Y <- S + Y (1 + R Y)^-1``. One sweep down factorises the
nodal equations in that way (a block LU of the sparse matrix, lines in their order), one sweep up solves them for
all columns at a time. Work grows as ``lines x columns^3`` in matrix products, memory as ``lines x columns^2``. Only deviations
from ideal lines are subtracted, never the large conductances of segments, so the results stay accurate as the resistance
goes to zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache, wraps
from typing import ParamSpec, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from memprop.conductance.pair import Array
from memprop.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

_MOST = 1e6
"""Largest resistance of a segment in Ohm: beyond that of the cells themselves."""


@dataclass(frozen=True, slots=True)
class Wires:
    """Resistance of the wires of all crossbars of a network; the module draws where the segments are.

    Raises
    ------
    InputError: a resistance is not a number from above 0 to 1e6 Ohm.
    """

    row: float
    """Resistance of one segment of a row line, in Ohm."""
    column: float
    """Resistance of one segment of a column line, in Ohm."""

    def __post_init__(self) -> None:
        for name in ("row", "column"):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and math.isfinite(value) and 0.0 < value <= _MOST):
                raise InputError(
                    f"Wires: {name} = {value!r} Ohm per segment; needs a number above 0, at most {_MOST:.0e} Ohm. "
                    "Give the resistance from cell to cell in Ohm, some 1 to 10; for ideal wires use no Wires at all (None)."
                )
            object.__setattr__(self, name, float(value))


@dataclass(frozen=True, slots=True)
class Reduced:
    """All that a network sees of a crossbar."""

    weight: Array
    """Current into each column per V of each row, in S, ``[row, column]``; a row is its + line at +V and its - line at -V."""
    load: Array
    """What the drivers deliver: ``v @ load @ v`` W at row voltages ``v``; in S, ``[row, row]``, symmetric."""


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def _one_thread(method: Callable[P, R]) -> Callable[P, R]:
    """Run with one thread per linear algebra call: threads that wait for blocks as small as these cost 10 times the work."""

    @wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _libraries().limit(limits=1, user_api="blas"):
            return method(*args, **kwargs)

    return run


class WiredCrossbar:
    """Factorised crossbar of pairs with wire resistance.

    Parameters
    ----------
    g_plus, g_minus: conductances in S from the + and the - lines, ``[row, column]``; 0 is a missing cell.
    wires: resistance of the segments.

    Raises
    ------
    InputError: the conductances are negative, not finite, or of unequal shapes.
    """

    def __init__(self, g_plus: Array, g_minus: Array, wires: Wires) -> None:
        if g_plus.shape != g_minus.shape or g_plus.ndim != 2 or not g_plus.size:
            raise InputError(
                f"crossbar with wires: g_plus {g_plus.shape} and g_minus {g_minus.shape} must be equal [row, column] shapes."
            )
        self.rows, self.columns = g_plus.shape
        self.wires = wires
        self.g: Array = np.stack([g_plus, g_minus], axis=1).reshape(2 * self.rows, self.columns).astype(np.float64)
        wrong = ~(np.isfinite(self.g) & (self.g >= 0.0))
        if wrong.any():
            line, column = (int(k) for k in np.argwhere(wrong)[0])
            raise InputError(
                f"crossbar with wires, row {line // 2} {'+-'[line % 2]}, column {column}: conductance {float(self.g[line, column])!r} S "
                "must be finite and not negative. Correct it."
            )
        self._row = _row_wire(self.columns)
        self._factorise()

    def _inverses(self, lines: range) -> Iterator[tuple[int, Array]]:
        """Yield line number and the inverse nodal matrix of that row line in units of the segment resistance, columns grounded."""
        for start in range(lines.start, lines.stop, 64):
            part = slice(start, min(start + 64, lines.stop))
            stack = np.linalg.inv(self._row + _diagonals(self.wires.row * self.g[part]))
            yield from zip(range(part.start, part.stop), stack, strict=True)

    @_one_thread
    def _factorise(self) -> None:
        """Sweep down: keep how each column segment divides a voltage, and what each line alone does to the columns."""
        count, n = self.g.shape
        r, one = self.wires.row, np.eye(n)
        self._profile = np.empty((count, n))  # voltage along a row line driven with 1 V, columns grounded
        self._divider = np.empty((count, n, n))  # voltage above a column segment per voltage below it
        above = np.zeros((n, n))
        for line, inverse in self._inverses(range(count)):
            g = self.g[line]
            self._profile[line] = inverse[:, 0]
            own = np.diag(g) - r * g[:, None] * inverse * g
            above = own + (above @ self._divider[line - 1] if line else 0.0)
            self._divider[line] = np.linalg.inv(one + self.wires.column * above)
        self._inject = self.g * self._profile  # currents into grounded columns per V of the row line

    @_one_thread
    def weight(self) -> Array:
        """Return the current into each column per V of each row, in S, ``[row, column]``.

        By reciprocity: what each driver takes up while the columns, not the rows, are driven.
        """
        lines = np.empty_like(self.g)
        field = np.eye(self.columns)
        for line in range(len(self.g) - 1, -1, -1):
            field = self._divider[line] @ field
            lines[line] = self._inject[line] @ field
        return lines[0::2] - lines[1::2]

    @_one_thread
    def load(self) -> Array:
        """Return the matrix of the power that the drivers deliver, in S, ``[row, row]``: see `Reduced`."""
        own = (self.g * self._profile).sum(1)
        found = np.empty((self.rows, self.rows))
        width = max(self.columns, 64)
        for start in range(0, self.rows, width):
            rows = np.eye(self.rows)[:, start : start + width]
            lines = _lines(rows)
            current = own[:, None] * lines
            for line, field in self._driven(lines):
                current[line] -= self._inject[line] @ field
            found[:, start : start + width] = current[0::2] - current[1::2]
        return 0.5 * (found + found.T)

    def _driven(self, lines: Array) -> Iterator[tuple[int, Array]]:
        """Yield each line, from the lowest, with its column voltages ``[column, case]`` at line voltages ``[line, case]``."""
        passed = self._passed(lines)
        field = np.zeros(passed.shape[1:])
        for line in range(len(self.g) - 1, -1, -1):
            field = self._divider[line] @ (field + self.wires.column * passed[line])
            yield line, field

    def _passed(self, lines: Array) -> Array:
        """Return the current in A that the part above each column segment would send into a ground there, [line, column, case]."""
        passed = np.empty((*self.g.shape, lines.shape[1]))
        for line in range(len(self.g)):
            passed[line] = self._inject[line][:, None] * lines[line]
            if line:
                passed[line] += self._divider[line - 1] @ passed[line - 1]
        return passed

    @_one_thread
    def gradient(self, slope: Array) -> tuple[Array, Array]:
        """Return the derivatives of a loss by ``g_plus`` and ``g_minus``, each ``[row, column]``.

        ``slope`` is its derivative by `weight`, ``[row, column]``. The derivative of one current by one conductance is the
        product of two voltages over that cell: with the column driven, and with the row driven. The sum over all rows is
        the voltage while all rows are driven with their slopes, so that one more solution per column gives all derivatives.
        """
        n, r = self.columns, self.wires.row
        lines = _lines(slope)
        passed = self._passed(lines)
        fields = np.concatenate([np.eye(n), np.zeros((n, n))], axis=1)  # columns driven | rows driven
        found = np.empty_like(self.g)
        for start in range((len(self.g) - 1) // 64 * 64, -1, -64):
            inverses = list(self._inverses(range(start, min(start + 64, len(self.g)))))
            for line, inverse in reversed(inverses):
                fields[:, n:] += self.wires.column * passed[line]
                fields = self._divider[line] @ fields
                drops = fields - r * (inverse * self.g[line]) @ fields
                forced = self._profile[line][:, None] * lines[line] - drops[:, n:]
                found[line] = np.einsum("cj,cj->c", drops[:, :n], forced)
        return found[0::2], found[1::2]

    def voltages(self, rows: Array) -> tuple[Array, Array]:
        """Return the voltages in V of all crossings on row lines and on column lines, each ``[2 x row, column]``.

        ``rows`` are row voltages in V, ``[row]``. Lines follow each other as drawn: + line of row 0, - line of row 0, + line of row 1.
        """
        lines = _lines(rows[:, None])
        on_rows, on_columns = np.empty_like(self.g), np.empty_like(self.g)
        for line, field in self._driven(lines):
            on_columns[line] = field[:, 0]
        for line, inverse in self._inverses(range(len(self.g))):
            pulled = self.wires.row * self.g[line] * on_columns[line]
            on_rows[line] = self._profile[line] * lines[line] + inverse @ pulled
        return on_rows, on_columns


def reduce_crossbar(g_plus: Array, g_minus: Array, wires: Wires | None) -> Reduced:
    """Return weight and load of a crossbar; the last few crossbars with wires are remembered.

    ``g_plus``, ``g_minus`` are conductances in S, ``[row, column]``; without ``wires`` the lines are ideal.
    """
    if wires is None:
        return Reduced(g_plus - g_minus, np.diag((g_plus + g_minus).sum(1)))
    return _reduce(g_plus.astype(np.float64).tobytes(), g_minus.astype(np.float64).tobytes(), g_plus.shape, wires)


@lru_cache(maxsize=8)
def _reduce(g_plus: bytes, g_minus: bytes, shape: tuple[int, int], wires: Wires) -> Reduced:
    plus, minus = (np.frombuffer(g, dtype=np.float64).reshape(shape) for g in (g_plus, g_minus))
    crossbar = WiredCrossbar(plus, minus, wires)
    found = Reduced(crossbar.weight(), crossbar.load())
    for array in (found.weight, found.load):
        array.flags.writeable = False  # shared by all who ask
    return found


def _lines(rows: Array) -> Array:
    """Return line voltages ``[2 x row, case]`` of row voltages ``[row, case]``: + and - of each row."""
    return np.stack([rows, -rows], axis=1).reshape(2 * rows.shape[0], rows.shape[1])


def _row_wire(columns: int) -> Array:
    """Return the nodal matrix of a row wire in units of its segment conductance; its driver is at ground."""
    wire = 2.0 * np.eye(columns) - np.eye(columns, k=1) - np.eye(columns, k=-1)
    wire[-1, -1] = 1.0
    return wire


def _diagonals(values: Array) -> Array:
    """Return diagonal matrices ``[line, column, column]`` of ``[line, column]``."""
    return values[:, :, None] * np.eye(values.shape[1])
