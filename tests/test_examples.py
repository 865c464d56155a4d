"""The examples run, at small size, and are short enough to read."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.integrate import solve_ivp

EXAMPLES = Path(__file__).parents[1] / "examples"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_has_at_most_60_lines(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 60


def test_digits_example_learns_and_ngspice_agrees(tmp_path: Path) -> None:
    found = _load("01_digits").main(tmp_path / "bundle", epochs=8, images=16)
    assert found.images == 16
    assert found.spice_correct >= 0.7
    assert found.agreement == 1.0
    assert found.rms < 1e-3
    assert found.peak < 5e-3


def test_mnist_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = _load("02_mnist")
    data = module.memprop.load("mnist")
    small = module.memprop.Images(
        "mnist", type(data.train)(data.train.images[:3000], data.train.labels[:3000]), data.test, 255
    )
    monkeypatch.setattr(module.memprop, "load", lambda name: small)
    found = module.main(tmp_path, epochs=1, images=4, hidden=10)
    assert found.images == 4
    assert found.agreement == 1.0
    assert (tmp_path / "bundle" / "manifest.json").is_file()


def test_own_neuron_is_the_rc_it_says_it_is() -> None:
    def slope(t: float, v: np.ndarray) -> np.ndarray:
        drive = 19e-6 * 0.1 * (t / 10e-6) * np.exp(1 - t / 10e-6)
        return (drive - v / 100e3) / 1e-10

    expected = solve_ivp(slope, (0, 100e-6), [0.0], max_step=0.1e-6, rtol=1e-8, atol=1e-12).y.max()
    assert _load("03_own_neuron").main() == pytest.approx(expected, rel=1e-3)


def test_own_device_is_trained_and_simulated_in_two_engines() -> None:
    found = _load("04_own_device").main(epochs=2, images=3)
    assert set(found) == {"ngspice", "vacask"}
    for comparison in found.values():
        assert comparison.images == 3
        assert comparison.agreement == 1.0
        assert comparison.rms < 0.5e-3


def test_own_rule_learns_digits() -> None:
    """Logistic regression reaches about 95 % on this set; a few epochs of it, in 32 levels, a little less."""
    assert _load("06_own_rule").main(epochs=8) >= 0.9
