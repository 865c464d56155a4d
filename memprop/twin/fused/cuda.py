"""Kernels in Triton, for NVIDIA cards: one program per block of neurons, states in registers for the whole loop over time."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from sympy import Symbol
from torch import Tensor

from memprop.device.functions import LIMIT
from memprop.errors import EngineError
from memprop.files import cache_folder, ensure_folder, sha256, write_atomic
from memprop.twin.fused.adjoint import KernelPrograms
from memprop.twin.fused.printer import TritonPrinter, statements
from memprop.twin.fused.program import Program
from memprop.twin.fused.run import Run

FRAME = Path(__file__).with_name("kernel.triton.in")
BLOCK = 128
"""Neurons of one program."""
_LOADED: dict[str, ModuleType] = {}


@dataclass(frozen=True, slots=True)
class CudaKernel:
    """Kernels of a cell in Triton."""

    programs: KernelPrograms
    module: ModuleType

    def forward(self, run: Run, v: Tensor, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return membranes, kept states, states at the end."""
        out, kept = v.new_empty((run.steps + 1, *v.shape)), v.new_empty((run.chunks, *x0.shape))
        end = torch.empty_like(x0)
        self.module.forward[_grid(run)](
            *_inputs(run), v, x0, out, kept, end, *_sizes(run), SEPARABLE=run.wave is not None, BLOCK=BLOCK
        )
        return out, kept, end

    def backward(
        self, run: Run, out: Tensor, kept: Tensor, g_out: Tensor, g_end: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the gradients by drive, first membrane, first states, and active constants ``[constants, N]``."""
        g_drive, g_v, g_x = torch.empty_like(run.drive), torch.empty_like(out[0]), torch.empty_like(kept[0])
        g_constants = torch.zeros((len(self.programs.active), out.shape[-1]), dtype=torch.float64, device=out.device)
        scratch = out.new_empty((run.every, *kept.shape[1:]))
        self.module.backward[_grid(run)](
            *_inputs(run), out, kept, scratch, g_out, out if g_end is None else g_end, g_drive, g_drive, g_v, g_x, g_constants,
            *_sizes(run), SEPARABLE=run.wave is not None, ENDS=g_end is not None, BLOCK=BLOCK,
        )  # fmt: skip
        return g_drive, g_v, g_x, g_constants


def cuda_kernel(programs: KernelPrograms) -> CudaKernel:
    """Return the kernels of a cell; Triton compiles them at their first run.

    Raises
    ------
    EngineError: Triton is not installed.
    InputError: a function of the cell has no form in Triton.
    """
    return CudaKernel(programs, _module(triton_source(programs)))


def _module(text: str) -> ModuleType:
    """Return the text as a module; Triton reads its source, so it must stand in a file."""
    if importlib.util.find_spec("triton") is None:
        raise EngineError("Triton, which the fused kernels need on CUDA, is not installed. Run: pip install triton.")
    key = sha256(text)[:32]
    if key not in _LOADED:
        path = ensure_folder(cache_folder("twin")) / f"twin_{key}.py"
        write_atomic(path, text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        if spec is None or spec.loader is None:
            raise EngineError(f"kernel {path} cannot be loaded. Delete it and run again.")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _LOADED[key] = module
    return _LOADED[key]


def _grid(run: Run) -> tuple[int]:
    return (-(-run.lanes // BLOCK),)


def _inputs(run: Run) -> tuple[Tensor, ...]:
    """Return current, waveform and amplitude, of which those that are not used stand for others, and the constants."""
    wave = run.drive if run.wave is None else run.wave
    return run.drive, wave, run.drive, run.reference, run.uniform, run.varying


def _sizes(run: Run) -> tuple[Any, ...]:
    # The step as a tensor: Triton takes numbers for single precision.
    return run.steps, run.lanes, run.neurons, run.every, run.reference.new_tensor([run.dt])


def triton_source(programs: KernelPrograms) -> str:
    """Return the text of the kernels."""
    text = FRAME.read_text(encoding="utf-8")
    for name, lines in {"functions": _functions(), **_pieces(programs)}.items():
        text = _filled(text, name, lines)
    return text


def _filled(text: str, name: str, lines: Sequence[str]) -> str:
    """Put lines into the place of a name, as deep as it stands."""
    result = []
    for line in text.split("\n"):
        if line.strip() != f"@{name}@":
            result.append(line)
            continue
        depth = line[: len(line) - len(line.lstrip())]
        result += [f"{depth}{part}" if part else "" for part in (lines or ["pass"])]
    return "\n".join(result)


def _functions() -> list[str]:
    """Return the functions that Triton lacks; series near zero, where differences would lose digits."""
    lines: list[str] = []
    for k in (1, 2, 3):
        terms = [repr(1 / math.factorial(n + k)) for n in range(15)]
        series = terms[-1]
        for term in reversed(terms[:-1]):
            series = f"({series}*y + {term})"
        far = "tl.exp(w)"
        for n in range(k):
            far = f"({far} - {1 / math.factorial(n)!r})/w"
        lines += ["@triton.jit", f"def m_phi{k}(z):", "    near = tl.abs(z) < 0.5", "    y = tl.where(near, z, z*0.0)"]
        lines += ["    w = tl.where(near, z*0.0 + 1.0, z)", f"    return tl.where(near, {series}, {far})", "", ""]
    bodies: Mapping[str, str] = {
        "m_expm1": "tl.where(tl.abs(z) < 0.5, m_phi1(z)*z, tl.exp(z) - 1.0)",
        "m_sigmoid": "1.0/(1.0 + tl.exp(-z))",
        "m_tanh": "tl.where(z < 0.0, 1.0, -1.0)*m_expm1(-2.0*tl.abs(z))/(m_expm1(-2.0*tl.abs(z)) + 2.0)",
        "m_sinh": "0.5*(m_expm1(z) - m_expm1(-z))",
        "m_cosh": "0.5*(tl.exp(z) + tl.exp(-z))",
        "m_limexp": f"tl.exp(tl.minimum(z, {LIMIT!r}))*(1.0 + tl.maximum(z - {LIMIT!r}, 0.0))",
    }
    for name, body in bodies.items():
        lines += ["@triton.jit", f"def {name}(z):", f"    return {body}", "", ""]
    return lines[:-2]


def _pieces(p: KernelPrograms) -> dict[str, list[str]]:
    """Return the lines that go into the frame."""
    printer, count = TritonPrinter(), len(p.states)
    states, bars = [s.name for s in p.states], [bar.name for bar in p.bars[1:]]
    tape = [(name.name, False) for name in p.tape]
    constants = [(f"gc{k}", True) for k in range(len(p.active))]

    def body(program: Program, *targets: tuple[str, bool]) -> list[str]:
        places: list[tuple[Symbol, str]] = []
        return statements(printer, program, places, targets)

    def each(text: str, names: Sequence[str]) -> list[str]:
        return [text.format(k=k, name=name) for k, name in enumerate(names)]

    after = [(f"{name}_next", False) for name in states]
    replay = Program(p.replay.inputs, p.replay.lets, p.replay.outputs[:count])
    return {
        "constants": [
            f"STATES: tl.constexpr = {count}",
            "dt = tl.load(dt_place)",
            *(f"{s.name} = tl.load(uniform + {k})" for k, s in enumerate(p.uniform)),
            *(f"{s.name} = tl.load(varying + {k}*neurons + neuron, mask=ok)" for k, s in enumerate(p.varying)),
        ],
        "load_x0": each("{name} = tl.load(x0 + {k}*lanes + e, mask=ok)", states),
        "keep": each("tl.store(kept + (n // every*STATES + {k})*lanes + e, {name}, mask=ok)", states),
        "whole": body(p.whole, ("v_next", False), *after),
        "take": each("{name} = {name}_next", states),
        "advance": body(p.advance, *after),
        "store_end": each("tl.store(x_end + {k}*lanes + e, {name}_next, mask=ok)", states),
        "zero_bars": each("{name} = zero", bars),
        "zero_constants": [f"gc{k} = zero" for k in range(len(p.active))],
        "load_kept": each("{name} = tl.load(kept + ((chunks - 1 - back)*STATES + {k})*lanes + e, mask=ok)", states),
        "scratch_store": each("tl.store(scratch + ((n - start)*STATES + {k})*lanes + e, {name}, mask=ok)", states),
        "replay": body(replay, *after),
        "load_end": each("{name} = tl.load(g_end + {k}*lanes + e, mask=ok)", bars),
        "end": [
            *body(p.end, ("bar0", True), *((f"{bar}_next", False) for bar in bars), *constants),
            *each("{name} = {name}_next", bars),
        ],
        "scratch_load": each("{name} = tl.load(scratch + ((n - start)*STATES + {k})*lanes + e, mask=ok)", states),
        "back": [
            *body(Program(p.replay.inputs, p.replay.lets, p.tape), *tape),
            *body(p.back, ("bar0_next", False), *((f"{bar}_next", False) for bar in bars), ("g0", False), ("g1", False),
                  *constants),
        ],
        "take_bars": each("{name} = {name}_next", bars),
        "store_bars": each("tl.store(g_x + {k}*lanes + e, {name}, mask=ok)", bars),
        "add_constants": [
            f"tl.atomic_add(g_constants + {k}*neurons + neuron, gc{k}.to(tl.float64), mask=ok)" for k in range(len(p.active))
        ],
    }  # fmt: skip
