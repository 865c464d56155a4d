"""Use your own PySpice neuron in a network: here a leaky integrator, an RC, in place of the memristive neuron.

python examples/03_own_neuron.py
"""

from __future__ import annotations

import numpy as np
import torch
from PySpice.Spice.Netlist import SubCircuit

import memprop


class LeakyIntegrator(SubCircuit):
    """Membrane capacitor and leak; ports as every neuron cell has them."""

    def __init__(self) -> None:
        super().__init__("leaky", "mem", "e1", "e2", "ref", c=1e-10)
        self.C("mem", "mem", "ref", "{c}")
        self.R("leak", "mem", "ref", 100e3)
        self.R("e1", "e1", "ref", 1e9)  # the rails are there for all neurons; this one hardly uses them
        self.R("e2", "e2", "ref", 1e9)


def main() -> float:
    """Return the membrane in V after 100 us at 0.1 V on a row with 20 uS - 1 uS."""
    synapse = memprop.Projection("x0", "x1", g_plus=np.array([[20e-6]]), g_minus=np.array([[1e-6]]))
    network = memprop.Network(
        "own", 1, (memprop.population_of("x1", 1, LeakyIntegrator(), {}, 0.0),), (synapse,), memprop.ConductanceRange()
    )
    encoder = memprop.AlphaEncoder(rise=10e-6, onsets=(0.0,))
    circuit = memprop.elaborate(network, "full", encoder.stimulus(torch.ones(1)))
    recording = memprop.make_engine("ngspice").run(memprop.make_deck(circuit, 0.25e-6, encoder.duration))
    membrane = recording["x1_col0_mem"]
    when = float(membrane.idxmax("time"))
    print(f"peak {1e3 * float(membrane.max()):.2f} mV at {1e6 * when:.1f} us")
    return float(membrane.max())


if __name__ == "__main__":
    main()
