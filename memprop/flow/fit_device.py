"""What `memprop fit-device` does: fit parameters of a device to measured curves, through its twin, and say what is known."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from memprop.device.card import DeviceCard
from memprop.device.library import DeviceModel, load_device
from memprop.errors import InputError, TrainingError
from memprop.files import ensure_folder, write_atomic
from memprop.flow.curves import Measured, read_curves
from memprop.flow.device_residuals import Residuals, Scale
from memprop.flow.drives import Setup, setup
from memprop.report import device_figures as figures
from memprop.report.progress import progress
from memprop.twin.fitting.least_squares import Knowledge, Solution, identify, minimise

Floats = NDArray[np.float64]
ITERATIONS = 30
_FLOOR = 1e-4
"""Smallest noise that is believed without being told, relative to full scale."""
_AT_FIRST, _ROUNDS = 4, 2
"""Most time steps per interval before the fit, and how often they are refined after it, at the curves that were found."""
_POOR = 5.0
"""Error in % of full scale from which the model is said not to follow the curves."""


@dataclass(frozen=True, slots=True)
class FitSettings:
    """How to fit."""

    parameters: tuple[str, ...]
    """Names of the parameters to fit."""
    preset: str | None = None
    """Where to start; default the default values of the model."""
    changes: Mapping[str, float] = field(default_factory=dict)
    """Parameters that differ from the preset, fitted or not."""
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Narrower ranges than those of the model, in SI units."""
    series: float = 0.0
    """Resistance in Ohm between source and device."""
    noise: float | None = None
    """Standard deviation of the measured current in A; default what the fit leaves."""
    relative: float = 0.0
    """Further noise relative to each current, which gives small currents more weight."""
    starts: int = 6
    seed: int = 0
    settle: int = 0
    """Times that each curve is driven through before the one that is compared."""


@dataclass(frozen=True, slots=True)
class FittedParameter:
    """One parameter after the fit."""

    name: str
    unit: str
    start: float
    value: float
    """In SI units; the start value where the curves say nothing about it."""
    knowledge: Knowledge


@dataclass(frozen=True, slots=True)
class DeviceFit:
    """A fit and how good it is."""

    case: Setup
    parameters: tuple[FittedParameter, ...]
    seen: float
    """Rms error in % of full scale, on the points of the fit."""
    held_out: float
    """The same on the points held out."""
    correlated: tuple[tuple[str, str, float], ...]
    """Pairs of parameters whose estimates are correlated by more than 0.95."""
    iterations: int
    agreeing: int
    """How many starts ended within 5 % of the least sum of squares."""
    starts: int
    curves: tuple[figures.FittedCurve, ...]

    @property
    def values(self) -> dict[str, float]:
        """Return all parameter values, the fitted ones among them."""
        return {**self.case.values, **{p.name: p.value for p in self.parameters}}

    def unknown(self) -> list[FittedParameter]:
        """Return the parameters that the curves do not determine."""
        return [p for p in self.parameters if not p.knowledge.known]


def fit_curves(
    device: DeviceModel, curves: Sequence[Measured], settings: FitSettings,
    on_iteration: Callable[[int, float], None] = lambda k, error: None,  # noqa: ARG005
) -> DeviceFit:  # fmt: skip
    """Fit parameters of ``device`` to measured curves.

    Every third curve is held out, or, of fewer than three curves, the last quarter of the time of each. The voltages are those of a
    source before the series resistance; the device is at rest, at 0 V, before each curve.

    Raises
    ------
    InputError: an unknown or whole-number parameter, a start of 0 without bounds, nonsense settings.
    TrainingError: the model fails at every start.
    """
    _check(device, settings)
    case = setup(device, settings.preset, settings.changes, settings.parameters)
    scales = [_scale(device, case, name, settings.bounds.get(name)) for name in settings.parameters]
    problem = Residuals(case, curves, scales, settings.series, settings.noise, settings.relative, settings.settle)
    problem.refine(np.zeros(len(scales)), _AT_FIRST)
    low, high = np.array([s.low for s in scales]), np.array([s.high for s in scales])
    random = np.random.default_rng(settings.seed).uniform(-0.4, 0.4, (settings.starts - 1, len(scales)))
    starts = np.concatenate([np.zeros((1, len(scales))), random])

    def told(k: int, cost: float) -> None:
        on_iteration(k, problem.percent(cost))

    found = minimise(problem.seen, starts, low, high, most=ITERATIONS, on_iteration=told)
    if not np.isfinite(found.residual).all():
        raise TrainingError(
            f"the twin of {device.name} fails at every start. Start from another preset, narrow --bounds, or add --series."
        )
    costs = found.costs
    for _ in range(_ROUNDS):
        if not problem.refine(found.point):
            break
        found = minimise(problem.seen, found.point[None], low, high, most=ITERATIONS, on_iteration=told)
    return _result(case, problem, settings, found, costs)


