"""Ways in which a model could silently become another: each is refused, or works."""

from __future__ import annotations

import copy
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
    InputError,
    NewWeightsWarning,
)


class AroundABody(BertPreTrainedModel):
    """As PaddleNLP's classes were: built around a body that is there."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__(bert.config)
        self.bert = bert
        self.score = nn.Linear(8, 1)
        self.init_weights()


def test_a_loaded_body_keeps_its_weights_in_a_new_model(tmp_path: Path) -> None:
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path)
    body = BertModel.from_pretrained(tmp_path)
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    model = AroundABody(body)
    for name, tensor in model.bert.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not model.score.bias.any(), "the new head is initialised"


@pytest.mark.parametrize("loaded", [False, True])
def test_weights_are_initialised_once(loaded: bool, tmp_path: Path) -> None:
    config = BertConfig(**TINY | {"tie_word_embeddings": False})
    model = BertForMaskedLM(config)
    if loaded:
        model.save_pretrained(tmp_path)
        model = BertForMaskedLM.from_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(3.0)  # as if trained
    model.prune_heads({0: [1]})
    model.resize_token_embeddings(25)
    model.resize_position_embeddings(15)
    model.set_input_embeddings(nn.Embedding(25, 8))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model.post_init()
    AroundABody(model.bert)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    model.cls["predictions"].transform.dense = nn.Linear(8, 8)
    model.init_weights()
    assert not model.cls["predictions"].transform.dense.bias.any(), "a new module is initialised"


def test_a_model_from_the_meta_device_is_initialised() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig(**TINY))
    model.to_empty(device="cpu")
    torch.nn.init.constant_(model.pooler.dense.bias, torch.nan)
    model.init_weights()
    assert not any(parameter.isnan().any() for parameter in model.parameters())


class Temperature(nn.Module):
    """A module that says nothing of how it is initialised."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.ones(1))


class Odd(BertPreTrainedModel):
    """A head of kinds that BERT has no initial weights for; frozen body."""

    def __init__(self, config: BertConfig, bare: bool = False) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.mix = nn.LSTM(8, 3)
        if bare:
            self.temperature = Temperature()
        self.init_weights()
        for parameter in self.bert.parameters():
            parameter.requires_grad_(False)


def test_a_new_head_is_initialised_or_refused(tmp_path: Path) -> None:
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.warns(NewWeightsWarning):
        model = Odd.from_pretrained(tmp_path)
    bound = 3**-0.5  # torch's own rule for an LSTM of width 3
    for name, parameter in model.mix.named_parameters():
        assert parameter.abs().max() <= bound, name
        assert parameter.abs().max() > 0, name
        assert parameter.requires_grad
    assert not any(p.requires_grad for p in model.bert.parameters()), "frozen as it was built"
    with pytest.raises(ConfigError, match=r"Odd\._init_weights gives temperature "):
        Odd.from_pretrained(tmp_path, bare=True)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_resized_word_head_keeps_its_type(tied: bool, dtype: torch.dtype) -> None:
    model = BertForMaskedLM(BertConfig(**TINY, tie_word_embeddings=tied)).to(dtype)
    model.cls["predictions"].bias.requires_grad_(False)
    model.resize_token_embeddings(25)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not model.cls["predictions"].bias.requires_grad
    assert model(IDS).logits.shape == (2, 4, 25)


def test_tensors_that_came_apart_are_not_saved(tmp_path: Path) -> None:
    model = BertForMaskedLM(BertConfig(**TINY))
    model.bert.set_input_embeddings(nn.Embedding(20, 8))  # the body knows of no head
    with pytest.raises(ConfigError, match=r"is tied to .* and is another tensor now"):
        model.save_pretrained(tmp_path / "model")
    model.tie_weights()
    expected = model.eval()(IDS).logits
    model.save_pretrained(tmp_path / "model")
    found = BertForMaskedLM.from_pretrained(tmp_path / "model")(IDS).logits
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("shape", [(30, 8), (20, 9)])
def test_an_embedding_of_another_size_is_refused(shape: tuple[int, int]) -> None:
    model = BertForMaskedLM(BertConfig(**TINY))
    with pytest.raises(ConfigError, match="resize_token_embeddings"):
        model.set_input_embeddings(nn.Embedding(*shape))
    with pytest.raises(ConfigError, match="resize_token_embeddings"):
        model.set_output_embeddings(nn.Linear(shape[1], shape[0]))


