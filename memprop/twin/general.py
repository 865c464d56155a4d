"""Integration of any circuit: a linearly implicit method with the Jacobian from sympy.

Rodas3 (A. Sandu et al., Atmos. Environ. 31, 1997): third order, stiffly accurate, so that nodes without capacitance, whose
equations hold no derivative, are met at every step. One linear solve of the circuit's small matrix per stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import sympy
import torch
from torch import Tensor

from memprop.device.torch_function import compile_torch
from memprop.errors import TrainingError
from memprop.twin.assemble import ZERO, System

_A = ((), (0.0,), (2.0, 0.0), (2.0, 0.0, 1.0))
_C = ((), (4.0,), (1.0, -1.0), (1.0, -1.0, -8.0 / 3.0))
_END = (2.0, 0.0, 1.0, 1.0)
_ALPHA = (0.0, 0.0, 1.0, 1.0)
_GAMMA = (0.5, 1.5, 0.0, 0.0)
_STEPS = 400


@dataclass(frozen=True)
class Solver:
    """Compiled equations of a system; tensors of unknowns are ``[..., n]``."""

    system: System
    _residual: Callable[..., tuple[Any, ...]]
    _jacobian: Callable[..., tuple[Any, ...]]
    _pattern: tuple[tuple[int, int], ...]
    _mass: Callable[..., tuple[Any, ...]]
    _mass_pattern: tuple[tuple[int, int], ...]
    _ports: Callable[..., tuple[Any, ...]]
    _port_pattern: tuple[tuple[int, int], ...]

    def residual(self, y: Tensor, inputs: Sequence[Any]) -> Tensor:
        """Return what leaves each node, ``[..., n]``; the circuit is at rest where it is zero."""
        return _stack(self._residual(*y.unbind(-1), *inputs), y)

    def jacobian(self, y: Tensor, inputs: Sequence[Any]) -> Tensor:
        """Return the derivative of the residual by the unknowns, ``[..., n, n]``."""
        return _scatter(self._jacobian(*y.unbind(-1), *inputs), self._pattern, y)

    def mass(self, y: Tensor, inputs: Sequence[Any]) -> Tensor:
        """Return the derivative of the charges by the unknowns, ``[..., n, n]``."""
        return _scatter(self._mass(*y.unbind(-1), *inputs), self._mass_pattern, y)

    def port_currents(
        self, y: Tensor, slope: Tensor, given_slope: Sequence[Any], inputs: Sequence[Any]
    ) -> list[Tensor]:
        """Return what flows from each given node into the circuit, in A, at unknowns that change by ``slope`` per s."""
        count = len(self.system.given)
        values = self._ports(*y.unbind(-1), *inputs)
        found = [torch.as_tensor(value, dtype=y.dtype).expand(y.shape[:-1]) for value in values[:count]]
        rates = [*slope.unbind(-1), *given_slope]
        for (port, k), value in zip(self._port_pattern, values[count:], strict=True):
            found[port] = found[port] + value * rates[k]
        return found

    def rest(self, start: Tensor, inputs: Sequence[Any], held: Sequence[int] = ()) -> Tensor:
        """Return the operating point by implicit steps of growing length from ``start``, then Newton's.

        ``held`` are unknowns that keep their value.

        Raises
        ------
        TrainingError: it does not converge.
        """
        y, step, largest = start.clone(), 1e-9, float("inf")
        if len(held) == y.shape[-1]:
            return y
        hold = torch.zeros_like(y)
        hold[..., list(held)] = 1.0
        eye = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        for _ in range(_STEPS):
            force = self.residual(y, inputs)
            matrix = self.jacobian(y, inputs) + (self.mass(y, inputs) / step if step < 1e12 else 0.0)
            matrix = torch.where(hold[..., :, None] > 0, eye, matrix)
            force = torch.where(hold > 0, torch.zeros_like(force), force)
            change = torch.linalg.solve(matrix, -force[..., None])[..., 0]
            if not torch.isfinite(change).all():
                raise TrainingError(
                    f"operating point of {self.system.unknowns} has no solution. Give the states a DC solution (a leak) or an .ic."
                )
            largest = float(change.abs().max())
            y = y + change.clamp(-0.5, 0.5)
            step = step * (2.0 if largest > 1e-3 else 8.0) if largest < 0.1 else max(step * 0.25, 1e-12)
            if step > 1e12 and largest < 1e-13:
                return y
            if step > 1e14 and largest < 1e-9 and float(change.abs().max()) <= largest:
                step = 1e13
        if largest < 1e-9:
            return y
        raise TrainingError(
            f"operating point did not converge within {_STEPS} steps (last change {largest:.3g} V). Check the parameters, or give an .ic."
        )

    def newton(self, y: Tensor, inputs: Sequence[Any], held: Sequence[int] = ()) -> Tensor:
        """Return ``y`` after a step of Newton's, through which gradients of ``inputs`` pass: at the operating point they are exact."""
        free = torch.ones(y.shape[-1], dtype=y.dtype, device=y.device)
        free[list(held)] = 0.0
        matrix = self.jacobian(y, inputs).detach() * free[:, None] + torch.diag(1.0 - free)
        return y - torch.linalg.solve(matrix, (self.residual(y, inputs) * free)[..., None])[..., 0]

    def step(self, y: Tensor, before: Sequence[Any], after: Sequence[Any], moving: Sequence[int], h: float) -> Tensor:
        """Return the unknowns one step of ``h`` s later; of the inputs those listed in ``moving`` run straight."""
        mass, jacobian = self.mass(y, before), -self.jacobian(y, before)
        factors = torch.linalg.lu_factor(mass * (2.0 / h) - jacobian)
        drift = self._drift(y, before, after, moving)
        stages: list[Tensor] = []
        force = -self.residual(y, before)
        for k in range(4):
            if k > 1:
                point = y + sum(a * stage for a, stage in zip(_A[k], stages, strict=True) if a)
                force = -self.residual(point, _between(before, after, _ALPHA[k], moving))
            right = force + (_GAMMA[k] * drift if _GAMMA[k] else 0.0)
            carried = sum(c / h * stage for c, stage in zip(_C[k], stages, strict=True))
            if stages:
                right = right + (mass @ carried[..., None])[..., 0]  # pyright: ignore[reportIndexIssue]
            stages.append(torch.linalg.lu_solve(*factors, right[..., None])[..., 0])
        return y + sum(m * stage for m, stage in zip(_END, stages, strict=True) if m)

    def _drift(self, y: Tensor, before: Sequence[Any], after: Sequence[Any], moving: Sequence[int]) -> Tensor:
        """Return the change of the force over the step that comes from the inputs alone."""
        return self.residual(y, before) - self.residual(y, _between(before, after, 1.0, moving))


