"""Rows that are too long: cut, or cut into windows, as asked, or named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tokenizers

from offramp.errors import DataError, nearest
from offramp.text.encoded import TRUNCATIONS, Tokens, Truncation, as_tokens


def check_cut(truncation: str, stride: int | None) -> None:
    """DataError for what cannot be asked for."""
    if truncation not in TRUNCATIONS:
        raise DataError(
            f"truncation {truncation!r} is not known. {nearest(str(truncation), TRUNCATIONS)}"
        )
    if stride is None:
        return
    if not isinstance(stride, int) or isinstance(stride, bool) or stride < 0:
        raise DataError(f"stride is the number of tokens that two windows share; got {stride!r}.")
    if truncation == "do_not_truncate":
        raise DataError("stride cuts rows into windows; pass only_first or only_second with it.")


def cut(
    tokenizer: tokenizers.Tokenizer,
    rows: Sequence[Any],
    *,
    limit: int,
    truncation: Truncation,
    stride: int | None,
    first_row: int,
    words: bool = False,
) -> list[Tokens]:
    """The tokens of rows, none longer than `limit`. The tokenizer's truncation is set on the way.

    The library panics where a stride is too wide for what a long question leaves, and names no row
    where a text cannot be cut enough: lengths are looked at before it is asked to cut.
    """
    tokenizer.no_truncation()
    whole = tokenizer.encode_batch(rows, is_pretokenized=words)
    long = [i for i, encoding in enumerate(whole) if len(encoding) > limit]
    for i in long:
        _check_room(whole[i], first_row + i, limit, truncation, stride)
    found = {i: [as_tokens(encoding, first_row + i)] for i, encoding in enumerate(whole)}
    if long:
        tokenizer.enable_truncation(limit, stride=stride or 0, strategy=truncation)
        again = tokenizer.encode_batch([rows[i] for i in long], is_pretokenized=words)
        for i, encoding in zip(long, again, strict=True):
            first = as_tokens(encoding, first_row + i)
            rest = [] if stride is None else encoding.overflowing
            found[i] = [first, *(_typed_as(first, as_tokens(w, first_row + i)) for w in rest)]
    return [window for windows in found.values() for window in windows]


def _typed_as(first: Tokens, window: Tokens) -> Tokens:
    """A later window with each text's type as in the first one.

    Of a template that has one type for both texts (XLM-R's, CamemBERT's) the library forgets it in
    all windows but the first, and gives the second text 1, for which such a model has no row.
    """
    types = window.types.copy()
    for text in (0, 1):
        kinds = first.types[first.texts == text]
        if len(kinds):
            types[window.texts == text] = kinds[0]
    return window._replace(types=types)


def _check_room(
    encoding: tokenizers.Encoding,
    row: int,
    limit: int,
    truncation: Truncation,
    stride: int | None,
) -> None:
    """DataError for a row that is too long and cannot be cut as asked."""
    texts = encoding.sequence_ids
    first, second = texts.count(0), texts.count(1)
    if truncation == "do_not_truncate":
        raise DataError(
            f"Row {row} has {len(texts)} tokens, special ones included; at most {limit} are "
            "allowed. Shorten it, or let it be truncated."
        )
    kept = {"only_first": second, "only_second": first}.get(truncation, 0)
    room = limit - (len(texts) - first - second) - kept
    if room < 1:
        other = "second" if truncation == "only_first" else "first"
        raise DataError(
            f"Row {row}: its {other} text has {kept} tokens, which with the special ones leaves "
            f"none of {limit} for the other text, and {truncation} cuts that one alone."
        )
    if stride is not None and stride >= room:
        raise DataError(
            f"Row {row}: a window has room for {room} tokens of the text that is cut, and a "
            f"stride of {stride} would never get on. Pass a smaller one."
        )
