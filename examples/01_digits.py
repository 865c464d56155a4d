"""Close the loop on scikit-learn's 8x8 digits: train on the twin, write a netlist, let ngspice judge. About two minutes.

python examples/01_digits.py
"""

from __future__ import annotations

from pathlib import Path

import memprop


def main(folder: Path = Path("runs/example_digits"), epochs: int = 32, images: int = 100) -> memprop.Comparison:
    data = memprop.load("digits")

    # 64 rows -> 32 memristive neurons -> 10 memristive neurons, each crossbar a pair of conductances per weight
    twin = memprop.Twin((data.rows, 32, data.classes))
    # the time step of learning is coarser than that of the comparison with ngspice; both mean the same circuit
    config = memprop.BPTTConfig(
        epochs, 64, rate_input=1e-6, decay=3e-3, dt=1e-6, temperature=10e-3, shift=0, validation=138, patience=15
    )
    history = memprop.fit(twin, data, config)
    print(
        f"validation {100 * max(history.validation):.1f} %, twin {100 * memprop.twin_accuracy(twin, data):.1f} % on the test set"
    )

    # the same network as a circuit, simulated in ngspice
    network = twin.to_network("example_digits")
    engine = memprop.make_engine("ngspice")
    some = memprop.image_order(data)[:images].tolist()
    results = memprop.simulate_images(network, twin.encoder, data, some, engine)
    found = memprop.compare(twin, data, results.done)
    print(
        f"ngspice {100 * found.spice_correct:.1f} % on {found.images} images, same class as the twin {100 * found.agreement:.1f} %"
    )
    print(f"membranes differ by {1e3 * found.rms:.2f} mV rms, {1e3 * found.peak:.2f} mV at most")
    print(
        f"energy per image {1e9 * found.energy_crossbars:.1f} nJ crossbars, {1e9 * found.energy_neurons:.1f} nJ neurons"
    )

    # a folder that a designer can run with plain ngspice
    measured = memprop.summarise(found, None, None, results, len(data.test.labels))
    origin = memprop.provenance(twin, data, engine, measured, config.seed)
    memprop.export_bundle(folder, network, twin.encoder, data, [("reduced", results.done[some[0]])], origin)
    print(f"bundle: {folder}   try: memprop replay {folder}")
    return found


if __name__ == "__main__":
    main()
