"""What the symbolic execution of one module knows and keeps: names, definitions, probes, flows, notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sympy
from sympy import Symbol

from memprop.device.equations import GROUND, Branch, Note, probe
from memprop.device.verilog_a import values as v
from memprop.device.verilog_a.linear import linear_parts
from memprop.device.verilog_a.place import Place, refuse, too_large
from memprop.device.verilog_a.syntax import Node, Syntax
from memprop.device.verilog_a.values import Value, Variable
from memprop.errors import VerilogError

_WORK = 150_000
"""Steps of execution, at most: unrolled loops and calls of functions included."""
_NOTES = 200
_SMALL = 4
"""Operations up to which an expression of parameters needs no definition."""
DERIVATIVES = 100
"""Uses of ddt(), at most, unrolled loops included."""
_LONG = 5000
"""Operations of one expression, at most."""


@dataclass(frozen=True, slots=True)
class Function:
    """An analog function: its arguments with their directions, its variables with their initial values, its body."""

    arguments: Mapping[str, str]
    variables: Mapping[str, bool]
    starts: tuple[tuple[str, Node], ...]
    constants: Mapping[str, Value]
    integer: bool
    body: Node


@dataclass(slots=True)
class Scope:
    """What names mean in one module, apart from variables."""

    nodes: tuple[str, ...] = ()
    ground: frozenset[str] = frozenset()
    branches: dict[str, Branch] = field(default_factory=dict)
    parameters: dict[str, Value] = field(default_factory=dict)
    strings: dict[str, str] = field(default_factory=dict)
    symbols: set[Any] = field(default_factory=set)
    """Symbols of the parameters."""
    functions: dict[str, Function] = field(default_factory=dict)
    potentials: set[str] = field(default_factory=set)
    """Access functions of potentials."""
    flows: set[str] = field(default_factory=set)
    writing: bool = False
    """Whether a function has output arguments."""
    kept: set[str] = field(default_factory=set)
    """Variables that statements outside of initial events set."""


@dataclass(slots=True)
class Book:
    """State of the execution of one module."""

    syntax: Syntax
    scope: Scope = field(default_factory=Scope)
    types: dict[str, bool] = field(default_factory=dict)
    """Variables -> whether they are integers."""
    variables: dict[str, Variable] = field(default_factory=dict)
    path: list[Any] = field(default_factory=list)
    """Conditions that hold where the execution is."""
    lets: list[tuple[Symbol, Any]] = field(default_factory=list)
    flows: dict[str, list[Any]] = field(default_factory=dict)
    """Key of a branch -> what is contributed to its flow."""
    forced: dict[str, list[Any]] = field(default_factory=dict)
    """Key of a branch -> what is contributed to its potential."""
    ends: dict[str, tuple[Branch, int]] = field(default_factory=dict)
    """Key of a branch -> its nodes in the order that the equations use, and -1 if the branch counts against it."""
    probes: dict[Symbol, Branch] = field(default_factory=dict)
    charges: dict[Symbol, Any] = field(default_factory=dict)
    """Symbols that stand for d/dt of an expression."""
    currents: dict[Symbol, str] = field(default_factory=dict)
    """Symbols that stand for the flow of a branch, by key."""
    places: dict[str, Place] = field(default_factory=dict)
    """Where a branch is first used, by kind and key."""
    notes: dict[Note, None] = field(default_factory=dict)
    moving: set[Any] = field(default_factory=set)
    """Symbols that depend on voltages or flows."""
    _symbols: dict[Any, Symbol] = field(default_factory=dict)
    _taken: dict[str, int] = field(default_factory=dict)
    _order: dict[Branch, int] = field(default_factory=dict)
    _work: int = 0

    def place(self, node: Node) -> Place:
        """Return where a piece of the syntax tree stands."""
        return self.syntax.place(node)

    def refuse(self, node: Node, what: str, remedy: str) -> VerilogError:
        """Return the error of a piece of the syntax tree."""
        return refuse(self.place(node), what, remedy)

    def note(self, kind: Any, node: Node, text: str) -> None:
        """Keep a note, once."""
        if len(self.notes) < _NOTES:
            self.notes[Note(kind, f"{self.place(node)}: {text}")] = None

    def spend(self, node: Node, steps: int = 1) -> None:
        """Count steps of execution.

        Raises
        ------
        TooLargeError: more than any device model needs.
        """
        self._work += steps
        if self._work > _WORK:
            raise too_large(
                self.place(node), f"statements, loops and functions take more than {_WORK} steps", "Write a closed form"
            )

    def assume(self, when: Any) -> None:
        """Add a condition, and those that follow from it, to those that hold where the execution is."""
        self.path.append(when)
        if isinstance(when, sympy.And):
            self.path += when.args

    def reserve(self, names: Iterable[str]) -> None:
        """Keep names of parameters from being given to definitions."""
        self._taken |= {name.lower(): 1 for name in names}

    def unique(self, name: str) -> str:
        """Return a name like ``name`` that no parameter and no other definition has; SPICE ignores case."""
        wanted = name
        while wanted.lower() in self._taken:
            self._taken[name.lower()] = number = self._taken.get(name.lower(), 1) + 1
            wanted = f"{name}_{number}"
        self._taken.setdefault(wanted.lower(), 1)
        return wanted

    def defined(self, name: str, value: Value, at: Node) -> Value:
        """Return the value under a symbol of its own where it is more than a symbol, so that nothing is written twice."""
        expr = v.arithmetic(value)
        if expr.is_number or expr.is_Atom or (-expr).is_Atom:
            return Value(expr, value.integer)
        free = expr.free_symbols
        if free & self.charges.keys():
            return Value(self.with_derivatives(name, expr, at), value.integer)
        size = self.checked_size(expr, at)
        if size < _SMALL and free <= self.scope.symbols:
            return Value(expr, value.integer)
        return Value(self.symbol_of(name, expr, free), value.integer)

    def checked_size(self, expr: Any, at: Node) -> int:
        """Return the operations in an expression, which may not be more than any model needs."""
        size = expr.count_ops()
        if size > _LONG:
            raise too_large(self.place(at), f"an expression of {size} operations", "Use variables for its parts")
        return size

    def symbol_of(self, name: str, expr: Any, free: set[Any]) -> Symbol:
        """Return the symbol that is defined as ``expr``, made under ``name`` if there is none."""
        if expr not in self._symbols:
            symbol = Symbol(self.unique(name), real=True)
            self.lets.append((symbol, expr))
            self._symbols[expr] = symbol
            if free & self.moving:
                self.moving.add(symbol)
        return self._symbols[expr]

    def with_derivatives(self, name: str, expr: Any, at: Node) -> Any:
        """Return an expression with ddt() in it as a sum of derivatives with factors, each of them defined."""
        parts = linear_parts(expr, set(self.charges))
        if parts is None:
            raise self.refuse(at, "ddt() inside a condition or function", "Use ddt() only as a term of a contribution")
        defined = {key: self.defined(name, Value(part), at).expr for key, part in parts.items()}
        return sympy.Add(*(part if key is None else part * key for key, part in defined.items()))

    # branches

    def oriented(self, a: str, b: str) -> tuple[Branch, int]:
        """Return two nodes in the order that the equations use for them, and -1 if that is the other one."""
        if (a, b) not in self._order:
            sign = -1 if a == GROUND else 1
            self._order |= {(a, b): sign, (b, a): -sign}
        sign = self._order[a, b]
        return ((a, b) if sign > 0 else (b, a)), sign

    def voltage(self, key: str) -> Any:
        """Return the voltage of a branch."""
        ends, sign = self.ends[key]
        symbol = probe(*ends)
        self.probes[symbol] = ends
        self.moving.add(symbol)
        return sign * symbol

    def current(self, key: str) -> Symbol:
        """Return the symbol of what flows through a branch."""
        for symbol, known in self.currents.items():
            if known == key:
                return symbol
        words = "".join(c if c.isalnum() else "_" for c in key.removesuffix(f",{GROUND}"))
        symbol = Symbol(self.unique(f"i_{words}"), real=True)
        self.currents[symbol] = key
        self.moving.add(symbol)
        return symbol


def label(key: str) -> str:
    """Return the key of a branch as it is written in the source."""
    return key.removesuffix(f",{GROUND}")
