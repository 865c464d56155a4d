"""Measured curves against the twin: weighted residuals for many sets of parameters in one integration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from memprop.errors import InputError, TrainingError
from memprop.flow.curves import Measured
from memprop.flow.drives import Setup
from memprop.report.device_figures import FittedCurve
from memprop.twin.device import DeviceTwin

Floats = NDArray[np.float64]
_FARTHEST = float(np.log(1e4))
"""How far a parameter may move from its start without bounds: a factor of 10,000 either way."""
_AGREE = 2e-3
"""Rms change of the currents, relative to full scale, below which finer time steps are not needed."""
_FINEST = 32
"""Most time steps per interval of the measurement."""


@dataclass(frozen=True, slots=True)
class Scale:
    """A parameter as a number z without unit that is 0 at the start: ``start exp(z)``, or ``start + size z``."""

    name: str
    start: float
    size: float
    """0 where the scale is logarithmic."""
    low: float
    high: float
    """Range of z."""
    bounded: tuple[bool, bool]
    """Whether the two ends are bounds of the parameter, not just far away."""

    @classmethod
    def of(cls, name: str, start: float, low: float, high: float) -> Scale:
        """Return the scale of a parameter that starts at ``start`` in the range ``low`` to ``high``, in SI units."""
        if (low >= 0.0 and start > 0.0) or (high <= 0.0 and start < 0.0):
            near, far = (low, high) if start > 0.0 else (high, low)
            inner = float(np.log(near / start)) if near else -np.inf
            outer = float(np.log(far / start)) if np.isfinite(far) else np.inf
            bounded = (inner > -_FARTHEST, outer < _FARTHEST)
            return cls(name, start, 0.0, max(inner, -_FARTHEST), min(outer, _FARTHEST), bounded)
        size = abs(start) if start else high - low
        edges = ((low - start) / size, (high - start) / size)
        return cls(
            name, start, size, max(edges[0], -100.0), min(edges[1], 100.0), (edges[0] > -100.0, edges[1] < 100.0)
        )

    def value(self, z: Floats | float) -> Any:
        """Return the parameter in SI units."""
        return self.start + self.size * z if self.size else self.start * np.exp(z)

    def relative(self, z: float) -> float:
        """Return how far z moves when the parameter changes by its own size."""
        return max(abs(float(self.value(z))), 1e-3 * self.size) / self.size if self.size else 1.0

    def at_bound(self, z: float) -> bool:
        """Return whether z is at a bound of the parameter."""
        return (self.bounded[0] and z <= self.low) or (self.bounded[1] and z >= self.high)


@dataclass(slots=True)
class _Group:
    """Curves on the same time points, which are integrated together."""

    members: list[int]
    time: Floats
    """With what comes before the curve, in s."""
    volts: Floats
    """``[T, curves]``."""
    first: int
    """Where the curve begins in ``time``."""


class Residuals:
    """Residuals of measured curves.

    Parameters
    ----------
    case: device and values that are not fitted.
    curves: what was measured; every third one is held out, of fewer than three the last quarter of the time of each.
    scales: the parameters that are fitted.
    series: Ohm between source and device.
    noise, relative: standard deviation of the current in A, and relative to the current.
    settle: times each curve is driven through before.
    """

    def __init__(
        self, case: Setup, curves: Sequence[Measured], scales: Sequence[Scale], series: float, noise: float | None,
        relative: float, settle: int,
    ) -> None:  # fmt: skip
        self.case, self.curves, self.scales, self.series = case, list(curves), list(scales), series
        self.twin = DeviceTwin(case.device, case.form.name, series=series > 0)
        self.port = case.device.equations.ports[0]
        self.parts = 1
        self.measured = np.concatenate([curve.current for curve in curves])
        self.full = float(np.abs(self.measured).max())
        self.floor = noise if noise is not None else self.full * (1e-3 if relative else 1e-2)
        self.sigma = np.hypot(self.floor, relative * self.measured)
        self.held_out = np.concatenate([_held_out(k, curve, len(curves)) for k, curve in enumerate(curves)])
        if int((~self.held_out).sum()) <= len(scales):
            raise InputError(
                f"{int((~self.held_out).sum())} points for {len(scales)} parameters are too few. Measure more."
            )
        self.groups = _groups(self.curves, settle)

    def currents(self, point: Floats) -> Floats:
        """Return the currents in A at one set of scaled parameters ``[P]``, all curves in a row, ``[N]``."""
        return self._currents(point[None])[0]

    def seen(self, points: Floats) -> Floats:
        """Return the weighted residuals of the points that are not held out, ``[lanes, N]``, at ``points`` ``[lanes, P]``."""
        try:
            found = self._currents(points)
        except TrainingError:
            found = np.stack([self._alone(point) for point in points])
        return ((found - self.measured) / self.sigma)[:, ~self.held_out]

    def refine(self, point: Floats, finest: int = _FINEST) -> bool:
        """Halve the time steps until halving them again changes little at ``point``; return whether they changed."""
        before, coarse = self.parts, self.currents(point)
        while self.parts < finest:
            self.parts *= 2
            fine = self.currents(point)
            change = float(np.sqrt(np.mean((fine - coarse) ** 2))) / self.full
            if change < _AGREE:  # false where either is not finite
                self.parts //= 2
                break
            coarse = fine
        return self.parts != before

    def percent(self, cost: float) -> float:
        """Return half a sum of squares as rms in % of full scale, where the noise is the same everywhere."""
        return float(100 * self.floor / self.full * np.sqrt(2 * cost / max(int((~self.held_out).sum()), 1)))

    def errors(self, fitted: Floats) -> tuple[float, float]:
        """Return the rms errors in % of full scale of the points seen and held out."""
        left = 100 * (fitted - self.measured) / self.full
        return tuple(float(np.sqrt(np.mean(left[part] ** 2))) for part in (~self.held_out, self.held_out))  # type: ignore[return-value]

    def drawn(self, fitted: Floats) -> tuple[FittedCurve, ...]:
        """Return the curves with their fits for a figure."""
        cuts = np.cumsum([len(curve.time) for curve in self.curves])[:-1]
        parts = zip(self.curves, np.split(fitted, cuts), np.split(self.held_out, cuts), strict=True)
        return tuple(FittedCurve(c.label, c.time, c.voltage, c.current, model, held) for c, model, held in parts)

    def _alone(self, point: Floats) -> Floats:
        try:
            return self.currents(point)
        except TrainingError:
            return np.full(len(self.measured), np.nan)

    def _currents(self, points: Floats) -> Floats:
        lanes = len(points)
        values = {name: torch.tensor(value, dtype=torch.float64) for name, value in self.case.open_values.items()}
        for k, scale in enumerate(self.scales):
            values[scale.name] = torch.from_numpy(scale.value(points[:, k]))[:, None]
        if self.series:
            values["series"] = torch.tensor(self.series, dtype=torch.float64)
        found: list[Floats] = [np.empty(0)] * len(self.curves)
        for group in self.groups:
            time = _cut(group.time, self.parts)
            volts = np.stack([np.interp(time, group.time, column) for column in group.volts.T], 1)
            source = torch.from_numpy(volts)[:, None, :].expand(-1, lanes, -1)
            with torch.no_grad():
                trace = self.twin.run(torch.from_numpy(time), {self.port: source}, values)
            current = trace.currents[self.port][group.first * self.parts :: self.parts].numpy()
            for place, k in enumerate(group.members):
                found[k] = current[:, :, place].T
        return np.concatenate(found, axis=1)


def _held_out(k: int, curve: Measured, count: int) -> NDArray[np.bool_]:
    if count >= 3:
        return np.full(len(curve.time), k % 3 == 2)
    return curve.time > curve.time[0] + 0.75 * (curve.time[-1] - curve.time[0])


def _cut(time: Floats, parts: int) -> Floats:
    """Return the time points with each interval cut into equal parts."""
    places = np.arange((len(time) - 1) * parts + 1) / parts
    return np.interp(places, np.arange(len(time)), time)


def _groups(curves: Sequence[Measured], settle: int) -> list[_Group]:
    """Return the curves in groups of equal time points, with what is driven before them."""
    found: list[_Group] = []
    for k, curve in enumerate(curves):
        lead = bool(abs(curve.voltage[0]) > 1e-9 * np.abs(curve.voltage).max())
        time, volts, first = _driven(curve, settle, lead)
        group = next((g for g in found if g.first == first and np.array_equal(g.time, time)), None)
        if group is None:
            found.append(_Group([k], time, volts[:, None], first))
        else:
            group.members.append(k)
            group.volts = np.concatenate([group.volts, volts[:, None]], axis=1)
    return found


def _driven(curve: Measured, settle: int, lead: bool) -> tuple[Floats, Floats, int]:
    """Return time and voltage with ``settle`` repetitions before, and a ramp from 0 V where the curve begins elsewhere."""
    step = float(np.diff(curve.time).mean())
    once = curve.time[-1] - curve.time[0] + step
    time = np.concatenate([curve.time + n * once for n in range(settle + 1)])
    volts = np.tile(curve.voltage, settle + 1)
    if lead:
        time, volts = np.concatenate([[time[0] - step], time]), np.concatenate([[0.0], volts])
    return time, volts, settle * len(curve.time) + int(lead)
