"""Ordinary files of the directory alone: no pipe, no device, no link that leads elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stored_cases import save

import offramp.checkpoints
from offramp.checkpoints.checked_file import (
    UnsoundError,
    check_inside,
    check_own,
    reading,
    small_file,
)
from offramp.checkpoints.weights import open_save, read_file, read_index
from offramp.errors import CHECKPOINT_FAULTS, CheckpointError

FORMATS = ("x.safetensors", "x.bin", "x.pdparams")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model's directory, with something beside it."""
    (tmp_path / "model").mkdir()
    save(tmp_path / "elsewhere.safetensors", "a")
    return tmp_path / "model"


def refused(kind: str, read: Callable[[], Any]) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read()
    assert caught.value.kind == kind
    return caught.value


def test_a_small_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert small_file(tmp_path / "x", 3) == b"abc"
    with pytest.raises(UnsoundError, match="longer than 2 bytes"):
        small_file(tmp_path / "x", 2)


# What is no file


@pytest.mark.timeout(20)
@pytest.mark.parametrize("file", FORMATS)
def test_a_pipe_is_not_waited_for(directory: Path, file: str) -> None:
    os.mkfifo(directory / file)
    refused("outside", lambda: read_file(directory / file))
    refused("outside", lambda: open_save(directory / file))


