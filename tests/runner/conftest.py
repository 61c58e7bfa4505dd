"""A classifier that several files ask."""

from __future__ import annotations

import pytest
from exit_models import tiny_model, write_tokenizer

import offramp


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> offramp.Classifier:
    """Of random weights, with exits at which rows leave."""
    directory = tmp_path_factory.mktemp("classifier") / "model"
    tiny_model(2).save_pretrained(directory)
    write_tokenizer(directory)
    found: offramp.Classifier = offramp.load(directory, task="classify")
    found.threshold = 0.5
    return found
