"""Attacks by what lies in a directory: files of two saves, none, or what is no file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from attack_kit import (
    LOADS,
    NOT_FOUND,
    WEIGHT,
    Attack,
    Builder,
    Sound,
    refused,
    rows,
    sound_paddle,
    sound_safetensors,
    sound_torch,
    write_config,
)
from attacks_on_indices import PADDLE, SAFETENSORS, TORCH, index

AMBIGUOUS = refused("ambiguous")
STRAY = refused("ambiguous", "index")
NO_FILE = refused("missing", "outside", "header", "pickle", "zip", not_found=True)

ONE = {"safetensors": "model.safetensors", ".bin": "pytorch_model.bin"}
MAKERS: dict[str, Callable[..., bytes]] = {
    "model.safetensors": sound_safetensors,
    "pytorch_model.bin": sound_torch,
    "model_state.pdparams": sound_paddle,
}


# ---------------------------------------------------------------- what lies there


def holding(*parts: Callable[[Path, Sound], object]) -> Builder:
    """A configuration, and these parts."""

    def build(directory: Path, sound: Sound) -> None:
        write_config(directory, sound)
        for part in parts:
            part(directory, sound)

    return build


def one(file: str, name: str | None = None) -> Callable[[Path, Sound], object]:
    """A sound save in one file."""
    return lambda directory, sound: (directory / (name or file)).write_bytes(MAKERS[file](sound))


def smaller(sound: Sound) -> Sound:
    """Another model: of half the words."""
    name = "embeddings.word_embeddings.weight"
    return Sound(sound.config, {**sound.arrays, name: sound.arrays[name][:10]})


def other(file: str, name: str | None = None) -> Callable[[Path, Sound], object]:
    """Another model's save in one file."""
    return lambda directory, sound: one(file, name)(directory, smaller(sound))


def deeper(file: str) -> Callable[[Path, Sound], object]:
    """A save of a model that has tensors of the same shapes and one more."""

    def part(directory: Path, sound: Sound) -> None:
        more = {"encoder.layer.1.output.LayerNorm.bias": np.zeros(8, np.float32)}
        one(file)(directory, Sound(sound.config, {**sound.arrays, **more}))

    return part


def shards(form: Any = SAFETENSORS) -> Callable[[Path, Sound], object]:
    return index(form=form)


def stray(name: str) -> Callable[[Path, Sound], object]:
    """A file under a shard's name, which no index has."""
    return lambda directory, sound: (directory / name).write_bytes(
        sound_safetensors(sound, [WEIGHT])
    )


def junk(name: str, content: bytes = b"\x89HDF") -> Callable[[Path, Sound], object]:
    return lambda directory, sound: (directory / name).write_bytes(content)


def pipe(name: str) -> Callable[[Path, Sound], object]:
    return lambda directory, sound: os.mkfifo(directory / name)


def folder(name: str) -> Callable[[Path, Sound], object]:
    return lambda directory, sound: (directory / name).mkdir()


def link(name: str, target: str) -> Callable[[Path, Sound], object]:
    return lambda directory, sound: (directory / name).symlink_to(target)


def config_folder(directory: Path, sound: Sound) -> None:
    (directory / "config.json").mkdir()
    one("model.safetensors")(directory, sound)


def no_index(directory: Path, sound: Sound) -> None:
    shards()(directory, sound)
    (directory / SAFETENSORS.index).unlink()


# ---------------------------------------------------------------- the table

