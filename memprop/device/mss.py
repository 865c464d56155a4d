"""Metastable-switch memristor in torch; the same equations as ``models/mss_memristor.va``.

Molter and Nugent, arXiv:1608.04659. The ohmic part only (phi = 1); the MIF neuron needs no more.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class MSSParameters:
    """Parameters of the ohmic metastable switch; each a tensor that broadcasts over the devices."""

    ron: Tensor
    """Resistance with all switches on, in Ohm."""
    roff: Tensor
    """Resistance with all switches off, in Ohm."""
    von: Tensor
    """Threshold to switch on, in V."""
    voff: Tensor
    """Threshold to switch off counted as -v, in V; negative for a volatile switch."""
    vt: Tensor
    """Width of both thresholds, in V."""
    tau: Tensor
    """Time constant, in s."""


def switching(u: Tensor, p: MSSParameters) -> tuple[Tensor, Tensor]:
    """Return (rate in 1/s, equilibrium state) at device voltage ``u`` in V.

    At fixed voltage the state relaxes linearly, ``dx/dt = rate (equilibrium - x)``; that makes the exact step possible.
    """
    on = torch.sigmoid((u - p.von) / p.vt)
    total = on + torch.sigmoid(-(u + p.voff) / p.vt)
    return total / p.tau, on / total


def conductance(x: Tensor, p: MSSParameters) -> Tensor:
    """Return the conductance in S at state ``x``."""
    off = 1.0 / p.roff
    return off + x * (1.0 / p.ron - off)
