"""Attacks on config.json, and on PaddleNLP's nested model_config.json."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attack_kit import (
    LOADS,
    SIZES,
    Attack,
    Builder,
    Sound,
    cuts,
    refused,
    rows,
    sound_paddle,
    sound_safetensors,
)

CONFIG = refused("config")
SIZE = refused("config", "tensors")
"""For numbers that could be, and are not those of the weights."""
LIMIT = 2**20


# ---------------------------------------------------------------- ways to spoil a configuration


def config(**changes: Any) -> Builder:
    """Settings changed; one that is `...` is left out."""

    def build(directory: Path, sound: Sound) -> None:
        values = {**sound.config, **changes}
        write(directory, sound, {k: v for k, v in values.items() if v is not ...})

    return build


def setting(name: str, values: list[Any]) -> Builder:
    """One setting, with each of these values in turn."""

    def build(directory: Path, sound: Sound) -> Iterator[str]:
        for value in values:
            config(**{name: value})(directory, sound)
            yield repr(value)[:60]

    return build


def write(directory: Path, sound: Sound, values: Any) -> None:
    text = values if isinstance(values, bytes) else json.dumps(values).encode()
    (directory / "config.json").write_bytes(text)
    (directory / "model.safetensors").write_bytes(sound_safetensors(sound))


def text(change: Callable[[bytes], bytes]) -> Builder:
    """The file's text changed."""
    return lambda directory, sound: write(
        directory, sound, change(json.dumps({"x": 1, **sound.config}).encode())
    )


def x(value: bytes) -> Callable[[bytes], bytes]:
    """What `text` takes: a key that nobody reads has this value."""
    return lambda text: text.replace(b'"x": 1', b'"x": ' + value, 1)


def cut_off(directory: Path, sound: Sound) -> Iterator[str]:
    for word, content in cuts(json.dumps(sound.config).encode()):
        write(directory, sound, content)
        yield word


def in_place(make: Callable[[Path], object]) -> Builder:
    """Something else in the file's place."""

    def build(directory: Path, sound: Sound) -> None:
        config()(directory, sound)
        (directory / "config.json").unlink()
        make(directory / "config.json")

    return build


def nested(values: Any) -> Builder:
    """model_config.json, and PaddleNLP's weights."""

    def build(directory: Path, sound: Sound) -> None:
        text = values if isinstance(values, bytes) else json.dumps(values).encode()
        (directory / "model_config.json").write_bytes(text)
        (directory / "model_state.pdparams").write_bytes(sound_paddle(sound))

    return build


BODY = {**SIZES, "init_class": "BertModel"}


def around(inner: list[Any], **changes: Any) -> dict[str, Any]:
    """A class around a body."""
    return {"init_args": inner, "init_class": "BertForSequenceClassification", **changes}


def deep(levels: int) -> bytes:
    """A class around a class around a class ..."""
    start = b'{"init_class": "BertForSequenceClassification", "init_args": ['
    return start * levels + json.dumps(BODY).encode() + b"]}" * levels


def with_code(directory: Path, sound: Sound) -> None:
    """What `trust_remote_code` of transformers would run."""
    names = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    config(auto_map=names, custom_pipelines={"evil": {"impl": "evil.Pipeline"}})(directory, sound)
    for name in ("evil.py", "__init__.py", "modeling_bert.py", "configuration_bert.py"):
        (directory / name).write_text("import os\nos.mkdir('planted')\n")


# ---------------------------------------------------------------- the table

NO_COUNT = [-1, 0, 1.5, 8.0, True, False, None, "8", "", [8], {"a": 8}, 2**63, 10**30, -(10**30)]
"""What is no count of anything; 2^63 and more are, but no model has so many."""
NO_SHARE = [-0.5, 2, 1e300, True, None, "0.1", [0.1], {}, 10**400]
NO_WORD = [None, 1, True, "", "evil", "GELU", ["gelu"], {"gelu": 1}, "gelu\0", "os.system"]
OWN_THINGS = (
    *("self", "cls", "values", "changes", "extra", "kwargs", "config"),
    *("validate", "to_dict", "from_dict", "structure", "labels", "__class__"),
    *("__dict__", "__init__", "__setattr__", "__post_init__", "attribute_map"),
)
NO_CHOICE = [None, 2, -1, 0.5, "True", "", [], {}]

