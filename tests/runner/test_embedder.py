"""`load(...).embed`: texts in, vectors out, as sentence-transformers makes them."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from task_models import some_texts, write_model
from torch import Tensor

import offramp
from offramp.errors import CheckpointError, ConfigError, DataError, HubError
from offramp.models.bert import BertForSequenceClassification, BertModel
from offramp.runner.dense import Dense
from offramp.runner.embedder import Embedder
from offramp.runner.loading import load
from offramp.runner.sentence_files import SentenceLayout

GOLDEN = Path(__file__).parents[1] / "golden" / "sentences.json"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("body") / "model", BertModel)


@pytest.fixture(scope="module")
def embedder(directory: Path) -> Embedder:
    return load(directory, task="embed")


@pytest.fixture(scope="module")
def minilm() -> Embedder:
    try:
        return load("all-MiniLM-L6-v2", task="embed")
    except HubError as error:
        pytest.skip(str(error))


def write_modules(directory: Path, *after: str, **pooling: object) -> None:
    """sentence-transformers' files for a Pooling, and what comes after it."""
    kinds = ["Transformer", "Pooling", *after]
    table = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    (directory / "modules.json").write_text(json.dumps(table))
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def hidden(embedder: Embedder, text: str) -> Tensor:
    """One text's hidden states [L, D] from the ordinary forward."""
    (row,) = embedder.tokenizer.encode([text])
    with torch.inference_mode():
        output = embedder.model(torch.tensor(row.ids)[None])
    state_LD: Tensor = output.last_hidden_state[0]
    return state_LD


# ------------------------------------------------------------------ against others


def test_vectors_are_those_that_sentence_transformers_made(minilm: Embedder) -> None:
    golden = json.loads(GOLDEN.read_text("utf-8"))
    found = minilm.embed(golden["texts"])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.array(golden["vectors"]), atol=1e-5)
    assert minilm.width == found.shape[1] == 384
    assert minilm.tokenizer.max_length == 256  # of sentence_bert_config.json


