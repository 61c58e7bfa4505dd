"""What everything that takes texts has: a model, its tokenizer, and a place to save them."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar, cast

from torch import Tensor
from typing_extensions import Self

from offramp.checkpoints.directory import staged
from offramp.checkpoints.file_names import WEIGHTS
from offramp.errors import CheckpointError, ConfigError, DataError
from offramp.models.base import PretrainedModel
from offramp.models.config_file import OLD_CONFIG_FILE
from offramp.models.flow import LayerStack
from offramp.models.names import MODULES_FILE, PROMPTS_FILE, TEXT_FILES, TOKENIZER_FILES
from offramp.models.sharing import HubMixin
from offramp.models.tables import MODEL_STATE
from offramp.runner.prepare import prepare
from offramp.text.tables import Text
from offramp.text.tokenizer import Encoded, Tokenizer

CHUNK = 512  # texts tokenised at a time; no faster with more

_SETTINGS = (OLD_CONFIG_FILE, *TOKENIZER_FILES, MODULES_FILE, PROMPTS_FILE, *TEXT_FILES)
WHOLE = re.compile(
    "|".join([WEIGHTS.pattern, *map(re.escape, _SETTINGS), r"\d+_(Pooling|Dense|Normalize)"])
)
"""Names that a save of model and tokenizer takes away: all by which another would be read."""

T = TypeVar("T")


class TextModel(HubMixin):
    """A model and its tokenizer, which belong together; the model is put into eval mode.

    Raises ConfigError where the tokenizer has ids or lengths that the model has not.
    """

    def __init__(self, model: PretrainedModel, tokenizer: Tokenizer) -> None:
        vocabulary = getattr(model.config, "vocab_size", tokenizer.vocab_size)
        if tokenizer.vocab_size > vocabulary:
            raise ConfigError(
                f"The tokenizer has {tokenizer.vocab_size} ids and the model embeds "
                f"{vocabulary}; they do not belong together."
            )
        positions = getattr(model.config, "max_position_embeddings", tokenizer.max_length)
        longest = getattr(model.base_model, "max_length", positions)  # without those of padding
        if tokenizer.max_length > longest:
            raise ConfigError(
                f"max_length {tokenizer.max_length} is more than the {longest} positions of "
                "this model."
            )
        self.model = model.eval()
        self.tokenizer = tokenizer

    @property
    def stack(self) -> LayerStack:
        """The model's body."""
        return cast(LayerStack, self.model.base_model)

    def prepared(self, *, int8: bool = False, compile: bool = False) -> Self:
        """The same with `offramp.prepare(model, ...)` for its model.

        It takes no part in later changes of the model. With `int8` its answers differ a little, and
        a threshold should be chosen for it: see `offramp.recalibrate`.
        """
        like = copy.copy(self)
        like.model = prepare(self.model, int8=int8, compile=compile)
        return like

    def save(self, directory: str | Path) -> None:
        """Write model (its exits too) and tokenizer; the directory is there whole or not at all."""
        with staged(directory, WHOLE) as fresh:
            self.write_files(fresh)

    def write_files(self, directory: Path) -> None:
        """Write the model's and the tokenizer's files into an open directory."""
        self.model.write_files(directory)
        self.tokenizer.write_files(directory)

    def write_for_hub(self, directory: Path, max_shard_size: int | str | None) -> None:
        """Write what `save` would into an empty directory."""
        self.write_files(directory)
        if max_shard_size is not None:  # anew, in as many files as that asks for
            (directory / self.model.resource_files_names[MODEL_STATE]).unlink()
            self.model.write_files(directory, max_shard_size=max_shard_size)

    def certificate_in_words(self) -> str | None:
        """What is proved of the exits as they are now; None where nothing is."""
        return self.model.certificate_in_words()

    def encoded(self, texts: Iterable[Text]) -> Iterator[Encoded]:
        """The texts' token ids, read and tokenised some hundreds at a time."""
        for number, chunk in enumerate(chunks(texts, CHUNK)):
            yield from self.tokenizer.encode(chunk, first_row=number * CHUNK)

    def check_finite(self, values: Tensor) -> None:
        """CheckpointError for answers that are no numbers."""
        if not bool(values.isfinite().all()):
            raise CheckpointError(
                "The model answers with NaN. Its weights hold NaN, or are too large for "
                f"their type, {self.model.dtype}."
            )


def check_call(texts: object, threads: int | None, method: str = "predict") -> None:
    """DataError for one text where a list belongs, ConfigError for a number of threads below 1."""
    if isinstance(texts, str):
        raise DataError(f"{method} takes a list of texts; for one text pass [text].")
    if threads is not None and threads < 1:
        raise ConfigError(f"threads must be at least 1; got {threads}.")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Successive items, so many at a time, read as they are asked for."""
    rest = iter(items)
    while chunk := list(itertools.islice(rest, size)):
        yield chunk