TWO_SAVES = [
    *rows(
        "{}",
        lambda parts: holding(*parts),
        AMBIGUOUS,
        {
            "safetensors and .bin of another model": (
                one("model.safetensors"),
                other("pytorch_model.bin"),
            ),
            "safetensors and .bin of a deeper model": (
                one("model.safetensors"),
                deeper("pytorch_model.bin"),
            ),
            "safetensors and .pdparams of another model": (
                one("model.safetensors"),
                other("model_state.pdparams"),
            ),
            ".bin and .pdparams of another model": (
                one("pytorch_model.bin"),
                other("model_state.pdparams"),
            ),
            "another model's safetensors and sound .bin": (
                other("model.safetensors"),
                one("pytorch_model.bin"),
            ),
            "an index and one file of another model": (shards(), other("model.safetensors")),
            "an index of safetensors and .bin of another model": (
                shards(),
                other("pytorch_model.bin"),
            ),
            "an index of .bin and one file of another model": (
                shards(TORCH),
                other("pytorch_model.bin"),
            ),
            "an index of .pdparams and one file of another model": (
                shards(PADDLE),
                other("model_state.pdparams"),
            ),
            "safetensors and an index of .bin of another model": (
                one("model.safetensors"),
                lambda directory, sound: index(form=TORCH)(directory, smaller(sound)),
            ),
        },
    ),
    Attack(
        "an index and one file of the same", holding(shards(), one("model.safetensors")), AMBIGUOUS
    ),
    *rows(
        "an index and {}",
        lambda name: holding(shards(), stray(name)),
        STRAY,
        {
            name: name
            for name in (
                "model-00003-of-00003.safetensors",
                "model-00002-of-00003.safetensors",
                "model-00001-of-00005.safetensors",
            )
        },
    ),
    Attack(
        "one file and a shard of another save",
        holding(one("model.safetensors"), stray("model-00001-of-00002.safetensors")),
        STRAY,
    ),
    Attack(
        "shards without an index",
        holding(no_index),
        refused("missing", "index", "ambiguous", not_found=True),
    ),
]

NO_FILES = [
    *rows(
        "{} for the weights",
        lambda part: holding(part),
        NO_FILE,
        {
            "a pipe": pipe("model.safetensors"),
            "a pipe in a .bin's place": pipe("pytorch_model.bin"),
            "a pipe in a .pdparams's place": pipe("model_state.pdparams"),
            "a directory": folder("model.safetensors"),
            "a directory in a .bin's place": folder("pytorch_model.bin"),
            "a directory in a .pdparams's place": folder("model_state.pdparams"),
            "a link to /dev/zero": link("model.safetensors", "/dev/zero"),
            "a link to /dev/zero in a .bin's place": link("pytorch_model.bin", "/dev/zero"),
            "a link to /dev/zero in a .pdparams's place": link("model_state.pdparams", "/dev/zero"),
            "a link to nothing": link("model.safetensors", "nothing"),
            "a link to itself": link("model.safetensors", "model.safetensors"),
        },
    ),
    Attack("a configuration alone", holding(), NOT_FOUND),
    Attack("nothing", lambda directory, sound: None, NOT_FOUND),
    Attack("weights alone", one("model.safetensors"), NOT_FOUND),
    Attack(
        "a directory that is not there", lambda directory, sound: None, NOT_FOUND, opens="x/y/z"
    ),
    Attack(
        "other frameworks' weights alone",
        holding(junk("tf_model.h5"), junk("flax_model.msgpack")),
        NOT_FOUND,
    ),
    Attack("a configuration that is a directory", config_folder, NOT_FOUND),
]

SOUND = [
    *rows(
        "{}",
        lambda parts: holding(*parts),
        LOADS,
        {
            "safetensors and the same as .bin": (
                one("model.safetensors"),
                one("pytorch_model.bin"),
            ),
            "safetensors and other frameworks' weights": (
                one("model.safetensors"),
                junk("tf_model.h5"),
                junk("flax_model.msgpack"),
                junk("model.onnx"),
            ),
            "safetensors and a variant of another model": (
                one("model.safetensors"),
                other("model.safetensors", "model.fp16.safetensors"),
            ),
            "safetensors and an adapter": (
                one("model.safetensors"),
                stray("adapter_model.safetensors"),
            ),
            "safetensors and what a trainer leaves": (
                one("model.safetensors"),
                junk("training_args.bin"),
                junk("optimizer.pt"),
                junk("scheduler.pt"),
                junk("rng_state.pth"),
                junk("trainer_state.json", b"{"),
            ),
            "safetensors and what PaddleNLP's trainer leaves": (
                one("model_state.pdparams"),
                junk("training_args.bin"),
                junk("optimizer.pdopt"),
                junk("scheduler.pdparams"),
            ),
            "safetensors and an earlier save in a folder": (
                one("model.safetensors"),
                folder("checkpoint-500"),
                other("model.safetensors", "checkpoint-500/model.safetensors"),
            ),
            "a tokenizer's files that are pipes": (
                one("model.safetensors"),
                pipe("vocab.txt"),
                link("tokenizer.json", "/dev/zero"),
                folder("merges.txt"),
            ),
        },
    ),
]

ROWS: list[Attack] = [*TWO_SAVES, *NO_FILES, *SOUND]
