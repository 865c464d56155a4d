"""Equilibrium propagation: circuit against twin, gradients against differences in ngspice, training, write-back."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.optimize import fsolve
from typer.testing import CliRunner

from memprop import cli
from memprop.circuit.cell import load_cell
from memprop.circuit.resistive import ResistiveNetwork
from memprop.conductance.pair import ConductanceRange
from memprop.conductance.write_back import WriteBack
from memprop.data import load
from memprop.data.sets import Images, Split
from memprop.deck.deck import Deck, SmallSignal, Sweep
from memprop.deck.resistive import signal_deck, sweep_deck
from memprop.errors import (
    CheckpointError,
    ConvergenceError,
    DeckError,
    InputError,
    SimulationError,
    StoppedEarly,
    TrainingError,
)
from memprop.export.testbench import operating_testbench
from memprop.flow.check_equilibrium import (
    STEP,
    by_small_signals,
    check_equilibrium,
    compare,
    differences,
    random_network,
)
from memprop.flow.equilibrium import PRESETS, learn_equilibrium
from memprop.flow.resistive import SpiceResistive
from memprop.learn.equilibrium import EquilibriumPropagation
from memprop.learn.rule import Learned, Needs
from memprop.learn.rule_training import RuleConfig, rule_accuracy, train_rule
from memprop.spice.ngspice import NgspiceEngine, write_deck
from memprop.spice.recording import make_recording
from memprop.spice.shared import SharedEngine
from memprop.spice.vacask import VacaskEngine
from memprop.twin.resistive import ResistiveTwin, resistive_twin

WINDOW = ConductanceRange(1e-7, 1e-5)
ENGINE = NgspiceEngine()


def some_inputs(count: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(0.0, 1.0, (count, width)))


def tiny_data(count: int = 40, seed: int = 0) -> Images:
    """Return two classes of two pixels, which a line tells apart."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 100, (count, 1, 2)).astype(np.uint8)
    labels = (images[:, 0, 0] > images[:, 0, 1]).astype(np.uint8)
    return Images("tiny", Split(images[:30], labels[:30]), Split(images[30:], labels[30:]), 100)


# The circuit and its twin


def test_divider_and_diode_are_what_a_textbook_says() -> None:
    """One hidden node of two inputs and one output: Kirchhoff's law by scipy, with no line of the twin."""
    g = (np.array([[2e-6], [3e-6], [1e-6], [4e-6], [5e-6], [2e-6]]), np.array([[3e-6], [1e-6], [2e-6]]))
    network = ResistiveNetwork("textbook", g, window=WINDOW)
    rows, gain, vt = np.array([6.0, 1.0, -6.0, -1.0, 1.0, -1.0]), 4.0, 1.1 * 1.380649e-23 * 300.15 / 1.602176634e-19

    def left(v: np.ndarray) -> list[float]:
        node, out = v
        down = g[0][:, 0] @ (node - rows) + 1e-5 * (np.exp(node / vt) - np.exp(-node / vt))
        return [
            1e6 * (down + g[1][0, 0] * (gain * node - out) / gain),
            1e6 * float(g[1][:, 0] @ (out - np.array([gain * node, 1, -1]))),
        ]

    node, out = fsolve(left, [0.0, 0.0], xtol=1e-11)
    recording = ENGINE.run(sweep_deck(network, np.array([[6.0, 1.0]])))
    assert recording["x1_col0"].item() == pytest.approx(node, rel=1e-6)
    assert recording["x2_col0"].item() == pytest.approx(out, rel=1e-6)
    solved = resistive_twin(network).settle(torch.tensor([[6.0, 1.0]], dtype=torch.float64))
    assert [float(v) for v in solved.nodes] == pytest.approx([node, out], rel=1e-9)


