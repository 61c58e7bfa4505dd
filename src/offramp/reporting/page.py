"""The page: one file of HTML from the report's JSON, with all that it needs inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from offramp.reporting import exits, sections
from offramp.reporting.markup import data, document, script, style, tag
from offramp.reporting.trade import headline, stops, trade


def page(values: Mapping[str, Any]) -> str:
    """What `Report.to_dict` gave, as HTML.

    Nothing in the values is taken for markup, and the page's policy lets no script run but ours.
    """
    code = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
        f"script-src 'sha256-{digest}'"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),  # or the browser would ask a server for one
        tag("title", f"{values['model']}: {headline(values)}"),
        style(_file("page.css") + plot_style()),
    )
    body = tag(
        "body",
        tag("a", "Skip to the figures", class_="skip", href="#main"),
        sections.opening(values),
        tag(
            "main",
            trade(values),
            sections.everything(values),
            exits.ramps(values),
            exits.examples(values),
            sections.certificate(values),
            sections.how(values),
            id="main",
        ),
        sections.closing(values),
        data({"stops": stops(values)}, id="measured"),
        script(code),
    )
    return document(head, body)


def plot_style() -> str:
    """The rules of the plot alone, which it needs outside a page too."""
    return _file("plot.css")


def _file(name: str) -> str:
    return resources.files("offramp.reporting").joinpath(name).read_text(encoding="utf-8")
