"""Saves two models over one another until it is killed; run by test_directory.py.

    python saver.py TARGET

Says `ready` once both have been saved. Then, for every line that comes in, forks a child that does
nothing but save, first one model and then the other, and says the child's number; when the child
is dead it says `dead`. One import of torch thus serves for many kills.
"""

from __future__ import annotations

import itertools
import os
import sys

import torch

import offramp


def main() -> None:
    models = [make(width, value) for width, value in ((8, 1.0), (16, 2.0))]
    for model in models:
        model.save_pretrained(sys.argv[1])
    print("ready", flush=True)
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            # Bounded, in case whoever was to kill it is gone.
            for model in itertools.islice(itertools.cycle(models), 1000):
                model.save_pretrained(sys.argv[1])
            os._exit(0)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("dead", flush=True)


def make(width: int, value: float) -> offramp.BertForSequenceClassification:
    """A model of this width whose every weight is `value`."""
    config = offramp.BertConfig(
        vocab_size=50,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=8,
    )
    model = offramp.BertForSequenceClassification(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)
    return model


if __name__ == "__main__":
    main()
