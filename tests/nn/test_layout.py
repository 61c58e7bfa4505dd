"""Layouts against rows handled one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from offramp.nn.layout import Block, Packed, Padded, round_size, rows_of_tokens

lengths = st.lists(st.integers(1, 6), min_size=1, max_size=12)


def rows_of(x_T: Tensor, lengths: list[int]) -> list[Tensor]:
    """The rows that lie in packed tokens, one by one."""
    return list(x_T.split(lengths))


def test_blocks_of_a_hand_worked_case() -> None:
    layout = Packed.of(torch.tensor([2, 2, 3, 1, 1, 2]))
    assert layout.blocks == (
        Block(start=0, stop=4, rows=2, length=2),
        Block(start=4, stop=7, rows=1, length=3),
        Block(start=7, stop=9, rows=2, length=1),
        Block(start=9, stop=11, rows=1, length=2),
    )
    assert layout.starts_R.tolist() == [0, 2, 4, 7, 8, 9]
    assert (layout.n_rows, layout.n_tokens) == (6, 11)
    assert rows_of_tokens(layout).tolist() == [0, 0, 1, 1, 2, 2, 2, 3, 4, 5, 5]


def test_no_rows() -> None:
    layout = Packed.of(torch.tensor([], dtype=torch.int64))
    assert (layout.n_rows, layout.n_tokens, layout.blocks) == (0, 0, ())
    assert rows_of_tokens(layout).tolist() == []


@given(lengths)
def test_block_views_are_the_rows(lengths: list[int]) -> None:
    layout = Packed.of(torch.tensor(lengths))
    hidden_TD = torch.arange(sum(lengths) * 2).view(-1, 2)
    seen = []
    for block in layout.blocks:
        view_RLD = hidden_TD[block.start : block.stop].view(block.rows, block.length, 2)
        seen += list(view_RLD)
    expected = rows_of(hidden_TD, lengths)
    assert len(seen) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(seen, expected, strict=True))


@given(lengths)
def test_rows_in_order_of_length_make_one_block_a_length(lengths: list[int]) -> None:
    assert len(Packed.of(torch.tensor(sorted(lengths))).blocks) == len(set(lengths))


@given(lengths, st.data())
def test_packed_take_by_index_is_rows_one_by_one(lengths: list[int], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=15))
    layout = Packed.of(torch.tensor(lengths))
    hidden_TD = torch.randn(sum(lengths), 3)
    taken, tokens = layout.take(torch.tensor(rows, dtype=torch.int64))
    expected = [rows_of(hidden_TD, lengths)[row] for row in rows]
    assert taken.lengths_R.tolist() == [lengths[row] for row in rows]
    assert taken.blocks == Packed.of(taken.lengths_R).blocks
    assert torch.equal(hidden_TD[tokens], torch.cat([hidden_TD[:0], *expected]))


bounds = st.none() | st.integers(-14, 14)


@given(lengths, bounds, bounds)
def test_packed_take_by_slice_is_a_view_of_the_rows(
    lengths: list[int], first: int | None, last: int | None
) -> None:
    layout = Packed.of(torch.tensor(lengths))
    hidden_TD = torch.randn(sum(lengths), 3)
    taken, tokens = layout.take(slice(first, last))
    expected = rows_of(hidden_TD, lengths)[first:last]
    assert isinstance(tokens, slice)
    assert taken.lengths_R.tolist() == lengths[first:last]
    assert torch.equal(hidden_TD[tokens], torch.cat([hidden_TD[:0], *expected]))


def test_packed_take_by_a_stepped_slice_is_refused() -> None:
    with pytest.raises(ValueError, match="step 1; got 2"):
        Packed.of(torch.tensor([1, 2, 3])).take(slice(None, None, 2))


@pytest.mark.parametrize("n_dims", [0, 2, 3])
@given(data=st.data())
def test_padded_take_is_rows_one_by_one(n_dims: int, data: st.DataObject) -> None:
    n_rows, length = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 5))
    keys = None if n_dims == 0 else torch.rand((n_rows, length, length)[:n_dims]) < 0.5
    hidden_BLD = torch.randn(n_rows, length, 2)
    index = torch.tensor(data.draw(st.lists(st.integers(0, n_rows - 1), max_size=8)), dtype=int)
    first, last = data.draw(bounds), data.draw(bounds)
    for rows, numbers in (
        (index, index.tolist()),
        (slice(first, last), list(range(n_rows))[first:last]),
    ):
        taken, take = Padded(n_rows, length, keys).take(rows)
        assert (taken.n_rows, taken.length) == (len(numbers), length)
        assert [row.tolist() for row in hidden_BLD[take]] == [
            hidden_BLD[number].tolist() for number in numbers
        ]
        if keys is None:
            assert taken.keys is None
        else:
            assert taken.keys is not None
            assert taken.keys.tolist() == [keys[number].tolist() for number in numbers]


def test_padded_mask_broadcasts_over_heads_and_queries() -> None:
    keys_BL = torch.tensor([[True, False], [True, True], [False, True]])
    assert Padded(3, 2).attention_mask is None
    of_keys = Padded(3, 2, keys_BL).attention_mask
    assert of_keys is not None
    assert of_keys.shape == (3, 1, 1, 2)
    keys_BLL = keys_BL[:, None, :] & torch.tensor([[True, False], [True, True]])
    of_pairs = Padded(3, 2, keys_BLL).attention_mask
    assert of_pairs is not None
    assert of_pairs.shape == (3, 1, 2, 2)
    assert torch.equal(of_pairs[:, 0], keys_BLL)


def test_round_sizes_of_hand_worked_cases() -> None:
    sizes = {
        0: 0,
        1: 16,
        16: 16,
        65: 80,
        1023: 1024,
        1025: 1056,
        2048: 2048,
        2049: 2112,
        2500: 2560,
    }
    assert {size: round_size(size) for size in sizes} == sizes


def test_round_sizes_are_few_and_near() -> None:
    rounded = [round_size(size) for size in range(1, 4097)]
    assert rounded == sorted(rounded)
    for size, full in enumerate(rounded, start=1):
        assert size <= full < size + max(16, size / 32)
    assert len(set(rounded)) == 1024 / 16 + 2 * 32
