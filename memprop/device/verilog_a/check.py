"""Warnings: what open simulators lose or stumble over without a word. Found with numbers, at the default parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import sympy

from memprop.device.equations import GROUND, Equations, Note
from memprop.device.functions import absolute, evaluate, maximum, minimum

_LEVELS = np.linspace(0.05, 0.95, 19)
"""Voltages of a state in V at which its rate is looked at: where normalised states live."""
_REACH = 10.0
"""Voltages in V within which exponentials must not overflow, as trial steps of a simulator go."""
_CORNERS: dict[Any, str] = {sympy.Piecewise: "if", absolute: "abs()", minimum: "min()", maximum: "max()"}
_LARGEST = 700.0
"""Argument beyond which exp() overflows a double."""


def warnings(equations: Equations) -> Iterator[Note]:
    """Yield what a user of the model should know."""
    moving = _moving(equations)
    yield from _states_without_rest(equations)
    yield from _exponentials(equations, moving)
    yield from _powers(equations, moving)
    yield from _kinks(equations, moving)


def states(equations: Equations) -> list[str]:
    """Return the internal nodes whose voltage is a state: they hold a charge."""
    return [
        node for node in equations.nodes if any(node in b and flow.charge != 0 for b, flow in equations.flows.items())
    ]


def lost_at_rest(equations: Equations, node: str) -> bool:
    """Return whether at zero bias and default parameters nothing pulls the state anywhere, whatever it is."""
    found = equations.evaluate({node: _LEVELS})
    total = sum(((a == node) - (b == node)) * found[a, b][0] for a, b in found)
    return bool(np.all(total == 0.0))


def _states_without_rest(equations: Equations) -> Iterator[Note]:
    for node in states(equations):
        leak = f"Add a leak I({node}) <+ (V({node}) - x0)/tret."
        if not _pulls(equations, node):
            yield Note("warning", f"state '{node}' does not appear in its own rate: it has no operating point. {leak}")
        elif lost_at_rest(equations, node):
            yield Note(
                "warning", f"state '{node}' keeps any value at zero bias: it has no operating point of its own. {leak}"
            )


def _pulls(equations: Equations, node: str) -> bool:
    """Return whether the currents out of a node depend on its voltage."""
    own = {symbol for symbol, ends in equations.probes.items() if node in ends}
    for symbol, expr in equations.lets:
        if expr.free_symbols & own:
            own.add(symbol)
    return any(flow.current.free_symbols & own for branch, flow in equations.flows.items() if node in branch)


def _moving(equations: Equations) -> dict[Any, set[str]]:
    """Return the symbols that depend on voltages, with the names of these."""
    found = {symbol: {str(symbol)} for symbol in equations.probes}
    for symbol, expr in equations.lets:
        names = _voltages(expr, found)
        if names:
            found[symbol] = names
    return found


def _voltages(expr: Any, moving: dict[Any, set[str]]) -> set[str]:
    return {name for symbol in expr.free_symbols for name in moving.get(symbol, ())}


def _parts(equations: Equations) -> list[Any]:
    return [*(expr for _, expr in equations.lets), *(part for flow in equations.flows.values() for part in flow)]


def _exponentials(equations: Equations, moving: dict[Any, set[str]]) -> Iterator[Note]:
    """Warn of exponentials whose argument becomes too large for some voltages."""
    heads = (sympy.exp, sympy.sinh, sympy.cosh)
    found: dict[str, None] = {}
    places = [node for part in _parts(equations) for node in sorted(part.atoms(*heads), key=str)]
    known = equations.numbers(_trials(equations)) if places else {}
    for node in places:
        names = _voltages(node.args[0], moving)
        largest = (
            np.nanmax(np.abs(x) if node.func != sympy.exp else x)
            if np.any(np.isfinite(x := _known(node.args[0], known)))
            else 0.0
        )
        if names and largest > _LARGEST:
            found[f"{node.func.__name__} of {', '.join(sorted(names))}"] = None
    for what in found:
        yield Note("warning", f"{what} can overflow: write limexp, or limit its argument.")


def _powers(equations: Equations, moving: dict[Any, set[str]]) -> Iterator[Note]:
    """Warn of powers of what can be negative with an exponent that is no whole number."""
    whole = {equations.symbol(name) for name in equations.integers}
    places = [
        node
        for part in _parts(equations)
        for node in sorted(part.atoms(sympy.Pow), key=str)
        if not node.args[1].is_Integer and not (node.args[1].free_symbols and node.args[1].free_symbols <= whole)
    ]
    known = equations.numbers(_trials(equations)) if places else {}
    found: dict[str, None] = {}
    for node in places:
        names = _voltages(node.args[0], moving)
        if names and np.any(_known(node.args[0], known) < 0.0):
            found[", ".join(sorted(names))] = None
    for what in found:
        yield Note(
            "warning",
            f"power of {what} with an exponent that is no whole number: a negative base has no value in Verilog-A, and ngspice takes "
            "its absolute value. Write pow(max(x, 0), k).",
        )


def _known(expr: Any, known: dict[Any, Any]) -> Any:
    return np.asarray(evaluate(expr, known), dtype=np.float64)


def _trials(equations: Equations) -> dict[str, Any]:
    """Return node voltages in V: corners and points between, the same every time."""
    random = np.random.default_rng(0)
    nodes = [node for node in (*equations.ports, *equations.nodes) if node != GROUND]
    return {
        node: np.concatenate([random.choice([-_REACH, _REACH], 64), random.uniform(-_REACH, _REACH, 64)])
        for node in nodes
    }


def _kinks(equations: Equations, moving: dict[Any, set[str]]) -> Iterator[Note]:
    """Warn of steps and corners, once per set of voltages."""
    found: dict[str, set[str]] = {}
    for part in _parts(equations):
        for node in part.atoms(*_CORNERS):
            branched = isinstance(node, sympy.Piecewise)
            tests = [when for _, when in node.args] if branched else [node]  # pyright: ignore[reportGeneralTypeIssues]
            names = {name for test in tests for name in _voltages(test, moving)}
            if names:
                found.setdefault(", ".join(sorted(names)), set()).add(_CORNERS[node.func])
    for names, kinds in found.items():
        yield Note(
            "warning",
            f"{', '.join(sorted(kinds))} of {names}: a kink or jump there can stop the iteration of a simulator. "
            "Smooth it, e.g. with tanh, if it does.",
        )
