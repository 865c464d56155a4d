"""Chips: what is drawn has the asked statistics and stays, the circuit in all its forms agrees with the twin, nonsense is refused."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PySpice.Spice.Netlist import SubCircuit
from scipy.special import expit
from typer.testing import CliRunner

from memprop.circuit.cell import CellCard, Corner, load_cell
from memprop.circuit.elaborate import FORMS, Form, elaborate
from memprop.circuit.network import Network, Projection, population_of
from memprop.circuit.noise import Noise
from memprop.circuit.spread import Chip, Spread, corner_network, draw_chip, spread_network, stream, within
from memprop.circuit.stimulus import Stimulus
from memprop.circuit.wires import Wires
from memprop.cli import app
from memprop.conductance.pair import ConductanceRange
from memprop.data.sets import load
from memprop.deck.ngspice import make_deck, section_text
from memprop.device.card import Parameter
from memprop.errors import InputError
from memprop.export.bundle import _record_of, load_bundle
from memprop.flow.image_jobs import Image, image_decks
from memprop.flow.loop import compare
from memprop.flow.simulate import SpiceResults, SpiceSettings, image_order, simulate_images
from memprop.flow.spread import ChipSettings, parse_parameters
from memprop.spice.engine import make_engine
from memprop.twin.cell import CellTwin
from memprop.twin.drive import Separable
from memprop.twin.network import Twin, from_network

BUNDLE = Path(__file__).parents[1] / "netlists" / "digits_mif"
WINDOW = ConductanceRange()
NEURONS = {"c": 0.3, "tau": 0.3, "von": 0.3, "voff": 0.3}
EVERYTHING = Spread(NEURONS, resistance=0.05, stuck_low=2e-3, stuck_high=2e-3, gain=0.02, offset=1e-9)
F64 = torch.float64
REST = 0.01831441222755712


@functools.lru_cache(maxsize=1)
def digits() -> Network:
    return load_bundle(BUNDLE)[0]


def small(rows: int = 5, columns: int = 4, seed: int = 0) -> Network:
    """Return a network of one population with conductances in the middle of the window."""
    g = np.random.default_rng(seed).uniform(20e-6, 50e-6, (2, rows, columns))
    population = population_of("x1", columns, "mif", {}, REST)
    return Network("small", rows, (population,), (Projection("x0", "x1", g[0], g[1]),), WINDOW)


def stimulus(index: int = 25) -> Stimulus:
    pixels = torch.from_numpy(load("digits").pixels("test", slice(index, index + 1)))
    return load_bundle(BUNDLE)[1].stimulus(pixels[0])


def numbers(network: Network) -> bytes:
    """Return all numbers of a network as bytes."""
    parts: list[Any] = [g for p in network.projections for g in (p.g_plus, p.g_minus)]
    for p in network.populations:
        parts += [*p.parameters.values(), *(x for x in (p.rest, p.gain, p.offset) if x is not None)]
    return b"".join(np.asarray(part, dtype=np.float64).tobytes() for part in parts)


# What is drawn

shares = st.floats(0.0, 0.5)
spreads = st.builds(
    Spread,
    st.dictionaries(st.sampled_from(["c", "tau", "von", "voff", "vt", "ron", "roff"]), shares),
    resistance=shares, stuck_low=shares, stuck_high=shares, gain=shares, offset=st.floats(0.0, 1e-6),
)  # fmt: skip
seeds = st.integers(0, 2**40)


@given(spreads, seeds)
@settings(max_examples=40, deadline=None)
def test_same_seed_gives_the_same_bytes_and_all_values_stay_in_range(spread: Spread, seed: int) -> None:
    chip = spread_network(small(), spread, seed)
    assert numbers(chip) == numbers(spread_network(small(), spread, seed))
    card = load_cell("mif").card.parameters
    for name, values in chip.populations[0].parameters.items():
        card[name].check(name, values)
        assert (np.sign(values) == np.sign(card[name].default)).all()
    for g in (chip.projections[0].g_plus, chip.projections[0].g_minus):
        assert WINDOW.g_min <= g.min() <= g.max() <= WINDOW.g_max
    assert chip.populations[0].rest == (REST,) * 4


@given(spreads, st.sampled_from(["c", "resistance", "stuck_low", "gain", "offset"]), seeds)
@settings(max_examples=40, deadline=None)
def test_one_more_quantity_changes_no_other(spread: Spread, name: str, seed: int) -> None:
    """Streams are apart: with and without ``name`` all else is the same, bit for bit."""
    without = replace(spread, parameters={k: v for k, v in spread.parameters.items() if k != name})
    if name != "c":
        without = replace(without, **{name: 0.0})
    changed = (
        replace(without, parameters={**without.parameters, "c": 0.2})
        if name == "c"
        else replace(without, **{name: 1e-3})
    )
    one, other = (draw_chip(small(), s, seed) for s in (without, changed))
    mine, its = one.network.populations[0], other.network.populations[0]
    for key in mine.parameters:
        same = np.array_equal(mine.parameters[key], its.parameters[key])
        assert same == (key != name)
    assert (mine.gain == its.gain) == (name != "gain")
    assert (mine.offset == its.offset) == (name != "offset")
    a, b = one.devices["x0_x1"], other.devices["x0_x1"]
    assert all(map(np.array_equal, a.factor, b.factor)) == (name != "resistance")
    if name != "stuck_low":
        assert all(map(np.array_equal, a.stuck, b.stuck))


@pytest.mark.parametrize("sigma", [0.05, 0.3, 0.5])
def test_standard_deviation_is_the_asked_one_and_the_mean_the_design(sigma: float) -> None:
    """20,000 draws: means within 5 of their standard errors, deviations within 5 % (4 moments of a lognormal at 0.5)."""
    chip = draw_chip(small(100, 200), Spread({"c": sigma, "voff": sigma}, resistance=sigma, gain=sigma), 1)
    factor = np.stack(chip.devices["x0_x1"].factor)
    assert factor.mean() == pytest.approx(1.0, abs=5 * sigma / math.sqrt(factor.size))
    assert factor.std() == pytest.approx(sigma, rel=0.05)
    many = draw_chip(small(1, 20000), Spread({"c": sigma, "voff": sigma}, gain=sigma, offset=2e-9), 1)
    found = {part.name: part for part in many.drawn}
    for name in ("x1.c", "x1.voff", "x1.gain"):
        assert found[name].shown.mean() == pytest.approx(1.0, abs=5 * sigma / math.sqrt(20000))
        assert found[name].shown.std() == pytest.approx(sigma, rel=0.05)
    assert found["x1.offset"].shown.mean() == pytest.approx(0.0, abs=5 * 2e-9 / math.sqrt(20000))
    assert found["x1.offset"].shown.std() == pytest.approx(2e-9, rel=0.03)
    assert not found["x1.offset"].relative


def test_quantities_are_not_correlated() -> None:
    chip = draw_chip(small(1, 4000), Spread(NEURONS, gain=0.1, offset=1e-9), 0)
    draws = np.stack([np.log(p.shown) if p.relative else p.shown for p in chip.drawn])
    off = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(off).max() < 5 / math.sqrt(4000)
    devices = np.stack(draw_chip(small(60, 60), Spread(resistance=0.1), 0).devices["x0_x1"].factor).reshape(2, -1)
    assert abs(np.asarray(np.corrcoef(devices))[0, 1]) < 5 / 60


def test_another_sigma_scales_the_same_draw() -> None:
    small_one, large = (draw_chip(small(), Spread({"c": s}), 5).drawn[0].shown for s in (0.1, 0.4))
    z = [
        (np.log(f) / w + w / 2) for f, w in ((small_one, math.sqrt(math.log(1.01))), (large, math.sqrt(math.log(1.16))))
    ]
    assert z[0] == pytest.approx(z[1], abs=1e-12)


def test_seeds_and_names_give_other_streams() -> None:
    draws = [stream(seed, name).random() for seed in (0, 1) for name in ("x1/c", "x1/d", "x11/c", "x1/c/")]
    assert len(set(draws)) == len(draws)


def test_values_out_of_range_are_clipped_and_counted() -> None:
    card = (
        load_cell("mif")
        .card.parameters["c"]
        .model_copy(update={"at_most": 1.1e-10, "above": None, "at_least": 0.95e-10})
    )
    base = load_cell("mif")
    tight = replace(
        base, card=base.card.model_copy(update={"parameters": {**base.card.parameters, "c": card}, "corners": {}})
    )
    network = replace(small(), populations=(replace(small().populations[0], cell=tight),))
    free, clipped = (draw_chip(n, Spread({"c": 0.3}), 0).drawn[0] for n in (small(), network))
    assert clipped.actual == pytest.approx(np.clip(free.actual, 0.95e-10, 1.1e-10), abs=0)
    assert clipped.clipped == int(((free.actual < 0.95e-10) | (free.actual > 1.1e-10)).sum()) >= 2
    assert free.clipped == 0


def test_open_ends_of_a_range_are_kept_out() -> None:
    card = Parameter(default=1.0, unit="V", description="", above=0.0, below=2.0)
    found = within(card, np.array([-1.0, 0.0, 1.0, 2.0, 3.0]))
    card.check("x", found)
    assert found[2] == 1.0


# Programming


@functools.lru_cache(maxsize=1)
def worn() -> Chip:
    return draw_chip(small(60, 50), Spread(resistance=0.1, stuck_low=0.02, stuck_high=0.05), 7)


def test_share_of_stuck_cells_is_the_asked_one() -> None:
    stuck = np.stack(worn().devices["x0_x1"].stuck)
    for level, share in ((-1, 0.02), (1, 0.05)):
        assert (stuck == level).mean() == pytest.approx(share, abs=5 * math.sqrt(share / stuck.size))


def test_more_stuck_cells_keep_those_that_are_stuck_already() -> None:
    few, many = (
        draw_chip(small(60, 50), Spread(stuck_low=s, stuck_high=s), 7).devices["x0_x1"].stuck for s in (0.01, 0.1)
    )
    for a, b in zip(few, many, strict=True):
        assert (b[a != 0] == a[a != 0]).all()
        assert (a != 0).any()
        assert ((b != 0) & (a == 0)).any()


@given(st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_stuck_and_spread_survive_programming(seed: int) -> None:
    targets = np.random.default_rng(seed).uniform(WINDOW.g_min, WINDOW.g_max, (2, 60, 50))
    found = worn().program({"x0_x1": (targets[0], targets[1])}).projections[0]
    devices = worn().devices["x0_x1"]
    for g, target, factor, stuck in zip(
        (found.g_plus, found.g_minus), targets, devices.factor, devices.stuck, strict=True
    ):
        assert (g[stuck == -1] == WINDOW.g_min).all()
        assert (g[stuck == 1] == WINDOW.g_max).all()
        inside = (stuck == 0) & (g > WINDOW.g_min) & (g < WINDOW.g_max)
        assert inside.sum() > 2000
        assert g[inside] / target[inside] == pytest.approx(factor[inside], rel=1e-12)


def test_programming_twice_is_programming_once() -> None:
    """The chip keeps targets apart from what they become: factors do not multiply up."""
    design = small(60, 50).projections[0]
    once = worn().program()
    assert numbers(once) == numbers(worn().program({"x0_x1": (design.g_plus, design.g_minus)}))
    assert numbers(once) == numbers(
        spread_network(small(60, 50), Spread(resistance=0.1, stuck_low=0.02, stuck_high=0.05), 7)
    )


def test_table_counts_what_programming_clips() -> None:
    low = np.full((60, 50), WINDOW.g_min)
    rows = {part.name: part for part in worn().table({"x0_x1": (low, low)})}
    factor, stuck = (np.stack(x) for x in (worn().devices["x0_x1"].factor, worn().devices["x0_x1"].stuck))
    free = stuck == 0
    assert rows["x0_x1.conductance"].clipped == int((free & (factor < 1.0)).sum()) > 2000
    assert rows["x0_x1.conductance"].shown.min() == 1.0
    assert rows["x0_x1.stuck_low"].actual.tolist() == [WINDOW.g_min] * int((stuck < 0).sum())
    assert rows["x0_x1.stuck_high"].actual.tolist() == [WINDOW.g_max] * int((stuck > 0).sum())
    assert not rows["x0_x1.stuck_high"].relative


def test_what_is_drawn_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        worn().devices["x0_x1"].factor[0][0, 0] = 2.0


def test_wires_of_a_chip_have_their_own_resistance() -> None:
    network = replace(small(), wires=Wires(2.0, 3.0))
    chips = [draw_chip(network, Spread(wire=0.2), seed) for seed in range(400)]
    found = np.array([[c.network.wires.row, c.network.wires.column] for c in chips if c.network.wires])
    assert (found / [2.0, 3.0]).std(0) == pytest.approx([0.2, 0.2], rel=0.2)
    assert abs(np.corrcoef(found.T)[0, 1]) < 0.25
    assert draw_chip(network, Spread(resistance=0.1), 0).network.wires == Wires(2.0, 3.0)


# The circuit of a chip


@functools.lru_cache(maxsize=1)
def chip() -> Network:
    return spread_network(digits(), EVERYTHING, 0)


@functools.lru_cache(maxsize=6)
def recorded(engine: str, form: Form) -> Any:
    circuit = elaborate(chip(), form, stimulus())
    return make_engine(engine).run(make_deck(circuit, 0.25e-6, stimulus().wave.duration))


@pytest.mark.parametrize("engine", ["ngspice", "vacask"])
@pytest.mark.parametrize("form", ["full", "naive"])
def test_forms_of_a_chip_have_equal_membranes(engine: str, form: Form) -> None:
    one, reduced = recorded(engine, form), recorded(engine, "reduced")
    names = [node for nodes in elaborate(chip(), form, stimulus()).membranes().values() for node in nodes]
    assert len(names) == 42
    assert max(float(np.ptp(one[name].values)) for name in names) > 1.0
    assert max(float(np.abs(one[name].values - reduced[name].values).max()) for name in names) < 1e-9


def test_mirror_has_its_gain_and_adds_its_offset() -> None:
    """Kirchhoff at the membrane: what the mirror gives is gain times the column current plus the offset."""
    found = {}
    for name in ("vsense", "vout"):
        deck = make_deck(elaborate(chip(), "reduced", stimulus()), 0.25e-6, 20e-6)
        branches = tuple(f"v.x_x1_col{j}_mirror.{name}" for j in range(32))
        record = make_engine("ngspice").run(replace(deck, branches=branches, nodes=("x0_wave",)))
        found[name] = np.stack([record[f"i({branch})"].values for branch in branches], 1)
    gain, offset = chip().populations[0].gain, chip().populations[0].offset
    assert gain is not None
    assert offset is not None
    assert np.ptp(found["vout"]) > 1e-6
    assert found["vout"] == pytest.approx(found["vsense"] * gain + offset, abs=1e-13)


def test_energies_of_the_forms_of_a_chip_are_equal() -> None:
    found = []
    for form in FORMS:
        options = SpiceSettings(form, workers=1)
        results = simulate_images(chip(), load_bundle(BUNDLE)[1], load("digits"), [25], make_engine("ngspice"), options)
        found.append(results.done[25])
    for result in found[1:]:
        assert result.energy_crossbars == pytest.approx(found[0].energy_crossbars, rel=1e-6)
        assert result.energy_neurons == pytest.approx(found[0].energy_neurons, rel=1e-6)


def test_energy_of_neurons_counts_what_mirrors_deliver() -> None:
    """Rails and mirrors by Ohm and Kirchhoff from the column currents, in the place of the meters."""
    encoder, deck = load_bundle(BUNDLE)[1], make_deck(elaborate(chip(), "reduced", stimulus()), 0.25e-6, 100e-6)
    places = [(p, k, f"{p.name}_col{k}") for p in chip().populations for k in range(p.size)]
    branches = ("v_e2", *(f"v.x_{column}_mirror.vsense" for _, _, column in places))
    record = make_engine("ngspice").run(replace(deck, branches=branches))
    power = -0.05 * record["i(v_e2)"].values
    for p, k, column in places:
        assert p.gain is not None
        assert p.offset is not None
        current = p.gain[k] * record[f"i(v.x_{column}_mirror.vsense)"].values + p.offset[k]
        power = power + record[f"{column}_mem"].values * current
    options = SpiceSettings(workers=1)
    found = simulate_images(chip(), encoder, load("digits"), [25], make_engine("ngspice"), options).done[25]
    assert found.energy_neurons == pytest.approx(np.trapezoid(power, record["time"].values), rel=1e-6)


def test_ideal_mirrors_leave_the_netlist_as_it_is() -> None:
    text = {s.file: section_text(s) for s in elaborate(digits(), "reduced", stimulus()).sections}["populations.inc"]
    assert "column_mirror_real" not in text
    assert (
        "column_mirror_real" in make_deck(elaborate(chip(), "reduced", stimulus()), 1e-6, 1e-4).files["populations.inc"]
    )


@functools.lru_cache(maxsize=1)
def simulated() -> SpiceResults:
    data, encoder = load("digits"), load_bundle(BUNDLE)[1]
    images = [int(i) for i in image_order(data)[:4]]
    options = SpiceSettings(workers=1, dt=0.25e-6)
    return simulate_images(chip(), encoder, data, images, make_engine("ngspice"), options)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_twin_of_a_chip_follows_ngspice(dtype: torch.dtype) -> None:
    """Neurons rest up to 20 mV off the designed reference, so that rows drive currents before any image."""
    twin = from_network(chip(), load_bundle(BUNDLE)[1], 0.25e-6, dtype)
    hidden = twin.populations[0]
    assert float((hidden.rest - hidden.reference).abs().max()) > 5e-3
    found = compare(twin, load("digits"), simulated().done)
    assert found.peak < 0.5e-3
    assert found.rms < 0.05e-3
    assert found.mean_rms < 0.05e-3


@pytest.mark.parametrize("spread", [Spread({"c": 0.1}), Spread({"c": 0.1}, resistance=0.3, stuck_high=0.01, wire=0.2)])
def test_twin_of_a_chip_with_wires_follows_ngspice(spread: Spread) -> None:
    network = spread_network(replace(digits(), wires=Wires(5.0, 5.0)), spread, 0)
    options = SpiceSettings(workers=1, dt=0.25e-6)
    encoder, data = load_bundle(BUNDLE)[1], load("digits")
    results = simulate_images(network, encoder, data, [25], make_engine("ngspice"), options)
    assert compare(from_network(network, encoder, 0.25e-6, F64), data, results.done).peak < 0.5e-3


# References, gains and offsets of twins


def rest_under(current: float) -> float:
    """Return the membrane in V at which both memristors, in equilibrium, take ``current``: published equations, bisection."""
    low, high = -0.05, 0.06
    for _ in range(100):
        v = 0.5 * (low + high)
        flow = 0.0
        for u in (v, v - 0.05):
            on, off = expit((u - 0.11) / 0.015), expit((0.005 - u) / 0.015)
            x = on / (on + off)
            flow += (x / 1e3 + (1 - x) / 1e5) * u
        low, high = (v, high) if flow < current else (low, v)
    return 0.5 * (low + high)


def test_rest_holds_the_offset_current() -> None:
    offset = [0.0, 50e-9, -80e-9]
    twin = CellTwin(3, offset=offset, dtype=F64)
    assert twin.rest.flatten().tolist() == pytest.approx([rest_under(i) for i in offset], abs=1e-14)
    assert twin.offset is not None
    assert twin.offset.flatten().tolist() == offset
    assert CellTwin(3, dtype=F64).offset is None


def test_operating_point_under_a_current_is_that_of_a_bisection_and_has_its_gradient() -> None:
    twin = CellTwin(2, gain=[1.0, 1.5], offset=[10e-9, 0.0], dtype=F64)
    current = torch.tensor([[60e-9, 60e-9], [-40e-9, 20e-9]], dtype=F64, requires_grad=True)
    state = twin.settled_state(current)
    expected = [[rest_under(70e-9), rest_under(90e-9)], [rest_under(-30e-9), rest_under(30e-9)]]
    assert state.membrane.detach().numpy() == pytest.approx(np.array(expected), abs=1e-13)
    state.membrane[:, 1].sum().backward()
    h = 1e-10
    slope = 1.5 * (rest_under(90e-9 + h) - rest_under(90e-9 - h)) / (2 * h)
    assert current.grad is not None
    assert float(current.grad[0, 1]) == pytest.approx(slope, rel=1e-5)
    assert current.grad[:, 0].tolist() == [0.0, 0.0]


def test_state_at_the_operating_point_stays() -> None:
    twin = CellTwin(2, 1e-6, gain=[1.0, 1.5], offset=20e-9, dtype=F64)
    current = torch.tensor([50e-9, -30e-9], dtype=F64).expand(41, 3, 2)
    membrane, _ = twin.run(current, twin.settled_state(current[0]))
    assert float((membrane - membrane[0]).abs().max()) < 1e-14


@pytest.mark.parametrize("kernel", ["eager", "fused"])
@pytest.mark.parametrize("separable", [False, True])
def test_gain_and_offset_act_on_the_current(kernel: str, separable: bool) -> None:
    gain, offset = [0.9, 1.2], [30e-9, -20e-9]
    twin = CellTwin(2, 1e-6, gain=gain, offset=offset, kernel=kernel, dtype=F64)
    plain = CellTwin(2, 1e-6, kernel="eager", dtype=F64)
    wave = torch.linspace(0, 1, 41, dtype=F64).square()
    drive = Separable(wave, torch.tensor([[8e-6, 4e-6], [2e-6, -5e-6]], dtype=F64))
    same = drive.expand() * torch.tensor(gain, dtype=F64) + torch.tensor(offset, dtype=F64)
    expected = plain.run(same, plain.settled_state(torch.tensor(offset, dtype=F64).expand(2, 2)))[0]
    found = twin.trace(drive if separable else drive.expand())
    assert float((found - expected).abs().max()) < 1e-12
    assert float((twin(drive) - (expected - twin.rest)).abs().max()) < 1e-12


def test_reference_moves_the_output_and_nothing_else() -> None:
    drive = torch.full((11, 1, 2), 1e-6, dtype=F64)
    one, other = CellTwin(2, 1e-6, dtype=F64), CellTwin(2, 1e-6, reference=[0.0, 0.02], dtype=F64)
    assert torch.equal(one.trace(drive), other.trace(drive))
    assert float((other(drive) - other.trace(drive) + other.reference).abs().max()) < 1e-17
    assert torch.equal(one.reference, one.rest)


def test_network_and_twin_of_a_chip_are_one_thing() -> None:
    twin = from_network(chip(), load_bundle(BUNDLE)[1], 1e-6, F64)
    again = twin.to_network(chip().name)
    assert [p.rest for p in again.populations] == [p.rest for p in digits().populations]
    for mine, its in zip(again.populations, chip().populations, strict=True):
        assert (mine.gain, mine.offset) == (its.gain, its.offset)
        assert {k: np.asarray(v).tolist() for k, v in mine.parameters.items()} == {
            k: np.asarray(v).tolist() for k, v in its.parameters.items()
        }
    for mine, its in zip(again.projections, chip().projections, strict=True):
        assert mine.g_plus == pytest.approx(its.g_plus, rel=1e-12)
        assert mine.g_minus == pytest.approx(its.g_minus, rel=1e-12)


def test_twins_settle_only_where_rows_are_off_their_reference() -> None:
    encoder = load_bundle(BUNDLE)[1]
    assert [p.settles for p in from_network(digits(), encoder, 1e-6).populations] == [False, False]
    assert [p.settles for p in from_network(chip(), encoder, 1e-6).populations] == [False, True]
    assert [p.settles for p in Twin((4, 3, 2), options={"x1": {"reference": 0.0}}).populations] == [False, True]


@pytest.mark.parametrize("kernel", ["eager", "fused"])
def test_gradient_of_a_chip_that_settles_is_that_of_differences(kernel: str) -> None:
    options = {
        "x1": {"reference": REST, "gain": [1.1, 0.9, 1.0], "offset": 2e-9},
        "x2": {"gain": 1.2, "offset": [0.0, 3e-9]},
    }
    values = {"x1": {"von": [0.08, 0.11, 0.14]}}
    twin = Twin((4, 3, 2), dt=1e-6, dtype=F64, parameters=values, options=options, kernel=kernel)
    assert twin.populations[1].settles
    images = torch.rand(3, 4, dtype=F64, generator=torch.Generator().manual_seed(0))
    twin(images)[:, 0].sum().backward()
    for crossbar in twin.crossbars:
        assert crossbar.weight.grad is not None
        for place in ((0, 0), (2, 1)):
            with torch.no_grad():
                sides, h = [], 1e-9
                for move in (h, -2 * h):
                    crossbar.weight[place] += move
                    sides.append(float(twin(images)[:, 0].sum()))
                crossbar.weight[place] += h
            assert float(crossbar.weight.grad[place]) == pytest.approx(
                (sides[0] - sides[1]) / (2 * h), rel=1e-4, abs=1e-3
            )


def test_training_the_twin_of_a_chip_keeps_its_pairs_in_the_window() -> None:
    twin = from_network(chip(), load_bundle(BUNDLE)[1], 1e-6, F64)
    with torch.no_grad():
        for k, crossbar in enumerate(twin.crossbars):
            crossbar.weight.add_(torch.randn(crossbar.weight.shape, generator=torch.Generator().manual_seed(k)) * 1e-4)
    twin.project()
    for crossbar, projection in zip(twin.crossbars, twin.to_network("n").projections, strict=True):
        weight = crossbar.weight.detach().numpy()
        assert projection.g_plus - projection.g_minus == pytest.approx(weight, abs=1e-18)
        assert projection.g_plus.max() == WINDOW.g_max


# Corners


def test_corner_multiplies_and_replaces_the_parameters_of_all_neurons() -> None:
    slow = corner_network(chip(), "slow").populations[0].parameters
    for name, value in chip().populations[0].parameters.items():
        assert slow[name] == pytest.approx(
            np.asarray(value) * {"c": 1.15, "tau": 1.3, "von": 1.1}.get(name, 1.0), rel=1e-12
        )
    card = load_cell("mif").card
    corner = Corner(description="cold", factors={"c": 2.0}, values={"vt": 0.012})
    found = card.model_copy(update={"corners": {"cold": corner}}).at_corner(
        "cold", {"c": 1e-10, "vt": 0.015, "von": 0.1}
    )
    assert found == {"c": 2e-10, "vt": 0.012, "von": 0.1}


@pytest.mark.parametrize("name", ["slow", "fast", "low_resistance", "high_resistance"])
def test_shipped_corners_have_a_twin(name: str) -> None:
    network = corner_network(digits(), name)
    assert np.isfinite(from_network(network, load_bundle(BUNDLE)[1], 1e-6).populations[0].rest.numpy()).all()
    assert numbers(network) != numbers(digits())


def test_slow_corner_is_slower_than_the_fast_one() -> None:
    """The neuron's peak under one pulse comes later: it charges slower and switches later."""
    wave = torch.linspace(0, 5, 401, dtype=F64)
    drive = (10e-6 * wave * torch.exp(1 - wave))[:, None, None]
    peaks = []
    for name in ("fast", "slow"):
        values = corner_network(digits(), name).populations[0].parameters
        peaks.append(int(CellTwin(1, 0.25e-6, parameters=values, dtype=F64).trace(drive).argmax()))
    assert peaks[0] < peaks[1]


