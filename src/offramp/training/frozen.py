"""Ramps on a frozen backbone, which runs once.

Frozen, the ramps do not know of each other: while layer i's hidden states are in memory, its ramp
is trained on them for all its epochs; then all rows pass layer i + 1. What is held is one
layer's hidden states of the training and dev rows: tokens x width numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch import Tensor

from offramp.exits.attach import exits_of
from offramp.exits.ramps import Ramp
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel, Flow, LayerStack, join
from offramp.models.losses import classification_loss
from offramp.nn.layout import Packed
from offramp.runner.rows import microbatches
from offramp.training.examples import Examples
from offramp.training.metrics import accuracy, finite, scores
from offramp.training.options import SCORE, TrainingOptions

_BATCH = 128  # rows; a step costs little beside the taking of its rows


def train_ramps(
    model: PretrainedModel,
    training: Examples,
    dev: Examples,
    weights_C: Tensor | None,
    options: TrainingOptions,
    progress: Callable[[str, int, int], None],
) -> Iterator[dict[str, Any]]:
    """Train each ramp on its layer's hidden states; yields one log line at the end.

    Each ramp keeps the epoch that was best on dev. The body and the model's head are not touched.
    """
    task = cast(ExitableModel, model)
    stack, exits = task.stack, exits_of(model)
    began = time.monotonic()
    model.eval()
    flows = [_start(stack, training), _start(stack, dev)]
    by_depth: dict[str, float] = {}
    losses: list[float] = []
    for i in range(stack.n_layers):
        depth = i + 1
        flows = [_advance(stack, flow, i) for flow in flows]
        if depth in exits.depths:
            score, loss = _train_one(
                exits.ramp(depth),
                [stack.finish(flow) for flow in flows],
                [training.labels_R, dev.labels_R],
                weights_C,
                options,
                seed=options.seed + depth,
            )
            by_depth[str(depth)] = round(score, 5)
            losses.append(loss)
        progress("train", depth, stack.n_layers)
    with torch.inference_mode():
        finished = stack.finish(flows[1])
        own_R = task.logits(finished).argmax(-1)
    found = scores(own_R, dev.labels_R[finished.row_ids_R], model.config.num_labels)
    by_depth[str(stack.n_layers)] = round(found["accuracy"], 5)
    yield {
        "epoch": options.epochs,
        "step": options.epochs * math.ceil(len(training) / _BATCH),
        "loss": sum(losses) / max(1, len(losses)),
        "score": found[options.score or SCORE],
        "dev": found,
        "dev_accuracy_by_depth": by_depth,
        "seconds": round(time.monotonic() - began, 1),
    }


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
    ramp: Ramp,
    flows: list[Flow],
    labels: list[Tensor],
    weights_C: Tensor | None,
    options: TrainingOptions,
    seed: int,
) -> tuple[float, float]:
    """Best dev accuracy and last mean loss of one ramp, left with its best epoch's weights.

    Between epochs of equal accuracy the one with the lower dev loss is better.
    """
    flow, dev = flows
    labels_R, dev_labels_R = (y[f.row_ids_R] for y, f in zip(labels, (flow, dev), strict=True))
    optimizer = torch.optim.AdamW(
        ramp.parameters(), lr=options.ramp_learning_rate, weight_decay=options.weight_decay
    )
    generator = torch.Generator().manual_seed(seed)
    best, best_weights, mean_loss = (-1.0, -math.inf), None, math.nan
    for _ in range(options.epochs):
        ramp.train()
        order = torch.randperm(len(labels_R), generator=generator)
        losses: list[float] = []
        for batch in torch.split(order, _BATCH):
            rows = batch.sort().values  # in order of length, as the flow is
            logits_RC = ramp(flow.take(rows))
            loss = classification_loss(logits_RC, labels_R[rows], class_weights_C=weights_C)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(finite(loss, len(losses)))
        mean_loss = sum(losses) / len(losses)
        ramp.eval()
        with torch.no_grad():
            logits_RC = ramp(dev)
            dev_loss = classification_loss(logits_RC, dev_labels_R).item()
            score = accuracy(logits_RC.argmax(-1), dev_labels_R), -dev_loss
        if score > best:
            best = score
            best_weights = {k: v.detach().clone() for k, v in ramp.state_dict().items()}
    if best_weights is not None:
        ramp.load_state_dict(best_weights)
    return best[0], mean_loss
