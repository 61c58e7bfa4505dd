"""LoRA by PEFT: trained, merged, saved and loaded; packed rows, padded rows and exits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exit_models import random_rows, tiny_config
from safetensors.torch import load_file
from small_task import STILL, batch, close
from torch import Tensor

import offramp
from offramp import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    ConfigError,
    Runner,
    add_exits,
    logits_by_depth,
)
from offramp.models.inputs import Inputs

transformers = pytest.importorskip("transformers", reason="compares with transformers")
peft = pytest.importorskip("peft", reason="needs peft, which offramp itself does not")

# PEFT 0.21 asks transformers' models by the name that transformers 5.23 gave up.
theirs_is_deprecated = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)
CLASSIFIER = peft.TaskType.SEQ_CLS


def base_model(**changes: Any) -> BertForSequenceClassification:
    return BertForSequenceClassification(tiny_config(**STILL | changes)).eval()


def with_lora(model: Any, task: Any = CLASSIFIER, **changes: Any) -> Any:
    settings = {"target_modules": ["query", "value"], "r": 4, "lora_alpha": 16, **changes}
    return peft.get_peft_model(model, peft.LoraConfig(task_type=task, **settings))


def train(model: Any, steps: int = 12) -> list[float]:
    """A few steps on what learns; returns the losses."""
    model.train()
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=0.02)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**batch()).loss
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses


def answers(model: Any, *, padded: bool = False) -> Tensor:
    """The first result, of rows or of real tokens. Masks [B, L] pack the rows, [B, L, L] do not."""
    ids, mask = batch()["input_ids"], batch()["attention_mask"]
    attention_mask = mask[:, None, :].expand(-1, mask.shape[1], -1) if padded else mask
    with torch.no_grad():
        first: Tensor = model(input_ids=ids, attention_mask=attention_mask, return_dict=False)[0]
    return first[mask.bool()] if first.shape[:2] == mask.shape else first


# A classifier


@pytest.mark.parametrize("checkpointing", [False, True])
def test_trained_merged_and_saved(checkpointing: bool, tmp_path: Path) -> None:
    base = base_model()
    original = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    before = answers(base)
    model = with_lora(base)
    assert torch.equal(answers(model), before)  # the second factor of a new adapter is 0
    if checkpointing:
        model.gradient_checkpointing_enable()
        assert base.is_gradient_checkpointing
    losses = train(model)
    assert losses[-1] < losses[0] / 2

    trained = answers(model)
    assert (trained - before).abs().max() > 0.1
    close(answers(model, padded=True), trained)
    with model.disable_adapter():
        assert torch.equal(answers(model), before)

    merged = model.merge_and_unload()
    assert merged is base
    close(answers(merged), trained)
    close(answers(merged, padded=True), trained)
    assert list(merged.state_dict()) == list(original)
    changed = {n for n, now in merged.state_dict().items() if not torch.equal(now, original[n])}
    of_layers = {
        f"bert.encoder.layer.{layer}.attention.self.{name}.weight"
        for layer in range(3)
        for name in ("query", "value")
    }
    assert changed == {*of_layers, "classifier.weight", "classifier.bias"}

    merged.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path, strict=True)
    torch.testing.assert_close(answers(again), answers(merged))
    reference = transformers.BertForSequenceClassification.from_pretrained(tmp_path)
    close(answers(reference), trained)


@theirs_is_deprecated
def test_losses_are_those_of_transformers_model_under_peft(tmp_path: Path) -> None:
    base_model().save_pretrained(tmp_path)
    ours = with_lora(BertForSequenceClassification.from_pretrained(tmp_path))
    theirs = with_lora(transformers.BertForSequenceClassification.from_pretrained(tmp_path))
    adapter = peft.get_peft_model_state_dict(ours)
    peft.set_peft_model_state_dict(theirs, adapter)
    assert adapter.keys() == peft.get_peft_model_state_dict(theirs).keys()
    for one, two in zip(train(ours), train(theirs), strict=True):
        assert one == pytest.approx(two, rel=1e-3)


@theirs_is_deprecated
def test_an_adapter_loads_onto_a_fresh_base(tmp_path: Path) -> None:
    base_model().save_pretrained(tmp_path / "base")
    model = with_lora(BertForSequenceClassification.from_pretrained(tmp_path / "base"))
    train(model)
    model.save_pretrained(tmp_path / "adapter")

    written = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert len(written) == 3 * 2 * 2 + 2  # layers x (query, value) x (A, B), and the classifier
    about = json.loads((tmp_path / "adapter/adapter_config.json").read_text("utf-8"))
    assert about["base_model_name_or_path"] == str(tmp_path / "base")

    fresh = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    torch.testing.assert_close(answers(again), answers(model))
    theirs = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "base")
    close(answers(peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter")), answers(model))


def test_checkpointing_gives_the_same_gradients() -> None:
    """With everything below the adapters frozen, and as transformers' recipes prepare for it."""
    model = with_lora(base_model()).train()
    base = model.get_base_model()
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    base.bert.encoder.layer[1].intermediate.register_forward_hook(count)
    gradients = []
    for on in (False, True):
        if on:
            model.gradient_checkpointing_enable()
            model.enable_input_require_grads()
        model.zero_grad()
        model(**batch()).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert calls == 3  # once, and once more in the backward pass
    assert gradients[0].keys() == gradients[1].keys()
    assert len(gradients[0]) == 3 * 2 * 2 + 2
    for name, one in gradients[0].items():
        torch.testing.assert_close(one, gradients[1][name])


