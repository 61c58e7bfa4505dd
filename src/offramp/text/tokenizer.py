"""Text to token ids, through the `tokenizers` library."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tokenizers
from typing_extensions import Self

from offramp.errors import DataError
from offramp.storage.into import write_into
from offramp.storage.steady import reread
from offramp.text.cutting import check_cut, cut
from offramp.text.encoded import Encoded, Tokens, Truncation, as_encoded, as_tokens
from offramp.text.families import FAMILIES, family_name, position_limit
from offramp.text.files import read_json
from offramp.text.opening import open_tokenizer
from offramp.text.saving import tokenizer_files
from offramp.text.special import read_settings, role_token
from offramp.text.tables import Text
from offramp.text.words import taking_words

__all__ = ["Encoded", "Text", "Tokenizer", "Tokens"]

_MODEL_CONFIGS = ("config.json", "model_config.json")


E = TypeVar("E", Encoded, Tokens)


class Tokenizer:
    """A fast tokenizer that never pads, and truncates the longer text first at `max_length`.

    Where a row is to be cut in another way, or its tokens are to be found again in the text, use
    `tokenize` and `encode_words`.
    """

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        max_length: int,
        settings: dict[str, Any] | None = None,
        *,
        one_type: bool = False,
    ) -> None:
        # Files may ask for padding to a fixed length (all-MiniLM's does: 128); rows are packed
        # here, so padding would be read as text.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._settings = dict(settings or {})
        self._one_type = one_type  # the model has a row for type 0 alone, whatever a pair's are
        # The library keeps how to truncate in the tokenizer: other ways are asked of a copy, by
        # one thread at a time. The key says whether it takes words.
        self._copies: dict[bool, tokenizers.Tokenizer] = {}
        self._lock = threading.Lock()
        self.max_length = max_length

    @classmethod
    def from_pretrained(cls, directory: str | Path, *, max_length: int | None = None) -> Self:
        """The tokenizer of a model's directory: its tokenizer.json, or else its vocabulary.

        Which family's the vocabulary is (vocab.txt, vocab.json with merges.txt, spiece.model or
        sentencepiece.bpe.model) is said by tokenizer_config.json or config.json.

        `max_length` is in tokens, the special ones included; by default the least of what
        tokenizer_config.json and config.json allow (512 where they are silent).
        """
        place = Path(directory)
        return reread(lambda: cls._read(place, max_length), place)

    @classmethod
    def _read(cls, directory: Path, max_length: int | None) -> Self:
        settings = read_settings(directory)
        configs = [read_json(directory / name) for name in _MODEL_CONFIGS]
        name = family_name(settings, configs[0])
        tokenizer, name = open_tokenizer(directory, settings, name)
        if max_length is None:
            limits = (
                settings.get("model_max_length"),
                *(position_limit(config, name) for config in configs),
            )
            # transformers writes int(1e30) for no limit
            found = [n for n in limits if isinstance(n, int) and 0 < n < 2**31]
            max_length = min(found, default=512)
        if name is not None:
            settings["tokenizer_class"] = FAMILIES[name].tokenizer_class
        one_type = any(config.get("type_vocab_size") == 1 for config in configs)
        return cls(tokenizer, max_length, settings, one_type=one_type)

    @property
    def vocab_size(self) -> int:
        """The number of ids, added tokens included."""
        return self._tokenizer.get_vocab_size()

    @property
    def max_length(self) -> int:
        """The most tokens a row may have, special ones included; longer rows are truncated."""
        return self._max_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        least = self._tokenizer.num_special_tokens_to_add(True) + 1
        if value < least:
            raise DataError(f"max_length must be at least {least} tokens; got {value}.")
        self._tokenizer.enable_truncation(value)
        self._max_length = value

    @property
    def pad_id(self) -> int | None:
        """The padding token's id, where there is one."""
        return self._role_id("pad_token")

    @property
    def mask_token(self) -> str | None:
        """The token that hides a word from a masked language model, where there is one."""
        return role_token(self._tokenizer, self._settings, "mask_token")

    @property
    def mask_id(self) -> int | None:
        """The id of `mask_token`."""
        return self._role_id("mask_token")

    def token_to_id(self, token: str) -> int | None:
        """A token's id; None for what is no token."""
        try:
            return self._tokenizer.token_to_id(token)
        except UnicodeEncodeError:  # half of a surrogate pair
            return None

    def encode(self, texts: Sequence[Text], *, first_row: int = 0) -> list[Encoded]:
        """Token ids of each text or pair. `first_row` is the first one's number in messages."""
        rows = _checked(texts, first_row, "encode")
        try:
            found = [as_encoded(row) for row in self._tokenizer.encode_batch_fast(rows)]
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:
            raise _refused(rows, first_row, error) from error
        return self._typed(found)

    def tokenize(
        self,
        texts: Sequence[Text],
        *,
        truncation: Truncation = "longest_first",
        stride: int | None = None,
        first_row: int = 0,
    ) -> list[Tokens]:
        """The tokens of each text or pair, with where in the text they come from.

        With `stride` a row that is too long becomes several windows, one after the other, of which
        two neighbours share that many tokens of the text that is cut: for question answering pass
        (question, passage) and "only_second", and every window has the whole question.

        Raises DataError for a row that cannot be cut as asked. "only_second" takes pairs alone.
        """
        check_cut(truncation, stride)
        rows = _checked(texts, first_row, "tokenize")
        for row, text in enumerate(rows, start=first_row):
            pair = isinstance(text, tuple)
            if truncation == "only_second" and not pair:
                raise DataError(f"Row {row} is one text, and only_second cuts the second text.")
            if stride is not None and truncation == "longest_first" and pair:
                raise DataError(
                    f"Row {row} is a pair: with stride say which text is cut into windows, "
                    "only_first or only_second."
                )
        return self._typed(self._tokens(rows, truncation, stride, first_row, words=False))

    def encode_words(
        self,
        rows: Sequence[Sequence[str]],
        *,
        truncation: Truncation = "longest_first",
        stride: int | None = None,
        first_row: int = 0,
    ) -> list[Tokens]:
        """The tokens of texts that are split into words already, each text a list of them.

        `Tokens.words` says which of the given words a token is of, and `offsets` where in it. A
        word of which the tokenizer keeps nothing (white space, control characters) has no token.
        """
        check_cut(truncation, stride)
        if truncation == "only_second":
            raise DataError("Rows of words have no second text; pass longest_first.")
        if isinstance(rows, str):
            raise DataError("encode_words takes a list of lists of words; got one text.")
        for row, words in enumerate(rows, start=first_row):
            if isinstance(words, str) or not isinstance(words, Sequence) or not words:
                raise DataError(
                    f"Row {row} is {words!r:.80}; expected a list of at least one word."
                )
            for word in words:
                if not isinstance(word, str):
                    raise DataError(f"Row {row} has the word {word!r:.80}; expected a text.")
        return self._tokens([list(row) for row in rows], truncation, stride, first_row, words=True)

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids, as near as the tokenizer can tell. DataError for what is no id."""
        array = np.asarray(ids if isinstance(ids, (Sequence, np.ndarray)) else list(ids))
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise DataError(
                f"decode takes one row of token ids; got an array of {array.dtype} of shape "
                f"{list(array.shape)}."
            )
        numbers = [int(number) for number in array]
        for number in set(numbers):
            if not 0 <= number < 2**32 or self._tokenizer.id_to_token(number) is None:
                raise DataError(f"{number} is the id of no token; there are {self.vocab_size}.")
        return self._tokenizer.decode(numbers, skip_special_tokens=skip_special_tokens)

    def to_json(self) -> str:
        """All that the tokenizer does, as tokenizer.json says it: equal for equal tokenizers."""
        return self._tokenizer.to_str()

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the tokenizer's files into a directory, which is made if need be.

        What else lies there stays: trainers call it beside a model's `save_pretrained`.
        """
        write_into(Path(save_directory), self._files())

    def write_files(self, directory: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json into an open directory."""
        for name, content in self._files().items():
            (Path(directory) / name).write_bytes(content)

    def _files(self) -> dict[str, bytes]:
        settings = {**self._settings, "model_max_length": self.max_length}
        return tokenizer_files(self._tokenizer, settings)

    def _tokens(
        self,
        rows: list[Any],
        truncation: Truncation,
        stride: int | None,
        first_row: int,
        *,
        words: bool,
    ) -> list[Tokens]:
        try:
            if truncation == "longest_first" and stride is None and not words:
                found = self._tokenizer.encode_batch(rows)
                return [as_tokens(row, i) for i, row in enumerate(found, start=first_row)]
            with self._lock:
                if words not in self._copies:
                    copy = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
                    self._copies[words] = taking_words(copy) if words else copy
                return cut(
                    self._copies[words],
                    rows,
                    limit=self.max_length,
                    truncation=truncation,
                    stride=stride,
                    first_row=first_row,
                    words=words,
                )
        except (KeyboardInterrupt, SystemExit, MemoryError, DataError):
            raise
        except BaseException as error:
            raise _refused(rows, first_row, error) from error

    def _typed(self, rows: list[E]) -> list[E]:
        """Rows whose token types the model has."""
        if not self._one_type:
            return rows
        return [row._replace(types=np.zeros_like(row.types)) for row in rows]

    def _role_id(self, role: str) -> int | None:
        token = role_token(self._tokenizer, self._settings, role)
        return None if token is None else self._tokenizer.token_to_id(token)

    def __reduce__(self) -> tuple[Any, ...]:
        # Locks cannot be pickled, and copies are made again.
        state = self._tokenizer, self.max_length, self._settings
        return functools.partial(type(self), one_type=self._one_type), state


def _checked(texts: Sequence[Text], first_row: int, what: str) -> list[Any]:
    if isinstance(texts, str):  # a str is a sequence of its characters
        raise DataError(f"{what} takes a list of texts; got one text. Pass [text].")
    for row, text in enumerate(texts, start=first_row):
        if not _is_text(text):
            raise DataError(
                f"Row {row} is a {type(text).__name__}; expected a text or a pair of texts."
            )
    return list(texts)


def _is_text(text: object) -> bool:
    if isinstance(text, tuple):
        return len(text) == 2 and all(isinstance(part, str) for part in text)
    return isinstance(text, str)


def _refused(rows: list[Any], first_row: int, cause: BaseException) -> DataError:
    """The error for rows that the library does not take.

    It raises TypeError for half of a surrogate pair, which no UTF-8 text has and JSON can spell;
    a bare Exception, or a Rust panic (no Exception), where tokenizer.json asks for what cannot be.
    """
    for row, texts in enumerate(rows, start=first_row):
        for text in [texts] if isinstance(texts, str) else texts:
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                return DataError(f"Row {row} is not valid Unicode: {error}.")
    said = " ".join(str(cause).split())
    return DataError(
        f"The tokenizer fails on rows {first_row} to {first_row + len(rows) - 1}: {said}. Its "
        "tokenizer.json asks for what it has not; fetch the file again."
    )
