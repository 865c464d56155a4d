"""Use your own device in a network: one Verilog-A file, a cell around it, trained as a circuit, simulated in two engines.

The folder `leaky_switch` beside this file holds all there is to write: the device, the cell as a subcircuit, its card. The
twin, the subcircuit for ngspice and the compiled model for VACASK are made from them.

python examples/04_own_device.py
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import memprop
from memprop.errors import EngineError


def main(epochs: int = 12, images: int = 20) -> dict[str, memprop.Comparison]:
    """Return twin against SPICE on test digits, by engine."""
    cell = memprop.find_cell(str(Path(__file__).parent / "leaky_switch"))
    device = cell.devices()["leaky_switch.va"]
    print(f"device {device.name}: ports {' '.join(device.equations.ports)}; parameters {', '.join(device.parameters)}")

    data = memprop.load("digits")
    twin = memprop.Twin((data.rows, 24, data.classes), cell=cell)
    settings = memprop.BPTTConfig(
        epochs, 64, rate_input=1e-6, decay=3e-3, dt=1e-6, temperature=10e-3, shift=0, validation=138, patience=epochs
    )
    memprop.fit(twin, data, settings)

    network = twin.to_network("own_device")
    chosen = memprop.image_order(data)[:images].tolist()
    found: dict[str, memprop.Comparison] = {}
    for name in ("ngspice", "vacask"):
        try:
            with closing(memprop.make_engine(name)) as engine:
                results = memprop.simulate_images(network, twin.encoder, data, chosen, engine)
        except EngineError as error:  # VACASK is optional
            print(f"{name}: {error}")
            continue
        found[name] = result = memprop.compare(twin, data, results.done)
        right = f"{result.spice_correct:.1%} right, twin {result.twin_correct:.1%}"
        print(f"{name}: {right}; membranes {1e3 * result.rms:.3f} mV rms apart")
    return found


if __name__ == "__main__":
    main()
