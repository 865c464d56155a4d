"""Contributions -> flows: currents that are read, contributed voltages, and charges taken apart from currents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import sympy
from sympy import Symbol

from memprop.device.equations import Branch, Flow
from memprop.device.functions import replaced
from memprop.device.verilog_a import values as v
from memprop.device.verilog_a.book import Book, label
from memprop.device.verilog_a.linear import ZERO, linear_parts
from memprop.device.verilog_a.place import refuse

_SHORT = (
    "Simulators merge the two nodes. Fix the parameter so that the branch stays resistive: delete the alternative with "
    "V(...) <+ 0 and give the parameter a range without 0"
)


@dataclass(slots=True)
class Flows:
    """Makes the flows of a module from what its execution left in a book."""

    book: Book
    totals: dict[str, Any] = field(default_factory=dict)
    definitions: dict[Any, Any] = field(default_factory=dict)

    def made(self) -> tuple[dict[Branch, Flow], tuple[tuple[Symbol, Any], ...]]:
        """Return the flows by branch, and the definitions that they need, in order.

        Raises
        ------
        VerilogError: a contribution cannot be written as a current and a charge.
        """
        book = self.book
        self.definitions = dict(book.lets)
        self.totals = {key: v.add(terms) for key, terms in book.flows.items()}
        for key, terms in book.forced.items():
            expr = v.add(terms)
            if key in self.totals:
                raise self.conflict(key, expr)
            self.totals[key] = self.turned(key, expr)
        self.read_currents()
        lets = self.ordered()
        found: dict[Branch, Flow] = {}
        for key, expr in self.totals.items():
            ends, sign = book.ends[key]
            current, charge = self.split(key, expr)
            old = found.get(ends, Flow(ZERO, ZERO))
            found[ends] = Flow(old.current + sign * current, old.charge + sign * charge)
        return {ends: flow for ends, flow in found.items() if flow.current != 0 or flow.charge != 0}, lets

    def conflict(self, key: str, expr: Any) -> Exception:
        """Return the error of a branch that gets a voltage and a current."""
        place = self.book.places[f"set potential {key}"]
        if expr == 0 or (isinstance(expr, sympy.Piecewise) and all(value == 0 for value, _ in expr.args)):  # pyright: ignore
            return refuse(place, f"V({label(key)}) <+ 0 beside a current: the branch is a resistor or a short", _SHORT)
        return refuse(place, f"branch {label(key)} gets both a voltage and a current", "Contribute a current only")

    def turned(self, key: str, expr: Any) -> Any:
        """Return the current of a branch whose voltage is contributed as R I + E: (V - E)/R, counted as its key counts."""
        book, place = self.book, self.book.places[f"set potential {key}"]
        if expr == 0:
            raise refuse(
                place, f"V({label(key)}) <+ 0: a short", "Use one node instead of two, or write a small resistance"
            )
        symbol = next((s for s, known in book.currents.items() if known == key), None)
        found = None if symbol is None else linear_parts(self.unfolded(expr, symbol), {symbol})
        if symbol is None or found is None or found.get(symbol, 0) == 0 or expr.free_symbols & book.charges.keys():
            raise refuse(
                place,
                f"V({label(key)}) <+ that is no resistance times I({label(key)})",
                f"Write the current: I({label(key)}) <+ ...",
            )
        return (book.voltage(key) - found.get(None, ZERO)) / found[symbol]

    def unfolded(self, expr: Any, symbol: Any) -> Any:
        """Return ``expr`` with definitions that depend on ``symbol`` written out."""
        known: dict[Any, Any] = {}
        memo: dict[Any, Any] = {}
        for name, value in self.book.lets:
            if value.free_symbols & {symbol, *known}:
                known[name] = replaced(value, known, memo)
                if known[name].count_ops() > 500:
                    break
        return replaced(expr, known, {})

    def read_currents(self) -> None:
        """Make flows that are read, and matter, definitions of their own."""
        book, waiting, seen = self.book, [*self.totals.values()], set()
        while waiting:
            for symbol in waiting.pop().free_symbols - seen:
                seen.add(symbol)
                if symbol in book.currents:
                    self.definitions[symbol] = self.read_current(book.currents[symbol])
                value = self.definitions.get(symbol, book.charges.get(symbol))
                waiting += [] if value is None else [value]

    def read_current(self, key: str) -> Any:
        """Return what flows through a branch that is read."""
        place = self.book.places[f"read {key}"]
        if key not in self.totals:
            raise refuse(
                place,
                f"I({label(key)}) is read, but nothing is contributed to it",
                f"Contribute to it, or use V({label(key)})",
            )
        if self.totals[key].free_symbols & self.book.charges.keys():
            raise refuse(
                place, f"I({label(key)}) is read and depends on a ddt()", "Put the current without ddt() into a variable and read that"
            )  # fmt: skip
        return self.totals[key]

    def ordered(self) -> tuple[tuple[Symbol, Any], ...]:
        """Return the definitions in an order in which each depends on earlier ones only."""
        if not self.book.currents:
            return tuple(self.book.lets)
        order: dict[Any, Any] = {}
        active: set[Any] = set()
        waiting = list(reversed(self.definitions))
        while waiting:
            symbol = waiting[-1]
            if symbol in order:
                waiting.pop()
                continue
            needed = [
                s for s in _sorted(self.definitions[symbol].free_symbols) if s in self.definitions and s not in order
            ]
            if not needed:
                order[symbol] = self.definitions[symbol]
                active.discard(symbol)
                waiting.pop()
                continue
            active.add(symbol)
            if circle := [s for s in needed if s in active]:
                raise self.circular(circle[0], active)
            waiting += needed
        return tuple(order.items())

    def circular(self, symbol: Any, active: Iterable[Any]) -> Exception:
        """Return the error of a flow that depends on itself."""
        key = next((self.book.currents[s] for s in [symbol, *_sorted(active)] if s in self.book.currents), "")
        return refuse(
            self.book.places[f"read {key}"], f"I({label(key)}) is read and depends on itself",
            "Put the current into a variable first and read that, or give the quantity an internal node",
        )  # fmt: skip

    def split(self, key: str, expr: Any) -> tuple[Any, Any]:
        """Return what flows at rest and the charge."""
        book = self.book
        if not expr.free_symbols & book.charges.keys():
            return expr, ZERO
        place = book.places[f"set flow {key}"]
        found = linear_parts(expr, set(book.charges))
        if found is None:
            raise refuse(place, "ddt() inside a condition or function", "Use ddt() only as a term of a contribution")
        charge = ZERO
        for symbol, factor in found.items():
            if symbol is not None and factor.free_symbols & book.moving:
                raise refuse(
                    place,
                    "ddt() with a factor that depends on voltages",
                    "Write ddt(factor * charge), or split the term",
                )
            charge += ZERO if symbol is None else factor * book.charges[symbol]
        return found.get(None, ZERO), charge


def _sorted(symbols: Iterable[Any]) -> list[Any]:
    return sorted(symbols, key=str)
