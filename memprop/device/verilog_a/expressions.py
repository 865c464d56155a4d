"""Symbolic evaluation of expressions: variables, operators, comparisons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sympy
from lark import Token, Tree

from memprop.device.equations import TEMPERATURE
from memprop.device.verilog_a import values as v
from memprop.device.verilog_a.book import Book
from memprop.device.verilog_a.place import TooLargeError
from memprop.device.verilog_a.refusals import HIDDEN, REFUSED
from memprop.device.verilog_a.syntax import Node, parts
from memprop.device.verilog_a.values import Poison, Unset, Value, Variable
from memprop.errors import VerilogError

BOLTZMANN = sympy.Rational("1.3806488e-23") / sympy.Rational("1.602176565e-19")
"""k/q in V/K of $vt: not that of the header's macros, but that which the open compilers have (CODATA 2010)."""
_CHAINS = {"add", "sub", "mul", "div", "or_", "and_"}
INITIAL = {"initial_step", "initial_model", "initial_instance"}
"""Events of the start."""


@dataclass(slots=True)
class Expressions(Book):
    """Evaluates expressions; functions are called by `Calls`, and statements executed by `Executor`."""

    function: str | None = None
    """Name of the analog function that runs, if one does."""
    calls: int = 0

    def run(self, statement: Node) -> None:
        """Execute one statement."""
        raise NotImplementedError

    # values of variables

    def read(self, name: str, at: Node) -> Value:
        """Return the value of a variable.

        Raises
        ------
        VerilogError: it has none here, or one outside of the subset.
        """
        return self.known(name, self.variables[name], at)

    def known(self, name: str, found: Variable, at: Node) -> Value:
        """Return the value that a variable has where the execution is."""
        if isinstance(found, Value):
            return found
        if isinstance(found, Poison):
            raise found.error
        if isinstance(found, Unset):
            raise self.unset(name, at)
        cases: list[tuple[Any, Value]] = []
        for when, value in found.cases:
            if when == v.FALSE or sympy.Not(when) in self.path:
                continue
            cases.append((when, self.known(name, value, at)))
            if when == v.TRUE or when in self.path:
                break
        if len(cases) == 1:
            return cases[0][1]
        joined = v.choose([(v.arithmetic(value), when) for when, value in cases])
        return self.defined(name, Value(joined, all(value.integer for _, value in cases)), at)

    def unset(self, name: str, at: Node) -> VerilogError:
        """Return the error of a variable that is read without a value."""
        if self.function or name in self.scope.kept:
            what = f"variable '{name}' is read before every way to here has set it"
            if self.function:
                return self.refuse(at, f"{what}, in analog function '{self.function}'", f"Set '{name}' first")
            remedy = (
                f"Set '{name}' first; if it is a state, give it an internal node x: I(x) <+ ddt(V(x)); I(x) <+ -rate"
            )
            return self.refuse(at, f"{what}, so it would keep a value from the time point before, {HIDDEN}", remedy)
        return self.refuse(at, f"variable '{name}' is read and never set", "Set it, or make it a parameter")

    def attempt(self, evaluate: Callable[[], Value], *trees: Node) -> Value | Poison:
        """Return a value, or the error that it ends in, to be raised when the value is used.

        The error is also that of every variable that functions called in ``trees``, which are evaluated, would have set.
        """
        calls, function, path, flows, forced = self.calls, self.function, len(self.path), self.flows, self.forced
        try:
            return evaluate()
        except TooLargeError:
            raise
        except VerilogError as error:
            self.calls, self.function, self.flows, self.forced = calls, function, flows, forced
            del self.path[path:]
            poison = Poison(error)
            self.variables |= dict.fromkeys(self.outputs(*trees) & self.variables.keys(), poison)
            return poison

    def outputs(self, *trees: Node) -> set[str]:
        """Return the variables that functions called in expressions set."""
        return assigned(list(trees), self.scope.functions) if self.scope.writing else set()

    # expressions

    def evaluate(self, tree: Node) -> Value:
        """Return the value of an expression.

        Raises
        ------
        VerilogError: it is outside of the subset; the message names the place.
        """
        self.spend(tree)
        kind = str(tree.data)
        try:
            if kind in _CHAINS:
                return self.chain(tree)
            if kind in v.COMPARISONS:
                return self.comparison(kind, tree)
            return getattr(self, f"_{kind}_value")(tree)
        except v.DomainError:
            raise self.refuse(tree, "numbers that give no finite number", "Correct the expression") from None

    def number(self, tree: Node) -> Any:
        """Return an expression as a number or an expression of numbers."""
        return v.arithmetic(self.evaluate(tree))

    def plain(self, tree: Node) -> Any:
        """Return an expression that may hold no ddt()."""
        expr = self.number(tree)
        if self.charges and expr.free_symbols & self.charges.keys():
            raise self.refuse(
                tree, "ddt() inside a condition or function", "Use ddt() only as a term of a contribution"
            )
        return expr

    def truth(self, tree: Node) -> Any:
        """Return an expression as a condition."""
        value = self.evaluate(tree)
        if not v.is_truth(value.expr):
            value = Value(self.unbranched(value.expr, tree), value.integer)
        return v.condition(value)

    def unbranched(self, expr: Any, at: Node) -> Any:
        """Return an expression that sympy would take apart inside of a condition under a symbol of its own."""
        if self.charges and expr.free_symbols & self.charges.keys():
            raise self.refuse(at, "ddt() inside a condition or function", "Use ddt() only as a term of a contribution")
        return self.symbol_of("tested", expr, expr.free_symbols) if expr.has(sympy.Piecewise) else expr

    def chain(self, tree: Node) -> Value:
        """Return a sum, product, or conjunction, whose left operands are read in a loop."""
        steps: list[tuple[str, Node]] = []
        node = tree
        while str(node.data) in _CHAINS:
            steps.append((str(node.data), node.children[1]))
            node = node.children[0]
        left, pending, join = self.evaluate(node), [], ""
        for kind, operand in reversed(steps):
            group = "add" if kind == "sub" else kind
            if group != join:
                left, pending, join = self.folded(join, left, pending), [], group
            pending.append((kind, operand))
        return self.folded(join, left, pending)

    def folded(self, kind: str, left: Value, operands: list[tuple[str, Node]]) -> Value:
        """Return ``left`` joined with operands of one kind of operator."""
        if not operands:
            return left
        if kind == "div":
            for _, operand in operands:
                left = self.quotient(left, operand)
            return left
        if kind in ("or_", "and_"):
            if written := next((operand for _, operand in operands if self.outputs(operand)), None):
                raise self.refuse(
                    written, "a function that sets variables behind && or ||", "Call it in a statement before"
                )
            tests = [v.condition(left), *(self.truth(operand) for _, operand in operands)]
            return Value((sympy.Or if kind == "or_" else sympy.And)(*tests), True)
        values = [self.evaluate(operand) for _, operand in operands]
        integer = left.integer and all(value.integer for value in values)
        if kind == "mul":
            return Value(v.multiply([v.arithmetic(value) for value in (left, *values)]), integer)
        signed = [
            -v.arithmetic(x) if k == "sub" else v.arithmetic(x) for (k, _), x in zip(operands, values, strict=True)
        ]
        return Value(v.add([v.arithmetic(left), *signed]), integer)

    def quotient(self, left: Value, operand: Node) -> Value:
        """Return a quotient."""
        try:
            return v.divide(left, self.evaluate(operand))
        except ZeroDivisionError:
            raise self.refuse(operand, "division by zero", "Correct the expression") from None
        except NotImplementedError:
            raise self.refuse(
                operand, "division of two integers, which drops the remainder", "Write 1.0 * a / b"
            ) from None

    def comparison(self, kind: str, tree: Node) -> Value:
        """Return a comparison of numbers, or of strings, which is known."""
        texts = [self.string_of(child) for child in tree.children]
        if None not in texts and kind in ("eq", "ne"):
            return Value(v.TRUE if (texts[0] == texts[1]) is (kind == "eq") else v.FALSE, True)
        a, b = (self.unbranched(self.number(child), child) for child in tree.children)
        return Value(v.compare(kind, a, b), True)

    def string_of(self, tree: Node) -> str | None:
        """Return the text of a string or of a string parameter."""
        if tree.data == "string":
            return str(tree.children[0])[1:-1]
        if tree.data == "name" and len(tree.children[0].children) == 1:
            return self.scope.strings.get(str(tree.children[0].children[0]))
        return None

    def _number_value(self, tree: Node) -> Value:
        return v.number(str(tree.children[0]))

    def _string_value(self, tree: Node) -> Value:
        raise self.refuse(tree, "a string in an expression", "Use an integer parameter instead of a string")

    def _list_value_value(self, tree: Node) -> Value:
        raise self.refuse(tree, "a list in an expression", "Write the elements out")

    def _element_value(self, tree: Node) -> Value:
        raise self.refuse(tree, f"element of array '{name_of(tree)}'", "Use one variable per element")

    def _bits_value(self, tree: Node) -> Value:
        raise self.refuse(tree, "an operator on bits", "Use arithmetic, or && and ||")

    def _port_probe_value(self, tree: Node) -> Value:
        raise self.refuse(tree, f"the port flow <{tree.children[0]}>", "Read the current of a branch: I(a, b)")

    def _name_value(self, tree: Node) -> Value:
        name = name_of(tree)
        if name in self.variables:
            return self.read(name, tree)
        if name in self.scope.parameters:
            return self.scope.parameters[name]
        if name in self.scope.strings:
            raise self.refuse(tree, f"string parameter '{name}' in an expression", "Compare it with a string")
        if name == "inf":
            raise self.refuse(tree, "inf in an expression", "Write a number")
        if name in self.scope.nodes or name in self.scope.branches:
            raise self.refuse(tree, f"'{name}' is a node or branch", f"Write V({name})")
        raise self.refuse(
            tree, f"'{name}' is not declared", f"Declare it: real {name}; or parameter real {name} = ...;"
        )

    def _system_value(self, tree: Node) -> Value:
        name = str(tree.children[0])
        if name == "$temperature":
            return Value(TEMPERATURE)
        if name == "$vt":
            return Value(BOLTZMANN * TEMPERATURE)
        if name == "$mfactor":
            self.note("remark", tree, "$mfactor is taken as 1: simulators multiply by it themselves")
            return Value(sympy.Integer(1))
        raise self.refuse(tree, f"'{name}'", REFUSED.get(name, "It is not known here; remove it"))

    def _conditional_value(self, tree: Node) -> Value:
        test, one, two = tree.children
        when = self.truth(test)
        if when in (v.TRUE, v.FALSE):
            return self.evaluate(one if when == v.TRUE else two)
        if self.outputs(one, two):
            raise self.refuse(tree, "a function that sets variables in an alternative of ? :", "Write an if statement")
        start = len(self.path)
        self.assume(when)
        a = self.evaluate(one)
        del self.path[start:]
        self.assume(sympy.Not(when))
        b = self.evaluate(two)
        del self.path[start:]
        return Value(v.choose([(v.arithmetic(a), when), (v.arithmetic(b), v.TRUE)]), a.integer and b.integer)

    def _not__value(self, tree: Node) -> Value:
        return Value(sympy.Not(self.truth(tree.children[0])), True)

    def _neg_value(self, tree: Node) -> Value:
        value = self.evaluate(tree.children[0])
        return Value(-v.arithmetic(value), value.integer)

    def _pos_value(self, tree: Node) -> Value:
        value = self.evaluate(tree.children[0])
        return Value(v.arithmetic(value), value.integer)

    def _mod_value(self, tree: Node) -> Value:
        a, b = (self.number(child) for child in tree.children)
        if not (a.is_Integer and b.is_Integer and b != 0):
            raise self.refuse(tree, "the remainder % of what is no integer number", "Write a closed form")
        rest = abs(a) % abs(b)
        return Value(rest if a >= 0 else -rest, True)

    def _power_value(self, tree: Node) -> Value:
        return Value(v.power(*(self.plain(child) for child in tree.children)))

    def cast(self, value: Value, integer: bool, at: Node) -> Value:
        """Return the value as a variable of the type keeps it."""
        expr = v.arithmetic(value)
        if not integer or value.integer:
            return Value(expr, integer)
        if not expr.is_number:
            raise self.refuse(at, "a real value given to an integer, which rounds it", "Declare the variable real")
        half = sympy.Rational(1, 2)
        return Value(sympy.floor(expr + half) if expr >= 0 else -sympy.floor(half - expr), True)


