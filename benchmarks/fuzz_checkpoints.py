"""Mutants of checkpoints over offramp's readers: each is read whole or refused, and nothing else.

    python benchmarks/fuzz_checkpoints.py --work /var/tmp/fuzz --mutants 1000000

Small sound files, made by offramp's writers, torch, safetensors and pickle, are changed by bytes,
integers and chunks, and by what they are made of: a header's entries, a pickle's instructions, a
zip's fields (checksums made good), JSON's tokens. Mutant number n is a function of the seed, n and
the files, which are kept under `--work`. Some hold pickles that make a directory when executed.

A mutant is either read, and then every number of it is touched, or refused: CheckpointError of a
known kind (for config.json ConfigError too). A failure is anything else: another exception, the end
of the process, more than two seconds, more memory than the file and 64 MiB, the planted directory,
or an act that no reader has use for, such as an import or a file opened elsewhere.

Workers are processes of their own. What is done stands in `--work`/state.jsonl: a run that was
stopped goes on there, and mutants that failed are tried again once the readers were changed.
Failures lie in `--work`/failures, the first of each sort; `--replay N` shows mutant N.
"""

from __future__ import annotations

import argparse
import copy
import faulthandler
import gc
import hashlib
import io
import json
import mmap
import os
import pickle
import pickletools
import platform
import re
import resource
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from random import Random
from typing import IO, Any

import numpy as np

import offramp
from offramp.checkpoints.content import settled
from offramp.checkpoints.paddle_file import write_paddle
from offramp.checkpoints.renames import Row
from offramp.checkpoints.safetensors_file import read_metadata, write_safetensors
from offramp.checkpoints.stored import TYPES, Stored
from offramp.checkpoints.torch_file import write_torch
from offramp.checkpoints.weights import Reading, open_save, read_file
from offramp.checkpoints.writing import write_weights
from offramp.errors import CHECKPOINT_FAULTS, CheckpointError, ConfigError
from offramp.models.config import PretrainedConfig
from offramp.models.config_file import read_config

MOST_SECONDS = 2.0
MOST_MEMORY = 64 << 20
"""Bytes beside the file's own."""
PLANTED = "planted"
"""The directory that a pickle of the corpus makes, in the working directory, when executed."""
_JOB = 500  # mutants that a worker is given at a time
_BATCH = 50  # mutants between two looks at the peak of memory
_STUCK = 20.0  # seconds after which a worker is ended
_LARGEST = 200_000  # bytes that a mutant may grow to, or twice its origin
_KEPT = 20  # files of one sort of failure
_BROKEN = 70  # a worker's exit status when the fuzzer itself is at fault

Reader = Callable[[Path, int], object]
"""Reads the file as one of 64 choices of options says, and touches what is in it."""


