"""The page in Chromium: narrow, wide, dark, on paper, and under a finger."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from browser import Browser
from report_kit import Measured

from offramp.reporting.page import page
from offramp.reporting.trade import stops

WIDEST = "document.scrollingElement.scrollWidth"
OUTSIDE = """
[...document.querySelectorAll('main *, header *, footer *')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width && !e.closest('svg') && (box.right > innerWidth + 0.5 || box.left < -0.5);
}).map(e => e.outerHTML.slice(0, 80))
"""


@pytest.mark.parametrize("width", [320, 360, 600, 601, 860, 861, 1280])
def test_nothing_scrolls_sideways(width: int, browser: Browser, html: Path) -> None:
    browser.open(html, width=width)
    assert browser.run(WIDEST) <= width
    assert browser.run(OUTSIDE) == []


def test_long_words_do_not_scroll_either(
    browser: Browser, values: dict[str, Any], tmp_path: Path
) -> None:
    word = "w" * 60
    rows = [
        {**row, "text": ["t" * 240], "label": word, "answer": word, "full_answer": word + "2"}
        for row in values["examples"]["hardest"]
    ]
    long = {
        **values,
        "model": word,
        "data": word,
        "examples": dict.fromkeys(values["examples"], rows),
    }
    long["machine"] = {**values["machine"], "processor": word}
    (tmp_path / "long.html").write_text(page(long), "utf-8")
    browser.open(tmp_path / "long.html", width=360)
    assert browser.run(WIDEST) <= 360
    assert browser.run(OUTSIDE) == []


def test_it_runs_and_asks_for_nothing(browser: Browser, html: Path) -> None:
    browser.open(html)
    browser.run("document.getElementById('threshold').focus()")
    asked = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [html.resolve().as_uri()]
    said = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert [event for event in browser.events if event["method"] in said] == []
    assert browser.run("window.broken") is None
    assert browser.run("document.querySelectorAll('h1, img').length") == 1


def test_the_policy_stops_another_script(browser: Browser, html: Path, tmp_path: Path) -> None:
    """Were a text to get through as markup after all, nothing of it would run."""
    attack = "<script>window.broken = 1</script><img src=x onerror='window.broken = 2'></body>"
    (tmp_path / "attack.html").write_text(
        html.read_text("utf-8").replace("</body>", attack), "utf-8"
    )
    browser.open(tmp_path / "attack.html")
    assert browser.run("window.broken") is None


SHOWN = """({
  figures: Object.fromEntries([...document.querySelectorAll('[data-figure]')].map(
    e => [e.dataset.figure, e.textContent])),
  shares: [...document.querySelectorAll('[data-share]')].map(e => +e.getAttribute('width')),
  said: [...document.querySelectorAll('[data-said]')].map(e => e.textContent),
  spoken: threshold.getAttribute('aria-valuetext'),
  rings: [...document.querySelectorAll('.stop.on')].map(e => +e.dataset.stop),
})"""


def test_the_slider_moves_through_what_was_measured(
    browser: Browser, html: Path, values: dict[str, Any]
) -> None:
    browser.open(html)
    expected = stops(values)
    seen = []
    browser.run("threshold.focus()")
    for key in ("Home", *["ArrowRight"] * len(expected)):  # the last one has nowhere to go
        for kind in ("keyDown", "keyUp"):
            browser.ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode={"Home": 36}.get(key, 39),
            )
        place = int(browser.run("threshold.value"))
        shown = browser.run(SHOWN)
        assert shown.pop("rings") == [place, place]  # in both sizes of the plot
        assert shown == expected[place]
        seen.append(place)
    assert seen == [*range(len(expected)), len(expected) - 1]


def test_dark_where_it_is_asked_for(browser: Browser, html: Path) -> None:
    grounds = {}
    for scheme in ("light", "dark"):
        browser.open(html, scheme=scheme)
        colours = browser.run(
            "(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))"
        )
        mark = browser.run("getComputedStyle(document.querySelector('.wide .mark.exits')).fill")
        grounds[scheme] = [sum(map(int, re.findall(r"\d+", colour))) for colour in (*colours, mark)]
    light, dark = grounds["light"], grounds["dark"]
    assert light[0] > 700
    assert light[1] < 120
    assert dark[0] < 120
    assert dark[1] > 600
    assert light[2] < dark[2]


def test_on_paper_nothing_is_cut_off(browser: Browser, html: Path) -> None:
    browser.open(html)
    made = browser.pdf()
    sizes = re.findall(rb"/MediaBox \[([\d. ]+)\]", made)
    assert {tuple(round(float(x)) for x in size.split()) for size in sizes} == {(0, 0, 595, 842)}
    assert 2 <= len(re.findall(rb"/Type /Page\b", made)) <= 8
    # As wide as A4 without its margins: 182 mm at 96 px an inch.
    browser.open(html, width=688, media="print", scheme="dark")
    assert browser.run(WIDEST) <= 688
    assert browser.run(OUTSIDE) == []
    assert browser.run("getComputedStyle(document.querySelector('.choose')).display") == "none"
    assert browser.run("getComputedStyle(document.querySelector('h1')).color") == "rgb(0, 0, 0)"
    assert (
        browser.run("getComputedStyle(document.querySelector('.plot')).getPropertyValue('--ink')")
        == "#000"
    )


def test_what_a_screen_reader_is_told(browser: Browser, html: Path) -> None:
    browser.open(html)
    nodes = browser.ask("Accessibility.getFullAXTree")["nodes"]
    found: dict[str, list[str]] = {}
    for node in nodes:
        if not node.get("ignored"):
            found.setdefault(node["role"]["value"], []).append(
                node.get("name", {}).get("value", "")
            )
    assert found["slider"] == ["Move through what was measured"]
    pictures = found.get("image", []) + found.get("img", [])
    assert len(pictures) == 1 + 4
    assert pictures[0].startswith("Accuracy against wall clock")
    assert {"banner", "main", "contentinfo"} <= found.keys()
    assert len(found["table"]) == 6  # where rows leave, systems, exits, three kinds of rows
    assert all(found["region"])


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_other_kinds_run_too(
    kind: str, browser: Browser, measured: Callable[[str], Measured], tmp_path: Path
) -> None:
    (tmp_path / "page.html").write_text(page(measured(kind).report.to_dict()), "utf-8")
    browser.open(tmp_path / "page.html", width=360)
    assert browser.run(WIDEST) <= 360
    assert browser.run("document.querySelector('.choose').hidden") is False


def test_without_a_script_it_is_readable(browser: Browser, html: Path) -> None:
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(html)
        words = browser.ask("Accessibility.getFullAXTree")["nodes"]
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)
    roles = {node["role"]["value"] for node in words if not node.get("ignored")}
    assert "slider" not in roles
    assert "table" in roles
