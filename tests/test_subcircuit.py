"""Generated subcircuits: every expression means in ngspice what it means in plain arithmetic; names, charges, temperature."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from sympy import Piecewise, Symbol
from test_torch_function import VALUES, X, Y, Z, reachable, trees

from memprop.deck.deck import Deck, Transient
from memprop.deck.models import verilog_model
from memprop.device.card import Parameter
from memprop.device.equations import GROUND, TEMPERATURE, Equations, Flow, probe
from memprop.device.functions import LIMIT, absolute, limexp, maximum, minimum
from memprop.device.library import load_device
from memprop.device.subcircuit import RESERVED, subcircuit, wrapped
from memprop.device.subcircuit_text import number
from memprop.errors import InputError
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.raw import read_raw
from memprop.spice.vacask import VacaskEngine

ROOT = Path(__file__).parents[1]
MODELS = sorted(path.stem for path in (ROOT / "models").glob("*.va"))
PORTS = ("a", "b", "c")
PARAMETERS = {str(s): value for s, value in VALUES.items() if "V(" not in str(s)}


def equations(
    currents: Sequence[Any], parameters: Mapping[str, float] = PARAMETERS, lets: Sequence[Any] = ()
) -> Equations:
    """Return a device with one output port per current, beside the ports a, b and c that give its voltages."""
    outputs = [f"o{k}" for k in range(len(currents))]
    known = {name: Parameter(default=value, unit="", description="") for name, value in parameters.items()}
    flows = {
        (output, GROUND): Flow(sympy.sympify(current), sympy.Integer(0))
        for output, current in zip(outputs, currents, strict=True)
    }
    probes = {probe(port, GROUND): (port, GROUND) for port in (*PORTS, *outputs)} | {probe("a", "b"): ("a", "b")}
    return Equations("dev", "dev.va", (*PORTS, *outputs), (), known, frozenset(), tuple(lets), flows, probes)


def currents_in_ngspice(text: str, count: int, folder: Path, options: str = "", given: str = "") -> np.ndarray:
    """Return what flows into the outputs of the subcircuit ``dev``, in A."""
    outputs = " ".join(f"o{k}" for k in range(count))
    lines = [f"v{port} {port} 0 {VALUES[symbol]!r}" for port, symbol in zip(PORTS, (X, Y, Z), strict=True)]
    lines += [f"vo{k} o{k} 0 0" for k in range(count)]
    saved = " ".join(f"i(vo{k})" for k in range(count))
    deck = ["* device", text, *lines, f"x1 a b c {outputs} dev {given}", options, f".save {saved}", ".op", ".end"]
    (folder / "deck.cir").write_text("\n".join(deck) + "\n")
    (folder / "out.raw").unlink(missing_ok=True)
    command = ["ngspice", "-n", "-b", "-r", "out.raw", "deck.cir"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (folder / "out.raw").is_file(), done.stdout[-1500:] + done.stderr[-1500:]
    plot = read_raw(folder / "out.raw")[0]
    return np.array([-plot.values[-1, plot.variables.index(f"i(vo{k})")] for k in range(count)])


def smooth_at_zero(expr: Any) -> bool:
    """Return whether ngspice can begin: its first iteration has all voltages zero, where some functions end."""
    ends = expr.has(sympy.acosh, sympy.asin, sympy.acos, sympy.atanh, sympy.log, sympy.tan)
    powers = [p for p in expr.atoms(sympy.Pow) if not (p.exp.is_Integer and p.exp > 0)]
    return not ends and not any(p.base.free_symbols & {X, Y, Z} for p in powers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("subcircuit")


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(trees(), min_size=20, max_size=30))
def test_any_expression_of_voltages(folder: Path, found: list[Any]) -> None:
    cases = [(expr, value) for expr in found if (value := reachable(expr)) is not None and smooth_at_zero(expr)]
    if not cases:
        return
    text = subcircuit("dev", equations([expr for expr, _ in cases]), PARAMETERS, "")
    measured = currents_in_ngspice(text, len(cases), folder)
    for (expr, value), current in zip(cases, measured, strict=True):
        assert current == pytest.approx(value, rel=1e-9, abs=1e-11), str(expr)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(trees(moving=False), min_size=20, max_size=30))
def test_any_expression_of_parameters(folder: Path, found: list[Any]) -> None:
    """These go into .param lines, which another part of ngspice evaluates, with its own functions."""
    cases = [(expr, value) for expr in found if (value := reachable(expr)) is not None]
    if not cases:
        return
    text = subcircuit("dev", equations([expr * X for expr, _ in cases]), PARAMETERS, "")
    measured = currents_in_ngspice(text, len(cases), folder)
    for (expr, value), current in zip(cases, measured, strict=True):
        assert current == pytest.approx(value * VALUES[X], rel=1e-11, abs=1e-12), str(expr)


P = Symbol("p", real=True)
SQUARE = sympy.Pow(Y, 2, evaluate=False)
TRAPS: dict[str, tuple[Any, float]] = {
    "odd power of a negative voltage": (Y**3, VALUES[Y] ** 3),
    "odd power of a negative sum": ((Y - X) ** 5, (VALUES[Y] - VALUES[X]) ** 5),
    "minus a square": (-(Y**2), -(VALUES[Y] ** 2)),
    "power of a power": (2 ** (Z**2), 2.0 ** (VALUES[Z] ** 2)),
    "quotients in a row": (X / Y / Z, VALUES[X] / VALUES[Y] / VALUES[Z]),
    "difference of a difference": (X - (Y - (Z - 1)), VALUES[X] - (VALUES[Y] - (VALUES[Z] - 1))),
    "number with many digits": (sympy.Float("1.23456789012345678", 17) * X, 1.23456789012345678 * VALUES[X]),
    "third": (sympy.Rational(1, 3) * X, VALUES[X] / 3),
    "large and small numbers": (sympy.Float(1e27) * X * sympy.Float(1.6e-19), 1e27 * VALUES[X] * 1.6e-19),
    "angle": (sympy.atan2(Y, -X), np.arctan2(VALUES[Y], -VALUES[X])),
    "limexp below": (limexp(X), float(np.exp(VALUES[X]))),
    "limexp beyond": (limexp(40 * Z) * sympy.Float(1e-30), 1 + 40 * VALUES[Z] - LIMIT),
    "one sided": (maximum(Y, 0) + minimum(X, 0) + absolute(Y), -VALUES[Y]),
    "conditions": (Piecewise((1, sympy.And(X > 0, sympy.Or(Y > 0, Z > 0))), (2, True)), 1.0),
    "negated": (Piecewise((1, sympy.Not(sympy.Or(X > 9, Y > 9))), (2, True)), 1.0),
    "equality": (Piecewise((1, sympy.Eq(P, 3)), (2, sympy.Ne(P, 3)), (4, True)), 2.0),
    "alternative in a sum": (1 + Piecewise((X, Y > 0), (Z, True)) - X, 1 + VALUES[Z] - VALUES[X]),
    "alternative in a divisor": (X / Piecewise((Y, Y > 0), (Z, True)), VALUES[X] / VALUES[Z]),
}


def test_known_traps(folder: Path) -> None:
    text = subcircuit("dev", equations([expr for expr, _ in TRAPS.values()]), PARAMETERS, "")
    measured = currents_in_ngspice(text, len(TRAPS), folder)
    for (name, (_, value)), current in zip(TRAPS.items(), measured, strict=True):
        # the limit of limexp is written with the digits that ngspice keeps
        assert current == pytest.approx(value, rel=1e-10 if "beyond" in name else 1e-12), name


def test_definitions_get_nodes_and_keep_their_value(folder: Path) -> None:
    """A definition used twice has a node; at zero voltages it is not zero here, and 1/one would divide by zero."""
    one, two = Symbol("one", real=True), Symbol("V_two", real=True)
    lets = [(one, P + X * Y), (two, 1 / one + Y)]
    text = subcircuit("dev", equations([one * two, sympy.sqrt(one**2), two + two**2], lets=lets), PARAMETERS, "")
    assert "\nbone 0 one i = " in text
    first = VALUES[P] + VALUES[X] * VALUES[Y]
    second = 1 / first + VALUES[Y]
    measured = currents_in_ngspice(text, 3, folder)
    np.testing.assert_allclose(measured, [first * second, abs(first), second + second**2], rtol=1e-9)


@pytest.mark.parametrize(
    "name", ["k1", "K2", "u", "temp", "area", "w", "gmin", "tnom", "boltz", "true", "nan", "meg", "pn", "x"]
)
def test_parameters_may_have_names_that_only_look_dangerous(name: str, folder: Path) -> None:
    parameter = Symbol(name, real=True)
    device = equations([parameter * X / (1 + parameter) * Y, (X - Y) ** 2 * parameter], {name: 2.0, "other": 1.0})
    text = subcircuit("dev", device, {name: 2.0, "other": 1.0}, "")
    measured = currents_in_ngspice(text, 2, folder, given=f"{name.lower()}=3")
    wanted = [0.75 * VALUES[X] * VALUES[Y], 3 * (VALUES[X] - VALUES[Y]) ** 2]
    np.testing.assert_allclose(measured, wanted, rtol=1e-9)


@pytest.mark.parametrize("name", ["time", "Temper", "pi", "e", "exp", "Limit", "pwr", "table", "value"])
def test_names_with_another_meaning_are_refused(name: str) -> None:
    assert name.lower() in RESERVED
    with pytest.raises(InputError, match=f"dev.va: name '{name}' has a meaning of its own in ngspice. Rename it."):
        subcircuit("dev", equations([Symbol(name, real=True) * X], {name: 1.0}), {name: 1.0}, "")


def test_names_that_differ_only_in_case_are_refused() -> None:
    with pytest.raises(InputError, match="parameters ron, Ron of dev differ only in case, which SPICE ignores"):
        subcircuit("dev", equations([X], {"ron": 1.0, "Ron": 2.0}), {}, "")


def test_functions_without_a_form_are_refused() -> None:
    with pytest.raises(InputError, match="gamma has no form in ngspice"):
        subcircuit("dev", equations([sympy.gamma(X)]), PARAMETERS, "")


@pytest.mark.parametrize("celsius", [-40.0, 27.0, 125.0])
def test_temperature_is_that_of_the_simulator(celsius: float, folder: Path) -> None:
    text = subcircuit("dev", equations([TEMPERATURE * X, sympy.exp(-P / TEMPERATURE)]), PARAMETERS, "")
    measured = currents_in_ngspice(text, 2, folder, options=f".options temp={celsius}")
    kelvin = celsius + 273.15
    np.testing.assert_allclose(measured, [kelvin * VALUES[X], np.exp(-VALUES[P] / kelvin)], rtol=1e-10)


# Whole devices: nonlinear charge, internal node without a state, temperature; ngspice, VACASK and the twin

CHARGED = """`include "constants.vams"
`include "disciplines.vams"
module charged(p, n);
    inout p, n;
    electrical p, n, inner;
    (* desc = "Series resistance", units = "Ohm" *) parameter real rs = 200.0 from (0:inf);
    (* desc = "Capacitance at 0 V", units = "F" *) parameter real c0 = 1e-9 from (0:inf);
    (* desc = "Saturation current", units = "A" *) parameter real is = 1e-9 from (0:inf);
    real v, q;
    analog begin
        v = V(inner, n);
        q = c0 * (v + 0.3 * v * v + 0.5 * sin(v));
        I(p, inner) <+ V(p, inner) / rs;
        I(inner, n) <+ is * (limexp(v / $vt) - 1.0) + v / 1e6;
        I(inner, n) <+ ddt(q);
        I(p, n) <+ ddt(1e-11 * V(p, n));
    end
