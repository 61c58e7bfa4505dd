"""The runner: a row's answer is the one that it has alone, and a saved layer is saved."""

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from exit_models import encoded, random_rows, residual_model, tiny_model
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn
from typing_extensions import Self

from offramp.errors import ConfigError, InputError
from offramp.exits.attach import add_exits, exits_of, logits_by_depth
from offramp.exits.criteria import (
    Answer,
    Criterion,
    Decision,
    Entropy,
    Patience,
    logits_entropy,
)
from offramp.models.base import PretrainedModel
from offramp.models.bert import BertForSequenceClassification, BertModel
from offramp.models.config import PretrainedConfig, configuration, setting, whole
from offramp.models.flow import Flow, LayerStack
from offramp.models.inputs import Inputs
from offramp.nn.blocks import EncoderLayer
from offramp.nn.layout import Packed
from offramp.nn.pooling import pool_mean
from offramp.runner.prepare import prepared
from offramp.runner.run import Results, Runner
from offramp.runner.sweep import every_exit
from offramp.text.tokenizer import Encoded

# ---------------------------------------------------------------------------------------------
# A fake whose exit depths are scripted: a row's first token is the depth at which it leaves, its
# second the row's name. Its logits are (depth, name, layers passed).


@configuration
class ScriptedConfig(PretrainedConfig):
    model_type = "scripted"

    hidden_size: int = setting(default=2, check=whole(1))
    num_hidden_layers: int = setting(default=5, check=whole(1))


class ScriptedStack(nn.Module):
    """Hidden states are (token id, layers passed); `steps` records (layer, tokens)."""

    def __init__(self, config: ScriptedConfig) -> None:
        super().__init__()
        self.n_layers = config.num_hidden_layers
        self.steps: list[tuple[int, int]] = []

    def start(self, inputs: Inputs) -> Flow:
        assert inputs.ids is not None
        hidden = torch.stack([inputs.ids.float(), torch.zeros(len(inputs.ids))], -1)
        return Flow(hidden, inputs.layout, inputs.row_ids_R, inputs.positions)

    def step(self, flow: Flow, i: int) -> Flow:
        assert (flow.hidden[:, 1] == i).all(), "a token came to a layer out of turn"
        self.steps.append((i, len(flow.hidden)))
        return flow.advanced(flow.hidden + torch.tensor([0.0, 1.0]))

    def finish(self, flow: Flow) -> Flow:
        return flow

    def pool(self, flow: Flow) -> Tensor:
        assert isinstance(flow.layout, Packed)
        first_R2 = flow.hidden[flow.layout.starts_R]
        names_R = flow.hidden[flow.layout.starts_R + 1, 0]
        return torch.stack([first_R2[:, 0], names_R, first_R2[:, 1]], -1)


class ScriptedRamp(nn.Module):
    def __init__(self, stack: ScriptedStack) -> None:
        super().__init__()
        self.pool = stack.pool

    def answer(self, pooled: Tensor) -> Tensor:
        return pooled


class ScriptedModel(PretrainedModel):
    config_class = ScriptedConfig
    base_model_prefix = "body"

    def __init__(self, config: ScriptedConfig) -> None:
        super().__init__(config)
        self.body = ScriptedStack(config)
        self.anchor = nn.Parameter(torch.zeros(1))  # says where the model lies, and its type

    @property
    def stack(self) -> LayerStack:
        return self.body

    def logits(self, flow: Flow) -> Tensor:
        return self.body.pool(flow)


class Script(Criterion):
    """Leaves where the row says. Keeps in its state who the row was, and how often it was asked."""

    name = "script"

    def start(self, n_rows: int, n_classes: int) -> Tensor:
        return torch.tensor([[-1.0, 0.0]]).repeat(n_rows, 1)

    def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
        known_R = state_RS[:, 0] >= 0
        assert torch.equal(state_RS[known_R, 0], logits_RC[known_R, 1]), "another row's state"
        assert (state_RS[:, 1] == state_RS[:1, 1]).all()
        assert (logits_RC[:, 2] == depth).all()
        return Decision(
            leave_R=logits_RC[:, 0] == depth,
            slack_R=torch.full((len(logits_RC),), math.inf),
            state_RS=torch.stack([logits_RC[:, 1], state_RS[:, 1] + 1], -1),
        )

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        return cls()


