"""Bundles: plain ngspice replays them, they read back bit for bit, and whatever was edited, damaged or smuggled in is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PySpice.Spice.Netlist import SubCircuit

from memprop.circuit.cell import as_cell
from memprop.circuit.network import Network, Projection, population_of
from memprop.conductance.pair import ConductanceRange
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images, Split
from memprop.errors import BundleError, InputError, MempropError, NoOutput, OutputError
from memprop.export.bundle import StoredImage, load_bundle, write_bundle
from memprop.export.replay import Verdict, replay
from memprop.export.scan import scan
from memprop.files import sha256
from memprop.flow.loop import export_bundle, provenance
from memprop.flow.simulate import ImageResult, SpiceSettings, simulate_images
from memprop.spice.find import find_ngspice
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.raw import read_raw
from memprop.twin.network import Twin

ENCODER = AlphaEncoder(v_peak=0.2, rise=5e-6, onsets=(0.0, 10e-6), duration=20e-6)
SHAPES = {"x0_x1": (6, 3), "x1_x2": (3, 2)}


def images() -> Images:
    """Return two images of two by three pixels."""
    train = Split(np.zeros((2, 2, 3), dtype=np.uint8), np.array([0, 1], dtype=np.uint8))
    pixels = np.array([[[10, 0, 3], [4, 8, 1]], [[0, 9, 2], [10, 10, 0]]], dtype=np.uint8)
    return Images("fake", train, Split(pixels, np.array([1, 0], dtype=np.uint8)), 10)


def twin() -> Twin:
    return Twin((6, 3, 2), ENCODER, seed=3)


Runs = list[tuple[Any, ImageResult]]


def simulate(network: Network) -> Runs:
    engine, runs = NgspiceEngine(), []
    for form, indices in (("reduced", [0, 1]), ("full", [1])):
        results = simulate_images(network, ENCODER, images(), indices, engine, SpiceSettings(form, workers=1))
        assert not results.failed
        runs += [(form, results.done[i]) for i in indices]
    return runs


def export(folder: Path, network: Network, runs: Runs) -> None:
    origin = provenance(twin(), images(), NgspiceEngine(), {"agreement": 1.0, "spice_images": 2}, 3)
    export_bundle(folder, network, ENCODER, images(), runs, origin)


@pytest.fixture(scope="module")
def network() -> Network:
    return twin().to_network("tiny")


@pytest.fixture(scope="module")
def runs(network: Network) -> Runs:
    return simulate(network)


@pytest.fixture(scope="module")
def exported(network: Network, runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    export(folder, network, runs)
    return folder


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    """Return a copy of the bundle that a test may spoil."""
    return Path(shutil.copytree(exported, tmp_path / "bundle"))


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def edit(path: Path, pattern: str, replacement: str, count: int = 1) -> None:
    text, found = re.subn(pattern, replacement, path.read_text(), count=count, flags=re.MULTILINE)
    assert found >= 1
    path.write_text(text)


def edit_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    record = json.loads((folder / "manifest.json").read_text())
    change(record)
    (folder / "manifest.json").write_text(json.dumps(record))


def columns(path: Path, title: str) -> dict[str, NDArray[np.float64]]:
    plot = read_raw(path, title)[0]
    return {name: np.ascontiguousarray(plot.values[:, k].real) for k, name in enumerate(plot.variables)}


def replayed(folder: Path, **options: Any) -> list[Verdict]:
    return replay(folder, NgspiceEngine().batch, columns, **options)


def plain_ngspice(folder: Path, file: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [find_ngspice().path, "-b", file],
        cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def verdict(done: subprocess.CompletedProcess[str]) -> str:
    """Return the last line that is the testbench's own; ngspice says `ngspice-39 done` after it."""
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return [line for line in lines if not re.fullmatch(r"ngspice-\d+ done", line)][-1]


# What a designer does with a bundle


