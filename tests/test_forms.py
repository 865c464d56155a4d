"""Forms of the crossbars: equal membranes and energies in every engine, and what a reader of the full form finds wrong."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PySpice.Spice.Netlist import SubCircuit

from memprop.circuit.cell import as_cell
from memprop.circuit.elaborate import FORMS, Form, elaborate, forms_of
from memprop.circuit.network import Network
from memprop.circuit.stimulus import Stimulus
from memprop.data.sets import load
from memprop.deck.conductances import read_conductances
from memprop.deck.ngspice import make_deck, section_text
from memprop.deck.vacask import vacask_deck
from memprop.errors import BundleError, InputError
from memprop.export.bundle import Provenance, StoredImage, load_bundle, write_bundle
from memprop.export.manifest import read_manifest
from memprop.flow.simulate import SpiceSettings, simulate_images
from memprop.spice.engine import make_engine
from memprop.spice.recording import Recording

BUNDLE = Path(__file__).parents[1] / "netlists" / "digits_mif"
IMAGE = 25
EQUAL = 10e-6
"""Largest difference of a membrane between forms, in V, that the project promises."""


@functools.lru_cache(maxsize=1)
def digits() -> Network:
    return load_bundle(BUNDLE)[0]


@functools.lru_cache(maxsize=1)
def stimulus() -> Stimulus:
    pixels = torch.from_numpy(load("digits").pixels("test", slice(IMAGE, IMAGE + 1)))
    return load_bundle(BUNDLE)[1].stimulus(pixels[0])


@functools.lru_cache(maxsize=6)
def recorded(engine: str, form: Form) -> Recording:
    circuit = elaborate(digits(), form, stimulus())
    return make_engine(engine).run(make_deck(circuit, 0.25e-6, stimulus().wave.duration))


def own_synapse() -> Network:
    synapse = SubCircuit("leaky_pair", "rp", "rn", "col", gp=1e-6, gm=1e-6)
    synapse.R("plus", "rp", "col", "{1/gp}")
    synapse.R("minus", "rn", "col", "{1/gm}")
    synapse.R("leak", "rp", "rn", 1e9)
    return replace(digits(), synapse=as_cell(synapse, "synapse", "rram_pair"))


@pytest.mark.parametrize("engine", ["ngspice", "vacask"])
@pytest.mark.parametrize("form", ["full", "reduced"])
def test_membranes_of_the_trained_digits_equal_the_naive_ones(engine: str, form: Form) -> None:
    one, naive = recorded(engine, form), recorded(engine, "naive")
    np.testing.assert_allclose(one["time"].values, naive["time"].values, rtol=0, atol=1e-12)
    names = [node for nodes in elaborate(digits(), form, stimulus()).membranes().values() for node in nodes]
    assert len(names) == 42
    assert max(float(np.ptp(naive[name].values)) for name in names) > 1.0
    worst = max(float(np.abs(one[name].values - naive[name].values).max()) for name in names)
    assert worst < EQUAL


@pytest.mark.parametrize("engine", ["ngspice", "vacask"])
def test_energies_of_all_forms_are_equal(engine: str) -> None:
    _, encoder, _ = load_bundle(BUNDLE)
    found = {}
    for form in FORMS:
        settings = SpiceSettings(form, workers=1)
        results = simulate_images(digits(), encoder, load("digits"), [IMAGE], make_engine(engine), settings)
        found[form] = results.done[IMAGE]
    assert found["naive"].energy_crossbars > 1e-9
    for form in ("full", "reduced"):
        assert found[form].energy_crossbars == pytest.approx(found["naive"].energy_crossbars, rel=1e-6)
        assert found[form].energy_neurons == pytest.approx(found["naive"].energy_neurons, rel=1e-6)


def test_energy_of_the_input_rows_is_the_sum_over_their_cells() -> None:
    """Ohm's law on every cell, with the waveform that ngspice gave: no meter, no load."""
    full, first = recorded("ngspice", "full"), digits().projections[0]
    wave, time = full["x0_wave"].values, full["time"].values
    power = np.zeros_like(wave)
    for i, amplitude in enumerate(stimulus().amplitude):
        for cells in (first.g_plus, first.g_minus):
            power += cells[i].sum() * (amplitude * wave) ** 2
    drawn = -wave * full["i(b_x0_wave)"].values
    assert np.trapezoid(drawn, time) == pytest.approx(np.trapezoid(power, time), rel=1e-9)


