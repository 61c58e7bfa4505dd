"""BERT against transformers: live, through the files that transformers writes, and frozen."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import offramp
from offramp.models.inputs import Inputs
from offramp.models.losses import classification_loss
from offramp.nn.layout import Packed, Padded

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bert"
SEEDS = range(8)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
EXACT = {"rtol": 1e-9, "atol": 1e-9}  # in float64, where only rounding differs


@pytest.fixture(scope="module")
def hf() -> ModuleType:
    """transformers, silent."""
    reason = "transformers is what offramp is measured against here"
    transformers: ModuleType = pytest.importorskip("transformers", reason=reason)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    return transformers


def draw_config(seed: int) -> dict[str, Any]:
    """A small configuration, different in every number that BERT has."""
    rng = np.random.default_rng(seed)
    n_heads, head_width = int(rng.integers(1, 5)), int(rng.integers(2, 9))
    return {
        "vocab_size": int(rng.integers(20, 60)),
        "hidden_size": n_heads * head_width,
        "num_hidden_layers": int(rng.integers(1, 5)),
        "num_attention_heads": n_heads,
        "intermediate_size": int(rng.integers(5, 40)),
        "hidden_act": ["gelu", "gelu_new", "relu", "silu"][seed % 4],
        "max_position_embeddings": int(rng.integers(12, 20)),
        "type_vocab_size": int(rng.integers(1, 4)),
        "layer_norm_eps": [1e-12, 1e-5, 1e-3][seed % 3],
        "pad_token_id": [0, None, 1][seed % 3],
        "classifier_dropout": [None, 0.0, 0.3][seed % 3],
        "num_labels": int(rng.integers(2, 5)),
    }


@functools.cache
def pair(seed: int, **changes: Any) -> tuple[Any, Any]:
    """A classifier made and written by transformers, and what offramp reads from the directory."""
    import transformers

    torch.manual_seed(seed)
    config = transformers.BertConfig(**{**draw_config(seed), **changes})
    theirs = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # initial weights hide a bias or a norm left out
            parameter.add_(0.2 * torch.randn_like(parameter))
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = offramp.BertForSequenceClassification.from_pretrained(folder)
    return theirs, ours


def batch(config: Any, seed: int, n_rows: int = 5, length: int = 9) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(below: int) -> Tensor:
        return torch.randint(0, below, (n_rows, length), generator=generator)

    return {"input_ids": draw(config.vocab_size), "token_type_ids": draw(config.type_vocab_size)}


def right(n_rows: int = 5, length: int = 9) -> Tensor:
    counts = torch.tensor([4, length, 1, 4, 6])[:n_rows, None]
    return (torch.arange(length) < counts).long()


def holes() -> Tensor:
    mask = right()
    mask[0, 1] = mask[1, 3:6] = mask[4, [2, 4]] = 0
    return mask


def first_masked() -> Tensor:
    mask = right()
    mask[[1, 4], 0] = 0
    return mask


MASKS: dict[str, Callable[[], Tensor | None]] = {
    "none": lambda: None,
    "all real": lambda: torch.ones(5, 9, dtype=torch.int64),
    "padded right": right,
    "padded left": lambda: right().flip(1),
    "holes": holes,
    "first position masked": first_masked,
}


def real_of(mask: Tensor | None) -> Tensor:
    return torch.ones(5, 9, dtype=torch.bool) if mask is None else mask.bool()


def close(ours: Tensor, theirs: Tensor, **tolerance: float) -> None:
    torch.testing.assert_close(ours, theirs, **(tolerance or CLOSE))


# Live: outputs


@pytest.mark.parametrize("mask_name", MASKS)
@pytest.mark.parametrize("seed", SEEDS)
def test_outputs_equal_transformers(hf: ModuleType, seed: int, mask_name: str) -> None:
    theirs, ours = pair(seed)
    mask = MASKS[mask_name]()
    arguments = batch(theirs.config, seed) | ({} if mask is None else {"attention_mask": mask})
    with torch.no_grad():
        expected = theirs.bert(**arguments, output_hidden_states=True)
        found = ours.bert(**arguments, output_hidden_states=True)
        close(ours(**arguments).logits, theirs(**arguments).logits)

    real_BL = real_of(mask)
    close(found.last_hidden_state[real_BL], expected.last_hidden_state[real_BL])
    close(found.pooler_output, expected.pooler_output)
    assert len(found.hidden_states) == len(expected.hidden_states)
    for own, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        close(own[real_BL], other[real_BL])
        assert not bool(own[~real_BL].any()), "masked positions are zeros"
    assert torch.equal(found.hidden_states[-1], found.last_hidden_state)


@pytest.mark.parametrize("seed", SEEDS)
def test_optional_arguments_equal_transformers(hf: ModuleType, seed: int) -> None:
    theirs, ours = pair(seed)
    config, mask = theirs.config, holes()
    ids = batch(config, seed)["input_ids"]
    positions = torch.randint(0, config.max_position_embeddings, (5, 9))
    kinds = torch.randint(0, config.type_vocab_size, (5, 9))
    embeds = torch.randn(5, 9, config.hidden_size)
    for arguments in (
        {"input_ids": ids},
        {"input_ids": ids, "token_type_ids": kinds, "position_ids": positions},
        {"input_ids": ids, "position_ids": positions[:1]},
        {"inputs_embeds": embeds},
        {"inputs_embeds": embeds, "token_type_ids": kinds, "position_ids": positions},
    ):
        for attention_mask in (mask, mask.bool(), mask.flip(1), None):
            with torch.no_grad():
                expected = theirs.bert(**arguments, attention_mask=attention_mask)
                found = ours.bert(**arguments, attention_mask=attention_mask)
            real_BL = real_of(attention_mask)
            close(found.last_hidden_state[real_BL], expected.last_hidden_state[real_BL])
            close(found.pooler_output, expected.pooler_output)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mask_of_query_and_key_equals_transformers(hf: ModuleType, seed: int) -> None:
    theirs, ours = pair(seed)
    arguments = batch(theirs.config, seed)
    allowed_BLL = (torch.rand(5, 9, 9) < 0.5) | torch.eye(9, dtype=torch.bool)
    with torch.no_grad():
        expected = theirs.bert(**arguments, attention_mask=allowed_BLL[:, None])
        found = ours.bert(**arguments, attention_mask=allowed_BLL)
    close(found.last_hidden_state, expected.last_hidden_state)
    close(found.pooler_output, expected.pooler_output)


@pytest.mark.parametrize("n_rows", [1, 2])
def test_few_rows_equal_transformers(hf: ModuleType, n_rows: int) -> None:
    theirs, ours = pair(0)
    for length in (1, 2, theirs.config.max_position_embeddings):
        arguments = batch(theirs.config, 0, n_rows, length)
        with torch.no_grad():
            close(ours(**arguments).logits, theirs(**arguments).logits)


# Live: losses


def losses(theirs: Any, ours: Any, labels: Tensor) -> tuple[Tensor, Tensor]:
    n_rows = len(labels)
    arguments = batch(theirs.config, 3, n_rows) | {"attention_mask": right(n_rows)}
    # transformers writes the kind of problem it guessed into its config.
    guessed = theirs.config.problem_type
    with torch.no_grad():
        expected = theirs(**arguments, labels=labels).loss
        theirs.config.problem_type = guessed
        found = ours(**arguments, labels=labels)
        assert torch.equal(found.logits, ours(**arguments).logits)
    return found.loss, expected


@pytest.mark.parametrize("problem_type", [None, "single_label_classification"])
def test_single_label_loss_equals_transformers(hf: ModuleType, problem_type: str | None) -> None:
    models = pair(1, num_labels=3, problem_type=problem_type)
    for labels in ([0, 2, 1, 1, 0], [0, -100, 1, -100, 2], [2]):
        close(*losses(*models, torch.tensor(labels)))


@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_multi_label_loss_equals_transformers(hf: ModuleType, problem_type: str | None) -> None:
    models = pair(2, num_labels=3, problem_type=problem_type)
    close(*losses(*models, torch.randint(0, 2, (5, 3)).float()))


@pytest.mark.parametrize("problem_type", [None, "regression"])
def test_regression_loss_equals_transformers(hf: ModuleType, problem_type: str | None) -> None:
    models = pair(3, num_labels=1, problem_type=problem_type)
    close(*losses(*models, torch.randn(5)))


def test_regression_loss_of_targets_in_a_column_equals_transformers(hf: ModuleType) -> None:
    close(*losses(*pair(3, num_labels=1), torch.randn(5, 1)))


def test_regression_loss_of_one_row_equals_transformers(hf: ModuleType) -> None:
    close(*losses(*pair(3, num_labels=1), torch.randn(1)))


def test_regression_on_several_targets_equals_transformers(hf: ModuleType) -> None:
    models = pair(4, num_labels=3, problem_type="regression")
    close(*losses(*models, torch.randn(5, 3)))


@pytest.mark.parametrize("label", [3, -1, 100])
def test_a_label_that_is_no_class_is_refused(label: int) -> None:
    model = offramp.BertForSequenceClassification(tiny_config(num_labels=3))
    with pytest.raises(offramp.InputError, match=rf"label {label} is not a class .*\(0 to 2; -100"):
        model(torch.ones(2, 4, dtype=torch.int64), labels=torch.tensor([1, label]))


# Live: gradients, in float64 with no dropout


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters()}
    assert all(grad is not None for grad in found.values())
    return {name: grad.clone() for name, grad in found.items() if grad is not None}


@functools.cache
def exact_pair(seed: int) -> tuple[Any, Any]:
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    theirs, ours = pair(seed, **quiet, classifier_dropout=0.0)
    return theirs.double().train(), ours.double().train()


def some_loss(model: Any, arguments: dict[str, Tensor], real_BL: Tensor, **masks: Tensor) -> Tensor:
    """A number that every real position's hidden state and every weight has a part in."""
    generator = torch.Generator().manual_seed(5)
    body = model.bert(**arguments, **masks)
    towards = torch.randn(body.last_hidden_state.shape, generator=generator, dtype=torch.float64)
    labels = torch.tensor([0, 1, 1, 0, 1])
    loss: Tensor = model(**arguments, **masks, labels=labels).loss
    return loss + (body.last_hidden_state * towards)[real_BL].sum() + body.pooler_output.sum()


