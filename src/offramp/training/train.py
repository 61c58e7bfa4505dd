"""`offramp.train`: from a pretrained directory and a table to a classifier with exits."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from offramp.checkpoints.directory import check_writable, staged
from offramp.errors import ConfigError, TrainingError, nearest
from offramp.exits.attach import add_exits, exits_of, logits_by_depth
from offramp.models.base import PretrainedModel
from offramp.models.losses import classification_loss
from offramp.models.opening import Opening, open_model
from offramp.models.registry import sequence_classifier
from offramp.runner.classifier import Classifier
from offramp.runner.sweep import EveryExit, every_exit
from offramp.text.tables import Table
from offramp.text.tokenizer import Tokenizer
from offramp.training.examples import Examples, batches, class_names, hold_out, to_examples
from offramp.training.frozen import train_ramps
from offramp.training.metrics import accuracy, finite, scores
from offramp.training.options import TrainingOptions
from offramp.training.thresholds import Choice, choose_threshold, default_growth

LOG_FILE = "metrics.jsonl"

Progress = Callable[[str, int, int], None]
"""Told the stage, how much of it is done, and how much there is."""


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
    progress = progress or (lambda stage, done, total: None)
    check_writable(output)
    labels = class_names(data)
    if options.score == "f1" and len(labels) != 2:
        raise ConfigError(
            f"score 'f1' is for two classes and {data.source} has {len(labels)}. Use accuracy or "
            "macro_f1."
        )
    if dev is None:
        data, dev = hold_out(data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = _prepare(model, labels, options)
        tokenizer = Tokenizer.from_pretrained(model, max_length=max_length)
        classifier = Classifier(network, tokenizer)
        label2id = network.config.label2id
        training = to_examples(data, tokenizer, label2id)
        held = to_examples(dev, tokenizer, label2id)
        weights_C = class_weights(training, labels, options)
        steps = train_ramps if options.freeze_backbone else train_jointly
        log = []
        for line in steps(network, training, held, weights_C, options, progress):
            log.append(line)
            if on_evaluation is not None:
                on_evaluation(line)
    network.eval()
    answers = _finite_answers(network, held)
    growth = default_growth(answers.depths[-1]) if options.growth is None else options.growth
    choice = choose_threshold(answers, held.labels_R, options.max_loss, growth)
    exits_of(network).criterion = choice.criterion
    exits_of(network).calibration = {
        "rule": "fastest on dev by isotonic regression of the loss; no guarantee",
        "max_loss": options.max_loss,
        "rows": len(held),
        **dataclasses.asdict(choice),
    }
    best = max(log, key=lambda line: line["score"])  # the earliest, as training keeps it
    lines = "".join(json.dumps(line) + "\n" for line in log)
    with staged(output) as fresh:
        classifier.write_files(fresh)
        (fresh / LOG_FILE).write_text(lines, encoding="utf-8")
    return classifier, TrainingReport(log, best, choice)


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
    generator = torch.Generator().manual_seed(options.seed)
    an_epoch = math.ceil(len(training) / options.batch_size)
    total = an_epoch * options.epochs
    every = math.ceil(an_epoch / options.evaluations_per_epoch)
    optimizer, schedule = _optimizer(model, options, total)
    parameters = [p for p in model.parameters() if p.requires_grad]
    best_score, best_weights, since_best = -math.inf, None, 0
    step, losses, began = 0, [], time.monotonic()
    for epoch in range(1, options.epochs + 1):
        for which in batches(training, options.batch_size, generator):
            model.train()
            inputs = training.inputs(which)
            loss = depth_weighted_loss(
                logits_by_depth(model, inputs), training.labels_R[inputs.row_ids_R], weights_C
            )
            losses.append(finite(loss, step))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            progress("train", step, total)
            in_epoch = step - (epoch - 1) * an_epoch
            if in_epoch % every and in_epoch != an_epoch:
                continue
            line = {
                "epoch": epoch,
                "step": step,
                "loss": sum(losses) / len(losses),
                **evaluate_exits(model, dev, options.score),
                "seconds": round(time.monotonic() - began, 1),
            }
            losses = []
            yield line
            if line["score"] > best_score:
                best_score, since_best = line["score"], 0
                best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
            else:
                since_best += 1
                if since_best >= options.patience:
                    break
        else:
            continue
        break
    assert best_weights is not None  # there is an evaluation at the end of each epoch
    model.load_state_dict(best_weights)


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


def class_weights(training: Examples, labels: list[str], options: TrainingOptions) -> Tensor | None:
    """Loss weights [C], or None for equal ones."""
    wanted = options.class_weights
    if wanted is None:
        return None
    if wanted == "balanced":
        counts = Counter(training.labels_R.tolist())
        return torch.tensor(
            [len(training) / (len(labels) * max(1, counts[i])) for i in range(len(labels))]
        )
    assert not isinstance(wanted, str)  # checked by the options
    for label in wanted:
        if label not in labels:
            raise ConfigError(f"class_weights names {label!r}. {nearest(label, labels)}")
    return torch.tensor([float(wanted.get(label, 1.0)) for label in labels])


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
    config = model_class.config_class.from_pretrained(
        model,
        id2label=dict(enumerate(labels)),
        exits=None,
        problem_type="single_label_classification",
    )
    opening = Opening(config=config, dtype=torch.float32, ignore_mismatched_sizes=True)
    network, report = open_model(model_class, model, opening)
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


def _optimizer(
    model: PretrainedModel, options: TrainingOptions, total: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    body = {id(p) for p in model.base_model.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        decays = parameter.dim() > 1  # biases and norms are not pulled to zero
        groups.setdefault((id(parameter) in body, decays), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": options.learning_rate if of_body else options.ramp_learning_rate,
                "weight_decay": options.weight_decay if decays else 0.0,
            }
            for (of_body, decays), parameters in groups.items()
        ],
        fused=True,  # the embedding's update costs as much as a forward otherwise
    )
    rising = max(1, round(total * options.warmup))

    def rate(step: int) -> float:
        return min((step + 1) / rising, max(0.0, (total - step) / max(1, total - rising)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
