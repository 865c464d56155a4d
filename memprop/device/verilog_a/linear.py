"""Expressions that are linear in some symbols, taken apart without differentiating or expanding anything."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import sympy

from memprop.device.functions import choose

ZERO = sympy.Integer(0)


def linear_parts(expr: Any, symbols: set[Any]) -> dict[Any, Any] | None:  # noqa: PLR0911 - one return per kind
    """Return the factor of each of ``symbols`` in ``expr`` and, under None, the rest; None if it is not linear in them."""
    if expr in symbols:
        return {expr: sympy.Integer(1), None: ZERO}
    if not expr.free_symbols & symbols:
        return {None: expr}
    if isinstance(expr, sympy.Add):
        return _joined([linear_parts(arg, symbols) for arg in expr.args], lambda parts: sympy.Add(*parts))
    if isinstance(expr, sympy.Mul):
        inner = [arg for arg in expr.args if arg.free_symbols & symbols]
        parts = linear_parts(inner[0], symbols) if len(inner) == 1 else None
        factor = sympy.Mul(*(arg for arg in expr.args if arg is not inner[0]))
        return None if parts is None else {key: factor * part for key, part in parts.items()}
    if isinstance(expr, sympy.Piecewise):
        tests: list[Any] = [when for _, when in expr.args]  # pyright: ignore[reportGeneralTypeIssues]
        if any(test.free_symbols & symbols for test in tests):
            return None
        alternatives = [linear_parts(value, symbols) for value, _ in expr.args]  # pyright: ignore[reportGeneralTypeIssues]
        return _joined(alternatives, lambda parts: choose(list(zip(parts, tests, strict=True))))
    return None


def _joined(alternatives: Iterable[dict[Any, Any] | None], join: Callable[[list[Any]], Any]) -> dict[Any, Any] | None:
    """Return the parts of several expressions, joined symbol by symbol."""
    found = list(alternatives)
    known = [parts for parts in found if parts is not None]
    if len(known) < len(found):
        return None
    return {
        key: join([parts.get(key, ZERO) for parts in known])
        for key in dict.fromkeys(k for parts in known for k in parts)
    }
