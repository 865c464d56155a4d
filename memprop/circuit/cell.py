"""Cells: a subcircuit and its card. A user's own PySpice ``SubCircuit`` is taken wherever a shipped cell is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from PySpice.Spice.Netlist import SubCircuit

from memprop.device.card import Parameter, Strict, merge, read_card
from memprop.device.library import DeviceModel, load_device
from memprop.errors import InputError
from memprop.files import inside, sha256, shipped

PORTS = {
    "neuron": ("mem", "e1", "e2", "ref"),
    "synapse": ("rp", "rn", "col"),
    "bidirectional": ("node", "row", "ref"),
    "rate": ("in", "mem", "spike", "ref"),
}
"""Ports of each kind of cell but parts, in order."""
RAILS = ("e1", "e2")
"""Supply rails of a neuron, in the order of its ports."""


Kind = Literal["neuron", "synapse", "bidirectional", "rate", "part"]
"""A spiking neuron, a pair of RRAM cells, a neuron that also sends currents back, one with an output of spikes, whose rate counts, and a
part of a circuit that learns, whose card alone says its ports."""


class Supply(Strict):
    """A constant supply rail."""

    voltage: float
    description: str


class State(Strict):
    """An internal node that holds a state."""

    unit: str
    description: str


class Stimulus(Strict):
    """The stimulus that characterises the cell."""

    description: str
    ipk: Parameter
    ta: Parameter


class Limit(Strict):
    """A range of validity."""

    at_least: float
    at_most: float
    unit: str
    description: str


class Corner(Strict):
    """A corner of fabrication: all cells of a chip are off in the same way."""

    description: str
    factors: dict[str, float] = Field(default_factory=dict)
    """Parameters times a number."""
    values: dict[str, float] = Field(default_factory=dict)
    """Parameters of another value, in SI units."""


class CellCard(Strict):
    """Card of a cell in ``circuits/``."""

    name: str
    description: str
    sources: tuple[str, ...]
    kind: Kind
    ports: tuple[str, ...]
    models: tuple[str, ...] = ()
    supplies: dict[str, Supply] = Field(default_factory=dict)
    states: dict[str, State] = Field(default_factory=dict)
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    stimulus: Stimulus | None = None
    limits: dict[str, Limit] = Field(default_factory=dict)
    corners: dict[str, Corner] = Field(default_factory=dict)
    """By name; not written where there are none, so that earlier versions read bundles of such cells."""

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if name != "corners" or value}

    def without_corners(self) -> CellCard:
        """Return the card with no corner."""
        return self.model_copy(update={"corners": {}})

    def at_corner(self, name: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters ``values`` in SI units, numbers or arrays, as they are at the corner called ``name``.

        Raises
        ------
        InputError: there is no such corner, or it takes a parameter out of its range.
        """
        if name not in self.corners:
            known = ", ".join(self.corners) or f"none; write [corners.{name}] into its card"
            raise InputError(f"cell '{self.name}' has no corner '{name}'. Known: {known}.")
        corner = self.corners[name]
        changes = {key: factor * np.asarray(values.get(key, 1.0)) for key, factor in corner.factors.items()}
        merged = merge(f"{self.name}, corner {name}", self.parameters, values, {**changes, **corner.values})
        return {key: float(value) if np.ndim(value) == 0 else value for key, value in merged.items()}


class TextSubCircuit(SubCircuit):
    """A PySpice subcircuit whose body is the text of a file, comments included."""

    def __init__(self, text: str, source: str) -> None:
        blocks = outer_blocks(re.sub(r"\n\+\s*", " ", text))
        if len(blocks) != 1:
            raise InputError(f"{source} holds {len(blocks)} complete .subckt blocks; a cell file needs exactly one.")
        words = re.sub(r"\bparams:", " ", blocks[0].splitlines()[0], flags=re.IGNORECASE).split()[1:]
        nodes = [word for word in words[1:] if "=" not in word]
        defaults = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        super().__init__(words[0], *nodes, **defaults)
        self.text = text if text.endswith("\n") else text + "\n"

    def __str__(self) -> str:
        """Return the text of the file."""
        return self.text


