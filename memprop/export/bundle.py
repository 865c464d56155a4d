"""Bundles: a trained network as netlists a designer can run without memprop, and back."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from memprop.circuit.cell import Cell, CellCard, TextSubCircuit, load_cell, outer_blocks
from memprop.circuit.elaborate import Elaborated, Form, elaborate, forms_of
from memprop.circuit.network import Network, Population, Projection
from memprop.circuit.stimulus import Stimulus
from memprop.circuit.wires import Wires
from memprop.conductance.pair import Array, ConductanceRange
from memprop.data.encode import AlphaEncoder
from memprop.deck.conductances import read_conductances
from memprop.deck.deck import Deck
from memprop.deck.models import cell_models, model_file, model_text
from memprop.deck.ngspice import cells_of, make_deck, section_text
from memprop.errors import BundleError, InputError
from memprop.export.manifest import (
    FORMAT,
    MANIFEST,
    Check,
    EncoderRecord,
    Manifest,
    PopulationRecord,
    ProjectionRecord,
    Testbench,
    WiresRecord,
    check_files,
    read_manifest,
)
from memprop.export.readme import readme_text
from memprop.export.scan import scan_cells
from memprop.export.testbench import make_checks, testbench_text
from memprop.files import ensure_folder, sha256, shipped, write_atomic, write_json

T = TypeVar("T")

CONDUCTANCES = "conductances.inc"
RMS_LIMIT = 0.1e-3
"""Allowed rms deviation of a replayed waveform, in V."""
PEAK_LIMIT = 2e-3
"""Allowed deviation of a replayed waveform at any time, in V; spikes rise by tens of mV per us."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image that goes into the bundle, with what ngspice said of it in one form."""

    index: int
    """Index in the test set."""
    label: int
    stimulus: Stimulus
    form: Form
    time: Array
    """Time in s, ``[points]``."""
    outputs: Mapping[str, Array]
    """Output membranes in V by node name, ``[points]``."""
    rails: Mapping[str, Array]
    """Currents in A by supply source, ``[points]``."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a bundle comes from."""

    dataset: str
    seed: int
    dt: float
    max_step: float
    classes: int
    versions: Mapping[str, str]
    measured: Mapping[str, Any]


def write_bundle(
    folder: Path, network: Network, encoder: AlphaEncoder, images: Sequence[StoredImage], provenance: Provenance
) -> Manifest:
    """Write the bundle of ``network`` into ``folder``; files of an earlier bundle there are replaced.

    Raises
    ------
    InputError: no image is given, or one in a form that the bundle does not hold.
    OutputError: the folder cannot be written.
    BundleError: the folder holds something that is no bundle.
    """
    if not images:
        raise InputError("a bundle needs at least one stored image for its testbench. Give one.")
    for image in images:
        if image.form not in forms_of(network):
            raise InputError(
                f"image {image.index} was simulated in the {image.form} form; the bundle of {network.name} holds "
                f"{' and '.join(forms_of(network))}. Simulate it in one of these."
            )
    check_target(folder)
    files = _netlists(network, images[0].stimulus)
    testbenches = []
    for image in images:
        more, testbench = _testbench(network, image, provenance.max_step)
        files |= more
        testbenches.append(testbench)
    files["README.md"] = readme_text(network, testbenches, provenance.measured, provenance.versions)
    manifest = _manifest(
        network, encoder, testbenches, provenance, {name: sha256(text) for name, text in sorted(files.items())}
    )
    _replace(folder, files, manifest)
    return manifest


def check_target(folder: Path) -> None:
    """Make the folder of a bundle.

    Raises
    ------
    OutputError: it cannot be written.
    BundleError: it holds something that is no bundle.
    """
    ensure_folder(folder)
    if any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise BundleError(
            f"folder {folder} is not empty and no bundle. Give an empty folder, or the one of an earlier bundle."
        )


