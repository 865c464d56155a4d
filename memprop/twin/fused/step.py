"""The Strang step of a cell as a straight-line program: the same arithmetic as `memprop.twin.splitting`, for one neuron."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import sympy
import torch
from sympy import Symbol
from torch import Tensor

from memprop.device.sigmoid import sigmoid
from memprop.twin.fused.program import Expr, Program, Writer, expm1, expm1_small, phi, with_shares
from memprop.twin.prepared import Prepared, PreparedGroup
from memprop.twin.splitting import TINY

V, BEFORE, AFTER, STEP, DT = (Symbol(name, real=True) for name in ("v_now", "i_before", "i_after", "step", "dt"))
"""Membrane in V; input current in A at the beginning and the end; step of the states and time step in s."""
BASE, SOURCE, PACE = (Symbol(name, real=True) for name in ("base", "source", "pace"))
"""Conductance in S and current at 0 V in A of what does not change with the states; -dt/capacitance."""
MOST = 4
"""Logistic functions in a rate whose ends are tried one by one."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Programs of one cell, whatever its parameters."""

    states: tuple[Symbol, ...]
    """Device states in the order of `CellState`: by group, state, device."""
    advance: Program
    """``v, states -> states`` after ``step`` at fixed membrane."""
    whole: Program
    """``v, states, before, after -> v, states`` after one time step; the states are half a step behind the membrane."""
    sums: Mapping[Symbol, Expr]
    """Names of exp(-sum), and the sums, expressions of the constants: see `with_shares`."""
    rates: tuple[Expr, ...]
    """Expressions of the constants that the rates of decaying states stay below, in 1/s."""


def constants_of(prepared: Prepared) -> dict[Symbol, Tensor]:
    """Return the values of the names that `make_steps` leaves open, each one number or one per neuron, ``[1]`` or ``[N]``."""
    found: dict[Symbol, Any] = {BASE: prepared.base[0], SOURCE: prepared.source, PACE: prepared.pace}
    for k, group in enumerate(prepared.groups):
        for letter, values in (("r", group.relax), ("c", group.conduct)):
            for d in range(len(group.group.instances)):
                for j, value in enumerate(values):
                    found[_constant(letter, k, d, j)] = value[min(d, len(value) - 1)] if _stacked(value) else value
    return {symbol: torch.as_tensor(value).reshape(-1) for symbol, value in found.items()}


