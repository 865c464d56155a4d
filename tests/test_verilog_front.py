"""Reader of Verilog-A: what it refuses, where, and what it says to write instead; what it leaves out; what it warns of."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from memprop.device.equations import Equations
from memprop.device.verilog_a.module import parse_verilog, read_verilog
from memprop.errors import InputError, VerilogError

# ruff: noqa: E501 - modules are one line each
FILES = Path(__file__).parent / "verilog_a"
HEAD = '`include "constants.vams"\n`include "disciplines.vams"\n'
SECONDS = 20.0
"""Time that any text may take; most take milliseconds."""


def module(body: str, before: str = "") -> str:
    return f"{HEAD}{before}module dut(p, n);\ninout p, n;\nelectrical p, n;\nreal x, y, z; integer i, j;\n{body}\nendmodule\n"


def analog(body: str) -> str:
    return module(f"analog begin\n{body}\nend")


def read(text: str) -> Equations:
    return parse_verilog(text, "dut.va")


def expected_place(text: str) -> tuple[str, str]:
    """Return the text without its mark, and the place of the mark."""
    position = text.index("@@")
    line = text.count("\n", 0, position) + 1
    return text.replace("@@", ""), f"dut.va:{line}:{position - text.rfind(chr(10), 0, position)}: "


WRITER = "analog function real f; input a; output b; real a, b; begin b = 2*a; f = 0; end endfunction\n"
LATER = "I(p,n) <+ V(p,n);"
REFUSED = {
    # text with @@ before the token that is wrong: what, remedy
    "macro_unknown": (module("analog I(p,n) <+ V(p,n) / @@`RES;"), "macro `RES is not defined", "Define it with `define"),
    "macro_header": ("module m(p); analog I(p) <+ @@`P_Q; endmodule", "macro `P_Q is not defined", 'Add `include "constants.vams"'),
    "macro_arguments": (module("analog @@`f(1, 2)", "`define f(a) I(p,n) <+ a;\n"), "takes 1 arguments, here are 2", "Correct the call"),
    "macro_bare": (module("analog @@`f;", "`define f(a) I(p,n) <+ a;\n"), "macro `f takes arguments", "Write `f(...)"),
    "macro_open": (module("analog @@`f(V(p,n);", "`define f(a) I(p,n) <+ a;\n"), "call of macro `f is not closed", "Add the parenthesis"),
    "macro_circle": (module("analog @@`f;", "`define f `f\n"), "nested more than 50 deep", "Break the circle"),
    "ifdef_open": ("@@`ifdef A\nmodule m(p); endmodule", "`ifdef without `endif", "Add the `endif"),
    "endif": ("module m(p);\n@@`endif\nendmodule", "`endif without `ifdef", "Remove it"),
    "else_twice": ("`ifdef A\n`else\n@@`else\n`endif", "`else after `else", "Remove one"),
    "include_missing": ('@@`include "other.va"\n', "included file 'other.va' is not there", "Put it beside the file"),
    "include_bare": ("@@`include other\n", "`include without a file in quotes", 'Write `include "constants.vams"'),
    "define_bare": ("@@`define\n", "`define without a name", "Write `define NAME text"),
    "comment_open": (module("@@/* no end"), "a comment /* that is not closed", "Add the */"),
    "string_open": (analog('$strobe(@@"no end);'), "a string that is not closed", 'Add the "'),
    "attribute_open": (module('@@(* desc = "no end" real y;'), "an attribute (* that is not closed", "Add the *)"),
    "nul": (module("analog I(p,n) <+ V(p,n)@@\0;"), "a character of value 0", "Save the file as plain UTF-8"),
    "semicolon": (analog("x = V(p,n)\n@@y = 2;"), "'y' cannot stand here", "Perhaps a semicolon is missing"),
    "scale": (module("analog I(p,n) <+ 1@@E * V(p,n);"), "'E' cannot stand here", "write e18"),
    "end_missing": ("module dut(p, n); analog begin I(p,n) <+ 1@@;", "the file ends too early", "Close what is open"),
    "header_parameters": ("module dut @@#(parameter real g = 1) (p, n); endmodule", "'#' cannot stand here", "Declare parameters in the module"),
    "digital": (module("@@always x = 1;"), "cannot stand here", "Write an analog block"),
    "bus": (module("electrical @@b[0:3];"), "bus 'b'", "Use one scalar node per line"),
    "bus_port": ("module dut(@@inout [3:0] b); endmodule", "bus 'b'", "Use one scalar port per line"),
    "no_port": (module("inout @@q;"), "'q' is no port", "Add it to the port list"),
    "discipline": (module("@@optical q;"), "discipline 'optical' of 'q' is not known", "Write electrical"),
    "instance": (module("@@resistor r1(p, n);"), "an instance of module 'resistor'", "Write its equations into this module"),
    "array": (module("real @@g[0:2];"), "array 'g'", "Use one variable per element"),
    "array_parameter": (module("parameter real @@g[0:1] = '{1, 2};"), "array parameter 'g'", "Use one parameter per element"),
    "element": (analog(f"x = @@y[2]; {LATER[:-1]}*x;"), "element of array 'y'", "Use one variable per element"),
    "string_variable": (module("@@string s;"), "string variable 's'", "Use an integer"),
    "case_twin": (module("parameter real ap = 1;\nparameter real @@Ap = 2;"), "'ap' and 'Ap' differ only in case", "rename one"),
    "declared_twice": (module("parameter real a = 1;\nparameter real @@a = 2;"), "parameter 'a' is declared twice", "rename one"),
    "range_list": (module("parameter integer a = 1 from @@'{1, 2};"), "a range of parameter 'a'", "Write from [low:high]"),
    "hidden_access": (module("parameter real V = 1; analog I(p,n) <+ @@V(p,n);"), "hides the access function V()", "Rename 'V'"),
    "parameter_set": (module("parameter real a = 1; analog begin @@a = 2; I(p,n) <+ a; end"), "'a' is a parameter and cannot be set", "Use a variable"),
    "not_declared": (analog("@@w = 2;"), "'w' is not declared", "Declare it: real w;"),
    "name_unknown": (analog("I(p,n) <+ @@w;"), "'w' is not declared", "Declare it: real w;"),
    "node_value": (analog("I(p,n) <+ @@p;"), "'p' is a node or branch", "Write V(p)"),
    "node_unknown": (analog("I(p,@@q) <+ 1;"), "'q' is no node", "Declare it: electrical q;"),
    "self_branch": (analog("@@I(p,p) <+ 1;"), "a branch from 'p' to itself", "Name two different nodes"),
    "branch_node": (module("@@branch (p, q) b;"), "branch 'b': 'q' is no node", "Declare it: electrical q;"),
    "port_branch": (module("branch (@@<p>) b;"), "the port branch <p>", "between two nodes"),
    "port_flow": (analog("I(p,n) <+ I(@@<p>);"), "the port flow <p>", "Read the current of a branch"),
    "three_nodes": (analog("@@I(p,n,p) <+ 1;"), "I() with 3 nodes", "Name one node, two nodes, or a branch"),
    "access_unknown": (analog("@@Q(p,n) <+ 1;"), "'Q' is no access function", "Use V() and I()"),
    "no_resistance": (analog("@@V(p,n) <+ 2;"), "V(p,n) <+ that is no resistance times I(p,n)", "Write the current: I(p,n) <+"),
    "inductor": (analog("V(p,n) <+ 1e-9*@@ddt(I(p,n));"), "ddt() of a flow", "an internal node"),
    "short": (analog("@@V(p,n) <+ 0;"), "V(p,n) <+ 0: a short", "Use one node instead of two"),
    "collapse": (
        module("parameter real r = 0; electrical m; analog begin I(p,m) <+ V(p,m);\nif (r > 0) I(m,n) <+ V(m,n)/r; else @@V(m,n) <+ 0; end"),
        "V(m,n) <+ 0 beside a current: the branch is a resistor or a short", "Fix the parameter so that the branch stays resistive",
    ),
    "both": (analog("I(p,n) <+ V(p,n); @@V(p,n) <+ 2*I(p,n);"), "gets both a voltage and a current", "Contribute a current only"),
    "indirect": (analog("@@V(p) : V(n) == 0;"), "an indirect contribution", "on an internal node"),
    "current_unset": (module("branch (p,n) b; analog I(p,n) <+ @@I(b) + V(p,n);"), "I(b) is read, but nothing is contributed", "use V(b)"),
    "current_circle": (analog("I(p,n) <+ V(p,n) + 0.5*exp(@@I(p,n));"), "I(p,n) is read and depends on itself", "an internal node"),
    "current_ddt": (module("branch (p,n) b; analog begin I(b) <+ ddt(V(b)); I(p,n) <+ V(p,n)*@@I(b); end"), "depends on a ddt()", "without ddt()"),
    "ddt_function": (analog("I(p,n) <+ exp(@@ddt(V(p,n)));"), "ddt() inside a condition or function", "as a term of a contribution"),
    "ddt_twice": (analog("I(p,n) <+ @@ddt(ddt(V(p,n)));"), "ddt() of a derivative", "a state"),
    "ddt_factor": (analog("@@I(p,n) <+ V(p,n) * ddt(V(p,n));"), "ddt() with a factor that depends on voltages", "Write ddt(factor * charge)"),
    "idt": (analog("I(p,n) <+ @@idt(V(p,n), 0);"), "function 'idt'", "Write the integral as a state"),
    "idt_state": (module("electrical s; analog begin V(s) <+ @@idt(V(p,n), 1); I(p,n) <+ V(s); end"), "function 'idt'", "I(x) <+ ddt(V(x))"),
    "time": (analog("x = @@$abstime; I(p,n) <+ x;"), "'$abstime'", "must not know the time"),
    "transition": (analog("I(p,n) <+ @@transition(V(p,n));"), "function 'transition'", "a smooth function of voltages"),
    "random": (analog("I(p,n) <+ @@$rdist_normal(1, 0, 1);"), "function '$rdist_normal'", "Draw random numbers outside"),
    "ddx_used": (analog("x = @@ddx(V(p,n), V(p)); I(p,n) <+ x;"), "function 'ddx'", "Write the derivative out"),
    "given": (module("parameter real a = 1; analog if (@@$param_given(a)) I(p,n) <+ V(p,n);"), "function '$param_given'", "mark 'not given'"),
    "unknown_function": (analog("I(p,n) <+ @@foo(V(p,n));"), "function 'foo'", "define it as an analog function"),
    "wrong_count": (analog("I(p,n) <+ @@pow(V(p,n));"), "pow() with 1 arguments", "It takes 2"),
    "task": (analog("@@$fopen(1);"), "task '$fopen'", "outside of the device"),
    "kept": (analog("y = @@x + V(p,n); x = y; I(p,n) <+ y;"), "'x' is read before every way to here has set it", "give it an internal node"),
    "kept_sometimes": (analog("if (V(p,n) > 0) x = 1;\nI(p,n) <+ @@x;"), "would keep a value from the time point before", "Set 'x' first"),
    "kept_start": (module("real s = 0.5; analog begin s = @@s + V(p,n); I(p,n) <+ s; end"), "variable 's' is read before", "an internal node"),
    "kept_event": (analog("@(initial_step) x = 0;\nx = @@x + V(p,n); I(p,n) <+ x;"), "variable 'x' is read before", "an internal node"),
    "never_set": (analog("I(p,n) <+ @@x * V(p,n);"), "variable 'x' is read and never set", "make it a parameter"),
    "event": (analog("@@@(cross(V(p,n), 1)) x = 1;"), "an event @(cross)", "Open simulators lose what events store"),
    "event_voltage": (analog("@(initial_step)\n@@x = V(p,n);\nI(p,n) <+ x;"), "'x' is set once, at the start, from voltages", "lose what events store"),
    "event_current": (analog("@(initial_step) @@I(p,n) <+ 1;"), "a contribution inside an event", "Move it to the analog block"),
    "zero_division": (analog("I(p,n) <+ V(p,n) / @@0;"), "division by zero", "Correct the expression"),
    "not_finite": (analog("I(p,n) <+ V(p,n) * @@exp(1e9);"), "numbers that give no finite number", "Correct the expression"),
    "whole_division": (module("parameter integer a = 1; analog I(p,n) <+ V(p,n)*(3/@@a);"), "division of two integers", "Write 1.0 * a / b"),
    "rounded": (analog("i = @@V(p,n); I(p,n) <+ i;"), "a real value given to an integer", "Declare the variable real"),
    "remainder": (analog("I(p,n) <+ @@V(p,n) % 2;"), "the remainder % of what is no integer", "Write a closed form"),
    "bits": (analog("I(p,n) <+ @@1 << 2;"), "an operator on bits", "Use arithmetic"),
    "string_value": (analog('I(p,n) <+ @@"abc";'), "a string in an expression", "Use an integer parameter"),
    "loop_parameter": (module("parameter integer k = 3; analog begin repeat (@@k) x = 1; I(p,n) <+ x; end"), "depends on the parameter k", "localparam"),
    "loop_voltage": (analog("x = V(p,n); while (@@x < 1) x = x + 1; I(p,n) <+ x;"), "a loop whose end depends on voltages", "write the steps out"),
    "loop_endless": (analog("x = 0; @@while (1) x = x + 1; I(p,n) <+ x;"), "a loop of more than 2000 rounds", "closed form"),
    "function_result": (
        module("analog function real f; input a; real a; if (a > 0) f = 1; endfunction\nanalog I(p,n) <+ @@f(V(p,n));"),
        "variable 'f' is read before every way", "Set 'f' first",
    ),
    "function_output": (
        module("analog function real f; input a; output b; real a, b; begin b = a; f = a; end endfunction\nanalog I(p,n) <+ f(V(p,n), @@1);"),
        "an output argument of f() that is no variable", "Give a declared variable",
    ),
    "function_count": (module(WRITER + "analog begin f(@@1); I(p,n) <+ V(p,n); end").replace("f(@@1)", "@@f(1)"), "f() with 1 arguments", "It takes 2"),
    "output_lost": (module(WRITER + "analog begin y = 1; x = f(V(p,n), y) + @@ddx(V(p,n), V(p)); I(p,n) <+ y; end"), "function 'ddx'", "Write the derivative out"),
    "output_chosen": (module(WRITER + "analog begin y = 1; x = @@V(p,n) > 0 ? f(1, y) : 0; I(p,n) <+ x; end"), "an alternative of ? :", "Write an if statement"),
    "output_behind_and": (module(WRITER + "analog begin y = 1; if (V(p,n) > 0 && @@f(1, y) > 0) x = 1; else x = 2; I(p,n) <+ x; end"), "behind && or ||", "Call it in a statement"),
    "function_voltage": (module("analog function real f; input a; f = @@V(p); endfunction\nanalog I(p,n) <+ f(1);"), "V() inside an analog function", "as an argument"),
    "function_self": (module("analog function real f; input a; f = @@f(a); endfunction\nanalog I(p,n) <+ f(1);"), "more than 20 deep, here 'f'", "closed form"),
    "no_current": (module("electrical @@q; analog I(p,n) <+ V(p,n);"), "internal node 'q' gets no current", "Contribute to it: I(q) <+"),
    "nothing": (f"@@{analog('x = 1;').removeprefix(HEAD)}", "module dut contributes nothing", "Write I(p, n) <+"),
    "only_noise": (f"@@{analog('I(p,n) <+ white_noise(1e-20, @n@);'.replace('@n@', chr(34) + 'n' + chr(34))).removeprefix(HEAD)}", "nothing but noise", "Write I(p, n) <+"),
    "deep": (analog(f"I(p,n) <+ {'-' * 116}@@{'-' * 50}V(p,n);"), "nested more than 120 deep", "Use variables"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusal_names_the_place_of_the_token_and_what_to_write_instead(name: str) -> None:
    text, what, remedy = REFUSED[name]
    text, place = expected_place(text)
    with pytest.raises(VerilogError) as caught:
        read(text)
    message = str(caught.value)
    assert message.startswith(place)
    assert what in message
    assert remedy in message
    assert message.endswith(".")


FOREIGN = {
    "adms_analogfunction": ":3:1: module myanalogfunction contributes nothing",
    "evas_noise_gen": r":36:9: an event @\(timer\)",
    "javanovice_array_demo": ":24:26: array parameter 'w'",
    "javanovice_t12_params": ":3:16: '#' cannot stand here",
    "javanovice_t17_loops": ":16:11: a repeat whose count depends on the parameter NS. Make it a localparam",
    "leonardo_resistor_naolinear": r":29:13: 'V' is a variable or parameter here and hides the access function V\(\)",
    "openvaf_amplifier": r":29:9: V\(Outp\) <\+ that is no resistance",
    "openvaf_diode": r":81:13: V\(br_ci_c\) <\+ 0 beside a current",
    "openvaf_diode_lim": r":69:13: V\(br_ci_c\) <\+ 0 beside a current",
    "openvaf_noise": ":4:1: module noise_test contributes nothing, or nothing but noise",
    "openvaf_rt_diode_with_conditionals": ":47:29: function 'idt'",
    "openvafr_arrays": ":21:10: array 'g'",
    "openvafr_cross_latch": r":17:9: an event @\(cross\)",
    "openvafr_math_intrinsics": r":42:21: function '\$clog2'",
    "sky130_reram_cell": ":96:29: variable 'Tfilament_current' is read before every way to here has set it, so it would keep a value",
}
TAKEN = (
    "javanovice_t15_namedblock", "ngspice_resistor", "openvaf_cccs", "openvaf_strings", "qucs_andor4x2", "qucs_log_amp", "qucs_mod_amp",
    "qucs_potentiometer", "qucs_s_tunnel", "qucs_vcresistor", "vamodels_photodiode", "waterfirst_ptft_hyst", "waterfirst_tft_aging",
)  # fmt: skip


def test_every_file_of_others_is_accounted_for() -> None:
    assert {path.stem for path in FILES.glob("*.va")} == {*FOREIGN, *TAKEN, "arm_vectorial_fn"}


@pytest.mark.parametrize("name", FOREIGN)
def test_file_of_others_outside_of_the_subset_is_refused_at_its_place(name: str) -> None:
    with pytest.raises(VerilogError, match=name + r"\.va" + FOREIGN[name]):
        read_verilog(FILES / f"{name}.va")


@pytest.mark.parametrize("name", TAKEN)
def test_file_of_others_is_read_fast(name: str) -> None:
    start = time.perf_counter()
    equations = read_verilog(FILES / f"{name}.va")
    assert equations.compact.lets == ()
    assert time.perf_counter() - start < SECONDS
    assert equations.flows


# What is left out, and warned of


def notes(text: str) -> str:
    return "\n".join(f"{note.kind} {note.text}" for note in read(text).notes)


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (analog(f'{LATER} I(p,n) <+ white_noise(1e-20, "a");'), r"remark dut\.va:8:29: noise is left out: white_noise\(\)"),
        (analog('I(p,n) <+ $limit(V(p,n), "pnjlim", 1, 2);'), r"remark .*8:11: \$limit\(\) is taken as its first argument"),
        (analog(f"$bound_step(1); {LATER}"), r"remark dut\.va:8:1: \$bound_step is left out"),
        (analog('I(p,n) <+ V(p,n)*$simparam("gmin");'), r'remark .*\$simparam\("gmin"\) is taken as 1e-12'),
        (analog('I(p,n) <+ V(p,n)*$simparam("none", 2);'), r'remark .*\$simparam\("none"\) is taken as its default'),
        (analog("@(initial_step) x = 2; I(p,n) <+ x*V(p,n);"), r"remark .*@\(initial_step\) sets is taken as constant"),
        (analog(f"@(final_step) $strobe(1); {LATER}"), r"remark .*@\(final_step\) is left out"),
        (module("parameter real b = 0.0 from (0:inf); analog I(p,n) <+ b*V(p,n);"), r"remark .*7:20: default 0\.0 of parameter 'b' is out of "
         r"its own range: it must be above 0\.0"),
        (module('parameter real b = 5 from [0:2] (*units="V"*); analog I(p,n) <+ b*V(p,n);'), r"default 5\.0 V of .* it must be at most 2\.0"),
        (module("parameter real a = 1; parameter real b = 2 from [a:10]; analog I(p,n) <+ b*V(p,n)*a;"), r"remark .*the range of parameter 'b' "
         r"depends on others and is taken as at least 1\.0"),
        (module("parameter real a = 3; parameter real b = 2*a; analog I(p,n) <+ b*V(p,n)*a;"), r"warning .*default of parameter 'b' .* as 6\.0"),
        (module('parameter string s = "x"; analog if (s == "x") I(p,n) <+ V(p,n);'), r'warning .*string parameter \'s\' is fixed at its default "x"'),
        (analog("begin : b\nreal g = 1; g = g + 1; I(p,n) <+ g*V(p,n); end"), r"warning .*'g' is taken to begin anew"),
        (module("aliasparam q = r; parameter real r = 1; analog I(p,n) <+ r*V(p,n);"), "remark .*aliasparam q is left out; use r"),
        (analog("I(p,n) <+ atan2(V(p,n), 1);"), r"warning .*OpenVAF differentiates atan2\(\) wrongly"),
        (analog("I(p,n) <+ exp(V(p,n)/0.01);"), r"warning exp of V\(p,n\) can overflow: write limexp"),
        (analog("x = V(p,n); if (x > 0) y = x; else y = 0; I(p,n) <+ y;"), r"warning if of V\(p,n\): a kink or jump"),
        (module("electrical s; analog begin I(s) <+ ddt(V(s)); I(s) <+ -V(p,n); I(p,n) <+ V(s); end"), "state 's' does not appear in its own rate"),
        (module("electrical s; analog begin I(s) <+ ddt(V(s)); I(s) <+ -V(p,n)*V(s); I(p,n) <+ V(s); end"), "state 's' keeps any value at zero bias"),
    ],
)  # fmt: skip
def test_what_is_left_out_or_risky_is_noted(text: str, note: str) -> None:
    assert re.search(note, notes(text)), notes(text)


@pytest.mark.parametrize(
    "body",
    [
        "I(p,n) <+ exp(80*tanh(V(p,n)/0.01));",
        "I(p,n) <+ limexp(V(p,n)/0.01);",
        "I(p,n) <+ tanh(V(p,n));",
        "x = V(p,n); if (x > 0) y = 1; else y = 0; I(p,n) <+ x;",
    ],
)
def test_nothing_is_noted_where_nothing_is_risky(body: str) -> None:
    assert notes(analog(body)) == ""


def test_state_with_isolated_rest_points_is_not_said_to_be_lost() -> None:
    text = module(
        "electrical s; analog begin I(s,n) <+ V(p,n) - pow(V(s,n),3) + V(s,n); I(s,n) <+ ddt(-1e-5*V(s,n)); I(p,n) <+ V(p,n); end"
    )
    assert notes(text) == ""


# Declarations


def test_attributes_may_stand_before_and_after_and_everywhere() -> None:
    text = module(
        '(* units = "A", desc = "a, b" *) parameter real a = 1;\nparameter real b = 2 (* unit="V" info="after" *), c = 3 (*info="third"*);\n'
        "(* keep *) analog begin (* x *) if (V(p,n) > 0) (* y *) I(p,n) <+ a*b*c*V(p,n) (* z *); end"
    )
    found = read(text).parameters
    assert [(found[k].unit, found[k].description) for k in "abc"] == [("A", "a, b"), ("V", "after"), ("", "third")]


def test_macro_arguments_are_not_divided_in_strings_and_brackets() -> None:
    macro = "`define P(n,d,u,t) (* units=u, desc=t *) parameter real n = d;\n"
    found = read(module('`P(a, min(1,2), "A,B", "x, (y")\nanalog I(p,n) <+ a*V(p,n);', macro)).parameters["a"]
    assert (found.default, found.unit, found.description) == (1.0, "A,B", "x, (y")


def test_disciplines_of_the_file_have_their_access_functions() -> None:
    own = "nature Fill; units = 1; access = fill; abstol = 1u; endnature\ndiscipline filled potential Fill; flow Current; enddiscipline\n"
    text = module(
        "filled f; ground g; electrical g; analog begin I(f,g) <+ fill(f) - V(p,n); I(p,n) <+ fill(f)*V(p,n); end", own
    )
    assert read(text).nodes == ("f",)


def test_ports_may_be_declared_in_the_header_or_left_without_discipline() -> None:
    text = f"{HEAD}module m(inout electrical p, inout n); analog I(p,n) <+ V(p,n); endmodule"
    assert read(text).ports == ("p", "n")
    assert read(f"{HEAD}module m; electrical a; analog I(a) <+ V(a) - 1; endmodule").ports == ()


def test_range_and_excluded_values_are_kept() -> None:
    found = read(
        module("parameter integer a = 3 from (0:10] exclude 5 exclude 7; analog I(p,n) <+ a*V(p,n);")
    ).parameters["a"]
    assert (found.above, found.at_most, found.excluded) == (0.0, 10.0, (5.0, 7.0))


def test_one_of_several_modules_is_read_by_name() -> None:
    both = module("analog I(p,n) <+ V(p,n);") + "module other(a); electrical a; analog I(a) <+ 2*V(a); endmodule\n"
    with pytest.raises(
        InputError, match=r"dut\.va: holds the modules dut, other\. Keep one per file, or name the one to read"
    ):
        read(both)
    assert parse_verilog(both, module="other").ports == ("a",)
    with pytest.raises(InputError, match=r"has no module 'third'\. It holds dut, other"):
        parse_verilog(both, module="third")


# Texts that mean no good


def many(count: int, text: str) -> str:
    return "".join(text.replace("#", str(k)) for k in range(count))


HOSTILE = {
    "parentheses": (analog(f"I(p,n) <+ {'(' * 9_000}V(p,n){')' * 9_000};"), None),
    "signs": (analog(f"I(p,n) <+ {'-' * 9_000}V(p,n);"), "nested more than 120 deep"),
    "operators": (analog("I(p,n) <+ " + "+".join(["1"] * 1_000_000) + ";"), "more than 150000 words"),
    "distinct_terms": (analog("I(p,n) <+ " + "+".join(f"sin({k}*V(p,n))" for k in range(2000)) + ";"), "an expression of"),
    "calls": (analog(f"I(p,n) <+ {'sin(' * 5000}V(p,n){')' * 5000};"), "nested more than 120 deep"),
    "else_if": (analog(f"if (V(p,n)>0) x=1; {'else if (V(p,n)>1) x=2; ' * 500} I(p,n) <+ x;"), "nested more than 120 deep"),
    "blocks": (analog("begin " * 9_000 + "end " * 9_000), "nested more than 120 deep"),
    "tower": (analog("I(p,n) <+ 9**9**9**9 * V(p,n);"), "no finite number"),
    "exact_power": (analog("I(p,n) <+ pow(3.7e-9*V(p,n), 0.123456789012345) + pow(3*V(p,n), 387420489);"), None),
    "literal": (analog("I(p,n) <+ 1e999999999 * V(p,n);"), "no finite number"),
    "digits": (analog(f"I(p,n) <+ 1.{'9' * 1_000_000} * V(p,n);"), None),
    "squares": (analog("x=V(p,n); for(i=0;i<1900;i=i+1) x=x*x+0.1; I(p,n) <+ x;"), None),
    "integers": (analog("i=3; for(j=0;j<1900;j=j+1) i=i*i; I(p,n) <+ i*V(p,n);"), "no finite number"),
    "nested_loops": (analog("for(i=0;i<1900;i=i+1) for(j=0;j<1900;j=j+1) x=i; I(p,n) <+ V(p,n);"), "more than 150000 steps"),
    "contributions": (analog("for(i=0;i<1900;i=i+1) I(p,n) <+ sin(i*V(p,n));"), None),
    "derivatives": (analog("x=0; for(i=0;i<1900;i=i+1) x=x+ddt(i*V(p,n)); I(p,n) <+ x;"), "more than 100 uses of ddt()"),
    "branchings": (analog("x=0; " + "if (V(p,n)>x) x=x+V(p,n); else y=x; " * 1000 + "I(p,n) <+ x;"), None),
    "cases": (analog(f"case(i) {many(900, '#: x=#; ')} endcase case (V(p,n)) {many(900, '#: x=#; ')} endcase"), "more than 100 alternatives"),
    "functions": (module(
        "analog function real f0; input x; f0=sin(x); endfunction\n"
        + "".join(f"analog function real f{k}; input x; f{k}=f{k - 1}(x)+f{k - 1}(x+1); endfunction\n" for k in range(1, 19))
        + "analog I(p,n) <+ f18(V(p,n));"
    ), "more than 150000 steps"),
    "macros": (module("analog I(p,n) <+ `a39;", "`define a0 1+1\n" + "".join(f"`define a{k} `a{k - 1}+`a{k - 1}\n" for k in range(1, 40))), "expand to more than"),
    "macro_arguments": (module(f"analog I(p,n) <+ {'`d(' * 40}1{')' * 40};", "`define d(x) (x)*(x)\n"), "expand to more than"),
    "comments": (f"{analog(LATER)}{'/*/' * 90_000}", None),
    "quotes": (analog("$strobe(" + '\\"' * 300_000), "more than 150000 words"),
    "conditions": ("`ifdef A\n" * 100_000 + "`endif\n" * 100_000 + analog(LATER), None),
    "parameters": (module(many(2_100, "parameter real q#=1;\n") + f"analog {LATER}"), "more than 2000 parameters"),
    "nodes": (module(f"electrical {','.join(f'n{k}' for k in range(900))}; analog {LATER}"), "more than 500 nodes"),
    "names": (analog(f"I(p,n) <+ {'x' * 1_000_000};"), "xxxx ..."),
    "climbing": ('`include "../../../etc/passwd"\n', "points outside"),
    "absolute": ('`include "/etc/passwd"\n', "points outside"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_ends_soon_in_an_answer_or_a_typed_error(name: str, tmp_path: Path) -> None:
    text, message = HOSTILE[name]
    start = time.perf_counter()
    if message is None:
        assert parse_verilog(text, "dut.va", tmp_path).compact.flows
    else:
        with pytest.raises(InputError, match=re.escape(message)) as caught:
            parse_verilog(text, "dut.va", tmp_path)
        assert len(str(caught.value)) < 1500
    assert time.perf_counter() - start < SECONDS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"module m(p);\n// \xe9\nendmodule", r"is no UTF-8 text: byte 0xe9 in line 2\. Save it as UTF-8"),
        (b"\xff\xfem\0o\0", r"is no UTF-8 text: byte 0xff in line 1"),
        (b"", r"holds no module\. Write `module name"),
        (b"x" * 2_000_001, r"has 2000001 bytes; 2000000 are read at most\. Split it"),
    ],
)
def test_file_that_is_no_text_of_a_model_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.va"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_verilog(path)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_verilog(tmp_path / "none.va")
    with pytest.raises(InputError, match="is no file"):
        read_verilog(tmp_path)


def test_windows_line_ends_and_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.va"
    path.write_bytes(("\ufeff" + analog(LATER).replace("\n", "\r\n")).encode())
    assert read_verilog(path).name == "dut"
