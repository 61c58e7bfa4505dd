"""Guarantees: how often a calibration's promise is kept, and what it leaves of the speed.

    python benchmarks/guarantees.py --data ../shared/data

A population are rows with every exit's answers: test and dev rows of SST-2, banking77 and MRPC by
models that benchmarks/exits.py trains (schedule `joint`, first seed), sentences of WNUT 2017 by its
tagger (`two-stage`), and simulated ones. From each 1,000 calibration sets of 1,000 rows are drawn
with replacement, every method chooses a threshold on each, and the risk at it is the population's
own, exactly. By `ltt` and `ucb` it may be above the most allowed in a share of draws of delta (and
a binomial 99% band about that); by `crc` its mean may not. So for one threshold, and for one a
layer along a path that dev rows chose (the population are test rows then).

With a speed as the target one half of a draw chooses the threshold and the other bounds its risk:
the population's risk may be above that bound in a share of draws of delta. Speed is layers there.
On SST-2 the speed of what was chosen is measured in turn with the plain model's.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

import offramp
from exiting.models import PLAIN, Model
from exiting.sets import DataSet
from offramp.exits.calibration.control import METHODS, SURE, Losses, Target, bound_of, choose
from offramp.exits.calibration.paths import Grounds, layer_path, path_of
from offramp.exits.criteria import Criterion, Entropy
from offramp.runner.run import Results
from offramp.runner.sweep import EveryExit
from offramp.text.tagged import TaggedTable
from offramp.training.calibration_rows import rows_of
from offramp.training.evaluation import machine
from offramp.training.speeds import speeds_of
from offramp.training.thresholds import default_growth
from running.figures import Report

SETS = ("sst2", "banking77", "mrpc")
TAGGED = "wnut17"
TAG_RISKS = ("disagreement", "word-disagreement", "accuracy")
LEAST_SPEED = 1.5


@dataclass(frozen=True)
class Population:
    """Rows, what each step of a path costs each of them, and how many layers that takes."""

    name: str
    losses: Losses
    layers_PR: Tensor
    n_layers: int

    @property
    def mean_layers(self) -> list[float]:
        """Of each step."""
        means: list[float] = self.layers_PR.double().mean(1).tolist()
        return means

    @property
    def risks(self) -> Tensor:
        """Of each step, exactly; [P]."""
        return self.losses.values_PR.double().mean(1)


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
        keep_speed(report, population, target, options)
    if "sst2" in options.sets and not options.no_clock:
        speed(report, options, target)
    print("\n" + ("every bar is met" if not report.missed else f"missed: {report.missed}"))
    if options.check and report.missed:
        sys.exit(1)


def keep(
    report: Report, population: Population, method: str, target: Target, options: argparse.Namespace
) -> None:
    """How often, or by how much, a method's choice is too risky."""
    steps = drawn_steps(population.losses, method, target, options)
    risk_P, mean_layers = population.risks, population.mean_layers
    risks = [risk_P[step].item() for step in steps]
    layers = statistics.fmean(mean_layers[step] for step in steps)
    saved = f"{population.n_layers / layers:.2f}x by layers"
    above = sum(risk > target.max_risk for risk in risks) / len(risks)
    most_above = most_shares(target, len(risks)) if method in SURE else None
    report.figure(f"{method}: share of draws above", above, most=most_above, digits=3)
    most_mean = target.max_risk if method == "crc" else None
    mean = statistics.fmean(risks)
    report.figure(f"{method}: mean risk", mean, most=most_mean, digits=4, more=saved)


def keep_speed(
    report: Report, population: Population, target: Target, options: argparse.Namespace
) -> None:
    """How often the risk at a threshold that was chosen for its speed is above what bounds it."""
    above, bounds, risk_P = 0, [], population.risks
    for rows_R in draws(len(population.losses), options):
        timed_R, held_R = rows_R.chunk(2)
        layers_P = population.layers_PR[:, timed_R].double().mean(1)
        fast = torch.nonzero(population.n_layers / layers_P >= options.target_speed)
        if not len(fast):
            continue
        step = int(fast[0])
        bounds.append(bound_of(taken(population.losses, held_R), target, step))
        above += risk_P[step].item() > bounds[-1]
    if not bounds:
        print(f"  no step takes {options.target_speed:g} times fewer layers")
        return
    name = f"{options.target_speed:g}x by layers: share of draws above their bound"
    mean = f"mean bound {statistics.fmean(bounds):.4f}"
    most = most_shares(target, len(bounds))
    report.figure(name, above / len(bounds), most=most, digits=3, more=mean)


