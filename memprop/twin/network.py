"""Twin of a feed-forward network: crossbar, neurons, crossbar, neurons, ..., read out as mean membranes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from memprop.circuit.cell import Cell, load_cell
from memprop.circuit.network import Network, Population, Projection
from memprop.circuit.wires import Wires
from memprop.conductance.pair import ConductanceRange
from memprop.data.encode import AlphaEncoder
from memprop.errors import InputError
from memprop.twin.cell import DT, CellTwin
from memprop.twin.crossbar import Crossbar
from memprop.twin.drive import Separable
from memprop.twin.fitted import Fitted
from memprop.twin.learned.twin import LearnedModel, LearnedTwin
from memprop.twin.population import PopulationTwin, make_cell_twin

SETTLED = 1e-6
"""Distance in V between the rest of neurons and the reference of their rows that moves nothing."""


class Twin(nn.Module):
    """Differentiable twin of a feed-forward memristive network.

    ``layers`` is an ``nn.Sequential`` of `Crossbar` and twins of cells (`CellTwin`, or
    `LearnedTwin` where the cell has one), usable on its own with row voltages ``[T + 1, B, rows]``.

    Parameters
    ----------
    sizes: rows of the input, then neurons of each population, e.g. ``(784, 100, 10)``.
    encoder: image -> row voltages.
    dt: time step in s.
    window: conductance range of all cells.
    cell: cell of all populations, or one per population.
    parameters: by population ``"x1"``, ``"x2"``, ...: what differs from the card, each one value or ``[N]``.
    seed: of the initial weights.
    kernel: ``auto``, ``fused`` or ``eager``, see `CellTwin`.
    wires: resistance of the wires of all crossbars; None: ideal wires.
    options: by population: further arguments of its `CellTwin`: ``reference``, ``gain``, ``offset``.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        encoder: AlphaEncoder | None = None,
        *,
        dt: float = DT,
        window: ConductanceRange | None = None,
        cell: Cell | str | list[Cell] | None = None,
        parameters: Mapping[str, Mapping[str, ArrayLike]] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        kernel: str = "auto",
        wires: Wires | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1:
            raise InputError(f"sizes {tuple(sizes)}: need the input rows and at least one population, all at least 1.")
        self.sizes, self.encoder, self.dt = tuple(int(n) for n in sizes), encoder or AlphaEncoder(), float(dt)
        self.encoder.steps(self.dt)
        self.window, self.wires = window or ConductanceRange(), wires
        names = [f"x{k + 1}" for k in range(len(self.sizes) - 1)]
        unknown = (set(parameters or {}) | set(options or {})) - set(names)
        cells = list(cell) if isinstance(cell, list) else [cell] * len(names)
        if unknown or len(cells) != len(names):
            raise InputError(
                f"parameters of {', '.join(sorted(unknown)) or 'no'} unknown populations, {len(cells)} cells: "
                f"the populations are {', '.join(names)}. Correct the names, or give one cell for each."
            )
        generator = torch.Generator().manual_seed(seed)
        layers: list[nn.Module] = []
        for k, (rows, columns) in enumerate(pairwise(self.sizes)):
            init = _initial(k, rows, self)
            layers.append(Crossbar(rows, columns, window=self.window, init=init, generator=generator, wires=wires))
            layers.append(
                make_cell_twin(
                    columns,
                    self.dt,
                    cells[k] or "mif",
                    (parameters or {}).get(names[k]),
                    dtype=dtype,
                    kernel=kernel,
                    **(options or {}).get(names[k], {}),
                )
            )
        self.layers = nn.Sequential(*layers).to(dtype)
        self._set_start()

    def _set_start(self) -> None:
        """Let populations start where simulators do: rows off their reference send currents at rest, which move what they feed."""
        for rows, neurons in pairwise(self.populations):
            neurons.settles = bool(((rows.rest - rows.reference).abs() > SETTLED).any())

    @property
    def crossbars(self) -> list[Crossbar]:
        """Crossbars from the input to the output."""
        return [layer for layer in self.layers if isinstance(layer, Crossbar)]

    @property
    def populations(self) -> list[PopulationTwin]:
        """Populations from the first hidden one to the output."""
        return [layer for layer in self.layers if isinstance(layer, PopulationTwin)]

    def forward(self, images: Tensor) -> Tensor:
        """Return the time mean of the output membranes above their reference in V, ``[B, classes]``."""
        return _mean(self.layers[1:](self._input_current(images)))

    def _input_current(self, images: Tensor) -> Separable:
        """Return the first column currents: the image passes the crossbar once, whatever the number of time points."""
        first = self.crossbars[0]
        amplitude = self.encoder.amplitude(images).to(first.weight)
        return first(Separable(self.encoder.samples(self.dt).to(amplitude), amplitude))

    def follow(
        self, images: Tensor, membranes: Sequence[Tensor], states: Sequence[Mapping[str, Tensor]] | None = None
    ) -> Tensor:
        """Return what `forward` returns as the circuit has it, with the gradient that this twin has along its waveforms.

        ``membranes`` were measured at the time points in V, per population ``[T + 1, B, N]``; ``states`` in the middle of each
        step, see `CellTwin.follow`.

        Raises
        ------
        InputError: not one entry per population, shapes differ, or a state is missing.
        """
        if len(membranes) != len(self.populations) or (states is not None and len(states) != len(membranes)):
            raise InputError(f"{len(membranes)} populations were measured; the twin has {len(self.populations)}.")
        current: Tensor | Separable = self._input_current(images)
        above = images.new_zeros(())
        for k, population in enumerate(self.populations):
            above = population.follow(current, membranes[k], None if states is None else states[k])
            if k + 1 < len(self.populations):
                current = self.crossbars[k + 1](above)
        return _mean(above)

    @torch.no_grad()
    def traces(self, images: Tensor) -> dict[str, Tensor]:
        """Return the membranes in V at the time points, by population name, each ``[T + 1, B, N]``."""
        current = self._input_current(images)
        found: dict[str, Tensor] = {}
        for k, population in enumerate(self.populations):
            membrane = population.trace(current)
            found[f"x{k + 1}"] = membrane
            if k + 1 < len(self.populations):
                current = self.crossbars[k + 1](membrane - population.reference)
        return found

    @contextmanager
    def stepping(self, dt: float) -> Iterator[None]:
        """Use another time step in s for a while; the weights mean the same at every step.

        Raises
        ------
        InputError: the step does not divide the presentation.
        """
        self.encoder.steps(dt)
        before = self.dt
        try:
            self._set_step(dt)
            yield
        finally:
            self._set_step(before)

    def _set_step(self, dt: float) -> None:
        self.dt = float(dt)
        for population in self.populations:
            population.dt = float(dt)

    def refit(self, found: Fitted | LearnedModel) -> None:
        """Let all populations of the cell that was fitted compute with this fit, and watch its range.

        Raises
        ------
        InputError: no population is of this cell, or its twin is of the other kind.
        """
        wanted = CellTwin if isinstance(found, Fitted) else LearnedTwin
        hit = [population for population in self.populations if population.cell.digest == found.cell_sha256]
        if not hit or not all(isinstance(population, wanted) for population in hit):
            names = ", ".join(
                dict.fromkeys(f"{p.cell.name} {p.cell.digest[:12]} ({type(p).__name__})" for p in self.populations)
            )
            raise InputError(
                f"the fit is of cell {found.cell} {found.cell_sha256[:12]} for a {wanted.__name__}; the network has {names}. "
                "Give the fit of its cell: memprop fit-cell."
            )
        for population in hit:
            population.refit(found)  # pyright: ignore[reportArgumentType] - the kinds agree, as just seen
        self._set_start()

    def project(self) -> None:
        """Keep all conductance pairs inside their range."""
        for crossbar in self.crossbars:
            crossbar.project()

    def to_network(self, name: str) -> Network:
        """Return the circuit description with the conductances of this twin."""
        populations = tuple(
            Population(
                f"x{k + 1}",
                layer.size,
                layer.cell,
                layer.parameters_si,
                float_rest(layer.reference),
                None if layer.gain is None else float_rest(layer.gain),
                None if layer.offset is None else float_rest(layer.offset),
            )
            for k, layer in enumerate(self.populations)
        )
        projections = tuple(
            Projection(f"x{k}", f"x{k + 1}", *crossbar.pair()) for k, crossbar in enumerate(self.crossbars)
        )
        return Network(name, self.sizes[0], populations, projections, self.window, wires=self.wires)


