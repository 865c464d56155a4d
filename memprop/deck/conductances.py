"""Read conductances back from the text of the tiles: the inverse of writing them, to the last bit."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from memprop.circuit.elaborate import TILE
from memprop.conductance.pair import Array
from memprop.deck.numbers import from_text
from memprop.errors import InputError

_TILE = re.compile(r"\.subckt\s+tile_(\w+)_r(\d+)_c(\d+)\s", re.IGNORECASE)
_PAIR = re.compile(r"xr(\d+)_c(\d+)\s.*?((?:\s+\w+=\S+)+)\s*$", re.IGNORECASE)


def read_conductances(text: str, shapes: Mapping[str, tuple[int, int]], file: str) -> dict[str, tuple[Array, Array]]:
    """Return ``{projection: (g_plus, g_minus)}`` in S from the text of ``conductances.inc``.

    ``shapes`` gives the ``[row, column]`` shape of each projection, by name.

    Raises
    ------
    InputError: a tile is unknown, a pair is missing, there twice or outside of its crossbar, or a value is no plain number; the
    message names file and line.
    """
    pairs = {name: (np.full(shape, np.nan), np.full(shape, np.nan)) for name, shape in shapes.items()}
    tile: tuple[str, int, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{file}, line {number}"
        if head := _TILE.match(line):
            tile = (head[1].lower(), int(head[2]) * TILE, int(head[3]) * TILE)
            if tile[0] not in pairs:
                raise InputError(f"{where}: tile of an unknown projection '{tile[0]}'. Known: {', '.join(pairs)}.")
        elif line.lower().startswith(".ends"):
            tile = None
        elif tile and (pair := _PAIR.match(line)):
            _take(pairs[tile[0]], tile[1] + int(pair[1]), tile[2] + int(pair[2]), pair[3], where)
    for name, (plus, minus) in pairs.items():
        missing = np.isnan(plus) | np.isnan(minus)
        if missing.any():
            row, column = (int(k) for k in np.argwhere(missing)[0])
            raise InputError(
                f"{file}: {int(missing.sum())} pairs of {name} are missing, first row {row}, column {column}. Export again."
            )
    return pairs


def _take(pair: tuple[Array, Array], row: int, column: int, assignments: str, where: str) -> None:
    values = {name.lower(): text for name, text in (word.split("=", 1) for word in assignments.split())}
    shape = pair[0].shape
    if row >= shape[0] or column >= shape[1] or not np.isnan(pair[0][row, column]):
        raise InputError(f"{where}: pair at row {row}, column {column} is outside of {shape} or there twice.")
    for target, name in zip(pair, ("gp", "gm"), strict=True):
        if name not in values:
            raise InputError(f"{where}: pair has no {name}=. Write its conductance in S.")
        try:
            target[row, column] = from_text(values[name])
        except InputError as error:
            raise InputError(f"{where}: {name}: {error}") from error
