"""Differentiable twin of a population of equal cells, learned from waveforms; it stands where `CellTwin` does."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from memprop.circuit.cell import Cell, as_cell
from memprop.errors import InputError, RangeWarning
from memprop.files import sha256
from memprop.twin.drive import Separable, expanded, shape_of
from memprop.twin.learned.core import Weights, roll

LEARNED_DT = 1e-7
"""Default time step in s: the one roll-outs are trained at."""
_SLACK = 1e-6
"""Part of a range by which it may be left before a warning is due."""


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


def cell_digest(cell: Cell) -> str:
    """Return the hash of a cell's netlist and of its devices in Verilog-A."""
    return sha256("\0".join([cell.text, *(device.text for device in cell.devices().values())]))


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

    Raises
    ------
    InputError: size or step cannot be, the model belongs to another cell, or a parameter differs from the card.
    """

    rest: Tensor
    """Membrane in V at zero input, ``[1, N]``."""
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
    ) -> None:
        super().__init__()
        if size < 1 or not (np.isfinite(dt) and dt > 0):
            raise InputError(
                f"twin of {size} cells, dt = {dt!r} s: size must be at least 1 and dt positive. Correct them."
            )
        self.size, self.dt, self.model = int(size), float(dt), model
        self.cell = as_cell(cell, "neuron", "mif")
        self.parameters_si = self.cell.values(size, parameters or {})
        self._check_model()
        self.register_buffer("_centre", torch.tensor(model.rest, dtype=torch.float64))
        self.register_buffer("_span", torch.tensor(model.span, dtype=torch.float64))
        self.register_buffer("rest", torch.full((1, size), model.rest[0], dtype=torch.float64))
        for name, value in model.weights._asdict().items():
            self.register_buffer(f"weight_{name}", value.detach().double())
        self.to(dtype)

    def _check_model(self) -> None:
        cell, model = self.cell, self.model
        if cell_digest(cell) != model.cell_sha256:
            raise InputError(
                f"the learned twin is of cell {model.cell} with hash {model.cell_sha256[:12]}, and cell {cell.name} has "
                f"{cell_digest(cell)[:12]}: another netlist. Learn it again: memprop fit-cell --learned."
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
        others = self._centre[1:, None, None].expand(-1, batch, self.size)
        return LearnedState(self.rest.expand(batch, self.size), others)

    def forward(self, current: Tensor | Separable) -> Tensor:
        """Return the membrane above rest in V at the time points, ``[T + 1, B, N]``, from rest.

        ``current`` is the input current in A at the same time points, ``[T + 1, B, N]``; between them it runs straight.
        """
        return self._run(current, None, 0.0)[0]

    def trace(self, current: Tensor | Separable) -> Tensor:
        """Return the membrane in V at the time points, ``[T + 1, B, N]``, from rest."""
        return self._run(current, None, self.model.rest[0])[0]

    def run(self, current: Tensor | Separable, state: LearnedState) -> tuple[Tensor, LearnedState]:
        """Integrate from ``state``; return the membrane in V ``[T + 1, B, N]`` and the state at the end.

        Raises
        ------
        InputError: ``current`` is not ``[T + 1, B, N]`` with this population's N and at least one step.
        """
        return self._run(current, state, self.model.rest[0])

    def states(self, current: Tensor | Separable, state: LearnedState | None = None) -> Tensor:
        """Return all states in V, ``[T + 1, B, N, S]``, from ``state`` or from rest."""
        return self._states(current, state) * self._span + self._centre

    def _run(
        self, current: Tensor | Separable, state: LearnedState | None, reference: float
    ) -> tuple[Tensor, LearnedState]:
        z = self._states(current, state)
        end = z[-1] * self._span + self._centre
        return z[..., 0] * self._span[0] + reference, LearnedState(end[..., 0], end[..., 1:].permute(2, 0, 1))

    def _states(self, current: Tensor | Separable, state: LearnedState | None) -> Tensor:
        """Return all states from rest over their spans, ``[T + 1, B, N, S]``."""
        shape = shape_of(current)
        if len(shape) != 3 or shape[2] != self.size or shape[0] < 2:
            raise InputError(
                f"current has shape {shape}; a population of {self.size} needs [T + 1, B, {self.size}], T >= 1. "
                "Put time first."
            )
        drive = expanded(current).to(self._span.dtype).reshape(shape[0], -1)
        parts = max(1, math.ceil(self.dt / self.model.steps[1] * (1 - 1e-9)))
        z = roll(self.weights, self._start(state, drive), _finer(drive, parts), self.dt / parts)
        self._warn(drive, z)
        return z[::parts].reshape(*shape, -1)

    def _start(self, state: LearnedState | None, drive: Tensor) -> Tensor:
        if state is None:
            return drive.new_zeros(drive.shape[1], len(self.unknowns))
        values = torch.cat([state.membrane[..., None], state.states.permute(1, 2, 0)], -1)
        return ((values - self._centre) / self._span).reshape(drive.shape[1], -1)

    @torch.no_grad()
    def _warn(self, drive: Tensor, z: Tensor) -> None:
        """Give one RangeWarning where currents, membranes or the step leave what was trained."""
        mem = z[..., 0] * self._span[0] + self._centre[0]
        said = []
        for what, unit, (low, high), least, most in (
            ("current", "A", self.model.current, float(drive.min()), float(drive.max())),
            ("membrane", "V", self.model.membrane, float(mem.min()), float(mem.max())),
            ("time step", "s", (self.model.steps[0], float("inf")), self.dt, self.dt),
        ):
            slack = _SLACK * (high - low) if math.isfinite(high) else _SLACK * low
            if not (least >= low - slack and most <= high + slack):  # NaN is outside too
                said.append(
                    f"{what} from {least:.4g} to {most:.4g} {unit}, learned from {low:.4g} to {high:.4g} {unit}"
                )
        if said:
            warnings.warn(
                f"learned twin of {self.cell.name} works where it was not trained: {'; '.join(said)}. Learn it again with "
                "waveforms from there, or keep the network inside.",
                RangeWarning, stacklevel=5,
            )  # fmt: skip

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


def with_errors(model: LearnedModel, errors: Mapping[str, float]) -> LearnedModel:
    """Return the model with what was measured on waveforms held out."""
    return replace(model, errors={**model.errors, **{name: float(value) for name, value in errors.items()}})


def _finer(drive: Tensor, parts: int) -> Tensor:
    """Return currents ``[T + 1, M]`` at ``parts`` times as many points, straight between them."""
    if parts == 1:
        return drive
    share = torch.arange(parts, dtype=drive.dtype, device=drive.device)[:, None] / parts
    between = drive[:-1, None] + share * (drive[1:] - drive[:-1])[:, None]
    return torch.cat([between.flatten(0, 1), drive[-1:]])
