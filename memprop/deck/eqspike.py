"""Decks of spiking networks that learn by EqSpike: one sample, from one end of its phases to the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memprop.circuit.eqspike import EqSpikeNetwork, eqspike_sections, presentation_section
from memprop.deck.deck import Deck, Transient
from memprop.deck.models import cell_models
from memprop.deck.ngspice import DEFAULT_OPTIONS, section_text

Floats = NDArray[np.float64]
MAX_STEP = 1e-7
"""Longest time step in s: a fraction of the shortest spike."""


def eqspike_deck(
    network: EqSpikeNetwork, inputs: Floats, target: Floats, nudges: Sequence[float], ends: Sequence[float], membranes: Floats,
    *, learning: bool = True, reduced: bool = False,
) -> Deck:  # fmt: skip
    """Return the deck of one sample, see `presentation_section`; ``membranes`` in the beginning in V, ``[hidden + outputs]``.

    Kept are spikes, the currents of the lines' drivers, and with ``learning`` the gate and all accumulators. ``reduced``: sources stand for
    the first crossbar, see `eqspike_sections`.

    Raises
    ------
    InputError: shapes do not fit the network.
    """
    models, _ = cell_models(network.cells)
    made = eqspike_sections(network, membranes, reduced=reduced)
    sections = (
        *(made if learning else made[:-1]),
        presentation_section(network, inputs, target, nudges, ends, reduced=reduced),
    )
    files = models | {section.file: section_text(section) for section in sections}
    nodes = network.nodes("spk")
    if learning:
        nodes = [*nodes, *network.nodes("acc"), *(node for row in network.sums() for node in row), "learn"]
    # Rates alone need no finer time points than the comparators do.
    options = DEFAULT_OPTIONS if learning else {**DEFAULT_OPTIONS, "reltol": 1e-3}
    drivers = tuple(network.drivers(reduced=reduced))
    return Deck(f"{network.name}, EqSpike", files, Transient(ends[-1], MAX_STEP), tuple(nodes), drivers, options)
