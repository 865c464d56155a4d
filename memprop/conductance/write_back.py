"""Write-back: what wanted conductances become in cells. Clipping, levels and programming noise of local rules happen here."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memprop.conductance.pair import ConductanceRange
from memprop.errors import InputError


@dataclass(frozen=True, slots=True)
class WriteBack:
    """How conductances are written.

    Raises
    ------
    InputError: fewer than two levels, or noise that is no share of the window.
    """

    window: ConductanceRange
    levels: int | None = None
    """Number of equally spaced conductances that a cell can have; None: any."""
    signed: bool = False
    """Whether what is written are signed conductances G+ - G- of pairs, whose smaller cell is at the lowest conductance."""
    noise: float = 0.0
    """Standard deviation of a cell's written conductance, as a share of the window."""

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 2:
            raise InputError(
                f"write-back: levels = {self.levels!r}, a cell has 2 or more. Leave it out for any conductance."
            )
        if not 0.0 <= self.noise < 1.0:
            raise InputError(f"write-back: noise = {self.noise!r} of the window, need 0 or more and less than 1.")

    def clip(self, wanted: Tensor) -> Tensor:
        """Return conductances in S inside of the window, or of what pairs in it can have."""
        if self.signed:
            return wanted.clamp(-self.window.span, self.window.span)
        return wanted.clamp(self.window.g_min, self.window.g_max)

    def __call__(self, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """Return what cells, or pairs, have after ``wanted`` in S was written to them."""
        if not self.signed:
            return self._cells(wanted, generator)
        plus, minus = (self.window.g_min + (sign * wanted).clamp(min=0.0) for sign in (1.0, -1.0))
        return self._cells(plus, generator) - self._cells(minus, generator)

    def _cells(self, wanted: Tensor, generator: torch.Generator) -> Tensor:
        window = self.window
        written = wanted.clamp(window.g_min, window.g_max)
        if self.levels is not None:
            step = window.span / (self.levels - 1)
            written = window.g_min + step * torch.round((written - window.g_min) / step)
        if self.noise:
            drawn = torch.randn(written.shape, generator=generator, dtype=written.dtype)
            written = written + self.noise * window.span * drawn
        return written.clamp(window.g_min, window.g_max)
