"""A report's numbers, beside those that the runner and plain formulas give."""

import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exit_models import write_tokenizer
from parity_families import FAMILIES
from report_kit import LABELS, QUICK, Measured

from offramp.errors import CheckpointError, ConfigError, SaveError
from offramp.exits.attach import add_exits, exits_of
from offramp.exits.calibration.certificate import Certificate, certify, model_fingerprint
from offramp.models.albert import AlbertConfig, AlbertForSequenceClassification
from offramp.reporting.measuring import Report, System, report
from offramp.runner.fingerprint import tokenizer_fingerprint
from offramp.runner.loading import load
from offramp.runner.run import Runner

KINDS = ("single_label_classification", "multi_label_classification", "regression")


def recount(measured: Measured, system: System) -> list[Any]:
    """What a classifier predicts as this system does; of the plain model at full depth."""
    classifier = load(measured.place)
    threshold = 0.0 if system.threshold is None else system.threshold
    return classifier.predict(measured.table.texts, threshold=threshold)


def test_where_rows_leave_is_a_recount(classes: Measured) -> None:
    assert classes.table.labels is not None
    exits = [system for system in classes.report.systems if system.kind == "exits"]
    assert len(exits) == 7
    for system in exits:
        found = recount(classes, system)
        left = Counter(answer.exit_layer for answer in found)
        assert system.left == [left[depth] for depth in (1, 2, 3, 4)]
        right = [a.label == b for a, b in zip(found, classes.table.labels, strict=True)]
        assert system.scores["accuracy"] == pytest.approx(np.mean(right))
    assert len({tuple(system.left) for system in exits}) > 3


def test_loss_is_the_paired_difference(classes: Measured) -> None:
    systems = {system.name: system for system in classes.report.systems}
    full = [
        a.label == b
        for a, b in zip(recount(classes, systems["plain"]), classes.table.labels or [], strict=True)
    ]
    for system in (system for system in systems.values() if system.kind == "exits"):
        fast = [
            a.label == b
            for a, b in zip(recount(classes, system), classes.table.labels or [], strict=True)
        ]
        d = 100 * (np.array(full, float) - np.array(fast, float))
        half = 1.96 * d.std(ddof=1) / math.sqrt(len(d))
        assert system.lost == pytest.approx((d.mean(), d.mean() - half, d.mean() + half))
    chosen = next(system for system in systems.values() if system.chosen)
    assert chosen.lost == pytest.approx(classes.report.evaluation.loss)


def test_ramps_are_a_recount(classes: Measured) -> None:
    classifier = load(classes.place)
    rows = classifier.tokenizer.encode(classes.table.texts)
    labels = np.array([LABELS.index(str(label)) for label in classes.table.labels or []])
    for ramp, depth in zip(classes.report.ramps, (1, 2, 3, None), strict=True):
        logits = Runner(classifier.model, exits=False, depth=depth).run(rows).logits_RC.double()
        probability = torch.softmax(logits, -1).numpy()
        right = probability.argmax(-1) == labels
        sure = probability.max(-1)
        assert ramp.scores["accuracy"] == pytest.approx(right.mean())
        place = np.digitize(sure, np.linspace(0, 1, 11), right=True)
        gaps = [abs((right - sure)[place == b].sum()) / len(sure) for b in range(1, 11)]
        assert ramp.reliability is not None
        assert ramp.reliability.ece == pytest.approx(sum(gaps), abs=1e-6)


def test_what_a_million_rows_take_agrees_with_the_speeds(classes: Measured) -> None:
    """A cost that is higher at a speed that is higher would be noise, shown as a finding."""
    plain = next(line for line in classes.report.evaluation.lines if line.system == "plain")
    for system in classes.report.systems:
        expected = plain.seconds / 8 * 1e6 / system.speed.median
        assert system.seconds_per_million == pytest.approx(expected)


def test_a_peer_has_the_inverse_speed(classes: Measured) -> None:
    pytest.importorskip("transformers")
    found = report(classes.place, classes.table, **(QUICK | {"transformers": True, "peers": False}))
    plain = found.evaluation.lines[0]
    peers = [system for system in found.systems if system.kind == "peer"]
    assert [peer.name for peer in peers] == ["transformers, file order", "transformers, sorted"]
    for peer in peers:
        ratio = plain.speed[peer.name]
        assert peer.speed.median == pytest.approx(1 / ratio.median)
        assert peer.speed.low <= peer.speed.median <= peer.speed.high
        assert peer.scores == plain.scores


def test_engines_that_are_installed_are_peers(classes: Measured, tmp_path: Path) -> None:
    """In processes of their own; a model that one of them has not is named with the reason."""
    for package in ("transformers", "onnxruntime", "onnx", "ctranslate2"):
        pytest.importorskip(package)
    found = report(classes.place, classes.table, **(QUICK | {"transformers": None}))
    peers = [system for system in found.systems if system.kind == "peer"]
    assert [peer.name for peer in peers] == [
        "transformers, file order",
        "transformers, sorted",
        "ONNX Runtime, sorted",
        "CTranslate2, sorted",
    ]
    plain = found.evaluation.lines[0]
    for peer in peers:
        assert peer.speed.median == pytest.approx(1 / plain.speed[peer.name].median)
        assert peer.scores == plain.scores
    assert max(found.evaluation.peer_differences.values()) < 1e-4
    assert found.evaluation.machine["ctranslate2"] is not None
    config = tmp_path / "albert"
    add_exits(model := albert()).save_pretrained(config)
    assert model.config.model_type == "albert"
    write_tokenizer(config)
    other = report(config, classes.table, **(QUICK | {"transformers": None}))
    assert list(other.to_dict()["absent"]) == ["CTranslate2, sorted"]
    assert "converts models of bert" in other.evaluation.absent["CTranslate2, sorted"]


