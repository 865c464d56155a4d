"""Recordings: waveforms of one simulation as an xarray Dataset, made only from output that passed every check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from memprop.deck.deck import Deck, SmallSignal, Sweep
from memprop.errors import MissingNode, NoOutput, NotFinite, StoppedEarly

Array = NDArray[np.float64]
Recording = xr.Dataset
"""Variables ``<node>`` in V and ``i(<branch>)`` in A over the coordinate ``time`` in s; of other analyses over ``sweep`` in V or
``frequency`` in Hz."""


def make_recording(
    deck: Deck, variables: Sequence[str], values: Array, names: Mapping[str, str], engine: str, folder: Path | None
) -> Recording:
    """Return the recording of ``deck`` from raw columns.

    ``variables`` names the columns of ``values`` ``[points, variables]``; ``names`` gives the name there of signals that are not
    called as in ngspice's raw files, e.g. ``v(a)`` and ``i(v1)``.

    Raises
    ------
    NoOutput: no axis or no point.
    MissingNode: a node or branch that was asked for is not there.
    NotFinite: a value is NaN or infinite.
    StoppedEarly: the last time point is before the asked stop time.
    """
    index = {name: k for k, name in enumerate(variables)}
    axis = _axis(deck)
    if axis.raw not in index or not len(values):
        raise NoOutput(deck.title, f"the output holds no {axis.name} point.", folder)
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
    rows = np.ascontiguousarray(values.T[[index[axis.raw], *places]].real)
    _check_values(deck, [axis.name, *wanted], rows, folder)
    signals = {
        name: xr.Variable((axis.name,), row, {"units": unit}, fastpath=True)
        for (name, (_, unit)), row in zip(wanted.items(), rows[1:], strict=True)
    }
    attributes = {"deck": deck.title, "deck_sha256": deck.digest, "engine": engine}
    coordinate = (axis.name, rows[0], {"units": axis.unit})
    return _dataset(signals, xr.Dataset(coords={axis.name: coordinate}, attrs=attributes))


@dataclass(frozen=True, slots=True)
class _Axis:
    """What the signals of an analysis run over."""

    name: str
    raw: str
    """Its name in ngspice's raw files."""
    unit: str
    stop: float
    """Its last value."""


def _axis(deck: Deck) -> _Axis:
    analysis = deck.analysis
    if isinstance(analysis, Sweep):
        return _Axis("sweep", "v(v-sweep)", "V", analysis.points - 1.0)
    if isinstance(analysis, SmallSignal):
        return _Axis("frequency", "frequency", "Hz", analysis.frequency)
    return _Axis("time", "time", "s", analysis.stop)


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
    """Refuse ``rows`` ``[names, points]``, the first of which is the axis, if they are not finite or do not reach the end."""
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        k = int(np.argmin(finite))
        count = int((~np.isfinite(rows[k])).sum())
        raise NotFinite(deck.title, f"{names[k]} is not finite in {count} points.", folder)
    axis, along = _axis(deck), rows[0]
    if abs(float(along[-1]) - axis.stop) > 1e-6 * axis.stop:
        raise StoppedEarly(
            deck.title,
            f"the last {axis.name} point is {float(along[-1])!r} {axis.unit}, asked were {axis.stop!r} {axis.unit}.",
            folder,
        )
    if (np.diff(along) < 0).any():
        raise StoppedEarly(deck.title, f"{axis.name} runs backwards in the output: it holds more than one run.", folder)
    if isinstance(deck.analysis, Sweep) and len(along) != deck.analysis.points:
        reason = f"the output holds {len(along)} of {deck.analysis.points} points of the sweep."
        raise StoppedEarly(deck.title, reason, folder)
