"""Differentiable twin of one device under given voltages: sweeps and fits run on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sympy import Expr
from torch import Tensor

from memprop.device.card import Parameter
from memprop.device.equations import TEMPERATURE, TNOM, Equations, free_symbols, parameter_symbol
from memprop.device.library import DeviceModel
from memprop.errors import InputError
from memprop.twin.assemble import Circuit, Instance, assemble
from memprop.twin.general import Solver, compile_system

TEMPERATURE_NAME = "temperature"
"""Name under which `DeviceTwin` takes the temperature in K, for devices that depend on it and have no such parameter."""


class DeviceTrace(NamedTuple):
    """Waveforms of a device."""

    currents: dict[str, Tensor]
    """Current in A from the outside into each port, ``[T + 1, ...]``."""
    nodes: dict[str, Tensor]
    """Voltage in V of every internal node, states among them, ``[T + 1, ...]``."""


SERIES = "series"
"""Parameter of the series resistor, in Ohm."""
SOURCE = "source:"
"""Node before the series resistor; no node of a device can have this name."""


class DeviceTwin:
    """A device with a voltage source on every port, integrated from its operating point.

    Parameters
    ----------
    device: the model.
    form: name of the form to use; default the full model.
    series: whether a resistor (parameter ``series``, in Ohm) stands between the source and the first port, as a compliance
        or a load; `DeviceTrace.nodes` then holds the voltage of that port under the port's name.
    """

    def __init__(self, device: DeviceModel, form: str | None = None, *, series: bool = False) -> None:
        self.device = device
        wanted = (form or device.name).lower()
        if wanted not in device.forms:
            raise InputError(f"device {device.name} has no form '{form}'. Known: {', '.join(device.forms)}.")
        self.form = device.forms[wanted]
        equations = device.form_equations(self.form.name)
        self.ports = equations.ports
        names = dict(self.form.defaults)
        resistors: tuple[Any, ...] = ()
        self.driven = tuple(self.ports)
        if series:
            if SERIES in names:
                raise InputError(
                    f"device {device.name} has a parameter '{SERIES}' of its own, so a series resistor cannot have that name. "
                    "Put the resistor into a cell, or rename the parameter."
                )
            self.driven = (SOURCE, *self.ports[1:])
            names[SERIES] = 1.0
            resistors = ((SOURCE, self.ports[0], 1 / parameter_symbol(SERIES)),)
        parameters = {name: parameter_symbol(name) for name in self.form.defaults}
        if TEMPERATURE_NAME not in names and TEMPERATURE in free_symbols(_expressions(equations)):
            names[TEMPERATURE_NAME] = TNOM
            parameters[TEMPERATURE.name] = parameter_symbol(TEMPERATURE_NAME)
        instance = Instance(device.name, equations, {port: port for port in self.ports}, parameters)
        circuit = Circuit(device.name, self.driven, names, resistors, (), (), (), (), (), (instance,), {})
        self.solver: Solver = compile_system(assemble(circuit, self.driven))
        self.parameters = tuple(names)
        prefix = f"{device.name}.".lower()
        self.names = tuple(name.removeprefix(prefix) for name in self.solver.system.unknowns)
        self.defaults: dict[str, float] = names

    def run(  # noqa: D417 - numpy style, as below
        self,
        time: Tensor,
        voltages: Mapping[str, Tensor],
        parameters: Mapping[str, Tensor | float] | None = None,
        start: Mapping[str, Tensor | float] | None = None,
    ) -> DeviceTrace:
        """Integrate over the points of ``time`` in s, ``[T + 1]``; voltages run straight between them.

        Parameters
        ----------
        time: rising time points.
        voltages: port -> voltage in V, ``[T + 1, ...]``; ports not named are at 0 V. With a series resistor the first port's
            voltage is that of the source.
        parameters: what differs from the form's defaults; numbers or tensors that broadcast against ``[...]``.
        start: internal node -> voltage at the start, for nodes that do not begin at the operating point.

        Every interval is one step of third order; nothing refines it. Give points close enough for the device's fastest rate,
        and halve them to see what they cost.

        All is computed in double precision, since devices in SI units leave the range of single; the trace has the type
        of the voltages.

        Raises
        ------
        InputError: unknown names, wrong shapes, or time that does not rise.
        """
        values = [p.double() if isinstance(p, Tensor) else p for p in self._values(parameters or {})]
        drives, dtype = self._drives(time, voltages)
        batch = torch.broadcast_shapes(
            *(d.shape[1:] for d in drives), *(v.shape for v in values if isinstance(v, Tensor))
        )
        drives = [_spread(drive, batch) for drive in drives]
        points = [[*(d[n] for d in drives), *values] for n in range(len(time))]
        moving = range(len(drives))
        y = self._start(points[0], batch, start or {})
        found = [y]
        for n in range(len(time) - 1):
            if not self.names:  # a device without internal nodes: its current follows the voltage
                found.append(y)
                continue
            y = self.solver.step(y, points[n], points[n + 1], moving, float(time[n + 1] - time[n]))
            found.append(y)
        trace = torch.stack(found)
        currents = {port: current.to(dtype) for port, current in self._currents(trace, drives, values, time).items()}
        return DeviceTrace(currents, dict(zip(self.names, trace.to(dtype).unbind(-1), strict=True)))

    def _values(self, parameters: Mapping[str, Tensor | float]) -> list[Any]:
        unknown = set(parameters) - set(self.parameters)
        if unknown:
            raise InputError(
                f"device {self.device.name} has no parameter '{min(unknown)}' here. Known: {', '.join(self.parameters)}."
            )
        for name, value in parameters.items():
            self._check(name, np.asarray(value.detach() if isinstance(value, Tensor) else value, dtype=np.float64))
        return [parameters.get(name, self.defaults[name]) for name in self.parameters]

    def _check(self, name: str, value: NDArray[np.float64]) -> None:
        """Raise InputError unless a parameter is in its range."""
        where = f"{self.device.name}.{name}"
        if name in self.device.parameters:
            self.device.parameters[name].check(where, value)
        else:
            unit = "Ohm" if name == SERIES else "K"
            Parameter(default=1.0, unit=unit, description="", above=0.0).check(where, value)

    def _drives(self, time: Tensor, voltages: Mapping[str, Tensor]) -> tuple[list[Tensor], torch.dtype]:
        unknown = set(voltages) - set(self.ports)
        if unknown or not voltages:
            raise InputError(
                f"device {self.device.name} has no port '{min(unknown, default='')}'. Ports: {', '.join(self.ports)}."
            )
        if time.ndim != 1 or len(time) < 2 or not bool((time.diff() > 0).all()):
            raise InputError(f"time has shape {tuple(time.shape)}; it must be one row of rising points in s.")
        for name, v in voltages.items():
            if not isinstance(v, Tensor) or not v.is_floating_point() or not bool(torch.isfinite(v).all()):
                raise InputError(
                    f"voltage of port {name} must be a tensor of finite real numbers in V, time first. Correct it."
                )
        wrong = [name for name, v in voltages.items() if v.ndim < 1 or v.shape[0] != len(time)]
        if wrong:
            raise InputError(
                f"voltage of port {wrong[0]} has shape {tuple(voltages[wrong[0]].shape)}; needs [{len(time)}, ...], time first."
            )
        like = next(iter(voltages.values()))
        return [voltages.get(port, torch.zeros(len(time))).double() for port in self.ports], like.dtype

    def _start(self, point: list[Any], batch: Any, start: Mapping[str, Any]) -> Tensor:
        unknown = set(start) - set(self.names)
        if unknown:
            raise InputError(
                f"device {self.device.name} has no internal node '{min(unknown)}'. Known: {', '.join(self.names)}."
            )
        y = torch.zeros(*batch, len(self.names), dtype=torch.float64)
        if not self.names:
            return y
        held = {self.names.index(name): torch.as_tensor(value, dtype=torch.float64) for name, value in start.items()}
        for k, value in held.items():
            y[..., k] = value.detach()
        with torch.no_grad():
            y = self.solver.rest(y, [p.detach() if isinstance(p, Tensor) else p for p in point], list(held))
        if any(isinstance(p, Tensor) and p.requires_grad for p in (*point, *held.values())):
            y = self._attached(y, point, held)
        return y

    def _attached(self, y: Tensor, point: list[Any], held: Mapping[int, Tensor]) -> Tensor:
        """Return the same operating point as a function of parameters and start: one Newton step carries the derivative."""
        matrix = self.solver.jacobian(y, [p.detach() if isinstance(p, Tensor) else p for p in point])
        columns = [held[k].expand(y.shape[:-1]) if k in held else y[..., k] for k in range(len(self.names))]
        y = torch.stack(columns, -1)
        force = self.solver.residual(y, point)
        if held:
            free = torch.tensor([0.0 if k in held else 1.0 for k in range(len(self.names))], dtype=y.dtype)
            matrix = matrix * free[:, None] + torch.diag(1.0 - free)
            force = force * free
        return y - torch.linalg.solve(matrix, force[..., None])[..., 0]

    def _currents(self, trace: Tensor, drives: list[Tensor], values: list[Any], time: Tensor) -> dict[str, Tensor]:
        """Return the port currents; what charges carry is the slope between neighbouring points."""
        inputs = [*drives, *values]

        def slope(x: Tensor) -> Tensor:
            return torch.gradient(x, spacing=(time.to(x.dtype),), dim=0)[0]

        currents = self.solver.port_currents(trace, slope(trace), [slope(d) for d in drives], inputs)
        return dict(zip(self.ports, currents, strict=True))


def _spread(drive: Tensor, batch: Any) -> Tensor:
    """Return a drive ``[T + 1, ...]`` with its values for every member of the batch."""
    if drive.ndim == len(batch) + 1:
        return drive.expand(drive.shape[0], *batch)
    return drive.reshape(-1, *[1] * len(batch)).expand(-1, *batch)


def _expressions(equations: Equations) -> list[Expr]:
    return [expr for _, expr in equations.lets] + [part for flow in equations.flows.values() for part in flow]
