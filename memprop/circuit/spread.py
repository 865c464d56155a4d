"""A chip: one copy of a network whose parts all differ a little from the design, drawn once and frozen.

Parameters of neurons, gains of mirrors, conductances and wire resistances are multiplied by lognormal factors of mean 1 whose
standard deviation is the asked sigma, so that signs hold and no tail is cut. Offset currents are normal around 0. What leaves
the range in the cell's card, or the window of conductances, is clipped and counted.

Every quantity has a random stream of its own, made of the seed and its name: spreading one more changes none of the others,
and another sigma scales the same draw. Both memristors of a cell ``mif`` share the parameters of their neuron.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memprop.circuit.network import Network, Population, Projection
from memprop.circuit.wires import Wires
from memprop.conductance.pair import Array, ConductanceRange
from memprop.device.card import Parameter
from memprop.errors import InputError

Pair = tuple[Array, Array]
"""``(g_plus, g_minus)`` in S, ``[row, column]``."""
_MOST = 1.0
"""Largest relative standard deviation: beyond it a spread is no copy of a design."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How much the parts of chips differ; all zero: the design itself.

    Raises
    ------
    InputError: a standard deviation is not from 0 to 1, a share of stuck cells not from 0 to 1, or the offset no current.
    """

    parameters: Mapping[str, float] = field(default_factory=dict)
    """Relative standard deviation of parameters of the neurons' cell, by name, e.g. ``{"c": 0.3}``; one draw per neuron."""
    resistance: float = 0.0
    """Relative standard deviation of the resistance of each RRAM cell, on and off; the mean conductance is the programmed one."""
    stuck_low: float = 0.0
    """Share of RRAM cells that stay at the lowest conductance, whatever is programmed."""
    stuck_high: float = 0.0
    """Share of RRAM cells that stay at the highest conductance."""
    gain: float = 0.0
    """Relative standard deviation of the gain of column mirrors."""
    offset: float = 0.0
    """Standard deviation of the current that a column mirror adds, in A."""
    wire: float = 0.0
    """Relative standard deviation of the resistance of row wires and of column wires, one draw each per chip."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "parameters", dict(self.parameters))
        relative = {name: getattr(self, name) for name in ("resistance", "gain", "wire", "stuck_low", "stuck_high")}
        for name, value in {**self.parameters, **relative}.items():
            if not (_is_number(value) and 0.0 <= value <= _MOST):
                raise InputError(
                    f"Spread: {name} = {value!r}; needs a relative number from 0 to 1, e.g. 0.1 for 10 %. Correct it."
                )
        if self.stuck_low + self.stuck_high > 1.0:
            raise InputError(
                f"Spread: stuck_low + stuck_high = {self.stuck_low + self.stuck_high!r} of all cells; at most 1. Lower them."
            )
        if not (_is_number(self.offset) and self.offset >= 0.0):
            raise InputError(
                f"Spread: offset = {self.offset!r} A; needs a standard deviation of 0 A or more, e.g. 1e-9."
            )

    def __str__(self) -> str:
        """Return what is not zero, e.g. ``c 0.3, offset 1e-09 A``."""
        parts = [f"{name} {value!r}" for name, value in self.parameters.items() if value]
        for part in fields(self)[1:]:
            value = getattr(self, part.name)
            parts += [f"{part.name} {value!r}" + (" A" if part.name == "offset" else "")] if value else []
        return ", ".join(parts) or "none"


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn for one quantity, for tables and figures."""

    name: str
    """E.g. ``x1.c`` or ``x0_x1.conductance``."""
    unit: str
    nominal: Array
    """As designed, in SI units, any shape."""
    actual: Array
    """On the chip, clipped, of the same shape."""
    clipped: int = 0
    """Number of values that left their range."""
    stuck: bool = False
    """Whether these are cells that no programming moves."""

    @property
    def relative(self) -> bool:
        """Whether to compare with the design; it has no offsets, and stuck cells do not follow it."""
        return not self.stuck and bool((self.nominal != 0.0).all())

    @property
    def shown(self) -> Array:
        """Actual over nominal values, or where the design has none the actual ones; flat."""
        return (self.actual / self.nominal if self.relative else self.actual).ravel()


