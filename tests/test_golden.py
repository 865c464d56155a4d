"""Emitted decks equal the golden ones; `make golden` writes them anew, and the diff is read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from memprop.circuit.cell import load_cell
from memprop.circuit.elaborate import FORMS, Form, elaborate
from memprop.circuit.network import Network, Projection, population_of
from memprop.circuit.stimulus import AlphaWave, Stimulus
from memprop.conductance.pair import ConductanceRange
from memprop.deck.ngspice import main_text, make_deck

GOLDEN = Path(__file__).parent / "golden"


def _deck_text(form: Form) -> str:
    """Return the deck of a 3-2-2 network with six and four different conductances and one neuron unlike the others."""
    first = np.array([[1e-6, 2e-6], [3e-6, 1e-6], [1e-6, 5e-5]]), np.array([[2.5e-6, 1e-6], [1e-6, 7e-6], [1e-4, 1e-6]])
    second = np.array([[1e-6, 4e-6], [8e-6, 1e-6]]), np.array([[6e-6, 1e-6], [1e-6, 9e-6]])
    cell = load_cell("mif")
    hidden = population_of("x1", 2, cell, {"c": np.array([1e-10, 1.5e-10])}, 18.3e-3)
    network = Network(
        "golden",
        3,
        (hidden, population_of("x2", 2, cell, {}, 18.3e-3)),
        (Projection("x0", "x1", *first), Projection("x1", "x2", *second)),
        ConductanceRange(),
    )
    stimulus = Stimulus(np.array([0.1, 0.05, 0.0]), AlphaWave(10e-6, (0.0, 50e-6), 100e-6))
    deck = make_deck(elaborate(network, form, stimulus), 0.25e-6, 100e-6)
    return "".join(f"* file {name}\n{text}" for name, text in {**deck.files, "deck.cir": main_text(deck)}.items())


@pytest.mark.parametrize("form", FORMS)
def test_deck_equals_the_golden_one(form: Form) -> None:
    path = GOLDEN / f"{form}.cir"
    text = _deck_text(form)
    if os.environ.get("MEMPROP_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "the deck changed; run `make golden` and read the diff"
