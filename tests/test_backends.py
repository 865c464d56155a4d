"""One Verilog-A, three answers that agree: torch twin, generated subcircuit in ngspice, compiled model in VACASK.

Every preset of every device is driven from its operating point by sums of sines and by steps of finite slope, with random
amplitudes. Port currents and internal nodes agree within 0.1 % of their largest value. ``pytest -s`` prints the worst figures.

All engines run with tighter tolerances than by default (`OPTIONS`), and with the time step of the twin as their largest.
The Stanford device runs away when it is set: gap, current and temperature feed each other. Without anything in series the
jump ends in picoseconds at currents beyond the model's meaning, and every simulator gives up. So it is set as in
circuits, through a resistor, by a pulse so high that the jump takes nanoseconds, with steps that resolve it.
"""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from memprop.deck.deck import Deck, Transient
from memprop.deck.models import verilog_model
from memprop.device.library import DeviceModel, load_device
from memprop.spice.find import NGSPICE_VARIABLE, Program, find_ngspice
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.vacask import VacaskEngine
from memprop.twin.device import DeviceTwin

LIMIT = 1e-3
OPTIONS = {"method": "trap", "reltol": 1e-6, "abstol": 1e-15, "vntol": 1e-9}
DRIVES = 3
"""Random drives of one preset: two of sines, one with steps."""
SEED = 20
MODELS = sorted(path.stem for path in (Path(__file__).parents[1] / "models").glob("*.va"))
Array = NDArray[np.float64]
WORST: dict[str, dict[str, float]] = {}
"""Largest difference by preset and engine, as a share of full scale."""


@dataclass(frozen=True)
class Drive:
    """What suits a preset: enough to move its state to and fro."""

    amplitude: float
    """In V."""
    time: float
    """In s."""
    points: int = 1000
    series: float = 0.0
    """Resistance in series, in Ohm."""
    port: str = "p"


DRIVE: Mapping[str, Drive] = {
    "mss_memristor_mif": Drive(0.3, 4e-4),
    "mss_memristor_knowm_stock": Drive(0.5, 4e-4),
    "mss_memristor_knowm_sdc": Drive(0.4, 3e-4),
    "mss_memristor_xyce_demo": Drive(0.5, 4e-4),
    "mss_memristor_xyce_default": Drive(1.5, 4e-8),
    "mss_memristor_ag_chalcogenide": Drive(0.4, 1e-2),
    "mss_memristor_gst": Drive(1.2, 2e-3),
    "mss_memristor_pd_wo3_w": Drive(1.2, 3e-3),
    "mss_memristor_threshold_switch": Drive(1.3, 4e-7, 2000),
    "vteam_technion": Drive(0.25, 4e-6, 4000),
    "yakopcic_tcad_2013": Drive(0.5, 5e-3),
    "yakopcic_knowm_copy": Drive(0.9, 4e-3),
    "hp_drift_biolek_2009": Drive(1.2, 1.0),
    "hp_drift_xyce_deck": Drive(1.2, 1.0),
    "hp_drift_yakopcic_joglekar": Drive(0.4, 0.3),
    "hp_drift_yakopcic_biolek": Drive(0.3, 1.0),
    "stanford_rram_v1": Drive(2.0, 1e-6, 1500, 500.0),
    "stanford_rram_v1_low": Drive(1.35, 2e-6, 8000),
    "gated_synapse_soft_bounds": Drive(0.9, 4e-6, 1000, port="g"),
    "gated_synapse_ecram_wox": Drive(3.5, 40.0, 1000, port="g"),
}
DEFAULT = Drive(1.0, 1e-3)
READ = 0.1
"""Voltage in V between the ports that the drive is not on, with a phase of its own."""


@dataclass(frozen=True)
class Waveform:
    """Two sines, or a staircase whose slopes have a finite length; starts at 0 V."""

    sines: tuple[tuple[float, float], ...]
    """Amplitude in V and frequency in Hz."""
    corners: tuple[tuple[float, float], ...]
    """Time in s and voltage in V."""

    def values(self, time: Array) -> Array:
        """Return the voltage in V at ``time`` in s."""
        total = np.interp(time, *zip(*self.corners, strict=True))
        return total + sum(a * np.sin(2 * math.pi * f * time) for a, f in self.sines)

    def lines(self, name: str, node: str) -> list[str]:
        """Return sources from ``node`` to ground; the first, of 0 V, measures the current."""
        points = " ".join(f"{t!r} {v!r}" for t, v in self.corners)
        lines = [f"v{name} {node} {name}_0 0", f"vs{name} {name}_0 {name}_1 pwl({points})"]
        for k, (a, f) in enumerate(self.sines):
            after = f"{name}_{k + 2}" if k + 1 < len(self.sines) else "0"
            lines.append(f"vs{name}_{k} {name}_{k + 1} {after} sin(0 {a!r} {f!r})")
        return lines


