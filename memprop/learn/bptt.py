"""Backpropagation through time through the circuit equations of the twin; no surrogate gradient.

The rule of SPICEprop and MEMprop (Zhou et al., arXiv:2203.01426, arXiv:2206.12992): the loss is the cross-entropy of
the time mean of the output membranes, and its gradient passes through the memristor states step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memprop.data.sets import Images
from memprop.learn.training import History, Progress, Training, TrainingConfig
from memprop.learn.trust import Trust
from memprop.twin.network import Twin


@dataclass(frozen=True, slots=True)
class BPTTConfig(TrainingConfig):
    """Settings of a training on the twin."""


def fit(
    twin: Twin,
    data: Images,
    config: BPTTConfig | None = None,
    *,
    checkpoint: Path | None = None,
    on_step: Callable[[Progress], None] = lambda progress: None,  # noqa: ARG005
    trust: Trust | None = None,
    about: Mapping[str, Any] | None = None,
) -> History:
    """Train ``twin`` on ``data.train`` and leave in it the weights of the best epoch.

    With ``checkpoint`` the state is written there regularly, and a training that finds its own checkpoint goes on from it
    bit for bit: every random choice is a function of the seed, the epoch and the step. ``trust`` looks after the range of a
    twin that was fitted. ``about`` is what else must be the same where a checkpoint is taken, e.g. the weights at the start.

    Raises
    ------
    InputError: images and network do not fit.
    CheckpointError: the checkpoint is damaged or of another training.
    TrainingError: the loss became NaN.
    """
    config = config or BPTTConfig()
    with twin.stepping(twin.dt if config.dt is None else config.dt):
        training = Training(twin, data, config, checkpoint, on_step, trust)
        training.identity |= about or {}
        return training.run()
