"""Differentiable twin of a population of equal cells, learned from waveforms; it stands where `CellTwin` does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from memprop.circuit.cell import Cell, as_cell
from memprop.errors import InputError
from memprop.files import sha256
from memprop.twin.cell_circuit import each, placed
from memprop.twin.drive import Separable, expanded, shape_of
from memprop.twin.learned.core import Weights, finer, follow, roll, settled
from memprop.twin.ranges import Range, RangeWatch, ends_of

LEARNED_DT = 1e-7
"""Default time step in s."""


class LearnedState(NamedTuple):
    """State of a population between two calls."""

    membrane: Tensor
    """Membrane in V, ``[B, N]``."""
    states: Tensor
    """The other states in V, ``[S - 1, B, N]``."""


@dataclass(frozen=True, slots=True)
class LearnedModel:
    """What was learned of one cell, and where it holds. All that a file keeps."""

    cell: str
    cell_sha256: str
    states: tuple[str, ...]
    """Names of the nodes, membrane first."""
    rest: tuple[float, ...]
    """In V, per state."""
    span: tuple[float, ...]
    """Half width of the box around rest in V, per state."""
    steps: tuple[float, float]
    """Shortest and longest step in s that was trained."""
    current: tuple[float, float]
    """Lowest and highest current in A of the waveforms it learned from."""
    membrane: tuple[float, float]
    """Lowest and highest membrane in V there."""
    weights: Weights
    errors: Mapping[str, float]
    """What it is off on waveforms held out; may be empty."""


class LearnedTwin(nn.Module):
    """Population of equal cells whose equations are not known: a neural state-space model of few states, see `core`.

    Parameters
    ----------
    size: number of cells N.
    dt: time step in s; one longer than was trained is cut into equal parts, between which the current runs straight.
    model: what was learned.
    cell: the cell; the model must have been learned from this very text.
    parameters: values that differ from the card; a learned twin knows the card's values only.
    dtype: float32 for training, float64 for proofs.
    reference, gain, offset: as for `CellTwin`.

    Raises
    ------
    InputError: size or step cannot be, the model belongs to another cell, or a parameter differs from the card.
    """

    rest: Tensor
    """Membrane in V at zero input, ``[1, N]``."""
    reference: Tensor
    """Membrane in V to which `forward` refers, ``[1, N]``."""
    gain: Tensor | None
    """Gain of the mirrors, ``[1, N]``; None: 1."""
    offset: Tensor | None
    """Current in A that the mirrors add, ``[1, N]``; None: none."""
    settles: bool = False
    """Whether `forward` and `trace` start from the operating point under the first current, as simulators do, not from rest."""
    state_names: tuple[str, ...] = ()
    """Device states that `follow` takes: none, as it follows the membrane alone."""
    _quiet: Tensor
    _centre: Tensor
    _span: Tensor

    def __init__(
        self,
        size: int,
        dt: float = LEARNED_DT,
        *,
        model: LearnedModel,
        cell: Cell | str,
        parameters: Mapping[str, ArrayLike] | None = None,
        dtype: torch.dtype = torch.float32,
        reference: ArrayLike | None = None,
        gain: ArrayLike | None = None,
        offset: ArrayLike | None = None,
    ) -> None:
        super().__init__()
        if size < 1 or not (np.isfinite(dt) and dt > 0):
            raise InputError(
                f"twin of {size} cells, dt = {dt!r} s: size must be at least 1 and dt positive. Correct them."
            )
        self.size, self.dt = int(size), float(dt)
        self.cell = as_cell(cell, "neuron", "mif")
        self.parameters_si = self.cell.values(size, parameters or {})
        for name, value, least in (("gain", gain, 0.0), ("offset", offset, -np.inf)):
            self.register_buffer(name, None if value is None else each(self, name, value, least).reshape(1, size))
        self._learn_from(model)
        own = self.rest if reference is None else each(self, "reference", reference).reshape(1, size)
        self.register_buffer("reference", own.clone())
        self.to(dtype)

    @property
    def identity(self) -> str:
        """Hash of what the population is, with what was learned."""
        model = [sha256(w.cpu().numpy().tobytes()) for w in self.weights]
        return sha256(f"{self.cell.digest} {self.model.rest} {self.model.span} {model} {placed(self)}")

    def refit(self, model: LearnedModel) -> None:
        """Compute with another model of the same cell from now on; the reference stays.

        Raises
        ------
        InputError: it is of another cell.
        """
        like = self.rest
        self.to("cpu")
        self._learn_from(model)
        self.to(like)

    def _learn_from(self, model: LearnedModel) -> None:
        self.model = model
        self._check_model()
        self.watch = RangeWatch(self.cell.name, Range(model.current, model.membrane), (model.steps[0], math.inf))
        self.register_buffer("_centre", torch.tensor(model.rest, dtype=torch.float64))
        self.register_buffer("_span", torch.tensor(model.span, dtype=torch.float64))
        for name, value in model.weights._asdict().items():
            self.register_buffer(f"weight_{name}", value.detach().double())
        quiet = torch.zeros(self.size, len(model.states), dtype=torch.float64)
        if self.offset is not None:
            quiet = settled(self.weights, self.offset[0].double(), self._cut()[1])
        self.register_buffer("_quiet", quiet)
        self.register_buffer("rest", (quiet[:, 0] * model.span[0] + model.rest[0]).reshape(1, self.size))

    def _check_model(self) -> None:
        cell, model = self.cell, self.model
        if cell.digest != model.cell_sha256:
            raise InputError(
                f"the learned twin is of cell {model.cell} with hash {model.cell_sha256[:12]}, and cell {cell.name} has "
                f"{cell.digest[:12]}: another netlist. Learn it again: memprop fit-cell --learned."
            )
        for name, parameter in cell.card.parameters.items():
            value = np.asarray(self.parameters_si[name])
            if np.any(value != parameter.default):
                other = value.flat[int(np.argmax(value != parameter.default))]
                raise InputError(
                    f"cell {cell.name}: {name} = {float(other)!r} {parameter.unit}, and its learned twin knows {parameter.default!r} "
                    f"{parameter.unit} only. Leave the card's value, or learn a twin of a cell with that default."
                )

    def __repr__(self) -> str:
        """Return name, size, step and states."""
        return (
            f"{type(self).__name__}({self.cell.name}, size={self.size}, dt={self.dt!r} s, {len(self.unknowns)} states)"
        )

    @property
    def unknowns(self) -> tuple[str, ...]:
        """Names of the states, membrane first."""
        return self.model.states

    @property
    def weights(self) -> Weights:
        """What was learned, in this module's type."""
        return Weights(*(getattr(self, f"weight_{name}") for name in Weights._fields))

    def resting_state(self, batch: int) -> LearnedState:
        """Return the state at zero input, which is the operating point of the circuit."""
        return self._state(self._quiet.expand(batch, *self._quiet.shape))

    def settled_state(self, current: Tensor) -> LearnedState:
        """Return the operating point under constant currents in A, ``[B, N]``; gradients pass through it.

        Raises
        ------
        TrainingError: there is none.
        """
        drive = self._drive(current).double()
        weights = Weights(*(w.double() for w in self.weights))
        z = settled(weights, drive.flatten(), self._cut()[1]).to(self._span.dtype)
        return self._state(z.reshape(*drive.shape, -1))

    def _state(self, z: Tensor) -> LearnedState:
        values = z * self._span + self._centre
        return LearnedState(values[..., 0], values[..., 1:].permute(2, 0, 1))

    def forward(self, current: Tensor | Separable) -> Tensor:
        """Return the membrane above its reference in V at the time points, ``[T + 1, B, N]``, from rest.

        ``current`` is the input current in A at the same time points, ``[T + 1, B, N]``; between them it runs straight.
        """
        return self._membrane(self._states(current, None)) - self.reference

    def trace(self, current: Tensor | Separable) -> Tensor:
        """Return the membrane in V at the time points, ``[T + 1, B, N]``, from rest."""
        return self._membrane(self._states(current, None))

    def run(self, current: Tensor | Separable, state: LearnedState) -> tuple[Tensor, LearnedState]:
        """Integrate from ``state``; return the membrane in V ``[T + 1, B, N]`` and the state at the end.

        Raises
        ------
        InputError: ``current`` is not ``[T + 1, B, N]`` with this population's N and at least one step.
        """
        z = self._states(current, state)
        return self._membrane(z), self._state(z[-1])

    def states(self, current: Tensor | Separable, state: LearnedState | None = None) -> Tensor:
        """Return all states in V, ``[T + 1, B, N, S]``, from ``state`` or from rest."""
        return self._states(current, state) * self._span + self._centre

    def follow(
        self, current: Tensor | Separable, membrane: Tensor, states: Mapping[str, Tensor] | None = None  # noqa: ARG002
    ) -> Tensor:  # fmt: skip
        """Return a measured membrane above its reference in V, ``[T + 1, B, N]``, with the gradient of this twin along it.

        As `CellTwin.follow`; the other states are always those of the twin along the measured membrane.

        Raises
        ------
        InputError: shapes differ.
        """
        shape = self._checked(current)
        if shape != tuple(membrane.shape):
            raise InputError(
                f"membrane has shape {tuple(membrane.shape)}, the current {shape}: both must be [T + 1, B, N]."
            )
        drive, parts, start = self._prepared(current, None)
        measured = (membrane.to(drive) - self._centre[0]) / self._span[0]
        self.watch.see(ends_of(drive), ends_of(membrane), self.dt)
        z = follow(self.weights, start, drive, self._cut()[1], measured.reshape(shape[0], -1), parts)
        return (z * self._span[0] + self._centre[0]).reshape(shape) - self.reference

    def _membrane(self, z: Tensor) -> Tensor:
        return z[..., 0] * self._span[0] + self._centre[0]

    def _checked(self, current: Tensor | Separable) -> tuple[int, ...]:
        shape = shape_of(current)
        if len(shape) != 3 or shape[2] != self.size or shape[0] < 2:
            raise InputError(
                f"current has shape {shape}; a population of {self.size} needs [T + 1, B, {self.size}], T >= 1. "
                "Put time first."
            )
        return shape

    def _drive(self, current: Tensor) -> Tensor:
        """Return what the mirrors make of currents, in A."""
        current = current.to(self._span.dtype)
        current = current if self.gain is None else current * self.gain
        return current if self.offset is None else current + self.offset

    def _cut(self) -> tuple[int, float]:
        """Return into how many steps ``dt`` is cut, and their length in s, which is at most the longest one trained."""
        parts = max(1, math.ceil(self.dt / self.model.steps[1] * (1 - 1e-9)))
        return parts, self.dt / parts

    def _prepared(self, current: Tensor | Separable, state: LearnedState | None) -> tuple[Tensor, int, Tensor]:
        """Return currents in A at all steps, ``[T + 1, M]``, the number of steps in one ``dt``, and the start, ``[M, S]``."""
        given = expanded(current)
        if state is None:
            state = self.settled_state(given[0]) if self.settles else self.resting_state(given.shape[1])
        values = torch.cat([state.membrane[..., None], state.states.permute(1, 2, 0)], -1)
        start = ((values - self._centre) / self._span).flatten(0, 1)
        parts, _ = self._cut()
        return finer(self._drive(given).flatten(1), parts), parts, start

    def _states(self, current: Tensor | Separable, state: LearnedState | None) -> Tensor:
        """Return all states from rest over their spans, ``[T + 1, B, N, S]``."""
        shape = self._checked(current)
        drive, parts, start = self._prepared(current, state)
        z = roll(self.weights, start, drive, self._cut()[1])
        self.watch.see(ends_of(drive), ends_of(self._membrane(z)), self.dt, stacklevel=4)
        return z[::parts].reshape(*shape, -1)

    def save(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``model.json`` into ``folder``.

        Raises
        ------
        OutputError: it cannot be written.
        """
        from memprop.twin.learned.files import save_model  # noqa: PLC0415 - files knows this module's model

        save_model(self.model, folder)

    @classmethod
    def load(cls, folder: Path, size: int = 1, dt: float = LEARNED_DT, **options: Any) -> LearnedTwin:
        """Return the twin that `save` wrote; ``options`` as for the constructor, ``cell`` default the shipped one of that name.

        Raises
        ------
        InputError: files are missing or damaged, or do not fit the cell.
        """
        from memprop.twin.learned.files import load_model  # noqa: PLC0415

        model = load_model(folder)
        return cls(size, dt, model=model, **{"cell": model.cell, **options})
