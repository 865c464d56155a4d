"""The differentiable twin against published behaviour, scipy's solve_ivp and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.special import expit
from torch import Tensor

from memprop.circuit.cell import Cell, TextSubCircuit, load_cell
from memprop.circuit.network import Network, Population, Projection
from memprop.conductance.pair import ConductanceRange
from memprop.data.encode import AlphaEncoder
from memprop.errors import InputError
from memprop.twin.cell import DT, MIF
from memprop.twin.crossbar import Crossbar
from memprop.twin.network import Twin, from_network
from memprop.twin.state import CellState

torch.set_num_threads(1)

F64 = torch.float64
RON, ROFF, VON, VOFF, K, TAU, C, E1, E2 = 1e3, 1e5, 0.110, 0.005, 0.015, 100e-6, 100e-12, 0.0, 0.050
"""Set of the MIF neuron in the facts, in the sign convention of its author: Voff is positive."""


def neuron_slope(current: np.ndarray, v: np.ndarray, x1: np.ndarray, x2: np.ndarray) -> list[np.ndarray]:
    """Return dv/dt, dx1/dt, dx2/dt as the facts write them."""
    slopes, flow = [], current
    for x, supply in ((x1, E1), (x2, E2)):
        u = v - supply
        flow = flow - (x / RON + (1 - x) / ROFF) * u
        slopes.append(((1 - x) * expit((u - VON) / K) - x * expit((VOFF - u) / K)) / TAU)
    return [flow / C, *slopes]


def alpha(t: float, onset: float, rise: float) -> float:
    s = (t - onset) / rise
    return s * math.exp(1 - s) if s > 0 else 0.0


def rest_of_scipy() -> np.ndarray:
    """Return v, x1, x2 after a long time without input."""
    answer = solve_ivp(
        lambda t, y: neuron_slope(np.zeros(()), *y),
        (0.0, 0.05),
        [0.018, 0.0075, 1e-4],
        method="Radau",
        rtol=1e-12,
        atol=1e-15,
    )
    return answer.y[:, -1]


def reference(
    slope: Callable[[float, np.ndarray], np.ndarray], start: np.ndarray, stops: list[np.ndarray]
) -> np.ndarray:
    """Integrate over the intervals whose sample times are ``stops``, each smooth inside; return the states at all of them."""
    found = [start[:, None]]
    for times in stops:
        answer = solve_ivp(
            slope, (times[0], times[-1]), found[-1][:, -1], method="DOP853", t_eval=times[1:], rtol=1e-11, atol=1e-14
        )
        assert answer.success
        found.append(answer.y)
    return np.concatenate(found, axis=1)


def order_of(steps: list[float], errors: list[float]) -> float:
    return float(np.polyfit(np.log(steps), np.log(errors), 1)[0])


def untwinned() -> Cell:
    """Return the shipped neuron with a behavioural source in it, which no twin is made of."""
    shipped = load_cell("mif")
    text = shipped.text.replace(".ends mif", "bleak mem ref i = 0*v(mem)\n.ends mif")
    return Cell(shipped.card, TextSubCircuit(text, "test"), shipped.home)


def default_start(batch: int) -> CellState:
    """Return the initial state of the author's code: v = 0 and x1 = x2 = 0.0238."""
    return CellState(torch.zeros(batch, 1, dtype=F64), (torch.full((1, 2, batch, 1), 0.0238, dtype=F64),))


def pulse(dt: float, steps: int, peak: float = 10e-6, rise: float = 20e-6) -> Tensor:
    """Return an alpha current at the time points, ``[T + 1, 1, 1]``."""
    return torch.tensor([peak * alpha(n * dt, 0.0, rise) for n in range(steps + 1)], dtype=F64)[:, None, None]


@torch.no_grad()
def states_of(neuron: MIF, current: Tensor, state: CellState, every: int) -> tuple[Tensor, Tensor]:
    """Return the membrane at all time points and the on fractions at every so many, ``[T + 1, B]`` and ``[., 2, B]``."""
    membranes, fractions = [state.membrane[None]], [state.states[0]]
    for first in range(0, len(current) - 1, every):
        membrane, state = neuron.run(current[first : first + every + 1], state)
        membranes.append(membrane[1:])
        fractions.append(state.states[0])
    return torch.cat(membranes)[..., 0], torch.stack(fractions)[:, 0, :, :, 0]


