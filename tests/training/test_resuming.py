"""A run that was killed goes on and ends in the same bytes; another run's checkpoint is refused."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exit_models import write_body
from safetensors import safe_open
from task_models import write_model

import offramp
from offramp.errors import SaveError, TrainingError
from offramp.models.bert import BertModel
from offramp.storage.manifest import MANIFEST_FILE
from offramp.text.tables import Table
from offramp.training.loop import LOG_FILE
from offramp.training.options import TrainingOptions
from offramp.training.train import train

RunToy = Callable[..., tuple[Path, list[dict[str, Any]]]]
HERE = Path(__file__).parent
OPTIONS = TrainingOptions(
    epochs=2,
    batch_size=16,
    learning_rate=2e-3,
    ramp_learning_rate=4e-3,
    evaluations_per_epoch=3,
    patience=99,
)


def hidden(output: Path) -> Path:
    return output.with_name(f".{output.name}.training")


class Stop(Exception):  # noqa: N818
    """What stops a run in a test."""


@pytest.fixture
def run(toy_body: Path, toy_data: dict[str, Table], tmp_path: Path) -> RunToy:
    """Trains into `tmp_path / name`, stopped at evaluation `stop` if one is said."""

    def run(
        name: str = "out",
        *,
        stop: int | None = None,
        error: type[BaseException] = Stop,
        resume: bool = False,
        body: Path = toy_body,
        data: Table = toy_data["train"],
        dev: Table = toy_data["dev"],
        max_length: int | None = None,
        options: TrainingOptions = OPTIONS,
        steps: list[int] | None = None,
    ) -> tuple[Path, list[dict[str, Any]]]:
        seen = 0

        def on_evaluation(line: dict[str, Any]) -> None:
            nonlocal seen
            seen += 1
            if seen == stop:
                raise error("stop")

        output = tmp_path / name
        _, report = train(
            body, data, output, dev=dev, options=options, max_length=max_length, resume=resume,
            on_evaluation=on_evaluation,
            progress=lambda what, done, total: None if steps is None else steps.append(done),
        )  # fmt: skip
        return output, report.log

    return run


def content(directory: Path) -> dict[str, bytes]:
    """A run's files, the seconds left out."""
    files = {path.name: path.read_bytes() for path in directory.iterdir()}
    del files[MANIFEST_FILE]  # which tells of the log, with its seconds
    lines = [json.loads(line) for line in files[LOG_FILE].splitlines()]
    files[LOG_FILE] = json.dumps([{**line, "seconds": 0} for line in lines]).encode()
    return files


# ---------------------------------------------------------------------------------------------
# Killed processes.

SEVERAL = {"batch_size": 16, "learning_rate": 2e-3, "ramp_learning_rate": 4e-3, "patience": 99}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
@pytest.mark.parametrize(
    ("task", "options", "seed"),
    [
        ("classify", {"schedule": "two-stage", "epochs": 2, "evaluations_per_epoch": 3}, 0),
        ("classify", {"schedule": "mixed", "epochs": 2, "class_weights": "balanced"}, 1),
        ("tag", {"epochs": 3}, 2),
    ],
)
def test_a_killed_run_ends_in_the_same_bytes(
    task: str, options: dict[str, object], seed: int, tmp_path: Path
) -> None:
    if task == "tag":
        write_model(tmp_path / "body", BertModel, initializer_range=0.1)
    else:
        write_body(tmp_path / "body")
    rng = random.Random(seed)
    # A checkpoint has two files, and its folder, its place and the place of that are flushed too.
    moments = [
        ["step", rng.randint(4, 6)],
        ["half a file", rng.randint(1, 2)],
        ["flush", rng.randint(6, 10)],  # of the second checkpoint's
        ["removal", 2],
        ["seconds", rng.uniform(0, 0.3)],
        ["step", rng.randint(5, 8)],
        ["flush", rng.randint(1, 5)],
        ["flush", rng.randint(12, 16)],
    ]
    rng.shuffle(moments)
    command = [sys.executable, HERE / "killed_runs.py", task, tmp_path]
    command += [json.dumps({**SEVERAL, **options}), json.dumps(moments)]
    folders = [HERE, HERE.parent / "exits", *map(Path, sys.path)]
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, folders))},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ends = json.loads(done.stdout.splitlines()[-1])
    assert set(ends) <= {"killed", "exit 0"}, done.stderr
    assert ends.count("killed") >= 5
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["body", "killed", "whole"]


# ---------------------------------------------------------------------------------------------
# One process.


@pytest.mark.parametrize("stop", [1, 2, 3, 5])
def test_a_stopped_run_goes_on_from_its_last_evaluation(stop: int, run: RunToy) -> None:
    whole, log = run("whole")
    with pytest.raises(Stop):
        run(stop=stop)
    torch.manual_seed(77)  # which must not matter
    steps: list[int] = []
    out, resumed = run(resume=True, steps=steps)
    # Stopped while it tells of an evaluation, it has kept the one before.
    assert steps[0] == 1 + (0 if stop == 1 else log[stop - 2]["step"])
    assert [{**line, "seconds": 0} for line in resumed] == [{**line, "seconds": 0} for line in log]
    assert content(out) == content(whole)
    seconds = [line["seconds"] for line in resumed]
    assert seconds == sorted(seconds)


