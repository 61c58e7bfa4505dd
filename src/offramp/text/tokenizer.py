"""Text to token ids, through the `tokenizers` library."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers.implementations.bert_wordpiece import BertWordPieceTokenizer
from typing_extensions import Self

from offramp.errors import DataError, ModelNotFoundError, SaveError
from offramp.text.tables import Text

_CONFIG_FILE = "tokenizer_config.json"
_MODEL_CONFIGS = ("config.json", "model_config.json")
_POSITIONS = "max_position_embeddings"
_FILE = "tokenizer.json"
_VOCABULARY = "vocab.txt"


class Encoded(NamedTuple):
    """One row: token ids and, beside each, 0 for the first text and 1 for the second. int64."""

    ids: npt.NDArray[np.int64]
    types: npt.NDArray[np.int64]


class Tokenizer:
    """A fast tokenizer that never pads, and truncates the longer text first at `max_length`."""

    def __init__(
        self,
        tokenizer: tokenizers.Tokenizer,
        max_length: int,
        settings: dict[str, Any] | None = None,
    ) -> None:
        # Files may ask for padding to a fixed length (all-MiniLM's does: 128); rows are packed
        # here, so padding would be read as text.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._settings = dict(settings or {})
        self.max_length = max_length

    @classmethod
    def from_pretrained(cls, directory: str | Path, *, max_length: int | None = None) -> Self:
        """The tokenizer of a model's directory: its tokenizer.json, or else its vocab.txt.

        `max_length` is in tokens, the special ones included; by default the least of what
        tokenizer_config.json and config.json allow (512 where they are silent).
        """
        directory = Path(directory)
        settings = _read_json(directory / _CONFIG_FILE)
        if (directory / _FILE).is_file():
            try:
                tokenizer = tokenizers.Tokenizer.from_file(str(directory / _FILE))
            except Exception as error:  # the library raises a bare Exception
                raise DataError(f"{directory / _FILE} cannot be read: {error}.") from error
        elif (directory / _VOCABULARY).is_file():
            tokenizer = _from_vocabulary(directory / _VOCABULARY, settings)
        else:
            raise ModelNotFoundError(
                f"{directory} has no tokenizer. Expected {_FILE} or {_VOCABULARY} beside the "
                "weights."
            )
        if max_length is None:
            limits = (
                settings.get("model_max_length"),
                *(_read_json(directory / name).get(_POSITIONS) for name in _MODEL_CONFIGS),
            )
            # transformers writes int(1e30) for no limit
            found = [n for n in limits if isinstance(n, int) and 0 < n < 2**31]
            max_length = min(found, default=512)
        return cls(tokenizer, max_length, settings)

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

    def encode(self, texts: Sequence[Text], *, first_row: int = 0) -> list[Encoded]:
        """Token ids of each text or pair. `first_row` is the first one's number in messages."""
        if isinstance(texts, str):  # a str is a sequence of its characters
            raise DataError("encode takes a list of texts; got one text. Pass [text].")
        for row, text in enumerate(texts, start=first_row):
            if not _is_text(text):
                raise DataError(
                    f"Row {row} is a {type(text).__name__}; expected a text or a pair of texts."
                )
        try:
            encodings = self._tokenizer.encode_batch_fast(list(texts))
        except TypeError as error:  # half of a surrogate pair, which no UTF-8 text has
            raise DataError(f"A text is not valid Unicode: {error}.") from error
        return [
            Encoded(
                np.asarray(encoding.ids, dtype=np.int64),
                np.asarray(encoding.type_ids, dtype=np.int64),
            )
            for encoding in encodings
        ]

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write the tokenizer's files into a directory, which is made if need be.

        What else lies there stays: trainers call it beside a model's `save_pretrained`.
        """
        directory = Path(save_directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.write_files(directory)
        except OSError as error:
            raise SaveError(f"{directory} cannot be written to: {error}.") from error

    def write_files(self, directory: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json into a directory."""
        plain = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
        plain.no_truncation()  # the limit travels in the settings, where other readers look
        directory = Path(directory)
        plain.save(str(directory / _FILE))
        settings = {**self._settings, "model_max_length": self.max_length}
        settings.pop("name_or_path", None)
        text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        (directory / _CONFIG_FILE).write_text(text, encoding="utf-8")


def _from_vocabulary(path: Path, settings: dict[str, Any]) -> tokenizers.Tokenizer:
    accents = settings.get("strip_accents")
    special: dict[str, Any] = {
        name: _content(settings[name])
        for name in ("unk_token", "sep_token", "cls_token", "pad_token", "mask_token")
        if settings.get(name) is not None
    }
    try:
        built = BertWordPieceTokenizer(
            str(path),
            **special,
            lowercase=bool(settings.get("do_lower_case", True)),
            strip_accents=accents if isinstance(accents, bool) else None,
            handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
        )
        unknown = special.get("unk_token", "[UNK]")
        if built.token_to_id(unknown) is None:  # the first unknown word would be an error
            raise ValueError(f"{unknown} is not in it")
    except Exception as error:  # the library raises TypeError and bare Exceptions
        raise DataError(
            f"{path} is not a BERT vocabulary: {error}. One token a line, UTF-8, with the special "
            f"tokens that {_CONFIG_FILE} names ([CLS], [SEP], [UNK] by default)."
        ) from error
    return tokenizers.Tokenizer.from_str(built.to_str())


def _content(token: Any) -> str:
    """A special token as older files (text) and newer ones (an object) write it."""
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str):
        raise DataError(f"{_CONFIG_FILE} has the special token {token!r}; expected a text.")
    return content


def _is_text(text: object) -> bool:
    if isinstance(text, tuple):
        return len(text) == 2 and all(isinstance(part, str) for part in text)
    return isinstance(text, str)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from error
    return values if isinstance(values, dict) else {}