def main() -> None:
    options = arguments()
    if options.worker is not None:
        work(options.work, options.seed, options.worker, options.reader)
        return
    if options.replay is not None:
        replay(options.work, options.seed, options.replay, options.reader)
        return
    print(f"machine: {machine()}")
    tally = fuzz(
        options.work,
        options.mutants,
        seed=options.seed,
        workers=options.workers,
        reader=options.reader,
        most_failures=options.most_failures,
        tell=True,
    )
    print(tally)
    sys.exit(1 if tally.failures else 0)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="what is kept of the run")
    parser.add_argument("--mutants", type=int, default=1_000_000, help="how many in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--most-failures", type=int, default=1000, help="stop after so many")
    parser.add_argument("--replay", type=int, metavar="N", help="show what mutant N does")
    parser.add_argument("--reader", type=Path, help="a file with read(path), in offramp's place")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def machine() -> dict[str, Any]:
    """What the figures were measured with."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "offramp": offramp.__version__,
        **{name: version(name) for name in ("numpy", "safetensors", "torch")},
        "python": platform.python_version(),
        "system": platform.release(),
        "processor": next(names, platform.machine()),
        "cores": os.cpu_count(),
    }


# ---------------------------------------------------------------------- the run


@dataclass(frozen=True)
class Job:
    """Mutants that a worker is given at a time: a range, or some that were done before."""

    numbers: Sequence[int]
    again: bool = False

    def line(self, answer: dict[str, Any]) -> dict[str, Any]:
        """What the state keeps of it."""
        if self.again:
            return {"again": list(self.numbers), **answer}
        return {"start": self.numbers[0], "stop": self.numbers[-1] + 1, **answer}


@dataclass
class Tally:
    """What is known of the mutants of a seed: how many were done, and what came of them."""

    seed: int
    wanted: int
    key: str
    code: str
    done: list[tuple[int, int]] = field(default_factory=list)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: dict[int, tuple[str, str, str]] = field(default_factory=dict)
    """{mutant: (sort, detail, the readers' digest)}"""
    earlier: int = 0
    """Mutants done with readers that have been changed since."""
    run: int = 0
    seconds: float = 0.0
    workers: int = 0

    def take(self, line: dict[str, Any]) -> None:
        """Count a line of the state in."""
        if line["key"] != self.key:
            return
        for number in line.get("again", ()):
            self.failures.pop(number, None)
            self.counts[target_of(number), "failed"] -= 1
        if "start" in line:
            self.done.append((line["start"], line["stop"]))
            if line["code"] != self.code:
                self.earlier += line["stop"] - line["start"]
        for name, count in line["counts"].items():
            target, _, outcome = name.partition(" ")
            self.counts[target, outcome] += count
        for number, sort, detail in line["failures"]:
            self.failures[number] = sort, detail, line["code"]

    def jobs(self) -> Iterator[Job]:
        """What is yet to do; first what failed with older readers."""
        again = [n for n, (_, _, code) in self.failures.items() if code != self.code]
        for i in range(0, len(again), _JOB):
            yield Job(again[i : i + _JOB], again=True)
        at = 0
        for start, stop in [*sorted(self.done), (self.wanted, self.wanted)]:
            while at < min(start, self.wanted):
                yield Job(range(at, min(at + _JOB, start, self.wanted)))
                at = min(at + _JOB, start, self.wanted)
            at = max(at, stop)

    @property
    def mutants(self) -> int:
        return sum(stop - start for start, stop in self.done)

    def __str__(self) -> str:
        rate = self.run / self.seconds if self.seconds else 0.0
        lines = [
            f"seed {self.seed}, corpus and mutations {self.key}, readers {self.code}",
            f"mutants: {self.mutants} of {self.wanted}; {self.earlier} of them with older readers",
            f"this run: {self.run} in {self.seconds:.1f} s with {self.workers} workers, "
            f"{rate:.0f} a second",
            f"{'':18}{'read':>9}{'refused':>9}{'failed':>9}  refused as",
        ]
        for target in TARGETS:
            own = {o: n for (t, o), n in self.counts.items() if t == target and n}
            refused = {o: n for o, n in sorted(own.items()) if o not in ("read", "failed")}
            kinds = ", ".join(f"{kind} {count}" for kind, count in refused.items())
            lines.append(
                f"{target:18}{own.get('read', 0):9}{sum(refused.values()):9}"
                f"{own.get('failed', 0):9}  {kinds}"
            )
        sorts = Counter(sort for sort, _, _ in self.failures.values())
        for sort, count in sorts.most_common():
            first = min(n for n, (s, _, _) in self.failures.items() if s == sort)
            lines.append(f"FAILURE {sort}: {count}, the first of them mutant {first}")
        return "\n".join([*lines, f"failures: {len(self.failures)}"])


def fuzz(
    directory: Path,
    mutants: int,
    *,
    seed: int = 0,
    workers: int | None = None,
    reader: Path | None = None,
    most_failures: int = 1000,
    tell: bool = False,
) -> Tally:
    """Do the mutants up to number `mutants` that are not done yet; what is known of all."""
    directory = directory.absolute()
    make_corpus(directory / "corpus")
    (directory / "failures").mkdir(exist_ok=True)
    tally = Tally(seed, mutants, _key(directory / "corpus", seed), _code(reader))
    state = directory / "state.jsonl"
    kept = state.read_text(encoding="utf-8") if state.exists() else ""
    for text_line in kept.splitlines():
        with suppress(json.JSONDecodeError):  # the last line of a run that was killed
            tally.take(json.loads(text_line))
    fuzzer = Fuzzer(directory / "corpus", seed)
    queue = list(tally.jobs())[::-1]
    tally.workers = min(workers or os.cpu_count() or 1, max(1, len(queue)))
    command = [sys.executable, __file__, "--work", str(directory), "--seed", str(seed)]
    command += ["--reader", str(reader.absolute())] if reader else []
    crew = [Worker(command) for _ in range(tally.workers if queue else 0)]
    began = told = time.monotonic()
    kept_of = Counter(sort for sort, _, _ in tally.failures.values())
    try:
        with state.open("a", encoding="utf-8") as file:
            if kept and not kept.endswith("\n"):
                file.write("\n")
            while queue or any(worker.job for worker in crew):
                if len(tally.failures) >= most_failures:
                    break
                for worker in crew:
                    if worker.job is None and queue:
                        worker.give(queue.pop())
                for line in _reports(crew, queue):
                    line |= {"key": tally.key, "code": tally.code}
                    tally.take(line)
                    tally.run += sum(line["counts"].values())
                    for number, sort, detail in line["failures"]:
                        kept_of[sort] += 1
                        if kept_of[sort] <= _KEPT:
                            mutant = fuzzer.mutant(number)
                            _keep(directory / "failures", mutant, sort, detail, tally)
                    file.write(json.dumps(line) + "\n")
                    file.flush()
                if tell and time.monotonic() - told > 15:
                    told = time.monotonic()
                    rate = tally.run / (told - began)
                    failed = len(tally.failures)
                    print(f"  {tally.mutants} done, {rate:.0f}/s, {failed} failures", flush=True)
    finally:
        for worker in crew:
            worker.end()
    tally.seconds = time.monotonic() - began
    return tally


def _reports(crew: list[Worker], queue: list[Job]) -> Iterator[dict[str, Any]]:
    """What the workers have to tell, waited for a second; one that died is replaced."""
    with selectors.DefaultSelector() as selector:
        for worker in crew:
            if worker.job is not None:
                selector.register(worker.out, selectors.EVENT_READ, worker)
        for key, _ in selector.select(1.0):
            worker = key.data
            job, answer = worker.job, worker.out.readline()
            worker.job = None
            if answer.endswith(b"\n"):
                yield job.line(json.loads(answer))
                continue
            number, end, last_words = worker.died()
            if number not in job.numbers:
                raise SystemExit(f"A worker could not work: {end}\n{last_words}")
            at = job.numbers.index(number)
            parts = job.numbers[at + 1 :], job.numbers[:at]
            queue += [Job(part, job.again) for part in parts if part]
            failures = [[number, f"crash: {end}", last_words]]
            counts = {f"{target_of(number)} failed": 1}
            yield Job([number], job.again).line({"counts": counts, "failures": failures})
            crew[crew.index(worker)] = Worker(worker.command)
    for worker in crew:
        if worker.job is not None and worker.seconds_with_one() > _STUCK:
            worker.process.kill()  # and its end is read the next time


def _keep(directory: Path, mutant: Mutant, sort: str, detail: str, tally: Tally) -> None:
    path = directory / f"{mutant.number}.{mutant.sample.file}"
    path.write_bytes(mutant.content)
    note = (
        f"{sort}\nseed {tally.seed}, mutant {mutant.number}, target {mutant.sample.target}\n"
        f"of {mutant.sample.directory}/{mutant.sample.file}; choice of options {mutant.choice}\n"
        f"changed by {', '.join(mutant.steps)}\nreaders {tally.code}\n\n{detail}\n"
    )
    path.with_name(f"{path.name}.txt").write_text(note, encoding="utf-8", errors="replace")


def replay(directory: Path, seed: int, number: int, reader: Path | None) -> None:
    """Write one mutant under `directory`/replay with the files beside it, and read it."""
    place = directory.absolute() / "replay"
    shutil.rmtree(place, ignore_errors=True)
    fuzzer = Fuzzer(directory.absolute() / "corpus", seed)
    mutant = fuzzer.mutant(number)
    path = fuzzer.lay_out(place)[mutant.sample]
    path.write_bytes(mutant.content)
    print(f"mutant {number} of {mutant.sample.target}: {path}, options {mutant.choice}")
    print(f"of {mutant.sample.directory}/{mutant.sample.file} by {', '.join(mutant.steps)}")
    os.chdir(path.parent)
    faulthandler.enable()
    try:
        _reader(reader)(path, mutant.choice)
        print("read")
    except CheckpointError as error:
        print(f"{type(error).__name__} of kind {error.kind}: {error}")


def _key(corpus: Path, seed: int) -> str:
    """What mutant n is a function of, beside n."""
    digest = hashlib.sha256(f"{seed}".encode() + Path(__file__).read_bytes())
    for path in sorted(path for path in corpus.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(corpus)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _code(reader: Path | None) -> str:
    """What the outcome is a function of, beside the mutant."""
    source = Path(offramp.__file__).parent
    files = [*source.glob("checkpoints/*.py"), source / "errors.py", *source.glob("models/con*.py")]
    digest = hashlib.sha256()
    for path in [reader] if reader else sorted(files):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


class Worker:
    """A process that does mutants, as the parent sees it."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self.job: Job | None = None
        memory = Path("/dev/shm")
        self.scratch = Path(
            tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None)
        )
        (self.scratch / "now").write_bytes(_NOW.pack(-1, 0.0))
        with (self.scratch / "now").open("r+b") as file:
            self.now = mmap.mmap(file.fileno(), _NOW.size)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        # Freed arrays go back to the system, or one bomb would hide the next.
        environment |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        with (self.scratch / "stderr").open("wb") as errors:
            self.process = subprocess.Popen(
                [*command, "--worker", str(self.scratch)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
        assert self.process.stdout is not None  # a pipe
        self.out: IO[bytes] = self.process.stdout

    def give(self, job: Job) -> None:
        self.job = job
        assert self.process.stdin is not None  # a pipe
        with suppress(BrokenPipeError):  # it died: its end is read from the other pipe
            self.process.stdin.write(json.dumps(list(job.numbers)).encode() + b"\n")
            self.process.stdin.flush()

    def seconds_with_one(self) -> float:
        number, since = _NOW.unpack(self.now[:])
        return time.monotonic() - since if number >= 0 else 0.0

    def died(self) -> tuple[int, str, str]:
        """The mutant that it was at (-1: none), how it ended, and what it said."""
        stuck = self.seconds_with_one() > _STUCK
        status = self.process.wait()
        number = -1 if status == _BROKEN else _NOW.unpack(self.now[:])[0]
        said = (self.scratch / "stderr").read_text(encoding="utf-8", errors="replace")
        self.end()
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return number, f"more than {_STUCK:.0f} s" if stuck else how, said[-5000:]

    def end(self) -> None:
        if self.now.closed:
            return
        self.process.kill()
        self.process.communicate()
        self.now.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


# ---------------------------------------------------------------------- a worker

_NOW = struct.Struct("<qd")  # the mutant that a worker is at, and since when


def work(directory: Path, seed: int, scratch: Path, reader: Path | None) -> None:
    """Do the numbers that come in, a line of JSON at a time, and answer each line with one."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is asked, and ends its workers
    faulthandler.enable()
    warnings.simplefilter("error")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a reader prints is no answer
    try:
        lane = Lane(Fuzzer(directory / "corpus", seed), scratch, _reader(reader))
        # A bomb that gets through meets this limit and not the machine's.
        limit = (_memory("VmSize") << 10) + (4 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for line in sys.stdin:
            answers.write(json.dumps(lane.do(json.loads(line))) + "\n")
            answers.flush()
    except BrokenPipeError:
        pass  # the parent is gone
    except BaseException:
        traceback.print_exc()
        os._exit(_BROKEN)
    shutil.rmtree(scratch, ignore_errors=True)


class Lane:
    """Mutants one after the other, each in the place of the one before."""

    def __init__(self, fuzzer: Fuzzer, scratch: Path, read: Reader) -> None:
        self.fuzzer = fuzzer
        self.read = read
        self.paths = fuzzer.lay_out(scratch / "files")
        with (scratch / "now").open("r+b") as file:
            self.now = mmap.mmap(file.fileno(), _NOW.size)
        (scratch / "here").mkdir()
        os.chdir(scratch / "here")
        for path in self.paths.values():  # what is imported when first needed
            for choice in (0, 7, 9, 63):
                with suppress(CheckpointError, ConfigError):
                    _read_checkpoint(path, choice)
        self.watch = Watch()
        sys.addaudithook(self.watch)
        gc.collect()
        gc.freeze()
        self.resident = _memory("VmRSS")

    def do(self, numbers: Sequence[int]) -> dict[str, Any]:
        counts: Counter[str] = Counter()
        failures: dict[int, tuple[str, str]] = {}
        for i in range(0, len(numbers), _BATCH):
            batch = numbers[i : i + _BATCH]
            outcomes, excess = self._measured(batch)
            if excess > 0:
                alone = {number: self._measured([number])[1] for number in batch}
                guilty = [n for n, over in alone.items() if over > 0]
                for number in guilty or batch[-1:]:
                    more = f"{max(alone[number], excess) >> 20} MiB more than is allowed"
                    if not guilty:
                        more += f", by mutants {batch[0]} to {batch[-1]} one after the other"
                    outcomes[number] = "failed", ("memory", more)
            for number, (outcome, failure) in outcomes.items():
                counts[f"{target_of(number)} {outcome}"] += 1
                if failure:
                    failures[number] = failure
        self.now[:] = _NOW.pack(-1, 0.0)
        return {"counts": counts, "failures": [[n, *found] for n, found in failures.items()]}

    def _measured(
        self, numbers: Sequence[int]
    ) -> tuple[dict[int, tuple[str, tuple[str, str] | None]], int]:
        """What came of each, and by how many bytes the peak of memory was too high."""
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
        largest = 0
        outcomes = {}
        for number in numbers:
            self.now[:] = _NOW.pack(number, time.monotonic())
            mutant = self.fuzzer.mutant(number)
            largest = max(largest, len(mutant.content))
            outcomes[number] = self._outcome(mutant)
        over = (_memory("VmHWM") - self.resident << 10) - MOST_MEMORY - largest
        return outcomes, over

    def _outcome(self, mutant: Mutant) -> tuple[str, tuple[str, str] | None]:
        path = self.paths[mutant.sample]
        with open(path, "wb") as file:  # noqa: PTH123  # a quarter of its time would be Path's
            file.write(mutant.content)
        outcome, failure, seconds = self._read(path, mutant.choice)
        if seconds > MOST_SECONDS and not failure:
            outcome, failure, again = self._read(path, mutant.choice)  # the machine may be busy
            if min(seconds, again) > MOST_SECONDS and not failure:
                failure = "time", f"{min(seconds, again):.1f} s"
        made = os.listdir()  # noqa: PTH208  # for every mutant
        if made:
            self._clear()
            failure = "executed", f"it made {made}"
        elif self.watch.seen:
            sort = f"act: {self.watch.seen[0].split()[0]}"
            failure = sort, "\n".join([*self.watch.seen, *(failure or ())])
        return ("failed" if failure else outcome), failure

    def _read(self, path: Path, choice: int) -> tuple[str, tuple[str, str] | None, float]:
        began = time.perf_counter()
        outcome, failure = "read", None
        self.watch.begin(path.parent)
        try:
            self.read(path, choice)
        except (CheckpointError, ConfigError) as error:
            kind = getattr(error, "kind", "config")
            outcome = kind
            if kind not in CHECKPOINT_FAULTS or (
                not isinstance(error, CheckpointError) and "config" not in path.name
            ):
                failure = f"{type(error).__name__} of kind {kind}", str(error)
        except BaseException as error:
            self.watch.on = False  # telling of it opens the source
            failure = _told(error)
        self.watch.on = False
        return outcome, failure, time.perf_counter() - began

    def _clear(self) -> None:
        for path in Path().iterdir():
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)


class Watch:
    """Audits what happens while a file is read: https://docs.python.org/3/library/audit_events.html

    Processes and deletions are stopped; the planted directory is let through, to be found.
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


def _told(error: BaseException) -> tuple[str, str]:
    """The sort of an exception: what it is, and where it was raised in offramp."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "offramp" in Path(frame.filename).parts] or frames
    where = f"{Path(own[-1].filename).name}:{own[-1].lineno}"
    text = "".join(traceback.format_exception(error))
    return f"{type(error).__name__} at {where}", text[-5000:]


def _memory(what: str) -> int:
    """A line of /proc/self/status, in KiB."""
    with open("/proc/self/status", "rb") as file:  # noqa: PTH123  # often
        text = file.read()
    at = text.index(what.encode()) + len(what) + 1
    return int(text[at : text.index(b"kB", at)])


def _reader(path: Path | None) -> Reader:
    if path is None:
        return _read_checkpoint
    spec = spec_from_file_location("reader", path)
    assert spec is not None and spec.loader is not None  # a .py file
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    read: Callable[[Path], object] = module.read
    return lambda path, _: read(path)


_ROWS = (
    Row("{b}embeddings.layer_norm.{p}", "{b}embeddings.LayerNorm.{p}"),
    Row(
        "{b}encoder.layers.{n}.self_attn.q_proj.{p}",
        "{b}encoder.layer.{n}.attention.self.query.{p}",
        transpose=True,
    ),
)


def _read_checkpoint(path: Path, choice: int) -> object:
    """Read what the name says with one of 64 choices of options, and touch every number."""
    if path.name in ("config.json", "model_config.json"):
        config = PretrainedConfig.from_values(read_config(path.parent), str(path))
        config.validate()
        return config.to_json_string(use_diff=False)
    options = Reading(
        mmap=choice % 4 != 0, allow_legacy_pickle=True, uint16_is_bfloat16=choice % 8 > 3
    )
    if choice // 8 == 0 and path.name.endswith(".safetensors"):
        read_metadata(path)
    path = path.with_name(SHARDS.get(path.name, path.name))
    if ".index." in path.name or choice // 16 == 0:
        tensors = open_save(path, _ROWS, options).tensors
    else:
        tensors = read_file(path, options)
    arrays = [settled(stored.array) for stored in tensors.values()]  # all in memory at once
    return sum(int(array.reshape(-1).view(np.uint8).sum()) for array in arrays)


# ---------------------------------------------------------------------- mutants

TARGETS = (
    "safetensors",
    "torch-zip",
    "paddle-4",
    "shards",
    "torch-legacy",
    "paddle-2",
    "index",
    "config",
)
"""What is changed, in turn: mutant n is one of the target n % 8."""
INDEXES = (
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "model_state.pdparams.index.json",
)
SHARDS = {
    f"{stem}-0000{n}-of-00002.{suffix}": f"{stem}.{suffix}.index.json"
    for stem, suffix in (index.removesuffix(".index.json").split(".") for index in INDEXES)
    for n in (1, 2)
}
"""{a shard: the index that it is read by}"""
OUTWARD = ("link.safetensors", "hard.safetensors")
"""Files beside the shards which no reader may open: links that lead out, soft and hard."""


def target_of(number: int) -> str:
    return TARGETS[number % len(TARGETS)]


@dataclass(frozen=True, eq=False)
class Sample:
    """A sound file (or a hostile one) that mutants are made of, and the files beside it."""

    target: str
    directory: str
    file: str
    content: bytes
    parts: tuple[Any, ...]
    """What it is made of, as its format's `Form` takes it apart."""
    beside: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class Mutant:
    number: int
    sample: Sample
    content: bytes
    choice: int
    steps: tuple[str, ...]


class Fuzzer:
    """Mutants by number."""

    def __init__(self, corpus: Path, seed: int) -> None:
        self.seed = seed
        self.samples = {target: _samples(corpus, target) for target in TARGETS}

    def mutant(self, number: int) -> Mutant:
        rng = Random((self.seed << 48) + number)
        target = target_of(number)
        samples = self.samples[target]
        sample = rng.choice(samples)
        if len(sample.content) > _LARGEST:  # it takes its time
            sample = rng.choice(samples)
        suffix = _suffix(sample.file)
        samples = [other for other in samples if _suffix(other.file) == suffix]
        steps: list[str] = []
        content = sample.content
        if rng.random() < 0.65:
            content = FORMS[suffix].change(rng, sample, samples, steps)
        if not steps or rng.random() < 0.15:
            for _ in range(rng.choice((1, 1, 1, 2, 3))):
                other = rng.choice(
                    self.samples[rng.choice(TARGETS)] if _one_in(rng, 9) else samples
                )
                step = rng.choice(BYTE_STEPS)
                content = step(rng, content, other.content)
                steps.append(step.__name__)
        content = content[: max(_LARGEST, 2 * len(sample.content))]
        return Mutant(number, sample, content, rng.randrange(64), tuple(steps))

    def lay_out(self, place: Path) -> dict[Sample, Path]:
        """Every sample in a directory of its own, with what lies beside it."""
        paths = {}
        for samples in self.samples.values():
            for sample in samples:
                directory = place / sample.directory
                directory.mkdir(parents=True)
                for name, content in ((sample.file, sample.content), *sample.beside):
                    (directory / name).write_bytes(content)
                if sample.target in ("index", "shards"):
                    outside = directory.parent / "outside.safetensors"
                    outside.write_bytes(struct.pack("<Q", 2) + b"{}")
                    (directory / OUTWARD[0]).symlink_to(outside)
                    (directory / OUTWARD[1]).hardlink_to(outside)
                    os.mkfifo(directory / "pipe.safetensors")
                paths[sample] = directory / sample.file
        return paths


def _samples(corpus: Path, target: str) -> list[Sample]:
    """A target's: in the directory N.FILE the file of that name is the one to change."""
    found = []
    for directory in sorted((corpus / target).iterdir()):
        file = directory.name.partition(".")[2]
        beside = tuple(
            (path.name, path.read_bytes())
            for path in sorted(directory.iterdir())
            if path.name != file
        )
        content = (directory / file).read_bytes()
        parts = FORMS[_suffix(file)].parts(content)
        found.append(
            Sample(target, f"{target}/{directory.name}", file, content, tuple(parts), beside)
        )
    return found


def _suffix(file: str) -> str:
    return file.rpartition(".")[2]


def _one_in(rng: Random, count: int) -> bool:
    return rng.randrange(count) == 0


# ---------------------------------------------------------------------- by bytes

INTEGERS = (
    *(0, 1, -1, 2, 4, 7, 8, 9, 32, 33, 127, 128, 255, 256, 1 << 15, (1 << 16) - 1, 1 << 16),
    *((1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 40), (1 << 61), (1 << 62) - 1),
    *(1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 8, 25_000_001),
)


def _place(rng: Random, length: int) -> int:
    """A byte, more often one near an end: there is more to break."""
    if length == 0:
        return 0
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randrange(min(length, 64))
    if kind == 1:
        return length - 1 - rng.randrange(min(length, 100))
    return rng.randrange(length)


def _span(rng: Random, length: int) -> tuple[int, int]:
    start = _place(rng, length)
    size = rng.choice((1, 1, 2, 3, 4, 8, 16, 30, 64, 200, length))
    return start, min(length, start + rng.randint(1, max(1, size)))


def _packed(rng: Random, width: int, value: int) -> bytes:
    order = "little" if rng.random() < 0.8 else "big"
    return (value & (1 << 8 * width) - 1).to_bytes(width, order)  # type: ignore[arg-type]


def flip(rng: Random, data: bytes, other: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if changed:
            changed[_place(rng, len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def set_byte(rng: Random, data: bytes, other: bytes) -> bytes:
    at = _place(rng, len(data))
    return (
        data[:at]
        + bytes([rng.choice((0, 255, 127, 128, 10, 46, rng.randrange(256)))])
        + (data[at + 1 :])
    )


def set_integer(rng: Random, data: bytes, other: bytes) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    at = _place(rng, len(data))
    return data[:at] + _packed(rng, width, rng.choice(INTEGERS)) + data[at + width :]


def step_integer(rng: Random, data: bytes, other: bytes) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    at = _place(rng, len(data))
    value = int.from_bytes(data[at : at + width], "little") + rng.choice((-8, -2, -1, 1, 2, 4, 8))
    return data[:at] + (value & (1 << 8 * width) - 1).to_bytes(width, "little") + data[at + width :]


def cut_out(rng: Random, data: bytes, other: bytes) -> bytes:
    start, stop = _span(rng, len(data))
    return data[:start] + data[stop:]


def double(rng: Random, data: bytes, other: bytes) -> bytes:
    start, stop = _span(rng, len(data))
    return data[:stop] + data[start:stop] * rng.choice((1, 1, 2, 30)) + data[stop:]


def exchange(rng: Random, data: bytes, other: bytes) -> bytes:
    (a, b), (c, d) = sorted((_span(rng, len(data)), _span(rng, len(data))))
    if b > c:
        return data[:a] + data[c:d] + data[a:c] + data[d:]
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def put_in(rng: Random, data: bytes, other: bytes) -> bytes:
    at = _place(rng, len(data))
    size = rng.choice((1, 2, 8, 40, 4096))
    new = rng.randbytes(size) if rng.random() < 0.5 else bytes([rng.randrange(256)]) * size
    return data[:at] + new + data[at:]


def truncate(rng: Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(rng, len(data))]


def splice(rng: Random, data: bytes, other: bytes) -> bytes:
    if rng.random() < 0.5:
        return data[: _place(rng, len(data))] + other[_place(rng, len(other)) :]
    start, stop = _span(rng, len(other))
    at = _place(rng, len(data))
    return data[:at] + other[start:stop] + data[at + rng.choice((0, stop - start)) :]


Step = Callable[[Random, bytes, bytes], bytes]
BYTE_STEPS: tuple[Step, ...] = (
    flip,
    flip,
    set_byte,
    set_integer,
    set_integer,
    step_integer,
    cut_out,
    double,
    exchange,
    put_in,
    truncate,
    splice,
)


# ---------------------------------------------------------------------- by what it is made of


def edit(
    rng: Random, parts: list[Any], new: Callable[[Random], Any], steps: list[str], name: str
) -> None:
    """One change of a row of parts; `new` gives one that may come in."""
    kind = rng.choice(("delete", "repeat", "swap", "move", "insert", "insert", "replace"))
    steps.append(f"{kind}_{name}")
    if not parts or kind == "insert":
        parts.insert(rng.randint(0, len(parts)), new(rng))
        return
    at = rng.randrange(len(parts))
    if kind == "replace":
        parts[at] = new(rng)
        return
    other = rng.randrange(len(parts))
    if kind == "swap":
        parts[at], parts[other] = parts[other], parts[at]
        return
    piece = parts[at : at + rng.choice((1, 1, 1, 2, 5, 20))]
    if kind in ("delete", "move"):
        del parts[at : at + len(piece)]
    if kind in ("repeat", "move"):
        times = 1 if kind == "move" else rng.choice((1, 1, 3, 100))
        parts[other:other] = piece * (times if len(str(piece)) < 10_000 else 1)


class Form:
    """A format: how its files come apart, and how what is apart is changed."""

    def parts(self, content: bytes) -> Iterable[Any]:
        return ()

    def change(self, rng: Random, sample: Sample, samples: list[Sample], steps: list[str]) -> bytes:
        raise NotImplementedError


# ---- JSON

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[-+0-9.eE]+|[a-z]+|\s+|.', re.DOTALL)
VALUES: tuple[bytes, ...] = (
    *(b"0", b"-1", b"1", b"3", b"1.5", b"-0.0", b"1e9", b"1e999", b"-1e999", b"1E400", b"0x10"),
    *(b"null", b"true", b"false", b'""', b"[]", b"{}", b"[[]]", b"NaN", b"Infinity", b"-Infinity"),
    *(b"9" * 41, b"9" * 40, b"1" * 5000, b"1000000000", b"9223372036854775807", b"-" + b"9" * 19),
    *(b"9223372036854775808", b"18446744073709551615", b"4611686018427387904", b"[0,1]", b"[1,0]"),
    *(rb'"\ud800"', rb'"\u0000"', rb'"\udcff.safetensors"', rb'"\ud83d\ude00"', b'"\xff"', b'"\\"'),
    *(b'"../outside.safetensors"', b'"/etc/passwd"', b'"/dev/zero"', b'"/proc/self/mem"'),
    *(b'"link.safetensors"', b'"hard.safetensors"', b'"pipe.safetensors"', b'"a/b"', rb'"a\\b"'),
    *(b'"."', b'".."', b'"lacking.safetensors"'),
    *(b'"model.safetensors.index.json"', b'"model-00001-of-00002.safetensors"', b'"\\n"'),
    *(b'"model-00002-of-00002.safetensors"', b'"' + b"x" * 300 + b'"', b'"' + b"y" * 1001 + b'"'),
    *(b"[" * 33 + b"]" * 33, b"[" * 31 + b"]" * 31, b"[" * 5000, b'{"a":' * 40 + b"1" + b"}" * 40),
    *(b"[" + b"[]," * 500 + b"0]", b'{"a":1,"a":2}', b"\xef\xbb\xbf", b"//", b"'x'", b'{"":0}'),
    *(b'{"init_class":"BertModel"}', b'{"init_args":[{"init_class":"x"}],"init_class":"y"}'),
    *(b'"weight_map"', b'"__metadata__"', b'"dtype"', b'"shape"', b'"data_offsets"', b'"F32"'),
    *(b'"id2label"', b'"label2id"', b'"num_labels"', b'"pruned_heads"', b'"exits"', b'"init_args"'),
    *(b'{"0":"a","1":"b"}', b'{"a":0,"b":1}', b'{"0":[0,1]}', b'{"a":[1e999]}', b'{"1e9":"a"}'),
    *(b":", b",", b"{", b"}", b"[", b"]", b'"', b" ", b"\n", b"\t", b"\0", b"\xc3\xa9", b"-", b"e"),
)
"""Tokens, and runs of them, that a reader may trip over."""


def tokens(content: bytes) -> list[bytes]:
    return _TOKEN.findall(content)


def change_tokens(rng: Random, parts: list[bytes], pool: Sequence[bytes], steps: list[str]) -> None:
    values = [i for i, part in enumerate(parts) if part[:1] in b'"0123456789-tfn']
    kind = rng.randrange(5)
    if kind == 0 and values:  # a name or value in the place of another: names twice, wrong types
        steps.append("other_value")
        parts[rng.choice(values)] = rng.choice(VALUES) if _one_in(rng, 2) else rng.choice(pool)
    elif kind == 1 and values:
        steps.append("same_values")
        parts[rng.choice(values)] = parts[rng.choice(values)]
    elif kind == 3 and values:  # wherever it stands
        steps.append("every_value")
        old, new = parts[rng.choice(values)], rng.choice(VALUES)
        parts[:] = [new if part == old else part for part in parts]
    elif kind == 2 and values:  # one inside another
        steps.append("wrap")
        at, depth = rng.choice(values), rng.choice((1, 1, 2, 31, 33))
        left, right = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
        parts[at] = left * depth + parts[at] + right * depth
    else:
        edit(rng, parts, lambda r: r.choice(VALUES if _one_in(r, 2) else pool), steps, "token")


class JsonForm(Form):
    def parts(self, content: bytes) -> Iterable[Any]:
        return tokens(content)

    def change(self, rng: Random, sample: Sample, samples: list[Sample], steps: list[str]) -> bytes:
        parts = list(sample.parts)
        for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
            change_tokens(rng, parts, rng.choice(samples).parts, steps)
        return b"".join(parts)


# ---- safetensors

_SIZES = (0, 1, 2, 3, 4, 8, -1, 1 << 31, 1 << 32, 1 << 61, (1 << 62) - 1, 1 << 62, 1 << 63, 1 << 64)
_ODD: tuple[Any, ...] = (
    None,
    True,
    1.0,
    0.5,
    "1",
    "",
    [],
    {},
    [1],
    [[1]],
    {"a": 1},
    10**39,
    10**41,
)
_DTYPES = (*TYPES, "F8_E4M3", "F8_E5M2", "C64", "F4", "f32", "float32", "O", "")
NAMES = (
    *("", ".", "..", "../x", "a/../b", "/x", "a\0b", "a\nb", "x" * 1000, "x" * 1001, "é" * 600),
    *("__metadata__", "a.gamma", "a.weight", "a.beta", "bert.embeddings.LayerNorm.weight"),
    *(
        "transformer.encoder.layers.0.linear1.weight",
        "embeddings.layer_norm.weight",
        "\ud800",
        "😀",
    ),
    *("{n}", "{0}", "a" * 1024 + ".gamma", "StructuredToParameterName@@", "\x1b[2J", "a" * 1025),
)


class SafetensorsForm(Form):
    def change(self, rng: Random, sample: Sample, samples: list[Sample], steps: list[str]) -> bytes:
        header, data = self._split(sample.content)
        for _ in range(rng.choice((1, 1, 1, 2, 2, 3))):
            if _one_in(rng, 4):
                steps.append("header_token")
                parts = tokens(header)
                change_tokens(
                    rng, parts, tokens(self._split(rng.choice(samples).content)[0]), steps
                )
                header = b"".join(parts)
            else:
                with suppress(ValueError, RecursionError):  # no JSON any more
                    header = self._changed(rng, json.loads(header), steps)
        length = len(header)
        if _one_in(rng, 12):
            steps.append("header_length")
            length = rng.choice((length - 1, length + 1, length + len(data), *INTEGERS))
        if _one_in(rng, 12):
            steps.append("data")
            data = rng.choice(BYTE_STEPS)(rng, data, header)
        return (length & (1 << 64) - 1).to_bytes(8, "little") + header + data

    def _split(self, content: bytes) -> tuple[bytes, bytes]:
        length = int.from_bytes(content[:8], "little")
        return content[8 : 8 + length], content[8 + length :]

    def _changed(self, rng: Random, header: Any, steps: list[str]) -> bytes:
        """The header with one of its entries changed; a name may come to stand in it twice."""
        pairs = [[name, entry] for name, entry in header.items()] if type(header) is dict else []
        whole = [pair for pair in pairs if self._is_whole(pair[1])]
        if not whole:
            return json.dumps(header).encode()
        pair, other = rng.choice(whole), rng.choice(whole)
        entry = pair[1]
        kind = rng.choice(_HEADER_CHANGES)
        steps.append(f"header_{kind}")
        if kind == "swap":
            key = rng.choice(("data_offsets", "data_offsets", "shape", "dtype"))
            entry[key], other[1][key] = other[1][key], entry[key]
        elif kind == "dtype":
            entry["dtype"] = rng.choice(_DTYPES if rng.random() < 0.9 else _ODD)
        elif kind == "shape":
            self._reshape(rng, entry)
        elif kind == "offsets":
            self._move(rng, entry)
        elif kind == "name":
            pair[0] = rng.choice((*NAMES, other[0]))
        elif kind == "odd":
            entry[rng.choice(("dtype", "shape", "data_offsets", "more", ""))] = rng.choice(_ODD)
        elif kind == "lack":
            entry.pop(rng.choice(list(entry)))
        elif kind == "order":
            rng.shuffle(pairs)
        elif kind == "copy":
            pairs.append([rng.choice((*NAMES, "new")), copy.deepcopy(entry)])
        elif kind == "empty":  # takes no bytes, and is sound if its sizes are
            place = rng.choice((*entry["data_offsets"], 0))
            shape = [rng.choice(_SIZES) for _ in range(rng.choice((0, 1, 2, 7)))]
            shape.insert(rng.randint(0, len(shape)), 0)
            new = {"dtype": "F32", "shape": shape, "data_offsets": [place, place]}
            pairs.append(["empty", new])
        elif kind == "delete":
            pairs.remove(pair)
        else:
            about: Any = {"format": rng.choice(("pt", "np", "x" * 5000, *_ODD))}
            pairs.insert(0, ["__metadata__", rng.choice((about, *_ODD))])
        body = b",".join(
            json.dumps(name).encode() + b":" + json.dumps(entry).encode() for name, entry in pairs
        )
        return b"{" + body + b"}" + b" " * rng.choice((0, 0, 1, 8))

    def _is_whole(self, entry: Any) -> bool:
        if type(entry) is not dict or "dtype" not in entry:
            return False
        places = entry.get("data_offsets")
        return type(entry.get("shape")) is type(places) is list and len(places) == 2

    def _reshape(self, rng: Random, entry: dict[str, Any]) -> None:
        shape, kind = entry["shape"], rng.randrange(5)
        if kind == 0:
            rng.shuffle(shape)
        elif kind == 1:
            entry["shape"] = [1] * rng.choice((1, 2, 7, 8, 9, 100)) + shape
        elif kind == 2 and shape:
            shape[rng.randrange(len(shape))] = rng.choice((*_SIZES, *_ODD))
        elif kind == 3:  # its product wraps round to the same number
            entry["shape"] = [*shape, 1 << 32, 1 << 32] if _one_in(rng, 2) else [*shape, 0]
        else:
            shape.insert(rng.randint(0, len(shape)), rng.choice(_SIZES))

    def _move(self, rng: Random, entry: dict[str, Any]) -> None:
        places, kind = entry["data_offsets"], rng.randrange(4)
        if kind == 0:
            places.reverse()
        elif kind == 1:
            by = rng.choice((-8, -4, -1, 1, 4, 8, 1 << 32, 1 << 63))
            entry["data_offsets"] = [place + by if type(place) is int else 0 for place in places]
        else:
            places[rng.randrange(2)] = rng.choice((*_SIZES, *_ODD))


_HEADER_CHANGES = (
    *("swap", "dtype", "shape", "shape", "offsets", "offsets", "name", "odd", "lack", "order"),
    *("copy", "empty", "delete", "metadata"),
)


# ---- pickles

GLOBALS = (
    *(("os", "mkdir"), ("posix", "mkdir"), ("builtins", "eval"), ("__builtin__", "eval")),
    *(("builtins", "exec"), ("os", "system"), ("builtins", "getattr"), ("os.path", "join")),
    *(("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct")),
    *(("numpy", "ndarray"), ("numpy", "dtype"), ("numpy.core.multiarray", "scalar")),
    *(("_codecs", "encode"), ("codecs", "decode"), ("__builtin__", "bytes"), ("builtins", "tuple")),
    *(("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2")),
    *(("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_parameter")),
    *(("torch.storage", "_load_from_bytes"), ("torch", "FloatStorage"), ("torch", "LongStorage")),
    *(("torch", "BoolStorage"), ("torch", "QInt8Storage"), ("numpy", "ndarray.tobytes"), ("", "")),
    *(("copyreg", "_reconstructor"), ("numpy.core.numeric", "_frombuffer"), ("a\r", "b")),
)
_TEXTS = (
    *(name.encode("utf-8", "surrogatepass") for name in NAMES),
    *(b"storage", b"cpu", b"0", b"1", b"99", b"latin1", b"utf-8", b"idna", b"rot13", b"planted"),
    *(b"f4", b"f8", b"i8", b"b1", b"u2", b"O", b"V8", b"O8", b"S4", b"M8", b"c8", b"<", b">", b"|"),
    *(b"StructuredToParameterName@@", b"UnpackBigParamInfor@@", b"slices", b"OriginShape", b"="),
    *(
        b"\xff",
        b"\xed\xa0\x80",
        b"\xc3",
        b"\xc4\x80" * 600,
        b"little_endian",
        b"data/0",
        b"../data",
    ),
)


def text(raw: bytes) -> bytes:
    return b"X" + struct.pack("<I", len(raw)) + raw


def some_global(rng: Random) -> bytes:
    module, name = (part.encode() for part in rng.choice(GLOBALS))
    if _one_in(rng, 3):
        return text(module) + text(name) + b"\x93"
    return b"c" + module + b"\n" + name + b"\n"


def some_number(rng: Random) -> bytes:
    value = rng.choice((*INTEGERS, rng.randrange(40)))
    kind = rng.choice(b"JKM\x8a\x8a")
    if kind == 0x8A:
        raw = value.to_bytes(rng.choice((9, 10, 100)), "little", signed=True)
        return b"\x8a" + bytes([len(raw)]) + raw
    width = {ord("J"): 4, ord("K"): 1, ord("M"): 2}[kind]
    return bytes([kind]) + _packed(rng, width, value)


def execution(rng: Random) -> bytes:
    """Makes the planted directory, in one of the ways that pickles have."""
    mkdir, name = b"cos\nmkdir\n", text(PLANTED.encode())
    how = rng.choice(
        (
            mkdir + name + b"\x85R",
            text(b"os") + text(b"mkdir") + b"\x93" + name + b"\x85R",
            mkdir + b"(" + name + b"tR",
            b"(" + name + b"ios\nmkdir\n",
            b"(" + mkdir + name + b"o",
            mkdir + name + b"\x85\x81",
            mkdir + name + b"\x85}\x92",
            b"cbuiltins\neval\n" + text(b"__import__('os').mkdir('planted')") + b"\x85R",
            b"}" + text(b"__setstate__") + mkdir + b"s" + name + b"b",
            b"\x82\x01" + name + b"\x85R",
        )
    )
    return how + rng.choice((b"", b"", b"0"))


def lying_length(rng: Random) -> bytes:
    code, width = rng.choice(
        ((b"X", 4), (b"\x8d", 8), (b"\x8c", 1), (b"B", 4), (b"\x8e", 8), (b"C", 1), (b"\x96", 8))
    )
    raw = rng.choice(_TEXTS)
    length = rng.choice((*INTEGERS, len(raw) + 1, max(0, len(raw) - 1)))
    return code + _packed(rng, width, length) + raw


def memo(rng: Random) -> bytes:
    number = rng.choice((*range(12), 255, 256, (1 << 31), (1 << 32) - 1))
    if number < 256 and rng.random() < 0.7:
        return rng.choice((b"q", b"h", b"h")) + bytes([number])
    return rng.choice((b"r", b"j", b"\x94", b"\x94")) + struct.pack("<I", number)


def nest(rng: Random) -> bytes:
    """Values inside one another, inside themselves, or shared ever more often."""
    kind, times = rng.randrange(6), rng.choice((2, 4, 5, 30, 3000))
    if kind == 0:
        return b"N" + b"\x85" * times
    if kind == 1:
        return b"}N" + b"\x85" * times + b"Ns"
    if kind == 2:
        return rng.choice((b"]q\x63h\x63a", b"}q\x63" + text(b"x") + b"h\x63s"))
    if kind == 3:
        return b"".join(b"}" + text(b"a") for _ in range(times)) + b"N" + b"s" * times
    if kind == 4:
        return b"]" * times + b"a" * (times - 1)
    wide = rng.choice((2, 20))
    shared = b"".join(text(b"k%d" % i) + b"h\x63" for i in range(wide))
    first = b"}" + text(b"a") + b"Nsq\x63"
    return first + b"".join(b"0}(" + shared + b"uq\x63" for _ in range(min(times, 6)))


_OPCODES = tuple(bytes([ord(code.code)]) for code in pickletools.opcodes)


_PLAIN = tuple(bytes([code]) for code in b"(t012}])N\x88\x89RbsuaeQG\x81\x85\x86\x87\x90\x97.")


def instruction(rng: Random) -> bytes:
    """Some bytes to stand between a pickle's instructions."""
    kind = rng.randrange(16)
    if kind == 0:
        return execution(rng)
    if kind in (1, 2):
        return some_number(rng)
    if kind in (3, 4):
        return text(rng.choice(_TEXTS))
    if kind == 5:
        return lying_length(rng)
    if kind in (6, 7):
        return memo(rng)
    if kind == 8:
        return nest(rng)
    if kind in (9, 10):
        return some_global(rng)
    if kind == 11:
        return b"\x95" + _packed(rng, 8, rng.choice(INTEGERS))
    if kind == 12:
        return rng.choice(_OPCODES) + rng.choice((b"", rng.randbytes(rng.randrange(9))))
    if kind == 13:
        return b"\x80" + bytes([rng.randrange(8)])
    return rng.choice(_PLAIN)


def other_argument(rng: Random, part: bytes) -> bytes:
    """An instruction with something else after its first byte."""
    code, rest = part[:1], part[1:]
    if code in b"X\x8c\x8d\x8e" and rest:
        raw = rng.choice(_TEXTS)
        width = {b"X": 4, b"\x8c": 1}.get(code, 8)
        raw = raw[:255] if width == 1 else raw
        return code + len(raw).to_bytes(width, "little") + raw
    if code in b"BC" and rest:
        raw = rng.randbytes(min(255, rng.choice((0, 1, 4, len(rest), 200))))
        return code + len(raw).to_bytes(4 if code == b"B" else 1, "little") + raw
    if code == b"c":
        return some_global(rng)
    if code in b"JKM\x8a":
        return some_number(rng)
    if code in b"qrhj":
        return memo(rng)
    return code + rng.randbytes(len(rest))


def number(value: int) -> bytes:
    if 0 <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    return b"\x8a\x0b" + value.to_bytes(11, "little", signed=True)


def change_shape(rng: Random, parts: list[bytes]) -> None:
    """Tuples of numbers are shapes, and steps after them: both get a size more, less or other."""
    codes = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
    ends = [
        (at - codes[part], at)
        for at, part in enumerate(parts)
        if at >= codes.get(part, at + 1)
        and all(p[:1] in b"JKM\x8a" for p in parts[at - codes[part] : at])
    ]
    if not ends:
        return
    first = rng.randrange(len(ends))
    times, place, kind = rng.choice((1, 2, 2)), rng.randrange(9), rng.randrange(4)
    extra = rng.choice((1, 1, 2, 6))
    for start, end in ends[first : first + times][::-1]:
        sizes = parts[start:end]
        at = place % len(sizes)
        new = [number(rng.choice(_SIZES)) for _ in range(extra)]
        if kind == 0:
            sizes[at] = new[0]
        elif kind == 1:
            sizes[at:at] = new
        elif kind == 2:
            del sizes[at]
        else:
            sizes[at:at] = [number(0), *new]
        parts[start : end + 1] = [b"(", *sizes, b"t"]


def instructions(content: bytes, most: int = 1) -> list[bytes]:
    """The instructions of so many pickles one after the other, and what follows in eights."""
    parts: list[bytes] = []
    at = 0
    for _ in range(most):
        places = [at + (place or 0) for _, _, place in pickletools.genops(content[at:])]
        at = places[-1] + 1
        parts += [content[a:b] for a, b in zip(places, [*places[1:], at], strict=True)]
    return [*parts, *(content[i : i + 8] for i in range(at, len(content), 8))]


def change_pickle(rng: Random, parts: list[bytes], pool: Sequence[bytes], steps: list[str]) -> None:
    for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3, 5))):
        kind = rng.random()
        if kind < 0.12:
            steps.append("shape")
            change_shape(rng, parts)
        elif parts and kind < 0.4:
            steps.append("argument")
            at = rng.randrange(len(parts))
            parts[at] = other_argument(rng, parts[at])
        elif kind < 0.6 and (marks := [i for i, part in enumerate(parts) if part == b"("]):
            steps.append("pair")  # where a dictionary's items begin, and a name would stand
            at = 1 + (marks[0] if rng.random() < 0.7 else rng.choice(marks))
            value = rng.choice((execution, nest, nest, memo, some_number, some_global, instruction))
            parts[at:at] = [text(rng.choice(_TEXTS)), value(rng)]
        else:
            edit(
                rng,
                parts,
                lambda r: instruction(r) if r.random() < 0.7 else r.choice(pool),
                steps,
                "instruction",
            )


class PickleForm(Form):
    def parts(self, content: bytes) -> Iterable[Any]:
        return instructions(content)

    def change(self, rng: Random, sample: Sample, samples: list[Sample], steps: list[str]) -> bytes:
        parts = list(sample.parts)
        change_pickle(rng, parts, rng.choice(samples).parts, steps)
        return b"".join(parts)


# ---- PyTorch's


@dataclass
class Entry:
    """One of a zip's; what its two headers say may be set field by field."""

    name: bytes
    data: bytes
    local: dict[int, int] = field(default_factory=dict)
    central: dict[int, int] = field(default_factory=dict)
    local_extra: bytes = b""
    central_extra: bytes = b""
    deflate: bool = False


_LOCAL = ("<4s", "HHHHHIIIHH")
_CENTRAL = ("<4s", "HHHHHHIIIHHHHHII")
_END = ("<4s", "HHHHIIH")
_END_64 = ("<4s", "QHHIIQQQQ")
_LOCATOR = ("<4s", "IQI")


def _fields(layout: tuple[str, str], magic: bytes, values: list[int], odd: dict[int, int]) -> bytes:
    """A record of a zip, with some of its numbers set to others."""
    widths = {"H": 16, "I": 32, "Q": 64}
    for at, value in odd.items():
        values[at] = value & (1 << widths[layout[1][at]]) - 1
    return struct.pack(layout[0] + layout[1], magic, *values)


def zipped(
    entries: list[Entry], end: dict[int, int], end_64: dict[int, int] | None, tail: bytes
) -> bytes:
    """A zip whose checksums and sizes are right unless an entry says otherwise.

    Written here, since zipfile writes none that lies. `end_64` adds the records of zip64.
    """
    out, directory = bytearray(), bytearray()
    for entry in entries:
        data = entry.data
        if entry.deflate:
            packer = zlib.compressobj(wbits=-15)
            data = packer.compress(data) + packer.flush()
        method, checksum = (8 if entry.deflate else 0), zlib.crc32(entry.data)
        sizes = [checksum, len(data), len(entry.data), len(entry.name) & 0xFFFF]
        extras = len(entry.local_extra) & 0xFFFF, len(entry.central_extra) & 0xFFFF
        central = [20, 20, 0, method, 0, 0, *sizes, extras[1], 0, 0, 0, 0, len(out)]
        directory += _fields(_CENTRAL, b"PK\x01\x02", central, entry.central)
        directory += entry.name + entry.central_extra
        local = [20, 0, method, 0, 0, *sizes, extras[0]]
        out += _fields(_LOCAL, b"PK\x03\x04", local, entry.local)
        out += entry.name + entry.local_extra + data
    start, count = len(out), len(entries) & 0xFFFF
    out += directory
    if end_64 is not None:
        at = len(out)
        values = [44, 45, 45, 0, 0, count, count, len(directory), start]
        out += _fields(_END_64, b"PK\x06\x06", values, end_64)
        out += _fields(_LOCATOR, b"PK\x06\x07", [0, at, 1], {})
        end = {4: 0xFFFFFFFF, 5: 0xFFFFFFFF, **end}
    values = [0, 0, count, count, len(directory), start, len(tail) & 0xFFFF]
    out += _fields(_END, b"PK\x05\x06", values, end)
    return bytes(out + tail)


_ZIP_NAMES = (
    *(b"archive/data/0", b"archive/data/1", b"archive/data.pkl", b"data.pkl", b"x/data.pkl", b""),
    *(b"archive/byteorder", b"archive/constants.pkl", b"../data/0", b"archive/data/0\0x", b"\xff"),
    *(b"archive/data/", b"archive/version", "archive/data/é".encode(), b"a" * 5000, b"/data.pkl"),
)


class TorchForm(Form):
    """Both of torch's formats: a zip, and pickles in a row."""

    def parts(self, content: bytes) -> Iterable[Any]:
        if not content.startswith(b"PK"):
            return instructions(content, 5)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            infos = sorted(archive.infolist(), key=lambda info: info.header_offset)
            found = [(info.filename.encode(), archive.read(info)) for info in infos]
        return [
            (name, tuple(instructions(data)) if name.endswith(b"data.pkl") else (data,))
            for name, data in found
        ]

    def change(self, rng: Random, sample: Sample, samples: list[Sample], steps: list[str]) -> bytes:
        if not sample.content.startswith(b"PK"):
            return PickleForm().change(rng, sample, samples, steps)
        entries, names = [], [name for name, _ in sample.parts]
        for name, parts in sample.parts:
            if name.endswith(b"data.pkl") and rng.random() < 0.65:
                other = next(p for n, p in rng.choice(samples).parts if n.endswith(b"data.pkl"))
                changed = list(parts)
                change_pickle(rng, changed, other, steps)
                parts = changed
            entries.append(Entry(name, b"".join(parts)))
        end: dict[int, int] = {}
        end_64: dict[int, int] | None = {} if _one_in(rng, 12) else None
        tail = b""
        while not steps or _one_in(rng, 3):
            kind = rng.randrange(11)
            steps.append(f"zip_{kind}")
            entry = rng.choice(entries) if entries else Entry(b"x", b"")
            odd = rng.choice((*INTEGERS, len(entry.data) - 1, len(entry.data) + 1))
            if kind == 0:
                edit(
                    rng,
                    entries,
                    lambda r: Entry(r.choice((*_ZIP_NAMES, *names)), r.randbytes(r.randrange(40))),
                    steps,
                    "entry",
                )
            elif kind == 1:
                entry.name = rng.choice((*_ZIP_NAMES, *names))
            elif kind == 2:
                entry.data = rng.choice(BYTE_STEPS)(rng, entry.data, sample.content)
            elif kind == 3:
                entry.local[rng.randrange(len(_LOCAL[1]))] = odd
            elif kind in (4, 5):
                entry.central[rng.randrange(len(_CENTRAL[1]))] = odd
            elif kind == 6:
                end[rng.randrange(len(_END[1]))] = odd
            elif kind == 7:  # an extra field, zip64's among them, whose sizes lie
                sizes = b"".join(_packed(rng, 8, rng.choice(INTEGERS)) for _ in range(3))
                extra = struct.pack("<HH", rng.choice((1, 1, 0x4246)), rng.choice((24, 16, 8, 99)))
                entry.central_extra = extra + sizes
                entry.central |= dict.fromkeys(rng.sample((7, 8, 15), 2), 0xFFFFFFFF)
            elif kind == 8:
                entry.local_extra = rng.randbytes(rng.choice((1, 4, 64)))
            elif kind == 9:
                entry.deflate = True
            else:
                end_64 = {rng.randrange(len(_END_64[1])): odd}
                tail = rng.choice((b"", b"", b"comment", b"PK\x05\x06" + bytes(18)))
        return zipped(entries, end, end_64, tail)


FORMS: dict[str, Form] = {
    "json": JsonForm(),
    "safetensors": SafetensorsForm(),
    "pdparams": PickleForm(),
    "bin": TorchForm(),
}


# ---------------------------------------------------------------------- the corpus


class Planted:
    """Makes a directory when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (PLANTED,)


def make_corpus(directory: Path) -> None:
    """The files that mutants are made of, unless they are there: TARGET/N.FILE/FILE."""
    if directory.is_dir():
        return
    fresh = directory.with_name("corpus.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    maker = _Corpus(fresh)
    maker.safetensors()
    maker.torch()
    maker.paddle()
    maker.shards()
    maker.config()
    fresh.rename(directory)


class _Corpus:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        rng = np.random.default_rng(0)
        body = {
            "bert.embeddings.word_embeddings.weight": rng.normal(size=(7, 4)),
            "bert.embeddings.LayerNorm.gamma": rng.normal(size=4),
            "bert.encoder.layer.0.attention.self.query.weight": rng.normal(size=(4, 4)),
            "classifier.bias": rng.normal(size=2),
        }
        self.body = {name: Stored("F32", a.astype("<f4")) for name, a in body.items()}
        self.kinds = {
            name: Stored(name, rng.integers(0, 2, size=(2, 3)).astype(kind))
            for name, kind in TYPES.items()
        }
        self.shapes = {
            f"shape{len(shape)}": Stored("F16", rng.normal(size=shape).astype("<f2"))
            for shape in ((), (5,), (0, 3), (2, 1, 2), (1,) * 8, (2, 2, 1, 1))
        }
        paddle = {
            "bert.embeddings.layer_norm.weight": rng.normal(size=4),
            "bert.encoder.layers.0.self_attn.q_proj.weight": rng.normal(size=(4, 4)),
            "bert.encoder.layers.0.self_attn.q_proj.bias": rng.normal(size=4),
            "long": rng.normal(size=400),
        }
        self.paddle_body = {name: a.astype("<f4") for name, a in paddle.items()}

    def place(self, target: str, file: str) -> Path:
        """Where the target's next sample goes."""
        there = self.directory / target
        number = len(list(there.iterdir())) if there.is_dir() else 0
        path = there / f"{number:02}.{file}"
        path.mkdir(parents=True)
        return path / file

    def safetensors(self) -> None:
        import safetensors.numpy
        import safetensors.torch
        import torch

        name = "model.safetensors"
        for tensors in (self.body, self.kinds, self.shapes):
            write_safetensors(self.place("safetensors", name), tensors)
        arrays = {name: stored.array for name, stored in self.body.items()}
        safetensors.numpy.save_file(arrays, self.place("safetensors", name))
        safetensors.numpy.save_file(arrays, self.place("safetensors", name), {"format": "np"})
        halves = {"w": torch.ones(3, 2, dtype=torch.bfloat16), "n": torch.zeros(0, 2)}
        safetensors.torch.save_file(halves, self.place("safetensors", name))
        header = b'{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}   '
        self.place("safetensors", name).write_bytes(
            struct.pack("<Q", len(header)) + header + b"abc"
        )

    def torch(self) -> None:
        import torch

        base = torch.arange(12.0)
        views: Any = OrderedDict(
            plain=torch.arange(6.0).reshape(2, 3),
            turned=base.reshape(3, 4).T,
            part=base[2:6].reshape(2, 2),
            one=torch.tensor(3.5),
            none=torch.zeros(0, 4),
            parameter=torch.nn.Parameter(torch.ones(2)),
            epoch=3,
        )
        kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8)
        types = {str(kind): torch.ones(2, 2, dtype=kind) for kind in kinds}
        body = {name: torch.from_numpy(stored.array) for name, stored in self.body.items()}
        many = {"turned": torch.arange(3600.0).reshape(60, 60).T}  # of more than a page
        # One memory under many names, of which each is a copy once it lies row by row.
        square = torch.zeros(350, 350)
        bomb = {str(number): square.T for number in range(200)}
        lists = [body["classifier.bias"]]
        for value in (views, types, body, many, lists, bomb, {**body, "x": Planted()}):
            torch.save(value, self.place("torch-zip", "pytorch_model.bin"))
            path = self.place("torch-legacy", "pytorch_model.bin")
            torch.save(value, path, _use_new_zipfile_serialization=False)
        torch.save(body, self.place("torch-zip", "pytorch_model.bin"), pickle_protocol=4)
        write_torch(self.place("torch-zip", "pytorch_model.bin"), self.body)
        write_torch(self.place("torch-zip", "pytorch_model.bin"), self.shapes)

    def paddle(self) -> None:
        arrays = self.paddle_body
        own_names = {name: f"linear_{i}.w_0" for i, name in enumerate(arrays)}
        kinds: dict[str, Any] = {name: stored.array for name, stored in self.kinds.items()}
        kinds |= {"epoch": 3, "note": "text", "none": np.zeros((0, 3), "f4")}
        values: list[Any] = [
            {**arrays, "StructuredToParameterName@@": own_names},
            {name: (own_names[name], array) for name, array in arrays.items()},
            kinds,
            {"model": arrays, "last": np.asfortranarray(arrays["long"].reshape(20, 20))},
            {
                "w@@.0": np.ones(6, "f4"),
                "w@@.1": np.ones(4, "f4"),
                "UnpackBigParamInfor@@": {
                    "w": {"OriginShape": (5, 2), "slices": ["w@@.0", "w@@.1"]}
                },
            },
            {**arrays, "x": Planted()},
        ]
        file = "model_state.pdparams"
        for value in values:
            self.place("paddle-2", file).write_bytes(pickle.dumps(value, 2))
            self.place("paddle-4", file).write_bytes(pickle.dumps(value, 4))
        self.place("paddle-2", file).write_bytes(pickle.dumps(values[0], 3))
        self.place("paddle-4", file).write_bytes(pickle.dumps(values[0], 5))
        # More text than is decoded at a time.
        long = np.full(300_000, 0xBF80E901, "<u4").view("<f4")
        self.place("paddle-2", file).write_bytes(pickle.dumps({"long": long}, 2))
        write_paddle(self.place("paddle-4", file), self.body)
        write_paddle(self.place("paddle-4", file), self.shapes)
        # A dictionary under ever more names, each of which stands for the same arrays.
        bomb: Any = arrays
        for _ in range(3):
            bomb = dict.fromkeys("abcdefgh", bomb)
        self.place("paddle-4", file).write_bytes(pickle.dumps(bomb, 4))

    def shards(self) -> None:
        for index in INDEXES:
            whole = index.removesuffix(".index.json")
            tensors = {n: s for n, s in self.body.items() if not n.endswith("gamma")}
            for target in ("index", "index", "shards", "shards"):
                path = self.place(target, index)
                write_weights(path.parent, tensors, whole, max_shard_size=120)
                if target == "index":
                    continue
                found = sorted(p.name for p in path.parent.iterdir() if p.name != index)
                number = int(path.parent.name[:2])
                shard = found[number % len(found)]
                path.parent.rename(path.parent.with_name(f"{number:02}.{shard}"))

    def config(self) -> None:
        plain = {
            "architectures": ["BertForSequenceClassification"],
            "model_type": "bert",
            "hidden_size": 8,
            "hidden_dropout_prob": 0.0,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "vocab_size": 50,
            "id2label": {"0": "no", "1": "yes", "2": "é"},
            "label2id": {"no": 0, "yes": 1, "é": 2},
            "pruned_heads": {"0": [1]},
            "problem_type": None,
            "torch_dtype": "float32",
        }
        exits = {
            "num_labels": 2,
            "output_attentions": True,
            "exits": {"layers": [1, 2], "criterion": {"name": "entropy", "threshold": 0.2}},
            "initializer_range": 0.02,
        }
        old = {
            "init_args": [{"vocab_size": 50, "dropout": 0.0, "init_class": "BertModel"}],
            "init_class": "BertForSequenceClassification",
            "num_classes": 3,
        }
        numbers = {"label2id": {"no": 0, "yes": 1}, "num_classes": 2, "num_labels": 2}
        for values in (plain, exits, old, numbers):
            file = "model_config.json" if values is old else "config.json"
            self.place("config", file).write_text(json.dumps(values, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
