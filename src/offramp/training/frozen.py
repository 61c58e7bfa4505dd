"""Ramps on a frozen backbone, which runs once.

Frozen, the ramps do not know of each other: while layer i's hidden states are in memory, its ramp
is trained on them for all its epochs; then all rows pass layer i + 1. What is held is one
layer's hidden states of the training and dev rows: tokens x width numbers. Of a token classifier
those of the tokens that count are copied beside them, and each is a row to its ramp.

A regressor of certainty, which all ramps share, learns when they are done, of what each of them
pooled: that is held until then, rows x ramps x what a ramp pools.

Ramps that learn from the model's own answers need those from the first layer on, so the training
rows pass the body once before that: to hold every layer's hidden states would take N times as much.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from offramp.exits.container import Exits, exits_of, task_of
from offramp.exits.ramps import Ramp
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel, Flow, LayerStack, join, run_layers
from offramp.models.losses import classification_loss
from offramp.nn.layout import Packed
from offramp.runner.rows import microbatches
from offramp.runner.sweep import EveryExit
from offramp.training.certainty import Pooled, is_right, train_regressor, weights_of
from offramp.training.examples import EncodedRows
from offramp.training.loop import autocast, weight_of
from offramp.training.metrics import check_loss
from offramp.training.options import TrainingOptions
from offramp.training.problems import PROBLEMS
from offramp.training.run import Run
from offramp.training.schedules import RampStage
from offramp.training.scoring import figures

_BATCH = 128  # rows, or tokens; a step costs little beside the taking of them


def train_ramps(
    model: PretrainedModel,
    stage: RampStage,
    training: EncodedRows[Any],
    dev: EncodedRows[Any],
    weights_C: Tensor | None,
    run: Run,
) -> None:
    """Train each ramp on its layer's hidden states; the run is told one log line at the end.

    Each ramp keeps the epoch that was best on dev; a checkpoint is kept when it is done. The body
    and the model's head are not touched.
    """
    options, exits = run.options, exits_of(model)
    stack = cast(ExitableModel, model).stack
    reached = _reached(model, run)
    began = time.monotonic() - reached.seconds
    model.eval()
    own_RC = _own_answers(model, training, options) if stage.distils else None
    lesson = _Lesson(model, stage, options, weights_C, own_RC)
    said = _Said(weights_C)
    for depth, flows in _by_depth(model, (training, dev), options):
        if depth in exits.depths:
            learnt = _learnt(stack.finish(flows[0]), training)
            asked = _learnt(stack.finish(flows[1]), dev)
            if depth not in reached.done:
                reached.losses.append(_train_one(exits.ramp(depth), lesson, learnt, asked, depth))
                reached.done.append(depth)
                reached.seconds = time.monotonic() - began
                tensors = {f"model/{name}": x for name, x in model.state_dict().items()}
                run.keep(asdict(reached), tensors)
            said.add(exits, depth, learnt, asked)
        run.show(depth, stack.n_layers)
    answers = said.answers(model, _learnt(stack.finish(flows[1]), dev).flow, options)
    run.tell(
        {
            "stage": stage.name,
            "epoch": options.epochs,
            "step": options.epochs * math.ceil(_n_labels(training) / _BATCH),
            "loss": sum(reached.losses) / max(1, len(reached.losses)),
            **figures(answers, dev, options.score),
            "seconds": round(time.monotonic() - began, 1),
        }
    )


@dataclass
class _Reached:
    """How far a stage is; what a checkpoint has of it beside the model."""

    done: list[int]
    losses: list[float]
    seconds: float


def _reached(model: PretrainedModel, run: Run) -> _Reached:
    """From a checkpoint, whose weights the model gets, if there is one."""
    kept = run.kept()
    if kept is None:
        return _Reached([], [], 0.0)
    model.load_state_dict(kept.within("model"))
    return _Reached(*(kept.values[part.name] for part in fields(_Reached)))


@dataclass(frozen=True)
class _Lesson:
    """What all ramps of a stage learn by; `own_RC` are the model's own answers where it distils."""

    model: PretrainedModel
    stage: RampStage
    options: TrainingOptions
    weights_C: Tensor | None
    own_RC: Tensor | None


@dataclass
class _Said:
    """What the ramps say when they have learnt: logits of dev's rows, ramp by ramp.

    Where they have a regressor of certainty, what it learns from, and what it is asked about then.
    """

    weights_C: Tensor | None = None
    logits: list[Tensor] = field(default_factory=list)
    seen: list[Pooled] = field(default_factory=list)
    held: list[Tensor] = field(default_factory=list)

    def add(self, exits: Exits, depth: int, learnt: Learnt, asked: Learnt) -> None:
        """Ask the ramp after `depth` layers."""
        ramp = exits.ramp(depth)
        pooled_RP = _pool(ramp, asked.flow)
        self.logits.append(_answer(ramp, pooled_RP))
        if exits.certainty is not None:
            self.held.append(pooled_RP)
            pooled_RP = _pool(ramp, learnt.flow)
            right_R = is_right(_answer(ramp, pooled_RP), learnt.labels_R)
            counts_R = weights_of(learnt.labels_R, self.weights_C)
            self.seen.append(Pooled(pooled_RP, right_R, counts_R))

    def answers(self, model: PretrainedModel, flow: Flow, options: TrainingOptions) -> EveryExit:
        """With the head's answers to the last layer's `flow`, once the regressor has learnt too."""
        task, exits = cast(ExitableModel, model), exits_of(model)
        order_R, certainty_XR = torch.argsort(flow.row_ids_R), None
        if exits.certainty is not None and self.seen:
            train_regressor(exits.certainty, self.seen, options)
            with torch.inference_mode():
                sure = [exits.certainty(pooled_RP)[:, 0] for pooled_RP in self.held]
                certainty_XR = torch.stack(sure)[:, order_R]
        with torch.inference_mode():
            logits_ERC = torch.stack([*self.logits, task.logits(flow)])
        depths = (*exits.depths, task.stack.n_layers)
        return EveryExit(depths, logits_ERC[:, order_R], task_of(model), certainty_XR)


