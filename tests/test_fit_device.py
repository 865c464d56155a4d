"""Fits of devices: parameters come back from curves of simulators, what curves do not tell is said, bad files are refused."""

from __future__ import annotations

import io
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from memprop.device.card import DeviceCard
from memprop.device.library import load_device
from memprop.device.waveform import Drive, Waveform
from memprop.errors import InputError, SimulationError
from memprop.files import shipped
from memprop.flow.curves import Measured, read_curves
from memprop.flow.drives import setup, simulate_drives
from memprop.flow.fit_device import DeviceFit, FitSettings, fit_curves, fit_device, parse_bounds, parse_values
from memprop.twin.fitting.least_squares import identify, minimise
from memprop.spice.engine import make_engine

NOISE = 0.01


@dataclass(frozen=True)
class Case:
    """A device, the drives of its curves, and where the fit starts."""

    device: str
    preset: str
    amplitudes: tuple[float, ...]
    frequency: float
    start: dict[str, float]
    changes: dict[str, float] = field(default_factory=dict)
    series: float = 0.0
    engine: str = "ngspice"
    points: int = 100


CASES = (
    Case("mss_memristor", "knowm_stock", (0.5, 0.35, 0.45), 500.0, {"ron": 700, "roff": 1100, "von": 0.2, "voff": 0.35, "tau": 1.6e-4}),
    Case(
        "vteam", "technion", (-0.8, -0.5, -0.6), 1e6, {"ron": 600, "roff": 1400, "von": -0.16, "voff": 0.26, "koff": 1.4e-2},
        {"ron": 400.0, "kon": -3e-3, "voff": 0.2, "koff": 1e-2},
    ),
    Case(
        "yakopcic", "tcad_2013", (0.6, 0.3, 0.45), 100.0,
        {"a1": 0.1, "a2": 0.25, "vp": 0.2, "vn": 0.1, "ap": 6000.0, "an": 2500.0}, engine="vacask",
    ),
    Case("hp_drift", "yakopcic_biolek", (1.2, 1.0, 1.1), 5.0, {"ron": 150, "roff": 1300, "uv": 2.8e-14}),
    Case(
        "stanford_rram", "v1", (2.5, 2.2, 2.3), 1e6, {"i0": 0.7e-3, "v0": 0.3, "gamma0": 17.0}, {"fwidth": 0.2},
        series=1e3, points=60,
    ),
)  # fmt: skip


def simulated(case: Case, noise: float = NOISE) -> list[Measured]:
    """Return curves of a simulator, one sine each, with noise relative to the largest current of all."""
    points = np.arange(case.points + 1) / case.points
    waves = [Waveform(tuple(points / case.frequency), tuple(a * np.sin(2 * np.pi * points))) for a in case.amplitudes]
    drives = [
        Drive(f"{a} V", {"p": w}, w.time, "p", "p", {}, (), case.series)
        for a, w in zip(case.amplitudes, waves, strict=True)
    ]
    found = simulate_drives(
        setup(load_device(case.device), case.preset, case.changes), drives, make_engine(case.engine)
    )
    curves = [c for c in found if not isinstance(c, SimulationError)]
    assert len(curves) == len(drives), found
    full = max(np.abs(c.currents["p"]).max() for c in curves)
    random = np.random.default_rng(7)
    parts = zip(drives, waves, curves, strict=True)
    return [
        Measured(
            d.label, c.time, np.array(w.volt), c.currents["p"] + noise * full * random.standard_normal(len(c.time))
        )
        for d, w, c in parts
    ]


def fitted(case: Case, curves: list[Measured], starts: int = 2, **more: object) -> DeviceFit:
    values = {**case.changes, **case.start}
    settings = FitSettings(tuple(case.start), case.preset, values, series=case.series, starts=starts, **more)  # type: ignore[arg-type]
    return fit_curves(load_device(case.device), curves, settings)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.device)