@pytest.mark.parametrize("file", ["testbench_reduced_0.cir", "testbench_reduced_1.cir", "testbench_full_1.cir"])
def test_plain_ngspice_says_pass_with_status_0(file: str, exported: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported, tmp_path / "a folder, mine"))
    done = plain_ngspice(folder, file)
    assert done.returncode == 0
    assert verdict(done) == "TESTBENCH PASS"
    assert "FAIL" not in done.stdout
    assert done.stdout.count("PASS ") == 2 * 2 + 2  # mean and maximum of two outputs, charge of two rails
    (raw,) = folder.glob("*.raw")
    assert raw.name == file.replace("testbench_", "").replace(".cir", ".raw")


def test_plain_ngspice_says_fail_with_status_1_after_an_edit(bundle: Path) -> None:
    edit(bundle / "conductances.inc", r"\{\d\S+\}", "{1e-4-1e-6}", count=0)
    done = plain_ngspice(bundle, "testbench_full_1.cir")
    assert done.returncode == 1
    assert verdict(done) == "TESTBENCH FAIL"
    assert "FAIL mean_x2_col" in done.stdout


def test_conductances_read_back_bit_for_bit_with_all_else(exported: Path, network: Network) -> None:
    again, encoder, manifest = load_bundle(exported)
    assert [p.name for p in again.projections] == list(SHAPES)
    for before, after in zip(network.projections, again.projections, strict=True):
        assert before.g_plus.tobytes() == after.g_plus.tobytes()
        assert before.g_minus.tobytes() == after.g_minus.tobytes()
    assert encoder == ENCODER
    assert again.window == network.window
    assert [p.rest for p in again.populations] == [p.rest for p in network.populations]
    assert [dict(p.parameters) for p in again.populations] == [dict(p.parameters) for p in network.populations]
    assert [p.cell.text for p in again.populations] == [p.cell.text for p in network.populations]
    assert (manifest.inputs, manifest.classes, manifest.dataset, manifest.seed) == (6, 2, "fake", 3)


def test_parameters_of_each_neuron_read_back_bit_for_bit(tmp_path: Path, network: Network, runs: Runs) -> None:
    spread = np.array([1e-10, 1.0000000000000002e-10, 3e-10])
    x1 = population_of("x1", 3, network.populations[0].cell, {"c": spread}, network.populations[0].rest)
    other = Network("tiny", 6, (x1, network.populations[1]), network.projections, network.window)
    export(tmp_path / "b", other, runs)
    found = load_bundle(tmp_path / "b")[0].populations[0].parameters
    assert np.asarray(found["c"]).tobytes() == spread.tobytes()
    assert found["tau"] == 1e-4


def test_replay_passes_every_check_of_both_forms(exported: Path) -> None:
    verdicts = replayed(exported)
    assert [v for v in verdicts if not v.passed] == []
    assert {v.testbench for v in verdicts} == {
        "testbench_reduced_0.cir", "testbench_reduced_1.cir", "testbench_full_1.cir",
    }  # fmt: skip
    assert len(verdicts) == 3 * (6 + 2)
    assert {v.unit for v in verdicts} == {"V", "C"}
    means = [v for v in verdicts if v.check.startswith("mean_")]
    assert all(v.found == pytest.approx(v.expected, abs=v.limit) for v in means)


def test_replay_of_one_form_leaves_the_other_out(exported: Path) -> None:
    assert {v.testbench for v in replayed(exported, forms=("full",))} == {"testbench_full_1.cir"}


def test_replay_leaves_a_read_only_bundle_as_it_is(bundle: Path) -> None:
    before = content(bundle)
    for path in (*bundle.rglob("*"), bundle):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        assert all(v.passed for v in replayed(bundle))
        assert content(bundle) == before
    finally:
        for path in (bundle, *bundle.rglob("*")):
            path.chmod(0o755)


def test_same_inputs_give_the_same_bytes_of_every_file(
    exported: Path, tmp_path: Path, network: Network, runs: Runs
) -> None:
    export(tmp_path / "again", network, runs)
    assert content(tmp_path / "again") == content(exported)
    assert {"conductances.inc", "cells.inc", "populations.inc", "wave.inc", "README.md"} <= set(content(exported))


def test_bundle_that_was_read_and_written_again_has_the_same_bytes(exported: Path, tmp_path: Path, runs: Runs) -> None:
    export(tmp_path / "again", load_bundle(exported)[0], runs)
    assert content(tmp_path / "again") == content(exported)


