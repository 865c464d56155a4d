"""Circuit -> equations: the nodal equations of a cell or a testbench, from its netlist and its devices.

Every unknown, node voltage, device state or source current, has one equation ``current + d(charge)/dt = 0``, as in the
modified nodal analysis of simulators. The symbols are those of sympy, so derivatives are exact and cost no thought.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
from sympy import Expr, Symbol

from memprop.circuit.expression import parse_expression
from memprop.circuit.netlist import Element, Subcircuit
from memprop.device.equations import GROUND, TEMPERATURE, TNOM, Equations, parameter_symbol
from memprop.device.library import DeviceModel
from memprop.errors import InputError

ZERO = sympy.Integer(0)


@dataclass(frozen=True, slots=True)
class Instance:
    """One device in a circuit."""

    name: str
    equations: Equations
    nodes: Mapping[str, str]
    """Port -> node of the circuit."""
    parameters: Mapping[str, Expr]
    """Device parameter -> expression of the parameters of the circuit."""

    def replacements(self, voltage: Mapping[str, Expr]) -> dict[Any, Any]:
        """Return what the symbols of the device's equations mean in the circuit; ``voltage`` gives every node's."""
        table: dict[Any, Any] = {parameter_symbol(name): value for name, value in self.parameters.items()}
        table.setdefault(TEMPERATURE, sympy.Float(TNOM))
        for symbol, ends in self.equations.probes.items():
            a, b = (voltage[self.node(end)] for end in ends)
            table[symbol] = a - b
        return table

    def node(self, name: str) -> str:
        """Return the node of the circuit that a node of the device is; internal ones are called ``instance.node``."""
        if name == GROUND:
            return GROUND
        return self.nodes[name] if name in self.nodes else f"{self.name}.{name}".lower()


@dataclass(frozen=True, slots=True)
class Circuit:
    """Elements and devices of a cell; values are expressions of its parameters."""

    name: str
    ports: tuple[str, ...]
    defaults: Mapping[str, float]
    resistors: tuple[tuple[str, str, Expr], ...]
    """Two nodes and the conductance in S."""
    capacitors: tuple[tuple[str, str, Expr], ...]
    """Two nodes and the capacitance in F."""
    currents: tuple[tuple[str, str, Expr], ...]
    """Two nodes and the current in A from the first to the second, through the element."""
    transconductances: tuple[tuple[str, str, str, str, Expr], ...]
    """Two nodes, two controlling nodes, transconductance in S."""
    sources: tuple[tuple[str, str, str, Expr], ...]
    """Name, two nodes and the voltage in V, an expression of node voltages where controlled."""
    mirrors: tuple[tuple[str, str, str, Expr], ...]
    """Two nodes, the voltage source whose current is measured, and the gain."""
    instances: tuple[Instance, ...]
    start: Mapping[str, Expr]
    """Initial voltages by node."""

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes: ports first, then internal ones, then those inside of devices."""
        found = dict.fromkeys(self.ports)
        for part in (self.resistors, self.capacitors, self.currents, self.transconductances):
            found |= dict.fromkeys(node for element in part for node in element[:-1])
        found |= dict.fromkeys(node for _, a, b, _ in self.sources for node in (a, b))
        found |= dict.fromkeys(node for a, b, _, _ in self.mirrors for node in (a, b))
        for instance in self.instances:
            found |= dict.fromkeys([*instance.nodes.values(), *(instance.node(n) for n in instance.equations.nodes)])
        return tuple(node for node in found if node != GROUND)


@dataclass(frozen=True)
class System:
    """Nodal equations; each of ``unknowns`` has ``currents[k] + d(charges[k])/dt = 0``."""

    unknowns: tuple[str, ...]
    given: tuple[str, ...]
    """Nodes whose voltages are given."""
    injected: tuple[str, ...]
    """Nodes into which currents are injected."""
    parameters: tuple[str, ...]
    currents: tuple[Expr, ...]
    charges: tuple[Expr, ...]
    port_currents: tuple[Expr, ...]
    """What flows from each given node into the circuit, in A."""
    port_charges: tuple[Expr, ...]
    _symbols: Mapping[str, Symbol] = field(repr=False)

    def symbols(self, names: Iterable[str]) -> list[Symbol]:
        """Return the symbols of unknowns and given voltages."""
        return [self._symbols[name] for name in names]

    @property
    def inputs(self) -> list[Symbol]:
        """Symbols in the order of compiled functions: unknowns, given voltages, injected currents, parameters."""
        injected = [injected_symbol(node) for node in self.injected]
        return [
            *self.symbols(self.unknowns),
            *self.symbols(self.given),
            *injected,
            *map(parameter_symbol, self.parameters),
        ]


