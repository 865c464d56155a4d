"""Kernels in C++: a block of neurons stays in the cache for the whole loop over time; vectorised, blocks shared among threads."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.polynomial import Chebyshev, Polynomial
from sympy import Symbol
from torch import Tensor

from memprop.device.functions import LIMIT
from memprop.twin.fused.adjoint import KernelPrograms
from memprop.twin.fused.compiler import build
from memprop.twin.fused.printer import CppPrinter, statements
from memprop.twin.fused.program import Program
from memprop.twin.fused.run import Run
from memprop.twin.fused.step import AFTER, BEFORE, V

REAL = {torch.float32: "float", torch.float64: "double"}
FRAME = Path(__file__).with_name("kernel.cpp.in")


@dataclass(frozen=True, slots=True)
class CpuKernel:
    """Compiled kernels of a cell."""

    programs: KernelPrograms
    _forward: Callable[..., None]
    _backward: Callable[..., None]

    def forward(self, run: Run, v: Tensor, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return membranes, kept states, states at the end."""
        out, kept = v.new_empty((run.steps + 1, *v.shape)), v.new_empty((run.chunks, *x0.shape))
        end = torch.empty_like(x0)
        self._forward(ctypes.byref(_task(run)), *map(_pointer, (v, x0, out, kept, end)), torch.get_num_threads())
        return out, kept, end

    def backward(
        self, run: Run, out: Tensor, kept: Tensor, g_out: Tensor, g_end: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients by drive, first membrane, first states, and active constants ``[constants, N]``."""
        g_drive, g_v, g_x = torch.empty_like(run.drive), torch.empty_like(out[0]), torch.empty_like(kept[0])
        g_constants = torch.zeros((len(self.programs.active), out.shape[-1]), dtype=torch.float64)
        places = (out, kept, g_out, g_end, *_drives(run, g_drive), g_v, g_x, g_constants)
        gradients = _Gradients(*map(_pointer, places))
        self._backward(ctypes.byref(_task(run)), ctypes.byref(gradients), torch.get_num_threads())
        return g_drive, g_v, g_x, g_constants


def cpu_kernel(programs: KernelPrograms, dtype: torch.dtype) -> CpuKernel:
    """Return the kernels of a cell, built where they are not in the cache.

    Raises
    ------
    EngineError: there is no compiler, or it refuses the text.
    InputError: a function of the cell has no form in C++.
    """
    library = build(cpp_source(programs, REAL[dtype]))
    return CpuKernel(programs, library.memprop_forward, library.memprop_backward)


class _Task(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("steps", "lanes", "neurons", "every")),
        ("dt", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in ("current", "wave", "amplitude", "reference", "uniform", "varying")),
    )


class _Gradients(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_void_p)
        for name in ("out", "kept", "g_out", "g_end", "g_current", "g_amplitude", "g_v", "g_x", "g_constants")
    )


def _task(run: Run) -> _Task:
    current, amplitude = _drives(run, run.drive)
    places = (current, run.wave, amplitude, run.reference, run.uniform, run.varying)
    return _Task(run.steps, run.lanes, run.neurons, run.every, run.dt, *map(_pointer, places))


def _drives(run: Run, drive: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return ``drive`` as the current, or as the amplitude of a separable one."""
    return (drive, None) if run.wave is None else (None, drive)


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def cpp_source(programs: KernelPrograms, real: str) -> str:
    """Return the text of the kernels for numbers of type ``real``, float or double."""
    text = FRAME.read_text(encoding="utf-8")
    for name, piece in {**constants(real), **_pieces(programs)}.items():
        text = text.replace(f"@{name}@", piece)
    return text


def constants(real: str) -> dict[str, str]:
    """Return the numbers that the functions of the frame need."""
    polynomials = {"exp_float": _exponential(4), "exp_double": _exponential(10)}
    return {"real": real, "limit": repr(LIMIT), **{k: ", ".join(map(repr, v)) for k, v in polynomials.items()}}


def _exponential(degree: int) -> list[float]:
    """Return the coefficients of a polynomial for (exp(r) - 1 - r)/r^2 between -ln(2)/2 and ln(2)/2."""
    half = math.log(2) / 2

    def wanted(r: Any) -> Any:
        return sum(r**n / math.factorial(n + 2) for n in range(20))

    fit = Chebyshev.interpolate(wanted, degree, domain=[-half, half])
    return fit.convert(kind=Polynomial).coef.tolist()


def _pieces(p: KernelPrograms) -> dict[str, str]:
    """Return the texts that go into the frame."""
    printer, count = CppPrinter(), len(p.states)
    held = [(s, f"c[{k}][l]") for k, s in enumerate(p.varying)]
    own, here = (_places(p.states, f"{name}[{{k}}][l]") for name in ("x", "here"))
    drives, tape = [(BEFORE, "before[l]"), (AFTER, "after[l]")], _places(p.tape, "tape[{k}][l]")
    bars = [(p.bars[0], "bv[l]"), *_places(p.bars[1:], "bx[{k}][l]")]
    back = ["bv[l]", *(f"bx[{k}][l]" for k in range(count)), "g0[l]", "g1[l]"]
    constants = [(f"gc[{k}][l]", True) for k in range(len(p.active))]

    def body(program: Program, places: Sequence[tuple[Symbol, str]], targets: Sequence[tuple[str, bool]]) -> str:
        return "\n".join(statements(printer, program, [*places, (V, "v[l]"), *held], targets))

    return {
        "states": str(count),
        "uniform": str(len(p.uniform)),
        "varying": str(len(p.varying)),
        "constants": str(len(p.active)),
        "tape": str(len(p.tape)),
        "load_uniform": "\n".join(printer.assign(s.name, f"uniform[{k}]") for k, s in enumerate(p.uniform)),
        "whole": body(p.whole, [*own, *drives], _set("v[l]", *(place for _, place in own))),
        "advance": body(p.advance, own, _set(*(place for _, place in own))),
        "replay": body(p.replay, here, _set(*(f"next[{k}][l]" for k in range(count)), *(place for _, place in tape))),
        "back": body(p.back, [*tape, *here, *drives, *bars], [*_set(*back), *constants]),
        "end": body(p.end, [*here, *bars[1:]], [("bv[l]", True), *_set(*back[1 : count + 1]), *constants]),
    }


def _set(*places: str) -> list[tuple[str, bool]]:
    return [(place, False) for place in places]


def _places(symbols: Sequence[Symbol], place: str) -> list[tuple[Symbol, str]]:
    return [(symbol, place.format(k=k)) for k, symbol in enumerate(symbols)]