@pytest.mark.parametrize("mask_name", MASKS)
@pytest.mark.parametrize("seed", SEEDS[:4])
def test_gradients_equal_transformers(hf: ModuleType, seed: int, mask_name: str) -> None:
    theirs, ours = exact_pair(seed)
    mask, arguments = MASKS[mask_name](), batch(theirs.config, seed)
    masks = {} if mask is None else {"attention_mask": mask}
    real_BL = real_of(mask)
    expected = gradients(theirs, some_loss(theirs, arguments, real_BL, **masks))
    found = gradients(ours, some_loss(ours, arguments, real_BL, **masks))
    assert found.keys() == expected.keys()
    for name, grad in found.items():
        close(grad, expected[name], **EXACT)


@pytest.mark.parametrize("mask_name", ["padded right", "holes"])
@pytest.mark.parametrize("seed", SEEDS[:4])
def test_gradients_agree_between_the_layouts(hf: ModuleType, seed: int, mask_name: str) -> None:
    _, ours = exact_pair(seed)
    mask, arguments = MASKS[mask_name](), batch(ours.config, seed)
    assert mask is not None
    pairs_BLL = mask[:, None, :].expand(5, 9, 9)
    layouts = [Inputs.from_padded(arguments["input_ids"], m).layout for m in (mask, pairs_BLL)]
    assert isinstance(layouts[0], Packed)
    assert isinstance(layouts[1], Padded)
    real_BL = real_of(mask)
    packed = gradients(ours, some_loss(ours, arguments, real_BL, attention_mask=mask))
    padded = gradients(ours, some_loss(ours, arguments, real_BL, attention_mask=pairs_BLL))
    for name, grad in packed.items():
        close(grad, padded[name], **EXACT)


