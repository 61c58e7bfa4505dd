"""`offramp.train_tagger`: from a pretrained directory and tagged words to a tagger."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offramp.checkpoints.directory import check_writable
from offramp.errors import CheckpointError, ConfigError, TrainingError
from offramp.models.flow import run_layers
from offramp.models.losses import classification_loss
from offramp.models.registry import find_class, identify
from offramp.runner.head_calls import token_logits
from offramp.runner.tagger import Tagger
from offramp.text.columns import Columns
from offramp.text.tagged import TaggedTable
from offramp.text.tokenizer import Tokenizer
from offramp.training.entities import entity_f1, word_accuracy
from offramp.training.loop import (
    Lesson,
    class_weights,
    fit,
    open_to_train,
    save_run,
    seeded,
    weight_of,
)
from offramp.training.options import TAGGER_SCORE, TrainingOptions
from offramp.training.run import Progress, best_of, open_run
from offramp.training.tagged import (
    NO_LABEL,
    TaggedExamples,
    as_tagged,
    hold_out_sentences,
    known_tags,
    tag_names,
    to_tagged_examples,
)

_OF_EXITS = (
    "certainty",
    "depths",
    "freeze_backbone",
    "gradient_equilibrium",
    "growth",
    "max_loss",
    "pooler",
    "queries",
    "schedule",
)


@dataclass(frozen=True)
class TaggerReport:
    """What a run gave: the metrics log's lines, and that of the best evaluation."""

    log: list[dict[str, Any]]
    best: dict[str, Any]


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

    It is trained at full depth, without exits. `data` and `dev` are tables, or rows in memory with
    the columns `tokens` and `label` (see `TaggedTable.of`). The tags are those of `data`; a word's
    tag is learnt at its first token. Sentences of more than `max_length` tokens are read in
    windows, as in prediction. The best checkpoint by dev score is kept: the F1 of its entities,
    unless `options.score` asks for another. All else is as in `offramp.train`. Raises DataError,
    ConfigError, CheckpointError, SaveError or TrainingError.
    """
    options = options or TrainingOptions()
    for name in _OF_EXITS:
        value = getattr(options, name)
        if value != getattr(TrainingOptions(), name):
            raise ConfigError(f"A tagger has no exits, and {name} is of exits; got {value!r}.")
    if options.problem_type != TrainingOptions.problem_type:
        raise ConfigError(
            f"A tagger gives each word one tag; got problem_type {options.problem_type!r}."
        )
    check_writable(output)
    data, dev = as_tagged(data), None if dev is None else as_tagged(dev)
    labels = tag_names(data)
    if dev is None:
        data, dev = hold_out_sentences(data)
    else:
        known_tags(dev, labels)
    with seeded(options.seed):
        model_type, _ = identify(model)
        model_class = find_class(model_type, "ForTokenClassification")
        network, _ = open_to_train(model_class, model, labels, problem_type=None)
        tagger = Tagger(network, Tokenizer.from_pretrained(model, max_length=max_length))
        training = to_tagged_examples(data, tagger, network.config.label2id)
        weights_C = class_weights(training.class_numbers(), labels, options)
        loss, weigh = _loss(tagger, training, weights_C), _weigh(training, weights_C)
        evaluated = _evaluation(tagger, dev, options.score or TAGGER_SCORE)
        lesson = Lesson("backbone", training, list(network.parameters()), loss, weigh, evaluated)
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
            fit(network, lesson, run)
            network.eval()
            save_run(output, tagger, run.log)
    return tagger, TaggerReport(run.log, best_of(run.log))


def _pairs(table: TaggedTable) -> Iterator[object]:
    return zip(table.words, table.tags or [], strict=True)


def tag_scores(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, float]:
    """`precision`, `recall` and `f1` of entities, `macro_f1` over types; `accuracy` of words."""
    found = entity_f1(gold, predicted)
    types = [scores.f1 for scores in found.by_type.values()]
    return {
        "precision": found.precision,
        "recall": found.recall,
        "f1": found.f1,
        "macro_f1": sum(types) / max(1, len(types)),
        "accuracy": word_accuracy(gold, predicted),
    }


def _loss(
    tagger: Tagger, training: TaggedExamples, weights_C: Tensor | None
) -> Callable[[Sequence[int], int], Tensor]:
    """Mean cross-entropy over the words of a batch."""
    head = token_logits(tagger.model)

    def loss(which: Sequence[int], step: int) -> Tensor:
        inputs = training.inputs(which)
        logits_TC = head(run_layers(tagger.stack, inputs))
        labels_T = training.beside(inputs.row_ids_R)
        return classification_loss(logits_TC.float(), labels_T, class_weights_C=weights_C)

    return loss


def _weigh(training: TaggedExamples, weights_C: Tensor | None) -> Callable[[Sequence[int]], float]:
    """By what the loss of a batch counts: its words."""

    def weigh(which: Sequence[int]) -> float:
        labels_T = training.beside(torch.tensor(which))
        return weight_of(labels_T[labels_T != NO_LABEL], weights_C)

    return weigh


def _evaluation(tagger: Tagger, dev: TaggedTable, score: str) -> Callable[[], dict[str, Any]]:
    """What a log line says of dev, from the tags that `predict_words` gives its words."""

    def evaluated() -> dict[str, Any]:
        tagger.model.eval()
        try:
            predicted = tagger.predict_words(dev.words)
        except CheckpointError as error:
            raise TrainingError(
                "The model's answers are no numbers any more. Lower learning_rate or "
                "ramp_learning_rate."
            ) from error
        found = tag_scores(dev.tags or [], predicted)
        return {"score": found[score], "dev": found}

    return evaluated
