"""PABEE by its own names, against what its research code gave and a loop written here."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import offramp
from offramp.errors import CheckpointError, ConfigError, UnsupportedError
from offramp.models.inputs import Inputs

DIRECTORY = Path(__file__).resolve().parents[2].parent / "shared/samples/pabee_bert_tiny"
with_sample = pytest.mark.skipif(not DIRECTORY.is_dir(), reason="shared/samples is not here")
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])  # those of the reference's loss
KINDS = {"Bert": offramp.BertModel, "Albert": offramp.AlbertModel}


@pytest.fixture(scope="module")
def reference() -> Any:
    return np.load(DIRECTORY / "_ref_outputs.npz")


def opened(**changes: Any) -> Any:
    return offramp.BertForSequenceClassificationWithPabee.from_pretrained(DIRECTORY, **changes)


def tiny(kind: str = "Bert", n_labels: int = 3, **changes: Any) -> Any:
    torch.manual_seed(1)
    config = getattr(offramp, f"{kind}Config")(
        vocab_size=60, hidden_size=24, num_hidden_layers=5, num_attention_heads=3,
        intermediate_size=30, num_labels=n_labels, initializer_range=0.4, pad_token_id=0, **changes,
    )  # fmt: skip
    return getattr(offramp, f"{kind}ForSequenceClassificationWithPabee")(config).eval()


def batch(rows: int = 9) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(7)
    mask = torch.arange(8) < torch.randint(2, 9, (rows, 1), generator=draw)
    ids = torch.randint(2, 60, (rows, 8), generator=draw) * mask
    return {"input_ids": ids, "attention_mask": mask.long()}


def rows_of(inputs: dict[str, Tensor]) -> list[offramp.Encoded]:
    lengths = inputs["attention_mask"].sum(1).tolist()
    rows = [ids[:length].numpy() for ids, length in zip(inputs["input_ids"], lengths, strict=True)]
    return [offramp.Encoded(row, row * 0) for row in rows]


# ---------------------------------------------------------------------------------------------
# The research code's own figures.


@with_sample
@pytest.mark.parametrize("patience", [0, 1, 2, 3])
def test_logits_and_layers_are_the_research_code_s(reference: Any, patience: int) -> None:
    model = opened()
    model.bert.set_patience(patience)
    ids = torch.tensor(reference["input_ids"])
    logits, layers = reference[f"logits_{patience}"], reference[f"layers_{patience}"]
    with torch.no_grad():
        for row in range(len(ids)):
            model.bert.reset_stats()
            np.testing.assert_allclose(model(ids[row : row + 1])[0][0], logits[row], atol=2e-6)
            assert model.bert.inference_layers_num == layers[row]
        model.bert.reset_stats()
        np.testing.assert_allclose(model(ids)[0], logits, atol=2e-6)
    assert model.bert.inference_layers_num == layers.sum()
    assert model.bert.inference_instances_num == (len(ids) if patience else 0)


@with_sample
def test_the_loss_is_the_research_code_s(reference: Any) -> None:
    model = opened(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    loss, _ = model(torch.tensor(reference["input_ids"]), labels=LABELS)
    assert loss.item() == pytest.approx(reference["train_loss"].item(), abs=2e-6)


@with_sample
@pytest.mark.parametrize("patience", [1, 2, 3])
def test_the_generic_class_leaves_where_the_research_code_left(
    reference: Any, patience: int
) -> None:
    generic = offramp.BertForSequenceClassification.from_pretrained(DIRECTORY)
    rows = [offramp.Encoded(row, row * 0) for row in reference["input_ids"]]
    for model in (generic, opened()):
        found = offramp.Runner(model, criterion=offramp.Patience(patience)).run(rows)
        assert found.exit_layers_R.tolist() == reference[f"layers_{patience}"].tolist()
        np.testing.assert_allclose(found.logits_RC, reference[f"logits_{patience}"], atol=2e-6)


@with_sample
def test_names_of_tensors_are_the_file_s(tmp_path: Path) -> None:
    model = opened()
    stored = torch.load(DIRECTORY / "pytorch_model.bin", weights_only=True)
    state = model.state_dict()
    assert set(state) == set(stored) - {"bert.embeddings.position_ids"}
    assert all(torch.equal(state[name], stored[name]) for name in state)
    model.bert.set_patience(2)
    model.save_pretrained(tmp_path)
    again = offramp.BertForSequenceClassificationWithPabee.from_pretrained(tmp_path)
    assert again.bert.patience == 2
    generic = offramp.BertForSequenceClassification.from_pretrained(tmp_path)
    assert generic.exits.criterion == offramp.Patience(2)


# ---------------------------------------------------------------------------------------------
# Against a loop over plain layers.


def by_hand(model: Any, inputs: dict[str, Tensor], row: int) -> tuple[Tensor, int]:
    """A row alone: plain layers, and the rule of the paper."""
    body = model.base_model
    plain = KINDS["Albert" if "Albert" in type(model).__name__ else "Bert"](model.config).eval()
    plain.load_state_dict(body.state_dict())
    length = int(inputs["attention_mask"][row].sum())
    before, agreed = None, 0
    with torch.no_grad():
        states = plain(
            inputs["input_ids"][row : row + 1, :length], output_hidden_states=True
        ).hidden_states
        for number, classifier in enumerate(model.classifiers):
            dense = getattr(plain.pooler, "dense", plain.pooler)
            steps = (number + 1) * getattr(model.config, "inner_group_num", 1)
            logits = classifier(torch.tanh(dense(states[steps][:, 0])))
            if before is not None and model.config.num_labels == 1:
                same = (logits - before).abs().item() < body.regression_threshold
            else:
                same = before is not None and bool(logits.argmax() == before.argmax())
            agreed = agreed + 1 if same else 0
            before = logits
            if agreed == body.patience:
                return logits, number + 1
    return logits, len(model.classifiers)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("n_labels", "patience", "threshold"), [(3, 1, 0), (3, 2, 0), (1, 1, 0.6), (1, 2, 1.5)]
)
def test_a_batch_is_its_rows_by_hand(
    kind: str, n_labels: int, patience: int, threshold: float
) -> None:
    model, inputs = tiny(kind, n_labels), batch()
    body = model.base_model
    body.set_patience(patience)
    body.set_regression_threshold(threshold)
    with torch.no_grad():
        (logits,) = model(**inputs)
    layers = []
    for row in range(9):
        expected, layer = by_hand(model, inputs, row)
        torch.testing.assert_close(logits[row], expected[0], rtol=1e-4, atol=1e-4)
        layers.append(layer)
    assert len(set(layers)) > 1, "or it shows little"
    assert (body.inference_layers_num, body.inference_instances_num) == (sum(layers), 9)
    found = offramp.Runner(model).run(rows_of(inputs))
    assert found.exit_layers_R.tolist() == layers
    torch.testing.assert_close(found.logits_RC, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_layer_of_albert_is_a_pass_of_its_whole_group(groups: int, tmp_path: Path) -> None:
    model = tiny("Albert", inner_group_num=2, num_hidden_groups=groups)
    inputs, body = batch(), model.albert
    body.set_patience(1)
    with torch.no_grad():
        (logits,) = model(**inputs)
    layers = []
    for row in range(9):
        expected, layer = by_hand(model, inputs, row)
        torch.testing.assert_close(logits[row], expected[0], rtol=1e-4, atol=1e-4)
        layers.append(layer)
    assert min(layers) < 5, "or it shows little"
    assert (body.inference_layers_num, body.inference_instances_num) == (sum(layers), 9)
    save_as_research(model, tmp_path)
    generic = offramp.AlbertForSequenceClassification.from_pretrained(tmp_path)
    for one in (model, type(model).from_pretrained(tmp_path), generic):
        assert one.exits.depths == (2, 4, 6, 8)
        found = offramp.Runner(one, criterion=offramp.Patience(1)).run(rows_of(inputs))
        assert found.exit_layers_R.tolist() == [2 * layer for layer in layers]
        torch.testing.assert_close(found.logits_RC, logits, rtol=1e-4, atol=1e-4)


def save_as_research(model: Any, directory: Path) -> None:
    """As the research code did."""
    torch.save(model.state_dict(), directory / "pytorch_model.bin")
    values = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    (directory / "config.json").write_text(json.dumps(values))


def renamed_and_saved(model: Any, directory: Path, more: dict[str, Tensor]) -> None:
    save_as_research(model, directory)
    file = directory / "pytorch_model.bin"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    state = dict(more)
    for name, tensor in torch.load(file, weights_only=True).items():
        for new, former in old.items():
            name = name.replace(new, former)
        state[name] = tensor
    torch.save(state, file)


@pytest.mark.parametrize("kind", KINDS)
def test_old_names_of_norms_leave_the_classifiers_theirs(kind: str, tmp_path: Path) -> None:
    model, inputs = tiny(kind), batch()
    renamed_and_saved(model, tmp_path, {})
    again = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(again(**inputs), model(**inputs))
    assert again.exits.criterion == offramp.Patience(0)


def test_a_stray_tensor_is_what_the_error_tells_of(tmp_path: Path) -> None:
    model = tiny()
    renamed_and_saved(model, tmp_path, {"bert.encoder.layer.0.extra.weight": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="unknown tensor bert.encoder.layer.0.extra") as told:
        type(model).from_pretrained(tmp_path)
    assert "classifiers" not in str(told.value)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_weighted_by_layer(kind: str) -> None:
    model, inputs = tiny(kind), batch(6)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
    model.train()
    loss, _ = model(**inputs, labels=LABELS)
    said = model.base_model(
        **inputs, output_dropout=model.dropout, output_layers=list(model.classifiers)
    )
    losses = [F.cross_entropy(logits, LABELS).item() for logits in said]
    mean = sum(weight * one for weight, one in zip((1, 2, 3, 4, 5), losses, strict=True)) / 15
    assert loss.item() == pytest.approx(mean, abs=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_statistics(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny()
    model.bert.log_stats()
    assert "0 rows" in capsys.readouterr().out
    model.bert.set_patience(1)
    with torch.no_grad():
        model(**batch())
    model.bert.log_stats()
    mean = model.bert.inference_layers_num / 9
    assert f"9 rows, {mean:.2f} layers a row" in capsys.readouterr().out


def test_exits_are_a_view() -> None:
    model = tiny()
    assert not any(name.startswith("exits") for name in model.state_dict())
    model.exits.criterion = offramp.Patience(3)
    assert model.bert.patience == 3
    with pytest.raises(ConfigError, match="set a Patience"):
        model.exits.criterion = offramp.Entropy(0.2)
    with pytest.raises(ConfigError, match="set a RegressionPatience"):
        tiny(n_labels=1).exits.criterion = offramp.Patience(1)


def test_settings_may_be_numbers_of_numpy_and_torch() -> None:
    body = tiny().bert
    for patience in (np.int64(2), torch.tensor(2)):
        body.patience = 0
        body.set_patience(patience)
        assert body.patience == 2 and type(body.patience) is int
    body.set_regression_threshold(np.float32(0.5))
    assert body.regression_threshold == 0.5 and type(body.regression_threshold) is float


@torch.no_grad()
def test_rows_in_doubt_leave_where_they_do_alone() -> None:
    """Regression whose answers are as far apart as the threshold, to the last digit."""
    model, inputs = tiny(n_labels=1), batch()
    alone = [{name: x[row : row + 1] for name, x in inputs.items()} for row in range(9)]
    body = model.bert
    for row in range(9):
        by_depth = offramp.logits_by_depth(model, inputs_of(alone[row]))
        body.set_patience(1)
        body.set_regression_threshold(abs(float(by_depth[3] - by_depth[2])))
        expected = torch.cat([model(**one)[0] for one in alone])
        torch.testing.assert_close(model(**inputs)[0], expected)
        body.reset_stats()
        model(**inputs)
        together = body.inference_layers_num
        body.reset_stats()
        for one in alone:
            model(**one)
        assert body.inference_layers_num == together


def inputs_of(row: dict[str, Tensor]) -> Inputs:
    (own,) = rows_of(row)
    return Inputs.from_rows([own.ids], [own.types])


def test_two_numbers_of_regression() -> None:
    model, inputs = tiny(n_labels=2, problem_type="regression"), batch()
    model.bert.set_patience(1)
    model.bert.set_regression_threshold(0.8)
    (logits,) = model(**inputs)
    assert model.exits.criterion == offramp.RegressionPatience(1, 0.8)
    found = offramp.Runner(model).run(rows_of(inputs))
    torch.testing.assert_close(found.logits_RC, logits, rtol=1e-4, atol=1e-4)
    assert found.exit_layers_R.sum() == model.bert.inference_layers_num


@pytest.mark.parametrize("kind", KINDS)
def test_bodies_and_classifiers_keep_their_settings(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    model.base_model.set_patience(2)
    model.base_model.set_regression_threshold(0.7)
    for number, saved in enumerate((model, model.base_model)):
        saved.save_pretrained(tmp_path / str(number))
    for opened_ in (
        type(model).from_pretrained(tmp_path / "0").base_model,
        type(model.base_model).from_pretrained(tmp_path / "0"),
        type(model.base_model).from_pretrained(tmp_path / "1"),
    ):
        assert (opened_.patience, opened_.regression_threshold) == (2, 0.7)


def test_the_view_is_kept_and_never_another_model_s() -> None:
    model = tiny()
    keys = list(model.state_dict())
    view = model.exits
    assert model.exits is view
    assert list(model.state_dict()) == keys
    copies = (
        copy.deepcopy(model),
        copy.copy(model),
        pickle.loads(pickle.dumps(model)),
        offramp.prepare(model),
    )
    for other in copies:
        assert other.exits is not view
        assert other.exits.ramp(2).classifier is other.classifiers[1]
        other.exits.calibration = {"of": "another"}
    assert model.exits is view and view.calibration is None
    model.classifiers[1] = torch.nn.Linear(24, 3)
    assert model.exits.ramp(2).classifier is model.classifiers[1]


def test_exits_have_the_classifiers_to_train() -> None:
    model = tiny()
    ours = list(model.exits.parameters())
    assert [id(p) for p in ours] == [id(p) for p in model.classifiers[:-1].parameters()]


def test_bad_input() -> None:
    model, inputs = tiny(), batch()
    for wrong in (-1, 1.5, True):
        with pytest.raises(ConfigError, match="patience"):
            model.bert.set_patience(wrong)
    with pytest.raises(ConfigError, match="threshold"):
        model.bert.set_regression_threshold(-0.5)
    with pytest.raises(ConfigError, match="5 classifiers"):
        model.bert(**inputs, output_layers=[model.classifiers[0]])
    with pytest.raises(UnsupportedError, match="encoder"):
        model.bert(**inputs, encoder_hidden_states=torch.zeros(1))
