"""Functions of Verilog-A that sympy lacks, or whose derivatives there are no plain expressions; and expressions as numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import sympy
from sympy.core.relational import Relational
from sympy.functions.elementary.piecewise import ExprCondPair
from sympy.logic.boolalg import BooleanFunction

LIMIT = math.log(1e30)
"""Argument beyond which limexp goes on as a straight line: 1e30, as in the Verilog-A compilers."""


class _Plain(sympy.Function):
    """A function of real arguments that stays as written until it is differentiated or printed."""

    args: Any

    def _eval_is_extended_real(self) -> bool:
        return True

    def _eval_is_finite(self) -> bool:
        return True


class limexp(_Plain):  # noqa: N801 - the name in the language
    """Exponential that goes on as a straight line beyond `LIMIT`."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> Any:  # noqa: ARG002 - signature of sympy
        """Return the derivative."""
        return sympy.exp(minimum(self.args[0], sympy.Float(LIMIT)))


class absolute(_Plain):  # noqa: N801
    """Absolute value; derivative 1 at 0, like the compilers."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> Any:  # noqa: ARG002
        """Return the derivative."""
        return sympy.Piecewise((-1, self.args[0] < 0), (1, True), evaluate=False)


class minimum(_Plain):  # noqa: N801
    """Smaller of two."""

    nargs = 2

    def fdiff(self, argindex: int = 1) -> Any:
        """Return the derivative: 1 for the smaller argument."""
        one, two = (1, 0) if argindex == 1 else (0, 1)
        return sympy.Piecewise((one, self.args[0] < self.args[1]), (two, True), evaluate=False)


class maximum(_Plain):  # noqa: N801
    """Larger of two."""

    nargs = 2

    def fdiff(self, argindex: int = 1) -> Any:
        """Return the derivative: 1 for the larger argument."""
        one, two = (1, 0) if argindex == 1 else (0, 1)
        return sympy.Piecewise((one, self.args[0] > self.args[1]), (two, True), evaluate=False)


class floor(_Plain):  # noqa: N801
    """Largest integer not above."""

    nargs = 1

    def fdiff(self, argindex: int = 1) -> Any:  # noqa: ARG002
        """Return 0."""
        return sympy.Integer(0)


def is_truth(expr: Any) -> bool:
    """Return whether an expression is a comparison or made of them; symbols, which sympy also takes for truths, are numbers."""
    return isinstance(expr, (Relational, BooleanFunction)) or expr in (sympy.true, sympy.false)


def choose(cases: list[tuple[Any, Any]]) -> Any:
    """Return a Piecewise of (expression, condition), left as written but for conditions that are known."""
    kept: list[tuple[Any, Any]] = []
    for expr, when in cases:
        if when == sympy.false:
            continue
        kept.append((expr, when))
        if when == sympy.true:
            break
    if len(kept) == 1 or all(expr == kept[0][0] for expr, _ in kept):
        return kept[0][0]
    return sympy.Piecewise(*kept, evaluate=False)


def power(base: Any, exponent: Any) -> Any:
    """Return base to the exponent; exponents that sympy would try to work out exactly, at any cost, become floats."""
    if exponent.is_Rational and (abs(exponent.p) > 64 or exponent.q > 8):
        exponent = sympy.Float(exponent.p / exponent.q) if exponent.q > 1 else sympy.Float(exponent)
    return sympy.Pow(base, exponent)


def _limexp(x: Any) -> Any:
    return np.exp(np.minimum(x, LIMIT)) * (1.0 + np.maximum(x - LIMIT, 0.0))


_NUMERIC: Mapping[Any, Callable[..., Any]] = {
    sympy.exp: np.exp, sympy.log: np.log, sympy.sin: np.sin, sympy.cos: np.cos, sympy.tan: np.tan, sympy.asin: np.arcsin,
    sympy.acos: np.arccos, sympy.atan: np.arctan, sympy.atan2: np.arctan2, sympy.sinh: np.sinh, sympy.cosh: np.cosh,
    sympy.tanh: np.tanh, sympy.asinh: np.arcsinh, sympy.acosh: np.arccosh, sympy.atanh: np.arctanh, sympy.Abs: np.abs,
    absolute: np.abs, minimum: np.minimum, maximum: np.maximum, sympy.Min: np.minimum, sympy.Max: np.maximum,
    floor: np.floor, sympy.floor: np.floor, sympy.ceiling: np.ceil, sympy.sign: np.sign, limexp: _limexp,
    sympy.Eq: np.equal, sympy.Ne: np.not_equal, sympy.Lt: np.less, sympy.Le: np.less_equal, sympy.Gt: np.greater,
    sympy.Ge: np.greater_equal, sympy.And: np.logical_and, sympy.Or: np.logical_or, sympy.Not: np.logical_not,
    sympy.Add: np.add, sympy.Mul: np.multiply,
}  # fmt: skip
_FOLDED = {sympy.Add, sympy.Mul, sympy.And, sympy.Or, sympy.Min, sympy.Max}
"""Functions of any number of arguments, taken two by two."""


def evaluate(expr: Any, known: dict[Any, Any]) -> Any:
    """Return the value of ``expr``, a float or an array of float64 (or of bool, for a condition).

    ``known`` gives the values of symbols and keeps those of all parts, so that shared ones are computed once.

    Raises
    ------
    TypeError: a symbol without a value, or a function that has no number.
    """
    if expr in known:
        return known[expr]
    value = _value(expr, known)
    known[expr] = value
    return value


def _value(expr: Any, known: dict[Any, Any]) -> Any:  # noqa: PLR0911 - one return per kind
    if isinstance(expr, sympy.Rational):
        try:
            return expr.p / expr.q
        except OverflowError:
            return math.inf if expr > 0 else -math.inf
    if expr in (sympy.true, sympy.false):
        return bool(expr)
    if not expr.args:
        return _number(expr)
    if isinstance(expr, sympy.Piecewise):
        return _alternatives(expr, known)
    args = [evaluate(arg, known) for arg in expr.args]
    if isinstance(expr, sympy.Pow):
        return _power(*args)
    function = _NUMERIC.get(expr.func)
    if function is None:
        raise TypeError(f"{expr.func} has no number")
    with np.errstate(all="ignore"):
        return functools.reduce(function, args) if expr.func in _FOLDED else function(*args)


def _number(expr: Any) -> float:
    if expr.is_number and expr.is_real is not False:
        return float(expr)
    raise TypeError(f"{expr} has no real value")


def _power(base: Any, exponent: Any) -> Any:
    with np.errstate(all="ignore"):
        if isinstance(exponent, float) and exponent == 0.5:
            return np.sqrt(base)
        return np.power(np.asarray(base, dtype=np.float64), exponent)


def _alternatives(expr: sympy.Piecewise, known: dict[Any, Any]) -> Any:
    result: Any = math.nan
    for value, when in reversed(expr.args):  # pyright: ignore[reportGeneralTypeIssues]
        test = evaluate(when, known)
        result = np.where(test, evaluate(value, known), result)
    return result


def to_float(expr: Any) -> float:
    """Return a number expression as a float.

    Raises
    ------
    TypeError, ValueError: it is no real number.
    """
    value = float(evaluate(sympy.sympify(expr), {}))
    if math.isnan(value):
        raise ValueError(f"{expr} is not a real number")
    return value


def replaced(expr: Any, table: Mapping[Any, Any], memo: dict[Any, Any]) -> Any:
    """Return ``expr`` with symbols replaced, and nothing else changed but for what becomes known by it.

    sympy's own replacement tries to simplify every alternative and comparison, which takes minutes on large models.
    ``memo`` keeps the results of parts; give the same one with the same table only.
    """
    if not expr.args:
        return table.get(expr, expr)
    if expr not in memo:
        memo[expr] = _rebuilt(expr, [replaced(arg, table, memo) for arg in expr.args])
    return memo[expr]


def _rebuilt(expr: Any, args: list[Any]) -> Any:
    if all(new is old for new, old in zip(args, expr.args, strict=True)):
        return expr
    if isinstance(expr, ExprCondPair):
        return sympy.Tuple(*args)
    if isinstance(expr, sympy.Piecewise):
        return choose([tuple(pair) for pair in args])
    if isinstance(expr, Relational) and not all(arg.is_number for arg in args):
        return expr.func(*args, evaluate=False)
    if isinstance(expr, sympy.Pow):
        return power(*args)
    return expr.func(*args)
