"""Many decks in one process: the same results as one by one, whatever happens to some of them.

The reference of each result is a run of its deck in a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from memprop.circuit.cell import load_cell
from memprop.circuit.elaborate import elaborate
from memprop.circuit.network import Network, Projection, population_of
from memprop.circuit.stimulus import AlphaWave, Stimulus
from memprop.conductance.pair import ConductanceRange
from memprop.deck.changes import Change, changes
from memprop.deck.deck import Deck, Transient
from memprop.deck.ngspice import deck_under, make_deck
from memprop.errors import (
    ConvergenceError,
    DeckError,
    InputError,
    MissingNode,
    SimulationError,
    SimulationTimeout,
    SimulatorKilled,
)
from memprop.spice.batch import LARGEST, is_whole
from memprop.spice.engine import Engine, make_engine
from memprop.spice.find import find_ngspice
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.recording import Recording, _dataset, make_recording
from memprop.spice.shared import SharedEngine

SECOND = os.environ.get("MEMPROP_NGSPICE_OSDI", "")
"""An ngspice with OSDI, where there is one."""
PROGRAMS = ("ngspice", "vacask", *(["ngspice-osdi"] if SECOND else []))
NANOVOLT = 1e-9
SAME_STEP = 1e-5
"""Largest difference of time points, in steps: VACASK sums in another order in a longer file, and its step control magnifies that."""


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder in which engines work and keep what failed."""
    folder = tmp_path / "kept"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def engine_of(name: str) -> Engine:
    return NgspiceEngine(find_ngspice(Path(SECOND)), osdi=True) if name == "ngspice-osdi" else make_engine(name)


