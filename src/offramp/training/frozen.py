"""Ramps on a frozen backbone, which runs once.

Frozen, the ramps do not know of each other: while layer i's hidden states are in memory, its ramp
is trained on them for all its epochs; then all rows pass layer i + 1. What is held is one
layer's hidden states of the training and dev rows: tokens x width numbers.

A regressor of certainty, which all ramps share, learns when they are done, of what each of them
pooled: that is held until then, rows x ramps x what a ramp pools.

Ramps that learn from the model's own answers need those from the first layer on, so the training
rows pass the body once before that: to hold every layer's hidden states would take N times as much.
"""

from __future__ import annotations

import math
import time
from typing import cast

import torch
from torch import Tensor

from offramp.exits.attach import exits_of
from offramp.exits.ramps import Ramp
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel, Flow, LayerStack, join, run_layers
from offramp.models.losses import classification_loss
from offramp.nn.layout import Packed
from offramp.runner.rows import microbatches
from offramp.training.certainty import Pooled, is_right, regressor_accuracy, train_regressor
from offramp.training.examples import Examples
from offramp.training.loop import autocast, weight_of
from offramp.training.metrics import check_loss
from offramp.training.options import SCORES, TrainingOptions
from offramp.training.problems import PROBLEMS
from offramp.training.run import Run
from offramp.training.schedules import RampStage

_BATCH = 128  # rows; a step costs little beside the taking of its rows


def train_ramps(
    model: PretrainedModel,
    stage: RampStage,
    training: Examples,
    dev: Examples,
    weights_C: Tensor | None,
    run: Run,
) -> None:
    """Train each ramp on its layer's hidden states; the run is told one log line at the end.

    Each ramp keeps the epoch that was best on dev; a checkpoint is kept when it is done. The body
    and the model's head are not touched.
    """
    options, task = run.options, cast(ExitableModel, model)
    problem = PROBLEMS[options.problem_type]
    stack, exits = task.stack, exits_of(model)
    by_depth: dict[str, float] = {}
    losses: list[float] = []
    seconds = 0.0
    if kept := run.kept():
        model.load_state_dict(kept.within("model"))
        by_depth, losses, seconds = (kept.values[n] for n in ("by_depth", "losses", "seconds"))
    began = time.monotonic() - seconds
    model.eval()
    own_RC = None
    if stage.distils:
        with autocast(model, options):
            own_RC = _own_answers(task, training).float()
    flows = [_start(stack, training), _start(stack, dev)]
    pooled: tuple[list[Pooled], list[Pooled]] = ([], [])
    for i in range(stack.n_layers):
        depth = i + 1
        with autocast(model, options):
            flows[0] = _advance(stack, flows[0], i)
        flows[1] = _advance(stack, flows[1], i)
        if depth in exits.depths and str(depth) not in by_depth:
            score, loss = _train_one(
                model,
                exits.ramp(depth),
                stage,
                [stack.finish(flow) for flow in flows],
                [training.labels_R, dev.labels_R],
                own_RC,
                weights_C,
                options,
                seed=options.seed + depth,
            )
            by_depth[str(depth)] = round(score, 5)
            losses.append(loss)
            reached = {"by_depth": by_depth, "losses": losses, "seconds": time.monotonic() - began}
            run.keep(reached, {f"model/{name}": x for name, x in model.state_dict().items()})
        if depth in exits.depths and exits.certainty is not None:  # those kept pool it again
            for kept_of, flow, examples in zip(pooled, flows, (training, dev), strict=True):
                kept_of.append(_pooled(exits.ramp(depth), stack.finish(flow), examples))
        run.show(depth, stack.n_layers)
    with torch.inference_mode():
        finished = stack.finish(flows[1])
        own_dev_RC = task.logits(finished)
    found = problem.scores(own_dev_RC, dev.labels_R[finished.row_ids_R])
    by_depth[str(stack.n_layers)] = round(found[problem.measure], 5)
    of_certainty = {}
    if exits.certainty is not None and pooled[0]:
        train_regressor(exits.certainty, pooled[0], options)
        with torch.inference_mode():
            certainty_XR = torch.stack([exits.certainty(x)[:, 0] for x, _ in pooled[1]])
        sure = regressor_accuracy(certainty_XR, torch.stack([right_R for _, right_R in pooled[1]]))
        of_certainty = {"dev_certainty_accuracy": round(sure, 5)}
    run.tell(
        {
            "stage": stage.name,
            "epoch": options.epochs,
            "step": options.epochs * math.ceil(len(training) / _BATCH),
            "loss": sum(losses) / max(1, len(losses)),
            "score": found[options.score or SCORES[options.problem_type][0]],
            "dev": found,
            problem.by_depth: by_depth,
            **of_certainty,
            "seconds": round(time.monotonic() - began, 1),
        }
    )


@torch.no_grad()
def _own_answers(task: ExitableModel, examples: Examples) -> Tensor:
    """The model's own logits [R, C], rows in order of length, as they are trained on."""
    inputs = examples.inputs(range(len(examples)))
    pieces = microbatches(cast(Packed, inputs.layout), 4096)
    return torch.cat([task.logits(run_layers(task.stack, inputs.take(piece))) for piece in pieces])


@torch.no_grad()
def _pooled(ramp: Ramp, flow: Flow, examples: Examples) -> Pooled:
    """What a ramp that is done reads of all rows, and whether it is right about them."""
    parts = [ramp.pool(flow.take(rows)) for rows in microbatches(cast(Packed, flow.layout), 4096)]
    pooled_RP = torch.cat(parts)
    return Pooled(pooled_RP, is_right(ramp.answer(pooled_RP), examples.labels_R[flow.row_ids_R]))


@torch.no_grad()
def _start(stack: LayerStack, examples: Examples) -> Flow:
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
    flows: list[Flow],
    labels: list[Tensor],
    own_RC: Tensor | None,
    weights_C: Tensor | None,
    options: TrainingOptions,
    seed: int,
) -> tuple[float, float]:
    """Best dev score and last mean loss of one ramp, left with its best epoch's weights.

    Between epochs of equal scores the one with the lower dev loss is better.
    """
    flow, dev = flows
    labels_R, dev_labels_R = (y[f.row_ids_R] for y, f in zip(labels, (flow, dev), strict=True))
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
            logits_RC = ramp(dev)
            dev_loss = classification_loss(logits_RC, dev_labels_R).item()
            score = judge(logits_RC, dev_labels_R), -dev_loss
        if score > best:
            best = score
            best_weights = {k: v.detach().clone() for k, v in ramp.state_dict().items()}
    if best_weights is not None:
        ramp.load_state_dict(best_weights)
    return best[0], mean_loss
