"""Recording of one image -> the few numbers that are kept, in the worker that simulated it. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memprop.circuit.cell import RAILS
from memprop.circuit.elaborate import Elaborated, Load
from memprop.conductance.pair import Array
from memprop.spice.recording import Recording

VERSION = 2
"""Part of the key of kept results: raise it when this file computes something else."""
WAVEFORMS = ("membranes", "time", "outputs", "rails")
"""Arrays that are kept of the first images only."""
GROUPS = ("crossbars", "neurons")
"""Groups of meters, in the order of the array ``energies``."""


@dataclass(frozen=True, slots=True)
class ImageReduction:
    """Reduces a recording of a network; one object serves all images.

    The arrays: ``means`` above rest in V, ``[classes]``; ``energies`` in J, ``[2]``, of crossbars and neurons; ``lowest`` and
    ``highest`` membrane in V, ``[populations]``. With ``waveforms`` also ``membranes`` in V at the multiples of ``dt``,
    ``[steps + 1, neurons]``, ``time`` in s, ``[points]``, and at these points ``outputs`` in V and ``rails`` in A.
    """

    membranes: tuple[tuple[str, ...], ...]
    """Membrane nodes of each population; the last one is the output."""
    rest: tuple[float, ...]
    """Resting membranes of the output in V."""
    meters: tuple[tuple[str, str, str, float], ...]
    """Group, node, branch and sign of each source."""
    dt: float
    steps: int
    waveforms: bool = True
    loads: tuple[tuple[int, Load], ...] = ()
    """Populations whose rows deliver power that no meter reads, by number."""

    def __call__(self, recording: Recording) -> dict[str, NDArray[Any]]:
        """Return the arrays of ``recording``."""
        moments = recording["time"].values
        populations = [_columns(recording, nodes) for nodes in self.membranes]
        outputs = populations[-1]
        found = {
            "means": np.trapezoid(outputs, moments, axis=0) / moments[-1] - np.array(self.rest),
            "energies": self._energies(recording, moments, populations),
            "lowest": np.array([waves.min() for waves in populations]),
            "highest": np.array([waves.max() for waves in populations]),
        }
        if self.waveforms:
            rails = _columns(recording, [f"i({name})" for name in rail_sources()])
            found |= {
                "membranes": on_grid(
                    recording, [n for nodes in self.membranes for n in nodes], np.arange(self.steps + 1.0) * self.dt
                ),
                "time": moments,
                "outputs": outputs,
                "rails": rails,
            }
        return found

    def _energies(self, recording: Recording, moments: Array, populations: Sequence[Array]) -> Array:
        """Return the energies of the groups in J: the trapezoid rule over the power of all meters at once."""
        voltages = _columns(recording, [node for _, node, _, _ in self.meters])
        currents = _columns(recording, [f"i({branch})" for _, _, branch, _ in self.meters])
        steps = np.diff(moments, prepend=moments[0], append=moments[-1])
        weights = (steps[:-1] + steps[1:]) / 2
        each = np.einsum("t,tm,tm->m", weights, voltages, currents) * np.array([sign for *_, sign in self.meters])
        groups = np.array([group for group, *_ in self.meters])
        energies = np.array([each[groups == group].sum() for group in GROUPS])
        energies[GROUPS.index("crossbars")] += sum(weights @ load.power(populations[k]) for k, load in self.loads)
        return energies


def on_grid(recording: Recording, names: Sequence[str], grid: Array) -> NDArray[np.float32]:
    """Return variables at the moments of ``grid`` in s, ``[moments, names]``; straight lines would be off by millivolts where one bends."""
    from scipy.interpolate import PchipInterpolator  # noqa: PLC0415 - half a second that few images need

    moments = recording["time"].values
    first = np.append(True, np.diff(moments) > 0)
    waves = _columns(recording, names)[first]
    return PchipInterpolator(moments[first], waves, axis=0)(np.clip(grid, moments[0], moments[-1])).astype(np.float32)


def _columns(recording: Recording, names: Sequence[str]) -> Array:
    """Return variables side by side, ``[points, names]``. Not through ``recording[name]``, which costs 0.1 ms each."""
    variables = recording.variables
    return np.stack([variables[name].values for name in names], axis=1)


def image_reduction(circuit: Elaborated, dt: float, steps: int) -> ImageReduction:
    """Return the reduction of a network's recordings; ``dt`` in s and ``steps`` are those of the twin."""
    meters = tuple((meter.group, meter.node, meter.branch, meter.sign) for meter in circuit.meters)
    nodes = tuple(tuple(names) for names in circuit.membranes().values())
    names = list(circuit.membranes())
    loads = tuple((names.index(load.population), load) for load in circuit.loads)
    return ImageReduction(nodes, tuple(circuit.network.output.rest), meters, dt, steps, loads=loads)


def rail_sources() -> list[str]:
    """Return the names of the supply sources, the same in every network."""
    return [f"v_{rail}" for rail in RAILS]