@pytest.mark.parametrize("sizes", [(8, 4), (8, 6, 3), (4, 6, 5, 3), (3, 5, 4, 3, 2)])
def test_twin_settles_where_ngspice_does(sizes: tuple[int, ...]) -> None:
    network = random_network(sizes, 1)
    volts = 10.0 * some_inputs(5, sizes[0])
    nudge = 1e-7 * torch.from_numpy(np.random.default_rng(2).normal(size=(5, sizes[-1])))
    for current in (None, nudge):
        spice = SpiceResistive(network, ENGINE).settle(volts, current)
        twin = resistive_twin(network).settle(volts, current)
        for ours, theirs in zip(spice.nodes, twin.nodes, strict=True):
            assert float((ours - theirs).abs().max()) < 1e-7
        for ours, theirs in zip(spice.rows, twin.rows, strict=True):
            assert float((ours - theirs).abs().max()) < 1e-6
    small = SpiceResistive(network, ENGINE).response(volts[:2], nudge[:2])
    base = resistive_twin(network)
    for ours, theirs in zip(small.nodes, base.response(base.settle(volts[:2]), nudge[:2]).nodes, strict=True):
        assert float((ours - theirs).norm()) < 1e-6 * float(theirs.norm())


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 300.0), st.sampled_from([(3, 2), (3, 4, 2), (2, 3, 3, 2)]))
def test_currents_of_all_nodes_cancel(seed: int, scale: float, sizes: tuple[int, ...]) -> None:
    network = random_network(sizes, seed)
    twin = resistive_twin(network)
    settled = twin.settle(scale * some_inputs(4, sizes[0], seed))
    for k, g in enumerate(twin.conductances):
        nodes = settled.nodes[k]
        down = torch.einsum("brc,rc->bc", -settled.drops(k), g)
        if k < len(twin.conductances) - 1:
            slope = twin.slope
            down = down + twin.saturation * (torch.exp(nodes / slope) - torch.exp(-nodes / slope))
            ahead = torch.einsum("brc,rc->br", settled.drops(k + 1), twin.conductances[k + 1])
            down = down + ahead[:, :-2] / twin.gain
        assert float(down.abs().max()) < 1e-9 * scale * float(g.sum())


def test_cell_of_others_has_no_twin() -> None:
    shipped = load_cell("diode_neuron")
    from memprop.circuit.cell import Cell, TextSubCircuit

    other = Cell(shipped.card, TextSubCircuit(shipped.text.replace("{-1/gain}", "{-2/gain}"), "other"))
    network = replace(random_network((3, 2, 2), 0), neuron=other)
    with pytest.raises(InputError, match=r"the twin of resistive networks knows diode_neuron alone"):
        resistive_twin(network)


# Gradients


@pytest.mark.parametrize("sizes", [(4, 3, 2), (3, 3, 2, 2)])
def test_gradients_are_those_of_differences_in_ngspice(sizes: tuple[int, ...]) -> None:
    circuit = SpiceResistive(random_network(sizes, 3), ENGINE)
    rule = EquilibriumPropagation(circuit, temperature=0.05, beta=1e-8)
    inputs, labels = some_inputs(3, sizes[0]), torch.tensor([0, 1, 1])
    true = differences(circuit, rule, inputs, labels, lambda: None)
    for found in (rule.learn(inputs, labels).gradients, by_small_signals(circuit, rule, inputs, labels)):
        for check in compare("", found, true):
            assert check.cosine >= 0.9999
            assert check.norm == pytest.approx(1.0, abs=1e-3)


def test_each_amplifier_counts_with_its_square() -> None:
    """The lengths above hold with these factors and with no others."""
    assert resistive_twin(random_network((4, 3, 2), 3)).factors() == [16.0, 1.0]
    assert resistive_twin(random_network((4, 3, 3, 2), 3)).factors() == [256.0, 16.0, 1.0]


def test_one_sided_error_shrinks_with_beta_and_symmetric_error_with_its_square() -> None:
    circuit = resistive_twin(random_network((6, 5, 3), 4))
    inputs, labels = some_inputs(4, 6), torch.tensor([0, 1, 2, 0])

    def gradient(beta: float, phases: str) -> torch.Tensor:
        rule = EquilibriumPropagation(circuit, temperature=0.05, beta=beta, phases=phases)
        return torch.cat([g.flatten() for g in rule.learn(inputs, labels).gradients])

    true = gradient(1e-9, "symmetric")
    for phases, order in (("one-sided", 1), ("symmetric", 2)):
        off = [float((gradient(beta, phases) - true).norm()) for beta in (4e-7, 8e-7)]
        assert off[1] / off[0] == pytest.approx(2.0**order, rel=0.15)


# Training


def start(seed: int = 0) -> ResistiveTwin:
    return resistive_twin(random_network((2, 4, 2), seed))


CONFIG = RuleConfig(12, 4, (1e-6, 1e-6), decay=0.9)


