"""Read conductances back from the text of the tiles: the inverse of writing them, to the last bit.

A pair is one line: ``gr0_c1 0 col1 rp0 0 {gp-gm}`` in the full form, ``xr0_c1 rp0 rn0 col1 rram_pair gp=... gm=...`` in the naive
one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from memprop.circuit.section import TILE
from memprop.conductance.pair import Array
from memprop.deck.numbers import from_text
from memprop.errors import InputError

_TILE = re.compile(r"\.subckt\s+tile_(\w+)_r(\d+)_c(\d+)\s", re.IGNORECASE)
_PAIR = re.compile(r"xr(\d+)_c(\d+)\s.*?((?:\s+\w+=\S+)+)\s*$", re.IGNORECASE)
_SOURCE = re.compile(r"gr(\d+)_c(\d+)\s(.*)$", re.IGNORECASE)
_DIFFERENCE = re.compile(r"\{\s*(\S+?)(?<!e)\s*-\s*([^\s{}]+)\s*\}\s*$", re.IGNORECASE)


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
            _take(pairs[tile[0]], tile[1] + int(pair[1]), tile[2] + int(pair[2]), _assigned(pair[3]), where)
        elif tile and (pair := _SOURCE.match(line)):
            _take(pairs[tile[0]], tile[1] + int(pair[1]), tile[2] + int(pair[2]), _difference(pair[3], where), where)
    for name, (plus, minus) in pairs.items():
        missing = np.isnan(plus) | np.isnan(minus)
        if missing.any():
            row, column = (int(k) for k in np.argwhere(missing)[0])
            raise InputError(
                f"{file}: {int(missing.sum())} pairs of {name} are missing, first row {row}, column {column}. Export again."
            )
    return pairs


def _assigned(text: str) -> dict[str, str]:
    return {name.lower(): value for name, value in (word.split("=", 1) for word in text.split())}


def _difference(text: str, where: str) -> dict[str, str]:
    """Return ``gp`` and ``gm`` of ``... {gp-gm}``."""
    match = _DIFFERENCE.search(text)
    if match is None:
        raise InputError(
            f"{where}: '{text[-40:]}' does not end in both conductances of the pair. Write {{gp-gm}} in S, e.g. {{2e-6-1e-6}}."
        )
    return {"gp": match[1], "gm": match[2]}


def _take(pair: tuple[Array, Array], row: int, column: int, values: dict[str, str], where: str) -> None:
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
