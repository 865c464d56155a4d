"""Words of VACASK's dialect: names, numbers, expressions, and what stands after the nodes of each kind of element."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import sympy
from sympy.printing.str import StrPrinter

from memprop.circuit.expression import number_from_text, parse_expression
from memprop.circuit.netlist import Element
from memprop.deck.deck import Transient
from memprop.deck.numbers import to_text
from memprop.errors import InputError

_RESERVED = frozenset((
    "control", "embed", "endc", "ends", "endsection", "global", "ground", "include", "load", "model", "parameters", "section",
    "subckt", "inf", "nan",
))  # fmt: skip
"""Names that VACASK refuses for nodes, elements or parameters; found by giving it thousands."""
_SAFE = re.compile(r"[a-z_][a-z0-9_]*|0|[1-9][0-9]*")
OWN = "z_"
"""Beginning of the names that the translation makes."""
_SHAPE = re.compile(r"(?:.*\s)?(pwl|pulse|sin|exp)\b\s*(.*)$", re.DOTALL)
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
_DIFFERENCE = re.compile(rf"({_NUMBER})-({_NUMBER})")
_NUMERIC = re.compile(r"[-+.\d]")
_ARGUMENT = re.compile(r"(?:[^\s,()]|\([^()]*\))+")


def vacask_name(name: str) -> str:
    """Return ``name`` as VACASK takes it: the same, or in hexadecimal where it would not read it as one name."""
    if _SAFE.fullmatch(name) and name not in _RESERVED and not name.startswith(OWN):
        return name
    return f"{OWN}h{name.encode().hex()}"


def vacask_node(name: str) -> str:
    """Return node ``name`` as VACASK takes it; ``gnd`` is ground, as in ngspice."""
    return "0" if name == "gnd" else vacask_name(name)


def is_number(text: str) -> bool:
    """Return whether ``text`` is a number or an expression of numbers only."""
    try:
        return not parse_expression(text, "").free_symbols
    except InputError:
        return False


class _Printer(StrPrinter):
    """Prints sympy in VACASK's words. All numbers are floats."""

    def _print_Float(self, expr: sympy.Float) -> str:  # noqa: N802 - names that sympy prescribes
        return to_text(float(expr))

    def _print_Integer(self, expr: sympy.Integer) -> str:  # noqa: N802
        return to_text(float(expr))

    def _print_Rational(self, expr: sympy.Rational) -> str:  # noqa: N802
        return to_text(float(expr))

    def _print_Exp1(self, expr: sympy.Expr) -> Any:  # noqa: N802, ARG002
        return "exp(1.0)"

    def _print_Symbol(self, expr: sympy.Symbol) -> str:  # noqa: N802
        return vacask_name(expr.name)

    def _print_Pow(self, expr: sympy.Pow, rational: bool = False) -> str:  # noqa: N802, ARG002
        base, exponent = self._print(expr.base), self._print(expr.exp)
        if expr.exp == -1:
            return f"(1.0/({base}))"
        return f"exp({exponent})" if expr.base == sympy.E else f"pow({base}, {exponent})"

    def _print_Mul(self, expr: sympy.Mul) -> str:  # noqa: N802
        return "*".join(f"({self._print(factor)})" for factor in expr.args)

    def _print_sign(self, expr: sympy.Expr) -> str:
        argument = self._print(expr.args[0])
        return f"(({argument})>0.0 ? 1.0 : (({argument})<0.0 ? -1.0 : 0.0))"

    def _print_ceiling(self, expr: sympy.Expr) -> str:
        return f"ceil({self._print(expr.args[0])})"

    def _print_Abs(self, expr: sympy.Abs) -> str:  # noqa: N802
        return f"abs({self._print(expr.args[0])})"

    def _print_Min(self, expr: sympy.Min) -> str:  # noqa: N802
        return functools.reduce(lambda one, other: f"min({one}, {other})", map(self._print, expr.args))

    def _print_Max(self, expr: sympy.Max) -> str:  # noqa: N802
        return functools.reduce(lambda one, other: f"max({one}, {other})", map(self._print, expr.args))

    def _print_Piecewise(self, expr: sympy.Piecewise) -> str:  # noqa: N802
        *cases, last = expr.args
        text = self._print(last.args[0])
        for value, condition in reversed([case.args for case in cases]):
            text = f"({self._print(condition)} ? {self._print(value)} : {text})"
        return text

    def _print_Relational(self, expr: Any) -> str:  # noqa: N802
        return f"(({self._print(expr.lhs)}){expr.rel_op}({self._print(expr.rhs)}))"

    def _print_And(self, expr: sympy.And) -> str:  # noqa: N802
        return "(" + "&&".join(map(self._print, expr.args)) + ")"

    def _print_Or(self, expr: sympy.Or) -> str:  # noqa: N802
        return "(" + "||".join(map(self._print, expr.args)) + ")"

    def _print_log(self, expr: sympy.log) -> str:
        return f"ln({self._print(expr.args[0])})"


