"""How far two gradients point the same way."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike


def cosine(one: ArrayLike, other: ArrayLike) -> float | None:
    """Return the cosine of the angle between two arrays of equal shape; None where one is zero."""
    a, b = (np.asarray(x, dtype=np.float64).ravel() for x in (one, other))
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else None


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of the numbers among values; None where there is none."""
    kept = [value for value in values if value is not None]
    return float(np.mean(kept)) if kept else None
