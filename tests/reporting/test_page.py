"""The page as text: whole, small, closed to the network, and with every text as text."""

import copy
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from importlib import resources
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from report_kit import HOSTILE, Measured

from offramp.reporting.answers import Said
from offramp.reporting.examples import examples
from offramp.reporting.page import page, plot_style
from offramp.reporting.plot import standalone
from offramp.reporting.trade import headline, stops

VOID = {"meta", "link", "input", "br"}


class Outline(HTMLParser):
    """Elements in their order, checked to be closed in theirs; text by element."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(markup)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def outline(values: dict[str, Any]) -> Outline:
    return Outline(page(values))


def test_every_text_is_text(values: dict[str, Any], outline: Outline) -> None:
    assert [a.get("type") for a in outline.all("script")] == ["application/json", None]
    assert not outline.all("img")
    assert len(outline.all("h1")) == 1
    assert not [a for _, a in outline.found if any(name.startswith("on") for name in a)]
    texts = "".join(text for _, text in outline.texts)
    shown = [row for rows in values["examples"].values() for row in rows]
    assert len(shown) > 10
    for row in shown:
        assert "".join(row["text"]) in texts
    assert sum(hostile in texts for hostile in HOSTILE) > 3


def test_nothing_is_asked_of_a_network(values: dict[str, Any], outline: Outline) -> None:
    made = page(values)
    assert not re.findall(r"https?://|//\w+\.\w", made.replace("http://www.w3.org/2000/svg", ""))
    assert not re.findall(r"@import|url\(|fetch\(|XMLHttpRequest|WebSocket", made)
    assert not [a for _, a in outline.found if "src" in a]
    assert [a.get("href") for _, a in outline.found if "href" in a] == ["data:,", "#main"]
    policy = next(a["content"] for a in outline.all("meta") if "http-equiv" in a) or ""
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy.split("script-src")[1]


def test_ten_thousand_letters_a_text_stay_below_300_kb(values: dict[str, Any]) -> None:
    """The largest page: texts of any length, names of any length, 48 layers, 40 thresholds."""
    long = [f"{i}" + "<&\u4e2d" * 3_334 for i in range(60)]
    one = values["ramps"][0]
    fast = Said(long, torch.linspace(0.4, 1, 60), torch.arange(60) % 2 * 1.0, None)
    found = examples([(text, text) for text in long], long, fast, fast, [i % 48 for i in range(60)])
    many = copy.deepcopy(values)
    many["examples"] = json.loads(
        json.dumps({k: [vars(r) for r in v] for k, v in vars(found).items()})
    )
    many["depths"] = list(range(1, 49))
    many["ramps"] = [{**one, "depth": depth} for depth in many["depths"]]
    exits = next(system for system in values["systems"] if system["chosen"])
    others = [
        {**exits, "chosen": False, "left": [1] * 48, "mean_layers": i + 0.5} for i in range(40)
    ]
    without = [system for system in values["systems"] if system["kind"] != "exits"]
    many["systems"] = [*without, {**exits, "left": [1] * 48}, *others]
    made = page(many)
    assert len(made.encode()) < 300_000
    assert "…" in made
    assert "中" * 300 not in made


def test_it_says_the_same_without_a_script(values: dict[str, Any], outline: Outline) -> None:
    """The chosen threshold's figures are in the page; the slider alone waits for the script."""
    place = next(i for i, s in enumerate(stops(values)) if "(chosen)" in s["figures"]["at"])
    stop = stops(values)[place]
    made = page(values)
    for name, words in stop["figures"].items():
        assert re.search(rf'data-figure="{name}">{re.escape(words)}<', made), name
    widths = [a["width"] for a in outline.all("rect") if "data-share" in a]
    assert [float(width or 0) for width in widths] == stop["shares"]
    slider = outline.all("input")[0]
    assert (slider["min"], slider["max"], slider["value"]) == ("0", "6", str(place))
    assert slider["aria-valuetext"] == stop["spoken"]


