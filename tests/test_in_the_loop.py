"""Learning in the loop: injection, the plant in SPICE, resuming, and gradients against differences taken in SPICE."""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from memprop import cli
from memprop.circuit.network import Network, Projection
from memprop.circuit.spread import Spread, draw_chip
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import load
from memprop.errors import CheckpointError, InputError, RangeWarning, SimulatorKilled
from memprop.export.bundle import load_bundle
from memprop.flow import gradient
from memprop.flow.gradient import Comparison, Question, check_gradient, spice_gradient
from memprop.flow.in_the_loop import _check_calibrated
from memprop.flow.plant import SpicePlant
from memprop.flow.simulate import SpiceSettings, simulate_images
from memprop.learn.in_the_loop import InTheLoopConfig, fit_in_the_loop
from memprop.learn.plant import Measured, Pairs
from memprop.learn.training import History, evaluate
from memprop.spice.ngspice import NgspiceEngine
from memprop.twin.cell import CellTwin
from memprop.twin.injection import injected
from memprop.twin.network import Twin, from_network

BUNDLE = Path(__file__).parents[1] / "netlists" / "digits_mif"
STEP = 1e-6
ALL = {"c": 0.3, "tau": 0.3, "von": 0.3, "voff": 0.3}


def small_network(seed: int = 1) -> tuple[Twin, Network]:
    """Return 64 rows, 5 and 10 neurons with strong random weights, so that membranes switch."""
    twin = Twin((64, 5, 10), AlphaEncoder(duration=60e-6, onsets=(0.0,)), dt=STEP, seed=seed, dtype=torch.float64)
    with torch.no_grad():
        for crossbar in twin.crossbars:
            crossbar.weight.mul_(3.0)
        twin.project()
    return twin, twin.to_network("small")


class TwinPlant:
    """The twin of a chip in the place of the chip."""

    name = "twin"

    def __init__(self, network: Network, encoder: AlphaEncoder, dtype: torch.dtype = torch.float32) -> None:
        self.twin = from_network(network, encoder, STEP, dtype)
        self.shown, self.forgotten, self.seconds, self.fail_at = 0, 0, 0.0, -1

    def program(self, pairs: Pairs) -> None:
        for crossbar, pair in zip(self.twin.crossbars, pairs, strict=True):
            crossbar.set_pair(*pair)

    def show(self, images: Tensor, dt: float) -> Measured:
        if self.shown == self.fail_at:
            raise SimulatorKilled("image", "it was killed")
        self.shown += 1
        with self.twin.stepping(dt):
            return Measured(tuple(self.twin.traces(images).values()), None)

    def forget(self) -> None:
        self.forgotten += 1


def test_injected_is_the_measurement_with_the_slope_of_the_model() -> None:
    measured = torch.tensor([1.0, 2.0], requires_grad=True)
    model = torch.tensor([5.0, float("inf")], requires_grad=True)
    (injected(measured, model) * torch.tensor([3.0, 4.0])).sum().backward()
    assert injected(measured, model).tolist() == [1.0, 2.0]
    assert model.grad is not None
    assert model.grad.tolist() == [3.0, 4.0]
    assert measured.grad is None


