"""Changes of JSON by its tokens; config.json and indexes, and safetensors' header too."""

from __future__ import annotations

import re
from random import Random

from fuzzing.byte_changes import change_list, one_in

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[-+0-9.eE]+|[a-z]+|\s+|.', re.DOTALL)

_SPELLED = rb"""
0 -1 1 3 1.5 -0.0 1e9 1e999 -1e999 1E400 0x10 1000000000 null true false NaN Infinity -Infinity
9223372036854775807 -9999999999999999999 9223372036854775808 18446744073709551615
4611686018427387904 "" [] {} [[]] [0,1] [1,0] : , { } [ ] " - e // 'x'
"\ud800" "\u0000" "\udcff.safetensors" "\ud83d\ude00" "\\" "\n" {"":0} {"a":1,"a":2}
"../outside.safetensors" "/etc/passwd" "/dev/zero" "/proc/self/mem" "link.safetensors"
"hard.safetensors" "pipe.safetensors" "a/b" "a\\b" "." ".." "lacking.safetensors"
"model.safetensors.index.json" "model-00001-of-00002.safetensors"
"model-00002-of-00002.safetensors" "weight_map" "__metadata__" "dtype" "shape" "data_offsets" "F32"
"id2label" "label2id" "num_labels" "pruned_heads" "exits" "init_args"
{"0":"a","1":"b"} {"a":0,"b":1} {"0":[0,1]} {"a":[1e999]} {"1e9":"a"}
{"init_class":"BertModel"} {"init_args":[{"init_class":"x"}],"init_class":"y"}
"""
VALUES: tuple[bytes, ...] = (
    *_SPELLED.split(),
    *(b" ", b"\n", b"\t", b"\0", b"\xc3\xa9", b"\xef\xbb\xbf", b'"\xff"'),
    *(b"9" * 40, b"9" * 41, b"1" * 5000, b'"' + b"x" * 300 + b'"', b'"' + b"y" * 1001 + b'"'),
    *(b"[" * 31 + b"]" * 31, b"[" * 33 + b"]" * 33, b"[" * 5000, b"[" + b"[]," * 500 + b"0]"),
    b'{"a":' * 40 + b"1" + b"}" * 40,
)
"""Tokens, and runs of them, at which a reader may trip."""


def parts(content: bytes) -> list[bytes]:
    tokens: list[bytes] = _TOKEN.findall(content)
    return tokens


def change(rng: Random, tokens: list[bytes], pool: list[bytes]) -> bytes:
    """The text with some of its tokens changed; `pool` are another file's."""
    tokens = list(tokens)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        _change_once(rng, tokens, pool)
    return b"".join(tokens)


def _change_once(rng: Random, tokens: list[bytes], pool: list[bytes]) -> None:
    values = [i for i, token in enumerate(tokens) if token[:1] in b'"0123456789-tfn']
    kind = rng.choice(("other", "same", "every", "wrap", "row"))
    if kind == "row" or not values:
        change_list(rng, tokens, lambda rng: rng.choice(VALUES if one_in(rng, 2) else pool))
        return
    at = rng.choice(values)
    if kind == "other":  # of the wrong type, it may be
        tokens[at] = rng.choice(VALUES if one_in(rng, 2) else pool)
    elif kind == "same":  # a name twice, it may be
        tokens[at] = tokens[rng.choice(values)]
    elif kind == "every":  # wherever it stands
        old, new = tokens[at], rng.choice(VALUES)
        tokens[:] = [new if token == old else token for token in tokens]
    else:  # inside others
        depth = rng.choice((1, 1, 2, 31, 33))
        left, right = rng.choice(((b"[", b"]"), (b'{"a":', b"}")))
        tokens[at] = left * depth + tokens[at] + right * depth
