"""The tables of built-in names: do their numbers give the sizes that are published?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from offramp.models.builtin import FAMILIES, all_sources, writable

POOLED = {"bert", "roberta", "xlm-roberta", "camembert", "albert", "ernie", "mpnet"}
"""Families whose body ends with a pooler."""
POSITIONS = 512
"""Of a configuration that states none."""
OTHER_NAMES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "n_embd": "hidden_size",
    "n_layer": "num_hidden_layers",
    "n_head": "num_attention_heads",
    "n_positions": "max_position_embeddings",
}
"""DistilBERT's, and GPT-2's."""


def parameters(settings: Mapping[str, Any]) -> int:
    """How many a body without heads has, by the formulas of the papers."""
    of = {OTHER_NAMES.get(name, name): value for name, value in settings.items()}
    family, width = of["model_type"], of["hidden_size"]
    middle = of.get("intermediate_size", 4 * width)
    embedding = of.get("embedding_size", width)
    kinds = 0 if family in ("distilbert", "mpnet", "gpt2") else of.get("type_vocab_size", 2)
    tasks = of["task_type_vocab_size"] if of.get("use_task_id") else 0
    rows = of["vocab_size"] + of.get("max_position_embeddings", POSITIONS) + kinds + tasks
    total = rows * embedding + 2 * embedding  # with a norm (GPT-2's is behind the last layer)
    if family == "albert" or embedding != width:
        total += embedding * width + width
    attention = 4 * (width * width + width) + 2 * width
    perceptron = 2 * width * middle + middle + width + 2 * width
    total += (attention + perceptron) * (1 if family == "albert" else of["num_hidden_layers"])
    if family == "mpnet":
        total += of["relative_attention_num_buckets"] * of["num_attention_heads"]
    return total + (width * width + width if family in POOLED else 0)


PUBLISHED = {
    # As papers and model cards round them.
    "bert-base-uncased": 110,
    "bert-large-cased": 335,
    "bert-tiny": 4.4,
    "bert-mini": 11.3,
    "bert-small": 29.1,
    "bert-medium": 41.7,
    "rbt3": 38,
    "rbtl3": 61,
    "all-MiniLM-L12-v2": 33.4,
    "paraphrase-multilingual-MiniLM-L12-v2": 118,
    "multilingual-e5-small": 118,
    "e5-large-v2": 335,
    "roberta-base": 124.6,
    "roberta-large": 355,
    "distilroberta-base": 82,
    "xlm-roberta-base": 278,
    "xlm-roberta-large": 560,
    "bge-m3": 568,
    "multilingual-e5-large": 560,
    "camembert-base": 110,
    "camembert-large": 335,
    "albert-base-v1": 11.7,
    "albert-base-v2": 11.7,
    "albert-large-v2": 17.7,
    "albert-xlarge-v2": 58.7,
    "albert-xxlarge-v2": 222.6,
    "albert-chinese-tiny": 4,
    # PaddleNLP's table of ERNIE 3.0.
    "ernie-3.0-xbase-zh": 296,
    "ernie-3.0-base-zh": 118,
    "ernie-3.0-medium-zh": 75,
    "ernie-3.0-mini-zh": 27,
    "ernie-3.0-micro-zh": 23,
    "ernie-3.0-nano-zh": 18,
    "distilbert-base-uncased": 66,
    "distilbert-base-cased": 65,
    "distilbert-base-multilingual-cased": 134,
    # Counted in KerasHub's presets, less the pooler that those have.
    "electra-small-discriminator": 13.548800 - 0.065792,
    "electra-base-discriminator": 109.482240 - 0.590592,
    "electra-large-discriminator": 335.141888 - 1.049600,
    "electra-base-generator": 33.576960 - 0.065792,
    "electra-large-generator": 51.065344 - 0.065792,
    "mpnet-base": 109,
    "gpt2": 124,
    "gpt2-medium": 355,
    "gpt2-large": 774,
    "gpt2-xl": 1558,
    "distilgpt2": 82,
}
"""Built-in name: millions of parameters."""

CONFIGURATIONS = {
    name: settings
    for family in FAMILIES.values()
    for name, settings in family.configurations.items()
}


@pytest.mark.parametrize(("name", "millions"), PUBLISHED.items())
def test_the_numbers_give_the_published_size(name: str, millions: float) -> None:
    assert parameters(CONFIGURATIONS[name]) / 1e6 == pytest.approx(millions, rel=0.021)


@pytest.mark.parametrize(("model_type", "family"), FAMILIES.items())
def test_every_family_has_a_published_size(model_type: str, family: Any) -> None:
    assert PUBLISHED.keys() & family.configurations.keys(), model_type


def test_a_name_is_one_family_s() -> None:
    names = Counter(name for family in FAMILIES.values() for name in family.sources)
    assert [name for name, times in names.items() if times > 1] == []
    assert all_sources().keys() == names.keys()


def test_names_of_one_repository_have_one_configuration() -> None:
    """A name and its other names are one model."""
    seen: dict[str, Any] = {}
    for name, source in all_sources().items():
        assert source.hub_id is not None
        assert CONFIGURATIONS[name] == seen.setdefault(source.hub_id, CONFIGURATIONS[name]), name


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_is_possible(name: str) -> None:
    settings = CONFIGURATIONS[name]
    of = {OTHER_NAMES.get(key, key): value for key, value in settings.items()}
    assert of["hidden_size"] % of["num_attention_heads"] == 0
    assert parameters(settings) > 1e6
    labels = settings.get("id2label", {})
    assert list(labels) == [str(number) for number in range(len(labels))]


@pytest.mark.parametrize("model_type", FAMILIES)
def test_transformers_counts_the_same(model_type: str) -> None:
    """Its configuration takes the settings by name, and its model has as many parameters."""
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    torch = pytest.importorskip("torch")
    configurations = FAMILIES[model_type].configurations
    smallest = min(configurations, key=lambda name: parameters(configurations[name]))
    for name, settings in configurations.items():
        values = {key: value for key, value in writable(settings).items() if key != "model_type"}
        config = transformers.CONFIG_MAPPING[model_type](**values)
        labels = values.pop("id2label", {})
        assert {key: getattr(config, key) for key in values} == values
        assert not labels or list(config.id2label.values()) == list(labels.values())
        if name == smallest:
            with torch.device("meta"):
                model = transformers.AutoModel.from_config(config)
            assert parameters(settings) == sum(weight.numel() for weight in model.parameters())
