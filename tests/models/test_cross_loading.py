"""Any class of a family from any other's file: the body is the file's, or nothing is loaded."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from parity_families import CLASSES, FAMILIES
from tiny import IDS, MASK
from torch import Tensor

import offramp

TASKS = {family: [task for own, task in CLASSES if own == family] for family in FAMILIES}


def made(family: str, task: str) -> Any:
    config = getattr(offramp, f"{family}Config")(**FAMILIES[family].tiny | {"num_labels": 2})
    return getattr(offramp, family + task)(config).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_body_is_the_file_s(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    for task in TASKS[family]:
        made(family, task).save_pretrained(tmp_path / task)
    for source, task in itertools.product(TASKS[family], repeat=2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", offramp.NewWeightsWarning)
            kind = getattr(offramp, family + task)
            try:
                model, report = kind.from_pretrained(tmp_path / source, output_loading_info=True)
            except offramp.CheckpointError as error:  # another head of the same name
                assert "classifier" in str(error)
                assert "Model" not in (source, task)
                continue
        with torch.no_grad():
            expected = getattr(offramp, family + source).from_pretrained(tmp_path / source)
        found = model.base_model.state_dict()
        for name, tensor in expected.base_model.state_dict().items():
            if name in found and "pooler" not in name:
                assert torch.equal(found[name], tensor), f"{source} to {task}: {name}"
        new = {name.partition(".")[0] for name in report.initialised}
        assert not new & {"embeddings", "encoder", "transformer"}


@pytest.mark.parametrize("family", ["DistilBert", "Electra"])
def test_a_new_decoder_is_the_loaded_embedding(family: str, tmp_path: Path) -> None:
    """Its bias is new, and its weight is another module's."""
    body = made(family, "Model")
    body.save_pretrained(tmp_path)
    with pytest.warns(offramp.NewWeightsWarning):
        model = getattr(offramp, f"{family}ForMaskedLM").from_pretrained(tmp_path)
    words, decoder = model.get_input_embeddings().weight, model.get_output_embeddings()
    assert decoder.weight is words
    assert torch.equal(words, body.get_input_embeddings().weight)
    assert not decoder.bias.any()


@pytest.mark.parametrize("family", ["DistilBert", "MPNet", "Bert"])
def test_further_keys_of_a_file_make_no_network(family: str, tmp_path: Path) -> None:
    model = made(family, "Model")
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    further = {"type_vocab_size": 2, "use_task_id": True, "task_type_vocab_size": 3}
    path.write_text(json.dumps({**further, **values}), encoding="utf-8")
    again = getattr(offramp, f"{family}Model").from_pretrained(tmp_path)
    expected, found = (m(IDS + 2, MASK).last_hidden_state for m in (model, again))
    torch.testing.assert_close(found, expected)
    with pytest.raises(offramp.InputError, match="no task types"):
        again(IDS + 2, MASK, task_type_ids=torch.ones_like(IDS))


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_without_tokens_are_refused(family: str) -> None:
    for task in TASKS[family]:
        shape = (2, 3, 0) if task == "ForMultipleChoice" else (2, 0)
        with pytest.raises(offramp.InputError, match="without a token"):
            made(family, task)(torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize(
    "argument",
    [
        {"attention_mask": torch.ones(2, 5)},
        {"attention_mask": torch.ones(4, 2, 5)},
        {"position_ids": torch.arange(5)},
        {"token_type_ids": torch.zeros(2, 3, 5, dtype=torch.int64)},
    ],
)
def test_arguments_of_other_choices_are_refused(argument: dict[str, Tensor]) -> None:
    ids = torch.full((2, 4, 5), 3)
    with pytest.raises(offramp.InputError, match="with the choices as the second dimension"):
        made("Bert", "ForMultipleChoice")(ids, **argument)


def test_what_a_class_says_decides_among_families_of_one_prefix(tmp_path: Path) -> None:
    made("XLMRoberta", "ForMaskedLM").save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    del values["model_type"]
    path.write_text(json.dumps(values), encoding="utf-8")
    assert isinstance(
        offramp.AutoModelForMaskedLM.from_pretrained(tmp_path), offramp.XLMRobertaForMaskedLM
    )
    made("Bert", "Model").save_pretrained(tmp_path / "bert")
    path = tmp_path / "bert" / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | {"model_type": ["bert"]}
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(offramp.OfframpError):
        offramp.AutoModel.from_pretrained(tmp_path / "bert")


class ReadsAll(offramp.BertForSequenceClassification):
    """An answer of one's own, which reads more than first tokens."""

    def answer(self, passed: Any, labels: Tensor | None) -> Any:
        logits = passed.tokens(passed.flow.hidden).sum((1, 2))[:, None]
        return offramp.models.outputs.SequenceClassifierOutput(None, logits)


def test_an_answer_of_one_s_own_reads_all_tokens() -> None:
    model = ReadsAll(offramp.BertConfig(**FAMILIES["Bert"].tiny)).eval()
    whole = model(IDS, MASK, output_hidden_states=True).logits
    torch.testing.assert_close(model(IDS, MASK).logits, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("hook", ["register_forward_pre_hook", "register_full_backward_hook"])
def test_other_hooks_see_all_tokens_too(hook: str) -> None:
    model = made("Bert", "ForSequenceClassification")
    seen: list[tuple[int, ...]] = []
    layer = model.bert.encoder.layer[-1]
    getattr(layer.output, hook)(lambda module, *args: seen.append(tuple(args[0][0].shape)))
    model(IDS, MASK).logits.sum().backward()
    assert seen[0][0] == int(MASK.sum())


@pytest.mark.parametrize("family", ["DistilBert", "Electra"])
def test_a_body_without_pooler_goes_to_transformers(family: str) -> None:
    model = made(family, "Model")
    theirs = offramp.to_transformers(model)
    expected = theirs.eval()(IDS + 2, MASK).last_hidden_state[MASK.bool()]
    found = model(IDS + 2, MASK).last_hidden_state[MASK.bool()]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