def test_parameters_come_back_from_noisy_curves_of_a_simulator(case: Case) -> None:
    found = fitted(case, simulated(case))
    true = load_device(case.device).values(case.preset, **case.changes)
    assert [p.name for p in found.unknown()] == []
    for p in found.parameters:
        assert p.value == pytest.approx(true[p.name], rel=0.05), p
        assert abs(p.value / true[p.name] - 1) < 4 * p.knowledge.error + 0.005, p
    assert found.seen < 1.1 * 100 * NOISE
    assert found.held_out < 1.2 * 100 * NOISE


MSS = CASES[0]


def test_off_resistance_of_a_device_that_stays_on_is_not_known() -> None:
    case = Case("mss_memristor", "knowm_stock", (0.5,), 500.0, {"ron": 600.0, "roff": 1200.0}, {"voff": 5.0, "x0": 1.0})
    found = fitted(case, simulated(case))
    ron, roff = found.parameters
    assert ron.knowledge.known
    assert ron.value == pytest.approx(500.0, rel=0.01)
    assert not roff.knowledge.known
    assert roff.value == 1200.0  # what the curves say nothing about stays where it was
    assert roff.knowledge.reason.startswith("the curves depend on it")


def test_parameter_that_is_switched_off_is_not_known() -> None:
    case = Case("mss_memristor", "xyce_demo", (0.5,), 500.0, {"ron": 600.0, "sfa": 8e-4}, {"phi": 1.0})
    found = fitted(case, simulated(case))
    assert [p.name for p in found.unknown()] == ["sfa"]
    assert "not at all" in found.unknown()[0].knowledge.reason


def test_parameters_that_only_show_as_a_product_are_named_together() -> None:
    case = Case(
        "vteam",
        "technion",
        (-0.8, -0.5),
        1e6,
        {"d": 2e-9, "koff": 3e-3, "kon": -2e-3},
        {"koff": 4e-3, "kon": -3e-3, "voff": 0.2},
    )
    found = fitted(case, simulated(case), starts=1)
    assert {p.name for p in found.unknown()} == {"d", "koff", "kon"}
    assert all("combination with" in p.knowledge.reason for p in found.unknown())
    values = found.values
    assert values["koff"] / values["d"] == pytest.approx(4e-3 / 3e-9, rel=0.1)


def test_fit_that_ends_at_a_bound_says_so() -> None:
    curves = simulated(MSS)
    case = Case(MSS.device, MSS.preset, MSS.amplitudes, MSS.frequency, {"ron": 600.0})
    found = fitted(case, curves, starts=1, bounds={"ron": (550.0, 900.0)})
    assert found.parameters[0].value == pytest.approx(550.0)
    assert "ended at its bound" in found.parameters[0].knowledge.reason


def test_same_seed_same_fit() -> None:
    curves = simulated(MSS)
    case = Case(MSS.device, MSS.preset, MSS.amplitudes, MSS.frequency, {"ron": 600.0, "tau": 1.3e-4})
    one, other = fitted(case, curves), fitted(case, curves)
    assert [p.value for p in one.parameters] == [p.value for p in other.parameters]


def test_minimise_finds_the_least_squares_of_numpy_and_keeps_bounds() -> None:
    random = np.random.default_rng(0)
    matrix, target = random.normal(size=(40, 3)), random.normal(size=40)

    def residuals(z: np.ndarray) -> np.ndarray:
        return z @ matrix.T - target

    best = np.linalg.lstsq(matrix, target, rcond=None)[0]
    wide = np.full(3, 10.0)
    found = minimise(residuals, random.normal(size=(2, 3)), -wide, wide)
    assert found.point == pytest.approx(best, abs=1e-5)
    assert found.jacobian == pytest.approx(matrix, abs=1e-6)
    high = np.array([best[0] - 0.5, 10.0, 10.0])
    held = minimise(residuals, np.full((1, 3), -1.0), -wide, high).point
    rest = np.linalg.lstsq(matrix[:, 1:], target - matrix[:, 0] * high[0], rcond=None)[0]
    assert held == pytest.approx([high[0], *rest], abs=1e-4)


