"""The farm: many decks over worker processes, kept results, failures, kills, interrupts, a cluster."""

from __future__ import annotations

import importlib
import json
import math
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import farm_parts as parts
import numpy as np
import pytest
from farm_parts import Absent, Batching, Deadly, Doomed, Pretend, large, last, marked, mean, ran, rc, titled, wait_for

from memprop.deck.deck import Deck
from memprop.errors import (
    ConvergenceError,
    DeckError,
    EngineError,
    InputError,
    OutputError,
    ReductionError,
    SimulationTimeout,
    SimulatorKilled,
)
from memprop.report.progress import Tally
from memprop.spice import local
from memprop.spice.cache import ResultCache, pack, unpack
from memprop.spice.farm import Farm, Job, Outcome
from memprop.spice.farm_worker import Done, Item
from memprop.spice.local import LocalWorkers, Lost

HERE = Path(__file__).parent


def run(farm: Farm, decks: Any, reduce: Any = last) -> dict[int, Outcome]:
    return {outcome.index: outcome for outcome in farm.run(decks, reduce)}


def value(outcome: Outcome, name: str = "last") -> float:
    assert outcome.result is not None, outcome.error
    return float(outcome.result[name])


def pids(farm: Farm) -> list[int]:
    assert isinstance(farm.workers, LocalWorkers)
    return farm.workers.pids


def family(pid: int) -> dict[int, str]:
    """Return the workers of a process and their simulators, with their commands."""
    marks = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for worker in children.read_text().split():
            with suppress(OSError):  # a short-lived child
                environment = Path(f"/proc/{worker}/environ").read_bytes().split(b"\0")
                marks |= {entry for entry in environment if entry.startswith(b"MEMPROP_FARM_WORKER=")}
    return {found: command for mark in marks for found, command in marked(mark).items()}


def simulators() -> list[int]:
    """Return the running ngspice of this process's farms; other tests have theirs at the same time."""
    return [pid for pid, command in family(os.getpid()).items() if command == "ngspice"]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# Results


@pytest.mark.parametrize("engine", ["ngspice", "vacask"])
def test_each_deck_gets_its_own_answer(engine: str) -> None:
    with Farm(engine, 2) as farm:
        found = run(farm, (rc(float(k), stop=2e-3) for k in range(1, 9)))
    expected = {k: (k + 1) * (1 - math.exp(-2.0)) for k in range(8)}
    assert {k: value(outcome) for k, outcome in found.items()} == pytest.approx(expected, rel=1e-3)
    assert all(outcome.seconds > 0 and not outcome.cached for outcome in found.values())


def test_no_deck_gives_no_result_and_starts_nothing(tmp_path: Path) -> None:
    with Farm(Pretend(tmp_path)) as farm:
        assert run(farm, []) == {}
        assert farm._workers is None


def test_workers_stay_for_the_next_call(tmp_path: Path) -> None:
    with Farm(Pretend(tmp_path), 1) as farm:
        run(farm, titled("a"))
        before = pids(farm)
        assert value(run(farm, titled("abc"))[0]) == 3.0
        assert pids(farm) == before


def test_no_more_decks_exist_than_a_few_batches(tmp_path: Path) -> None:
    made = done = most = 0

    def source() -> Iterator[Deck]:
        nonlocal made, most
        for deck in titled(*(f"deck{k}" for k in range(120))):
            made += 1
            most = max(most, made - done)
            yield deck

    with Farm(Pretend(tmp_path), 2, batch=4) as farm:
        for _ in farm.run(source(), last):
            done += 1
    assert done == 120
    assert most <= 2 * 4 + 2 * (4 + local.FEW) + 1  # those that wait, and those with the workers


def test_batches_grow_and_shrink_and_an_engine_gets_them_whole(tmp_path: Path) -> None:
    with Farm(Batching(tmp_path), 1, batch=8) as farm:
        found = run(farm, titled(*(f"deck{k}" for k in range(60)), "fails now", "deck"))
    sizes = [int(line) for line in (tmp_path / "batches").read_text().split()]
    assert sizes[:4] == [1, 2, 4, 8]
    assert max(sizes) == 8
    assert sum(sizes) == 62
    assert isinstance(found[60].error, ConvergenceError)
    assert value(found[61]) == 4.0


