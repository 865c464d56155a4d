"""Straight-line programs of sympy expressions, and their adjoints.

A program is a list of assignments, each an expression of inputs and earlier names in which every function stands alone.
The adjoint follows by the chain rule, assignment by assignment from the last to the first, with derivatives from sympy
(reverse accumulation; A. Griewank, A. Walther, Evaluating Derivatives, SIAM 2008, chapter 3).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
from sympy import Symbol
from sympy.core.relational import Relational
from sympy.functions.elementary.piecewise import ExprCondPair
from sympy.logic.boolalg import BooleanFunction

from memprop.device.sigmoid import sigmoid
from memprop.device.torch_function import chosen, guarded

Expr = Any
"""A sympy expression; sympy's own annotations are too loose to check."""


SMALL = 0.3465
"""ln(2)/2, rounded down."""


class expm1(sympy.Function):  # noqa: N801 - the name in C
    """exp(z) - 1."""

    nargs = 1

    def _eval_is_extended_real(self) -> bool:
        return True

    def fdiff(self, argindex: int = 1) -> Any:  # noqa: ARG002 - signature of sympy
        """Return the derivative."""
        return expm1(self.args[0]) + 1  # pyright: ignore


class expm1_small(sympy.Function):  # noqa: N801
    """exp(z) - 1 where abs(z) is below `SMALL`: there a polynomial is enough."""

    nargs = 1

    def _eval_is_extended_real(self) -> bool:
        return True

    def fdiff(self, argindex: int = 1) -> Any:  # noqa: ARG002
        """Return the derivative."""
        return self + 1  # pyright: ignore


class phi(sympy.Function):  # noqa: N801
    """``phi(k, z)``, the k-th function of exponential integrators: (exp(z) - 1)/z for k = 1, and so on."""

    nargs = 2

    def _eval_is_extended_real(self) -> bool:
        return True

    def fdiff(self, argindex: int = 2) -> Any:  # noqa: ARG002
        """Return the derivative by z: phi_k - k phi_(k+1)."""
        k, z = self.args
        return phi(k, z) - k * phi(k + 1, z)  # pyright: ignore


class share(sympy.Function):  # noqa: N801
    """``share(z, a, b)`` is a/(a + b), which is the logistic function of z: a/b is exp(z), from wherever it is known.

    Only z counts for the derivative.
    """

    nargs = 3

    def _eval_is_extended_real(self) -> bool:
        return True

    def fdiff(self, argindex: int = 1) -> Any:
        """Return the derivative by z; 0 for the others."""
        return self * (1 - self) if argindex == 1 else sympy.Integer(0)  # pyright: ignore


def with_shares(expressions: Sequence[Expr], moving: set[Symbol]) -> tuple[list[Expr], dict[Symbol, Expr]]:
    """Return expressions in which logistic functions of opposite slope share one exponential, and new constants.

    exp(-z) of the first and exp(-y) of the second have a product that does not move where y + z does not; the second is then
    exp(-z)/(exp(-z) + exp(-y - z)). For each exp(-y - z) the expressions have a name; the sums y + z are returned by it.
    """
    nodes = sorted({node for expr in expressions for node in expr.atoms(sigmoid)}, key=str)
    table: dict[Expr, Expr] = {}
    sums: dict[Symbol, Expr] = {}
    for k, one in enumerate(nodes):
        for other in nodes[k + 1 :]:
            total: Expr = sympy.expand(one.args[0] + other.args[0])
            if one not in table and other not in table and not total.free_symbols & moving:
                exponential: Expr = sympy.exp(-one.args[0])
                table[one] = share(one.args[0], sympy.Integer(1), exponential)
                name = Symbol("factor_" + "_".join(sorted(map(str, total.free_symbols))), real=True)
                table[other] = share(other.args[0], exponential, name)
                sums[name] = total
    return [expr.xreplace(table) for expr in expressions], sums


@dataclass(frozen=True, slots=True)
class Program:
    """Assignments in order, and what they are for."""

    inputs: tuple[Symbol, ...]
    lets: tuple[tuple[Symbol, Expr], ...]
    outputs: tuple[Expr, ...]
    """Names or numbers."""


