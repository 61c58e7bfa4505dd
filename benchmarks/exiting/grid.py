"""All schedules with all criteria, by one seed; speeds are read off each family's line."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from functools import cache

from exiting.figures import Mean, OnSet, mean_of
from exiting.models import Model
from exiting.points import TARGETS, on_test
from exiting.sets import DataSet
from exiting.setting import DEFAULT, Pair, Setting, fitting

SETS = ("sst2", "trec")

Found = dict[Pair, dict[float, dict[str, OnSet]]]
"""By pair, target and set."""

AtTarget = Mapping[Pair, Mapping[str, OnSet]]


def grid(setting: Setting) -> None:
    """Tables a target: points lost, and the difference to truncation at the same speed."""
    found, sets = measured(setting), _sets(setting)
    names = [data.name for data in sets]
    setting.report.begin("grid", f"{', '.join(names)}; seed {setting.options.seeds[0]}")
    for data in sets:
        show_exits(setting, data)
    for target in TARGETS:
        at_target = {pair: by_target[target] for pair, by_target in found.items()}
        show_schedules(target, at_target, names)
    for target in TARGETS:
        at_target = {pair: by_target[target] for pair, by_target in found.items()}
        show_pairs(target, at_target, names)
    print(f"\nbest on dev, mean over sets and targets: {'; '.join(map(str, best(setting, 2)))}")


def show_schedules(target: float, found: AtTarget, names: list[str]) -> None:
    """Criteria by schedules: the mean over sets of points lost; - where one is never so fast."""
    print(f"\n{target:g}x: points lost to the plain fine-tuned model (to own full depth)")
    schedules = list(dict.fromkeys(pair.schedule for pair in found))
    _row("criterion", *schedules)
    _row(*["---"] * (len(schedules) + 1))
    for family in dict.fromkeys(pair.family for pair in found):
        cells = [_lost(found.get(Pair(schedule, family), {}), names) for schedule in schedules]
        _row(family, *cells)


def show_pairs(target: float, found: AtTarget, names: list[str]) -> None:
    """All figures of each pair that is as fast on every set, fewest points lost first."""
    print(f"\n{target:g}x: points lost (to own full depth, to the plain fine-tuned model), speeds")
    heads = [f"{name}: own, plain, speed" for name in names]
    _row("schedule", "criterion", *heads, "mean: own, plain, speed", "over truncation [95%]")
    _row(*["---"] * (len(names) + 4))
    reached = {pair: by_set for pair, by_set in found.items() if len(by_set) == len(names)}
    means = {pair: mean_of(list(by_set.values())) for pair, by_set in reached.items()}
    for pair, mean in sorted(means.items(), key=lambda item: item[1].lost_to_plain):
        low, high = mean.interval
        over = f"{mean.over_truncation:+.2f} [{low:.2f}, {high:.2f}]"
        cells = [_cell(reached[pair][name]) for name in names]
        _row(*(pair.schedule, pair.family), *cells, _cell(mean), over)


def best(setting: Setting, count: int) -> list[Pair]:
    """The pairs with the best dev scores, mean over the grid's sets and all targets.

    Those that miss a target somewhere are left out: so are criteria of a few steps.
    """
    found, names = measured(setting), [data.name for data in _sets(setting)]
    scores = {
        pair: statistics.fmean(
            by_set[name].lost_on_dev for by_set in by_target.values() for name in names
        )
        for pair, by_target in found.items()
        if all(name in by_set for by_set in by_target.values() for name in names)
    }
    return sorted(scores, key=lambda pair: scores[pair])[:count] or [DEFAULT]


@cache
def measured(setting: Setting) -> Found:
    """Every pair's points; models and times that are not there are made."""
    schedules, seed = setting.options.schedules, setting.options.seeds[0]
    found: Found = {}
    for data in _sets(setting):
        setting.train([data], schedules, [seed])
        for schedule in schedules:
            model = setting.model(data, schedule, seed)
            for family in fitting(data, model):
                by_target = found.setdefault(
                    Pair(schedule, family), {target: {} for target in TARGETS}
                )
                for target, on_set in _points(setting, model, family).items():
                    by_target[target][data.name] = on_set
    return found


def show_exits(setting: Setting, data: DataSet) -> None:
    """What the exits answer after each layer, right answers in per cent of test rows."""
    print(f"\n{data.name}: test scores after layers 1, 2, ...; rows {len(data.test)}")
    for schedule in setting.options.schedules:
        test = setting.model(data, schedule, setting.options.seeds[0]).test
        cut = " ".join(f"{way.score():6.2f}" for way in test.by_depth())
        print(f"  {schedule:20} {cut}")


def _sets(setting: Setting) -> list[DataSet]:
    return [data for data in setting.sets if data.name in SETS]


def _points(setting: Setting, model: Model, family: str) -> dict[float, OnSet]:
    """One model's, by target."""
    plain = setting.plain(model).test.by_depth()[-1]
    clock = setting.clock(model.data)
    return {
        target: OnSet([on_test(model, clock, chosen)], [plain])
        for target, chosen in setting.chosen(model, family).items()
    }


def _cell(found: OnSet | Mean) -> str:
    return f"{found.lost:.2f}, {found.lost_to_plain:.2f}, {found.speed:.2f}x"


def _lost(by_set: Mapping[str, OnSet], names: list[str]) -> str:
    if len(by_set) < len(names):
        return "-"
    mean = mean_of(list(by_set.values()))
    return f"{mean.lost_to_plain:.2f} ({mean.lost:.2f})"


def _row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)