@dataclass(frozen=True, slots=True)
class Devices:
    """How the RRAM cells of one crossbar differ from what is programmed into them."""

    factor: Pair
    """Actual over programmed conductance of the cells on + and - rows, each ``[row, column]``."""
    stuck: tuple[NDArray[np.int8], NDArray[np.int8]]
    """-1: stays at the lowest conductance, 1: at the highest, 0: can be programmed."""

    def actual(self, pair: Pair, window: ConductanceRange) -> Pair:
        """Return the conductances in S that cells have after ``pair`` was programmed, clipped into the window."""
        plus, minus = (
            np.where(s == 0, np.clip(f * g, window.g_min, window.g_max), np.where(s < 0, window.g_min, window.g_max))
            for f, s, g in zip(self.factor, self.stuck, pair, strict=True)
        )
        return plus, minus

    def clipped(self, pair: Pair, window: ConductanceRange) -> int:
        """Return how many cells that are not stuck would leave the window if it did not end there."""
        return sum(
            int(((s == 0) & ((f * g < window.g_min) | (f * g > window.g_max))).sum())
            for f, s, g in zip(self.factor, self.stuck, pair, strict=True)
        )


@dataclass(frozen=True, slots=True)
class Chip:
    """A chip that can be programmed again and again; its neurons, its devices' factors and its stuck cells stay."""

    network: Network
    """Neurons, mirrors and wires as they are on the chip; conductances as designed."""
    devices: Mapping[str, Devices]
    """By projection."""
    drawn: tuple[Drawn, ...]
    """What was drawn for neurons, mirrors and wires."""

    def program(self, pairs: Mapping[str, Pair] | None = None) -> Network:
        """Return the network that the chip is after programming; of projections not in ``pairs`` the designed targets hold.

        ``pairs`` are target conductances in S by projection name, each ``(g_plus, g_minus)`` ``[row, column]``.

        Raises
        ------
        InputError: a projection is unknown, a shape does not fit, or a target is outside of the window.
        """
        design = self.network.with_conductances(pairs) if pairs else self.network
        return design.with_conductances(
            {p.name: self.devices[p.name].actual((p.g_plus, p.g_minus), design.window) for p in design.projections}
        )

    def table(self, pairs: Mapping[str, Pair] | None = None) -> tuple[Drawn, ...]:
        """Return what was drawn, with the conductances that ``pairs``, or the designed targets, become."""
        design = self.network.with_conductances(pairs) if pairs else self.network
        return (*self.drawn, *(row for p in design.projections for row in self._crossbar(p, design.window)))

    def _crossbar(self, projection: Projection, window: ConductanceRange) -> list[Drawn]:
        devices, target = self.devices[projection.name], (projection.g_plus, projection.g_minus)
        actual, nominal, stuck = np.stack(devices.actual(target, window)), np.stack(target), np.stack(devices.stuck)
        rows = []
        for name, here in (("conductance", stuck == 0), ("stuck_low", stuck < 0), ("stuck_high", stuck > 0)):
            if here.any():
                clipped = 0 if name != "conductance" else devices.clipped(target, window)
                full = f"{projection.name}.{name}"
                rows.append(Drawn(full, "S", nominal[here], actual[here], clipped, stuck=name != "conductance"))
        return rows


def spread_network(network: Network, spread: Spread, seed: int) -> Network:
    """Return the network of the chip number ``seed``, programmed with the conductances of ``network``.

    Raises
    ------
    InputError: see `draw_chip`.
    """
    return draw_chip(network, spread, seed).program()


