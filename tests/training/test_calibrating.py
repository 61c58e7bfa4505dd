"""Calibration: what is chosen and certified, what is refused, and when a certificate is void."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from exit_models import toy_rows
from safetensors.torch import load_file, save_file
from torch import Tensor

import offramp
from offramp.errors import CertificateWarning, ConfigError, DataError
from offramp.exits.attach import exits_of
from offramp.exits.calibration.certificate import model_fingerprint
from offramp.exits.criteria import Entropy, LayerEntropy, MaxProbability, Patience
from offramp.runner.classifier import Classifier
from offramp.training.train import TrainingReport

Trained = tuple[Path, TrainingReport]


def table(n_rows: int, seed: int, source: str) -> offramp.Table:
    texts, labels = zip(*toy_rows(n_rows, seed), strict=True)
    return offramp.Table(source, list(texts), list(labels))


ROWS, TUNE = table(600, 21, "calibration"), table(300, 22, "tuning")


@pytest.fixture
def classifier(toy_trained: Trained) -> Classifier:
    return offramp.load(toy_trained[0], task="classify")


def disagreement(classifier: Classifier) -> list[bool]:
    """Row by row, by predicting twice."""
    early = classifier.predict(ROWS.texts)
    full = classifier.predict(ROWS.texts, threshold=0)
    return [one.label != other.label for one, other in zip(early, full, strict=True)]


def test_what_is_certified_is_what_prediction_gives(classifier: Classifier) -> None:
    found = offramp.calibrate(classifier, ROWS, max_loss=0.05)
    assert classifier.criterion == found.criterion
    lost = disagreement(classifier)
    certificate = found.certificate
    assert certificate.found_risk == sum(lost) / len(lost)
    assert certificate.rows == 600
    assert certificate.max_risk == 0.05
    layers = [one.exit_layer for one in classifier.predict(ROWS.texts)]
    assert {int(depth): count for depth, count in certificate.left.items()} == {
        depth: layers.count(depth) for depth in set(layers)
    }
    assert found.mean_layers == pytest.approx(sum(layers) / 600)


@pytest.mark.parametrize("method", ["ltt", "ucb", "crc", "empirical"])
def test_methods(method: str, classifier: Classifier) -> None:
    found = offramp.calibrate(classifier, ROWS, max_loss=0.05, method=method).certificate
    assert found.method == method
    assert (found.confidence is None) == (method in ("crc", "empirical"))
    assert found.guarantees == (method != "empirical")
    assert ("no guarantee" in str(found)) == (method == "empirical")


def test_a_risk_of_accuracy(classifier: Classifier) -> None:
    found = offramp.calibrate(classifier, ROWS, max_loss=0.05, risk="accuracy").certificate
    early = classifier.predict(ROWS.texts)
    full = classifier.predict(ROWS.texts, threshold=0)
    right = [
        sum(one.label == label for one, label in zip(said, ROWS.labels or [], strict=True))
        for said in (full, early)
    ]
    assert found.found_risk == pytest.approx((right[0] - right[1]) / 600)
    assert str(found).startswith("loss of accuracy of at most 0.05 with probability 0.95")


def test_a_loss_of_ones_own(classifier: Classifier) -> None:
    def shift(left_RC: Tensor, full_RC: Tensor, labels: Tensor | None) -> Tensor:
        assert labels is not None
        return (left_RC.softmax(-1) - full_RC.softmax(-1)).abs().amax(-1)

    found = offramp.calibrate(classifier, ROWS, max_loss=0.2, risk=shift)
    assert found.certificate.risk == "shift"
    early = classifier.predict(ROWS.texts)
    full = classifier.predict(ROWS.texts, threshold=0)
    gaps = [
        abs(
            one.probability
            - (other.probability if one.label == other.label else 1 - other.probability)
        )
        for one, other in zip(early, full, strict=True)
    ]
    assert found.certificate.found_risk == pytest.approx(sum(gaps) / 600, abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda left, full, labels: torch.full((len(full),), 2.0), "from 2 to 2"),
        (lambda left, full, labels: torch.full((len(full),), 0.5), "is not 0 where"),
        (lambda left, full, labels: torch.zeros(3), r"gives \(3,\); expected one number"),
        (lambda left, full, labels: torch.full((len(full),), math.nan), "from nan to nan"),
    ],
)
def test_losses_that_are_refused(
    loss: Callable[..., Tensor], message: str, classifier: Classifier
) -> None:
    with pytest.raises(ConfigError, match=message):
        offramp.calibrate(classifier, ROWS, risk=loss)


@pytest.mark.parametrize(
    "criterion", [MaxProbability(0.9), Patience(2), Entropy(0.1) & Patience(1)]
)
def test_any_criterion(criterion: offramp.Criterion, classifier: Classifier) -> None:
    classifier.criterion = criterion
    found = offramp.calibrate(classifier, ROWS, max_loss=0.2)
    assert type(found.criterion) is type(criterion)
    assert offramp.certificate_of(classifier.model) == found.certificate
    given = offramp.calibrate(classifier, ROWS, max_loss=0.2, path=[Entropy(0), Entropy(9)])
    assert given.criterion in (Entropy(0), Entropy(9))


def test_a_threshold_for_each_layer(classifier: Classifier) -> None:
    found = offramp.calibrate(classifier, ROWS, max_loss=0.01, by_layer=True, tune=TUNE)
    assert isinstance(found.criterion, LayerEntropy)
    assert not found.is_full_depth
    assert sum(disagreement_by(classifier, found.criterion)) / 600 == found.certificate.found_risk
    thresholds = found.criterion.thresholds
    assert 0 < thresholds[0] <= thresholds[1] < math.log(2) * 1.01
    assert thresholds[2] == 0  # the model's own head asks nobody


def disagreement_by(classifier: Classifier, criterion: offramp.Criterion) -> list[bool]:
    rows = list(classifier.encoded(ROWS.texts))
    early = offramp.Runner(classifier.model, criterion=criterion).run(rows).logits_RC
    full = offramp.Runner(classifier.model, exits=False).run(rows).logits_RC
    return (early.argmax(-1) != full.argmax(-1)).tolist()


def test_saved_and_loaded(classifier: Classifier, tmp_path: Path) -> None:
    certificate = offramp.calibrate(classifier, ROWS, max_loss=0.05).certificate
    classifier.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = offramp.load(tmp_path / "model", task="classify")
    assert offramp.certificate_of(again.model) == certificate
    assert again.criterion == classifier.criterion
    again.threshold = 0.5
    assert offramp.certificate_of(again.model) is None


def test_weights_that_changed(classifier: Classifier, tmp_path: Path) -> None:
    offramp.calibrate(classifier, ROWS, max_loss=0.05)
    classifier.save(tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.bias"][0] += 1e-6
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.warns(CertificateWarning, match=r"is void: the weights, their type or"):
        again = offramp.load(tmp_path / "model", task="classify")
    assert offramp.certificate_of(again.model) is None
    assert "disagreement" not in json.dumps(exits_of(again.model).calibration)
    assert again.criterion == classifier.criterion
    again.save(tmp_path / "saved")  # and it is gone for good
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        offramp.load(tmp_path / "saved", task="classify")


def test_a_criterion_that_was_changed_in_the_file(classifier: Classifier, tmp_path: Path) -> None:
    offramp.calibrate(classifier, ROWS, max_loss=0.05)
    classifier.save(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    values = json.loads(file.read_text())
    values["exits"]["criterion"]["threshold"] = 0.6
    file.write_text(json.dumps(values))
    with pytest.warns(CertificateWarning, match="the criterion is another"):
        offramp.load(tmp_path / "model", task="classify")


def test_another_type_is_another_model(classifier: Classifier, tmp_path: Path) -> None:
    offramp.calibrate(classifier, ROWS, max_loss=0.05)
    classifier.save(tmp_path / "model")
    with pytest.warns(CertificateWarning, match="their type or the model's settings"):
        offramp.BertForSequenceClassification.from_pretrained(
            tmp_path / "model", dtype=torch.bfloat16
        )


def test_the_fingerprint_is_of_every_value(classifier: Classifier) -> None:
    before = model_fingerprint(classifier.model)
    assert before == model_fingerprint(classifier.model)
    with torch.no_grad():
        next(reversed(list(classifier.model.parameters()))).view(-1)[-1] += 1
    assert model_fingerprint(classifier.model) != before


def test_rows_of_the_training(classifier: Classifier, toy_data: dict[str, offramp.Table]) -> None:
    train = toy_data["train"]
    shuffled = offramp.Table("again", train.texts[::-1], (train.labels or [])[::-1])
    with pytest.raises(DataError, match="again has the rows of the train set"):
        offramp.calibrate(classifier, shuffled, max_loss=0.2)
    with pytest.raises(DataError, match="the rows of the dev set"):
        offramp.calibrate(classifier, toy_data["dev"], max_loss=0.2)
    found = offramp.calibrate(classifier, train, max_loss=0.2, force=True).certificate
    assert found.on_seen_rows
    assert not found.guarantees
    with pytest.raises(DataError, match="the train set"):  # it is still known
        offramp.calibrate(classifier, train, max_loss=0.2)


def test_a_speed_that_is_asked_for(classifier: Classifier) -> None:
    found = offramp.calibrate(classifier, ROWS, target_speed=1.05)
    assert found.speed is not None
    assert found.speed.low <= found.speed.median <= found.speed.high
    certificate = found.certificate
    assert (certificate.method, certificate.rows, certificate.confidence) == ("speed", 300, 0.95)
    n_lost = round(certificate.found_risk * 300)
    bound = certificate.max_risk  # Clopper and Pearson's upper limit, by its definition
    tail = sum(math.comb(300, k) * bound**k * (1 - bound) ** (300 - k) for k in range(n_lost + 1))
    assert tail == pytest.approx(0.05, abs=1e-4)
    with pytest.raises(ConfigError, match="No threshold makes this model 50 times as fast"):
        offramp.calibrate(classifier, ROWS, target_speed=50)
    with pytest.raises(ConfigError, match="above 1; got 1"):
        offramp.calibrate(classifier, ROWS, target_speed=1)


def test_eight_bits_are_another_model(classifier: Classifier) -> None:
    certificate = offramp.calibrate(classifier, ROWS, max_loss=0.05).certificate
    assert offramp.certificate_of(classifier.prepared().model) == certificate
    assert offramp.certificate_of(classifier.prepared(int8=True).model) is None
    assert offramp.certificate_of(classifier.model) == certificate


def test_a_watch_warns_where_rows_leave_elsewhere(classifier: Classifier) -> None:
    certificate = offramp.calibrate(classifier, ROWS, max_loss=0.05).certificate
    classifier.watch = offramp.ExitWatch(certificate.left)
    classifier.predict(ROWS.texts)  # as in calibration
    assert classifier.watch.rows == 600
    classifier.watch = offramp.ExitWatch({"3": 600})
    with pytest.warns(offramp.DriftWarning, match="other rows than the certificate is of"):
        list(classifier.stream(ROWS.texts, ordered=False))


def test_evaluating_other_rows_warns(classifier: Classifier, tmp_path: Path) -> None:
    offramp.calibrate(classifier, ROWS, max_loss=0.05)
    measure = {"rounds": 1, "timing_rows": 20, "transformers": False}
    classifier.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        offramp.evaluate(tmp_path / "model", ROWS, **measure)
    file = tmp_path / "model" / "config.json"
    values = json.loads(file.read_text())
    values["exits"]["calibration"]["certificate"]["left"] = {"3": 600}
    file.write_text(json.dumps(values))
    with pytest.warns(offramp.DriftWarning, match="of the calibration set after 3.00"):
        offramp.evaluate(tmp_path / "model", ROWS, **measure)


def test_forced_rows_are_not_watched(classifier: Classifier) -> None:
    watch = offramp.ExitWatch({"1": 300, "2": 300})
    runner = offramp.Runner(classifier.model, criterion=Entropy(0), watch=watch)
    runner.run(list(classifier.encoded(ROWS.texts)), max_depth=1)
    assert watch.rows == 0


def test_what_is_refused(classifier: Classifier, toy_trained: Trained, tmp_path: Path) -> None:
    few = offramp.Table("few", ROWS.texts[:100], (ROWS.labels or [])[:100])
    with pytest.raises(DataError, match="100 rows are too few .* that takes 299 rows"):
        offramp.calibrate(classifier, few)
    with pytest.raises(DataError, match="have one label, '(good|pos)'"):
        offramp.calibrate(classifier, one_label())
    unlabelled = offramp.Table("bare", ROWS.texts, None)
    offramp.calibrate(classifier, unlabelled, max_loss=0.05)
    with pytest.raises(DataError, match="needs labels, and bare was read without"):
        offramp.calibrate(classifier, unlabelled, risk="accuracy")
    with pytest.raises(ConfigError, match="A method is one of ltt, .*Did you mean"):
        offramp.calibrate(classifier, ROWS, method="lt")
    with pytest.raises(ConfigError, match="A risk is disagreement, accuracy or a function"):
        offramp.calibrate(classifier, ROWS, risk="acuracy")
    with pytest.raises(ConfigError, match="tolerance is of numbers"):
        offramp.calibrate(classifier, ROWS, tolerance=1.0)
    with pytest.raises(ConfigError, match="begins with a criterion that lets no row leave"):
        offramp.calibrate(classifier, ROWS, path=[Entropy(9)])
    with pytest.raises(DataError, match="texts of calibration are among the rows to tune on"):
        offramp.calibrate(classifier, ROWS, by_layer=True, tune=ROWS)
    with pytest.raises(ConfigError, match="pass them as tune="):
        offramp.calibrate(classifier, ROWS, by_layer=True)
    classifier.criterion = offramp.Energy(-3.0)
    with pytest.raises(ConfigError, match="in the model's own units"):
        offramp.calibrate(classifier, ROWS)
    assert not offramp.calibrate(classifier, ROWS, max_loss=0.2, tune=TUNE).is_full_depth
    plain = offramp.load(toy_trained[0], task="classify")
    del plain.model.exits
    with pytest.raises(ConfigError, match="exits"):
        offramp.calibrate(plain, ROWS)


def one_label() -> offramp.Table:
    labels = ROWS.labels or []
    return offramp.Table("one", ROWS.texts, [labels[0]] * len(labels))


def test_a_malformed_certificate(classifier: Classifier, tmp_path: Path) -> None:
    half = {"method": "ltt", "criterion": classifier.criterion.to_dict()}
    exits_of(classifier.model).calibration = {"certificate": half}
    classifier.save(tmp_path / "model")
    with pytest.warns(CertificateWarning, match="is void: It is malformed"):
        opened = offramp.load(tmp_path / "model", task="classify")
    assert offramp.certificate_of(opened.model) is None
    exits_of(classifier.model).calibration = "x"  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="`calibration` of the exits in config.json is an object"):
        offramp.build_exits(bare(), {**exits_of(opened.model).section(), "calibration": "x"})


def bare() -> offramp.BertForSequenceClassification:
    config = offramp.BertConfig(
        vocab_size=30, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=64, num_labels=2,
    )  # fmt: skip
    return offramp.BertForSequenceClassification(config)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("method", "empirical!"),
        ("max_risk", "0.01"),
        ("max_risk", -1),
        ("confidence", "x"),
        ("rows", -5),
        ("rows", True),
        ("found_risk", None),
        ("left", None),
        ("left", {"a": 1}),
        ("left", {"1": 1.5}),
        ("date", {}),
        ("weights", 3),
        ("criterion", "entropy"),
        ("on_seen_rows", None),
        ("unknown", 1),
    ],
)
def test_certificates_that_lie(
    field: str, value: object, classifier: Classifier, tmp_path: Path
) -> None:
    offramp.calibrate(classifier, ROWS, max_loss=0.05)
    classifier.save(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    values = json.loads(file.read_text())
    values["exits"]["calibration"]["certificate"][field] = value
    file.write_text(json.dumps(values))
    with pytest.warns(CertificateWarning, match="is void"):
        assert offramp.load(tmp_path / "model").criterion == classifier.criterion


@pytest.mark.parametrize("setting", ["num_attention_heads", "hidden_act", "layer_norm_eps"])
def test_settings_that_changed(setting: str, classifier: Classifier, tmp_path: Path) -> None:
    offramp.calibrate(classifier, ROWS, max_loss=0.05)
    classifier.save(tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    values = json.loads(file.read_text())
    values[setting] = {"num_attention_heads": 2, "hidden_act": "relu", "layer_norm_eps": 1e-3}[
        setting
    ]
    file.write_text(json.dumps(values))
    with pytest.warns(CertificateWarning, match="or the model's settings are others"):
        offramp.load(tmp_path / "model")


def test_exits_that_pool_otherwise(classifier: Classifier, tmp_path: Path) -> None:
    """Their tensors are of the same names and shapes."""
    model = classifier.model
    del model.exits
    offramp.add_exits(model, pooler="first")
    model.eval().save_pretrained(tmp_path)
    before, file = model_fingerprint(model), tmp_path / "config.json"
    values = json.loads(file.read_text())
    values["exits"]["pooler"] = "last"
    file.write_text(json.dumps(values))
    assert model_fingerprint(type(model).from_pretrained(tmp_path)) != before
    exits_of(model).ramp(1).pooler = "mean"
    assert model_fingerprint(model) != before


def test_rows_of_an_earlier_training_are_known(
    toy_trained: Trained, toy_options: offramp.TrainingOptions, tmp_path: Path
) -> None:
    first, second, dev = table(80, 1, "first"), table(80, 2, "second"), table(60, 3, "dev")
    options = dataclasses.replace(toy_options, epochs=1)
    offramp.train(toy_trained[0], first, tmp_path / "one", dev=dev, options=options)
    offramp.train(tmp_path / "one", second, tmp_path / "two", dev=ROWS, options=options)
    model = offramp.load(tmp_path / "two", task="classify")
    for rows in (first, second, dev, ROWS):
        with pytest.raises(DataError, match="that this model was trained with"):
            offramp.calibrate(model, rows, max_loss=0.3)
    offramp.recalibrate(model, TUNE)
    with pytest.raises(DataError, match="that this model was trained with"):
        offramp.calibrate(model, TUNE, max_loss=0.3)


def test_another_tokenizer(classifier: Classifier, tmp_path: Path) -> None:
    offramp.calibrate(classifier, ROWS, max_loss=0.05)
    classifier.save(tmp_path / "model")
    with pytest.warns(CertificateWarning, match="how many tokens it keeps"):
        offramp.load(tmp_path / "model", max_length=7)


def test_a_model_that_says_nan_is_not_certified(classifier: Classifier) -> None:
    with torch.no_grad():
        classifier.model.classifier.weight.fill_(math.nan)
    with pytest.raises(offramp.CheckpointError, match="answers with NaN"):
        offramp.calibrate(classifier, ROWS)


def test_nothing_to_choose_from(classifier: Classifier) -> None:
    with pytest.raises(ConfigError, match="No row leaves early by any of 2 criteria"):
        offramp.calibrate(classifier, ROWS, path=[Entropy(0), Entropy(0, 2.0)])
    with pytest.raises(ConfigError, match="A criterion decides which rows leave"):
        offramp.calibrate(classifier, ROWS, path=["a"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="path= is a list of criteria, at least one"):
        offramp.calibrate(classifier, ROWS, path=[])
    with pytest.raises(DataError, match="has no rows"):
        offramp.calibrate(classifier, offramp.Table("none", [], []))


def test_a_facade_is_refused() -> None:
    config = bare().config
    model = offramp.DeeBertForSequenceClassification(config)
    owner = Classifier.__new__(Classifier)
    owner.model = model
    with pytest.raises(ConfigError, match="Open its directory with offramp.load"):
        offramp.calibrate(owner, ROWS)


def test_an_own_threshold_is_not_watched(classifier: Classifier) -> None:
    classifier.watch = offramp.ExitWatch({"1": 600})
    classifier.predict(ROWS.texts, threshold=0)
    assert classifier.watch.rows == 0


def test_a_stale_certificate_is_not_saved(classifier: Classifier, tmp_path: Path) -> None:
    offramp.calibrate(classifier, ROWS, max_loss=0.05)
    classifier.threshold = 0.5
    classifier.save(tmp_path / "model")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = offramp.load(tmp_path / "model")
    assert "certificate" not in (exits_of(opened.model).calibration or {})


def test_the_card_has_the_certificate_in_words(classifier: Classifier, tmp_path: Path) -> None:
    place = tmp_path / "model"
    classifier.save(place)
    assert not (place / "README.md").exists()
    (place / "README.md").write_text("# Mine\n", "utf-8")
    found = offramp.calibrate(classifier, ROWS, max_loss=0.05)
    classifier.save(place)
    card = (place / "README.md").read_text("utf-8")
    assert card.startswith("# Mine\n\n<!-- offramp: begin -->\n## What leaving early costs\n\n")
    assert f"D{str(found.certificate)[1:]}. That is against the model's own full depth" in card
    for line in (
        "| Method | ltt |",
        "| At most | 0.05 |",
        "| With probability | 0.95 |",
        "| Rows calibrated on | 600 |",
        f"| Exits | `{found.criterion}` |",
        f"| SHA-256 of the model | {found.certificate.weights} |",
        f"| Rows that left | {found.certificate.left['1']} after layer 1",
    ):
        assert line in card
    classifier.model.save_pretrained(tmp_path / "alone")
    assert "| Method | ltt |" in (tmp_path / "alone" / "README.md").read_text("utf-8")
    classifier.threshold = 0.5
    classifier.save(place)
    assert (place / "README.md").read_text("utf-8").strip() == "# Mine"


def test_weights_that_changed_have_no_card(classifier: Classifier, tmp_path: Path) -> None:
    offramp.calibrate(classifier, ROWS, max_loss=0.05)
    with torch.no_grad():
        classifier.model.classifier.bias[0] += 1
    assert offramp.certificate_card(classifier.model) is None
    classifier.save(tmp_path / "model")
    assert not (tmp_path / "model" / "README.md").exists()


def test_a_card_is_without_markup_and_says_what_is_no_guarantee(classifier: Classifier) -> None:
    def none(left: Tensor, full: Tensor, labels: Tensor | None) -> Tensor:
        return torch.zeros(len(full))

    none.__name__ = "<b>|"
    offramp.calibrate(classifier, ROWS, risk=none, method="empirical")
    card = offramp.certificate_card(classifier.model)
    assert card is not None
    assert "| Risk | &lt;b>\\| |" in card
    assert "<b>" not in card
    assert "no guarantee" in card
    assert "That is against" not in card
