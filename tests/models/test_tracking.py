"""Construction is tracked, saved and repeated: users' own classes, positional or keyword."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import IDS, MASK, TINY
from torch import Tensor, nn

import offramp
from offramp import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    BertPreTrainedModel,
    ConfigError,
    InitTrackerMeta,
    PretrainedConfig,
    PretrainedModel,
    UnknownOptionError,
    register_base_model,
)
from offramp.models.tracking import bind, call_arguments


class Ranker(BertPreTrainedModel):
    """A user's class: a head of its own, and arguments beside the configuration."""

    def __init__(
        self, config: BertConfig, width: int, *, scale: float = 1.0, names: Any = ("a", "b")
    ) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.score = nn.Sequential(nn.Linear(config.hidden_size, width), nn.Linear(width, 1))
        self.scale = scale
        self.names = names
        self.init_weights()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = self.bert(input_ids, attention_mask).last_hidden_state
        return self.score(hidden[:, 0]) * self.scale


class AroundABody(BertPreTrainedModel):
    """PaddleNLP's way: the body is an argument."""

    def __init__(self, bert: BertModel, num_classes: int = 2, dropout: float = 0.0) -> None:
        super().__init__(bert.config)
        self.bert = bert
        self.classifier = nn.Linear(bert.config.hidden_size, num_classes)
        self.init_weights()

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.classifier(self.bert(input_ids).last_hidden_state[:, 0])


class Plain(PretrainedModel):
    """Built from plain arguments."""

    config_class = None  # type: ignore[assignment]

    def __init__(self, width: int, *sizes: int, bias: bool = True) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, size, bias) for size in sizes)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [layer(x) for layer in self.layers]


def test_arguments_are_kept_by_name_however_they_were_passed() -> None:
    config = BertConfig(**TINY)
    expected = {
        "init_class": "Ranker",
        "config": config,
        "width": 3,
        "scale": 2.0,
        "names": ("a", "b"),
    }
    for model in (
        Ranker(config, 3, scale=2.0),
        Ranker(config, width=3, scale=2.0, names=("a", "b")),
        Ranker(scale=2.0, width=3, config=config),
    ):
        assert model.init_config == expected
        assert type(type(model)) is InitTrackerMeta
    assert Ranker(config, 3).init_config["scale"] == 1.0
    # A class without an __init__ of its own is tracked by the one that it has.
    assert BertModel(config).init_config == {
        "init_class": "BertModel",
        "config": config,
        "add_pooling_layer": True,
    }


def test_a_model_among_the_arguments_is_its_own_init_config() -> None:
    config = BertConfig(**TINY)
    model = AroundABody(BertModel(config, add_pooling_layer=False), 3)
    assert model.init_config["bert"] == {
        "init_class": "BertModel",
        "config": config,
        "add_pooling_layer": False,
    }
    assert model.init_config["num_classes"] == 3


def test_calling_again_with_the_arguments_builds_the_same() -> None:
    class Odd:
        def __init__(self, a: int, /, b: int = 2, *rest: int, c: int = 3, **more: int) -> None:
            self.seen = (a, b, rest, c, more)

    for args, kwargs in (
        ((1,), {}),
        ((1, 5), {"c": 9}),
        ((1, 5, 6, 7), {"c": 9, "d": 10}),
    ):
        bound = bind(Odd, args, kwargs)
        again, named = call_arguments(Odd, bound)
        assert Odd(*again, **named).seen == Odd(*args, **kwargs).seen


