"""Network of leaky integrate-and-fire neurons in discrete steps with a leaky readout: what rules that learn online are compared on.

In each step, for each hidden layer, with decay d and threshold h, and for the readout with its own decay k:

    v = d (v - h spike before) + W x + b;    spike = v > h;    trace = d trace + x;    y = k y + W spike + b

Reset takes the threshold away: then dv/dW is the trace of the input, the same for all neurons of a layer, as long as the reset is not
differentiated. A reset to 0 would end the trace of each neuron at its own spikes. In place of the derivative of a spike stands

    psi = g max(0, 1 - |v - h| / h) / h,    g = 0.3    (Bellec et al. 2020, Nature Communications 11, 3625)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from memprop.errors import InputError


@dataclass(frozen=True, slots=True)
class LeakyNeuron:
    """Constants of all neurons, without unit.

    Raises
    ------
    InputError: one is out of range.
    """

    decay: float = 0.8
    """What is left of a membrane after a step."""
    readout: float = 0.8
    """What is left of an output after a step; 0: outputs have no memory."""
    threshold: float = 1.0
    gain: float = 0.3
    """Largest psi, for a threshold of 1."""

    def __post_init__(self) -> None:
        decays = 0.0 <= self.decay < 1.0 and 0.0 <= self.readout < 1.0
        if not (decays and 0.0 < self.threshold < float("inf") and 0.0 < self.gain < float("inf")):
            raise InputError(
                f"leaky neuron: decay = {self.decay!r}, readout = {self.readout!r}, threshold = {self.threshold!r}, gain = {self.gain!r}; "
                "need decays from 0 to below 1, threshold and gain above 0."
            )


@dataclass(frozen=True, slots=True)
class LeakyWaves:
    """What a hidden layer shows over T steps of B samples."""

    spikes: Tensor
    """``[T, B, neurons]``, 0 or 1."""
    psi: Tensor
    """Stands for the derivative of spikes by membranes, ``[T, B, neurons]``."""
    membranes: Tensor
    """Before the reset, ``[T, B, neurons]``."""
    traces: Tensor
    """Of the layer's inputs, the last one of the bias, ``[T, B, inputs + 1]``."""


@dataclass(frozen=True, slots=True)
class LeakyRun:
    """What a network shows over T steps of B samples."""

    hidden: tuple[LeakyWaves, ...]
    readout: Tensor
    """``[T, B, classes]``."""


def filtered(values: Tensor, decay: float) -> Tensor:
    """Return out[t] = decay out[t - 1] + values[t] of ``[T, ...]``."""
    found = [values[0]]
    for value in values[1:]:
        found.append(decay * found[-1] + value)
    return torch.stack(found)


def with_bias(values: Tensor) -> Tensor:
    """Return ``[..., n + 1]``: inputs ``[..., n]`` and one that is always 1."""
    return functional.pad(values, (0, 1), value=1.0)


def run_leaky_layer(weight: Tensor, arriving: Tensor, neuron: LeakyNeuron, *, detached: bool = True) -> LeakyWaves:
    """Run one layer: weight ``[inputs + 1, neurons]``, the last row of bias, arriving spikes ``[T, B, inputs]``.

    Autograd finds psi as derivative of spikes. ``detached``: it sees no reset.
    """
    full, h = with_bias(arriving), neuron.threshold
    current = full @ weight
    v, spike = torch.zeros_like(current[0]), torch.zeros_like(current[0])
    spikes, psis, membranes = [], [], []
    for drive in current:
        v = neuron.decay * (v - h * (spike.detach() if detached else spike)) + drive
        free = v.detach()
        psi = neuron.gain * (1.0 - (free - h).abs() / h).clamp(min=0.0) / h
        # The second part is 0, and has psi as its derivative.
        spike = (free > h).to(v) + psi * (v - free)
        spikes.append(spike)
        psis.append(psi)
        membranes.append(v)
    traces = filtered(full.detach(), neuron.decay)
    return LeakyWaves(torch.stack(spikes), torch.stack(psis), torch.stack(membranes), traces)


def run_leaky(weights: Sequence[Tensor], arriving: Tensor, neuron: LeakyNeuron, *, detached: bool = True) -> LeakyRun:
    """Run all layers, weights ``[inputs + 1, neurons]``, the last one of the readout, on spikes ``[T, B, inputs]``."""
    hidden = []
    for weight in weights[:-1]:
        hidden.append(run_leaky_layer(weight, arriving, neuron, detached=detached))
        arriving = hidden[-1].spikes
    return LeakyRun(tuple(hidden), filtered(with_bias(arriving) @ weights[-1], neuron.readout))
