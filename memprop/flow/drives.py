"""A device under a drive: in a simulator as a deck, and in the twin; both on the same time points."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from memprop.deck.deck import Deck, Transient
from memprop.deck.models import verilog_model
from memprop.deck.numbers import to_text
from memprop.device.library import DeviceForm, DeviceModel
from memprop.device.verilog_a.check import states
from memprop.device.waveform import Drive
from memprop.errors import InputError, MempropError, SimulationError
from memprop.files import ensure_folder, sha256
from memprop.spice.engine import Engine
from memprop.spice.pool import run_many
from memprop.spice.recording import Recording
from memprop.twin.device import DeviceTrace, DeviceTwin

Floats = NDArray[np.float64]
OPTIONS: Mapping[str, float | str] = {"method": "trap", "reltol": 1e-5}
"""Finer than for networks: one device is cheap, and its curves are compared in parts of a per cent."""
_STEPS = 2000
"""Largest time steps of the simulator per drive, beside its own control of the step."""

_STATE_STEP, _PARTS, _PASSES, _MOST = 0.01, 32, 12, 8000
"""The twin cuts a step in which a state moves more than this (V), into this many parts at most, this often, to this many steps."""


@dataclass(frozen=True, slots=True)
class Setup:
    """A device with all its parameter values, in the form with the fewest open ones."""

    device: DeviceModel
    preset: str
    """Name of the preset, or ``default``."""
    form: DeviceForm
    values: Mapping[str, float]
    """All parameter values in SI units."""

    @property
    def open_values(self) -> dict[str, float]:
        """Return the values that the form leaves open."""
        return {name: self.values[name] for name in self.form.defaults}

    @property
    def states(self) -> list[str]:
        """Return the internal nodes that hold states."""
        return states(self.device.equations)


@dataclass(frozen=True, slots=True)
class Curves:
    """Waveforms of one drive on its grid."""

    time: Floats
    """In s, ``[T]``."""
    voltages: Mapping[str, Floats]
    """In V by port, ``[T]``: at the device, behind a series resistance."""
    currents: Mapping[str, Floats]
    """In A from the outside into each port, ``[T]``."""
    states: Mapping[str, Floats]
    """In V by internal node, ``[T]``."""


def setup(
    device: DeviceModel, preset: str | None = None, changes: Mapping[str, float] | None = None, free: Sequence[str] = ()
) -> Setup:
    """Return a device with the values of a preset and ``changes``; parameters in ``free`` stay open.

    Raises
    ------
    InputError: an unknown preset or parameter, or a value out of range.
    """
    values = device.values(preset, **(changes or {}))
    known = {f"{device.name}_{name}".lower() for name in device.card.presets}
    forms = [form for key, form in device.forms.items() if key not in known]
    fits = [
        form for form in forms
        if not set(free) & set(form.fixed) and all(values[name] == value for name, value in form.fixed.items())
    ]  # fmt: skip
    return Setup(device, preset or "default", max(fits, key=lambda form: len(form.fixed)), values)


def device_deck(case: Setup, drive: Drive) -> Deck:
    """Return the deck of one drive: voltage sources, a series resistance where asked, one device."""
    device, file = case.device, f"models/{case.device.name}.lib"
    ports = device.equations.ports
    lines, ends = [f"* {drive.label}"], []
    for port in ports:
        wave = drive.waves.get(port)
        ends.append(port_node(port) if wave else "0")
        if wave is None:
            continue
        source = f"src_{port.lower()}" if drive.series and port == drive.port else port_node(port)
        corners = [f"{to_text(t)} {to_text(v)}" for t, v in zip(wave.time, wave.volt, strict=True)]
        lines += [f"vdrive_{port.lower()} {source} 0 pwl("]
        lines += ["+ " + " ".join(corners[k : k + 4]) for k in range(0, len(corners), 4)] + ["+ )"]
        if source != port_node(port):
            lines += [f"rseries {source} {port_node(port)} {to_text(drive.series)}"]
    given = [f"{name.lower()}={to_text(value)}" for name, value in case.open_values.items()]
    lines += [f"xdut {' '.join(ends)} {case.form.name}"] + [
        "+ " + " ".join(given[k : k + 6]) for k in range(0, len(given), 6)
    ]
    nodes = (*(port_node(port) for port in drive.waves), *(f"xdut.{state.lower()}" for state in case.states))
    branches = tuple(f"vdrive_{port.lower()}" for port in drive.waves)
    title = f"{device.name} {case.preset}: {drive.label}"
    files = {file: device.library(), "sweep.inc": "\n".join(lines) + "\n"}
    step = Transient(drive.stop, drive.stop / _STEPS)
    return Deck(title, files, step, nodes, branches, OPTIONS, (verilog_model(device, file),))


def port_node(port: str) -> str:
    """Return the node of the deck at a port of the device."""
    return f"dut_{port.lower()}"


def curves_of(recording: Recording, case: Setup, drive: Drive) -> Curves:
    """Return the waveforms of a recording at the drive's time points."""
    grid, time = np.array(drive.grid), recording["time"].values

    def on(name: str) -> Floats:
        return np.interp(grid, time, recording[name].values)

    voltages = {port: on(port_node(port)) for port in drive.waves}
    currents = {port: -on(f"i(vdrive_{port.lower()})") for port in drive.waves}
    inner = {state: on(f"xdut.{state.lower()}") for state in case.states}
    return Curves(grid, voltages, currents, inner)


