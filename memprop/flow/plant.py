"""A netlist in a simulator as the circuit that learns in the loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memprop.circuit.elaborate import Elaborated, Form, elaborate
from memprop.circuit.network import Network
from memprop.data.encode import AlphaEncoder
from memprop.deck.deck import Deck
from memprop.deck.ngspice import deck_under, make_deck
from memprop.errors import SimulationError
from memprop.files import sha256
from memprop.flow.image_jobs import GREY, conductance_digest
from memprop.flow.reduction import on_grid
from memprop.flow.simulate import MAX_STEP
from memprop.learn.plant import Measured, Pairs
from memprop.spice.engine import Engine
from memprop.spice.farm import Farm, Job
from memprop.spice.recording import Recording
from memprop.twin.cell import DT
from memprop.twin.population import make_cell_twin

VERSION = 2
"""Part of the key of kept measurements: raise it when this file measures something else."""


@dataclass(frozen=True, slots=True)
class Waves:
    """Reduces a recording to membranes ``[steps + 1, neurons]`` at the time points and states ``[steps, states]`` between them."""

    membranes: tuple[str, ...]
    states: tuple[str, ...]
    dt: float
    steps: int

    def __call__(self, recording: Recording) -> dict[str, NDArray[Any]]:
        """Return the arrays of ``recording``."""
        points = np.arange(self.steps + 1.0) * self.dt
        found = {"membranes": on_grid(recording, self.membranes, points)}
        if self.states:
            found["states"] = on_grid(recording, self.states, points[1:] - 0.5 * self.dt)
        return found


class SpicePlant:
    """A network in a simulator. Use it in a ``with`` statement: it keeps workers between batches.

    Parameters
    ----------
    network: the chip: its cells, parameters and reference voltages; its conductances are overwritten.
    encoder: image -> row voltages.
    engine: where it is simulated.
    program: target pairs -> the network as it then is; default: the pairs are taken as they are.
    form: netlist form.
    max_step: largest time step of the simulator, in s.
    workers, cluster, timeout_s, cache: see `memprop.spice.farm.Farm`; with a cache an interrupted batch goes on where it was.
    states: whether device states are measured too; membranes alone are what a chip with few probes can give.
    """

    def __init__(
        self, network: Network, encoder: AlphaEncoder, engine: Engine | str, *,
        program: Callable[[Pairs], Network] | None = None, form: Form = "reduced", max_step: float = MAX_STEP,
        workers: int | None = None, cluster: str | None = None, timeout_s: float = 1800.0, cache: Path | None = None,
        states: bool = True,
    ) -> None:  # fmt: skip
        network.check_chain()
        self.network, self.encoder, self.max_step = network, encoder, max_step
        self.form: Form = form
        self._program = program or self._as_asked
        self._farm = Farm(engine, workers, cluster, cache, timeout_s=timeout_s)
        self._states = _device_states(network) if states else [()] * len(network.populations)
        self.measures_states = any(self._states)
        self.seconds = 0.0
        self.name = self._identity()

    def _identity(self) -> str:
        """Return the hash of all that decides the waveforms but the conductances: the deck of those half way up."""
        window = self.network.window
        level = 0.5 * (window.g_min + window.g_max)
        middle = [(np.full(p.g_plus.shape, level), np.full(p.g_plus.shape, level)) for p in self.network.projections]
        network = self._program(middle)
        _, base, _ = self._deck(network)
        return sha256(
            f"{VERSION} {base.digest} {conductance_digest(network)} {self.encoder!r} {self._farm.engine.name}"
        )

    def __enter__(self) -> SpicePlant:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End workers and simulators."""
        self._farm.close()

    def program(self, pairs: Pairs) -> None:
        """Write conductances, see `Plant`."""
        self.network = self._program(pairs)

    def _as_asked(self, pairs: Pairs) -> Network:
        return self.network.with_conductances(
            {p.name: pair for p, pair in zip(self.network.projections, pairs, strict=True)}
        )

    def show(self, images: Tensor, dt: float) -> Measured:
        """Return the waveforms of a batch, see `Plant`.

        Raises
        ------
        SimulationError: a simulation failed.
        """
        started = time.monotonic()
        found: dict[int, dict[str, NDArray[Any]]] = {}
        with closing(self._farm.run(self._jobs(images, dt))) as outcomes:
            for outcome in outcomes:
                if outcome.result is None:
                    raise outcome.error or SimulationError("image", "it was given up without a reason.")
                found[outcome.index] = outcome.result
        self.seconds += time.monotonic() - started
        return self._measured([found[k] for k in range(len(images))])

    def forget(self) -> None:
        """Drop what is kept of finished batches."""
        if self._farm.cache is not None:
            self._farm.cache.clear()

    def _deck(self, network: Network) -> tuple[Elaborated, Deck, Waves]:
        """Return the circuit of a network under a grey image, its deck, and what is measured but for the time step."""
        circuit = elaborate(network, self.form, self.encoder.stimulus(torch.full((network.inputs,), GREY)))
        base = make_deck(circuit, self.max_step, self.encoder.duration, energy=False)
        membranes = tuple(name for names in circuit.membranes().values() for name in names)
        states = tuple(
            f"x_{p.name}_col{j}_cell.{state}"
            for p, found in zip(network.populations, self._states, strict=True) for state in found for j in range(p.size)
        )  # fmt: skip
        return circuit, replace(base, nodes=(*membranes, *states)), Waves(membranes, states, 1.0, 1)

    def _jobs(self, images: Tensor, dt: float) -> Iterator[Job]:
        circuit, base, waves = self._deck(self.network)
        waves = replace(waves, dt=dt, steps=self.encoder.steps(dt))
        key = f"plant {VERSION} {base.digest} {conductance_digest(self.network)} {self.encoder!r} {dt!r}"
        needs = ("membranes", "states") if waves.states else ("membranes",)
        for image in images:
            stimulus = self.encoder.stimulus(image)
            yield Job(
                f"{key} {sha256(stimulus.amplitude.tobytes())}",
                lambda s=stimulus: deck_under(base, circuit, s),
                waves,
                needs,
            )

    def _measured(self, found: list[dict[str, NDArray[Any]]]) -> Measured:
        """Return the waveforms of images side by side, time first."""
        sizes = [population.size for population in self.network.populations]
        membranes = torch.as_tensor(np.stack([one["membranes"] for one in found], 1)).split(sizes, -1)
        if not self.measures_states:
            return Measured(tuple(membranes), None)
        widths = [size for size, names in zip(sizes, self._states, strict=True) for _ in names]
        parts = iter(torch.as_tensor(np.stack([one["states"] for one in found], 1)).split(widths, -1))
        return Measured(tuple(membranes), tuple({name: next(parts) for name in names} for names in self._states))


def _device_states(network: Network) -> list[tuple[str, ...]]:
    """Return the names of the device states of each population's cell, as its twin has them."""
    return [make_cell_twin(1, DT, population.cell).state_names for population in network.populations]