def scripted_model(depths: list[int], n_layers: int = 5) -> ScriptedModel:
    config = ScriptedConfig(num_labels=3, num_hidden_layers=n_layers)
    model = add_exits(ScriptedModel(config), depths, pooler="mean", criterion=Script())
    for depth in depths:
        model.exits[str(depth)] = ScriptedRamp(model.body)
    return model.eval()


def scripted_rows(script: list[tuple[int, int]]) -> list[Encoded]:
    """Rows from (exit depth, length); names from 1000, so that they are no depths."""
    return [
        encoded([depth, 1000 + name, *range(length - 2)])
        for name, (depth, length) in enumerate(script)
    ]


@settings(deadline=None, max_examples=200)
@given(
    script=st.lists(st.tuples(st.integers(1, 6), st.integers(2, 12)), max_size=40),
    depths=st.sets(st.integers(1, 4), max_size=4),
    window_rows=st.integers(1, 50),
    window_tokens=st.integers(1, 200),
    microbatch_tokens=st.integers(1, 60),
)
def test_scripted_rows_leave_where_they_say(
    script: list[tuple[int, int]],
    depths: set[int],
    window_rows: int,
    window_tokens: int,
    microbatch_tokens: int,
) -> None:
    model = scripted_model(sorted(depths))
    runner = Runner(
        model,
        window_rows=window_rows,
        window_tokens=window_tokens,
        microbatch_tokens=microbatch_tokens,
    )
    results = runner.run(scripted_rows(script))
    expected = [depth if depth in depths else 5 for depth, _ in script]
    assert results.exit_layers_R.tolist() == expected
    assert results.logits_RC.tolist() == [
        [depth, 1000 + name, left]
        for name, ((depth, _), left) in enumerate(zip(script, expected, strict=True))
    ]
    # Each token passed the layers that its row took, once, and no more.
    taken = sum(tokens for _, tokens in model.body.steps)
    assert taken == sum(length * left for (_, length), left in zip(script, expected, strict=True))
    if script:
        assert results.mean_layers == pytest.approx(sum(expected) / len(expected))


@given(
    script=st.lists(st.tuples(st.integers(1, 6), st.integers(2, 5)), min_size=1, max_size=12),
    cut=st.sampled_from([1, 3, 4, 5]),
)
@settings(deadline=None, max_examples=50)
def test_scripted_rows_leave_no_later_than_the_cut(script: list[tuple[int, int]], cut: int) -> None:
    model = scripted_model([1, 3, 4])
    results = Runner(model, depth=cut, microbatch_tokens=10).run(scripted_rows(script))
    expected = [depth if depth in (1, 3, 4) and depth < cut else cut for depth, _ in script]
    assert results.exit_layers_R.tolist() == expected
    assert results.logits_RC[:, 2].tolist() == expected


def test_deep_layers_see_full_microbatches() -> None:
    rng = random.Random(0)
    # Nine in ten leave after the first layer, and half of the rest after the third.
    script = [(rng.choice([1] * 18 + [3, 6]), rng.randint(5, 15)) for _ in range(2000)]
    model = scripted_model([1, 2, 3, 4])
    Runner(model, microbatch_tokens=256).run(scripted_rows(script))
    for layer in range(5):
        sizes = [tokens for i, tokens in model.body.steps if i == layer]
        assert max(sizes) <= 256 * 1.25 + 15
        assert sum(sizes) / len(sizes) > 256 * 0.6, f"layer {layer} ran {sizes}"


