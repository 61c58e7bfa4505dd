"""`offramp.report`: a model measured on rows, as numbers, JSON and a page."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from offramp.backends import is_available
from offramp.bench.apart import ENGINES, Apart
from offramp.bench.engine import Run, Setting
from offramp.errors import ConfigError, SaveError
from offramp.exits.calibration.certificate import Certificate, certificate_of
from offramp.exits.container import task_of
from offramp.models.config_file import CONFIG_FILE
from offramp.reporting.answers import label_words, said
from offramp.reporting.examples import LONGEST_NAME, Examples, cut, examples
from offramp.reporting.markdown import markdown
from offramp.reporting.page import page, plot_style
from offramp.reporting.plot import standalone
from offramp.reporting.reliability import Reliability, reliability
from offramp.reporting.trade import headline
from offramp.runner.rows import Row
from offramp.runner.run import Results
from offramp.runner.sweep import EveryExit, every_exit
from offramp.runner.text_model import WHOLE
from offramp.storage.files import write_file
from offramp.text.columns import Columns
from offramp.text.tables import Table
from offramp.training.evaluation import (
    IN_FILE_ORDER,
    PLAIN,
    SORTED,
    Evaluation,
    Line,
    Progress,
    evaluate,
    served_model,
)
from offramp.training.examples import as_table, examples_of
from offramp.training.peers import OpenPeer
from offramp.training.problems import PROBLEMS, Problem
from offramp.training.timing import Ratio

FORMAT = 1
PEERS = ("ONNX Runtime, sorted", "CTranslate2, sorted")
"""Engines beside transformers, in the model's own precision; each has one order of rows."""
BATCH = 32  # rows of a peer's padded batch, as of transformers'


@dataclass(frozen=True)
class System:
    """One way to run the rows: `kind` is `plain`, `truncated`, `exits` or `peer`.

    `speed` is times as fast as the plain model. `seconds_per_million` is wall clock for a million
    rows like these, encoded already: the plain model's by the median of the rounds, any other's by
    that and its speed, because the ratio of one round's times moves less than the times. `lost` is
    by how many points (hundredths of the measure) it is below the plain model, with the paired 95%
    interval. A peer's scores are the plain model's, whose logits it has
    (`Evaluation.transformers_difference` and `peer_differences`). `left` is how many rows took
    their answer from each of `Report.depths`.
    """

    name: str
    kind: str
    scores: dict[str, float]
    lost: tuple[float, float, float]
    speed: Ratio
    seconds_per_million: float
    mean_layers: float
    left: list[int]
    criterion: dict[str, Any] | None = None
    threshold: float | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Ramp:
    """What an exit answers to all rows; the deepest is the model's own head.

    `reliability` is None where the model says numbers.
    """

    depth: int
    scores: dict[str, float]
    reliability: Reliability | None


