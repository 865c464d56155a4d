"""State of a population of cells between two runs of its twin."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from memprop.errors import InputError
from memprop.twin.drive import Separable, shape_of


class CellState(NamedTuple):
    """State of a population between two calls."""

    membrane: Tensor
    """Membrane voltage in V, ``[B, N]``."""
    states: tuple[Tensor, ...]
    """Device states at the same time: per group of equal devices ``[S, D, B, N]`` (S states of D devices); or, for cells of
    general form, all other unknowns of the circuit as one ``[n, B, N]``."""


def of_batch(state: CellState, batch: int) -> CellState:
    """Return a state for a batch; one of a batch of 1 serves all.

    Raises
    ------
    InputError: it is of another batch.
    """
    found = state.membrane.shape[0]
    if found == batch:
        return state
    if found != 1:
        raise InputError(
            f"the state at the start is of a batch of {found}, the current of one of {batch}. Make them equal."
        )
    membrane = state.membrane.expand(batch, -1)
    return CellState(membrane, tuple(x.expand(*x.shape[:-2], batch, -1) for x in state.states))


def batch_of(current: Tensor | Separable) -> int:
    """Return the batch of a current; 1 of one that has another shape than currents have."""
    shape = shape_of(current)
    return shape[1] if len(shape) == 3 else 1