@functools.lru_cache(maxsize=10_000)
def _printed(text: str) -> str:
    expression = parse_expression(text, "value", parameter=True)
    wrong = sorted(str(s) for s in expression.free_symbols if "(" in str(s) or str(s) in ("time", "temper"))
    if wrong:
        raise InputError(f"'{text}' depends on {wrong[0]}; here numbers and parameters are allowed. Use Verilog-A.")
    return str(_Printer().doprint(expression))


def value_text(text: str, where: str) -> str:
    """Return the text of a number, or of an expression of parameters; ``where`` says where it stands, for messages.

    Raises
    ------
    InputError: it is neither.
    """
    try:
        return to_text(float(text))
    except ValueError:
        pass
    if pair := _DIFFERENCE.fullmatch(text):  # a crossbar has 100,000 of these
        return to_text(float(pair[1]) - float(pair[2]))
    try:
        return _printed(text)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def assigned(values: Mapping[str, str], where: str) -> str:
    """Return `` name=value`` for each parameter."""
    return "".join([f" {vacask_name(name)}={value_text(text, where)}" for name, text in values.items()])


# Elements


def _passive(element: Element, analysis: Transient) -> str:  # noqa: ARG001 - one signature for all writers
    letter = element.kind
    _refuse_others(element, {"m", letter, "ic"})  # ic counts only with uic, which no deck uses
    text = element.value or element.parameters.get(letter, "")
    if not text:
        raise InputError(f"{element.place}: no value. Write {element.name} NODE NODE VALUE.")
    return f"{OWN}{letter} {letter}={value_text(text, element.place)}{_factor(element)}"


def _factor(element: Element) -> str:
    return f" $mfactor={value_text(element.parameters['m'], element.place)}" if "m" in element.parameters else ""


def _refuse_others(element: Element, known: set[str]) -> None:
    others = sorted(set(element.parameters) - known)
    if others:
        raise InputError(f"{element.place}: parameter '{others[0]}' is not translated for VACASK. Leave it out.")


def _voltage_controlled(element: Element, analysis: Transient) -> str:  # noqa: ARG001
    if len(element.nodes) != 4:
        raise InputError(f"{element.place}: only linear controlled sources are translated for VACASK. Use Verilog-A.")
    _refuse_others(element, {"m"})
    return f"{OWN}{element.kind} gain={value_text(element.value, element.place)}{_factor(element)}"


def _current_controlled(element: Element, analysis: Transient) -> str:  # noqa: ARG001
    _refuse_others(element, {"m"})
    control, _, gain = element.value.partition(" ")
    if not gain:
        raise InputError(f"{element.place}: '{element.value}' names no source and gain. Write NODE NODE SOURCE GAIN.")
    return (
        f'{OWN}{element.kind} ctlinst="{vacask_name(control)}" gain={value_text(gain, element.place)}{_factor(element)}'
    )


def _instance(element: Element, analysis: Transient) -> str:  # noqa: ARG001
    return f"{vacask_name(element.value)}{assigned(element.parameters, element.place)}"


def _source(element: Element, analysis: Transient) -> str:
    """Return model and waveform of an independent source."""
    found = _waveform(element)
    if found is None:
        text = element.value.split(" ac ")[0].strip().removeprefix("dc").strip().removeprefix("=")
        return f"{OWN}{element.kind} dc={value_text(text, element.place)}"
    shape, arguments = found
    values = [value_text(text, element.place) for text in arguments]
    return f"{OWN}{element.kind} {_WAVES[shape](values, element, analysis)}"


