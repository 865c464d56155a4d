"""Device models of strangers: their free text is no netlist, their changes are seen, their odd cases give the same answer everywhere."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from memprop.deck.deck import Deck, Transient
from memprop.deck.models import verilog_model
from memprop.device.library import load_device
from memprop.errors import InputError
from memprop.spice.engine import make_engine
from memprop.twin.device import DeviceTwin

F64 = torch.float64
HEAD = '`include "disciplines.vams"\nmodule {name}(p, n);\n  inout p, n; electrical p, n;\n{body}\nendmodule\n'


def model(folder: Path, name: str, body: str, card: str = "") -> Path:
    path = folder / f"{name}.va"
    path.write_text(HEAD.format(name=name, body=body))
    if card:
        path.with_suffix(".toml").write_text(card)
    return path


def current(path: Path, engine: str, volt: float, values: str = "") -> float:
    """Return the current of a device at a constant voltage."""
    device = load_device(path)
    file = f"models/{device.name}.lib"
    files = {file: device.library(), "test.inc": f"v1 a 0 {volt!r}\nx1 a 0 {device.name} {values}\n"}
    deck = Deck("one device", files, Transient(1e-6, 1e-7), ("a",), ("v1",), {}, (verilog_model(device, file),))
    return -float(make_engine(engine).run(deck)["i(v1)"][-1])


def twin_current(path: Path, volt: float, **values: float) -> float:
    time = torch.tensor([0.0, 1e-6], dtype=F64)
    return float(
        DeviceTwin(load_device(path)).run(time, {"p": torch.full((2,), volt, dtype=F64)}, values).currents["p"][-1]
    )


@pytest.mark.parametrize("feed", ["\\n", "\\r\\n", "\\u0085", "\\u2028", "\\f", "\\u000b"])
def test_line_feeds_in_a_card_begin_no_line_of_the_netlist(tmp_path: Path, feed: str) -> None:
    text = f"harmless{feed}.control{feed}shell touch {tmp_path}/hit{feed}.endc{feed}"
    card = f'name = "evil"\ndescription = "{text}"\n[presets.one]\nsource = "{text}"\nvalues = {{ r = 5.0 }}\n'
    body = "  parameter real r = 10.0 from (0:inf);\n  analog I(p, n) <+ V(p, n) / r;"
    path = model(tmp_path, "evil", body, card)
    library = load_device(path).library()
    assert not [line for line in library.splitlines() if line.lstrip().lower().startswith((".control", "shell"))]
    assert current(path, "ngspice", 1.0) == pytest.approx(0.1)
    assert not (tmp_path / "hit").exists()


def test_licence_of_the_subcircuits_is_that_of_the_model(tmp_path: Path) -> None:
    body = "  analog I(p, n) <+ V(p, n);"
    assert "SPDX" not in load_device(model(tmp_path, "plain", body)).library()
    licensed = model(tmp_path, "own", "  // SPDX-License-Identifier: BSD-3-Clause\n" + body)
    assert load_device(licensed).library().startswith("* SPDX-License-Identifier: BSD-3-Clause\n")


def test_changed_include_is_seen_also_with_the_same_time_stamp(tmp_path: Path) -> None:
    part = tmp_path / "gain.inc"
    path = model(tmp_path, "scaled", '`include "gain.inc"\n  analog I(p, n) <+ `GAIN * V(p, n);')
    found = []
    for gain in (2, 7):
        part.write_text(f"`define GAIN {gain}\n")
        os.utime(part, (1, 1))
        found.append(twin_current(path, 0.5))
    assert found == [1.0, 3.5]


def test_error_behind_an_include_has_its_own_line(tmp_path: Path) -> None:
    (tmp_path / "long.inc").write_text("`define A 1\n" * 6)
    path = model(tmp_path, "late", '`include "long.inc"\n  analog I(p, n) <+ nothing;')
    with pytest.raises(InputError, match=r"late\.va:5:21: 'nothing' is not declared"):
        load_device(path)


def test_macros_of_the_compiler_are_defined_here_too(tmp_path: Path) -> None:
    body = "".join(
        f"`ifdef {name}\n  analog I(p, n) <+ {gain} * V(p, n);\n`endif\n"
        for gain, name in enumerate(("__VAMS__", "__VAMS_COMPACT_MODELING__", "__OPENVAF__", "__OTHER__"), 1)
    )
    path = model(tmp_path, "built", body.replace("  analog", "  analog", 1))
    answers = [twin_current(path, 0.5), current(path, "ngspice", 0.5), current(path, "vacask", 0.5)]
    assert answers == pytest.approx([3.0] * 3)


@pytest.mark.parametrize("k", [2, 3, 4, 5])
def test_whole_power_of_a_negative_voltage_keeps_its_sign(tmp_path: Path, k: int) -> None:
    body = "  parameter integer k = 1;\n  analog I(p, n) <+ 1e-3 * pow(V(p, n), k) + 1e-4 * pow(V(p, n), k + 1);"
    path = model(tmp_path, "powers", body)
    expected = 1e-3 * (-0.8) ** k + 1e-4 * (-0.8) ** (k + 1)
    answers = [current(path, engine, -0.8, f"k={k}") for engine in ("ngspice", "vacask")]
    assert [*answers, twin_current(path, -0.8, k=k)] == pytest.approx([expected] * 3, rel=1e-6)


def test_real_power_of_what_can_be_negative_is_warned_of(tmp_path: Path) -> None:
    body = "  parameter real k = 1.5;\n  analog I(p, n) <+ 1e-3 * {};"
    risky = load_device(model(tmp_path, "risky", body.format("pow(V(p, n), k)")))
    assert any("negative base has no value in Verilog-A" in note.text for note in risky.equations.notes)
    safe = load_device(model(tmp_path, "safe", body.format("pow(max(V(p, n), 0.0), k)")))
    assert not any("negative base" in note.text for note in safe.equations.notes)


def test_device_of_the_same_name_with_another_charge_is_another_device(tmp_path: Path) -> None:
    time = torch.linspace(0.0, 1e-3, 201, dtype=F64)
    wave = {"p": torch.sin(2 * torch.pi * 1e3 * time)}
    peaks = []
    for farad in (1e-9, 5e-9):
        path = model(tmp_path, "holder", f"  analog I(p, n) <+ {farad!r} * ddt(V(p, n));")
        peaks.append(float(DeviceTwin(load_device(path)).run(time, wave).currents["p"].abs().max()))
    assert peaks == pytest.approx([2 * np.pi * 1e3 * farad for farad in (1e-9, 5e-9)], rel=1e-3)


class TestInputsOfTheTwin:
    TIME = torch.tensor([0.0, 1e-3, 2e-3], dtype=F64)
    VOLT = torch.tensor([0.0, 0.1, 0.2], dtype=F64)

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"ron": -5.0}, r"parameter mss_memristor\.ron = -5\.0 Ohm is not finite, above 0\.0 Ohm"),
            ({"tau": torch.tensor([1e-4, float("nan")])}, r"parameter mss_memristor\.tau = nan s"),
            ({"none": 1.0}, r"has no parameter 'none' here"),
        ],
    )
    def test_parameter_out_of_range_is_refused(self, parameters: dict[str, float | Tensor], message: str) -> None:
        with pytest.raises(InputError, match=message):
            DeviceTwin(load_device("mss_memristor")).run(self.TIME, {"p": self.VOLT}, parameters)

    @pytest.mark.parametrize("volt", [[0.0, 0.1, 0.2], torch.tensor([0, 1, 2]), torch.tensor([0.0, float("nan"), 0.0])])
    def test_voltage_that_is_no_real_tensor_is_refused(self, volt: Tensor) -> None:
        with pytest.raises(InputError, match="voltage of port p must be a tensor of finite real numbers in V"):
            DeviceTwin(load_device("mss_memristor")).run(self.TIME, {"p": volt})

    def test_series_resistor_beside_a_parameter_or_port_of_that_name(self, tmp_path: Path) -> None:
        own = model(tmp_path, "taken", "  parameter real series = 50.0;\n  analog I(p, n) <+ V(p, n) / series;")
        with pytest.raises(InputError, match="has a parameter 'series' of its own"):
            DeviceTwin(load_device(own), series=True)
        text = own.read_text().replace("taken", "fet").replace("p", "source").replace("series", "rs")
        text = (
            text.replace("discisourcelines", "disciplines")
            .replace("inout source", "inout source")
            .replace("sourcearameter", "parameter")
        )
        path = tmp_path / "fet.va"
        path.write_text(text)
        twin = DeviceTwin(load_device(path), series=True)
        found = twin.run(self.TIME, {"source": self.VOLT}, {"series": 150.0}).currents["source"]
        assert found.tolist() == pytest.approx([0.0, 0.1 / 200, 0.2 / 200])

    def test_device_without_states_follows_its_voltage(self, tmp_path: Path) -> None:
        path = model(tmp_path, "ohmic", "  parameter real r = 100.0 from (0:inf);\n  analog I(p, n) <+ V(p, n) / r;")
        r = torch.tensor(50.0, dtype=F64, requires_grad=True)
        trace = DeviceTwin(load_device(path)).run(self.TIME, {"p": self.VOLT}, {"r": r})
        assert trace.nodes == {}
        assert trace.currents["p"].tolist() == pytest.approx([0.0, 2e-3, 4e-3])
        trace.currents["p"].sum().backward()
        assert float(r.grad) == pytest.approx(-0.3 / 50**2)  # pyright: ignore[reportArgumentType]
