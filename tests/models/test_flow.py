"""Flows and inputs against rows handled one by one."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from offramp.errors import InputError
from offramp.models.flow import Flow, join
from offramp.models.inputs import Inputs
from offramp.nn.layout import Packed, Padded, round_size

WIDTH = 3


def packed_flow(lengths: list[int], n_traced: int | None) -> Flow:
    """A flow in which every number is different, so that none can stand for another."""
    n_tokens = sum(lengths)
    shape = (n_tokens, WIDTH)
    hidden_TD = torch.arange(n_tokens * WIDTH).view(shape).double()
    return Flow(
        hidden=hidden_TD,
        layout=Packed.of(torch.tensor(lengths)),
        row_ids_R=100 + torch.randperm(len(lengths)),
        positions=1000 + torch.randperm(n_tokens),
        trace=None if n_traced is None else tuple(hidden_TD * -(i + 1) for i in range(n_traced)),
    )


def padded_flow(lengths: list[int], n_traced: int | None) -> Flow:
    n_rows, length = len(lengths), max(lengths)
    hidden_BLD = torch.arange(n_rows * length * WIDTH).view(n_rows, length, WIDTH).double()
    return Flow(
        hidden=hidden_BLD,
        layout=Padded(n_rows, length, torch.arange(length) < torch.tensor(lengths)[:, None]),
        row_ids_R=100 + torch.randperm(n_rows),
        positions=1000 + torch.randperm(n_rows * length).view(n_rows, length),
        trace=None if n_traced is None else tuple(hidden_BLD * -(i + 1) for i in range(n_traced)),
    )


def one_by_one(flow: Flow) -> list[dict[str, object]]:
    """Each row of a flow by itself: every field of `Flow` as plain numbers."""

    def of_rows(x: Tensor) -> list[object]:
        if isinstance(flow.layout, Packed):
            return [row.tolist() for row in x.split(flow.layout.lengths_R.tolist())]
        return [row.tolist() for row in x]

    layout = flow.layout
    columns: dict[str, list[object]] = {
        "hidden": of_rows(flow.hidden),
        "positions": of_rows(flow.positions),
        "row_ids_R": list(flow.row_ids_R.tolist()),
        "layout": (
            list(layout.lengths_R.tolist())
            if isinstance(layout, Packed)
            else [None if layout.keys is None else keys.tolist() for keys in layout.keys]
        ),
        "trace": (
            [None] * len(flow.row_ids_R)
            if flow.trace is None
            else [list(rows) for rows in zip(*map(of_rows, flow.trace), strict=True)]
        ),
    }
    sliced = {f.name for f in dataclasses.fields(Flow)} - {
        "probe",
        "bias_HLL",
        "filled",
    }
    assert set(columns) == sliced, "a new field is sliced too"
    assert {len(column) for column in columns.values()} == {len(flow.row_ids_R)}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


lengths = st.lists(st.integers(1, 5), min_size=1, max_size=8)
traced = st.none() | st.integers(1, 3)


@pytest.mark.parametrize("make", [packed_flow, padded_flow])
@given(lengths=lengths, n_traced=traced, data=st.data())
def test_take_is_every_field_of_these_rows_in_any_order(
    make: type, lengths: list[int], n_traced: int | None, data: st.DataObject
) -> None:
    flow: Flow = make(lengths, n_traced)
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=10))
    whole = one_by_one(flow)
    assert one_by_one(flow.take(torch.tensor(rows))) == [whole[row] for row in rows]


@pytest.mark.parametrize("make", [packed_flow, padded_flow])
@given(lengths=lengths, n_traced=traced, data=st.data())
def test_take_of_successive_rows_is_a_view(
    make: type, lengths: list[int], n_traced: int | None, data: st.DataObject
) -> None:
    flow: Flow = make(lengths, n_traced)
    first = data.draw(st.integers(0, len(lengths) - 1))
    last = data.draw(st.integers(first + 1, len(lengths)))
    taken = flow.take(slice(first, last))
    assert one_by_one(taken) == one_by_one(flow)[first:last]
    assert taken.hidden.untyped_storage().data_ptr() == flow.hidden.untyped_storage().data_ptr()


@given(lengths=lengths, data=st.data())
def test_taking_twice_is_taking_once(lengths: list[int], data: st.DataObject) -> None:
    flow = packed_flow(lengths, 1)
    first = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=8))
    second = data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1, max_size=8))
    twice = flow.take(torch.tensor(first)).take(torch.tensor(second))
    whole = one_by_one(flow)
    assert one_by_one(twice) == [whole[first[row]] for row in second]


@pytest.mark.parametrize("make", [packed_flow, padded_flow])
def test_taking_no_rows(make: type) -> None:
    flow: Flow = make([2, 3], None)
    for rows in (torch.tensor([], dtype=torch.int64), slice(1, 1)):
        taken = flow.take(rows)
        assert taken.layout.n_rows == 0
        assert taken.hidden.numel() == taken.row_ids_R.numel() == taken.positions.numel() == 0


@given(st.lists(lengths, min_size=1, max_size=4))
def test_join_is_the_rows_of_each_flow_in_turn(parts: list[list[int]]) -> None:
    flows = [packed_flow(part, None) for part in parts]
    assert one_by_one(join(flows)) == [row for flow in flows for row in one_by_one(flow)]


@given(
    st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=8), min_size=1, max_size=4),
    st.data(),
)
def test_filled_flows_are_the_same_rows_and_of_round_sizes(
    parts: list[list[int]], data: st.DataObject
) -> None:
    plain = [packed_flow(part, None) for part in parts]
    full = [flow.fill() if data.draw(st.booleans()) else flow for flow in plain]
    joined = join(full)
    assert one_by_one(joined.bare()) == one_by_one(join(plain))
    assert len(joined.positions) == joined.layout.n_tokens  # type: ignore[union-attr]
    rows = data.draw(st.lists(st.integers(0, joined.layout.n_rows - 1), max_size=9))
    index = torch.tensor(rows, dtype=torch.int64)
    taken = joined.take(index)
    assert one_by_one(taken.bare()) == one_by_one(join(plain).take(index))
    assert one_by_one(joined.take(slice(0, 1)).bare()) == one_by_one(plain[0].take(slice(0, 1)))
    assert taken.filled == joined.filled == any(flow.filled for flow in full)
    for flow in (joined, taken):
        n_tokens: int = flow.layout.n_tokens  # type: ignore[union-attr]
        assert len(flow.hidden) == (round_size(n_tokens) if flow.filled else n_tokens)


def test_in_input_order_undoes_the_sorting_by_length() -> None:
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    ids = torch.tensor([[10, 11, 12], [20, 21, 22], [30, 31, 32]])
    inputs = Inputs.from_padded(ids, mask)
    assert inputs.row_ids_R.tolist() == [1, 2, 0]
    assert inputs.ids is not None
    assert inputs.ids.tolist() == [20, 30, 31, 10, 11, 12]
    flow = Flow(inputs.ids[:, None], inputs.layout, inputs.row_ids_R, inputs.positions)
    assert flow.in_input_order(torch.tensor([20, 30, 10])).tolist() == [10, 20, 30]
    padded = flow.to_padded(flow.hidden, 3, 3)[..., 0]
    assert padded.tolist() == [[10, 11, 12], [20, 0, 0], [30, 31, 0]]


def test_packing_closes_holes_and_keeps_places() -> None:
    ids = torch.tensor([[10, 11, 12, 13], [20, 21, 22, 23]])
    mask = torch.tensor([[1, 0, 1, 1], [1, 0, 0, 1]])
    kinds, places = ids % 10, ids + 500
    inputs = Inputs.from_padded(ids, mask, kinds, places, None)
    assert isinstance(inputs.layout, Packed)
    assert inputs.layout.lengths_R.tolist() == [2, 3]
    assert inputs.ids is not None
    assert inputs.token_types is not None
    assert inputs.position_ids is not None
    assert inputs.ids.tolist() == [20, 23, 10, 12, 13]
    assert inputs.positions.tolist() == [0, 3, 0, 2, 3]
    assert inputs.token_types.tolist() == [0, 3, 0, 2, 3]
    assert inputs.position_ids.tolist() == [520, 523, 510, 512, 513]


@pytest.mark.parametrize(
    ("mask", "kind"),
    [
        (None, Packed),
        (torch.tensor([[1, 1], [1, 0]]), Packed),
        (torch.tensor([[1.0, 1.0], [1.0, 0.0]]), Packed),
        (torch.tensor([[True, True], [True, False]]), Packed),
        (torch.tensor([[0, 1], [1, 1]]), Padded),
        (torch.ones(2, 2, 2), Padded),
    ],
)
def test_masks_choose_the_layout(mask: Tensor | None, kind: type) -> None:
    inputs = Inputs.from_padded(torch.tensor([[1, 2], [3, 4]]), mask)
    assert isinstance(inputs.layout, kind)


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=5), min_size=1, max_size=6))
def test_from_rows_is_from_padded(rows: list[list[int]]) -> None:
    rows.sort(key=len)  # as from_padded orders them
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    packed = Inputs.from_rows(rows, [[0] * len(row) for row in rows])
    padded = Inputs.from_padded(ids, mask, torch.zeros_like(ids))
    for field in ("row_ids_R", "positions", "ids", "token_types"):
        assert getattr(packed, field).tolist() == getattr(padded, field).tolist()
    assert isinstance(packed.layout, Packed)
    assert isinstance(padded.layout, Packed)
    assert packed.layout.blocks == padded.layout.blocks


def test_from_rows_takes_arrays_and_names() -> None:
    rows = [np.array([5, 6], dtype=np.int32), (7,)]
    inputs = Inputs.from_rows(rows, [[0, 1], [0]], row_ids=[31, 4])
    assert inputs.row_ids_R.tolist() == [31, 4]
    assert inputs.ids is not None
    assert inputs.ids.dtype == torch.int64
    assert inputs.ids.tolist() == [5, 6, 7]
    assert inputs.positions.tolist() == [0, 1, 0]


@pytest.mark.parametrize("rows", [[], [[1], []]])
def test_from_rows_refuses_nothing(rows: list[list[int]]) -> None:
    with pytest.raises(InputError, match="at least one"):
        Inputs.from_rows(rows, rows)


@given(lengths, st.data())
def test_inputs_take_is_successive_rows(lengths: list[int], data: st.DataObject) -> None:
    first = data.draw(st.integers(0, len(lengths) - 1))
    last = data.draw(st.integers(first + 1, len(lengths)))
    rows = [list(range(10 * i, 10 * i + n)) for i, n in enumerate(lengths)]
    kinds = [[i] * n for i, n in enumerate(lengths)]
    names = list(range(50, 50 + len(rows)))
    taken = Inputs.from_rows(rows, kinds, names).take(slice(first, last))
    alone = Inputs.from_rows(rows[first:last], kinds[first:last], names[first:last])
    for field in ("row_ids_R", "positions", "ids", "token_types"):
        assert getattr(taken, field).tolist() == getattr(alone, field).tolist()
    assert taken.layout.n_rows == last - first


@pytest.mark.parametrize(
    ("rows", "types", "message"),
    [
        ([[1, 2], [3]], [[0], [0, 0]], "one token type a token"),
        ([[1, 2]], [[0]], "one token type a token"),
        ([[1, 2]], [], "one token type a token"),
        ([[1.5, 2.0]], [[0, 0]], "whole numbers"),
        ([[True, False]], [[0, 0]], "whole numbers"),
        ([[[1, 2]]], [[[0, 0]]], "whole numbers"),
    ],
)
def test_from_rows_refuses_what_does_not_belong_together(
    rows: list[Any], types: list[Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        Inputs.from_rows(rows, types)
