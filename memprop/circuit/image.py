"""The numbers of an image, without the circuit around them: thousands of images go through one network."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from memprop.circuit.network import INPUT, Network, Projection
from memprop.circuit.stimulus import Stimulus
from memprop.circuit.wires import reduce_crossbar
from memprop.conductance.pair import Array


def reduced_values(network: Network, stimulus: Stimulus) -> Iterator[float]:
    """Yield the values of the reduced form's image section, in its order.

    For each input crossbar the current of each column per V of the waveform, in S, and the load of the waveform in Ohm, which an
    image without any amplitude does not have.
    """
    amplitude = np.asarray(stimulus.amplitude)
    for projection in network.projections:
        if projection.pre == INPUT:
            per_wave, load = input_values(network, projection, amplitude)
            yield from per_wave.tolist()
            if load > 0.0:
                yield 1.0 / load


def input_values(network: Network, projection: Projection, amplitude: Array) -> tuple[Array, float]:
    """Return the current of each column and the load of the waveform under row amplitudes in V, both in S."""
    if network.wires is None:
        per_wave = amplitude @ (projection.g_plus - projection.g_minus)
        return per_wave, float((amplitude**2) @ (projection.g_plus + projection.g_minus).sum(1))
    reduced = reduce_crossbar(projection.g_plus, projection.g_minus, network.wires)
    return amplitude @ reduced.weight, float(amplitude @ reduced.load @ amplitude)
