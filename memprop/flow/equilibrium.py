"""What `memprop learn ep` does: train a resistive network by equilibrium propagation, on the twin or wholly in SPICE, and measure it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from memprop.circuit.resistive import ResistiveNetwork, crossbar_shapes
from memprop.conductance.pair import ConductanceRange
from memprop.conductance.write_back import WriteBack
from memprop.data.sets import Images, load
from memprop.deck.deck import Deck
from memprop.deck.resistive import sweep_deck
from memprop.errors import InputError
from memprop.export.testbench import operating_testbench
from memprop.files import ensure_folder, write_atomic, write_json
from memprop.flow.resistive import SpiceResistive
from memprop.flow.rule_learning import SUMMARY, trained
from memprop.learn.equilibrium import EquilibriumPropagation, Resistive
from memprop.learn.rule_training import RuleConfig, rule_accuracy
from memprop.report.progress import progress
from memprop.spice.engine import Engine, make_engine
from memprop.spice.ngspice import write_deck
from memprop.twin.resistive import resistive_twin

NETLIST, TESTBENCH = "netlist", "testbench.cir"
MEASURED = 300
"""Test samples measured where nobody asks for a number."""
STORED = 10
"""Test samples in the netlist that is written."""


@dataclass(frozen=True, slots=True)
class EquilibriumSettings:
    """A network, its task and its training."""

    dataset: str
    hidden: tuple[int, ...]
    training: RuleConfig
    scale: float = 10.0
    """Voltage of an input of 1, in V."""
    temperature: float = 0.02
    beta: float = 1e-7
    phases: str = "symmetric"
    window: ConductanceRange = field(default_factory=lambda: ConductanceRange(1e-7, 1e-5))
    highest: float = 2e-6
    """Highest conductance of the first crossbars in the beginning, in S; that of the last is the window's."""
    parameters: Mapping[str, float] = field(default_factory=dict)
    """Parameters of the neurons that differ from the card."""
    levels: int | None = None
    noise: float = 0.0

    def on(self, hidden: Sequence[int], seed: int, epochs: int | None = None, **changes: Any) -> EquilibriumSettings:
        """Return these settings with other hidden layers, which have one rate, seed and epochs, default as many."""
        rates = (*[self.training.rates[0]] * len(hidden), self.training.rates[-1])
        count = self.training.epochs if epochs is None else epochs
        training = replace(self.training, rates=rates, seed=seed, epochs=count)
        return replace(self, hidden=tuple(hidden), training=training, **changes)


PRESETS: Mapping[str, EquilibriumSettings] = {
    "iris": EquilibriumSettings("iris", (10,), RuleConfig(20, 8, (3e-7, 5e-7), decay=0.9), scale=5.0),
    "digits": EquilibriumSettings("digits", (32,), RuleConfig(10, 32, (2e-7, 5e-7), decay=0.8, validation=140)),
    "mnist": EquilibriumSettings(
        "mnist", (100,), RuleConfig(10, 64, (1e-7, 3e-7), decay=0.75, validation=5000), highest=1e-6
    ),
    "fashion": EquilibriumSettings(
        "fashion", (100,), RuleConfig(10, 64, (1e-7, 3e-7), decay=0.75, validation=5000), highest=1e-6
    ),
}


def fresh_network(settings: EquilibriumSettings, data: Images) -> ResistiveNetwork:
    """Return a network with random conductances, of the seed of the training."""
    rng = np.random.default_rng(settings.training.seed)
    shapes = crossbar_shapes((data.rows, *settings.hidden, data.classes))
    highest = [min(settings.highest, settings.window.g_max)] * (len(shapes) - 1) + [settings.window.g_max]
    return ResistiveNetwork(
        f"{settings.dataset}_ep",
        tuple(rng.uniform(settings.window.g_min, top, shape) for shape, top in zip(shapes, highest, strict=True)),
        parameters=settings.parameters, window=settings.window,
    )  # fmt: skip