@torch.no_grad()
def square_pulse(neuron: MIF, peak: float, high: int, low: int, state: CellState) -> np.ndarray:
    """Return the membrane ``[high + low + 1]`` under so many steps of the peak current, then of none: two runs, so sharp edges."""
    on, state = neuron.run(torch.full((high + 1, 1, 1), peak, dtype=F64), state)
    after, _ = neuron.run(torch.zeros(low + 1, 1, 1, dtype=F64), state)
    return torch.cat([on, after[1:]]).flatten().numpy()


class TestRest:
    def test_rest_is_the_published_one(self) -> None:
        state = MIF(1, dtype=F64).resting_state(1)
        assert float(state.membrane) == pytest.approx(18.31e-3, abs=0.005e-3)
        assert state.states[0].flatten().tolist() == pytest.approx([7.523e-3, 8.586e-5], rel=1e-4)

    def test_rest_is_where_scipy_ends_without_input(self) -> None:
        state = MIF(1, dtype=F64).resting_state(1)
        found = [float(state.membrane), *state.states[0].flatten().tolist()]
        assert found == pytest.approx(rest_of_scipy().tolist(), rel=1e-8)

    def test_zero_input_stays_at_rest(self) -> None:
        neuron = MIF(3, parameters={"von": [0.09, 0.11, 0.13]}, dtype=F64)
        membrane, state = neuron.run(torch.zeros(201, 2, 3, dtype=F64), neuron.resting_state(2))
        assert membrane.shape == (201, 2, 3)
        assert float((membrane - neuron.rest).abs().max()) < 1e-15
        assert float((state.states[0] - neuron.resting_state(2).states[0]).abs().max()) < 1e-15
        assert float(neuron(torch.zeros(5, 2, 3, dtype=F64)).abs().max()) < 1e-15

    def test_default_start_is_at_16_19_mv_after_300_us(self) -> None:
        membrane, _ = MIF(1, 0.1e-6, dtype=F64).run(torch.zeros(3001, 1, 1, dtype=F64), default_start(1))
        assert float(membrane[-1]) == pytest.approx(16.19e-3, abs=0.005e-3)


TABLE_A = {
    # (peak current in uA, time of the peak in us): peak in mV, at us, minimum in mV, at us, largest x1, largest x2
    (2, 20): (65.14, 18.7, 13.32, 164.6, 0.0256, 0.0017),
    (5, 20): (101.45, 11.3, 9.13, 169.3, 0.0611, 0.0035),
    (10, 20): (132.62, 8.03, 7.07, 184.8, 0.1127, 0.0100),
    (20, 20): (178.30, 6.30, 7.37, 258.0, 0.1855, 0.0487),
    (50, 20): (302.38, 5.73, 7.60, 407.0, 0.3005, 0.1812),
    (10, 100): (93.48, 18.6, None, None, 0.1530, 0.0061),
}


@pytest.fixture(scope="module")
def table_a() -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """All rows of table A in one batch at 0.1 us: 300 us without input, then the pulse for 600 us."""
    dt, neuron = 0.1e-6, MIF(1, 0.1e-6, dtype=F64)
    with torch.no_grad():
        settled = neuron.run(torch.zeros(3001, len(TABLE_A), 1, dtype=F64), default_start(len(TABLE_A)))[1]
    current = torch.cat([pulse(dt, 6000, peak * 1e-6, rise * 1e-6) for peak, rise in TABLE_A], dim=1)
    v, x = states_of(neuron, current, settled, 10)
    return {row: (v[:, b].numpy(), x[:, :, b].numpy()) for b, row in enumerate(TABLE_A)}


