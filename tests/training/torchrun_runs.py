"""Training runs of several processes, as `torchrun` starts them.

    torchrun --nproc-per-node 2 torchrun_runs.py FOLDER RUNS

RUNS is a JSON list of objects, for each run: its `name`, which is that of the output in FOLDER;
`task`, "classify" or "tag"; `options`; `body`, a directory in FOLDER; `stop`, the evaluation at
which it is interrupted, or null; `resume`. Each process writes FOLDER/NAME-RANK.json: the log, how
often it was told of progress, and whether it was stopped.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tagged_data import tagged_table

import offramp
from conftest import toy_table
from offramp.exits.attach import add_exits
from offramp.training.run import Run


class Stop(Exception):  # noqa: N818
    """What interrupts a run."""


def main() -> None:
    folder, runs = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    for run in runs:
        make(folder, **run)


def make(
    folder: Path, name: str, task: str, options: dict[str, Any], body: str, stop: int | None,
    resume: bool,
) -> None:  # fmt: skip
    told, stopped, log = 0, False, []

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal told
        told += 1

    if task == "tag":
        train, data, dev = offramp.train_tagger, tagged_table(64, 1), tagged_table(30, 2)
    else:
        train, data, dev = offramp.train, toy_table(101, 1), toy_table(30, 2)
    # Two processes draw other masks than one does: the bodies named so have no dropout, nor have
    # ramps on them.
    for module in ("train", "tagger"):
        training = importlib.import_module(f"offramp.training.{module}")
        training.add_exits = partial(add_exits, dropout=0.1 if body == "body" else 0.0)
    keep = Run.keep

    def stopping(run: Run, *args: Any) -> None:
        keep(run, *args)
        if len(run.log) == stop:
            raise Stop  # in every process

    Run.keep = stopping  # type: ignore[method-assign]
    try:
        _, report = train(  # type: ignore[operator]
            folder / body, data, folder / name, dev=dev, resume=resume, progress=progress,
            options=offramp.TrainingOptions(**options),
        )  # fmt: skip
        log = report.log
    except Stop:
        stopped = True
    finally:
        Run.keep = keep  # type: ignore[method-assign]
    said = {"log": log, "told": told, "stopped": stopped}
    (folder / f"{name}-{os.environ.get('RANK', 'alone')}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
