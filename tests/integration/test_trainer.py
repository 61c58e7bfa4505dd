"""The models inside transformers' `Trainer`, as it is and with `TrainerMixin`."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exit_models import tiny_config
from safetensors.torch import load_file
from small_task import STILL, batch, close, same_weights
from torch import Tensor, nn

import offramp
from offramp import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    TrainerMixin,
)
from offramp.storage.manifest import MANIFEST_FILE

transformers = pytest.importorskip("transformers", reason="needs transformers' Trainer")
pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")


class Trainer(TrainerMixin, transformers.Trainer):
    """What the documentation tells users to write."""


class Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """The rows one by one, labelled by `rows`, `tokens`, `words`, `spans` or `nothing`."""

    def __init__(self, what: str = "rows") -> None:
        self.what = what
        self.whole = batch()
        self.classes = self.whole["labels"]

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, i: int) -> dict[str, Any]:
        row = {name: self.whole[name][i] for name in ("input_ids", "attention_mask")}
        ids, real = row["input_ids"], row["attention_mask"] == 1
        labels = {
            "rows": {"labels": self.classes[i]},
            "tokens": {"labels": torch.where(real, ids % 2, -100)},
            "words": {"labels": torch.where(real, ids, -100)},
            "spans": {"start_positions": i % 3, "end_positions": i % 3 + 1},
            "nothing": {},
        }
        # `idx` and `text` are no arguments of forward, so the trainer takes them out.
        return {**row, **labels[self.what], "idx": i, "text": "x"}


def pad(rows: Iterable[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of lists of different lengths, as DataCollatorForTokenClassification makes it."""
    rows = list(rows)
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        name: nn.utils.rnn.pad_sequence(
            [row[name][row["attention_mask"] == 1] for row in rows], True, fill[name]
        )
        for name in fill
    }


@pytest.fixture
def settings(tmp_path: Path) -> Any:
    """TrainingArguments for a few silent steps on the CPU."""

    def make(directory: str = "out", **changes: Any) -> Any:
        values: dict[str, Any] = {
            "output_dir": str(tmp_path / directory),
            "use_cpu": True,
            "report_to": [],
            "disable_tqdm": True,
            "log_level": "error",
            "logging_strategy": "no",
            "save_strategy": "no",
            "per_device_train_batch_size": 4,
            "max_steps": 12,
            "learning_rate": 0.01,
            "seed": 3,
        }
        return transformers.TrainingArguments(**values | changes)

    return make


def new(kind: Any = BertForSequenceClassification, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    return kind(tiny_config(**changes))


def logits_of(model: nn.Module) -> Tensor:
    """Of all rows, without a trainer."""
    inputs = {name: value for name, value in batch().items() if name != "labels"}
    with torch.no_grad():
        logits: Tensor = model.eval()(**inputs).logits
    return logits


# As it is


@pytest.mark.parametrize("kind", [transformers.Trainer, Trainer])
def test_trains_evaluates_and_predicts(kind: Any, settings: Any) -> None:
    def metrics(predicted: Any) -> dict[str, float]:
        assert isinstance(predicted.predictions, np.ndarray)
        assert predicted.predictions.shape == (16, 2)
        return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}

    rows = Rows()
    trainer = kind(
        new(**STILL),
        settings(max_steps=40, learning_rate=0.003),
        train_dataset=rows,
        eval_dataset=rows,
        compute_metrics=metrics,
    )
    before = trainer.evaluate()
    trained = trainer.train()
    after = trainer.evaluate()
    assert trained.global_step == 40
    assert after["eval_loss"] < before["eval_loss"] / 2
    assert after["eval_accuracy"] == 1 > before["eval_accuracy"]

    logits = logits_of(trainer.model)
    close(trainer.predict(rows).predictions, logits)
    close(
        trainer.predict(rows).metrics["test_loss"],
        nn.functional.cross_entropy(logits, rows.classes),
    )
    unlabelled = trainer.predict(Rows("nothing"))
    close(unlabelled.predictions, logits)
    assert unlabelled.label_ids is None


