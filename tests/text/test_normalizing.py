"""What a tokenizer.json may do to texts, and what tokenizer_config.json changes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import normalizers

import offramp

pytest.importorskip("transformers")
import transformers
from family_kit import TEXTS as KNOWN, family_directory

TEXTS = [*KNOWN, *(text.upper() for text in KNOWN), "Crème Brûlée", "the Fox 狐狸 jumps", "cat"]


def changed(directory: Path, file: str, **values: Any) -> None:
    path = directory / file
    there = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(there | values), encoding="utf-8")


def saved(family: str, directory: Path) -> Path:
    """A family's directory with a tokenizer.json, as transformers saves it."""
    family_directory(family, directory)
    transformers.AutoTokenizer.from_pretrained(directory).save_pretrained(directory)
    return directory


def ids_of(directory: Path) -> list[list[int]]:
    """Of the texts, none of them cut."""
    tokenizer = offramp.Tokenizer.from_pretrained(directory, max_length=512)
    return [row.ids.tolist() for row in tokenizer.encode(TEXTS)]


@pytest.mark.parametrize(
    ("family", "setting"),
    [
        ("bert", {"do_lower_case": True}),
        ("bert", {"do_lower_case": False}),
        ("bert", {"do_lower_case": False, "strip_accents": True}),
        ("bert", {"tokenize_chinese_chars": False}),
        ("roberta", {"add_prefix_space": True}),
        ("roberta", {"add_prefix_space": False}),
    ],
)
def test_what_is_stated_holds_as_in_transformers(
    family: str, setting: dict[str, bool], tmp_path: Path
) -> None:
    directory = saved(family, tmp_path / family)
    changed(directory, "tokenizer_config.json", **setting)
    expected = transformers.AutoTokenizer.from_pretrained(directory)(TEXTS)["input_ids"]
    found = ids_of(directory)
    assert found == expected
    changed(directory, "tokenizer_config.json", **{k: not v for k, v in setting.items()})
    assert ids_of(directory) != found, "the setting does something"


@pytest.mark.parametrize(
    "steps",
    [
        [normalizers.Replace("a", "a" * 50)] * 8,
        [normalizers.Sequence([normalizers.Replace("a", "aaa")] * 5)],
        [normalizers.Prepend("x" * 1000)],
        [normalizers.Replace(tokenizers.Regex("."), "abc" * 30)],
    ],
)
def test_texts_that_would_grow_without_end_are_refused(steps: list[Any], tmp_path: Path) -> None:
    directory = saved("bert", tmp_path / "bert")
    path = str(directory / "tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(path)
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.save(path)
    with pytest.raises(offramp.DataError, match="letters"):
        offramp.Tokenizer.from_pretrained(directory)


def test_replacements_of_a_few_letters_are_taken(tmp_path: Path) -> None:
    directory = saved("bert", tmp_path / "bert")
    path = str(directory / "tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(path)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Replace("``", '"'), normalizers.Replace("…", "..."), normalizers.NFKC()]
    )
    tokenizer.save(path)
    assert offramp.Tokenizer.from_pretrained(directory).encode(["a…"])[0].ids.size


def test_a_link_that_leads_nowhere_is_not_passed_over(tmp_path: Path) -> None:
    directory = tmp_path / "bert"
    family_directory("bert", directory)
    (directory / "tokenizer.json").unlink(missing_ok=True)
    assert offramp.Tokenizer.from_pretrained(directory).vocab_size
    (directory / "tokenizer.json").symlink_to(tmp_path / "gone")
    with pytest.raises(offramp.DataError, match="leads to none"):
        offramp.Tokenizer.from_pretrained(directory)


def test_a_model_of_one_type_gets_no_other(tmp_path: Path) -> None:
    """BERT's tokenizer beside a RoBERTa, as in klue/roberta-base."""
    directory = tmp_path / "bert"
    family_directory("bert", directory)
    pair = [("the fox", "jumps")]
    assert set(offramp.Tokenizer.from_pretrained(directory).encode(pair)[0].types) == {0, 1}
    changed(directory, "config.json", type_vocab_size=1)
    tokenizer = offramp.Tokenizer.from_pretrained(directory)
    assert set(tokenizer.encode(pair)[0].types) == {0}
    assert set(tokenizer.tokenize(pair)[0].types) == {0}
