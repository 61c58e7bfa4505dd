"""DeeBERT by its own names, against what its research code gave and a loop written here."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

import offramp
from offramp.errors import CheckpointError, ConfigError, InputError, UnsupportedError
from offramp.exits.criteria import logits_entropy
from offramp.runner.sweep import every_exit

DIRECTORY = Path(__file__).resolve().parents[2].parent / "shared/samples/deebert_tiny"
THRESHOLDS = ["-1", "0.2", "0.5", "0.8", "1.0", "1.2"]
with_sample = pytest.mark.skipif(not DIRECTORY.is_dir(), reason="shared/samples is not here")
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])  # those of the reference's losses


@pytest.fixture(scope="module")
def reference() -> Any:
    return np.load(DIRECTORY / "_ref_outputs.npz")


def opened(**changes: Any) -> Any:
    return offramp.DeeBertForSequenceClassification.from_pretrained(DIRECTORY, **changes)


def tiny(kind: str = "Bert", **changes: Any) -> Any:
    """A model whose rows leave after different layers."""
    torch.manual_seed(4)
    config = getattr(offramp, f"{kind}Config")(
        vocab_size=60, hidden_size=24, num_hidden_layers=4, num_attention_heads=3,
        intermediate_size=30, initializer_range=0.6, pad_token_id=1, **{"num_labels": 3, **changes},
    )  # fmt: skip
    return getattr(offramp, f"Dee{kind}ForSequenceClassification")(config).eval()


def batch(rows: int = 9) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(7)
    mask = torch.arange(8) < torch.randint(2, 9, (rows, 1), generator=draw)
    ids = torch.randint(2, 60, (rows, 8), generator=draw).masked_fill(~mask, 1)
    return {"input_ids": ids, "attention_mask": mask.long()}


def rows_of(inputs: dict[str, Tensor]) -> list[offramp.Encoded]:
    lengths = inputs["attention_mask"].sum(1).tolist()
    rows = [ids[:length].numpy() for ids, length in zip(inputs["input_ids"], lengths, strict=True)]
    return [offramp.Encoded(row, row * 0) for row in rows]


def save_as_research(
    model: Any, directory: Path, *, old: bool = False, more: Any = None, **values: Any
) -> None:
    """As the research code did; with the `old` names of norms."""
    prefix = model.base_model_prefix
    state = {f"{prefix}.embeddings.position_ids": torch.arange(512)[None], **(more or {})}
    for name, tensor in model.state_dict().items():
        if old:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            name = name.replace("LayerNorm.bias", "LayerNorm.beta")
        state[name] = tensor
    torch.save(state, directory / "pytorch_model.bin")
    values = {**model.config.to_dict(), "architectures": [type(model).__name__], **values}
    (directory / "config.json").write_text(json.dumps(values))


# ---------------------------------------------------------------------------------------------
# The research code's own figures.


@with_sample
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_logits_and_layers_are_the_research_code_s(reference: Any, threshold: str) -> None:
    model = opened()
    model.bert.encoder.set_early_exit_entropy(float(threshold))
    ids = torch.tensor(reference["input_ids"])
    logits, layers = reference[f"logits_{threshold}"], reference[f"exit_{threshold}"]
    with torch.no_grad():
        together = model(input_ids=ids)
        assert together[-1].tolist() == layers.tolist()
        np.testing.assert_allclose(together[0].numpy(), logits, atol=2e-6)
        for row in range(len(ids)):
            alone = model(input_ids=ids[row : row + 1])
            assert alone[-1] == layers[row]
            np.testing.assert_allclose(alone[0].numpy(), logits[row : row + 1], atol=2e-6)


@with_sample
def test_highways_and_losses_are_the_research_code_s(reference: Any) -> None:
    model = opened(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    ids = torch.tensor(reference["input_ids"])
    with torch.no_grad():
        outputs = model(input_ids=ids[:1], labels=torch.tensor([1]))
    assert len(outputs) == reference["n_outputs"]
    loss, _, highways, (own, entropies), layer = outputs
    assert layer == 4
    assert loss.item() == pytest.approx(reference["loss0"].item(), abs=1e-6)
    said = torch.stack([logits for logits, _, _ in highways]).numpy()
    np.testing.assert_allclose(said, reference["all_highway_logits0"], atol=2e-6)
    np.testing.assert_allclose(torch.cat(entropies), reference["all_highway_entropy0"], atol=2e-6)
    np.testing.assert_allclose(own, offramp.entropy(outputs[1]))
    model.train()
    for stage_two, name in ((False, "train_loss"), (True, "train_highway_loss")):
        loss, logits, highways = model(input_ids=ids, labels=LABELS, train_highway=stage_two)
        assert loss.item() == pytest.approx(reference[name].item(), abs=2e-6)
        assert [len(highway) for highway in highways] == [2] * 4
        assert logits.shape == (6, 3)


@with_sample
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_the_generic_class_leaves_where_the_research_code_left(
    reference: Any, threshold: str
) -> None:
    """The generic one answers rows that only the last highway let go with the model's own head."""
    model = offramp.BertForSequenceClassification.from_pretrained(DIRECTORY)
    logits, layers = reference[f"logits_{threshold}"], reference[f"exit_{threshold}"]
    rows = [offramp.Encoded(row, row * 0) for row in reference["input_ids"]]
    criterion = offramp.Entropy(max(0.0, float(threshold)))
    own = opened()
    for kind in (model, own):
        found = offramp.Runner(kind, criterion=criterion).run(rows)
        assert found.exit_layers_R.tolist() == layers.tolist()
        early = layers < 4
        np.testing.assert_allclose(found.logits_RC[early], logits[early], atol=2e-6)
        expected = logits if kind is own else reference["logits_-1"]
        np.testing.assert_allclose(found.logits_RC[~early], expected[~early], atol=2e-6)


