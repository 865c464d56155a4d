"""What `memprop compare-rules` does: train each rule on one task, and set side by side what it reaches and what it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from memprop.conductance.write_back import WriteBack
from memprop.data.sets import Images, load
from memprop.errors import InputError
from memprop.files import ensure_folder, write_json
from memprop.flow import biograd, eqspike, equilibrium, online, rule_references
from memprop.flow.check_equilibrium import by_small_signals
from memprop.flow.resistive import SpiceResistive
from memprop.flow.rule_learning import PairSettings, trained
from memprop.flow.spice_rules import Answers, answer_clocked, answer_eqspike, answer_resistive
from memprop.learn.agreement import cosine, mean_of
from memprop.learn.rule import Rule
from memprop.learn.rule_training import RuleConfig, rule_accuracy
from memprop.learn.training import accuracy
from memprop.report.progress import progress
from memprop.report.rule_figures import learning_curves
from memprop.spice.engine import Engine, make_engine
from memprop.twin.resistive import resistive_twin

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "ep": equilibrium.PRESETS, "eqspike": eqspike.PRESETS, "biograd": biograd.PRESETS, **dict.fromkeys(online.RULES, online.PRESETS)
}  # fmt: skip
RULES = ("ep", "eqspike", "biograd", "eprop", "eprop-random", "ottt", "bptt")
Settings = TypeVar("Settings", bound=PairSettings)
BATCH = 20
"""Training samples whose gradients are compared, each alone: a mean over many is that of the few with the largest."""
NOTE = (
    "Cosines: means over 20 samples, each alone. Written: one update whose largest change is four levels, after rounding. Energy: of "
    "crossbars and EqSpike's replicas alone, that of the first crossbar and of clocked ones computed from the spikes, as columns are "
    "virtual grounds; resistive networks are said to be powered for 1 us, which is not measured. In the decks of EqSpike and the clocked "
    "networks, sources stand for the first crossbar. Of the references, only small signals are a gradient that SPICE itself shows."
)
COSINES = ("cosines", "cosines_written", "cosines_trained")
LARGEST_STEP = 4
"""Levels by which the pair moves that moves most, where the written update is compared."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A rule on its network, ready to be trained, and what it is compared with."""

    rule: Rule
    config: RuleConfig
    write: WriteBack
    true: Callable[[Tensor, Tensor], list[Tensor]]
    """Gradient of samples with labels, by another route."""
    kind: str
    """Which route."""
    answer: Callable[[Tensor], Answers]
    """What the trained network answers in SPICE."""


@dataclass(frozen=True, slots=True)
class Task:
    """What all rules learn."""

    dataset: str
    hidden: int
    seed: int
    epochs: int | None = None


def contender(name: str, task: Task, data: Images, engine: Engine) -> Contender:
    """Return a rule by name, with the settings of its preset for the data set.

    Raises
    ------
    InputError: there is no such rule.
    """
    makers = {"ep": _equilibrium, "eqspike": _eqspike, "biograd": _biograd}
    if name not in RULES:
        raise InputError(f"unknown rule '{name}'. Known: {', '.join(RULES)}.")
    return makers.get(name, lambda *given: _online(name, *given))(task, data, engine)


def _changed(settings: Settings, task: Task, hidden: int | tuple[int, ...]) -> Settings:
    changes: dict[str, Any] = {"hidden": hidden, "seed": task.seed}
    return replace(settings, **changes, **({} if task.epochs is None else {"epochs": task.epochs}))


def _equilibrium(task: Task, data: Images, engine: Engine) -> Contender:
    settings = equilibrium.PRESETS[task.dataset].on((task.hidden,), task.seed, task.epochs)
    network = equilibrium.fresh_network(settings, data)
    rule = equilibrium.rule_on(settings, resistive_twin(network))

    def circuit() -> SpiceResistive:
        return SpiceResistive(replace(network, conductances=tuple(g.numpy() for g in rule.conductances)), engine)

    def true(inputs: Tensor, labels: Tensor) -> list[Tensor]:
        there = circuit()
        return by_small_signals(there, equilibrium.rule_on(settings, there), inputs, labels)

    write = WriteBack(settings.window)
    return Contender(
        rule, settings.training, write, true, "small signals in SPICE", lambda x: answer_resistive(circuit(), settings.scale, x)
    )  # fmt: skip