def test_vectors_are_those_of_transformers_by_hand(minilm: Embedder) -> None:
    transformers = pytest.importorskip("transformers")
    name = minilm.model.name_or_path
    texts = ["Two dogs run.", "A woman is slicing an onion with care.", "Hi", "naïve café ☕"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(name)
    model = transformers.BertModel.from_pretrained(name).eval()
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None].to(states.dtype)
    mean = (states * mask).sum(1) / mask.sum(1)
    expected = mean / mean.norm(dim=-1, keepdim=True)
    np.testing.assert_allclose(minilm.embed(texts), expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(minilm.embed(texts, normalize=False), mean.numpy(), atol=1e-5)


# ------------------------------------------------------------------ what it computes


def test_without_modules_the_mean_as_it_is(embedder: Embedder) -> None:
    texts = some_texts(20)
    expected = [hidden(embedder, text).mean(0).tolist() for text in texts]
    np.testing.assert_allclose(embedder.embed(texts), np.array(expected), atol=1e-5)


@pytest.mark.parametrize(
    "pooling", ["first", "last", "mean", "max", ("max", "mean"), ["first", "max", "mean"]]
)
@pytest.mark.parametrize("normalize", [False, True])
def test_pooling_of_a_call(embedder: Embedder, pooling: Any, normalize: bool) -> None:
    texts = some_texts(20, seed=1)
    by_name = {
        "first": lambda x: x[0],
        "last": lambda x: x[-1],
        "mean": lambda x: x.mean(0),
        "max": lambda x: x.max(0).values,
    }
    names = [pooling] if isinstance(pooling, str) else pooling
    rows = [torch.cat([by_name[n](hidden(embedder, text)) for n in names]) for text in texts]
    expected = torch.stack([row / row.norm() if normalize else row for row in rows])
    found = embedder.embed(texts, pooling=pooling, normalize=normalize, as_tensor=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert embedder.layout == SentenceLayout()


def test_the_last_layer_is_run_for_first_tokens_alone_where_no_other_is_read(
    embedder: Embedder,
) -> None:
    rows: list[int] = []
    layer = embedder.model.encoder.layer[-1]  # type: ignore[union-attr, index]
    handle = layer.register_forward_hook(lambda *args: rows.append(len(args[2])))
    try:
        embedder.embed(["anna in oslo", "rome"], pooling="first")
        embedder.embed(["anna in oslo", "rome"], pooling=("first", "mean"))
    finally:
        handle.remove()
    assert rows == [2, 8]


def test_order_batches_and_kinds_of_iterables(embedder: Embedder) -> None:
    texts = some_texts(300, seed=2)
    found = embedder.embed(texts)
    np.testing.assert_allclose(found[::-1], embedder.embed(texts[::-1]), atol=1e-5)
    np.testing.assert_allclose(found, embedder.embed(iter(texts)), atol=1e-5)
    for place in (0, 17, 299):
        np.testing.assert_allclose(found[place], embedder.embed([texts[place]])[0], atol=1e-5)
    assert embedder.embed([]).shape == (0, 32)
    assert embedder.embed(iter(()), pooling=("max", "mean")).shape == (0, 64)
    assert np.isfinite(embedder.embed(["", " ", "city " * 500])).all()


def test_a_stream_reads_as_it_is_asked(embedder: Embedder) -> None:
    texts = some_texts(40, seed=3)
    expected = embedder.embed(texts)
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        for text in itertools.cycle(texts):
            read += 1
            yield text

    stream = embedder.stream(endless())
    assert read == 0
    first = list(itertools.islice(stream, 5000))
    assert read <= 3 * 4096
    np.testing.assert_allclose(first, [expected[i % 40] for i in range(5000)], atol=1e-5)
    assert all(vector.base is None or vector.base.nbytes == vector.nbytes for vector in first[:3])


def test_threads_are_for_the_call_alone(embedder: Embedder) -> None:
    before = torch.get_num_threads()
    texts = some_texts(10)
    np.testing.assert_allclose(embedder.embed(texts, threads=2), embedder.embed(texts), atol=1e-5)
    assert torch.get_num_threads() == before
    with pytest.raises(ConfigError, match="threads must be at least 1"):
        embedder.embed(texts, threads=0)


# ------------------------------------------------------------------ sentence-transformers' files


SWITCHES = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last",
}


@pytest.mark.parametrize(
    ("settings", "pooling"),
    [
        *(({name: True}, (own,)) for name, own in SWITCHES.items()),
        (dict.fromkeys(reversed(SWITCHES), True), ("first", "max", "mean", "last")),
        ({"pooling_mode_mean_tokens": False}, ("mean",)),
        ({}, ("mean",)),
        ({"pooling_mode": "cls"}, ("first",)),
        ({"pooling_mode": ["mean", "cls"], "pooling_mode_max_tokens": True}, ("mean", "first")),
    ],
)
@pytest.mark.parametrize("after", [(), ("Normalize",)])
def test_pooling_of_the_files(
    tmp_path: Path, settings: dict[str, Any], pooling: tuple[str, ...], after: tuple[str, ...]
) -> None:
    directory = write_model(tmp_path / "model", BertModel)
    write_modules(directory, *after, **settings)
    embedder = offramp.load(directory)
    assert isinstance(embedder, Embedder)
    assert embedder.layout.pooling == pooling
    assert embedder.layout.normalize == bool(after)
    texts = some_texts(9)
    plain = load(write_model(tmp_path / "plain", BertModel), task="embed")
    expected = plain.embed(texts, pooling=pooling, normalize=bool(after))
    np.testing.assert_allclose(embedder.embed(texts), expected, atol=1e-6)
    embedder.save(tmp_path / "saved")
    again = offramp.load(tmp_path / "saved")
    assert again.layout == replace(embedder.layout, max_length=64)  # the model's own is written
    np.testing.assert_allclose(again.embed(texts), expected, atol=1e-6)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("bias", [True, False])
def test_dense(tmp_path: Path, bias: bool, file: str) -> None:
    directory = write_model(tmp_path / "model", BertModel)
    write_modules(directory, "Normalize", "Dense", "Normalize", pooling_mode_mean_tokens=True)
    torch.manual_seed(1)
    linear = torch.nn.Linear(32, 5, bias=bias)
    settings = {"in_features": 32, "out_features": 5, "bias": bias}
    settings["activation_function"] = "torch.nn.modules.activation.Tanh"
    (directory / "3_Dense").mkdir()
    (directory / "3_Dense" / "config.json").write_text(json.dumps(settings))
    tensors = {f"linear.{name}": value.detach() for name, value in linear.named_parameters()}
    if file.endswith(".bin"):
        torch.save(tensors, directory / "3_Dense" / file)
    else:
        pytest.importorskip("safetensors.torch").save_file(tensors, directory / "3_Dense" / file)
    embedder = load(directory, task="embed")
    texts = some_texts(9)
    with torch.inference_mode():
        rows = torch.stack([hidden(embedder, text).mean(0) for text in texts])
        mixed = torch.tanh(linear(rows / rows.norm(dim=-1, keepdim=True)))
    expected = (mixed / mixed.norm(dim=-1, keepdim=True)).numpy()
    assert embedder.width == 5
    np.testing.assert_allclose(embedder.embed(texts), expected, atol=1e-5)
    np.testing.assert_allclose(embedder.embed(texts, normalize=False), mixed.numpy(), atol=1e-5)
    with pytest.raises(ConfigError, match=r"64 numbers \(first \+ mean\).*takes 32"):
        embedder.embed(texts, pooling=("first", "mean"))
    embedder.save(tmp_path / "saved")
    again = load(tmp_path / "saved", task="embed")
    np.testing.assert_allclose(again.embed(texts), expected, atol=1e-6)
    assert (tmp_path / "saved" / "3_Dense" / "model.safetensors").is_file()


def test_lengths_case_and_prompts_of_the_files(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", BertModel)
    (directory / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    write_modules(directory)
    (directory / "sentence_bert_config.json").write_text(
        '{"max_seq_length": 9, "do_lower_case": true}'
    )
    (directory / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "who ", "walk": "Walk "}, "default_prompt_name": "walk"})
    )
    embedder = load(directory, task="embed")
    plain = load(write_model(tmp_path / "plain", BertModel), task="embed")
    assert embedder.tokenizer.max_length == 9
    assert load(directory, task="embed", max_length=12).tokenizer.max_length == 12
    texts = ["Anna lives in Oslo", "OSLO"]

    def same(found: Any, *expected: str) -> None:
        np.testing.assert_allclose(found, plain.embed(expected), atol=1e-5)

    same(embedder.embed(texts, prompt=""), "anna lives in oslo", "oslo")
    same(embedder.embed(texts, prompt_name=""), "anna lives in oslo", "oslo")
    same(embedder.embed(texts), "walk anna lives in oslo", "walk oslo")
    same(embedder.embed(texts, prompt_name="query"), "who anna lives in oslo", "who oslo")
    same(embedder.embed(texts, prompt="the "), "the anna lives in oslo", "the oslo")
    same([next(embedder.stream(texts, prompt="the "))], "the anna lives in oslo")
    long = embedder.embed(["city " * 30], prompt="")
    same(long, "city " * 7)
    assert embedder.prompts == {"query": "who ", "walk": "Walk "}
    with pytest.raises(ConfigError, match=r"no prompt 'quary'.*'query'"):
        embedder.embed(texts, prompt_name="quary")
    with pytest.raises(ConfigError, match="and not both"):
        embedder.embed(texts, prompt="a", prompt_name="query")
    embedder.save(tmp_path / "saved")
    again = load(tmp_path / "saved", task="embed")
    assert again.layout == embedder.layout
    same(again.embed(texts), "walk anna lives in oslo", "walk oslo")


