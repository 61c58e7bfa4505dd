"""All schedules with all criteria, by one seed; speeds are read off each family's line."""

from __future__ import annotations

import statistics

from exiting.figures import OnSet, mean_of
from exiting.models import Model
from exiting.points import TARGETS, on_test
from exiting.scoring import scored
from exiting.sets import DataSet
from exiting.setting import DEFAULT, Pair, Setting, fitting

SETS = ("sst2", "trec")

Found = dict[Pair, dict[float, dict[str, OnSet]]]
"""By pair, target and set."""


def grid(setting: Setting) -> None:
    """A table a target: accuracy lost, and the difference to truncation at the same speed."""
    found, sets = measured(setting), _sets(setting)
    names = [data.name for data in sets]
    setting.report.begin("grid", f"{', '.join(names)}; seed {setting.options.seeds[0]}")
    for data in sets:
        show_full_depths(setting, data)
    for target in TARGETS:
        print(f"\n{target:g}x: points lost against (own full depth, plain fine-tuned model)")
        heads = [f"{name}: own, plain, speed" for name in names]
        _row("schedule", "criterion", *heads, "mean: own, plain", "over truncation [95%]")
        _row(*["---"] * (len(names) + 4))
        order = sorted(found, key=lambda pair: _rank(found[pair][target], names))
        for pair in order:
            by_set = found[pair][target]
            cells = [_cell(by_set.get(name)) for name in names]
            _row(pair.schedule, pair.family, *cells, *_mean_cells(by_set, names))
    print(f"\nbest on dev, mean over sets and targets: {'; '.join(map(str, best(setting, 2)))}")


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


def show_full_depths(setting: Setting, data: DataSet) -> None:
    """What the exits answer after each layer, right answers in per cent of test rows."""
    print(f"\n{data.name}: test scores after layers 1, 2, ...; rows {len(data.test.texts)}")
    for schedule in setting.options.schedules:
        test = setting.model(data, schedule, setting.options.seeds[0]).test
        kind = data.recipe.kind
        cut = [scored(kind, logits_RC, test.labels_R) for logits_RC in test.exits.logits_ERC]
        print(f"  {schedule:20} " + " ".join(f"{way.score():6.2f}" for way in cut))


def _sets(setting: Setting) -> list[DataSet]:
    return [data for data in setting.sets if data.name in SETS]


def _points(setting: Setting, model: Model, family: str) -> dict[float, OnSet]:
    """One model's, by target."""
    test = setting.plain(model).test
    plain = scored(model.data.recipe.kind, test.exits.logits_ERC[-1], test.labels_R)
    clock = setting.clock(model.data)
    return {
        target: OnSet([on_test(model, clock, chosen)], [plain])
        for target, chosen in setting.chosen(model, family).items()
    }


def _rank(by_set: dict[str, OnSet], names: list[str]) -> tuple[bool, float]:
    """Fewest points lost to the plain model first; those without some set last."""
    lost = [found.lost_to_plain for found in by_set.values()]
    return len(by_set) < len(names), statistics.fmean(lost) if lost else 0.0


def _cell(found: OnSet | None) -> str:
    if found is None:
        return "not reached"
    return f"{found.lost:.2f}, {found.lost_to_plain:.2f}, {found.speed:.2f}x"


def _mean_cells(by_set: dict[str, OnSet], names: list[str]) -> tuple[str, str]:
    if len(by_set) < len(names):
        return "", ""
    mean = mean_of(list(by_set.values()))
    low, high = mean.interval
    over = f"{mean.over_truncation:+.2f} [{low:.2f}, {high:.2f}]"
    return f"{mean.lost:.2f}, {mean.lost_to_plain:.2f}", over


def _row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)
