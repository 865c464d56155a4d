"""Crossbars with wire resistance: solver, netlist, twin and bundle against Kirchhoff's laws, ngspice, VACASK and badcrossbar.

The oracles share nothing with the package: nodal equations written anew and solved dense, ladders in closed form, simulators on
the netlist with every wire segment, and the solver of another project.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PySpice.Spice.Netlist import SubCircuit

from memprop.circuit.cell import as_cell
from memprop.circuit.elaborate import TILE, Form, Section, elaborate, forms_of
from memprop.circuit.network import Network, Projection, population_of
from memprop.circuit.stimulus import AlphaWave, Stimulus
from memprop.circuit.wired import crossing_nodes, wired_tiles
from memprop.circuit.wires import WiredCrossbar, Wires, reduce_crossbar
from memprop.conductance.pair import Array, ConductanceRange
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images, Split, load
from memprop.deck.conductances import read_conductances
from memprop.deck.deck import Deck, Transient
from memprop.deck.ngspice import make_deck, section_text
from memprop.errors import BundleError, CheckpointError, InputError
from memprop.export.bundle import load_bundle
from memprop.export.replay import replay
from memprop.flow.loop import export_bundle, provenance
from memprop.flow.settings import PRESETS, load_settings, parse_wires, save_settings
from memprop.flow.simulate import ImageResult, SpiceSettings, simulate_images
from memprop.learn.bptt import BPTTConfig, fit
from memprop.spice.engine import make_engine
from memprop.spice.find import find_vacask
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.raw import read_raw
from memprop.twin.crossbar import Crossbar
from memprop.twin.network import Twin, from_network

DIGITS = Path(__file__).parents[1] / "netlists" / "digits_mif"


def pairs(rows: int, columns: int, seed: int = 0) -> tuple[Array, Array]:
    """Return g_plus and g_minus in S, spread evenly in logarithm over the default window."""
    plus, minus = np.exp(np.random.default_rng(seed).uniform(math.log(1e-6), math.log(1e-4), (2, rows, columns)))
    return plus, minus


def kirchhoff(g_plus: Array, g_minus: Array, wires: Wires, rows: Array) -> tuple[Array, Array, float]:
    """Return node voltages on rows and columns, ``[2, 2 x row, column]``, column currents in A, and the drivers' power in W.

    One resistor after the other is put into the nodal matrix.
    """
    lines = np.repeat(rows, 2) * np.tile([1.0, -1.0], len(rows))
    g = np.empty((2 * len(rows), g_plus.shape[1]))
    g[0::2], g[1::2] = g_plus, g_minus
    count, width = g.shape
    node = np.arange(2 * g.size).reshape(2, count, width)
    matrix, source = np.zeros((2 * g.size, 2 * g.size)), np.zeros(2 * g.size)

    def resistor(a: int, b: int | None, siemens: float, voltage: float = 0.0) -> None:
        matrix[a, a] += siemens
        if b is None:
            source[a] += siemens * voltage
        else:
            matrix[b, b] += siemens
            matrix[a, b] -= siemens
            matrix[b, a] -= siemens

    for i in range(count):
        for j in range(width):
            resistor(node[0, i, j], node[1, i, j], g[i, j])
            left = node[0, i, j - 1] if j else None
            resistor(node[0, i, j], left, 1 / wires.row, lines[i])
            resistor(node[1, i, j], node[1, i + 1, j] if i + 1 < count else None, 1 / wires.column)
    v = np.linalg.solve(matrix, source).reshape(2, count, width)
    cells = g * (v[0] - v[1])  # currents by the cells: no differences of nearly equal wire voltages
    return v, cells.sum(0), float((lines * cells.sum(1)).sum())


# The solver against Kirchhoff, closed forms and limits


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5), columns=st.integers(1, 5), seed=st.integers(0, 999),
    row=st.floats(1.0, 1e5), column=st.floats(1.0, 1e5),
)  # fmt: skip
def test_solver_obeys_kirchhoff(rows: int, columns: int, seed: int, row: float, column: float) -> None:
    g, wires = pairs(rows, columns, seed), Wires(row, column)
    drive = np.random.default_rng(seed).normal(size=rows)
    v, currents, power = kirchhoff(*g, wires, drive)
    crossbar = WiredCrossbar(*g, wires)
    on_rows, on_columns = crossbar.voltages(drive)
    np.testing.assert_allclose(on_rows, v[0], atol=1e-9 * np.abs(drive).max())
    np.testing.assert_allclose(on_columns, v[1], atol=1e-9 * np.abs(drive).max())
    np.testing.assert_allclose(drive @ crossbar.weight(), currents, rtol=1e-9, atol=1e-9 * np.abs(currents).max())
    assert drive @ crossbar.load() @ drive == pytest.approx(power, rel=1e-8)


def test_solver_obeys_kirchhoff_beyond_one_block_of_lines() -> None:
    g, wires, drive = pairs(70, 3), Wires(3.0, 7.0), np.random.default_rng(1).normal(size=70)
    v, currents, power = kirchhoff(*g, wires, drive)
    crossbar = WiredCrossbar(*g, wires)
    np.testing.assert_allclose(drive @ crossbar.weight(), currents, rtol=1e-10)
    np.testing.assert_allclose(np.stack(crossbar.voltages(drive)), v, atol=1e-11)
    assert drive @ crossbar.load() @ drive == pytest.approx(power, rel=1e-9)


def test_one_cell_is_a_series_of_resistors() -> None:
    g = 40e-6
    crossbar = WiredCrossbar(np.array([[g]]), np.zeros((1, 1)), Wires(3.0, 5.0))
    # One row segment, the cell, and two column segments: below the + crossing and below the empty - crossing.
    assert crossbar.weight()[0, 0] == pytest.approx(1 / (3.0 + 1 / g + 2 * 5.0), rel=1e-14)
    assert crossbar.load()[0, 0] == pytest.approx(1 / (3.0 + 1 / g + 2 * 5.0), rel=1e-14)


@pytest.mark.parametrize("count", [2, 3, 20])
def test_one_row_is_a_ladder(count: int) -> None:
    g = pairs(1, count)[0]
    wires = Wires(300.0, 50.0)
    branches = 1 / (1 / g[0] + 2 * wires.column)
    seen = np.empty(count)  # conductance from the left end of each row segment on
    beyond = 0.0
    for j in reversed(range(count)):
        seen[j] = 1 / (wires.row + 1 / (branches[j] + beyond))
        beyond = seen[j]
    voltage, currents = 1.0, np.empty(count)
    for j in range(count):
        voltage -= wires.row * voltage * seen[j]
        currents[j] = voltage * branches[j]
    crossbar = WiredCrossbar(g, np.zeros_like(g), wires)
    np.testing.assert_allclose(crossbar.weight()[0], currents, rtol=1e-12)
    assert crossbar.load()[0, 0] == pytest.approx(seen[0], rel=1e-12)


@pytest.mark.parametrize("count", [2, 3, 20])
def test_one_column_is_a_ladder_of_sources(count: int) -> None:
    g, wires = pairs(count, 1)[0][:, 0], Wires(300.0, 50.0)
    drive = np.random.default_rng(2).normal(size=count)
    voltage, resistance = 0.0, math.inf  # Thevenin source of all above
    for i in range(count):
        branch = wires.row + 1 / g[i]
        inner = 1 / (1 / resistance + 1 / branch)
        voltage = inner * (voltage / resistance + drive[i] / branch)
        resistance = inner + 2 * wires.column
    current = voltage / resistance
    weight = WiredCrossbar(g[:, None], np.zeros((count, 1)), wires).weight()
    assert drive @ weight[:, 0] == pytest.approx(current, rel=1e-12)


def test_without_resistance_left_the_crossbar_is_ideal() -> None:
    g = pairs(9, 6)
    ideal = reduce_crossbar(*g, None)
    # No cell loses more of its voltage than all current of the fullest line drops over the longest way.
    per_ohm = (18 + 6) * max(np.stack(g).sum(axis).max() for axis in ((0, 1), 2))
    for ohm in (1.0, 1e-3, 1e-6, 1e-12):
        found = WiredCrossbar(*g, Wires(ohm, ohm))
        loss = np.abs(found.weight() - ideal.weight).max() / np.abs(ideal.weight).max()
        assert loss < per_ohm * ohm + 1e-15
        assert np.abs(found.load() - ideal.load).max() / ideal.load.max() < per_ohm * ohm + 1e-15


def test_loss_is_proportional_to_small_resistances() -> None:
    g = pairs(9, 6)
    ideal = g[0] - g[1]
    losses = [ideal - WiredCrossbar(*g, Wires(ohm, 2 * ohm)).weight() for ohm in (1e-6, 2e-6)]
    np.testing.assert_allclose(losses[1], 2 * losses[0], rtol=1e-4, atol=1e-19)


def test_what_a_row_sends_to_a_column_a_column_sends_to_the_row() -> None:
    g, wires = pairs(4, 5), Wires(40.0, 60.0)
    crossbar = WiredCrossbar(*g, wires)
    rows = np.stack([kirchhoff(*g, wires, unit)[1] for unit in np.eye(4)])
    np.testing.assert_allclose(crossbar.weight(), rows, rtol=1e-9, atol=1e-14)
    demand = crossbar.load()
    np.testing.assert_array_equal(demand, demand.T)
    assert (np.linalg.eigvalsh(demand) > 0).all()


def test_signs_of_the_pair_swap_with_the_lines_only_where_wires_are_ideal() -> None:
    plus, minus = pairs(4, 3)
    one, other = (WiredCrossbar(*g, Wires(5.0, 5.0)).weight() for g in ((plus, minus), (minus, plus)))
    assert 1e-6 < np.abs(one + other).max() / np.abs(one).max() < 0.1  # the - line is one segment nearer to the ground


def test_reduction_is_remembered_and_safe_from_change() -> None:
    g = pairs(3, 2)
    first, again = (reduce_crossbar(*(part.copy() for part in g), Wires(1.0, 2.0)) for _ in range(2))
    assert first is again
    assert reduce_crossbar(*g, Wires(1.0, 2.5)) is not first
    with pytest.raises(ValueError, match="read-only"):
        first.weight[0, 0] = 0.0


# Against badcrossbar


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (6, 4), (20, 15)])
def test_currents_and_voltages_are_those_of_badcrossbar(shape: tuple[int, int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its plotting wants cairo, its solver does not
        badcrossbar = pytest.importorskip(
            "badcrossbar",
            reason="pip install --no-deps badcrossbar==1.1.0 pathvalidate sigfig (pycairo wants the library cairo)",
        )
    g, wires = pairs(*shape, seed=5), Wires(1.7, 2.9)
    drive = np.random.default_rng(3).normal(size=shape[0])
    lines = np.stack([drive, -drive], 1).reshape(-1, 1)
    resistances = 1 / np.stack(g, 1).reshape(-1, shape[1])
    solution = badcrossbar.compute(lines, resistances, r_i_word_line=wires.row, r_i_bit_line=wires.column)
    crossbar = WiredCrossbar(*g, wires)
    output = np.asarray(solution.currents.output)[0]
    np.testing.assert_allclose(drive @ crossbar.weight(), output, rtol=1e-9, atol=1e-9 * np.abs(output).max())
    on_rows, on_columns = crossbar.voltages(drive)
    np.testing.assert_allclose(on_rows, solution.voltages.word_line, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(on_columns, solution.voltages.bit_line, rtol=1e-9, atol=1e-10)


# The gradient


def test_gradient_is_that_of_finite_differences() -> None:
    g, wires, slope = pairs(5, 4, seed=7), Wires(80.0, 120.0), np.random.default_rng(8).normal(size=(5, 4))
    found = WiredCrossbar(*g, wires).gradient(slope)
    for sign in (0, 1):
        for place in np.ndindex(5, 4):
            step, losses = 1e-4 * g[sign][place], []
            for direction in (1, -1):
                moved = [part.copy() for part in g]
                moved[sign][place] += direction * step
                losses.append(sum(slope[i] @ kirchhoff(*moved, wires, np.eye(5)[i])[1] for i in range(5)))
            expected = (losses[0] - losses[1]) / (2 * step)
            assert found[sign][place] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_gradient_spans_blocks_of_lines() -> None:
    g, wires, slope = pairs(70, 2), Wires(8.0, 5.0), np.random.default_rng(8).normal(size=(70, 2))
    found = WiredCrossbar(*g, wires).gradient(slope)
    direction = np.random.default_rng(9).normal(size=(2, 70, 2)) * np.stack(g)
    losses = [
        (slope * WiredCrossbar(g[0] + h * direction[0], g[1] + h * direction[1], wires).weight()).sum()
        for h in (1e-5, -1e-5)
    ]
    expected = (losses[0] - losses[1]) / 2e-5
    assert (np.stack(found) * direction).sum() == pytest.approx(expected, rel=1e-7)


def crossbar_of(weight: Array, wires: Wires | None) -> Crossbar:
    crossbar = Crossbar(*weight.shape, wires=wires).double()
    with torch.no_grad():
        crossbar.weight.copy_(torch.as_tensor(weight))
    return crossbar


def test_twin_passes_gradcheck() -> None:
    weight = (
        np.random.default_rng(4).choice([-1.0, 1.0], (4, 3)) * pairs(4, 3)[0]
    )  # no weight near 0, where the pair bends
    crossbar = crossbar_of(weight, Wires(2000.0, 3000.0))
    voltage = torch.randn(5, 4, dtype=torch.float64, requires_grad=True, generator=torch.Generator().manual_seed(1))

    def currents(micro: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        matrix = torch.func.functional_call(crossbar, {"weight": micro * 1e-6}, (rows,))
        return matrix * 1e6

    micro = torch.as_tensor(weight * 1e6).requires_grad_()
    assert torch.autograd.gradcheck(currents, (micro, voltage), eps=1e-5, atol=1e-7, rtol=1e-5)


def test_twin_gives_the_currents_of_the_circuit() -> None:
    weight = np.random.default_rng(4).uniform(-9e-5, 9e-5, (4, 3))
    wires, drive = Wires(20.0, 30.0), np.array([0.1, -0.2, 0.05, 0.3])
    crossbar = crossbar_of(weight, wires)
    expected = kirchhoff(*crossbar.pair(), wires, drive)[1]
    np.testing.assert_allclose(crossbar(torch.as_tensor(drive)).detach().numpy(), expected, rtol=1e-9)
    with torch.no_grad():
        crossbar.weight.data[0, 0] = 5e-6  # behind the back of autograd: must be noticed all the same
    expected = kirchhoff(*crossbar.pair(), wires, drive)[1]
    np.testing.assert_allclose(crossbar(torch.as_tensor(drive)).detach().numpy(), expected, rtol=1e-9)


def test_weight_at_zero_has_the_gradient_of_both_sides_in_the_mean() -> None:
    wires = Wires(1e-9, 1e-9)
    crossbar = crossbar_of(np.zeros((3, 2)), wires)
    crossbar(torch.ones(3, dtype=torch.float64)).sum().backward()
    assert crossbar.weight.grad is not None
    np.testing.assert_allclose(crossbar.weight.grad.numpy(), 1.0, rtol=1e-9)  # as of an ideal crossbar


def test_factorisation_is_kept_while_weights_stay() -> None:
    crossbar = crossbar_of(pairs(3, 2)[0], Wires(1.0, 1.0))
    solver = crossbar.solve(Wires(1.0, 1.0))[0]
    assert crossbar.solve(Wires(1.0, 1.0))[0] is solver
    assert crossbar.solve(Wires(1.0, 2.0))[0] is not solver
    assert "wires=(1.0, 1.0) Ohm" in repr(crossbar)
    rows = torch.ones(3)
    np.testing.assert_allclose(crossbar.float()(rows).detach(), crossbar.double()(rows.double()).detach(), rtol=1e-6)


# The netlist in simulators


def netlist_run(network: Network, drive: Array, size: int) -> tuple[Array, Array, Array, float]:
    """Return voltages on rows and columns, column currents, and the drivers' power, as ngspice finds them."""
    projection = network.projections[0]
    assert network.wires is not None
    text = section_text(Section("conductances.inc", "tiles", *wired_tiles(network, network.wires, size)))
    shape = projection.g_plus.shape
    if size == TILE:
        again = read_conductances(text, {projection.name: shape}, "text")[projection.name]
        np.testing.assert_array_equal(again, (projection.g_plus, projection.g_minus))
    sources, grounds = [], [f"v_col{j} x1_col{j} 0 0" for j in range(shape[1])]
    for i, value in enumerate(drive.tolist()):
        sources += [f"v_x0_row{i}_p x0_row{i}_p 0 {value!r}", f"v_x0_row{i}_n x0_row{i}_n 0 {-value!r}"]
    names = crossing_nodes(projection, size)
    branches = [line.split()[0] for line in (*grounds, *sources)]
    deck = Deck(
        "crossbar",
        {"conductances.inc": text, "drive.inc": "\n".join(["* drive", *sources, *grounds]) + "\n"},
        Transient(1e-6, 1e-6),
        tuple(node for table in names for line in table for node in line),
        tuple(branches),
    )
    recording = NgspiceEngine().run(deck)
    volts = [np.array([[recording[node].values[-1] for node in line] for line in table]) for table in names]
    currents = [recording[f"i({branch})"].values[-1] for branch in branches]
    lines = np.stack([drive, -drive], 1).ravel()
    return volts[0], volts[1], np.array(currents[: shape[1]]), float(-(lines * currents[shape[1] :]).sum())