@pytest.mark.parametrize("positional", [True, False])
def test_a_user_s_class_comes_back_whole(positional: bool, tmp_path: Path) -> None:
    config = BertConfig(**TINY)
    model = (
        Ranker(config, 3, scale=2.5) if positional else Ranker(config=config, width=3, scale=2.5)
    )
    model.resize_token_embeddings(23)
    model.prune_heads({1: [0]})
    model.eval().save_pretrained(tmp_path)
    again = Ranker.from_pretrained(tmp_path)
    assert (again.scale, again.score[0].out_features) == (2.5, 3)
    assert again.config.vocab_size == 23
    assert again.config.pruned_heads == {1: [0]}
    torch.testing.assert_close(model(IDS, MASK), again(IDS, MASK))
    assert {k: v for k, v in again.init_config.items() if k not in ("config", "names")} == {
        "init_class": "Ranker",
        "width": 3,
        "scale": 2.5,
    }
    # Its body opens from these weights too, and the arguments are not the body's.
    with pytest.warns(offramp.NewWeightsWarning, match="pooler"):
        BertModel.from_pretrained(_without_head(tmp_path, tmp_path / "body"))


def _without_head(source: Path, target: Path) -> Path:
    from safetensors.torch import load_file, save_file

    target.mkdir()
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    tensors = load_file(source / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if not k.startswith("score")},
        target / "model.safetensors",
    )
    return target


def test_from_pretrained_takes_arguments_by_position_and_keyword(tmp_path: Path) -> None:
    Ranker(BertConfig(**TINY), 3).save_pretrained(tmp_path)
    again = Ranker.from_pretrained(tmp_path, False, None, 3, scale=7.0, hidden_dropout_prob=0.3)
    assert (again.scale, again.config.hidden_dropout_prob) == (7.0, 0.3)
    for wrong in (3, "yes"):
        with pytest.raises(TypeError, match=r"from_pretrained\(name, False, None, "):
            Ranker.from_pretrained(tmp_path, wrong)  # type: ignore[call-overload]
    with pytest.raises(UnknownOptionError, match="'scale'"):
        Ranker.from_pretrained(tmp_path, scael=7.0)
    with pytest.raises(UnknownOptionError, match="'hidden_dropout_prob'"):
        Ranker.from_pretrained(tmp_path, hidden_dropout_probs=0.3)
    with pytest.raises(TypeError, match="by position"):
        Ranker.from_pretrained(tmp_path, False, None, 3, 4)


def test_a_class_around_a_body(tmp_path: Path) -> None:
    model = AroundABody(BertModel(BertConfig(**TINY), add_pooling_layer=False), 3).eval()
    model.save_pretrained(tmp_path)
    again = AroundABody.from_pretrained(tmp_path)
    assert again.bert.pooler is None
    torch.testing.assert_close(model(IDS), again(IDS))
    written = json.loads((tmp_path / "config.json").read_text("utf-8"))["init_args"]
    assert written == {
        "init_class": "AroundABody",
        "bert": {"init_class": "BertModel", "add_pooling_layer": False},
        "num_classes": 3,
        "dropout": 0.0,
    }
    with pytest.warns(offramp.NewWeightsWarning, match=r"bert\.pooler"):
        pooled = AroundABody.from_pretrained(tmp_path, add_pooling_layer=True)
    assert pooled.bert.pooler is not None


def test_a_class_of_plain_arguments(tmp_path: Path) -> None:
    assert not Plain.constructed_from_pretrained_config()
    assert BertModel.constructed_from_pretrained_config(BertModel.__init__)
    assert PretrainedModel.constructed_from_pretrained_config()
    model = Plain(4, 2, 3, bias=False)
    model.save_pretrained(tmp_path)
    again = Plain.from_pretrained(tmp_path)
    x = torch.randn(5, 4)
    torch.testing.assert_close(model(x), again(x))
    assert again.init_config == {"init_class": "Plain", "width": 4, "sizes": (2, 3), "bias": False}


class PlainTagger(PretrainedModel):
    """Built from plain arguments, and still with words, labels and exits' place."""

    config_class = None  # type: ignore[assignment]
    base_model_prefix = "tagger"
    input_embeddings_name = "words"

    def __init__(self, vocab_size: int, width: int = 4) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, width)

    def forward(self, ids: Tensor) -> Tensor:
        return self.words(ids)


