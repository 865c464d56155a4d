"""Differentiable twin of a population of equal cells, assembled from the cell's netlist, its card and its devices."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from memprop.circuit.cell import Cell, as_cell
from memprop.errors import InputError
from memprop.files import sha256
from memprop.twin.cell_circuit import FIXED, OFFSET, cell_circuit, check_devices, each, placed
from memprop.twin.drive import Separable, expanded, shape_of
from memprop.twin.fitted import Fitted
from memprop.twin.fused.kernel import kernel_of, run_fused, try_kernel
from memprop.twin.fused.run import Kernel
from memprop.twin.injection import injected
from memprop.twin.prepared import Prepared, expression_value
from memprop.twin.ranges import RangeWatch, ends_of
from memprop.twin.splitting import Splitting, UnsplittableError
from memprop.twin.state import CellState, batch_of, of_batch

DT = 0.25e-6
"""Default time step in s: the trained networks of this project then follow ngspice within 5 mV at any time."""
KERNELS = ("auto", "fused", "eager")
WORTH = 20_000
"""Neurons x steps of a run from which on its kernel is fused: fewer are soon done in torch, and building a kernel takes seconds."""
_PREFIX = "parameter_"
"""Of the names of buffers that hold parameters of the cell, which may be called anything."""


class CellTwin(nn.Module):
    """Population of equal cells, drops into ``nn.Sequential``.

    The equations come from the cell's ``cell.cir`` and the Verilog-A of its devices. Cells with one membrane node and
    devices from there to fixed nodes are stepped by Strang splitting (`memprop.twin.splitting`); any other circuit by a
    linearly implicit method (`memprop.twin.general`), which costs more.

    Parameters
    ----------
    size: number of cells N.
    dt: time step in s.
    cell: the cell, or the name of a shipped one.
    parameters: values that differ from the card, each a number or an array ``[N]``.
    dtype: float32 for training, float64 for proofs.
    method: ``auto``, or ``general`` to use the general method for a cell that could be split.
    reference: membrane in V to which `forward` and the rows refer, a number or ``[N]``; default the own rest.
    gain, offset: of the mirrors before the cells: their input current is ``gain x current + offset``, in A; each a number or
        ``[N]``, default 1 and 0. With an offset the rest is that under the offset.
    fitted: a fit of this cell: the twin computes with its factors on the parameters, and warns where it leaves the fitted range.
        The circuit's parameters, and the reference, stay as they are.
    kernel: ``fused`` runs the loop over time of a split cell in compiled code (`memprop.twin.fused`), ``eager`` in torch, which
        is the reference and differentiable as often as you like; ``auto`` fuses runs of `WORTH` neurons x steps and more.

    Raises
    ------
    InputError: a parameter is unknown, out of range, or has neither one nor N values; or the cell cannot have a twin.
    """

    rest: Tensor
    """Membrane in V at zero input, ``[1, N]``."""
    reference: Tensor
    """Membrane in V to which `forward` refers, ``[1, N]``."""
    gain: Tensor | None
    """Gain of the mirrors, ``[1, N]``; None: 1."""
    settles: bool = False
    """Whether `forward` and `trace` start from the operating point under the first current, as simulators do, not from rest."""
    _others: Tensor

    def __init__(
        self,
        size: int,
        dt: float = DT,
        *,
        cell: Cell | str = "mif",
        parameters: Mapping[str, ArrayLike] | None = None,
        dtype: torch.dtype = torch.float32,
        method: str = "auto",
        kernel: str = "auto",
        reference: ArrayLike | None = None,
        gain: ArrayLike | None = None,
        offset: ArrayLike | None = None,
        fitted: Fitted | None = None,
    ) -> None:
        super().__init__()
        if size < 1 or not (np.isfinite(dt) and dt > 0):
            raise InputError(
                f"twin of {size} cells, dt = {dt!r} s: size must be at least 1 and dt positive. Correct them."
            )
        if method not in ("auto", "general"):
            raise InputError(f"method '{method}' is unknown. Known: auto, general.")
        if kernel not in KERNELS:
            raise InputError(f"kernel '{kernel}' is unknown. Known: {', '.join(KERNELS)}.")
        self.size, self.dt = int(size), float(dt)
        self.cell = as_cell(cell, "neuron", "mif")
        self.parameters_si = self.cell.values(size, parameters or {})
        self.circuit, plan, self._solver = cell_circuit(self.cell, offset=offset is not None)
        self._plan, self.method = _choice(plan, method)
        self.kernel = kernel
        if kernel == "fused" and self._plan is None:
            raise InputError(f"cell {self.cell.name} has no fused kernel ({self.method}). Use kernel='auto'.")
        self.supplies = {name: self.cell.card.supplies[name].voltage for name in FIXED}
        values = {**self.parameters_si, OFFSET: each(self, "offset", 0.0 if offset is None else offset).numpy()}
        for name, default in self.circuit.defaults.items():
            value = torch.as_tensor(values.get(name, default), dtype=torch.float64)
            self.register_buffer(_PREFIX + name, value)
        check_devices(self.circuit, self._values())
        y = self._solve_rest()
        self.register_buffer("rest", y[..., 0].reshape(1, size))
        self.register_buffer("_others", y[..., 1:].reshape(1, size, -1))
        own = self.rest if reference is None else each(self, "reference", reference).reshape(1, size)
        self.register_buffer("reference", own.clone())
        self.register_buffer("gain", None if gain is None else each(self, "gain", gain, 0.0).reshape(1, size))
        self.watch: RangeWatch | None = None
        if fitted is not None:
            self.refit(fitted)
        self.to(dtype)

    def __repr__(self) -> str:
        """Return name, size, step and method."""
        return f"{type(self).__name__}({self.cell.name}, size={self.size}, dt={self.dt!r} s, {self.method})"

    @property
    def identity(self) -> str:
        """Hash of what the population is, but for parameters and fit."""
        return sha256(f"{self.cell.digest} {placed(self)}")

    def refit(self, fitted: Fitted) -> None:
        """Compute with the factors of a fit from now on, and watch its range; the reference stays.

        Raises
        ------
        InputError: the fit is of another cell, or leads a parameter out of its range.
        """
        fitted.check(self.cell)
        like = self.rest
        self.to("cpu")  # where operating points are solved, in double precision
        changed = {name: np.asarray(self.parameters_si[name]) * factor for name, factor in fitted.factors.items()}
        for name, value in self.cell.values(self.size, changed).items():
            setattr(self, _PREFIX + name, torch.as_tensor(value, dtype=torch.float64))
        check_devices(self.circuit, self._values())
        y = self._solve_rest()
        self.rest, self._others = y[..., 0].reshape(1, self.size), y[..., 1:].reshape(1, self.size, -1)
        self.watch = RangeWatch(self.cell.name, fitted.known, (fitted.dt, fitted.dt))
        self.to(like)

    @property
    def unknowns(self) -> tuple[str, ...]:
        """Names of the circuit's unknowns, membrane first, as in ngspice."""
        return self._solver.system.unknowns

    @property
    def state_names(self) -> tuple[str, ...]:
        """Those unknowns that are device states, as `follow` takes them; none for a cell of general form."""
        groups = self._plan.groups if self._plan else ()
        return tuple(sorted({i.node(s) for group in groups for i in group.instances for s in group.states}))

    def _values(self) -> dict[str, Tensor]:
        return {name: getattr(self, _PREFIX + name) for name in self.circuit.defaults}

    def _inputs(self, current: Any) -> list[Any]:
        """Return the inputs of the general solver: supplies, current into the membrane, parameters."""
        return [*(self.supplies[node] for node in FIXED), current, *self._values().values()]

    def _solve_rest(self) -> Tensor:
        """Return all unknowns at zero input, ``[N, n]``; with an ``.ic`` in the cell the nodes it names are held there."""
        values, y = self._values(), torch.zeros(self.size, len(self.unknowns), dtype=torch.float64)
        held = self._held()
        for k, expr in held.items():
            y[:, k] = torch.as_tensor(expression_value(expr, values), dtype=torch.float64)
        return self._solver.rest(y, self._inputs(0.0), list(held))

    def _held(self) -> dict[int, Any]:
        """Return the numbers of the unknowns that an ``.ic`` holds, and their voltages."""
        names, known = self.unknowns, ", ".join(self.unknowns)
        for node in sorted(set(self.circuit.start) - set(names)):
            raise InputError(f"cell {self.cell.name}: .ic names '{node}', which is no free node. Known: {known}.")
        return {names.index(node): expr for node, expr in self.circuit.start.items()}

    @property
    def offset(self) -> Tensor | None:
        """Current in A that the mirrors add, ``[1, N]``; None: none."""
        return self._values()[OFFSET].expand(1, self.size) if OFFSET in self.circuit.defaults else None

    def resting_state(self, batch: int) -> CellState:
        """Return the state at zero input, which is the operating point of the circuit."""
        others = self._others.expand(batch, self.size, -1).permute(2, 0, 1)
        return self._state(self.rest.expand(batch, self.size), others)

    def settled_state(self, current: Tensor) -> CellState:
        """Return the operating point under constant currents in A, ``[B, N]``; gradients pass through it.

        Raises
        ------
        TrainingError: there is none.
        """
        start = torch.cat([self.rest[..., None], self._others], -1).double().expand(*current.shape, -1)
        given, held = self._mirrored(current).double(), list(self._held())
        with torch.no_grad():
            # Before an image comes all currents are the same but for rounding: then one solution serves, and Newton's step.
            one = slice(0, 1) if bool(((given - given[:1]).abs() <= 1e-6 * given[:1].abs()).all()) else slice(None)
            y = self._solver.rest(start[one], self._inputs(given[one]), held)
        y = self._solver.newton(y.expand_as(start), self._inputs(given), held).to(self.rest.dtype)
        return self._state(y[..., 0], y[..., 1:].permute(2, 0, 1))

    def starting_state(self, current: Tensor | Separable) -> CellState:
        """Return the state from which `forward` and `trace` start under ``current``, ``[T + 1, B, N]``: see `settles`."""
        if not self.settles or len(shape_of(current)) != 3:
            return self.resting_state(batch_of(current))
        first = current.waveform[0] * current.amplitude if isinstance(current, Separable) else current[0]
        return self.settled_state(first)

    def _mirrored(self, current: Any) -> Any:
        """Return the current that mirrors make of ``current``, in A; their offset is a part of the cell's circuit."""
        if self.gain is None:
            return current
        if isinstance(current, Separable):
            return Separable(current.waveform, current.amplitude * self.gain)
        return current * self.gain

    def _state(self, membrane: Tensor, others: Tensor) -> CellState:
        """Return the state with all other unknowns ``[n, B, N]``."""
        if self._plan is None:
            return CellState(membrane, (others,))
        where = {name: k - 1 for k, name in enumerate(self.unknowns)}
        blocks = [
            torch.stack([torch.stack([others[where[i.node(s)]] for i in group.instances]) for s in group.states])
            if group.states else others[:0, None]
            for group in self._plan.groups
        ]  # fmt: skip
        return CellState(membrane, tuple(blocks))

    def forward(self, current: Tensor | Separable) -> Tensor:
        """Return the membrane above its reference in V at the time points, ``[T + 1, B, N]``, from rest.

        ``current`` is the input current in A at the same time points, ``[T + 1, B, N]``; between them it runs straight.
        """
        return self._run(current, self.starting_state(current), self.reference)[0]

    def trace(self, current: Tensor | Separable) -> Tensor:
        """Return the membrane in V at the time points, ``[T + 1, B, N]``, from rest."""
        return self.run(current, self.starting_state(current))[0]

    def run(self, current: Tensor | Separable, state: CellState) -> tuple[Tensor, CellState]:
        """Integrate from ``state``; return the membrane in V ``[T + 1, B, N]`` and the state at the end.

        Raises
        ------
        InputError: ``current`` is not ``[T + 1, B, N]`` with this population's N and at least one step, or ``state`` of another batch.
        EngineError: the fused kernel was asked for and cannot be built.
        """
        return self._run(current, state, torch.zeros_like(self.rest))

    def _run(self, current: Tensor | Separable, state: CellState, reference: Tensor) -> tuple[Tensor, CellState]:
        """Do what `run` does, with the membrane that is returned relative to ``reference``, in V ``[1, N]``."""
        shape = shape_of(current)
        if len(shape) != 3 or shape[2] != self.size or shape[0] < 2:
            raise InputError(
                f"current has shape {shape}; a population of {self.size} needs [T + 1, B, {self.size}], T >= 1. "
                "Put time first."
            )
        above, end = self._stepped(self._mirrored(current), of_batch(state, shape[1]), reference)
        if self.watch is not None:
            self._show(self.watch, current, above + reference)
        return above, end

    def _show(self, watch: RangeWatch, current: Tensor | Separable, membrane: Tensor) -> None:
        """Show the watch where this twin was: ``current`` in A before the mirrors, ``membrane`` in V."""
        low, high = ends_of(self._mirrored(current))
        more = (0.0, 0.0) if self.offset is None else ends_of(self.offset)
        watch.see((low + more[0], high + more[1]), ends_of(membrane), self.dt, stacklevel=5)

    def _stepped(self, current: Tensor | Separable, state: CellState, reference: Tensor) -> tuple[Tensor, CellState]:
        """Integrate under what the mirrors give."""
        shape = shape_of(current)
        if self._plan is None:
            membrane, end = self._run_general(expanded(current), state)
            return membrane - reference, end
        prepared = self.prepared(state.membrane)
        if kernel := self._kernel(prepared, (shape[0] - 1) * shape[1] * shape[2], state.membrane):
            above, states = run_fused(kernel, prepared, current, state.membrane, state.states, reference)
            return above, CellState(above[-1] + reference, tuple(states))
        membrane, states = prepared.run(expanded(current), state.membrane, list(state.states))
        return torch.stack(membrane) - reference, CellState(membrane[-1], tuple(states))

    def follow(
        self, current: Tensor | Separable, membrane: Tensor, states: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Return a measured membrane above its reference in V, ``[T + 1, B, N]``, with the gradient of this twin along it.

        ``current`` is what flows into the membranes in A, as the model has it; ``states`` are device states measured in the middle
        of each step, ``[T, B, N]`` by name as in `unknowns`. Without them they are computed along the measured membrane, as they
        always are for cells of general form.

        Raises
        ------
        InputError: shapes differ, or a state is missing.
        """
        if shape_of(current) != membrane.shape:
            raise InputError(
                f"membrane has shape {tuple(membrane.shape)}, the current {tuple(shape_of(current))}: both must be [T + 1, B, N]."
            )
        if self.watch is not None:
            self._show(self.watch, current, membrane)
        start, drive = self.starting_state(current), expanded(self._mirrored(current))
        start = start._replace(membrane=injected(membrane[0], start.membrane))
        if self._plan is None:
            return torch.stack(self._follow_general(drive, membrane, start)) - self.reference
        seen = None if states is None else self._blocks(states, drive)
        return (
            torch.stack(self.prepared(drive).follow(drive, membrane, start.membrane, list(start.states), seen))
            - self.reference
        )

    def _follow_general(self, current: Tensor, membrane: Tensor, state: CellState) -> list[Tensor]:
        others, found = state.states[0].permute(1, 2, 0), [state.membrane]
        inputs = [self._inputs(drive) for drive in current.unbind(0)]
        for n, (before, after) in enumerate(pairwise(inputs), 1):
            y = self._solver.step(torch.cat([found[-1][..., None], others], -1), before, after, (len(FIXED),), self.dt)
            others = y[..., 1:]
            found.append(injected(membrane[n], y[..., 0]))
        return found

    def _blocks(self, states: Mapping[str, Tensor], like: Tensor) -> list[Tensor]:
        """Return device states as `Prepared.follow` takes them: per group ``[T, S, D, B, N]``."""
        groups = self._plan.groups if self._plan else ()
        names = self.state_names
        if missing := [name for name in names if name not in states]:
            raise InputError(
                f"cell {self.cell.name}: state '{missing[0]}' was not measured. Measure all of {', '.join(names)}."
            )
        empty = like.new_zeros(len(like) - 1, 0, 1, *like.shape[1:])
        return [
            torch.stack([torch.stack([states[i.node(s)] for i in group.instances], 1) for s in group.states], 1).to(like)
            if group.states else empty
            for group in groups
        ]  # fmt: skip

    def prepared(self, like: Tensor) -> Prepared:
        """Return the splitting with this population's parameters, for tensors like this one.

        Raises
        ------
        InputError: the cell is not split.
        """
        if self._plan is None:
            raise InputError(f"cell {self.cell.name} is not split ({self.method}). Use its `run` instead.")
        return Prepared(self._plan, self._values(), self.supplies, self.dt, like)

    def _kernel(self, prepared: Prepared, work: int, like: Tensor) -> Kernel | None:
        """Return the fused kernel for a run of so many neurons x steps, None where eager code is to run."""
        if self.kernel == "fused":
            return kernel_of(prepared, like)
        return try_kernel(prepared, like) if self.kernel == "auto" and work >= WORTH else None

    def _run_general(self, current: Tensor, state: CellState) -> tuple[Tensor, CellState]:
        y = torch.cat([state.membrane[..., None], state.states[0].permute(1, 2, 0)], -1)
        inputs = [self._inputs(drive) for drive in current.unbind(0)]
        membrane = [state.membrane]
        for before, after in pairwise(inputs):
            y = self._solver.step(y, before, after, (len(FIXED),), self.dt)
            membrane.append(y[..., 0])
        return torch.stack(membrane), CellState(y[..., 0], (y[..., 1:].permute(2, 0, 1),))


class MIF(CellTwin):
    """Population of memristive integrate-and-fire neurons: the twin of the shipped cell ``mif``.

    Equations: S. M. Kang et al., IEEE TCAS-I, Nov 2021 (cell card ``circuits/mif/cell.toml``). Parameters as in `CellTwin`.
    """


def _choice(plan: Splitting | UnsplittableError, method: str) -> tuple[Splitting | None, str]:
    """Return the splitting to use, if any, and the method in words."""
    if isinstance(plan, Splitting) and method == "auto":
        return plan, "splitting"
    return None, f"general: {plan}" if isinstance(plan, UnsplittableError) else "general"
