"""Which window decides about a word."""

from __future__ import annotations

import numpy as np
import pytest

from offramp.runner.windows import Word, stripped, words_of
from offramp.text.tokenizer import Tokens


def window(*tokens: tuple[int, int, int]) -> Tokens:
    """A window of (word, start, end), between two special tokens."""
    words = np.array([-1, *(word for word, _, _ in tokens), -1])
    offsets = np.array([(0, 0), *((start, end) for _, start, end in tokens), (0, 0)])
    zeros = np.zeros(len(words), dtype=np.int64)
    return Tokens(zeros, zeros, offsets, words, np.where(words < 0, -1, 0), 0)


def test_one_window_has_each_words_first_token_and_last_character() -> None:
    words = words_of([window((0, 0, 3), (1, 4, 6), (1, 6, 9), (3, 10, 11))])
    assert words == {0: Word(0, 3, 0, 1), 1: Word(4, 9, 0, 2), 3: Word(10, 11, 0, 4)}


def test_the_window_that_shows_more_decides() -> None:
    tokens = [(i, 2 * i, 2 * i + 1) for i in range(10)]
    words = words_of([window(*tokens[:6]), window(*tokens[3:9]), window(*tokens[6:])])
    # Words 3 to 5 are in the first two windows: in the first 2, 1 and 0 tokens come after them,
    # in the second 0, 1 and 2 before. Of equals it is the earlier window.
    assert [word.window for word in words.values()] == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]
    assert [word.token for word in words.values()] == [1, 2, 3, 4, 5, 3, 4, 5, 3, 4]


def test_a_part_of_a_word_does_not_speak_for_it() -> None:
    first = window((0, 0, 3), (1, 4, 6))  # word 1 goes on in the next window
    second = window((1, 6, 9), (1, 9, 12), (2, 13, 14))
    assert words_of([first, second])[1] == Word(4, 12, 0, 2)
    assert words_of([second, first])[1] == Word(4, 12, 1, 2)  # by place, not by order


def test_no_tokens_no_words() -> None:
    assert words_of([window()]) == {}


@pytest.mark.parametrize(
    ("bounds", "expected"), [((0, 2), (0, 2)), ((2, 6), (3, 5)), ((2, 3), (3, 3)), ((3, 3), (3, 3))]
)
def test_white_space_is_left_out(bounds: tuple[int, int], expected: tuple[int, int]) -> None:
    assert stripped("ab cd ", *bounds) == expected
