"""What the sections measure: the models, the rows, and how often."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from torch import Tensor

import offramp
from offramp.bench.comparing import PEERS, Comparison, compare
from offramp.models.base import PretrainedModel
from offramp.text.tokenizer import Encoded
from running.figures import Report
from sst2 import examples, trained

T = TypeVar("T")

IN_FILE_ORDER = "transformers, file order"
SORTED = "transformers, sorted"
ONNX = "ONNX Runtime, sorted"
CT2 = "CTranslate2, sorted"
CT2_INT8 = "CTranslate2 int8, sorted"


@dataclass
class Setting:
    """The options, and what is made of them once."""

    options: argparse.Namespace
    report: Report

    @cached_property
    def directories(self) -> list[Path]:
        """The trained models, one a seed."""
        return trained(self.options)

    @cached_property
    def classifier(self) -> offramp.Classifier:
        """The first seed's."""
        return offramp.load(self.directories[0], task="classify")

    @cached_property
    def rows(self) -> list[Encoded]:
        """The test rows that are timed."""
        return spread(self.test(self.classifier)[0], self.options.rows)

    def test(self, classifier: offramp.Classifier) -> tuple[list[Encoded], Tensor]:
        """All test rows and their labels [R]."""
        test = examples(classifier, self.options.data / "test.jsonl")
        return test.rows, test.labels_R

    def compared(
        self,
        directory: Path,
        model: PretrainedModel,
        rows: Sequence[Encoded],
        *peers: str,
        int8: PretrainedModel | None = None,
    ) -> Comparison:
        """offramp and some peers, in turn; what is absent is printed."""
        found = compare(
            directory,
            model,
            rows,
            rounds=self.options.rounds,
            int8=int8,
            peers={name: PEERS[name] for name in peers},
        )
        for name, reason in found.absent.items():
            print(f"  {name}: not measured. {reason}")
        for line in found.lines:
            if line.differs:
                self.report.missed.append(f"{self.report.section}: {line.engine}'s logits")
                print(f"  {line.engine} answers otherwise, by {line.difference:.1e}")
        return found


def spread(items: Sequence[T], count: int) -> list[T]:
    """So many of the items at most, evenly spread."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]
