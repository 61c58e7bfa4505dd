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
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from offramp.exits.attach import exits_of, task_of
from offramp.exits.ramps import Ramp
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel, Flow, LayerStack, join, run_layers
from offramp.models.losses import classification_loss
from offramp.nn.layout import Packed
from offramp.runner.rows import microbatches
from offramp.runner.sweep import EveryExit
from offramp.training.certainty import Pooled, is_right, train_regressor
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
    options, task = run.options, cast(ExitableModel, model)
    stack, exits = task.stack, exits_of(model)
    done, losses, seconds = list[int](), list[float](), 0.0
    if kept := run.kept():
        model.load_state_dict(kept.within("model"))
        done, losses, seconds = (kept.values[name] for name in ("done", "losses", "seconds"))
    began = time.monotonic() - seconds
    model.eval()
    own_RC = None
    if stage.distils:
        with autocast(model, options):
            own_RC = _own_answers(task, training).float()
    flows = [_start(stack, training), _start(stack, dev)]
    seen: list[Pooled] = []
    held: list[Tensor] = []
    logits: list[Tensor] = []
    for i in range(stack.n_layers):
        depth = i + 1
        with autocast(model, options):
            flows[0] = _advance(stack, flows[0], i)
        flows[1] = _advance(stack, flows[1], i)
        if depth in exits.depths:
            ramp = exits.ramp(depth)
            learnt, asked = (
                _learnt(stack.finish(flow), examples)
                for flow, examples in zip(flows, (training, dev), strict=True)
            )
            if depth not in done:
                seed = options.seed + depth
                loss = _train_one(
                    model, ramp, stage, learnt, asked, own_RC, weights_C, options, seed
                )
                done.append(depth)
                losses.append(loss)
                reached = {"done": done, "losses": losses, "seconds": time.monotonic() - began}
                run.keep(reached, {f"model/{name}": x for name, x in model.state_dict().items()})
            pooled_RP = _pool(ramp, asked.flow)
            logits.append(_answer(ramp, pooled_RP))
            if exits.certainty is not None:  # those kept pool it again
                held.append(pooled_RP)
                pooled_RP = _pool(ramp, learnt.flow)
                seen.append(Pooled(pooled_RP, is_right(_answer(ramp, pooled_RP), learnt.labels_R)))
        run.show(depth, stack.n_layers)
    certainty_XR = None
    if exits.certainty is not None and seen:
        train_regressor(exits.certainty, seen, options)
        with torch.inference_mode():
            certainty_XR = torch.stack([exits.certainty(pooled_RP)[:, 0] for pooled_RP in held])
    asked = _learnt(stack.finish(flows[1]), dev)
    with torch.inference_mode():
        logits.append(task.logits(asked.flow))
    order_R = torch.argsort(asked.flow.row_ids_R)
    answers = EveryExit(
        (*exits.depths, stack.n_layers),
        torch.stack(logits)[:, order_R],
        task_of(model),
        None if certainty_XR is None else certainty_XR[:, order_R],
    )
    run.tell(
        {
            "stage": stage.name,
            "epoch": options.epochs,
            "step": options.epochs * math.ceil(_n_labels(training) / _BATCH),
            "loss": sum(losses) / max(1, len(losses)),
            **figures(answers, dev, options.score),
            "seconds": round(time.monotonic() - began, 1),
        }
    )


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
def _own_answers(task: ExitableModel, examples: EncodedRows[Any]) -> Tensor:
    """The model's own logits [R, C], rows in order of length, as they are trained on."""
    inputs = examples.inputs(range(len(examples)))
    pieces = microbatches(cast(Packed, inputs.layout), 4096)
    own = [task.logits(run_layers(task.stack, inputs.take(piece))) for piece in pieces]
    return torch.cat(own)[examples.learnt(inputs.row_ids_R)]


@torch.no_grad()
def _pool(ramp: Ramp, flow: Flow) -> Tensor:
    """What a ramp reads of all rows, [R, P]."""
    parts = [ramp.pool(flow.take(rows)) for rows in microbatches(cast(Packed, flow.layout), 4096)]
    return torch.cat(parts)


@torch.no_grad()
def _answer(ramp: Ramp, pooled_RP: Tensor) -> Tensor:
    return ramp.answer(pooled_RP)


@torch.no_grad()
def _start(stack: LayerStack, examples: EncodedRows[Any]) -> Flow:
    inputs = examples.inputs(range(len(examples)))
    pieces = microbatches(cast(Packed, inputs.layout), 4096)
    return join([stack.start(inputs.take(piece)) for piece in pieces])


@torch.no_grad()
def _advance(stack: LayerStack, flow: Flow, i: int) -> Flow:
    """All rows through layer i, a microbatch at a time, over the hidden states that were there."""
    layout = cast(Packed, flow.layout)
    for rows in microbatches(layout, 1024):
        part = flow.take(rows)
        part.hidden.copy_(stack.step(part, i).hidden)  # a slice is a view
    return flow


def _train_one(
    model: PretrainedModel,
    ramp: Ramp,
    stage: RampStage,
    learnt: Learnt,
    asked: Learnt,
    own_RC: Tensor | None,
    weights_C: Tensor | None,
    options: TrainingOptions,
    seed: int,
) -> float:
    """The last mean loss of one ramp, which is left with the weights of its best epoch on dev.

    Between epochs of equal scores the one with the lower dev loss is better.
    """
    flow, labels_R = learnt
    optimizer = torch.optim.AdamW(
        ramp.parameters(), lr=options.ramp_learning_rate, weight_decay=options.weight_decay
    )
    generator = torch.Generator().manual_seed(seed)
    judge = PROBLEMS[options.problem_type].judge
    best, best_weights, mean_loss = (-math.inf, -math.inf), None, math.nan
    for _ in range(options.epochs):
        ramp.train()
        order = torch.randperm(len(labels_R), generator=generator)
        losses: list[float] = []
        for batch in torch.split(order, _BATCH):
            rows = batch.sort().values  # in order of length, as the flow is
            if not weight_of(labels_R[rows], weights_C):
                continue
            with autocast(model, options):
                logits_RC = ramp(flow.take(rows)).float()
                beside_RC = None if own_RC is None else own_RC[rows]
                loss = stage.loss(logits_RC, beside_RC, labels_R[rows], weights_C)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.item())
            check_loss(losses[-1], len(losses))
        mean_loss = sum(losses) / max(1, len(losses))
        ramp.eval()
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
