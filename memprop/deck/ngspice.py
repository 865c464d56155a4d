"""ngspice dialect: sections of a circuit -> file texts, deck -> main file."""

from __future__ import annotations

from collections.abc import Mapping

from memprop.circuit.elaborate import Elaborated, Section
from memprop.deck.deck import Deck, Transient
from memprop.deck.numbers import to_text
from memprop.errors import InputError
from memprop.files import inside, shipped

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
    files = {f"models/{name}": model_text(name) for name in model_files(circuit)}
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
    )


def model_files(circuit: Elaborated) -> list[str]:
    """Return the names of the device model files that the cells need."""
    cells = [population.cell for population in circuit.network.populations] + [circuit.network.pair]
    return list(dict.fromkeys(name for cell in cells for name in cell.card.models))


def model_text(name: str) -> str:
    """Return the text of a shipped device model file.

    Raises
    ------
    InputError: no such file, or the name leaves the folder of the models.
    """
    try:
        return inside(shipped("models"), name).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"device model file '{name}' is not shipped ({error.strerror}). Correct `models` in the card."
        ) from error


def main_text(deck: Deck) -> str:
    """Return the main file: includes, options, what to save, the analysis."""
    lines = [f"* {deck.title}"]
    lines += [f".include {name}" for name in deck.files]
    lines += [".options " + " ".join(f"{key}={value}" for key, value in deck.options.items())] if deck.options else []
    saved = [f"v({node})" for node in deck.nodes] + [f"i({branch})" for branch in deck.branches]
    lines += [".save " + " ".join(saved[k : k + 8]) for k in range(0, len(saved), 8)]
    lines += [transient_line(deck.analysis), ".end"]
    return "\n".join(lines) + "\n"


def transient_line(analysis: Transient) -> str:
    """Return the ``.tran`` card."""
    return f".tran {to_text(analysis.max_step)} {to_text(analysis.stop)} 0 {to_text(analysis.max_step)}"