@with_sample
def test_names_of_tensors_are_the_file_s(tmp_path: Path) -> None:
    model = opened()
    stored = torch.load(DIRECTORY / "pytorch_model.bin", weights_only=True)
    state = model.state_dict()
    unused = {"bert.embeddings.position_ids"}
    assert set(state) == set(stored) - unused
    assert all(torch.equal(state[name], stored[name]) for name in state)
    model.bert.encoder.set_early_exit_entropy([0.1, 0.9, 0.8, 1.0])
    model.save_pretrained(tmp_path)
    again = offramp.DeeBertForSequenceClassification.from_pretrained(tmp_path)
    assert again.bert.encoder.early_exit_entropy == [0.1, 0.9, 0.8, 1.0]
    assert set(again.state_dict()) == set(state)
    generic = offramp.BertForSequenceClassification.from_pretrained(tmp_path)
    assert generic.exits.criterion == offramp.LayerEntropy((0.1, 0.9, 0.8, 1.0))


# ---------------------------------------------------------------------------------------------
# Against a loop over transformers' layers.


def by_hand(model: Any, inputs: dict[str, Tensor], row: int) -> tuple[Tensor, int]:
    """A row alone: plain layers, and the rule of the paper."""
    kind = model.base_model_prefix
    body = model.base_model
    plain = getattr(offramp, {"bert": "BertModel", "roberta": "RobertaModel"}[kind])(model.config)
    plain.load_state_dict(body.state_dict(), strict=False)
    length = int(inputs["attention_mask"][row].sum())
    with torch.no_grad():
        states = plain.eval()(
            inputs["input_ids"][row : row + 1, :length], output_hidden_states=True
        ).hidden_states
        for number, highway in enumerate(body.encoder.highway):
            first = states[number + 1][:, 0]
            logits = highway.classifier(torch.tanh(highway.pooler.dense(first)))
            p = F.softmax(logits.double(), -1)
            if -(p * p.log()).sum() < body.encoder.early_exit_entropy[number]:
                return logits, number + 1
        return model.classifier(torch.tanh(body.pooler.dense(states[-1][:, 0]))), 4


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
@pytest.mark.parametrize("thresholds", [0.5, 0.9, [0.2, 0.6, 0.9, 0.9]])
def test_a_batch_is_its_rows_by_hand(kind: str, thresholds: Any) -> None:
    model = tiny(kind)
    model.base_model.encoder.set_early_exit_entropy(thresholds)
    inputs = batch()
    with torch.no_grad():
        outputs = model(**inputs)
    seen = set()
    for row in range(9):
        logits, layer = by_hand(model, inputs, row)
        assert int(outputs[-1][row]) == layer
        torch.testing.assert_close(outputs[0][row], logits[0], rtol=1e-5, atol=1e-5)
        seen.add(layer)
        asked = [bool(highway[0][row].isfinite().all()) for highway in outputs[-3]]
        assert asked == [depth <= layer for depth in range(1, len(asked) + 1)]
    assert len(seen) > 1, "or it shows little"
    found = offramp.Runner(model).run(rows_of(inputs))
    assert torch.equal(found.exit_layers_R, outputs[-1])


