"""Directories that are there whole: exceptions, replacement, kills, permissions, links."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import offramp
from offramp.checkpoints.directory import check_writable, staged
from offramp.errors import SaveError
from offramp.storage import files
from offramp.storage.into import write_into
from offramp.storage.manifest import MANIFEST_FILE


def contents(folder: Path) -> dict[str, str]:
    """{path inside: text} of every file under a folder, hidden ones too, manifests not."""
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST_FILE
    }


def tiny_model(value: float = 1.0) -> offramp.BertModel:
    config = offramp.BertConfig(
        vocab_size=10,
        hidden_size=4,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=4,
        max_position_embeddings=4,
    )
    model = offramp.BertModel(config)
    for parameter in model.parameters():
        parameter.data.fill_(value)
    return model


# A save that ends


def test_a_new_directory(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep"
    with staged(target) as fresh:
        assert fresh.parent == target.parent, "a sibling, so that the rename stays on one disk"
        assert not target.exists()
        (fresh / "a").write_text("1")
        (fresh / "sub").mkdir()
        (fresh / "sub" / "b").write_text("2")
    assert contents(tmp_path) == {"new/deep/a": "1", "new/deep/sub/b": "2"}


@pytest.mark.parametrize("as_text", [True, False])
def test_a_replaced_directory(tmp_path: Path, as_text: bool) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "config.json").write_text("old")
    with staged(str(target) if as_text else target) as fresh:
        (fresh / "config.json").write_text("new")
        assert (target / "config.json").read_text() == "old"
    assert contents(tmp_path) == {"model/config.json": "new"}


def test_a_replaced_directory_keeps_what_is_not_weights(tmp_path: Path) -> None:
    target = tmp_path / "model"
    (target / "notes").mkdir(parents=True)
    kept = ("README.md", "tokenizer.json", ".gitattributes", "notes/weights.bin")
    stale = (
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model-00001-of-00002.bin",
        "pytorch_model.bin.index.json",
        "model_state.pdparams",
    )
    for name in (*kept, *stale, "config.json"):
        (target / name).write_text(f"old {name}")
    (target / "link").symlink_to("README.md")
    (target / "broken").symlink_to("nowhere")
    with staged(target) as fresh:
        (fresh / "config.json").write_text("new")
        (fresh / "model-00001-of-00001.safetensors").write_text("new")
    (target / "broken").unlink()
    assert (target / "link").is_symlink()
    assert contents(target) == {
        **{name: f"old {name}" for name in kept},
        "link": "old README.md",
        "config.json": "new",
        "model-00001-of-00001.safetensors": "new",
    }
    assert list(tmp_path.iterdir()) == [target]


def test_a_kept_file_keeps_its_time_and_rights(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    script = target / "run.sh"
    script.write_text("true")
    script.chmod(0o750)
    os.utime(script, (1_000_000_000, 1_000_000_000))
    with staged(target):
        pass
    assert script.stat().st_mode & 0o777 == 0o750
    assert script.stat().st_mtime == 1_000_000_000


# A save that does not


class Interrupted(BaseException):
    """Not an Exception, as KeyboardInterrupt is not."""


def test_a_kept_file_is_the_file_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trainer keeps there is not copied at each save, and its log goes on."""
    target = tmp_path / "model"
    (target / "runs").mkdir(parents=True)
    with (target / "runs/events").open("w") as log:
        log.write("step 1\n")
        log.flush()
        with staged(target) as fresh:
            (fresh / "config.json").write_text("{}")
        log.write("step 2\n")
    assert (target / "runs/events").read_text() == "step 1\nstep 2\n"

    def no_links(*_: object) -> None:
        raise PermissionError("Operation not permitted")  # what FAT says

    monkeypatch.setattr(os, "link", no_links)
    with staged(target) as fresh:
        (fresh / "config.json").write_text("[]")
    assert (target / "runs/events").read_text() == "step 1\nstep 2\n"


@pytest.mark.parametrize("kind", [RuntimeError, Interrupted])
@pytest.mark.parametrize("there_before", [True, False])
def test_an_exception_leaves_nothing_behind(
    tmp_path: Path, kind: type[BaseException], there_before: bool
) -> None:
    target = tmp_path / "model"
    if there_before:
        target.mkdir()
        (target / "config.json").write_text("old")
        (target / "model.safetensors").write_text("old")
    before = contents(tmp_path)
    with pytest.raises(kind, match="in the middle"), staged(target) as fresh:
        (fresh / "config.json").write_text("new")
        (fresh / "sub").mkdir()
        raise kind("in the middle")
    assert contents(tmp_path) == before
    assert list(tmp_path.iterdir()) == ([target] if there_before else [])


def test_a_model_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    tiny_model(1.0).save_pretrained(target)
    second = tiny_model(2.0)
    second.config.hidden_size = 5
    second.config.num_attention_heads = 2
    with pytest.raises(offramp.ConfigError):
        second.save_pretrained(target)
    assert list(tmp_path.iterdir()) == [target]
    old = offramp.BertModel.from_pretrained(target)
    assert all(bool((parameter == 1).all()) for parameter in old.parameters())


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("mine")
    with pytest.raises(OSError, match=r"model is a file; a model is saved to a directory"):
        tiny_model().save_pretrained(tmp_path / "model")
    assert contents(tmp_path) == {"model": "mine"}


# Links and odd paths


