"""What is measured of memprop itself, and what is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from memprop.cli.app import app, console


@app.command(rich_help_panel="memprop itself")
def bench(
    parts: Annotated[list[str] | None, typer.Argument(help="twin, training, spice, crossbar; default all.")] = None,
    full: Annotated[bool, typer.Option("--full", help="All sizes: an hour or two instead of minutes.")] = False,
    size: Annotated[str, typer.Option(help="tiny, bench or full; tiny only shows that all works.")] = "bench",
    out: Annotated[
        Path | None, typer.Option(help="Folder of rows and figures; default runs/bench, of tiny ones runs/bench-tiny.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Measure again what is there already.")] = False,
    bundle: Annotated[
        Path | None, typer.Option(help="Network of the part spice; default random weights as large as trained ones.")
    ] = None,
    osdi_ngspice: Annotated[
        Path | None, typer.Option(help="An ngspice with OSDI, measured beside the usual one.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of torch and of the kernels; default one per core.")
    ] = None,
) -> None:
    """Measure kernels, trainings, simulators and solvers as ratios taken in one run. Finished rows are kept."""
    from memprop.flow.bench.run import BenchSettings  # noqa: PLC0415
    from memprop.flow.bench.run import bench as run  # noqa: PLC0415

    settings = BenchSettings(tuple(parts or ()), "full" if full else size, again, bundle, osdi_ngspice, threads)
    run(settings, out or Path("runs") / ("bench-tiny" if settings.size == "tiny" else "bench"), console)


@app.command(rich_help_panel="memprop itself")
def bench_readme(
    out: Annotated[Path, typer.Option(help="Folder that `memprop bench` wrote.")] = Path("runs/bench"),
    readme: Annotated[Path, typer.Option(help="File with the marks between which the table goes.")] = Path("README.md"),
) -> None:
    """Write the table of speeds into README, and rows and figures into docs/ beside it."""
    from memprop.flow.bench.readme import publish  # noqa: PLC0415

    console.print(f"table written into {readme} from {publish(out, readme)}", soft_wrap=True, markup=False)


@app.command(rich_help_panel="memprop itself")
def doctor() -> None:
    """Say what is installed, what each engine can do, what is missing and how to get it; exit status 1 if something is needed."""
    from memprop.flow.doctor import examine  # noqa: PLC0415

    table, fine = Table("what", "", "detail", title="memprop doctor", title_justify="left"), True
    for finding in examine():
        table.add_row(finding.what, "ok" if finding.good else "MISSING" if finding.needed else "-", finding.detail)
        fine &= finding.good or not finding.needed
    console.print(table)
    if not fine:
        raise typer.Exit(1)