def waveforms(drive: Drive, seed: int) -> Iterator[Waveform]:
    """Yield random waveforms within the amplitude of ``drive``."""
    draw = np.random.default_rng(seed)
    for k in range(DRIVES):
        amplitude, base = float(draw.uniform(0.75, 1.0)) * drive.amplitude, 1.0 / drive.time
        if k == 1:
            stairs = np.clip(draw.uniform(-1, 1, 4) + np.array([0.6, -0.6, 0.6, -0.6]), -1, 1)
            edges = [(0.0, 0.0)]
            for j, level in enumerate(stairs):
                edges += [
                    ((0.25 * j + 0.06) * drive.time, amplitude * float(level)),
                    (0.25 * (j + 1) * drive.time, amplitude * float(level)),
                ]
            yield Waveform(((0.02 * amplitude, 7.0 * base),), tuple(edges))
        else:
            share = float(draw.uniform(0.6, 0.9))
            slow, fast = float(draw.uniform(1.0, 2.0)) * base, float(draw.uniform(3.0, 5.0)) * base
            yield Waveform(
                ((share * amplitude, slow), ((1 - share) * amplitude, fast)), ((0.0, 0.0), (drive.time, 0.0))
            )


def engines() -> list[tuple[str, NgspiceEngine | VacaskEngine]]:
    found: list[tuple[str, NgspiceEngine | VacaskEngine]] = [("ngspice", NgspiceEngine()), ("vacask", VacaskEngine())]
    newer = os.environ.get("MEMPROP_NGSPICE_OSDI")
    if newer:
        old = os.environ.get(NGSPICE_VARIABLE)
        os.environ[NGSPICE_VARIABLE] = newer
        program: Program = find_ngspice()
        os.environ.pop(NGSPICE_VARIABLE) if old is None else os.environ.update({NGSPICE_VARIABLE: old})
        found.append(("ngspice-osdi", NgspiceEngine(program, osdi=True)))
    return found


def make_deck(
    device: DeviceModel, form: str, drive: Drive, waves: Sequence[Waveform], values: Sequence[Mapping[str, float]]
) -> Deck:
    """Return a deck with one device per waveform; ``values`` are parameters of each instance."""
    ports, nodes = device.equations.ports, device.equations.nodes
    lines, kept = [], []
    for k, (wave, given) in enumerate(zip(waves, values, strict=True)):
        at = {port: f"{port}{k}" if port == drive.port else "0" for port in ports}
        if drive.port != "p":
            at["p"] = f"read{k}"
            lines += Waveform(((READ, 1.7 / drive.time),), ((0.0, 0.0), (drive.time, 0.0))).lines(f"r{k}", at["p"])
        source = f"in{k}" if drive.series else at[drive.port]
        lines += wave.lines(f"d{k}", source)
        lines += [f"rser{k} {source} {at[drive.port]} {drive.series!r}"] if drive.series else []
        parameters = "".join(f" {name.lower()}={value!r}" for name, value in given.items())
        lines.append(f"x{k} {' '.join(at[port] for port in ports)} {form}{parameters}")
        kept += [f"x{k}.{node}" for node in nodes]
    file = f"models/{device.name}.lib"
    branches = [f"vd{k}" for k in range(len(waves))] + [f"vr{k}" for k in range(len(waves)) if drive.port != "p"]
    files = {file: device.library(), "circuit.inc": "\n".join(lines) + "\n"}
    step = drive.time / drive.points
    return Deck(
        form, files, Transient(drive.time, step), tuple(kept), tuple(branches), OPTIONS, (verilog_model(device, file),)
    )


def twin_signals(
    device: DeviceModel, form: str, drive: Drive, waves: Sequence[Waveform], values: Sequence[Mapping[str, float]]
) -> dict[str, Array]:
    """Return the twin's waveforms by their names in the deck, and the time."""
    twin = DeviceTwin(device, form, series=drive.series > 0)
    time = torch.linspace(0.0, drive.time, drive.points + 1, dtype=torch.float64)
    volts = torch.stack([torch.from_numpy(wave.values(time.numpy())) for wave in waves], -1)
    voltages = {drive.port: volts}
    if drive.port != "p":
        voltages["p"] = (READ * torch.sin(2 * math.pi * 1.7 / drive.time * time))[:, None].expand(-1, len(waves))
    given: dict[str, torch.Tensor | float] = {
        name: torch.tensor([v[name] for v in values], dtype=torch.float64) for name in values[0]
    }
    if drive.series:
        given["series"] = drive.series
    trace = twin.run(time, voltages, given)
    found = {"time": time.numpy()}
    for k in range(len(waves)):
        found |= {f"x{k}.{node}": trace.nodes[node][:, k].numpy() for node in device.equations.nodes}
        found[f"i(vd{k})"] = -trace.currents[drive.port][:, k].numpy()
        if drive.port != "p":
            found[f"i(vr{k})"] = -trace.currents["p"][:, k].numpy()
    return found


