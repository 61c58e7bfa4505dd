"""What training runs of every task share: the loop over batches, its rates, and the save."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from offramp.checkpoints.directory import staged
from offramp.errors import ConfigError, nearest
from offramp.models.base import PretrainedModel
from offramp.models.loading import LoadingReport
from offramp.models.names import as_path
from offramp.models.opening import Opening, open_model
from offramp.runner.text_model import WHOLE, TextModel
from offramp.storage.steady import reread
from offramp.training.checkpoint import Checkpoint
from offramp.training.examples import EncodedRows, batches
from offramp.training.metrics import check_loss
from offramp.training.options import TrainingOptions
from offramp.training.run import Line, Run

LOG_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Lesson:
    """What one stage of a run learns.

    `loss` is that of a batch of row numbers at a step (from 1), [], for a model in training mode: a
    mean, and `weigh` gives what it is divided by, so that batches can be put together. `evaluate`
    puts the model into eval mode and gives a log line's figures, of which `score` decides.
    `parameters` are those that learn; `beside` learn too, of what nothing else depends on: their
    gradients are clipped by themselves.
    """

    stage: str
    training: EncodedRows[Any]
    parameters: list[nn.Parameter]
    loss: Callable[[Sequence[int], int], Tensor]
    weigh: Callable[[Sequence[int]], float]
    evaluate: Callable[[], Line]
    beside: list[nn.Parameter] = field(default_factory=list)


@dataclass
class _Reached:
    """How far a stage is; what a checkpoint has of it beside tensors."""

    step: int = 0
    best_score: float = -math.inf
    since_best: int = 0
    seconds: float = 0.0


def fit(model: PretrainedModel, lesson: Lesson, run: Run) -> None:
    """Train the model; the run is told a log line an evaluation, and keeps a checkpoint then.

    At the end the model has the weights of the best evaluation, the earliest of equals.
    """
    options, training = run.options, lesson.training
    generator = torch.Generator().manual_seed(options.seed)
    rows_a_step = options.batch_size * options.accumulate
    an_epoch = math.ceil(len(training) / rows_a_step)
    total = an_epoch * options.epochs
    every = math.ceil(an_epoch / options.evaluations_per_epoch)
    optimizer = _optimizer(model, [*lesson.parameters, *lesson.beside], options)
    peaks = [group["lr"] for group in optimizer.param_groups]
    at, best, losses = _Reached(), dict[str, Tensor](), list[float]()
    if kept := run.kept():
        at, best = _restore(kept, model, optimizer, generator)
    began = time.monotonic() - at.seconds
    while at.step < total and at.since_best < options.patience:
        epoch_state = generator.get_state()
        order = batches(training, rows_a_step, generator)
        for which in itertools.islice(order, at.step % an_epoch, None):
            model.train()
            at.step += 1
            optimizer.zero_grad()
            losses.append(_learn(model, lesson, which, at.step, run))
            for parameters in (lesson.parameters, lesson.beside):
                nn.utils.clip_grad_norm_(parameters, 1.0)
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * _rate(at.step, total, options.warmup)
            optimizer.step()
            run.show(at.step, total)
            in_epoch = at.step % an_epoch
            if in_epoch % every:
                continue
            found = run.group.told(lesson.evaluate)
            at.seconds = time.monotonic() - began
            run.tell(
                {
                    "stage": lesson.stage,
                    "epoch": math.ceil(at.step / an_epoch),
                    "step": at.step,
                    "loss": sum(losses) / len(losses),
                    **found,
                    "seconds": round(at.seconds, 1),
                }
            )
            losses = []
            at.since_best += 1
            if found["score"] > at.best_score:
                at.best_score, at.since_best = found["score"], 0
                best = {name: x.detach().clone() for name, x in model.state_dict().items()}
            order_state = epoch_state if in_epoch else generator.get_state()
            run.keep(asdict(at), _tensors(model, optimizer, best, order_state))
            if at.since_best >= options.patience:
                break
    model.load_state_dict(best)


def _learn(
    model: PretrainedModel,
    lesson: Lesson,
    which: Sequence[int],
    step: int,
    run: Run,
) -> float:
    """Put the gradients of these rows' mean loss into the parameters; the loss.

    A batch counts by its weight. One without any teaches nothing, and has no mean. Each process of
    a group takes its share of the rows, and has the gradients and the loss of all afterwards.
    """
    size, options, mine = run.options.batch_size, run.options, run.group.share(which)
    parts = [mine[start : start + size] for start in range(0, len(mine), size)]
    total, loss = lesson.weigh(which), 0.0
    for part in parts:
        if weight := lesson.weigh(part):
            with autocast(model, options):
                part_loss = lesson.loss(part, step) * (weight / total)
            part_loss.backward()  # type: ignore[no-untyped-call]
            loss += part_loss.item()
    loss = run.group.add_up([*lesson.parameters, *lesson.beside], loss)
    check_loss(loss, step)
    return loss


def autocast(model: PretrainedModel, options: TrainingOptions) -> torch.autocast:
    """Where what passes the model has the precision that was asked for."""
    enabled = options.precision == "bfloat16"
    return torch.autocast(model.device.type, torch.bfloat16, enabled=enabled)


def _tensors(
    model: PretrainedModel,
    optimizer: torch.optim.Optimizer,
    best: Mapping[str, Tensor],
    order_state: Tensor,
) -> dict[str, Tensor]:
    """What a stage goes on with. `order_state` is the batches' generator as the epoch began."""
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return {
        "random/order": order_state,
        **{f"model/{name}": tensor for name, tensor in model.state_dict().items()},
        **{f"best/{name}": tensor for name, tensor in best.items()},
        **{
            f"optimizer/{number}/{name}": tensor
            for number, values in state.items()
            for name, tensor in values.items()
        },
    }