# Noise


def test_noise_is_drawn_for_each_image_and_stays_the_same_for_it() -> None:
    network = small(60, 50)
    noise = Noise(0.02, seed=3)
    a, b, again = (noise.network(network, "test", i).projections[0].g_plus for i in (0, 1, 0))
    other = noise.network(network, "train", 0).projections[0].g_plus
    assert np.array_equal(a, again)
    ratio = np.stack([a, b, other]) / network.projections[0].g_plus
    assert ratio.std(axis=(1, 2)) == pytest.approx([0.02] * 3, rel=0.1)
    assert np.abs(np.corrcoef(ratio.reshape(3, -1)) - np.eye(3)).max() < 0.1
    assert not np.array_equal(a, Noise(0.02, seed=4).network(network, "test", 0).projections[0].g_plus)


def test_deck_with_noise_is_that_of_the_noisy_network() -> None:
    encoder, image = load_bundle(BUNDLE)[1], Image(load("digits"), "test", 25)
    noise = Noise(0.05)
    decks = image_decks(digits(), encoder, "reduced", 0.25e-6, 0.25e-6, noise)
    noisy = noise.network(digits(), "test", 25)
    whole = make_deck(elaborate(noisy, "reduced", image.stimulus(encoder)), 0.25e-6, encoder.duration)
    assert decks.deck_of(image) == whole
    quiet = image_decks(digits(), encoder, "reduced", 0.25e-6, 0.25e-6)
    assert decks.deck_of(image).files["reduced.inc"] != quiet.deck_of(image).files["reduced.inc"]
    keys = {d.job(Image(load("digits"), "test", i), waveforms=False).key for d in (decks, quiet) for i in (25, 26)}
    assert len(keys) == 4


