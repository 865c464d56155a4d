"""Torch functions made from expressions: equal to plain arithmetic, with gradients that hold beside infinite slopes."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Piecewise, Symbol

from memprop.device.equations import probe
from memprop.device.functions import LIMIT, absolute, floor, limexp, maximum, minimum
from memprop.device.sigmoid import sigmoid, with_sigmoids
from memprop.device.torch_function import compile_torch
from memprop.errors import InputError

X, Y, Z = (probe(name, "0") for name in "abc")
VALUES: Mapping[Any, float] = {
    X: 0.7128436513,
    Y: -1.3251679843,
    Z: 2.5397142657,
    Symbol("p", real=True): 0.3614287913,
    Symbol("k1", real=True): -0.8712345678,
}
"""Three voltages and two parameters, with many digits and no special place on any function."""


# Plain arithmetic: the reference, with Python's numbers, no code of the package


class OutOfReachError(Exception):
    """A value that no implementation can be held to: too large, undefined, or on a step."""


def plain(expr: Any, values: Mapping[Any, float]) -> float:
    """Return the value of an expression; large values and places near steps are out of reach."""
    if expr in values:
        return values[expr]
    if expr.is_Number or expr.is_NumberSymbol:
        return float(expr)
    if isinstance(expr, Piecewise):
        return next(plain(value, values) for value, when in expr.args if holds(when, values))
    parts = [plain(arg, values) for arg in expr.args]
    try:
        result = FUNCTIONS[type(expr)](*parts)
    except (ValueError, OverflowError, ZeroDivisionError, TypeError) as error:
        raise OutOfReachError from error
    if isinstance(result, complex) or not abs(result) < 1e4 or 0 < abs(result) < 1e-6:
        raise OutOfReachError
    return result


def holds(when: Any, values: Mapping[Any, float]) -> bool:
    """Return whether a condition holds; a comparison of nearly equal values is out of reach."""
    if when in (sympy.true, sympy.false):
        return bool(when)
    if isinstance(when, sympy.Not):
        return not holds(when.args[0], values)
    if isinstance(when, (sympy.And, sympy.Or)):
        found = [holds(arg, values) for arg in when.args]
        return all(found) if isinstance(when, sympy.And) else any(found)
    if isinstance(when, sympy.ITE):
        return holds(when.args[1 if holds(when.args[0], values) else 2], values)
    left, right = plain(when.lhs, values), plain(when.rhs, values)
    if abs(left - right) < 1e-6:
        raise OutOfReachError
    return {">": left > right, "<": left < right, ">=": left >= right, "<=": left <= right}[when.rel_op]


def _floor(x: float) -> float:
    if abs(x - round(x)) < 1e-6:
        raise OutOfReachError
    return float(math.floor(x))


def _steep(function: Callable[[float], float], low: float, high: float) -> Callable[[float], float]:
    """Return a function that is out of reach outside of its domain, at whose ends slopes are infinite."""

    def inside(x: float) -> float:
        if not low < x < high:
            raise OutOfReachError
        return function(x)

    return inside


def _power(base: float, exponent: float) -> float:
    if abs(base) < 1e-3 or (base < 0 and exponent != round(exponent)):
        raise OutOfReachError
    return base**exponent


FUNCTIONS: Mapping[Any, Callable[..., float]] = {
    sympy.Add: lambda *parts: math.fsum(parts), sympy.Mul: lambda *parts: math.prod(parts), sympy.Pow: _power,
    sympy.exp: _steep(math.exp, -20, 8), sympy.log: _steep(math.log, 1e-3, 1e4), sympy.sin: _steep(math.sin, -50, 50),
    sympy.cos: _steep(math.cos, -50, 50), sympy.tan: _steep(math.tan, -1.5, 1.5), sympy.asin: _steep(math.asin, -0.99, 0.99),
    sympy.acos: _steep(math.acos, -0.99, 0.99), sympy.atan: math.atan, sympy.sinh: _steep(math.sinh, -8, 8),
    sympy.cosh: _steep(math.cosh, -8, 8), sympy.tanh: math.tanh, sympy.asinh: math.asinh,
    sympy.acosh: _steep(math.acosh, 1.01, 1e4), sympy.atanh: _steep(math.atanh, -0.99, 0.99), absolute: abs, sympy.Abs: abs,
    minimum: min, maximum: max, floor: _floor, limexp: _steep(math.exp, -20, 8), sympy.atan2: math.atan2,
    sigmoid: lambda x: 1 / (1 + math.exp(-x)), sympy.sign: lambda x: math.copysign(1, x),
}  # fmt: skip


# Random trees

_UNARY = [
    sympy.exp, sympy.log, sympy.sin, sympy.cos, sympy.tan, sympy.asin, sympy.acos, sympy.atan, sympy.sinh, sympy.cosh,
    sympy.tanh, sympy.asinh, sympy.acosh, sympy.atanh, absolute, floor, limexp, sympy.sqrt,
]  # fmt: skip
_BINARY: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / b, minimum, maximum, sympy.atan2,
    lambda a, b: a - (b - a), lambda a, b: -a * b, lambda a, b: absolute(a) ** b,
]  # fmt: skip
_NUMBERS = [
    sympy.Integer(2),
    sympy.Rational(-1, 3),
    sympy.Float("0.123456789012345"),
    sympy.Float("1.5e-3"),
    sympy.Integer(-1),
]


def _alternative(a: Any, b: Any, c: Any, kind: int) -> Any:
    """Return one of three; as written, since sympy may think for minutes about a comparison."""
    if any(part.has(Piecewise) for part in (a, b, c)):  # sympy solves inequalities when a test holds alternatives
        return a + b * c
    above, below = sympy.Gt(a, b, evaluate=False), sympy.Le(c, a, evaluate=False)
    tests = [
        above,
        sympy.And(above, sympy.Lt(b, c, evaluate=False), evaluate=False),
        sympy.Or(below, sympy.Ge(b, 0, evaluate=False), evaluate=False),
        sympy.Not(sympy.And(above, below, evaluate=False), evaluate=False),
        sympy.ITE(above, below, sympy.Lt(b, 1, evaluate=False)),
    ]
    return Piecewise((a + c, tests[kind]), (b - 2 * c, below), (c, True), evaluate=False)


def _built(make: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Return what ``make`` makes, or ``first`` where sympy finds it to be no finite real number."""
    if not any(isinstance(part, sympy.Basic) and part.free_symbols for part in (first, *others)):
        return first  # sympy may ponder a number for minutes
    try:
        made = make(first, *others)
    except TypeError:
        return first
    return first if made.has(sympy.zoo, sympy.nan, sympy.oo, -sympy.oo, sympy.I) or made.count_ops() > 80 else made


