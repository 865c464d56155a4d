"""Training on a small set that two halves of an image tell apart: it learns, resumes to the bit, and refuses foreign files."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from memprop.conductance.pair import ConductanceRange
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images, Split
from memprop.errors import CheckpointError, InputError, MempropError, OutputError
from memprop.learn.bptt import BPTTConfig, fit
from memprop.learn.checkpoint import load_checkpoint, save_checkpoint
from memprop.learn.training import History, Progress, accuracy, evaluate, one_cycle, shifted
from memprop.twin.network import Twin

torch.set_num_threads(1)

ENCODER = AlphaEncoder(rise=8e-6, onsets=(0.0,), duration=40e-6)
CONFIG = BPTTConfig(
    epochs=4, batch=20, rate_input=3e-6, rate_hidden=3e-6, validation=20, patience=50, shift=1, checkpoint_s=0
)


def make_data(size: int = 80, name: str = "halves") -> Images:
    """Return noisy 4x4 images whose bright half, upper or lower, is the class."""
    random = np.random.default_rng(7)
    labels = (np.arange(2 * size) % 2).astype(np.uint8)
    images = random.integers(0, 60, (2 * size, 4, 4), dtype=np.uint8)
    images[labels == 0, :2] += 150
    images[labels == 1, 2:] += 150
    return Images(name, Split(images[:size], labels[:size]), Split(images[size:], labels[size:]), 255)


DATA = make_data()


def make_twin(seed: int = 1, **options: Any) -> Twin:
    return Twin((16, 6, 2), ENCODER, dt=2e-6, seed=seed, **options)


def bits(twin: Twin) -> list[bytes]:
    return [crossbar.weight.detach().numpy().tobytes() for crossbar in twin.crossbars]


def train_accuracy(twin: Twin, split: str) -> float:
    labels = torch.from_numpy(getattr(DATA, split).labels).long()
    return accuracy(evaluate(twin, torch.from_numpy(DATA.pixels(split))), labels)


class Kill(Exception):  # noqa: N818 - it stands for a signal
    """Stands for the end of the process."""


def kill_at(epoch: int, step: int) -> Callable[[Progress], None]:
    def on_step(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (epoch, step):
            raise Kill

    return on_step


def interrupted(path: Path, epoch: int = 1, step: int = 3, config: BPTTConfig = CONFIG) -> None:
    """Leave the checkpoint of a training that was killed."""
    with pytest.raises(Kill, match="^$"):
        fit(make_twin(), DATA, config, checkpoint=path, on_step=kill_at(epoch, step))


class TestTraining:
    @pytest.mark.parametrize("shift", [0, 1])
    def test_loss_falls_and_held_out_images_are_recognised(self, shift: int) -> None:
        twin = make_twin()
        before = train_accuracy(twin, "test")
        history = fit(twin, DATA, replace(CONFIG, shift=shift, epochs=5))
        assert before <= 0.6
        assert train_accuracy(twin, "test") > 0.9
        assert history.loss[-1] < 0.2 * history.loss[0]
        assert len(history.loss) == len(history.validation) == len(history.seconds) == 5
        assert min(history.seconds) > 0

    def test_same_seed_gives_the_same_bits_and_another_seed_others(self) -> None:
        twins = [make_twin() for _ in range(3)]
        for twin, seed in zip(twins, (0, 0, 1), strict=True):
            fit(twin, DATA, replace(CONFIG, epochs=1, seed=seed))
        assert bits(twins[0]) == bits(twins[1])
        assert bits(twins[0]) != bits(twins[2])

    def test_step_while_learning_is_that_of_the_settings_and_the_old_one_after(self) -> None:
        twin, coarse, steps = make_twin(), Twin((16, 6, 2), ENCODER, dt=4e-6, seed=1), set()

        def on_step(progress: Progress) -> None:
            steps.update([twin.dt, *(population.dt for population in twin.populations)])

        history = fit(twin, DATA, replace(CONFIG, epochs=1, dt=4e-6), on_step=on_step)
        assert steps == {4e-6}
        assert [twin.dt, *(population.dt for population in twin.populations)] == [2e-6] * 3
        assert history.loss == fit(coarse, DATA, replace(CONFIG, epochs=1)).loss
        assert bits(twin) == bits(coarse)

    def test_step_comes_back_when_a_training_is_killed(self) -> None:
        twin = make_twin()
        with pytest.raises(Kill, match="^$"):
            fit(twin, DATA, replace(CONFIG, dt=4e-6), on_step=kill_at(0, 2))
        assert [twin.dt, *(population.dt for population in twin.populations)] == [2e-6] * 3

    @pytest.mark.parametrize("dt", [3e-6, 0.0, math.nan])
    def test_step_that_does_not_divide_the_presentation_is_refused(self, dt: float) -> None:
        with pytest.raises(InputError, match=rf"time step {dt!r} s does not divide the presentation of 4e-05 s"):
            fit(make_twin(), DATA, replace(CONFIG, dt=dt))

    def test_weights_stay_inside_the_span_at_a_rate_that_would_leave_it(self) -> None:
        window = ConductanceRange(1e-6, 20e-6)
        twin, largest = make_twin(window=window), []
        config = replace(CONFIG, epochs=1, rate_input=2e-5, rate_hidden=2e-5)
        fit(
            twin,
            DATA,
            config,
            on_step=lambda _: largest.append(max(float(c.weight.detach().abs().max()) for c in twin.crossbars)),
        )
        assert max(largest) == pytest.approx(19e-6, rel=1e-6)
        for crossbar in twin.crossbars:
            plus, minus = crossbar.pair()
            assert min(plus.min(), minus.min()) >= 1e-6
            assert max(plus.max(), minus.max()) <= 20e-6

    def test_steps_are_told_in_order(self) -> None:
        told: list[Progress] = []
        history = fit(make_twin(), DATA, replace(CONFIG, epochs=2, batch=25), on_step=told.append)
        assert [(p.epoch, p.step, p.steps) for p in told] == [(e, s, 3) for e in (0, 1) for s in (1, 2, 3)]
        assert history.loss == pytest.approx(
            [np.mean([p.loss for p in told[:3]]), np.mean([p.loss for p in told[3:]])], rel=1e-12
        )

    def test_training_stops_after_so_many_epochs_without_gain(self) -> None:
        history = fit(make_twin(), DATA, replace(CONFIG, epochs=20, rate_input=1e-20, rate_hidden=1e-20, patience=2))
        assert len(history.validation) == 3
        assert history.best == 0

    def test_weights_of_the_best_epoch_are_left_in_the_twin(self) -> None:
        twin, config, after = make_twin(), replace(CONFIG, validation=0), []

        def on_step(progress: Progress) -> None:
            if progress.step == progress.steps:
                if progress.epoch == config.epochs - 1:
                    with torch.no_grad():
                        twin.crossbars[1].weight.neg_()
                after.append(bits(twin))

        history = fit(twin, DATA, config, on_step=on_step)
        assert history.validation[-1] < max(history.validation), "the last epoch must be spoiled, or nothing is tested"
        assert history.best == history.validation.index(max(history.validation))
        assert bits(twin) == after[history.best]
        assert train_accuracy(twin, "train") == history.validation[history.best]

    def test_every_batch_moves_its_images_by_its_own_random_numbers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seeds: list[int] = []

        def recorded(images: torch.Tensor, most: int, generator: torch.Generator) -> torch.Tensor:
            seeds.append(generator.initial_seed())
            return shifted(images, most, generator)

        monkeypatch.setattr("memprop.learn.training.shifted", recorded)
        for seed in (0, 1, 0):
            fit(make_twin(), DATA, replace(CONFIG, epochs=2, seed=seed))
        assert len(set(seeds[:12])) == 12, "2 seeds, 2 epochs, 3 steps"
        assert seeds[12:] == seeds[:6]

    def test_gradient_is_clipped_in_units_of_the_rates(self) -> None:
        twin, norms = make_twin(), {}
        units = [CONFIG.rate_input * 1e5, CONFIG.rate_hidden * 1e5]

        def on_step(progress: Progress) -> None:
            gradients = [crossbar.weight.grad.double().numpy() for crossbar in twin.crossbars]
            norm = math.sqrt(sum(float(((g * unit) ** 2).sum()) for g, unit in zip(gradients, units, strict=True)))
            norms.setdefault(clip, []).append(norm)

        for clip in (1e-6, 1e9):
            fit(twin, DATA, replace(CONFIG, epochs=1, clip=clip), on_step=on_step)
        assert norms[1e-6] == pytest.approx([1e-6] * 3, rel=1e-5)
        assert 1.0 < max(norms[1e9]) < 1e7, "below the limit nothing is scaled, neither down nor up"

    def test_first_of_equal_epochs_is_the_best(self) -> None:
        assert History([1.0, 0.5, 0.4], [0.2, 0.9, 0.9], [1.0, 1.0, 1.0]).best == 1

    def test_loss_that_is_not_a_number_is_an_error_and_leaves_the_checkpoint(self, tmp_path: Path) -> None:
        path, twin = tmp_path / "c.safetensors", make_twin()

        def on_step(progress: Progress) -> None:
            if (progress.epoch, progress.step) == (1, 2):
                with torch.no_grad():
                    twin.crossbars[0].weight[0, 0] = math.nan

        config = replace(CONFIG, checkpoint_s=1e9)
        with pytest.raises(
            MempropError,
            match=r"loss is nan in epoch 2, step 3: the training diverged\. Lower rate_input and rate_hidden",
        ):
            fit(twin, DATA, config, checkpoint=path, on_step=on_step)
        tensors, notes = load_checkpoint(path)
        assert (notes["epoch"], notes["step"]) == (1, 0)
        assert all(bool(value.isfinite().all()) for value in tensors.values())

    def test_accuracy_is_the_share_of_right_maxima(self) -> None:
        outputs = torch.tensor([[0.1, 0.2, 0.0], [0.3, 0.1, 0.2], [-0.3, -0.1, -0.2]])
        assert accuracy(outputs, torch.tensor([1, 2, 1])) == pytest.approx(2 / 3, rel=1e-15)

    def test_batches_of_an_evaluation_do_not_change_it(self) -> None:
        twin, pixels = make_twin(dtype=torch.float64), torch.from_numpy(DATA.pixels("test"))[:7]
        assert evaluate(twin, pixels).shape == (7, 2)
        assert torch.allclose(evaluate(twin, pixels, batch=3), evaluate(twin, pixels), rtol=0, atol=1e-15)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no CUDA here")
def test_training_on_a_card_is_that_of_the_cpu_and_goes_on(tmp_path: Path) -> None:
    whole, there = make_twin(dtype=torch.float64), make_twin(dtype=torch.float64).cuda()
    expected = fit(whole, DATA, replace(CONFIG, epochs=2))

    def stop(progress: Progress) -> None:
        if (progress.epoch, progress.step) == (1, 1):
            raise KeyboardInterrupt

    config = replace(CONFIG, epochs=2, checkpoint_s=0.0)
    with pytest.raises(KeyboardInterrupt):
        fit(there, DATA, config, checkpoint=tmp_path / "c.safetensors", on_step=stop)
    again = make_twin(seed=99, dtype=torch.float64).cuda()
    found = fit(again, DATA, config, checkpoint=tmp_path / "c.safetensors")
    assert found.loss == pytest.approx(expected.loss, rel=1e-9)
    for ours, theirs in zip(again.cpu().crossbars, whole.crossbars, strict=True):
        assert torch.allclose(ours.weight, theirs.weight, rtol=1e-9, atol=0)


class TestResume:
    @pytest.mark.parametrize(("epoch", "step"), [(0, 2), (1, 1), (1, 2), (2, 3)])
    def test_killed_and_resumed_training_equals_the_uninterrupted_one(
        self, tmp_path: Path, epoch: int, step: int
    ) -> None:
        whole, config = make_twin(), replace(CONFIG, epochs=3)
        expected = fit(whole, DATA, config)
        interrupted(tmp_path / "c.safetensors", epoch, step, config)
        resumed, told = make_twin(seed=99), []
        history = fit(resumed, DATA, config, checkpoint=tmp_path / "c.safetensors", on_step=told.append)
        assert bits(resumed) == bits(whole)
        assert (history.loss, history.validation) == (expected.loss, expected.validation)
        assert (told[0].epoch, told[0].step) == (epoch, step), "it goes on where it stopped"

    def test_training_that_was_killed_twice_equals_the_uninterrupted_one(self, tmp_path: Path) -> None:
        whole = make_twin()
        fit(whole, DATA, replace(CONFIG, epochs=3))
        for epoch, step in ((0, 3), (2, 2)):
            interrupted(tmp_path / "c.safetensors", epoch, step, replace(CONFIG, epochs=3))
        resumed = make_twin()
        fit(resumed, DATA, replace(CONFIG, epochs=3), checkpoint=tmp_path / "c.safetensors")
        assert bits(resumed) == bits(whole)

    def test_finished_training_is_loaded_without_a_step(self, tmp_path: Path) -> None:
        first, again, told = make_twin(), make_twin(seed=99), []
        history = fit(first, DATA, replace(CONFIG, epochs=2), checkpoint=tmp_path / "c.safetensors")
        found = fit(again, DATA, replace(CONFIG, epochs=2), checkpoint=tmp_path / "c.safetensors", on_step=told.append)
        assert (bits(again), found, told) == (bits(first), history, [])

    def test_checkpoint_is_the_only_file_left(self, tmp_path: Path) -> None:
        interrupted(tmp_path / "c.safetensors")
        assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]

    def test_write_that_fails_halfway_leaves_the_earlier_checkpoint_whole(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "c.safetensors"
        interrupted(path)
        before, write = path.read_bytes(), Path.write_bytes

        def full_disk(self: Path, content: bytes) -> int:
            write(self, content[: len(content) // 2])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(
            OutputError, match=r"cannot write .*c\.safetensors: No space left on device\. Earlier results are kept"
        ):
            fit(make_twin(), DATA, CONFIG, checkpoint=path)
        assert path.read_bytes() == before
        assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]

    def test_checkpoint_that_cannot_be_written_is_an_output_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(OutputError, match=r"cannot write .*file/c\.safetensors: .*Earlier results are kept"):
            fit(make_twin(), DATA, replace(CONFIG, epochs=1), checkpoint=tmp_path / "file" / "c.safetensors")


class TestForeignCheckpoints:
    @pytest.mark.parametrize(
        ("change", "text"),
        [
            ({"seed": 5}, r"seed is 0 there and 5 here"),
            ({"epochs": 9}, r"epochs is 4 there and 9 here"),
            ({"rate_input": 1e-6}, r"rate_input is 3e-06 there and 1e-06 here"),
            ({"dt": 4e-6}, r"dt is 2e-06 there and 4e-06 here"),
        ],
    )
    def test_other_settings_are_refused(self, tmp_path: Path, change: dict[str, Any], text: str) -> None:
        interrupted(tmp_path / "c.safetensors")
        with pytest.raises(CheckpointError, match=r"checkpoint .*c\.safetensors belongs to another training: " + text):
            fit(make_twin(), DATA, replace(CONFIG, **change), checkpoint=tmp_path / "c.safetensors")

    @pytest.mark.parametrize(
        ("twin", "text"),
        [
            (lambda: Twin((16, 7, 2), ENCODER, dt=2e-6), r"sizes is \[16, 6, 2\] there and \[16, 7, 2\] here"),
            (lambda: Twin((16, 6, 2), ENCODER, dt=1e-6), r"dt is 2e-06 there and 1e-06 here"),
            (lambda: Twin((16, 6, 2), replace(ENCODER, rise=9e-6), dt=2e-6), r"encoder is \{.*'rise': 8e-06.* here"),
            (lambda: make_twin(window=ConductanceRange(1e-6, 50e-6)), r"belongs to another training: (window|g_max)"),
            (lambda: make_twin(parameters={"x1": {"c": 2e-10}}), r"belongs to another training: (parameters|neurons)"),
            (lambda: make_twin(options={"x1": {"gain": 1.1}}), r"belongs to another training: twins"),
        ],
        ids=["sizes", "step", "encoder", "window", "neurons", "mirrors"],
    )
    def test_other_networks_are_refused(self, tmp_path: Path, twin: Callable[[], Twin], text: str) -> None:
        interrupted(tmp_path / "c.safetensors")
        with pytest.raises(CheckpointError, match=text):
            fit(twin(), DATA, CONFIG, checkpoint=tmp_path / "c.safetensors")

    def test_other_data_are_refused(self, tmp_path: Path) -> None:
        interrupted(tmp_path / "c.safetensors")
        with pytest.raises(CheckpointError, match="data is 'halves' there and 'others' here. Use another run folder"):
            fit(make_twin(), make_data(name="others"), CONFIG, checkpoint=tmp_path / "c.safetensors")

    @pytest.mark.parametrize("kept", [0, 5, 100, -1])
    def test_checkpoint_cut_short_is_refused(self, tmp_path: Path, kept: int) -> None:
        path = tmp_path / "c.safetensors"
        interrupted(path)
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(
            CheckpointError, match=r"checkpoint .*c\.safetensors is damaged \(.*\)\. Delete it and train again"
        ):
            fit(make_twin(), DATA, CONFIG, checkpoint=path)

    def test_other_safetensors_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "c.safetensors"
        save_file({"weight": torch.zeros(3)}, path)
        with pytest.raises(
            CheckpointError,
            match=r"is a safetensors file, but no memprop checkpoint \(format None, not 'memprop-checkpoint-1'\)",
        ):
            fit(make_twin(), DATA, CONFIG, checkpoint=path)

    @pytest.mark.parametrize("notes", [None, "{", "{}"], ids=["no notes", "no JSON", "empty"])
    def test_checkpoint_with_damaged_notes_is_refused(self, tmp_path: Path, notes: str | None) -> None:
        path = tmp_path / "c.safetensors"
        interrupted(path)
        header = {"format": "memprop-checkpoint-1"} | ({} if notes is None else {"notes": notes})
        save_file(load_file(path), path, metadata=header)
        with pytest.raises(CheckpointError, match=r"c\.safetensors is damaged"):
            fit(make_twin(), DATA, CONFIG, checkpoint=path)

    def test_checkpoint_without_a_crossbar_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "c.safetensors"
        interrupted(path)
        tensors, notes = load_checkpoint(path)
        del tensors["now.layers.0.weight"]
        save_checkpoint(path, tensors, notes)
        with pytest.raises(CheckpointError, match=r"c\.safetensors is damaged"):
            fit(make_twin(), DATA, CONFIG, checkpoint=path)

    def test_missing_checkpoint_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            CheckpointError, match=r"checkpoint .*none\.safetensors is not there\. Check the path, or train first"
        ):
            load_checkpoint(tmp_path / "none.safetensors")

    def test_checkpoint_comes_back_to_the_bit(self, tmp_path: Path) -> None:
        tensors = {"a": torch.tensor([[1e-7, -0.0], [math.pi, 1e-42]]), "b": torch.arange(3)}
        save_checkpoint(tmp_path / "c", tensors, {"x": 0.1, "y": [1, None]})
        found, notes = load_checkpoint(tmp_path / "c")
        assert {name: value.numpy().tobytes() for name, value in found.items()} == {
            name: value.numpy().tobytes() for name, value in tensors.items()
        }
        assert notes == {"x": 0.1, "y": [1, None]}


class TestShift:
    IMAGE = torch.arange(1.0, 13.0).reshape(1, 3, 4)

    def test_no_shift_leaves_the_images(self) -> None:
        assert torch.equal(shifted(self.IMAGE, 0, torch.Generator()), self.IMAGE)

    def test_images_move_by_whole_pixels_in_all_directions_and_zeros_come_in(self) -> None:
        moved = shifted(self.IMAGE.expand(300, 3, 4), 1, torch.Generator().manual_seed(0))
        padded = np.pad(self.IMAGE[0].numpy(), 1)
        allowed = {padded[r : r + 3, c : c + 4].tobytes() for r in range(3) for c in range(3)}
        assert len(allowed) == 9
        assert {image.numpy().tobytes() for image in moved} == allowed

    def test_moves_are_functions_of_the_generator(self) -> None:
        images = self.IMAGE.expand(20, 3, 4)
        first, again, other = (shifted(images, 2, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


class TestOneCycle:
    def test_ends_and_peak(self) -> None:
        assert one_cycle(0.0) == pytest.approx(0.04, rel=1e-15)
        assert one_cycle(0.15) == pytest.approx(0.52, rel=1e-12)
        assert one_cycle(0.3) == pytest.approx(1.0, rel=1e-15)
        assert one_cycle(0.65) == pytest.approx(0.5, rel=1e-12)
        assert one_cycle(1.0) == pytest.approx(0.0, abs=1e-15)

    def test_rate_rises_then_falls_without_a_jump(self) -> None:
        values = np.array([one_cycle(p) for p in np.linspace(0, 1, 1001)])
        assert (np.diff(values[:301]) > 0).all()
        assert (np.diff(values[300:]) < 0).all()
        assert np.abs(np.diff(values)).max() < 0.006


class TestRefusals:
    @pytest.mark.parametrize("sizes", [(15, 2), (16, 1)])
    def test_data_that_do_not_fit_the_network_are_refused(self, sizes: tuple[int, ...]) -> None:
        text = rf"data set halves has 16 pixels and 2 classes; the network takes {sizes[0]} rows and has {sizes[1]} outputs"
        with pytest.raises(InputError, match=text):
            fit(Twin(sizes, ENCODER, dt=2e-6), DATA, CONFIG)

    @pytest.mark.parametrize("validation", [80, 81])
    def test_validation_that_leaves_no_training_image_is_refused(self, validation: int) -> None:
        with pytest.raises(InputError, match=rf"validation = {validation} leaves no training image of 80"):
            fit(make_twin(), DATA, replace(CONFIG, validation=validation))

    @pytest.mark.parametrize(
        "name", ["epochs", "batch", "rate_input", "rate_hidden", "temperature", "clip", "patience"]
    )
    @pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
    def test_settings_that_are_not_positive_are_refused(self, name: str, value: float) -> None:
        with pytest.raises(InputError, match=rf"BPTTConfig: {name} = {value!r} must be finite and positive"):
            BPTTConfig(**{name: value})

    @pytest.mark.parametrize("name", ["decay", "shift", "validation", "checkpoint_s"])
    @pytest.mark.parametrize("value", [-1, math.nan, math.inf])
    def test_settings_that_are_negative_are_refused(self, name: str, value: float) -> None:
        with pytest.raises(InputError, match=rf"BPTTConfig: {name} = {value!r} must be finite and not negative"):
            BPTTConfig(**{name: value})

    @pytest.mark.parametrize("name", ["epochs", "batch", "shift", "validation", "patience", "seed"])
    def test_counts_that_are_not_whole_are_refused(self, name: str) -> None:
        with pytest.raises(InputError, match=rf"BPTTConfig: {name} = 1\.5 must be"):
            BPTTConfig(**{name: 1.5})

    def test_negative_seed_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"BPTTConfig: seed = -1 must be"):
            BPTTConfig(seed=-1)
