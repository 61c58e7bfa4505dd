"""`offramp.evaluate`: what each threshold costs in accuracy and saves in wall clock."""

from __future__ import annotations

import dataclasses
import math
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import offramp
from offramp.backends import is_available
from offramp.errors import DataError
from offramp.exits.attach import exits_of
from offramp.exits.criteria import Entropy
from offramp.models.base import PretrainedModel
from offramp.runner.loading import load
from offramp.runner.run import Results, Runner
from offramp.runner.sweep import EveryExit, every_exit
from offramp.text.columns import Columns
from offramp.text.tables import Table
from offramp.training.examples import as_table, to_examples
from offramp.training.metrics import paired_difference, scores
from offramp.training.peers import transformers_model, transformers_run
from offramp.training.thresholds import Choice, choose_threshold
from offramp.training.timing import Ratio, sample, speed, time_in_turn

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
    criterion: Entropy | None = None
    depth: int | None = None
    chosen: bool = False

    @property
    def threshold(self) -> float | None:
        """The criterion's, in nats at the first layer; None for a system without exits."""
        return None if self.criterion is None else self.criterion.threshold


@dataclass(frozen=True)
class Evaluation:
    """The table, and what it was measured on.

    `positive` is the class whose F1 `f1` is, the second by number, where there are two.
    `loss` is the chosen threshold's loss of accuracy against full depth in points, with its paired
    95% interval over the rows. `transformers_difference` is the most by which a logit of the plain
    model differs from transformers', over the timed rows.
    """

    lines: list[Line]
    rows: int
    timed_rows: int
    rounds: int
    loss: tuple[float, float, float]
    transformers_difference: float | None
    choice: Choice | None
    positive: str
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
    data: Table | Columns,
    *,
    dev: Table | Columns | None = None,
    thresholds: Sequence[float] | None = None,
    max_loss: float = 0.25,
    rounds: int = 5,
    timing_rows: int = 1000,
    transformers: bool | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Evaluation:
    """Measure the classifier in `directory` on `data`: a table, or rows in memory as for `train`.

    Scores are over all rows, speeds over `timing_rows` of them picked by a fixed seed, every system
    measured in turn in each of `rounds` rounds on rows encoded beforehand. With `dev` the chosen
    threshold is picked there (see `choose_threshold`: at most `max_loss` points lost); else it is
    the one the model was saved with. All have the model's growth. `transformers=None` measures it
    where it is installed.
    """
    data, dev = as_table(data), None if dev is None else as_table(dev)
    picked = sample(len(data), timing_rows, rounds)
    classifier = load(directory, task="classify")
    model, label2id = classifier.model, classifier.model.config.label2id
    test = to_examples(data, classifier.tokenizer, label2id)
    choice = None
    if dev is not None:
        one, two = set(dev.texts), set(data.texts)
        shared = one & two
        if len(shared) > min(len(one), len(two)) / 2:
            raise DataError(
                f"{len(shared)} texts of {data.source} are in {dev.source} too; a threshold is "
                "chosen on one split and reported on another."
            )
        held = to_examples(dev, classifier.tokenizer, label2id)
        choice = choose_threshold(
            every_exit(model, held.rows), held.labels_R, max_loss, classifier.growth
        )
    chosen = classifier.threshold if choice is None else choice.criterion.threshold
    systems = _systems(
        model,
        [chosen, *(_spread(len(label2id)) if thresholds is None else thresholds)],
        classifier.growth,
    )

    timed = [test.rows[i] for i in picked]
    runs: dict[str, Callable[[], object]] = {
        name: partial(system.runner.run, timed) for name, system in systems.items()
    }
    difference = None
    if is_available("transformers") if transformers is None else transformers:
        peer = transformers_model(directory)
        run_sorted = transformers_run(peer, timed, sort=True)
        runs[IN_FILE_ORDER] = transformers_run(peer, timed, sort=False)
        runs[SORTED] = run_sorted
        ours_RC = systems[PLAIN].runner.run(timed).logits_RC
        difference = (run_sorted() - ours_RC).abs().max().item()
    seconds = time_in_turn(runs, rounds, lambda done, total: progress("time", done, total))

    # One pass answers for every system. A row whose score is within rounding of a threshold may
    # differ from the runner's by one exit.
    answers = every_exit(model, test.rows)
    results = {name: system.answer(answers) for name, system in systems.items()}
    correct = {name: r.logits_RC.argmax(-1) == test.labels_R for name, r in results.items()}
    loss, low, high = paired_difference(correct[PLAIN], correct[_name(chosen)])
    return Evaluation(
        lines=[
            Line(
                system=name,
                scores=scores(result.logits_RC.argmax(-1), test.labels_R, len(label2id)),
                mean_layers=result.mean_layers,
                seconds=statistics.median(seconds[name]),
                speed={
                    other: speed(seconds[name], theirs)
                    for other, theirs in seconds.items()
                    if other != name and not other.startswith("exits")
                },
                criterion=systems[name].criterion,
                depth=systems[name].depth,
                chosen=name == _name(chosen),
            )
            for name, result in results.items()
        ],
        rows=len(test),
        timed_rows=len(timed),
        rounds=rounds,
        loss=(loss * 100, low * 100, high * 100),
        transformers_difference=difference,
        choice=choice,
        positive=model.config.labels[1],
        machine=machine(),
    )


def machine() -> dict[str, Any]:
    """What the figures were measured with."""
    return {
        "offramp": offramp.__version__,
        "torch": torch.__version__,
        "transformers": version("transformers") if is_available("transformers") else None,
        "python": platform.python_version(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


@dataclass(frozen=True)
class _System:
    """One way to run the model: all of it, cut off after `depth`, or with exits."""

    runner: Runner
    criterion: Entropy | None = None
    depth: int | None = None

    def answer(self, answers: EveryExit) -> Results:
        """What it answers, from every exit's answers."""
        if self.criterion is not None:
            return answers.apply(self.criterion)
        depth = answers.depths[-1] if self.depth is None else self.depth
        logits_RC = answers.logits_ERC[answers.depths.index(depth)]
        layers_R = torch.full((len(logits_RC),), depth)
        return Results(logits_RC, layers_R, torch.zeros_like(layers_R, dtype=torch.bool))


def _systems(
    model: PretrainedModel, thresholds: Iterable[float], growth: float
) -> dict[str, _System]:
    systems = {PLAIN: _System(Runner(model, exits=False))}
    for depth in exits_of(model).depths:
        runner = Runner(model, exits=False, depth=depth)
        systems[f"truncated to {depth}"] = _System(runner, depth=depth)
    for threshold in sorted(set(thresholds)):
        criterion = Entropy(threshold, growth)
        systems[_name(threshold)] = _System(Runner(model, criterion=criterion), criterion)
    return systems


def _spread(n_classes: int) -> list[float]:
    """First layers' thresholds over the range of entropies, closer where the curve bends."""
    return [round(math.log(n_classes) * share, 4) for share in (0.03, 0.06, 0.12, 0.2, 0.35, 0.5)]


def _name(threshold: float) -> str:
    return f"exits at {float(threshold)!r}"
