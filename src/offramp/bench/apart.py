"""Engines in processes of their own, where none is in another's way.

They must not share one: CTranslate2 brings OpenMP's workers, of which there are then more than
cores, and the OpenMP that torch uses lets its own sleep at each barrier from there on. What was
measured after it in the same process took up to twice the time.

Messages are lines of JSON, on the process's standard input and output.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offramp import errors
from offramp.backends import requires_backends
from offramp.bench.ctranslate2_engine import CTranslate2Engine
from offramp.bench.engine import Opener, Run, Setting
from offramp.bench.onnx_engine import OnnxEngine
from offramp.bench.transformers_engine import TransformersEngine
from offramp.errors import OfframpError, shown
from offramp.runner.rows import Row


class Kind(NamedTuple):
    """How an engine is opened, and the packages that it needs."""

    open: Opener
    packages: tuple[str, ...]


ENGINES = {
    "transformers, file order": Kind(partial(TransformersEngine, sort=False), ("transformers",)),
    "transformers, sorted": Kind(partial(TransformersEngine, sort=True), ("transformers",)),
    "ONNX Runtime, sorted": Kind(OnnxEngine, OnnxEngine.packages),
    **{
        f"{name}, sorted": Kind(
            partial(CTranslate2Engine, compute_type=compute_type), CTranslate2Engine.packages
        )
        for name, compute_type in (("CTranslate2", "float32"), ("CTranslate2 int8", "int8"))
    },
}
"""Rows sorted by length, or in the order of the file."""


class EngineFailedError(OfframpError):
    """An engine's own fault."""


class Apart:
    """One of `ENGINES`, opened in a process that ends with this object."""

    def __init__(self, directory: Path, setting: Setting, *, name: str) -> None:
        requires_backends(f"{name},", ENGINES[name].packages)  # without a process
        # First of all: `-c` looks for modules where it is started, which may be a checkpoint.
        path = f"import sys; sys.path[:] = {sys.path!r}"
        command = [sys.executable, "-c", f"{path}; from {__name__} import serve; serve()"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        weakref.finalize(self, _end, self._process)
        self._ask([name, str(directory), setting.batch_size, setting.threads])

    def prepare(self, rows: Sequence[Row]) -> Run:
        """A call that answers `rows`."""
        self._ask([[row.ids.tolist(), row.types.tolist()] for row in rows])
        return self._run

    def _run(self) -> Tensor:
        return torch.tensor(self._ask("run"), dtype=torch.float32)

    def _ask(self, message: object) -> Any:
        """What the process answers; raises the error that it reports."""
        to, back = self._process.stdin, self._process.stdout
        assert to is not None
        assert back is not None
        with suppress(BrokenPipeError):  # it is gone, and answers nothing
            _send(to, message)
        line = back.readline()
        if not line.endswith("\n"):
            raise EngineFailedError(f"Its process ended, with exit status {self._process.wait()}.")
        answer = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["error"], EngineFailedError)(answer["text"])
        return answer["found"]


def serve() -> None:
    """What the process does: open an engine, prepare rows, and run them whenever it is asked."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that asks ends it
    back = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print
    answers = _answers(line for line in sys.stdin)
    while True:
        try:
            found = next(answers, None)
            if found is None:
                return None
            _send(back, {"found": found})
        except OfframpError as error:
            return _send(back, {"error": type(error).__name__, "text": str(error)})
        except Exception as error:
            reason = shown(str(error).strip().partition("\n")[0], 200)
            text = f"It failed: {type(error).__name__}: {reason}"
            return _send(back, {"error": EngineFailedError.__name__, "text": text})


class _Plain(NamedTuple):
    ids: npt.NDArray[np.int64]
    types: npt.NDArray[np.int64]


def _answers(lines: Iterator[str]) -> Iterator[object]:
    """To each message."""
    name, directory, batch_size, threads = json.loads(next(lines))
    # There torch has a head of one product to compute, and no need of workers of its own.
    torch.set_num_threads(1 if name.startswith("CTranslate2") else threads)
    engine = ENGINES[name].open(Path(directory), Setting(batch_size, threads))
    yield True
    rows = [_Plain(np.array(ids), np.array(types)) for ids, types in json.loads(next(lines))]
    run = engine.prepare(rows)
    yield True
    for _ in lines:
        yield run().tolist()


def _send(to: IO[str], message: object) -> None:
    to.write(json.dumps(message) + "\n")
    to.flush()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    process.wait()
