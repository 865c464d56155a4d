"""The twin of a population: of the cell's equations where it has them, else the learned one in the cell's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from numpy.typing import ArrayLike

from memprop.circuit.cell import Cell, as_cell
from memprop.errors import InputError
from memprop.twin.cell import CellTwin
from memprop.twin.fitted import Fitted
from memprop.twin.learned.files import ABOUT, load_model
from memprop.twin.learned.twin import LearnedModel, LearnedTwin

PopulationTwin = CellTwin | LearnedTwin
FOLDER = "twin"
"""Of a learned twin, in the folder of its cell."""


def learned_home(cell: Cell) -> Path | None:
    """Return the folder of the cell's learned twin, None where it has none."""
    home = cell.home / FOLDER if cell.home else None
    return home if home is not None and (home / ABOUT).is_file() else None


def make_cell_twin(
    size: int,
    dt: float,
    cell: Cell | str = "mif",
    parameters: Mapping[str, ArrayLike] | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    kernel: str = "auto",
    fit: Fitted | LearnedModel | None = None,
    **options: Any,
) -> PopulationTwin:
    """Return the twin of ``size`` cells at a step of ``dt`` s, from equations, or the learned one in ``<cell>/twin``.

    ``fit`` is what the equations are corrected by, or a learned twin that takes their place; ``options`` are ``reference``,
    ``gain`` and ``offset`` of `CellTwin`.

    Raises
    ------
    InputError: the cell has neither, its learned twin belongs to another netlist, or a parameter cannot be used.
    """
    cell = as_cell(cell, "neuron", "mif")
    if isinstance(fit, LearnedModel):
        model = fit
    elif fit is None and (home := learned_home(cell)) is not None:
        model = load_model(home)
    else:
        return CellTwin(size, dt, cell=cell, parameters=parameters, dtype=dtype, kernel=kernel, fitted=fit, **options)
    if kernel == "fused":
        raise InputError(f"cell {cell.name} has a learned twin, which has no fused kernel. Use kernel='auto'.")
    return LearnedTwin(size, dt, model=model, cell=cell, parameters=parameters, dtype=dtype, **options)