def test_new_export_replaces_all_of_the_earlier_one(bundle: Path, network: Network, runs: Runs) -> None:
    export(bundle, network, runs[:1])
    assert [p.name for p in bundle.glob("testbench_*")] == ["testbench_reduced_0.cir"]
    assert [p.name for p in (bundle / "expected").iterdir()] == ["reduced_0.csv"]
    assert all(v.passed for v in replayed(bundle))
    with pytest.raises(InputError, match=r"has no testbench of form full\."):
        replayed(bundle, forms=("full",))


def test_every_file_is_in_the_manifest_with_its_hash(exported: Path) -> None:
    record = json.loads((exported / "manifest.json").read_text())
    assert set(record["files"]) == set(content(exported)) - {"manifest.json"}


def test_readme_names_a_testbench_that_is_there(exported: Path) -> None:
    (name,) = re.findall(r"^    ngspice -b (\S+)$", (exported / "README.md").read_text(), flags=re.MULTILINE)
    assert (exported / name).is_file()


def test_own_neuron_of_a_user_survives_export_and_load(tmp_path: Path, network: Network) -> None:
    cell = SubCircuit("Leaky_RC", "mem", "e1", "e2", "ref", c=2e-10, ron=3e3)
    cell.C("mem", "mem", "ref", "{c}")
    cell.R("one", "mem", "e1", "{ron}")
    cell.R("two", "mem", "e2", "{2*ron}")
    mine = as_cell(cell, "neuron", "mif")
    rest = 0.05 / 3  # divider between the supplies 0 and 50 mV
    populations = (population_of("x1", 3, mine, {"ron": [3e3, 4e3, 5e3]}, rest), population_of("x2", 2, mine, {}, rest))
    own = Network("own", 6, populations, network.projections, network.window)
    runs = simulate(own)
    assert runs[0][1].outputs[0] == pytest.approx(rest, rel=1e-6)
    export(tmp_path / "own", own, runs)
    again = load_bundle(tmp_path / "own")[0]
    assert [p.cell.name for p in again.populations] == ["leaky_rc", "leaky_rc"]
    assert again.populations[0].cell.card == mine.card
    assert np.array_equal(again.populations[0].parameters["ron"], [3e3, 4e3, 5e3])
    assert all(v.passed for v in replayed(tmp_path / "own"))
    assert plain_ngspice(tmp_path / "own", "testbench_full_1.cir").returncode == 0
    for (_, before), (_, after) in zip(runs, simulate(again), strict=True):
        np.testing.assert_allclose(after.outputs, before.outputs, rtol=0, atol=1e-12)


def test_own_neuron_with_a_subcircuit_inside_survives_export_and_load(tmp_path: Path, network: Network) -> None:
    inner = SubCircuit("Leak", "a", "b")
    inner.R("leak", "a", "b", 3e3)
    cell = SubCircuit("Nested", "mem", "e1", "e2", "ref")
    cell.subcircuit(inner)
    cell.C("mem", "mem", "ref", 2e-10)
    cell.X("leak", "Leak", "mem", "e1")
    mine = as_cell(cell, "neuron", "mif")
    populations = (population_of("x1", 3, mine, {}, 0.0), population_of("x2", 2, mine, {}, 0.0))
    own = Network("own", 6, populations, network.projections, network.window)
    export(tmp_path / "own", own, simulate(own))
    assert all(v.passed for v in replayed(tmp_path / "own"))


# Edited and damaged bundles


def test_edited_conductance_is_found_and_shows_in_the_checks_when_asked(bundle: Path) -> None:
    edit(bundle / "conductances.inc", r"\{\d\S+\}", "{1e-4-1e-6}", count=0)
    message = r"bundle .* is not as exported: conductances\.inc differs\. Restore the files, or replay with --edited"
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle)
    with pytest.raises(BundleError, match=message):
        replayed(bundle)
    failed = [v for v in replayed(bundle, edited=True) if not v.passed]
    assert {v.testbench for v in failed} == {"testbench_full_1.cir"}  # the reduced form holds sums, not cells
    assert {"waveforms_rms", "waveforms_peak"} <= {v.check for v in failed}
    assert any(v.check.startswith("mean_") for v in failed)
    assert all(abs(v.found - v.expected) > v.limit for v in failed)
    assert (load_bundle(bundle, edited=True)[0].projections[0].g_plus == 1e-4).all()