def test_two_workers_are_almost_twice_as_fast_as_one(tmp_path: Path) -> None:
    """A simulation is a pause here, so that only the farm itself is measured, on however busy a machine."""
    seconds = {}
    for workers in (1, 2):
        with Farm(Pretend(tmp_path, 0.05), workers) as farm:
            run(farm, titled("warm", "up", "all"))
            assert len(pids(farm)) == workers
            start = time.monotonic()
            run(farm, titled(*(f"deck{k}" for k in range(60))))
            seconds[workers] = time.monotonic() - start
    assert seconds[1] / seconds[2] > 1.8


# Failures


def test_failing_decks_stop_none_of_the_others() -> None:
    bad = Deck("bad", {"bad.inc": "x1 b 0 nosuch\n"}, rc(1.0).analysis, ("b",))
    singular = Deck("loop", {"loop.inc": "v1 b 0 1\nv2 b 0 2\n"}, rc(1.0).analysis, ("b",))
    with Farm("ngspice", 2) as farm:
        found = run(farm, [rc(1.0), bad, rc(2.0), singular, rc(3.0)])
    kinds = {k: type(outcome.error) for k, outcome in found.items() if outcome.error}
    assert kinds == {1: DeckError, 3: ConvergenceError}
    assert [round(value(found[k])) for k in (0, 2, 4)] == [1, 2, 3]
    assert [found[k].retries for k in (1, 3)] == [(), ()]
    for k in (1, 3):
        error = found[k].error
        assert error is not None
        assert error.folder is not None
        assert (error.folder / "deck.cir").is_file(), "the folder of a failed deck is kept"


def test_fault_of_the_deck_is_not_tried_again_and_chance_is(tmp_path: Path) -> None:
    with Farm(Pretend(tmp_path), 1, timeout_s=7.0) as farm:
        found = run(farm, titled("fails", "late-once", "late", "fine"))
    assert sorted(ran(tmp_path)) == ["fails", "fine", "late", "late", "late-once", "late-once"]
    assert found[1].retries == ("no end after 7 s.",)
    assert value(found[1]) == 9.0
    assert isinstance(found[2].error, SimulationTimeout)
    assert found[2].retries == ("no end after 7 s.",)


def test_number_of_retries_is_that_asked(tmp_path: Path) -> None:
    with Farm(Pretend(tmp_path), 1, retries=3) as farm:
        assert len(run(farm, titled("late"))[0].retries) == 3
    assert ran(tmp_path) == ["late"] * 4


def test_death_of_a_worker_costs_the_deck_in_hand_only(tmp_path: Path) -> None:
    names = [*(f"deck{k}" for k in range(20)), "dies-once", *(f"more{k}" for k in range(20))]
    with Farm(Pretend(tmp_path), 2, cache=tmp_path) as farm:
        found = run(farm, titled(*names))
    assert {k: value(outcome) for k, outcome in found.items()} == {k: len(name) for k, name in enumerate(names)}
    assert sorted(ran(tmp_path)) == sorted([*names, "dies-once"])
    assert [outcome.retries for outcome in found.values() if outcome.retries] == [
        ("the worker process ended by signal 9.",)
    ]


def test_deck_that_kills_every_worker_fails_alone(tmp_path: Path) -> None:
    with Farm(Pretend(tmp_path), 2) as farm:
        found = run(farm, titled("a", "dies", "b", "c"))
    assert isinstance(found[1].error, SimulatorKilled)
    assert "deck 'dies': the worker process ended by signal 9." in str(found[1].error)
    assert [value(found[k]) for k in (0, 2, 3)] == [1.0, 1.0, 1.0]


def test_simulator_of_a_killed_worker_dies_too_and_its_deck_is_run_again() -> None:
    slow = rc(2.0, stop=5e-3)
    slow = replace(slow, analysis=replace(slow.analysis, max_step=1e-8))
    with Farm("ngspice", 1) as farm:
        results = farm.run([rc(1.0), slow], last)
        assert value(next(results)) == pytest.approx(1 - math.exp(-5.0), rel=1e-3)
        (worker,) = pids(farm)
        assert wait_for(simulators)
        seen = simulators()
        os.kill(worker, signal.SIGKILL)
        outcome = next(results)
        assert value(outcome) == pytest.approx(2 * (1 - math.exp(-5.0)), rel=1e-3)
        assert outcome.retries == ("the worker process ended by signal 9.",)
        assert not any(alive(pid) for pid in seen)


