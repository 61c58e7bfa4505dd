"""`offramp.train`: from a pretrained directory and a table to a classifier with exits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from offramp.checkpoints.directory import check_writable
from offramp.errors import ConfigError
from offramp.exits.attach import add_exits
from offramp.exits.container import exits_of
from offramp.exits.criteria import Answer
from offramp.exits.criteria.task import MULTI_LABEL
from offramp.exits.forward import answers_by_depth
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel, run_layers
from offramp.models.names import as_path
from offramp.models.registry import sequence_classifier
from offramp.storage.steady import reread
from offramp.text.columns import Columns
from offramp.text.tables import Table
from offramp.text.tokenizer import Tokenizer
from offramp.training.certainty import certainty_loss
from offramp.training.examples import (
    EncodedRows,
    as_table,
    class_names,
    examples_of,
    hold_out,
    label_names,
)
from offramp.training.frozen import train_ramps
from offramp.training.kept import check_head, head_labels, keep_ramps
from offramp.training.loop import (
    Lesson,
    class_weights,
    fit,
    open_to_train,
    save_run,
    seeded,
    weight_of,
)
from offramp.training.options import SCHEDULE, TrainingOptions
from offramp.training.problems import PROBLEMS
from offramp.training.run import Progress, Run, best_of, open_run
from offramp.training.schedules import RampStage, Stage, stages
from offramp.training.scoring import evaluate_exits
from offramp.training.seen import TOGETHER, keep_noted, note_rows, rows_noted_in
from offramp.training.thresholds import Choice, choose_threshold, set_threshold


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
    options = (options or TrainingOptions()).scheduled(SCHEDULE)
    check_writable(output)
    data, dev = as_table(data), None if dev is None else as_table(dev)
    problem = PROBLEMS[options.problem_type]
    labels = _names(data, options)
    if options.score == "f1" and len(labels) != 2:
        raise ConfigError(
            f"score 'f1' is for two classes and {data.source} has {len(labels)}. Use accuracy or "
            "macro_f1."
        )
    both: dict[str, Any] = {}
    if dev is None:
        both = {TOGETHER: data.texts}
        data, dev = hold_out(data)
    with seeded(options.seed):
        network, tokenizer = reread(
            lambda: (
                _prepare(model, labels, options),
                Tokenizer.from_pretrained(model, max_length=max_length),
            ),
            as_path(model),
        )
        keep_ramps(network, model, options)
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
            learn(network, stages(options), training, held, weights_C, run)
            choose = partial(choose_threshold, labels=held.labels_R)
            choice = set_threshold(network, held, options, choose)
            keep_noted(network, rows_noted_in(model))
            note_rows(network, train=data.texts, dev=dev.texts, **both)
            save_run(output, trained, run)
    return trained, TrainingReport(run.log, best_of(run.log), choice)


def _names(data: Table, options: TrainingOptions) -> list[str]:
    """What the model's outputs are called."""
    if options.is_regression:
        return ["LABEL_0"]
    return label_names(data) if options.problem_type == MULTI_LABEL else class_names(data)


def _pairs(table: Table) -> Iterator[object]:
    return zip(table.texts, table.labels or [], strict=True)


def learn(
    model: PretrainedModel,
    plan: Iterable[Stage | RampStage],
    training: EncodedRows[Any],
    dev: EncodedRows[Any],
    weights_C: Tensor | None,
    run: Run,
) -> None:
    """The stages of a plan that are not done; the model has the best weights, in eval mode."""
    for stage in run.stages({stage.name: stage for stage in plan}):
        if isinstance(stage, RampStage):
            if run.group.is_first:  # the body runs once
                train_ramps(model, stage, training, dev, weights_C, run)
            run.group.copy(model)
            run.log = run.group.told(lambda: run.log)
        else:
            train_exits(model, stage, training, dev, weights_C, run)
    model.eval()


def train_exits(
    model: PretrainedModel,
    stage: Stage,
    training: EncodedRows[Any],
    dev: EncodedRows[Any],
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
        at, labels_R = training.learnt(inputs.row_ids_R), training.labels_of(inputs.row_ids_R)
        answers = {depth: _beside(answer, at) for depth, answer in answers.items()}
        logits = {depth: answer.logits_RC.float() for depth, answer in answers.items()}
        of_certainty = certainty_loss(answers, labels_R, weights_C)
        own = stage.loss(logits, labels_R, step, weights_C)
        return own if of_certainty is None else own + of_certainty

    def weigh(which: Sequence[int]) -> float:
        return weight_of(training.labels_of(torch.tensor(which)), weights_C)

    def evaluated() -> dict[str, Any]:
        found = evaluate_exits(model, dev, options.score)
        if stage.backbone_alone:  # the ramps know nothing yet
            last = str(task.stack.n_layers)
            (by_depth,) = (name for name in found if name.endswith("_by_depth"))
            found[by_depth] = {last: found[by_depth][last]}
            found.pop("dev_certainty_accuracy", None)
        return found

    apart = of_ramps if stage.backbone_alone else {id(parameter) for parameter in beside}
    learning = [parameter for parameter in model.parameters() if id(parameter) not in apart]
    if stage.backbone_alone:
        beside = []
    fit(model, Lesson(stage.name, training, learning, loss, weigh, evaluated, beside), run)


def _beside(answer: Answer, at: Tensor | slice) -> Answer:
    """Those of the answers that have a label."""
    sure_R = answer.certainty_R
    return Answer(answer.logits_RC[at], None if sure_R is None else sure_R[at])


def _prepare(model: str | Path, labels: list[str], options: TrainingOptions) -> PretrainedModel:
    model_class = sequence_classifier(model)
    if options.freeze_backbone:  # the head stays too, so it has to be there
        labels = head_labels(model_class.config_class.from_pretrained(model).labels, labels)
    network, report = open_to_train(model_class, model, labels, problem_type=options.problem_type)
    check_head(model, report, options)
    if network.owns_exits:
        _check_own_exits(network, options)
    else:
        add_exits(
            network,
            options.depths,
            pooler=options.pooler,
            queries=options.queries,
            certainty=options.certainty,
        )
    return network


def _check_own_exits(network: PretrainedModel, options: TrainingOptions) -> None:
    """ConfigError for options that exits which the class has by itself cannot have."""
    name = type(network).__name__
    if options.problem_type == "regression":
        raise ConfigError(
            f"The rows of a {name} leave by their entropy, which numbers do not have. Train "
            "another model for regression."
        )
    usual = ("attention", "first")  # what is said where nothing is, and what there is
    if options.depths is not None or options.pooler not in usual or options.certainty:
        raise ConfigError(
            f"A {name} has exits of its own, over the first token after every layer: leave depths, "
            "pooler and certainty out."
        )