# Live: a directory that offramp wrote


@pytest.mark.parametrize("with_exits", [False, True])
@pytest.mark.parametrize("seed", SEEDS[:3])
def test_transformers_reads_what_offramp_wrote(
    hf: ModuleType, tmp_path: Path, seed: int, with_exits: bool
) -> None:
    values = draw_config(seed) | {"num_hidden_layers": 3, "num_labels": 3}
    config = offramp.BertConfig(**values, id2label={0: "no", 1: "yes", 2: "so"})
    ours = offramp.BertForSequenceClassification(config).eval()
    if with_exits:
        offramp.add_exits(ours)
    ours.save_pretrained(tmp_path)
    theirs, report = hf.BertForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["mismatched_keys"]
    assert all(name.startswith("exits.") for name in report["unexpected_keys"])
    assert bool(report["unexpected_keys"]) == with_exits
    assert theirs.config.id2label == config.id2label
    assert theirs.config.label2id == {"no": 0, "yes": 1, "so": 2}
    arguments = batch(config, seed) | {"attention_mask": holes()}
    with torch.no_grad():
        close(ours(**arguments).logits, theirs.eval()(**arguments).logits)


@pytest.mark.parametrize(
    ("written", "wanted"), [(torch.bfloat16, torch.float32), (torch.float32, torch.float16)]
)
def test_transformers_reads_the_type_that_offramp_wrote(
    hf: ModuleType, tmp_path: Path, written: torch.dtype, wanted: torch.dtype
) -> None:
    # transformers reads weights as the type that config.json names, whatever the weights' own is.
    theirs = hf.BertForSequenceClassification(hf.BertConfig(**draw_config(0))).to(written)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = offramp.BertForSequenceClassification.from_pretrained(tmp_path / "theirs", dtype=wanted)
    ours.save_pretrained(tmp_path / "ours")
    assert ours.dtype == wanted
    again = hf.BertForSequenceClassification.from_pretrained(tmp_path / "ours")
    assert again.dtype == wanted


