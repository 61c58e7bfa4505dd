"""The copy that is run: the model's answers, its parameters, and nothing that is out of date."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from exit_models import encoded, random_rows, residual_model, tiny_model
from parity_families import FAMILIES
from torch import Tensor, nn

import offramp
from offramp.errors import InputError
from offramp.exits.attach import add_exits, exits_of, logits_by_depth
from offramp.exits.criteria import Entropy
from offramp.models.base import PretrainedModel
from offramp.models.flow import run_layers
from offramp.models.inputs import Inputs
from offramp.nn.layout import round_size
from offramp.nn.prepared import PreparedLinear, can_prepare
from offramp.runner import prepare as preparing
from offramp.runner.prepare import prepare, prepared
from offramp.runner.run import Results, Runner
from offramp.text.tokenizer import Encoded

if not can_prepare(torch.float32):
    pytest.skip("this torch or processor has no such operators", allow_module_level=True)

TASKS = ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]
TASKS += ["ForMaskedLM", "ForMultipleChoice"]
# Of GPT-2, whose matrices lie the other way round, nothing is laid out anew.
families = pytest.mark.parametrize("family", [n for n, f in FAMILIES.items() if not f.causal])


def family_model(family: str, task: str = TASKS[0], seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    if task == "ForQuestionAnswering":
        changes["num_labels"] = 2  # an answer's first token and its last
    config = getattr(offramp, f"{family}Config")(**FAMILIES[family].tiny | changes)
    return getattr(offramp, family + task)(config).eval()


def batch(task: str = TASKS[0]) -> dict[str, Tensor]:
    """Padded ids of 8 tokens at most; none is the padding of any family."""
    torch.manual_seed(1)
    shape = (5, 3, 8) if task == "ForMultipleChoice" else (5, 8)
    lengths = torch.tensor([8, 1, 5, 8, 3]).view(-1, *[1] * (len(shape) - 1))
    mask = (torch.arange(8) < lengths).expand(shape).long()
    return {"input_ids": torch.randint(4, 20, shape), "attention_mask": mask}


def tensors(output: Any) -> list[Tensor]:
    return [x for x in output.to_tuple() if isinstance(x, Tensor)]


def assert_same_answers(one: nn.Module, two: nn.Module, task: str = TASKS[0]) -> None:
    with torch.no_grad():
        found, expected = tensors(one(**batch(task))), tensors(two(**batch(task)))
    assert len(found) == len(expected) > 0
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


def run(model: PretrainedModel, rows: list[Encoded] | None = None, **options: Any) -> Tensor:
    """Full-depth logits, whatever exits there are."""
    rows = small_rows() if rows is None else rows
    return Runner(model, exits=False, **options).run(rows).logits_RC


def assert_up_to_date(model: PretrainedModel, before: Tensor | None = None) -> Tensor:
    """A run gives what the model itself gives, and something else than before."""
    found = run(model)
    torch.testing.assert_close(found, run(model, prepare=False), rtol=1e-4, atol=1e-4)
    assert before is None or not torch.allclose(found, before, rtol=1e-2, atol=1e-2)
    return found


def small_rows() -> list[Encoded]:
    return random_rows(12, seed=3, longest=9, vocabulary=20)


def linears(model: nn.Module) -> list[tuple[str, type]]:
    return [(name, type(m)) for name, m in model.named_modules() if isinstance(m, nn.Linear)]


# ---------------------------------------------------------------------------------------------
# The model's outputs.


@pytest.mark.parametrize("task", TASKS)
@families
def test_outputs_are_the_model_s(family: str, task: str) -> None:
    model = family_model(family, task)
    fast = prepare(model)
    assert fast is not model
    assert type(fast) is type(model)
    assert sum(kind is PreparedLinear for _, kind in linears(fast)) > 3
    assert_same_answers(fast, model, task)


@families
def test_a_run_s_answers_are_the_model_s(family: str) -> None:
    model = family_model(family)
    for tokens in (1, 20, 1024):
        found = run(model, microbatch_tokens=tokens)
        expected = run(model, microbatch_tokens=tokens, prepare=False)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    rows = small_rows()
    for row, logits_C in zip(rows, found, strict=True):
        with torch.no_grad():
            output = model(torch.from_numpy(row.ids)[None], token_type_ids=types_of(family, row))
        torch.testing.assert_close(output.logits[0], logits_C, rtol=1e-5, atol=1e-5)


def types_of(family: str, row: Encoded) -> Tensor | None:
    return torch.from_numpy(row.types)[None] if FAMILIES[family].token_types else None


@pytest.mark.parametrize("pooler", ["attention", "first", "last", "mean"])
@families
def test_every_exit_s_logits(family: str, pooler: str) -> None:
    model = add_exits(family_model(family), pooler=pooler).eval()
    rows = small_rows()
    inputs = Inputs.from_rows([row.ids for row in rows], [row.types for row in rows])
    with torch.inference_mode():
        found, expected = (logits_by_depth(each, inputs) for each in (prepare(model), model))
    assert found.keys() == expected.keys()
    for depth, logits_RC in found.items():
        torch.testing.assert_close(logits_RC, expected[depth], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooler", ["attention", "first", "last", "mean"])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 5.0])
def test_labels_and_layers_are_those_of_the_model_itself(pooler: str, threshold: float) -> None:
    model, rows = tiny_model(2, pooler=pooler), random_rows(60, seed=5)
    found, expected = (
        Runner(model, criterion=Entropy(threshold), prepare=way).run(rows) for way in (True, False)
    )
    assert torch.equal(found.exit_layers_R, expected.exit_layers_R)
    assert torch.equal(found.logits_RC.argmax(-1), expected.logits_RC.argmax(-1))
    torch.testing.assert_close(found.logits_RC, expected.logits_RC, rtol=1e-5, atol=1e-4)


@families
def test_pruned_heads(family: str) -> None:
    model = family_model(family)
    before = run(model)
    model.base_model.prune_heads({0: [0, 2], 1: [1]})
    assert_same_answers(prepare(model), model)
    assert_up_to_date(model, before)


@pytest.mark.parametrize("groups", [1, 2])
def test_albert_s_layers_are_laid_out_once(groups: int) -> None:
    model = family_model("Albert", num_hidden_groups=groups, num_hidden_layers=4)
    fast = prepare(model)
    assert len({id(layer) for layer in fast.stack.layers}) == groups
    assert_same_answers(fast, model)


@families
def test_rows_together_come_in_round_sizes(family: str) -> None:
    model = family_model(family)
    rows = small_rows() * 4 + small_rows()[:1]
    inputs = Inputs.from_rows([row.ids for row in rows], [row.types for row in rows])
    one_row = Inputs.from_rows([range(3, 13)], [[0] * 10])  # type: ignore[list-item]
    fast, n_tokens = prepare(model).stack, inputs.layout.n_tokens  # type: ignore[union-attr]
    with torch.inference_mode():
        assert round_size(n_tokens) > n_tokens, "or these rows show nothing"
        assert len(fast.start(inputs).hidden) == round_size(n_tokens)
        assert len(fast.finish(fast.start(inputs)).hidden) == n_tokens
        assert len(model.stack.start(inputs).hidden) == n_tokens
        assert len(fast.start(one_row).hidden) == 10
        ways = [run_layers(each, inputs, trace=True) for each in (fast, model.stack)]
        assert [len(flow.trace or ()) for flow in ways] == [model.stack.n_layers + 1] * 2
        for one, two in zip(*(flow.trace or () for flow in ways), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


class OtherNorm(nn.LayerNorm):
    """A layer of somebody else, who may count on a token of a row in each place."""


def test_layers_of_others_see_tokens_of_rows_alone() -> None:
    model = family_model("Bert")
    model.bert.encoder.layer[0].output.LayerNorm.__class__ = OtherNorm
    rows = small_rows() * 4 + small_rows()[:1]
    inputs = Inputs.from_rows([row.ids for row in rows], [row.types for row in rows])
    with torch.inference_mode():
        flow = prepare(model).stack.start(inputs)
    assert len(flow.hidden) == inputs.layout.n_tokens  # type: ignore[union-attr]


def test_a_user_s_own_stack() -> None:
    model = add_exits(residual_model(3)).eval()
    rows = random_rows(9)
    fast = prepare(model)
    assert {type(layer) for layer in fast.body.layers} == {PreparedLinear}
    for row, logits_C in zip(rows, run(model, rows), strict=True):
        torch.testing.assert_close(logits_C, model.by_hand(row.ids)[1], rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------------------------------------
# What it shares, and what it leaves alone.


@pytest.mark.parametrize("task", ["ForSequenceClassification", "ForMaskedLM"])
@families
def test_it_shares_the_parameters_and_leaves_the_model_alone(family: str, task: str) -> None:
    model = family_model(family, task)
    kinds, modules = linears(model), list(model.modules())
    values = {name: x.clone() for name, x in model.state_dict().items()}
    fast = prepare(model)
    with torch.no_grad():
        fast(**batch(task))
    assert linears(model) == kinds
    assert all(one is two for one, two in zip(modules, model.modules(), strict=True))
    assert not any(isinstance(module, PreparedLinear) for module in modules)
    assert all(getattr(module, "joint", None) is None for module in modules)
    own, shared = model.state_dict(), fast.state_dict()
    assert own.keys() == shared.keys() == values.keys()
    for name, value in values.items():
        assert torch.equal(own[name], value)
        assert own[name].data_ptr() == shared[name].data_ptr()
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in fast.named_parameters()
    ]


def test_tied_words_stay_tied() -> None:
    model = family_model("Bert", "ForMaskedLM")
    assert model.config.tie_word_embeddings
    fast = prepare(model)
    assert fast.get_output_embeddings().weight is fast.get_input_embeddings().weight
    assert fast.get_output_embeddings().weight is model.get_input_embeddings().weight


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_come_back_as_they_are(dtype: torch.dtype) -> None:
    model = tiny_model(2).to(dtype)
    assert prepare(model) is model
    assert prepared(model) is model
    model = tiny_model(2)
    model.classifier.to(dtype)
    assert prepare(model) is model


def test_training_mode_is_refused() -> None:
    model = tiny_model(2)
    model.bert.encoder.layer[1].train()
    for use in (prepare, prepared):
        with pytest.raises(InputError, match=r"model\.eval\(\)"):
            use(model)
    fast = prepare(model.eval())
    assert prepared(fast) is fast
    fast.train()
    with pytest.raises(InputError, match=r"model\.eval\(\)"):
        prepared(fast)
    assert not model.training


def test_a_copy_that_is_run_is_run_as_it_is() -> None:
    model = tiny_model(2)
    torch.testing.assert_close(run(prepare(model)), run(model), rtol=0, atol=0)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"]
)
def test_copies_of_a_model_that_was_run_are_on_their_own(copied: Callable[[Any], Any]) -> None:
    model = tiny_model(2)
    before = run(model)
    other = copied(model)
    assert linears(other) == linears(model)
    assert torch.equal(run(other), before)
    with torch.no_grad():
        other.classifier.weight.mul_(-3)
    assert_up_to_date(other, before)
    assert torch.equal(run(model), before)
    # A prepared copy can be copied too.
    assert torch.equal(run(copied(prepare(model))), before)


def test_a_model_that_was_run_is_saved_as_before(tmp_path: Path) -> None:
    model = tiny_model(2)
    model.save_pretrained(tmp_path / "before")
    run(model)
    model.save_pretrained(tmp_path / "after")
    prepare(model).save_pretrained(tmp_path / "copy")
    names = sorted(path.name for path in (tmp_path / "before").iterdir())
    assert "model.safetensors" in names
    for other in ("after", "copy"):
        assert sorted(path.name for path in (tmp_path / other).iterdir()) == names
        for name in names:
            one, two = ((tmp_path / each / name).read_bytes() for each in ("before", other))
            assert one == two, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("family", ["Bert", "MPNet", "Albert", "DistilBert"])
def test_a_model_that_is_dropped_is_freed_with_its_copy(family: str, dtype: torch.dtype) -> None:
    model = add_exits(family_model(family)).eval().to(dtype)
    run(model)
    watched = [weakref.ref(model), weakref.ref(prepared(model)), weakref.ref(model.base_model)]
    watched.append(weakref.ref(next(model.parameters())))
    del model
    gc.collect()
    assert [ref() for ref in watched] == [None] * 4


def test_two_threads_make_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[PretrainedModel] = []
    at_once = threading.Barrier(4)
    is_prepared = preparing.is_prepared

    asked: list[int] = []

    def slow(model: nn.Module) -> bool:
        found = is_prepared(model)
        if threading.get_ident() not in asked:
            asked.append(threading.get_ident())
            at_once.wait(20)  # all four have asked before one makes
        return found

    def counted(model: PretrainedModel) -> PretrainedModel:
        made.append(model)
        return prepare(model)

    monkeypatch.setattr(preparing, "is_prepared", slow)
    monkeypatch.setattr(preparing, "prepare", counted)
    model, found = tiny_model(2), list[PretrainedModel]()
    threads = [
        threading.Thread(target=lambda: found.append(prepared(model)), daemon=True)
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert made == [model]
    assert len(found) == 4
    assert len({id(one) for one in found}) == 1


def test_it_is_made_once() -> None:
    model = tiny_model(2)
    first = prepared(model)
    run(model)
    list(Runner(model).stream(random_rows(3)))
    with torch.no_grad():
        model(**batch())
    assert prepared(model) is first
    assert prepared(model.train().eval()) is first


# ---------------------------------------------------------------------------------------------
# What changes after a run.


def _scaled(model: Any) -> None:
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight.mul_(-2)


def _key_and_value(model: Any) -> None:
    with torch.no_grad():
        for layer in model.bert.encoder.layer:
            layer.attention.self.key.weight.mul_(-3)
            layer.attention.self.value.bias.add_(2)


def _stepped(model: Any) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(**batch()).logits.square().sum().backward()
    optimizer.step()


def _by_data(model: Any) -> None:
    model.bert.encoder.layer[0].intermediate.dense.weight.data.mul_(-2)


def _some_rows_by_data(model: Any) -> None:
    model.bert.encoder.layer[0].intermediate.dense.weight.data[:16].mul_(-2)


def _last_rows_by_data(model: Any) -> None:
    model.bert.encoder.layer[0].intermediate.dense.weight.data[20:] = 0


def _of_another_class(model: Any) -> None:
    class Twice(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model.bert.encoder.layer[0].output.dense.__class__ = Twice


def _by_new_data(model: Any) -> None:
    linear = model.bert.encoder.layer[0].output.dense
    linear.weight.data = linear.weight.data * -2


def _loaded(model: Any) -> None:
    model.load_state_dict(tiny_model(9).state_dict())


def _replaced_parameter(model: Any) -> None:
    model.classifier.weight = nn.Parameter(model.classifier.weight.detach() * -2)


def _replaced_part(model: Any) -> None:
    model.classifier = nn.Linear(32, 3).eval()


def _without_bias(model: Any) -> None:
    model.classifier.bias = None
    model.bert.encoder.layer[0].output.dense.bias = None
    with torch.no_grad():
        model.bert.pooler.dense.weight.mul_(-2)


def _other_activation(model: Any) -> None:
    model.bert.encoder.layer[1].intermediate.activation = F.relu


def _rounded(model: Any) -> None:
    model.to(torch.float64)
    _scaled(model)
    model.to(torch.float32)


def _other_words(model: Any) -> None:
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight.mul_(-2)


def _norms_eps(model: Any) -> None:
    model.bert.encoder.layer[2].output.LayerNorm.eps = 50.0


CHANGES = [
    _scaled, _key_and_value, _stepped, _by_data, _by_new_data, _some_rows_by_data,
    _last_rows_by_data, _of_another_class, _loaded, _replaced_parameter,
    _replaced_part, _without_bias, _other_activation, _rounded, _other_words, _norms_eps,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_changes_are_seen_by_the_next_run(change: Callable[[Any], None]) -> None:
    model = tiny_model(2)
    before = assert_up_to_date(model)
    change(model)
    assert_up_to_date(model.eval(), before)


def test_changes_of_a_weight_that_lies_turned_round() -> None:
    model = tiny_model(2)
    linear = model.bert.encoder.layer[0].output.dense
    linear.weight = nn.Parameter(linear.weight.detach().t().contiguous().t())
    before = assert_up_to_date(model)
    linear.weight.data.mul_(-2)
    assert_up_to_date(model, before)


def test_a_new_criterion_lays_nothing_out_again() -> None:
    model = tiny_model(2)
    fast = prepared(model)
    exits_of(model).criterion = Entropy(0.3)
    assert prepared(model) is fast
    rows = random_rows(30)
    expected = Runner(model, prepare=False).run(rows)
    assert torch.equal(Runner(model).run(rows).exit_layers_R, expected.exit_layers_R)
    assert 1 < expected.mean_layers < 3


def test_sums_are_alike_where_every_layer_is_known() -> None:
    model = tiny_model(2)
    assert preparing.sums_alike(prepare(model))
    assert not preparing.sums_alike(model)

    class Own(nn.Linear):
        pass

    model.bert.encoder.layer[0].output.dense = Own(64, 32).eval()
    assert not preparing.sums_alike(prepare(model))


def test_a_model_whose_forward_was_replaced_is_freed() -> None:
    model = tiny_model(2)
    model.forward = MethodType(type(model).forward, model)
    assert prepared(model) is model
    watched = weakref.ref(model)
    del model
    gc.collect()
    assert watched() is None


def test_changes_between_windows_wait_for_the_next_run() -> None:
    model, rows = tiny_model(2), random_rows(9)
    before = run(model, rows)
    stream = Runner(model, exits=False, window_rows=3).stream(rows)
    found = [next(stream).logits_C]
    _replaced_part(model)
    found += [result.logits_C for result in stream]
    torch.testing.assert_close(torch.stack(found), before, rtol=1e-5, atol=1e-4)
    assert_up_to_date(model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_model_cast_after_a_run(dtype: torch.dtype) -> None:
    model = tiny_model(2)
    run(model)
    assert prepared(model) is not model
    model.to(dtype)
    assert prepared(model) is model
    assert torch.equal(run(model), run(model, prepare=False))
    model.to(torch.float32)
    assert prepared(model) is not model
    assert_up_to_date(model)


def test_a_model_made_in_inference_mode() -> None:
    with torch.inference_mode():
        model = tiny_model(2)
        before = assert_up_to_date(model)
        for name in ("weight", "bias"):
            getattr(model.bert.pooler.dense, name).mul_(-2)
        assert_up_to_date(model, before)


def test_exits_put_on_and_taken_off() -> None:
    model, rows = tiny_model(2), random_rows(9)
    Runner(model, criterion=Entropy(5.0)).run(rows)
    del model.exits
    assert set(Runner(model).run(rows).exit_layers_R.tolist()) == {3}
    add_exits(model, [2], pooler="first", criterion=Entropy(5.0)).eval()
    assert set(Runner(model).run(rows).exit_layers_R.tolist()) == {2}


# ---------------------------------------------------------------------------------------------
# Somebody looks on.


HOOKS: dict[str, Callable[[nn.Module, Callable[..., None]], Any]] = {
    "forward": lambda module, see: module.register_forward_hook(lambda *_: see()),
    "before": lambda module, see: module.register_forward_pre_hook(lambda *_: see()),
    "for all": lambda _, see: nn.modules.module.register_module_forward_hook(
        lambda module, *_: see() if type(module) is nn.Linear else None
    ),
}


@pytest.mark.parametrize("part", ["classifier", "bert.encoder.layer.1.attention.self.key"])
@pytest.mark.parametrize("when", ["before the first run", "after it"])
@pytest.mark.parametrize("kind", HOOKS)
def test_a_hook_sees_what_it_would(kind: str, when: str, part: str) -> None:
    model, seen = tiny_model(2), list[int]()
    if when == "after it":
        run(model)
    handle = HOOKS[kind](model.get_submodule(part), lambda: seen.append(1))
    try:
        assert prepared(model) is model
        expected = run(model, prepare=False)
        by_itself = len(seen)
        assert torch.equal(run(model), expected)
        assert len(seen) == 2 * by_itself > 0
    finally:
        handle.remove()
    run(model)
    assert len(seen) == 2 * by_itself
    assert prepared(model) is not model


@pytest.mark.parametrize("kind", [*HOOKS][:2])
def test_hooks_of_a_copy_and_of_the_model_are_their_own(kind: str) -> None:
    model, seen = tiny_model(2), list[str]()
    fast, name = prepare(model), "bert.encoder.layer.0.output"
    HOOKS[kind](fast.get_submodule(name), lambda: seen.append("copy"))
    HOOKS[kind](model.get_submodule(name), lambda: seen.append("model"))
    run(model, prepare=False)
    assert set(seen) == {"model"}
    seen.clear()
    run(fast)
    assert set(seen) == {"copy"}


def test_a_forward_that_was_replaced() -> None:
    model, seen = tiny_model(2), list[int]()
    before = run(model)
    linear = model.bert.encoder.layer[0].output.dense
    linear.forward = lambda x: seen.append(len(x)) or nn.Linear.forward(linear, x) * -2
    assert_up_to_date(model, before)
    assert len(seen) == 2
    del linear.forward
    torch.testing.assert_close(run(model), before, rtol=0, atol=0)


class Doubled(nn.Linear):
    """A user's own layer in the place of torch's."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


