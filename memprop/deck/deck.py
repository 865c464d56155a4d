"""A deck: the files of one simulation, what to simulate and what to keep. It knows no simulator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

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
class Deck:
    """Everything one simulation needs."""

    title: str
    files: Mapping[str, str]
    """Name -> text of the included files, in the order of inclusion."""
    analysis: Transient
    nodes: tuple[str, ...]
    """Node voltages to keep."""
    branches: tuple[str, ...] = ()
    """Voltage-source currents to keep."""
    options: Mapping[str, float | str] = field(default_factory=dict)
    """Simulator options, e.g. ``{"reltol": 1e-4}``."""

    @property
    def digest(self) -> str:
        """SHA-256 over all that decides the result."""
        content = {"files": list(self.files.items()), "analysis": asdict(self.analysis), "nodes": self.nodes,
                   "branches": self.branches, "options": list(self.options.items())}  # fmt: skip
        return sha256(json.dumps(content))
