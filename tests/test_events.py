"""Events: files of N-MNIST against a packer of their own, saccades against a loop per pixel, BioGrad on both."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from memprop.cli import app
from memprop.data import load
from memprop.data.events import EVENT, EVENT_ROWS, PackedFrames, bin_events, load_n_mnist, read_events
from memprop.data.saccades import SIMULATED, Saccades
from memprop.data.sets import Images, Split
from memprop.data.spikes import Bernoulli
from memprop.errors import DataError, InputError
from memprop.flow import biograd
from memprop.flow.biograd import PRESETS, fresh_crossbars, learn_biograd
from memprop.learn.biograd import BioGrad
from memprop.twin.biograd import ErrorNeurons, error_spikes, run_network

torch.set_num_threads(1)

Event = tuple[int, int, int, int]
pixel = st.integers(0, 33)
event_lists = st.lists(st.tuples(pixel, pixel, st.integers(0, 2**23 - 1), st.integers(0, 1)), min_size=1, max_size=50)


def packed(events: list[Event]) -> bytes:
    """Return the bytes of events (x, y, t, p): one number of 40 bits each, built from the words of the data set's description."""
    return b"".join(((((x << 8) + y << 1) + p << 23) + t).to_bytes(5, "big") for x, y, t, p in events)


def sample(digit: int, count: int = 60) -> list[Event]:
    """Return events in one column per digit, alternately ON and OFF, in order of time."""
    return [(3 * digit + k % 3, k % 34, 5000 * k, k % 2) for k in range(count)]


def tree(folder: Path, each: int = 3) -> Path:
    for part in ("Train", "Test"):
        for digit in range(10):
            (folder / part / str(digit)).mkdir(parents=True)
            for k in range(each):
                (folder / part / str(digit) / f"{10 * k + digit:05d}.bin").write_bytes(packed(sample(digit, 60 + k)))
    return folder


class TestFiles:
    @settings(deadline=None)
    @given(event_lists)
    def test_round_trip(self, tmp_path_factory: pytest.TempPathFactory, events: list[Event]) -> None:
        path = tmp_path_factory.getbasetemp() / "events.bin"
        path.write_bytes(packed(events))
        found = read_events(path)
        assert found.dtype.names == ("x", "y", "t", "p")
        assert [tuple(int(n) for n in event) for event in found] == events

    def test_bytes_in_the_hand(self, tmp_path: Path) -> None:
        (tmp_path / "a.bin").write_bytes(bytes([5, 33, 0x80, 0x01, 0x02, 7, 0, 0x01, 0x00, 0x00]))
        assert read_events(tmp_path / "a.bin").tolist() == [(5, 33, 258, 1), (7, 0, 65536, 0)]

    def test_marks_of_the_clock_are_no_events(self, tmp_path: Path) -> None:
        (tmp_path / "a.bin").write_bytes(
            packed([(1, 1, 8000, 1), (0, 240, 0, 0), (2, 2, 10, 0), (0, 240, 0, 0), (3, 3, 4, 1)])
        )
        assert read_events(tmp_path / "a.bin", ordered=True).tolist() == [
            (1, 1, 8000, 1),
            (2, 2, 8202, 0),
            (3, 3, 16388, 1),
        ]

    def test_damaged_files_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / "a.bin"
        with pytest.raises(DataError, match=r"a\.bin cannot be read \(No such file"):
            read_events(path)
        path.write_bytes(b"")
        with pytest.raises(DataError, match=r"a\.bin: 0 bytes are no whole number of events of 5 bytes"):
            read_events(path)
        path.write_bytes(packed(sample(1))[:-1])
        with pytest.raises(DataError, match=r"299 bytes are no whole number .* Copy the file again"):
            read_events(path)
        path.write_bytes(packed([(1, 2, 3, 0), (34, 7, 4, 1)]))
        with pytest.raises(DataError, match=r"event 2 is at x = 34, y = 7, pixels go from 0 to 33"):
            read_events(path)
        path.write_bytes(packed([(1, 2, 30, 0), (1, 2, 20, 0)]))
        assert len(read_events(path)) == 2
        with pytest.raises(DataError, match=r"event 2 is at 20 us, the one before at 30 us\. Sort the events by time"):
            read_events(path, ordered=True)

    def test_frames_say_where_and_when(self) -> None:
        events = np.array([(5, 2, 0, 1), (5, 2, 9, 1), (33, 33, 10, 0), (0, 0, 99, 0), (1, 0, 500, 1)], EVENT)
        frames = bin_events(events, 10, 100.0).reshape(10, 2, 34, 34)
        assert sorted(map(tuple, np.argwhere(frames).tolist())) == [
            (0, 1, 2, 5),
            (1, 0, 33, 33),
            (9, 0, 0, 0),
            (9, 1, 0, 1),
        ]
        with pytest.raises(InputError, match=r"steps = 0, duration = 315000\.0 us"):
            bin_events(events, 0)


