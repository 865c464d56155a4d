"""Netlists and expressions are read as ngspice reads them: the same elements, the same numbers, and nothing skipped in silence."""

from __future__ import annotations

import re
import time
from pathlib import Path

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st

from memprop.circuit.expression import corners, number_from_text, parse_expression, sample_in_time
from memprop.circuit.netlist import Element, read_netlist
from memprop.deck.deck import Deck, Transient
from memprop.deck.numbers import to_text
from memprop.errors import InputError
from memprop.spice.ngspice import NgspiceEngine

BUNDLE = Path(__file__).parents[1] / "netlists" / "digits_mif"


def only(text: str) -> Element:
    (element,) = read_netlist(text + "\n", "case.inc").elements
    return element


# Netlists


@pytest.mark.parametrize(
    ("text", "kind", "nodes", "value", "parameters"),
    [
        ("R1 A 0 10k", "r", ("a", "0"), "10k", {}),
        ("r1 a b {1 / gp}", "r", ("a", "b"), "1 / gp", {}),
        ("r1 a b r = '2*x'", "r", ("a", "b"), "", {"r": "2*x"}),
        ("c1 a 0 1e-9 ic=0.5", "c", ("a", "0"), "1e-9", {"ic": "0.5"}),
        ("l1 a 0 1m", "l", ("a", "0"), "1m", {}),
        ("v1 a 0 dc 1 pulse(0 1 1n 1n 1n 5n 10n)", "v", ("a", "0"), "dc 1 pulse(0 1 1n 1n 1n 5n 10n)", {}),
        ("i1 0 a {ipk}", "i", ("0", "a"), "ipk", {}),
        ("e1 a 0 c d {-a}", "e", ("a", "0", "c", "d"), "-a", {}),
        ("e1 a 0 vol = 'v(c)*2'", "e", ("a", "0"), "", {"vol": "v(c)*2"}),
        ("g1 a 0 c d 1e-3 m=2", "g", ("a", "0", "c", "d"), "1e-3", {"m": "2"}),
        ("f1 a 0 vsense 1", "f", ("a", "0"), "vsense 1", {}),
        ("h1 a 0 vsense {r}", "h", ("a", "0"), "vsense r", {}),
        ("b1 a 0 i = v(a)==1 ? 2 : 3", "b", ("a", "0"), "", {"i": "v(a)==1 ? 2 : 3"}),
        ("bx a 0 v={tanh(v(a,0))}", "b", ("a", "0"), "", {"v": "tanh(v(a,0))"}),
        ("d1 a 0 diode area=2", "d", ("a", "0"), "diode", {"area": "2"}),
        ("x1 a b c mif ron={ron} c = 1e-10", "x", ("a", "b", "c"), "mif", {"ron": "ron", "c": "1e-10"}),
        ("x1 a b mif params: ron={a == b ? 1 : 2}", "x", ("a", "b"), "mif", {"ron": "a == b ? 1 : 2"}),
        ("n1 p n device ron=1k", "n", ("p", "n"), "device", {"ron": "1k"}),
        ("r1\ta\t0\t1k", "r", ("a", "0"), "1k", {}),
        ("r1 a 0 1k ; comment", "r", ("a", "0"), "1k", {}),
        ("r1 a 0 1k $ comment", "r", ("a", "0"), "1k", {}),
        ("* title\nr1 a\n* between\n+ 0\n\n+ 1k", "r", ("a", "0"), "1k", {}),
    ],
)
def test_element_is_read_whole(
    text: str, kind: str, nodes: tuple[str, ...], value: str, parameters: dict[str, str]
) -> None:
    found = only(text)
    assert (found.kind, found.nodes, found.value, dict(found.parameters)) == (kind, nodes, value, parameters)


def test_subcircuit_keeps_ports_defaults_parameters_models_and_initial_voltages() -> None:
    text = """
.subckt Cell A B PARAMS: x = {1 + 2} y=3
.param z = {x + y} w='z*2'
.ic v(a)=0 V( q ) = {x}
.model dd D(is=1e-14 n = 1.1)
d1 a q dd
r1 q b {w}
.ends
x1 in 0 cell y=4
.end
what follows is not read
"""
    found = read_netlist(text, "case.inc")
    cell = found.subcircuits["cell"]
    assert (cell.ports, dict(cell.defaults)) == (("a", "b"), {"x": "1 + 2", "y": "3"})
    assert dict(cell.parameters) == {"z": "x + y", "w": "z*2"}
    assert dict(cell.initial) == {"a": "0", "q": "x"}
    assert (cell.models["dd"].kind, dict(cell.models["dd"].parameters)) == ("d", {"is": "1e-14", "n": "1.1"})
    assert [(e.name, e.line) for e in cell.elements] == [("d1", 6), ("r1", 7)]
    assert [e.name for e in found.elements] == ["x1"]
    assert found.elements[0].place == "case.inc, line 9, x1"


