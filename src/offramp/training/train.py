"""`offramp.train`: from a pretrained directory and a table to a classifier with exits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from offramp.checkpoints.directory import check_writable
from offramp.errors import ConfigError, TrainingError
from offramp.exits.attach import add_exits, answers_by_depth, exits_of
from offramp.exits.criteria import Answer
from offramp.exits.criteria.task import MULTI_LABEL, SINGLE_LABEL
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel, run_layers
from offramp.models.registry import sequence_classifier
from offramp.runner.sweep import EveryExit, every_exit
from offramp.text.columns import Columns
from offramp.text.tables import Table
from offramp.text.tokenizer import Tokenizer
from offramp.training.certainty import certainty_loss, is_right, regressor_accuracy
from offramp.training.checkpoint import fingerprint_of_texts
from offramp.training.examples import (
    Examples,
    as_table,
    class_names,
    examples_of,
    hold_out,
    label_names,
)
from offramp.training.frozen import train_ramps
from offramp.training.loop import (
    Lesson,
    class_weights,
    fit,
    open_to_train,
    save_run,
    seeded,
    weight_of,
)
from offramp.training.options import SCORES, TrainingOptions
from offramp.training.problems import PROBLEMS
from offramp.training.run import Progress, Run, best_of, open_run
from offramp.training.schedules import RampStage, Stage, stages
from offramp.training.thresholds import Choice, calibration, choose_threshold, default_growth


@dataclass(frozen=True)
class TrainingReport:
    """What a run gave: the metrics log's lines, the best evaluation's, and the threshold chosen."""

    log: list[dict[str, Any]]
    best: dict[str, Any]
    choice: Choice


def train(
    model: str | Path,
    data: Table | Columns,
    output: str | Path,
    *,
    dev: Table | Columns | None = None,
    options: TrainingOptions | None = None,
    max_length: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    on_evaluation: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[Any, TrainingReport]:
    """Fine-tune the model in directory `model` on `data` and write it to `output`.

    It comes back as a `Classifier`, or by `options.problem_type` as a `MultiLabelClassifier` or a
    `Regressor`.
    `data` and `dev` are tables, or rows in memory with the columns `text` and `label`: a dict, or a
    Hugging Face `datasets.Dataset` (other columns: `Table.of`).
    What learns when and by which loss is said by `options.schedule`. The best checkpoint by dev
    score is kept; its exit threshold is chosen on dev (the fastest whose
    smoothed loss is at most `options.max_loss` points). Without `dev` a tenth of the rows is held
    out by hash of the text. `output` is written only when training is done, whole, with the metrics
    log `metrics.jsonl`, whose lines `on_evaluation` is told as they are made.

    Until then a checkpoint is kept at every evaluation in a hidden folder beside `output`. With
    `resume` a run that was stopped, or killed, goes on from it and ends in the same weights and log
    as one that never was (but for the seconds); where there is none it begins. Data, model and
    options have to be the same.

    Under `torchrun` each process takes its share of every step's rows: the run is that of one
    process, but for rounding and dropout's draws. The first one evaluates and writes. Raises
    DataError, ConfigError, CheckpointError, SaveError or TrainingError.
    """
    options = options or TrainingOptions()
    check_writable(output)
    data, dev = as_table(data), None if dev is None else as_table(dev)
    problem = PROBLEMS[options.problem_type]
    labels = _names(data, options)
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
        trained = problem.runner(network, tokenizer)
        training = examples_of(data, tokenizer, network.config)
        held = examples_of(dev, tokenizer, network.config)
        weights_C = class_weights(training.labels_R, labels, options)
        rows = {"data": _pairs(data), "dev": _pairs(dev)}
        with open_run(
            output,
            trained,
            rows,
            options,
            resume=resume,
            progress=progress,
            on_evaluation=on_evaluation,
        ) as run:
            for stage in run.stages({stage.name: stage for stage in stages(options)}):
                if isinstance(stage, RampStage):
                    if run.group.is_first:  # the body runs once
                        train_ramps(network, stage, training, held, weights_C, run)
                    run.group.copy(network)
                    run.log = run.group.told(lambda: run.log)
                else:
                    train_exits(network, stage, training, held, weights_C, run)
            network.eval()
            choice = _choose(network, held, options)
            exits = exits_of(network)
            exits.calibration = {
                **(exits.calibration or {}),
                "fingerprints": {
                    "train": fingerprint_of_texts(data.texts),
                    "dev": fingerprint_of_texts(dev.texts),
                },
            }
            save_run(output, trained, run)
    return trained, TrainingReport(run.log, best_of(run.log), choice)


def _names(data: Table, options: TrainingOptions) -> list[str]:
    """What the model's outputs are called."""
    if options.is_regression:
        return ["LABEL_0"]
    return label_names(data) if options.problem_type == MULTI_LABEL else class_names(data)


