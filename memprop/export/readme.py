"""The README a designer finds in a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from memprop.circuit.network import Network
from memprop.export.manifest import Testbench

_IDEAL = """*full*: every pair of RRAM cells is a controlled source of the value `{gp-gm}`, in tiles of at most 64 x 64 pairs: between an
ideal row and a virtual ground that is what two resistors to the rows +V and -V do, at a fraction of the cost. *reduced*: the same
network with each crossbar replaced by its exact transconductance and row loads; equal node voltages, far fewer elements."""
_FORMS = {
    "full": _IDEAL,
    "reduced": _IDEAL,
    "naive": "*naive*: every pair is an instance of the synapse, in tiles of at most 64 x 64 pairs; every row has its driver.",
}
_IDEAL_FILES = """| `loads.inc` | what each row line draws: for the energy alone; no waveform depends on it |
| `reduced.inc` | the crossbars between populations as transconductances |
| `image_*.inc` | one stored image: amplitudes of the rows (full), or the column currents it causes (reduced) |"""
_OWN = {
    "full": _IDEAL_FILES,
    "reduced": _IDEAL_FILES,
    "naive": "| `image_*.inc` | one stored image: gains of the row drivers |",
}


def readme_text(
    network: Network, testbenches: Sequence[Testbench], measured: Mapping[str, Any], versions: Mapping[str, str]
) -> str:
    """Return the README of a bundle: what it is, how to run it, names, limits, what was measured."""
    sizes = "-".join(str(n) for n in (network.inputs, *(p.size for p in network.populations)))
    first = testbenches[0].file
    rows = "\n".join(f"| `{t.file}` | {t.form} | {t.image} | {t.label} | {t.answer} |" for t in testbenches)
    table = "\n".join(f"| {key.replace('_', ' ')} | {_show(value)} |" for key, value in measured.items())
    form = testbenches[0].form
    pairs = "`gp`, `gm`" if form == "naive" else "`{gp-gm}`"
    rest = ", ".join(f"{p.name}: {p.rest[0]:.6g} V" for p in network.populations)
    return f"""# {network.name}

A trained memristive spiking network, {sizes}, with {network.cells} RRAM cells in differential pairs. {_chip(measured)}Written by memprop
{versions["memprop"]}; the expected values were measured with {versions.get("engine", "ngspice")}.

## Run it

    ngspice -b {first}

in this folder. Every measurement prints PASS or FAIL, the verdict is `TESTBENCH PASS` or `TESTBENCH FAIL`, and the exit
status is 0 or 1. The output membranes are written as a `.raw` file. With memprop, `memprop replay <this folder>` also compares
the waveforms with `expected/`.

| testbench | form | test image | label | answer |
|---|---|---|---|---|
{rows}

{_FORMS[form]}{_wires(network)}
## Files

| file | holds |
|---|---|
| `conductances.inc` | tiles; one synapse a line, its conductances {pairs} in S: the trained values, and their only place |
| `cells.inc` | neuron and synapse subcircuits |
| `populations.inc` | rails, neurons, column mirrors, row drivers |
{_OWN[form]}
| `wave.inc` | input waveform, alpha pulses of 1 V each |
| `models/` | device models: Verilog-A source, and the subcircuit for simulators without OSDI |
| `expected/` | expected output membranes, time in s and V |
| `manifest.json` | hashes, seeds, versions, parameters, limits, the measured table |

## Conventions

* Nodes: `x1_row3_p`, `x1_row3_n` (row lines, +V and -V), `x1_col3` (virtual ground), `x1_col3_mem` (membrane). `x0` is the input.
* Rows carry the membrane relative to rest ({rest}); a column current is mirrored {_mirrors(network)} into its membrane.
* The answer is the output with the highest time mean of its membrane over rest.
* `.tran` starts from the operating point, which is the resting state; no `uic`, no `.ic`.
{_ideal(network, measured)}
* Numbers are plain SI with exponents, never suffixes.

## Measured

| what | value |
|---|---|
{table}
"""


def _chip(measured: Mapping[str, Any]) -> str:
    """Return that this is a chip, if it is."""
    return f"This is one chip, not the design: {measured['chip']}. " if "chip" in measured else ""


def _has_real_mirrors(network: Network) -> bool:
    return any(p.gain is not None or p.offset is not None for p in network.populations)


def _mirrors(network: Network) -> str:
    real = "with the `gain` and `offset` (A) that stand in `populations.inc`"
    return real if _has_real_mirrors(network) else "1:1"


def _ideal(network: Network, measured: Mapping[str, Any]) -> str:
    """Return what is ideal in the netlist."""
    parts = ["row drivers", "virtual grounds"]
    parts += [] if _has_real_mirrors(network) else ["mirrors"]
    parts += [] if network.wires else ["wires"]
    cells = "those of the chip after programming" if "chip" in measured else "the programmed ones, without spread"
    return f"* Ideal in this netlist: {', '.join(parts)}. Conductances are {cells}."


def _show(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _wires(network: Network) -> str:
    """Return what to know of the wires, or nothing where they are ideal."""
    if network.wires is None:
        return ""
    return f"""
Wires: {network.wires.row!r} Ohm per segment of a row line, {network.wires.column!r} Ohm per segment of a column line. Each row line
is driven from the left through one segment, each column line ends below in the virtual ground through one, and one lies between
any two neighbouring cells of a line; in a column the cell of the + line comes first. `wired_pair` in `conductances.inc` holds a
pair with its segments. *reduced* has the transconductances of all that; there the hidden row drivers are not loaded.
"""