def test_bundle_is_read_with_every_pair() -> None:
    tiles = read_netlist((BUNDLE / "conductances.inc").read_text(), "conductances.inc")
    pairs = [e for sub in tiles.subcircuits.values() for e in sub.elements]
    assert len(pairs) == 64 * 32 + 32 * 10
    assert all(
        e.kind == "g" and len(e.nodes) == 4 and re.fullmatch(r"\{?(\d\S*?)-(\d[\d.]*e-\d+|[\d.]+)\}?", e.value)
        for e in pairs
    )
    populations = read_netlist((BUNDLE / "populations.inc").read_text(), "populations.inc")
    assert sum(e.value == "mif" for e in populations.elements) == 42


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q1 a b 0 npn", r"case\.inc, line 1: element 'q1' is of a kind that memprop does not read"),
        ("r1 a", r"line 1: 'r1 a' has too few words\. Write NAME NODES VALUE"),
        ("+ 1k", r"line 1: '\+ 1k' continues nothing"),
        (".include other.lib", r"line 1: '\.include other\.lib' is not part of the netlists.*Put included text in"),
        (".options reltol=1", r"'\.options reltol=1' is not part of the netlists"),
        (".ic a=1", r"'\.ic a=1' sets no voltage\. Write \.ic v\(NODE\)=VOLT"),
        (".subckt a b\nr1 b 0 1", r"case\.inc: subcircuit 'a' is not closed\. Write \.ends"),
        (".ends", r"line 1: \.ends closes no subcircuit"),
        (".subckt", r"names no subcircuit"),
        (
            ".subckt a b\nr1 b 0 1\n.ends\n.subckt a c\nr1 c 0 1\n.ends",
            r"line 6: subcircuit 'a' is there twice\. Rename",
        ),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_netlist(text + "\n", "case.inc")


def test_a_hundred_thousand_lines_take_seconds() -> None:
    text = "\n".join(f"xr{k}_c7 rp{k} rn{k} col7 rram_pair gm=3.7179085e-06 gp=1e-06" for k in range(100_000))
    begin = time.perf_counter()
    assert len(read_netlist(text, "case.inc").elements) == 100_000
    assert time.perf_counter() - begin < 10.0


# Expressions

CONSTANT = (
    "1/3", "2*x+1", "x**2", "x**0.5", "-x^2", "(-x)^3", "2^x^y", "2**-1", "exp(-x)", "ln(x)", "log(x)", "log10(x)", "sqrt(x)",
    "sin(x)", "cos(x)", "tan(x)", "tanh(x)", "sinh(x)", "cosh(x)", "atan(x)", "asin(0.3*x)", "acos(0.3*x)", "asinh(x)",
    "acosh(x+1)", "atanh(0.3*x)", "abs(-x)", "min(x,1)", "max(x,1)", "pow(x,3)", "pow(-x,3)", "x>1 ? 2 : 3", "x<1 ? 2 : 3",
    "(x>1)*3", "x>1 && y<1 ? 4 : 5", "x>1 || y>9 ? 4 : 5", "!(x>1)", "x==1.3", "x!=1.3", "sgn(-x)", "floor(x)", "ceil(x)",
    "1/x-1/y", "x*1k/1meg", "5u*1e6*x", "2.5e-3k", "x/y*2", "x-y-1", "-x*y",
)  # fmt: skip
SOURCE = (
    "v(a)^2", "v(a)^3", "-v(b)^2", "v(a)**3", "pow(v(a),3)", "2^v(b)^2", "(v(a)>-5)*3", "u(v(a)-v(a))", "u(v(b))", "uramp(v(a))",
    "v(b)>1 && v(a)>1 ? 5 : 6", "v(b)/0.5*2", "v(b,a)*v(a,b)", "tanh(v(b)/2)", "min(v(a),v(b))", "v(0,b)", "v(b)*1MEGohm*1e-6",
)  # fmt: skip


def deck(lines: list[str], count: int) -> Deck:
    return Deck(
        "case", {"case.inc": "\n".join(lines) + "\n"}, Transient(1e-6, 1e-7), tuple(f"n{k}" for k in range(count))
    )


def in_ngspice(lines: list[str], count: int) -> list[float]:
    found = NgspiceEngine().run(deck(lines, count))
    return [float(found[f"n{k}"][0]) for k in range(count)]


