"""What trainings share: images, schedule, optimizer, checkpoints; a rule says how outputs come about that have a gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from memprop.data.sets import Images
from memprop.errors import CheckpointError, InputError, TrainingError
from memprop.files import sha256
from memprop.learn.checkpoint import (
    check_same,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from memprop.learn.memory import keep_freed_memory
from memprop.learn.trust import Trust
from memprop.twin.network import Twin
from memprop.twin.ranges import RangeWatch


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """What all trainings have in common."""

    epochs: int = 10
    batch: int = 256
    rate_input: float = 3e-7
    """Peak learning rate of the first crossbar, in S."""
    rate_hidden: float = 1.5e-6
    """Peak learning rate of the other crossbars, in S."""
    decay: float = 3e-4
    """Share of a weight that is forgotten in each step at the peak rate."""
    dt: float | None = None
    """Time step in s while learning; default that of the twin. Twice as long is twice as fast, and good enough for a gradient."""
    temperature: float = 3e-3
    """Membrane difference in V that changes a class probability e-fold; learned from this value on."""
    clip: float = 1.0
    """Largest norm of a batch's gradient, each crossbar in units of its peak rate x 1e5. The default lies below nearly all
    norms, so it normalises: a batch of hard images, whose membranes switch fast, counts no more than any other.
    """
    shift: int = 1
    """Training images move by at most so many pixels in each direction."""
    validation: int = 2000
    """Training images held out to choose the best epoch."""
    patience: int = 4
    """Stop after so many epochs without a better validation accuracy."""
    checkpoint_s: float = 60.0
    """Seconds between checkpoints inside an epoch; one is always written after it."""
    seed: int = 0
    images: int | None = None
    """Training images that are used; default all that are not held out."""

    def __post_init__(self) -> None:
        positive = ("epochs", "batch", "rate_input", "rate_hidden", "temperature", "clip", "patience")
        for name in (*positive, "decay", "shift", "validation", "checkpoint_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and (value > 0 if name in positive else value >= 0)):
                raise InputError(
                    f"{type(self).__name__}: {name} = {value!r} must be finite and {'positive' if name in positive else 'not negative'}."
                )
        for name in ("epochs", "batch", "shift", "validation", "patience", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise InputError(f"{type(self).__name__}: {name} = {value!r} must be a whole number, not negative.")
        if self.images is not None and self.images < 1:
            raise InputError(
                f"{type(self).__name__}: images = {self.images!r}: at least 1 is needed. Leave it out for all."
            )


@dataclass(frozen=True, slots=True)
class Progress:
    """What a training tells while it runs."""

    epoch: int
    step: int
    steps: int
    loss: float


@dataclass(slots=True)
class History:
    """One entry per finished epoch."""

    loss: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    circuit_seconds: list[float] = field(default_factory=list)
    """What of ``seconds`` was spent in the circuit, for rules that have one; of the process that ended the epoch."""
    refits: list[dict[str, Any]] = field(default_factory=list)
    """Each time that the twin left its range and was fitted anew: after which ``epoch``, and what was done."""
    since: int = 0
    """First epoch that was judged as the last one was: another twin gives other accuracies."""
    validation_loss: list[float] = field(default_factory=list)
    """Loss on the images held out, for rules that choose the best epoch by it."""

    @property
    def best(self) -> int:
        """Index of the best epoch of those judged alike, the first of equals.

        It has the lowest loss on the images held out where that was asked for, else the highest accuracy.
        """
        merit = -np.asarray(self.validation_loss) if self.validation_loss else np.asarray(self.validation)
        return self.since + int(np.argmax(merit[self.since :]))


@torch.no_grad()
def evaluate(twin: nn.Module, pixels: Tensor, batch: int = 500) -> Tensor:
    """Return the mean output membranes above rest in V, ``[n, classes]``, of images in [0, 1]."""
    device = next(twin.parameters()).device
    return torch.cat([twin(part.to(device)).cpu() for part in pixels.split(batch)])


def accuracy(outputs: Tensor, labels: Tensor) -> float:
    """Return the share of images whose largest output is their label."""
    return float((outputs.argmax(1) == labels).double().mean())


def shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Return ``images`` ``[B, h, w]``, each moved by up to ``most`` pixels in both directions, zeros at the edges."""
    if most == 0:
        return images
    count, height, width = images.shape
    padded = functional.pad(images, (most, most, most, most))
    move = torch.randint(0, 2 * most + 1, (2, count, 1), generator=generator)
    rows, columns = move[0] + torch.arange(height), move[1] + torch.arange(width)
    return padded[torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]


def one_cycle(progress: float) -> float:
    """Return the rate relative to its peak: cosine from 1/25 to 1 in the first 30 %, then down to 0."""
    if progress < 0.3:
        return 1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * progress / 0.3))
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.3) / 0.7))


