"""`offramp.convert`, held against PaddleNLP's, transformers' and research code's files and answers.

PaddleNLP's are frozen in tests/golden/paddle; transformers' are made live.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from paddle_saves import CLASSES, FORMATS, OLD, PADDLE, answers, differing, settings, unpickled
from safetensors.torch import load_file, save_file
from tiny import TINY
from torch import Tensor

import offramp
from offramp import BertConfig, BertForSequenceClassification
from offramp.models.inputs import Inputs
from offramp.storage.manifest import MANIFEST_FILE

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "samples"
CLOSE = {"rtol": 0.0, "atol": 1e-5}
WEIGHTS = "model.safetensors"
STATE = "model_state.pdparams"
HF_CLASSES = sorted(
    name
    for name in dir(transformers)
    if re.fullmatch(r"(Bert|Ernie|Roberta|Albert)(Model|For\w+|LMHeadModel)", name)
)


def tensors(directory: Path) -> dict[str, Tensor]:
    """Of all safetensors in a directory."""
    return {
        name: tensor
        for file in sorted(directory.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        tensor.dtype is other[name].dtype and torch.equal(tensor, other[name])
        for name, tensor in one.items()
    )


def config(directory: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return values


def edit_config(directory: Path, **changes: Any) -> None:
    """Set values of a config.json, or with None take them away."""
    values = {**config(directory), **changes}
    kept = {key: value for key, value in values.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(kept))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != MANIFEST_FILE
    }


def transformers_model(name: str, **changes: Any) -> Any:
    """A tiny model of a class, whose numbers all show and whose settings are not the defaults."""
    kind = getattr(transformers, name)
    values = {
        **TINY,
        "type_vocab_size": 3,
        "pad_token_id": 2,
        "hidden_dropout_prob": 0.2,
        "classifier_dropout_prob" if "Albert" in name else "classifier_dropout": 0.3,
        "id2label": {0: "down", 1: "up"},
        "label2id": {"down": 0, "up": 1},
        **({"embedding_size": 6, "num_hidden_groups": 2} if "Albert" in name else {}),
        **({"use_task_id": True} if "Ernie" in name else {"layer_norm_eps": 1e-6}),
    }
    model = kind(kind.config_class(**{**values, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """What transformers saved of a BertForSequenceClassification."""
    transformers_model("BertForSequenceClassification").save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


# ---------------------------------------------------------------------- PaddleNLP's files


@pytest.mark.parametrize("save", CLASSES)
def test_paddle_to_hf_and_back_is_the_same_file(save: str, tmp_path: Path) -> None:
    """Every tensor under its name and bit for bit, and every setting that PaddleNLP reads."""
    offramp.convert(PADDLE / save, tmp_path / "hf")
    offramp.convert(tmp_path / "hf", tmp_path / "paddle", "paddle")
    given, found = unpickled(PADDLE / save / STATE), unpickled(tmp_path / "paddle" / STATE)
    assert differing(given, found) == []
    not_kept = {"fuse", "paddlenlp_version", "pool_act"}  # pool_act is tanh, which is the default
    if settings(save)["model_type"] == "ernie":
        not_kept |= {"layer_norm_eps"}  # PaddleNLP has 1e-12 whatever this says
    kept = {key: value for key, value in settings(save).items() if key not in not_kept}
    assert kept.items() <= config(tmp_path / "paddle").items()


@pytest.mark.parametrize("save", CLASSES)
def test_the_report_tells_of_every_tensor(save: str, tmp_path: Path) -> None:
    there = offramp.convert(PADDLE / save, tmp_path / "hf")
    assert (there.dialect, there.to) == ("paddle", "hf")
    hf = tensors(tmp_path / "hf")
    assert list(there.written.values()) == list(dict.fromkeys(there.written.values()))
    assert set(there.written.values()) == hf.keys()
    lying_alike = re.compile(r".*(_embeddings|decoder)\.weight")
    matrices = {name for name, tensor in hf.items() if tensor.ndim == 2}
    assert set(there.transposed) == {n for n in matrices if not lying_alike.fullmatch(n)}
    back = offramp.convert(tmp_path / "hf", tmp_path / "paddle", "paddle")
    assert (back.dialect, back.to) == ("own", "paddle")
    assert {n: f for n, f in back.written.items() if not n.endswith("position_ids")} == {
        own: foreign for foreign, own in there.written.items()
    }
    assert {there.written[name] for name in back.transposed} == set(there.transposed)
    assert str(there).startswith(f"{PADDLE / save} (paddle) -> {tmp_path / 'hf'} (hf): ")


@pytest.mark.parametrize("save", ["bert/BertModel", "albert/AlbertModel", "bert/BertForMaskedLM"])
def test_the_report_tells_of_what_is_in_one_alone(save: str, tmp_path: Path) -> None:
    """ALBERT's numbers of positions, and words that are there a second time."""
    there = offramp.convert(PADDLE / save, tmp_path / "hf")
    left_out = unpickled(PADDLE / save / STATE).keys() - there.written.keys()
    assert bool(left_out) is (save != "bert/BertModel")
    assert all(name in str(there) for name in left_out)
    back = offramp.convert(tmp_path / "hf", tmp_path / "paddle", "paddle")
    assert set(back.written) == tensors(tmp_path / "hf").keys()


