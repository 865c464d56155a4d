"""What `memprop check-ep` does: the gradient of equilibrium propagation, measured in SPICE, against differences in SPICE."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from memprop.circuit.resistive import ResistiveNetwork, crossbar_shapes
from memprop.conductance.pair import ConductanceRange
from memprop.files import ensure_folder, write_json
from memprop.flow.resistive import SpiceResistive
from memprop.learn.equilibrium import EquilibriumPropagation, Resistive
from memprop.report.figures import noise_curve
from memprop.report.progress import progress
from memprop.spice.engine import Engine, make_engine
from memprop.twin.resistive import Settled

Floats = NDArray[np.float64]
STEP = 1e-3
"""Step of the differences, as a share of the conductance."""
SCALE, TEMPERATURE = 10.0, 0.05
RATIOS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
"""How far a layer's nodes move from one nudge to the other, over the noise of the read-out."""
DRAWS = 20


@dataclass(frozen=True, slots=True)
class LayerCheck:
    """Gradients of one crossbar against differences."""

    kind: str
    layer: int
    cosine: float
    norm: float
    """Length over that of the differences."""


class NoisyReadout:
    """A circuit whose nodes and amplified rows are read with noise of ``sigma`` V each, drawn anew each time."""

    def __init__(self, circuit: SpiceResistive, sigma: float, generator: torch.Generator) -> None:
        self.circuit, self.sigma, self.generator = circuit, sigma, generator
        self._known: dict[tuple[bytes, bytes], Settled] = {}

    @property
    def conductances(self) -> list[Tensor]:
        """Crossbars in S."""
        return self.circuit.conductances

    def program(self, conductances: Sequence[Tensor]) -> None:
        """Write crossbars in S."""
        self._known.clear()
        self.circuit.program(conductances)

    @property
    def identity(self) -> Mapping[str, Any]:
        """What it is, besides the conductances."""
        return {**self.circuit.identity, "sigma": self.sigma}

    def factors(self) -> list[float]:
        """Return by what the gradient of each crossbar is multiplied."""
        return self.circuit.factors()

    def settle(self, inputs: Tensor, current: Tensor | None = None) -> Settled:
        """Return operating points as they are read: simulated once, noise drawn for each read-out."""
        key = (inputs.numpy().tobytes(), b"" if current is None else current.numpy().tobytes())
        if key not in self._known:
            self._known[key] = self.circuit.settle(inputs, current)
        true = self._known[key]
        if current is None:
            return true  # the loss is that of the outputs as they are, so that read-outs differ in the drops alone
        rows = [true.rows[0]]
        for voltages in true.rows[1:]:  # rows of inputs and bias are known, those of amplifiers are read too
            read = voltages.clone()
            read[:, :-2] += self._drawn(read[:, :-2])
            rows.append(read)
        return Settled(tuple(rows), tuple(v + self._drawn(v) for v in true.nodes))

    def _drawn(self, like: Tensor) -> Tensor:
        return self.sigma * torch.randn(like.shape, generator=self.generator, dtype=like.dtype)


def random_network(sizes: Sequence[int], seed: int) -> ResistiveNetwork:
    """Return a network of random conductances whose diodes conduct."""
    rng, window, margin = np.random.default_rng(seed), ConductanceRange(1e-7, 1e-5), 1.0 + 2.0 * STEP
    shapes = crossbar_shapes(sizes)
    return ResistiveNetwork(
        "check_ep",
        tuple(rng.uniform(window.g_min * margin, window.g_max / margin, shape) for shape in shapes),
        window=window,
    )


def differences(
    circuit: SpiceResistive, rule: EquilibriumPropagation, inputs: Tensor, labels: Tensor, advance: Callable[[], None]
) -> list[Tensor]:
    """Return central differences of the mean loss by every conductance, per siemens: two simulations each."""
    start = [g.clone() for g in circuit.conductances]
    found = []
    for k, g in enumerate(start):
        slopes = torch.zeros_like(g)
        for i in range(g.shape[0]):
            for j in range(g.shape[1]):
                losses = []
                for factor in (1.0 + STEP, 1.0 - STEP):
                    moved = [other.clone() for other in start]
                    moved[k][i, j] *= factor
                    circuit.program(moved)
                    losses.append(rule.loss(rule.outputs(inputs), labels)[0])
                slopes[i, j] = (losses[0] - losses[1]) / (2.0 * STEP * g[i, j])
            advance()
        found.append(slopes)
    circuit.program(start)
    return found


def by_small_signals(
    circuit: SpiceResistive, rule: EquilibriumPropagation, inputs: Tensor, labels: Tensor
) -> list[Tensor]:
    """Return the gradients from one operating point and one ``.ac`` per sample: the drop times its response to the slope of the loss."""
    volts = inputs.double() * rule.scale
    free = circuit.settle(volts)
    _, slope = rule.loss(free.outputs, labels)
    response = circuit.response(volts, -slope)
    return [f * (free.drops(k) * response.drops(k)).mean(0) for k, f in enumerate(circuit.factors())]