def trees(moving: bool = True) -> st.SearchStrategy[Any]:
    """Return expressions over `VALUES`; with ``moving`` of voltages too."""
    leaves = st.sampled_from([s for s in VALUES if moving or "V(" not in str(s)] + _NUMBERS)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.builds(_built, st.sampled_from(_UNARY), inner),
            st.builds(_built, st.sampled_from(_BINARY), inner, inner),
            st.builds(_built, st.just(sympy.Pow), inner, st.sampled_from([-4, -3, -2, 2, 3, 4, 5])),
            st.builds(_built, st.just(_alternative), inner, inner, inner, st.integers(0, 4)),
        ),
        max_leaves=5,
    )


def reachable(expr: Any, values: Mapping[Any, float] = VALUES) -> float | None:
    """Return the value of an expression, None where nothing can be asked for."""
    try:
        return plain(expr, values)
    except (OutOfReachError, KeyError):
        return None


@settings(max_examples=1000, deadline=None, derandomize=True)
@given(trees())
def test_any_expression_has_the_value_of_plain_arithmetic(expr: Any) -> None:
    wanted = reachable(expr)
    if wanted is None:
        return
    inputs = [torch.tensor(value, dtype=torch.float64) for value in VALUES.values()]
    (found,) = compile_torch(list(VALUES), [expr])(*inputs)
    assert float(found) == pytest.approx(wanted, rel=1e-9, abs=1e-11)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(trees())
