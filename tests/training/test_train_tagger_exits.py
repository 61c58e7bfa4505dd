"""Training a tagger with exits: every schedule, the threshold by entities, runs that go on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tagged_data import tagged_table
from task_models import write_model

from offramp.errors import ConfigError
from offramp.exits.attach import exits_of, logits_by_depth
from offramp.exits.criteria import Entropy
from offramp.models.bert import BertModel
from offramp.models.inputs import Inputs
from offramp.nn.blocks import EncoderLayer
from offramp.runner.loading import load
from offramp.runner.progress import Progress
from offramp.runner.run import Runner
from offramp.runner.sweep import every_exit
from offramp.runner.tagger import Tagger
from offramp.text.tagged import read_tagged
from offramp.training import schedules
from offramp.training.entities import entity_f1
from offramp.training.frozen import train_ramps
from offramp.training.options import SCHEDULES, TrainingOptions
from offramp.training.run import Run
from offramp.training.schedules import RampStage, Stage, depth_weighted_loss, stages
from offramp.training.scoring import evaluate_exits
from offramp.training.tagged import NO_LABEL, TaggedExamples, to_tagged_examples
from offramp.training.tagger import TaggerReport, train_tagger
from offramp.training.tagger_evaluation import evaluate_tagger

OPTIONS = TrainingOptions(
    epochs=5, batch_size=8, learning_rate=5e-3, ramp_learning_rate=5e-3, patience=9, max_loss=1.0
)
TRAIN, DEV = tagged_table(64, 1, "train"), tagged_table(30, 2, "dev")
WNUT17 = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "wnut17"
Trained = tuple[Path, TaggerReport]
TrainToy = Callable[..., tuple[Tagger, TaggerReport]]


@pytest.fixture(scope="module")
def body(tagger_body: Path) -> Path:
    return tagger_body


@pytest.fixture(scope="module")
def trained(tagger_trained: Trained) -> Trained:
    return tagger_trained


@pytest.fixture
def train_toy(body: Path, tmp_path: Path) -> TrainToy:
    def run(
        name: str = "out", *, start: Path = body, **options: object
    ) -> tuple[Tagger, TaggerReport]:
        chosen = replace(OPTIONS, **{"epochs": 1, **options})  # type: ignore[arg-type]
        return train_tagger(start, TRAIN, tmp_path / name, dev=DEV, options=chosen)

    return run


def examples_of(tagger: Tagger, n: int, seed: int) -> TaggedExamples:
    return to_tagged_examples(tagged_table(n, seed), tagger, tagger.model.config.label2id)


def test_every_exit_learns_and_a_threshold_is_chosen(trained: Trained) -> None:
    directory, report = trained
    assert list(report.best["dev_f1_by_depth"]) == ["1", "2", "3"]
    assert report.best["dev_f1_by_depth"]["3"] == pytest.approx(report.best["score"], abs=1e-5)
    assert min(report.best["dev_f1_by_depth"].values()) > 0.7
    assert report.best["score"] > 0.95
    assert report.choice is not None
    assert report.choice.measure == "f1"
    assert report.choice.mean_layers < 2.5
    section = json.loads((directory / "config.json").read_text())["exits"]
    assert section["pooler"] == "tokens"
    assert section["criterion"] == report.choice.criterion.to_dict()
    assert section["calibration"]["measure"] == "f1"
    test = tagged_table(80, 3)
    assert test.tags is not None
    tagger, told = load(directory, task="tag"), list[Progress]()
    said = tagger.predict_words(test.words, progress=told.append)
    assert entity_f1(test.tags, said).f1 > 0.9
    assert told[-1].mean_layers < 2.5


def test_the_choice_is_what_prediction_gives(trained: Trained) -> None:
    directory, report = trained
    tagger, dev, told = load(directory, task="tag"), tagged_table(60, 2), list[Progress]()
    assert tagger.criterion == report.choice.criterion  # type: ignore[union-attr]
    assert dev.tags is not None
    said = tagger.predict_words(dev.words, progress=told.append)
    assert report.choice is not None
    assert entity_f1(dev.tags, said).f1 == pytest.approx(report.choice.score)
    assert told[-1].mean_layers == pytest.approx(report.choice.mean_layers)
    full = tagger.predict_words(dev.words, threshold=0)
    assert entity_f1(dev.tags, full).f1 == pytest.approx(report.choice.full_score)


def test_exits_alone_by_hand(trained: Trained) -> None:
    tagger = load(trained[0], task="tag")
    examples = examples_of(tagger, 40, 5)
    found = evaluate_exits(tagger.model, examples)
    labels = tagger.labels
    for depth in (1, 2, 3):
        said = []
        for words in tagged_table(40, 5).words:
            (tokens,) = tagger.tokenizer.encode_words([words])
            with torch.inference_mode():
                inputs = Inputs.from_rows([tokens.ids], [tokens.types])
                best_L = logits_by_depth(tagger.model, inputs)[depth].argmax(-1).tolist()
            firsts = [tokens.words.tolist().index(number) for number in range(len(words))]
            said.append([labels[best_L[first]] for first in firsts])
        expected = entity_f1(examples.gold, said).f1
        assert found["dev_f1_by_depth"][str(depth)] == pytest.approx(expected, abs=1e-5)


def test_examples_put_tags_back(trained: Trained) -> None:
    tagger = load(trained[0], task="tag", max_length=8)  # some sentences are several windows
    examples = examples_of(tagger, 30, 6)
    assert len(examples) > 30
    rows_R = torch.arange(len(examples))
    assert examples.tags_by(examples.labels_of(rows_R)) == examples.gold
    order_R = torch.tensor([3, 0, 7])
    beside_T = examples.beside(order_R)
    assert torch.equal(beside_T[examples.learnt(order_R)], examples.labels_of(order_R))
    assert NO_LABEL not in examples.labels_of(order_R)
    for row, labels in zip(examples.asked(), examples.labels, strict=True):
        assert row.counted.tolist() == (labels != NO_LABEL).tolist()
    answers = every_exit(tagger.model, examples.asked())
    for criterion in (Entropy(0.2, 1.3), Entropy(0)):
        swept = answers.apply(criterion)
        ran = Runner(tagger.model, criterion=criterion).run(examples.asked())
        assert torch.equal(swept.exit_layers_R, ran.exit_layers_R)
        tags = examples.tags_in(swept)
        assert tags == examples.tags_in(ran)
        tagger.criterion = criterion
        assert tags == tagger.predict_words(tagged_table(30, 6).words)


STAGES = {
    "joint": ["joint"],
    "two-stage": ["backbone", "ramps"],
    "alternating": ["alternating"],
    "self-distillation": ["backbone", "ramps"],
    "joint-distillation": ["joint-distillation"],
    "mixed": ["backbone", "joint"],
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("certainty", [False, True])
def test_every_schedule(schedule: str, certainty: bool, train_toy: TrainToy) -> None:
    tagger, report = train_toy(schedule=schedule, certainty=certainty, epochs=2)
    stages = [line["stage"] for line in report.log]
    assert sorted(set(stages), key=stages.index) == STAGES[schedule]
    by_depth = report.log[-1]["dev_f1_by_depth"]
    assert list(by_depth) == ["1", "2", "3"]
    assert ("dev_certainty_accuracy" in report.log[-1]) == certainty
    assert by_depth == evaluate_exits(tagger.model, examples_of(tagger, 30, 2))[
        "dev_f1_by_depth"
    ]  # fmt: skip
    assert report.log[-1]["loss"] > 0
    if stages[0] == "backbone":
        assert list(report.log[0]["dev_f1_by_depth"]) == ["3"]


def test_the_body_is_trained_alone_by_default(train_toy: TrainToy) -> None:
    _, report = train_toy()
    assert [line["stage"] for line in report.log] == ["backbone", "ramps"]


def test_the_loss_is_of_words(train_toy: TrainToy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each exit the mean over words of the cross-entropy, weighted by depth."""
    seen: list[tuple[dict[int, torch.Tensor], torch.Tensor]] = []

    def watched(logits, labels_R, step, weights_C=None):  # type: ignore[no-untyped-def]
        seen.append((dict(logits), labels_R))
        return depth_weighted_loss(logits, labels_R, step, weights_C)

    monkeypatch.setattr(schedules, "_JOINT", Stage("joint", watched))
    _, report = train_toy(depths=(1,), schedule="joint")
    n_words = sum(map(len, TRAIN.words))
    assert sum(len(labels_N) for _, labels_N in seen) == n_words
    losses = []
    for logits, labels_N in seen:
        assert list(logits) == [1, 3]
        each = {d: F.cross_entropy(logits_NC, labels_N) for d, logits_NC in logits.items()}
        losses.append(((1 * each[1] + 3 * each[3]) / 4).item())
    assert report.log[0]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_frozen_ramps_leave_the_body_and_the_head(train_toy: TrainToy, tmp_path: Path) -> None:
    train_toy("plain", depths=(), max_loss=0.25)
    before = load_file(tmp_path / "plain" / "model.safetensors")
    assert not [name for name in before if name.startswith("exits.")]
    for schedule in ("joint", "self-distillation"):
        tagger, report = train_toy(
            "frozen", start=tmp_path / "plain", schedule=schedule, freeze_backbone=True, epochs=6
        )
        after = tagger.model.state_dict()
        assert all(torch.equal(after[name], x) for name, x in before.items())
        by_depth = report.log[0]["dev_f1_by_depth"]
        assert by_depth["1"] > 0.2
    with pytest.raises(ConfigError, match="freeze_backbone keeps the model's head"):
        train_toy(freeze_backbone=True)


