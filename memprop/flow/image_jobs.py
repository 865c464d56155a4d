"""Images -> jobs of a farm: the network becomes a netlist once, and each image changes one file of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch

from memprop.circuit.elaborate import Elaborated, Form, elaborate
from memprop.circuit.forms import crossbars_reduced
from memprop.circuit.network import Network
from memprop.circuit.noise import Noise
from memprop.circuit.stimulus import Stimulus
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images
from memprop.deck.deck import Deck
from memprop.deck.ngspice import deck_under, make_deck, section_text
from memprop.errors import InputError
from memprop.files import sha256
from memprop.flow.reduction import VERSION, WAVEFORMS, ImageReduction, image_reduction
from memprop.spice.farm import Job

GREY = 0.5
"""Pixels of the image that stands for all others."""


@dataclass(frozen=True, slots=True)
class ImageDecks:
    """Decks of a network that differ in the image only."""

    circuit: Elaborated
    """The network under a grey image: it has all the elements that images have, and a dark one lacks the load."""
    encoder: AlphaEncoder
    base: Deck
    """Its deck."""
    reduction: ImageReduction
    key: str
    """Hash of all that decides a result but the image."""
    noise: Noise | None = None
    """What differs from image to image besides; None: nothing."""

    def deck(self, stimulus: Stimulus) -> Deck:
        """Return the deck of one image, equal to that which a full elaboration gives."""
        return deck_under(self.base, self.circuit, stimulus)

    def deck_of(self, image: Image) -> Deck:
        """Return the deck of one image of a data set, with the noise of its run."""
        stimulus = image.stimulus(self.encoder)
        if self.noise is None:
            return self.deck(stimulus)
        network = self.noise.network(self.circuit.network, image.split, image.index)
        section = crossbars_reduced(network, stimulus)
        base = replace(self.base, files={**self.base.files, section.file: section_text(section)})
        return deck_under(base, replace(self.circuit, network=network), stimulus)

    def job(self, image: Image, waveforms: bool) -> Job:
        """Return the job of one image; its key takes neither netlist nor stimulus, which are made if it must be simulated."""
        reduce = replace(self.reduction, waveforms=waveforms)
        needs = WAVEFORMS if waveforms else ("means",)
        # The same pixels at another place are another run, with other noise.
        run = "" if self.noise is None else f" {self.noise!r} {image.split} {image.index}"
        return Job(f"{self.key} {image.digest}{run}", lambda: self.deck_of(image), reduce, needs)


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a data set."""

    data: Images
    split: str
    index: int

    @property
    def digest(self) -> str:
        """Hash of the pixels and of what full scale means."""
        pixels = getattr(self.data, self.split).images[self.index]
        return sha256(f"{self.data.full_scale} {pixels.dtype} {pixels.shape} ".encode() + pixels.tobytes())

    def stimulus(self, encoder: AlphaEncoder) -> Stimulus:
        """Return what the image asks of a circuit."""
        return encoder.stimulus(torch.from_numpy(self.data.pixels(self.split, slice(self.index, self.index + 1)))[0])


def image_decks(
    network: Network, encoder: AlphaEncoder, form: Form, max_step: float, dt: float, noise: Noise | None = None
) -> ImageDecks:
    """Return the decks of ``network`` under images of ``encoder``; ``max_step`` and ``dt`` in s.

    Raises
    ------
    InputError: there is noise, and the form is not the reduced one, or the network has wires: every image would need all of its
    RRAM cells written, or its crossbars solved, anew.
    """
    if noise is not None and (form != "reduced" or network.wires is not None):
        has = f"the {form} form" if form != "reduced" else "wires with resistance"
        raise InputError(
            f"network {network.name}: noise of each run, {noise!r}, is for the reduced form of ideal wires, this has {has}. "
            "Use the reduced form without wires, or drop the noise."
        )
    circuit = elaborate(network, form, encoder.stimulus(torch.full((network.inputs,), GREY)))
    base = make_deck(circuit, max_step, encoder.duration)
    image = circuit.sections[-1].file
    rest = replace(base, files={name: text for name, text in base.files.items() if name != image})
    key = f"images {VERSION} {rest.digest} {conductance_digest(network)} {network.wires!r} {encoder!r} {dt!r}"
    if network.output.gain is not None or any(np.ndim(value) for value in network.output.parameters.values()):
        key += f" {network.output.rest!r}"  # of a chip no netlist tells what the means of its outputs are counted from
    return ImageDecks(circuit, encoder, base, image_reduction(circuit, dt, encoder.steps(dt)), key, noise)


def conductance_digest(network: Network) -> str:
    """Return the hash of all conductances. In the reduced form those of the input stand in the file of the image alone."""
    content = [p.name.encode() + np.stack([p.g_plus, p.g_minus]).astype("<f8").tobytes() for p in network.projections]
    return sha256(b"".join(content))
