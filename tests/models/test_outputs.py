"""Results as dataclasses, tuples, dictionaries and pytrees."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.utils._pytree as pytree

from offramp.models.outputs import BaseModelOutputWithPooling, SequenceClassifierOutput

LOGITS = torch.tensor([[1.0, 2.0]])


def test_positions_and_unpacking_leave_out_none() -> None:
    output = SequenceClassifierOutput(logits=LOGITS)
    assert output.loss is None
    assert output[0] is LOGITS
    assert output.to_tuple() == (LOGITS,)
    assert len(output) == 1
    (logits,) = output
    assert logits is LOGITS
    assert output[:1] == (LOGITS,)
    with pytest.raises(IndexError):
        output[1]


def test_names_find_every_field() -> None:
    output = SequenceClassifierOutput(logits=LOGITS)
    assert output["logits"] is LOGITS
    assert output["loss"] is None
    with pytest.raises(KeyError, match="to_tuple"):
        output["to_tuple"]


def test_results_are_frozen() -> None:
    output = SequenceClassifierOutput(logits=LOGITS)
    with pytest.raises(dataclasses.FrozenInstanceError):
        output.logits = None  # type: ignore[misc]


def test_results_are_pytrees() -> None:
    output = BaseModelOutputWithPooling(LOGITS, None, (LOGITS, LOGITS + 1))
    doubled = pytree.tree_map(lambda x: x * 2, output)
    assert isinstance(doubled, BaseModelOutputWithPooling)
    assert doubled.last_hidden_state.tolist() == [[2, 4]]
    assert doubled.pooler_output is None
    assert doubled.hidden_states is not None
    assert [hidden.tolist() for hidden in doubled.hidden_states] == [[[2, 4]], [[4, 6]]]
    leaves, spec = pytree.tree_flatten(output)
    assert len([leaf for leaf in leaves if leaf is not None]) == 3
    again = pytree.tree_unflatten(leaves, spec)
    assert again.last_hidden_state is LOGITS


def test_results_are_dictionaries_of_what_is_there() -> None:
    output = SequenceClassifierOutput(logits=LOGITS)
    assert isinstance(output, dict)
    assert "loss" not in output
    assert output.get("loss") is None
    assert list(output.items()) == [("logits", LOGITS)]
    assert {**output} == dict(output) == {"logits": LOGITS}
    # Made anew from a mapping, which is how accelerate turns half precision into single.
    assert SequenceClassifierOutput({"logits": LOGITS}) == output  # type: ignore[arg-type]
    assert output != SequenceClassifierOutput(loss=LOGITS.sum(), logits=LOGITS)


def test_results_can_be_copied_and_pickled() -> None:
    output = SequenceClassifierOutput(logits=LOGITS)
    for again in (copy.copy(output), copy.deepcopy(output), pickle.loads(pickle.dumps(output))):
        assert type(again) is SequenceClassifierOutput
        assert again.loss is None
        assert torch.equal(again["logits"], LOGITS)
        assert list(again.keys()) == ["logits"]


@pytest.mark.parametrize(
    "change",
    [
        lambda output: output.update(loss=1),
        lambda output: output.pop("logits"),
        lambda output: output.setdefault("loss", 1),
        lambda output: output.clear(),
        lambda output: output.popitem(),
        lambda output: output.__ior__({"loss": 1}),
        lambda output: output.__setitem__("loss", 1),
        lambda output: output.__delitem__("logits"),
    ],
)
def test_results_are_frozen_as_dictionaries_too(change: Callable[[Any], None]) -> None:
    output = SequenceClassifierOutput(logits=LOGITS)
    with pytest.raises(dataclasses.FrozenInstanceError, match=r"dataclasses\.replace"):
        change(output)
    assert dict(output) == {"logits": LOGITS}
