"""Random models with exits, rows that attack the page, and Chromium."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import NAMES, Browser, chromium, running
from exit_models import tiny_model, write_tokenizer
from report_kit import LABELS, QUICK, Measured, rows

from offramp.exits.attach import exits_of
from offramp.exits.criteria import Entropy, RegressionPatience
from offramp.reporting.measuring import report
from offramp.reporting.page import page


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Measured]:
    """Of a random model of four layers, of this `problem_type`, whose answers are spread."""
    made: dict[str, Measured] = {}

    def of(kind: str) -> Measured:
        if kind not in made:
            place = tmp_path_factory.mktemp("report") / "model <b>"
            numbers = kind == "regression"
            names = {} if numbers else {"id2label": dict(enumerate(LABELS))}
            model = tiny_model(
                3, n_labels=1 if numbers else 3, num_hidden_layers=4, problem_type=kind, **names
            )
            exits_of(model).criterion = RegressionPatience(1, 0.5) if numbers else Entropy(0.3)
            model.save_pretrained(place)
            write_tokenizer(place)
            table = rows(place, kind)
            made[kind] = Measured(place, table, report(place, table, **QUICK))
        return made[kind]

    return of


@pytest.fixture(scope="session")
def classes(measured: Callable[[str], Measured]) -> Measured:
    return measured("single_label_classification")


@pytest.fixture(scope="session")
def values(classes: Measured) -> dict[str, Any]:
    """The JSON of a classifier's report; not to be changed."""
    return classes.report.to_dict()


@pytest.fixture(scope="session")
def html(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page(values), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Chromium; without it tests fail where CI is set, and are skipped elsewhere."""
    command = chromium()
    if command is None:
        reason = f"none of {', '.join(NAMES)} is installed (make chromium)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with running(command, tmp_path_factory.mktemp("profile")) as browser:
        yield browser
