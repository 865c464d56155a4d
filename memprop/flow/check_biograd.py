"""What `memprop check-biograd` does: BioGrad's update, measured in a circuit, against its formula and the surrogate gradient."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from memprop.circuit.biograd import DENDRITE, ELIGIBILITY, BioGradNetwork
from memprop.conductance.pair import ConductanceRange
from memprop.deck.clocked import biograd_deck
from memprop.errors import InputError
from memprop.files import ensure_folder, write_json
from memprop.learn.agreement import cosine, mean_of
from memprop.learn.biograd import BioGrad, surrogate_gradient
from memprop.report.progress import progress
from memprop.report.rule_figures import biograd_check
from memprop.spice.engine import Engine, make_engine
from memprop.spice.recording import Recording
from memprop.twin.biograd import BioGradNeuron

Floats = NDArray[np.float64]
LARGEST = 4.0
"""Weight of the widest pair."""
STEPS, START = 20, 5
TINY = 1e-3
"""Update, in weights, that is noise of the simulator."""


@dataclass(frozen=True, slots=True)
class SampleCheck:
    """One sample."""

    errors: tuple[float | None, float | None]
    """Largest difference of an update from the formula, over the largest update of the same crossbar; None where all are zero."""
    counts: tuple[float, ...]
    """Output spikes in the circuit."""
    same_counts: bool
    cosines: tuple[float | None, float | None]
    """Of both crossbars' updates to the surrogate gradient; None where one of them is zero."""


def random_network(sizes: Sequence[int], seed: int) -> BioGradNetwork:
    """Return a network with random weights, whose feedback is the second crossbar."""
    rng, window = np.random.default_rng(seed), ConductanceRange()
    layers = [
        np.clip(rng.normal(0.0, 0.7 * np.sqrt(2.0 / rows), (rows, columns)), -LARGEST, LARGEST)
        for rows, columns in pairwise(sizes)
    ]
    weights = [np.vstack([w, np.full(w.shape[1], 0.05)]) for w in layers]
    unit = window.span / LARGEST
    return BioGradNetwork(
        "check_biograd", (unit * weights[0], unit * weights[1], unit * layers[1]), unit, window=window
    )


def measured_updates(found: Recording, network: BioGradNetwork) -> tuple[Floats, Floats]:
    """Return what each weight is moved against, from two voltages per synapse in the end: dendrite times eligibility."""
    dendrites = np.array([float(found[node].values[-1]) for node in network.dendrites()]) / DENDRITE
    hidden, updates = network.sizes[1], []
    for layer, dendrite in enumerate((dendrites[:hidden], dendrites[hidden:])):
        nodes = network.eligibilities(layer)
        eligible = np.array([[float(found[node].values[-1]) for node in row] for row in nodes]) / ELIGIBILITY
        updates.append(eligible * dendrite / (STEPS - START))
    return updates[0], updates[1]


def check_biograd(
    sizes: Sequence[int], out: Path, console: Console, *, samples: int, seed: int, engine_name: str
) -> bool:
    """Print and draw how right the circuit's updates are; return whether they are within 5 % of the formula.

    Raises
    ------
    InputError: no sample has an update, so that nothing is compared.
    SimulationError: a simulation failed.
    """
    network, rng = random_network(sizes, seed), np.random.default_rng(seed + 1)
    checks, found, pairs = [], None, []
    with closing(make_engine(engine_name)) as engine, progress("samples in SPICE", samples, console) as advance:
        for k in range(samples):
            spikes = (rng.uniform(size=(STEPS, sizes[0])) < rng.uniform(0.1, 0.9, sizes[0])).astype(np.float64)
            check, found, both = _sample(network, spikes, k % sizes[2], engine)
            checks.append(check)
            pairs.append(both)
            advance()
    for k in range(2):
        if all(check.errors[k] is None for check in checks):
            raise InputError(
                f"check-biograd: crossbar {k} has no update in {samples} samples. Raise --samples or change --seed."
            )
    record = {"sizes": list(sizes), "seed": seed, "engine": engine.name, "samples": [asdict(check) for check in checks]}
    write_json(ensure_folder(out) / "check_biograd.json", record)
    if found is not None:
        biograd_check(out / "check_biograd.png", found, network, np.concatenate(pairs, axis=1))
    _say(checks, network, engine, console)
    console.print(f"figure: {out / 'check_biograd.png'}", soft_wrap=True, markup=False, highlight=False)
    return max(error for check in checks for error in check.errors if error is not None) <= 0.05


def _sample(
    network: BioGradNetwork, spikes: Floats, label: int, engine: Engine
) -> tuple[SampleCheck, Recording, Floats]:
    found = engine.run(biograd_deck(network, spikes, label, START))
    measured, (formula, twin_counts) = measured_updates(found, network), _formula(network, spikes, label)
    neuron = BioGradNeuron(network.decay, network.threshold, network.near)
    weights = [torch.from_numpy(w / network.unit) for w in network.weights[:2]]
    given = torch.from_numpy(spikes)[:, None], torch.tensor([label])
    true = [g.numpy() for g in surrogate_gradient(weights, *given, START, neuron)]
    counts = tuple(float(found[f"count{k}"].values[-1]) for k in range(network.sizes[2]))
    errors = [_error(m, f) for m, f in zip(measured, formula, strict=True)]
    cosines = [cosine(m, t) for m, t in zip(measured, true, strict=True)]
    same = bool((np.rint(counts) == twin_counts).all())
    both = np.stack([np.concatenate([part.ravel() for part in parts]) for parts in (formula, measured)])
    return SampleCheck((errors[0], errors[1]), counts, same, (cosines[0], cosines[1])), found, both


def _error(measured: Floats, formula: Floats) -> float | None:
    largest = float(np.abs(formula).max())
    # An update that should be zero and is not would pass unseen: it counts as wholly wrong.
    return (
        float(np.abs(measured - formula).max()) / largest if largest else 1.0 if np.abs(measured).max() > TINY else None
    )


def _formula(network: BioGradNetwork, spikes: Floats, label: int) -> tuple[list[Floats], Floats]:
    """Return the updates of the rule on its twin, without unit, and its output counts, for the same spikes."""
    neuron = BioGradNeuron(network.decay, network.threshold, network.near)
    crossbars = [torch.from_numpy(w) for w in network.weights]
    rule = BioGrad(crossbars, network.unit, steps=STEPS, start=START, neuron=neuron, sleep=False)
    learned = rule.learn_spikes(torch.from_numpy(spikes).float()[:, None], torch.tensor([label]))
    return [network.unit * g.double().numpy() for g in learned.gradients[:2]], learned.outputs[0].double().numpy()


def _say(checks: Sequence[SampleCheck], network: BioGradNetwork, engine: Engine, console: Console) -> None:
    title = f"{'-'.join(map(str, network.sizes))}, {len(checks)} samples in {engine.name}"
    table = Table("what", "found", title=title)
    table.add_row(
        "output spikes as on the twin", f"{sum(check.same_counts for check in checks)} of {len(checks)} samples"
    )
    for k in range(2):
        errors = [error for check in checks if (error := check.errors[k]) is not None]
        about = f"at most {100 * max(errors):.2f} % of the largest of {len(errors)} samples with an update"
        table.add_row(f"crossbar {k}, update from the formula", about)
        mean = mean_of(check.cosines[k] for check in checks)
        table.add_row(
            f"crossbar {k}, cosine to the surrogate gradient, aligned feedback",
            "-" if mean is None else f"mean {mean:.3f}",
        )
    console.print(table)
