"""Fused kernels against the eager twin, against finite differences, and against numbers from elsewhere."""

from __future__ import annotations

import ctypes
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sympy import Symbol
from test_user_cells import OWN, write
from torch import Tensor

from memprop.circuit.cell import find_cell
from memprop.device.functions import absolute, evaluate, limexp, maximum, minimum
from memprop.device.sigmoid import sigmoid
from memprop.errors import EngineError, InputError
from memprop.twin.cell import WORTH, CellTwin
from memprop.twin.drive import Separable, expanded
from memprop.twin.fused import compiler, kernel
from memprop.twin.fused.cpu import constants
from memprop.twin.fused.program import Writer, adjoint, expm1, phi
from memprop.twin.fused.step import MOST, _extremes
from memprop.twin.network import Twin


def _drive(steps: int, batch: int, size: int, dtype: torch.dtype) -> Separable:
    generator = torch.Generator().manual_seed(steps + batch + size)
    wave = torch.rand(steps + 1, generator=generator, dtype=torch.float64)
    amplitude = 3e-6 * torch.randn(batch, size, generator=generator, dtype=torch.float64)
    return Separable(wave.to(dtype), amplitude.to(dtype))


def _results(twin: CellTwin, drive: Separable, separable: bool) -> tuple[Tensor, ...]:
    """Return membranes, end states and gradients by amplitude, first membrane and first states of a mixed loss."""
    batch, size = drive.amplitude.shape
    state = twin.resting_state(batch)
    amplitude = drive.amplitude.clone().requires_grad_()
    v = state.membrane.clone().requires_grad_()
    x = [s.expand(*s.shape[:2], batch, size).clone().requires_grad_() for s in state.states]
    current = Separable(drive.waveform, amplitude)
    membrane, end = twin.run(current if separable else expanded(current), type(state)(v, tuple(x)))
    weight = torch.sin(torch.arange(membrane.numel(), dtype=torch.float64)).reshape(membrane.shape).to(membrane)
    loss = (membrane * weight).sum() + sum((s * s.cos()).sum() for s in end.states)
    gradients = torch.autograd.grad(loss, [amplitude, v, *x])
    return (membrane.detach(), *(s.detach() for s in end.states), *gradients)


def _twins(cell: Any, size: int, dtype: torch.dtype, dt: float, **more: Any) -> tuple[CellTwin, CellTwin]:
    return tuple(CellTwin(size, dt, cell=cell, dtype=dtype, kernel=k, **more) for k in ("eager", "fused"))  # pyright: ignore


def assert_equal_runs(eager: CellTwin, fused: CellTwin, drive: Separable, tolerance: float) -> None:
    expected = _results(eager, drive, False)
    for separable in (False, True):
        for ours, theirs in zip(_results(fused, drive, separable), expected, strict=True):
            assert float((ours - theirs).norm()) <= tolerance * float(theirs.norm())
            assert bool(theirs.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("cell", "dt"), [("mif", 0.5e-6), ("threshold_neuron", 2e-9)])
def test_fused_twin_equals_eager_twin(cell: str, dt: float, dtype: torch.dtype) -> None:
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-11}[dtype]
    assert_equal_runs(*_twins(cell, 7, dtype, dt), _drive(60, 5, 7, dtype), tolerance)


@pytest.mark.parametrize(
    ("steps", "batch", "size"), [(1, 1, 1), (2, 3, 1), (15, 1, 127), (16, 2, 64), (17, 3, 43), (225, 2, 9)]
)
def test_blocks_and_checkpoints_of_any_size(steps: int, batch: int, size: int) -> None:
    assert_equal_runs(*_twins("mif", size, torch.float64, 0.5e-6), _drive(steps, batch, size, torch.float64), 1e-11)


def test_parameters_of_each_neuron() -> None:
    generator = np.random.default_rng(1)
    parameters = {"tau": generator.uniform(5e-5, 2e-4, 50), "c": generator.uniform(5e-11, 2e-10, 50), "von": 0.12}
    twins = _twins("mif", 50, torch.float64, 0.5e-6, parameters=parameters)
    assert_equal_runs(*twins, _drive(37, 4, 50, torch.float64), 1e-11)


