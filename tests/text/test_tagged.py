"""Words and tags are what the file says, one tag a word, and a bad row is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from offramp.errors import DataError
from offramp.text.tagged import read_tagged

WORD = st.text(
    st.characters(exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=8
).filter(lambda word: word.strip() and word != "-DOCSTART-" and "\ufeff" not in word)
TAG = st.sampled_from(["O", "B-person", "I-person", "B-location"])
SENTENCES = st.lists(st.lists(st.tuples(WORD, TAG), min_size=1, max_size=6), min_size=1, max_size=5)


def write(path: Path, content: str) -> Path:
    path.write_text(content, "utf-8", newline="")
    return path


@given(
    sentences=SENTENCES,
    separator=st.sampled_from(["\t", " ", "\tNN\t", " NN X "]),
    ending=st.sampled_from(["\n", "\r\n"]),
    blank=st.sampled_from(["", " ", "\t"]),
)
def test_conll_and_jsonl_say_the_same(
    sentences: list[list[tuple[str, str]]],
    separator: str,
    ending: str,
    blank: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    base = tmp_path_factory.getbasetemp()
    words = [[word for word, _ in sentence] for sentence in sentences]
    tags = [[tag for _, tag in sentence] for sentence in sentences]
    blocks = [
        "".join(f"{word}{separator}{tag}{ending}" for word, tag in sentence)
        for sentence in sentences
    ]
    conll = read_tagged(write(base / "rows.conll", f"{blank}{ending}".join(blocks)))
    rows = [{"tokens": w, "label": t} for w, t in zip(words, tags, strict=True)]
    jsonl = read_tagged(write(base / "rows.jsonl", "\n".join(map(json.dumps, rows))))
    assert conll.words == jsonl.words == words
    assert conll.tags == jsonl.tags == tags
    assert len(conll) == len(words)


def test_conll_2003(tmp_path: Path) -> None:
    path = write(
        tmp_path / "train.txt",
        "-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\nrejects VBZ B-VP O\n\n\n"
        "-DOCSTART- -X- -X- O\n\nPeter NNP B-NP B-PER\n",
    )
    table = read_tagged(path)
    assert table.words == [["EU", "rejects"], ["Peter"]]
    assert table.tags == [["B-ORG", "O"], ["B-PER"]]
    assert table.source == str(path)
    words = read_tagged(path, label=None)
    assert (words.words, words.tags) == (table.words, None)


def test_words_with_spaces_between_tabs_and_other_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "New York\tB-loc\n# O\tO\n")
    assert read_tagged(path).words == [["New York", "# O"]]
    path = write(tmp_path / "a.jsonl", '{"words": ["a", "b"], "ner": [0, true], "id": 1}\n')
    table = read_tagged(path, tokens="words", label="ner")
    assert (table.words, table.tags) == ([["a", "b"]], [["0", "true"]])
    assert read_tagged(path, tokens="words", label=None).tags is None


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.jsonl", "", ["no rows"]),
        ("a.jsonl", '{"tokens": ["a"]}\n', ["line 1", "no column 'label'", "'tokens'"]),
        ("a.jsonl", '{"label": ["O"]}\n', ["line 1", "no column 'tokens'"]),
        ("a.jsonl", '{"tokens": "a b", "label": []}\n', ["line 1", "'tokens' is a str"]),
        ("a.jsonl", '{"tokens": ["a"], "label": "O"}\n', ["line 1", "'label' is a str"]),
        ("a.jsonl", '{"tokens": [], "label": []}\n', ["line 1", "no words"]),
        ("a.jsonl", '{"tokens": ["a", 3], "label": []}\n', ["line 1", "has 3", "a word"]),
        ("a.jsonl", '{"tokens": ["a", " "], "label": []}\n', ["line 1", "has ' '"]),
        (
            "a.jsonl",
            '{"tokens": ["a"], "label": ["O"]}\n{"tokens": ["a", "b"], "label": ["O"]}\n',
            ["line 2", "2 words", "1 tags"],
        ),
        ("a.jsonl", '{"tokens": ["a"], "label": [null]}\n', ["line 1", "label None"]),
        ("a.jsonl", '{"tokens": ["a"], "label": [["O"]]}\n', ["line 1", "label ['O']"]),
        ("a.conll", "a\tO\nb\n", ["line 2", "'b' has no tag", "label=None"]),
        ("a.conll", "a\tO\n\tO\n", ["line 2", "a tag without a word"]),
        ("a.conll", "a\tO\nb\t\n", ["line 2", "label ''"]),
        ("a.conll", "\n\n", ["no rows"]),
        ("a.csv", "tokens,label\n", ["'.csv'", ".jsonl", ".conll"]),
        ("absent.conll", None, ["does not exist"]),
    ],
)
def test_a_bad_file_is_named_with_its_place(
    name: str, content: str | None, expected: list[str], tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        write(path, content)
    with pytest.raises(DataError) as caught:
        read_tagged(path)
    for part in (str(path), *expected):
        assert part in str(caught.value)


def test_parquet_of_lists(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, the data extra, is not installed")
    from pyarrow import parquet

    path = tmp_path / "rows.parquet"
    columns = {"tokens": [["a", "b"], ["c"]], "label": [["O", "B-x"], ["O"]]}
    parquet.write_table(pyarrow.table(columns), path)
    table = read_tagged(path)
    assert (table.words, table.tags) == (columns["tokens"], columns["label"])
    parquet.write_table(pyarrow.table({**columns, "label": [["O"], ["O"]]}), path)
    with pytest.raises(DataError, match="row 1: 2 words"):
        read_tagged(path)
