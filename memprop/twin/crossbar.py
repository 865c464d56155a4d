"""Twin of a crossbar of differential RRAM pairs with driven rows and virtual-ground columns: a matrix product.

With ideal wires the matrix is the signed weight. With wire resistance it is the exact transconductance of the crossbar, and
its gradient is exact too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from memprop.circuit.wires import WiredCrossbar, Wires
from memprop.conductance.pair import Array, ConductanceRange
from memprop.errors import InputError
from memprop.twin.drive import Separable


class Crossbar(nn.Module):
    """Crossbar ``[row, column]``; its ``weight`` is g_plus - g_minus in S. Drops into ``nn.Sequential``.

    Parameters
    ----------
    rows, columns: size.
    window: conductance range of the cells; ``project`` keeps the pairs inside.
    init: standard deviation of the initial weights, in S.
    generator: source of the initial weights.
    wires: resistance of the wires; None: ideal wires.
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        *,
        window: ConductanceRange | None = None,
        init: float = 1e-6,
        generator: torch.Generator | None = None,
        wires: Wires | None = None,
    ) -> None:
        super().__init__()
        if rows < 1 or columns < 1:
            raise InputError(f"Crossbar({rows}, {columns}): needs at least one row and one column.")
        self.rows, self.columns = rows, columns
        self.window = window or ConductanceRange()
        self.wires = wires
        self._solved: tuple[Tensor, WiredCrossbar, Tensor] | None = None
        self.floor: Array | None = None
        """Smaller conductance of each pair in S, ``[row, column]``; None: the lowest one. On a chip it differs, which wires feel."""
        self.weight = nn.Parameter(torch.randn(rows, columns, generator=generator) * init)
        self.project()

    def forward(self, voltage: Tensor | Separable) -> Any:
        """Return the column currents in A, ``[..., column]``, of row voltages in V, ``[..., row]``; separable ones stay so.

        Raises
        ------
        InputError: the last axis is not the number of rows.
        """
        if isinstance(voltage, Separable):
            return Separable(voltage.waveform, self.forward(voltage.amplitude))
        if voltage.shape[-1] != self.rows:
            raise InputError(f"row voltages have shape {tuple(voltage.shape)}; the last axis must be {self.rows} rows.")
        return voltage @ self.transconductance()

    def transconductance(self) -> Tensor:
        """Return the current into each column per V of each row in S, ``[row, column]``: the weight, less what wires take.

        Raises
        ------
        InputError: there are wires, and a weight is not finite or beyond the window.
        """
        return self.weight if self.wires is None else _Transconductance.apply(self.weight, self)  # pyright: ignore[reportReturnType]

    @torch.no_grad()
    def solve(self, wires: Wires) -> tuple[WiredCrossbar, Tensor]:
        """Return the factorised crossbar and its transconductance; the last one is kept while the weights stay as they are."""
        kept = self._solved
        if kept is None or kept[1].wires != wires or not _same(kept[0], self.weight):
            solver = WiredCrossbar(*self.pair(), wires)
            kept = self._solved = self.weight.detach().clone(), solver, torch.as_tensor(solver.weight()).to(self.weight)
        return kept[1], kept[2]

    @torch.no_grad()
    def project(self) -> None:
        """Clip the weights so that both conductances of every pair stay inside the window."""
        if self.floor is None:
            self.weight.clamp_(-self.window.span, self.window.span)
        else:
            most = torch.as_tensor(self.window.g_max - self.floor).to(self.weight)
            self.weight.clamp_(-most, most)

    def pair(self) -> tuple[Array, Array]:
        """Return ``(g_plus, g_minus)`` in S, float64 ``[row, column]``."""
        weight = self.weight.detach().double().cpu().numpy()
        plus, minus = self.window.to_pair(weight)
        if self.floor is None:
            return plus, minus
        return (
            np.minimum(self.floor + np.maximum(weight, 0.0), self.window.g_max),
            np.minimum(self.floor - np.minimum(weight, 0.0), self.window.g_max),
        )

    @torch.no_grad()
    def set_pair(self, g_plus: Array, g_minus: Array) -> None:
        """Take the weights of a pair, checked against the window and the shape; its smaller conductances stay."""
        weight = self.window.to_weight(g_plus, g_minus)
        if weight.shape != (self.rows, self.columns):
            raise InputError(
                f"pair has shape {weight.shape}; the crossbar is [{self.rows}, {self.columns}]. Transpose or correct it."
            )
        low = np.minimum(g_plus, g_minus)
        self.floor = low if (low > self.window.g_min).any() else None
        self._solved = None
        self.weight.copy_(torch.as_tensor(weight))

    def extra_repr(self) -> str:
        """Return size and window for ``print``."""
        wires = f", wires=({self.wires.row!r}, {self.wires.column!r}) Ohm" if self.wires else ""
        return f"{self.rows}, {self.columns}, window=[{self.window.g_min!r}, {self.window.g_max!r}] S{wires}"


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal in all respects; values, since versions miss what is changed through ``.data``."""
    return a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


class _Transconductance(torch.autograd.Function):
    """Transconductance of a crossbar with wires as a function of its weights."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, crossbar: Crossbar) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.solver, matrix = crossbar.solve(crossbar.wires)  # pyright: ignore[reportArgumentType]
        return matrix.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (weight,) = ctx.saved_tensors
        plus, minus = (torch.as_tensor(part).to(slope) for part in ctx.solver.gradient(slope.double().cpu().numpy()))
        # The conductance above g_min follows the weight: that of the + line for positive ones. At 0 both sides count half.
        positive = (weight > 0).to(slope) + 0.5 * (weight == 0).to(slope)
        return positive * plus - (1 - positive) * minus, None
