"""Prompts with their choices in, the best choice of each out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, cast

import torch
from torch import Tensor

from offramp.errors import DataError
from offramp.models.base import PretrainedModel
from offramp.models.heads import MultipleChoice
from offramp.runner.groups import Group, answers, lead
from offramp.runner.head_calls import body, choice_logits
from offramp.runner.prepare import prepared
from offramp.runner.progress import OnProgress
from offramp.runner.rows import read_rows
from offramp.runner.text_model import TextModel, check_call, chunks
from offramp.text.tables import Text
from offramp.text.tokenizer import Encoded, Tokenizer

Prompt: TypeAlias = tuple[str, Sequence[str]]
"""A text and its choices, one at least."""

_CHUNK = 512  # prompts tokenised at a time


@dataclass(frozen=True, slots=True)
class Choice:
    """The best of a prompt's choices: its place, its text, and the probability of each choice."""

    index: int
    text: str
    probabilities: tuple[float, ...]


class Chooser(TextModel):
    """A multiple-choice model and its tokenizer. Safe to call from several threads.

    A choice is read as the second text of a pair, beside its prompt; of a pair that is too long the
    longer text is cut. A prompt's answer does not depend on those that it is answered with.
    """

    def __init__(self, model: PretrainedModel, tokenizer: Tokenizer) -> None:
        super().__init__(model, tokenizer)
        choice_logits(model)  # or a ConfigError
        self._first_alone = cast(MultipleChoice, model).reads_first_alone

    def predict(self, prompts: Iterable[Prompt], *, threads: int | None = None) -> list[Choice]:
        """The best choice of each (prompt, [choice, ...]), in their order.

        Prompts may have different numbers of choices. Of equal choices it is the first.
        """
        return list(self.stream(prompts, threads=threads))

    def stream(
        self,
        prompts: Iterable[Prompt],
        *,
        threads: int | None = None,
        progress: OnProgress | None = None,
    ) -> Iterator[Choice]:
        """`predict` for any number of prompts in bounded memory.

        `progress` is called after each window.
        """
        check_call(prompts, threads)
        return answers(self, prompts, self._groups, self._read, _decide, threads, progress)

    def _read(self, rows: Sequence[Encoded]) -> list[Tensor]:
        model = prepared(self.model)
        logits_R1 = read_rows(
            body(model), rows, choice_logits(model), model.device, first_alone=self._first_alone
        )
        return list(logits_R1.float().cpu())

    def _groups(self, prompts: Iterable[Prompt]) -> Iterator[Group[Prompt, Encoded]]:
        for number, chunk in enumerate(chunks(prompts, _CHUNK)):
            pairs: list[Text] = []
            for row, prompt in enumerate(chunk, start=number * _CHUNK):
                _check_prompt(prompt, row)
                pairs += [(prompt[0], choice) for choice in prompt[1]]
            rows = iter(self.tokenizer.encode(pairs))
            for prompt in chunk:
                yield Group(prompt, [next(rows) for _ in prompt[1]])


def _decide(group: Group[Prompt, Encoded], values: Sequence[Tensor]) -> tuple[Choice, float]:
    logits_C = torch.cat(list(values))
    probabilities = logits_C.softmax(-1).tolist()
    best = max(range(len(probabilities)), key=probabilities.__getitem__)
    return Choice(best, group.asked[1][best], tuple(probabilities)), lead(logits_C)


def _check_prompt(prompt: object, row: int) -> None:
    if isinstance(prompt, tuple) and len(prompt) == 2:
        text, choices = prompt
        listed = isinstance(choices, Sequence) and not isinstance(choices, str)
        if (
            isinstance(text, str)
            and listed
            and choices
            and all(isinstance(c, str) for c in choices)
        ):
            return
    raise DataError(
        f"Row {row} is {str(prompt)[:100]!r}; expected a prompt and its choices, such as "
        '("The sky is", ["blue", "square"]).'
    )
