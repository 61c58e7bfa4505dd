"""Early exits: which schedule and which criterion, on several sets, by the wall clock.

    python benchmarks/exits.py --data ../shared/data

all-MiniLM-L6-v2 is fine-tuned with exits on each set; a criterion's threshold is chosen on dev for
a speed of 1.5, 2 and 3 times the plain model's, and what it loses there is read on test. Truncation
is the same model cut off where it is as fast: between two depths, a draw between them.

- speeds: forget the times and measure them again, on a machine that does nothing else
- grid: all schedules with all criteria on SST-2 and TREC, by the first seed; speeds are read off
  a line for each criterion, some points of which are measured
- poolers: what ramps read the tokens with, on SST-2 and TREC, by the first seed
- best: the two pairs of a schedule and a criterion that were best on dev there (or `--pairs`), on
  all sets and by all seeds; their points are measured, and the library's default, which is among
  them, is held against the bars

Sections that `--only` names come in this order; `grid` and `best` by default, which measure what
was never measured. What is trained and measured is kept under `--runs`, and a run that was stopped
goes on. The recipes are those of benchmarks/exiting/sets.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from exiting.best import best, speeds
from exiting.families import FAMILIES
from exiting.grid import grid
from exiting.poolers import poolers
from exiting.sets import RECIPES
from exiting.setting import Pair, Setting
from offramp.training.evaluation import machine
from offramp.training.options import PRECISIONS, SCHEDULES

SECTIONS = {section.__name__: section for section in (speeds, grid, poolers, best)}


def main() -> None:
    options = arguments()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    print(f"machine: {machine()}")
    print(f"rows timed: {options.rows}; rounds: {options.rounds}; seeds: {options.seeds}")
    setting = Setting(options)
    for name, section in SECTIONS.items():
        if name in options.only:
            section(setting)
    missed = setting.report.missed
    print("\n" + ("every bar is met" if not missed else f"missed: {', '.join(missed)}"))
    if options.check and missed:
        sys.exit(1)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of all sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/exits"))
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=["grid", "best"])
    parser.add_argument("--sets", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 4, 5])
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES))
    parser.add_argument(
        "--pairs", nargs="+", type=pair, default=[], help="such as `joint: entropy, growing`"
    )
    parser.add_argument(
        "--shorter", action="store_true", help="in `best`, fine-tune models of fewer layers too"
    )
    parser.add_argument("--rows", type=int, default=500, help="test rows timed, evenly spread")
    parser.add_argument("--rows-cap", type=int, help="rows of each split at most, for trials")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="that models are trained in"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--check", action="store_true", help="exit 1 where a bar is missed")
    return parser.parse_args()


def pair(said: str) -> Pair:
    """As it is shown; what is not known is refused."""
    schedule, _, family = map(str.strip, said.partition(":"))
    known = {name for families in FAMILIES.values() for name in families}
    if schedule not in SCHEDULES or family not in known:
        raise argparse.ArgumentTypeError(
            f"{said!r} is no schedule ({', '.join(SCHEDULES)}), colon and criterion "
            f"({'; '.join(sorted(known))})"
        )
    return Pair(schedule, family)


if __name__ == "__main__":
    main()