def test_a_prompt_that_is_not_pooled_is_refused(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", BertModel)
    write_modules(directory, pooling_mode_mean_tokens=True, include_prompt=False)
    embedder = load(directory, task="embed")
    assert embedder.embed(["oslo"]).shape == (1, 32)
    with pytest.raises(ConfigError, match="include_prompt"):
        embedder.embed(["oslo"], prompt="who ")


def test_the_body_in_a_folder_of_its_own(tmp_path: Path, directory: Path) -> None:
    place = tmp_path / "model"
    place.mkdir()
    write_model(place / "0_Transformer", BertModel)
    write_modules(place, "Normalize")
    table = json.loads((place / "modules.json").read_text())
    table[0]["path"] = "0_Transformer"
    (place / "modules.json").write_text(json.dumps(table))
    (place / "0_Transformer" / "sentence_bert_config.json").write_text('{"max_seq_length": 11}')
    found = offramp.load(place)
    assert found.tokenizer.max_length == 11
    plain = load(directory, task="embed", max_length=11)
    texts = some_texts(5)
    np.testing.assert_allclose(found.embed(texts), plain.embed(texts, normalize=True), atol=1e-6)


def test_what_is_saved_is_read_by_sentence_transformers(tmp_path: Path, minilm: Embedder) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    minilm.save(tmp_path / "saved")
    theirs = sentence_transformers.SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    texts = ["Two dogs run.", "Hi"]
    np.testing.assert_allclose(theirs.encode(texts), minilm.embed(texts), atol=1e-5)


def test_a_body_from_a_model_with_a_head(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", BertForSequenceClassification)
    found = load(directory, task="embed")
    assert not hasattr(found.model, "classifier")
    assert found.embed(["oslo"]).shape == (1, 32)


# ------------------------------------------------------------------ what is refused


def test_texts_that_are_none(embedder: Embedder) -> None:
    with pytest.raises(DataError, match=r"pass \[text\]"):
        embedder.embed("oslo")
    with pytest.raises(DataError, match=r"pass \[text\]"):
        embedder.stream("oslo")
    with pytest.raises(DataError, match="Row 1 is a tuple"):
        embedder.embed(["oslo", ("a", "pair")])  # type: ignore[list-item]


@pytest.mark.parametrize("pooling", ["cls", "", (), ("mean", "sum"), ["lasttoken"]])
def test_unknown_poolings(embedder: Embedder, pooling: Any) -> None:
    with pytest.raises(ConfigError, match="pooling is one of first, last, mean, max"):
        embedder.embed(["oslo"], pooling=pooling)


def test_weights_that_are_no_numbers_give_no_vectors(directory: Path) -> None:
    embedder = load(directory, task="embed")
    with torch.no_grad():
        embedder.model.embeddings.word_embeddings.weight[6] = math.nan  # type: ignore[union-attr]
    with pytest.raises(CheckpointError, match="answers with NaN"):
        embedder.embed(["anna", "oslo"])


def test_a_dense_of_another_width_is_refused(directory: Path) -> None:
    plain = load(directory, task="embed")
    linear = torch.nn.Linear(33, 4)
    dense = Dense(linear, "torch.nn.modules.linear.Identity")
    with pytest.raises(ConfigError, match="32 numbers"):
        Embedder(plain.model, plain.tokenizer, SentenceLayout(dense=(dense,)))


def test_only_some_of_the_body_is_refused(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model", BertModel)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(CheckpointError):
        load(directory, task="embed")
