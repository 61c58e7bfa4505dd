"""CTranslate2, in float32 or with int8 weights."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from offramp.backends import requires_backends
from offramp.bench.engine import Run, Setting
from offramp.errors import UnsupportedError
from offramp.runner.rows import Row
from offramp.training.peers import padded_batches, transformers_model


def _pooled(model: Any, found: Any) -> Tensor:
    logits_RC: Tensor = model.classifier(_array(found.pooler_output))
    return logits_RC


def _first(model: Any, found: Any) -> Tensor:
    logits_RC: Tensor = model.classifier(_array(found.last_hidden_state))  # reads the first token
    return logits_RC


def _before_classifier(model: Any, found: Any) -> Tensor:
    first_RD = _array(found.last_hidden_state)[:, 0]
    logits_RC: Tensor = model.classifier(model.pre_classifier(first_RD).relu())
    return logits_RC


HEADS: dict[str, Callable[[Any, Any], Tensor]] = {
    "bert": _pooled,
    "roberta": _first,
    "xlm-roberta": _first,
    "camembert": _first,
    "distilbert": _before_classifier,
}
"""By model_type, how transformers' head answers what CTranslate2 gives: hidden states, or pooled.

The families are those that CTranslate2 converts.
"""


class CTranslate2Engine:
    """CTranslate2's encoder of transformers' model, which gives the head; rows sorted by length.

    CTranslate2 has one library of matrix products or another by the machine and by its environment
    variables (CT2_USE_MKL, CT2_FORCE_CPU_ISA).
    """

    packages = ("ctranslate2", "transformers")

    def __init__(self, directory: Path, setting: Setting, *, compute_type: str) -> None:
        requires_backends("the CTranslate2 side", self.packages)
        import ctranslate2

        self._model = transformers_model(directory)
        self._family = self._model.config.model_type
        if self._family not in HEADS:
            raise UnsupportedError(
                f"CTranslate2 converts models of {', '.join(HEADS)}; this one is of {self._family}."
            )
        with tempfile.TemporaryDirectory() as folder:
            _convert(self._model, directory, folder)
            self._encoder: Any = ctranslate2.Encoder(
                folder,
                device="cpu",
                compute_type=compute_type,
                inter_threads=1,
                intra_threads=setting.threads,
            )
        self._batch_size = setting.batch_size

    def prepare(self, rows: Sequence[Row]) -> Run:
        """A call that answers `rows` in batches padded beforehand."""
        from ctranslate2 import StorageView

        order, padded = padded_batches(rows, sort=True, batch_size=self._batch_size)
        has_types = self._family != "distilbert"
        batches = [
            (
                StorageView.from_array(batch["input_ids"].int().numpy()),
                StorageView.from_array(batch["attention_mask"].sum(-1).int().numpy()),
                batch["token_type_ids"].tolist() if has_types else None,
            )
            for batch in padded
        ]
        back_R = torch.argsort(torch.tensor(order))
        head = HEADS[self._family]

        @torch.inference_mode()
        def run() -> Tensor:
            found = (self._encoder.forward_batch(*batch) for batch in batches)
            return torch.cat([head(self._model, one) for one in found])[back_R]

        return run


def _convert(model: Any, directory: Path, output: str) -> None:
    """Write CTranslate2's files of a model that transformers has opened."""
    from ctranslate2.converters import TransformersConverter

    class Opened(TransformersConverter):  # type: ignore[misc]
        """The converter, without reading the model and its tokenizer again."""

        def load_model(self, *_: object, **__: object) -> Any:
            model.config.position_embedding_type = "absolute"  # later transformers have no other
            whole = type(model).__name__.startswith("XLMRoberta")  # whose loader wants the head too
            return model if whole else model.base_model

        def load_tokenizer(self, *_: object, **__: object) -> Any:
            return _Numbers(model.config.vocab_size)

    Opened(str(directory)).convert(output, force=True)


class _Numbers:
    """A vocabulary of numbers: rows come as ids, so that what tokens are called does not matter."""

    unk_token = "0"

    def __init__(self, size: int) -> None:
        self._size = size

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(self._size)}


def _array(view: Any) -> Tensor:
    return torch.from_numpy(np.asarray(view))