def _kind(signal: str) -> str:
    """Return what a signal is, whatever the instance: a node, or the current of a port."""
    return signal.rsplit(".", maxsplit=1)[-1] if "." in signal else signal[:4]


def differences(form: str, deck: Deck, twin: Mapping[str, Array]) -> dict[str, float]:
    """Return the largest difference of each engine from the twin, as a share of the largest value of its kind of signal."""
    found = {}
    assert all(np.isfinite(values).all() for values in twin.values())
    for name, engine in engines():
        recording = engine.run(deck, 100.0)
        own = recording["time"].values
        first = np.append(True, np.diff(own) > 1e-9 * own[-1] / len(own))
        worst = 0.0
        for signal in recording.data_vars:
            kind = [name for name in twin if _kind(name) == _kind(str(signal))]
            scale = max(float(np.abs(twin[k]).max()) for k in kind)
            theirs = PchipInterpolator(own[first], recording[signal].values[first])(twin["time"])
            worst = max(worst, float(np.abs(theirs - twin[str(signal)]).max()) / scale)
        found[name] = worst
    return found


def presets() -> list[tuple[str, str]]:
    """Return device and form of every preset, from the cards alone: reading the devices is for the tests."""
    found = []
    for name in MODELS:
        text = (Path(__file__).parents[1] / "models" / f"{name}.toml").read_text(encoding="utf-8")
        found += [(name, f"{name}_{preset}") for preset in tomllib.loads(text)["presets"]]
    return found


@pytest.mark.parametrize(("name", "form"), presets(), ids=[form for _, form in presets()])
def test_engines_and_twin_agree(name: str, form: str) -> None:
    device, drive = load_device(name), DRIVE.get(form, DEFAULT)
    waves = list(waveforms(drive, SEED))
    nothing: list[dict[str, float]] = [{}] * len(waves)
    twin = twin_signals(device, form, drive, waves, nothing)
    WORST[form] = differences(form, make_deck(device, form, drive, waves, nothing), twin)
    moved = max(float(np.ptp(values)) for signal, values in twin.items() if signal.startswith("x"))
    print(  # noqa: T201 - what was reached
        f"\n{form:34s} moved {moved:.3f}  " + "  ".join(f"{k} {100 * v:.4f} %" for k, v in WORST[form].items())
    )
    assert moved > 0.1, "the drive is too small to say anything"
    assert max(WORST[form].values()) < LIMIT


@pytest.mark.parametrize(
    ("name", "form", "base"),
    [
        ("mss_memristor", "mss_memristor_ohmic", "mif"),
        ("mss_memristor", "mss_memristor", "xyce_demo"),
        ("vteam", "vteam_exponential", "technion"),
        ("yakopcic", "yakopcic_forward", "tcad_2013"),
        ("hp_drift", "hp_drift_biolek", "yakopcic_biolek"),
        ("gated_synapse", "gated_synapse", "soft_bounds"),
    ],
)
def test_engines_and_twin_agree_for_random_parameters(name: str, form: str, base: str) -> None:
    """Every open parameter that is no choice, and not 0 or 1, within a tenth of its value."""
    device, drive = load_device(name), DRIVE[f"{name}_{base}"]
    draw = np.random.default_rng(SEED + 1)
    open_ = [key for key in device.forms[form].defaults if key not in device.equations.integers]
    start = device.values(base)
    values = []
    for _ in range(DRIVES):
        factor = {key: 1.0 if start[key] in {0.0, 1.0} else float(np.exp(draw.uniform(-0.1, 0.1))) for key in open_}
        values.append({key: start[key] * factor[key] for key in open_})
    waves = list(waveforms(drive, SEED + 2))
    twin = twin_signals(device, form, drive, waves, values)
    found = differences(form, make_deck(device, form, drive, waves, values), twin)
    print(  # noqa: T201 - what was reached
        f"\n{form:34s} random parameters  " + "  ".join(f"{k} {100 * v:.4f} %" for k, v in found.items())
    )
    assert max(found.values()) < LIMIT