def simulate_drives(
    case: Setup, drives: Sequence[Drive], engine: Engine, *, workers: int | None = None, timeout_s: float = 600.0,
    cache: Path | None = None, on_done: Callable[[], None] = lambda: None,
) -> list[Curves | SimulationError]:  # fmt: skip
    """Simulate all drives in an engine, in parallel; finished ones are found again in ``cache`` by deck and engine.

    Raises
    ------
    OutputError: the cache cannot be written.
    """
    found: dict[int, Curves | SimulationError] = {}
    decks = [device_deck(case, drive) for drive in drives]
    paths = [_path(cache, deck, engine) for deck in decks]
    for k, path in enumerate(paths):
        kept = _kept(path, case, drives[k])
        if kept is not None:
            found[k] = kept
            on_done()
    waiting = [k for k in range(len(drives)) if k not in found]
    for number, result in run_many(engine, (decks[k] for k in waiting), workers=workers, timeout_s=timeout_s):
        k = waiting[number]
        found[k] = result if isinstance(result, SimulationError) else curves_of(result, case, drives[k])
        _keep(paths[k], found[k])
        on_done()
    return [found[k] for k in range(len(drives))]


def _path(cache: Path | None, deck: Deck, engine: Engine) -> Path | None:
    return ensure_folder(cache) / f"{sha256(deck.digest + engine.name)[:24]}.npy" if cache else None


def _keep(path: Path | None, found: Curves | SimulationError) -> None:
    if path is None or isinstance(found, SimulationError):
        return
    rows = [found.time, *found.voltages.values(), *found.currents.values(), *found.states.values()]
    temporary = path.with_suffix(".tmp.npy")
    np.save(temporary, np.stack(rows))
    temporary.replace(path)


def _kept(path: Path | None, case: Setup, drive: Drive) -> Curves | None:
    """Return what the cache holds, or None where it holds nothing of this shape."""
    if path is None or not path.is_file():
        return None
    ports, inner = list(drive.waves), case.states
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError):
        return None
    if rows.shape != (1 + 2 * len(ports) + len(inner), len(drive.grid)) or not np.array_equal(rows[0], drive.grid):
        return None
    parts = iter(rows[1:])
    voltages, currents = {p: next(parts) for p in ports}, {p: next(parts) for p in ports}
    return Curves(rows[0], voltages, currents, {s: next(parts) for s in inner})


def twin_drives(
    case: Setup, drives: Sequence[Drive], on_done: Callable[[], None] = lambda: None
) -> list[Curves | MempropError]:
    """Integrate all drives with the twin; those on the same time points go together."""
    groups: dict[tuple[tuple[float, ...], bool, tuple[str, ...]], list[int]] = {}
    for k, drive in enumerate(drives):
        groups.setdefault((drive.grid, drive.series > 0, tuple(drive.waves)), []).append(k)
    found: dict[int, Curves | MempropError] = {}
    for members in groups.values():
        for k, curves in zip(members, _together(case, [drives[k] for k in members]), strict=True):
            found[k] = curves
            on_done()
    return [found[k] for k in range(len(drives))]


def _together(case: Setup, drives: Sequence[Drive]) -> Iterator[Curves | MempropError]:
    first = drives[0]
    try:
        trace, where = _settled(case, drives)
    except MempropError as error:
        yield from [error] * len(drives)
        return
    grid = np.array(first.grid)
    for n, drive in enumerate(drives):
        nodes = {name: value[where, n].numpy() for name, value in trace.nodes.items()}
        voltages = {port: nodes.get(port, drive.waves[port].at(grid)) for port in first.waves}
        currents = {port: trace.currents[port][where, n].numpy() for port in first.waves}
        if not all(np.isfinite(values).all() for values in (*nodes.values(), *currents.values())):
            yield InputError(
                f"the twin of {case.device.name} left the numbers under {drive.label}. Lower the drive, or use an engine."
            )
            continue
        yield Curves(grid, voltages, currents, {state: nodes[state.lower()] for state in case.states})


def _finer(states: Floats) -> NDArray[np.int64]:
    """Return into how many parts to cut each step, ``[T - 1]``; ``states`` are ``[states, T, drives]``.

    Where a state leaves the numbers nothing later is known, so only the step that lost it is cut.
    """
    steps = np.abs(np.diff(states, axis=1)).max((0, 2))
    lost = np.flatnonzero(~np.isfinite(steps))
    parts = np.clip(np.ceil(np.nan_to_num(steps, nan=0.0, posinf=0.0) / _STATE_STEP), 1, _PARTS).astype(np.int64)
    parts[lost[:1]] = _PARTS
    return parts


def _settled(case: Setup, drives: Sequence[Drive]) -> tuple[DeviceTrace, NDArray[np.int64]]:
    """Integrate, with finer steps where a state runs, until finer ones change nothing; also return the grid's places."""
    first = drives[0]
    twin = DeviceTwin(case.device, case.form.name, series=first.series > 0)
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in case.open_values.items()}
    if first.series:
        values["series"] = torch.tensor([drive.series for drive in drives], dtype=torch.float64)
    time, where = np.array(first.grid), np.arange(len(first.grid))
    before: Floats | None = None
    left = _PASSES
    while True:
        left -= 1
        waves = {port: np.stack([drive.waves[port].at(time) for drive in drives], 1) for port in first.waves}
        with torch.no_grad():
            trace = twin.run(torch.from_numpy(time), {port: torch.from_numpy(v) for port, v in waves.items()}, values)
        found = trace.currents[first.read_port][where].numpy()
        same = before is not None and bool(np.abs(found - before).max() <= 1e-4 * np.abs(found).max())
        parts = _finer(np.stack([trace.nodes[state.lower()].numpy() for state in case.states]))
        if not left or same or parts.max() == 1 or parts.sum() > _MOST:
            return trace, where
        before, where = found, np.concatenate([[0], np.cumsum(parts)])[where]
        pieces = [np.linspace(a, b, n, endpoint=False) for (a, b), n in zip(pairwise(time), parts, strict=True)]
        time = np.concatenate([*pieces, time[-1:]])