def answer(directory: Path, given: dict[str, Tensor], **arguments: Tensor) -> list[Tensor]:
    """What transformers' class answers, which must find all that it wants in the files.

    Where it has other arithmetic than PaddleNLP it is given that.
    """
    values = config(directory)
    kind = getattr(transformers, values["architectures"][0])
    model, info = kind.from_pretrained(directory, output_loading_info=True)
    poolers = re.compile(r"\w+\.pooler\.(dense\.)?(weight|bias)")  # that the class has no use for
    assert [n for n in info["unexpected_keys"] if not poolers.fullmatch(n)] == []
    assert list(info["missing_keys"]) == list(info["mismatched_keys"]) == []
    ids = given["input_ids"]
    if values["model_type"] == "albert":
        mask = torch.ones_like(ids)  # PaddleNLP's ALBERT alone masks nothing
        if hasattr(model, "predictions"):
            model.predictions.LayerNorm.eps = 1e-5  # whatever layer_norm_eps is
    else:
        mask = (ids != values.get("pad_token_id", 0)).long()
    if values.get("use_task_id"):  # transformers has 0 where none is given
        arguments["task_type_ids"] = torch.full_like(ids, values["task_id"])
    with torch.no_grad():
        found = model(**given, attention_mask=mask, **arguments, return_dict=False)
    return [output for output in found if isinstance(output, Tensor)]


def assert_same_answers(found: list[Tensor], expected: list[Tensor]) -> None:
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, **CLOSE)


@pytest.mark.parametrize("save", CLASSES)
def test_transformers_gives_paddle_s_answers(save: str, tmp_path: Path) -> None:
    told = offramp.convert(PADDLE / save, tmp_path / "hf")
    masked = not save.startswith("albert")
    assert any("pass it a mask" in note for note in told.notes) is masked
    assert config(tmp_path / "hf").get("mask_padding", False) is masked
    given, expected = answers(save)
    found = answer(tmp_path / "hf", given)
    if save == "albert/AlbertForQuestionAnswering":
        assert torch.equal(*expected)  # PaddleNLP gives the start's logits twice
        found, expected = found[:1], expected[:1]
    assert_same_answers(found, expected)


@pytest.mark.parametrize("save", OLD)
def test_files_of_before_there_was_a_config_json(save: str, tmp_path: Path) -> None:
    """By name and by position, the body inside or by keyword; old names of the words' decoder."""
    offramp.convert(PADDLE / save, tmp_path / "hf")
    given, expected = answers(save)
    if "Roberta" in save:  # counted its positions from 0 then
        given["position_ids"] = torch.arange(8).expand(3, 8)
    assert_same_answers(answer(tmp_path / "hf", given), expected)
    # in today's names it is the same model
    offramp.convert(tmp_path / "hf", tmp_path / "paddle", "paddle")
    offramp.convert(tmp_path / "paddle", tmp_path / "again")
    assert equal(tensors(tmp_path / "again"), tensors(tmp_path / "hf"))
    assert config(tmp_path / "hf").items() <= config(tmp_path / "again").items()


def test_settings_of_the_nested_layout(tmp_path: Path) -> None:
    """dropout 0.0 by position is none, and 3 classes have names."""
    offramp.convert(PADDLE / "2.3.4/BertForSequenceClassification", tmp_path / "hf")
    values = config(tmp_path / "hf")
    assert values["classifier_dropout"] == 0.0
    assert list(values["id2label"]) == ["0", "1", "2"]
    assert values["architectures"] == ["BertForSequenceClassification"]
    assert values["type_vocab_size"] == 16  # PaddleNLP's default, not transformers'
    assert not {"init_args", "init_class", "num_classes", "dropout"} & values.keys()


@pytest.mark.parametrize("model", ["bert", "ernie", "roberta", "albert"])
def test_a_head_of_answers_has_two_columns_whatever_labels_are_stated(
    model: str, tmp_path: Path
) -> None:
    """num_labels is for other classes; PaddleNLP's are of start and end."""
    (folder,) = (PADDLE / model).glob("*ForQuestionAnswering")
    shutil.copytree(folder, tmp_path / "paddle")
    edit_config(tmp_path / "paddle", id2label={"0": "a", "1": "b", "2": "c"})
    offramp.convert(tmp_path / "paddle", tmp_path / "hf")
    given, expected = answers(f"{model}/{folder.name}")
    assert_same_answers(answer(tmp_path / "hf", given)[:1], expected[:1])