def test_edit_that_no_network_allows_is_refused_with_its_place(bundle: Path) -> None:
    edit(bundle / "conductances.inc", r"\{\d\S+\}", "{5e-3-1e-6}")
    with pytest.raises(InputError, match=r"tiny/x0_x1/row0/col0: g_plus = 0\.005 S is outside"):
        load_bundle(bundle, edited=True)
    edit(bundle / "conductances.inc", r"\{5e-3-1e-6\}", "{5m-1e-6}")
    with pytest.raises(InputError, match=r"conductances\.inc, line \d+: gp: '5m' is no plain number"):
        load_bundle(bundle, edited=True)


def test_edited_expectation_fails_the_waveforms_and_nothing_else(bundle: Path) -> None:
    edit(bundle / "expected" / "full_1.csv", r"^(\S+),(\S+?),", r"\1,0.5,", count=0)
    edit(bundle / "expected" / "full_1.csv", r"^time_s,0\.5", "time_s,x2_col0_mem_v")
    failed = [v.check for v in replayed(bundle, edited=True) if not v.passed]
    assert failed == ["waveforms_rms", "waveforms_peak"]


def test_measurement_that_fails_is_a_failed_check(bundle: Path) -> None:
    edit(bundle / "testbench_full_1.cir", r"^(meas tran mean_x2_col0_mem) .*$", r"\1 avg v(nosuch) from=0 to=1e-5")
    failed = [v for v in replayed(bundle, edited=True, forms=("full",)) if not v.passed]
    assert [v.check for v in failed] == ["mean_x2_col0_mem"]
    assert np.isnan(failed[0].found)


@pytest.mark.parametrize(
    "name", ["conductances.inc", "cells.inc", "models/mss_memristor.lib", "expected/full_1.csv", "README.md"]
)
def test_missing_file_is_named(name: str, bundle: Path) -> None:
    (bundle / name).unlink()
    message = rf"is not as exported: {re.escape(name)} is missing\. Restore the files"
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle)
    with pytest.raises(BundleError, match=message):
        replayed(bundle)
    with pytest.raises(
        BundleError, match=rf"file '{re.escape(name)}' cannot be read \(No such file or directory\)\. Restore it"
    ):
        replayed(bundle, edited=True)


@pytest.mark.parametrize("name", ["conductances.inc", "cells.inc"])
def test_missing_netlist_of_an_edited_bundle_is_an_error_of_the_bundle(name: str, bundle: Path) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=re.escape(name)):
        load_bundle(bundle, edited=True)


def test_every_wrong_file_is_named_at_once(bundle: Path) -> None:
    (bundle / "wave.inc").unlink()
    edit(bundle / "cells.inc", "ron=1000", "ron=2000")
    with pytest.raises(BundleError, match=r"cells\.inc differs, .*wave\.inc is missing"):
        load_bundle(bundle)


def test_cell_that_is_gone_from_cells_is_named(bundle: Path) -> None:
    edit(bundle / "cells.inc", r"^(\.subckt) mif ", r"\1 other ")
    with pytest.raises(BundleError, match=r"cells\.inc has no subcircuit 'mif'\. Export the bundle again"):
        load_bundle(bundle, edited=True)


