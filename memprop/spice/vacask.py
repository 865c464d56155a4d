"""Engine ``vacask``: the program in batch mode, one process and one folder per deck or batch, devices compiled from Verilog-A."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from memprop.deck.changes import Change
from memprop.deck.deck import Deck
from memprop.deck.vacask import Translated, vacask_deck
from memprop.errors import (
    ConvergenceError,
    DeckError,
    InputError,
    MissingNode,
    NoOutput,
    SimulationError,
    SimulatorKilled,
)
from memprop.files import sha256, write_atomic
from memprop.spice.batch import Step, Written, run_alone, run_batch
from memprop.spice.find import find_vacask
from memprop.spice.log import asked, tail
from memprop.spice.osdi import compile_verilog
from memprop.spice.process import Finished, Running
from memprop.spice.recording import Recording

_FAILURES: Sequence[tuple[type[SimulationError], str]] = (
    (MissingNode, r"^(?:node|instance) '.*' not found|failed to bind analysis outputs"),
    (ConvergenceError, r"timestep too small|factorization failed|homotopy failed|not finite|nan found|failed to converge"
                       r"|operating point analysis failed|iteration limit"),
    (DeckError, r"syntax error|not found|unexpected|incompatib|undefined|unknown|out of (?:range|bounds)|must be|needs at least"),
)  # fmt: skip
_ABORTED = re.compile(r"^analysis '.*' aborted", re.IGNORECASE | re.MULTILINE)
_BANNER = re.compile(r"\A.*?OpenBLAS CPUs:[^\n]*\n", re.DOTALL)
"""What the program says before it does anything."""


@dataclass(frozen=True, slots=True)
class VacaskEngine:
    """VACASK as a program. Reads no configuration file of the user, so that a deck means the same everywhere."""

    program: Path = field(default_factory=find_vacask)
    running: Running = field(default_factory=Running, compare=False, repr=False)
    """The processes that run now."""

    @property
    def name(self) -> str:
        """Name and the beginning of the hash of the program: it does not tell its version."""
        return f"vacask-{_fingerprint(self.program)}"

    def run(self, deck: Deck, timeout_s: float = 600.0) -> Recording:
        """Simulate ``deck``; the folder is kept, and named, only on failure.

        Raises
        ------
        SimulationError: one of its kinds, see `memprop.errors`; a DeckError also where the deck cannot be said to VACASK.
        """
        return run_alone(self, deck, timeout_s)

    def run_batch(self, decks: Iterable[Deck], timeout_s: float = 600.0) -> Iterator[Recording | SimulationError]:
        """Simulate decks one after the other, see `memprop.spice.engine.Engine`."""
        return run_batch(self, decks, timeout_s)

    def can_change(self, change: Change) -> bool:  # noqa: ARG002 - one signature for all
        """Return whether ``alter`` makes this change: all of them."""
        return True

    def write(self, steps: Sequence[Step], folder: Path) -> Written:
        """Write the deck, and for a batch what to change before each further run.

        Raises
        ------
        DeckError: the deck cannot be translated, which must stop none of the others; or its Verilog-A does not compile.
        """
        deck = steps[0].deck
        try:
            translated = write_vacask(deck, folder, [step.changes for step in steps[1:]])
        except InputError as error:
            raise DeckError(deck.title, str(error), folder, "The deck was not translated for VACASK.") from error
        command = [str(self.program), "-qp", "-sp", "-n", "1", "--tomlfile", "none.toml", "deck.sim"]
        names = {asked: name.lower() for asked, name in translated.names.items()}
        return Written(command, [f"tran{k + 1}.raw" for k in range(len(steps))], names)

    def check(self, deck: Deck, folder: Path, raw: Path, done: Finished) -> None:
        """Refuse an aborted run and one without data, and say why.

        Raises
        ------
        SimulationError: one of its kinds, see `memprop.errors`.
        """
        missing = not raw.is_file() or not raw.stat().st_size
        if not (done.status or missing or _ABORTED.search(done.log)):
            return
        failure = failure_in(done.log)
        if failure:
            place = _place(done.log) if failure[0] is DeckError else ""
            raise failure[0](
                deck.title, f"VACASK says: {failure[1].rstrip('.')}{place}{asked(deck, failure[0])}", folder
            )
        if done.status:
            raise SimulatorKilled(deck.title, f"VACASK ended with status {done.status}: {tail(done.log)}.", folder)
        raise NoOutput(deck.title, f"VACASK ended with status 0 and wrote no data: {tail(done.log)}.", folder)

    def abort(self) -> None:
        """Kill the simulations that run now."""
        self.running.abort()

    def close(self) -> None:
        """End what still runs; every deck has its own process."""
        self.abort()


def write_vacask(deck: Deck, folder: Path, further: Sequence[Sequence[Change]] = ()) -> Translated:
    """Write ``deck`` as ``deck.sim`` with its compiled devices into ``folder``; ``further`` are the changes before each further run.

    Raises
    ------
    DeckError: a Verilog-A text does not compile.
    InputError: the deck cannot be translated.
    """
    files = {model.module: f"{model.module.lower()}.osdi" for model in deck.verilog}
    translated = vacask_deck(deck, files, further)
    for model in deck.verilog:
        write_atomic(folder / files[model.module], compile_verilog(model.text, model.module).read_bytes())
    write_atomic(folder / "none.toml", "")
    write_atomic(folder / "deck.sim", translated.text)
    return translated


_FINGERPRINTS: dict[Path, str] = {}


def _fingerprint(program: Path) -> str:
    if program not in _FINGERPRINTS:
        _FINGERPRINTS[program] = sha256(program.read_bytes())[:8]
    return _FINGERPRINTS[program]


def failure_in(log: str) -> tuple[type[SimulationError], str] | None:
    """Return the kind of failure and the line that shows it, or None when the log holds none.

    What is not known, but shown with a mark at its place in the deck, is a fault of the deck.
    """
    lines = [line for line in _BANNER.sub("", log).splitlines() if line.strip()]
    for kind, pattern in _FAILURES:
        for line in lines:
            if re.search(pattern, line, re.IGNORECASE):
                return kind, line.strip()
    return (DeckError, lines[0].strip()) if any(line.strip() == "^" for line in lines) else None


def _place(log: str) -> str:
    """Return the line of the deck that the program shows below a complaint."""
    match = re.search(r"^  (\S.*)\n\s*\^", log, re.MULTILINE)
    return f", in '{match[1].strip()[:100]}'" if match else ""