def _stacked(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 3


def _constant(letter: str, group: int, device: int, number: int) -> Symbol:
    return Symbol(f"{letter}{group}_{device}_{number}", real=True)


def _extremes(rate: Expr) -> list[Expr]:
    """Return expressions between which a rate lies whatever its logistic functions are, from 0 to 1; none where that is not plain.

    What is a straight line in each of them is extreme where each is 0 or 1.
    """
    levels = {one: sympy.Dummy() for one in rate.atoms(sigmoid)}
    line = rate.xreplace(levels)
    names = list(levels.values())
    if names and not line.is_polynomial(*names):
        return []
    if len(names) > MOST or (names and max(map(max, sympy.Poly(line, *names).monoms())) > 1):
        return []
    return [
        line.xreplace(dict(zip(names, map(sympy.Integer, end), strict=True)))
        for end in product((0, 1), repeat=len(names))
    ]


def make_steps(prepared: Prepared, *, shared: bool = False, gentle: bool = False) -> Steps:
    """Return the programs of a population.

    ``shared``: logistic functions may share exponentials, see `Steps.sums`. ``gentle``: `Steps.rates` times the time step are
    below `SMALL`.
    """
    return _Maker(prepared, list(constants_of(prepared)), shared, gentle).steps()


@dataclass(slots=True)
class _Maker:
    prepared: Prepared
    constants: list[Symbol]
    shared: bool
    gentle: bool
    sums: dict[Symbol, Expr] = field(default_factory=dict)
    rates: list[Expr] = field(default_factory=list)

    def steps(self) -> Steps:
        states: list[Symbol] = []
        still: list[Expr] = []
        ends: list[Expr] = []
        advance, whole = Writer("s"), Writer("t")
        mid: list[Expr] = [BASE, SOURCE]
        move: list[Expr] = [sympy.Integer(0), sympy.Integer(0)]
        for k, group in enumerate(self.prepared.groups):
            own = [tuple(Symbol(f"x{k}_{s}_{d}", real=True) for s in range(len(group.group.states)))
                   for d in range(len(group.group.instances))]  # fmt: skip
            tables = [self.table(k, group, d) for d in range(len(own))]
            held = [self.advanced(advance, group, x, table) for x, table in zip(own, tables, strict=True)]
            moved = [self.advanced(whole, group, x, table) for x, table in zip(own, tables, strict=True)]
            for device, table in zip(moved, tables, strict=True):
                self.conduct(whole, group, device, table, mid, move)
            states += [x for part in zip(*own, strict=True) for x in part]
            still += [end for part in zip(*held, strict=True) for end, _ in part]
            ends += [end for part in zip(*moved, strict=True) for end, _ in part]
        v = self.membrane(whole, mid, move)
        inputs = (V, *states, BEFORE, AFTER, STEP, DT, *self.constants, *self.sums)
        return Steps(
            tuple(states),
            advance.program(inputs, still),
            whole.program(inputs, [v, *ends]),
            self.sums,
            tuple(self.rates),
        )

    def table(self, k: int, group: PreparedGroup, d: int) -> dict[Any, Any]:
        """Return the constants of device ``d`` in place of those of its group."""
        return {
            (letter, symbol): _constant(letter, k, d, j)
            for letter, function in (("r", group.group.relax), ("c", group.group.conduct))
            for j, symbol in enumerate(function.held)
        }

    def part(
        self, writer: Writer, function: Any, table: Mapping[Any, Any], letter: str, moving: Sequence[Expr]
    ) -> list[Expr]:
        """Return the expressions of relax ("r") or conduct ("c") at other values of membrane and states."""
        swap = dict(zip(function.moving, moving, strict=True))
        swap |= {symbol: table[letter, symbol] for symbol in function.held}
        expressions = [expr.xreplace(swap) for expr in function.expressions]
        if self.shared:
            expressions, sums = with_shares(expressions, {s for end in moving for s in sympy.sympify(end).free_symbols})
            self.sums |= sums
        return list(map(writer, expressions))

    def advanced(
        self, writer: Writer, group: PreparedGroup, x: Sequence[Expr], table: Mapping[Any, Any]
    ) -> list[tuple[Expr, Expr]]:
        """Return each state after ``step`` and its speed in 1/s there."""
        kind = group.group
        if not x:
            return []
        parts, pairs = self.part(writer, kind.relax, table, "r", [V, *x]), []
        gentle = kind.decaying and self.slow(group, table, x)
        for start, slope, one in zip(parts[0::2], parts[1::2], x, strict=True):
            if kind.decaying:
                speed, decay = writer(start - slope * one), writer((expm1_small if gentle else expm1)(-slope * STEP))
                pairs.append((writer(one - speed * decay / (slope + TINY)), writer(speed + speed * decay)))
                continue
            speed = writer(start - slope * one) if kind.linear else start
            z = writer((-slope if kind.linear else slope) * STEP)
            growth: Expr = expm1(z)
            pairs.append((writer(one + STEP * phi(1, z) * speed), writer(speed * (1 + growth))))
        if kind.linear:
            return pairs
        ends = [end for end, _ in pairs]
        return list(zip(ends, self.part(writer, kind.relax, table, "r", [V, *ends])[0::2], strict=True))

    def slow(self, group: PreparedGroup, table: Mapping[Any, Any], x: Sequence[Expr]) -> bool:
        """Note what the rates of a device stay below, if that can be said; return whether they are known to be small."""
        function, constants = group.group.relax, {symbol: table["r", symbol] for symbol in group.group.relax.held}
        ends = [_extremes(rate.xreplace(constants)) for rate in function.expressions[1::2]]
        most = [end for row in ends for end in row]
        known = all(ends) and not any(end.free_symbols & {*function.moving, V, *x} for end in most)
        self.rates += [rate for rate in most if known and rate not in self.rates]
        return known and self.gentle

    def conduct(
        self,
        writer: Writer,
        group: PreparedGroup,
        moved: Sequence[tuple[Expr, Expr]],
        table: Mapping[Any, Any],
        mid: list[Expr],
        move: list[Expr],
    ) -> None:
        """Add conductance and source of a device at mid-step, and how far both move from there to the end."""
        function = group.group.conduct
        if group.group.affine:
            parts = self.part(writer, function, table, "c", [0] * len(function.moving))
            for k in (0, 1):
                slopes = parts[2 + k :: 2]  # the values at zero are in `Prepared.base` and `Prepared.source`
                mid[k] += sum(slope * x for slope, (x, _) in zip(slopes, moved, strict=True))
                move[k] += sum(slope * speed for slope, (_, speed) in zip(slopes, moved, strict=True)) * DT / 2
            return
        ends = [[x + sign * speed * DT / 2 for x, speed in moved] for sign in (-1, 1)]
        early, late = (self.part(writer, function, table, "c", [V, *map(writer, end)]) for end in ends)
        for k in (0, 1):
            mid[k] += (early[k] + late[k]) / 2
            move[k] += (late[k] - early[k]) / 2

    def membrane(self, writer: Writer, mid: Sequence[Expr], move: Sequence[Expr]) -> Expr:
        """Return the membrane after a step."""
        (g, i), (dg, di) = map(writer, mid), map(writer, move)
        z = writer(g * PACE)
        early, late = (writer(g - dg), writer(i - di)), (writer(g + dg), writer(i + di))
        if self.prepared.following:
            first, last = writer((BEFORE + early[1]) / early[0]), writer((AFTER + late[1]) / late[0])
            decay, change = writer(expm1(z)), writer(last - first)
            return writer(V + change - change * decay / z + decay * (V - first))
        first, last = ((e[0] * V - drive - e[1]) * PACE for e, drive in ((early, BEFORE), (late, AFTER)))
        return writer(V + phi(1, z) * first + phi(2, z) * (last - first))
