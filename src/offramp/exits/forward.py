"""A pass through all layers that asks every exit, for losses and for choosing thresholds."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from torch import Tensor

from offramp.exits.container import exits_of
from offramp.exits.criteria import Answer
from offramp.exits.equilibrium import rescaled
from offramp.models.base import PretrainedModel
from offramp.models.flow import ExitableModel
from offramp.models.inputs import Inputs


def logits_by_depth(
    model: PretrainedModel, inputs: Inputs, *, equilibrium: bool = False
) -> dict[int, Tensor]:
    """Every exit's logits [R, C] and, at the last depth, the model's own; rows in flow order.

    Of a token classifier they are the tokens', [T, C]. With `equilibrium` the gradient that a layer
    gets is the mean of those that the exits behind it send, and not their sum, which is the greater
    the more of them there are: where k exits are left, this one's own counts 1/k and what comes
    from behind (k-1)/k. The gradients of the ramps'
    own weights are what they were (Li et al. 2019, "Improved Techniques for Training Adaptive Deep
    Networks", gradient equilibrium).
    """
    answers = answers_by_depth(model, inputs, equilibrium=equilibrium)
    return {depth: answer.logits_RC for depth, answer in answers.items()}


def answers_by_depth(
    model: PretrainedModel, inputs: Inputs, *, equilibrium: bool = False
) -> dict[int, Answer]:
    """All that `logits_by_depth` gives, and each exit's certainty where they have one."""
    answers, _ = every_answer(model, inputs, equilibrium=equilibrium)
    return answers


def every_answer(
    model: PretrainedModel, inputs: Inputs, *, equilibrium: bool = False
) -> tuple[dict[int, Answer], Answer | None]:
    """`answers_by_depth`, and the answer of the exit `after_all` layers, if there is one."""
    task = cast(ExitableModel, model)
    stack, exits = task.stack, exits_of(model)
    flow, answers = stack.start(inputs), {}
    left = len(exits.depths) + 1
    for i in range(stack.n_layers):
        flow = stack.step(flow, i)
        if i + 1 in exits.depths:
            if equilibrium:
                flow = replace(flow, hidden=rescaled(flow.hidden, 1 / left))
            answers[i + 1] = exits.read(i + 1, stack.finish(flow))
            left -= 1
            if equilibrium:
                flow = replace(flow, hidden=rescaled(flow.hidden, left))
    flow = stack.finish(flow)
    answers[stack.n_layers] = Answer(task.logits(flow))
    return answers, None if exits.after_all is None else Answer(exits.after_all(flow))
