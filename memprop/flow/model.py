"""What `memprop model` does: read Verilog-A, say what was understood, write the behavioural subcircuits."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from memprop.device.library import DeviceModel, load_device
from memprop.device.verilog_a.check import states
from memprop.errors import EngineError, InputError, SimulationError
from memprop.files import write_atomic
from memprop.spice.osdi import compile_verilog


def translate_models(paths: list[Path], console: Console, *, check: bool, compiled: bool) -> bool:
    """Describe each model and write ``<name>.lib`` beside it; with ``check`` only compare. Return whether all is well.

    Raises
    ------
    InputError, VerilogError: a file cannot be read or is outside of the subset.
    OutputError: the subcircuits cannot be written.
    """
    fine = True
    for path in paths:
        if path.suffix != ".va":
            raise InputError(
                f"{path} is no Verilog-A file: its name must end with .va. Give e.g. models/mss_memristor.va."
            )
        device = load_device(path)
        console.print(_table(device), _forms(device))
        for note in device.equations.notes:
            console.print(f"[yellow]{note.kind}[/] {escape(note.text)}", highlight=False, soft_wrap=True)
        if compiled:
            fine &= _compile(device, console)
        fine &= _library(device, path.with_suffix(".lib"), console, check=check)
    return fine


def _table(device: DeviceModel) -> Table:
    equations = device.equations
    inner = ", ".join(states(equations)) or "none"
    title = f"{device.name} ({equations.file}): ports {' '.join(equations.ports)}; states {inner}"
    table = Table("parameter", "default", "unit", "range", "meaning", title=title, title_justify="left")
    for name, p in device.parameters.items():
        table.add_row(
            name, f"{p.default:g}", p.unit, p.range_text().removeprefix("finite, ").removesuffix(p.unit), p.description
        )
    return table


def _forms(device: DeviceModel) -> Table:
    table = Table("subcircuit", "open parameters", "about")
    for form in device.forms.values():
        table.add_row(form.name, str(len(form.defaults)), _short(form.about))
    return table


def _short(text: str, width: int = 70) -> str:
    return text if len(text) <= width else text[: text.rfind(" ", 0, width)] + " ..."


def _compile(device: DeviceModel, console: Console) -> bool:
    try:
        compile_verilog(device.text, device.name)
    except (EngineError, SimulationError) as error:
        console.print(f"[red]not compiled[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        return False
    console.print("compiled with openvaf-r")
    return True


def _library(device: DeviceModel, path: Path, console: Console, *, check: bool) -> bool:
    text = device.library()
    if check:
        same = path.is_file() and path.read_text(encoding="utf-8") == text
        wrong = "differs from what its Verilog-A makes" if path.is_file() else "is missing"
        console.print(f"{path}: {'up to date' if same else f'{wrong}; run memprop model without --check'}")
        return same
    write_atomic(path, text)
    console.print(f"wrote {path}: {len(device.forms)} subcircuits")
    return True
