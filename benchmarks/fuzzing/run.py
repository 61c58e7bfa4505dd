"""A run: workers are given mutants, looked after, and replaced when they die."""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

from fuzzing.corpus import make_corpus
from fuzzing.mutants import Fuzzer, target_of
from fuzzing.readers import sources
from fuzzing.state import Block, State, key_of
from fuzzing.worker import BROKEN, NOW

STUCK = 20.0
"""Seconds with one mutant after which a worker is ended."""
_JOB = 500  # mutants that a worker is given at a time
_KEPT = 20  # files of one sort of failure
_MOST_FAILURES = 1000  # after which a run stops


def fuzz(
    directory: Path, mutants: int, *, seed: int = 0, workers: int = 2, reader: Path | None = None
) -> State:
    """Do the mutants up to number `mutants` that are not done yet; what is known of all."""
    directory = directory.absolute()
    corpus = directory / "corpus"
    make_corpus(corpus)
    state = State(directory / "state.jsonl", key_of(seed, corpus, sources(reader)))
    saved = Failures(directory / "failures" / state.key, Fuzzer(corpus, seed))
    queue = state.remaining(mutants, _JOB)[::-1]
    about = [str(corpus), str(seed), *([str(reader.absolute())] if reader else [])]
    crew = [Worker(about) for _ in range(min(workers, len(queue)))]
    began = told = time.monotonic()
    try:
        while (queue or any(w.job for w in crew)) and len(state.failures) < _MOST_FAILURES:
            for worker in crew:
                if worker.job is None and queue:
                    worker.give(queue.pop())
            for block in _finished(crew, queue):
                state.add(block)
                saved.keep(block)
            if time.monotonic() - told > 15:
                told = time.monotonic()
                rate = (state.mutants - state.before) / (told - began)
                print(f"{state.mutants} done, {rate:.0f}/s, {len(state.failures)} failures")
                sys.stdout.flush()
    finally:
        for worker in crew:
            worker.end()
        state.close()
    return state


def _finished(crew: list[Worker], queue: list[range]) -> Iterator[Block]:
    """What the workers have done, waited for a second; one that died is replaced."""
    with selectors.DefaultSelector() as selector:
        for at, worker in enumerate(crew):
            if worker.job is not None:
                selector.register(worker.out, selectors.EVENT_READ, at)
        for key, _ in selector.select(1.0):
            worker = crew[key.data]
            job, answer = worker.job, worker.out.readline()
            assert job is not None  # those alone were registered
            worker.job = None
            if answer.endswith(b"\n"):
                yield json.loads(answer)
                continue
            number, how, last_words = worker.died()
            if number not in job:
                raise SystemExit(f"A worker could not work: {how}\n{last_words}")
            at = job.index(number)
            queue += [part for part in (job[at + 1 :], job[:at]) if part]
            counts = {target_of(number): {"failed": 1}}
            failures = [(number, f"crash: {how}", last_words)]
            yield Block(start=number, stop=number + 1, counts=counts, failures=failures)
            crew[key.data] = Worker(worker.about)
    for worker in crew:
        if worker.job is not None and worker.seconds_with_one() > STUCK:
            worker.process.kill()  # and its end is read the next time


class Worker:
    """A process of `fuzzing.worker`."""

    def __init__(self, about: list[str]) -> None:
        self.about = about
        self.job: range | None = None
        memory = Path("/dev/shm")
        place = memory if memory.is_dir() else None
        self.scratch = Path(tempfile.mkdtemp(prefix="fuzz-", dir=place))
        self.now = self.scratch / "now"
        self.now.write_bytes(NOW.pack(-1, 0.0))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        # Freed arrays go back to the system, or one bomb would hide the next.
        environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        with (self.scratch / "stderr").open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fuzzing.worker", str(self.scratch), *about],
                cwd=Path(__file__).parents[1],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
        assert self.process.stdout is not None  # a pipe
        self.out: IO[bytes] = self.process.stdout

    def give(self, job: range) -> None:
        self.job = job
        assert self.process.stdin is not None  # a pipe
        with suppress(BrokenPipeError):  # it died: its end is read from the other pipe
            self.process.stdin.write(f"{job.start} {job.stop}\n".encode())
            self.process.stdin.flush()

    def seconds_with_one(self) -> float:
        number, since = NOW.unpack(self.now.read_bytes())
        return time.monotonic() - since if number >= 0 else 0.0

    def died(self) -> tuple[int, str, str]:
        """The mutant that it was at (-1: none), how it ended, and what it said."""
        stuck = self.seconds_with_one() > STUCK
        status = self.process.wait()
        number = -1 if status == BROKEN else NOW.unpack(self.now.read_bytes())[0]
        said = (self.scratch / "stderr").read_text(encoding="utf-8", errors="replace")
        self.end()
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return number, f"more than {STUCK:.0f} s" if stuck else how, said[-5000:]

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()
        shutil.rmtree(self.scratch, ignore_errors=True)


class Failures:
    """Keeps the first mutants of each sort of failure, and what was told of them."""

    def __init__(self, directory: Path, fuzzer: Fuzzer) -> None:
        self.directory = directory
        self.fuzzer = fuzzer
        self.sorts: Counter[str] = Counter()

    def keep(self, block: Block) -> None:
        for number, sort, detail in block["failures"]:
            self.sorts[sort] += 1
            if self.sorts[sort] > _KEPT:
                continue
            mutant = self.fuzzer.mutant(number)
            self.directory.mkdir(parents=True, exist_ok=True)
            path = self.directory / mutant.name
            path.write_bytes(mutant.content)
            origin = f"{mutant.sample.directory}/{mutant.sample.file}"
            note = f"{sort}\nmutant {number} of {origin}, options {mutant.choice}\n\n{detail}\n"
            path.with_name(f"{path.name}.txt").write_text(note, "utf-8", "replace")
