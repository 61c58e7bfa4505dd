"""Words with a tag each, for token classification, from JSONL, Parquet and CoNLL files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from offramp.errors import DataError
from offramp.text.columns import Columns, column_records, has_columns, source_of
from offramp.text.records import Found, as_label, column, lines, records

_CONLL = (".conll", ".txt")
_DOCUMENT = "-DOCSTART-"
_COLUMNS = (".jsonl", ".parquet")


@dataclass(frozen=True)
class TaggedTable:
    """Sentences: the words of each, and the tag of each word where tags were read.

    `source` is what messages call it. `read_tagged` makes one of a file, and `TaggedTable.of` of
    rows in memory.
    """

    source: str
    words: list[list[str]]
    tags: list[list[str]] | None

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def of(
        cls,
        data: TaggedTable | Columns,
        *,
        tokens: str = "tokens",
        label: str | None = "label",
        source: str | None = None,
    ) -> TaggedTable:
        """The sentences of a dict of columns, or of a Hugging Face `datasets.Dataset`.

        `tokens` and `label` name columns of lists, as of `read_tagged`; a dataset's `ClassLabel`
        numbers become their names. Raises DataError for what cannot be used.
        """
        if isinstance(data, TaggedTable):
            return data
        if not has_columns(data):
            raise DataError(
                f"A {type(data).__name__} is no table; expected a dict of columns, such as "
                '{"tokens": [[...]], "label": [[...]]}, or a datasets.Dataset.'
            )
        source = source or source_of(data)
        wanted = [tokens] if label is None else [tokens, label]
        return _table(
            source, _rows(source, column_records(data, wanted, source), tokens, label), label
        )


def read_tagged(
    path: str | Path, *, tokens: str = "tokens", label: str | None = "label"
) -> TaggedTable:
    """The sentences of a `.jsonl`, `.parquet`, `.conll` or `.txt` file.

    In JSONL and Parquet a row is a sentence, and `tokens` and `label` name the columns of its
    words and their tags, two lists of one length. A CoNLL file (`.conll`, `.txt`) has a word a
    line, first its text and last its tag, parted by tabs or else by spaces, and an empty line
    between sentences; lines of `-DOCSTART-` are passed over.

    With `label=None` tags are not read. Raises DataError for a file or row that cannot be used.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in _CONLL:
        found = _conll(path, label is not None)
    elif suffix in _COLUMNS:
        wanted = [tokens] if label is None else [tokens, label]
        found = _rows(path, records(path, wanted), tokens, label)
    else:
        raise DataError(
            f"{path} has the ending {path.suffix or '(none)'!r}; expected "
            f"{' or '.join((*_COLUMNS, *_CONLL))}."
        )
    return _table(str(path), found, label)


def _table(
    source: str, found: Iterator[tuple[list[str], list[str]]], label: str | None
) -> TaggedTable:
    words: list[list[str]] = []
    tags: list[list[str]] = []
    for sentence, its_tags in found:
        words.append(sentence)
        tags.append(its_tags)
    if not words:
        raise DataError(f"{source} has no rows.")
    return TaggedTable(source, words, None if label is None else tags)


def _rows(
    path: Path | str, found: Found, tokens: str, label: str | None
) -> Iterator[tuple[list[str], list[str]]]:
    for where, record in found:
        words = _list(column(record, tokens, path, where), tokens, path, where)
        for word in words:
            if not isinstance(word, str) or not word.strip():
                raise DataError(f"{path}, {where}: {tokens!r} has {word!r}; expected a word.")
        if not words:
            raise DataError(f"{path}, {where}: {tokens!r} has no words.")
        tags: list[str] = []
        if label is not None:
            said = _list(column(record, label, path, where), label, path, where)
            if len(said) != len(words):
                raise DataError(
                    f"{path}, {where}: {len(words)} words in {tokens!r}, and {len(said)} tags in "
                    f"{label!r}. Each word has one tag."
                )
            tags = [as_label(tag, path, where) for tag in said]
        yield words, tags


def _list(value: Any, name: str, path: Path | str, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{path}, {where}: {name!r} is a {type(value).__name__}; expected a list.")
    return value


def _conll(path: Path, tagged: bool) -> Iterator[tuple[list[str], list[str]]]:
    words: list[str] = []
    tags: list[str] = []
    for line, content in lines(path):
        if not content.strip():
            if words:
                yield words, tags
                words, tags = [], []
            continue
        content = content.rstrip("\r\n")
        fields = content.split("\t") if "\t" in content else content.split()
        if fields[0] == _DOCUMENT:
            continue
        if tagged and len(fields) < 2:
            raise DataError(
                f"{path}, line {line}: {content!r:.80} has no tag. Expected a word and its tag, "
                "parted by a tab or a space; pass label=None for words alone."
            )
        if not fields[0].strip():
            raise DataError(f"{path}, line {line}: a tag without a word before it.")
        words.append(fields[0])
        if tagged:
            tags.append(as_label(fields[-1], path, f"line {line}"))
    if words:
        yield words, tags