def test_transformers_reads_the_body_that_offramp_wrote(hf: ModuleType, tmp_path: Path) -> None:
    ours = offramp.BertModel(offramp.BertConfig(**draw_config(2))).eval()
    ours.save_pretrained(tmp_path)
    theirs = hf.AutoModel.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "BertModel"
    arguments = batch(ours.config, 2)
    with torch.no_grad():
        close(ours(**arguments).pooler_output, theirs(**arguments).pooler_output)


def test_parameters_have_transformers_names_and_shapes(hf: ModuleType) -> None:
    values = draw_config(3)
    for name in ("BertModel", "BertForSequenceClassification"):
        theirs = getattr(hf, name)(hf.BertConfig(**values)).state_dict()
        ours = getattr(offramp, name)(offramp.BertConfig(**values)).state_dict()
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_defaults_are_transformers_defaults(hf: ModuleType) -> None:
    theirs = hf.BertConfig().to_dict()
    ours = offramp.BertConfig().to_dict()
    for name in ours.keys() & theirs.keys():
        expected = theirs[name]
        if name == "id2label":
            expected = {str(number): label for number, label in expected.items()}
        assert ours[name] == expected, name


def test_a_real_model_equals_transformers_on_sentences(hf: ModuleType) -> None:
    from offramp.models.names import model_directory

    try:
        folder = model_directory("all-MiniLM-L6-v2")
    except offramp.MissingBackendError as error:
        pytest.skip(str(error))
    texts = [
        "A man is playing a guitar.",
        "Ça coûte 3,50 € — the café's prices rose (again) in 2023!",
        "No.",
        ("What is the capital of France?", "Paris has been the capital since the tenth century."),
    ]
    rows = offramp.Tokenizer.from_pretrained(folder).encode(texts)
    length = max(len(row.ids) for row in rows)
    ids, kinds, mask = (torch.zeros(len(rows), length, dtype=torch.int64) for _ in range(3))
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.from_numpy(row.ids)
        kinds[number, : len(row.ids)] = torch.from_numpy(row.types)
        mask[number, : len(row.ids)] = 1
    assert len({len(row.ids) for row in rows}) == len(rows)
    theirs = hf.BertModel.from_pretrained(folder).eval()
    ours = offramp.BertModel.from_pretrained(folder)
    arguments = {"input_ids": ids, "token_type_ids": kinds, "attention_mask": mask}
    with torch.no_grad():
        expected, found = theirs(**arguments), ours(**arguments)
        packed = ours.start(Inputs.from_rows([r.ids for r in rows], [r.types for r in rows]))
        for i in range(ours.n_layers):
            packed = ours.step(packed, i)
    real_BL = mask.bool()
    close(found.last_hidden_state[real_BL], expected.last_hidden_state[real_BL])
    close(found.pooler_output, expected.pooler_output)
    close(packed.hidden, expected.last_hidden_state[real_BL])