def test_pruning_is_what_the_layers_lack(tmp_path: Path) -> None:
    config = BertConfig(**TINY)
    one, two = BertModel(config), BertModel(config)
    one.prune_heads({0: [1]})
    with pytest.raises(ConfigError, match="a configuration of its own"):
        two.save_pretrained(tmp_path / "two")
    two.prune_heads({0: [1]})
    assert two.encoder.layer[0].attention.self.heads == [0, 2, 3]
    two.save_pretrained(tmp_path / "two")
    assert BertModel.from_pretrained(tmp_path / "two").encoder.layer[0].attention.self.heads == [
        0, 2, 3,
    ]  # fmt: skip


def test_other_names_of_settings_load(tmp_path: Path) -> None:
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.warns(NewWeightsWarning):
        model = BertForSequenceClassification.from_pretrained(tmp_path, num_classes=5)
    assert model.config.num_labels == 5


def test_saved_arguments_of_another_kind_are_no_arguments(tmp_path: Path) -> None:
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(values | {"init_args": [1]}), "utf-8")
    BertModel.from_pretrained(tmp_path)


@pytest.mark.parametrize("shape", [(1, 4), (3, 4), (2, 1, 4)])
def test_a_head_mask_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    model = BertModel(BertConfig(**TINY)).eval()
    with pytest.raises(InputError, match=r"head_mask must be \[4\] or \[2, 4\]"):
        model(IDS, head_mask=torch.ones(shape))


def test_a_head_mask_has_the_model_s_type() -> None:
    model = BertModel(BertConfig(**TINY)).eval().to(torch.bfloat16)
    found: Tensor = model(IDS, head_mask=torch.ones(4)).last_hidden_state
    assert found.dtype == torch.bfloat16


class Taught(BertPreTrainedModel):
    """A second configuration, or a second model, among the arguments."""

    def __init__(self, config: BertConfig, other: Any = None) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.init_weights()


@pytest.mark.parametrize("kind", [lambda config: config, BertModel])
def test_what_could_not_be_built_again_is_not_saved(kind: Any, tmp_path: Path) -> None:
    model = Taught(BertConfig(**TINY), kind(BertConfig(**TINY)))
    with pytest.raises(ConfigError, match=r"other=.*Taught"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_from_config_builds_the_body_first() -> None:
    model = AroundABody.from_config(BertConfig(**TINY))
    assert model.bert.config.vocab_size == 20


def test_a_head_mask_of_other_heads_is_refused() -> None:
    model = BertModel(BertConfig(**TINY)).eval()
    for heads in (1, 3, 5):
        with pytest.raises(offramp.InputError, match=rf"must be \[4\].*got \[{heads}\]"):
            model(IDS, MASK, head_mask=torch.ones(heads))


@pytest.mark.parametrize("kind", ["BertForTokenClassification", "BertForMaskedLM"])
def test_labels_of_masked_positions_do_not_count(kind: str) -> None:
    model = getattr(offramp, kind)(BertConfig(**TINY)).eval()
    labels = IDS % 2
    left_out = labels.masked_fill(MASK == 0, -100)
    assert (labels != left_out).any()
    assert model(IDS, MASK, labels=labels).loss == model(IDS, MASK, labels=left_out).loss


def test_another_pooler_s_activation_is_refused(tmp_path: Path) -> None:
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="pool_act must be one of 'tanh'; got 'relu'"):
        BertModel.from_pretrained(tmp_path, pool_act="relu")


@pytest.mark.parametrize(
    ("option", "remedy"),
    [("trust_remote_code", "No code of a checkpoint"), ("device_map", "pass device=")],
)
def test_options_that_are_none_say_what_to_do(option: str, remedy: str, tmp_path: Path) -> None:
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(offramp.UnknownOptionError, match=remedy):
        BertModel.from_pretrained(tmp_path, **{option: True})


def test_paddle_s_spellings() -> None:
    assert offramp.BertPretrainedModel is offramp.BertPreTrainedModel
    assert offramp.BertForPretraining is offramp.BertForPreTraining


# What a class of one's own may hold, beside modules with parameters


class Whitened(BertPreTrainedModel):
    """A head with a parameter, a constant and a count of its own, and a norm that counts."""

    def __init__(self, config: BertConfig, known: bool = True) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.norm = nn.BatchNorm1d(config.hidden_size)
        self.query = nn.Parameter(torch.zeros(config.hidden_size))
        self.register_buffer("classes", torch.arange(3))
        self.known = known
        self.init_weights()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self and self.known:
            nn.init.ones_(self.query)
            self.classes.copy_(torch.arange(3))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        pooled = self.norm(self.bert(ids, mask).pooler_output)
        return pooled @ self.query + self.classes.sum()