def test_killed_simulator_is_started_again() -> None:
    slow = replace(rc(2.0), analysis=replace(rc(2.0).analysis, max_step=1e-8))
    with Farm("ngspice", 1) as farm:
        results = farm.run([rc(1.0), slow], last)
        next(results)
        assert wait_for(simulators)
        for pid in simulators():
            os.kill(pid, signal.SIGKILL)
        outcome = next(results)
    assert outcome.retries == ("the simulator was ended by signal 9 (Killed).",)
    assert value(outcome) == pytest.approx(2 * (1 - math.exp(-5.0)), rel=1e-3)


def test_worker_that_hangs_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE_S", 0.3)
    with Farm(Pretend(tmp_path), 1, retries=0, timeout_s=0.5) as farm:
        found = run(farm, titled("fine", "hangs", "good"))
    assert "the worker process said nothing for 1.3 s and was killed" in str(found[1].error)
    assert value(found[2]) == 4.0


def test_who_takes_long_over_a_result_gets_no_worker_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "GRACE_S", 0.2)
    names = [f"deck{k}" for k in range(9)]
    found: list[Outcome] = []
    with Farm(Pretend(tmp_path), 1, timeout_s=0.1) as farm:
        results = farm.run(titled(*names), last)
        found.append(next(results))
        members = pids(farm)
        for outcome in results:
            found.append(outcome)
            if len(found) in (3, 6):
                time.sleep(0.8)  # twice the patience with a worker
        assert pids(farm) == members
    assert [outcome.retries for outcome in found] == [()] * len(names)
    assert ran(tmp_path) == names


def test_fault_of_the_reducing_function_is_said_and_stops_nothing(tmp_path: Path) -> None:
    with Farm(Pretend(tmp_path), 1) as farm:
        found = run(farm, titled("a"), parts.broken)
        assert isinstance(found[0].error, ReductionError)
        text = r"deck 'a': the reducing function raised KeyError: .*nobody.*returns a dictionary of arrays"
        with pytest.raises(ReductionError, match=text):
            raise found[0].error


@pytest.mark.parametrize(
    ("reduce", "text"),
    [
        (parts.words, "returned 'unit': str; it must return arrays of numbers"),
        (parts.pair, "returned a tuple; it must"),
    ],
)
def test_reduction_that_is_no_arrays_by_name_is_the_failure_of_its_deck(tmp_path: Path, reduce: Any, text: str) -> None:
    with Farm(Pretend(tmp_path), 1, cache=tmp_path) as farm:
        jobs = [Job(str(k), lambda: titled("a")[0], function) for k, function in enumerate((last, reduce, last))]
        found = run(farm, jobs, None)
    assert [type(found[k].error) for k in (0, 1, 2)] == [type(None), ReductionError, type(None)]
    assert text in str(found[1].error)


def test_job_whose_deck_cannot_be_made_fails_alone(tmp_path: Path) -> None:
    def refuse() -> Deck:
        raise InputError("pixel 3 is NaN. Give a number.")

    with Farm(Pretend(tmp_path), 1) as farm:
        jobs = [Job(str(k), lambda k=k: refuse() if k == 1 else titled("a")[0], last) for k in range(3)]
        found = run(farm, jobs, None)
    assert [value(found[k]) for k in (0, 2)] == [1.0, 1.0]
    assert isinstance(found[1].error, DeckError)
    assert "deck 1: pixel 3 is NaN. Give a number." in str(found[1].error).replace("'", "")


@pytest.mark.parametrize(
    ("title", "kind", "text"),
    [
        ("gone", EngineError, "the engine is gone. Install it again"),
        ("crash", EngineError, "worker: RuntimeError: a bug"),
        ("disk", EngineError, "worker: OSError: .*No space left on device"),
        ("unwritten", OutputError, "cannot write deck.cir. Free some space"),
    ],
)
def test_fault_that_is_no_failure_of_a_simulation_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, title: str, kind: type[Exception], text: str
) -> None:
    monkeypatch.setattr(local, "GRACE_S", 5.0)  # a worker that says nothing of it would hang until then
    with Farm(Pretend(tmp_path), 1, timeout_s=5.0) as farm, pytest.raises(kind, match=text):
        run(farm, titled("a", title, "b"))


