"""Saves that are killed before a system call, or of which one fails: the old model or the new.

`make kills` has every call of every case; here are those that change the disk, of three cases.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_injection import CHANGES, FILES, Fault, Outcome, Saver, faults, needs_strace

CASES = (
    "new",
    "one file",
    "over more shards",
    "sharded",
    "without exchange",
    "classifier",
    "checkpoint of a run",
    "file",
    "paddle",
    "research",
)
KILL = "signal=SIGKILL"
ANY = re.compile(r"\w+")

pytestmark = needs_strace


@pytest.fixture(scope="module")
def saver() -> Iterator[Saver]:
    """In memory where there is such a place: what a kill leaves there is what there was."""
    memory = Path("/dev/shm")
    place = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder, Saver(Path(folder)) as saver:
        yield saver


def check(saver: Saver, case: str, planned: list[Fault]) -> list[Outcome]:
    outcomes = [saver.outcome(case, fault) for fault in planned]
    assert [outcome for outcome in outcomes if not outcome.is_right] == []
    return outcomes


@pytest.mark.parametrize("case", ["one file", "sharded", "without exchange"])
def test_a_kill_leaves_one_model_or_the_other(case: str, saver: Saver) -> None:
    planned = list(faults(saver.calls(case), CHANGES, KILL))
    assert len(planned) > 40
    outcomes = check(saver, case, planned)
    assert {outcome.code for outcome in outcomes} == {-9}
    assert {outcome.found for outcome in outcomes} == {"old", "new"}


@pytest.mark.parametrize("what", ["error=ENOSPC", "error=EIO"])
def test_a_call_that_fails_leaves_one_model_or_the_other(what: str, saver: Saver) -> None:
    planned = list(faults(saver.calls("sharded"), CHANGES, what))
    outcomes = check(saver, "sharded", planned[::3])
    assert {outcome.found for outcome in outcomes} == {"old", "new"}
    assert any("Nothing was changed" in outcome.said for outcome in outcomes)


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("case", CASES)
def test_every_call_killed_and_failed(case: str, saver: Saver) -> None:
    counts = saver.calls(case)
    outcomes = check(saver, case, list(faults(counts, ANY, KILL)))
    outcomes += check(saver, case, list(faults(counts, CHANGES, "error=ENOSPC")))
    outcomes += check(saver, case, list(faults(counts, FILES, "error=EIO")))
    print(f"{case}: {len(outcomes)} saves, 0 torn, 0 mixed")
