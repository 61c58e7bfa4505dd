"""`save_pretrained(dialect=...)`, held against the files that other libraries wrote."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from paddle_saves import CLASSES, OLD, PADDLE
from tiny import IDS, MASK, TINY
from torch import Tensor

import offramp
from offramp import BertConfig, BertForSequenceClassification, CheckpointError, ConfigError
from offramp.checkpoints.finding import find_save
from offramp.checkpoints.stored import Stored
from offramp.checkpoints.weights import Reading, read_save
from offramp.storage.manifest import MANIFEST_FILE

SAMPLES = Path(__file__).resolve().parents[2].parent / "shared" / "samples"
needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason="other libraries' checkpoints")
OURS = {"RobertaForCausalLM"}  # which offramp does not have


def opened(directory: Path, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what differs between the libraries
        return getattr(offramp, name.replace("Pretraining", "PreTraining")).from_pretrained(
            directory
        )


def stored(directory: Path) -> dict[str, Stored]:
    """By the names in the files."""
    return dict(read_save(find_save(directory), Reading()).tensors)


def values(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return found


def kept(source: Path, target: Path, name: str) -> set[str]:
    """Saves what was opened in its own dialect; the names of its tensors that are not there.

    Those that are have the same bits, and it opens as the same model again.
    """
    model = opened(source, name)
    model.save_pretrained(target, dialect="keep")
    before, after = stored(source), stored(target)
    assert after.keys() <= before.keys()
    for tensor, found in after.items():
        same = found.array.tobytes() == before[tensor].array.tobytes()
        assert (found.dtype, found.shape, same) == (
            before[tensor].dtype,
            before[tensor].shape,
            True,
        ), tensor
    again = opened(target, name)
    state: dict[str, Tensor] = model.state_dict()
    assert all(torch.equal(tensor, state[n]) for n, tensor in again.state_dict().items())
    assert again._dialect == model._dialect
    assert offramp.verify(target).ok
    return before.keys() - after.keys()


@pytest.mark.parametrize("save", sorted(set(CLASSES) - {f"roberta/{name}" for name in OURS}))
def test_paddle_s_files_are_kept(save: str, tmp_path: Path) -> None:
    missing = kept(PADDLE / save, tmp_path / "kept", save.partition("/")[2])
    assert all(".pooler." in name for name in missing), "a pooler that the class has no use for"
    before, after = values(PADDLE / save), values(tmp_path / "kept")
    if before["model_type"] == "ernie":
        del before["layer_norm_eps"]  # PaddleNLP has 1e-12 whatever this says
    assert {k: after.get(k) for k in before} == before
    files = {path.name for path in (tmp_path / "kept").iterdir()}
    assert files == {"config.json", "model_state.pdparams", MANIFEST_FILE}


@pytest.mark.parametrize("save", [s for s in OLD if "Bert" in s])
def test_paddle_s_old_files_become_those_of_today(save: str, tmp_path: Path) -> None:
    model = opened(PADDLE / save, save.rpartition("/")[2])
    model.save_pretrained(tmp_path, dialect="keep")
    assert (tmp_path / "model_state.pdparams").is_file()
    again = opened(tmp_path, save.rpartition("/")[2])
    state = model.state_dict()
    assert all(torch.equal(tensor, state[n]) for n, tensor in again.state_dict().items())


@needs_samples
@pytest.mark.parametrize(
    ("sample", "name", "file"),
    [
        ("paddle_bert_tiny", "BertModel", "model_state.pdparams"),
        ("paddle_bert_tiny_sharded", "BertModel", "model_state.pdparams"),
        ("paddle_bert_seqcls_tiny", "BertForSequenceClassification", "model_state.pdparams"),
        ("paddle_ernie_tiny", "ErnieModel", "model_state.pdparams"),
        ("deebert_tiny", "DeeBertForSequenceClassification", "pytorch_model.bin"),
        ("pabee_bert_tiny", "BertForSequenceClassification", "pytorch_model.bin"),
        ("pabee_bert_tiny", "BertForSequenceClassificationWithPabee", "pytorch_model.bin"),
        ("hf_roberta_seqcls_tiny", "RobertaForSequenceClassification", "model.safetensors"),
        ("hf_albert_mlm_tiny", "AlbertForMaskedLM", "model.safetensors"),
        ("hf_bert_tiny_sharded", "BertModel", "model.safetensors"),
    ],
)
def test_samples_are_kept(sample: str, name: str, file: str, tmp_path: Path) -> None:
    assert kept(SAMPLES / sample, tmp_path / "kept", name) == set()
    assert (tmp_path / "kept" / file).is_file()


@needs_samples
def test_deebert_s_last_exit_is_the_head_s_copy_in_the_plain_class(tmp_path: Path) -> None:
    """It stays with DeeBERT's own class alone; no row ever leaves by it."""
    model = opened(SAMPLES / "deebert_tiny", "BertForSequenceClassification")
    model.save_pretrained(tmp_path, dialect="keep")
    before, after = stored(SAMPLES / "deebert_tiny"), stored(tmp_path)
    assert before.keys() == after.keys()
    other = {n for n in after if after[n].array.tobytes() != before[n].array.tobytes()}
    assert all(".highway.3." in name for name in other)
    assert torch.load(tmp_path / "pytorch_model.bin", weights_only=True).keys() == before.keys()


