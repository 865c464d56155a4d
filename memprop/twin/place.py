"""Where torch computes."""

from __future__ import annotations

import torch

from memprop.errors import InputError

PLACES = ("cpu", "cuda")


def torch_device(name: str) -> torch.device:
    """Return the device of this name.

    Raises
    ------
    InputError: torch does not know it, or lacks it.
    """
    if name.split(":", maxsplit=1)[0] not in PLACES:
        raise InputError(f"device '{name}' is unknown. Give {' or '.join(PLACES)}.")
    try:
        return torch.zeros(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # torch has both for what it lacks
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device '{name}' is not to be had: {reason}. Give cpu, or cuda where torch has it."
        ) from error