def albert() -> AlbertForSequenceClassification:
    torch.manual_seed(0)
    names = dict(enumerate(LABELS))
    config = AlbertConfig(**(FAMILIES["Albert"].tiny | {"vocab_size": 100, "id2label": names}))
    return AlbertForSequenceClassification(config)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_json(kind: str, measured: Callable[[str], Measured]) -> None:
    found = measured(kind).report
    values = found.to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["kind"] == kind
    assert values["rows"] == 60
    assert [system["chosen"] for system in values["systems"]].count(True) == 1
    for system in values["systems"]:
        assert sum(system["left"]) == 60
    for ramp in values["ramps"]:
        assert (ramp["reliability"] is None) == (kind == "regression")
    for rows in values["examples"].values():
        assert 0 < len(rows) <= 8


def test_several_labels_are_a_claim_each(measured: Callable[[str], Measured]) -> None:
    one = measured("multi_label_classification")
    classifier = load(one.place, task="multilabel")
    rows = classifier.tokenizer.encode(one.table.texts)
    logits = Runner(classifier.model, exits=False, depth=1).run(rows).logits_RC.double().numpy()
    there = np.array([[name in labels for name in LABELS] for labels in one.table.labels or []])
    sure, right = 1 / (1 + np.exp(-abs(logits))), (logits > 0) == there
    reliability = one.report.ramps[0].reliability
    assert reliability is not None
    assert sum(b.rows for b in reliability.bins) == 180
    for b in reliability.bins:
        here = (sure > b.low) & (sure <= b.high)
        assert (b.rows, b.right) == (here.sum(), pytest.approx(right[here].mean()))


def certified(place: Path, to: Path, **changes: Any) -> Report:
    served = load(place)
    values: dict[str, Any] = {
        "method": "ltt",
        "risk": "disagreement",
        "max_risk": 0.05,
        "confidence": 0.9,
        "rows": 500,
        "found_risk": 0.012,
        "criterion": exits_of(served.model).criterion.to_dict(),
        "left": {"1": 500},
        "data": "0" * 64,
        "weights": model_fingerprint(served.model),
        "tokenizer": tokenizer_fingerprint(served.tokenizer),
        "date": "2026-01-02",
        "versions": {"offramp": "0.1.0"},
    }
    certify(served.model, Certificate(**(values | changes)))
    served.save(to)
    rows = {"text": ["good film", "the bad plot"] * 4, "label": ["film", LABELS[1]] * 4}
    return report(to, rows, **QUICK)


def test_a_certificate_goes_along(classes: Measured, tmp_path: Path) -> None:
    found = certified(classes.place, tmp_path / "certified")
    assert found.certificate is not None
    assert found.is_certified
    written = found.to_dict()["certificate"]
    assert (written["max_risk"], written["guarantees"], written["is_of_chosen"]) == (
        0.05,
        True,
        True,
    )
    assert written["sentence"] == str(found.certificate)
    assert classes.report.to_dict()["certificate"] is None
    assert not classes.report.is_certified


def test_files_lie_side_by_side(classes: Measured, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "page.html"
    found = report(
        classes.place, classes.table, **(QUICK | {"output": output, "price_per_hour": 2})
    )
    assert sorted(path.name for path in output.parent.iterdir()) == ["page.html", "page.json"]
    assert json.loads((tmp_path / "deep/page.json").read_text("utf-8")) == found.to_dict()
    assert found.to_dict()["price_per_hour"] == 2
    assert found.headline in output.read_text("utf-8")


def test_bad_input_is_refused_before_the_work(classes: Measured, tmp_path: Path) -> None:
    absent = tmp_path / "no-model"
    for output in ("page.json", "page", "page.txt"):
        with pytest.raises(SaveError, match=r"page\.html"):
            report(absent, classes.table, output=tmp_path / output)
    (tmp_path / "taken.html").mkdir()
    with pytest.raises(SaveError, match=r"taken\.html"):
        report(absent, classes.table, output=tmp_path / "taken.html")
    with pytest.raises(SaveError, match=r"picture\.svg"):
        report(absent, classes.table, output=None, plot="picture.png")
    for price in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="price_per_hour"):
            report(absent, classes.table, output=None, price_per_hour=price)


def test_a_model_of_nan_is_refused(classes: Measured, tmp_path: Path) -> None:
    served = load(classes.place)
    with torch.no_grad():
        exits_of(served.model).ramp(2).classifier.bias.fill_(math.nan)
    served.save(tmp_path / "nan")
    with pytest.warns(), pytest.raises(CheckpointError, match="NaN"):
        report(tmp_path / "nan", classes.table, **QUICK)
