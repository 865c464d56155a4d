"""Equations -> torch: source code printed from sympy, vectorised over any batch, differentiable in every argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import Any

import sympy
import torch
from sympy import Expr, Piecewise, Symbol
from sympy.printing.pycode import PythonCodePrinter
from torch import Tensor

from memprop.device.functions import LIMIT, absolute, floor, limexp, maximum, minimum
from memprop.device.sigmoid import sigmoid, with_sigmoids
from memprop.errors import InputError

_PARTIAL = (
    sympy.Pow, sympy.log, sympy.exp, sympy.sinh, sympy.cosh, sympy.asin, sympy.acos, sympy.acosh, sympy.atanh, sympy.tan, sympy.atan2,
)  # fmt: skip
"""Functions with arguments at which value or slope is not finite."""
_UNARY = {
    sympy.exp: "exp", sympy.log: "log", sympy.sin: "sin", sympy.cos: "cos", sympy.tan: "tan", sympy.asin: "asin",
    sympy.acos: "acos", sympy.atan: "atan", sympy.sinh: "sinh", sympy.cosh: "cosh", sympy.tanh: "tanh", sympy.asinh: "asinh",
    sympy.acosh: "acosh", sympy.atanh: "atanh", absolute: "abs", sympy.Abs: "abs", floor: "floor", sigmoid: "sigmoid",
    sympy.sign: "sign",
}  # fmt: skip
_OTHER = {limexp: "limexp", minimum: "minimum", maximum: "maximum", sympy.atan2: "atan2"}


class _Printer(PythonCodePrinter):
    """Prints names of functions that `_NAMES` holds; numbers as floats."""

    def emptyPrinter(self, expr: Any) -> str:  # noqa: N802 - name in sympy
        """Refuse what has no form in torch."""
        raise InputError(f"{type(expr).__name__} has no form in torch. Write it with the functions of the subset.")

    def _print(self, expr: Any, **kwargs: Any) -> str:
        if isinstance(expr, Expr) and _is_plain_number(expr):
            return repr(float(expr.evalf(17)))
        return (
            self._print_Function(expr)
            if isinstance(expr, sympy.Function) and not isinstance(expr, Piecewise)
            else super()._print(expr, **kwargs)
        )

    def _print_Function(self, expr: Any) -> str:  # noqa: N802
        if isinstance(expr, chosen):
            return f"where({self._print(expr.args[1])}, {self._print(expr.args[0])}, 0.5, kind)"
        name = _UNARY.get(expr.func) or _OTHER.get(expr.func)
        if name is None:
            return self.emptyPrinter(expr)
        return f"{name}({', '.join(self._print(arg) for arg in expr.args)})"

    def _print_Pow(self, expr: Any, rational: bool = False) -> str:  # noqa: ARG002, N802
        base, exponent = expr.args
        if exponent == sympy.Rational(1, 2):
            return f"sqrt({self._print(base)})"
        if exponent == -1:
            return f"(1.0/{self.parenthesize(base, 50)})"
        text = self._print(base)
        if exponent.is_Integer and abs(int(exponent)) in (2, 3) and base.is_Atom:
            product = "*".join([text] * abs(int(exponent)))
            return f"({product})" if exponent > 0 else f"(1.0/({product}))"
        return f"power({text}, {self._print(exponent)})"

    def _print_Mul(self, expr: Any) -> str:  # noqa: N802
        """Print a quotient as one, which costs one operation less than a product with a reciprocal."""
        below = [arg.args[0] for arg in expr.args if _is_reciprocal(arg)]
        above = [arg for arg in expr.args if not _is_plain_number(arg) and not _is_reciprocal(arg)]
        constant = float(sympy.Mul(*(arg for arg in expr.args if _is_plain_number(arg))).evalf(17))
        texts = [self.parenthesize(arg, 50) for arg in above]
        sign = "-" if constant == -1.0 and texts else ""
        if abs(constant) != 1.0 or not texts:
            texts = [repr(constant), *texts]
        if not below:
            return sign + "*".join(texts)
        bottom = "*".join(self.parenthesize(arg, 60) for arg in below)
        return f"{sign}{'*'.join(texts)}/" + (bottom if len(below) == 1 else f"({bottom})")

    def _print_Piecewise(self, expr: Any) -> str:  # noqa: N802 # pyright: ignore
        *cases, (last, _) = expr.args
        text = self._print(last)
        for value, when in reversed(cases):
            text = f"where({self._print(when)}, {self._print(value)}, {text}, kind)"
        return text

    def _print_Relational(self, expr: Any) -> str:  # noqa: N802
        return f"({self._print(expr.lhs)} {expr.rel_op} {self._print(expr.rhs)})"

    def _print_And(self, expr: Any) -> str:  # noqa: N802
        return "(" + " & ".join(self._print(arg) for arg in expr.args) + ")"

    def _print_Or(self, expr: Any) -> str:  # noqa: N802
        return "(" + " | ".join(self._print(arg) for arg in expr.args) + ")"

    def _print_ITE(self, expr: Any) -> str:  # noqa: N802
        test, one, two = expr.args
        return self._print(sympy.Or(sympy.And(test, one), sympy.And(sympy.Not(test), two)))

    def _print_Not(self, expr: Any) -> str:  # noqa: N802
        return f"invert({self._print(expr.args[0])})"


def _is_plain_number(expr: Any) -> bool:
    """Return whether sympy knows the value."""
    return expr.is_number and not expr.has(*_OTHER, absolute, floor)


def _is_reciprocal(expr: Any) -> bool:
    return isinstance(expr, sympy.Pow) and expr.args[1] == -1 and not _is_plain_number(expr)


# What the printed text calls. Python numbers stay Python numbers, in double precision whatever the default of torch is.


def _number_of(function: Callable[..., Tensor], *args: Any) -> float:
    return float(function(*(torch.tensor(float(arg), dtype=torch.float64) for arg in args)))


def _each(function: Callable[[Tensor], Tensor]) -> Callable[[Any], Any]:
    def apply(x: Any) -> Any:
        return function(x) if isinstance(x, Tensor) else _number_of(function, x)

    return apply


def _pair(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Any], Any]:
    def apply(a: Any, b: Any) -> Any:
        if isinstance(a, Tensor):
            return function(a, b if isinstance(b, Tensor) else torch.full_like(a, b))
        return function(torch.full_like(b, a), b) if isinstance(b, Tensor) else _number_of(function, a, b)

    return apply


def _minimum(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor):
        return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp(max=b)
    return b.clamp(max=a) if isinstance(b, Tensor) else min(a, b)


def _maximum(a: Any, b: Any) -> Any:
    if isinstance(a, Tensor):
        return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp(min=b)
    return b.clamp(min=a) if isinstance(b, Tensor) else max(a, b)


def _limexp(x: Tensor) -> Tensor:
    return torch.exp(x.clamp(max=LIMIT)) * (1.0 + (x - LIMIT).clamp(min=0.0))


def _power(base: Any, exponent: Any) -> Any:
    return (
        torch.pow(base, exponent)
        if isinstance(base, Tensor) or isinstance(exponent, Tensor)
        else _number_of(torch.pow, base, exponent)
    )


def _where(when: Any, a: Any, b: Any, kind: torch.dtype) -> Any:
    if isinstance(when, bool):
        return a if when else b
    if not isinstance(a, Tensor) and not isinstance(b, Tensor):
        a = torch.tensor(a, dtype=kind)
    return torch.where(when, a, b)


def _kind(*args: Any) -> torch.dtype:
    """Return the type of numbers that the inputs call for."""
    kinds = [arg.dtype for arg in args if isinstance(arg, Tensor)]
    return reduce(torch.promote_types, kinds) if kinds else torch.float64


_NAMES: dict[str, Any] = {
    **{name: _each(getattr(torch, name)) for name in {*_UNARY.values(), "sqrt"}},
    "minimum": _minimum, "maximum": _maximum, "atan2": _pair(torch.atan2),
    "limexp": _each(_limexp), "where": _where, "power": _power, "kind_of": _kind,
    "inf": math.inf, "nan": math.nan, "invert": lambda x: not x if isinstance(x, bool) else ~x,
}  # fmt: skip


def guarded(expr: Any, when: Any = sympy.true) -> Any:
    """Return ``expr`` with every alternative safe where it is not chosen.

    torch.where evaluates both sides, and an infinite slope on the side not taken still spoils the gradient. So the arguments
    of partial functions inside an alternative become 1/2 wherever the alternative is not taken.
    """
    if not expr.args or (when == sympy.true and not expr.has(Piecewise)):
        return expr
    if isinstance(expr, Piecewise):
        cases, before = [], when
        for value, test in expr.args:  # pyright: ignore
            cases.append((guarded(value, _both(before, test)), guarded(test, before)))
            before = _both(before, sympy.Not(test))
        return Piecewise(*cases, evaluate=False)
    args = [guarded(arg, when) for arg in expr.args]
    if isinstance(expr, _PARTIAL) and when != sympy.true and _risky(expr):
        args[0] = chosen(args[0], when)
    return expr.func(*args)


class chosen(sympy.Function):  # noqa: N801 - an operation in expressions
    """First argument where the second holds, 1/2 elsewhere. Opaque: sympy draws functions into a Piecewise."""

    nargs = 2

    def _eval_is_extended_real(self) -> bool:
        return True


def _both(one: Any, two: Any) -> Any:
    return sympy.And(one, two, evaluate=False)  # pyright: ignore


def _risky(expr: Any) -> bool:
    if expr.args[0].is_number:
        return isinstance(expr, sympy.atan2)
    return not (isinstance(expr, sympy.Pow) and expr.args[1].is_Integer and expr.args[1] > 0)


def compile_torch(
    inputs: Sequence[Symbol], outputs: Sequence[Expr], lets: Iterable[tuple[Symbol, Expr]] = ()
) -> Callable[..., tuple[Any, ...]]:
    """Return a function of tensors, one per input and in their order, that returns the outputs as a tuple.

    Inputs broadcast against each other. Subexpressions are shared; an output that depends on no input comes as a float.

    Raises
    ------
    InputError: an expression holds something torch has no form for, or a symbol that is no input.
    """
    names = {symbol: f"a{k}" for k, symbol in enumerate(inputs)}
    lines: list[str] = []
    counter = iter(range(10**9))
    for symbol, expr in lets:
        _emit(lines, counter, names, [guarded(with_sigmoids(expr))])
        name = f"t{next(counter)}"
        lines.append(f"{name} = {lines.pop()}")
        names[symbol] = name
    _emit(lines, counter, names, [guarded(with_sigmoids(sympy.sympify(expr))) for expr in outputs])
    results = lines[len(lines) - len(outputs) :]
    body = [*lines[: len(lines) - len(outputs)], f"return ({''.join(f'{r}, ' for r in results)})"]
    arguments = ", ".join(names[symbol] for symbol in inputs)
    if any("where(" in line for line in body):
        body = [f"kind = kind_of({arguments})", *body]
    source = f"def function({arguments}):\n" + "".join(f"    {line}\n" for line in body)
    space: dict[str, Any] = dict(_NAMES)
    # The text holds only names made here and numbers and operators printed from sympy objects: nothing of a file.
    exec(compile(source, "<equations>", "exec"), space)  # noqa: S102
    function = space["function"]
    function.source = source
    return function


def _emit(lines: list[str], counter: Any, names: dict[Symbol, str], expressions: list[Any]) -> None:
    """Append the assignments of shared subexpressions, then one line per expression that is only its text."""
    shared, rest = sympy.cse(expressions, symbols=(Symbol(f"#{k}", real=True) for k in counter))
    printer = _Printer({"fully_qualified_modules": False})
    for symbol, expr in shared:
        lines.append(f"t{symbol.name[1:]} = {printer.doprint(_named(expr, names))}")
        names[symbol] = f"t{symbol.name[1:]}"
    for expr in rest:
        lines.append(str(printer.doprint(_named(expr, names))))


def _named(expr: Any, names: dict[Symbol, str]) -> Any:
    missing = [symbol for symbol in expr.free_symbols if symbol not in names]
    if missing:
        raise InputError(f"symbol '{missing[0]}' is neither an input nor defined. Give it as an input.")
    return expr.xreplace({symbol: Symbol(names[symbol], real=True) for symbol in expr.free_symbols})