def _choose(model: PretrainedModel, held: Examples, options: TrainingOptions) -> Choice:
    """Choose the exits' threshold on dev, and set it."""
    answers, exits = _finite_answers(model, held), exits_of(model)
    growth = default_growth(answers.depths[-1]) if options.growth is None else options.growth
    choice = choose_threshold(answers, held.labels_R, options.max_loss, growth)
    exits.criterion = choice.criterion
    exits.calibration = calibration(choice, options.max_loss, len(held))
    return choice


def _pairs(table: Table) -> Iterator[object]:
    return zip(table.texts, table.labels or [], strict=True)


def train_exits(
    model: PretrainedModel,
    stage: Stage,
    training: Examples,
    dev: Examples,
    weights_C: Tensor | None,
    run: Run,
) -> None:
    """Train body and head, and ramps unless the stage leaves them, as `fit` does.

    At the end the model has the weights of the best evaluation.
    """
    options, task, exits = run.options, cast(ExitableModel, model), exits_of(model)
    of_ramps = {id(parameter) for parameter in exits.parameters()}
    beside = [] if exits.certainty is None else list(exits.certainty.parameters())

    def loss(which: Sequence[int], step: int) -> Tensor:
        inputs = training.inputs(which)
        if stage.last_alone(step):
            answers = {task.stack.n_layers: Answer(task.logits(run_layers(task.stack, inputs)))}
        else:
            answers = answers_by_depth(model, inputs, equilibrium=options.gradient_equilibrium)
        logits = {depth: answer.logits_RC.float() for depth, answer in answers.items()}
        labels_R = training.labels_R[inputs.row_ids_R]
        of_certainty = certainty_loss(answers, labels_R, weights_C)
        own = stage.loss(logits, labels_R, step, weights_C)
        return own if of_certainty is None else own + of_certainty

    def weigh(which: Sequence[int]) -> float:
        return weight_of(training.labels_R[which], weights_C)

    def evaluated() -> dict[str, Any]:
        found = evaluate_exits(model, dev, options.score)
        if stage.backbone_alone:  # the ramps know nothing yet
            last = str(task.stack.n_layers)
            by_depth = PROBLEMS[options.problem_type].by_depth
            found[by_depth] = {last: found[by_depth][last]}
            found.pop("dev_certainty_accuracy", None)
        return found

    apart = of_ramps if stage.backbone_alone else {id(parameter) for parameter in beside}
    learning = [parameter for parameter in model.parameters() if id(parameter) not in apart]
    if stage.backbone_alone:
        beside = []
    fit(model, Lesson(stage.name, training, learning, loss, weigh, evaluated, beside), run)


def evaluate_exits(
    model: PretrainedModel, dev: Examples, score: str | None = None
) -> dict[str, Any]:
    """What each exit is worth on dev, the scores at full depth, and the one that counts.

    Where the exits say how sure they are, the accuracy of that too (`regressor_accuracy`).
    """
    model.eval()
    return exit_scores(_finite_answers(model, dev), dev.labels_R, score)


def exit_scores(answers: EveryExit, labels_R: Tensor, score: str | None) -> dict[str, Any]:
    """As `evaluate_exits`, from the answers."""
    problem_type = SINGLE_LABEL if answers.task is None else answers.task.kind
    problem = PROBLEMS[problem_type]
    at_full = problem.scores(answers.logits_ERC[-1], labels_R)
    by_depth = {
        str(depth): round(problem.judge(logits_RC, labels_R), 5)
        for depth, logits_RC in zip(answers.depths, answers.logits_ERC, strict=True)
    }
    counts = at_full[score or SCORES[problem_type][0]]
    found = {"score": counts, "dev": at_full, problem.by_depth: by_depth}
    if answers.certainty_XR is not None:
        right_XR = torch.stack([is_right(x, labels_R) for x in answers.logits_ERC[:-1]])
        sure = regressor_accuracy(answers.certainty_XR, right_XR)
        found["dev_certainty_accuracy"] = round(sure, 5)
    return found


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
    network, report = open_to_train(model_class, model, labels, problem_type=options.problem_type)
    if options.freeze_backbone and report.initialised:
        raise ConfigError(
            f"freeze_backbone keeps the head of {model}, and it lacks "
            f"{', '.join(report.initialised)}. Fine-tune the model first."
        )
    return add_exits(
        network,
        options.depths,
        pooler=options.pooler,
        queries=options.queries,
        certainty=options.certainty,
    )


def _head_labels(head: list[str], labels: list[str]) -> list[str]:
    """The names of a kept head's classes: its own, or the data's for one that never had any."""
    if set(labels) <= set(head) and len(labels) > 1:
        return head
    if len(labels) == len(head) == 1:
        return head
    if len(labels) == len(head) and head == [f"LABEL_{i}" for i in range(len(head))]:
        return labels
    if len(labels) == 1:  # a number
        raise ConfigError(
            f"freeze_backbone keeps the model's head, which has {len(head)} outputs; one for "
            "regression has one. Fine-tune the model first."
        )
    raise ConfigError(
        f"freeze_backbone keeps the model's head, whose classes are {head}; the data's are "
        f"{labels}. Fine-tune the model on these first, or name its classes in config.json."
    )
