"""Recordings: waveforms of one simulation as an xarray Dataset, made only from output that passed every check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from memprop.deck.deck import Deck
from memprop.errors import MissingNode, NoOutput, NotFinite, StoppedEarly

Array = NDArray[np.float64]
Recording = xr.Dataset
"""Variables ``<node>`` in V and ``i(<branch>)`` in A over the coordinate ``time`` in s."""


def make_recording(
    deck: Deck, variables: Sequence[str], values: Array, names: Mapping[str, str], engine: str, folder: Path | None
) -> Recording:
    """Return the recording of ``deck`` from raw columns.

    ``variables`` names the columns of ``values`` ``[points, variables]``; ``names`` gives the name there of signals that are not
    called as in ngspice's raw files, e.g. ``v(a)`` and ``i(v1)``.

    Raises
    ------
    NoOutput: no time axis or no point.
    MissingNode: a node or branch that was asked for is not there.
    NotFinite: a value is NaN or infinite.
    StoppedEarly: the last time point is before the asked stop time.
    """
    index = {name: k for k, name in enumerate(variables)}
    if "time" not in index or not len(values):
        raise NoOutput(deck.title, "the output holds no time point.", folder)
    wanted = {node: (f"v({node.lower()})", "V") for node in deck.nodes}
    wanted |= {f"i({branch})": (f"i({branch.lower()})", "A") for branch in deck.branches}
    places = [index.get(names.get(raw, raw), -1) for raw, _ in wanted.values()]
    missing = [name for name, place in zip(wanted, places, strict=True) if place < 0]
    if missing:
        raise MissingNode(
            deck.title,
            f"{len(missing)} of {len(wanted)} asked signals are not in the output, first {missing[0]}.",
            folder,
        )
    rows = np.ascontiguousarray(values.T[[index["time"], *places]])
    _check_values(deck, ["time", *wanted], rows, folder)
    signals = {
        name: xr.Variable(("time",), row, {"units": unit}, fastpath=True)
        for (name, (_, unit)), row in zip(wanted.items(), rows[1:], strict=True)
    }
    attributes = {"deck": deck.title, "deck_sha256": deck.digest, "engine": engine}
    return _dataset(signals, xr.Dataset(coords={"time": ("time", rows[0], {"units": "s"})}, attrs=attributes))


def _dataset(signals: dict[str, xr.Variable], empty: xr.Dataset) -> Recording:
    """Return ``empty`` with ``signals``, all of which have its coordinate.

    xarray's constructor compares each variable with all others, which takes as long for a few hundred signals as reading the
    file ten times; what it builds in the end is built at once here, where this version of xarray can.
    """
    try:
        return xr.Dataset._construct_direct(
            {**empty.variables, **signals}, set(empty.coords), dict(empty.sizes), empty.attrs, dict(empty.xindexes)
        )
    except (AttributeError, TypeError):
        return empty.assign(signals)


def _check_values(deck: Deck, names: Sequence[str], rows: Array, folder: Path | None) -> None:
    """Refuse ``rows`` ``[names, points]``, the first of which is the time, if they are not finite or do not reach the end."""
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        k = int(np.argmin(finite))
        count = int((~np.isfinite(rows[k])).sum())
        raise NotFinite(deck.title, f"{names[k]} is not finite in {count} points.", folder)
    stop, time = deck.analysis.stop, rows[0]
    if abs(float(time[-1]) - stop) > 1e-6 * stop:
        raise StoppedEarly(deck.title, f"the last time point is {float(time[-1])!r} s, asked were {stop!r} s.", folder)
    if (np.diff(time) < 0).any():
        raise StoppedEarly(deck.title, "time runs backwards in the output: it holds more than one run.", folder)
