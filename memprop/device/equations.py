"""Equations of a device: what its Verilog-A says, as sympy expressions. All back ends are made from them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import sympy
from numpy.typing import NDArray
from sympy import Expr, Symbol
from sympy.core.relational import Relational

from memprop.device.card import Parameter
from memprop.device.functions import evaluate, replaced
from memprop.errors import InputError

GROUND = "0"
"""Name of the reference node."""
TEMPERATURE = Symbol("$temperature", real=True)
"""Temperature of the device in K."""
TNOM = 300.15
"""Default temperature in K, that of the simulators: 27 degrees Celsius."""

Branch = tuple[str, str]
"""Two nodes; a flow counts from the first to the second."""
_LARGE = 4000
"""Expressions larger than this many operations are not written out in full."""
_DEEP = 150
"""Expressions nested deeper are not written out in full."""
_BRANCHED = 3
"""Conditions on more alternatives than this are not written out in full: sympy would multiply them out."""


class Flow(NamedTuple):
    """What flows through a branch: ``current + d(charge)/dt``."""

    current: Expr
    """In A."""
    charge: Expr
    """In C."""


class Note(NamedTuple):
    """Something a reader of the model should know: a warning, or a remark on what was left out."""

    kind: Literal["warning", "remark"]
    text: str


def probe(a: str, b: str) -> Symbol:
    """Return the symbol of the voltage from ``a`` to ``b``."""
    return Symbol(f"V({a})" if b == GROUND else f"V({a},{b})", real=True)


@dataclass(frozen=True)
class Equations:
    """A device as equations; voltages in V, currents in A, charges in C.

    Between two nodes of ``flows`` runs ``current + d(charge)/dt``. Both are expressions of the symbols of `probes`, of the
    parameters (symbols of their names), of `TEMPERATURE`, and of the symbols that ``lets`` defines, in order.
    """

    name: str
    file: str
    ports: tuple[str, ...]
    nodes: tuple[str, ...]
    """Internal nodes."""
    parameters: Mapping[str, Parameter]
    integers: frozenset[str]
    """Names of the parameters that are whole numbers."""
    lets: tuple[tuple[Symbol, Expr], ...]
    flows: Mapping[Branch, Flow]
    probes: Mapping[Symbol, Branch]
    notes: tuple[Note, ...] = ()

    def symbol(self, parameter: str) -> Symbol:
        """Return the symbol of a parameter."""
        return parameter_symbol(parameter)

    @cached_property
    def compact(self) -> Equations:
        """The same equations without ``lets``, where they are small enough to be written out."""
        if not self.lets:
            return self
        sizes: dict[Any, _Size] = {}
        for symbol, expr in self.lets:
            sizes[symbol] = _measured(expr, sizes)
        parts = [part for flow in self.flows.values() for part in flow]
        whole = [_measured(part, sizes) for part in parts]
        if sum(size.operations for size in whole) > _LARGE or not all(_small(s) for s in (*whole, *sizes.values())):
            return self
        known: dict[Any, Any] = {}
        memo: dict[Any, Any] = {}
        for symbol, expr in self.lets:
            known[symbol] = replaced(expr, known, memo)
        flows = {b: Flow(*(replaced(part, known, memo) for part in flow)) for b, flow in self.flows.items()}
        return replace(self, lets=(), flows=flows)

    def fix(self, values: Mapping[str, float]) -> Equations:
        """Return the equations with some parameters replaced by numbers, and gone.

        Raises
        ------
        InputError: a parameter is unknown or a value out of range.
        """
        table: dict[Any, Any] = {}
        for name, value in values.items():
            if name not in self.parameters:
                raise InputError(f"device {self.name} has no parameter '{name}'. Known: {', '.join(self.parameters)}.")
            self.parameters[name].check(f"{self.name}.{name}", value)
            table[self.symbol(name)] = sympy.Rational(str(float(value)))
        memo: dict[Any, Any] = {}
        lets = _substitute(self.lets, table, memo)
        flows = {b: Flow(*(replaced(part, table, memo) for part in flow)) for b, flow in self.flows.items()}
        flows = {branch: flow for branch, flow in flows.items() if flow.current != 0 or flow.charge != 0}
        rest = {name: parameter for name, parameter in self.parameters.items() if name not in values}
        return prune(replace(self, parameters=rest, lets=lets, flows=flows))

    def node_flows(self, node: str) -> Flow:
        """Return the sum of what leaves ``node`` through the device."""
        total = [sympy.Integer(0), sympy.Integer(0)]
        for (a, b), flow in self.flows.items():
            sign = (a == node) - (b == node)
            total = [part + sign * more for part, more in zip(total, flow, strict=True)]
        return Flow(*total)

    def evaluate(
        self, voltages: Mapping[str, Any], parameters: Mapping[str, float] | None = None, temperature: float = TNOM
    ) -> dict[Branch, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Return current in A and charge in C of every branch, as numbers.

        ``voltages`` gives those of nodes in V, arrays of one shape or floats; nodes that are missing are at 0 V. Parameters that are
        not given have their defaults; ``temperature`` is in K.

        Raises
        ------
        InputError: a node or parameter is unknown.
        """
        known = self.numbers(voltages, parameters, temperature)
        like = np.zeros(np.broadcast_shapes(*(np.shape(voltage) for voltage in voltages.values())))
        found = {}
        for branch, flow in self.flows.items():
            current, charge = (np.asarray(evaluate(part, known) + like, dtype=np.float64) for part in flow)
            found[branch] = current, charge
        return found

    def numbers(
        self, voltages: Mapping[str, Any], parameters: Mapping[str, float] | None = None, temperature: float = TNOM
    ) -> dict[Any, Any]:
        """Return the values of all symbols, those of ``lets`` too; arguments and errors as `evaluate`."""
        changes = dict(parameters or {})
        for kind, names, known_names in (
            ("node", voltages, (*self.ports, *self.nodes)), ("parameter", changes, tuple(self.parameters))
        ):  # fmt: skip
            for name in names:
                if name not in known_names:
                    raise InputError(f"device {self.name} has no {kind} '{name}'. Known: {', '.join(known_names)}.")
        known: dict[Any, Any] = {TEMPERATURE: temperature}
        for name, parameter in self.parameters.items():
            known[parameter_symbol(name)] = float(changes.get(name, parameter.default))
        for symbol, (a, b) in self.probes.items():
            known[symbol] = np.asarray(voltages.get(a, 0.0)) - np.asarray(voltages.get(b, 0.0))
        for symbol, expr in self.lets:
            known[symbol] = evaluate(expr, known)
        return known