def test_microbatches_hold_one_row_at_least() -> None:
    model = scripted_model([1])
    Runner(model, microbatch_tokens=1).run(scripted_rows([(5, 9), (5, 3), (5, 4)]))
    assert [tokens for i, tokens in model.body.steps if i == 0] == [3, 4, 9]


# ---------------------------------------------------------------------------------------------
# Real models: batched equals one by one.

MODELS: dict[str, Callable[[], PretrainedModel]] = {
    "two classes": lambda: tiny_model(1, n_labels=2),
    "three classes": lambda: tiny_model(2, n_labels=3),
    "four layers, mean": lambda: tiny_model(3, pooler="mean", num_hidden_layers=4),
    "five classes, first": lambda: tiny_model(4, n_labels=5, pooler="first"),
    "sharp": lambda: tiny_model(5, n_labels=3, scale=40.0),
    "flat": lambda: tiny_model(6, n_labels=2, scale=0.5),
    "another family": lambda: add_exits(residual_model(7)),
}


@cache
def real_model(name: str) -> PretrainedModel:
    return MODELS[name]()


@cache
def alone(name: str, seed: int, n_rows: int = 40) -> tuple[list[Encoded], list[dict[int, Tensor]]]:
    """Rows, and each one's logits [C] by depth when it shares its batch with none."""
    rows = random_rows(n_rows, seed)
    return rows, by_depth_alone(real_model(name), rows)


@torch.inference_mode()
def by_depth_alone(model: PretrainedModel, rows: list[Encoded]) -> list[dict[int, Tensor]]:
    model = prepared(model)
    answers = [logits_by_depth(model, Inputs.from_rows([row.ids], [row.types])) for row in rows]
    return [{depth: x[0] for depth, x in answer.items()} for answer in answers]


def decide_alone(answer: dict[int, Tensor], criterion: Criterion) -> tuple[int, int]:
    """Label and exit layer of one row, from its logits by depth."""
    state = criterion.start(1, len(answer[1]))
    last = max(answer)
    for depth, logits_C in answer.items():
        if depth < last:
            decision = criterion.ask(state, depth, Answer(logits_C[None]))
            if bool(decision.leave_R):
                return int(logits_C.argmax()), depth
            state = decision.state_RS
    return int(answer[last].argmax()), last


def labels_and_layers(results: Results) -> list[tuple[int, int]]:
    return list(
        zip(results.logits_RC.argmax(-1).tolist(), results.exit_layers_R.tolist(), strict=True)
    )


def random_settings(rng: random.Random) -> dict[str, int]:
    return {
        "window_rows": rng.choice([1, 3, 17, 4096]),
        "window_tokens": rng.choice([1, 60, 500, 65_536]),
        "microbatch_tokens": rng.choice([1, 20, 64, 300, 1024]),
    }


@pytest.mark.parametrize("name", MODELS)
def test_batched_equals_one_by_one(name: str) -> None:
    rng = random.Random(name)
    rows, answers = alone(name, seed=0)
    entropies = [float(logits_entropy(x)) for answer in answers for x in list(answer.values())[:-1]]
    left_at = set()
    for case in range(30):
        threshold = rng.choice(entropies) * rng.choice([0.999, 1.0, 1.001]) if case else 0.0
        expected = [decide_alone(answer, Entropy(threshold)) for answer in answers]
        order = rng.sample(range(len(rows)), rng.randint(2, len(rows)))
        asked = random_settings(rng)
        runner = Runner(real_model(name), criterion=Entropy(threshold), **asked)
        found = labels_and_layers(runner.run([rows[i] for i in order]))
        assert found == [expected[i] for i in order], (threshold, asked)
        left_at |= {layer for _, layer in found}
    assert left_at == set(answers[0])  # rows left after every layer, or this shows little


