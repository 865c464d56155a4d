"""Elaborated networks in ngspice against Ohm's law and Kirchhoff's, and every refusal of a network that makes no sense.

A neuron cell that is a plain resistor makes the whole network linear: then the membranes, and the energies, are known in
closed form. It is also a user's own PySpice subcircuit, which is accepted wherever a shipped cell is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike
from PySpice.Spice.Netlist import SubCircuit

from memprop.circuit.cell import Cell, TextSubCircuit, as_cell, load_cell
from memprop.circuit.elaborate import FORMS, Elaborated, Form, elaborate
from memprop.circuit.network import Network, Population, Projection, population_of
from memprop.circuit.section import TILE
from memprop.circuit.stimulus import AlphaWave, Stimulus
from memprop.conductance.pair import Array, ConductanceRange
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images, Split
from memprop.deck.conductances import read_conductances
from memprop.deck.deck import Deck, Transient
from memprop.deck.ngspice import make_deck, section_text
from memprop.errors import InputError
from memprop.flow.simulate import SpiceSettings, simulate_images
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.recording import Recording

RISE, DURATION, STEP = 10e-6, 40e-6, 0.25e-6
R = 2000.0
"""Resistance of the linear neuron in Ohm."""
BLEED = 50e3
"""Resistance between rail e2 and ground in each linear neuron, in Ohm."""
E2 = 0.05
AMPLITUDE = np.array([0.1, 0.04, 0.07])
G_PLUS = np.array([[1e-6, 20e-6, 3e-6], [50e-6, 1e-6, 7.5e-6], [2e-6, 100e-6, 1e-6]])
G_MINUS = np.array([[9e-6, 1e-6, 4e-6], [1e-6, 33e-6, 1e-6], [60e-6, 1e-6, 12e-6]])
NEXT = np.array([[4e-6, 1e-6], [1e-6, 30e-6], [10e-6, 2e-6]]), np.array([[1e-6, 70e-6], [6e-6, 1e-6], [1e-6, 2e-6]])


@pytest.fixture(scope="module")
def engine() -> NgspiceEngine:
    return NgspiceEngine()


def resistor(name: str = "resistor", **parameters: float) -> SubCircuit:
    """Return a neuron that is a resistor from mem to ref, and a bleeder on rail e2."""
    cell = SubCircuit(name, "mem", "e1", "e2", "ref", **parameters)
    cell.R("mem", "mem", "ref", "{ron}" if "ron" in parameters else R)
    cell.R("bleed", "e2", "ref", BLEED)
    return cell


def linear(size: int, name: str = "x1", rest: float | tuple[float, ...] = 0.0) -> Population:
    return population_of(name, size, as_cell(resistor(), "neuron", "mif"), {}, rest)


def network_of(populations: tuple[Population, ...], projections: tuple[Projection, ...], inputs: int = 3) -> Network:
    return Network("tiny", inputs, populations, projections, ConductanceRange())


def one_crossbar() -> Network:
    return network_of((linear(3),), (Projection("x0", "x1", G_PLUS, G_MINUS),))


def stimulus(amplitude: Array = AMPLITUDE, onsets: tuple[float, ...] = (0.0,)) -> Stimulus:
    return Stimulus(amplitude, AlphaWave(RISE, onsets, DURATION))


def simulate(engine: NgspiceEngine, network: Network, form: Form, drive: Stimulus | None = None) -> Recording:
    drive = drive or stimulus()
    return engine.run(make_deck(elaborate(network, form, drive), STEP, drive.wave.duration))


def membranes(recording: Recording, population: str, size: int) -> Array:
    """Return the membranes of a population in V, ``[points, neurons]``."""
    return np.stack([recording[f"{population}_col{j}_mem"].values for j in range(size)], axis=1)


def wave(time: Array, onsets: tuple[float, ...] = (0.0,)) -> Array:
    """Return the sum of alpha pulses, written anew."""
    total = np.zeros_like(time)
    for onset in onsets:
        late = time > onset
        total[late] += (time[late] - onset) / RISE * np.exp(1 - (time[late] - onset) / RISE)
    return total


def summed(g_plus: Array, g_minus: Array, rows: Array) -> Array:
    """Return the column currents in A, by a loop over cells: Ohm's and Kirchhoff's laws."""
    current = np.zeros(g_plus.shape[1])
    for i in range(g_plus.shape[0]):
        for j in range(g_plus.shape[1]):
            current[j] += g_plus[i, j] * rows[i] + g_minus[i, j] * -rows[i]
    return current


# Physics, in ngspice


@pytest.mark.parametrize("form", FORMS)
def test_membrane_of_a_resistor_is_resistance_times_summed_cell_currents(engine: NgspiceEngine, form: Form) -> None:
    drive = stimulus(onsets=(0.0, 15e-6))
    recording = simulate(engine, one_crossbar(), form, drive)
    expected = np.outer(wave(recording["time"].values, (0.0, 15e-6)), R * summed(G_PLUS, G_MINUS, AMPLITUDE))
    assert np.abs(expected).max() > 10e-3
    np.testing.assert_allclose(membranes(recording, "x1", 3), expected, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_second_crossbar_sees_membranes_relative_to_rest(engine: NgspiceEngine, form: Form) -> None:
    rest = (0.01, -0.02, 0.0)
    network = network_of(
        (linear(3, rest=rest), linear(2, "x2")),
        (Projection("x0", "x1", G_PLUS, G_MINUS), Projection("x1", "x2", *NEXT)),
    )
    recording = simulate(engine, network, form)
    first = np.outer(wave(recording["time"].values), R * summed(G_PLUS, G_MINUS, AMPLITUDE))
    second = np.stack([R * summed(*NEXT, row - np.array(rest)) for row in first])
    np.testing.assert_allclose(membranes(recording, "x2", 2), second, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_recurrent_projection_solves_its_loop(engine: NgspiceEngine, form: Form) -> None:
    lateral = np.array([[1e-6, 5e-6, 1e-6], [40e-6, 1e-6, 2e-6], [1e-6, 1e-6, 90e-6]]), np.full((3, 3), 10e-6)
    network = network_of((linear(3),), (Projection("x0", "x1", G_PLUS, G_MINUS), Projection("x1", "x1", *lateral)))
    recording = simulate(engine, network, form)
    drive = R * summed(G_PLUS, G_MINUS, AMPLITUDE)
    loop = np.linalg.solve(np.eye(3) - R * (lateral[0] - lateral[1]).T, drive)
    assert np.abs(loop - drive).max() > 1e-3
    expected = np.outer(wave(recording["time"].values), loop)
    np.testing.assert_allclose(membranes(recording, "x1", 3), expected, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize(("rows", "columns"), [(70, 3), (3, 70)])
def test_crossbar_larger_than_a_tile_loses_no_pair(engine: NgspiceEngine, rows: int, columns: int) -> None:
    g = np.random.default_rng(1).uniform(1e-6, 1e-4, (2, rows, columns))
    network = network_of((linear(columns),), (Projection("x0", "x1", g[0], g[1]),), inputs=rows)
    amplitude = np.random.default_rng(2).uniform(0.0, 0.1, rows)
    circuit = elaborate(network, "full", stimulus(amplitude))
    (section,) = (s for s in circuit.sections if s.file == "conductances.inc")
    sizes = {tile.name: len(list(tile.elements)) for tile in section.subcircuits}
    split = "r1_c0" if rows > columns else "r0_c1"
    assert sizes == {"tile_x0_x1_r0_c0": TILE * 3, f"tile_x0_x1_{split}": (70 - TILE) * 3}
    recording = engine.run(make_deck(circuit, STEP, DURATION, energy=False))
    expected = np.outer(wave(recording["time"].values), R * summed(g[0], g[1], amplitude))
    np.testing.assert_allclose(membranes(recording, "x1", columns), expected, rtol=1e-6, atol=1e-11)


def test_all_forms_have_equal_membranes_with_spiking_neurons(engine: NgspiceEngine) -> None:
    cell = load_cell("mif")
    network = network_of(
        (population_of("x1", 3, cell, {}, 18.31e-3), population_of("x2", 2, cell, {"c": [1e-10, 2e-10]}, 18.31e-3)),
        (Projection("x0", "x1", G_PLUS, G_MINUS), Projection("x1", "x2", *NEXT)),
    )
    full, reduced, naive = (simulate(engine, network, form, stimulus(AMPLITUDE * 2)) for form in FORMS)
    for other in (full, reduced):
        np.testing.assert_allclose(other["time"].values, naive["time"].values, rtol=0, atol=1e-15)
        for population, size in (("x1", 3), ("x2", 2)):
            a, b = membranes(other, population, size), membranes(naive, population, size)
            assert np.ptp(a, axis=0).max() > 20e-3
            assert np.abs(a - b).max() < 1e-9


@pytest.mark.parametrize("form", FORMS)
def test_parameters_of_each_neuron_reach_its_instance(engine: NgspiceEngine, form: Form) -> None:
    ohms = np.array([500.0, 1000.0, 4000.0])
    cell = as_cell(resistor(ron=1000.0), "neuron", "mif")
    network = network_of(
        (population_of("x1", 3, cell, {"ron": ohms}, 0.0),), (Projection("x0", "x1", G_PLUS, G_MINUS),)
    )
    recording = simulate(engine, network, form)
    expected = np.outer(wave(recording["time"].values), ohms * summed(G_PLUS, G_MINUS, AMPLITUDE))
    np.testing.assert_allclose(membranes(recording, "x1", 3), expected, rtol=1e-6, atol=1e-11)


@pytest.mark.parametrize("asked", [None, 1000.0, 3000.0])
def test_own_defaults_of_a_users_cell_hold_and_can_be_changed(engine: NgspiceEngine, asked: float | None) -> None:
    cell = as_cell(resistor(ron=3000.0), "neuron", "mif")
    changes = {} if asked is None else {"ron": asked}
    population = population_of("x1", 3, cell, changes, 0.0)
    network = network_of((population,), (Projection("x0", "x1", G_PLUS, G_MINUS),))
    recording = simulate(engine, network, "reduced")
    ohm = 3000.0 if asked is None else asked
    expected = np.outer(wave(recording["time"].values), ohm * summed(G_PLUS, G_MINUS, AMPLITUDE))
    np.testing.assert_allclose(membranes(recording, "x1", 3), expected, rtol=1e-6, atol=1e-11)
    assert population.parameters["ron"] == ohm


def test_own_synapse_of_a_user_is_accepted(engine: NgspiceEngine) -> None:
    synapse = SubCircuit("Divided_Pair", "rp", "rn", "col", gp=1e-6, gm=1e-6)
    synapse.R("plus1", "rp", "half", "{0.25/gp}")
    synapse.R("plus2", "half", "col", "{0.75/gp}")
    synapse.R("minus", "rn", "col", "{1/gm}")
    network = replace(one_crossbar(), synapse=as_cell(synapse, "synapse", "rram_pair"))
    recording = simulate(engine, network, "naive")
    expected = np.outer(wave(recording["time"].values), R * summed(G_PLUS, G_MINUS, AMPLITUDE))
    np.testing.assert_allclose(membranes(recording, "x1", 3), expected, rtol=1e-6, atol=1e-11)


def test_whole_circuit_as_one_pyspice_object_gives_the_same_membranes(engine: NgspiceEngine) -> None:
    circuit = elaborate(one_crossbar(), "full", stimulus())
    parts = engine.run(make_deck(circuit, STEP, DURATION, energy=False))
    lines = [line for line in str(circuit.circuit()).splitlines() if not line.lower().startswith(".title")]
    nodes = tuple(circuit.membranes()["x1"])
    deck = Deck("whole", {"whole.inc": "\n".join(["* whole", *lines, ""])}, Transient(DURATION, STEP), nodes)
    whole = engine.run(deck)
    ends = [membranes(recording, "x1", 3)[-1] for recording in (parts, whole)]
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-9)


# Energy, in ngspice


def _pulse_integrals() -> tuple[float, float]:
    """Return the integrals of k and of k^2 in s, of one alpha pulse from 0 to the end, by parts."""
    last = DURATION / RISE
    return (
        RISE * math.e * (1 - (1 + last) * math.exp(-last)),
        RISE * math.e**2 * (0.25 - math.exp(-2 * last) * (last**2 / 2 + last / 2 + 0.25)),
    )


@pytest.mark.parametrize("form", FORMS)
def test_energies_of_a_linear_network_equal_their_closed_form(engine: NgspiceEngine, form: Form) -> None:
    rest = np.array([0.01, -0.02, 0.005])
    network = network_of(
        (linear(3, rest=tuple(rest)), linear(2, "x2")),
        (Projection("x0", "x1", G_PLUS, G_MINUS), Projection("x1", "x2", *NEXT)),
    )
    encoder = AlphaEncoder(v_peak=0.1, rise=RISE, onsets=(0.0,), duration=DURATION)
    pixels = np.array([[[10, 4, 7]]], dtype=np.uint8)
    split = Split(pixels, np.array([1], dtype=np.uint8))
    settings = SpiceSettings(form, max_step=STEP / 2, dt=0.5e-6, workers=1)
    results = simulate_images(network, encoder, Images("fake", split, split, 10), [0], engine, settings)
    assert not results.failed
    k, k2 = _pulse_integrals()
    row = np.array([0.1, 0.04, 0.07])
    current = summed(G_PLUS, G_MINUS, row)  # times k(t)
    first = R * current
    squares = first**2 * k2 - 2 * first * rest * k + rest**2 * DURATION  # integral of the squared row voltages of x1
    crossbars = float(row**2 @ (G_PLUS + G_MINUS).sum(1)) * k2 + float(squares @ (NEXT[0] + NEXT[1]).sum(1))
    weight = NEXT[0] - NEXT[1]
    slope, level = first @ weight, -rest @ weight  # current of the second columns: slope k(t) + level
    second = slope**2 * k2 + 2 * slope * level * k + level**2 * DURATION
    neurons = R * float((current**2).sum() * k2 + second.sum()) + 5 * E2**2 / BLEED * DURATION
    assert results.done[0].energy_crossbars == pytest.approx(crossbars, rel=2e-4)
    assert results.done[0].energy_neurons == pytest.approx(neurons, rel=2e-4)


# Names and bytes


def _mixed() -> Network:
    return network_of(
        (population_of("x1", 3, load_cell("mif"), {}, 0.0183), linear(2, "x2")),
        (Projection("x0", "x1", G_PLUS, G_MINUS), Projection("x1", "x2", *NEXT), Projection("x1", "x1", G_PLUS, G_MINUS)),
    )  # fmt: skip


def _texts(circuit: Elaborated) -> dict[str, str]:
    return {section.file: section_text(section) for section in circuit.sections}


@pytest.mark.parametrize("form", FORMS)
def test_node_names_are_lower_case_letters_digits_and_underscores(form: Form) -> None:
    circuit = elaborate(_mixed(), form, stimulus())
    nodes = {
        str(node)
        for section in circuit.sections
        for netlist in (section.top, *section.subcircuits)
        for element in netlist.elements
        for node in element.node_names
    }
    assert {"x1_col0_mem", "x1_row2_n", "x1_rest1", "x0_wave", "e1", "e2"} <= nodes
    assert [node for node in nodes if not re.fullmatch(r"0|[a-z][a-z0-9_]*", node)] == []


@pytest.mark.parametrize("form", FORMS)
def test_every_population_projection_and_row_is_in_the_text(form: Form) -> None:
    files = _texts(elaborate(_mixed(), form, stimulus()))
    assert files["populations.inc"].count("column_mirror\n") == 6  # five instances and the end of the subcircuit
    assert files["populations.inc"].count(" row_driver\n") == 4  # x1 drives rows, x2 does not
    crossbars = files["reduced.inc" if form == "reduced" else "conductances.inc"]
    assert "x1_x2" in crossbars
    assert "x1_x1" in crossbars


@pytest.mark.parametrize("form", FORMS)
def test_same_network_gives_the_same_bytes(form: Form) -> None:
    first, second = (make_deck(elaborate(_mixed(), form, stimulus()), STEP, DURATION) for _ in range(2))
    assert first.files == second.files
    assert first.digest == second.digest


def test_forms_share_all_but_crossbars_and_image() -> None:
    full, reduced, naive = (_texts(elaborate(_mixed(), form, stimulus())) for form in FORMS)
    shared = {"cells.inc", "populations.inc", "wave.inc"}
    for one, other in ((full, reduced), (naive, reduced), (full, naive)):
        assert {name for name in one if one.get(name) == other.get(name)} == shared
    assert set(full) - shared == {"conductances.inc", "loads.inc", "image_full.inc"}
    assert set(reduced) - shared == {"reduced.inc", "image_reduced.inc"}
    assert set(naive) - shared == {"conductances.inc", "image_naive.inc"}


def test_conductances_are_the_only_thing_an_image_does_not_change() -> None:
    one, other = (_texts(elaborate(_mixed(), "full", stimulus(a))) for a in (AMPLITUDE, AMPLITUDE[::-1].copy()))
    assert [name for name in one if one[name] != other[name]] == ["image_full.inc"]


def test_dark_image_has_no_load_and_leaves_the_membranes_at_zero(engine: NgspiceEngine) -> None:
    for form in FORMS:
        recording = simulate(engine, one_crossbar(), form, stimulus(np.zeros(3)))
        assert np.abs(membranes(recording, "x1", 3)).max() < 1e-12


def test_cells_counts_two_per_pair() -> None:
    assert _mixed().cells == 2 * (9 + 6 + 9)


def test_network_knows_its_output_and_its_populations_by_name() -> None:
    network = _mixed()
    assert network.output is network.population("x2")


def test_with_conductances_changes_only_what_is_named() -> None:
    changed = _mixed().with_conductances({"x1_x2": (NEXT[1], NEXT[0])})
    assert np.array_equal(changed.projections[1].g_plus, NEXT[1])
    assert changed.projections[0] is not None
    assert np.array_equal(changed.projections[0].g_plus, G_PLUS)


# What is refused


@pytest.mark.parametrize("name", ["X1", "1x", "a-b", "", "x.1", "x[1]", "x 1", "x" * 64, "ö"])
def test_name_that_no_dialect_takes_is_refused(name: str) -> None:
    message = rf"name '{re.escape(name)}' is no netlist name: use a lower-case letter, then letters, digits or _"
    with pytest.raises(InputError, match=message):
        Network(name, 3, (linear(3),), (), ConductanceRange())
    with pytest.raises(InputError, match=message):
        network_of((replace(linear(3), name=name),), ())


PAIR = (G_PLUS, G_MINUS)


@pytest.mark.parametrize(
    ("projections", "message"),
    [
        ((Projection("x0", "x7", *PAIR),), r"tiny, projection x0_x7: unknown end\. Populations are x0, x1; x0 has no columns"),
        ((Projection("x9", "x1", *PAIR),), r"tiny, projection x9_x1: unknown end"),
        ((Projection("x1", "x0", *PAIR),), r"projection x1_x0: unknown end.*x0 has no columns"),
        ((Projection("x0", "x1", G_PLUS[:2], G_MINUS[:2]),), r"x0_x1: shape \(2, 3\) is not \(3, 3\) \[row, column\]"),
        ((Projection("x0", "x1", G_PLUS.ravel(), G_MINUS.ravel()),), r"shape \(9,\) is not \(3, 3\)"),
        ((Projection("x0", "x1", *PAIR),) * 2, r"x0_x1: .*or it is there twice"),
        ((Projection("x0", "x1", G_PLUS, G_MINUS[:2]),), r"tiny/x0_x1: g_plus \(3, 3\) and g_minus \(2, 3\) must be equal"),
    ],
)  # fmt: skip
def test_projection_that_does_not_fit_is_refused(projections: tuple[Projection, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network_of((linear(3),), projections)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, -1e-6, 0.99e-6, 100.1e-6])
def test_cell_outside_the_window_is_named_with_its_value(value: float) -> None:
    wrong = G_MINUS.copy()
    wrong[2, 1] = value
    message = rf"tiny/x0_x1/row2/col1: g_minus = {re.escape(repr(value))} S is outside \[1e-06, 0.0001\] S \(1 such cells\)\. Clip"
    with pytest.raises(InputError, match=message):
        network_of((linear(3),), (Projection("x0", "x1", G_PLUS, wrong),))


@pytest.mark.parametrize(
    ("populations", "message"),
    [
        ((linear(3), linear(2)), "population 'x1' is there twice"),
        ((linear(3, "x0"),), "population 'x0' is there twice"),
        ((replace(linear(3), rest=(0.0,)),), "population 'x1' .*not one finite rest voltage"),
    ],
)
def test_population_twice_or_without_rest_is_refused(populations: tuple[Population, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        network_of(populations, ())


def test_network_without_a_population_or_without_rows_is_refused() -> None:
    with pytest.raises(InputError, match="tiny"):
        network_of((), ())
    with pytest.raises(InputError, match="tiny"):
        network_of((linear(3),), (), inputs=0)


def test_rails_that_disagree_are_refused() -> None:
    base = load_cell("mif")
    higher = base.card.supplies["e2"].model_copy(update={"voltage": 0.06})
    card = base.card.model_copy(update={"supplies": {**base.card.supplies, "e2": higher}})
    network = network_of(
        (linear(3), population_of("x2", 2, Cell(card, base.subcircuit), {}, 0.0)),
        (Projection("x0", "x1", *PAIR), Projection("x1", "x2", *NEXT)),
    )
    with pytest.raises(
        InputError, match=r"populations of tiny ask for different voltages of rail e2\. Use one voltage"
    ):
        elaborate(network, "reduced", stimulus())


def test_two_cells_of_one_name_and_different_content_are_refused() -> None:
    two = network_of(
        (
            population_of("x1", 3, load_cell("mif"), {}, 0.0),
            population_of("x2", 2, as_cell(resistor("mif"), "neuron", "mif"), {}, 0.0),
        ),
        (Projection("x0", "x1", *PAIR), Projection("x1", "x2", *NEXT)),
    )
    with pytest.raises(InputError, match="'mif'"):
        elaborate(two, "reduced", stimulus())


@pytest.mark.parametrize("name", ["column_mirror", "row_driver", "input_driver", "rram_pair", "mss_memristor_ohmic"])
def test_cell_named_like_another_subcircuit_of_the_deck_is_refused(name: str) -> None:
    population = population_of("x1", 3, as_cell(resistor(name), "neuron", "mif"), {}, 0.0)
    network = network_of((population,), (Projection("x0", "x1", *PAIR),))
    with pytest.raises(InputError, match=f"'{name}'"):
        make_deck(elaborate(network, "full", stimulus()), STEP, DURATION)


def test_unknown_form_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"netlist form 'half' is unknown\. Known: full, reduced"):
        elaborate(one_crossbar(), "half", stimulus())  # pyright: ignore[reportArgumentType]


def test_stimulus_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match=r"stimulus has 4 rows; network tiny has 3"):
        elaborate(one_crossbar(), "full", stimulus(np.ones(4)))


@pytest.mark.parametrize("amplitude", [np.array([0.1, np.nan]), np.array([np.inf]), np.ones((2, 2))])
def test_stimulus_that_is_no_finite_vector_is_refused(amplitude: Array) -> None:
    message = rf"amplitudes have shape {re.escape(str(amplitude.shape))}, finite values in V of shape \[rows\]"
    with pytest.raises(InputError, match=message):
        stimulus(amplitude)


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    network = _mixed()
    with pytest.raises(InputError, match=r"network tiny has no population 'y'\. Known: x1, x2"):
        network.population("y")
    with pytest.raises(InputError, match=r"network tiny has no projection x5_x6"):
        network.with_conductances({"x5_x6": PAIR})
    with pytest.raises(InputError, match=r"network tiny is no feed-forward chain"):
        network.check_chain()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"speed": 1.0}, r"mif has no parameter 'speed'\. Known: c, ron"),
        ({"c": -1e-10}, r"mif\.c = -1e-10 F is not finite, above 0\.0"),
        ({"vt": [0.015, 0.0, 0.015]}, r"mif\.vt = 0\.0 V is not finite, above 0\.0 V"),
        ({"tau": [1e-4, 1e-4]}, r"parameter mif\.tau has shape \(2,\); 3 cells need one value or \[3\]"),
        ({"von": [np.nan, 0.1, 0.1]}, r"mif\.von = nan V is not finite"),
    ],
)
def test_neuron_parameter_that_makes_no_sense_is_refused(changes: Mapping[str, ArrayLike], message: str) -> None:
    with pytest.raises(InputError, match=message):
        population_of("x1", 3, load_cell("mif"), changes, 0.0)


@pytest.mark.parametrize(
    ("cell", "kind", "like", "message"),
    [
        (SubCircuit("bad", "mem", "e2", "e1", "ref"), "neuron", "mif",
         r"cell 'bad' has ports mem e2 e1 ref .*a neuron needs mem e1 e2 ref, in this order\. Rename or reorder"),
        (SubCircuit("bad", "rp", "rn", "col"), "synapse", "rram_pair", r"subcircuit 'bad' lacks parameter gm, gp of its card"),
        (SubCircuit("bad", "rp", "rn", "col", gp=1e-6), "synapse", "rram_pair", r"'bad' lacks parameter gm of its card"),
        ("rram_pair", "neuron", "mif", r"cell 'rram_pair' is a synapse, where a neuron is needed"),
        ("mif", "synapse", "rram_pair", r"cell 'mif' is a neuron, where a synapse is needed"),
        ("lif", "neuron", "mif", r"card .*lif/cell\.toml is not there"),
    ],
)  # fmt: skip
def test_cell_that_does_not_fit_is_refused(cell: Any, kind: Any, like: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_cell(cell, kind, like)


def test_shipped_cell_is_accepted_by_name_and_as_object() -> None:
    assert as_cell("mif", "neuron", "mif").text == load_cell("mif").text


def test_cell_file_must_hold_one_complete_subcircuit(tmp_path: Path) -> None:
    block = ".subckt a x y\nr1 x y 1\n.ends\n"
    assert str(TextSubCircuit(block, "a.cir")) == block
    for text in ("", block * 2, ".subckt a x y\nr1 x y 1\n"):
        with pytest.raises(
            InputError, match=r"a\.cir holds \d complete \.subckt blocks; a cell file needs exactly one"
        ):
            TextSubCircuit(text, "a.cir")


def test_card_without_a_subcircuit_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    card = (Path(__file__).parents[1] / "circuits" / "mif" / "cell.toml").read_text()
    (tmp_path / "mine" / "cell.toml").write_text(card)
    with pytest.raises(InputError, match=r"cell 'mine' has no file .*cell\.cir\. Put the subcircuit there"):
        load_cell("mine", tmp_path)


def test_card_with_a_parameter_that_the_subcircuit_lacks_is_refused(tmp_path: Path) -> None:
    home = Path(__file__).parents[1] / "circuits" / "mif"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "cell.toml").write_text((home / "cell.toml").read_text())
    (tmp_path / "mine" / "cell.cir").write_text((home / "cell.cir").read_text().replace(" c=1e-10", ""))
    with pytest.raises(InputError, match=r"subcircuit 'mif' lacks parameter c of its card\. Add it"):
        load_cell("mine", tmp_path)


@pytest.mark.parametrize("form", ["full", "naive"])
def test_tiles_can_be_read_back_from_the_elaborated_text(form: Form) -> None:
    text = _texts(elaborate(_mixed(), form, stimulus()))["conductances.inc"]
    pairs = read_conductances(text, {"x0_x1": (3, 3), "x1_x2": (3, 2), "x1_x1": (3, 3)}, "conductances.inc")
    assert np.array_equal(pairs["x1_x2"][0], NEXT[0])
    assert np.array_equal(pairs["x1_x1"][1], G_MINUS)
