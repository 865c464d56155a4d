"""The fused kernels of a population as one operation of torch, with its gradient."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from sympy import Symbol
from torch import Tensor
from torch.autograd.function import once_differentiable

from memprop.device.functions import evaluate
from memprop.errors import InputError, MempropError
from memprop.twin.drive import Separable, shape_of
from memprop.twin.fused.adjoint import kernel_programs
from memprop.twin.fused.cpu import REAL, cpu_kernel
from memprop.twin.fused.cuda import cuda_kernel
from memprop.twin.fused.program import SMALL
from memprop.twin.fused.run import Kernel, Run
from memprop.twin.fused.step import Steps, constants_of, make_steps
from memprop.twin.prepared import Prepared

LARGEST = 60.0
"""Largest exponent of a factor between shared exponentials: in single precision both then stay finite."""


def kernel_of(prepared: Prepared, like: Tensor) -> Kernel:
    """Return the kernel of a population for tensors like this one, built once and kept with the plan of its cell.

    Raises
    ------
    InputError: there are no kernels for this type and place of numbers, or for a function of the cell.
    EngineError: the kernel cannot be built.
    OutputError: or not be kept.
    """
    place = like.device.type
    if like.dtype not in REAL or place not in ("cpu", "cuda"):
        raise InputError(f"fused kernels take float32 and float64 on CPU or CUDA, not {like.dtype} on {like.device}.")
    steps, variant = _steps(prepared)
    constants = _constants(prepared, steps.sums)
    uniform = tuple(s for s, value in constants.items() if value.numel() == 1)
    varying = tuple(s for s, value in constants.items() if value.numel() > 1)
    gradients = any(value.requires_grad for value in constants.values())
    kernels, key = prepared.plan.kernels, (variant, varying, like.dtype, place, gradients)
    if key not in kernels:
        programs = kernel_programs(steps, uniform, varying, gradients=gradients)
        kernels[key] = cpu_kernel(programs, like.dtype) if place == "cpu" else cuda_kernel(programs)
    return kernels[key]


def _steps(prepared: Prepared) -> tuple[Steps, tuple[bool, ...]]:
    """Return the programs of a population, with shared exponentials and polynomials where its constants allow that."""
    following = prepared.following
    first = _made(prepared, (following, True, False))
    known: dict[Any, Any] = {s: value.detach().double().cpu().numpy() for s, value in constants_of(prepared).items()}
    shared = all(bool((np.abs(evaluate(total, known)) < LARGEST).all()) for total in first.sums.values())
    gentle = all(bool((np.abs(evaluate(rate, known)) * prepared.dt < SMALL).all()) for rate in first.rates)
    variant = (following, shared, gentle)
    return _made(prepared, variant), variant


def _made(prepared: Prepared, variant: tuple[bool, bool, bool]) -> Steps:
    """Return the programs of a variant: whether the membrane follows, exponentials are shared, rates are small."""
    kept, key = prepared.plan.kernels, ("steps", *variant)
    if key not in kept:
        kept[key] = make_steps(prepared, shared=variant[1], gentle=variant[2])
    return kept[key]


def _constants(prepared: Prepared, sums: Mapping[Symbol, Any]) -> dict[Symbol, Tensor]:
    """Return the values of all constants of a kernel."""
    found = constants_of(prepared)
    known: dict[Any, Any] = {s: value.detach().double().cpu().numpy() for s, value in found.items()} if sums else {}
    factors = {name: torch.as_tensor(np.exp(-evaluate(total, known))).reshape(-1) for name, total in sums.items()}
    return found | factors


def try_kernel(prepared: Prepared, like: Tensor) -> Kernel | None:
    """Return the kernel, or None where there is none; then says once, as a warning, why."""
    try:
        return kernel_of(prepared, like)
    except MempropError as error:
        _warn(str(error))
        return None


@functools.cache
def _warn(reason: str) -> None:
    warnings.warn(f"the twin runs in plain torch, many times slower than its fused kernel: {reason}", stacklevel=5)


def run_fused(
    kernel: Kernel, prepared: Prepared, current: Tensor | Separable, v: Tensor, states: Sequence[Tensor], reference: Tensor
) -> tuple[Tensor, list[Tensor]]:  # fmt: skip
    """Do what `Prepared.run` does, in one call: return the membranes above ``reference`` and the states at the end.

    ``current`` in A and the membranes in V are ``[T + 1, B, N]``, the current may be separable; ``v`` in V ``[B, N]`` and
    ``states``, one ``[S, D, B, N]`` per group, are those at the start; ``reference`` in V is ``[1, N]``. The type of numbers is
    that of ``v``.
    """
    programs, shape = kernel.programs, shape_of(current)[1:]
    # Kernels take pointers, and check nothing.
    states, reference = [x.to(v).expand(*x.shape[:2], *shape) for x in states], reference.to(v)
    if isinstance(current, Separable) and current.waveform.requires_grad:
        current = current.expand()  # the kernel has a gradient by the amplitude alone
    if reference.requires_grad:
        above, states = run_fused(kernel, prepared, current, v, states, torch.zeros_like(reference))
        return above - reference, states
    constants = _constants(prepared, programs.sums)
    flat = [x.reshape(-1, *shape) for x in states]
    x0 = torch.cat(flat) if flat else v.new_zeros((0, *shape))
    uniform = torch.cat([constants[s].to(v) for s in programs.uniform] or [v.new_zeros(0)])
    varying = torch.cat([constants[s].to(v) for s in programs.varying] or [v.new_zeros(0)])
    wave, drive = (current.waveform.to(v), current.amplitude) if isinstance(current, Separable) else (None, current)
    drive = drive.to(v)
    out, end = _Fused.apply(kernel, prepared.dt, wave, drive, v, x0, uniform, varying, reference)  # pyright: ignore
    counts = [x.shape[0] * x.shape[1] for x in states]
    return out, [part.unflatten(0, x.shape[:2]) for part, x in zip(end.split(counts), states, strict=True)]


class _Fused(torch.autograd.Function):
    """Forward and adjoint run."""

    @staticmethod
    def forward(
        ctx: Any, kernel: Kernel, dt: float, wave: Tensor | None, drive: Tensor, v: Tensor, x0: Tensor, uniform: Tensor,
        varying: Tensor, reference: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        wave = None if wave is None else wave.contiguous()
        inputs = [t.contiguous() for t in (drive, reference, uniform, varying)]
        out, kept, end = kernel.forward(Run(dt, wave, *inputs), v.contiguous(), x0.contiguous())
        ctx.save_for_backward(wave, *inputs, out, kept)
        ctx.kernel, ctx.dt = kernel, dt
        ctx.set_materialize_grads(False)
        return out, end

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> tuple[Tensor | None, ...]:  # pyright: ignore
        g_out, g_end = (None if g is None else g.contiguous() for g in grad_outputs)
        *inputs, out, kept = ctx.saved_tensors
        g_out = torch.zeros_like(out) if g_out is None else g_out
        g_drive, g_v, g_x, g_all = ctx.kernel.backward(Run(ctx.dt, *inputs), out, kept, g_out, g_end)
        g_uniform = g_varying = None
        if len(g_all):
            count = len(ctx.kernel.programs.uniform)
            g_uniform, g_varying = g_all[:count].sum(1).to(out), g_all[count:].reshape(-1).to(out)
        return None, None, None, g_drive, g_v, g_x, g_uniform, g_varying, None
