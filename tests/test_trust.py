"""Ranges of twins: warnings, fits that twins compute with, and the trust region of a training."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from memprop import cli
from memprop.circuit.cell import load_cell
from memprop.data.encode import AlphaEncoder
from memprop.data.sets import Images, Split
from memprop.errors import CheckpointError, InputError, RangeWarning
from memprop.flow.characterise import CharacteriseSettings, characterise
from memprop.flow.fit_cell import FitCellSettings, fit_cell
from memprop.flow.stimuli import Drive
from memprop.flow.trust import TrustRegion
from memprop.learn.bptt import BPTTConfig, fit
from memprop.learn.checkpoint import load_checkpoint
from memprop.learn.training import History
from memprop.twin.cell import CellTwin
from memprop.twin.drive import Separable
from memprop.twin.fitted import FIT, FORMAT, GREY_BOX, Fitted, load_fit
from memprop.twin.network import Twin
from memprop.twin.ranges import Range, RangeWatch, ends_of, outside

MIF = load_cell("mif")
KNOWN = Range((-1e-5, 2e-5), (-0.5, 0.3))
QUIET = Console(quiet=True)
BUNDLE = Path(__file__).parents[1] / "netlists" / "digits_mif"
ENCODER = AlphaEncoder(duration=60e-6, onsets=(0.0,))


def fitted(**changes: Any) -> Fitted:
    return replace(
        Fitted(GREY_BOX, "mif", MIF.digest, 0.5e-6, {"c": 1.1, "von": 0.9}, KNOWN, 20, 60e-6, 120), **changes
    )


def drive(peak: float, points: int = 61) -> torch.Tensor:
    s = torch.linspace(0, 3, points, dtype=torch.float64)
    return (peak * s * torch.exp(1 - s))[:, None, None].expand(-1, 1, 2)


def test_ranges_are_compared_in_words() -> None:
    assert outside(KNOWN, KNOWN) is None
    assert outside(KNOWN, Range((0.0, 3e-5), (0.0, 0.1))) == "current from 0 to 3e-05 A, fitted from -1e-05 to 2e-05 A"
    assert outside(KNOWN, Range((0.0, 2.02e-5), (0.0, 0.1)), slack=0.02) is None
    assert "membrane from nan" in str(outside(KNOWN, Range((0.0, 0.0), (float("nan"), 0.0))))
    assert KNOWN.joined(Range((0.0, 3e-5), (-1.0, 0.1))) == Range((-1e-5, 3e-5), (-1.0, 0.3))


def test_a_watch_warns_again_only_where_it_is_left_much_further() -> None:
    watch = RangeWatch("mif", KNOWN, (0.0, 1e-6))
    with pytest.warns(RangeWarning, match="twin of mif works where it was not fitted: membrane from -2 to 0 V, fitted"):
        watch.see((0.0, 0.0), (-2.0, 0.0), 1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch.see((0.0, 1e-5), (-2.1, 0.0), 1e-6)
    with pytest.warns(RangeWarning, match="membrane from -3 to 0 V, fitted from -0.5 to 0.3 V; time step from 2e-06"):
        watch.see((0.0, 0.0), (-3.0, 0.0), 2e-6)
    assert watch.seen == Range((0.0, 1e-5), (-3.0, 0.0))
    again = RangeWatch("mif", KNOWN)
    again.recall(json.loads(json.dumps(watch.record())))
    assert again.seen == watch.seen
    watch.forget()
    assert watch.seen is None
    assert watch.record() is None


def test_ends_of_a_separable_drive_are_those_of_the_product() -> None:
    parts = Separable(torch.tensor([0.0, 1.0, -0.5]), torch.tensor([[-3.0, 2.0]]))
    assert ends_of(parts) == ends_of(parts.expand()) == (-3.0, 2.0)


@pytest.mark.parametrize("method", ["auto", "general"])
def test_a_fitted_twin_has_the_factors_and_leaves_the_circuit_as_it_is(method: str) -> None:
    twin = CellTwin(2, 0.5e-6, parameters={"c": [1e-10, 2e-10]}, dtype=torch.float64, fitted=fitted(), method=method)
    other = CellTwin(
        2, 0.5e-6, parameters={"c": [1.1e-10, 2.2e-10], "von": 0.9 * 0.11}, dtype=torch.float64, method=method
    )
    plain = CellTwin(2, 0.5e-6, parameters={"c": [1e-10, 2e-10]}, dtype=torch.float64)
    torch.testing.assert_close(twin.trace(drive(5e-6)), other.trace(drive(5e-6)), rtol=0, atol=1e-12)
    assert list(twin.parameters_si["c"]) == [1e-10, 2e-10]
    torch.testing.assert_close(twin.reference, plain.reference)


def test_a_fitted_twin_warns_where_it_leaves_its_range_also_when_it_follows() -> None:
    twin = CellTwin(2, 0.5e-6, dtype=torch.float64, fitted=fitted(factors={}), offset=1e-6, gain=2.0)
    twin.trace(drive(5e-6))
    assert twin.watch is not None
    assert twin.watch.seen is not None
    assert twin.watch.seen.current == pytest.approx((1e-6, 1.1e-5), rel=1e-3)
    with pytest.warns(RangeWarning, match="current from 1e-06 to 4.1e-05 A, fitted from -1e-05 to 2e-05 A"):
        twin.trace(drive(20e-6))
    with pytest.warns(RangeWarning, match="membrane from 5 to 5 V"):
        twin.follow(drive(1e-6), torch.full((61, 1, 2), 5.0, dtype=torch.float64))
    with pytest.warns(RangeWarning, match="time step from 1e-06 to 1e-06 s, fitted from 5e-07 to 5e-07 s"):
        CellTwin(2, 1e-6, dtype=torch.float64, fitted=fitted()).trace(drive(1e-6))


def test_fits_of_others_are_refused() -> None:
    with pytest.raises(
        InputError, match="the fit is of cell mif with hash 000000000000, and cell mif has .*another netlist"
    ):
        CellTwin(1, fitted=fitted(cell_sha256="0" * 64))
    with pytest.raises(InputError, match="has a parameter 'gain'. Known: c, "):
        CellTwin(1, fitted=fitted(factors={"gain": 1.0}))
    with pytest.raises(InputError, match=r"mif.c = -1e-10"):
        CellTwin(1, fitted=fitted(factors={"c": -1.0}))
    twin = Twin((4, 2), ENCODER, dt=1e-6)
    with pytest.raises(InputError, match=r"the fit is of cell mif 000000000000 for a CellTwin; the network has mif"):
        twin.refit(fitted(cell_sha256="0" * 64))


def test_the_netlist_keeps_the_circuits_parameters() -> None:
    twin = Twin((4, 2, 3), ENCODER, dt=0.5e-6)
    before = twin.to_network("n")
    twin.refit(fitted(factors={"c": 1.2, "von": 1.3}))
    after = twin.to_network("n")
    for a, b in zip(before.populations, after.populations, strict=True):
        assert a.parameters == b.parameters
        assert a.rest == b.rest
    assert twin.populations[1].settles == (
        abs(float((twin.populations[0].rest - twin.populations[0].reference)[0, 0])) > 1e-6
    )


# Files


@cache
def narrow(folder: Path) -> Path:
    """Return a folder with a fit of currents up to 2 uA, far below what networks use."""
    waveforms = characterise(
        MIF,
        CharacteriseSettings(Drive(-2e-6, 2e-6, 60e-6, 12e-6, 120), 10, workers=1),
        "ngspice",
        folder / "waves",
        QUIET,
    )
    fit_cell(MIF, waveforms, FitCellSettings(0.5e-6, ("c", "tau"), engine=None, workers=1), folder / "fit", QUIET)
    return folder / "fit"


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return narrow(tmp_path_factory.mktemp("narrow"))


def test_a_fit_is_read_as_it_was_written(start: Path) -> None:
    found = load_fit(start)
    assert load_fit(start / FIT) == found
    content = json.loads((start / FIT).read_text())
    assert (found.kind, found.cell_sha256, found.dt) == (GREY_BOX, MIF.digest, 0.5e-6)
    assert found.factors == {name: one["factor"] for name, one in content["parameters"].items()}
    assert asdict(found.known)["current"] == tuple(content["range"]["current"])
    assert (found.runs, found.duration, found.corners) == (10, pytest.approx(60e-6), 120)
    assert set(found.errors) == {"held_out", "nominal"}


@pytest.mark.parametrize(
    "change",
    [{"format": FORMAT + 1}, {"kind": "magic"}, {"parameters": {"c": {"factor": "x"}}}, {"parameters": {"c": {}}},
     {"parameters": {"c": {"factor": float("nan")}}}, {"range": {"current": [2, 1]}}, {"range": 3}, {"dt": 0}, {"waveforms": []},
     {"report": {"errors": []}}],
)  # fmt: skip
def test_damaged_fits_are_input_errors(change: dict[str, Any], start: Path, tmp_path: Path) -> None:
    content = json.loads((start / FIT).read_text())
    (tmp_path / FIT).write_text(json.dumps(content | change))
    with pytest.raises(InputError, match=r"fit.json cannot be read as a fit .*memprop fit-cell"):
        load_fit(tmp_path)


def test_missing_and_binary_fits_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="fit.json is not there. Make it"):
        load_fit(tmp_path)
    (tmp_path / FIT).write_bytes(b"\xff\x00")
    with pytest.raises(InputError, match="cannot be read as a fit"):
        load_fit(tmp_path)


# A training that leaves the range


def images() -> Images:
    generator = np.random.default_rng(0)
    labels = np.arange(60, dtype=np.int64) % 2
    pixels = (generator.random((60, 4, 4)) * 80 + 170 * (np.indices((4, 4))[0] // 2 == labels[:, None, None])).astype(
        np.uint8
    )
    split = Split(pixels, labels)
    return Images("toy", split, split, 255)


CONFIG = BPTTConfig(3, 20, 2e-6, 4e-6, dt=0.5e-6, shift=0, validation=20, patience=9, checkpoint_s=0.0)


def trained(
    folder: Path, start: Path | None, config: BPTTConfig = CONFIG, on_step: Callable[[Any], None] = lambda _: None
) -> tuple[Twin, History]:
    twin = Twin((16, 3, 2), ENCODER, dt=0.5e-6, seed=1)
    trust = TrustRegion(folder / "trust", start, "ngspice", QUIET, workers=1)
    history = fit(twin, images(), config, checkpoint=folder / "training.safetensors", trust=trust, on_step=on_step)
    return twin, history


@pytest.mark.filterwarnings("ignore::memprop.errors.RangeWarning")
def test_a_training_that_leaves_the_range_gets_a_wider_fit_and_resumes_bit_for_bit(start: Path, tmp_path: Path) -> None:
    whole, history = trained(tmp_path / "a", start)
    assert history.refits
    first = history.refits[0]
    assert first["epoch"] == 0
    assert "current from" in first["why"]
    assert first["range"]["current"][1] > load_fit(start).known.current[1]
    assert first["rms"]["held_out"] < 1e-3
    assert (tmp_path / "a" / "trust" / "1" / "fit.png").is_file()
    now = load_fit(tmp_path / "a" / "trust" / str(len(history.refits)))
    for population in whole.populations:
        assert population.watch is not None
        assert population.watch.known == now.known
        assert outside(now.known, population.watch.seen or now.known, 0.02) is None
    assert history.best >= history.refits[-1]["epoch"]

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "b", start, on_step=Stop(after=3))
    again, second = trained(tmp_path / "b", None)
    assert second.validation == history.validation
    assert [one["why"] for one in second.refits] == [one["why"] for one in history.refits]
    for a, b in zip(whole.crossbars, again.crossbars, strict=True):
        assert torch.equal(a.weight, b.weight)


class Stop:
    """Interrupts a training after so many steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, progress: object) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore::memprop.errors.RangeWarning")