@dataclass(frozen=True, slots=True)
class Cell:
    """A subcircuit with its card."""

    card: CellCard
    subcircuit: SubCircuit
    home: Path | None = None
    """Folder of the cell, where device models of its own may lie; None: the shipped models only."""

    def devices(self) -> dict[str, DeviceModel]:
        """Return the devices of the card's ``models``, by file name.

        Raises
        ------
        InputError, VerilogError: a model is missing or outside of the subset.
        """
        return {
            name: load_model(name, self.home)
            for name in self.card.models
            if (where := model_home(name, self.home)) is None or where.suffix == ".va"
        }

    @property
    def name(self) -> str:
        """Name of the subcircuit."""
        return str(self.subcircuit.name).lower()

    @property
    def text(self) -> str:
        """Netlist of the subcircuit."""
        return str(self.subcircuit)

    @property
    def digest(self) -> str:
        """Hash of the netlist and of its devices in Verilog-A."""
        return sha256("\0".join([self.text, *(device.text for device in self.devices().values())]))

    def values(self, size: int, changes: Mapping[str, ArrayLike]) -> dict[str, Any]:
        """Return the parameters of ``size`` instances: numbers, or float64 arrays ``[size]`` where they differ.

        Raises
        ------
        InputError: a name is unknown, a value out of range, or an array does not have one value per instance.
        """
        arrays = {name: np.asarray(value, dtype=np.float64) for name, value in changes.items()}
        for name, array in arrays.items():
            if array.shape not in ((), (size,)):
                raise InputError(
                    f"parameter {self.name}.{name} has shape {array.shape}; {size} cells need one value or [{size}]. Correct it."
                )
        base = {name: parameter.default for name, parameter in self.card.parameters.items()}
        merged = merge(self.name, self.card.parameters, base, arrays)
        return {name: float(value) if np.ndim(value) == 0 else value for name, value in merged.items()}


def load_cell(name: str, folder: Path | None = None) -> Cell:
    """Return the cell in ``circuits/<name>`` of memprop, or of ``folder``.

    Raises
    ------
    InputError: no such cell, or card and subcircuit disagree.
    """
    home = (folder or shipped("circuits")) / name
    card = read_card(home / "cell.toml", CellCard)
    path = home / "cell.cir"
    if not path.is_file():
        raise InputError(f"cell '{name}' has no file {path}. Put the subcircuit there.")
    return _checked(Cell(card, TextSubCircuit(path.read_text(encoding="utf-8"), str(path)), home))


def find_cell(name: str) -> Cell:
    """Return a cell by the name of a shipped one, or by the path of its folder.

    Raises
    ------
    InputError: no such cell, or card and subcircuit disagree.
    """
    path = Path(name)
    return load_cell(path.name, path.parent) if path.name != name or path.is_dir() else load_cell(name)


def load_model(name: str, home: Path | None = None) -> DeviceModel:
    """Return the device of the model file ``name`` (``x.lib`` or ``x.va``), from ``home`` if it is there, else the shipped one.

    Raises
    ------
    InputError, VerilogError: there is none, or it is outside of the subset.
    """
    where = model_home(name, home)
    if where is not None and where.suffix != ".va":
        raise InputError(f"device model {where} is no Verilog-A: it has no twin. Put {where.stem}.va beside it.")
    return load_device(where or inside(shipped("models"), f"{Path(name).stem}.va"))


def model_home(name: str, home: Path | None) -> Path | None:
    """Return the Verilog-A file, else the ``.lib``, of the model ``name`` in ``home``; None if it is not there.

    Raises
    ------
    InputError: the name leaves the folder.
    """
    if home is None:
        return None
    stem = inside(home, name).stem
    return next((path for path in (home / f"{stem}.va", home / f"{stem}.lib") if path.is_file()), None)


