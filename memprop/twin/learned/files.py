"""Learned twins on disk: weights as safetensors, all else as JSON. Nothing in them is run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save

from memprop.errors import InputError
from memprop.files import ensure_folder, write_atomic
from memprop.twin.learned.core import Weights
from memprop.twin.learned.twin import LearnedModel

FORMAT = 1
WEIGHTS, ABOUT = "model.safetensors", "model.json"
_PAIRS = ("steps", "current", "membrane")
_ROWS = ("rest", "span")


def save_weights(weights: Weights, path: Path) -> None:
    """Write weights as they are, in their precision.

    Raises
    ------
    OutputError: they cannot be written.
    """
    write_atomic(path, save({k: v.detach().cpu().contiguous() for k, v in weights._asdict().items()}))


def load_weights(path: Path) -> Weights:
    """Return weights of `save_weights`.

    Raises
    ------
    InputError: they cannot be read.
    """
    try:
        return Weights(**load(path.read_bytes()))
    except (OSError, SafetensorError, TypeError) as error:
        raise InputError(
            f"weights {path} cannot be read ({type(error).__name__}: {error}). Delete the file; that part of the training is done again."
        ) from error


def save_model(model: LearnedModel, folder: Path) -> None:
    """Write the model's two files; equal models give equal bytes.

    Raises
    ------
    OutputError: they cannot be written.
    """
    about = {
        "format": FORMAT, "cell": model.cell, "cell_sha256": model.cell_sha256, "states": list(model.states),
        **{name: list(getattr(model, name)) for name in (*_ROWS, *_PAIRS)}, "errors": dict(model.errors),
    }  # fmt: skip
    ensure_folder(folder)
    save_weights(Weights(*(w.float() for w in model.weights)), folder / WEIGHTS)
    write_atomic(folder / ABOUT, json.dumps(about, indent=2) + "\n")


def load_model(folder: Path) -> LearnedModel:
    """Return the model in ``folder``.

    Raises
    ------
    InputError: a file is missing, damaged or of another format.
    """
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        tensors = load((folder / WEIGHTS).read_bytes())
        return _model(about, tensors)
    except FileNotFoundError as error:
        raise InputError(
            f"learned twin {folder}: {Path(error.filename).name} is missing. Learn it: memprop fit-cell --learned."
        ) from error
    except (
        OSError,
        UnicodeDecodeError,
        json.JSONDecodeError,
        SafetensorError,
        KeyError,
        TypeError,
        ValueError,
    ) as error:
        raise InputError(
            f"learned twin {folder} cannot be read ({type(error).__name__}: {error}). Learn it again: memprop fit-cell --learned."
        ) from error


def _model(about: dict[str, Any], tensors: dict[str, Any]) -> LearnedModel:
    if about["format"] != FORMAT:
        raise ValueError(f"format {about['format']!r} is not {FORMAT}")
    weights = Weights(**tensors)
    states, hidden = len(about["states"]), len(weights.first_bias)
    shapes = ((states + 1, hidden), (hidden,), (hidden, hidden), (hidden,), (hidden, 2 * states), (states,), (states,))
    numbers = {name: tuple(float(x) for x in about[name]) for name in (*_ROWS, *_PAIRS)}
    lengths = [len(numbers[name]) for name in (*_ROWS, *_PAIRS)]
    if tuple(tuple(w.shape) for w in weights) != shapes or lengths != [states] * 2 + [2] * 3:
        raise ValueError("weights and numbers do not fit the states")
    finite = all(bool(w.isfinite().all()) for w in weights) and all(
        math.isfinite(x) for row in numbers.values() for x in row
    )
    if not finite or min(numbers["span"]) <= 0 or min(numbers["steps"]) <= 0:
        raise ValueError("a weight or number is not finite, or a span or step not positive")
    return LearnedModel(
        str(about["cell"]), str(about["cell_sha256"]), tuple(map(str, about["states"])), numbers["rest"], numbers["span"],
        _pair(numbers["steps"]), _pair(numbers["current"]), _pair(numbers["membrane"]), weights,
        {str(k): float(v) for k, v in about["errors"].items()},
    )  # fmt: skip


def _pair(values: tuple[float, ...]) -> tuple[float, float]:
    return values[0], values[1]
