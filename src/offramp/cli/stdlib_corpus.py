"""Real text that any machine with Python already holds: the standard library's own docstrings.

The task is to tell from a docstring's words which area its module belongs to. Whole modules, never
single rows, make up a split, so a test row describes a module that training has not read.
"""

import ast
import re
import sysconfig
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

Row = tuple[str, str]

# Area -> split -> top-level modules; each stands for its file or its whole package, whichever this
# Python has. Modules that copy each other's words share a split: a pure-Python twin and its
# original (decimal), one interface over several formats (gzip, bz2, lzma) or in several settings
# (threading, asyncio, queue), one module built from another's parts (xmlrpc from pydoc's). Left out
# are modules of two areas (logging, mailbox, json) and those gone by 3.13 (distutils, nntplib), so
# that every Python has nearly the same rows.
MODULES: dict[str, dict[str, str]] = {
    "numeric": {
        "train": "decimal _pydecimal fractions numbers _pylong datetime _pydatetime _strptime"
        " zoneinfo",
        "dev": "calendar heapq bisect colorsys",
        "test": "statistics random secrets",
    },
    "files": {
        "train": "io _pyio codecs os posixpath ntpath genericpath stat pathlib shutil tarfile"
        " plistlib tomllib pickle pickletools linecache",
        "dev": "gzip bz2 lzma _compression compression fileinput filecmp configparser",
        "test": "zipfile zipapp glob fnmatch tempfile csv shelve dbm",
    },
    "internet": {
        "train": "email wsgiref http urllib nturl2path html socket ssl ipaddress mimetypes base64"
        " quopri",
        "dev": "imaplib socketserver xmlrpc",
        "test": "smtplib poplib ftplib uuid webbrowser",
    },
    "concurrency": {
        "train": "asyncio threading _threading_local queue concurrent",
        "dev": "subprocess selectors sched signal",
        "test": "multiprocessing",
    },
    "development": {
        "train": "unittest inspect typing annotationlib ast symtable importlib pkgutil runpy"
        " zipimport modulefinder abc _py_abc",
        "dev": "doctest pydoc dis opcode tokenize tabnanny compileall py_compile pyclbr venv",
        "test": "pdb bdb cmd code codeop rlcompleter profile cProfile pstats timeit trace"
        " tracemalloc traceback warnings _py_warnings",
    },
}
AREAS = tuple(MODULES)
SPLITS = ("train", "dev", "test")

FEWEST_WORDS = 8  # shorter ones ("Close the file.") fit any area
MOST_WORDS = 60  # later words are details of arguments, past a short row's length anyway
NEAR = 0.6  # two texts count as one if the shorter shares this much of its three-word runs


def read_corpus(stdlib: Path | None = None) -> dict[str, list[Row]]:
    """(text, area) rows of "train", "dev" and "test", from this Python's library or another's.

    The order is the table's, the same on every call, so training has to shuffle. A module that
    this Python lacks, or that cannot be parsed, gives no rows.
    """
    folder = Path(sysconfig.get_path("stdlib")) if stdlib is None else stdlib
    found = [
        (split, text, area)
        for split in SPLITS
        for area in AREAS
        for module in MODULES[area][split].split()
        for path in _files(folder, module)
        for text in _texts(path)
    ]
    corpus: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for at in _distinct([(text, area) for _, text, area in found]):
        split, text, area = found[at]
        corpus[split].append((text, area))
    return corpus


def _files(folder: Path, module: str) -> list[Path]:
    package = (folder / module).rglob("*.py")
    own = [path for path in package if not {"test", "tests"} & {*path.relative_to(folder).parts}]
    return [folder / f"{module}.py", *sorted(own)]


def _texts(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an old escape in a docstring is no concern of ours
            tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            words = _without_examples(ast.get_docstring(node) or "").split()
            if len(words) >= FEWEST_WORDS:
                yield " ".join(words[:MOST_WORDS])


def _without_examples(docstring: str) -> str:
    # An example runs from its prompt to the next blank line, its output included.
    return re.sub(r"^[ \t]*>>>.*(\n[ \t]*\S.*)*", "", docstring, flags=re.MULTILINE)


def _distinct(rows: list[Row]) -> list[int]:
    """Which rows stay, once near-duplicates are gone.

    Of alike texts of one area the first stays: training's, as the rows begin with it, so no dev or
    test text was read in training. Alike texts of two areas have no right answer, so none stays.
    """
    alike = _alike([text for text, _ in rows])
    kept: set[int] = set()
    for at, (_, area) in enumerate(rows):
        clash = any(rows[other][1] != area for other in alike[at])
        if not clash and not alike[at] & kept:
            kept.add(at)
    return sorted(kept)


def _alike(texts: list[str]) -> list[set[int]]:
    """For each text the other texts of which it is a near-duplicate."""
    runs = [_runs(text) for text in texts]
    holders: defaultdict[str, list[int]] = defaultdict(list)
    alike: list[set[int]] = [set() for _ in texts]
    for at, own in enumerate(runs):
        common = Counter(other for run in own for other in holders[run])
        for other, count in common.items():
            if count >= NEAR * min(len(own), len(runs[other])):
                alike[at].add(other)
                alike[other].add(at)
        for run in own:
            holders[run].append(at)
    return alike


def _runs(text: str) -> set[str]:
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[at : at + 3]) for at in range(max(1, len(words) - 2))}
