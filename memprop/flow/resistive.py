"""Resistive networks in SPICE: a netlist that settles, as `memprop.learn.equilibrium` wants it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memprop.circuit.resistive import ResistiveNetwork
from memprop.deck.resistive import network_files, signal_deck, sweep_deck
from memprop.errors import InputError
from memprop.spice.engine import Engine
from memprop.spice.recording import Recording
from memprop.twin.resistive import Settled, resistive_twin

Floats = NDArray[np.float64]
SAMPLES = 1000
"""Samples of one deck: tables of more make each operating point slower."""


class SpiceResistive:
    """A resistive network whose operating points come from an engine.

    Raises
    ------
    InputError: its neuron is not the shipped one, see `resistive_twin`.
    """

    def __init__(self, network: ResistiveNetwork, engine: Engine, timeout_s: float = 600.0) -> None:
        self.engine, self.timeout_s = engine, timeout_s
        self._take(network)

    def _take(self, network: ResistiveNetwork) -> None:
        # The twin tells voltages of rows, which are ideal drivers, and factors; it solves nothing here.
        self.network, self._files, self._twin = network, network_files(network), resistive_twin(network)

    @property
    def conductances(self) -> list[Tensor]:
        """Crossbars in S."""
        return self._twin.conductances

    def program(self, conductances: Sequence[Tensor]) -> None:
        """Write crossbars in S into the netlist."""
        self._take(replace(self.network, conductances=tuple(g.detach().double().numpy() for g in conductances)))

    @property
    def identity(self) -> Mapping[str, Any]:
        """What it is, besides the conductances."""
        return {**self._twin.identity, "engine": self.engine.name}

    def factors(self) -> list[float]:
        """Return by what the gradient of each crossbar is multiplied."""
        return self._twin.factors()

    def settle(self, inputs: Tensor, current: Tensor | None = None) -> Settled:
        """Return the operating points of inputs in V, ``[B, inputs]``, with ``current`` in A, ``[B, classes]``, into the outputs.

        Raises
        ------
        InputError: there is no sample, or not as many currents as inputs.
        SimulationError: the simulation failed.
        """
        if not len(inputs) or (current is not None and len(current) != len(inputs)):
            given = "none" if current is None else len(current)
            raise InputError(
                f"network {self.network.name}: {len(inputs)} samples, currents of {given}. Give one or more, as many of each."
            )
        found = []
        for first in range(0, len(inputs), SAMPLES):
            part = slice(first, first + SAMPLES)
            nudge = None if current is None else current[part].numpy()
            deck = sweep_deck(self.network, inputs[part].numpy(), nudge, self._files)
            found.append(self._nodes(self.engine.run(deck, self.timeout_s)))
        return self._twin.settled(inputs, [torch.cat(layer) for layer in zip(*found, strict=True)])

    def response(self, inputs: Tensor, current: Tensor) -> Settled:
        """Return how rows and nodes move under small currents in A, ``[B, classes]``, into the outputs, by ``.ac``; one run per sample."""
        found = [
            self._nodes(self.engine.run(signal_deck(self.network, x.numpy(), i.numpy(), self._files), self.timeout_s))
            for x, i in zip(inputs, current, strict=True)
        ]
        return self._twin.moved([torch.cat(layer) for layer in zip(*found, strict=True)])

    def _nodes(self, recording: Recording) -> list[Tensor]:
        layers = range(len(self.network.conductances))
        return [torch.from_numpy(np.stack([recording[n].values for n in self.network.columns(k)], 1)) for k in layers]
