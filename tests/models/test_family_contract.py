"""What every registered family owes: a typed error or a defined answer, files, exits, the runner.

It runs over `offramp.models.registry.FAMILIES`, so that a new family brings its tests with it; the
entry of `parity_families.FAMILIES` tells it the rest. Parity with transformers is `test_parity`'s.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from parity_families import CLASSES, FAMILIES, Family
from safetensors.torch import load_file
from torch import Tensor, nn

import offramp
from offramp.models import registry
from offramp.models.flow import Flow
from offramp.nn.blocks import CheckpointedLayer
from offramp.nn.layout import Padded

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "families"
REGISTERED = [family.classes for family in registry.FAMILIES.values()]
MODELS = [(family, task) for family, task in CLASSES if family in REGISTERED]
LABELLED = [(family, task) for family, task in MODELS if task != "Model"]
WORDED = [(family, task) for family, task in MODELS if f"{family}{task}" != "ElectraForPreTraining"]
WORDED = [(family, task) for family, task in WORDED if task in ("ForMaskedLM", "ForPreTraining")]
CLASSIFIERS = [family for family in REGISTERED if (family, "ForSequenceClassification") in MODELS]
IDS = torch.tensor([[2, 5, 7, 3], [2, 9, 3, 4], [6, 8, 2, 2]])
RAGGED = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]])
LOWEST = torch.finfo(torch.float64).min
NEAR = {"rtol": 1e-9, "atol": 1e-9}
of_a_class = pytest.mark.parametrize(("family", "task"), MODELS)
of_a_family = pytest.mark.parametrize("family", REGISTERED)


def test_every_registered_family_is_tried() -> None:
    assert set(REGISTERED) <= set(FAMILIES), "add the family to parity_families.FAMILIES"


# Models and batches


def build(family: str, task: str, **changes: Any) -> Any:
    """A tiny model in float64, where only rounding can differ, and in eval mode."""
    values = FAMILIES[family].tiny
    if task in ("ForQuestionAnswering", "ForPreTraining"):
        values = values | {"num_labels": 2}
    kind = getattr(offramp, family + task)
    model = kind(getattr(offramp, f"{family}Config")(**values | changes)).double().eval()
    with torch.no_grad():  # biases and norms of a new model are all alike
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def call(model: Any, task: str, **arguments: Any) -> Any:
    """`forward`; multiple choice gets each row as its one choice."""
    if task == "ForMultipleChoice":
        arguments = {
            name: value[:, None] if isinstance(value, Tensor) and name != "labels" else value
            for name, value in arguments.items()
        }
    return model(**arguments)


def tokens_of(family: str, task: str, output: Any) -> dict[str, Tensor]:
    """The outputs of a token each, without the logits of where an answer is."""
    names = {"Model": "last_hidden_state", "ForPreTraining": "prediction_logits"}
    logits = task in ("ForMaskedLM", "ForTokenClassification", "LMHeadModel")
    name = (
        "logits" if logits or (family, task) == ("Electra", "ForPreTraining") else names.get(task)
    )
    return {name: output[name]} if name else {}


def results(output: Any) -> dict[str, Tensor]:
    return {name: value for name, value in output.items() if isinstance(value, Tensor)}


def labels_of(family: str, task: str, n_rows: int = 3) -> dict[str, Tensor]:
    """Labels that are classes of every tiny model."""
    rows, tokens = torch.zeros(n_rows).long(), torch.ones(n_rows, 4).long()
    if task == "ForQuestionAnswering":
        return {"start_positions": rows, "end_positions": rows}
    if task in ("ForMaskedLM", "ForTokenClassification", "LMHeadModel"):
        return {"labels": tokens}
    if task == "ForPreTraining":
        second = {"Bert": "next_sentence_label", "Ernie": "next_sentence_label"} | {
            "Albert": "sentence_order_label"
        }
        return {"labels": tokens} | ({second[family]: rows} if family in second else {})
    return {"labels": rows}


def embeds_of(model: Any, ids: Tensor = IDS) -> Tensor:
    """Embeds of a batch: any numbers of the width that this family takes."""
    width = Family.width_of_embeds(model.config)
    return torch.randn(*ids.shape, width, dtype=torch.float64)


# What is refused


def refused(model: Any, task: str, match: str, **arguments: Any) -> None:
    with pytest.raises(offramp.InputError, match=match):
        call(model, task, **arguments)


@of_a_class
@pytest.mark.parametrize("wrong", [-1, 20, 2**40])
def test_an_id_outside_the_vocabulary(family: str, task: str, wrong: int) -> None:
    ids = IDS.clone()
    ids[1, 2] = wrong
    refused(build(family, task), task, rf"input_ids holds {wrong}; .* 0 to 19", input_ids=ids)


@of_a_class
def test_ids_of_a_second_table(family: str, task: str) -> None:
    model = build(family, task)
    tables = {"token_type_ids": FAMILIES[family].token_types, "task_type_ids": family == "Ernie"}
    for name, there in tables.items():
        if there:
            refused(model, task, f"{name} holds 9", input_ids=IDS, **{name: IDS * 0 + 9})
            refused(model, task, f"{name} must be int", input_ids=IDS, **{name: IDS * 1.0})
            refused(
                model, task, rf"{name} must be \[3, (1, )?4\]", input_ids=IDS, **{name: IDS[:2]}
            )
    last = model.config.max_position_embeddings
    for wrong in (-1, last):
        refused(model, task, "position_ids", input_ids=IDS, position_ids=IDS * 0 + wrong)
    call(model, task, input_ids=IDS, position_ids=IDS * 0 + last - 1)


@of_a_class
def test_task_types_where_there_are_none(family: str, task: str) -> None:
    model = build(family, task, **({"use_task_id": False} if family == "Ernie" else {}))
    refused(model, task, "has no task types", input_ids=IDS, task_type_ids=IDS * 0)


@of_a_class
def test_a_row_past_the_positions(family: str, task: str) -> None:
    model = build(family, task)
    longest = FAMILIES[family].longest(model.config)
    assert longest == 10, "whatever the numbering: all tiny models take as many"
    fits, over = torch.full((2, 10), 5), torch.full((2, 11), 5)
    call(model, task, input_ids=fits)
    call(model, task, inputs_embeds=embeds_of(model, fits))
    told = r"\b11 tokens.*\b10\b"
    refused(model, task, told, input_ids=over)
    refused(model, task, told, inputs_embeds=embeds_of(model, over))
    # Masked tokens have no positions to look up where a row's real ones fit.
    mask = torch.ones(2, 11).long()
    mask[:, 10] = 0
    found = call(model, task, input_ids=over, attention_mask=mask)
    assert all(torch.isfinite(value).all() for value in results(found).values())


@of_a_class
def test_masks_of_another_shape(family: str, task: str) -> None:
    model = build(family, task)
    for shape in [(3, 5), (2, 4), (3, 4, 5), (3, 1, 4), (3, 4, 4, 1)]:
        refused(model, task, "attention_mask", input_ids=IDS, attention_mask=torch.ones(shape))
    with pytest.raises(offramp.InputError):
        model(input_ids=IDS, attention_mask=torch.ones(4))


@of_a_class
def test_what_a_batch_is_given_as(family: str, task: str) -> None:
    model = build(family, task)
    embeds = embeds_of(model)
    for both in ({}, {"input_ids": IDS, "inputs_embeds": embeds}):
        with pytest.raises(offramp.InputError):
            call(model, task, **both)
    refused(model, task, "input_ids must be int", input_ids=IDS.float())
    refused(model, task, "input_ids must be int", input_ids=IDS.bool())
    width = embeds.shape[-1]
    for other in (embeds[..., 1:], torch.cat([embeds, embeds], -1)):
        refused(model, task, rf"width {other.shape[-1]}.*\b{width}\b", inputs_embeds=other)
    refused(model, task, "float32.*float64", inputs_embeds=embeds.float())
    for shape in [(4,), (3, 4, 1, 1)]:
        with pytest.raises(offramp.InputError):
            model(input_ids=torch.ones(shape).long())


@pytest.mark.parametrize(("family", "task"), LABELLED)
def test_labels_that_are_none(family: str, task: str) -> None:
    model, labels = build(family, task), labels_of(family, task)
    assert call(model, task, input_ids=IDS, **labels).loss.dim() == 0
    for name, value in labels.items():
        wrongs: list[Tensor] = [value[:2], value[..., None].expand(*value.shape, 2)]
        if task != "ForQuestionAnswering":  # a place outside the row was cut off
            wrongs += [value * 0 + 99, value * 0 - 1]
        if (family, task) != ("Electra", "ForPreTraining"):  # whose flags may be numbers
            wrongs.append(value * 1.0)
        for wrong in wrongs:
            with pytest.raises(offramp.InputError):
                call(model, task, input_ids=IDS, **labels | {name: wrong})


# What is defined


@of_a_class
@pytest.mark.parametrize("looked_into", [False, True])
def test_a_row_that_is_all_masked(family: str, task: str, looked_into: bool) -> None:
    model = build(family, task)
    mask = RAGGED.clone()
    mask[1] = 0
    look = {"output_hidden_states": looked_into, "output_attentions": looked_into}
    found = call(model, task, input_ids=IDS, attention_mask=mask, **look)
    alone = call(model, task, input_ids=IDS[[0, 2]], attention_mask=mask[[0, 2]])
    for name, value in results(found).items():
        assert torch.isfinite(value).all(), name
        torch.testing.assert_close(value[[0, 2]], alone[name], **NEAR)
    for value in (*tokens_of(family, task, found).values(), *(found.hidden_states or ())):
        assert not value[1].any()
    for value in found.attentions or ():
        assert torch.isfinite(value).all()
    none = call(model, task, input_ids=IDS, attention_mask=mask * 0)
    for value in results(none).values():
        assert torch.isfinite(value).all()
    for value in tokens_of(family, task, none).values():
        assert not value.any()


@of_a_class
def test_gradients_of_a_row_that_is_all_masked(family: str, task: str) -> None:
    model = build(family, task)
    mask = RAGGED * torch.tensor([[1], [0], [1]])
    found = results(call(model, task, input_ids=IDS, attention_mask=mask))
    sum(x.masked_fill(x == LOWEST, 0).sum() for x in found.values()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name


@of_a_class
def test_batches_of_few(family: str, task: str) -> None:
    model = build(family, task)
    whole = results(call(model, task, input_ids=IDS))
    empty = results(call(model, task, input_ids=IDS[:0], attention_mask=RAGGED[:0]))
    assert {name: (0, *x.shape[1:]) for name, x in whole.items()} == {
        name: tuple(x.shape) for name, x in empty.items()
    }
    for row in range(3):
        one = results(call(model, task, input_ids=IDS[row : row + 1]))
        for name, value in one.items():
            torch.testing.assert_close(value[0], whole[name][row], **NEAR)
    single = call(model, task, input_ids=IDS[:, :1], attention_mask=RAGGED[:, :1])
    for name, value in results(single).items():
        assert torch.isfinite(value).all(), name
    for value in tokens_of(family, task, single).values():
        assert value.shape[:2] == (3, 1)


@of_a_class
@pytest.mark.parametrize("padding", [0, 1, 19])
def test_a_padded_row_is_the_row_alone(family: str, task: str, padding: int) -> None:
    """Whatever id lies at masked positions, the family's own padding or another."""
    model = build(family, task)
    given: dict[str, Tensor] = {"input_ids": torch.where(RAGGED == 1, IDS, padding)}
    if FAMILIES[family].token_types:
        given["token_type_ids"] = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 0], [1, 0, 0, 0]])
    if family == "Ernie":
        given["task_type_ids"] = torch.tensor([[0, 1, 2, 2], [2, 1, 0, 0], [1, 1, 1, 1]])
    together = call(model, task, attention_mask=RAGGED, **given)
    per_token = tokens_of(family, task, together).keys() | {"start_logits", "end_logits"}
    for row, length in enumerate(RAGGED.sum(1).tolist()):
        alone = call(model, task, **{name: x[row : row + 1, :length] for name, x in given.items()})
        for name, value in results(alone).items():
            found = together[name][row]
            found = found[:length] if name in per_token else found
            torch.testing.assert_close(found, value[0], **NEAR)


