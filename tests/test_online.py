"""Rules that learn online: against loops over synapses, step by step, and against autograd; training; comparison; command line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner

from memprop import cli
from memprop.conductance.write_back import WriteBack
from memprop.data import load
from memprop.data.spikes import Bernoulli
from memprop.errors import InputError
from memprop.flow.check_online import check_online, compared
from memprop.flow.online import PRESETS, learn_online, online_rule
from memprop.learn.online import OTTT, EProp, OnlineRule, SurrogateBPTT
from memprop.learn.rule_training import train_rule
from memprop.twin.leaky import LeakyNeuron, run_leaky, run_leaky_layer

UNIT, STEPS = 2e-5, 12
NEURON = LeakyNeuron(decay=0.7, readout=0.85, threshold=0.8, gain=0.4)
Floats = NDArray[np.float64]


def crossbars(sizes: tuple[int, ...], seed: int = 0, feedback: bool = False) -> list[Tensor]:
    """Return signed conductances of random weights with biases, and random feedback."""
    rng = np.random.default_rng(seed)
    layers = [rng.normal(0.1, 0.6, (a + 1, b)) for a, b in pairwise(sizes)]
    back = [rng.normal(0, 0.5, (n, sizes[-1])) for n in sizes[1:-1]] if feedback else []
    return [torch.from_numpy(UNIT * g) for g in (*layers, *back)]


def settings(**others: Any) -> dict[str, Any]:
    return {"steps": STEPS, "neuron": NEURON, "dtype": torch.float64, **others}


def batch(inputs: int, classes: int, count: int = 4) -> tuple[Tensor, Tensor, list[Floats]]:
    """Return samples, labels, and for each sample the input spikes that a generator of seed 2 draws."""
    pixels = torch.rand(count, inputs, generator=torch.Generator().manual_seed(1))
    spikes = Bernoulli(pixels.shape[1])(pixels, STEPS, torch.Generator().manual_seed(2)).double().numpy()
    return pixels, torch.arange(count) % classes, [spikes[:, b] for b in range(count)]


class Stepped:
    """The network as its first lines say, one sample, one step after the other, with all that a rule can ask of a step."""

    def __init__(self, weights: list[Floats], neuron: LeakyNeuron) -> None:
        self.weights, self.neuron = weights, neuron
        self.v = [np.zeros(w.shape[1]) for w in weights]
        self.s = [np.zeros(w.shape[1]) for w in weights]
        self.psi = [np.zeros(w.shape[1]) for w in weights]
        self.x = [np.zeros(w.shape[0]) for w in weights]

    def step(self, x: Floats, label: int) -> Floats:
        """Advance by a step and return the error of the readout in it."""
        n, last = self.neuron, len(self.weights) - 1
        for k, w in enumerate(self.weights):
            self.x[k] = np.append(x, 1.0)
            if k == last:
                self.v[k] = n.readout * self.v[k] + self.x[k] @ w
                break
            self.v[k] = n.decay * (self.v[k] - n.threshold * self.s[k]) + self.x[k] @ w
            x = self.s[k] = (self.v[k] > n.threshold).astype(float)
            far = np.abs(self.v[k] - n.threshold) / n.threshold
            self.psi[k] = n.gain * np.maximum(0.0, 1.0 - far) / n.threshold
        odds = np.exp(self.v[last] - self.v[last].max())
        return odds / odds.sum() - np.eye(len(odds))[label]


def summed(
    weights: list[Floats], spikes: list[Floats], labels: Tensor, told: Callable[[list[Floats], Floats, int], list[Floats]]
) -> list[Floats]:  # fmt: skip
    """Return the mean over samples and steps of what one sample tells."""
    each = [told(weights, x, int(label)) for x, label in zip(spikes, labels, strict=True)]
    return [sum(parts) / (len(spikes) * STEPS) for parts in zip(*each, strict=True)]


def eprop_by_synapse(weights: list[Floats], spikes: Floats, label: int, back: list[Floats]) -> list[Floats]:
    """e-prop forward in time: an eligibility and its filter at each synapse, moved by the error of the moment."""
    net, total = Stepped(weights, NEURON), [np.zeros_like(w) for w in weights]
    trace, kept = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    for x in spikes:
        error = net.step(x, label)
        for k in range(len(weights)):
            last = k == len(weights) - 1
            for j in range(weights[k].shape[1]):
                for i in range(weights[k].shape[0]):
                    trace[k][i, j] = (NEURON.readout if last else NEURON.decay) * trace[k][i, j] + net.x[k][i]
                    eligible = net.psi[k][j] * trace[k][i, j]
                    kept[k][i, j] = NEURON.readout * kept[k][i, j] + eligible
                    total[k][i, j] += error[j] * trace[k][i, j] if last else (back[k] @ error)[j] * kept[k][i, j]
    return total


def ottt_by_step(weights: list[Floats], spikes: Floats, label: int) -> list[Floats]:
    """OTTT forward in time: in each step an outer product of what goes back and of traces."""
    net, total = Stepped(weights, NEURON), [np.zeros_like(w) for w in weights]
    trace = [np.zeros(w.shape[0]) for w in weights]
    for x in spikes:
        error = net.step(x, label)
        trace = [NEURON.decay * a + now for a, now in zip(trace, net.x, strict=True)]
        for k in reversed(range(len(weights))):
            total[k] += np.outer(trace[k], error)
            error = (weights[k][:-1] @ error) * net.psi[k - 1] if k else error
    return total


def tangents(weights: list[Floats], spikes: Floats, label: int, detached: bool) -> list[Floats]:
    """Derivative by each single weight, carried forward through the network with psi in place of that of spikes."""
    found = [np.zeros_like(w) for w in weights]
    for layer, w in enumerate(weights):
        for index in np.ndindex(w.shape):
            net = Stepped(weights, NEURON)
            dv, ds = [np.zeros_like(v) for v in net.v], [np.zeros_like(v) for v in net.v]
            for x in spikes:
                error, dx = net.step(x, label), np.zeros(len(x))
                for k, above in enumerate(weights):
                    last = k == len(weights) - 1
                    reset = 0.0 if last or detached else NEURON.threshold * ds[k]
                    dv[k] = (NEURON.readout if last else NEURON.decay) * (dv[k] - reset) + dx @ above[:-1]
                    if k == layer:
                        dv[k][index[1]] += net.x[k][index[0]]
                    dx = ds[k] = net.psi[k] * dv[k]
                found[layer][index] += error @ dv[-1]
    return found


def weights_of(rule: OnlineRule) -> list[Floats]:
    return [(g / rule.unit).numpy() for g in rule.conductances]


def agree(rule: OnlineRule, pixels: Tensor, labels: Tensor, expected: list[Floats]) -> None:
    found = rule.learn(pixels, labels, torch.Generator().manual_seed(2))
    for ours, theirs in zip(found.gradients, expected, strict=False):
        assert np.abs(theirs).max() > 1e-3
        np.testing.assert_allclose(UNIT * ours.numpy(), theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("feedback", ["symmetric", "random"])
def test_eprop_is_that_of_a_loop_over_synapses(feedback: str) -> None:
    rule = EProp(crossbars((5, 6, 4, 3), feedback=feedback == "random"), UNIT, feedback=feedback, **settings())
    pixels, labels, spikes = batch(5, 3)
    weights = weights_of(rule)
    layers = weights[:3]
    back = weights[3:] or [layers[1][:-1] @ layers[2][:-1], layers[2][:-1]]
    agree(rule, pixels, labels, summed(layers, spikes, labels, lambda w, x, label: eprop_by_synapse(w, x, label, back)))


def test_feedback_at_random_stays() -> None:
    rule = EProp(crossbars((5, 6, 3), feedback=True), UNIT, feedback="random", **settings())
    pixels, labels, _ = batch(5, 3)
    found = rule.learn(pixels, labels, torch.Generator()).gradients
    assert [tuple(g.shape) for g in found] == [(6, 6), (7, 3), (6, 3)]
    assert not found[2].any()


def test_ottt_is_that_of_a_loop_over_steps() -> None:
    rule = OTTT(crossbars((5, 6, 4, 3)), UNIT, **settings())
    pixels, labels, spikes = batch(5, 3)
    agree(rule, pixels, labels, summed(weights_of(rule), spikes, labels, ottt_by_step))


@pytest.mark.parametrize("detached", [True, False])
def test_reference_is_what_tangents_carried_forward_say(detached: bool) -> None:
    rule = SurrogateBPTT(crossbars((4, 5, 3, 2)), UNIT, detached=detached, **settings())
    pixels, labels, spikes = batch(4, 2)
    expected = summed(weights_of(rule), spikes, labels, lambda w, x, label: tangents(w, x, label, detached))
    agree(rule, pixels, labels, expected)


def test_eprop_with_one_hidden_layer_is_backpropagation_without_resets() -> None:
    pixels, labels, _ = batch(20, 4, 8)
    both = [
        make(crossbars((20, 16, 4)), UNIT, **settings()).learn(pixels, labels, torch.Generator().manual_seed(0))
        for make in (EProp, SurrogateBPTT)
    ]
    assert both[0].loss == both[1].loss
    assert torch.equal(both[0].outputs, both[1].outputs)
    for mine, true in zip(both[0].gradients, both[1].gradients, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-12)


def test_ottt_is_exact_where_the_paper_says() -> None:
    """Hidden layer: if the readout has no memory. Readout: if it has that of membranes."""
    pixels, labels, _ = batch(20, 4, 8)
    for readout, exact in ((0.0, 0), (NEURON.decay, 1)):
        given = settings(neuron=replace(NEURON, readout=readout))
        mine, true = (
            make(crossbars((20, 16, 4)), UNIT, **given)
            .learn(pixels, labels, torch.Generator().manual_seed(0))
            .gradients
            for make in (OTTT, SurrogateBPTT)
        )
        torch.testing.assert_close(mine[exact], true[exact], rtol=1e-9, atol=1e-12)
        assert not torch.allclose(mine[1 - exact], true[1 - exact], rtol=1e-2)


def test_loss_is_the_mean_over_steps() -> None:
    """Silent hidden neurons and equal outputs: every class is as likely, in each step."""
    silent = [torch.zeros(6, 3, dtype=torch.float64), torch.zeros(4, 5, dtype=torch.float64)]
    pixels, labels, _ = batch(5, 5)
    assert OTTT(silent, UNIT).learn(pixels, labels, torch.Generator()).loss == pytest.approx(np.log(5))


def test_a_neuron_integrates_fires_and_keeps_what_is_over_the_threshold() -> None:
    neuron = LeakyNeuron(decay=0.5, readout=0.5)
    weight = torch.tensor([[1.0], [0.2]])
    waves = run_leaky_layer(weight, torch.tensor([0.0, 1.0, 0.0, 0.0]).reshape(4, 1, 1), neuron)
    # v: 0.2, 0.1 + 1.2 = 1.3 fires, 0.5 (1.3 - 1) + 0.2 = 0.35, 0.375
    assert waves.membranes.flatten().tolist() == pytest.approx([0.2, 1.3, 0.35, 0.375])
    assert waves.spikes.flatten().tolist() == [0, 1, 0, 0]
    assert waves.psi.flatten().tolist() == pytest.approx([0.06, 0.21, 0.105, 0.1125])
    assert waves.traces[:, 0, 0].tolist() == [0, 1, 0.5, 0.25]
    assert waves.traces[:, 0, 1].tolist() == [1, 1.5, 1.75, 1.875]
    run = run_leaky([weight, torch.tensor([[2.0, -1.0], [0.0, 0.5]])], torch.eye(4)[:, 1].reshape(4, 1, 1), neuron)
    assert run.readout[:, 0, 0].tolist() == [0, 2, 1, 0.5]
    assert run.readout[:, 0, 1].tolist() == pytest.approx([0.5, -0.25, 0.375, 0.6875])


def test_outputs_do_not_change_between_calls() -> None:
    rule = EProp(crossbars((5, 6, 3)), UNIT)
    pixels, _, _ = batch(5, 3)
    assert torch.equal(rule.outputs(pixels), rule.outputs(pixels))
    assert rule.outputs(pixels).shape == (4, 3)
    assert (rule.sizes, rule.name, OTTT.needs.state) == ((5, 3), "e-prop", "none")


@pytest.mark.parametrize("name", ["eprop", "eprop-random", "ottt", "bptt"])
def test_command_learns_and_goes_on(name: str, tmp_path: Path) -> None:
    small = replace(PRESETS["digits"], epochs=4)
    first = learn_online(name, small, tmp_path, Console(file=io.StringIO()))
    assert first["twin_accuracy"] > 0.9
    assert first["history"]["loss"][-1] < 0.5 * first["history"]["loss"][0]
    again = learn_online(name, small, tmp_path, Console(file=io.StringIO()))
    assert again["history"] == first["history"]


def test_rules_on_the_command_line(tmp_path: Path) -> None:
    words = ["learn", "ottt", "digits", "--hidden", "24", "--hidden", "16", "--epochs", "1", "--run", str(tmp_path)]
    found = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, words)
    assert found.exit_code == 0, found.output
    record = json.loads((tmp_path / "summary.json").read_text())
    assert (record["rule"], record["needs"]) == ("OTTT", {"phases": 1, "state": "none"})
    assert record["crossbars"] == [[65, 24], [25, 16], [17, 10]]


def test_interrupted_training_ends_the_same(tmp_path: Path) -> None:
    small, data = replace(PRESETS["digits"], hidden=(16,), epochs=2, batch=64, steps=5), load("digits")
    write = WriteBack(small.window, signed=True)
    config = small.config((0.3, 0.03), (0.9, 0.9))
    whole, part, resumed = (online_rule("eprop", small, data) for _ in range(3))
    expected = train_rule(whole, data, config, write)

    def stop(at: object) -> None:
        if getattr(at, "epoch", 0) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_rule(part, data, config, write, tmp_path / "c.safetensors", stop)
    assert train_rule(resumed, data, config, write, tmp_path / "c.safetensors").loss == expected.loss
    assert all(torch.equal(a, b) for a, b in zip(resumed.conductances, whole.conductances, strict=True))


def test_comparison_finds_what_theory_says() -> None:
    checks = {
        (c.rule, c.crossbar): c for c in compared(replace(PRESETS["digits"], hidden=(48, 32)), load("digits"), 24)
    }
    for k in (1, 2):
        assert checks["e-prop", k].cosine == pytest.approx(1.0, abs=1e-9)
        assert checks["e-prop", k].length == pytest.approx(1.0, abs=1e-9)
        assert checks["OTTT, leaky readout", k].cosine > 0.97
    assert 0.3 < checks["e-prop", 0].cosine < 0.9 < checks["OTTT, leaky readout", 0].cosine
    assert abs(checks["e-prop, random feedback", 1].cosine) < 0.4
    assert checks["BPTT without resets", 1].cosine == pytest.approx(1.0)
    assert 0.9 < checks["BPTT without resets", 1].cosine_full < 0.9999


def test_comparison_on_the_command_line(tmp_path: Path) -> None:
    words = ["check-online", "--hidden", "16", "--samples", "24", "--out", str(tmp_path)]
    found = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, words)
    assert found.exit_code == 0, found.output
    assert "64-16-10" in found.output
    assert "the last two crossbars reach 0.97" in found.output
    record = json.loads((tmp_path / "check_online.json").read_text())
    assert record["sizes"] == [64, 16, 10]
    assert {c["samples"] for c in record["checks"]} == {24}
    strict = CliRunner(env={"COLUMNS": "200"}).invoke(cli.app, [*words, "--least", "0.99999"])
    assert strict.exit_code == 1
    assert "cosine below 0.99999: OTTT, leaky readout, crossbar 0" in strict.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["learn", "ottt", "iris"], "rule ottt has no data set 'iris'"),
        (["learn", "bptt", "digits", "--in-circuit"], "bptt learns on the twin"),
        (["check-online", "--dataset", "iris"], "no data set 'iris'"),
        (["check-online", "--hidden", "0"], "hidden"),
    ],
)
def test_command_line_refuses_nonsense(words: list[str], message: str) -> None:
    found = CliRunner(env={"COLUMNS": "300"}).invoke(cli.app, words)
    assert found.exit_code == 2
    assert message in " ".join(found.output.split())


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    good = crossbars((3, 4, 2))
    with pytest.raises(InputError, match=r"OTTT: crossbars \(4, 4\), \(4, 2\) are no chain of layers with bias\."):
        OTTT([good[0], good[1][:-1]], UNIT)
    with pytest.raises(InputError, match=r"followed by one feedback per hidden layer"):
        EProp(good, UNIT, feedback="random")
    with pytest.raises(InputError, match=r"are no chain"):
        SurrogateBPTT([], UNIT)
    with pytest.raises(InputError, match=r"surrogate BPTT: 1 layer; it needs a hidden layer and a readout"):
        SurrogateBPTT(good[:1], UNIT)
    with pytest.raises(InputError, match=r"feedback 'learned' is unknown. Known: symmetric, random"):
        EProp(good, UNIT, feedback="learned")
    with pytest.raises(InputError, match=r"e-prop: unit = 0.0 S must be positive, steps = 20"):
        EProp(good, 0.0)
    with pytest.raises(InputError, match=r"steps = 0 at least 1"):
        OTTT(good, UNIT, steps=0)
    for name, value in (("decay", 1.0), ("readout", -0.1), ("threshold", 0.0), ("gain", float("nan"))):
        with pytest.raises(InputError, match=f"{name} = {value}"):
            LeakyNeuron(**{name: value})
    with pytest.raises(InputError, match=r"rule 'magic' is unknown. Known: eprop, eprop-random, ottt, bptt"):
        online_rule("magic", PRESETS["digits"], load("digits"))
    with pytest.raises(InputError, match=r"19 of 19 samples have a gradient, 20 are needed. Raise --samples"):
        check_online(PRESETS["digits"], tmp_path, Console(file=io.StringIO()), samples=19, least=0.9)