def test_bodies_raise_where_a_whole_batch_left() -> None:
    model, inputs = tiny(), batch()
    model.bert.encoder.set_early_exit_entropy(10)
    with torch.no_grad(), pytest.raises(offramp.HighwayException) as raised:
        model.bert(**inputs)
    assert raised.value.exit_layer.tolist() == [1] * 9
    torch.testing.assert_close(raised.value.message[0], model(**inputs)[0])
    with torch.no_grad(), pytest.raises(offramp.HighwayException) as raised:
        model.bert(**{name: value[:1] for name, value in inputs.items()})
    assert raised.value.exit_layer == 1
    model.bert.encoder.set_early_exit_entropy(-1)
    hidden, pooled, highways = model.bert(**inputs)
    plain = offramp.BertModel(model.config).eval()
    plain.load_state_dict(model.bert.state_dict(), strict=False)
    expected = plain(**inputs)
    torch.testing.assert_close(hidden, expected.last_hidden_state)
    torch.testing.assert_close(pooled, expected.pooler_output)
    assert len(highways) == 4


def test_states_masks_and_outputs_that_are_asked_for() -> None:
    model, inputs = tiny(output_hidden_states=True, output_attentions=True), batch()
    outputs = model(**inputs, head_mask=torch.tensor([1.0, 0.0, 1.0]), output_layer=2)
    logits, states, attentions, highways, _, _ = outputs
    assert [state.shape for state in states] == [(9, 8, 24)] * 5
    assert [layer.shape for layer in attentions] == [(9, 3, 8, 8)] * 4
    assert all(not layer[:, 1].any() for layer in attentions)
    assert logits is highways[2][0]
    with pytest.raises(UnsupportedError, match="encoder"):
        model.bert(**inputs, encoder_hidden_states=torch.zeros(1))


# ---------------------------------------------------------------------------------------------
# Where the research code is wrong.


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 95.0), (torch.float16, 12.0)])
def test_entropies_of_the_surest_rows_are_numbers(dtype: torch.dtype, most: float) -> None:
    logits = torch.tensor([[most, 0.0], [most, most], [0.0, 0.0]], dtype=dtype)
    found = offramp.entropy(logits)
    assert found.dtype == dtype
    np.testing.assert_allclose(found.float(), [0.0, np.log(2), np.log(2)], atol=1e-3)


def test_the_surest_rows_leave() -> None:
    model, inputs = tiny(), batch()
    with torch.no_grad():
        model.bert.encoder.highway[0].classifier.bias[:] = torch.tensor([500.0, 0.0, 0.0])
    model.bert.encoder.set_early_exit_entropy(0.1)
    assert model(**inputs)[-1].tolist() == [1] * 9


def test_stage_two_trains_the_highways_alone() -> None:
    model, inputs = tiny(), batch(6)
    model.train()
    losses = [model(**inputs, labels=LABELS, train_highway=True)[0].item() for _ in range(2)]
    assert losses[0] != losses[1], "the highways have dropout, and these numbers show it"
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout) and part is not model.dropout:
            part.p = 0.0
    model.bert.embeddings.dropout.p = 0.5  # the body's, which is not in force
    losses = [model(**inputs, labels=LABELS, train_highway=True)[0] for _ in range(2)]
    assert losses[0].item() == losses[1].item()
    losses[0].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {
        f"bert.encoder.highway.{n}.{part}.{kind}"
        for n, part, kind in itertools.product(
            range(3), ("pooler.dense", "classifier"), ("weight", "bias")
        )
    }
    assert all(module.training for module in model.modules())


def test_stage_one_trains_the_rest() -> None:
    model, inputs = tiny(), batch(6)
    model.train()
    model(**inputs, labels=LABELS)[0].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {n for n, _ in model.named_parameters() if ".highway." not in n}


