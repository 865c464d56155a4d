"""Symbolic execution of statements: every variable becomes an expression, every branch a flow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import sympy

from memprop.device.verilog_a import values as v
from memprop.device.verilog_a.calls import Calls
from memprop.device.verilog_a.expressions import INITIAL, assigned, name_of, trigger_of
from memprop.device.verilog_a.place import too_large
from memprop.device.verilog_a.refusals import EVENT, REFUSED, SILENT
from memprop.device.verilog_a.syntax import Node, parts
from memprop.device.verilog_a.values import Partial, Poison, Unset, Value, Variable

_ROUNDS = 2_000
_ALTERNATIVES = 100
_NESTED = 20
"""How deep alternatives in which a variable has no value are told apart."""
_COST = 10
"""Variables per step of work that a branching takes."""

Case = tuple[Any, Variable]


@dataclass(slots=True)
class Executor(Calls):
    """Executes statements; ``flows`` and ``forced`` collect contributions."""

    initial: bool = False
    """Whether an event of the start runs."""

    def run(self, statement: Node) -> None:
        """Execute one statement.

        Raises
        ------
        VerilogError: it is outside of the subset, or contributes something that is.
        """
        self.spend(statement)
        getattr(self, f"_{statement.data}_statement")(statement)

    def _empty_statement(self, tree: Node) -> None:
        pass

    def _block_statement(self, tree: Node) -> None:
        name, *rest = tree.children
        outer, hidden = dict(self.types), {}
        constants = self.scope.parameters
        for child in rest:
            if child.data == "variables":
                for variable, integer, value in self.declared(child):
                    hidden.setdefault(variable, self.variables.get(variable))
                    self.types[variable], self.variables[variable] = integer, value
                    self.warn_start(child, variable, value, rest)
            elif child.data == "parameter":
                self.scope.parameters = {**self.scope.parameters, **self.constants(child)}
            else:
                self.run(child)
        self.scope.parameters = constants
        self.leave(name, outer, hidden)

    def leave(self, name: Node, outer: dict[str, bool], hidden: dict[str, Variable | None]) -> None:
        """Close the scope of a block; the variables of a named one stay readable as ``name.variable``."""
        for variable, before in hidden.items():
            if name is not None:
                outer[f"{name}.{variable}"] = self.types[variable]
                self.variables[f"{name}.{variable}"] = self.variables[variable]
            if before is None:
                del self.variables[variable]
            else:
                self.variables[variable] = before
        self.types = outer

    def warn_start(self, tree: Node, name: str, value: Variable, block: list[Node]) -> None:
        """Warn of an initial value in a block of a variable that the block also sets: simulators differ there."""
        if not isinstance(value, Unset) and not self.function and name in assigned(block, {}):
            self.note(
                "warning", tree, f"variable '{name}' is taken to begin anew each time the block is entered, as OpenVAF does; "
                "by the language it keeps its value. Set it by a statement.",
            )  # fmt: skip

    def constants(self, tree: Node) -> dict[str, Value]:
        """Return the parameters that are declared in a block, fixed at their defaults."""
        kind, type_name, size, *assignments = tree.children
        found: dict[str, Value] = {}
        for assignment in assignments:
            name, index, default, *_ = assignment.children
            if size is not None or index is not None:
                raise self.refuse(assignment, f"array parameter '{name}'", "Use one parameter per element")
            value = self.evaluate(default)
            found[str(name)] = self.cast(
                value, type_name == "integer" or (type_name is None and value.integer), default
            )
            if kind != "localparam":
                self.note(
                    "warning",
                    assignment,
                    f"parameter '{name}' of a block is fixed at its default. Declare it in the module.",
                )
        return found

    def declared(self, tree: Node) -> Iterator[tuple[str, bool, Variable]]:
        """Yield name, whether integer, and initial value of the variables that a declaration declares."""
        kind, size, names = tree.children
        for declarator in names.children:
            name, index, start = declarator.children
            if kind == "string":
                raise self.refuse(tree, f"string variable '{name}'", "Use an integer")
            if size is not None or index is not None:
                raise self.refuse(declarator, f"array '{name}'", "Use one variable per element")
            integer = kind in ("integer", "genvar")
            if start is None:
                yield str(name), integer, Unset(str(name))
            else:
                yield (
                    str(name),
                    integer,
                    self.attempt(lambda s=start, i=integer: self.cast(self.evaluate(s), i, s), start),
                )

    # assignments and contributions

    def _assign_statement(self, tree: Node) -> None:
        target, expression = tree.children
        name = name_of(target)
        if target.children[1] is not None:
            raise self.refuse(target, f"element of array '{name}'", "Use one variable per element")
        if name not in self.types:
            if name in self.scope.parameters or name in self.scope.strings:
                raise self.refuse(
                    target, f"'{name}' is a parameter and cannot be set", "Use a variable of another name"
                )
            raise self.refuse(target, f"'{name}' is not declared and cannot be set", f"Declare it: real {name};")
        value = self.attempt(
            lambda: self.defined(name, self.cast(self.evaluate(expression), self.types[name], expression), expression),
            expression,
        )
        if not (self.initial and name in self.scope.kept):
            self.variables[name] = value

    _for_assign_statement = _assign_statement

    def _contribute_statement(self, tree: Node) -> None:
        access, expression = tree.children
        if self.function or self.initial:
            where = "an analog function" if self.function else "an event"
            raise self.refuse(tree, f"a contribution inside {where}", "Move it to the analog block")
        kind, key, sign = self.branch(access)
        expr = sign * self.number(expression)
        self.checked_size(expr, tree)
        (self.flows if kind == "flow" else self.forced).setdefault(key, []).append(expr)
        self.places.setdefault(f"set {kind} {key}", self.place(tree))

    def _indirect_statement(self, tree: Node) -> None:
        raise self.refuse(
            tree, "an indirect contribution", "Write I(x) <+ (expression that must be zero) on an internal node x"
        )

    def _call_statement(self, tree: Node) -> None:
        called = tree.children[0]
        name = str(called if not hasattr(called, "data") else called.children[0])
        if name in SILENT:
            self.note("remark", tree, f"{name} is left out")
        elif name in self.scope.functions:
            found = self.attempt(lambda: self.evaluate(called), called)
            if isinstance(found, Poison):
                raise found.error
        else:
            raise self.refuse(tree, f"task '{name}'", REFUSED.get(name, "Remove it"))

    def _event_statement(self, tree: Node) -> None:
        trigger, statement = tree.children
        names = (
            {str(trigger)} if not hasattr(trigger, "data") else {trigger_of(part) for part in trigger.children} - {None}
        )
        if names == {"final_step"} and not assigned([statement], {}) and not contributes(statement):
            self.note("remark", tree, "@(final_step) is left out")
            return
        if not names <= INITIAL or self.function:
            raise self.refuse(tree, f"an event @({', '.join(sorted(str(n) for n in names))})", EVENT)
        self.note("remark", tree, "what @(initial_step) sets is taken as constant: it depends on parameters only")
        self.start(statement)

    def start(self, statement: Node) -> None:
        """Execute what the language executes once, before anything else: it may set variables that nothing else sets."""
        outer, self.initial = self.initial, True
        self.run(statement)
        self.initial = outer
        for name in sorted(assigned([statement], self.scope.functions)):
            if name not in self.scope.kept and self.moves(self.variables.get(name, v.ZERO)):
                raise self.refuse(statement, f"'{name}' is set once, at the start, from voltages or flows", EVENT)

    def moves(self, value: Variable) -> bool:
        """Return whether a value depends on voltages or flows."""
        if isinstance(value, Partial):
            tests = (when for when, _ in value.cases if not isinstance(when, Poison))
            return any(when.free_symbols & self.moving for when in tests) or any(
                self.moves(case) for _, case in value.cases
            )
        return isinstance(value, Value) and bool(value.expr.free_symbols & (self.moving | self.charges.keys()))

    # alternatives

    def _if_statement(self, tree: Node) -> None:
        test, then, *other = tree.children
        self.fork([(self.tested(test), then), (v.TRUE, other[0] if other else None)])

    def tested(self, test: Node) -> Any:
        """Return a condition, or a Poison for one outside of the subset, which matters only if what follows depends on it."""
        found = self.attempt(lambda: Value(self.truth(test)), test)
        return found.expr if isinstance(found, Value) else found

    def _case_statement(self, tree: Node) -> None:
        selector, *items = tree.children
        cases, default = [], None
        for item in items:
            *labels, statement = parts(item)
            if not labels:
                default = statement
                continue
            cases.append((self.matches(selector, labels), statement))
        self.fork([*cases, (v.TRUE, default)])

    def matches(self, selector: Node, labels: list[Node]) -> Any:
        """Return the condition under which a case has one of its labels, or a Poison."""

        def evaluate() -> Value:
            value = self.unbranched(self.number(selector), selector)
            tests = [v.compare("eq", value, self.unbranched(self.number(label), label)) for label in labels]
            return Value(sympy.Or(*tests))

        found = self.attempt(evaluate, selector, *labels)
        return found.expr if isinstance(found, Value) else found

    def fork(self, cases: list[tuple[Any, Node]]) -> None:
        """Execute alternatives from the same start and join what they leave, each under its condition."""
        reachable: list[tuple[Any, Node]] = []
        for when, statement in cases:
            if when == v.FALSE:
                continue
            reachable.append((when, statement))
            if when == v.TRUE:
                break
        if len(reachable) == 1:
            if reachable[0][1] is not None:
                self.run(reachable[0][1])
            return
        if len(reachable) > _ALTERNATIVES:
            where = self.place(reachable[_ALTERNATIVES][1] or reachable[0][1])
            raise too_large(where, f"more than {_ALTERNATIVES} alternatives", "Write a closed form")
        start, flows, forced = self.variables, self.flows, self.forced
        depth, tests, ends = len(self.path), [], []
        for when, statement in reachable:
            self.variables, self.flows, self.forced = dict(start), {}, {}
            for test in tests:
                self.assume(sympy.Not(test))
            if not isinstance(when, Poison):
                self.assume(when)
                tests.append(when)
            if statement is not None:
                self.run(statement)
            ends.append((when, self.variables, self.flows, self.forced))
            del self.path[depth:]
        self.spend(reachable[0][1] or reachable[1][1], len(start) * len(ends) // _COST)
        self.variables, self.flows, self.forced = dict(start), flows, forced
        self.join(ends)

    def join(self, ends: list[tuple[Any, dict[str, Variable], dict[str, list[Any]], dict[str, list[Any]]]]) -> None:
        """Join variables and contributions of the alternatives."""
        poison = next((when for when, *_ in ends if isinstance(when, Poison)), None)
        names = dict.fromkeys(name for _, variables, _, _ in ends for name in variables)
        for name in names:
            cases = [(when, variables.get(name, Unset(name))) for when, variables, _, _ in ends]
            if any(value is not cases[0][1] for _, value in cases):
                self.variables[name] = self.joined(name, cases) if poison is None else _equal(cases) or poison
        for book, index in ((self.flows, 2), (self.forced, 3)):
            for key in dict.fromkeys(key for end in ends for key in end[index]):
                if poison is not None:
                    raise poison.error
                book.setdefault(key, []).append(v.choose([(v.add(end[index].get(key, [])), end[0]) for end in ends]))

    def joined(self, name: str, cases: list[Case]) -> Variable:
        """Return what alternatives leave in a variable."""
        same = _equal(cases)
        if same is not None:
            return same
        values = [value for _, value in cases if isinstance(value, Value)]
        if len(values) < len(cases):
            depth = 1 + max((value.depth for _, value in cases if isinstance(value, Partial)), default=0)
            return Partial(tuple(cases), depth) if depth <= _NESTED else Unset(name)
        joined = v.choose([(v.arithmetic(value), when) for (when, _), value in zip(cases, values, strict=True)])
        whole = Value(joined, all(value.integer for value in values))
        if joined.is_Atom:
            return whole
        return self.attempt(lambda: self.defined(name, whole, self.syntax.tree))

    # loops

    def _for_statement(self, tree: Node) -> None:
        start, test, step, body = tree.children
        self.run(start)
        self.loop(test, [body, step], tree)

    def _while_statement(self, tree: Node) -> None:
        test, body = tree.children
        self.loop(test, [body], tree)

    def _repeat_statement(self, tree: Node) -> None:
        count, body = tree.children
        times = self.number(count)
        if not times.is_Integer:
            raise self.refuse(
                count,
                f"a repeat whose count depends on {self.causes(times)}",
                "Make it a localparam, or write the steps out",
            )
        if times > _ROUNDS:
            raise too_large(self.place(count), f"a loop of more than {_ROUNDS} rounds", "Write a closed form")
        for _ in range(int(times)):
            self.run(body)

    def loop(self, test: Node, body: list[Node], tree: Node) -> None:
        """Unroll a loop whose test is known while it runs."""
        for _ in range(_ROUNDS):
            when = self.truth(test)
            if when == v.FALSE:
                return
            if when != v.TRUE:
                raise self.refuse(
                    test,
                    f"a loop whose end depends on {self.causes(when)}",
                    "Make it a localparam, or write the steps out",
                )
            for statement in body:
                self.run(statement)
        raise too_large(self.place(tree), f"a loop of more than {_ROUNDS} rounds", "Write a closed form")

    def causes(self, expr: Any) -> str:
        """Return what an expression depends on, in words."""
        free = expr.free_symbols
        names = sorted(str(symbol) for symbol in free & self.scope.symbols)
        if free & self.moving:
            return "voltages"
        return f"the parameter {', '.join(names)}" if names else "parameters or voltages"


def _equal(cases: list[Case]) -> Variable | None:
    """Return the value that all alternatives have in common, or None."""
    first = cases[0][1]
    return first if all(value is first or value == first for _, value in cases) else None


def contributes(statement: Node) -> bool:
    """Return whether a statement contributes to a branch."""
    return next(statement.find_data("contribute"), None) is not None
