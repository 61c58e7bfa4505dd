"""Calibration of taggers: sentences are rows, and what is certified is what prediction gives."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from tagged_data import tagged_table

import offramp
from offramp.errors import ConfigError, DataError
from offramp.exits.calibration.bounds import hoeffding_bentkus_p_value
from offramp.exits.criteria import Entropy, LayerEntropy, MaxProbability, Patience
from offramp.runner.tagger import Tagger
from offramp.training.calibration_rows import rows_of
from offramp.training.tag_risks import SentenceTags
from offramp.training.tagger import TaggerReport

Trained = tuple[Path, TaggerReport]
ROWS = tagged_table(500, 21, "calibration")
TUNE = offramp.TaggedTable(
    "tuning", [words for words in tagged_table(300, 22).words if words not in ROWS.words], None
)


@pytest.fixture
def tagger(tagger_trained: Trained) -> Tagger:
    return offramp.load(tagger_trained[0], task="tag")


def losses(tagger: Tagger, rows: offramp.TaggedTable = ROWS) -> dict[str, float]:
    """The mean of each loss, by predicting twice and counting words."""
    early, full = (tagger.predict_words(rows.words, **how) for how in ({}, {"threshold": 0}))
    sums = {"disagreement": 0.0, "word-disagreement": 0.0, "accuracy": 0.0}
    for one, other, gold in zip(early, full, rows.tags or [], strict=True):
        words = list(zip(one, other, gold, strict=True))
        sums["disagreement"] += one != other
        sums["word-disagreement"] += sum(a != b for a, b, _ in words) / len(words)
        sums["accuracy"] += sum((b == g) - (a == g) for a, b, g in words) / len(words)
    return {name: value / len(rows) for name, value in sums.items()}


@pytest.mark.parametrize("risk", ["disagreement", "word-disagreement", "accuracy"])
@pytest.mark.parametrize("max_length", [None, 8])  # then some sentences are several windows
def test_what_is_certified_is_what_prediction_gives(
    risk: str, max_length: int | None, tagger_trained: Trained
) -> None:
    tagger = offramp.load(tagger_trained[0], task="tag", max_length=max_length)
    found = offramp.calibrate(tagger, ROWS, max_loss=0.04, risk=risk, method="empirical")
    assert not found.is_full_depth
    certificate = found.certificate
    assert certificate.found_risk == pytest.approx(losses(tagger)[risk], abs=1e-12)
    assert (certificate.risk, certificate.rows) == (risk, 500)
    windows = [row for group in tagger.counted_windows(ROWS.words) for row in group.rows]
    layers = offramp.Runner(tagger.model).run(windows).exit_layers_R.tolist()
    assert {int(depth): count for depth, count in certificate.left.items()} == {
        depth: layers.count(depth) for depth in set(layers)
    }
    assert found.mean_layers == pytest.approx(sum(layers) / len(layers))
    assert (len(windows) > 500) == (max_length == 8)


@pytest.mark.parametrize("method", ["ltt", "ucb", "crc", "empirical"])
@pytest.mark.parametrize("risk", ["disagreement", "word-disagreement", "accuracy"])
def test_methods(method: str, risk: str, tagger: Tagger) -> None:
    found = offramp.calibrate(tagger, ROWS, max_loss=0.1, risk=risk, method=method)
    assert not found.is_full_depth
    assert found.certificate.method == method
    assert found.certificate.found_risk <= 0.1
    assert found.certificate.guarantees == (method != "empirical")
    assert offramp.certificate_of(tagger.model) == found.certificate


def test_the_share_of_words_is_held_against_hoeffding_and_bentkus(tagger: Tagger) -> None:
    """The second of two steps is allowed from the most loss on at which its p-value is .05."""
    path = [Entropy(0), Entropy(9)]  # by which all leave at the first exit
    tagger.criterion = path[1]
    total = 500 * losses(tagger)["word-disagreement"]
    assert 0 < total < 250
    bound = next(
        risk / 1000
        for risk in range(1, 1000)
        if hoeffding_bentkus_p_value(total, 500, risk / 1000) <= 0.05
    )
    for max_loss, expected in ((bound - 0.002, 0), (bound, 1)):
        found = offramp.calibrate(
            tagger, ROWS, max_loss=max_loss, risk="word-disagreement", path=path
        )
        assert found.criterion == path[expected]
        assert found.is_full_depth == (expected == 0)


def test_a_loss_of_ones_own(tagger: Tagger) -> None:
    def names_lost(left: SentenceTags, full: SentenceTags, gold: SentenceTags | None) -> list[bool]:
        assert gold == ROWS.tags
        return [
            any("B-PER" in (a, b) and a != b for a, b in zip(one, other, strict=True))
            for one, other in zip(left, full, strict=True)
        ]

    found = offramp.calibrate(tagger, ROWS, max_loss=0.15, risk=names_lost).certificate
    early, full = tagger.predict_words(ROWS.words), tagger.predict_words(ROWS.words, threshold=0)
    assert found.risk == "names_lost"
    assert found.found_risk == sum(names_lost(early, full, ROWS.tags)) / 500


@pytest.mark.parametrize("criterion", [MaxProbability(0.9), Patience(1), Entropy(0.1)])
def test_any_criterion(criterion: offramp.Criterion, tagger: Tagger) -> None:
    tagger.criterion = criterion
    found = offramp.calibrate(tagger, ROWS, max_loss=0.3)
    assert type(found.criterion) is type(criterion)
    assert offramp.certificate_of(tagger.model) == found.certificate


def test_a_threshold_for_each_layer(tagger: Tagger) -> None:
    found = offramp.calibrate(tagger, ROWS, max_loss=0.1, by_layer=True, tune=TUNE)
    assert isinstance(found.criterion, LayerEntropy)
    assert not found.is_full_depth
    assert found.criterion.thresholds[2] == 0
    with pytest.raises(DataError, match="texts of calibration are among the rows to tune on"):
        offramp.calibrate(tagger, ROWS, by_layer=True, tune=ROWS)


def test_thresholds_in_the_logits_own_units(tagger: Tagger) -> None:
    tagger.criterion = offramp.Energy(-3.0)
    with pytest.raises(ConfigError, match="in the model's own units"):
        offramp.calibrate(tagger, ROWS)
    assert not offramp.calibrate(tagger, ROWS, max_loss=0.2, tune=TUNE).is_full_depth


def test_a_speed_that_is_asked_for(tagger_trained: Trained) -> None:
    tagger = offramp.load(tagger_trained[0], task="tag", max_length=8)
    found = offramp.calibrate(tagger, ROWS, target_speed=1.01)
    assert found.speed is not None
    assert (found.certificate.method, found.certificate.rows) == ("speed", 250)
    assert found.certificate.found_risk <= found.certificate.max_risk


def test_halves_keep_sentences_whole(tagger_trained: Trained) -> None:
    tagger = offramp.load(tagger_trained[0], task="tag", max_length=8)
    rows = rows_of(tagger, ROWS, "accuracy", None)
    full = rows.answers()
    left, last = full.apply(Entropy(0.5)).logits_RC, full.at(3).logits_RC
    of_all = dict(zip(map(tuple, rows.texts), rows.losses(left, last).tolist(), strict=True))
    parts = rows.halves()
    assert sum(map(len, parts)) == 500
    for part in parts:
        own = part.answers()
        found = part.losses(own.apply(Entropy(0.5)).logits_RC, own.at(3).logits_RC)
        assert found.tolist() == pytest.approx([of_all[tuple(text)] for text in part.texts])


def test_words_without_tokens(tagger: Tagger) -> None:
    """A sentence of none has nothing to lose, leaves at once, and forbids no path."""
    words = [["\x01"], ["\x01", "Anna", "lives"], *ROWS.words]
    tags = [["B-PER"], ["B-PER", "B-PER", "O"], *(ROWS.tags or [])]
    rows = offramp.TaggedTable("some vanish", words, tags)
    found = offramp.calibrate(tagger, rows, max_loss=0.1, risk="accuracy", method="crc")
    assert found.certificate.rows == 502
    assert found.certificate.found_risk == pytest.approx(losses(tagger, rows)["accuracy"])
    none = offramp.calibrate(tagger, rows, max_loss=0.02, path=[Entropy(0), Entropy(9)])
    assert none.is_full_depth
    assert none.certificate.left == {"1": 1, "3": 501}
    with pytest.raises(DataError, match="keeps no word of gone"):
        offramp.calibrate(tagger, offramp.TaggedTable("gone", [["\x01"]], None))


def test_saved_and_loaded(tagger: Tagger, tmp_path: Path) -> None:
    certificate = offramp.calibrate(tagger, ROWS, max_loss=0.1).certificate
    tagger.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = offramp.load(tmp_path / "model", task="tag")
    assert offramp.certificate_of(again.model) == certificate
    with torch.no_grad():
        again.model.classifier.bias[0] += 1e-3
    assert offramp.certificate_of(again.model) is None


def test_rows_of_the_training(tagger: Tagger) -> None:
    train = tagged_table(500, 1, "again")
    turned = offramp.TaggedTable("turned", train.words[::-1], (train.tags or [])[::-1])
    with pytest.raises(DataError, match="turned has the rows of the train set"):
        offramp.calibrate(tagger, turned, max_loss=0.2)
    found = offramp.calibrate(tagger, turned, max_loss=0.2, force=True).certificate
    assert found.on_seen_rows
    assert not found.guarantees


def test_what_is_refused(tagger: Tagger) -> None:
    few = offramp.TaggedTable("few", ROWS.words[:100], (ROWS.tags or [])[:100])
    with pytest.raises(DataError, match="100 rows are too few .* that takes 299 rows"):
        offramp.calibrate(tagger, few)
    outside = [["O"] * len(words) for words in ROWS.words]
    with pytest.raises(DataError, match="All 500 rows of dull have one label, 'O'"):
        offramp.calibrate(tagger, offramp.TaggedTable("dull", ROWS.words, outside))
    bare = offramp.TaggedTable("bare", ROWS.words, None)
    offramp.calibrate(tagger, bare, max_loss=0.2)
    with pytest.raises(DataError, match="needs labels, and bare was read without"):
        offramp.calibrate(tagger, bare, risk="accuracy")
    other = [["B-ANIMAL", *own[1:]] for own in ROWS.tags or []]
    with pytest.raises(DataError, match="the tag 'B-ANIMAL' was not seen in training"):
        offramp.calibrate(tagger, offramp.TaggedTable("zoo", ROWS.words, other), risk="accuracy")
    with pytest.raises(DataError, match=r"Expected a TaggedTable, as offramp\.read_tagged"):
        offramp.calibrate(tagger, offramp.Table("texts", ["a"], ["b"]))
    with pytest.raises(DataError, match="has no rows"):
        offramp.calibrate(tagger, offramp.TaggedTable("none", [], []))
    del tagger.model.exits
    with pytest.raises(ConfigError, match="exits"):
        offramp.calibrate(tagger, ROWS)


def test_rows_in_memory(tagger: Tagger) -> None:
    columns = {"tokens": ROWS.words, "label": ROWS.tags or []}
    found = offramp.calibrate(tagger, columns, max_loss=0.1, risk="accuracy")
    assert found.certificate.rows == 500


def test_a_watch_and_evaluating_other_rows(tagger: Tagger, tmp_path: Path) -> None:
    certificate = offramp.calibrate(tagger, ROWS, max_loss=0.1).certificate
    tagger.watch = offramp.ExitWatch(certificate.left)
    tagger.predict_words(ROWS.words)  # as in calibration
    assert tagger.watch.rows == 500
    tagger.save(tmp_path / "model")
    measure = {"rounds": 1, "timing_rows": 20, "transformers": False}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        offramp.evaluate_tagger(tmp_path / "model", ROWS, **measure)
    file = tmp_path / "model" / "config.json"
    values = json.loads(file.read_text())
    values["exits"]["calibration"]["certificate"]["left"] = {"3": 500}
    file.write_text(json.dumps(values))
    with pytest.warns(offramp.DriftWarning, match="of the calibration set after 3.00"):
        offramp.evaluate_tagger(tmp_path / "model", ROWS, **measure)
