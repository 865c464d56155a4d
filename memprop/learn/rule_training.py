"""Training with any rule: batches, rates, write-back, the best epoch, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memprop.conductance.write_back import WriteBack
from memprop.data.sets import Samples
from memprop.errors import CheckpointError, InputError, TrainingError, positive
from memprop.files import sha256
from memprop.learn.checkpoint import (
    check_same,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from memprop.learn.rule import Rule
from memprop.learn.training import History, Progress, accuracy, shifted

OPTIMIZERS = ("adam", "sgd")


@dataclass(frozen=True, slots=True)
class RuleConfig:
    """Settings of a training.

    Raises
    ------
    InputError: a number is out of range.
    """

    epochs: int
    batch: int
    rates: tuple[float, ...]
    """Learning rate of each crossbar: in S of Adam, in S^2 of plain gradient descent."""
    optimizer: str = "adam"
    momentum: tuple[float, ...] = ()
    """Momentum of each crossbar, of plain gradient descent; none given: 0."""
    decay: float = 0.75
    """Factor on the rates after each epoch."""
    validation: int = 0
    """Training samples held out, which choose the best epoch; 0: the last epoch is taken."""
    seed: int = 0
    shift: int = 0
    """Pixels by which training images move at most, in both directions."""

    def __post_init__(self) -> None:
        rates = bool(self.rates) and positive(*self.rates)
        counts = self.epochs >= 1 and self.batch >= 1 and min(self.validation, self.shift) >= 0
        if not rates or not counts or not 0 < self.decay <= 1:
            raise InputError(
                f"training: epochs = {self.epochs!r}, batch = {self.batch!r}, validation = {self.validation!r}, rates = {self.rates!r}, "
                f"decay = {self.decay!r}, shift = {self.shift!r}; need positive numbers, validation and shift 0 or more, decay up to 1."
            )
        if self.momentum and (
            self.optimizer != "sgd"
            or len(self.momentum) != len(self.rates)
            or not all(0 <= m < 1 for m in self.momentum)
        ):
            raise InputError(
                f"training: momentum = {self.momentum!r}; with sgd, give {len(self.rates)} numbers from 0 to below 1, one per crossbar."
            )
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"training: optimizer '{self.optimizer}' is unknown. Known: {', '.join(OPTIMIZERS)}.")


class _State:
    """What a checkpoint holds."""

    def __init__(self, rule: Rule, data: Samples, config: RuleConfig, write: WriteBack) -> None:
        if len(config.rates) != len(rule.conductances):
            raise InputError(
                f"training: {len(config.rates)} rates for {len(rule.conductances)} crossbars. Give one each."
            )
        inputs, classes = rule.sizes
        if (data.rows, data.classes) != (inputs, classes):
            raise InputError(
                f"training: {data.name} has {data.rows} pixels and {data.classes} classes, the network {inputs} inputs and {classes} "
                "outputs. Make them equal."
            )
        if config.validation >= len(data.train.labels):
            raise InputError(
                f"training: {config.validation} of {len(data.train.labels)} samples held out. Lower validation."
            )
        self.wanted = [nn.Parameter(g.clone()) for g in rule.conductances]
        groups: list[dict[str, Any]] = [
            {"params": [p], "lr": rate} for p, rate in zip(self.wanted, config.rates, strict=True)
        ]
        for group, momentum in zip(groups, config.momentum, strict=False):
            group["momentum"] = momentum
        make = torch.optim.Adam if config.optimizer == "adam" else torch.optim.SGD
        # Gradients are per siemens and large, so Adam's epsilon never acts on them.
        self.optimizer: torch.optim.Optimizer = make(groups)
        self.history, self.epoch = History(), 0
        self.best = [g.clone() for g in rule.conductances]
        self.identity: dict[str, Any] = {
            "rule": rule.name, **rule.identity, "data": data.name, "labels": sha256(data.train.labels.tobytes()),
            "shapes": [list(g.shape) for g in self.wanted], **asdict(config), "write": asdict(write),
            "start": sha256(b"".join(g.numpy().tobytes() for g in rule.conductances)),
        }  # fmt: skip

    def save(self, path: Path) -> None:
        tensors: dict[str, Tensor] = {f"now.{k}": g for k, g in enumerate(self.wanted)}
        tensors |= {f"best.{k}": g for k, g in enumerate(self.best)}
        tensors |= optimizer_tensors(self.optimizer)
        save_checkpoint(
            path, tensors, {"identity": self.identity, "epoch": self.epoch, "history": asdict(self.history)}
        )

    def restore(self, path: Path) -> None:
        tensors, notes = load_checkpoint(path)
        check_same(path, notes.get("identity", {}), self.identity)
        try:
            with torch.no_grad():
                for k, g in enumerate(self.wanted):
                    g.copy_(tensors[f"now.{k}"])
            self.best = [tensors[f"best.{k}"] for k in range(len(self.wanted))]
            restore_optimizer(self.optimizer, tensors)
            self.history, self.epoch = History(**notes["history"]), int(notes["epoch"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint {path} is damaged ({type(error).__name__}: {error}). Delete it and train again, or take an earlier copy."
            ) from error


def train_rule(
    rule: Rule, data: Samples, config: RuleConfig, write: WriteBack, checkpoint: Path | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,  # noqa: ARG005
) -> History:  # fmt: skip
    """Train and leave the best epoch's conductances written. The same call goes on after the last finished epoch.

    Every random choice is a function of the seed and the epoch.

    Raises
    ------
    InputError: settings, data and rule do not fit.
    CheckpointError: the checkpoint is damaged or of another training.
    TrainingError: the loss is no number.
    """
    state = _State(rule, data, config, write)
    if checkpoint is not None and checkpoint.exists():
        state.restore(checkpoint)
    order = torch.from_numpy(np.random.default_rng(config.seed).permutation(len(data.train.labels)))
    held, kept = order[: config.validation], order[config.validation :]
    images = torch.from_numpy(data.pixels("train"))
    labels = torch.from_numpy(data.train.labels).long()
    while state.epoch < config.epochs:
        started, total = time.monotonic(), 0.0
        generator = torch.Generator().manual_seed(config.seed + 1000 * (state.epoch + 1))
        for group, rate in zip(state.optimizer.param_groups, config.rates, strict=True):
            group["lr"] = rate * config.decay**state.epoch
        parts = kept[torch.randperm(len(kept), generator=generator)].split(config.batch)
        for k, part in enumerate(parts):
            rule.program([write(g.detach(), generator) for g in state.wanted])
            inputs = shifted(images[part], config.shift, generator).flatten(1)
            loss = _update(rule, state, inputs, labels[part], write, generator)
            total += loss * len(part)
            on_step(Progress(state.epoch, k + 1, len(parts), loss))
        rule.program([write(g.detach(), generator) for g in state.wanted])
        state.history.loss.append(total / len(kept))
        if len(held):
            right = accuracy(_answers(rule, images[held].flatten(1)), labels[held])
            state.history.validation.append(right)
        state.history.seconds.append(time.monotonic() - started)
        state.epoch += 1
        if not len(held) or state.history.best == state.epoch - 1:
            state.best = [g.clone() for g in rule.conductances]
        if checkpoint is not None:
            state.save(checkpoint)
    rule.program(state.best)
    return state.history


def _update(
    rule: Rule, state: _State, inputs: Tensor, labels: Tensor, write: WriteBack, generator: torch.Generator
) -> float:
    found = rule.learn(inputs, labels, generator)
    if not np.isfinite(found.loss):
        raise TrainingError(f"{rule.name}: the loss is {found.loss} in epoch {state.epoch + 1}. Lower the rates.")
    for g, gradient in zip(state.wanted, found.gradients, strict=True):
        g.grad = gradient.to(g)
    state.optimizer.step()
    with torch.no_grad():
        for g in state.wanted:
            g.copy_(write.clip(g))
    return found.loss


def _answers(rule: Rule, inputs: Tensor, batch: int = 500) -> Tensor:
    return torch.cat([rule.outputs(part) for part in inputs.split(batch)])


def rule_accuracy(rule: Rule, data: Samples, count: int | None = None) -> float:
    """Return the share of the first ``count`` test samples, default all, whose largest output is their label."""
    inputs = torch.from_numpy(data.pixels("test")).flatten(1)[:count]
    return accuracy(_answers(rule, inputs), torch.from_numpy(data.test.labels).long()[:count])
