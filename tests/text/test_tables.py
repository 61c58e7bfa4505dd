"""Tables: what a file says is what is read, and a bad file is named with its line."""

import csv
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from offramp.errors import DataError, MissingBackendError
from offramp.text.tables import read_table, stream_table


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# What cannot lie inside a TSV field: the tab and line ends; a file in UTF-8 has no surrogates.
CHARACTERS = st.characters(exclude_characters="\t\r\n", exclude_categories=("Cs",))
# A quoted field may hold any of them.
CSV_CHARACTERS = st.characters(exclude_categories=("Cs",))
TEXTS = st.text(CHARACTERS, min_size=1, max_size=40).filter(lambda text: text.strip())
LABELS = st.text(CHARACTERS, min_size=1, max_size=8).map(str.strip).filter(bool)
ROWS = st.lists(st.tuples(TEXTS, TEXTS, LABELS), min_size=1, max_size=8)


@settings(deadline=None, max_examples=100)
@given(rows=ROWS, ending=st.sampled_from([b"\n", b"\r\n"]), bom=st.booleans())
def test_tsv_round_trip(
    rows: list[tuple[str, str, str]],
    ending: bytes,
    bom: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    lines = [("label", "first", "second"), *((label, a, b) for a, b, label in rows)]
    content = ending.join("\t".join(line).encode() for line in lines) + ending
    path = tmp_path_factory.getbasetemp() / "rows.tsv"
    table = read_table(
        write(path, b"\xef\xbb\xbf" * bom + content), text="first", pair="second", label="label"
    )
    assert table.texts == [(a, b) for a, b, _ in rows]
    assert table.labels == [label for _, _, label in rows]
    assert len(table) == len(rows)


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(
        st.tuples(st.text(max_size=40).filter(lambda text: text.strip()), LABELS), min_size=1
    ),
    ascii_only=st.booleans(),
    ending=st.sampled_from(["\n", "\r\n"]),
)
def test_jsonl_round_trip(
    rows: list[tuple[str, str]],
    ascii_only: bool,
    ending: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # Any text at all: JSON escapes what lies badly in a line.
    lines = [json.dumps({"label": y, "text": x}, ensure_ascii=ascii_only) for x, y in rows]
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    table = read_table(write(path, ending.join(lines)))
    assert table.texts == [text for text, _ in rows]
    assert table.labels == [label for _, label in rows]


@pytest.mark.parametrize(
    "text",
    [
        'he said "yes',
        '"',
        '"quoted, all of it"',
        "it's",
        "back\\slash \\t \\n",
        "one\u2028line",
        "one\u2029line\x85still\x0b\x0c\x1c\x1d\x1e",
        "  spaces around  ",
        "nul \x00 byte",
        "é è 漢字 😀",
    ],
)
def test_tsv_fields_are_taken_as_they_lie(text: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.tsv", f"text\tlabel\n{text}\tyes\nlast\tno\n")
    table = read_table(path)
    assert table.texts == [text, "last"]
    assert table.labels == ["yes", "no"]
    assert table.source == str(path)


def test_tsv_column_order_extra_columns_and_a_blank_end(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.TSV", "id\tlabel\tsentence\n1\tpos\ta film\n2\tneg\tno\n\n\n")
    assert read_table(path, text="sentence").texts == ["a film", "no"]
    assert read_table(path, text="sentence").labels == ["pos", "neg"]
    assert read_table(path, text="sentence", label="id").labels == ["1", "2"]


def test_tsv_without_a_last_line_end(tmp_path: Path) -> None:
    assert read_table(write(tmp_path / "rows.tsv", "text\tlabel\na\tb")).labels == ["b"]


def test_labels_are_not_read_where_not_wanted(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.tsv", "text\na\n")
    assert read_table(path, label=None).labels is None
    with pytest.raises(DataError, match="no column 'label'"):
        read_table(path)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"pos"', "pos"),
        ('" pos "', "pos"),
        ("1", "1"),
        ("-3", "-3"),
        ("0", "0"),
        ("2.5", "2.5"),
        ("true", "true"),
        ("false", "false"),
    ],
)
def test_jsonl_labels_become_words(written: str, read: str, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", f'{{"text": "a", "label": {written}}}\n')
    assert read_table(path).labels == [read]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tsv", "text\tlabel\na\n", ["line 2", "1 fields", "2 columns"]),
        ("a.tsv", "text\tlabel\na\tb\nc\td\te\n", ["line 3", "3 fields", "2 columns"]),
        ("a.tsv", "text\tlabel\na\tb\n \tb\n", ["line 3", "'text' has no text"]),
        ("a.tsv", "text\tlabel\n\tb\n", ["line 2", "'text' has no text"]),
        ("a.tsv", "text\tlabel\na\t\n", ["line 2", "label ''"]),
        # A row of empty fields is a row: skipped, later answers would stand beside other rows.
        ("a.tsv", "text\tlabel\na\tb\n\t\n", ["line 3", "'text' has no text"]),
        ("a.tsv", "text\tlabel\na\tb\n\n\nc\td\n", ["line 3", "an empty line"]),
        ("a.tsv", "sentence\tlabel\na\tb\n", ["line 2", "'text'", "'sentence'", "'label'"]),
        ("a.tsv", "text\ttext\na\tb\n", ["first line", "twice"]),
        ("a.tsv", b"text\tlabel\na\tb\ncaf\xe9\tb\n", ["line 3", "UTF-8", "0xe9"]),
        ("a.tsv", "text\tlabel\na\tb\n".encode("utf-16"), ["line 1", "UTF-8"]),
        ("a.tsv", "", ["no rows"]),
        ("a.tsv", "\ufeff", ["no rows"]),
        ("a.tsv", "text\tlabel\n", ["no rows"]),
        ("a.jsonl", "", ["no rows"]),
        ("a.jsonl", "\n\r\n\n", ["no rows"]),
        ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "a"', ["line 2", "not valid JSON"]),
        ("a.jsonl", "text\tlabel\na\tb\n", ["line 1", "not valid JSON"]),
        ("a.jsonl", '["a", "b"]\n', ["line 1", "object", "list"]),
        ("a.jsonl", '"a"\n', ["line 1", "object", "str"]),
        ("a.jsonl", "3\n", ["line 1", "object", "int"]),
        ("a.jsonl", '\n{"text": "a", "label": 1}\n', ["line 1", "an empty line"]),
        ("a.jsonl", '{"a": "x", "label": 1}\n', ["line 1", "'text'", "'a'", "'label'"]),
        ("a.jsonl", '{"text": "a"}\n', ["line 1", "'label'", "'text'"]),
        ("a.jsonl", '{"text": "a", "label": null}\n', ["line 1", "label None"]),
        ("a.jsonl", '{"text": "a", "label": [[1]]}\n', ["line 1", "label [1]"]),
        ("a.jsonl", '{"text": "a", "label": " "}\n', ["line 1", "label ' '"]),
        ("a.jsonl", '{"text": 3, "label": 1}\n', ["line 1", "'text'", "int"]),
        ("a.jsonl", '{"text": null, "label": 1}\n', ["line 1", "'text'", "NoneType"]),
        ("a.jsonl", '{"text": "", "label": 1}\n', ["line 1", "'text' has no text"]),
        ("a.jsonl", b'{"text": "caf\xe9", "label": 1}\n', ["line 1", "UTF-8"]),
        ("a.csv", "text,label\na\n", ["line 2", "1 fields", "2 columns", "quotes"]),
        ("a.csv", 'text,label\n"a\nb",c\nd\n', ["line 4", "1 fields"]),
        ("a.csv", 'text,label\n"a\nb",c\n"d" e,f\n', ["line 4", "not CSV", "quotes"]),
        ("a.csv", 'text,label\na,b\n"open,c\nmore\n', ["line 3", "not CSV"]),
        ("a.csv", "text,label\n\na,b\n", ["line 2", "an empty line"]),
        ("a.csv", 'text,label\n" ",b\n', ["line 2", "'text' has no text"]),
        ("a.csv", "text,label\na,\n", ["line 2", "label ''"]),
        ("a.csv", "text,text\na,b\n", ["first line", "twice"]),
        ("a.csv", "sentence,label\na,b\n", ["line 2", "'text'", "'sentence'"]),
        ("a.csv", b"text,label\na,b\ncaf\xe9,b\n", ["line 3", "UTF-8", "0xe9"]),
        ("a.csv", "text,label\n" + "x" * 200_000 + ",b\n", ["line 2", "limit"]),
        ("a.csv", "", ["no rows"]),
        ("a.csv", "text,label\n\n", ["no rows"]),
        ("a.xls", "text,label\na,b\n", ["'.xls'", ".tsv", ".jsonl", ".csv", ".parquet"]),
        ("rows", "text\tlabel\na\tb\n", ["ending", ".tsv", ".jsonl"]),
    ],
)
def test_a_bad_file_is_named_with_its_line(
    name: str, content: str | bytes, expected: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        read_table(path)
    for part in (str(path), *expected):
        assert part in str(caught.value)


def test_pairs_name_the_column_at_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.tsv", "a\tb\tlabel\none\ttwo\t1\nthree\t \t0\n")
    with pytest.raises(DataError, match="line 3: 'b' has no text"):
        read_table(path, text="a", pair="b")
    with pytest.raises(DataError, match=r"no column 'c'\. It has 'a', 'b', 'label'"):
        read_table(path, text="a", pair="c")


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.tsv does not exist"):
        read_table(tmp_path / "absent.tsv")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="is a directory"):
        read_table(tmp_path / "folder.jsonl")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.tsv", "text\tlabel\na\tb\n")
    path.chmod(0)
    with pytest.raises(DataError, match="cannot be read"):
        read_table(path)


def test_deep_nesting_is_bad_json_and_no_recursion_error(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", "[" * 200_000)
    with pytest.raises(DataError, match="line 1"):
        read_table(path)


@settings(deadline=None, max_examples=100)
@given(
    rows=st.lists(
        st.tuples(
            st.text(CSV_CHARACTERS, min_size=1, max_size=40).filter(lambda text: text.strip()),
            LABELS,
        ),
        min_size=1,
        max_size=8,
    ),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    ending=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
)
def test_csv_round_trip(
    rows: list[tuple[str, str]],
    quoting: Any,
    ending: str,
    bom: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if quoting == csv.QUOTE_MINIMAL:  # Python's writer leaves \r bare, which RFC 4180 does not
        rows = [(text.replace("\r", "r"), label) for text, label in rows]
    path = tmp_path_factory.getbasetemp() / "rows.csv"
    with path.open("w", newline="", encoding="utf-8-sig" if bom else "utf-8") as file:
        writer = csv.writer(file, quoting=quoting, lineterminator=ending)
        writer.writerow(["id", "text", "label"])
        writer.writerows((i, *row) for i, row in enumerate(rows))
    table = read_table(path)
    assert table.texts == [text for text, _ in rows]
    assert table.labels == [label for _, label in rows]


def test_csv_of_rfc_4180(tmp_path: Path) -> None:
    # The forms of its section 2: quotes, a line end, and a quote written twice.
    path = write(tmp_path / "rows.csv", 'text,label\r\n"a ""b"", c",x\r\n"two\r\nlines",y\r\n\r\n')
    assert read_table(path).texts == ['a "b", c', "two\r\nlines"]
    assert read_table(path).labels == ["x", "y"]


def test_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, the data extra, is not installed")
    from pyarrow import parquet

    size = 2500  # several batches
    texts = [f"text {i} é漢" for i in range(size)]
    columns = {"text": texts, "b": texts[::-1], "label": list(range(size)), "other": texts}
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table(columns), path)
    table = read_table(path, pair="b")
    assert table.texts == list(zip(texts, texts[::-1], strict=True))
    assert table.labels == [str(i) for i in range(size)]
    assert read_table(path, label=None).texts == texts
    with pytest.raises(DataError, match=r"no column 'c'\. It has 'text', 'b', 'label', 'other'"):
        read_table(path, text="c")
    with pytest.raises(DataError, match="row 1: 'label' is a int; expected text"):
        read_table(path, text="label")
    missing = [1.0, float("nan")]  # what pandas leaves where a number was none
    parquet.write_table(pyarrow.table({"text": ["a", "b"], "label": missing}), path)
    with pytest.raises(DataError, match=r"row 2: the label nan .* Leave out rows without a label"):
        read_table(path)
    texts[1999] = " "
    parquet.write_table(pyarrow.table(columns), path)
    with pytest.raises(DataError, match="row 2000: 'text' has no text"):
        read_table(path)
    content = path.read_bytes()
    for bad in (b"", b"PAR1", content[: len(content) // 2], b"x" * 100):
        with pytest.raises(DataError, match="not a sound Parquet file"):
            read_table(write(path, bad))
    with pytest.raises(DataError, match="does not exist"):
        read_table(tmp_path / "absent.parquet")


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingBackendError, match="pip install pyarrow"):
        read_table(tmp_path / "rows.parquet")


def test_a_pair_is_a_tuple_in_the_order_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"a": "x", "b": "y", "label": 0}')
    assert read_table(path, text="a", pair="b").texts == [("x", "y")]
    assert read_table(path, text="b", pair="a").texts == [("y", "x")]


# ------------------------------------------------------------------ a stream of rows


STREAMED = {
    "rows.tsv": "id\ttext\tb\n1\tone\tx\n2\ttwo\ty\n",
    "rows.csv": 'id,text,b\n1,one,x\n2,"two",y\n',
    "rows.jsonl": '{"id": 1, "text": "one", "b": "x"}\n{"text": "two", "b": "y", "more": 0}\n',
}


@pytest.mark.parametrize("name", STREAMED)
def test_a_stream_has_the_rows_of_the_table_each_time(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, STREAMED[name])
    stream = stream_table(path)
    assert stream.columns == ("id", "text", "b")
    for _ in range(2):
        assert list(stream) == read_table(path, label=None).texts == ["one", "two"]
    one, two = iter(stream), iter(stream)  # each has a place of its own in the file
    assert [next(one), next(two), next(one), next(two)] == ["one", "one", "two", "two"]
    pairs = stream_table(path, text="b", pair="text")
    assert list(pairs) == [("x", "one"), ("y", "two")]
    assert (stream.count(), pairs.count()) == (2, 2)


def test_a_stream_of_parquet_is_read_group_by_group(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, the data extra, is not installed")
    from pyarrow import parquet

    texts = [f"text {i} é漢" for i in range(5000)]
    path = tmp_path / "rows.parquet"
    columns = {"text": texts, "b": texts[::-1], "id": list(range(5000))}
    for group in (700, 5000):
        parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
        stream = stream_table(path, pair="b")
        assert stream.columns == ("text", "b", "id")
        assert list(stream) == list(stream) == list(zip(texts, texts[::-1], strict=True))
        assert stream.count() == 5000


def test_a_parquet_file_larger_than_what_is_kept_of_it(tmp_path: Path) -> None:
    # One group of rows, which pyarrow by default reads into memory whole.
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow, the data extra, is not installed")
    from pyarrow import parquet

    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefgh ", k=400)) for _ in range(50_000)]
    path = tmp_path / "rows.parquet"
    parquet.write_table(
        pyarrow.table({"text": texts}), path, compression="none", use_dictionary=False
    )
    assert parquet.ParquetFile(path).num_row_groups == 1
    program = (
        "import sys, pyarrow, offramp; rows = iter(offramp.stream_table(sys.argv[1])); "
        "n = sum(1 for _ in rows); print(n, pyarrow.default_memory_pool().max_memory())"
    )
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    n_rows, most = map(int, done.stdout.split())
    assert n_rows == 50_000
    assert path.stat().st_size > 20e6
    assert most < path.stat().st_size / 3


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tsv", "sentence\tlabel\na\tb\n", ["no column 'text'. It has 'sentence', 'label'"]),
        ("a.csv", "sentence,label\n", ["no column 'text'. It has 'sentence', 'label'"]),
        ("a.jsonl", '{"a": "x"}\n', ["no column 'text'. It has 'a'"]),
        ("a.tsv", "text\ttext\na\tb\n", ["first line", "twice"]),
        ("a.tsv", "", ["no rows"]),
        ("a.jsonl", "\n", ["no rows"]),
        ("a.jsonl", "[1]\n", ["line 1", "object", "list"]),
        ("a.xls", "text\na\n", ["'.xls'", ".parquet"]),
    ],
)
def test_what_a_stream_refuses_before_its_rows(
    name: str, content: str, expected: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as caught:
        stream_table(path)
    for part in (str(path), *expected):
        assert part in str(caught.value)


def test_a_row_that_cannot_be_used_is_met_in_its_place(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"text": "a"}\n{"text": "b"}\n{"text": " "}\n')
    stream = stream_table(path)
    for _ in range(2):
        rows = iter(stream)
        assert [next(rows), next(rows)] == ["a", "b"]
        with pytest.raises(DataError, match=r"rows\.jsonl, line 3: 'text' has no text"):
            next(rows)
    with pytest.raises(DataError, match="line 3"):
        stream.count()
    header_only = stream_table(write(tmp_path / "rows.tsv", "text\n"))
    assert list(header_only) == []
    with pytest.raises(DataError, match="has no rows"):
        header_only.count()


def test_half_a_surrogate_pair_is_named_with_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", '{"text": "a"}\n{"text": "cut \\ud83d"}\n')
    with pytest.raises(DataError, match=r"line 2: 'text' is not valid Unicode"):
        read_table(path, label=None)


def test_a_stream_is_of_a_file_that_can_be_read_again(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        stream_table(tmp_path / "absent.tsv")
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match="is a directory"):
        stream_table(tmp_path / "folder.jsonl")
    os.mkfifo(tmp_path / "pipe.tsv")
    with pytest.raises(DataError, match="device or a pipe"):
        stream_table(tmp_path / "pipe.tsv")


def test_a_stream_that_is_left_closes_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.tsv", "text\n" + "a\n" * 100)
    stream = stream_table(path)
    rows = iter(stream)
    next(rows)
    assert path in open_files()
    del rows
    assert path not in open_files()


def open_files() -> set[Path]:
    """What this process has open."""
    found = [link for link in Path("/proc/self/fd").iterdir() if link.exists()]
    return {link.readlink() for link in found if link.is_symlink()}
