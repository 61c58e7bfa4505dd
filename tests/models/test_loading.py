"""The loading rule, clause by clause, and what a save gives back."""

from __future__ import annotations

import hashlib
import json
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import offramp
from offramp import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    CheckpointError,
    NewWeightsWarning,
)
from offramp.models.inputs import Inputs
from offramp.models.names import model_directory
from offramp.models.registry import sequence_classifier

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "bert"
WORDS = "bert.embeddings.word_embeddings.weight"
Change = Callable[[dict[str, Tensor]], Any]


def tiny_config(**changes: Any) -> BertConfig:
    values = {
        "vocab_size": 30,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 12,
    }
    return BertConfig(**{**values, **changes})


def directory(folder: Path, change: Change | None = None, **settings: Any) -> Path:
    """The golden model's directory, its tensors changed."""
    folder.mkdir(exist_ok=True)
    values = json.loads((GOLDEN / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(values | settings), encoding="utf-8")
    tensors = load_file(GOLDEN / "model.safetensors")
    if change is not None:
        change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def without(tensors: dict[str, Tensor], *prefixes: str) -> None:
    found = [name for name in tensors if name.startswith(prefixes)]
    assert found
    for name in found:
        del tensors[name]


def renamed(tensors: dict[str, Tensor], old: str, new: str) -> None:
    for name in list(tensors):
        if name.startswith(old):
            tensors[new + name.removeprefix(old)] = tensors.pop(name)


def load_quietly(cls: Any, folder: Path, **arguments: Any) -> tuple[Any, Any]:
    """The model and its report, where nothing may be warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model, report = cls.from_pretrained(folder, output_loading_info=True, **arguments)
    return model, report


def load_warned(cls: Any, folder: Path, **arguments: Any) -> tuple[Any, Any]:
    """The model and its report, where new weights are warned of exactly once."""
    with pytest.warns(NewWeightsWarning) as caught:
        model, report = cls.from_pretrained(folder, output_loading_info=True, **arguments)
    assert [warning.category for warning in caught] == [NewWeightsWarning]
    assert caught[0].filename == __file__, "the warning points at the caller"
    for name in report.initialised:
        assert name in str(caught[0].message)
    assert not any(tensor.is_meta for tensor in model.state_dict().values())
    return model, report


def refuse(folder: Path, *messages: str, cls: Any = BertForSequenceClassification) -> None:
    """Loading raises with all of these, and draws no random weight on the way."""
    before = torch.get_rng_state()
    with pytest.raises(CheckpointError) as caught:
        cls.from_pretrained(folder)
    for message in messages:
        assert message in str(caught.value)
    assert str(folder) in str(caught.value)
    assert torch.equal(torch.get_rng_state(), before)


# A file that fits


def test_every_tensor_is_that_of_the_file() -> None:
    model, report = load_quietly(BertForSequenceClassification, GOLDEN)
    tensors = load_file(GOLDEN / "model.safetensors")
    state = model.state_dict()
    assert state.keys() == tensors.keys()
    assert all(torch.equal(state[name], tensors[name]) for name in tensors)
    assert report.loaded == {name: name for name in tensors}
    assert (report.initialised, report.dropped) == ((), ())
    assert report.dtype == torch.float32
    assert str(report) == f"{len(tensors)} tensors loaded as float32"


def test_a_loaded_model_is_ready_to_use_and_to_train() -> None:
    model = BertForSequenceClassification.from_pretrained(str(GOLDEN))
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.num_labels == 3
    assert type(model.config) is BertConfig


def test_training_a_loaded_model_leaves_its_file_alone(tmp_path: Path) -> None:
    folder = directory(tmp_path / "model")
    before = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    model = BertForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.save_pretrained(tmp_path / "zeros")
    assert hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() == before
    other = BertForSequenceClassification.from_pretrained(tmp_path / "zeros")
    assert not any(bool(parameter.any()) for parameter in other.parameters())


@pytest.mark.parametrize("cls", [BertModel, BertForSequenceClassification])
@pytest.mark.parametrize("with_prefix", [True, False])
def test_the_bodys_prefix_may_be_there_or_not(tmp_path: Path, cls: Any, with_prefix: bool) -> None:
    folder = directory(
        tmp_path / "model", None if with_prefix else lambda tensors: renamed(tensors, "bert.", "")
    )
    model, report = load_quietly(cls, folder)
    words = load_file(GOLDEN / "model.safetensors")[WORDS]
    assert torch.equal(model.base_model.embeddings.word_embeddings.weight, words)
    heads = ("classifier.weight", "classifier.bias")
    assert sorted(report.dropped) == ([] if hasattr(model, "classifier") else sorted(heads))
    assert len(report.loaded) == len(model.state_dict())


# The body


@pytest.mark.parametrize(
    "name",
    [
        WORDS,
        "bert.embeddings.LayerNorm.bias",
        "bert.encoder.layer.0.attention.self.query.weight",
        "bert.encoder.layer.2.output.LayerNorm.weight",
    ],
)
def test_a_missing_tensor_of_the_body_is_refused(tmp_path: Path, name: str) -> None:
    folder = directory(tmp_path / "model", lambda tensors: tensors.pop(name))
    refuse(folder, f"{name} is missing")
    refuse(folder, name.removeprefix("bert."), "is missing", cls=BertModel)


def test_all_missing_tensors_are_named(tmp_path: Path) -> None:
    folder = directory(tmp_path / "model", lambda t: without(t, "bert.encoder.layer.1.output."))
    names = ("dense.weight", "dense.bias", "LayerNorm.weight", "LayerNorm.bias")
    refuse(folder, *(f"bert.encoder.layer.1.output.{name} is missing" for name in names))


def test_a_mis_shaped_tensor_of_the_body_is_refused(tmp_path: Path) -> None:
    folder = directory(tmp_path / "model", vocab_size=50)
    refuse(folder, f"{WORDS} has shape [48, 16], expected [50, 16]")
    with pytest.raises(CheckpointError, match=r"expected \[50, 16\]"):
        BertModel.from_pretrained(folder, ignore_mismatched_sizes=True)


def test_a_transposed_tensor_is_refused(tmp_path: Path) -> None:
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    folder = directory(tmp_path / "model", lambda t: t.update({name: t[name].T.contiguous()}))
    refuse(folder, f"{name} has shape [16, 24], expected [24, 16]")


@pytest.mark.parametrize(
    "name",
    [
        "bert.encoder.layer.3.output.dense.bias",
        "bert.embeddings.word_embedding.weight",
        "other",
        # Beneath heads that the class has itself:
        "classifier.extra",
        "bert.pooler.extra",
        "pooler.extra",
    ],
)
def test_an_unknown_tensor_is_refused(tmp_path: Path, name: str) -> None:
    refuse(directory(tmp_path / "model", lambda t: t.update({name: torch.ones(16)})), name)


def test_a_mistyped_name_is_refused_with_the_nearest(tmp_path: Path) -> None:
    wrong = "bert.embeddings.word_embedding.weight"
    folder = directory(tmp_path / "model", lambda t: renamed(t, WORDS, wrong))
    refuse(folder, f"unknown tensor {wrong}", f"Did you mean {WORDS!r}?")


def test_a_tensor_under_two_names_is_refused(tmp_path: Path) -> None:
    short = WORDS.removeprefix("bert.")
    folder = directory(tmp_path / "model", lambda t: t.update({short: t[WORDS].clone()}))
    refuse(folder, f"{WORDS} is in the file twice")


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool])
def test_weights_that_are_no_floating_numbers_are_refused(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    refuse(directory(tmp_path / "model", lambda t: t.update({WORDS: t[WORDS].to(dtype)})), WORDS)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_quantised_weights_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = directory(tmp_path / "model", lambda t: t.update({WORDS: t[WORDS].to(dtype)}))
    refuse(folder, WORDS, "has type F8")


def test_position_numbers_of_old_files_are_dropped(tmp_path: Path) -> None:
    name = "bert.embeddings.position_ids"
    folder = directory(tmp_path / "model", lambda t: t.update({name: torch.arange(12)[None]}))
    _, report = load_quietly(BertForSequenceClassification, folder)
    assert report.dropped == (name,)
    assert "not used    bert.embeddings.position_ids" in str(report)


def test_a_long_list_of_faults_is_cut(tmp_path: Path) -> None:
    folder = directory(tmp_path / "model", hidden_size=32)
    with pytest.raises(CheckpointError, match=r"\.\.\. and \d+ more") as caught:
        BertModel.from_pretrained(folder)
    assert len(str(caught.value).splitlines()) == 23


# Heads


def test_a_missing_head_is_new_and_warned_of_once(tmp_path: Path) -> None:
    folder = directory(tmp_path / "model", lambda t: without(t, "classifier."))
    model, report = load_warned(BertForSequenceClassification, folder)
    assert sorted(report.initialised) == ["classifier.bias", "classifier.weight"]
    assert "new, random classifier" in str(report)
    assert not bool(model.classifier.bias.any())
    # Normal with BERT's spread of .02: 48 numbers all within 5 of it, and not all alike.
    assert 0 < float(model.classifier.weight.detach().abs().max()) < 0.1
    assert float(model.classifier.weight.detach().std()) > 0.005
    assert torch.equal(model.bert.pooler.dense.weight, golden()["bert.pooler.dense.weight"])


def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "model.safetensors")


def test_a_missing_pooler_is_new_and_warned_of_once(tmp_path: Path) -> None:
    folder = directory(tmp_path / "model", lambda t: without(t, "bert.pooler.", "classifier."))
    model, report = load_warned(BertForSequenceClassification, folder)
    assert sorted(report.initialised) == [
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "classifier.bias",
        "classifier.weight",
    ]
    assert not bool(model.bert.pooler.dense.bias.any())
    _, report = load_warned(BertModel, folder)
    assert sorted(report.initialised) == ["pooler.dense.bias", "pooler.dense.weight"]


def test_a_new_head_trains_and_is_in_eval_mode(tmp_path: Path) -> None:
    folder = directory(tmp_path / "model", lambda t: without(t, "classifier."))
    model, _ = load_warned(BertForSequenceClassification, folder, num_labels=7)
    assert not any(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    loss = model(torch.ones(2, 3, dtype=torch.int64), labels=torch.tensor([0, 6])).loss
    loss.backward()
    assert bool(model.classifier.weight.grad.any())


@pytest.mark.parametrize(
    ("gone", "head"),
    [("classifier.bias", "classifier"), ("bert.pooler.dense.weight", "bert.pooler")],
)
def test_half_a_head_is_refused(tmp_path: Path, gone: str, head: str) -> None:
    folder = directory(tmp_path / "model", lambda t: t.pop(gone))
    refuse(folder, f"{gone} is missing while the rest of {head} is there")


def test_heads_of_other_tasks_are_dropped_and_reported(tmp_path: Path) -> None:
    other = {
        "cls.predictions.bias": torch.ones(48),
        "cls.predictions.transform.dense.weight": torch.ones(16, 16),
        "cls.seq_relationship.weight": torch.ones(2, 16),
        "qa_outputs.weight": torch.ones(2, 16),
    }
    folder = directory(tmp_path / "model", lambda t: t.update(other))
    _, report = load_quietly(BertForSequenceClassification, folder)
    assert sorted(report.dropped) == sorted(other)
    _, report = load_quietly(BertModel, folder)
    assert sorted(report.dropped) == sorted([*other, "classifier.bias", "classifier.weight"])


class Headless(BertModel):
    """A body that a user built without the pooler."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, add_pooling_layer=False)


@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_a_pooler_that_the_class_lacks_is_dropped_and_reported(tmp_path: Path, prefix: str) -> None:
    folder = directory(
        tmp_path / "model", lambda t: (without(t, "classifier."), renamed(t, "bert.", prefix))
    )
    model, report = load_quietly(Headless, folder)
    assert model.pooler is None
    assert sorted(report.dropped) == [f"{prefix}pooler.dense.bias", f"{prefix}pooler.dense.weight"]


def test_a_head_of_another_size_is_refused_unless_told_otherwise(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"classifier.weight has shape \[3, 16\].*\[5, 16\]"):
        BertForSequenceClassification.from_pretrained(GOLDEN, num_labels=5)
    model, report = load_warned(
        BertForSequenceClassification, GOLDEN, num_labels=5, ignore_mismatched_sizes=True
    )
    names = ["classifier.bias", "classifier.weight"]
    assert sorted(report.initialised) == sorted(report.dropped) == names
    assert report["mismatched_keys"] == {
        ("classifier.weight", (3, 16), (5, 16)),
        ("classifier.bias", (3,), (5,)),
    }
    assert report["missing_keys"] == report["unexpected_keys"] == set()
    assert model.classifier.weight.shape == (5, 16)
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, golden()[WORDS])