class TestPublishedPulses:
    @pytest.mark.parametrize("row", TABLE_A)
    def test_alpha_pulse_is_that_of_table_a(self, table_a: dict, row: tuple[int, int]) -> None:
        v, x = table_a[row]
        peak, at, low, low_at, x1, x2 = TABLE_A[row]
        top = int(v.argmax())
        assert v[top] * 1e3 == pytest.approx(peak, rel=5e-4)
        assert top * 0.1 == pytest.approx(at, abs=0.11)
        assert x.max(axis=0).tolist() == pytest.approx([x1, x2], abs=6e-5)
        bottom = top + int(v[top:].argmin())
        if low is None:
            assert bottom == len(v) - 1, "the membrane should still fall"
        else:
            assert v[bottom] * 1e3 == pytest.approx(low, abs=0.006)
            assert bottom * 0.1 == pytest.approx(low_at, abs=0.5)

    def test_square_pulse_is_that_of_table_b(self) -> None:
        v = square_pulse(MIF(1, 0.02e-6, dtype=F64), 10e-6, 1000, 9000, default_start(1))
        published = {
            1: 84.83,
            2: 126.26,
            3: 139.66,
            5: 127.76,
            10: 97.88,
            20: 83.77,
            21: 30.64,
            25: 14.02,
            40: 13.39,
            100: 11.69,
            200: 10.58,
        }
        assert {t: float(v[50 * t]) * 1e3 for t in published} == pytest.approx(published, rel=0.01)

    def test_square_pulse_is_that_of_scipy(self) -> None:
        steps = 250
        v = square_pulse(MIF(1, 20e-6 / steps, dtype=F64), 10e-6, steps, steps, default_start(1))
        y, found = np.array([0.0, 0.0238, 0.0238]), [np.zeros(1)]
        for level in (10e-6, 0.0):
            part = reference(
                lambda t, y, level=level: np.array(neuron_slope(np.array(level), *y)),
                y,
                [np.linspace(0, 20e-6, steps + 1)],
            )
            y = part[:, -1]
            found.append(part[0, 1:])
        assert np.abs(v - np.concatenate(found)).max() < 0.1e-3


def swing_errors(on: float, c: float, steps: tuple[float, ...]) -> list[float]:
    """Return the largest membrane error in V at each time step: 300 uA that swing by 80 % in 20 us, memristors so far on."""

    def drive(t: float) -> float:
        return 300e-6 * (1 + 0.8 * math.sin(2 * math.pi * t / 20e-6))

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        flow, *switching = neuron_slope(np.array(drive(t)), *y)
        return np.array([flow * C / c, *switching])

    def solve(times: np.ndarray, start: np.ndarray) -> np.ndarray:
        answer = solve_ivp(slope, times[[0, -1]], start, method="Radau", t_eval=times, rtol=1e-10, atol=1e-13)
        assert answer.success
        return answer.y

    # 20 us before the start bring the membrane to where it follows the current, so no initial layer is measured.
    start = solve(np.array([-20e-6, 0.0]), np.array([0.2, on, on]))[:, -1]
    exact = solve(np.arange(81) * 0.5e-6, start)
    assert float((exact[1] + exact[2]).min()) > 0.6, "the membrane must be fast, or nothing is tested"
    membrane, fractions = torch.tensor(start[:1], dtype=F64), torch.tensor(start[1:], dtype=F64)
    errors = []
    for dt in steps:
        current = torch.tensor([drive(n * dt) for n in range(round(40e-6 / dt) + 1)], dtype=F64)[:, None, None]
        neuron = MIF(1, dt, parameters={"c": c}, dtype=F64)
        with torch.no_grad():
            found, _ = neuron.run(current, CellState(membrane.reshape(1, 1), (fractions.reshape(1, 2, 1, 1),)))
        errors.append(float(np.abs(found[:: round(0.5e-6 / dt), 0, 0].numpy() - exact[0]).max()))
    return errors


