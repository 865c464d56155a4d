"""Devices of a folder: the Verilog-A file, its card, and the forms in which circuits use it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

from memprop.device.card import DeviceCard, Parameter, merge, read_card
from memprop.device.equations import Equations
from memprop.device.subcircuit import subcircuit, wrapped
from memprop.device.verilog_a.headers import HEADERS
from memprop.device.verilog_a.module import parse_verilog, source_text
from memprop.errors import InputError
from memprop.files import inside, shipped


@dataclass(frozen=True, slots=True)
class DeviceForm:
    """One way to use a device in a circuit: some parameters fixed, and gone, the others with their own defaults."""

    name: str
    """Name of the subcircuit, e.g. ``mss_memristor_ohmic``."""
    about: str
    fixed: dict[str, float]
    defaults: dict[str, float]


@dataclass(frozen=True, eq=False)
class DeviceModel:
    """A device: equations from ``<name>.va``, presets and forms from ``<name>.toml`` beside it.

    Without a card the device has no presets and one form.
    """

    card: DeviceCard
    equations: Equations
    text: str
    """The Verilog-A source."""
    card_text: str = ""
    """The card as written; empty without one."""

    @property
    def name(self) -> str:
        """Name of the module."""
        return self.equations.name

    @property
    def parameters(self) -> dict[str, Parameter]:
        """Parameters with units, ranges and defaults, as the Verilog-A says."""
        return dict(self.equations.parameters)

    def values(self, preset: str | None = None, **changes: float) -> dict[str, float]:
        """Return all parameter values: defaults, then ``preset``, then ``changes``.

        Raises
        ------
        InputError: an unknown preset or parameter, or a value out of its range.
        """
        if preset is not None and preset not in self.card.presets:
            known = ", ".join(self.card.presets) or "none"
            raise InputError(f"device {self.name} has no preset '{preset}'. Known: {known}.")
        base = {name: parameter.default for name, parameter in self.parameters.items()}
        given = self.card.presets[preset].values if preset else {}
        return merge(self.name, self.parameters, base, {**given, **changes})

    @cached_property
    def forms(self) -> dict[str, DeviceForm]:
        """The full device, the forms of the card, and one form per preset, by subcircuit name."""
        full = self.values()
        made = [DeviceForm(self.name, self.card.description, {}, full)]
        for name, form in self.card.forms.items():
            self.values(None, **form.fixed)
            open_ = {key: value for key, value in full.items() if key not in form.fixed}
            made.append(DeviceForm(f"{self.name}_{name}", form.description, dict(form.fixed), open_))
        for name, preset in self.card.presets.items():
            made.append(self._preset_form(name, preset.source, made[: 1 + len(self.card.forms)]))
        return {form.name.lower(): form for form in made}

    def _preset_form(self, name: str, source: str, forms: list[DeviceForm]) -> DeviceForm:
        """Return the form of a preset: the one with the most fixed parameters that leaves its values as they are."""
        values = self.values(name)
        fits = [form for form in forms if all(values[key] == value for key, value in form.fixed.items())]
        best = max(fits, key=lambda form: len(form.fixed))
        open_ = {key: values[key] for key in best.defaults}
        return DeviceForm(f"{self.name}_{name}", f"preset {name}: {source}", best.fixed, open_)

    @lru_cache(maxsize=64)  # noqa: B019 - models are few and live as long as the process
    def form_equations(self, name: str) -> Equations:
        """Return the equations of a form, by its subcircuit name.

        Raises
        ------
        InputError: there is no such form.
        """
        if name.lower() not in self.forms:
            raise InputError(f"device {self.name} has no form '{name}'. Known: {', '.join(self.forms)}.")
        return self.equations.fix(self.forms[name.lower()].fixed)

    def library(self) -> str:
        """Return ``<name>.lib``: the forms as behavioural subcircuits for ngspice; the same bytes every time."""
        licence = re.search(r"SPDX-License-Identifier:[^\n]*", self.text)
        head = f"* {one_line(licence[0])}\n" if licence else ""
        parts = [_HEADER.format(name=self.name, file=one_line(self.equations.file), licence=head)]
        for name, p in self.parameters.items():
            unit = f" [{p.unit}]" if p.unit else ""
            about = "  " + one_line(f"{name.lower()}{unit}: {p.description or 'no description'}; {p.range_text()}")
            parts += [f"* {piece.removeprefix('+ ')}\n" for piece in wrapped(about)]
        for form in self.forms.values():
            about = "\n* ".join(piece.removeprefix("+ ") for piece in wrapped(one_line(form.about)))
            parts.append("\n" + subcircuit(form.name, self.form_equations(form.name), form.defaults, about))
        return "".join(parts)


def one_line(text: str) -> str:
    """Return free text of a stranger's file for a comment: a line feed in it would begin a line that simulators obey."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def _inlined(text: str, path: Path, depth: int = 0) -> str:
    """Return the text with the files beside it that it includes in their place, so that it stands alone."""

    def replaced(match: re.Match[str]) -> str:
        if match[1].rsplit("/", 1)[-1] in HEADERS:
            return match[0]
        other = inside(path.parent, match[1])
        if depth > 8 or not other.is_file():
            return match[0]
        return _inlined(other.read_text(encoding="utf-8"), other, depth + 1)

    return re.sub(r'`include\s+"([^"\n]+)"', replaced, text)


_HEADER = """\
{licence}* Behavioural subcircuits of the device {name}, for simulators that do not load compiled Verilog-A.
* Made from {file} by `memprop model {file}`: change that file, never this one.
*
* States are voltages of internal nodes. Other inner nodes make it fast: one carries the voltage between two nodes (pn for
* p and n), one each variable of the Verilog-A that is used more than once, less its value at zero voltages.
* k1, k2, ... depend on parameters alone. All in SI units; (temper+273.15) is the temperature in K.
*
* Parameters:
"""


def load_device(name: str | Path, folder: Path | None = None) -> DeviceModel:
    """Return a device: by name from the shipped models or ``folder``, or by the path of a Verilog-A file.

    Raises
    ------
    InputError: no such file, or the card does not fit the model.
    VerilogError: the model is outside of the subset.
    """
    path = Path(name)
    if path.suffix != ".va":
        path = (folder or shipped("models")) / f"{name}.va"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.va"))) or "none"
        raise InputError(f"device model {path} is not there. In that folder: {known}.")
    card = path.with_suffix(".toml")
    try:
        original = source_text(path)
        text = _inlined(original, path)
        card_text = card.read_text(encoding="utf-8") if card.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"device model {path} cannot be read ({error}). Check that it is UTF-8 text.") from error
    return _load(path.absolute(), original, text, card_text)


@lru_cache(maxsize=64)
def _load(path: Path, original: str, text: str, card_text: str) -> DeviceModel:
    """Return the device; its texts are arguments, so that a changed one, also an included one, is read again."""
    equations = parse_verilog(original, path.name, path.parent)
    beside = path.with_suffix(".toml")
    card = read_card(beside, DeviceCard) if card_text else DeviceCard(name=equations.name)
    if card.name != equations.name:
        raise InputError(f"card {beside} is of '{card.name}', the module is '{equations.name}'. Make the names equal.")
    model = DeviceModel(card, equations, text, card_text)
    _ = model.forms
    return model
