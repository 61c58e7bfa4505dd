"""Every system call of a save, killed before it or failed, by strace's fault injection."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pytest

STRACE = shutil.which("strace")
CHANGES = re.compile(
    r"open(at)?|write|pwrite64|writev|f(data)?sync|f?truncate|fallocate|(f|l)?chmod(at2?)?|fchmodat"
    r"|rename(at2?)?|(un)?link(at)?|symlink(at)?|mkdir(at)?|rmdir|flock|utimensat|f?setxattr"
    r"|copy_file_range|sendfile"
)
"""System calls that change what is on the disk."""
FILES = re.compile(CHANGES.pattern + r"|read|pread64|newfstatat|statx|(l|f)?stat|getdents64|lseek")
"""Those that a disk can fail."""
_CALL = re.compile(r"^\d+ +(?:\[pid +\d+\] )?(\w+)\(", re.MULTILINE)


class Fault(NamedTuple):
    """The `number`th call of a kind is killed before, or fails: "signal=SIGKILL", "error=EIO"."""

    call: str
    number: int
    what: str


class Outcome(NamedTuple):
    """How the save ended, what it raised, what a load then found, and what a later save left."""

    fault: Fault
    code: int
    said: str
    found: str
    left: list[str]

    @property
    def is_right(self) -> bool:
        """One save or the other, a typed error, and nothing left behind afterwards."""
        typed = self.code in (0, 3, -9)
        unchanged = "Nothing was changed" not in self.said or self.found == "old"
        done = self.code != 0 or self.found == "new"
        return self.found in ("old", "new") and typed and unchanged and done and not self.left


class Saver:
    """killed_saver.py, and what is done to its children."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Saver:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killed_saver.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.cases: list[str] = self._answer()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def calls(self, case: str) -> Counter[str]:
        """How often a save calls which part of the system."""
        log = self.folder / "calls.txt"
        self._reset(case)
        self._save(case, ["-o", str(log)])
        text = log.read_text(errors="replace")
        log.unlink()
        counts = Counter(_CALL.findall(text))
        for never in ("exit_group", "exit"):
            counts.pop(never, None)
        return counts

    def outcome(self, case: str, fault: Fault) -> Outcome:
        """A save of a case with a fault, what it left, and what a later one did."""
        self._reset(case)
        call = fault.call
        inject = f"inject={call}:{fault.what}:when={fault.number}"
        code, said = self._save(case, ["-o", "/dev/null", "-e", f"trace={call}", "-e", inject])
        found = self.ask("look", case)
        self._reset(case)
        left = sorted(p.name for p in self.folder.rglob("*") if p.name.startswith("."))
        if (after := self.ask("look", case)) != "old":
            left.append(f"after the next save: {after}")
        return Outcome(fault, code, said, found, left)

    def ask(self, what: str, case: str | None = None) -> Any:
        request = {"do": what}
        if case is not None:
            request |= {"case": case, "target": str(self.folder / case.replace(" ", "-"))}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _reset(self, case: str) -> None:
        self.ask("reset", case)

    def _save(self, case: str, options: Sequence[str]) -> tuple[int, str]:
        child = self.ask("fork", case)
        assert STRACE is not None
        tracer = subprocess.Popen([STRACE, "-f", "-qq", *options, "-p", str(child)])
        until = time.monotonic() + 20
        while not _is_traced(child):
            assert time.monotonic() < until, "strace cannot attach"
            assert tracer.poll() is None, "strace cannot attach"
        code, said = self.ask("go")
        tracer.wait(timeout=20)
        return code, said

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


def faults(counts: Counter[str], calls: re.Pattern[str], what: str) -> Iterator[Fault]:
    """One for each of the calls that were counted."""
    for call, count in sorted(counts.items()):
        if calls.fullmatch(call):
            yield from (Fault(call, number, what) for number in range(1, count + 1))


def can_trace() -> bool:
    """Whether strace is here and may look at a process."""
    if STRACE is None:
        return False
    with subprocess.Popen(["sleep", "5"]) as sleeper:
        tracer = subprocess.Popen([STRACE, "-qq", "-o", "/dev/null", "-p", str(sleeper.pid)])
        until = time.monotonic() + 3
        while time.monotonic() < until and tracer.poll() is None and not _is_traced(sleeper.pid):
            time.sleep(0.01)
        traced = tracer.poll() is None and _is_traced(sleeper.pid)
        sleeper.kill()
        tracer.wait(timeout=10)
    return traced


def _is_traced(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return re.search(r"^TracerPid:\s*[1-9]", status, re.MULTILINE) is not None


needs_strace = pytest.mark.skipif(not can_trace(), reason="needs strace, and leave to trace")