class TestOrder:
    def test_neuron_is_of_second_order(self) -> None:
        times = np.arange(0.0, 100.5e-6, 2e-6)
        exact = reference(
            lambda t, y: np.array(neuron_slope(np.array(10e-6 * alpha(t, 0.0, 20e-6)), *y)), rest_of_scipy(), [times]
        )
        steps, errors, x_errors = [1e-6, 0.5e-6, 0.25e-6, 0.125e-6], [], []
        for dt in steps:
            neuron, every = MIF(1, dt, dtype=F64), round(2e-6 / dt)
            v, x = states_of(neuron, pulse(dt, round(100e-6 / dt)), neuron.resting_state(1), every)
            errors.append(float(np.abs(v[::every, 0].numpy() - exact[0]).max()))
            x_errors.append(float(np.abs(x[:, :, 0].numpy().T - exact[1:]).max()))
        assert order_of(steps, errors) == pytest.approx(2.0, abs=0.2)
        assert order_of(steps, x_errors) == pytest.approx(2.0, abs=0.2)
        assert errors[-1] < 0.1e-3
        assert x_errors[-1] < 1e-4

    def test_two_layers_are_of_second_order(self) -> None:
        encoder = AlphaEncoder(rise=10e-6, onsets=(0.0, 50e-6))
        pixels = torch.tensor([[[1.0, 0.5, 0.25]]], dtype=F64)
        weights = [
            np.array([[80e-6, 40e-6], [30e-6, -50e-6], [-20e-6, 90e-6]]),
            np.array([[70e-6, -30e-6], [60e-6, 90e-6]]),
        ]
        rest, window = rest_of_scipy(), ConductanceRange()

        def slope(t: float, y: np.ndarray) -> np.ndarray:
            hidden, output = y[:6].reshape(3, 2), y[6:].reshape(3, 2)
            rows = 0.1 * np.array([1.0, 0.5, 0.25]) * (alpha(t, 0.0, 10e-6) + alpha(t, 50e-6, 10e-6))
            above = hidden[0] - rest[0]
            currents = [rows @ weights[0], above @ weights[1]]
            return np.concatenate(
                [np.ravel(neuron_slope(i, *z)) for i, z in zip(currents, (hidden, output), strict=True)]
            )

        start = np.tile(np.repeat(rest, 2), 2)
        stops = [np.arange(0.0, 50.5e-6, 2e-6), np.arange(50e-6, 100.5e-6, 2e-6)]
        exact = reference(slope, start, stops)
        steps, errors = [1e-6, 0.5e-6, 0.25e-6, 0.125e-6], {"x1": [], "x2": []}
        for dt in steps:
            twin = Twin((3, 2, 2), encoder, dt=dt, dtype=F64)
            for crossbar, weight in zip(twin.crossbars, weights, strict=True):
                crossbar.set_pair(*window.to_pair(weight))
            for name, trace in twin.traces(pixels).items():
                rows = exact[:2] if name == "x1" else exact[6:8]
                errors[name].append(float(np.abs(trace[:: round(2e-6 / dt), 0].numpy().T - rows).max()))
        assert np.ptp(exact[6]) > 20e-3, "the output neuron must work, or nothing is tested"
        for name in ("x1", "x2"):
            assert order_of(steps, errors[name]) == pytest.approx(2.0, abs=0.2)
            assert errors[name][-1] < 0.1e-3

    @pytest.mark.parametrize("on", [0.2, 0.5])
    def test_membrane_faster_than_the_step_does_not_lower_the_order(self, on: float) -> None:
        """With 1 pF the membrane is at least 80 times faster than the shortest step: the limit in which splitting loses an order."""
        errors = swing_errors(on, 1e-12, (0.5e-6, 0.25e-6, 0.125e-6))
        assert errors[0] / errors[1] >= 3.5
        assert errors[1] / errors[2] >= 3.5

    @pytest.mark.parametrize("on", [0.2, 0.5, 0.95])
    def test_swinging_strong_current_is_followed_to_half_a_millivolt_at_the_default_step(self, on: float) -> None:
        assert swing_errors(on, C, (DT,))[0] < 0.5e-3


