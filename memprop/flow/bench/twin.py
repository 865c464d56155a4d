"""Part ``twin``: forward and backward of a population of MIF neurons, eager against fused against the machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from memprop.flow.bench.counts import Count, both_ways, bytes_moved
from memprop.flow.bench.machine import Peaks
from memprop.flow.bench.measure import Run, as_case, by_turns, median, ratio, ratios, shown, spent_by
from memprop.flow.bench.sheet import Row, Sheet
from memprop.learn.memory import keep_freed_memory
from memprop.twin.cell import MIF
from memprop.twin.fused.kernel import kernel_of
from memprop.twin.fused.run import Kernel
from memprop.twin.prepared import Prepared

DT = 0.5e-6
"""Time step in s."""
CURRENT = 1.5e-6
"""Spread of the input currents in A: what a trained crossbar gives."""


@dataclass(frozen=True, slots=True)
class Size:
    """Steps in time, batch, neurons."""

    T: int
    B: int
    N: int

    def __str__(self) -> str:
        return f"T {self.T}, B {self.B}, N {self.N}"

    @property
    def columns(self) -> dict[str, int]:
        """The sizes of a row."""
        return {"steps": self.T, "batch": self.B, "neurons": self.N}


@dataclass(frozen=True, slots=True)
class TwinPlan:
    """What is measured."""

    pairs: Sequence[Size]
    neurons: Sequence[int]
    """Growth over neurons, at ``T`` and ``B`` of ``fixed``."""
    steps: Sequence[int]
    """Growth over steps, at ``B`` and ``N`` of ``fixed``."""
    fixed: Size
    compiled: Size | None
    """Where torch.compile is compared too."""
    repeats: int = 5
    eager_most: int = 8_000_000
    """Growth: largest number of neurons x batch x steps that eager code is given."""
    peak_rounds: int = 4_000_000


class Population:
    """A population and its input, under one kernel."""

    def __init__(self, size: Size, kernel: str, seed: int = 0) -> None:
        keep_freed_memory()  # as every training does
        generator = torch.Generator().manual_seed(seed)
        self.twin = MIF(size.N, DT, kernel=kernel)
        time = torch.arange(size.T + 1) * DT
        wave = (time % 50e-6) / 10e-6
        amplitude = CURRENT * torch.randn(size.B, size.N, generator=generator)
        self.current = ((wave * torch.exp(1 - wave))[:, None, None] * amplitude).requires_grad_()
        self.weights = torch.randn(size.T + 1, size.B, size.N, generator=generator)

    def __call__(self) -> tuple[Tensor, Tensor]:
        """Return membranes above rest in V and the gradient by the currents in V/A, each ``[T + 1, B, N]``."""
        membranes = self.twin(self.current)
        (gradient,) = torch.autograd.grad(membranes, self.current, self.weights)
        return membranes.detach(), gradient

    def prepared(self) -> Prepared:
        """Return the splitting with its parameters."""
        return self.twin.prepared(self.weights[0])

    def kernel(self) -> Kernel:
        """Return the fused kernel."""
        return kernel_of(self.prepared(), self.weights[0])

    def compiled(self) -> Callable[[], tuple[Tensor, Tensor]]:
        """Return the same with the eager step compiled by torch."""
        prepared, state = self.prepared(), self.twin.resting_state(self.weights.shape[1])
        step = torch.compile(prepared.step)

        def run() -> tuple[Tensor, Tensor]:
            v, states, membrane = state.membrane.contiguous(), [x.contiguous() for x in state.states], []
            membrane.append(v)
            for before, after in pairwise((self.current + prepared.source).unbind(0)):
                v, states = step(v, states, before, after, DT if len(membrane) > 1 else 0.5 * DT)
                membrane.append(v)
            above = torch.stack(membrane) - self.twin.rest
            return above.detach(), torch.autograd.grad(above, self.current, self.weights)[0]

        return run


def measure(sheet: Sheet, plan: TwinPlan) -> None:
    """Measure the rows of ``plan``.

    Raises
    ------
    EngineError: there is no C++ compiler.
    """
    repeats = {"repeats": plan.repeats}
    for size in plan.pairs:
        made = {**repeats, "peak_rounds": plan.peak_rounds}
        sheet.row(f"eager and fused, {size}", lambda size=size: _pair(size, plan), made)
    if plan.compiled is not None:
        size = plan.compiled
        sheet.row(f"torch.compile, {size}", lambda: _compiled(size, plan), repeats)
    made = {**repeats, "eager_most": plan.eager_most}
    for n in plan.neurons:
        size = Size(plan.fixed.T, plan.fixed.B, n)
        sheet.row(f"growth over neurons, {size}", lambda size=size: _growth(size, "neurons", plan), made)
    for t in plan.steps:
        size = Size(t, plan.fixed.B, plan.fixed.N)
        sheet.row(f"growth over steps, {size}", lambda size=size: _growth(size, "steps", plan), made)


def _pair(size: Size, plan: TwinPlan) -> Row:
    """Compare eager and fused; the machine's peaks are measured between them."""
    eager, fused, peaks = Population(size, "eager"), Population(size, "fused"), Peaks(plan.peak_rounds)
    found = deviations(eager(), fused())
    samples = by_turns({"eager": eager, "fused": fused, **peaks.cases()}, plan.repeats)
    cases = {name: as_case(each) for name, each in samples.items()}
    return {
        "kind": "pair", **size.columns, "cases": cases,
        "ratios": {"eager/fused": ratios(cases, "eager", "fused")},
        **found,
        "peak_tensors_bytes": {"eager": peak_tensors(eager), "fused": peak_tensors(fused)},
        "bound": _bound(size, fused.kernel(), peaks, cases),
    }  # fmt: skip