def test_noise_of_a_run_reaches_the_outputs() -> None:
    """Half a dozen images in one farm, so that decks follow each other as changes of values."""
    encoder, data = load_bundle(BUNDLE)[1], load("digits")
    images, engine = [25, 26, 27], make_engine("ngspice")
    noise = Noise(0.05)
    results = simulate_images(digits(), encoder, data, images, engine, SpiceSettings(workers=1, noise=noise))
    for index in images:
        noisy = noise.network(digits(), "test", index)
        alone = simulate_images(noisy, encoder, data, [index], engine, SpiceSettings(workers=1)).done[index]
        assert results.done[index].means == pytest.approx(alone.means, abs=1e-9)
        quiet = from_network(digits(), encoder, 0.25e-6)(torch.from_numpy(data.pixels("test", np.array([index]))))
        assert np.abs(results.done[index].means - quiet.detach().numpy()[0]).max() > 1e-4


# The bundle


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("chip") / "c"
    words = ["--sigma", "0.3", "--resistance", "0.05", "--stuck-low", "0.002", "--gain", "0.02", "--offset", "1e-9"]
    words += ["--corner", "slow", "--seed", "3", "--out", str(folder)]
    result = CliRunner().invoke(app, ["spread", str(BUNDLE), *words], catch_exceptions=False, env={"COLUMNS": "120"})
    assert result.exit_code == 0
    return folder, result.output


