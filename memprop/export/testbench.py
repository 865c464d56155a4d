"""Self-checking testbenches: plain ngspice runs them and says pass or fail for every measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from memprop.conductance.pair import Array
from memprop.deck.deck import Deck
from memprop.deck.ngspice import analysis_line
from memprop.deck.numbers import to_text
from memprop.export.manifest import Check

MEAN_LIMIT = 0.1e-3
"""Allowed deviation of the time mean of an output membrane, in V: room for the step control of another simulator."""
PEAK_LIMIT = 1e-3
"""Allowed deviation of the peak of an output membrane, in V."""
OPERATING_LIMIT = 1e-6
"""Allowed deviation of a node at an operating point, in V."""
CHARGE_LIMIT = 0.01
"""Allowed relative deviation of the charge drawn from a rail."""


def make_checks(time: Array, outputs: dict[str, Array], rails: dict[str, Array]) -> list[Check]:
    """Return the checks of one image: mean and maximum of every output membrane, charge from every rail.

    ``time`` in s, ``outputs`` membranes in V by node, ``rails`` currents in A by voltage source, all ``[points]``.
    """
    span = f"from=0 to={float(time[-1])!r}"
    checks = []
    for node, values in outputs.items():
        mean = float(np.trapezoid(values, time) / (time[-1] - time[0]))
        checks.append(
            Check(name=f"mean_{node}", measure=f"avg v({node}) {span}", expected=mean, limit=MEAN_LIMIT, unit="V")
        )
        checks.append(
            Check(
                name=f"max_{node}",
                measure=f"max v({node}) {span}",
                expected=float(values.max()),
                limit=PEAK_LIMIT,
                unit="V",
            )
        )
    for source, current in rails.items():
        charge = float(np.trapezoid(current, time))
        limit = CHARGE_LIMIT * abs(charge) + 1e-15
        checks.append(
            Check(name=f"charge_{source}", measure=f"integ i({source}) {span}", expected=charge, limit=limit, unit="C")
        )
    return checks


def testbench_text(deck: Deck, files: Sequence[str], checks: Sequence[Check], raw: str, outputs: Sequence[str]) -> str:
    """Return the main file of a testbench: circuit, analysis, measurements with limits, verdict, waveforms written."""
    lines = [f"* {deck.title}: self-checking testbench. Run in this folder: ngspice -b <this file>"]
    lines += [f".include {name}" for name in files]
    lines += [".options " + " ".join(f"{key}={value}" for key, value in deck.options.items())]
    rails = [check.name.removeprefix("charge_") for check in checks if check.name.startswith("charge_")]
    lines += [".save " + " ".join([*(f"v({node})" for node in outputs), *(f"i({source})" for source in rails)])]
    lines += [analysis_line(deck.analysis), ".control", "run", "let passed = 0"]
    for check in checks:
        lines += [
            f"* expected {check.expected!r} {check.unit}, limit {check.limit!r} {check.unit}",
            f"meas tran {check.name} {check.measure}",
            f"if abs({check.name} - ({to_text(check.expected)})) <= {to_text(check.limit)}",
            f"echo PASS {check.name}",
            "let passed = passed + 1",
            "else",
            f"echo FAIL {check.name}",
            "end",
        ]
    lines += ["set filetype=binary", f"write {raw} " + " ".join(f"v({node})" for node in outputs)]
    return "\n".join([*lines, *_verdict(len(checks))]) + "\n"


def operating_testbench(deck: Deck, expected: Mapping[str, Array]) -> str:
    """Return the main file of a testbench of a sweep: nodes at all operating points, ``[points]`` in V each, with their limit."""
    lines = [f"* {deck.title}: self-checking testbench. Run in this folder: ngspice -b <this file>"]
    lines += [f".include {name}" for name in deck.files]
    lines += [".options " + " ".join(f"{key}={value}" for key, value in deck.options.items())]
    lines += [".save " + " ".join(f"v({node})" for node in expected)]
    lines += [analysis_line(deck.analysis), ".control", "run", "let passed = 0"]
    for k, (node, values) in enumerate(expected.items()):
        lines += [
            f"compose wanted{k} values "
            + " ".join(f"({float(value)!r})" for value in values),  # else -1 is a difference
            f"let off{k} = vecmax(abs(v({node}) - wanted{k}))",
            f"if off{k} <= {to_text(OPERATING_LIMIT)}",
            f"echo PASS {node}",
            "let passed = passed + 1",
            "else",
            f"echo FAIL {node}",
            "end",
        ]
    return "\n".join([*lines, *_verdict(len(expected))]) + "\n"


def _verdict(count: int) -> list[str]:
    yes, no = (["echo TESTBENCH PASS", "quit 0"], ["echo TESTBENCH FAIL", "quit 1"])
    return [f"if passed = {count}", *yes, "else", *no, "end", ".endc", ".end"]
