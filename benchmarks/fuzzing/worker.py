"""A worker: reads mutants in a process of its own, and checks all that a reader may do wrong.

    python -m fuzzing.worker SCRATCH CORPUS SEED [READER]

`START STOP` comes in by the line, and a `state.Block` goes out. The file SCRATCH/now tells which
mutant it is at, and since when, for the case that it dies.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import resource
import shutil
import signal
import struct
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

from fuzzing.mutants import OUTWARD, Fuzzer, Mutant, target_of
from fuzzing.readers import Reader, read_checkpoint, reader_of
from fuzzing.state import Block
from offramp.errors import CHECKPOINT_FAULTS, CheckpointError, ConfigError

MOST_SECONDS = 2.0
MOST_MEMORY = 64 << 20
"""Bytes beside the file's own."""
NOW = struct.Struct("<qd")
"""The mutant (-1: none), and since when."""
BROKEN = 70
"""The exit status when the fuzzer itself is at fault."""

Failure = tuple[str, str]
"""Its sort, and all that is known of it."""


def main(scratch: Path, corpus: Path, seed: int, reader: Path | None = None) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is asked, and ends its workers
    faulthandler.enable()
    warnings.simplefilter("error")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a reader prints is no answer
    try:
        checker = Checker(Fuzzer(corpus, seed), scratch, reader_of(reader))
        for line in sys.stdin:
            answers.write(json.dumps(checker.do(*map(int, line.split()))) + "\n")
            answers.flush()
    except BrokenPipeError:
        pass  # the parent is gone
    except BaseException:
        traceback.print_exc()
        os._exit(BROKEN)
    shutil.rmtree(scratch, ignore_errors=True)


class Checker:
    """Reads mutants one after the other, each in the place of the one before."""

    def __init__(self, fuzzer: Fuzzer, scratch: Path, read: Reader) -> None:
        self.fuzzer = fuzzer
        self.read = read
        self.paths = fuzzer.lay_out(scratch / "files")
        self.now = os.open(scratch / "now", os.O_WRONLY)
        (scratch / "here").mkdir()
        os.chdir(scratch / "here")
        for path in self.paths.values():  # what is imported when first needed
            for choice in (0, 7, 9, 63):
                with suppress(CheckpointError, ConfigError):
                    read_checkpoint(path, choice)
        self.watch = Watch()
        sys.addaudithook(self.watch)
        gc.collect()
        gc.freeze()
        self.resident = _memory("VmRSS")
        limit = _memory("VmSize") + (4 << 30)  # a bomb meets this and not the machine's end
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    def do(self, start: int, stop: int) -> Block:
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        failures = []
        for number in range(start, stop):
            mutant = self.fuzzer.mutant(number)
            os.pwrite(self.now, NOW.pack(number, time.monotonic()), 0)
            outcome, failure = self._checked(mutant)
            counts[target_of(number)]["failed" if failure else outcome] += 1
            if failure:
                failures.append((number, *failure))
        os.pwrite(self.now, NOW.pack(-1, 0.0), 0)
        return Block(start=start, stop=stop, counts=dict(counts), failures=failures)

    def _checked(self, mutant: Mutant) -> tuple[str, Failure | None]:
        """What came of it ("read", or the kind of the refusal), and the gravest that is wrong."""
        path = self.paths[mutant.sample]
        with open(path, "wb") as file:  # noqa: PTH123  # a quarter of its time would be Path's
            file.write(mutant.content)
        with open("/proc/self/clear_refs", "wb") as file:  # noqa: PTH123
            file.write(b"5")  # the peak begins anew
        outcome, failure, seconds = self._read(path, mutant.choice)
        excess = _memory("VmHWM") - self.resident - len(mutant.content) - MOST_MEMORY
        made = os.listdir()  # noqa: PTH208
        if made:
            for name in made:
                shutil.rmtree(name, ignore_errors=True)
                Path(name).unlink(missing_ok=True)
            failure = "executed", f"it made {made}"
        elif self.watch.seen:
            sort = f"act: {self.watch.seen[0].split()[0]}"
            failure = sort, "\n".join((*self.watch.seen, *(failure or ())))
        elif failure is None and excess > 0:
            failure = "memory", f"{excess >> 20} MiB more than is allowed"
        elif failure is None and seconds > MOST_SECONDS:
            again = self._read(path, mutant.choice)[2]  # the machine may have been busy
            if again > MOST_SECONDS:
                failure = "time", f"{min(seconds, again):.1f} s"
        return outcome, failure

    def _read(self, path: Path, choice: int) -> tuple[str, Failure | None, float]:
        outcome, failure = "read", None
        began = time.perf_counter()
        self.watch.begin(path.parent)
        try:
            self.read(path, choice)
        except CheckpointError as error:
            outcome = error.kind
            if error.kind not in CHECKPOINT_FAULTS:
                failure = f"CheckpointError of kind {error.kind}", str(error)
        except ConfigError as error:
            outcome = "config"
            if "config" not in path.name:
                failure = "ConfigError for weights", str(error)
        except BaseException as error:
            self.watch.on = False  # telling of it opens the source
            failure = _told(error)
        self.watch.on = False
        return outcome, failure, time.perf_counter() - began


class Watch:
    """Audits what happens while a file is read: https://docs.python.org/3/library/audit_events.html

    Processes and deletions are stopped; directories may be made, and are found afterwards.
    """

    allowed = frozenset(("os.listdir", "os.scandir", "mmap.__new__", "builtins.id"))
    stopped = ("os.", "subprocess.", "shutil.", "socket.", "ctypes.", "pty.")

    def __init__(self) -> None:
        self.on = False
        self.directory = ""
        self.seen: list[str] = []

    def begin(self, directory: Path) -> None:
        self.seen = []
        self.directory = str(directory)
        self.on = True

    def __call__(self, event: str, details: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            if isinstance(details[0], int):
                return  # a handle: what it is of was told before
            directory, _, name = os.fsdecode(details[0]).rpartition("/")
            if directory == self.directory and name not in OUTWARD:
                return
        elif event in self.allowed or event.startswith("object."):
            return
        self.seen.append(f"{event} {str(details)[:200]}")
        if event.startswith(self.stopped) and event != "os.mkdir":
            raise PermissionError(f"{event} while a checkpoint is read")


def _told(error: BaseException) -> Failure:
    """The sort of an exception: what it is, and where it was raised in offramp."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "offramp" in Path(frame.filename).parts] or frames
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    text = "".join(traceback.format_exception(error))
    return f"{type(error).__name__} at {where}", text[-5000:]


def _memory(what: str) -> int:
    """A line of /proc/self/status, in bytes."""
    with open("/proc/self/status", "rb") as file:  # noqa: PTH123
        text = file.read()
    at = text.index(what.encode()) + len(what) + 1
    return int(text[at : text.index(b"kB", at)]) << 10


if __name__ == "__main__":
    scratch, corpus, seed, *reader = sys.argv[1:]
    main(Path(scratch), Path(corpus), int(seed), *map(Path, reader))
