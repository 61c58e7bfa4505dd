"""`offramp.evaluate`: what each threshold costs in score and saves in wall clock."""

from __future__ import annotations

import dataclasses
import platform
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

import offramp
from offramp.backends import is_available
from offramp.errors import DataError
from offramp.exits.calibration.certificate import certificate_of
from offramp.exits.calibration.drift import ExitWatch
from offramp.exits.container import exits_of, task_of
from offramp.exits.criteria import AllOf, AnyOf, Criterion, Entropy
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel
from offramp.runner import loading
from offramp.runner.leaving import LeavingModel
from offramp.runner.rows import Row
from offramp.runner.run import Results, Runner
from offramp.runner.sweep import EveryExit, every_exit
from offramp.text.columns import Columns
from offramp.text.tables import Table
from offramp.training.examples import as_table, examples_of
from offramp.training.peers import (
    OpenPeer,
    apart,
    difference,
    peer_versions,
    reason_of,
    time_beside,
    transformers_model,
    transformers_run,
)
from offramp.training.problems import PROBLEMS, spread, threshold_of, with_threshold
from offramp.training.thresholds import Choice, choose_threshold, default_growth
from offramp.training.timing import Ratio, sample, speed

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
    criterion: Criterion | None = None
    depth: int | None = None
    chosen: bool = False

    @property
    def threshold(self) -> float | None:
        """The criterion's: nats at the first layer, or a distance in the labels' units.

        Of a combination it is the first part's. None for a system without exits, and for a
        criterion that is not of the kind that training chooses.
        """
        return None if self.criterion is None else threshold_of(self.criterion)