class Learnt(NamedTuple):
    """What a ramp reads of a finished flow, and the labels beside it: rows, or tokens as rows."""

    flow: Flow
    labels_R: Tensor


def _learnt(flow: Flow, examples: EncodedRows[Any]) -> Learnt:
    """Of a token classifier the tokens that count, called by their places in the rows' order."""
    at, labels_R = examples.learnt(flow.row_ids_R), examples.labels_of(flow.row_ids_R)
    if isinstance(at, slice):
        return Learnt(flow, labels_R)
    of_row_T = flow.row_ids_R.repeat_interleave(cast(Packed, flow.layout).lengths_R)
    places_R = torch.argsort(torch.argsort(of_row_T[at], stable=True))
    layout = Packed.of(torch.ones_like(at))
    return Learnt(Flow(flow.hidden[at], layout, places_R, torch.zeros_like(at)), labels_R)


def _n_labels(examples: EncodedRows[Any]) -> int:
    return len(examples.labels_of(torch.arange(len(examples))))


@torch.no_grad()
def _own_answers(
    model: PretrainedModel, examples: EncodedRows[Any], options: TrainingOptions
) -> Tensor:
    """The model's own logits [R, C], rows in order of length, as they are trained on."""
    task, inputs = cast(ExitableModel, model), examples.inputs(range(len(examples)))
    pieces = microbatches(cast(Packed, inputs.layout), 4096)
    with autocast(model, options):
        own = [task.logits(run_layers(task.stack, inputs.take(piece))) for piece in pieces]
        return torch.cat(own)[examples.learnt(inputs.row_ids_R)].float()


@torch.no_grad()
def _pool(ramp: Ramp, flow: Flow) -> Tensor:
    """What a ramp reads of all rows, [R, P]."""
    parts = [ramp.pool(flow.take(rows)) for rows in microbatches(cast(Packed, flow.layout), 4096)]
    return torch.cat(parts)


@torch.no_grad()
def _answer(ramp: Ramp, pooled_RP: Tensor) -> Tensor:
    return ramp.answer(pooled_RP)


def _by_depth(
    model: PretrainedModel,
    sets: tuple[EncodedRows[Any], EncodedRows[Any]],
    options: TrainingOptions,
) -> Iterator[tuple[int, list[Flow]]]:
    """Training and dev rows after each layer in turn, each over the one before; depths from 1."""
    stack = cast(ExitableModel, model).stack
    flows = [_start(stack, examples) for examples in sets]
    for i in range(stack.n_layers):
        with autocast(model, options):
            _advance(stack, flows[0], i)
        _advance(stack, flows[1], i)
        yield i + 1, flows


@torch.no_grad()
def _start(stack: LayerStack, examples: EncodedRows[Any]) -> Flow:
    inputs = examples.inputs(range(len(examples)))
    pieces = microbatches(cast(Packed, inputs.layout), 4096)
    return join([stack.start(inputs.take(piece)) for piece in pieces])


@torch.no_grad()
def _advance(stack: LayerStack, flow: Flow, i: int) -> None:
    """All rows through layer i, a microbatch at a time, over the hidden states that were there."""
    layout = cast(Packed, flow.layout)
    for rows in microbatches(layout, 1024):
        part = flow.take(rows)
        part.hidden.copy_(stack.step(part, i).hidden)  # a slice is a view


def _train_one(ramp: Ramp, lesson: _Lesson, learnt: Learnt, asked: Learnt, depth: int) -> float:
    """The last mean loss of one ramp, which is left with the weights of its best epoch on dev.

    Between epochs of equal scores the one with the lower dev loss is better.
    """
    options, judge = lesson.options, PROBLEMS[lesson.options.problem_type].judge
    optimizer = torch.optim.AdamW(
        ramp.parameters(), lr=options.ramp_learning_rate, weight_decay=options.weight_decay
    )
    generator = torch.Generator().manual_seed(options.seed + depth)
    best, best_weights, mean_loss = (-math.inf, -math.inf), None, math.nan
    for _ in range(options.epochs):
        mean_loss = _epoch(ramp, lesson, learnt, optimizer, generator)
        with torch.no_grad():
            logits_RC = ramp(asked.flow)
            dev_loss = classification_loss(logits_RC, asked.labels_R).item()
            score = judge(logits_RC, asked.labels_R), -dev_loss
        if score > best:
            best = score
            best_weights = {k: v.detach().clone() for k, v in ramp.state_dict().items()}
    if best_weights is not None:
        ramp.load_state_dict(best_weights)
    return mean_loss


def _epoch(
    ramp: Ramp,
    lesson: _Lesson,
    learnt: Learnt,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> float:
    """The mean loss of its batches; the ramp is in eval mode afterwards."""
    flow, labels_R = learnt
    ramp.train()
    losses: list[float] = []
    for batch in torch.split(torch.randperm(len(labels_R), generator=generator), _BATCH):
        rows = batch.sort().values  # in order of length, as the flow is
        if not weight_of(labels_R[rows], lesson.weights_C):
            continue
        with autocast(lesson.model, lesson.options):
            logits_RC = ramp(flow.take(rows)).float()
            own_RC = None if lesson.own_RC is None else lesson.own_RC[rows]
            loss = lesson.stage.loss(logits_RC, own_RC, labels_R[rows], lesson.weights_C)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        check_loss(losses[-1], len(losses))
    ramp.eval()
    return sum(losses) / max(1, len(losses))