def test_the_report_has_the_keys_of_transformers_loading_info(tmp_path: Path) -> None:
    folder = directory(tmp_path / "model", lambda t: without(t, "classifier."))
    _, report = load_warned(BertForSequenceClassification, folder)
    assert dict(report) == {
        "missing_keys": {"classifier.weight", "classifier.bias"},
        "unexpected_keys": set(),
        "mismatched_keys": set(),
        "error_msgs": [],
    }
    _, report = load_quietly(BertModel, GOLDEN)
    assert report["unexpected_keys"] == {"classifier.weight", "classifier.bias"}
    with pytest.raises(KeyError, match="missing_keys"):
        report["missing"]


def test_a_head_of_half_another_size_is_new_whole(tmp_path: Path) -> None:
    folder = directory(
        tmp_path / "model", lambda t: t.update({"classifier.weight": torch.ones(3, 8)})
    )
    refuse(folder, "classifier.weight has shape [3, 8], expected [3, 16]")
    model, report = load_warned(BertForSequenceClassification, folder, ignore_mismatched_sizes=True)
    names = ["classifier.bias", "classifier.weight"]
    assert sorted(report.initialised) == sorted(report.dropped) == names
    assert not bool(model.classifier.bias.any()), "the file's bias belonged to another weight"


def test_ignoring_sizes_changes_nothing_where_they_match() -> None:
    model, report = load_quietly(
        BertForSequenceClassification, GOLDEN, ignore_mismatched_sizes=True
    )
    assert (report.initialised, report.dropped) == ((), ())
    assert torch.equal(model.classifier.weight, golden()["classifier.weight"])


