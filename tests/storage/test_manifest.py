"""The manifest of a save: what it says, what a load does with it, and who may change what."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import IDS, MASK, TINY

import offramp
from offramp import BertConfig, BertForSequenceClassification, CheckpointError
from offramp.storage.manifest import MANIFEST_FILE, manifest_text, read_manifest

WEIGHTS = "model.safetensors"
load = BertForSequenceClassification.from_pretrained


def model(**settings: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**{**TINY, **settings})).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def listed(directory: Path) -> dict[str, Any]:
    files: dict[str, Any] = json.loads((directory / MANIFEST_FILE).read_text())["files"]
    return files


def grow(path: Path) -> None:
    """Other tensors' file, sound in itself and of another size."""
    save_file(load_file(path), path, {"format": "pt", "by": "another program"})


# What it says


def test_size_and_digest_of_every_file(saved: Path) -> None:
    contents = {p.name: p.read_bytes() for p in saved.iterdir() if p.name != MANIFEST_FILE}
    assert listed(saved) == {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    assert sorted(contents) == ["config.json", WEIGHTS]


def test_shards_their_index_and_files_in_folders(saved: Path, tmp_path: Path) -> None:
    model().save_pretrained(tmp_path / "sharded", max_shard_size="1KB")
    names = {p.name for p in (tmp_path / "sharded").iterdir()} - {MANIFEST_FILE}
    assert "model.safetensors.index.json" in names
    assert listed(tmp_path / "sharded").keys() == names
    with offramp.checkpoints.directory.staged(tmp_path / "other") as fresh:
        (fresh / "1_Pooling").mkdir()
        (fresh / "1_Pooling" / "config.json").write_text("{}")
    assert listed(tmp_path / "other").keys() == {"1_Pooling/config.json"}


def test_what_a_later_save_keeps_is_still_told_of(saved: Path) -> None:
    own = model()
    own.save_pretrained(saved, variant="fp16")
    first = listed(saved)
    assert {WEIGHTS, "model.fp16.safetensors"} <= first.keys()
    assert offramp.verify(saved).ok
    (saved / "README.md").write_text("mine")
    (saved / WEIGHTS).unlink()
    own.save_pretrained(saved, variant="fp16")
    assert listed(saved).keys() == first.keys() - {WEIGHTS}
    own.save_pretrained(saved)
    assert listed(saved).keys() == {"config.json", WEIGHTS}
    assert offramp.verify(saved).uncovered == ("README.md",)


def test_files_that_are_written_into_it_are_told_of(saved: Path) -> None:
    config = BertConfig.from_pretrained(saved)
    config.id2label = {0: "good", 1: "bad"}
    config.save_pretrained(saved)
    assert offramp.verify(saved).ok
    assert load(saved).config.labels == ["good", "bad"]
    config.save_pretrained(saved.with_name("new"))
    assert [p.name for p in saved.with_name("new").iterdir()] == ["config.json"]


# What a load does with it


def test_weights_of_another_size_are_refused_and_it_says_what_to_do(saved: Path) -> None:
    was = (saved / WEIGHTS).stat().st_size
    grow(saved / WEIGHTS)
    now = (saved / WEIGHTS).stat().st_size
    for read in (load, lambda place: offramp.convert(place, saved.with_name("new"))):
        with pytest.raises(CheckpointError) as caught:
            read(saved)
        assert (caught.value.kind, caught.value.file) == ("manifest", str(saved / WEIGHTS))
        for said in (f"{now} bytes", str(was), "offramp verify", f"remove {MANIFEST_FILE}"):
            assert said in str(caught.value)
    (saved / MANIFEST_FILE).unlink()
    assert load(saved)


def test_a_shard_of_another_size_is_refused(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path, max_shard_size="1KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    grow(shard)
    with pytest.raises(CheckpointError, match=shard.name):
        load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "README.md", "tokenizer.json"])
def test_what_people_edit_is_loaded_and_verify_tells_of_it(saved: Path, name: str) -> None:
    values = json.loads((saved / "config.json").read_text())
    text = json.dumps({**values, "id2label": {"0": "good", "1": "bad"}})
    (saved / name).write_text(text if name == "config.json" else "{}")
    found = load(saved)
    assert (found.config.labels == ["good", "bad"]) is (name == "config.json")
    told = offramp.verify(saved)
    assert told.ok is (name != "config.json")
    assert name in ({*told.uncovered} | {*told.damaged})


def test_other_programs_neither_mind_it_nor_are_minded(saved: Path) -> None:
    theirs = transformers.BertForSequenceClassification.from_pretrained(saved).eval()
    ours = load(saved)
    torch.testing.assert_close(theirs(IDS, MASK).logits, ours(IDS, MASK).logits)
    theirs.classifier.bias.data += 1
    theirs.save_pretrained(saved)  # the same tensors' sizes, other numbers
    told = offramp.verify(saved)
    assert {*told.damaged} >= {"config.json", WEIGHTS}
    if (saved / WEIGHTS).stat().st_size == listed(saved)[WEIGHTS]["size"]:
        assert torch.equal(load(saved).classifier.bias, theirs.classifier.bias)
    ours.save_pretrained(saved)
    assert offramp.verify(saved).ok


def test_a_copy_without_some_files_is_loaded(saved: Path, tmp_path: Path) -> None:
    (saved / "vocab.txt").write_text("[UNK]")
    load(saved).save_pretrained(tmp_path / "whole")
    assert "vocab.txt" in listed(tmp_path / "whole")
    (tmp_path / "whole" / "vocab.txt").unlink()
    assert load(tmp_path / "whole")
    assert offramp.verify(tmp_path / "whole").missing == ("vocab.txt",)


# Manifests that are none


def entry(**changes: Any) -> str:
    return json.dumps({"size": 1, "sha256": "0" * 64, **changes})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"files": []}',
        '{"format": 1, "files": {}}',  # another spelling
        '{"format": 2, "files": {}}',
        "[" * 5000,
        "[" * 100_000,
        "\ufeff{}",
        " " * 3_000_000,
        *(
            f'{{"format": 1, "files": {{"{name}": {about}}}}}'
            for name, about in (
                ("../x", entry()),
                ("/x", entry()),
                ("", entry()),
                ("x\\u0000", entry()),
                ("x", entry(size=-1)),
                ("x", entry(size=True)),
                ("x", entry(size=1.0)),
                ("x", entry(sha256="A" * 64)),
                ("x", entry(sha256=0)),
                ("x", "[]"),
            )
        ),
    ],
)
def test_a_manifest_that_is_not_sound(saved: Path, text: str) -> None:
    (saved / MANIFEST_FILE).write_text(text)
    with pytest.raises(CheckpointError, match="is no sound manifest") as caught:
        load(saved)
    assert caught.value.kind == "manifest"
    told = offramp.verify(saved)
    assert not told.ok
    assert [*told.damaged] == [MANIFEST_FILE]
    model().save_pretrained(saved)
    assert offramp.verify(saved).ok


@pytest.mark.parametrize("kind", ["pipe", "folder", "loop"])
def test_a_manifest_that_is_no_file(saved: Path, kind: str) -> None:
    path = saved / MANIFEST_FILE
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path)
    with pytest.raises(CheckpointError, match="is no sound manifest"):
        load(saved)
    assert not offramp.verify(saved).ok


def test_it_is_read_as_it_is_written(saved: Path) -> None:
    records = read_manifest(saved)
    assert records is not None
    assert manifest_text(records) == (saved / MANIFEST_FILE).read_text()
    shutil.rmtree(saved)
    assert read_manifest(saved) is None