def test_chip_is_an_ordinary_bundle_bit_for_bit(exported: tuple[Path, str]) -> None:
    found, _, manifest = load_bundle(exported[0])
    design = Spread(NEURONS, resistance=0.05, stuck_low=0.002, gain=0.02, offset=1e-9)
    expected = spread_network(corner_network(digits(), "slow"), design, 3)
    assert numbers(found) == numbers(expected)
    assert [p.gain for p in found.populations] == [p.gain for p in expected.populations]
    assert [p.cell.text for p in found.populations] == [p.cell.text for p in expected.populations]
    assert manifest.name == "digits_mif_chip3"
    assert "corners" not in manifest.model_dump()["populations"][0]["cell"]
    assert CliRunner().invoke(app, ["replay", str(exported[0]), "--form", "reduced"]).exit_code == 0


def test_command_tells_and_draws_what_was_drawn(exported: tuple[Path, str]) -> None:
    folder, output = exported
    for name in (
        "x1.c (F)",
        "x2.voff (V)",
        "x1.gain (A/A)",
        "x2.offset (A)",
        "x0_x1.conductance (S)",
        "x0_x1.stuck_low",
    ):
        assert name in output
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["seed"], summary["corner"], summary["design"]) == (3, "slow", "digits_mif")
    parts = {part["quantity"]: part for part in summary["drawn"]}
    values = np.asarray(load_bundle(folder)[0].populations[0].parameters["c"])
    assert (parts["x1.c"]["lowest"], parts["x1.c"]["highest"]) == (values.min(), values.max())
    assert parts["x1.c"]["standard_deviation"] == pytest.approx((values / 1.15e-10).std(), rel=1e-9)
    assert (folder / "figures" / "spread.png").stat().st_size > 10_000
    text = (folder / "README.md").read_text()
    assert "This is one chip, not the design: seed 3, corner slow, relative spread: c 0.3" in text
    assert "Ideal in this netlist: row drivers, virtual grounds, wires. Conductances are those of the chip" in text
    assert "1:1" not in text


