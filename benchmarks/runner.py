"""The runner: what its speed, its memory and its answers are held to.

    python benchmarks/runner.py --data ../shared/data/sst2

Each section prints its figures and their bars:

- plain: the model without exits against transformers, ONNX Runtime and CTranslate2 in float32
- exits: points lost and speeds with exits, the mean of the seeds
- ratio: speed-up over the plain model, of the layers saved
- never: exits that no row takes, against the plain model
- doubt: every row's answer hangs on the last digits at every exit, against the plain model
- rate: float32 products a second of the whole forward, of those of bare products
- memory: resident memory while `--stream-rows` rows are streamed
- cases: `--cases` random batches, windows, orders and thresholds, against rows alone
- base: plain, exits, ratio and never for a BERT-base of random weights

`--only` picks some. Sides are measured in turn in one run; quoted are medians of the rounds' ratios
with their 95% interval. The data and the models: see benchmarks/sst2.py; models that are trained
already are taken from `--runs`. Which matrix products CTranslate2 has is for its environment
variables to say (CT2_USE_MKL=1): measure it both ways. With `--check` it exits 1 where a bar is
missed.
"""

from __future__ import annotations

import argparse
import sys

import torch

from offramp.training.evaluation import machine
from running.base import base
from running.cases import cases
from running.figures import Report
from running.memory import memory
from running.rate import rate
from running.setting import Setting
from running.speeds import doubt, exits, never, plain, ratio
from sst2 import add_options

SECTIONS = {
    section.__name__: section
    for section in (plain, exits, ratio, never, doubt, rate, memory, cases, base)
}


def main() -> None:
    options = arguments()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    print(f"machine: {machine()}")
    print(f"rows: {options.rows}; rounds: {options.rounds}; seeds: {options.seeds}")
    setting = Setting(options, Report())
    for name in options.only:
        SECTIONS[name](setting)
    missed = setting.report.missed
    print("\n" + ("every bar is met" if not missed else f"missed: {', '.join(missed)}"))
    if options.check and missed:
        sys.exit(1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser)
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--rows", type=int, default=2000, help="test rows timed, evenly spread")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--stream-rows", type=int, default=1_000_000)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--first-case", type=int, default=0, help="where a stopped run goes on")
    parser.add_argument("--base-rows", type=int, default=256)
    parser.add_argument("--check", action="store_true", help="exit 1 where a bar is missed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
