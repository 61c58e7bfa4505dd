"""ERNIE's built-in names."""

from __future__ import annotations

from offramp.models.builtin.table import BASE, ENGLISH, LARGE, Settings, family, sizes

_ERNIE = {"layer_norm_eps": 1e-5}
_ERNIE_1 = {
    **BASE,
    **_ERNIE,
    "vocab_size": 18000,
    "hidden_act": "relu",
    "max_position_embeddings": 513,
    "type_vocab_size": 2,
}


def _ernie_2(network: Settings) -> Settings:
    return {**network, **_ERNIE, "vocab_size": ENGLISH, "type_vocab_size": 4}


def _ernie_3(network: Settings, tasks: int = 16) -> Settings:
    return {
        **network,
        **_ERNIE,
        "vocab_size": 40000,
        "max_position_embeddings": 2048,
        "type_vocab_size": 4,
        "task_type_vocab_size": tasks,
        "use_task_id": True,
    }


ERNIE = family(
    "ernie",
    [
        ("ernie-1.0", "nghuyong/ernie-1.0-base-zh", _ERNIE_1),
        ("ernie-1.0-base-zh", "nghuyong", _ERNIE_1),
        ("ernie-2.0-base-en", "nghuyong", _ernie_2(BASE)),
        ("ernie-2.0-large-en", "nghuyong", _ernie_2(LARGE)),
        ("ernie-3.0-xbase-zh", "nghuyong", _ernie_3(sizes(1024, 20, 16))),
        ("ernie-3.0-base-zh", "nghuyong", _ernie_3(BASE, tasks=3)),
        ("ernie-3.0-medium-zh", "nghuyong", _ernie_3(sizes(768, 6, 12))),
        ("ernie-3.0-mini-zh", "nghuyong", _ernie_3(sizes(384, 6, 12))),
        ("ernie-3.0-micro-zh", "nghuyong", _ernie_3(sizes(384, 4, 12))),
        ("ernie-3.0-nano-zh", "nghuyong", _ernie_3(sizes(312, 4, 12))),
    ],
)
