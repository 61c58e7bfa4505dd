"""The page's sections on each exit and on single rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offramp.exits.criteria.task import REGRESSION
from offramp.reporting.markup import Markup, join, tag
from offramp.reporting.parts import bar, section, table
from offramp.reporting.wording import MEASURES, capital, score

Values = Mapping[str, Any]

RELIABLE = (
    " An exit is reliable where answers that it gives with probability p are right p of the time: "
    "on the diagonal. Below it the exit is too sure. The expected calibration error is the mean "
    "distance from it."
)
SIDE = 120  # px of a reliability diagram

ROWS_OF_CLASSES = {
    "easiest": ("Easiest", "The first to leave with the right answer, the surest first."),
    "hardest": ("Hardest", "The last to leave, the least sure first."),
    "wrong": ("Wrong", "The surest of the wrong answers."),
}
ROWS_OF_NUMBERS = {
    "easiest": ("Easiest", "The first to leave with a number that is near."),
    "hardest": ("Hardest", "The last to leave, the furthest off first."),
    "wrong": ("Furthest off", "Wherever they left."),
}


def ramps(values: Values) -> Markup:
    """What each exit would score if all rows left there, and whether it knows how sure to be."""
    measure, ramps = values["measure"], values["ramps"]
    reliable = [ramp for ramp in ramps if ramp["reliability"] is not None]
    heads = ["Layer", None, capital(MEASURES[measure])]
    return section(
        "ramps",
        "Exit by exit",
        tag("p", "Each exit answers all rows here.", RELIABLE if reliable else None),
        tag("div", *map(_diagram, reliable), class_="multiples") if reliable else None,
        table(
            [*heads, "Calibration error"] if reliable else heads,
            (_ramp(ramp, measure) for ramp in ramps),
            "bars",
            "Score by exit",
        ),
    )


def _ramp(ramp: Values, measure: str) -> Markup:
    value, reliability = ramp["scores"][measure], ramp["reliability"]
    return tag(
        "tr",
        tag("th", ramp["depth"], scope="row"),
        tag("td", bar(100 * max(value, 0.0)), aria_hidden="true"),
        tag("td", score(value)),
        None if reliability is None else tag("td", score(reliability["ece"])),
    )


def _diagram(ramp: Values) -> Markup:
    """A reliability diagram; the fuller a bin, the larger its mark."""
    bins, name = ramp["reliability"]["bins"], f"layer-{ramp['depth']}"
    most = max(one["rows"] for one in bins)
    marks = (
        tag(
            "circle",
            class_="bin",
            cx=f"{SIDE * one['probability']:.1f}",
            cy=f"{SIDE * (1 - one['right']):.1f}",
            r=f"{2.5 + 6 * (one['rows'] / most) ** 0.5:.1f}",
        )
        for one in bins
    )
    said = " ".join(
        f"Probability {one['probability']:.2f}: {one['rows']} answers, {one['right']:.2f} right."
        for one in bins
    )
    drawn = tag(
        "svg",
        tag("title", f"Reliability of the exit after layer {ramp['depth']}", id=f"{name}-title"),
        tag("desc", said, id=f"{name}-desc"),
        tag("rect", class_="frame", width=SIDE, height=SIDE),
        tag("line", class_="diagonal", x1=0, y1=SIDE, x2=SIDE, y2=0),
        *marks,
        _scale(),
        viewBox=f"-22 -10 {SIDE + 34} {SIDE + 36}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )
    error = f"error {score(ramp['reliability']['ece'])}"
    return tag("figure", tag("figcaption", tag("b", f"Layer {ramp['depth']}"), error), drawn)


def _scale() -> Markup:
    """0 and 1, and what lies along the sides."""
    below, half = SIDE + 15, SIDE / 2
    return join(
        tag("text", "0", class_="tick", x=-4, y=below, text_anchor="end"),
        tag("text", "1", class_="tick", x=SIDE, y=below, text_anchor="middle"),
        tag("text", "1", class_="tick", x=-6, y=6, text_anchor="end"),
        tag("text", "probability", class_="tick", x=half, y=below, text_anchor="middle"),
        tag("text", "right", class_="tick", text_anchor="middle",
            transform=f"translate(-8 {half}) rotate(-90)"),
    )  # fmt: skip


def examples(values: Values) -> Markup:
    """Rows to look at."""
    titles = ROWS_OF_NUMBERS if values["kind"] == REGRESSION else ROWS_OF_CLASSES
    found = values["examples"]
    tables = (
        table(
            ("Text", "Answer", "Layer"),
            map(_example, found[name]),
            "examples",
            join(tag("b", title), " ", words),
        )
        for name, (title, words) in titles.items()
        if found[name]
    )
    return section("examples", "Rows to look at", *tables)


def _example(row: Values) -> Markup:
    said: list[Markup] = []
    if row["probability"] is not None:
        said.append(tag("small", f"probability {row['probability']:.3f}"))
    if row["answer"] != row["label"]:
        said.append(tag("small", "label ", row["label"]))
    if row["full_answer"] != row["answer"]:
        said.append(tag("small", "all layers say ", row["full_answer"]))
    return tag(
        "tr",
        tag("td", *(tag("p", part, dir="auto") for part in row["text"])),
        tag("td", row["answer"], *said),
        tag("td", row["exit_layer"]),
    )
