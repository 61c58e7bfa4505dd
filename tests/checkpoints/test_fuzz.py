"""A slice of benchmarks/fuzz_checkpoints.py, and that it can fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz_checkpoints.py"


def imported() -> ModuleType:
    spec = spec_from_file_location("fuzz_checkpoints", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


fuzzing = imported()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fuzz") / "corpus"
    fuzzing.make_corpus(directory)
    return directory


@pytest.fixture
def work(tmp_path: Path, corpus: Path) -> Path:
    (tmp_path / "corpus").symlink_to(corpus)
    return tmp_path


def test_20_000_mutants_are_read_or_refused(work: Path) -> None:
    tally = fuzzing.fuzz(work, 20_000, workers=2)
    assert not tally.failures, str(tally)
    assert tally.mutants == sum(tally.counts.values()) == 20_000
    for target in fuzzing.TARGETS:
        own = {outcome: n for (name, outcome), n in tally.counts.items() if name == target}
        assert sum(own.values()) == 2500
        assert 100 < own["read"] < 1500  # the rest were refused


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
    "raise offramp.ConfigError('')": (8, range(7), "ConfigError of kind config"),
    "raise MemoryError": (1, (0,), "MemoryError"),
    "warnings.warn('')": (1, (0,), "UserWarning"),
    "return": (100, (), ""),
}


@pytest.mark.parametrize("body", READERS)
def test_it_fails_where_a_reader_does(
    work: Path, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzzing, "_STUCK", 3.0 if "sleep" in body else 20.0)
    mutants, failing, sort = READERS[body]
    reader = work / "reader.py"
    reader.write_text(
        f"import os, select, time, warnings\nimport offramp\ndef read(path):\n {body}\n"
    )
    tally = fuzzing.fuzz(work, mutants, workers=2, reader=reader)
    assert sorted(tally.failures) == list(failing)
    assert {found[: len(sort)] for found, _, _ in tally.failures.values()} <= {sort}
    assert tally.mutants == sum(tally.counts.values()) == mutants
    kept = {int(p.name.split(".")[0]) for p in (work / "failures").glob("*.txt")}
    assert kept == set(list(failing)[:20])
    for number in kept:
        mutant = fuzzing.Fuzzer(work / "corpus", 0).mutant(number)
        saved = work / "failures" / f"{number}.{mutant.sample.file}"
        assert saved.read_bytes() == mutant.content


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


def test_what_is_planted_goes_off_when_executed(work: Path) -> None:
    """Or the absence of the directory would say nothing."""
    hostile = [path for path in (work / "corpus").rglob("*.*") if path.is_file()]
    hostile = [path for path in hostile if fuzzing.PLANTED.encode() in path.read_bytes()]
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
    one, same, other = (fuzzing.Fuzzer(corpus, seed) for seed in (1, 1, 2))
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
    mutants, state, reader = 8000, work / "state.jsonl", work / "reader.py"
    reader.write_text(SOME_FAIL)
    command = [sys.executable, str(SCRIPT), "--work", str(work), "--workers", "2"]
    command += ["--reader", str(reader), "--mutants", str(mutants)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not (state.exists() and state.read_bytes().count(b"\n") > 1):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = state.read_text()
    state.write_text(kept + kept.splitlines()[0][:50])  # a line that it was writing
    done = sum(line.endswith("}") for line in kept.splitlines()) * fuzzing._JOB
    tally = fuzzing.fuzz(work, mutants, workers=2, reader=reader)
    assert 0 < tally.run == mutants - done < mutants
    whole = work / "whole"
    whole.mkdir()
    (whole / "corpus").symlink_to(corpus)
    at_once = fuzzing.fuzz(whole, mutants, workers=1, reader=reader)
    assert (tally.mutants, tally.counts) == (at_once.mutants, at_once.counts)
    assert tally.failures.keys() == at_once.failures.keys() != set()
    assert fuzzing.fuzz(work, mutants, reader=reader).run == 0