def test_a_step_is_that_of_transformers_own_model(settings: Any, tmp_path: Path) -> None:
    """The same optimiser, schedule and clipping on the same weights give the same losses."""
    new(**STILL).save_pretrained(tmp_path / "start")
    losses = []
    for kind in (BertForSequenceClassification, transformers.BertForSequenceClassification):
        trainer = transformers.Trainer(
            kind.from_pretrained(tmp_path / "start"),
            settings(logging_strategy="steps", logging_steps=1),
            train_dataset=Rows(),
        )
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert len(losses[0]) == 12
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("kind", [transformers.Trainer, Trainer])
def test_label_smoothing(kind: Any, settings: Any) -> None:
    """The trainer takes the labels away and reads the logits by name."""
    rows = Rows()
    trainer = kind(
        new(), settings(label_smoothing_factor=0.2), train_dataset=rows, eval_dataset=rows
    )
    trainer.train()
    predicted = trainer.predict(rows)
    logits = logits_of(trainer.model)
    close(predicted.predictions, logits)
    expected = nn.functional.cross_entropy(logits, rows.classes, label_smoothing=0.2)
    close(predicted.metrics["test_loss"], expected)


def test_every_output_of_a_prediction_is_kept(settings: Any) -> None:
    """With labels and without; hidden states come after the logits."""
    model = new()
    trainer = transformers.Trainer(model, settings())
    model.forward = partial(model.forward, output_hidden_states=True)
    for what in ("rows", "nothing"):
        logits, hidden_states = trainer.predict(Rows(what)).predictions
        assert logits.shape == (16, 2)
        assert [states.shape for states in hidden_states] == [(16, 9, 32)] * 4


def test_other_tasks(settings: Any) -> None:
    for kind, what, collate in (
        (BertForTokenClassification, "tokens", pad),
        (BertForQuestionAnswering, "spans", None),
    ):
        rows = Rows(what)
        trainer = Trainer(
            new(kind),
            settings(max_steps=80),
            train_dataset=rows,
            eval_dataset=rows,
            data_collator=collate,
        )
        before = trainer.evaluate()["eval_loss"]
        trainer.train()
        assert trainer.evaluate()["eval_loss"] < before - 0.1
    assert trainer.label_names == ["start_positions", "end_positions"]
    start, end = trainer.predict(rows).predictions
    assert start.shape == end.shape == (16, 9)


def test_half_precision(settings: Any) -> None:
    rows = Rows()
    trainer = Trainer(new(), settings(bf16=True, max_steps=4), train_dataset=rows)
    trainer.train()
    assert all(parameter.dtype == torch.float32 for parameter in trainer.model.parameters())
    predictions = trainer.predict(rows).predictions
    assert np.isfinite(predictions).all()
    exact = logits_of(copy_of(trainer.model))
    assert 0 < (torch.as_tensor(predictions) - exact).abs().max() < 0.05 * exact.abs().max()


def copy_of(model: Any) -> Any:
    """Another model of the same weights: the trainer wraps the forward of its own."""
    other = type(model)(model.config)
    other.load_state_dict(model.state_dict())
    return other


# Saving and going on