def test_training_learns_and_goes_on_after_an_interruption(tmp_path: Path) -> None:
    data, write = tiny_data(), WriteBack(WINDOW)
    whole = EquilibriumPropagation(start(), scale=5.0)
    history = train_rule(whole, data, CONFIG, write)
    assert history.loss[-1] < 0.5 * history.loss[0]
    assert rule_accuracy(whole, data) >= 0.9

    def stop(at: object) -> None:
        if getattr(at, "epoch", 0) == 3:
            raise KeyboardInterrupt

    path = tmp_path / "c.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_rule(EquilibriumPropagation(start(), scale=5.0), data, CONFIG, write, path, stop)
    again = EquilibriumPropagation(start(), scale=5.0)
    resumed = train_rule(again, data, CONFIG, write, path)
    assert resumed.loss == history.loss
    assert all(torch.equal(a, b) for a, b in zip(again.conductances, whole.conductances, strict=True))
    with pytest.raises(CheckpointError, match=r"belongs to another training: epochs is 12 there and 13 here"):
        train_rule(EquilibriumPropagation(start(), scale=5.0), data, replace(CONFIG, epochs=13), write, path)
    with pytest.raises(
        CheckpointError, match=r"belongs to another training: phases is 'symmetric' there and 'one-sided' here"
    ):
        train_rule(EquilibriumPropagation(start(), scale=5.0, phases="one-sided"), data, CONFIG, write, path)
    other = EquilibriumPropagation(SpiceResistive(random_network((2, 4, 2), 0), ENGINE), scale=5.0)
    with pytest.raises(CheckpointError, match=r"belongs to another training: circuit is"):
        train_rule(other, data, CONFIG, write, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"is damaged"):
        train_rule(EquilibriumPropagation(start(), scale=5.0), data, CONFIG, write, path)


def test_training_in_ngspice_is_that_of_the_twin() -> None:
    data, write, config = tiny_data(), WriteBack(WINDOW), replace(CONFIG, epochs=1)
    twin = EquilibriumPropagation(start(), scale=5.0)
    circuit = EquilibriumPropagation(SpiceResistive(random_network((2, 4, 2), 0), ENGINE), scale=5.0)
    ours, theirs = (train_rule(rule, data, config, write) for rule in (circuit, twin))
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
    for a, b in zip(circuit.conductances, twin.conductances, strict=True):
        assert torch.allclose(a, b, rtol=1e-3)


def test_best_epoch_is_taken() -> None:
    data = tiny_data()
    config = replace(CONFIG, validation=10, rates=(3e-6, 5e-6), decay=1.0)
    rule = EquilibriumPropagation(start(), scale=5.0)
    history = train_rule(rule, data, config, WriteBack(WINDOW))
    held = np.random.default_rng(0).permutation(30)[:10]
    inputs = torch.from_numpy(data.pixels("train")[held]).flatten(1)
    right = (rule.outputs(inputs).argmax(1).numpy() == data.train.labels[held]).mean()
    assert right == pytest.approx(max(history.validation))


