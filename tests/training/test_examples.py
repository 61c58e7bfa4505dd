"""Tables to examples: fixed order of classes, splits by hash, batches that cover a row once."""

from collections import Counter
from pathlib import Path

import pytest
import torch
from exit_models import encoded, random_rows, write_tokenizer
from hypothesis import given, settings, strategies as st

from offramp.errors import DataError
from offramp.text.tables import Table
from offramp.text.tokenizer import Tokenizer
from offramp.training.examples import Examples, batches, class_names, hold_out, to_examples


def labelled(*labels: str) -> Table:
    return Table("file.tsv", [f"text {i}" for i in range(len(labels))], list(labels))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["pos", "neg", "pos"], ["neg", "pos"]),
        (["10", "9", "2", "10"], ["2", "9", "10"]),
        (["-1", "0.5", "1e1", "0"], ["-1", "0", "0.5", "1e1"]),
        (["10", "9", "other"], ["10", "9", "other"]),
        (["true", "false"], ["false", "true"]),
    ],
)
def test_names_are_in_order_of_value_or_of_letters(labels: list[str], names: list[str]) -> None:
    assert class_names(labelled(*labels)) == names
    assert class_names(labelled(*reversed(labels))) == names


@pytest.mark.parametrize(
    "names", ["0 001 01 1 1.0 1.00 2", "0 1 2 3 4 nan", "0 1e999 inf infinity"]
)
def test_names_do_not_hang_on_the_order_of_a_set(names: str) -> None:
    # Python orders a set of strings anew in each process, and the order of a model's classes must
    # be the same in all: equal numbers are in order of letters, and what is no number is a word.
    assert class_names(labelled(*names.split()[::-1])) == names.split()


def test_one_class_is_none() -> None:
    with pytest.raises(DataError, match=r"file\.tsv has only the labels \['pos'\]"):
        class_names(labelled("pos", "pos"))
    with pytest.raises(DataError, match="without labels"):
        class_names(Table("file.tsv", ["a"], None))


def test_examples_have_class_numbers(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    table = Table("file.tsv", ["good film", "bad"], ["pos", "neg"])
    examples = to_examples(table, tokenizer, {"neg": 0, "pos": 1})
    assert examples.labels_R.tolist() == [1, 0]
    assert [row.ids.tolist() for row in examples.rows] == [[2, 5, 7, 3], [2, 6, 3]]
    with pytest.raises(DataError, match=r"row 2: the label 'neg' was not seen.*'Neg'"):
        to_examples(table, tokenizer, {"Neg": 0, "pos": 1})


def test_inputs_lie_in_order_of_length_under_their_own_numbers() -> None:
    rows = [encoded([9] * n) for n in (5, 2, 4, 3)]
    inputs = Examples(rows, torch.tensor([0, 1, 2, 3])).inputs([2, 0, 3])
    assert inputs.row_ids_R.tolist() == [3, 2, 0]
    assert inputs.layout.lengths_R.tolist() == [3, 4, 5]  # type: ignore[union-attr]


@settings(deadline=None, max_examples=50)
@given(
    n_rows=st.integers(1, 150),
    size=st.integers(1, 40),
    seed=st.integers(0, 5),
)
def test_an_epoch_has_each_row_once(n_rows: int, size: int, seed: int) -> None:
    examples = Examples(random_rows(n_rows, seed), torch.zeros(n_rows, dtype=torch.int64))
    made = list(batches(examples, size, torch.Generator().manual_seed(seed)))
    assert sorted(i for batch in made for i in batch) == list(range(n_rows))
    assert max(map(len, made)) <= size
    assert len(made) == -(-n_rows // size)  # the schedule counts on so many steps
    again = list(batches(examples, size, torch.Generator().manual_seed(seed)))
    assert made == again


def test_batches_are_shuffled_and_of_like_length() -> None:
    examples = Examples(random_rows(512, longest=60), torch.zeros(512))
    generator = torch.Generator().manual_seed(0)
    one, two = (list(batches(examples, 16, generator)) for _ in range(2))
    assert one != two
    for made in (one, two):
        spans = []
        for batch in made:
            lengths = [len(examples.rows[i].ids) for i in batch]
            spans.append(max(lengths) - min(lengths))
        assert sum(spans) / len(spans) < 6  # of rows picked blindly: about 50
        means = [sum(len(examples.rows[i].ids) for i in batch) / 16 for batch in made]
        assert means not in (sorted(means), sorted(means, reverse=True))


def test_equal_texts_fall_on_one_side_whatever_their_place() -> None:
    texts = [f"text {i % 150}" for i in range(600)]
    table = Table("file.tsv", texts, [str(i % 2) for i in range(600)])
    train, dev = hold_out(table)
    assert not set(train.texts) & set(dev.texts)
    assert Counter([*train.texts, *dev.texts]) == Counter(texts)
    assert 0.04 < len(dev) / 600 < 0.18
    backwards = Table("file.tsv", texts[::-1], table.labels[::-1])  # type: ignore[index]
    assert set(hold_out(backwards)[1].texts) == set(dev.texts)
    fewer = Table("file.tsv", texts[:300], table.labels[:300])  # type: ignore[index]
    assert set(hold_out(fewer)[1].texts) <= set(dev.texts)
    for side in (train, dev):
        assert side.source == "file.tsv"
        assert side.labels is not None
        for text, label in zip(side.texts, side.labels, strict=True):
            assert label == str(int(str(text).split()[1]) % 2)


def test_pairs_are_split_by_both_texts() -> None:
    pairs = [("same", f"other {i}") for i in range(200)]
    train, dev = hold_out(Table("file.tsv", list(pairs), ["x"] * 200))
    assert len(dev) > 0
    assert len(train) > len(dev)


def test_too_few_rows_to_hold_some_out() -> None:
    with pytest.raises(DataError, match="2 rows, too few"):
        hold_out(labelled("a", "b"))