@pytest.mark.parametrize("model", ["bert", "ernie", "roberta", "albert"])
def test_sizes_that_are_not_stated_are_the_tensors(model: str, tmp_path: Path) -> None:
    """PaddleNLP may leave out what is its default, which was not the same in every version."""
    folder = tmp_path / "paddle"
    shutil.copytree(next((PADDLE / model).glob("*Model")), folder)
    sizes = {"vocab_size": 24, "type_vocab_size": 3, "max_position_embeddings": 16}
    edit_config(folder, **dict.fromkeys(sizes), pad_token_id=None)
    offramp.convert(folder, tmp_path / "hf")
    assert config(tmp_path / "hf").get("pad_token_id", 0) == 0  # RoBERTa's too, not 1
    assert sizes.items() <= config(tmp_path / "hf").items()


# Other files of the same models


@pytest.mark.parametrize(
    ("folder", "same"),
    [
        ("sharded", "bert/BertForPretraining"),
        ("parts", "bert/BertForSequenceClassification"),
        ("safetensors", "albert/AlbertModel"),
    ],
)
def test_other_files_of_the_same_model(folder: str, same: str, tmp_path: Path) -> None:
    offramp.convert(FORMATS / folder, tmp_path / "one")
    offramp.convert(PADDLE / same, tmp_path / "two")
    assert equal(tensors(tmp_path / "one"), tensors(tmp_path / "two"))
    assert config(tmp_path / "one") == config(tmp_path / "two")


@pytest.mark.parametrize("folder", ["bfloat16", "bfloat16_safetensors"])
def test_bfloat16_stays_as_it_is(folder: str, tmp_path: Path) -> None:
    """Paddle's bare uint16, which config.json says is bfloat16."""
    offramp.convert(FORMATS / folder, tmp_path / "hf")
    offramp.convert(PADDLE / "bert/BertForSequenceClassification", tmp_path / "whole")
    cut = {  # as Paddle makes them; torch would round
        name: (tensor.view(torch.int32) >> 16).to(torch.int16).view(torch.bfloat16)
        for name, tensor in tensors(tmp_path / "whole").items()
    }
    assert equal(tensors(tmp_path / "hf"), cut)
    assert config(tmp_path / "hf")["dtype"] == "bfloat16"
    offramp.convert(tmp_path / "hf", tmp_path / "paddle", "paddle")
    written = unpickled(tmp_path / "paddle" / STATE)
    assert differing(written, unpickled(FORMATS / "bfloat16" / STATE)) == []
    assert config(tmp_path / "paddle")["dtype"] == "bfloat16"


@pytest.mark.parametrize("folder", ["bfloat16", "bfloat16_safetensors"])
def test_bfloat16_is_not_guessed(folder: str, tmp_path: Path) -> None:
    shutil.copytree(FORMATS / folder, tmp_path / "paddle")
    edit_config(tmp_path / "paddle", dtype=None)
    offramp.convert(tmp_path / "paddle", tmp_path / "told", uint16_is_bfloat16=True)
    offramp.convert(FORMATS / folder, tmp_path / "stated")
    assert equal(tensors(tmp_path / "told"), tensors(tmp_path / "stated"))
    assert config(tmp_path / "told") == config(tmp_path / "stated")


@pytest.mark.parametrize("folder", ["bfloat16", "bfloat16_safetensors"])
def test_integers_are_no_weights(folder: str, tmp_path: Path) -> None:
    shutil.copytree(FORMATS / folder, tmp_path / "paddle")
    edit_config(tmp_path / "paddle", dtype=None)
    with pytest.raises(offramp.CheckpointError, match="uint16_is_bfloat16"):
        offramp.convert(tmp_path / "paddle", tmp_path / "hf")


def test_shards_of_paddle_as_they_are_written(tmp_path: Path) -> None:
    """The index is PaddleNLP's, the shards together are the one file."""
    save = PADDLE / "bert/BertForPretraining"
    offramp.convert(save, tmp_path / "hf", max_shard_size="2KB")
    assert (tmp_path / "hf/model.safetensors.index.json").is_file()
    offramp.convert(tmp_path / "hf", tmp_path / "paddle", "paddle", max_shard_size=2048)
    shards = sorted((tmp_path / "paddle").glob("*.pdparams"))
    assert 1 < len(shards) == int(shards[0].name[-14:-9])
    index = json.loads((tmp_path / "paddle/model_state.pdparams.index.json").read_text())
    found = {}
    for shard in shards:
        arrays = unpickled(shard)
        assert arrays.keys() == {n for n, file in index["weight_map"].items() if file == shard.name}
        size = sum(array.nbytes for array in arrays.values())
        assert size <= 2048 or len(arrays) == 1
        found |= arrays
    assert differing(found, unpickled(save / STATE)) == []
    theirs = json.loads((FORMATS / "sharded/model_state.pdparams.index.json").read_text())
    assert index.keys() == theirs.keys()
    assert index["weight_map"].keys() == theirs["weight_map"].keys()
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in found.values())
    offramp.convert(tmp_path / "paddle", tmp_path / "again")
    assert equal(tensors(tmp_path / "again"), tensors(tmp_path / "hf"))
    assert_same_answers(
        answer(tmp_path / "hf", answers("bert/BertForPretraining")[0]),
        answers("bert/BertForPretraining")[1],
    )