def test_poolers_start_as_the_model_s() -> None:
    model = tiny()
    model.bert.init_highway_pooler()
    for highway in model.bert.encoder.highway:
        assert torch.equal(highway.pooler.dense.weight, model.bert.pooler.dense.weight)


def test_a_plain_model_gets_new_highways(tmp_path: Path) -> None:
    plain = offramp.BertForSequenceClassification(tiny().config)
    plain.save_pretrained(tmp_path)
    with pytest.warns(offramp.NewWeightsWarning, match="highway"):
        model = offramp.DeeBertForSequenceClassification.from_pretrained(tmp_path)
    assert torch.equal(model.classifier.weight, plain.classifier.weight)


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_files_of_the_research_code_find_their_class(kind: str, tmp_path: Path) -> None:
    """DeeRoBERTa's head is none of RoBERTa's; DeeBERT's is BERT's, and its highways are exits."""
    model, inputs = tiny(kind), batch()
    save_as_research(model, tmp_path)
    expected = model(**inputs)[0]
    own = type(model).from_pretrained(tmp_path)
    torch.testing.assert_close(own(**inputs)[0], expected)
    found = offramp.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    meant = {"Bert": offramp.BertForSequenceClassification, "Roberta": type(model)}
    assert type(found) is meant[kind]
    torch.testing.assert_close(found(**inputs)[0], expected)
    assert found.exits.depths == (1, 2, 3)


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{n}" for n in range(55)))


def with_tokenizer(directory: Path) -> None:
    words = tokenizers.models.WordLevel({w: n for n, w in enumerate(WORDS)}, unk_token="[UNK]")
    made = tokenizers.Tokenizer(words)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.save(str(directory / "tokenizer.json"))
    values = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
    (directory / "tokenizer_config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("architectures", [["DeeRobertaForSequenceClassification"], None])
def test_a_directory_of_deeroberta_is_loaded_and_trained(
    architectures: list[str] | None, tmp_path: Path
) -> None:
    model = tiny("Roberta", num_labels=2)
    save_as_research(model, tmp_path, architectures=architectures)
    with_tokenizer(tmp_path)
    loaded = offramp.load(tmp_path)
    assert type(loaded) is offramp.Classifier
    assert type(loaded.model) is type(model)
    own = offramp.AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(own) is type(model)
    texts = [f"w{n} w{n + 1} w{40 + n % 2}" for n in range(30)]
    table = {"text": texts, "label": [f"LABEL_{n % 2}" for n in range(30)]}
    for number, schedule in enumerate(("joint", "two-stage")):
        options = offramp.TrainingOptions(epochs=1, schedule=schedule)
        made = tmp_path / str(number)
        trained, _ = offramp.train(tmp_path, table, made, dev=table, options=options)
        assert type(trained.model) is type(model)
        again = offramp.load(made)
        assert again.criterion == trained.criterion
        assert again.predict(texts) == trained.predict(texts)
    with pytest.raises(ConfigError, match="exits of its own"):
        options = offramp.TrainingOptions(depths=[1])
        offramp.train(tmp_path, table, tmp_path / "x", dev=table, options=options)
    numbers = {"text": texts, "label": [float(n) for n in range(30)]}
    with pytest.raises(ConfigError, match="which numbers do not have"):
        options = offramp.TrainingOptions(problem_type="regression")
        offramp.train(tmp_path, numbers, tmp_path / "x", dev=numbers, options=options)


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_a_directory_of_one_output_is_a_regressor(kind: str, tmp_path: Path) -> None:
    model = tiny(kind, num_labels=1)
    save_as_research(model, tmp_path)
    with_tokenizer(tmp_path)
    saved = tmp_path / "saved"
    type(model).from_pretrained(tmp_path).save_pretrained(saved)
    with_tokenizer(saved)
    for directory in (tmp_path, saved):
        loaded = offramp.load(directory)
        assert type(loaded) is offramp.Regressor
        assert loaded.criterion == offramp.RegressionPatience(0)
        ids = torch.tensor([[2, 5, 6, 3]])
        expected = model(input_ids=ids)[0].item()
        assert loaded.predict(["w0 w1"])[0].value == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_old_names_of_norms_leave_the_highways_theirs(kind: str, tmp_path: Path) -> None:
    model, inputs = tiny(kind), batch()
    save_as_research(model, tmp_path, old=True)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again(**inputs)[0], model(**inputs)[0])
    save_as_research(model, tmp_path, old=True, more={"bert.encoder.extra": torch.zeros(3)})
    with pytest.raises(CheckpointError, match="unknown tensor bert.encoder.extra") as told:
        type(model).from_pretrained(tmp_path)
    assert "highway" not in str(told.value)