def test_a_link_to_a_directory_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "disk" / "real", tmp_path / "link"
    real.mkdir(parents=True)
    (real / "README.md").write_text("old")
    link.symlink_to(real)
    with staged(link) as fresh:
        (fresh / "config.json").write_text("new")
    assert link.is_symlink()
    assert contents(real) == {"README.md": "old", "config.json": "new"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]
    assert [path.name for path in real.parent.iterdir()] == ["real"]


@pytest.mark.parametrize("spelling", ["model", "./model", "model/", "model/../model"])
def test_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "README.md").write_text("old")
    monkeypatch.chdir(tmp_path)
    with staged(spelling) as fresh:
        (fresh / "config.json").write_text("new")
    expected = {"model/README.md": "old", "model/config.json": "new"}
    assert contents(tmp_path) == expected


def test_the_working_directory_is_not_replaced_under_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "README.md").write_text("old")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(offramp.OfframpError, match="working directory"), staged("."):
        pass
    assert contents(tmp_path) == {"README.md": "old"}


# Permissions


@pytest.fixture
def umask() -> Iterator[None]:
    """Puts back the process's umask."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o027, 0o077])
@pytest.mark.parametrize("there_before", [True, False])
@pytest.mark.usefixtures("umask")
def test_permissions_follow_the_umask(tmp_path: Path, mask: int, there_before: bool) -> None:
    model = tiny_model()
    if there_before:
        model.save_pretrained(tmp_path / "model")
    os.umask(mask)
    model.save_pretrained(tmp_path / "model")
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "model").iterdir()}
    names = ("config.json", "model.safetensors", MANIFEST_FILE)
    assert modes == dict.fromkeys(names, oct(0o666 & ~mask))
    if not there_before:
        assert (tmp_path / "model").stat().st_mode & 0o777 == 0o777 & ~mask


# Kills


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the kills need os.fork")
def test_a_kill_leaves_one_model_or_the_other(tmp_path: Path) -> None:
    target = tmp_path / "model"
    saver = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("saver.py")), str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    rng = random.Random(0)
    seen = []
    with saver:
        assert saver.stdin is not None
        assert saver.stdout is not None
        assert saver.stdout.readline() == "ready\n"
        for _ in range(12):
            saver.stdin.write("go\n")
            saver.stdin.flush()
            child = int(saver.stdout.readline())
            time.sleep(rng.uniform(0, 0.12))
            os.kill(child, signal.SIGKILL)
            assert saver.stdout.readline() == "dead\n"

            model = offramp.BertForSequenceClassification.from_pretrained(target)
            values = {float(value) for p in model.parameters() for value in p.detach().unique()}
            seen.append((model.config.hidden_size, values))
            assert sorted(path.name for path in target.iterdir()) == [
                "config.json",
                "model.safetensors",
                MANIFEST_FILE,
            ]
        saver.stdin.close()
        assert saver.wait(timeout=20) == 0
    # Width and weights were saved together: a directory of both would show another pair.
    assert all(pair in [(8, {1.0}), (16, {2.0})] for pair in seen)
    # What a kill left beside the target is no model's name, and at most one a kill.
    left = [path.name for path in tmp_path.iterdir() if path != target]
    assert len(left) <= 12
    assert all(name.startswith(".model.") for name in left)


def test_what_cannot_be_kept_or_named_is_refused_before_the_work(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    os.mkfifo(model / "pipe")
    for target, message in (
        (model, "pipe is a device or a pipe"),
        (tmp_path / ("m" * 240), "is too long"),
        ("~nobody-of-this-name/model", "is no path"),
    ):
        with pytest.raises(SaveError, match=message):
            check_writable(target)


def test_what_is_kept_where_there_are_no_links_is_flushed_and_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    with staged(target) as fresh:
        for name in ("vocab.txt", "notes.txt"):
            (fresh / name).write_text(name)
    (target / "notes.txt").write_text("edited")
    (target / "README.md").write_text("mine")

    def no_links(*_: object) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with staged(target) as fresh:
        (fresh / "config.json").write_text("{}")
    told = offramp.verify(target)
    assert told.sound == ("config.json", "vocab.txt")
    assert told.uncovered == ("README.md", "notes.txt")


def test_a_mount_inside_is_not_taken_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save would give its files to the new directory, and remove it with the old one."""
    target = tmp_path / "a model"
    (target / "logs").mkdir(parents=True)
    table = tmp_path / "mountinfo"
    where = str(target / "logs").replace(" ", "\\040")
    table.write_text(f"36 35 98:0 / {where} rw,noatime shared:1 - ext3 /dev/root rw\nodd\n")
    monkeypatch.setattr(files, "_MOUNTS", table)
    with pytest.raises(SaveError, match=r"logs in it is a mount"), staged(target):
        pass
    with staged(tmp_path / "another"):
        pass
    monkeypatch.setattr(files, "_MOUNTS", tmp_path / "none")  # another system
    assert files.mount_points() == []


def test_a_part_is_written_into_what_a_killed_save_took_away(tmp_path: Path) -> None:
    """Without an exchange of names: between the two renames nothing has the target's name."""
    target = tmp_path / "model"
    left = [tmp_path / f".model.{'0' * 12}.{end}" for end in ("old", "tmp")]
    for directory in left:
        directory.mkdir()
    (left[0] / "model.safetensors").write_bytes(b"the old one")
    write_into(target, {"tokenizer.json": b"{}"})
    assert (target / "model.safetensors").read_bytes() == b"the old one"
    assert (target / "tokenizer.json").read_bytes() == b"{}"
    with staged(target, re.compile("nothing")):
        pass
    assert (target / "model.safetensors").read_bytes() == b"the old one"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
