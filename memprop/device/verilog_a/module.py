"""Verilog-A file -> equations: declarations, execution of the analog block, and the flows that follow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lark import Token, Tree

from memprop.device.equations import Equations, prune
from memprop.device.verilog_a.check import warnings
from memprop.device.verilog_a.declare import Declarations, natures
from memprop.device.verilog_a.flows import Flows
from memprop.device.verilog_a.place import Place, too_large
from memprop.device.verilog_a.preprocess import preprocess
from memprop.device.verilog_a.statements import Executor
from memprop.device.verilog_a.syntax import Node, Syntax, parse
from memprop.errors import InputError
from memprop.files import inside

_BYTES = 2_000_000


def read_verilog(path: Path, module: str | None = None) -> Equations:
    """Return the equations of the module in a Verilog-A file; ``module`` names one of several.

    Raises
    ------
    VerilogError: the file is wrong or outside of the subset; with file, line, column, and what to write instead.
    InputError: the file cannot be read, or has no such module.
    """
    return parse_verilog(source_text(path), path.name, path.parent, module)


def source_text(path: Path) -> str:
    """Return the text of a file that is no larger than any model.

    Raises
    ------
    InputError: it cannot be read, is too large, or is no UTF-8 text.
    """
    try:
        size = path.stat().st_size
        if size > _BYTES:
            raise InputError(f"Verilog-A file {path} has {size} bytes; {_BYTES} are read at most. Split it.")
        if not path.is_file():
            raise InputError(f"Verilog-A file {path} is no file. Check the path.")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"Verilog-A file {path} cannot be read ({error.strerror}). Check the path.") from error
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"Verilog-A file {path} is no UTF-8 text: byte 0x{content[error.start]:02x} in line {line}. Save it as UTF-8."
        ) from error


def parse_verilog(
    text: str, file: str = "model.va", folder: Path | None = None, module: str | None = None
) -> Equations:
    """Return the equations of a Verilog-A text; files beside it, in ``folder``, can be included. Raises as `read_verilog`."""

    def include(name: str) -> str | None:
        if folder is None:
            return None
        path = inside(folder, name)
        return source_text(path) if path.exists() else None

    try:
        syntax = parse(preprocess(text, file, include))
        return _equations(syntax, _chosen(syntax, file, module), file)
    except RecursionError:
        raise too_large(Place(file, 1, 1), "statements or expressions are nested too deep", "Use variables") from None


def _chosen(syntax: Syntax, file: str, module: str | None) -> Tree[Token]:
    """Return the module to read."""
    trees = [tree for tree in syntax.tree.children if isinstance(tree, Tree) and tree.data == "module"]
    known = {str(tree.children[0]): tree for tree in trees}
    if not known:
        raise InputError(f"{file}: holds no module. Write `module name(p, n); ... endmodule`.")
    if module is None and len(known) > 1:
        raise InputError(f"{file}: holds the modules {', '.join(known)}. Keep one per file, or name the one to read.")
    if module is not None and module not in known:
        raise InputError(f"{file}: has no module '{module}'. It holds {', '.join(known)}.")
    return known[module or next(iter(known))]


def _equations(syntax: Syntax, tree: Tree[Token], file: str) -> Equations:
    name, *items = [child for child in tree.children if child is not None]
    executor = Executor(syntax)
    taken = Declarations(executor, natures(syntax), file)
    # Which variables keep values depends on the output arguments of functions, so these come before variables.
    for kinds in (("ports", "direction", "nets", "branch", "instance"), ("function",)):
        taken.take_all(items, kinds)
    taken.look_ahead(items)
    taken.take_all(items, ("parameter", "variables", "alias"))
    taken.finish()
    _execute(executor, items)
    return _assembled(str(name), tree, taken, file)


def _execute(executor: Executor, items: list[Node]) -> None:
    for item in items:
        if item.data == "analog_initial":
            executor.start(item.children[0])
    for item in items:
        if item.data == "analog":
            executor.run(item.children[0])


def _assembled(name: str, tree: Tree[Token], taken: Declarations, file: str) -> Equations:
    executor = taken.executor
    flows, lets = Flows(executor).made()
    nodes = tuple(node for node in executor.scope.nodes if node not in taken.ports and node not in taken.ground)
    whole = Equations(
        name, file, tuple(taken.ports), nodes, taken.parameters, frozenset(taken.integers), lets, flows, executor.probes
    )  # fmt: skip
    if not flows:
        raise executor.refuse(tree, f"module {name} contributes nothing, or nothing but noise", "Write I(p, n) <+ ...")
    used = {node for branch in flows for node in branch}
    for node in nodes:
        if node not in used:
            raise executor.refuse(
                taken.places[node], f"internal node '{node}' gets no current", f"Contribute to it: I({node}) <+ ..., or remove it"
            )  # fmt: skip
    whole = prune(whole)
    return replace(whole, notes=(*executor.notes, *warnings(whole)))