def test_same_command_writes_the_same_netlists(exported: tuple[Path, str], tmp_path: Path) -> None:
    words = ["--sigma", "0.3", "--resistance", "0.05", "--stuck-low", "0.002", "--gain", "0.02", "--offset", "1e-9"]
    words += ["--corner", "slow", "--seed", "3", "--out", str(tmp_path / "c")]
    assert CliRunner().invoke(app, ["spread", str(BUNDLE), *words]).exit_code == 0
    for path in sorted(exported[0].rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "c" / path.relative_to(exported[0])).read_bytes()


def test_manifest_of_a_design_is_as_before() -> None:
    """No word of gains, offsets or corners where there are none, so that earlier versions read the bundle."""
    written = load_bundle(BUNDLE)[2].model_dump()["populations"][0]
    assert written.keys() == json.loads((BUNDLE / "manifest.json").read_text())["populations"][0].keys()


def test_corners_of_an_own_cell_stay_in_its_bundle() -> None:
    base = load_cell("mif")
    card = base.card.model_copy(update={"name": "own_mif"})
    assert CellCard.model_validate_json(card.model_dump_json()) == card
    assert _record_of(replace(base, card=card)).corners.keys() == base.card.corners.keys()
    assert _record_of(base).corners == {}


def test_cached_means_of_chips_are_those_of_their_reference() -> None:
    """The rest of outputs stands in no netlist: another reference is another result all the same."""
    encoder, last = load_bundle(BUNDLE)[1], chip().output
    moved = replace(chip(), populations=(chip().populations[0], replace(last, rest=(0.0,) * last.size)))
    keys = {image_decks(n, encoder, "reduced", 0.25e-6, 0.25e-6).key for n in (chip(), moved)}
    assert len(keys) == 2