def test_frozen_each_token_passes_each_layer_once(trained: Trained) -> None:
    tagger = load(trained[0], task="tag", max_length=8)  # some sentences are several windows
    training, dev = examples_of(tagger, 40, 5), examples_of(tagger, 20, 6)
    passed = [0] * 3
    layers = [module for module in tagger.model.modules() if isinstance(module, EncoderLayer)]
    for i, layer in enumerate(layers):

        def count(_: object, inputs: tuple[torch.Tensor], __: object, i: int = i) -> None:
            passed[i] += len(inputs[0])

        layer.register_forward_hook(count)
    (stage,) = stages(replace(OPTIONS, freeze_backbone=True))
    assert isinstance(stage, RampStage)
    run = Run(replace(OPTIONS, epochs=3))
    train_ramps(tagger.model, stage, training, dev, None, run)
    assert passed == [sum(len(row.ids) for row in (*training.rows, *dev.rows))] * 3
    (line,) = run.log
    assert line["dev_f1_by_depth"] == evaluate_exits(tagger.model, dev)["dev_f1_by_depth"]
    assert line["step"] == 3 * math.ceil(len(training.class_numbers()) / 128)


@pytest.mark.parametrize("stop", [2, 3, 4])
def test_a_run_stopped_between_ramps_goes_on(
    stop: int, body: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(OPTIONS, epochs=2, schedule="self-distillation", certainty=True)
    keep, kept = Run.keep, list[object]()

    def stopping(run: Run, *args: Any) -> None:
        keep(run, *args)
        kept.append(args)
        if len(kept) == stop:
            raise KeyboardInterrupt

    def run(name: str, *, resume: bool = False) -> dict[str, torch.Tensor]:
        train_tagger(body, TRAIN, tmp_path / name, dev=DEV, options=options, resume=resume)
        return load_file(tmp_path / name / "model.safetensors")

    whole = run("whole")
    monkeypatch.setattr(Run, "keep", stopping)
    with pytest.raises(KeyboardInterrupt):
        run("stopped")
    again = run("stopped", resume=True)
    assert len(kept) == 4  # two evaluations of the body and two ramps, none of them twice
    assert all(torch.equal(again[name], x) for name, x in whole.items())


@pytest.mark.parametrize("schedule", ["joint", "two-stage"])
def test_a_stopped_run_goes_on(schedule: str, body: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, epochs=2, schedule=schedule)

    def run(name: str, *, stop: int | None = None, resume: bool = False) -> TaggerReport:
        lines: list[object] = []

        def told(line: dict[str, object]) -> None:
            lines.append(line)
            if len(lines) == stop:
                raise KeyboardInterrupt

        _, report = train_tagger(
            body,
            TRAIN,
            tmp_path / name,
            dev=DEV,
            options=options,
            resume=resume,
            on_evaluation=told,
        )
        return report

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("stopped", stop=2)
    again = run("stopped", resume=True)
    assert again.choice == whole.choice
    logs = [[{**line, "seconds": 0} for line in report.log] for report in (again, whole)]
    assert logs[0] == logs[1]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_evaluation(trained: Trained) -> None:
    directory, _ = trained
    found = evaluate_tagger(
        directory, tagged_table(40, 4), rounds=1, timing_rows=20, transformers=False
    )
    assert set(found.seconds) == {"offramp", "plain"}
    assert found.exits_speed is not None
    assert 1 <= found.mean_layers < 3
    assert list(found.f1_by_depth) == ["1", "2", "3"]
    json.dumps(found.to_dict(), allow_nan=False)
    tagger = load(directory, task="tag")
    data = tagged_table(40, 4)
    assert data.tags is not None
    assert found.entities == entity_f1(data.tags, tagger.predict_words(data.words))
    assert found.f1_by_depth["3"] == pytest.approx(
        entity_f1(data.tags, tagger.predict_words(data.words, threshold=0)).f1, abs=1e-5
    )


def test_what_is_refused(train_toy: TrainToy) -> None:
    for changes, message in (
        ({"pooler": "mean"}, "pooler is of poolers"),
        ({"queries": 2}, "queries is of poolers"),
        ({"depths": (), "max_loss": 0.25, "schedule": "mixed"}, "schedule is of exits"),
        ({"depths": (3,)}, "Exits lie after different layers from 1 to 2"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_toy(**changes)


def test_a_model_of_one_layer_has_no_exits(train_toy: TrainToy, tmp_path: Path) -> None:
    start = write_model(tmp_path / "one", BertModel, num_hidden_layers=1)
    tagger, report = train_toy(start=start)
    assert report.choice is None
    assert not hasattr(tagger.model, "exits")
    with pytest.raises(ConfigError, match="Exits lie after different layers"):
        train_toy("other", start=start, depths=(1,))


@pytest.mark.skipif(not WNUT17.is_dir(), reason="../shared/data/wnut17 is absent")
def test_a_small_part_of_wnut17(body: Path, tmp_path: Path) -> None:
    data = read_tagged(WNUT17 / "train.jsonl")
    part = replace(data, words=data.words[:60], tags=(data.tags or [])[:60])
    options = replace(OPTIONS, epochs=1)
    tagger, report = train_tagger(body, part, tmp_path / "out", dev=part, options=options)
    assert report.choice is not None
    assert exits_of(tagger.model).depths == (1, 2)
    together = tagger.predict_words(part.words)
    assert together == [tagger.predict_words([words])[0] for words in part.words]