# ---------------------------------------------------------------------- transformers' files


TIED = ("cls.predictions", "lm_head", "predictions")
"""A head of words: its decoder.weight is the words' table, its decoder.bias its bias."""


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", HF_CLASSES)
def test_hf_to_paddle_and_back_is_the_same(name: str, tied: bool, tmp_path: Path) -> None:
    """transformers writes a tied tensor once, PaddleNLP twice: once again on the way back."""
    model = transformers_model(name, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "hf")
    there = offramp.convert(tmp_path / "hf", tmp_path / "paddle", "paddle")
    offramp.convert(tmp_path / "paddle", tmp_path / "again")
    assert equal(tensors(tmp_path / "again"), load_file(tmp_path / "hf" / WEIGHTS))
    twice = {n for n in model.state_dict() if n.startswith(tuple(f"{h}.decoder." for h in TIED))}
    assert there.tied.keys() == (twice if tied else set())
    kept = config(tmp_path / "hf")
    assert config(tmp_path / "again") == kept


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", HF_CLASSES)
def test_a_bin_to_paddle_and_back(name: str, tied: bool, tmp_path: Path) -> None:
    """torch.save writes what is tied under both of its names; its second ones do not come back."""
    model = transformers_model(name, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "hf")
    twice = model.state_dict().keys() - load_file(tmp_path / "hf" / WEIGHTS).keys()
    assert bool(twice) is (tied and any(n.startswith(TIED) for n in model.state_dict()))
    (tmp_path / "hf" / WEIGHTS).unlink()
    torch.save(model.state_dict(), tmp_path / "hf/pytorch_model.bin")
    offramp.convert(tmp_path / "hf", tmp_path / "paddle", "paddle")
    offramp.convert(tmp_path / "paddle", tmp_path / "again")
    given = {n: tensor for n, tensor in model.state_dict().items() if n not in twice}
    assert equal(tensors(tmp_path / "again"), given)
    offramp.convert(tmp_path / "hf", tmp_path / "plain")
    assert equal(tensors(tmp_path / "plain"), dict(model.state_dict()))


@pytest.mark.parametrize("name", ["BertModel", "ErnieForMaskedLM", "RobertaModel", "AlbertModel"])
def test_transformers_reads_its_own_model_back(name: str, tmp_path: Path) -> None:
    model = transformers_model(name)
    model.save_pretrained(tmp_path / "hf")
    offramp.convert(tmp_path / "hf", tmp_path / "paddle", "paddle")
    offramp.convert(tmp_path / "paddle", tmp_path / "again")
    again = type(model).from_pretrained(tmp_path / "again")
    told, kept = again.config.to_dict(), model.config.to_dict()
    ours = {"mask_padding", "_name_or_path", "architectures", "dtype"}
    assert {k: v for k, v in told.items() if k not in ours} == {
        k: v for k, v in kept.items() if k not in ours
    }
    ids = torch.tensor([[3, 5, 7, 9], [4, 6, 8, 3]])
    with torch.no_grad():
        assert torch.equal(again(ids)[0], model(ids)[0])


def test_shards_of_transformers(tmp_path: Path) -> None:
    model = transformers_model("BertForPreTraining")
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="2KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    offramp.convert(tmp_path / "one", tmp_path / "a", "paddle")
    offramp.convert(tmp_path / "many", tmp_path / "b", "paddle")
    assert (tmp_path / "a" / STATE).read_bytes() == (tmp_path / "b" / STATE).read_bytes() or (
        differing(unpickled(tmp_path / "a" / STATE), unpickled(tmp_path / "b" / STATE)) == []
    )


