"""Read ngspice netlist text: the part of the language that memprop writes and that cells use.

Plain lines and regular expressions, since a crossbar has 100,000 elements. Expressions stay text; `memprop.circuit.expression`
reads them. What is not understood is an error, never skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from memprop.errors import InputError

_NODES: Mapping[str, int] = dict.fromkeys("rclvibfhd", 2) | dict.fromkeys("egm", 4)
"""Number of nodes by element letter; ``x`` and ``n`` take what stands before the last word."""
_COMMENT = re.compile(r";|\s\$(?:\s|$)|//")
_ASSIGNMENT = re.compile(r"([a-z_]\w*)\s*=(?!=)\s*")
_WORD = re.compile(r"\{[^{}]*\}|'[^']*'|\"[^\"]*\"|[^\s{}'\"]+")
_INITIAL = re.compile(r"v\s*\(\s*([^\s()]+)\s*\)\s*=\s*", re.IGNORECASE)
_MODEL = re.compile(r"(\S+)\s+([a-z_]\w*)\s*(.*)$", re.DOTALL)
_SOURCE = re.compile(r"([iv])\s*=\s*(.*)$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Element:
    """One element: where its wires go and what it is."""

    name: str
    kind: str
    """First letter of the name: r, c, l, v, i, e, f, g, h, b, d, m, x, or n for a compiled model."""
    nodes: tuple[str, ...]
    value: str
    """The words after the nodes: a number or expression, the name of a model or subcircuit, or a source's waveform."""
    parameters: Mapping[str, str]
    line: int
    source: str

    @property
    def place(self) -> str:
        """Where the element stands, for messages."""
        return f"{self.source}, line {self.line}, {self.name}"


@dataclass(frozen=True, slots=True)
class Model:
    """A ``.model`` card."""

    name: str
    kind: str
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Subcircuit:
    """A subcircuit: ports, parameters with their defaults, and a body."""

    name: str
    ports: tuple[str, ...]
    defaults: Mapping[str, str]
    elements: tuple[Element, ...]
    models: Mapping[str, Model]
    initial: Mapping[str, str]
    """Initial voltages from ``.ic``, by node."""
    parameters: Mapping[str, str]
    """Local parameters from ``.param``, in order."""


@dataclass(frozen=True, slots=True)
class Netlist:
    """All of a text: its subcircuits, and what stands at the top level."""

    subcircuits: Mapping[str, Subcircuit]
    elements: tuple[Element, ...]
    models: Mapping[str, Model]
    initial: Mapping[str, str]
    parameters: Mapping[str, str]


@dataclass(slots=True)
class _Body:
    """What has been read of a subcircuit, or of the top level."""

    name: str = ""
    ports: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)
    elements: list[Element] = field(default_factory=list)
    models: dict[str, Model] = field(default_factory=dict)
    initial: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)

    def subcircuit(self) -> Subcircuit:
        return Subcircuit(
            self.name, self.ports, self.defaults, tuple(self.elements), self.models, self.initial, self.parameters
        )


def read_netlist(text: str, source: str) -> Netlist:
    """Return the content of ngspice netlist ``text``; ``source`` names it in messages. All names become lower case.

    The text has no title line. A subcircuit defined inside another one is known everywhere.

    Raises
    ------
    InputError: a line is not understood, or a subcircuit is not closed or there twice; the message names source and line.
    """
    bodies = [_Body()]
    found: dict[str, Subcircuit] = {}
    for number, line in _logical_lines(text, source):
        if line[0] != ".":
            bodies[-1].elements.append(_element(line, number, source))
        elif line.startswith((".subckt", ".ends")):
            _block(line, bodies, found, f"{source}, line {number}")
        elif line.split(None, 1)[0] == ".end":
            break
        else:
            _card(line, bodies[-1], f"{source}, line {number}")
    if len(bodies) > 1:
        raise InputError(f"{source}: subcircuit '{bodies[-1].name}' is not closed. Write .ends after its last element.")
    top = bodies[0]
    return Netlist(found, tuple(top.elements), top.models, top.initial, top.parameters)


def _logical_lines(text: str, source: str) -> Iterator[tuple[int, str]]:
    """Yield number and text, in lower case, of each line with its continuations, without comments."""
    start, parts = 0, []
    for number, raw in enumerate(text.lower().replace("\t", " ").splitlines(), 1):
        line = raw.strip()
        if not line or line[0] == "*":
            continue
        if "$" in line or ";" in line or "/" in line:
            line = _COMMENT.split(" " + line, maxsplit=1)[0].strip()
            if not line:
                continue
        if line[0] == "+":
            if not parts:
                raise InputError(f"{source}, line {number}: '{line[:40]}' continues nothing. Put an element before it.")
            parts.append(line[1:])
            continue
        if parts:
            yield start, " ".join(parts)
        start, parts = number, [line]
    if parts:
        yield start, " ".join(parts)


