"""offramp beside the engines that a user would pick instead: everything in turn, in one run."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from offramp.bench.apart import ENGINES, Apart
from offramp.bench.engine import Engine, Opener, Run, Setting
from offramp.errors import ConfigError, InputError
from offramp.models.base import PretrainedModel
from offramp.runner.run import Runner
from offramp.runner.threads import cpu_threads
from offramp.text.tokenizer import Encoded
from offramp.training.evaluation import machine
from offramp.training.peers import apart, difference, peer_versions, reason_of, time_beside
from offramp.training.timing import Ratio, speed

PLAIN = "offramp, plain"
EXITS = "offramp, with exits"
INT8 = "offramp int8"


@dataclass(frozen=True)
class Peer:
    """Who is measured beside offramp; `exact` where it computes in the model's own precision."""

    open: Opener
    exact: bool = True


PEERS = {name: Peer(partial(Apart, name=name), "int8" not in name) for name in ENGINES}


@dataclass(frozen=True)
class Line:
    """One engine's figures.

    `slower` has for each of offramp's ways how many times as fast that one is. `difference` is the
    most by which a logit differs from the plain model's, and `agreement` the share of rows with the
    plain model's label; `differs` says that it should be the same and is not. `mean_layers` is of
    offramp's ways alone.
    """

    engine: str
    rows_per_second: float
    seconds: list[float]
    slower: dict[str, Ratio]
    difference: float
    agreement: float
    differs: bool = False
    mean_layers: float | None = None


@dataclass(frozen=True)
class Comparison:
    """The table, and what it was measured on; `absent` says of an engine why it is not there."""

    lines: list[Line]
    absent: dict[str, str]
    rows: int
    tokens: int
    rounds: int
    batch_size: int
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)

    def line(self, engine: str) -> Line:
        """The figures of `engine`."""
        return next(line for line in self.lines if line.engine == engine)


def compare(
    directory: str | Path,
    model: PretrainedModel,
    rows: Sequence[Encoded],
    *,
    rounds: int = 5,
    batch_size: int = 32,
    threads: int | None = None,
    int8: PretrainedModel | None = None,
    peers: Mapping[str, Peer] = PEERS,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> Comparison:
    """Measure `model`, a sequence classifier, and what the peers open of its `directory`.

    All run the same rows, encoded beforehand (for the peers in padded batches of `batch_size`),
    with so many CPU threads, each peer in a process of its own; offramp sorts and packs them in the
    time that is measured. A peer that is not installed, or cannot run the model, is named with the
    reason. `int8`, as `offramp.prepare` makes it of the model, is measured beside it, with its
    exits if it has some.
    """
    for name, value in (("rounds", rounds), ("batch_size", batch_size), ("threads", threads)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1; got {value}.")
    if not rows:
        raise InputError("There are no rows to measure; pass at least one.")
    with cpu_threads(threads):
        facts = {**machine(), **peer_versions()}
        runners = {PLAIN: Runner(model, exits=False)}
        if hasattr(model, "exits"):
            runners[EXITS] = Runner(model)
        if int8 is not None:
            runners[INT8] = Runner(int8)
        own = {name: runner.run(rows) for name, runner in runners.items()}
        ours: dict[str, Run] = {name: partial(_own, r, rows) for name, r in runners.items()}
        theirs: dict[str, Run] = {}
        answers = {name: result.logits_RC for name, result in own.items()}
        absent: dict[str, str] = {}
        setting = Setting(batch_size, facts["threads"])
        for done, (name, peer) in enumerate(peers.items(), start=1):
            try:
                engine: Engine = peer.open(Path(directory), setting)
                run = engine.prepare(rows)
                answers[name] = run()
                theirs[name] = run
            except Exception as error:  # a peer's own fault ends its part, not the measuring
                absent[name] = reason_of(error)
            progress("open", done, len(peers))
        seconds, failed = time_beside(
            ours, theirs, rounds, lambda done, total: progress("time", done, total)
        )
        absent |= failed
    lines = [
        Line(
            engine=name,
            rows_per_second=len(rows) / statistics.median(taken),
            seconds=taken,
            slower={way: speed(seconds[way], taken) for way in runners if way != name},
            difference=difference(answers[name], answers[PLAIN]),
            agreement=_agreement(answers[name], answers[PLAIN]),
            differs=name in peers and peers[name].exact and apart(answers[name], answers[PLAIN]),
            mean_layers=own[name].mean_layers if name in own else None,
        )
        for name, taken in seconds.items()
    ]
    tokens = sum(len(row.ids) for row in rows)
    return Comparison(lines, absent, len(rows), tokens, rounds, batch_size, facts)


def _own(runner: Runner, rows: Sequence[Encoded]) -> Tensor:
    return runner.run(rows).logits_RC


def _agreement(one_RC: Tensor, other_RC: Tensor) -> float:
    return (one_RC.argmax(-1) == other_RC.argmax(-1)).double().mean().item()