def test_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    message = r"is no bundle: manifest\.json is not there\. Give the folder that `memprop export` wrote"
    with pytest.raises(BundleError, match=message):
        load_bundle(tmp_path)
    with pytest.raises(BundleError, match=message):
        replayed(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:200], r"manifest\.json is damaged: .*Export the bundle again"),
        (lambda text: "", r"manifest\.json is damaged"),
        (lambda text: "[]", r"manifest\.json is damaged"),
        (lambda text: text.replace('"inputs": 6', '"inputs": "six"'), r"damaged: field inputs: .*integer"),
        (lambda text: text.replace('"seed": 3,', ""), r"damaged: field seed: Field required"),
        (lambda text: text.replace('"seed": 3,', '"seed": 3, "extra": 1,'), r"damaged: field extra: Extra inputs"),
        (lambda text: text.replace("memprop-bundle-2", "memprop-bundle-9"),
         r"has format 'memprop-bundle-9', this memprop reads 'memprop-bundle-2'\. Use the version that wrote it"),
    ],
)  # fmt: skip
def test_damaged_or_foreign_manifest_is_refused(damage: Callable[[str], str], message: str, bundle: Path) -> None:
    path = bundle / "manifest.json"
    before = path.read_text()
    path.write_text(damage(before))
    assert path.read_text() != before
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle)


def test_manifest_that_is_no_text_is_refused(bundle: Path) -> None:
    (bundle / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match=r"manifest\.json is damaged"):
        load_bundle(bundle)


@pytest.mark.parametrize("change", [{"rows": 5}, {"columns": 4}, {"pre": "x9"}])
def test_manifest_that_disagrees_with_the_netlist_is_refused(change: dict[str, Any], bundle: Path) -> None:
    edit_manifest(bundle, lambda record: record["projections"][0].update(change))
    with pytest.raises(MempropError, match=r"outside of|missing|unknown"):
        load_bundle(bundle)


def test_waveforms_that_are_no_table_are_refused(bundle: Path) -> None:
    (bundle / "expected" / "full_1.csv").write_text("time_s,x2_col0_mem_v\n0,abc\n")
    with pytest.raises(BundleError, match=r"full_1\.csv holds no waveforms \(.*Export the bundle again"):
        replayed(bundle, edited=True, forms=("full",))


@pytest.mark.parametrize("table", ["", "time_s,x2_col0_mem_v,x2_col1_mem_v\n", "time_s\n0\n1\n"])
def test_waveforms_without_a_value_are_refused(table: str, bundle: Path) -> None:
    (bundle / "expected" / "full_1.csv").write_text(table)
    with pytest.raises(BundleError, match=r"full_1\.csv holds no waveforms"):
        replayed(bundle, edited=True, forms=("full",))


def test_testbench_that_does_not_run_is_no_pass(bundle: Path) -> None:
    edit(bundle / "populations.inc", r"^x_x1_col0_cell .*$", "x_x1_col0_cell a b nosuch")
    with pytest.raises(NoOutput, match=r"deck 'testbench_full_1\.cir': no waveforms were written: "):
        replayed(bundle, edited=True, forms=("full",))


# Bundles of strangers: nothing outside of the folder, no command that no circuit needs


@pytest.mark.parametrize("name", ["../outside.txt", "models/../../outside.txt", "/etc/hostname"])
@pytest.mark.parametrize("edited", [False, True])
def test_manifest_that_names_a_file_outside_is_refused(name: str, edited: bool, bundle: Path) -> None:
    (bundle.parent / "outside.txt").write_text("secret")
    edit_manifest(bundle, lambda record: record["files"].update({name: "0" * 64}))
    message = rf"the manifest names '{re.escape(name)}', which is outside of the bundle\. Do not use this bundle"
    with pytest.raises(BundleError, match=message):
        replayed(bundle, edited=edited)
    if not edited:
        with pytest.raises(BundleError, match=message):
            load_bundle(bundle)


@pytest.mark.parametrize("field", ["file", "waveforms"])
@pytest.mark.parametrize("name", ["../elsewhere.cir", "/tmp/elsewhere.cir"])
def test_testbench_record_that_names_a_file_outside_is_refused(field: str, name: str, bundle: Path) -> None:
    shutil.copy(bundle / "expected" / "reduced_0.csv", bundle.parent / "elsewhere.cir")
    edit_manifest(bundle, lambda record: record["testbenches"][0].update({field: name}))
    with pytest.raises(BundleError, match="outside"):
        replayed(bundle)


def test_link_that_leaves_the_bundle_is_refused(bundle: Path) -> None:
    shutil.move(bundle / "wave.inc", bundle.parent / "wave.inc")
    (bundle / "wave.inc").symlink_to(bundle.parent / "wave.inc")
    with pytest.raises(BundleError, match=r"'wave\.inc', which is outside of the bundle"):
        load_bundle(bundle)


