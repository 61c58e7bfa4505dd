"""The files that mutants are made of: small sound ones, and some that are hostile."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from offramp.checkpoints.paddle_file import write_paddle
from offramp.checkpoints.safetensors_file import write_safetensors
from offramp.checkpoints.stored import TYPES, Stored
from offramp.checkpoints.torch_file import write_torch
from offramp.checkpoints.writing import write_weights

TARGETS = (
    *("safetensors", "torch-zip", "paddle-4", "shards"),
    *("torch-legacy", "paddle-2", "index", "config"),
)
"""What is changed: a format's file, one of several shards, their index, a configuration."""
INDEXES = (
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "model_state.pdparams.index.json",
)
PLANTED = "planted"
"""The directory that hostile files make, in the working directory, when executed."""


class Planted:
    """Makes a directory when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (PLANTED,)


def make_corpus(directory: Path) -> None:
    """The files that mutants are made of, unless they are there.

    In the directory TARGET/N.FILE the one named FILE is to be changed; others lie beside it.
    """
    if directory.is_dir():
        return
    fresh = directory.with_name("corpus.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    maker = _Corpus(fresh)
    maker.safetensors()
    maker.torch()
    maker.paddle()
    maker.shards()
    maker.config()
    fresh.rename(directory)


class _Corpus:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        rng = np.random.default_rng(0)
        body = {
            "bert.embeddings.word_embeddings.weight": rng.normal(size=(7, 4)),
            "bert.embeddings.LayerNorm.gamma": rng.normal(size=4),
            "bert.encoder.layer.0.attention.self.query.weight": rng.normal(size=(4, 4)),
            "classifier.bias": rng.normal(size=2),
        }
        self.body = {name: Stored("F32", a.astype("<f4")) for name, a in body.items()}
        self.kinds = {
            name: Stored(name, rng.integers(0, 2, size=(2, 3)).astype(kind))
            for name, kind in TYPES.items()
        }
        self.shapes = {
            f"shape{len(shape)}": Stored("F16", rng.normal(size=shape).astype("<f2"))
            for shape in ((), (5,), (0, 3), (2, 1, 2), (1,) * 8, (2, 2, 1, 1))
        }
        paddle = {
            "bert.embeddings.layer_norm.weight": rng.normal(size=4),
            "bert.encoder.layers.0.self_attn.q_proj.weight": rng.normal(size=(4, 4)),
            "bert.encoder.layers.0.self_attn.q_proj.bias": rng.normal(size=4),
            "long": rng.normal(size=400),
        }
        self.paddle_body = {name: a.astype("<f4") for name, a in paddle.items()}

    def place(self, target: str, file: str) -> Path:
        """Where the target's next sample goes."""
        there = self.directory / target
        number = len(list(there.iterdir())) if there.is_dir() else 0
        path = there / f"{number:02}.{file}"
        path.mkdir(parents=True)
        return path / file

    def safetensors(self) -> None:
        import safetensors.numpy
        import safetensors.torch
        import torch

        name = "model.safetensors"
        for tensors in (self.body, self.kinds, self.shapes):
            write_safetensors(self.place("safetensors", name), tensors)
        arrays = {name: stored.array for name, stored in self.body.items()}
        safetensors.numpy.save_file(arrays, self.place("safetensors", name))
        safetensors.numpy.save_file(arrays, self.place("safetensors", name), {"format": "np"})
        halves = {"w": torch.ones(3, 2, dtype=torch.bfloat16), "n": torch.zeros(0, 2)}
        safetensors.torch.save_file(halves, self.place("safetensors", name))
        header = b'{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}   '
        self.place("safetensors", name).write_bytes(
            struct.pack("<Q", len(header)) + header + b"abc"
        )

    def torch(self) -> None:
        import torch

        base = torch.arange(12.0)
        views: Any = OrderedDict(
            plain=torch.arange(6.0).reshape(2, 3),
            turned=base.reshape(3, 4).T,
            part=base[2:6].reshape(2, 2),
            one=torch.tensor(3.5),
            none=torch.zeros(0, 4),
            parameter=torch.nn.Parameter(torch.ones(2)),
            epoch=3,
        )
        kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.uint8)
        types = {str(kind): torch.ones(2, 2, dtype=kind) for kind in kinds}
        body = {name: torch.from_numpy(stored.array) for name, stored in self.body.items()}
        many = {"turned": torch.arange(3600.0).reshape(60, 60).T}  # of more than a page
        # One memory under many names, of which each is a copy once it lies row by row.
        square = torch.zeros(350, 350)
        bomb = {str(number): square.T for number in range(200)}
        lists = [body["classifier.bias"]]
        for value in (views, types, body, many, lists, bomb, {**body, "x": Planted()}):
            torch.save(value, self.place("torch-zip", "pytorch_model.bin"))
            path = self.place("torch-legacy", "pytorch_model.bin")
            torch.save(value, path, _use_new_zipfile_serialization=False)
        torch.save(body, self.place("torch-zip", "pytorch_model.bin"), pickle_protocol=4)
        write_torch(self.place("torch-zip", "pytorch_model.bin"), self.body)
        write_torch(self.place("torch-zip", "pytorch_model.bin"), self.shapes)

    def paddle(self) -> None:
        arrays = self.paddle_body
        own_names = {name: f"linear_{i}.w_0" for i, name in enumerate(arrays)}
        kinds: dict[str, Any] = {name: stored.array for name, stored in self.kinds.items()}
        kinds |= {"epoch": 3, "note": "text", "none": np.zeros((0, 3), "f4")}
        values: list[Any] = [
            {**arrays, "StructuredToParameterName@@": own_names},
            {name: (own_names[name], array) for name, array in arrays.items()},
            kinds,
            {"model": arrays, "last": np.asfortranarray(arrays["long"].reshape(20, 20))},
            {
                "w@@.0": np.ones(6, "f4"),
                "w@@.1": np.ones(4, "f4"),
                "UnpackBigParamInfor@@": {
                    "w": {"OriginShape": (5, 2), "slices": ["w@@.0", "w@@.1"]}
                },
            },
            {**arrays, "x": Planted()},
        ]
        file = "model_state.pdparams"
        for value in values:
            self.place("paddle-2", file).write_bytes(pickle.dumps(value, 2))
            self.place("paddle-4", file).write_bytes(pickle.dumps(value, 4))
        self.place("paddle-2", file).write_bytes(pickle.dumps(values[0], 3))
        self.place("paddle-4", file).write_bytes(pickle.dumps(values[0], 5))
        # More text than is decoded at a time.
        long = np.full(300_000, 0xBF80E901, "<u4").view("<f4")
        self.place("paddle-2", file).write_bytes(pickle.dumps({"long": long}, 2))
        write_paddle(self.place("paddle-4", file), self.body)
        write_paddle(self.place("paddle-4", file), self.shapes)
        # A dictionary under ever more names, each of which stands for the same arrays.
        bomb: Any = arrays
        for _ in range(3):
            bomb = dict.fromkeys("abcdefgh", bomb)
        self.place("paddle-4", file).write_bytes(pickle.dumps(bomb, 4))

    def shards(self) -> None:
        for index in INDEXES:
            whole = index.removesuffix(".index.json")
            tensors = {n: s for n, s in self.body.items() if not n.endswith("gamma")}
            for target in ("index", "index", "shards", "shards"):
                path = self.place(target, index)
                write_weights(path.parent, tensors, whole, max_shard_size=120)
                if target == "index":
                    continue
                found = sorted(p.name for p in path.parent.iterdir() if p.name != index)
                number = int(path.parent.name[:2])
                shard = found[number % len(found)]
                path.parent.rename(path.parent.with_name(f"{number:02}.{shard}"))

    def config(self) -> None:
        plain = {
            "architectures": ["BertForSequenceClassification"],
            "model_type": "bert",
            "hidden_size": 8,
            "hidden_dropout_prob": 0.0,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "vocab_size": 50,
            "id2label": {"0": "no", "1": "yes", "2": "é"},
            "label2id": {"no": 0, "yes": 1, "é": 2},
            "pruned_heads": {"0": [1]},
            "problem_type": None,
            "torch_dtype": "float32",
        }
        exits = {
            "num_labels": 2,
            "output_attentions": True,
            "exits": {"layers": [1, 2], "criterion": {"name": "entropy", "threshold": 0.2}},
            "initializer_range": 0.02,
        }
        old = {
            "init_args": [{"vocab_size": 50, "dropout": 0.0, "init_class": "BertModel"}],
            "init_class": "BertForSequenceClassification",
            "num_classes": 3,
        }
        numbers = {"label2id": {"no": 0, "yes": 1}, "num_classes": 2, "num_labels": 2}
        for values in (plain, exits, old, numbers):
            file = "model_config.json" if values is old else "config.json"
            self.place("config", file).write_text(json.dumps(values, indent=2), encoding="utf-8")
