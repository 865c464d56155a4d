"""The loop as a whole: train, simulate, export, resume, and the command line around it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PySpice.Spice.Netlist import SubCircuit
from rich.console import Console

from memprop import cli
from memprop.circuit.elaborate import elaborate
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import load
from memprop.deck.deck import Deck
from memprop.errors import CheckpointError, ConvergenceError, EngineError, InputError, OutputError
from memprop.export.bundle import load_bundle
from memprop.flow.commands import export_run, replay_bundle, simulate_bundle, train_loop
from memprop.flow.doctor import examine
from memprop.flow.loop import compare, form_deviation
from memprop.flow.proof_cell import cell_proofs
from memprop.flow.proof_gradient import Question, gradient_proof
from memprop.flow.settings import PRESETS, RunSettings, load_settings, save_settings
from memprop.flow.simulate import SpiceSettings, image_order, simulate_images
from memprop.flow.train import load_trained
from memprop.learn.bptt import BPTTConfig
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.recording import Recording
from memprop.twin.network import Twin, from_network

SETTINGS = RunSettings(
    "small", "digits", (8,), dt=1e-6, learning=BPTTConfig(epochs=2, batch=128, rate_input=1e-6, shift=0, validation=100)
)
IMAGES = 4


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def loop(folder: Path, settings: RunSettings = SETTINGS, console: Console | None = None) -> dict[str, Any]:
    return train_loop(
        settings,
        folder / "run",
        folder / "bundle",
        console or quiet(),
        images=IMAGES,
        full_images=1,
        engine_name="ngspice",
        workers=2,
        timeout_s=300.0,
    )


@dataclass(frozen=True)
class Made:
    folder: Path
    summary: dict[str, Any]
    said: str


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("loop")
    console = quiet()
    summary = loop(folder, console=console)
    assert isinstance(console.file, io.StringIO)
    return Made(folder, summary, console.file.getvalue())


class TestLoop:
    def test_summary_holds_what_was_measured(self, made: Made) -> None:
        assert json.loads((made.folder / "bundle" / "summary.json").read_text()) == made.summary
        assert made.summary["sizes"] == [64, 8, 10]
        assert made.summary["spice_images"] == IMAGES
        assert made.summary["agreement"] == 1.0
        assert 0 < made.summary["waveform_rms_v"] < 3e-3
        assert made.summary["full_against_reduced_peak_v"] < 0.1e-3
        assert made.summary["energy_crossbars_j"] > 0
        assert made.summary["energy_neurons_j"] > 0
        assert {"training", "SPICE, reduced netlist", "SPICE, every cell"} <= set(made.summary["seconds"])

    def test_table_is_the_last_thing_said_and_names_units(self, made: Made) -> None:
        assert "small: 64-8-10 on digits" in made.said
        for words in ("accuracy of the twin, whole test set", "mV", "nJ", "wall time, training"):
            assert words in made.said

    def test_figures_are_pictures(self, made: Made) -> None:
        for name in ("training", "waveforms", "hidden", "conductances"):
            content = (made.folder / "bundle" / "figures" / f"{name}.png").read_bytes()
            assert content.startswith(b"\x89PNG")
            assert len(content) > 10_000

    def test_bundle_replays(self, made: Made) -> None:
        assert replay_bundle(made.folder / "bundle", quiet(), form="both", edited=False, timeout_s=300.0)

    def test_second_call_neither_trains_nor_simulates_again(self, made: Made) -> None:
        kept = {path: path.stat().st_mtime_ns for path in (made.folder / "run" / "spice").iterdir()}
        netlists = {path: path.read_bytes() for path in (made.folder / "bundle").glob("*.inc")}
        again = loop(made.folder)
        assert {path: path.stat().st_mtime_ns for path in (made.folder / "run" / "spice").iterdir()} == kept
        assert {path: path.read_bytes() for path in (made.folder / "bundle").glob("*.inc")} == netlists
        assert again["spice_cached"] == IMAGES
        same = {key for key in made.summary if key not in ("seconds", "spice_cached")}
        assert {key: again[key] for key in same} == {key: made.summary[key] for key in same}

    def test_run_folder_of_other_settings_is_refused(self, made: Made) -> None:
        other = replace(SETTINGS, learning=replace(SETTINGS.learning, seed=5))
        with pytest.raises(CheckpointError, match="belongs to another training: seed is 0 there and 5 here"):
            loop(made.folder, other)

    def test_export_of_the_run_gives_the_same_conductances(self, made: Made, tmp_path: Path) -> None:
        export_run(
            made.folder / "run",
            tmp_path / "again",
            quiet(),
            images=1,
            engine_name="ngspice",
            full=False,
            timeout_s=300.0,
        )
        name = "conductances.inc"
        assert (tmp_path / "again" / name).read_bytes() == (made.folder / "bundle" / name).read_bytes()

    def test_twin_of_the_bundle_is_the_twin_that_was_trained(self, made: Made) -> None:
        network, encoder, manifest = load_bundle(made.folder / "bundle")
        data = load("digits")
        results = simulate_images(network, encoder, data, [3], NgspiceEngine(), SpiceSettings(dt=manifest.dt))
        found = compare(from_network(network, encoder, manifest.dt), data, results.done)
        assert found.agreement == 1.0
        assert found.rms < 3e-3


class TestSimulateBundle:
    def test_second_call_is_cached_and_more_images_run_only_the_new_ones(self, made: Made, tmp_path: Path) -> None:
        def run(images: int) -> dict[str, Any]:
            simulate_bundle(
                made.folder / "bundle",
                quiet(),
                images=images,
                form="reduced",
                engine_name="ngspice",
                workers=2,
                timeout_s=300.0,
                out=tmp_path,
            )
            return json.loads((tmp_path / "simulate_reduced.json").read_text())

        assert run(2)["spice_cached"] == 0
        assert run(2)["spice_cached"] == 2
        third = run(3)
        assert third["spice_cached"] == 2
        assert len(third["images"]) == 3

    def test_unknown_form_is_refused(self, made: Made) -> None:
        with pytest.raises(InputError, match="netlist form 'flat' is unknown. Known: full, reduced"):
            simulate_bundle(
                made.folder / "bundle",
                quiet(),
                images=1,
                form="flat",
                engine_name="ngspice",
                workers=1,
                timeout_s=9.0,
                out=None,
            )


class _Moody:
    """An engine that fails for the decks whose number is in ``bad``."""

    name = "moody"

    def __init__(self, bad: set[int]) -> None:
        self.bad, self.count, self.real = bad, 0, NgspiceEngine()

    def run(self, deck: Deck, timeout_s: float = 600.0) -> Recording:
        number, self.count = self.count, self.count + 1
        if number in self.bad:
            raise ConvergenceError(deck.title, "timestep too small.")
        return self.real.run(deck, timeout_s)

    def close(self) -> None:
        pass


class TestSimulateImages:
    twin = Twin((64, 4, 10), dt=1e-6)

    def run(self, engine: Any, indices: list[int], cache: Path | None = None) -> Any:
        settings = SpiceSettings(dt=1e-6, workers=1, cache=cache)
        return simulate_images(self.twin.to_network("n"), self.twin.encoder, load("digits"), indices, engine, settings)

    def test_failure_is_kept_beside_the_results_and_only_it_is_run_again(self, tmp_path: Path) -> None:
        results = self.run(_Moody({1}), [5, 6, 7], tmp_path)
        assert set(results.done) == {5, 7}
        assert "timestep too small" in str(results.failed[6])
        engine = _Moody(set())
        results = self.run(engine, [5, 6, 7], tmp_path)
        assert set(results.done) == {5, 6, 7}
        assert (engine.count, results.cached) == (1, 2)

    def test_waveforms_between_the_points_of_the_simulator_are_those_of_a_finer_run(self) -> None:
        network, data, engine = self.twin.to_network("n"), load("digits"), NgspiceEngine()
        coarse, fine = (
            simulate_images(network, self.twin.encoder, data, [5], engine, SpiceSettings(max_step=step)).done[5]
            for step in (0.25e-6, 0.02e-6)
        )
        assert np.abs(coarse.membranes - fine.membranes).max() < 0.1e-3

    def test_damaged_cache_file_is_simulated_again(self, tmp_path: Path) -> None:
        first = self.run(_Moody(set()), [5], tmp_path)
        (path,) = tmp_path.glob("*.npz")
        path.write_bytes(path.read_bytes()[:100])
        second = self.run(_Moody(set()), [5], tmp_path)
        assert second.cached == 0
        np.testing.assert_array_equal(first.done[5].membranes, second.done[5].membranes)

    def test_image_that_is_not_there_is_refused(self) -> None:
        with pytest.raises(InputError, match="test image 359 is not there: digits has 359"):
            self.run(_Moody(set()), [359])

    def test_network_of_other_images_is_refused(self) -> None:
        network = Twin((9, 4, 10), dt=1e-6).to_network("n")
        with pytest.raises(InputError, match="digits has 64 pixels; network n has 9 rows"):
            simulate_images(network, AlphaEncoder(), load("digits"), [0], _Moody(set()))

    def test_order_is_fixed_and_complete(self) -> None:
        order = image_order(load("digits"))
        assert sorted(order.tolist()) == list(range(359))
        np.testing.assert_array_equal(order, image_order(load("digits")))
        assert order[:10].tolist() != list(range(10))

    def test_nothing_to_compare_is_an_error(self) -> None:
        with pytest.raises(InputError, match="no image was simulated in SPICE"):
            compare(self.twin, load("digits"), {})
        assert form_deviation({}, {}) is None

    def test_range_of_the_membranes_is_that_of_the_results(self) -> None:
        results = self.run(_Moody(set()), [5, 6])
        found = compare(self.twin, load("digits"), results.done)
        both = np.stack([result.membranes for result in results.done.values()])
        assert (found.lowest, found.highest) == (pytest.approx(both.min()), pytest.approx(both.max()))
        assert found.outside == 0

    def test_image_that_leaves_the_limits_of_the_card_is_counted(self) -> None:
        results = self.run(_Moody(set()), [5, 6])
        low = replace(results.done[5], membranes=results.done[5].membranes - 2.0)
        assert compare(self.twin, load("digits"), {**results.done, 5: low}).outside == 1

    def test_interrupt_kills_what_runs_and_keeps_what_is_done(self, tmp_path: Path) -> None:
        def stop(index: int, failed: bool) -> None:
            raise KeyboardInterrupt("from the keyboard")

        network, data = self.twin.to_network("n"), load("digits")
        settings = SpiceSettings(dt=1e-6, workers=2, cache=tmp_path)
        engine = NgspiceEngine()
        with pytest.raises(KeyboardInterrupt, match="from the keyboard"):
            simulate_images(network, self.twin.encoder, data, list(range(6)), engine, settings, stop)
        assert len(list(tmp_path.glob("*.npz"))) == 1
        assert engine.running == set()

    def test_twin_of_another_rest_or_synapse_is_refused(self) -> None:
        network = self.twin.to_network("n")
        moved = replace(network.populations[0], rest=(0.0,) * 4)
        with pytest.raises(InputError, match="population 'x1' of network n is 0.0183 V off the resting membrane"):
            from_network(replace(network, populations=(moved, network.populations[1])), self.twin.encoder, 1e-6)
        leaky = SubCircuit("leaky_pair", "rp", "rn", "col", gp=1e-6, gm=1e-6)
        leaky.R("plus", "rp", "col", "{1/gp}")
        leaky.R("minus", "rn", "col", "{1/gm+1e6}")
        own = replace(network, synapse=leaky)
        with pytest.raises(InputError, match="synapse 'leaky_pair' has no twin"):
            from_network(own, self.twin.encoder, 1e-6)
        with pytest.raises(InputError, match="synapse 'leaky_pair' is not the shipped one. Use the naive form"):
            elaborate(own, "reduced", self.twin.encoder.stimulus(torch.zeros(64)))


class TestSettings:
    def test_settings_survive_the_file(self, tmp_path: Path) -> None:
        for settings in PRESETS.values():
            save_settings(tmp_path, settings)
            assert load_settings(tmp_path) == settings

    def test_missing_and_damaged_settings_are_told(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"is no run: settings.json is not there"):
            load_settings(tmp_path)
        (tmp_path / "settings.json").write_text('{"name": 3}')
        with pytest.raises(CheckpointError, match=r"settings.json is damaged"):
            load_settings(tmp_path)

    @pytest.mark.parametrize(
        ("change", "text"), [({"hidden": (0,)}, "hidden = "), ({"name": "My Net"}, "no netlist name")]
    )
    def test_nonsense_is_refused(self, change: dict[str, Any], text: str) -> None:
        with pytest.raises(InputError, match=text):
            replace(SETTINGS, **change)


class TestBadFolders:
    def test_output_that_is_a_file_is_said_before_the_training(self, tmp_path: Path) -> None:
        (tmp_path / "bundle").write_text("mine")
        with pytest.raises(OutputError, match="cannot write in folder .*bundle"):
            loop(tmp_path)
        assert not (tmp_path / "run" / "training.safetensors").exists()
        assert (tmp_path / "bundle").read_text() == "mine"

    def test_missing_simulator_is_said_before_the_training(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MEMPROP_NGSPICE", str(tmp_path / "none"))
        with pytest.raises(EngineError, match="ngspice not found at .*none. Debian/Ubuntu: sudo apt-get install"):
            loop(tmp_path)
        assert not (tmp_path / "run").exists()


def command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["memprop", *words])
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        signal.signal(signal.SIGINT, before)
    code = ended.value.code
    assert code is None or isinstance(code, int)
    return code or 0


class TestCommandLine:
    @pytest.mark.parametrize("name", ["train", "simulate", "export", "replay", "verify", "doctor"])
    def test_every_command_has_help(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        assert command(monkeypatch, name, "--help") == 0
        assert f"memprop {name}" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            (("train", "cifar"), "unknown data set 'cifar'. Known: mnist, fashion, digits"),
            (("train", "digits", "--epochs", "0"), "epochs = 0 must be finite and positive"),
            (("train", "digits", "--seed", "-1"), "seed = -1 must be"),
            (("train", "digits", "--hidden", "0"), "hidden = (0,)"),
            (("train", "digits", "--engine", "hspice"), "unknown engine 'hspice'. Known: ngspice, ngspice-shared"),
            (("replay", "nowhere"), "nowhere is no bundle: manifest.json is not there"),
            (("simulate", "nowhere"), "nowhere is no bundle"),
            (("export", "nowhere"), "nowhere is no run: settings.json is not there"),
        ],
    )
    def test_nonsense_gets_one_clear_sentence(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        tmp_path: Path,
        words: tuple[str, ...],
        text: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert command(monkeypatch, *words) in (1, 2)
        said = capsys.readouterr().err
        plain = " ".join(said.replace("│", " ").split())
        assert text in plain
        assert "Traceback" not in said

    def test_edited_bundle_is_named_and_can_still_be_replayed(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], made: Made, tmp_path: Path
    ) -> None:
        copy = tmp_path / "copy"
        subprocess.run(["cp", "-r", str(made.folder / "bundle"), str(copy)], check=True)
        path = copy / "conductances.inc"
        path.write_text(path.read_text().replace("-1e-06}", "-9e-05}", 40))
        assert command(monkeypatch, "replay", str(copy)) == 1
        assert "conductances.inc differs" in capsys.readouterr().err
        assert command(monkeypatch, "replay", str(copy), "--form", "full", "--edited") == 1
        assert "FAIL" in capsys.readouterr().out

    def test_interrupt_keeps_the_training_and_the_same_command_goes_on(self, tmp_path: Path) -> None:
        words = ["train", "digits", "--epochs", "3", "--hidden", "4", "--images", "1", "--full-images", "0"]
        process = subprocess.Popen(
            [sys.executable, "-m", "memprop.cli", *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        checkpoint = tmp_path / "runs" / "digits_mif" / "training.safetensors"
        _wait(checkpoint.exists, 120)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert b"finished work is kept, the same command goes on from there" in said
        before = checkpoint.stat().st_mtime_ns
        settings, _, _ = load_trained(checkpoint.parent, load)  # what was interrupted can be exported
        assert settings.hidden == (4,)
        done = subprocess.run(
            [sys.executable, "-m", "memprop.cli", *words], cwd=tmp_path, capture_output=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        assert checkpoint.stat().st_mtime_ns > before
        assert (tmp_path / "netlists" / "digits_mif" / "manifest.json").is_file()


def _wait(ready: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


class TestDoctor:
    def test_everything_needed_is_found_here(self) -> None:
        findings = list(examine())
        assert {f.what for f in findings if f.needed and not f.good} == set()
        assert any(f.what == "engine ngspice-shared" and f.good and "time points" in f.detail for f in findings)

    def test_missing_ngspice_is_said_with_the_way_to_get_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", os.devnull)
        found = {f.what: f for f in examine()}
        assert not found["ngspice"].good
        assert "sudo apt-get install ngspice" in found["ngspice"].detail


class TestProofs:
    def test_cell_reproduces_the_published_tables_as_twin_and_in_ngspice(self) -> None:
        proofs = list(cell_proofs(NgspiceEngine()))
        assert len(proofs) == 12
        assert [proof for proof in proofs if not proof.holds] == []

    def test_gradient_of_the_twin_is_that_of_ngspice(self) -> None:
        twin = Twin((64, 4, 10), seed=3)
        image = 0.5 * np.random.default_rng(0).random((1, 8, 8), dtype=np.float32)
        question = Question(twin.to_network("n"), twin.encoder, torch.from_numpy(image), 3)
        proofs = list(gradient_proof(question, NgspiceEngine(), 5))
        assert len(proofs) == 4
        assert [proof for proof in proofs if not proof.holds] == []