def voltage_symbol(node: str) -> Symbol:
    """Return the symbol of a node's voltage."""
    return Symbol(f"v:{node}", real=True)


def injected_symbol(node: str) -> Symbol:
    """Return the symbol of the current injected into a node."""
    return Symbol(f"i:{node}", real=True)


def read_circuit(subcircuit: Subcircuit, devices: Mapping[str, tuple[DeviceModel, str]]) -> Circuit:
    """Return a cell's elements; ``devices`` maps the subcircuit names of device forms to device and form.

    Raises
    ------
    InputError: an element that a twin cannot have, with its place.
    """
    reader = _Reader(subcircuit, devices)
    for element in subcircuit.elements:
        reader.take(element)
    return reader.circuit()


@dataclass(slots=True)
class _Reader:
    subcircuit: Subcircuit
    devices: Mapping[str, tuple[DeviceModel, str]]
    resistors: list[Any] = field(default_factory=list)
    capacitors: list[Any] = field(default_factory=list)
    currents: list[Any] = field(default_factory=list)
    transconductances: list[Any] = field(default_factory=list)
    sources: list[Any] = field(default_factory=list)
    mirrors: list[Any] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    local: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, text in self.subcircuit.parameters.items():
            self.local[parameter_symbol(name)] = self.value(text, f"parameter {name}")

    def value(self, text: str, place: str) -> Expr:
        expr = parse_expression(text, place, parameter=True).xreplace(self.local)
        unknown = sorted(str(s) for s in expr.free_symbols if str(s) not in self.subcircuit.defaults)
        if unknown:
            raise InputError(
                f"{place}: '{unknown[0]}' is no parameter of subcircuit {self.subcircuit.name}. Declare it in its first line."
            )
        return sympy.nsimplify(expr, rational=True)

    def take(self, element: Element) -> None:
        """Take one element."""
        handler = getattr(self, f"_{element.kind}", None)
        if handler is None:
            if element.kind == "m":
                raise InputError(
                    f"{element.place}: a transistor model of the simulator has no equations here. Learn a twin from waveforms "
                    "(memprop fit-cell --learned) and keep it in the folder 'twin' of the cell, or use devices in Verilog-A."
                )
            raise InputError(
                f"{element.place}: element '{element.kind}' has no twin. Use r, c, v, i, e, f, g and devices in Verilog-A."
            )
        handler(element)

    def plain(self, element: Element) -> Expr:
        words = element.value.split()
        if words and words[0].lower() == "dc":
            words = words[1:]
        text = " ".join(words) or next(iter(element.parameters.values()), "")
        return self.value(text, element.place)

    def _r(self, element: Element) -> None:
        self.resistors.append((*element.nodes, 1 / self.plain(element)))

    def _c(self, element: Element) -> None:
        self.capacitors.append((*element.nodes, self.plain(element)))

    def _i(self, element: Element) -> None:
        self.currents.append((*element.nodes, self.plain(element)))

    def _v(self, element: Element) -> None:
        self.sources.append((element.name, *element.nodes, self.plain(element)))

    def _g(self, element: Element) -> None:
        self.transconductances.append((*element.nodes, self.plain(element)))

    def _e(self, element: Element) -> None:
        a, b, c, d = element.nodes
        gain = self.plain(element)
        controlling = _voltage(c) - _voltage(d)
        self.sources.append((element.name, a, b, gain * controlling))

    def _f(self, element: Element) -> None:
        source, *gain = element.value.split()
        self.mirrors.append((*element.nodes, source.lower(), self.value(" ".join(gain), element.place)))

    def _x(self, element: Element) -> None:
        found = self.devices.get(element.value.lower())
        if found is None:
            known = ", ".join(sorted(self.devices)) or "none"
            raise InputError(
                f"{element.place}: subcircuit '{element.value}' is no device with a Verilog-A model. Known: {known}."
            )
        model, form_name = found
        form = model.forms[form_name]
        ports = model.equations.ports
        if len(ports) != len(element.nodes):
            raise InputError(
                f"{element.place}: {len(element.nodes)} nodes for the ports {' '.join(ports)} of {form_name}."
            )
        given = {name.lower(): self.value(text, element.place) for name, text in element.parameters.items()}
        unknown = set(given) - {name.lower() for name in form.defaults}
        if unknown:
            raise InputError(
                f"{element.place}: {form_name} has no parameter '{min(unknown)}'. Known: {', '.join(form.defaults)}."
            )
        values = {
            name: given.get(name.lower(), sympy.Rational(str(default))) for name, default in form.defaults.items()
        }
        self.instances.append(
            Instance(
                element.name, model.form_equations(form_name), dict(zip(ports, element.nodes, strict=True)), values
            )
        )

    def circuit(self) -> Circuit:
        """Return what was read."""
        s = self.subcircuit
        start = {node: self.value(text, f"subcircuit {s.name}, .ic") for node, text in s.initial.items()}
        defaults = {name: float(text) for name, text in s.defaults.items()}
        return Circuit(
            s.name, s.ports, defaults, tuple(self.resistors), tuple(self.capacitors), tuple(self.currents), tuple(self.transconductances),
            tuple(self.sources), tuple(self.mirrors), tuple(self.instances), start,
        )  # fmt: skip


