"""In-the-loop learning: the circuit does the forward pass, the twin the backward pass along the measured waveforms.

Measured membranes and device states take the place of the computed ones at every time step, while the gradient passes to the
twin (Cramer et al., arXiv:2006.07239). So the loss is that of the circuit as it is, with its spread, and learning corrects what
the twin does not know. The update itself, and its write-back, are those of `memprop.learn.bptt`.

Of few images, labels say little: a network that was trained has them right soon, while it still errs elsewhere. So the circuit
learns to answer as a teacher does, the twin of the design (Hinton et al., arXiv:1503.02531): how much each class is
excited in every image, shifted ones too. Without a teacher it learns the labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from memprop.data.sets import Images
from memprop.errors import InputError
from memprop.files import sha256
from memprop.learn.plant import Plant
from memprop.learn.training import History, Progress, Training, TrainingConfig
from memprop.learn.trust import Trust
from memprop.twin.network import Twin


@dataclass(frozen=True, slots=True)
class InTheLoopConfig(TrainingConfig):
    """Settings of learning in the loop: few images, small steps from a network that was trained on the twin."""

    epochs: int = 6
    batch: int = 50
    rate_input: float = 4e-8
    rate_hidden: float = 4e-7
    decay: float = 0.0
    dt: float | None = 0.5e-6
    shift: int = 0
    validation: int = 200
    patience: int = 100
    checkpoint_s: float = 0.0
    images: int | None = 2000
    softness: float = 15e-3
    """Membrane difference in V that changes the teacher's class probability e-fold; ``temperature`` is that of labels."""

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        if not (math.isfinite(self.softness) and self.softness > 0):
            raise InputError(f"InTheLoopConfig: softness = {self.softness!r} V must be finite and positive.")


def fit_in_the_loop(
    twin: Twin,
    plant: Plant,
    data: Images,
    config: InTheLoopConfig | None = None,
    *,
    teacher: Twin | None = None,
    checkpoint: Path | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,  # noqa: ARG005
    trust: Trust | None = None,
) -> History:
    """Go on from the weights of ``twin`` with the circuit in the loop, and leave in ``twin`` those of the best epoch.

    The circuit learns the answers of ``teacher``, usually the twin of the design; None: the labels. The best epoch is that with
    the lowest loss of the circuit on the images held out, since few images hardly tell epochs apart by counting. With
    ``checkpoint`` the state is written after every batch, and a plant that keeps its measurements repeats none that was finished.

    Raises
    ------
    InputError: images, network and teacher do not fit.
    SimulationError: an image could not be measured; the checkpoint is kept.
    CheckpointError: the checkpoint is damaged or of another training.
    TrainingError: the loss became NaN.
    """
    config = config or InTheLoopConfig()
    with twin.stepping(twin.dt if config.dt is None else config.dt), _one_thread():
        if teacher is None:
            return _InTheLoop(twin, plant, data, config, None, checkpoint, on_step, trust).run()
        with teacher.stepping(twin.dt):
            return _InTheLoop(twin, plant, data, config, teacher, checkpoint, on_step, trust).run()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: steps of some thousand neurons gain nothing from more, and wait for cores that simulators use."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _InTheLoop(Training):
    """A training whose forward pass is measured."""

    judged_by_twin = False
    chosen_by_loss = True

    def __init__(
        self, twin: Twin, plant: Plant, data: Images, config: InTheLoopConfig, teacher: Twin | None, checkpoint: Path | None,
        on_step: Callable[[Progress], None], trust: Trust | None,
    ) -> None:  # fmt: skip
        if not config.validation:
            raise InputError("in the loop the best epoch is chosen on images held out: validation must be at least 1.")
        if teacher is not None and (teacher is twin or teacher.sizes != twin.sizes):
            raise InputError(f"the teacher must be a second network of sizes {twin.sizes}; it has {teacher.sizes}.")
        super().__init__(twin, data, config, checkpoint, on_step, trust)
        self.plant, self.before, self.teacher, self.softness = plant, plant.seconds, teacher, config.softness
        self.identity |= {"rule": "in_the_loop", "start": _digests(twin), "circuit": plant.name}
        if teacher is not None:
            self.identity["teacher"] = _digests(teacher)

    def outputs(self, images: Tensor) -> Tensor:
        return self._measured(images)

    def criterion(self, outputs: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        if self.teacher is None:
            return super().criterion(outputs, images, labels)
        with torch.no_grad():
            wanted = torch.cat([self.teacher(part) for part in images.split(self.config.batch)])
        told = functional.log_softmax(outputs / self.softness, 1)
        return functional.kl_div(told, functional.softmax(wanted / self.softness, 1), reduction="batchmean")

    def schedule(self, progress: float) -> float:
        # Trained weights need no warming up, and of few updates none is to be lost.
        return 0.5 * (1.0 + math.cos(math.pi * progress))

    def judged(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([self._measured(part) for part in images.split(self.config.batch)])

    def _measured(self, images: Tensor) -> Tensor:
        self.plant.program([crossbar.pair() for crossbar in self.twin.crossbars])
        found = self.plant.show(images, self.twin.dt)
        return self.twin.follow(images, found.membranes, found.states)

    def finish_epoch(self) -> None:
        self.history.circuit_seconds.append(self.plant.seconds - self.before)  # as the epoch's: without judging it
        super().finish_epoch()
        self.before = self.plant.seconds

    def saved(self) -> None:
        self.plant.forget()


def _digests(twin: Twin) -> list[str]:
    """Return a hash of each crossbar's weights."""
    return [sha256(crossbar.weight.detach().cpu().numpy().tobytes()) for crossbar in twin.crossbars]
