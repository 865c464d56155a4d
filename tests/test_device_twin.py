"""Gradients of device twins: against torch's own differences in double precision, and against differences taken in ngspice."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from test_backends import DRIVE, READ, Drive, Waveform, make_deck
from torch import Tensor

from memprop.deck.deck import Deck
from memprop.device.library import DeviceModel, load_device
from memprop.errors import InputError
from memprop.spice.ngspice import NgspiceEngine
from memprop.twin.device import DeviceTwin

Array = NDArray[np.float64]
CASES: dict[str, tuple[str, str, dict[str, float]]] = {
    "mss_ohmic": ("mss_memristor", "mss_memristor_mif", {}),
    "mss_all": (
        "mss_memristor", "mss_memristor_xyce_demo", {"leak": 0.05, "x0": 0.2, "feedback": 0.02, "speed_off": 0.8, "sra": 6e-4},
    ),
    "mss_bipolar": ("mss_memristor", "mss_memristor_threshold_switch", {"vt": 0.05}),
    "vteam_linear": ("vteam", "vteam_linear", {"x0": 0.6, "aoff": 1.2}),
    "vteam_exponential": ("vteam", "vteam_exponential", {"x0": 0.6, "aoff": 1.2}),
    "yakopcic": ("yakopcic", "yakopcic_tcad_2013", {"x0": 0.4}),
    "hp_joglekar": ("hp_drift", "hp_drift_yakopcic_joglekar", {}),
    "hp_biolek": ("hp_drift", "hp_drift_yakopcic_biolek", {"x0": 0.4}),
    "stanford": ("stanford_rram", "stanford_rram_v1_low", {"x0": 0.05, "fwidth": 0.05}),
    "gated": ("gated_synapse", "gated_synapse_soft_bounds", {"x0": 0.3}),
}  # fmt: skip
"""Device, form, and what differs from its defaults, so that every parameter has an effect.

