"""Results as dataclasses, tuples and pytrees."""

from __future__ import annotations

import dataclasses

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
