"""Replay a bundle in plain ngspice and compare with what it promises."""

from __future__ import annotations

import csv
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from memprop.circuit.elaborate import FORMS
from memprop.conductance.pair import Array
from memprop.errors import BundleError, InputError, NoOutput, SimulationError
from memprop.export.manifest import Manifest, Testbench, check_files, read_manifest
from memprop.export.scan import scan


class Batch(Protocol):
    """Runs ``folder/main`` in the simulator's batch mode and returns its log; the shape of the engine's own method."""

    def __call__(self, folder: Path, main: str, timeout_s: float, *, title: str) -> Any:
        """Return an object with ``status`` and ``log``."""
        ...


class ReadWaveforms(Protocol):
    """Reads a raw file: node voltages by name, and time."""

    def __call__(self, path: Path, title: str) -> dict[str, Array]:
        """Return columns by raw-file name."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check of a replay."""

    testbench: str
    check: str
    passed: bool
    found: float
    expected: float
    limit: float
    unit: str


def replay(
    folder: Path,
    batch: Batch,
    read: ReadWaveforms,
    *,
    forms: tuple[str, ...] = FORMS,
    edited: bool = False,
    timeout_s: float = 1800.0,
    on_bench: Callable[[str], None] = lambda file: None,  # noqa: ARG005
) -> list[Verdict]:
    """Run the testbenches of the bundle in a copy of its folder and return one verdict per check and waveform.

    ``on_bench`` is told the name of each testbench before it runs.

    Raises
    ------
    BundleError: the bundle is incomplete, edited (unless ``edited``), or holds commands that no circuit needs.
    InputError: no testbench of these forms.
    SimulationError: the simulator failed.
    """
    manifest = read_manifest(folder)
    if not edited:
        check_files(folder, manifest)
    benches = [bench for bench in manifest.testbenches if bench.form in forms]
    if not benches:
        raise InputError(f"bundle {folder} has no testbench of form {' or '.join(forms)}.")
    for name in (name for bench in benches for name in (bench.file, bench.waveforms)):
        if name not in manifest.files:
            raise BundleError(
                f"bundle {folder}: '{name}' is outside of the files of its manifest. Do not use this bundle."
            )
    verdicts: list[Verdict] = []
    copy = Path(tempfile.mkdtemp(prefix="memprop-replay-"))
    keep = False
    try:
        _copy(folder, copy, manifest)
        for bench in benches:
            scan(copy, bench.file)
            on_bench(bench.file)
            verdicts += _run(copy, bench, batch, read, timeout_s)
    except SimulationError:
        keep = True  # the error names it
        raise
    finally:
        if not keep:
            shutil.rmtree(copy, ignore_errors=True)
    return verdicts


def _copy(folder: Path, copy: Path, manifest: Manifest) -> None:
    """Copy the files of the manifest, so that a read-only bundle can be replayed and stays as it is."""
    for name in manifest.files:
        target = copy / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(folder / name, target)
        except OSError as error:
            raise BundleError(
                f"bundle {folder}: file '{name}' cannot be read ({error.strerror}). Restore it."
            ) from error


def _run(copy: Path, bench: Testbench, batch: Batch, read: ReadWaveforms, timeout_s: float) -> list[Verdict]:
    log = str(batch(copy, bench.file, timeout_s, title=bench.file).log)
    lines = {line.strip() for line in log.splitlines()}
    measured = _measured(log)
    verdicts = []
    for check in bench.checks:
        # Both verdicts count, the testbench's own and ours; a measurement that failed prints neither word.
        found = measured.get(check.name, float("nan"))
        passed = f"PASS {check.name}" in lines and abs(found - check.expected) <= 1.001 * check.limit
        verdicts.append(Verdict(bench.file, check.name, passed, found, check.expected, check.limit, check.unit))
    return verdicts + _waveforms(copy, bench, read, log)


def _measured(log: str) -> dict[str, float]:
    """Return the values that ``meas`` printed, lines like ``name = 1.2e-3 from= ...``."""
    values = {}
    for line in log.splitlines():
        name, equal, rest = line.partition("=")
        if equal and rest.split():
            try:
                values[name.strip()] = float(rest.split()[0])
            except ValueError:
                continue
    return values


def _waveforms(copy: Path, bench: Testbench, read: ReadWaveforms, log: str) -> list[Verdict]:
    raw = copy / bench.file.replace("testbench_", "").replace(".cir", ".raw")
    if not raw.is_file():
        last = [line for line in log.splitlines() if line.strip()][-1:]
        raise NoOutput(bench.file, f"no waveforms were written: {' '.join(last)}.")
    columns = read(raw, bench.file)
    names, table = _expected(copy / bench.waveforms)
    deviations = []
    for k, name in enumerate(names[1:], 1):
        if f"v({name})" not in columns:
            raise NoOutput(bench.file, f"node {name} is not among the waveforms.")
        deviations.append(np.interp(table[:, 0], columns["time"], columns[f"v({name})"]) - table[:, k])
    error = np.stack(deviations)
    rms, peak = float(np.sqrt((error**2).mean())), float(np.abs(error).max())
    return [
        Verdict(bench.file, "waveforms_rms", rms <= bench.rms_limit, rms, 0.0, bench.rms_limit, "V"),
        Verdict(bench.file, "waveforms_peak", peak <= bench.peak_limit, peak, 0.0, bench.peak_limit, "V"),
    ]


def _expected(path: Path) -> tuple[list[str], Array]:
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        names = ["time", *(name.removesuffix("_v") for name in rows[0][1:])]
        table = np.array(rows[1:], dtype=np.float64)
        if table.ndim != 2 or table.shape[1] != len(names) or len(names) < 2:
            raise ValueError(f"a table of {table.shape} under {len(names)} names")
        return names, table
    except (OSError, ValueError, IndexError) as error:
        raise BundleError(f"{path.name} holds no waveforms ({error}). Export the bundle again.") from error
