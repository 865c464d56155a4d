"""Proof that anyone can print: the MIF cell, as twin and in SPICE, against check values computed before this project."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from memprop.circuit.cell import load_cell
from memprop.conductance.pair import Array
from memprop.deck.deck import Deck, Transient
from memprop.files import shipped
from memprop.spice.engine import Engine
from memprop.twin.cell import MIF
from memprop.twin.state import CellState

TABLE_A: tuple[tuple[float, float, float, float, float, float], ...] = (
    (2e-6, 20e-6, 65.14e-3, 13.32e-3, 0.0256, 0.0017),
    (5e-6, 20e-6, 101.45e-3, 9.13e-3, 0.0611, 0.0035),
    (10e-6, 20e-6, 132.62e-3, 7.07e-3, 0.1127, 0.0100),
    (20e-6, 20e-6, 178.30e-3, 7.37e-3, 0.1855, 0.0487),
    (50e-6, 20e-6, 302.38e-3, 7.60e-3, 0.3005, 0.1812),
)
"""Peak current in A, rise in s, then peak membrane in V, minimum in V, largest on fractions: an RK4 at 10 ns, before this project."""
TABLE_B: tuple[tuple[float, float], ...] = (
    (1e-6, 84.83e-3), (2e-6, 126.26e-3), (3e-6, 139.66e-3), (5e-6, 127.76e-3), (10e-6, 97.88e-3), (20e-6, 83.77e-3),
    (21e-6, 30.64e-3), (25e-6, 14.02e-3), (40e-6, 13.39e-3), (100e-6, 11.69e-3), (200e-6, 10.58e-3),
)  # fmt: skip
"""Time in s and membrane in V after 10 uA for 20 us from the default initial state."""
INITIAL_ON = 0.0238
SETTLE = 300e-6
FINE = 0.05e-6
"""Step of these proofs in s, for twin and simulator."""


@dataclass(frozen=True, slots=True)
class Proof:
    """One statement, what was found, and whether it holds."""

    what: str
    found: str
    goal: str
    holds: bool


def cell_proofs(engine: Engine) -> Iterator[Proof]:
    """Yield check tables A and B of the MIF cell, for the twin and for the engine."""
    for row in TABLE_A:
        expected = np.array(row[2:])
        for who, found in (("twin", _twin_alpha(*row[:2])), (engine.name, _spice_alpha(engine, *row[:2]))):
            # The table gives on fractions to four digits, so half its last digit is allowed besides the 1 %.
            error = np.maximum(np.abs(found - expected) - np.array([0.0, 5e-6, 5e-5, 5e-5]), 0.0) / expected
            yield _within(f"check table A, {row[0] * 1e6:g} uA: {who}", float(error.max()))
    moments, expected = (np.array(column) for column in zip(*TABLE_B, strict=True))
    for who, found in (("twin", _twin_step(moments)), (engine.name, _spice_step(engine, moments))):
        yield _within(f"check table B: {who}", float((np.abs(found - expected) / expected).max()))


def _within(what: str, error: float, limit: float = 0.01) -> Proof:
    return Proof(what, f"{100 * error:.3f} % off", f"within {100 * limit:g} %", error <= limit)


def _initial() -> CellState:
    return CellState(
        torch.zeros(1, 1, dtype=torch.float64), (torch.full((1, 2, 1, 1), INITIAL_ON, dtype=torch.float64),)
    )


def _twin_alpha(peak: float, rise: float) -> Array:
    cell = MIF(1, FINE, dtype=torch.float64)
    _, state = cell.run(torch.zeros(round(SETTLE / FINE) + 1, 1, 1, dtype=torch.float64), _initial())
    s = torch.arange(round(600e-6 / FINE) + 1, dtype=torch.float64) * FINE / rise
    drive = (peak * s * torch.exp(1 - s)).reshape(-1, 1, 1)
    membrane, on = [state.membrane], [state.states[0]]
    for start in range(0, len(drive) - 1, 20):  # in pieces, to see the on fractions in between
        trace, state = cell.run(drive[start : start + 21], state)
        membrane.append(trace[1:, 0])
        on.append(state.states[0])
    fractions = torch.stack(on).amax(0).flatten()
    every = torch.cat(membrane)
    return np.array([float(every.max()), float(every.min()), *fractions.tolist()])


def _twin_step(moments: Array) -> Array:
    cell = MIF(1, FINE, dtype=torch.float64)
    up, state = cell.run(torch.full((round(20e-6 / FINE) + 1, 1, 1), 10e-6, dtype=torch.float64), _initial())
    down, _ = cell.run(torch.zeros(round(180e-6 / FINE) + 1, 1, 1, dtype=torch.float64), state)
    trace = torch.cat([up, down[1:]]).flatten().numpy()
    return trace[np.round(moments / FINE).astype(int)]


def _cell_deck(source: str, stop: float) -> Deck:
    """Return a deck of one MIF cell that starts from the default initial state."""
    text = "\n".join([
        "v_e1 e1 0 0", "v_e2 e2 0 0.05", "x_cell mem e1 e2 0 mif", source,
        f".ic v(mem)=0 v(x_cell.x1.x)={INITIAL_ON} v(x_cell.x2.x)={INITIAL_ON}", "",
    ])  # fmt: skip
    files = {"models/mss_memristor.lib": (shipped("models") / "mss_memristor.lib").read_text(encoding="utf-8")}
    files |= {"cells.inc": load_cell("mif").text, "test.inc": text}
    nodes = ("mem", "x_cell.x1.x", "x_cell.x2.x")
    return Deck(f"mif check, {source}", files, Transient(stop, FINE), nodes, options={"reltol": 1e-5})


def _spice_alpha(engine: Engine, peak: float, rise: float) -> Array:
    s = f"((time-{SETTLE!r})/{rise!r})"
    recording = engine.run(_cell_deck(f"b_in 0 mem i=(time>{SETTLE!r} ? {peak!r}*{s}*exp(1-{s}) : 0)", SETTLE + 600e-6))
    late = recording.isel(time=recording["time"].values >= SETTLE)
    membrane = late["mem"].values
    return np.array(
        [membrane.max(), membrane.min(), late["x_cell.x1.x"].values.max(), late["x_cell.x2.x"].values.max()]
    )


def _spice_step(engine: Engine, moments: Array) -> Array:
    recording = engine.run(_cell_deck("i_in 0 mem pwl(0 10e-6 20e-6 10e-6 20.001e-6 0 1 0)", 200e-6))
    return np.interp(moments, recording["time"].values, recording["mem"].values)