endmodule
"""


@pytest.mark.parametrize("celsius", [27.0, 90.0])
def test_charges_inner_nodes_and_temperature_in_three_engines(celsius: float, tmp_path: Path) -> None:
    import torch

    from memprop.twin.device import DeviceTwin

    (tmp_path / "charged.va").write_text(CHARGED)
    device = load_device(tmp_path / "charged.va")
    stop, points = 2e-5, 2000
    file = "models/charged.lib"
    circuit = "v1 a 0 sin(0 0.5 100k)\nx1 a 0 charged\n"
    options = {"method": "trap", "reltol": 1e-6, "vntol": 1e-9, "abstol": 1e-15, "temp": celsius}
    deck = Deck(
        "charged", {file: device.library(), "c.inc": circuit}, Transient(stop, stop / points), ("x1.inner",), ("v1",), options,
        (verilog_model(device, file),),
    )  # fmt: skip
    time = torch.linspace(0.0, stop, points + 1, dtype=torch.float64)
    twin = DeviceTwin(device)
    assert "temperature" in twin.parameters
    trace = twin.run(time, {"p": 0.5 * torch.sin(2 * torch.pi * 1e5 * time)}, {"temperature": celsius + 273.15})
    moments = time.numpy()[20:-20:7]
    ours = {"x1.inner": trace.nodes["inner"].numpy()[20:-20:7], "i(v1)": -trace.currents["p"].numpy()[20:-20:7]}
    for engine in (NgspiceEngine(), VacaskEngine()):
        found = engine.run(deck)
        for signal, values in ours.items():
            theirs = np.interp(moments, found["time"].values, found[signal].values)
            assert np.abs(theirs - values).max() < 1e-3 * np.abs(values).max(), (engine.name, signal)


# Text


def test_numbers_read_back_and_long_lines_go_on() -> None:
    for value in (1e-15, 0.1, 1e22, 123456.789, -2.5e-7, 1 / 3):
        assert float(number(value)) == value
    line = "b1 a 0 i = " + "+".join(f"v(n{k})*k{k}" for k in range(60))
    pieces = list(wrapped(line))
    assert all(len(piece) <= 118 for piece in pieces)
    assert pieces[0] + "".join(piece.removeprefix("+ ") for piece in pieces[1:]) == line


@pytest.mark.parametrize("name", [name for name in MODELS if (ROOT / "models" / f"{name}.lib").is_file()])
def test_committed_libraries_are_what_the_models_say(name: str) -> None:
    device = load_device(name)
    text = device.library()
    assert (ROOT / "models" / f"{name}.lib").read_text(encoding="utf-8") == text
    assert f"`memprop model {name}.va`" in text
    for form in device.forms:
        assert f"\n.ends {form}\n" in text
    for key, parameter in device.parameters.items():
        unit = f" [{parameter.unit}]" if parameter.unit else ""
        assert f"*   {key.lower()}{unit}: {parameter.description}; " in text
    card = tomllib.loads((ROOT / "models" / f"{name}.toml").read_text(encoding="utf-8"))
    assert set(card["presets"]) <= {form.removeprefix(f"{name}_") for form in device.forms}


def test_same_bytes_whatever_the_seed_of_hashes() -> None:
    script = (
        "from memprop.device.library import load_device\n"
        "for name in ('mss_memristor', 'stanford_rram', 'hp_drift', 'gated_synapse'): print(load_device(name).library())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=100,
            env={"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": str(ROOT)},
        ).stdout
        for seed in ("0", "77")
    }  # fmt: skip
    assert len(said) == 1