@of_a_class
def test_masked_positions_are_zeros(family: str, task: str) -> None:
    model = build(family, task)
    mask = torch.tensor([[1, 0, 1, 1], [0, 1, 1, 0], [1, 0, 0, 0]])
    for look in (False, True):
        found = call(
            model,
            task,
            input_ids=IDS,
            attention_mask=mask,
            output_hidden_states=look,
        )
        for value in (*tokens_of(family, task, found).values(), *(found.hidden_states or ())):
            assert not value[mask == 0].any()
            assert value[mask == 1].any()
        for name in {"start_logits", "end_logits"} & found.keys():
            assert (found[name][mask == 0] == LOWEST).all()


@of_a_class
def test_a_tuple_is_what_is_not_none(family: str, task: str) -> None:
    model = build(family, task)
    output = call(model, task, input_ids=IDS)
    listed = call(model, task, input_ids=IDS, return_dict=False)
    assert isinstance(listed, tuple)
    for one, two in zip(output, listed, strict=True):
        assert torch.equal(one, two)


# Files


@of_a_class
@pytest.mark.parametrize("tied", [True, False])
def test_the_names_are_transformers(family: str, task: str, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    ours = build(family, task, tie_word_embeddings=tied)
    kind = getattr(transformers, family + task)
    labels = ours.config.num_labels
    values = FAMILIES[family].tiny | {"tie_word_embeddings": tied, "num_labels": labels}
    theirs = kind(kind.config_class(**values))
    shapes = {name: tuple(x.shape) for name, x in theirs.state_dict().items()}
    assert {name: tuple(x.shape) for name, x in ours.state_dict().items()} == shapes
    learned = {name for name, _ in theirs.named_parameters(remove_duplicate=False)}
    assert {name for name, _ in ours.named_parameters(remove_duplicate=False)} == learned


@of_a_class
def test_files_are_written_as_they_were_read(family: str, task: str, tmp_path: Path) -> None:
    """From transformers' own files: the same tensors under the same names, and nothing else."""
    kind = getattr(offramp, family + task)
    model, report = kind.from_pretrained(GOLDEN / kind.__name__, output_loading_info=True)
    assert not report.initialised
    assert not report.dropped
    model.save_pretrained(tmp_path)
    before = load_file(GOLDEN / kind.__name__ / "model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    assert after.keys() == before.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    again = kind.from_pretrained(tmp_path)
    one, two = (results(call(each, task, input_ids=IDS)) for each in (model, again))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, **NEAR)


@of_a_class
def test_transformers_takes_what_is_saved(family: str, task: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model = build(family, task)
    model.save_pretrained(tmp_path)
    theirs, info = getattr(transformers, family + task).from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    expected = call(theirs.eval(), task, input_ids=IDS)
    for name, value in results(call(model, task, input_ids=IDS)).items():
        torch.testing.assert_close(value, expected[name], **NEAR)


AUTO = {
    "Model": "AutoModel",
    **{task: f"AutoModel{task}" for _, task in CLASSES if task != "Model"},
    "LMHeadModel": "AutoModelForCausalLM",
}


@of_a_class
def test_auto_classes_find_the_class(family: str, task: str) -> None:
    name = family + task
    model = getattr(offramp, AUTO[task]).from_pretrained(GOLDEN / name)
    assert type(model) is getattr(offramp, name)
    config = offramp.AutoConfig.from_pretrained(GOLDEN / name)
    assert type(config) is getattr(offramp, f"{family}Config")
    assert registry.FAMILIES[config.model_type].classes == family


@of_a_family
def test_a_body_s_file_opens_as_a_task_and_back(family: str, tmp_path: Path) -> None:
    body = build(family, "Model")
    body.save_pretrained(tmp_path / "body")
    kind = getattr(offramp, f"{family}ForTokenClassification")
    with pytest.warns(offramp.NewWeightsWarning):
        task = kind.from_pretrained(tmp_path / "body")
    hidden = task.base_model(input_ids=IDS).last_hidden_state
    torch.testing.assert_close(hidden, body(input_ids=IDS).last_hidden_state, **NEAR)
    task.save_pretrained(tmp_path / "task")
    again = load_file(tmp_path / "task" / "model.safetensors")
    prefix = f"{body.base_model_prefix}."
    for name, tensor in task.base_model.state_dict().items():
        assert torch.equal(again[prefix + name], tensor), name


# Changes


def n_attentions(family: str) -> int:
    """How many attentions there are to prune: ALBERT's are shared by layers."""
    tiny = FAMILIES[family].tiny
    shared = tiny.get("num_hidden_groups")
    if shared is not None:
        return int(shared)
    names = ("num_hidden_layers", "n_layers", "n_layer")
    return int(next(tiny[name] for name in names if name in tiny))


@of_a_family
def test_pruning_is_a_mask_of_zeros(family: str, tmp_path: Path) -> None:
    model = build(family, "ForSequenceClassification")
    given = {"input_ids": IDS, "attention_mask": RAGGED}
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    expected = model(**given, head_mask=mask).logits
    assert not torch.allclose(model(**given).logits, expected)
    sizes = sum(parameter.numel() for parameter in model.parameters())
    model.prune_heads({layer: [1, 3] for layer in range(n_attentions(family))})
    assert sum(parameter.numel() for parameter in model.parameters()) < sizes
    torch.testing.assert_close(model(**given).logits, expected, **NEAR)
    assert model(**given, output_attentions=True).attentions[-1].shape[1] == 2
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(again(**given).logits, expected, **NEAR)
    with pytest.raises(offramp.ConfigError):
        model.prune_heads({0: [0, 2]})
    with pytest.raises(offramp.ConfigError):
        model.prune_heads({n_attentions(family): [0]})


@of_a_family
def test_words_come_and_go(family: str, tmp_path: Path) -> None:
    words = "ForMaskedLM" if (family, "ForMaskedLM") in MODELS else "LMHeadModel"
    model = build(family, words)
    before = model(input_ids=IDS).logits
    model.resize_token_embeddings(25)
    after = model(input_ids=IDS).logits
    assert (model.config.vocab_size, after.shape[-1]) == (25, 25)
    torch.testing.assert_close(after[..., :20], before, **NEAR)
    model(input_ids=IDS * 0 + 24)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(again(input_ids=IDS).logits, after, **NEAR)
    model.resize_token_embeddings(12)
    torch.testing.assert_close(model(input_ids=IDS).logits, before[..., :12], **NEAR)
    refused(model, words, "0 to 11", input_ids=IDS * 0 + 12)


@of_a_family
def test_positions_come_and_go(family: str, tmp_path: Path) -> None:
    model = build(family, "Model")
    longer = torch.full((2, 13), 5)
    before = model(input_ids=longer[:, :10]).last_hidden_state
    model.resize_position_embeddings(model.config.max_position_embeddings + 3)
    assert FAMILIES[family].longest(model.config) == 13
    torch.testing.assert_close(model(input_ids=longer[:, :10]).last_hidden_state, before, **NEAR)
    found = model(input_ids=longer).last_hidden_state
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(again(input_ids=longer).last_hidden_state, found, **NEAR)
    refused(model, "Model", r"\b13\b", input_ids=torch.full((1, 14), 5))
    model.resize_position_embeddings(model.config.max_position_embeddings - 6)
    model(input_ids=longer[:, :7])
    refused(model, "Model", r"\b7\b", input_ids=longer[:, :8])


@pytest.mark.parametrize(("family", "task"), WORDED)
def test_the_word_head_is_the_embedding(family: str, task: str, tmp_path: Path) -> None:
    tied = build(family, task)
    words = tied.get_input_embeddings().weight
    assert tied.get_output_embeddings().weight is words
    tied.save_pretrained(tmp_path / "tied")
    again = type(tied).from_pretrained(tmp_path / "tied")
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    apart = build(family, task, tie_word_embeddings=False)
    assert apart.get_output_embeddings().weight is not apart.get_input_embeddings().weight
    apart.save_pretrained(tmp_path / "apart")
    more = load_file(tmp_path / "apart" / "model.safetensors").keys()
    assert more > load_file(tmp_path / "tied" / "model.safetensors").keys()
    again = type(tied).from_pretrained(tmp_path / "apart")
    for name, value in apart.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@of_a_class
def test_gradient_checkpointing_changes_no_gradient(family: str, task: str) -> None:
    model = build(family, task).train()
    passes: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, CheckpointedLayer):
            module.register_forward_pre_hook(lambda module, *_: passes.append(module))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0

    def gradients() -> dict[str, Tensor | None]:
        model.zero_grad()
        output = results(call(model, task, input_ids=IDS, attention_mask=RAGGED))
        sum(x.masked_fill(x == LOWEST, 0).square().sum() for x in output.values()).backward()
        return {name: p.grad for name, p in model.named_parameters()}

    expected, plain = gradients(), len(passes)
    model.gradient_checkpointing_enable()
    passes.clear()
    found = gradients()
    assert len(passes) == 2 * plain > 0, "each layer is computed again"
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert (found[name] is None) == (gradient is None), name
        if gradient is not None:
            torch.testing.assert_close(found[name], gradient, **NEAR)


# Exits and the runner

ROWS = [
    [2, 5, 7, 3, 9],
    [4, 6, 2],
    [8],
    [2, 1, 7, 1],
    [5, 5, 5, 5, 5, 5, 5, 5, 5, 5],
    [9, 0, 3],
] * 3
"""Rows as they are encoded, padding tokens of some families among their own."""


def encoded(family: str) -> list[offramp.Encoded]:
    n_types = 2 if FAMILIES[family].token_types else 1
    return [offramp.Encoded(np.array(row), np.arange(len(row)) % n_types) for row in ROWS]


def as_batch(family: str, row: offramp.Encoded) -> dict[str, Tensor]:
    given = {"input_ids": torch.from_numpy(row.ids)[None]}
    if FAMILIES[family].token_types:
        given["token_type_ids"] = torch.from_numpy(row.types)[None]
    return given


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_the_runner_without_exits_is_forward(family: str) -> None:
    model = build(family, "ForSequenceClassification")
    rows = encoded(family)
    expected = torch.cat([model(**as_batch(family, row)).logits for row in rows])
    for size in (1, 7, 1024):
        found = offramp.Runner(model, exits=False, microbatch_tokens=size).run(rows)
        torch.testing.assert_close(found.logits_RC, expected, **NEAR)
        assert set(found.exit_layers_R.tolist()) == {model.stack.n_layers}


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_batched_is_one_by_one(family: str) -> None:
    model = offramp.add_exits(build(family, "ForSequenceClassification"))
    rows = encoded(family)
    first = offramp.Runner(model, depth=1).run(rows).logits_RC.softmax(-1)
    entropies = (-(first * first.log()).sum(-1)).unique().tolist()
    below, above = max(pairwise(entropies), key=lambda pair: pair[1] - pair[0])
    criterion = offramp.Entropy((below + above) / 2)
    runner = offramp.Runner(model, criterion=criterion, microbatch_tokens=11)
    together = runner.run(rows)
    assert len(set(together.exit_layers_R.tolist())) > 1, "some rows leave at once, others later"
    for place, row in enumerate(rows):
        alone = runner.run([row])
        assert alone.exit_layers_R[0] == together.exit_layers_R[place]
        torch.testing.assert_close(alone.logits_RC[0], together.logits_RC[place], **NEAR)


@pytest.mark.parametrize("family", CLASSIFIERS)
def test_a_ramp_reads_what_forward_shows(family: str, tmp_path: Path) -> None:
    """And exits travel with the model, beside which no other tensor has another name."""
    model = offramp.add_exits(build(family, "ForSequenceClassification"))
    plain = {name for name in model.state_dict() if not name.startswith("exits.")}
    assert plain == build(family, "ForSequenceClassification").state_dict().keys()
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    rows = encoded(family)
    for depth in range(1, model.stack.n_layers + 1):
        one = offramp.Runner(model, depth=depth).run(rows).logits_RC
        two = offramp.Runner(again, depth=depth).run(rows).logits_RC
        torch.testing.assert_close(one, two, **NEAR)
        for row, logits_C in zip(rows, one, strict=True):
            output = model(**as_batch(family, row), output_hidden_states=True)
            if depth == model.stack.n_layers:
                expected = output.logits
            else:
                expected = read_by(model, depth, output.hidden_states[depth])
            torch.testing.assert_close(logits_C, expected[0], **NEAR)


def read_by(model: Any, depth: int, hidden: Tensor) -> Tensor:
    """What the ramp after so many layers makes of one row's hidden states, [1, L, D]."""
    length = hidden.shape[1]
    flow = Flow(hidden, Padded(1, length, None), torch.arange(1), torch.arange(length)[None])
    logits: Tensor = model.exits.ramp(depth)(model.stack.finish(flow))
    return logits