@pytest.mark.parametrize("name", ["two classes", "another family"])
def test_one_by_one_is_a_run_of_one_row(name: str) -> None:
    rows, answers = alone(name, seed=0)
    runner = Runner(real_model(name), criterion=Entropy(0.3))
    for row, answer in zip(rows, answers, strict=True):
        results = runner.run([row])
        assert labels_and_layers(results) == [decide_alone(answer, Entropy(0.3))]
        layer = int(results.exit_layers_R)
        # The last layer is run for the first token alone, a product of another shape.
        slack = 1e-5 if layer == max(answer) else 0
        torch.testing.assert_close(results.logits_RC[0], answer[layer], rtol=slack, atol=slack)


@pytest.mark.parametrize("shift", [0.0, 1e-7, -1e-7, 1e-6, -1e-6, "next"])
@pytest.mark.parametrize("name", ["two classes", "sharp", "another family"])
def test_a_score_at_the_threshold_is_decided_as_alone(name: str, shift: float | str) -> None:
    rows, answers = alone(name, seed=0)
    runner_settings = random_settings(random.Random(f"{name} {shift}"))
    for row in range(0, len(rows), 13):
        for depth in list(answers[row])[:-1]:
            own = float(logits_entropy(answers[row][depth]))
            if isinstance(shift, str):
                threshold = float(np.nextafter(np.float32(own), np.float32(9)))
            else:
                threshold = max(0.0, own + shift)
            runner = Runner(real_model(name), criterion=Entropy(threshold), **runner_settings)
            expected = [decide_alone(answer, Entropy(threshold)) for answer in answers]
            assert labels_and_layers(runner.run(rows)) == expected, (row, depth)


def tie(head: nn.Linear, size: float) -> None:
    """Classes 0 and 1 differ by no more than float products do; their logits are about `size`."""
    torch.manual_seed(11)
    with torch.no_grad():
        head.weight.mul_(size / head.weight.norm(dim=-1).mean())
        head.weight[1] = head.weight[0] * (1 + torch.randn_like(head.weight[0]) * 1e-7)
        head.weight[2] = 0
        head.bias.copy_(torch.tensor([0.0, 0.0, -3.0 * size]))


@pytest.mark.parametrize("size", [1.0, 30.0, 1000.0])
def test_nearly_tied_classes_get_the_label_that_they_have_alone(size: float) -> None:
    model = tiny_model(9, n_labels=3, num_hidden_layers=4)
    del model.exits
    add_exits(model, [3])
    for head in (model.classifier, exits_of(model).ramp(3).classifier):
        tie(head, size)
    rows = random_rows(150, seed=4)
    for runner, layer in (
        (Runner(model, criterion=Entropy(0.95)), 3),  # two tied classes have ln 2 = .69
        (Runner(model, exits=False), 4),
    ):
        expected = [labels_and_layers(runner.run([row]))[0] for row in rows]
        assert {label for label, left in expected if left == layer} == {0, 1}
        assert labels_and_layers(runner.run(rows)) == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_batched_equal_one_by_one(dtype: torch.dtype) -> None:
    model = tiny_model(2).to(dtype)
    rows = random_rows(30, seed=6)
    runner = Runner(model, criterion=Entropy(0.5))
    expected = [labels_and_layers(runner.run([row]))[0] for row in rows]
    assert labels_and_layers(runner.run(rows)) == expected
    assert len({layer for _, layer in expected}) > 1


@settings(deadline=None, max_examples=60)
@given(
    order=st.permutations(range(25)),
    place=st.integers(0, 24),
    threshold=st.floats(0, 1.1),
    window_rows=st.integers(1, 30),
    microbatch_tokens=st.integers(1, 400),
)
def test_neighbours_do_not_matter(
    order: list[int], place: int, threshold: float, window_rows: int, microbatch_tokens: int
) -> None:
    rows, answers = alone("three classes", seed=0)
    some = order[: place + 1]
    runner = Runner(
        real_model("three classes"),
        criterion=Entropy(threshold),
        window_rows=window_rows,
        microbatch_tokens=microbatch_tokens,
    )
    found = labels_and_layers(runner.run([rows[i] for i in some]))
    assert found == [decide_alone(answers[i], Entropy(threshold)) for i in some]