def test_engine_that_is_missing_at_the_workers_is_said(tmp_path: Path) -> None:
    with Farm(Absent(tmp_path), 1) as farm, pytest.raises(EngineError, match="ngspice not found in PATH"):
        run(farm, titled("a"))


def test_worker_that_does_not_start_is_said_with_its_last_words(tmp_path: Path) -> None:
    text = r"does not start \(status 3\). It said: out of luck. Check the memory and the installation"
    with Farm(Deadly(tmp_path), 1) as farm, pytest.raises(EngineError, match=text):
        run(farm, titled("a"))


def test_worker_that_is_killed_while_it_starts_is_replaced(tmp_path: Path) -> None:
    with Farm(Doomed(tmp_path), 1, retries=0) as farm:
        found = run(farm, titled("a", "bb", "ccc"))
    assert (tmp_path / "killed0").is_file()
    assert [(value(found[k]), found[k].retries) for k in range(3)] == [(1.0, ()), (2.0, ()), (3.0, ())]


def test_workers_that_are_all_killed_while_they_start_end_the_farm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "MOST_UNREADY", 2)
    text = r"does not start \(status -9\). It said: nothing"
    with Farm(Doomed(tmp_path, times=10), 1) as farm, pytest.raises(EngineError, match=text):
        run(farm, titled("a"))
    assert len(list(tmp_path.glob("killed*"))) == 3


# Kept results


def test_second_call_simulates_nothing_and_starts_no_worker(tmp_path: Path) -> None:
    decks = titled("a", "bb", "fails", "cccc")
    with Farm(Pretend(tmp_path), 1, cache=tmp_path) as farm:
        run(farm, decks)
    with Farm(Pretend(tmp_path), 1, cache=tmp_path) as farm:
        found = run(farm, [decks[k] for k in (3, 1, 0)])
        assert farm._workers is None
    assert {k: (value(o), o.cached) for k, o in found.items()} == {0: (4.0, True), 1: (2.0, True), 2: (1.0, True)}
    assert len(ran(tmp_path)) == 4
    with Farm(Pretend(tmp_path), 1, cache=tmp_path) as farm:
        assert not run(farm, decks)[2].cached, "a failure is not kept"


@pytest.mark.parametrize(
    "change",
    [
        lambda deck: replace(deck, files={"a.inc": "other"}),
        lambda deck: replace(deck, options={"reltol": 1e-5}),
        lambda deck: replace(deck, analysis=replace(deck.analysis, max_step=0.5)),
        lambda deck: replace(deck, nodes=("b", "c")),
    ],
)
def test_other_deck_is_another_result(tmp_path: Path, change: Any) -> None:
    (deck,) = titled("a")
    with Farm(Pretend(tmp_path), 1, cache=tmp_path) as farm:
        assert [run(farm, [d])[0].cached for d in (deck, change(deck), deck)] == [False, False, True]


def test_other_engine_or_reduction_is_another_result(tmp_path: Path) -> None:
    decks = titled("abcd")
    for name, reduce, cached in (
        ("one", last, False),
        ("two", last, False),
        ("one", mean, False),
        ("one", last, True),
        ("two", last, True),
    ):
        with Farm(Pretend(tmp_path, name=name), 1, cache=tmp_path) as farm:
            assert run(farm, decks, reduce)[0].cached == cached


def test_edited_function_is_another_reduction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    path, found = tmp_path / "reduction_of_a_user.py", []
    for factor in ("1.0", "20.0", "1.0"):
        path.write_text(f"def scaled(recording):\n    return {{'last': {factor} * recording['b'].values[-1]}}\n")
        importlib.invalidate_caches()
        module = importlib.import_module(path.stem)
        with Farm(Pretend(tmp_path), 1, cache=tmp_path) as farm:
            outcome = run(farm, titled("abcd"), module.scaled)[0]
        found.append((value(outcome), outcome.cached))
        del sys.modules[path.stem]
    assert found == [(4.0, False), (80.0, False), (4.0, True)]


def test_kept_result_without_what_a_job_needs_is_made_anew(tmp_path: Path) -> None:
    (deck,) = titled("abcd")
    with Farm(Pretend(tmp_path), 1, cache=tmp_path) as farm:
        small, rich = Job("k", lambda: deck, last), Job("k", lambda: deck, large, ("waste",))
        assert [run(farm, [job], None)[0].cached for job in (small, small, rich, rich, small)] == [
            False, True, False, True, True,
        ]  # fmt: skip