SETTINGS = [
    *(
        Attack(f"{name} that is no count", setting(name, NO_COUNT), SIZE)
        for name in (*SIZES, "num_labels")
    ),
    *(
        Attack(f"{name} that is no share", setting(name, NO_SHARE), CONFIG)
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "layer_norm_eps")
    ),
    *rows(
        "{}",
        lambda pair: setting(*pair),
        CONFIG,
        {
            f"{name} of no such kind": (name, values)
            for name, values in {
                "hidden_act": NO_WORD,
                "model_type": [1, True, "gpt2", "BERT", ["bert"], {"bert": 1}, "bert\0", "../bert"],
                "position_embedding_type": [None, 1, "relative_key", ["absolute"]],
                "tie_word_embeddings": NO_CHOICE,
                "is_decoder": [True, None, "no", 2, [], {}],
                "output_attentions": NO_CHOICE,
                "pad_token_id": [-1, 20, 1.5, True, "0", [0], 10**30],
                "id2label": [
                    [],
                    {},
                    "LABEL_0",
                    1,
                    ["a", "b"],
                    {"0": "a", "2": "b"},
                    {"-1": "a"},
                    {"a": "b"},
                    {"999999999": "a"},
                    {"1e3": "a"},
                    {"0.5": "a"},
                    {"9" * 4000: "a"},
                ],
                "label2id": [[], {}, "a", 1, {"a": "b"}, {"a": 0, "b": 0}, {"a": 5}, {"a": None}],
                "pruned_heads": [
                    [0],
                    "0",
                    1,
                    {"0": 1},
                    {"0": [4]},
                    {"0": [-1]},
                    {"0": [0, 1, 2, 3]},
                    {"1": [0]},
                    {"-1": [0]},
                    {"x": [0]},
                    {"0": ["x"]},
                    {"0": [10**30]},
                    {"0": [[0]]},
                ],
                "num_classes": [0, -1, "2", None, 1.5, 10**30],
            }.items()
        },
    ),
    Attack("num_labels and num_classes that differ", config(num_labels=2, num_classes=3), CONFIG),
    *(
        Attack(f"{name} of {count:,}", config(**{name: count}), SIZE)
        for name, count in {
            "vocab_size": 10**9,
            "hidden_size": 2**40,
            "num_hidden_layers": 10**6,
            "num_attention_heads": 10**9,
            "intermediate_size": 2**60,
            "max_position_embeddings": 2**62,
            "type_vocab_size": 10**9,
            "num_labels": 10**9,
        }.items()
    ),
    Attack("a billion layers", config(num_hidden_layers=10**9), SIZE),
    Attack("a layer more than there is", config(num_hidden_layers=2), SIZE),
    Attack("a word more than there is", config(vocab_size=21), SIZE),
    Attack("no hidden_size", config(hidden_size=...), SIZE),
    Attack("no setting at all", lambda directory, sound: write(directory, sound, {}), SIZE),
    Attack("heads that do not share the width evenly", config(num_attention_heads=3), CONFIG),
    Attack("more heads than the width is", config(num_attention_heads=16), CONFIG),
    Attack(
        "all sizes at once",
        config(vocab_size=2**40, hidden_size=2**40, num_hidden_layers=9999),
        SIZE,
    ),
    Attack(
        "sizes that are too large, opened as half precision",
        config(vocab_size=10**9, hidden_size=2**20),
        SIZE,
        options={"dtype": "float16"},
    ),
]

