"""SPICE expressions -> sympy, with the meaning that ngspice gives them.

Three habits of ngspice differ from mathematics, all measured: a power takes the absolute value of its base, chains of powers
count from the left, and a sign binds looser than a power (``-2^2`` is -4).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import sympy
from lark import Lark, Token, Transformer, v_args
from lark.exceptions import LarkError, VisitError
from numpy.typing import NDArray
from sympy.core.relational import Relational
from sympy.logic.boolalg import BooleanAtom, BooleanFunction

from memprop.errors import InputError

_GRAMMAR = r"""
?start: ternary
?ternary: either | either "?" ternary ":" ternary -> choose
?either: both | either "||" both -> either
?both: comparison | both "&&" comparison -> both
?comparison: sum | sum COMPARE sum -> compare
?sum: product | sum "+" product -> add | sum "-" product -> subtract
?product: signed | product "*" signed -> multiply | product "/" signed -> divide
?signed: power | "-" signed -> negate | "+" signed | "!" signed -> invert
?power: atom | power POWER exponent -> raise_to
?exponent: atom | "-" exponent -> negate | "+" exponent
?atom: NUMBER -> number | PROBE -> probe | NAME -> name | call | "(" ternary ")"
call: NAME "(" ternary ("," ternary)* ")"
COMPARE: ">=" | "<=" | "==" | "!=" | "<>" | ">" | "<"
POWER: "**" | "^"
PROBE.3: /[vi]\s*\(\s*[^\s(),]+\s*(,\s*[^\s(),]+\s*)?\)/
NUMBER.2: /(\d+\.?\d*|\.\d+)(e[+-]?\d+)?([a-z]+)?/
NAME: /[a-z_][\w.]*/
%ignore /\s+/
"""
_SUFFIXES: Mapping[str, float] = {
    "t": 12, "g": 9, "meg": 6, "k": 3, "m": -3, "u": -6, "n": -9, "p": -12, "f": -15, "a": -18,
}  # fmt: skip
_NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:e([+-]?\d+))?((?!e)[a-z]*)")


def _power(base: Any, exponent: Any) -> sympy.Expr:
    return sympy.Abs(base) ** exponent


def _step(x: Any) -> sympy.Expr:
    return sympy.Piecewise((0, x < 0), (1, x > 0), (sympy.Rational(1, 2), True))


_FUNCTIONS: Mapping[str, tuple[int, Callable[..., Any]]] = {
    **{name: (1, getattr(sympy, name)) for name in (
        "exp", "sqrt", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "floor",
    )},
    "ln": (1, sympy.log), "log": (1, sympy.log), "log10": (1, lambda x: sympy.log(x) / sympy.log(10)),
    "abs": (1, sympy.Abs), "sgn": (1, sympy.sign), "ceil": (1, sympy.ceiling), "u": (1, _step),
    "uramp": (1, lambda x: sympy.Max(x, 0)), "min": (2, sympy.Min), "max": (2, sympy.Max), "pow": (2, _power),
    "atan2": (2, sympy.atan2), "arctan": (1, sympy.atan),
    "ternary_fcn": (3, lambda c, x, y: sympy.Piecewise((x, _truth(c)), (y, True))),
}  # fmt: skip
"""Name -> number of arguments and meaning. ``log`` is the natural logarithm in ngspice. ``pwr`` and ``limit`` are left out: in
ngspice they mean one thing in parameters and another in behavioural sources."""


_CONDITION = (Relational, BooleanFunction, BooleanAtom)
"""What is a condition; a Symbol calls itself a Boolean, but stands for a number here."""


def _truth(value: Any) -> Any:
    """Return the condition that ``value`` stands for: a number is true unless 0."""
    return value if isinstance(value, _CONDITION) else sympy.Ne(value, 0)


def _number(value: Any) -> sympy.Expr:
    """Return the number that ``value`` stands for: a true condition is 1, a false one 0."""
    return sympy.Piecewise((1, value), (0, True)) if isinstance(value, _CONDITION) else value


@v_args(inline=True)
class _Reader(Transformer[Token, Any]):
    """Makes sympy of the tree; every operand is a number or a condition."""

    def __init__(self, parameter: bool) -> None:
        super().__init__()
        self.parameter = parameter

    def number(self, token: Token) -> sympy.Expr:
        value = number_from_text(str(token))
        return sympy.Integer(int(value)) if value.is_integer() and abs(value) < 1e15 else sympy.Float(value)

    def probe(self, token: Token) -> sympy.Expr:
        text = re.sub(r"\s+", "", str(token))
        nodes = [node for node in text[2:-1].split(",") if text[0] == "i" or node not in ("0", "gnd")]
        if text[0] == "v" and (len(set(nodes)) < len(nodes) or not nodes):
            return sympy.Integer(0)
        if text[0] == "v" and text.startswith(("v(0,", "v(gnd,")):
            return -_symbol(f"v({nodes[0]})")
        return _symbol(f"{text[0]}({','.join(nodes)})")

    def name(self, token: Token) -> sympy.Expr:
        return _CONSTANTS.get(str(token)) or _symbol(str(token))

    def call(self, name: Token, *values: Any) -> sympy.Expr:
        count, function = _FUNCTIONS.get(str(name), (0, None))
        if function is None:
            raise InputError(f"function '{name}' is not known. Known: {', '.join(sorted(_FUNCTIONS))}")
        if len(values) != count:
            raise InputError(f"function '{name}' has {len(values)} arguments. Give it {count}")
        numbers = [_number(value) for value in values]
        return numbers[0] ** numbers[1] if self.parameter and name == "pow" else function(*numbers)

    def choose(self, condition: Any, yes: Any, no: Any) -> sympy.Expr:
        return sympy.Piecewise((_number(yes), _truth(condition)), (_number(no), True))

    def either(self, one: Any, other: Any) -> Any:
        return sympy.Or(_truth(one), _truth(other))

    def both(self, one: Any, other: Any) -> Any:
        return sympy.And(_truth(one), _truth(other))

    def invert(self, value: Any) -> Any:
        return sympy.Not(_truth(value))

    def compare(self, one: Any, sign: Token, other: Any) -> Any:
        return _COMPARE[str(sign)](_number(one), _number(other))

    def add(self, one: Any, other: Any) -> sympy.Expr:
        return _number(one) + _number(other)

    def subtract(self, one: Any, other: Any) -> sympy.Expr:
        return _number(one) - _number(other)

    def multiply(self, one: Any, other: Any) -> sympy.Expr:
        return _number(one) * _number(other)

    def divide(self, one: Any, other: Any) -> sympy.Expr:
        return _number(one) / _number(other)

    def negate(self, value: Any) -> sympy.Expr:
        return -_number(value)

    def raise_to(self, base: Any, sign: Token, exponent: Any) -> sympy.Expr:  # noqa: ARG002
        return _power(_number(base), _number(exponent))


_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    ">": sympy.Gt, ">=": sympy.Ge, "<": sympy.Lt, "<=": sympy.Le, "==": sympy.Eq, "!=": sympy.Ne, "<>": sympy.Ne,
}  # fmt: skip
_CONSTANTS: Mapping[str, sympy.Expr] = {"pi": sympy.Float(3.141592653589793)}


def _symbol(name: str) -> sympy.Symbol:
    return sympy.Symbol(name, real=True)


def number_from_text(text: str) -> float:
    """Return the number in SPICE text such as ``1e-6``, ``10k``, ``1meg`` (1e6), ``1m`` and ``1M`` (1e-3), ``5pF``.

    Raises
    ------
    InputError: the text is no number.
    """
    match = _NUMBER.fullmatch(text.strip().lower())
    if match is None or match[3].startswith("mil"):  # ngspice takes mil for 1e-3 in parameters and 25.4e-6 elsewhere
        raise InputError(f"'{text}' is no number. Write e.g. 1e-6.")
    letters = match[3]
    suffix = next((key for key in ("meg", *_SUFFIXES) if letters.startswith(key)), "")
    exponent = int(match[2] or 0) + int(_SUFFIXES.get(suffix, 0))
    return float(f"{match[1]}e{exponent}")


@functools.cache
def _parser() -> Lark:
    return Lark(_GRAMMAR, parser="lalr", maybe_placeholders=False)


def parse_expression(text: str, source: str, *, parameter: bool = False) -> sympy.Expr:
    """Return the sympy expression of SPICE ``text``; ``source`` says where it stands, for messages.

    ``parameter`` says that it is the value of a parameter and not of a behavioural source: there ``pow`` keeps the sign of its base.

    Parameters become real symbols of their lower-case names, voltages ``v(a,b)`` and currents ``i(name)`` real symbols of that
    text, the time in s the symbol ``time``. Comparisons are 1 or 0 where a number is needed.

    Raises
    ------
    InputError: the text is no expression, or a function is unknown or has the wrong number of arguments.
    """
    try:
        return _number(_Reader(parameter).transform(_parser().parse(text.lower())))
    except VisitError as error:
        reason = str(error.orig_exc)
    except LarkError as error:
        column = getattr(error, "column", None) or len(text) + 1
        reason = (
            f"not understood at character {column}, '{text[column - 1 : column + 19]}'"
            if column > 0
            else "not complete"
        )
    raise InputError(f"{source}: expression '{text[:80]}': {reason.rstrip('.')}. Correct the expression.")


_TIME = _symbol("time")
_FINEST = 1e-9
"""Shortest distance of two points, relative to the stop time; a jump takes so long."""
_MOST_POINTS = 1_000_000
Points = NDArray[np.float64]


def corners(expression: sympy.Expr, stop: float) -> list[float]:
    """Return the times in s, from 0 to before ``stop``, at which conditions on the time change; sorted."""
    found = set()
    for condition in expression.atoms(Relational):
        difference: Any = condition.lhs - condition.rhs  # pyright: ignore[reportOperatorIssue]
        slope = difference.diff(_TIME)
        if slope.is_number and slope != 0:
            moment = float(-difference.subs(_TIME, 0) / slope)
            found |= {moment} if 0.0 <= moment < stop else set()
    return sorted(found)


def sample_in_time(expression: sympy.Expr, stop: float, tolerance: float = 1e-6) -> Points:
    """Return points ``[points, 2]`` (time in s, value) whose straight lines follow an expression of the time up to ``stop``.

    The lines are off by less than ``tolerance`` of the largest value. Every corner is a point, and a jump takes 1e-9 of ``stop``.

    Raises
    ------
    InputError: the expression depends on more than the time, is not finite, or changes too abruptly away from its conditions.
    """
    others = sorted(str(symbol) for symbol in expression.free_symbols - {_TIME})
    if others:
        raise InputError(f"expression of the time depends on {', '.join(others)}. Write numbers in their place.")
    value = _evaluator(expression)
    peak = float(np.abs(value(np.linspace(0.0, stop, 4097))).max())
    if not np.isfinite(peak):
        raise InputError(f"expression of the time is not finite between 0 s and {stop!r} s. Correct it.")
    gap = _FINEST * stop
    edges = sorted({0.0, *corners(expression, stop)})
    pieces = []
    for start, end in zip(edges, [*edges[1:], stop], strict=True):
        before, after = value(np.array([start - gap if start else start, start + gap]))
        jump = abs(after - before) > 1e-4 * peak
        pieces += [np.array([[start, before]])] if jump else []
        pieces.append(_refined(value, start + gap if jump else start, end - gap, tolerance * peak, gap))
    return np.concatenate([*pieces, np.array([[stop, float(value(np.array([stop]))[0])]])])


def _evaluator(expression: sympy.Expr) -> Callable[[Points], Points]:
    function = sympy.lambdify(_TIME, expression, "numpy")

    def value(time: Points) -> Points:
        with np.errstate(all="ignore"):  # the branches that are not taken may overflow
            return np.broadcast_to(np.asarray(function(time), dtype=np.float64), time.shape)

    return value


def _refined(value: Callable[[Points], Points], start: float, end: float, limit: float, gap: float) -> Points:
    """Return points from ``start`` to before ``end``, halving intervals until straight lines are good."""
    time = np.linspace(start, end, 17)
    while True:
        between = time[:-1, None] + np.diff(time)[:, None] * np.array([0.25, 0.5, 0.75])
        left, right = value(time[:-1])[:, None], value(time[1:])[:, None]
        line = left + (right - left) * np.array([0.25, 0.5, 0.75])
        bad = (np.abs(value(between) - line) > 0.5 * limit).any(1)
        if not bad.any():
            return np.stack([time[:-1], value(time[:-1])], axis=1)
        if len(time) > _MOST_POINTS or (np.diff(time)[bad] < 2 * gap).any():
            moment = float(time[:-1][bad][0])
            raise InputError(
                f"expression of the time changes too abruptly near {moment!r} s. Write the change as a condition on the time."
            )
        time = np.sort(np.append(time, between[bad, 1]))
