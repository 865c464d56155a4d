"""What a kernel computes: the programs of a step forward and backward."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sympy import Symbol

from memprop.twin.fused.program import Program, adjoint, pruned, taped
from memprop.twin.fused.step import AFTER, BEFORE, Steps, V


@dataclass(frozen=True, slots=True)
class KernelPrograms:
    """Programs of the kernels of a cell."""

    states: tuple[Symbol, ...]
    sums: Mapping[Symbol, Any]
    """Constants that are exponentials of sums of others, see `Steps.sums`."""
    uniform: tuple[Symbol, ...]
    """Constants with one value for all neurons."""
    varying: tuple[Symbol, ...]
    """Constants with one value per neuron."""
    active: tuple[Symbol, ...]
    """Constants whose gradient is asked: none, or uniform and varying."""
    bars: tuple[Symbol, ...]
    """Weights of the membrane and of the states after a step, inputs of the adjoints."""
    advance: Program
    whole: Program
    tape: tuple[Symbol, ...]
    """Values of a step that `replay` returns after the states, and `back` takes."""
    replay: Program
    """States after a step whose membrane is known, and the tape."""
    back: Program
    """Gradients by membrane, states, both currents and active constants."""
    end: Program
    """Gradients of `advance` by membrane, states and active constants."""


def kernel_programs(
    steps: Steps, uniform: tuple[Symbol, ...], varying: tuple[Symbol, ...], *, gradients: bool
) -> KernelPrograms:
    """Return the programs of the kernels; ``gradients``: also by the constants."""
    whole, advance, states = steps.whole, steps.advance, steps.states
    active = (*uniform, *varying) if gradients else ()
    bars = tuple(Symbol(f"bar{k}", real=True) for k in range(len(states) + 1))
    back, tape = taped(adjoint(whole, [V, *states, BEFORE, AFTER, *active], bars), whole)
    replay = pruned(replace(whole, outputs=(*whole.outputs[1:], *tape)))
    end = adjoint(advance, [V, *states, *active], bars[1:])
    return KernelPrograms(states, steps.sums, uniform, varying, active, bars, advance, whole, tape, replay, back, end)
