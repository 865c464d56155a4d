"""Proofs that take minutes: the goals of the project on real data. Run by `make test-slow`."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from memprop.flow.commands import replay_bundle, train_loop, verify_bundle
from memprop.flow.settings import PRESETS

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _all_cores() -> None:
    torch.set_num_threads(2)


def loop(name: str, folder: Path, images: int, full: int) -> dict[str, Any]:
    return train_loop(
        PRESETS[name], folder / "run", folder / "bundle", Console(file=io.StringIO()),
        images=images, full_images=full, engine_name="ngspice", workers=None, timeout_s=1800.0,
    )  # fmt: skip


def test_digits_are_read_by_the_circuit(tmp_path: Path) -> None:
    summary = loop("digits", tmp_path, images=359, full=2)
    assert summary["spice_failed"] == 0
    assert summary["spice_images"] == 359
    assert summary["spice_accuracy"] >= 0.96
    assert summary["agreement"] >= 0.99
    assert summary["waveform_rms_v"] <= 1e-3
    assert summary["waveform_peak_v"] <= 5e-3
    assert replay_bundle(tmp_path / "bundle", Console(file=io.StringIO()), form="both", edited=False, timeout_s=600.0)
    assert verify_bundle(tmp_path / "bundle", Console(file=io.StringIO()), conductances=12)


def test_mnist_is_read_by_the_circuit(tmp_path: Path) -> None:
    summary = loop("mnist", tmp_path, images=200, full=2)
    assert summary["twin_images"] == 10_000
    assert summary["twin_accuracy"] >= 0.976
    assert summary["spice_failed"] == 0
    assert abs(summary["spice_accuracy"] - summary["twin_accuracy_same_images"]) <= 0.005
    assert summary["agreement"] >= 0.99
    assert summary["waveform_rms_v"] <= 1e-3
    assert summary["waveform_peak_v"] <= 5e-3
    assert summary["full_against_reduced_peak_v"] <= 0.1e-3
    assert sum(summary["seconds"].values()) < 30 * 60


def test_another_seed_learns_as_well(tmp_path: Path) -> None:
    base = PRESETS["digits"]
    settings = replace(base, name="other_seed", learning=replace(base.learning, seed=7))
    summary = train_loop(
        settings, tmp_path / "run", tmp_path / "bundle", Console(file=io.StringIO()),
        images=60, full_images=0, engine_name="ngspice-shared", workers=2, timeout_s=600.0,
    )  # fmt: skip
    assert summary["twin_accuracy"] >= 0.95
    assert summary["agreement"] >= 0.98