# Frozen: what transformers answered when tests/golden/make_bert.py ran


def golden() -> dict[str, dict[str, dict[str, Tensor]]]:
    """{case: {"in" or "out": {name: tensor}}}"""
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    for path, tensor in load_file(GOLDEN / "expected.safetensors").items():
        case, side, name = path.split("/")
        found.setdefault(case, {}).setdefault(side, {})[name] = tensor
    return found


@pytest.mark.parametrize("case", ["plain", "right", "left", "holes", "positions", "embeds"])
def test_answers_equal_the_golden_ones(case: str) -> None:
    model = offramp.BertForSequenceClassification.from_pretrained(GOLDEN)
    arguments, expected = golden()[case]["in"], golden()[case]["out"]
    with torch.no_grad():
        found = model(**arguments, output_hidden_states=True)
        body = model.bert(**{k: v for k, v in arguments.items() if k != "labels"})
    close(found.logits, expected["logits"])
    close(body.pooler_output, expected["pooler_output"])
    if "loss" in expected:
        close(found.loss, expected["loss"])
    mask = arguments.get("attention_mask")
    real_BL = torch.ones(3, 7, dtype=torch.bool) if mask is None else mask.bool()
    for ours, theirs in zip(found.hidden_states, expected["hidden_states"], strict=True):
        close(ours[real_BL], theirs[real_BL])
        assert not bool(ours[~real_BL].any())


def test_every_golden_case_is_tried() -> None:
    assert sorted(golden()) == ["embeds", "holes", "left", "plain", "positions", "right"]


# Alone: what needs no reference


def tiny_config(**changes: Any) -> offramp.BertConfig:
    values = {
        "vocab_size": 30,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 12,
    }
    return offramp.BertConfig(**{**values, **changes})


def test_bfloat16_is_near_float32() -> None:
    arguments = golden()["holes"]["in"]
    exact = offramp.BertForSequenceClassification.from_pretrained(GOLDEN)
    rough = offramp.BertForSequenceClassification.from_pretrained(GOLDEN, dtype=torch.bfloat16)
    with torch.no_grad():
        expected, found = exact(**arguments), rough(**arguments)
    assert found.logits.dtype == torch.bfloat16
    assert found.logits.argmax(1).tolist() == expected.logits.argmax(1).tolist()
    close(found.logits.float(), expected.logits, rtol=0.05, atol=0.05)


def test_a_row_without_a_real_token_is_finite_and_leaves_the_others_alone() -> None:
    model = offramp.BertForSequenceClassification.from_pretrained(GOLDEN)
    ids = golden()["plain"]["in"]["input_ids"]
    mask = torch.tensor([[0] * 7, [1] * 7, [1, 1, 1, 0, 0, 0, 0]])
    with torch.no_grad():
        found = model(ids, attention_mask=mask, output_hidden_states=True)
        alone = model(ids[1:], attention_mask=mask[1:])
    assert bool(found.logits.isfinite().all())
    assert all(bool(hidden.isfinite().all()) for hidden in found.hidden_states)
    close(found.logits[1:], alone.logits)


