"""The models under accelerate: a loop it prepared, compared with the plain one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from exit_models import tiny_config
from small_task import STILL, batch, same_weights
from torch import Tensor
from torch.utils.data import DataLoader

from offramp import BertForMaskedLM, BertForSequenceClassification

accelerate = pytest.importorskip("accelerate", reason="needs accelerate, which offramp does not")


def rows() -> list[dict[str, Tensor]]:
    whole = batch()
    return [{name: whole[name][i] for name in whole} for i in range(16)]


def parts(kind: Any = BertForSequenceClassification, size: int = 4, **changes: Any) -> Any:
    """A model, its optimiser and batches, always the same."""
    torch.manual_seed(0)
    model = kind(tiny_config(**changes))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    return model, optimizer, DataLoader(rows(), batch_size=size)


def train(model: Any, optimizer: Any, loader: Any, backward: Any, epochs: int = 2) -> list[float]:
    """Losses of a loop with dropout on."""
    torch.manual_seed(3)
    model.train()
    losses = []
    for _ in range(epochs):
        for some in loader:
            optimizer.zero_grad()
            loss = model(**some).loss
            backward(loss)
            optimizer.step()
            losses.append(float(loss.detach()))
    return losses


def plain(model: Any, optimizer: Any, loader: Any, epochs: int = 2) -> list[float]:
    return train(model, optimizer, loader, lambda loss: loss.backward(), epochs)


def test_a_prepared_loop_is_the_plain_one() -> None:
    """Bit for bit: losses and weights."""
    model, *rest = parts()
    expected = plain(model, *rest)
    start, *rest = parts()
    accelerator = accelerate.Accelerator(cpu=True)
    prepared = accelerator.prepare(start, *rest)
    assert train(*prepared, accelerator.backward) == expected
    unwrapped = accelerator.unwrap_model(prepared[0])
    assert unwrapped is start
    assert same_weights(unwrapped, model)
    assert not same_weights(unwrapped, parts()[0])


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    """Four rows and four rows, without dropout, are eight rows."""

    def with_sgd(size: int) -> Any:
        model, _, loader = parts(size=size, **STILL)
        return model, torch.optim.SGD(model.parameters(), lr=0.1), loader

    model, *rest = with_sgd(8)
    plain(model, *rest, epochs=1)
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    summed, optimizer, loader = accelerator.prepare(*with_sgd(4))
    steps = 0
    for some in loader:
        with accelerator.accumulate(summed):
            accelerator.backward(summed(**some).loss)
            steps += accelerator.sync_gradients
            optimizer.step()
            optimizer.zero_grad()
    assert steps == 2
    found = accelerator.unwrap_model(summed).state_dict()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, atol=1e-6, rtol=1e-5)
    assert (found["classifier.weight"] - parts()[0].classifier.weight).abs().max() > 0.01


def test_clipped_gradients() -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model, _, loader = accelerator.prepare(*parts())
    accelerator.backward(model(**next(iter(loader))).loss)
    before = accelerator.clip_grad_norm_(model.parameters(), 0.01)
    after = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
    assert before > 0.02
    assert float(after) == pytest.approx(0.01, rel=1e-3)


# Saving


@pytest.mark.parametrize("kind", [BertForSequenceClassification, BertForMaskedLM])
def test_the_recipe_of_the_documentation_saves_a_model(kind: Any, tmp_path: Path) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    model, _, _ = accelerator.prepare(*parts(kind))
    unwrapped = accelerator.unwrap_model(model)
    state = accelerator.get_state_dict(model)
    assert list(state) == list(unwrapped.state_dict())
    for is_main_process in (False, True):
        unwrapped.save_pretrained(
            tmp_path / "model",
            is_main_process=is_main_process,
            save_function=accelerator.save,
            state_dict={name: tensor + 1 for name, tensor in state.items()},
        )
        assert (tmp_path / "model").exists() == is_main_process
    again = kind.from_pretrained(tmp_path / "model", strict=True).state_dict()
    assert all(torch.equal(again[name], tensor + 1) for name, tensor in state.items())


@pytest.mark.parametrize("kind", [BertForSequenceClassification, BertForMaskedLM])
def test_what_save_model_wrote_opens_with_a_configuration(kind: Any, tmp_path: Path) -> None:
    """It writes weights alone, and of tied ones whichever it met first."""
    accelerator = accelerate.Accelerator(cpu=True)
    model, _, _ = accelerator.prepare(*parts(kind))
    accelerator.save_model(model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    again = kind.from_pretrained(tmp_path, config=tiny_config(), strict=True)
    assert same_weights(again, accelerator.unwrap_model(model))
    # accelerate's own way back
    other = kind(tiny_config())
    accelerate.load_checkpoint_in_model(other, tmp_path)
    other.tie_weights()
    assert same_weights(other, again)


def test_a_saved_state_goes_on_where_it_was(tmp_path: Path) -> None:
    """Weights, the optimiser's moments and the random state: the second epoch is the same."""
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer, loader = accelerator.prepare(*parts())
    train(model, optimizer, loader, accelerator.backward, epochs=1)
    accelerator.save_state(tmp_path / "state")

    def one_more_epoch() -> list[float]:
        losses = []
        for some in loader:  # `train` would seed the dropout
            optimizer.zero_grad()
            loss = model(**some).loss
            accelerator.backward(loss)
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    first = one_more_epoch()
    assert one_more_epoch() != first
    accelerator.load_state(tmp_path / "state")
    assert one_more_epoch() == first


# Half precision


def test_bfloat16_is_finite_and_close() -> None:
    model, *rest = parts()
    expected = plain(model, *rest)
    accelerator = accelerate.Accelerator(cpu=True, mixed_precision="bf16")
    prepared = accelerator.prepare(*parts())
    losses = train(*prepared, accelerator.backward)
    assert losses != expected
    assert losses == pytest.approx(expected, abs=0.05)
    trained = prepared[0].eval()
    assert all(parameter.dtype == torch.float32 for parameter in trained.parameters())
    assert all(bool(parameter.isfinite().all()) for parameter in trained.parameters())

    with torch.no_grad():
        output = trained(**batch(), output_hidden_states=True)
        exact = accelerator.unwrap_model(trained, keep_fp32_wrapper=False)(**batch())
    # accelerate gives everything back in float32, as an output of the same class
    assert type(output) is type(exact)
    assert output.logits.dtype == output.loss.dtype == torch.float32
    assert {states.dtype for states in output.hidden_states} == {torch.float32}
    assert 0 < (output.logits - exact.logits).abs().max() < 0.05 * exact.logits.abs().max()