def scanned(tmp_path: Path, body: str, **more: str) -> None:
    for name, text in more.items():
        (tmp_path / f"{name}.inc").write_text(text)
    (tmp_path / "main.cir").write_text(f"* title\nv1 a 0 1\n{body}\n.end\n")
    scan(tmp_path, "main.cir")


CONTROLS = [
    "shell ls", "SHELL ls", "source x", "load x", "cd /", "codemodel x.cm", "pre_osdi x.osdi", "osdi x.osdi", "alias run shell",
    "$x ls", "echo `ls`", "echo $(ls)", "let x = 1 ; shell ls", "echo x ; shell ls", "echo x > /tmp/x", "echo x > ../x", "echo x > ~/x",
    "echo x >> x", "echo x >& x", "echo x < /etc/passwd", "write ../x.raw", "write /tmp/x.raw", "write x", "write ~/x.raw v(a)",
    "run ../x.raw", "wrdata x v(a)", "print v(a) > x", "hardcopy x", "*#shell ls", " *# shell ls", "!ls", "edit x", "sh ls",
]  # fmt: skip


@pytest.mark.parametrize("command", CONTROLS)
def test_control_command_that_no_testbench_needs_is_refused_with_its_place(command: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"main\.cir, line 5: .*(?:not allowed|may only)"):
        scanned(tmp_path, f".control\nrun\n{command}\n.endc")


@pytest.mark.parametrize("body", ["*#shell ls", "  *#shell ls", "*# shell ls"])
def test_comment_that_ngspice_takes_as_a_command_is_refused(body: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"main\.cir, line 3: .*not allowed"):
        scanned(tmp_path, body)


@pytest.mark.parametrize(
    "card", [".lib x tt", ".inc x", ".csparam x=1", ".exec ls", ".measure tran x", ".func f(x) {x}", ".unknown"]
)
def test_card_that_no_bundle_needs_is_refused(card: str, tmp_path: Path) -> None:
    with pytest.raises(
        BundleError,
        match=rf"main\.cir, line 3: card '{re.escape(card.split(maxsplit=1)[0])}' is not allowed in a bundle",
    ):
        scanned(tmp_path, card)


@pytest.mark.parametrize(
    "line",
    [
        "a1 [a] m\n.model m filesource (file=\"x\" amploffset=[0])",
        "a1 [a] m\n.model m d_source(input_file=\"x\")",
        "a1 [a] [b] c m\n.model m d_process(process_file=\"./x\")",
        "a1 [a] [b] m\n.model m d_cosim(simulation=\"./x.so\")",
        "v2 b 0 pwl file=x",
        "v2 b 0 pwl FILE = \"x\"",
    ],
)  # fmt: skip
def test_source_that_reads_or_runs_a_file_is_refused(line: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"main\.cir, line \d: .*not allowed in a bundle"):
        scanned(tmp_path, line)


@pytest.mark.parametrize("name", ["../x.inc", "/etc/passwd", "a/../../x.inc"])
def test_include_outside_of_the_bundle_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=rf"file name '{re.escape(name)}' points outside of"):
        scanned(tmp_path, f'.include "{name}"')


def test_include_that_is_missing_binary_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"file 'no\.inc' cannot be read \(.*Export the bundle again"):
        scanned(tmp_path, ".include no.inc")
    (tmp_path / "b.inc").write_bytes(b"\xff\xfe")
    with pytest.raises(BundleError, match=r"file 'b\.inc' cannot be read"):
        scanned(tmp_path, ".include b.inc")
    with pytest.raises(BundleError, match=r"main\.cir, line 3"):
        scanned(tmp_path, ".include")


def test_included_file_is_read_as_strictly_as_the_first(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"deep\.inc, line 2: a control block is not allowed in an included file"):
        scanned(
            tmp_path, ".include one.inc", one="* one\n.INCLUDE 'deep.inc'\n", deep="* deep\n.control\nshell ls\n.endc\n"
        )


