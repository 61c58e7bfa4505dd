"""HTML and SVG in which all text is escaped, unless it is markup that was made here."""

from __future__ import annotations

import html
import json
from typing import Any

_VOID = frozenset({"br", "input", "link", "meta"})


class Markup(str):
    """Text that is markup already. Only this module makes it of strings."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Children are escaped unless they are `Markup`; None is left out.

    `class_` is `class`, and any other `_` a hyphen; an attribute that is True has no value, one
    that is None or False is left out.
    """
    opened = name + "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{opened}>")
    return Markup(f"<{opened}>{join(*children)}</{name}>")


def join(*children: object) -> Markup:
    """Pieces one after another."""
    return Markup("".join(_escaped(child) for child in children if child is not None))


def document(head: Markup, body: Markup) -> str:
    """A whole page."""
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def style(rules: str) -> Markup:
    """Rules of our own, which are no text to escape."""
    return Markup(f"<style>{rules}</style>")


def script(code: str) -> Markup:
    """A script of our own."""
    return Markup(f"<script>{code}</script>")


def data(values: Any, *, id: str) -> Markup:
    """JSON for a script to read; no text in it can end the element or begin a comment."""
    text = json.dumps(values, allow_nan=False).replace("<", "\\u003c").replace(">", "\\u003e")
    return Markup(f'<script type="application/json" id="{html.escape(id)}">{text}</script>')


def _attribute(key: str, value: object) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'


def _escaped(child: object) -> str:
    return child if isinstance(child, Markup) else html.escape(str(child))
