"""Sweeps of devices: drives as asked, figures of merit known in closed form, simulator and twin agree, defects are named."""

from __future__ import annotations

import csv
import io
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from memprop import cli
from memprop.device.card import read_card
from memprop.device.library import load_device
from memprop.device.waveform import (
    Hysteresis,
    Kinetics,
    Probe,
    Retention,
    SweepCard,
    Train,
    Waveform,
    default_card,
    periodic,
    pulses,
    short,
)
from memprop.errors import EngineError, InputError
from memprop.files import shipped
from memprop.flow.drives import Curves, curves_of, device_deck, setup, simulate_drives, twin_drives
from memprop.flow.merits import loop_area, read_conductances
from memprop.flow.sweep import SweepSettings, block_merits, find_probe, load_sweep, run_sweep, sweep
from memprop.spice.engine import make_engine

LEAKY = """`include "disciplines.vams"
module leaky(p, n);
    inout p, n;
    electrical p, n, x;
    parameter real g = 1e-3 from (0:inf);
    parameter real tau = 1e-6 from (0:inf);
    parameter real vth = 0.5 from (0:inf);
    analog begin
        I(p, n) <+ g * (1.0 + V(x)) * V(p, n);
        I(x) <+ ddt(tau * V(x));
        I(x) <+ V(x) - 0.5 * (1.0 + tanh((V(p, n) - vth) / 0.02)) + 0.5 * (1.0 + tanh(-vth / 0.02));
    end
endmodule
"""


def quiet() -> Console:
    return Console(file=io.StringIO(), width=160)


@pytest.fixture
def leaky(tmp_path: Path) -> Path:
    path = tmp_path / "leaky.va"
    path.write_text(LEAKY)
    return path


# --- waveforms and cards ---


@pytest.mark.parametrize("shape", ["sine", "triangle"])
def test_periodic_waveforms_start_at_zero_and_reach_their_amplitude(shape: str) -> None:
    wave = periodic(shape, 0.5, 100.0, 3)
    assert wave.volt[0] == wave.volt[-1] == 0.0
    assert wave.time[-1] == pytest.approx(0.03)
    assert wave.at(np.array([2.5e-3, 17.5e-3])) == pytest.approx([0.5, -0.5])
    assert wave.at(np.array([10e-3, 15e-3])) == pytest.approx([0.0, 0.0], abs=1e-12)


def test_pulses_have_their_width_and_must_not_overlap() -> None:
    wave = pulses([(1.0, 2.0, 0.3), (4.0, 1.0, -0.2)], 6.0)
    assert wave.at(np.array([0.5, 2.0, 3.5, 4.5, 5.5])) == pytest.approx([0.0, 0.3, 0.0, -0.2, 0.0])
    with pytest.raises(InputError, match=r"pulse at 2\.0 s begins before the one before it has ended"):
        pulses([(1.0, 2.0, 0.3), (2.0, 1.0, 0.3)], 6.0)


