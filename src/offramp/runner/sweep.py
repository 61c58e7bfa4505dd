"""Every exit's answer for every row, from one pass; and what a criterion would make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offramp.exits.attach import logits_by_depth, task_of
from offramp.exits.criteria import Answer, Criterion, Task, ask_rows
from offramp.models.base import PretrainedModel
from offramp.runner.prepare import prepared
from offramp.runner.rows import by_length, split, tokens_at_once
from offramp.runner.run import Results
from offramp.text.tokenizer import Encoded


@dataclass(frozen=True)
class EveryExit:
    """Logits [E, R, C] of the exits at `depths`, the model's own head last; rows in input order.

    `task` is what the model is asked, by default one class of C.
    """

    depths: tuple[int, ...]
    logits_ERC: Tensor
    task: Task | None = None

    def apply(self, criterion: Criterion) -> Results:
        """The answers and exit layers that `criterion` gives; ConfigError if it does not fit."""
        criterion = criterion.for_task(self.task or Task.outputs(self.logits_ERC.shape[-1]))
        n_rows, n_labels = self.logits_ERC.shape[1:]
        rows_R, lost_R = torch.arange(n_rows), torch.zeros(n_rows, dtype=torch.bool)
        state_RS = criterion.start(n_rows, n_labels)
        answers_RC = self.logits_ERC[-1].clone()
        layers_R = torch.full((len(rows_R),), self.depths[-1])
        for depth, logits_RC in zip(self.depths[:-1], self.logits_ERC[:-1], strict=True):
            answer = Answer(logits_RC[rows_R])
            (leave_R, _, state_RS), lost_R = ask_rows(criterion, state_RS, depth, answer, lost_R)
            answers_RC[rows_R[leave_R]] = logits_RC[rows_R[leave_R]]
            layers_R[rows_R[leave_R]] = depth
            rows_R, state_RS, lost_R = rows_R[~leave_R], state_RS[~leave_R], lost_R[~leave_R]
        return Results(answers_RC, layers_R, torch.zeros_like(layers_R, dtype=torch.bool))


@torch.inference_mode()
def every_exit(
    model: PretrainedModel, rows: Sequence[Encoded], tokens: int | None = None
) -> EveryExit:
    """Run all rows through all layers and ask every exit, in microbatches of about `tokens`."""
    model = prepared(model)
    tokens = tokens or tokens_at_once(model.device)
    inputs = by_length(rows, model.device)
    parts = [logits_by_depth(model, part) for part in split(inputs, tokens)]
    depths = tuple(parts[0])
    logits_ERC = torch.stack([torch.cat([part[d] for part in parts]).cpu() for d in depths])
    return EveryExit(depths, logits_ERC[:, torch.argsort(inputs.row_ids_R)], task_of(model))
