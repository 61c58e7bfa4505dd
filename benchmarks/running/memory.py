"""Memory while a million rows pass the runner as a stream."""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

import offramp
from offramp.text.tokenizer import Encoded
from running.setting import Setting

MOST_MIB = 2048
FLAT = 1.05  # the highest of the last nine tenths, of the highest of the first
EVERY = 0.02  # seconds from one sample to the next


def memory(setting: Setting) -> None:
    """The resident memory of a process of its own, which holds offramp and no other engine.

    A window is some 2,500 rows: below 100,000 the first tenth is still warming up.
    """
    count = setting.options.stream_rows
    setting.report.begin("memory", f"{count} rows streamed")
    rows = setting.rows
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        threads = torch.get_num_threads()  # which the other process does not know
        done = process.submit(_stream, setting.directories[0], rows, count, threads)
        tenths, seconds = done.result()
    print("    (most MiB in each tenth: " + ", ".join(f"{mib:.0f}" for mib in tenths) + ")")
    print(f"    ({count / seconds:.0f} rows a second)")
    setting.report.figure("most MiB", max(tenths), most=MOST_MIB, digits=0)
    setting.report.figure(
        "highest after the first tenth, of its highest", max(tenths[1:]) / tenths[0], most=FLAT
    )


def _stream(
    directory: Path, rows: list[Encoded], count: int, threads: int
) -> tuple[list[float], float]:
    """The most MiB in each tenth of the rows, and the seconds that all took."""
    torch.set_num_threads(threads)
    runner = offramp.Runner(offramp.load(directory, task="classify").model)
    tenths = [0.0] * 10
    given = 0
    ended = threading.Event()

    def watch() -> None:  # beside the runner, so that what a window needs meanwhile is seen
        while not ended.wait(EVERY):
            tenth = min(9, given * 10 // count)
            tenths[tenth] = max(tenths[tenth], _resident_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    for _ in runner.stream(_endless(rows, count)):
        given += 1
    seconds = time.perf_counter() - began
    ended.set()
    watcher.join()
    return [mib for mib in tenths if mib], seconds


def _endless(rows: list[Encoded], count: int) -> Iterator[Encoded]:
    """`count` rows, each made anew, in an order that never repeats."""
    picker = random.Random(0)
    for _ in range(count):
        row = picker.choice(rows)
        yield Encoded(row.ids.copy(), row.types.copy())


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