@pytest.mark.parametrize(("rows", "columns", "size"), [(1, 1, 64), (1, 4, 2), (5, 1, 2), (4, 6, 64), (7, 5, 3)])
def test_netlist_has_the_voltages_currents_and_power_of_the_solver(rows: int, columns: int, size: int) -> None:
    g, wires = pairs(rows, columns, seed=rows), Wires(1.5, 2.5)
    populations = (population_of("x1", columns, "mif", {}, 0.0),)
    network = Network("tiny", rows, populations, (Projection("x0", "x1", *g),), ConductanceRange(), wires=wires)
    drive = np.random.default_rng(6).normal(size=rows)
    on_rows, on_columns, currents, power = netlist_run(network, drive, size)
    crossbar = WiredCrossbar(*g, wires)
    expected = crossbar.voltages(drive)
    np.testing.assert_allclose(on_rows, expected[0], rtol=1e-9)
    np.testing.assert_allclose(on_columns, expected[1], rtol=1e-9, atol=1e-15)
    expected = drive @ crossbar.weight()
    np.testing.assert_allclose(currents, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
    assert drive @ crossbar.load() @ drive == pytest.approx(power, rel=1e-9)


ENCODER = AlphaEncoder(v_peak=0.2, rise=5e-6, onsets=(0.0, 10e-6), duration=20e-6)


def images() -> Images:
    train = Split(np.zeros((2, 2, 3), dtype=np.uint8), np.array([0, 1], dtype=np.uint8))
    pixels = np.array([[[10, 0, 3], [4, 8, 1]], [[0, 9, 2], [10, 10, 0]]], dtype=np.uint8)
    return Images("fake", train, Split(pixels, np.array([1, 0], dtype=np.uint8)), 10)


def chain(wires: Wires | None) -> Network:
    """Return a 6-3-2 network whose hidden membranes reach 0.1 V, so that its hidden rows matter."""
    twin = Twin((6, 3, 2), ENCODER, seed=3, wires=wires)
    network = twin.to_network("tiny")
    g = [pairs(*projection.g_plus.shape, seed=k) for k, projection in enumerate(network.projections)]
    return network.with_conductances({"x0_x1": g[0], "x1_x2": g[1]})


def runs(network: Network, engine: Any) -> dict[Any, ImageResult]:
    found: dict[Any, ImageResult] = {}
    for form in forms_of(network):
        results = simulate_images(network, ENCODER, images(), [1], engine, SpiceSettings(form, workers=1))
        assert not results.failed
        found[form] = results.done[1]
    return found


def resistor() -> SubCircuit:
    """Return a neuron that is a resistor of 2 kOhm: it has no dynamics, and the membranes are known in closed form."""
    cell = SubCircuit("resistor", "mem", "e1", "e2", "ref")
    cell.R("mem", "mem", "ref", 2000.0)
    cell.R("bleed", "e2", "ref", 50e3)
    return cell


@pytest.mark.parametrize("form", ["naive", "reduced"])
@pytest.mark.parametrize("name", ["ngspice", "vacask"])
def test_membranes_and_energy_of_linear_neurons(name: str, form: Form) -> None:
    if name == "vacask" and find_vacask() is None:
        pytest.skip("VACASK is not installed")
    wires, g, following = Wires(50.0, 80.0), pairs(4, 3), pairs(3, 2, seed=1)
    rest = np.array([0.01, -0.02, 0.0])
    cell = as_cell(resistor(), "neuron", "mif")
    populations = population_of("x1", 3, cell, {}, tuple(rest)), population_of("x2", 2, cell, {}, 0.0)
    projections = Projection("x0", "x1", *g), Projection("x1", "x2", *following)
    network = Network("linear", 4, populations, projections, ConductanceRange(), wires=wires)
    amplitude = np.array([0.1, 0.04, 0.07, 0.02])
    circuit = elaborate(network, form, Stimulus(amplitude, AlphaWave(10e-6, (0.0,), 40e-6)))
    recording = make_engine(name).run(make_deck(circuit, 1e-6, 40e-6))
    wave = recording["x0_wave" if form == "reduced" else "x0_row0_p"].values / (1 if form == "reduced" else 0.1)
    _, currents, power = kirchhoff(*g, wires, amplitude)
    hidden = np.outer(wave, 2000.0 * currents)
    second = [kirchhoff(*following, wires, row - rest) for row in hidden]
    found = [np.stack([recording[node].values for node in nodes], 1) for nodes in circuit.membranes().values()]
    np.testing.assert_allclose(found[0], hidden, rtol=1e-6, atol=1e-11)
    np.testing.assert_allclose(found[1], [2000.0 * currents for _, currents, _ in second], rtol=1e-6, atol=1e-11)
    time = recording["time"].values
    drawn = sum(
        meter.sign * recording[meter.node].values * recording[f"i({meter.branch})"].values
        for meter in circuit.meters
        if meter.group == "crossbars"
    )
    drawn = drawn + sum(demand.power(found[0]) for demand in circuit.loads)
    expected = wave**2 * power + np.array([watt for _, _, watt in second])
    np.testing.assert_allclose(np.trapezoid(drawn, time), np.trapezoid(expected, time), rtol=1e-6)


def test_forms_have_equal_membranes_and_energies() -> None:
    """With a tolerance at which both forms take the same Newton steps they agree to the last digits."""
    engine = NgspiceEngine()
    network, pixels = chain(Wires(500.0, 800.0)), torch.from_numpy(images().pixels("test"))[1]
    found = []
    for form in forms_of(network):
        circuit = elaborate(network, form, ENCODER.stimulus(pixels))
        recording = engine.run(make_deck(circuit, 0.25e-6, ENCODER.duration, options={"reltol": 1e-6}))
        time, energy = recording["time"].values, {"crossbars": 0.0, "neurons": 0.0}
        for meter in circuit.meters:
            power = meter.sign * recording[meter.node].values * recording[f"i({meter.branch})"].values
            energy[meter.group] += float(np.trapezoid(power, time))
        for demand in circuit.loads:
            hidden = np.stack([recording[f"x1_col{j}_mem"].values for j in range(3)], axis=1)
            energy["crossbars"] += float(np.trapezoid(demand.power(hidden), time))
        nodes = [node for names in circuit.membranes().values() for node in names]
        found.append((time, np.stack([recording[node].values for node in nodes]), energy))
    (time, full, spent), (again, reduced, less) = found
    np.testing.assert_allclose(time, again, rtol=1e-9)
    np.testing.assert_allclose(full, reduced, rtol=0, atol=1e-12)
    assert spent == pytest.approx(less, rel=1e-10)


def test_wires_are_felt_by_membranes_and_energies() -> None:
    found, ideal = runs(chain(Wires(500.0, 800.0)), NgspiceEngine()), runs(chain(None), NgspiceEngine())
    assert np.abs(found["naive"].membranes - found["reduced"].membranes).max() < 10e-6  # at the default tolerance
    assert found["naive"].energy_crossbars == pytest.approx(found["reduced"].energy_crossbars, rel=1e-5)
    assert np.abs(ideal["reduced"].membranes - found["reduced"].membranes).max() > 1e-3
    assert abs(ideal["reduced"].energy_crossbars / found["reduced"].energy_crossbars - 1) > 0.01


def test_energy_of_hidden_rows_is_counted() -> None:
    circuit = elaborate(
        chain(Wires(500.0, 800.0)), "reduced", Stimulus(np.full(6, 0.2), AlphaWave(5e-6, (0.0,), 20e-6))
    )
    (demand,) = circuit.loads
    membranes = np.random.default_rng(0).normal(size=(4, 3))
    rest, g = np.array(demand.rest), pairs(3, 2, seed=1)
    expected = [kirchhoff(*g, Wires(500.0, 800.0), row - rest)[2] for row in membranes]
    np.testing.assert_allclose(demand.power(membranes), expected, rtol=1e-9)
    assert elaborate(chain(Wires(1.0, 1.0)), "naive", Stimulus(np.zeros(6), AlphaWave(5e-6, (0.0,), 20e-6))).loads == ()


@pytest.mark.slow  # every segment of 2,368 pairs in a simulator
@pytest.mark.parametrize("name", ["ngspice", "vacask"])
def test_digits_network_with_wires(name: str) -> None:
    if name == "vacask" and find_vacask() is None:
        pytest.skip("VACASK is not installed")
    network, encoder, manifest = load_bundle(DIGITS)
    wired, data, engine = replace(network, wires=Wires(2.0, 2.0)), load("digits"), make_engine(name)
    found: dict[str, ImageResult] = {}
    for form in ("naive", "reduced"):
        results = simulate_images(wired, encoder, data, [5], engine, SpiceSettings(form, workers=1, dt=manifest.dt))  # pyright: ignore
        assert not results.failed
        found[form] = results.done[5]
    assert np.abs(found["naive"].membranes - found["reduced"].membranes).max() < 10e-6
    assert found["naive"].energy_crossbars == pytest.approx(found["reduced"].energy_crossbars, rel=1e-4)
    pixels = torch.from_numpy(data.pixels("test", np.array([5])))
    ideal = simulate_images(network, encoder, data, [5], engine, SpiceSettings(workers=1, dt=manifest.dt)).done[5]
    deviations = []
    for net, result in ((network, ideal), (wired, found["reduced"])):
        traces = torch.cat(list(from_network(net, encoder, manifest.dt).traces(pixels).values()), dim=2)[:, 0]
        deviations.append(float(np.sqrt(((traces.double().numpy() - result.membranes) ** 2).mean())))
    assert deviations[1] < max(1.5 * deviations[0], 0.1e-3)
    assert np.abs(ideal.membranes - found["reduced"].membranes).max() > 1e-3


# Twin, training, bundles, settings


def test_twin_and_network_keep_the_wires() -> None:
    wires = Wires(2.0, 3.0)
    network = Twin((6, 3, 2), ENCODER, wires=wires).to_network("tiny")
    assert network.wires == wires
    again = from_network(network, ENCODER, 0.25e-6)
    assert again.wires == wires
    assert [crossbar.wires for crossbar in again.crossbars] == [wires, wires]
    assert again.to_network("tiny").wires == wires


def test_training_with_wires_learns() -> None:
    data = load("digits")
    twin = Twin((64, 12, 10), wires=Wires(30.0, 30.0), dt=1e-6)
    config = BPTTConfig(epochs=1, batch=64, rate_input=1e-6, dt=2e-6, temperature=10e-3, shift=0, validation=138)
    history = fit(twin, data, config)
    assert history.validation[-1] > 0.5
    assert all(np.isfinite(part).all() for crossbar in twin.crossbars for part in crossbar.pair())


def test_checkpoint_of_other_wires_is_refused(tmp_path: Path) -> None:
    data = images()
    config = BPTTConfig(epochs=1, batch=2, shift=0, validation=0)
    fit(Twin((6, 3, 2), ENCODER, wires=Wires(2.0, 3.0)), data, config, checkpoint=tmp_path / "training.safetensors")
    with pytest.raises(CheckpointError, match="wires"):
        fit(Twin((6, 3, 2), ENCODER), data, config, checkpoint=tmp_path / "training.safetensors")


def export(folder: Path, network: Network) -> None:
    origin = provenance(Twin((6, 3, 2), ENCODER), images(), NgspiceEngine(), {"agreement": 1.0}, 3)
    export_bundle(folder, network, ENCODER, images(), list(runs(network, NgspiceEngine()).items()), origin)


def test_bundle_with_wires_replays_in_both_forms_and_loads(tmp_path: Path) -> None:
    network, folder = chain(Wires(5.0, 8.0)), tmp_path / "tiny"
    export(folder, network)
    again = load_bundle(folder)[0]
    assert again.wires == network.wires
    for before, after in zip(network.projections, again.projections, strict=True):
        np.testing.assert_array_equal(before.g_plus, after.g_plus)
        np.testing.assert_array_equal(before.g_minus, after.g_minus)
    assert "5.0 Ohm per segment of a row line, 8.0 Ohm" in (folder / "README.md").read_text()

    def columns(path: Path, title: str) -> dict[str, Array]:
        plot = read_raw(path, title)[0]
        return {name: np.ascontiguousarray(plot.values[:, k].real) for k, name in enumerate(plot.variables)}

    verdicts = replay(folder, NgspiceEngine().batch, columns)
    assert {verdict.testbench for verdict in verdicts} == {"testbench_reduced_1.cir", "testbench_naive_1.cir"}
    assert all(verdict.passed for verdict in verdicts)


def test_bundle_without_wires_does_not_speak_of_them(tmp_path: Path) -> None:
    export(tmp_path / "tiny", chain(None))
    assert "wires" not in json.loads((tmp_path / "tiny" / "manifest.json").read_text())
    assert "Wires" not in (tmp_path / "tiny" / "README.md").read_text()
    assert load_bundle(tmp_path / "tiny")[0].wires is None


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        ({"row": -1.0, "column": 2.0}, InputError, "row = -1.0 Ohm per segment"),
        ({"row": 1.0}, BundleError, "wires.column"),
        ({"row": 1.0, "column": "thick"}, BundleError, "wires.column"),
    ],
)
def test_damaged_wires_of_a_bundle_are_told(
    record: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    export(tmp_path / "tiny", chain(Wires(1.0, 1.0)))
    path = tmp_path / "tiny" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"wires": record}))
    with pytest.raises(error, match=message):
        load_bundle(tmp_path / "tiny")


