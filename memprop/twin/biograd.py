"""Spiking network of BioGrad (Tang et al., arXiv:2110.14092) in discrete steps: somata, pre traces, error neurons.

In each step, for each layer, with decay d, threshold and window:

    v = d v (1 - spike before) + W x + b;    spike = v > threshold;    psi = |v - threshold| < window;    trace = d trace + x

``trace`` is one per input instead of one per synapse: it leaves out that a synapse forgets when its neuron fires.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from memprop.errors import InputError, positive


@dataclass(frozen=True, slots=True)
class BioGradNeuron:
    """Constants of all neurons, without unit.

    Raises
    ------
    InputError: one is out of range.
    """

    decay: float = 0.3
    threshold: float = 0.3
    window: float = 0.3

    def __post_init__(self) -> None:
        if not (0.0 <= self.decay < 1.0 and self.threshold > 0.0 and self.window > 0.0):
            raise InputError(
                f"BioGrad neuron: decay = {self.decay!r}, threshold = {self.threshold!r}, window = {self.window!r}; need a decay of 0 to 1 "
                "and positive numbers."
            )


@dataclass(frozen=True, slots=True)
class ErrorNeurons:
    """Constants of the error neurons; as they stand, those of the paper.

    Raises
    ------
    InputError: one is out of range.
    """

    charge: float = 0.0
    """Where they start, as a share of their threshold. 0.5 rounds the error to whole spikes where 0 cuts it off: in few steps the
    small errors of the wrong classes would never make a spike, and outputs only learn to fire."""
    gain: float = 1.0
    """Of the softmax: spikes of an output count so much. Few steps need more, for their counts cannot grow far apart."""

    def __post_init__(self) -> None:
        if not (0.0 <= self.charge <= 1.0 and positive(self.gain)):
            raise InputError(
                f"error neurons: charge = {self.charge!r}, gain = {self.gain!r}; need a charge of 0 to 1 and a positive gain."
            )


@dataclass(frozen=True, slots=True)
class Waves:
    """What the layer l of a network shows over T steps of B samples."""

    spikes: Tensor
    """``[T, B, neurons]``, 0 or 1."""
    near: Tensor
    """psi: whether the membrane is in the window, ``[T, B, neurons]``."""
    traces: Tensor
    """Of the layer's inputs, ``[T, B, inputs]``."""


def run_layer(weight: Tensor, bias: Tensor, arriving: Tensor, neuron: BioGradNeuron, *, coupled: bool = False) -> Waves:
    """Run one layer: weight ``[inputs, neurons]``, bias ``[neurons]``, arriving spikes ``[T, B, inputs]``.

    ``coupled`` takes from the current of each neuron its mean over steps and samples, as a coupling capacitor does.
    """
    current = arriving @ weight + bias
    if coupled:
        current = current - current.mean((0, 1))
    v, spike = torch.zeros_like(current[0]), torch.zeros_like(current[0])
    spikes, near, trace, traces = [], [], torch.zeros_like(arriving[0]), []
    for drive, x in zip(current, arriving, strict=True):
        v = neuron.decay * v * (1.0 - spike) + drive
        spike = (v > neuron.threshold).to(v)
        trace = neuron.decay * trace + x
        spikes.append(spike)
        near.append(((v - neuron.threshold).abs() < neuron.window).to(v))
        traces.append(trace)
    return Waves(torch.stack(spikes), torch.stack(near), torch.stack(traces))


def run_network(
    layers: Sequence[tuple[Tensor, Tensor]], arriving: Tensor, neuron: BioGradNeuron, *, coupled: bool = False
) -> list[Waves]:
    """Run all layers, each a weight and a bias, one after the other."""
    found = []
    for weight, bias in layers:
        found.append(run_layer(weight, bias, arriving, neuron, coupled=coupled))
        arriving = found[-1].spikes
    return found


def error_spikes(output: Tensor, labels: Tensor, start: int, neurons: ErrorNeurons | None = None) -> Tensor:
    """Return the net number of spikes of the error neurons, ``[B, classes]``, from output spikes ``[T, B, classes]``.

    Two neurons per class, for errors of either sign, integrate softmax(gain x spikes so far) minus the label from step ``start`` on; each
    fires at most once per step when it is over 1, and 1 is taken away.
    """
    neurons = neurons or ErrorNeurons()
    count = output.cumsum(0)
    wanted = functional.one_hot(labels, output.shape[2]).to(output)
    u = [torch.full_like(count[0], neurons.charge) for _ in range(2)]
    net = torch.zeros_like(count[0])
    for now in count[start:]:
        error = torch.softmax(neurons.gain * now, 1) - wanted
        for k, sign in enumerate((1.0, -1.0)):
            u[k] = u[k] + (sign * error).clamp(min=0.0)
            fired = (u[k] > 1.0).to(net)
            u[k] = u[k] - fired
            net = net + sign * fired
    return net
