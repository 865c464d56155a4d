"""VACASK dialect: the ngspice texts of a deck -> one VACASK file, and the names under which its signals come back.

Two traps of the dialect shape this file: it divides integers as integers, so every number is written as a float; and a name
that it cannot take is written in hexadecimal and mapped back by asking for it under that name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import sympy

from memprop.circuit.expression import corners, parse_expression, sample_in_time
from memprop.circuit.netlist import Element, Model, Subcircuit
from memprop.deck.changes import Change
from memprop.deck.deck import Deck, ModelForm, VerilogModel
from memprop.deck.numbers import to_text
from memprop.deck.vacask_text import (
    OWN,
    VALUES,
    WRITERS,
    assigned,
    is_number,
    pwl_times,
    vacask_name,
    vacask_node,
    value_text,
)
from memprop.deck.verilog import INSTANCE, Library, read_library
from memprop.errors import InputError

_LIBRARIES: Mapping[str, tuple[str, str]] = {
    "r": ("resistor.osdi", "resistor"), "c": ("capacitor.osdi", "capacitor"), "l": ("inductor.osdi", "inductor"),
    "d": ("spice/diode.osdi", "sp_diode"),
}  # fmt: skip
_BUILT_IN: Mapping[str, str] = {
    "v": "vsource", "i": "isource", "e": "vcvs", "g": "vccs", "f": "cccs", "h": "ccvs",
}  # fmt: skip
_OPTIONS: Mapping[str, str] = {
    "reltol": "reltol", "abstol": "abstol", "vntol": "vntol", "chgtol": "chgtol", "gmin": "gmin", "temp": "temp", "tnom": "tnom",
    "maxord": "tran_maxord", "trtol": "tran_lteratio",
}  # fmt: skip
_METHODS: Mapping[str, str] = {"trap": "trap", "trapezoidal": "trap", "gear": "gear2"}
_TRTOL = 7
"""Default of ngspice, twice VACASK's own: with it and SPICE's formula a deck asks both programs for the same accuracy."""
_AFTER_CORNER = 0.01
"""Distance of the second break point from a corner, in largest time steps."""


@dataclass(frozen=True, slots=True)
class Translated:
    """A deck in VACASK's dialect."""

    text: str
    names: Mapping[str, str]
    """Name in ngspice's raw files, e.g. ``v(x1_col0_mem)``, -> name in VACASK's."""


def vacask_deck(deck: Deck, compiled: Mapping[str, str], further: Sequence[Sequence[Change]] = ()) -> Translated:
    """Return ``deck`` for VACASK; ``compiled`` gives the OSDI file of each Verilog-A module of the deck.

    Each of ``further`` holds changes of values after which the analysis runs again, as ``tran2``, ``tran3``, ...

    Raises
    ------
    InputError: a file is not understood, or holds what VACASK has not, such as a behavioural source of voltages.
    """
    writer = _Writer(deck, read_library(deck), compiled)
    body = writer.body()
    names = writer.names()
    lines = [f"// {deck.title}", "ground 0", *writer.head(), *body, *writer.control(names, further)]
    return Translated("\n".join(lines) + "\n", names)


def branch_name(branch: str) -> str:
    """Return VACASK's name of the current of a source, which ngspice calls e.g. ``v_e1`` or ``e.x_row.eplus``."""
    parts = branch.lower().split(".")
    if len(parts) > 2 and len(parts[0]) == 1:
        parts = parts[1:]
    return ":".join(vacask_name(part) for part in parts)


