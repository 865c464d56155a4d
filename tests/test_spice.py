"""Engines: right answers, equal answers, and every way a simulator can fail, found out and named.

Where ngspice itself can be made to fail, it is; where it cannot (a crash, a full disk), a script stands in for it.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import os
import pickle
import re
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import brentq

from memprop.circuit.cell import load_cell
from memprop.circuit.elaborate import elaborate
from memprop.circuit.network import Network, Projection, population_of
from memprop.circuit.stimulus import AlphaWave, Stimulus
from memprop.conductance.pair import ConductanceRange
from memprop.deck.deck import Deck, Transient
from memprop.deck.ngspice import make_deck
from memprop.errors import (
    ConvergenceError,
    DeckError,
    EngineError,
    InputError,
    MempropError,
    MissingNode,
    NoOutput,
    NotFinite,
    RawFileError,
    SimulationError,
    SimulationTimeout,
    SimulatorKilled,
    StoppedEarly,
)
from memprop.spice import shared
from memprop.spice.engine import Engine, make_engine
from memprop.spice.find import Program, find_libngspice, find_ngspice
from memprop.spice.log import failure_in, tail
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.pool import run_many
from memprop.spice.recording import make_recording
from memprop.spice.shared import SharedEngine

BEHAVIOURAL = ("ngspice", "ngspice-shared")
"""Engines whose messages and numbers are compared here; the others have test files of their own."""
OHM, FARAD = 1e3, 1e-9
STOP, STEP = 5e-6, 0.01e-6


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which engines keep what failed."""
    folder = tmp_path / "kept"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(params=BEHAVIOURAL)
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = make_engine(request.param)
    yield made
    made.close()


@pytest.fixture
def helpers() -> Iterator[SharedEngine]:
    made = SharedEngine()
    yield made
    made.close()


def deck(text: str, *nodes: str, branches: tuple[str, ...] = (), stop: float = 1e-5, step: float = 1e-6) -> Deck:
    return Deck("case", {"case.inc": text + "\n"}, Transient(stop, step), nodes or ("a",), branches)


def rc(volt: float = 1.0) -> Deck:
    """Return a capacitor that charges from 0 over a resistor."""
    text = f"v1 in 0 {volt!r}\nr1 in out {OHM!r}\nc1 out 0 {FARAD!r}\n.ic v(out)=0"
    return replace(deck(text, "out", branches=("v1",), stop=STOP, step=STEP), options={"reltol": 1e-6})


def endless() -> Deck:
    return deck("v1 a 0 sin(0 1 1e6)\nr1 a b 1k\nc1 b 0 1n", stop=100.0, step=1e-9)


def divider(volt: float) -> Deck:
    return deck(f"v1 a 0 {volt!r}\nr1 a b 1k\nr2 b 0 1k", "b")


BROKEN = deck("v1 a 0 1\nx1 a 0 nosuch")


# Right and equal answers


def test_capacitor_charges_as_the_closed_form_says(engine: Engine) -> None:
    found = engine.run(rc())
    moments = found["time"].values
    expected = 1 - np.exp(-moments / (OHM * FARAD))
    assert moments[-1] == pytest.approx(STOP)
    np.testing.assert_allclose(found["out"].values, expected, atol=2e-5)
    np.testing.assert_allclose(found["i(v1)"].values, -(1 - expected) / OHM, atol=2e-8)


def test_engines_give_equal_recordings_of_a_capacitor() -> None:
    assert_equal_recordings(*both(rc()), limit=1e-9)


def test_engines_give_equal_recordings_of_a_spiking_network() -> None:
    network = Network(
        "probe", 2,
        (population_of("x1", 2, load_cell("mif"), {}, 18.31e-3),),
        (Projection("x0", "x1", np.array([[9e-5, 1e-6], [5e-5, 3e-5]]), np.array([[1e-6, 1e-6], [1e-6, 4e-6]])),),
        ConductanceRange(),
    )  # fmt: skip
    stimulus = Stimulus(np.array([0.1, 0.05]), AlphaWave(10e-6, (0.0,), 30e-6))
    one, other = both(make_deck(elaborate(network, "naive", stimulus), 0.25e-6, 30e-6))
    assert np.ptp(one["x1_col0_mem"].values) > 50e-3
    assert len(one.data_vars) > 10
    assert_equal_recordings(one, other, limit=1e-9)


