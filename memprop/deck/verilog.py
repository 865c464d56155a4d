"""Compiled Verilog-A in decks: the subcircuits that replace behavioural ones, and where their states are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from memprop.circuit.netlist import Element, Netlist, read_netlist
from memprop.deck.deck import Deck, ModelForm, VerilogModel
from memprop.deck.numbers import to_text
from memprop.errors import InputError

INSTANCE = "n1"
"""Name of the compiled device inside the subcircuit of its form."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node is: the instances that lead to it, and its name there."""

    path: tuple[str, ...]
    name: str
    compiled: bool
    """Whether ``name`` is an internal node of the compiled device that the path ends in."""


@dataclass(frozen=True, slots=True)
class Library:
    """Elements and subcircuits of a deck, with the subcircuits that compiled devices replace."""

    netlists: Mapping[str, Netlist]
    """By file, without the replaced ones."""
    forms: Mapping[str, tuple[VerilogModel, ModelForm]]
    """By subcircuit name."""
    _elements: dict[str, dict[str, Element]] = field(default_factory=dict)

    def elements(self, subcircuit: str) -> Mapping[str, Element]:
        """Return the elements of a subcircuit, or of the top level for the empty name, by element name."""
        if subcircuit not in self._elements:
            parts = self.netlists.values()
            found = [n.elements if not subcircuit else n.subcircuits[subcircuit].elements
                     for n in parts if not subcircuit or subcircuit in n.subcircuits]  # fmt: skip
            self._elements[subcircuit] = {element.name: element for elements in found for element in elements}
        return self._elements[subcircuit]

    def place(self, node: str) -> Place:
        """Return the place of a node that is named as in the behavioural deck, e.g. ``x1.x2.x``."""
        *path, last = node.lower().split(".")
        inside = ""
        for depth, instance in enumerate(path):
            element = self.elements(inside).get(instance)
            if element is None or element.kind != "x":
                break
            inside = element.value
            if inside in self.forms:
                # What the behavioural form has below, e.g. a preset that calls another form, is one device here.
                return Place(tuple(path[: depth + 1]), _state(self.forms[inside][0], last), compiled=True)
        return Place(tuple(path), last, compiled=False)


def _state(model: VerilogModel, node: str) -> str:
    return dict(zip(model.nodes or model.states, model.states, strict=True)).get(node, node)


def read_library(deck: Deck) -> Library:
    """Return the elements and subcircuits of ``deck``, its replaceable files left out.

    Raises
    ------
    InputError: a file is not understood, or a subcircuit is there twice.
    """
    replaced = {model.file for model in deck.verilog}
    netlists = {name: read_netlist(text, name) for name, text in deck.files.items() if name not in replaced}
    forms = {form.name.lower(): (model, form) for model in deck.verilog for form in model.forms}
    seen: dict[str, str] = dict.fromkeys(forms, "a Verilog-A model")
    for file, netlist in netlists.items():
        for name in netlist.subcircuits:
            if name in seen:
                raise InputError(
                    f"{file}: subcircuit '{name}' is there twice, before in {seen[name]}. Rename one of the two."
                )
            seen[name] = file
    return Library(netlists, forms)


def ngspice_text(model: VerilogModel) -> str:
    """Return ngspice subcircuits that replace the file of ``model``."""
    lines = [f"* {model.module}: compiled Verilog-A in place of behavioural subcircuits"]
    for form in model.forms:
        ports = " ".join(model.ports)
        defaults = "".join(f" {name.lower()}={to_text(value)}" for name, value in form.parameters.items())
        lines += [f".subckt {form.name} {ports}" + (f" params:{defaults}" if defaults else "")]
        card = f"{form.name}_{INSTANCE}"
        values = "".join(f" {name.lower()}={{{name.lower()}}}" for name in form.parameters)
        values += "".join(f" {name.lower()}={to_text(value)}" for name, value in form.fixed.items())
        lines += [f"{INSTANCE} {ports} {card}", f".model {card} {model.module}{values}", f".ends {form.name}"]
    return "\n".join(lines) + "\n"


def ngspice_names(deck: Deck) -> dict[str, str]:
    """Return ngspice's names of those nodes of ``deck`` that are states of compiled devices."""
    deep = [node for node in deck.nodes if "." in node]
    if not deep or not deck.verilog:
        return {}
    library = read_library(deck)
    places = {node: library.place(node) for node in deep}
    return {
        node: f"n.{'.'.join(place.path)}.{INSTANCE}#{place.name}" for node, place in places.items() if place.compiled
    }
