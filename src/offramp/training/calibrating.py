"""`offramp.calibrate`: the fastest threshold whose risk is bounded, and a certificate of that."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

import offramp
from offramp.errors import ConfigError, DataError, nearest
from offramp.exits.calibration.certificate import Certificate, certify, model_fingerprint
from offramp.exits.calibration.control import (
    METHODS,
    SURE,
    Found,
    Losses,
    Target,
    bound_of,
    choose,
)
from offramp.exits.calibration.paths import Grounds, layer_path, path_of
from offramp.exits.container import OwnedExits, exits_of, task_of
from offramp.exits.criteria import Criterion, check_criterion
from offramp.exits.criteria.task import MULTI_LABEL, SINGLE_LABEL
from offramp.runner.fingerprint import tokenizer_fingerprint
from offramp.runner.leaving import LeavingModel
from offramp.runner.sweep import EveryExit, every_exit
from offramp.text.columns import Columns
from offramp.text.tables import Table
from offramp.text.tokenizer import Encoded
from offramp.training.examples import as_table, examples_of
from offramp.training.risks import Loss, Risk, risk_of
from offramp.training.seen import fingerprint_of_texts, note_rows, noted_rows
from offramp.training.speeds import step_for_speed
from offramp.training.timing import Ratio


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and what is certified of it.

    `speed` is how many times as fast as the plain model it is, where that was asked for.
    """

    criterion: Criterion
    certificate: Certificate
    n_layers: int
    speed: Ratio | None = None

    @property
    def mean_layers(self) -> float:
        """Layers that a calibration row took, on average."""
        layers = sum(int(depth) * count for depth, count in self.certificate.left.items())
        return layers / self.certificate.rows

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
    _check(model, method)
    target, table = Target(max_loss, confidence), as_table(data)
    bounded = risk_of(risk, task_of(model.model), tolerance)
    on_seen_rows = _check_new(model, table, force)
    rows = _Rows.of(model, table, bounded)
    tuning = None if tune is None else _Rows.of(model, as_table(tune), bounded)
    if tuning is not None and (shared := set(table.texts) & set(tuning.table.texts)):
        raise DataError(
            f"{len(shared)} texts of {table.source} are among the rows to tune on; a path is found "
            "on other rows than those it is held against."
        )
    steps = _path(model, path, tuning, bounded, by_layer)
    speed = None
    if target_speed is None:
        tried = _tried(model, steps, rows, bounded)
        found, risk_allowed = choose(tried.losses, target, method), max_loss
    else:
        timed, rows = rows.halves()
        answers = _answers(model, timed)
        said = [answers.apply(criterion) for criterion in steps]
        step, speed = step_for_speed(model.model, steps, said, timed.rows, target_speed)
        tried, method = _tried(model, steps, rows, bounded), "speed"
        found = Found(step, tried.losses.values_PR[step].mean().item())
        risk_allowed = bound_of(tried.losses, target, step)
    chosen = steps[found.step]
    exits_of(model.model).criterion = chosen
    certificate = Certificate(
        method=method,
        risk=bounded.name,
        max_risk=risk_allowed,
        confidence=confidence if method in (*SURE, "speed") else None,
        rows=len(rows.rows),
        found_risk=found.risk,
        criterion=chosen.to_dict(),
        left={str(depth): count for depth, count in sorted(tried.left[found.step].items())},
        data=fingerprint_of_texts(rows.table.texts),
        weights=model_fingerprint(model.model),
        tokenizer=tokenizer_fingerprint(model.tokenizer),
        date=datetime.date.today().isoformat(),
        versions={"offramp": offramp.__version__, "torch": torch.__version__},
        on_seen_rows=on_seen_rows,
    )
    certify(model.model, certificate)
    if tuning is not None:
        note_rows(model.model, tune=tuning.table.texts)
    return Calibration(chosen, certificate, model.stack.n_layers, speed)


