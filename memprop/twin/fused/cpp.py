"""Programs -> C++: one loop over time for a block of neurons, vectorised over the neurons, blocks shared among threads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sympy
from sympy import Symbol
from sympy.printing.str import StrPrinter

from memprop.device.functions import LIMIT, absolute, floor, limexp, maximum, minimum
from memprop.device.sigmoid import sigmoid
from memprop.errors import InputError
from memprop.twin.fused.program import Program, adjoint, expm1, phi, pruned, taped
from memprop.twin.fused.step import AFTER, BEFORE, Steps, V

_FUNCTIONS: Mapping[Any, str] = {
    expm1: "m_expm1", sympy.exp: "m_exp", sigmoid: "m_sigmoid", absolute: "m_abs", sympy.Abs: "m_abs", floor: "std::floor",
    minimum: "m_min", maximum: "m_max", limexp: "m_limexp", sympy.log: "std::log", sympy.sin: "std::sin", sympy.cos: "std::cos",
    sympy.tan: "std::tan", sympy.asin: "std::asin", sympy.acos: "std::acos", sympy.atan: "std::atan", sympy.sinh: "std::sinh",
    sympy.cosh: "std::cosh", sympy.tanh: "m_tanh", sympy.asinh: "std::asinh", sympy.acosh: "std::acosh",
    sympy.atanh: "std::atanh", sympy.atan2: "std::atan2", sympy.sign: "m_sign",
}  # fmt: skip


class _Printer(StrPrinter):
    """Prints flat expressions: sums and products of names, and single functions of them."""

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
        name = _FUNCTIONS.get(expr.func)
        if name is None:
            return self.emptyPrinter(expr)
        return f"{name}({', '.join(map(self._print, expr.args))})"

    def emptyPrinter(self, expr: Any) -> str:  # noqa: N802
        """Refuse what has no form in C++."""
        raise InputError(f"{type(expr).__name__} has no form in C++. Use the eager twin for this cell.")


@dataclass(frozen=True, slots=True)
class Source:
    """C++ text of the kernels of a cell, and how to call them."""

    text: str
    uniform: tuple[Symbol, ...]
    """Constants with one value for all neurons."""
    varying: tuple[Symbol, ...]
    """Constants with one value per neuron."""
    gradients: bool
    """Whether the adjoint gives gradients by the constants, in the order uniform, varying."""


def cpp_source(
    steps: Steps, uniform: tuple[Symbol, ...], varying: tuple[Symbol, ...], real: str, *, gradients: bool
) -> Source:
    """Return the kernels for numbers of type ``real``, float or double; ``gradients``: also by the constants."""
    writer = _Text(steps, uniform, varying, gradients)
    text = Path(__file__).with_name("kernel.cpp.in").read_text(encoding="utf-8")
    pieces = {"real": real, "limit": repr(LIMIT), **writer.pieces()}
    for name, piece in pieces.items():
        text = text.replace(f"@{name}@", piece)
    return Source(text, uniform, varying, gradients)


@dataclass(frozen=True, slots=True)
class _Text:
    steps: Steps
    uniform: tuple[Symbol, ...]
    varying: tuple[Symbol, ...]
    gradients: bool

    def pieces(self) -> dict[str, str]:
        """Return the texts that go into the frame of the kernels."""
        whole, advance, states = self.steps.whole, self.steps.advance, self.steps.states
        constants = (*self.uniform, *self.varying) if self.gradients else ()
        bars = [Symbol(f"bar{k}", real=True) for k in range(len(states) + 1)]
        back = adjoint(whole, [V, *states, BEFORE, AFTER, *constants], bars)
        back, tape = taped(back, whole)
        places = [(name, f"tape[{k}][l]") for k, name in enumerate(tape)]
        replay = pruned(replace(whole, outputs=(*whole.outputs[1:], *tape)))
        end = adjoint(advance, [V, *states, *constants], bars[1:])
        ends = [f"x[{k}][l]" for k in range(len(states))]
        return {
            "states": str(len(states)),
            "uniform": str(len(self.uniform)),
            "varying": str(len(self.varying)),
            "constants": str(len(constants)),
            "load_uniform": self._loads(self.uniform, "uniform[{k}]"),
            "whole": self._body(whole, [*self._states("x[{k}][l]"), (V, "v[l]"), (BEFORE, "before[l]"), (AFTER, "after[l]")],
                                ["v[l]", *ends]),
            "advance": self._body(advance, [*self._states("x[{k}][l]"), (V, "v[l]")], ends),
            "tape": str(len(tape)),
            "replay": self._body(replay, [*self._states("here[{k}][l]"), (V, "v[l]")],
                                 [*(f"next[{k}][l]" for k in range(len(states))), *(place for _, place in places)]),
            "back": self._body(back, [*places, *self._states("here[{k}][l]"), (V, "v[l]"), (BEFORE, "before[l]"), (AFTER, "after[l]"),
                                      (bars[0], "bv[l]"), *((bar, f"bx[{k}][l]") for k, bar in enumerate(bars[1:]))],
                               ["bv[l]", *(f"bx[{k}][l]" for k in range(len(states))), "g0[l]", "g1[l]",
                                *(f"+gc[{k}][l]" for k in range(len(constants)))]),
            "end": self._body(end, [*self._states("here[{k}][l]"), (V, "v[l]"),
                                    *((bar, f"bx[{k}][l]") for k, bar in enumerate(bars[1:]))],
                              ["+bv[l]", *(f"bx[{k}][l]" for k in range(len(states))),
                               *(f"+gc[{k}][l]" for k in range(len(constants)))]),
        }  # fmt: skip

    def _states(self, place: str) -> list[tuple[Symbol, str]]:
        return [(symbol, place.format(k=k)) for k, symbol in enumerate(self.steps.states)]

    def _loads(self, symbols: Iterable[Symbol], place: str) -> str:
        return "\n".join(f"const real {s.name} = {place.format(k=k)};" for k, s in enumerate(symbols))

    def _body(self, program: Program, places: Sequence[tuple[Symbol, str]], targets: Sequence[str]) -> str:
        """Return the statements of one neuron and step: load, compute, store."""
        printer = _Printer()
        places = [*places, *((s, f"c[{k}][l]") for k, s in enumerate(self.varying))]
        used = {s for _, expr in program.lets for s in expr.free_symbols}
        used |= {s for output in program.outputs for s in sympy.sympify(output).free_symbols}
        lines = [f"const real {symbol.name} = {place};" for symbol, place in places if symbol in used]
        lines += [f"const real {name.name} = {printer.doprint(expr)};" for name, expr in program.lets]
        for target, output in zip(targets, program.outputs, strict=True):
            sign, place = ("+=", target[1:]) if target.startswith("+") else ("=", target)
            lines.append(f"{place} {sign} {printer.doprint(sympy.sympify(output))};")
        return "\n".join(lines)