def test_names_of_before_2019_and_old_buffers(bert: Path, tmp_path: Path) -> None:
    state = load_file(bert / WEIGHTS)
    old = {
        re.sub(r"(LayerNorm\.)(weight|bias)", lambda m: m[1] + OLD_PARTS[m[2]], name): tensor
        for name, tensor in state.items()
    }
    old["bert.embeddings.position_ids"] = torch.arange(10)[None]
    (tmp_path / "old").mkdir()
    shutil.copy(bert / "config.json", tmp_path / "old")
    torch.save(old, tmp_path / "old/pytorch_model.bin")
    told = offramp.convert(tmp_path / "old", tmp_path / "new")
    assert told.dialect == "old"
    assert told.written["bert.embeddings.LayerNorm.gamma"] == "bert.embeddings.LayerNorm.weight"
    assert equal(tensors(tmp_path / "new"), state)


OLD_PARTS = {"weight": "gamma", "bias": "beta"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_types_go_through(dtype: str, bert: Path, tmp_path: Path) -> None:
    kind = getattr(torch, dtype)
    state = {name: tensor.to(kind) for name, tensor in load_file(bert / WEIGHTS).items()}
    save_file(state, bert / WEIGHTS)
    offramp.convert(bert, tmp_path / "paddle", "paddle")
    assert config(tmp_path / "paddle")["dtype"] == dtype
    bits = {"float16": "<f2", "bfloat16": "<u2", "float64": "<f8"}[dtype]
    kinds = {array.dtype.str for array in unpickled(tmp_path / "paddle" / STATE).values()}
    assert kinds == {bits}
    offramp.convert(tmp_path / "paddle", tmp_path / "again")
    assert equal(tensors(tmp_path / "again"), state)


# ---------------------------------------------------------------------- research code


def sample(name: str) -> tuple[Path, dict[str, Any]]:
    if not (SAMPLES / name).is_dir():
        pytest.skip(f"../shared/samples/{name} is absent")
    with np.load(SAMPLES / name / "_ref_outputs.npz") as found:
        return SAMPLES / name, {key: torch.from_numpy(found[key]) for key in found}


def exits_of(directory: Path, ids: Tensor) -> dict[int, Tensor]:
    model = BertForSequenceClassification.from_pretrained(directory)
    with torch.no_grad():
        return offramp.logits_by_depth(model, Inputs.from_padded(ids, None))


@pytest.mark.parametrize("converted", [False, True])
def test_deebert_s_logits_at_every_exit(converted: bool, tmp_path: Path) -> None:
    """`logits_T` is where rows left at the threshold T, `all_highway_logits0` one row's all."""
    directory, expected = sample("deebert_tiny")
    if converted:
        told = offramp.convert(directory, tmp_path / "hf")
        assert told.dialect == "deebert"
        directory = tmp_path / "hf"
    found = exits_of(directory, expected["input_ids"])
    assert sorted(found) == [1, 2, 3, 4]
    plain = expected["logits_-1"]  # no row left before the end
    torch.testing.assert_close(found[4], plain, **CLOSE)
    for depth in (1, 2, 3):
        wanted = expected["all_highway_logits0"][depth - 1]
        torch.testing.assert_close(found[depth][:1], wanted, **CLOSE)
    left = set()
    for key in expected:
        if key.startswith("exit_"):
            for row, layer in enumerate(expected[key].tolist()):
                wanted = expected[key.replace("exit", "logits")][row]
                if layer < 4 or torch.equal(wanted, plain[row]):  # else the exit after the last
                    torch.testing.assert_close(found[layer][row], wanted, **CLOSE)
                    left.add(layer)
    assert left == {1, 2, 3, 4}


@pytest.mark.parametrize("converted", [False, True])
def test_pabee_s_logits_at_every_exit(converted: bool, tmp_path: Path) -> None:
    """`layers_P` is where rows left with the patience P; 0 means that none may leave."""
    directory, expected = sample("pabee_bert_tiny")
    if converted:
        told = offramp.convert(directory, tmp_path / "hf")
        assert told.dialect == "pabee"
        directory = tmp_path / "hf"
    found = exits_of(directory, expected["input_ids"])
    assert sorted(found) == [1, 2, 3, 4]
    left = set()
    for key in expected:
        if key.startswith("layers_"):
            for row, layer in enumerate(expected[key].tolist()):
                wanted = expected[key.replace("layers", "logits")][row]
                torch.testing.assert_close(found[layer or 4][row], wanted, **CLOSE)
                left.add(layer or 4)
    assert left == {2, 3, 4}


def test_deebert_to_hf_and_back_is_the_same(tmp_path: Path) -> None:
    directory, _ = sample("deebert_tiny")
    offramp.convert(directory, tmp_path / "hf")
    told = offramp.convert(tmp_path / "hf", tmp_path / "back", "research")
    given = torch.load(directory / "pytorch_model.bin", weights_only=True)
    found = torch.load(tmp_path / "back/pytorch_model.bin", weights_only=True)
    buffers = {name for name in given if name.endswith("position_ids")}
    assert equal(found, {name: given[name] for name in given if name not in buffers})
    assert told.tied == {}  # its own exit after the last layer is kept
    given, found = config(directory), config(tmp_path / "back")
    renamed = {"torch_dtype": "float32"}.keys()
    assert {k: v for k, v in given.items() if k not in renamed}.items() <= found.items()
    assert "exits" not in found


def test_pabee_as_deebert_has_the_same_exits(tmp_path: Path) -> None:
    """Research output is DeeBERT's layout: each exit with the pooler that PABEE shares."""
    directory, expected = sample("pabee_bert_tiny")
    offramp.convert(directory, tmp_path / "hf")
    told = offramp.convert(tmp_path / "hf", tmp_path / "research", "research")
    given = torch.load(directory / "pytorch_model.bin", weights_only=True)
    found = torch.load(tmp_path / "research/pytorch_model.bin", weights_only=True)
    for layer in range(4):
        for part in ("weight", "bias"):
            exit_ = f"bert.encoder.highway.{layer}"
            pooler, classifier = (
                found[f"{exit_}.pooler.dense.{part}"],
                f"classifiers.{layer}.{part}",
            )
            assert torch.equal(pooler, given[f"bert.pooler.dense.{part}"])
            assert torch.equal(found[f"{exit_}.classifier.{part}"], given[classifier])
    assert any("copy" in note for note in told.notes)
    one, two = (exits_of(tmp_path / to, expected["input_ids"]) for to in ("hf", "research"))
    for depth in one:
        torch.testing.assert_close(one[depth], two[depth])


def test_own_exits_to_research_and_back(tmp_path: Path) -> None:
    """DeeBERT has one more exit, after the last layer: the model's own head stands there."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**TINY, num_labels=3)).eval()
    offramp.add_exits(model, pooler="first", hidden=TINY["hidden_size"])
    model.save_pretrained(tmp_path / "own")
    told = offramp.convert(tmp_path / "own", tmp_path / "research", "research")
    assert set(told.tied) == {
        f"bert.encoder.highway.1.{name}.{part}"
        for name in ("pooler.dense", "classifier")
        for part in ("weight", "bias")
    }
    ids = torch.tensor([[1, 5, 7, 2]])
    one, two = (exits_of(tmp_path / to, ids) for to in ("own", "research"))
    assert sorted(one) == sorted(two) == [1, 2]
    for depth in one:
        torch.testing.assert_close(one[depth], two[depth])


@pytest.mark.parametrize("settings", [{"num_labels": 1}, {"problem_type": "regression"}])
def test_research_exits_of_numbers(settings: dict[str, Any], tmp_path: Path) -> None:
    """PABEE was made for regression too; its files know no criterion either."""
    model = BertForSequenceClassification(BertConfig(**TINY, **settings))
    offramp.add_exits(model, pooler="first", hidden=TINY["hidden_size"])
    model.save_pretrained(tmp_path / "own")
    offramp.convert(tmp_path / "own", tmp_path / "research", "research")
    again = BertForSequenceClassification.from_pretrained(tmp_path / "research")
    assert again.exits.criterion == offramp.RegressionPatience(0)  # type: ignore[union-attr]
    model = BertForSequenceClassification.from_pretrained(sample("deebert_tiny")[0])
    assert model.exits.criterion == offramp.Entropy(0)  # type: ignore[union-attr]


def test_an_exit_that_is_there_twice(tmp_path: Path) -> None:
    """highway.0 and highway.00 are one depth."""
    model = BertForSequenceClassification(BertConfig(**TINY)).eval()
    offramp.add_exits(model, pooler="first", hidden=TINY["hidden_size"])
    model.save_pretrained(tmp_path / "own")
    offramp.convert(tmp_path / "own", tmp_path / "research", "research")
    state = torch.load(tmp_path / "research/pytorch_model.bin", weights_only=True)
    name = "bert.encoder.highway.{}.classifier.bias"
    torch.save(
        state | {name.format("00"): state[name.format(0)] + 1},
        tmp_path / "research/pytorch_model.bin",
    )
    assert "highway.00" in refused(tmp_path / "research", tmp_path / "new")
    with pytest.raises(offramp.CheckpointError):
        BertForSequenceClassification.from_pretrained(tmp_path / "research")


# ---------------------------------------------------------------------- refusals


def refused(source: Path, target: Path, to: str = "hf", **options: Any) -> str:
    """What is said of a conversion that leaves nothing behind."""
    before = contents(target.parent)
    with pytest.raises(offramp.OfframpError) as raised:
        offramp.convert(source, target, to, **options)
    assert contents(target.parent) == before
    return str(raised.value)


def test_an_unknown_format(bert: Path, tmp_path: Path) -> None:
    assert "hf, paddle, research" in refused(bert, tmp_path / "new", "torch")
    assert "Did you mean 'paddle'" in refused(bert, tmp_path / "new", "padle")


@pytest.mark.parametrize("name", ["bert", "bert/../bert", "link"])
def test_the_model_s_own_directory(name: str, bert: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bert)
    assert "is the model itself" in refused(bert, tmp_path / name, "paddle")


def test_a_family_of_which_no_table_knows(bert: Path, tmp_path: Path) -> None:
    edit_config(bert, model_type="electra")
    assert "'electra' model" in refused(bert, tmp_path / "new", "paddle")
    edit_config(bert, model_type=None, architectures=None)
    assert "neither model_type nor architectures" in refused(bert, tmp_path / "new")
    shutil.copytree(PADDLE / "bert/BertModel", tmp_path / "paddle")
    edit_config(tmp_path / "paddle", model_type="electra")
    assert "'electra' model" in refused(tmp_path / "paddle", tmp_path / "new")


def test_a_tensor_of_which_no_table_knows(bert: Path, tmp_path: Path) -> None:
    """It might lie the other way round: PaddleNLP's UIE has linear layers of its own."""
    assert "linear_start.weight" in refused(FORMATS / "uie", tmp_path / "new")
    save_file(load_file(bert / WEIGHTS) | {"extra": torch.ones(3, 3)}, bert / WEIGHTS)
    assert "extra, which no table knows" in refused(bert, tmp_path / "new", "paddle")
    offramp.convert(bert, tmp_path / "hf")  # where nothing is renamed it goes along
    assert "extra" in tensors(tmp_path / "hf")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exits": None}, "has none"),
        ({"pooler": "mean"}, "first-token exit"),
        ({"depths": [2]}, "after each of 2 layers"),
        ({"hidden": 3}, "of width 8"),
    ],
)
def test_research_is_for_exits_such_as_deebert_s(
    change: dict[str, Any], message: str, bert: Path, tmp_path: Path
) -> None:
    section = {"pooler": "first", "hidden": 8, "depths": [1], **change}
    edit_config(bert, exits=None if "exits" in change else section)
    assert message in refused(bert, tmp_path / "new", "research")


