"""Where tokens come from, how long rows are cut, and words: as transformers has them."""

from __future__ import annotations

import copy
import json
import pickle
import threading
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from family_kit import FAMILIES, TEXTS, family_directory, reference
from hypothesis import given, settings, strategies as st

from offramp.errors import DataError
from offramp.models.names import model_directory
from offramp.text.tagged import read_tagged
from offramp.text.tokenizer import Tokenizer, Tokens

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
KINDS = ("bert", "mpnet", "roberta", "albert", "xlm-roberta")
LONG = "the quick brown fox, and the lazy dog: it's 10 o'clock! " * 6
QUESTION = "where is the fox?"

Pair = tuple[Tokenizer, transformers.PreTrainedTokenizerFast]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """Ours and transformers', by family."""
    base = tmp_path_factory.mktemp("families")
    made = {}
    for family in FAMILIES:
        directory = family_directory(family, base / family)
        made[family] = (Tokenizer.from_pretrained(directory), reference(family, directory))
    return made


def said(theirs: Any, i: int) -> tuple[list[int], list[list[int]], list[int], list[int]]:
    """Window i of what transformers gives: ids, offsets, words, texts."""
    return (
        theirs["input_ids"][i],
        [list(pair) for pair in theirs["offset_mapping"][i]],
        [-1 if n is None else n for n in theirs.word_ids(i)],
        [-1 if n is None else n for n in theirs.sequence_ids(i)],
    )


def ours_as_said(tokens: Tokens) -> tuple[list[int], list[list[int]], list[int], list[int]]:
    arrays = (tokens.ids, tokens.offsets, tokens.words, tokens.texts)
    assert all(array.dtype == np.int64 for array in (*arrays, tokens.types))
    return tuple(array.tolist() for array in arrays)  # type: ignore[return-value]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("rows", "truncation", "stride"),
    [
        ([LONG, "the", LONG[:70]], "longest_first", 0),
        ([LONG, "the", LONG], "longest_first", 7),
        ([LONG, "the"], "only_first", 3),
        ([(QUESTION, LONG), (QUESTION, "short"), ("is", LONG[:80])], "only_second", 5),
        ([(QUESTION, LONG), (QUESTION, "short")], "only_second", 0),
        ([(LONG, QUESTION), ("short", QUESTION)], "only_first", 5),
    ],
)
def test_windows_equal_transformers(
    family: str, rows: list[Any], truncation: Any, stride: int, pairs: dict[str, Pair]
) -> None:
    ours, theirs = pairs[family]
    limit = 40 if isinstance(rows[0], tuple) and family != "bert" else 33
    ours.max_length = limit
    expected = theirs(
        [list(row) if isinstance(row, tuple) else row for row in rows],
        truncation=truncation,
        max_length=limit,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    found = ours.tokenize(rows, truncation=truncation, stride=stride, first_row=10)
    rows_of = expected["overflow_to_sample_mapping"]
    assert [tokens.row for tokens in found] == [row + 10 for row in rows_of]
    assert len(found) > len(rows)  # else nothing was cut
    for i, tokens in enumerate(found):
        assert ours_as_said(tokens) == said(expected, i)
    # Without a stride: the first window of each row alone.
    first = [next(t for t in found if t.row == row + 10) for row in range(len(rows))]
    for one, two in zip(ours.tokenize(rows, truncation=truncation), first, strict=True):
        assert ours_as_said(one) == ours_as_said(two)


@pytest.mark.parametrize("family", KINDS)
def test_windows_cover_the_passage_and_have_the_question(
    family: str, pairs: dict[str, Pair]
) -> None:
    ours, _ = pairs[family]
    ours.max_length = 36
    windows = ours.tokenize([(QUESTION, LONG)], truncation="only_second", stride=4)
    covered: set[int] = set()
    questions = set()
    for window in windows:
        assert len(window.ids) <= 36
        questions.add(tuple(window.ids[window.texts == 0].tolist()))
        for start, stop in window.offsets[window.texts == 1]:
            covered |= set(range(start, stop))
    assert len(questions) == 1
    assert covered >= {i for i, letter in enumerate(LONG) if not letter.isspace()}


@pytest.mark.parametrize("family", KINDS)
def test_do_not_truncate_names_the_row(family: str, pairs: dict[str, Pair]) -> None:
    ours, theirs = pairs[family]
    ours.max_length = 20
    rows = ["the fox", LONG]
    length = len(theirs(LONG)["input_ids"])
    with pytest.raises(DataError, match=f"Row 8 has {length} tokens.* at most 20"):
        ours.tokenize(rows, truncation="do_not_truncate", first_row=7)
    ours.max_length = length
    found = ours.tokenize(rows, truncation="do_not_truncate")
    assert [t.ids.tolist() for t in found] == [e.ids.tolist() for e in ours.encode(rows)]


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (["a"], {"truncation": "longest"}, "Did you mean 'longest_first'"),
        (["a"], {"stride": -1}, "stride is the number"),
        (["a"], {"stride": True}, "stride is the number"),
        (["a"], {"stride": 1.5}, "stride is the number"),
        (["a"], {"stride": 1, "truncation": "do_not_truncate"}, "only_first or only_second"),
        (["a"], {"truncation": "only_second"}, "Row 0 is one text"),
        ([("a", "b")], {"stride": 1}, "Row 0 is a pair"),
        ([LONG], {"stride": 30}, "Row 0: a window has room for 18 tokens.*stride of 30"),
        ([LONG], {"stride": 18}, "room for 18 tokens"),
        (["a", (LONG, "a")], {"truncation": "only_second"}, "Row 0 is one text"),
        ([("a", "b"), (LONG, "a")], {"truncation": "only_second"}, "Row 1: its first text has"),
        ([("a", LONG)], {"truncation": "only_first"}, "Row 0: its second text has"),
        (["a", None], {}, "Row 1 is a NoneType"),
        ([("a",)], {}, "Row 0 is a tuple"),
        (["fine", "cut \ud83d"], {}, "Row 1 is not valid Unicode"),
        ([("fine", "cut \ud83d")], {"truncation": "only_second"}, "Row 0 is not valid Unicode"),
        ("text", {}, r"Pass \[text\]"),
    ],
    ids=repr,
)
def test_what_cannot_be_tokenized(
    rows: Any, options: dict[str, Any], message: str, pairs: dict[str, Pair]
) -> None:
    ours, _ = pairs["bert"]
    ours.max_length = 20
    with pytest.raises(DataError, match=message):
        ours.tokenize(rows, **options)