def test_loss_that_is_no_number_stops() -> None:
    class Broken:
        name, needs, conductances = "broken", Needs(1, ""), [torch.full((2, 2), 1e-6, dtype=torch.float64)]
        identity, sizes = {}, (2, 2)

        def program(self, conductances: object) -> None: ...

        def learn(self, inputs: torch.Tensor, labels: torch.Tensor, generator: torch.Generator) -> Learned:
            return Learned(float("nan"), inputs, (torch.zeros(2, 2, dtype=torch.float64),))

        def outputs(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs

    with pytest.raises(TrainingError, match=r"broken: the loss is nan in epoch 1. Lower the rates"):
        train_rule(Broken(), tiny_data(), RuleConfig(1, 8, (1e-7,)), WriteBack(WINDOW))


def test_command_trains_in_circuit_measures_and_leaves_a_netlist_that_runs(tmp_path: Path) -> None:
    base = PRESETS["iris"]
    small = replace(base, training=replace(base.training, epochs=2, batch=35))
    summary = learn_equilibrium(
        small, tmp_path, Console(file=io.StringIO()), in_circuit=True, images=20, engine_name="ngspice"
    )
    assert summary["same_class"] == 1.0
    assert summary["largest_difference"] < 1e-6
    assert json.loads((tmp_path / "summary.json").read_text())["trained"] == "in SPICE"
    folder = tmp_path / "netlist"
    done = NgspiceEngine().batch(folder, "testbench.cir", 60.0, title="replayed")
    assert (done.status, done.log.count("PASS x2_col")) == (0, 3)
    assert "TESTBENCH PASS" in done.log
    cells = folder / "conductances.inc"
    name, row, column, value = cells.read_text().splitlines()[5].split()
    cells.write_text(
        cells.read_text().replace(f"{name} {row} {column} {value}", f"{name} {row} {column} {float(value) * 1.5!r}")
    )
    edited = NgspiceEngine().batch(folder, "testbench.cir", 60.0, title="edited")
    assert edited.status == 1
    assert "TESTBENCH FAIL" in edited.log
    with pytest.raises(InputError, match=r"46 test samples asked, iris has 45"):
        learn_equilibrium(small, tmp_path, Console(), in_circuit=False, images=46, engine_name="ngspice")


def test_testbench_knows_negative_voltages(tmp_path: Path) -> None:
    """ngspice takes `1 -2` for a difference; with outputs of both signs in any order, all must be compared."""
    deck = sweep_deck(random_network((2, 3, 3), 1), 10.0 * np.array([[1.0, 0.0], [0.0, 1.0], [0.3, 0.9], [1.0, 1.0]]))
    found = ENGINE.run(deck)
    expected = {node: found[node].values for node in deck.nodes}
    assert any((values[1:] < 0).any() for values in expected.values())
    write_deck(deck, tmp_path)
    (tmp_path / "testbench.cir").write_text(operating_testbench(deck, expected))
    done = ENGINE.batch(tmp_path, "testbench.cir", 60.0, title="both signs")
    assert (done.status, "TESTBENCH PASS" in done.log) == (0, True)


def test_check_command_refuses_a_nudge_that_is_no_number_before_its_simulations(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"beta = nan A V must be positive"):
        check_equilibrium(
            (64, 32, 10), tmp_path, Console(), samples=2, beta=float("nan"), seed=0, least=0.9, engine_name="ngspice"
        )


def test_samples_of_several_decks_are_those_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    circuit, volts = SpiceResistive(random_network((3, 2, 2), 0), ENGINE), 5.0 * some_inputs(5, 3)
    nudge = 1e-8 * some_inputs(5, 2)
    whole = [circuit.settle(volts, current) for current in (None, nudge)]
    monkeypatch.setattr("memprop.flow.resistive.SAMPLES", 2)
    for current, expected in zip((None, nudge), whole, strict=True):
        found = circuit.settle(volts, current).outputs  # reltol of the decks is 1e-9
        assert torch.allclose(found, expected.outputs, rtol=1e-9, atol=0)


def test_check_command_writes_table_and_figure(tmp_path: Path) -> None:
    said = io.StringIO()
    holds = check_equilibrium(
        (3, 2, 2), tmp_path, Console(file=said), samples=2, beta=1e-8, seed=0, least=0.9999, engine_name="ngspice"
    )
    assert holds
    record = json.loads((tmp_path / "check_ep.json").read_text())
    assert len(record["noise"]) == 2
    assert record["noise"][0][0] < record["noise"][0][-1] > 0.999
    assert (tmp_path / "check_ep.png").stat().st_size > 5000


def test_random_networks_can_be_moved_both_ways() -> None:
    for seed in range(40):
        network = random_network((16, 6, 4), seed)
        for factor in (1.0 + STEP, 1.0 - STEP):
            moved = replace(network, conductances=tuple(factor * g for g in network.conductances))
            assert moved.sizes == (16, 6, 4)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["learn", "magic"], "unknown rule 'magic'"),
        (["learn", "eqspike", "iris"], "rule eqspike has no data set 'iris'"),
        (["learn", "eqspike", "digits", "--in-circuit"], "eqspike learns on the twin, with one hidden layer"),
        (["learn", "biograd", "digits", "--engine", "vacask"], "--phases, --images and --engine are for ep"),
        (["check-ep", "--sizes", "4-x"], "give numbers with dashes"),
        (["check-ep", "--sizes", "4-3-1"], "2 outputs or more"),
        (["check-ep", "--seed=-1"], "seed"),
    ],
)
def test_command_line_refuses_nonsense(words: list[str], message: str) -> None:
    found = CliRunner(env={"COLUMNS": "300"}).invoke(cli.app, words)
    assert found.exit_code == 2
    assert message in found.output


def test_command_line_ends_with_1_below_the_least_cosine(tmp_path: Path) -> None:
    words = ["check-ep", "--sizes", "2-2", "--samples", "1", "--out", str(tmp_path)]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    assert CliRunner().invoke(cli.app, [*words, "--least", "1.5"]).exit_code == 1


def test_engine_that_cannot_says_so_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(DeckError, match=r"a sweep is done by the engine ngspice alone"):
        learn_equilibrium(PRESETS["iris"], tmp_path, Console(), in_circuit=False, images=3, engine_name="vacask")
    assert not (tmp_path / "training.safetensors").exists()


