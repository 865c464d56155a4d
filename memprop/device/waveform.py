"""Drives of a device under test: piecewise linear waveforms, and the cards that say which sweeps to make of a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from memprop.device.card import Strict
from memprop.errors import InputError

Floats = NDArray[np.float64]
POINTS = 200
"""Time points per period at which waveforms are kept."""
EDGE = 0.01
"""Rise and fall time of a pulse, relative to its width."""


@dataclass(frozen=True, slots=True)
class Waveform:
    """Voltage over time, straight between its corners.

    Raises
    ------
    InputError: the lengths differ, time does not start at 0 s or does not rise, or a value is not finite.
    """

    time: tuple[float, ...]
    """Corners in s; the first is 0."""
    volt: tuple[float, ...]
    """Voltage in V at the corners."""

    def __post_init__(self) -> None:
        for name in ("time", "volt"):  # numbers of numpy would print with their type in decks
            object.__setattr__(self, name, tuple(float(value) for value in getattr(self, name)))
        time, volt = np.array(self.time), np.array(self.volt)
        if len(time) != len(volt) or len(time) < 2 or not np.isfinite([*time, *volt]).all():
            raise InputError(
                f"waveform: {len(time)} times and {len(volt)} voltages; need at least 2 of each, all finite."
            )
        if time[0] != 0.0 or not (np.diff(time) > 0).all():
            raise InputError("waveform: time must start at 0 s and rise from corner to corner. Sort the corners.")

    def at(self, time: Floats) -> Floats:
        """Return the voltage in V at ``time`` in s, the last one beyond the end."""
        return np.interp(time, self.time, self.volt)


@dataclass(frozen=True, slots=True)
class Drive:
    """One simulation of a device: what is applied, and at what times which conductance is read."""

    label: str
    """What sets it apart from the others of its experiment, with units, e.g. ``0.5 V, 100 Hz``."""
    waves: Mapping[str, Waveform]
    """By port; ports without a waveform are at 0 V."""
    grid: tuple[float, ...]
    """Time points in s at which waveforms are kept; all corners are among them."""
    port: str
    """Port whose voltage sets the pace."""
    read_port: str
    """Port whose current over voltage is the conductance."""
    values: Mapping[str, float]
    """Swept values by name with unit, e.g. ``{"frequency (Hz)": 100.0}``."""
    reads: tuple[float, ...] = ()
    """Times in s of conductance readings."""
    series: float = 0.0
    """Resistance in Ohm between source and port."""
    span: tuple[float, float] = (0.0, 0.0)
    """Begin and end in s of what the experiment is about: the last cycle, or the pulse."""

    @property
    def stop(self) -> float:
        """End in s."""
        return self.grid[-1]


def short(value: float, unit: str) -> str:
    """Return a value with a prefix, e.g. ``100 kHz``, for labels."""
    if not value:
        return f"0 {unit}"
    power = int(np.clip(3 * np.floor(np.log10(abs(value) * (1 + 1e-9)) / 3), -15, 9))
    prefix = {-15: "f", -12: "p", -9: "n", -6: "u", -3: "m", 0: "", 3: "k", 6: "M", 9: "G"}[power]
    return f"{value / 10.0**power:.4g} {prefix}{unit}"


def periodic(shape: str, amplitude: float, frequency: float, cycles: int, points: int = POINTS) -> Waveform:
    """Return a sine or triangle that starts at 0 V: amplitude in V, frequency in Hz."""
    if shape == "triangle":
        time = np.concatenate(
            [[0.0], np.arange(cycles)[:, None].repeat(2, 1).ravel() + np.tile([0.25, 0.75], cycles), [cycles]]
        )
        volt = np.concatenate([[0.0], np.tile([1.0, -1.0], cycles), [0.0]])
    else:
        time = np.arange(cycles * points + 1) / points
        volt = np.sin(2 * np.pi * time)
        volt[:: points // 2] = 0.0
    return Waveform(tuple((time / frequency).tolist()), tuple((amplitude * volt).tolist()))


def pulses(train: Sequence[tuple[float, float, float]], stop: float) -> Waveform:
    """Return rectangular pulses with edges of `EDGE` of their width.

    ``train`` holds begin in s, width in s (from the first corner to the last) and height in V, in order of time.

    Raises
    ------
    InputError: pulses overlap.
    """
    time, volt = [0.0], [0.0]
    for begin, width, height in train:
        if begin <= time[-1]:
            raise InputError(
                f"pulse at {begin!r} s begins before the one before it has ended. Leave more time between them."
            )
        edge = EDGE * width
        time += [begin, begin + edge, begin + width - edge, begin + width]
        volt += [0.0, height, height, 0.0]
    if stop > time[-1]:
        time, volt = [*time, stop], [*volt, 0.0]
    return Waveform(tuple(time), tuple(volt))


def dense(waves: Sequence[Waveform], points: int) -> tuple[float, ...]:
    """Return a time grid that holds all corners, each straight piece cut into ``points`` equal parts."""
    corners = np.unique(np.concatenate([np.array(wave.time) for wave in waves]))
    parts = [np.linspace(a, b, points, endpoint=False) for a, b in pairwise(corners)]
    return (*np.concatenate(parts).tolist(), float(corners[-1]))


class Experiment(Strict):
    """What all experiments have."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    presets: tuple[str, ...] = ()
    """Presets to sweep; none means the default values."""
    changes: dict[str, float] = Field(default_factory=dict)
    """Parameters that differ from the preset."""
    port: str | None = None
    """Driven port; default the first one."""


