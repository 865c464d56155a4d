"""What a training asks of those who look after the range of its twin."""

from __future__ import annotations

from typing import Any, Protocol

from memprop.twin.network import Twin


class Trust(Protocol):
    """Keeps a twin where it is known to hold: after an epoch outside of its range the twin is fitted anew."""

    name: str
    """Hash of the fit it begins with."""

    def install(self, twin: Twin, refits: int) -> None:
        """Give ``twin`` the fit that it has after so many refits."""
        ...

    def mend(self, twin: Twin, refits: int) -> dict[str, Any] | None:
        """Fit ``twin`` anew if it left its range since it was last asked, and say what was done; None: it did not."""
        ...