def _check(model: object, method: str) -> None:
    """ConfigError for what cannot be calibrated, or not like that."""
    if not isinstance(model, LeavingModel):
        raise ConfigError(
            "calibrate takes what offramp.load gives for a model that answers each row: a "
            f"Classifier, a MultiLabelClassifier or a Regressor; got a {type(model).__name__}."
        )
    if isinstance(exits_of(model.model), OwnedExits):
        raise ConfigError(
            f"A {type(model.model).__name__} keeps its thresholds by rules of its own. Open its "
            "directory with offramp.load, as a model with exits like any other, and calibrate that."
        )
    if method not in METHODS:
        raise ConfigError(
            f"A method is one of {', '.join(METHODS)}; got {method!r}. {nearest(method, METHODS)}"
        )


@dataclass(frozen=True)
class _Rows:
    """Rows of a table, as the model takes them."""

    table: Table
    rows: list[Encoded]
    labels: Tensor | None

    @classmethod
    def of(cls, model: LeavingModel[Any], table: Table, risk: Risk) -> _Rows:
        _check_rows(table)
        if table.labels is None and risk.needs_labels:
            raise DataError(
                f"The accuracy's risk needs labels, and {table.source} was read without. Name "
                "their column, or bound the disagreement, which needs none."
            )
        if table.labels is None or not risk.takes_labels:
            return cls(table, model.tokenizer.encode(table.texts), None)
        examples = examples_of(table, model.tokenizer, model.model.config)
        return cls(table, examples.rows, examples.labels_R)

    def halves(self) -> tuple[_Rows, _Rows]:
        """Two halves by chance, the same for as many rows."""
        if len(self.rows) < 2:
            raise DataError(
                f"{self.table.source} has one row; a speed is found on one half of the rows, and "
                "its risk on the other."
            )
        generator = torch.Generator().manual_seed(len(self.rows))
        order = torch.randperm(len(self.rows), generator=generator).tolist()
        middle = len(order) // 2
        first, second = (self._taken(sorted(own)) for own in (order[:middle], order[middle:]))
        return first, second

    def _taken(self, which: list[int]) -> _Rows:
        table = replace(self.table, texts=[self.table.texts[i] for i in which], labels=None)
        labels = None if self.labels is None else self.labels[which]
        return _Rows(table, [self.rows[i] for i in which], labels)


def _check_rows(table: Table) -> None:
    """DataError where there are none, or all have the same label."""
    if not table.texts:
        raise DataError(f"{table.source} has no rows.")
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
        if by_layer:
            raise ConfigError("by_layer=True makes a path, and path= is one: pass one of them.")
        given = list(path)
        if not given:
            raise ConfigError("path= is a list of criteria, at least one; got none.")
        for criterion in given:
            check_criterion(criterion).check(task)
        return given
    tuned = None if tuning is None else _answers(model, tuning)
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


@dataclass(frozen=True)
class _Tried:
    """What each step of a path costs, and how many rows leave where."""

    losses: Losses
    left: list[Counter[int]]


def _tried(model: LeavingModel[Any], steps: Sequence[Criterion], rows: _Rows, risk: Risk) -> _Tried:
    """ConfigError for a path that does not begin with all layers, or never leaves them."""
    answers = _answers(model, rows)
    full_RC, n_layers = answers.logits_ERC[-1], answers.depths[-1]
    losses, left = [], []
    for criterion in steps:
        said = answers.apply(criterion)  # and not kept: the logits of all steps are many
        losses.append(risk.of(said.logits_RC, full_RC, rows.labels))
        left.append(Counter(said.exit_layers_R.tolist()))
    if set(left[0]) != {n_layers}:
        raise ConfigError(
            f"A path begins with a criterion that lets no row leave; {steps[0]} lets some."
        )
    if bool((losses[0] != 0).any()):
        raise ConfigError(f"The loss {risk.name} is not 0 where the full model's answer is given.")
    if all(set(counts) == {n_layers} for counts in left):
        raise ConfigError(
            f"No row leaves early by any of {len(steps)} criteria, up to {steps[-1]}: there is "
            "nothing to choose. Set another criterion, or pass a path=."
        )
    return _Tried(Losses(torch.stack(losses), risk.binary, risk.least), left)


def _answers(model: LeavingModel[Any], rows: _Rows) -> EveryExit:
    """Every exit's; CheckpointError where the model's own are no numbers."""
    answers = every_exit(model.model, rows.rows)
    model.check_finite(answers.logits_ERC[-1])
    return answers
