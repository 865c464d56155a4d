"""Cards: what a device or a cell declares about itself in TOML, checked when read."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from memprop.errors import InputError

Card = TypeVar("Card", bound=BaseModel)


class Strict(BaseModel):
    """Base of all cards: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Parameter(Strict):
    """One parameter of a device or cell: default, unit, range and meaning."""

    default: float
    unit: str
    description: str
    above: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    below: float | None = None
    excluded: tuple[float, ...] = ()

    def check(self, name: str, value: float | NDArray[np.float64]) -> None:
        """Raise InputError unless every element of ``value`` is finite and in range."""
        array = np.asarray(value, dtype=np.float64)
        wrong = ~np.isfinite(array)
        if self.above is not None:
            wrong |= ~(array > self.above)
        if self.at_least is not None:
            wrong |= ~(array >= self.at_least)
        if self.at_most is not None:
            wrong |= ~(array <= self.at_most)
        if self.below is not None:
            wrong |= ~(array < self.below)
        if self.excluded:
            wrong |= np.isin(array, self.excluded)
        if wrong.any():
            bad = float(np.atleast_1d(array)[np.atleast_1d(wrong)][0])
            raise InputError(f"parameter {name} = {bad!r} {self.unit} is not {self.range_text()}. Correct the value.")

    def range_text(self) -> str:
        """Return the range in words."""
        parts = ["finite"]
        parts += [f"above {self.above!r}"] if self.above is not None else []
        parts += [f"at least {self.at_least!r}"] if self.at_least is not None else []
        parts += [f"at most {self.at_most!r}"] if self.at_most is not None else []
        parts += [f"below {self.below!r}"] if self.below is not None else []
        parts += [f"not {value!r}" for value in self.excluded]
        return ", ".join(parts) + (f" {self.unit}" if self.unit and len(parts) > 1 else "")


class Preset(Strict):
    """Named parameter values and the paper they come from."""

    source: str
    values: dict[str, float]


class Form(Strict):
    """A form of a device with some parameters fixed, so that what they switch off costs nothing."""

    description: str
    fixed: dict[str, float]


class DeviceCard(Strict):
    """Card of a device model: what its Verilog-A file cannot say."""

    name: str
    description: str = ""
    sources: tuple[str, ...] = ()
    presets: dict[str, Preset] = Field(default_factory=dict)
    forms: dict[str, Form] = Field(default_factory=dict)


def merge(
    owner: str, parameters: Mapping[str, Parameter], base: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return ``base`` with ``changes``; raise InputError for an unknown name or a value out of range."""
    for name, value in changes.items():
        if name not in parameters:
            raise InputError(f"{owner} has no parameter '{name}'. Known: {', '.join(parameters)}.")
        parameters[name].check(f"{owner}.{name}", value)
    return {**base, **changes}


def read_card(path: Path, kind: type[Card]) -> Card:
    """Read a TOML card.

    Raises
    ------
    InputError: the file is missing, is no TOML, or does not fit the card; the message names file and field.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"card {path} is not there. Known names are the folders beside it.") from error
    except OSError as error:
        raise InputError(f"card {path} cannot be read: {error.strerror}. Check the path and its rights.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"card {path} is no valid TOML: {error}. Correct the file.") from error
    try:
        card = kind.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"card {path}: field {where}: {first['msg']}. Correct the card.") from error
    for name, parameter in getattr(card, "parameters", {}).items():
        parameter.check(f"{path.name}:{name}", parameter.default)
    return card
