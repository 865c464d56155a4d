"""Decks of clocked networks: one sample, all of its steps, with what learns by BioGrad or without."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memprop.circuit.biograd import BioGradNetwork, biograd_sections, spikes_section
from memprop.circuit.clocked import SLOT, STEP, ClockedNetwork, clocked_sections, input_section
from memprop.deck.deck import Deck, Transient
from memprop.deck.ngspice import DEFAULT_OPTIONS, section_text

Floats = NDArray[np.float64]


def biograd_deck(network: BioGradNetwork, spikes: Floats, label: int, start: int) -> Deck:
    """Return the deck of one sample: spikes ``[steps, inputs]`` of the inputs, errors fed back from step ``start`` on.

    Kept are spikes, window comparators, eligibilities, dendrites and counts.

    Raises
    ------
    InputError: shapes do not fit the network.
    """
    sections = (*biograd_sections(network, start), spikes_section(network, spikes, label))
    files = {section.file: section_text(section) for section in sections}
    nodes = [node for what in ("spk", "near", "soma") for layer in (1, 2) for node in network.layer_nodes(what, layer)]
    nodes += [node for layer in (0, 1) for row in network.eligibilities(layer) for node in row]
    nodes += [*network.dendrites(), *(f"count{k}" for k in range(network.sizes[2]))]
    return Deck(
        f"{network.name}, BioGrad", files, Transient(len(spikes) * STEP, SLOT / 4), tuple(nodes), options=DEFAULT_OPTIONS
    )  # fmt: skip


def clocked_deck(network: ClockedNetwork, spikes: Floats) -> Deck:
    """Return the deck of one sample of a network that learns elsewhere: spikes ``[steps, inputs]``; kept are somata and spikes.

    Raises
    ------
    InputError: the shape does not fit the network.
    """
    sections = (*clocked_sections(network), input_section(network, spikes))
    files = {section.file: section_text(section) for section in sections}
    nodes = [f"x{layer}_{what}{j}" for layer in (1, 2) for what in ("soma", "spk") for j in range(network.sizes[layer])]
    stop = len(spikes) * STEP
    return Deck(f"{network.name}, clocked", files, Transient(stop, SLOT / 4), tuple(nodes), options=DEFAULT_OPTIONS)
