"""Differentiable twin of the memristive integrate-and-fire neuron.

Integration is Strang splitting: with the membrane held, both memristor states are linear, with the states held the
membrane is linear, and each linear part is stepped exactly. The half steps of the states at the end of one time step
and at the beginning of the next see the same membrane, so they are taken as one; that leaves one state step and one
membrane step per time step, second order in time (Strang, SIAM J. Numer. Anal. 5, 1968).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from memprop.circuit.cell import Cell, as_cell
from memprop.device.mss import MSSParameters, conductance, switching
from memprop.errors import InputError

DT = 0.25e-6
"""Default time step in s: the trained networks of this project then follow ngspice within 5 mV at any time."""


class MIFState(NamedTuple):
    """State of a population between two calls."""

    membrane: Tensor
    """Membrane voltage in V, ``[B, N]``."""
    on: Tensor
    """On fractions of the two memristors, ``[2, B, N]``, at the same time as the membrane."""


class MIF(nn.Module):
    """Population of memristive integrate-and-fire neurons, drops into ``nn.Sequential``.

    Equations: S. M. Kang et al., IEEE TCAS-I, Nov 2021 (facts in the cell card ``circuits/mif/cell.toml``).

    Parameters
    ----------
    size: number of neurons N.
    dt: time step in s.
    cell: card with the parameters; default the shipped ``mif``.
    parameters: values that differ from the card, each a number or an array ``[N]``.
    dtype: float32 for training, float64 for proofs.

    Raises
    ------
    InputError: a parameter is unknown, out of range, or has neither one nor N values.
    """

    rest: Tensor
    """Membrane in V at zero input, ``[1, N]``."""
    _supply: Tensor
    _rest_on: Tensor
    _c: Tensor

    def __init__(
        self,
        size: int,
        dt: float = DT,
        *,
        cell: Cell | str | None = None,
        parameters: Mapping[str, ArrayLike] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if size < 1 or not (np.isfinite(dt) and dt > 0):
            raise InputError(f"MIF(size={size}, dt={dt!r} s): size must be at least 1 and dt positive. Correct them.")
        self.size, self.dt = int(size), float(dt)
        self.cell = as_cell(cell or "mif", "neuron", "mif")
        if self.cell.card.twin != "mif":
            raise InputError(
                f"cell '{self.cell.name}' has no twin 'mif' in its card. Give a cell whose card says twin = \"mif\"."
            )
        self.parameters_si = self.cell.values(size, parameters or {})
        supplies = [self.cell.card.supplies[name].voltage for name in ("e1", "e2")]
        self.register_buffer("_supply", torch.tensor(supplies, dtype=torch.float64).reshape(2, 1, 1))
        for name, value in self.parameters_si.items():
            self.register_buffer(f"_{name}", torch.as_tensor(value, dtype=torch.float64))
        rest = self._solve_rest()
        self.register_buffer("rest", rest)
        self.register_buffer("_rest_on", switching(rest - self._supply, self._device)[1])
        self.to(dtype)

    @property
    def _device(self) -> MSSParameters:
        names = ("ron", "roff", "von", "voff", "vt", "tau")
        return MSSParameters(*(getattr(self, f"_{name}") for name in names))

    def _solve_rest(self) -> Tensor:
        """Return the membrane in V at which no current flows with zero input, ``[1, N]``, by bisection between the supplies."""
        low = self._supply.min().expand(1, self.size).clone()
        high = self._supply.max().expand(1, self.size).clone()
        for _ in range(60):
            middle = 0.5 * (low + high)
            u = middle - self._supply
            current = (conductance(switching(u, self._device)[1], self._device) * u).sum(0)
            low, high = torch.where(current < 0, middle, low), torch.where(current < 0, high, middle)
        return 0.5 * (low + high)

    def resting_state(self, batch: int) -> MIFState:
        """Return the state at zero input, which is the operating point of the circuit."""
        return MIFState(self.rest.expand(batch, self.size), self._rest_on.expand(2, batch, self.size))

    def forward(self, current: Tensor) -> Tensor:
        """Return the membrane above rest in V at the time points, ``[T + 1, B, N]``, from rest.

        ``current`` is the input current in A at the same time points, ``[T + 1, B, N]``; between them it runs straight.
        """
        return self.trace(current) - self.rest

    def trace(self, current: Tensor) -> Tensor:
        """Return the membrane in V at the time points, ``[T + 1, B, N]``, from rest."""
        return self.run(current, self.resting_state(current.shape[1] if current.ndim == 3 else 1))[0]

    def run(self, current: Tensor, state: MIFState) -> tuple[Tensor, MIFState]:
        """Integrate from ``state``; return the membrane in V ``[T + 1, B, N]`` and the state at the end.

        The slopes of current and memristor states inside a step count: where the membrane is faster than the step, which
        it is while a memristor is on, it must end where current and states of the end put it, not those of the middle;
        otherwise the order drops to one.

        Raises
        ------
        InputError: ``current`` is not ``[T + 1, B, N]`` with this population's N and at least one step.
        """
        if current.ndim != 3 or current.shape[2] != self.size or current.shape[0] < 2:
            raise InputError(
                f"current has shape {tuple(current.shape)}; a population of {self.size} needs [T + 1, B, {self.size}], T >= 1. "
                "Put time first."
            )
        p, supply, dt = self._device, self._supply, self.dt
        off, span = 1.0 / p.roff, 1.0 / p.ron - 1.0 / p.roff
        drives = (current + off * supply.sum()).unbind(0)
        v, on = state
        membrane = [v]
        for n in range(len(drives) - 1):
            rate, equilibrium = switching(v - supply, p)
            on = torch.lerp(equilibrium, on, torch.exp(-(dt if n else 0.5 * dt) * rate))
            half = (
                0.5 * dt * rate * (equilibrium - on)
            )  # how far the states move from the middle of the step to its end
            total, turn = 2.0 * off + span * on.sum(0), span * half.sum(0)
            pull, sway = span * (on * supply).sum(0), span * (half * supply).sum(0)
            begin = (drives[n] + pull - sway) / (total - turn)
            end = (drives[n + 1] + pull + sway) / (total + turn)
            time = total * (dt / self._c)
            v = torch.lerp(begin, v, torch.exp(-time)) + (end - begin) * (1.0 + torch.expm1(-time) / time)
            membrane.append(v)
        on = _relax(on, v - supply, p, 0.5 * dt)
        return torch.stack(membrane), MIFState(v, on)

    def extra_repr(self) -> str:
        """Return size and step for ``print``."""
        return f"size={self.size}, dt={self.dt!r} s"


def _relax(on: Tensor, u: Tensor, p: MSSParameters, time: float) -> Tensor:
    """Return the on fractions after ``time`` in s at fixed device voltages ``u``: exact, the equation is linear."""
    rate, equilibrium = switching(u, p)
    return torch.lerp(equilibrium, on, torch.exp(-time * rate))