def learn_equilibrium(
    settings: EquilibriumSettings,
    run: Path,
    console: Console,
    *,
    in_circuit: bool,
    images: int | None,
    engine_name: str,
) -> dict[str, Any]:
    """Train, measure test samples in SPICE, write summary, figure and netlist into ``run``, print a table, return the summary.

    Raises
    ------
    InputError: settings and data do not fit, or more samples are asked for than there are.
    CheckpointError: ``run`` holds another training.
    SimulationError: a simulation failed.
    """
    with closing(make_engine(engine_name)) as engine:
        data = load(settings.dataset)
        images = min(MEASURED, len(data.test.labels)) if images is None else images
        if images > len(data.test.labels):
            raise InputError(f"{images} test samples asked, {data.name} has {len(data.test.labels)}. Ask for fewer.")
        network = fresh_network(settings, data)
        # One sample first: an engine that cannot do it says so before the long work.
        SpiceResistive(network, engine).settle(torch.from_numpy(_volts(settings, data, 1)))
        circuit: Resistive = SpiceResistive(network, engine) if in_circuit else resistive_twin(network)
        rule = rule_on(settings, circuit)
        title = "learning in SPICE" if in_circuit else "learning on the twin"
        write = WriteBack(settings.window, settings.levels, noise=settings.noise)
        history = trained(rule, data, settings.training, write, run, title, console)
        network = replace(network, conductances=tuple(g.numpy() for g in rule.conductances))
        _write_netlist(
            sweep_deck(network, _volts(settings, data, STORED)), network, engine, ensure_folder(run / NETLIST)
        )
        summary = _measured(settings, network, data, images, engine, console) | {
            "dataset": settings.dataset, "sizes": list(network.sizes), "trained": "in SPICE" if in_circuit else "on the twin",
            "rule": rule.name, "needs": asdict(rule.needs), "history": asdict(history),
            "settings": asdict(settings),
            "versions": {"memprop": version("memprop"), "engine": engine.name, "torch": torch.__version__},
        }  # fmt: skip
    write_json(run / SUMMARY, summary)
    _say(summary, run, console)
    return summary


def rule_on(settings: EquilibriumSettings, circuit: Resistive) -> EquilibriumPropagation:
    """Return the rule on a circuit or its twin."""
    return EquilibriumPropagation(
        circuit, scale=settings.scale, temperature=settings.temperature, beta=settings.beta, phases=settings.phases
    )


def _volts(settings: EquilibriumSettings, data: Images, count: int) -> np.ndarray:
    return settings.scale * data.pixels("test")[:count].reshape(-1, data.rows).astype(np.float64)


def _write_netlist(deck: Deck, network: ResistiveNetwork, engine: Engine, folder: Path) -> None:
    """Write the files of a deck, and a testbench that expects the outputs that the engine finds now."""
    found = engine.run(deck)
    outputs = network.columns(len(network.conductances) - 1)
    write_deck(deck, folder)
    write_atomic(folder / TESTBENCH, operating_testbench(deck, {node: found[node].values for node in outputs}))


def _measured(
    settings: EquilibriumSettings, network: ResistiveNetwork, data: Images, images: int, engine: Engine, console: Console
) -> dict[str, Any]:  # fmt: skip
    twin = rule_on(settings, resistive_twin(network))
    volts = torch.from_numpy(_volts(settings, data, images))
    labels = torch.from_numpy(data.test.labels[:images]).long()
    with progress("test samples in SPICE", 1, console) as advance:
        circuit = SpiceResistive(network, engine).settle(volts)
        advance()
    solved = twin.circuit.settle(volts)
    answers = circuit.outputs.argmax(1)
    return {
        "twin_accuracy": rule_accuracy(twin, data), "twin_images": len(data.test.labels),
        "spice_accuracy": float((answers == labels).double().mean()), "spice_images": images,
        "twin_accuracy_same_images": float((solved.outputs.argmax(1) == labels).double().mean()),
        "same_class": float((answers == solved.outputs.argmax(1)).double().mean()),
        "largest_difference": max(float((a - b).abs().max()) for a, b in zip(circuit.nodes, solved.nodes, strict=True)),
    }  # fmt: skip


def _say(summary: Mapping[str, Any], run: Path, console: Console) -> None:
    table = Table(
        "what", "found", title=f"{summary['rule']}, {'-'.join(map(str, summary['sizes']))}, {summary['dataset']}"
    )
    table.add_row("trained", f"{summary['trained']}, {sum(summary['history']['seconds']):.0f} s")
    table.add_row(
        f"{summary['versions']['engine']}, {summary['spice_images']} test samples",
        f"{100 * summary['spice_accuracy']:.2f} %, the same class as the twin on {100 * summary['same_class']:.2f} %",
    )
    table.add_row(f"twin, all {summary['twin_images']} test samples", f"{100 * summary['twin_accuracy']:.2f} %")
    table.add_row("largest difference of a node", f"{1e6 * summary['largest_difference']:.3g} uV")
    console.print(table)
    figure = "figure, " if summary["history"]["validation"] else ""
    console.print(f"summary, {figure}netlist of {STORED} samples: {run}", soft_wrap=True, markup=False, highlight=False)
