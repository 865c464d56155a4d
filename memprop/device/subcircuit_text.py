"""Prints sympy expressions as ngspice's behavioural sources and parameters read them."""

from __future__ import annotations

import math
from typing import Any

import sympy
from sympy import Expr
from sympy.printing.str import StrPrinter

from memprop.device.equations import TEMPERATURE
from memprop.device.functions import LIMIT, absolute, floor, limexp, maximum, minimum
from memprop.errors import InputError

_PICO = sympy.Rational(1, 10**12)
_FUNCTIONS = {
    sympy.exp: "exp", sympy.log: "ln", sympy.sin: "sin", sympy.cos: "cos", sympy.tan: "tan", sympy.asin: "asin",
    sympy.acos: "acos", sympy.atan: "atan", sympy.sinh: "sinh", sympy.cosh: "cosh", sympy.tanh: "tanh", sympy.asinh: "asinh",
    sympy.acosh: "acosh", sympy.atanh: "atanh", absolute: "abs", sympy.Abs: "abs", minimum: "min", maximum: "max",
    floor: "floor", sympy.sign: "sgn",
}  # fmt: skip


class Printer(StrPrinter):
    """Prints expressions as ngspice reads them in behavioural sources and in parameters alike."""

    integers: frozenset[str] = frozenset()
    """Names of parameters that are whole numbers."""

    def emptyPrinter(self, expr: Any) -> str:  # noqa: N802 - name in sympy
        """Refuse what has no form in ngspice."""
        raise InputError(f"{type(expr).__name__} has no form in ngspice. Write it with the functions of the subset.")

    def _print(self, expr: Any, **kwargs: Any) -> str:
        if isinstance(expr, Expr) and is_plain_number(expr):
            return number(float(expr.evalf(17)))
        return super()._print(expr, **kwargs)

    def _print_Symbol(self, expr: Any) -> str:  # noqa: N802
        if expr == TEMPERATURE:
            return "(temper+273.15)"
        return expr.name.lower()

    def _print_Function(self, expr: Any) -> str:  # noqa: N802
        if isinstance(expr, sympy.atan2):
            return self._angle(*(self._factor(arg, closed=True) for arg in expr.args))
        name = _FUNCTIONS.get(expr.func)
        if name is None:
            return self.emptyPrinter(expr)
        return f"{name}({','.join(self._print(arg) for arg in expr.args)})"

    _print_exp = _print_log = _print_Abs = _print_sign = _print_Function  # noqa: N815

    def _print_limexp(self, expr: Any) -> str:
        x = self._print(expr.args[0])
        return f"({x} < {number(LIMIT)} ? exp({x}) : 1e30*({x}-{number(LIMIT - 1)}))"

    def _angle(self, y: str, x: str) -> str:
        """Return the angle of the point (x, y), which ngspice has no function for."""
        steep = f"({y} < 0 ? -1 : 1)*2*atan(1)-atan({x}/{y})"
        flat = f"({x} < 0 ? ({y} < 0 ? -1 : 1)*4*atan(1) : 0)+atan({y}/{x})"
        return f"(abs({y}) > abs({x}) ? {steep} : {flat})"

    def _print_Pow(self, expr: Any, rational: bool = False) -> str:  # noqa: ARG002, N802
        base, exponent = expr.args
        if exponent == sympy.Rational(1, 2):
            return f"sqrt({self._print(base)})"
        if exponent.is_Integer and 1 < abs(int(exponent)) <= 4:
            # ngspice raises the absolute value of the base, products keep the sign
            text = "(" + "*".join([self._factor(base)] * abs(int(exponent))) + ")"
        elif exponent.is_Integer and int(exponent) % 2 and exponent != -1:
            text = f"({self._factor(base)}*pow({self._print(base)},{abs(int(exponent)) - 1}))"
        elif exponent == -1:
            text = self._factor(base, closed=True)
        else:
            return f"{self._sign(base, exponent)}pow({self._print(base)},{self._print(exponent)})"
        return text if exponent > 0 else f"1/{text}"

    def _sign(self, base: Any, exponent: Any) -> str:
        """Return the factor that gives an odd whole power of a negative base its sign, which ngspice drops."""
        symbols = {symbol.name for symbol in exponent.free_symbols}
        if base.is_number or not symbols or not symbols <= self.integers or never_negative(base):
            return ""
        k = self._print(exponent)
        return f"(({self._print(base)} < 0) && (cos({number(math.pi)}*({k})) < 0) ? (-1) : 1)*"

    def _print_Mul(self, expr: Any) -> str:  # noqa: N802
        sign, positive = ("-", -expr) if expr.could_extract_minus_sign() else ("", expr)
        if not isinstance(positive, sympy.Mul):
            return sign + self._factor(positive)
        divides = [
            isinstance(a, sympy.Pow) and a.args[1].is_number and a.args[1] < 0 and not a.is_number
            for a in positive.args
        ]
        above = [a for a, is_below in zip(positive.args, divides, strict=True) if not is_below]
        below = [a for a, is_below in zip(positive.args, divides, strict=True) if is_below]
        text = "*".join(self._factor(a) for a in above) or "1"
        part: Any
        for part in below:
            text += "/" + self._factor(sympy.Pow(part.args[0], -part.args[1]), closed=True)
        return sign + text

    def _factor(self, expr: Any, *, closed: bool = False) -> str:
        """Return an expression as one factor; ``closed``: as a divisor, where products need parentheses too."""
        text = self._print(expr)
        bare = expr.is_Atom or isinstance(expr, sympy.Function)
        whole = bare or (isinstance(expr, sympy.Pow) and (not closed or text.startswith("(")))
        return text if whole and not text.startswith("-") and not isinstance(expr, sympy.Add) else f"({text})"

    def _print_Add(self, expr: Any, order: Any = None) -> str:  # noqa: ARG002, N802
        text = ""
        for term in sorted(expr.args, key=lambda t: (t.could_extract_minus_sign(), t.sort_key())):
            part = self._print(term)
            part = f"({part})" if isinstance(term, sympy.Piecewise) and not part.startswith("(") else part
            text += part if part.startswith("-") or not text else f"+{part}"
        return text

    def _print_Piecewise(self, expr: Any) -> str:  # noqa: N802
        *cases, (last, _) = expr.args
        text = self._alternative(last)
        for value, when in reversed(cases):
            text = f"({self._print(when)} ? {self._alternative(value)} : {text})"
        return text

    def _alternative(self, expr: Any) -> str:
        text = self._print(expr)
        return f"({text})" if text.startswith("-") else text  # a minus after ? or : is refused in parameters

    def _print_Relational(self, expr: Any) -> str:  # noqa: N802
        return f"({self._print(expr.lhs)} {expr.rel_op} {self._print(expr.rhs)})"

    def _print_And(self, expr: Any, order: Any = None) -> str:  # noqa: ARG002, N802
        return "(" + " && ".join(self._print(arg) for arg in sorted(expr.args, key=str)) + ")"

    def _print_Or(self, expr: Any, order: Any = None) -> str:  # noqa: ARG002, N802
        return "(" + " || ".join(self._print(arg) for arg in sorted(expr.args, key=str)) + ")"

    def _print_ITE(self, expr: Any) -> str:  # noqa: N802
        test, one, two = expr.args
        return self._print(sympy.Or(sympy.And(test, one), sympy.And(sympy.Not(test), two)))

    def _print_Not(self, expr: Any) -> str:  # noqa: N802
        return f"(!{self._print(expr.args[0])})"


def never_negative(expr: Any) -> bool:
    """Return whether an expression is plainly not negative for any real arguments."""
    if isinstance(expr, maximum):
        return any(never_negative(arg) or (arg.is_number and arg >= 0) for arg in expr.args)
    root = isinstance(expr, sympy.Pow) and (expr.args[1] == sympy.Rational(1, 2) or expr.args[1].is_even is True)
    return isinstance(expr, (absolute, sympy.Abs, sympy.exp, limexp)) or root


def number(value: float) -> str:
    """Return the shortest text that reads back to the same float."""
    text = repr(float(value))
    return text.removesuffix(".0").replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")


def is_plain_number(expr: Any) -> bool:
    """Return whether sympy knows the value."""
    return expr.is_number and not expr.has(limexp, absolute, minimum, maximum, floor)
