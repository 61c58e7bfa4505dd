"""Gradient equilibrium: what a layer gets is the mean of what the exits behind it send."""

from dataclasses import replace

import pytest
import torch
from exit_models import ResidualForSequenceClassification, random_rows, residual_model
from torch import Tensor, nn

from offramp.exits.attach import Exits, add_exits, logits_by_depth
from offramp.exits.equilibrium import rescaled
from offramp.models.flow import Flow
from offramp.models.inputs import Inputs


class ChainExits(Exits):
    """Ramps that give the hidden state itself."""

    def __init__(self, depths: tuple[int, ...]) -> None:
        nn.ModuleDict.__init__(self, {str(depth): Reads() for depth in depths})
        self.depths = depths
        self.certainty = None


class Reads(nn.Module):
    def forward(self, flow: Flow) -> Tensor:
        return flow.hidden


class Chain(nn.Module):
    """One number that each layer multiplies: h_i = w_i h_(i-1), and every exit answers h_i."""

    def __init__(self, factors: list[float], depths: tuple[int, ...]) -> None:
        super().__init__()
        self.factors = nn.ParameterList(nn.Parameter(torch.tensor(w)) for w in factors)
        self.exits = ChainExits(depths)

    @property
    def stack(self) -> "Chain":
        return self

    @property
    def n_layers(self) -> int:
        return len(self.factors)

    def start(self, inputs: Inputs) -> Flow:
        return Flow(torch.ones(1, 1), inputs.layout, inputs.row_ids_R, inputs.positions)

    def step(self, flow: Flow, i: int) -> Flow:
        return replace(flow, hidden=flow.hidden * self.factors[i])

    def finish(self, flow: Flow) -> Flow:
        return flow

    def logits(self, flow: Flow) -> Tensor:
        return flow.hidden


ONE = Inputs.from_rows([[1]], [[0]])


@pytest.mark.parametrize(
    ("depths", "by_hand"),
    [
        # h1 = 2, h2 = 6, h3 = 30; the loss is h1 + h2 + h3.
        # To w3 comes 6 from h3 alone: 1 exit. To w2, (2 from h2 + 2 x 5 from h3) / 2 exits. To w1,
        # (1 from h1 + 3 from h2 + 3 x 5 from h3) / 3 exits.
        ((1, 2), [19 / 3, 12 / 2, 6.0]),
        ((2,), [18 / 2, 12 / 2, 6.0]),  # without h1: 3 + 15 to w1
        ((), [15.0, 10.0, 6.0]),
    ],
)
def test_a_chain_by_hand(depths: tuple[int, ...], by_hand: list[float]) -> None:
    model = Chain([2.0, 3.0, 5.0], depths)
    answers = logits_by_depth(model, ONE, equilibrium=True)  # type: ignore[arg-type]
    sum(answers.values()).sum().backward()  # type: ignore[union-attr]
    assert [w.grad.item() for w in model.factors] == pytest.approx(by_hand)  # type: ignore[union-attr]


def test_the_scale_does_not_grow_with_the_number_of_exits() -> None:
    gradients = {}
    for equilibrium in (False, True):
        for n_layers in (2, 12):  # all factors 1: every exit sends 1 to the first layer
            model = Chain([1.0] * n_layers, tuple(range(1, n_layers)))
            answers = logits_by_depth(model, ONE, equilibrium=equilibrium)  # type: ignore[arg-type]
            sum(answers.values()).sum().backward()  # type: ignore[union-attr]
            gradients[equilibrium, n_layers] = model.factors[0].grad.item()  # type: ignore[union-attr]
    assert gradients == pytest.approx(
        {(False, 2): 2.0, (False, 12): 12.0, (True, 2): 1.0, (True, 12): 1.0}
    )


def test_each_layer_of_a_model_gets_the_mean_and_each_ramp_its_own() -> None:
    model = add_exits(residual_model(), [1, 3], dropout=0.0)
    rows = random_rows(6)
    inputs = Inputs.from_rows([row.ids for row in rows], [row.types for row in rows])

    def gradients(equilibrium: bool, depths: tuple[int, ...]) -> dict[str, Tensor]:
        model.zero_grad()
        answers = logits_by_depth(model, inputs, equilibrium=equilibrium)
        torch.stack([answers[depth].square().sum() for depth in depths]).sum().backward()
        return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}

    alone = {depth: gradients(False, (depth,)) for depth in (1, 3, 4)}
    found = gradients(True, (1, 3, 4))
    behind = {0: (1, 3, 4), 1: (3, 4), 2: (3, 4), 3: (4,)}
    for i, depths in behind.items():
        name = f"body.layers.{i}.weight"
        mean = torch.stack([alone[depth][name] for depth in depths]).mean(0)
        torch.testing.assert_close(found[name], mean, rtol=1e-4, atol=1e-5)
    for depth in (1, 3):
        name = f"exits.{depth}.dense.weight"
        torch.testing.assert_close(found[name], alone[depth][name])
    torch.testing.assert_close(found["head.weight"], alone[4]["head.weight"])


def test_answers_are_what_they_were() -> None:
    model: ResidualForSequenceClassification = add_exits(residual_model())
    rows = random_rows(4)
    inputs = Inputs.from_rows([row.ids for row in rows], [row.types for row in rows])
    plain, balanced = (logits_by_depth(model, inputs, equilibrium=on) for on in (False, True))
    assert plain.keys() == balanced.keys()
    for depth, logits_RC in plain.items():
        assert torch.equal(logits_RC, balanced[depth])


def test_rescaled_by_hand() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = rescaled(x, 0.25)
    assert torch.equal(y, x)
    (3 * y).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.75, 0.75]
