"""Figures of cells and of fitted twins: runs, and one page that says how far a twin can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memprop.report.device_figures import SPICE, TWIN, _figure, _save

Floats = NDArray[np.float64]


def draw_runs(path: Path, title: str, time: Floats, current: Floats, mem: Floats, labels: Sequence[str]) -> Path:
    """Draw a few runs, current above membrane. ``time`` in s, ``[T]``; ``current`` in A and ``mem`` in V, ``[runs, T]``."""
    figure, axes = _figure(2, len(labels), (2.9 * len(labels), 4.4), title)
    factor, unit = engineering(time, "s")
    for k, label in enumerate(labels):
        axes[0, k].plot(factor * time, 1e6 * current[k], color=TWIN, linewidth=1.0)
        axes[1, k].plot(factor * time, 1e3 * mem[k], color=SPICE, linewidth=1.0)
        axes[0, k].set_title(label)
        axes[1, k].set_xlabel(f"time ({unit})")
    axes[0, 0].set_ylabel("current (uA)")
    axes[1, 0].set_ylabel("membrane (mV)")
    return _save(figure, path)


def engineering(values: Floats, unit: str) -> tuple[float, str]:
    """Return the factor and the prefixed unit in which the largest of ``values`` is a number from 1 to 1000."""
    largest = float(np.abs(values).max(initial=0.0)) or 1.0
    power = int(np.clip(np.floor(np.log10(largest) / 3), -5, 2))
    return 10.0 ** (-3 * power), {-5: "f", -4: "p", -3: "n", -2: "u", -1: "m", 0: "", 1: "k", 2: "M"}[power] + unit