def test_every_pair_is_one_element_with_both_conductances_and_they_read_back() -> None:
    (section,) = (s for s in elaborate(digits(), "full", stimulus()).sections if s.file == "conductances.inc")
    text = section_text(section)
    pairs = re.findall(r"^gr\d+_c\d+ 0 col\d+ rp\d+ 0 \{[\de.-]+\}$", text, flags=re.MULTILINE)
    assert len(pairs) == digits().cells // 2
    shapes = {p.name: (p.g_plus.shape[0], p.g_plus.shape[1]) for p in digits().projections}
    found = read_conductances(text, shapes, "conductances.inc")
    for projection in digits().projections:
        assert found[projection.name][0].tobytes() == projection.g_plus.tobytes()
        assert found[projection.name][1].tobytes() == projection.g_minus.tobytes()


def test_change_of_one_cell_in_the_text_reaches_its_column_alone() -> None:
    """What a designer does: ten microsiemens more in one cell, in the file; Ohm's law tells the current of its column."""
    deck = make_deck(elaborate(digits(), "full", stimulus()), 0.25e-6, 20e-6)
    row = int(stimulus().amplitude.argmax())
    old = re.search(rf"^gr{row}_c3 0 col3 rp{row} 0 \{{(\S+)\}}$", deck.files["conductances.inc"], flags=re.MULTILINE)
    assert old is not None
    text = deck.files["conductances.inc"].replace(old[0], old[0].replace(old[1], f"{old[1]}+1e-5"), 1)
    branches = tuple(f"v.x_x1_col{j}_mirror.vsense" for j in (2, 3))
    decks = [replace(deck, files={**deck.files, "conductances.inc": t}, branches=branches, nodes=("x0_wave",))
             for t in (deck.files["conductances.inc"], text)]  # fmt: skip
    before, after = (make_engine("ngspice").run(d) for d in decks)
    late = 5e-6
    change = [np.interp(late, r["time"].values, r["i(v.x_x1_col3_mirror.vsense)"].values) for r in (before, after)]
    still = [np.interp(late, r["time"].values, r["i(v.x_x1_col2_mirror.vsense)"].values) for r in (before, after)]
    wave = np.interp(late, before["time"].values, before["x0_wave"].values)
    assert abs(change[1] - change[0]) == pytest.approx(1e-5 * stimulus().amplitude[row] * wave, rel=1e-3)
    assert abs(still[1] - still[0]) < 1e-10


def test_sections_of_images_differ_in_values_only() -> None:
    dark = replace(stimulus(), amplitude=np.zeros_like(stimulus().amplitude))
    files: dict[Form, str] = {"full": "image_full.inc", "naive": "image_naive.inc"}
    for form, file in files.items():
        one, other = (
            [section_text(s) for s in elaborate(digits(), form, s_).sections if s.file == file]
            for s_ in (stimulus(), dark)
        )
        names = [[line.split()[:3] for line in text[0].splitlines()] for text in (one, other)]
        assert names[0] == names[1]


def test_vacask_gets_the_difference_as_the_same_number_that_python_computes() -> None:
    deck = make_deck(elaborate(digits(), "full", stimulus()), 0.25e-6, 20e-6)
    text = vacask_deck(deck, {model.module: "x.osdi" for model in deck.verilog}).text
    gains = re.findall(r"^gr5_c7 \(0 col7 rp5 0\) z_g gain=(\S+)$", text, flags=re.MULTILINE)
    both = [float(p.g_plus[5, 7] - p.g_minus[5, 7]) for p in digits().projections]
    assert sorted(map(float, gains)) == sorted(both)


# What goes wrong


