"""Training of learned twins on waveforms alone: short stretches, then roll-outs of growing length, then a polish of single steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memprop.errors import InputError, TrainingError
from memprop.files import ensure_folder, sha256
from memprop.twin.learned.core import Weights, finer, fresh, roll
from memprop.twin.learned.files import load_weights, save_weights
from memprop.twin.learned.polish import Stretches, polish
from memprop.twin.place import torch_device

Floats = NDArray[np.float64]
MOVED = 0.01
"""Error of a short stretch, as a share of how far a state moves, from which on the loss grows linearly."""


@dataclass(frozen=True, slots=True)
class LearnedSettings:
    """How a learned twin is trained."""

    hidden: int = 48
    parts: int = 2
    """Steps of the twin in one of the waveforms: they must be short against the edges of a spike, see `core`."""
    strides: tuple[int, ...] = (1, 1, 2, 1)
    """Lengths of short stretches by turns, in steps of the waveforms."""
    steps: int = 14_000
    """Iterations on short stretches."""
    batch: int = 1024
    rolls: tuple[tuple[int, int], ...] = ((60, 300), (150, 500), (400, 300))
    """Roll-outs: number of steps, iterations."""
    roll_batch: int = 64
    finest: float = 1e-5
    """Error of a short stretch, in spans, from which on the loss grows linearly where states hardly move."""
    rate: float = 5e-3
    """Largest learning rate."""
    polish: tuple[tuple[int, float], ...] = ((50, 1.0), (50, 0.3), (50, 0.1), (50, 0.1))
    """Last parts, see `polish`: iterations, and the error that counts as 1, as a share of that of short stretches."""
    polish_batch: int = 16_000
    """Steps in each iteration."""
    seed: int = 1
    device: str = "cpu"
    """Where torch computes: cpu, cuda."""


@dataclass(frozen=True, slots=True)
class Sequences:
    """Waveforms as training sees them: states from rest over their spans, ``[run, T + 1, S]``, and currents in A, ``[run, T + 1]``."""

    z: Tensor
    current: Tensor
    step: float
    """Distance of the time points in s."""


def sequences(states: Floats, current: Floats, step: float, rest: Floats, span: Floats) -> Sequences:
    """Return waveforms ``[S, run, T + 1]`` in V, membrane first, and currents in A, ``[run, T + 1]``, scaled for training.

    Raises
    ------
    InputError: there is no state besides the membrane.
    """
    if len(states) < 2:
        raise InputError(
            "a learned twin needs waveforms of at least one more node than the membrane (the output of the last inverter, say). "
            "Record it: list it among the states of the cell's card."
        )
    z = (states - rest[:, None, None]) / span[:, None, None]
    return Sequences(
        torch.from_numpy(z.transpose(1, 2, 0).astype(np.float32)), torch.from_numpy(current.astype(np.float32)), step
    )


def train(
    fit: Sequences, validation: Sequences, settings: LearnedSettings, say: Callable[[str], None] = lambda _: None,
    folder: Path | None = None,
) -> Weights:  # fmt: skip
    """Return trained weights, in single precision on the CPU.

    Finished parts of the training are kept in ``folder``; the same training goes on from them.

    Raises
    ------
    TrainingError: the loss is no number.
    InputError: what was kept cannot be read, or the device is unknown or missing.
    """
    device = torch_device(settings.device)
    data = [replace(part, z=part.z.to(device), current=part.current.to(device)) for part in (fit, validation)]
    common = (settings.hidden, settings.parts, settings.finest, settings.rate, settings.seed, fit.step)
    key = sha256(repr(common).encode() + fit.z.numpy().tobytes() + fit.current.numpy().tobytes())
    weights = Weights(*(w.to(device) for w in fresh(fit.z.shape[2], settings.hidden, settings.seed)))
    for k, (name, size, part) in enumerate(_parts(settings)):
        key = sha256(f"{key} {name} {size}")
        file = None if folder is None else ensure_folder(folder) / f"{k + 1}_{key[:16]}.safetensors"
        if file is not None and file.exists():
            weights = Weights(*(w.to(device) for w in load_weights(file)))
        else:
            # A generator for each part, so that what is kept does not change what follows.
            weights = part(weights, data[0], settings, torch.Generator().manual_seed(settings.seed + k), say)
            if file is not None:
                save_weights(weights, file)
        say(f"{name}: validation {_score(Weights(*(w.float() for w in weights)), data[1], settings):.4f}")
    return Weights(*(w.float().cpu() for w in weights))


_Part = Callable[[Weights, Sequences, LearnedSettings, torch.Generator, Callable[[str], None]], Weights]


def _parts(settings: LearnedSettings) -> list[tuple[str, str, _Part]]:
    """Return the parts of the training: name, what of the settings it depends on, and what does it."""
    steps = f"{settings.steps} {settings.strides} {settings.batch}"
    parts: list[tuple[str, str, _Part]] = [("short stretches", steps, _single_steps)]
    for length, count in settings.rolls:
        size = f"{count} {settings.roll_batch}"
        parts.append((f"roll-outs of {length}", size, partial(_roll_outs, length=length, count=count)))
    for count, share in settings.polish:
        size = f"{count} {settings.polish_batch}"
        parts.append((f"polish to {share:g}", size, partial(_polished, count=count, share=share)))
    return parts


def _polished(
    weights: Weights, fit: Sequences, settings: LearnedSettings, generator: torch.Generator, say: Callable[[str], None],
    *, count: int, share: float,
) -> Weights:  # fmt: skip
    busy = _busy(fit)

    def draw() -> Stretches:
        run, at = _drawn(fit, busy, settings.polish_batch, 1, generator)
        current = torch.stack([fit.current[run, at], fit.current[run, at + 1]], 1)
        return Stretches(fit.z[run, at].double(), fit.z[run, at + 1].double(), current.double())

    scale = (share * settings.finest, share * MOVED)
    return polish(weights, draw, fit.step, settings.parts, scale, count, say)


def _score(weights: Weights, data: Sequences, settings: LearnedSettings) -> float:
    """Return the rms error over whole runs, in spans."""
    with torch.no_grad():
        found = _rolled(weights, data.z[:, 0], data.current.T.contiguous(), data.step, settings.parts)
    return float((found.transpose(0, 1) - data.z).square().mean().sqrt())


def _rolled(weights: Weights, z: Tensor, current: Tensor, step: float, parts: int) -> Tensor:
    """Return what `roll` does at the points of ``current``, with ``parts`` steps between two of them."""
    return roll(weights, z, finer(current, parts), step / parts)[::parts]


def _optimiser(
    weights: Weights, rate: float, count: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimiser = torch.optim.Adam(list(weights), lr=rate)
    return optimiser, torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda k: min(1.0, (k + 1) / 50) * 0.5 * (1.01 + math.cos(math.pi * min(1.0, k / count)))
    )


def _advance(
    loss: Tensor, weights: Weights, optimiser: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler
) -> None:
    if not bool(torch.isfinite(loss)):
        raise TrainingError(f"training of the learned twin: the loss is {loss.item()}. Lower the learning rate.")
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(list(weights), 1.0)
    optimiser.step()
    schedule.step()


def _free(weights: Weights) -> Weights:
    """Return copies in single precision that take gradients."""
    return Weights(*(w.detach().float().clone().requires_grad_() for w in weights))


def _single_steps(
    weights: Weights, fit: Sequences, settings: LearnedSettings, generator: torch.Generator, say: Callable[[str], None]
) -> Weights:
    """Learn short stretches; half of a batch is drawn where the states move, which is rare and decides the spikes."""
    weights = _free(weights)
    optimiser, schedule = _optimiser(weights, settings.rate, settings.steps)
    busy = _busy(fit)
    for k in range(settings.steps):
        stride = settings.strides[k % len(settings.strides)]
        run, at = _drawn(fit, busy, settings.batch, stride, generator)
        before, after = fit.z[run, at], fit.z[run, at + stride]
        current = fit.current[run, at + torch.arange(stride + 1)[:, None]]
        found = _rolled(weights, before, current, fit.step, settings.parts)[-1]
        moved = (after - before).abs()
        # Slow parts decide when the next spike comes: their errors count relative to how far a state moves.
        error = (found - after) / (settings.finest + MOVED * moved)
        loss = (1 + error.square()).sqrt().mean()
        _advance(loss, weights, optimiser, schedule)
        if k % 1000 == 0:
            say(f"step {k}: {loss.item():.4f}")
    return Weights(*(w.detach() for w in weights))


def _busy(fit: Sequences) -> Tensor:
    """Return run and time of the points where the states move most, ``[points, 2]``."""
    speed = (fit.z[:, 1:] - fit.z[:, :-1]).abs().amax(2)
    return torch.nonzero(speed > 0.002).cpu()  # where random numbers are drawn


def _drawn(fit: Sequences, busy: Tensor, batch: int, stride: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    runs, points, _ = fit.z.shape
    run = torch.randint(runs, (batch,), generator=generator)
    at = torch.randint(points - stride, (batch,), generator=generator)
    if len(busy):
        half = batch // 2
        some = busy[torch.randint(len(busy), (half,), generator=generator)]
        jitter = torch.randint(-3 * stride, stride + 1, (half,), generator=generator)
        run[:half], at[:half] = some[:, 0], (some[:, 1] + jitter).clamp(0, points - stride - 1)
    return run, at


def _roll_outs(
    weights: Weights, fit: Sequences, settings: LearnedSettings, generator: torch.Generator, say: Callable[[str], None],
    *, length: int, count: int,
) -> Weights:  # fmt: skip
    """Learn to run free: from true states, ``length`` steps."""
    weights = _free(weights)
    optimiser, schedule = _optimiser(weights, settings.rate * 0.1, count)
    runs, points, _ = fit.z.shape
    for k in range(count):
        steps = min(length, points - 1)
        run = torch.randint(runs, (settings.roll_batch,), generator=generator)
        at = (
            torch.randint(points - steps, (settings.roll_batch,), generator=generator)
            + torch.arange(steps + 1)[:, None]
        )
        true = fit.z[run, at]
        found = _rolled(weights, true[0], fit.current[run, at], fit.step, settings.parts)
        error = (found - true)[1:] / 0.003
        loss = (1 + error.square()).sqrt().mean()
        _advance(loss, weights, optimiser, schedule)
        if k % 50 == 0:
            say(f"roll-outs of {length}, iteration {k}: {loss.item():.4f}")
    return Weights(*(w.detach() for w in weights))


def spans_of(states: Sequence[Floats] | Floats, rest: Floats) -> Floats:
    """Return the half width of the box of each state in V: 10 % more than the waveforms ever are from rest."""
    states = np.asarray(states)
    return 1.1 * np.abs(states - rest[:, None, None]).max(axis=(1, 2))
