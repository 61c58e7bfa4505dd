"""How many CPU threads torch uses for a call."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class CpuThreads:
    """torch's count of CPU threads, set for a call and put back.

    The count is the calling thread's own, but what one thread sets is also what threads begun
    meanwhile start with; so all calls under way put back the count that was there before the first.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls = 0
        self._before = 1

    @contextmanager
    def __call__(self, threads: int | None) -> Iterator[None]:
        if threads is None:
            yield
            return
        with self._lock:
            if self._calls == 0:
                self._before = torch.get_num_threads()
            self._calls += 1
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            with self._lock:
                self._calls -= 1
                torch.set_num_threads(self._before)


cpu_threads = CpuThreads()