def deviations(eager: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Return the largest deviations of membranes and gradients: in V, and relative to the largest of all."""
    (v, g), (v_other, g_other) = eager, other
    return {
        "membrane_deviation_v": shown(float((v - v_other).abs().max())),
        "membrane_deviation_relative": shown(float((v - v_other).abs().max() / v.abs().max())),
        "gradient_deviation_relative": shown(float((g - g_other).abs().max() / g.abs().max())),
    }


def peak_tensors(run: Run) -> int:
    """Return the most bytes of tensors that a run holds at a time beyond what was there."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    results: Any = profiler.profiler
    events = results.kineto_results.events()
    moves = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = most = 0
    for _, count in moves:
        held += count
        most = max(most, held)
    return most


def _bound(size: Size, kernel: Kernel, peaks: Peaks, cases: dict[str, dict[str, list[float]]]) -> Row:
    """Return the shortest time that arithmetic, divisions or memory allow, over the time taken, round by round."""
    neurons, every = size.B * size.N, max(1, int(size.T**0.5))
    count: Count = both_ways(kernel.programs, size.T) * neurons
    moved = bytes_moved(kernel.programs, size.T, every) * neurons
    needed = {"multiply-add": count.flops, "divide": count.divisions, "triad": moved}
    work = peaks.work()
    least = {
        name: [needed[name] / work[name] * second for second in cases[name]["wall_s"]] for name in needed
    }  # s, at the peak of the same round
    whole = [max(each) for each in zip(*least.values(), strict=True)]
    steps = size.T * neurons
    return {
        "flops_per_neuron_step": shown(count.flops / steps), "divisions_per_neuron_step": shown(count.divisions / steps),
        "exponentials_per_neuron_step": shown(count.exponentials / steps),
        "others_per_neuron_step": shown(count.others / steps), "bytes_per_neuron_step": shown(moved / steps),
        "peak_flops_per_s": shown(work["multiply-add"] / median(cases["multiply-add"])),
        "peak_divisions_per_s": shown(work["divide"] / median(cases["divide"])),
        "peak_bytes_per_s": shown(work["triad"] / median(cases["triad"])),
        "fused_flops_per_s": shown(count.flops / median(cases["fused"])),
        **{f"share_{key}": ratio(least[name], cases["fused"]["wall_s"])
           for key, name in (("arithmetic", "multiply-add"), ("divisions", "divide"), ("memory", "triad"))},
        "share_of_bound": ratio(whole, cases["fused"]["wall_s"]),
    }  # fmt: skip


def _compiled(size: Size, plan: TwinPlan) -> Row:
    """Compare with torch.compile of the eager step; where it fails, say why."""
    eager, fused = Population(size, "eager"), Population(size, "fused")
    compiled = eager.compiled()
    try:
        first = spent_by(compiled)
    except Exception as error:  # whatever its compiler raises is the finding
        return {"kind": "compiled", **size.columns, "failed": f"{type(error).__name__}: {str(error).strip()[:300]}"}
    found = deviations(eager(), compiled())
    samples = by_turns({"eager": eager, "torch.compile": compiled, "fused": fused}, plan.repeats)
    cases: dict[str, Any] = {name: as_case(each) for name, each in samples.items()}
    return {
        "kind": "compiled", **size.columns, "cases": cases, "first_call_wall_s": shown(first.wall), **found,
        "ratios": {f"{a}/{b}": ratios(cases, a, b) for a, b in (("eager", "torch.compile"), ("torch.compile", "fused"))},
    }  # fmt: skip


def _growth(size: Size, over: str, plan: TwinPlan) -> Row:
    runs: dict[str, Run] = {"fused": Population(size, "fused")}
    if plan.eager_most >= size.T * size.B * size.N:
        runs["eager"] = Population(size, "eager")
    samples = by_turns(runs, plan.repeats)
    memory = {name: peak_tensors(run) for name, run in runs.items()}
    cases = {name: as_case(each) for name, each in samples.items()}
    return {"kind": f"growth over {over}", **size.columns, "cases": cases, "peak_tensors_bytes": memory}


_S = Size
PLANS = {
    "tiny": TwinPlan([_S(8, 2, 3)], [2, 4], [4, 8], _S(8, 2, 3), None, 2, peak_rounds=1000),
    "bench": TwinPlan(
        [_S(200, 256, 100), _S(200, 256, 512)], [10, 100, 1000, 10_000], [25, 100, 400], _S(100, 64, 100), None
    ),
    "full": TwinPlan(
        [_S(200, 256, 100), _S(200, 256, 512), _S(800, 256, 100), _S(200, 32, 100), _S(200, 1, 100), _S(200, 1024, 100)],
        [10, 30, 100, 300, 1000, 3000, 10_000], [25, 50, 100, 200, 400, 800, 1600], _S(100, 64, 100), _S(200, 256, 100),
        7, eager_most=20_000_000,
    ),
}  # fmt: skip