class Hysteresis(Experiment):
    """Periodic drive at several frequencies: pinched loops of current over voltage."""

    kind: Literal["hysteresis"]
    shape: Literal["sine", "triangle"] = "sine"
    amplitude: float = Field(gt=0)
    frequencies: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    cycles: int = Field(default=2, ge=1, le=50)
    series: float = Field(default=0.0, ge=0)

    def drives(self, ports: Sequence[str]) -> list[Drive]:
        """Return one drive per frequency."""
        port, made = _port(self, ports), []
        for frequency in self.frequencies:
            wave = periodic(self.shape, self.amplitude, frequency, self.cycles)
            grid = tuple((np.arange(self.cycles * POINTS + 1) / POINTS / frequency).tolist())
            values = {"amplitude (V)": self.amplitude, "frequency (Hz)": frequency}
            span = ((self.cycles - 1) / frequency, self.cycles / frequency)
            made.append(Drive(short(frequency, "Hz"), {port: wave}, grid, port, port, values, (), self.series, span))
        return made


class Kinetics(Experiment):
    """Single pulses of several heights and widths, and the conductance before and after each."""

    kind: Literal["kinetics"]
    amplitudes: tuple[float, ...] = Field(min_length=1)
    widths: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    read: float = 0.01
    prepare: tuple[float, float] | None = None
    """Height in V and width in s of a pulse before, which brings the device into the state to start from."""
    series: float = Field(default=0.0, ge=0)

    def drives(self, ports: Sequence[str]) -> list[Drive]:
        """Return one drive per width and height: preparation, reading, pulse, reading."""
        port = _port(self, ports)
        return [self._drive(port, height, width) for width in self.widths for height in self.amplitudes]

    def _drive(self, port: str, height: float, width: float) -> Drive:
        train, begin, brief = [], 0.02 * width, 0.1 * width
        if self.prepare:
            begin = 0.02 * self.prepare[1]
            train.append((begin, self.prepare[1], self.prepare[0]))
            begin += 1.1 * self.prepare[1]
        steps = [(brief, self.read), (width, height), (brief, self.read)]
        marks = []
        for length, volt in steps:
            train.append((begin, length, volt))
            marks.append((begin, begin + length))
            begin += length + 0.02 * width
        wave = pulses(train, begin)
        reads = tuple(a + 0.9 * (b - a) for a, b in (marks[0], marks[2]))
        grid = _with(dense([wave], 12), reads, marks[1], 120)
        values = {"amplitude (V)": height, "width (s)": width}
        label = f"{height:g} V, {short(width, 's')}"
        return Drive(label, {port: wave}, grid, port, port, values, reads, self.series, marks[1])


class Retention(Experiment):
    """One programming pulse, then short readings at times spread evenly over the decades."""

    kind: Literal["retention"]
    program: tuple[float, float]
    """Height in V and width in s of the pulse."""
    first: float = Field(gt=0)
    last: float = Field(gt=0)
    """First and last reading in s after the pulse."""
    per_decade: int = Field(default=3, ge=1, le=20)
    read: float = 0.01
    series: float = Field(default=0.0, ge=0)

    def drives(self, ports: Sequence[str]) -> list[Drive]:
        """Return one drive."""
        if self.last <= self.first:
            raise InputError(f"retention '{self.name}': last = {self.last!r} s must be above first = {self.first!r} s.")
        port, (height, width) = _port(self, ports), self.program
        count = max(round(np.log10(self.last / self.first) * self.per_decade), 1) + 1
        waits = np.geomspace(self.first, self.last, count)
        begin, end = 0.02 * width, 1.02 * width
        train = [(begin, width, height), *((end + float(w), 0.05 * float(w), self.read) for w in waits)]
        wave = pulses(train, end + 1.06 * float(waits[-1]))
        reads = tuple(end + 1.04 * float(w) for w in waits)
        grid = _with(dense([wave], 10), reads, (begin, end), 60)
        values = {"program (V)": height, "width (s)": width}
        return [
            Drive(
                f"after {height:g} V, {short(width, 's')}",
                {port: wave},
                grid,
                port,
                port,
                values,
                reads,
                self.series,
                (end, end),
            )
        ]


