"""Files: the shipped models and circuits, safe names, hashes, and writes that are whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from memprop.errors import InputError, OutputError

_PACKAGE = Path(__file__).resolve().parent


def shipped(kind: str) -> Path:
    """Return the folder of the shipped ``models`` or ``circuits``.

    A wheel carries them inside the package; a checkout keeps them at its top level.
    """
    for folder in (_PACKAGE / "_data" / kind, _PACKAGE.parent / kind):
        if folder.is_dir():
            return folder
    raise InputError(f"shipped folder '{kind}' is not there: the installation is incomplete. Reinstall memprop.")


def cache_folder(kind: str) -> Path:
    """Return the folder of what is made once per machine: in ``$MEMPROP_CACHE``, else in the user's cache folder."""
    given = os.environ.get("MEMPROP_CACHE")
    base = Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "memprop"
    return base / kind


def sha256(content: bytes | str) -> str:
    """Return the SHA-256 of ``content`` in hexadecimal."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def ensure_folder(folder: Path) -> Path:
    """Make ``folder`` and check that files can be written in it.

    Raises
    ------
    OutputError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"memprop")
    except OSError as error:
        raise OutputError(
            f"cannot write in folder {folder}: {error.strerror or error}. Choose another output folder or free some space."
        ) from error
    return folder


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write ``content`` to ``path`` so that a reader finds the old file or the new one, never a part.

    Raises
    ------
    OutputError: the disk is full or the folder read-only; the old file stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise OutputError(
            f"cannot write {path}: {error.strerror or error}. Earlier results are kept; free some space or choose another folder."
        ) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` as indented JSON in key order as given, atomically."""
    write_atomic(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def inside(folder: Path, name: str) -> Path:
    """Return ``folder/name`` when it cannot point outside of ``folder``.

    Raises
    ------
    InputError: ``name`` is absolute, climbs with ``..``, or follows a link out of the folder.
    """
    pure = PurePosixPath(name)
    path = folder / name
    if pure.is_absolute() or ".." in pure.parts or not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"file name '{name}' points outside of {folder}. Use a relative name inside the folder.")
    return path
