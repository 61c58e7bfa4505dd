"""`offramp bench`: the table, the JSON, and what is refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from task_models import some_texts, write_model

import offramp
from offramp.cli import main
from offramp.models import bert

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--rounds", "2", "--threads", "1", "--batch", "8")
PEERS = {
    "transformers, file order",
    "transformers, sorted",
    "ONNX Runtime, sorted",
    "CTranslate2, sorted",
    "CTranslate2 int8, sorted",
}
PACKAGES = ("transformers", "onnx", "onnxruntime", "ctranslate2")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier, with and without exits, a ranker, a tagger and texts."""
    folder = tmp_path_factory.mktemp("place")
    write_model(folder / "plain", bert.BertForSequenceClassification, num_labels=2)
    classifier = offramp.load(folder / "plain", task="classify")
    offramp.add_exits(classifier.model, [1], criterion=offramp.Entropy(10.0))
    classifier.save(folder / "exits")
    write_model(folder / "ranker", bert.BertForSequenceClassification, num_labels=1)
    write_model(folder / "tagger", bert.BertForTokenClassification, num_labels=2)
    texts = "".join(f"{text}\t{text[::-1]}\n" for text in some_texts(20))
    (folder / "texts.tsv").write_text("text\tother\n" + texts, "utf-8")
    return folder


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`offramp bench ...` in the folder: exit code, output and errors."""

    def run(*args: str | Path) -> tuple[int, str, str]:
        monkeypatch.chdir(place)
        monkeypatch.setattr(sys, "argv", ["offramp", "bench", *map(str, args)])
        code = 0
        try:
            main()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
        return code, *capsys.readouterr()

    return run


def test_the_table_and_its_file(run: Run, tmp_path: Path) -> None:
    for package in PACKAGES:
        pytest.importorskip(package)
    file = tmp_path / "table.json"
    code, out, err = run("exits", "--data", "texts.tsv", *QUICK, "--json", file)
    assert code == 0, err
    found = json.loads(file.read_text("utf-8"))
    lines = {line["engine"]: line for line in found["lines"]}
    assert lines.keys() == {"offramp, plain", "offramp, with exits"} | PEERS
    assert found["absent"] == {}
    assert (found["rows"], found["rounds"], found["batch_size"]) == (20, 2, 8)
    assert found["machine"]["threads"] == 1
    assert all(len(line["seconds"]) == 2 for line in lines.values())
    assert all(line["difference"] < 1e-3 for name, line in lines.items() if "int8" not in name
               and "exits" not in name)  # fmt: skip
    assert lines["offramp, with exits"]["mean_layers"] == 1
    assert "offramp, with exits: 1.00 layers a row." in out
    for name in PEERS:
        words = name.replace(",", "").split()
        assert all(word in out for word in words)


def test_without_the_peers_it_says_how_to_install_them(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    code, out, err = run("plain", "--data", "texts.tsv", "--rows", "6", *QUICK)
    assert code == 0, err
    flat = " ".join(out.split())
    assert flat.startswith("6 rows of ")
    assert "with exits" not in out
    for name in PEERS:
        assert f"{name}: not measured." in flat
    assert "pip install ctranslate2" in flat
    assert "pip install onnxruntime && pip install onnx" in flat


def test_a_ranker_and_pairs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    code, out, err = run("ranker", "--data", "texts.tsv", "--pair", "other", *QUICK)
    assert code == 0, err
    assert "20 rows" in out


def test_the_texts_that_it_brings(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in PACKAGES:
        monkeypatch.setitem(sys.modules, package, None)
    code, out, err = run("plain", "--rows", "30", *QUICK)
    assert code == 0, err
    assert "30 rows" in out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("nowhere",), "nowhere"),
        (("tagger", "--data", "texts.tsv"), "bench measures sequence classifiers"),
        (("plain", "--data", "none.tsv"), "none.tsv"),
        (("plain", "--data", "texts.tsv", "--text", "absent"), "absent"),
        (("plain", "--data", "texts.tsv", "--rows", "0"), "--rows must be at least 1; got 0"),
        (("plain", "--data", "texts.tsv", "--rounds", "0"), "--rounds must be at least 1; got 0"),
        (("plain", "--data", "texts.tsv", "--batch", "-1"), "--batch must be at least 1; got -1"),
        (("plain", "--data", "texts.tsv", "--threads", "0"), "--threads must be at least 1"),
        (("plain", "--text", "other"), "--text is not for the built-in texts"),
        (("plain", "--data", "texts.tsv", "--json", "texts.tsv"), "is a file that is read"),
        (("plain", "--data", "texts.tsv", "--json", "absent/t.json"), "does not exist"),
    ],
)
def test_what_is_refused(run: Run, args: tuple[str, ...], said: str) -> None:
    code, out, err = run(*args)
    assert code == 2
    assert out == ""
    assert err.startswith("offramp: ")
    assert err.count("\n") == 1
    assert said in err
