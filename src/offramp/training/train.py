"""`offramp.train`: from a pretrained directory and a table to a classifier with exits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from offramp.checkpoints.directory import check_writable
from offramp.errors import ConfigError, TrainingError
from offramp.exits.attach import add_exits, exits_of, logits_by_depth
from offramp.models.base import PretrainedModel
from offramp.models.losses import classification_loss
from offramp.models.registry import sequence_classifier
from offramp.runner.classifier import Classifier
from offramp.runner.sweep import EveryExit, every_exit
from offramp.text.tables import Table
from offramp.text.tokenizer import Tokenizer
from offramp.training.examples import Examples, class_names, hold_out, to_examples
from offramp.training.frozen import train_ramps
from offramp.training.loop import (
    Progress,
    best_of,
    class_weights,
    fit,
    open_to_train,
    save_run,
    seeded,
    silent,
    told,
)
from offramp.training.metrics import accuracy, scores
from offramp.training.options import SCORE, TrainingOptions
from offramp.training.thresholds import Choice, calibration, choose_threshold, default_growth


@dataclass(frozen=True)
class TrainingReport:
    """What a run gave: the metrics log's lines, the best evaluation's, and the threshold chosen."""

    log: list[dict[str, Any]]
    best: dict[str, Any]
    choice: Choice


def train(
    model: str | Path,
    data: Table,
    output: str | Path,
    *,
    dev: Table | None = None,
    options: TrainingOptions | None = None,
    max_length: int | None = None,
    progress: Progress | None = None,
    on_evaluation: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[Classifier, TrainingReport]:
    """Fine-tune the model in directory `model` on `data` and write the classifier to `output`.

    The best checkpoint by dev score is kept; its exit threshold is chosen on dev (the fastest whose
    smoothed loss is at most `options.max_loss` points). Without `dev` a tenth of the rows is held
    out by hash of the text. `output` is written only when training is done, whole, with the metrics
    log `metrics.jsonl`, whose lines `on_evaluation` is told as they are made. Raises DataError,
    ConfigError, CheckpointError, SaveError or TrainingError.
    """
    options = options or TrainingOptions()
    progress = progress or silent
    check_writable(output)
    labels = class_names(data)
    if options.score == "f1" and len(labels) != 2:
        raise ConfigError(
            f"score 'f1' is for two classes and {data.source} has {len(labels)}. Use accuracy or "
            "macro_f1."
        )
    if dev is None:
        data, dev = hold_out(data)
    with seeded(options.seed):
        network = _prepare(model, labels, options)
        tokenizer = Tokenizer.from_pretrained(model, max_length=max_length)
        classifier = Classifier(network, tokenizer)
        label2id = network.config.label2id
        training = to_examples(data, tokenizer, label2id)
        held = to_examples(dev, tokenizer, label2id)
        weights_C = class_weights(training.labels_R, labels, options)
        steps = train_ramps if options.freeze_backbone else train_jointly
        log = told(steps(network, training, held, weights_C, options, progress), on_evaluation)
    network.eval()
    answers = _finite_answers(network, held)
    growth = default_growth(answers.depths[-1]) if options.growth is None else options.growth
    choice = choose_threshold(answers, held.labels_R, options.max_loss, growth)
    exits_of(network).criterion = choice.criterion
    exits_of(network).calibration = calibration(choice, options.max_loss, len(held))
    save_run(output, classifier, log)
    return classifier, TrainingReport(log, best_of(log), choice)


def train_jointly(
    model: PretrainedModel,
    training: Examples,
    dev: Examples,
    weights_C: Tensor | None,
    options: TrainingOptions,
    progress: Progress,
) -> Iterator[dict[str, Any]]:
    """Train body, head and ramps together; yields a log line an evaluation.

    At the end the model has the weights of the best evaluation.
    """

    def loss(which: Sequence[int]) -> Tensor:
        inputs = training.inputs(which)
        return depth_weighted_loss(
            logits_by_depth(model, inputs), training.labels_R[inputs.row_ids_R], weights_C
        )

    def evaluated() -> dict[str, Any]:
        return evaluate_exits(model, dev, options.score or SCORE)

    yield from fit(model, training, loss, evaluated, options, progress)


def depth_weighted_loss(
    logits: dict[int, Tensor], labels_R: Tensor, weights_C: Tensor | None = None
) -> Tensor:
    """Mean over exits of the classification loss, each weighted by its depth, []."""
    total = sum(
        depth * classification_loss(logits_RC, labels_R, class_weights_C=weights_C)
        for depth, logits_RC in logits.items()
    )
    return cast(Tensor, total) / sum(logits)


def evaluate_exits(model: PretrainedModel, dev: Examples, score: str) -> dict[str, Any]:
    """Dev accuracy of each exit by depth, the scores at full depth, and the one that counts."""
    model.eval()
    return exit_scores(_finite_answers(model, dev), dev.labels_R, score)


def exit_scores(answers: EveryExit, labels_R: Tensor, score: str) -> dict[str, Any]:
    """As `evaluate_exits`, from the answers."""
    at_full = scores(answers.logits_ERC[-1].argmax(-1), labels_R, answers.logits_ERC.shape[-1])
    by_depth = {
        str(depth): round(accuracy(logits_RC.argmax(-1), labels_R), 5)
        for depth, logits_RC in zip(answers.depths, answers.logits_ERC, strict=True)
    }
    return {"score": at_full[score], "dev": at_full, "dev_accuracy_by_depth": by_depth}


def _finite_answers(model: PretrainedModel, dev: Examples) -> EveryExit:
    answers = every_exit(model, dev.rows)
    if not bool(answers.logits_ERC.isfinite().all()):
        raise TrainingError(
            "The model's answers are no numbers any more. Lower learning_rate or "
            "ramp_learning_rate."
        )
    return answers


def _prepare(model: str | Path, labels: list[str], options: TrainingOptions) -> PretrainedModel:
    model_class = sequence_classifier(model)
    if options.freeze_backbone:  # the head stays too, so it has to be there
        labels = _head_labels(model_class.config_class.from_pretrained(model).labels, labels)
    network, report = open_to_train(
        model_class, model, labels, problem_type="single_label_classification"
    )
    if options.freeze_backbone and report.initialised:
        raise ConfigError(
            f"freeze_backbone keeps the head of {model}, and it lacks "
            f"{', '.join(report.initialised)}. Fine-tune the model first."
        )
    return add_exits(network, options.depths, pooler=options.pooler, queries=options.queries)


def _head_labels(head: list[str], labels: list[str]) -> list[str]:
    """The names of a kept head's classes: its own, or the data's for one that never had any."""
    if set(labels) <= set(head):
        return head
    if len(labels) == len(head) and head == [f"LABEL_{i}" for i in range(len(head))]:
        return labels
    raise ConfigError(
        f"freeze_backbone keeps the model's head, whose classes are {head}; the data's are "
        f"{labels}. Fine-tune the model on these first, or name its classes in config.json."
    )