def test_any_gradient_is_the_central_difference(expr: Any) -> None:
    """The gradient of torch against differences of plain arithmetic."""
    if reachable(expr) is None:
        return
    inputs = [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in VALUES.values()]
    (found,) = compile_torch(list(VALUES), [expr])(*inputs)
    if not isinstance(found, torch.Tensor) or not found.requires_grad:
        return
    gradients = torch.autograd.grad(found, inputs, allow_unused=True)
    for symbol, gradient in zip(VALUES, gradients, strict=True):
        differences = []
        for step in (1e-5, 1e-6):
            sides = [reachable(expr, {**VALUES, symbol: VALUES[symbol] + sign * step}) for sign in (1, -1)]
            if None in sides:
                return
            differences.append((sides[0] - sides[1]) / (2 * step))  # pyright: ignore
        assert gradient is None or torch.isfinite(gradient)
        trust = abs(differences[0] - differences[1]) + 1e-5 * (1 + abs(differences[0]))
        if trust < 1e-2 * (1 + abs(differences[0])):
            assert (0.0 if gradient is None else float(gradient)) == pytest.approx(differences[1], abs=10 * trust)


# Infinite slopes in alternatives that are not taken

U = sympy.log(X)
BESIDE = {
    "root": Piecewise((sympy.sqrt(X), X > 0), (X, True)),
    "logarithm": Piecewise((sympy.log(X), X > 0), (2 * X, True)),
    "power": Piecewise((X ** sympy.Rational(3, 10), X > 0), (X**2, True)),
    "power of a symbol": Piecewise((X**Z, X > 0), (X, True)),
    "reciprocal": Piecewise((1 / X, sympy.Or(X > 0, X < 0)), (X, True)),
    "last alternative": Piecewise((X, X <= 0), (sympy.sqrt(X), True)),
    "nested": Piecewise((Piecewise((sympy.log(X), X > 1), (sympy.sqrt(X), True)), X > 0), (X, True)),
    "function of an alternative": sympy.exp(Piecewise((-1 / X, X > 0), (X, True))),
    "alternative inside of a root": Piecewise((sympy.sqrt(Piecewise((X, X > -1), (0, True))), X > 0), (X, True)),
    "root inside of a root": Piecewise((sympy.sqrt(sympy.sqrt(X) + sympy.log(1 + X)), X > 0), (X, True)),
    "quotient of roots": Piecewise((Y / sympy.sqrt(X), X > 0), (X * Y, True)),
    "arcs": Piecewise((sympy.asin(X) + sympy.acosh(2 + X) + sympy.atanh(X), sympy.And(X > -0.9, X < 0.9)), (X, True)),
    "large exponent": Piecewise((sympy.exp(1000 * X), X < 0), (X, True)),
    "same root twice": Piecewise((sympy.sqrt(X), X > 0), (X, True)) + Piecewise((sympy.sqrt(X) * Y, X > 0), (Y, True)),
}


@pytest.mark.parametrize("name", BESIDE)
@pytest.mark.parametrize("at", [-1.5, -0.3, 0.0, 0.4, 1.7])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_alternatives_not_taken_leave_the_gradient_alone(name: str, at: float, dtype: torch.dtype) -> None:
    expr = BESIDE[name]
    inputs = [torch.tensor([at], dtype=dtype, requires_grad=True), torch.tensor([0.6], dtype=dtype, requires_grad=True)]
    inputs.append(torch.tensor([2.3], dtype=dtype, requires_grad=True))
    (found,) = compile_torch([X, Y, Z], [expr])(*inputs)
    gradients = torch.autograd.grad(found.sum(), inputs, allow_unused=True)
    taken = expr
    numbers = {X: sympy.Float(at), Y: sympy.Float(0.6), Z: sympy.Float(2.3)}
    for symbol, gradient in zip((X, Y, Z), gradients, strict=True):
        wanted = complex(sympy.diff(taken, symbol).xreplace(numbers).doit().evalf())
        assert wanted.imag == 0
        limit = 1e-9 if dtype == torch.float64 else 3e-5
        assert (0.0 if gradient is None else float(gradient)) == pytest.approx(wanted.real, rel=limit, abs=1e-6 * limit)