def test_exits_are_a_view() -> None:
    model = tiny()
    assert model.exits.ramp(2) is model.bert.encoder.highway[1]
    assert not any(name.startswith("exits") for name in model.state_dict())
    model.exits.criterion = offramp.Entropy(0.5, growth=2.0)
    assert model.bert.encoder.early_exit_entropy == [0.5, 1.0, 2.0, 4.0]
    model.exits.calibration = {"rule": "mine"}
    assert model.exits.section()["calibration"] == {"rule": "mine"}
    assert model.exits.criterion == offramp.Entropy(0.5, growth=2.0)
    model.bert.encoder.early_exit_entropy = [0.1] * 4
    assert model.exits.criterion == offramp.LayerEntropy((0.1,) * 4)
    fast = offramp.prepare(model)
    assert fast.exits.ramp(2) is fast.bert.encoder.highway[1]
    with pytest.raises(ConfigError, match="exits of its own, which cannot be replaced"):
        offramp.add_exits(model)


def test_bad_input() -> None:
    encoder = tiny().bert.encoder
    for wrong in ([0.1, 0.2], float("nan"), [0.1, 0.2, 0.3, float("nan")]):
        with pytest.raises(ConfigError, match="number of nats"):
            encoder.set_early_exit_entropy(wrong)
    with pytest.raises(ConfigError, match="LayerEntropy of 4 thresholds"):
        encoder.criterion = offramp.LayerEntropy((0.1,))
    with pytest.raises(ConfigError, match="number of nats"):
        offramp.LayerEntropy((float("nan"),))


