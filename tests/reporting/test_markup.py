"""No text becomes markup."""

import json
from html.parser import HTMLParser

import pytest
from report_kit import HOSTILE

from offramp.reporting.markup import Markup, data, document, join, tag


class Seen(HTMLParser):
    """The elements, attributes and text that a parser finds."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: dict[str, str | None] = {}
        self.text = ""
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= dict(attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("text", HOSTILE)
def test_text_stays_text(text: str) -> None:
    seen = Seen(tag("p", text, tag("b", text), title=text, data_said=text))
    assert seen.tags == ["p", "b"]
    assert seen.text == text + text
    assert seen.attributes == {"title": text, "data-said": text}


@pytest.mark.parametrize("text", HOSTILE)
def test_json_is_read_back_and_ends_nothing(text: str) -> None:
    element = data({"texts": [text]}, id="measured")
    inside = element.removeprefix('<script type="application/json" id="measured">')
    inside = inside.removesuffix("</script>")
    assert "<" not in inside
    assert json.loads(inside) == {"texts": [text]}


def test_an_element_by_hand() -> None:
    made = tag("input", type="range", hidden=True, value=0, max=None, class_="a", disabled=False)
    assert made == '<input type="range" hidden value="0" class="a">'
    assert tag("p", 1.5, None, Markup("<br>"), " & ") == "<p>1.5<br> &amp; </p>"
    assert join("<", tag("b")) == "&lt;<b></b>"
    assert document(tag("head"), tag("body")).startswith("<!doctype html>\n<html lang=")