def test_parameter_expressions_have_the_values_of_ngspice() -> None:
    lines = [".param x=1.3 y=3", *(f"vn{k} n{k} 0 {{{text}}}" for k, text in enumerate(CONSTANT))]
    values = {sympy.Symbol("x", real=True): 1.3, sympy.Symbol("y", real=True): 3}
    for text, expected in zip(CONSTANT, in_ngspice(lines, len(CONSTANT)), strict=True):
        found = parse_expression(text, "case", parameter=True)
        assert float(found.subs(values)) == pytest.approx(expected, rel=1e-9), text


def test_source_expressions_have_the_values_of_ngspice() -> None:
    lines = ["va a 0 -2", "vb b 0 3", *(f"bn{k} n{k} 0 v={text}" for k, text in enumerate(SOURCE))]
    a, b = -2, 3
    volts = {"v(a)": a, "v(b)": b, "v(a,b)": a - b, "v(b,a)": b - a}
    values = {sympy.Symbol(name, real=True): volt for name, volt in volts.items()}
    for text, expected in zip(SOURCE, in_ngspice(lines, len(SOURCE)), strict=True):
        assert float(parse_expression(text, "case").subs(values)) == pytest.approx(expected, rel=1e-9), text


def test_symbols_are_real_and_named_as_written() -> None:
    found = parse_expression("RON*v( P , n )+i(Vs)*time", "case")
    assert {s.name for s in found.free_symbols} == {"ron", "v(p,n)", "i(vs)", "time"}
    assert all(s.is_real for s in found.free_symbols)
    assert parse_expression("v(a,a)+v(0)", "case") == 0
    assert parse_expression("v(a,0)-v(0,a)", "case") == 2 * sympy.Symbol("v(a)", real=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 + ", r"cell\.cir, line 3: expression '1 \+ ': not understood at character"),
        ("foo(1)", r"function 'foo' is not known\. Known: abs"),
        ("pwr(1,2)", r"function 'pwr' is not known"),
        ("min(1)", r"function 'min' has 1 arguments\. Give it 2"),
        ("a b", r"not understood at character 3, 'b'"),
        ("2 # 3", r"not understood at character 3"),
        ("(1", r"not understood"),
        ("", r"not understood"),
    ],
)
def test_expression_that_is_none_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_expression(text, "cell.cir, line 3")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_written_number_is_read_back(value: float) -> None:
    assert number_from_text(to_text(value)) == value


@pytest.mark.parametrize("text", ["", "k", "1e", "1mil", "1.2.3", "1,5", "{x}", "--1"])
def test_number_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=rf"'{re.escape(text)}' is no number\. Write e\.g\. 1e-6"):
        number_from_text(text)


# Expressions of the time


@pytest.mark.parametrize(
    ("text", "bends"),
    [
        ("(time>0.0 ? (time/1e-5)*exp(1-time/1e-5) : 0)+(time>5e-5 ? ((time-5e-5)/1e-5)*exp(1-(time-5e-5)/1e-5) : 0)", [0.0, 5e-5]),
        ("sin(6.2831853*1e5*time)", []),
        ("3", []),
        ("0", []),
        ("time*1e4 < 0.25 ? 0 : time", [2.5e-5]),
        ("abs(time-3.3e-5)", []),
    ],
)  # fmt: skip
def test_straight_lines_follow_an_expression_of_the_time(text: str, bends: list[float]) -> None:
    stop = 1e-4
    expression = parse_expression(text, "case")
    points = sample_in_time(expression, stop)
    assert corners(expression, stop) == pytest.approx(bends)
    assert (np.diff(points[:, 0]) > 0).all()
    assert points[0, 0] == 0.0
    assert points[-1, 0] == stop
    moments = np.sort(np.random.default_rng(0).uniform(0.0, stop, 2000))
    moments = moments[[min((abs(m - b) for b in bends), default=1.0) > 1e-9 * stop for m in moments]]
    exact = np.array([float(expression.subs(sympy.Symbol("time", real=True), m)) for m in moments[::20]])
    found = np.interp(moments[::20], points[:, 0], points[:, 1])
    assert np.abs(found - exact).max() <= 1e-6 * max(np.abs(exact).max(), 1e-300)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v(a)*time", r"depends on v\(a\)\. Write numbers in their place"),
        ("1/(time-5e-5)", r"is not finite between 0 s and 0\.0001 s"),
        ("sin(1e6*time)>0 ? 1 : 0", r"changes too abruptly near .* s\. Write the change as a condition on the time"),
    ],
)
def test_expression_of_the_time_that_cannot_be_sampled_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sample_in_time(parse_expression(text, "case"), 1e-4)