class TestStepping:
    IMAGES = torch.rand(3, 4, dtype=F64, generator=torch.Generator().manual_seed(1))

    @staticmethod
    def steps_of(twin: Twin) -> list[float]:
        return [twin.dt, *(population.dt for population in twin.populations)]

    def test_step_is_another_inside_and_the_old_one_after(self) -> None:
        twin = Twin((4, 3, 2), dtype=F64)
        with torch.no_grad():
            before = twin(self.IMAGES)
            with twin.stepping(0.5e-6):
                assert self.steps_of(twin) == [0.5e-6] * 3
                inside = twin(self.IMAGES)
                assert twin.traces(self.IMAGES)["x2"].shape == (201, 3, 2)
            assert self.steps_of(twin) == [0.25e-6] * 3
            assert torch.equal(twin(self.IMAGES), before)
            assert torch.equal(Twin((4, 3, 2), dt=0.5e-6, dtype=F64)(self.IMAGES), inside)
        assert not torch.equal(inside, before)

    def test_step_comes_back_after_an_exception(self) -> None:
        twin = Twin((4, 3, 2))

        def fail_inside() -> None:
            with twin.stepping(1e-6):
                assert self.steps_of(twin) == [1e-6] * 3
                raise KeyError("from inside")

        with pytest.raises(KeyError, match="from inside"):
            fail_inside()
        assert self.steps_of(twin) == [0.25e-6] * 3

    @pytest.mark.parametrize("dt", [3e-6, 0.0, -1e-6, math.nan])
    def test_step_that_does_not_divide_the_presentation_is_refused_and_changes_nothing(self, dt: float) -> None:
        twin = Twin((4, 3, 2))
        with (
            pytest.raises(InputError, match=rf"time step {dt!r} s does not divide the presentation of 0\.0001 s"),
            twin.stepping(dt),
        ):
            pytest.fail("a step that does not divide the presentation was taken")
        assert self.steps_of(twin) == [0.25e-6] * 3

    def test_same_weights_give_the_same_outputs_at_half_the_step(self) -> None:
        twin = Twin((4, 3, 2), dtype=F64, seed=3)
        with torch.no_grad():
            fine = twin(self.IMAGES)
            with twin.stepping(0.5e-6):
                coarse = twin(self.IMAGES)
        assert float(fine.abs().min()) > 5e-3
        assert float((coarse - fine).abs().max()) < 20e-6


