"""`offramp report`: the page, its numbers, and what is refused."""

import json
from pathlib import Path

import pytest
from exit_models import tiny_model, toy_rows, write_tokenizer
from invoking import Run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a random model that says `neg` or `pos`."""
    folder = tmp_path_factory.mktemp("place")
    for seed, name in enumerate(("test", "dev")):
        lines = [f"{text}\t{label}" for text, label in toy_rows(30, seed)]
        (folder / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *lines, ""]), "utf-8")
    model = tiny_model(n_labels=2, id2label={0: "neg", 1: "pos"})
    model.save_pretrained(folder / "model")
    write_tokenizer(folder / "model")
    return folder


QUICK = ("--text", "sentence", "--rounds", 1, "--timing-rows", 4, "--no-transformers")


def test_a_page_and_its_numbers(run: Run, place: Path) -> None:
    more = ("--dev", "dev.tsv", "--price-per-hour", 1.5, "--output", "seen.html", "--plot", "p.svg")
    more += ("--table", "t.md")
    done = run("report", "model", "--data", "test.tsv", *QUICK, *more)
    assert done.code == 0, done.err
    values = json.loads((place / "seen.json").read_text("utf-8"))
    assert (values["rows"], values["timed_rows"], values["price_per_hour"]) == (30, 4, 1.5)
    assert (values["model"], values["data"]) == ("model", "test.tsv")
    page = (place / "seen.html").read_text("utf-8")
    headline = done.out.splitlines()[0].removesuffix(".")
    assert f"<h1>{headline}</h1>" in page
    assert (place / "p.svg").read_text("utf-8").startswith("<svg ")
    assert (place / "t.md").read_text("utf-8").startswith("| System | As fast as plain | Accuracy")
    assert "The page is seen.html, its numbers are seen.json." in done.out


def test_what_cannot_be_written_is_refused_first(run: Run, place: Path) -> None:
    rows = [json.dumps({"text": text, "label": label}) for text, label in toy_rows(5)]
    (place / "mine.json").write_text("\n".join(rows), "utf-8")
    done = run("report", "absent", "--data", "test.tsv", "--table", "table.txt")
    assert "call it table.md" in done.err
    for output, data, said in (
        ("page.txt", "test.tsv", "page.html"),
        ("mine.html", "mine.json", "is a file that is read"),
        ("no/such/page.html", "test.tsv", "does not exist"),
    ):
        done = run("report", "absent", "--data", data, "--output", output)
        assert done.code == 2
        assert said in done.err
        assert "absent" not in done.err
    assert not list(place.glob("*.html.*"))
