"""`offramp.verify`: a bit that changed, a file that is gone, one that nobody saved."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import offramp
from offramp import BertConfig, BertModel
from offramp.checkpoints.directory import staged
from offramp.storage.manifest import MANIFEST_FILE


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    config = BertConfig(
        vocab_size=4,
        hidden_size=2,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=2,
        max_position_embeddings=2,
    )
    BertModel(config).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_each_of_ten_thousand_flipped_bits_is_noticed(saved: Path) -> None:
    """In any file, the manifest too, one at a time and put back."""
    contents = {path: path.read_bytes() for path in sorted(saved.iterdir())}
    assert len(contents) == 3
    places = [(path, bit) for path, text in contents.items() for bit in range(8 * len(text))]
    noticed = 0
    for path, bit in random.Random(0).sample(places, 10_000):
        with path.open("r+b") as file:
            file.seek(bit // 8)
            file.write(bytes([contents[path][bit // 8] ^ 1 << bit % 8]))
        noticed += not offramp.verify(saved).ok
        path.write_bytes(contents[path])
    assert noticed == 10_000
    assert offramp.verify(saved).ok


def test_what_it_says(saved: Path) -> None:
    told = offramp.verify(saved)
    size = sum(p.stat().st_size for p in saved.iterdir() if p.name != MANIFEST_FILE)
    assert (told.ok, told.n_bytes) == (True, size)
    assert told.sound == ("config.json", "model.safetensors")
    assert str(told) == f"{saved} is as it was saved: 2 files of {size:,} bytes are sound."
    (saved / "config.json").write_text("{}")
    (saved / "model.safetensors").unlink()
    (saved / "notes").mkdir()
    (saved / "notes" / "a.txt").write_text("mine")
    told = offramp.verify(str(saved))
    assert (told.ok, told.sound, told.missing) == (False, (), ("model.safetensors",))
    assert told.uncovered == ("notes/a.txt",)
    assert str(told).splitlines()[1:] == [
        "model.safetensors: missing",
        "notes/a.txt: not in the manifest",
        f"{saved} is NOT as it was saved: 0 files of 0 bytes are sound.",
    ]
    assert "2 bytes, and " in told.damaged["config.json"]
    assert told.to_dict()["ok"] is False


def test_a_save_inside_of_another_is_its_own(saved: Path) -> None:
    with staged(saved / "checkpoint-5") as fresh:
        (fresh / "state.bin").write_bytes(b"1")
    assert offramp.verify(saved).uncovered == ()
    assert offramp.verify(saved / "checkpoint-5").sound == ("state.bin",)


def test_without_a_manifest_nothing_is_said(saved: Path) -> None:
    (saved / MANIFEST_FILE).unlink()
    told = offramp.verify(saved)
    assert (told.ok, told.has_manifest, told.sound) == (False, False, ())
    assert told.uncovered == ("config.json", "model.safetensors")
    assert "nothing can be said of its 2 files" in str(told)


@pytest.mark.parametrize("name", ["absent", "saved/config.json"])
def test_what_is_no_directory(saved: Path, name: str) -> None:
    with pytest.raises(offramp.ModelNotFoundError, match="is no directory"):
        offramp.verify(saved.parent / name)