@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
def test_bodies_keep_their_thresholds(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    model.base_model.encoder.set_early_exit_entropy([0.1, 0.2, 0.3, -1])
    for number, saved in enumerate((model, model.base_model)):
        saved.save_pretrained(tmp_path / str(number))
        body = type(model.base_model).from_pretrained(tmp_path / str(number))
        assert body.encoder.early_exit_entropy == [0.1, 0.2, 0.3, -1]
    values = json.loads((tmp_path / "1" / "config.json").read_text())
    for wrong in ([], {"early_exit_entropy": ["a"]}, {"early_exit_entropy": [0.1]}):
        (tmp_path / "1" / "config.json").write_text(json.dumps({**values, "deebert": wrong}))
        with pytest.raises(ConfigError, match=r"nats|an object"):
            type(model.base_model).from_pretrained(tmp_path / "1")


def test_bad_arguments() -> None:
    model, inputs = tiny(), batch(3)
    for wrong in (4, 99, -2, 1.0, True, "1"):
        with pytest.raises(InputError, match="highway from 0 to 3"):
            model(**inputs, output_layer=wrong)
    logits, highways, *_ = model(**inputs, output_layer=np.int64(3))
    assert logits is highways[3][0]
    for labels in (LABELS, LABELS[:2], torch.tensor(1), LABELS[:3][None]):
        for stage_two in (False, True):
            with pytest.raises(InputError, match=r"labels are \[3\]"):
                model(**inputs, labels=labels, train_highway=stage_two)
    model.bert.encoder.set_early_exit_entropy(10)
    with pytest.raises(InputError, match="all rows had left"):
        model(**inputs, output_layer=2)


def test_states_of_a_batch_that_left_early_are_the_research_code_s() -> None:
    """Those that went into the layers that were passed: the last layer's own are not among them."""
    model, inputs = tiny(output_hidden_states=True), batch(1)
    model.bert.encoder.set_early_exit_entropy([-1, 10, 10, 10])
    _, states, _, _, layer = model(**inputs)
    assert layer == 2
    plain = offramp.BertModel(model.config).eval()
    plain.load_state_dict(model.bert.state_dict(), strict=False)
    torch.testing.assert_close(states, plain(**inputs).hidden_states[:2])


@pytest.mark.parametrize("changes", [{"num_labels": 1}, {"problem_type": "regression"}])
def test_numbers_have_no_entropy(changes: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(**changes)
    assert model(**batch())[-1].tolist() == [4] * 9
    with pytest.raises(ConfigError, match="answers are numbers"):
        model.bert.encoder.set_early_exit_entropy(0.5)
    assert model.exits.criterion == offramp.RegressionPatience(0)
    found = offramp.Runner(model).run(rows_of(batch()))
    torch.testing.assert_close(found.logits_RC, model(**batch())[0])
    model.save_pretrained(tmp_path)
    generic = offramp.BertForSequenceClassification
    for kind in (type(model), generic):
        again = kind.from_pretrained(tmp_path)
        assert again.exits.criterion == offramp.RegressionPatience(0)
        found = offramp.Runner(again).run(rows_of(batch()))
        assert found.exit_layers_R.tolist() == [4] * 9


def test_thresholds_may_be_numbers_of_numpy_and_torch() -> None:
    encoder = tiny().bert.encoder
    for value in (
        np.float32(0.5),
        torch.tensor(0.5),
        np.array(0.5),
        [0.5] * 4,
        torch.full((4,), 0.5),
    ):
        encoder.set_early_exit_entropy(-1)
        encoder.set_early_exit_entropy(value)
        assert encoder.early_exit_entropy == [0.5] * 4
        assert all(type(one) is float for one in encoder.early_exit_entropy)
    for wrong in (None, True, "0.5", [0.5, None, 0.5, 0.5], torch.eye(4)):
        with pytest.raises(ConfigError, match="number of nats"):
            encoder.set_early_exit_entropy(wrong)
        with pytest.raises(ConfigError, match="number of nats"):
            encoder.early_exit_entropy = wrong
    encoder.early_exit_entropy = 0.25
    assert encoder.early_exit_entropy == [0.25] * 4


# ---------------------------------------------------------------------------------------------
# As the runner does.


def test_a_training_row_of_nan_is_not_left_out_of_the_loss() -> None:
    model, inputs = tiny().train(), batch(6)
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[int(inputs["input_ids"][0, 0])] = torch.nan
    for stage_two in (False, True):
        outputs = model(**inputs, labels=LABELS, train_highway=stage_two)
        assert outputs[1][0].isnan().all()
        assert outputs[0].isnan()


def test_nan_is_warned_of_and_goes_on() -> None:
    model, inputs = tiny(), batch()
    with torch.no_grad():
        model.bert.encoder.highway[0].classifier.bias[:] = torch.nan
    model.bert.encoder.set_early_exit_entropy(5)
    assert model.num_layers == 4  # run_glue_deebert.py asks for it
    with pytest.warns(offramp.NaNLogitsWarning, match="9 rows of 9"):
        assert model(**inputs)[-1].tolist() == [4] * 9


def test_exits_that_are_not_those_of_the_configuration(tmp_path: Path) -> None:
    model = tiny()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "highway" not in k}, tmp_path / "model.safetensors"
    )
    with pytest.raises(CheckpointError, match="none of the exits"):
        type(model).from_pretrained(tmp_path)
    plain = offramp.add_exits(offramp.BertForSequenceClassification(model.config))
    plain.save_pretrained(tmp_path / "plain")
    values = json.loads((tmp_path / "plain" / "config.json").read_text())
    del values["exits"]
    (tmp_path / "plain" / "config.json").write_text(json.dumps(values))
    for kind in (offramp.BertForSequenceClassification, offramp.BertModel):
        with pytest.raises(CheckpointError, match=r"tensors of exits.*exits=None"):
            kind.from_pretrained(tmp_path / "plain")
    opened = type(plain).from_pretrained(tmp_path / "plain", exits=None)
    assert not hasattr(opened, "exits")