def _check(device: DeviceModel, settings: FitSettings) -> None:
    names = settings.parameters
    twice = [name for name in names if names.count(name) > 1]
    unknown = [name for name in (*names, *settings.bounds) if name not in device.parameters]
    if not names or twice or unknown:
        what = (
            f"parameter '{twice[0]}' is named twice"
            if twice
            else f"no parameter '{unknown[0]}'"
            if unknown
            else "no parameter to fit is named"
        )
        raise InputError(f"device {device.name}: {what}. Known: {', '.join(device.parameters)}.")
    whole = [name for name in names if name in device.equations.integers]
    if whole:
        raise InputError(
            f"device {device.name}: {whole[0]} is a whole number and cannot be fitted. Set it in the preset instead."
        )
    least_values = (("series", 0.0), ("relative", 0.0), ("starts", 1), ("settle", 0))
    for what, least in least_values:
        value = getattr(settings, what)
        if not (np.isfinite(value) and value >= least):
            raise InputError(f"{what} = {value!r} must be finite and at least {least:g}. Correct the value.")
    if settings.noise is not None and not (np.isfinite(settings.noise) and settings.noise > 0):
        raise InputError(f"noise = {settings.noise!r} A must be finite and above 0 A. Correct the value.")


def _scale(device: DeviceModel, case: Setup, name: str, bounds: tuple[float, float] | None) -> Scale:
    """Return how a parameter is scaled: in logarithm where its range has one sign, else linear in its own size."""
    p, value = device.parameters[name], case.values[name]
    low = max((edge for edge in (p.above, p.at_least) if edge is not None), default=-np.inf)
    high = min((edge for edge in (p.below, p.at_most) if edge is not None), default=np.inf)
    if bounds is not None:
        p.check(f"{name} (bound)", np.array([b for b in bounds if b not in (low, high)]))
        if not bounds[0] < bounds[1] or not bounds[0] <= value <= bounds[1]:
            raise InputError(
                f"bounds of {name}: {bounds[0]!r} to {bounds[1]!r} {p.unit} must rise and hold the start, {value!r} {p.unit}. "
                "Widen them, or start from another preset."
            )
        low, high = max(low, bounds[0]), min(high, bounds[1])
    if value == 0.0 and not np.isfinite(high - low):
        raise InputError(
            f"{name} starts at 0 {p.unit}, so its size is unknown. Give --bounds {name}=LOW:HIGH or another preset."
        )
    return Scale.of(name, value, low, high)


def _result(case: Setup, problem: Residuals, settings: FitSettings, found: Solution, costs: Floats) -> DeviceFit:
    names = list(settings.parameters)
    freedom = max(len(found.residual) - len(names), 1)
    variance = float((found.residual**2).sum()) / freedom
    least = 1.0 if settings.noise is not None else (_FLOOR * problem.full / problem.floor) ** 2
    at_bound = np.array([s.at_bound(z) for s, z in zip(problem.scales, found.point, strict=True)])
    relative = np.array([s.relative(z) for s, z in zip(problem.scales, found.point, strict=True)])
    known, correlation = identify(names, found.jacobian, max(variance, least), relative, at_bound)
    parts = []
    for scale, z, what in zip(problem.scales, found.point, known, strict=True):
        parameter = case.device.parameters[scale.name]
        value = scale.start if what.alone > 1.0 else float(scale.value(z))
        parts.append(FittedParameter(scale.name, parameter.unit, scale.start, value, what))
    pairs = tuple(
        (names[i], names[j], float(correlation[i, j]))
        for i in range(len(names)) for j in range(i)
        if abs(correlation[i, j]) > 0.95 and known[i].alone < 1.0 and known[j].alone < 1.0
    )  # fmt: skip
    fitted = problem.currents(found.point)
    seen, held = problem.errors(fitted)
    agreeing = int((costs <= 1.05 * costs.min()).sum())
    return DeviceFit(
        case, tuple(parts), seen, held, pairs, found.iterations, agreeing, settings.starts, problem.drawn(fitted)
    )


