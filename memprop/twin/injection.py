"""Measured values in the place of computed ones, with the computed ones' gradient: the twin then stands on the circuit as it is.

The operator of in-the-loop training (Cramer et al., arXiv:2006.07239): the value is the measured one; its derivative is 0 with
respect to the measurement and 1 with respect to the model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def injected(measured: Tensor, model: Tensor) -> Tensor:
    """Return ``measured``, through which the gradient passes to ``model`` unchanged; both of one shape."""
    return _Injected.apply(measured, model)  # pyright: ignore[reportReturnType]


class _Injected(torch.autograd.Function):
    """Value of the first argument, gradient to the second one."""

    @staticmethod
    def forward(ctx: Any, measured: Tensor, model: Tensor) -> Tensor:  # noqa: ARG004
        return measured.to(model).expand_as(model).clone()

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor]:  # noqa: ARG004  # pyright: ignore[reportIncompatibleMethodOverride]
        return None, slope