def _eqspike(task: Task, data: Images, engine: Engine) -> Contender:
    settings = _changed(eqspike.PRESETS[task.dataset], task, task.hidden)
    rule = eqspike.rule_on(settings, data)
    return Contender(
        rule, settings.config(settings.rates), settings.write(), lambda x, y: rule_references.of_eqspike(rule, x, y),
        "backpropagation through settling rates", lambda x: answer_eqspike(rule, settings.window, x, engine),
    )  # fmt: skip


def _biograd(task: Task, data: Images, engine: Engine) -> Contender:
    settings = replace(_changed(biograd.PRESETS[task.dataset], task, (task.hidden,)), shown=20)
    rule = biograd.rule_on(settings, data)
    return Contender(
        rule, biograd.config_of(settings), settings.write(), lambda x, y: rule_references.of_biograd(rule, x, y, task.seed),
        "surrogate BPTT", lambda x: answer_clocked(rule, settings.window, x, engine),
    )  # fmt: skip


def _online(name: str, task: Task, data: Images, engine: Engine) -> Contender:
    settings = _changed(online.PRESETS[task.dataset], task, (task.hidden,))
    rule = online.online_rule(name, settings, data)
    return Contender(
        rule, online.config_of(settings, rule), settings.write(), lambda x, y: rule_references.of_online(rule, x, y, task.seed),
        "surrogate BPTT, resets too", lambda x: answer_clocked(rule, settings.window, x, engine),
    )  # fmt: skip


def compare_rules(
    names: Sequence[str], dataset: str, out: Path, console: Console, *, hidden: int, seeds: int, epochs: int | None, images: int,
    levels: int, engine_name: str,
) -> dict[str, Any]:  # fmt: skip
    """Train all rules with all seeds, measure the first seed in SPICE, write and print the table, draw the curves, return the record.

    Finished trainings are kept in ``out`` and not done again.

    Raises
    ------
    InputError: a rule or its preset is unknown, or there are fewer test samples than ``images``.
    SimulationError: a simulation failed.
    """
    if missing := [name for name in names if dataset not in PRESETS[name]]:
        common = set.intersection(*(set(PRESETS[name]) for name in names)) - {biograd.EVENTS}
        raise InputError(
            f"rule {missing[0]} has no preset for the data set '{dataset}'. Those of all rules: {', '.join(sorted(common))}."
        )
    data, rows = load(dataset), {}
    if images > len(data.test.labels):
        raise InputError(f"{images} test samples asked, {data.name} has {len(data.test.labels)}. Ask for fewer.")
    with closing(make_engine(engine_name)) as engine:
        for name in names:
            tasks = [Task(dataset, hidden, seed, epochs) for seed in range(seeds)]
            rows[name] = _row(name, tasks, data, ensure_folder(out / name), console, images, levels, engine)
        record = {
            "dataset": dataset, "hidden": hidden, "seeds": seeds, "levels": levels, "rows": rows,
            "versions": {"memprop": version("memprop"), "engine": engine.name, "torch": torch.__version__},
        }  # fmt: skip
    write_json(out / "compare_rules.json", record)
    learning_curves(
        out / "compare_rules.png", {str(row["rule"]): [seed["validation"] for seed in row["seeds"]] for row in rows.values()}
    )  # fmt: skip
    _say(record, images, console)
    console.print(f"figure: {out / 'compare_rules.png'}", soft_wrap=True, markup=False, highlight=False)
    return record


def _row(
    name: str, tasks: Sequence[Task], data: Images, folder: Path, console: Console, images: int, levels: int, engine: Engine
) -> dict[str, Any]:  # fmt: skip
    contenders = [contender(name, task, data, engine) for task in tasks]
    if images:  # an engine that cannot do it says so before the long work
        contenders[0].answer(torch.from_numpy(data.pixels("test")[:1]).flatten(1))
    seeds: list[dict[str, Any]] = []
    spice: dict[str, Any] = {}
    for this, task in zip(contenders, tasks, strict=True):
        fresh, written = _gradients(this, data, levels, task.seed)
        title = f"{name}, seed {task.seed}"
        history = trained(this.rule, data, this.config, this.write, folder / str(task.seed), title, console)
        after, _ = _gradients(this, data, levels, task.seed)
        seeds.append({
            "accuracy": rule_accuracy(this.rule, data), "validation": history.validation, "seconds": sum(history.seconds),
            "cosines": fresh, "cosines_written": written, "cosines_trained": after,
        })  # fmt: skip
        if task.seed == 0 and images:
            spice = _in_spice(this, data, images, name, console)
    first = contenders[0]
    return {
        "rule": first.rule.name,
        "needs": asdict(first.rule.needs),
        "reference": first.kind,
        "seeds": seeds,
        "spice": spice,
    }


