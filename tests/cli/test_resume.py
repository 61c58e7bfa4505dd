"""A stopped run goes on: what it leaves, what is taken up again, and what is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from exit_models import tiny_model, write_tokenizer
from invoking import Run
from task_models import some_texts

import offramp
from offramp.cli.partial import partial_file
from offramp.cli.row_progress import described, row_progress
from offramp.errors import SaveError
from offramp.runner.progress import Progress
from offramp.runner.rows import BLOCK

N_ROWS = 3 * BLOCK + 500
SCRIPT = Path(sys.executable).with_name("offramp")
PREDICT = ("predict", "model", "--data", "rows.jsonl", "--threads", "1")


def write_model(directory: Path, seed: int = 2, threshold: float = 0.5) -> None:
    model = tiny_model(seed)
    model.exits.criterion = offramp.Entropy(threshold)  # type: ignore[union-attr]
    model.save_pretrained(directory)
    write_tokenizer(directory)


def write_data(path: Path, n_rows: int = N_ROWS, seed: int = 3) -> None:
    words = ["good", "bad", "film", "the", "was", "story"]
    rng = random.Random(seed)
    rows = (" ".join(rng.choices(words, k=rng.randint(1, 20))) for _ in range(n_rows))
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, rows, the answers of a run that nobody stopped, and its identity."""
    folder = tmp_path_factory.mktemp("resume")
    write_model(folder / "model")
    write_data(folder / "rows.jsonl")
    start(folder, folder / "whole.jsonl").communicate(timeout=200)
    assert len(lines_of(folder / "whole.jsonl")) == N_ROWS
    killed = start(folder, folder / "killed.jsonl")
    about = folder / "killed.jsonl.partial.json"
    while not about.exists():
        assert killed.poll() is None
        time.sleep(0.002)
    killed.kill()
    killed.communicate()
    about.rename(folder / "run.json")
    return folder


def start(folder: Path, output: Path, *more: str) -> subprocess.Popen[bytes]:
    """The command as a process, which writes `output`."""
    return subprocess.Popen(
        [SCRIPT, *PREDICT, "--output", str(output), *more],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# ------------------------------------------------------------------ killed and gone on with


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_it_ends_in_the_same_bytes(
    seed: int, place: Path, tmp_path: Path
) -> None:
    whole = (place / "whole.jsonl").read_bytes()
    output, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    output.write_text("an earlier run's\n")
    rng = random.Random(seed)
    # The first is killed before the first block is whole, the next ones wherever they are.
    for share in (0.1 * rng.random(), 0.3 + 0.3 * rng.random(), 0.6 + 0.39 * rng.random()):
        process = start(place, output, "--resume")
        until = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < until:
            if partial.exists() and partial.stat().st_size >= share * len(whole):
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:  # too late to kill it
            assert output.read_bytes() == whole
            continue
        assert output.read_text() in ("an earlier run's\n", whole.decode())
        assert whole.startswith(partial.read_bytes()) if partial.exists() else True
    process = start(place, output, "--resume")
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, b"")
    assert output.read_bytes() == whole
    assert names_in(tmp_path) == {"out.jsonl"}


def leave(place: Path, folder: Path, lines: int, cut: bytes = b"") -> Path:
    """What a killed run leaves: so many lines, the beginning of one more, and what it was."""
    whole = lines_of(place / "whole.jsonl")
    (folder / "out.jsonl.partial").write_bytes(b"".join(whole[:lines]) + cut)
    (folder / "out.jsonl.partial.json").write_bytes((place / "run.json").read_bytes())
    return folder / "out.jsonl"