class Training:
    """State of one training; everything that a checkpoint must hold. As it stands it learns on the twin."""

    judged_by_twin = True
    """Whether `judged` asks the twin."""
    chosen_by_loss = False
    """Whether the best epoch is that of lowest loss on the images held out, instead of highest accuracy."""

    def __init__(
        self,
        twin: Twin,
        data: Images,
        config: TrainingConfig,
        checkpoint: Path | None,
        on_step: Callable[[Progress], None],
        trust: Trust | None = None,
    ) -> None:
        if data.rows != twin.sizes[0] or data.classes > twin.sizes[-1]:
            raise InputError(
                f"data set {data.name} has {data.rows} pixels and {data.classes} classes; the network takes {twin.sizes[0]} rows "
                f"and has {twin.sizes[-1]} outputs. Make them equal."
            )
        if config.validation >= len(data.train.labels):
            raise InputError(
                f"validation = {config.validation} leaves no training image of {len(data.train.labels)}. Lower it."
            )
        self.twin, self.config, self.path, self.on_step, self.trust = twin, config, checkpoint, on_step, trust
        if trust is not None:
            trust.install(twin, 0)
        keep_freed_memory()
        order = torch.from_numpy(np.random.default_rng(config.seed).permutation(len(data.train.labels)))
        images, labels = torch.from_numpy(data.pixels("train")), torch.from_numpy(data.train.labels).long()
        held, kept = order[: config.validation], order[config.validation :][: config.images]
        device = twin.crossbars[0].weight.device
        self.images, self.labels = images[kept].to(device), labels[kept].to(device)
        # Without held-out images the epochs are compared on a part of the training images, which only ends a collapse.
        check = held if config.validation else order[:2000]
        self.check_images, self.check_labels = images[check], labels[check]
        self.temperature = nn.Parameter(torch.tensor(math.log(config.temperature), device=device))
        self.optimizer = self._make_optimizer()
        self.history, self.epoch, self.step, self.loss_sum = History(), 0, 0, 0.0
        self.epoch_seconds = 0.0
        self.best = {name: value.clone() for name, value in self._weights().items()}
        self.identity = {
            "data": data.name,
            "labels": sha256(data.train.labels.tobytes()),
            "sizes": list(twin.sizes),
            "encoder": asdict(twin.encoder),
            "window": asdict(twin.window),
            "neurons": [
                sha256(repr(sorted((k, np.asarray(v).tolist()) for k, v in p.parameters_si.items())))
                for p in twin.populations
            ],
            **{name: value for name, value in asdict(config).items() if name != "images" or value is not None},
            "dt": twin.dt,
            **({} if twin.wires is None else {"wires": asdict(twin.wires)}),  # without: as before there were wires
            **({} if trust is None else {"fit": trust.name}),
            "twins": [population.identity for population in twin.populations],
        }

    @property
    def steps(self) -> int:
        """Number of batches of an epoch."""
        return math.ceil(len(self.labels) / self.config.batch)

    def run(self) -> History:
        """Train to the end, or go on from the checkpoint, and leave the best weights in the twin."""
        if self.path is not None and self.path.exists():
            self._restore(self.path)
        while self.epoch < self.config.epochs and not self._stale():
            self._run_epoch()
        self.twin.load_state_dict(self.best, strict=False)
        return self.history

    def outputs(self, images: Tensor) -> Tensor:
        """Return the mean output membranes above rest in V, ``[B, classes]``, with their gradient."""
        return self.twin(images)

    def criterion(self, outputs: Tensor, images: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """Return the loss of outputs ``[B, classes]``: here the cross-entropy with their labels ``[B]``."""
        return functional.cross_entropy(outputs / self.temperature.exp(), labels)

    def schedule(self, progress: float) -> float:
        """Return the rate relative to its peak, from the share of all updates that is done."""
        return one_cycle(progress)

    def judged(self, images: Tensor) -> Tensor:
        """Return the mean output membranes of images that were held out, ``[n, classes]``."""
        return evaluate(self.twin, images)

    def saved(self) -> None:
        """Do what may be done once the last update is safe on disk."""

    def _stale(self) -> bool:
        return (
            len(self.history.validation) - 1 - self.history.best >= self.config.patience
            if self.history.validation
            else False
        )

    def _make_optimizer(self) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = []
        for k, crossbar in enumerate(self.twin.crossbars):
            rate = self.config.rate_hidden if k else self.config.rate_input
            groups.append({"params": [crossbar.weight], "peak": rate, "weight_decay": self.config.decay / rate})
        groups.append({"params": [self.temperature], "peak": 1e-2, "weight_decay": 0.0})
        # Gradients are per siemens and large, so Adam's default epsilon never acts on them.
        return torch.optim.AdamW(groups, lr=0.0)

    def _run_epoch(self) -> None:
        generator = np.random.default_rng((self.config.seed, self.epoch))
        order = torch.from_numpy(generator.permutation(len(self.labels)))
        saved = started = time.monotonic()
        before = self.epoch_seconds
        self.twin.train()
        while self.step < self.steps:
            part = order[self.step * self.config.batch : (self.step + 1) * self.config.batch]
            loss = self._update(part)
            self.loss_sum += loss
            self.step += 1
            now = time.monotonic()
            self.epoch_seconds = before + now - started
            self.on_step(Progress(self.epoch, self.step, self.steps, loss))
            if now - saved > self.config.checkpoint_s and self.step < self.steps:
                self._save()
                saved = now
        self.finish_epoch()
        self._save()

    def _update(self, part: Tensor) -> float:
        mixed = np.random.SeedSequence((self.config.seed, self.epoch, self.step)).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(mixed[0] >> np.uint64(1)))
        images = shifted(self.images[part], self.config.shift, generator)
        factor = self.schedule((self.epoch * self.steps + self.step) / (self.config.epochs * self.steps))
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        loss = self.criterion(self.outputs(images), images, self.labels[part])
        if not torch.isfinite(loss):
            raise TrainingError(
                f"loss is {loss.item()} in epoch {self.epoch + 1}, step {self.step + 1}: the training diverged. Lower rate_input and "
                "rate_hidden; the last checkpoint is kept."
            )
        self.optimizer.zero_grad()
        loss.backward()
        self._clip()
        self.optimizer.step()
        self.twin.project()
        return float(loss.detach())

    def _clip(self) -> None:
        """Scale all gradients so that their norm, in units in which the crossbars are alike, is at most ``clip``."""
        pairs = [(group["params"][0].grad, group["peak"] * 1e5) for group in self.optimizer.param_groups[:-1]]
        norm = torch.stack([gradient.norm() * unit for gradient, unit in pairs]).norm()
        for gradient, _ in pairs:
            gradient.mul_(torch.clamp(self.config.clip / (norm + 1e-12), max=1.0))

    def finish_epoch(self) -> None:
        """Judge the epoch, on a twin that holds where the epoch went, and keep the weights if they are the best."""
        self.twin.eval()
        refits = self.history.refits
        if self.trust is not None and (done := self.trust.mend(self.twin, len(refits))) is not None:
            refits.append({"epoch": self.epoch, **done})
            self.history.since = self.epoch if self.judged_by_twin else 0
        outputs = self.judged(self.check_images)
        self.history.loss.append(self.loss_sum / self.steps)
        self.history.validation.append(accuracy(outputs, self.check_labels))
        if self.chosen_by_loss:
            with torch.no_grad():
                loss = self.criterion(outputs, self.check_images, self.check_labels)
            self.history.validation_loss.append(float(loss))
        self.history.seconds.append(self.epoch_seconds)
        if self.history.best == self.epoch:
            self.best = {name: value.clone() for name, value in self._weights().items()}
        self.epoch, self.step, self.loss_sum, self.epoch_seconds = self.epoch + 1, 0, 0.0, 0.0

    def _watches(self) -> list[RangeWatch]:
        return [population.watch for population in self.twin.populations if population.watch is not None]

    def _weights(self) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in self.twin.named_parameters()}

    def _save(self) -> None:
        if self.path is None:
            self.saved()
            return
        tensors = {f"now.{name}": value for name, value in self._weights().items()}
        tensors |= {f"best.{name}": value for name, value in self.best.items()}
        tensors["temperature"] = self.temperature
        tensors |= optimizer_tensors(self.optimizer)
        notes = {"identity": self.identity, "epoch": self.epoch, "step": self.step, "loss_sum": self.loss_sum,
                 "epoch_seconds": self.epoch_seconds, "history": asdict(self.history),
                 "seen": [watch.record() for watch in self._watches()]}  # fmt: skip
        save_checkpoint(self.path, tensors, notes)
        self.saved()

    def _restore(self, path: Path) -> None:
        tensors, notes = load_checkpoint(path)
        check_same(path, notes.get("identity", {}), self.identity)
        try:
            self._take(tensors, notes)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint {path} is damaged ({type(error).__name__}: {error}). Delete it and train again, or take an earlier copy."
            ) from error

    def _take(self, tensors: dict[str, Tensor], notes: dict[str, Any]) -> None:
        self.epoch, self.step = notes["epoch"], notes["step"]
        self.loss_sum, self.epoch_seconds = notes["loss_sum"], notes["epoch_seconds"]
        self.history = History(**notes["history"])
        if self.trust is not None:
            self.trust.install(self.twin, len(self.history.refits))
        for watch, record in zip(self._watches(), notes.get("seen", []), strict=False):
            watch.recall(record)
        now, self.best = _strip(tensors, "now."), _strip(tensors, "best.")
        for name in self._weights():
            if name not in now or name not in self.best:
                raise KeyError(name)
        self.twin.load_state_dict(now, strict=False)
        self.temperature.data.copy_(tensors["temperature"])
        restore_optimizer(self.optimizer, tensors)


def _strip(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
