"""``memprop check-gradient``: rules against differences in SPICE, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from memprop.circuit.spread import Spread, draw_chip
from memprop.data.sets import load
from memprop.errors import InputError
from memprop.export.bundle import load_bundle
from memprop.flow.gradient import RULES, Comparison, Question, check_gradient
from memprop.report.progress import progress
from memprop.spice.engine import make_engine


def check_bundle(
    bundle: Path, rules: Sequence[str], console: Console, *, image: int, count: int, dt: float | None,
    parameters: Mapping[str, float], seed: int, least: float, engine_name: str, workers: int | None,
) -> bool:  # fmt: skip
    """Print the comparison for a test image of a bundle, or of a chip with spread ``parameters``; return whether all rules hold.

    Raises
    ------
    InputError: there is no such image, a rule is unknown, or a crossbar has too few pairs.
    SimulationError: a simulation failed.
    """
    network, encoder, manifest = load_bundle(bundle)
    data = load(manifest.dataset)
    if image >= len(data.test.labels):
        raise InputError(
            f"image {image} is not there: {data.name} has {len(data.test.labels)} test images, numbered from 0."
        )
    pixels = torch.from_numpy(data.pixels("test", np.array([image])))
    asked = draw_chip(network, Spread(parameters), seed).program() if parameters else network
    question = Question(asked, encoder, pixels, int(data.test.labels[image]))
    chosen = list(dict.fromkeys(rules)) or list(RULES)
    found: list[tuple[str, Comparison]] = []
    with (
        closing(make_engine(engine_name)) as engine,
        progress("gradients", len(network.projections), console) as advance,
    ):
        for rule, one in check_gradient(
            question, chosen, engine, count=count, dt=dt or manifest.dt, seed=seed, believed=network, workers=workers
        ):
            found.append((rule, one))
            if rule == chosen[-1]:
                advance(one.projection)
        subject = f"a chip of {network.name}, spread {Spread(parameters)}" if parameters else network.name
        console.print(gradient_table(found, least, f"{subject}, test image {image}, {engine.name}"))
    return all(one.verdict(least) == "holds" for _, one in found)


def gradient_table(found: Sequence[tuple[str, Comparison]], least: float, title: str) -> Table:
    """Return the comparisons as a table; ``least`` is the cosine that a rule must reach."""
    table = Table("crossbar", "rule", "pairs", "cosine", "norm", "worst", "verdict", title=title, title_justify="left")
    for rule, one in found:
        verdict = one.verdict(least)
        color = "green" if verdict == "holds" else "bold red"
        numbers = (f"{one.cosine:.6f}", f"x {one.norm_ratio:.4f}", f"{one.worst:.3%}")
        table.add_row(one.projection, rule, str(len(one.picked)), *numbers, f"[{color}]{verdict}[/]")
    return table
