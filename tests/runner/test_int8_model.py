"""A model with products of eight-bit numbers, and its threshold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from exit_models import random_rows, tiny_model, toy_rows, write_tokenizer

import offramp
from offramp.exits.attach import exits_of
from offramp.exits.criteria import logits_entropy
from offramp.nn.prepared import Int8Linear, PreparedLinear, can_prepare
from offramp.runner import peeks
from offramp.runner.peeks import LeaveRates
from offramp.runner.sweep import every_exit
from offramp.text.tables import Table
from offramp.training.examples import to_examples
from offramp.training.thresholds import choose_threshold

pytestmark = pytest.mark.skipif(
    not can_prepare(torch.float32, True), reason="this torch has no eight-bit kernels here"
)


def test_wide_layers_are_of_eight_bits_and_heads_are_not() -> None:
    model = tiny_model(0, hidden_size=64, intermediate_size=128)
    quick = offramp.prepare(model, int8=True)
    kinds = {name: type(module) for name, module in quick.named_modules()}
    assert kinds["bert.encoder.layer.0.intermediate.dense"] is Int8Linear
    assert kinds["classifier"] is PreparedLinear
    rows = random_rows(40, seed=1)
    exact, rough = (offramp.Runner(m, exits=False).run(rows).logits_RC for m in (model, quick))
    assert not torch.equal(exact, rough)
    assert (exact - rough).abs().max() < 0.1 * exact.abs().max()


def test_rows_are_answered_as_alone() -> None:
    model = tiny_model(0, hidden_size=64, intermediate_size=128)
    runner = offramp.Runner(offramp.prepare(model, int8=True), criterion=offramp.Entropy(0.6))
    rows = random_rows(60, seed=2)
    together = runner.run(rows)
    alone = [runner.run([row]) for row in rows]
    assert together.exit_layers_R.tolist() == [int(one.exit_layers_R) for one in alone]
    assert len(set(together.exit_layers_R.tolist())) > 1
    torch.testing.assert_close(together.logits_RC, torch.cat([one.logits_RC for one in alone]))


@pytest.mark.parametrize("pooler", ["first", "last"])
@pytest.mark.parametrize("seed", range(4))
def test_ramps_that_read_one_token_answer_as_alone(
    seed: int, pooler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peek's last digits may make another step of eight bits: far more than last digits."""
    monkeypatch.setattr(peeks, "worth_a_peek", lambda n_rows, n_tokens: 0.0)
    monkeypatch.setattr(LeaveRates, "expected", lambda self, depth, unknown: 1.0)
    model = tiny_model(seed, pooler=pooler, hidden_size=64, intermediate_size=128)
    quick, rows = offramp.prepare(model, int8=True), random_rows(60, seed=seed)
    alone = torch.cat([every_exit(quick, [row]).logits_ERC for row in rows], 1)
    entropies = logits_entropy(alone[0])
    for threshold in entropies.sort().values[10::10]:  # exactly where a row lies
        runner = offramp.Runner(quick, criterion=offramp.Entropy(threshold.item()))
        together = runner.run(rows)
        each = [runner.run([row]) for row in rows]
        assert together.exit_layers_R.tolist() == [int(one.exit_layers_R) for one in each]
        assert torch.equal(together.logits_RC, torch.cat([one.logits_RC for one in each]))


def test_a_prepared_model_is_not_made_another(toy_classifier: offramp.Classifier) -> None:
    ready = toy_classifier.prepared()
    assert offramp.prepare(ready.model) is ready.model
    for option in ("int8", "compile"):
        with pytest.raises(offramp.ConfigError, match="prepared already"):
            ready.prepared(**{option: True})


def test_other_types_are_refused() -> None:
    with pytest.raises(offramp.ConfigError, match="float32 model on a CPU"):
        offramp.prepare(tiny_model().double(), int8=True)


@pytest.fixture
def toy_classifier(tmp_path: Path) -> offramp.Classifier:
    model = tiny_model(
        3, n_labels=2, id2label={0: "neg", 1: "pos"}, hidden_size=64, intermediate_size=128
    )
    model.save_pretrained(tmp_path / "model")
    write_tokenizer(tmp_path / "model")
    return offramp.load(tmp_path / "model", task="classify")


def test_recalibrate(toy_classifier: offramp.Classifier, tmp_path: Path) -> None:
    before = toy_classifier.criterion
    quick = toy_classifier.prepared(int8=True)
    texts, labels = zip(*toy_rows(300, seed=5), strict=True)
    table = Table("dev", list(texts), list(labels))
    choice = offramp.recalibrate(quick, table, max_loss=2.0, growth=1.3)
    held = to_examples(table, quick.tokenizer, quick.model.config.label2id)
    expected = choose_threshold(every_exit(quick.model, held.rows), held.labels_R, 2.0, 1.3)
    assert choice == expected
    assert quick.criterion == expected.criterion
    assert toy_classifier.criterion == before
    assert exits_of(quick.model).calibration is not None
    quick.save(tmp_path / "quick")  # the weights are the model's own; the threshold is the new one
    opened = offramp.load(tmp_path / "quick", task="classify")
    assert opened.criterion == expected.criterion
    for name, tensor in toy_classifier.model.state_dict().items():
        assert torch.equal(opened.model.state_dict()[name], tensor)