def test_a_class_of_plain_arguments_keeps_labels_and_follows_a_resize(tmp_path: Path) -> None:
    model = PlainTagger(7)
    model.config.id2label = {0: "no", 1: "yes", 2: "maybe"}
    model._take(model.config)
    model.resize_token_embeddings(9)
    model.save_pretrained(tmp_path)
    again = PlainTagger.from_pretrained(tmp_path)
    assert again.config.labels == ["no", "yes", "maybe"]
    assert again.init_config == {"init_class": "PlainTagger", "vocab_size": 9, "width": 4}
    assert torch.equal(again.words.weight, model.words.weight)

    class Unnamed(PlainTagger):
        def __init__(self, n: int) -> None:
            PretrainedModel.__init__(self)
            self.words = nn.Embedding(n, 4)

    with pytest.raises(NotImplementedError, match="could not be built again"):
        Unnamed(7).resize_token_embeddings(9)


def test_a_body_resized_beneath_its_head_is_saved(tmp_path: Path) -> None:
    model = BertForSequenceClassification(BertConfig(**TINY)).eval()
    model.bert.resize_token_embeddings(33)
    model.bert.resize_position_embeddings(12)
    model.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert (again.config.vocab_size, again.config.max_position_embeddings) == (33, 12)
    ids = torch.tensor([[32, 1]])
    torch.testing.assert_close(again(ids).logits, model(ids).logits)
    words = offramp.BertForMaskedLM(BertConfig(**TINY))
    words.bert.resize_token_embeddings(33)  # the head is left behind
    with pytest.raises(ConfigError, match="vocab_size"):
        words.save_pretrained(tmp_path / "words")


@pytest.mark.parametrize("value", [object(), {1: 2}, float("nan"), torch.ones(2), {"a": {3}}])
def test_an_argument_that_json_cannot_hold_is_refused_at_save(value: Any, tmp_path: Path) -> None:
    model = Ranker(BertConfig(**TINY), 3, names=value)
    with pytest.raises(ConfigError, match=r"names=.*Ranker"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_arguments_of_another_class_are_not_taken(tmp_path: Path) -> None:
    BertModel(BertConfig(**TINY), add_pooling_layer=False).save_pretrained(tmp_path)
    assert BertModel.from_pretrained(tmp_path).pooler is None
    with pytest.warns(offramp.NewWeightsWarning):
        task = BertForSequenceClassification.from_pretrained(tmp_path)
    assert task.bert.pooler is not None
    task.save_pretrained(tmp_path / "task")
    assert "init_args" not in json.loads((tmp_path / "task/config.json").read_text("utf-8"))


def test_a_family_has_one_body() -> None:
    assert BertModel.base_model_class is BertModel
    assert BertForMaskedLM.base_model_class is BertModel
    assert Ranker.base_model_class is BertModel
    assert PretrainedModel.base_model_class is None

    class Base(PretrainedModel):
        base_model_prefix = "body"

    class Body(Base):
        pass

    assert register_base_model(Body) is Body
    assert register_base_model(Body) is Body
    assert Base.base_model_class is Body

    class Later(Base):
        pass

    assert register_base_model(Later) is Later
    assert Base.base_model_class is Body
    for wrong in (PretrainedModel, nn.Linear, 3, Plain):
        with pytest.raises(TypeError, match="register_base_model"):
            register_base_model(wrong)  # type: ignore[type-var]


def test_strict_takes_nothing_new_and_leaves_nothing(tmp_path: Path) -> None:
    BertForMaskedLM(BertConfig(**TINY)).save_pretrained(tmp_path)
    BertForMaskedLM.from_pretrained(tmp_path, strict=True)
    with pytest.raises(
        offramp.CheckpointError, match="not exactly a BertForSequenceClassification"
    ):
        BertForSequenceClassification.from_pretrained(tmp_path, strict=True)


def test_old_names_warn_and_work(tmp_path: Path) -> None:
    model = BertModel(BertConfig(**TINY))
    with pytest.warns(DeprecationWarning, match=r"config\.save_pretrained"):
        model.save_model_config(tmp_path)
    assert BertConfig.from_pretrained(tmp_path).hidden_size == 8
    assert isinstance(PretrainedConfig(), PretrainedConfig)
