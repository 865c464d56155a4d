"""Write-back: what wanted conductances become in cells. Clipping, levels and programming noise happen here and nowhere else."""

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
    noise: float = 0.0
    """Standard deviation of the written conductance, as a share of the window."""

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 2:
            raise InputError(
                f"write-back: levels = {self.levels!r}, a cell has 2 or more. Leave it out for any conductance."
            )
        if not 0.0 <= self.noise < 1.0:
            raise InputError(f"write-back: noise = {self.noise!r} of the window, need 0 or more and less than 1.")

    def clip(self, wanted: Tensor) -> Tensor:
        """Return conductances in S inside of the window."""
        return wanted.clamp(self.window.g_min, self.window.g_max)

    def __call__(self, wanted: Tensor, generator: torch.Generator) -> Tensor:
        """Return what cells have after ``wanted`` in S was written to them."""
        written = self.clip(wanted)
        if self.levels is not None:
            step = self.window.span / (self.levels - 1)
            written = self.window.g_min + step * torch.round((written - self.window.g_min) / step)
        if self.noise:
            written = written + self.noise * self.window.span * torch.randn(
                written.shape, generator=generator, dtype=written.dtype
            )
        return self.clip(written)
