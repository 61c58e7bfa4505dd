"""Each test as in a process of its own: what accelerate found out, it keeps for all that follow."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> Iterator[None]:
    torch.manual_seed(0)
    before = set(os.environ)
    yield
    for name in set(os.environ) - before:
        if name.startswith("ACCELERATE_"):  # where the Trainer writes the precision
            del os.environ[name]
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
