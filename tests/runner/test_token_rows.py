"""Rows whose tokens are answered: each leaves with its least sure token, whatever is beside it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from every_criterion import CLASSES
from exit_models import encoded, tiny_model
from hypothesis import given, settings, strategies as st
from parity_families import FAMILIES
from token_models import counted, small_rows, token_model
from torch import Tensor

import offramp
from offramp.errors import ConfigError, InputError, NaNLogitsWarning
from offramp.exits.attach import add_exits, exits_of, logits_by_depth
from offramp.exits.criteria import (
    Criterion,
    Entropy,
    LearnedToExit,
    MaxProbability,
    MinDepth,
    Patience,
    RegressionPatience,
)
from offramp.models.base import PretrainedModel
from offramp.models.inputs import Inputs
from offramp.runner.rows import CountedRow, Row
from offramp.runner.run import Results, Runner
from offramp.runner.sweep import every_exit


def alone(model: PretrainedModel, row: Row) -> dict[int, Tensor]:
    """Each exit's logits [L, C] of a row by itself."""
    with torch.inference_mode():
        return logits_by_depth(model, Inputs.from_rows([row.ids], [row.types]))


def asked(row: Row) -> Tensor:
    """Which tokens of a row count."""
    return torch.from_numpy(getattr(row, "counted", np.ones(len(row.ids), dtype=bool)))


def assert_one_by_one(found: Results, runner: Runner, rows: Sequence[Row]) -> None:
    """Layers, and the labels of the tokens that count, are those of each row by itself."""
    for place, row in enumerate(rows):
        one, length, tokens = runner.run([row]), len(row.ids), asked(row)
        assert found.exit_layers_R[place] == one.exit_layers_R[0]
        assert found.forced_R[place] == one.forced_R[0]
        own_LC = found.logits_RC[place, :length]
        torch.testing.assert_close(own_LC, one.logits_RC[0], rtol=1e-4, atol=1e-4)
        labels = [logits_LC[tokens].argmax(-1) for logits_LC in (own_LC, one.logits_RC[0])]
        assert torch.equal(*labels)
        assert not found.logits_RC[place, length:].any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prepare", [True, False])
def test_together_as_one_by_one(family: str, prepare: bool) -> None:
    model, rows = token_model(family), small_rows()
    met = set()
    for criterion in (Entropy(0.7), MaxProbability(0.6), Patience(1)):
        for some in (rows, counted(rows)):
            runner = Runner(model, criterion=criterion, microbatch_tokens=60, prepare=prepare)
            found = runner.run(some)
            assert_one_by_one(found, runner, some)
            met |= set(found.exit_layers_R.tolist())
    assert len(met) > 1


@pytest.mark.parametrize("name", CLASSES)
def test_every_criterion_together_as_one_by_one(name: str) -> None:
    model, rows = token_model(seed=5, n_labels=3, num_hidden_layers=5), counted(small_rows(60))
    for microbatch in (1, 50, 1000):
        runner = Runner(model, criterion=CLASSES[name], microbatch_tokens=microbatch)
        found = runner.run(rows)
        assert_one_by_one(found, runner, rows)
        swept = every_exit(model, rows).apply(CLASSES[name])
        assert torch.equal(swept.exit_layers_R, found.exit_layers_R)
        torch.testing.assert_close(swept.logits_RC, found.logits_RC, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["Bert", "MPNet"])
