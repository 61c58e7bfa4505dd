"""The tokenizer gives transformers' ids, never pads, and survives being saved."""

import json
from pathlib import Path

import numpy as np
import pytest
import transformers
from hypothesis import given, settings, strategies as st

from offramp.errors import DataError, ModelNotFoundError, SaveError
from offramp.models.names import model_directory
from offramp.text.tables import read_table
from offramp.text.tokenizer import Text, Tokenizer

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
BERT = DATA / "tokenizers" / "bert-base-uncased"

TEXTS = [
    "a quiet, lovely film .",
    "It's a Test -- of PUNCTUATION; isn't it?!",
    "",
    "   ",
    "\t\n\r",
    "Ünïcödé ÅÄÖ éàü naïve résumé",
    "漢字とかな 한국어 русский язык العربية हिन्दी",
    "😀😀 👩‍👩‍👧 ™ © ½ ﬁ",
    "zero\u200bwidth soft\u00adhyphen nb\u00a0space bom\ufeff nul\x00 repl\ufffd",
    "[CLS] [SEP] [MASK] [PAD] [UNK] literally",
    "x" * 250,
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "http://example.com/a?b=c&d=%20#e 3.14159 1,000,000 $5 50%",
    "word " * 150,
]
PAIRS: list[Text] = [
    ("short", "also short"),
    ("word " * 90, "few words"),
    ("few words", "word " * 90),
    ("word " * 90, "token " * 91),
    ("token " * 91, "word " * 90),
    ("", ""),
    ("left", ""),
]
CASED_VOCABULARY = [
    "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "The", "the", "##re", "Paris", "paris", "is",
    "é", "É", "t", "##é", "##e", "e", ".", ",", "漢", "漢字", "##字",
]  # fmt: skip

needs_vocabulary = pytest.mark.skipif(
    not BERT.is_dir(), reason="../shared/data/tokenizers/bert-base-uncased is absent"
)