# What goes wrong


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Spread({"c": -0.1}), r"Spread: c = -0\.1; needs a relative number from 0 to 1, e\.g\. 0\.1 for 10 %"),
        (lambda: Spread({"c": math.nan}), "Spread: c = nan"),
        (lambda: Spread(resistance=1.5), r"Spread: resistance = 1\.5"),
        (lambda: Spread(gain=True), "Spread: gain = True"),
        (lambda: Spread(stuck_low=0.6, stuck_high=0.6), r"stuck_low \+ stuck_high = 1\.2 of all cells; at most 1"),
        (lambda: Spread(offset=-1e-9), r"Spread: offset = -1e-09 A; needs a standard deviation of 0 A or more"),
        (lambda: Spread(offset=math.inf), "Spread: offset = inf A"),
        (lambda: draw_chip(small(), Spread(), -1), "chip of small: seed -1 must be a whole number, 0 or more"),
        (lambda: draw_chip(small(), Spread(), 1.0), r"seed 1\.0 must be"),  # pyright: ignore[reportArgumentType]
        (lambda: draw_chip(small(), Spread({"cc": 0.1}), 0), "no neuron has a parameter 'cc' to spread. Known: c, ron"),
        (lambda: draw_chip(small(), Spread(wire=0.1), 0), r"its wires are ideal, so wire = 0\.1 changes nothing"),
        (lambda: worn().program({"x0_x2": worn().devices["x0_x1"].factor}), "network small has no projection x0_x2"),
        (lambda: worn().program({"x0_x1": worn().devices["x0_x1"].factor}), r"small/x0_x1/row0/col0: g_plus = \S+ S is outside"),
        (lambda: corner_network(small(), "warm"), "cell 'mif' has no corner 'warm'. Known: slow, fast, low_resistance"),
        (lambda: Noise(0.0), r"Noise: conductance = 0\.0; needs a relative number above 0, at most 1"),
        (lambda: Noise(math.nan), "Noise: conductance = nan"),
        (lambda: Noise(0.1, seed=-2), "Noise: seed = -2 must be a whole number"),
        (lambda: ChipSettings(Spread({"c": 0.0})), "a chip without spread and corner is the design. Give --sigma"),
        (lambda: parse_parameters(" ,", 0.3), r"--sigma 0\.3 without a parameter that differs"),
        (lambda: CellTwin(2, gain=[1.0, 0.0]), r"gain of 2 cells mif has shape \(2,\); needs one finite value, or one per cell, above 0"),
        (lambda: CellTwin(2, offset=math.nan), "offset of 2 cells mif has shape"),
        (lambda: CellTwin(2, reference=[0.0] * 3), r"reference of 2 cells mif has shape \(3,\)"),
        (lambda: Twin((3, 2), options={"x2": {}}), "unknown populations"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gain": (1.0, -1.0, 1.0, 1.0)}, r"gain of its mirrors is .* A/A; needs one finite number above 0 for each of 4"),
        ({"gain": (1.0,)}, r"gain of its mirrors is \(1\.0,\) A/A"),
        ({"offset": (math.inf, 0.0, 0.0, 0.0)}, r"offset of its mirrors is .* A; needs one finite number for each of 4 neurons"),
    ],
)  # fmt: skip
def test_nonsense_of_mirrors_is_refused(change: dict[str, Any], message: str) -> None:
    population = replace(small().populations[0], **change)
    with pytest.raises(InputError, match=message):
        replace(small(), populations=(population,))


