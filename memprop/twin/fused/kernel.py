"""The fused kernels of a population as one operation of torch, with its gradient."""

from __future__ import annotations

import ctypes
import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sympy import Symbol
from torch import Tensor
from torch.autograd.function import once_differentiable

from memprop.errors import InputError, MempropError
from memprop.twin.drive import Separable
from memprop.twin.fused.compiler import build, find_compiler
from memprop.twin.fused.cpp import Source, cpp_source
from memprop.twin.fused.step import constants_of, make_steps
from memprop.twin.splitting import Prepared

_REAL = {torch.float32: "float", torch.float64: "double"}


def is_fusible(like: Tensor) -> bool:
    """Return whether tensors like this one can take a fused kernel; says once, as a warning, what hinders it."""
    try:
        check_fusible(like)
        return True
    except MempropError as error:
        _warn(str(error))
        return False


def check_fusible(like: Tensor) -> None:
    """Raise EngineError or InputError unless tensors like this one can take a fused kernel."""
    if like.dtype not in _REAL or like.device.type != "cpu":
        raise InputError(f"fused kernels take float32 and float64 on the CPU, not {like.dtype} on {like.device}.")
    find_compiler()


@functools.cache
def _warn(reason: str) -> None:
    warnings.warn(f"the twin runs in plain torch, many times slower than its fused kernel: {reason}", stacklevel=5)


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


@dataclass(frozen=True, slots=True)
class _Library:
    source: Source
    forward: Callable[..., None]
    backward: Callable[..., None]


def run_fused(
    prepared: Prepared, current: Tensor | Separable, v: Tensor, states: Sequence[Tensor], reference: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Do what `Prepared.run` does, in one call: return the membranes above ``reference`` and the states at the end.

    ``current`` in A and the membranes in V are ``[T + 1, B, N]``, the current may be separable; ``v`` in V ``[B, N]`` and
    ``states``, one ``[S, D, B, N]`` per group, are those at the start; ``reference`` in V is ``[1, N]``.

    Raises
    ------
    EngineError: the kernel cannot be built.
    """
    like = v
    constants = constants_of(prepared)
    library = _library(prepared, constants, like.dtype)
    shape = v.shape
    flat = [x.expand(*x.shape[:2], *shape).reshape(-1, *shape) for x in states]
    x0 = torch.cat(flat) if flat else like.new_zeros((0, *shape))
    uniform = torch.cat([constants[s].to(like) for s in library.source.uniform])
    varying = torch.cat([constants[s].to(like) for s in library.source.varying] or [like.new_zeros(0)])
    if isinstance(current, Separable):
        wave, drive = current.waveform.to(like), current.amplitude
    else:
        wave, drive = None, current
    out, end = _Run.apply(library, prepared.dt, wave, drive, v, x0, uniform, varying, reference)  # pyright: ignore
    ends, start = [], 0
    for x in states:
        count = x.shape[0] * x.shape[1]
        ends.append(end[start : start + count].unflatten(0, x.shape[:2]))
        start += count
    return out, ends


def _library(prepared: Prepared, constants: Mapping[Symbol, Tensor], dtype: torch.dtype) -> _Library:
    """Return the kernel of a cell for this pattern of constants, built once and kept with the plan of the cell."""
    uniform = tuple(s for s, value in constants.items() if value.numel() == 1)
    varying = tuple(s for s, value in constants.items() if value.numel() > 1)
    gradients = any(value.requires_grad for value in constants.values())
    kernels, key = prepared.plan.kernels, (prepared.following, varying, dtype, gradients)
    if key not in kernels:
        source = cpp_source(make_steps(prepared), uniform, varying, _REAL[dtype], gradients=gradients)
        library = build(source.text)
        kernels[key] = _Library(source, library.memprop_forward, library.memprop_backward)
    return kernels[key]


class _Run(torch.autograd.Function):
    """Forward and adjoint run."""

    @staticmethod
    def forward(
        ctx: Any, library: _Library, dt: float, wave: Tensor | None, drive: Tensor, v: Tensor, x0: Tensor, uniform: Tensor,
        varying: Tensor, reference: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        drive, v, x0, uniform, varying, reference = (
            t.contiguous() for t in (drive, v, x0, uniform, varying, reference)
        )
        steps = (len(wave) if wave is not None else len(drive)) - 1
        every = max(1, math.isqrt(steps))
        task = _Task(
            steps,
            v.numel(),
            v.shape[-1],
            every,
            dt,
            *_drive(wave, drive),
            *map(_pointer, (reference, uniform, varying)),
        )
        out = v.new_empty((steps + 1, *v.shape))
        kept = v.new_empty(((steps + every - 1) // every, *x0.shape))
        end = torch.empty_like(x0)
        library.forward(
            ctypes.byref(task), *map(_pointer, (v, x0, out, kept, end)), ctypes.c_int(torch.get_num_threads())
        )
        ctx.save_for_backward(wave, drive, reference, uniform, varying, out, kept)
        ctx.library, ctx.task = library, task
        ctx.set_materialize_grads(False)
        return out, end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore
        g_out, g_end = grad_outputs
        wave, drive, *_, out, kept = ctx.saved_tensors
        g_out = torch.zeros_like(out) if g_out is None else g_out.contiguous()
        g_end = None if g_end is None else g_end.contiguous()
        g_drive = torch.empty_like(drive)
        g_v, g_x = out.new_empty(out.shape[1:]), kept.new_empty(kept.shape[1:])
        source, neurons = ctx.library.source, out.shape[-1]
        count = (len(source.uniform) + len(source.varying)) if source.gradients else 0
        g_constants = torch.zeros((count, neurons), dtype=torch.float64)
        task = ctx.task
        task_pointer = ctypes.byref(task)
        places = (
            out,
            kept,
            g_out,
            g_end,
            *((None, g_drive) if wave is not None else (g_drive, None)),
            g_v,
            g_x,
            g_constants,
        )
        ctx.library.backward(
            task_pointer, ctypes.byref(_Gradients(*map(_pointer, places))), ctypes.c_int(torch.get_num_threads())
        )
        g_uniform = g_varying = None
        if count:
            g_constants = g_constants.to(out)
            g_uniform = g_constants[: len(source.uniform)].sum(1)
            g_varying = g_constants[len(source.uniform) :].reshape(-1)
        return None, None, None, g_drive, g_v, g_x, g_uniform, g_varying, None


def _drive(wave: Tensor | None, drive: Tensor) -> tuple[int | None, ...]:
    """Return the addresses of current, waveform and amplitude."""
    return (drive.data_ptr(), None, None) if wave is None else (None, wave.data_ptr(), drive.data_ptr())


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())