@dataclass(frozen=True)
class Evaluation:
    """The table, and what it was measured on.

    `measure` names the score that losses are of: accuracy, `micro_f1` where a row has any number of
    labels, `pearson` for numbers. `loss` is by how much the chosen criterion is below full depth in
    points, hundredths of the measure, with its paired 95% interval over the rows: for accuracy by
    the normal distribution, for the others by 2,000 draws of rows with a fixed seed (bootstrap).
    `positive` is the class whose F1 `f1` is, the second by number, where there are two; else None.
    `transformers_difference` is the most by which a logit of the plain model differs from
    transformers', over the timed rows; `peer_differences` the same of other peers, by name, and
    `absent` why a peer has no times.
    """

    lines: list[Line]
    rows: int
    timed_rows: int
    rounds: int
    loss: tuple[float, float, float]
    transformers_difference: float | None
    choice: Choice | None
    positive: str | None
    machine: dict[str, Any]
    measure: str = "accuracy"
    peer_differences: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON values; criteria as config.json has them."""
        values = dataclasses.asdict(self)
        for line, own in zip(values["lines"], self.lines, strict=True):
            line["criterion"] = None if own.criterion is None else own.criterion.to_dict()
        if self.choice is not None:
            values["choice"]["criterion"] = self.choice.criterion.to_dict()
        return values

    @property
    def chosen(self) -> Line:
        """The line of the criterion that was chosen."""
        return next(line for line in self.lines if line.chosen)

    def truncation_as_good(self, line: Line) -> Line:
        """The shallowest truncated model as good as `line` by the measure, or the plain model."""
        least = line.scores[self.measure]
        good = [
            other
            for other in self.lines
            if other.depth is not None and other.scores[self.measure] >= least
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
    peers: Mapping[str, OpenPeer] | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Evaluation:
    """Measure the model in `directory` on `data`: a table, or rows in memory as for `train`.

    It may be a `Classifier`, a `MultiLabelClassifier` or a `Regressor`; labels and scores are those
    of its training. Scores are over all rows, speeds over `timing_rows` of them picked by a fixed
    seed, every system measured in turn in each of `rounds` rounds on rows encoded beforehand. With
    `dev` the chosen criterion is picked there (see `choose_threshold`: at most `max_loss` points
    lost); else it is the one the model was saved with, whatever its kind.

    `thresholds` are others to report: of `Entropy` in nats at the first layer, of
    `RegressionPatience` in the labels' units. All else is as in the chosen criterion, where that
    asks so (of a combination its first part); beside one of another kind they have the saved
    `Entropy`'s growth or training's, or a patience of 1. By default there are six, from .03 to .5
    times the most entropy that there can be, or the largest change of a number from exit to exit on
    `dev`, or else on `data`. A DriftWarning says that rows leave at other layers than those of the
    model's certificate, if it has one.

    `transformers=None` measures it where it is installed. `peers` are others that run the same
    model: functions of the directory and encoded rows, each giving a call that runs these and
    returns logits [R, C]. One that fails, or has other logits, is named with the reason
    (`Evaluation.absent`).
    """
    data, dev = as_table(data), None if dev is None else as_table(dev)
    picked = sample(len(data), timing_rows, rounds)
    served = served_model(directory)
    model, saved = served.model, served.criterion
    task = task_of(model)
    problem, growth = PROBLEMS[task.kind], _growth(model, saved)
    for threshold in () if thresholds is None else thresholds:
        problem.asking(threshold, growth)  # refused now, and not after the work
    test = examples_of(data, served.tokenizer, model.config)
    choice, on_dev = None, None
    if dev is None:
        saved.check(task)
    else:
        _check_apart(dev, data)
        held = examples_of(dev, served.tokenizer, model.config)
        on_dev = every_exit(model, held.rows)
        choice = choose_threshold(on_dev, held.labels_R, max_loss, growth)
    chosen = saved if choice is None else choice.criterion

    # One pass answers for every system. A row whose score is within rounding of a threshold may
    # differ from the runner's by one exit.
    answers = every_exit(model, test.rows)
    base = problem.asking(0.0, growth) if threshold_of(chosen) is None else chosen
    if thresholds is None:
        thresholds = spread(problem.most(answers if on_dev is None else on_dev))
    others = [with_threshold(base, threshold) for threshold in sorted(set(thresholds))]
    systems = _systems(model, chosen, others)
    results = {name: system.answer(answers) for name, system in systems.items()}

    if choice is None:
        _watch(model, results[_name(chosen)])

    timed = [test.rows[i] for i in picked]
    runs: dict[str, Callable[[], object]] = {
        name: partial(system.runner.run, timed) for name, system in systems.items()
    }
    theirs_differ = None
    ours_RC = systems[PLAIN].runner.run(timed).logits_RC
    if is_available("transformers") if transformers is None else transformers:
        peer = transformers_model(directory)
        run_sorted = transformers_run(peer, timed, sort=True)
        runs[IN_FILE_ORDER] = transformers_run(peer, timed, sort=False)
        runs[SORTED] = run_sorted
        theirs_differ = difference(run_sorted(), ours_RC)
    beside = _opened(peers or {}, Path(directory), timed, ours_RC, progress)
    seconds, failed = time_beside(
        runs, beside.runs, rounds, lambda done, total: progress("time", done, total)
    )

    lines = [
        Line(
            system=name,
            scores=problem.scores(result.logits_RC, test.labels_R),
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
    ]
    loss, low, high = problem.lost(
        results[PLAIN].logits_RC, results[_name(chosen)].logits_RC, test.labels_R
    )
    return Evaluation(
        lines=lines,
        rows=len(test),
        timed_rows=len(timed),
        rounds=rounds,
        loss=(loss * 100, low * 100, high * 100),
        transformers_difference=theirs_differ,
        choice=choice,
        positive=model.config.labels[1] if "f1" in lines[0].scores else None,
        machine=machine() | (peer_versions() if peers else {}),
        measure=problem.measure,
        peer_differences={
            name: most for name, most in beside.differences.items() if name not in failed
        },
        absent=beside.absent | failed,
    )


@dataclass(frozen=True)
class _Peers:
    """Calls that run the timed rows; the most by which their logits differ; why some are absent."""

    runs: dict[str, Callable[[], object]] = field(default_factory=dict)
    differences: dict[str, float] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def _opened(
    peers: Mapping[str, OpenPeer],
    directory: Path,
    timed: Sequence[Row],
    ours_RC: Tensor,
    progress: Progress,
) -> _Peers:
    """The peers that run the model as it is."""
    found = _Peers()
    for done, (name, open_peer) in enumerate(peers.items(), start=1):
        try:
            run = open_peer(directory, timed)
            theirs_RC = run()
        except Exception as error:  # a peer's own fault ends its part, not the measuring
            found.absent[name] = reason_of(error)
        else:
            most = difference(theirs_RC, ours_RC)
            if apart(theirs_RC, ours_RC):
                found.absent[name] = (
                    f"Its logits differ from the plain model's by {most:.1g}: it is another model."
                )
            else:
                found.runs[name], found.differences[name] = run, most
        progress("open", done, len(peers))
    return found


def served_model(directory: str | Path) -> LeavingModel[Any]:
    """The model as what takes its texts; one of a single output as a regressor.

    CheckpointError for a directory that is no model for whole texts.
    """
    whole = loading.task_of(directory) == "classify"
    opened = loading.load(directory, task=None if whole else "classify")
    return PROBLEMS[task_of(opened.model).kind].runner(opened.model, opened.tokenizer)


def _growth(model: PretrainedModel, saved: Criterion) -> float:
    """The saved entropy's, of a combination the first part's; else that of training."""
    while isinstance(saved, (AllOf, AnyOf)):
        saved = saved.of[0]
    if isinstance(saved, Entropy):
        return saved.growth
    return default_growth(cast(ExitableModel, model).stack.n_layers)


def _check_apart(dev: Table, data: Table) -> None:
    """DataError where more than half of the smaller one's texts are in the other too."""
    one, two = set(dev.texts), set(data.texts)
    shared = one & two
    if len(shared) > min(len(one), len(two)) / 2:
        raise DataError(
            f"{len(shared)} texts of {data.source} are in {dev.source} too; a threshold is "
            "chosen on one split and reported on another."
        )


def _watch(model: PretrainedModel, results: Results) -> None:
    """Warn where rows leave elsewhere than in the calibration."""
    certificate = certificate_of(model)
    if certificate is not None:
        ExitWatch(certificate.left).add(Counter(results.exit_layers_R.tolist()))


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
    criterion: Criterion | None = None
    depth: int | None = None

    def answer(self, answers: EveryExit) -> Results:
        """What it answers, from every exit's answers."""
        if self.criterion is not None:
            return answers.apply(self.criterion)
        return answers.cut_off(answers.depths[-1] if self.depth is None else self.depth)


def _systems(
    model: PretrainedModel, chosen: Criterion, others: Iterable[Criterion]
) -> dict[str, _System]:
    systems = {PLAIN: _System(Runner(model, exits=False))}
    for depth in exits_of(model).depths:
        runner = Runner(model, exits=False, depth=depth)
        systems[f"truncated to {depth}"] = _System(runner, depth=depth)
    for criterion in sorted([chosen, *others], key=_by_threshold):
        systems[_name(criterion)] = _System(Runner(model, criterion=criterion), criterion)
    return systems


def _by_threshold(criterion: Criterion) -> float:
    """Criteria without one come first."""
    threshold = threshold_of(criterion)
    return -1.0 if threshold is None else threshold


def _name(criterion: Criterion) -> str:
    threshold = threshold_of(criterion)
    return f"exits by {criterion}" if threshold is None else f"exits at {float(threshold)!r}"