@pytest.mark.parametrize("name", [name for name, own in OWN.items() if own.splits])
def test_cells_of_users(tmp_path: Path, name: str) -> None:
    own = OWN[name]
    twins = _twins(find_cell(str(write(tmp_path, name, own))), 6, torch.float64, own.dt)
    drive = _drive(60, 3, 6, torch.float64)
    assert_equal_runs(*twins, Separable(drive.waveform, drive.amplitude * own.peak / 4e-6), 1e-9)


def test_rate_with_a_logistic_function_in_a_denominator_equals_the_eager_twin(tmp_path: Path) -> None:
    """The rate is fifty times larger where the function is 0 than where it is 1, and a polynomial for small rates far off."""
    home = write(tmp_path, "own_device", OWN["own_device"])
    text = (home / "my_device.va").read_text()
    level = "0.5 * (1.0 + tanh((V(p, n) - 0.02) / 0.01))"
    changed = text.replace("+ V(s) - rise * (1.0 - V(s));", f"+ (V(s) - 0.5) / (0.02 + {level});")
    assert changed != text
    (home / "my_device.va").write_text(changed)
    twins = _twins(find_cell(str(home)), 6, torch.float64, 0.1e-6)
    assert twins[1].method == "splitting"
    drive = _drive(60, 3, 6, torch.float64)
    assert_equal_runs(*twins, Separable(drive.waveform, drive.amplitude * 2.5), 1e-9)


def test_rates_are_bounded_only_where_logistic_functions_are_in_straight_lines() -> None:
    x, y, k = (Symbol(name, real=True) for name in "xyk")
    one, two = sigmoid(x), sigmoid(y)
    assert _extremes(2 * k) == [2 * k]
    assert _extremes(k * (3 + one)) == [3 * k, 4 * k]
    assert sorted(map(str, _extremes(k + one - 2 * one * two))) == ["k", "k", "k + 1", "k - 1"]
    assert _extremes(k / (1.5 - one)) == []
    assert _extremes(k * one * (1 - one)) == []
    assert _extremes(sympy.exp(one)) == []
    assert _extremes(sum((sigmoid(n * x) for n in range(1, MOST + 2)), k)) == []
    assert x in _extremes(x * one)[1].free_symbols


def test_type_of_a_run_is_that_of_the_twin() -> None:
    twin, drive = CellTwin(3, 0.5e-6, kernel="fused"), _drive(20, 4, 3, torch.float64)
    plain = twin(Separable(drive.waveform.float(), drive.amplitude.float()))
    for current in (drive, Separable(drive.waveform, drive.amplitude.float()), expanded(drive)):
        found = twin(current)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, plain, rtol=0.0, atol=1e-7)


def test_one_state_serves_a_batch_and_others_must_fit() -> None:
    drive, found = _drive(20, 16, 3, torch.float64), []
    for twin in _twins("mif", 3, torch.float64, 0.5e-6):
        start = twin.resting_state(1)
        v = (start.membrane + 0.01).requires_grad_()
        given = start._replace(membrane=v)
        out, end = twin.run(expanded(drive), given)
        found.append((out.detach(), end.states[0].detach(), *torch.autograd.grad(out.square().sum(), v)))
    for eager, fused in zip(*found, strict=True):
        assert float((fused - eager).norm()) <= 1e-11 * float(eager.norm())
    twin = CellTwin(3, 0.5e-6, dtype=torch.float64, kernel="fused")
    with pytest.raises(
        InputError, match="the state at the start is of a batch of 3, the current of one of 16. Make them"
    ):
        twin.run(drive, twin.resting_state(3))