@pytest.mark.parametrize(
    ("cell", "dt", "method"),
    [("mif", 0.5e-6, "auto"), ("mif", 0.5e-6, "general"), ("threshold_neuron", 1e-9, "auto")],
)
def test_along_its_own_waveform_the_twin_has_its_own_gradient(cell: str, dt: float, method: str) -> None:
    twin = CellTwin(3, dt, cell=cell, method=method, kernel="eager", dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    current = (torch.randn(41, 2, 3, generator=generator, dtype=torch.float64).cumsum(0) * 2e-6).requires_grad_()
    weight = torch.randn(41, 2, 3, generator=generator, dtype=torch.float64)
    above = twin(current)
    (expected,) = torch.autograd.grad((above * weight).sum(), current)
    followed = twin.follow(current, twin.trace(current.detach()))
    (found,) = torch.autograd.grad((followed * weight).sum(), current)
    torch.testing.assert_close(followed, above, rtol=0, atol=1e-15)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("method", ["auto", "general"])
def test_the_operating_point_at_the_start_has_its_gradient_too(method: str) -> None:
    twin = CellTwin(2, 0.5e-6, method=method, kernel="eager", dtype=torch.float64)
    twin.settles = True  # as where rows rest off their reference
    current = torch.full((21, 1, 2), 2e-7, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(twin(current).sum(), current)
    followed = twin.follow(current, twin.trace(current.detach()))
    (found,) = torch.autograd.grad(followed.sum(), current)
    assert float(expected[0].abs().min()) > float(expected[1].abs().max())  # most of it is that of the start
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_measured_states_replace_those_of_the_model() -> None:
    twin = CellTwin(2, STEP, dtype=torch.float64)
    current = torch.full((11, 1, 2), 5e-6, dtype=torch.float64, requires_grad=True)
    membrane = twin.trace(current.detach())
    slopes = []
    for level in (0.01, 0.5):  # memristors that conduct make the membrane fast, so that it forgets
        states = {name: torch.full((10, 1, 2), level, dtype=torch.float64) for name in twin.state_names}
        (slope,) = torch.autograd.grad(twin.follow(current, membrane, states)[-1].sum(), current)
        slopes.append(float(slope[0, 0, 0]))
    assert abs(slopes[1]) < 1e-3 * abs(slopes[0])


def test_what_does_not_fit_is_refused() -> None:
    twin, network = small_network()
    images = torch.zeros(2, 64, dtype=torch.float64)
    membranes = list(twin.traces(images).values())
    with pytest.raises(InputError, match=r"1 populations were measured; the twin has 2"):
        twin.follow(images, membranes[:1])
    with pytest.raises(InputError, match=r"membrane has shape \(10, 2, 5\), the current \(61, 2, 5\)"):
        twin.follow(images, [membranes[0][:10], membranes[1]])
    with pytest.raises(InputError, match=r"state 'x1\.x' was not measured\. Measure all of x1\.x, x2\.x"):
        twin.follow(images, membranes, [{}, {}])
    data, plant = load("digits"), TwinPlant(network, twin.encoder)
    with pytest.raises(InputError, match="validation must be at least 1"):
        fit_in_the_loop(twin, plant, data, InTheLoopConfig(validation=0))
    with pytest.raises(InputError, match="InTheLoopConfig: images = 0"):
        InTheLoopConfig(images=0)
    with pytest.raises(InputError, match=r"softness = nan V must be finite and positive"):
        InTheLoopConfig(softness=float("nan"))
    with pytest.raises(InputError, match=r"InTheLoopConfig: epochs = -1"):
        InTheLoopConfig(epochs=-1)
    for teacher in (twin, Twin((64, 4, 10))):
        with pytest.raises(InputError, match=r"the teacher must be a second network of sizes \(64, 5, 10\)"):
            fit_in_the_loop(twin, plant, data, teacher=teacher)


def test_the_plant_measures_what_the_simulator_says() -> None:
    twin, network = small_network()
    data = load("digits")
    images = torch.from_numpy(data.pixels("test", slice(0, 3))).double()
    engine = NgspiceEngine()
    with SpicePlant(network, twin.encoder, engine, workers=1) as plant:
        found = plant.show(images, STEP)
    results = simulate_images(
        network, twin.encoder, data, range(3), engine, SpiceSettings(dt=STEP, workers=1, waveforms=3)
    )
    membranes = torch.cat(found.membranes, -1)
    for k, result in results.done.items():
        np.testing.assert_allclose(membranes[:, k].numpy(), result.membranes, rtol=0, atol=1e-5)
    assert found.states is not None
    assert [sorted(states) for states in found.states] == [["x1.x", "x2.x"]] * 2
    # The twin at a fine step, another integration of the same device, has the states between its steps.
    fine = twin.populations[0]
    fine.dt = STEP / 20
    with twin.stepping(STEP / 20):
        current = twin.crossbars[0](twin.encoder(images, STEP / 20))
        state, states = fine.resting_state(3), []
        for start in range(0, len(current) - 1, 10):
            _, state = fine.run(current[start : start + 11], state)
            states.append(state.states[0])
    middle = torch.stack(states)[0::2]  # [T, S, D, B, N]
    for number, name in enumerate(("x1.x", "x2.x")):
        torch.testing.assert_close(found.states[0][name].double(), middle[:, 0, number].double(), rtol=0, atol=2e-3)


def test_every_form_of_the_netlist_shows_the_same() -> None:
    twin, network = small_network()
    images = torch.from_numpy(load("digits").pixels("test", slice(0, 2))).double()
    shown = []
    for form in ("reduced", "full", "naive"):
        with SpicePlant(network, twin.encoder, NgspiceEngine(), workers=1, form=form) as plant:
            shown.append(torch.cat(plant.show(images, STEP).membranes, -1))
    for other in shown[1:]:
        torch.testing.assert_close(other, shown[0], rtol=0, atol=1e-6)


def test_a_cell_without_equations_takes_part_in_the_loop(tmp_path: Path) -> None:
    """The twin of the CMOS neuron was learned from waveforms; the chip is its transistors, with capacitors off by 30 %."""
    twin = Twin((64, 4, 10), AlphaEncoder(), cell="axon_hillock", dt=1e-7, seed=2, dtype=torch.float64)
    with torch.no_grad():
        twin.crossbars[0].weight.copy_(4e-7 * torch.rand(64, 4, generator=torch.Generator().manual_seed(0)))
        twin.crossbars[1].weight.mul_(0.05)
    design = twin.to_network("cmos")
    chip = draw_chip(design, Spread({"cmem": 0.3}), 1).program()
    data, engine = load("digits"), NgspiceEngine()
    before = [crossbar.weight.detach().clone() for crossbar in twin.crossbars]
    config = InTheLoopConfig(
        epochs=1, batch=3, images=3, validation=2, rate_input=1e-8, rate_hidden=1e-8, dt=1e-7, shift=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RangeWarning)
        with SpicePlant(chip, twin.encoder, engine, workers=2, states=False, cache=tmp_path) as plant:
            history = fit_in_the_loop(twin, plant, data, config)
    assert np.isfinite(history.loss[0])
    moved = [float((c.weight.detach() - old).abs().max()) for c, old in zip(twin.crossbars, before, strict=True)]
    assert min(moved) > 1e-9


def test_a_chip_corrects_what_the_twin_does_not_know(tmp_path: Path) -> None:
    data = load("digits")
    twin, design = small_network()
    chip = draw_chip(design, Spread({"c": 0.5, "tau": 0.5, "von": 0.5, "voff": 0.5}), 3).program()
    config = InTheLoopConfig(2, 25, 1e-6, 1e-5, dt=STEP, temperature=20e-3, validation=50, images=200)
    twin = from_network(design, twin.encoder, STEP)
    history = fit_in_the_loop(twin, TwinPlant(chip, twin.encoder), data, config, checkpoint=tmp_path / "c.safetensors")
    assert history.loss[1] < 0.9 * history.loss[0]
    assert len(history.circuit_seconds) == 2


def test_a_chip_learns_the_answers_of_a_design_that_it_never_saw_labels_of() -> None:
    design, encoder, _ = load_bundle(BUNDLE)
    data = load("digits")
    untold = replace(data, train=replace(data.train, labels=np.zeros_like(data.train.labels)))
    plant = TwinPlant(draw_chip(design, Spread(dict.fromkeys(ALL, 0.4)), 1).program(), encoder)
    twin, teacher = from_network(design, encoder, STEP), from_network(design, encoder, STEP)
    unseen = torch.from_numpy(data.pixels("test"))
    wanted = evaluate(teacher, unseen)

    def distance() -> tuple[float, float]:
        """Return how far the differences between the classes are from the teacher's, and how often the answer is the same."""
        plant.program([crossbar.pair() for crossbar in twin.crossbars])
        found = evaluate(plant.twin, unseen)
        same = (found.argmax(1) == wanted.argmax(1)).double().mean()
        above, expected = found - found.mean(1, keepdim=True), wanted - wanted.mean(1, keepdim=True)
        return float((above - expected).norm() / expected.norm()), float(same)

    apart, agree = distance()
    config = InTheLoopConfig(4, 25, dt=STEP, validation=100, images=400)
    history = fit_in_the_loop(twin, plant, untold, config, teacher=teacher)
    nearer, agreed = distance()
    assert nearer < 0.8 * apart
    assert 1 - agreed < 0.5 * (1 - agree)
    assert history.best == int(np.argmin(history.validation_loss))


def test_the_best_epoch_is_of_lowest_loss_where_that_was_judged() -> None:
    assert History(validation=[0.5, 0.9, 0.9]).best == 1
    assert History(validation=[0.5, 0.9, 0.9], validation_loss=[0.3, 0.2, 0.1]).best == 2
    assert History(validation=[0.5, 0.9, 0.9], validation_loss=[0.1, 0.3, 0.2], since=1).best == 2


@pytest.mark.parametrize("taught", [False, True])
def test_an_interrupted_run_goes_on_bit_for_bit(tmp_path: Path, taught: bool) -> None:
    data, (twin, design) = load("digits"), small_network()
    chip = draw_chip(design, Spread(ALL), 3).program()
    config = InTheLoopConfig(2, 20, 1e-6, 1e-5, dt=STEP, temperature=20e-3, validation=20, images=60)

    def run(path: Path, fail_at: int) -> tuple[TwinPlant, list[Tensor]]:
        started = from_network(design, twin.encoder, STEP)
        plant, teacher = TwinPlant(chip, twin.encoder), from_network(design, twin.encoder, STEP) if taught else None
        plant.fail_at = fail_at
        try:
            fit_in_the_loop(started, plant, data, config, teacher=teacher, checkpoint=path)
        except SimulatorKilled:
            assert fail_at >= 0
        return plant, [crossbar.weight.detach() for crossbar in started.crossbars]

    whole, expected = run(tmp_path / "whole.safetensors", -1)
    assert whole.shown == 2 * (3 + 1)
    assert whole.forgotten == 6  # after every batch, and with an epoch's last one the validation
    broken, _ = run(tmp_path / "broken.safetensors", 5)
    again, found = run(tmp_path / "broken.safetensors", -1)
    assert broken.shown + again.shown == whole.shown  # nothing that was finished is shown again
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_chip_is_refused(tmp_path: Path) -> None:
    data, (twin, design) = load("digits"), small_network()
    config = InTheLoopConfig(1, 20, dt=STEP, validation=20, images=20)
    plant = TwinPlant(design, twin.encoder)
    fit_in_the_loop(
        from_network(design, twin.encoder, STEP), plant, data, config, checkpoint=tmp_path / "c.safetensors"
    )
    teacher = from_network(design, twin.encoder, STEP)
    for name, taught, said in (("another chip", None, "circuit"), ("twin", teacher, "teacher")):
        plant.name = name
        with pytest.raises(CheckpointError, match=said):
            fit_in_the_loop(
                from_network(design, twin.encoder, STEP), plant, data, config, teacher=taught,
                checkpoint=tmp_path / "c.safetensors",
            )  # fmt: skip


def test_finished_images_of_a_batch_are_not_simulated_again(tmp_path: Path) -> None:
    twin, network = small_network()
    images = torch.from_numpy(load("digits").pixels("test", slice(0, 4))).double()
    with SpicePlant(network, twin.encoder, "ngspice", workers=1, cache=tmp_path) as plant:
        first = plant.show(images[:2], STEP)
        again = list(plant._farm.run(plant._jobs(images, STEP)))
        assert [outcome.cached for outcome in sorted(again, key=lambda o: o.index)] == [True, True, False, False]
        assert plant.seconds > 0
        plant.forget()
        assert len(plant._farm.cache or ()) == 0
    with SpicePlant(network, twin.encoder, "ngspice", workers=1, states=False) as plant:
        bare = plant.show(images[:2], STEP)
    assert bare.states is None
    torch.testing.assert_close(bare.membranes[0], first.membranes[0], rtol=0, atol=1e-6)


def test_names_of_plants_tell_chips_apart() -> None:
    twin, network = small_network()
    names = set()
    for chip in (network, draw_chip(network, Spread(ALL), 1).program(), draw_chip(network, Spread(ALL), 2).program()):
        with SpicePlant(chip, twin.encoder, "ngspice") as plant:
            names.add(plant.name)
            plant.program([crossbar.pair() for crossbar in twin.crossbars])
            assert plant._identity() == plant.name
    assert len(names) == 3


def test_in_the_loop_the_gradient_is_that_of_the_chip() -> None:
    twin, design = small_network()
    data = load("digits")
    pixels = torch.from_numpy(data.pixels("test", slice(2, 3)))
    chip = draw_chip(design, Spread(ALL), 5).program()
    question = Question(chip, twin.encoder, pixels, int(data.test.labels[2]))
    engine = NgspiceEngine()
    found = {(rule, one.projection): one for rule, one in check_gradient(
        question, ("bptt", "in_the_loop"), engine, count=8, dt=0.25e-6, believed=design)}  # fmt: skip
    for projection in ("x0_x1", "x1_x2"):
        assert found["in_the_loop", projection].cosine > 0.9
    assert found["in_the_loop", "x0_x1"].cosine > found["bptt", "x0_x1"].cosine
    exact = dict(check_gradient(replace(question, network=design), ("in_the_loop",), engine, count=8, dt=0.25e-6))
    assert exact["in_the_loop"].verdict(0.999) == "holds"
    assert exact["in_the_loop"].norm_ratio == pytest.approx(1, abs=5e-3)


def test_an_unknown_rule_is_refused() -> None:
    twin, design = small_network()
    question = Question(design, twin.encoder, torch.zeros(1, 64), 0)
    with pytest.raises(InputError, match=r"rule 'hebb' is unknown\. Known: bptt, in_the_loop"):
        next(check_gradient(question, ("hebb",), NgspiceEngine()))


@pytest.mark.parametrize(
    ("rule", "spice", "moved", "verdict"),
    [
        ([1.0, 2.0], [1.0, 2.0], 1e-3, "holds"),
        ([2.0, 1.0], [1.0, 2.0], 1e-3, "FAILS: cosine below 0.999"),
        ([10.0, 20.0], [1.0, 2.0], 1e-3, "FAILS: 10 times as long"),
        ([0.02, 0.04], [1.0, 2.0], 1e-3, "FAILS: 0.02 times as long"),
        ([0.0, 0.0], [1.0, 2.0], 1e-3, "FAILS: the rule's gradient is zero while the loss moves"),
        ([0.0, 0.0], [0.0, 0.0], 0.0, "nothing to compare: the loss does not move"),
        ([1.0, 0.0], [0.0, 0.0], 0.0, "nothing to compare: the loss does not move"),
    ],
)
def test_verdicts(rule: list[float], spice: list[float], moved: float, verdict: str) -> None:
    one = Comparison("x0_x1", np.zeros((2, 2), dtype=np.int64), np.array(rule), np.array(spice), moved)
    assert one.verdict(0.999).startswith(verdict)


@pytest.mark.parametrize(("widest", "slopes"), [(1.5e-6, [3.0, 3.0]), (0.0, None)])
def test_a_step_over_a_jump_is_taken_again_smaller(
    monkeypatch: pytest.MonkeyPatch, widest: float, slopes: list[float] | None
) -> None:
    twin, network = small_network()
    projection, picked = network.projections[1], np.array([[0, 0], [1, 2]])
    asked = []

    def differences(question: Question, _: Projection, pairs: np.ndarray, steps: np.ndarray, *__: object) -> object:
        asked.append(len(pairs))
        jumps = (pairs[:, 0] == 1) & (steps > widest)
        return np.where(jumps, 3.0 + 1e-6 / steps, 3.0), 0.1

    monkeypatch.setattr(gradient, "_differences", differences)
    weights = np.full((5, 10), 4e-4)
    projection = replace(projection, g_plus=weights + 1e-6, g_minus=np.full((5, 10), 1e-6))
    question = Question(network, twin.encoder, torch.zeros(1, 64), 0)
    if slopes is None:
        with pytest.raises(
            InputError, match=r"row 1, column 2 down to 1.25e-07 S give slopes .* differ by more than 5%"
        ):
            spice_gradient(question, projection, picked, NgspiceEngine())
    else:
        found, _ = spice_gradient(question, projection, picked, NgspiceEngine())
        assert found.tolist() == slopes
    assert asked == [2, 2, 1, 1]  # what holds is not asked again


def test_a_loss_that_stands_still_is_no_jump(monkeypatch: pytest.MonkeyPatch) -> None:
    twin, network = small_network()
    noise = np.random.default_rng(0)
    monkeypatch.setattr(gradient, "_differences", lambda _, __, pairs, *___: (noise.normal(size=len(pairs)), 1e-12))
    question = Question(network, twin.encoder, torch.zeros(1, 64), 0)
    _, moved = spice_gradient(question, network.projections[1], np.array([[0, 0], [1, 2]]), NgspiceEngine())
    assert moved == 1e-12


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tuned")
    words = ["in-the-loop", str(BUNDLE), "--sigma", "0.2", "--sigma", "0.5", "--epochs", "1", "--images", "4", "--batch", "2",
             "--validation", "2", "--test", "3", "--engine", "ngspice", "--run", str(folder)]  # fmt: skip
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert "as it comes" in result.output
    assert "20%" in result.output
    return folder


def test_command_writes_summary_curve_and_checkpoints(tuned: Path) -> None:
    summary = json.loads((tuned / "summary.json").read_text(encoding="utf-8"))
    assert [one["chip"]["spread"]["parameters"]["c"] for one in summary["chips"]] == [0.2, 0.5]
    assert set(summary["chips"][0]["accuracy"]) == {"ideal", "plain", "tuned"}
    assert (tuned / "mismatch.png").is_file()
    assert len(list(tuned.glob("*/in_the_loop.safetensors"))) == 2


def test_command_makes_a_bundle_of_one_chip_from_its_checkpoint(tuned: Path, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    words = ["in-the-loop", str(BUNDLE), "--sigma", "0.2", "--epochs", "1", "--images", "4", "--batch", "2", "--validation", "2",
             "--test", "3", "--engine", "ngspice", "--run", str(tuned), "--out", str(out)]  # fmt: skip
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert "tuned in the loop" in (out / "README.md").read_text(encoding="utf-8")


def test_a_calibration_must_be_of_the_chip_that_is_tuned(tmp_path: Path) -> None:
    design, _, manifest = load_bundle(BUNDLE)
    images = [str(len({bench.image for bench in manifest.testbenches}))]
    for name, words in (("one", ["--seed", "1"]), ("two", ["--seed", "2"])):
        spread = ["spread", str(BUNDLE), "--sigma", "0.3", *words, "--out", str(tmp_path / name)]
        assert CliRunner().invoke(cli.app, spread).exit_code == 0
    words = ["in-the-loop", str(BUNDLE), "--sigma", "0.3", "--seed", "1", "--epochs", "1", "--images", "2", "--batch", "2",
             "--validation", "2", "--test", *images, "--engine", "ngspice", "--run", str(tmp_path / "run"), "--calibrated"]  # fmt: skip
    done = CliRunner().invoke(cli.app, [*words, str(tmp_path / "two")])
    assert re.search(r"two: c of population x1 is off the chip's by .* it belongs to another chip", str(done.exception))
    done = CliRunner().invoke(cli.app, [*words, str(tmp_path / "one")])
    assert done.exit_code == 0, done.output
    small = Twin((64, 5, 10)).to_network("small")
    with pytest.raises(InputError, match=r"x has other populations or cells than digits_mif"):
        _check_calibrated(Path("x"), small, design, design)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--test", "1000", "--sigma", "0.1"], "has 359 test images"),
        ([], "a chip without spread and corner is the design"),
        (["--sigma", "0.1", "--sigma", "0.2", "--out", "x"], "2 chips and one bundle x. Ask for a bundle of one chip"),
        (
            ["--sigma", "0.1", "--targets", "teacher"],
            "targets = 'teacher': the chip learns the answers of the design or",
        ),
        (["--test", "3", "--sigma", "0.1", "--fit", "nowhere"], "nowhere is not there. Make it"),
    ],
)
def test_command_refuses_nonsense(words: list[str], message: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["in-the-loop", str(BUNDLE), "--run", str(tmp_path / "run"), *words])
    assert result.exit_code != 0
    assert message in str(result.exception)


def test_check_gradient_prints_a_verdict_per_crossbar_and_rule() -> None:
    words = ["check-gradient", str(BUNDLE), "--image", "25", "--count", "3", "--rule", "bptt", "--seed", "3"]
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert result.output.count("holds") == 2
    result = CliRunner().invoke(cli.app, ["check-gradient", str(BUNDLE), "--image", "359"])
    assert "image 359 is not there: digits has 359 test images" in str(result.exception)