@dataclass(slots=True)
class Writer:
    """Writes a program; a part that was written before is not written again."""

    prefix: str = "t"
    lets: list[tuple[Symbol, Expr]] = field(default_factory=list)
    _names: dict[Expr, Symbol] = field(default_factory=dict)

    def __call__(self, expr: Expr) -> Expr:
        """Return a name for ``expr``, or ``expr`` itself where it is a name or a number."""
        flat = self._flat(guarded(sympy.sympify(expr)))
        return flat if flat.is_Atom else self._named(flat)

    def program(self, inputs: Iterable[Symbol], outputs: Sequence[Expr]) -> Program:
        """Return what was written, without what the outputs do not need."""
        return pruned(Program(tuple(inputs), tuple(self.lets), tuple(outputs)))

    def _flat(self, expr: Expr) -> Expr:
        """Return ``expr`` with a name in the place of every function inside."""
        if not expr.args:
            return expr
        if isinstance(expr, chosen):
            expr = sympy.Piecewise((expr.args[0], expr.args[1]), (sympy.Rational(1, 2), True), evaluate=False)
        if isinstance(expr, sympy.Piecewise):
            cases = [tuple(map(self._flat, case.args)) for case in expr.args]
            return self._named(sympy.Piecewise(*cases, evaluate=False))
        args: list[Any] = [self._flat(arg) for arg in expr.args]
        if isinstance(expr, (Relational, BooleanFunction, ExprCondPair)):
            return expr.func(*args, evaluate=False)  # pyright: ignore
        flat: Any = expr.func(*args)
        if isinstance(flat, sigmoid) and (turned := self._names.get(sigmoid(-args[0]))) is not None:
            return 1 - turned
        if isinstance(flat, sympy.Pow) and flat.args[1].is_Integer:
            base, exponent = flat.args[0], int(flat.args[1])
            return flat if exponent > 0 else self._named(1 / base) ** -exponent
        return self._named(flat) if isinstance(flat, (sympy.Function, sympy.Pow)) and not flat.is_number else flat

    def _named(self, expr: Expr) -> Symbol:
        if expr not in self._names:
            name = Symbol(f"{self.prefix}{len(self.lets)}", real=True)
            self._names[expr] = name
            self.lets.append((name, expr))
        return self._names[expr]


def pruned(program: Program) -> Program:
    """Return the program without assignments that no output needs."""
    needed = {s for output in program.outputs for s in sympy.sympify(output).free_symbols}
    kept: list[tuple[Symbol, Expr]] = []
    for name, expr in reversed(program.lets):
        if name in needed:
            needed |= expr.free_symbols
            kept.append((name, expr))
    return Program(program.inputs, tuple(reversed(kept)), program.outputs)


def adjoint(program: Program, active: Sequence[Symbol], bars: Sequence[Symbol]) -> Program:
    """Return the program with the derivatives of ``sum(bar x output)`` by the ``active`` inputs as its outputs.

    ``bars`` are names of the weights of the outputs, one per output; they become inputs beside those of ``program``.
    """
    moving = _moving(program, active)
    writer = Writer("a", list(program.lets), {expr: name for name, expr in program.lets})
    weights: dict[Symbol, Expr] = {}
    for output, bar in zip(program.outputs, bars, strict=True):
        for symbol in sympy.sympify(output).free_symbols & moving:
            weights[symbol] = weights.get(symbol, 0) + bar * sympy.diff(output, symbol)
    for name, expr in reversed(program.lets):
        if name not in moving or name not in weights:
            continue
        weight = writer(weights.pop(name))
        for symbol in sorted(expr.free_symbols & moving, key=str):
            weights[symbol] = weights.get(symbol, 0) + weight * derivative(expr, symbol)
    outputs = [writer(weights.get(symbol, sympy.Integer(0))) for symbol in active]
    return pruned(Program((*program.inputs, *bars), tuple(writer.lets), tuple(outputs)))


def taped(back: Program, forward: Program) -> tuple[Program, tuple[Symbol, ...]]:
    """Return an adjoint that takes functions from a tape, and their names, inputs now.

    Taken are the functions that ``forward`` needs for its outputs but the first, from which the adjoint starts anew: whoever
    computes these outputs has them at hand.
    """
    ahead = {name for name, _ in pruned(Program(forward.inputs, forward.lets, forward.outputs[1:])).lets}
    names = tuple(name for name, expr in back.lets if name in ahead and isinstance(expr, (sympy.Function, sympy.Pow)))
    lets = tuple(pair for pair in back.lets if pair[0] not in names)
    return pruned(Program((*back.inputs, *names), lets, back.outputs)), names


def _moving(program: Program, active: Sequence[Symbol]) -> set[Symbol]:
    """Return the names that depend on active inputs."""
    moving = set(active)
    for name, expr in program.lets:
        if expr.free_symbols & moving:
            moving.add(name)
    return moving


def derivative(expr: Expr, symbol: Symbol) -> Expr:
    """Return the derivative; alternatives are differentiated one by one, whatever decides between them."""
    if isinstance(expr, sympy.Piecewise):
        cases = [(sympy.diff(case.args[0], symbol), case.args[1]) for case in expr.args]
        return sympy.Piecewise(*cases, evaluate=False)
    return sympy.diff(expr, symbol)
