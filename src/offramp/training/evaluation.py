"""`offramp.evaluate`: what each threshold costs in accuracy and saves in wall clock."""

from __future__ import annotations

import dataclasses
import math
import platform
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import offramp
from offramp.backends import is_available
from offramp.errors import DataError
from offramp.exits.attach import exits_of
from offramp.exits.criteria import Entropy
from offramp.runner.classifier import load
from offramp.runner.run import Runner
from offramp.runner.sweep import every_exit
from offramp.text.tables import Table
from offramp.text.tokenizer import Encoded
from offramp.training.examples import to_examples
from offramp.training.metrics import paired_difference, scores
from offramp.training.peers import transformers_model, transformers_run
from offramp.training.thresholds import Choice, choose_threshold
from offramp.training.timing import Ratio, speed, time_in_turn

PLAIN = "plain"
IN_FILE_ORDER = "transformers, file order"
SORTED = "transformers, sorted"

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Line:
    """One system's figures; speeds are times as fast as the system they are named after."""

    system: str
    scores: dict[str, float]
    mean_layers: float
    seconds: float
    speed: dict[str, Ratio]
    threshold: float | None = None
    depth: int | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Evaluation:
    """The table, and what it was measured on.

    `loss` is the chosen threshold's loss of accuracy against full depth in points, with its paired
    95% interval over the rows.
    """

    lines: list[Line]
    rows: int
    timed_rows: int
    rounds: int
    loss: tuple[float, float, float]
    choice: Choice | None
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)

    @property
    def chosen(self) -> Line:
        """The line of the threshold that was chosen."""
        return next(line for line in self.lines if line.chosen)

    def truncation_as_good(self, line: Line) -> Line:
        """The shallowest truncated model at least as accurate as `line`, or the plain model."""
        good = [
            other
            for other in self.lines
            if other.depth is not None and other.scores["accuracy"] >= line.scores["accuracy"]
        ]
        plain = next(other for other in self.lines if other.system == PLAIN)
        return min(good, key=lambda other: other.mean_layers, default=plain)


def evaluate(
    directory: str | Path,
    data: Table,
    *,
    dev: Table | None = None,
    thresholds: Sequence[float] | None = None,
    max_loss: float = 0.25,
    rounds: int = 5,
    timing_rows: int = 1000,
    transformers: bool | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Evaluation:
    """Measure the classifier in `directory` on `data`.

    Scores are over all rows, speeds over `timing_rows` of them picked by a fixed seed, every system
    measured in turn in each of `rounds` rounds on rows encoded beforehand. With `dev` the chosen
    threshold is picked there (see `choose_threshold`: at most `max_loss` points lost); else it is
    the one the model was saved with. `transformers=None` measures it where it is installed.
    """
    classifier = load(directory)
    model = classifier.model
    label2id = model.config.label2id
    test = to_examples(data, classifier.tokenizer, label2id)
    choice = None
    if dev is not None:
        held = to_examples(dev, classifier.tokenizer, label2id)
        if set(map(str, dev.texts)) == set(map(str, data.texts)):
            raise DataError(
                f"{dev.source} and {data.source} hold the same texts; a threshold is chosen on one "
                "split and reported on another."
            )
        choice = choose_threshold(every_exit(model, held.rows), held.labels_R, max_loss)
    saved = classifier.threshold if choice is None else choice.threshold
    if thresholds is None:
        most = math.log(len(label2id))
        thresholds = [round(most * share, 4) for share in (0.1, 0.2, 0.3, 0.4, 0.6, 0.8)]
    asked = sorted({saved, *thresholds})

    runners = {PLAIN: Runner(model, exits=False)}
    depths = exits_of(model).depths
    runners |= {f"truncated to {k}": Runner(model, exits=False, depth=k) for k in depths}
    runners |= {_name(t): Runner(model, criterion=Entropy(t)) for t in asked}
    sample = random.Random(0).sample(range(len(test)), min(timing_rows, len(test)))
    timed = [test.rows[i] for i in sample]
    systems = _systems(runners, timed)
    if is_available("transformers") if transformers is None else transformers:
        peer = transformers_model(directory)
        systems[IN_FILE_ORDER] = transformers_run(peer, timed, sort=False)
        systems[SORTED] = transformers_run(peer, timed, sort=True)
    seconds = time_in_turn(systems, rounds, lambda done, total: progress("time", done, total))

    lines: list[Line] = []
    correct: dict[str, Tensor] = {}
    for done, (name, runner) in enumerate(runners.items(), start=1):
        results = runner.run(test.rows)
        predicted_R = results.logits_RC.argmax(-1)
        correct[name] = predicted_R == test.labels_R
        threshold = next((t for t in asked if _name(t) == name), None)
        lines.append(
            Line(
                system=name,
                scores=scores(predicted_R, test.labels_R, len(label2id)),
                mean_layers=results.mean_layers,
                seconds=statistics.median(seconds[name]),
                speed={
                    other: speed(seconds[name], theirs)
                    for other, theirs in seconds.items()
                    if other != name and not other.startswith("exits")
                },
                threshold=threshold,
                depth=next((k for k in depths if name == f"truncated to {k}"), None),
                chosen=threshold == saved,
            )
        )
        progress("score", done, len(runners))
    difference = paired_difference(correct[PLAIN], correct[_name(saved)])
    return Evaluation(
        lines=lines,
        rows=len(test),
        timed_rows=len(timed),
        rounds=rounds,
        loss=(difference[0] * 100, difference[1] * 100, difference[2] * 100),
        choice=choice,
        machine=machine(),
    )


def machine() -> dict[str, Any]:
    """What the figures were measured with."""
    return {
        "offramp": offramp.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def _systems(runners: dict[str, Runner], rows: list[Encoded]) -> dict[str, Callable[[], object]]:
    def run_of(runner: Runner) -> Callable[[], object]:
        return lambda: runner.run(rows)

    return {name: run_of(runner) for name, runner in runners.items()}


def _name(threshold: float) -> str:
    return f"exits at {threshold:g}"