def _mean(above: Tensor) -> Tensor:
    """Return the time mean by the trapezoidal rule, exact for straight pieces between the time points."""
    return (above.sum(0) - 0.5 * (above[0] + above[-1])) / (len(above) - 1)


def float_rest(rest: Tensor) -> tuple[float, ...]:
    """Return resting membranes in V, or other numbers of neurons, as floats."""
    return tuple(float(value) for value in rest.double().flatten())


def from_network(
    network: Network, encoder: AlphaEncoder, dt: float, dtype: torch.dtype = torch.float32,
    fit: Fitted | LearnedModel | None = None,
) -> Twin:  # fmt: skip
    """Return the twin of a feed-forward circuit; ``fit`` is one of the cell of all its populations.

    Raises
    ------
    InputError: the network is not a chain, a cell has no twin, or the synapse is not the ideal pair.
    """
    network.check_chain()
    if network.pair.text != load_cell("rram_pair").text:
        raise InputError(
            f"network {network.name}: synapse '{network.pair.name}' has no twin; only the shipped rram_pair has."
        )
    sizes = (network.inputs, *(population.size for population in network.populations))
    twin = Twin(
        sizes,
        encoder,
        dt=dt,
        window=network.window,
        cell=[population.cell for population in network.populations],
        parameters={f"x{k + 1}": population.parameters for k, population in enumerate(network.populations)},
        dtype=dtype,
        wires=network.wires,
        options={
            f"x{k + 1}": {"reference": p.rest, "gain": p.gain, "offset": p.offset, "fit": fit}
            for k, p in enumerate(network.populations)
        },
    )
    for crossbar, projection in zip(twin.crossbars, network.projections, strict=True):
        crossbar.set_pair(projection.g_plus, projection.g_minus)
    return twin


def _initial(k: int, rows: int, twin: Twin) -> float:
    """Return the spread of the initial weights in S that brings a layer to work: about 1.5 uA rms into a neuron.

    Rows of the input see about 0.3 of the peak voltage in rms over pixels, hidden rows about 20 mV.
    """
    voltage = 0.3 * twin.encoder.v_peak if k == 0 else 20e-3
    return min(1.5e-6 / (voltage * rows**0.5), 0.25 * twin.window.span)
