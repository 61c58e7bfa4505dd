"""Rows that attack the page, for random models with exits."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exit_models import WORDS

from offramp.exits.criteria import FixedDepth
from offramp.reporting.measuring import Report
from offramp.runner.loading import load
from offramp.text.tables import Table

HOSTILE = (
    "<script>window.broken = 1</script>",
    "</script><img src=x onerror='window.broken = 1'>",
    "<!-- <script>",
    '" autofocus onfocus="window.broken = 1',
    "]]></svg></title><h1>not mine</h1>",
    "\u202egnp.exe \u0000 \u2028 &amp; &lt;b&gt;",
)
LABELS = ("film", "<i>music</i>", "story & </script>")
QUICK: dict[str, Any] = {"rounds": 2, "timing_rows": 8, "transformers": False, "output": None}


@dataclass(frozen=True)
class Measured:
    """A model in `place`, rows for it, and their report."""

    place: Path
    table: Table
    report: Report


def rows(place: Path, kind: str, n_rows: int = 60) -> Table:
    """Hostile texts, with what the model says of them at full depth, and every fifth turned."""
    rng = random.Random(5)
    texts = [
        f"{' '.join(rng.choices(WORDS, k=rng.randint(3, 12)))} {HOSTILE[i % len(HOSTILE)]}"
        for i in range(n_rows)
    ]
    task = {"regression": "regress", "multi_label_classification": "multilabel"}.get(kind)
    served = load(place, task=task)
    served.criterion = FixedDepth(4)
    labels: list[Any] = []
    for answer in served.predict(texts):
        turned = rng.random() < 0.2
        if kind == "regression":
            labels.append(repr(answer.value + rng.gauss(0, 1)))
        elif kind == "multi_label_classification":
            labels.append(() if turned else answer.labels)
        else:
            labels.append(rng.choice(LABELS) if turned else answer.label)
    return Table("rows <of> it.jsonl", [*texts], labels)