class TestComposition:
    def test_layers_in_a_sequential_give_the_output_of_the_twin(self) -> None:
        encoder, images = AlphaEncoder(), torch.rand(3, 2, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
        twin = Twin((4, 3, 2), encoder, dt=1e-6, dtype=F64, seed=3)
        layers = torch.nn.Sequential(
            Crossbar(4, 3).to(F64), MIF(3, 1e-6, dtype=F64), Crossbar(3, 2).to(F64), MIF(2, 1e-6, dtype=F64)
        )
        layers.load_state_dict(twin.layers.state_dict())
        with torch.no_grad():
            output, expected = torch.trapezoid(layers(encoder(images, 1e-6)), dim=0) / 100, twin(images)
        assert expected.shape == (3, 2)
        assert float(expected.abs().min()) > 1e-5
        assert float((output - expected).abs().max()) < 1e-15

    def test_output_is_the_time_mean_of_the_traces_above_rest(self) -> None:
        twin = Twin((4, 3, 2), dt=1e-6, dtype=F64, seed=3)
        images = torch.rand(2, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
        trace = twin.traces(images)["x2"].numpy()
        expected = np.trapezoid(trace, dx=1e-6, axis=0) / 100e-6 - rest_of_scipy()[0]
        with torch.no_grad():
            assert twin(images).numpy() == pytest.approx(expected, rel=1e-6)

    def test_population_with_arrays_equals_separate_populations(self) -> None:
        parameters = {"c": [1e-10, 2e-10, 0.5e-10], "von": [0.10, 0.11, 0.12], "tau": [1e-4, 2e-4, 0.5e-4]}
        current = pulse(0.5e-6, 100).expand(101, 2, 3) * torch.tensor(
            [[[1.0, 0.5, 2.0]], [[0.3, 1.0, 0.7]]], dtype=F64
        ).reshape(1, 2, 3)
        together = MIF(3, 0.5e-6, parameters=parameters, dtype=F64).trace(current)
        for n in range(3):
            alone = MIF(1, 0.5e-6, parameters={name: values[n] for name, values in parameters.items()}, dtype=F64)
            assert float((alone.trace(current[..., n : n + 1]) - together[..., n : n + 1]).abs().max()) < 1e-14

    def test_samples_of_a_batch_do_not_meet(self) -> None:
        twin = Twin((4, 3, 2), dt=1e-6, dtype=F64)
        images = torch.rand(3, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            assert float((torch.cat([twin(image[None]) for image in images]) - twin(images)).abs().max()) < 1e-15

    def test_single_precision_agrees_with_double_to_a_microvolt(self) -> None:
        images = torch.rand(3, 4, dtype=F64, generator=torch.Generator().manual_seed(1))
        double, single = Twin((4, 3, 2), dtype=F64), Twin((4, 3, 2))
        single.load_state_dict({name: value.float() for name, value in double.state_dict().items()})
        assert single(images).dtype == torch.float32
        exact, rounded = double.traces(images), single.traces(images)
        for name in ("x1", "x2"):
            assert float((exact[name] - rounded[name]).abs().max()) < 1e-6
        assert float(exact["x2"].max() - exact["x2"].min()) > 5e-3

    @pytest.mark.parametrize("c", [1e-7, 1e-5, 1e-3])
    def test_single_precision_agrees_with_double_to_ten_microvolts_for_a_slow_membrane(self, c: float) -> None:
        current = torch.linspace(0.0, 20e-6, 401, dtype=F64)[:, None, None]
        double, single = (MIF(1, parameters={"c": c}, dtype=dtype) for dtype in (F64, torch.float32))
        assert float((double.trace(current) - single.trace(current.float())).abs().max()) < 10e-6

    def test_run_in_two_parts_equals_one_run(self) -> None:
        neuron, current = MIF(1, 0.5e-6, dtype=F64), pulse(0.5e-6, 100)
        whole, end = neuron.run(current, neuron.resting_state(1))
        first, middle = neuron.run(current[:38], neuron.resting_state(1))
        second, last = neuron.run(current[37:], middle)
        assert float((torch.cat([first, second[1:]]) / whole - 1).abs().max()) < 1e-12
        assert float((last.states[0] / end.states[0] - 1).abs().max()) < 1e-12
        assert float((last.membrane / end.membrane - 1).abs().max()) < 1e-12

    def test_same_seed_gives_the_same_weights_and_another_seed_others(self) -> None:
        first, again, other = (Twin((4, 3, 2), seed=seed).crossbars[0].weight for seed in (5, 5, 6))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)


class TestGradients:
    def test_gradient_of_a_population_is_that_of_finite_differences(self) -> None:
        neuron = MIF(2, 2e-6, parameters={"von": [0.05, 0.11]}, dtype=F64)
        drive = torch.linspace(0.2, 2.0, 18, dtype=F64).reshape(9, 1, 2).requires_grad_()
        assert torch.autograd.gradcheck(lambda z: neuron(z * 10e-6) / 10e-3, (drive,), eps=1e-5, atol=1e-7, rtol=1e-6)

    def test_gradient_of_the_state_is_that_of_finite_differences(self) -> None:
        neuron = MIF(2, 2e-6, dtype=F64)
        current = torch.full((5, 1, 2), 5e-6, dtype=F64)
        membrane = torch.tensor([[0.5, 1.2]], dtype=F64, requires_grad=True)
        on = torch.tensor([[[[0.1, 0.4]], [[0.2, 0.05]]]], dtype=F64, requires_grad=True)

        def scaled(v: Tensor, x: Tensor) -> Tensor:
            trace, state = neuron.run(current, CellState(0.1 * v, (x,)))
            return torch.cat([trace[1:].flatten() / 0.1, state.states[0].flatten()])

        assert torch.autograd.gradcheck(scaled, (membrane, on), eps=1e-5, atol=1e-7, rtol=1e-6)

    def test_gradient_of_the_crossbars_is_that_of_finite_differences(self) -> None:
        twin = Twin((3, 2, 2), AlphaEncoder(rise=4e-6, onsets=(0.0,), duration=20e-6), dt=2e-6, dtype=F64)
        images = torch.tensor([[1.0, 0.5, 0.0], [0.2, 0.9, 0.7]], dtype=F64)
        weights = tuple(
            torch.tensor(w, dtype=F64, requires_grad=True)
            for w in ([[0.9, 0.4], [0.3, -0.5], [-0.2, 0.8]], [[0.7, -0.3], [0.6, 0.9]])
        )

        def scaled(first: Tensor, second: Tensor) -> Tensor:
            named = {"layers.0.weight": first * 1e-4, "layers.2.weight": second * 1e-4}
            return torch.func.functional_call(twin, named, (images,)) / 1e-3

        assert torch.autograd.gradcheck(scaled, weights, eps=1e-5, atol=1e-7, rtol=1e-6)
        gradients = torch.autograd.grad(scaled(*weights).square().sum(), weights)
        assert all(float(gradient.abs().min()) > 1e-3 for gradient in gradients[1:])
        assert float(gradients[0].abs().max()) > 1e-3


class TestCrossbar:
    def test_current_is_the_sum_over_rows_of_an_asymmetric_crossbar(self) -> None:
        crossbar = Crossbar(2, 3).to(F64)
        weight = np.array([[10e-6, -20e-6, 30e-6], [40e-6, 50e-6, -60e-6]])
        crossbar.set_pair(*ConductanceRange().to_pair(weight))
        current = crossbar(torch.tensor([1.0, 0.1], dtype=F64)).detach().numpy()
        assert current == pytest.approx([14e-6, -15e-6, 24e-6], rel=1e-12)

    def test_pair_goes_out_and_comes_back_to_the_bit(self) -> None:
        first, second = Crossbar(4, 3, init=50e-6, generator=torch.Generator().manual_seed(0)), Crossbar(4, 3)
        second.set_pair(*first.pair())
        assert torch.equal(first.weight, second.weight)
        assert float(first.weight.detach().abs().max()) > 30e-6

    def test_projection_brings_weights_back_to_the_span(self) -> None:
        crossbar = Crossbar(1, 2)
        with torch.no_grad():
            crossbar.weight.copy_(torch.tensor([[1.0, -1.0]]))
        crossbar.project()
        assert crossbar.weight.tolist() == [pytest.approx([99e-6, -99e-6], rel=1e-6)]
        assert crossbar.pair()[0].tolist() == [pytest.approx([100e-6, 1e-6], rel=1e-7)]
        assert crossbar.pair()[0].max() <= 100e-6

    def test_pair_of_another_shape_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"pair has shape \(3, 2\); the crossbar is \[2, 3\]"):
            Crossbar(2, 3).set_pair(np.full((3, 2), 5e-6), np.full((3, 2), 5e-6))

    def test_wrong_number_of_rows_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"row voltages have shape \(7, 3\); the last axis must be 2 rows"):
            Crossbar(2, 3)(torch.zeros(7, 3))

    @pytest.mark.parametrize("size", [(0, 1), (1, 0), (-1, 1)])
    def test_crossbar_without_cells_is_refused(self, size: tuple[int, int]) -> None:
        with pytest.raises(InputError, match="needs at least one row and one column"):
            Crossbar(*size)


