"""A training run: what it was told, what it tells, and where it goes on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

import offramp
from offramp.runner.fingerprint import fingerprint
from offramp.runner.text_model import TextModel
from offramp.training.checkpoint import Checkpoint, RunFolder, fingerprint_of_rows, run_folder
from offramp.training.group import Group, training_group
from offramp.training.options import TrainingOptions

Progress = Callable[[str, int, int], None]
"""Told the stage, how much of it is done, and how much there is."""

Line = dict[str, Any]
"""One evaluation, as the metrics log has it."""

S = TypeVar("S")


def silent(stage: str, done: int, total: int) -> None:
    """Progress that nobody asked for."""


class Run:
    """The settings of a run, its log, and its checkpoints where it has a `folder` for them.

    `group` are the processes that it is made by.
    """

    def __init__(
        self,
        options: TrainingOptions,
        progress: Progress = silent,
        on_evaluation: Callable[[Line], None] | None = None,
        folder: RunFolder | None = None,
        group: Group | None = None,
    ) -> None:
        self.options, self.group = options, group or Group()
        self._progress, self._on_evaluation, self._folder = progress, on_evaluation, folder
        self._kept = self.group.checkpoint(None if folder is None else folder.read())
        self.log: list[Line] = [] if self._kept is None else self._kept.values["log"]
        self._stage, self._label = 0, "train"
        self.group.reseed(options.seed, 0)

    def stages(self, plan: Mapping[str, S]) -> Iterator[S]:
        """The stages of a plan, by name, that an earlier run has not finished."""
        for self._stage, (name, stage) in enumerate(plan.items()):
            if self._kept is None or self._kept.values["stage"] <= self._stage:
                self._label = "train" if len(plan) == 1 else f"train {name}"
                yield stage

    def show(self, done: int, total: int) -> None:
        """Tell how far the stage is."""
        if self.group.is_first:
            self._progress(self._label, done, total)

    def tell(self, line: Line) -> None:
        """Put an evaluation into the log."""
        self.log.append(line)
        if self._on_evaluation is not None and self.group.is_first:
            self._on_evaluation(line)

    def kept(self) -> Checkpoint | None:
        """Where an earlier run was in this stage; torch's random numbers go on from there."""
        kept = self._kept
        if kept is None or kept.values["stage"] != self._stage:
            return None
        self._kept = None
        torch.set_rng_state(kept.tensors["random/torch"])
        self.group.reseed(self.options.seed, len(self.log))
        return kept

    def keep(self, values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
        """Write a checkpoint from which `kept` gives these back."""
        if self._folder is not None:
            place = {"stage": self._stage, "log": self.log}
            random = {"random/torch": torch.get_rng_state()}
            self._folder.write(Checkpoint({**place, **values}, {**tensors, **random}))
        self.group.reseed(self.options.seed, len(self.log))  # as one that goes on from here would


@contextmanager
def open_run(
    output: str | Path,
    owner: TextModel,
    rows: Mapping[str, Iterable[object]],
    options: TrainingOptions,
    *,
    resume: bool,
    progress: Progress | None,
    on_evaluation: Callable[[Line], None] | None,
) -> Iterator[Run]:
    """A run that writes to `output`: with `resume`, from where an earlier one was.

    It has to be the same run: the same rows, by what they are called, the same model to begin with,
    the same options. SaveError otherwise. Of several processes the first has the folder, and all
    begin with its weights.
    """
    group = training_group()
    group.copy(owner.model)
    if not group.is_first:
        yield Run(options, group=group)
        group.wait()
        return
    settings = {
        field.name: getattr(options, field.name) for field in dataclasses.fields(TrainingOptions)
    }
    identity = {  # the first that differs is told: what a new head begins with hangs on the seed
        "offramp": offramp.__version__,
        **settings,
        **{name: fingerprint_of_rows(part) for name, part in rows.items()},
        "model": fingerprint(owner),
    }
    with run_folder(output, identity, resume=resume) as folder:
        yield Run(options, progress or silent, on_evaluation, folder, group)
    group.wait()


def best_of(log: Sequence[Line]) -> Line:
    """The line whose weights a run ends with: the best of its last stage."""
    last = [line for line in log if line["stage"] == log[-1]["stage"]]
    return max(last, key=lambda line: line["score"])  # the earliest


__all__ = ["Line", "Progress", "Run", "best_of", "open_run", "silent"]
