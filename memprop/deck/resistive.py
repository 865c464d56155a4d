"""Decks of resistive networks: operating points of many samples in one run, and small signals around one of them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from memprop.circuit.resistive import SAMPLE, ResistiveNetwork, network_sections, sample_section, signal_section
from memprop.circuit.section import Section
from memprop.deck.deck import Analysis, Deck, SmallSignal, Sweep
from memprop.deck.models import cell_models
from memprop.deck.ngspice import section_text

Floats = NDArray[np.float64]
OPTIONS: Mapping[str, float | str] = {"reltol": 1e-9, "vntol": 1e-13, "abstol": 1e-18, "gmin": 1e-15}
"""Learning takes differences of operating points that are nearly the same: Newton's method must end near rounding."""


def network_files(network: ResistiveNetwork) -> dict[str, str]:
    """Return the files of a network that do not depend on its samples: write them once, they take longest."""
    models, _ = cell_models([network.neuron])
    return models | {section.file: section_text(section) for section in network_sections(network)}


def sweep_deck(
    network: ResistiveNetwork, inputs: Floats, currents: Floats | None = None, files: Mapping[str, str] | None = None
) -> Deck:
    """Return the deck of the operating points of samples: inputs in V, ``[N, inputs]``, currents into outputs in A, ``[N, outputs]``.

    ``files`` are those of `network_files`, where they are at hand.

    Raises
    ------
    InputError: shapes do not fit the network, or a value is not finite.
    """
    section = sample_section(network, inputs, currents)
    return _deck(network, section, Sweep(SAMPLE, len(inputs)), files)


def signal_deck(
    network: ResistiveNetwork, inputs: Floats, currents: Floats, files: Mapping[str, str] | None = None
) -> Deck:
    """Return the deck of small signals ``currents`` in A, ``[outputs]``, around the operating point of one sample, ``[inputs]`` in V."""
    return _deck(network, signal_section(network, inputs, currents), SmallSignal(), files)


def _deck(network: ResistiveNetwork, section: Section, analysis: Analysis, files: Mapping[str, str] | None) -> Deck:
    nodes = [node for layer in range(len(network.conductances)) for node in network.columns(layer)]
    files = {**(network_files(network) if files is None else files), section.file: section_text(section)}
    return Deck(f"{network.name}, resistive", files, analysis, tuple(nodes), options=OPTIONS)
