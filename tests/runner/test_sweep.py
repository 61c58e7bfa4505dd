"""Every exit's answer for every row, and what a criterion makes of them."""

import math

import torch
from exit_models import random_rows, residual_model, tiny_model

from offramp.exits.attach import add_exits, logits_by_depth
from offramp.exits.criteria import Entropy
from offramp.models.inputs import Inputs
from offramp.runner.sweep import EveryExit, every_exit


def test_rows_come_back_in_input_order() -> None:
    for model in (tiny_model(), add_exits(residual_model(), [2])):
        rows = random_rows(30)
        answers = every_exit(model, rows, tokens=64)
        with torch.no_grad():
            for place, row in enumerate(rows):
                alone = logits_by_depth(model, Inputs.from_rows([row.ids], [row.types]))
                assert tuple(alone) == answers.depths
                expected = torch.stack([x[0] for x in alone.values()])
                torch.testing.assert_close(
                    answers.logits_ERC[:, place], expected, rtol=1e-4, atol=1e-4
                )


def test_apply_by_hand() -> None:
    sure, unsure, half = [9.0, 0.0], [0.0, 0.1], [1.0, 0.0]
    logits_ERC = torch.tensor(
        [
            [sure, unsure, unsure, half],
            [unsure, sure, unsure, half],
            [half, half, [0.0, 2.0], [0.0, 3.0]],
        ]
    )
    answers = EveryExit((2, 3, 6), logits_ERC)
    results = answers.apply(Entropy(0.1))
    assert results.exit_layers_R.tolist() == [2, 3, 6, 6]
    assert results.logits_RC.tolist() == [sure, sure, [0.0, 2.0], [0.0, 3.0]]
    assert results.mean_layers == (2 + 3 + 6 + 6) / 4
    never = answers.apply(Entropy(0))
    assert torch.equal(never.logits_RC, logits_ERC[-1])
    assert never.exit_layers_R.tolist() == [6] * 4
    always = answers.apply(Entropy(math.log(2) + 0.01))
    assert torch.equal(always.logits_RC, logits_ERC[0])
    # What was applied left the answers as they were.
    assert answers.logits_ERC[-1].tolist() == [half, half, [0.0, 2.0], [0.0, 3.0]]