@dataclass(slots=True)
class _Writer:
    """Writes one deck; collects what its elements need besides their own lines."""

    deck: Deck
    library: Library
    compiled: Mapping[str, str]
    used: set[str] = field(default_factory=set)
    """Letters of the elements that were written."""
    corners: set[float] = field(default_factory=set)
    """Times in s at which a time step must end."""
    _known: dict[str, Subcircuit] = field(default_factory=dict)
    _computed: dict[str, set[str]] = field(default_factory=dict)
    _starting: dict[str, bool] = field(default_factory=dict)

    def head(self) -> Iterator[str]:
        """Yield what loads devices; after the body, since it tells which are used."""
        for letter in sorted(self.used):
            if letter in _LIBRARIES:
                yield f'load "{_LIBRARIES[letter][0]}"'
        for model in self.deck.verilog:
            yield f'load "{self.compiled[model.module]}"'
        for letter in sorted(self.used - {"d"}):
            yield f"model {OWN}{letter} {_BUILT_IN.get(letter) or _LIBRARIES[letter][1]}"

    def body(self) -> list[str]:
        """Return parameters, models, subcircuits and elements; only subcircuits that are used."""
        first, lines, wanted = [], [], []
        for file, netlist in self.library.netlists.items():
            first += _parameters(netlist.parameters, f"{file}, .param")
            first += [self.model(model, file) for model in netlist.models.values()]
            for element in netlist.elements:
                lines.append(self.element(element, netlist.parameters))
                wanted += [element.value] if element.kind == "x" else []
        lines = [*first, *self.subcircuits(wanted), *lines]
        return lines + ([self.corner_source()] if self.corners else [])

    def corner_source(self) -> str:
        """Return an idle source whose break points make time steps end at all corners.

        After a break point VACASK integrates in first order, with up to twice the step before. A second break point shortly
        after each corner makes it begin with a small step there, as ngspice does; without it membranes are off by a millivolt.
        """
        self.used.add("v")
        stop, gap = self.deck.transient.stop, _AFTER_CORNER * self.deck.transient.max_step
        moments = {0.0, *self.corners, *(corner + gap for corner in self.corners), stop}
        wave = _wave([(moment, 0.0) for moment in sorted(moments) if 0.0 <= moment <= stop])
        return f'{OWN}corners ({OWN}corners 0) {OWN}v type="pwl" break="all" {wave}'

    def known(self) -> dict[str, Subcircuit]:
        """Return all subcircuits by name, collected once."""
        if not self._known:
            for netlist in self.library.netlists.values():
                self._known.update(netlist.subcircuits)
        return self._known

    def computed(self, sub: Subcircuit) -> set[str]:
        """Return the parameters of a subcircuit whose defaults are no numbers."""
        if sub.name not in self._computed:
            self._computed[sub.name] = {name for name, text in sub.defaults.items() if not is_number(text)}
        return self._computed[sub.name]

    def subcircuits(self, wanted: Sequence[str]) -> list[str]:
        """Return the subcircuits with these names and those that they call."""
        known = self.known()
        lines, done, waiting = [], set(), list(dict.fromkeys(wanted))
        while waiting:
            name = waiting.pop()
            if name in done:
                continue
            done.add(name)
            if name in self.library.forms:
                lines += _compiled_form(*self.library.forms[name])
            elif name in known:
                lines += self.subcircuit(known[name])
                waiting += [element.value for element in known[name].elements if element.kind == "x"]
            else:
                raise InputError(f"subcircuit '{name}' is called and nowhere defined. Add its file to the deck.")
        return lines

    def subcircuit(self, sub: Subcircuit) -> list[str]:
        lines = [f"subckt {vacask_name(sub.name)}({' '.join(map(vacask_name, sub.ports))})"]
        lines += _parameters({**sub.defaults, **sub.parameters}, f"subcircuit {sub.name}")
        lines += [self.model(model, f"subcircuit {sub.name}") for model in sub.models.values()]
        return [*lines, *(self.element(element, {}) for element in sub.elements), "ends"]

    def model(self, model: Model, where: str) -> str:
        """Return the line of a ``.model`` card: diodes only."""
        if model.kind != "d":
            raise InputError(
                f"{where}: model '{model.name}' is of kind '{model.kind}'; diodes (d) are translated. Use Verilog-A."
            )
        self.used.add("d")
        return f"model {vacask_name(model.name)} sp_diode" + assigned(model.parameters, f"{where}, {model.name}")

    def element(self, element: Element, parameters: Mapping[str, str]) -> str:
        """Return the line of one element; ``parameters`` are those of the top level, for sources of the time."""
        write = WRITERS.get(element.kind)
        if write is None:
            raise InputError(f"{element.place}: elements of kind '{element.kind}' are not translated. Use Verilog-A.")
        if element.kind == "x":
            self.check_call(element)
        if element.kind not in "xbd":
            self.used.add(element.kind)
        nodes = " ".join([vacask_node(node) for node in element.nodes])
        head = f"{vacask_name(element.name)} ({nodes})"
        if element.kind == "b":
            return f"{head} {self.time_source(element, parameters)}"
        self.corners.update(pwl_times(element))
        return f"{head} {write(element, self.deck.transient)}"

    def check_call(self, element: Element) -> None:
        """Refuse a value for a parameter whose default is an expression: VACASK lets no instance change those."""
        sub = self.known().get(element.value)
        if sub is None or not element.parameters:
            return
        fixed = [n for n in element.parameters if n in self.computed(sub) or n in sub.parameters]
        if fixed:
            raise InputError(
                f"{element.place}: parameter '{fixed[0]}' of subcircuit '{sub.name}' is computed from others, and VACASK lets no "
                "instance change it. Give it a number as default."
            )

    def time_source(self, element: Element, parameters: Mapping[str, str]) -> str:
        """Return model and waveform of a behavioural source that depends on the time only."""
        letter, text = next(iter(element.parameters.items()), ("", ""))
        expression = parse_expression(text, element.place)
        for name, value in reversed(list(parameters.items())):
            expression = expression.subs(
                sympy.Symbol(name, real=True), parse_expression(value, element.place, parameter=True)
            )
        others = sorted(str(symbol) for symbol in expression.free_symbols - {sympy.Symbol("time", real=True)})
        if others:
            raise InputError(
                f"{element.place}: VACASK has no behavioural sources of {', '.join(others[:3])}. Write the element as a Verilog-A "
                "device and give the deck that model, or use the engine ngspice."
            )
        stop = self.deck.transient.stop
        self.corners.update(corners(expression, stop))
        self.used.add(letter)
        points = sample_in_time(expression, stop)
        return f'{OWN}{letter} type="pwl" break="none" {_wave(points.tolist())}'

    def names(self) -> dict[str, str]:
        """Return raw names: ngspice's -> VACASK's, of all that the deck asks for."""
        nodes = {f"v({node.lower()})": self.node_name(node) for node in self.deck.nodes}
        return nodes | {f"i({b.lower()})": f"{branch_name(b)}:flow(br)" for b in self.deck.branches}

    def node_name(self, node: str) -> str:
        """Return VACASK's name of a node."""
        place = self.library.place(node)
        path = [vacask_name(part) for part in place.path]
        return ":".join([*path, *([INSTANCE, place.name] if place.compiled else [vacask_node(place.name)])])

    def initial(self) -> dict[str, str]:
        """Return the initial voltages by node: those of the top level, and of subcircuits for each of their instances."""
        found: dict[str, str] = {}
        for netlist in self.library.netlists.values():
            found |= netlist.initial
            for element in netlist.elements:
                self._instance_initial(element, "", {}, found)
        return found

    def _instance_initial(self, element: Element, path: str, outer: Mapping[str, str], found: dict[str, str]) -> None:
        """Add the initial voltages inside of one instance; ``outer`` maps nodes of the calling body to names of the deck."""
        sub = self.known().get(element.value) if element.kind == "x" else None
        if sub is None or not self._starts(sub.name):
            return
        inside = f"{path}{element.name}."
        own = {node for part in sub.elements for node in part.nodes} - {"0"}
        names = {node: f"{inside}{node}" for node in own}
        names |= {port: outer.get(node, node) for port, node in zip(sub.ports, element.nodes, strict=True)}
        for node, text in sub.initial.items():
            if not is_number(text):
                raise InputError(
                    f"subcircuit '{sub.name}': .ic v({node})={text} is no plain number, as VACASK needs. Write a number."
                )
            found[names.get(node, node)] = text
        for part in sub.elements:
            self._instance_initial(part, inside, names, found)

    def _starts(self, name: str) -> bool:
        """Return whether a subcircuit, or one that it calls, sets initial voltages; crossbars are not walked through for it."""
        if name not in self._starting:
            sub = self.known().get(name)
            called = {element.value for element in sub.elements if element.kind == "x"} if sub else set()
            self._starting[name] = sub is not None and (bool(sub.initial) or any(map(self._starts, called)))
        return self._starting[name]

    def control(self, names: Mapping[str, str], further: Sequence[Sequence[Change]]) -> Iterator[str]:
        """Yield options, what to save, the analysis, and changes and analysis of each further run."""
        yield from ("control", "  abort always")
        yield '  options rawfile="binary" tran_spicelte=1' + "".join(
            _option(k, v, self.deck.title) for k, v in {"trtol": _TRTOL, **self.deck.options}.items()
        )
        saved = [
            f'i("{name.removesuffix(":flow(br)")}")' if raw.startswith("i(") else f'v("{name}")'
            for raw, name in names.items()
        ]
        yield from (f"  save {' '.join(saved[k : k + 8])}" for k in range(0, len(saved), 8))
        initial = self.initial()
        forced = ", ".join(f'"{self.node_name(node)}", {value_text(text, ".ic")}' for node, text in initial.items())
        step, stop = to_text(self.deck.transient.max_step), to_text(self.deck.transient.stop)
        analysis = f"tran stop={stop} step={step} maxstep={step}" + (f" ic={{{forced}}}" if forced else "")
        for k, changes in enumerate(((), *further), 1):
            yield from map(_alter, changes)
            yield f"  analysis tran{k} {analysis}"
        yield "endc"


