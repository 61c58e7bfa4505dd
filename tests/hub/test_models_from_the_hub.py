"""`from_pretrained`, `load` and their like, with a name on the hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import IDS, MASK, TINY

import offramp
from hub_server import TOKEN, HubServer
from offramp import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    HubError,
)

NAME = "owner/model"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "a", "the"]


def put(hub: HubServer, directory: Path, name: str = NAME) -> None:
    files = (path for path in sorted(directory.rglob("*")) if path.is_file())
    listed = {path.relative_to(directory).as_posix(): path.read_bytes() for path in files}
    hub.repository(name, listed)


def fetched(hub: HubServer) -> set[str]:
    return {one.path.partition("/resolve/")[2].partition("/")[2] for one in hub.asked("/resolve/")}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**TINY))
    model.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "vocab.txt").write_text("\n".join(WORDS))
    return tmp_path / "saved"


def test_every_way_to_open_a_name(hub: HubServer, saved: Path) -> None:
    put(hub, saved)
    hub.repositories[NAME].private = True
    expected = BertForSequenceClassification.from_pretrained(saved)(IDS, MASK).logits
    for cls in (BertForSequenceClassification, AutoModelForSequenceClassification):
        for name, more in ((NAME, {}), (f"{NAME}@main", {}), (NAME, {"from_hf_hub": True})):
            model = cls.from_pretrained(name, token=TOKEN, **more)
            torch.testing.assert_close(model(IDS, MASK).logits, expected, rtol=0, atol=0)
    assert BertConfig.from_pretrained(NAME, token=TOKEN).hidden_size == TINY["hidden_size"]
    assert AutoConfig.from_pretrained(NAME, token=TOKEN).hidden_size == TINY["hidden_size"]
    with pytest.raises(HubError):
        AutoModel.from_pretrained(NAME, force_download=True)
    assert len(hub.asked("GET /cdn/")) == 1


@pytest.mark.parametrize(("wanted", "file"), [(None, 0), (True, 0), (False, 1)])
def test_one_format_of_weights_is_fetched(
    hub: HubServer, saved: Path, wanted: bool | None, file: int
) -> None:
    model = BertForSequenceClassification.from_pretrained(saved)
    torch.save(model.state_dict(), saved / "pytorch_model.bin")
    shutil.copy(saved / "pytorch_model.bin", saved / "tf_model.h5")
    put(hub, saved)
    back = BertForSequenceClassification.from_pretrained(NAME, use_safetensors=wanted)
    torch.testing.assert_close(back(IDS, MASK).logits, model(IDS, MASK).logits, rtol=0, atol=0)
    weights = ("model.safetensors", "pytorch_model.bin")[file]
    assert fetched(hub) == {"config.json", "vocab.txt", weights}


def test_a_variant_is_fetched_alone(hub: HubServer, saved: Path) -> None:
    model = BertForSequenceClassification.from_pretrained(saved)
    model.save_pretrained(saved, variant="fp16")
    put(hub, saved)
    BertForSequenceClassification.from_pretrained(NAME, variant="fp16")
    assert fetched(hub) == {"config.json", "vocab.txt", "model.fp16.safetensors"}


def test_sentence_transformers_modules_come_too(hub: HubServer, tmp_path: Path) -> None:
    torch.manual_seed(0)
    body = BertModel(BertConfig(**{**TINY, "max_position_embeddings": 16})).eval()
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    tokenizer = offramp.Tokenizer.from_pretrained(tmp_path, max_length=8)
    body.save_pretrained(tmp_path / "body")
    tokenizer.save_pretrained(tmp_path / "body")
    embedder = offramp.load(tmp_path / "body", task="embed")
    embedder.save(tmp_path / "embedder")
    (tmp_path / "embedder" / "onnx").mkdir()
    (tmp_path / "embedder" / "onnx" / "model.onnx").write_bytes(b"large")
    put(hub, tmp_path / "embedder")
    back: Any = offramp.load(NAME)
    assert isinstance(back, offramp.Embedder)
    texts = ["good film", "the bad"]
    assert (back.embed(texts) == embedder.embed(texts)).all()
    assert {"modules.json", "1_Pooling/config.json"} <= fetched(hub)
    assert not any("onnx" in name for name in fetched(hub))
    before = len(hub.log)
    (pooling,) = (path for path in (tmp_path / "cache").rglob("1_Pooling/config.json"))
    pooling.unlink()
    with pytest.raises(HubError, match="1_Pooling/config.json is not there"):
        from offramp.hub.names import Request
        from offramp.models.names import locate, whole_model

        locate(NAME, Request(local_files_only=True), whole_model, {})
    assert len(hub.log) == before


def test_a_built_in_name_is_fetched_and_its_checksum_holds(hub: HubServer, saved: Path) -> None:
    put(hub, saved, "some/one")

    class Mine(BertForSequenceClassification):
        pretrained_init_configuration = {"mine": {**TINY, "model_type": "bert"}}
        pretrained_resource_files_map = {
            "model_state": {"mine": offramp.Source("some/one", sha256="0" * 64)}
        }

    with pytest.raises(HubError, match="has sha256"):
        Mine.from_pretrained("mine")
    assert hub.asked("/cdn/")