def name_of(tree: Node) -> str:
    """Return the name that a tree of kind name, element or lvalue begins with, its parts joined by dots."""
    path: Tree[Token] = tree.children[0]
    return ".".join(str(part) for part in path.children)


def trigger_of(node: Node) -> str | None:
    """Return the name of one event; None for the word between two."""
    if not hasattr(node, "data"):
        return None
    if node.data == "name":
        return name_of(node)
    return str(node.children[0]) if node.data == "function_call" else str(node.data)


def assigned(nodes: list[Node], functions: dict[str, Any], *, initial: bool = True) -> set[str]:
    """Return the names of variables that statements set; ``initial``: those set in events of the start too."""
    found: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if not hasattr(node, "data") or (node.data == "event" and not initial and _at_start(node)):
            continue
        if node.data == "lvalue":
            found.add(name_of(node))
        elif node.data == "function_call" and str(node.children[0]) in functions:
            directions = functions[str(node.children[0])].arguments.values()
            for direction, argument in zip(directions, parts(node.children[1]), strict=False):
                if direction != "input" and getattr(argument, "data", "") == "name":
                    found.add(name_of(argument))
        waiting += node.children
    return found


def _at_start(event: Node) -> bool:
    trigger = event.children[0]
    names = {str(trigger)} if not hasattr(trigger, "data") else {trigger_of(part) for part in trigger.children} - {None}
    return names <= INITIAL