# Asked for by name


def classifier(*, shared: bool = False) -> BertForSequenceClassification:
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(**TINY)).eval()
    offramp.add_exits(model, pooler="first", hidden=TINY["hidden_size"])
    if shared:
        for depth in model.exits.depths:
            ramp: Any = model.exits[str(depth)]
            ramp.dense.load_state_dict(model.bert.pooler.dense.state_dict())
    return model


@pytest.mark.parametrize(
    ("dialect", "file"),
    [
        ("own", "model.safetensors"),
        ("paddle", "model_state.pdparams"),
        ("deebert", "pytorch_model.bin"),
        ("pabee", "pytorch_model.bin"),
    ],
)
def test_a_model_of_ours_in_any_dialect(dialect: str, file: str, tmp_path: Path) -> None:
    """Each over the one before: no file of another dialect stays."""
    model = classifier(shared=dialect == "pabee")
    (tmp_path / "model_config.json").write_text("{}")
    for before in ("paddle", "own", "deebert"):
        classifier().save_pretrained(tmp_path, dialect=before, max_shard_size="1KB")
    model.save_pretrained(tmp_path, dialect=dialect)
    assert {p.name for p in tmp_path.iterdir()} == {"config.json", file, MANIFEST_FILE}
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(again(IDS, MASK).logits, model(IDS, MASK).logits)
    state = model.state_dict()
    assert again.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[n]) for n, tensor in again.state_dict().items())
    again.save_pretrained(tmp_path / "again", dialect="keep")
    assert (tmp_path / "again" / file).read_bytes() == (tmp_path / file).read_bytes()


def test_shards_and_variants_of_another_dialect(tmp_path: Path) -> None:
    model = classifier()
    model.save_pretrained(tmp_path, dialect="paddle", max_shard_size="1KB")
    assert (tmp_path / "model_state.pdparams.index.json").is_file()
    model.save_pretrained(tmp_path, dialect="paddle", variant="fp16", max_shard_size="1KB")
    model.save_pretrained(tmp_path, dialect="paddle", variant="fp16")
    names = {p.name for p in tmp_path.iterdir()}
    assert "model_state.fp16.pdparams" in names
    assert not any(name.startswith("model_state.fp16-") for name in names)
    assert "model_state.pdparams.index.json" in names


def test_what_a_dialect_has_not(tmp_path: Path) -> None:
    for dialect, said in (
        ("paddel", "Did you mean 'paddle'"),
        (None, "dialect is keep or one of own, paddle, deebert, pabee"),
    ):
        with pytest.raises(ConfigError, match=said):
            classifier().save_pretrained(tmp_path / "x", dialect=dialect)
    with pytest.raises(CheckpointError, match="have poolers of their own"):
        classifier().save_pretrained(tmp_path / "x", dialect="pabee")
    plain = BertForSequenceClassification(BertConfig(**TINY))
    for dialect in ("deebert", "pabee"):
        with pytest.raises(CheckpointError, match="this one has none"):
            plain.save_pretrained(tmp_path / "x", dialect=dialect)
    other = offramp.ElectraModel(offramp.ElectraConfig(**TINY))
    with pytest.raises(ConfigError, match="this is a 'electra' model"):
        other.save_pretrained(tmp_path / "x", dialect="paddle")
    assert list(tmp_path.iterdir()) == []


def test_names_of_before_2019_are_kept_as_those_of_today(tmp_path: Path) -> None:
    model = BertForSequenceClassification(BertConfig(**TINY)).eval()
    model.save_pretrained(tmp_path / "new")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in model.state_dict().items()
    }
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_bytes((tmp_path / "new/config.json").read_bytes())
    torch.save(old, tmp_path / "old" / "pytorch_model.bin")
    found = BertForSequenceClassification.from_pretrained(tmp_path / "old")
    found.save_pretrained(tmp_path / "kept", dialect="keep")
    for name in ("model.safetensors",):
        assert (tmp_path / "kept" / name).read_bytes() == (tmp_path / "new" / name).read_bytes()


@needs_samples
def test_convert_writes_pabee_s_layout_too(tmp_path: Path) -> None:
    offramp.convert(SAMPLES / "pabee_bert_tiny", tmp_path / "own")
    told = offramp.convert(tmp_path / "own", tmp_path / "pabee", "pabee")
    assert any("call set_patience there" in note for note in told.notes)
    before, after = stored(SAMPLES / "pabee_bert_tiny"), stored(tmp_path / "pabee")
    assert before.keys() == after.keys()
    assert all(before[n].array.tobytes() == after[n].array.tobytes() for n in before)
    assert values(tmp_path / "pabee")["architectures"] == ["BertForSequenceClassificationWithPabee"]
