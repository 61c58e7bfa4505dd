"""`offramp.calibrate`: the fastest threshold whose risk is bounded, and a certificate of that."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import offramp
from offramp.errors import ConfigError, DataError, nearest
from offramp.exits.calibration.certificate import Certificate, certify, weights_fingerprint
from offramp.exits.calibration.control import (
    GIVEN,
    METHODS,
    SURE,
    Losses,
    Target,
    bound_of,
    choose,
)
from offramp.exits.calibration.paths import Grounds, layer_path, path_of
from offramp.exits.container import exits_of, task_of
from offramp.exits.criteria import Criterion, check_criterion
from offramp.exits.criteria.task import MULTI_LABEL, SINGLE_LABEL
from offramp.runner.leaving import LeavingModel
from offramp.runner.run import Results
from offramp.runner.sweep import EveryExit, every_exit
from offramp.text.columns import Columns
from offramp.text.tables import Table
from offramp.text.tokenizer import Encoded
from offramp.training.examples import as_table, examples_of
from offramp.training.risks import Loss, Risk, risk_of
from offramp.training.seen import fingerprint_of_texts, noted_rows
from offramp.training.speeds import step_for_speed
from offramp.training.timing import Ratio


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and what is certified of it.

    `mean_layers` is how many a calibration row took, `speed` how many times as fast as the plain
    model it is, where that was asked for.
    """

    criterion: Criterion
    certificate: Certificate
    mean_layers: float
    n_layers: int
    speed: Ratio | None = None

    @property
    def is_full_depth(self) -> bool:
        """Whether no row leaves early: nothing could be certified but all layers."""
        return self.mean_layers == self.n_layers


def calibrate(
    model: LeavingModel[Any],
    data: Table | Columns,
    *,
    max_loss: float = 0.01,
    confidence: float = 0.95,
    method: str = "ltt",
    risk: str | Loss = "disagreement",
    tolerance: float | None = None,
    path: Sequence[Criterion] | None = None,
    tune: Table | Columns | None = None,
    by_layer: bool = False,
    target_speed: float | None = None,
    force: bool = False,
) -> Calibration:
    """Choose the fastest threshold whose risk is at most `max_loss`, set it, and certify that.

    The risk is against the full model, of rows like those of `data`, which must be drawn
    independently from them and be new to the model:
    `disagreement`, the share of rows with another answer (for numbers: further off than
    `tolerance`, in their units); `accuracy`, by how much the share of right answers falls, where
    rows that get right count against those that get wrong; or a function, see `Loss`, which never
    goes below 0 and never above 1.

    `method` is `ltt`, `ucb`, `crc` or `empirical` (`offramp.exits.calibration.control`): by the
    first two the risk is bounded with the probability `confidence` over calibration sets, by crc in
    expectation, by the last not at all.

    What is chosen from is a path: the model's criterion with its threshold from 0 on. `path` may be
    given: criteria in a list, the first of which lets no row leave. With `by_layer` each layer has
    a threshold of its own, along a path that is found on the rows of `tune`, other ones than
    `data`; criteria with a threshold in the logits' own units need those rows too.

    With `target_speed` the slowest threshold is chosen that is so many times as fast as the plain
    model, by the wall clock of this machine, on every second row, and the risk that it has on the
    others is certified: `max_loss` and `method` say nothing then.

    Raises DataError where the rows are too few to certify anything, are those that the model was
    trained on (`force` goes on, and the certificate says so), lack labels, or have one only.
    """
    if not isinstance(model, LeavingModel):
        raise ConfigError(
            "calibrate takes what offramp.load gives for a model that answers each row: a "
            f"Classifier, a MultiLabelClassifier or a Regressor; got a {type(model).__name__}."
        )
    if method not in METHODS:
        raise ConfigError(
            f"A method is one of {', '.join(METHODS)}; got {method!r}. {nearest(method, METHODS)}"
        )
    target, table = Target(max_loss, confidence), as_table(data)
    bounded = risk_of(risk, task_of(model.model), tolerance)
    forced = _check_new(model, table, force)
    rows = _Rows.of(model, table, bounded.needs_labels)
    tuning = None if tune is None else _Rows.of(model, as_table(tune), bounded.needs_labels)
    if tuning is not None and (shared := set(table.texts) & set(tuning.table.texts)):
        raise DataError(
            f"{len(shared)} texts of {table.source} are among the rows to tune on; a path is found "
            "on other rows than those it is held against."
        )
    steps = _path(model, path, tuning, bounded, by_layer)
    if target_speed is None:
        results, losses = _losses(steps, every_exit(model.model, rows.rows), rows.labels, bounded)
        found, speed = choose(losses, target, method), None
    else:
        timed, rows = rows.halves()
        answers = every_exit(model.model, timed.rows)
        said = [answers.apply(criterion) for criterion in steps]
        step, speed = step_for_speed(model.model, steps, said, timed.rows, target_speed)
        results, losses = _losses(steps, every_exit(model.model, rows.rows), rows.labels, bounded)
        found, method = bound_of(losses, target, step), GIVEN
    chosen, layers_R = steps[found.step], results[found.step].exit_layers_R
    exits_of(model.model).criterion = chosen
    certificate = Certificate(
        method=method,
        risk=bounded.name,
        max_risk=max_loss if found.bound is None or method != GIVEN else found.bound,
        confidence=confidence if method in (*SURE, GIVEN) else None,
        rows=len(rows.rows),
        found_risk=found.risk,
        bound=found.bound,
        criterion=chosen.to_dict(),
        left={str(depth): count for depth, count in sorted(Counter(layers_R.tolist()).items())},
        data=fingerprint_of_texts(table.texts),
        weights=weights_fingerprint(model.model),
        date=datetime.date.today().isoformat(),
        versions={"offramp": offramp.__version__, "torch": torch.__version__},
        forced=forced,
    )
    certify(model.model, certificate)
    mean_layers = results[found.step].mean_layers
    return Calibration(chosen, certificate, mean_layers, model.stack.n_layers, speed)