def test_what_lies_under_the_mask_does_not_matter() -> None:
    model = offramp.BertForSequenceClassification.from_pretrained(GOLDEN)
    ids = golden()["plain"]["in"]["input_ids"]
    for mask in (golden()["holes"]["in"]["attention_mask"], torch.tensor([[0, 1, 1, 1, 0, 1, 0]])):
        rows = ids[: len(mask)]
        other = torch.where(mask.bool(), rows, (rows + 7) % 48)
        # Poolers read the first position even where it is masked, as transformers' do.
        other[:, 0] = rows[:, 0]
        with torch.no_grad():
            close(model(other, attention_mask=mask).logits, model(rows, attention_mask=mask).logits)


def test_a_tuple_where_asked_for() -> None:
    model = offramp.BertForSequenceClassification.from_pretrained(GOLDEN)
    ids = golden()["plain"]["in"]["input_ids"]
    with torch.no_grad():
        output = model(ids, output_hidden_states=True)
        logits, hidden_states = model(ids, output_hidden_states=True, return_dict=False)
        (only,) = model(ids, return_dict=False)
        body = model.bert(ids, return_dict=False)
        assert torch.equal(model(ids, return_dict=None).logits, only)  # not asked for
        assert torch.equal(model.bert(ids, return_dict=None).last_hidden_state, body[0])
    assert torch.equal(logits, output.logits)
    # Where no hidden states are asked for, the last layer is run for the first tokens alone.
    torch.testing.assert_close(only, output.logits, rtol=1e-5, atol=1e-6)
    assert len(hidden_states) == 4
    assert [tuple(x.shape) for x in body] == [(3, 7, 16), (3, 16)]


@pytest.mark.parametrize("cls", [offramp.BertModel, offramp.BertForSequenceClassification])
def test_the_configuration_says_what_forward_was_not_told(cls: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"output_hidden_states": True, "output_attentions": True}
    model = cls.from_pretrained(GOLDEN, **settings)
    model.save_pretrained(tmp_path)
    model = cls.from_pretrained(tmp_path)
    ids = golden()["plain"]["in"]["input_ids"]
    with torch.no_grad():
        output = model(ids)
        bare = model(ids, output_hidden_states=False, output_attentions=False)
        model.config.return_dict = False
        assert isinstance(model(ids), tuple)
        assert not isinstance(model(ids, return_dict=True), tuple)
    assert len(output.hidden_states) == len(output.attentions) + 1 == 4
    assert bare.hidden_states is bare.attentions is None


def test_a_body_without_a_pooler_pools_its_first_token() -> None:
    model = offramp.BertModel(tiny_config(), add_pooling_layer=False).eval()
    ids = torch.randint(0, 30, (3, 5))
    with torch.no_grad():
        output = model(ids)
        inputs = Inputs.from_padded(ids, None)
        flow = model.start(inputs)
        for i in range(model.n_layers):
            flow = model.step(flow, i)
    assert output.pooler_output is None
    assert torch.equal(model.pool(model.finish(flow)), output.last_hidden_state[:, 0])


def test_initial_weights_follow_the_paper() -> None:
    model = offramp.BertForSequenceClassification(
        tiny_config(vocab_size=3000, hidden_size=64, initializer_range=0.05)
    )
    words = model.bert.embeddings.word_embeddings.weight.detach()
    assert abs(float(words[1:].std()) - 0.05) < 0.002
    assert not bool(words[0].any()), "the padding token's embedding is zeros"
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert not bool(parameter.any()), name
        elif "LayerNorm" in name:
            assert bool((parameter == 1).all()), name
        else:
            assert 0.03 < float(parameter.detach().std()) < 0.07, name


def test_dropout_acts_in_training_only() -> None:
    model = offramp.BertForSequenceClassification(tiny_config())
    ids = torch.randint(1, 30, (4, 6))
    trained = [model.train()(ids).logits for _ in range(2)]
    used = [model.eval()(ids).logits for _ in range(2)]
    assert not torch.equal(*trained)
    assert torch.equal(*used)


