"""Every exit's answer for every row, from one pass; and what a criterion would make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from offramp.exits.container import task_of
from offramp.exits.criteria import Answer, Criterion, Task, check_criterion
from offramp.exits.decisions import Memory, Units, decide
from offramp.exits.forward import every_answer
from offramp.models.base import PretrainedModel
from offramp.runner.prepare import prepared
from offramp.runner.rows import Row, by_length, split, tokens_at_once
from offramp.runner.run import Results


@dataclass(frozen=True)
class EveryExit:
    """Logits [E, R, C] of the exits at `depths`, the model's own head last; rows in input order.

    `task` is what the model is asked, by default one class of C; `certainty_XR` what the exits say
    of theirs, where they do, all but the last. Of a token classifier both are of tokens, row after
    row, and `units` says which: logits [E, T, C].
    """

    depths: tuple[int, ...]
    logits_ERC: Tensor
    task: Task | None = None
    certainty_XR: Tensor | None = None
    units: Units | None = None
    after_all_RC: Tensor | None = None
    """Logits [R, C] of an exit that is asked after all layers, before the model's own head."""

    def counted(self) -> EveryExit:
        """Of a token classifier those about the tokens that count, each as a row of its own."""
        if self.units is None:
            return self
        at, sure_XR = self.units.counted(), self.certainty_XR
        of_these = None if sure_XR is None else sure_XR[:, at]
        return EveryExit(self.depths, self.logits_ERC[:, at], self.task, of_these)

    def at(self, depth: int) -> Results:
        """The answers of the exit after `depth` layers to all rows."""
        units = self.units or Units(self.logits_ERC.shape[1])
        layers_R = torch.full((units.n_rows,), depth)
        logits_UC = self.logits_ERC[self.depths.index(depth)]
        return Results(units.padded(logits_UC), layers_R, torch.zeros_like(layers_R).bool())

    def apply(self, criterion: Criterion) -> Results:
        """The answers and exit layers that `criterion` gives; ConfigError if it does not fit."""
        n_labels = self.logits_ERC.shape[-1]
        task = self.task or Task.outputs(n_labels, None, self.certainty_XR is not None)
        criterion = check_criterion(criterion).for_task(replace(task, depths=self.depths[:-1]))
        units = self.units or Units(self.logits_ERC.shape[1])
        rows_R, memory = torch.arange(units.n_rows), Memory.blank(criterion, units, n_labels)
        answers_UC = self.logits_ERC[-1].clone()
        layers_R = torch.full((units.n_rows,), self.depths[-1])
        asked = [*zip(self.depths[:-1], self.logits_ERC, strict=False)]
        if self.after_all_RC is not None:
            asked.append((self.depths[-1], self.after_all_RC))
        for exit_, (depth, logits_UC) in enumerate(asked):
            places, part = units.places(rows_R), units.take(rows_R)
            sure_U = None if self.certainty_XR is None else self.certainty_XR[exit_, places]
            answer = part.asked(Answer(logits_UC[places], sure_U))
            said = decide(criterion, answer, part, memory, depth)
            left_R, stay_R = rows_R[said.leave_R], torch.nonzero(~said.leave_R).flatten()
            left_U = units.places(left_R)
            answers_UC[left_U], layers_R[left_R] = logits_UC[left_U], depth
            rows_R = rows_R[stay_R]
            memory = None if said.memory is None else said.memory.part(part, stay_R)
        forced_R = torch.zeros_like(layers_R, dtype=torch.bool)
        return Results(units.padded(answers_UC), layers_R, forced_R)

    def cut_off(self, depth: int) -> Results:
        """The answers of the exit at `depth`, which all rows go to."""
        logits_RC = self.logits_ERC[self.depths.index(depth)]
        layers_R = torch.full((len(logits_RC),), depth)
        return Results(logits_RC, layers_R, torch.zeros_like(layers_R, dtype=torch.bool))


@torch.inference_mode()
def every_exit(model: PretrainedModel, rows: Sequence[Row], tokens: int | None = None) -> EveryExit:
    """Run all rows through all layers and ask every exit, in microbatches of about `tokens`."""
    task, model = task_of(model), prepared(model)
    tokens = tokens or tokens_at_once(model.device)
    inputs = by_length(rows, model.device)
    said = [every_answer(model, part) for part in split(inputs, tokens)]
    parts, last = [part for part, _ in said], [part.logits_RC for _, part in said if part]
    units = Units.of(rows, task)
    lying = units.take(inputs.row_ids_R)  # as the answers lie
    depths, order_U = tuple(parts[0]), lying.places(torch.argsort(inputs.row_ids_R))
    logits = [torch.cat([part[d].logits_RC for part in parts]).cpu()[order_U] for d in depths]
    sure = [[x for part in parts if (x := part[d].certainty_R) is not None] for d in depths]
    certainties = [torch.cat(parts_U).cpu()[order_U] for parts_U in sure if parts_U]
    certainty_XU = torch.stack(certainties) if certainties else None
    last_RC = torch.cat(last).cpu()[order_U] if last else None
    return EveryExit(depths, torch.stack(logits), task, certainty_XU, units, last_RC)
