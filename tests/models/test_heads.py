"""Every BERT class against transformers' own: outputs, hidden states, losses, gradients, files."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny import IDS, TINY
from torch import Tensor

import offramp
from offramp import CheckpointError, ConfigError, InputError
from offramp.checkpoints.safetensors_file import read_safetensors

CLASSES = (
    "BertModel",
    "BertForSequenceClassification",
    "BertForTokenClassification",
    "BertForMultipleChoice",
    "BertForQuestionAnswering",
    "BertForMaskedLM",
    "BertForNextSentencePrediction",
    "BertForPreTraining",
)
PER_TOKEN = {
    "last_hidden_state",
    "hidden_states",
    "prediction_logits",
    "start_logits",
    "end_logits",
}
TOLERANCE: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


def configuration(seed: int, name: str) -> dict[str, Any]:
    pick = random.Random(seed)
    heads = pick.choice([1, 2, 3])
    return {
        "vocab_size": pick.choice([17, 40]),
        "hidden_size": heads * pick.choice([4, 6]),
        "num_hidden_layers": pick.choice([1, 2, 4]),
        "num_attention_heads": heads,
        "intermediate_size": pick.choice([8, 20]),
        "hidden_act": pick.choice(["gelu", "relu", "gelu_new", "silu"]),
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "max_position_embeddings": 16,
        "type_vocab_size": pick.choice([1, 2]),
        "layer_norm_eps": pick.choice([1e-12, 1e-5]),
        "initializer_range": 0.3,
        "num_labels": 2 if name == "BertForQuestionAnswering" else pick.choice([2, 3, 5]),
        "tie_word_embeddings": pick.choice([True, False]),
        "pad_token_id": pick.choice([0, 3]),
    }


def pair(name: str, seed: int, folder: Path) -> tuple[Any, Any]:
    """transformers' model with random weights, and ours of the directory that it saved."""
    torch.manual_seed(seed)
    reference = getattr(transformers, name)(
        transformers.BertConfig(**configuration(seed, name))
    ).eval()
    for parameter in reference.parameters():  # biases and norms too, which start alike
        parameter.data += 0.1 * torch.randn_like(parameter)
    reference.save_pretrained(folder)
    return reference, getattr(offramp, name).from_pretrained(folder)


def batch(name: str, config: Any, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 2, 7) if name == "BertForMultipleChoice" else (3, 7)

    def whole(high: int, *size: int) -> Tensor:
        return torch.randint(high, size, generator=generator)

    mask = torch.ones(shape, dtype=torch.int64)
    mask[0, ..., 4:] = 0
    mask[2, ..., 6:] = 0
    inputs = {
        "input_ids": whole(config.vocab_size, *shape),
        "attention_mask": mask,
        "token_type_ids": whole(config.type_vocab_size, *shape),
    }
    if name == "BertForSequenceClassification":
        inputs["labels"] = whole(config.num_labels, 3)
    if name == "BertForMultipleChoice":
        inputs["labels"] = whole(2, 3)
    if name == "BertForNextSentencePrediction":
        inputs["labels"] = whole(2, 3)
    if name == "BertForTokenClassification":
        inputs["labels"] = whole(config.num_labels, 3, 7).masked_fill(mask == 0, -100)
    if name in ("BertForMaskedLM", "BertForPreTraining"):
        inputs["labels"] = whole(config.vocab_size, 3, 7).masked_fill(mask == 0, -100)
    if name == "BertForPreTraining":
        inputs["next_sentence_label"] = whole(2, 3)
    if name == "BertForQuestionAnswering":  # the second answer was cut off
        inputs["start_positions"] = torch.tensor([1, 9, 3])
        inputs["end_positions"] = torch.tensor([2, 9, 5])
    return inputs