def _gradients(this: Contender, data: Images, levels: int, seed: int) -> tuple[list[float | None], list[float | None]]:
    """Return mean cosines over samples: of the update as it is wanted, and as it is written into cells of ``levels`` conductances."""
    wanted, written = [], []
    for k in range(BATCH):
        inputs = torch.from_numpy(data.pixels("train")[k : k + 1]).flatten(1)
        labels = torch.from_numpy(data.train.labels[k : k + 1]).long()
        true = this.true(inputs, labels)
        found = this.rule.learn(inputs, labels, torch.Generator().manual_seed(seed)).gradients[: len(true)]
        moved = [
            _written(g, gradient, replace(this.write, levels=levels))
            for g, gradient in zip(this.rule.conductances, found, strict=False)
        ]
        wanted.append([cosine(a, b) for a, b in zip(found, true, strict=True)])
        written.append([cosine(a, b) for a, b in zip(moved, true, strict=True)])
    return [mean_of(column) for column in zip(*wanted, strict=True)], [
        mean_of(column) for column in zip(*written, strict=True)
    ]


def _written(g: Tensor, gradient: Tensor, write: WriteBack) -> Tensor:
    """Return how written conductances move, with the sign of a gradient, under a step whose largest change is `LARGEST_STEP` levels."""
    step = LARGEST_STEP * write.window.span / ((write.levels or 2) - 1) / (float(gradient.abs().max()) or 1.0)
    generator = torch.Generator()
    start = write(g, generator)
    return start - write(start - step * gradient.to(g), generator)


def _in_spice(this: Contender, data: Images, images: int, name: str, console: Console) -> dict[str, Any]:
    inputs = torch.from_numpy(data.pixels("test")[:images]).flatten(1)
    labels = torch.from_numpy(data.test.labels[:images]).long()
    with progress(f"{name} in SPICE, {images} samples", 1, console) as advance:
        found = this.answer(inputs)
        advance()
    twin = this.rule.outputs(inputs)
    return {
        "images": images, "accuracy": accuracy(found.outputs, labels), "twin_accuracy": accuracy(twin, labels),
        "same_class": float((found.outputs.argmax(1) == twin.argmax(1)).double().mean()), "energy": found.energy,
    }  # fmt: skip


def _say(record: Mapping[str, Any], images: int, console: Console) -> None:
    title = f"{record['dataset']}, {record['hidden']} hidden, {record['seeds']} seeds, {record['versions']['engine']}"
    reached = Table(
        "rule", "twin (%)", f"SPICE (%), {images} samples", "same class (%)", "crossbars, one answer (nJ)", title=title
    )
    needs = Table("rule", "phases", "state of a synapse", "trained (s)", title="what it needs")
    right = Table(
        "rule", "fresh", f"written, {record['levels']} levels", "trained", "to", title="cosine of each crossbar"
    )
    for row in record["rows"].values():
        shares, spice = [100 * seed["accuracy"] for seed in row["seeds"]], row["spice"]
        spread = f" +- {np.std(shares, ddof=1):.1f}" if len(shares) > 1 else ""
        measured = [f"{100 * spice[key]:.0f}" for key in ("accuracy", "same_class")] if spice else ["-", "-"]
        reached.add_row(
            row["rule"], f"{np.mean(shares):.1f}{spread}", *measured, f"{1e9 * spice['energy']:.3g}" if spice else "-"
        )
        seconds = np.mean([seed["seconds"] for seed in row["seeds"]])
        needs.add_row(row["rule"], str(row["needs"]["phases"]), row["needs"]["state"], f"{seconds:.0f}")
        right.add_row(row["rule"], *(_means(row["seeds"], key) for key in COSINES), row["reference"])
    for table in (reached, needs, right):
        console.print(table)
    console.print(NOTE, soft_wrap=True, highlight=False)


def _means(seeds: Sequence[Mapping[str, Any]], key: str) -> str:
    """Return the mean over seeds of each crossbar's cosine, where it has one."""
    means = [mean_of(values) for values in zip(*(seed[key] for seed in seeds), strict=True)]
    return " ".join("-" if mean is None else f"{mean:.2f}" for mean in means)