def both(case: Deck) -> list[xr.Dataset]:
    found = []
    for name in BEHAVIOURAL:
        engine = make_engine(name)
        with contextlib.closing(engine):
            found.append(engine.run(case))
    return found


def assert_equal_recordings(one: xr.Dataset, other: xr.Dataset, limit: float) -> None:
    assert list(one.data_vars) == list(other.data_vars)
    for name in one.data_vars:
        again = np.interp(one["time"].values, other["time"].values, other[name].values)
        assert np.abs(again - one[name].values).max() < limit, name


def test_recording_says_units_deck_and_engine(engine: Engine) -> None:
    found = engine.run(rc())
    assert (found["out"].units, found["i(v1)"].units, found["time"].units) == ("V", "A", "s")
    assert found.attrs["deck"] == "case"
    assert found.attrs["deck_sha256"] == rc().digest
    assert re.fullmatch(r"ngspice(-shared)?-\d+", found.attrs["engine"])
    assert list(found.data_vars) == ["out", "i(v1)"]


def test_same_deck_gives_the_same_bits_again(engine: Engine) -> None:
    first, second = engine.run(rc()), engine.run(rc())
    assert first["out"].values.tobytes() == second["out"].values.tobytes()


@pytest.mark.parametrize("where", ["home", "current folder"])
def test_initialisation_file_of_the_user_changes_nothing(
    where: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A .spiceinit with another temperature doubles the resistor of any deck that reads it."""
    warm = deck("v1 a 0 1\nr1 a b 1k tc1=0.01\nr2 b 0 1k", "b")
    (tmp_path / ".spiceinit").write_text("option temp=127\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    if where == "current folder":
        monkeypatch.chdir(tmp_path)
    assert float(engine.run(warm)["b"][-1]) == pytest.approx(0.5)


def test_simulator_runs_with_one_thread(tmp_path: Path, fake: Fake) -> None:
    engine = fake('printf "%s" "$OMP_NUM_THREADS" > "$OUT"/threads')
    with pytest.raises(NoOutput, match="wrote no data"):
        engine.run(divider(1.0))
    assert (tmp_path / "threads").read_text() == "1"


# Notes and warnings are no errors


def test_deck_that_needs_gmin_stepping_is_no_failure(engine: Engine) -> None:
    latch = "\n".join([
        "v1 vdd 0 5", "r1 vdd a 10k", "r2 vdd b 10k",
        "b1 a 0 i=1e-12*exp(min(40,v(b)/0.026))", "b2 b 0 i=1e-12*exp(min(40,v(a)/0.026))",
    ])  # fmt: skip
    assert np.isfinite(engine.run(deck(latch, "a"))["a"].values).all()


def test_deck_that_converges_by_source_stepping_is_no_failure(engine: Engine) -> None:
    """Both ways of gmin stepping fail on this deck of ngspice 39, the third way finds the one solution."""
    case = deck("v1 vdd 0 5\nr1 vdd a 1e5\nr2 a 0 1e4\nb1 a 0 i=0.01*tanh(200*(v(a)-0.618))", "a")
    root = brentq(lambda v: (5 - v) / 1e5 - v / 1e4 - 0.01 * np.tanh(200 * (v - 0.618)), 0.0, 5.0)
    assert engine.run(case)["a"].values == pytest.approx(root, abs=1e-4)


@pytest.mark.parametrize(
    "title", ["mismatch study", "syntax error study", "singular matrix factorisation", "no convergence"]
)
def test_title_that_reads_like_a_failure_is_no_failure(title: str, engine: Engine) -> None:
    found = engine.run(replace(divider(1.0), title=title))
    assert float(found["b"][-1]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "log",
    [
        "", "Note: No compatibility mode selected!", "Circuit: * network reduced", "No. of Data Rows : 59",
        "Warning: Unsupported Ngspice version 39", "Note: Starting dynamic gmin stepping",
        "Trying gmin =   1.0000E-12 Note: One successful gmin step", "Note: Dynamic gmin stepping completed",
        "Note: True gmin stepping completed", "Note: Source stepping completed", "Note: Transient op finished successfully",
        "Warning: v1: no DC value, transient time 0 value used", "Reference value :  1.00000e-06",
    ],
)  # fmt: skip
def test_line_that_reports_no_failure_is_none(log: str) -> None:
    assert failure_in(f"before\n{log}\nafter") is None


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (ConvergenceError, "doAnalyses: TRAN:  Timestep too small; initial timepoint: trouble with node \"b\""),
        (ConvergenceError, "Error: Transient op failed, timestep too small"),
        (ConvergenceError, "Warning: singular matrix:  check node a"),
        (ConvergenceError, "doAnalyses: iteration limit reached"),
        (DeckError, "Error: circuit not parsed."),
        (DeckError, "Error: unknown subckt: x1 a 0 nosuch"),
        (DeckError, "warning, can't find model 'bar' from line"),
        (DeckError, "Undefined parameter [gp]"),
        (DeckError, "Error: Could not find include file models/x.lib"),
        (DeckError, "    Simulation interrupted due to error!"),
        (DeckError, "Error: something not seen before"),
    ],
)  # fmt: skip
def test_line_of_a_failure_is_found_among_others(kind: type[SimulationError], line: str) -> None:
    assert failure_in(f"Note: No compatibility mode selected!\n{line}\nNo. of Data Rows : 3") == (kind, line.strip())


def test_gravest_kind_wins_over_the_first_line() -> None:
    log = "Error: run aborted\ndoAnalyses: TRAN:  Timestep too small\n"
    assert failure_in(log) == (ConvergenceError, "doAnalyses: TRAN:  Timestep too small")


def test_tail_is_the_last_lines_that_say_something() -> None:
    assert tail("a\n\n b \nc\nd\n\n") == "b | c | d"
    assert not tail("")


# Failures of real simulations, the same in both engines


@pytest.mark.parametrize(
    ("case", "kind", "message"),
    [
        (BROKEN, DeckError, r"deck 'case': .*says: Error: unknown subckt: x1 a 0 nosuch.*Look at the line that the log names"),
        (deck("v1 a 0 1\nq1 a b 0 nomodel"), DeckError, r"says: .*(?:can't find model|not parsed|unknown)"),
        (deck("v1 a 0 1\nr1 a 0 {rx}"), DeckError, r"says: .*(?:[Uu]ndefined parameter|rror)"),
        (deck("v1 a 0 1\nr1 a 0 1k\nb1 b 0 v=nofunction(v(a))"), DeckError, r"says: .*rror"),
        (deck("v1 a 0 1\n.include nosuchfile.lib"), DeckError, r"says: .*nosuchfile"),
        (deck("v1 a 0 1\nv2 a 0 2\nr1 a 0 1k"), ConvergenceError, r"says: .*(?:singular|too small|failed).*Lower the largest time step"),
        (deck("i1 0 a 1\nc1 a 0 1p"), ConvergenceError, r"says: .*singular matrix.*check node a"),
        (deck("v1 a 0 1\nr1 a b 1k\nb1 b 0 i=v(b)>0.5 ? 1e9*(v(b)-0.2) : -1e9", "b"), ConvergenceError, r"says: .*(?:too small|failed)"),
        (replace(divider(1.0), nodes=("b", "nosuch")), MissingNode, r"1 of 2 asked signals are not in the output, first nosuch.*spelling"),
        (replace(divider(1.0), branches=("v9",)), MissingNode, r"1 of 2 asked signals .*first i\(v9\)"),
        (replace(divider(1.0), nodes=("nosuch",)), MissingNode, r"nosuch"),
    ],
)  # fmt: skip
def test_failure_has_its_kind_and_says_what_the_simulator_said(
    case: Deck, kind: type[SimulationError], message: str, engine: Engine, kept: Path
) -> None:
    with pytest.raises(SimulationError, match=message) as caught:
        engine.run(case)
    assert type(caught.value) is kind
    assert caught.value.deck == "case"
    if isinstance(engine, NgspiceEngine):
        folder = caught.value.folder
        assert folder is not None
        assert folder.parent == kept
        assert f"Kept folder: {folder}." in str(caught.value)
        assert {"deck.cir", "case.inc", "log.txt"} <= {path.name for path in folder.iterdir()}
        assert (folder / "log.txt").stat().st_size > 0


def test_failure_leaves_the_engine_usable(engine: Engine) -> None:
    for case in (BROKEN, deck("v1 a 0 1\nv2 a 0 2")):
        assert float(engine.run(divider(3.0))["b"][-1]) == pytest.approx(1.5)
        with pytest.raises(SimulationError, match="says"):
            engine.run(case)
    assert float(engine.run(divider(5.0))["b"][-1]) == pytest.approx(2.5)


def test_folder_is_gone_after_success(kept: Path) -> None:
    make_engine("ngspice").run(rc())
    assert list(kept.iterdir()) == []


def test_timeout_is_said_with_its_seconds_and_the_next_deck_runs(engine: Engine) -> None:
    engine.run(divider(1.0))  # the helper is up
    started = time.monotonic()
    with pytest.raises(SimulationTimeout, match=r"deck 'case': no end after 0\.3 s\. Raise timeout_s"):
        engine.run(endless(), timeout_s=0.3)
    assert time.monotonic() - started < 5
    assert float(engine.run(divider(1.0))["b"][-1]) == pytest.approx(0.5)


def test_file_of_a_deck_cannot_leave_its_folder(tmp_path: Path) -> None:
    case = Deck("case", {"../escaped.inc": "r1 a 0 1\n"}, Transient(1e-5, 1e-6), ("a",))
    with pytest.raises(DeckError, match=r"file name '\.\./escaped\.inc' points outside of"):
        make_engine("ngspice").run(case)
    assert not list(tmp_path.rglob("escaped.inc"))


# Failures that a script plays


Fake = Callable[[str], NgspiceEngine]


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Return a maker of engines whose ngspice is a shell script; ``$OUT`` is the test's folder."""

    def make(body: str) -> NgspiceEngine:
        return NgspiceEngine(Program(script(tmp_path / "fake-ngspice", body, tmp_path), 39))

    return make


def script(path: Path, body: str, out: Path | None = None) -> Path:
    path.write_text(f"#!/bin/sh\nOUT='{out or path.parent}'\n{body}\n")
    path.chmod(0o755)
    return path


def raw_bytes(
    columns: dict[str, Sequence[float] | NDArray[np.float64]], points: int | None = None, flags: str = "real"
) -> bytes:
    """Return a binary raw file, written from its description in the manual of ngspice."""
    values = list(zip(*columns.values(), strict=True))
    head = ["Title: case", "Date: now", "Plotname: Transient Analysis", f"Flags: {flags}", f"No. Variables: {len(columns)}",
            f"No. Points: {len(values) if points is None else points}", "Variables:"]  # fmt: skip
    head += [f"\t{k}\t{name}\t{'time' if name == 'time' else 'voltage'}" for k, name in enumerate(columns)]
    body = b"".join(struct.pack(f"<{len(columns)}d", *row) for row in values)
    return ("\n".join([*head, "Binary:"]) + "\n").encode() + body


GOOD: dict[str, Sequence[float]] = {"time": [0.0, 5e-6, 1e-5], "v(b)": [0.5, 0.5, 0.5]}


def play(fake: Fake, tmp_path: Path, content: bytes) -> NgspiceEngine:
    (tmp_path / "played.raw").write_bytes(content)
    return fake('cp "$OUT/played.raw" out.raw')


def test_played_raw_file_that_is_whole_is_taken(fake: Fake, tmp_path: Path) -> None:
    found = play(fake, tmp_path, raw_bytes(GOOD)).run(divider(1.0))
    assert found["b"].values.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (raw_bytes(GOOD)[:-1], RawFileError, r"out\.raw: it is cut short.*Check the disk space, then run again"),
        (raw_bytes(GOOD)[:-40], RawFileError, r"out\.raw: it is cut short"),
        (raw_bytes(GOOD)[:60], RawFileError, r"out\.raw: "),
        (b"\x00\xff" * 50, RawFileError, r"out\.raw: "),
        (b"", NoOutput, r"ended with status 0 and wrote no data"),
        (raw_bytes({"time": [], "v(b)": []}), RawFileError, r"0 points: the simulation ended before the first one"),
        (raw_bytes({**GOOD, "v(b)": [0.5, np.nan, np.inf]}), NotFinite, r"b is not finite in 2 points\..*zero resistances"),
        (raw_bytes({**GOOD, "time": [0.0, np.nan, 1e-5]}), NotFinite, r"time is not finite in 1 points"),
        (raw_bytes({**GOOD, "time": [0.0, 5e-6, 9.9e-6]}), StoppedEarly,
         r"the last time point is 9\.9e-06 s, asked were 1e-05 s\..*time step that failed"),
        (raw_bytes({**GOOD, "time": [0.0, 1e-5, 1e-3]}), StoppedEarly, r"the last time point is 0\.001 s"),
        (raw_bytes({"time": [0.0, 1e-5, 0.0, 1e-5], "v(b)": [0.5] * 4}), StoppedEarly, r"time runs backwards.*more than one run"),
        (raw_bytes({"v(b)": [0.5, 0.5]}), NoOutput, r"the output holds no time point"),
        (raw_bytes({"time": [0.0, 1e-5], "v(c)": [0.5, 0.5]}), MissingNode, r"1 of 1 asked signals .*first b\."),
    ],
)  # fmt: skip
def test_doubtful_output_is_never_returned(
    content: bytes, kind: type[SimulationError], message: str, fake: Fake, tmp_path: Path
) -> None:
    with pytest.raises(SimulationError, match=message) as caught:
        play(fake, tmp_path, content).run(divider(1.0))
    assert type(caught.value) is kind
    assert caught.value.folder is not None
    assert (caught.value.folder / "deck.cir").is_file()


