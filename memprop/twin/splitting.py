"""Fast integration of a cell with one membrane node: Strang splitting with exact exponentials.

With the membrane held, each device state relaxes by itself; with the states held, the membrane is linear. Each part is
stepped exactly, or with its own slope where it is not linear, and the half steps of the states that meet at a time point
are taken as one; that leaves one state step and one membrane step per time step, second order in time (G. Strang, SIAM J.
Numer. Anal. 5, 1968; for parts that are not linear, exponential Rosenbrock, M. Hochbruck et al., SIAM J. Numer. Anal. 47, 2009).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sympy
from sympy import Symbol

from memprop.device.equations import GROUND, TEMPERATURE, TNOM, Equations, parameter_symbol, probe
from memprop.device.functions import floor
from memprop.device.hoist import Hoister
from memprop.device.sigmoid import sigmoid, straightened, with_sigmoids
from memprop.device.torch_function import compile_torch
from memprop.errors import InputError
from memprop.twin.assemble import Circuit, Instance, assemble, voltage_symbol

Expr = Any
"""A sympy expression; sympy's own annotations are too loose to check."""
ZERO: Expr = sympy.Integer(0)
TINY = 1e-30
"""Rates in 1/s below this one are none: a quotient by them would overflow in single precision."""


class UnsplittableError(InputError):
    """The circuit has another form than one membrane with devices to fixed nodes; the message says what differs."""


@dataclass(frozen=True, slots=True)
class _Function:
    """A function of moving tensors whose still parts are evaluated before."""

    prepare: Callable[..., tuple[Any, ...]]
    step: Callable[..., tuple[Any, ...]]
    moving: tuple[Symbol, ...]
    held: tuple[Symbol, ...]
    """Names of what ``prepare`` returns."""
    expressions: tuple[Expr, ...]
    """What ``step`` returns, in ``moving`` and ``held``."""


@dataclass(frozen=True, slots=True)
class Group:
    """Equal devices between membrane and fixed nodes, stacked along the first axis ``[D, B, N]``."""

    instances: tuple[Instance, ...]
    states: tuple[str, ...]
    linear: bool
    """Whether the state equations are linear in the states at fixed voltage."""
    decaying: bool
    """Whether all states surely relax: linear, with positive rates."""
    positive: bool
    """Whether no state can become negative."""
    affine: bool
    """Whether conductance and source current are straight lines in the states, whatever the voltage."""
    relax: _Function
    """Per state the speed and its slope, both in 1/s; linear: the speed at zero and the rate, which is minus the slope."""
    conduct: _Function
    """Conductance in S, and current in A that flows in at 0 V; affine: their values at zero and slopes by the states."""


@dataclass(frozen=True, slots=True)
class Splitting:
    """How to step a cell; made by `split`."""

    circuit: Circuit
    membrane: str
    fixed: tuple[str, ...]
    groups: tuple[Group, ...]
    passive: Callable[..., tuple[Any, ...]]
    """Capacitance in F, conductance in S, and current in A into the membrane at 0 V of all that is no device."""
    kernels: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    """Compiled forms of this plan that were made so far, see `memprop.twin.fused`."""


def split(circuit: Circuit, membrane: str, fixed: Sequence[str]) -> Splitting:
    """Return the splitting of a cell.

    Raises
    ------
    UnsplittableError: the cell has another form.
    """
    inner = {instance.node(node) for instance in circuit.instances for node in instance.equations.nodes}
    others = [node for node in circuit.nodes if node not in (membrane, *fixed) and node not in inner]
    others += [name for name, *_ in circuit.sources]
    if others:
        raise UnsplittableError(f"cell {circuit.name}: node or source '{others[0]}' beside the membrane")
    system = assemble(replace(circuit, instances=()), [membrane, *fixed], [])
    v = voltage_symbol(membrane)
    current: Expr = system.port_currents[0]
    conductance: Expr = sympy.diff(current, v)
    capacitance: Expr = sympy.diff(system.port_charges[0], v)
    capacitance += sum((_port_capacitance(instance, membrane) for instance in circuit.instances), ZERO)
    if capacitance == 0:
        raise UnsplittableError(f"cell {circuit.name}: no capacitance at the membrane")
    inputs = [*(voltage_symbol(node) for node in fixed), *map(parameter_symbol, circuit.defaults)]
    passive = compile_torch(inputs, [capacitance, conductance, -current.xreplace({v: ZERO})])
    return Splitting(circuit, membrane, tuple(fixed), tuple(_groups(circuit, membrane)), passive)