def _voltage(node: str) -> Expr:
    return ZERO if node == GROUND else voltage_symbol(node)


def assemble(circuit: Circuit, given: Sequence[str], injected: Sequence[str] = ()) -> System:
    """Return the nodal equations of ``circuit`` with the voltages of the nodes ``given`` as inputs.

    Raises
    ------
    InputError: a mirror measures a source that is not there.
    """
    nodes = [node for node in circuit.nodes if node not in given]
    measured = [name for name, *_ in circuit.sources]
    symbols = {node: voltage_symbol(node) for node in (*nodes, *given)} | {
        name: Symbol(f"i:{name}", real=True) for name in measured
    }
    current: dict[str, Expr] = dict.fromkeys((*nodes, *given, GROUND, *measured), ZERO)
    charge = dict(current)

    def add(book: dict[str, Expr], a: str, b: str, value: Expr) -> None:
        book[a] += value
        book[b] -= value

    for a, b, conductance in circuit.resistors:
        add(current, a, b, conductance * (_voltage(a) - _voltage(b)))
    for a, b, capacitance in circuit.capacitors:
        add(charge, a, b, capacitance * (_voltage(a) - _voltage(b)))
    for a, b, value in circuit.currents:
        add(current, a, b, value)
    for a, b, c, d, gain in circuit.transconductances:
        add(current, a, b, gain * (_voltage(c) - _voltage(d)))
    for name, a, b, value in circuit.sources:
        add(current, a, b, symbols[name])
        current[name] += _voltage(a) - _voltage(b) - value
    for a, b, source, gain in circuit.mirrors:
        if source not in symbols:
            raise InputError(
                f"cell {circuit.name}: a mirror measures the voltage source '{source}', which is not there. Correct the name."
            )
        add(current, a, b, gain * symbols[source])
    for instance in circuit.instances:
        _add_device(instance, current, charge, add)
    for node in injected:
        current[node] -= injected_symbol(node)
    unknowns = (*nodes, *measured)
    inside = tuple(current[n] for n in unknowns), tuple(charge[n] for n in unknowns)
    outside = tuple(current[n] for n in given), tuple(charge[n] for n in given)
    return System(unknowns, tuple(given), tuple(injected), tuple(circuit.defaults), *inside, *outside, symbols)


def _add_device(instance: Instance, current: dict[str, Expr], charge: dict[str, Expr], add: Any) -> None:
    equations = instance.equations.compact
    if equations.lets:
        raise InputError(
            f"{equations.file}: the equations of {equations.name} are too large for a twin made of written-out expressions. "
            "Simplify the model, or fix parameters in a form of its card."
        )
    names = [GROUND, *instance.nodes.values(), *(instance.node(node) for node in equations.nodes)]
    table = instance.replacements({node: _voltage(node) for node in names})
    for (a, b), flow in equations.flows.items():
        ends = instance.node(a), instance.node(b)
        if flow.current != 0:
            add(current, *ends, flow.current.xreplace(table))
        if flow.charge != 0:
            add(charge, *ends, flow.charge.xreplace(table))
