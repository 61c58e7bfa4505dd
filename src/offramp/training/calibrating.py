"""`offramp.calibrate`: the fastest threshold whose risk is bounded, and a certificate of that."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

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
from offramp.runner.exiting import ExitingModel
from offramp.runner.fingerprint import tokenizer_fingerprint
from offramp.runner.leaving import LeavingModel
from offramp.runner.tagger import Tagger
from offramp.text.columns import Columns
from offramp.text.tables import Table
from offramp.text.tagged import TaggedTable
from offramp.training.calibration_rows import CalibrationRows, rows_of
from offramp.training.risks import Loss
from offramp.training.seen import fingerprint_of_texts, note_rows, noted_rows
from offramp.training.speeds import step_for_speed
from offramp.training.tag_risks import TagLoss
from offramp.training.timing import Ratio


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and what is certified of it.

    With `is_full_depth` no row leaves early: nothing could be certified but all layers. `speed` is
    how many times as fast as the plain model it is, where that was asked for.
    """

    criterion: Criterion
    certificate: Certificate
    n_layers: int
    is_full_depth: bool
    speed: Ratio | None = None

    @property
    def mean_layers(self) -> float:
        """Layers that a calibration row took, on average; of a tagger, a window of tokens."""
        left = {int(depth): count for depth, count in self.certificate.left.items()}
        return sum(depth * count for depth, count in left.items()) / sum(left.values())


