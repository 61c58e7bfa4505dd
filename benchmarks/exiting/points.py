"""Operating points: a threshold chosen on dev for a speed, and what it gives on test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exiting.clock import Clock, depth_at, share_of
from exiting.families import paths
from exiting.models import PLAIN, Model
from exiting.scoring import Scored
from offramp.exits.criteria import Criterion

TARGETS = (1.5, 2.0, 3.0)
"""Times as fast as the plain model, by the wall clock."""


@dataclass(frozen=True)
class Chosen:
    """The criterion of a family for a target: what it does on dev."""

    family: str
    target: float
    criterion: Criterion
    dev_score: float


@dataclass(frozen=True)
class Point:
    """What was chosen, on test: `full` is its model without exits, `truncation` the same model cut
    off where it is as fast, `shorter` models that were fine-tuned of as few layers. `predicted` is
    the speed that its family's line says, which `speed` is where it was not measured.
    """

    chosen: Chosen
    speed: float
    predicted: float
    way: Scored
    full: Scored
    truncation: Scored
    shorter: Scored | None


def choose(model: Model, clock: Clock, family: str) -> dict[float, Chosen]:
    """For each target the slowest criterion that reaches it on dev; of several paths the best one.

    The slowest of a path is the most accurate one too, once accuracy is smoothed by isotonic
    regression as a falling function of speed; read literally, the most accurate of those that reach
    it is the luckiest (docs/notes.md).
    """
    found: dict[float, Chosen] = {}
    for criteria in paths(model.data.recipe.kind, family, model.dev.exits):
        for target, chosen in _slowest(model, clock, family, criteria).items():
            if target not in found or chosen.dev_score > found[target].dev_score:
                found[target] = chosen
    return found


def _slowest(
    model: Model, clock: Clock, family: str, criteria: Sequence[Criterion]
) -> dict[float, Chosen]:
    """One path's, for the targets that it reaches."""
    dev = model.dev
    speeds = []
    for number, criterion in enumerate(criteria):
        results = dev.exits.apply(criterion)
        speeds.append(
            (1 / clock.time(family, share_of(dev, results), model), number, criterion, results)
        )
    found = {}
    for target in TARGETS:
        if reaching := [entry for entry in speeds if entry[0] >= target]:
            _, _, criterion, results = min(reaching, key=lambda entry: entry[:2])
            score = dev.scored(results).score()
            found[target] = Chosen(family, target, criterion, score)
    return found


def on_test(
    model: Model,
    clock: Clock,
    chosen: Chosen,
    measured: Mapping[str, float] | None = None,
    shorter: Sequence[Scored] = (),
) -> Point:
    """The point on test rows, with the times that were `measured` on this model, if they were.

    `shorter` are models of 1, 2, ... layers, the last of all.
    """
    test = model.test
    results = test.exits.apply(chosen.criterion)
    predicted = clock.time(chosen.family, share_of(test, results), model)
    taken = predicted if measured is None else measured[str(chosen.criterion)]
    times = clock.times.depths if measured is None else measured
    depth, share = depth_at(times, test.n_layers, taken)
    own = test.by_depth()
    return Point(
        chosen=chosen,
        speed=1 / taken,
        predicted=1 / predicted,
        way=test.scored(results),
        full=own[-1],
        truncation=either(own, depth, share),
        shorter=either(shorter, depth, share) if shorter else None,
    )


def either(ways: Sequence[Scored], depth: int, share: float) -> Scored:
    """Of ways to answer after 1, 2, ... layers: that of `depth` for so many, else the next."""
    if share == 1:
        return ways[depth - 1]
    return Scored(ways[0].kind, ways[depth - 1].parts_RK, ways[depth].parts_RK, share)


def shorter_models(model: Model) -> list[Scored]:
    """Models of 1, 2, ... layers, up to all, fine-tuned with the same seed."""
    n_layers = model.test.n_layers
    lengths = [Model(model.data, PLAIN, model.seed, layers) for layers in range(1, n_layers)]
    tests = [of_length.test for of_length in (*lengths, Model(model.data, PLAIN, model.seed))]
    return [test.by_depth()[-1] for test in tests]
