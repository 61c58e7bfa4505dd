"""Attacks on the index of a save in several files: .index.json, and the files that it names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attack_kit import (
    LOADS,
    WEIGHT,
    Attack,
    Builder,
    Outcome,
    Sound,
    cuts,
    refused,
    rows,
    safetensors,
    save,
    sound_paddle,
    sound_safetensors,
    sound_torch,
    write_config,
    written,
)

INDEX = refused("index")
OUTSIDE = refused("outside", "index")
MISSING = refused("missing", "index")
NO_FILE = refused("missing", "index", "outside", "header")
"""For a name under which something lies that is no file."""
DISAGREE = refused("index", "tensors", "ambiguous", "missing")
LIMIT = 25 * 2**20


@dataclass(frozen=True)
class Format:
    """One of the three in which a save in several files comes."""

    stem: str
    suffix: str
    make: Callable[..., bytes]
    names: Callable[[Sound], list[str]]

    @property
    def index(self) -> str:
        return f"{self.stem}.{self.suffix}.index.json"

    def shard(self, number: int) -> str:
        return f"{self.stem}-{number:05d}-of-00002.{self.suffix}"


SAFETENSORS = Format("model", "safetensors", sound_safetensors, lambda sound: list(sound.arrays))
TORCH = Format("pytorch_model", "bin", sound_torch, lambda sound: list(sound.arrays))
PADDLE = Format("model_state", "pdparams", sound_paddle, lambda sound: list(sound.paddle()))
FORMATS = {"safetensors": SAFETENSORS, ".bin": TORCH, ".pdparams": PADDLE}
FIRST, SECOND = SAFETENSORS.shard(1), SAFETENSORS.shard(2)
LAST = "encoder.layer.0.output.LayerNorm.bias"
"""A tensor of the second file; `WEIGHT` is one of the first."""


# ---------------------------------------------------------------- ways to spoil an index


def write_shards(directory: Path, sound: Sound, form: Format = SAFETENSORS) -> dict[str, Any]:
    """A sound save in two files, and what its index is to say."""
    write_config(directory, sound)
    names = form.names(sound)
    parts = {form.shard(1): names[:10], form.shard(2): names[10:]}
    for file, held in parts.items():
        (directory / file).write_bytes(form.make(sound, held))
    weight_map = {name: file for file, held in parts.items() for name in held}
    return {"metadata": {"total_size": 1}, "weight_map": weight_map}


def index(
    edit: Callable[[dict[str, Any]], object] = lambda index: None, form: Format = SAFETENSORS
) -> Builder:
    """The index edited in place."""

    def build(directory: Path, sound: Sound) -> None:
        found = write_shards(directory, sound, form)
        edit(found)
        (directory / form.index).write_text(json.dumps(found))

    return build


def index_text(change: Callable[[bytes], bytes]) -> Builder:
    """The index's text changed."""

    def build(directory: Path, sound: Sound) -> None:
        text = json.dumps(write_shards(directory, sound)).encode()
        (directory / SAFETENSORS.index).write_bytes(change(text))

    return build


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda text: text.replace(old, new, 1)


def whole_map(value: Any) -> Builder:
    return index(lambda index: index.update(weight_map=value))


def mapped(name: str, file: Any) -> Builder:
    """One tensor is said to lie elsewhere."""
    return index(lambda index: index["weight_map"].update({name: file}))


def called(name: str) -> Builder:
    """The second file, which is there, is called this in the index."""

    def edit(index: dict[str, Any]) -> None:
        for tensor, file in index["weight_map"].items():
            if file == SECOND:
                index["weight_map"][tensor] = name

    return index(edit)


def then(act: Callable[[Path], object], form: Format = SAFETENSORS) -> Builder:
    """A sound save, and something done to its second file, by its path."""

    def build(directory: Path, sound: Sound) -> None:
        index(form=form)(directory, sound)
        act(directory / form.shard(2))

    return build


