"""`offramp calibrate`: a threshold with a certificate, written into the model."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from exit_models import toy_rows, write_body
from invoking import Run
from task_models import TAGS, write_model

import offramp
from offramp.models.bert import BertForTokenClassification


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained toy classifier, rows that it never saw, and the ones that it did."""
    place = tmp_path_factory.mktemp("calibrate")
    for name, (n_rows, seed) in {"train": (240, 0), "held": (600, 21)}.items():
        with (place / f"{name}.jsonl").open("w", encoding="utf-8") as file:
            for text, label in toy_rows(n_rows, seed):
                file.write(json.dumps({"text": text, "label": label}) + "\n")
    options = offramp.TrainingOptions(
        epochs=4, batch_size=16, learning_rate=2e-3, ramp_learning_rate=4e-3
    )
    data = offramp.read_table(place / "train.jsonl")
    offramp.train(write_body(place / "body"), data, place / "model", options=options)
    return place


def test_a_certificate_is_written(run: Run, place: Path) -> None:
    done = run("calibrate", "model", "--data", "held.jsonl", "--max-loss", "0.05")
    assert done.code == 0, done.err
    said = " ".join(done.err.split())
    assert "with probability 0.95 (ltt, 600 rows" in said
    section = json.loads((place / "model" / "config.json").read_text())["exits"]
    certificate = section["calibration"]["certificate"]
    assert certificate["criterion"] == section["criterion"]
    assert certificate["max_risk"] == 0.05
    assert offramp.certificate_of(offramp.load(place / "model").model) is not None


def test_elsewhere_and_without_labels(run: Run, place: Path) -> None:
    before = (place / "model" / "config.json").read_bytes()
    done = run(
        *("calibrate", "model", "--data", "held.jsonl", "--no-labels", "--method", "crc"),
        *("--max-loss", "0.02", "--output", "other"),
    )
    assert done.code == 0, done.err
    assert "in expectation" in " ".join(done.err.split())
    assert (place / "model" / "config.json").read_bytes() == before
    assert offramp.certificate_of(offramp.load(place / "other").model) is not None


def test_too_few_rows(run: Run, place: Path) -> None:
    done = run("calibrate", "model", "--data", "held.jsonl", "--max-loss", "0.001")
    assert done.code == 2
    assert "600 rows are too few" in " ".join(done.err.split())
    assert "takes 2995 rows" in " ".join(done.err.split())


def test_the_file_that_it_was_trained_on(run: Run, place: Path) -> None:
    """Of which a tenth was held out as dev, so that it is neither's rows."""
    asked = ("calibrate", "model", "--data", "train.jsonl", "--max-loss", "0.2", "--output", "seen")
    done = run(*asked)
    assert done.code == 2
    said = " ".join(done.err.split())
    assert "train.jsonl has the rows of the train and dev set that this model was trained" in said
    done = run(*asked, "--force")
    assert done.code == 0, done.err
    assert "no guarantee" in " ".join(done.err.split())
    certificate = offramp.certificate_of(offramp.load(place / "seen").model)
    assert certificate is not None
    assert certificate.on_seen_rows


def test_what_could_not_be_certified_is_not_written(run: Run, place: Path) -> None:
    opened = offramp.load(place / "model")
    del opened.model.exits
    torch.manual_seed(0)
    offramp.add_exits(opened.model)  # which know nothing
    opened.save(place / "untrained")
    before = (place / "untrained" / "config.json").read_bytes()
    done = run("calibrate", "untrained", "--data", "held.jsonl", "--max-loss", "0.006")
    assert done.code == 2
    assert "No threshold could be certified" in " ".join(done.err.split())
    assert (place / "untrained" / "config.json").read_bytes() == before


@pytest.mark.filterwarnings("default")
def test_a_void_certificate_is_said_in_a_sentence(run: Run, place: Path) -> None:
    done = run(
        *("calibrate", "model", "--data", "held.jsonl", "--max-loss", "0.05", "--output", "void")
    )
    assert done.code == 0, done.err
    config = place / "void" / "config.json"
    values = json.loads(config.read_text())
    values["exits"]["criterion"]["threshold"] /= 2
    config.write_text(json.dumps(values))
    done = run("predict", "void", "a text")
    assert done.code == 0
    assert len(done.lines) == 1
    assert done.err.startswith("offramp: warning: void: the exits' certificate (disagreement of at")
    assert "is void: the criterion is another" in done.err
    assert ".py" not in done.err


def test_a_tagger(run: Run, tmp_path: Path) -> None:
    """By words and by sentences; its options are not those of a classifier, nor the other way."""
    tagger = write_model(
        tmp_path / "tagger", BertForTokenClassification, id2label=dict(enumerate(TAGS))
    )
    opened = offramp.load(tagger, task="tag")
    offramp.add_exits(opened.model)
    opened.save(tagger)
    with (tmp_path / "held.jsonl").open("w", encoding="utf-8") as file:
        for words in tagged_words(350):
            tags = ["B-PER" if word == "Anna" else "O" for word in words]
            file.write(json.dumps({"tokens": words, "tags": tags}) + "\n")
    asked = ("calibrate", str(tagger), "--data", str(tmp_path / "held.jsonl"))
    named = ("--label", "tags", "--output", str(tmp_path / "out"))
    done = run(*asked, *named, "--risk", "word-disagreement", "--max-loss", "0.9")
    assert done.code == 0, done.err
    said = " ".join(done.err.split())
    assert "word-disagreement of at most 0.9 with probability 0.95 (ltt, 350 rows" in said
    certificate = offramp.certificate_of(offramp.load(tmp_path / "out").model)
    assert certificate is not None
    assert certificate.risk == "word-disagreement"
    done = run(*asked, *named, "--text", "x")
    assert done.code == 2
    assert "--text is not for a tagger" in " ".join(done.err.split())
    done = run(*asked, "--no-labels", "--risk", "accuracy")
    assert "needs labels" in " ".join(done.err.split())


def test_tokens_are_for_taggers(run: Run, place: Path) -> None:
    done = run("calibrate", "model", "--data", "held.jsonl", "--tokens", "words")
    assert done.code == 2
    assert "--tokens is not for a model of whole texts" in " ".join(done.err.split())


def tagged_words(n_rows: int) -> list[list[str]]:
    rng = random.Random(5)
    words = ["Anna", "bobby", "lives", "in", "Rome", "the", "city"]
    return [rng.choices(words, k=rng.randint(2, 6)) for _ in range(n_rows)]
