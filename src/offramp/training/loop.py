"""What training runs of every task share: the loop over batches, its rates, and the save."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from offramp.checkpoints.directory import staged
from offramp.errors import ConfigError, nearest
from offramp.models.base import PretrainedModel
from offramp.models.loading import LoadingReport
from offramp.models.opening import Opening, open_model
from offramp.runner.text_model import TextModel
from offramp.training.examples import EncodedRows, batches
from offramp.training.metrics import finite
from offramp.training.options import TrainingOptions

LOG_FILE = "metrics.jsonl"

Progress = Callable[[str, int, int], None]
"""Told the stage, how much of it is done, and how much there is."""

Line = dict[str, Any]
"""One evaluation, as the metrics log has it."""


@dataclass(frozen=True)
class Lesson:
    """What one stage of a run learns.

    `loss` is that of a batch of row numbers at a step (from 1), [], for a model in training mode.
    `evaluate` puts the model into eval mode and gives a log line's figures, of which `score`
    decides. `parameters` are those that learn.
    """

    stage: str
    training: EncodedRows[Any]
    parameters: list[nn.Parameter]
    loss: Callable[[Sequence[int], int], Tensor]
    evaluate: Callable[[], Line]


def fit(
    model: PretrainedModel, lesson: Lesson, options: TrainingOptions, progress: Progress
) -> Iterator[Line]:
    """Train the model; yields a log line an evaluation.

    At the end the model has the weights of the best evaluation, the earliest of equals.
    """
    training = lesson.training
    generator = torch.Generator().manual_seed(options.seed)
    an_epoch = math.ceil(len(training) / options.batch_size)
    total = an_epoch * options.epochs
    every = math.ceil(an_epoch / options.evaluations_per_epoch)
    optimizer, schedule = _optimizer(model, lesson.parameters, options, total)
    best_score, best_weights, since_best = -math.inf, None, 0
    step, losses, began = 0, [], time.monotonic()
    for epoch in range(1, options.epochs + 1):
        for which in batches(training, options.batch_size, generator):
            model.train()
            step += 1
            batch_loss = lesson.loss(which, step)
            losses.append(finite(batch_loss, step))
            optimizer.zero_grad()
            batch_loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(lesson.parameters, 1.0)
            optimizer.step()
            schedule.step()
            progress("train", step, total)
            in_epoch = step - (epoch - 1) * an_epoch
            if in_epoch % every and in_epoch != an_epoch:
                continue
            line = {
                "stage": lesson.stage,
                "epoch": epoch,
                "step": step,
                "loss": sum(losses) / len(losses),
                **lesson.evaluate(),
                "seconds": round(time.monotonic() - began, 1),
            }
            losses = []
            yield line
            if line["score"] > best_score:
                best_score, since_best = line["score"], 0
                best_weights = {k: v.detach().clone() for k, v in model.state_dict().items()}
            else:
                since_best += 1
                if since_best >= options.patience:
                    break
        else:
            continue
        break
    assert best_weights is not None  # there is an evaluation at the end of each epoch
    model.load_state_dict(best_weights)


def told(lines: Iterable[Line], on_evaluation: Callable[[Line], None] | None) -> list[Line]:
    """All lines; `on_evaluation` is told each as it is made."""
    log = []
    for line in lines:
        log.append(line)
        if on_evaluation is not None:
            on_evaluation(line)
    return log


def best_of(log: Sequence[Line]) -> Line:
    """The line whose weights a run ends with: the best of its last stage."""
    last = [line for line in log if line["stage"] == log[-1]["stage"]]
    return max(last, key=lambda line: line["score"])  # the earliest


def save_run(output: str | Path, model: TextModel, log: Sequence[Line]) -> None:
    """Write the model, its tokenizer and the metrics log; the directory is there whole or not."""
    lines = "".join(json.dumps(line) + "\n" for line in log)
    with staged(output) as fresh:
        model.write_files(fresh)
        (fresh / LOG_FILE).write_text(lines, encoding="utf-8")


def open_to_train(
    model_class: type[PretrainedModel], directory: str | Path, labels: list[str], **settings: Any
) -> tuple[PretrainedModel, LoadingReport]:
    """The model of a directory in float32, without exits, its head made for these labels.

    A head that has another number of outputs, or is not there, is new. `settings` are the
    configuration's.
    """
    config = model_class.config_class.from_pretrained(
        directory, id2label=dict(enumerate(labels)), exits=None, **settings
    )
    opening = Opening(config=config, dtype=torch.float32, ignore_mismatched_sizes=True)
    return open_model(model_class, directory, opening)


def class_weights(labels_N: Tensor, names: list[str], options: TrainingOptions) -> Tensor | None:
    """Loss weights [C], or None for equal ones; `labels_N` are the training data's."""
    wanted = options.class_weights
    if wanted is None:
        return None
    if wanted == "balanced":
        counts = Counter(labels_N.tolist())
        return torch.tensor(
            [len(labels_N) / (len(names) * max(1, counts[i])) for i in range(len(names))]
        )
    assert not isinstance(wanted, str)  # checked by the options
    for label in wanted:
        if label not in names:
            raise ConfigError(f"class_weights names {label!r}. {nearest(label, names)}")
    return torch.tensor([float(wanted.get(label, 1.0)) for label in names])


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's random numbers from `seed` on, and afterwards those of before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def named(progress: Progress, stage: str) -> Progress:
    """Progress of one stage of several."""
    return lambda what, done, total: progress(f"{what} {stage}", done, total)


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody asked for."""


def _optimizer(
    model: PretrainedModel, parameters: list[nn.Parameter], options: TrainingOptions, total: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    body = {id(p) for p in model.base_model.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in parameters:
        decays = parameter.dim() > 1  # biases and norms are not pulled to zero
        groups.setdefault((id(parameter) in body, decays), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {
                "params": group,
                "lr": options.learning_rate if of_body else options.ramp_learning_rate,
                "weight_decay": options.weight_decay if decays else 0.0,
            }
            for (of_body, decays), group in groups.items()
        ],
        fused=True,  # the embedding's update costs as much as a forward otherwise
    )
    rising = max(1, round(total * options.warmup))

    def rate(step: int) -> float:
        return min((step + 1) / rising, max(0.0, (total - step) / max(1, total - rising)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
