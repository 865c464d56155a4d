"""Results that are kept: one SQLite file, one row per result, no pickle.

A result is a few arrays under a key. A row is there whole or not at all, also after a kill; one that was damaged later is
noticed by its checksum and counts as missing. Several processes may read and write the same file.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from memprop.errors import InputError, OutputError
from memprop.files import ensure_folder

Arrays = Mapping[str, NDArray[Any]]
FILE = "results.sqlite"
"""Name of the file in the folder of a cache."""
_TABLE = "CREATE TABLE IF NOT EXISTS results (key BLOB PRIMARY KEY, seconds REAL NOT NULL, content BLOB NOT NULL)"
_WAIT_S = 60.0
"""How long to wait for another process that writes."""


class Kept(NamedTuple):
    """A kept result."""

    arrays: dict[str, NDArray[Any]]
    """Read only."""
    seconds: float
    """What it took to make, in s."""


class ResultCache:
    """Results by key, in ``folder/results.sqlite``. Fast with tens of thousands of rows: a look-up reads one row.

    Raises
    ------
    OutputError: the folder cannot be made or written.
    InputError: the file there is no cache, or is damaged as a whole.
    """

    def __init__(self, folder: Path) -> None:
        self.path = ensure_folder(folder) / FILE
        try:
            self._base = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None, check_same_thread=False)
            # Writing ahead needs no sync to the disk per result; what a kill of this process leaves is whole.
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            raise _fault(self.path, error) from error

    def get(self, key: bytes) -> Kept | None:
        """Return the result under ``key``, or None where there is none or it is damaged."""
        try:
            row = self._base.execute("SELECT content, seconds FROM results WHERE key = ?", (key,)).fetchone()
        except sqlite3.DatabaseError as error:
            raise _fault(self.path, error) from error
        arrays = unpack(row[0]) if row else None
        return Kept(arrays, float(row[1])) if row and arrays is not None else None

    def put(self, key: bytes, arrays: Arrays, seconds: float) -> None:
        """Keep ``arrays`` under ``key``; what was there is replaced.

        Raises
        ------
        OutputError: the disk is full or the file cannot be written; earlier results stay.
        """
        try:
            self._base.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?)", (key, seconds, pack(arrays)))
        except sqlite3.DatabaseError as error:
            raise _fault(self.path, error) from error

    def put_many(self, rows: Mapping[bytes, Arrays]) -> None:
        """Keep many results in one transaction, without a time."""
        with self._base:
            self._base.execute("BEGIN")
            for key, arrays in rows.items():
                self.put(key, arrays, 0.0)

    def clear(self) -> None:
        """Drop all results; the file keeps its size, for those that come.

        Raises
        ------
        OutputError: the file cannot be written.
        """
        try:
            self._base.execute("DELETE FROM results")
        except sqlite3.DatabaseError as error:
            raise _fault(self.path, error) from error

    def __len__(self) -> int:
        return sum(count for (count,) in self._base.execute("SELECT COUNT(*) FROM results"))

    def close(self) -> None:
        """Close the file."""
        self._base.close()


def _fault(path: Path, error: sqlite3.Error) -> InputError | OutputError:
    if isinstance(error, sqlite3.OperationalError):
        return OutputError(
            f"cannot use the kept results in {path}: {error}. Earlier results are kept; check rights and disk space, or "
            "choose another folder."
        )
    return InputError(f"{path} holds no results of memprop, or is damaged ({error}). Move or delete that file.")


def pack(arrays: Arrays) -> bytes:
    """Return arrays of numbers as bytes: checksum, length of the header, header, values.

    Raises
    ------
    InputError: an array holds something else than numbers.
    """
    plain = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype.kind not in "biufc":
            raise InputError(f"result '{name}' has type {array.dtype}: only arrays of numbers are kept. Convert it.")
    # of the arrays as given: ascontiguousarray makes a number a vector of one
    header = json.dumps([(name, plain[name].dtype.str, np.shape(array)) for name, array in arrays.items()]).encode()
    body = len(header).to_bytes(4, "little") + header + b"".join(array.tobytes() for array in plain.values())
    return zlib.crc32(body).to_bytes(4, "little") + body


def unpack(content: bytes) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of ``content``, as read-only views; None if a byte is missing or wrong."""
    if len(content) < 8 or zlib.crc32(memoryview(content)[4:]) != int.from_bytes(content[:4], "little"):
        return None
    at = 8 + int.from_bytes(content[4:8], "little")
    arrays: dict[str, NDArray[Any]] = {}
    for name, kind, shape in json.loads(content[8:at]):
        count = int(np.prod(shape, dtype=np.int64))
        arrays[name] = np.frombuffer(content, kind, count, at).reshape(shape)
        at += arrays[name].nbytes
    return arrays