def outside(path: Path) -> Path:
    """The file, moved out of the directory."""
    place = path.parent.parent / "outside"
    place.mkdir()
    return path.rename(place / path.name)


def named(by: Callable[[Path, Path], str], *, move: bool = True) -> Callable[[Format], Builder]:
    """The second file lies outside, and the index names it by its directory and where it is."""

    def builder(form: Format) -> Builder:
        def build(directory: Path, sound: Sound) -> None:
            found = write_shards(directory, sound, form)
            second = directory / form.shard(2)
            name = by(directory, outside(second) if move else second)
            for tensor, file in found["weight_map"].items():
                if file == second.name:
                    found["weight_map"][tensor] = name
            (directory / form.index).write_text(json.dumps(found))

        return build

    return builder


def through_a_link(directory: Path, file: Path) -> str:
    (directory / "sub").symlink_to(file.parent)
    return f"sub/{file.name}"


def put(link: Callable[[Path, Path], object]) -> Callable[[Path], object]:
    """In the second file's place, a link to where it is now."""
    return lambda path: link(path, outside(path))


def in_place(make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Something else in the second file's place."""

    def act(path: Path) -> None:
        path.unlink()
        make(path)

    return act


def another_shard(change: Callable[[Sound, list[str]], bytes]) -> Builder:
    """The second file holds something else."""

    def build(directory: Path, sound: Sound) -> None:
        index()(directory, sound)
        (directory / SECOND).write_bytes(change(sound, list(sound.arrays)[10:]))

    return build


def cut_off(directory: Path, sound: Sound) -> Iterator[str]:
    """The index cut off at every seventh byte and the last."""
    text = json.dumps(write_shards(directory, sound)).encode()
    for word, content in cuts(text, [*range(0, len(text), 7), len(text) - 1]):
        (directory / SAFETENSORS.index).write_bytes(content)
        yield word


SNAPSHOT = "models--owner--name/snapshots/" + "0" * 40


def cached(write: Builder) -> Builder:
    """The hub's cache: a snapshot of links to files that are called by what they hold."""

    def build(directory: Path, sound: Sound) -> None:
        snapshot, blobs = directory / SNAPSHOT, directory / "models--owner--name" / "blobs"
        for place in (snapshot, blobs):
            place.mkdir(parents=True)
        list(written(write, snapshot, sound))
        for number, path in enumerate(sorted(snapshot.iterdir())):
            path.rename(blobs / f"{number:040d}")
            path.symlink_to(f"../../blobs/{number:040d}")

    return build


def without_weight(sound: Sound, names: list[str]) -> bytes:
    return sound_safetensors(sound, [name for name in names if name != LAST])


def with_weight(sound: Sound, names: list[str]) -> bytes:
    return sound_safetensors(sound, [*names, WEIGHT])


def linked_inside(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("elsewhere")).name)


