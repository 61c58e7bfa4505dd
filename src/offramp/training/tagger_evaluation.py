"""`offramp.evaluate_tagger`: what a tagger finds, and how fast beside transformers."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from offramp.backends import is_available
from offramp.runner.head_calls import token_logits
from offramp.runner.loading import load
from offramp.runner.rows import gather, read_tokens
from offramp.runner.tagger import Tagger
from offramp.text.columns import Columns
from offramp.text.tagged import TaggedTable
from offramp.text.tokenizer import Tokens
from offramp.training.entities import EntityScores, entity_f1, word_accuracy
from offramp.training.evaluation import SORTED, Progress, machine
from offramp.training.peers import transformers_model, transformers_tokens
from offramp.training.tagged import as_tagged, known_tags
from offramp.training.timing import Ratio, sample, speed, time_in_turn

OURS = "offramp"


@dataclass(frozen=True)
class TaggerEvaluation:
    """Scores over all sentences, and the wall clock of some of them.

    `accuracy` is the share of words with the right tag. `seconds` is the median over the rounds, by
    system; `speed` how many times as fast offramp is as transformers with sorted batches, and
    `transformers_difference` the most by which their logits differ on the timed sentences.
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
    installed. Raises DataError for a tag that the model has not.
    """
    data = as_tagged(data)
    picked = sample(len(data), timing_rows, rounds)
    tagger = load(directory, task="tag")
    gold = known_tags(data, tagger.labels)
    timed = [
        row for group in tagger.word_windows([data.words[i] for i in picked]) for row in group.rows
    ]

    def ours() -> list[Tensor]:
        return _read(tagger, timed)

    runs: dict[str, Callable[[], object]] = {OURS: ours}
    difference = None
    if is_available("transformers") if transformers is None else transformers:
        peer = transformers_model(directory, "AutoModelForTokenClassification")
        theirs = transformers_tokens(peer, timed, sort=True)
        pairs = zip(ours(), theirs(), strict=True)
        difference = max((one - other).abs().max().item() for one, other in pairs)
        runs[SORTED] = theirs
    seconds = time_in_turn(runs, rounds, lambda done, total: progress("time", done, total))
    predicted = tagger.predict_words(data.words)
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
    )


def _read(tagger: Tagger, rows: list[Tokens]) -> list[Tensor]:
    """Each row's logits [L, C], a window of rows after the other, as prediction reads them."""
    head = token_logits(tagger.model)
    device = tagger.model.device
    return [
        logits_LC
        for window in gather(rows)
        for logits_LC in read_tokens(tagger.stack, window, head, device)
    ]
