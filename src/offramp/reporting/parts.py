"""What several sections of the page are made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from offramp.reporting.markup import Markup, join, tag


def section(name: str, title: str, *children: object) -> Markup:
    """A landmark with its heading."""
    return tag("section", tag("h2", title, id=name), join(*children), aria_labelledby=name)


def table(
    heads: Sequence[str | None],
    rows: Iterable[Markup],
    class_: str,
    caption: object = None,
) -> Markup:
    """A table of `rows`, which are `tr`; a column of pictures has no head (None)."""
    top = (tag("td") if words is None else tag("th", words, scope="col") for words in heads)
    return tag(
        "table",
        None if caption is None else tag("caption", caption),
        tag("thead", tag("tr", *top)),
        tag("tbody", *rows),
        class_=class_,
    )


def bar(share: float, **attributes: object) -> Markup:
    """A bar as long as so many hundredths of its cell; SVG, as a background is not printed."""
    return tag(
        "svg",
        tag("rect", width=100, height=10, class_="rail"),
        tag("rect", width=round(share, 2), height=10, class_="fill", **attributes),
        class_="bar",
        viewBox="0 0 100 10",
        preserveAspectRatio="none",
    )
