"""Part ``training``: steps of a training of MNIST size, and where their time goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from memprop.data.sets import Images, Split, load
from memprop.flow.bench.measure import Run, Spent, as_case, by_turns, median, now, ratio, ratios, shown
from memprop.flow.bench.sheet import Row, Sheet
from memprop.learn.bptt import BPTTConfig, fit
from memprop.learn.memory import keep_freed_memory
from memprop.learn.training import Progress, shifted
from memprop.twin.drive import Separable
from memprop.twin.network import Twin

DT = 0.5e-6
"""Time step in s: 200 steps in a presentation."""
EPOCH = 58_000
"""MNIST images of an epoch; 2,000 are held out."""
SEED = 2026


@dataclass(frozen=True, slots=True)
class TrainingPlan:
    """What is measured."""

    sizes: Sequence[tuple[int, ...]]
    batch: int = 256
    steps: int = 6
    """Measured steps of a training; the one before them warms up."""
    rounds: int = 2
    """Trainings under each kernel, by turns."""
    dt: float = DT
    epoch_of: str | None = None
    """Data set of which a real epoch is trained too."""


def random_images(count: int, side: int = 28, seed: int = SEED) -> Images:
    """Return random pictures with as many bright pixels as MNIST has, and random labels of ten classes."""
    generator = np.random.default_rng(seed)

    def split(n: int) -> Split:
        bright = generator.random((n, side, side)) < 0.19
        images = (bright * generator.integers(100, 256, (n, side, side))).astype(np.uint8)
        labels = generator.integers(0, 10, n).astype(np.uint8)
        labels[:10] = np.arange(10)[:n]  # all classes are there
        return Split(images, labels)

    return Images("random", split(count), split(max(10, count // 10)), 255)


def measure(sheet: Sheet, plan: TrainingPlan) -> None:
    """Measure the rows of ``plan``.

    Raises
    ------
    EngineError: there is no C++ compiler.
    """
    made = {"steps": plan.steps, "dt_s": plan.dt}
    for sizes in plan.sizes:
        name = f"{'-'.join(map(str, sizes))}, batch {plan.batch}"
        sheet.row(f"step, {name}", lambda sizes=sizes: _steps(sizes, plan), {**made, "rounds": plan.rounds})
        sheet.row(f"parts of a step, {name}", lambda sizes=sizes: _parts(sizes, plan), made)
        if plan.epoch_of is not None:
            data = load(plan.epoch_of)
            row = f"epoch of {plan.epoch_of}, {name}"
            sheet.row(row, lambda sizes=sizes, data=data: _epoch(sizes, data, plan), {"dt_s": plan.dt})


def _columns(sizes: Sequence[int], plan: TrainingPlan) -> Row:
    steps = round(100e-6 / plan.dt)
    return {"network": "-".join(map(str, sizes)), "batch": plan.batch, "steps": steps, "dt_s": plan.dt}


def _steps(sizes: Sequence[int], plan: TrainingPlan) -> Row:
    """Train on random images under both kernels by turns, as ``memprop train`` does, and take the time of each step."""
    data = random_images(plan.batch * (plan.steps + 1), round(sizes[0] ** 0.5))
    samples: dict[str, list[Spent]] = {"eager": [], "fused": []}
    losses: dict[str, list[float]] = {}
    for k in range(plan.rounds):
        for kernel in list(samples)[:: -1 if k % 2 else 1]:
            found, losses[kernel] = _train(sizes, kernel, data, plan)
            samples[kernel] += found
    cases = {name: as_case(each) for name, each in samples.items()}
    count = math.ceil(EPOCH / plan.batch)
    return {
        "kind": "step", **_columns(sizes, plan), "cases": cases, "ratios": {"eager/fused": ratios(cases, "eager", "fused")},
        "loss_deviation_relative": shown(max(abs(a / b - 1) for a, b in zip(*losses.values(), strict=True))),
        "epoch_steps": count,
        "projected_epoch_wall_s": {name: shown(count * median(case)) for name, case in cases.items()},
    }  # fmt: skip


def _train(sizes: Sequence[int], kernel: str, data: Images, plan: TrainingPlan) -> tuple[list[Spent], list[float]]:
    """Return what each step but the first takes, and all losses in nats."""
    marks: list[Spent] = []
    losses: list[float] = []

    def on_step(progress: Progress) -> None:
        marks.append(now())
        losses.append(progress.loss)

    twin = Twin(sizes, dt=plan.dt, kernel=kernel)
    fit(twin, data, BPTTConfig(epochs=1, batch=plan.batch, validation=0), on_step=on_step)
    return [after - before for before, after in pairwise(marks)], losses


def _parts(sizes: Sequence[int], plan: TrainingPlan) -> Row:
    """Take the parts of a fused step one by one, beside the whole step, by turns."""
    keep_freed_memory()
    cases = {name: as_case(each) for name, each in by_turns(_Parts(sizes, plan).cases(), plan.steps).items()}
    whole = cases["whole step"]["wall_s"]
    shares = {name: ratio(case["wall_s"], whole) for name, case in cases.items() if name != "whole step"}
    return {"kind": "parts", **_columns(sizes, plan), "cases": cases, "share_of_step": shares}


class _Parts:
    """A step of training, and its parts on tensors as they are in it."""

    def __init__(self, sizes: Sequence[int], plan: TrainingPlan) -> None:
        data = random_images(plan.batch, round(sizes[0] ** 0.5))
        self.twin = Twin(sizes, dt=plan.dt, kernel="fused")
        self.images, self.labels = torch.from_numpy(data.pixels("train")), torch.from_numpy(data.train.labels).long()
        self.optimizer = torch.optim.AdamW([crossbar.weight for crossbar in self.twin.crossbars], lr=1e-9)
        amplitude = self.twin.encoder.amplitude(self.images)
        self.drives: list[Any] = [Separable(self.twin.encoder.samples(plan.dt).to(amplitude), amplitude)]
        self.currents: list[Any] = []
        with torch.no_grad():
            for crossbar, population in zip(self.twin.crossbars, self.twin.populations, strict=True):
                self.currents.append(crossbar(self.drives[-1]))
                self.drives.append(population(self.currents[-1]))
        self.weights = [torch.randn_like(drive) for drive in self.drives[1:]]

    def cases(self) -> dict[str, Run]:
        """Return the parts, and the whole."""
        found: dict[str, Run] = {"whole step": self.whole, "shifting images": self.shift}
        for k, (crossbar, population) in enumerate(zip(self.twin.crossbars, self.twin.populations, strict=True)):
            name = "input crossbar" if k == 0 else f"crossbar {k + 1}"
            found[f"{name}, both ways"] = lambda k=k, crossbar=crossbar: self.cross(k, crossbar)
            found[f"neurons {k + 1}, forward"] = lambda k=k, population=population: self.forward(k, population)
            found[f"neurons {k + 1}, both ways"] = lambda k=k, population=population: self.both(k, population)
        return found | {"read-out and loss": self.read_out, "optimiser": self.update}

    def whole(self) -> None:
        self.shift()
        self.optimizer.zero_grad()
        functional.cross_entropy(self.twin(self.images) / 3e-3, self.labels).backward()
        self.update()

    def shift(self) -> Tensor:
        return shifted(self.images, 1, torch.Generator().manual_seed(0))

    def cross(self, k: int, crossbar: Any) -> None:
        drive = self.drives[k]
        if isinstance(drive, Separable):
            current = crossbar(drive).amplitude
            torch.autograd.grad(current, crossbar.weight, self.currents[k].amplitude)
        else:
            voltage = drive.detach().requires_grad_()
            torch.autograd.grad(crossbar(voltage), [crossbar.weight, voltage], self.currents[k])

    def forward(self, k: int, population: Any) -> None:
        with torch.no_grad():
            population(self.currents[k])

    def both(self, k: int, population: Any) -> None:
        current = self.currents[k]
        if isinstance(current, Separable):
            leaf = current.amplitude.detach().requires_grad_()
            torch.autograd.grad(population(Separable(current.waveform, leaf)), leaf, self.weights[k])
        else:
            leaf = current.detach().requires_grad_()
            torch.autograd.grad(population(leaf), leaf, self.weights[k])

    def read_out(self) -> None:
        above = self.drives[-1].detach().requires_grad_()
        means = (above.sum(0) - 0.5 * (above[0] + above[-1])) / (len(above) - 1)
        functional.cross_entropy(means / 3e-3, self.labels).backward()

    def update(self) -> None:
        for crossbar in self.twin.crossbars:
            if crossbar.weight.grad is None:
                crossbar.weight.grad = torch.zeros_like(crossbar.weight)
        self.optimizer.step()
        self.twin.project()


def _epoch(sizes: Sequence[int], data: Images, plan: TrainingPlan) -> Row:
    """Train one epoch with the fused kernel."""
    twin = Twin(sizes, dt=plan.dt, kernel="fused")
    config = BPTTConfig(epochs=1, batch=plan.batch, validation=min(2000, len(data.train.labels) // 10))
    before = now()
    history = fit(twin, data, config)
    return {
        "kind": "epoch", **_columns(sizes, plan), "data": data.name, "images": len(data.train.labels) - config.validation,
        "cases": {"fused": as_case([now() - before])}, "epoch_wall_s": shown(history.seconds[0]),
        "validation_accuracy": shown(history.validation[0]),
    }  # fmt: skip


PLANS = {
    "tiny": TrainingPlan([(16, 3, 10)], batch=4, steps=2, rounds=1, dt=5e-6),
    "bench": TrainingPlan([(784, 100, 10)]),
    "full": TrainingPlan([(784, 100, 10), (784, 400, 10)], steps=10, rounds=3, epoch_of="mnist"),
}