def _between(before: Sequence[Any], after: Sequence[Any], part: float, moving: Sequence[int]) -> list[Any]:
    mixed = list(before)
    for k in moving:
        mixed[k] = after[k] if part == 1.0 else before[k] + part * (after[k] - before[k])
    return mixed


def _stack(values: Sequence[Any], like: Tensor) -> Tensor:
    shape = like.shape[:-1]
    return torch.stack([torch.as_tensor(v, dtype=like.dtype).expand(shape) for v in values], -1)


def _scatter(values: Sequence[Any], pattern: Sequence[tuple[int, int]], like: Tensor) -> Tensor:
    n = like.shape[-1]
    zero = like.new_zeros(like.shape[:-1])
    cells = [zero] * (n * n)
    for (i, j), value in zip(pattern, values, strict=True):
        cells[i * n + j] = torch.as_tensor(value, dtype=like.dtype).expand(like.shape[:-1])
    return torch.stack(cells, -1).reshape(*like.shape[:-1], n, n)


class _raised(sympy.Function):  # noqa: N801 - an operation in expressions
    """Power whose derivative holds no quotient: sympy's is a power over its base, which at base 0 has no value."""

    nargs = 2

    def _eval_is_extended_real(self) -> bool:
        return True

    def fdiff(self, argindex: int = 1) -> Any:
        """Return the derivative."""
        base, exponent = cast("tuple[Any, Any]", self.args)
        if argindex == 1:
            return sympy.Mul(exponent, _raised(base, exponent - 1))  # pyright: ignore
        return sympy.Mul(_raised(base, exponent), sympy.log(base))  # pyright: ignore


def derivatives(expressions: Sequence[Any], by: Sequence[Any]) -> tuple[list[Any], tuple[tuple[int, int], ...]]:
    """Return those derivatives of ``expressions`` by the symbols ``by`` that are not zero, and their rows and columns."""

    def is_open(part: Any) -> bool:
        return isinstance(part, sympy.Pow) and not part.exp.is_number

    found: dict[tuple[int, int], Any] = {}
    for i, expr in enumerate(expressions):
        held = expr.replace(is_open, lambda part: _raised(*part.args))
        for j, symbol in enumerate(by):
            value = sympy.diff(held, symbol) if held.has(symbol) else ZERO
            if value != 0:
                found[i, j] = value.replace(_raised, sympy.Pow)
    return list(found.values()), tuple(found)


@lru_cache(maxsize=64)
def _compiled(key: Any) -> Solver:
    system: System = key.system
    unknowns = system.symbols(system.unknowns)
    inputs = system.inputs
    jacobian, pattern = derivatives(system.currents, unknowns)
    mass, mass_pattern = derivatives(system.charges, unknowns)
    ports, port_pattern = derivatives(system.port_charges, [*unknowns, *system.symbols(system.given)])
    return Solver(
        system,
        compile_torch(inputs, system.currents),
        compile_torch(inputs, jacobian),
        pattern,
        compile_torch(inputs, mass),
        mass_pattern,
        compile_torch(inputs, [*system.port_currents, *ports]),
        port_pattern,
    )


class _Key:
    """Identity of a system, so that equal ones are compiled once."""

    __slots__ = ("system", "text")

    def __init__(self, system: System) -> None:
        self.system = system
        self.text = (
            system.unknowns,
            system.given,
            system.injected,
            system.parameters,
            system.currents,
            system.charges,
            system.port_currents,
            system.port_charges,
        )

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.text == self.text


def compile_system(system: System) -> Solver:
    """Return the solver of a system."""
    return _compiled(_Key(system))