def _alter(change: Change) -> str:
    """Return the command that gives one element its new value."""
    parameter = vacask_name(change.parameter) if change.parameter else VALUES[change.element[0]]
    return f'  alter instance("{vacask_name(change.element)}") {parameter}={value_text(change.value, change.element)}'


def _compiled_form(model: VerilogModel, form: ModelForm) -> Iterator[str]:
    """Yield the subcircuit of a compiled device."""
    ports = " ".join(model.ports)
    yield f"subckt {vacask_name(form.name.lower())}({ports})"
    yield from _parameters({name.lower(): to_text(value) for name, value in form.parameters.items()}, form.name)
    values = "".join(f" {name}={vacask_name(name.lower())}" for name in form.parameters)
    values += "".join(f" {name}={to_text(value)}" for name, value in form.fixed.items())
    yield f"model {OWN}device {model.module}{values}"
    yield f"{INSTANCE} ({ports}) {OWN}device"
    yield "ends"


def _parameters(values: Mapping[str, str], where: str) -> list[str]:
    return [f"parameters{assigned(values, where)}"] if values else []


def _wave(points: Sequence[Sequence[float]]) -> str:
    return "wave=[" + ", ".join(f"{time!r}, {value!r}" for time, value in points) + "]"


def _option(name: str, value: float | str, title: str) -> str:
    if name == "method" and str(value) in _METHODS:
        return f' tran_method="{_METHODS[str(value)]}"'
    if name not in _OPTIONS:
        raise InputError(
            f"deck '{title}': option {name} = {value} has no counterpart in VACASK. Known: method (trap, gear), {', '.join(_OPTIONS)}."
        )
    return f" {_OPTIONS[name]}={value}"
