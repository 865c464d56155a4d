"""Which few stimuli determine the parameters of a cell: the rank and the size of what each says, by the twin alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memprop.circuit.cell import Cell
from memprop.errors import InputError
from memprop.twin.fitting.grey_box import slopes_of
from memprop.twin.fitting.waveforms import make_waveforms

Floats = NDArray[np.float64]
_FAINT = 1e-6
"""Information in place of none, per squared relative change, so that a start without full rank can be compared."""


@dataclass(frozen=True, slots=True)
class Design:
    """A handful of stimuli, best first."""

    chosen: tuple[int, ...]
    """Numbers of the stimuli among the candidates."""
    free: tuple[str, ...]
    errors: Floats
    """Relative standard errors with the first k + 1 stimuli, worst of the draws, ``[K, P]``; inf where the rank is not full."""
    ranks: tuple[int, ...]
    """Rank of the Jacobian with the first k + 1 stimuli, least of the draws."""


def design_stimuli(
    cell: Cell, free: Sequence[str], time: Floats, currents: Floats, count: int, dt: float, *,
    noise: float = 1e-3, spread: float = 0.3, draws: int = 6, seed: int = 0,
) -> Design:  # fmt: skip
    """Choose ``count`` of the ``currents`` in A, ``[candidates, T + 1]`` at ``time`` in s, that determine parameters best.

    Each is added so that the determinant of the information grows most (D-optimal), on the mean over the nominal cell and random
    ones of relative standard deviation ``spread``. ``noise`` in V is that of a measured point.

    Raises
    ------
    InputError: there are fewer candidates than asked, or see `fit_parameters`.
    """
    if not 1 <= count <= len(currents):
        raise InputError(f"{count} stimuli are asked of {len(currents)} candidates. Ask for 1 to {len(currents)}.")
    free = tuple(free)
    width = np.sqrt(np.log1p(spread**2))
    factors = np.exp(width * np.random.default_rng(seed).normal(size=(draws, len(free))))
    factors[0] = 1.0
    information = _information(cell, free, time, currents, dt, factors) / noise**2
    chosen: list[int] = []
    total = np.zeros((draws, len(free), len(free)))
    errors, ranks = [], []
    for _ in range(count):
        left = [k for k in range(len(currents)) if k not in chosen]
        sizes = [np.linalg.slogdet(total + information[:, k] + _FAINT * np.eye(len(free)))[1].mean() for k in left]
        chosen.append(left[int(np.argmax(sizes))])
        total = total + information[:, chosen[-1]]
        rank = min(int(np.linalg.matrix_rank(m, tol=1e-10 * np.linalg.norm(m, 2), hermitian=True)) for m in total)
        ranks.append(rank)
        full = rank == len(free)
        errors.append(
            np.sqrt(np.diagonal(np.linalg.inv(total), axis1=1, axis2=2)).max(0) if full else np.full(len(free), np.inf)
        )
    return Design(tuple(chosen), free, np.array(errors), tuple(ranks))


def _information(
    cell: Cell, free: tuple[str, ...], time: Floats, currents: Floats, dt: float, factors: Floats
) -> Floats:
    """Return the information of each candidate per V^2 of noise, about relative changes, ``[draws, candidates, P, P]``."""
    draws, count = len(factors), len(currents)
    waveforms = make_waveforms(
        cell, time, np.tile(currents, (draws, 1)), np.zeros((draws * count, len(time))), split=["fit"] * draws * count,
        stimulus=["designed"] * draws * count, instance=np.repeat(np.arange(draws), count), engine="none",
    )  # fmt: skip
    slopes = slopes_of(waveforms, cell, free, dt, factors).reshape(len(free), draws, count, -1)
    return np.einsum("pdct,qdct->dcpq", slopes, slopes, optimize=True)