def test_a_checkpoint_with_another_fit_is_refused(start: Path, tmp_path: Path) -> None:
    trained(tmp_path, start, replace(CONFIG, epochs=1))
    content = json.loads((start / FIT).read_text())
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / FIT).write_text(json.dumps(content | {"dt": 0.25e-6}))
    with pytest.raises(CheckpointError, match="trust holds another fit than .*other"):
        trained(tmp_path, tmp_path / "other", replace(CONFIG, epochs=1))


@pytest.mark.filterwarnings("ignore::memprop.errors.RangeWarning")
def test_learning_in_the_loop_and_on_the_twin_before_it_take_a_fit(start: Path, tmp_path: Path) -> None:
    words = ["in-the-loop", str(BUNDLE), "--sigma", "0.2", "--epochs", "1", "--twin-epochs", "1", "--images", "4", "--batch", "2",
             "--validation", "2", "--test", "2", "--engine", "ngspice", "--run", str(tmp_path), "--workers", "1",
             "--fit", str(start)]  # fmt: skip
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    (summary,) = json.loads((tmp_path / "summary.json").read_text())["chips"]
    assert set(summary["accuracy"]) == {"ideal", "plain", "calibrated", "tuned"}
    assert summary["refits"]
    for name in ("trust", "trust_on_twin"):
        (folder,) = tmp_path.glob(f"*/{name}")
        assert load_fit(folder / "1").known.current[1] > load_fit(folder / "0").known.current[1]


@pytest.mark.filterwarnings("ignore::memprop.errors.RangeWarning")
def test_train_takes_a_fit_and_its_run_can_be_loaded(start: Path, tmp_path: Path) -> None:
    words = ["train", "digits", "--hidden", "4", "--epochs", "1", "--fit", str(start), "--run", str(tmp_path / "run"),
             "--out", str(tmp_path / "out"), "--images", "2", "--full-images", "0", "--workers", "1", "--name", "tiny"]  # fmt: skip
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    assert "left its range" in done.output
    _, notes = load_checkpoint(tmp_path / "run" / "training.safetensors")
    assert notes["history"]["refits"]
    shown = CliRunner().invoke(
        cli.app, ["simulate", str(tmp_path / "run"), "--images", "2", "--workers", "1", "--out", str(tmp_path / "sim")]
    )
    assert shown.exit_code == 0, shown.output
