"""Tiny models, tokenizers and rows that the tests of exits, runner, training and cli share."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from offramp.exits.attach import add_exits, exits_of
from offramp.models.base import PretrainedModel
from offramp.models.bert import BertConfig, BertForSequenceClassification, BertModel
from offramp.models.config import PretrainedConfig, configuration, setting, whole
from offramp.models.flow import Flow, LayerStack
from offramp.models.inputs import Inputs
from offramp.nn.pooling import pool_first, pool_mean
from offramp.text.tokenizer import Encoded

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "good", "bad", "film", "plot", "actor", "scene", "the", "a", "of", "and", "it", "was", "very",
    "quite", "not", "music", "story",
)  # fmt: skip


def write_tokenizer(directory: Path, **settings: object) -> None:
    """vocab.txt of `WORDS`, and tokenizer_config.json."""
    lines = "".join(f"{word}\n" for word in (*SPECIAL, *WORDS))
    (directory / "vocab.txt").write_text(lines, "utf-8")
    settings = {"do_lower_case": True, **settings}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")


def tiny_config(**changes: object) -> BertConfig:
    """Width 32, three layers, the vocabulary of `write_tokenizer`."""
    values: dict[str, object] = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,  # at .02 so narrow a model hardly tells its inputs apart
    }
    return BertConfig(**(values | changes))


def write_body(directory: Path, seed: int = 0, **changes: object) -> Path:
    """A pretrained directory as one finds it: a body and a tokenizer, no head."""
    torch.manual_seed(seed)
    BertModel(tiny_config(**changes)).save_pretrained(directory)
    write_tokenizer(directory)
    return directory


def tiny_model(
    seed: int = 0,
    *,
    n_labels: int = 3,
    scale: float = 8.0,
    pooler: str = "attention",
    **changes: object,
) -> BertForSequenceClassification:
    """A random BERT with exits, in eval mode, whose logits are spread `scale` times.

    Spread so, rows of one batch have entropies from nearly 0 to nearly ln C, and leave everywhere.
    """
    torch.manual_seed(seed)
    model = add_exits(
        BertForSequenceClassification(tiny_config(num_labels=n_labels, **changes)), pooler=pooler
    )
    with torch.no_grad():
        for depth in exits_of(model).depths:
            exits_of(model).ramp(depth).classifier.weight.mul_(scale)
        model.classifier.weight.mul_(scale)
    return model.eval()


def random_rows(
    n_rows: int, seed: int = 0, *, longest: int = 40, vocabulary: int = len(SPECIAL) + len(WORDS)
) -> list[Encoded]:
    """Rows of random ids, 2 to `longest` tokens; some rows twice."""
    rng = random.Random(seed)
    rows: list[Encoded] = []
    for _ in range(n_rows):
        if rows and rng.random() < 0.1:
            rows.append(rng.choice(rows))
            continue
        length = rng.randint(2, longest)
        second = rng.randint(1, length)
        ids = [rng.randrange(len(SPECIAL), vocabulary) for _ in range(length)]
        rows.append(encoded(ids, [int(i >= second) for i in range(length)]))
    return rows


def encoded(ids: Sequence[int], types: Sequence[int] | None = None) -> Encoded:
    """One row from plain numbers."""
    return Encoded(
        np.asarray(ids, dtype=np.int64),
        np.asarray([0] * len(ids) if types is None else types, dtype=np.int64),
    )


def toy_rows(n_rows: int, seed: int = 0) -> list[tuple[str, str]]:
    """A task that can be learnt: `good` in the text is `pos`, `bad` is `neg`."""
    rng = random.Random(seed)
    rows = []
    for _ in range(n_rows):
        words = rng.choices(WORDS[2:], k=rng.randint(3, 9))
        label = rng.choice(["neg", "pos"])
        words.insert(rng.randrange(len(words) + 1), {"neg": "bad", "pos": "good"}[label])
        rows.append((" ".join(words), label))
    return rows


@configuration
class ResidualConfig(PretrainedConfig):
    """A family that has nothing of BERT: no attention, no positions, no embedding of kinds."""

    model_type = "residual"

    vocab_size: int = setting(default=len(SPECIAL) + len(WORDS), check=whole(1))
    hidden_size: int = setting(default=16, check=whole(1))
    num_hidden_layers: int = setting(default=4, check=whole(1))


class ResidualStack(nn.Module):
    """N times `hidden += tanh(linear(hidden + row's mean))`; exits read after the norm."""

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            nn.Linear(config.hidden_size, config.hidden_size)
            for _ in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)

    @property
    def n_layers(self) -> int:
        return len(self.layers)

    def start(self, inputs: Inputs) -> Flow:
        return Flow(self.words(inputs.ids), inputs.layout, inputs.row_ids_R, inputs.positions)

    def step(self, flow: Flow, i: int) -> Flow:
        mean_RD = pool_mean(flow.hidden, flow.layout)
        mean_TD = mean_RD.repeat_interleave(flow.layout.lengths_R, 0)  # type: ignore[union-attr]
        return flow.advanced(flow.hidden + torch.tanh(self.layers[i](flow.hidden + mean_TD)))

    def finish(self, flow: Flow) -> Flow:
        return Flow(self.norm(flow.hidden), flow.layout, flow.row_ids_R, flow.positions)

    def pool(self, flow: Flow) -> Tensor:
        return pool_first(flow.hidden, flow.layout)


class ResidualForSequenceClassification(PretrainedModel):
    """The family's classifier."""

    config_class = ResidualConfig
    base_model_prefix = "body"

    def __init__(self, config: ResidualConfig) -> None:
        super().__init__(config)
        self.body = ResidualStack(config)
        self.head = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    @property
    def stack(self) -> LayerStack:
        return self.body

    def logits(self, flow: Flow) -> Tensor:
        logits_RC: Tensor = self.head(self.body.pool(flow))
        return logits_RC

    def by_hand(self, ids: Sequence[int], depth: int | None = None) -> tuple[Tensor, Tensor]:
        """One row's finished hidden states [L, D] after `depth` layers, and the head's logits."""
        hidden_LD = self.body.words(torch.tensor(ids))
        for layer in self.body.layers[:depth]:
            hidden_LD = hidden_LD + torch.tanh(layer(hidden_LD + hidden_LD.mean(0)))
        finished_LD = self.body.norm(hidden_LD)
        return finished_LD, self.head(finished_LD[0])


def residual_model(seed: int = 0, *, n_labels: int = 3) -> ResidualForSequenceClassification:
    """A random one in eval mode, without exits."""
    torch.manual_seed(seed)
    return ResidualForSequenceClassification(ResidualConfig(num_labels=n_labels)).eval()
