"""A user's own class, from its construction through training, saving and surgery, in one story.

What `test_tracking.py` tests one by one happens here in turn to the same model.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import IDS, MASK, TINY
from torch import Tensor, nn

from offramp import BertConfig, BertModel, BertPreTrainedModel, Runner, add_exits
from offramp.models.heads import SequenceClassification
from offramp.text.tokenizer import Encoded

TARGETS = torch.tensor([2, 0])


class MyRanker(BertPreTrainedModel):
    """A head and a forward of its own, and arguments that the configuration does not have."""

    def __init__(self, config: BertConfig, n_scores: int, temperature: float = 1.0) -> None:
        super().__init__(config)
        self.temperature = temperature
        self.bert = BertModel(config)
        self.score = nn.Linear(config.hidden_size, n_scores)
        self.init_weights()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        pooled = self.bert(input_ids, attention_mask).pooler_output
        return self.score(pooled) / self.temperature


class MyDeepClassifier(SequenceClassification, BertPreTrainedModel):
    """A task of the library, which brings forward, loss and exits, over a deeper classifier."""

    def __init__(self, config: BertConfig, width: int, activation: str = "relu") -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Sequential(
            nn.Linear(config.hidden_size, width),
            {"relu": nn.ReLU(), "tanh": nn.Tanh()}[activation],
            nn.Linear(width, config.num_labels),
        )
        self.init_weights()


def answers(model: Any) -> Tensor:
    with torch.no_grad():
        output = model.eval()(IDS, MASK)
    return output if isinstance(output, Tensor) else output.logits


def train(model: Any, loss_of: Callable[[Any], Tensor]) -> list[float]:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


STORIES = {
    "own forward": (
        lambda config: MyRanker(config, 3, 0.5),
        lambda model: F.cross_entropy(model(IDS, MASK), TARGETS),
        {"n_scores": 3, "temperature": 0.5},
    ),
    "task of the library": (
        lambda config: MyDeepClassifier(config, 6, "tanh"),
        lambda model: model(IDS, MASK, labels=TARGETS).loss,
        {"width": 6, "activation": "tanh"},
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_from_construction_to_a_second_life(story: str, tmp_path: Path) -> None:
    build, loss_of, arguments = STORIES[story]
    model = build(BertConfig(**TINY, num_labels=3, hidden_dropout_prob=0.0))
    kind = type(model)

    def saved_and_loaded(directory: str) -> Any:
        """From the directory alone: neither configuration nor arguments are given again."""
        model.save_pretrained(tmp_path / directory)
        again = kind.from_pretrained(tmp_path / directory, strict=True)
        torch.testing.assert_close(answers(again), answers(model))
        assert {name: again.init_config[name] for name in arguments} == arguments
        assert again.config.structure() == model.config.structure()
        assert again.config.pruned_heads == model.config.pruned_heads
        return again

    losses = train(model, loss_of)
    assert losses[-1] < losses[0] / 2
    model = saved_and_loaded("trained")

    before = answers(model)
    model.resize_token_embeddings(26)
    assert torch.equal(answers(model), before)  # more words change no row of old ones
    model.prune_heads({0: [1, 2], 1: [3]})
    assert not torch.equal(answers(model), before)
    model = saved_and_loaded("pruned")
    assert model.config.vocab_size == 26
    assert [layer.attention.self.query.out_features for layer in model.bert.encoder.layer] == [4, 6]

    # What was loaded is no dead end: new words can be read, it learns, another head goes.
    model(torch.tensor([[25, 1]]))
    losses = train(model, loss_of)
    assert losses[-1] < losses[0]
    model.prune_heads({1: [0]})
    model = saved_and_loaded("again")
    assert model.config.pruned_heads == {0: [1, 2], 1: [0, 3]}


def test_exits_on_a_task_of_one_s_own(tmp_path: Path) -> None:
    model = add_exits(MyDeepClassifier(BertConfig(**TINY, num_labels=3), 6), hidden=4)
    model.save_pretrained(tmp_path)
    again = MyDeepClassifier.from_pretrained(tmp_path, strict=True)
    rows = [Encoded(row.numpy(), np.zeros(len(row), int)) for row in (IDS[0], IDS[1, :3])]
    results = Runner(again).run(rows)
    torch.testing.assert_close(results.logits_RC, answers(model))
    early = Runner(again, depth=1).run(rows)
    assert early.exit_layers_R.tolist() == [1, 1]
    assert not torch.equal(early.logits_RC, results.logits_RC)
