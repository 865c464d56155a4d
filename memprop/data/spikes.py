"""From samples to the spikes that arrive at a network's rows, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor


class SpikeEncoder(Protocol):
    """What turns samples into spikes."""

    @property
    def values(self) -> int:
        """Numbers of one sample."""
        ...

    @property
    def rows(self) -> int:
        """Places where spikes arrive."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides the spikes besides sample and generator."""
        ...

    def __call__(self, samples: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Return spikes ``[steps, B, rows]``, 0 or 1, of samples ``[B, values]``."""
        ...


@dataclass(frozen=True, slots=True)
class Bernoulli:
    """A spike with the probability of the value, in each step anew: rate code of pixels in [0, 1]."""

    values: int
    """Numbers of one sample, each with its row."""

    @property
    def rows(self) -> int:
        """As many as values."""
        return self.values

    @property
    def identity(self) -> Mapping[str, Any]:
        """Nothing: rules take it where nothing else is said."""
        return {}

    def __call__(self, samples: Tensor, steps: int, generator: torch.Generator) -> Tensor:
        """Return spikes ``[steps, B, rows]`` of samples ``[B, values]`` in [0, 1]."""
        drawn = torch.rand(steps, *samples.shape, generator=generator)
        return (drawn < samples).float()
