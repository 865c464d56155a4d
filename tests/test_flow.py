"""The loop as a whole: train, simulate, export, resume, and the command line around it."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from farm_parts import Moody, ran
from PySpice.Spice.Netlist import SubCircuit
from rich.console import Console

from memprop import cli
from memprop.circuit.elaborate import Form, elaborate
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import load
from memprop.deck.deck import Deck
from memprop.deck.ngspice import make_deck
from memprop.errors import CheckpointError, EngineError, InputError, OutputError
from memprop.export.bundle import load_bundle
from memprop.flow.commands import export_run, replay_bundle, train_loop
from memprop.flow.doctor import examine
from memprop.flow.evaluate import interval, simulate_bundle
from memprop.flow.gradient import Question
from memprop.flow.image_jobs import Image, image_decks
from memprop.flow.loop import compare, form_deviation
from memprop.flow.proof_cell import cell_proofs
from memprop.flow.proof_gradient import gradient_proof
from memprop.flow.settings import PRESETS, RunSettings, load_settings, save_settings
from memprop.flow.simulate import SpiceResults, SpiceSettings, image_order, simulate_images
from memprop.flow.train import load_trained
from memprop.learn.bptt import BPTTConfig
from memprop.spice.farm import Outcome
from memprop.spice.ngspice import NgspiceEngine
from memprop.twin.network import Twin, from_network

SETTINGS = RunSettings(
    "small", "digits", (8,), dt=1e-6, learning=BPTTConfig(epochs=2, batch=128, rate_input=1e-6, shift=0, validation=100)
)
IMAGES = 4
BUNDLE = Path(__file__).parents[1] / "netlists" / "digits_mif"


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
        kept = _rows(made.folder / "run" / "spice")
        netlists = {path: path.read_bytes() for path in (made.folder / "bundle").glob("*.inc")}
        again = loop(made.folder)
        assert _rows(made.folder / "run" / "spice") == kept
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


def _rows(folder: Path) -> list[Any]:
    with closing(sqlite3.connect(folder / "results.sqlite")) as base:
        return base.execute("SELECT rowid, key, seconds FROM results").fetchall()


class TestSimulateBundle:
    def run(self, made: Made, out: Path, images: int, subject: str = "bundle", **words: Any) -> dict[str, Any]:
        given: dict[str, Any] = {"form": "reduced", "engine_name": "ngspice", "workers": 2, "timeout_s": 300.0, **words}
        console = quiet()
        simulate_bundle(made.folder / subject, console, images=images, out=out, **given)
        assert isinstance(console.file, io.StringIO)
        self.said = console.file.getvalue()
        stem = f"simulate_{given['engine_name']}_reduced" + ("_train" if words.get("split") == "train" else "")
        self.table = (out / f"{stem}.csv").read_bytes()
        return json.loads((out / f"{stem}.json").read_text())

    def test_second_call_is_cached_and_more_images_run_only_the_new_ones(self, made: Made, tmp_path: Path) -> None:
        first = self.run(made, tmp_path, 3)
        table = self.table
        assert (first["spice_cached"], first["spice_images"], first["waveform_images"]) == (0, 3, 3)
        assert self.run(made, tmp_path, 3)["spice_cached"] == 3
        assert self.table == table, "the same results are the same bytes"
        more = self.run(made, tmp_path, 5, waveforms=1)
        assert (more["spice_cached"], more["waveform_images"]) == (3, 1)
        assert set(table.splitlines()) < set(self.table.splitlines())
        assert self.run(made, tmp_path, 5, waveforms=4)["spice_cached"] == 4, "a waveform that was not kept is made"

    def test_outputs_say_who_what_and_how_sure(self, made: Made, tmp_path: Path) -> None:
        summary = self.run(made, tmp_path, 4, workers=1)
        assert (summary["engine"], summary["workers"], summary["split"]) == ("ngspice-39", 1, "test")
        low, high = summary["spice_accuracy_low"], summary["spice_accuracy_high"]
        assert 0 <= low < summary["spice_accuracy"] <= high <= 1
        rows = list(csv.DictReader(io.StringIO(self.table.decode())))
        data = load("digits")
        assert [int(row["index"]) for row in rows] == sorted(image_order(data)[:4].tolist())
        for row in rows:
            means = [float(row[f"mean{k}_v"]) for k in range(10)]
            assert int(row["answer"]) == means.index(max(means))
            assert int(row["label"]) == data.test.labels[int(row["index"])]
            assert row["twin_answer"] == row["answer"]
        assert summary["energy_neurons_j"] == pytest.approx(np.mean([float(row["energy_neurons_j"]) for row in rows]))
        assert "with 95 % confidence" in self.said

    def test_run_folder_and_training_images_are_taken_too(self, made: Made, tmp_path: Path) -> None:
        self.run(made, tmp_path, 2)
        table = self.table
        assert self.run(made, tmp_path, 2, "run")["spice_cached"] == 2, "the same network, the same results"
        assert self.table == table
        assert self.run(made, tmp_path, 2, "run", split="train")["spice_cached"] == 0

    def test_failures_are_listed_with_their_reasons(self, made: Made, tmp_path: Path) -> None:
        self.run(made, tmp_path, 1)
        found = self.run(made, tmp_path, 2, timeout_s=1e-4)
        assert [failure["kind"] for failure in found["failures"]] == ["SimulationTimeout"]
        assert found["retries"] == {"no end after 0.0001 s.": 1}
        assert (found["spice_images"], found["spice_failed"]) == (1, 1)
        assert "1 images failed in SPICE" in self.said

    @pytest.mark.parametrize(
        ("words", "text"),
        [
            ({"form": "flat"}, "netlist form 'flat' is unknown. Known: full, reduced"),
            ({"split": "validation"}, "split 'validation' of digits is unknown. Known: test, train"),
            ({"images": 360}, "images = 360: digits has 359 test images. Ask for 1 to 359"),
            ({"images": 0}, "images = 0: digits has 359 test images"),
            ({"waveforms": -1}, "waveforms = -1: at least 0"),
        ],
    )
    def test_nonsense_is_refused(self, made: Made, tmp_path: Path, words: dict[str, Any], text: str) -> None:
        with pytest.raises(InputError, match=text):
            self.run(made, tmp_path, **{"images": 1, **words})

    def test_interval_is_that_of_the_published_table(self) -> None:
        """Wilson (1927) for 81 of 263, as Newcombe (1998), table I, prints it: 0.2553 to 0.3662."""
        assert interval(81, 263) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))
        assert interval(0, 20)[0] == 0.0
        assert interval(20, 20)[1] == 1.0


class TestSimulateImages:
    twin = Twin((64, 4, 10), dt=1e-6)

    def run(self, folder: Path, indices: list[int], bad: tuple[str, ...] = (), **words: Any) -> SpiceResults:
        settings = SpiceSettings(dt=1e-6, workers=1, cache=folder, **words)
        network = self.twin.to_network("n")
        return simulate_images(network, self.twin.encoder, load("digits"), indices, Moody(folder, bad), settings)

    def decks(self, indices: list[int], form: Form = "reduced") -> list[Deck]:
        made = image_decks(self.twin.to_network("n"), self.twin.encoder, form, 0.25e-6, 1e-6)
        return [made.job(Image(load("digits"), "test", index), True).deck() for index in indices]

    @pytest.mark.parametrize("form", ["reduced", "full"])
    def test_deck_of_an_image_is_that_of_a_whole_elaboration(self, form: Form) -> None:
        data, network = load("digits"), self.twin.to_network("n")
        for index, deck in zip([5, 7], self.decks([5, 7], form), strict=True):
            stimulus = self.twin.encoder.stimulus(torch.from_numpy(data.pixels("test", np.array([index])))[0])
            whole = make_deck(elaborate(network, form, stimulus), 0.25e-6, self.twin.encoder.duration)
            assert (deck, deck.digest, list(deck.files)) == (whole, whole.digest, list(whole.files))

    @pytest.mark.parametrize("form", ["reduced", "full"])
    def test_key_knows_each_conductance_the_image_and_the_steps(self, form: Form) -> None:
        network, encoder = self.twin.to_network("n"), self.twin.encoder
        data = load("digits")
        one, other, train = Image(data, "test", 5), Image(data, "test", 7), Image(data, "train", 5)
        scaled = Image(replace(data, full_scale=17), "test", 5)
        keys = []
        for max_step, dt in ((0.25e-6, 1e-6), (0.2e-6, 1e-6), (0.25e-6, 0.5e-6)):
            keys += [
                image_decks(network, encoder, form, max_step, dt).job(image, True).key
                for image in (one, other, train, scaled)
            ]
        weaker = replace(encoder, v_peak=0.09)
        keys.append(image_decks(network, weaker, form, 0.25e-6, 1e-6).job(one, True).key)
        for projection in network.projections:
            plus = projection.g_plus.copy()
            plus[0, 0] = np.nextafter(plus[0, 0], 1.0)
            moved = network.with_conductances({projection.name: (plus, projection.g_minus)})
            keys.append(image_decks(moved, encoder, form, 0.25e-6, 1e-6).job(one, True).key)
        assert len(set(keys)) == len(keys)
        assert image_decks(network, encoder, form, 0.25e-6, 1e-6).job(one, False).key == keys[0]

    def test_failure_is_kept_beside_the_results_and_only_it_is_run_again(self, tmp_path: Path) -> None:
        bad = self.decks([6])[0].digest
        results = self.run(tmp_path, [5, 6, 7], (bad,))
        assert set(results.done) == {5, 7}
        assert "timestep too small" in str(results.failed[6])
        results = self.run(tmp_path, [5, 6, 7])
        assert set(results.done) == {5, 6, 7}
        assert (ran(tmp_path).count(bad), len(ran(tmp_path)), results.cached) == (2, 4, 2)

    def test_result_is_what_the_recording_says(self, tmp_path: Path) -> None:
        """The numbers again, signal by signal, in plain sums."""
        found = self.run(tmp_path, [5]).done[5]
        (deck,) = self.decks([5])
        recording = NgspiceEngine().run(deck)
        time, steps = recording["time"].values, np.diff(recording["time"].values)

        def integral(values: Any) -> float:
            return sum(float(a + b) / 2 * float(h) for a, b, h in zip(values[1:], values[:-1], steps, strict=True))

        rest = self.twin.to_network("n").output.rest
        for j in range(10):
            mean = integral(recording[f"x2_col{j}_mem"].values) / time[-1] - rest[j]
            assert found.means[j] == pytest.approx(mean, rel=1e-9)
        wave, rails = (
            recording["x0_wave"].values,
            [recording[f"v({r})" if f"v({r})" in recording else r] for r in ("e1", "e2")],
        )
        neurons = sum(
            integral(-v.values * recording[f"i(v_{r})"].values) for r, v in zip(("e1", "e2"), rails, strict=True)
        )
        neurons += sum(
            integral(recording[f"{p}_col{j}_mem"].values * recording[f"i(v.x_{p}_col{j}_mirror.vsense)"].values)
            for p, n in (("x1", 4), ("x2", 10))
            for j in range(n)
        )
        crossbars = integral(-wave * recording["i(b_x0_wave)"].values) - sum(
            integral(recording[f"x1_row{i}_{s}"].values * recording[f"i(e.x_x1_row{i}.e{name})"].values)
            for i in range(4)
            for s, name in (("p", "plus"), ("n", "minus"))
        )
        assert found.energy_neurons == pytest.approx(neurons, rel=1e-9)
        assert found.energy_crossbars == pytest.approx(crossbars, rel=1e-9)
        for k, (population, size) in enumerate((("x1", 4), ("x2", 10))):
            waves = np.stack([recording[f"{population}_col{j}_mem"].values for j in range(size)])
            assert (found.lowest[k], found.highest[k]) == (waves.min(), waves.max())
        np.testing.assert_array_equal(found.time, time)
        assert found.seconds > 0

    def test_only_the_first_images_keep_waveforms(self, tmp_path: Path) -> None:
        for _ in range(2):  # made, then found
            done = self.run(tmp_path, [5, 6, 7], waveforms=1).done
            assert [done[k].waveforms is not None for k in (5, 6, 7)] == [True, False, False]
            assert all(done[k].means.base is None for k in (6, 7)), "no view that holds waveforms in memory"
        with pytest.raises(
            InputError, match=r"image 6 was simulated without keeping its waveforms. Raise SpiceSettings"
        ):
            _ = done[6].membranes
        assert self.run(tmp_path, [5, 6, 7], waveforms=0).cached == 3
        found = compare(self.twin, load("digits"), done)
        assert (found.images, found.waveform_images) == (3, 1)
        assert np.isnan(compare(self.twin, load("digits"), {6: done[6]}).rms)

    def test_waveforms_between_the_points_of_the_simulator_are_those_of_a_finer_run(self) -> None:
        network, data, engine = self.twin.to_network("n"), load("digits"), NgspiceEngine()
        coarse, fine = (
            simulate_images(network, self.twin.encoder, data, [5], engine, SpiceSettings(max_step=step)).done[5]
            for step in (0.25e-6, 0.02e-6)
        )
        assert np.abs(coarse.membranes - fine.membranes).max() < 0.1e-3

    def test_image_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="test image 359 is not there: digits has 359"):
            self.run(tmp_path, [359])

    def test_network_of_other_images_is_refused(self) -> None:
        network = Twin((9, 4, 10), dt=1e-6).to_network("n")
        with pytest.raises(InputError, match="digits has 64 pixels; network n has 9 rows"):
            simulate_images(network, AlphaEncoder(), load("digits"), [0], "ngspice")

    def test_order_is_fixed_and_complete(self) -> None:
        order = image_order(load("digits"))
        assert sorted(order.tolist()) == list(range(359))
        np.testing.assert_array_equal(order, image_order(load("digits")))
        assert order[:10].tolist() != list(range(10))

    def test_nothing_to_compare_is_an_error(self) -> None:
        with pytest.raises(InputError, match="no image was simulated in SPICE"):
            compare(self.twin, load("digits"), {})
        assert form_deviation({}, {}) is None

    def test_range_of_the_membranes_is_that_of_the_results(self, tmp_path: Path) -> None:
        results = self.run(tmp_path, [5, 6])
        found = compare(self.twin, load("digits"), results.done)
        both = np.stack([result.membranes for result in results.done.values()])
        assert (found.lowest, found.highest) == (
            pytest.approx(both.min(), abs=1e-3),
            pytest.approx(both.max(), abs=1e-3),
        )
        assert found.outside == 0

    def test_image_that_leaves_the_limits_of_the_card_is_counted(self, tmp_path: Path) -> None:
        results = self.run(tmp_path, [5, 6])
        low = replace(results.done[5], lowest=results.done[5].lowest - np.array([0.0, 2.0]))
        assert compare(self.twin, load("digits"), {**results.done, 5: low}).outside == 1

    def test_interrupt_keeps_what_is_done(self, tmp_path: Path) -> None:
        def stop(index: int, outcome: Outcome) -> None:
            raise KeyboardInterrupt("from the keyboard")

        network, data = self.twin.to_network("n"), load("digits")
        settings = SpiceSettings(dt=1e-6, workers=2, cache=tmp_path)
        with pytest.raises(KeyboardInterrupt, match="from the keyboard"):
            simulate_images(network, self.twin.encoder, data, list(range(6)), "ngspice", settings, stop)
        assert 1 <= len(_rows(tmp_path)) < 6

    def test_twin_of_another_synapse_is_refused(self) -> None:
        network = self.twin.to_network("n")
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
            (("simulate", str(BUNDLE), "--images", "0"), "'--images': Input should be greater than or equal to 1"),
            (("simulate", str(BUNDLE), "--images", "-5"), "'--images': Input should be greater than or equal to 1"),
            (
                ("simulate", str(BUNDLE), "--images", "10000"),
                "images = 10000: digits has 359 test images. Ask for 1 to 359",
            ),
            (("simulate", str(BUNDLE), "--workers", "0"), "'--workers': Input should be greater than or equal to 1"),
            (
                ("simulate", str(BUNDLE), "--engine", "hspice"),
                "unknown engine 'hspice'. Known: ngspice, ngspice-shared",
            ),
            (("simulate", str(BUNDLE), "--split", "best"), "split 'best' of digits is unknown. Known: test, train"),
            (
                ("simulate", str(BUNDLE), "--cluster", "tcp://127.0.0.1:1"),
                "no dask scheduler answers at 'tcp://127.0.0.1:1'",
            ),
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

    def test_device_that_torch_lacks_is_named_before_the_work(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert command(monkeypatch, "train", "digits", "--device", "quantum") == 1
        assert "device 'quantum' is unknown" in capsys.readouterr().err

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
