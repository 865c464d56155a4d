"""Train a twin from settings, in a run folder that can be interrupted and resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from memprop.circuit.cell import find_cell
from memprop.data.sets import Images
from memprop.errors import CheckpointError
from memprop.files import ensure_folder
from memprop.flow.settings import TRAINING, TRUST, RunSettings, load_settings, save_settings
from memprop.flow.trust import TrustRegion
from memprop.learn.bptt import fit
from memprop.learn.checkpoint import load_checkpoint
from memprop.learn.training import History, Progress
from memprop.learn.trust import Trust
from memprop.twin.network import Twin
from memprop.twin.place import torch_device


def make_twin(settings: RunSettings, data: Images) -> Twin:
    """Return the untrained twin of these settings."""
    sizes = (data.rows, *settings.hidden, data.classes)
    cell, seed = find_cell(settings.cell), settings.learning.seed
    return Twin(sizes, settings.encoder, dt=settings.dt, cell=cell, seed=seed, wires=settings.wires)


def train(
    settings: RunSettings,
    data: Images,
    folder: Path,
    on_step: Callable[[Progress], None] = lambda progress: None,  # noqa: ARG005
    trust: Trust | None = None,
    device: str = "cpu",
) -> tuple[Twin, History]:
    """Train, or go on with the training in ``folder``, and return the twin with its best weights, on the CPU.

    Raises
    ------
    InputError: torch has no such device.
    CheckpointError: the folder holds a training with other settings.
    """
    ensure_folder(folder)
    if not (folder / TRAINING).exists():
        save_settings(folder, settings)  # before the training, so that an interrupted one can be exported
    twin = make_twin(settings, data).to(torch_device(device))
    history = fit(twin, data, settings.learning, checkpoint=folder / TRAINING, on_step=on_step, trust=trust)
    save_settings(folder, settings)
    return twin.cpu().eval(), history


def load_trained(folder: Path, data_of: Callable[[str], Images]) -> tuple[RunSettings, Images, Twin]:
    """Return settings, data and the best twin of a run folder.

    Raises
    ------
    CheckpointError: the folder is no run, or its checkpoint is damaged or does not fit the settings.
    """
    settings = load_settings(folder)
    data = data_of(settings.dataset)
    twin = make_twin(settings, data)
    tensors, notes = load_checkpoint(folder / TRAINING)
    if settings.fit is not None:
        TrustRegion(folder / TRUST).install(twin, len(notes.get("history", {}).get("refits", [])))
    best = {name.removeprefix("best."): value for name, value in tensors.items() if name.startswith("best.")}
    expected = {name: value.shape for name, value in twin.named_parameters()}
    if {name: value.shape for name, value in best.items()} != expected:
        raise CheckpointError(f"checkpoint in {folder} does not hold the crossbars of its settings. Train again.")
    with torch.no_grad():
        twin.load_state_dict(best, strict=False)
    return settings, data, twin.eval()