def test_the_least_sure_token_that_counts_decides(family: str) -> None:
    model, rows = token_model(family), counted(small_rows())
    runner = Runner(model, criterion=MaxProbability(0.7))
    for row, found in zip(rows, runner.stream(rows), strict=True):
        by_depth = alone(model, row)
        last = max(by_depth)
        least = {
            depth: logits_LC[asked(row)].softmax(-1).amax(-1).min().item()
            if asked(row).any()
            else 1.0
            for depth, logits_LC in by_depth.items()
        }
        expected = next(depth for depth in by_depth if depth == last or least[depth] > 0.7)
        assert found.exit_layer == expected
        torch.testing.assert_close(found.logits_C, by_depth[expected], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_thresholds_that_lie_on_a_row(dtype: torch.dtype) -> None:
    """Where each is decided by its last digit, which depends on the batch."""
    model, rows = token_model(seed=2).to(dtype), counted(small_rows(24))
    swept = every_exit(model, rows)
    tried = 0
    for row in range(0, len(rows), 4):
        for depth in exits_of(model).depths:
            logits_LC = alone(model, rows[row])[depth][asked(rows[row])].double()
            if not len(logits_LC):
                continue
            p_LC = logits_LC.softmax(-1)
            threshold = float(-(p_LC * p_LC.log()).sum(-1).amin())
            runner = Runner(model, criterion=Entropy(threshold), microbatch_tokens=40)
            assert_one_by_one(runner.run(rows), runner, rows)
            tried += 1
    assert tried > 5
    assert swept.logits_ERC.dtype == dtype


@settings(deadline=None, max_examples=25)
@given(
    picks=st.lists(st.integers(0, 39), min_size=1, max_size=40),
    threshold=st.floats(0, 1.4),
    window_rows=st.integers(1, 50),
    microbatch=st.integers(1, 200),
    max_depth=st.sampled_from([None, 1, 2]),
)
def test_any_batch(
    picks: list[int], threshold: float, window_rows: int, microbatch: int, max_depth: int | None
) -> None:
    rows = counted(small_rows())
    runner = Runner(
        MODEL,
        criterion=Entropy(threshold),
        window_rows=window_rows,
        microbatch_tokens=microbatch,
    )
    found = list(runner.stream([rows[i] for i in picks], max_depth=max_depth))
    for i, result in zip(picks, found, strict=True):
        (one,) = runner.stream([rows[i]], max_depth=max_depth)
        assert (one.exit_layer, one.forced) == (result.exit_layer, result.forced)
        assert result.logits_C.shape == (len(rows[i].ids), 4)
        torch.testing.assert_close(one.logits_C, result.logits_C, rtol=1e-4, atol=1e-4)


MODEL = token_model(seed=7)


def test_as_they_leave_and_padded() -> None:
    rows = counted(small_rows(30))
    runner = Runner(MODEL, criterion=Entropy(0.9), window_rows=7)
    in_order, together = list(runner.stream(rows)), runner.run(rows)
    by_index = dict(runner.stream(rows, ordered=False))
    assert sorted(by_index) == list(range(30))
    assert together.logits_RC.shape == (30, max(len(row.ids) for row in rows), 4)
    for place, (row, result) in enumerate(zip(rows, in_order, strict=True)):
        assert by_index[place].exit_layer == result.exit_layer == together.exit_layers_R[place]
        assert torch.equal(by_index[place].logits_C, result.logits_C)
        assert torch.equal(together.logits_RC[place, : len(row.ids)], result.logits_C)
    assert runner.run([]).logits_RC.shape == (0, 0, 4)
    assert not result.logits_C.is_inference()


def test_without_exits_it_is_the_model() -> None:
    rows = small_rows(20)
    found = Runner(MODEL, exits=False).run(rows)
    assert found.exit_layers_R.tolist() == [MODEL.config.num_hidden_layers] * 20
    for row, logits_LC in zip(rows, found.logits_RC, strict=True):
        with torch.inference_mode():
            ids, types = (torch.from_numpy(x)[None] for x in (row.ids, row.types))
            expected_LC = MODEL(ids, token_type_ids=types).logits[0]
        torch.testing.assert_close(logits_LC[: len(row.ids)], expected_LC, rtol=1e-4, atol=1e-4)
    cut = Runner(MODEL, exits=False, depth=1).run(rows)
    for row, logits_LC in zip(rows, cut.logits_RC, strict=True):
        torch.testing.assert_close(
            logits_LC[: len(row.ids)], alone(MODEL, row)[1], rtol=1e-4, atol=1e-4
        )


def test_limits() -> None:
    rows = counted(small_rows(30))
    runner = Runner(MODEL, criterion=Entropy(0.9))
    free, limited = runner.run(rows), runner.run(rows, max_depth=1)
    assert limited.exit_layers_R.tolist() == [1] * 30
    assert torch.equal(limited.forced_R, free.exit_layers_R > 1)
    hurried = runner.run(rows, deadline=1e-9)
    assert hurried.exit_layers_R.tolist() == [1] * 30
    torch.testing.assert_close(hurried.logits_RC, limited.logits_RC)
    before = time.monotonic()
    assert torch.equal(runner.run(rows, deadline=60).exit_layers_R, free.exit_layers_R)
    assert time.monotonic() - before < 60


def test_nan_tokens_go_on_to_the_end() -> None:
    model = token_model(seed=3, n_labels=3)
    with torch.no_grad():
        model.base_model.embeddings.word_embeddings.weight[7] = torch.nan
    rows = [encoded([5, 6, 8]), encoded([5, 7, 8]), encoded([6, 6])]
    with pytest.warns(NaNLogitsWarning, match="1 rows of 3"):
        found = Runner(model, criterion=Entropy(9)).run(rows)
    assert found.exit_layers_R.tolist() == [1, model.config.num_hidden_layers, 1]


def test_rows_without_a_token_that_counts_leave_at_once() -> None:
    rows = [CountedRow(row.ids, row.types, np.zeros(len(row.ids), bool)) for row in small_rows(9)]
    for criterion in (Entropy(0), Patience(3), LearnedToExit(0.99)):
        model = token_model(exits={"certainty": True})
        found = Runner(model, criterion=criterion).run(rows)
        assert found.exit_layers_R.tolist() == [1] * 9


def test_each_token_has_its_own_certainty() -> None:
    model, rows = token_model(exits={"certainty": True}), small_rows()
    regressor = exits_of(model).certainty
    assert regressor is not None
    assert regressor.weight.shape == (1, model.config.hidden_size)
    with torch.no_grad():
        regressor.weight.mul_(40)
    runner, met = Runner(model, criterion=LearnedToExit(0.4)), set()
    found = runner.run(rows)
    assert_one_by_one(found, runner, rows)
    assert torch.equal(every_exit(model, rows).apply(LearnedToExit(0.4)).exit_layers_R,
                       found.exit_layers_R)  # fmt: skip
    for row, layer in zip(rows, found.exit_layers_R.tolist(), strict=True):
        with torch.inference_mode():
            flow = model.stack.start(Inputs.from_rows([row.ids], [row.types]))
            flow = model.stack.finish(model.stack.step(flow, 0))
            least = regressor(flow.hidden).sigmoid().min().item()
        assert (layer == 1) == (least > 0.4)
        met.add(layer)
    assert len(met) > 1


def test_what_is_refused() -> None:
    plain = offramp.BertForTokenClassification(MODEL.config)
    for pooler in ("attention", "first", "mean"):
        with pytest.raises(ConfigError, match="answers for each token, and its ramps take"):
            add_exits(plain, pooler=pooler)
    with pytest.raises(ConfigError, match="'tokens' is for models that answer for each token"):
        tiny_model(pooler="tokens")
    with pytest.raises(ConfigError, match="numbers"):
        Runner(MODEL, criterion=RegressionPatience(1, 0.1)).run(small_rows(1))
    row = small_rows(1)[0]
    for wrong in (np.ones(len(row.ids) + 1, dtype=bool), np.ones(len(row.ids), dtype=np.int64)):
        with pytest.raises(InputError, match="`counted`"):
            Runner(MODEL).run([CountedRow(row.ids, row.types, wrong)])


def test_a_fixed_depth_is_that_depth() -> None:
    found = Runner(MODEL, criterion=MinDepth(2)).run(small_rows(9))
    assert found.exit_layers_R.tolist() == [2] * 9


def test_no_token_is_asked_that_does_not_count() -> None:
    rows = counted(small_rows(12))

    class Watching(Criterion):
        def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> offramp.Decision:
            seen.append(len(logits_RC))
            none_U = torch.zeros(len(logits_RC), dtype=torch.bool)
            return offramp.Decision(none_U, torch.full((len(none_U),), math.inf), state_RS)

    seen: list[int] = []
    Runner(MODEL, criterion=Watching()).run(rows)
    assert seen[0] == sum(int(row.counted.sum()) for row in rows)