def test_damaged_result_is_made_anew(tmp_path: Path) -> None:
    decks = titled("a", "bb")
    with Farm(Pretend(tmp_path), 1, cache=tmp_path) as farm:
        run(farm, decks)
    with closing(sqlite3.connect(tmp_path / "results.sqlite")) as base:
        for key, content in base.execute("SELECT key, content FROM results").fetchall()[:1]:
            base.execute("UPDATE results SET content = ? WHERE key = ?", (content[:-1] + b"\x01", key))
        base.commit()
    with Farm(Pretend(tmp_path), 1, cache=tmp_path) as farm:
        found = run(farm, decks)
    assert sorted(outcome.cached for outcome in found.values()) == [False, True]
    assert [value(found[k]) for k in (0, 1)] == [1.0, 2.0]


def test_file_that_is_no_cache_is_said(tmp_path: Path) -> None:
    (tmp_path / "results.sqlite").write_text("not a database, but a letter of some length to nobody in particular" * 20)
    with pytest.raises(
        InputError, match=r"results.sqlite holds no results of memprop, or is damaged .*delete that file"
    ):
        ResultCache(tmp_path)


def test_cache_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    cache = ResultCache(tmp_path)
    cache._base.execute("PRAGMA query_only = ON")
    with pytest.raises(OutputError, match=r"cannot use the kept results in .*Earlier results are kept"):
        cache.put(b"k", {"x": np.zeros(3)}, 1.0)
    cache.close()


def test_arrays_survive_being_kept() -> None:
    given = {
        "a": np.arange(6.0).reshape(2, 3),
        "n": np.array(3),
        "f": np.float32([1.5]),
        "c": np.array([1j]),
        "e": np.zeros((0, 4)),
    }
    found = unpack(pack(given))
    assert found is not None
    for name, array in given.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
    content = pack(given)
    assert unpack(content[:-3]) is None
    assert unpack(b"") is None
    assert all(unpack(content[:k] + bytes([content[k] ^ 4]) + content[k + 1 :]) is None for k in range(len(content)))


def test_objects_are_not_kept() -> None:
    with pytest.raises(InputError, match=r"result 'x' has type object: only arrays of numbers are kept"):
        pack({"x": np.array([{}])})


def test_ten_thousand_kept_results_are_found_in_seconds(tmp_path: Path) -> None:
    with closing(ResultCache(tmp_path)) as cache, Farm(Pretend(tmp_path), 1) as farm:
        keys = [farm.full_key(f"image {k}") for k in range(10_000)]
        cache.put_many({key: {"means": np.full(10, float(k)), "energies": np.zeros(2)} for k, key in enumerate(keys)})
        assert len(cache) == 10_000
    with Farm(Pretend(tmp_path), 1, cache=tmp_path) as farm:
        jobs = (Job(f"image {k}", lambda: titled("never")[0], last, ("means",)) for k in range(10_000))
        start = time.process_time()
        found = {
            o.index: value(Outcome(0, {"last": o.result["means"][3]}, None, True, 0.0))
            for o in farm.run(jobs)
            if o.result
        }
        assert time.process_time() - start < 3.0
    assert found == {k: float(k) for k in range(10_000)}
    assert ran(tmp_path) == []


# Interrupts


SCRIPT = """
import sys, time
sys.path.insert(0, {here!r})
from pathlib import Path
from farm_parts import Pretend, last, rc, titled
from dataclasses import replace
from memprop.deck.deck import Transient
from memprop.spice.farm import Farm
import resource
if __name__ == "__main__":
    folder, count, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    engine = {{"pause": Pretend(folder, 0.1), "fast": Pretend(folder), "ngspice": "ngspice"}}[kind]
    decks = (titled("d%05d" % k)[0] for k in range(count))
    if kind == "ngspice":
        decks = (replace(rc(float(k)), analysis=Transient(1e-3, 1e-10)) for k in range(count))
    with Farm(engine, 2, cache=folder) as farm:
        done = sum(outcome.error is None for outcome in farm.run(decks, last))
        print(done, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, len(farm.cache))
"""


