"""Device and cell cards against the Verilog-A source and the published numbers; the equations against scipy."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PySpice.Spice.Netlist import SubCircuit
from scipy.integrate import solve_ivp
from scipy.special import expit

from memprop.circuit.cell import CellCard, as_cell, find_cell, load_cell, load_model
from memprop.device.card import DeviceCard, Parameter, read_card
from memprop.device.equations import parameter_symbol, probe
from memprop.device.library import DeviceModel, load_device
from memprop.device.torch_function import compile_torch
from memprop.errors import InputError
from memprop.files import shipped

torch.set_num_threads(1)

F64 = torch.float64
VA_PARAMETER = re.compile(
    r'\(\*\s*desc\s*=\s*"(?P<desc>[^"]*)",\s*units\s*=\s*"(?P<units>[^"]*)"\s*\*\)\s*'
    r"parameter\s+(?:real|integer)\s+(?P<name>\w+)\s*=\s*(?P<default>\S+)\s+from\s+"
    r"(?P<open>[\[(])(?P<low>[^:]+):(?P<high>[^\])]+)(?P<close>[\])]);"
)
STOCK = {"ron": 500.0, "roff": 1500.0, "von": 0.27, "voff": 0.27, "vt": 0.0257227, "tau": 1e-4}
"""The stock set of the facts, typed here once more."""

VERILOG = """
`include "disciplines.vams"
module d(p, n);
    inout p, n;
    electrical p, n;
    (* desc = "Resistance", units = "Ohm" *) parameter real ron = 500.0 from (0:inf);
    analog I(p, n) <+ V(p, n) / ron;
endmodule
"""
CARD = """
name = "d"
description = "a device"
sources = ["a paper"]

[presets.fast]
source = "a paper"
values = { ron = 100.0 }

[forms.plain]
description = "with the stock resistance"
fixed = { ron = 500.0 }
"""


class Switch:
    """The form of the device that the MIF neuron uses, compiled from its Verilog-A."""

    def __init__(self, parameters: Mapping[str, float] = STOCK, dtype: torch.dtype = F64) -> None:
        equations = load_device("mss_memristor").form_equations("mss_memristor_ohmic")
        assert set(equations.parameters) == set(parameters)
        state, port = equations.node_flows("x"), equations.node_flows("p")
        inputs = [probe("p", "n"), probe("x", "0"), *map(parameter_symbol, parameters)]
        outputs = [port.current, state.current, state.charge]
        self.function = compile_torch(inputs, outputs, equations.lets)
        self.values = [torch.tensor(value, dtype=dtype) for value in parameters.values()]
        self.dtype = dtype

    def __call__(self, volt: float, x: float) -> tuple[float, float]:
        """Return current in A and dx/dt in 1/s at a voltage in V and a state."""
        volts, state = (torch.tensor(value, dtype=self.dtype) for value in (volt, x))
        current, leaving, charge = self.function(volts, state, *self.values)
        capacity = self.function(volts, state + 1, *self.values)[2] - charge
        return float(current), float(-leaving / capacity)


def va_range(parameter: Parameter) -> str:
    """Return the range of a parameter as Verilog-A writes it."""
    low = f"({parameter.above:g}" if parameter.above is not None else "(-inf"
    low = f"[{parameter.at_least:g}" if parameter.at_least is not None else low
    high = f"{parameter.at_most:g}]" if parameter.at_most is not None else "inf)"
    return f"{low}:{high}"


def write(folder: Path, old: str, new: str) -> Path:
    assert old in CARD
    (folder / "d.va").write_text(VERILOG)
    path = folder / "d.toml"
    path.write_text(CARD.replace(old, new))
    return path


def device(folder: Path, old: str = "name", new: str = "name") -> DeviceModel:
    write(folder, old, new)
    return load_device("d", folder)


class TestMetastableSwitch:
    def test_parameters_are_those_of_the_verilog_a_text(self) -> None:
        """A regular expression reads the same file, so that both readings must be wrong alike to agree."""
        source = (shipped("models") / "mss_memristor.va").read_text()
        found = [
            (m["name"], float(m["default"]), f"{m['open']}{m['low']}:{m['high']}{m['close']}", m["units"], m["desc"])
            for m in VA_PARAMETER.finditer(source)
        ]
        parameters = load_device("mss_memristor").parameters
        assert found == [(n, p.default, va_range(p), p.unit, p.description) for n, p in parameters.items()]
        assert len(found) == len(re.findall(r"\bparameter\b", source)) == 16

    def test_spice_subcircuits_have_the_defaults_of_the_verilog_a(self) -> None:
        model = load_device("mss_memristor")
        text = model.library().replace("\n+", " ")
        heads = dict(re.findall(r"^\.subckt (\w+) p n params: (.+)$", text, flags=re.MULTILINE))
        found = {head: {k: float(v) for k, v in re.findall(r"(\w+)=(\S+)", line)} for head, line in heads.items()}
        defaults = {name: p.default for name, p in model.parameters.items()}
        switching = {"speed_off": defaults["speed_off"], "feedback": defaults["feedback"]}
        assert found["mss_memristor"] == defaults
        assert found["mss_memristor_ohmic"] == {name: defaults[name] for name in STOCK}
        assert found["mss_memristor_threshold"] == {name: defaults[name] for name in STOCK} | switching
        assert {f"mss_memristor_{name}" for name in model.card.presets} < set(found)

    def test_preset_mif_holds_the_published_numbers_in_si_units(self) -> None:
        values = load_device("mss_memristor").values("mif")
        published = {"ron": 1000.0, "roff": 100000.0, "von": 0.110, "voff": -0.005, "vt": 0.6 * 0.025, "tau": 100e-6}
        assert {name: values[name] for name in published} == pytest.approx(published, rel=1e-15)

    def test_preset_knowm_stock_has_the_thermal_voltage_of_298_5_kelvin(self) -> None:
        values = load_device("mss_memristor").values("knowm_stock")
        assert values["vt"] == pytest.approx(1.380649e-23 * 298.5 / 1.602176634e-19, rel=1e-5)
        assert (values["ron"], values["roff"], values["von"], values["voff"]) == (500.0, 1500.0, 0.27, 0.27)

    @pytest.mark.parametrize("path", sorted(shipped("models").glob("*.va")), ids=lambda path: path.stem)
    def test_every_preset_is_in_range_and_names_its_source(self, path: Path) -> None:
        model = load_device(path)
        for name, preset in model.card.presets.items():
            assert model.values(name).items() >= preset.values.items()
            assert len(preset.source) > 20

    def test_mif_cell_has_the_memristors_of_the_preset(self) -> None:
        cell = load_cell("mif").card.parameters
        preset = load_device("mss_memristor").card.presets["mif"].values
        assert {name: cell[name].default for name in preset} == preset

    def test_cell_of_the_threshold_neuron_has_the_switch_of_the_preset(self) -> None:
        cell = load_cell("threshold_neuron").card.parameters
        preset = dict(load_device("mss_memristor").card.presets["threshold_switch"].values)
        assert preset.pop("bipolar") == load_device("mss_memristor").forms["mss_memristor_threshold"].fixed["bipolar"]
        assert {name: cell[name].default for name in preset} == preset

    def test_changes_override_the_preset(self) -> None:
        values = load_device("mss_memristor").values("mif", ron=750.0)
        assert (values["ron"], values["roff"], values["phi"]) == (750.0, 100000.0, 1.0)

    def test_preset_takes_the_form_with_the_fewest_parameters_left(self) -> None:
        forms = load_device("mss_memristor").forms
        assert set(forms["mss_memristor_mif"].defaults) == set(STOCK)
        assert set(forms["mss_memristor_threshold_switch"].defaults) == {*STOCK, "speed_off", "feedback"}
        assert set(forms["mss_memristor_xyce_demo"].defaults) == set(load_device("mss_memristor").parameters)


class TestEquations:
    def test_current_and_rate_are_those_of_the_facts(self) -> None:
        """Pon = s((V - VON)/VT), Poff = 1 - s((V + VOFF)/VT), at random voltages, states and parameters."""
        random = np.random.default_rng(4)
        for _ in range(50):
            p = {name: value * random.uniform(0.5, 2.0) for name, value in STOCK.items()}
            volt, x = random.uniform(-1.0, 1.0), random.uniform(0.0, 1.0)
            on, off = expit((volt - p["von"]) / p["vt"]), expit(-(volt + p["voff"]) / p["vt"])
            current, rate = Switch(p)(volt, x)
            assert current == pytest.approx((x / p["ron"] + (1 - x) / p["roff"]) * volt, rel=1e-12)
            assert rate == pytest.approx(((1 - x) * on - x * off) / p["tau"], rel=1e-9)

    @pytest.mark.parametrize(("voltage", "expected"), [(0.20, 308.63), (0.27, 2500.0), (0.30, 3812.4), (0.50, 4999.3)])
    def test_rate_of_the_half_switched_stock_device(self, voltage: float, expected: float) -> None:
        assert Switch()(voltage, 0.5)[1] == pytest.approx(expected, rel=2e-5)

    @pytest.mark.parametrize("voltage", [0.20, 0.27, 0.30, 0.50])
    def test_rate_of_the_half_switched_stock_device_is_antisymmetric(self, voltage: float) -> None:
        forward, backward = (Switch()(sign * voltage, 0.5)[1] for sign in (1.0, -1.0))
        assert backward == pytest.approx(-forward, rel=1e-12)

    def test_stock_device_keeps_its_state_for_1_8_seconds_without_voltage(self) -> None:
        low, high = (Switch()(0.0, x)[1] for x in (0.0, 1.0))
        assert 1.0 / (low - high) == pytest.approx(1.8, rel=0.01)
        assert low / (low - high) == pytest.approx(0.5, abs=1e-12)

    @pytest.mark.parametrize("voltage", [-200.0, 200.0])
    def test_large_voltages_do_not_overflow(self, voltage: float) -> None:
        low, high = (Switch(dtype=torch.float32)(voltage, x)[1] for x in (0.0, 1.0))
        assert low - high == pytest.approx(1e4, rel=1e-6)
        assert low / (low - high) == (1.0 if voltage > 0 else 0.0)

    def test_conductance_is_that_of_the_two_resistors_and_linear_between(self) -> None:
        values = [Switch()(1.0, x)[0] for x in (0.0, 0.25, 1.0)]
        assert values == pytest.approx([1 / 1500, 0.75 / 1500 + 0.25 / 500, 1 / 500], rel=1e-15)

    def test_stock_device_under_a_sine_follows_the_check_points(self) -> None:
        switch, times = Switch(), (1e-3, 2.5e-3, 5e-3, 7.5e-3)

        def drive(t: float) -> float:
            return 0.5 * math.sin(2 * math.pi * 100.0 * t)

        answer = solve_ivp(
            lambda t, x: [switch(drive(t), x[0])[1]],
            (0.0, 7.5e-3), [0.0], method="LSODA", t_eval=times, rtol=1e-9, atol=1e-12, max_step=2e-5,
        )  # fmt: skip
        x = answer.y[0]
        current = [switch(drive(t), s)[0] for t, s in zip(times, x, strict=True)]
        assert x[0] == pytest.approx(0.702796, abs=1e-6)
        assert drive(1e-3) / current[0] == pytest.approx(623.55, abs=0.01)
        assert current[0] == pytest.approx(471.32e-6, abs=0.01e-6)
        assert current[1] == pytest.approx(1.0e-3, abs=0.05e-6)
        assert x[2] == pytest.approx(0.999977, abs=1e-6)
        assert current[3] == pytest.approx(-333.33e-6, abs=0.01e-6)


class TestBadCards:
    def test_good_card_is_read(self, tmp_path: Path) -> None:
        model = device(tmp_path)
        assert model.values("fast") == {"ron": 100.0}
        assert set(model.forms) == {"d", "d_plain", "d_fast"}
        assert model.card == read_card(tmp_path / "d.toml", DeviceCard)
        assert load_device(tmp_path / "d.va") is model

    def test_changed_file_is_read_again(self, tmp_path: Path) -> None:
        first = device(tmp_path)
        (tmp_path / "d.va").write_text(VERILOG.replace("500.0", "7000.0"))
        assert load_device("d", tmp_path).values() == {"ron": 7000.0}
        assert first.values() == {"ron": 500.0}

    def test_device_without_a_card_has_one_form(self, tmp_path: Path) -> None:
        write(tmp_path, "name", "name").unlink()
        model = load_device("d", tmp_path)
        assert list(model.forms) == ["d"]
        assert model.card_text == ""

    def test_unknown_key_names_file_and_field(self, tmp_path: Path) -> None:
        path = write(tmp_path, 'name = "d"', 'name = "d"\ncolour = "red"')
        with pytest.raises(
            InputError, match=r"d\.toml: field colour: Extra inputs are not permitted\. Correct the card\."
        ):
            read_card(path, DeviceCard)

    def test_unknown_key_of_a_preset_names_the_preset(self, tmp_path: Path) -> None:
        path = write(tmp_path, "[presets.fast]", '[presets.fast]\ncolour = "red"')
        with pytest.raises(InputError, match=r"field presets\.fast\.colour: Extra inputs"):
            read_card(path, DeviceCard)

    def test_missing_field_is_named(self, tmp_path: Path) -> None:
        path = write(tmp_path, 'name = "d"\n', "")
        with pytest.raises(InputError, match="field name: Field required"):
            read_card(path, DeviceCard)

    def test_text_for_a_number_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path, "ron = 100.0", 'ron = "much"')
        with pytest.raises(InputError, match=r"field presets\.fast\.values\.ron: Input should be a valid number"):
            read_card(path, DeviceCard)

    @pytest.mark.parametrize("value", ["-1.0", "0.0", "inf"])
    def test_default_of_a_cell_out_of_range_is_refused(self, tmp_path: Path, value: str) -> None:
        text = (shipped("circuits") / "mif" / "cell.toml").read_text()
        path = tmp_path / "cell.toml"
        path.write_text(text.replace("ron = { default = 1000.0", f"ron = {{ default = {value}"))
        with pytest.raises(
            InputError, match=rf"cell\.toml:ron = {re.escape(value)} Ohm is not finite, above 0\.0 Ohm\."
        ):
            read_card(path, CellCard)

    def test_card_of_another_device_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"card .*d\.toml is of 'e', the module is 'd'\. Make the names equal\."):
            device(tmp_path, 'name = "d"', 'name = "e"')

    def test_missing_file_lists_what_is_there(self, tmp_path: Path) -> None:
        device(tmp_path)
        with pytest.raises(InputError, match=r"device model .*nothing\.va is not there\. In that folder: d\."):
            load_device("nothing", tmp_path)

    def test_missing_card_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"card .*nothing\.toml is not there"):
            read_card(tmp_path / "nothing.toml", DeviceCard)

    @pytest.mark.parametrize("content", [b"name = \n", b"\xff\xfe\x00"])
    def test_bad_toml_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "d.toml"
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"d\.toml is no valid TOML: .* Correct the file\."):
            read_card(path, DeviceCard)

    def test_preset_out_of_range_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"d\.ron = -100\.0 Ohm is not finite, above 0\.0 Ohm"):
            device(tmp_path, "values = { ron = 100.0 }", "values = { ron = -100.0 }")

    def test_form_with_an_unknown_parameter_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"d has no parameter 'rom'\. Known: ron\."):
            device(tmp_path, "fixed = { ron = 500.0 }", "fixed = { rom = 500.0 }")

    def test_unknown_form_lists_the_known_ones(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"device d has no form 'd_slow'\. Known: d, d_plain, d_fast\."):
            device(tmp_path).form_equations("d_slow")

    def test_unknown_preset_lists_the_known_ones(self) -> None:
        with pytest.raises(InputError, match=r"no preset 'slow'\. Known: mif, knowm_stock, "):
            load_device("mss_memristor").values("slow")

    def test_unknown_parameter_lists_the_known_ones(self) -> None:
        with pytest.raises(InputError, match=r"mss_memristor has no parameter 'rom'\. Known: ron, roff, von"):
            load_device("mss_memristor").values(rom=1.0)

    @pytest.mark.parametrize(
        ("name", "value", "text"),
        [
            ("tau", 0.0, r"tau = 0\.0 s is not finite, above 0\.0 s"),
            ("tau", math.nan, r"tau = nan s is not finite, above 0\.0 s"),
            ("von", math.inf, r"von = inf V is not finite\."),
            ("phi", 1.5, r"phi = 1\.5  is not finite, at least 0\.0, at most 1\.0\."),
            ("sfa", -1e-9, r"sfa = -1e-09 A is not finite, at least 0\.0 A"),
        ],
    )
    def test_values_out_of_range_are_refused(self, name: str, value: float, text: str) -> None:
        with pytest.raises(InputError, match=text):
            load_device("mss_memristor").values(**{name: value})

    def test_first_wrong_element_of_an_array_is_named(self) -> None:
        parameter = Parameter(default=1.0, unit="V", description="", at_most=2.0)
        with pytest.raises(InputError, match=r"parameter v = 3\.0 V is not finite, at most 2\.0 V"):
            parameter.check("v", np.array([1.0, 3.0, 4.0]))
        parameter.check("v", np.array([1.0, 2.0]))


def copied_cell(folder: Path, name: str, *changes: tuple[str, str, str]) -> Path:
    """Copy a shipped cell into ``folder`` with replaced text ``(file, old, new)``."""
    home = folder / name
    home.mkdir()
    for file in ("cell.toml", "cell.cir"):
        text = (shipped("circuits") / name / file).read_text()
        for where, old, new in changes:
            if where == file:
                assert old in text
                text = text.replace(old, new)
        (home / file).write_text(text)
    return folder


class TestCells:
    def test_shipped_neuron_has_its_ports_and_defaults(self) -> None:
        cell = load_cell("mif")
        assert cell.name == "mif"
        assert cell.card.ports == ("mem", "e1", "e2", "ref")
        assert tuple(cell.subcircuit.external_nodes) == cell.card.ports
        assert {key: float(value) for key, value in cell.subcircuit.parameters.items()} == cell.values(3, {})
        assert cell.text == (shipped("circuits") / "mif" / "cell.cir").read_text()

    def test_values_are_numbers_or_one_per_instance(self) -> None:
        values = load_cell("mif").values(3, {"c": [1e-10, 2e-10, 3e-10], "von": 0.12})
        assert values["c"].tolist() == [1e-10, 2e-10, 3e-10]
        assert (values["von"], values["roff"]) == (0.12, 100000.0)

    def test_values_of_the_wrong_length_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"parameter mif\.c has shape \(2,\); 3 cells need one value or \[3\]"):
            load_cell("mif").values(3, {"c": [1e-10, 2e-10]})

    def test_unknown_parameter_is_refused(self) -> None:
        with pytest.raises(InputError, match="mif has no parameter 'gain'. Known: c, ron"):
            load_cell("mif").values(1, {"gain": 2.0})

    def test_cell_from_a_folder_of_the_user_is_read(self, tmp_path: Path) -> None:
        folder = copied_cell(tmp_path, "mif", ("cell.toml", "0.05", "0.06"))
        assert load_cell("mif", folder).card.supplies["e2"].voltage == 0.06

    def test_cell_is_found_by_the_path_of_its_folder(self, tmp_path: Path) -> None:
        folder = copied_cell(tmp_path, "mif", ("cell.toml", "0.05", "0.06"))
        assert find_cell(str(folder / "mif")).card.supplies["e2"].voltage == 0.06
        assert find_cell("mif").card.supplies["e2"].voltage == 0.05

    def test_model_beside_the_cell_comes_before_the_shipped_one(self, tmp_path: Path) -> None:
        home = copied_cell(tmp_path, "mif") / "mif"
        source = (shipped("models") / "mss_memristor.va").read_text()
        (home / "mss_memristor.va").write_text(source.replace("ron  = 500.0", "ron  = 501.0"))
        (own,) = load_cell("mif", tmp_path).devices().values()
        assert own.values()["ron"] == 501.0
        assert load_cell("mif").devices()["mss_memristor.lib"].values()["ron"] == 500.0

    def test_model_without_verilog_a_is_left_out_and_refused_by_name(self, tmp_path: Path) -> None:
        home = copied_cell(tmp_path, "mif") / "mif"
        (home / "mss_memristor.lib").write_text(".subckt mss_memristor_ohmic p n\n.ends\n")
        assert load_cell("mif", tmp_path).devices() == {}
        with pytest.raises(
            InputError, match=r"mss_memristor\.lib is no Verilog-A: it has no twin\. Put mss_memristor\.va"
        ):
            load_model("mss_memristor.lib", home)

    def test_model_outside_of_the_folder_is_refused(self, tmp_path: Path) -> None:
        copied_cell(tmp_path, "mif", ("cell.toml", "mss_memristor.lib", "../mss_memristor.lib"))
        with pytest.raises(InputError, match=r"file name '\.\./mss_memristor\.lib' points outside"):
            load_cell("mif", tmp_path).devices()

    def test_unknown_cell_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"card .*lif/cell\.toml is not there"):
            load_cell("lif")

    def test_cell_without_subcircuit_file_is_refused(self, tmp_path: Path) -> None:
        copied_cell(tmp_path, "mif")
        (tmp_path / "mif" / "cell.cir").unlink()
        with pytest.raises(InputError, match=r"cell 'mif' has no file .*cell\.cir"):
            load_cell("mif", tmp_path)

    @pytest.mark.parametrize(
        ("old", "new", "count"),
        [(".ends mif", "", 0), (".subckt mif", "* nothing", 0), (".ends mif", ".ends\n.subckt b p\n.ends", 2)],
    )
    def test_file_needs_one_complete_subcircuit(self, tmp_path: Path, old: str, new: str, count: int) -> None:
        folder = copied_cell(tmp_path, "mif", ("cell.cir", old, new))
        with pytest.raises(InputError, match=rf"holds {count} complete \.subckt blocks; a cell file needs exactly one"):
            load_cell("mif", folder)

    def test_subcircuit_with_swapped_ports_is_refused(self, tmp_path: Path) -> None:
        folder = copied_cell(tmp_path, "mif", ("cell.cir", "mif mem e1 e2 ref", "mif mem e2 e1 ref"))
        with pytest.raises(
            InputError, match="has ports mem e2 e1 ref and its card mem e1 e2 ref; a neuron needs mem e1 e2 ref"
        ):
            load_cell("mif", folder)

    def test_subcircuit_without_a_parameter_of_the_card_is_refused(self, tmp_path: Path) -> None:
        folder = copied_cell(tmp_path, "mif", ("cell.cir", "params: c=1e-10 ", "params: "))
        with pytest.raises(InputError, match="subcircuit 'mif' lacks parameter c of its card"):
            load_cell("mif", folder)

    def test_default_that_differs_between_card_and_subcircuit_is_refused(self, tmp_path: Path) -> None:
        folder = copied_cell(tmp_path, "mif", ("cell.cir", "params: c=1e-10 ", "params: c=2e-10 "))
        with pytest.raises(InputError, match=r"\bc\b.*2e-10.*1e-10|\bc\b.*1e-10.*2e-10"):
            load_cell("mif", folder)


class TestCellsOfTheUser:
    def test_name_is_loaded(self) -> None:
        assert as_cell("mif", "neuron", "mif").card == load_cell("mif").card

    def test_subcircuit_with_the_right_ports_is_a_neuron(self) -> None:
        cell = as_cell(SubCircuit("Mine", "mem", "e1", "e2", "ref", c=1e-10, gain=2), "neuron", "mif")
        assert (cell.name, cell.card.name, cell.card.kind, cell.home) == ("mine", "mine", "neuron", None)
        assert cell.card.models == ("mss_memristor.lib",)
        assert set(cell.card.parameters) == {"c"}
        assert cell.card.supplies == load_cell("mif").card.supplies

    def test_default_of_the_users_subcircuit_is_the_default_of_its_cell(self) -> None:
        cell = as_cell(SubCircuit("mine", "mem", "e1", "e2", "ref", c=2e-10), "neuron", "mif")
        assert cell.values(1, {}) == {"c": 2e-10}

    def test_subcircuit_with_gp_and_gm_is_a_synapse(self) -> None:
        cell = as_cell(SubCircuit("pair", "rp", "rn", "col", gp=1e-6, gm=1e-6), "synapse", "rram_pair")
        assert set(cell.card.parameters) == {"gp", "gm"}

    def test_wrong_ports_are_refused(self) -> None:
        with pytest.raises(
            InputError, match=r"cell 'mine' has ports mem e1 ref .*a neuron needs mem e1 e2 ref, in this order"
        ):
            as_cell(SubCircuit("mine", "mem", "e1", "ref"), "neuron", "mif")

    def test_synapse_without_gm_is_refused(self) -> None:
        with pytest.raises(InputError, match="subcircuit 'pair' lacks parameter gm of its card. Add it."):
            as_cell(SubCircuit("pair", "rp", "rn", "col", gp=1e-6), "synapse", "rram_pair")

    @pytest.mark.parametrize(
        ("name", "kind", "needed"), [("mif", "neuron", "synapse"), ("rram_pair", "synapse", "neuron")]
    )
    def test_wrong_kind_is_refused(self, name: str, kind: str, needed: str) -> None:
        with pytest.raises(InputError, match=rf"cell '{name}' is a {kind}, where a {needed} is needed"):
            as_cell(name, needed, "mif")
