"""Every exit's answer for every row, from one pass; and what a criterion would make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from offramp.exits.attach import answers_by_depth, task_of
from offramp.exits.criteria import Answer, Criterion, Task, ask_rows
from offramp.models.base import PretrainedModel
from offramp.runner.prepare import prepared
from offramp.runner.rows import by_length, split, tokens_at_once
from offramp.runner.run import Results
from offramp.text.tokenizer import Encoded


@dataclass(frozen=True)
class EveryExit:
    """Logits [E, R, C] of the exits at `depths`, the model's own head last; rows in input order.

    `task` is what the model is asked, by default one class of C; `certainty_XR` what the exits say
    of theirs, where they do, all but the last.
    """

    depths: tuple[int, ...]
    logits_ERC: Tensor
    task: Task | None = None
    certainty_XR: Tensor | None = None

    def apply(self, criterion: Criterion) -> Results:
        """The answers and exit layers that `criterion` gives; ConfigError if it does not fit."""
        task = Task.outputs(self.logits_ERC.shape[-1], None, self.certainty_XR is not None)
        criterion = criterion.for_task(self.task or task)
        n_rows, n_labels = self.logits_ERC.shape[1:]
        rows_R, lost_R = torch.arange(n_rows), torch.zeros(n_rows, dtype=torch.bool)
        state_RS = criterion.start(n_rows, n_labels)
        answers_RC = self.logits_ERC[-1].clone()
        layers_R = torch.full((len(rows_R),), self.depths[-1])
        for exit_, depth in enumerate(self.depths[:-1]):
            logits_RC = self.logits_ERC[exit_]
            sure_R = None if self.certainty_XR is None else self.certainty_XR[exit_, rows_R]
            answer = Answer(logits_RC[rows_R], sure_R)
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
    parts = [answers_by_depth(model, part) for part in split(inputs, tokens)]
    depths, order_R = tuple(parts[0]), torch.argsort(inputs.row_ids_R)
    logits = [torch.cat([part[d].logits_RC for part in parts]).cpu()[order_R] for d in depths]
    said = [[sure for part in parts if (sure := part[d].certainty_R) is not None] for d in depths]
    certainties = [torch.cat(parts_R).cpu()[order_R] for parts_R in said if parts_R]
    certainty_XR = torch.stack(certainties) if certainties else None
    return EveryExit(depths, torch.stack(logits), task_of(model), certainty_XR)
