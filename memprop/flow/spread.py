"""``memprop spread``: one chip of a design, drawn once and written as a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from memprop.circuit.network import Network
from memprop.circuit.spread import Chip, Drawn, Spread, corner_network, draw_chip
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import load
from memprop.errors import InputError
from memprop.export.bundle import Provenance, check_target, load_bundle
from memprop.export.manifest import Manifest
from memprop.files import write_json
from memprop.flow.commands import form_of, simulate
from memprop.flow.loop import export_bundle, first_failure, versions
from memprop.flow.simulate import ImageResult, SpiceSettings
from memprop.report.figures import spread_histograms
from memprop.spice.engine import Engine, make_engine


@dataclass(frozen=True, slots=True)
class ChipSettings:
    """What chip of a design is drawn.

    Raises
    ------
    InputError: neither a spread nor a corner is asked for.
    """

    spread: Spread
    corner: str | None = None
    """Corner in the card of the neurons' cell, around which the spread lies."""
    seed: int = 0
    """Number of the chip."""

    def __post_init__(self) -> None:
        if self.corner is None and self.spread == Spread(dict.fromkeys(self.spread.parameters, 0.0)):
            raise InputError(
                "a chip without spread and corner is the design. Give --sigma, --resistance, --corner, ..."
            )

    def __str__(self) -> str:
        """Return it in words."""
        return f"seed {self.seed}, corner {self.corner or 'none'}, relative spread: {self.spread}"


def parse_parameters(names: str, sigma: float) -> dict[str, float]:
    """Return ``{"c": 0.3, "tau": 0.3}`` of the names ``c,tau`` and the standard deviation 0.3; of 0 an empty one.

    Raises
    ------
    InputError: a standard deviation without a name.
    """
    found = [name.strip() for name in names.split(",") if name.strip()]
    if sigma and not found:
        raise InputError(f"--sigma {sigma!r} without a parameter that differs. Give --parameters, e.g. c,tau.")
    return dict.fromkeys(found, sigma) if sigma else {}


def make_chip(network: Network, settings: ChipSettings) -> Chip:
    """Return the chip of a design, at its corner.

    Raises
    ------
    InputError: see `corner_network` and `draw_chip`.
    """
    corner = corner_network(network, settings.corner) if settings.corner else network
    return draw_chip(corner, settings.spread, settings.seed)


def spread_bundle(
    bundle: Path, out: Path | None, console: Console, settings: ChipSettings, *,
    engine_name: str = "ngspice", timeout_s: float = 1800.0,
) -> Path:  # fmt: skip
    """Write a chip of the design in ``bundle`` as a bundle, whose testbenches hold what the chip does; print what was drawn.

    Raises
    ------
    BundleError: ``bundle`` is none, or ``out`` holds something else.
    InputError: the spread or the corner does not fit the cells.
    SimulationError: an image of the testbenches failed on the chip.
    """
    design, encoder, manifest = load_bundle(bundle)
    chip, name = make_chip(design, settings), f"{design.name}_chip{settings.seed}"
    folder = out or Path("netlists") / name
    check_target(folder)
    network = replace(chip.program(), name=name)
    with closing(make_engine(engine_name)) as engine:
        runs = _runs(network, encoder, manifest, engine, timeout_s, console)
        measured = {"chip": f"{settings} of {design.name}"}
        origin = Provenance(manifest.dataset, manifest.seed, manifest.dt, manifest.max_step, manifest.classes,
                            versions(engine), measured)  # fmt: skip
        export_bundle(folder, network, encoder, load(manifest.dataset), runs, origin)
    drawn = chip.table()
    varied = [part for part in drawn if not part.stuck and part.shown.std() > 0.0]
    figure = [spread_histograms(folder / "figures" / "spread.png", varied, f"{name}: {settings}")] if varied else []
    write_json(folder / "summary.json", {
        "name": name, "design": design.name, "seed": settings.seed, "corner": settings.corner,
        "spread": asdict(settings.spread), "drawn": [_statistics(part) for part in drawn],
    })  # fmt: skip
    console.print(drawn_table(drawn, f"{name}: {settings}"))
    places = [f"bundle: {folder}", *(f"figure: {path}" for path in figure)]
    console.print("   ".join(places), soft_wrap=True, markup=False)
    return folder


def _runs(
    network: Network, encoder: AlphaEncoder, manifest: Manifest, engine: Engine, timeout_s: float, console: Console
) -> list[tuple[Any, ImageResult]]:
    """Simulate the images of the design's testbenches on the chip, in the same forms."""
    runs: list[tuple[Any, ImageResult]] = []
    for form in dict.fromkeys(bench.form for bench in manifest.testbenches):
        images = [bench.image for bench in manifest.testbenches if bench.form == form]
        settings = SpiceSettings(form_of(form), manifest.max_step, manifest.dt, timeout_s=timeout_s)
        results = simulate(network, encoder, load(manifest.dataset), images, engine, settings, console)
        error = first_failure(results)
        if error is not None:
            raise error
        runs += [(form, results.done[image]) for image in images]
    return runs


def _statistics(part: Drawn) -> dict[str, Any]:
    """Return what a table says of one quantity; extremes in SI units."""
    return {
        "quantity": part.name, "unit": part.unit, "number": int(part.actual.size), "relative": part.relative,
        "mean": float(part.shown.mean()), "standard_deviation": float(part.shown.std()),
        "lowest": float(part.actual.min()), "highest": float(part.actual.max()), "clipped": part.clipped,
    }  # fmt: skip


def drawn_table(drawn: Sequence[Drawn], title: str) -> Table:
    """Return what was drawn as a table: mean and standard deviation relative to the design where it has a value."""
    table = Table(
        "quantity",
        "number",
        "mean",
        "deviation",
        "lowest",
        "highest",
        "clipped",
        title=title,
        title_justify="left",
    )
    for part in drawn:
        row = _statistics(part)
        mean, deviation = (row[key] for key in ("mean", "standard_deviation"))
        middle = (f"x {mean:.4f}", f"{deviation:.2%}") if part.relative else (f"{mean:.3g}", f"{deviation:.3g}")
        ends = [f"{row[key]:.4g}" for key in ("lowest", "highest")]
        table.add_row(f"{part.name} ({part.unit})", str(row["number"]), *middle, *ends, str(part.clipped))
    table.columns[0].no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    return table
