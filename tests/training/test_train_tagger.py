"""Training a tagger: it learns, its loss is transformers', a directory gives its tags back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exit_models import tiny_model, write_tokenizer
from family_kit import FAMILIES, family_directory
from safetensors.torch import load_file
from tagged_data import TOY_TAGS, tagged_table
from task_models import tiny, write_model, write_vocabulary
from torch import Tensor

import offramp
from offramp.errors import ConfigError, DataError, OfframpError, TrainingError
from offramp.models.bert import BertModel
from offramp.models.registry import FAMILIES as REGISTERED, find_class, find_config_class
from offramp.runner.loading import load, task_of
from offramp.runner.tagger import Tagger
from offramp.storage.manifest import MANIFEST_FILE
from offramp.text.tables import Table
from offramp.text.tagged import TaggedTable
from offramp.training.entities import entity_f1, tag_scores
from offramp.training.loop import LOG_FILE
from offramp.training.options import TrainingOptions
from offramp.training.tagged import to_tagged_examples
from offramp.training.tagger import TaggerReport, train_tagger

OPTIONS = TrainingOptions(
    epochs=4, batch_size=8, learning_rate=5e-3, ramp_learning_rate=5e-3, patience=9, depths=()
)
TRAIN, DEV = tagged_table(64, 1, "train"), tagged_table(30, 2, "dev")
Trained = tuple[Path, TaggerReport]
TrainToy = Callable[..., tuple[Tagger, TaggerReport]]


@pytest.fixture(scope="module")
def body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("body") / "body", BertModel, initializer_range=0.1)


@pytest.fixture(scope="module")
def trained(body: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    output = tmp_path_factory.mktemp("trained") / "tagger"
    torch.manual_seed(99)  # which must not matter
    data, dev = tagged_table(500, 1, "train"), tagged_table(60, 2, "dev")
    _, report = train_tagger(body, data, output, dev=dev, options=OPTIONS)
    return output, report


@pytest.fixture
def train_toy(body: Path, tmp_path: Path) -> TrainToy:
    """Trains into `tmp_path / name`, for one epoch and with what else the options say."""

    def run(
        name: str = "out",
        *,
        start: Path = body,
        data: TaggedTable = TRAIN,
        dev: TaggedTable = DEV,
        max_length: int | None = None,
        **options: object,
    ) -> tuple[Tagger, TaggerReport]:
        chosen = replace(OPTIONS, **{"epochs": 1, **options})  # type: ignore[arg-type]
        return train_tagger(
            start, data, tmp_path / name, dev=dev, options=chosen, max_length=max_length
        )

    return run


# ---------------------------------------------------------------------------------------------


def test_a_rule_is_learnt(trained: Trained) -> None:
    directory, report = trained
    assert report.best["score"] == report.best["dev"]["f1"] > 0.95
    assert report.log[-1]["loss"] < report.log[0]["loss"] / 2
    test = tagged_table(80, 3, "test")
    assert test.tags is not None
    found = load(directory, task="tag").predict_words(test.words)
    assert entity_f1(test.tags, found).f1 > 0.95
    rome = [["bobby", "of", "Rome"], ["bobby", "in", "Rome"]]
    assert load(directory, task="tag").predict_words(rome) == [
        ["B-PER", "O", "B-PER"],
        ["B-PER", "O", "B-LOC"],
    ]


def test_what_is_written(trained: Trained) -> None:
    directory, report = trained
    assert [path.name for path in directory.parent.iterdir()] == [directory.name]
    assert {path.name for path in directory.iterdir()} == {
        "config.json",
        "model.safetensors",
        MANIFEST_FILE,
        "tokenizer.json",
        "tokenizer_config.json",
        LOG_FILE,
    }
    config = json.loads((directory / "config.json").read_text())
    assert config["architectures"] == ["BertForTokenClassification"]
    assert config["id2label"] == {str(number): tag for number, tag in enumerate(TOY_TAGS)}
    assert "exits" not in config
    lines = [json.loads(line) for line in (directory / LOG_FILE).read_text().splitlines()]
    assert lines == report.log
    assert [line["step"] for line in lines] == [63, 126, 189, 252]
    assert task_of(directory) == "tag"
    assert load(directory).labels == TOY_TAGS


def test_the_directory_says_what_training_reported(trained: Trained) -> None:
    directory, report = trained
    dev = tagged_table(60, 2)
    assert dev.tags is not None
    found = tag_scores(dev.tags, load(directory, task="tag").predict_words(dev.words))
    assert found == pytest.approx(report.best["dev"])


def test_a_saved_tagger_gives_the_same_tags(train_toy: TrainToy, tmp_path: Path) -> None:
    tagger, _ = train_toy()
    assert not tagger.model.training
    words = tagged_table(50, 7).words
    tags = tagger.predict_words(words)
    assert len({tag for row in tags for tag in row}) > 2
    assert load(tmp_path / "out", task="tag").predict_words(words) == tags
    tagger.save(tmp_path / "again")
    assert load(tmp_path / "again", task="tag").predict_words(words) == tags


def padded(rows: Sequence[Any], labels: Sequence[Any]) -> dict[str, Tensor]:
    length = max(len(row.ids) for row in rows)
    ids, types, mask = (torch.zeros(len(rows), length, dtype=torch.int64) for _ in range(3))
    beside = torch.full((len(rows), length), -100)
    for place, (row, own) in enumerate(zip(rows, labels, strict=True)):
        n = len(row.ids)
        ids[place, :n], types[place, :n] = torch.tensor(row.ids), torch.tensor(row.types)
        mask[place, :n], beside[place, :n] = 1, torch.tensor(own)
    return {"input_ids": ids, "token_type_ids": types, "attention_mask": mask, "labels": beside}


def test_loss_and_logits_are_transformers(train_toy: TrainToy, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    start = tmp_path / "start"
    BertModel(tiny(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)).save_pretrained(
        start
    )
    write_vocabulary(start)
    data = tagged_table(40, 5)
    still: dict[str, Any] = {"batch_size": 99, "learning_rate": 0.0, "ramp_learning_rate": 0.0}
    weights = {"B-PER": 3.0, "O": 0.5}
    tagger, report = train_toy(start=start, data=data, **still)
    _, weighted = train_toy("weighted", start=start, data=data, class_weights=weights, **still)
    _, balanced = train_toy("balanced", start=start, data=data, class_weights="balanced", **still)

    theirs = transformers.AutoModelForTokenClassification.from_pretrained(tmp_path / "out").eval()
    assert isinstance(theirs, transformers.BertForTokenClassification)
    assert theirs.config.id2label == dict(enumerate(TOY_TAGS))
    examples = to_tagged_examples(data, tagger, tagger.model.config.label2id)
    batch = padded(examples.rows, examples.labels)
    with torch.inference_mode():
        answer = theirs(**batch)
        ours = tagger.model(**batch)
    mask = batch["attention_mask"].bool()
    torch.testing.assert_close(ours.logits[mask], answer.logits[mask], atol=1e-5, rtol=1e-4)
    assert report.log[0]["loss"] == pytest.approx(answer.loss.item(), abs=1e-5)

    logits, labels = answer.logits.flatten(0, 1), batch["labels"].flatten()
    by_tag = torch.tensor([weights.get(tag, 1.0) for tag in TOY_TAGS])
    expected = F.cross_entropy(logits, labels, weight=by_tag).item()
    assert weighted.log[0]["loss"] == pytest.approx(expected, abs=1e-5)
    counts = torch.bincount(labels[labels >= 0], minlength=5)
    by_count = counts.sum() / (5 * counts)
    expected = F.cross_entropy(logits, labels, weight=by_count).item()
    assert balanced.log[0]["loss"] == pytest.approx(expected, abs=1e-5)


def test_same_seed_same_weights(train_toy: TrainToy, tmp_path: Path) -> None:
    weights = {}
    for name, seed in (("one", 4), ("two", 4), ("other", 5)):
        torch.manual_seed(len(weights))  # the process's own state must not matter
        train_toy(name, seed=seed)
        weights[name] = load_file(tmp_path / name / "model.safetensors")
    for key, tensor in weights["one"].items():
        assert torch.equal(tensor, weights["two"][key]), key
    heads = [weights[name]["classifier.weight"] for name in ("one", "other")]
    assert not torch.equal(*heads)


def test_the_best_by_the_score_that_was_asked_for(train_toy: TrainToy, tmp_path: Path) -> None:
    dev = DEV
    assert dev.tags is not None
    for score in ("f1", "macro_f1", "accuracy"):
        _, report = train_toy(
            score, dev=dev, epochs=3, score=score, learning_rate=1e-2, evaluations_per_epoch=2
        )
        assert [line["score"] for line in report.log] == [line["dev"][score] for line in report.log]
        assert report.best["score"] == max(line["score"] for line in report.log)
        found = load(tmp_path / score, task="tag").predict_words(dev.words)
        assert tag_scores(dev.tags, found)[score] == pytest.approx(report.best["score"])


def test_long_sentences_and_a_tenth_held_out(body: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    lines: list[dict[str, Any]] = []
    _, report = train_tagger(
        body,
        tagged_table(200, 1),
        tmp_path / "out",
        options=replace(OPTIONS, epochs=1),
        max_length=6,
        progress=lambda *step: told.append(step),
        on_evaluation=lines.append,
    )
    steps = report.log[0]["step"]
    assert steps > 200 / 8, "windows are rows of their own"
    assert told == [("train", done, steps) for done in range(1, steps + 1)]
    assert lines == report.log
    assert load(tmp_path / "out").tokenizer.max_length == 6


def test_rows_of_one_word_and_words_that_vanish(train_toy: TrainToy) -> None:
    words = [["Anna"], ["\u200b"], ["\u200b", "in"]]
    data = TaggedTable("x", words, [["B-A"], ["O"], ["B-A", "O"]])
    tagger, report = train_toy(data=data, dev=data)
    assert tagger.labels == ["O", "B-A"]
    assert report.log[0]["step"] == 1
    assert [len(tags) for tags in tagger.predict_words(data.words)] == [1, 1, 2]


def test_tags_of_words_that_are_no_spans(train_toy: TrainToy) -> None:
    data = TaggedTable("x", [["Anna", "walks"]] * 20, [["NOUN", "VERB"]] * 20)
    tagger, report = train_toy(data=data, dev=data, epochs=4)
    assert tagger.predict_words([["Anna", "walks"]]) == [["NOUN", "VERB"]]
    assert report.best["dev"]["f1"] == report.best["dev"]["accuracy"] == 1.0


# ---------------------------------------------------------------------------------------------
# What it starts from.


def test_starts_from_a_classifier_with_exits(train_toy: TrainToy, tmp_path: Path) -> None:
    start = tmp_path / "start"
    tiny_model(n_labels=3).save_pretrained(start)
    write_tokenizer(start)
    tagger, _ = train_toy(start=start)
    assert tagger.labels == TOY_TAGS
    assert tagger.model.config.exits is None
    assert not [n for n in load_file(tmp_path / "out" / "model.safetensors") if "exits" in n]
    assert tagger.model.config.problem_type is None


def test_starts_from_a_tagger_and_keeps_its_head(
    train_toy: TrainToy, trained: Trained, tmp_path: Path
) -> None:
    directory, _ = trained
    train_toy(start=directory, learning_rate=0.0, ramp_learning_rate=0.0)
    before, after = (load_file(d / "model.safetensors") for d in (directory, tmp_path / "out"))
    assert torch.equal(before["classifier.weight"], after["classifier.weight"])


@pytest.mark.parametrize("family", [name for name in FAMILIES if name in REGISTERED])
def test_every_family(family: str, train_toy: TrainToy, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    start = tmp_path / "start"
    family_directory(family, start)
    positions = json.loads((start / "config.json").read_text())["max_position_embeddings"]
    vocabulary = offramp.Tokenizer.from_pretrained(start).vocab_size
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
    sizes |= {"num_attention_heads": 4, "vocab_size": vocabulary}
    config = find_config_class(family)(**sizes, max_position_embeddings=positions)
    torch.manual_seed(0)
    find_class(family, "Model")(config).save_pretrained(start)
    _, report = train_toy(start=start, data=tagged_table(120, 1), max_length=8, epochs=4)
    assert report.log[-1]["loss"] < report.log[0]["loss"]
    name = find_class(family, "ForTokenClassification").__name__
    assert json.loads((tmp_path / "out" / "config.json").read_text())["architectures"] == [name]
    evaluation = offramp.evaluate_tagger(
        tmp_path / "out", tagged_table(20, 3), rounds=1, timing_rows=9, transformers=True
    )
    assert evaluation.transformers_difference is not None
    assert evaluation.transformers_difference < 1e-4


# ---------------------------------------------------------------------------------------------
# What is refused, with nothing left behind.


def test_bad_data_is_refused(train_toy: TrainToy, tmp_path: Path) -> None:
    cases = {
        r"dev, sentence 2: the tag 'B-LIC' was not seen.*'B-LOC'": {
            "dev": TaggedTable("dev", [["a"], ["b"]], [["O"], ["B-LIC"]])
        },
        "dev, sentence 1: 1 words and 2 tags": {"dev": TaggedTable("dev", [["a"]], [["O", "O"]])},
        "x, sentence 1: 2 words and 1 tags": {"data": TaggedTable("x", [["a", "b"]], [["O"]])},
        "dev was read without tags": {"dev": TaggedTable("dev", [["a"]], None)},
        r"only the tags \['O'\]": {"data": TaggedTable("x", [["a"]], [["O"]])},
        "got a Table": {"data": Table("x", ["a"], ["O"])},
    }
    for message, tables in cases.items():
        with pytest.raises(DataError, match=message):
            train_toy(**tables)
    assert not list(tmp_path.iterdir())


def test_a_tagged_table_is_no_classifiers(body: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"got a TaggedTable.*offramp\.train_tagger"):
        offramp.train(body, tagged_table(20), tmp_path / "out")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"certainty": True}, "certainty is of exits"),
        ({"freeze_backbone": True}, "freeze_backbone is of exits"),
        ({"growth": 1.2}, "growth is of exits"),
        ({"max_loss": 1.0}, "max_loss is of exits"),
        ({"pooler": "mean"}, "pooler is of poolers"),
        ({"class_weights": {"B-PAR": 2.0}}, r"'B-PAR'\. Did you mean 'B-PER'"),
    ],
)
def test_bad_options_are_refused(
    changes: dict[str, object], message: str, train_toy: TrainToy, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        train_toy(**changes)
    assert not list(tmp_path.iterdir())


def test_weights_that_are_no_numbers_are_not_saved(train_toy: TrainToy, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="loss at step"):
        train_toy(learning_rate=1e30)
    with pytest.raises(TrainingError, match="no numbers any more"):
        train_toy(batch_size=999, learning_rate=1e30)  # one step: the loss is of before it
    assert not list(tmp_path.iterdir())


def test_an_output_that_cannot_be_is_refused_before_training(body: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OfframpError, match="is a file"):
        train_tagger(body, tagged_table(40), tmp_path / "file", progress=pytest.fail)
    assert (tmp_path / "file").read_text() == "mine"