def assert_same(ours: Any, theirs: Any, inputs: dict[str, Tensor], name: str) -> None:
    real = inputs["attention_mask"].bool().flatten(0, -2)
    per_token = PER_TOKEN | (
        {"logits"} if name in ("BertForMaskedLM", "BertForTokenClassification") else set()
    )
    for field, expected in theirs.items():
        found = ours[field]
        pieces = (
            zip(found, expected, strict=True)
            if isinstance(expected, tuple)
            else [(found, expected)]
        )
        for one, two in pieces:
            if field in per_token:
                one, two = one[real], two[real]
            torch.testing.assert_close(one, two, **TOLERANCE)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", CLASSES)
def test_outputs_hidden_states_loss_and_gradients(name: str, seed: int, tmp_path: Path) -> None:
    reference, model = pair(name, seed, tmp_path)
    inputs = batch(name, reference.config, seed)
    if name == "BertForQuestionAnswering":
        # transformers normalises over masked positions too; padded rows have no common loss.
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    theirs = reference(**inputs, output_hidden_states=True)
    ours = model(**inputs, output_hidden_states=True)
    assert_same(ours, theirs, inputs, name)
    if name == "BertModel":
        return
    theirs.loss.backward()
    ours.loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters()}
    for parameter, expected in reference.named_parameters():
        if expected.grad is not None:
            torch.testing.assert_close(
                gradients[parameter], expected.grad, atol=1e-5, rtol=1e-4, msg=parameter
            )
        else:
            assert gradients[parameter] is None or not gradients[parameter].any()


@pytest.mark.parametrize("name", CLASSES)
def test_our_files_are_transformers_files(name: str, tmp_path: Path) -> None:
    reference, model = pair(name, 1, tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    again, info = getattr(transformers, name).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    for (key, one), two in zip(
        reference.state_dict().items(), again.state_dict().values(), strict=True
    ):
        assert torch.equal(one, two), key


@pytest.mark.parametrize("name", CLASSES)
def test_tuples_and_masked_positions(name: str, tmp_path: Path) -> None:
    _, model = pair(name, 2, tmp_path)
    inputs = batch(name, model.config, 2)
    output = model(**inputs)
    assert all(
        torch.equal(one, two)
        for one, two in zip(output, model(**inputs, return_dict=False), strict=True)
    )
    assert type(model(**inputs, return_dict=None)) is type(output)
    masked = ~inputs["attention_mask"].bool().flatten(0, -2)
    if name in ("BertForMaskedLM", "BertForTokenClassification"):
        assert not output.logits[masked].any()


def test_a_tie_is_one_tensor_saved_once(tmp_path: Path) -> None:
    config = offramp.BertConfig(
        **configuration(5, "BertForMaskedLM") | {"tie_word_embeddings": True}
    )
    tied = offramp.BertForMaskedLM(config)
    words = tied.get_input_embeddings().weight
    assert tied.get_output_embeddings().weight is words
    assert tied.cls["predictions"].bias is tied.get_output_embeddings().bias
    tied.save_pretrained(tmp_path / "tied")
    again = offramp.BertForMaskedLM.from_pretrained(tmp_path / "tied")
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight
    tensors = read_safetensors(tmp_path / "tied/model.safetensors")
    assert "cls.predictions.decoder.weight" not in tensors
    apart = offramp.BertForMaskedLM(
        offramp.BertConfig(**configuration(5, "BertForMaskedLM") | {"tie_word_embeddings": False})
    )
    assert apart.get_output_embeddings().weight is not apart.get_input_embeddings().weight


def test_twins_in_a_file_must_be_equal(tmp_path: Path) -> None:
    config = offramp.BertConfig(
        **configuration(6, "BertForMaskedLM") | {"tie_word_embeddings": False}
    )
    apart = offramp.BertForMaskedLM(config)
    apart.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="tie_word_embeddings=False"):
        offramp.BertForMaskedLM.from_pretrained(tmp_path, tie_word_embeddings=True)
    with torch.no_grad():
        apart.get_output_embeddings().weight.copy_(apart.get_input_embeddings().weight)
        apart.get_output_embeddings().bias.copy_(apart.cls["predictions"].bias)
    apart.save_pretrained(tmp_path)
    _, report = offramp.BertForMaskedLM.from_pretrained(
        tmp_path, tie_word_embeddings=True, output_loading_info=True
    )
    assert set(report.dropped) == set(report.twins)
    assert len(report.twins) == 2


