"""What ramps read the tokens with: each pooler, at equal wall clock."""

from __future__ import annotations

from exiting.families import DEFAULTS
from exiting.figures import OnSet, mean_of
from exiting.grid import SETS
from exiting.models import PLAIN, Model
from exiting.points import TARGETS, on_test
from exiting.setting import DEFAULT, Setting

POOLERS = (None, "mean", "first")
"""None is the library's own, `attention`: those models are the other sections' too."""
SCHEDULES = (PLAIN, DEFAULT.schedule)
"""With the first the body is the same for all; with the second it learns with the ramps."""


def poolers(setting: Setting) -> None:
    """By the first seed and the library's own criterion: a table a target."""
    seed = setting.options.seeds[0]
    sets = [data for data in setting.sets if data.name in SETS]
    models = {
        (schedule, pooler): [setting.model(data, schedule, seed, pooler) for data in sets]
        for schedule in SCHEDULES
        for pooler in POOLERS
    }
    found = {key: [_points(setting, model) for model in own] for key, own in models.items()}
    setting.report.begin("poolers", f"{', '.join(data.name for data in sets)}; seed {seed}")
    for target in TARGETS:
        print(f"\n{target:g}x: points lost to the plain fine-tuned model, speeds")
        names = " | ".join(data.name for data in sets)
        print(f"| schedule | pooler | {names} | mean |\n|{' --- |' * (len(sets) + 3)}")
        for (schedule, pooler), by_set in found.items():
            points = [by_target[target] for by_target in by_set if target in by_target]
            cells = [f"{point.lost_to_plain:.2f}, {point.speed:.2f}x" for point in points]
            if len(points) == len(sets):
                mean = mean_of(points)
                cells.append(f"{mean.lost_to_plain:.2f}, {mean.speed:.2f}x")
            print(f"| {schedule} | {pooler or 'attention'} | {' | '.join(cells)} |", flush=True)


def _points(setting: Setting, model: Model) -> dict[float, OnSet]:
    """One model's by target, their times measured on it."""
    chosen = setting.chosen(model, DEFAULTS[model.data.recipe.kind])
    clock = setting.clock(model.data, model.pooler)
    times = clock.measure(model, [one.criterion for one in chosen.values()])
    plain = setting.plain(model).test.by_depth()[-1]
    return {
        target: OnSet([on_test(model, clock, one, times)], [plain])
        for target, one in chosen.items()
    }
