"""Compiled layers: the model's answers, and one program for all numbers of rows and lengths."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Iterator

import pytest
import torch
from exit_models import encoded, random_rows, residual_model, tiny_model
from parity_families import FAMILIES
from torch._dynamo.utils import counters

import offramp
from offramp.errors import ConfigError, InputError
from offramp.exits.attach import add_exits
from offramp.exits.criteria import Entropy
from offramp.models.base import PretrainedModel
from offramp.models.encoder import EncoderBody
from offramp.runner import prepare as preparing
from offramp.runner.prepare import prepare, prepared
from offramp.runner.run import Runner

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="no compiler of C++"
)

# The compiler uses parts of torch that torch itself is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

PROGRAMS = 8
"""At most so many for a model: after attention and around it, for one token and for several."""


@pytest.fixture(autouse=True)
def anew() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def programs() -> int:
    return int(counters["stats"]["unique_graphs"])


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_programs_do_not_depend_on_rows_or_lengths(dtype: torch.dtype) -> None:
    model = tiny_model(3).to(dtype)
    fast = prepare(model, compile=True)
    assert programs() <= 1  # the trial
    counters.clear()
    picker = random.Random(0)
    for seed in range(30):
        rows = random_rows(picker.randrange(1, 60), seed, longest=picker.randrange(3, 60))
        for options in ({"exits": False}, {"criterion": Entropy(picker.uniform(0.1, 1.1))}):
            expected = Runner(model, prepare=False, **options).run(rows)
            found = Runner(fast, **options).run(rows)
            bound = 1e-9 if dtype == torch.float64 else 1e-4
            torch.testing.assert_close(found.logits_RC, expected.logits_RC, rtol=bound, atol=bound)
            assert torch.equal(found.exit_layers_R, expected.exit_layers_R)
        if seed == 9:
            before = programs()
    assert 0 < programs() <= PROGRAMS
    assert programs() == before, "a new shape made a new program"


@needs_compiler
def test_rows_alone_after_peeks() -> None:
    model = tiny_model(3, pooler="first")
    fast = prepare(model, compile=True)
    rows = random_rows(40, longest=30)
    # With keys and values that were made before, then without: at 0 nobody leaves.
    for some, threshold in ((rows, 0.0), (rows[:1], 0.0), (rows, 0.6), (rows[:1], 0.6)):
        expected = Runner(model, prepare=False, criterion=Entropy(threshold)).run(some)
        found = Runner(fast, criterion=Entropy(threshold)).run(some)
        torch.testing.assert_close(found.logits_RC, expected.logits_RC, rtol=1e-4, atol=1e-4)
        assert torch.equal(found.exit_layers_R, expected.exit_layers_R)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str) -> None:
    config = getattr(offramp, f"{family}Config")(**FAMILIES[family].tiny)
    torch.manual_seed(0)
    model = add_exits(getattr(offramp, f"{family}ForSequenceClassification")(config).eval()).eval()
    rows = [encoded(row.ids % 16 + 4) for row in random_rows(30, longest=20)]
    fast = prepare(model, compile=True)
    found = Runner(fast, criterion=Entropy(0)).run(rows)
    assert programs() > 0
    expected = Runner(model, prepare=False, criterion=Entropy(0)).run(rows)
    torch.testing.assert_close(found.logits_RC, expected.logits_RC, rtol=1e-4, atol=1e-4)


@needs_compiler
def test_the_model_is_left_alone() -> None:
    model = tiny_model(2)
    fast = prepare(model, compile=True)
    body = model.base_model
    assert isinstance(body, EncoderBody)
    assert all(layer._compiled_call_impl is None for layer in body.layers)
    assert all("mix" not in vars(module) for module in model.modules())
    assert prepared(fast) is fast
    assert not preparing.sums_alike(fast)
    assert [one is two for one, two in zip(model.parameters(), fast.parameters(), strict=True)]
    rows = random_rows(9)
    other = copy.deepcopy(fast)
    with torch.no_grad():
        other.classifier.weight.zero_()
        other.classifier.bias.zero_()
    assert not Runner(other, exits=False).run(rows).logits_RC.any()
    assert Runner(fast, exits=False).run(rows).logits_RC.any()


def test_what_cannot_be_compiled() -> None:
    model = tiny_model(2)
    with pytest.raises(ConfigError, match="choose one"):
        prepare(model, int8=True, compile=True)
    with pytest.raises(ConfigError, match="has none"):
        prepare(residual_model(), compile=True)
    with pytest.raises(InputError, match=r"model\.eval\(\)"):
        prepare(tiny_model(2).train(), compile=True)
    model.classifier.register_forward_hook(lambda *_: None)
    with pytest.raises(ConfigError, match="without hooks"):
        prepare(model, compile=True)


def test_without_a_compiler_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> PretrainedModel:
        raise RuntimeError("no C++ compiler\nand more")

    monkeypatch.setattr(torch, "compile", none)
    preparing._check_compiler.cache_clear()
    try:
        with pytest.raises(ConfigError, match=r"no C\+\+ compiler On a CPU.*leave compile=True"):
            prepare(tiny_model(2), compile=True)
    finally:
        preparing._check_compiler.cache_clear()