def compare(kind: str, found: Sequence[Tensor], true: Sequence[Tensor]) -> list[LayerCheck]:
    """Return cosine and length of each crossbar's gradient."""
    return [
        LayerCheck(kind, k, float((a * b).sum() / (a.norm() * b.norm())), float(a.norm() / b.norm()))
        for k, (a, b) in enumerate(zip(found, true, strict=True))
    ]


def noise_cosines(
    circuit: SpiceResistive, make: Callable[[Resistive], EquilibriumPropagation], inputs: Tensor, labels: Tensor,
    true: Sequence[Tensor], seed: int,
) -> list[list[float]]:  # fmt: skip
    """Return the mean cosine over `DRAWS` read-outs of each crossbar, ``[crossbar][ratio]``, for `RATIOS`.

    The ratio is that of the rms movement of the crossbar's own columns, from one nudge to the other, to the noise: behind each layer
    nodes move less.
    """
    rule = make(circuit)
    volts = inputs.double() * rule.scale
    nudge = rule.beta * rule.loss(circuit.settle(volts).outputs, labels)[1]
    ends = [circuit.settle(volts, sign * nudge) for sign in (-1.0, 1.0)]
    noisy = NoisyReadout(circuit, 0.0, torch.Generator().manual_seed(seed))
    found = []
    for k, whole in enumerate(true):
        moved = float((ends[0].nodes[k] - ends[1].nodes[k]).square().mean().sqrt())
        cosines = []
        for ratio in RATIOS:
            noisy.sigma = moved / ratio
            got = [make(noisy).learn(inputs, labels).gradients[k] for _ in range(DRAWS)]
            cosines.append(float(np.mean([float((g * whole).sum() / (g.norm() * whole.norm())) for g in got])))
        found.append(cosines)
    return found


def check_equilibrium(
    sizes: Sequence[int],
    out: Path,
    console: Console,
    *,
    samples: int,
    beta: float,
    seed: int,
    least: float,
    engine_name: str,
) -> bool:
    """Print and draw how right the gradients are; return whether symmetric nudges and ``.ac`` reach ``least`` in every crossbar.

    Raises
    ------
    SimulationError: a simulation failed.
    """
    with closing(make_engine(engine_name)) as engine:
        checks, points = _checked(random_network(sizes, seed), samples, beta, seed, engine, console)
    table = Table(
        "gradient",
        "crossbar",
        "cosine",
        "length",
        title=f"{'-'.join(map(str, sizes))} against differences in {engine.name}",
    )
    for check in checks:
        table.add_row(check.kind, str(check.layer), f"{check.cosine:.9f}", f"x {check.norm:.6f}")
    for k, cosines in enumerate(points):
        for ratio, cosine in zip(RATIOS, cosines, strict=True):
            table.add_row(f"symmetric, noise 1/{ratio:g}", str(k), f"{cosine:.4f}", "")
    console.print(table)
    ensure_folder(out)
    record = {"sizes": list(sizes), "beta": beta, "seed": seed, "samples": samples, "engine": engine.name,
              "checks": [asdict(check) for check in checks], "ratios": RATIOS, "noise": points}  # fmt: skip
    write_json(out / "check_ep.json", record)
    noise_curve(out / "check_ep.png", RATIOS, points)
    console.print(f"figure: {out / 'check_ep.png'}", soft_wrap=True, markup=False, highlight=False)
    return all(c.cosine >= least for c in checks if c.kind != "one-sided")


def _checked(
    network: ResistiveNetwork, samples: int, beta: float, seed: int, engine: Engine, console: Console
) -> tuple[list[LayerCheck], list[list[float]]]:
    rng, classes = np.random.default_rng(seed + 1), network.sizes[-1]
    inputs = torch.from_numpy(rng.uniform(0.0, 1.0, (samples, network.inputs)))
    labels = torch.from_numpy(rng.integers(0, classes, samples))
    circuit = SpiceResistive(network, engine)

    def make(of: Resistive, phases: str = "symmetric") -> EquilibriumPropagation:
        return EquilibriumPropagation(of, scale=SCALE, temperature=TEMPERATURE, beta=beta, phases=phases)

    with progress("differences", sum(g.shape[0] for g in network.conductances), console) as advance:
        true = differences(circuit, make(circuit), inputs, labels, advance)
    checks = [
        *compare("symmetric", make(circuit).learn(inputs, labels).gradients, true),
        *compare("one-sided", make(circuit, "one-sided").learn(inputs, labels).gradients, true),
        *compare("small signal (.ac)", by_small_signals(circuit, make(circuit), inputs, labels), true),
    ]
    return checks, noise_cosines(circuit, make, inputs, labels, true, seed)
