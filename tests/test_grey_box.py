"""Grey-box fits, designs, metrics and calibration: against known parameters, scipy, and waveforms made by hand or in ngspice."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console
from scipy.optimize import least_squares
from typer.testing import CliRunner

from memprop.circuit.cell import find_cell, load_cell
from memprop.circuit.network import Network, Projection, population_of
from memprop.cli import app
from memprop.conductance.pair import ConductanceRange
from memprop.errors import InputError
from memprop.export.bundle import load_bundle
from memprop.flow.calibrate import CalibrationSettings, calibrate_network, choose, usual_drive
from memprop.flow.calibration_report import record, recovery
from memprop.flow.characterise import CharacteriseSettings, characterise
from memprop.flow.fit_cell import FitCellSettings, fit_cell, judge, parse_rule
from memprop.flow.stimuli import Drive
from memprop.twin.cell import CellTwin
from memprop.twin.fitting.design import design_stimuli
from memprop.twin.fitting.grey_box import fit_parameters
from memprop.twin.fitting.metrics import (
    SpikeErrors,
    SpikeRule,
    drift_of,
    range_of,
    spike_errors,
    spike_times,
)
from memprop.twin.fitting.predict import predict
from memprop.twin.fitting.waveforms import CellWaveforms, make_waveforms

Floats = NDArray[np.float64]
MIF = load_cell("mif")
TIME = np.linspace(0.0, 60e-6, 121)
QUIET = Console(quiet=True)
FREE = ("c", "tau", "von", "voff")


def pulses() -> Floats:
    s = TIME / 10e-6
    k = s * np.exp(1 - s)
    return np.array([20e-6 * k, -10e-6 * k, 5e-6 * np.sign(np.sin(TIME / 8e-6)) * (TIME > 0)])


def made(values: dict[str, Any], instances: int = 1) -> CellWaveforms:
    """Return waveforms of the twin itself, so that the truth is known to the last digit."""
    current = pulses()
    runs = len(current) * instances
    instance = np.repeat(np.arange(instances), len(current))
    given = {n: np.broadcast_to(v, instances)[instance] for n, v in values.items()}
    twin = CellTwin(runs, 0.5e-6, cell=MIF, parameters=given, dtype=torch.float64)
    drive = np.tile(current, (instances, 1))
    return make_waveforms(
        MIF, TIME, drive, predict(twin, drive), split=["fit"] * runs, stimulus=["alpha"] * runs, instance=instance, engine="twin",
    )  # fmt: skip


def test_fit_of_several_neurons_at_once_finds_the_parameters_that_made_the_waveforms() -> None:
    rng = np.random.default_rng(0)
    true = {n: MIF.card.parameters[n].default * np.exp(0.4 * rng.normal(size=5)) for n in FREE}
    fit = fit_parameters(made(true, 5), MIF, FREE, 0.5e-6, per_instance=True)
    for name in FREE:
        assert np.allclose(fit.values[name], true[name], rtol=1e-4), name
    assert fit.before.min() > 5e-3
    assert fit.after.max() < 1e-6
    assert fit.unknown() == []


def test_one_set_for_all_runs_is_what_scipy_finds() -> None:
    # waveforms of another step: no parameters fit exactly, so the minimum has a residual
    current = pulses()
    twin = CellTwin(1, 0.25e-6, cell=MIF, parameters={"c": 1.2e-10, "von": 0.1}, dtype=torch.float64)
    fine = np.array([np.interp(np.arange(241) * 0.25e-6, TIME, i) for i in current])
    waveforms = make_waveforms(
        MIF, TIME, current, predict(twin, fine)[:, ::2], split=["fit"] * 3, stimulus=["a"] * 3, engine="t"
    )
    fit = fit_parameters(waveforms, MIF, ("c", "von"), 0.5e-6)

    def residual(factors: Floats) -> Floats:
        values = {"c": 1e-10 * factors[0], "von": 0.11 * factors[1]}
        coarse = CellTwin(1, 0.5e-6, cell=MIF, parameters=values, dtype=torch.float64)
        return (predict(coarse, current) - waveforms.mem).ravel()

    other = least_squares(residual, [1.0, 1.0], xtol=1e-12, ftol=1e-12)
    assert np.allclose(fit.factors[0], other.x, rtol=2e-4)
    assert fit.after[0] <= 1.001 * np.sqrt(2 * other.cost / waveforms.mem.size)


def test_standard_errors_are_those_of_repeated_noise() -> None:
    clean = made({"c": 1.1e-10}, 60)
    noisy = clean.data["mem"] + np.random.default_rng(3).normal(scale=1e-3, size=clean.mem.shape)
    waveforms = CellWaveforms(clean.data.assign(mem=noisy))
    fit = fit_parameters(waveforms, MIF, ("c", "tau"), 0.5e-6, per_instance=True, noise=1e-3)
    for name, told in fit.errors.items():
        assert np.std(fit.values[name]) / np.mean(fit.values[name]) == pytest.approx(float(np.median(told)), rel=0.3)


def test_what_the_runs_do_not_show_is_said() -> None:
    still = replace(made({}), data=made({}).data.assign(current=(("run", "time"), np.zeros((3, 121)))))
    rest = CellTwin(1, 0.5e-6, cell=MIF, dtype=torch.float64).rest.item()
    still = CellWaveforms(still.data.assign(mem=(("run", "time"), np.full((3, 121), rest))))
    unknown = fit_parameters(still, MIF, ("c", "tau"), 0.5e-6).unknown()
    assert [(i, name) for i, name, _ in unknown] == [(0, "c"), (0, "tau")]
    assert "depend on it" in unknown[0][2]


def test_spread_known_of_the_runs_counts_for_one_set_and_not_for_single_neurons() -> None:
    spread = {"c": np.array([0.7e-10, 1.4e-10])}
    waveforms = made(spread, 2)
    known = CellWaveforms(
        waveforms.data.drop_vars(["param", "parameters"]).assign_coords(param=["c"])
        .assign(parameters=(("param", "run"), spread["c"][waveforms.instances][None]))
    )  # fmt: skip
    assert fit_parameters(known, MIF, ("c",), 0.5e-6).factors[0, 0] == pytest.approx(1.0, rel=1e-5)
    assert fit_parameters(known, MIF, ("c",), 0.5e-6, per_instance=True).values["c"] == pytest.approx(
        spread["c"], rel=1e-5
    )


@pytest.mark.parametrize(
    ("change", "free", "dt", "message"),
    [
        ({}, ("c", "c"), 0.5e-6, "free parameter 'c' of mif is unknown or there twice"),
        ({}, ("q",), 0.5e-6, "free parameter 'q' of mif is unknown"),
        ({}, (), 0.5e-6, "free parameter 'none'"),
        ({}, ("c",), 0.7e-6, "does not divide the runs"),
        ({"cell": "other"}, ("c",), 0.5e-6, "waveforms are of cell other, not of mif"),
    ],
)
def test_nonsense_is_refused(change: dict[str, Any], free: tuple[str, ...], dt: float, message: str) -> None:
    waveforms = CellWaveforms(made({}).data.assign_attrs(change))
    with pytest.raises(InputError, match=message):
        fit_parameters(waveforms, MIF, free, dt)


def test_waveforms_of_another_temperature_are_refused() -> None:
    hot = CellWaveforms(made({}).data.assign(temperature=("run", np.full(3, 85.0))))
    with pytest.raises(InputError, match="waveforms at 85 degrees Celsius: twins stand at 27"):
        fit_parameters(hot, MIF, ("c",))


def test_fit_at_a_neuron_that_was_not_fitted_is_refused() -> None:
    waveforms = made({}, 2)
    fit = fit_parameters(waveforms.take([0, 1, 2]), MIF, ("c",), per_instance=True)
    with pytest.raises(InputError, match=r"neuron 1 was not fitted\. Fitted: 0"):
        fit.twin(waveforms)


def test_twin_of_neither_one_cell_nor_one_per_run_is_refused() -> None:
    with pytest.raises(InputError, match="twin of 2 cells under 3 runs"):
        predict(CellTwin(2, 0.5e-6, dtype=torch.float64), pulses())


# Metrics


def gaussians(time: Floats, centres: list[float], width: float = 2e-6) -> Floats:
    return sum((0.1 * np.exp(-0.5 * ((time - c) / width) ** 2) for c in centres), np.zeros(len(time)))


def test_times_of_peaks_are_found_between_points() -> None:
    time = np.linspace(0, 100e-6, 201)
    found = spike_times(time, gaussians(time, [20.13e-6, 71.4e-6]), SpikeRule("peaks", 0.02))
    assert found == pytest.approx([20.13e-6, 71.4e-6], abs=30e-9)
    rise = spike_times(time, gaussians(time, [20.13e-6]), SpikeRule("crossings", 0.05))
    assert rise == pytest.approx([20.13e-6 - 2e-6 * np.sqrt(2 * np.log(2))], abs=30e-9)


def test_late_missed_and_extra_spikes_are_counted() -> None:
    time = np.linspace(0, 100e-6, 401)
    mem = np.array([gaussians(time, [20e-6, 50e-6, 80e-6]), gaussians(time, [30e-6])])
    twin = np.array([gaussians(time, [20.5e-6, 80e-6]), gaussians(time, [30e-6, 90e-6])])
    waveforms = make_waveforms(MIF, time, 0 * mem, mem, split=["held_out"] * 2, stimulus=["a"] * 2, engine="hand")
    found = spike_errors(waveforms, twin, time, SpikeRule("peaks", 0.05))
    assert (found.true, found.missed, found.extra) == (4, 1, 1)
    assert found.worst == pytest.approx(0.5e-6, abs=20e-9)
    assert len(found.relative) == 1  # 80 us after 50 us; the others are the first of their run
    none = spike_errors(waveforms, 0 * twin, time, SpikeRule("peaks", 0.05))
    assert (none.missed, none.extra, none.typical, none.worst) == (4, 0, 0.0, 0.0)


def test_spike_further_off_than_half_an_interval_is_another_one() -> None:
    time = np.linspace(0, 400e-6, 4001)  # 5 % of a run is 20 us, in which each would find the next
    rule = SpikeRule("peaks", 0.05)

    def found(true: list[float], ours: list[float]) -> SpikeErrors:
        mem = gaussians(time, true)[None]
        waveforms = make_waveforms(MIF, time, 0 * mem, mem, split=["held_out"], stimulus=["a"], engine="hand")
        return spike_errors(waveforms, gaussians(time, ours)[None], time, rule)

    train = list(10e-6 + 20e-6 * np.arange(18))
    shifted = found(train, [t + 12e-6 for t in train[:-1]])  # late by 0.6 of an interval: the next one, early by 0.4
    assert (shifted.missed, shifted.extra) == (1, 0)
    assert shifted.late == pytest.approx(-8e-6, abs=0.1e-6)
    pair = found([100e-6, 108e-6], [100e-6, 114e-6])
    assert (pair.missed, pair.extra) == (1, 1)
    assert found([100e-6], [114e-6]).missed == 0


def test_drift_is_the_error_of_each_tenth() -> None:
    true = np.zeros((2, 100))
    found = np.tile(np.repeat(np.arange(10.0), 10), (2, 1))
    assert drift_of(found, true).tolist() == list(range(10))


def test_rule_is_read_from_text() -> None:
    assert parse_rule("peaks:0.02") == SpikeRule("peaks", 0.02)
    assert parse_rule("crossings:-1") == SpikeRule("crossings", -1.0)
    assert parse_rule(None) is None
    for text in ("peaks", "peaks:0", "bangs:1", "crossings:nan"):
        with pytest.raises(InputError, match=r"give peaks:PROMINENCE"):
            parse_rule(text)


# In ngspice


@cache
def engine_waveforms(folder: Path) -> CellWaveforms:
    settings = CharacteriseSettings(Drive(-2e-5, 2e-5, 60e-6, 12e-6, 120), 20, workers=1)
    return characterise(MIF, settings, "ngspice", folder, QUIET)


def test_fitted_twin_at_the_training_step_follows_ngspice_on_runs_it_has_not_seen(tmp_path: Path) -> None:
    waveforms = engine_waveforms(tmp_path)
    fit = fit_parameters(waveforms.part("fit"), MIF, None, 0.5e-6)
    report, _, true = judge(fit.twin(waveforms), waveforms, SpikeRule("peaks", 0.01))
    assert np.ptp(true) > 0.3
    assert report.held_out.rms < 0.3e-3
    assert report.spikes.true > 0
    assert report.spikes.missed == report.spikes.extra == 0
    assert report.spikes.worst < 0.1e-6
    assert fit.after[0] <= fit.before[0]
    assert range_of(waveforms.part("fit")) == report.range


def test_fit_cell_writes_what_it_found_and_a_page(tmp_path: Path) -> None:
    waveforms = engine_waveforms(tmp_path / "c")
    settings = FitCellSettings(free=("c", "tau"), long_runs=3, timed_runs=1, workers=1)
    fit = fit_cell(MIF, waveforms, settings, tmp_path / "fit", QUIET)
    stored = json.loads((tmp_path / "fit" / "fit.json").read_text())
    assert stored["parameters"]["c"]["value"] == pytest.approx(float(fit.values["c"][0]))
    assert stored["cell_sha256"] == waveforms.data.attrs["cell_sha256"]
    assert len(stored["report"]["drift"]) == 10
    assert max(stored["report"]["drift"]) < 1e-3
    assert stored["report"]["times_faster_all_runs"] > 1
    assert min(one["cosine"] for one in stored["report"]["gradient"]) > 0.999
    assert all(0.98 < one["norm_ratio"] < 1.02 for one in stored["report"]["gradient"])
    assert stored["range"]["current"][0] < -5e-6
    assert (tmp_path / "fit" / "fit.png").stat().st_size > 30_000


def test_waveforms_of_another_version_of_the_cell_are_refused(tmp_path: Path) -> None:
    other = CellWaveforms(made({}).data.assign_attrs(cell_sha256="0" * 64))
    with pytest.raises(InputError, match="another version of cell mif"):
        fit_cell(MIF, other, FitCellSettings(engine=None), tmp_path, QUIET)


def test_one_pulse_down_leaves_parameters_unknown_and_the_design_does_not() -> None:
    labels, currents, design = choose(MIF, FREE, usual_drive(MIF), CalibrationSettings(stimuli=3))
    assert design.ranks[-1] == 4
    assert (design.errors[-1] < 0.12).all()  # of the worst draw, at 1 mV of noise per point
    assert (np.diff(design.errors, axis=0) <= 1e-9).all()
    assert currents.max() > 0 > currents.min()  # both memristors are excited
    assert len(labels) == 3
    weak = design_stimuli(MIF, FREE, TIME, -1e-9 * np.ones((1, 121)) * (TIME > 0), 1, 0.5e-6)
    assert (weak.errors[-1] > 1.0).any()
    with pytest.raises(InputError, match="2 stimuli are asked of 1 candidates"):
        design_stimuli(MIF, FREE, TIME, np.zeros((1, 121)), 2, 0.5e-6)


def chip(sigma: float) -> Network:
    rng = np.random.default_rng(1)
    populations = tuple(
        population_of(
            name,
            size,
            "mif",
            {n: MIF.card.parameters[n].default * np.exp(sigma * rng.normal(size=size)) for n in FREE},
            0.0,
        )
        for name, size in (("x1", 4), ("x2", 2))
    )
    g = np.full((3, 4), 1e-6), np.full((4, 2), 1e-6)
    projections = (Projection("x0", "x1", g[0], g[0]), Projection("x1", "x2", g[1], g[1]))
    return Network("chip", 3, populations, projections, ConductanceRange())


def test_calibration_in_ngspice_finds_each_neuron_of_a_spread_chip(tmp_path: Path) -> None:
    spread = chip(0.45)
    found, fits = calibrate_network(spread, "ngspice", CalibrationSettings(stimuli=3, workers=1), QUIET, cache=tmp_path)
    rows = recovery(spread, found, fits)
    assert len(rows) == 8
    assert max(r.median for r in rows) < 0.01
    assert max(r.worst for r in rows) < 0.03
    assert min(r.before for r in rows) > 0.05
    assert found.projections == spread.projections
    assert record(rows, fits, known=True)["against_chip"][0]["parameter"] == "c"


def test_calibration_from_a_file_and_neurons_that_are_not_in_it(tmp_path: Path) -> None:
    network, values = chip(0.3), {"c": 1.3e-10, "tau": 0.8e-4, "von": 0.12, "voff": -0.006}
    waveforms = made(values)
    lines = ["time,neuron,current,mem"]
    for run in range(waveforms.runs):
        lines += [
            f"{t!r},5,{i!r},{v!r}" for t, i, v in zip(TIME, waveforms.current[run], waveforms.mem[run], strict=True)
        ]
    path = tmp_path / "m.csv"
    path.write_text("\n".join(lines).replace("np.float64(", "").replace(")", "") + "\n")
    settings = CalibrationSettings()
    console = Console(record=True, width=200, file=io.StringIO())
    found, fits = calibrate_network(network, "ngspice", settings, console, measured=path)
    assert fits["x2"].instances == (1,)
    assert fits["x2"].values["c"][0] == pytest.approx(1.3e-10, rel=1e-3)
    assert np.asarray(found.populations[1].parameters["c"])[0] == 1e-10
    assert found.populations[0].parameters["c"] == 1e-10
    said = console.export_text()
    assert "x1: 4 neurons have no waveform and keep the card's values" in said
    path.write_text(path.read_text().replace(",5,", ",6,"))
    with pytest.raises(InputError, match="neuron 6 is not in network chip, which has 6"):
        calibrate_network(network, "ngspice", settings, QUIET, measured=path)


def test_nonsense_in_calibrations_is_refused() -> None:
    with pytest.raises(InputError, match="stimuli = 0"):
        CalibrationSettings(stimuli=0)
    with pytest.raises(InputError, match="noise = -1"):
        CalibrationSettings(noise=-1.0)
    bare = replace(MIF, card=MIF.card.model_copy(update={"stimulus": None}))
    with pytest.raises(InputError, match=r"card of mif has no \[stimulus\]"):
        usual_drive(bare)
    assert CalibrationSettings().names(find_cell("threshold_neuron")) == FREE
    assert CalibrationSettings(free=("c",)).names(MIF) == ("c",)


def test_commands_fit_and_calibrate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Path(__file__).parents[1] / "netlists" / "digits_mif"
    waveforms = made({"c": 1.05e-10})
    split = np.array(["fit", "held_out", "validation"])
    CellWaveforms(waveforms.data.assign(split=("run", split))).save(tmp_path / "w.nc")
    monkeypatch.chdir(tmp_path)
    given = ["fit-cell", "mif", "--waveforms", "w.nc", "--parameters", "c", "--dt", "5e-7", "--no-measure"]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    assert json.loads(Path("runs/mif/fit/fit.json").read_text())["parameters"]["c"]["value"] == pytest.approx(1.05e-10)
    done = CliRunner().invoke(
        app, ["calibrate", str(bundle), "--stimuli", "1", "--workers", "1", "--dt", "5e-7", "--out", "found"]
    )
    assert done.exit_code == 0, done.output
    network, found = load_bundle(bundle)[0], load_bundle(Path("found"))[0]
    for one, other in zip(network.projections, found.projections, strict=True):
        assert np.array_equal(one.g_plus, other.g_plus)
    assert np.allclose(np.asarray(found.populations[0].parameters["c"]), 1e-10, rtol=2e-3)
    assert len(json.loads(Path("found/calibration.json").read_text())["fits"]) == 2


def test_a_fit_that_helps_no_other_run_is_said(tmp_path: Path) -> None:
    waveforms = made({"c": [1.2e-10, 1e-10]}, 2)  # the fit sees the first three runs, validation is the card itself
    split = np.array(["fit"] * 3 + ["validation", "held_out", "held_out"])
    console = Console(record=True, width=200, file=io.StringIO())
    waveforms = CellWaveforms(waveforms.data.assign(split=("run", split)))
    fit_cell(MIF, waveforms, FitCellSettings(free=("c",), engine=None), tmp_path, console)
    assert "the fit is no gain" in console.export_text()