@pytest.mark.parametrize(
    ("time", "volt", "message"),
    [
        ((0.0, 1.0), (0.0,), "2 times and 1 voltages"),
        ((0.0, 0.0), (0.0, 1.0), "must start at 0 s and rise"),
        ((0.0, float("nan")), (0.0, 1.0), "all finite"),
    ],
)
def test_wrong_waveforms_are_refused(time: tuple[float, ...], volt: tuple[float, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Waveform(time, volt)


def test_short_labels() -> None:
    assert [short(v, "Hz") for v in (100e3, 1.0, 0.0)] == ["100 kHz", "1 Hz", "0 Hz"]
    assert short(3e-9, "s") == "3 ns"


DEVICES = sorted(path.stem for path in shipped("models").glob("*.va"))


@pytest.mark.parametrize("name", DEVICES)
def test_every_shipped_device_has_a_card_that_fits_it(name: str) -> None:
    card = read_card(shipped("models") / f"{name}.sweep.toml", SweepCard)
    module = (shipped("models") / f"{name}.va").read_text()
    presets = tomllib.loads((shipped("models") / f"{name}.toml").read_text())["presets"]
    assert card.device == name
    for experiment in card.experiments:
        assert set(experiment.presets) <= set(presets)
        assert all(f"parameter real {key}" in " ".join(module.split()) for key in experiment.changes)
        ports = module.split(f"module {name}(")[1].split(")")[0].replace(" ", "").split(",")
        for drive in experiment.drives(ports):
            assert np.all(np.diff(drive.grid) > 0)
            assert all(0 < read < drive.stop for read in drive.reads)


LOOP = 'device = "a"\n[[experiments]]\nkind = "hysteresis"\nname = "x"\nfrequencies = [1.0]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('device = "a"\nexperiments = []\n', "experiments"),
        ('device = "a"\n[[experiments]]\nkind = "dance"\nname = "x"\n', "experiments.0.*dance"),
        (LOOP + 'amplitude = -1.0\n', "greater than 0"),
        (LOOP + 'amplitude = 1.0\nvolts = 3\n', "volts: Extra"),
        (2 * 'device = "a"\n', "no valid TOML"),
    ],
)  # fmt: skip
def test_defect_of_a_card_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_sweep(tmp_path / "a.toml")


def test_two_experiments_of_one_name_are_refused() -> None:
    one = Hysteresis(kind="hysteresis", name="x", amplitude=1.0, frequencies=(1.0,))
    with pytest.raises(ValueError, match="two experiments are called 'x'"):
        SweepCard(device="a", experiments=(one, one))


# --- closed forms ---


def test_loop_area_is_that_of_an_ellipse_and_of_two_lobes() -> None:
    angle = np.linspace(0, 2 * np.pi, 2001)
    lobes = loop_area(np.sin(angle), np.sin(2 * angle))  # each lobe 4/3
    assert lobes == pytest.approx(8 / 3, rel=1e-3)
    assert loop_area(np.sin(angle), np.sin(angle)) == pytest.approx(0.0, abs=1e-9)


def test_switching_time_and_retention_are_the_exponentials_that_they_are(leaky: Path) -> None:
    card = SweepCard(
        device="leaky",
        experiments=(
            Kinetics(kind="kinetics", name="up", amplitudes=(0.8,), widths=(1e-5,), read=0.05),
            Retention(
                kind="retention", name="keep", program=(0.8, 1e-5), first=1e-7, last=1e-5, per_decade=2, read=0.05
            ),
        ),
    )
    up, keep = run_sweep(load_device(leaky), card, quiet(), SweepSettings())
    found = {m.name: m.value for _, m in block_merits(up)}
    assert found["switching time"] == pytest.approx(np.log(2) * 1e-6, rel=0.12)  # the edge of the pulse takes 0.1 us
    assert found["conductance before"] == pytest.approx(1e-3, rel=1e-3)
    ((drive, ours, twin),) = keep.done()
    waits = np.array(drive.reads) - drive.span[1]
    assert read_conductances(drive, ours) == pytest.approx(1e-3 * (1 + np.exp(-waits / 1e-6)), rel=0.07)
    assert twin is not None
    assert {m.name: m.value for _, m in block_merits(keep)}["twin against engine, largest"] < 0.5


# --- simulator and twin ---


def test_twin_and_ngspice_agree_on_the_loops_of_the_stock_set(tmp_path: Path) -> None:
    device = load_device("mss_memristor")
    card = SweepCard(
        device="mss_memristor",
        experiments=(
            Hysteresis(kind="hysteresis", name="loops", presets=("knowm_stock",), amplitude=0.5, frequencies=(100.0, 1e4), cycles=1),
            Hysteresis(
                kind="hysteresis", name="series", presets=("knowm_stock",), amplitude=0.7, frequencies=(100.0,), series=500.0,
                shape="triangle",
            ),
        ),
    )  # fmt: skip
    console = quiet()
    first = run_sweep(device, card, console, SweepSettings(), tmp_path)
    for block in first:
        assert not block.failures()
        for _, merit in block_merits(block):
            if merit.name == "twin against engine, largest":
                assert merit.value < 0.2
    area = {label: m.value for label, m in block_merits(first[0]) if m.name == "loop area"}
    assert area["100 Hz"] > 2 * area["10 kHz"]  # loops close at high frequency
    again = run_sweep(device, card, console, SweepSettings(), tmp_path)
    assert len(list(tmp_path.glob("*.npy"))) == 3
    for one, other in zip(first, again, strict=True):
        for a, b in zip(one.found, other.found, strict=True):
            assert isinstance(a, Curves)
            assert isinstance(b, Curves)
            assert np.array_equal(a.currents["p"], b.currents["p"])


