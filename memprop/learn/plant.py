"""What in-the-loop learning asks of a circuit: take conductances, show images, tell what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from memprop.conductance.pair import Array

Pairs = Sequence[tuple[Array, Array]]
"""Target ``(g_plus, g_minus)`` in S of each crossbar, from the input to the output."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Waveforms of a batch of images, per population from the first hidden one to the output."""

    membranes: tuple[Tensor, ...]
    """In V at the time points of the twin, ``[T + 1, B, N]``."""
    states: tuple[Mapping[str, Tensor], ...] | None
    """Device states in the middle of the twin's steps, ``[T, B, N]`` by name; None where they are not measured."""


class Plant(Protocol):
    """A circuit that learns: a netlist in a simulator, a twin in its place, or a chip."""

    @property
    def name(self) -> str:
        """All that decides its answers but the conductances, e.g. as a hash."""
        ...

    @property
    def seconds(self) -> float:
        """Wall time spent in it so far, in s."""
        ...

    def program(self, pairs: Pairs) -> None:
        """Write conductances; what the circuit makes of them is its own affair."""
        ...

    def show(self, images: Tensor, dt: float) -> Measured:
        """Return what a batch of images ``[B, ...]`` does, at the time step ``dt`` in s.

        Raises
        ------
        SimulationError: an image could not be measured.
        """
        ...

    def forget(self) -> None:
        """Drop what was kept for the case that this batch had to be repeated."""
        ...