def test_the_modules_of_a_bert_are_known_to_peft() -> None:
    model = with_lora(base_model(), target_modules=None)
    assert model.peft_config["default"].target_modules == {"query", "value"}


def test_a_resized_vocabulary_is_saved_beside_the_adapter(tmp_path: Path) -> None:
    base_model().save_pretrained(tmp_path / "base")

    def resized() -> BertForSequenceClassification:
        fresh = BertForSequenceClassification.from_pretrained(tmp_path / "base")
        fresh.resize_token_embeddings(25)
        return fresh

    model = with_lora(resized())
    with pytest.warns(UserWarning, match="embedding layer has been resized"):
        model.save_pretrained(tmp_path / "adapter")
    torch.manual_seed(7)
    again = peft.PeftModel.from_pretrained(resized(), tmp_path / "adapter")
    words = model.get_input_embeddings().weight
    assert torch.equal(again.get_input_embeddings().weight, words)
    assert len(words) == 25


def test_what_would_lose_the_adapter_is_refused(tmp_path: Path) -> None:
    model = with_lora(base_model())
    base = model.get_base_model()
    for whole in (base, base.bert):
        with pytest.raises(ConfigError, match=r"merge_and_unload\(\)"):
            whole.save_pretrained(tmp_path / "model")
        with pytest.raises(ConfigError, match=r"merge_and_unload\(\)"):
            whole.prune_heads({0: [1]})
    assert not (tmp_path / "model").exists()
    merged = model.merge_and_unload()
    merged.prune_heads({0: [1]})
    merged.save_pretrained(tmp_path / "model")
    again = BertForSequenceClassification.from_pretrained(tmp_path / "model")
    torch.testing.assert_close(answers(again), answers(merged))


# Every task of PEFT's that an encoder has


@pytest.mark.parametrize(
    ("kind", "task"),
    [
        (BertForSequenceClassification, CLASSIFIER),
        (BertForTokenClassification, peft.TaskType.TOKEN_CLS),
        (BertForQuestionAnswering, peft.TaskType.QUESTION_ANS),
        (BertModel, peft.TaskType.FEATURE_EXTRACTION),
        (BertForMaskedLM, None),
    ],
)
def test_every_task(kind: Any, task: Any, tmp_path: Path) -> None:
    kind(tiny_config(**STILL)).save_pretrained(tmp_path / "base")
    model = with_lora(kind.from_pretrained(tmp_path / "base"), task)
    before = answers(model)
    inputs = {name: value for name, value in batch().items() if name != "labels"}
    output = model(**inputs)
    assert type(output) is type(model.get_base_model()(**inputs))

    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=0.02)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(**inputs)[0][..., 1].mean()  # whatever it means, it can be made smaller
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.1
    trained = answers(model)
    assert (trained - before).abs().max() > 0.01
    close(answers(model, padded=True), trained)

    model.save_pretrained(tmp_path / "adapter")
    fresh = kind.from_pretrained(tmp_path / "base")
    loaded = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    assert torch.equal(answers(loaded), trained)

    merged = model.merge_and_unload()
    close(answers(merged), trained)
    close(answers(merged, padded=True), trained)
    merged.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(answers(kind.from_pretrained(tmp_path / "merged")), answers(merged))


# Exits


def test_exits_over_an_adapted_body(tmp_path: Path) -> None:
    """The runner's layers are the adapted ones: never leaving is `forward`, ramps read them too."""
    base = add_exits(base_model())
    model = with_lora(base)
    train(model)
    rows = random_rows(20)
    inputs = Inputs.from_rows([row.ids for row in rows], [row.types for row in rows])

    def at_each_depth() -> dict[int, Tensor]:
        with torch.no_grad():
            return logits_by_depth(base, inputs)

    def never_leaving(one: Any) -> Tensor:
        results = Runner(one, criterion=offramp.Entropy(0)).run(rows)
        assert set(results.exit_layers_R.tolist()) == {3}
        return results.logits_RC

    with torch.no_grad():  # row by row: without neighbours, without padding
        forward = [
            model(
                input_ids=torch.as_tensor(row.ids)[None],
                token_type_ids=torch.as_tensor(row.types)[None],
            ).logits
            for row in rows
        ]
    for one in (model, base):
        close(never_leaving(one), torch.cat(forward))
    adapted = at_each_depth()
    with model.disable_adapter():
        plain = at_each_depth()
    assert list(plain) == [1, 2, 3]
    assert all((adapted[depth] - plain[depth]).abs().max() > 0.01 for depth in plain)

    assert model.merge_and_unload() is base
    close(never_leaving(base), torch.cat(forward))
    for depth, logits_RC in at_each_depth().items():
        close(logits_RC, adapted[depth])
    base.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path, strict=True)
    torch.testing.assert_close(never_leaving(again), never_leaving(base))
