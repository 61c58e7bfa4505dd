"""MPNet's built-in names."""

from __future__ import annotations

from offramp.models.builtin.table import BASE, family

_MPNET = {
    **BASE,
    "vocab_size": 30527,
    "max_position_embeddings": 514,
    "layer_norm_eps": 1e-5,
    "relative_attention_num_buckets": 32,
}

MPNET = family(
    "mpnet",
    [
        ("mpnet-base", "microsoft", _MPNET),
        ("all-mpnet-base-v2", "sentence-transformers", _MPNET),
        ("multi-qa-mpnet-base-cos-v1", "sentence-transformers", _MPNET),
        ("multi-qa-mpnet-base-dot-v1", "sentence-transformers", _MPNET),
        ("paraphrase-mpnet-base-v2", "sentence-transformers", _MPNET),
    ],
)