def link_to(target: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(target)


def in_every_format(
    name: str, make: Callable[[Format], Builder], outcome: Outcome, opens: str = "."
) -> list[Attack]:
    return [Attack(f"{name}, {word}", make(form), outcome, opens) for word, form in FORMATS.items()]


# ---------------------------------------------------------------- the table

OUT = [
    *in_every_format("../outside/...", named(lambda _, file: f"../outside/{file.name}"), OUTSIDE),
    *in_every_format("an absolute path", named(lambda _, file: str(file)), OUTSIDE),
    *in_every_format(
        "a way out and in",
        named(lambda directory, file: f"../{directory.name}/{file.name}", move=False),
        OUTSIDE,
    ),
    *in_every_format("a directory that is a link outward", named(through_a_link), OUTSIDE),
    *in_every_format(
        "a symbolic link outward", lambda form: then(put(Path.symlink_to), form), OUTSIDE
    ),
    *in_every_format(
        "a hard link outward", lambda form: then(put(Path.hardlink_to), form), OUTSIDE
    ),
    Attack("a link to /etc/passwd", then(in_place(link_to("/etc/passwd"))), OUTSIDE),
    *in_every_format(
        "a link to /dev/zero",
        lambda form: then(in_place(link_to("/dev/zero")), form),
        NO_FILE,
    ),
    Attack("a link to /proc/self/mem", then(in_place(link_to("/proc/self/mem"))), NO_FILE),
    Attack("a link to itself", then(in_place(link_to(SECOND))), NO_FILE),
    Attack("a link to nothing", then(in_place(link_to("nothing"))), NO_FILE),
    Attack("a link to a directory", then(in_place(link_to("."))), NO_FILE),
    *in_every_format(
        "a pipe, which nobody writes to", lambda form: then(in_place(os.mkfifo), form), NO_FILE
    ),
    *in_every_format("a directory", lambda form: then(in_place(Path.mkdir), form), NO_FILE),
    *in_every_format("a file that is missing", lambda form: then(Path.unlink, form), MISSING),
    *rows(
        "a file called {}",
        called,
        refused("outside", "index", "missing", "ambiguous"),
        {
            "nothing": "",
            ".": ".",
            "..": "..",
            "/": "/",
            "by a name and NUL": SECOND + "\0",
            "by NUL and a name": "\0" + SECOND,
            "by a name and a line's end": SECOND + "\n",
            "by a name and a slash": SECOND + "/",
            "by two slashes and a name": "//" + SECOND,
            "by . and a name": "./" + SECOND,
            "by a directory that is not there and ..": "x/../" + SECOND,
            "by .. and a backslash": "..\\" + SECOND,
            "by a drive": "C:" + SECOND,
            "by an address": "file:///etc/passwd",
            "by an address of the net": "https://example.org/" + SECOND,
            "by the home directory": "~/" + SECOND,
            "by ..'s number": "%2e%2e/" + SECOND,
            "in capitals": SECOND.upper(),
            "by 10,000 letters": "a" * 10_000,
            "by letters that there are not": "\ud800",
            "as the index": SAFETENSORS.index,
            "as the configuration": "config.json",
        },
    ),
]

WRONG = [
    *rows(
        "an index that is {}",
        index_text,
        INDEX,
        {
            "empty": lambda text: b"",
            "no JSON": lambda text: b"not JSON",
            "a list": lambda text: b"[" + text + b"]",
            "a text": lambda text: b'"' + SECOND.encode() + b'"',
            "a number": lambda text: b"1",
            "null": lambda text: b"null",
            "an empty mapping": lambda text: b"{}",
            "not UTF-8": lambda text: text.replace(b"total_size", b"\xff"),
            "UTF-8 with a mark of byte order": lambda text: b"\xef\xbb\xbf" + text,
            "UTF-16": lambda text: text.decode().encode("utf-16"),
            "two documents": lambda text: text + b"{}",
            "nested 100,000 lists deep": lambda text: b"[" * 100_000,
            "nested 100,000 deep in its metadata": replaced(
                b'"total_size": 1', b'"a":' + b"[" * 100_000 + b"]" * 100_000
            ),
            "of NaN": replaced(b'"total_size": 1', b'"total_size": NaN'),
            "of 1e400": replaced(b'"total_size": 1', b'"total_size": 1e400'),
            "of 5,000 digits": replaced(b'"total_size": 1', b'"total_size": ' + b"9" * 5000),
            "25 MiB and a byte long": lambda text: text.ljust(LIMIT + 1),
            "24 MB of empty lists": lambda text: (
                text[:-1] + b', "x": [' + b"[]," * 8_000_000 + b"1]}"
            ),
            "a half million tensors": lambda text: (
                b'{"weight_map": {' + b",".join(b'"%d": "x"' % n for n in range(500_000)) + b"}}"
            ),
            "a mapping with two of its kind": lambda text: text[:-1] + b', "weight_map": {}}',
            "a mapping with one tensor twice": lambda text: (
                text[:-2] + f', "{WEIGHT}": "{FIRST}"'.encode() + b"}}"
            ),
            "a mapping with one tensor in two files": lambda text: (
                text[:-2] + f', "{WEIGHT}": "{SECOND}"'.encode() + b"}}"
            ),
        },
    ),
    Attack("an index cut off", cut_off, INDEX),
    *rows(
        "a weight_map that is {}",
        whole_map,
        INDEX,
        {
            "a list": [WEIGHT, FIRST],
            "a text": FIRST,
            "a number": 1,
            "null": None,
            "empty": {},
            "in a mapping": {"weight_map": {WEIGHT: FIRST}},
        },
    ),
    Attack("no weight_map", index(lambda index: index.pop("weight_map")), INDEX),
    *rows(
        "a tensor in {}",
        lambda file: mapped(WEIGHT, file),
        INDEX,
        {
            "null": None,
            "a number": 1,
            "a truth value": True,
            "a list of files": [FIRST],
            "a mapping": {FIRST: 1},
        },
    ),
    Attack("a tensor in the wrong file", mapped(WEIGHT, SECOND), DISAGREE),
    Attack("a tensor of no file", mapped("encoder.layer.1.x", SECOND), DISAGREE),
    Attack("a tensor of no file, to be dropped", mapped("x.position_ids", SECOND), DISAGREE),
    Attack(
        "a tensor of a file and not of the index",
        index(lambda index: index["weight_map"].pop(WEIGHT)),
        DISAGREE,
    ),
    Attack("a tensor in two files", another_shard(with_weight), DISAGREE),
    Attack("a tensor in no file", another_shard(without_weight), DISAGREE),
    Attack("a file of which nothing is said", whole_map({WEIGHT: FIRST}), DISAGREE),
    *rows(
        "a file that is {}",
        another_shard,
        refused("header", "truncated", "index", "tensors"),
        {
            "empty": lambda sound, names: b"",
            "cut off": lambda sound, names: sound_safetensors(sound, names)[:-1],
            "a byte too long": lambda sound, names: sound_safetensors(sound, names) + b"\0",
            "an index": lambda sound, names: json.dumps({"weight_map": {WEIGHT: FIRST}}).encode(),
            "of no tensor": lambda sound, names: safetensors({}),
            "the first again": lambda sound, names: sound_safetensors(
                sound, list(sound.arrays)[:10]
            ),
            "a zip of PyTorch's": sound_torch,
        },
    ),
    Attack(
        "an index that is a pipe",
        lambda directory, sound: (
            write_shards(directory, sound) and os.mkfifo(directory / SAFETENSORS.index)
        ),
        refused("index", "missing", not_found=True),
    ),
    Attack(
        "an index that is a directory",
        lambda directory, sound: (
            write_shards(directory, sound) and (directory / SAFETENSORS.index).mkdir()
        ),
        refused("index", "missing", not_found=True),
    ),
]

SOUND = [
    *in_every_format("as written by hand", lambda form: index(form=form), LOADS),
    *in_every_format(
        "the hub's cache, which is links", lambda form: cached(index(form=form)), LOADS, SNAPSHOT
    ),
    *in_every_format(
        "one file in the hub's cache",
        lambda form: cached(save(form.make, f"{form.stem}.{form.suffix}")),
        LOADS,
        SNAPSHOT,
    ),
    Attack("opened by the index's name", index(), LOADS, opens=SAFETENSORS.index),
    Attack("no metadata", index(lambda index: index.pop("metadata")), LOADS),
    Attack("metadata that is null", index(lambda index: index.update(metadata=None)), LOADS),
    Attack("more beside the map", index(lambda index: index.update(format="np", x=[1])), LOADS),
    Attack("a link to a file in the directory", then(linked_inside), LOADS),
    Attack(
        "a file of any other name",
        named(lambda directory, file: file.rename(directory / "b.safetensors").name, move=False)(
            SAFETENSORS
        ),
        LOADS,
    ),
]

ROWS: list[Attack] = [*OUT, *WRONG, *SOUND]
