"""Noise of one run: every reading of an RRAM cell finds a conductance a little off, anew for each image."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from memprop.circuit.network import Network
from memprop.circuit.spread import factors, stream
from memprop.conductance.pair import ConductanceRange
from memprop.errors import InputError


@dataclass(frozen=True, slots=True)
class Noise:
    """Read noise, apart from the frozen spread of a chip; the same image of the same seed is always read alike.

    Raises
    ------
    InputError: the standard deviation is not above 0 and at most 1, or the seed is negative.
    """

    conductance: float
    """Relative standard deviation of each RRAM cell's conductance in each run; lognormal, mean 1, not clipped."""
    seed: int = 0

    def __post_init__(self) -> None:
        value = self.conductance
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not (number and 0.0 < value <= 1.0):
            raise InputError(
                f"Noise: conductance = {value!r}; needs a relative number above 0, at most 1, e.g. 0.02 for 2 %. "
                "Without noise use no Noise at all (None)."
            )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"Noise: seed = {self.seed!r} must be a whole number, 0 or more. Give another one.")

    def network(self, network: Network, split: str, image: int) -> Network:
        """Return ``network`` as it is while ``image`` of ``split`` runs; the window is as wide as what is read."""
        projections = []
        for projection in network.projections:
            rng = stream(self.seed, f"noise/{split}/{image}/{projection.name}")
            plus, minus = (g * factors(rng, self.conductance, g.shape) for g in (projection.g_plus, projection.g_minus))
            projections.append(replace(projection, g_plus=plus, g_minus=minus))
        read = np.concatenate([g.ravel() for p in projections for g in (p.g_plus, p.g_minus)])
        return replace(
            network, projections=tuple(projections), window=ConductanceRange(float(read.min()), float(read.max()))
        )