def test_a_saved_model_opens_here_and_there(settings: Any, tmp_path: Path) -> None:
    rows = Rows()
    config = {"id2label": {0: "no", 1: "yes"}}
    trainer = Trainer(new(**config), settings(), train_dataset=rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {
        "config.json",
        "model.safetensors",
        MANIFEST_FILE,
        "training_args.bin",
    }
    again = BertForSequenceClassification.from_pretrained(tmp_path / "saved", strict=True)
    assert same_weights(again, trainer.model)
    assert again.config.labels == ["no", "yes"]
    theirs = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    close(logits_of(theirs), logits_of(again))
    # Into the directory of the checkpoints, over what is there.
    checkpoint = tmp_path / "out/checkpoint-9"
    checkpoint.mkdir(parents=True)
    trainer.save_model()
    assert checkpoint.is_dir()
    assert same_weights(BertForSequenceClassification.from_pretrained(tmp_path / "out"), again)


def test_without_the_mixin_a_saved_model_lacks_its_configuration(
    settings: Any, tmp_path: Path
) -> None:
    trainer = transformers.Trainer(new(), settings(), train_dataset=Rows())
    trainer.save_model(str(tmp_path / "saved"))
    with pytest.raises(offramp.ModelNotFoundError, match=r"config\.json"):
        BertForSequenceClassification.from_pretrained(tmp_path / "saved")
    again = BertForSequenceClassification.from_pretrained(
        tmp_path / "saved", config=trainer.model.config
    )
    assert same_weights(again, trainer.model)


@pytest.mark.parametrize("kind", [transformers.Trainer, Trainer])
def test_a_resumed_run_is_an_uninterrupted_one(kind: Any, settings: Any, tmp_path: Path) -> None:
    """Bit for bit, with dropout on: weights, optimiser, schedule and random state come back."""
    whole = kind(
        new(), settings("whole", save_strategy="steps", save_steps=5), train_dataset=Rows()
    )
    whole.train()
    checkpoint = tmp_path / "whole/checkpoint-5"
    assert checkpoint.is_dir()
    assert (checkpoint / "config.json").exists() == (kind is Trainer)
    resumed = kind(new(seed=9), settings("resumed"), train_dataset=Rows())
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert same_weights(resumed.model, whole.model)


def test_tied_weights_resume_and_stay_tied(settings: Any, tmp_path: Path) -> None:
    """Files hold each tied tensor once; with checkpointing, which does not change a bit."""
    rows = Rows("words")
    every = {"save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4}
    whole = Trainer(
        new(BertForMaskedLM),
        settings("whole", load_best_model_at_end=True, **every),
        train_dataset=rows,
        eval_dataset=rows,
    )
    before = whole.evaluate()["eval_loss"]
    whole.train()
    assert whole.evaluate()["eval_loss"] < before
    names = load_file(tmp_path / "whole/checkpoint-4/model.safetensors").keys()
    assert not {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"} & names

    resumed = Trainer(
        new(BertForMaskedLM, seed=9),
        settings("resumed", activation_checkpointing=True, **every),
        train_dataset=rows,
        eval_dataset=rows,
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole/checkpoint-4"))
    assert resumed.model.is_gradient_checkpointing
    for model in (whole.model, resumed.model):
        head = model.cls["predictions"]
        assert head.decoder.weight is model.get_input_embeddings().weight
        assert head.decoder.bias is head.bias
    last = BertForMaskedLM.from_pretrained(tmp_path / "whole/checkpoint-12")
    assert same_weights(resumed.model, last)


def test_the_best_model_comes_back(settings: Any, tmp_path: Path) -> None:
    """Best is here what has the largest loss, so that it is not the last."""
    every = {"save_strategy": "steps", "save_steps": 8, "eval_strategy": "steps", "eval_steps": 8}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss"}
    rows = Rows()
    trainer = Trainer(
        new(**STILL),
        settings(max_steps=40, learning_rate=0.003, greater_is_better=True, **best, **every),
        train_dataset=rows,
        eval_dataset=rows,
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 5
    assert losses[-1] < max(losses)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(max(losses))
    step = 8 * (losses.index(max(losses)) + 1)
    kept, last = (
        BertForSequenceClassification.from_pretrained(tmp_path / f"out/checkpoint-{at}")
        for at in (step, 40)
    )
    assert same_weights(trainer.model, kept)
    assert not same_weights(trainer.model, last)


def test_a_tokenizer_is_saved_beside_the_model(settings: Any, tmp_path: Path) -> None:
    class Processor:
        def save_pretrained(self, directory: str) -> None:
            (Path(directory) / "words.txt").write_text("good bad")

    Trainer(new(), settings(), processing_class=Processor()).save_model(str(tmp_path / "one"))
    assert (tmp_path / "one/words.txt").read_text() == "good bad"

    def collate(rows: Any) -> Any:
        return pad(rows)

    collate.tokenizer = Processor()
    trainer = Trainer(new(), settings(), data_collator=collate)
    trainer.save_model(str(tmp_path / "two"))
    assert (tmp_path / "two/words.txt").exists()


def test_adapters_of_peft_are_saved_as_peft_does(settings: Any, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs peft, which offramp itself does not")
    base = new()
    base.save_pretrained(tmp_path / "base")
    lora = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"])
    model = peft.get_peft_model(base, lora)
    trainer = Trainer(model, settings(activation_checkpointing=True), train_dataset=Rows())
    trainer.train()
    trainer.save_model(str(tmp_path / "adapter"))
    fresh = BertForSequenceClassification.from_pretrained(tmp_path / "base")
    before = logits_of(fresh)
    again = peft.PeftModel.from_pretrained(fresh, tmp_path / "adapter")
    torch.testing.assert_close(logits_of(again), logits_of(model))
    assert (logits_of(again) - before).abs().max() > 0.1
