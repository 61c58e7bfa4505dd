"""A training run in processes that are killed, each going on where the one before was ended.

    python killed_runs.py TASK FOLDER OPTIONS MOMENTS

OPTIONS are those of the training, as JSON. MOMENTS is a JSON list of [what, n]: a process kills
itself (SIGKILL, so that nothing is tidied up) when it does that for the n-th time; or is killed
from outside after n "seconds". The last process is left alone. What an unbroken run gives lies in
FOLDER/whole afterwards, and what the killed ones gave in FOLDER/killed. Printed is how each ended.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tagged_data import tagged_table

import offramp
from conftest import toy_table
from offramp.training import checkpoint

Train = Callable[..., Any]


def main() -> None:
    task, folder, options, moments = sys.argv[1], Path(sys.argv[2]), *map(json.loads, sys.argv[3:])
    torch.set_num_threads(1)
    chosen = offramp.TrainingOptions(**options)
    if task == "tag":
        train: Train = offramp.train_tagger
        data, dev = tagged_table(64, 1, "train"), tagged_table(30, 2, "dev")
    else:
        train = offramp.train
        data, dev = toy_table(96, 1, "train"), toy_table(30, 2, "dev")

    def child(name: str, moment: list[Any] | None) -> None:
        seen = arm(moment)
        train(
            folder / "body", data, folder / name, dev=dev, options=chosen, resume=name == "killed",
            progress=lambda *step: seen("step"),
        )  # fmt: skip

    ends = []
    for number, moment in enumerate([None, *moments, None]):
        pid = os.fork()
        if pid == 0:
            child("killed" if number else "whole", moment)
            os._exit(0)
        if moment is not None and moment[0] == "seconds":
            time.sleep(moment[1])
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        ends.append("killed" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}")
    print(json.dumps(ends))


def arm(moment: list[Any] | None) -> Callable[[str], None]:
    """See to it that the process ends at a moment; what is called at each step."""
    counts: dict[str, int] = {}

    def seen(what: str) -> None:
        counts[what] = counts.get(what, 0) + 1
        if moment is not None and [what, counts[what]] == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(owner: Any, name: str, what: str) -> None:
        original = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            seen(what)
            return original(*args, **kwargs)

        setattr(owner, name, counted)

    before(os, "fsync", "flush")
    before(shutil, "rmtree", "removal")
    write = checkpoint.write_safetensors

    def half_written(path: Path, tensors: Any) -> None:
        write(path, tensors)
        size = path.stat().st_size
        os.truncate(path, size // 2)
        seen("half a file")
        os.truncate(path, 0)
        write(path, tensors)

    checkpoint.write_safetensors = half_written
    return seen


if __name__ == "__main__":
    main()