def test_a_stride_is_no_fault_of_rows_that_are_short(pairs: dict[str, Pair]) -> None:
    ours, _ = pairs["bert"]
    ours.max_length = 20
    assert len(ours.tokenize(["a b", ""], stride=19)) == 2
    assert ours.tokenize([]) == ours.tokenize([], stride=2) == ours.encode_words([]) == []


WORDS = [
    ["the", "quick", "fox"],
    ["Paris", ",", "(", "été)", "o'clock", "10"],
    ["漢字", "かな", "😀😀", "e\u0301te\u0301", "👩‍👩‍👧"],
    [" the", "fox ", "two words", "nb\u00a0sp"],
    ["", "the", " ", "\u200b", "\u00ad", "fox"],
    ["<s>", "[CLS]", "<mask>", "the"],
    ["the"] * 60,
]


@pytest.mark.parametrize("family", FAMILIES)
def test_words_equal_transformers(family: str, pairs: dict[str, Pair], tmp_path: Path) -> None:
    ours, theirs = pairs[family]
    rows = WORDS
    if family == "roberta":  # which of transformers' takes no words without it
        rows = [[w for w in row if w != "<mask>"] for row in WORDS]  # its mask has no lstrip
        directory = family_directory(family, tmp_path / "prefix", add_prefix_space=True)
        theirs = reference(family, directory)
    ours.max_length = 30
    common = {"is_split_into_words": True, "return_offsets_mapping": True}
    for stride in (None, 4):
        expected = theirs(
            rows,
            truncation=True,
            max_length=30,
            stride=stride or 0,
            return_overflowing_tokens=stride is not None,
            **common,
        )
        found = ours.encode_words(rows, stride=stride)
        assert len(found) == len(expected["input_ids"])
        for i, tokens in enumerate(found):
            assert ours_as_said(tokens) == said(expected, i), rows[tokens.row]