@pytest.mark.parametrize("form", ["full", "reduced"])
def test_own_synapse_is_refused_by_forms_that_replace_pairs_and_taken_by_the_naive_one(form: Form) -> None:
    network = own_synapse()
    message = (
        rf"the {form} form replaces ideal pairs, and synapse 'leaky_pair' is not the shipped one\. Use the naive form"
    )
    with pytest.raises(InputError, match=message):
        elaborate(network, form, stimulus())
    assert forms_of(network) == ("naive",)
    assert forms_of(digits()) == ("full", "reduced")
    assert elaborate(network, "naive", stimulus()).form == "naive"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("gr0_c0 0 col0 rp0 0 1e-6", r"line 2: .*does not end in both conductances of the pair\. Write \{gp-gm\} in S"),
        ("gr0_c0 0 col0 rp0 0 {1e-6}", r"line 2: .*does not end in both conductances"),
        ("gr0_c0 0 col0 rp0 0 {2e-6-1e-6} m=2", r"line 2: .*does not end in both conductances"),
        ("gr0_c0 0 col0 rp0 0 {2e-6+1e-6}", r"line 2: gm: |line 2: .*does not end in both conductances"),
        ("gr0_c0 0 col0 rp0 0 {2u-1e-6}", r"line 2: gp: '2u' is no plain number\. Write an exponent"),
        ("gr0_c0 0 col0 rp0 0 {2e-6-nan}", r"line 2: gm: 'nan' is no plain finite number"),
        ("gr1_c0 0 col0 rp0 0 {2e-6-1e-6}", r"line 2: pair at row 1, column 0 is outside of \(1, 1\)"),
        ("* gr0_c0 0 col0 rp0 0 {2e-6-1e-6}", r"1 pairs of x0_x1 are missing, first row 0, column 0"),
    ],
)
def test_fault_in_a_full_tile_is_named_with_its_place(line: str, message: str) -> None:
    text = f".subckt tile_x0_x1_r0_c0 rp0 col0\n{line}\n.ends\n"
    with pytest.raises(InputError, match=message):
        read_conductances(text, {"x0_x1": (1, 1)}, "conductances.inc")


@pytest.mark.parametrize("value", ["{2e-06-1e-06}", "{2E-6 - 1E-6}", "{ 2e-6-1e-6 }", "{0.000002-.000001}"])
def test_spellings_that_a_designer_uses_are_read(value: str) -> None:
    text = f".subckt tile_x0_x1_r0_c0 rp0 col0\nGR0_C0 0 col0 rp0 0 {value}\n.ends\n"
    plus, minus = read_conductances(text, {"x0_x1": (1, 1)}, "conductances.inc")["x0_x1"]
    assert (plus[0, 0], minus[0, 0]) == (2e-6, 1e-6)


def stored(network: Network, form: Form) -> StoredImage:
    time = np.linspace(0.0, stimulus().wave.duration, 5)
    nodes = elaborate(network, "naive", stimulus()).membranes()[network.output.name]
    rails = {name: np.zeros(5) for name in ("v_e1", "v_e2")}
    return StoredImage(IMAGE, 0, stimulus(), form, time, {node: np.full(5, 18e-3) for node in nodes}, rails)


def test_bundle_of_an_own_synapse_holds_the_naive_form_and_reads_back(tmp_path: Path) -> None:
    network, (_, encoder, _) = own_synapse(), load_bundle(BUNDLE)
    origin = Provenance("digits", 0, 1e-6, 0.25e-6, 10, {"memprop": "0"}, {})
    with pytest.raises(
        InputError, match=r"image 25 was simulated in the full form; the bundle of \w+ holds naive\. Sim"
    ):
        write_bundle(tmp_path / "own", network, encoder, [stored(network, "full")], origin)
    write_bundle(tmp_path / "own", network, encoder, [stored(network, "naive")], origin)
    assert read_manifest(tmp_path / "own").testbenches[0].form == "naive"
    assert not (tmp_path / "own" / "reduced.inc").exists()
    assert "*naive*: every pair is an instance" in (tmp_path / "own" / "README.md").read_text()
    again = load_bundle(tmp_path / "own")[0]
    assert again.pair.name == "leaky_pair"
    for one, other in zip(again.projections, network.projections, strict=True):
        assert one.g_plus.tobytes() == other.g_plus.tobytes()
    (tmp_path / "own" / "conductances.inc").write_text("* nothing\n")
    with pytest.raises(BundleError, match=r"conductances\.inc differs"):
        load_bundle(tmp_path / "own")
