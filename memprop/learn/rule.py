"""What all learning rules have in common: from a batch to a gradient of each crossbar, which one training applies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Generator, Tensor


@dataclass(frozen=True, slots=True)
class Learned:
    """What one batch says."""

    loss: float
    """Mean loss of the batch, before the update; of rules whose phases are all nudged, while nudged."""
    outputs: Tensor
    """``[B, classes]``, in the same phases; answers are those of `Rule.outputs`."""
    gradients: tuple[Tensor, ...]
    """What each crossbar is moved against: the mean over the batch, per siemens, of the shape of the crossbar."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a rule needs of a circuit."""

    phases: int
    """Times that a sample is shown for one update."""
    state: str
    """What each synapse stores besides its conductance."""


class Rule(Protocol):
    """A way to find in which direction conductances go."""

    @property
    def name(self) -> str:
        """Short name."""
        ...

    @property
    def needs(self) -> Needs:
        """What it needs of a circuit."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides what it learns besides the conductances; a checkpoint is of one identity."""
        ...

    @property
    def sizes(self) -> tuple[int, int]:
        """Numbers of inputs and of classes."""
        ...

    @property
    def conductances(self) -> list[Tensor]:
        """The crossbars in S, ``[rows, columns]`` each, as they are written: of cells, or signed, of pairs, as the rule wants it."""
        ...

    def program(self, conductances: Sequence[Tensor]) -> None:
        """Write crossbars, in S."""
        ...

    def learn(self, inputs: Tensor, labels: Tensor, generator: Generator) -> Learned:
        """Return what samples ``[B, inputs]`` in [0, 1] with labels ``[B]`` say; changes nothing but the generator of random choices."""
        ...

    def outputs(self, inputs: Tensor) -> Tensor:
        """Return the outputs ``[B, classes]`` of samples ``[B, inputs]`` in [0, 1]."""
        ...
