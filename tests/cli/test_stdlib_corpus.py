"""The corpus of docstrings: splits that share no module and no words, on any Python."""

import sysconfig
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

import pytest

from offramp.cli import stdlib_corpus
from offramp.cli.stdlib_corpus import AREAS, MODULES, SPLITS, Row, read_corpus

TWINS = [
    "decimal _pydecimal",
    "datetime _pydatetime _strptime",
    "io _pyio codecs",
    "os posixpath ntpath genericpath",
    "gzip bz2 lzma _compression compression",
    "pickle pickletools",
    "threading _threading_local queue asyncio concurrent",
    "profile cProfile",
    "warnings _py_warnings",
    "pdb bdb",
    "importlib zipimport pkgutil",
    "email wsgiref",
    "xmlrpc pydoc",
    "statistics random",
    "glob fnmatch zipfile",
]


@pytest.fixture(scope="module")
def corpus() -> dict[str, list[Row]]:
    return read_corpus()


def split_of(module: str) -> str:
    (split,) = {s for a in AREAS for s in SPLITS if module in MODULES[a][s].split()}
    return split


def write(folder: Path, **modules: str) -> Path:
    for name, docstring in modules.items():
        (folder / f"{name}.py").write_text(f'"""{docstring}"""\n', encoding="utf-8")
    return folder


def test_every_area_has_every_split() -> None:
    assert all(tuple(MODULES[area]) == SPLITS for area in AREAS)
    assert set(AREAS) == {"numeric", "files", "internet", "concurrency", "development"}


def test_no_file_in_two_places() -> None:
    stdlib = Path(sysconfig.get_path("stdlib"))
    modules = [m for area in AREAS for split in SPLITS for m in MODULES[area][split].split()]
    files = [
        path.resolve()
        for module in modules
        for path in stdlib_corpus._files(stdlib, module)
        if path.exists()
    ]
    assert len(set(modules)) == len(modules)
    assert len(set(files)) == len(files) > 100


def test_no_file_of_the_library_s_own_tests() -> None:
    stdlib = Path(sysconfig.get_path("stdlib"))
    for path in stdlib_corpus._files(stdlib, "unittest"):
        assert not {"test", "tests"} & set(path.relative_to(stdlib).parts)


@pytest.mark.parametrize("modules", TWINS)
def test_twins_are_in_one_split(modules: str) -> None:
    assert len({split_of(module) for module in modules.split()}) == 1


def test_decimal_is_trained_on() -> None:
    assert split_of("decimal") == split_of("_pydecimal") == "train"


def test_sizes(corpus: dict[str, list[Row]]) -> None:
    total = sum(map(len, corpus.values()))
    assert tuple(corpus) == SPLITS
    assert total > 2500
    assert 0.6 <= len(corpus["train"]) / total <= 0.7
    assert 0.12 <= len(corpus["dev"]) / total <= 0.18
    assert 0.15 <= len(corpus["test"]) / total <= 0.22


@pytest.mark.parametrize("split", SPLITS)
def test_no_area_rare_or_in_the_majority(split: str, corpus: dict[str, list[Row]]) -> None:
    counts = Counter(area for _, area in corpus[split])
    assert set(counts) == set(AREAS)
    assert min(counts.values()) >= 30
    assert max(counts.values()) < 0.45 * len(corpus[split])


def test_rows_are_plain_lines_of_8_to_60_words(corpus: dict[str, list[Row]]) -> None:
    for text in [text for rows in corpus.values() for text, _ in rows]:
        assert 8 <= len(text.split()) <= 60
        assert text == " ".join(text.split())
        assert text.isprintable()
        assert ">>>" not in text


def test_same_rows_on_every_call(corpus: dict[str, list[Row]]) -> None:
    assert read_corpus() == corpus


def test_no_text_twice(corpus: dict[str, list[Row]]) -> None:
    texts = [text.lower() for rows in corpus.values() for text, _ in rows]
    assert len(set(texts)) == len(texts)


def test_no_near_duplicate_in_two_splits(corpus: dict[str, list[Row]]) -> None:
    # By another measure than the module's own: matching words in order, over the pairs that
    # share enough words in any order.
    words = {split: [text.lower().split() for text, _ in corpus[split]] for split in SPLITS}
    bags = {split: [frozenset(text) for text in words[split]] for split in SPLITS}
    for one, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        for left, left_bag in zip(words[one], bags[one], strict=True):
            for right, right_bag in zip(words[other], bags[other], strict=True):
                if len(left_bag & right_bag) >= 0.7 * max(len(left_bag), len(right_bag)):
                    match = SequenceMatcher(None, left, right, autojunk=False).ratio()
                    assert match < 0.85, (left, right)


def test_reads_modules_classes_and_functions_without_examples(tmp_path: Path) -> None:
    (tmp_path / "decimal.py").write_text(
        '"""A module of one two three four five six words."""\n'
        "class Number:\n"
        '    """A class with a pattern \\d of one two three words."""\n'
        "    async def wait(self):\n"
        '        """Wait for the number until\n\n'
        "        >>> its example\n"
        "        is over\n\n"
        "        and then return it.\n"
        '        """\n'
        "    def stop(self):\n"
        '        """Too short to tell."""\n',
        encoding="utf-8",
    )
    assert read_corpus(tmp_path)["train"] == [
        ("A module of one two three four five six words.", "numeric"),
        ("A class with a pattern \\d of one two three words.", "numeric"),
        ("Wait for the number until and then return it.", "numeric"),
    ]


def test_skips_what_does_not_parse(tmp_path: Path) -> None:
    write(tmp_path, decimal="Numbers with a point and as many digits as wanted.")
    (tmp_path / "fractions.py").write_text("def broken(:\n", encoding="utf-8")
    (tmp_path / "numbers.py").write_bytes(b'"""Caf\xe9 of one two three four five six seven."""\n')
    (tmp_path / "datetime.py").write_bytes(b"\0")
    assert [area for _, area in read_corpus(tmp_path)["train"]] == ["numeric"]


def test_reads_a_package_but_not_its_tests(tmp_path: Path) -> None:
    package = tmp_path / "unittest"
    for folder in (package, package / "test", package / "inner"):
        folder.mkdir(parents=True, exist_ok=True)
    write(package, case="One case of a test with everything that it needs.")
    write(package / "inner", more="Something else that is further down inside of the package.")
    write(package / "test", test_case="Whether cases of tests do as they have to do.")
    texts = [text for text, _ in read_corpus(tmp_path)["train"]]
    assert [text.split()[0] for text in texts] == ["One", "Something"]


def test_training_keeps_what_a_later_split_nearly_repeats(tmp_path: Path) -> None:
    text = "Return the number that lies nearest to the mean of all of them."
    write(tmp_path, decimal=text, statistics=text.replace("them.", "THESE, or nothing at all"))
    assert read_corpus(tmp_path) == {"train": [(text, "numeric")], "dev": [], "test": []}


def test_no_split_keeps_what_two_areas_say(tmp_path: Path) -> None:
    text = "Return whatever comes first out of the things that are waiting here."
    write(tmp_path, queue=text, heapq=text, calendar="Print the days of one month, week by week.")
    corpus = read_corpus(tmp_path)
    assert [len(corpus[split]) for split in SPLITS] == [0, 1, 0]


def test_no_library_no_rows(tmp_path: Path) -> None:
    assert read_corpus(tmp_path / "absent") == {"train": [], "dev": [], "test": []}
