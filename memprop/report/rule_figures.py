"""Figures of local learning rules in circuits."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

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
