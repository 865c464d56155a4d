"""Equations -> ngspice: behavioural subcircuits for simulators that cannot load compiled Verilog-A.

A state is the voltage of an internal node: a behavioural source carries its rate onto a capacitor. Behavioural sources
dominate the run time of ngspice: it evaluates each source, and its derivative by every voltage in it, as written. So

- what depends on parameters alone goes into ``.param`` lines, which are evaluated once;
- what is linear in the voltage of its own branch with a constant factor becomes a linear source;
- the voltage between two nodes gets a node of its own, which halves the derivatives;
- a variable of the Verilog-A that is used more than once, and is more than a straight line, gets a node of its own.

Such nodes hold the difference to the value at zero voltages: the first iteration of an operating point, where all nodes are
zero, then divides by no zero and finds no singular matrix.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import sympy
from sympy import Expr, Symbol

from memprop.device.equations import GROUND, TEMPERATURE, TNOM, Branch, Equations, Flow, free_symbols, probe
from memprop.device.functions import absolute, maximum, minimum, to_float
from memprop.device.hoist import Hoister
from memprop.device.sigmoid import as_polynomial, rebuilt, straight_line, straightened
from memprop.device.subcircuit_text import Printer, is_plain_number, number
from memprop.errors import InputError

_WIDTH = 116
_LONG = 60
"""Sums of fractions beyond this many operations are brought over one denominator."""
_PICO = sympy.Rational(1, 10**12)
_DIGITS = 10
"""Decimals of a number that ngspice keeps in a behavioural source; in a parameter it keeps all."""
RESERVED = {
    "time", "temper", "hertz", "pi", "e", "m", "table", "value", "exp", "ln", "log", "log10", "sqrt", "sin", "cos",
    "tan", "asin", "acos", "atan", "arctan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "abs", "floor",
    "ceil", "int", "nint", "sgn", "min", "max", "pow", "pwr", "pwl", "limit", "ternary_fcn", "gauss", "agauss",
    "unif", "aunif",
}  # fmt: skip
"""Names that mean something else in expressions of ngspice, so that no parameter or node can have them (found by trial)."""


@dataclass(slots=True)
class _Writer:
    """Writes the elements of one subcircuit."""

    equations: Equations
    hoister: Hoister
    names: dict[Symbol, Symbol] = field(default_factory=dict)
    """How symbols are written: constants, and what has a node of its own."""
    rest: dict[Any, Expr] = field(default_factory=dict)
    """Definitions with a node -> their value at zero voltages, a constant, plus the voltage of the node."""
    lines: list[str] = field(default_factory=list)
    printer: Printer = field(default_factory=lambda: Printer({"order": "none"}))

    def text(self, expr: Expr) -> str:
        """Return ``expr`` as text."""
        self.printer.integers = self.whole()
        return self.printer.doprint(expr.xreplace(self.names))

    def whole(self) -> frozenset[str]:
        """Return the names, as written, of parameters and constants that are whole numbers."""
        own = {self.equations.symbol(name): Symbol(name, integer=True) for name in self.equations.integers}
        made = {
            self.names.get(constant, constant).name
            for expr, constant in self.hoister.constants.items()
            if own and expr.free_symbols <= set(own) and expr.xreplace(own).is_integer
        }
        return frozenset({symbol.name for symbol in own} | made)

    def source(self, expr: Any) -> Any:
        """Return ``expr`` as it stands in a source: parts that are constant during a simulation have names."""
        result = self.exact(self.hoister(straightened(expr.xreplace(self.rest), set(self.hoister.moving))))
        for symbol in self.hoister.constants.values():
            if symbol not in self.names:
                self.names[symbol] = Symbol(self.free("k", numbered=True), real=True)
        return result

    def exact(self, expr: Any) -> Any:
        """Return ``expr`` with names for numbers of which a source would lose digits."""
        if isinstance(expr, Expr) and is_plain_number(expr):
            value = float(expr.evalf(17))
            if float(f"{value:.{_DIGITS}e}") == value:
                return expr
            return self.hoister.constants.setdefault(expr, Symbol(f"k:{len(self.hoister.constants)}", real=True))
        return rebuilt(expr, [self.exact(arg) for arg in expr.args]) if expr.args else expr

    def free(self, name: str, *, numbered: bool = False) -> str:
        """Return ``name``, with a number where it is taken, or always."""
        parts = self.equations
        taken = {word.lower() for word in (*parts.parameters, *parts.ports, *parts.nodes, *map("_".join, parts.flows))}
        taken |= RESERVED | {symbol.name.removeprefix("V(").removesuffix(")") for symbol in self.names.values()}
        tries = (f"{name.lower()}{k}" if k or numbered else name.lower() for k in count(int(numbered)))
        return next(word for word in tries if word not in taken)

    def node(self, symbol: Symbol, name: str) -> str:
        """Return the name of a new node that carries the value of ``symbol``."""
        node = self.free(name)
        self.names[symbol] = probe(node, GROUND)
        return node

    def difference(self, symbol: Symbol, branch: Branch) -> None:
        """Write a node that carries the voltage between two nodes."""
        node = self.node(symbol, "".join(branch))
        self.lines += [f"g{node} 0 {node} {' '.join(branch)} 1", f"r{node} {node} 0 1"]

    def definition(self, symbol: Symbol, expr: Any, zeros: dict[Any, Any], *, shifted: bool) -> None:
        """Write a node that carries the value of a definition, ``shifted`` by that at zero voltages, which joins ``zeros``."""
        at_zero = _folded(expr.xreplace(zeros)) if shifted else sympy.Integer(0)
        value = self.source(expr - at_zero)
        zeros[symbol] = self.hoister.constant(at_zero)
        self.rest[symbol] = symbol + self.source(zeros[symbol])
        node = self.node(symbol, symbol.name)
        self.lines += [f"b{node} 0 {node} i = {self.text(value)}", f"r{node} {node} 0 1"]

    def branch(self, branch: Branch, flow: Flow) -> None:
        """Write what flows through one branch."""
        a, b = branch
        tag = f"{a}_{b}" if b != GROUND else a
        conductance, rest = linear(branch, flow.current, self.hoister.moving)
        if conductance != 0:
            self.lines.append(f"g{tag} {a} {b} {a} {b} {{{self.text(self.source(conductance))}}}")
        rest = self.source(rest)
        if rest != 0 and b == GROUND and rest.could_extract_minus_sign():
            self.lines.append(f"b{tag} {b} {a} i = {self.text(-rest)}")
        elif rest != 0:
            self.lines.append(f"b{tag} {a} {b} i = {self.text(rest)}")
        if flow.charge != 0:
            self.charge(tag, branch, flow.charge)

    def charge(self, tag: str, branch: Branch, charge: Expr) -> None:
        """Write a capacitor, or for a charge that is no constant times its voltage, a source that holds it and a mirror."""
        a, b = branch
        capacitance = sympy.diff(charge, probe(a, b))
        if charge == capacitance * probe(a, b) and self.hoister.still(capacitance):
            self.lines.append(f"c{tag} {a} {b} {{{self.text(self.source(capacitance))}}}")
            return
        held, sensed = self.node(Symbol(f"q:{tag}"), f"q{tag}"), self.node(Symbol(f"s:{tag}"), f"s{tag}")
        self.lines += [  # 1 pC stands as 1 V, so that the node is of the size of other nodes
            f"bq{tag} {held} 0 v = {self.text(self.source(charge / _PICO))}",
            f"cq{tag} {held} {sensed} {number(float(_PICO))}",
            f"vq{tag} {sensed} 0 0",
            f"fq{tag} {a} {b} vq{tag} 1",
        ]

    def write_nodes(self) -> None:
        """Write the nodes for voltages between nodes and for definitions."""
        parts = self.equations
        sources = [expr for _, expr in parts.lets]
        for branch, flow in parts.flows.items():
            sources += [linear(branch, flow.current, self.hoister.moving)[1], flow.charge]
        for symbol in sorted(free_symbols(sources) & set(parts.probes), key=str):
            if parts.probes[symbol][1] != GROUND:
                self.difference(symbol, parts.probes[symbol])
        zeros: dict[Any, Any] = {**dict.fromkeys(parts.probes, sympy.Integer(0)), TEMPERATURE: sympy.Float(TNOM)}
        numbers: dict[Any, Any] = zeros | {
            parts.symbol(name): sympy.Float(p.default) for name, p in parts.parameters.items()
        }
        for symbol, expr in parts.lets:
            value = _number(expr.xreplace(numbers))
            numbers[symbol] = sympy.Float(value)
            self.definition(symbol, expr, zeros, shifted=value != 0.0)


def _number(expr: Any) -> float:
    """Return the value of a number, 0 where it is not finite."""
    with suppress(TypeError, ValueError, OverflowError):
        value = to_float(expr)
        return value if math.isfinite(value) else 0.0
    return 0.0


def _folded(expr: Any) -> Any:
    """Return ``expr`` with minima, maxima and absolute values of numbers as numbers."""
    kinds = (minimum, maximum, absolute)
    return expr.replace(
        lambda part: isinstance(part, kinds) and part.is_number, lambda part: sympy.Float(to_float(part))
    )


def linear(branch: Branch, current: Expr, moving: Iterable[Symbol]) -> tuple[Expr, Expr]:
    """Return the constant conductance of a branch in S and the rest of its current in A."""
    own = probe(*branch)
    parts = as_polynomial(current, set(moving))
    if parts is None or (own,) not in parts:
        return sympy.Integer(0), current
    conductance = parts.pop((own,))
    terms = ((sympy.together(c) if c.count_ops() > _LONG else c) * sympy.Mul(*m) for m, c in parts.items())
    return conductance, sympy.Add(*terms)


def with_nodes(equations: Equations) -> Equations:
    """Return the equations with those ``lets`` alone that are worth a node: used more than once, and no straight lines."""
    moving = {*equations.probes, TEMPERATURE}
    expressions = [expr for _, expr in equations.lets] + [part for flow in equations.flows.values() for part in flow]
    uses = Counter(part for expr in expressions for part in sympy.preorder_traversal(expr) if isinstance(part, Symbol))
    table: dict[Any, Any] = {}
    kept: list[tuple[Symbol, Expr]] = []
    for symbol, expr in equations.lets:
        value: Any = expr.xreplace(table)
        if uses[symbol] > 1 and value.free_symbols & moving and straight_line(value, moving) is None:
            kept.append((symbol, value))
            moving.add(symbol)
        else:
            table[symbol] = value
    flows: Any = {b: Flow(*(part.xreplace(table) for part in flow)) for b, flow in equations.flows.items()}  # pyright: ignore
    return replace(equations, lets=tuple(kept), flows=flows)


def subcircuit(name: str, equations: Equations, defaults: Mapping[str, float], about: str) -> str:
    """Return one ``.subckt`` with the equations; parameters are those of ``defaults``, in SI units.

    Raises
    ------
    InputError: a name cannot stand in ngspice, or a function has no form there.
    """
    _check_names(name, equations)
    parts = with_nodes(equations)
    writer = _Writer(parts, Hoister({*parts.probes, TEMPERATURE, *(symbol for symbol, _ in parts.lets)}))
    writer.write_nodes()
    for branch, flow in parts.flows.items():
        writer.branch(branch, flow)
    head = f".subckt {name} {' '.join(equations.ports)}"
    head += " params: " + " ".join(f"{k.lower()}={number(v)}" for k, v in defaults.items()) if defaults else ""
    found = writer.hoister.constants.items()
    constants = [f".param {writer.names[symbol].name}={{{writer.text(expr)}}}" for expr, symbol in found]
    lines = [f"* {about}"] if about else []
    for line in [head, *constants, *writer.lines]:
        lines += wrapped(line)
    return "\n".join([*lines, f".ends {name}"]) + "\n"


def wrapped(line: str) -> Iterator[str]:
    """Yield ``line`` in pieces of readable length; the later ones begin with a plus."""
    while len(line) > _WIDTH:
        cut = max((line.rfind(mark, 40, _WIDTH) for mark in (" ", "+", "*")), default=-1)
        if cut < 0:
            break
        yield line[:cut].rstrip()
        line = "+ " + line[cut:].lstrip()
    yield line


def _check_names(name: str, equations: Equations) -> None:
    for kind, words in (("nodes", [*equations.ports, *equations.nodes]), ("parameters", list(equations.parameters))):
        if len({word.lower() for word in words}) != len(words):
            raise InputError(
                f"{equations.file}: {kind} {', '.join(words)} of {name} differ only in case, which SPICE ignores. Rename one."
            )
        for word in words:
            if word.lower() in RESERVED:
                raise InputError(f"{equations.file}: name '{word}' has a meaning of its own in ngspice. Rename it.")