def draw_chip(network: Network, spread: Spread, seed: int) -> Chip:
    """Return the chip number ``seed`` of a design; the reference of its row drivers, ``Population.rest``, stays the designed one.

    Raises
    ------
    InputError: the seed is negative, no neuron has a parameter of that name, it is 0 and cannot differ relatively, or wires
    shall differ that are ideal.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise InputError(f"chip of {network.name}: seed {seed!r} must be a whole number, 0 or more. Give another one.")
    _check_names(network, spread)
    drawn: list[Drawn] = []
    populations = tuple(_population(population, spread, seed, drawn) for population in network.populations)
    wires = _wires(network, spread, seed, drawn)
    devices = {p.name: _devices(p, spread, seed) for p in network.projections}
    return Chip(replace(network, populations=populations, wires=wires), devices, tuple(drawn))


def corner_network(network: Network, name: str) -> Network:
    """Return the network with all neurons at a corner of their cells' cards; the rest that rows refer to stays the designed one.

    Raises
    ------
    InputError: a cell has no corner of that name, or it takes a parameter out of its range.
    """
    populations = (replace(p, parameters=p.cell.card.at_corner(name, p.parameters)) for p in network.populations)
    return replace(network, populations=tuple(populations))


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the random stream of the quantity called ``name``, independent of all others."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=tuple(name.encode())))


def factors(rng: np.random.Generator, sigma: float, shape: int | tuple[int, ...]) -> Array:
    """Return lognormal factors of mean 1 and standard deviation ``sigma``."""
    width = math.sqrt(math.log1p(sigma**2))
    return np.exp(width * rng.standard_normal(shape) - 0.5 * width**2)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_names(network: Network, spread: Spread) -> None:
    known = dict.fromkeys(name for population in network.populations for name in population.parameters)
    for name in spread.parameters:
        if name not in known:
            raise InputError(
                f"chip of {network.name}: no neuron has a parameter '{name}' to spread. Known: {', '.join(known)}."
            )
    if spread.wire and network.wires is None:
        raise InputError(
            f"chip of {network.name}: its wires are ideal, so wire = {spread.wire!r} changes nothing. Give the network wires, or drop it."
        )


def _population(population: Population, spread: Spread, seed: int, drawn: list[Drawn]) -> Population:
    """Return the population as it is on the chip, and tell ``drawn``."""
    size, name = population.size, population.name

    def factor(quantity: str, sigma: float) -> Array:
        return factors(stream(seed, f"{name}/{quantity}"), sigma, size)

    values = dict(population.parameters)
    for quantity, sigma in spread.parameters.items():
        if sigma and quantity in values:
            values[quantity] = _parameter(population, quantity, factor(f"parameter/{quantity}", sigma), drawn)
    gain = np.ones(size) if population.gain is None else np.array(population.gain)
    offset = np.zeros(size) if population.offset is None else np.array(population.offset)
    changes: dict[str, Any] = {"parameters": values}
    if spread.gain:
        drawn.append(Drawn(f"{name}.gain", "A/A", gain, gain * factor("gain", spread.gain)))
        changes["gain"] = tuple(drawn[-1].actual.tolist())
    if spread.offset:
        added = spread.offset * stream(seed, f"{name}/offset").standard_normal(size)
        drawn.append(Drawn(f"{name}.offset", "A", offset, offset + added))
        changes["offset"] = tuple(drawn[-1].actual.tolist())
    return replace(population, **changes)


def _parameter(population: Population, quantity: str, factor: Array, drawn: list[Drawn]) -> Array:
    nominal = np.broadcast_to(np.asarray(population.parameters[quantity], dtype=np.float64), population.size)
    if not nominal.all():
        raise InputError(
            f"chip: parameter {quantity} of population '{population.name}' is 0, of which no relative spread exists. Leave it out."
        )
    card = population.cell.card.parameters[quantity]
    actual = within(card, nominal * factor)
    clipped = int((actual != nominal * factor).sum())
    drawn.append(Drawn(f"{population.name}.{quantity}", card.unit, nominal, actual, clipped))
    return actual


def within(card: Parameter, values: Array) -> Array:
    """Return ``values`` clipped into the range that a card allows."""
    lowest = [-np.inf if card.at_least is None else card.at_least]
    lowest += [] if card.above is None else [np.nextafter(card.above, np.inf)]
    highest = [np.inf if card.at_most is None else card.at_most]
    highest += [] if card.below is None else [np.nextafter(card.below, -np.inf)]
    return np.clip(values, max(lowest), min(highest))


def _wires(network: Network, spread: Spread, seed: int, drawn: list[Drawn]) -> Wires | None:
    if network.wires is None or not spread.wire:
        return network.wires
    for part in ("row", "column"):
        nominal = np.array([getattr(network.wires, part)])
        drawn.append(
            Drawn(f"wires.{part}", "Ohm", nominal, nominal * factors(stream(seed, f"wires/{part}"), spread.wire, 1))
        )
    row, column = (float(part.actual[0]) for part in drawn[-2:])
    return Wires(row, column)


def _devices(projection: Projection, spread: Spread, seed: int) -> Devices:
    shape = (projection.g_plus.shape[0], projection.g_plus.shape[1])

    def both(make: Callable[[str], Any]) -> tuple[Any, Any]:
        one, other = (make(f"{projection.name}/{line}") for line in ("plus", "minus"))
        for array in (one, other):
            array.flags.writeable = False
        return one, other

    return Devices(
        both(lambda name: _factor(name, spread, seed, shape)), both(lambda name: _stuck(name, spread, seed, shape))
    )


def _factor(name: str, spread: Spread, seed: int, shape: tuple[int, int]) -> Array:
    return (
        factors(stream(seed, f"{name}/resistance"), spread.resistance, shape) if spread.resistance else np.ones(shape)
    )


def _stuck(name: str, spread: Spread, seed: int, shape: tuple[int, int]) -> NDArray[np.int8]:
    """Return -1, 0 or 1 per cell; a larger share keeps the cells that are stuck already."""
    stuck = np.zeros(shape, dtype=np.int8)
    if spread.stuck_low or spread.stuck_high:
        level = stream(seed, f"{name}/stuck").random(shape)
        stuck[level < spread.stuck_low] = -1
        stuck[level >= 1.0 - spread.stuck_high] = 1
    return stuck