Onsets that are narrower than the voltage moves in a step are widened: there a difference sees the step, not the slope."""
UNIT = {"sfa": 1e-4, "sra": 1e-4, "leak": 0.1, "x0": 0.5, "feedback": 0.05}
"""Scale of parameters that can be zero."""
WAVE_SHARE = ((0.8, 1.0), (0.15, 3.0))


def case(name: str) -> tuple[DeviceModel, str, dict[str, float], Drive]:
    device, form, changes = CASES[name]
    model = load_device(device)
    base = {**model.forms[form].defaults, **changes}
    drive = DRIVE.get(form) or DRIVE[{"vteam_linear": "vteam_technion", "vteam_exponential": "vteam_technion"}[form]]
    factor = {"vteam_linear": 0.95, "vteam_exponential": 1.25, "mss_bipolar": 1.3, "stanford": 1.3}.get(name, 0.9)
    points = {
        "vteam_linear": 2000,
        "vteam_exponential": 2000,
        "yakopcic": 1200,
        "stanford": 1000,
        "mss_bipolar": 1200,
    }.get(name, 600)
    time = drive.time * {"stanford": 0.25}.get(name, 1.0)
    return model, form, base, Drive(factor * drive.amplitude, time, points, drive.series, drive.port)


def continuous(model: DeviceModel, base: dict[str, float]) -> list[str]:
    return [name for name in base if name not in model.equations.integers]


def scale(name: str, value: float) -> float:
    return abs(value) or UNIT.get(name, 1.0)


def wave(drive: Drive) -> Waveform:
    sines = tuple((share * drive.amplitude, times / drive.time) for share, times in WAVE_SHARE)
    return Waveform(sines, ((0.0, 0.0), (drive.time, 0.0)))


def run(
    model: DeviceModel, form: str, drive: Drive, values: dict[str, Any], points: int, stop: float
) -> tuple[Tensor, Any]:
    """Return time and trace of the twin, driven until ``stop`` in s."""
    twin = DeviceTwin(model, form, series=drive.series > 0)
    time = torch.linspace(0.0, stop, points + 1, dtype=torch.float64)
    voltages = {drive.port: torch.from_numpy(wave(drive).values(time.numpy()))}
    if drive.port != "p":
        voltages["p"] = READ * torch.sin(2 * math.pi * 1.7 / drive.time * time)
    given = {**values, **({"series": drive.series} if drive.series else {})}
    return time, twin.run(time, voltages, given)


@pytest.mark.parametrize("name", CASES)
def test_gradient_of_every_continuous_parameter_and_of_the_start(name: str) -> None:
    """Over eight steps into the switching; parameters in units of their value, since gradcheck takes one step for all."""
    model, form, base, drive = case(name)
    names = continuous(model, base)
    twin = DeviceTwin(model, form)
    states = [node for node in twin.names if node in model.equations.nodes]
    time = torch.linspace(0.0, 0.012 * drive.time, 9, dtype=torch.float64)
    ramp = 0.9 * drive.amplitude * time / time[-1]
    voltages = {drive.port: ramp, **({"p": 0.5 * READ + 0.0 * ramp} if drive.port != "p" else {})}

    def observed(size: float, start: Tensor, *parts: Tensor) -> Tensor:
        values = {key: base[key] + scale(key, base[key]) * (part - 1.0) for key, part in zip(names, parts, strict=True)}
        trace = twin.run(time, voltages, values, dict(zip(states, start, strict=True)) if len(start) else None)
        currents = torch.stack([trace.currents[port] for port in twin.ports]) / size
        return torch.cat([currents.flatten(), torch.stack([trace.nodes[node] for node in states]).flatten()])

    parts = [torch.ones((), dtype=torch.float64, requires_grad=True) for _ in names]
    rest, moved = (
        torch.zeros(0, dtype=torch.float64),
        torch.full((len(states),), 0.45, dtype=torch.float64, requires_grad=True),
    )
    for start in (rest, moved):
        size = float(observed(1.0, start, *parts)[: -len(time)].detach().abs().max())
        assert torch.autograd.gradcheck(
            partial(observed, size), (start, *parts), eps=1e-6, atol=2e-5, rtol=1e-3, fast_mode=True
        )


# Against the simulator

CHANGE = 2e-4
"""Relative change of a parameter for the differences."""
NOISE = 2e-3
"""Parameters whose effect is below this share of the largest one are reported, not compared: the rest of the solver's
tolerances is of that size."""


def weight(time: Array, stop: float) -> Array:
    return np.sin(2 * math.pi * 0.8 * time / stop) + 0.3


def spice_effects(model: DeviceModel, form: str, base: dict[str, float], drive: Drive) -> dict[str, float]:
    """Return, for each parameter, the change of the weighted charge in C for a change of the parameter by its scale."""
    names = continuous(model, base)
    values = [
        {**base, name: base[name] + sign * CHANGE * scale(name, base[name])} for name in names for sign in (1.0, -1.0)
    ]  # one run with all: the time points are then the same, and their errors cancel
    deck: Deck = make_deck(model, form, drive, [wave(drive)] * len(values), values)
    found = NgspiceEngine().run(deck)
    own = found["time"].values
    first = np.append(True, np.diff(own) > 1e-9 * own[-1] / len(own))
    time = np.linspace(0.0, drive.time, 4 * drive.points + 1)
    side = "vr" if drive.port != "p" else "vd"

    def charge(k: int) -> float:
        current = PchipInterpolator(own[first], -found[f"i({side}{k})"].values[first])(time)
        return float(np.trapezoid(current * weight(time, drive.time), time))

    return {name: (charge(2 * k) - charge(2 * k + 1)) / (2 * CHANGE) for k, name in enumerate(names)}


def twin_effects(model: DeviceModel, form: str, base: dict[str, float], drive: Drive) -> dict[str, float]:
    names = continuous(model, base)
    tensors = {name: torch.tensor(base[name], dtype=torch.float64, requires_grad=True) for name in names}
    time, trace = run(model, form, drive, {**base, **tensors}, drive.points, drive.time)
    current = trace.currents["p"]
    charge = torch.trapezoid(current * torch.from_numpy(weight(time.numpy(), drive.time)), time)
    gradients = torch.autograd.grad(charge, list(tensors.values()), allow_unused=True)
    return {
        name: 0.0 if g is None else float(g) * scale(name, base[name]) for name, g in zip(names, gradients, strict=True)
    }


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_the_central_difference_in_ngspice(name: str) -> None:
    model, form, base, drive = case(name)
    ours, theirs = twin_effects(model, form, base, drive), spice_effects(model, form, base, drive)
    largest = max(abs(value) for value in theirs.values())
    share = {key: abs(ours[key] - theirs[key]) / max(abs(theirs[key]), NOISE * largest) for key in theirs}
    silent = [key for key in theirs if max(abs(theirs[key]), abs(ours[key])) < NOISE * largest]
    worst = max((key for key in theirs if key not in silent), key=lambda key: share[key])
    print(  # noqa: T201 - what was reached
        f"\n{name:18s} {len(theirs) - len(silent)} compared, worst {worst} {100 * share[worst]:.3f} %; below noise: {' '.join(silent)}"
    )
    assert len(silent) < len(theirs) - 3
    assert share[worst] < 0.01


# Temperature and refusals


def test_float32_gradients_are_finite() -> None:
    model, form, base, drive = case("stanford")
    twin = DeviceTwin(model, form)
    time = torch.linspace(0.0, 0.1 * drive.time, 21)
    tensors = {key: torch.tensor(base[key], requires_grad=True) for key in continuous(model, base)}
    trace = twin.run(time, {"p": 0.5 * drive.amplitude * time / time[-1]}, tensors)
    assert trace.currents["p"].dtype == torch.float32
    for gradient in torch.autograd.grad(
        trace.currents["p"].sum() + trace.nodes["x"].sum(), list(tensors.values()), allow_unused=True
    ):
        assert gradient is None or torch.isfinite(gradient).all()


def test_numbers_and_tensors_as_parameters_give_the_same() -> None:
    model, form, base, drive = case("yakopcic")
    time = torch.linspace(0.0, drive.time, 51, dtype=torch.float64)
    voltages = {"p": torch.from_numpy(wave(drive).values(time.numpy()))[:, None].expand(-1, 2)}
    twin = DeviceTwin(model, form)
    plain = twin.run(time, voltages, base)
    tensors = twin.run(
        time, voltages, {key: torch.full((2,), value, dtype=torch.float64) for key, value in base.items()}
    )
    torch.testing.assert_close(plain.currents["p"], tensors.currents["p"], rtol=1e-12, atol=1e-18)
    torch.testing.assert_close(plain.nodes["x"], tensors.nodes["x"], rtol=1e-12, atol=1e-18)


def test_wrong_names_and_shapes_are_refused() -> None:
    model = load_device("vteam")
    twin = DeviceTwin(model)
    time = torch.linspace(0.0, 1e-6, 4, dtype=torch.float64)
    with pytest.raises(InputError, match="device vteam has no form 'no'. Known: vteam, vteam_linear"):
        DeviceTwin(model, "no")
    with pytest.raises(InputError, match="device vteam has no parameter 'rom' here. Known: ron, roff"):
        twin.run(time, {"p": time}, {"rom": 1.0})
    with pytest.raises(InputError, match="device vteam has no port 'q'. Ports: p, n."):
        twin.run(time, {"q": time})
    with pytest.raises(InputError, match=r"time has shape \(4,\); it must be one row of rising points in s."):
        twin.run(-time, {"p": time})
    with pytest.raises(InputError, match=r"voltage of port p has shape \(3,\); needs \[4, ...\], time first."):
        twin.run(time, {"p": time[:3]})
    with pytest.raises(InputError, match="device vteam has no internal node 'y'. Known: x."):
        twin.run(time, {"p": time}, start={"y": 0.5})
