"""`offramp.train_tagger`: from a pretrained directory and tagged words to a tagger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from offramp.checkpoints.directory import check_writable
from offramp.errors import ConfigError
from offramp.exits.attach import add_exits
from offramp.exits.container import exits_of
from offramp.models.base import PretrainedModel
from offramp.models.names import as_path
from offramp.models.registry import find_class, identify
from offramp.runner.tagger import Tagger
from offramp.storage.steady import reread
from offramp.text.columns import Columns
from offramp.text.tagged import TaggedTable
from offramp.text.tokenizer import Tokenizer
from offramp.training.kept import check_head, head_labels, keep_ramps
from offramp.training.loop import class_weights, open_to_train, save_run, seeded
from offramp.training.options import TAGGER_SCHEDULE, TrainingOptions
from offramp.training.run import Progress, best_of, open_run
from offramp.training.schedules import BACKBONE, stages
from offramp.training.seen import TOGETHER, keep_noted, note_rows, rows_noted_in
from offramp.training.tagged import (
    as_tagged,
    hold_out_sentences,
    known_tags,
    tag_names,
    to_tagged_examples,
)
from offramp.training.thresholds import Choice, choose_tagger_threshold, set_threshold
from offramp.training.train import learn

_OF_EXITS = (
    "certainty",
    "freeze_backbone",
    "gradient_equilibrium",
    "growth",
    "max_loss",
    "schedule",
)
_OF_POOLERS = ("pooler", "queries")


@dataclass(frozen=True)
class TaggerReport:
    """What a run gave: the metrics log's lines, the best evaluation's, and the threshold chosen.

    There is no `choice` without exits.
    """

    log: list[dict[str, Any]]
    best: dict[str, Any]
    choice: Choice | None = None


def train_tagger(
    model: str | Path,
    data: TaggedTable | Columns,
    output: str | Path,
    *,
    dev: TaggedTable | Columns | None = None,
    options: TrainingOptions | None = None,
    max_length: int | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    on_evaluation: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[Tagger, TaggerReport]:
    """Fine-tune the model in directory `model` to tag words, and write the tagger to `output`.

    `data` and `dev` are tables, or rows in memory with the columns `tokens` and `label` (see
    `TaggedTable.of`). The tags are those of `data`; a word's tag is learnt at its first token.
    Sentences of more than `max_length` tokens are read in windows, as in prediction. The best
    checkpoint by dev score is kept: the F1 of its entities, unless `options.score` asks for
    another.

    It has exits as a classifier has, by the same schedules, each a ramp over every token; the
    threshold is the fastest that loses at most `options.max_loss` points of dev's F1, smoothed.
    With `depths=()` it is trained at full depth, without any. All else is as in `offramp.train`.
    Raises DataError, ConfigError, CheckpointError, SaveError or TrainingError.
    """
    options = options or TrainingOptions()
    _check(options)
    options = options.scheduled(TAGGER_SCHEDULE)
    check_writable(output)
    data, dev = as_tagged(data), None if dev is None else as_tagged(dev)
    labels = tag_names(data)
    both: dict[str, Any] = {}
    if dev is None:
        both = {TOGETHER: data.words}
        data, dev = hold_out_sentences(data)
    else:
        known_tags(dev, labels)
    with seeded(options.seed):
        network, tokenizer = reread(
            lambda: (
                _prepare(model, labels, options),
                Tokenizer.from_pretrained(model, max_length=max_length),
            ),
            as_path(model),
        )
        keep_ramps(network, model, options)
        labels = list(network.config.labels)
        has_exits = bool(exits_of(network).depths)
        plan = stages(options) if has_exits else (BACKBONE,)
        tagger = Tagger(network, tokenizer)
        training, held = (
            to_tagged_examples(table, tagger, network.config.label2id) for table in (data, dev)
        )
        weights_C = class_weights(training.class_numbers(), labels, options)
        rows = {"data": _pairs(data), "dev": _pairs(dev)}
        with open_run(
            output,
            tagger,
            rows,
            options,
            resume=resume,
            progress=progress,
            on_evaluation=on_evaluation,
        ) as run:
            learn(network, plan, training, held, weights_C, run)
            choice = None
            if has_exits:
                choose = partial(choose_tagger_threshold, examples=held)
                choice = set_threshold(network, held, options, choose)
                keep_noted(network, rows_noted_in(model))
                note_rows(network, train=data.words, dev=dev.words, **both)
            else:
                del network.exits
            save_run(output, tagger, run)
    return tagger, TaggerReport(run.log, best_of(run.log), choice)


def _prepare(model: str | Path, labels: list[str], options: TrainingOptions) -> PretrainedModel:
    model_type, _ = identify(model)
    model_class = find_class(model_type, "ForTokenClassification")
    if options.freeze_backbone:  # the head stays too, so it has to be there
        labels = head_labels(model_class.config_class.from_pretrained(model).labels, labels)
    network, report = open_to_train(model_class, model, labels, problem_type=None)
    check_head(model, report, options)
    add_exits(network, options.depths, certainty=options.certainty)
    return network


def _check(options: TrainingOptions) -> None:
    """ConfigError for options that a tagger has no use for."""
    default = TrainingOptions()
    for name in _OF_POOLERS:
        value = getattr(options, name)
        if value != getattr(default, name):
            raise ConfigError(
                f"A tagger's exits read every token and pool none, and {name} is of poolers; got "
                f"{value!r}. Leave it out."
            )
    for name in _OF_EXITS if options.depths == () else ():
        value = getattr(options, name)
        if value != getattr(default, name):
            raise ConfigError(
                f"With depths=() a tagger has no exits, and {name} is of exits; got {value!r}."
            )
    if options.problem_type != default.problem_type:
        raise ConfigError(
            f"A tagger gives each word one tag; got problem_type {options.problem_type!r}."
        )


def _pairs(table: TaggedTable) -> Iterator[object]:
    return zip(table.words, table.tags or [], strict=True)
