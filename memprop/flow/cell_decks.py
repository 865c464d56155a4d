"""Decks of single cells under currents, and what is kept of their recordings. Imports no torch: workers load it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memprop.circuit.cell import Cell
from memprop.deck.deck import Deck, Transient
from memprop.deck.models import cell_models
from memprop.deck.numbers import to_text
from memprop.spice.recording import Recording

Floats = NDArray[np.float64]
VERSION = 1
"""Part of the key of kept results: raise it when the reduction computes something else."""
OPTIONS: Mapping[str, float | str] = {"method": "trap", "reltol": 1e-5}
"""Finer than for networks: twins are judged by these waveforms."""
ROOM_TEMPERATURE = 27.0
"""The simulators' default, at which twins stand, in degrees Celsius."""


@dataclass(frozen=True, slots=True)
class CellReduction:
    """Puts the nodes of a cell deck on a uniform grid: array ``nodes`` in V, ``[cells, 1 + states, steps + 1]``, membrane first."""

    cells: int
    states: tuple[str, ...]
    step: float
    """In s."""
    steps: int

    def __call__(self, recording: Recording) -> dict[str, NDArray[np.float64]]:
        """Return the array ``nodes`` of ``recording``."""
        from scipy.interpolate import PchipInterpolator  # noqa: PLC0415 - half a second that looking at a deck does not need

        moments = recording["time"].values
        first = np.append(True, np.diff(moments) > 0)
        variables = recording.variables
        names = [name for k in range(self.cells) for name in cell_nodes(k, self.states)]
        waves = np.stack([variables[name].values[first] for name in names])
        grid = np.clip(np.arange(self.steps + 1) * self.step, moments[0], moments[-1])
        found = PchipInterpolator(moments[first], waves, axis=1)(grid)
        return {"nodes": found.reshape(self.cells, 1 + len(self.states), -1)}


def cell_nodes(k: int, states: Sequence[str]) -> tuple[str, ...]:
    """Return the nodes of cell ``k`` in a deck: membrane, then the states of its card."""
    return (f"mem{k}", *(f"x_cell{k}.{state.lower()}" for state in states))


def cell_deck(
    cell: Cell, time: Floats, currents: Floats, parameters: Sequence[Mapping[str, float]], max_step: float, *,
    temperature: float | None = None, title: str = "",
) -> Deck:  # fmt: skip
    """Return the deck of instances of a cell that have nothing in common but the rails.

    ``currents`` in A, ``[cells, points]``, run straight between the points of ``time`` in s, ``[points]``, from ground into each
    membrane; ``parameters`` are what differs from the card, per cell. All start at the operating point. ``temperature`` in degrees
    Celsius; None: the simulator's default.

    Raises
    ------
    InputError: a parameter is unknown or out of range, or a time makes no sense.
    """
    files, verilog = cell_models([cell])
    lines = [f"v_{rail} {rail} 0 {to_text(supply.voltage)}" for rail, supply in cell.card.supplies.items()]
    for k, (current, values) in enumerate(zip(currents, parameters, strict=True)):
        cell.values(1, values)
        lines += _source(k, time, current)
        given = "".join(f" {name}={to_text(value)}" for name, value in values.items())
        lines += [f"x_cell{k} mem{k} e1 e2 0 {cell.name}{given}"]
    files |= {"cells.inc": cell.text, "run.inc": "\n".join([f"* {title or cell.name}", *lines, ""])}
    nodes = tuple(node for k in range(len(parameters)) for node in cell_nodes(k, tuple(cell.card.states)))
    options = {**OPTIONS, **({} if temperature is None else {"temp": temperature})}
    return Deck(title or f"cell {cell.name}", files, Transient(float(time[-1]), max_step), nodes, (), options, verilog)


def _source(k: int, time: Floats, current: Floats) -> Iterator[str]:
    """Yield the current source of a cell; corners on a straight line are left out, as they mean nothing and cost time."""
    bends = np.ones(len(time), dtype=bool)
    bends[1:-1] = np.abs(np.diff(current, 2)) > 1e-12 * max(float(np.abs(current).max()), 1e-30)
    corners = [f"{to_text(t)} {to_text(i)}" for t, i in zip(time[bends], current[bends], strict=True)]
    yield f"i_in{k} 0 mem{k} pwl("
    yield from ("+ " + " ".join(corners[n : n + 4]) for n in range(0, len(corners), 4))
    yield "+ )"
