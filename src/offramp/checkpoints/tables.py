"""What other libraries call the tensors of each family: tables, and nothing else.

PaddleNLP's names are those of 2.8.1, https://github.com/PaddlePaddle/PaddleNLP. Its linear layers
keep their matrices as [in, out], ours are [out, in]; embeddings and the words' decoder lie alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from offramp.checkpoints.renames import Row

_LAYER, _OWN_LAYER = "{b}encoder.layers.{n}.", "{b}encoder.layer.{n}."
_PADDLE_BODY = (
    Row("{b}embeddings.layer_norm.{p}", "{b}embeddings.LayerNorm.{p}"),
    Row(_LAYER + "self_attn.q_proj.{p}", _OWN_LAYER + "attention.self.query.{p}", True),
    Row(_LAYER + "self_attn.k_proj.{p}", _OWN_LAYER + "attention.self.key.{p}", True),
    Row(_LAYER + "self_attn.v_proj.{p}", _OWN_LAYER + "attention.self.value.{p}", True),
    Row(_LAYER + "self_attn.out_proj.{p}", _OWN_LAYER + "attention.output.dense.{p}", True),
    Row(_LAYER + "norm1.{p}", _OWN_LAYER + "attention.output.LayerNorm.{p}"),
    Row(_LAYER + "linear1.{p}", _OWN_LAYER + "intermediate.dense.{p}", True),
    Row(_LAYER + "linear2.{p}", _OWN_LAYER + "output.dense.{p}", True),
    Row(_LAYER + "norm2.{p}", _OWN_LAYER + "output.LayerNorm.{p}"),
    Row("{b}pooler.dense.{p}", "{b}pooler.dense.{p}", True),
)
"""PaddleNLP builds BERT, ERNIE and RoBERTa of one encoder."""
_PADDLE_WORDS = (
    Row("cls.predictions.transform.{p}", "cls.predictions.transform.dense.{p}", True),
    Row("cls.predictions.layer_norm.{p}", "cls.predictions.transform.LayerNorm.{p}"),
    Row("cls.predictions.decoder_bias", "cls.predictions.bias"),
    Row("cls.predictions.decoder_weight", "cls.predictions.decoder.weight", read_only=True),
    Row("cls.seq_relationship.{p}", "cls.seq_relationship.{p}", True),
)
_CLASSIFIER = Row("classifier.{p}", "classifier.{p}", True)
PADDLE_ANSWERS = Row("classifier.{p}", "qa_outputs.{p}", True)
"""Of a class for question answering, whose head PaddleNLP calls `classifier` too."""

PADDLE_BERT = (*_PADDLE_BODY, *_PADDLE_WORDS, _CLASSIFIER)
PADDLE_ERNIE = PADDLE_BERT
PADDLE_ROBERTA = (
    *_PADDLE_BODY,
    Row("lm_head.dense.{p}", "lm_head.dense.{p}", True),
    Row("classifier.dense.{p}", "classifier.dense.{p}", True),
    Row("classifier.out_proj.{p}", "classifier.out_proj.{p}", True),
    _CLASSIFIER,
)


def _albert(foreign: str, own: str) -> tuple[Row, ...]:
    """The rows of ALBERT's body under its two prefixes, which may both be empty."""
    layer = "encoder.albert_layer_groups.{n}.albert_layers.{m}."
    linear = ("attention.query", "attention.key", "attention.value", "attention.dense")
    return (
        Row(foreign + "embeddings.position_ids", None),
        Row(foreign + "embeddings.layer_norm.{p}", own + "embeddings.LayerNorm.{p}"),
        *(
            Row(f"{foreign}{layer}{name}.{{p}}", f"{own}{layer}{name}.{{p}}", True)
            for name in (*linear, "ffn", "ffn_output")
        ),
        Row(foreign + layer + "attention.layer_norm.{p}", own + layer + "attention.LayerNorm.{p}"),
        Row(
            foreign + "encoder.embedding_hidden_mapping_in.{p}",
            own + "encoder.embedding_hidden_mapping_in.{p}",
            True,
        ),
        Row(foreign + "pooler.{p}", own + "pooler.{p}", True),
    )


PADDLE_ALBERT = (
    *_albert("transformer.", "albert."),
    *_albert("", ""),
    Row("predictions.layer_norm.{p}", "predictions.LayerNorm.{p}"),
    Row("predictions.dense.{p}", "predictions.dense.{p}", True),
    Row("sop_classifier.classifier.{p}", "sop_classifier.classifier.{p}", True),
    Row("qa_outputs.{p}", "qa_outputs.{p}", True),
    _CLASSIFIER,
    Row("transformer.{any}", "albert.{any}"),
)

