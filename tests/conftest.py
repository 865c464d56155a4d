"""Shared by all tests: one thread per process, since two processes share two cores; own cache of data is left alone."""

from __future__ import annotations

import os
import shutil

import pytest
import torch

torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start


def pytest_sessionstart(session: pytest.Session) -> None:
    """Fail at once without the simulator: skipped physics would look green."""
    if shutil.which("ngspice") is None:
        pytest.exit("ngspice is not installed, and the tests need the real one: make setup", returncode=3)