class TwoHeads(BertForSequenceClassification):
    """A user's class with a head of its own."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.scorer = torch.nn.Sequential(torch.nn.Linear(16, 4), torch.nn.Linear(4, 1))
        self.init_weights()


def test_a_users_own_head_is_a_head(tmp_path: Path) -> None:
    model, report = load_warned(TwoHeads, GOLDEN)
    assert all(name.startswith("scorer.") for name in report.initialised)
    assert len(report.initialised) == 4
    model.save_pretrained(tmp_path)
    again, _ = load_quietly(TwoHeads, tmp_path)
    assert torch.equal(again.scorer[0].weight, model.scorer[0].weight)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["scorer.1.bias"]
    save_file(tensors, tmp_path / "model.safetensors")
    refuse(tmp_path, "scorer.1.bias is missing while the rest of scorer", cls=TwoHeads)


# Types


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_keep_the_files_type_unless_told_otherwise(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    def convert(tensors: dict[str, Tensor]) -> None:
        without(tensors, "classifier.")
        tensors.update({name: tensor.to(dtype) for name, tensor in tensors.items()})

    folder = directory(tmp_path / "model", convert)
    model, report = load_warned(BertForSequenceClassification, folder)
    assert report.dtype == model.dtype == dtype
    assert {p.dtype for p in model.parameters()} == {dtype}, "a new head has the file's type"
    model, _ = load_warned(BertForSequenceClassification, folder, dtype=torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(
        model.bert.embeddings.word_embeddings.weight, golden()[WORDS].to(dtype).float()
    )


def test_weights_of_several_types_are_refused_unless_one_is_asked_for(tmp_path: Path) -> None:
    folder = directory(tmp_path / "model", lambda t: t.update({WORDS: t[WORDS].half()}))
    refuse(folder, "several types (F16, F32)", "dtype=torch.float32")
    model, _ = load_quietly(BertForSequenceClassification, folder, dtype=torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, golden()[WORDS].half().float())


class Scaled(BertForSequenceClassification):
    """A user's class with a value that no file keeps."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.register_buffer("scale", torch.full((3,), 2.0), persistent=False)