def test_loose_parameters_and_counts_are_saved_loaded_and_initialised(tmp_path: Path) -> None:
    model = Whitened(BertConfig(**TINY))
    assert model.query.tolist() == [1.0] * 8
    model.train()(IDS, MASK)  # moves the norm's statistics and its count
    model.eval().save_pretrained(tmp_path / "own")
    again = Whitened.from_pretrained(tmp_path / "own")
    assert again.norm.num_batches_tracked == 1
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    half = Whitened.from_pretrained(tmp_path / "own", dtype=torch.float16)
    assert (half.query.dtype, half.classes.dtype) == (torch.float16, torch.int64)

    model.bert.save_pretrained(tmp_path / "body")
    with pytest.warns(NewWeightsWarning, match="query"):
        fresh = Whitened.from_pretrained(tmp_path / "body")
    assert fresh.query.tolist() == [1.0] * 8
    assert fresh.classes.tolist() == [0, 1, 2]
    assert fresh.norm.running_var.tolist() == [1.0] * 8
    with pytest.raises(ConfigError, match="no initial weights"):
        Whitened.from_pretrained(tmp_path / "body", known=False)


def test_a_number_of_another_kind_is_refused(tmp_path: Path) -> None:
    model = Whitened(BertConfig(**TINY))
    model.save_pretrained(tmp_path)
    state = model.state_dict()
    for name in ("classes", "query"):
        changed = state[name].float() if name == "classes" else state[name].long()
        with pytest.raises(offramp.CheckpointError, match=f"{name} has type"):
            Whitened.from_pretrained(tmp_path, state_dict={**state, name: changed})
        with pytest.raises(offramp.CheckpointError, match="kind of number"):
            model.save_pretrained(tmp_path / "x", state_dict={**state, name: changed})


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(8))
        self.register_buffer("scale", torch.full((8,), 2.0))

    def reset_parameters(self) -> None:
        nn.init.ones_(self.weight)


class WithScaled(BertPreTrainedModel):
    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.head = Scaled()
        self.init_weights()


def test_a_constant_that_nobody_sets_is_refused_and_not_random(tmp_path: Path) -> None:
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"scale of head \(Scaled\): a buffer's values"):
        WithScaled.from_pretrained(tmp_path)