def test_no_weights_two_saves_and_no_directory(bert: Path, tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "absent", tmp_path / "new")
    state = load_file(bert / WEIGHTS)
    torch.save({n: tensor + 1 for n, tensor in state.items()}, bert / "pytorch_model.bin")
    assert "two saves" in refused(bert, tmp_path / "new")
    torch.save(state, bert / "pytorch_model.bin")
    offramp.convert(bert, tmp_path / "same")  # two files of one save
    assert equal(tensors(tmp_path / "same"), state)
    for file in (WEIGHTS, "pytorch_model.bin"):
        (bert / file).unlink()
    assert "holds no weights" in refused(bert, tmp_path / "new")


@pytest.mark.parametrize("file", ["lod.pdparams", "binary.pdparams"])
def test_what_is_no_layer_s_state(file: str, tmp_path: Path) -> None:
    (tmp_path / "paddle").mkdir()
    shutil.copy(PADDLE / "bert/BertModel/config.json", tmp_path / "paddle")
    shutil.copy(FORMATS / file, tmp_path / "paddle" / STATE)
    with pytest.raises(offramp.CheckpointError) as raised:
        offramp.convert(tmp_path / "paddle", tmp_path / "new")
    assert raised.value.kind == "unsupported"
    assert re.search(r"LoDTensor|a static graph's", str(raised.value))


