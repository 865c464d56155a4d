"""Experiments of a sweep as figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from memprop.device.waveform import Hysteresis, Kinetics, Retention, Train, short
from memprop.flow.drives import Setup
from memprop.flow.merits import Done, loop_area, read_conductances, state, switching_times, within
from memprop.report import device_figures as figures


def draw(
    folder: Path,
    device: str,
    experiment: Hysteresis | Kinetics | Retention | Train,
    case: Setup,
    done: Done,
    engine: str,
) -> Path:
    """Draw an experiment with one preset into ``folder`` and return the file."""
    path = folder / f"{experiment.name}_{case.preset}.png"
    title = f"{device}, {case.preset}: {experiment.name}"
    if isinstance(experiment, Hysteresis):
        return _loops(path, f"{title} at {experiment.amplitude:g} V{_series(experiment.series)}", done, engine)
    if isinstance(experiment, Kinetics):
        return _kinetics(path, f"{title}{_series(experiment.series)}", experiment, done, engine)
    drive, ours, twin = done[0]
    read, theirs = read_conductances(drive, ours), None if twin is None else read_conductances(drive, twin)
    if isinstance(experiment, Retention):
        waits = np.array(drive.reads) - drive.span[1]
        title = f"{title} {drive.label}"
        return figures.readings(
            path, title, waits, {"reading": (read, theirs)}, "time after the pulse", engine, log=True
        )
    numbers = np.arange(len(read), dtype=np.float64)
    title = f"{title}, {drive.label}"
    return figures.readings(path, title, numbers, {"reading": (read, theirs)}, "pulses so far", engine, log=False)


def _series(ohm: float) -> str:
    return f", {short(ohm, 'Ohm')} in series" if ohm else ""


def _loops(path: Path, title: str, done: Done, engine: str) -> Path:
    traces, areas, swings = [], [], []
    for drive, ours, twin in done:
        part = within(drive, ours)
        voltage, current = ours.voltages[drive.port][part], ours.currents[drive.port][part]
        areas.append(loop_area(voltage, current) / (float(np.abs(voltage).max() * np.abs(current).max()) or 1.0))
        swings.append(float(np.ptp(state(ours)[part])))
        theirs = (None,) * 3
        if twin is not None:
            theirs = twin.voltages[drive.port][part], twin.currents[drive.port][part], state(twin)[part]
        traces.append(figures.Trace(drive.label, ours.time[part], voltage, current, state(ours)[part], *theirs))
    frequency = np.array([drive.values["frequency (Hz)"] for drive, _, _ in done])
    return figures.loops(path, title, traces, frequency, np.array(areas), np.array(swings), engine)


def _kinetics(path: Path, title: str, experiment: Kinetics, done: Done, engine: str) -> Path:
    volts, widths = list(experiment.amplitudes), list(experiment.widths)
    after = np.full((len(volts), len(widths)), np.nan)
    twin_after, found_twin = after.copy(), False
    times = np.full(len(volts), np.nan)
    for (drive, ours, twin), time in zip(done, switching_times(done), strict=True):
        k, j = volts.index(drive.values["amplitude (V)"]), widths.index(drive.values["width (s)"])
        after[k, j] = read_conductances(drive, ours)[1]
        if twin is not None:
            twin_after[k, j], found_twin = read_conductances(drive, twin)[1], True
        if np.isfinite(time):  # the same for every width that is long enough
            times[k] = np.nanmin([times[k], time])
    panels = {
        "widths": np.array(widths), "amplitudes": np.array(volts), "after": after, "times": times,
        "twin_after": twin_after if found_twin else None,
    }  # fmt: skip
    return figures.kinetics(path, title, panels, engine)