@pytest.fixture(params=[*PROGRAMS, "ngspice-shared"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    made = engine_of(request.param)
    yield made
    made.close()


@pytest.fixture(params=PROGRAMS)
def program(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Give an engine that starts a program."""
    made = engine_of(request.param)
    yield made
    made.close()


def deck(text: str, *nodes: str, branches: tuple[str, ...] = (), stop: float = 1e-5, step: float = 1e-7) -> Deck:
    return Deck(
        "case", {"head.inc": "r9 z 0 1e3\n", "case.inc": text + "\n"}, Transient(stop, step), nodes or ("a",), branches
    )


def source(volt: float) -> Deck:
    return replace(deck(f"v1 a 0 {volt!r}\nr1 a b 1e3\nr2 b 0 1e3", "b"), title=f"source {volt!r}")


def slow(volt: float) -> Deck:
    """Return a deck that takes some tenths of a second."""
    text = f"v1 in 0 sin(0 1 1e6)\nr1 in a 1e3\nc1 a 0 1e-9\nv2 b 0 {volt!r}\nr2 b 0 1e3"
    return replace(deck(text, "b", stop=1e-5, step=1e-10), title=f"slow {volt!r}")


def loop(gain: float) -> Deck:
    """Return a source that drives itself, which has no solution at a gain of one: 0 = 0 for its current."""
    return replace(deck(f"e1 b 0 b 0 {gain!r}\nr1 b 0 1e3\nv1 a 0 1.0\nr2 a 0 1e3", "b", "a"), title=f"loop {gain!r}")


def network() -> Network:
    cell = load_cell("mif")
    rng = np.random.default_rng(5)
    first, second = (rng.uniform(1e-6, 6e-5, (2, *shape)) for shape in ((6, 3), (3, 2)))
    return Network(
        "probe", 6,
        (population_of("x1", 3, cell, {}, 18.31e-3), population_of("x2", 2, cell, {}, 18.31e-3)),
        (Projection("x0", "x1", first[0], first[1]), Projection("x1", "x2", second[0], second[1])),
        ConductanceRange(),
    )  # fmt: skip


def image(seed: int, scale: float = 0.1) -> Stimulus:
    amplitude = scale * np.random.default_rng(seed).uniform(0, 1, 6)
    return Stimulus(amplitude, AlphaWave(10e-6, (0.0, 20e-6), 40e-6))


def images(form: Any, count: int) -> list[Deck]:
    circuit = elaborate(network(), form, image(0))
    first = make_deck(circuit, 0.5e-6, 40e-6)
    return [first, *(deck_under(first, circuit, image(seed)) for seed in range(1, count))]


def single(engine: Engine, case: Deck) -> Recording | SimulationError:
    try:
        return engine.run(case)
    except SimulationError as error:
        return error


def said(error: SimulationError) -> str:
    """Return the message of an error without the name of the folder."""
    return re.sub(r"/\S*memprop-\w+", "", str(error))


def assert_equal(found: list[Recording | SimulationError], expected: list[Recording | SimulationError]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(other, SimulationError):
            assert isinstance(one, SimulationError)
            assert (type(one), said(one)) == (type(other), said(other))
            continue
        assert isinstance(one, xr.Dataset), one
        assert (one.attrs, list(one), one.sizes) == (other.attrs, list(other), other.sizes)
        for name in other:
            assert one[name].attrs == other[name].attrs
            there = np.interp(other.time.values, one.time.values, one[name].values)
            assert float(abs(there - other[name].values).max()) < NANOVOLT
        assert float(abs(one.time.values - other.time.values).max()) < SAME_STEP * float(np.diff(other.time).max())


def assert_as_single(engine: Engine, decks: list[Deck]) -> list[Recording | SimulationError]:
    """Compare with runs of their own, in the other order; return what the batch gave."""
    found = list(engine.run_batch(iter(decks)))
    alone = [single(engine, case) for case in reversed(decks)]
    assert_equal(found, alone[::-1])
    return found


def count_starts(engine: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that will hold the number of each process that ``engine`` starts."""
    started: list[int] = []
    add = engine.running.add
    monkeypatch.setattr(engine.running, "add", lambda process: (started.append(process.pid), add(process)))
    return started


def last(found: Recording | SimulationError, node: str = "b") -> float:
    assert isinstance(found, xr.Dataset), found
    return float(found[node][-1])


# Equal results


def test_images_of_a_network_give_the_results_of_single_runs(engine: Engine) -> None:
    found = assert_as_single(engine, images("reduced", 5))
    swings = [
        max(float(np.ptp(f[f"x1_col{j}_mem"].values)) for j in range(3)) for f in found if isinstance(f, xr.Dataset)
    ]
    assert min(swings) > 50e-3
    assert len(set(swings)) == 5


def test_images_share_one_process(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started = count_starts(program, monkeypatch)
    assert len(list(program.run_batch(images("reduced", 4)))) == 4
    assert len(started) == 1


def test_a_process_takes_so_many_decks_and_no_more(program: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    started = count_starts(program, monkeypatch)
    volts = [0.01 * k for k in range(LARGEST + 3)]
    found = list(program.run_batch(map(source, volts)))
    assert [last(f) for f in found] == pytest.approx([volt / 2 for volt in volts], abs=1e-12)
    assert len(started) == 2


def test_helpers_are_replaced_within_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memprop.spice.shared.RUNS_PER_HELPER", 3)
    engine = SharedEngine()
    volts = [0.1 * k for k in range(8)]
    found = list(engine.run_batch(map(source, volts)))
    engine.close()
    assert [last(f) for f in found] == pytest.approx([volt / 2 for volt in volts], abs=1e-12)


def test_full_form_with_a_driver_for_each_row_gives_the_results_of_single_runs(engine: Engine) -> None:
    assert_as_single(engine, images("full", 3))


KINDS = "v1 a 0 {v}\nr1 a b {r}\nr2 b 0 1e3\ng1 0 c a 0 {g}\nrc c 0 1e3\ne1 d 0 a 0 {e}\nrd d 0 1e3\nc1 b 0 {c}\n" \
        "vs f 0 0\nf1 0 h vs {f}\nrh h 0 1e3\nrf a f 1e3\nl1 b k {l}\nrk k 0 1e3\ni1 0 k {i}\nh1 m 0 vs {h}\nrm m 0 1e3"  # fmt: skip
USUAL = {
    "v": "1.0",
    "r": "1e3",
    "g": "1e-3",
    "e": "2.0",
    "c": "1e-10",
    "f": "1.5",
    "l": "1e-4",
    "i": "1e-4",
    "h": "50.0",
}
VALUES = [
    "0",
    "0.0",
    "-0.75",
    "1e-300",
    "-3.0000000000000004e-17",
    "0.12345678901234567",
    "9.8765432109876543e2",
    "5E-4",
]


@pytest.mark.parametrize("kind", USUAL)
def test_every_kind_of_value_is_changed_exactly(program: Any, kind: str) -> None:
    values = [v for v in VALUES if not (kind in "rcl" and float(v) <= 0) and not (kind == "r" and float(v) < 1e-6)]
    if kind == "r":
        values += ["0", "1e15"]
    texts = [KINDS.format(**{**USUAL, kind: value}) for value in ["0.5", *values, USUAL[kind]]]
    assert_as_single(program, [deck(text, *"abcdfhkm", branches=("v1",), stop=1e-6) for text in texts])


def test_a_value_of_seventeen_digits_arrives_with_all_of_them(program: Any) -> None:
    volts = [0.1, 0.12345678901234567, 1.0000000000000002, 2 / 3]
    cases = [deck(f"v1 a 0 {volt!r}\nr1 a 0 1e3", "a") for volt in volts]
    np.testing.assert_allclose([last(f, "a") for f in program.run_batch(cases)], volts, rtol=3e-16)


# Decks that cannot share a process


OTHERS = {
    "other nodes": deck("v1 a 0 1.0\nr1 a b 1e3\nr2 b 0 1e3", "a", "b"),
    "one element more": deck("v1 a 0 1.0\nr1 a b 1e3\nr2 b 0 1e3\nr3 b 0 1e3", "b"),
    "another wire": deck("v1 a 0 1.0\nr1 a b 1e3\nr2 a 0 1e3", "b"),
    "a suffix": deck("v1 a 0 1.0\nr1 a b 2k\nr2 b 0 1e3", "b"),
    "no resistance": deck("v1 a 0 1.0\nr1 a b 0\nr2 b 0 1e3", "b"),
    "another waveform": deck("v1 a 0 pwl(0 0 1e-5 1)\nr1 a b 1e3\nr2 b 0 1e3", "b"),
    "another time": deck("v1 a 0 1.0\nr1 a b 1e3\nr2 b 0 1e3", "b", stop=2e-5),
    "another option": replace(source(1.0), options={"reltol": 1e-5}),
    "another file": replace(source(1.0), files={**source(1.0).files, "more.inc": "r8 y 0 1e3\n"}),
    "inside of a subcircuit": deck(".subckt part p q\nr1 p q 2e3\n.ends\nv1 a 0 1.0\nx1 a b part\nr2 b 0 1e3", "b"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_deck_in_the_middle_gives_its_own_result(engine: Engine, what: str) -> None:
    other = OTHERS[what]
    found = assert_as_single(engine, [source(1.0), source(2.0), other, source(3.0), source(4.0)])
    assert [last(found[k]) for k in (0, 1, 3, 4)] == pytest.approx([0.5, 1.0, 1.5, 2.0])


def test_value_inside_of_a_subcircuit_is_not_changed_from_outside(engine: Engine) -> None:
    text = ".subckt part p q r=1e3\nr1 p q {{r}}\nr3 p q {0!r}\n.ends\nv1 a 0 1.0\nx1 a b part r={1!r}\nr2 b 0 1e3"
    cases = [deck(text.format(*pair), "b") for pair in ((1e3, 1e3), (2e3, 1e3), (2e3, 2e3), (2e3, 5e2))]
    found = assert_as_single(engine, cases)
    both = [1 / (1 / inner + 1 / outer) for inner, outer in ((1e3, 1e3), (2e3, 1e3), (2e3, 2e3), (2e3, 5e2))]
    assert [last(f) for f in found] == pytest.approx([1e3 / (1e3 + r) for r in both])


def test_empty_batch_and_batch_of_one(engine: Engine) -> None:
    assert list(engine.run_batch([])) == []
    assert_as_single(engine, [source(0.3)])


def test_node_that_is_missing_is_missing_in_every_deck(engine: Engine) -> None:
    cases = [replace(source(volt), nodes=("b", "nowhere")) for volt in (1.0, 2.0)]
    assert [type(f) for f in assert_as_single(engine, cases)] == [MissingNode, MissingNode]


# Failures in the middle


def test_deck_without_a_solution_costs_itself_only(engine: Engine) -> None:
    found = assert_as_single(engine, [loop(0.5), loop(0.2), loop(1.0), loop(0.4), loop(0.3)])
    assert [isinstance(f, SimulationError) for f in found] == [False, False, True, False, False]
    assert isinstance(found[2], ConvergenceError)
    assert "deck 'loop 1.0'" in str(found[2])


def test_deck_that_is_refused_costs_itself_only(engine: Engine) -> None:
    broken = deck("v1 a 0 1\nx1 a 0 nosuch\nr2 b 0 1e3", "b")
    found = assert_as_single(engine, [source(1.0), broken, source(2.0)])
    assert isinstance(found[1], DeckError)
    assert [last(found[k]) for k in (0, 2)] == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGKILL, SimulatorKilled), (signal.SIGSTOP, SimulationTimeout)])
def test_program_that_is_killed_or_stands_still_costs_the_deck_in_hand(program: Any, number: int, kind: type) -> None:
    batch = program.run_batch(map(slow, [1.0, 2.0, 3.0, 4.0]), timeout_s=3.0)
    found = [next(batch)]
    os.kill(next(iter(program.running)).pid, number)
    found += list(batch)
    failed = [k for k, f in enumerate(found) if isinstance(f, SimulationError)]
    assert (len(found), failed) == (4, [1])
    error = found[1]
    assert isinstance(error, kind)
    assert isinstance(error, SimulationError)
    assert "deck 'slow 2.0'" in str(error)
    assert "signal 9" in str(error) if number == signal.SIGKILL else "no end after 3 s. Raise timeout_s" in str(error)
    assert error.folder is not None
    assert (error.folder / "log.txt").is_file()
    assert [last(found[k]) for k in (0, 2, 3)] == [1.0, 3.0, 4.0]


def test_helper_that_is_killed_costs_the_deck_in_hand() -> None:
    engine = SharedEngine()
    batch = engine.run_batch(map(slow, [1.0, 2.0, 3.0, 4.0]))
    found = [next(batch)]
    timer = threading.Timer(0.1, engine._busy[0].process.kill)
    timer.start()
    found += list(batch)
    engine.close()
    assert [isinstance(f, SimulatorKilled) for f in found] == [False, True, False, False]
    assert [last(found[k]) for k in (0, 2, 3)] == [1.0, 3.0, 4.0]


def test_helper_that_is_killed_between_two_decks_costs_nothing() -> None:
    engine = SharedEngine()
    batch = engine.run_batch(map(source, [1.0, 2.0, 3.0]))
    found = [next(batch)]
    engine._busy[0].process.kill()
    engine._busy[0].process.wait()
    found += list(batch)
    engine.close()
    assert [last(f) for f in found] == pytest.approx([0.5, 1.0, 1.5])


def test_helper_in_time_trouble_costs_the_deck_in_hand() -> None:
    engine = SharedEngine()
    batch = engine.run_batch(map(slow, [1.0, 2.0, 3.0]), timeout_s=5.0)
    found = [next(batch)]
    os.kill(engine._busy[0].process.pid, signal.SIGSTOP)
    found += list(batch)
    engine.close()
    assert [isinstance(f, SimulationTimeout) for f in found] == [False, True, False]


# Order, laziness, interruption


def test_decks_are_read_no_further_than_one_process_needs(engine: Engine) -> None:
    read: list[int] = []

    def endless() -> Iterator[Deck]:
        for k in range(10_000):
            read.append(k)
            yield source(0.001 * k)

    batch = engine.run_batch(endless())
    assert read == []
    assert [last(next(batch)) for _ in range(3)] == pytest.approx([0.0, 0.0005, 0.001])
    assert len(read) <= LARGEST + 1
    batch.close()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("how", ["close", "interrupt"])
def test_who_wants_no_more_ends_the_process_and_leaves_nothing(program: Any, kept: Path, how: str) -> None:
    batch = program.run_batch(map(slow, [1.0, 2.0, 3.0]))
    assert last(next(batch)) == 1.0
    process = next(iter(program.running))
    assert len(list(kept.iterdir())) == 1
    if how == "close":
        batch.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            batch.throw(KeyboardInterrupt)
    assert process.poll() == -signal.SIGKILL
    assert not program.running
    assert list(kept.iterdir()) == []


def test_interrupt_while_waiting_ends_the_process_and_leaves_nothing(program: Any, kept: Path) -> None:
    batch = program.run_batch(map(slow, [1.0, 2.0, 3.0]))
    next(batch)
    timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        list(batch)
    assert not program.running
    assert list(kept.iterdir()) == []


def test_helper_is_free_again_when_nobody_wants_more() -> None:
    engine = SharedEngine()
    batch = engine.run_batch(map(source, [1.0, 2.0, 3.0]))
    next(batch)
    batch.close()  # pyright: ignore[reportAttributeAccessIssue]
    assert (len(engine._idle), len(engine._busy)) == (1, 0)
    assert last(engine.run(source(0.8))) == pytest.approx(0.4)
    engine.close()


def test_abort_ends_a_batch(engine: Engine) -> None:
    found: list[Recording | SimulationError] = []
    thread = threading.Thread(target=lambda: found.extend(engine.run_batch(slow(0.1 * k) for k in range(200))))
    thread.start()
    time.sleep(1.5)
    engine.abort()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert 0 < len(found) < 200
    assert isinstance(found[-1], SimulatorKilled)
    if not isinstance(engine, SharedEngine):
        assert "the engine was told to abort before. Run the deck again." in str(found[-1])


def test_raw_file_is_removed_when_it_is_read(program: Any, kept: Path) -> None:
    batch = program.run_batch(map(slow, [1.0, 2.0, 3.0]))
    seen = [{path.name for path in kept.glob("*/*.raw")} for _ in batch]
    for k, names in enumerate(seen):
        assert not names & {f"out{k}.raw", f"tran{k + 1}.raw"}
    assert list(kept.iterdir()) == []


# Parts


def test_file_is_whole_only_with_its_last_byte(tmp_path: Path) -> None:
    header = b"Title: t\nDate: now\nPlotname: p\nFlags: real\nNo. Variables: 2\nNo. Points: 3     \nVariables:\n" \
             b"\t0\ttime\ttime\n\t1\tv(a)\tvoltage\nBinary:\n"  # fmt: skip
    whole = header + np.arange(6.0).tobytes()
    path = tmp_path / "out.raw"
    assert not is_whole(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert not is_whole(path)
    path.write_bytes(whole)
    assert is_whole(path)
    path.write_bytes(whole.replace(b"No. Points: 3     ", b"No. Points:       "))
    assert not is_whole(path)


def test_recording_is_what_the_constructor_of_xarray_makes() -> None:
    case = deck("v1 a 0 1.0\nr1 a 0 1e3", "a", branches=("v1",))
    time, volts, amperes = np.linspace(0, 1e-5, 4), np.arange(4.0), -np.arange(4.0)
    found = make_recording(case, ["time", "i(v1)", "v(a)"], np.stack([time, amperes, volts], axis=1), {}, "e", None)
    expected = xr.Dataset(
        {"a": ("time", volts, {"units": "V"}), "i(v1)": ("time", amperes, {"units": "A"})},
        coords={"time": ("time", time, {"units": "s"})},
        attrs={"deck": "case", "deck_sha256": case.digest, "engine": "e"},
    )
    xr.testing.assert_identical(found, expected)
    xr.testing.assert_identical(found.sel(time=1e-5), expected.sel(time=1e-5))
    xr.testing.assert_identical(found.isel(time=slice(2)) + 1, expected.isel(time=slice(2)) + 1)
    xr.testing.assert_identical(
        _dataset({str(k): found.variables[k] for k in found}, found.drop_vars(list(found))), expected
    )


def test_recording_does_not_need_the_inside_of_xarray(monkeypatch: pytest.MonkeyPatch) -> None:
    case, values = deck("v1 a 0 1.0\nr1 a 0 1e3", "a"), np.array([[0.0, 1.0], [1e-5, 2.0]])
    usual = make_recording(case, ["time", "v(a)"], values, {}, "e", None)
    inside = xr.Dataset._construct_direct

    def other(*parts: Any, **named: Any) -> xr.Dataset:
        if len(parts) == 5:
            raise TypeError("of another version")
        return inside(*parts, **named)

    monkeypatch.setattr(xr.Dataset, "_construct_direct", staticmethod(other))
    xr.testing.assert_identical(make_recording(case, ["time", "v(a)"], values, {}, "e", None), usual)


def test_changes_are_named_with_element_parameter_and_value() -> None:
    one = deck("G1 0 a b 0 1e-3\nR1 a 0 1e3\nX1 a part g=1.0 h=2\nv2 z 0 1")
    other = deck("G1 0 a b 0 -2E-3\nR1 a 0 1.5e3\nX1 a part g=1.0 h=3\nv2 z 0 1")
    expected = (Change("g1", "", "-0.002"), Change("r1", "", "1500.0"), Change("x1", "h", "3.0"))
    assert changes(one, other) == expected
    assert changes(one, one) == ()


@pytest.mark.parametrize("what", [what for what in OTHERS if what != "another wire"])
def test_what_is_more_than_a_value_has_no_changes(what: str) -> None:
    assert changes(source(1.0), OTHERS[what]) is None


@pytest.mark.parametrize("form", ["full", "reduced"])
def test_deck_under_another_image_is_that_of_its_circuit(form: Any) -> None:
    circuit = elaborate(network(), form, image(0))
    first = make_deck(circuit, 0.5e-6, 40e-6)
    faint = make_deck(elaborate(network(), form, image(2, 0.0)), 0.5e-6, 40e-6)
    assert deck_under(faint, circuit, image(0)) == first
    other_wave = replace(image(3), wave=AlphaWave(5e-6, (0.0,), 40e-6))
    for stimulus in (image(1), image(2, 0.0), other_wave):
        other = deck_under(first, circuit, stimulus)
        assert other == make_deck(elaborate(network(), form, stimulus), 0.5e-6, 40e-6)
        assert other.digest != first.digest
        same = [name for name, text in other.files.items() if text is first.files[name]]
        assert len(same) == len(first.files) - 2
    with pytest.raises(InputError, match="stimulus has 2 rows; network probe has 6"):
        deck_under(first, circuit, Stimulus(np.ones(2), image(0).wave))


def test_digest_is_that_of_the_parts_written_out() -> None:
    case = images("reduced", 1)[0]
    parts = asdict(case)
    assert parts["verilog"]
    content = {"files": list(parts["files"].items()), "analysis": parts["analysis"], "nodes": parts["nodes"],
               "branches": parts["branches"], "options": list(parts["options"].items()), "verilog": parts["verilog"]}  # fmt: skip
    assert case.digest == hashlib.sha256(json.dumps(content).encode()).hexdigest()
