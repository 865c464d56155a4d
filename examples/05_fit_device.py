"""Fit a memristor to measured curves, and hear which parameters they determine. Here ngspice and noise play the laboratory.

python examples/05_fit_device.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console

from memprop.device.library import load_device
from memprop.device.waveform import Hysteresis
from memprop.flow.drives import Curves, setup, simulate_drives
from memprop.flow.fit_device import DeviceFit, FitSettings, fit_device
from memprop.spice.engine import make_engine


def measure(path: Path) -> None:
    """Write three sweeps of a device, 0.35 to 0.5 V at 500 Hz, with noise of 1 % of the largest current."""
    device, random = load_device("mss_memristor"), np.random.default_rng(0)
    lines = ["curve,time (s),voltage (V),current (A)"]
    for amplitude in (0.35, 0.5, 0.42):
        sweep = Hysteresis(kind="hysteresis", name="sweep", amplitude=amplitude, frequencies=(500.0,), cycles=1)
        (curve,) = simulate_drives(
            setup(device, "knowm_stock"), sweep.drives(device.equations.ports), make_engine("ngspice")
        )
        if not isinstance(curve, Curves):
            raise curve
        current = curve.currents["p"] + 1e-5 * random.standard_normal(len(curve.time))
        points = list(zip(curve.time, curve.voltages["p"], current, strict=True))[::2]
        lines += [f"{amplitude} V,{t:.9g},{v:.9g},{i:.9g}" for t, v, i in points]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(folder: Path = Path("runs/example_fit")) -> DeviceFit:
    folder.mkdir(parents=True, exist_ok=True)
    measure(folder / "curves.csv")
    # start well away from the truth; sfa belongs to the Schottky current, which this device does not show
    settings = FitSettings(
        ("ron", "roff", "von", "voff", "tau", "sfa"), "knowm_stock",
        changes={"ron": 800.0, "roff": 1200.0, "von": 0.2, "voff": 0.35, "tau": 2e-4}, bounds={"sfa": (0.0, 1e-3)}, starts=2,
    )  # fmt: skip
    # on the command line: memprop fit-device curves.csv mss_memristor --parameters ron,roff,von,voff,tau,sfa ...
    return fit_device(folder / "curves.csv", "mss_memristor", "mine", folder, Console(), settings)


if __name__ == "__main__":
    main()