def test_gradients_by_waveform_and_reference_are_those_of_the_eager_twin() -> None:
    drive, found = _drive(20, 4, 3, torch.float64), []
    for twin in _twins("mif", 3, torch.float64, 0.5e-6):
        leaves = [t.clone().requires_grad_() for t in (drive.waveform, drive.amplitude, twin.reference)]
        wave, amplitude, reference = leaves
        above, _ = twin._stepped(Separable(wave, amplitude), twin.resting_state(4), reference)
        found.append(torch.autograd.grad(above.sin().square().sum(), leaves))
    for eager, fused in zip(*found, strict=True):
        assert float(eager.norm()) > 0
        assert float((fused - eager).norm()) <= 1e-11 * float(eager.norm())


def test_gradient_is_that_of_finite_differences() -> None:
    twin = CellTwin(3, 0.5e-6, dtype=torch.float64, kernel="fused")
    drive = _drive(20, 2, 3, torch.float64)

    def scaled(amplitude: Tensor) -> Tensor:
        return twin(Separable(drive.waveform, amplitude * 1e-6))

    assert torch.autograd.gradcheck(scaled, (drive.amplitude.mul(1e6).requires_grad_(),), eps=1e-5, atol=1e-8)


def test_gradient_by_parameters_is_that_of_the_eager_twin() -> None:
    drive, found = _drive(30, 4, 3, torch.float64), []
    for twin in _twins("mif", 3, torch.float64, 0.5e-6, parameters={"tau": np.array([1e-4, 2e-4, 5e-5])}):
        for name in ("tau", "c", "von"):
            getattr(twin, f"parameter_{name}").requires_grad_()
        loss = twin(drive).square().sum()
        found.append(torch.autograd.grad(loss, [getattr(twin, f"parameter_{n}") for n in ("tau", "c", "von")]))
    for eager, fused in zip(*found, strict=True):
        assert eager.abs().min() > 0
        assert torch.allclose(eager, fused, rtol=1e-9, atol=0.0)


def test_a_run_in_two_parts_is_one_run() -> None:
    twin = CellTwin(5, 0.5e-6, dtype=torch.float64, kernel="fused")
    current = expanded(_drive(40, 3, 5, torch.float64))
    whole, end = twin.run(current, twin.resting_state(3))
    first, middle = twin.run(current[:24], twin.resting_state(3))
    second, last = twin.run(current[23:], middle)
    assert torch.allclose(torch.cat([first, second[1:]]), whole, rtol=0.0, atol=1e-14)
    assert torch.allclose(last.states[0], end.states[0], rtol=0.0, atol=1e-14)


def test_nan_and_infinity_are_not_hidden() -> None:
    twin = CellTwin(2, 0.5e-6, kernel="fused")
    for bad in (float("nan"), float("inf")):
        current = torch.zeros(11, 1, 2)
        current[4, 0, 1] = bad
        membrane = twin(current)
        assert membrane[:4].isfinite().all()
        assert membrane[:, :, 0].isfinite().all()
        assert not membrane[-1, 0, 1].isfinite()


def test_separable_input_is_never_multiplied_out() -> None:
    twin = Twin((784, 100, 10), dt=0.5e-6, seed=1)
    sizes = []
    twin.layers[0].register_forward_hook(lambda module, given, result: sizes.append(type(result)))
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, record_shapes=True) as seen:
        twin(torch.rand(64, 28, 28)).sum().backward()
    assert sizes == [Separable]
    assert max(int(np.prod(shape)) for event in seen.events() for shape in event.input_shapes if shape) < 201 * 64 * 784


def test_twin_of_a_network_is_the_same_with_both_kernels() -> None:
    found = []
    for name in ("eager", "fused"):
        twin = Twin((20, 6, 3), dt=0.5e-6, seed=3, kernel=name)
        images = torch.rand(4, 20, generator=torch.Generator().manual_seed(0))
        loss = twin(images).square().sum()
        loss.backward()
        found.append([loss.detach(), *(c.weight.grad for c in twin.crossbars)])
    for eager, fused in zip(*found, strict=True):
        assert float((eager - fused).norm()) <= 1e-4 * float(eager.norm())