def calibrate(
    model: LeavingModel[Any] | Tagger,
    data: Table | TaggedTable | Columns,
    *,
    max_loss: float = 0.01,
    confidence: float = 0.95,
    method: str = "ltt",
    risk: str | Loss | TagLoss = "disagreement",
    tolerance: float | None = None,
    path: Sequence[Criterion] | None = None,
    tune: Table | TaggedTable | Columns | None = None,
    by_layer: bool = False,
    target_speed: float | None = None,
    force: bool = False,
) -> Calibration:
    """Choose the fastest threshold whose risk is at most `max_loss`, set it, and certify that.

    The risk is against the full model, of rows like those of `data`, which must be drawn
    independently from them and be new to the model:
    `disagreement`, the share of rows with another answer (for numbers: further off than
    `tolerance`, in their units); `accuracy`, by how much the share of right answers falls, where
    rows that get right count against those that get wrong; or a function of the logits where rows
    left [R, C], the full model's and the labels, or None, that gives each row's loss [R]: from 0,
    and exactly that where both logits are the same, to 1.

    A tagger's rows are sentences: by `disagreement` one is lost if any of its words has another
    tag; `word-disagreement` is the share of its words that have, and `accuracy` by how much the
    share of right ones falls, each a mean over sentences. A function gets tags in place of logits,
    a list for each sentence.

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
    target, rows = Target(max_loss, confidence), rows_of(model, data, risk, tolerance)
    on_seen_rows = _check_new(rows, force)
    tuning = None if tune is None else rows_of(model, tune, risk, tolerance)
    if tuning is not None:
        tuning.check_apart(rows)
    steps = _path(model, path, tuning, by_layer)
    speed = None
    if target_speed is None:
        tried = _tried(steps, rows)
        found, risk_allowed = choose(tried.losses, target, method), max_loss
    else:
        timed, rows = rows.halves()
        answers = timed.answers()
        layers = [answers.apply(criterion).mean_layers for criterion in steps]
        step, speed = step_for_speed(model.model, steps, layers, timed.encoded, target_speed)
        tried, method = _tried(steps, rows), "speed"
        found = Found(step, tried.losses.values_PR[step].mean().item())
        risk_allowed = bound_of(tried.losses, target, step)
    chosen = steps[found.step]
    exits_of(model.model).criterion = chosen
    certificate = Certificate(
        method=method,
        risk=rows.risk.name,
        max_risk=risk_allowed,
        confidence=confidence if method in (*SURE, "speed") else None,
        rows=len(rows),
        found_risk=found.risk,
        criterion=chosen.to_dict(),
        left={str(depth): count for depth, count in sorted(tried.left[found.step].items())},
        data=fingerprint_of_texts(rows.texts),
        weights=model_fingerprint(model.model),
        tokenizer=tokenizer_fingerprint(model.tokenizer),
        date=datetime.date.today().isoformat(),
        versions={"offramp": offramp.__version__, "torch": torch.__version__},
        on_seen_rows=on_seen_rows,
    )
    certify(model.model, certificate)
    if tuning is not None:
        note_rows(model.model, tune=tuning.texts)
    is_full_depth = not tried.leaves[found.step]
    return Calibration(chosen, certificate, model.stack.n_layers, is_full_depth, speed)


def _check(model: object, method: str) -> None:
    """ConfigError for what cannot be calibrated, or not like that."""
    if not isinstance(model, (LeavingModel, Tagger)):
        raise ConfigError(
            "calibrate takes what offramp.load gives for a model that answers each row: a "
            "Classifier, a MultiLabelClassifier, a Regressor or a Tagger; got a "
            f"{type(model).__name__}."
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


def _check_new(rows: CalibrationRows, force: bool) -> bool:
    """Whether the model learnt from these rows; DataError then, unless it is to go on."""
    own, known = fingerprint_of_texts(rows.texts), noted_rows(rows.model.model)
    seen = [name for name, others in known.items() if own in others]
    if seen and not force:
        raise DataError(
            f"{rows.source} has the rows of the {seen[0]} set that this model was trained with, "
            "on which it does better than on others. Calibrate on rows that it never saw; "
            "force=True (--force) goes on, and the certificate says so."
        )
    return bool(seen)


def _path(
    model: ExitingModel,
    path: Sequence[Criterion] | None,
    tuning: CalibrationRows | None,
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
    tuned = None if tuning is None else tuning.answers()
    if not by_layer:
        n_layers = model.stack.n_layers
        classes = 2 if task.kind == MULTI_LABEL else task.n_outputs
        grounds = Grounds(classes, n_layers, None if tuned is None else tuned.counted().logits_ERC)
        return path_of(exits_of(model.model).criterion, grounds)
    if tuned is None or tuning is None:
        raise ConfigError(
            "A threshold for each layer is found on rows other than the calibration's: pass them "
            "as tune= (--tune)."
        )
    if task.kind != SINGLE_LABEL:
        raise ConfigError("by_layer=True is of entropies of classes; this model says others.")
    return layer_path(*tuning.lost_at_exits(tuned), tuned.depths)


@dataclass(frozen=True)
class _Tried:
    """What each step of a path costs; how many rows leave where, and whether any leaves early."""

    losses: Losses
    left: list[Counter[int]]
    leaves: list[bool]


def _tried(steps: Sequence[Criterion], rows: CalibrationRows) -> _Tried:
    """ConfigError for a path that does not begin with all layers, or never leaves them."""
    answers, asked_R, risk = rows.answers(), rows.asked(), rows.risk
    n_layers = answers.depths[-1]
    full = answers.at(n_layers).logits_RC
    losses, left, leaves = [], list[Counter[int]](), list[bool]()
    for criterion in steps:
        said = answers.apply(criterion)  # and not kept: the logits of all steps are many
        losses.append(rows.losses(said.logits_RC, full))
        left.append(Counter(said.exit_layers_R.tolist()))
        leaves.append(bool((said.exit_layers_R[asked_R] < n_layers).any()))
    if leaves[0]:
        raise ConfigError(
            f"A path begins with a criterion that lets no row leave; {steps[0]} lets some."
        )
    if bool((losses[0] != 0).any()):
        raise ConfigError(f"The loss {risk.name} is not 0 where the full model's answer is given.")
    if not any(leaves):
        raise ConfigError(
            f"No row leaves early by any of {len(steps)} criteria, up to {steps[-1]}: there is "
            "nothing to choose. Set another criterion, or pass a path=."
        )
    return _Tried(Losses(torch.stack(losses), risk.binary, risk.least), left, leaves)