@pytest.mark.parametrize("stated", ["many", -1, None])
def test_albert_s_positions_are_as_many_as_it_has(stated: Any, tmp_path: Path) -> None:
    """PaddleNLP keeps their numbers as a tensor, which must be as long as their table."""
    transformers_model("AlbertModel").save_pretrained(tmp_path / "hf")
    edit_config(tmp_path / "hf", max_position_embeddings=stated)
    offramp.convert(tmp_path / "hf", tmp_path / "new", "paddle")
    numbers = unpickled(tmp_path / "new" / STATE)["embeddings.position_ids"]
    assert numbers.tolist() == [list(range(TINY["max_position_embeddings"]))]


@pytest.mark.parametrize(
    ("source", "target", "to"),
    [
        ("paddle", "new", ["hf"]),
        ("paddle", "new", None),
        ("no\0name", "new", "hf"),
        ("paddle", "no\0name", "hf"),
        ("~nobody-of-this-name/x", "new", "hf"),
        ("paddle", "~nobody-of-this-name/x", "hf"),
        ("loop", "new", "hf"),
        ("paddle", "loop", "hf"),
        ("paddle, no class", "new", "hf"),
        ("hf, no class", "new", "paddle"),
        ("paddle, half a letter", "new", "hf"),
    ],
)
def test_every_error_is_typed(
    source: str, target: str, to: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that are none, and settings that are not what they should be."""
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    transformers_model("BertModel").save_pretrained("hf, no class")
    for folder in ("paddle", "paddle, no class", "paddle, half a letter"):
        shutil.copytree(PADDLE / "bert/BertModel", folder)
    for folder in ("hf, no class", "paddle, no class"):
        edit_config(Path(folder), architectures=5)
    edit_config(Path("paddle, half a letter"), note="\ud800")
    with pytest.raises(offramp.OfframpError):
        offramp.convert(source, target, to)
    assert not Path("new").exists()


def test_exits_that_are_in_config_json_alone(bert: Path, tmp_path: Path) -> None:
    width = TINY["hidden_size"]
    edit_config(bert, exits={"pooler": "first", "hidden": width, "depths": [1]})
    refused(bert, tmp_path / "new", "research")


# ---------------------------------------------------------------------- the target


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("failure", ["no space", "a size that is none", "a truncated source"])
def test_a_failure_leaves_what_was_there(
    failure: str, there: bool, bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "target"
    if there:
        offramp.convert(PADDLE / "bert/BertModel", target)
    options = {"max_shard_size": "5 shards"} if failure == "a size that is none" else {}
    if failure == "no space":

        def write(path: Path, *args: Any) -> None:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("offramp.checkpoints.writing.write_paddle", write)
    if failure == "a truncated source":
        raw = (bert / WEIGHTS).read_bytes()
        (bert / WEIGHTS).write_bytes(raw[:-4])
    refused(bert, target, "paddle", **options)
    assert target.exists() is there


def test_a_target_that_is_there_has_the_new_model_and_its_other_files(
    bert: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    offramp.convert(PADDLE / "bert/BertModel", target, max_shard_size="2KB")
    (target / "notes.txt").write_text("mine")
    offramp.convert(bert, target, "paddle")
    assert sorted(contents(target)) == ["config.json", STATE, "notes.txt"]
    assert config(target)["architectures"] == ["BertForSequenceClassification"]


TOKENIZER = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"]


@pytest.mark.parametrize("to", ["hf", "paddle"])
def test_tokenizer_files_go_along(to: str, bert: Path, tmp_path: Path) -> None:
    files = {name: f'{{"{name}": "ñ"}}\r\n'.encode() for name in TOKENIZER}
    for name, content in {**files, "notes.txt": b"mine"}.items():
        (bert / name).write_bytes(content)
    offramp.convert(bert, tmp_path / "new", to)
    found = contents(tmp_path / "new")
    assert {name: found[name] for name in TOKENIZER} == files
    assert len(found) == len(files) + 2
    (bert / "vocab.txt").unlink()
    (bert / "vocab.txt").symlink_to(PADDLE / "README.md")
    assert "vocab.txt" in refused(bert, tmp_path / "other", to)


def test_two_tokenizers_are_not_mixed(bert: Path, tmp_path: Path) -> None:
    (bert / "vocab.txt").write_text("[PAD]")
    (tmp_path / "target").mkdir()
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / "target" / name).write_text("another's")
    offramp.convert(bert, tmp_path / "target")
    assert sorted(contents(tmp_path / "target")) == ["config.json", WEIGHTS, "vocab.txt"]


# ---------------------------------------------------------------------- without torch


def test_torch_is_never_imported(bert: Path, tmp_path: Path) -> None:
    """In a process that has none, from and to every kind of file, whole and in shards."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**TINY)).eval()
    offramp.add_exits(model, pooler="first", hidden=TINY["hidden_size"])
    model.save_pretrained(tmp_path / "exits")
    (tmp_path / "bin").mkdir()
    shutil.copy(bert / "config.json", tmp_path / "bin")
    torch.save(load_file(bert / WEIGHTS), tmp_path / "bin/pytorch_model.bin")
    program = f"""
import sys
sys.modules["torch"] = sys.modules["transformers"] = sys.modules["safetensors.torch"] = None
import offramp
for source in ("bert", "bin", "exits", {str(PADDLE / "bert/BertModel")!r}):
    for to in ("hf", "paddle"):
        for size in (None, "2KB"):
            target = f"{{source.split('/')[-1]}}-{{to}}-{{size}}"
            offramp.convert(source, target, to, max_shard_size=size)
offramp.convert("exits", "exits-research", "research")
print(offramp.convert("exits-research", "exits-again"))
"""
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, encoding="utf-8", timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("exits-research (deebert) -> exits-again (hf): ")
    state = load_file(bert / WEIGHTS)
    for name in ("bert-hf-None", "bert-hf-2KB", "bin-hf-None", "bin-hf-2KB"):
        assert equal(tensors(tmp_path / name), state)
    written = [
        unpickled(tmp_path / name / STATE) for name in ("bert-paddle-None", "bin-paddle-None")
    ]
    assert differing(*written) == []
