"""Close the loop on MNIST, 784-100-10, with checkpoints: kill it and start it again. About twenty minutes on two cores.

python examples/02_mnist.py
"""

from __future__ import annotations

from pathlib import Path

import memprop


def main(
    folder: Path = Path("runs/example_mnist"), epochs: int = 10, images: int = 200, hidden: int = 100
) -> memprop.Comparison:
    data = memprop.load("mnist")
    twin = memprop.Twin((data.rows, hidden, data.classes), seed=1)
    config = memprop.BPTTConfig(epochs=epochs, dt=0.5e-6, seed=1)
    folder.mkdir(parents=True, exist_ok=True)
    memprop.fit(
        twin,
        data,
        config,
        checkpoint=folder / "training.safetensors",
        on_step=lambda at: print(
            f"\repoch {at.epoch + 1}, step {at.step} of {at.steps}, loss {at.loss:.3f}", end="", flush=True
        ),
    )
    print(f"\ntwin {100 * memprop.twin_accuracy(twin, data):.2f} % on the test set")

    network = twin.to_network("example_mnist")
    engine = memprop.make_engine("ngspice")
    some = memprop.image_order(data)[:images].tolist()
    # finished images are kept in the cache, so an interrupted run goes on
    settings = memprop.SpiceSettings(cache=folder / "spice")
    results = memprop.simulate_images(network, twin.encoder, data, some, engine, settings)
    found = memprop.compare(twin, data, results.done)
    print(
        f"ngspice {100 * found.spice_correct:.1f} % on {found.images} images, same class as the twin {100 * found.agreement:.1f} %"
    )

    measured = memprop.summarise(found, memprop.twin_accuracy(twin, data), None, results, len(data.test.labels))
    origin = memprop.provenance(twin, data, engine, measured, config.seed)
    memprop.export_bundle(folder / "bundle", network, twin.encoder, data, [("reduced", results.done[some[0]])], origin)
    return found


if __name__ == "__main__":
    main()
