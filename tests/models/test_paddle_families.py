"""ERNIE, RoBERTa and ALBERT as PaddleNLP saved them: opened, they answer what it answered."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from paddle_saves import CLASSES, OLD, PADDLE, answers

import offramp

NOT_HERE = ("CausalLM", "UIE")
SAVED = [save for save in (*CLASSES, *OLD) if not save.endswith(NOT_HERE)]
FAMILIES = ("Ernie", "Roberta", "Albert")
CASES = [save for save in SAVED if save.partition("/")[2].startswith(FAMILIES)]


@pytest.mark.parametrize("save", CASES)
def test_opened_it_answers_as_there(save: str) -> None:
    name = save.partition("/")[2].replace("Pretraining", "PreTraining")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of positions of before 2.5; see below
        model: Any = getattr(offramp, name).from_pretrained(PADDLE / save)
    given, expected = answers(save)
    ids = given["input_ids"]
    if save.startswith("2.") and name.startswith("Roberta"):
        given["position_ids"] = torch.arange(ids.shape[-1]).expand(ids.shape)  # as it counted then
    masks_padding = model.config.mask_padding
    if not masks_padding:  # there the embedding of padding is zeros
        pad = model.config.pad_token_id
        model.get_input_embeddings().weight.data[pad] = 0
    with torch.no_grad():
        found = model(**given).to_tuple()
    if save == "albert/AlbertForQuestionAnswering":  # PaddleNLP 2.8.1 returns the first one twice
        assert torch.equal(*expected)
        expected[1] = found[1]
    real = ids.flatten(0, -2) != model.config.pad_token_id
    for one, two in zip(found, expected, strict=True):
        if one.shape[:2] == real.shape and masks_padding:
            one, two = one[real], two[real]
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


def test_positions_of_before_2_5_are_told_of() -> None:
    (save,) = [save for save in OLD if save == "2.3.4/RobertaForSequenceClassification"]
    with pytest.warns(UserWarning, match="counted RoBERTa's positions from 0.*pass position_ids"):
        offramp.RobertaForSequenceClassification.from_pretrained(PADDLE / save)


def test_every_save_of_theirs_is_tried() -> None:
    assert len(CASES) >= 7 + 1 + 6 + 7 + 3
    assert any("ernie_task_id" in save for save in CASES)