def outer_blocks(text: str) -> list[str]:
    """Return the complete ``.subckt`` ... ``.ends`` blocks that stand in no other one."""
    blocks: list[str] = []
    lines: list[str] = []
    depth = 0
    for line in text.splitlines():
        word = line.strip().lower().split(None, 1)[0] if line.strip() else ""
        depth += word == ".subckt"
        if depth > 0:
            lines.append(line)
        if word == ".ends" and depth > 0:
            depth -= 1
            if depth == 0:
                blocks.append("\n".join(lines) + "\n")
                lines = []
    return blocks


def as_cell(cell: Cell | SubCircuit | str, kind: Kind, like: str) -> Cell:
    """Return ``cell`` as a Cell: a name is loaded, a user's PySpice SubCircuit gets the card of the shipped cell ``like``.

    The subcircuit must have the ports of its kind, in order: a neuron ``mem e1 e2 ref``, a synapse ``rp rn col`` with
    parameters ``gp`` and ``gm`` in S. Its twin is unknown unless the card names one.

    Raises
    ------
    InputError: the ports or parameters do not fit.
    """
    if isinstance(cell, str):
        cell = find_cell(cell)
    elif isinstance(cell, SubCircuit):
        base = load_cell(like).card
        names = {str(name).lower() for name in cell.parameters}
        known = {
            name: parameter.model_copy(update={"default": _default(cell, name)})
            for name, parameter in base.parameters.items()
            if name in names
        }
        update = {
            "name": str(cell.name).lower(),
            "parameters": known,
            "states": {},
            "corners": {},
            "models": base.models,
        }
        cell = Cell(base.model_copy(update=update), cell)
    if cell.card.kind != kind:
        raise InputError(f"cell '{cell.name}' is a {cell.card.kind}, where a {kind} is needed. Give a {kind}.")
    return _checked(cell)


def _checked(cell: Cell) -> Cell:
    ports = tuple(str(node).lower() for node in cell.subcircuit.external_nodes)
    expected = PORTS.get(cell.card.kind, cell.card.ports)
    if ports != expected or cell.card.ports != expected:
        raise InputError(
            f"cell '{cell.name}' has ports {' '.join(ports)} and its card {' '.join(cell.card.ports)}; "
            f"a {cell.card.kind} needs {' '.join(expected)}, in this order. Rename or reorder them."
        )
    if cell.card.kind == "neuron" and set(cell.card.supplies) != set(RAILS):
        raise InputError(
            f"cell '{cell.name}' has supplies {', '.join(cell.card.supplies) or 'none'} in its card; a neuron needs {', '.join(RAILS)}."
        )
    names = {str(name).lower() for name in cell.subcircuit.parameters}
    missing = (set(cell.card.parameters) | ({"gp", "gm"} if cell.card.kind == "synapse" else set())) - names
    if missing:
        raise InputError(f"subcircuit '{cell.name}' lacks parameter {', '.join(sorted(missing))} of its card. Add it.")
    for corner in cell.card.corners:
        cell.card.at_corner(corner, {name: parameter.default for name, parameter in cell.card.parameters.items()})
    for name, parameter in cell.card.parameters.items():
        # Instances name only what differs from the default, so the two defaults must be one.
        if _default(cell.subcircuit, name) != parameter.default:
            raise InputError(
                f"cell '{cell.name}': default of {name} is {_default(cell.subcircuit, name)!r} {parameter.unit} in the subcircuit "
                f"and {parameter.default!r} {parameter.unit} in the card. Make them equal."
            )
    return cell


def _default(subcircuit: SubCircuit, name: str) -> float:
    """Return the default of a parameter of a subcircuit, in SI units."""
    text = next(value for key, value in subcircuit.parameters.items() if str(key).lower() == name)
    try:
        return float(text)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"subcircuit '{subcircuit.name}': default {name}={text} is no plain number. Write an exponent, e.g. 1e-10."
        ) from error