# ---------------------------------------------------------------------------------------------
# A criterion with a memory.


def patience_by_hand(answer: dict[int, Tensor], patience: int) -> tuple[int, int]:
    labels = [int(x.argmax()) for x in answer.values()]
    for place in range(patience, len(labels) - 1):
        if len(set(labels[place - patience : place + 1])) == 1:
            return labels[place], place + 1
    return labels[-1], len(labels)


@pytest.mark.parametrize("patience", [1, 2])
@pytest.mark.parametrize("name", ["four layers, mean", "another family"])
def test_a_criterion_with_memory_batched_equals_one_by_one(name: str, patience: int) -> None:
    rows, answers = alone(name, seed=0)
    expected = [patience_by_hand(answer, patience) for answer in answers]
    assert [decide_alone(answer, Patience(patience)) for answer in answers] == expected
    assert patience > 1 or len({layer for _, layer in expected}) > 1
    rng = random.Random(patience)
    for _ in range(15):
        order = rng.sample(range(len(rows)), len(rows))
        runner = Runner(real_model(name), criterion=Patience(patience), **random_settings(rng))
        found = labels_and_layers(runner.run([rows[i] for i in order]))
        assert found == [expected[i] for i in order]


def test_memory_of_nearly_tied_rows_is_the_row_s_own() -> None:
    # At ramp 2, where all rows stay, a batched row's label may be another than alone; at ramp 3,
    # where all are sure of class 0, those leave that were of that label before.
    model = tiny_model(9, n_labels=3, num_hidden_layers=4)
    del model.exits
    add_exits(model, [2, 3])
    tie(exits_of(model).ramp(2).classifier, 1.0)
    with torch.no_grad():
        exits_of(model).ramp(3).classifier.bias[0] = 50
    rows = random_rows(200, seed=8)
    runner = Runner(model, criterion=Patience(1))
    expected = [labels_and_layers(runner.run([row]))[0] for row in rows]
    assert {layer for _, layer in expected} == {3, 4}
    assert labels_and_layers(runner.run(rows)) == expected


# ---------------------------------------------------------------------------------------------
# What the options mean.


def padded_batch(rows: list[Encoded]) -> dict[str, Tensor]:
    shape = len(rows), max(len(row.ids) for row in rows)
    batch = {
        name: torch.zeros(shape, dtype=torch.int64)
        for name in ("input_ids", "token_type_ids", "attention_mask")
    }
    for r, row in enumerate(rows):
        batch["input_ids"][r, : len(row.ids)] = torch.from_numpy(row.ids)
        batch["token_type_ids"][r, : len(row.ids)] = torch.from_numpy(row.types)
        batch["attention_mask"][r, : len(row.ids)] = 1
    return batch


def test_without_exits_it_is_the_model_s_forward() -> None:
    rows = random_rows(70, seed=1)
    model = tiny_model(2)
    exits_of(model).criterion = Entropy(5.0)  # not asked
    with torch.no_grad():
        expected = model(**padded_batch(rows)).logits
    results = Runner(model, exits=False).run(rows)
    torch.testing.assert_close(results.logits_RC, expected, rtol=1e-4, atol=1e-4)
    assert results.exit_layers_R.tolist() == [3] * 70
    del model.exits
    torch.testing.assert_close(Runner(model).run(rows).logits_RC, results.logits_RC)


@pytest.mark.parametrize("name", ["three classes", "sharp", "another family"])
@pytest.mark.parametrize("microbatch_tokens", [50, 1024])
def test_never_leaving_gives_the_plain_logits_bit_for_bit(
    name: str, microbatch_tokens: int
) -> None:
    rows, _ = alone(name, seed=0)
    model = real_model(name)
    never = Runner(model, criterion=Entropy(0), microbatch_tokens=microbatch_tokens).run(rows)
    plain = Runner(model, exits=False, microbatch_tokens=microbatch_tokens).run(rows)
    assert torch.equal(never.logits_RC, plain.logits_RC)
    assert torch.equal(never.exit_layers_R, plain.exit_layers_R)


