"""Checkpoints: tensors in safetensors, everything else as JSON in its header. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from memprop.errors import CheckpointError
from memprop.files import sha256, write_atomic

FORMAT = "memprop-checkpoint-1"


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically: a kill at any moment leaves the earlier one whole."""
    text = json.dumps(notes, sort_keys=True)
    header = {"format": FORMAT, "notes": text, "sha256": _digest(tensors, text)}
    write_atomic(path, save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, metadata=header))


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and notes of a checkpoint.

    Raises
    ------
    CheckpointError: the file is missing, cut short, or not one of memprop's.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} is not there. Check the path, or train first.")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged ({error}). Delete it and train again, or take an earlier copy."
        ) from error
    if header.get("format") != FORMAT:
        raise CheckpointError(
            f"{path} is a safetensors file, but no memprop checkpoint (format {header.get('format')!r}, not {FORMAT!r})."
        )
    try:
        if header["sha256"] != _digest(tensors, header["notes"]):
            raise ValueError("its values are not those that were written")
        notes = json.loads(header["notes"])
        if not isinstance(notes, dict) or not notes:
            raise ValueError("its notes are empty")
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged ({error!r}). Delete it and train again, or take an earlier copy."
        ) from error
    return tensors, notes


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the state of an optimizer as tensors of a checkpoint, ``optimizer.<parameter>.<name>``."""
    states = optimizer.state_dict()["state"]
    return {f"optimizer.{index}.{name}": value for index, state in states.items() for name, value in state.items()}


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimizer the state that `optimizer_tensors` took.

    Raises
    ------
    ValueError, KeyError, RuntimeError: the state is not of such an optimizer.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _digest(tensors: Mapping[str, Tensor], notes: str) -> str:
    """Return a hash over notes, names and values: a flipped bit in a weight is a valid weight, and nothing else would notice."""
    parts = [
        name.encode() + tensor.detach().contiguous().cpu().numpy().tobytes() for name, tensor in sorted(tensors.items())
    ]
    return sha256(b"".join([notes.encode(), *parts]))


def check_same(path: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise CheckpointError when the checkpoint belongs to a training with other settings; name the first that differs."""
    expected = json.loads(json.dumps(expected))
    for key in sorted({*found, *expected}):
        if found.get(key) != expected.get(key):
            raise CheckpointError(
                f"checkpoint {path} belongs to another training: {key} is {found.get(key)!r} there and {expected.get(key)!r} here. "
                "Use another run folder, or the settings of the checkpoint."
            )