def fit_device(
    data: Path, model: str | Path, name: str, out: Path | None, console: Console, settings: FitSettings, *,
    frequency: float | None = None, write_card: bool = False,
) -> DeviceFit:  # fmt: skip
    """Fit a device to a CSV file of curves, write preset and figure, print the table, and return the fit.

    With ``write_card`` the preset is added to the card beside the model, else to a copy of it, ``fit.toml`` in ``out``.

    Raises
    ------
    InputError: see `read_curves` and `fit_curves`; or the card has a preset of that name already.
    """
    device = load_device(model)
    home = Path(model) if Path(model).suffix == ".va" else None
    if write_card and home is None:
        raise InputError(
            f"--write-card needs the model as a file, not the shipped '{model}'. Give the path of its .va file."
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(f"name of the preset '{name}' must be lower-case letters, digits and _. Give another --name.")
    if name in device.card.presets:
        raise InputError(f"card of {device.name} has a preset '{name}' already. Give another --name.")
    curves = read_curves(data, frequency)
    folder = ensure_folder(out or Path("runs") / "fit" / name)
    with progress("fit", ITERATIONS, console) as advance:
        found = fit_curves(
            device, curves, settings, lambda k, error: advance(f"error {error:.3g} % of full scale", done=k)
        )
    target = home.with_suffix(".toml") if write_card and home else folder / "fit.toml"
    text = card_text(device, name, data, found, (home or Path(device.name)).with_suffix(".toml"))
    write_atomic(target, text)
    title = (
        f"{device.name} fitted to {data.name}: {found.seen:.2g} % rms of full scale, {found.held_out:.2g} % held out"
    )
    figures.fit(folder / "fit.png", title, found.curves)
    say(found, console)
    console.print(f"preset: {target}   figure: {folder / 'fit.png'}", soft_wrap=True, markup=False)
    return found


def card_text(device: DeviceModel, name: str, data: Path, found: DeviceFit, beside: Path) -> str:
    """Return the text of the device's card with the fit as one more preset.

    Raises
    ------
    InputError: the card beside the model cannot be extended.
    """
    from memprop.files import shipped  # noqa: PLC0415

    there = next((p for p in (beside, shipped("models") / beside.name) if p.is_file()), None)
    old = there.read_text(encoding="utf-8") if there and device.card.description else f'name = "{device.name}"\n'
    values = ", ".join(f"{key} = {float(value)!r}" for key, value in found.values.items())
    text = f"{old.rstrip()}\n\n[presets.{name}]\nsource = {_quoted(_source(data, found))}\nvalues = {{ {values} }}\n"
    try:
        DeviceCard.model_validate(tomllib.loads(text))
    except ValueError as error:
        raise InputError(
            f"card {there} with the preset '{name}' would be no valid card: {error}. Correct the card first."
        ) from error
    return text


def _source(data: Path, found: DeviceFit) -> str:
    """Return in words where the preset is from, and what in it is not known."""
    fitted = ", ".join(p.name for p in found.parameters)
    text = f"Fit of {fitted} to {data.name}: {found.seen:.2g} % rms of full scale, {found.held_out:.2g} % on points held out"
    unknown = [f"{p.name} ({p.knowledge.reason})" for p in found.unknown()]
    return text + (f". NOT identifiable: {'; '.join(unknown)}" if unknown else "")


def _quoted(text: str) -> str:
    plain = "".join(c if c.isprintable() else " " for c in text)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def say(found: DeviceFit, console: Console) -> None:
    """Print the table of parameters, the errors and the warnings."""
    title = f"{found.case.device.name}: {found.iterations} iterations, {found.agreeing} of {found.starts} starts agree"
    table = Table("parameter", "start", "fitted", "unit", "standard error", "known", title=title, title_justify="left")
    for p in found.parameters:
        error = f"{100 * p.knowledge.error:.2g} %" if p.knowledge.error < 10.0 else "above 1000 %"
        verdict = "[green]yes[/]" if p.knowledge.known else "[bold red]NO[/]"
        table.add_row(p.name, f"{p.start:.6g}", f"{p.value:.6g}", p.unit, error, verdict)
    console.print(table)
    console.print(f"error {found.seen:.3g} % of full scale rms; held out {found.held_out:.3g} %", highlight=False)
    for p in found.unknown():
        console.print(
            f"[bold yellow]NOT identifiable[/] {p.name}: {escape(p.knowledge.reason)}.", highlight=False, soft_wrap=True
        )
    for one, other, value in found.correlated:
        console.print(f"[yellow]correlated[/] {one} and {other}: {value:+.3f}", highlight=False)
    if found.seen > _POOR:
        console.print(
            f"[bold yellow]the model does not follow the curves[/]: {found.seen:.3g} % of full scale. Fit more parameters, "
            "or take another model; standard errors mean little here.", highlight=False, soft_wrap=True,
        )  # fmt: skip


def parse_bounds(texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return bounds from texts like ``ron=1e2:1e5``, in SI units.

    Raises
    ------
    InputError: a text is not of this form.
    """
    found = {}
    for text in texts:
        match = re.fullmatch(r"\s*(\w+)\s*=\s*([^:]+):([^:]+)", text)
        try:
            found[match[1]] = (float(match[2]), float(match[3]))  # type: ignore[index]
        except (TypeError, ValueError) as error:
            raise InputError(
                f"bounds '{text}' are not of the form name=low:high, e.g. ron=1e2:1e5. Correct them."
            ) from error
    return found


def parse_values(texts: Sequence[str]) -> dict[str, float]:
    """Return parameter values from texts like ``phi=0.9``, in SI units.

    Raises
    ------
    InputError: a text is not of this form.
    """
    found = {}
    for text in texts:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError as error:
            raise InputError(f"value '{text}' is not of the form name=number, e.g. phi=0.9. Correct it.") from error
    return found