TEXTS = [
    *rows(
        "a file that is {}",
        text,
        CONFIG,
        {
            "empty": lambda text: b"",
            "of spaces": lambda text: b" " * 100,
            "no JSON": lambda text: b"hidden_size: 8",
            "a list": lambda text: b"[" + text + b"]",
            "a text": lambda text: b'"bert"',
            "a number": lambda text: b"8",
            "null": lambda text: b"null",
            "true": lambda text: b"true",
            "not UTF-8": x(b'"\xff"'),
            "UTF-8 with a mark of byte order": lambda text: b"\xef\xbb\xbf" + text,
            "UTF-16": lambda text: text.decode().encode("utf-16"),
            "two documents": lambda text: text + text,
            "followed by a NUL": lambda text: text + b"\0",
            "commented": lambda text: b"// by hand\n" + text,
            "in single quotes": lambda text: text.replace(b'"', b"'"),
            "ended by a comma": lambda text: text[:-1] + b",}",
            "of a megabyte and a byte": lambda text: text.ljust(LIMIT + 1),
            "of a gigabyte's tenth": lambda text: text.ljust(100 * 2**20),
            "33 lists deep": x(b"[" * 33 + b"]" * 33),
            "33 mappings deep": x(b'{"a":' * 33 + b"1" + b"}" * 33),
            "100,000 lists deep": x(b"[" * 100_000 + b"]" * 100_000),
            "100,000 lists deep, without an end": lambda text: b"[" * 100_000,
            "100,000 mappings deep": x(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
            "of NaN": x(b"NaN"),
            "of Infinity": x(b"Infinity"),
            "of -Infinity": x(b"-Infinity"),
            "of 1e400, which is infinite": x(b"1e400"),
            "of 5,000 digits": x(b"9" * 5000),
            "with NaN for a setting": lambda text: text[:-1] + b', "layer_norm_eps": NaN}',
            "with 1e400 for a setting": lambda text: text[:-1] + b', "layer_norm_eps": 1e400}',
            "with one key twice": lambda text: text[:-1] + b', "hidden_size": 8}',
            "with one key twice, spelt otherwise": lambda text: (
                text[:-1] + rb', "\u0068idden_size": 4}'
            ),
            "with one key twice, inside": x(b'{"a": 1, "a": 2}'),
        },
    ),
    Attack("a file cut off at every byte", cut_off, CONFIG),
    # It may be kept as any key is that nobody reads, in the memory that there is for it.
    Attack(
        "300,000 empty lists",
        text(x(b"[" + b"[]," * 300_000 + b"1]")),
        refused("config", loads=True),
    ),
    *rows(
        "{} in the file's place",
        in_place,
        refused("config", "missing", not_found=True),
        {
            "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
            "a pipe, which nobody writes to": os.mkfifo,
        },
    ),
]

NESTED = rows(
    "model_config.json: {}",
    nested,
    SIZE,
    {
        "a list": [BODY],
        "null": None,
        "a class that is a number": {**BODY, "init_class": 1},
        "a class that is a list": {**BODY, "init_class": ["BertModel"]},
        "33 classes deep": deep(33),
        "10,000 classes deep": deep(10_000),
        "100,000 classes deep, without an end": b'{"init_args": [' * 100_000,
        "init_args that are a number": around([], init_args=1),
        "init_args that are a text": around([], init_args="BertModel"),
        "init_args of null": around([None]),
        "init_args of a mapping without a class": around([SIZES]),
        "init_args of a list": around([[BODY]]),
        "a body and more arguments than there are": around([BODY, *range(1, 100)]),
        "a body and a wrong number of classes": around([BODY, -1]),
        "two bodies": around([BODY, {**BODY, "vocab_size": 30}]),
        "os.system": {"init_class": "os.system", "init_args": ["mkdir planted"]},
        "a size of null": around([{**BODY, "hidden_size": None}]),
        "a size of NaN": around([BODY], x=float("nan")),
        "a million layers": around([{**BODY, "num_hidden_layers": 10**9}]),
        "more than a megabyte": json.dumps(BODY).encode().ljust(LIMIT + 1),
        "one key twice": json.dumps(BODY).encode()[:-1] + b', "init_class": "BertModel"}',
    },
)

SOUND = [
    Attack("as written by hand", config(), LOADS),
    *rows(
        "{}",
        lambda changes: config(**changes),
        LOADS,
        {
            "no model_type": {"model_type": ...},
            "keys that nobody reads": {
                "x": [1, {"y": None}],
                "": "",
                "a" * 1000: 1,
                "\0": "\0",
            },
            "keys with the names of a configuration's own things": dict.fromkeys(OWN_THINGS, 1),
            "classes of other frameworks": {"architectures": ["os.system", "../../x"]},
            "a path in its name": {"_name_or_path": "../../../etc/passwd"},
            "the types that transformers writes": {"torch_dtype": "float32", "use_cache": True},
            "no pruned head": {"pruned_heads": {}},
            "a way of computing that there is not": {"_attn_implementation": "evil"},
            "no word of padding": {"pad_token_id": None},
            "labels": {"id2label": {"1": "b", "0": "a"}, "label2id": {"a": 0, "b": 1}},
        },
    ),
    *rows(
        "a file that is {}",
        text,
        LOADS,
        {
            "on many lines": lambda text: json.dumps(json.loads(text), indent=8).encode(),
            "half a megabyte, mostly spaces": lambda text: text.ljust(LIMIT // 2),
            "20 lists deep": x(b"[" * 20 + b"]" * 20),
        },
    ),
    Attack("code beside", with_code, LOADS),
    Attack("model_config.json: a body", nested(BODY), LOADS),
    Attack(
        "model_config.json: a body called os.system",
        nested(around([{**BODY, "init_class": "os.system"}])),
        LOADS,
    ),
    Attack("model_config.json: a body in a class", nested(around([BODY])), LOADS),
    Attack("model_config.json: a body and a number by its place", nested(around([BODY, 3])), LOADS),
    Attack(
        "the file of weights and a configuration",
        lambda directory, sound: (directory / "w.safetensors").write_bytes(
            sound_safetensors(sound)
        ),
        LOADS,
        opens="w.safetensors",
        options={"config": SIZES},
    ),
]

ROWS: list[Attack] = [*SETTINGS, *TEXTS, *NESTED, *SOUND]