class Train(Experiment):
    """Pulses up, then pulses down, with a reading after each: potentiation and depression."""

    kind: Literal["train"]
    up: tuple[float, float]
    """Height in V and width in s of a pulse that potentiates."""
    down: tuple[float, float]
    count: int = Field(default=50, ge=1, le=500)
    """Pulses in each direction."""
    gap: float = Field(gt=0)
    """Time in s between pulses, in the middle of which the conductance is read."""
    read: float = 0.05
    read_port: str | None = None
    series: float = Field(default=0.0, ge=0)

    def drives(self, ports: Sequence[str]) -> list[Drive]:
        """Return one drive."""
        port = _port(self, ports)
        read_port = _port(self, ports, self.read_port or port)
        program: list[tuple[float, float, float]] = []
        readings: list[tuple[float, float, float]] = []
        begin = self.gap
        readings.append((0.25 * self.gap, 0.5 * self.gap, self.read))
        for height, width in [self.up] * self.count + [self.down] * self.count:
            program.append((begin, width, height))
            readings.append((begin + width + 0.25 * self.gap, 0.5 * self.gap, self.read))
            begin += width + self.gap
        waves = {port: pulses(program, begin), read_port: pulses(readings, begin)}
        if read_port == port:
            waves = {port: pulses(sorted([*program, *readings]), begin)}
        reads = tuple(a + 0.9 * width for a, width, _ in readings)
        grid = _with(dense(list(waves.values()), 2), reads, (0.0, begin), 0)
        values = {"up (V)": self.up[0], "down (V)": self.down[0], "pulses": float(self.count)}
        label = f"{self.count} x {self.up[0]:g} V, {self.count} x {self.down[0]:g} V"
        return [Drive(label, waves, grid, port, read_port, values, reads, self.series, (self.gap, begin))]


class SweepCard(Strict):
    """Which sweeps to make of a device: ``<device>.sweep.toml`` beside its model."""

    device: str
    description: str = ""
    experiments: tuple[Annotated[Hysteresis | Kinetics | Retention | Train, Field(discriminator="kind")], ...] = Field(
        min_length=1
    )

    def model_post_init(self, _context: Any) -> None:
        """Refuse two experiments of one name: they would share their rows in the table."""
        names = [experiment.name for experiment in self.experiments]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"two experiments are called '{min(twice)}'. Rename one")


@dataclass(frozen=True, slots=True)
class Probe:
    """What a default card is made from: the drive that moves the state most at the least voltage."""

    port: str
    amplitude: float
    """In V."""
    frequency: float
    """In Hz."""
    ports: tuple[str, ...]
    """All ports of the device."""
    reference: str
    """Port that stays at 0 V."""


def default_card(device: str, probe: Probe) -> SweepCard:
    """Return a card for a device without one, scaled to the drive that was found to move it.

    A device with two ports gets loops at four frequencies around the one found, pulses in both directions and retention;
    one with more gets a train of pulses on the port that moves the state, read at the first other port.
    """
    period, volt = 1 / probe.frequency, probe.amplitude
    half = period / 2
    if len(probe.ports) > 2:
        other = next(port for port in probe.ports if port not in (probe.port, probe.reference))
        train = Train(
            kind="train", name="train", port=probe.port, read_port=other, up=(volt, half / 20), down=(-volt, half / 20),
            gap=half / 20, read=0.05, count=20,
        )  # fmt: skip
        return SweepCard(device=device, experiments=(train,))
    frequencies = tuple(float(f"{probe.frequency * factor:.3g}") for factor in (0.1, 1.0, 10.0, 100.0))
    widths = tuple(float(f"{half * factor:.3g}") for factor in (1e-3, 1e-2, 1e-1, 1.0))
    heights = [float(f"{volt * factor:.3g}") for factor in (0.5, 0.75, 1.0, 1.25)]
    loops = Hysteresis(kind="hysteresis", name="loops", amplitude=volt, frequencies=frequencies)
    up = Kinetics(kind="kinetics", name="pulses_up", amplitudes=tuple(heights), widths=widths)
    down = Kinetics(
        kind="kinetics", name="pulses_down", amplitudes=tuple(-h for h in heights), widths=widths, prepare=(volt, half)
    )
    keep = Retention(kind="retention", name="retention", program=(volt, half), first=period, last=1e4 * period)
    return SweepCard(device=device, experiments=(loops, up, down, keep))


def _port(experiment: Experiment, ports: Sequence[str], name: str | None = None) -> str:
    wanted = name or experiment.port or ports[0]
    if wanted not in ports:
        raise InputError(
            f"experiment '{experiment.name}': the device has no port '{wanted}'. Ports: {', '.join(ports)}."
        )
    if getattr(experiment, "series", 0.0) > 0 and wanted != ports[0] and wanted == (experiment.port or ports[0]):
        raise InputError(
            f"experiment '{experiment.name}': a series resistance stands before port {ports[0]} only. Drive that port."
        )
    return wanted


def _with(grid: tuple[float, ...], reads: Sequence[float], span: tuple[float, float], points: int) -> tuple[float, ...]:
    """Return the grid with the readings, and ``points`` within ``span`` spread evenly over its decades and over its length."""
    a, b = span
    more = [np.linspace(a, b, points), a + (b - a) * np.geomspace(1e-4, 1.0, points)] if points else []
    every = np.unique(np.concatenate([np.array(grid), np.array(reads), *more]))
    # Points that rounding sets side by side would be steps of no length.
    every = every[np.concatenate([[True], np.diff(every) > 1e-12 * every[-1]])]
    every[-1] = grid[-1]
    return tuple(every.tolist())
