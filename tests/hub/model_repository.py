"""A repository such as models have, and what is wanted of it."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hub_server import HubServer, Repository

NAME = "owner/model"
_RANDOM = random.Random(0)
WEIGHTS = _RANDOM.randbytes(200_000)
SHARDS = {f"model-0000{n}-of-00003.safetensors": _RANDOM.randbytes(50_000 * n) for n in (1, 2, 3)}
INDEX = json.dumps({"weight_map": {str(n): name for n, name in enumerate(SHARDS)}}).encode()

ONE_FILE = {
    "config.json": b'{"model_type": "bert"}',
    "vocab.txt": b"[PAD]\n[UNK]\n",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "README.md": b"# About",
}
SHARDED = {
    "config.json": b'{"model_type": "bert"}',
    "model.safetensors.index.json": INDEX,
    **SHARDS,
}
WANTED = ("config.json", "model.safetensors", "vocab.txt")


def select(listing: Iterable[str]) -> list[str]:
    """Of a model: its configuration and weights, and a vocabulary if there is one."""
    names = list(listing)
    weights = [n for n in names if n.startswith("model") and "/" not in n]
    return (
        [*(n for n in names if n in WANTED), *(n for n in weights if n not in WANTED)]
        if ("config.json" in names and weights)
        else []
    )


def put(hub: HubServer, files: dict[str, bytes] | None = None, **settings: object) -> Repository:
    """The repository on the hub."""
    made = hub.repository(NAME, files or ONE_FILE)
    for name, value in settings.items():
        setattr(made, name, value)
    return made


def contents(directory: Path) -> dict[str, bytes]:
    """What a snapshot holds."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def wanted(files: dict[str, bytes] = ONE_FILE) -> dict[str, bytes]:
    """What of a repository's files is fetched."""
    return {name: files[name] for name in select(files)}
