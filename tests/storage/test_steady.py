"""Reads of a directory that is replaced meanwhile, and what stands for one that is not there."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from offramp import BertConfig, BertModel, CheckpointError
from offramp.checkpoints import directory as directories
from offramp.checkpoints.directory import recover, staged
from offramp.errors import ModelNotFoundError, SaveError
from offramp.storage.steady import (
    AT_ONCE,
    WITH_SAVERS_WAITING,
    interrupted,
    present,
    reread,
    steady,
)


def put(target: Path, text: str) -> None:
    with staged(target) as fresh:
        for name in ("a", "b"):
            (fresh / name).write_text(text)


class Reader:
    """Reads two files, and lets saves happen in between, so many times."""

    def __init__(self, target: Path, replaced: int) -> None:
        self.target, self.left, self.reads = target, replaced, 0

    def __call__(self) -> str:
        with steady(self.target):
            self.reads += 1
            first = (self.target / "a").read_text()
            if self.left:
                self.left -= 1
                put(self.target, f"{self.left}")
            return first + (self.target / "b").read_text()


@pytest.mark.parametrize("replaced", range(AT_ONCE))
def test_what_was_replaced_is_read_again(tmp_path: Path, replaced: int) -> None:
    put(tmp_path / "model", "0")
    read = Reader(tmp_path / "model", replaced)
    assert reread(read) == "00"
    assert read.reads == replaced + 1


def test_a_file_that_is_gone_is_read_again_only_where_the_directory_changed(tmp_path: Path) -> None:
    target = tmp_path / "model"
    put(target, "0")
    reads = []

    def read() -> str:
        with steady(target):
            reads.append(1)
            if len(reads) == 1:
                put(target, "1")
                raise ModelNotFoundError("a is gone")
            return (target / "a").read_text()

    assert reread(read) == "1"

    def fail() -> str:
        with steady(target):
            reads.append(1)
            raise ModelNotFoundError("there never was one")

    with pytest.raises(ModelNotFoundError, match="there never was one"):
        reread(fail)
    assert len(reads) == 3


def test_one_that_never_rests_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "alone", lambda path: NoLock())  # of a program without locks
    put(tmp_path / "model", "0")
    read = Reader(tmp_path / "model", 1000)
    with pytest.raises(CheckpointError, match=r"was replaced 8 times while it was read") as caught:
        reread(read)
    assert (caught.value.kind, read.reads) == ("replaced", AT_ONCE + WITH_SAVERS_WAITING)


class NoLock:
    def __enter__(self) -> bool:
        return False

    def __exit__(self, *_: object) -> None:
        return None


def test_savers_wait_in_the_end(tmp_path: Path) -> None:
    """A saver that never stops: four times it comes in between, and then it has to wait."""
    target = tmp_path / "model"
    put(target, "0")
    stop, saves = threading.Event(), [0]

    def save() -> None:
        while not stop.is_set():
            put(target, str(saves[0]))
            saves[0] += 1

    saver = threading.Thread(target=save)
    saver.start()
    try:

        def read() -> str:
            with steady(target):
                first, before = (target / "a").read_text(), saves[0]
                until = time.monotonic() + 0.3
                while saves[0] == before and time.monotonic() < until:
                    time.sleep(0.005)
                return first + (target / "b").read_text()

        found = reread(read)
    finally:
        stop.set()
        saver.join()
    assert found[: len(found) // 2] == found[len(found) // 2 :]
    assert list(tmp_path.iterdir()) == [target]


def test_files_replaced_one_by_one_with_their_manifest(tmp_path: Path) -> None:
    """Not by a save of a whole directory, but by a program that copies file after file."""
    put(tmp_path / "model", "0")
    put(tmp_path / "other", "1")
    reads = []

    def read() -> str:
        with steady(tmp_path / "model"):
            reads.append(1)
            first = (tmp_path / "model" / "a").read_text()
            if len(reads) == 1:
                for path in (tmp_path / "other").iterdir():
                    (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
            return first + (tmp_path / "model" / "b").read_text()

    assert reread(read) == "11"


# Where two names cannot be exchanged


@pytest.fixture
def no_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directories, "_exchanged", lambda a, b: False)


@pytest.mark.usefixtures("no_exchange")
def test_a_save_without_exchange(tmp_path: Path) -> None:
    put(tmp_path / "model", "0")
    put(tmp_path / "model", "1")
    assert (tmp_path / "model" / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


@pytest.mark.usefixtures("no_exchange")
@pytest.mark.parametrize("fails", [1, 2])
def test_a_rename_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: int) -> None:
    put(tmp_path / "model", "0")
    rename, count = Path.rename, [0]

    def failing(path: Path, target: Path) -> Path:
        count[0] += 1
        if count[0] == fails:
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(SaveError, match="Nothing was changed"):
        put(tmp_path / "model", "1")
    assert (tmp_path / "model" / "a").read_text() == "0"
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def killed_between_renames(model: Path) -> Path:
    """What a kill leaves there: no model, the old one whole, and the new one whole."""
    old = model.with_name(f".{model.name}.0123456789ab.old")
    model.rename(old)
    BertModel(BertConfig(**SMALL)).save_pretrained(model.with_name("new"))
    model.with_name("new").rename(old.with_suffix(".tmp"))
    return old


SMALL = {
    "vocab_size": 4,
    "hidden_size": 2,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 2,
    "max_position_embeddings": 2,
}


def test_a_kill_between_two_renames(tmp_path: Path) -> None:
    """The old model is found under its name, by readers at once and by all after the next save."""
    target = tmp_path / "model"
    first = BertModel(BertConfig(**{**SMALL, "vocab_size": 5}))
    first.save_pretrained(target)
    old = killed_between_renames(target)
    (tmp_path / "link").symlink_to(target)
    for name in (target, tmp_path / "link"):
        assert present(name) == old == interrupted(target)
    (tmp_path / "link").unlink()
    assert BertModel.from_pretrained(target).config.vocab_size == 5
    assert BertConfig.from_pretrained(target).vocab_size == 5
    recover(target)
    assert list(tmp_path.iterdir()) == [target]
    assert BertModel.from_pretrained(target).config.vocab_size == 5


def test_what_is_removed_does_not_come_back(tmp_path: Path) -> None:
    """Killed after both renames: the old model has still its other name, and is not the model."""
    target = tmp_path / "model"
    put(target, "0")
    old = target.with_name(".model.0123456789ab.old")
    target.rename(old)
    assert interrupted(target) is None
    assert present(target) is None
    recover(target)
    assert list(tmp_path.iterdir()) == []
