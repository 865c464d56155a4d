"""What `memprop check-eqspike` does: EqSpike's update, measured in a circuit, against its formula and against rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from memprop.circuit.cell import load_cell
from memprop.circuit.eqspike import READ, EqSpikeNetwork
from memprop.conductance.pair import ConductanceRange
from memprop.errors import InputError
from memprop.files import ensure_folder, write_json
from memprop.flow.spice_eqspike import Measured, energies, formula, pair_updates, present, rate_curve
from memprop.learn.agreement import cosine, mean_of
from memprop.report.progress import progress
from memprop.report.rule_figures import eqspike_check
from memprop.spice.engine import Engine, make_engine

Floats = NDArray[np.float64]
NEURONS = {"packet": "packet_neuron", "switch": "switch_neuron"}
LARGEST = 4.0
"""Weight of the widest pair."""
NUDGE, WANTED, SHOWN = 0.5, 0.8, 60e-6
DELAYS = np.concatenate([np.linspace(-60e-6, -4e-6, 15), np.linspace(-3e-6, 3e-6, 13), np.linspace(4e-6, 60e-6, 15)])
WIDTH = 0.5e-6
COUNTED = (
    "crossbars with their replicas, the currents that neurons spend, traces and accumulators at 1 V. Not counted: comparators, buffers "
    "and mirrors themselves, making nudge and gate, writing conductances. The paper claims three orders of magnitude less than a GPU for "
    "inference and two for training, for its own technology; it gives no energy of this network."
)


@dataclass(frozen=True, slots=True)
class SampleCheck:
    """One sample."""

    error: float
    """Largest difference of an accumulator from the formula, over the largest of its crossbar."""
    cosines: tuple[float | None, float | None]
    """Of both crossbars' updates to equilibrium propagation of rates; None where one of them is zero."""
    norms: tuple[float | None, float | None]
    """Lengths over those of rates."""
    inference: dict[str, float]
    """Energy in J, by part."""
    training: dict[str, float]
    between: float
    """Share of time in which a neuron is between spike and none: small, or there are no spikes."""


def random_network(sizes: Sequence[int], seed: int, neuron: str) -> EqSpikeNetwork:
    """Return a network whose neurons are in the middle of their range."""
    rng, window = np.random.default_rng(seed), ConductanceRange()
    unit, (inputs, hidden, outputs) = window.span / LARGEST, sizes
    first = np.vstack([rng.uniform(-1.5, 1.5, (inputs, hidden)) / np.sqrt(inputs), np.full(hidden, 0.3)])
    second = np.vstack([rng.uniform(-1.0, 1.0, (hidden, outputs)) / np.sqrt(hidden), np.full(outputs, 0.3)])
    return EqSpikeNetwork("check_eqspike", (unit * first, unit * second), unit, window, load_cell(NEURONS[neuron]),
                          {"reset": unit * READ} if neuron == "packet" else {})  # fmt: skip


def rate_updates(
    network: EqSpikeNetwork, inputs: Floats, target: Floats, nudge: float, rate: Callable[[Floats], Floats]
) -> tuple[Floats, Floats]:
    """Return what weights grow by in equilibrium propagation of rates with the same nudge, without rows of bias.

    Rates settle where each is ``rate`` of its current, in units of the network.
    """
    first, second = (w / network.unit for w in network.weights)
    ends = []
    for push in (nudge, -nudge):
        low, high = np.zeros(network.sizes[1]), np.zeros(network.sizes[2])
        for _ in range(4000):
            low_next = rate(inputs @ first[:-1] + first[-1] + second[:-1] @ high)
            high_next = rate(low @ second[:-1] + second[-1] + push * (target - high))
            low, high = low + 0.05 * (low_next - low), high + 0.05 * (high_next - high)
        ends.append((low, high))
    (low_p, high_p), (low_m, high_m) = ends
    hidden = (low_p - low_m) / (2 * nudge)
    pairs = (np.outer(low_p, high_p) - np.outer(low_m, high_m)) / (2 * nudge)
    return np.asarray(np.outer(inputs, hidden), dtype=np.float64), np.asarray(pairs, dtype=np.float64)


def grown(measured: Measured, inputs: Floats, nudge: float) -> tuple[Floats, Floats]:
    """Return what the accumulators say that weights grow by, without rows of bias, where the last phase has the nudge ``-nudge``."""
    hidden = measured.moved[: len(measured.pairs)]
    return np.outer(inputs, -hidden / (2 * nudge)), -measured.pairs / (2 * nudge)


