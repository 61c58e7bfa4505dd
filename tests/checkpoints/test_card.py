"""A card's part goes with the weights that it is of; what is its owner's stays, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from offramp.checkpoints.card import CARD, merged_card, new_card
from offramp.checkpoints.directory import staged

ONE, TWO = new_card("## One\n"), new_card("## Two")
OWN = "# Mine \u00fc\n\nWords.\n".encode()


def save(place: Path, card: bytes | None) -> bytes | None:
    """What the card is after a save that has this one, or none."""
    with staged(place) as fresh:
        (fresh / "model.safetensors").write_bytes(b"x")
        if card is not None:
            (fresh / CARD).write_bytes(card)
    there = place / CARD
    return there.read_bytes() if there.exists() else None


def test_a_new_card() -> None:
    assert ONE.decode() == (
        "---\nlibrary_name: offramp\n---\n\n"
        "<!-- offramp: begin -->\n## One\n<!-- offramp: end -->\n"
    )


def test_ours_is_renewed_and_goes(tmp_path: Path) -> None:
    place = tmp_path / "model"
    assert save(place, None) is None
    assert save(place, ONE) == ONE
    assert save(place, TWO) == TWO
    assert save(place, None) is None


@pytest.mark.parametrize("own", [OWN, b"\xff\xfe no text \r\n", OWN.rstrip()])
def test_the_owner_s_words_stay(own: bytes, tmp_path: Path) -> None:
    place = tmp_path / "model"
    place.mkdir()
    (place / CARD).write_bytes(own)
    assert save(place, None) == own
    with_one = save(place, ONE)
    assert with_one is not None
    assert with_one.startswith(own)
    assert with_one.endswith(b"\n\n<!-- offramp: begin -->\n## One\n<!-- offramp: end -->\n")
    (place / CARD).write_bytes(with_one + b"\nAfter.\n")
    with_two = save(place, TWO)
    assert with_two == with_one.replace(b"One", b"Two") + b"\nAfter.\n"
    assert b"offramp" not in (save(place, None) or b"")
    assert (place / CARD).read_bytes().split() == (own + b"\nAfter.\n").split()


def test_marks_that_do_not_end_are_words() -> None:
    broken = b"<!-- offramp: begin -->\nwhere does it end\n"
    assert merged_card(broken, None) == broken
    assert merged_card(broken, ONE) == broken + b"\n" + ONE.partition(b"---\n\n")[2]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    place = tmp_path / "model"
    place.mkdir()
    (tmp_path / "elsewhere.md").write_bytes(OWN)
    (place / CARD).symlink_to(tmp_path / "elsewhere.md")
    save(place, None)
    assert (place / CARD).is_symlink()
    assert save(place, ONE) == ONE
    assert (tmp_path / "elsewhere.md").read_bytes() == OWN
