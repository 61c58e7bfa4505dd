"""The command line of tasks beside classification: what is written, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from invoking import Run
from task_models import TAGS, some_texts, write_model

import offramp
from offramp.models import bert


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of each task, and a file of texts."""
    folder = tmp_path_factory.mktemp("place")
    write_model(folder / "body", bert.BertModel)
    tags = dict(enumerate(TAGS))
    write_model(folder / "tagger", bert.BertForTokenClassification, id2label=tags)
    write_model(folder / "answerer", bert.BertForQuestionAnswering)
    write_model(folder / "chooser", bert.BertForMultipleChoice)
    write_model(folder / "ranker", bert.BertForSequenceClassification, num_labels=1)
    write_model(folder / "classifier", bert.BertForSequenceClassification, num_labels=2)
    texts = some_texts(20)
    (folder / "texts.tsv").write_text("text\n" + "".join(f"{text}\n" for text in texts), "utf-8")
    return folder


def close(found: Any, expected: Any) -> None:
    """Equal, but for the last digits of numbers."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            close(found[name], expected[name])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, two in zip(found, expected, strict=True):
            close(one, two)
    else:
        assert found == (pytest.approx(expected, abs=1e-5) if type(expected) is float else expected)


def as_json(answers: list[Any]) -> list[Any]:
    return [dataclasses.asdict(answer) for answer in answers]


def texts_of(place: Path) -> list[str]:
    return [str(text) for text in offramp.read_table(place / "texts.tsv", label=None).texts]


# ------------------------------------------------------------------ embed


def test_embed_into_an_array(run: Run, place: Path, tmp_path: Path) -> None:
    expected = offramp.load(place / "body").embed(texts_of(place))
    done = run("embed", "body", "--data", "texts.tsv", "--output", tmp_path / "x.npy")
    assert (done.code, done.out) == (0, ""), done.err
    found = np.load(tmp_path / "x.npy")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)
    done = run("embed", "body", "--data", "texts.tsv", "--output", tmp_path / "x.jsonl")
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([line["embedding"] for line in lines], expected, atol=1e-5)
    assert {path.name for path in tmp_path.iterdir()} == {"x.npy", "x.jsonl"}


def test_embed_options(run: Run, place: Path) -> None:
    found = run(
        "embed", "body", "anna", "in oslo", "--pooling", "max,first", "--normalize",
        "--prompt", "who ", "--threads", "1",
    ).lines  # fmt: skip
    asked: dict[str, Any] = {"pooling": ("max", "first"), "normalize": True, "prompt": "who "}
    expected = offramp.load(place / "body").embed(["anna", "in oslo"], **asked)
    np.testing.assert_allclose([line["embedding"] for line in found], expected, atol=1e-5)


# ------------------------------------------------------------------ predict


def test_tags(run: Run, place: Path, tmp_path: Path) -> None:
    tagger = offramp.load(place / "tagger")
    expected = [{"entities": as_json(row)} for row in tagger.predict(texts_of(place))]
    close(run("predict", "tagger", "--data", "texts.tsv").lines, expected)
    close(run("predict", "tagger", *texts_of(place)[:2]).lines, expected[:2])
    done = run("predict", "tagger", "--data", "texts.tsv", "--output", tmp_path / "tags.jsonl")
    assert done.code == 0, done.err
    lines = (tmp_path / "tags.jsonl").read_text("utf-8").splitlines()
    close([json.loads(line) for line in lines], expected)


@pytest.mark.parametrize("option", [(), ("--no-answer",)])
def test_answers(run: Run, place: Path, tmp_path: Path, option: tuple[str, ...]) -> None:
    pairs = [("where is anna?", "anna lives in oslo"), ("who walks?", "bobby walks in rome")]
    answerer = offramp.load(place / "answerer")
    expected = as_json(answerer.predict(pairs, no_answer=bool(option)))
    one = run("predict", "answerer", "--question", pairs[0][0], "--context", pairs[0][1], *option)
    close(one.lines, expected[:1])
    for names in (("question", "context"), ("q", "c")):
        data = tmp_path / "rows.jsonl"
        rows = (json.dumps(dict(zip(names, pair, strict=True))) + "\n" for pair in pairs)
        data.write_text("".join(rows))
        columns = () if names[0] == "question" else ("--text", "q", "--pair", "c")
        close(run("predict", "answerer", "--data", data, *columns, *option).lines, expected)


def test_choices(run: Run, place: Path, tmp_path: Path) -> None:
    prompts = [("who lives", ["anna", "in oslo"]), ("bob walks", ["to rome", "the city"])]
    expected = as_json(offramp.load(place / "chooser").predict(prompts))
    close(run("predict", "chooser", "who lives", "anna", "in oslo").lines, expected[:1])
    data = tmp_path / "rows.tsv"
    rows = "".join(f"{text}\t{one}\t{two}\n" for text, (one, two) in prompts)
    data.write_text("text\tone\ttwo\n" + rows)
    close(run("predict", "chooser", "--data", data, "--choices", "one,two").lines, expected)


def test_scores_and_ranks(run: Run, place: Path) -> None:
    texts = texts_of(place)
    for name in ("ranker", "classifier"):
        ranked = as_json(offramp.load(place / name, task="rerank").rerank("who", texts, top_k=4))
        found = run("rerank", name, "--query", "who", "--data", "texts.tsv", "--top", "4")
        close(found.lines, ranked)
    scores = [{"score": score} for score in offramp.load(place / "ranker").predict(texts)]
    close(run("predict", "ranker", "--data", "texts.tsv").lines, scores)
    found = run("rerank", "ranker", "--query", "who", "anna", "oslo", "--sigmoid")
    assert all(0 <= line["score"] <= 1 for line in found.lines)


def test_parquet_gives_what_the_texts_give(run: Run, place: Path, tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, the data extra, is not installed")
    from pyarrow import parquet

    texts = some_texts(5000, seed=4)  # more than one window
    data = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"id": range(5000), "text": texts}), data)
    expected = as_json(offramp.load(place / "classifier").predict(texts))
    close(run("predict", "classifier", "--data", data).lines, expected)
    done = run("embed", "body", "--data", data, "--output", tmp_path / "x.npy")
    assert done.code == 0, done.err
    vectors = offramp.load(place / "body").embed(texts)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), vectors, atol=1e-5)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("embed", "body"), "either texts or --data"),
        (("embed", "body", "anna", "--data", "texts.tsv"), "either texts or --data"),
        (("embed", "body", "anna", "--pooling", "sum"), "pooling is one of"),
        (("embed", "body", "anna", "--prompt-name", "query"), "no prompt 'query'"),
        (("embed", "absent", "anna"), "absent does not exist"),
        (("predict", "body", "anna"), "offramp embed body"),
        (("predict", "tagger", "anna", "--threshold", "1"), "has no exits"),
        (("predict", "tagger", "anna", "--no-answer"), "opens as Answerer"),
        (("predict", "ranker", "--question", "who", "--context", "anna"), "opens as Answerer"),
        (("predict", "tagger", "--data", "texts.tsv", "--choices", "a,b"), "opens as Chooser"),
        (("predict", "tagger", "--data", "texts.tsv", "--pair", "b"), "opens as Classifier or"),
        (("embed", "body", ""), "empty"),
        (("predict", "answerer", "anna"), "--question and --context"),
        (("predict", "answerer", "--question", "who"), "--question and --context together"),
        (("predict", "answerer", "--data", "texts.tsv"), "no column 'question'"),
        (("predict", "chooser", "--data", "texts.tsv"), "--choices a,b"),
        (("predict", "chooser", "anna"), "a prompt and its choices"),
        (("rerank", "tagger", "anna", "--query", "who"), "not a trained reranker"),
        (("rerank", "ranker", "--query", "who"), "either texts or --data"),
        (("rerank", "ranker", "anna", "--query", "who", "--top", "0"), "top_k must be at least 1"),
    ],
)
def test_bad_arguments(args: tuple[str, ...], message: str, run: Run, tmp_path: Path) -> None:
    output = tmp_path / ("x.npy" if args[0] == "embed" else "x.jsonl")
    done = run(*args, "--output", output)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert not list(tmp_path.iterdir())


def test_an_output_of_another_kind(run: Run, tmp_path: Path) -> None:
    done = run("embed", "body", "anna", "--output", tmp_path / "x.txt")
    assert done.code == 2
    assert "neither a .npy nor a .jsonl" in done.err
