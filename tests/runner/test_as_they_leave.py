"""Results as they finish: the same answers, each as soon as its row leaves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from exit_models import random_rows, tiny_model
from task_models import some_texts

from offramp.exits.criteria import Entropy
from offramp.nn.blocks import EncoderLayer
from offramp.runner.classifier import Classifier
from offramp.runner.run import Runner


@pytest.mark.parametrize("window_rows", [1, 7, 100])
def test_the_runner_gives_each_row_once_with_its_place(window_rows: int) -> None:
    rows = random_rows(45, seed=1)
    runner = Runner(tiny_model(2), criterion=Entropy(0.5), window_rows=window_rows)
    expected = runner.run(rows)
    found = list(runner.stream(iter(rows), ordered=False))
    assert sorted(index for index, _ in found) == list(range(45))
    for index, result in found:
        assert torch.equal(result.logits_C, expected.logits_RC[index])
        assert result.exit_layer == expected.exit_layers_R[index]
        assert not result.logits_C.is_inference()
    # Windows one after the other, and in a window by depth.
    order = [(index // window_rows, result.exit_layer) for index, result in found]
    assert order == sorted(order)
    assert len({depth for _, depth in order}) == 3
    ordered = list(runner.stream(rows, ordered=True))
    assert [r.exit_layer for r in ordered] == expected.exit_layers_R.tolist()


def test_an_answer_is_there_before_deeper_layers_are_run() -> None:
    rows = random_rows(60, seed=1)
    model = tiny_model(2)
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    layers = [module for module in model.modules() if isinstance(module, EncoderLayer)]
    for layer in layers[1:]:
        layer.register_forward_hook(count)
    stream = Runner(model, criterion=Entropy(0.5)).stream(rows, ordered=False)
    _, first = next(stream)
    assert (first.exit_layer, steps) == (1, 0)
    depths = [result.exit_layer for _, result in stream]
    assert max(depths) == 3
    assert steps > 0


def test_the_caller_is_never_in_inference_mode() -> None:
    stream = Runner(tiny_model(2), criterion=Entropy(0.5)).stream(random_rows(30), ordered=False)
    for _ in stream:
        assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()


def test_a_classifier_s_texts(classifier: Classifier) -> None:
    texts = ["good film", *some_texts(5000), "bad"]  # two windows
    expected = classifier.predict(texts)
    found = list(classifier.stream(iter(texts), ordered=False))
    assert [prediction for _, prediction in sorted(found, key=lambda pair: pair[0])] == expected
    assert [index for index, _ in found] != list(range(5002))
    early = classifier.predict(texts, threshold=9.0)
    assert dict(classifier.stream(texts, ordered=False, threshold=9.0)) == dict(enumerate(early))
    assert list(classifier.stream([], ordered=False)) == []


def test_threads_are_the_caller_s_own_between_two_answers(classifier: Classifier) -> None:
    before = torch.get_num_threads()
    for _ in classifier.stream(some_texts(20), ordered=False, threads=before + 1):
        assert torch.get_num_threads() == before


def test_one_that_is_left_in_the_middle_of_a_window(classifier: Classifier, tmp_path: Path) -> None:
    closed = False

    def texts() -> Iterator[str]:
        nonlocal closed
        try:
            yield from some_texts(400)
        finally:
            closed = True

    stream = classifier.stream(texts(), ordered=False)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert closed
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
