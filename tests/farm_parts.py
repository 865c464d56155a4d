"""What the workers of the tests of the farm import: reducing functions and engines that only pretend."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from memprop.deck.deck import Deck, Transient
from memprop.errors import ConvergenceError, EngineError, OutputError, SimulationError, SimulationTimeout


def rc(volts: float, tau: float = 1e-3, stop: float = 5e-3) -> Deck:
    """A resistor charges a capacitor: b(t) = volts (1 - exp(-t/tau))."""
    text = f"v1 a 0 pwl(0 0 1n {volts!r})\nr1 a b 1k\nc1 b 0 {tau / 1e3!r}\n"
    return Deck("rc", {"rc.inc": text}, Transient(stop, stop / 200), ("b",), options={"reltol": 1e-5})


def titled(*titles: str) -> list[Deck]:
    return [Deck(title, {"a.inc": title}, Transient(1.0, 1.0), ("b",)) for title in titles]


def last(recording: xr.Dataset) -> dict[str, np.ndarray]:
    return {"last": np.array(float(recording["b"][-1]))}


def mean(recording: xr.Dataset) -> dict[str, np.ndarray]:
    return {"mean": np.array(float(recording["b"].mean()))}


def large(recording: xr.Dataset) -> dict[str, np.ndarray]:
    return {"last": np.array(float(recording["b"][-1])), "waste": np.zeros(50_000)}


def broken(recording: xr.Dataset) -> dict[str, np.ndarray]:
    return {"last": recording["nobody"].values}


def words(recording: xr.Dataset) -> dict[str, Any]:
    return {"last": last(recording)["last"], "unit": "V"}


def pair(recording: xr.Dataset) -> Any:
    return float(recording["b"][0]), float(recording["b"][-1])


@dataclass
class Pretend:
    """An engine that does what the first word of a title says, and writes down in ``folder`` what it ran."""

    folder: Path
    delay: float = 0.0
    name: str = "pretend-1"

    def run(self, deck: Deck, timeout_s: float = 600.0) -> xr.Dataset:
        with (self.folder / "ran").open("a") as file:
            file.write(f"{deck.title}\n")
        word, _, _ = deck.title.partition(" ")
        first = word.endswith("once") and self._first(deck.title)
        if word == "fails":
            raise ConvergenceError(deck.title, "timestep too small.")
        if word == "dies" or (word == "dies-once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "late" or (word == "late-once" and first):
            raise SimulationTimeout(deck.title, f"no end after {timeout_s:g} s.")
        if word == "gone":
            raise EngineError("the engine is gone. Install it again.")
        if word == "crash":
            raise RuntimeError("a bug")
        if word == "disk":
            raise OSError(28, "No space left on device")
        if word == "unwritten":
            raise OutputError("cannot write deck.cir. Free some space.")
        time.sleep(30.0 if word == "hangs" else self.delay)
        return xr.Dataset({"b": ("time", [0.0, float(len(deck.title))])}, coords={"time": [0.0, 1.0]})

    def _first(self, title: str) -> bool:
        try:
            (self.folder / title).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def abort(self) -> None: ...

    def close(self) -> None: ...


@dataclass
class Batching(Pretend):
    """The same with batches."""

    def run_batch(self, decks: Sequence[Deck], timeout_s: float) -> Iterator[xr.Dataset | SimulationError]:
        with (self.folder / "batches").open("a") as file:
            file.write(f"{len(decks)}\n")
        for deck in decks:
            try:
                yield self.run(deck, timeout_s)
            except SimulationError as error:
                yield error


@dataclass
class Absent(Pretend):
    """An engine that is missing where the workers are."""

    here: int = 0

    def __post_init__(self) -> None:
        self.here = self.here or os.getpid()
        if self.here != os.getpid():
            raise EngineError("ngspice not found in PATH. Install it.")


@dataclass
class Deadly(Absent):
    """An engine that takes its worker down at once."""

    def __post_init__(self) -> None:
        self.here = self.here or os.getpid()
        if self.here != os.getpid():
            print("out of luck", flush=True)  # noqa: T201
            os._exit(3)


@dataclass
class Doomed(Absent):
    """An engine that is made after ``times`` workers were killed on their way, as where memory is short."""

    times: int = 1

    def __post_init__(self) -> None:
        self.here = self.here or os.getpid()
        if self.here == os.getpid():
            return
        for k in range(self.times):
            if self._first(f"killed{k}"):
                os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Moody:
    """ngspice, but the decks with the digests in ``bad`` fail; writes down in ``folder`` what it ran."""

    folder: Path
    bad: tuple[str, ...] = ()
    name: str = "moody"

    def run(self, deck: Deck, timeout_s: float = 600.0) -> xr.Dataset:
        with (self.folder / "ran").open("a") as file:
            file.write(f"{deck.digest}\n")
        if deck.digest in self.bad:
            raise ConvergenceError(deck.title, "timestep too small.")
        from memprop.spice.ngspice import NgspiceEngine

        return NgspiceEngine().run(deck, timeout_s)

    def abort(self) -> None: ...

    def close(self) -> None: ...


def ran(folder: Path) -> list[str]:
    path = folder / "ran"
    return path.read_text().splitlines() if path.is_file() else []


def marked(mark: bytes) -> dict[int, str]:
    """Return the processes with an entry in their environment, with their commands."""
    found: dict[int, str] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (path / "environ").read_bytes():
                found[int(path.name)] = (path / "comm").read_text().strip()
        except OSError:
            continue
    return found


def wait_for(ready: Any, seconds: float = 30.0) -> bool:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