def test_settings_carry_wires_and_old_ones_load(tmp_path: Path) -> None:
    wired = replace(PRESETS["digits"], wires=Wires(1.0, 2.5))
    save_settings(tmp_path, wired)
    assert load_settings(tmp_path) == wired
    path = tmp_path / "settings.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "wires": {"row": 1.0, "column": -2.0}}))
    with pytest.raises(CheckpointError, match="column = -2.0 Ohm"):
        load_settings(tmp_path)
    del content["wires"]
    path.write_text(json.dumps(content))
    assert load_settings(tmp_path) == PRESETS["digits"]


def test_command_line_takes_one_resistance_or_two() -> None:
    assert parse_wires("2.5") == Wires(2.5, 2.5)
    assert parse_wires("1,2.5") == Wires(1.0, 2.5)


# Nonsense


@pytest.mark.parametrize("text", ["", "2 Ohm", "1,2,3", "2k", "1;2"])
def test_resistance_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"needs Ohm per segment as one number, or two"):
        parse_wires(text)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 1e7, "2", True, None])
@pytest.mark.parametrize("make", [lambda v: Wires(v, 1.0), lambda v: Wires(1.0, v)])
def test_resistance_that_makes_no_sense_is_refused(value: Any, make: Callable[[Any], Wires]) -> None:
    with pytest.raises(InputError, match=r"Wires: (row|column) = .* Ohm per segment; needs a number above 0, at most"):
        make(value)


@pytest.mark.parametrize("value", [-1e-6, math.nan, math.inf])
def test_conductance_that_makes_no_sense_is_refused(value: float) -> None:
    plus, minus = pairs(3, 2)
    minus[2, 1] = value
    with pytest.raises(InputError, match=r"row 2 -, column 1: conductance .* must be finite and not negative"):
        WiredCrossbar(plus, minus, Wires(1.0, 1.0))


def test_pairs_of_unequal_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"g_plus \(3, 2\) and g_minus \(2, 3\) must be equal"):
        WiredCrossbar(np.ones((3, 2)), np.ones((2, 3)), Wires(1.0, 1.0))


def test_pair_of_a_user_has_no_wires() -> None:
    pair = SubCircuit("two_resistors", "rp", "rn", "col", gp=1e-6, gm=1e-6)
    pair.R("p", "rp", "col", "{1/gp}")
    pair.R("m", "rn", "col", "{1/gm}")
    with pytest.raises(InputError, match="wires run through the shipped rram_pair only"):
        replace(chain(None), synapse=pair, wires=Wires(1.0, 1.0))
