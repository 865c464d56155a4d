"""Twins assembled from a netlist and Verilog-A: both methods against each other, against ngspice, and their gradients."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from memprop.circuit.cell import Cell, TextSubCircuit, load_cell
from memprop.circuit.netlist import read_netlist
from memprop.deck.deck import Deck, Transient
from memprop.deck.models import cell_models
from memprop.device.library import load_device
from memprop.errors import InputError, TrainingError
from memprop.spice.ngspice import NgspiceEngine
from memprop.twin.assemble import read_circuit
from memprop.twin.cell import CellTwin
from memprop.twin.exponential import phi1, phi2
from memprop.twin.prepared import Prepared
from memprop.twin.splitting import UnsplittableError, split
from memprop.twin.state import CellState

torch.set_num_threads(1)

F64 = torch.float64
METHODS = ("auto", "general")
Array = NDArray[np.float64]


def order_of(steps: list[float], errors: list[float]) -> float:
    return float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def variant(shipped: str, *changes: tuple[str, str]) -> Cell:
    """Return a shipped cell with replaced text."""
    cell = load_cell(shipped)
    text = cell.text
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return Cell(cell.card, TextSubCircuit(text, "test"), cell.home)


def pulse(dt: float, stop: float, peak: float, rise: float) -> Tensor:
    """Return straight lines between the points of an alpha current at every 2 us, at the time points, ``[T + 1, 1, 1]``."""
    corners = np.arange(0.0, stop + 1e-6, 2e-6)
    values = peak * corners / rise * np.exp(1 - corners / rise)
    return torch.tensor(np.interp(np.arange(round(stop / dt) + 1) * dt, corners, values))[:, None, None]


@torch.no_grad()
def membrane(cell: Cell | str, dt: float, current: Tensor, method: str, state: CellState | None = None) -> Array:
    twin = CellTwin(1, dt, cell=cell, dtype=F64, method=method)
    return twin.run(current, state or twin.resting_state(1))[0].flatten().numpy()


# The memristive neuron by both methods


@cache
def fine_mif() -> Array:
    """Return the membrane of the neuron at every 2 us up to 40 us, by the general method at 40 ns."""
    return membrane("mif", 0.04e-6, pulse(0.04e-6, 40e-6, 20e-6, 10e-6), "general")[::50]


@pytest.mark.parametrize(("method", "order", "best"), [("auto", 2.0, 5e-5), ("general", 3.0, 1e-6)])
def test_both_methods_go_to_the_same_waveform_with_their_order(method: str, order: float, best: float) -> None:
    steps, errors = [1e-6, 0.5e-6, 0.25e-6, 0.125e-6], []
    for dt in steps:
        found = membrane("mif", dt, pulse(dt, 40e-6, 20e-6, 10e-6), method)[:: round(2e-6 / dt)]
        errors.append(float(np.abs(found - fine_mif()).max()))
    assert order_of(steps, errors) >= order - 0.2
    assert errors[-1] < best


def rest_by_bisection(von: float, c: float) -> float:
    """Return the membrane in V at which the currents of both memristors cancel, their states in equilibrium."""
    low, high = 0.0, 0.05
    for _ in range(200):
        v = 0.5 * (low + high)
        flow = 0.0
        for u in (v, v - 0.05):
            on, off = expit((u - von) / 0.015), expit((0.005 - u) / 0.015)
            x = on / (on + off)
            flow += (x / 1e3 + (1 - x) / 1e5) * u
        low, high = (v, high) if flow < 0 else (low, v)
    return 0.5 * (low + high)


def test_rest_is_that_of_a_bisection() -> None:
    von = [0.08, 0.11, 0.13]
    rest = CellTwin(3, parameters={"von": von}, dtype=F64).rest.flatten().tolist()
    assert rest == pytest.approx([rest_by_bisection(value, 1e-10) for value in von], abs=1e-15)


def test_state_goes_from_call_to_call_in_both_methods() -> None:
    current = pulse(0.5e-6, 20e-6, 10e-6, 5e-6)
    for method in METHODS:
        twin = CellTwin(1, 0.5e-6, dtype=F64, method=method)
        whole, end = twin.run(current, twin.resting_state(1))
        first, middle = twin.run(current[:16], twin.resting_state(1))
        second, last = twin.run(current[15:], middle)
        assert float((torch.cat([first, second[1:]]) - whole).abs().max()) < 1e-9
        assert float((last.states[0] - end.states[0]).abs().max()) < 1e-9


def test_method_is_said_with_its_reason() -> None:
    series = variant("mif", ("cmem mem ref {c}", "cmem mem ref {c}\nr1 mem a 1e3\nr2 a ref 1e6"))
    assert CellTwin(1).method == "splitting"
    assert CellTwin(1, method="general").method == "general"
    assert CellTwin(1, cell=series).method == "general: cell mif: node or source 'a' beside the membrane"
    assert repr(CellTwin(2, 1e-6)) == "CellTwin(mif, size=2, dt=1e-06 s, splitting)"
    with pytest.raises(InputError, match=r"method 'euler' is unknown\. Known: auto, general\."):
        CellTwin(1, method="euler")


# Gradients


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("cell", "dt", "peak"), [("mif", 2e-6, 10e-6), ("threshold_neuron", 20e-9, 50e-6)])
def test_gradient_of_the_input_is_that_of_finite_differences(cell: str, dt: float, peak: float, method: str) -> None:
    twin = CellTwin(2, dt, cell=cell, parameters={"von": [0.8, 1.0]} if cell != "mif" else {}, dtype=F64, method=method)
    drive = torch.linspace(0.2, 1.5, 14, dtype=F64).reshape(7, 1, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: twin(z * peak) / 10e-3, (drive,), eps=1e-5, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("cell", ["mif", "threshold_neuron"])
def test_gradient_of_the_parameters_is_that_of_finite_differences(cell: str, method: str) -> None:
    dt = 2e-6 if cell == "mif" else 20e-9
    twin = CellTwin(1, dt, cell=cell, dtype=F64, method=method)
    state = twin.resting_state(1)
    # Half on, at the threshold: there every parameter counts.
    u = 0.1 if cell == "mif" else 0.9
    state = CellState(torch.full_like(state.membrane, u), tuple(torch.full_like(x, 0.4) for x in state.states))
    current = torch.full((5, 1, 1), 10e-6, dtype=F64)
    names = list(twin.circuit.defaults)
    scale = [float(twin.circuit.defaults[name]) for name in names]

    def scaled(*factors: Tensor) -> Tensor:
        values = {f"parameter_{n}": f * s for n, f, s in zip(names, factors, scale, strict=True)}
        return torch.func.functional_call(_Running(twin), {f"twin.{k}": v for k, v in values.items()}, (current, state))

    factors = tuple(torch.ones((), dtype=F64, requires_grad=True) for _ in names)
    assert torch.autograd.gradcheck(scaled, factors, eps=1e-6, atol=1e-6, rtol=1e-5)
    gradients = torch.autograd.grad(scaled(*factors).sum(), factors)
    assert all(float(g.abs()) > 1e-6 for g in gradients), dict(zip(names, gradients, strict=True))


class _Running(torch.nn.Module):
    """Runs a twin from a state; the membrane in units of 0.1 V."""

    def __init__(self, twin: CellTwin) -> None:
        super().__init__()
        self.twin = twin

    def forward(self, current: Tensor, state: CellState) -> Tensor:
        return self.twin.run(current, state)[0][1:] / 0.1


# The threshold neuron


def test_threshold_neuron_starts_discharged_with_its_switch_off() -> None:
    state = CellTwin(2, 5e-9, cell="threshold_neuron", dtype=F64).resting_state(3)
    assert state.membrane.tolist() == [[0.0, 0.0]] * 3
    assert state.states[0].shape == (1, 1, 3, 2)
    assert float(state.states[0].abs().max()) < 1e-20


def fired(dt: float, stop: float, amplitude: float, method: str = "auto") -> tuple[Array, Array]:
    """Return time in s and membrane in V of the threshold neuron under a constant current in A."""
    count = round(stop / dt)
    return np.arange(count + 1) * dt, membrane(
        "threshold_neuron", dt, torch.full((count + 1, 1, 1), amplitude, dtype=F64), method
    )


def in_ngspice(amplitude: float, stop: float, step: float) -> tuple[Array, Array]:
    cell = load_cell("threshold_neuron")
    files, _ = cell_models([cell])
    lines = ["v1 e1 0 2", "v2 e2 0 0", "xn mem e1 e2 0 threshold_neuron", f"i1 0 mem {amplitude!r}", ""]
    files |= {"cells.inc": cell.text, "test.inc": "\n".join(lines)}
    found = NgspiceEngine().run(Deck("neuron", files, Transient(stop, step), ("mem",), (), {"reltol": 1e-6}))
    return found["time"].values, found["mem"].values


def period(time: Array, volt: Array) -> float:
    """Return the mean time in s between crossings of 0.75 V upwards, the first one left out."""
    k = np.flatnonzero((volt[:-1] < 0.75) & (volt[1:] >= 0.75))
    crossings = time[k] + (0.75 - volt[k]) / (volt[k + 1] - volt[k]) * (time[k + 1] - time[k])
    assert len(crossings) > 3
    return float(np.diff(crossings[1:]).mean())


def test_threshold_neuron_fires_at_the_period_of_ngspice_and_faster_with_more_current() -> None:
    periods = []
    for amplitude, stop in ((0.0, 6e-6), (30e-6, 4.5e-6), (80e-6, 3e-6)):
        ours, theirs = period(*fired(1e-9, stop, amplitude)), period(*in_ngspice(amplitude, stop, 1e-9))
        assert ours == pytest.approx(theirs, rel=1e-3)
        periods.append(ours)
    assert periods[0] == pytest.approx(1.2285e-6, rel=1e-3)
    assert np.all(np.diff(1 / np.array(periods)) > 0.2e6)


def test_threshold_neuron_without_feedback_does_not_fire() -> None:
    twin = CellTwin(1, 8e-9, cell="threshold_neuron", parameters={"feedback": 0.0}, dtype=F64)
    with torch.no_grad():
        trace = twin.trace(torch.zeros(3001, 1, 1, dtype=F64)).flatten()
    assert float(trace[2000:].max() - trace[2000:].min()) < 1e-3


@cache
def spike() -> tuple[tuple[float, float], Array]:
    """Return membrane and state just before the first spike, and the membrane at every 4 ns of it: general method, 125 ps."""
    twin = CellTwin(1, 1e-9, cell="threshold_neuron", dtype=F64)
    with torch.no_grad():
        _, before = twin.run(torch.zeros(1401, 1, 1, dtype=F64), twin.resting_state(1))
        start = float(before.membrane), float(before.states[0])
    return start, spiking(start, 0.125e-9, "general")[::32]


def spiking(start: tuple[float, float], dt: float, method: str) -> Array:
    """Return the membrane for 120 ns from a membrane in V and a state."""
    state = CellState(torch.full((1, 1), start[0], dtype=F64), (torch.full((1, 1, 1, 1), start[1], dtype=F64),))
    if method == "general":
        state = CellState(state.membrane, (state.states[0][0],))
    return membrane("threshold_neuron", dt, torch.zeros(round(120e-9 / dt) + 1, 1, 1, dtype=F64), method, state)


@pytest.mark.parametrize(("method", "order", "best"), [("auto", 2.0, 5e-5), ("general", 3.0, 1e-5)])
def test_order_is_kept_where_the_state_equation_is_not_linear(method: str, order: float, best: float) -> None:
    start, exact = spike()
    assert np.ptp(exact) > 0.4, "the neuron must fire, or nothing is tested"
    steps = [1e-9, 0.5e-9, 0.25e-9]
    errors = [float(np.abs(spiking(start, dt, method)[:: round(4e-9 / dt)] - exact).max()) for dt in steps]
    assert order_of(steps, errors) >= order - 0.2
    assert errors[-1] < best


# Membranes that are not simply pulled to an equilibrium


@pytest.mark.parametrize(
    ("lines", "following"),
    [
        ("rl mem ref 1e5", True),
        ("ibias ref mem 1e-7", True),
        ("rl mem ref -2e5", False),
        ("g1 mem ref mem ref -2.1e-5", False),
    ],
    ids=["load", "bias", "negative-resistance", "negative-transconductance"],
)
def test_second_order_whatever_the_sign_of_the_conductance(lines: str, following: bool) -> None:
    cell = variant("mif", ("cmem mem ref {c}", f"cmem mem ref {{c}}\n{lines}"))
    steps, errors = [1e-6, 0.5e-6, 0.25e-6], []
    exact = membrane(cell, 0.05e-6, pulse(0.05e-6, 40e-6, 5e-6, 10e-6), "general")[-1]
    for dt in steps:
        twin = CellTwin(1, dt, cell=cell, dtype=F64)
        current = pulse(dt, 40e-6, 5e-6, 10e-6)
        assert twin._plan is not None
        assert Prepared(twin._plan, twin._values(), twin.supplies, dt, twin.rest).following == (
            following or "-2e5" in lines
        )
        errors.append(abs(float(membrane(cell, dt, current, "auto")[-1] - exact)))
    assert order_of(steps, errors) >= 1.8


def test_cell_without_any_conductance_integrates_its_current(tmp_path: Path) -> None:
    cell = variant(
        "mif", ("x1 mem e1", "* x1 mem e1"), ("x2 mem e2", "* x2 mem e2"), ("{c}\n", "{c}\n.ic v(mem)=0.01\n")
    )
    trace = membrane(cell, 1e-6, torch.full((11, 1, 1), 1e-6, dtype=F64), "auto")
    assert trace == pytest.approx(0.01 + 1e-6 * np.arange(11) * 1e-6 / 1e-10, rel=1e-12)


def test_cell_without_capacitance_follows_its_current_at_once() -> None:
    cell = variant(
        "mif", ("cmem mem ref {c}", "rl mem ref 1e4"), ("x1 mem e1", "* x1 mem e1"), ("x2 mem e2", "* x2 mem e2")
    )
    twin = CellTwin(1, 1e-6, cell=cell, dtype=F64)
    assert twin.method == "general: cell mif: no capacitance at the membrane"
    trace = twin.trace(torch.linspace(0, 1e-5, 6, dtype=F64)[:, None, None]).flatten().tolist()
    assert trace == pytest.approx([0.0, 0.02, 0.04, 0.06, 0.08, 0.1], abs=1e-12)


def test_cell_without_a_resting_point_is_refused() -> None:
    cell = variant("mif", ("cmem mem ref {c}", "cmem mem ref {c}\nrl mem ref -1e4"))
    with pytest.raises(
        TrainingError, match=r"operating point did not converge .* Check the parameters, or give an \.ic\."
    ):
        CellTwin(1, cell=cell)


def test_initial_voltage_may_be_an_expression_of_parameters_of_each_neuron() -> None:
    cell = variant("threshold_neuron", (".ic v(mem)=0", ".ic v(mem)={von/4}"))
    rest = CellTwin(2, 5e-9, cell=cell, parameters={"von": [0.8, 1.0]}, dtype=F64).rest
    assert rest.flatten().tolist() == pytest.approx([0.2, 0.25], abs=1e-15)


def test_parameters_may_have_any_name() -> None:
    """Names such as those of the attributes of a torch module."""
    cell = variant(
        "mif",
        ("c=1e-10", "c=1e-10 buffers=1e-10 others=1 modules=1"),
        ("cmem mem ref {c}", "cmem mem ref {buffers*others/modules}"),
    )
    current = pulse(1e-6, 10e-6, 5e-6, 5e-6)
    assert membrane(cell, 1e-6, current, "auto") == pytest.approx(membrane("mif", 1e-6, current, "auto"), abs=1e-15)


def test_single_precision_keeps_slow_states() -> None:
    """A state that moves by 1e-9 of itself in a step must not stand still where its rate is lost beside 1."""
    parameters = {"tau": 1e2, "von": 0.3, "c": 1e-9}
    current = torch.full((201, 1, 1), 100e-6)
    double, single = (CellTwin(1, parameters=parameters, dtype=dtype) for dtype in (F64, torch.float32))
    ends = []
    for twin in (double, single):
        state = twin.resting_state(1)
        start = CellState(state.membrane, tuple(torch.zeros_like(x) for x in state.states))
        ends.append(twin.run(current.to(state.membrane), start)[1].states[0].double().flatten())
    assert float(ends[0].max()) > 1e-8
    assert ends[1].tolist() == pytest.approx(ends[0].tolist(), rel=1e-3)


# Parts


@pytest.mark.parametrize(("function", "reference"), [
    (phi1, lambda z: np.where(z == 0, 1.0, np.expm1(z) / np.where(z == 0, 1.0, z))),
    (phi2, lambda z: np.array([sum(x**k / float(np.prod(np.arange(1.0, k + 3))) for k in range(60)) for x in z])),
], ids=["phi1", "phi2"])  # fmt: skip
def test_phi_functions_are_exact_near_zero_and_have_gradients(
    function: Callable[[Tensor], Tensor], reference: Callable[[Array], Array]
) -> None:
    z = np.array([-8.0, -1.0, -0.0101, -0.0099, -1e-5, -1e-12, 0.0, 1e-9, 0.0099, 0.0101, 0.5, 3.0])
    points = torch.tensor(z, requires_grad=True)
    assert function(points).detach().numpy() == pytest.approx(reference(z), rel=1e-11)
    assert torch.autograd.gradcheck(function, (points,), eps=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "body", "reason"),
    [
        ("yakopcic", "x1 mem 0 yakopcic", None),
        ("vteam", "x1 mem e1 vteam", None),
        ("gated_synapse", "x1 mem 0 e1 gated_synapse", None),
        ("mss_memristor", "x1 mem a mss_memristor\nr1 a ref 1", "node or source 'a' beside the membrane"),
        ("mss_memristor", "x1 mem ref mss_memristor\nvs mem b 0", "node or source 'b' beside the membrane"),
    ],
)
def test_splitting_says_what_it_cannot_split(name: str, body: str, reason: str | None) -> None:
    text = f".subckt cell mem e1 e2\ncmem mem 0 1e-10\n{body}\n.ends\n"
    model = load_device(name)
    circuit = read_circuit(
        read_netlist(text, "test").subcircuits["cell"], {form: (model, form) for form in model.forms}
    )
    if reason is None:
        assert split(circuit, "mem", ("e1", "e2")).groups[0].instances[0].name == "x1"
        return
    with pytest.raises(UnsplittableError, match=re.escape(reason)):
        split(circuit, "mem", ("e1", "e2"))