@pytest.mark.parametrize(
    "part",
    [
        "classifier",
        "bert.pooler.dense",
        "bert.encoder.layer.0.intermediate.dense",
        "bert.encoder.layer.0.output.dense",
        "bert.encoder.layer.1.attention.self.query",
        "bert.encoder.layer.1.attention.self.key",
        "bert.encoder.layer.1.attention.self.value",
        "bert.encoder.layer.1.attention.output.dense",
    ],
)
def test_layers_of_other_classes_are_called_as_they_are(part: str) -> None:
    model = tiny_model(2)
    before = run(model)
    path, _, name = part.rpartition(".")
    linear = model.get_submodule(part)
    other = Doubled(linear.in_features, linear.out_features).eval()
    other.load_state_dict(linear.state_dict())
    setattr(model.get_submodule(path), name, other)
    assert type(prepare(model).get_submodule(part)) is Doubled
    assert_up_to_date(model, before)


def test_parametrised_weights() -> None:
    model = tiny_model(2)
    before = run(model)
    for layer in model.bert.encoder.layer:
        nn.utils.parametrizations.weight_norm(layer.output.dense)
        layer.output.dense.parametrizations.weight.original0.data.mul_(-1)
    model.eval()
    assert_up_to_date(model, before)


# ---------------------------------------------------------------------------------------------
# PEFT.