def test_a_buffer_that_no_file_keeps_is_refused(tmp_path: Path) -> None:
    with pytest.raises(offramp.errors.ConfigError, match=r"scale of .*: a buffer's values"):
        Scaled.from_pretrained(GOLDEN)


# Files that are no safetensors files


def raw(folder: Path, header: bytes | str | dict[str, Any], data: bytes = b"") -> Path:
    """A directory whose weights are these bytes, laid out as the format says."""
    directory(folder)
    if isinstance(header, dict):
        header = json.dumps(header)
    encoded = header.encode() if isinstance(header, str) else header
    content = struct.pack("<Q", len(encoded)) + encoded + data
    (folder / "model.safetensors").write_bytes(content)
    return folder


def golden_header() -> tuple[dict[str, Any], bytes]:
    content = (GOLDEN / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def test_the_hand_made_file_is_read_when_it_is_sound(tmp_path: Path) -> None:
    load_quietly(BertForSequenceClassification, raw(tmp_path / "model", *golden_header()))


def test_a_name_twice_in_the_header_is_refused(tmp_path: Path) -> None:
    header, data = golden_header()
    first, other = (f"bert.encoder.layer.{i}.attention.self.query.weight" for i in (0, 1))
    # The second entry has the same shape and other bytes: who keeps the last would be deceived.
    text = json.dumps(header)[:-1] + f", {json.dumps(first)}: {json.dumps(header[other])}}}"
    assert json.loads(text) == header | {first: header[other]}, "Python's own reader does not tell"
    refuse(raw(tmp_path / "model", text, data), f"'{first}' is named twice")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, 2000, 5000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, size: int) -> None:
    folder = directory(tmp_path / "model")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:size])
    refuse(folder, "model.safetensors")