class TestTree:
    @pytest.mark.parametrize("inner", ["", "NMNIST"])
    def test_samples_labels_and_frames(self, tmp_path: Path, inner: str) -> None:
        tree(tmp_path / inner)
        data = load_n_mnist(tmp_path, 12)
        assert (data.name, data.rows, data.classes) == ("N-MNIST", 12 * EVENT_ROWS // 8, 10)
        assert data.test.labels.tolist() == [digit for digit in range(10) for _ in range(3)]
        encoder = PackedFrames(12)
        spikes = encoder(torch.from_numpy(data.pixels("train")).flatten(1), 12)
        assert (spikes.shape, spikes.dtype) == ((12, 30, EVENT_ROWS), torch.float32)
        for k in (0, 13, 29):
            digit = int(data.train.labels[k])
            expected = np.zeros((12, 2, 34, 34))
            for x, y, t, p in sample(digit, 60 + k % 3):
                expected[t * 12 // 315_000, p, y, x] = 1
            assert np.array_equal(spikes[:, k].numpy(), expected.reshape(12, -1))

    def test_missing_parts_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataError, match=r"N-MNIST: .*Train has no folder 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; each digit has one"
        ):
            load_n_mnist(tmp_path, 12)
        tree(tmp_path)
        (tmp_path / "Test" / "7").rename(tmp_path / "Test" / "seven")
        with pytest.raises(DataError, match=r"Test has no folder 7; .*whose name is the label"):
            load_n_mnist(tmp_path, 12)
        (tmp_path / "Test" / "7").mkdir()
        with pytest.raises(DataError, match=r"Test has no file \*\.bin for 7\. Unpack the archive again"):
            load_n_mnist(tmp_path, 12)

    def test_other_numbers_of_frames_are_refused(self) -> None:
        for samples, steps in ((torch.zeros(1, 3468, dtype=torch.uint8), 6), (torch.zeros(1, 3468), 12)):
            with pytest.raises(
                InputError, match=rf"{samples.dtype} for {steps} steps; give \[B, 3468\] of uint8, 12 frames"
            ):
                PackedFrames(12)(samples, steps)


def naive(image: np.ndarray, camera: Saccades) -> np.ndarray:
    """Return ``[exposures, 2, 34, 34]`` of one image, pixel by pixel; the path from its speed, in exposures."""
    speed = [(7.0, 3.5), (-7.0, 3.5), (0.0, -7.0)]
    per, top, left = camera.exposures // 3, -0.5, -0.5
    places = [(top, left)]
    for k in range(camera.exposures):
        down, right = speed[k // per]
        places.append((places[-1][0] + down / per, places[-1][1] + right / per))

    def light(row: float, column: float) -> float:
        total = 0.0
        for r in (math.floor(row), math.floor(row) + 1):
            for c in (math.floor(column), math.floor(column) + 1):
                if 0 <= r < 28 and 0 <= c < 28:
                    total += image[r, c] * (1 - abs(row - r)) * (1 - abs(column - c))
        return total

    found = np.zeros((camera.exposures, 2, 34, 34))
    for y in range(34):
        for x in range(34):
            last = math.log(light(y - top, x - left) + camera.dark)
            for k, (down, right) in enumerate(places[1:]):
                now = math.log(light(y - down, x - right) + camera.dark)
                if abs(now - last) >= camera.threshold:
                    found[k, int(now > last), y, x] = 1
                    last = now
    return found


class TestSaccades:
    def test_events_are_those_of_a_loop_over_pixels(self) -> None:
        image = load("mnist").pixels("train", slice(0, 1)).astype(np.float64)
        camera = Saccades(exposures=12)
        found = torch.stack(list(camera.events(torch.from_numpy(image)))).squeeze(1).double().numpy()
        expected = naive(image[0], camera)
        assert expected.sum() > 500
        assert np.count_nonzero(found != expected) <= 2, (
            "changes within rounding of the threshold may fall to either side"
        )
        merged = camera(torch.from_numpy(image).flatten(1), 4)
        assert np.array_equal(merged.reshape(4, 2, 34, 34), found.reshape(4, 3, 2, 34, 34).max(1))

    def test_uniform_light_and_a_still_image_give_none(self) -> None:
        dark = torch.zeros(2, 28, 28)
        assert not any(fired.any() for fired in Saccades().events(dark))
        digit = torch.from_numpy(load("mnist").pixels("train", slice(0, 1)))
        assert not any(fired.any() for fired in Saccades(reach=0.0).events(digit))
        bright = torch.stack(list(Saccades().events(torch.ones(1, 28, 28))))
        assert not bright[..., 8:26, 8:26].any(), "inside of a uniform square nothing changes"

    def test_leading_edges_of_bright_things_are_on(self) -> None:
        """A square goes down and right first: ON below and right of it, OFF above and left."""
        image = torch.zeros(1, 28, 28)
        image[:, 10:18, 10:18] = 1.0
        first = torch.stack(list(Saccades().events(image)))[:6, 0].any(0)
        rows, columns = torch.arange(34)[:, None], torch.arange(34)[None, :]
        assert first[1].any()
        assert first[0].any()
        assert not first[1, (rows + columns < 26).expand(34, 34)].any()
        assert not first[0, (rows + columns > 40).expand(34, 34)].any()
        assert first[1, 20:24, 14:20].any()
        assert first[0, 12:16, 14:20].any()

    def test_path_closes_and_stays_in_the_middle(self) -> None:
        path = np.array(Saccades().path())
        assert path[0] == pytest.approx(path[-1])
        assert np.ptp(path, axis=0) == pytest.approx([7.0, 7.0])
        assert (path.min(0) + path.max(0)) / 2 == pytest.approx([3.0, 3.0])
        np.testing.assert_allclose(path[[12, 24]], [[6.5, 3.0], [-0.5, 6.5]])

    def test_digits_give_the_events_of_a_recording(self) -> None:
        images = torch.from_numpy(load("mnist").pixels("train", slice(0, 300)))
        counts = sum(fired.flatten(1).sum(1) for fired in Saccades().events(images))
        assert isinstance(counts, torch.Tensor)
        assert 4200 < float(counts.double().mean()) < 4700

    def test_wrong_numbers_are_named(self) -> None:
        for wrong in ({"exposures": 20}, {"threshold": 0.0}, {"image_side": 40}, {"dark": float("nan")}):
            with pytest.raises(InputError, match=rf"saccades: .*{next(iter(wrong))} = {next(iter(wrong.values()))}"):
                Saccades(**wrong)
        with pytest.raises(InputError, match=r"36 exposures do not divide into 7 steps"):
            Saccades()(torch.zeros(1, 784), 7)
        with pytest.raises(InputError, match=r"samples \(1, 785\); give images as \[B, 784\]"):
            Saccades()(torch.zeros(1, 785), 6)


class TestRule:
    def test_pixels_are_drawn_as_ever(self) -> None:
        pixels = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
        spikes = Bernoulli(5)(pixels, 7, torch.Generator().manual_seed(1))
        assert torch.equal(spikes, (torch.rand(7, 3, 5, generator=torch.Generator().manual_seed(1)) < pixels).float())

    def test_charged_error_neurons_round(self) -> None:
        """Three classes in two steps: errors of 2/3 and -4/3, cut to 0 and -1, or rounded to 1 and -1."""
        silent, label = torch.zeros(2, 1, 3), torch.tensor([1])
        assert error_spikes(silent, label, 0).tolist() == [[0, -1, 0]]
        assert error_spikes(silent, label, 0, ErrorNeurons(charge=0.5)).tolist() == [[1, -1, 1]]

    def test_gain_makes_each_spike_count_more(self) -> None:
        output = torch.zeros(10, 1, 2)
        output[0, 0, 0] = 1.0
        assert error_spikes(output, torch.tensor([0]), 0).tolist() == [[-2, 2]]  # 10 / (1 + e) = 2.7
        assert error_spikes(output, torch.tensor([0]), 0, ErrorNeurons(gain=4.0)).tolist() == [[0, 0]]

    def test_wrong_arguments_are_named(self) -> None:
        layer = [torch.zeros(5, 3)]
        with pytest.raises(InputError, match=r"spikes come on 2312 rows, the first crossbar has 4 and the bias"):
            BioGrad(layer, 1e-5, encoder=Saccades())
        with pytest.raises(InputError, match=r"charge = 1\.5, gain = 1\.0"):
            ErrorNeurons(charge=1.5)
        assert BioGrad(layer, 1e-5).sizes == (4, 3)
        assert "errors" not in BioGrad(layer, 1e-5).identity


def few(name: str, cache: Path | None = None, whole: Callable[..., Images] = load) -> Images:
    data = whole("mnist", cache)
    return replace(data, train=Split(data.train.images[:600], data.train.labels[:600]),
                   test=Split(data.test.images[:100], data.test.labels[:100]))  # fmt: skip


SMALL = replace(PRESETS["events"], hidden=(30,), epochs=2, batch=50, validation=100)


class TestTraining:
    def test_simulated_events_learn_go_on_and_say_what_they_are(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(biograd, "load", few)
        out = io.StringIO()
        first = learn_biograd(SMALL, tmp_path, Console(file=out, width=200))
        assert first["history"]["loss"][1] < first["history"]["loss"][0]
        assert first["dataset"] == SIMULATED
        assert first["crossbars"][0] == [EVENT_ROWS + 1, 30]
        assert "97.59 % of the paper are of N-MNIST" in first["more"]["events"]
        assert f"BioGrad, {SIMULATED}" in out.getvalue()
        again = learn_biograd(SMALL, tmp_path, Console(file=io.StringIO()))
        assert again["history"] == first["history"]
        assert again["twin_accuracy"] == first["twin_accuracy"]

    def test_command_trains_on_recorded_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tree(tmp_path / "data")
        monkeypatch.setitem(PRESETS, "events", replace(SMALL, validation=5, shift=1))
        where = ["--nmnist", str(tmp_path / "data"), "--run", str(tmp_path / "run")]
        done = CliRunner().invoke(app, ["learn", "biograd", "events", *where, "--hidden", "20", "--epochs", "3"])
        assert done.exit_code == 0, done.output
        assert "BioGrad, N-MNIST" in done.output
        assert "2313 x 20" in done.output
        assert "recorded by a camera" in " ".join(done.output.split())

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["biograd", "mnist", "--nmnist", "."], "--nmnist is for biograd events"),
            (["eqspike", "events"], "rule eqspike has no data set 'events'"),
        ],
    )
    def test_command_names_what_does_not_fit(self, arguments: list[str], message: str) -> None:
        done = CliRunner().invoke(app, ["learn", *arguments])
        assert done.exit_code != 0
        assert message in " ".join(done.output.replace("│", " ").split())

    def test_command_names_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        done = CliRunner().invoke(app, ["learn", "biograd", "events", "--nmnist", str(tmp_path / "none")])
        assert isinstance(done.exception, DataError)
        assert "Unpack train.zip" in str(done.exception)


def test_start_of_training_leaves_outputs_in_the_window() -> None:
    data, steps = few("mnist"), PRESETS["events"].steps
    crossbars = fresh_crossbars(PRESETS["events"], data, EVENT_ROWS)
    rule = BioGrad(crossbars, PRESETS["events"].unit, steps=steps, neuron=PRESETS["events"].neuron, encoder=Saccades())
    waves = run_network(
        rule._layers(),
        rule.encoder(torch.from_numpy(data.pixels("test")).flatten(1), steps, torch.Generator()),
        rule.neuron,
    )
    assert all(float(wave.near.mean()) > 0.1 for wave in waves)
