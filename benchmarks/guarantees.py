"""Guarantees: how often a calibration's promise is kept, and what it leaves of the speed.

    python benchmarks/guarantees.py --data ../shared/data

A population are rows with every exit's answers: test and dev rows of SST-2, banking77 and MRPC by
models that benchmarks/exits.py trains (schedule `joint`, first seed), and simulated ones. From each
1,000 calibration sets of 1,000 rows are drawn with replacement, every method chooses a threshold on
each, and the risk at it is the population's own, exactly. By `ltt` and `ucb` it may be above the
most allowed in a share of draws of delta (and a binomial 99% band about that); by `crc` its mean
may not. On SST-2 the speed of what was chosen is measured in turn with the plain model's.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from exiting.models import Model
from exiting.sets import DataSet
from offramp.exits.calibration.control import METHODS, SURE, Losses, Target, choose
from offramp.exits.calibration.paths import Grounds, path_of
from offramp.exits.criteria import Criterion, Entropy
from offramp.runner.run import Results
from offramp.runner.sweep import EveryExit
from offramp.training.evaluation import machine
from offramp.training.speeds import speeds_of
from offramp.training.thresholds import default_growth
from running.figures import Report

SETS = ("sst2", "banking77", "mrpc")
LEAST_SPEED = 1.5


@dataclass(frozen=True)
class Population:
    """Rows, what each step of a path costs each of them, and how many layers that takes."""

    name: str
    losses: Losses
    mean_layers: list[float]
    n_layers: int


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    print(f"machine: {machine()}")
    print(f"draws: {options.draws} of {options.rows}; risk {options.max_risk}")
    target, report = Target(options.max_risk, options.confidence), Report()
    for population in populations(options):
        report.begin(population.name, f"{len(population.losses)} rows")
        for method in METHODS:
            keep(report, population, method, target, options)
    if "sst2" in options.sets:
        speed(report, options, target)
    print("\n" + ("every bar is met" if not report.missed else f"missed: {report.missed}"))
    if options.check and report.missed:
        sys.exit(1)


def keep(
    report: Report, population: Population, method: str, target: Target, options: argparse.Namespace
) -> None:
    """How often, or by how much, a method's choice is too risky."""
    steps = drawn_steps(population.losses, method, target, options)
    risk_P = population.losses.values_PR.double().mean(1)
    risks = [risk_P[step].item() for step in steps]
    layers = statistics.fmean(population.mean_layers[step] for step in steps)
    saved = f"{population.n_layers / layers:.2f}x by layers"
    above = sum(risk > target.max_risk for risk in risks) / len(risks)
    band = 2.576 * math.sqrt(target.level * (1 - target.level) / len(risks))
    most_above = target.level + band if method in SURE else None
    report.figure(f"{method}: share of draws above", above, most=most_above, digits=3)
    most_mean = target.max_risk if method == "crc" else None
    mean = statistics.fmean(risks)
    report.figure(f"{method}: mean risk", mean, most=most_mean, digits=4, more=saved)


def drawn_steps(
    losses: Losses, method: str, target: Target, options: argparse.Namespace
) -> list[int]:
    """The step that is chosen on each draw; the same draws for all methods."""
    generator = torch.Generator().manual_seed(options.seed)
    steps = []
    for _ in range(options.draws):
        rows_R = torch.randint(len(losses), (options.rows,), generator=generator)
        drawn = Losses(losses.values_PR[:, rows_R], losses.binary, losses.least)
        steps.append(choose(drawn, target, method).step)
    return steps


def speed(report: Report, options: argparse.Namespace, target: Target) -> None:
    """On SST-2: how many times as fast as the plain model the chosen thresholds are."""
    model = trained("sst2", options)
    path, answers = entropies(model.test.exits), model.test.exits
    population = disagreements("sst2", [answers], path)
    report.begin("speed", f"sst2, in turn with the plain model, {options.threads} threads")
    fastest = speeds_of(model.network, path, population.mean_layers, model.test_rows())
    found = {}
    for method in METHODS:
        steps = drawn_steps(population.losses, method, target, options)
        found[method] = statistics.fmean(fastest(step) for step in steps)
        report.figure(f"{method}: mean over draws", found[method], unit="x")
    best = max(found[method] for method in (*SURE, "crc"))
    report.figure("the best that guarantees", best, least=LEAST_SPEED, unit="x")


def populations(options: argparse.Namespace) -> Iterator[Population]:
    """Real ones, then simulated."""
    for name in options.sets:
        model = trained(name, options)
        both = [model.test.exits, model.dev.exits]
        yield disagreements(name, both, entropies(both[0]))
    for kind in ("binary", "bounded", "gap"):
        yield simulated(kind)


def trained(name: str, options: argparse.Namespace) -> Model:
    return Model(DataSet(name, options.data, options.runs), "joint", options.model_seed)


def entropies(exits: EveryExit) -> list[Criterion]:
    """The path that a classifier is calibrated on by default."""
    growth = default_growth(exits.depths[-1])
    return path_of(Entropy(0.0, growth), Grounds(exits.logits_ERC.shape[-1], exits.depths[-1]))


def disagreements(name: str, parts: list[EveryExit], path: list[Criterion]) -> Population:
    """Of rows with the answers of real exits."""
    logits_ERC = torch.cat([part.logits_ERC for part in parts], 1)
    exits = EveryExit(parts[0].depths, logits_ERC, parts[0].task)
    said = [exits.apply(criterion) for criterion in path]
    lost_PR = torch.stack([_differs(results, logits_ERC[-1]) for results in said])
    layers = [results.mean_layers for results in said]
    return Population(name, Losses(lost_PR, binary=True), layers, exits.depths[-1])


def simulated(kind: str, rows: int = 20_000, steps: int = 200) -> Population:
    """Half of the rows are hard, and are lost the sooner the further the path has gone.

    `binary` losses are 1, `bounded` ones anything up to 1, and both stay; by `gap` a row that was
    lost may be found again, and rows that are not hard gain 1.
    """
    generator = torch.Generator().manual_seed(7)
    draws = steps if kind == "gap" else 1
    draw_PR = torch.rand(draws, rows, generator=generator).double()
    hard_R = torch.rand(rows, generator=generator).double()
    at_P1 = torch.linspace(0, 0.1, steps).double()[:, None]
    lost_PR = ((draw_PR < at_P1) & (hard_R < 0.5)).double()
    losses = Losses(lost_PR, binary=True)
    if kind == "bounded":
        losses = Losses(lost_PR * torch.rand(rows, generator=generator))
    if kind == "gap":
        gains_PR = ((draw_PR < 0.7 * at_P1) & (hard_R > 0.5)).double()
        losses = Losses(lost_PR - gains_PR, least=-1.0)
    layers = [12 - 10 * step / steps for step in range(steps)]
    return Population(f"simulated, {kind}", losses, layers, 12)


def _differs(results: Results, full_RC: Tensor) -> Tensor:
    return (results.logits_RC.argmax(-1) != full_RC.argmax(-1)).double()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of all sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/exits"))
    parser.add_argument("--sets", nargs="*", choices=SETS, default=list(SETS))
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=1000, help="of a calibration set")
    parser.add_argument("--max-risk", type=float, default=0.01)
    parser.add_argument("--confidence", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=1, help="of the draws")
    parser.add_argument("--model-seed", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--check", action="store_true", help="exit 1 where a bar is missed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