def script(folder: Path, count: int, kind: str) -> list[str]:
    path = folder / "script.py"
    path.write_text(SCRIPT.format(here=str(HERE)))
    return [sys.executable, str(path), str(folder), str(count), kind]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_end_of_the_farm_leaves_no_process_and_keeps_what_is_done(tmp_path: Path, number: signal.Signals) -> None:
    command = script(tmp_path, 30, "pause")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert wait_for(lambda: len(ran(tmp_path)) >= 8)
    members = family(process.pid)
    assert len(members) == 2
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == -number, said.decode()
    assert wait_for(lambda: not any(alive(pid) for pid in members), 5.0)
    before = len(ran(tmp_path))
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert again.stdout.split()[::2] == ["30", "30"]
    assert len(ran(tmp_path)) - 30 <= 4, f"{before} were begun before; only what was in hand is run twice"


def test_killed_farm_takes_its_simulators_along(tmp_path: Path) -> None:
    process = subprocess.Popen(script(tmp_path, 4, "ngspice"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait_for(lambda: "ngspice" in family(process.pid).values())
        members = family(process.pid)
    finally:
        process.kill()
        process.wait()
    assert wait_for(lambda: not any(alive(pid) for pid in members), 5.0)


def test_who_stops_listening_stops_the_rest(tmp_path: Path) -> None:
    with Farm(Pretend(tmp_path, 0.05), 2, cache=tmp_path) as farm:
        results = farm.run(titled(*(f"deck{k}" for k in range(200))), last)
        first = next(results).index
        members = pids(farm)
        results.close()
        assert not any(alive(pid) for pid in members)
        assert len(ran(tmp_path)) < 20
        found = run(farm, titled(f"deck{first}", "late-once"))
    assert found[0].cached
    assert value(found[1]) == 9.0


def test_memory_is_flat_in_the_number_of_decks(tmp_path: Path) -> None:
    most = {}
    for count in (50, 500):
        folder = tmp_path / str(count)
        folder.mkdir()
        said = subprocess.run(
            script(folder, count, "fast"), capture_output=True, text=True, timeout=60, check=True
        ).stdout
        done, kilobytes, kept = (int(word) for word in said.split())
        assert (done, kept) == (count, count)
        most[count] = kilobytes
    assert most[500] - most[50] < 3000


# A cluster


def test_cluster_of_this_machine_does_the_same(tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra 'farm' is not installed")
    with Farm(Pretend(tmp_path), 2, cluster="local", cache=tmp_path) as farm:
        found = run(farm, titled("a", "bb", "fails", "late-once", "eeeee"))
        assert [value(found[k]) for k in (0, 1, 3, 4)] == [1.0, 2.0, 9.0, 5.0]
        assert isinstance(found[2].error, ConvergenceError)
        assert found[3].retries == ("no end after 600 s.",)
        names = [*(f"deck{k}" for k in range(12)), "dies-once", *(f"more{k}" for k in range(6))]
        found = run(farm, titled(*names))
        assert {k: value(outcome) for k, outcome in found.items()} == {k: len(name) for k, name in enumerate(names)}
        with pytest.raises(EngineError, match="the engine is gone"):
            run(farm, titled("x", "gone"))
        text = "worker of the cluster: RuntimeError: a bug. Check that the workers have the same packages"
        with pytest.raises(EngineError, match=text):
            run(farm, titled("x", "crash"))
    with Farm(Pretend(tmp_path), 1, cache=tmp_path) as farm:
        assert all(outcome.cached for outcome in run(farm, titled(*names)).values())


def test_deck_that_is_lost_on_a_cluster_is_the_one_to_blame() -> None:
    """Of a cluster's futures; one that kills its workers again and again takes a minute."""
    distributed = pytest.importorskip("distributed", reason="the extra 'farm' is not installed")
    from memprop.spice.cluster import FEW, ClusterWorkers

    workers: Any = ClusterWorkers.__new__(ClusterWorkers)
    workers._recipe, workers._timeout_s, workers._flying, workers._threads = b"", 1.0, {}, 2
    killed = distributed.KilledWorker("work-1", None, 3)
    futures = iter([
        SimpleNamespace(status="finished", done=lambda: True, result=lambda: pickle.dumps(Done(0, {}, None, 0.1))),
        SimpleNamespace(status="error", done=lambda: True, exception=lambda: killed),
        SimpleNamespace(status="pending", done=lambda: False),
        SimpleNamespace(status="error", done=lambda: True, exception=lambda: ValueError("a bug")),
    ])  # fmt: skip
    workers._client = Client(futures)
    workers._distributed = SimpleNamespace(wait=lambda *_, **__: None, KilledWorker=distributed.KilledWorker)
    assert workers.hungry()
    workers.submit([Item(k, deck, last) for k, deck in enumerate(titled("a", "b", "c"))])
    assert list(workers.wait()) == [Done(0, {}, None, 0.1), Lost(1, "the worker of the cluster died.", ())]
    assert list(workers._flying.values()) == [2]
    workers.submit([Item(3, titled("d")[0], last)])
    with pytest.raises(EngineError, match="worker of the cluster: ValueError: a bug"):
        list(workers.wait())
    workers._flying = dict.fromkeys(range(2 * FEW), 0)
    assert not workers.hungry()


@dataclass
class Client:
    """A client of a cluster that gives out futures, one per task."""

    futures: Iterator[Any]
    status: str = "running"

    def submit(self, *_: Any, **__: Any) -> Any:
        return Handle(next(self.futures))

    def nthreads(self) -> dict[str, int]:
        return {"one": 1, "two": 1}


class Handle:
    """A future that can be a key."""

    def __init__(self, future: Any) -> None:
        self.__dict__ = vars(future)


def test_cluster_that_does_not_answer_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the extra 'farm' is not installed")
    monkeypatch.setattr("memprop.spice.cluster.CONNECT_S", 0.5)
    for address in ("tcp://127.0.0.1:1", "nonsense://x"):
        with (
            Farm(Pretend(tmp_path), cluster=address) as farm,
            pytest.raises(
                EngineError, match=f"no dask scheduler answers at '{address}'.*Start one with `dask scheduler`"
            ),
        ):
            run(farm, titled("a"))


def test_missing_extra_is_said_with_the_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        Farm(Pretend(tmp_path), cluster="local") as farm,
        pytest.raises(InputError, match=r"not installed. Install it: pip install 'memprop\[farm\]'"),
    ):
        run(farm, titled("a"))


# Nonsense


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"workers": 0}, "workers = 0: at least 1 is needed"),
        ({"workers": -2}, "workers = -2: at least 1 is needed"),
        ({"retries": -1}, "retries = -1: at least 0 is needed"),
        ({"batch": 0}, "batch = 0: at least 1 is needed"),
        ({"timeout_s": 0.0}, "timeout_s = 0.0 s must be finite and positive"),
        ({"timeout_s": math.nan}, "timeout_s = nan s must be finite and positive"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, words: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        Farm(Pretend(tmp_path), **words)


def test_unknown_engine_is_refused() -> None:
    with pytest.raises(EngineError, match="unknown engine 'hspice'. Known: ngspice"):
        Farm("hspice")


def test_function_that_no_worker_can_import_is_refused(tmp_path: Path) -> None:
    with Farm(Pretend(tmp_path), 1) as farm:
        with pytest.raises(
            InputError, match=r"the reducing function cannot be sent to a worker process .*top level of a module"
        ):
            run(farm, titled("a"), lambda recording: {})
        with pytest.raises(InputError, match="deck 'a' came without a reducing function"):
            run(farm, titled("a"), None)
    code = f"""
import sys; sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
from farm_parts import Pretend, titled
from memprop.spice.farm import Farm
def mine(recording): return {{}}
list(Farm(Pretend(Path("."))).run(titled("a"), mine))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "the reducing function is defined in the main script, which worker processes do not run" in done.stderr


def test_tally_counts_and_gives_the_rate_of_simulations() -> None:
    now = [0.0]
    tally = Tally(lambda: now[0])
    now[0] = 100.0
    assert tally.count(cached=True, failed=False) == "1 cached"
    now[0] = 102.0
    assert tally.count(cached=False, failed=False) == "1 cached, 0.5/s"
    now[0] = 104.0
    assert tally.count(cached=False, failed=True) == "1 cached, 1 failed, 0.5/s"


def test_worker_is_ready_without_torch() -> None:
    code = (
        "import sys, json, memprop.spice.farm_worker, memprop.flow.reduction; print(json.dumps('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) is False
