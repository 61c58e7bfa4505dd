"""A slice of benchmarks/fuzz_checkpoints.py, and that it can fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "fuzz_checkpoints.py"
sys.path.insert(0, str(BENCHMARKS))  # where `python benchmarks/fuzz_checkpoints.py` looks

from fuzzing import run  # noqa: E402
from fuzzing.corpus import PLANTED, TARGETS, make_corpus  # noqa: E402
from fuzzing.mutants import Fuzzer  # noqa: E402
from fuzzing.run import fuzz  # noqa: E402


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fuzz") / "corpus"
    make_corpus(directory)
    return directory


@pytest.fixture
def work(tmp_path: Path, corpus: Path) -> Path:
    (tmp_path / "corpus").symlink_to(corpus)
    return tmp_path


def test_20_000_mutants_are_read_or_refused(work: Path) -> None:
    state = fuzz(work, 20_000)
    assert not state.failures
    assert state.mutants == 20_000
    for target in TARGETS:
        assert state.counts[target].total() == 2500
        assert 100 < state.counts[target]["read"] < 1500  # the rest were refused


READERS = {
    # what a reader does in `read(path)`: (mutants, those that fail, as what)
    "raise KeyError(path)": (16, range(16), "KeyError at reader.py:4"),
    "if 'config' in path.name: os.abort()": (24, (7, 15, 23), "crash: SIGABRT"),
    "if 'config' in path.name: os._exit(0)": (8, (7,), "crash: exit status 0"),
    "if 'config' in path.name: os.kill(os.getpid(), 9)": (8, (7,), "act: os.kill"),
    "os.mkdir('planted')": (8, range(8), "executed"),
    "if '.index.' in path.name: bytearray(200 << 20)": (70, range(6, 70, 8), "memory"),
    "select.select([], [], [], 2.1)": (1, (0,), "time"),
    "if 'config' in path.name: time.sleep(60)": (8, (7,), "crash: more than 3 s"),
    "open('/etc/hostname').close()": (2, (0, 1), "act: open"),
    "eval('1')": (2, (0, 1), "act: compile"),
    "import this": (1, (0,), "act: import"),
    "raise offramp.CheckpointError('', kind='no kind')": (2, (0, 1), "CheckpointError of kind no"),
    "raise offramp.ConfigError('')": (8, range(7), "ConfigError for weights"),
    "raise MemoryError": (1, (0,), "MemoryError"),
    "warnings.warn('')": (1, (0,), "UserWarning"),
    "return": (100, (), ""),
}


@pytest.mark.parametrize("body", READERS)
def test_it_fails_where_a_reader_does(
    work: Path, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "STUCK", 3.0 if "sleep" in body else 20.0)
    mutants, failing, sort = READERS[body]
    reader = work / "reader.py"
    reader.write_text(
        f"import os, select, time, warnings\nimport offramp\ndef read(path):\n {body}\n"
    )
    state = fuzz(work, mutants, reader=reader)
    assert sorted(state.failures) == list(failing)
    assert {found[: len(sort)] for found, _ in state.failures.values()} <= {sort}
    assert state.mutants == sum(counts.total() for counts in state.counts.values()) == mutants
    assert sum(counts["failed"] for counts in state.counts.values()) == len(failing)
    kept = work / "failures" / state.key
    assert {int(path.name.split(".")[0]) for path in kept.glob("*.txt")} == set(failing)
    for number in failing:
        mutant = Fuzzer(work / "corpus", 0).mutant(number)
        assert (kept / mutant.name).read_bytes() == mutant.content


def test_failures_are_the_exit_status_and_tried_again_with_other_readers(work: Path) -> None:
    reader = work / "reader.py"
    command = [sys.executable, str(SCRIPT), "--work", str(work), "--reader", str(reader)]
    command += ["--mutants", "30", "--workers", "1"]
    for body, status, failures in (("raise KeyError", 1, 30), ("return", 0, 0)):
        reader.write_text(f"def read(path):\n {body}\n")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert done.stdout.endswith(f"failures: {failures}\n")
        assert "mutants: 30 of 30" in done.stdout
        assert "this run: 30 in" in done.stdout  # all of them again: the reader is another


def test_replay_shows_a_mutant(work: Path) -> None:
    reader = work / "reader.py"
    reader.write_text("def read(path):\n raise KeyError(path.name)\n")
    command = [sys.executable, str(SCRIPT), "--work", str(work), "--replay", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1].startswith(("read", "CheckpointError of kind "))
    command += ["--reader", str(reader)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "KeyError: 'model.safetensors'" in done.stderr


def test_what_is_planted_goes_off_when_executed(work: Path) -> None:
    """Or the absence of the directory would say nothing."""
    hostile = [path for path in (work / "corpus").rglob("*.*") if path.is_file()]
    hostile = [path for path in hostile if PLANTED.encode() in path.read_bytes()]
    kinds = {path.parent.parent.name for path in hostile}
    assert kinds == {"torch-zip", "torch-legacy", "paddle-2", "paddle-4"}
    code = """
import os, pickle, sys, torch
for path in sys.argv[1:]:
    torch.load(path, weights_only=False) if path.endswith(".bin") else pickle.load(open(path, "rb"))
    os.rmdir("planted")
"""
    command = [sys.executable, "-c", code, *map(str, hostile)]
    subprocess.run(command, cwd=work, check=True)  # there is none to remove if nothing was made


def test_a_mutant_is_a_function_of_seed_and_number(corpus: Path) -> None:
    one, same, other = (Fuzzer(corpus, seed) for seed in (1, 1, 2))
    for number in (*range(99, 0, -1), 10**12):
        assert one.mutant(number).content == same.mutant(number).content
    assert any(one.mutant(n).content != other.mutant(n).content for n in range(8))


SOME_FAIL = """
from offramp import CheckpointError
def read(path):
    total = sum(path.read_bytes())
    if total % 97 == 0:
        raise KeyError(total)
    if total % 5:
        raise CheckpointError("", kind="zip")
"""


def test_a_run_that_was_killed_goes_on(work: Path, corpus: Path) -> None:
    mutants, lines, reader = 5000, work / "state.jsonl", work / "reader.py"
    reader.write_text(SOME_FAIL)
    command = [sys.executable, str(SCRIPT), "--work", str(work), "--workers", "2"]
    command += ["--reader", str(reader), "--mutants", str(mutants)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (lines.exists() and lines.read_bytes().count(b"\n") > 1):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = lines.read_text()
    lines.write_text(kept + kept.splitlines()[0][:50])  # a line that it was writing
    done = sum(line.endswith("}") for line in kept.splitlines()) * run._JOB
    state = fuzz(work, mutants, reader=reader)
    assert state.before == done and 0 < done < state.mutants == mutants
    whole = work / "whole"
    whole.mkdir()
    (whole / "corpus").symlink_to(corpus)
    at_once = fuzz(whole, mutants, workers=1, reader=reader)
    assert (state.counts, state.failures) == (at_once.counts, at_once.failures)
    assert len(state.failures) > 10
    assert fuzz(work, mutants, reader=reader).before == mutants
