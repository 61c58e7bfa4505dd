"""Tables of names, read in both directions."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, strategies as st

from offramp.checkpoints.renames import Row, named_back, renamed
from offramp.checkpoints.tables import FAMILIES, OLD_NAMES, PADDLE_ANSWERS, research_rows
from offramp.models.bert import BertPreTrainedModel

TABLES: dict[str, tuple[Row, ...]] = {
    **{f"paddle {family}": known.paddle for family, known in FAMILIES.items()},
    "DeeBERT's": research_rows("bert")[:2],
    "PABEE's": research_rows("bert")[2:],
    "bert's class": tuple(BertPreTrainedModel.paddle_names),
}
WRITTEN = [
    pytest.param(table, row, id=f"{name}: {row.foreign}")
    for name, table in TABLES.items()
    for row in table
    if row.own is not None and not row.read_only
]
PLACES = st.fixed_dictionaries(
    {
        "n": st.integers(0, 99),
        "m": st.integers(0, 9),
        "p": st.sampled_from(["weight", "bias"]),
        "b": st.sampled_from(["", "bert.", "ernie.", "roberta.", "own_body."]),
        "any": st.sampled_from(["a.weight", "encoder.0.x", "y"]),
    }
)


def filled(template: str, places: dict[str, object]) -> str:
    number = places["n"]
    assert isinstance(number, int)
    return template.format(**places, **{"n+1": number + 1})


@pytest.mark.parametrize(("table", "row"), WRITTEN)
@given(places=PLACES)
def test_names_go_there_and_back(
    table: tuple[Row, ...], row: Row, places: dict[str, object]
) -> None:
    """By the whole table, in which an earlier row may know the name too."""
    foreign = filled(row.foreign, places)
    found = renamed(foreign, table)
    assert found is not None
    own, transpose = found
    assert own is not None
    assert named_back(own, table) == (foreign, transpose)


@pytest.mark.parametrize(("table", "row"), WRITTEN)
@given(places=PLACES)
def test_our_names_go_there_and_back(
    table: tuple[Row, ...], row: Row, places: dict[str, object]
) -> None:
    assert row.own is not None
    own = filled(row.own, places)
    found = named_back(own, table)
    assert found is not None
    foreign, transpose = found
    assert renamed(foreign, table) == (own, transpose)


@pytest.mark.parametrize("name", TABLES)
def test_no_row_stands_twice(name: str) -> None:
    table = TABLES[name]
    assert len({row.foreign for row in table}) == len(table)
    written = [row.own for row in table if row.own is not None and not row.read_only]
    assert len(set(written)) == len(written)


@given(st.text("ab.0_weightbias{}", max_size=30))
def test_a_name_that_no_row_knows(name: str) -> None:
    rows = (Row("x.{n}.{p}", "y.{n}.{p}"),)
    assume(not name.startswith(("x.", "y.")))
    assert renamed(name, rows) is None
    assert named_back(name, rows) is None


def test_places() -> None:
    rows = (
        Row("{b}lay.{n}.{m}.{p}", "{b}layer.{n}.{m}.{p}", True),
        Row("ramp.{n}.{p}", "exits.{n+1}.{p}"),
        Row("rest/{any}", "others.{any}"),
    )
    known = {
        "lay.0.1.weight": "layer.0.1.weight",
        "bert.lay.12.3.bias": "bert.layer.12.3.bias",
        "ramp.0.bias": "exits.1.bias",
        "ramp.9.weight": "exits.10.weight",
        "rest/a.b/c": "others.a.b/c",
    }
    for foreign, own in known.items():
        assert renamed(foreign, rows) == (own, "lay." in foreign)
        assert named_back(own, rows) == (foreign, "lay." in foreign)
    for name in (
        "lay.0.1.gamma",
        "lay.x.1.weight",
        "lay.0.1.weight.more",
        "a.bert.lay.0.1.weight",
        "more_lay.0.1.weight",
        "layx0x1xweight",
        "rest/",
        "ramp.-1.bias",
    ):
        assert renamed(name, rows) is None, name


def test_what_is_left_out_and_what_is_read_alone() -> None:
    rows = (Row("ids", None), Row("old.{p}", "new.{p}", read_only=True), Row("now.{p}", "new.{p}"))
    assert renamed("ids", rows) == (None, False)
    assert renamed("old.bias", rows) == renamed("now.bias", rows) == ("new.bias", False)
    assert named_back("new.bias", rows) == ("now.bias", False)
    assert named_back("ids", rows) is None


def test_the_first_row_wins() -> None:
    rows = (PADDLE_ANSWERS, Row("classifier.{p}", "classifier.{p}", True))
    assert renamed("classifier.bias", rows) == ("qa_outputs.bias", True)
    assert named_back("qa_outputs.bias", rows) == ("classifier.bias", True)


def test_what_norms_were_called_before_2019() -> None:
    assert renamed("bert.LayerNorm.gamma", OLD_NAMES) == ("bert.LayerNorm.weight", False)
    assert renamed("bert.LayerNorm.beta", OLD_NAMES) == ("bert.LayerNorm.bias", False)
    assert renamed("gamma", OLD_NAMES) is None
    assert named_back("bert.LayerNorm.weight", OLD_NAMES) is None
