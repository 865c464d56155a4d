"""What the rows say in a few lines: the table at the end of a bench, and that of README."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from memprop.flow.bench.measure import median
from memprop.flow.bench.sheet import Row

Rows = Sequence[Row]


@dataclass(frozen=True, slots=True)
class Line:
    """One line: how many times faster than what one would do instead, and what else belongs to it."""

    what: str
    against: str
    wall: str
    cpu: str
    more: str
    """Deviation and what else was measured in the same row."""
    lead: bool = True
    """Whether README shows it; all lines stand in ``docs/bench.md``."""


def times(found: Mapping[str, float] | None) -> str:
    """Return a ratio as text: median, and lowest to highest where they differ."""
    if found is None:
        return "-"
    middle, low, high = (f"{found[key]:.3g}" for key in ("median", "low", "high"))
    return middle if low == high else f"{middle} ({low} to {high})"


def exponent(x: Sequence[float], y: Sequence[float]) -> float:
    """Return by which power ``y`` grows with ``x``: the straight line through the upper half of the logarithms."""
    half = len(x) // 2 if len(x) > 2 else 0
    return float(np.polyfit(np.log(x[half:]), np.log(y[half:]), 1)[0])


def growth(rows: Rows, over: str, key: str, case: str, clock: str = "cpu_s") -> tuple[list[float], list[float]]:
    """Return sizes and medians in s of a case that grows over ``over``, ordered by size; other sizes are those of the last row."""
    grown = [row for row in rows if row["kind"] == f"growth over {over}" and case in row["cases"]]
    alike = [row for row in grown if all(row.get(k) == grown[-1].get(k) for k in ("batch", "network"))]
    found = sorted((float(row[key]), median(row["cases"][case], clock)) for row in alike)
    return [x for x, _ in found], [y for _, y in found]


def _twin(rows: Rows) -> Iterator[Line]:
    for row in rows:
        size = f"T {row['steps']}, B {row['batch']}, N {row['neurons']}"
        if row["kind"] == "pair":
            found, memory, bound = row["ratios"]["eager/fused"], row["peak_tensors_bytes"], row["bound"]
            more = (
                f"gradients within {row['gradient_deviation_relative']:.1g} of the largest, membranes within "
                f"{row['membrane_deviation_v']:.1g} V; tensors {memory['eager'] / memory['fused']:.3g} times smaller; "
                f"{100 * bound['share_of_bound']['median']:.0f} % of what the machine's arithmetic and memory allow"
            )
            yield Line(
                f"twin, forward and backward, {size}", "eager loop", times(found["wall"]), times(found["cpu"]), more
            )
        elif "failed" in row:
            yield Line(f"the same, {size}", "torch.compile of a step", "", "", f"failed: {row['failed']}")
        elif row["kind"] == "compiled":
            found = row["ratios"]["torch.compile/fused"]
            more = (
                f"torch.compile is {times(row['ratios']['eager/torch.compile']['wall'])} times faster than eager code"
            )
            yield Line(f"the same, {size}", "torch.compile of a step", times(found["wall"]), times(found["cpu"]), more)
    yield from _grown(rows, "twin, cost over neurons", "neurons", "neurons", "fused")
    yield from _grown(rows, "twin, cost over time steps", "steps", "steps", "fused")


def _grown(rows: Rows, what: str, over: str, key: str, case: str) -> Iterator[Line]:
    x, y = growth(rows, over, key, case)
    if len(x) > 1 and min(y) > 0:
        sizes = f"{x[0]:,.0f} to {x[-1]:,.0f}"
        yield Line(f"{what} {sizes}, {case}", "", "", "", f"grows with the power {exponent(x, y):.2f}", lead=False)


def _training(rows: Rows) -> Iterator[Line]:
    for row in rows:
        if row["kind"] == "step":
            found, epoch = row["ratios"]["eager/fused"], row["projected_epoch_wall_s"]
            more = (
                f"losses within {row['loss_deviation_relative']:.1g}; an epoch of {row['epoch_steps']} steps would take "
                f"{epoch['fused']:.3g} s instead of {epoch['eager']:.3g} s"
            )
            what = f"training step, {row['network']}, {row['steps']} time steps, batch {row['batch']}"
            yield Line(what, "eager loop", times(found["wall"]), times(found["cpu"]), more)
        elif row["kind"] == "epoch":
            what = f"an epoch of {row['data']}, {row['network']}, {row['images']:,} images"
            accuracy = f"validation {100 * row['validation_accuracy']:.2f} % after it"
            yield Line(what, "", "", "", f"{row['epoch_wall_s']:.3g} s, {accuracy}")


def _spice(rows: Rows) -> Iterator[Line]:
    found = forms(rows)
    for row in found:
        for line in _form_lines(row):
            yield line if row is found[-1] else replace(line, lead=False)
    for row in rows:
        if row["kind"] == "workers":
            found = row["ratios"]["1 workers/2 workers"]
            what = f"two workers, {row['images']} images of {row['network']}, {row['engine']}"
            yield Line(what, "one worker", times(found["wall"]), times(found["cpu"]), "with the start of the workers")
    for engine in dict.fromkeys(row["engine"] for row in rows if row["kind"] == "growth over images"):
        yield from _over_images([row for row in rows if row.get("engine") == engine], engine)
    cases = {case for row in rows if row["kind"] == "growth over neurons" for case in row["cases"]}
    for engine in sorted(cases):
        yield from _grown(rows, "SPICE, cost over neurons", "neurons", "neurons", engine)


def forms(rows: Rows) -> list[Row]:
    """Return the rows of deck forms; of a network whose naive deck was measured only the row with it."""
    found = [row for row in rows if row["kind"] == "forms"]
    naive = {row["network"] for row in found if any(" naive " in case for case in row["cases"])}
    return [row for row in found if row["network"] not in naive or any(" naive " in case for case in row["cases"])]


def _form_lines(row: Row) -> Iterator[Line]:
    """Tell of the batches of a network: against the naive deck where it was measured, else against single runs of the full one."""
    for pair, found in row["ratios"].items():
        above, below = pair.split("/")
        engine, form, _ = below.split(" ")
        if not below.endswith("batch") or above.split(" ")[0] != next(iter(row["cases"])).split(" ")[0]:
            continue
        base = above.split(" ")[1]
        if base == form:
            continue
        deviation = row["largest_deviation_v"].get(f"{below} against {base}")
        spent = row["cases"][below]
        more = f"{median(spent, 'cpu_s'):.3g} s instead of {median(row['cases'][above], 'cpu_s'):.3g} s of CPU time per image"
        if deviation is not None:
            more = f"membranes within {deviation:.1g} V of the {base} deck in the same engine; {more}"
        what = f"an image of {row['network']}, {form} deck in batches, {engine}"
        yield Line(what, f"{base} deck, {above.split(' ')[0]}", times(found["wall"]), times(found["cpu"]), more)


def _over_images(rows: Rows, engine: str) -> Iterator[Line]:
    rows = sorted((row for row in rows if row["kind"] == "growth over images"), key=lambda row: row["images"])
    x, y = growth(rows, "images", "images", "all images")
    memory = [
        row["parent_peak_memory_bytes"] and row["parent_peak_memory_bytes"] - row["parent_memory_before_bytes"]
        for row in rows
    ]
    if len(x) < 2:
        return
    more = f"grows with the power {exponent(x, y):.2f}"
    if None not in memory:
        more += f"; adds {memory[0] / 2**20:.1f} MiB to the calling process at {x[0]:,.0f}, {memory[-1] / 2**20:.1f} MiB at {x[-1]:,.0f}"
    yield Line(f"SPICE, cost over images {x[0]:,.0f} to {x[-1]:,.0f}, {engine}", "", "", "", more, lead=False)


def _crossbar(rows: Rows) -> Iterator[Line]:
    for solver in dict.fromkeys(pair.split("/")[0] for row in rows for pair in row["ratios"]):
        pair = f"{solver}/memprop"
        row = max((row for row in rows if pair in row["ratios"]), key=lambda row: row["nodes"])
        found, memory = row["ratios"][pair], row["memory_bytes"]
        more = f"equal within {row['deviation_relative'][solver]:.1g} of the largest"
        if solver in memory:
            more += f"; {memory['memprop'] / 2**20:.3g} MiB, its factors {memory[solver] / 2**20:.3g} MiB"
        what = f"crossbar of {row['rows']} x {row['columns']} pairs with wires"
        yield Line(what, solver, times(found["wall"]), times(found["cpu"]), more)


LINES: Mapping[str, Callable[[Rows], Iterator[Line]]] = {
    "twin": _twin, "training": _training, "spice": _spice, "crossbar": _crossbar,
}  # fmt: skip


def lines(parts: Mapping[str, Rows]) -> list[Line]:
    """Return the lines of all parts that were measured."""
    return [line for part, make in LINES.items() if part in parts for line in make(parts[part])]


def machine(about: Mapping[str, Any]) -> str:
    """Return machine and versions in one sentence."""
    engines = ", ".join(about["engines"].values()) or "no simulator"
    return (
        f"{about['cpu']}, {about['threads']} of {about['cores']} cores; Python {about['python']}, torch {about['torch']}, "
        f"numpy {about['numpy']}, {about['compiler'] or 'no compiler'}; {engines}."
    )