def test_a_file_with_bytes_to_spare_is_refused(tmp_path: Path) -> None:
    header, data = golden_header()
    refuse(raw(tmp_path / "model", header, data + b"more"), "model.safetensors")


ENTRY = {"dtype": "F32", "shape": [48, 16], "data_offsets": [0, 3072]}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xff\xfe\x00",
        "[]",
        "3",
        "null",
        '"text"',
        "{",
        json.dumps({WORDS: 3}),
        json.dumps({WORDS: {}}),
        json.dumps({WORDS: [ENTRY]}),
        json.dumps({WORDS: ENTRY | {"shape": None}}),
        json.dumps({WORDS: ENTRY | {"shape": 48}}),
        json.dumps({WORDS: ENTRY | {"shape": [48, "16"]}}),
        json.dumps({WORDS: ENTRY | {"shape": [-48, -16]}}),
        json.dumps({WORDS: ENTRY | {"dtype": "F31"}}),
        "[" * 100_000,
    ],
    ids=lambda header: repr(header[-30:]),
)
def test_a_malformed_header_is_refused(tmp_path: Path, header: bytes | str) -> None:
    refuse(raw(tmp_path / "model", header), "model.safetensors")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": None},
        {"dtype": 32},
        {"dtype": ["F32"]},
        {"data_offsets": [0, 10**9]},
        {"data_offsets": [0, 4]},
        {"data_offsets": [-4, 0]},
        {"data_offsets": None},
    ],
    ids=str,
)
def test_a_header_with_one_bad_entry_is_refused(tmp_path: Path, entry: dict[str, Any]) -> None:
    header, data = golden_header()
    header[WORDS] |= entry
    refuse(raw(tmp_path / "model", header, data), "model.safetensors")


