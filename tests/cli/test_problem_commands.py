"""`offramp train --task regress` and `multilabel`, and `predict` with what they wrote."""

import json
import random
from pathlib import Path

import pytest
from exit_models import WORDS, write_body
from invoking import Run

import offramp


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("regress")
    rng = random.Random(0)
    rows = []
    for _ in range(160):
        a, b = (rng.choices(WORDS, k=4) for _ in "ab")
        rows.append({"a": " ".join(a), "b": " ".join(b), "label": len(set(a) & set(b)) + 0.5})
    for name, part in (("train", rows[:120]), ("dev", rows[120:])):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines, "utf-8")
    write_body(folder / "body")
    return folder


def test_pairs_with_numbers(run: Run, place: Path) -> None:
    common = ["--data", "train.jsonl", "--dev", "dev.jsonl", "--text", "a", "--pair", "b"]
    tiny = ["--model", "body", "--epochs", "1", "--learning-rate", "2e-3"]
    done = run("train", "--task", "regress", *common, *tiny, "--output", "model")
    assert done.code == 0, done.err
    assert "of change from exit to exit: dev pearson" in " ".join(done.err.split())
    assert "by exit" in done.err
    assert isinstance(offramp.load(place / "model"), offramp.Regressor)
    lines = run("predict", "model", "--data", "dev.jsonl", "--text", "a", "--pair", "b").lines
    assert len(lines) == 40
    assert all(list(line) == ["value", "exit_layer"] for line in lines)
    assert all(isinstance(line["value"], float) for line in lines)
    refused = run("predict", "model", "a film", "--threshold", "0.1")
    assert refused.code == 2
    assert "opens as Classifier or Tagger; this one it opens as Regressor" in " ".join(
        refused.err.split()
    )


def test_what_does_not_fit(run: Run, place: Path) -> None:
    words = ["--data", "train.jsonl", "--text", "a", "--model", "body", "--output", "no"]
    done = run("train", "--task", "regress", *words, "--score", "f1")
    assert done.code == 2
    assert "pearson, spearman; got 'f1'" in " ".join(done.err.split())
    done = run("train", "--task", "regress", *words, "--label", "b")
    assert done.code == 2
    assert "is no number" in " ".join(done.err.split())
    assert not (place / "no").exists()


def test_lists_of_labels(run: Run, place: Path) -> None:
    rng = random.Random(1)
    lines = []
    for _ in range(120):
        words = rng.choices(WORDS, k=6)
        labels = [word for word in ("film", "music") if word in words]
        lines.append(json.dumps({"text": " ".join(words), "label": labels}) + "\n")
    (place / "lists.jsonl").write_text("".join(lines), "utf-8")
    options = ["--data", "lists.jsonl", "--model", "body", "--epochs", "1"]
    done = run("train", "--task", "multilabel", *options, "--output", "labels")
    assert done.code == 0, done.err
    assert "dev micro_f1" in " ".join(done.err.split())
    (line,) = run("predict", "labels", "a film").lines
    assert list(line) == ["labels", "probabilities", "exit_layer"]
    done = run("train", *options, "--output", "no")
    assert done.code == 2
    assert "set problem_type='multi_label_classification'" in " ".join(done.err.split())
