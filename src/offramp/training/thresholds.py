"""Choosing a threshold on held-out rows by a rule fixed beforehand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from offramp.errors import ConfigError
from offramp.exits.container import exits_of
from offramp.exits.criteria import AllOf, Criterion, Entropy, RegressionPatience
from offramp.exits.criteria.task import SINGLE_LABEL
from offramp.models.base import PretrainedModel
from offramp.runner.leaving import LeavingModel
from offramp.runner.run import Results
from offramp.runner.sweep import EveryExit, every_exit
from offramp.text.columns import Columns
from offramp.text.tables import Table
from offramp.training.entities import entity_f1
from offramp.training.examples import EncodedRows, as_table, examples_of
from offramp.training.options import TrainingOptions
from offramp.training.problems import PROBLEMS, Chosen
from offramp.training.scoring import finite
from offramp.training.seen import keep_noted, note_rows, noted_rows
from offramp.training.tagged import TaggedExamples


def default_growth(n_layers: int) -> float:
    """1.5 a layer for six layers, and for others what comes to as much over the whole depth.

    At most 10, the most that `Entropy` takes (a model of one layer has no exits to grow between).
    """
    return min(10.0, round(float(1.5 ** (6 / n_layers)), 4))


@dataclass(frozen=True)
class Choice:
    """What was chosen, and what it gave on the rows it was chosen on.

    `score` and that at full depth are the `measure`: accuracy, micro F1 where a row has any number
    of labels, a regression's Pearson correlation, or the F1 of a tagger's entities.
    """

    criterion: Chosen
    measure: str
    score: float
    full_score: float
    mean_layers: float

    @property
    def threshold(self) -> float:
        """The criterion's."""
        one = self.criterion
        return _threshold(one.of[0] if isinstance(one, AllOf) else one)


def choose_threshold(
    answers: EveryExit, labels: Tensor, max_loss: float, growth: float = 1.0
) -> Choice:
    """The fastest threshold of the grid whose smoothed loss is at most `max_loss` points.

    `growth` is the criterion's (see `Entropy`). The loss is of accuracy (of the other measures of
    `Choice`, times 100) against the full depth on the same rows. On a few hundred rows it is noise
    as much as loss, and the luckiest threshold would be picked; so the losses are first made
    monotone in the threshold by isotonic regression, which averages neighbours: the loss counted at
    the chosen threshold itself may be above or below. Threshold 0 loses nothing, so there always is
    one. Of criteria of several kinds (those of numbers may ask from any depth on) the fastest is
    taken. This is a point estimate and guarantees nothing.
    """
    problem = PROBLEMS[SINGLE_LABEL if answers.task is None else answers.task.kind]

    def judge(results: Results) -> float:
        return problem.judge(results.logits_RC, labels)

    return _choose(answers, judge, problem.measure, max_loss, growth)


def choose_tagger_threshold(
    answers: EveryExit, examples: TaggedExamples, max_loss: float, growth: float = 1.0
) -> Choice:
    """As `choose_threshold`, by the F1 of the entities that a tagger finds in these examples."""

    def judge(results: Results) -> float:
        return entity_f1(examples.gold, examples.tags_in(results)).f1

    return _choose(answers, judge, "f1", max_loss, growth)


def _choose(
    answers: EveryExit,
    judge: Callable[[Results], float],
    measure: str,
    max_loss: float,
    growth: float,
) -> Choice:
    """`judge` gives the `measure` of answers, at most 1."""
    if not max_loss >= 0:
        raise ConfigError(f"max_loss is in points of dev's score, at least 0; got {max_loss}.")
    problem = PROBLEMS[SINGLE_LABEL if answers.task is None else answers.task.kind]
    full = judge(answers.at(answers.depths[-1]))
    best = []
    for criteria in problem.criteria(answers, growth):
        choices = []
        for criterion in criteria:
            results = answers.apply(criterion)
            choices.append(Choice(criterion, measure, judge(results), full, results.mean_layers))
        losses = isotonic([(full - choice.score) * 100 for choice in choices])
        allowed = [c for c, loss in zip(choices, losses, strict=True) if loss <= max_loss + 1e-9]
        best.append(allowed[-1] if allowed else choices[0])  # pooled, even 0 may seem to lose
    return min(best, key=lambda choice: choice.mean_layers)


def _threshold(criterion: Criterion) -> float:
    assert isinstance(criterion, (Entropy, RegressionPatience))
    return criterion.threshold


def set_threshold(
    model: PretrainedModel, held: EncodedRows[Any], options: TrainingOptions, choose: Chooser
) -> Choice:
    """Choose the threshold of a model's exits on held-out rows, as `choose` does, and set it."""
    answers, exits = finite(every_exit(model, held.asked())), exits_of(model)
    growth = default_growth(answers.depths[-1]) if options.growth is None else options.growth
    choice = choose(answers, max_loss=options.max_loss, growth=growth)
    known = noted_rows(model)
    exits.criterion = choice.criterion
    exits.calibration = calibration(choice, options.max_loss, len(held))
    keep_noted(model, known)
    return choice


class Chooser(Protocol):
    """`choose_threshold`, or another task's, that knows the labels."""

    def __call__(self, answers: EveryExit, *, max_loss: float, growth: float) -> Choice: ...


def recalibrate(
    classifier: LeavingModel[Any],
    dev: Table | Columns,
    max_loss: float = 0.25,
    growth: float | None = None,
) -> Choice:
    """Choose the threshold of a model's exits anew, on labelled rows, and set it.

    For a `Classifier` or a `Regressor` whose logits have changed since, such as
    `classifier.prepared(int8=True)`; the rule is that of training, `choose_threshold`. Raises
    ConfigError for a model without exits.
    """
    exits = exits_of(classifier.model)
    table = as_table(dev)
    held = examples_of(table, classifier.tokenizer, classifier.model.config)
    answers = every_exit(classifier.model, held.rows)
    growth = default_growth(answers.depths[-1]) if growth is None else growth
    choice = choose_threshold(answers, held.labels_R, max_loss, growth)
    known = noted_rows(classifier.model)
    exits.criterion, exits.calibration = choice.criterion, calibration(choice, max_loss, len(held))
    keep_noted(classifier.model, known)
    note_rows(classifier.model, dev=table.texts)
    return choice


def calibration(choice: Choice, max_loss: float, n_rows: int) -> dict[str, Any]:
    """What a model's configuration keeps of how its threshold was chosen."""
    return {
        "rule": "fastest on dev by isotonic regression of the loss; no guarantee",
        "max_loss": max_loss,
        "rows": n_rows,
        **dataclasses.asdict(choice),
    }


def isotonic(values: Sequence[float]) -> list[float]:
    """The nearest non-decreasing sequence in squared distance, by pooling adjacent violators.

    Ayer et al. 1955, "An empirical distribution function for sampling with incomplete information".
    """
    pools: list[tuple[float, int]] = []  # mean, how many
    for value in values:
        mean, count = value, 1
        while pools and pools[-1][0] > mean:
            before, n = pools.pop()
            mean, count = (before * n + mean * count) / (n + count), n + count
        pools.append((mean, count))
    return [mean for mean, count in pools for _ in range(count)]
