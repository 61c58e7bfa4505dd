"""Every peer gives the logits of the model that offramp runs, in input order."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from task_models import tiny

import offramp
from offramp.bench.apart import ENGINES
from offramp.bench.ctranslate2_engine import HEADS, CTranslate2Engine
from offramp.bench.engine import Opener, Setting
from offramp.bench.onnx_engine import OnnxEngine
from offramp.bench.transformers_engine import TransformersEngine
from offramp.errors import MissingBackendError, UnsupportedError
from offramp.models.base import PretrainedModel
from offramp.models.registry import FAMILIES
from offramp.runner.run import Runner
from offramp.text.encoded import Encoded

SETTING = Setting(batch_size=8, threads=1)
LIKE_BERT = [name for name in FAMILIES if name in {*HEADS, "albert", "ernie", "electra", "mpnet"}]


def classifier(family: str, directory: Path) -> PretrainedModel:
    """A classifier of two layers with random weights, saved in `directory`."""
    names = FAMILIES[family].classes
    config_class = getattr(offramp, f"{names}Config")
    shared = {
        name: getattr(tiny(), name)
        for name in (
            "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "intermediate_size", "max_position_embeddings", "initializer_range",
        )
    }  # fmt: skip
    torch.manual_seed(0)
    config = config_class(**shared, num_labels=3)
    model: PretrainedModel = getattr(offramp, f"{names}ForSequenceClassification")(config).eval()
    model.save_pretrained(directory)
    return model


def some_rows(count: int = 21, types: bool = True) -> list[Encoded]:
    """Ragged rows, of one text and of pairs, without the ids that families pad with."""
    picker = np.random.default_rng(0)
    rows = []
    for length in picker.integers(2, 20, count):
        ids = picker.integers(5, 30, length)
        second = (np.arange(length) >= length - length // 3) & types
        rows.append(Encoded(ids, second.astype(np.int64)))
    return rows


def check(family: str, opener: Opener, directory: Path, tolerance: float = 1e-3) -> None:
    model = classifier(family, directory)
    has_types = getattr(model.config, "type_vocab_size", 1) > 1
    rows = some_rows(types=has_types)
    found = opener(directory, SETTING).prepare(rows)
    expected = Runner(model, exits=False).run(rows).logits_RC
    for _ in range(2):  # a call may be made again
        torch.testing.assert_close(found(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sort", [False, True])
@pytest.mark.parametrize("family", LIKE_BERT)
def test_transformers(family: str, sort: bool, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    check(family, partial(TransformersEngine, sort=sort), tmp_path)


@pytest.mark.parametrize("family", LIKE_BERT)
def test_onnx_runtime(family: str, tmp_path: Path) -> None:
    for package in ("transformers", "onnx", "onnxruntime"):
        pytest.importorskip(package)
    check(family, OnnxEngine, tmp_path)


@pytest.mark.parametrize("family", HEADS)
def test_ctranslate2(family: str, tmp_path: Path) -> None:
    for package in ("transformers", "ctranslate2"):
        pytest.importorskip(package)
    check(family, partial(CTranslate2Engine, compute_type="float32"), tmp_path)


def test_ctranslate2_in_int8_is_near(tmp_path: Path) -> None:
    for package in ("transformers", "ctranslate2"):
        pytest.importorskip(package)
    check("bert", partial(CTranslate2Engine, compute_type="int8"), tmp_path, tolerance=0.5)


def test_ctranslate2_says_which_families_it_has(tmp_path: Path) -> None:
    for package in ("transformers", "ctranslate2"):
        pytest.importorskip(package)
    classifier("electra", tmp_path)
    with pytest.raises(UnsupportedError, match=r"of bert, roberta.*; this one is of electra"):
        CTranslate2Engine(tmp_path, SETTING, compute_type="float32")


@pytest.mark.parametrize("name", ENGINES)
def test_a_peer_that_is_not_installed_says_how_to_install_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in ("transformers", "onnx", "onnxruntime", "ctranslate2"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingBackendError, match="pip install"):
        ENGINES[name].open(tmp_path, SETTING)