def test_without_resume_a_run_begins_anew(
    run: RunToy,
) -> None:
    with pytest.raises(Stop):
        run(stop=3)
    assert hidden(run("other")[0].with_name("out")).is_dir()
    steps: list[int] = []
    out, _ = run(steps=steps)
    assert steps[0] == 1
    assert not hidden(out).exists()


def test_with_nothing_to_resume_a_run_begins(run: RunToy, tmp_path: Path) -> None:
    whole, _ = run("whole")
    out, _ = run(resume=True)
    assert content(out) == content(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_a_run_that_was_stopped_after_training_saves(
    run: RunToy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, _ = run("whole")
    write_text = Path.write_text

    def full(path: Path, *args: object, **kwargs: object) -> int:
        if path.name == LOG_FILE:
            raise OSError(28, "No space left on device")
        return write_text(path, *args, **kwargs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(SaveError, match="No space"):
            run()
    assert not (tmp_path / "out").exists()
    steps: list[int] = []
    out, _ = run(resume=True, steps=steps)
    assert not steps, "all was learnt before"
    assert content(out) == content(whole)


def test_a_checkpoint_holds_no_code(run: RunToy) -> None:
    with pytest.raises(Stop):
        run(stop=3)
    place = hidden(Path(run("other")[0]).with_name("out")) / "checkpoint"
    assert sorted(path.name for path in place.iterdir()) == [
        "checkpoint.json",
        "checkpoint.safetensors",
        MANIFEST_FILE,
    ]
    values = json.loads((place / "checkpoint.json").read_text())
    assert values["step"] == 10
    with safe_open(place / "checkpoint.safetensors", "pt") as file:
        names = set(file.keys())
    assert {"random/torch", "random/order", "model/classifier.bias"} <= names
    assert any(name.startswith("optimizer/0/exp_avg") for name in names)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SaveError, RuntimeError])
def test_what_stops_a_run_from_outside_leaves_its_checkpoint(
    error: type[BaseException],
    run: RunToy,
    tmp_path: Path,
) -> None:
    with pytest.raises(error):
        run(stop=2, error=error)
    assert hidden(tmp_path / "out").is_dir()
    with pytest.raises(error):
        run("first", stop=1, error=error)
    assert not hidden(tmp_path / "first").exists(), "there is nothing to go on with"


def test_a_run_that_would_fail_again_leaves_nothing(run: RunToy, tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        run(stop=3, error=TrainingError)
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------
# What is refused.


def test_another_run_s_checkpoint_is_refused(
    run: RunToy,
    toy_data: dict[str, Table],
    tmp_path: Path,
) -> None:
    with pytest.raises(Stop):
        run(stop=3)
    train_, dev = toy_data["train"], toy_data["dev"]
    assert train_.labels is not None
    assert dev.labels is not None
    one_label = ["neg" if train_.labels[0] == "pos" else "pos", *train_.labels[1:]]
    others: dict[str, dict[str, object]] = {
        "epochs was 2; now it is 3": {"options": replace(OPTIONS, epochs=3)},
        'class_weights was null; now it is "balanced"': {
            "options": replace(OPTIONS, class_weights="balanced")
        },
        'schedule was "joint"; now it is "mixed"': {"options": replace(OPTIONS, schedule="mixed")},
        "data was": {"data": Table("train", train_.texts, one_label)},
        "dev was": {"dev": Table("dev", [*dev.texts[:-1], "good film"], dev.labels)},
        "model was": {"body": write_body(tmp_path / "body", seed=5)},
    }
    for words, change in others.items():
        with pytest.raises(SaveError, match=f"another run, whose {words}.*without resume"):
            run(resume=True, **change)
    with pytest.raises(SaveError, match="whose model was"):  # its tokenizer's
        run(resume=True, max_length=7)
    assert hidden(tmp_path / "out").is_dir()
    # The files' names do not matter, only what is in them.
    out, _ = run(resume=True, data=Table("elsewhere", train_.texts, train_.labels))
    assert out.is_dir()


def test_a_checkpoint_that_is_not_sound_is_refused(run: RunToy, tmp_path: Path) -> None:
    with pytest.raises(Stop):
        run(stop=3)
    place = hidden(tmp_path / "out") / "checkpoint"
    good = (place / "checkpoint.safetensors").read_bytes()
    (place / "checkpoint.safetensors").write_bytes(good[: len(good) // 2])
    with pytest.raises(SaveError, match="not a sound checkpoint"):
        run(resume=True)
    (place / "checkpoint.safetensors").write_bytes(good)
    for values in ("{", "[]", "{}"):
        (place / "checkpoint.json").write_text(values)
        with pytest.raises(SaveError, match="not a sound checkpoint"):
            run(resume=True)


def test_two_runs_do_not_write_one_output(run: RunToy, tmp_path: Path) -> None:
    refused = []

    def second(line: dict[str, Any]) -> None:
        with pytest.raises(SaveError, match="being written by another training run") as found:
            run("out")
        refused.append(found)

    table = Table("t", ["good film", "bad film"] * 8, ["pos", "neg"] * 8)
    body = write_body(tmp_path / "body")
    options = TrainingOptions(epochs=2)
    train(body, table, tmp_path / "out", dev=table, options=options, on_evaluation=second)
    assert len(refused) == 2
    assert offramp.load(tmp_path / "out").labels == ["neg", "pos"]
