"""Rewriting of expressions before they are printed.

Hyperbolic tangents become logistic functions, which torch evaluates in one operation without loss of digits; straight lines
become slope times symbol plus rest, which take fewest operations.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy
from sympy import Expr, Symbol


class sigmoid(sympy.Function):  # noqa: N801 - the name in torch
    """Logistic function 1/(1 + exp(-z))."""

    nargs = 1

    def _eval_is_extended_real(self) -> bool:
        return True

    def fdiff(self, argindex: int = 1) -> Any:  # noqa: ARG002 - signature of sympy
        """Return the derivative."""
        z: Any = self.args[0]
        return sympy.Mul(sigmoid(z), sigmoid(-z))  # pyright: ignore


def with_sigmoids(expr: Any) -> Any:
    """Return ``expr`` with (1 + tanh(z))/2 as sigmoid(2 z) and 1 - sigmoid(z) as sigmoid(-z); other tanh stay."""
    if not expr.has(sympy.tanh):
        return expr
    return _tidy(expr.replace(sympy.tanh, lambda z: sympy.Mul(2, sigmoid(2 * z)) - 1))  # pyright: ignore


def _tidy(expr: Any) -> Any:
    """Turn signs so that constants cancel, from the leaves up; what did not cancel becomes tanh again."""
    if not expr.args or not expr.has(sigmoid):
        return expr
    expr = expr.func(*(_tidy(arg) for arg in expr.args))
    if not isinstance(expr, sympy.Add):
        return expr
    constant, rest = expr.as_coeff_Add()
    terms: list[Any] = []
    for term in sympy.Add.make_args(rest):
        constant, turned = _turned(constant, term)
        terms.append(turned)
    return sympy.Add(constant, *terms)


def _turned(constant: Any, term: Any) -> tuple[Any, Any]:
    """Return constant and term with the sigmoid of the term turned round, where that leaves a smaller constant or none."""
    factor, other = term.as_coeff_Mul()
    if not isinstance(other, sigmoid):
        return constant, term
    z: Any = other.args[0]
    if abs(constant + factor) < abs(constant):
        constant, factor, z = constant + factor, -factor, -z
    if constant != 0 and constant == -factor / 2:
        return sympy.Integer(0), factor / 2 * sympy.tanh(z / 2)
    return constant, factor * sigmoid(z)


def rebuilt(expr: Any, args: list[Any]) -> Any:
    """Return ``expr`` with other arguments; alternatives stay as they are written."""
    return sympy.Piecewise(*args, evaluate=False) if isinstance(expr, sympy.Piecewise) else expr.func(*args)


def straightened(expr: Any, moving: set[Symbol]) -> Any:
    """Return ``expr`` with straight lines inside of functions as slope times symbol plus rest, which take fewest operations."""
    if not expr.args or not expr.free_symbols & moving:
        return expr
    if isinstance(expr, sympy.Function) and not isinstance(expr, sympy.Piecewise):
        return expr.func(*(straight_line(arg, moving) or straightened(arg, moving) for arg in expr.args))
    return rebuilt(expr, [straightened(arg, moving) for arg in expr.args])


def straight_line(expr: Any, moving: Iterable[Symbol]) -> Expr | None:
    """Return ``expr`` as slopes times symbols plus rest, None if it is no such line."""
    parts = as_polynomial(expr, set(moving))
    straight = parts is not None and all(len(symbols) < 2 for symbols in parts)
    return (
        sympy.Add(*(factor * sympy.Mul(*symbols) for symbols, factor in parts.items())) if parts and straight else None
    )


def as_polynomial(expr: Any, symbols: set[Symbol]) -> dict[Any, Any] | None:
    """Return ``expr`` as products of ``symbols`` with coefficients free of them, up to second order; None if it is none."""
    found = sorted(expr.free_symbols & symbols, key=str)
    try:
        poly = sympy.Poly(expr, *found) if found else None
    except sympy.PolynomialError:
        return None
    if poly is None or poly.total_degree() > 2:
        return None
    result: dict[Any, Any] = {}
    for powers, coefficient in poly.terms():
        if coefficient.free_symbols & symbols:
            return None
        monomial = tuple(symbol for symbol, power in zip(found, powers, strict=True) for _ in range(power))
        result[monomial] = coefficient
    return result