class Shared(BertPreTrainedModel):
    """Two layers that are one tensor, which `tied_weights` does not say."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
        self.two.weight = self.one.weight
        self.init_weights()


def test_what_is_one_tensor_is_one_after_loading(tmp_path: Path) -> None:
    model = Shared(BertConfig(**TINY))
    model.save_pretrained(tmp_path)
    again = Shared.from_pretrained(tmp_path)
    assert again.two.weight is again.one.weight
    assert torch.equal(again.one.weight, model.one.weight)
    assert again.num_parameters() == model.num_parameters()
    state = {**model.state_dict(), "two.weight": torch.zeros(8, 8)}
    with pytest.raises(offramp.CheckpointError, match="one tensor of this Shared, and differ"):
        Shared.from_pretrained(tmp_path, state_dict=state)
    model.bert.save_pretrained(tmp_path / "body")
    with pytest.warns(NewWeightsWarning):
        fresh = Shared.from_pretrained(tmp_path / "body")
    assert fresh.two.weight is fresh.one.weight


def test_a_renamed_argument_of_init_is_told_of(tmp_path: Path) -> None:
    BertModel(BertConfig(**TINY), add_pooling_layer=False).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("add_pooling_layer", "add_pooler_layer"))
    with pytest.raises(ConfigError, match="saved with add_pooler_layer.*'add_pooling_layer'"):
        BertModel.from_pretrained(tmp_path)


# Bodies, configurations and arguments


class OtherBody(BertModel):
    pass


def test_a_body_that_would_be_another_after_loading_is_not_saved(tmp_path: Path) -> None:
    AroundABody(BertModel(BertConfig(**TINY))).save_pretrained(tmp_path / "x")
    with pytest.raises(ConfigError, match="built around a OtherBody.*loaded with a BertModel"):
        AroundABody(OtherBody(BertConfig(**TINY))).save_pretrained(tmp_path / "y")


def test_a_registered_subclass_displaces_nobody() -> None:
    assert offramp.register_base_model(OtherBody) is OtherBody
    assert BertModel.base_model_class is OtherBody.base_model_class is BertModel

    class Mixin:
        pass

    class NewFamily(offramp.PretrainedModel):
        base_model_prefix = "new"

    @offramp.register_base_model
    class NewBody(Mixin, NewFamily):
        pass

    assert NewFamily.base_model_class is NewBody


class Counted(BertPreTrainedModel):
    """Arguments of the names of settings."""

    def __init__(self, config: BertConfig, num_labels: int = 2) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.score = nn.Linear(8, num_labels)
        self.init_weights()


@pytest.mark.filterwarnings("ignore::offramp.NewWeightsWarning")
@pytest.mark.parametrize("name", ["num_labels", "num_classes"])
def test_an_argument_with_a_setting_s_name_gets_it_too(name: str, tmp_path: Path) -> None:
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path)
    model = Counted.from_pretrained(tmp_path, **{name: 5})
    assert (model.score.out_features, model.config.num_labels) == (5, 5)


class Deep(BertConfig):
    """As transformers' users write a configuration."""

    def __init__(self, depth: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.depth = depth


def test_a_configuration_with_an_init_of_its_own_comes_back(tmp_path: Path) -> None:
    Deep(depth=7, hidden_size=24).save_pretrained(tmp_path)
    again = Deep.from_pretrained(tmp_path)
    assert (again.depth, again.hidden_size) == (7, 24)
    assert Deep.from_pretrained(tmp_path, num_labels=4).depth == 7

    class Undeclared(BertConfig):
        depth: int = 3

    with pytest.raises(ConfigError, match="depth of Undeclared would not be saved"):
        Undeclared()


def test_weights_that_init_itself_loads_are_kept() -> None:
    given = BertModel(BertConfig(**TINY)).state_dict()

    class Filled(BertPreTrainedModel):
        def __init__(self, config: BertConfig) -> None:
            super().__init__(config)
            self.bert = BertModel(config)
            self.bert.load_state_dict(given)
            self.score = nn.Linear(8, 1)
            self.init_weights()

    model = Filled(BertConfig(**TINY))
    assert all(torch.equal(model.bert.state_dict()[name], given[name]) for name in given)
    assert not model.score.bias.any()


def test_an_embedding_stays_what_it_is_when_it_is_resized() -> None:
    class Doubled(nn.Embedding):
        def forward(self, ids: Tensor) -> Tensor:
            return 2 * super().forward(ids)

    model = BertModel(BertConfig(**TINY)).eval()
    words = Doubled(20, 8)
    model.set_input_embeddings(words)
    before = model(IDS, MASK).last_hidden_state
    assert model.resize_token_embeddings(30) is words
    assert words.num_embeddings == len(words.weight) == 30
    torch.testing.assert_close(model(IDS, MASK).last_hidden_state, before)
    model.set_input_embeddings(nn.Embedding(30, 8))
    words_head = BertForMaskedLM(BertConfig(**TINY))
    with pytest.raises(ConfigError, match="differ in having a bias"):
        words_head.set_output_embeddings(nn.Linear(8, 20, bias=False))
    words_head.cls["predictions"].decoder = nn.Sequential(nn.Linear(8, 20))
    with pytest.raises(NotImplementedError, match="has a Sequential"):
        words_head.resize_token_embeddings(30)


def test_a_configuration_that_is_passed_stays_the_caller_s(tmp_path: Path) -> None:
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path)
    config = BertConfig(**TINY)
    one, two = (BertModel.from_pretrained(tmp_path, config=config) for _ in "ab")
    one.resize_token_embeddings(30)
    one.prune_heads({0: [1]})
    assert (config.vocab_size, two.config.vocab_size, config.pruned_heads) == (20, 20, {})
    two(IDS, MASK)
    two.save_pretrained(tmp_path)


def test_a_body_with_a_configuration_of_its_own_follows(tmp_path: Path) -> None:
    class Apart(BertPreTrainedModel):
        def __init__(self, config: BertConfig) -> None:
            super().__init__(config)
            self.bert = BertModel(copy.deepcopy(config))
            self.init_weights()

    model = Apart(BertConfig(**TINY))
    model.resize_token_embeddings(30)
    model.prune_heads({1: [2]})
    model.bert(torch.tensor([[25, 29]]))
    model.bert.save_pretrained(tmp_path / "body")
    model.save_pretrained(tmp_path / "whole")
    assert Apart.from_pretrained(tmp_path / "whole").bert.config.vocab_size == 30


def test_two_bodies_of_which_one_is_resized_are_not_saved(tmp_path: Path) -> None:
    class Twins(BertPreTrainedModel):
        def __init__(self, config: BertConfig) -> None:
            super().__init__(config)
            self.bert, self.other = BertModel(config), BertModel(config)
            self.init_weights()

    model = Twins(BertConfig(**TINY))
    model.save_pretrained(tmp_path)
    model.resize_token_embeddings(30)
    with pytest.raises(ConfigError, match="another was resized"):
        model.save_pretrained(tmp_path)


