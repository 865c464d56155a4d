"""A splitting at work: the parameters of a population at one step size, and the loop over time in torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from memprop.device.equations import GROUND
from memprop.device.torch_function import compile_torch
from memprop.twin.exponential import phi1, phi2
from memprop.twin.injection import injected
from memprop.twin.splitting import TINY, Expr, Group, Splitting


class Prepared:
    """A splitting with the parameters of a population, at one step size."""

    def __init__(
        self, plan: Splitting, parameters: Mapping[str, Tensor], supplies: Mapping[str, float], dt: float, like: Tensor
    ) -> None:
        self.plan, self.dt = plan, dt
        zero = like.new_zeros(())
        rails = [like.new_tensor(supplies[node]) for node in plan.fixed]
        values = {name: parameters[name] for name in plan.circuit.defaults}
        nodes = dict(zip(plan.fixed, rails, strict=True)) | {plan.membrane: zero, GROUND: zero}
        self.groups = [PreparedGroup(group, values, nodes, dt) for group in plan.groups]
        capacitance, *parts = (_tensor(part, zero) for part in plan.passive(*rails, *values.values()))
        conductance, self.source = (part + sum(g.still[k] for g in self.groups) for k, part in enumerate(parts))
        self.pace = -dt / capacitance
        self.base = torch.stack([conductance, torch.zeros_like(conductance)]).reshape(2, 1, -1)
        # A conductance that stays positive lets the membrane follow its equilibrium, also where that moves fast.
        self.following = all(group.grows for group in self.groups) and bool((conductance > 0).all())

    def run(self, current: Tensor, v: Tensor, states: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return the membrane at the time points and the states at the end, both from ``v`` and ``states`` at the start.

        ``current`` is ``[T + 1, B, N]`` in A; the slopes of current and states inside a step count: where the membrane is
        faster than the step it must end where current and states of the end put it, not those of the middle.
        """
        dt, membrane = self.dt, [v]
        drives = (current + self.source).unbind(0)
        for n in range(len(drives) - 1):
            v, states = self.step(v, states, drives[n], drives[n + 1], dt if n else 0.5 * dt)
            membrane.append(v)
        return membrane, [group.advance(v, x, 0.5 * dt)[0] for group, x in zip(self.groups, states, strict=True)]

    def follow(
        self, current: Tensor, membrane: Tensor, v: Tensor, start: list[Tensor], seen: Sequence[Tensor] | None
    ) -> list[Tensor]:
        """Return a measured ``membrane`` ``[T + 1, B, N]`` in V as a function of ``current``: its values, and this twin's slopes there.

        ``v`` is its first point with the slopes of the start. ``seen`` are states measured in the middle of each step, per group
        ``[T, S, D, B, N]``; without them they are computed from ``start`` along the measured membrane.
        """
        drives, states, found = (current + self.source).unbind(0), start, [v]
        for n in range(len(drives) - 1):
            middle = None if seen is None else [block[n] for block in seen]
            v, states = self.step(v, states, drives[n], drives[n + 1], self.dt if n else 0.5 * self.dt, middle)
            v = injected(membrane[n + 1], v)
            found.append(v)
        return found

    def step(
        self,
        v: Tensor,
        states: list[Tensor],
        before: Tensor,
        after: Tensor,
        step: float,
        seen: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor]]:
        """Return membrane and states after a time step; the states move by ``step`` s, and stay half a time step behind.

        ``before`` and ``after`` are currents in A with the passive source, ``[B, N]``, at the ends of the time step. States
        that were ``seen`` take the place of the computed ones.
        """
        mid, move, moved = self.base, None, []
        for k, (group, x) in enumerate(zip(self.groups, states, strict=True)):
            x, speed = group.advance(v, x, step)  # noqa: PLW2901
            x = x if seen is None else injected(seen[k], x)  # noqa: PLW2901
            mid, move = group.conduction(v, x, speed, mid, move)
            moved.append(x)
        return self._membrane(v, before, after, mid, move), moved

    def _membrane(self, v: Tensor, before: Tensor, after: Tensor, mid: Tensor, move: Tensor | None) -> Tensor:
        """Return the membrane after a step: conductance and source at mid-step, and how far they move from there to the end."""
        early, late = (mid, mid) if move is None else (mid - move, mid + move)
        z = mid[0] * self.pace
        if not self.following:
            first, last = ((early[0] * v - before - early[1]) * self.pace, (late[0] * v - after - late[1]) * self.pace)
            return v + phi1(z) * first + phi2(z) * (last - first)
        first, last = (before + early[1]) / early[0], (after + late[1]) / late[0]
        decay, change = torch.expm1(z), last - first
        return torch.addcmul(v + torch.addcmul(change, change, decay / z, value=-1), decay, v - first)


