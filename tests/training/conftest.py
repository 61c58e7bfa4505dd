"""A task that a tiny model learns in seconds, and what is trained on it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from exit_models import toy_rows, write_body
from tagged_data import tagged_table
from task_models import write_model

from offramp.models.bert import BertModel
from offramp.runner.classifier import Classifier
from offramp.text.tables import Table
from offramp.training.options import TrainingOptions
from offramp.training.tagger import TaggerReport, train_tagger
from offramp.training.train import TrainingReport, train


def toy_table(n_rows: int, seed: int, source: str = "toy") -> Table:
    rows = toy_rows(n_rows, seed)
    return Table(source, [text for text, _ in rows], [label for _, label in rows])


@pytest.fixture(scope="session")
def toy_data() -> dict[str, Table]:
    """Rows of the task `good` or `bad`, which a tiny model learns in seconds."""
    return {
        split: toy_table(n, seed, split)
        for seed, (split, n) in enumerate({"train": 240, "dev": 60, "test": 80}.items())
    }


@pytest.fixture(scope="session")
def toy_body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_body(tmp_path_factory.mktemp("toy") / "body")


@pytest.fixture(scope="session")
def toy_options() -> TrainingOptions:
    return TrainingOptions(
        epochs=5, batch_size=16, learning_rate=2e-3, ramp_learning_rate=4e-3, patience=9
    )


@pytest.fixture(scope="session")
def toy_trained(
    toy_body: Path,
    toy_data: dict[str, Table],
    toy_options: TrainingOptions,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, TrainingReport]:
    """A directory that `train` wrote, and what it reported."""
    output = tmp_path_factory.mktemp("toy-trained") / "model"
    torch.manual_seed(99)  # which must not matter
    _, report = train(toy_body, toy_data["train"], output, dev=toy_data["dev"], options=toy_options)
    return output, report


@pytest.fixture
def train_toy(
    toy_body: Path, toy_data: dict[str, Table], toy_options: TrainingOptions, tmp_path: Path
) -> Callable[..., tuple[Classifier, TrainingReport]]:
    """Trains into `tmp_path / name`, for one epoch and with what else the options say."""

    def run(
        name: str = "out",
        *,
        start: Path = toy_body,
        data: Table = toy_data["train"],
        dev: Table = toy_data["dev"],
        **options: object,
    ) -> tuple[Classifier, TrainingReport]:
        chosen = replace(toy_options, **{"epochs": 1, **options})  # type: ignore[arg-type]
        return train(start, data, tmp_path / name, dev=dev, options=chosen)

    return run


@pytest.fixture(scope="session")
def tagger_body(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tagger-body") / "body"
    return write_model(place, BertModel, initializer_range=0.1, num_hidden_layers=3)


@pytest.fixture(scope="session")
def tagger_trained(
    tagger_body: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TaggerReport]:
    """A directory that `train_tagger` wrote, and what it reported."""
    output = tmp_path_factory.mktemp("tagger-trained") / "tagger"
    options = TrainingOptions(
        epochs=5,
        batch_size=8,
        learning_rate=5e-3,
        ramp_learning_rate=5e-3,
        patience=9,
        max_loss=1.0,
        schedule="joint",
    )
    data, dev = tagged_table(500, 1, "train"), tagged_table(60, 2, "dev")
    _, report = train_tagger(tagger_body, data, output, dev=dev, options=options)
    return output, report
