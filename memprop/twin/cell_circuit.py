"""Equations of a cell: its netlist as a circuit with grounded reference, how it can be split, and its general solver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, reduce
from typing import Any

import numpy as np
import sympy
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from memprop.circuit.cell import RAILS, Cell
from memprop.circuit.netlist import read_netlist
from memprop.device.equations import GROUND, parameter_symbol
from memprop.device.functions import floor, maximum, minimum
from memprop.errors import InputError
from memprop.twin.assemble import Circuit, assemble, read_circuit, voltage_symbol
from memprop.twin.general import Solver, compile_system
from memprop.twin.prepared import expression_value
from memprop.twin.splitting import Splitting, UnsplittableError, split

MEMBRANE = "mem"
FIXED = RAILS
OFFSET = "mirror offset"
"""Parameter of the current in A that the mirror adds; no netlist can have a name like that."""


class _ByContent:
    """A cell that equals every other one of the same text, so that its equations are derived once."""

    __slots__ = ("cell", "text")

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        devices = tuple((model.text, model.card_text) for model in cell.devices().values())
        self.text = (cell.text, cell.name, devices)

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByContent) and other.text == self.text


def cell_circuit(cell: Cell, *, offset: bool = False) -> tuple[Circuit, Splitting | UnsplittableError, Solver]:
    """Return the circuit of a cell, its splitting or why it has none, and its general solver; derived once per text.

    With ``offset`` the circuit has a current into the membrane, the parameter `OFFSET`.

    Raises
    ------
    InputError: the cell cannot have a twin.
    """
    return _build(_ByContent(cell), offset)


@lru_cache(maxsize=32)
def _build(key: _ByContent, offset: bool) -> tuple[Circuit, Splitting | UnsplittableError, Solver]:
    cell = key.cell
    subcircuit = read_netlist(cell.text, f"cell {cell.name}").subcircuits[cell.name]
    forms = {form: (model, form) for model in cell.devices().values() for form in model.forms}
    circuit = grounded(read_circuit(subcircuit, forms))
    if offset:
        added = (GROUND, MEMBRANE, parameter_symbol(OFFSET))
        circuit = replace(circuit, currents=(*circuit.currents, added), defaults={**circuit.defaults, OFFSET: 0.0})
    solver = compile_system(assemble(circuit, FIXED, (MEMBRANE,)))
    try:
        return circuit, split(circuit, MEMBRANE, FIXED), solver
    except UnsplittableError as reason:
        return circuit, reason.with_traceback(None), solver  # the cache would keep the frames alive


def grounded(circuit: Circuit) -> Circuit:
    """Return a cell with its reference port, and what ngspice takes as ground, at ground, and `plain` expressions."""
    table: dict[str, str] = {"ref": GROUND, "gnd": GROUND}
    voltages: dict[Any, Any] = {voltage_symbol(node): sympy.Integer(0) for node in table}

    def moved(part: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(
            tuple(
                table.get(word, word) if isinstance(word, str) else plain(word.xreplace(voltages)) for word in element
            )
            for element in part
        )

    instances = tuple(
        replace(
            i,
            nodes={port: table.get(node, node) for port, node in i.nodes.items()},
            parameters={name: plain(value) for name, value in i.parameters.items()},
        )
        for i in circuit.instances
    )
    return replace(
        circuit,
        ports=tuple(port for port in circuit.ports if port not in table),
        resistors=moved(circuit.resistors),
        capacitors=moved(circuit.capacitors),
        currents=moved(circuit.currents),
        transconductances=moved(circuit.transconductances),
        sources=moved(circuit.sources),
        mirrors=moved(circuit.mirrors),
        instances=instances,
        start={node: plain(value) for node, value in circuit.start.items()},
    )


def plain(expr: Any) -> Any:
    """Return an expression with the functions of devices in the place of sympy's own, for which torch has no form."""
    expr = expr.replace(sympy.Max, lambda *args: reduce(maximum, args))
    expr = expr.replace(sympy.Min, lambda *args: reduce(minimum, args))
    return expr.replace(sympy.ceiling, lambda x: -sympy.floor(-x)).replace(sympy.floor, floor)


def check_devices(circuit: Circuit, values: Mapping[str, Tensor]) -> None:
    """Raise InputError when a cell gives one of its devices a parameter out of the range in the Verilog-A."""
    for instance in circuit.instances:
        for name, parameter in instance.equations.parameters.items():
            value = torch.as_tensor(expression_value(instance.parameters[name], values), dtype=torch.float64)
            parameter.check(f"{circuit.name}.{instance.name}.{name}", value.numpy())


def each(twin: Any, name: str, value: ArrayLike, above: float = -np.inf) -> Tensor:
    """Return one number per cell of a twin with ``size`` and ``cell``, ``[N]``, checked.

    Raises
    ------
    InputError: neither one value nor one per cell, or one that is not above ``above``.
    """
    array = np.asarray(value, dtype=np.float64).squeeze()
    if array.shape not in ((), (twin.size,)) or not (np.isfinite(array) & (array > above)).all():
        raise InputError(
            f"{name} of {twin.size} cells {twin.cell.name} has shape {array.shape}; needs one finite value, or one per cell"
            f"{', above 0' if above == 0.0 else ''}. Correct it."
        )
    return torch.as_tensor(np.broadcast_to(array, twin.size).copy())


def placed(twin: Any) -> list[list[float]]:
    """Return what a population has besides its parameters: reference in V, gain, offset in A; an empty list where there is none."""
    found = (twin.reference, twin.gain, twin.offset)
    return [[] if value is None else value.detach().double().flatten().tolist() for value in found]