def test_the_first_token_of_each_word_is_as_in_a_text(pairs: dict[str, Pair]) -> None:
    for family in ("roberta", "xlm-roberta", "bert"):
        ours, _ = pairs[family]
        ours.max_length = 40
        words = ["the", "quick", "brown", "fox", "and", "the", "lazy", "dog"]
        (tokens,) = ours.encode_words([words])
        (text,) = ours.encode([" " + " ".join(words)])
        assert tokens.ids.tolist() == text.ids.tolist()
        assert sorted(set(tokens.words.tolist())) == list(range(-1, len(words)))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("text", "one text"),
        (["text"], "Row 0 is 'text'"),
        ([["a"], []], r"Row 1 is \[\]"),
        ([None], "Row 0 is None"),
        ([{"a"}], "Row 0 is {'a'}"),
        ([["a", None]], "Row 0 has the word None"),
        ([["a", b"b"]], "Row 0 has the word b'b'"),
        ([["a"], ["b", "\ud800"]], "Row 1 is not valid Unicode"),
    ],
    ids=repr,
)
def test_what_are_no_words(rows: Any, message: str, pairs: dict[str, Pair]) -> None:
    for family in ("bert", "roberta"):
        with pytest.raises(DataError, match=message):
            pairs[family][0].encode_words(rows)
    with pytest.raises(DataError, match="no second text"):
        pairs["bert"][0].encode_words([["a"]], truncation="only_second")


TEXT = st.text(
    st.one_of(
        st.sampled_from("abcthefox ,.'10 \t\u00a0éèçe\u0301\u0308漢字か😀👩\u200d\u200bﬁ½ＡİŁ"),
        st.characters(exclude_categories=("Cs",)),
    ),
    max_size=40,
)


def leaves_no_token(letter: str) -> bool:
    plain = unicodedata.normalize("NFKD", letter)  # of a macron alone, a space and an accent
    return letter == "\ufffd" or unicodedata.category(plain[0])[0] in "MCZ"


@settings(max_examples=120)
@given(text=TEXT, other=st.none() | TEXT)
def test_offsets_of_any_text(text: str, other: str | None, pairs: dict[str, Pair]) -> None:
    for family in KINDS:
        ours, theirs = pairs[family]
        ours.max_length = 400
        row = text if other is None else (text, other)
        (tokens,) = ours.tokenize([row])
        # As a batch: transformers takes ("a", "") alone for the single text "a".
        expected = theirs([text if other is None else [text, other]], return_offsets_mapping=True)
        assert ours_as_said(tokens) == said(expected, 0)
        texts = (text,) if other is None else (text, other)
        for number, own in enumerate(texts):
            spans = tokens.offsets[tokens.texts == number]
            assert (spans[:, 0] <= spans[:, 1]).all()
            assert not len(spans) or spans.max() <= len(own)
            covered = {i for start, stop in spans for i in range(start, stop)}
            # What no token stands for: spaces, controls, accents that are taken off, and what
            # the letters of a family's own tables leave out.
            left = {
                letter for i, letter in enumerate(own) if i not in covered and not letter.isspace()
            }
            assert all(map(leaves_no_token, left)), left
        assert not tokens.offsets[tokens.texts == -1].any()


def test_each_token_of_a_letter_of_several_bytes_has_all_of_it(pairs: dict[str, Pair]) -> None:
    ours, _ = pairs["roberta"]
    (tokens,) = ours.tokenize(["a 🦊 b"])
    spans = [pair for pair in tokens.offsets.tolist() if pair[0] < pair[1]]
    assert spans[0] == [0, 1] and spans[-1] == [4, 5]
    assert len(spans) > 3  # the fox has four bytes, of which not all are merged
    assert all(pair == [2, 3] for pair in spans[1:-1])


