"""`offramp train --task regress` and `multilabel`; `predict` and `evaluate` of what they wrote."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from exit_models import WORDS, write_body
from invoking import Run

import offramp
from offramp.exits.criteria import criterion_from_dict

QUICK = ["--rounds", "1", "--timing-rows", "5"]
PAIR = ["--text", "a", "--pair", "b"]


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
    done = run("evaluate", "labels", "--data", "lists.jsonl", *QUICK)
    assert done.code == 0, done.err
    out = " ".join(done.out.split())
    for words in ("micro_f1", "macro_f1", "exact_match", "(hundredths of micro_f1)", "Entropy("):
        assert words in out
    assert "transformers' logits differ from the plain model's by at most" in out
    refused = run("evaluate", "labels", "--data", "train.jsonl", "--text", "a", *QUICK)
    assert refused.code == 2
    assert "is no list" in " ".join(refused.err.split())
    done = run("train", *options, "--output", "no")
    assert done.code == 2
    assert "train with problem_type='multi_label_classification'" in " ".join(done.err.split())


@pytest.fixture(scope="module")
def regressor(place: Path) -> Path:
    """The folder, with a regression model `numbers` in it."""
    train, dev = (
        offramp.read_table(place / f"{name}.jsonl", text="a", pair="b") for name in ("train", "dev")
    )
    options = offramp.TrainingOptions(problem_type="regression", epochs=2, learning_rate=2e-3)
    offramp.train(place / "body", train, place / "numbers", dev=dev, options=options)
    return place


def test_evaluate_numbers(run: Run, regressor: Path) -> None:
    data = ["--data", "dev.jsonl", "--dev", "train.jsonl", *PAIR]
    few = ["--thresholds", "0.1,0.4", "--output", "table.json", "--no-transformers"]
    done = run("evaluate", "numbers", *data, *few, *QUICK)
    assert done.code == 0, done.err
    out = " ".join(done.out.split())
    for words in ("pearson", "spearman", "truncated to 1", "(chosen)", "(hundredths of pearson)"):
        assert words in out
    assert "accuracy" not in out
    values = json.loads((regressor / "table.json").read_text("utf-8"))
    assert values["measure"] == "pearson"
    assert {"exits at 0.1", "exits at 0.4"} <= {line["system"] for line in values["lines"]}
    (chosen,) = [line for line in values["lines"] if line["chosen"]]

    # Saved with the criterion that was chosen, the model answers as the table says.
    model = offramp.load(regressor / "numbers")
    model.criterion = criterion_from_dict(chosen["criterion"])
    model.save(regressor / "again")
    lines = run("predict", "again", "--data", "dev.jsonl", *PAIR).lines
    table = offramp.read_table(regressor / "dev.jsonl", text="a", pair="b")
    said, true = [x["value"] for x in lines], [float(str(x)) for x in table.labels or []]
    assert chosen["scores"]["pearson"] == pytest.approx(np.corrcoef(said, true)[0, 1], abs=1e-4)
    assert chosen["mean_layers"] == pytest.approx(np.mean([x["exit_layer"] for x in lines]))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--thresholds", "-1"], "a regression's change is a number of at least 0"),
        (["--dev", "dev.jsonl"], "40 texts of dev.jsonl are in dev.jsonl too"),
        (["--label", "b"], "is no number"),
        (["--tokens", "b"], "--tokens is not for a model of whole texts"),
    ],
)
def test_evaluate_numbers_refuses(args: list[str], message: str, run: Run, regressor: Path) -> None:
    done = run("evaluate", "numbers", "--data", "dev.jsonl", *PAIR, *QUICK, *args)
    assert (done.code, done.out) == (2, "")
    assert message in " ".join(done.err.split())