def test_never_leaving_costs_no_layer_twice() -> None:
    # Sure rows have an entropy of nearly 0, and no row leaves at threshold 0: there is no doubt
    # that would justify running one alone.
    model = tiny_model(5, scale=300.0)
    rows = random_rows(50, seed=3)
    passed: list[int] = []
    for module in model.modules():
        if isinstance(module, EncoderLayer):
            module.register_forward_hook(lambda _, inputs, __: passed.append(len(inputs[0])))
    Runner(model, exits=False).run(rows)
    plain = sum(passed)
    assert plain == 3 * sum(len(row.ids) for row in rows)
    passed.clear()
    Runner(model, criterion=Entropy(0)).run(rows)
    assert sum(passed) == plain


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_depth_is_that_ramp_s_answer(depth: int) -> None:
    rows, answers = alone("three classes", seed=0)
    results = Runner(real_model("three classes"), exits=False, depth=depth).run(rows)
    expected = torch.stack([answer[depth] for answer in answers])
    torch.testing.assert_close(results.logits_RC, expected, rtol=1e-4, atol=1e-4)
    assert set(results.exit_layers_R.tolist()) == {depth}


def test_depth_with_exits_cuts_and_leaves() -> None:
    rows, answers = alone("four layers, mean", seed=0)
    criterion = Entropy(0.4)
    results = Runner(real_model("four layers, mean"), criterion=criterion, depth=3).run(rows)
    cut = [{d: x for d, x in answer.items() if d <= 3} for answer in answers]
    assert labels_and_layers(results) == [decide_alone(answer, criterion) for answer in cut]
    assert len(set(results.exit_layers_R.tolist())) == 3


class MeanOfAll(BertForSequenceClassification):
    """A user's class whose answer reads all tokens, below one that reads the first alone."""

    def logits(self, flow: Flow) -> Tensor:
        logits_RC: Tensor = self.classifier(pool_mean(flow.hidden, flow.layout))
        return logits_RC


