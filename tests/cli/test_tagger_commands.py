"""`offramp train --task tag`, `offramp evaluate` and `offramp predict` of what it wrote."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from invoking import Run
from task_models import write_model

import offramp
from offramp.models.bert import BertForSequenceClassification, BertModel

TRAIN = (
    "train", "--task", "tag", "--model", "body", "--epochs", "5", "--batch-size", "8",
    "--learning-rate", "5e-3", "--ramp-learning-rate", "5e-3",
)  # fmt: skip
DATA = ("--data", "train.jsonl", "--dev", "dev.jsonl")
QUICK = ("--rounds", "1", "--timing-rows", "5")


def sentences(n: int, seed: int) -> list[tuple[list[str], list[str]]]:
    """Names are PER, and New York is a LOC."""
    rng = random.Random(seed)
    parts = [("Anna", "B-PER"), ("bobby", "B-PER"), ("walks", "O"), ("to", "O"), ("the", "O")]
    rows = []
    for _ in range(n):
        pairs = [rng.choice(parts) for _ in range(rng.randint(1, 5))]
        if rng.random() < 0.5:
            pairs += [("New", "B-LOC"), ("York", "I-LOC")]
        rows.append(([word for word, _ in pairs], [tag for _, tag in pairs]))
    return rows


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, in JSONL and CoNLL, a body, and a classifier."""
    folder = tmp_path_factory.mktemp("place")
    for seed, (name, n) in enumerate({"train": 120, "dev": 30, "test": 30}.items()):
        rows = sentences(n, seed)
        lines = (json.dumps({"tokens": words, "label": tags}) + "\n" for words, tags in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines), "utf-8")
        conll = (
            "".join(f"{word}\t{tag}\n" for word, tag in zip(words, tags, strict=True))
            for words, tags in rows
        )
        (folder / f"{name}.conll").write_text("\n".join(conll), "utf-8")
    write_model(folder / "body", BertModel, initializer_range=0.1)
    write_model(folder / "classifier", BertForSequenceClassification, num_labels=2)
    return folder


@pytest.fixture(scope="module")
def tagger(place: Path) -> Path:
    offramp.train_tagger(
        place / "body",
        offramp.read_tagged(place / "train.jsonl"),
        place / "tagger",
        dev=offramp.read_tagged(place / "dev.jsonl"),
        options=offramp.TrainingOptions(
            epochs=1, batch_size=8, learning_rate=5e-3, ramp_learning_rate=5e-3
        ),
    )
    return place / "tagger"


# ---------------------------------------------------------------------------------------------


