"""Waveforms of single cells on one uniform time grid, in one versioned file; what fits learn from and are judged by."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from memprop.circuit.cell import Cell
from memprop.errors import InputError
from memprop.files import write_atomic
from memprop.twin.fitting.measured import FEWEST, read_measured

Floats = NDArray[np.float64]
FORMAT = 1
SPLITS = ("fit", "validation", "held_out")
FILE = "waveforms.nc"
MEASURED = "measured"
"""Family of stimuli that came from outside."""
_RUN = {"split": ("run",), "stimulus": ("run",), "temperature": ("run",), "instance": ("run",)}
_SHAPES: Mapping[str, tuple[str, ...]] = {
    "current": ("run", "time"), "mem": ("run", "time"), "states": ("state", "run", "time"), "parameters": ("param", "run"), **_RUN,
}  # fmt: skip
_ATTRS: Mapping[str, type] = {
    "cell": str, "cell_sha256": str, "engine": str, "memprop": str, "seed": int, "max_step": float, "format": int,
}  # fmt: skip
_MOST = 20_000_000
"""Numbers in one variable that a file may ask for."""


@dataclass(frozen=True, slots=True)
class CellWaveforms:
    """Waveforms of many runs of one cell, checked when made.

    ``data`` has the coordinate ``time`` in s, uniform from 0, and the variables ``current`` in A into ``mem``, straight between
    time points, ``[run, time]``; ``mem`` in V, ``[run, time]``; ``states``, ``[state, run, time]``; per run ``split``, ``stimulus``,
    ``temperature`` in degrees Celsius, ``instance`` (which neuron of a chip) and ``parameters`` ``[param, run]``, the cell's
    parameters that differ from its card. Attributes: ``format``, ``cell``, ``cell_sha256``, ``engine``, ``memprop``, ``seed`` and
    ``max_step`` in s. More variables per run may be there.

    Raises
    ------
    InputError: a variable is missing, has another shape or holds values that cannot be; or the format is another one.
    """

    data: xr.Dataset

    def __post_init__(self) -> None:
        _check(self.data, f"waveforms of cell {self.data.attrs.get('cell', '?')}")

    @property
    def time(self) -> Floats:
        """Time points in s, ``[T + 1]``."""
        return self.data["time"].values

    @property
    def step(self) -> float:
        """Distance of the time points in s."""
        return float(self.time[-1]) / (len(self.time) - 1)

    @property
    def current(self) -> Floats:
        """Current into the membrane in A, ``[run, T + 1]``."""
        return self.data["current"].values

    @property
    def mem(self) -> Floats:
        """Membrane in V, ``[run, T + 1]``."""
        return self.data["mem"].values

    @property
    def states(self) -> Floats:
        """Other recorded nodes, ``[state, run, T + 1]``."""
        return self.data["states"].values

    @property
    def state_names(self) -> list[str]:
        """Names of the recorded nodes in the cell."""
        return [str(name) for name in self.data["state"].values]

    @property
    def parameters(self) -> dict[str, Floats]:
        """Parameters that differ from the card, in SI units, each ``[run]``."""
        return {str(name): self.data["parameters"].values[k] for k, name in enumerate(self.data["param"].values)}

    @property
    def splits(self) -> NDArray[np.str_]:
        """Split of each run."""
        return self.data["split"].values

    @property
    def stimuli(self) -> NDArray[np.str_]:
        """Family of each run's stimulus."""
        return self.data["stimulus"].values

    @property
    def instances(self) -> NDArray[np.int64]:
        """Neuron of each run; 0 for a plain cell."""
        return self.data["instance"].values.astype(np.int64)

    @property
    def temperatures(self) -> Floats:
        """Temperature of each run, in degrees Celsius."""
        return self.data["temperature"].values

    @property
    def runs(self) -> int:
        """Number of runs."""
        return self.data.sizes["run"]

    def part(self, split: str) -> CellWaveforms:
        """Return the runs of one split.

        Raises
        ------
        InputError: the split is unknown or empty.
        """
        if split not in SPLITS:
            raise InputError(f"split '{split}' of waveforms is unknown. Known: {', '.join(SPLITS)}.")
        where = np.flatnonzero(self.splits == split)
        if not len(where):
            raise InputError(
                f"waveforms of cell {self.data.attrs['cell']} have no run in the split '{split}'. Make more runs."
            )
        return self.take(where)

    def take(self, runs: Sequence[int] | NDArray[Any]) -> CellWaveforms:
        """Return some runs, by number, in the given order."""
        return CellWaveforms(self.data.isel(run=np.asarray(runs)))

    def joined(self, *others: CellWaveforms) -> CellWaveforms:
        """Return these runs and those of ``others``, which must have the same times, states, parameters and cell.

        Raises
        ------
        InputError: they are of another cell, or do not fit.
        """
        for other in others:
            if other.data.attrs["cell_sha256"] != self.data.attrs["cell_sha256"]:
                raise InputError(
                    f"waveforms of cell {self.data.attrs['cell']} are to be joined with those of {other.data.attrs['cell']}, "
                    "another netlist. Characterise one cell for all of them."
                )
        try:
            both = xr.concat(
                [self.data, *(o.data for o in others)],
                "run",
                join="exact",
                combine_attrs="override",
                data_vars="minimal",
            )
        except ValueError as error:
            raise InputError(
                f"waveforms do not fit together: {error}. Make them on the same times and states."
            ) from error
        return CellWaveforms(both)

    def save(self, path: Path) -> Path:
        """Write the file, whole or not at all; equal waveforms give equal bytes.

        Raises
        ------
        OutputError: the file cannot be written.
        """
        buffer = io.BytesIO()
        parts = {str(name): (v.dims, v.values, v.attrs) for name, v in sorted(self.data.variables.items())}
        parts["instance"] = (("run",), self.instances.astype(np.int32), {})
        xr.Dataset(parts, attrs=self.data.attrs).to_netcdf(buffer, engine="scipy")  # type: ignore[call-overload]
        write_atomic(path, buffer.getvalue())
        return path

    @staticmethod
    def load(path: Path) -> CellWaveforms:
        """Return the waveforms of a file.

        Raises
        ------
        InputError: it is missing, damaged, or no file of waveforms.
        """
        try:
            with xr.open_dataset(io.BytesIO(path.read_bytes()), engine="scipy", decode_times=False) as data:
                wrong = [n for n, v in data.variables.items() if v.size > _MOST]
                if wrong:
                    raise InputError(f"{path}: '{wrong[0]}' asks for more than {_MOST} numbers. Make the file again.")
                return CellWaveforms(data.load())
        except FileNotFoundError as error:
            raise InputError(f"waveforms {path} are not there. Make them with `memprop characterise`.") from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        except Exception as error:  # readers of damaged bytes raise anything
            raise InputError(
                f"{path} cannot be read as waveforms ({type(error).__name__}: {error}). Make it again with `memprop characterise`."
            ) from error

    @staticmethod
    def from_csv(path: Path, cell: Cell, *, step: float | None = None, split: str = "fit") -> CellWaveforms:
        """Return measured waveforms of a CSV file, on a uniform grid.

        The header names the columns ``time`` (s), ``current`` (A, into the membrane), ``mem`` (V) and, where there are several
        neurons, ``neuron`` (a whole number); ``time_s``, ``current_a`` and ``mem_v`` are the same. Where the time of a neuron goes
        back, its next run begins. ``step`` in s is that of the grid; default the median distance of the points. All runs must
        last equally long.

        Raises
        ------
        InputError: the file or a row of it cannot be used; the message names the line.
        """
        grid, runs = read_measured(path, step)
        return make_waveforms(
            cell, grid, [run.current for run in runs], [run.mem for run in runs], split=[split] * len(runs),
            stimulus=[MEASURED] * len(runs), instance=[run.neuron for run in runs], engine=f"file {path.name}",
        )  # fmt: skip