def test_parameter_of_value_zero_has_no_relative_spread() -> None:
    cell = SubCircuit("null", "mem", "e1", "e2", "ref", c=1e-10, von=0)
    cell.C("mem", "mem", "ref", "{c}")
    cell.R("mem", "mem", "ref", 1e4)
    population = population_of("x1", 4, cell, {}, 0.0)
    with pytest.raises(InputError, match="parameter von of population 'x1' is 0, of which no relative spread exists"):
        draw_chip(replace(small(), populations=(population,)), Spread({"von": 0.1}), 0)


def test_own_cell_has_no_corner_of_the_shipped_one() -> None:
    cell = SubCircuit("own", "mem", "e1", "e2", "ref", c=1e-10)
    cell.C("mem", "mem", "ref", "{c}")
    cell.R("mem", "mem", "ref", 1e4)
    network = replace(small(), populations=(population_of("x1", 4, cell, {}, 0.0),))
    with pytest.raises(
        InputError, match=r"cell 'own' has no corner 'slow'. Known: none; write \[corners\.slow\] into its card"
    ):
        corner_network(network, "slow")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('factors = { cc = 2.0 }', "mif, corner bad has no parameter 'cc'"),
        ('factors = { c = -2.0 }', r"parameter mif, corner bad\.c = -2e-10 F is not finite, above 0\.0"),
        ('values = { tau = 0.0 }', r"parameter mif, corner bad\.tau = 0\.0 s is not"),
    ],
)  # fmt: skip
def test_corner_that_does_not_fit_is_refused_when_the_card_is_read(tmp_path: Path, lines: str, message: str) -> None:
    home = load_cell("mif").home
    assert home is not None
    (tmp_path / "mif").mkdir()
    (tmp_path / "mif" / "cell.cir").write_text((home / "cell.cir").read_text())
    text = (home / "cell.toml").read_text() + f'\n[corners.bad]\ndescription = "none"\n{lines}\n'
    (tmp_path / "mif" / "cell.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        load_cell("mif", tmp_path)


@pytest.mark.parametrize(
    ("form", "wires", "has"), [("full", None, "the full form"), ("reduced", Wires(1.0, 1.0), "wires with resistance")]
)
def test_noise_of_other_forms_is_refused(form: Form, wires: Wires | None, has: str) -> None:
    network = replace(digits(), wires=wires)
    with pytest.raises(
        InputError, match=rf"is for the reduced form of ideal wires, this has {has}\. Use the reduced form"
    ):
        image_decks(network, load_bundle(BUNDLE)[1], form, 0.25e-6, 0.25e-6, Noise(0.02))