def test_real_raw_file_cut_short_is_found_out(fake: Fake, tmp_path: Path) -> None:
    engine = fake('/usr/bin/env ngspice "$@"; status=$?; truncate -s -8 out.raw; exit $status')
    with pytest.raises(RawFileError, match=r"out\.raw: it is cut short"):
        engine.run(rc())


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        ("kill -9 $$", SimulatorKilled, r"ended by signal 9 \(Killed\)\. Check the memory left on the machine"),
        ("kill -SEGV $$", SimulatorKilled, r"ended by signal 11 \(Segmentation fault\)"),
        ("echo odd; exit 3", SimulatorKilled, r"ngspice ended with status 3: odd\."),
        ("exit 0", NoOutput, r"ngspice ended with status 0 and wrote no data: .*exits with 0 even when it did nothing"),
        ("echo one; echo two; exit 0", NoOutput, r"wrote no data: one \| two\."),
        ("echo 'Error: circuit not parsed.'; exit 0", DeckError, r"ngspice says: Error: circuit not parsed"),
        ("echo 'doAnalyses: TRAN:  Timestep too small'; exit 1", ConvergenceError, r"ngspice says: doAnalyses: TRAN:  Timestep"),
        ("printf 'Error: \\377\\376 odd bytes\\n'; exit 1", DeckError, r"ngspice says: Error: .* odd bytes"),
    ],
)  # fmt: skip
def test_end_of_the_simulator_is_told_apart(body: str, kind: type[SimulationError], message: str, fake: Fake) -> None:
    with pytest.raises(SimulationError, match=message) as caught:
        fake(body).run(divider(1.0))
    assert type(caught.value) is kind
    assert caught.value.folder is not None
    assert f"Kept folder: {caught.value.folder}." in str(caught.value)


