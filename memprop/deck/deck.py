"""A deck: the files of one simulation, what to simulate and what to keep. It knows no simulator."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

from memprop.errors import InputError
from memprop.files import sha256


@dataclass(frozen=True, slots=True)
class Transient:
    """Transient analysis from the operating point.

    Raises
    ------
    InputError: times are not positive, or the step is longer than the analysis.
    """

    stop: float
    """End time in s."""
    max_step: float
    """Largest time step in s."""

    def __post_init__(self) -> None:
        if not (0.0 < self.max_step <= self.stop < float("inf")):
            raise InputError(
                f"transient: max_step = {self.max_step!r} s, stop = {self.stop!r} s: need 0 < max_step <= stop."
            )


@dataclass(frozen=True, slots=True)
class Sweep:
    """Operating points at the values 0, 1, ... ``points - 1`` V of one voltage source.

    Tables of the source's voltage make anything of them, for instance the inputs of one sample after the other.

    Raises
    ------
    InputError: there is no point.
    """

    source: str
    """Name of the voltage source."""
    points: int

    def __post_init__(self) -> None:
        if self.points < 1:
            raise InputError(f"sweep of {self.source}: points = {self.points!r}, need 1 or more.")


@dataclass(frozen=True, slots=True)
class SmallSignal:
    """Small-signal (AC) analysis at one frequency in Hz; what is kept are the real parts per unit of the sources' AC values.

    Raises
    ------
    InputError: the frequency is not positive.
    """

    frequency: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.frequency < float("inf"):
            raise InputError(f"small-signal analysis: frequency = {self.frequency!r} Hz, need a positive number.")


Analysis = Transient | Sweep | SmallSignal


@dataclass(frozen=True, slots=True)
class ModelForm:
    """One behavioural subcircuit of a device: some parameters stay open, the others are fixed."""

    name: str
    """Name of the subcircuit."""
    parameters: Mapping[str, float]
    """Open parameters and their defaults, in SI units."""
    fixed: Mapping[str, float]
    """Parameters of the module that this form sets, in SI units."""


@dataclass(frozen=True, slots=True)
class VerilogModel:
    """A device in Verilog-A, and which file of a deck it can replace.

    The file holds behavioural subcircuits, one per form. An engine that loads compiled Verilog-A puts subcircuits of the same
    names, ports, parameters and defaults in its place; each holds one instance of ``module``.
    """

    file: str
    """File of the deck, e.g. ``models/mss_memristor.lib``."""
    module: str
    """Name of the module in the Verilog-A text."""
    text: str
    """The Verilog-A source."""
    ports: tuple[str, ...]
    states: tuple[str, ...]
    """Internal nodes of the module that hold states."""
    forms: tuple[ModelForm, ...]
    nodes: tuple[str, ...] = ()
    """Nodes of the behavioural subcircuits that stand for ``states``; empty where the names are the same."""

    def __post_init__(self) -> None:
        if self.nodes and len(self.nodes) != len(self.states):
            raise InputError(
                f"Verilog-A model {self.module}: {len(self.nodes)} nodes for {len(self.states)} states. Name one node per state."
            )


@dataclass(frozen=True, slots=True)
class Deck:
    """Everything one simulation needs."""

    title: str
    files: Mapping[str, str]
    """Name -> text of the included files, in the order of inclusion."""
    analysis: Analysis
    nodes: tuple[str, ...]
    """Node voltages to keep."""
    branches: tuple[str, ...] = ()
    """Voltage-source currents to keep."""
    options: Mapping[str, float | str] = field(default_factory=dict)
    """Simulator options, e.g. ``{"reltol": 1e-4}``."""
    verilog: tuple[VerilogModel, ...] = ()
    """Devices that an engine may take compiled, instead of the behavioural files."""

    @property
    def transient(self) -> Transient:
        """The analysis, for those who know no other kind.

        Raises
        ------
        InputError: it is another kind.
        """
        if not isinstance(self.analysis, Transient):
            kind = type(self.analysis).__name__.lower()
            raise InputError(f"a {kind} is done by the engine ngspice alone. Use that engine.")
        return self.analysis

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides the result."""
        kind = {} if isinstance(self.analysis, Transient) else {"kind": type(self.analysis).__name__}
        content = {"analysis": kind | asdict(self.analysis), "nodes": self.nodes, "branches": self.branches,
                   "options": list(self.options.items())}  # fmt: skip
        if self.verilog:  # hashes of decks without it stay what they were before it was there
            content["verilog"] = [_plain(model) for model in self.verilog]
        files = ", ".join(f"[{json.dumps(name)}, {_encoded(text)}]" for name, text in self.files.items())
        return sha256(f'{{"files": [{files}], {json.dumps(content)[1:]}')


@functools.lru_cache(maxsize=16)
def _encoded(text: str) -> str:
    """Return ``text`` in JSON; decks of many images share all of their files but one."""
    return json.dumps(text)


def _plain(model: VerilogModel) -> dict[str, object]:
    """Return what ``asdict`` returns, without its copies of everything: a digest is asked for with each simulation."""
    plain = {part.name: getattr(model, part.name) for part in fields(model)}
    forms = [{"name": form.name, "parameters": form.parameters, "fixed": form.fixed} for form in model.forms]
    return {**plain, "forms": forms}
