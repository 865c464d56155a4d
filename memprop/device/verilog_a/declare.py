"""Declarations of a module: ports, nets, branches, parameters with their ranges, analog functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memprop.device.card import Parameter
from memprop.device.equations import GROUND, parameter_symbol
from memprop.device.functions import evaluate
from memprop.device.verilog_a import values as v
from memprop.device.verilog_a.book import Function
from memprop.device.verilog_a.expressions import name_of
from memprop.device.verilog_a.headers import ACCESS, NATURES
from memprop.device.verilog_a.place import too_large
from memprop.device.verilog_a.statements import Executor, assigned
from memprop.device.verilog_a.syntax import HINTS, Node, Syntax, parts
from memprop.device.verilog_a.values import Unset, Value

_NODES = 500
_PARAMETERS = 2000
_NOT_A_RANGE = "Write from [low:high], with ( and ) for open ends, or exclude a"


def natures(syntax: Syntax) -> dict[str, tuple[str, str]]:
    """Return discipline -> access functions of potential and flow, of the language and of the file."""
    access = dict(ACCESS)
    found = dict(NATURES)
    nodes: list[Node] = list(syntax.tree.children)
    for node in nodes:
        if node.data == "nature":
            for key, value in (setting.children for setting in node.find_data("setting")):
                if key == "access" and value.data == "name":
                    access[str(node.children[0])] = name_of(value)
        elif node.data == "discipline":
            bound = {str(b.children[0]): str(b.children[1]) for b in node.find_data("binding")}
            found[str(node.children[0])] = (
                access.get(bound.get("potential", ""), ""),
                access.get(bound.get("flow", ""), ""),
            )
    return found


@dataclass(slots=True)
class Declarations:
    """Takes the declarations of a module, one by one."""

    executor: Executor
    natures: Mapping[str, tuple[str, str]]
    file: str
    ports: list[str] = field(default_factory=list)
    nets: dict[str, str] = field(default_factory=dict)
    """Nodes -> disciplines."""
    ground: set[str] = field(default_factory=set)
    parameters: dict[str, Parameter] = field(default_factory=dict)
    integers: set[str] = field(default_factory=set)
    defaults: dict[Any, Any] = field(default_factory=dict)
    """Symbols of parameters -> default values."""
    places: dict[str, Node] = field(default_factory=dict)
    lower: dict[str, str] = field(default_factory=dict)
    """Names of parameters, as SPICE sees them -> as they are written."""

    def take_all(self, items: list[Node], kinds: tuple[str, ...]) -> None:
        """Take the items of some kinds, in the order of the source.

        Raises
        ------
        VerilogError: one is outside of the subset.
        """
        for item in items:
            if item.data in kinds:
                getattr(self, f"_{item.data}")(item)

    def refuse(self, node: Node, what: str, remedy: str) -> Exception:
        """Return the error of a piece of the syntax tree."""
        return self.executor.refuse(node, what, remedy)

    # nodes

    def _ports(self, item: Node) -> None:
        for port in parts(item):
            _, discipline, size, name = port.children
            if size is not None:
                raise self.refuse(port, f"bus '{name}'", "Use one scalar port per line")
            if str(name) in self.ports:
                raise self.refuse(port, f"port '{name}' is named twice", "Remove one")
            self.ports.append(str(name))
            if discipline is not None:
                self.net(discipline, str(name), port)

    def _direction(self, item: Node) -> None:
        _, discipline, size, names = item.children
        for declarator in self.scalars(size, names):
            name = str(declarator.children[0])
            if name not in self.ports:
                raise self.refuse(declarator, f"'{name}' is no port", "Add it to the port list")
            if discipline is not None:
                self.net(discipline, name, declarator)

    def _nets(self, item: Node) -> None:
        discipline, size, names = item.children
        for declarator in self.scalars(size, names):
            name, _, start = declarator.children
            if start is not None:
                self.executor.note("remark", declarator, f"the initial guess of node '{name}' is left out")
            if discipline == "ground":
                self.ground.add(str(name))
            else:
                self.net(discipline, str(name), declarator)

    def net(self, discipline: Node, name: str, at: Node) -> None:
        """Keep a node."""
        if discipline not in self.natures:
            what, remedy = (
                f"discipline '{discipline}' of '{name}' is not known",
                "Write electrical, or define the discipline",
            )
            if discipline in HINTS:
                what, remedy = f"'{discipline}' cannot stand here", HINTS[discipline]
            raise self.refuse(discipline, what, remedy)
        if name in self.executor.types or name in self.executor.scope.parameters:
            raise self.refuse(at, f"'{name}' is a node and a variable or parameter", "Rename one")
        if len(self.nets) >= _NODES:
            raise too_large(self.executor.place(at), f"a module of more than {_NODES} nodes", "Split it")
        self.nets[name] = str(discipline)
        self.places.setdefault(name, at)

    def scalars(self, size: Node, names: Node) -> list[Node]:
        """Return the declarators, none of which may be a bus."""
        for declarator in names.children:
            if size is not None or declarator.children[1] is not None:
                raise self.refuse(declarator, f"bus '{declarator.children[0]}'", "Use one scalar node per line")
        return list(names.children)

    def _branch(self, item: Node) -> None:
        *ends, names = item.children
        for end in ends:
            if hasattr(end, "data"):
                raise self.refuse(end, f"the port branch <{end.children[0]}>", "Declare a branch between two nodes")
        for declarator in self.scalars(None, names):
            self.executor.scope.branches[str(declarator.children[0])] = (
                str(ends[0]),
                str(ends[1]) if len(ends) > 1 else GROUND,
            )
            self.places[str(declarator.children[0])] = item

    def finish(self) -> None:
        """Make nodes and access functions known; refuse branches between nodes that are none."""
        scope = self.executor.scope
        for port in self.ports:
            self.nets.setdefault(port, "electrical")
        scope.nodes, scope.ground = tuple(dict.fromkeys([*self.ports, *self.nets])), frozenset(self.ground)
        for name, (a, b) in list(scope.branches.items()):
            for word in (a, b):
                if word not in scope.nodes and word not in scope.ground and word != GROUND:
                    raise self.refuse(
                        self.places[name], f"branch '{name}': '{word}' is no node", f"Declare it: electrical {word};"
                    )
            ends = [GROUND if word in scope.ground else word for word in (a, b)]
            if ends[0] == ends[1]:
                raise self.refuse(
                    self.places[name], f"branch '{name}' goes from '{a}' to itself", "Name two different nodes"
                )
            scope.branches[name] = (ends[0], ends[1])
        used = {self.natures[discipline] for discipline in self.nets.values()} | {self.natures["electrical"]}
        scope.potentials = {potential for potential, _ in used if potential}
        scope.flows = {flow for _, flow in used if flow}

    # what is no node

    def _instance(self, item: Node) -> None:
        raise self.refuse(item, f"an instance of module '{item.children[0]}'", "Write its equations into this module")

    def _variables(self, item: Node) -> None:
        for name, integer, value in self.executor.declared(item):
            if name in self.nets or name in self.executor.scope.parameters:
                raise self.refuse(item, f"'{name}' is a variable and a node or parameter", "Rename one")
            self.executor.types[name] = integer
            self.executor.variables[name] = Unset(name) if name in self.executor.scope.kept else value

    def _alias(self, item: Node) -> None:
        self.executor.note("remark", item, f"aliasparam {item.children[0]} is left out; use {item.children[1]}")

    def _parameter(self, item: Node) -> None:
        kind, type_name, size, *assignments = item.children
        for assignment in assignments:
            name, index, default, *_ = assignment.children
            if size is not None or index is not None:
                raise self.refuse(assignment, f"array parameter '{name}'", "Use one parameter per element")
            if str(name) in self.nets or str(name) in self.executor.types:
                raise self.refuse(assignment, f"'{name}' is a parameter and a node or variable", "Rename one")
            if type_name == "string" or default.data == "string":
                self.string(str(kind), str(name), default)
                continue
            value = self.executor.evaluate(default)
            integer = type_name == "integer" or (type_name is None and value.integer)
            if kind == "localparam":
                self.executor.scope.parameters[str(name)] = self.local(str(name), value, integer, default)
            else:
                self.keep(str(name), value, integer, item, assignment)

    def string(self, kind: str, name: str, default: Node) -> None:
        """Keep a string parameter, which has the value of its default for ever."""
        text = self.executor.string_of(default)
        if text is None:
            raise self.refuse(
                default, f"the default of string parameter '{name}' is no string", 'Write it in quotes: "..."'
            )
        self.executor.scope.strings[name] = text
        if kind == "parameter":
            self.executor.note(
                "warning",
                default,
                f"string parameter '{name}' is fixed at its default \"{text}\". Use an integer parameter.",
            )

    def local(self, name: str, value: Value, integer: bool, at: Node) -> Value:
        """Return the value of a local parameter."""
        cast = self.executor.cast(value, integer, at)
        return cast if cast.expr.is_number else self.executor.defined(name, cast, at)

    def number(self, tree: Node) -> float:
        """Return an expression of numbers and parameters as a number, with the parameters at their defaults."""
        expr = self.executor.number(tree)
        if expr.free_symbols - self.defaults.keys():
            known = dict(self.defaults)
            for symbol, value in self.executor.lets:
                if not value.free_symbols - known.keys():
                    known[symbol] = evaluate(value, dict(known))
            if expr.free_symbols - known.keys():
                raise self.refuse(
                    tree, "a value that depends on voltages or the temperature", "Write an expression of parameters"
                )
            return float(evaluate(expr, known))
        return float(evaluate(expr, {symbol: self.defaults[symbol] for symbol in expr.free_symbols}))

    def keep(self, name: str, value: Value, integer: bool, item: Node, assignment: Node) -> None:
        """Keep a parameter with its range."""
        executor, (_, _, default, *ranges) = self.executor, assignment.children
        twin = self.lower.setdefault(name.lower(), name)
        if twin != name or name in self.parameters:
            what = f"parameters '{twin}' and '{name}' differ only in case"
            what = f"parameter '{name}' is declared twice" if twin == name else what
            raise self.refuse(assignment, what, "SPICE takes them for one; rename one")
        number = self.number(default)
        if v.arithmetic(value).free_symbols:
            executor.note(
                "warning", default, f"the default of parameter '{name}' depends on other parameters and is taken as {number!r}, "
                "that with their defaults. Give a number.",
            )  # fmt: skip
        if integer:
            number = float(executor.cast(Value(v.exact(number)), True, default).expr)
        if len(self.parameters) >= _PARAMETERS:
            raise too_large(executor.place(assignment), f"a module of more than {_PARAMETERS} parameters", "Split it")
        limits = self.limits(name, ranges)
        attributes = executor.syntax.attributes_of(item, assignment)
        unit = attributes.get("units", attributes.get("unit", ""))
        parameter = Parameter(
            default=number, unit=unit, description=attributes.get("desc", attributes.get("info", "")), **limits
        )
        self.check_default(name, parameter, default)
        symbol = parameter_symbol(name)
        self.parameters[name], self.defaults[symbol] = parameter, number
        executor.scope.parameters[name] = Value(symbol, integer)
        executor.scope.symbols.add(symbol)
        self.integers |= {name} if integer else set()

    def check_default(self, name: str, parameter: Parameter, at: Node) -> None:
        """Note a default outside of the range of its parameter, which compilers accept."""
        limits = {"above": "above", "at_least": "at least", "at_most": "at most", "below": "below"}
        texts = {
            "above": lambda limit: parameter.default > limit, "at_least": lambda limit: parameter.default >= limit,
            "at_most": lambda limit: parameter.default <= limit, "below": lambda limit: parameter.default < limit,
        }  # fmt: skip
        wrong = [
            f"{words} {getattr(parameter, key)!r}" for key, words in limits.items()
            if getattr(parameter, key) is not None and not texts[key](getattr(parameter, key))
        ]  # fmt: skip
        wrong += [f"other than {value!r}" for value in parameter.excluded if value == parameter.default]
        if wrong:
            unit = f" {parameter.unit}" if parameter.unit else ""
            what = f"default {parameter.default!r}{unit} of parameter '{name}' is out of its own range"
            self.executor.note("remark", at, f"{what}: it must be {', '.join(wrong)}")

    def limits(self, name: str, ranges: list[Node]) -> dict[str, Any]:
        """Return the range of a parameter, as the card has it."""
        limits: dict[str, Any] = {"excluded": ()}
        for entry in ranges:
            kind, what = entry.children
            low, _, high = str(what.data).partition("_")
            interval = low in ("open", "closed")
            if kind == "from" and interval:
                limits |= self.limit("above" if low == "open" else "at_least", what.children[0], name)
                limits |= self.limit("below" if high == "open" else "at_most", what.children[1], name)
            elif kind == "exclude" and not interval and what.data != "list_value":
                limits["excluded"] = (*limits["excluded"], self.number(what))
            else:
                raise self.refuse(
                    what, f"a range of parameter '{name}' other than from [a:b] and exclude a", _NOT_A_RANGE
                )
        return limits

    def limit(self, kind: str, tree: Node, name: str) -> dict[str, float]:
        """Return one end of a range, or nothing where it is infinite."""
        inner = tree.children[0] if tree.data in ("neg", "pos") else tree
        if inner.data == "name" and str(inner.children[0].children[0]) == "inf":
            return {}
        value = self.number(tree)
        if self.executor.number(tree).free_symbols:
            self.executor.note(
                "remark",
                tree,
                f"the range of parameter '{name}' depends on others and is taken as {kind.replace('_', ' ')} {value!r}",
            )
        return {kind: value}

    def _function(self, item: Node) -> None:
        kind, name, *rest, body = item.children
        arguments: dict[str, str] = {}
        variables: dict[str, bool] = {}
        starts: list[tuple[str, Node]] = []
        constants: dict[str, Value] = {}
        for part in rest:
            if part.data == "arguments":
                direction, type_name, names = part.children
                arguments |= {str(d.children[0]): str(direction) for d in names.children}
                variables |= {
                    str(d.children[0]): type_name == "integer" for d in names.children if type_name is not None
                }
            elif part.data == "parameter":
                constants |= self.executor.constants(part)
            else:
                variables |= {variable: integer for variable, integer, _ in self.executor.declared(part)}
                starts += [
                    (str(d.children[0]), d.children[2]) for d in part.children[2].children if d.children[2] is not None
                ]
        self.executor.scope.writing |= any(direction != "input" for direction in arguments.values())
        variables = {**dict.fromkeys(arguments, False), **variables, str(name): kind == "integer"}
        self.executor.scope.functions[str(name)] = Function(
            arguments, variables, tuple(starts), constants, kind == "integer", body
        )

    def look_ahead(self, items: list[Node]) -> None:
        """Find the variables that statements outside of initial events set, and the names of parameters."""
        parameters = [item for item in items if item.data == "parameter" and item.children[0] == "parameter"]
        self.executor.reserve(str(a.children[0]) for item in parameters for a in item.children[3:])
        functions = self.executor.scope.functions
        self.executor.scope.kept = assigned([item for item in items if item.data == "analog"], functions, initial=False)