def test_standard_errors_are_those_of_a_linear_model() -> None:
    matrix = np.random.default_rng(3).normal(size=(50, 2))
    known, correlation = identify(["a", "b"], matrix, 1e-4, np.ones(2), np.zeros(2, dtype=bool))
    covariance = 1e-4 * np.linalg.inv(matrix.T @ matrix)
    assert [k.error for k in known] == pytest.approx(np.sqrt(np.diag(covariance)))
    assert correlation[0, 1] == pytest.approx(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))


# --- files ---


def written(folder: Path, text: str) -> Path:
    path = folder / "curves.csv"
    path.write_text(text, encoding="utf-8")
    return path


def rows(count: int = 10) -> str:
    return "".join(f"{k},{k % 4},{k % 3}\n" for k in range(count))


def test_units_comments_curves_and_other_separators_are_read(tmp_path: Path) -> None:
    text = "# measured\ncurve;time (ms);Voltage_mV;current [uA]\n"
    text += "".join(f"{c};{k};{100 * (k % 4)};{k % 3}\n" for c in "ab" for k in range(8))
    one, other = read_curves(written(tmp_path, text))
    assert (one.label, other.label) == ("a", "b")
    assert one.time == pytest.approx(np.arange(8) * 1e-3)
    assert one.voltage[3] == pytest.approx(0.3)
    assert other.current[2] == pytest.approx(2e-6)


def test_frequency_replaces_the_time_column(tmp_path: Path) -> None:
    text = "volt,current\n" + "".join(f"{k % 4},{k % 3}\n" for k in range(10))
    assert read_curves(written(tmp_path, text), 100.0)[0].time == pytest.approx(np.arange(10) * 1e-3)


@pytest.mark.parametrize(
    ("text", "frequency", "message"),
    [
        ("", None, r"curves\.csv is empty\. It needs a header"),
        ("# only\n", None, "is empty"),
        ("time,voltage,current\n", None, "no data below the header in line 1"),
        ("time,voltage\n0,1\n", None, r"no column 'current'\. Found: time, voltage\."),
        ("voltage,current\n" + rows(), None, r"no column 'time'.*give --frequency"),
        ("time,voltage,current\n" + rows(), 10.0, "both given"),
        ("voltage,current\n1,2\n", -1.0, r"frequency = -1\.0 Hz must be finite and above 0"),
        ("time,voltage,current\n" + rows() + "11,x,1\n", None, "line 12: voltage is 'x', which is no number"),
        ("time,voltage,current\n" + rows() + "11,nan,1\n", None, "line 12: voltage is nan, which is not finite"),
        ("time,voltage,current\n" + rows() + "11,1\n", None, "line 12: 2 cells, the header has 3"),
        ("time,voltage,current\n" + rows() + "9,1,1\n", None, "line 12: time 9 s does not rise after 9 s"),
        ("time,voltage,current\n0,1,1\n", None, "1 points, at least 8 are needed"),
        ("time,voltage,current (mV)\n" + rows(), None, r"column 'current \(mV\)' has the unit 'mV', which is none of pA"),
        ("time (min),voltage,current\n" + rows(), None, "unit 'min', which is none of ps"),
        ("time,v,voltage,current\n" + rows(), None, "two columns hold the voltage: 'v' and 'voltage'"),
        ("time,voltage,current\n" + "".join(f"{k},{k},0\n" for k in range(9)), None, "the current is 0 A everywhere"),
    ],
)  # fmt: skip
def test_defect_of_a_file_is_named(tmp_path: Path, text: str, frequency: float | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_curves(written(tmp_path, text), frequency)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.csv are not there"):
        read_curves(tmp_path / "nothing.csv")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (FitSettings(()), "no parameter to fit is named"),
        (FitSettings(("ron", "ron")), "'ron' is named twice"),
        (FitSettings(("rom",)), "no parameter 'rom'. Known: ron"),
        (FitSettings(("bipolar",)), "bipolar is a whole number"),
        (FitSettings(("sfa",)), "sfa starts at 0 A, so its size is unknown. Give --bounds sfa=LOW:HIGH"),
        (FitSettings(("ron",), bounds={"ron": (1e3, 2e3)}), r"bounds of ron: 1000\.0 to 2000\.0 Ohm must rise and hold the start, 500"),
        (FitSettings(("ron",), series=-1.0), r"series = -1\.0 must be finite and at least 0"),
        (FitSettings(("ron",), noise=0.0), r"noise = 0\.0 A must be finite and above 0 A"),
        (FitSettings(("ron",), "nothing"), "has no preset 'nothing'"),
    ],
)  # fmt: skip
def test_nonsense_settings_are_refused(settings: FitSettings, message: str) -> None:
    time = np.arange(20.0)
    curve = Measured("a", time, np.sin(time), np.sin(time))
    with pytest.raises(InputError, match=message):
        fit_curves(load_device("mss_memristor"), [curve], settings)