@pytest.mark.parametrize(
    ("lines", "cut"),
    [(0, b""), (0, b'{"lab'), (BLOCK - 1, b""), (BLOCK, b""), (BLOCK + 7, b'{"label": "LAB'),
     (2 * BLOCK, b"\0" * 5000), (N_ROWS, b"")],
)  # fmt: skip
def test_only_what_is_missing_is_computed(
    lines: int, cut: bytes, place: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = leave(place, tmp_path, lines, cut)
    asked: list[int] = []
    stream = offramp.Classifier.stream

    def counted(self: Any, texts: Any, **options: Any) -> Any:
        rows = list(texts)
        asked.append(len(rows))
        return stream(self, rows, **options)

    monkeypatch.setattr(offramp.Classifier, "stream", counted)
    assert run(*PREDICT, "--output", output, "--resume") == (0, "", "")
    assert asked == [N_ROWS - lines // BLOCK * BLOCK]
    assert output.read_bytes() == (place / "whole.jsonl").read_bytes()
    assert names_in(tmp_path) == {"out.jsonl"}


def test_without_resume_it_begins_anew(place: Path, tmp_path: Path, run: Run) -> None:
    output = leave(place, tmp_path, BLOCK)
    (tmp_path / "out.jsonl.partial").write_bytes(b'{"wrong": 1}\n' * BLOCK)
    assert run(*PREDICT, "--output", output) == (0, "", "")
    assert output.read_bytes() == (place / "whole.jsonl").read_bytes()
    assert names_in(tmp_path) == {"out.jsonl"}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("threshold", "whose threshold was null; now it is 0.1"),
        ("threads", "whose threads was 1; now it is 2"),
        ("text", 'whose text was null; now it is "text"'),
        ("data", "whose data was"),
        ("model", "whose model was"),
        ("criterion", "whose model was"),
        ("sidecar", "does not say what out.jsonl.partial belongs to"),
        ("damaged sidecar", "does not say what out.jsonl.partial belongs to"),
    ],
)
def test_another_run_s_is_refused(
    what: str, message: str, place: Path, tmp_path: Path, run: Run
) -> None:
    output = leave(place, tmp_path, BLOCK, b"cut")
    args = [*PREDICT, "--output", str(output), "--resume"]
    about = tmp_path / "out.jsonl.partial.json"
    if what == "threshold":
        args += ["--threshold", "0.1"]
    elif what == "threads":
        args[args.index("--threads") + 1] = "2"
    elif what == "text":
        args += ["--text", "text"]
    elif what == "data":
        write_data(tmp_path / "rows.jsonl", seed=4)
        args[args.index("rows.jsonl")] = str(tmp_path / "rows.jsonl")
    elif what in ("model", "criterion"):
        seed, threshold = (3, 0.5) if what == "model" else (2, 0.6)
        write_model(tmp_path / "other", seed, threshold)
        args[1] = str(tmp_path / "other")
    elif what == "sidecar":
        about.unlink()
    else:
        about.write_text("{")
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    code, _, said = run(*args)
    assert code == 2
    assert message in said
    assert "Run without --resume to begin anew." in said
    assert said.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_copy_of_model_and_data_is_the_same_run(place: Path, tmp_path: Path, run: Run) -> None:
    output = leave(place, tmp_path, BLOCK)
    copy = tmp_path / "copy"
    offramp.load(place / "model").save(copy)
    (tmp_path / "other.jsonl").write_bytes((place / "rows.jsonl").read_bytes())
    args = ["predict", copy, "--data", tmp_path / "other.jsonl", "--threads", "1"]
    assert run(*args, "--output", output, "--resume") == (0, "", "")
    assert output.read_bytes() == (place / "whole.jsonl").read_bytes()


def test_resume_wants_a_file_to_go_on_with(run: Run, tmp_path: Path) -> None:
    for args in (PREDICT, ("predict", "model", "good film", "--output", tmp_path / "x.jsonl")):
        code, _, said = run(*args, "--resume")
        assert code == 2
        assert "pass --data and --output" in said


# ------------------------------------------------------------------ the file itself


def written(output: Path, n_lines: int, **options: Any) -> int:
    with partial_file(output, {"data": "d"}, block=10, **options) as file:
        done = file.done
        for number in range(done, n_lines):
            file.write(str(number))
    return done


def test_an_error_leaves_what_can_be_gone_on_with(tmp_path: Path) -> None:
    output = tmp_path / "x"
    for n_lines, kept in ((9, set()), (25, {"x.partial", "x.partial.json"})):
        with (
            pytest.raises(KeyboardInterrupt),
            partial_file(output, {"data": "d"}, resume=False, block=10) as file,
        ):
            for number in range(n_lines):
                file.write(str(number))
            raise KeyboardInterrupt
        assert names_in(tmp_path) == kept
    assert written(output, 33, resume=True) == 20
    assert output.read_text() == "".join(f"{n}\n" for n in range(33))
    assert written(output, 12, resume=True) == 0  # nothing is left to go on with
    assert output.read_text() == "".join(f"{n}\n" for n in range(12))


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    output = tmp_path / "x"
    with partial_file(output, {}, resume=False, block=10) as file:
        file.write("mine")
        for resume in (False, True):
            with (
                pytest.raises(SaveError, match="is being written by another run"),
                partial_file(output, {}, resume=resume, block=10),
            ):
                pass
    assert output.read_text() == "mine\n"
    assert names_in(tmp_path) == {"x"}


# ------------------------------------------------------------------ progress


def test_progress_adds_windows_up(place: Path) -> None:
    classifier: offramp.Classifier = offramp.load(place / "model")
    texts = some_texts(BLOCK + 10)
    for ordered in (True, False):
        told: list[Progress] = []
        stream: Iterator[Any] = (
            classifier.stream(texts, progress=told.append)
            if ordered
            else classifier.stream(texts, ordered=False, progress=told.append)
        )
        found = [answer if ordered else answer[1] for answer in stream]
        windows = [now.rows for now in told]
        assert len(windows) > 1
        assert windows == sorted(set(windows))
        assert windows[-1] == len(texts)
        layers = [answer.exit_layer for answer in found]
        assert told[-1].layers == sum(layers)
        assert told[-1].mean_layers == pytest.approx(sum(layers) / len(layers))
        assert told[-1].tokens == sum(len(row.ids) for row in classifier.tokenizer.encode(texts))
        seconds = [now.seconds for now in told]
        assert seconds[0] > 0
        assert seconds == sorted(seconds)
        assert all(now.rows_per_second == now.rows / now.seconds for now in told)


def test_progress_is_shown_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    from offramp.cli import row_progress as module

    now = Progress(rows=20, tokens=1234, layers=50, seconds=2.0)
    assert described(now) == "10 rows/s, 2.50 layers a row, 1,234 tokens"
    for terminal in (False, True):
        shown = Console(stderr=True, force_terminal=terminal, width=160)
        monkeypatch.setattr(module, "console", shown)
        with row_progress("predict", 100, done=30) as progress:
            progress(now)
        said = capsys.readouterr().err
        assert ("50/100" in said) == terminal
        assert ("2.50 layers a row" in said) == terminal
