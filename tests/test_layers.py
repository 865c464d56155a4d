"""Imports run one way: a lower layer never imports a higher one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "memprop"
COMMON = {"errors", "files"}
ALLOWED: dict[str, set[str]] = {
    "device": set(),
    "conductance": set(),
    "circuit": {"device", "conductance"},
    "deck": {"circuit", "device", "conductance"},
    "spice": {"deck"},
    "data": {"circuit"},
    "twin": {"device", "circuit", "conductance", "data"},
    "learn": {"twin", "data", "conductance"},
    "export": {"device", "deck", "circuit", "conductance", "data"},
    "report": {"learn", "circuit", "deck", "conductance"},
}
"""What each package may import besides itself and the common modules."""
COMMON_MODULES: dict[str, set[str]] = {"errors": set(), "files": {"errors"}}
"""Modules below all packages."""
TOP = {"", "__main__", "cli", "flow", "verify", "doctor"}
"""Modules and packages that join the branches; no other may import them."""
PROCESSES = {"subprocess", "multiprocessing", "ProcessPoolExecutor"}
STARTERS = {"data/sources.py", "twin/fused/compiler.py"}
"""Files outside of ``spice`` that may start processes: package managers, and the C++ compiler."""


def imported(tree: ast.AST, package: tuple[str, ...]) -> Iterator[str]:
    """Yield the dotted names that ``tree``, a module of ``package``, imports anywhere, relative ones resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            stem = ".".join(part for part in (base, node.module) if part)
            yield from (f"{stem}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str))


def layer_of(module: str, root: Path) -> str:
    """Return the part of ``module`` below ``memprop``: its package, a module beside the packages, or "" for ``memprop`` itself."""
    first = [*module.split("."), ""][1]
    return first if (root / first).is_dir() or (root / f"{first}.py").is_file() else ""


def faults(root: Path) -> list[str]:
    """Return a sentence for each import that breaks the rules, and for each package that has none."""
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        file, layer = "/".join(parts), path.stem if len(parts) == 1 else parts[0]
        layer = "" if layer == "__init__" else layer
        if parts[0] == "_data":
            continue
        if layer not in {*ALLOWED, *COMMON_MODULES, *TOP}:
            found.append(f"{file}: '{layer}' has no layer")
            continue
        names = set(imported(ast.parse(path.read_text(encoding="utf-8")), ("memprop", *parts[:-1])))
        if layer != "spice" and file not in STARTERS:
            found += [
                f"{file}: starts processes with {name}" for name in sorted(names) if PROCESSES & set(name.split("."))
            ]
        if layer in TOP:
            continue
        may = COMMON_MODULES[layer] if layer in COMMON_MODULES else {*ALLOWED[layer], *COMMON, layer}
        targets = {layer_of(name, root) for name in names if name.split(".")[0] == "memprop"}
        found += [f"{file}: {layer} imports {target or 'memprop itself'}" for target in sorted(targets - may)]
    return found


def test_imports_of_memprop_run_one_way() -> None:
    assert faults(PACKAGE) == []


def test_every_layer_with_a_rule_below_is_there() -> None:
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert packages - TOP == set(ALLOWED)
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"} <= {*COMMON_MODULES, *TOP}


def test_rules_have_no_ring() -> None:
    done: set[str] = set()
    while ready := {layer for layer in ALLOWED if layer not in done and ALLOWED[layer] <= done}:
        done |= ready
    assert done == set(ALLOWED)


@pytest.mark.parametrize(
    ("file", "source", "expected"),
    [
        ("learn/rule.py", "from memprop.spice.engine import Engine", "learn/rule.py: learn imports spice"),
        ("learn/rule.py", "def f():\n    import memprop.spice", "learn/rule.py: learn imports spice"),
        ("learn/rule.py", "from memprop import spice", "learn/rule.py: learn imports spice"),
        ("learn/rule.py", "from ..spice import engine", "learn/rule.py: learn imports spice"),
        ("learn/rule.py", "import importlib\nimportlib.import_module('memprop.spice')", "learn/rule.py: learn imports spice"),
        ("device/library.py", "from memprop.circuit.cell import Cell", "device/library.py: device imports circuit"),
        ("data/sets.py", "import memprop", "data/sets.py: data imports memprop itself"),
        ("report/table.py", "from memprop.flow.loop import x", "report/table.py: report imports flow"),
        ("errors.py", "from memprop.files import sha256", "errors.py: errors imports files"),
        ("flow/loop.py", "import subprocess", "flow/loop.py: starts processes with subprocess"),
        ("deck/deck.py", "from torch import multiprocessing", "deck/deck.py: starts processes with torch.multiprocessing"),
        ("magic/new.py", "", "magic/new.py: 'magic' has no layer"),
        ("extra.py", "", "extra.py: 'extra' has no layer"),
    ],
)  # fmt: skip
def test_break_of_a_rule_is_found(tmp_path: Path, file: str, source: str, expected: str) -> None:
    for name in ("learn", "spice", "device", "circuit", "data", "report", "flow", "deck", "magic"):
        (tmp_path / name).mkdir()
    (tmp_path / "files.py").touch()
    (tmp_path / file).write_text(source)
    assert faults(tmp_path) == [expected]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("circuit/cell.py", "from memprop.device.card import read_card\nfrom .network import Network"),
        ("spice/pool.py", "import subprocess\nfrom memprop.deck.deck import Deck"),
        ("data/sources.py", "import subprocess\nfrom ..errors import DataError"),
        ("flow/loop.py", "from memprop.spice.engine import Engine\nfrom memprop.learn.bptt import fit"),
    ],
)
def test_import_downwards_is_allowed(tmp_path: Path, file: str, source: str) -> None:
    for name in ("circuit", "device", "spice", "deck", "data", "flow", "learn"):
        (tmp_path / name).mkdir()
    (tmp_path / "errors.py").touch()
    (tmp_path / file).write_text(source)
    assert faults(tmp_path) == []
