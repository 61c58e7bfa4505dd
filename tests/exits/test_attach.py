"""Exits on a model: keys, the section of config.json, saving, any LayerStack."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from exit_models import (
    ResidualConfig,
    ResidualForSequenceClassification,
    encoded,
    random_rows,
    residual_model,
    tiny_config,
    tiny_model,
)

import offramp
from offramp.errors import CheckpointError, ConfigError
from offramp.exits.attach import add_exits, exits_of, logits_by_depth
from offramp.exits.criteria import Entropy
from offramp.exits.ramps import POOLERS
from offramp.models.bert import BertForSequenceClassification, BertModel
from offramp.models.flow import run_layers
from offramp.models.inputs import Inputs


def plain(seed: int = 0, **changes: object) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    return BertForSequenceClassification(tiny_config(num_labels=3, **changes)).eval()


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    """ids and mask [5, 9] of rows that are not in order of length."""
    torch.manual_seed(3)
    ids = torch.randint(5, 22, (5, 9))
    mask = (torch.arange(9) < torch.tensor([4, 9, 1, 6, 9])[:, None]).long()
    return ids, mask


@pytest.mark.parametrize("pooler", POOLERS)
def test_exits_add_keys_and_change_none(pooler: str) -> None:
    model = plain()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert add_exits(model, pooler=pooler) is model
    after = model.state_dict()
    assert {name: after[name] for name in before}.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    added = set(after) - set(before)
    parts = ["dense.weight", "dense.bias", "classifier.weight", "classifier.bias"]
    parts += ["query.weight"] * (pooler == "attention")
    assert added == {f"exits.{depth}.{part}" for depth in (1, 2) for part in parts}


def test_transformers_loads_a_directory_with_exits(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    theirs, info = transformers.BertForSequenceClassification.from_pretrained(
        str(tmp_path), output_loading_info=True
    )
    assert not info["missing_keys"]
    assert all(name.startswith("exits.") for name in info["unexpected_keys"])
    ids, mask = padded()
    with torch.no_grad():
        expected = theirs.eval()(ids, attention_mask=mask).logits
        torch.testing.assert_close(model(ids, mask).logits, expected, rtol=1e-4, atol=1e-4)


def test_forward_is_not_changed_by_exits() -> None:
    ids, mask = padded()
    model = plain()
    with torch.no_grad():
        before = model(ids, mask).logits
        assert torch.equal(add_exits(model)(ids, mask).logits, before)


def test_depths() -> None:
    assert exits_of(add_exits(plain())).depths == (1, 2)
    assert exits_of(add_exits(plain(), [2])).depths == (2,)
    assert exits_of(add_exits(plain(num_hidden_layers=4), iter([3, 1]))).depths == (1, 3)


@pytest.mark.parametrize("depths", [[0], [3], [-1], [1, 1], [1, 2, 3], [1.0], [1.5], ["1"], [True]])
def test_depths_are_layers_from_1_to_before_the_last(depths: list[int]) -> None:
    model = plain()
    with pytest.raises(ConfigError):
        add_exits(model, depths)
    assert not hasattr(model, "exits")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooler": "max"}, "one of attention, first, last, mean; got 'max'"),
        ({"queries": 0}, "queries must be a whole number of at least 1; got 0"),
        ({"queries": 2.0}, "queries"),
        ({"hidden": 0}, "hidden must be"),
        ({"hidden": True}, "hidden must be"),
        ({"dropout": 2.0}, "dropout"),
        ({"dropout": "much"}, "dropout"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        add_exits(plain(), **settings)  # type: ignore[arg-type]


def test_exits_are_put_once() -> None:
    model = add_exits(plain(), [1])
    with pytest.raises(ConfigError, match=r"after layers \(1,\) already"):
        add_exits(model)
    del model.exits
    assert exits_of(add_exits(model)).depths == (1, 2)


def test_a_model_without_a_head_takes_none() -> None:
    with pytest.raises(ConfigError, match="BertModel"):
        add_exits(BertModel(tiny_config()))
    with pytest.raises(ConfigError, match="Linear"):
        add_exits(torch.nn.Linear(2, 2))  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="add_exits"):
        exits_of(plain())
    with pytest.raises(ConfigError, match="has no exits"):
        logits_by_depth(plain(), Inputs.from_rows([[2, 3]], [[0, 0]]))


def test_new_ramps_follow_the_model() -> None:
    model = plain().to(torch.bfloat16)
    assert {p.dtype for p in add_exits(model).exits.parameters()} == {torch.bfloat16}
    assert not any(module.training for module in model.modules())
    learning = add_exits(plain().train())
    assert all(module.training for module in learning.exits.modules())
    # A third of the model's width by default, and the family's initial weights: bias 0, spread .2.
    ramp = exits_of(add_exits(plain(hidden_size=96))).ramp(1)
    assert ramp.dense.weight.shape == (32, 4 * 96)
    assert not ramp.dense.bias.any()
    assert ramp.dense.weight.std().item() == pytest.approx(0.2, rel=0.05)


def test_section_of_the_config(tmp_path: Path) -> None:
    model = add_exits(
        plain(), [2], pooler="mean", queries=2, hidden=7, dropout=0.25, criterion=Entropy(0.3)
    )
    model.save_pretrained(tmp_path)
    section = json.loads((tmp_path / "config.json").read_text())["exits"]
    assert section == {
        "format": 1,
        "depths": [2],
        "pooler": "mean",
        "queries": 2,
        "hidden": 7,
        "dropout": 0.25,
        "criterion": {"name": "entropy", "threshold": 0.3, "growth": 1.0},
    }
    assert "exits" not in plain().config.to_dict()


@pytest.mark.parametrize("pooler", POOLERS)
def test_save_and_load_give_the_same_exits(pooler: str, tmp_path: Path) -> None:
    model = tiny_model(pooler=pooler)
    exits_of(model).criterion = Entropy(0.4)
    model.save_pretrained(tmp_path)
    again, report = BertForSequenceClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert report.initialised == report.dropped == ()
    assert exits_of(again).depths == exits_of(model).depths
    assert exits_of(again).shape == exits_of(model).shape
    assert exits_of(again).criterion == Entropy(0.4)
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    rows = random_rows(60)
    one, two = (offramp.Runner(m).run(rows) for m in (model, again))
    # Not bit for bit: weights that lie elsewhere in memory are multiplied in another order.
    torch.testing.assert_close(one.logits_RC, two.logits_RC, rtol=1e-4, atol=1e-4)
    assert torch.equal(one.exit_layers_R, two.exit_layers_R)
    assert len(set(one.exit_layers_R.tolist())) > 1  # else exits were not asked


def test_criterion_changed_at_run_time_is_what_is_saved(tmp_path: Path) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    again = BertForSequenceClassification.from_pretrained(tmp_path)
    assert exits_of(again).criterion == Entropy(0.0)
    exits_of(again).criterion = Entropy(0.7)
    again.save_pretrained(tmp_path)
    assert exits_of(BertForSequenceClassification.from_pretrained(tmp_path)).criterion == Entropy(
        0.7
    )
    del again.exits
    again.save_pretrained(tmp_path)
    assert not hasattr(BertForSequenceClassification.from_pretrained(tmp_path), "exits")


def drop(key: str) -> Callable[[dict[str, object]], object]:
    return lambda section: {k: v for k, v in section.items() if k != key}


def put(**values: object) -> Callable[[dict[str, object]], object]:
    return lambda section: section | values


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("format"), "format None"),
        (put(format=2), "format 2.*Update offramp"),
        (put(depths=[1, 9]), "from 1 to 2"),
        (put(depths=[1, 1]), "different layers"),
        (put(depths="ab"), None),
        (put(depths=3), None),
        (put(depths=[1.0, 2.0]), None),
        (put(pooler="max"), "pooler"),
        (put(queries=0), "queries"),
        (put(hidden="wide"), "hidden"),
        (put(dropout=3), None),
        (put(speed="fast"), "speed"),
        (drop("criterion"), "criterion"),
        (put(criterion="entropy"), None),
        (put(criterion=None), None),
        (put(criterion={"name": "luck"}), "luck"),
        (put(criterion={"name": ["entropy"]}), None),
        (put(criterion={"name": "entropy"}), "threshold"),
        (put(criterion={"name": "entropy", "threshold": None}), "threshold"),
        (lambda section: [1, 2], None),
        (lambda section: "exits", None),
    ],
)
def test_a_malformed_section_is_a_config_error(
    change: Callable[[dict[str, object]], object], message: str | None, tmp_path: Path
) -> None:
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["exits"] = change(values["exits"])
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=message):
        BertForSequenceClassification.from_pretrained(tmp_path)


def test_a_ramp_without_weights_is_never_made_up(tmp_path: Path) -> None:
    add_exits(plain(), [1]).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    values["exits"]["depths"] = [1, 2]
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=r"exits\.2"):
        BertForSequenceClassification.from_pretrained(tmp_path)
    del values["exits"]
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="config.json says nothing of any"):
        BertForSequenceClassification.from_pretrained(tmp_path)
    model, report = BertForSequenceClassification.from_pretrained(
        tmp_path, exits=None, output_loading_info=True
    )
    assert not hasattr(model, "exits")
    assert report.dropped
    assert all(name.startswith("exits.1.") for name in report.dropped)


def test_logits_by_depth_of_a_padded_batch() -> None:
    model = tiny_model()
    ids, mask = padded()
    inputs = Inputs.from_padded(ids, mask)
    with torch.no_grad():
        found = logits_by_depth(model, inputs)
        expected = model(ids, mask, output_hidden_states=True)
    assert list(found) == [1, 2, 3]
    names = inputs.row_ids_R
    assert names.tolist() != sorted(names.tolist())  # flow order is not input order here
    torch.testing.assert_close(found[3], expected.logits[names])
    for depth in (1, 2):
        ramp = exits_of(model).ramp(depth)
        hidden = expected.hidden_states[depth]
        for place, row in enumerate(names.tolist()):
            tokens = hidden[row][mask[row].bool()]
            weights_QL = torch.softmax(ramp.query.weight @ tokens.T, -1)
            pooled = (weights_QL @ tokens).flatten()
            by_hand = ramp.classifier(torch.tanh(ramp.dense(pooled)))
            torch.testing.assert_close(found[depth][place], by_hand, rtol=1e-4, atol=1e-4)


def test_logits_by_depth_carries_gradients_to_every_ramp() -> None:
    model = tiny_model()
    ids, mask = padded()
    total = sum(x.sum() for x in logits_by_depth(model, Inputs.from_padded(ids, mask)).values())
    total.backward()  # type: ignore[union-attr]
    for name, parameter in model.exits.named_parameters():
        assert parameter.grad is not None, name


def test_exits_on_another_family() -> None:
    model = add_exits(residual_model(), pooler="mean", hidden=6)
    rows = random_rows(12)
    inputs = Inputs.from_rows([r.ids for r in rows], [r.types for r in rows])
    with torch.no_grad():
        found = logits_by_depth(model, inputs)
        for place, row in enumerate(rows):
            for depth in (1, 2, 3):
                finished_LD, _ = model.by_hand(row.ids.tolist(), depth)
                ramp = exits_of(model).ramp(depth)
                own = ramp.classifier(torch.tanh(ramp.dense(finished_LD.mean(0))))
                torch.testing.assert_close(found[depth][place], own, rtol=1e-4, atol=1e-5)
            _, own = model.by_hand(row.ids.tolist())
            torch.testing.assert_close(found[4][place], own, rtol=1e-4, atol=1e-5)


def test_another_family_saves_and_loads_its_exits(tmp_path: Path) -> None:
    model = add_exits(residual_model(), [1, 3], criterion=Entropy(0.5))
    model.save_pretrained(tmp_path)
    again = ResidualForSequenceClassification.from_pretrained(tmp_path)
    assert isinstance(again.config, ResidualConfig)
    assert exits_of(again).criterion == Entropy(0.5)
    inputs = Inputs.from_rows([encoded([5, 6, 7]).ids], [encoded([5, 6, 7]).types])
    with torch.no_grad():
        one, two = logits_by_depth(model, inputs), logits_by_depth(again, inputs)
        assert list(one) == list(two) == [1, 3, 4]
        torch.testing.assert_close(one, two)
        flow = run_layers(again.stack, inputs)
        torch.testing.assert_close(again.logits(flow)[0], model.by_hand([5, 6, 7])[1])