_TRITON = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import sys
import torch
from memprop.twin.fused import kernel
from memprop.twin.fused.cuda import cuda_kernel
kernel.cpu_kernel = lambda programs, dtype: cuda_kernel(programs)
sys.path.insert(0, sys.argv[1])
import test_fused as t
for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 1e-4)):
    t.assert_equal_runs(*t._twins("mif", 5, dtype, 0.5e-6), t._drive(11, 3, 5, dtype), tolerance)
t.assert_equal_runs(*t._twins("threshold_neuron", 3, torch.float64, 2e-9), t._drive(6, 2, 3, torch.float64), 1e-11)
tau = t.np.array([1e-4, 2e-4, 5e-5])
t.assert_equal_runs(*t._twins("mif", 3, torch.float64, 0.5e-6, parameters={"tau": tau}), t._drive(5, 2, 3, torch.float64), 1e-11)
t.test_gradient_by_parameters_is_that_of_the_eager_twin()
print("equal")
"""


def test_kernels_in_triton_equal_the_eager_twin() -> None:
    """In Triton's interpreter, which needs no card."""
    command = [sys.executable, "-c", _TRITON, str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "equal\n", done.stderr[-2000:]


CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch has no CUDA here")


@CARD
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("cell", "dt"), [("mif", 0.5e-6), ("threshold_neuron", 2e-9)])
@pytest.mark.parametrize(("steps", "batch", "size"), [(17, 3, 43), (225, 2, 300)])
def test_kernels_on_a_card_equal_the_eager_twin_on_the_cpu(
    cell: str, dt: float, dtype: torch.dtype, steps: int, batch: int, size: int
) -> None:
    eager, fused = _twins(cell, size, dtype, dt)
    drive = _drive(steps, batch, size, dtype)
    expected = _results(eager, drive, False)
    there = Separable(drive.waveform.cuda(), drive.amplitude.cuda())
    for separable in (False, True):
        for ours, theirs in zip(_results(fused.cuda(), there, separable), expected, strict=True):
            assert float((ours.cpu() - theirs).norm()) <= {torch.float32: 1e-4, torch.float64: 1e-11}[dtype] * float(
                theirs.norm()
            )


def test_triton_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from memprop.twin.fused import cuda

    monkeypatch.setattr(cuda.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        EngineError, match="Triton, which the fused kernels need on CUDA, is not installed. Run: pip install triton"
    ):
        cuda._module("")


def test_kept_states_grow_with_the_root_of_the_steps() -> None:
    twin = CellTwin(2, 0.5e-6, kernel="fused")
    current = torch.zeros(901, 1, 2, requires_grad=True)
    kept = twin(current).grad_fn.saved_tensors[-1]  # pyright: ignore
    assert kept.shape == (30, 2, 1, 2)


# What decides which kernel runs


def test_auto_fuses_what_is_worth_it_and_says_when_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = CellTwin(200, 0.5e-6)
    called = []
    monkeypatch.setattr("memprop.twin.cell.run_fused", lambda *args: called.append(1) or kernel.run_fused(*args))
    twin(torch.zeros(11, 2, 200))
    assert not called
    steps = WORTH // 200 // 5
    twin(torch.zeros(steps + 1, 5, 200))
    assert called == [1]
    monkeypatch.setenv("CXX", "no_such_compiler")
    twin._plan.kernels.clear()  # pyright: ignore
    kernel._warn.cache_clear()
    with pytest.warns(UserWarning, match=r"plain torch.*no C\+\+ compiler as CXX=no_such_compiler says.*apt-get"):
        slow = twin(torch.full((steps + 1, 5, 200), 1e-6))
    monkeypatch.delenv("CXX")
    assert torch.allclose(slow, twin(torch.full((steps + 1, 5, 200), 1e-6)), rtol=0.0, atol=1e-6)


def test_fused_that_is_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    twin = CellTwin(2, 0.25e-6, kernel="fused", parameters={"c": 1.1e-10})
    twin._plan.kernels.clear()  # pyright: ignore
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(EngineError, match=r"no C\+\+ compiler as c\+\+, g\+\+ or clang\+\+ in PATH"):
        twin(torch.zeros(3, 1, 2))