def test_iris_is_what_was_published() -> None:
    data = load("iris")
    assert (data.rows, data.classes, len(data.train.labels), len(data.test.labels)) == (4, 3, 105, 45)
    assert float(data.pixels("train").max()) <= 1.0


# Write-back


@given(st.lists(st.floats(-1e-5, 3e-5), min_size=1, max_size=20), st.integers(2, 300))
def test_levels_are_the_nearest_of_the_window(wanted: list[float], levels: int) -> None:
    write = WriteBack(WINDOW, levels)
    values = torch.tensor(wanted, dtype=torch.float64)
    found = write(values, torch.Generator())
    grid = np.linspace(WINDOW.g_min, WINDOW.g_max, levels)
    nearest = np.abs(np.clip(wanted, WINDOW.g_min, WINDOW.g_max)[:, None] - grid).min(1)
    assert np.abs(found.numpy()[:, None] - grid).min(1) == pytest.approx(0.0, abs=1e-18)
    assert np.abs(found.numpy() - np.clip(wanted, WINDOW.g_min, WINDOW.g_max)) == pytest.approx(nearest, abs=1e-18)


def test_noise_has_its_width_and_stays_in_the_window() -> None:
    write = WriteBack(WINDOW, noise=0.05)
    middle = torch.full((20_000,), 5e-6, dtype=torch.float64)
    found = write(middle, torch.Generator().manual_seed(0))
    assert float(found.std()) == pytest.approx(0.05 * WINDOW.span, rel=0.02)
    edge = write(torch.full((1000,), WINDOW.g_max, dtype=torch.float64), torch.Generator().manual_seed(0))
    assert float(edge.max()) <= WINDOW.g_max


# Hard inputs


def test_analyses_refuse_nonsense_and_engines_that_lack_them_say_so() -> None:
    with pytest.raises(InputError, match=r"sweep of v_a: points = 0, need 1 or more"):
        Sweep("v_a", 0)
    with pytest.raises(InputError, match=r"frequency = -1.0 Hz, need a positive number"):
        SmallSignal(-1.0)
    deck = sweep_deck(random_network((2, 2), 0), np.ones((2, 2)))
    for engine in (VacaskEngine(), SharedEngine()):
        with pytest.raises(DeckError, match=r"a sweep is done by the engine ngspice alone"):
            engine.run(deck)
        engine.close()


def test_sweep_that_is_not_whole_is_refused() -> None:
    deck = sweep_deck(random_network((2, 2), 0), np.ones((3, 2)))
    names, values = ["v(v-sweep)", *(f"v({n})" for n in deck.nodes)], np.ones((3, 3))
    for points, message in (
        ([0.0, 1.0], r"the last sweep point is 1.0 V, asked were 2.0 V"),
        ([0.0, 2.0], r"the output holds 2 of 3 points of the sweep"),
        ([0.0, 2.0, 2.0], None), ([2.0, 0.0, 2.0], r"sweep runs backwards"),
    ):  # fmt: skip
        rows = values[: len(points)].copy()
        rows[:, 0] = points
        if message is None:
            make_recording(deck, names, rows, {}, "test", None)
            continue
        with pytest.raises(StoppedEarly, match=message):
            make_recording(deck, names, rows, {}, "test", None)
    nowhere = Deck(deck.title, deck.files, Sweep("v_nothing", 3), deck.nodes, options=deck.options)
    with pytest.raises(SimulationError, match=r"no such device"):
        ENGINE.run(nowhere)


def test_wrong_networks_and_samples_are_named() -> None:
    good = np.full((6, 3), 1e-6)
    with pytest.raises(InputError, match=r"no crossbar"):
        ResistiveNetwork("n", ())
    with pytest.raises(InputError, match=r"crossbar 1: shape \(4, 2\); it needs rows for 3 nodes before and 2 of bias"):
        ResistiveNetwork("n", (good, np.full((4, 2), 1e-6)))
    with pytest.raises(
        InputError, match=r"crossbar 0: shape \(5, 2\); it needs rows for twice the inputs and 2 of bias"
    ):
        ResistiveNetwork("n", (np.full((5, 2), 1e-6),))
    bad = good.copy()
    bad[2, 1] = np.nan
    with pytest.raises(
        InputError, match=r"crossbar 0, row 2, column 1: nan S is outside of \[1e-07, 1e-05\] S \(1 such cells\)"
    ):
        ResistiveNetwork("n", (bad,))
    with pytest.raises(InputError, match=r"cell mif is no bidirectional neuron"):
        ResistiveNetwork("n", (good,), neuron=load_cell("mif"))
    network = ResistiveNetwork("n", (good,))
    with pytest.raises(InputError, match=r"inputs of shape \(1, 3\), needed is \[samples, 2\]"):
        sweep_deck(network, np.ones((1, 3)))
    with pytest.raises(InputError, match=r"1 inputs are not finite numbers"):
        sweep_deck(network, np.array([[1.0, np.inf]]))
    with pytest.raises(InputError, match=r"2 samples, but currents of 1"):
        sweep_deck(network, np.ones((2, 2)), np.ones((1, 3)))
    assert isinstance(signal_deck(network, np.ones(2), np.ones(3)).analysis, SmallSignal)


