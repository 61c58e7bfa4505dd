"""Microbatches: whole rows, about as many tokens as asked for, as many as suit a machine."""

import pytest
import torch
from exit_models import random_rows
from hypothesis import given, strategies as st

from offramp.runner.rows import by_length, split, tokens_at_once
from offramp.runner.threads import cpu_threads


@pytest.mark.parametrize(("threads", "tokens"), [(1, 2048), (2, 2048), (4, 2048), (16, 8192)])
def test_more_cores_share_more(threads: int, tokens: int) -> None:
    with cpu_threads(threads):
        assert tokens_at_once(torch.device("cpu")) == tokens


@given(n_rows=st.integers(1, 40), tokens=st.integers(1, 700), seed=st.integers(0, 50))
def test_each_row_is_in_one_microbatch(n_rows: int, tokens: int, seed: int) -> None:
    rows = random_rows(n_rows, seed)
    parts = list(split(by_length(rows), tokens))
    places = torch.cat([part.row_ids_R for part in parts]).tolist()
    assert sorted(places) == list(range(n_rows))
    ids = torch.cat([part.ids for part in parts if part.ids is not None]).tolist()
    assert ids == [token for place in places for token in rows[place].ids.tolist()]
    longest = max(len(row.ids) for row in rows)
    assert all(part.layout.n_tokens <= 1.5 * tokens + longest for part in parts)  # type: ignore[union-attr]
