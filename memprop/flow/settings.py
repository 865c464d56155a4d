"""Settings of one run of the loop, kept beside its results so that every later command finds them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from memprop.circuit.network import check_name
from memprop.circuit.wires import Wires
from memprop.data.encode import AlphaEncoder
from memprop.errors import CheckpointError, InputError
from memprop.files import write_json
from memprop.learn.bptt import BPTTConfig
from memprop.twin.cell import DT

SETTINGS = "settings.json"
TRAINING = "training.safetensors"
TRUST = "trust"
"""Folder in a run of the fits that its twin had."""


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What is trained on what, and how.

    Raises
    ------
    InputError: a value makes no sense; see also `BPTTConfig` and `AlphaEncoder`.
    """

    name: str
    dataset: str
    hidden: tuple[int, ...]
    """Neurons of each hidden population."""
    cell: str = "mif"
    """Neuron cell: the name of a shipped one, or the path of a folder with cell.cir and cell.toml."""
    dt: float = DT
    """Time step of the twin, in s."""
    spice_images: int = 300
    """Test images that are simulated in SPICE when nothing else is asked."""
    encoder: AlphaEncoder = field(default_factory=AlphaEncoder)
    learning: BPTTConfig = field(default_factory=BPTTConfig)
    wires: Wires | None = None
    """Resistance of the wires of all crossbars; None: ideal wires."""
    fit: str | None = None
    """Where the fit of the cell came from that the twin begins with; None: it has the card's parameters."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if not all(isinstance(n, int) and 1 <= n <= 100_000 for n in self.hidden):
            raise InputError(f"hidden = {self.hidden}: each population needs 1 to 100000 neurons.")
        self.encoder.steps(self.dt)


_LARGE = BPTTConfig(25, rate_input=1.2e-7, rate_hidden=6e-7, dt=0.5e-6, patience=25)
PRESETS: dict[str, RunSettings] = {
    "mnist": RunSettings("mnist_mif", "mnist", (100,), learning=BPTTConfig(dt=0.5e-6)),
    "fashion": RunSettings("fashion_mif", "fashion", (100,), learning=BPTTConfig(dt=0.5e-6)),
    "digits": RunSettings(
        "digits_mif",
        "digits",
        (32,),
        spice_images=359,
        learning=BPTTConfig(
            epochs=32,
            batch=64,
            rate_input=1e-6,
            rate_hidden=1.5e-6,
            decay=3e-3,
            dt=1e-6,
            temperature=10e-3,
            shift=0,
            validation=138,
            patience=15,
        ),
    ),
    "mnist-large": RunSettings("mnist_mif_256", "mnist", (256,), learning=_LARGE),
    # Clothes do not move in their frames, and shifted ones only make the network underfit.
    "fashion-large": RunSettings("fashion_mif_256", "fashion", (256,), learning=replace(_LARGE, shift=0)),
}
"""Settings that ``memprop train <name>`` starts from; what is large takes smaller steps, and more of them."""


def save_settings(folder: Path, settings: RunSettings) -> None:
    """Write the settings into the run folder."""
    write_json(folder / SETTINGS, asdict(settings))


def load_settings(folder: Path) -> RunSettings:
    """Return the settings of a run folder.

    Raises
    ------
    CheckpointError: the folder is no run, or its settings are damaged.
    """
    path = folder / SETTINGS
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        encoder, learning = content.pop("encoder"), content.pop("learning")
        hidden, wires = tuple(content.pop("hidden")), content.pop("wires", None)
        encoder["onsets"] = tuple(encoder["onsets"])
        return RunSettings(
            **content,
            hidden=hidden,
            encoder=AlphaEncoder(**encoder),
            learning=BPTTConfig(**learning),
            wires=None if wires is None else Wires(**wires),
        )
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} is no run: {SETTINGS} is not there. Give the folder that `memprop train` wrote."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}). Train again into another folder.") from error


def parse_wires(text: str) -> Wires:
    """Return the wires of one resistance per segment in Ohm, or of two with a comma between: rows, columns.

    Raises
    ------
    InputError: it is neither.
    """
    try:
        values = [float(word) for word in text.split(",")]
        row, column = values * 2 if len(values) == 1 else values
    except ValueError as error:
        raise InputError(
            f"wire resistance '{text}': needs Ohm per segment as one number, or two for rows and columns, e.g. 2.5 or 1,2.5."
        ) from error
    return Wires(row, column)
