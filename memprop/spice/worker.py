"""Helper process of the engine ``ngspice-shared``: libngspice through PySpice's binding. Run as a script, by path.

Reads requests from stdin and answers on stdout, each a line of JSON; an answer is followed by the bytes of its columns.
It imports nothing of memprop, so that it starts quickly.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from typing import Any

import numpy as np


def _simulate(ngspice: Any, netlist: str) -> tuple[list[str], np.ndarray, str]:
    """Run one netlist; return names, columns ``[points, names]`` and the log."""
    with contextlib.suppress(Exception):  # there is nothing to remove before the first run
        ngspice.remove_circuit()
    ngspice.destroy()
    ngspice.said.clear()
    problem = ""
    try:
        ngspice.load_circuit(netlist)
        ngspice.run()
    except (
        Exception
    ) as error:  # PySpice raises NameError and others, also where ngspice only warned; the log tells the kind
        problem = _problem(error)
    return _result(ngspice, problem)


def _again(ngspice: Any, commands: list[str]) -> tuple[list[str], np.ndarray, str]:
    """Let the loaded netlist do ``commands``, the last of which is an analysis; return as `_simulate`, nothing if one fails."""
    ngspice.destroy()
    ngspice.said.clear()
    try:
        for command in commands:
            ngspice.exec_command(command)
    except Exception as error:  # the engine runs the deck from the beginning then
        return [], np.empty((0, 0)), _problem(error)
    return _result(ngspice, "")


def _problem(error: Exception) -> str:
    return f"\nPySpice: {type(error).__name__}: {error}"


def _result(ngspice: Any, problem: str) -> tuple[list[str], np.ndarray, str]:
    log = "\n".join(ngspice.said) + problem
    if ngspice.last_plot in ("const", ""):
        return [], np.empty((0, 0)), log
    plot = ngspice.plot(simulation=None, plot_name=ngspice.last_plot)
    names = list(plot)
    return names, np.stack([np.asarray(plot[name]._data, dtype=float) for name in names], axis=1), log


def main() -> None:
    """Serve requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints must not get between the answers
    logging.disable(logging.CRITICAL)
    from PySpice.Spice.NgSpice.Shared import NgSpiceShared  # noqa: PLC0415 - after the streams are in order

    class Listening(NgSpiceShared):
        """Keeps what the library says; PySpice forgets it at every command."""

        said: list[str] = []  # noqa: RUF012 - one instance per process

        def send_char(self, message: str, ngspice_id: int) -> Any:  # noqa: ARG002
            self.said.append(message.removeprefix("stderr ").removeprefix("stdout "))
            return 0

    ngspice = Listening(send_data=False)
    answers.write(json.dumps({"version": ngspice.ngspice_version}).encode() + b"\n")
    answers.flush()
    for line in sys.stdin:
        answers.write(b"received\n")  # who dies before this line was dead when the request came
        answers.flush()
        request = json.loads(line)
        names, values, log = (
            _simulate(ngspice, request["netlist"]) if "netlist" in request else _again(ngspice, request["commands"])
        )
        head = {"names": names, "shape": values.shape, "log": log, "version": ngspice.ngspice_version}
        answers.write(json.dumps(head).encode() + b"\n" + values.tobytes())
        answers.flush()


if __name__ == "__main__":
    main()
