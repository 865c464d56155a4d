"""Every error memprop raises on purpose: what happened, where, the value with its unit, and the remedy."""

from __future__ import annotations

from pathlib import Path


class MempropError(Exception):
    """Base of all errors raised by memprop on purpose."""


def positive(*numbers: float) -> bool:
    """Return whether all numbers are above 0 and finite; NaN is not."""
    return all(0.0 < number < float("inf") for number in numbers)


class InputError(MempropError, ValueError):
    """An argument or a file holds something that cannot be used."""


class VerilogError(InputError):
    """A Verilog-A file is wrong, or outside of the subset that can be rewritten: file, line, column, and what to write."""


class DataError(MempropError):
    """A data set is not reachable or its bytes are not the published ones."""


class CheckpointError(MempropError):
    """A checkpoint is corrupt, or belongs to another training."""


class TrainingError(MempropError):
    """A training diverged."""


class OutputError(MempropError, OSError):
    """A result cannot be written: the folder is read-only, full or not a folder."""


class BundleError(MempropError):
    """A netlist bundle is incomplete, edited, or asks for something outside its folder."""


class EngineError(MempropError):
    """A simulator is unknown, missing, or too old."""


class RangeWarning(UserWarning):
    """A twin is asked to work outside of the range in which it was fitted."""


class SimulationError(MempropError):
    """A simulation gave no trustworthy result.

    Attributes
    ----------
    deck: title of the deck that was run.
    folder: folder kept for inspection (deck, log, raw file), or None.
    reason: one sentence on what went wrong.
    """

    remedy = "Look at the log in the kept folder."

    def __init__(self, deck: str, reason: str, folder: Path | None = None, remedy: str | None = None) -> None:
        self.deck = deck
        self.reason = reason
        self.folder = folder
        self.advice = remedy or self.remedy
        kept = f" Kept folder: {folder}." if folder else ""
        super().__init__(f"deck '{deck}': {reason} {self.advice}{kept}")

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        """Survive the way back from a worker process."""
        return type(self), (self.deck, self.reason, self.folder, self.advice)


class ConvergenceError(SimulationError):
    """The operating point or a time step did not converge."""

    remedy = "Lower the largest time step, check the parameter values, or relax reltol."


class DeckError(SimulationError):
    """The simulator refused the deck."""

    remedy = "Look at the line that the log names."


class SimulationTimeout(SimulationError):  # noqa: N818 - the field says timeout
    """The simulator did not end in the time allowed."""

    remedy = "Raise timeout_s, use the reduced netlist form, or a larger time step."


class SimulatorKilled(SimulationError):  # noqa: N818 - an event, not a fault of the deck
    """The simulator ended by a signal, or with a non-zero status and no explanation."""

    remedy = "Check the memory left on the machine, then run again: finished results are kept."


class NoOutput(SimulationError):  # noqa: N818 - names what is missing
    """The simulator ended as if all were well, and wrote no data."""

    remedy = "Look at the log in the kept folder: ngspice exits with 0 even when it did nothing."


class RawFileError(SimulationError):
    """A raw file is cut short or is no raw file."""

    remedy = "Check the disk space, then run again."


class StoppedEarly(SimulationError):  # noqa: N818 - names what happened
    """The last time point is before the stop time that was asked."""

    remedy = "Look at the log for the time step that failed."


class MissingNode(SimulationError):  # noqa: N818 - names what is missing
    """A node or branch that was asked for is not in the output."""

    remedy = "Check the spelling against the node names of the deck."


class ReductionError(SimulationError):
    """The simulation was good; the function that reduces its recording failed."""

    remedy = "Look at that function: it gets a Recording and returns a dictionary of arrays."


class NotFinite(SimulationError):  # noqa: N818 - names what was found
    """The output holds NaN or infinite values."""

    remedy = "Check the parameter values for zero resistances or thresholds of zero width."
