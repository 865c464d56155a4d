"""Device models in decks: the behavioural file of a device, and its Verilog-A for engines that load it compiled."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TypeGuard

from memprop.circuit.cell import Cell, load_model, model_home
from memprop.deck.deck import ModelForm, VerilogModel
from memprop.device.library import DeviceModel
from memprop.errors import InputError


def verilog_model(device: DeviceModel, file: str) -> VerilogModel:
    """Return what an engine needs to put the compiled ``device`` in the place of the behavioural file ``file``."""
    forms = tuple(ModelForm(form.name, dict(form.defaults), dict(form.fixed)) for form in device.forms.values())
    equations = device.equations
    return VerilogModel(file, device.name, device.text, equations.ports, equations.nodes, forms)


def model_file(name: str) -> str:
    """Return the file of a deck that holds the model ``name`` of a card, ``x.lib`` or ``x.va``."""
    return f"models/{Path(name).stem}.lib"


def model_text(name: str, home: Path | None = None) -> str:
    """Return the behavioural subcircuits of a model file: made from the Verilog-A in ``home``, or a ``.lib`` there, or shipped.

    Raises
    ------
    InputError: no such file, it cannot be read, or the name leaves the folder of the models.
    VerilogError: the Verilog-A is outside of the subset.
    """
    where = model_home(name, home)
    if not _is_library(where):
        return _library(load_model(name, home))
    try:
        return where.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"device model {where} cannot be read ({error}). Check that it is UTF-8 text.") from error


def _is_library(where: Path | None) -> TypeGuard[Path]:
    """Return whether a model has behavioural subcircuits only, which are then taken as they are."""
    return where is not None and where.suffix != ".va"


@lru_cache(maxsize=64)
def _library(device: DeviceModel) -> str:
    """Return ``device.library()``, made once: every image of a test set has a deck of its own."""
    return device.library()


def cell_models(cells: Iterable[Cell]) -> tuple[dict[str, str], tuple[VerilogModel, ...]]:
    """Return the behavioural files that cells need, by name in the deck, and the models among them that are Verilog-A.

    Raises
    ------
    InputError: two cells bring different models of one name.
    """
    files: dict[str, str] = {}
    verilog: dict[str, VerilogModel] = {}
    cells = list(cells)
    for cell in cells:
        for name in cell.card.models:
            file, text = model_file(name), model_text(name, cell.home)
            if files.setdefault(file, text) != text:
                raise InputError(f"cells bring two different models '{file}'. Rename one of them.")
            if file not in verilog and not _is_library(model_home(name, cell.home)):
                verilog[file] = verilog_model(load_model(name, cell.home), file)
    names = {form.name.lower() for model in verilog.values() for form in model.forms}
    for cell in cells:
        if cell.name in names:
            raise InputError(f"cell '{cell.name}' has the name of a device model's subcircuit. Rename the cell.")
    return files, tuple(verilog.values())
