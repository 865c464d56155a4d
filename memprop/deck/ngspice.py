"""ngspice dialect: sections of a circuit -> file texts, deck -> main file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from memprop.circuit.cell import Cell
from memprop.circuit.elaborate import INPUT_FILES, PASSES, Elaborated, Section, check_stimulus
from memprop.circuit.image import reduced_values
from memprop.circuit.stimulus import Stimulus
from memprop.deck.changes import Change
from memprop.deck.deck import Analysis, Deck, SmallSignal, Sweep, Transient
from memprop.deck.models import cell_models
from memprop.deck.numbers import to_text

DEFAULT_OPTIONS: Mapping[str, float | str] = {"method": "trap", "reltol": 1e-4}


def section_text(section: Section) -> str:
    """Return the text of one section."""
    lines = [f"* {section.about}"]
    for subcircuit in section.subcircuits:
        lines += _tidy(str(subcircuit))
    lines += _tidy("\n".join(str(element) for element in section.top.elements))
    return "\n".join(lines) + "\n"


def _tidy(text: str) -> list[str]:
    """Return the lines with the element letter in lower case, as all other names are."""
    return [
        line if line.startswith((".", "*", "+")) else line[:1].lower() + line[1:] for line in text.splitlines() if line
    ]


def make_deck(
    circuit: Elaborated,
    max_step: float,
    stop: float,
    *,
    energy: bool = True,
    options: Mapping[str, float | str] | None = None,
) -> Deck:
    """Return the deck of a network: all membranes are kept, and with ``energy`` also the currents of all sources."""
    files, verilog = cell_models(cells_of(circuit))
    files |= {section.file: section_text(section) for section in circuit.sections}
    nodes = [node for names in circuit.membranes().values() for node in names]
    meters = circuit.meters if energy else ()
    nodes += [meter.node for meter in meters]
    title = f"{circuit.network.name} {circuit.form}"
    branches = tuple(meter.branch for meter in meters)
    return Deck(
        title,
        files,
        Transient(stop, max_step),
        tuple(dict.fromkeys(nodes)),
        branches,
        {**DEFAULT_OPTIONS, **(options or {})},
        verilog,
    )


def deck_under(deck: Deck, circuit: Elaborated, stimulus: Stimulus) -> Deck:
    """Return what `make_deck` gives for ``circuit`` under another stimulus, made from its ``deck`` in little time.

    The texts of the files that do not depend on the stimulus are the same objects.

    Raises
    ------
    InputError: not one amplitude per input row.
    """
    check_stimulus(circuit.network, stimulus)
    files = dict(deck.files)
    for make, old in zip(PASSES[circuit.form], circuit.sections, strict=True):
        if old.file.startswith(INPUT_FILES):
            text = _with_values(deck.files[old.file], circuit, stimulus) if old.file == "image_reduced.inc" else None
            files[old.file] = text or section_text(make(circuit.network, stimulus))
    return replace(deck, files=files)


def _with_values(text: str, circuit: Elaborated, stimulus: Stimulus) -> str | None:
    """Return the text of the reduced form's image section with other values; None if it has other elements too."""
    about, *lines = text.splitlines()
    values = list(reduced_values(circuit.network, stimulus))
    if len(values) != len(lines):
        return None
    words = [f"{line.rpartition(' ')[0]} {value!r}" for line, value in zip(lines, values, strict=True)]
    return "\n".join([about, *words]) + "\n"


def cells_of(circuit: Elaborated) -> list[Cell]:
    """Return the cells of a circuit: those of its populations, then the synapse."""
    return [*(population.cell for population in circuit.network.populations), circuit.network.pair]


def main_text(deck: Deck, compiled: Sequence[str] = (), names: Mapping[str, str] | None = None) -> str:
    """Return the main file: includes, options, what to save, the analysis.

    ``compiled`` are files of compiled Verilog-A to load first; ``names`` gives the simulator's names of nodes whose names differ.
    """
    lines = [f"* {deck.title}"]
    lines += [".control", *(f"pre_osdi {file}" for file in compiled), ".endc"] if compiled else []
    lines += [f".include {name}" for name in deck.files]
    lines += [".options " + " ".join(f"{key}={value}" for key, value in deck.options.items())] if deck.options else []
    names = names or {}
    saved = [f"v({names.get(node, node)})" for node in deck.nodes] + [f"i({branch})" for branch in deck.branches]
    lines += [".save " + " ".join(saved[k : k + 8]) for k in range(0, len(saved), 8)]
    lines += [analysis_line(deck.analysis), ".end"]
    return "\n".join(lines) + "\n"


def analysis_line(analysis: Analysis) -> str:
    """Return the card of an analysis."""
    if isinstance(analysis, Sweep):
        return f".dc {analysis.source} 0 {analysis.points - 1} 1"
    if isinstance(analysis, SmallSignal):
        return f".ac lin 1 {to_text(analysis.frequency)} {to_text(analysis.frequency)}"
    return f".tran {to_text(analysis.max_step)} {to_text(analysis.stop)} 0 {to_text(analysis.max_step)}"


def batch_text(main: str, analysis: Analysis, steps: Sequence[Sequence[Change]]) -> str:
    """Return a main file that runs once for each of ``steps``, after its changes, and writes ``out0.raw``, ``out1.raw``, ..."""
    lines = main.removesuffix(f"{analysis_line(analysis)}\n.end\n").splitlines()
    lines += [".control", "set filetype=binary", "option noinit"]
    for k, changes in enumerate(steps):
        lines += [*again(analysis, changes), f"write out{k}.raw", "destroy all"]
    return "\n".join([*lines, "quit 0", ".endc", ".end"]) + "\n"


def again(analysis: Analysis, changes: Sequence[Change]) -> list[str]:
    """Return the commands that run a loaded deck with other values, which stay; the operating point is searched anew."""
    alters = [f"alter {c.element}{' gain' if c.element[0] in 'efgh' else ''} = {c.value}" for c in changes]
    return [*alters, analysis_line(analysis)[1:]]
