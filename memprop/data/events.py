"""Recorded events: files of N-MNIST, and events as frames of spikes.

N-MNIST (Orchard et al. 2015, Frontiers in Neuroscience 9:437) is a folder ``Train`` and a folder ``Test`` with a folder per digit, as
its archives and the library tonic unpack it. Each file is one sample of events of 5 bytes: x, y, then polarity (1 bit, set: ON) and time
in us (23 bits), highest byte first. The field y of 240 marks that the clock of the camera went round: it is no event, and times from
there on are 8192 us later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from memprop.data.sets import Split
from memprop.errors import DataError, InputError, positive

SIDE, POLARITIES = 34, 2
EVENT_ROWS = POLARITIES * SIDE * SIDE
"""Places of events: row (polarity x 34 + y) x 34 + x, OFF before ON."""
EVENT_BYTES, CLOCK_ROUND, CLOCK_US = 5, 240, 8192
N_MNIST = "N-MNIST"
N_MNIST_US = 315_000.0
"""Length of a sample in us: three saccades of 105 ms."""
DIGITS = tuple(str(digit) for digit in range(10))
EVENT = np.dtype([("x", np.int64), ("y", np.int64), ("t", np.int64), ("p", np.int64)])
"""An event: pixel from the left and from the top, time in us, polarity 1 for ON. Names and order are tonic's."""


def read_events(path: Path, *, ordered: bool = False) -> NDArray[Any]:
    """Return the events of one file of N-MNIST as records `EVENT` ``[n]``, in the order of the file.

    ``ordered`` refuses times that run backwards: frames do not mind them, and cameras hand over events of near times in any order.

    Raises
    ------
    DataError: the file cannot be read, is empty, cut short, or holds what no sensor of 34 x 34 pixels sends.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"events {path} cannot be read ({error.strerror or error}). Check the path.") from error
    if not content or len(content) % EVENT_BYTES:
        raise DataError(
            f"events {path}: {len(content)} bytes are no whole number of events of {EVENT_BYTES} bytes, 1 or more. Copy the file again."
        )
    raw = np.frombuffer(content, np.uint8).reshape(-1, EVENT_BYTES).astype(np.int64)
    rounds = raw[:, 1] == CLOCK_ROUND
    events = np.empty(len(raw), EVENT)
    events["x"], events["y"], events["p"] = raw[:, 0], raw[:, 1], raw[:, 2] >> 7
    events["t"] = ((raw[:, 2] & 127) << 16 | raw[:, 3] << 8 | raw[:, 4]) + CLOCK_US * np.cumsum(rounds)
    events = events[~rounds]
    _check(events, path, ordered)
    return events


def _check(events: NDArray[Any], path: Path, ordered: bool) -> None:
    outside = np.flatnonzero((events["x"] >= SIDE) | (events["y"] >= SIDE))
    if len(outside):
        x, y = events[outside[0]]["x"], events[outside[0]]["y"]
        raise DataError(
            f"events {path}: event {outside[0] + 1} is at x = {x}, y = {y}, pixels go from 0 to {SIDE - 1}. This is no file of N-MNIST, or "
            "it is damaged: copy it again."
        )
    back = np.flatnonzero(np.diff(events["t"]) < 0) if ordered else []
    if len(back):
        first, then = events["t"][back[0]], events["t"][back[0] + 1]
        raise DataError(
            f"events {path}: event {back[0] + 2} is at {then} us, the one before at {first} us. Sort the events by time, or read them with "
            "ordered=False."
        )


def bin_events(events: NDArray[Any], steps: int, duration: float = N_MNIST_US) -> NDArray[np.bool_]:
    """Return frames ``[steps, 2312]``: whether a place had an event in a step of ``duration`` / ``steps`` us.

    Events after ``duration`` are in the last frame.

    Raises
    ------
    InputError: steps or duration are not positive.
    """
    if steps < 1 or not positive(duration):
        raise InputError(f"frames of events: steps = {steps!r}, duration = {duration!r} us; need positive numbers.")
    frame = np.minimum(events["t"] * steps / duration, steps - 1).astype(np.int64)
    frames = np.zeros((steps, EVENT_ROWS), np.bool_)
    frames[frame, (events["p"] * SIDE + events["y"]) * SIDE + events["x"]] = True
    return frames


@dataclass(frozen=True, slots=True)
class EventFrames:
    """A data set of binned events, eight places a byte: images are uint8 ``[n, steps, 289]``. See `PackedFrames`."""

    name: str
    train: Split
    test: Split

    @property
    def rows(self) -> int:
        """Bytes per sample."""
        return int(self.train.images[0].size)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.train.labels.max()) + 1

    def pixels(self, split: str) -> NDArray[np.uint8]:
        """Return the packed frames of ``split``."""
        return getattr(self, split).images


@dataclass(frozen=True, slots=True)
class PackedFrames:
    """Unpacks the frames of `EventFrames`: `memprop.data.spikes.SpikeEncoder`."""

    steps: int
    """Frames per sample."""

    @property
    def values(self) -> int:
        """Bytes per sample."""
        return self.steps * EVENT_ROWS // 8

    @property
    def rows(self) -> int:
        """Places of events."""
        return EVENT_ROWS

    @property
    def identity(self) -> Mapping[str, Any]:
        """The code."""
        return {"encoder": "frames of events", "frames": self.steps}

    def __call__(self, samples: Tensor, steps: int, generator: Generator | None = None) -> Tensor:  # noqa: ARG002
        """Return spikes ``[steps, B, 2312]`` of packed frames, uint8 ``[B, values]``.

        Raises
        ------
        InputError: samples have another number of frames, or are no bytes.
        """
        packed = samples.ndim == 2 and samples.shape[1] == self.values and samples.dtype == torch.uint8
        if steps != self.steps or not packed:
            raise InputError(
                f"frames of events: samples {tuple(samples.shape)} of {samples.dtype} for {steps} steps; give [B, {self.values}] of uint8, "
                f"{self.steps} frames."
            )
        bits = np.unpackbits(samples.numpy().reshape(len(samples), steps, -1), axis=2)
        return torch.from_numpy(bits).transpose(0, 1).float()


def load_n_mnist(folder: Path, steps: int) -> EventFrames:
    """Return N-MNIST, unpacked below ``folder`` or below ``folder/NMNIST``, in ``steps`` frames a sample.

    Raises
    ------
    DataError: folders or files are missing or damaged.
    """
    inner = folder / "NMNIST"  # the folder that tonic makes
    root = inner if inner.is_dir() else folder
    train, test = (_split(root / part, steps) for part in ("Train", "Test"))
    return EventFrames(N_MNIST, train, test)


def _split(folder: Path, steps: int) -> Split:
    missing = [digit for digit in DIGITS if not (folder / digit).is_dir()]
    if missing:
        raise DataError(
            f"{N_MNIST}: {folder} has no folder {', '.join(missing)}; each digit has one, whose name is the label. Unpack train.zip and "
            "test.zip of N-MNIST, and give the folder that holds Train and Test."
        )
    files = {digit: sorted((folder / digit).glob("*.bin")) for digit in DIGITS}
    empty = [digit for digit, found in files.items() if not found]
    if empty:
        raise DataError(f"{N_MNIST}: {folder} has no file *.bin for {', '.join(empty)}. Unpack the archive again.")
    frames = [np.packbits(bin_events(read_events(path), steps), axis=1) for digit in DIGITS for path in files[digit]]
    labels = [np.full(len(files[digit]), int(digit), np.uint8) for digit in DIGITS]
    return Split(np.stack(frames), np.concatenate(labels))