def test_a_pretraining_file_opens_as_each_class_and_back(tmp_path: Path) -> None:
    config = offramp.BertConfig(**configuration(7, "BertForPreTraining"))
    offramp.BertForPreTraining(config).save_pretrained(tmp_path / "both")
    words, report = offramp.BertForMaskedLM.from_pretrained(
        tmp_path / "both", output_loading_info=True
    )
    assert {name.split(".")[1] for name in report.dropped} == {"seq_relationship", "pooler"}
    assert not report.initialised
    words.save_pretrained(tmp_path / "words")
    with pytest.warns(offramp.NewWeightsWarning):
        _, report = offramp.BertForPreTraining.from_pretrained(
            tmp_path / "words", output_loading_info=True
        )
    assert {name.split(".")[1] for name in report.initialised} == {"seq_relationship", "pooler"}


def test_wrong_shapes_are_explained(tmp_path: Path) -> None:
    choice = offramp.BertForMultipleChoice(offramp.BertConfig(**configuration(1, "")))
    with pytest.raises(InputError, match="choices"):
        choice(torch.ones(2, 5, dtype=torch.int64))
    answer = offramp.BertForQuestionAnswering(
        offramp.BertConfig(**configuration(1, "") | {"num_labels": 3})
    )
    with pytest.raises(ConfigError, match="num_labels=3"):
        answer(torch.ones(2, 5, dtype=torch.int64))
    tokens = offramp.BertForTokenClassification(offramp.BertConfig(**configuration(1, "")))
    with pytest.raises(InputError, match="one a token"):
        tokens(torch.ones(2, 5, dtype=torch.int64), labels=torch.ones(2, dtype=torch.int64))


def test_config_keeps_the_tie(tmp_path: Path) -> None:
    _, model = pair("BertForMaskedLM", 1, tmp_path)
    values = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert model.config.tie_word_embeddings == values["tie_word_embeddings"]


@pytest.mark.parametrize("padding", [0, 1, 6])
@pytest.mark.parametrize("left", [True, False])
def test_an_answer_is_never_padding_and_the_loss_never_counts_it(padding: int, left: bool) -> None:
    """transformers' softmax runs over masked positions too, so that its loss grows with padding."""
    torch.manual_seed(0)
    model = offramp.BertForQuestionAnswering(offramp.BertConfig(**TINY)).eval()
    torch.nn.init.constant_(model.qa_outputs.bias, -5.0)
    alone = model(IDS[:1], start_positions=torch.tensor([1]), end_positions=torch.tensor([3]))
    pads = torch.zeros(1, padding, dtype=torch.int64)
    sides = (pads, IDS[:1]) if left else (IDS[:1], pads)
    ids = torch.cat(sides, 1)
    mask = torch.cat([torch.ones_like(side) * (side is not pads) for side in sides], 1)
    places = torch.arange(4) if not left else torch.arange(4) + padding
    position_ids = torch.zeros_like(ids).index_copy(1, places, torch.arange(4)[None])
    found = model(
        ids,
        mask,
        position_ids=position_ids,
        start_positions=places[1:2],
        end_positions=places[3:4],
    )
    torch.testing.assert_close(found.loss, alone.loss)
    assert int(found.start_logits.argmax()) in places.tolist()
    hidden = [place for place in range(4 + padding) if place not in places.tolist()]
    for at in (*hidden, -1, 99):  # no place of the row's: not counted
        rest = model(
            ids.repeat(2, 1),
            mask.repeat(2, 1),
            position_ids=position_ids.repeat(2, 1),
            start_positions=torch.tensor([int(places[1]), at]),
            end_positions=torch.tensor([int(places[3]), at]),
        )
        torch.testing.assert_close(rest.loss, alone.loss)