def most_shares(target: Target, n_draws: int) -> float:
    """Delta, and a binomial 99% band about it."""
    return target.level + 2.576 * math.sqrt(target.level * (1 - target.level) / n_draws)


def drawn_steps(
    losses: Losses, method: str, target: Target, options: argparse.Namespace
) -> list[int]:
    """The step that is chosen on each draw; the same draws for all methods."""
    each = draws(len(losses), options)
    return [choose(taken(losses, rows_R), target, method).step for rows_R in each]


def draws(n_rows: int, options: argparse.Namespace) -> Iterator[Tensor]:
    """Which rows each calibration set has."""
    generator = torch.Generator().manual_seed(options.seed)
    for _ in range(options.draws):
        yield torch.randint(n_rows, (options.rows,), generator=generator)


def taken(losses: Losses, rows_R: Tensor) -> Losses:
    return replace(losses, values_PR=losses.values_PR[:, rows_R])


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
        test, dev = model.test.exits, model.dev.exits
        yield disagreements(name, [test, dev], entropies(test))
        yield disagreements(f"{name}, by layer", [test], by_layer(dev))
    if not options.no_tagger:
        yield from sentences(options)
    for kind in ("binary", "bounded", "gap"):
        yield simulated(kind)


def by_layer(tuning: EveryExit) -> list[Criterion]:
    """The path of a threshold a layer, as these rows choose it."""
    *said_XR, full_R = tuning.logits_ERC.argmax(-1)
    lost_XR = torch.stack([own_R != full_R for own_R in said_XR])
    return layer_path(tuning.logits_ERC, lost_XR, tuning.depths)


def sentences(options: argparse.Namespace) -> Iterator[Population]:
    """A tagger's, by each risk, from one pass over test and dev."""
    model = Model(DataSet(TAGGED, options.data, options.runs), PLAIN, options.model_seed)
    tagger = offramp.load(model.directory, task="tag")
    parts = [cast(TaggedTable, model.data.test), cast(TaggedTable, model.data.dev)]
    words = [row for part in parts for row in part.words]
    tags = [row for part in parts for row in part.tags or []]
    table = TaggedTable(TAGGED, words, tags)
    rows = {risk: rows_of(tagger, table, risk, None) for risk in TAG_RISKS}
    answers = rows[TAG_RISKS[0]].answers()
    full = answers.at(answers.depths[-1]).logits_RC
    lost: dict[str, list[Tensor]] = {risk: [] for risk in TAG_RISKS}
    layers = []
    for criterion in entropies(answers):
        said = answers.apply(criterion)
        layers.append(said.exit_layers_R)
        for risk in TAG_RISKS:
            lost[risk].append(rows[risk].losses(said.logits_RC, full))
    if len(answers.at(1).exit_layers_R) != len(words):
        raise SystemExit(f"Some sentences of {TAGGED} are several windows.")
    for risk in TAG_RISKS:
        losses = Losses(torch.stack(lost[risk]), rows[risk].risk.binary, rows[risk].risk.least)
        yield Population(f"{TAGGED}, {risk}", losses, torch.stack(layers), answers.depths[-1])


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
    layers_PR = torch.stack([results.exit_layers_R for results in said])
    return Population(name, Losses(lost_PR, binary=True), layers_PR, exits.depths[-1])


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
    layers_P1 = torch.tensor([12 - 10 * step / steps for step in range(steps)])[:, None]
    return Population(f"simulated, {kind}", losses, layers_P1.expand(steps, rows), 12)


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
    parser.add_argument("--target-speed", type=float, default=2.0, help="by layers")
    parser.add_argument("--no-tagger", action="store_true", help="leave out WNUT 2017")
    parser.add_argument("--no-clock", action="store_true", help="leave out the wall clock")
    parser.add_argument("--check", action="store_true", help="exit 1 where a bar is missed")
    return parser.parse_args()


if __name__ == "__main__":
    main()