OLD_NAMES = (
    Row("{any}LayerNorm.gamma", "{any}LayerNorm.weight", read_only=True),
    Row("{any}LayerNorm.beta", "{any}LayerNorm.bias", read_only=True),
)
"""What transformers called the numbers of a norm before 2019, after TensorFlow."""

OLD_BUFFERS = (
    Row("{any}.position_ids", None),
    Row("position_ids", None),
    Row("{any}.attn.masked_bias", None),
)
"""Constants that older libraries wrote beside the weights."""

ORIGINAL_GPT2 = (
    Row("{b}h.{n}.attn.bias", None),  # the triangle of the causal mask
    *(
        Row(f"{{b}}h.{{n}}.{name}.{{p}}", f"{{b}}h.{{n}}.{name}.{{p}}", True)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ),
)
"""GPT-2 as OpenAI and transformers keep it, for a network of linear layers: their Conv1D has its
matrix as [in, out]."""


@dataclass(frozen=True)
class Family:
    """What a conversion between PaddleNLP and us has to know of one model_type."""

    prefix: str
    """Of the body's tensors in a class with a head."""
    paddle: tuple[Row, ...]
    paddle_defaults: Mapping[str, object]
    """Settings that PaddleNLP's config.json may leave out, where its default is not ours."""
    own_defaults: Mapping[str, object]
    """Those that ours may leave out and PaddleNLP's may not."""
    twins: Mapping[str, str]
    """{tensor: the one that it is too, where words are tied}, by our names."""
    paddle_ignores: Mapping[str, object] = field(default_factory=dict)
    """Settings that PaddleNLP never reads, and what it has in their place."""


_BERT_SIZES = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
_MASKS_PADDING = {"type_vocab_size": 16, "mask_padding": True}


def _twins(head: str, prefix: str) -> dict[str, str]:
    words = f"{prefix}.embeddings.word_embeddings.weight"
    return {f"{head}.decoder.weight": words, f"{head}.decoder.bias": f"{head}.bias"}


FAMILIES: dict[str, Family] = {
    "bert": Family(
        "bert", PADDLE_BERT, _MASKS_PADDING, _BERT_SIZES, _twins("cls.predictions", "bert")
    ),
    "ernie": Family(
        "ernie",
        PADDLE_ERNIE,
        _MASKS_PADDING,
        _BERT_SIZES,
        _twins("cls.predictions", "ernie"),
        {"layer_norm_eps": 1e-12},
    ),
    "roberta": Family(
        "roberta",
        PADDLE_ROBERTA,
        {**_MASKS_PADDING, "vocab_size": 21128, "pad_token_id": 0},
        {**_BERT_SIZES, "vocab_size": 50265, "pad_token_id": 1},
        _twins("lm_head", "roberta"),
    ),
    "albert": Family(
        "albert",
        PADDLE_ALBERT,
        {
            "hidden_size": 768,
            "num_attention_heads": 12,
            "num_hidden_layers": 12,
            "intermediate_size": 3072,
            "hidden_act": "gelu",
        },
        {
            **_BERT_SIZES,
            "vocab_size": 30000,
            "embedding_size": 128,
            "hidden_size": 4096,
            "num_attention_heads": 64,
            "intermediate_size": 16384,
            "hidden_act": "gelu_new",
            "num_hidden_groups": 1,
            "inner_group_num": 1,
        },
        _twins("predictions", "albert"),
    ),
}
"""model_type: what is known of it."""


def paddle_rows(model_type: str, architecture: str = "") -> tuple[Row, ...]:
    """PaddleNLP's names of a class's tensors; none for a family that has no table."""
    family = FAMILIES.get(model_type)
    if family is None:
        return ()
    answers = architecture.endswith("ForQuestionAnswering") and model_type != "albert"
    return (PADDLE_ANSWERS, *family.paddle) if answers else family.paddle


def research_rows(prefix: str) -> tuple[Row, ...]:
    """The exits of DeeBERT and DeeRoBERTa (`highway`) and of PABEE (`classifiers`).

    Theirs count layers from 0, ours from 1.
    https://github.com/huggingface/transformers-research-projects has both.
    """
    highway = prefix + ".encoder.highway.{n}."
    return (
        Row(highway + "pooler.dense.{p}", "exits.{n+1}.dense.{p}"),
        Row(highway + "classifier.{p}", "exits.{n+1}.classifier.{p}"),
        Row("classifiers.{n}.{p}", "exits.{n+1}.classifier.{p}", read_only=True),
    )
