"""How well calibration found the parameters of a chip: numbers and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from memprop.circuit.network import Network
from memprop.twin.fitting.design import Design
from memprop.twin.fitting.grey_box import GreyBoxFit


@dataclass(frozen=True, slots=True)
class Recovery:
    """How far found parameters are from those of the chip, relative."""

    population: str
    parameter: str
    median: float
    worst: float
    before: float
    """Median error of the card's value."""
    told: float
    """Median standard error that the fit tells."""


def recovery(chip: Network, found: Network, fits: Mapping[str, GreyBoxFit]) -> list[Recovery]:
    """Compare the parameters found with those that the chip has."""
    rows = []
    for one, other in zip(chip.populations, found.populations, strict=True):
        if one.name not in fits:
            continue
        fit, true = fits[one.name], one.cell.values(one.size, one.parameters)
        for name in fit.free:
            card = one.cell.card.parameters[name].default
            error = np.abs(np.asarray(other.parameters[name]) / true[name] - 1.0)
            before = np.abs(card / np.broadcast_to(true[name], one.size) - 1.0)
            told = float(np.median(fit.errors[name]))
            rows.append(
                Recovery(one.name, name, float(np.median(error)), float(error.max()), float(np.median(before)), told)
            )
    return rows


def record(rows: Sequence[Recovery], fits: Mapping[str, GreyBoxFit], *, known: bool) -> dict[str, Any]:
    """Return what calibration.json holds; ``known``: the chip's own parameters are there to compare with."""
    found = {
        name: {
            "dt": fit.dt, "neurons": list(fit.instances), "rms": fit.after.tolist(),
            "unknown": [list(entry) for entry in fit.unknown()], "errors": {n: e.tolist() for n, e in fit.errors.items()},
        }
        for name, fit in fits.items()
    }  # fmt: skip
    return {"fits": found, "against_chip": [asdict(row) for row in rows] if known else []}


def say_design(labels: Sequence[str], design: Design, name: str, console: Console) -> None:
    """Print which stimuli were designed, and what they determine."""
    table = Table("stimuli", "rank", *(f"error of {n}" for n in design.free), title_justify="left",
                  title=f"{name}: designed stimuli; errors at 1 mV of noise per point")  # fmt: skip
    for k, label in enumerate(labels):
        errors = [f"{100 * e:.2g} %" if np.isfinite(e) else "unknown" for e in design.errors[k]]
        table.add_row(f"{'+ ' if k else ''}{label}", str(design.ranks[k]), *errors)
    console.print(table)


def say(rows: Sequence[Recovery], fits: Mapping[str, GreyBoxFit], console: Console, *, known: bool) -> None:
    """Print errors before and after, and, where they are known, those against the chip."""
    for name, fit in fits.items():
        before, after, worst = (1e3 * float(x) for x in (np.median(fit.before), np.median(fit.after), fit.after.max()))
        console.print(
            f"{name}: {len(fit.instances)} neurons, {before:.3g} mV rms with the card, {after:.3g} mV after "
            f"(worst {worst:.3g}); {len(fit.unknown())} parameters not determined",
            highlight=False,
        )
    if not known:
        return
    head = ("population", "parameter", "median error", "worst", "median, card", "standard error")
    table = Table(*head, title="against the chip", title_justify="left")
    for r in rows:
        numbers = [f"{100 * x:.2g} %" for x in (r.median, r.worst, r.before, r.told)]
        table.add_row(r.population, r.parameter, *numbers)
    console.print(table)
