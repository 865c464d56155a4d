"""Recordings: waveforms of one simulation as an xarray Dataset, made only from output that passed every check."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from memprop.deck.deck import Deck
from memprop.errors import MissingNode, NoOutput, NotFinite, StoppedEarly

Recording = xr.Dataset
"""Variables ``<node>`` in V and ``i(<branch>)`` in A over the coordinate ``time`` in s."""


def make_recording(
    deck: Deck, column: Callable[[str], NDArray[np.float64] | None], engine: str, folder: Path | None
) -> Recording:
    """Return the recording of ``deck`` from raw columns; ``column(name)`` gives one by raw-file name, or None.

    Raises
    ------
    NoOutput: no time axis or no point.
    MissingNode: a node or branch that was asked for is not there.
    NotFinite: a value is NaN or infinite.
    StoppedEarly: the last time point is before the asked stop time.
    """
    time = column("time")
    if time is None or not len(time):
        raise NoOutput(deck.title, "the output holds no time point.", folder)
    wanted = {node: (f"v({node.lower()})", "V") for node in deck.nodes}
    wanted |= {f"i({branch})": (f"i({branch.lower()})", "A") for branch in deck.branches}
    found = {name: column(raw) for name, (raw, _) in wanted.items()}
    missing = [name for name, values in found.items() if values is None]
    if missing:
        raise MissingNode(
            deck.title,
            f"{len(missing)} of {len(wanted)} asked signals are not in the output, first {missing[0]}.",
            folder,
        )
    _check_values(deck, time, found, folder)
    variables = {name: ("time", values, {"units": wanted[name][1]}) for name, values in found.items()}
    attributes = {"deck": deck.title, "deck_sha256": deck.digest, "engine": engine}
    return xr.Dataset(variables, coords={"time": ("time", time, {"units": "s"})}, attrs=attributes)


def _check_values(
    deck: Deck, time: NDArray[np.float64], found: dict[str, NDArray[np.float64] | None], folder: Path | None
) -> None:
    for name, values in {"time": time, **found}.items():
        if not np.isfinite(values).all():  # pyright: ignore[reportArgumentType]
            raise NotFinite(deck.title, f"{name} is not finite in {int((~np.isfinite(values)).sum())} points.", folder)  # pyright: ignore
    stop = deck.analysis.stop
    if abs(float(time[-1]) - stop) > 1e-6 * stop:
        raise StoppedEarly(deck.title, f"the last time point is {float(time[-1])!r} s, asked were {stop!r} s.", folder)
    if (np.diff(time) < 0).any():
        raise StoppedEarly(deck.title, "time runs backwards in the output: it holds more than one run.", folder)
