"""JSON that says one thing, and takes no more memory or time than it is long."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from offramp.checkpoints.strict_json import DEEPEST, parse_json

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Escapes and brackets in texts are not those of lists.
    | st.text(max_size=20)
    | st.text('[]{}",\\', max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text('ab[]{}",\\', max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_values_are_python_s(value: Any, ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii)
    if ascii:
        assert parse_json(text.encode()) == json.loads(text)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a letter
        return
    assert parse_json(text) == json.loads(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ""),
        ("{", ""),
        ("{} {}", "Extra data"),
        ('{"a": 1, "a": 1}', "'a' is named twice"),
        ('{"x": [{"a": 1, "b": 2, "a": 3}]}', "'a' is named twice"),
        (r'{"a": 1, "\u0061": 1}', "'a' is named twice"),
        ("NaN", "NaN is no number"),
        ("[Infinity]", "Infinity is no number"),
        ("-Infinity", "-Infinity is no number"),
        ("9" * 41, "a number of 41 digits"),
        ("9" * 10_000, "a number of 10000 digits"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "nested deeper"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested deeper"),
        ('["' + "\\\\" * 7 + '",' + "[" * 40, "nested deeper"),
        ("[" + "[]," * 400_000 + "1]", "more than 400000 values"),
        ('"' + "é" * 2_100_000 + '"', "not plain ASCII"),
        ('"' + r"\u00e9" * 700_000 + '"', "not plain ASCII"),
        ("\ufeff{}", "byte order mark"),
    ],
)
def test_what_says_two_things_or_too_much(text: str, message: str) -> None:
    with pytest.raises((ValueError, RecursionError), match=message or None):
        parse_json(text)


def test_what_is_no_text() -> None:
    with pytest.raises(ValueError, match="decode"):
        parse_json(b'"\xff"')


def test_as_deep_as_may_be() -> None:
    text = "[" * DEEPEST + '"[[{{"' + "]" * DEEPEST
    assert parse_json(text) == json.loads(text)