class PreparedGroup:
    """The devices of a group with their parameters."""

    def __init__(self, group: Group, values: Mapping[str, Tensor], nodes: Mapping[str, Tensor], dt: float) -> None:
        self.group, self.dt = group, dt
        one = group.instances[0]
        columns = [[nodes[instance.nodes[port]] for instance in group.instances] for port in one.nodes]
        columns += [
            [_tensor(expression_value(i.parameters[name], values), nodes[GROUND]) for i in group.instances]
            for name in one.equations.parameters
        ]
        still = [_stacked(column) for column in columns]
        self.relax, self.conduct = group.relax.prepare(*still), group.conduct.prepare(*still)
        self.still: Sequence[Any] = (0.0, 0.0)
        self.grows = group.affine
        zero = nodes[GROUND].expand(len(group.instances), 1, 1)
        if group.affine:
            parts = [part + zero for part in group.conduct.step(*[zero] * (1 + len(group.states)), *self.conduct)]
            self.still = parts[0].sum(0), parts[1].sum(0)
            if not group.states:
                return
            self.slopes = (
                torch.stack(torch.broadcast_tensors(zero, *parts[2:])[1:]).unflatten(0, (-1, 2)).transpose(0, 1)
            )
            # [2, S, D, 1, N or 1], of conductance and source by each state
            self.moves = self.slopes * (0.5 * dt)
            self.grows = group.positive and bool((self.slopes[0] >= 0).all())

    def advance(self, v: Tensor, x: Tensor, step: float) -> tuple[Tensor, Tensor]:
        """Return the states ``[S, D, B, N]`` after ``step`` s at fixed membrane, and their speed in 1/s there."""
        if not self.group.states:
            return x, x
        start, slope = self._speeds(v, x)
        if self.group.decaying:
            speed = torch.addcmul(start, slope, x, value=-1)
            decay = torch.expm1(slope * -step)
            return torch.addcmul(x, speed, decay / (slope + TINY), value=-1), torch.addcmul(speed, speed, decay)
        speed = start - slope * x if self.group.linear else start
        z = slope * (-step if self.group.linear else step)
        x = x + step * phi1(z) * speed
        return x, speed * torch.exp(z) if self.group.linear else self._speeds(v, x)[0]

    def _speeds(self, v: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return both parts of `Group.relax`, each one value per state, ``[S, D, B, N]``."""
        parts = self.group.relax.step(v, *x.unbind(0), *self.relax)
        return _joined(parts[0::2], x), _joined(parts[1::2], x)

    def conduction(
        self, v: Tensor, x: Tensor, speed: Tensor, mid: Tensor, move: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Add conductance in S and source in A at mid-step ``[2, B, N]``, and how far both move from there to the end."""
        if self.group.affine:
            if not self.group.states:
                return mid, move
            own, shift = _weighted(self.slopes, x), _weighted(self.moves, speed)
        else:
            half, shape = speed * (0.5 * self.dt), (len(self.group.instances), *v.shape)
            ends = [self.group.conduct.step(v, *y.unbind(0), *self.conduct) for y in (x - half, x + half)]
            early, late = (torch.stack([_tensor(part, v).expand(shape).sum(0) for part in end]) for end in ends)
            own, shift = 0.5 * (early + late), 0.5 * (late - early)
        return mid + own, shift if move is None else move + shift


def _weighted(weights: Tensor, x: Tensor) -> Tensor:
    """Return the sums over states and devices, ``[2, B, N]``."""
    if weights.shape[-1] > 1:
        return (weights * x).sum((1, 2))
    return (weights.reshape(2, -1) @ x.flatten(2).flatten(0, 1)).unflatten(1, x.shape[2:])


def _joined(parts: Sequence[Any], like: Tensor) -> Tensor:
    """Return one value per state as ``[S, D, B, N]``."""
    if len(parts) == 1 and isinstance(parts[0], Tensor):
        return parts[0][None]
    return torch.stack([_tensor(part, like).expand(like.shape[1:]) for part in parts])


def expression_value(expr: Expr, values: Mapping[str, Tensor]) -> Any:
    """Return an expression of a cell's parameters: a tensor, or a number where it depends on none."""
    if expr.is_Symbol:
        return values[expr.name]
    symbols = sorted(expr.free_symbols, key=str)
    return compile_torch(symbols, [expr])(*(values[s.name] for s in symbols))[0]


def _tensor(value: Any, like: Tensor) -> Tensor:
    """Return a tensor as it is, and a number as one of the precision and device of ``like``."""
    return value if isinstance(value, Tensor) else like.new_tensor(value)


def _stacked(column: Sequence[Tensor]) -> Tensor:
    """Return one tensor ``[D, 1, 1]`` or ``[D, 1, N]``; ``[1, 1, ...]`` where all devices share it."""
    if all(value is column[0] for value in column):
        return column[0].reshape(1, 1, -1)
    return torch.stack(torch.broadcast_tensors(*column)).reshape(len(column), 1, -1)
