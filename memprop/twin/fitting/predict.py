"""What any twin of a cell says about the currents of waveforms."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memprop.errors import InputError
from memprop.twin.fitting.waveforms import CellWaveforms

Floats = NDArray[np.float64]
_CHUNK = 8_000_000
"""Largest number of neurons x steps of one call, so that memory stays small."""


class TwinOfCells(Protocol):
    """A twin as networks use it, e.g. `CellTwin` or a learned one."""

    size: int
    dt: float

    def trace(self, current: Tensor) -> Tensor:
        """Return the membrane in V, ``[T + 1, B, N]``, from rest, under currents in A of that shape."""
        ...


def sampled(waveforms: CellWaveforms, dt: float) -> tuple[Floats, Floats]:
    """Return currents in A and membranes in V at the multiples of ``dt``, each ``[run, T + 1]``.

    Raises
    ------
    InputError: ``dt`` does not divide the runs.
    """
    stop = float(waveforms.time[-1])
    count = round(stop / dt) if 0 < dt < np.inf else 0
    if count < 2 or abs(count * dt - stop) > 1e-6 * stop:
        raise InputError(f"time step {dt!r} s does not divide the runs of {stop!r} s. Choose one that does.")
    grid = np.linspace(0.0, stop, count + 1)
    current = np.stack([np.interp(grid, waveforms.time, row) for row in waveforms.current])
    return current, on_grid(waveforms.time, waveforms.mem, grid)


def on_grid(time: Floats, values: Floats, grid: Floats) -> Floats:
    """Return rows ``[run, T]`` at other times; those of ``time`` are kept as they are."""
    ratio = (len(time) - 1) / (len(grid) - 1)
    if ratio == round(ratio):
        return values[:, :: round(ratio)]
    from scipy.interpolate import PchipInterpolator  # noqa: PLC0415 - half a second that is seldom needed

    return PchipInterpolator(time, values, axis=1)(np.clip(grid, time[0], time[-1]))


@torch.no_grad()
def predict(twin: TwinOfCells, current: Floats) -> Floats:
    """Return the membranes in V that ``twin`` has from rest under currents in A at its time points, both ``[run, T + 1]``.

    A twin of one cell takes all runs; else run k is that of its cell k.

    Raises
    ------
    InputError: the twin has neither one cell nor one per run.
    """
    runs, points = current.shape
    if twin.size not in (1, runs):
        raise InputError(f"twin of {twin.size} cells under {runs} runs: needs one cell, or one per run.")
    like = next(iter(twin.buffers()), None) if isinstance(twin, torch.nn.Module) else None
    dtype = torch.float64 if like is None or not like.is_floating_point() else like.dtype
    drive = torch.as_tensor(current.T, dtype=dtype)
    if twin.size > 1:
        return twin.trace(drive[:, None, :])[:, 0].double().numpy().T
    width = max(1, _CHUNK // points)
    parts = [twin.trace(drive[:, k : k + width, None])[..., 0].double().numpy().T for k in range(0, runs, width)]
    return np.concatenate(parts)