def vocabulary(directory: Path, words: list[str] | None = None, **settings: object) -> Path:
    """A directory with vocab.txt alone, and tokenizer_config.json where there are settings."""
    directory.mkdir()
    content = (BERT / "vocab.txt").read_text("utf-8") if words is None else "\n".join(words) + "\n"
    (directory / "vocab.txt").write_text(content, "utf-8")
    if settings:
        (directory / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return directory


def assert_like_transformers(directory: Path, texts: list[Text], *limits: int) -> None:
    """Row for row transformers' ids and types, at the files' own limit and at these."""
    ours = Tokenizer.from_pretrained(directory)
    theirs = transformers.BertTokenizerFast.from_pretrained(str(directory))
    assert ours.vocab_size == len(theirs)
    singles = [text for text in texts if isinstance(text, str)]
    pairs = [text for text in texts if isinstance(text, tuple)]
    for limit in (ours.max_length, *limits):
        ours.max_length = limit
        # As a batch: transformers takes ("a", "") alone for the single text "a".
        one = theirs(singles, truncation=True, max_length=limit) if singles else {}
        two = theirs([list(p) for p in pairs], truncation=True, max_length=limit) if pairs else {}
        ids = [*one.get("input_ids", []), *two.get("input_ids", [])]
        types = [*one.get("token_type_ids", []), *two.get("token_type_ids", [])]
        for text, encoded, row, kinds in zip(
            [*singles, *pairs], ours.encode([*singles, *pairs]), ids, types, strict=True
        ):
            assert encoded.ids.tolist() == row, text
            assert encoded.types.tolist() == kinds, text
            assert encoded.ids.dtype == encoded.types.dtype == np.int64


@needs_vocabulary
@pytest.mark.parametrize(
    "flags",
    [
        {},
        {"do_lower_case": True},
        {"do_lower_case": False},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
        {"model_max_length": 16},
    ],
    ids=str,
)
def test_vocabulary_alone_equals_transformers(flags: dict[str, object], tmp_path: Path) -> None:
    directory = vocabulary(tmp_path / "model", **flags)
    assert_like_transformers(directory, [*TEXTS, *PAIRS], 5, 32, 129)


@pytest.mark.parametrize("lower", [True, False])
def test_cased_vocabulary_equals_transformers(lower: bool, tmp_path: Path) -> None:
    directory = vocabulary(tmp_path / "model", CASED_VOCABULARY, do_lower_case=lower)
    texts: list[Text] = ["The Paris, there is.", "THE the té É", "漢字", ("Paris", "paris")]
    assert_like_transformers(directory, texts)
    words = ["Paris", "paris"]
    paris, small = (e.ids.tolist()[1] for e in Tokenizer.from_pretrained(directory).encode(words))
    assert (paris == small) == lower


@needs_vocabulary
def test_tokenizer_json_equals_transformers(tmp_path: Path) -> None:
    directory = vocabulary(tmp_path / "model", do_lower_case=True)
    saved = tmp_path / "saved"
    transformers.BertTokenizerFast.from_pretrained(str(directory)).save_pretrained(str(saved))
    assert not (saved / "vocab.txt").exists()
    (saved / "config.json").write_text('{"max_position_embeddings": 512}')
    assert_like_transformers(saved, [*TEXTS, *PAIRS], 5, 32)


@needs_vocabulary
@pytest.mark.parametrize(
    ("name", "columns"), [("sst2", ("text", None)), ("trec", ("text", None)), ("mrpc", ("a", "b"))]
)
def test_real_rows_equal_transformers(
    name: str, columns: tuple[str, str | None], tmp_path: Path
) -> None:
    path = DATA / name / "test.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    rows = read_table(path, text=columns[0], pair=columns[1]).texts[:300]
    assert_like_transformers(vocabulary(tmp_path / "model"), rows, 12)


@pytest.fixture(scope="module")
def small_tokenizers(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Tokenizer, transformers.BertTokenizerFast]:
    directory = vocabulary(tmp_path_factory.mktemp("small") / "model", CASED_VOCABULARY)
    return (
        Tokenizer.from_pretrained(directory, max_length=24),
        transformers.BertTokenizerFast.from_pretrained(str(directory)),
    )


@settings(deadline=None, max_examples=150)
@given(text=st.text(max_size=60), other=st.none() | st.text(max_size=60))
def test_any_text_equals_transformers(
    text: str,
    other: str | None,
    small_tokenizers: tuple[Tokenizer, transformers.BertTokenizerFast],
) -> None:
    ours, theirs = small_tokenizers
    (encoded,) = ours.encode([text if other is None else (text, other)])
    row = text if other is None else [text, other]
    expected = theirs([row], truncation=True, max_length=24)
    assert encoded.ids.tolist() == expected["input_ids"][0]
    assert encoded.types.tolist() == expected["token_type_ids"][0]


def test_a_file_that_pads_to_128_does_not_pad_here() -> None:
    directory = model_directory("all-MiniLM-L6-v2")
    asked = json.loads((directory / "tokenizer.json").read_text("utf-8"))
    assert asked["padding"]["strategy"] == {"Fixed": 128}  # else this test tests nothing
    assert_like_transformers(directory, ["a b", "", *PAIRS[:1]])
    tokenizer = Tokenizer.from_pretrained(directory)
    for batch in (["a", "a b c d e"], ["a"]):
        assert [len(e.ids) for e in tokenizer.encode(batch)] == [
            len(text.split()) + 2 for text in batch
        ]


@needs_vocabulary
@pytest.mark.parametrize("limit", [5, 7, 512])
def test_truncation_keeps_special_tokens_and_takes_from_the_longer(
    limit: int, tmp_path: Path
) -> None:
    tokenizer = Tokenizer.from_pretrained(vocabulary(tmp_path / "model"), max_length=limit)
    one, two = tokenizer.encode(["the " * 600, ("the " * 600, "cat")])
    assert len(one.ids) == len(two.ids) == limit
    the, cat, cls, sep = 1996, 4937, 101, 102  # in bert-base-uncased
    assert one.ids.tolist() == [cls, *[the] * (limit - 2), sep]
    # All that goes is taken from the longer text; the shorter keeps its one word.
    expected = [cls, *[the] * (limit - 4), sep, cat, sep]
    assert two.ids.tolist() == expected
    assert two.types.tolist() == [0] * (limit - 2) + [1, 1]


def test_limit_is_the_least_that_the_files_state(tmp_path: Path) -> None:
    directory = vocabulary(tmp_path / "model", CASED_VOCABULARY, model_max_length=40)
    assert Tokenizer.from_pretrained(directory).max_length == 40
    (directory / "config.json").write_text('{"max_position_embeddings": 30}')
    assert Tokenizer.from_pretrained(directory).max_length == 30
    assert Tokenizer.from_pretrained(directory, max_length=50).max_length == 50
    silent = vocabulary(tmp_path / "silent", CASED_VOCABULARY)
    assert Tokenizer.from_pretrained(silent).max_length == 512
    (silent / "tokenizer_config.json").write_text(json.dumps({"model_max_length": int(1e30)}))
    (silent / "config.json").write_text('{"max_position_embeddings": 64}')
    assert Tokenizer.from_pretrained(silent).max_length == 64


def test_no_limit_in_transformers_words(tmp_path: Path) -> None:
    # transformers writes int(1e30) for "no limit"; config.json need not have a limit either.
    directory = vocabulary(tmp_path / "model", CASED_VOCABULARY, model_max_length=int(1e30))
    assert Tokenizer.from_pretrained(directory).max_length == 512


def test_limit_can_be_set(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(vocabulary(tmp_path / "model", CASED_VOCABULARY))
    tokenizer.max_length = 6
    assert len(tokenizer.encode(["the " * 9])[0].ids) == 6
    for bad in (3, 0, -1):
        with pytest.raises(DataError, match="max_length must be at least 4"):
            tokenizer.max_length = bad
    assert tokenizer.max_length == 6


@needs_vocabulary
@pytest.mark.parametrize("flags", [{"do_lower_case": True}, {"do_lower_case": False}], ids=str)
def test_save_and_load_give_the_same_tokenizer(flags: dict[str, object], tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(vocabulary(tmp_path / "model", **flags), max_length=20)
    (tmp_path / "saved").mkdir()
    tokenizer.write_files(tmp_path / "saved")
    written = json.loads((tmp_path / "saved" / "tokenizer.json").read_text("utf-8"))
    assert written["truncation"] is written["padding"] is None  # the limit is in the settings
    again = Tokenizer.from_pretrained(tmp_path / "saved")
    assert (again.max_length, again.vocab_size) == (20, tokenizer.vocab_size)
    rows = [*TEXTS, *PAIRS]
    for one, two in zip(tokenizer.encode(rows), again.encode(rows), strict=True):
        assert one.ids.tolist() == two.ids.tolist()
        assert one.types.tolist() == two.types.tolist()
    # ... and transformers reads what was written as the same tokenizer, limit included.
    assert_like_transformers(tmp_path / "saved", rows)
    theirs = transformers.BertTokenizerFast.from_pretrained(str(tmp_path / "saved"))
    assert theirs.model_max_length == 20


def test_saving_leaves_the_tokenizer_truncating(tmp_path: Path) -> None:
    directory = vocabulary(tmp_path / "model", CASED_VOCABULARY)
    tokenizer = Tokenizer.from_pretrained(directory, max_length=5)
    tokenizer.write_files(directory)
    assert len(tokenizer.encode(["the " * 9])[0].ids) == 5


@pytest.mark.parametrize(
    "row", [3, None, b"bytes", ["a", "list"], ("a", "b", "c"), ("a",), ("a", 3), ("a", None)]
)
def test_a_row_that_is_no_text_is_named(row: object, tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(vocabulary(tmp_path / "model", CASED_VOCABULARY))
    with pytest.raises(DataError, match="Row 1 is a"):
        tokenizer.encode(["fine", row])  # type: ignore[list-item]
    assert tokenizer.encode([]) == []
    with pytest.raises(DataError, match=r"Pass \[text\]"):
        tokenizer.encode("fine")


def test_half_a_surrogate_pair_is_a_data_error(tmp_path: Path) -> None:
    # JSON can spell it ("\ud83d" alone, of an emoji cut in two), so tables do hold it.
    tokenizer = Tokenizer.from_pretrained(vocabulary(tmp_path / "model", CASED_VOCABULARY))
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "cut \\ud83d", "label": "a"}\n', "utf-8")
    with pytest.raises(DataError):
        tokenizer.encode(read_table(path).texts)


def test_a_directory_without_or_with_a_broken_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json or vocab\.txt"):
        Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.from_pretrained(tmp_path)
    directory = vocabulary(tmp_path / "model", CASED_VOCABULARY)
    (directory / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=r"tokenizer_config\.json is not valid JSON"):
        Tokenizer.from_pretrained(directory)


def test_a_vocabulary_without_special_tokens_is_a_data_error(tmp_path: Path) -> None:
    directory = vocabulary(tmp_path / "model", ["the", "cat"])
    with pytest.raises(DataError):
        Tokenizer.from_pretrained(directory)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unk_token": "[NONE]"}, r"\[NONE\] is not in it"),
        ({"unk_token": {}}, r"special token \{\}; expected a text"),
        ({"sep_token": 3}, "special token 3; expected a text"),
        ({"mask_token": ""}, "special token ''; expected a text"),
        ({"mask_token": "\ud83d"}, "expected a text"),
        ({"additional_special_tokens": [["a"]]}, "expected a text"),
        ({"added_tokens_decoder": {"x": "a"}}, "not an object of ids and tokens"),
        ({"added_tokens_decoder": ["a"]}, "not an object of ids and tokens"),
        ({"added_tokens_decoder": {"3": {"content": "new"}}}, "to have the id 3"),
    ],
)
def test_special_tokens_that_cannot_be(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    directory = vocabulary(tmp_path / "model", CASED_VOCABULARY, **changes)
    with pytest.raises(DataError, match=message):
        Tokenizer.from_pretrained(directory)


def test_a_special_token_of_null_is_the_default(tmp_path: Path) -> None:
    directory = vocabulary(tmp_path / "model", CASED_VOCABULARY, unk_token=None)
    plain = vocabulary(tmp_path / "plain", CASED_VOCABULARY)
    one, two = (
        Tokenizer.from_pretrained(d).encode(["zzz unknown"])[0].ids for d in (directory, plain)
    )
    assert one.tolist() == two.tolist()


def test_saved_beside_what_lies_there_and_refused_where_a_file_is(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(vocabulary(tmp_path / "model", CASED_VOCABULARY))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "other").write_text("mine")
    for directory in ("new", "not/yet/there"):
        tokenizer.save_pretrained(tmp_path / directory)
        again = Tokenizer.from_pretrained(tmp_path / directory)
        assert again.encode(["the Paris"])[0].ids.tolist() == [2, 6, 9, 3]
    assert (tmp_path / "new" / "other").read_text() == "mine"
    with pytest.raises(SaveError, match="other"):
        tokenizer.save_pretrained(tmp_path / "new" / "other")
