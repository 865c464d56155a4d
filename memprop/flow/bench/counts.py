"""Count the arithmetic of the fused kernels, and the bytes that they must move."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Any

import sympy

from memprop.device.functions import absolute, limexp, maximum, minimum
from memprop.device.sigmoid import sigmoid
from memprop.twin.fused.adjoint import KernelPrograms
from memprop.twin.fused.program import Program, expm1, phi


@dataclass(frozen=True, slots=True)
class Count:
    """Operations on numbers."""

    flops: float = 0
    """Additions and multiplications, those of the polynomials of exponentials too."""
    divisions: float = 0
    others: float = 0
    """Comparisons, choices, signs: not floating-point arithmetic."""
    exponentials: float = 0
    """How many polynomials are among the flops."""

    def __add__(self, other: Count) -> Count:
        """Return the sum."""
        return Count(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __mul__(self, times: float) -> Count:
        """Return so many of them."""
        return Count(*(times * a for a in astuple(self)))


EXPONENTIAL = Count(flops=22, others=2, exponentials=1)
"""``m_exp`` of kernel.cpp.in for float32: 2 to split, 1 and 4 to reduce, 10 for five terms, 3, and 2 to put together."""
_FUNCTIONS: dict[Any, Count] = {
    sympy.exp: EXPONENTIAL,
    expm1: EXPONENTIAL + Count(flops=1),
    sigmoid: EXPONENTIAL + Count(flops=1, divisions=1, others=1),
    sympy.tanh: EXPONENTIAL + Count(flops=3, divisions=1, others=3),
    limexp: EXPONENTIAL + Count(flops=3, others=2),
    phi: EXPONENTIAL + Count(flops=29, divisions=1, others=3),
    absolute: Count(others=1),
    sympy.Abs: Count(others=1),
    minimum: Count(others=1),
    maximum: Count(others=1),
    sympy.sign: Count(others=3),
}


def operations(program: Program) -> Count:
    """Return what one run of a program costs one neuron, as its text says it; a compiler may find less."""
    total = Count()
    for expr in (*(expr for _, expr in program.lets), *map(sympy.sympify, program.outputs)):
        total += _cost(expr)
    return total


def _cost(expr: Any) -> Count:
    own = Count()
    if isinstance(expr, (sympy.Add, sympy.Mul)):
        sign = isinstance(expr, sympy.Mul) and expr.args[0] == -1  # an addition subtracts instead
        own = Count(flops=len(expr.args) - 1 - sign)
    elif isinstance(expr, sympy.Pow):
        exponent = expr.args[1]
        own = Count(flops=int(exponent) - 1) if exponent.is_Integer and exponent > 0 else Count(divisions=1)
    elif isinstance(expr, (sympy.Piecewise, sympy.core.relational.Relational)):
        own = Count(others=1)
    elif isinstance(expr, sympy.Function):
        own = _FUNCTIONS.get(expr.func, EXPONENTIAL)  # other functions are not cheaper
    return sum((_cost(arg) for arg in expr.args), own)


def both_ways(programs: KernelPrograms, steps: int) -> Count:
    """Return the operations per neuron of a run of ``steps`` steps, forward and backward."""
    forward = operations(programs.whole) + Count(flops=1)  # membrane less its reference
    backward = operations(programs.replay) + operations(programs.back) + Count(flops=4)
    return (forward + backward) * steps + operations(programs.advance)


def bytes_moved(programs: KernelPrograms, steps: int, every: int) -> int:
    """Return the bytes of float32 per neuron that must pass memory, forward and backward, when the caches hold a block.

    Forward reads the current and writes the membranes; backward reads current, membranes and their weights, and writes the gradient
    of the current; states are kept at every ``every`` steps, written once and read once.
    """
    kept = 2 * len(programs.states) * -(-steps // every)
    return 4 * (6 * (steps + 1) + kept)