def check_eqspike(
    sizes: Sequence[int], out: Path, console: Console, *, neuron: str, samples: int, lengths: tuple[float, float], seed: int,
    engine_name: str,
) -> bool:  # fmt: skip
    """Print and draw how right the circuit's updates are; return whether they hold: 5 % of the formula, a mean cosine of 0.9.

    ``lengths`` of the two phases are in s.

    Raises
    ------
    InputError: in no sample have rates an update, so that nothing is compared.
    SimulationError: a simulation failed.
    """
    network = random_network(sizes, seed, neuron)
    with closing(make_engine(engine_name)) as engine, progress("samples in SPICE", samples + 2, console) as advance:
        scale = np.linspace(-0.2, 1.4, 33)
        curve = rate_curve(network.neuron, network.parameters, scale * network.unit * network.read, engine)
        advance()
        stdp = pair_updates(DELAYS, network.fast, network.slow, WIDTH, engine)
        advance()
        rng, checks, last = np.random.default_rng(seed + 1), [], None
        for k in range(samples):
            inputs, starts = rng.uniform(0.0, 1.0, sizes[0]), rng.uniform(0.3, 0.7, sizes[1] + sizes[2])
            target = WANTED * np.eye(sizes[2])[k % sizes[2]]
            nudge = NUDGE * (1 if rng.uniform() < 0.5 else -1)
            true = rate_updates(network, inputs, target, nudge, lambda x: np.interp(x, scale, curve))
            check, last = _sample(network, inputs, target, nudge, lengths, starts, true, engine)
            checks.append(check)
            advance()
    _means(checks)
    sigmoid = float(np.abs(curve - np.clip(scale, 0.0, 1.0)).max())
    record = {"sizes": list(sizes), "neuron": neuron, "seed": seed, "lengths_s": lengths, "engine": engine.name,
              "hard_sigmoid_deviation": sigmoid, "rates": [scale.tolist(), curve.tolist()],
              "pairs": [DELAYS.tolist(), stdp.tolist()], "samples": [asdict(check) for check in checks]}  # fmt: skip
    write_json(ensure_folder(out) / "check_eqspike.json", record)
    eqspike_check(
        out / "check_eqspike.png", (scale, curve), (DELAYS, stdp, pair_window(network, DELAYS)), last
    )  # fmt: skip
    _say(checks, sigmoid, network, engine, console)
    console.print(f"figure: {out / 'check_eqspike.png'}", soft_wrap=True, markup=False, highlight=False)
    return max(c.error for c in checks) <= 0.05 and all(mean >= 0.9 for mean in _means(checks))


def pair_window(network: EqSpikeNetwork, delays: Floats) -> Floats:
    """Return the update of one pair of short spikes in closed form: the trace's answer to a spike, at the time of the other's.

    It is no number where the spikes overlap, which short ones never do.
    """
    t = np.where(np.abs(delays) > WIDTH, np.abs(delays), np.nan)
    return (
        WIDTH**2
        * (np.exp(-t / network.fast) / network.fast - np.exp(-t / network.slow) / network.slow)
        / (network.slow - network.fast)
    )


def _sample(
    network: EqSpikeNetwork, inputs: Floats, target: Floats, nudge: float, lengths: tuple[float, float], starts: Floats,
    true: tuple[Floats, Floats], engine: Engine,
) -> tuple[SampleCheck, Measured]:  # fmt: skip
    free = present(network, inputs, target, (0.0,), (SHOWN,), starts, engine)
    ends = (lengths[0], sum(lengths))
    shown = present(network, inputs, target, (nudge, -nudge), ends, starts, engine)
    errors = [_error(m, f) for m, f in zip((shown.pairs, shown.moved), formula(shown, network), strict=True)]
    found = grown(shown, inputs, nudge)
    cosines = [cosine(a, b) for a, b in zip(found, true, strict=True)]
    norms = [
        None if c is None else float(np.linalg.norm(a) / np.linalg.norm(b))
        for c, a, b in zip(cosines, found, true, strict=True)
    ]
    return SampleCheck(
        max(errors), (cosines[0], cosines[1]), (norms[0], norms[1]), energies(free, network, learning=False), energies(shown, network),
        _between(shown),
    ), shown  # fmt: skip


def _error(measured: Floats, wanted: Floats) -> float:
    """Return the largest difference over the largest value, or over 1 mV where all are smaller: there noise of the simulator is seen."""
    return float(np.abs(measured - wanted).max()) / max(float(np.abs(wanted).max()), 1e-3)


def _means(checks: Sequence[SampleCheck]) -> list[float]:
    """Return the mean cosine of each crossbar.

    Raises
    ------
    InputError: in no sample have rates an update.
    """
    found = [mean_of(check.cosines[k] for check in checks) for k in range(2)]
    kept = [mean for mean in found if mean is not None]
    if len(kept) < len(found):
        raise InputError(
            f"check-eqspike: crossbar {found.index(None)} has no update in {len(checks)} samples: neurons are silent or never rest. Raise "
            "--samples, or change --seed or --sizes."
        )
    return kept


def _between(shown: Measured) -> float:
    inside = ((shown.spikes > 0.1) & (shown.spikes < 0.9)).mean(0)
    return float(np.trapezoid(inside, shown.time) / shown.time[-1])


def _say(
    checks: Sequence[SampleCheck], sigmoid: float, network: EqSpikeNetwork, engine: Engine, console: Console
) -> None:
    title = f"{'-'.join(map(str, network.sizes))}, {network.neuron.name}, {len(checks)} samples in {engine.name}"
    table = Table("what", "found", title=title)
    table.add_row("rate over current, from a hard sigmoid", f"at most {sigmoid:.3f}")
    table.add_row(
        "accumulators, from the formula on the spikes",
        f"at most {100 * max(c.error for c in checks):.2f} % of the largest",
    )
    table.add_row("time between spike and none", f"at most {100 * max(c.between for c in checks):.1f} %")
    for k, mean in enumerate(_means(checks)):
        least = min(cosine for check in checks if (cosine := check.cosines[k]) is not None)
        about = f"mean {mean:.3f}, least {least:.3f}, length x {mean_of(check.norms[k] for check in checks):.2f}"
        table.add_row(f"crossbar {k}, cosine to rates at equal nudge", about)
    synapses = sum(w.size for w in network.weights)
    for what, parts in (
        ("inference", [c.inference for c in checks]),
        ("training sample", [c.training for c in checks]),
    ):
        mean = {name: float(np.mean([part[name] for part in parts])) for name in parts[0]}
        total = sum(mean.values())
        split = ", ".join(f"{name} {100 * value / total:.0f} %" for name, value in mean.items())
        table.add_row(
            f"energy of one {what}", f"{1e9 * total:.3g} nJ, {1e12 * total / synapses:.3g} pJ per synapse ({split})"
        )
    console.print(table)
    console.print("Counted: " + COUNTED, soft_wrap=True)
