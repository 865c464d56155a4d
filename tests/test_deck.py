"""Decks: numbers and conductances survive the way into text and back to the last bit; what cannot is refused."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memprop.circuit.cell import load_cell
from memprop.circuit.elaborate import Form, elaborate
from memprop.circuit.network import Network, Projection, population_of
from memprop.circuit.stimulus import AlphaWave, Stimulus
from memprop.conductance.pair import Array, ConductanceRange
from memprop.deck.conductances import read_conductances
from memprop.deck.deck import Deck, Transient
from memprop.deck.ngspice import main_text, make_deck, section_text
from memprop.deck.numbers import from_text, to_text
from memprop.errors import InputError

WINDOW = ConductanceRange(1e-6, 1e-4)
FILE = "conductances.inc"


# Numbers


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_finite_number_reads_back_to_the_same_bits(value: float) -> None:
    again = from_text(to_text(value))
    assert again == value
    assert math.copysign(1.0, again) == math.copysign(1.0, value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_written_numbers_have_no_letter_but_the_exponent(value: float) -> None:
    assert re.fullmatch(r"-?\d+(\.\d+)?(e[+-]?\d+)?", to_text(value))


def test_numpy_numbers_are_written_as_plain_ones() -> None:
    assert to_text(np.float64(1e-6)) == "1e-06"
    assert to_text(np.float32(0.5)) == "0.5"
    assert to_text(3) == "3.0"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_number_that_is_not_finite_is_not_written(value: float) -> None:
    with pytest.raises(InputError, match=rf"{value!r} cannot stand in a deck: it is not finite\. Correct the value"):
        to_text(value)


@pytest.mark.parametrize("text", ["1u", "1M", "1meg", "1k", "3mV", "1e-6S", "", "abc", "1,5", "0x10", "{gp}", "1e"])
def test_suffix_or_unit_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(InputError, match=rf"'{re.escape(text)}' is no plain number\. Write an exponent \(1e-6\)"):
        from_text(text)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "infinity", "1_000", "1e999"])
def test_text_that_python_takes_and_spice_does_not_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=rf"'{text}' is no plain finite number\. Write e\.g\. 1e-6"):
        from_text(text)


# Conductances: written, then read


def written(*pairs: tuple[Array, Array], window: ConductanceRange = WINDOW, form: Form = "naive") -> str:
    """Return the text of the tiles of a chain with these crossbars, as an export writes it."""
    cell = load_cell("mif")
    populations = tuple(population_of(f"x{k}", p.shape[1], cell, {}, 0.0183) for k, (p, _) in enumerate(pairs, 1))
    projections = tuple(Projection(f"x{k}", f"x{k + 1}", *pair) for k, pair in enumerate(pairs))
    rows = pairs[0][0].shape[0]
    network = Network("net", rows, populations, projections, window)
    stimulus = Stimulus(np.zeros(rows), AlphaWave(1e-5, (0.0,), 1e-4))
    (section,) = (s for s in elaborate(network, form, stimulus).sections if s.file == FILE)
    return section_text(section)


def in_window(rows: int, columns: int) -> st.SearchStrategy[Array]:
    edges = st.sampled_from([WINDOW.g_min, WINDOW.g_max, np.nextafter(WINDOW.g_min, 1), np.nextafter(WINDOW.g_max, 0)])
    inside = st.floats(WINDOW.g_min, WINDOW.g_max, allow_nan=False)
    return hnp.arrays(np.float64, (rows, columns), elements=st.one_of(edges, inside))


@st.composite
def crossbars(draw: st.DrawFn) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    rows, middle, columns = (draw(st.integers(1, 5)) for _ in range(3))
    first = draw(in_window(rows, middle)), draw(in_window(rows, middle))
    return first, (draw(in_window(middle, columns)), draw(in_window(middle, columns)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(crossbars(), st.sampled_from(["full", "naive"]))
def test_conductances_read_back_bit_for_bit(pairs: tuple[tuple[Array, Array], tuple[Array, Array]], form: Form) -> None:
    shapes = {f"x{k}_x{k + 1}": pair[0].shape for k, pair in enumerate(pairs)}
    found = read_conductances(written(*pairs, form=form), shapes, FILE)
    assert list(found) == ["x0_x1", "x1_x2"]
    for name, pair in zip(found, pairs, strict=True):
        assert [g.tobytes() for g in found[name]] == [g.tobytes() for g in pair]


@pytest.mark.parametrize("form", ["full", "naive"])
def test_conductances_of_six_tiles_read_back_bit_for_bit(form: Form) -> None:
    g = np.random.default_rng(0).uniform(WINDOW.g_min, WINDOW.g_max, (2, 130, 70))
    text = written((g[0], g[1]), form=form)
    assert text.count(".subckt tile_x0_x1_") == 6
    plus, minus = read_conductances(text, {"x0_x1": (130, 70)}, FILE)["x0_x1"]
    assert plus.tobytes() == g[0].tobytes()
    assert minus.tobytes() == g[1].tobytes()


def test_each_written_pair_stands_on_a_line_of_its_own_with_both_conductances() -> None:
    text = written((np.array([[2e-6, 3e-6]]), np.array([[4e-6, 5e-6]])))
    lines = [line.split() for line in text.splitlines() if line.startswith("xr")]
    assert [line[:5] for line in lines] == [
        ["xr0_c0", "rp0", "rn0", "col0", "rram_pair"],
        ["xr0_c1", "rp0", "rn0", "col1", "rram_pair"],
    ]
    assert [set(line[5:]) for line in lines] == [{"gp=2e-06", "gm=4e-06"}, {"gp=3e-06", "gm=5e-06"}]


# Conductances: what a reader finds wrong in an edited file


def small() -> str:
    return written((np.full((2, 2), 2e-6), np.full((2, 2), 3e-6)))


def edit(pattern: str, replacement: str) -> str:
    text, count = re.subn(pattern, replacement, small(), count=1, flags=re.MULTILINE)
    assert count == 1
    return text


def line_of(text: str, start: str) -> int:
    return 1 + next(k for k, line in enumerate(text.splitlines()) if line.startswith(start))


SHAPES = {"x0_x1": (2, 2)}


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"^xr1_c0 .*\n", "", r"conductances\.inc: 1 pairs of x0_x1 are missing, first row 1, column 0\. Export again"),
        (r"^xr1_c0 ", "* xr1_c0 ", r"1 pairs of x0_x1 are missing, first row 1, column 0"),
        (r"^(xr0_c1 .*)\n", r"\1\n\1\n", r"line \d+: pair at row 0, column 1 is outside of \(2, 2\) or there twice"),
        (r"^xr1_c1 ", "xr1_c2 ", r"line \d+: pair at row 1, column 2 is outside of \(2, 2\)"),
        (r"^xr1_c1 ", "xr7_c1 ", r"line \d+: pair at row 7, column 1 is outside of \(2, 2\)"),
        (r"tile_x0_x1_r0_c0 rp0", "tile_x4_x5_r0_c0 rp0", r"line \d+: tile of an unknown projection 'x4_x5'\. Known: x0_x1"),
        (r"gp=2e-06", "gp=1u", r"line \d+: gp: '1u' is no plain number\. Write an exponent \(1e-6\) instead of a suffix"),
        (r"gm=3e-06", "gm=nan", r"line \d+: gm: 'nan' is no plain finite number"),
        (r" gm=3e-06", "", r"line \d+: pair has no gm=\. Write its conductance in S"),
        (r" gp=2e-06", "", r"line \d+: pair has no gp=\. Write its conductance in S"),
    ],
)  # fmt: skip
def test_fault_in_the_file_is_named_with_its_place(pattern: str, replacement: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_conductances(edit(pattern, replacement), SHAPES, FILE)


def test_message_names_file_and_line_of_a_bad_value() -> None:
    text = edit(r"^(xr1_c0 .*)gp=2e-06", r"\1gp=2uS")
    with pytest.raises(InputError, match=rf"^{re.escape(FILE)}, line {line_of(text, 'xr1_c0')}: gp: '2uS'"):
        read_conductances(text, SHAPES, FILE)


def test_pair_whose_second_tile_is_gone_is_missing() -> None:
    g = np.full((65, 1), 2e-6)
    text = re.sub(r"\.subckt tile_x0_x1_r1_c0.*?\.ends[^\n]*\n", "", written((g, g)), flags=re.DOTALL)
    with pytest.raises(InputError, match=r"1 pairs of x0_x1 are missing, first row 64, column 0"):
        read_conductances(text, {"x0_x1": (65, 1)}, FILE)


def test_hand_edits_that_change_no_value_are_read() -> None:
    text = small().upper().replace("\n", "\n\n").replace(" GM=", "   GM=")
    plus, minus = read_conductances(text.replace("GP=", "gp=").replace("GM=", "gm="), SHAPES, FILE)["x0_x1"]
    assert (plus == 2e-6).all()
    assert (minus == 3e-6).all()


def test_names_of_parameters_in_upper_case_are_read_as_ngspice_reads_them() -> None:
    plus, minus = read_conductances(small().replace("gp=", "GP=").replace("gm=", "GM="), SHAPES, FILE)["x0_x1"]
    assert (plus == 2e-6).all()
    assert (minus == 3e-6).all()


# Decks


def deck() -> Deck:
    return Deck(
        "title", {"a.inc": "r1 a 0 1\n", "b.inc": "v1 a 0 1\n"}, Transient(1e-3, 1e-6), ("a",), ("v1",), {"reltol": 1e-4}
    )  # fmt: skip


CHANGES: dict[str, Callable[[Deck], Deck]] = {
    "text of a file": lambda d: replace(d, files={**d.files, "a.inc": "r1 a 0 2\n"}),
    "name of a file": lambda d: replace(d, files={"c.inc": d.files["a.inc"], "b.inc": d.files["b.inc"]}),
    "order of files": lambda d: replace(d, files=dict(reversed(d.files.items()))),
    "a file more": lambda d: replace(d, files={**d.files, "c.inc": ""}),
    "stop": lambda d: replace(d, analysis=Transient(2e-3, 1e-6)),
    "step": lambda d: replace(d, analysis=Transient(1e-3, 2e-6)),
    "nodes": lambda d: replace(d, nodes=("a", "b")),
    "branches": lambda d: replace(d, branches=()),
    "value of an option": lambda d: replace(d, options={"reltol": 1e-3}),
    "an option more": lambda d: replace(d, options={**d.options, "method": "gear"}),
}


@pytest.mark.parametrize("what", CHANGES)
def test_digest_changes_with_each_ingredient(what: str) -> None:
    assert CHANGES[what](deck()).digest != deck().digest


def test_digest_of_equal_decks_is_equal_and_the_title_does_not_matter() -> None:
    assert deck().digest == deck().digest
    assert replace(deck(), title="other").digest == deck().digest
    assert re.fullmatch(r"[0-9a-f]{64}", deck().digest)


def test_digests_of_all_changes_differ_from_each_other() -> None:
    assert len({change(deck()).digest for change in CHANGES.values()}) == len(CHANGES)


@pytest.mark.parametrize(
    ("stop", "step"),
    [(0.0, 1e-6), (-1e-3, 1e-6), (1e-3, 0.0), (1e-3, -1e-6), (1e-6, 1e-3), (math.inf, 1e-6), (math.nan, 1e-6), (1e-3, math.nan)],
)  # fmt: skip
def test_transient_that_makes_no_sense_is_refused(stop: float, step: float) -> None:
    message = (
        rf"transient: max_step = {re.escape(repr(step))} s, stop = {re.escape(repr(stop))} s: need 0 < max_step <= stop"
    )
    with pytest.raises(InputError, match=message):
        Transient(stop, step)


def test_main_file_includes_saves_and_simulates_in_this_order() -> None:
    assert main_text(deck()) == (
        "* title\n.include a.inc\n.include b.inc\n.options reltol=0.0001\n.save v(a) i(v1)\n"
        ".tran 1e-06 0.001 0 1e-06\n.end\n"
    )


def test_main_file_without_options_has_no_options_card() -> None:
    assert ".options" not in main_text(replace(deck(), options={}))


def test_many_saved_nodes_stand_on_several_short_lines() -> None:
    text = main_text(replace(deck(), nodes=tuple(f"x1_col{j}_mem" for j in range(1000)), branches=()))
    lines = [line for line in text.splitlines() if line.startswith(".save")]
    assert max(map(len, lines)) < 200
    assert sum(line.count("v(") for line in lines) == 1000


@pytest.mark.parametrize("energy", [True, False])
def test_deck_of_a_network_keeps_currents_only_for_the_energy(energy: bool) -> None:
    population = population_of("x1", 1, load_cell("mif"), {}, 0.0183)
    pair = np.full((1, 1), 2e-6), np.full((1, 1), 1e-6)
    network = Network("net", 1, (population,), (Projection("x0", "x1", *pair),), WINDOW)
    circuit = elaborate(network, "full", Stimulus(np.zeros(1), AlphaWave(1e-5, (0.0,), 1e-4)))
    made = make_deck(circuit, 1e-6, 1e-4, energy=energy, options={"reltol": 1e-6, "abstol": 1e-15})
    assert bool(made.branches) is energy
    assert made.nodes[0] == "x1_col0_mem"
    assert len(set(made.nodes)) == len(made.nodes)
    assert dict(made.options) == {"method": "trap", "reltol": 1e-6, "abstol": 1e-15}
    assert list(made.files) == [
        "models/mss_memristor.lib", "cells.inc", "populations.inc", "wave.inc", "conductances.inc", "loads.inc", "image_full.inc",
    ]  # fmt: skip
