"""What `memprop check-online` does: gradients of rules that learn forward in time against backpropagation through time.

The network is random, and each sample is compared alone: means of batches agree better than what a circuit sees. Surrogate gradients
are not gradients of any loss, so differences say nothing here; the reference is autograd through the same network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from memprop.data.sets import Images, load
from memprop.errors import InputError
from memprop.files import ensure_folder, write_json
from memprop.flow.online import OnlineSettings
from memprop.flow.rule_learning import random_chain
from memprop.learn.online import OTTT, EProp, OnlineRule, SurrogateBPTT

LEAST_SAMPLES = 20
"""So many samples must have a gradient for a mean to be told."""
HELD = ("e-prop", "OTTT, leaky readout", "OTTT, memoryless readout")
"""Rules whose last two crossbars must follow backpropagation without resets: e-prop is exact there, and OTTT in the readout if that
has the decay of membranes, in the layer before if it has no memory. The rest of OTTT is close where rates are steady, as here.
"""


@dataclass(frozen=True, slots=True)
class OnlineCheck:
    """One crossbar's gradients by one rule: means over samples."""

    rule: str
    crossbar: int
    cosine: float
    """With the gradient that leaves out the derivative of resets."""
    length: float
    """Over the length of that gradient."""
    cosine_full: float
    """With the gradient that has the derivative of resets."""
    length_full: float
    samples: int
    """Those whose gradients are not zero."""


def check_online(settings: OnlineSettings, out: Path, console: Console, *, samples: int, least: float) -> bool:
    """Print how right the gradients are; return whether those that theory calls right reach ``least``.

    Raises
    ------
    InputError: fewer samples than `LEAST_SAMPLES` have a gradient.
    """
    data = load(settings.dataset)
    sizes = (data.rows, *settings.hidden, data.classes)
    checks = compared(settings, data, samples)
    title = "-".join(map(str, sizes))
    table = Table("rule", "crossbar", "cosine", "length", "with resets: cosine", "length", "samples", title=title)
    for c in checks:
        table.add_row(
            c.rule, str(c.crossbar), f"{c.cosine:.4f}", f"x {c.length:.3f}", f"{c.cosine_full:.4f}", f"x {c.length_full:.3f}",
            str(c.samples),
        )  # fmt: skip
    console.print(table)
    record = {"sizes": sizes, "settings": asdict(settings), "least": least, "checks": [asdict(c) for c in checks]}
    write_json(ensure_folder(out) / "check_online.json", record)
    held = [c for c in checks if c.rule in HELD and c.crossbar >= len(settings.hidden) - 1]
    low = [f"{c.rule}, crossbar {c.crossbar}: {c.cosine:.4f}" for c in held if not c.cosine >= least]
    console.print(
        f"cosine below {least}: {'; '.join(low)}" if low else f"e-prop and OTTT: the last two crossbars reach {least}."
    )
    return not low


def compared(settings: OnlineSettings, data: Images, samples: int) -> list[OnlineCheck]:
    """Return the comparison of all rules with backpropagation on the same network, samples and input spikes."""
    chosen = np.random.default_rng(settings.seed).permutation(len(data.train.labels))[:samples]
    inputs = torch.from_numpy(data.pixels("train")).flatten(1)[chosen]
    labels = torch.from_numpy(data.train.labels).long()[chosen]
    checks = []
    for memory in ("leaky", "memoryless"):
        rules, references = _rules(settings, (data.rows, *settings.hidden, data.classes), memory)
        true = [_gradients(rule, inputs, labels, settings.seed) for rule in references]
        for name, rule in rules.items():
            found = _gradients(rule, inputs, labels, settings.seed)
            checks += [_check(name, k, found, true) for k in range(len(settings.hidden) + 1)]
    return checks


def _rules(
    settings: OnlineSettings, sizes: Sequence[int], memory: str
) -> tuple[dict[str, OnlineRule], tuple[OnlineRule, OnlineRule]]:
    """Return rules by name, and backpropagation without and with resets, on readouts with this memory."""
    neuron = settings.neuron if memory == "leaky" else replace(settings.neuron, readout=0.0)
    fed = random_chain(sizes, settings.gain, settings.unit, settings.seed, feedback=True)
    layers = fed[: len(sizes) - 1]
    given: dict[str, Any] = {"steps": settings.steps, "neuron": neuron, "dtype": torch.float64}
    references = (
        SurrogateBPTT(layers, settings.unit, **given),
        SurrogateBPTT(layers, settings.unit, detached=False, **given),
    )
    rules: dict[str, OnlineRule] = {f"OTTT, {memory} readout": OTTT(layers, settings.unit, **given)}
    if memory == "leaky":
        rules = {"e-prop": EProp(layers, settings.unit, **given),
                 "e-prop, random feedback": EProp(fed, settings.unit, feedback="random", **given),
                 **rules, "BPTT without resets": references[0]}  # fmt: skip
    return rules, references


def _gradients(rule: OnlineRule, inputs: Tensor, labels: Tensor, seed: int) -> list[tuple[Tensor, ...]]:
    """Return the gradients of each sample alone; its spikes depend on the seed and its place only."""
    return [
        rule.learn(inputs[k : k + 1], labels[k : k + 1], torch.Generator().manual_seed(seed + k)).gradients
        for k in range(len(inputs))
    ]


def _check(
    name: str, k: int, found: Sequence[tuple[Tensor, ...]], true: Sequence[Sequence[tuple[Tensor, ...]]]
) -> OnlineCheck:
    rows = [(mine[k], *(one[n][k] for one in true)) for n, mine in enumerate(found)]
    kept = [row for row in rows if all(float(g.norm()) > 0.0 for g in row)]
    if len(kept) < LEAST_SAMPLES:
        raise InputError(
            f"check-online: {name}, crossbar {k}: {len(kept)} of {len(rows)} samples have a gradient, {LEAST_SAMPLES} are needed. Raise "
            "--samples or --steps."
        )
    (cosine, length), (cosine_full, length_full) = (_agreement([(row[0], row[n]) for row in kept]) for n in (1, 2))
    return OnlineCheck(name, k, cosine, length, cosine_full, length_full, len(kept))


def _agreement(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Return the mean cosine of pairs, and the mean length of the first over that of the second."""
    cosines = [float((a * b).sum() / (a.norm() * b.norm())) for a, b in pairs]
    return float(np.mean(cosines)), float(np.mean([float(a.norm() / b.norm()) for a, b in pairs]))
