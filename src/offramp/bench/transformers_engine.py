"""transformers, rows in file order or sorted by length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from offramp.bench.engine import Run, Setting
from offramp.runner.rows import Row
from offramp.training.peers import transformers_model, transformers_run


class TransformersEngine:
    """transformers' model as its from_pretrained gives it, in padded batches."""

    def __init__(self, directory: Path, setting: Setting, *, sort: bool) -> None:
        self._model = transformers_model(directory)
        self._sort = sort
        self._batch_size = setting.batch_size

    def prepare(self, rows: Sequence[Row]) -> Run:
        """A call that answers `rows` in batches padded beforehand."""
        return transformers_run(self._model, rows, sort=self._sort, batch_size=self._batch_size)