def test_arguments_that_are_no_tensors() -> None:
    model, ids = tiny(), torch.tensor([[1, 2]])
    pabee = offramp.BertForSequenceClassificationWithPabee(model.config)
    plain = offramp.BertForSequenceClassification(model.config)
    tokens = offramp.BertForTokenClassification(model.config)
    for one in (model, pabee, plain, tokens):
        for wrong in (
            {"input_ids": [[1, 2]]},
            {"input_ids": ids, "attention_mask": [[1, 1]]},
            {"input_ids": ids, "labels": [0]},
        ):
            with pytest.raises(offramp.InputError, match=r"is a tensor; got a list"):
                one(**wrong)
    with pytest.raises(offramp.InputError, match="input_ids is a tensor"):
        offramp.BertForMultipleChoice(model.config)(input_ids=[[[1, 2]]])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_rows_near_a_threshold_leave_where_they_do_alone(
    kind: str, problem_type: str | None
) -> None:
    model, inputs = tiny(kind, problem_type=problem_type), batch()
    encoder, n_highways = model.base_model.encoder, 3
    alone = [{name: x[row : row + 1] for name, x in inputs.items()} for row in range(9)]
    for highway in range(n_highways):
        for row in range(9):
            encoder.set_early_exit_entropy(-1)
            logits = model(**alone[row])[1][highway][0]
            if problem_type is None:
                threshold = float(logits_entropy(logits))
            else:
                both = torch.stack([torch.zeros(3), logits[0]], -1)
                threshold = float(logits_entropy(both).max())
            encoder.set_early_exit_entropy([-1] * highway + [threshold] + [-1] * (3 - highway))
            expected = [model(**one)[-1] for one in alone]
            outputs = model(**inputs)
            assert outputs[-1].tolist() == expected
            assert torch.equal(outputs[0][row], model(**alone[row])[0][0])


@torch.no_grad()
@pytest.mark.parametrize("kind", ["Bert", "Roberta"])
@pytest.mark.parametrize("n_labels", [2, 5])
@pytest.mark.parametrize("problem_type", [None, "multi_label_classification"])
def test_runs_ask_the_last_highway_too(kind: str, n_labels: int, problem_type: str | None) -> None:
    model, inputs = tiny(kind, num_labels=n_labels, problem_type=problem_type), batch(40)
    rows, only_last = rows_of(inputs), 0
    exits = every_exit(model, rows)
    for threshold in (0.2, 0.4, 0.6, 0.8, 1.0):
        model.base_model.encoder.set_early_exit_entropy(threshold)
        expected, *_, layers = model(**inputs)
        for found in (
            offramp.Runner(model).run(rows),
            offramp.Runner(model, prepare=False, window_rows=7).run(rows),
            exits.apply(model.exits.criterion),
        ):
            assert torch.equal(found.exit_layers_R, layers)
            torch.testing.assert_close(found.logits_RC, expected, rtol=1e-4, atol=1e-4)
        own = offramp.Runner(model, exits=False).run(rows).logits_RC
        only_last += int(((own - expected).abs().amax(-1) > 1e-3)[layers == 4].sum())
    assert only_last, "or it shows little"


@torch.no_grad()
def test_a_run_s_own_criterion_asks_the_last_highway() -> None:
    model, rows = tiny(), rows_of(batch(30))
    patience = offramp.Patience(1)
    found = offramp.Runner(model, criterion=patience).run(rows)
    alone = [offramp.Runner(model, criterion=patience).run([row]) for row in rows]
    assert found.exit_layers_R.tolist() == [int(one.exit_layers_R) for one in alone]
    logits_RC = torch.cat([one.logits_RC for one in alone])
    torch.testing.assert_close(found.logits_RC, logits_RC, rtol=1e-4, atol=1e-4)
    swept = every_exit(model, rows).apply(patience)
    assert torch.equal(swept.exit_layers_R, found.exit_layers_R)
    torch.testing.assert_close(found.logits_RC, swept.logits_RC, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_several_labels_leave_when_each_may() -> None:
    model, inputs = tiny(problem_type="multi_label_classification"), batch(30)
    layers = set()
    for threshold in (0.2, 0.4, 0.6):
        model.bert.encoder.set_early_exit_entropy(threshold)
        outputs = model(**inputs)
        found = offramp.Runner(model).run(rows_of(inputs))
        assert torch.equal(found.exit_layers_R, outputs[-1])
        layers |= set(outputs[-1].tolist())
    assert len(layers) > 1, "or it shows little"