def _restore(
    kept: Checkpoint,
    model: PretrainedModel,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> tuple[_Reached, dict[str, Tensor]]:
    """Put back what `_tensors` took; how far the stage was, and its best weights."""
    model.load_state_dict(kept.within("model"))
    state: dict[int, dict[str, Tensor]] = {}
    for place, tensor in kept.within("optimizer").items():
        number, _, name = place.partition("/")
        state.setdefault(int(number), {})[name] = tensor.clone()
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})
    generator.set_state(kept.tensors["random/order"])
    at = _Reached(**{part.name: kept.values[part.name] for part in fields(_Reached)})
    return at, {name: tensor.clone() for name, tensor in kept.within("best").items()}


def save_run(output: str | Path, model: TextModel, run: Run) -> None:
    """Write the model, its tokenizer and the metrics log; the directory is there whole or not."""
    if not run.group.is_first:
        return
    lines = "".join(json.dumps(line) + "\n" for line in run.log)
    with staged(output, WHOLE) as fresh:
        model.write_files(fresh)
        (fresh / LOG_FILE).write_text(lines, encoding="utf-8")


def open_to_train(
    model_class: type[PretrainedModel], directory: str | Path, labels: list[str], **settings: Any
) -> tuple[PretrainedModel, LoadingReport]:
    """The model of a directory in float32, without exits, its head made for these labels.

    A head that has another number of outputs, or is not there, is new. `settings` are the
    configuration's.
    """

    def read() -> tuple[PretrainedModel, LoadingReport]:
        config = model_class.config_class.from_pretrained(
            directory, id2label=dict(enumerate(labels)), exits=None, **settings
        )
        opening = Opening(config=config, dtype=torch.float32, ignore_mismatched_sizes=True)
        return open_model(model_class, directory, opening)

    return reread(read, as_path(directory))


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


def weight_of(labels_N: Tensor, weights_C: Tensor | None) -> float:
    """What the mean loss over these labels is divided by."""
    return float(len(labels_N)) if weights_C is None else weights_C[labels_N].sum().item()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's random numbers from `seed` on, and afterwards those of before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _optimizer(
    model: PretrainedModel, parameters: list[nn.Parameter], options: TrainingOptions
) -> torch.optim.Optimizer:
    body = {id(p) for p in model.base_model.parameters()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in parameters:
        decays = parameter.dim() > 1  # biases and norms are not pulled to zero
        groups.setdefault((id(parameter) in body, decays), []).append(parameter)
    return torch.optim.AdamW(
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


def _rate(step: int, total: int, warmup: float) -> float:
    """What share of its peak the rate has at a step, from 1: up in a line, and down to 0."""
    rising = max(1, round(total * warmup))
    return min(step / rising, max(0.0, (total - step + 1) / max(1, total - rising)))