@pytest.mark.parametrize("family", FAMILIES)
def test_decode(family: str, pairs: dict[str, Pair]) -> None:
    ours, theirs = pairs[family]
    ours.max_length = 40
    for text in TEXTS:
        ids = ours.encode([text])[0].ids
        plain = theirs.decode(
            ids.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        assert ours.decode(ids) == ours.decode(ids.tolist()) == plain
        assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(
            ids.tolist(), clean_up_tokenization_spaces=False
        )
    assert ours.decode([]) == "" and ours.decode(iter([])) == ""
    for bad, message in (
        ([-1], "-1 is the id of no token"),
        ([10**6], "1000000 is the id of no token"),
        ([2**40], "the id of no token"),
        ([0.5], "one row of token ids"),
        (["a"], "one row of token ids"),
        ([[1, 2]], "one row of token ids"),
    ):
        with pytest.raises(DataError, match=message):
            ours.decode(bad)  # type: ignore[arg-type]


def test_ids_of_tokens(pairs: dict[str, Pair], tmp_path: Path) -> None:
    ours, _ = pairs["bert"]
    assert (ours.pad_id, ours.mask_token, ours.mask_id) == (0, "[MASK]", 4)
    assert (ours.token_to_id("the"), ours.token_to_id("no such")) == (5, None)
    assert ours.token_to_id("\ud83d") is None
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\nthe\n")
    bare = Tokenizer.from_pretrained(tmp_path)
    assert bare.pad_id is bare.mask_id is bare.mask_token is None
    assert bare.vocab_size == 4  # no token is made up that a model has no row for


def test_copies_are_the_same_tokenizer(pairs: dict[str, Pair]) -> None:
    ours, _ = pairs["roberta"]
    ours.max_length = 12
    ours.encode_words(WORDS)
    for again in (pickle.loads(pickle.dumps(ours)), copy.deepcopy(ours)):
        assert again.max_length == 12 and again.mask_id == ours.mask_id
        for one, two in zip(ours.encode(TEXTS), again.encode(TEXTS), strict=True):
            assert one.ids.tolist() == two.ids.tolist()


def test_threads_do_not_change_one_anothers_rows(pairs: dict[str, Pair]) -> None:
    ours, _ = pairs["bert"]
    ours.max_length = 20
    asked: list[dict[str, Any]] = [
        {}, {"truncation": "only_first", "stride": 2}, {"truncation": "only_first", "stride": 9},
    ]  # fmt: skip
    expected = [[t.ids.tolist() for t in ours.tokenize([LONG] * 5, **how)] for how in asked]
    wrong: list[int] = []

    def work(which: int) -> None:
        for _ in range(15):
            found = [t.ids.tolist() for t in ours.tokenize([LONG] * 5, **asked[which])]
            if found != expected[which]:
                wrong.append(which)

    threads = [threading.Thread(target=work, args=(i % 3,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_all_minilm_equals_transformers() -> None:
    directory = model_directory("all-MiniLM-L6-v2")
    ours = Tokenizer.from_pretrained(directory)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    ours.max_length = 64
    assert (ours.mask_id, ours.pad_id) == (theirs.mask_token_id, theirs.pad_token_id)
    common = {"truncation": True, "max_length": 64, "return_offsets_mapping": True}
    expected = theirs(TEXTS, **common)
    for i, tokens in enumerate(ours.tokenize(TEXTS)):
        assert ours_as_said(tokens) == said(expected, i)
    expected = theirs(
        [[QUESTION, LONG]],
        truncation="only_second",
        max_length=64,
        stride=16,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    windows = ours.tokenize([(QUESTION, LONG)], truncation="only_second", stride=16)
    assert len(windows) == len(expected["input_ids"]) > 1
    for i, tokens in enumerate(windows):
        assert ours_as_said(tokens) == said(expected, i)


@pytest.mark.skipif(not (DATA / "wnut17").is_dir(), reason="../shared/data/wnut17 is absent")
@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta"])
def test_real_words(family: str, pairs: dict[str, Pair]) -> None:
    ours, _ = pairs[family]
    ours.max_length = 400
    table = read_tagged(DATA / "wnut17" / "dev.jsonl")
    content = (DATA / "wnut17" / "dev.jsonl").read_text("utf-8")
    raw = [json.loads(line) for line in content.rstrip("\n").split("\n")]
    assert table.words == [row["tokens"] for row in raw]
    assert table.tags == [row["label"] for row in raw]
    for tokens, words in zip(ours.encode_words(table.words[:300]), table.words, strict=False):
        assert set(tokens.words.tolist()) - {-1} == set(range(len(words)))


@pytest.mark.parametrize("family", ["xlm-roberta", "camembert", "roberta", "bert"])
def test_later_windows_have_the_types_of_the_first(family: str, pairs: dict[str, Pair]) -> None:
    """The library forgets a template's types in them; XLM-R has a row for type 0 alone."""
    ours, _ = pairs[family]
    ours.max_length = 40
    windows = ours.tokenize([(QUESTION, LONG)], truncation="only_second", stride=4)
    assert len(windows) > 2
    second = 1 if family == "bert" else 0
    for window in windows:
        assert set(window.types[window.texts == 1].tolist()) == {second}
        assert set(window.types[window.texts == 0].tolist()) == {0}