def test_wrong_settings_are_named() -> None:
    twin = start()
    for beta in (0.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=rf"beta = {beta!r} A V must be positive"):
            EquilibriumPropagation(twin, beta=beta)
    for rates in ((), (float("nan"),), (float("inf"),), (0.0,)):
        with pytest.raises(InputError, match=r"training: .* need positive numbers"):
            RuleConfig(1, 1, rates)
    with pytest.raises(InputError, match=r"bias = nan V is no finite number"):
        replace(random_network((2, 2), 0), bias=float("nan"))
    with pytest.raises(InputError, match=r"there must be a crossbar"):
        ResistiveTwin([], 4.0, 1e-5, 0.03, 1.0)
    with pytest.raises(InputError, match=r"iris has 4 pixels and 3 classes, the network 2 inputs and 2 outputs"):
        train_rule(EquilibriumPropagation(twin), load("iris"), CONFIG, WriteBack(WINDOW))
    with pytest.raises(InputError, match=r"30 of 30 samples held out. Lower validation"):
        train_rule(EquilibriumPropagation(twin), tiny_data(), replace(CONFIG, validation=30), WriteBack(WINDOW))
    two = torch.ones(2, 2, dtype=torch.float64)
    for circuit in (twin, SpiceResistive(random_network((2, 4, 2), 0), ENGINE)):
        with pytest.raises(InputError, match=r"3\]?"):
            circuit.settle(torch.ones(2, 3, dtype=torch.float64))
        with pytest.raises(InputError, match=r"currents of"):
            circuit.settle(two, two[:1])
    with pytest.raises(InputError, match=r"0 samples, currents of none. Give one or more"):
        SpiceResistive(random_network((2, 4, 2), 0), ENGINE).settle(two[:0])
    with pytest.raises(InputError, match=r"currents of shape \(1, 3\), needed is \[samples, 2\]"):
        SpiceResistive(random_network((2, 4, 2), 0), ENGINE).response(two[:1], torch.ones(1, 3, dtype=torch.float64))
    with pytest.raises(InputError, match=r"phases 'three' are unknown. Known: symmetric, one-sided"):
        EquilibriumPropagation(twin, phases="three")
    with pytest.raises(InputError, match=r"levels = 1, a cell has 2 or more"):
        WriteBack(WINDOW, 1)
    with pytest.raises(InputError, match=r"noise = nan of the window"):
        WriteBack(WINDOW, noise=float("nan"))
    with pytest.raises(InputError, match=r"optimizer 'magic' is unknown. Known: adam, sgd"):
        RuleConfig(1, 1, (1e-7,), optimizer="magic")
    with pytest.raises(InputError, match=r"epochs = 0"):
        RuleConfig(0, 1, (1e-7,))
    with pytest.raises(InputError, match=r"1 rates for 2 crossbars"):
        train_rule(EquilibriumPropagation(twin), tiny_data(), RuleConfig(1, 1, (1e-7,)), WriteBack(WINDOW))
    with pytest.raises(InputError, match=r"gain = 0.0"):
        ResistiveTwin(twin.conductances, 0.0, 1e-5, 0.03, 1.0)
    with pytest.raises(InputError, match=r"a crossbar of 3 rows after 4 nodes"):
        ResistiveTwin([twin.conductances[0], twin.conductances[1][:3]], 4.0, 1e-5, 0.03, 1.0)
    with pytest.raises(InputError, match=r"every conductance must be a positive number"):
        twin.program([g * 0 for g in twin.conductances])
    with pytest.raises(ConvergenceError, match=r"no operating point within"):
        start().settle(torch.full((1, 2), float("nan"), dtype=torch.float64))