def test_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", "false")
    monkeypatch.setenv("MEMPROP_CACHE", str(tmp_path))
    with pytest.raises(EngineError, match="false does not build the kernel of a twin: no message"):
        compiler.build("int x;")


def test_unknown_kernel_and_unfit_types_are_refused() -> None:
    with pytest.raises(InputError, match="kernel 'fast' is unknown. Known: auto, fused, eager"):
        CellTwin(1, kernel="fast")
    with pytest.raises(InputError, match="no fused kernel"):
        CellTwin(1, method="general", kernel="fused")
    with pytest.raises(InputError, match="float32 and float64 on CPU or CUDA, not torch.float16 on cpu"):
        CellTwin(1, kernel="fused").half()(torch.zeros(3, 1, 1, dtype=torch.float16))


def test_kernel_is_built_once_per_machine(tmp_path: Path) -> None:
    script = (
        "import torch\nfrom memprop.twin.cell import CellTwin\n"
        "CellTwin(1, kernel='fused')(torch.zeros(2, 1, 1))\nprint('ran')\n"
    )
    place = {**os.environ, "MEMPROP_CACHE": str(tmp_path)}
    first = subprocess.run([sys.executable, "-c", script], env=place, capture_output=True, text=True, check=True)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.so")}
    assert len(files) == 1
    again = subprocess.run([sys.executable, "-c", script], env=place, capture_output=True, text=True, check=True)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.so")} == files
    assert first.stdout == again.stdout == "ran\n"


# Programs and their adjoints

A, B_, C_ = (Symbol(name, real=True) for name in "abc")


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> Any:
    """Smooth expressions of three symbols, finite around [-1, 1]."""
    if depth == 0:
        return draw(st.sampled_from([A, B_, C_, sympy.Float(0.5), sympy.Integer(2)]))
    one = draw(expressions(depth=depth - 1))
    two = draw(expressions(depth=depth - 1))
    small, when = sympy.tanh(one), draw(st.sampled_from([A < B_, B_ < 0, C_ >= A]))
    makers = [
        lambda: one + two, lambda: one * two, lambda: one - two, lambda: sigmoid(one), lambda: sympy.exp(small),
        lambda: expm1(small), lambda: phi(1, small), lambda: phi(2, small), lambda: 1 / (2 + small),
        lambda: sympy.sqrt(2 + small), lambda: limexp(small),
        lambda: sympy.Piecewise((one, when), (one * two, True), evaluate=False),
    ]  # fmt: skip
    return draw(st.sampled_from(makers))()


def _value(expr: Any, at: dict[Any, float]) -> float:
    """Return the number without touching the expression: rewriting alternatives inside of others takes sympy hours."""
    known: dict[Any, Any] = dict(at)
    for node in sympy.postorder_traversal(expr):
        if isinstance(node, (sigmoid, expm1)):
            z = float(evaluate(node.args[0], known))
            known[node] = 1 / (1 + math.exp(-z)) if isinstance(node, sigmoid) else math.expm1(z)
        elif isinstance(node, phi):
            known[node] = _phi(node.args[0], float(evaluate(node.args[1], known)))
    return float(evaluate(expr, known))


def _phi(k: Any, z: Any) -> Any:
    return sum(z**n / math.factorial(n + int(k)) for n in range(40))