@pytest.mark.timeout(20)
def test_a_pipe_in_the_place_of_an_index(directory: Path) -> None:
    os.mkfifo(directory / "model.safetensors.index.json")
    refused("outside", lambda: read_index(directory / "model.safetensors.index.json"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("file", FORMATS)
def test_a_device_is_not_read(directory: Path, file: str) -> None:
    (directory / file).symlink_to("/dev/zero")
    refused("outside", lambda: read_file(directory / file))
    refused("outside", lambda: open_save(directory / file))


@pytest.mark.parametrize("file", FORMATS)
def test_a_directory_is_no_file(directory: Path, file: str) -> None:
    (directory / file).mkdir()
    with pytest.raises(CheckpointError, match=r"x\.\w+ (is refused|cannot be read)"):
        read_file(directory / file)


@pytest.mark.parametrize("file", FORMATS)
def test_a_link_to_itself_or_to_nothing(directory: Path, file: str) -> None:
    for target in (file, "nowhere"):
        (directory / file).symlink_to(target)
        for read in (read_file, open_save):
            with pytest.raises(CheckpointError, match=r"x\.\w+ (is refused|cannot be read)"):
                read(directory / file)
        (directory / file).unlink()


# What lies elsewhere


@pytest.mark.parametrize("relative", [True, False])
def test_a_link_outward_is_refused(directory: Path, relative: bool) -> None:
    outside = directory.parent / "elsewhere.safetensors"
    link = directory / "model.safetensors"
    link.symlink_to("../elsewhere.safetensors" if relative else outside)
    error = refused("outside", lambda: open_save(link))
    assert f"a link to {outside}" in str(error)
    assert error.file == str(link)


def test_a_link_within_is_followed(directory: Path) -> None:
    (directory / "sub").mkdir()
    save(directory / "sub" / "own.safetensors", "a")
    (directory / "model.safetensors").symlink_to("sub/own.safetensors")
    assert list(open_save(directory / "model.safetensors").tensors) == ["a"]


def test_a_directory_that_is_a_link(directory: Path) -> None:
    """Whoever names it means what it leads to."""
    save(directory / "model.safetensors", "a")
    (directory.parent / "link").symlink_to("model")
    assert list(open_save(directory.parent / "link" / "model.safetensors").tensors) == ["a"]


def test_a_link_from_a_directory_of_a_longer_name(directory: Path) -> None:
    """model-2 begins with "model", and is another."""
    (directory.parent / "model-2").mkdir()
    save(directory.parent / "model-2" / "x.safetensors", "a")
    (directory / "x.safetensors").symlink_to("../model-2/x.safetensors")
    refused("outside", lambda: open_save(directory / "x.safetensors"))


@pytest.mark.parametrize("inside", ["", "fp16", "fp16/deeper"])
def test_the_hub_s_cache(tmp_path: Path, inside: str) -> None:
    """Its snapshots are links to blobs of the same repository, and of no other."""
    repository = tmp_path / "models--owner--name"
    snapshot = repository / "snapshots" / "0123abcd" / inside
    snapshot.mkdir(parents=True)
    for where in (repository, tmp_path / "models--owner--other"):
        (where / "blobs").mkdir(parents=True)
        save(where / "blobs" / "5f3e", "a")
    up = os.path.relpath(tmp_path, snapshot)
    link = snapshot / "model.safetensors"
    link.symlink_to(f"{up}/models--owner--name/blobs/5f3e")
    assert list(open_save(link).tensors) == ["a"]
    link.unlink()
    link.symlink_to(f"{up}/models--owner--other/blobs/5f3e")
    refused("outside", lambda: open_save(link))


def index_of(directory: Path, shard: str) -> Path:
    path = directory / "model.safetensors.index.json"
    path.write_text(f'{{"weight_map": {{"a": "{shard}"}}}}')
    return path


@pytest.mark.parametrize("beside", [None, "a link", "a link that is the shard"])
def test_a_shard_with_a_name_elsewhere_is_refused(directory: Path, beside: str | None) -> None:
    """A hard link, also where links that lie beside it make up its number of names."""
    os.link(directory.parent / "elsewhere.safetensors", directory / "one.safetensors")
    shard = "one.safetensors"
    if beside is not None:
        (directory / "two.safetensors").symlink_to("one.safetensors")
        shard = "two.safetensors" if beside == "a link that is the shard" else shard
    error = refused("outside", lambda: open_save(index_of(directory, shard)))
    assert "a hard link" in str(error)


def test_a_shard_with_two_names_in_the_directory(directory: Path) -> None:
    save(directory / "one.safetensors", "a")
    os.link(directory / "one.safetensors", directory / "two.safetensors")
    check_own(directory / "one.safetensors", directory)
    assert list(open_save(index_of(directory, "one.safetensors")).tensors) == ["a"]


def test_a_shard_or_an_index_that_is_a_link_outward(directory: Path) -> None:
    (directory / "one.safetensors").symlink_to("../elsewhere.safetensors")
    refused("outside", lambda: open_save(index_of(directory, "one.safetensors")))
    (directory / "model.safetensors.index.json").rename(directory.parent / "index.json")
    (directory / "model.safetensors.index.json").symlink_to("../index.json")
    refused("outside", lambda: open_save(directory / "model.safetensors.index.json"))


def test_the_file_itself_need_not_be_there(directory: Path) -> None:
    check_inside(directory / "nowhere", directory)
    with pytest.raises(UnsoundError):
        check_inside(directory / ".." / "nowhere", directory)


# Errors


def test_errors_name_the_file_and_the_byte(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(CheckpointError) as caught, reading(path, "header", "Do this."):
        raise UnsoundError("it is odd", 7)
    error = caught.value
    assert str(error) == f"{path} is refused (byte 7): it is odd. Do this."
    assert (error.kind, error.file, error.offset) == ("header", str(path), 7)
    assert error.__cause__ is None
    assert isinstance(error, ValueError | RuntimeError)  # as PaddleNLP and transformers have it
    with pytest.raises(CheckpointError) as caught, reading(path, "header"):
        raise UnsoundError("it is odd", kind="legacy")
    assert str(caught.value) == f"{path} is refused: it is odd."
    assert (caught.value.kind, caught.value.offset) == ("legacy", None)
    missing = pytest.raises(CheckpointError, match="cannot be read: No such file")
    with missing as caught, reading(path, "header"):
        path.read_bytes()
    assert caught.value.kind == "missing"


def test_every_kind_that_is_raised_is_described() -> None:
    (source,) = map(Path, offramp.checkpoints.__path__)
    named = set()
    for module in source.glob("*.py"):
        text = module.read_text()
        named |= set(re.findall(r'kind="(\w+)"', text))
        named |= set(re.findall(r'reading\([\w.]+, "(\w+)"', text))
    assert named
    assert named <= CHECKPOINT_FAULTS.keys()
