"""The paths that thresholds are chosen along: safe at first, and never safer after."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from offramp.exits.calibration.paths import Grounds, layer_path, path_of
from offramp.exits.criteria import AllOf, Entropy, LayerEntropy, MinDepth

GROUNDS = Grounds(2, 4)


def logits_of(chances: Tensor) -> Tensor:
    """Logits [R, 2] of rows that are so sure."""
    return torch.stack([chances.log(), (1 - chances).log()], -1)


def thresholds(path: list[object], depth: int) -> list[float]:
    found = []
    for step in path:
        assert isinstance(step, LayerEntropy)
        found.append(step.thresholds[depth - 1])
    return found


@pytest.mark.parametrize("first", [True, False])
def test_a_floor_of_depth_stays(first: bool) -> None:
    own, floor = Entropy(0.1), MinDepth(2)
    path = path_of(floor & own if first else own & floor, GROUNDS)
    seen = set()
    for step in path:
        assert isinstance(step, AllOf)
        assert floor in step.of
        (varied,) = (part for part in step.of if part != floor)
        assert isinstance(varied, Entropy)
        seen.add(varied.threshold)
    assert len(seen) > 10


def test_a_threshold_for_each_layer_by_what_is_lost_there() -> None:
    """At the first exit the less sure rows are lost, at the second nobody, at the third all."""
    sure = torch.linspace(0.51, 0.999, 400, dtype=torch.float64)
    logits = torch.stack([logits_of(sure)] * 4)
    lost = torch.stack([sure < 0.7, torch.zeros(400).bool(), torch.ones(400).bool()]).double()
    path = layer_path(logits, lost, (1, 2, 3, 4))
    assert isinstance(path[0], LayerEntropy)
    assert path[0].thresholds == (0.0,) * 4
    one, two, three, last = (thresholds(list(path), depth) for depth in (1, 2, 3, 4))
    for found in (one, two, three, last):
        assert found == sorted(found)  # who may leave at a step may leave at each after it
    # Entropy of the row at the edge, ln 2 - ...: the middle of the path parts the rows there.
    edge = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    assert min(abs(found - edge) for found in one) < 0.05
    assert len(set(two)) == 2 and max(two) > math.log(2)  # all rows, or none
    assert max(three) == 0.0
    assert max(last) == 0.0


def test_a_curve_that_falls_lets_no_row_go() -> None:
    sure = torch.linspace(0.51, 0.999, 400, dtype=torch.float64)
    logits = torch.stack([logits_of(sure)] * 2)
    path = layer_path(logits, (sure > 0.9).double()[None], (1, 2))
    assert max(thresholds(list(path), 1)) == 0.0