def test_compiled_device_gives_the_curves_of_the_subcircuit() -> None:
    case = setup(load_device("mss_memristor"), "knowm_stock")
    drives = Hysteresis(kind="hysteresis", name="a", amplitude=0.5, frequencies=(1e3,)).drives(("p", "n"))
    curves = [simulate_drives(case, drives, make_engine(name))[0] for name in ("ngspice", "vacask")]
    assert all(isinstance(c, Curves) for c in curves)
    ours, theirs = (c.currents["p"] for c in curves if isinstance(c, Curves))
    assert np.abs(ours - theirs).max() < 2e-3 * np.abs(ours).max()


def test_deck_measures_the_current_at_the_device_and_sets_the_series_resistance() -> None:
    case = setup(load_device("mss_memristor"), "knowm_stock")
    drive = Hysteresis(kind="hysteresis", name="a", amplitude=0.2, frequencies=(1e5,), series=1e3).drives(("p", "n"))[0]
    deck = device_deck(case, drive)
    assert deck.verilog[0].states == ("x",)
    curves = curves_of(make_engine("ngspice").run(deck), case, drive)
    source = drive.waves["p"].at(curves.time)
    assert curves.currents["p"] == pytest.approx((source - curves.voltages["p"]) / 1e3, abs=1e-9)


def test_train_on_a_gate_moves_the_conductance_up_and_down() -> None:
    case = setup(load_device("gated_synapse"), "soft_bounds")
    train = Train(
        kind="train", name="t", port="g", read_port="p", up=(1.0, 5e-8), down=(-1.0, 5e-8), count=5, gap=5e-8, read=0.1
    )
    drives = train.drives(("p", "n", "g"))
    spice, twin = simulate_drives(case, drives, make_engine("ngspice"))[0], twin_drives(case, drives)[0]
    assert isinstance(spice, Curves)
    assert isinstance(twin, Curves)
    read = read_conductances(drives[0], spice)
    assert (np.diff(read[:6]) > 0).all()
    assert (np.diff(read[5:]) < 0).all()
    assert read_conductances(drives[0], twin) == pytest.approx(read, rel=5e-3)


# --- devices without a card, and the command ---


def test_default_drive_of_a_switch_exceeds_its_threshold_and_is_as_slow_as_it_needs(leaky: Path) -> None:
    found = find_probe(load_device(leaky))
    assert (found.port, found.reference) == ("p", "n")
    assert 0.4 < found.amplitude < 1.0
    assert 1e4 <= found.frequency <= 1e6  # tau is 1 us
    kinds = [e.kind for e in default_card("leaky", found).experiments]
    assert kinds == ["hysteresis", "kinetics", "kinetics", "retention"]


def test_default_card_of_a_device_with_a_gate_is_a_train() -> None:
    (train,) = default_card("a", Probe("g", 1.0, 1e3, ("p", "n", "g"), "n")).experiments
    assert isinstance(train, Train)
    assert (train.port, train.read_port) == ("g", "p")


def test_device_without_state_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ohm.va").write_text(
        '`include "disciplines.vams"\nmodule ohm(p, n);\ninout p, n;\nelectrical p, n;\nanalog I(p, n) <+ V(p, n);\nendmodule\n'
    )
    with pytest.raises(InputError, match="has no state to sweep"):
        load_sweep(tmp_path / "ohm.va")


