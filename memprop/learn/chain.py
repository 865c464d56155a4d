"""What rules on layers of signed crossbars with a row of bias share: their shapes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from memprop.errors import InputError


def depth_of_chain(rule: str, conductances: Sequence[Tensor], *, feedback: bool) -> int:
    """Return the number of layers of crossbars ``[inputs + 1, neurons]``, which ``feedback`` crossbars ``[neurons, classes]`` may follow.

    Raises
    ------
    InputError: shapes do not fit each other.
    """
    depth = (len(conductances) + 1) // 2 if feedback else len(conductances)
    layers, back = conductances[:depth], conductances[depth:]
    chained = all(after.shape[0] == before.shape[1] + 1 for before, after in pairwise(layers))
    fed = all(tuple(b.shape) == (g.shape[1], layers[-1].shape[1]) for b, g in zip(back, layers[:-1], strict=False))
    if not layers or (feedback and len(back) != depth - 1) or not chained or not fed:
        shapes = ", ".join(str(tuple(g.shape)) for g in conductances)
        followed = ", followed by one feedback per hidden layer" if feedback else ""
        raise InputError(f"{rule}: crossbars {shapes} are no chain of layers with bias{followed}.")
    return depth
