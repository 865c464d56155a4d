"""Characterisation: stimuli, splits, decks, and waveforms that an engine made, against other routes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from memprop.circuit.cell import Cell, TextSubCircuit, find_cell, load_cell
from memprop.cli import app
from memprop.errors import InputError, SimulationError
from memprop.flow.characterise import (
    CharacteriseSettings,
    characterise,
    depends_on_temperature,
    draw,
    splits_of,
    spread_value,
)
from memprop.flow.stimuli import FAMILIES, Drive, drive_of, parse_numbers, parse_range, random_current
from memprop.spice.cache import ResultCache
from memprop.twin.cell import CellTwin
from memprop.twin.fitting.waveforms import CellWaveforms

DRIVE = Drive(-2e-5, 4e-5, 50e-6, 10e-6, 100)
QUIET = Console(quiet=True)


@pytest.mark.parametrize("family", FAMILIES)
def test_stimuli_start_at_zero_stay_in_range_and_reach_over_it(family: str) -> None:
    drawn = np.array([random_current(DRIVE, family, np.random.default_rng(k)) for k in range(200)])
    assert (drawn[:, 0] == 0).all()
    assert drawn.min() >= DRIVE.low
    assert drawn.max() <= DRIVE.high
    assert drawn.min() < 0.8 * DRIVE.low
    assert drawn.max() > 0.8 * DRIVE.high
    peaks = np.abs(drawn).max(1)
    assert peaks.min() < 0.1 * peaks.max()  # small signals too


def test_range_of_one_sign_is_kept_and_unknown_family_refused() -> None:
    drawn = np.array([random_current(replace(DRIVE, low=1e-6), "noise", np.random.default_rng(k)) for k in range(50)])
    assert drawn[:, 1:].min() >= 1e-6
    with pytest.raises(InputError, match="family 'bang' of stimuli is unknown"):
        random_current(DRIVE, "bang", np.random.default_rng(0))


def test_more_runs_and_other_cells_leave_earlier_runs_as_they_are() -> None:
    few = draw(load_cell("mif"), CharacteriseSettings(DRIVE, 40, spread=0.2))
    many = draw(load_cell("mif"), CharacteriseSettings(DRIVE, 90, spread=0.2))
    assert all(
        np.array_equal(a.current, b.current) and a.parameters == b.parameters for a, b in zip(few, many, strict=False)
    )
    assert splits_of(40, 0) == splits_of(90, 0)[:40]
    assert draw(load_cell("mif"), CharacteriseSettings(DRIVE, 3, spread=0.2, seed=1))[0].parameters != few[0].parameters


def test_splits_are_70_15_15_and_never_empty() -> None:
    names = splits_of(200, 5)
    assert [names.count(s) for s in ("fit", "validation", "held_out")] == [140, 30, 30]
    for runs in range(3, 20):
        assert set(splits_of(runs, 1)) == {"fit", "validation", "held_out"}


def test_spread_has_the_standard_deviation_it_says_and_a_stream_per_parameter() -> None:
    cell = load_cell("mif")
    found = np.array([[spread_value(cell, n, 0.3, [0, k]) for n in ("c", "voff")] for k in range(4000)])
    relative = found / [1e-10, -0.005]
    assert np.allclose(relative.mean(0), 1.0, atol=0.02)
    assert np.allclose(relative.std(0), 0.3, atol=0.02)
    assert abs(np.corrcoef(relative.T)[0, 1]) < 0.05


def test_waveforms_of_the_engine_are_those_of_the_twin_at_a_small_step(tmp_path: Path) -> None:
    cell = load_cell("mif")
    settings = CharacteriseSettings(DRIVE, 5, spread=0.3, workers=1)
    found = characterise(cell, settings, "ngspice", tmp_path, QUIET)
    import torch

    twin = CellTwin(5, found.step / 4, cell=cell, parameters=found.parameters, dtype=torch.float64)
    fine = np.arange(4 * (len(found.time) - 1) + 1) * found.step / 4
    current = np.array([np.interp(fine, found.time, i) for i in found.current])
    with torch.no_grad():
        mem = twin.trace(torch.tensor(current.T[:, None]))[::4, 0].numpy().T
    assert np.ptp(found.mem, axis=1).max() > 0.1
    assert np.abs(mem - found.mem).max() < 0.3e-3
    assert found.states.min() > 0
    assert found.states.max() < 1


def test_a_second_run_simulates_nothing_and_gives_the_same_bytes(tmp_path: Path) -> None:
    settings = CharacteriseSettings(DRIVE, 3, workers=1)
    first = characterise(load_cell("mif"), settings, "ngspice", tmp_path, QUIET).save(tmp_path / "a.nc").read_bytes()
    cache = ResultCache(tmp_path)
    assert len(cache) == 3
    cache.close()
    again = characterise(load_cell("mif"), settings, "ngspice", tmp_path, QUIET).save(tmp_path / "b.nc").read_bytes()
    assert first == again


def test_cell_that_fires_by_itself_starts_where_its_card_says(tmp_path: Path) -> None:
    cell = find_cell("threshold_neuron")
    drive, said = drive_of(cell, None, None, 200)
    assert "-0.0001 to 0.0001 A" in said
    assert drive.duration == pytest.approx(10e-6)
    found = characterise(cell, CharacteriseSettings(drive, 3, workers=1), "ngspice", tmp_path, QUIET)
    assert np.abs(found.mem[:, 0]).max() < 1e-3


def test_temperature_is_refused_for_cells_that_do_not_feel_it() -> None:
    assert not depends_on_temperature(load_cell("mif"))
    with pytest.raises(InputError, match="cell mif does not depend on the temperature"):
        draw(load_cell("mif"), CharacteriseSettings(DRIVE, 3, temperatures=(27.0, 85.0)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: replace(DRIVE, low=1.0), "give a range that rises"),
        (lambda: replace(DRIVE, duration=0.0), "both must be finite and positive"),
        (lambda: replace(DRIVE, corners=2), "at least 10 straight pieces"),
        (lambda: CharacteriseSettings(DRIVE, 2), "runs = 2: at least 3"),
        (lambda: CharacteriseSettings(DRIVE, spread=-1), "spread = -1 must be"),
        (lambda: CharacteriseSettings(DRIVE, temperatures=(1e3,)), "must be degrees Celsius"),
        (lambda: draw(load_cell("mif"), CharacteriseSettings(DRIVE, spread=0.1, parameters=("x",))), "mif has no parameter 'x'"),
        (lambda: parse_range("1"), "not of the form LOW:HIGH"),
        (lambda: parse_numbers("1,b", "temperatures"), "temperatures '1,b' are no numbers"),
    ],
)  # fmt: skip
def test_nonsense_is_refused(make: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()  # type: ignore[operator]


def test_card_without_stimulus_needs_range_and_duration() -> None:
    cell = load_cell("mif")
    bare = replace(cell, card=cell.card.model_copy(update={"stimulus": None}))
    with pytest.raises(InputError, match=r"card of mif has no \[stimulus\]"):
        drive_of(bare, None, 1e-4, 200)
    assert drive_of(bare, (-1e-6, 1e-6), 1e-4, 200)[0].rise == pytest.approx(2e-5)


def test_command_writes_file_and_figure(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["characterise", "mif", "--runs", "5", "--duration", "2e-5", "--corners", "40", "--workers", "1", "--out", str(tmp_path)],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "5 runs (3 fit, 1 validation, 1 held_out)" in done.output
    assert CellWaveforms.load(tmp_path / "waveforms.nc").runs == 5
    assert (tmp_path / "waveforms.png").stat().st_size > 10_000


def test_temperature_reaches_the_deck_of_a_cell_that_feels_it(tmp_path: Path) -> None:
    cell = load_cell("mif")
    text = cell.text.replace(".ends mif", "bheat ref mem i=1e-8*(temper-27)\n.ends mif")
    warm = Cell(cell.card, TextSubCircuit(text, "test"), cell.home)
    assert depends_on_temperature(warm)
    settings = CharacteriseSettings(DRIVE, 10, temperatures=(27.0, 77.0), workers=1)
    found = characterise(warm, settings, "ngspice", tmp_path, QUIET)
    assert found.temperatures.tolist() == [27.0] * 5 + [77.0] * 5
    rest = found.mem[:, 0]
    assert np.ptp(rest[:5]) < 1e-6
    # 0.5 uA through the two memristors at rest, about 50 kOhm and less in parallel
    assert 1e-3 < float(rest[5] - rest[0]) < 25e-3


def test_runs_that_fail_are_left_out_and_all_failing_is_an_error(tmp_path: Path) -> None:
    cell = load_cell("mif")
    broken = Cell(
        cell.card, TextSubCircuit(cell.text.replace("cmem mem ref {c}", "cmem mem ref {nothing}"), "test"), cell.home
    )
    with pytest.raises(SimulationError, match="deck 'mif"):
        characterise(broken, CharacteriseSettings(DRIVE, 3, workers=1), "ngspice", tmp_path, QUIET)