class ConfigLast(BertPreTrainedModel):
    def __init__(self, width: int, *, names: list[str], config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.width, self.names = width, list(names)
        names.clear()
        self.init_weights()


class Positional(BertPreTrainedModel):
    def __init__(self, config: BertConfig, width: int = 4, /) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.width = width
        self.init_weights()


def test_signatures_of_other_shapes(tmp_path: Path) -> None:
    config = BertConfig(**TINY)
    model = ConfigLast(3, names=["a", "b"], config=config)
    assert model.init_config["names"] == ["a", "b"], "as they were passed"
    model.save_pretrained(tmp_path / "last")
    again = ConfigLast.from_pretrained(tmp_path / "last")
    assert (again.width, again.names) == (3, ["a", "b"])
    Positional(config, 7).save_pretrained(tmp_path / "positional")
    assert Positional.from_pretrained(tmp_path / "positional").width == 7
    model.bert.save_pretrained(tmp_path / "body")
    assert Positional.from_pretrained(tmp_path / "body").width == 4

    class AnyCall(BertPreTrainedModel):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)

    with pytest.raises(ConfigError, match="does not say which argument is the configuration"):
        AnyCall.from_pretrained(tmp_path / "body")


def test_a_model_is_built_again_from_its_init_config() -> None:
    model = AroundABody(BertModel(BertConfig(**TINY), add_pooling_layer=False))
    again = AroundABody.from_init_config(model.init_config)
    assert again.init_config == model.init_config
    assert again.bert.pooler is None
    assert again.config is not model.config
    assert [*again.state_dict()] == [*model.state_dict()]


def test_arguments_that_another_class_was_saved_with_are_told_of(tmp_path: Path) -> None:
    class Derived(Counted):
        pass

    Counted(BertConfig(**TINY), 7).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="saved by Counted with num_labels=7"):  # noqa: SIM117
        with pytest.raises(offramp.CheckpointError):
            Derived.from_pretrained(tmp_path)
    assert Derived.from_pretrained(tmp_path, False, None, 7).score.out_features == 7


def test_parts_that_are_not_where_the_family_has_them() -> None:
    class Elsewhere(BertPreTrainedModel):
        def __init__(self, config: BertConfig) -> None:
            super().__init__(config)
            self.encoder = BertModel(config)
            self.init_weights()

    model = Elsewhere(BertConfig(**TINY))
    for use in (model.get_input_embeddings, lambda: model.resize_token_embeddings(30)):
        with pytest.raises(NotImplementedError, match="no embeddings.word_embeddings where"):
            use()


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (torch.rand(3, 2), "regression"),  # [C, B]
        (torch.rand(2), "regression"),
        (torch.ones(6), "multi_label_classification"),
        (torch.rand(2), "single_label_classification"),
    ],
)
def test_labels_of_other_shapes_are_refused(labels: Tensor, problem: str) -> None:
    config = BertConfig(**TINY, num_labels=3, problem_type=problem)
    with pytest.raises(InputError):
        BertForSequenceClassification(config)(IDS, MASK, labels=labels)


def test_labels_of_other_types_are_refused_or_taken() -> None:
    tokens = offramp.BertForTokenClassification(BertConfig(**TINY)).eval()
    with pytest.raises(InputError, match="whole numbers; got torch.float32"):
        tokens(IDS, MASK, labels=torch.zeros(2, 4))
    spans = offramp.BertForQuestionAnswering(BertConfig(**TINY)).eval()
    for at in (torch.tensor([1.5, 1]), torch.tensor([1, 1, 1])):
        with pytest.raises(InputError):
            spans(IDS, MASK, start_positions=at, end_positions=at)
    rows = BertForSequenceClassification(BertConfig(**TINY)).eval()
    small, usual = (
        rows(IDS, MASK, labels=torch.tensor([0, 1], dtype=dtype)).loss
        for dtype in (torch.uint8, torch.int64)
    )
    assert small == usual


def test_a_footprint_is_with_or_without_buffers() -> None:
    model = Whitened(BertConfig(**TINY))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    assert model.get_memory_footprint(return_buffers=False) == weights
    # the norm's mean and variance (8 floats each) and count, and three classes: int64
    assert model.get_memory_footprint() == weights + 2 * 8 * 4 + 8 + 3 * 8
