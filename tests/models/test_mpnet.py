"""MPNet's distances: in windows of rows of many lengths, and made once for all layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from offramp import (
    ConfigError,
    Entropy,
    MPNetConfig,
    MPNetForSequenceClassification,
    Runner,
    add_exits,
)
from offramp.models.inputs import Inputs
from offramp.nn.relative import DistanceBias
from offramp.text.tokenizer import Encoded

SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 130,
    "initializer_range": 0.5,
    "num_labels": 3,
}


def small(**changes: Any) -> Any:
    torch.manual_seed(0)
    return MPNetForSequenceClassification(MPNetConfig(**SMALL | changes)).double().eval()


def rows_of(lengths: list[int]) -> list[Encoded]:
    """Rows of any words, padding's among them."""
    draw = np.random.default_rng(0)
    rows = [draw.integers(0, 50, length) for length in lengths]
    return [Encoded(row, np.zeros_like(row)) for row in rows]


def alone(model: Any, row: Encoded) -> Tensor:
    """A row's logits under attention that is computed openly, on padded rows."""
    with torch.no_grad():
        logits_RC: Tensor = model(torch.from_numpy(row.ids)[None], output_attentions=True).logits
    return logits_RC[0]


@pytest.mark.parametrize("pruned", [{}, {0: [1], 1: [0, 3], 2: [0, 1, 2]}])
@pytest.mark.parametrize("tokens", [1, 150, 10_000])
def test_a_window_of_rows_of_many_lengths(tokens: int, pruned: dict[int, list[int]]) -> None:
    model = small()
    model.prune_heads(pruned)
    rows = rows_of([*range(1, 40), 128, 3, 100, 1, 40, 40])
    found = Runner(model, microbatch_tokens=tokens).run(rows).logits_RC
    expected = torch.stack([alone(model, row) for row in rows])
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_rows_that_leave_change_nothing_for_those_that_stay() -> None:
    model = small()
    add_exits(model)
    rows = rows_of([5, 90, 7, 7, 1, 60, 128, 33])
    with torch.no_grad():
        for ramp in model.exits.values():
            ramp.classifier.weight.normal_()
    layers = set()
    for threshold in (0.3, 0.6, 0.9):
        runner = Runner(model, criterion=Entropy(threshold), microbatch_tokens=100)
        together = runner.run(rows)
        layers |= set(together.exit_layers_R.tolist())
        for place, row in enumerate(rows):
            one = runner.run([row])
            assert one.exit_layers_R[0] == together.exit_layers_R[place]
            torch.testing.assert_close(
                one.logits_RC[0], together.logits_RC[place], rtol=1e-9, atol=1e-9
            )
    assert len(layers) > 1


@pytest.mark.parametrize("lengths", [[5, 2, 9, 9], [1, 1], [1, 4, 1]])
def test_a_step_for_any_one_token_of_each_row_is_the_whole_step_s(lengths: list[int]) -> None:
    stack = small().mpnet
    rows = rows_of(lengths)
    flow = stack.start(Inputs.from_rows([row.ids for row in rows], [row.types for row in rows]))
    whole = stack.step(flow, 1)
    layout = flow.layout
    for place_R in (layout.lengths_R * 0, layout.lengths_R // 2, layout.lengths_R - 1):
        queries_R = layout.starts_R + place_R
        found = stack.step(flow, 1, queries=queries_R)
        torch.testing.assert_close(found.hidden, whole.hidden[queries_R], rtol=1e-9, atol=1e-9)


def test_distances_are_looked_up_once_for_all_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    look_up = DistanceBias.for_length

    def counted(table: DistanceBias, length: int) -> Tensor:
        lengths.append(length)
        return look_up(table, length)

    monkeypatch.setattr(DistanceBias, "for_length", counted)
    model = small()
    model(torch.full((2, 9), 5))
    assert lengths == [9]
    lengths.clear()
    Runner(model, microbatch_tokens=20).run(rows_of([10, 10, 12, 8]))
    assert lengths == [10, 12]


@pytest.mark.parametrize("mask", [None, torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0]])])
def test_autocast_takes_the_distances_along(mask: Tensor | None) -> None:
    model = small(initializer_range=0.05).float()
    ids = torch.tensor([[0, 9, 7, 2], [0, 8, 2, 5]])
    expected = model(ids, mask).logits
    with torch.autocast("cpu", torch.bfloat16):
        found = model(ids, mask).logits
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.02)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["traced", "exported"])
def test_a_program_made_by_torch_answers_for_other_masks(how: str) -> None:
    model = small(return_dict=False)
    ids = torch.tensor([[0, 9, 7, 2], [0, 8, 2, 5]])
    mask, other = torch.ones_like(ids), torch.tensor([[1, 1, 0, 1], [1, 1, 1, 0]])
    program: Any = (
        torch.jit.trace(model, (ids, mask))
        if how == "traced"
        else torch.export.export(model, (ids, mask)).module()
    )
    torch.testing.assert_close(program(ids, other)[0], model(ids, other)[0])


@pytest.mark.parametrize(
    ("setting", "least"),
    [
        ("relative_attention_num_buckets", 32),
        ("vocab_size", 2),
        ("max_position_embeddings", 3),
    ],
)
def test_a_table_without_the_rows_that_are_read_is_refused(setting: str, least: int) -> None:
    fitting = {"pad_token_id": 0} if setting == "vocab_size" else {}
    MPNetConfig(**{setting: least}, **fitting)
    with pytest.raises(ConfigError, match=setting):
        MPNetConfig(**{setting: least - 1}, **fitting)
