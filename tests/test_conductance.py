"""Signed weights and conductance pairs: round trips, the window, and what row, column and sign mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from memprop.conductance.pair import ConductanceRange, check_pair
from memprop.errors import InputError

WINDOW = ConductanceRange()
SHAPES = hnp.array_shapes(min_dims=2, max_dims=2, max_side=5)


def weights_of(window: ConductanceRange) -> st.SearchStrategy[np.ndarray]:
    elements = st.floats(-window.span, window.span) | st.sampled_from([0.0, -0.0, window.span, -window.span])
    return hnp.arrays(np.float64, SHAPES, elements=elements)


@st.composite
def windows(draw: st.DrawFn) -> ConductanceRange:
    g_min = draw(st.floats(1e-9, 1e-4))
    return ConductanceRange(g_min, g_min * draw(st.floats(1.001, 1e4)))


def assert_round_trip(window: ConductanceRange, weight: np.ndarray) -> None:
    plus, minus = window.to_pair(weight)
    for g in (plus, minus):
        assert g.shape == weight.shape
        assert (g >= window.g_min).all()
        assert (g <= window.g_max).all()
    assert (np.minimum(plus, minus) == window.g_min).all()
    back = window.to_weight(plus, minus)
    assert (np.abs(back - weight) <= np.spacing(window.g_max)).all()
    again = window.to_pair(back)
    assert again[0].tobytes() == plus.tobytes()
    assert again[1].tobytes() == minus.tobytes()


class TestRoundTrip:
    @settings(max_examples=300, deadline=None)
    @given(weight=weights_of(WINDOW))
    def test_weight_survives_and_the_pair_is_a_fixed_point_in_the_default_window(self, weight: np.ndarray) -> None:
        assert_round_trip(WINDOW, weight)

    @settings(max_examples=300, deadline=None)
    @given(data=st.data(), window=windows())
    def test_weight_survives_and_the_pair_is_a_fixed_point_in_any_window(
        self, data: st.DataObject, window: ConductanceRange
    ) -> None:
        assert_round_trip(window, data.draw(weights_of(window)))

    @settings(max_examples=200, deadline=None)
    @given(
        nanosiemens=hnp.arrays(np.float32, SHAPES, elements=st.floats(1, 98999, width=32)),
        sign=st.sampled_from([1, -1]),
    )
    def test_float32_weights_above_a_nanosiemens_come_back_to_the_bit(self, nanosiemens: np.ndarray, sign: int) -> None:
        weight = nanosiemens * np.float32(sign * 1e-9)
        assert WINDOW.to_weight(*WINDOW.to_pair(weight)).astype(np.float32).tobytes() == weight.tobytes()

    @pytest.mark.parametrize("sign", [1.0, -1.0])
    def test_weight_of_the_whole_span_uses_both_edges_of_the_window(self, sign: float) -> None:
        plus, minus = WINDOW.to_pair([[sign * WINDOW.span]])
        high, low = (plus, minus) if sign > 0 else (minus, plus)
        assert high[0, 0] == pytest.approx(100e-6, rel=1e-15)
        assert low[0, 0] == 1e-6

    def test_weight_a_rounding_error_beyond_the_span_is_clipped(self) -> None:
        beyond = np.array([[np.float64(np.float32(99e-6)) * (1 + 5e-7)]])
        assert beyond[0, 0] > WINDOW.span
        assert WINDOW.to_pair(beyond)[0][0, 0] == WINDOW.g_max


class TestConvention:
    def test_rows_columns_and_signs_of_an_asymmetric_crossbar(self) -> None:
        weight = np.array([[10e-6, -20e-6, 0.0], [40e-6, 50e-6, -60e-6]])
        plus, minus = WINDOW.to_pair(weight)
        assert plus == pytest.approx(np.array([[11e-6, 1e-6, 1e-6], [41e-6, 51e-6, 1e-6]]), rel=1e-14)
        assert minus == pytest.approx(np.array([[1e-6, 21e-6, 1e-6], [1e-6, 1e-6, 61e-6]]), rel=1e-14)
        assert WINDOW.to_weight(plus, minus) == pytest.approx(weight, rel=1e-13, abs=1e-20)
        assert WINDOW.to_weight(minus, plus) == pytest.approx(-weight, rel=1e-13, abs=1e-20)

    def test_span_is_the_largest_difference_of_the_pair(self) -> None:
        assert ConductanceRange(2e-6, 50e-6).span == pytest.approx(48e-6, rel=1e-15)


class TestRefusals:
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_weights_that_are_not_finite_are_counted(self, bad: float) -> None:
        with pytest.raises(InputError, match=r"^2 weights are NaN or infinite \(S\)\. The training diverged"):
            WINDOW.to_pair([[bad, 1e-6], [bad, 0.0]])

    def test_weight_beyond_the_span_is_named(self) -> None:
        with pytest.raises(
            InputError, match=r"weight -0\.00012 S is beyond the span 9\.9\d*e-05 S of the pair\. Clip it first\."
        ):
            WINDOW.to_pair([[1e-6, -120e-6]])

    @pytest.mark.parametrize(
        ("g_min", "g_max"),
        [(1e-6, 1e-6), (2e-6, 1e-6), (0.0, 1e-6), (-1e-6, 1e-6), (1e-6, math.inf), (math.nan, 1e-6), (1e-6, math.nan)],
    )
    def test_empty_window_is_refused(self, g_min: float, g_max: float) -> None:
        with pytest.raises(InputError, match=r"conductance range g_min = .* S, g_max = .* S: need 0 < g_min < g_max"):
            ConductanceRange(g_min, g_max)

    @pytest.mark.parametrize("bad", [0.5e-6, 101e-6, math.nan, -1e-6])
    @pytest.mark.parametrize("side", ["g_plus", "g_minus"])
    def test_cell_outside_of_the_window_is_named_by_row_and_column(self, side: str, bad: float) -> None:
        pair = {"g_plus": np.full((2, 3), 5e-6), "g_minus": np.full((2, 3), 5e-6)}
        pair[side][1, 2] = bad
        text = rf"^crossbar/row1/col2: {side} = {bad!r} S is outside \[1e-06, 0\.0001\] S \(1 such cells\)"
        with pytest.raises(InputError, match=text):
            WINDOW.to_weight(**pair)

    def test_first_of_several_culprits_and_the_place_are_named(self) -> None:
        good, bad = np.full((3, 2), 5e-6), np.full((3, 2), 5e-6)
        bad[1:, 0] = 1.0
        with pytest.raises(InputError, match=r"^net/x0_x1/row1/col0: g_minus = 1\.0 S is outside .*\(2 such cells\)"):
            check_pair(good, bad, WINDOW, "net/x0_x1")

    @pytest.mark.parametrize(
        ("plus", "minus"), [((2, 3), (3, 2)), ((2,), (2,)), ((0, 3), (0, 3)), ((2, 3, 1), (2, 3, 1))]
    )
    def test_pair_of_other_shapes_is_refused(self, plus: tuple[int, ...], minus: tuple[int, ...]) -> None:
        with pytest.raises(InputError, match=r"must be equal \[row, column\] shapes"):
            WINDOW.to_weight(np.full(plus, 5e-6), np.full(minus, 5e-6))