def _replace(folder: Path, files: Mapping[str, str], manifest: Manifest) -> None:
    """Write all files beside the earlier bundle first, so that a full disk leaves it whole; then put them in its place."""
    staging = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        for name, text in files.items():
            write_atomic(staging / name, text)
        # Wires are left out where there are none, so that earlier versions read the bundle.
        write_json(staging / MANIFEST, manifest.model_dump(exclude=None if manifest.wires else {"wires"}))
        # Figures and summary of the earlier bundle go too: they would speak of another network.
        for name in ("models", "expected", "figures"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for path in (*folder.glob("*.inc"), *folder.glob("testbench_*"), *folder.glob("summary.json")):
            path.unlink()
        for path in sorted(staging.iterdir()):
            path.replace(folder / path.name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _netlists(network: Network, stimulus: Stimulus) -> dict[str, str]:
    """Return the files all testbenches share, by name."""
    files: dict[str, str] = {}
    for form in forms_of(network):
        circuit = elaborate(network, form, stimulus)
        files |= cell_models(cells_of(circuit))[0] | _sources(cells_of(circuit))
        files |= {s.file: section_text(s) for s in circuit.sections if not s.file.startswith("image_")}
    return files


def _sources(cells: Sequence[Cell]) -> dict[str, str]:
    """Return the Verilog-A of the cells' devices and the cards beside it, by name in the bundle."""
    files: dict[str, str] = {}
    for cell in cells:
        for name, device in cell.devices().items():
            stem = model_file(name).removesuffix(".lib")
            files |= {f"{stem}.va": device.text} | ({f"{stem}.toml": device.card_text} if device.card_text else {})
    return files


def _testbench(network: Network, image: StoredImage, max_step: float) -> tuple[dict[str, str], Testbench]:
    """Return the files of one testbench, and its record."""
    circuit = elaborate(network, image.form, image.stimulus)
    deck = make_deck(circuit, max_step, image.stimulus.wave.duration, energy=False)
    stem = f"{image.form}_{image.index}"
    included, own = _include(deck, stem)
    checks = make_checks(image.time, dict(image.outputs), dict(image.rails))
    table = f"expected/{stem}.csv"
    files = {
        **own,
        table: _csv_text(image),
        f"testbench_{stem}.cir": testbench_text(deck, included, checks, f"{stem}.raw", list(image.outputs)),
    }
    return files, _record(network, circuit, image, stem, table, checks)


def _include(deck: Deck, stem: str) -> tuple[list[str], dict[str, str]]:
    """Return the names to include, and the image file under its own name."""
    names, own = [], {}
    for name, text in deck.files.items():
        if name.startswith("image_"):
            own[f"image_{stem}.inc"] = text
            names.append(f"image_{stem}.inc")
        else:
            names.append(name)
    return names, own


def _record(
    network: Network, circuit: Elaborated, image: StoredImage, stem: str, table: str, checks: list[Check]
) -> Testbench:
    nodes = circuit.membranes()[network.output.name]
    means = [
        np.trapezoid(image.outputs[node], image.time) / image.time[-1] - network.output.rest[j]
        for j, node in enumerate(nodes)
    ]
    return Testbench(
        file=f"testbench_{stem}.cir", form=image.form, image=image.index, label=image.label, answer=int(np.argmax(means)),
        waveforms=table, rms_limit=RMS_LIMIT, peak_limit=PEAK_LIMIT, checks=checks,
    )  # fmt: skip


def _csv_text(image: StoredImage) -> str:
    """Return time in s and output membranes in V as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["time_s", *(f"{node}_v" for node in image.outputs)])
    for row in np.column_stack([image.time, *image.outputs.values()]):
        writer.writerow([f"{value:.9g}" for value in row])
    return text.getvalue()


def _manifest(
    network: Network, encoder: AlphaEncoder, testbenches: list[Testbench], provenance: Provenance, files: dict[str, str]
) -> Manifest:
    populations = [
        PopulationRecord(name=p.name, size=p.size, cell=_record_of(p.cell), rest=list(p.rest),
                         gain=_numbers(list, p.gain), offset=_numbers(list, p.offset),
                         parameters={name: np.asarray(value).tolist() for name, value in p.parameters.items()})
        for p in network.populations
    ]  # fmt: skip
    projections = [
        ProjectionRecord(pre=p.pre, post=p.post, rows=p.g_plus.shape[0], columns=p.g_plus.shape[1])
        for p in network.projections
    ]
    return Manifest(
        format=FORMAT, name=network.name, memprop_version=provenance.versions["memprop"], inputs=network.inputs,
        classes=provenance.classes, g_min=network.window.g_min, g_max=network.window.g_max, dt=provenance.dt,
        max_step=provenance.max_step, dataset=provenance.dataset, seed=provenance.seed,
        encoder=EncoderRecord(**{**asdict(encoder), "onsets": list(encoder.onsets)}), synapse=network.pair.card,
        populations=populations, projections=projections, testbenches=testbenches, versions=dict(provenance.versions),
        measured=dict(provenance.measured), files=files,
        wires=None if network.wires is None else WiresRecord(**asdict(network.wires)),
    )  # fmt: skip


def load_bundle(folder: Path | str, *, edited: bool = False) -> tuple[Network, AlphaEncoder, Manifest]:
    """Return network, encoder and manifest of a bundle; with ``edited``, without comparing the hashes.

    Raises
    ------
    BundleError: it is incomplete, damaged or edited.
    InputError: its conductances cannot be read or are out of range.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if not edited:
        check_files(folder, manifest)
    _check_models(folder, manifest)
    scan_cells(folder, "cells.inc")
    cells = _cells(_text(folder, "cells.inc"), folder)
    shapes = {f"{p.pre}_{p.post}": (p.rows, p.columns) for p in manifest.projections}
    text = _text(folder, CONDUCTANCES)
    pairs = read_conductances(text, shapes, str(folder / CONDUCTANCES))
    populations = tuple(
        Population(p.name, p.size, _cell(cells, p.cell.name, p.cell, folder),
                   {name: np.asarray(v) if isinstance(v, list) else v for name, v in p.parameters.items()}, tuple(p.rest),
                   _numbers(tuple, p.gain), _numbers(tuple, p.offset))
        for p in manifest.populations
    )  # fmt: skip
    network = Network(
        manifest.name,
        manifest.inputs,
        populations,
        tuple(Projection(p.pre, p.post, *pairs[f"{p.pre}_{p.post}"]) for p in manifest.projections),
        ConductanceRange(manifest.g_min, manifest.g_max),
        _cell(cells, manifest.synapse.name, manifest.synapse, folder),
        wires=None if manifest.wires is None else Wires(manifest.wires.row, manifest.wires.column),
    )
    record = manifest.encoder.model_dump()
    return network, AlphaEncoder(**{**record, "onsets": tuple(record["onsets"])}), manifest


def _numbers(kind: Callable[[Iterable[float]], T], values: Iterable[float] | None) -> T | None:
    return None if values is None else kind(values)


def _check_models(folder: Path, manifest: Manifest) -> None:
    """Raise BundleError when decks made from the bundle would use other device models than the bundle itself."""
    cards = [manifest.synapse, *(population.cell for population in manifest.populations)]
    for name in dict.fromkeys(model for card in cards for model in card.models):
        file = model_file(name)
        scan_cells(folder, file)  # a generated file too: it holds free text of a stranger's card
        if _text(folder, file) != model_text(name, folder / "models"):
            raise BundleError(
                f"bundle {folder}: {file} is not what this memprop makes of the Verilog-A beside it. Replay works; to simulate, "
                f"use the version {manifest.memprop_version} that wrote it, or export again."
            )


def _text(folder: Path, name: str) -> str:
    try:
        return (folder / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(
            f"bundle {folder}: file '{name}' cannot be read ({error}). Restore it, or export again."
        ) from error


def _cells(text: str, folder: Path) -> dict[str, TextSubCircuit]:
    """Return the subcircuits of ``cells.inc`` by name."""
    cells = [TextSubCircuit(block, str(folder / "cells.inc")) for block in outer_blocks(text)]
    return {str(cell.name).lower(): cell for cell in cells}


def _record_of(cell: Cell) -> CellCard:
    """Return the card that a manifest keeps; a shipped cell finds its corners again, and earlier versions know none."""
    known = load_cell(cell.name).card if (shipped("circuits") / cell.name).is_dir() else None
    return cell.card.without_corners() if cell.card == known else cell.card


def _cell(cells: Mapping[str, TextSubCircuit], name: str, card: Any, folder: Path) -> Cell:
    if name not in cells:
        raise BundleError(f"bundle {folder}: cells.inc has no subcircuit '{name}'. Export the bundle again.")
    known = load_cell(name) if (shipped("circuits") / name).is_dir() else None
    # A cell equal to the shipped one keeps the comments of its file, so that write-back gives the same bytes.
    if (
        known is not None
        and known.card.without_corners() == card.without_corners()
        and _code(known.text) == _code(str(cells[name]))
    ):
        models = [model_file(model) for model in card.models]
        if all(_text(folder, file) == model_text(file, known.home) for file in models):
            return known
    return Cell(card, cells[name], folder / "models")


def _code(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("*")]