@dataclass(frozen=True)
class _Rows:
    """Rows of a table, as the model takes them."""

    table: Table
    rows: list[Encoded]
    labels: Tensor | None

    @classmethod
    def of(cls, model: LeavingModel[Any], table: Table, needs_labels: bool) -> _Rows:
        if table.labels is not None:
            examples = examples_of(table, model.tokenizer, model.model.config)
            _check_labels(table)
            return cls(table, examples.rows, examples.labels_R)
        if needs_labels:
            raise DataError(
                f"The accuracy's risk needs labels, and {table.source} was read without. Name "
                "their column, or bound the disagreement, which needs none."
            )
        return cls(table, model.tokenizer.encode(table.texts), None)

    def halves(self) -> tuple[_Rows, _Rows]:
        """Every second row, and the others."""
        first, second = (
            _Rows(self.table, self.rows[at::2], None if self.labels is None else self.labels[at::2])
            for at in (0, 1)
        )
        return first, second


def _check_labels(table: Table) -> None:
    """DataError where all rows have the same."""
    labels = set(table.labels or [])
    if len(labels) == 1:
        raise DataError(
            f"All {len(table)} rows of {table.source} have one label, {labels.pop()!r}. Calibrate "
            "on rows like those that will come, which have several."
        )


def _check_new(model: LeavingModel[Any], table: Table, force: bool) -> bool:
    """Whether the model learnt from these rows; DataError then, unless it is to go on."""
    own = fingerprint_of_texts(table.texts)
    seen = [name for name, other in noted_rows(model.model).items() if other == own]
    if seen and not force:
        raise DataError(
            f"{table.source} has the rows of the {seen[0]} set that this model was trained with, "
            "on which it does better than on others. Calibrate on rows that it never saw; "
            "force=True goes on, and the certificate says so."
        )
    return bool(seen)


def _path(
    model: LeavingModel[Any],
    path: Sequence[Criterion] | None,
    tuning: _Rows | None,
    risk: Risk,
    by_layer: bool,
) -> list[Criterion]:
    task = task_of(model.model)
    if path is not None:
        if by_layer or not path:
            raise ConfigError("path= is a list of criteria, and by_layer=True makes one: pass one.")
        for criterion in path:
            check_criterion(criterion).check(task)
        return list(path)
    tuned = None if tuning is None else every_exit(model.model, tuning.rows)
    if not by_layer:
        n_layers = model.stack.n_layers
        classes = 2 if task.kind == MULTI_LABEL else task.n_outputs
        grounds = Grounds(classes, n_layers, None if tuned is None else tuned.logits_ERC)
        return path_of(exits_of(model.model).criterion, grounds)
    if tuned is None or tuning is None:
        raise ConfigError(
            "by_layer=True finds thresholds on rows other than the calibration's: pass them as "
            "tune=."
        )
    if task.kind != SINGLE_LABEL:
        raise ConfigError("by_layer=True is of entropies of classes; this model says others.")
    logits_ERC = tuned.logits_ERC
    lost_XR = [risk.of(own_RC, logits_ERC[-1], tuning.labels) for own_RC in logits_ERC[:-1]]
    # What a row gains is no reason to let another go.
    return layer_path(logits_ERC, torch.stack(lost_XR).clamp(min=0), tuned.depths)


def _losses(
    steps: Sequence[Criterion], answers: EveryExit, labels: Tensor | None, risk: Risk
) -> tuple[list[Results], Losses]:
    """What each step answers and costs; ConfigError for a path that does not begin with nothing."""
    full_RC = answers.logits_ERC[-1]
    results = [answers.apply(criterion) for criterion in steps]
    if bool((results[0].exit_layers_R < answers.depths[-1]).any()):
        raise ConfigError(
            f"A path begins with a criterion that lets no row leave; {steps[0]} lets some."
        )
    losses_PR = torch.stack([risk.of(said.logits_RC, full_RC, labels) for said in results])
    if bool((losses_PR[0] != 0).any()):
        raise ConfigError(f"The loss {risk.name} is not 0 where the full model's answer is given.")
    return results, Losses(losses_PR, risk.binary, risk.least)
