"""The CMOS Axon-Hillock neuron: what its netlist does in ngspice, checked against circuit theory, and who takes the cell."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from memprop.circuit.cell import Cell, load_cell
from memprop.circuit.elaborate import elaborate
from memprop.circuit.netlist import read_netlist
from memprop.circuit.network import Network, Population, Projection
from memprop.circuit.stimulus import AlphaWave, Stimulus
from memprop.conductance.pair import ConductanceRange
from memprop.deck.deck import Deck, Transient
from memprop.deck.ngspice import make_deck
from memprop.deck.vacask import vacask_deck
from memprop.errors import BundleError, InputError
from memprop.export.scan import scan_cells
from memprop.spice.ngspice import NgspiceEngine
from memprop.spice.recording import Recording
from memprop.twin.cell import CellTwin

CELL = load_cell("axon_hillock")


@cache
def simulated(current: float, stop: float = 4e-5, **parameters: float) -> Recording:
    given = "".join(f" {name}={value!r}" for name, value in parameters.items())
    text = "\n".join([
        "v_e1 e1 0 1.8", "v_e2 e2 0 0.75", f"x_cell mem e1 e2 0 axon_hillock{given}",
        f"i_in 0 mem pwl(0 0 1e-6 0 1.1e-6 {current!r} 1 {current!r})", "",
    ])  # fmt: skip
    files = {"cells.inc": CELL.text, "test.inc": text}
    nodes = ("mem", "x_cell.inv", "x_cell.out")
    return NgspiceEngine().run(Deck("axon hillock", files, Transient(stop, 5e-8), nodes, options={"reltol": 1e-4}))


def spikes(recording: Recording) -> np.ndarray:
    time, out = recording["time"].values, recording["x_cell.out"].values
    return time[1:][(out[:-1] < 0.9) & (out[1:] >= 0.9)]


def test_starts_from_a_resting_point_at_ground() -> None:
    recording = simulated(0.0)
    assert np.abs(recording["mem"].values).max() < 1e-6
    assert np.abs(recording["x_cell.inv"].values - 1.8).max() < 1e-3


def test_rate_rises_with_current_and_membrane_stays_in_its_limits() -> None:
    periods = []
    for current in (3e-6, 5e-6, 1e-5):
        recording = simulated(current)
        periods.append(float(np.diff(spikes(recording))[-1]))
        limit = CELL.card.limits["mem"]
        assert limit.at_least < recording["mem"].values.min() < recording["mem"].values.max() < limit.at_most
    assert periods[0] > 1.3 * periods[1] > 1.3 * 1.2 * periods[2]
    assert 2e-6 < periods[2] < periods[0] < 3e-5


def test_leak_keeps_a_faint_current_from_firing() -> None:
    assert 1.5e-7 * 2e-4 / 2.8e-11 > 1.0  # without a leak it would fire
    assert len(spikes(simulated(1.5e-7, 2e-4))) == 0


def test_negative_current_is_clamped_by_the_junctions() -> None:
    assert -0.6 < simulated(-1e-5)["mem"].values.min() < -0.3


@pytest.mark.parametrize("cfb", [4e-12, 1.2e-11])
def test_spike_moves_the_membrane_by_the_capacitive_divider(cfb: float) -> None:
    recording = simulated(2e-5, 4e-5, cfb=cfb, wreset=4e-7)  # hardly any reset: the supply over the divider alone
    time, mem, out = (recording[name].values for name in ("time", "mem", "x_cell.out"))
    low, high = np.flatnonzero(out > 0.02)[0], np.flatnonzero(out > 1.78)[0]
    charged = 2e-5 * (time[high] - time[low]) / (2e-11 + cfb)
    jump = mem[high] - mem[low] - charged
    assert jump == pytest.approx((out[high] - out[low]) * cfb / (2e-11 + cfb), rel=0.05)


def test_a_spike_takes_several_steps_of_the_twin() -> None:
    recording = simulated(1e-5)
    time, out = recording["time"].values, recording["x_cell.out"].values
    assert np.abs(np.diff(out) / np.diff(time)).max() * 1e-7 < 0.6 * 1.8


def test_reader_knows_transistors_and_their_models() -> None:
    cell = read_netlist(CELL.text, "cell").subcircuits["axon_hillock"]
    reset = next(element for element in cell.elements if element.name == "mreset")
    assert (reset.kind, reset.nodes, reset.value) == ("m", ("mem", "out", "tail", "ref"), "nfet")
    assert (reset.parameters["w"], reset.parameters["l"], reset.parameters["pd"]) == ("wreset", "1e-6", "2*wreset+2e-6")
    assert cell.models["pfet"].kind == "pmos"
    assert cell.models["pfet"].parameters["vth0"] == "-0.45"


def test_bundle_may_hold_the_cell(tmp_path: Path) -> None:
    (tmp_path / "cells.inc").write_text(CELL.text, encoding="utf-8")
    scan_cells(tmp_path, "cells.inc")
    (tmp_path / "cells.inc").write_text(CELL.text.replace("cinv inv", ".control\ncinv inv"), encoding="utf-8")
    with pytest.raises(BundleError, match=r"cells\.inc.*\.control"):
        scan_cells(tmp_path, "cells.inc")


def _network() -> Network:
    one = np.full((2, 1), 2e-5)
    population = Population("x1", 1, CELL, {}, (0.0,))
    return Network("one", 2, (population,), (Projection("x0", "x1", one, np.full((2, 1), 1e-6)),), ConductanceRange())


def _deck() -> Deck:
    stimulus = Stimulus(np.array([0.1, 0.1]), AlphaWave(1e-5, (0.0,), 5e-5))
    return make_deck(elaborate(_network(), "full", stimulus), 1e-7, 5e-5)


def test_network_of_the_cell_runs_in_ngspice() -> None:
    recording = NgspiceEngine().run(_deck())
    assert recording["x1_col0_mem"].values.max() > 1.0


def test_vacask_refuses_its_transistors_by_name() -> None:
    with pytest.raises(
        InputError, match=r"model 'nfet' is of kind 'nmos'; diodes \(d\) are translated\. Use Verilog-A\."
    ):
        vacask_deck(_deck(), {})


def test_equations_are_refused_with_the_way_to_a_learned_twin() -> None:
    message = r"cell axon_hillock, line \d+, mleak: a transistor model of the simulator has no equations here\. Learn a twin from"
    with pytest.raises(InputError, match=message):
        CellTwin(1, cell=Cell(CELL.card, CELL.subcircuit))