def test_the_last_layer_is_run_for_the_tokens_that_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, int]] = []
    step = BertModel.step

    def spy(self: BertModel, flow: Flow, i: int, queries: Tensor | None = None) -> Flow:
        after = step(self, flow, i, queries)
        seen.append((i, len(after.bare().hidden)))
        return after

    monkeypatch.setattr(BertModel, "step", spy)
    rows = random_rows(12)
    tokens = sum(len(row.ids) for row in rows)
    model = tiny_model(0)
    last = len(model.bert.encoder.layer) - 1
    found = Runner(model, exits=False).run(rows).logits_RC
    assert seen == [*((i, tokens) for i in range(last)), (last, len(rows))]
    expected = torch.stack([answer[last + 1] for answer in by_depth_alone(model, rows)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    seen.clear()
    other = MeanOfAll(model.config).eval()
    other.load_state_dict({k: v for k, v in model.state_dict().items() if "exits" not in k})
    found = Runner(other, exits=False).run(rows).logits_RC
    assert seen[-1] == (last, tokens)
    with torch.inference_mode():
        for row, logits_C in zip(rows, found, strict=True):
            ids, types = (torch.from_numpy(x)[None] for x in (row.ids, row.types))
            hidden_LD = other.bert(ids, token_type_ids=types).last_hidden_state[0]
            torch.testing.assert_close(
                logits_C, other.classifier(hidden_LD.mean(0)), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("criterion", [Entropy(0.2), Entropy(0.6), Entropy(0.3, 1.4), Patience(1)])
@pytest.mark.parametrize("name", ["three classes", "four layers, mean"])
def test_equals_a_sweep_with_the_criterion_applied(name: str, criterion: Criterion) -> None:
    rows, _ = alone(name, seed=0)
    answers = every_exit(real_model(name), rows)
    # Rows too near a threshold are the runner's to decide alone; the sweep has none of that.
    for depth, logits_RC in zip(answers.depths[:-1], answers.logits_ERC[:-1], strict=True):
        state_RS = criterion.start(len(rows), logits_RC.shape[-1])
        assert criterion.update(state_RS, depth, logits_RC).slack_R.min() > 1e-4
    one = answers.apply(criterion)
    two = Runner(real_model(name), criterion=criterion).run(rows)
    assert torch.equal(one.exit_layers_R, two.exit_layers_R)
    torch.testing.assert_close(one.logits_RC, two.logits_RC, rtol=1e-4, atol=1e-4)


def test_the_model_s_own_criterion_is_read_when_a_run_begins() -> None:
    rows, answers = alone("three classes", seed=0)
    model = tiny_model(2)
    runner = Runner(model, window_rows=10)
    first, second = Entropy(0.3), Entropy(0.9)
    exits_of(model).criterion = first
    stream = runner.stream(rows)
    found = [next(stream)]
    exits_of(model).criterion = second
    found += stream
    assert [r.exit_layer for r in found] == [decide_alone(a, first)[1] for a in answers]
    later = runner.run(rows)
    assert later.exit_layers_R.tolist() == [decide_alone(a, second)[1] for a in answers]
    assert [r.exit_layer for r in found] != later.exit_layers_R.tolist()
    # ... and one given to the runner holds whatever the model's is.
    given_one = Runner(model, criterion=first).run(rows)
    assert given_one.exit_layers_R.tolist() == [r.exit_layer for r in found]


def test_stream_run_and_windows_agree() -> None:
    rows, _ = alone("three classes", seed=0)
    runner = Runner(real_model("three classes"), criterion=Entropy(0.5), window_rows=7)
    whole_run = runner.run(rows)
    streamed = list(runner.stream(iter(rows)))
    windows = list(runner.windows(rows))
    assert [len(w.exit_layers_R) for w in windows] == [7, 7, 7, 7, 7, 5]
    assert torch.equal(torch.stack([r.logits_C for r in streamed]), whole_run.logits_RC)
    assert [r.exit_layer for r in streamed] == whole_run.exit_layers_R.tolist()
    assert torch.equal(torch.cat([w.logits_RC for w in windows]), whole_run.logits_RC)


def test_windows_are_bounded_in_rows_and_tokens() -> None:
    rows = random_rows(60, seed=2)
    read: list[int] = []

    def source() -> Iterator[Encoded]:
        for row in rows:
            read.append(len(row.ids))
            yield row

    for limits in ({"window_rows": 8}, {"window_tokens": 120}):
        read.clear()
        given_out = 0
        for window in Runner(real_model("three classes"), **limits).windows(source()):
            n_rows = len(window.exit_layers_R)
            given_out += n_rows
            assert len(read) <= given_out + 1  # the row that no longer fitted
            assert n_rows <= limits.get("window_rows", 60)
            tokens = sum(read[given_out - n_rows : given_out])
            assert tokens <= limits.get("window_tokens", tokens)
        assert given_out == len(read) == 60


def test_an_endless_source_is_read_as_it_is_needed() -> None:
    rows = random_rows(10, seed=2)
    stream = Runner(real_model("three classes"), window_rows=16).stream(itertools.cycle(rows))
    layers = [result.exit_layer for result in itertools.islice(stream, 40)]
    assert layers[:10] == layers[10:20] == layers[20:30]


def test_a_row_longer_than_a_window_is_run_alone() -> None:
    rows, answers = alone("three classes", seed=0)
    windows = Runner(real_model("three classes"), criterion=Entropy(0.4), window_tokens=5).windows(
        rows
    )
    found = [pair for window in windows for pair in labels_and_layers(window)]
    assert found == [decide_alone(answer, Entropy(0.4)) for answer in answers]


def test_results_are_on_the_host_and_carry_no_gradient() -> None:
    results = Runner(real_model("three classes")).run(random_rows(3))
    assert not results.logits_RC.requires_grad
    assert results.logits_RC.dtype == torch.float32
    assert results.exit_layers_R.dtype == torch.int64


def test_no_rows_no_results() -> None:
    results = Runner(real_model("five classes, first")).run([])
    assert results.logits_RC.shape == (0, 5)
    assert results.exit_layers_R.shape == (0,)
    assert list(Runner(real_model("three classes")).stream(iter([]))) == []


def test_training_mode_is_refused() -> None:
    model = tiny_model()
    runner = Runner(model)
    model.train()
    for use in (runner.run, lambda rows: list(runner.stream(rows))):
        with pytest.raises(InputError, match=r"model\.eval\(\)"):
            use(random_rows(2))


@pytest.mark.parametrize("value", [0, -1, 2.5, float("nan"), "3"])
@pytest.mark.parametrize("name", ["window_rows", "window_tokens", "microbatch_tokens"])
def test_limits_are_whole_numbers_from_one(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number of at least 1; got"):
        Runner(real_model("three classes"), **{name: value})


@pytest.mark.parametrize(("name", "value"), [("deadline", "1"), ("max_depth", 2.5)])
def test_limits_of_a_call_are_numbers(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{name} is a .*; got {value!r}"):
        Runner(real_model("three classes")).run(random_rows(2), **{name: value})


def test_rows_before_an_error_are_answered() -> None:
    def breaking() -> Iterator[Encoded]:
        yield from random_rows(3)
        raise KeyError("row 3")

    answers = Runner(real_model("three classes")).stream(breaking())
    assert [next(answers) for _ in range(3)]
    with pytest.raises(KeyError, match="row 3"):
        next(answers)


def test_a_depth_without_an_exit_is_refused() -> None:
    model = add_exits(residual_model(), [1, 3])
    for depth in (0, 2, 5, -1):
        with pytest.raises(ConfigError, match=r"\(1, 3\) or the last, 4"):
            Runner(model, depth=depth)
    Runner(model, depth=4)
    with pytest.raises(ConfigError, match="has no exits"):
        Runner(residual_model(), depth=2)


def test_models_that_cannot_be_run() -> None:
    with pytest.raises(ConfigError, match="BertModel"):
        Runner(BertModel(tiny_model().config))
    with pytest.raises(ConfigError, match="has no exits"):
        Runner(residual_model(), criterion=Entropy(0.1)).run(random_rows(2))


def test_rows_that_cannot_be_run() -> None:
    with pytest.raises(InputError, match="at least one token"):
        Runner(real_model("three classes")).run([encoded([])])
    with pytest.raises(InputError, match="65 tokens; this model has positions for 64"):
        Runner(real_model("three classes")).run([encoded([5]), encoded([5] * 65)])


def test_a_criterion_that_fails_leaves_the_runner_usable() -> None:
    class Broken(Script):
        def update(self, state_RS: Tensor, depth: int, logits_RC: Tensor) -> Decision:
            raise ZeroDivisionError

    model = scripted_model([1])
    runner = Runner(model)
    exits_of(model).criterion = Broken()
    with pytest.raises(ZeroDivisionError):
        runner.run(scripted_rows([(1, 2)]))
    exits_of(model).criterion = Script()
    assert runner.run(scripted_rows([(1, 2)])).exit_layers_R.tolist() == [1]


def test_float64_logits_are_not_rounded() -> None:
    model = tiny_model(2).double()
    rows = random_rows(20, seed=6)
    found = Runner(model, exits=False).run(rows).logits_RC
    assert found.dtype == torch.float64
    expected = torch.stack([answer[3] for answer in by_depth_alone(model, rows)])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
