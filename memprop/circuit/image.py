"""The numbers of an image, without the circuit around them: thousands of images go through one network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from memprop.circuit.network import INPUT, Network
from memprop.circuit.stimulus import Stimulus


def reduced_values(network: Network, stimulus: Stimulus) -> Iterator[float]:
    """Yield the values of the reduced form's image section, in its order.

    For each input crossbar the current of each column per V of the waveform, in S, and the load of the waveform in Ohm, which an
    image without any amplitude does not have.
    """
    amplitude = np.asarray(stimulus.amplitude)
    for projection in network.projections:
        if projection.pre == INPUT:
            yield from (amplitude @ (projection.g_plus - projection.g_minus)).tolist()
            load = float((amplitude**2) @ (projection.g_plus + projection.g_minus).sum(1))
            if load > 0.0:
                yield 1.0 / load
