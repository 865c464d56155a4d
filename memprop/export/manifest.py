"""The manifest of a bundle: what it is, which files it has, what was measured, and what a replay must find."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import SerializerFunctionWrapHandler, ValidationError, model_serializer

from memprop.circuit.cell import CellCard
from memprop.circuit.elaborate import Form
from memprop.device.card import Strict
from memprop.errors import BundleError
from memprop.files import sha256

FORMAT = "memprop-bundle-2"
MANIFEST = "manifest.json"


class PopulationRecord(Strict):
    """A population as the manifest keeps it."""

    name: str
    size: int
    cell: CellCard
    parameters: dict[str, float | list[float]]
    rest: list[float]
    gain: list[float] | None = None
    """None, and not written: mirrors of gain 1, so that earlier versions read the bundle."""
    offset: list[float] | None = None
    """In A. None, and not written: mirrors without offset."""

    @model_serializer(mode="wrap")
    def _written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value is not None}


class ProjectionRecord(Strict):
    """A projection as the manifest keeps it; its conductances stand in ``conductances.inc``."""

    pre: str
    post: str
    rows: int
    columns: int


class EncoderRecord(Strict):
    """The encoder of the images."""

    v_peak: float
    rise: float
    onsets: list[float]
    duration: float


class WiresRecord(Strict):
    """Resistance of the wires of all crossbars, per segment."""

    row: float
    """In Ohm."""
    column: float
    """In Ohm."""


class Check(Strict):
    """One number a testbench must reproduce."""

    name: str
    """Name of the measurement in the testbench."""
    measure: str
    """ngspice measurement, after ``meas tran <name>``."""
    expected: float
    limit: float
    """Largest deviation from ``expected``."""
    unit: str


class Testbench(Strict):
    """A self-checking testbench: one stored image in one form."""

    file: str
    form: Form
    image: int
    """Index in the test set."""
    label: int
    answer: int
    """Class the circuit gives."""
    waveforms: str
    """CSV of the expected output membranes."""
    rms_limit: float
    """Largest rms deviation from the expected waveforms, in V."""
    peak_limit: float
    """Largest deviation from the expected waveforms, in V."""
    checks: list[Check]


class Manifest(Strict):
    """Everything about a bundle but the netlists themselves."""

    format: str
    name: str
    memprop_version: str
    inputs: int
    classes: int
    g_min: float
    g_max: float
    dt: float
    """Time step of the twin in s."""
    max_step: float
    """Largest time step of the simulator in s."""
    dataset: str
    seed: int
    encoder: EncoderRecord
    synapse: CellCard
    populations: list[PopulationRecord]
    projections: list[ProjectionRecord]
    testbenches: list[Testbench]
    versions: dict[str, str]
    measured: dict[str, Any]
    files: dict[str, str]
    """SHA-256 of every other file."""
    wires: WiresRecord | None = None
    """None, and not written: ideal wires."""


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of the bundle in ``folder``.

    Raises
    ------
    BundleError: it is missing, damaged, or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"{folder} is no bundle: {MANIFEST} is not there. Give the folder that `memprop export` wrote."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("format", FORMAT) if isinstance(content, dict) else FORMAT
        manifest = Manifest.model_validate(content) if found == FORMAT else None
    except (ValidationError, ValueError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        what = f"field {'.'.join(map(str, first['loc']))}: {first['msg']}" if first else str(error)
        raise BundleError(f"{path} is damaged: {what}. Export the bundle again.") from error
    if manifest is None:
        raise BundleError(f"{path} has format '{found}', this memprop reads '{FORMAT}'. Use the version that wrote it.")
    missing = {"cells.inc", "conductances.inc", "populations.inc", "wave.inc"} - set(manifest.files)
    if missing:
        raise BundleError(f"{path} is damaged: it does not list {', '.join(sorted(missing))}. Export the bundle again.")
    for name in manifest.files:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise BundleError(
                f"{folder}: the manifest names '{name}', which is outside of the bundle. Do not use this bundle."
            )
    return manifest


def check_files(folder: Path, manifest: Manifest) -> None:
    """Raise BundleError naming every file that is missing or differs from what was exported."""
    wrong = [f"{path.name} is not part of it" for path in folder.glob(".spiceinit*")]  # ngspice would run it
    for name, digest in manifest.files.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is missing")
        elif sha256(path.read_bytes()) != digest:
            wrong.append(f"{name} differs")
    if wrong:
        raise BundleError(
            f"bundle {folder} is not as exported: {', '.join(wrong)}. "
            "Restore the files, or replay with --edited to see what the edit changed."
        )