def _port_capacitance(instance: Instance, membrane: str) -> Expr:
    """Return the constant capacitance of a device between membrane and fixed nodes."""
    total = ZERO
    for (a, b), flow in instance.equations.compact.flows.items():
        if flow.charge == 0 or membrane not in (instance.node(a), instance.node(b)):
            continue
        slope: Expr = sympy.diff(flow.charge, probe(a, b))
        if slope.free_symbols & set(instance.equations.probes) or flow.charge != slope * probe(a, b):
            raise UnsplittableError(f"device {instance.name}: a charge that is no constant capacitance")
        nodes = [GROUND, *instance.nodes.values(), *map(instance.node, instance.equations.nodes)]
        nowhere: dict[str, Expr] = dict.fromkeys(nodes, ZERO)
        total += slope.xreplace(instance.replacements(nowhere))
    return total


def _groups(circuit: Circuit, membrane: str) -> list[Group]:
    kinds: dict[Any, list[Instance]] = {}
    for instance in circuit.instances:
        at_membrane = tuple(port for port, node in instance.nodes.items() if node == membrane)
        at_ground = tuple(port for port, node in instance.nodes.items() if node == GROUND)
        kinds.setdefault((id(instance.equations), at_membrane, at_ground), []).append(instance)
    return [_group(tuple(instances), membrane) for instances in kinds.values()]


def _group(instances: tuple[Instance, ...], membrane: str) -> Group:
    """Return equal devices as functions of the membrane, the fixed nodes at their ports and their own states."""
    one = instances[0]
    equations = one.equations.compact
    if equations.lets:
        raise UnsplittableError(f"device {one.name}: equations too large to be written out")
    v, rails = voltage_symbol(membrane), {port: Symbol(f"E:{port}", real=True) for port in one.nodes}
    voltage: dict[str, Expr] = {node: rails[port] for port, node in one.nodes.items()} | {GROUND: ZERO, membrane: v}
    states = {node: Symbol(f"x:{node}", real=True) for node in equations.nodes}
    voltage |= {one.node(node): symbol for node, symbol in states.items()}
    table: dict[Any, Any] = {TEMPERATURE: sympy.Float(TNOM)}
    table |= {symbol: voltage[one.node(a)] - voltage[one.node(b)] for symbol, (a, b) in equations.probes.items()}
    current: Expr = ZERO
    for port, node in one.nodes.items():
        current += equations.node_flows(port).current.xreplace(table) if node == membrane else ZERO
    speeds = [_speed(equations, node, states, table) for node in states]
    linear, relax = _relaxation(speeds, list(states.values()))
    affine, conduct = _conduction(current, v, list(states.values()))
    signs = _Signs(equations, list(states.values()))
    decaying = linear and all(signs.of(rate).is_positive for rate in relax[1::2])
    positive = all(
        signs.of(speed.xreplace({x: ZERO})).is_nonnegative for speed, x in zip(speeds, states.values(), strict=True)
    )
    still = [*rails.values(), *map(parameter_symbol, one.equations.parameters)]
    functions = [_split_function(part, [v, *states.values()], still) for part in (relax, conduct)]
    return Group(instances, tuple(states), linear, decaying, positive, affine, *functions)


