"""Figures of local learning rules in circuits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import xarray as xr
from matplotlib.ticker import FuncFormatter, LogLocator
from numpy.typing import NDArray

from memprop.circuit.biograd import BioGradNetwork
from memprop.circuit.clocked import STEP
from memprop.report.figures import SPICE, TWIN, _figure, _save

Floats = NDArray[np.float64]


class Waves(Protocol):
    """Waveforms of one presentation."""

    @property
    def time(self) -> Floats:
        """In s, ``[P]``."""
        ...

    @property
    def spikes(self) -> Floats:
        """``[neurons, P]``, 0 to 1."""
        ...


def eqspike_check(
    path: Path, rates: tuple[Floats, Floats], pairs: tuple[Floats, Floats, Floats], shown: Waves | None
) -> Path:
    """Draw rate over current, the update over the delay of a pair of spikes with its closed form, and the spikes of one sample."""
    figure, axes = _figure(1, 3, (12.0, 3.6))
    left, middle, right = axes[0]
    left.plot(rates[0], np.clip(rates[0], 0.0, 1.0), color="0.6", label="hard sigmoid")
    left.plot(*rates, "o", color=SPICE, markersize=3, label="SPICE")
    left.set(xlabel="current / reset current", ylabel="share of time in a spike", title="Spike rate")
    delays, found, closed = pairs
    fine = np.argsort(delays)
    middle.plot(1e6 * delays[fine], 1e3 * closed[fine], color=TWIN, label="closed form, short spikes")
    middle.plot(1e6 * delays, 1e3 * found, "o", color=SPICE, markersize=3, label="accumulator in SPICE")
    middle.axhline(0.0, color="0.6", linewidth=0.8)
    middle.set(xlabel="delay of the second spike (us)", ylabel="accumulator (mV)", title="Update of one pair of spikes")
    if shown is not None:
        for k, wave in enumerate(shown.spikes):
            right.fill_between(1e6 * shown.time, k, k + 0.8 * wave, color=SPICE, linewidth=0)
        right.set(xlabel="time (us)", ylabel="neuron, outputs last", title="Spikes while learning")
    for axis in (left, middle):
        axis.grid(visible=True, alpha=0.25)
    left.legend(frameon=False)
    middle.legend(frameon=False, loc="lower left", bbox_to_anchor=(0.0, 0.3), fontsize="small")
    return _save(figure, path)


def biograd_check(path: Path, found: xr.Dataset, network: BioGradNetwork, updates: Floats) -> Path:
    """Draw somata, eligibilities and dendrites of hidden neurons in one sample, and updates ``[formula or measured, synapses]``."""
    figure, axes = _figure(2, 2, (10.0, 6.2))
    (soma, eligible), (dendrite, scatter) = axes
    steps = found["time"].values / STEP
    near = (network.threshold - network.near, network.threshold + network.near)
    soma.axhspan(*near, color="0.9", label="near the threshold")
    soma.axhline(network.threshold, color="0.6", linewidth=0.8)
    for node in network.layer_nodes("soma", 1)[:3]:
        soma.plot(steps, found[node].values, linewidth=0.8)
    soma.legend(frameon=False, loc="lower right")
    for row in network.eligibilities(0)[:4]:
        eligible.plot(steps, found[row[0]].values)
    for node in network.dendrites()[: network.sizes[1]]:
        dendrite.plot(steps, found[node].values)
    scatter.plot(*updates, "o", color=SPICE, markersize=3)
    ends = (float(updates.min()), float(updates.max()))
    scatter.plot(ends, ends, color=TWIN, linewidth=0.8, label="equal")
    scatter.legend(frameon=False)
    soma.set(xlabel="step", ylabel="soma (V)", title="Three hidden neurons")
    eligible.set(xlabel="step", ylabel="eligibility (V)", title="Four synapses of the first one")
    dendrite.set(xlabel="step", ylabel="dendrite (V)", title="All hidden neurons")
    scatter.set(xlabel="formula", ylabel="dendrite x eligibility in SPICE", title="Updates of all synapses and samples")
    for axis in axes.flat:
        axis.grid(visible=True, alpha=0.25)
    return _save(figure, path)


def learning_curves(path: Path, curves: Mapping[str, Sequence[Sequence[float]]]) -> Path:
    """Draw the error on samples held out over the epochs: per rule the mean over seeds, and from the least to the most."""
    figure, axes = _figure(size=(7.0, 4.2))
    axis = axes[0, 0]
    for k, (name, seeds) in enumerate(curves.items()):
        errors = np.maximum(100 * (1 - np.array([list(seed) for seed in seeds])), 0.1)  # no error has no logarithm
        epochs = np.arange(1, errors.shape[1] + 1)
        axis.plot(epochs, errors.mean(0), color=f"C{k}", label=name)
        axis.fill_between(epochs, errors.min(0), errors.max(0), color=f"C{k}", alpha=0.15, linewidth=0)
    axis.set(xlabel="epoch", ylabel="error on samples held out (%)", title="Learning curves", yscale="log")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.grid(visible=True, which="both", alpha=0.25)
    axis.yaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
    for formatter in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
        formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.legend(frameon=False)
    return _save(figure, path)
