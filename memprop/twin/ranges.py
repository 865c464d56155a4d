"""Where a twin holds: the range of currents, membranes and steps that it was fitted in, and a watch that says when it leaves it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from memprop.errors import RangeWarning
from memprop.twin.drive import Separable

Ends = tuple[float, float]
ROOM: Ends = (27.0, 27.0)
_SLACK = 0.02
"""Part of a range by which it may be left before a warning is due: about the error of a twin."""


@dataclass(frozen=True, slots=True)
class Range:
    """Where a twin was fitted, judged or used: currents in A, membranes in V, temperatures in degrees Celsius."""

    current: Ends
    mem: Ends
    temperature: Ends = ROOM

    def joined(self, other: Range) -> Range:
        """Return the least range that holds both."""

        def both(a: Ends, b: Ends) -> Ends:
            return min(a[0], b[0]), max(a[1], b[1])

        return Range(
            both(self.current, other.current), both(self.mem, other.mem), both(self.temperature, other.temperature)
        )


def outside(known: Range, used: Range, slack: float = 1e-9) -> str | None:
    """Return in words how far ``used`` leaves ``known``; None where it does not, but for ``slack`` times its width."""
    said = [
        _outside(what, unit, ends, wanted, slack)
        for what, unit, ends, wanted in (
            ("current", "A", known.current, used.current),
            ("membrane", "V", known.mem, used.mem),
        )
    ]
    return "; ".join(words for words in said if words) or None


def _outside(what: str, unit: str, known: Ends, used: Ends, slack: float) -> str | None:
    (low, high), (least, most) = known, used
    room = slack * ((high - low if math.isfinite(high) else low) or abs(low))  # a single value too has its rounding
    if least >= low - room and most <= high + room:  # NaN is outside too
        return None
    return f"{what} from {least:.4g} to {most:.4g} {unit}, fitted from {low:.4g} to {high:.4g} {unit}"


class RangeWatch:
    """Watches a twin at work: remembers where it was, and warns where that was not fitted, again only where it goes much further.

    Parameters
    ----------
    name: of the cell.
    known: where the twin was fitted.
    steps: shortest and longest step in s that was fitted; the longest may be infinite.
    """

    def __init__(self, name: str, known: Range, steps: Ends = (0.0, math.inf)) -> None:
        self.name, self.known, self.steps = name, known, steps
        self.seen: Range | None = None
        """Where the twin was since `forget`."""
        self._said, self._said_step = known, False

    def forget(self) -> None:
        """Forget where the twin was."""
        self.seen = None

    def record(self) -> dict[str, Any] | None:
        """Return where the twin was, as plain values; None: nowhere."""
        return None if self.seen is None else asdict(self.seen)

    def recall(self, record: Mapping[str, Any] | None) -> None:
        """Take where the twin was from a `record`."""
        self.seen = (
            None
            if record is None
            else Range(*((float(a), float(b)) for a, b in (record[f.name] for f in fields(Range))))
        )

    def see(self, current: Ends, mem: Ends, dt: float, stacklevel: int = 3) -> None:
        """Take note of a run: ends of currents in A and membranes in V, and its step in s."""
        used = Range(current, mem)
        self.seen = used if self.seen is None else self.seen.joined(used)
        words = []
        if outside(self._said, used, _SLACK):
            words.append(outside(self.known, used) or "")
            self._said = self._said.joined(_further(used))
        step = _outside("time step", "s", self.steps, (dt, dt), _SLACK)
        if step and not self._said_step:
            words.append(step)
            self._said_step = True
        if not words:
            return
        warnings.warn(
            f"twin of {self.name} works where it was not fitted: {'; '.join(words)}. Characterise the cell there and fit "
            "again, or keep the network inside.",
            RangeWarning, stacklevel=stacklevel,
        )  # fmt: skip


def _further(used: Range) -> Range:
    """Return a range that is left again only by going a tenth further."""

    def further(ends: Ends) -> Ends:
        return ends[0] - 0.1 * abs(ends[0]), ends[1] + 0.1 * abs(ends[1])

    return Range(further(used.current), further(used.mem))


@torch.no_grad()
def ends_of(values: Tensor | Separable) -> Ends:
    """Return the least and the largest value of currents or membranes."""
    if not isinstance(values, Separable):
        low, high = torch.aminmax(values)
        return float(low), float(high)
    waveform, amplitude = ends_of(values.waveform), ends_of(values.amplitude)
    corners = [w * a for w in waveform for a in amplitude]
    return min(corners), max(corners)