def _speed(equations: Equations, node: str, states: Mapping[str, Symbol], table: Mapping[Any, Any]) -> Expr:
    """Return dx/dt of one state as an expression of the membrane, fixed voltages, parameters and the state itself."""
    flow, x = equations.node_flows(node), states[node]
    current: Expr = flow.current.xreplace(table)
    charge: Expr = flow.charge.xreplace(table)
    capacity: Expr = sympy.diff(charge, x)
    moving = capacity.free_symbols - set(map(parameter_symbol, equations.parameters))
    if capacity == 0 or charge != capacity * x or moving:
        raise UnsplittableError(f"node '{node}' of {equations.name} is no state with a constant capacity")
    if current.free_symbols & (set(states.values()) - {x}):
        raise UnsplittableError(f"states of {equations.name} drive each other")
    return with_sigmoids(-current / capacity)


def _relaxation(speeds: Sequence[Expr], states: Sequence[Symbol]) -> tuple[bool, list[Expr]]:
    """Return whether all states are linear at fixed voltage, and the expressions of `Group.relax`."""
    pairs = [(speed, sympy.diff(speed, x)) for speed, x in zip(speeds, states, strict=True)]
    if any(slope.has(x) or _jumps(speed, {x}) for (speed, slope), x in zip(pairs, states, strict=True)):
        return False, [part for pair in pairs for part in pair]
    starts = [(speed.xreplace({x: ZERO}), -slope) for (speed, slope), x in zip(pairs, states, strict=True)]
    return True, [part for pair in starts for part in pair]


def _conduction(current: Expr, v: Symbol, states: Sequence[Symbol]) -> tuple[bool, list[Expr]]:
    """Return whether conductance and source are affine in the states, and the expressions of `Group.conduct`."""
    conductance: Expr = sympy.diff(current, v)
    if conductance.has(v) or _jumps(current, {v}):
        return False, [conductance, conductance * v - current]
    source = -current.xreplace({v: ZERO})
    slopes = [sympy.diff(part, x) for x in states for part in (conductance, source)]
    if any(slope.has(x) for slope in slopes for x in states) or _jumps(current, set(states)):
        return False, [conductance, source]
    zero = dict.fromkeys(states, ZERO)
    return True, [conductance.xreplace(zero), source.xreplace(zero), *slopes]


def _jumps(expr: Expr, symbols: set[Symbol]) -> bool:
    """Return whether ``expr`` has alternatives or steps that ``symbols`` decide: its slope then does not tell what it is."""
    tests = [case.args[1] for piecewise in expr.atoms(sympy.Piecewise) for case in piecewise.args]
    return any(part.free_symbols & symbols for part in (*tests, *expr.atoms(floor, sympy.floor, sympy.sign)))


class _Signs:
    """What the ranges of the parameters say about the sign of expressions, for states that are not negative."""

    def __init__(self, equations: Equations, states: Sequence[Symbol]) -> None:
        self.table: dict[Any, Any] = {x: sympy.Dummy(nonnegative=True) for x in states}
        for name, parameter in equations.parameters.items():
            if parameter.above is not None and parameter.above >= 0:
                self.table[parameter_symbol(name)] = sympy.Dummy(positive=True)
            elif parameter.at_least is not None and parameter.at_least >= 0:
                self.table[parameter_symbol(name)] = sympy.Dummy(nonnegative=True)

    def of(self, expr: Expr) -> Expr:
        """Return an expression of which sympy knows the sign, if it follows from the ranges."""
        plain = with_sigmoids(expr)
        for kind in (sympy.exp, sigmoid):
            plain = plain.replace(kind, lambda _: sympy.Dummy(positive=True))
        return plain.xreplace(self.table)


def _split_function(expressions: Sequence[Expr], moving: Sequence[Symbol], still: Sequence[Symbol]) -> _Function:
    hoister = Hoister(moving)
    rest = [hoister(straightened(_tidy(expr), set(moving))) for expr in expressions]
    constants, names = list(hoister.constants), list(hoister.constants.values())
    used = [s for s in still if any(expr.has(s) for expr in rest)]
    held = (*names, *used)
    return _Function(
        compile_torch(still, [*constants, *used]),
        compile_torch([*moving, *held], rest),
        tuple(moving),
        held,
        tuple(rest),
    )


def _tidy(expr: Expr) -> Expr:
    """Return the same expression with few signs and quotients, each of which costs an operation."""
    return sympy.factor_terms(with_sigmoids(sympy.sympify(expr)))