@settings(max_examples=40, deadline=None)
@given(expressions(), st.tuples(*[st.floats(-1, 1)] * 3))
def test_adjoint_is_the_derivative(expr: Any, point: tuple[float, ...]) -> None:
    inputs, bar = (A, B_, C_), Symbol("bar", real=True)
    writer = Writer()
    back = adjoint(writer.program(inputs, [writer(expr)]), inputs, [bar])
    known: dict[Any, float] = {**dict(zip(inputs, point, strict=True)), bar: 1.0}
    for name, part in back.lets:
        known[name] = _value(part, known)
    here, h = dict(zip(inputs, point, strict=True)), 1e-6
    for symbol, output in zip(inputs, back.outputs, strict=True):
        low, middle, high = (_value(expr, {**here, symbol: here[symbol] + k * h}) for k in (-1, 0, 1))
        slope = (high - low) / (2 * h)
        assume(abs(high + low - 2 * middle) < 1e-4 * h * (1 + abs(slope)))  # no kink or jump within the difference
        assert _value(sympy.sympify(output), known) == pytest.approx(slope, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("z", [-3.0, -0.4, 0.7, 2.0])
def test_slope_of_phi(k: int, z: float) -> None:
    x = Symbol("x", real=True)
    slope = _value(sympy.diff(phi(k, x), x).xreplace({x: sympy.Float(z)}), {})

    def exact(t: Any) -> Any:
        return (mpmath.exp(t) - sum(t**n / mpmath.factorial(n) for n in range(k))) / t**k

    assert slope == pytest.approx(float(mpmath.diff(exact, z)), rel=1e-9)


def test_functions_of_programs_with_kinks() -> None:
    writer = Writer()
    program = writer.program((A, B_), [writer(absolute(A) * maximum(A, B_) + minimum(A, B_))])
    back = adjoint(program, (A, B_), [C_])
    known: dict[Any, float] = {A: -0.5, B_: 0.25, C_: 1.0}
    for name, part in back.lets:
        known[name] = _value(part, known)
    assert [_value(sympy.sympify(o), known) for o in back.outputs] == pytest.approx([-0.25 + 1.0, 0.5])


# The functions of the C++ frame

_WRAPPER = """
extern "C" void each(const real* z, real* out, long n) {
    for (long k = 0; k < n; ++k) {
        out[k] = m_exp(z[k]); out[n + k] = m_expm1(z[k]); out[2 * n + k] = m_sigmoid(z[k]); out[3 * n + k] = m_tanh(z[k]);
        out[4 * n + k] = m_phi<1>(z[k]); out[5 * n + k] = m_phi<2>(z[k]); out[6 * n + k] = m_phi<3>(z[k]);
    }
}
"""


@pytest.mark.parametrize(("real", "kind", "digits"), [("float", np.float32, 6e-7), ("double", np.float64, 3e-15)])
def test_functions_of_the_frame_are_exact(real: str, kind: Any, digits: float) -> None:
    frame = (Path(kernel.__file__).parent / "kernel.cpp.in").read_text()
    text = frame.split("struct Flush")[0] + "}" + _WRAPPER
    for name, piece in constants(real).items():
        text = text.replace(f"@{name}@", piece)
    for name in ("states", "uniform", "varying", "tape", "constants"):
        text = text.replace(f"@{name}@", "1")
    z = np.concatenate([np.linspace(-80, 80, 1501), np.linspace(-1, 1, 401), [1e-12, -1e-12, 0.0, 5e-5, -3e-3]]).astype(
        kind
    )
    out = np.zeros((7, len(z)), dtype=kind)
    compiler.build(text).each(
        z.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_long(len(z))
    )
    mpmath.mp.dps = 80
    for row, exact in enumerate(
        (mpmath.exp, mpmath.expm1, _logistic, mpmath.tanh, *(_exact_phi(k) for k in (1, 2, 3)))
    ):
        wanted = np.array([float(exact(mpmath.mpf(float(x)))) for x in z])
        error = np.abs(out[row].astype(np.float64) - wanted) / np.maximum(np.abs(wanted), 1e-37)
        assert error.max() < digits * (1 if row < 4 else 8), (row, float(z[error.argmax()]), error.max())


def _logistic(z: Any) -> Any:
    return 1 / (1 + mpmath.exp(-z))


def _exact_phi(k: int) -> Any:
    def value(z: Any) -> Any:
        if z == 0:
            return 1 / mpmath.factorial(k)
        return (mpmath.exp(z) - sum(z**n / mpmath.factorial(n) for n in range(k))) / z**k

    return value
