"""Memory between tensors that stay is given back."""

import sys
from pathlib import Path

import pytest
import torch

from offramp.nn.prepared import _Freed, keep_memory


def resident_mib() -> float:
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * 4096 / 2**20


@pytest.mark.skipif(_Freed()._trim is None, reason="the C library is not glibc")
def test_gaps_are_given_back() -> None:
    keep_memory()
    freed = _Freed()
    tensors = [torch.ones(2**18) for _ in range(200)]  # a MiB each
    full = resident_mib()
    tensors = tensors[::2]
    freed.passed(_Freed.EVERY - 1)
    before = resident_mib()
    freed.passed(1)
    assert before > full - 20, "the system had it back already, or this shows nothing"
    assert resident_mib() < full - 80
    assert len(tensors) == 100


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    _Freed().passed(10**9)