def test_stops_are_what_was_measured(values: dict[str, Any]) -> None:
    exits = [s for s in values["systems"] if s["kind"] == "exits"]
    made = stops(values)
    assert len(made) == len(exits)
    for stop in made:
        assert sum(stop["shares"]) == pytest.approx(100, abs=0.05)
    layers = [float(stop["figures"]["layers"]) for stop in made]
    assert layers == sorted(layers, reverse=True)


@pytest.mark.parametrize(
    ("lost", "speed", "said"),
    [
        (0.238, 2.0949, "2.09 times as fast, for 0.24 points of accuracy"),
        (-0.4, 12.34, "12.3 times as fast, with no loss of accuracy on 60 rows"),
        (0.0, 0.97, "0.97 times as fast, with no loss of accuracy on 60 rows"),
        (0.004, 123.4, "123 times as fast, with no loss of accuracy on 60 rows"),
    ],
)
def test_headlines(lost: float, speed: float, said: str, values: dict[str, Any]) -> None:
    changed = copy.deepcopy(values)
    chosen = next(system for system in changed["systems"] if system["chosen"])
    chosen["lost"], chosen["speed"]["median"] = [lost, -1, 1], speed
    assert headline(changed) == said
    assert said in page(changed)


def test_a_criterion_without_a_threshold_of_the_kind(values: dict[str, Any]) -> None:
    by = {"threshold": None, "name": "exits by Patience(patience=2)"}
    systems = [{**s, **(by if s["chosen"] else {})} for s in values["systems"]]
    made = page({**values, "systems": systems})
    assert "By Patience(patience=2) a row takes" in made
    assert ">Patience(patience=2) (chosen)<" in made


@pytest.mark.parametrize(
    ("score", "speed", "better"),
    [(0.9, 3.0, True), (0.8, 3.0, True), (0.79, 3.0, False), (1.0, 2.0, False)],
)
def test_it_says_where_the_first_layers_alone_are_better(
    score: float, speed: float, better: bool, values: dict[str, Any]
) -> None:
    systems = copy.deepcopy(values["systems"])
    for system in systems:
        of_two = system["kind"] == "truncated" and system["mean_layers"] == 2
        system["scores"]["accuracy"] = score if of_two else 0.8 if system["chosen"] else 0.5
        system["speed"]["median"] = speed if of_two else 2.0
    words = "On these rows the first 2 layers alone do as well, and are 3.00 times as fast."
    assert (words in page({**values, "systems": systems})) == better


def test_a_price(values: dict[str, Any]) -> None:
    changed = {**values, "price_per_hour": 3.6}
    plain = next(s for s in values["systems"] if s["kind"] == "plain")
    plain = {**plain, "seconds_per_million": 2000.0}
    changed["systems"] = [plain, *(s for s in values["systems"] if s["kind"] != "plain")]
    assert "at 3.6 an hour of this machine" in page(changed)
    assert "; 2 without exits" in page(changed)
    made = page({**changed, "price_per_hour": None})
    assert "; 0.56\N{NARROW NO-BREAK SPACE}h without exits" in made


def test_certificates(values: dict[str, Any]) -> None:
    assert "offramp calibrate" in page(values)
    certificate = {
        "method": "ltt",
        "max_risk": 0.01,
        "confidence": 0.95,
        "rows": 1000,
        "sentence": "disagreement of at most 0.01 with probability 0.95",
        "guarantees": True,
        "is_of_chosen": True,
    }
    made = page({**values, "certificate": certificate})
    assert "Disagreement of at most 0.01 with probability 0.95." in made
    assert "offramp calibrate" not in made
    assert "not of the one here" not in made
    made = page({**values, "certificate": {**certificate, "is_of_chosen": False}})
    assert "not of the one here" in made
    made = page({**values, "certificate": {**certificate, "guarantees": False}})
    assert "guarantees nothing" in made


