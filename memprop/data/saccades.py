"""Events that an event camera would give of an image which moves on three saccades. Simulated: no recording is behind them.

The path is that of Orchard et al. 2015 (Frontiers in Neuroscience 9:437): an isosceles triangle, in the picture down and right, up and
right, then back left. In each exposure each pixel compares the logarithm of its light with the value of its last event; a change
of the threshold or more is one event, ON if brighter, OFF if darker. So a pixel sends one event per exposure at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn import functional

from memprop.data.events import EVENT_ROWS, POLARITIES, SIDE
from memprop.errors import InputError, positive

SIMULATED = "simulated saccade events of MNIST"
"""Name of the data set: its events are computed from images of MNIST."""
CORNERS = ((0.0, 0.0), (1.0, 0.5), (0.0, 1.0), (0.0, 0.0))
"""Path of the image, down and right, in units of ``reach``."""


@dataclass(frozen=True, slots=True)
class Saccades:
    """A simulated event camera of 34 x 34 pixels before a moving image: `memprop.data.spikes.SpikeEncoder`.

    Raises
    ------
    InputError: a number is out of range, or images are no squares that fit.
    """

    image_side: int = 28
    """Pixels of an image, both ways."""
    exposures: int = 36
    """Of the whole path, a third of them for each saccade."""
    threshold: float = 0.25
    """Change of the natural logarithm of the light that is an event."""
    dark: float = 0.05
    """Light of a black pixel where a white one has 1 + ``dark``; with it a digit of MNIST gives 4,400 events."""
    reach: float = 7.0
    """Pixels of base and height of the triangle, those of N-MNIST."""

    def __post_init__(self) -> None:
        whole = self.exposures >= 3 and self.exposures % 3 == 0 and 1 <= self.image_side <= SIDE
        if not whole or not positive(self.threshold, self.dark) or not 0 <= self.reach <= SIDE:
            raise InputError(
                f"saccades: image_side = {self.image_side!r} pixels, exposures = {self.exposures!r}, threshold = {self.threshold!r}, "
                f"dark = {self.dark!r}, reach = {self.reach!r} pixels; need images of 1 to {SIDE} pixels, exposures in threes, positive "
                f"threshold and dark, and a reach of 0 to {SIDE}."
            )

    @property
    def values(self) -> int:
        """Pixels of an image."""
        return self.image_side**2

    @property
    def rows(self) -> int:
        """Pixels of the camera, both polarities."""
        return EVENT_ROWS

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that decides the events of an image."""
        return {"encoder": "simulated saccades", **asdict(self)}

    def path(self) -> list[tuple[float, float]]:
        """Return where the top left pixel of the image is, down and right in camera pixels, before and after each exposure."""
        per, start = self.exposures // 3, (SIDE - self.image_side - self.reach) / 2
        found = [CORNERS[0]]
        for (down, right), (next_down, next_right) in pairwise(CORNERS):
            shares = [(k + 1) / per for k in range(per)]
            found += [(down + s * (next_down - down), right + s * (next_right - right)) for s in shares]
        return [(start + self.reach * down, start + self.reach * right) for down, right in found]

    def events(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the events of each exposure, ``[B, 2, 34, 34]``, OFF before ON, True or False, of images ``[B, side, side]`` in [0, 1]."""
        levels = self._levels(images)
        last = next(levels)
        for level in levels:
            change = level - last
            off, on = change <= -self.threshold, change >= self.threshold
            yield torch.stack([off, on], 1)
            last = torch.where(on | off, level, last)

    def __call__(self, samples: Tensor, steps: int, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        """Return spikes ``[steps, B, 2312]`` of images ``[B, values]``: 1 where a pixel had an event in any exposure of the step.

        Raises
        ------
        InputError: the exposures do not divide into ``steps``, or samples are of another size.
        """
        if steps < 1 or self.exposures % steps:
            raise InputError(
                f"saccades: {self.exposures} exposures do not divide into {steps} steps. Take steps that divide {self.exposures}."
            )
        if samples.ndim != 2 or samples.shape[1] != self.values:
            raise InputError(f"saccades: samples {tuple(samples.shape)}; give images as [B, {self.values}].")
        per, count = self.exposures // steps, len(samples)
        seen = torch.zeros(steps, count, POLARITIES, SIDE, SIDE, dtype=torch.bool)
        for k, fired in enumerate(self.events(samples.reshape(count, self.image_side, self.image_side))):
            seen[k // per] |= fired
        return seen.flatten(2).to(samples)

    def _levels(self, images: Tensor) -> Iterator[Tensor]:
        """Yield the logarithm of the light on the camera ``[B, 34, 34]`` at each place of the path, the image interpolated linearly."""
        margin = SIDE + 1
        field = functional.pad(images, (margin, margin, margin, margin))
        for down, right in self.path():
            row, column = math.floor(margin - down), math.floor(margin - right)
            a, b = margin - down - row, margin - right - column
            view = field[:, row : row + SIDE + 1, column : column + SIDE + 1]
            lines = torch.lerp(view[:, :-1], view[:, 1:], a)
            yield torch.lerp(lines[..., :-1], lines[..., 1:], b).add_(self.dark).log_()
