"""What a fit found out about a cell: by how much its twin's parameters differ from the circuit's, and where that holds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memprop.circuit.cell import Cell
from memprop.errors import InputError
from memprop.twin.ranges import Ends, Range

FIT = "fit.json"
FORMAT = 2
GREY_BOX, LEARNED = "grey box", "learned"


@dataclass(frozen=True, slots=True)
class Fitted:
    """Factors on the parameters of a cell's twin, which make up for its step, and the range they were fitted in."""

    kind: str
    """`GREY_BOX`, or `LEARNED`: then there are no factors, and the model lies beside."""
    cell: str
    cell_sha256: str
    dt: float
    """Step in s that it was fitted at."""
    factors: Mapping[str, float]
    """Fitted over the circuit's parameter."""
    known: Range
    runs: int = 0
    """Runs of the characterisation."""
    duration: float = 0.0
    """Length of one in s."""
    corners: int = 0
    """Straight pieces of the current of one."""
    errors: Mapping[str, float] = field(default_factory=dict)
    """In V rms: ``held_out`` of the fit, ``nominal`` without it."""

    def check(self, cell: Cell) -> None:
        """Raise InputError unless this was fitted to this very cell, and has factors on its parameters only."""
        if cell.digest != self.cell_sha256:
            raise InputError(
                f"the fit is of cell {self.cell} with hash {self.cell_sha256[:12]}, and cell {cell.name} has "
                f"{cell.digest[:12]}: another netlist. Fit it again: memprop fit-cell."
            )
        if unknown := sorted(set(self.factors) - set(cell.card.parameters)):
            raise InputError(
                f"the fit of cell {self.cell} has a parameter '{unknown[0]}'. Known: {', '.join(cell.card.parameters)}."
            )


def load_fit(path: Path) -> Fitted:
    """Return the fit in ``path``, a fit.json or its folder.

    Raises
    ------
    InputError: it is missing, damaged, or of another format.
    """
    file = path / FIT if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return _fitted(content)
    except FileNotFoundError as error:
        raise InputError(f"{file} is not there. Make it: memprop fit-cell CELL.") from error
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"{file} cannot be read as a fit ({type(error).__name__}: {error}). Make it again: memprop fit-cell CELL."
        ) from error


def _fitted(content: dict[str, Any]) -> Fitted:
    kind = content["kind"]
    if content["format"] != FORMAT or kind not in (GREY_BOX, LEARNED):
        raise ValueError(f"format {content['format']!r}, kind {kind!r}; needs {FORMAT}, '{GREY_BOX}' or '{LEARNED}'")
    factors = {str(name): float(one["factor"]) for name, one in content.get("parameters", {}).items()}
    known = Range(*(_ends(content["range"][name]) for name in ("current", "mem", "temperature")))
    waves = content["waveforms"]
    found = Fitted(
        kind, str(content["cell"]), str(content["cell_sha256"]), float(content["dt"]), factors, known, int(waves["runs"]),
        float(waves["duration"]), int(waves["corners"]),
        {name: _held_out(content[key]) for name, key in (("held_out", "report"), ("nominal", "nominal")) if key in content},
    )  # fmt: skip
    if not all(math.isfinite(x) for x in factors.values()) or not (
        0 < found.dt < math.inf and 0 < found.duration < math.inf
    ):
        raise ValueError("a factor, step or duration is not finite, or a time not positive")
    return found


def _ends(values: list[float]) -> Ends:
    low, high = map(float, values)
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"range {values!r} does not rise")
    return low, high


def _held_out(report: dict[str, Any]) -> float:
    return {one["label"]: float(one["rms"]) for one in report["errors"]}["held_out"]