@pytest.fixture
def adapted() -> Iterator[Any]:
    peft = pytest.importorskip("peft", reason="needs peft, which offramp itself does not")
    settings = {"target_modules": ["query", "value"], "r": 4, "lora_alpha": 16}
    config = peft.LoraConfig(task_type="SEQ_CLS", init_lora_weights=False, **settings)
    model = peft.get_peft_model(tiny_model(2), config).eval()
    model.add_adapter("other", config)
    yield model.eval()


def test_lora(adapted: Any) -> None:
    inner = adapted.base_model.model
    plain = run(tiny_model(2))
    first = assert_up_to_date(inner, plain)
    rows = small_rows()
    with torch.no_grad():
        for row, logits_C in zip(rows, first, strict=True):
            output = adapted(torch.from_numpy(row.ids)[None], token_type_ids=types_of("Bert", row))
            torch.testing.assert_close(output.logits[0], logits_C, rtol=1e-4, atol=1e-4)


def test_what_is_done_with_adapters_is_seen(adapted: Any) -> None:
    inner = adapted.base_model.model
    plain, first = run(tiny_model(2)), assert_up_to_date(inner)
    with adapted.disable_adapter():
        torch.testing.assert_close(assert_up_to_date(inner, first), plain, rtol=1e-4, atol=1e-4)
    adapted.set_adapter("other")
    assert_up_to_date(inner.eval(), first)
    adapted.set_adapter("default")
    torch.testing.assert_close(assert_up_to_date(inner.eval()), first, rtol=1e-4, atol=1e-4)
    for change in (adapted.merge_adapter, adapted.unmerge_adapter):
        change()
        torch.testing.assert_close(assert_up_to_date(inner), first, rtol=1e-4, atol=1e-3)


def test_dropping_and_remaking_many_models() -> None:
    # Another model in the place in memory of one that is gone is not taken for it.
    for seed in range(12):
        model = tiny_model(seed, num_hidden_layers=1)
        assert_up_to_date(model)
        del model


def test_torch_warns_of_gradients_through_it() -> None:
    output = prepare(tiny_model(2))(**batch()).logits
    with pytest.raises((UserWarning, RuntimeError), match="_linear_pointwise"):
        output.sum().backward()


def results_of(results: Results) -> tuple[Tensor, Tensor]:
    return results.logits_RC, results.exit_layers_R


def test_every_exit_and_row_of_one_token() -> None:
    model = tiny_model(2, pooler="first")
    rows = [encoded([7])] * 3 + [encoded([8, 9])]
    for found, expected in zip(
        results_of(Runner(model, criterion=Entropy(0.5)).run(rows)),
        results_of(Runner(model, criterion=Entropy(0.5), prepare=False).run(rows)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert exits_of(model).depths == (1, 2)
