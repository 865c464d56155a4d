"""Images -> jobs of a farm: the network becomes a netlist once, and each image changes one file of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from memprop.circuit.elaborate import PASSES, Form, elaborate
from memprop.circuit.network import Network
from memprop.circuit.stimulus import Stimulus
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images
from memprop.deck.deck import Deck
from memprop.deck.ngspice import make_deck, section_text
from memprop.files import sha256
from memprop.flow.reduction import VERSION, WAVEFORMS, ImageReduction, image_reduction
from memprop.spice.farm import Job

CHUNK = 256
"""Images that are encoded at a time."""


@dataclass(frozen=True, slots=True)
class ImageDecks:
    """Decks of a network that differ in the image only."""

    network: Network
    form: Form
    base: Deck
    """The deck of a dark image."""
    reduction: ImageReduction
    key: str
    """Hash of all that decides a result but the image."""

    def deck(self, stimulus: Stimulus) -> Deck:
        """Return the deck of one image, equal to that which a full elaboration gives."""
        section = PASSES[self.form][-1](self.network, stimulus)
        return replace(self.base, files={**self.base.files, section.file: section_text(section)})

    def job(self, stimulus: Stimulus, waveforms: bool) -> Job:
        """Return the job of one image; its key takes no netlist text."""
        reduce = replace(self.reduction, waveforms=waveforms)
        return Job(
            f"{self.key} {image_digest(stimulus)}",
            lambda: self.deck(stimulus),
            reduce,
            WAVEFORMS if waveforms else ("means",),
        )


def image_decks(network: Network, encoder: AlphaEncoder, form: Form, max_step: float, dt: float) -> ImageDecks:
    """Return the decks of ``network`` under images of ``encoder``; ``max_step`` and ``dt`` in s."""
    circuit = elaborate(network, form, encoder.stimulus(torch.zeros(network.inputs)))
    base = make_deck(circuit, max_step, encoder.duration)
    image = circuit.sections[-1].file
    rest = replace(base, files={name: text for name, text in base.files.items() if name != image})
    key = f"images {VERSION} {rest.digest} {conductance_digest(network)} {dt!r}"
    return ImageDecks(network, form, base, image_reduction(circuit, dt, encoder.steps(dt)), key)


def image_digest(stimulus: Stimulus) -> str:
    """Return the hash of an image as the circuit sees it."""
    return sha256(np.ascontiguousarray(stimulus.amplitude, dtype="<f8").tobytes())


def conductance_digest(network: Network) -> str:
    """Return the hash of all conductances. In the reduced form those of the input stand in the file of the image alone."""
    content = [p.name.encode() + np.stack([p.g_plus, p.g_minus]).astype("<f8").tobytes() for p in network.projections]
    return sha256(b"".join(content))


def stimuli(encoder: AlphaEncoder, data: Images, indices: Sequence[int], split: str = "test") -> Iterator[Stimulus]:
    """Yield what each image asks of the circuit; a chunk of images is encoded at a time."""
    wave = encoder.stimulus(torch.zeros(1)).wave
    for start in range(0, len(indices), CHUNK):
        pixels = data.pixels(split, np.array(indices[start : start + CHUNK]))
        yield from (Stimulus(row, wave) for row in _amplitudes(encoder, pixels))


def _amplitudes(encoder: AlphaEncoder, pixels: NDArray[Any]) -> NDArray[np.float64]:
    return encoder.amplitude(torch.from_numpy(pixels).double()).numpy()