def test_a_pickle_under_the_weights_name_is_refused_unopened(tmp_path: Path) -> None:
    folder = directory(tmp_path / "model")
    torch.save({WORDS: torch.ones(3)}, folder / "model.safetensors")
    refuse(folder, "Expected a safetensors file")


def test_absurdly_long_headers_are_not_read(tmp_path: Path) -> None:
    folder = directory(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    refuse(folder, "a header of")


def test_a_directory_without_weights(tmp_path: Path) -> None:
    folder = directory(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(offramp.ModelNotFoundError, match="holds no weights: expected model"):
        BertModel.from_pretrained(folder)


# A save and a load


def answers(model: Any) -> list[Tensor]:
    rows = [[5, 6, 7], [8], [9, 10, 11, 12]]
    inputs = Inputs.from_rows(rows, [[0] * len(row) for row in rows])
    with torch.no_grad():
        if hasattr(model, "exits"):
            return list(offramp.logits_by_depth(model, inputs).values())
        return [model(torch.tensor([[5, 6, 7], [8, 9, 10]])).logits]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("with_exits", [False, True])
def test_save_and_load_are_bit_equal(tmp_path: Path, seed: int, with_exits: bool) -> None:
    torch.manual_seed(seed)
    dtype = [torch.float32, torch.bfloat16, torch.float64][seed % 3]
    names = ("no", "yes", "perhaps")[: 2 + seed % 2]
    config = tiny_config(id2label=dict(enumerate(names)))
    model = BertForSequenceClassification(config)
    if with_exits:
        offramp.add_exits(
            model,
            [[1], [2], None][seed % 3],
            pooler=["attention", "first", "mean"][seed % 3],
            queries=1 + seed,
            hidden=[None, 3][seed % 2],
            criterion=offramp.Entropy(threshold=0.1 * seed),
        )
    model.to(dtype).eval()
    model.save_pretrained(tmp_path / "once")
    again, report = load_quietly(BertForSequenceClassification, tmp_path / "once")
    assert (report.initialised, report.dropped) == ((), ())

    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name]), name
    assert all(map(torch.equal, answers(model), answers(again)))
    assert again.config.labels == list(names)
    if with_exits:
        assert again.exits.section() == model.exits.section()

    again.save_pretrained(tmp_path / "twice")
    for name in ("config.json", "model.safetensors"):
        first, second = (tmp_path / folder / name for folder in ("once", "twice"))
        assert first.read_bytes() == second.read_bytes()


def test_exits_that_the_configuration_names_must_be_in_the_file(tmp_path: Path) -> None:
    model = offramp.add_exits(BertForSequenceClassification(tiny_config()), [1, 2])
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in tensors.items() if not k.startswith("exits.2.")},
        tmp_path / "model.safetensors",
    )
    refuse(tmp_path, "exits.2.dense.weight is missing", "exits.2.classifier.bias is missing")


def test_exits_that_the_configuration_does_not_name_are_refused(tmp_path: Path) -> None:
    model = offramp.add_exits(BertForSequenceClassification(tiny_config()), [1, 2])
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config["exits"]["depths"] = [1]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    refuse(tmp_path, "unknown tensor exits.2.dense.weight")
    load_quietly(BertForSequenceClassification, tmp_path, exits=None)


def test_a_body_reads_a_directory_with_exits(tmp_path: Path) -> None:
    model = offramp.add_exits(BertForSequenceClassification(tiny_config()), [1])
    model.save_pretrained(tmp_path)
    body, report = load_quietly(BertModel, tmp_path)
    assert {name.split(".")[0] for name in report.dropped} == {"exits", "classifier"}
    assert torch.equal(body.pooler.dense.weight, model.bert.pooler.dense.weight)


def test_saving_names_the_class(tmp_path: Path) -> None:
    BertModel(tiny_config()).save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert values["architectures"] == ["BertModel"]
    assert values["model_type"] == "bert"


