"""Split expressions into what is evaluated once and what is evaluated at every step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy
from sympy import Symbol
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanFunction


class Hoister:
    """Replaces every largest part that holds no moving symbol by a constant; ``constants`` collects them."""

    def __init__(self, moving: Iterable[Symbol], name: str = "k") -> None:
        self.moving = frozenset(moving)
        self.constants: dict[Any, Symbol] = {}
        self._name = name

    def still(self, expr: Any) -> bool:
        """Return whether ``expr`` holds no moving symbol."""
        return not expr.free_symbols & self.moving

    def __call__(self, expr: Any) -> Any:
        """Return ``expr`` with constants in place of its still parts."""
        if not expr.args:
            return expr
        if self.still(expr) and not isinstance(expr, (Relational, BooleanFunction)):
            return self.constant(expr)
        if isinstance(expr, (sympy.Add, sympy.Mul)):
            fixed = [arg for arg in expr.args if self.still(arg)]
            rest = [self(arg) for arg in expr.args if not self.still(arg)]
            return expr.func(*rest, self.constant(expr.func(*fixed))) if fixed else expr.func(*rest)
        if isinstance(expr, sympy.Piecewise):
            return sympy.Piecewise(*(tuple(map(self, case.args)) for case in expr.args), evaluate=False)
        return expr.func(*(self(arg) for arg in expr.args))

    def constant(self, expr: Any) -> Any:
        """Return the constant that stands for ``expr``; numbers and single symbols stand for themselves."""
        if expr.is_number or expr.is_Atom:
            return expr
        if (-expr).is_Atom or expr.could_extract_minus_sign():
            return -self.constant(-expr)
        return self.constants.setdefault(expr, Symbol(f"{self._name}:{len(self.constants)}", real=True))


def straightened(expr: Any, moving: Iterable[Symbol]) -> Any:
    """Return ``expr`` with arguments of functions that are straight lines in ``moving`` written as slope times symbol plus rest."""
    symbols = list(moving)
    if not expr.args or not expr.free_symbols & set(symbols):
        return expr
    if isinstance(expr, sympy.Function):
        return expr.func(*(_line(arg, symbols) if isinstance(arg, sympy.Expr) else arg for arg in expr.args))
    return expr.func(*(straightened(arg, symbols) for arg in expr.args))


def _line(expr: Any, symbols: list[Symbol]) -> Any:
    slopes = {s: sympy.diff(expr, s) for s in symbols if expr.has(s)}
    if not slopes or any(slope.free_symbols & set(symbols) for slope in slopes.values()):
        return straightened(expr, symbols)
    rest = expr.xreplace({s: sympy.Integer(0) for s in slopes})
    return sympy.Add(rest, *(slope * s for s, slope in slopes.items()))