class TestRefusals:
    @pytest.mark.parametrize("shape", [(5, 2), (5, 1, 3), (0, 1, 2), (1, 1, 2), (2,)])
    def test_current_of_another_shape_is_refused(self, shape: tuple[int, ...]) -> None:
        text = rf"current has shape {shape!r}".replace("(", r"\(").replace(")", r"\)")
        with pytest.raises(InputError, match=text + r"; a population of 2 needs \[T \+ 1, B, 2\], T >= 1"):
            MIF(2)(torch.zeros(shape))

    @pytest.mark.parametrize(("size", "dt"), [(0, 1e-6), (1, 0.0), (1, -1e-6), (1, math.nan), (1, math.inf)])
    def test_population_without_size_or_step_is_refused(self, size: int, dt: float) -> None:
        with pytest.raises(
            InputError, match=rf"twin of {size} cells, dt = {dt!r} s: size must be at least 1 and dt positive"
        ):
            MIF(size, dt)

    def test_parameter_out_of_range_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"mif\.c = -1\.0 F is not finite, above 0\.0, at most 0\.001 F"):
            MIF(1, parameters={"c": -1.0})

    def test_parameters_of_the_wrong_length_are_refused(self) -> None:
        with pytest.raises(InputError, match=r"parameter mif\.von has shape \(3,\); 2 cells need one value or \[2\]"):
            MIF(2, parameters={"von": [0.1, 0.1, 0.1]})

    def test_synapse_is_refused(self) -> None:
        with pytest.raises(InputError, match="cell 'rram_pair' is a synapse, where a neuron is needed"):
            MIF(1, cell=load_cell("rram_pair"))

    def test_cell_without_twin_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"cell mif, line \d+, bleak: element 'b' has no twin\. Use r, c, v"):
            MIF(1, cell=untwinned())

    @pytest.mark.parametrize("sizes", [(), (4,), (4, 0), (0, 3)])
    def test_twin_without_population_is_refused(self, sizes: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match="need the input rows and at least one population, all at least 1"):
            Twin(sizes)

    def test_step_that_does_not_divide_the_presentation_is_refused(self) -> None:
        with pytest.raises(InputError, match=r"time step 3e-06 s does not divide the presentation of 0\.0001 s"):
            Twin((4, 2), dt=3e-6)

    @pytest.mark.parametrize("dt", [0.0, math.nan])
    def test_step_of_nothing_is_refused_by_the_twin(self, dt: float) -> None:
        with pytest.raises(InputError, match=rf"time step {dt!r} s"):
            Twin((4, 2), dt=dt)

    def test_parameters_of_an_unknown_population_are_refused(self) -> None:
        with pytest.raises(InputError, match="x3"):
            Twin((4, 3, 2), parameters={"x3": {"c": 2e-10}})


