"""What one run of a kernel is given."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from memprop.twin.fused.adjoint import KernelPrograms


@dataclass(frozen=True, slots=True)
class Run:
    """Inputs of a run but membrane and states at its start; all tensors contiguous and of one type."""

    dt: float
    wave: Tensor | None
    """Waveform of a separable current, ``[T + 1]``."""
    drive: Tensor
    """Current in A, ``[T + 1, B, N]``; of a separable one its amplitude, ``[B, N]``."""
    reference: Tensor
    """Subtracted from the membranes where they are returned, in V, ``[1, N]``."""
    uniform: Tensor
    """Constants that all neurons share."""
    varying: Tensor
    """Constants of each neuron, ``[constants x N]``."""

    @property
    def steps(self) -> int:
        """Number T of time steps."""
        return len(self.drive if self.wave is None else self.wave) - 1

    @property
    def neurons(self) -> int:
        """Number N of neurons."""
        return self.drive.shape[-1]

    @property
    def lanes(self) -> int:
        """Batch times neurons."""
        return self.drive.shape[-2] * self.neurons

    @property
    def every(self) -> int:
        """States are kept at every so many steps, and what lies between is computed again: memory grows as the root of T."""
        return max(1, math.isqrt(self.steps))

    @property
    def chunks(self) -> int:
        """Number of steps whose states are kept."""
        return -(-self.steps // self.every)


class Kernel(Protocol):
    """Compiled kernels of a cell."""

    @property
    def programs(self) -> KernelPrograms:
        """What it computes."""
        ...

    def forward(self, run: Run, v: Tensor, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return membranes ``[T + 1, B, N]``, kept states ``[chunks, S, B, N]``, states at the end ``[S, B, N]``."""
        ...

    def backward(
        self, run: Run, out: Tensor, kept: Tensor, g_out: Tensor, g_end: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients by drive, first membrane, first states, and active constants ``[constants, N]``."""
        ...
