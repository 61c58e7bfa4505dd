"""The best pairs of a schedule and a criterion, by all seeds, and the bars."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import torch

from exiting.families import DEFAULTS, FAMILIES
from exiting.figures import Mean, OnSet, mean_of
from exiting.grid import best as best_of_grid
from exiting.points import TARGETS, on_test, shorter_models
from exiting.scoring import interval
from exiting.sets import DataSet
from exiting.setting import DEFAULT, Pair, Setting

MOST_LOST = {2.0: 0.5, 3.0: 1.5}
"""Points, mean over the classification sets, by target."""
REACHED = 0.95
"""Of the target, by the speed on test: thresholds are chosen on dev."""

BySet = Mapping[str, OnSet]


def best(setting: Setting) -> None:
    """A table a pair and a target; the default's figures beside their bars."""
    pairs = _pairs(setting)
    found = {pair: measured(setting, pair) for pair in pairs}
    for pair, by_target in found.items():
        setting.report.begin("best", f"{pair}; seeds {', '.join(map(str, setting.options.seeds))}")
        for target, by_set in by_target.items():
            _show(target, by_set)
        _show_predictions(by_target)
    setting.report.begin("bars", f"{DEFAULT} (the library's default)")
    for target in MOST_LOST:
        _bars(setting, target, found[DEFAULT][target])


def speeds(setting: Setting) -> None:
    """Measure all times again, for the machine as it is now."""
    for data in setting.sets:
        setting.train([data], [], setting.options.seeds[:1])
        setting.clock(data, again=True)
    for pair in _pairs(setting):
        measured(setting, pair)
    setting.report.begin("speeds", "measured again")


def measured(setting: Setting, pair: Pair) -> dict[float, dict[str, OnSet]]:
    """The pair's points by target and set, their times measured on each seed's model."""
    found: dict[float, dict[str, OnSet]] = {target: {} for target in TARGETS}
    for data in setting.sets:
        setting.train([data], [pair.schedule], setting.options.seeds)
        of_seeds = [_of_seed(setting, data, pair, seed) for seed in setting.options.seeds]
        for target in TARGETS:
            reached = [one[target] for one in of_seeds if target in one]
            if len(reached) == len(of_seeds):
                points = [point for one in reached for point in one.points]
                plain = [scored_plain for one in reached for scored_plain in one.plain]
                found[target][data.name] = OnSet(points, plain)
    return found


def _of_seed(setting: Setting, data: DataSet, pair: Pair, seed: int) -> dict[float, OnSet]:
    model, kind = setting.model(data, pair.schedule, seed), data.recipe.kind
    family = pair.family if pair.family in FAMILIES[kind] else DEFAULTS[kind]
    chosen, clock = setting.chosen(model, family), setting.clock(data)
    times = clock.measure(model, [one.criterion for one in chosen.values()])
    plain = setting.plain(model).test.by_depth()[-1]
    shorter = shorter_models(model) if setting.options.shorter else []
    return {
        target: OnSet([on_test(model, clock, one, times, shorter)], [plain])
        for target, one in chosen.items()
    }


def _pairs(setting: Setting) -> list[Pair]:
    """Those that are asked for, or the best of the grid; the library's default is among them."""
    pairs: list[Pair] = setting.options.pairs or best_of_grid(setting, 2)
    return pairs if DEFAULT in pairs else [*pairs, DEFAULT]


def _show(target: float, by_set: BySet) -> None:
    """One target's table; the last line is the mean over the sets."""
    heads = "own full depth | plain fine-tuned | over truncation [95%] | over shorter models"
    print(f"\n{target:g}x: points lost\n| set | speed | {heads} |\n|{' --- |' * 6}")
    for name, on_set in by_set.items():
        _row(name, mean_of([on_set]))
    if len(by_set) > 1:
        _row("mean", mean_of(list(by_set.values())))


def _row(name: str, mean: Mean) -> None:
    over = f"{mean.over_truncation:+.2f} {_said(mean.interval)}"
    shorter = "" if mean.over_shorter is None else f"{mean.over_shorter:+.2f}"
    lost = f"{mean.lost:.2f} | {mean.lost_to_plain:.2f}"
    print(f"| {name} | {mean.speed:.2f}x | {lost} | {over} | {shorter} |", flush=True)


def _show_predictions(by_target: Mapping[float, BySet]) -> None:
    """How far the speeds that were read off a line are from those measured."""
    points = [
        p for by_set in by_target.values() for on_set in by_set.values() for p in on_set.points
    ]
    off = [abs(point.predicted / point.speed - 1) * 100 for point in points]
    if off:
        print(
            f"\nspeeds measured are from those of the lines by {statistics.median(off):.1f}% "
            f"(median) and {max(off):.1f}% at most"
        )


def _bars(setting: Setting, target: float, by_set: BySet) -> None:
    """Of the classification sets; at 2x also against truncation."""
    report = setting.report
    names = [data.name for data in setting.sets if data.recipe.kind == "classification"]
    sets = [by_set[name] for name in names if name in by_set]
    for name in set(names) - set(by_set):
        report.figure(f"{target:g}x on {name}: not reached", float("nan"), least=target)
    if not sets:
        return
    mean = mean_of(sets)
    report.figure(f"{target:g}x: speed on test", mean.speed, least=REACHED * target, unit="x")
    drawn_D = torch.stack([on_set.drawn_lost_to_plain() for on_set in sets]).mean(0)
    _lost(setting, target, "the plain fine-tuned model", mean.lost_to_plain, interval(drawn_D))
    _lost(setting, target, "own full depth", mean.lost)
    if target == min(MOST_LOST):
        said = _said(mean.interval)
        report.figure(f"{target:g}x: over truncation", mean.over_truncation, least=0, more=said)
        for name, ends in [(n, interval(by_set[n].drawn_over_truncation())) for n in by_set]:
            if name in names:
                said = f"{target:g}x: over truncation on {name}, upper end of 95%"
                report.figure(said, ends[1], least=0, more=_said(ends))


def _lost(
    setting: Setting, target: float, to: str, lost: float, ends: tuple[float, float] | None = None
) -> None:
    more = "" if ends is None else _said(ends)
    name = f"{target:g}x: points lost to {to}"
    setting.report.figure(name, lost, most=MOST_LOST[target], more=more)


def _said(ends: Sequence[float]) -> str:
    return f"[{ends[0]:.2f}, {ends[1]:.2f}]"