class TestNetworks:
    IMAGES = torch.rand(2, 4, dtype=F64, generator=torch.Generator().manual_seed(2))

    def network(
        self, names: tuple[str, str] = ("x1", "x2"), cells: tuple[Cell, Cell] | None = None
    ) -> tuple[Twin, Network]:
        """Return a twin with its own capacitance per population, and its network with other names or cells."""
        twin = Twin((4, 3, 2), dt=1e-6, dtype=F64, parameters={"x1": {"c": [1e-10, 3e-10, 2e-10]}, "x2": {"c": 4e-10}})
        network = twin.to_network("net")
        cells = cells or (load_cell("mif"), load_cell("mif"))
        populations = tuple(
            Population(name, p.size, cell, p.parameters, p.rest)
            for name, cell, p in zip(names, cells, network.populations, strict=True)
        )
        ends = ("x0", *names)
        projections = tuple(
            Projection(ends[k], ends[k + 1], p.g_plus, p.g_minus) for k, p in enumerate(network.projections)
        )
        return twin, Network("net", 4, populations, projections, network.window)

    def test_network_of_the_twin_holds_sizes_conductances_and_rest(self) -> None:
        twin, network = self.network()
        assert [(p.name, p.size) for p in network.populations] == [("x1", 3), ("x2", 2)]
        assert [p.name for p in network.projections] == ["x0_x1", "x1_x2"]
        assert network.cells == 2 * (4 * 3 + 3 * 2)
        assert network.output.rest == pytest.approx([rest_of_scipy()[0]] * 2, rel=1e-8)
        for crossbar, projection in zip(twin.crossbars, network.projections, strict=True):
            assert projection.g_plus - projection.g_minus == pytest.approx(crossbar.weight.detach().numpy(), abs=1e-19)

    def test_twin_of_the_network_of_a_twin_is_the_twin(self) -> None:
        twin, network = self.network()
        with torch.no_grad():
            again = from_network(network, twin.encoder, twin.dt, F64)(self.IMAGES)
            assert float((again - twin(self.IMAGES)).abs().max()) < 1e-13

    def test_names_of_the_populations_do_not_change_the_twin_of_a_network(self) -> None:
        twin, network = self.network(("hidden", "out"))
        with torch.no_grad():
            again = from_network(network, twin.encoder, twin.dt, F64)(self.IMAGES)
            assert float((again - twin(self.IMAGES)).abs().max()) < 1e-13

    def test_cell_of_the_second_population_is_not_replaced_by_the_first(self) -> None:
        twin, network = self.network(cells=(load_cell("mif"), untwinned()))
        with pytest.raises(InputError, match="bleak: element 'b' has no twin"):
            from_network(network, twin.encoder, twin.dt, F64)

    def test_network_that_is_no_chain_is_refused(self) -> None:
        twin, network = self.network()
        broken = Network("net", 4, network.populations, network.projections[::-1], network.window)
        with pytest.raises(InputError, match="network net is no feed-forward chain"):
            from_network(broken, twin.encoder, twin.dt)
