"""The page's words: its opening, the table of systems, the certificate, and how it was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from offramp.exits.calibration.certificate import FACTS
from offramp.reporting.markup import Markup, join, tag
from offramp.reporting.parts import section, table
from offramp.reporting.trade import chosen, headline
from offramp.reporting.wording import (
    MEASURES,
    TIMES,
    capital,
    cost,
    interval,
    layers,
    listed,
    points,
    score,
    speed_interval,
    system_of,
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
    ends = f"95% interval {interval(points(low), points(high))}"
    if low == high == 0:  # an interval from a spread of nothing says nothing
        ends = "as no row was lost or won"
    elif low <= 0 <= high:
        ends += ", which these rows cannot tell from none"
    by = "At threshold" if one["threshold"] is not None else "By"
    lead = (
        f"{by} {threshold_of(one)} a row takes {layers(one['mean_layers'])} of "
        f"{values['depths'][-1]} layers on average. The {measure} is {ours}, and {full} "
        f"with all layers: a loss of {points(lost)} points, {ends}."
    )
    return tag(
        "header",
        tag("p", "offramp report", class_="eyebrow"),
        tag("h1", headline(values)),
        tag("p", lead, _cut_off(values), class_="lead"),
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


def _cut_off(values: Values) -> str | None:
    """That exits are not worth having on these rows, where the first layers alone are better."""
    one, measure = chosen(values), values["measure"]
    better = [
        system
        for system in values["systems"]
        if system["kind"] == "truncated"
        and system["scores"][measure] >= one["scores"][measure]
        and system["speed"]["median"] > one["speed"]["median"]
    ]
    if not better:
        return None
    best = max(better, key=lambda system: float(system["speed"]["median"]))
    return (
        f" On these rows the first {layers(best['mean_layers'])} layers alone do as well, and are "
        f"{times(best['speed']['median'])} times as fast."
    )


def everything(values: Values) -> Markup:
    """Every system with its numbers: the table that says what the plot draws."""
    price = values["price_per_hour"]
    money = "hours of this machine" if price is None else f"at {price:g} an hour of this machine"
    measure = capital(MEASURES[values["measure"]])
    heads = ("System", "As fast as plain", measure, "Points lost", "Layers", "A million texts")
    return section(
        "everything",
        "Every system, and what a million texts cost",
        tag(
            "p",
            f"The cost is wall clock on texts that are encoded already, {money}. Small figures are "
            f"95% intervals{_of_speeds(values)}.",
        ),
        table(heads, (_system(system, values) for system in values["systems"]), "systems"),
        _peers(values),
    )


def _system(system: Values, values: Values) -> Markup:
    speed, (lost, low, high) = system["speed"], system["lost"]
    spread = ends = None
    if system["kind"] != "plain":
        spread = tag("small", speed_interval(speed))
    if system["kind"] in ("truncated", "exits"):
        ends = tag("small", interval(points(low), points(high)))
    return tag(
        "tr",
        tag("th", system["name"], " (chosen)" if system["chosen"] else None, scope="row"),
        tag("td", times(speed["median"]), TIMES, spread),
        tag("td", score(system["scores"][values["measure"]])),
        tag("td", points(lost), ends),
        tag("td", layers(system["mean_layers"])),
        tag("td", cost(system["seconds_per_million"], values["price_per_hour"])),
        class_="chosen" if system["chosen"] else None,
    )


def _of_speeds(values: Values) -> str:
    """With fewer than six rounds no ranks of theirs give an interval."""
    few = values["rounds"] < 6
    return "; of speeds, the range of the rounds" if few else ""


def _peers(values: Values) -> Markup | None:
    """How the peers ran, and why one is not there."""
    said = [
        _ran(values),
        *(f"{system_of(name)} is not here. {why}" for name, why in _absent(values)),
    ]
    return join(*(tag("p", words, class_="note") for words in said if words)) or None


def _ran(values: Values) -> str | None:
    """That peers have the plain model's logits, and in which order rows were."""
    differences = _differences(values)
    if not differences:
        return None
    names, most = listed(differences), max(differences.values())
    too = "; transformers in the file's order too" if "transformers" in differences else ""
    whose = "Their logits are" if len(differences) > 1 else "Its logits are"
    return (
        f"{names} ran the same weights in padded batches of 32, rows sorted by length{too}. "
        f"{whose} the plain model's to within {most:.0e}, and so is the score."
    )


def _differences(values: Values) -> dict[str, float]:
    """Of each peer's logits from the plain model's, by its name."""
    found = {system_of(name): most for name, most in values["peer_differences"].items()}
    if values["transformers_difference"] is not None:
        found = {"transformers": values["transformers_difference"], **found}
    return found


def _absent(values: Values) -> Iterable[tuple[str, str]]:
    """Peers that were to be measured, and why they were not."""
    items: Iterable[tuple[str, str]] = values["absent"].items()
    return items


UNCERTIFIED = (
    "Nothing bounds what these exits lose on other rows: the figures above are of the rows "
    "measured. To have a bound that holds with a stated probability, calibrate the model on rows "
    "that it never saw:"
)
CALIBRATE = "offramp calibrate MODEL --data ROWS --max-loss 0.01 --confidence 0.95"


def certificate(values: Values) -> Markup:
    """What is proved of the exits, or how to have something proved."""
    proved = values["certificate"]
    if proved is None:
        return section(
            "certificate",
            "No certificate",
            tag("p", UNCERTIFIED),
            tag("pre", tag("code", CALIBRATE)),
        )
    sentence = f"{capital(proved['sentence'])}."
    if not proved["is_of_chosen"]:
        sentence += " That is of the criterion that the model was saved with, not of the one here."
    facts = (
        (words, f"{proved[key]:g}" if isinstance(proved[key], float) else proved[key])
        for key, words in FACTS
        if proved.get(key) is not None
    )
    title = "Certificate" if proved["guarantees"] else "A calibration that guarantees nothing"
    return section(
        "certificate",
        title,
        tag("p", sentence),
        _facts(facts),
    )


def how(values: Values) -> Markup:
    """Machine, versions, and the way of measuring."""
    machine = values["machine"].items()
    ran = listed(["the plain model", "exits", "cut-off models", *_differences(values)])
    return section(
        "how",
        "How it was measured",
        tag(
            "p",
            f"Scores are over all {values['rows']:,} rows. Speeds are over "
            f"{values['timed_rows']:,} of them, picked by a fixed seed; {ran} ran in turn, as "
            "often as there were rounds "
            f"({values['rounds']}), and a speed is the median of the rounds' ratios. Another "
            "machine gives other speeds.",
        ),
        _facts((name, said) for name, said in machine if said is not None),
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


def _facts(rows: Iterable[tuple[str, object]]) -> Markup:
    return tag(
        "dl",
        *(tag("div", tag("dt", words), tag("dd", value)) for words, value in rows),
        class_="facts",
    )
