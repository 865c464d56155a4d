"""The bench: rows are whole, ratios come from one run, kept rows stay; times themselves are nobody's test."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from memprop import cli
from memprop.circuit.wires import WiredCrossbar
from memprop.data.sets import load
from memprop.errors import EngineError, InputError
from memprop.flow.bench import crossbar, machine, run, spice, subjects, training, twin
from memprop.flow.bench.counts import EXPONENTIAL, Count, both_ways, bytes_moved, operations
from memprop.flow.bench.figures import draw
from memprop.flow.bench.machine import Peaks, describe, engines
from memprop.flow.bench.measure import Spent, as_case, by_turns, peak_memory, ratio
from memprop.flow.bench.readme import BEGIN, END, block, page, publish, read_published, replaced
from memprop.flow.bench.run import PARTS, BenchSettings
from memprop.flow.bench.sheet import Sheet, read_sheet
from memprop.flow.bench.summary import exponent, growth, lines, times
from memprop.spice.find import find_ngspice
from memprop.twin.cell import MIF
from memprop.twin.fused.program import Program, Writer, expm1

ROOT = Path(__file__).parents[1]
UNITS = ("_s", "_v", "_bytes", "_per_s", "_relative", "_step")
"""How names of measured values end."""
QUIET = Console(quiet=True)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Any]]]:
    out = tmp_path_factory.mktemp("bench")
    return out, run.bench(BenchSettings(size="tiny"), out, QUIET)


# Measuring


def test_cases_run_by_turns_and_every_other_round_backwards() -> None:
    order: list[str] = []
    samples = by_turns({name: lambda name=name: order.append(name) for name in "abc"}, 3)
    assert "".join(order) == "abc" + "abc" + "cba" + "abc"  # warm, then three rounds
    assert [len(each) for each in samples.values()] == [3, 3, 3]


def test_work_of_this_process_is_cpu_time_and_sleep_is_none() -> None:
    import time

    samples = by_turns({"sleep": lambda: time.sleep(0.05), "work": lambda: sum(range(2_000_000))}, 1, warm=False)
    assert samples["sleep"][0].wall >= 0.05
    assert samples["sleep"][0].cpu < 0.03
    assert samples["work"][0].cpu > 0.0
    assert samples["work"][0].children == 0.0


def test_ratio_is_taken_round_by_round() -> None:
    assert ratio([2.0, 9.0, 4.0], [1.0, 3.0, 8.0]) == {"median": 2.0, "low": 0.5, "high": 3.0}
    assert ratio([6.0], [1.0, 3.0, 2.0]) == {"median": 3.0, "low": 2.0, "high": 6.0}  # one value counts in all rounds
    assert ratio([1.0], [0.0]) is None


def test_simulators_time_stands_apart() -> None:
    assert as_case([Spent(4.0, 1.0, 2.0)], 2, "simulator") == {
        "wall_s": [2.0], "cpu_s": [1.5], "python_cpu_s": [0.5], "simulator_cpu_s": [1.0]
    }  # fmt: skip
    assert as_case([Spent(4.0, 1.0, 0.0)]) == {"wall_s": [4.0], "cpu_s": [1.0]}


def test_peak_memory_sees_what_was_freed() -> None:
    with peak_memory() as peak:
        before = peak()
        if before is None:
            pytest.skip("no /proc/self/clear_refs here")
        np.ones(2**24).sum()
        most = peak()
    assert most is not None
    assert most - before > 2**26


def test_no_round_is_refused() -> None:
    with pytest.raises(InputError, match="repeats = 0: at least 1 measurement is needed"):
        by_turns({}, 0)


# Counting


def test_operations_of_a_program_are_those_of_its_text() -> None:
    import sympy

    x, y = sympy.symbols("x y", real=True)
    writer = Writer()
    program = writer.program([x, y], [writer(3 * x * y + y - 1), writer(expm1(x) / y)])
    count = operations(program)
    assert count.flops == 4 + (EXPONENTIAL.flops + 1) + 1  # 2 products and 2 sums; expm1; product with 1/y
    assert (count.divisions, count.exponentials) == (1, 1)
    assert operations(Program((x,), (), (-x,))) == Count()  # a sign costs nothing


def test_both_ways_of_a_neuron_grow_with_the_steps() -> None:
    programs = twin.Population(twin.Size(4, 2, 3), "fused").kernel().programs
    one, two = both_ways(programs, 100), both_ways(programs, 200)
    assert two.flops - one.flops == pytest.approx(100 * 625, rel=0.2)
    # 6 values per time point; two states kept at every tenth step, written and read
    assert bytes_moved(programs, 100, 10) == 4 * (6 * 101 + 2 * 2 * 10)


def test_peaks_say_what_they_did() -> None:
    peaks = Peaks(1000, 2**12)
    for case in peaks.cases().values():
        case()
    work = peaks.work()
    assert work["triad"] == 12 * 2**12
    assert work["multiply-add"] == 2 * work["divide"]
    assert work["divide"] % (1000 * torch.get_num_threads()) == 0


def test_triad_and_population_compute_what_they_should() -> None:
    peaks = Peaks(10, 2**10)
    peaks.vectors[1].fill_(2.0)
    peaks.vectors[2].fill_(3.0)
    peaks.cases()["triad"]()
    assert (peaks.vectors[0] == 5.0).all()
    found = twin.deviations(
        twin.Population(twin.Size(50, 4, 3), "eager")(), twin.Population(twin.Size(50, 4, 3), "fused")()
    )
    assert found["gradient_deviation_relative"] < 1e-4
    assert 0 < found["membrane_deviation_v"] < 1e-5


def test_peak_of_tensors_is_the_most_held_at_a_time() -> None:
    def work() -> None:
        a = torch.zeros(1000, 1000)
        b = a + 1
        del a
        _ = b + 1

    assert twin.peak_tensors(work) == pytest.approx(8e6, rel=1e-3)


# Crossbars and networks


def test_solvers_of_crossbars_agree() -> None:
    for shape in ((3, 5), (5, 2)):  # rows driven, columns driven
        g = crossbar.pairs(*shape)
        np.testing.assert_allclose(crossbar._Splu(g)(), WiredCrossbar(*g, crossbar.WIRES).weight(), rtol=1e-9)


def test_random_network_is_spread_as_a_trained_one() -> None:
    subject = subjects.random_subject((784, 16, 10), 100e-6)
    weights = [p.g_plus - p.g_minus for p in subject.network.projections]
    assert [w.std() for w in weights] == pytest.approx(subjects.SPREAD, rel=0.05)
    assert subject.images.pixels("test").mean() == pytest.approx(0.13, abs=0.02)  # MNIST: 0.13
    assert subjects.random_subject((784, 16, 10), 100e-6).network.projections[0].g_plus.tobytes() == (
        subject.network.projections[0].g_plus.tobytes()
    )


def test_network_of_a_bundle_is_taken() -> None:
    subject = subjects.bundle_subject(ROOT / "netlists" / "digits_mif")
    assert (subject.name, subject.network.inputs) == ("digits_mif", 64)


# Parts


def numbers(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield name and value of all numbers, with the names around them."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{name}/{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from numbers(inner, name)
    elif isinstance(value, float):
        yield name, value


def test_all_parts_are_measured_and_every_number_has_a_unit(measured: tuple[Path, dict[str, list[Any]]]) -> None:
    out, found = measured
    assert set(found) == set(PARTS)
    for part, rows in found.items():
        content = read_sheet(out / f"{part}.json")
        assert content["rows"] == rows
        for name, value in numbers(rows):
            assert math.isfinite(value), name
            unit = any(piece.endswith(UNITS) for piece in name.split("/"))
            plain = any(piece.startswith(("ratios", "share_", "validation_")) for piece in name.split("/"))
            assert unit or plain or "largest_deviation_v" in name, name
        assert (out / f"{part}.png").stat().st_size > 5000


def test_file_names_machine_and_versions_and_nothing_private(measured: tuple[Path, dict[str, list[Any]]]) -> None:
    about = read_sheet(measured[0] / "twin.json")["about"]
    assert {"python", "memprop", "torch", "numpy", "compiler", "engines", "cpu", "cores", "threads"} <= set(about)
    assert about["engines"]["ngspice"].startswith("ngspice-")
    text = "".join(path.read_text(encoding="utf-8") for path in measured[0].glob("*.json"))
    assert str(Path.home()) not in text
    assert str(measured[0]) not in text


def test_ratios_are_those_of_the_cases_of_their_row(measured: tuple[Path, dict[str, list[Any]]]) -> None:
    checked = 0
    for rows in measured[1].values():
        for row in rows:
            for pair, found in row.get("ratios", {}).items():
                above, below = (row["cases"][name] for name in pair.split("/"))
                for kind in ("wall", "cpu"):
                    if found[kind] is None:
                        continue
                    a, b = above[f"{kind}_s"], below[f"{kind}_s"]
                    each = [x / y for x, y in zip(a * (len(b) // len(a)), b, strict=True)]
                    assert found[kind]["median"] == pytest.approx(statistics.median(each), rel=1e-4)
                    assert found[kind]["low"] <= found[kind]["median"] <= found[kind]["high"]
                    checked += 1
    assert checked > 20


def test_forms_have_equal_membranes_and_the_parts_of_a_step_are_there(
    measured: tuple[Path, dict[str, list[Any]]],
) -> None:
    rows = measured[1]["spice"]
    small = next(row for row in rows if row["kind"] == "forms")
    assert set(small["largest_deviation_v"]) >= {
        "ngspice reduced batch against naive",
        "ngspice full single against naive",
    }
    assert max(small["largest_deviation_v"].values()) < 10e-6
    assert all(points > 10 for points in small["time_points"].values())
    parts = next(row for row in measured[1]["training"] if row["kind"] == "parts")["share_of_step"]
    assert {"shifting images", "input crossbar, both ways", "neurons 1, both ways", "crossbar 2, both ways",
            "neurons 2, forward", "read-out and loss", "optimiser"} <= set(parts)  # fmt: skip
    bound = next(row for row in measured[1]["twin"] if row["kind"] == "pair")["bound"]
    assert 0 < bound["share_of_bound"]["median"] < 1


def test_kept_rows_are_not_measured_again(measured: tuple[Path, dict[str, list[Any]]], monkeypatch: Any) -> None:
    out, found = measured

    def refuse(*_: object) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(crossbar, "_row", refuse)
    again = run.bench(BenchSettings(("crossbar",), "tiny"), out, QUIET)
    assert again == {"crossbar": found["crossbar"]}
    with pytest.raises(AssertionError, match="measured again"):
        run.bench(BenchSettings(("crossbar",), "tiny", again=True), out, QUIET)


def test_an_interrupted_part_keeps_what_was_finished(tmp_path: Path) -> None:
    sheet = Sheet(tmp_path, "twin", {})
    sheet.row("one", lambda: {"kind": "x"})
    with pytest.raises(KeyboardInterrupt):
        sheet.row("two", _interrupt)
    told: list[str] = []
    resumed = Sheet(tmp_path, "twin", {}, say=told.append)
    assert resumed.row("one", _interrupt) == {"id": "one", "kind": "x"}
    assert told == ["twin: one: kept"]


def _interrupt() -> Any:
    raise KeyboardInterrupt


def test_rows_of_another_machine_are_measured_anew(tmp_path: Path) -> None:
    Sheet(tmp_path, "twin", {"cpu": "a"}).row("one", lambda: {"kind": "x"})
    told: list[str] = []
    assert Sheet(tmp_path, "twin", {"cpu": "b"}, say=told.append).rows == []
    assert "machine or versions are others" in told[0]


def test_rows_of_another_plan_or_program_are_measured_anew(tmp_path: Path) -> None:
    told: list[str] = []

    def row(plan: dict[str, float], source: str, value: int) -> int:
        sheet = Sheet(tmp_path, "twin", {}, source=source, say=told.append)
        return sheet.row("one", lambda: {"kind": "x", "value": value}, plan)["value"]

    assert [row({"repeats": 2}, "a", 1), row({"repeats": 2}, "a", 2)] == [1, 1]
    assert [row({"repeats": 5}, "a", 3), row({"repeats": 5}, "b", 4), row({}, "c", 5), row({}, "c", 6)] == [3, 4, 5, 5]
    assert [line.removeprefix("twin: one") for line in told if "anew" in line] == [
        ": measured anew, as its plan changed",
        ": measured anew, as its source changed",
        ": measured anew, as its plan and source changed",
    ]


def test_rows_of_a_file_without_plans_are_read_and_measured_anew(tmp_path: Path) -> None:
    Sheet(tmp_path, "twin", {}).row("one", lambda: {"kind": "x"})
    assert "plan" not in read_sheet(tmp_path / "twin.json")["rows"][0]
    again = Sheet(tmp_path, "twin", {}, source="a")
    assert again.row("one", lambda: {"kind": "y"}, {"repeats": 2}) == {
        "id": "one", "plan": {"repeats": 2}, "source": "a", "kind": "y",
    }  # fmt: skip


def test_larger_plan_measures_the_rows_of_a_smaller_one_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(crossbar, "_row", lambda rows, columns, plan: asked.append((rows, columns)) or {"kind": "size"})
    small = crossbar.CrossbarPlan([(2, 3)], 2)
    for plan in (small, replace(small, sizes=[(2, 3), (4, 3)]), replace(small, repeats=3)):
        crossbar.measure(Sheet(tmp_path, "crossbar", {}), plan)
    assert asked == [(2, 3), (4, 3), (2, 3)]


def test_source_changes_with_any_file_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memprop.__file__", str(tmp_path / "__init__.py"))
    found = [machine.source()]
    for name, text in (("a.py", "x = 1"), ("deep/kernel.cpp.in", "1"), ("deep/kernel.cpp.in", "2"), ("notes.txt", "3")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        found.append(machine.source())
    assert len(set(found)) == 4
    assert found[-1] == found[-2]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler of torch, about itself
def test_compiled_twin_is_compared() -> None:
    row = twin._compiled(twin.Size(6, 2, 3), replace(twin.PLANS["tiny"], repeats=1))
    assert row["gradient_deviation_relative"] < 1e-4
    assert set(row["ratios"]) == {"eager/torch.compile", "torch.compile/fused"}


def test_loop_around_a_compiled_step_is_that_of_the_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda step: step)
    row = twin._compiled(twin.Size(6, 2, 3), replace(twin.PLANS["tiny"], repeats=1))
    assert row["membrane_deviation_v"] == 0.0
    assert row["gradient_deviation_relative"] == 0.0


def test_compiler_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("no backend")

    monkeypatch.setattr(torch, "compile", lambda step: fail)
    row = twin._compiled(twin.Size(6, 2, 3), twin.PLANS["tiny"])
    assert row["failed"] == "RuntimeError: no backend"
    assert any(line.more == "failed: RuntimeError: no backend" for line in lines({"twin": [row]}))


def test_epoch_of_a_training_is_projected_from_its_steps(measured: tuple[Path, dict[str, list[Any]]]) -> None:
    row = next(row for row in measured[1]["training"] if row["kind"] == "step")
    assert row["epoch_steps"] == math.ceil(training.EPOCH / row["batch"])
    expected = row["epoch_steps"] * statistics.median(row["cases"]["fused"]["wall_s"])
    assert row["projected_epoch_wall_s"]["fused"] == pytest.approx(expected, rel=1e-4)
    assert row["loss_deviation_relative"] < 1e-4


def test_real_epoch_is_trained_and_told() -> None:
    plan = training.TrainingPlan([(64, 4, 10)], batch=256, dt=5e-6)
    row = training._epoch((64, 4, 10), load("digits"), plan)
    assert (row["data"], row["images"]) == ("digits", 1295)  # 1,438 less a tenth
    assert row["epoch_wall_s"] > 0
    (line,) = lines({"training": [row]})
    assert line.what == "an epoch of digits, 64-4-10, 1,295 images"


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parts": ("twins",)}, "part 'twins' of the bench is unknown. Known: spice, crossbar, twin, training."),
        ({"size": "huge"}, "size 'huge' of the bench is unknown. Known: tiny, bench, full."),
        ({"threads": 0}, "threads = 0: at least 1 is needed."),
    ],
)
def test_nonsense_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        BenchSettings(**arguments)


def test_command_refuses_an_unknown_part_before_it_measures(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["bench", "nothing", "--out", str(tmp_path / "x")])
    assert isinstance(result.exception, InputError)
    assert not (tmp_path / "x").exists()


def test_simulator_without_osdi_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="ngspice not found"):
        engines(tmp_path / "none")
    with pytest.raises(EngineError, match="ngspice not found"):
        describe(tmp_path / "none")


def test_ngspice_that_cannot_load_compiled_models_is_refused() -> None:
    program = find_ngspice()
    if program.osdi:
        pytest.skip("the ngspice here has OSDI")
    with pytest.raises(EngineError, match="Give an ngspice that was built with OSDI"):
        engines(program.path)


def test_population_that_is_not_split_has_no_prepared_step() -> None:
    general = MIF(2, twin.DT, method="general")
    with pytest.raises(InputError, match="cell mif is not split .* Use its `run` instead"):
        general.prepared(torch.zeros(1, 2))


def test_bench_without_any_simulator_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spice, "engines", lambda osdi: {})
    with pytest.raises(EngineError, match="no simulator is there to be measured. See `memprop doctor`."):
        spice.measure(Sheet(tmp_path, "spice", {}), spice.PLANS["tiny"])


@pytest.mark.parametrize("text", ["", "[]", '{"about": {}, "rows": [{}]}', '{"about": 1, "rows": []}'])
def test_damaged_file_of_rows_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "twin.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"twin\.json holds no rows of `memprop bench`.*Delete it"):
        Sheet(tmp_path, "twin", {})


# README


def test_block_of_readme_is_what_the_command_makes_of_the_committed_numbers() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    content = read_published(ROOT / "docs" / "bench.json")
    assert replaced(text, block(content), ROOT / "README.md") == text
    assert (ROOT / "docs" / "bench.md").read_text(encoding="utf-8") == page(content)
    for part in content["parts"]:
        assert (ROOT / "docs" / f"bench_{part}.png").is_file()


def test_publish_writes_table_rows_and_figures(measured: tuple[Path, dict[str, list[Any]]], tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n", encoding="utf-8")
    target = publish(measured[0], readme)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith(f"before\n\n{BEGIN}\n| what | against |")
    assert text.endswith(f"{END}\n\nafter\n")
    assert "old" not in text
    assert "training step, 16-3-10" in text
    assert json.loads(target.read_text(encoding="utf-8"))["parts"] == measured[1]
    assert {path.name for path in target.parent.glob("*.png")} == {f"bench_{part}.png" for part in PARTS}
    publish(measured[0], readme)
    assert readme.read_text(encoding="utf-8") == text  # same rows, same bytes


def test_command_writes_the_block(measured: tuple[Path, dict[str, list[Any]]], tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    result = CliRunner().invoke(cli.app, ["bench-readme", "--out", str(measured[0]), "--readme", str(readme)])
    assert result.exit_code == 0, result.output
    assert "| twin, forward and backward" in readme.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "text", ["", BEGIN, f"{END}\n{BEGIN}\n", f"{BEGIN}\n{BEGIN}\n{END}\n", f"{BEGIN}\n{END}\n{END}\n"]
)
def test_readme_without_a_place_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs one line '<!-- bench -->' and below it one line '<!-- /bench -->'"):
        replaced(text, "new", tmp_path / "README.md")


def test_readme_without_measurements_or_of_two_machines_is_refused(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    with pytest.raises(InputError, match="nothing was measured in"):
        publish(tmp_path / "none", readme)
    for part, cpu in (("twin", "a"), ("crossbar", "b")):
        Sheet(tmp_path, part, {"cpu": cpu}).row("one", lambda: {"kind": "x"})
    with pytest.raises(InputError, match="part 'twin' in .* was measured on another machine"):
        publish(tmp_path, readme)
    (tmp_path / "crossbar.json").unlink()
    with pytest.raises(InputError, match=r"README\.md cannot be read"):
        publish(tmp_path, readme)


def test_damaged_published_numbers_are_named(tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    path.write_text('{"parts": {"twin": [{"kind": "pair"}]}}', encoding="utf-8")
    with pytest.raises(InputError, match=r"bench\.json holds no numbers for README"):
        read_published(path)


def test_texts_of_ratios_and_powers() -> None:
    assert times({"median": 12.345, "low": 10.0, "high": 15.0}) == "12.3 (10 to 15)"
    assert times({"median": 3.0, "low": 3.0, "high": 3.0}) == "3"
    assert times(None) == "-"
    assert exponent([1, 10, 100, 1000], [5.0, 5.0, 7.0, 700.0]) == pytest.approx(2.0)  # of the upper half
    assert exponent([1, 2, 4], [1.0, 2.0, 4.0]) == pytest.approx(1.0)


def test_growth_mixes_no_rows_of_other_sizes() -> None:
    sizes = ((10, 16), (100, 16), (10, 64), (1, 64))
    rows = [
        {"kind": "growth over neurons", "neurons": n, "batch": b, "cases": {"fused": {"cpu_s": [n * b]}}}
        for n, b in sizes
    ]
    assert growth(rows, "neurons", "neurons", "fused") == ([1.0, 10.0], [64, 640])
    assert growth(rows, "neurons", "neurons", "eager") == ([], [])


def test_nothing_is_drawn_of_nothing(tmp_path: Path) -> None:
    assert draw("twin", [], tmp_path / "twin.png") is None
    assert not (tmp_path / "twin.png").exists()
    assert lines({"twin": []}) == []