def test_limexp_and_its_gradient_are_finite_and_go_on_straight() -> None:
    x = torch.tensor([-1e3, 0.0, 50.0, LIMIT + 1.0, 200.0], dtype=torch.float64, requires_grad=True)
    (found,) = compile_torch([X], [limexp(X)])(x)
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert found.tolist() == pytest.approx([0.0, 1.0, math.exp(50.0), 2e30, 1e30 * (1 + 200 - LIMIT)], rel=1e-9)
    assert gradient.tolist() == pytest.approx([0.0, 1.0, math.exp(50.0), 1e30, 1e30], rel=1e-9)
    small = torch.tensor([-1e3, 30.0, LIMIT + 1.0], dtype=torch.float32, requires_grad=True)
    (found,) = compile_torch([X], [limexp(X)])(small)
    assert torch.isfinite(found).all()
    assert torch.isfinite(torch.autograd.grad(found.sum(), small)[0]).all()


def test_extremes_and_absolute_value_have_the_slope_of_one_side_at_the_kink() -> None:
    at = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64, requires_grad=True)
    for expr, wanted in {
        maximum(X, 0): [0, 1], minimum(X, 0): [1, 0], absolute(X): [-1, 1],
    }.items():  # fmt: skip
        (found,) = compile_torch([X], [expr])(at)
        (slope,) = torch.autograd.grad(found.sum(), at)
        assert slope[[0, 2]].tolist() == wanted
        assert min(wanted) <= float(slope[1]) <= max(wanted)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(trees())
def test_sigmoids_change_no_value(expr: Any) -> None:
    rewritten = with_sigmoids(expr * (1 + sympy.tanh(X - Y)) / 2 - (1 - sympy.tanh(Y)) * sympy.tanh(expr))
    wanted = reachable(expr * (1 + sympy.tanh(X - Y)) / 2 - (1 - sympy.tanh(Y)) * sympy.tanh(expr))
    found = reachable(rewritten)
    if wanted is not None and found is not None:
        assert found == pytest.approx(wanted, rel=1e-9, abs=1e-9)


def test_sigmoids_lose_no_digits_where_tanh_does() -> None:
    (found,) = compile_torch([X], [sympy.Rational(1, 2) * (1 + sympy.tanh(X / 2))])(
        torch.tensor(-60.0, dtype=torch.float64)
    )
    assert float(found) == pytest.approx(math.exp(-60.0), rel=1e-12)


def test_inputs_broadcast_and_outputs_without_input_are_numbers() -> None:
    function = compile_torch([X, Y], [X * Y, sympy.Integer(3), X])
    product, number, same = function(torch.ones(4, 1), torch.ones(3))
    assert product.shape == (4, 3)
    assert number == 3.0
    assert same.shape == (4, 1)


def test_definitions_are_used_in_order() -> None:
    one, two = Symbol("one", real=True), Symbol("two", real=True)
    function = compile_torch([X], [one + two], [(one, X + 1), (two, one * X)])
    assert float(function(torch.tensor(3.0))[0]) == pytest.approx(16.0)


def test_same_source_whatever_the_seed_of_hashes() -> None:
    """Sums in another order would differ in the last bit, and a resumed training with them."""
    script = (
        "from memprop.device.library import load_device\n"
        "from memprop.device.torch_function import compile_torch\n"
        "e = load_device('stanford_rram').equations.compact\n"
        "inputs = sorted({s for f in e.flows.values() for s in f.current.free_symbols}, key=str)\n"
        "print(compile_torch(inputs, [f.current for f in e.flows.values()] + [f.current.diff(s) for f in e.flows.values()"
        " for s in inputs]).source)\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=100,
            env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": str(Path(__file__).parents[1])},
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert said[0] == said[1]
    assert said[0].count("\n") > 5


def test_unknown_symbols_and_functions_are_refused() -> None:
    with pytest.raises(InputError, match=r"symbol 'V\(b\)' is neither an input nor defined. Give it as an input."):
        compile_torch([X], [X + Y])
    with pytest.raises(InputError, match="gamma has no form in torch. Write it with the functions of the subset."):
        compile_torch([X], [sympy.gamma(X)])