def test_peers_and_those_that_are_not_there(values: dict[str, Any]) -> None:
    plain = next(system for system in values["systems"] if system["kind"] == "plain")

    def made(*names: str, **more: Any) -> str:
        peers = [
            {**plain, "name": name, "kind": "peer", "speed": dict.fromkeys(plain["speed"], 0.1 * n)}
            for n, name in enumerate(names, start=2)
        ]
        systems = [*values["systems"], *peers]
        outline = Outline(page({**values, "systems": systems, **more}))
        return " ".join(text for _, text in outline.texts)

    both = "transformers, file order", "transformers, sorted"
    one = made(*both, transformers_difference=2e-6)
    assert "transformers ran the same weights" in one
    assert "; transformers in the file's order too. Its logits are the plain model's to" in one
    assert " file order " in one  # the mark's label; the legend has the name
    engines = {"ONNX Runtime, sorted": 3e-6, "CTranslate2, sorted": 1e-6}
    why = {"Other, sorted": "It failed: ValueError: <no>."}
    three = made(
        *both, *engines, transformers_difference=2e-6, peer_differences=engines, absent=why
    )
    assert "transformers, ONNX Runtime and CTranslate2 ran the same weights" in three
    assert "Their logits are the plain model's to within 3e-06" in three
    assert "cut-off models, transformers, ONNX Runtime and CTranslate2 ran in turn" in three
    assert "Other is not here. It failed: ValueError: <no>." in three
    assert " transformers, ONNX Runtime and CTranslate2 " in three  # in the legend
    assert "ran the same weights" not in made()


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_other_kinds_have_a_page(kind: str, measured: Callable[[str], Measured]) -> None:
    values = measured(kind).report.to_dict()
    texts = "".join(text for _, text in Outline(page(values)).texts)
    assert headline(values) in texts
    assert ("Pearson correlation" if kind == "regression" else "Micro F1") in texts
    assert ("reliable" in texts) == (kind != "regression")


def test_pictures_are_labelled(outline: Outline) -> None:
    ids = [a["id"] for _, a in outline.found if "id" in a]
    assert len(ids) == len(set(ids))
    pictures = [a for a in outline.all("svg") if a.get("role") == "img"]
    assert len(pictures) == 2 + 4  # two sizes of the plot, and a diagram an exit
    for attributes in pictures:
        assert set((attributes["aria-labelledby"] or "").split()) <= set(ids)
    for name in ("section",):
        assert all(a["aria-labelledby"] in ids for a in outline.all(name))
    assert [a["for"] for a in outline.all("label")] == ["threshold"]
    for landmark in ("header", "main", "footer"):
        assert len(outline.all(landmark)) == 1


def test_the_plot_is_a_file_of_its_own_too(values: dict[str, Any]) -> None:
    root = ElementTree.fromstring(standalone(values, plot_style()))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(root.findall(".//{*}g[@data-stop]")) == 7


def test_one_row_of_one_threshold(values: dict[str, Any]) -> None:
    """All marks at one place: nothing divides by their distance."""
    plain = next(s for s in values["systems"] if s["kind"] == "plain")
    chosen = next(s for s in values["systems"] if s["chosen"])
    same = {**chosen, "speed": plain["speed"], "scores": plain["scores"]}
    assert "<svg" in page({**values, "systems": [plain, same]})


SCHEMES = re.findall(
    r"--ink: (#\w+); --quiet: (#\w+); --rule: #\w+; --ground: (#\w+); --accent: (#\w+);\s*"
    r"(?:--wash: (#\w+))?",
    resources.files("offramp.reporting").joinpath("page.css").read_text("utf-8"),
)


def test_text_stands_out() -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1, for text in light, dark and print."""
    assert len(SCHEMES) == 3
    for ink, quiet, ground, accent, wash in SCHEMES:
        for under in filter(None, (ground, wash)):
            for over in (ink, quiet, accent):
                assert contrast(over, under) >= 4.5, (over, under)


def contrast(one: str, two: str) -> float:
    low, high = sorted(map(luminance, (one, two)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_the_plot_has_the_page_s_colours() -> None:
    """It has its own copy, so that it can stand alone."""
    colours = re.findall(r"--ink:.*?--accent: #\w+", plot_style())
    css = resources.files("offramp.reporting").joinpath("page.css").read_text("utf-8")
    assert len(colours) == 3
    assert all(line in css for line in colours)