def make_waveforms(
    cell: Cell, time: ArrayLike, current: ArrayLike, mem: ArrayLike, *,
    split: Sequence[str], stimulus: Sequence[str], engine: str,
    states: Mapping[str, ArrayLike] | None = None, parameters: Mapping[str, ArrayLike] | None = None,
    temperature: ArrayLike = 27.0, instance: ArrayLike = 0, seed: int = 0, max_step: float = 0.0, seconds: ArrayLike | None = None,
) -> CellWaveforms:  # fmt: skip
    """Return waveforms of ``cell`` from arrays; shapes and units as in `CellWaveforms`, ``states`` and ``parameters`` by name.

    ``seconds`` is what the engine took per run, in s, ``[run]``.

    Raises
    ------
    InputError: something does not fit together.
    """
    current, mem, time = (np.asarray(part, dtype=np.float64) for part in (current, mem, time))
    runs, points = len(split), len(time)
    inner, known = np.zeros((0, runs, points)), np.zeros((0, runs))
    if states:
        inner = np.stack([np.asarray(s, dtype=np.float64) for s in states.values()])
    if parameters:
        known = np.stack([np.broadcast_to(np.asarray(p, dtype=np.float64), runs) for p in parameters.values()])
    each = {
        "split": np.asarray(split, dtype=np.str_), "stimulus": np.asarray(stimulus, dtype=np.str_),
        "temperature": np.broadcast_to(np.asarray(temperature, dtype=np.float64), runs).copy(),
        "instance": np.broadcast_to(np.asarray(instance, dtype=np.int64), runs).copy(),
    }  # fmt: skip
    if seconds is not None:
        each["seconds"] = np.asarray(seconds, dtype=np.float64)
    values = {"current": current, "mem": mem, "states": inner, "parameters": known}
    units = {"current": "A", "mem": "V", "temperature": "degC", "seconds": "s"}
    variables = {
        name: (_SHAPES.get(name, ("run",)), value, {"units": units[name]} if name in units else {})
        for name, value in (values | each).items()
    }
    coords = {
        "time": ("time", time, {"units": "s"}), "state": ("state", np.asarray(list(states or {}), dtype=np.str_)),
        "param": ("param", np.asarray(list(parameters or {}), dtype=np.str_)),
    }  # fmt: skip
    attrs = {
        "format": FORMAT, "cell": cell.name, "cell_sha256": cell.digest, "engine": engine, "memprop": version("memprop"),
        "seed": int(seed), "max_step": float(max_step),
    }  # fmt: skip
    try:
        return CellWaveforms(xr.Dataset(variables, coords, attrs))
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"waveforms of cell {cell.name} do not fit together: {error}. Give one row per run, one column per time point."
        ) from error


