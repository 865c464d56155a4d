"""Waveforms of cells: the file and back, damaged files, and CSV files of measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memprop.circuit.cell import load_cell
from memprop.errors import InputError
from memprop.twin.fitting.waveforms import CellWaveforms, make_waveforms

TIME = np.arange(6) * 1e-6
SPLIT = ["fit", "validation", "held_out", "fit"]


def some(**changes: Any) -> CellWaveforms:
    rng = np.random.default_rng(0)
    given: dict[str, Any] = {
        "time": TIME, "current": rng.normal(size=(4, 6)), "mem": rng.normal(size=(4, 6)), "split": SPLIT,
        "stimulus": ["alpha", "train", "steps", "noise"], "states": {"x1.x": rng.normal(size=(4, 6))}, "engine": "ngspice-39",
        "parameters": {"c": [1e-10, 2e-10, 3e-10, 4e-10]}, "instance": [0, 1, 2, 7], "seed": 3, "max_step": 1e-8,
    }  # fmt: skip
    given |= changes
    return make_waveforms(load_cell("mif"), **given)


def test_round_trip_keeps_every_value_and_equal_waveforms_give_equal_bytes(tmp_path: Path) -> None:
    first = some()
    again = CellWaveforms.load(first.save(tmp_path / "a.nc"))
    for name in ("time", "current", "mem", "states"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert again.splits.tolist() == SPLIT
    assert again.stimuli.tolist() == ["alpha", "train", "steps", "noise"]
    assert again.instances.tolist() == [0, 1, 2, 7]
    assert again.state_names == ["x1.x"]
    assert again.parameters["c"].tolist() == [1e-10, 2e-10, 3e-10, 4e-10]
    assert again.temperatures.tolist() == [27.0] * 4
    assert again.data.attrs == first.data.attrs
    assert again.save(tmp_path / "b.nc").read_bytes() == some().save(tmp_path / "c.nc").read_bytes()


def test_waveforms_without_states_and_parameters_round_trip(tmp_path: Path) -> None:
    again = CellWaveforms.load(some(states=None, parameters=None).save(tmp_path / "a.nc"))
    assert again.states.shape == (0, 4, 6)
    assert again.parameters == {}


def test_part_and_take_choose_runs() -> None:
    assert some().part("fit").instances.tolist() == [0, 7]
    assert some().take([3, 1]).stimuli.tolist() == ["noise", "train"]
    with pytest.raises(InputError, match=r"split 'test' of waveforms is unknown\. Known: fit"):
        some().part("test")
    with pytest.raises(InputError, match="no run in the split 'held_out'"):
        some().part("fit").part("held_out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"time": TIME**2}, r"time is not uniform and rising in s"),
        ({"time": TIME[:2], "current": np.zeros((4, 2)), "mem": np.zeros((4, 2)), "states": None}, "at least 3 points"),
        ({"mem": np.full((4, 6), np.nan)}, "'mem' holds values that are no finite numbers"),
        ({"split": ["fit"] * 3 + ["test"]}, "split 'test' is unknown"),
        ({"instance": [0, 1, 2, -1]}, "'instance' must be whole numbers from 0"),
        ({"current": np.zeros((4, 5))}, "do not fit together"),
    ],
)
def test_waveforms_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        some(**changes)


def test_missing_attribute_variable_or_other_format_is_refused() -> None:
    data = some().data
    with pytest.raises(InputError, match="attribute 'engine' is None"):
        CellWaveforms(data.assign_attrs(engine=None))
    with pytest.raises(InputError, match="format 2 is not 1"):
        CellWaveforms(data.assign_attrs(format=2))
    with pytest.raises(InputError, match="variable 'mem' is missing"):
        CellWaveforms(data.drop_vars("mem"))


def test_damaged_files_are_input_errors(tmp_path: Path) -> None:
    good = some().save(tmp_path / "a.nc").read_bytes()
    with pytest.raises(InputError, match="are not there"):
        CellWaveforms.load(tmp_path / "none.nc")
    rng = np.random.default_rng(1)
    for k, content in enumerate(
        [b"", b"hello", good[:40], good[: len(good) // 2], rng.bytes(500), b"CDF\x01" + rng.bytes(200)]
    ):
        path = tmp_path / f"bad{k}.nc"
        path.write_bytes(content)
        with pytest.raises(InputError, match=rf"bad{k}\.nc"):
            CellWaveforms.load(path)


def csv_file(folder: Path, text: str) -> Path:
    path = folder / "m.csv"
    path.write_text(text)
    return path


def test_csv_is_resampled_and_runs_are_told_apart(tmp_path: Path) -> None:
    rows = [
        (t, n, 1e-6 * (1 + n) * t / 5e-6, 0.1 * t / 5e-6)
        for n in (0, 4) for _ in range(2) for t in (0.0, 1e-6, 2.5e-6, 4e-6, 5e-6)
    ]  # fmt: skip
    text = "# measured\ntime_s,neuron,current,mem\n" + "".join(",".join(map(repr, row)) + "\n" for row in rows)
    found = CellWaveforms.from_csv(csv_file(tmp_path, text), load_cell("mif"), step=0.5e-6)
    assert found.instances.tolist() == [0, 0, 4, 4]
    assert found.current.shape == (4, 11)
    assert np.allclose(found.current[2], 5e-6 * found.time / 5e-6, rtol=1e-12)
    assert np.allclose(found.mem, 0.1 * found.time / 5e-6, rtol=1e-9)
    assert set(found.stimuli) == {"measured"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ("time,current\n0,1\n", "no column 'mem'"),
        ("time,current,mem\n0,1,x\n", "line 2: mem is 'x', no number"),
        ("time,current,mem\n0,1\n", "line 2: mem is missing"),
        ("time,current,mem\n0,1,nan\n", "line 2: mem is nan, which is not finite"),
        ("time,neuron,current,mem\n0,1.5,1,1\n", "neuron 1.5 is no whole number"),
        ("time,current,mem\n0,1,1\n0,1,1\n", r"line 3: time 0\.0 s is there twice"),
        ("time,current,mem\n0,1,1\n1,1,1\n", "2 points, at least 3 are needed"),
        (
            "time,neuron,current,mem\n" + "".join(f"{t},{n},0,0\n" for n in (0, 1) for t in range(3 + 3 * n)),
            "must last equally long",
        ),
    ],
)
def test_nonsense_in_csv_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CellWaveforms.from_csv(csv_file(tmp_path, text), load_cell("mif"))


def test_csv_step_that_leaves_no_points_is_refused(tmp_path: Path) -> None:
    text = "time,current,mem\n" + "".join(f"{t},0,0\n" for t in range(5))
    with pytest.raises(InputError, match="fewer than 3 points"):
        CellWaveforms.from_csv(csv_file(tmp_path, text), load_cell("mif"), step=3.0)
    with pytest.raises(InputError, match="are not there"):
        CellWaveforms.from_csv(tmp_path / "no.csv", load_cell("mif"))
