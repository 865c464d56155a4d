"""Learned twins: the step, the population, files, training from waveforms; and the shipped one against ngspice."""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor

from memprop.circuit.cell import Cell, TextSubCircuit, load_cell
from memprop.data.encode import AlphaEncoder
from memprop.errors import InputError, RangeWarning, TrainingError
from memprop.flow.cell_decks import CellReduction, cell_deck
from memprop.flow.fit_gradient import gradient_of
from memprop.flow.fit_learned import FitLearnedSettings, fit_learned, learn_cell
from memprop.spice.ngspice import NgspiceEngine
from memprop.twin.cell import CellTwin
from memprop.twin.fitting.metrics import SpikeRule, spike_times
from memprop.twin.fitting.waveforms import CellWaveforms, make_waveforms
from memprop.twin.learned import core
from memprop.twin.learned.core import Weights, finer, fresh, roll, settled
from memprop.twin.learned.files import ABOUT, WEIGHTS, load_model, save_model
from memprop.twin.learned.polish import Stretches, polish
from memprop.twin.learned.training import LearnedSettings, sequences
from memprop.twin.learned.twin import LearnedModel, LearnedTwin
from memprop.twin.network import Twin, from_network
from memprop.twin.population import learned_home, make_cell_twin
from memprop.twin.ranges import Range

CELL = load_cell("axon_hillock")


def random_model(seed: int = 0) -> LearnedModel:
    """Return an untrained model of two states besides the membrane."""
    weights = fresh(3, 8, seed)
    return LearnedModel(
        CELL.name, CELL.digest, ("mem", "inv", "out"), (0.1, 1.8, 0.0), (1.5, 2.0, 1.9), (5e-8, 1.5e-7), (-1e-5, 1e-5),
        (-1.0, 1.2), weights._replace(kick=torch.tensor([0.02, 0.0, 0.005])), {"normalised_rms": 0.5},
    )  # fmt: skip


def twin_of(size: int = 2, dt: float = 1e-7, **options: object) -> LearnedTwin:
    return LearnedTwin(size, dt, model=random_model(), cell=CELL, dtype=torch.float64, **options)  # type: ignore[arg-type]