def test_bounds_and_values_from_text() -> None:
    assert parse_bounds(["ron=1e2:1e5"]) == {"ron": (100.0, 1e5)}
    assert parse_values(["phi=0.5"]) == {"phi": 0.5}
    with pytest.raises(InputError, match="'ron=3' are not of the form name=low:high"):
        parse_bounds(["ron=3"])
    with pytest.raises(InputError, match="'phi' is not of the form name=number"):
        parse_values(["phi"])


# --- the command ---


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model, its card and measured curves."""
    folder = tmp_path_factory.mktemp("fit")
    for suffix in (".va", ".toml"):
        (folder / f"mss_memristor{suffix}").write_text(
            (shipped("models") / f"mss_memristor{suffix}").read_text(encoding="utf-8")
        )
    lines = ["curve,time (us),voltage,current_uA"]
    for curve in simulated(MSS):
        values = zip(curve.time, curve.voltage, curve.current, strict=True)
        lines += [f"{curve.label},{t * 1e6:.9g},{v:.9g},{i * 1e6:.9g}" for t, v, i in values]
    (folder / "curves.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize("write_card", [False, True])
def test_command_writes_preset_figure_and_says_what_is_not_known(files: Path, tmp_path: Path, write_card: bool) -> None:
    console = Console(file=io.StringIO(), width=160)
    settings = FitSettings(("ron", "roff", "sfa"), "knowm_stock", bounds={"sfa": (0.0, 1e-3)}, starts=1)
    fit_device(
        files / "curves.csv", files / "mss_memristor.va", "mine", tmp_path, console, settings, write_card=write_card
    )
    card = files / "mss_memristor.toml" if write_card else tmp_path / "fit.toml"
    preset = DeviceCard.model_validate(tomllib.loads(card.read_text())).presets["mine"]
    assert preset.values["ron"] == pytest.approx(500.0, rel=0.02)
    assert "NOT identifiable: sfa (the curves depend on it not at all)" in preset.source
    assert (tmp_path / "fit.png").stat().st_size > 10_000
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "NOT identifiable sfa: the curves depend on it not at all" in said
    if write_card:
        assert load_device(files / "mss_memristor.va").values("mine")["ron"] == preset.values["ron"]
        with pytest.raises(InputError, match="has a preset 'mine' already"):
            fit_device(files / "curves.csv", files / "mss_memristor.va", "mine", tmp_path, console, settings)


def test_card_of_a_shipped_device_is_not_written(files: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs the model as a file"):
        fit_device(files / "curves.csv", "vteam", "mine", tmp_path, Console(), FitSettings(("ron",)), write_card=True)
