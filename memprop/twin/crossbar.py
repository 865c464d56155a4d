"""Twin of a crossbar of differential RRAM pairs with ideal rows and virtual-ground columns: a matrix product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

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
    """

    def __init__(
        self,
        rows: int,
        columns: int,
        *,
        window: ConductanceRange | None = None,
        init: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if rows < 1 or columns < 1:
            raise InputError(f"Crossbar({rows}, {columns}): needs at least one row and one column.")
        self.rows, self.columns = rows, columns
        self.window = window or ConductanceRange()
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
        return voltage @ self.weight

    @torch.no_grad()
    def project(self) -> None:
        """Clip the weights so that both conductances of every pair stay inside the window."""
        self.weight.clamp_(-self.window.span, self.window.span)

    def pair(self) -> tuple[Array, Array]:
        """Return ``(g_plus, g_minus)`` in S, float64 ``[row, column]``."""
        return self.window.to_pair(self.weight.detach().double().cpu().numpy())

    @torch.no_grad()
    def set_pair(self, g_plus: Array, g_minus: Array) -> None:
        """Take the weights of a pair, checked against the window and the shape."""
        weight = self.window.to_weight(g_plus, g_minus)
        if weight.shape != (self.rows, self.columns):
            raise InputError(
                f"pair has shape {weight.shape}; the crossbar is [{self.rows}, {self.columns}]. Transpose or correct it."
            )
        self.weight.copy_(torch.as_tensor(weight))

    def extra_repr(self) -> str:
        """Return size and window for ``print``."""
        return f"{self.rows}, {self.columns}, window=[{self.window.g_min!r}, {self.window.g_max!r}] S"
