"""Expressions -> text of C-like languages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sympy
from sympy import Symbol
from sympy.printing.str import StrPrinter

from memprop.device.functions import absolute, floor, limexp, maximum, minimum
from memprop.device.sigmoid import sigmoid
from memprop.errors import InputError
from memprop.twin.fused.program import Program, expm1, expm1_small, phi, share

_FUNCTIONS: Mapping[Any, str] = {
    expm1: "m_expm1", expm1_small: "m_expm1_small",
    sympy.exp: "m_exp", sigmoid: "m_sigmoid", absolute: "m_abs", sympy.Abs: "m_abs", floor: "std::floor",
    minimum: "m_min", maximum: "m_max", limexp: "m_limexp", sympy.log: "std::log", sympy.sin: "std::sin", sympy.cos: "std::cos",
    sympy.tan: "std::tan", sympy.asin: "std::asin", sympy.acos: "std::acos", sympy.atan: "std::atan", sympy.sinh: "std::sinh",
    sympy.cosh: "std::cosh", sympy.tanh: "m_tanh", sympy.asinh: "std::asinh", sympy.acosh: "std::acosh",
    sympy.atanh: "std::atanh", sympy.atan2: "std::atan2", sympy.sign: "m_sign",
}  # fmt: skip


class CppPrinter(StrPrinter):
    """Prints flat expressions: sums and products of names, and single functions of them."""

    language = "C++"
    functions = _FUNCTIONS

    def assign(self, name: str, text: str) -> str:
        """Return the statement that gives a name to a value."""
        return f"const real {name} = {text};"

    def store(self, place: str, text: str, *, add: bool) -> str:
        """Return the statement that stores, or adds, a value at a place."""
        return f"{place} {'+=' if add else '='} {text};"

    def _print_Float(self, expr: Any) -> str:  # noqa: N802 - names in sympy
        return f"real({float(expr)!r})"

    def _print_Integer(self, expr: Any) -> str:  # noqa: N802
        return f"real({int(expr)})"

    def _print_Rational(self, expr: Any) -> str:  # noqa: N802
        return f"real({float(expr)!r})"

    def _print_Symbol(self, expr: Any) -> str:  # noqa: N802
        return expr.name

    def _print_Add(self, expr: Any, order: Any = None) -> str:  # noqa: ARG002, N802
        return "(" + " + ".join(self._print(arg) for arg in expr.args) + ")"

    def _print_Mul(self, expr: Any) -> str:  # noqa: N802
        return "(" + "*".join(self._print(arg) for arg in expr.args) + ")"

    def _print_Pow(self, expr: Any, rational: bool = False) -> str:  # noqa: ARG002, N802
        base, exponent = (self._print(arg) for arg in expr.args)
        if expr.args[1] == sympy.Rational(1, 2):
            return f"std::sqrt({base})"
        if expr.args[1] == -1:
            return f"(real(1)/{base})"
        if expr.args[1].is_Integer and 0 < int(expr.args[1]) <= 4:
            return "(" + "*".join([base] * int(expr.args[1])) + ")"
        return f"std::pow({base}, {exponent})"

    def _print_Piecewise(self, expr: Any) -> str:  # noqa: N802
        *cases, last = expr.args
        text = self._print(last.args[0])
        for case in reversed(cases):
            text = f"({self._print(case.args[1])} ? {self._print(case.args[0])} : {text})"
        return text

    def _print_Relational(self, expr: Any) -> str:  # noqa: N802
        return f"({self._print(expr.lhs)} {expr.rel_op} {self._print(expr.rhs)})"

    def _print_And(self, expr: Any) -> str:  # noqa: N802
        return "(" + " && ".join(map(self._print, expr.args)) + ")"

    def _print_Or(self, expr: Any) -> str:  # noqa: N802
        return "(" + " || ".join(map(self._print, expr.args)) + ")"

    def _print_Not(self, expr: Any) -> str:  # noqa: N802
        return f"(!{self._print(expr.args[0])})"

    def _print_BooleanTrue(self, expr: Any) -> Any:  # noqa: ARG002, N802
        return "true"

    def _print_BooleanFalse(self, expr: Any) -> Any:  # noqa: ARG002, N802
        return "false"

    def _print_Function(self, expr: Any) -> str:  # noqa: N802
        if isinstance(expr, phi):
            return f"m_phi<{expr.args[0]}>({self._print(expr.args[1])})"
        if isinstance(expr, share):
            part, rest = (self._print(arg) for arg in expr.args[1:])
            return f"({part}/({part} + {rest}))"
        name = self.functions.get(expr.func)
        if name is None:
            return self.emptyPrinter(expr)
        return f"{name}({', '.join(map(self._print, expr.args))})"

    def emptyPrinter(self, expr: Any) -> str:  # noqa: N802
        """Refuse what has no form in C++."""
        raise InputError(f"{type(expr).__name__} has no form in {self.language}. Use the eager twin for this cell.")


class TritonPrinter(CppPrinter):
    """The same for functions of Triton, which are Python."""

    language = "Triton"
    functions: Mapping[Any, str] = {
        expm1: "m_expm1", expm1_small: "m_expm1",
        sympy.exp: "tl.exp", sigmoid: "m_sigmoid", absolute: "tl.abs", sympy.Abs: "tl.abs", floor: "tl.floor",
        minimum: "tl.minimum", maximum: "tl.maximum", limexp: "m_limexp", sympy.log: "tl.log", sympy.sin: "tl.sin",
        sympy.cos: "tl.cos", sympy.tanh: "m_tanh", sympy.sinh: "m_sinh", sympy.cosh: "m_cosh",
    }  # fmt: skip

    def assign(self, name: str, text: str) -> str:
        """Return the statement that gives a name to a value."""
        return f"{name} = {text}"

    def store(self, place: str, text: str, *, add: bool) -> str:
        """Return the statement that stores, or adds, a value at a place."""
        return f"{place} = {place} + {text}" if add else f"{place} = {text}"

    def _print_Float(self, expr: Any) -> str:  # noqa: N802
        return repr(float(expr))

    def _print_Integer(self, expr: Any) -> str:  # noqa: N802
        return repr(float(int(expr)))

    def _print_Rational(self, expr: Any) -> str:  # noqa: N802
        return repr(float(expr))

    def _print_Pow(self, expr: Any, rational: bool = False) -> str:  # noqa: ARG002, N802
        base, exponent = self._print(expr.args[0]), expr.args[1]
        if exponent == sympy.Rational(1, 2):
            return f"tl.sqrt({base})"
        if exponent == -1:
            return f"(1.0/{base})"
        if exponent.is_Integer and 0 < int(exponent) <= 4:
            return "(" + "*".join([base] * int(exponent)) + ")"
        return self.emptyPrinter(expr)

    def _print_Piecewise(self, expr: Any) -> str:  # noqa: N802
        *cases, last = expr.args
        text = self._print(last.args[0])
        for case in reversed(cases):
            text = f"tl.where({self._print(case.args[1])}, {self._print(case.args[0])}, {text})"
        return text

    def _print_And(self, expr: Any) -> str:  # noqa: N802
        return "(" + " & ".join(map(self._print, expr.args)) + ")"

    def _print_Or(self, expr: Any) -> str:  # noqa: N802
        return "(" + " | ".join(map(self._print, expr.args)) + ")"

    def _print_Not(self, expr: Any) -> str:  # noqa: N802
        return f"({self._print(expr.args[0])} == 0)"

    def _print_Function(self, expr: Any) -> str:  # noqa: N802
        if isinstance(expr, phi):
            return f"m_phi{expr.args[0]}({self._print(expr.args[1])})"
        return super()._print_Function(expr)


def statements(
    printer: CppPrinter, program: Program, places: Iterable[tuple[Symbol, str]], targets: Sequence[tuple[str, bool]]
) -> list[str]:
    """Return the statements of one step: take inputs from their places, compute, store the outputs.

    ``targets`` gives for each output where it goes, and whether it is added to what is there.
    """
    used = {s for _, expr in program.lets for s in expr.free_symbols}
    used |= {s for output in program.outputs for s in sympy.sympify(output).free_symbols}
    lines = [printer.assign(symbol.name, place) for symbol, place in places if symbol in used and place != symbol.name]
    lines += [printer.assign(name.name, printer.doprint(expr)) for name, expr in program.lets]
    for (place, add), output in zip(targets, program.outputs, strict=True):
        lines.append(printer.store(place, printer.doprint(sympy.sympify(output)), add=add))
    return lines