def test_children_of_a_simulator_that_timed_out_are_gone_too(fake: Fake, tmp_path: Path) -> None:
    engine = fake('echo $$ > "$OUT/pids"; sleep 60 & echo $! >> "$OUT/pids"; sleep 60')
    with pytest.raises(SimulationTimeout, match=r"no end after 0\.5 s") as caught:
        engine.run(divider(1.0), timeout_s=0.5)
    pids = [int(word) for word in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert wait_for(lambda: not any(map(alive, pids)))
    assert caught.value.folder is not None


def test_real_ngspice_that_timed_out_is_gone(kept: Path) -> None:
    before = children()
    with pytest.raises(SimulationTimeout, match=r"no end after 0\.2 s"):
        make_engine("ngspice").run(endless(), timeout_s=0.2)
    assert children() == before


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def children() -> set[int]:
    """Return the processes that this one started and that still run."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state not in "ZX":
                found.add(int(path.parent.name))
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


# Finding the simulator


def test_ngspice_is_found_in_path_and_tells_its_version() -> None:
    found = find_ngspice()
    assert found.path.is_file()
    assert found.version >= 36
    assert NgspiceEngine().name == f"ngspice-{found.version}"


def test_argument_comes_before_the_variable_and_the_variable_before_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, variable = (script(tmp_path / name, f"echo 'ngspice-{v} : x'") for name, v in (("a", 41), ("b", 42)))
    monkeypatch.setenv("MEMPROP_NGSPICE", str(variable))
    assert find_ngspice() == Program(variable, 42)
    assert find_ngspice(given) == Program(given, 41)


def test_relative_path_of_ngspice_works_from_the_folder_of_a_deck(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "ngspice").symlink_to(find_ngspice().path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMPROP_NGSPICE", "tools/ngspice")
    assert float(make_engine("ngspice").run(divider(1.0))["b"][-1]) == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["ngspice"])
def test_missing_ngspice_is_said_with_how_to_install_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("MEMPROP_NGSPICE", raising=False)
    message = r"ngspice not found in PATH\. Debian/Ubuntu: sudo apt-get install ngspice.*or set MEMPROP_NGSPICE"
    with pytest.raises(EngineError, match=message):
        make_engine(name)


def test_variable_that_names_nothing_is_said_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMPROP_NGSPICE", "/nowhere/ngspice")
    with pytest.raises(EngineError, match=r"ngspice not found at /nowhere/ngspice\. Debian"):
        find_ngspice()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "echo '** ngspice-27 : Circuit level simulation program'",
            r"tool is ngspice 27; 36 or newer is needed\. Debian",
        ),
        ("echo 'ngspice 35 plus'", r"tool is ngspice 35; 36 or newer is needed"),
        ("echo 'Spectre 21.1'", r"tool does not answer as ngspice: 'Spectre 21\.1'\. Debian"),
        ("exit 1", r"tool does not answer as ngspice: ''"),
    ],
)
def test_other_or_older_program_is_refused(body: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=message):
        find_ngspice(script(tmp_path / "tool", body))


def test_file_that_is_no_program_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tool"
    path.write_bytes(b"\x7fELF no program")
    path.chmod(0o755)
    with pytest.raises(EngineError, match=r"tool does not answer \(.*Exec format error"):
        find_ngspice(path)


def test_program_that_vanished_since_it_was_found_is_an_error_of_the_engine(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="gone"):
        NgspiceEngine(Program(tmp_path / "gone", 39)).run(divider(1.0))


def test_missing_library_is_said_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(
        EngineError, match=r"libngspice not found\. Debian/Ubuntu: sudo apt-get install ngspice libngspice0"
    ):
        make_engine("ngspice-shared")


def test_unknown_engine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(EngineError, match=r"unknown engine 'hspice'\. Known: ngspice, ngspice-shared"):
        make_engine("hspice")


def test_library_that_cannot_be_loaded_is_an_error_of_the_engine_and_does_not_hang() -> None:
    with contextlib.closing(SharedEngine(library="/nowhere/libngspice.so")) as engine:
        with pytest.raises(
            EngineError, match=r"helper process with /nowhere/libngspice\.so does not start\. Debian/Ubuntu: sudo"
        ):
            engine.run(divider(1.0), timeout_s=30)
        assert find_libngspice() != "/nowhere/libngspice.so"


# Errors travel between processes


@pytest.mark.parametrize("kind", [SimulationError, *SimulationError.__subclasses__()])
@pytest.mark.parametrize("folder", [None, Path("/tmp/kept")])
def test_error_survives_the_way_from_another_process(kind: type[SimulationError], folder: Path | None) -> None:
    error = kind("case", "it broke.", folder)
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)
    assert (again.deck, again.reason, again.folder, again.advice) == ("case", "it broke.", folder, kind.remedy)


def test_every_error_of_a_simulation_is_an_error_of_memprop_with_its_own_remedy() -> None:
    kinds = SimulationError.__subclasses__()
    assert len(kinds) == 10
    assert all(issubclass(kind, MempropError) for kind in kinds)
    assert len({kind.remedy for kind in kinds}) == len(kinds)


# Many decks


def test_many_decks_give_each_its_own_answer(engine: Engine) -> None:
    found = dict(run_many(engine, (divider(float(k)) for k in range(1, 7)), workers=2))
    assert {k: round(float(r["b"][-1]), 6) for k, r in found.items() if isinstance(r, xr.Dataset)} == {
        k: (k + 1) / 2 for k in range(6)
    }


def test_failing_decks_stop_none_of_the_others(engine: Engine) -> None:
    decks = [divider(1.0), BROKEN, divider(3.0), endless(), deck("v1 a 0 1\nv2 a 0 2"), divider(6.0)]
    found = dict(run_many(engine, decks, workers=2, timeout_s=2.0))
    kinds = {k: type(r).__name__ for k, r in found.items()}
    assert kinds == {
        0: "Dataset",
        1: "DeckError",
        2: "Dataset",
        3: "SimulationTimeout",
        4: "ConvergenceError",
        5: "Dataset",
    }
    assert float(found[5]["b"][-1]) == pytest.approx(3.0)  # pyright: ignore[reportIndexIssue]


@dataclass
class Pretend:
    """An engine that takes its time and counts."""

    name: str = "pretend"
    now: int = 0
    most: int = 0
    runs: int = 0
    slow: frozenset[str] = frozenset()
    lock: threading.Lock = field(default_factory=threading.Lock)
    error: Exception | None = None

    def abort(self) -> None:
        """Nothing runs elsewhere."""

    def run(self, deck: Deck, timeout_s: float = 600.0) -> xr.Dataset:
        with self.lock:
            self.now, self.runs = self.now + 1, self.runs + 1
            self.most = max(self.most, self.now)
        time.sleep(0.3 if deck.title in self.slow else 0.01)
        with self.lock:
            self.now -= 1
        if self.error:
            raise self.error
        return xr.Dataset(attrs={"deck": deck.title})

    def close(self) -> None: ...


def titled(count: int) -> list[Deck]:
    return [replace(divider(1.0), title=f"deck{k}") for k in range(count)]


def test_results_come_as_they_finish_with_the_index_of_their_deck() -> None:
    engine = Pretend(slow=frozenset({"deck0"}))
    found = [(k, r.attrs["deck"]) for k, r in run_many(engine, titled(6), workers=2) if isinstance(r, xr.Dataset)]
    assert sorted(found) == [(k, f"deck{k}") for k in range(6)]
    assert found[0][0] != 0


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_no_more_decks_exist_than_two_for_each_worker(workers: int) -> None:
    engine, made, done, most = Pretend(), 0, 0, 0

    def source() -> Iterator[Deck]:
        nonlocal made, most
        for case in titled(20):
            made += 1
            most = max(most, made - done)
            yield case

    for _ in run_many(engine, source(), workers=workers):
        done += 1
    assert done == 20
    assert engine.most <= workers
    assert most <= 2 * workers + workers  # those that finished together are handed out one after the other


def test_who_stops_listening_stops_the_rest() -> None:
    engine = Pretend()
    results = run_many(engine, titled(50), workers=2)
    next(results)
    results.close()  # pyright: ignore[reportAttributeAccessIssue] - it is a generator
    assert engine.runs < 10
    assert engine.now == 0


def test_no_deck_gives_no_result() -> None:
    assert list(run_many(Pretend(), [])) == []


def test_fault_that_is_no_failure_of_a_simulation_is_not_hidden() -> None:
    with pytest.raises(EngineError, match="the engine is gone"):
        list(run_many(Pretend(error=EngineError("the engine is gone")), titled(3), workers=2))


@pytest.mark.parametrize("workers", [0, -1])
def test_less_than_one_worker_is_refused(workers: int) -> None:
    with pytest.raises(InputError, match=rf"workers = {workers}: at least 1 is needed"):
        list(run_many(Pretend(), titled(1), workers=workers))


# Helpers of the shared engine


def test_helper_serves_many_decks(helpers: SharedEngine) -> None:
    before = children()
    helpers.run(divider(1.0))
    (first,) = children() - before
    helpers.run(divider(2.0))
    assert children() - before == {first}


def test_helper_is_replaced_after_its_share_of_runs(helpers: SharedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "RUNS_PER_HELPER", 2)
    before, seen = children(), []
    for k in range(5):
        assert float(helpers.run(divider(float(k)))["b"][-1]) == pytest.approx(k / 2)
        seen.append(children() - before)
    assert [len(now) for now in seen] == [1, 0, 1, 0, 1]
    assert len(set().union(*seen)) == 3


def test_helper_killed_while_simulating_costs_only_that_deck(helpers: SharedEngine) -> None:
    before, caught = children(), []

    def work() -> None:
        helpers.run(divider(1.0))
        ready.set()
        try:
            helpers.run(endless())
        except SimulationError as error:
            caught.append(error)

    ready = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(20)
    time.sleep(0.5)  # until the helper has taken the deck; one that dies before is replaced
    (pid,) = children() - before
    os.kill(pid, signal.SIGKILL)
    thread.join(20)
    assert [type(error) for error in caught] == [SimulatorKilled]
    assert "deck 'case': the helper process with libngspice ended while simulating" in str(caught[0])
    assert float(helpers.run(divider(4.0))["b"][-1]) == pytest.approx(2.0)


def test_helper_killed_between_decks_is_not_noticed(helpers: SharedEngine) -> None:
    before = children()
    helpers.run(divider(1.0))
    (pid,) = children() - before
    os.kill(pid, signal.SIGKILL)
    assert wait_for(lambda: not alive(pid))
    assert float(helpers.run(divider(4.0))["b"][-1]) == pytest.approx(2.0)


def test_helper_is_gone_after_a_timeout(helpers: SharedEngine) -> None:
    before = children()
    helpers.run(divider(1.0))
    with pytest.raises(SimulationTimeout, match=r"no end after 0\.2 s"):
        helpers.run(endless(), timeout_s=0.2)
    assert children() == before


def test_close_ends_the_helpers_of_all_threads() -> None:
    before, engine = children(), SharedEngine()
    list(run_many(engine, (divider(float(k)) for k in range(4)), workers=2))
    assert children() - before
    engine.close()
    assert children() == before
    engine.close()  # a second time does no harm


def test_helper_ends_when_its_parent_does(tmp_path: Path) -> None:
    """A killed training must not leave helpers behind: their stdin ends with it."""
    code = (
        "import os; from memprop.spice.shared import SharedEngine; from memprop.deck.deck import Deck, Transient\n"
        "engine = SharedEngine()\n"
        "engine.run(Deck('t', {'a.inc': 'v1 a 0 1\\nr1 a 0 1\\n'}, Transient(1e-5, 1e-6), ('a',)))\n"
        "print([h.process.pid for h in engine._idle][0], flush=True); os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).parents[1]
    interpreter = sys.executable
    done = subprocess.run([interpreter, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert wait_for(lambda: not alive(int(done.stdout)))


# Recordings


def test_recording_without_a_time_point_is_refused() -> None:
    with pytest.raises(NoOutput, match=r"deck 'case': the output holds no time point"):
        make_recording(divider(1.0), ["time"], np.zeros((0, 1)), {}, "engine", None)