def test_command_writes_tables_and_figures(leaky: Path, tmp_path: Path) -> None:
    (tmp_path / "leaky.sweep.toml").write_text(
        'device = "leaky"\n[[experiments]]\nkind = "hysteresis"\nname = "loops"\namplitude = 0.8\nfrequencies = [1e5, 1e6]\n'
        '[[experiments]]\nkind = "kinetics"\nname = "up"\namplitudes = [0.3, 0.8]\nwidths = [1e-6, 1e-5]\n'
    )
    console = quiet()
    blocks = sweep(leaky, tmp_path / "out", console, SweepSettings(workers=2))
    assert [block.failures() for block in blocks] == [[], []]
    rows = list(csv.DictReader((tmp_path / "out" / "curves.csv").read_text().splitlines()))
    assert {row["engine"] for row in rows} == {"ngspice", "twin"}
    assert {row["drive"] for row in rows} >= {"100 kHz", "1 MHz", "0.8 V, 10 us"}
    assert all(np.isfinite(float(row["current_p (A)"])) for row in rows)
    quantities = {
        row["quantity"] for row in csv.DictReader((tmp_path / "out" / "summary.csv").read_text().splitlines())
    }
    assert {"loop area", "state swing", "on/off ratio", "switching time"} <= quantities
    for figure in ("loops_default", "up_default"):
        assert (tmp_path / "out" / f"{figure}.png").stat().st_size > 10_000
    assert "leaky in ngspice" in console.file.getvalue()  # type: ignore[attr-defined]
    alone = sweep(leaky, tmp_path / "twin", console, SweepSettings("twin", experiments=("loops",)))
    assert len(alone) == 1
    assert alone[0].twin == (None, None)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (SweepSettings("spectre"), InputError, "unknown engine 'spectre'. Known: ngspice, .*, twin"),
        (SweepSettings(presets=("nothing",)), InputError, "no preset 'nothing'"),
        (SweepSettings(experiments=("nothing",)), InputError, "no experiment 'nothing'. Known: loops"),
    ],
)
def test_nonsense_settings_are_refused(settings: SweepSettings, error: type[Exception], message: str) -> None:
    device, card, _ = load_sweep("mss_memristor")
    with pytest.raises(error, match=message):
        run_sweep(device, card, quiet(), settings)


def test_port_and_series_are_checked() -> None:
    wrong = Hysteresis(kind="hysteresis", name="a", amplitude=1.0, frequencies=(1.0,), port="q")
    with pytest.raises(InputError, match="has no port 'q'. Ports: p, n"):
        wrong.drives(("p", "n"))
    behind = Hysteresis(kind="hysteresis", name="a", amplitude=1.0, frequencies=(1.0,), port="g", series=10.0)
    with pytest.raises(InputError, match="a series resistance stands before port p only"):
        behind.drives(("p", "n", "g"))
    short_wait = Retention(kind="retention", name="a", program=(1.0, 1e-3), first=1.0, last=0.5)
    with pytest.raises(InputError, match=r"last = 0\.5 s must be above first = 1\.0 s"):
        short_wait.drives(("p", "n"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "nothing"], "device model .*nothing.va is not there"),
        (["sweep", "mss_memristor", "--engine", "spectre"], "unknown engine 'spectre'"),
        (["fit-device", "nothing.csv", "mss_memristor", "--parameters", "ron"], "nothing.csv are not there"),
        (
            ["fit-device", "x.csv", "mss_memristor", "--parameters", "ron", "--bounds", "ron=3"],
            "not of the form name=low:high",
        ),
    ],
)
def test_command_line_says_in_one_line_what_is_wrong(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["memprop", *words])
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert said.startswith("error:")
    assert len(said.strip().splitlines()) == 1
    assert re.search(message, said)


def test_missing_simulator_is_said_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMPROP_NGSPICE", "/nowhere/ngspice")
    device, card, _ = load_sweep("mss_memristor")
    with pytest.raises(EngineError, match="ngspice not found"):
        run_sweep(device, card, quiet(), SweepSettings())
