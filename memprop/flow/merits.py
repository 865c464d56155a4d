"""Figures of merit of a device under drives: loop area, swing, on/off ratio, switching time, retention, linearity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from memprop.device.waveform import Drive, Hysteresis, Kinetics, Retention, Train
from memprop.flow.drives import Curves

Floats = NDArray[np.float64]
Done = Sequence[tuple[Drive, Curves, Curves | None]]


class Merit(NamedTuple):
    """A figure of merit; NaN where the drive does not show it."""

    name: str
    value: float
    unit: str


def merits(experiment: Hysteresis | Kinetics | Retention | Train, done: Done) -> list[tuple[str, Merit]]:
    """Return the figures of merit of an experiment, each with the label of its drive."""
    if isinstance(experiment, Hysteresis):
        return [(drive.label, m) for drive, ours, _ in done for m in _of_loop(drive, ours)]
    if isinstance(experiment, Kinetics):
        times = switching_times(done)
        return [(d.label, m) for (d, ours, _), t in zip(done, times, strict=True) for m in _of_pulse(d, ours, t)]
    made = _of_retention if isinstance(experiment, Retention) else _of_train
    return [(drive.label, m) for drive, ours, _ in done for m in made(drive, ours)]


def difference(drive: Drive, ours: Curves, twin: Curves) -> tuple[float, float]:
    """Return the largest and the rms difference of the currents, in % of the largest current of the drive."""
    a, b = ours.currents[drive.read_port], twin.currents[drive.read_port]
    full = float(np.abs(a).max()) or 1.0
    return 100 * float(np.abs(a - b).max()) / full, 100 * float(np.sqrt(np.mean((a - b) ** 2))) / full


def state(curves: Curves) -> Floats:
    """Return the first state in V, ``[T]``."""
    return next(iter(curves.states.values()))


def within(drive: Drive, curves: Curves) -> NDArray[np.bool_]:
    """Return which points belong to what the experiment is about."""
    slack = 1e-9 * drive.stop
    return (curves.time >= drive.span[0] - slack) & (curves.time <= drive.span[1] + slack)


def loop_area(voltage: Floats, current: Floats) -> float:
    """Return the area of both lobes of a loop in W, each counted as positive."""
    area = 0.0
    for sign in (1.0, -1.0):
        side = np.clip(sign * voltage, 0.0, None)
        area += abs(float(np.trapezoid(current, side)))
    return area


def read_conductances(drive: Drive, curves: Curves) -> Floats:
    """Return current over voltage in S at the reading times, ``[reads]``."""
    reads = np.array(drive.reads)
    current = np.interp(reads, curves.time, curves.currents[drive.read_port])
    return current / np.interp(reads, curves.time, curves.voltages[drive.read_port])


def switching_times(done: Done) -> list[float]:
    """Return when each pulse has moved the state half of the way to the farthest state any of them reaches, in s."""
    moves = []
    for drive, ours, _ in done:
        x = state(ours)[within(drive, ours)]
        moves.append((ours.time[within(drive, ours)] - drive.span[0], x - x[0]))
    far = max((move[np.abs(move).argmax()] for _, move in moves), key=abs, default=0.0)
    return [_first(time, move / far) if abs(far) > 1e-3 else np.nan for time, move in moves]


def _first(time: Floats, part: Floats) -> float:
    """Return when ``part`` first reaches one half, NaN if never."""
    above = np.flatnonzero(part >= 0.5)
    if not len(above):
        return float("nan")
    k = int(above[0])
    return float(time[k] if k == 0 else np.interp(0.5, part[k - 1 : k + 1], time[k - 1 : k + 1]))


def _ratio(a: float, b: float) -> float:
    low, high = sorted((abs(a), abs(b)))
    return high / low if low > 0 else float("nan")


def _of_loop(drive: Drive, ours: Curves) -> list[Merit]:
    part = within(drive, ours)
    voltage, current = ours.voltages[drive.port][part], ours.currents[drive.port][part]
    largest = float(np.abs(voltage).max() * np.abs(current).max()) or 1.0
    clear = np.abs(voltage) > 0.2 * np.abs(voltage).max()
    conductance = np.abs(current[clear] / voltage[clear])
    return [
        Merit("loop area", loop_area(voltage, current), "W"),
        Merit("loop area over largest V I", loop_area(voltage, current) / largest, ""),
        Merit("state swing", float(np.ptp(state(ours)[part])), "V"),
        Merit("on/off ratio", _ratio(float(conductance.max()), float(conductance.min())), ""),
    ]


def _of_pulse(drive: Drive, ours: Curves, time: float) -> list[Merit]:
    before, after = read_conductances(drive, ours)
    return [
        Merit("conductance before", float(before), "S"),
        Merit("conductance after", float(after), "S"),
        Merit("on/off ratio", _ratio(before, after), ""),
        Merit("switching time", time, "s"),
    ]


def _of_retention(drive: Drive, ours: Curves) -> list[Merit]:
    read = read_conductances(drive, ours)
    waits = np.array(drive.reads) - drive.span[1]
    start = float(read[0])
    lost = np.abs(read - start) >= 0.1 * abs(start)
    return [
        Merit("conductance at the first reading", float(read[0]), "S"),
        Merit("conductance at the last reading", float(read[-1]), "S"),
        Merit("time until 10 % is lost", float(waits[lost][0]) if lost.any() else float("nan"), "s"),
    ]


def _of_train(drive: Drive, ours: Curves) -> list[Merit]:
    read = read_conductances(drive, ours)
    up = read[: len(read) // 2 + 1]
    line = np.linspace(up[0], up[-1], len(up))
    span = abs(float(up[-1] - up[0]))
    return [
        Merit("conductance at the start", float(read[0]), "S"),
        Merit("conductance after the pulses up", float(up[-1]), "S"),
        Merit("conductance at the end", float(read[-1]), "S"),
        Merit("on/off ratio", _ratio(float(read.max()), float(read.min())), ""),
        Merit(
            "bend of potentiation, of its range", float(np.abs(up - line).max()) / span if span else float("nan"), ""
        ),
    ]
