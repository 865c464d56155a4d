"""memprop trains memristive spiking networks as circuits.

The public names are listed in ``_PUBLIC`` and load when first used, so that ``import memprop`` and ``memprop --help`` take no
time for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memprop.circuit.cell import Cell, find_cell, load_cell
    from memprop.circuit.elaborate import elaborate
    from memprop.circuit.network import Network, Population, Projection, population_of
    from memprop.circuit.noise import Noise
    from memprop.circuit.resistive import ResistiveNetwork
    from memprop.circuit.spread import Chip, Spread, corner_network, draw_chip, spread_network
    from memprop.circuit.wires import Wires
    from memprop.conductance.pair import ConductanceRange
    from memprop.conductance.write_back import WriteBack
    from memprop.data.encode import AlphaEncoder
    from memprop.data.sets import Images, load
    from memprop.deck.ngspice import make_deck
    from memprop.device.library import DeviceModel, load_device
    from memprop.export.bundle import load_bundle
    from memprop.flow.loop import Comparison, compare, export_bundle, provenance, summarise, twin_accuracy
    from memprop.flow.simulate import SpiceSettings, image_order, simulate_images
    from memprop.learn.biograd import BioGrad
    from memprop.learn.bptt import BPTTConfig, fit
    from memprop.learn.eqspike import EqSpike
    from memprop.learn.equilibrium import EquilibriumPropagation
    from memprop.learn.online import OTTT, EProp, SurrogateBPTT
    from memprop.learn.rule import Learned, Needs, Rule
    from memprop.learn.rule_training import RuleConfig, rule_accuracy, train_rule
    from memprop.learn.training import accuracy, evaluate
    from memprop.spice.engine import make_engine
    from memprop.spice.farm import Farm, Job, Outcome
    from memprop.spice.pool import run_many
    from memprop.twin.cell import MIF, CellTwin
    from memprop.twin.crossbar import Crossbar
    from memprop.twin.device import DeviceTrace, DeviceTwin
    from memprop.twin.network import Twin, from_network
    from memprop.twin.resistive import ResistiveTwin, resistive_twin

_PUBLIC = {
    "circuit.cell": ("Cell", "find_cell", "load_cell"),
    "circuit.elaborate": ("elaborate",),
    "circuit.network": ("Network", "Population", "Projection", "population_of"),
    "circuit.noise": ("Noise",),
    "circuit.resistive": ("ResistiveNetwork",),
    "circuit.spread": ("Chip", "Spread", "corner_network", "draw_chip", "spread_network"),
    "circuit.wires": ("Wires",),
    "conductance.pair": ("ConductanceRange",),
    "conductance.write_back": ("WriteBack",),
    "data.encode": ("AlphaEncoder",),
    "data.sets": ("Images", "load"),
    "deck.ngspice": ("make_deck",),
    "device.library": ("DeviceModel", "load_device"),
    "export.bundle": ("load_bundle",),
    "flow.loop": ("Comparison", "compare", "export_bundle", "provenance", "summarise", "twin_accuracy"),
    "flow.simulate": ("SpiceSettings", "simulate_images", "image_order"),
    "learn.bptt": ("BPTTConfig", "fit"),
    "learn.biograd": ("BioGrad",),
    "learn.eqspike": ("EqSpike",),
    "learn.equilibrium": ("EquilibriumPropagation",),
    "learn.online": ("OTTT", "EProp", "SurrogateBPTT"),
    "learn.rule": ("Learned", "Needs", "Rule"),
    "learn.rule_training": ("RuleConfig", "rule_accuracy", "train_rule"),
    "learn.training": ("accuracy", "evaluate"),
    "spice.engine": ("make_engine",),
    "spice.farm": ("Farm", "Job", "Outcome"),
    "spice.pool": ("run_many",),
    "twin.cell": ("CellTwin", "MIF"),
    "twin.crossbar": ("Crossbar",),
    "twin.device": ("DeviceTrace", "DeviceTwin"),
    "twin.network": ("Twin", "from_network"),
    "twin.resistive": ("ResistiveTwin", "resistive_twin"),
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = [
    "MIF",
    "OTTT",
    "AlphaEncoder",
    "BPTTConfig",
    "BioGrad",
    "Cell",
    "CellTwin",
    "Chip",
    "Comparison",
    "ConductanceRange",
    "Crossbar",
    "DeviceModel",
    "DeviceTrace",
    "DeviceTwin",
    "EProp",
    "EqSpike",
    "EquilibriumPropagation",
    "Farm",
    "Images",
    "Job",
    "Learned",
    "Needs",
    "Network",
    "Noise",
    "Outcome",
    "Population",
    "Projection",
    "ResistiveNetwork",
    "ResistiveTwin",
    "Rule",
    "RuleConfig",
    "SpiceSettings",
    "Spread",
    "SurrogateBPTT",
    "Twin",
    "Wires",
    "WriteBack",
    "accuracy",
    "compare",
    "corner_network",
    "draw_chip",
    "elaborate",
    "evaluate",
    "export_bundle",
    "find_cell",
    "fit",
    "from_network",
    "image_order",
    "load",
    "load_bundle",
    "load_cell",
    "load_device",
    "make_deck",
    "make_engine",
    "population_of",
    "provenance",
    "resistive_twin",
    "rule_accuracy",
    "run_many",
    "simulate_images",
    "spread_network",
    "summarise",
    "train_rule",
    "twin_accuracy",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f"memprop.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'memprop' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
