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