def some_current(points: int = 9, batch: int = 3, size: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 8e-6 * (2 * torch.rand(points, batch, size, generator=generator, dtype=torch.float64) - 1)


def in_double(weights: Weights) -> Weights:
    return Weights(*(w.double() for w in weights))


def test_rest_is_a_fixed_point_at_every_step() -> None:
    for h in (2e-8, 1e-7, 3.3e-7):
        z = roll(in_double(fresh(3, 8, 1)), torch.zeros(2, 3).double(), torch.zeros(50, 2).double(), h)
        assert z.abs().max() < 1e-12


def test_states_never_leave_their_box() -> None:
    weights = fresh(3, 8, 2)._replace(kick=torch.tensor([5.0, -5.0, 1.0]))
    current = 1e-5 * torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    current[-1] = 0.0
    z = roll(weights, torch.zeros(4, 3), current, 1e-6)
    assert z[-1].abs().max() <= 1.0  # at other points half a kick may be on top
    assert z.isfinite().all()


def test_gradient_in_current_start_and_weights_is_that_of_differences() -> None:
    weights = in_double(fresh(2, 4, 3))
    leaves = [w.requires_grad_() for w in weights]
    start = (0.3 * torch.rand(2, 2, dtype=torch.float64)).requires_grad_()
    current = torch.rand(5, 2, dtype=torch.float64).requires_grad_()

    def run(z: Tensor, drive: Tensor, *ws: Tensor) -> Tensor:
        return roll(Weights(*ws), z, 1e-5 * drive, 1e-7)

    assert torch.autograd.gradcheck(run, (start, current, *leaves))


def test_saving_memory_changes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    def gradient() -> Tensor:
        current = some_current(40).requires_grad_()
        twin_of()(current).square().mean().backward()
        assert current.grad is not None
        return current.grad

    kept = gradient()
    monkeypatch.setattr(core, "KEPT", 0)
    assert torch.allclose(gradient(), kept, rtol=1e-12, atol=0)


def test_population_has_the_shapes_of_other_twins_and_starts_at_rest() -> None:
    twin, current = twin_of(), some_current()
    above = twin(current)
    assert above.shape == current.shape
    assert torch.equal(twin.trace(current), above + twin.reference)
    assert torch.allclose(twin.trace(current)[0], twin.rest.expand(3, 2))
    assert twin.states(current).shape == (9, 3, 2, 3)


def test_a_run_in_two_parts_is_the_whole_run() -> None:
    twin, current = twin_of(), some_current()
    whole, end = twin.run(current, twin.resting_state(3))
    first, middle = twin.run(current[:5], twin.resting_state(3))
    second, last = twin.run(current[4:], middle)
    assert torch.allclose(torch.cat([first, second[1:]]), whole, atol=1e-12)
    assert torch.allclose(last.states, end.states, atol=1e-12)


def test_a_long_step_is_cut_into_trained_ones() -> None:
    coarse, fine, current = twin_of(dt=2e-7), twin_of(dt=1e-7), some_current(5)
    between = torch.stack([current[:-1], 0.5 * (current[:-1] + current[1:])], 1).flatten(0, 1)
    assert torch.allclose(coarse(current), fine(torch.cat([between, current[-1:]]))[::2], atol=1e-12)


def test_gain_offset_and_reference_are_those_of_mirrors_and_rows() -> None:
    current = some_current()
    changed = twin_of(gain=[0.5, 1.2], offset=1e-7, reference=0.25)
    assert torch.allclose(changed.reference, torch.full((1, 2), 0.25).double())
    start = changed.resting_state(3)
    assert (start.membrane - twin_of().rest).abs().min() > 1e-6  # the offset moves the rest
    plain, _ = twin_of().run(current * torch.tensor([0.5, 1.2]).double() + 1e-7, start)
    assert torch.allclose(changed(current), plain - 0.25, atol=1e-12)


def test_settled_state_stays_and_its_gradient_is_that_of_differences() -> None:
    twin, level = twin_of(), torch.full((1, 2), 2e-7, dtype=torch.float64)
    state = twin.settled_state(level)
    found, _ = twin.run(level.expand(20, 1, 2), state)
    assert (found - state.membrane).abs().max() < 1e-4 * (state.membrane - twin.rest).abs().min()
    weights = in_double(random_model().weights)
    drive = torch.tensor([0.1, -0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: settled(weights, 1e-6 * x, 1e-7), (drive,), atol=1e-7)


def test_no_resting_point_is_an_error() -> None:
    # The kick pushes the first state half out of its box at every step, where nothing brings it back.
    weights = in_double(random_model().weights)._replace(kick=torch.tensor([50.0, 0.0, 0.0]).double())
    with pytest.raises(TrainingError, match=r"no resting point under currents from 1e-05 to 1e-05 A"):
        settled(weights, torch.tensor([1e-5], dtype=torch.float64), 1e-7)


def test_settling_twin_starts_from_the_first_current() -> None:
    twin, level = twin_of(), torch.full((6, 1, 2), 2e-7, dtype=torch.float64)
    twin.settles = True
    assert (twin.trace(level) - twin.settled_state(level[0]).membrane).abs().max() < 1e-5


@pytest.mark.parametrize("dt", [1e-7, 2e-7])
def test_following_its_own_membrane_gives_its_own_gradient(dt: float) -> None:
    twin = twin_of(dt=dt)
    current = some_current()
    own = current.clone().requires_grad_()
    above = twin(own)
    above.square().sum().backward()
    seen = current.clone().requires_grad_()
    followed = twin.follow(seen, above.detach() + twin.reference)
    assert torch.allclose(followed, above, atol=1e-12)
    followed.square().sum().backward()
    assert own.grad is not None
    assert torch.allclose(seen.grad, own.grad, rtol=1e-9, atol=1e-9 * float(own.grad.abs().max()))  # type: ignore[arg-type]


def test_follow_has_the_measured_values() -> None:
    twin, current = twin_of(), some_current()
    measured = 0.1 + 0.3 * torch.rand(current.shape, dtype=torch.float64)
    assert torch.allclose(twin.follow(current, measured) + twin.reference, measured, atol=1e-12)
    with pytest.raises(InputError, match=r"membrane has shape \(8, 3, 2\), the current \(9, 3, 2\)"):
        twin.follow(current, measured[1:])


def test_wrong_shape_and_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"population of 2 needs \[T \+ 1, B, 2\]"):
        twin_of()(torch.zeros(5, 1, 3))
    with pytest.raises(InputError, match=r"twin of 0 cells"):
        twin_of(0)


@pytest.mark.parametrize(
    ("current", "dt", "words"),
    [(3e-5, 1e-7, "current from 0 to 3e-05 A, fitted from -1e-05 to 1e-05 A"), (1e-6, 1e-8, "time step from 1e-08 to 1e-08 s")],
)  # fmt: skip
def test_leaving_the_range_warns_once_with_values(current: float, dt: float, words: str) -> None:
    drive = torch.full((4, 1, 2), current, dtype=torch.float64)
    drive[0] = 0
    with pytest.warns(RangeWarning, match=words) as caught:
        twin_of(dt=dt)(drive)
    assert len(caught) == 1


def test_file_keeps_everything_and_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    model = random_model()
    save_model(model, tmp_path / "a")
    again = load_model(tmp_path / "a")
    assert replace(again, weights=model.weights) == model
    assert all(torch.equal(a, b) for a, b in zip(again.weights, model.weights, strict=True))
    LearnedTwin.load(tmp_path / "a", 3).save(tmp_path / "b")
    for name in (WEIGHTS, ABOUT):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_damaged_files_are_input_errors(tmp_path: Path) -> None:
    save_model(random_model(), tmp_path)
    about = json.loads((tmp_path / ABOUT).read_text())
    for change in (
        {"span": [1.0, -1.0, 1.0]},
        {"format": 7},
        {"rest": "x"},
        {"states": ["mem"]},
        {"steps": [1, float("nan")]},
    ):
        (tmp_path / ABOUT).write_text(json.dumps(about | change))
        with pytest.raises(InputError, match=r"cannot be read"):
            load_model(tmp_path)
    (tmp_path / ABOUT).write_text(json.dumps(about))
    (tmp_path / WEIGHTS).write_bytes((tmp_path / WEIGHTS).read_bytes()[:-9])
    with pytest.raises(InputError, match=r"cannot be read"):
        load_model(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(InputError, match=r"model.safetensors is missing. Learn it: memprop fit-cell --learned"):
        load_model(tmp_path)


def test_another_netlist_or_parameter_is_refused() -> None:
    text = CELL.text.replace("cinv inv ref 6e-12", "cinv inv ref 5e-12")
    assert text != CELL.text
    other = Cell(CELL.card, TextSubCircuit(text, "test"))
    with pytest.raises(InputError, match=r"another netlist. Learn it again: memprop fit-cell --learned"):
        LearnedTwin(1, model=random_model(), cell=other)
    with pytest.raises(InputError, match=r"cmem = 3e-11 F, and its learned twin knows 2e-11 F only"):
        twin_of(parameters={"cmem": 3e-11})


def test_cells_with_equations_keep_their_twin() -> None:
    assert learned_home(load_cell("mif")) is None
    assert isinstance(make_cell_twin(1, 1e-7, "mif"), CellTwin)
    with pytest.raises(InputError, match=r"learned twin, which has no fused kernel"):
        make_cell_twin(1, 1e-7, "axon_hillock", kernel="fused")


def relaxation(runs: int = 12, points: int = 201, step: float = 1e-7) -> CellWaveforms:
    """Return waveforms of a leaky integrator and a slower node that follows it, by exact exponentials."""
    rng = np.random.default_rng(0)
    corners = np.interp(np.arange(points), np.arange(0, points + 20, 20), np.zeros(points // 20 + 2))
    time = np.arange(points) * step
    mem, out, current = np.zeros((runs, points)), np.zeros((runs, points)), np.zeros((runs, points))
    for k in range(runs):
        levels = rng.uniform(-1e-5, 1e-5, points // 20 + 2)
        levels[0] = 0.0
        current[k] = corners + np.interp(np.arange(points), np.arange(len(levels)) * 20, levels)
        for n in range(1, points):
            middle = 0.5 * (current[k, n] + current[k, n - 1])
            target = 5e4 * middle  # 50 kOhm and 40 pF: 2 us
            mem[k, n] = target + (mem[k, n - 1] - target) * np.exp(-step / 2e-6)
            out[k, n] = mem[k, n] + (out[k, n - 1] - mem[k, n]) * np.exp(-step / 5e-6)
    split = ["fit"] * (runs - 4) + ["validation"] * 2 + ["held_out"] * 2
    return make_waveforms(
        CELL, time, current, mem, split=split, stimulus=["noise"] * runs, engine="theory", states={"out": out}
    )


TINY = LearnedSettings(
    hidden=8,
    parts=1,
    strides=(1, 2),
    steps=700,
    batch=512,
    rolls=((20, 60),),
    roll_batch=16,
    finest=1e-3,
    polish=((10, 1.0),),
    polish_batch=500,
)


def test_training_learns_a_leaky_integrator_from_waveforms() -> None:
    waveforms = relaxation()
    model = learn_cell(waveforms, CELL, TINY)
    held = waveforms.part("held_out")
    twin = LearnedTwin(1, 1e-7, model=model, cell=CELL)
    found = twin.trace(torch.as_tensor(held.current.T[..., None], dtype=torch.float32))[..., 0].T.numpy()
    assert np.sqrt(np.mean((found - held.mem) ** 2)) < 0.04 * np.ptp(held.mem)
    again = learn_cell(waveforms, CELL, TINY)
    assert all(torch.equal(a, b) for a, b in zip(model.weights, again.weights, strict=True))


def test_interrupted_training_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    settings = replace(TINY, steps=30, rolls=((5, 3),), polish=((1, 1.0), (1, 0.5)), polish_batch=50)
    waveforms, said = relaxation(), []

    def stop_at_the_second_polish(line: str) -> None:
        said.append(line)
        if line.startswith("polish to 1:"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn_cell(waveforms, CELL, settings, stop_at_the_second_polish, tmp_path)
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert [name[0] for name in kept] == ["1", "2", "3"]
    said.clear()
    model = learn_cell(waveforms, CELL, settings, said.append, tmp_path)
    assert not any(line.startswith(("step", "roll-outs of 5, iteration")) for line in said)  # none is done again
    whole = learn_cell(waveforms, CELL, settings)
    assert all(torch.equal(a, b) for a, b in zip(model.weights, whole.weights, strict=True))
    # Other settings are another training, and a damaged file says what to do.
    learn_cell(waveforms, CELL, replace(settings, steps=31), folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 8
    (tmp_path / kept[1]).write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"cannot be read .* Delete the file; that part of the training is done again"):
        learn_cell(waveforms, CELL, settings, folder=tmp_path)


@pytest.mark.parametrize(("name", "message"), [
    ("nonsense", "device 'nonsense' is unknown. Give cpu or cuda"), ("meta", "device 'meta' is unknown"),
    ("cuda:7", r"device 'cuda:7' is not to be had: .* Give cpu, or cuda where torch has it"),
])  # fmt: skip
def test_device_that_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        learn_cell(relaxation(), CELL, replace(TINY, device=name))


def test_polish_finds_the_model_that_made_the_waveforms() -> None:
    generator = torch.Generator().manual_seed(3)
    true = in_double(fresh(2, 5, 0))._replace(kick=torch.tensor([0.02, 0.005], dtype=torch.float64))
    start = Weights(
        *(w + 0.02 * torch.randn(w.shape, generator=generator, dtype=torch.float64) * w.abs() for w in true)
    )
    step = 1e-7

    def draw() -> Stretches:
        before = 1.6 * torch.rand(400, 2, generator=generator, dtype=torch.float64) - 0.8
        current = 1e-5 * (2 * torch.rand(400, 2, generator=generator, dtype=torch.float64) - 1)
        return Stretches(before, roll(true, before, finer(current.T, 2), step / 2)[-1], current)

    found = polish(start, draw, step, 2, (1e-6, 1e-3), 40)
    drive = 2e-6 * torch.sin(torch.linspace(0, 20, 801, dtype=torch.float64))[:, None]
    wanted, *others = (roll(w, torch.zeros(1, 2, dtype=torch.float64), drive, step / 2) for w in (true, start, found))
    off = [float((other - wanted).square().mean().sqrt()) for other in others]
    assert off[1] < 0.01 * off[0]


def test_command_writes_twin_page_and_errors(tmp_path: Path) -> None:
    settings = FitLearnedSettings(
        replace(TINY, steps=30, rolls=((5, 3),), polish=((1, 1.0),), polish_batch=50), engine=None
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RangeWarning)  # hardly trained, it goes anywhere
        fit_learned(CELL, relaxation(), settings, tmp_path, Console(file=io.StringIO()))
    about = json.loads((tmp_path / "fit.json").read_text())
    assert about["kind"] == "learned"
    assert about["dt"] == pytest.approx(2e-7)
    model = load_model(tmp_path / "twin")
    assert model.errors["normalised_rms"] == about["errors"]["normalised_rms"] > 0
    assert (tmp_path / "learned.png").stat().st_size > 10_000


def test_training_refuses_what_it_cannot_learn() -> None:
    with pytest.raises(InputError, match=r"at least one more node than the membrane"):
        sequences(np.zeros((1, 2, 9)), np.zeros((2, 9)), 1e-7, np.zeros(1), np.ones(1))
    waveforms = relaxation(6, 21)
    with pytest.raises(InputError, match=r"another version of cell mif"):
        learn_cell(waveforms, load_cell("mif"), TINY)
    for degrees in (
        np.linspace(0.0, 80.0, 6),
        np.full(6, 85.0),
    ):  # of two temperatures, and of one that is not the twins'
        hot = CellWaveforms(waveforms.data.assign(temperature=("run", degrees)))
        with pytest.raises(
            InputError, match=r"another temperature than 27 degrees Celsius; a learned twin knows one cell at that one"
        ):
            learn_cell(hot, CELL, TINY)


def test_training_that_diverges_says_so() -> None:
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf). Lower the learning rate"):
        learn_cell(relaxation(6, 41), CELL, replace(TINY, rate=1e30, steps=9))


def test_waveforms_of_two_cells_are_not_joined() -> None:
    one = relaxation(6, 21)
    assert one.joined(one).runs == 12
    other = CellWaveforms(one.data.assign_attrs(cell_sha256="0" * 64))
    with pytest.raises(InputError, match=r"another netlist. Characterise one cell for all of them"):
        one.joined(other)
    with pytest.raises(InputError, match=r"waveforms do not fit together"):
        one.joined(relaxation(6, 41))


def spice(current: np.ndarray, step: float) -> np.ndarray:
    """Return membrane, inv and out in V, ``[3, T + 1]``, of the shipped cell under a current in A at multiples of ``step``."""
    time = np.arange(len(current)) * step
    deck = cell_deck(CELL, time, current[None], [{}], 2.5e-8)
    return CellReduction(1, tuple(CELL.card.states), step, len(current) - 1)(NgspiceEngine().run(deck))["nodes"][0]


def shipped_twin(dt: float = 1e-7, size: int = 1) -> LearnedTwin:
    twin = make_cell_twin(size, dt, CELL, dtype=torch.float64)
    assert isinstance(twin, LearnedTwin)
    return twin


@pytest.mark.parametrize("dt", [5e-8, 1e-7])
def test_shipped_twin_spikes_when_ngspice_does(dt: float) -> None:
    step = 1e-7
    time = np.arange(601) * step
    current = 3.3e-6 * np.minimum(time / 1e-6, 1.0)  # none of the waveforms it learned from
    true = spice(current, step)
    twin, every = shipped_twin(dt), round(step / dt)
    fine = np.interp(np.arange(600 * every + 1) * dt, time, current)
    found = twin.states(torch.as_tensor(fine)[:, None, None])[::every, 0, 0].T.numpy()
    assert np.sqrt(np.mean((found[0] - true[0]) ** 2)) < 0.02 * np.ptp(true[0])
    ours, theirs = (spike_times(time, wave[2], SpikeRule("crossings", 0.9)) for wave in (found, true))
    assert len(ours) == len(theirs) >= 4
    assert np.abs(np.diff(ours) / np.diff(theirs) - 1).max() < 0.01


def test_shipped_twin_knows_the_leak() -> None:
    current = np.full(1001, 1.5e-7)
    current[0] = 0.0
    true = spice(current, 1e-7)[0]
    found = shipped_twin().trace(torch.as_tensor(current)[:, None, None])[:, 0, 0].numpy()
    assert np.abs(found - true).max() < 0.01


def test_shipped_twin_says_what_it_is_worth() -> None:
    model = shipped_twin().model
    assert 0.0 < model.errors["normalised_rms"] < 0.02  # what it says of itself, and goals of the project
    assert model.errors["spike_time_90_percent"] < 0.01
    assert model.errors["long_spikes"] > 100
    assert model.errors["long_missed"] + model.errors["long_extra"] < 0.01 * model.errors["long_spikes"]
    assert {"spikes", "missed", "extra", "spike_time_median", "long_missed"} <= set(model.errors)
    home = learned_home(CELL)
    assert home is not None
    assert sum(path.stat().st_size for path in home.iterdir()) < 500_000


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gradient_of_small_networks_of_the_shipped_twin_is_that_of_differences_in_ngspice(seed: int) -> None:
    model = shipped_twin().model
    known = Range(model.current, model.membrane, (27.0, 27.0))
    for found in gradient_of(CELL, model, known, 1e-7, 1e-4, NgspiceEngine(), workers=2, seed=seed):
        assert found.cosine >= 0.98, f"{found}"


def test_networks_of_the_cell_use_the_learned_twin() -> None:
    encoder = AlphaEncoder()
    twin = Twin((6, 4, 3), encoder, cell="axon_hillock", dtype=torch.float64)
    image = torch.full((2, 6), 0.5, dtype=torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RangeWarning)
        outputs = twin(image)
        outputs.square().sum().backward()
        again = from_network(twin.to_network("cmos"), encoder, twin.dt, torch.float64)
        assert torch.allclose(again(image), outputs)
        membranes = list(twin.traces(image).values())
        assert torch.allclose(twin.follow(image, membranes), outputs)
    assert all(bool(c.weight.grad.isfinite().all()) for c in twin.crossbars if c.weight.grad is not None)
    assert twin.crossbars[0].weight.grad is not None
