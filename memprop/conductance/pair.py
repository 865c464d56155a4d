"""Differential pairs: signed weight = g_plus - g_minus, both inside ``[g_min, g_max]``, all in S."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from memprop.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ConductanceRange:
    """Window in which a cell can be programmed.

    Raises
    ------
    InputError: the window is empty, not positive or not finite.
    """

    g_min: float = 1e-6
    """Lowest conductance, in S."""
    g_max: float = 100e-6
    """Highest conductance, in S."""

    def __post_init__(self) -> None:
        if not (0.0 < self.g_min < self.g_max < float("inf")):
            raise InputError(
                f"conductance range g_min = {self.g_min!r} S, g_max = {self.g_max!r} S: need 0 < g_min < g_max."
            )

    @property
    def span(self) -> float:
        """Largest magnitude of a signed weight, in S."""
        return self.g_max - self.g_min

    def to_pair(self, weight: ArrayLike) -> tuple[Array, Array]:
        """Return ``(g_plus, g_minus)`` in S of signed weights in S, with the smaller of the two at ``g_min``.

        That is the pair of least energy. Raises InputError for NaN or for weights beyond the span.
        """
        w = np.asarray(weight, dtype=np.float64)
        if not np.isfinite(w).all():
            raise InputError(
                f"{int((~np.isfinite(w)).sum())} weights are NaN or infinite (S). The training diverged; lower the rate."
            )
        if (np.abs(w) > self.span * (1 + 1e-6)).any():
            raise InputError(
                f"weight {float(w.flat[np.abs(w).argmax()])!r} S is beyond the span {self.span!r} S of the pair. Clip it first."
            )
        # The sum g_min + w rounds up at the very edge of the window; the edge itself is meant.
        pair = [np.minimum(self.g_min + np.maximum(part, 0.0), self.g_max) for part in (w, -w)]
        return pair[0], pair[1]

    def to_weight(self, g_plus: ArrayLike, g_minus: ArrayLike) -> Array:
        """Return the signed weights in S of a pair that is checked against the range first."""
        plus, minus = np.asarray(g_plus, dtype=np.float64), np.asarray(g_minus, dtype=np.float64)
        check_pair(plus, minus, self)
        return plus - minus


def check_pair(g_plus: Array, g_minus: Array, window: ConductanceRange, where: str = "crossbar") -> None:
    """Raise InputError unless both are equal-shaped ``[row, column]``, finite and inside the window; name the first culprit."""
    if g_plus.shape != g_minus.shape or g_plus.ndim != 2 or not g_plus.size:
        raise InputError(
            f"{where}: g_plus {g_plus.shape} and g_minus {g_minus.shape} must be equal [row, column] shapes."
        )
    for sign, g in (("g_plus", g_plus), ("g_minus", g_minus)):
        wrong = ~((g >= window.g_min) & (g <= window.g_max))
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            raise InputError(
                f"{where}/row{row}/col{column}: {sign} = {float(g[row, column])!r} S is outside "
                f"[{window.g_min!r}, {window.g_max!r}] S ({int(wrong.sum())} such cells). Clip the weights or widen the range."
            )
