"""Symbolic evaluation of calls: probes of branches, functions of the language and those of the module."""

from __future__ import annotations

from dataclasses import dataclass

import sympy
from sympy import Symbol

from memprop.device.equations import GROUND, TEMPERATURE
from memprop.device.verilog_a import values as v
from memprop.device.verilog_a.book import DERIVATIVES, Function
from memprop.device.verilog_a.expressions import BOLTZMANN, Expressions, name_of
from memprop.device.verilog_a.place import too_large
from memprop.device.verilog_a.refusals import NOISE, REFUSED, SIMPARAM
from memprop.device.verilog_a.syntax import Node, parts
from memprop.device.verilog_a.values import Poison, Unset, Value, Variable

_CALLS = 20
_COST = 15
"""Steps that a function counts for: sympy looks for simpler forms of each."""
_WRONG_SLOPE = {"hypot": "sqrt(x * x + y * y)", "atan2": "atan(y / x) with its cases"}
"""Functions whose derivative openvaf-r of August 2026 gets wrong, and what stands for them."""
_SPECIAL = {"ddt", "$simparam", "$port_connected", "$vt", "$limit"}


@dataclass(slots=True)
class Calls(Expressions):
    """Evaluates calls of functions, and accesses such as V(a, b)."""

    def _function_call_value(self, tree: Node) -> Value:
        name = str(tree.children[0])
        arguments = parts(tree.children[1])
        special = getattr(self, f"_call_{name.removeprefix('$')}", None) if name in _SPECIAL else None
        if name in self.scope.functions:
            return self.call_function(name, arguments, tree)
        if name in self.scope.potentials or name in self.scope.flows:
            return self.probe_value(tree)
        if special is not None:
            return special(tree, arguments)
        if name in NOISE:
            self.note("remark", tree, f"noise is left out: {name}()")
            return Value(sympy.Integer(0))
        plain = name.removeprefix("$")
        if plain not in v.FUNCTIONS or name in REFUSED:
            raise self.refuse(
                tree, f"function '{name}'", REFUSED.get(name, "It is not known here; define it as an analog function")
            )
        self.spend(tree, _COST)
        wanted = v.FUNCTIONS[plain][0]
        if len(arguments) != wanted:
            raise self.refuse(tree, f"{name}() with {len(arguments)} arguments", f"It takes {wanted}")
        values = [self.evaluate(argument) for argument in arguments]
        for argument, value in zip(arguments, values, strict=True):
            if self.charges and value.expr.free_symbols & self.charges.keys():
                raise self.refuse(
                    argument, "ddt() inside a condition or function", "Use ddt() only as a term of a contribution"
                )
        if plain in _WRONG_SLOPE:
            what = (
                f"OpenVAF differentiates {plain}() wrongly, so that simulators converge badly and AC analyses are wrong"
            )
            self.note("warning", tree, f"{what}. Write {_WRONG_SLOPE[plain]}.")
        whole = plain in ("abs", "min", "max") and all(value.integer for value in values)
        return Value(v.call(plain, [v.arithmetic(value) for value in values]), whole)

    def branch(self, access: Node) -> tuple[str, str, int]:
        """Return ("potential" or "flow", key of the branch, sign) of an access such as V(a, b) or I(branch)."""
        name, arguments = str(access.children[0]), parts(access.children[1])
        if name in self.types or name in self.scope.parameters:
            raise self.refuse(
                access,
                f"'{name}' is a variable or parameter here and hides the access function {name}()",
                f"Rename '{name}'",
            )
        kind = "potential" if name in self.scope.potentials else "flow" if name in self.scope.flows else None
        if kind is None:
            raise self.refuse(access, f"'{name}' is no access function", "Use V() and I(), or Temp() and Pwr()")
        if not 1 <= len(arguments) <= 2:
            raise self.refuse(access, f"{name}() with {len(arguments)} nodes", "Name one node, two nodes, or a branch")
        words = [self.node_name(argument) for argument in arguments]
        if len(words) == 1 and words[0] in self.scope.branches:
            key, sign = words[0], 1
            self.ends.setdefault(key, self.oriented(*self.scope.branches[key]))
        else:
            key, sign = self.node_branch(words, arguments, access)
        return kind, key, sign

    def node_branch(self, words: list[str], arguments: list[Node], access: Node) -> tuple[str, int]:
        """Return key and sign of the unnamed branch between nodes."""
        for word, argument in zip(words, arguments, strict=True):
            if word not in self.scope.nodes and word not in self.scope.ground:
                raise self.refuse(argument, f"'{word}' is no node and no branch", f"Declare it: electrical {word};")
        a, b = [GROUND if word in self.scope.ground else word for word in [*words, GROUND][:2]]
        if a == b or (len(words) == 1 and a == GROUND):
            raise self.refuse(access, f"a branch from '{words[0]}' to itself", "Name two different nodes")
        (a, b), sign = self.oriented(a, b)
        key = f"{a},{b}"
        self.ends.setdefault(key, ((a, b), 1))
        return key, sign

    def node_name(self, tree: Node) -> str:
        """Return the name of a node in an access."""
        if tree.data == "name" and len(tree.children[0].children) == 1:
            return str(tree.children[0].children[0])
        if tree.data == "port_probe":
            raise self.refuse(tree, f"the port flow <{tree.children[0]}>", "Read the current of a branch: I(a, b)")
        raise self.refuse(
            tree, "a node that is no plain name", "Use scalar nodes; buses and nodes of other modules are not read"
        )

    def probe_value(self, tree: Node) -> Value:
        """Return the voltage of a branch or the symbol of its flow."""
        if self.function:
            raise self.refuse(tree, f"{tree.children[0]}() inside an analog function", "Give it as an argument")
        kind, key, sign = self.branch(tree)
        if kind == "flow":
            self.places.setdefault(f"read {key}", self.place(tree))
        return Value(sign * (self.voltage(key) if kind == "potential" else self.current(key)))

    def _call_ddt(self, tree: Node, arguments: list[Node]) -> Value:
        """Return a symbol for d/dt of the argument."""
        if not arguments or self.function:
            what = "inside an analog function" if self.function else "without an argument"
            raise self.refuse(tree, f"ddt() {what}", "Write ddt(charge) in a contribution")
        charge = self.number(arguments[0])
        if charge.free_symbols & self.charges.keys():
            raise self.refuse(tree, "ddt() of a derivative", "Give the quantity an internal node: a state")
        if charge.free_symbols & self.currents.keys():
            raise self.refuse(tree, "ddt() of a flow", "Give the flow an internal node: a state")
        if not charge.free_symbols & self.moving:
            return Value(sympy.Integer(0))
        if len(self.charges) >= DERIVATIVES:
            raise too_large(self.place(tree), f"more than {DERIVATIVES} uses of ddt()", "Sum the charges first")
        symbol = Symbol(f"ddt({len(self.charges)})", real=True)
        self.charges[symbol] = self.defined("charge", Value(charge), tree).expr if charge.count_ops() > 60 else charge
        return Value(symbol)

    def _call_simparam(self, tree: Node, arguments: list[Node]) -> Value:
        text = self.string_of(arguments[0]) if arguments else None
        if text in SIMPARAM:
            self.note("remark", tree, f'$simparam("{text}") is taken as {SIMPARAM[text]}')
            return Value(sympy.Rational(SIMPARAM[text]))
        if len(arguments) > 1:
            self.note("remark", tree, f'$simparam("{text}") is taken as its default')
            return self.evaluate(arguments[1])
        raise self.refuse(tree, f'$simparam("{text}") without a default', "Give one as second argument")

    def _call_port_connected(self, tree: Node, arguments: list[Node]) -> Value:  # noqa: ARG002 - one signature
        self.note("remark", tree, "$port_connected is taken as true")
        return Value(sympy.Integer(1), True)

    def _call_vt(self, tree: Node, arguments: list[Node]) -> Value:  # noqa: ARG002
        return Value(BOLTZMANN * (self.plain(arguments[0]) if arguments else TEMPERATURE))

    def _call_limit(self, tree: Node, arguments: list[Node]) -> Value:
        if not arguments:
            raise self.refuse(tree, "$limit() without an argument", "Write $limit(V(a, b), ...)")
        self.note("remark", tree, "$limit() is taken as its first argument: it only helps a simulator to converge")
        return self.evaluate(arguments[0])

    def call_function(self, name: str, arguments: list[Node], tree: Node) -> Value:
        """Execute an analog function on values; hand its output arguments back."""
        self.spend(tree, _COST)
        function = self.scope.functions[name]
        if len(arguments) != len(function.arguments):
            raise self.refuse(tree, f"{name}() with {len(arguments)} arguments", f"It takes {len(function.arguments)}")
        if self.calls >= _CALLS:
            what = f"analog functions call each other more than {_CALLS} deep, here '{name}'"
            raise too_large(self.place(tree), what, "Write a closed form")
        for direction, argument in zip(function.arguments.values(), arguments, strict=True):
            if direction != "input":
                self.check_output(argument, name)
        inner = self.entered(function, arguments)
        outer = self.types, self.variables, self.function
        self.types, self.variables, self.function, self.calls = dict(function.variables), inner, name, self.calls + 1
        failed = self.attempt(lambda: self.execute_body(function))
        left = self.variables if isinstance(failed, Value) else dict.fromkeys(inner, failed)
        (self.types, self.variables, self.function), self.calls = outer, self.calls - 1
        for (variable, direction), argument in zip(function.arguments.items(), arguments, strict=True):
            if direction != "input":
                self.hand_back(argument, left[variable], name)
        if isinstance(left[name], Unset):
            raise self.refuse(
                tree, f"analog function '{name}' does not set its result on every way", f"Set {name} first"
            )
        return self.result(name, left[name], tree)

    def result(self, name: str, found: Variable, tree: Node) -> Value:
        """Return what a function leaves in its own name; what is wrong with it is wrong in the function."""
        outer, self.function = self.function, name
        try:
            return self.known(name, found, tree)
        finally:
            self.function = outer

    def entered(self, function: Function, arguments: list[Node]) -> dict[str, Variable]:
        """Return the variables of a function as it is entered; what is wrong with an argument matters when it is read."""
        inner: dict[str, Variable] = {variable: Unset(variable) for variable in function.variables}
        for (variable, direction), argument in zip(function.arguments.items(), arguments, strict=True):
            integer = function.variables[variable]
            if direction != "output":
                inner[variable] = self.attempt(
                    lambda a=argument, i=integer: self.cast(self.evaluate(a), i, a), argument
                )
        return inner

    def execute_body(self, function: Function) -> Value:
        """Execute the body of a function; what it returns stands in its variables."""
        kept = self.scope.parameters
        self.scope.parameters = {**kept, **function.constants} if function.constants else kept
        try:
            for variable, start in function.starts:
                self.variables[variable] = self.cast(self.evaluate(start), function.variables[variable], start)
            for statement in function.body.children:
                self.run(statement)
        finally:
            self.scope.parameters = kept
        return v.ZERO

    def check_output(self, argument: Node, function: str) -> None:
        """Refuse an output argument that is no variable."""
        name = name_of(argument) if argument.data == "name" else ""
        if name not in self.types:
            raise self.refuse(
                argument, f"an output argument of {function}() that is no variable", "Give a declared variable"
            )

    def hand_back(self, argument: Node, value: Variable, function: str) -> None:
        """Give an output variable what the function left in its argument."""
        name = name_of(argument)
        if isinstance(value, Unset):
            error = self.refuse(argument, f"{function}() does not set this argument on every way", "Set it first")
            self.variables[name] = Poison(error)
        else:
            whole = self.types[name]
            self.variables[name] = (
                self.attempt(lambda: self.cast(value, whole, argument)) if isinstance(value, Value) else value
            )