@dataclass(frozen=True)
class Report:
    """All that the page shows. `evaluation` is where speeds and scores are from.

    `certificate` is the model's, where it has one that holds; it is of the criterion that the model
    was saved with, and `is_certified` says whether the chosen one is that. `price_per_hour` is of
    the machine, in any currency.
    """

    model: str
    data: str
    date: str
    kind: str
    evaluation: Evaluation
    depths: tuple[int, ...]
    systems: list[System]
    ramps: list[Ramp]
    examples: Examples
    certificate: Certificate | None
    price_per_hour: float | None

    @property
    def is_certified(self) -> bool:
        """Whether the certificate is of the criterion that the page reports."""
        chosen = self.evaluation.chosen.criterion
        if chosen is None or self.certificate is None:
            return False
        return _plain(chosen.to_dict()) == _plain(self.certificate.to_dict()["criterion"])

    @property
    def headline(self) -> str:
        """What the page says first."""
        return headline(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """JSON values; the page is made of these alone."""
        evaluation, proved = self.evaluation, self.certificate
        certificate = None
        if proved is not None:
            certificate = {
                **proved.to_dict(),
                "sentence": str(proved),
                "guarantees": proved.guarantees,
                "is_of_chosen": self.is_certified,
            }
        values = {
            "format": FORMAT,
            "model": self.model,
            "data": self.data,
            "date": self.date,
            "kind": self.kind,
            "measure": evaluation.measure,
            "rows": evaluation.rows,
            "timed_rows": evaluation.timed_rows,
            "rounds": evaluation.rounds,
            "depths": self.depths,
            "systems": [dataclasses.asdict(system) for system in self.systems],
            "ramps": [dataclasses.asdict(ramp) for ramp in self.ramps],
            "examples": dataclasses.asdict(self.examples),
            "certificate": certificate,
            "price_per_hour": self.price_per_hour,
            "transformers_difference": evaluation.transformers_difference,
            "peer_differences": evaluation.peer_differences,
            "absent": evaluation.absent,
            "machine": evaluation.machine,
        }
        return _plain(values)


def report(
    directory: str | Path,
    data: Table | Columns,
    *,
    dev: Table | Columns | None = None,
    output: str | Path | None = "report.html",
    plot: str | Path | None = None,
    table: str | Path | None = None,
    price_per_hour: float | None = None,
    thresholds: Sequence[float] | None = None,
    max_loss: float = 0.25,
    rounds: int = 5,
    timing_rows: int = 1000,
    transformers: bool | None = None,
    peers: bool | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Report:
    """Measure the model in `directory` on `data`, and write a page about it: one HTML file.

    The page needs no network. Its numbers lie beside it as JSON, under the same name. With
    `output=None` no page is written. `plot` is a file for the plot alone, an SVG that a README can
    show, and `table` one for the table of systems in Markdown. What is measured, and what `dev`,
    `thresholds`, `max_loss`, `rounds`, `timing_rows` and `transformers` mean, is as of `evaluate`.
    `peers=None` measures ONNX Runtime and CTranslate2 too where they are installed, unless
    `transformers=False`: they get the model through it. One that cannot run the model is named on
    the page with the reason. `price_per_hour` is what an hour of this machine costs; without it the
    page counts hours.

    The page quotes texts of `data`, up to 24 rows: mind who may see it.
    """
    if price_per_hour is not None and not 0 <= price_per_hour < float("inf"):
        raise ConfigError(f"price_per_hour is a number, at least 0; got {price_per_hour}.")
    files = None if output is None else report_files(output)
    check_endings(plot, table)
    rows = as_table(data)
    evaluation = evaluate(
        directory,
        rows,
        dev=dev,
        thresholds=thresholds,
        max_loss=max_loss,
        rounds=rounds,
        timing_rows=timing_rows,
        transformers=transformers,
        peers=_peers(transformers is not False if peers is None else peers),
        progress=progress,
    )
    found = _report(Path(directory), rows, evaluation, price_per_hour)
    if files is not None:
        values = found.to_dict()
        html, beside = files
        write_file(beside, json.dumps(values, indent=2) + "\n")
        write_file(html, page(values))
    if plot is not None:
        write_file(Path(plot), standalone(found.to_dict(), plot_style()))
    if table is not None:
        write_file(Path(table), markdown(found.to_dict()))
    return found


def _peers(wanted: bool) -> dict[str, OpenPeer]:
    """Those of `PEERS` that are installed."""
    here = (name for name in PEERS if all(map(is_available, ENGINES[name].packages)))
    return {name: partial(_open, name) for name in here} if wanted else {}


def _open(name: str, directory: Path, rows: Sequence[Row]) -> Run:
    return Apart(directory, Setting(BATCH, torch.get_num_threads()), name=name).prepare(rows)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """As JSON gives them back."""
    return dict(json.loads(json.dumps(values, allow_nan=False)))


def report_files(output: str | Path) -> tuple[Path, Path]:
    """The page's file and that of its numbers; SaveError where they cannot be."""
    html = Path(output)
    if html.suffix not in (".html", ".htm"):
        raise SaveError(f"{html} is no name of a page; call it {html.with_suffix('.html').name}.")
    files = html, html.with_suffix(".json")
    for file in files:
        if file.is_dir():
            raise SaveError(f"{file} is a directory; a report writes a file of that name.")
        if file.name == CONFIG_FILE or WHOLE.fullmatch(file.name):
            raise SaveError(f"{file} is a name that a model is read by; call the page otherwise.")
    return files


def check_endings(plot: str | Path | None, table: str | Path | None) -> None:
    """SaveError for a plot that is no SVG by its name, and a table that is no Markdown."""
    for what, file, ending in (("plot", plot, ".svg"), ("table", table, ".md")):
        if file is not None and Path(file).suffix != ending:
            raise SaveError(f"{file} is no name of a {what}; call it {Path(file).stem}{ending}.")


def _report(
    directory: Path, table: Table, evaluation: Evaluation, price_per_hour: float | None
) -> Report:
    served = served_model(directory)
    model = served.model
    kind, names = task_of(model).kind, model.config.labels
    test = examples_of(table, served.tokenizer, model.config)
    answers = every_exit(model, test.rows)
    served.check_finite(answers.logits_ERC)
    measured = _Measured(answers, test.labels_R, PROBLEMS[kind], evaluation)

    chosen = evaluation.chosen.criterion
    assert chosen is not None  # exits were chosen, and have one
    by_exits = answers.apply(chosen)
    fast = said(kind, by_exits.logits_RC, test.labels_R, names)
    full = said(kind, answers.logits_ERC[-1], test.labels_R, names)
    words = label_words(kind, test.labels_R, names)
    ramps = []
    for depth, logits_RC in zip(answers.depths, answers.logits_ERC, strict=True):
        claims = said(kind, logits_RC, test.labels_R, names).claims
        reliable = None if claims is None else reliability(*claims)
        ramps.append(Ramp(depth, measured.problem.scores(logits_RC, test.labels_R), reliable))
    return Report(
        model=cut(directory.resolve().name, LONGEST_NAME),
        data=cut(Path(table.source).name, LONGEST_NAME),
        date=datetime.date.today().isoformat(),
        kind=kind,
        evaluation=evaluation,
        depths=answers.depths,
        systems=[*map(measured.system, evaluation.lines), *measured.peers()],
        ramps=ramps,
        examples=examples(table.texts, words, fast, full, by_exits.exit_layers_R.tolist()),
        certificate=certificate_of(model),
        price_per_hour=price_per_hour,
    )


def _kind(line: Line) -> str:
    if line.criterion is not None:
        return "exits"
    return "plain" if line.depth is None else "truncated"


@dataclass(frozen=True)
class _Measured:
    """Every exit's answers beside what `evaluate` measured of the same rows."""

    answers: EveryExit
    labels_R: Tensor
    problem: Problem
    evaluation: Evaluation

    @property
    def plain(self) -> Line:
        """The plain model's line."""
        return next(line for line in self.evaluation.lines if line.system == PLAIN)

    def system(self, line: Line) -> System:
        """A line of the evaluation, with what it loses and where rows leave."""
        given, speed = self._given(line), line.speed.get(PLAIN, Ratio(1.0, 1.0, 1.0))
        layers_R, a_row = given.exit_layers_R, self.plain.seconds / self.evaluation.timed_rows
        full_RC = self.answers.logits_ERC[-1]
        lost = self.problem.lost(full_RC, given.logits_RC, self.labels_R)
        return System(
            name=line.system,
            kind=_kind(line),
            scores=line.scores,
            lost=(lost[0] * 100, lost[1] * 100, lost[2] * 100),
            speed=speed,
            seconds_per_million=a_row * 1e6 / speed.median,
            mean_layers=line.mean_layers,
            left=[int((layers_R == depth).sum()) for depth in self.answers.depths],
            criterion=None if line.criterion is None else line.criterion.to_dict(),
            threshold=line.threshold,
            chosen=line.chosen,
        )

    def peers(self) -> list[System]:
        """Those of which the evaluation has how many times as fast the plain model is."""
        plain = self.system(self.plain)
        return [
            dataclasses.replace(
                plain,
                name=name,
                kind="peer",
                speed=Ratio(1 / ratio.median, 1 / ratio.high, 1 / ratio.low),
                seconds_per_million=plain.seconds_per_million * ratio.median,
            )
            for name, ratio in self.plain.speed.items()
            if name in (IN_FILE_ORDER, SORTED, *self.evaluation.peer_differences)
        ]

    def _given(self, line: Line) -> Results:
        if line.criterion is not None:
            return self.answers.apply(line.criterion)
        depth = self.answers.depths[-1] if line.depth is None else line.depth
        return self.answers.cut_off(depth)
