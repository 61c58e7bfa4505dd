"""The rest of the page, section by section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from offramp.reporting.markup import Markup, join, tag
from offramp.reporting.trade import bar, chosen, headline
from offramp.reporting.wording import (
    MEASURES,
    TIMES,
    cost,
    interval,
    layers,
    points,
    score,
    speed_interval,
    threshold_of,
    times,
)

Values = Mapping[str, Any]


def opening(values: Values) -> Markup:
    """The headline, and what it rests on."""
    one, measure = chosen(values), MEASURES[values["measure"]]
    plain = next(system for system in values["systems"] if system["kind"] == "plain")
    ours, full = (score(system["scores"][values["measure"]]) for system in (one, plain))
    lost, low, high = one["lost"]
    sure = ", which these rows cannot tell from none" if low <= 0 <= high else ""
    by = "At threshold" if one["threshold"] is not None else "By"
    lead = (
        f"{by} {threshold_of(one)} a row takes {layers(one['mean_layers'])} of "
        f"{values['depths'][-1]} layers on average. The {measure} is {ours}, and {full} "
        f"with all layers: a loss of {points(lost)} points, 95% interval "
        f"{interval(points(low), points(high))}{sure}."
    )
    return tag(
        "header",
        tag("p", "offramp report", class_="eyebrow"),
        tag("h1", headline(values)),
        tag("p", lead, class_="lead"),
        tag(
            "p",
            "Model ",
            tag("b", values["model"]),
            ", data ",
            tag("b", values["data"]),
            ", measured ",
            tag("b", values["date"]),
            class_="note",
        ),
    )


def everything(values: Values) -> Markup:
    """Every system with its numbers: the table that says what the plot draws."""
    price = values["price_per_hour"]
    money = "hours of this machine" if price is None else f"at {price:g} an hour of this machine"
    measure = MEASURES[values["measure"]]
    rows = [_system(system, values) for system in values["systems"]]
    heads = (
        ("System", None),
        ("As fast as plain", None),
        (measure.capitalize(), None),
        ("Points lost", None),
        ("Layers", "spare"),
        ("A million texts", None),
    )
    return _section(
        "everything",
        "Every system, and what a million texts cost",
        tag(
            "p",
            f"The cost is wall clock on texts that are encoded already, {money}. Small figures are "
            f"95% intervals{_of_speeds(values)}.",
        ),
        tag(
            "table",
            tag(
                "thead",
                tag("tr", *(tag("th", words, scope="col", class_=name) for words, name in heads)),
            ),
            tag("tbody", *rows),
            class_="systems",
        ),
        _peers(values),
    )


def _system(system: Values, values: Values) -> Markup:
    speed, (lost, low, high) = system["speed"], system["lost"]
    plain = system["kind"] == "plain"
    spread = None if plain else tag("small", speed_interval(speed))
    ends = (
        None
        if system["kind"] in ("plain", "peer")
        else tag("small", interval(points(low), points(high)))
    )
    return tag(
        "tr",
        tag("th", system["name"], " (chosen)" if system["chosen"] else None, scope="row"),
        tag("td", times(speed["median"]), TIMES, spread),
        tag("td", score(system["scores"][values["measure"]])),
        tag("td", points(lost), ends),
        tag("td", layers(system["mean_layers"]), class_="spare"),
        tag("td", cost(system["seconds_per_million"], values["price_per_hour"])),
        class_="chosen" if system["chosen"] else None,
    )


def _of_speeds(values: Values) -> str:
    """With fewer than six rounds no ranks of theirs give an interval."""
    few = values["rounds"] < 6
    return f"; of speeds, the range of {values['rounds']} rounds" if few else ""


def _peers(values: Values) -> Markup | None:
    difference = values["transformers_difference"]
    if difference is None:
        return None
    return tag(
        "p",
        "transformers ran the same weights in padded batches of 32, rows in the file's order or "
        f"sorted by length. Its logits are the plain model's to within {difference:.0e}, and so is "
        "its score.",
        class_="note",
    )


def ramps(values: Values) -> Markup:
    """What each exit would score if all rows left there, and whether it knows how sure to be."""
    measure, ramps = values["measure"], values["ramps"]
    reliable = [ramp for ramp in ramps if ramp["reliability"] is not None]
    rows = []
    for ramp in ramps:
        value = ramp["scores"][measure]
        ece = "" if ramp["reliability"] is None else f"{ramp['reliability']['ece']:.3f}"
        rows.append(
            tag(
                "tr",
                tag("th", ramp["depth"], scope="row"),
                tag("td", bar(100 * max(value, 0.0)), aria_hidden="true"),
                tag("td", score(value)),
                tag("td", ece) if reliable else None,
            )
        )
    said = "Each exit answers all rows here."
    if reliable:
        said += (
            " An exit is reliable where answers that it gives with probability p are right p of "
            "the time: on the diagonal. Below it the exit is too sure. The expected calibration "
            "error is the mean distance from it."
        )
    heads = ["Layer", None, MEASURES[measure].capitalize()]
    return _section(
        "ramps",
        "Exit by exit",
        tag("p", said),
        tag("div", *(_diagram(ramp, measure) for ramp in reliable), class_="multiples")
        if reliable
        else None,
        tag(
            "table",
            tag("caption", "Score by exit"),
            tag(
                "thead",
                tag(
                    "tr",
                    *(
                        tag("td") if words is None else tag("th", words, scope="col")
                        for words in heads
                    ),
                    tag("th", "Calibration error", scope="col") if reliable else None,
                ),
            ),
            tag("tbody", *rows),
            class_="bars",
        ),
    )


def _diagram(ramp: Values, measure: str) -> Markup:
    """A reliability diagram, 120 px a side, whose marks are as large as their bins are full."""
    depth, reliability = ramp["depth"], ramp["reliability"]
    most = max(one["rows"] for one in reliability["bins"])
    marks = [
        tag(
            "circle",
            class_="bin",
            cx=f"{120 * one['probability']:.1f}",
            cy=f"{120 - 120 * one['right']:.1f}",
            r=f"{2.5 + 6 * (one['rows'] / most) ** 0.5:.1f}",
        )
        for one in reliability["bins"]
    ]
    each = " ".join(
        f"Probability {one['probability']:.2f}: {one['rows']} answers, {one['right']:.2f} right."
        for one in reliability["bins"]
    )
    name = f"layer-{depth}"
    return tag(
        "figure",
        tag(
            "figcaption",
            tag("b", f"Layer {depth}"),
            tag("span", f"{score(ramp['scores'][measure])} {MEASURES[measure]}"),
        ),
        tag(
            "svg",
            tag("title", f"Reliability of the exit after layer {depth}", id=f"{name}-title"),
            tag("desc", each, id=f"{name}-desc"),
            tag("rect", class_="frame", width=120, height=120),
            tag("line", class_="diagonal", x1=0, y1=120, x2=120, y2=0),
            *marks,
            tag("text", "0", class_="tick", x=-4, y=134, text_anchor="end"),
            tag("text", "1", class_="tick", x=120, y=134, text_anchor="middle"),
            tag("text", "1", class_="tick", x=-6, y=6, text_anchor="end"),
            tag("text", "probability", class_="tick", x=60, y=136, text_anchor="middle"),
            tag(
                "text",
                "right",
                class_="tick",
                transform="translate(-8 60) rotate(-90)",
                text_anchor="middle",
            ),
            viewBox="-22 -10 154 156",
            role="img",
            aria_labelledby=f"{name}-title {name}-desc",
        ),
    )


def examples(values: Values) -> Markup:
    """Rows to look at."""
    numbers = values["kind"] == "regression"
    found = values["examples"]
    kinds = (
        (
            "easiest",
            "Easiest",
            "The first to leave with the right answer."
            if not numbers
            else "The first to leave with a number that is near.",
        ),
        (
            "hardest",
            "Hardest",
            "The last to leave" + (", furthest off first." if numbers else ", least sure first."),
        ),
        (
            "wrong",
            "Furthest off" if numbers else "Wrong",
            "" if numbers else "The surest of the wrong answers.",
        ),
    )
    tables = (_examples(title, words, found[name]) for name, title, words in kinds if found[name])
    return _section("examples", "Rows to look at", *tables)


def _examples(title: str, words: str, rows: Sequence[Values]) -> Markup:
    return tag(
        "table",
        tag("caption", tag("b", title), f" {words}"),
        tag(
            "thead",
            tag("tr", *(tag("th", head, scope="col") for head in ("Text", "Answer", "Layer"))),
        ),
        tag("tbody", *map(_example, rows)),
        class_="examples",
    )


def _example(row: Values) -> Markup:
    probability = row["probability"]
    apart = []
    if row["answer"] != row["label"]:
        apart.append(tag("small", "label ", row["label"]))
    if row["full_answer"] != row["answer"]:
        apart.append(tag("small", "all layers say ", row["full_answer"]))
    return tag(
        "tr",
        tag("td", *(tag("p", part, dir="auto") for part in row["text"])),
        tag(
            "td",
            row["answer"],
            None if probability is None else tag("small", f"probability {probability:.3f}"),
            *apart,
        ),
        tag("td", row["exit_layer"]),
    )


CERTIFIED = (
    ("method", "Method"),
    ("risk", "Risk"),
    ("max_risk", "At most"),
    ("confidence", "With probability"),
    ("rows", "Rows calibrated on"),
    ("found_risk", "Risk found on them"),
    ("bound", "Upper bound"),
    ("date", "Date"),
    ("data", "SHA-256 of the rows"),
    ("weights", "SHA-256 of the weights"),
)


def certificate(values: Values) -> Markup:
    """What is proved of the exits, or how to have something proved."""
    proved = values["certificate"]
    if proved is None:
        return _section(
            "certificate",
            "No certificate",
            tag(
                "p",
                "Nothing bounds what these exits lose on other rows: the figures above are of "
                "the rows measured. To have a bound that holds with a stated probability, "
                "calibrate the model on labelled rows that it never saw:",
            ),
            tag(
                "pre",
                tag(
                    "code", "offramp calibrate MODEL --data ROWS --max-loss 0.01 --confidence 0.95"
                ),
            ),
        )
    of = (
        ""
        if proved["is_of_chosen"]
        else (
            " It is of the criterion that the model was saved with, and not of the one chosen here."
        )
    )
    rows = [
        (words, f"{proved[key]:g}" if isinstance(proved[key], float) else proved[key])
        for key, words in CERTIFIED
        if proved.get(key) is not None
    ]
    title = "Certificate" if proved["guarantees"] else "A calibration that guarantees nothing"
    return _section(
        "certificate",
        title,
        tag("p", proved["sentence"][:1].upper(), proved["sentence"][1:], ".", of),
        _facts(rows),
    )


def how(values: Values) -> Markup:
    """Machine, versions, and the way of measuring."""
    peer = ", transformers" if values["transformers_difference"] is not None else ""
    return _section(
        "how",
        "How it was measured",
        tag(
            "p",
            f"Scores are over all {values['rows']:,} rows. Speeds are over "
            f"{values['timed_rows']:,} of them, picked by a fixed seed; the plain model, exits, "
            f"cut-off models{peer} ran in turn in each of {values['rounds']} rounds, and a speed "
            "is the median of the rounds' ratios. Another machine gives other speeds.",
        ),
        _facts(
            [
                (str(name).capitalize(), value)
                for name, value in values["machine"].items()
                if value is not None
            ]
        ),
    )


def closing(values: Values) -> Markup:
    """Whose work it is."""
    version = values["machine"].get("offramp", "")
    return tag(
        "footer",
        tag(
            "p",
            f"Made by offramp {version}. This page needs no network; its "
            "numbers are in the JSON file beside it.",
        ),
    )


def _facts(rows: Sequence[tuple[str, object]]) -> Markup:
    return tag(
        "dl",
        *(tag("div", tag("dt", words), tag("dd", value)) for words, value in rows),
        class_="facts",
    )


def _section(name: str, title: str, *children: object) -> Markup:
    return tag("section", tag("h2", title, id=name), join(*children), aria_labelledby=name)
