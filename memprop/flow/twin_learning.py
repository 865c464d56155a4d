"""Train a rule on its twin, in a run folder that can be interrupted and resumed, and measure the accuracy."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from memprop.conductance.write_back import WriteBack
from memprop.data.sets import Images
from memprop.files import ensure_folder, write_json
from memprop.learn.rule import Rule
from memprop.learn.rule_training import RuleConfig, rule_accuracy, train_rule
from memprop.learn.training import Progress
from memprop.report.figures import training_curve
from memprop.report.progress import progress

CHECKPOINT, SUMMARY = "training.safetensors", "summary.json"


def learn_on_twin(
    rule: Rule, data: Images, config: RuleConfig, write: WriteBack, settings: Any, run: Path, console: Console,
    more: Callable[[], Mapping[str, Any]] = dict,
) -> dict[str, Any]:  # fmt: skip
    """Train, write summary and figure into ``run``, print a table, return the summary; ``more`` tells what else is worth a line.

    Raises
    ------
    InputError: settings and data do not fit.
    CheckpointError: ``run`` holds another training.
    """
    steps = -(-(len(data.train.labels) - config.validation) // config.batch)
    with progress("learning on the twin", config.epochs * steps, console) as advance:

        def on_step(at: Progress) -> None:
            advance(f"epoch {at.epoch + 1}, loss {at.loss:.3f}", done=at.epoch * at.steps + at.step)

        history = train_rule(rule, data, config, write, ensure_folder(run) / CHECKPOINT, on_step)
    summary = {
        "rule": rule.name, "needs": asdict(rule.needs), "dataset": data.name,
        "crossbars": [list(g.shape) for g in rule.conductances], "twin_accuracy": rule_accuracy(rule, data),
        "twin_images": len(data.test.labels), "history": asdict(history), "more": dict(more()),
        "settings": json.loads(json.dumps(asdict(settings))),
        "versions": {"memprop": version("memprop"), "torch": torch.__version__},
    }  # fmt: skip
    write_json(run / SUMMARY, summary)
    if history.validation:
        training_curve(run / "training.png", history.loss, history.validation, history.best)
    table = Table("what", "found", title=f"{rule.name}, {data.name}")
    table.add_row("crossbars", ", ".join(" x ".join(map(str, shape)) for shape in summary["crossbars"]))
    table.add_row("trained on the twin", f"{len(history.loss)} epochs, {sum(history.seconds):.0f} s")
    if history.validation:
        table.add_row("best on samples held out", f"{100 * max(history.validation):.2f} %")
    table.add_row(f"all {summary['twin_images']} test samples", f"{100 * summary['twin_accuracy']:.2f} %")
    for name, value in summary["more"].items():
        table.add_row(name, str(value))
    console.print(table)
    console.print(
        f"summary{' and figure' if history.validation else ''}: {run}", soft_wrap=True, markup=False, highlight=False
    )
    return summary