def _waveform(element: Element) -> tuple[str, list[str]] | None:
    """Return kind and arguments of a source's waveform, or None for a constant; ``exp(x)`` alone is an expression.

    Raises
    ------
    InputError: something stands after the waveform.
    """
    match = _SHAPE.match(element.value)
    if match is None:
        return None
    inside = match[2].strip()
    rest = ""
    if inside.startswith("("):
        inside, _, rest = inside[1:].rpartition(")")
    arguments = _ARGUMENT.findall(inside)
    if len(arguments) < 2:
        return None
    if rest.strip():
        raise InputError(f"{element.place}: '{rest.strip()}' after the waveform is not translated. Leave it out.")
    return match[1], arguments


def _pwl(values: list[str], element: Element, analysis: Transient) -> str:  # noqa: ARG001
    if len(values) % 2 or len(values) < 4:
        raise InputError(f"{element.place}: pwl needs two or more pairs of time and value.")
    return f'type="pwl" break="all" wave=[{", ".join(values)}]'


def _sin(values: list[str], element: Element, analysis: Transient) -> str:  # noqa: ARG001
    if not 3 <= len(values) <= 6:
        raise InputError(
            f"{element.place}: sin needs offset, amplitude and frequency, and may have delay, damping, phase."
        )
    names = ("sinedc", "ampl", "freq", "delay", "theta", "tdphase")
    return 'type="sine"' + "".join(f" {name}={value}" for name, value in zip(names, values, strict=False))


def _exp(values: list[str], element: Element, analysis: Transient) -> str:  # noqa: ARG001
    if len(values) != 6:
        raise InputError(f"{element.place}: exp needs all of its six values.")
    names = ("val0", "val1", "delay", "tau1", "td2", "tau2")
    values = [*values[:4], f"{values[4]}-({values[2]})", values[5]]
    return 'type="exp"' + "".join(f" {name}={value}" for name, value in zip(names, values, strict=True))


def _pulse(values: list[str], element: Element, analysis: Transient) -> str:
    """Return a pulse; ngspice takes the step for edges of no length and the stop time for a width of none."""
    if not 2 <= len(values) <= 7:
        raise InputError(f"{element.place}: pulse needs two levels, and may have delay, rise, fall, width, period.")
    step, stop = to_text(analysis.max_step), to_text(analysis.stop)
    missing = ("0.0", "0.0", "0.0", step, step, stop, "0.0")
    given = [*values, *missing[len(values) :]]
    given = [missing[k] if k in (3, 4, 5) and value in ("0.0", "-0.0") else value for k, value in enumerate(given)]
    names = ("val0", "val1", "delay", "rise", "fall", "width", "period")
    return 'type="pulse"' + "".join(f" {name}={value}" for name, value in zip(names, given, strict=True))


def pwl_times(element: Element) -> list[float]:
    """Return the times in s at which a piecewise linear source bends, as far as they are written as numbers."""
    found = _waveform(element) if element.kind in "vi" and "pwl" in element.value else None
    if found is None or found[0] != "pwl":
        return []
    return [number_from_text(time) for time in found[1][::2] if _NUMERIC.match(time)]


_WAVES: Mapping[str, Callable[[list[str], Element, Transient], str]] = {
    "pwl": _pwl,
    "sin": _sin,
    "pulse": _pulse,
    "exp": _exp,
}
WRITERS: Mapping[str, Callable[[Element, Transient], str]] = {
    **dict.fromkeys("rcl", _passive), **dict.fromkeys("vi", _source), **dict.fromkeys("eg", _voltage_controlled),
    **dict.fromkeys("fh", _current_controlled), "x": _instance, "d": _instance, "b": _source,
}  # fmt: skip
VALUES: Mapping[str, str] = {
    **{letter: letter for letter in "rcl"},
    **dict.fromkeys("vi", "dc"),
    **dict.fromkeys("efgh", "gain"),
}
"""Parameter that holds the value of an element, by letter."""
