"""The functions of exponential integrators (M. Hochbruck, A. Ostermann, Acta Numerica 19, 2010)."""

from __future__ import annotations

import torch
from torch import Tensor


def phi1(z: Tensor) -> Tensor:
    """Return (exp(z) - 1)/z, also near 0 and for its gradient."""
    near = z.abs() < 1e-2
    safe = torch.where(near, torch.ones_like(z), z)
    return torch.where(near, 1.0 + z * (0.5 + z * (1 / 6 + z * (1 / 24 + z / 120))), torch.expm1(safe) / safe)


def phi2(z: Tensor) -> Tensor:
    """Return (exp(z) - 1 - z)/z^2, also near 0 and for its gradient."""
    near = z.abs() < 1e-2
    safe = torch.where(near, torch.ones_like(z), z)
    series = 0.5 + z * (1 / 6 + z * (1 / 24 + z * (1 / 120 + z / 720)))
    return torch.where(near, series, (torch.expm1(safe) / safe - 1.0) / safe)