class _Size(NamedTuple):
    """What an expression becomes when it is written out."""

    operations: int
    depth: int
    alternatives: int
    tested: int
    """Most alternatives inside of one comparison."""


def _measured(expr: Any, known: dict[Any, _Size]) -> _Size:
    """Return the size of ``expr`` with the symbols in ``known`` written out."""
    if expr in known:
        return known[expr]
    if not expr.args:
        return _Size(0, 0, 0, 0)
    parts = [_measured(arg, known) for arg in expr.args]
    alternatives = sum(part.alternatives for part in parts) + isinstance(expr, sympy.Piecewise)
    tested = max(part.tested for part in parts)
    found = _Size(
        max(len(parts) - 1, 1) + sum(part.operations for part in parts),
        1 + max(part.depth for part in parts),
        alternatives,
        max(tested, alternatives) if isinstance(expr, Relational) else tested,
    )
    known[expr] = found
    return found


def _small(size: _Size) -> bool:
    return size.operations <= _LARGE and size.depth <= _DEEP and size.tested <= _BRANCHED


def parameter_symbol(name: str) -> Symbol:
    """Return the symbol of the parameter called ``name``."""
    return Symbol(name, real=True)


def prune(equations: Equations) -> Equations:
    """Return the equations without definitions and probes that no flow needs; parameters stay."""
    needed = free_symbols(part for flow in equations.flows.values() for part in flow)
    kept: list[tuple[Symbol, Expr]] = []
    for symbol, expr in reversed(equations.lets):
        if symbol in needed:
            kept.append((symbol, expr))
            needed |= expr.free_symbols
    probes = {symbol: ends for symbol, ends in equations.probes.items() if symbol in needed}
    return replace(equations, lets=tuple(reversed(kept)), probes=probes)


def free_symbols(expressions: Iterable[Expr]) -> set[Any]:
    """Return the symbols in ``expressions``."""
    return {symbol for expr in expressions for symbol in expr.free_symbols}


def _substitute(
    lets: Iterable[tuple[Symbol, Expr]], table: dict[Any, Any], memo: dict[Any, Any]
) -> tuple[tuple[Symbol, Expr], ...]:
    """Return ``lets`` with symbols replaced; those that become numbers join the table instead."""
    kept = []
    for symbol, expr in lets:
        value = replaced(expr, table, memo)
        if value.is_number:
            table[symbol] = value
        else:
            kept.append((symbol, value))
    return tuple(kept)