def _check(data: xr.Dataset, where: str) -> None:
    for name, kind in _ATTRS.items():
        value = data.attrs.get(name)
        if not (isinstance(value, kind) or (kind is not str and np.isscalar(value) and np.isreal(value))):
            raise InputError(
                f"{where}: attribute '{name}' is {value!r}, which is missing or no {kind.__name__}. Make them again."
            )
    if int(data.attrs["format"]) != FORMAT:
        raise InputError(
            f"{where}: format {data.attrs['format']} is not {FORMAT}, which this version reads. Make them again."
        )
    for name, dims in _SHAPES.items():
        if name not in data.variables or data[name].dims != dims:
            found = tuple(data[name].dims) if name in data.variables else "missing"
            raise InputError(
                f"{where}: variable '{name}' is {found}; it must be there with dimensions {dims}. Make them again."
            )
    _check_time(data, where)
    _check_values(data, where)


def _check_time(data: xr.Dataset, where: str) -> None:
    time = data["time"].values if "time" in data.coords else np.zeros(0)
    if len(time) < FEWEST or not np.isfinite(time).all() or time[0] != 0 or not data.sizes["run"]:
        raise InputError(f"{where}: needs a run, and a time in s from 0 with at least {FEWEST} points. Give more.")
    even = np.linspace(0.0, time[-1], len(time))
    if time[-1] <= 0 or np.abs(time - even).max() > 1e-6 * time[-1] / len(time):
        raise InputError(f"{where}: time is not uniform and rising in s. Resample on a uniform grid, e.g. by from_csv.")


def _check_values(data: xr.Dataset, where: str) -> None:
    for name in ("current", "mem", "states", "parameters", "temperature"):
        values = data[name].values
        if values.dtype.kind != "f" or not np.isfinite(values).all():
            raise InputError(f"{where}: '{name}' holds values that are no finite numbers. Leave such runs out.")
    unknown = sorted({str(s) for s in data["split"].values} - set(SPLITS))
    if unknown:
        raise InputError(f"{where}: split '{unknown[0]}' is unknown. Known: {', '.join(SPLITS)}.")
    for name in ("state", "param"):
        names = [str(n) for n in data[name].values] if name in data.coords else [""] * data.sizes[name]
        if len(set(names)) != len(names) or "" in names:
            raise InputError(f"{where}: coordinate '{name}' has no unique names: {names}. Name each once.")
    if data["instance"].values.dtype.kind not in "iu" or (data["instance"].values < 0).any():
        raise InputError(f"{where}: 'instance' must be whole numbers from 0. Number the neurons.")