def test_control_block_left_open_in_an_included_file_cannot_hide_a_command(tmp_path: Path) -> None:
    """ngspice joins the files first: what follows the include is still in the block."""
    with pytest.raises(BundleError, match="not allowed"):
        scanned(tmp_path, ".include one.inc\nshell ls\n.endc", one="* one\n.control\nrun\n")


EVIL = "echo x > evil"
"""An element with the letter e to a reader that believes to be outside of a control block."""
OPEN = f"* open\n.control\n{EVIL}\n.endc\n"


@pytest.mark.parametrize(
    ("body", "files"),
    [
        (f".control\n* x\x0c.endc\n{EVIL}\n.endc", {}),
        (f".control\n* x\r.endc\n{EVIL}\n.endc", {}),
        (f".control\n* x\u2028.endc\n{EVIL}\n.endc", {}),
        (".include a.inc b", {"a.inc b": "* fine\n", "a.inc": OPEN}),
        (".include a.inc $b", {"a.inc $b": "* fine\n", "a.inc": OPEN}),
        (".include a.inc;b", {"a.inc;b": "* fine\n", "a.inc": OPEN}),
        ('.include "a.inc" "b', {'a.inc" "b': "* fine\n", "a.inc": OPEN}),
        (".include ~/a.inc", {"~/a.inc": "* fine\n"}),
        (".include x.inc\n.control\nrun\n.include x.inc\n.endc", {"x.inc": "* x\ncodemodel ./a.cm 0 1p\n"}),
        (".include d/a.inc", {"d/a.inc": "* a\n.include b.inc\n", "b.inc": "* fine\n", "d/b.inc": OPEN}),
    ],
    ids=[
        "form feed", "carriage return", "line separator", "second word", "dollar", "semicolon", "quotes", "home",
        "file read twice", "beside the including file",
    ],
)  # fmt: skip
def test_file_that_ngspice_reads_otherwise_than_it_looks_is_refused(
    body: str, files: dict[str, str], tmp_path: Path
) -> None:
    """ngspice ends lines only at line feeds, and takes the first word of an include; most of these did run their command."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "main.cir").write_bytes(f"* title\nv1 a 0 1\n{body}\n.end\n".encode())
    with pytest.raises(BundleError, match=r"(?:main\.cir|\.inc), line \d: "):
        scan(tmp_path, "main.cir")


def test_file_included_twice_is_refused(tmp_path: Path) -> None:
    """What is harmless the first time need not be so the second time, in another place."""
    with pytest.raises(BundleError, match=r"one\.inc, line 2: \.include is not allowed here: once per file"):
        scanned(tmp_path, ".include one.inc", one="* one\n.include one.inc\n")
    with pytest.raises(BundleError, match=r"main\.cir, line 4: \.include is not allowed here: once per file"):
        scanned(tmp_path, ".include one.inc\n.include one.inc", one="* one\n")


def test_script_in_disguise_of_a_comment_is_refused(tmp_path: Path) -> None:
    (tmp_path / "main.cir").write_text("*ng_script\necho hello\n")
    with pytest.raises(
        BundleError, match=r"main\.cir, line 1: a comment that ngspice takes as a command is not allowed"
    ):
        scan(tmp_path, "main.cir")


def test_command_among_the_cells_of_a_strangers_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    """Decks are made from cells.inc, so it must hold cells and nothing else, whatever the manifest says of it."""
    mark = tmp_path / "mark"
    edit(bundle / "cells.inc", r"^(\.subckt mif .*)$", rf"\1\n.control\nshell touch {mark}\n.endc")
    digest = sha256((bundle / "cells.inc").read_bytes())
    edit_manifest(bundle, lambda record: record["files"].update({"cells.inc": digest}))
    with pytest.raises(BundleError, match=r"cells\.inc, line \d+: card '\.control' is not allowed among cells"):
        load_bundle(bundle)
    assert not mark.exists()


def test_model_file_outside_of_the_models_is_refused(bundle: Path) -> None:
    edit_manifest(bundle, lambda record: record["synapse"].update({"models": ["../pyproject.toml"]}))
    with pytest.raises((InputError, BundleError), match=r"outside of|cannot be read"):
        load_bundle(bundle)


def test_word_pass_without_the_value_is_no_pass(bundle: Path) -> None:
    """The expected values of the manifest count as well as those in the testbench."""
    edit_manifest(bundle, lambda record: record["testbenches"][0]["checks"][0].update({"expected": 0.9}))
    verdicts = replayed(bundle)
    assert [v.passed for v in verdicts][:2] == [False, True]


def test_exported_bundle_holds_nothing_that_is_refused(exported: Path) -> None:
    names = [path.name for path in exported.glob("testbench_*.cir")]
    assert names
    for name in names:
        scan(exported, name)


@pytest.mark.parametrize(
    "smuggled", ["*#shell touch {mark}", ".control\nshell touch {mark}\n.endc", ".control\necho x > {mark}\n.endc"]
)
def test_replay_of_a_strangers_bundle_runs_no_command(smuggled: str, bundle: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with (bundle / "wave.inc").open("a") as file:
        file.write(smuggled.format(mark=mark) + "\n")
    try:
        with pytest.raises(BundleError, match=r"wave\.inc, line \d+: .*not allowed"):
            replayed(bundle, edited=True)
    finally:
        assert not mark.exists()


# Folders that cannot take a bundle


def stored(network: Network, runs: Runs) -> list[StoredImage]:
    form, result = runs[0]
    pixels = images().pixels("test")[0]
    outputs = {f"x2_col{j}_mem": result.outputs[:, j] for j in range(2)}
    rails = {f"v_e{j + 1}": result.rails[:, j] for j in range(2)}
    import torch

    return [StoredImage(0, 1, ENCODER.stimulus(torch.from_numpy(pixels)), form, result.time, outputs, rails)]


def test_file_in_the_place_of_the_folder_is_refused(tmp_path: Path, network: Network, runs: Runs) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            OutputError, match=rf"cannot write in folder {re.escape(str(place))}: .*Choose another output folder"
        ):
            export(place, network, runs)
    assert (tmp_path / "file").read_text() == "mine"


def test_folder_with_something_else_is_refused_and_left_alone(tmp_path: Path, network: Network, runs: Runs) -> None:
    (tmp_path / "thesis.inc").write_text("mine")
    message = r"is not empty and no bundle\. Give an empty folder, or the one of an earlier bundle"
    with pytest.raises(BundleError, match=message):
        export(tmp_path, network, runs)
    assert content(tmp_path) == {"thesis.inc": b"mine"}


def test_bundle_without_an_image_is_refused(tmp_path: Path, network: Network) -> None:
    with pytest.raises(InputError, match=r"needs at least one stored image for its testbench\. Give one"):
        export(tmp_path / "b", network, [])
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("after", [0, 3])
def test_full_disk_is_said_and_the_earlier_bundle_still_replays(
    after: int, bundle: Path, network: Network, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, count, write = content(bundle), 0, Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        nonlocal count
        count += 1
        if count > after:
            raise OSError(28, os.strerror(28))
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match=r"cannot write .*No space left on device.*Earlier results are kept"):
            export(bundle, network, runs[:1])
    assert content(bundle) == before


def test_network_that_cannot_be_exported_leaves_the_earlier_bundle(bundle: Path, network: Network, runs: Runs) -> None:
    before = content(bundle)
    other = Network(
        "other", 5, network.populations,
        (Projection("x0", "x1", network.projections[0].g_plus[:5], network.projections[0].g_minus[:5]),),
        ConductanceRange(),
    )  # fmt: skip
    origin = provenance(twin(), images(), NgspiceEngine(), {}, 3)
    with pytest.raises(InputError, match=r"stimulus has 6 rows; network other has 5"):
        write_bundle(bundle, other, ENCODER, stored(network, runs), origin)
    assert content(bundle) == before


def test_initialisation_file_in_a_bundle_is_refused(bundle: Path) -> None:
    """A designer's plain ngspice would run it."""
    (bundle / ".spiceinit").write_text("echo hello\n")
    with pytest.raises(BundleError, match=r"not as exported: \.spiceinit is not part of it"):
        replayed(bundle)
