"""A plain forward of every family, against transformers': padded batches of text as it comes.

    python benchmarks/forward.py --data ../shared/data/sst2/test.jsonl

For each family a sequence classifier of random weights, made by transformers and opened by both
sides, answers the same rows in padded batches: in the order of the file, sorted by length, and one
row at a time. The sides are measured in turn in one run; quoted are medians of the rounds' ratios
with their 95% interval. Both answers are compared first. Sizes: `small` is MiniLM's (6 layers of
384), `base` is bert-base's. `--lines` prints how long the families' files are instead.

Without `--data` the rows are sentences of Python's own documentation. With `--check` it exits 1,
naming them, where a ratio misses its bar.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported

import torch
import transformers
from torch import Tensor

import offramp
from offramp.cli.stdlib_corpus import read_corpus
from offramp.models.names import model_directory
from offramp.models.registry import FAMILIES
from offramp.text.encoded import Encoded
from offramp.training.evaluation import machine
from offramp.training.timing import Ratio, speed, time_in_turn

SEED = 0
SIZES = {"small": (384, 6, 12, 1536), "base": (768, 12, 12, 3072)}
"""Width, layers, heads, the perceptron's width."""
BATCH = 32
BARS = {"file order": 1.5, "sorted": 1.0, "one by one": 1.0}
"""How many times as fast as transformers at least, by the order of rows."""
SAME = ("xlm-roberta", "camembert")
"""model_types whose network is another's."""

Batch = dict[str, Tensor]


def main() -> None:
    options = arguments()
    if options.lines:
        count_lines()
        return
    rows = read_rows(options.data, options.rows)
    print(f"machine: {machine()}; torch {torch.__version__}; threads {torch.get_num_threads()}")
    print(f"seed {SEED}, {options.size}, {len(rows)} rows of {tokens_a_row(rows):.1f} tokens, ")
    print(f"rounds {options.rounds}; times as fast as transformers {transformers.__version__}:\n")
    print(f"{'family':12} " + " ".join(f"{order:>24}" for order in BARS))
    missed = []
    for model_type in options.families or [name for name in FAMILIES if name not in SAME]:
        ratios = measure(model_type, rows, options)
        cells = " ".join(f"{shown(ratio):>24}" for ratio in ratios.values())
        print(f"{model_type:12} {cells}", flush=True)
        missed += [f"{model_type} {name}" for name, r in ratios.items() if r.median < BARS[name]]
    if options.check and missed:
        sys.exit(f"bars missed: {', '.join(missed)}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="a table of texts")
    parser.add_argument("--rows", type=int, default=512, help="so many of its rows, evenly spread")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--families", nargs="+", choices=list(FAMILIES))
    parser.add_argument("--lines", action="store_true")
    parser.add_argument("--check", action="store_true", help="exit 1 where a bar is missed")
    return parser.parse_args()


def read_rows(data: Path | None, count: int) -> list[Encoded]:
    """Rows of WordPiece ids: what they are called does not matter to random weights."""
    texts: Sequence[Any]
    if data is None:
        texts = [text for text, _ in read_corpus()["train"]]
    else:
        texts = offramp.read_table(data, label=None).texts
    spread = [texts[i * len(texts) // count] for i in range(count)] if len(texts) > count else texts
    return offramp.Tokenizer.from_pretrained(model_directory("all-MiniLM-L6-v2")).encode(spread)


def measure(model_type: str, rows: list[Encoded], options: argparse.Namespace) -> dict[str, Ratio]:
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = models(model_type, options.size, Path(folder))
        ratios = {}
        for order in BARS:
            batches = padded(rows if order != "one by one" else rows[::8], order, theirs.config)
            check_answers(ours, theirs, batches)
            seconds = time_in_turn(
                {"offramp": partial(run, ours, batches), "theirs": partial(run, theirs, batches)},
                options.rounds,
            )
            ratios[order] = speed(seconds["offramp"], seconds["theirs"])
    return ratios


def models(model_type: str, size: str, folder: Path) -> tuple[Any, Any]:
    """transformers' classifier with random weights, and what offramp opens of it."""
    width, layers, heads, middle = SIZES[size]
    family = FAMILIES[model_type].classes
    config = getattr(transformers, f"{family}Config")()
    numbers = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "hidden_dim" if model_type == "distilbert" else "intermediate_size": middle,
        "max_position_embeddings": 514,
        "vocab_size": 30527,
    }
    for name, value in numbers.items():
        setattr(config, name, value)
    torch.manual_seed(SEED)
    theirs = getattr(transformers, f"{family}ForSequenceClassification")(config).eval()
    with no_progress_bars():
        theirs.save_pretrained(folder)
    ours = getattr(offramp, f"{family}ForSequenceClassification").from_pretrained(folder)
    return theirs, ours


def padded(rows: Sequence[Encoded], order: str, config: Any) -> list[Batch]:
    """The rows in padded batches of ids and mask, as both sides take them."""
    pad = config.pad_token_id
    if order == "sorted":
        rows = sorted(rows, key=lambda row: len(row.ids))
    size = 1 if order == "one by one" else BATCH
    batches = []
    for start in range(0, len(rows), size):
        ids = [torch.from_numpy(row.ids) for row in rows[start : start + size]]
        ids = [row.masked_fill(row == pad, pad + 1) for row in ids]  # no text is padding
        ids_BL = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad)
        batches.append({"input_ids": ids_BL, "attention_mask": (ids_BL != pad).long()})
    return batches


@torch.inference_mode()
def run(model: Any, batches: list[Batch]) -> list[Tensor]:
    return [model(**batch).logits for batch in batches]


def check_answers(ours: Any, theirs: Any, batches: list[Batch]) -> None:
    for one, two in zip(run(ours, batches[:4]), run(theirs, batches[:4]), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def shown(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def tokens_a_row(rows: Sequence[Encoded]) -> float:
    return sum(len(row.ids) for row in rows) / len(rows)


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """transformers', which would be drawn into the table."""
    drawn = transformers.logging.is_progress_bar_enabled()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            transformers.logging.enable_progress_bar()


def count_lines() -> None:
    """Lines of each family's file, and of transformers' two without classes that are not here."""
    print(f"{'family':12} {'offramp':>8} {'transformers':>13}")
    for model_type, family in FAMILIES.items():
        if model_type in SAME:
            continue
        mine = Path(inspect.getfile(getattr(offramp, f"{family.classes}Model")))
        theirs = [getattr(transformers, f"{family.classes}{part}") for part in ("Model", "Config")]
        count = sum(lines(Path(inspect.getfile(kind)), family.classes) for kind in theirs)
        print(f"{model_type:12} {lines(mine, ''):8} {count:13}")


def lines(path: Path, family: str) -> int:
    """A file's lines, but for its classes of tasks that offramp's family has not."""
    text = path.read_text(encoding="utf-8")
    absent = [
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef)
        and family
        and node.name.startswith((f"{family}For", f"{family}LMHeadModel"))
        and node.name not in offramp.__all__
        and hasattr(transformers, node.name)
    ]
    left_out = sum((node.end_lineno or 0) - start(node) + 1 for node in absent)
    return len(text.splitlines()) - left_out


def start(node: ast.ClassDef) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])


if __name__ == "__main__":
    main()