def _block(line: str, bodies: list[_Body], found: dict[str, Subcircuit], where: str) -> None:
    """Open or close a subcircuit."""
    if line.startswith(".subckt"):
        words, defaults = _split(line)
        if len(words) < 2:
            raise InputError(f"{where}: '{line[:60]}' names no subcircuit. Write .subckt NAME PORTS.")
        bodies.append(_Body(words[1], tuple(words[2:]), defaults))
        return
    if len(bodies) == 1:
        raise InputError(f"{where}: .ends closes no subcircuit. Write .subckt NAME PORTS before its elements.")
    done = bodies.pop().subcircuit()
    if done.name in found:
        raise InputError(f"{where}: subcircuit '{done.name}' is there twice. Rename one of the two.")
    found[done.name] = done


def _card(line: str, body: _Body, where: str) -> None:
    """Take a dot command into ``body``."""
    command, _, rest = line.partition(" ")
    if command == ".param":
        body.parameters.update(_assignments(rest))
    elif command == ".ic":
        pieces = _INITIAL.split(rest)
        if len(pieces) < 3 or pieces[0].strip():
            raise InputError(f"{where}: '{line[:60]}' sets no voltage. Write .ic v(NODE)=VOLT.")
        body.initial.update({node: _bare(value) for node, value in zip(pieces[1::2], pieces[2::2], strict=True)})
    elif command == ".model" and (match := _MODEL.match(rest)):
        inside = match[3].strip().removeprefix("(").removesuffix(")")
        body.models[match[1]] = Model(match[1], match[2], _assignments(inside))
    else:
        raise InputError(
            f"{where}: '{line[:60]}' is not part of the netlists that memprop reads. Known: elements, .subckt, .ends, .param, "
            ".model, .ic, .end. Put included text in, and set analyses and options outside of the netlist."
        )


def _element(line: str, number: int, source: str) -> Element:
    """Return the element on one line."""
    kind = line[0]
    name, _, rest = line.partition(" ")
    if kind in "xn":
        words, parameters = _split(rest)
        nodes, value = tuple(words[:-1]), words[-1] if words else ""
    elif kind in _NODES:
        count = _NODES[kind]
        pieces = rest.split(None, count)
        if kind in "eg" and "=" in "".join(
            pieces[2:4]
        ):  # e1 a b vol='...': an expression instead of a controlling voltage
            count, pieces = 2, rest.split(None, 2)
        nodes, rest = tuple(pieces[:count]), pieces[count] if len(pieces) > count else ""
        value, parameters = _value(kind, rest)
    else:
        raise InputError(
            f"{source}, line {number}: element '{name}' is of a kind that memprop does not read. Known first letters: "
            "r c l v i e f g h b d m x n."
        )
    if not (value or parameters) or len(nodes) < min(_NODES.get(kind, 1), 2):
        raise InputError(f"{source}, line {number}: '{line[:60]}' has too few words. Write NAME NODES VALUE.")
    return Element(name, kind, nodes, value, parameters, number, source)


def _value(kind: str, rest: str) -> tuple[str, Mapping[str, str]]:
    """Return value and parameters from the text after the nodes."""
    if kind == "b":
        match = _SOURCE.match(rest)
        return "", {match[1]: _bare(match[2])} if match else {}
    if kind in "vi":
        return _bare(rest), {}
    words, parameters = _split(rest)
    return " ".join(words), parameters


def _split(text: str) -> tuple[list[str], Mapping[str, str]]:
    """Return the words before the first assignment, braces and quotes stripped, and the assignments."""
    if "=" not in text and "{" not in text and "'" not in text:
        return text.replace("params:", "").split(), {}
    match = _ASSIGNMENT.search(text) if "{" not in text and "'" not in text else _first_assignment(text)
    head, tail = (text[: match.start()], text[match.start() :]) if match else (text, "")
    words = [word.strip("{}'\"").strip() for word in _WORD.findall(head.replace("params:", " "))]
    return words, _assignments(tail)


def _first_assignment(text: str) -> re.Match[str] | None:
    """Return the first assignment that stands outside of braces and quotes."""
    bare = re.sub(r"\{[^{}]*\}|'[^']*'", lambda match: " " * len(match[0]), text)
    return _ASSIGNMENT.search(bare)


def _assignments(text: str) -> dict[str, str]:
    pieces = _ASSIGNMENT.split(text)
    return {name: _bare(value) for name, value in zip(pieces[1::2], pieces[2::2], strict=True)}


def _bare(text: str) -> str:
    """Return an expression without the braces or quotes around it."""
    text = text.strip().rstrip(",")
    if len(text) > 1 and (text[0], text[-1]) in (("{", "}"), ("'", "'"), ('"', '"')) and text[0] not in text[1:-1]:
        return text[1:-1].strip()
    return text.replace("{", "(").replace("}", ")") if "{" in text else text