def test_train_evaluate_predict(run: Run, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "tagger"
    done = run(*TRAIN, *DATA, "--output", out)
    assert done.code == 0, done.err
    assert "Dev: F1 of entities" in " ".join(done.err.split())
    assert done.err.count("epoch 1 ") == 1
    best = max(
        json.loads(line)["dev"]["f1"] for line in (out / "metrics.jsonl").read_text().splitlines()
    )
    assert best > 0.9
    assert f"{best:.4f}" in done.err

    for ending in ("jsonl", "conll"):
        table = tmp_path / f"{ending}.json"
        done = run("evaluate", out, "--data", f"test.{ending}", *QUICK, "--output", table)
        assert done.code == 0, done.err
        values = json.loads(table.read_text())
        data = offramp.read_tagged(place / f"test.{ending}")
        assert data.tags is not None
        scores = offramp.entity_f1(data.tags, offramp.load(out).predict_words(data.words))
        assert values["entities"]["f1"] == scores.f1 > 0.9
        said = " ".join(done.out.split())
        for found in (scores, *scores.by_type.values()):
            assert f"{found.precision:.4f} │ {found.recall:.4f} │ {found.f1:.4f}" in said
        assert f"{values['accuracy']:.4f} of {values['words']} words" in said
        assert "offramp: " in said
        assert "transformers, sorted: " in said
        assert "x as fast as transformers" in said

    done = run("predict", out, "Anna walks to New York")
    assert done.code == 0, done.err
    (line,) = [json.loads(text) for text in done.out.splitlines()]
    assert [(e["label"], e["text"]) for e in line["entities"]] == [
        ("PER", "Anna"),
        ("LOC", "New York"),
    ]


def test_conll_and_other_columns(run: Run, place: Path, tmp_path: Path) -> None:
    done = run(*TRAIN, "--epochs", "1", "--data", "train.conll", "--output", tmp_path / "one")
    assert done.code == 0, done.err
    rows = [json.loads(line) for line in (place / "train.jsonl").read_text().splitlines()]
    renamed = (json.dumps({"w": row["tokens"], "t": row["label"]}) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text("".join(renamed))
    done = run(
        *TRAIN, "--epochs", "1", "--data", tmp_path / "rows.jsonl", "--tokens", "w", "--label", "t",
        "--max-length", "20", "--score", "macro_f1", "--class-weights", "B-PER=2",
        "--output", tmp_path / "two",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = offramp.load(tmp_path / "two")
    assert (found.labels, found.tokenizer.max_length) == (["O", "B-LOC", "I-LOC", "B-PER"], 20)


def test_without_transformers(run: Run, tagger: Path) -> None:
    done = run("evaluate", tagger, "--data", "test.jsonl", *QUICK, "--no-transformers")
    assert done.code == 0, done.err
    assert "transformers" not in done.out
    assert "all (micro)" in done.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((*TRAIN, *DATA, "--text", "words"), "--text is not for a tagger"),
        ((*TRAIN, *DATA, "--pair", "other"), "--pair is not for a tagger"),
        ((*TRAIN, *DATA, "--pooler", "mean"), "pooler is of poolers"),
        ((*TRAIN, *DATA, "--depths", "none", "--freeze-backbone"), "freeze_backbone is of exits"),
        ((*TRAIN, *DATA, "--depths", "none", "--max-loss", "1"), "max_loss is of exits"),
        ((*TRAIN, *DATA, "--tokens", "words"), "no column 'words'"),
        ((*TRAIN, *DATA, "--class-weights", "B-PERS=2"), "names 'B-PERS'"),
        ((*TRAIN, "--data", "absent.jsonl"), "does not exist"),
        ((*TRAIN, "--data", "train.tsv"), "ending '.tsv'"),
        (("train", *DATA, "--tokens", "words"), "--tokens is not for a classifier"),
        (("evaluate", "tagger", "--data", "test.jsonl", "--dev", "dev.jsonl"), "--dev is not for"),
        (("evaluate", "tagger", "--data", "test.jsonl", "--text", "t"), "--text is not for"),
        (("evaluate", "tagger", "--data", "test.jsonl", "--thresholds", ".1"), "--thresholds is"),
        (("evaluate", "tagger", "--data", "test.jsonl", "--max-loss", "1"), "--max-loss is not"),
        (("evaluate", "tagger", "--data", "test.jsonl", "--rounds", "0"), "rounds must be"),
        (("evaluate", "tagger", "--data", "test.jsonl", "--label", "tag"), "no column 'tag'"),
        (("evaluate", "classifier", "--data", "x.tsv", "--tokens", "w"), "--tokens is not for a"),
    ],
)
def test_bad_arguments(
    args: tuple[str, ...], message: str, run: Run, tagger: Path, tmp_path: Path
) -> None:
    done = run(*args, "--output", tmp_path / "output")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not list(tmp_path.iterdir())


def test_a_tag_that_was_not_seen(run: Run, tagger: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd.jsonl"
    odd.write_text('{"tokens": ["a"], "label": ["O"]}\n{"tokens": ["b"], "label": ["B-X"]}\n')
    for args in (
        (*TRAIN, "--data", "train.jsonl", "--dev", odd),
        ("evaluate", tagger, "--data", odd),
    ):
        done = run(*args, "--output", tmp_path / "output")
        assert (done.code, done.out) == (2, "")
        assert "sentence 2: the tag 'B-X' was not seen in training" in done.err
        assert [path.name for path in tmp_path.iterdir()] == ["odd.jsonl"]
