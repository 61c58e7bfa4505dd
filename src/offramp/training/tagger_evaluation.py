"""`offramp.evaluate_tagger`: what a tagger finds, and how fast beside transformers."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from offramp.backends import is_available
from offramp.exits.calibration.certificate import certificate_of
from offramp.exits.calibration.drift import ExitWatch
from offramp.runner.loading import load
from offramp.runner.rows import CountedRow
from offramp.runner.run import Runner
from offramp.text.columns import Columns
from offramp.text.tagged import TaggedTable
from offramp.training.entities import EntityScores, entity_f1, word_accuracy
from offramp.training.evaluation import PLAIN, SORTED, Progress, machine
from offramp.training.peers import transformers_model, transformers_tokens
from offramp.training.scoring import evaluate_exits
from offramp.training.tagged import as_tagged, known_tags, to_tagged_examples
from offramp.training.timing import Ratio, sample, speed, time_in_turn

OURS = "offramp"


@dataclass(frozen=True)
class TaggerEvaluation:
    """Scores over all sentences, and the wall clock of some of them.

    `accuracy` is the share of words with the right tag. `seconds` is the median over the rounds, by
    system; `speed` how many times as fast offramp is as transformers with sorted batches, and
    `transformers_difference` the most by which their logits differ on the timed sentences, at full
    depth.

    Of a tagger with exits the scores are those of the exits where sentences leave, with the
    criterion that it was saved with: after `mean_layers` layers. `f1_by_depth` is what each exit
    would give alone, the model's own head last, and `exits_speed` how many times as fast the exits
    make it.
    """

    entities: EntityScores
    accuracy: float
    rows: int
    words: int
    timed_rows: int
    rounds: int
    seconds: dict[str, float]
    speed: Ratio | None
    transformers_difference: float | None
    machine: dict[str, Any]
    mean_layers: float
    f1_by_depth: dict[str, float] = field(default_factory=dict)
    exits_speed: Ratio | None = None

    @property
    def rows_per_second(self) -> dict[str, float]:
        """Sentences a second, by system."""
        return {name: self.timed_rows / seconds for name, seconds in self.seconds.items()}

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {**dataclasses.asdict(self), "rows_per_second": self.rows_per_second}


def evaluate_tagger(
    directory: str | Path,
    data: TaggedTable | Columns,
    *,
    rounds: int = 5,
    timing_rows: int = 1000,
    transformers: bool | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> TaggerEvaluation:
    """Measure the tagger in `directory` on `data`.

    That is a table, or rows in memory as `train_tagger` takes them. Scores are over all sentences,
    exact spans as seqeval counts them by default. Speeds are over `timing_rows` of them picked by a
    fixed seed, encoded beforehand, offramp and transformers (in padded batches of 32, sorted by
    length) measured in turn in each of `rounds` rounds. `transformers=None` measures it where it is
    installed. A DriftWarning says that rows leave at other layers than those of the model's
    certificate, if it has one. Raises DataError for a tag that the model has not.
    """
    data = as_tagged(data)
    picked = sample(len(data), timing_rows, rounds)
    tagger = load(directory, task="tag")
    gold = known_tags(data, tagger.labels)
    words = [data.words[i] for i in picked]
    timed = [row for group in tagger.counted_windows(words) for row in group.rows]
    has_exits = hasattr(tagger.model, "exits")
    plain = partial(_read, Runner(tagger.model, exits=False), timed)
    runs: dict[str, Callable[[], object]] = {OURS: plain}
    if has_exits:
        runs = {OURS: partial(_read, Runner(tagger.model), timed), PLAIN: plain}
    difference = None
    if is_available("transformers") if transformers is None else transformers:
        peer = transformers_model(directory, "AutoModelForTokenClassification")
        theirs = transformers_tokens(peer, timed, sort=True)
        pairs = zip(plain(), theirs(), strict=True)
        difference = max((one - other).abs().max().item() for one, other in pairs)
        runs[SORTED] = theirs
    seconds = time_in_turn(runs, rounds, lambda done, total: progress("time", done, total))
    certificate = certificate_of(tagger.model)
    tagger.watch = None if certificate is None else ExitWatch(certificate.left)
    told: list[float] = []
    predicted = tagger.predict_words(
        data.words, progress=lambda so_far: told.append(so_far.mean_layers)
    )
    f1_by_depth: dict[str, float] = {}
    if has_exits:
        examples = to_tagged_examples(data, tagger, tagger.model.config.label2id)
        f1_by_depth = evaluate_exits(tagger.model, examples)["dev_f1_by_depth"]
    return TaggerEvaluation(
        entities=entity_f1(gold, predicted),
        accuracy=word_accuracy(gold, predicted),
        rows=len(data),
        words=sum(map(len, data.words)),
        timed_rows=len(picked),
        rounds=rounds,
        seconds={name: statistics.median(values) for name, values in seconds.items()},
        speed=speed(seconds[OURS], seconds[SORTED]) if SORTED in seconds else None,
        transformers_difference=difference,
        machine=machine(),
        mean_layers=told[-1],
        f1_by_depth=f1_by_depth,
        exits_speed=speed(seconds[OURS], seconds[PLAIN]) if has_exits else None,
    )


def _read(runner: Runner, rows: list[CountedRow]) -> list[Tensor]:
    """Each row's logits [L, C], a window of rows after the other, as prediction reads them."""
    return [result.logits_C for result in runner.stream(rows)]
