"""Spiking network of EqSpike (Martin et al., arXiv:2010.07859), step by step, for many samples at once.

Leaky integrate-and-fire neurons with a charge-packet reset, one hidden layer, symmetric synapses that are read from both ends.
Time counts in steps, currents in thresholds per step. In each step

    i += (arriving spikes - i) / t_syn;    v = keep v + i + drive;    spike = v >= 1;    v -= spike

``v`` stays in -1 to 2. The reset takes one packet of charge away instead of all of it: the rate is then a hard sigmoid of the current, and
what is over the threshold is not lost. Two filtered spike trains f and g tell how the rate moves: ``a = (f - g) / (t_slow - t_fast)``
has the change of the rate as its integral. At each spike of one neuron the synapse adds the other's ``a``: its sum is the update.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from memprop.errors import InputError
from memprop.twin.fused.compiler import build

SOURCE = Path(__file__).with_name("eqspike.cpp")


@dataclass(frozen=True, slots=True)
class SpikingDynamics:
    """Time constants, in steps.

    Raises
    ------
    InputError: one is below 1, the filters are equal, or ``keep`` is not in 0 to 1.
    """

    keep: float = 1.0
    """Share of the membrane that is left after one step; 1: no leak."""
    synapse: float = 3.0
    fast: float = 2.0
    slow: float = 15.0

    def __post_init__(self) -> None:
        if not (0.0 < self.keep <= 1.0 and self.synapse >= 1.0 and 1.0 <= self.fast < self.slow):
            raise InputError(
                f"spiking neurons: keep = {self.keep!r}, synapse = {self.synapse!r}, fast = {self.fast!r}, slow = {self.slow!r} "
                "steps; need keep in 0 to 1, the others 1 or more, and fast below slow."
            )


@dataclass(frozen=True, slots=True)
class Told:
    """What a run of B samples shows."""

    pairs: Tensor
    """Sum over the last phase of spikes of one side times movement of the other, ``[B, hidden, outputs]``."""
    moved: Tensor
    """Sum over the last phase of each neuron's movement, hidden ones first, ``[B, hidden + outputs]``."""
    counts: Tensor
    """Spikes of each neuron from the asked step on, ``[B, hidden + outputs]``."""


def run_spiking(
    weight: Tensor, drive: Tensor, bias: Tensor, target: Tensor, v: Tensor, nudges: Tensor, lengths: Sequence[int],
    dynamics: SpikingDynamics, *, counted: int = 0, kernel: str = "fused",
) -> Told:  # fmt: skip
    """Run samples through phases of ``lengths`` steps, in which outputs get ``nudges`` ``[B, phases]`` times (target - spike).

    ``weight`` is ``[hidden, outputs]``, ``drive`` the constant input of the hidden neurons ``[B, hidden]``, ``bias`` that of the outputs
    ``[outputs]``, ``target`` ``[B, outputs]``, ``v`` membranes in the beginning ``[B, hidden + outputs]``. ``kernel`` is ``fused``, in
    C++, or ``eager``, in torch, the reference. Spikes are counted after ``counted`` steps.

    Raises
    ------
    InputError: shapes do not fit, or the kernel is unknown.
    EngineError: the kernel cannot be built.
    """
    hidden, outputs = weight.shape
    shapes = ((drive, hidden), (target, outputs), (v, hidden + outputs), (nudges, len(lengths)))
    if bias.shape != (outputs,) or any(x.shape != (len(drive), width) for x, width in shapes):
        raise InputError(
            f"spiking network {hidden}-{outputs}: drive {tuple(drive.shape)}, bias {tuple(bias.shape)}, target {tuple(target.shape)}, "
            f"membranes {tuple(v.shape)}, nudges {tuple(nudges.shape)} do not fit {len(drive)} samples and {len(lengths)} phases."
        )
    if kernel not in ("fused", "eager"):
        raise InputError(f"kernel '{kernel}' is unknown. Known: fused, eager.")
    run = _fused if kernel == "fused" else _eager
    return run(weight, drive, bias, target, v, nudges, lengths, dynamics, counted)


def _eager(
    weight: Tensor, drive: Tensor, bias: Tensor, target: Tensor, v: Tensor, nudges: Tensor, lengths: Sequence[int],
    dynamics: SpikingDynamics, counted: int,
) -> Told:  # fmt: skip
    hidden, k = weight.shape[0], dynamics
    i, f, g, spike = (torch.zeros_like(v) for _ in range(4))
    v, pairs = v.clone(), v.new_zeros(len(v), *weight.shape)
    moved, counts, step = torch.zeros_like(v), torch.zeros_like(v), 0
    for phase, length in enumerate(lengths):
        for _ in range(length):
            low, high = spike[:, :hidden], spike[:, hidden:]
            i = i + (torch.cat([high @ weight.T, low @ weight], 1) - i) / k.synapse
            fixed = torch.cat([drive, bias + nudges[:, phase, None] * (target - high)], 1)
            v = (k.keep * v + i + fixed).clamp(-1.0, 2.0)
            spike = (v >= 1.0).to(v)
            v = v - spike
            f, g = f + (spike - f) / k.fast, g + (spike - g) / k.slow
            a = (f - g) / (k.slow - k.fast)
            if step >= counted:
                counts = counts + spike
            if phase == len(lengths) - 1:
                moved = moved + a
                low, high = spike[:, :hidden, None], spike[:, None, hidden:]
                pairs = pairs + low * a[:, None, hidden:] + high * a[:, :hidden, None]
            step += 1
    return Told(pairs, moved, counts)


def _fused(
    weight: Tensor, drive: Tensor, bias: Tensor, target: Tensor, v: Tensor, nudges: Tensor, lengths: Sequence[int],
    dynamics: SpikingDynamics, counted: int,
) -> Told:  # fmt: skip
    run = build(SOURCE.read_text(encoding="utf-8")).memprop_eqspike
    (hidden, outputs), batch, k = weight.shape, len(drive), dynamics
    given = [x.float().contiguous() for x in (weight.T, drive, bias, target, v, nudges)]
    found = [
        torch.zeros(batch, outputs, hidden),
        torch.zeros(batch, hidden + outputs),
        torch.zeros(batch, hidden + outputs),
    ]
    ends = torch.tensor(lengths).cumsum(0)
    numbers = torch.tensor([k.keep, 1 / k.synapse, 1 / k.fast, 1 / k.slow, 1 / (k.slow - k.fast)])
    sizes = [ctypes.c_int64(n) for n in (batch, hidden, outputs, len(lengths))]
    places = [ctypes.c_void_p(x.data_ptr()) for x in (numbers, *given, *found)]
    run(
        *sizes,
        ctypes.c_void_p(ends.data_ptr()),
        ctypes.c_int64(counted),
        *places,
        ctypes.c_int32(torch.get_num_threads()),
    )
    return Told(found[0].transpose(1, 2), found[1], found[2])