def test_no_rows_give_no_answers() -> None:
    model = offramp.BertForSequenceClassification(tiny_config(num_labels=3)).eval()
    assert model(torch.zeros(0, 4, dtype=torch.int64)).logits.shape == (0, 3)


def test_a_row_longer_than_the_positions_is_refused() -> None:
    model = offramp.BertModel(tiny_config()).eval()
    ids = torch.ones(1, 13, dtype=torch.int64)
    with pytest.raises(offramp.InputError, match=r"13 tokens.*12.*max_length=12"):
        model(ids)
    positions = torch.arange(13).clamp(max=11)[None]
    assert model(ids, position_ids=positions).last_hidden_state.shape == (1, 13, 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either input_ids or inputs_embeds"),
        ({"input_ids": (2, 3), "inputs_embeds": (2, 3, 16)}, "either input_ids or inputs_embeds"),
        ({"input_ids": (3,)}, r"\[batch, length\].*got \(3,\)"),
        ({"input_ids": (2, 3, 16)}, r"\[batch, length\]"),
        ({"inputs_embeds": (2, 3)}, r"\[batch, length, width\]"),
        ({"input_ids": (2, 3), "attention_mask": (2, 4)}, r"\[2, 3\] or \[2, 3, 3\].*got \[2, 4\]"),
        ({"input_ids": (2, 3), "attention_mask": (1, 3)}, r"got \[1, 3\]"),
        ({"input_ids": (2, 3), "token_type_ids": (2, 4)}, r"token_type_ids must be \[2, 3\]"),
        ({"input_ids": (2, 3), "position_ids": (3, 3)}, r"position_ids must be \[2, 3\]"),
    ],
)
def test_inputs_of_other_shapes_are_refused(
    arguments: dict[str, tuple[int, ...]], message: str
) -> None:
    tensors = {
        name: torch.zeros(shape, dtype=torch.float32 if name == "inputs_embeds" else torch.int64)
        for name, shape in arguments.items()
    }
    model = offramp.BertModel(tiny_config())
    with pytest.raises(offramp.InputError, match=message):
        model(**tensors)


@pytest.mark.parametrize(
    "arguments",
    [
        {"input_ids": torch.tensor([[1, 30]])},
        {"input_ids": torch.tensor([[1, -1]])},
        {"input_ids": torch.tensor([[1, 2]]), "token_type_ids": torch.tensor([[0, 2]])},
        {"input_ids": torch.tensor([[1, 2]]), "position_ids": torch.tensor([[0, 12]])},
    ],
)
def test_numbers_outside_their_table_are_refused(arguments: dict[str, Tensor]) -> None:
    with pytest.raises(offramp.InputError):
        offramp.BertModel(tiny_config())(**arguments)


@pytest.mark.parametrize(
    "arguments", [{"input_ids": torch.ones(2, 3)}, {"inputs_embeds": torch.ones(2, 3, 7)}]
)
def test_inputs_of_another_type_or_width_are_refused(arguments: dict[str, Tensor]) -> None:
    with pytest.raises(offramp.InputError):
        offramp.BertModel(tiny_config())(**arguments)


def test_a_model_is_built_from_its_own_configuration() -> None:
    for wrong in (offramp.PretrainedConfig(), GOLDEN, {}):
        with pytest.raises(offramp.ConfigError, match=r"built from a BertConfig.*from_pretrained"):
            offramp.BertModel(wrong)


def test_device_dtype_and_body() -> None:
    model = offramp.BertForSequenceClassification(tiny_config()).to(torch.float64)
    assert (model.device.type, model.dtype) == ("cpu", torch.float64)
    assert model.base_model is model.bert
    assert model.bert.base_model is model.bert
    assert model.stack is model.bert


def test_labels_that_are_no_class_numbers_are_refused() -> None:
    logits_RC = torch.zeros(2, 3)
    for labels in (torch.tensor([0.0, 1.9]), torch.eye(3, dtype=torch.int64)[:2]):
        with pytest.raises(offramp.InputError, match="one class number a row"):
            classification_loss(logits_RC, labels, "single_label_classification")
