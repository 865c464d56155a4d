"""The application that all commands belong to, and the options that several of them share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    help="Train memristive spiking networks as circuits: netlist to gradient to netlist, confirmed by ngspice.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
console = Console()

Bundle = Annotated[Path, typer.Argument(help="Folder of a bundle, e.g. netlists/digits_mif.")]
EngineName = Annotated[str, typer.Option(help="ngspice, ngspice-shared, ngspice-osdi or vacask; see `memprop doctor`.")]
Workers = Annotated[int | None, typer.Option(help="Simulations at a time; default one per core.", min=1)]
Images = Annotated[int, typer.Option(help="Test images to simulate in SPICE.", min=1)]
Timeout = Annotated[float, typer.Option(help="Seconds allowed per simulation.", min=1.0)]
