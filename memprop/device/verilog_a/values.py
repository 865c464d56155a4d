"""Values of the symbolic execution: expressions with the type that Verilog-A gives them, and its operators and functions.

Numbers are computed here, as doubles where they are not exact and short, so that sympy never meets a tower of powers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import sympy

from memprop.device.functions import absolute, choose, floor, is_truth, limexp, maximum, minimum
from memprop.device.functions import power as symbolic_power
from memprop.errors import VerilogError

TRUE, FALSE = sympy.true, sympy.false
_SCALE = {"T": 12, "G": 9, "M": 6, "K": 3, "k": 3, "m": -3, "u": -6, "n": -9, "p": -12, "f": -15, "a": -18}
_DIGITS = 40
_BITS = 300
"""Longer fractions are rounded to doubles."""
_EXPONENT = 32


class Value(NamedTuple):
    """An expression and whether the language takes it for an integer."""

    expr: Any
    integer: bool = False


ZERO = Value(sympy.Integer(0), True)


class Unset(NamedTuple):
    """A variable without a value so far."""

    name: str


class Poison(NamedTuple):
    """A variable whose value is outside of the subset; the error is raised when the value is used."""

    error: VerilogError


class Partial(NamedTuple):
    """A variable with a value in some alternatives only: condition and value of each, the first that holds counts."""

    cases: tuple[tuple[Any, Any], ...]
    depth: int


Variable = Value | Unset | Poison | Partial


class DomainError(ArithmeticError):
    """A function of numbers has no finite value."""


def exact(value: float) -> Any:
    """Return a double as the shortest fraction that reads back to it.

    Raises
    ------
    DomainError: it is not finite.
    """
    if not math.isfinite(value):
        raise DomainError
    return sympy.Integer(int(value)) if value.is_integer() and abs(value) < 1e15 else sympy.Rational(repr(value))


def number(text: str) -> Value:
    """Return the value of a literal, exact where it is short.

    Raises
    ------
    DomainError: it is larger than a double.
    """
    text = text.replace("_", "")
    integer = text.isdigit()
    scale = sympy.Integer(1)
    if text[-1] in _SCALE:
        scale = sympy.Rational(10) ** _SCALE[text[-1]]
        text = text[:-1]
    plain = float(text)
    if not math.isfinite(plain):
        raise DomainError
    short = len(text) <= _DIGITS and 1e-60 < abs(plain) < 1e60
    return Value((sympy.Rational(text) if short else exact(plain)) * scale, integer)


def condition(value: Value) -> Any:
    """Return the value as a truth value."""
    if is_truth(value.expr):
        return value.expr
    return compare("ne", value.expr, sympy.Integer(0))


def arithmetic(value: Value) -> Any:
    """Return the value as a number: a comparison counts 1 or 0."""
    if not is_truth(value.expr):
        return value.expr
    return choose([(sympy.Integer(1), value.expr), (sympy.Integer(0), TRUE)])


COMPARISONS: Mapping[str, tuple[Any, Callable[[Any, Any], bool]]] = {
    "eq": (sympy.Eq, lambda a, b: a == b), "ne": (sympy.Ne, lambda a, b: a != b), "lt": (sympy.Lt, lambda a, b: a < b),
    "le": (sympy.Le, lambda a, b: a <= b), "gt": (sympy.Gt, lambda a, b: a > b), "ge": (sympy.Ge, lambda a, b: a >= b),
}  # fmt: skip


def compare(name: str, a: Any, b: Any) -> Any:
    """Return a comparison: known for numbers, as written for the rest."""
    kind, test = COMPARISONS[name]
    if a.is_Rational and b.is_Rational:
        return TRUE if test(a, b) else FALSE
    return kind(a, b, evaluate=False)


def _rounded(value: Any) -> Any:
    """Return a number as it is if it is a short fraction, else as a double."""
    if not value.is_Rational or max(abs(value.p), value.q).bit_length() <= _BITS:
        return value
    try:
        return exact(value.p / value.q)
    except OverflowError:
        raise DomainError from None


def add(terms: Sequence[Any]) -> Any:
    """Return a sum."""
    return _rounded(sympy.Add(*terms))


def multiply(factors: Sequence[Any]) -> Any:
    """Return a product."""
    return _rounded(sympy.Mul(*factors))


def divide(a: Value, b: Value) -> Value:
    """Return the quotient; two integers give an integer, rounded to zero.

    Raises
    ------
    ZeroDivisionError, NotImplementedError: division by the number 0, or of integers that are not numbers.
    """
    top, bottom = arithmetic(a), arithmetic(b)
    if bottom == 0:
        raise ZeroDivisionError
    if not (a.integer and b.integer):
        return Value(_rounded(top / bottom))
    if not (top.is_number and bottom.is_number):
        raise NotImplementedError
    quotient = abs(top) // abs(bottom)
    return Value(quotient if (top < 0) == (bottom < 0) else -quotient, True)


def power(base: Any, exponent: Any) -> Any:
    """Return base to the exponent, for real numbers.

    Raises
    ------
    DomainError: both are numbers and the result is none.
    """
    if not (base.is_number and exponent.is_number):
        return symbolic_power(base, exponent)
    if exponent.is_Integer and abs(exponent) <= _EXPONENT and (base != 0 or exponent >= 0):
        return _rounded(base**exponent)
    return _of_numbers(math.pow, base, exponent)


def _of_numbers(function: Callable[..., float], *arguments: Any) -> Any:
    try:
        return exact(float(function(*(float(argument) for argument in arguments))))
    except (ValueError, OverflowError, ZeroDivisionError):
        raise DomainError from None


def _limexp(x: float) -> float:
    limit = math.log(1e30)
    return math.exp(min(x, limit)) * (1.0 + max(x - limit, 0.0))


def _ceil(x: Any) -> Any:
    below: Any = floor(-x)
    return -below


FUNCTIONS: Mapping[str, tuple[int, Callable[..., Any], Callable[..., Any]]] = {
    "exp": (1, sympy.exp, math.exp), "limexp": (1, limexp, _limexp), "ln": (1, sympy.log, math.log),
    "log": (1, lambda x: sympy.log(x) / sympy.log(10), math.log10), "log10": (1, lambda x: sympy.log(x) / sympy.log(10), math.log10),
    "sqrt": (1, sympy.sqrt, math.sqrt), "pow": (2, power, math.pow), "abs": (1, absolute, abs), "min": (2, minimum, min),
    "max": (2, maximum, max), "sin": (1, sympy.sin, math.sin), "cos": (1, sympy.cos, math.cos), "tan": (1, sympy.tan, math.tan),
    "asin": (1, sympy.asin, math.asin), "acos": (1, sympy.acos, math.acos), "atan": (1, sympy.atan, math.atan),
    "atan2": (2, sympy.atan2, math.atan2), "sinh": (1, sympy.sinh, math.sinh), "cosh": (1, sympy.cosh, math.cosh),
    "tanh": (1, sympy.tanh, math.tanh), "asinh": (1, sympy.asinh, math.asinh), "acosh": (1, sympy.acosh, math.acosh),
    "atanh": (1, sympy.atanh, math.atanh), "floor": (1, floor, math.floor), "ceil": (1, _ceil, math.ceil),
    "hypot": (2, lambda x, y: sympy.sqrt(x**2 + y**2), math.hypot),
}  # fmt: skip
"""Name -> number of arguments, the function of expressions, and that of numbers; with a $ before the name they mean the same."""
_EXACT: Mapping[str, Callable[..., Any]] = {
    "abs": abs, "min": min, "max": max, "floor": sympy.floor, "ceil": sympy.ceiling, "pow": power,
}  # fmt: skip


def call(name: str, arguments: list[Any]) -> Any:
    """Return a function of expressions; one of numbers is a number.

    Raises
    ------
    DomainError: the function has no finite value there.
    """
    _, symbolic, numeric = FUNCTIONS[name]
    if not all(argument.is_Rational for argument in arguments):
        return symbolic(*arguments)
    return _EXACT[name](*arguments) if name in _EXACT else _of_numbers(numeric, *arguments)