def test_saving_over_the_directory_that_was_read(tmp_path: Path) -> None:
    folder = directory(tmp_path / "model")
    model = BertForSequenceClassification.from_pretrained(folder)
    with torch.no_grad():
        model.classifier.weight.add_(1)
    model.save_pretrained(folder)
    again = BertForSequenceClassification.from_pretrained(folder)
    for name, tensor in golden().items():
        expected = tensor + 1 if name == "classifier.weight" else tensor
        assert torch.equal(model.state_dict()[name], expected)
        assert torch.equal(again.state_dict()[name], expected)


def test_a_model_knows_what_was_opened(tmp_path: Path) -> None:
    model = BertModel(tiny_config())
    assert model.name_or_path == ""
    model.save_pretrained(tmp_path)
    assert BertModel.from_pretrained(tmp_path).name_or_path == str(tmp_path)


def test_shared_weights_are_written(tmp_path: Path) -> None:
    model = BertForSequenceClassification(tiny_config()).eval()
    first, last = model.bert.encoder.layer[0], model.bert.encoder.layer[2]
    last.intermediate.dense.weight = first.intermediate.dense.weight
    model.save_pretrained(tmp_path)
    again, _ = load_quietly(BertForSequenceClassification, tmp_path)
    assert all(map(torch.equal, answers(model), answers(again)))


# From a directory to a class


def test_the_registry_finds_the_class_by_model_type(tmp_path: Path) -> None:
    assert sequence_classifier(GOLDEN) is BertForSequenceClassification
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(offramp.ConfigError, match=r"'llama'.*bert"):
        sequence_classifier(tmp_path)
    with pytest.raises(offramp.ModelNotFoundError, match="nowhere"):
        sequence_classifier(tmp_path / "nowhere")


def test_a_path_is_itself_and_a_built_in_name_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model_directory(GOLDEN) == GOLDEN
    with pytest.raises(offramp.HubError, match="some/where is no directory here"):
        model_directory("some/where")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all-MiniLM-L6-v2").mkdir()
    assert model_directory("all-MiniLM-L6-v2") == Path("all-MiniLM-L6-v2"), (
        "a directory comes first"
    )


def test_a_refused_file_s_report_says_what_of_each_tensor(tmp_path: Path) -> None:
    """One object, on the error too: missing, unknown, mis-shaped and mis-typed; and in words."""

    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors["bert.pooler.dense.extra"] = torch.zeros(1)
        tensors["bert.pooler.dense.bias"] = torch.zeros(3)
        tensors["bert.embeddings.LayerNorm.bias"] = torch.zeros(16, dtype=torch.int32)
        del tensors["bert.embeddings.LayerNorm.weight"]

    folder = directory(tmp_path / "model", spoil)
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    with pytest.raises(CheckpointError) as caught:
        BertForSequenceClassification.from_pretrained(folder)
    error, report = caught.value, caught.value.report
    assert isinstance(report, offramp.LoadingReport)
    assert (error.kind, report.source) == ("tensors", str(folder / "model.safetensors"))
    assert report.unexpected == ("bert.pooler.dense.extra",)
    bias = "bert.pooler.dense.bias"
    assert report.misshaped == {bias: (bias, (3,), (width,))}
    assert "bert.embeddings.LayerNorm.weight" in report.missing
    for words in ("unknown     bert.pooler", "mis-shaped  bert.pooler", "missing     bert.emb"):
        assert words in str(report)
    if width == 16:
        assert report.mistyped["bert.embeddings.LayerNorm.bias"][0] == "I32"


def test_a_cast_is_in_the_report(tmp_path: Path) -> None:
    folder = directory(tmp_path / "model")
    _, report = BertForSequenceClassification.from_pretrained(
        folder, dtype=torch.float16, output_loading_info=True
    )
    assert set(report.casts.values()) == {("F32", "F16")}
    assert report.casts.keys() == set(report.loaded.values())
    assert "cast        F32 to F16" in str(report)
