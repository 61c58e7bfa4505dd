"""Seeded cases of writing: a small GPT-2 of transformers, offramp's of its files, and options."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

import offramp

PAD, EOS = 2, 1


@dataclass(frozen=True)
class Case:
    """A pair of models in float64, prompts [R, L] with their mask, and options of `generate`."""

    theirs: Any
    ours: Any
    ids: Tensor
    mask: Tensor
    options: dict[str, Any]

    @property
    def ragged(self) -> bool:
        """Whether prompts are of different lengths, with padding on their left."""
        return not bool(self.mask.all())

    def theirs_of(self, row: int) -> list[int]:
        """What transformers writes behind one prompt alone, to its end."""
        ids = self.ids[row : row + 1, self.mask[row].bool()]
        found = self.theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, **self.options
        )
        return trimmed(found[0, ids.shape[1] :])


def trimmed(news: Tensor) -> list[int]:
    """New tokens up to the first that ends, and without padding."""
    tokens: list[int] = news.tolist()
    if EOS in tokens:
        tokens = tokens[: tokens.index(EOS) + 1]
    return [token for token in tokens if token != PAD or EOS not in news.tolist()]


def models(seed: int) -> tuple[Any, Any]:
    """transformers' model, and offramp's of the files that it saves."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=draw.choice([20, 50]),
        n_positions=40,
        n_embd=24,
        n_layer=draw.choice([1, 3]),
        n_head=4,
        initializer_range=0.5,
        bos_token_id=0,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    theirs = transformers.GPT2LMHeadModel(config).double().eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = offramp.GPT2LMHeadModel.from_pretrained(folder, mmap=False)
    return theirs, ours


def case(seed: int, *, beams: bool) -> Case:
    """The case of a seed: greedy, or with beams."""
    theirs, ours = models(seed)
    draw = random.Random(seed + 10_000)
    rows, length = draw.choice([1, 3, 5]), draw.choice([1, 4, 8])
    ids = torch.randint(3, ours.config.vocab_size, (rows, length))
    mask = torch.ones_like(ids)
    if length > 1 and draw.random() < 0.5:
        for row in range(rows):
            masked = draw.randrange(length)
            mask[row, :masked], ids[row, :masked] = 0, PAD
    return Case(theirs, ours, ids, mask, options(draw, beams))


def options(draw: random.Random, beams: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"max_new_tokens": draw.choice([1, 5, 20])}
    chances: dict[str, Any] = {
        "repetition_penalty": [1.3, 0.8],
        "no_repeat_ngram_size": [1, 2, 3],
        "bad_words_ids": [[[3], [4, 5], [6, 7, 8], [EOS]]],
        "min_new_tokens": [1] if found["max_new_tokens"] < 3 else [3],
        "suppress_tokens": [[5, 6]],
        "begin_suppress_tokens": [[7, 8]],
        "forced_eos_token_id": [EOS],
        "eos_token_id": [[EOS, 9]],
    }
    for name, values in chances.items():
        if draw.random() < 0.25:
            found[name] = draw.choice(values)
    if beams:
        found["num_beams"] = draw.choice([2, 3, 5])
        found["num_return_sequences"] = draw.choice([1, 2])
        found["early_stopping"] = draw.choice([True, False, "never"])
        found["length_penalty"] = draw.choice([0.0, 1.0, 2.0, -1.0])
    return found
