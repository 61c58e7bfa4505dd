"""The page's first figures: the headline, the plot, and the slider with where rows leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offramp.reporting.markup import Markup, join, tag
from offramp.reporting.parts import bar, section, table
from offramp.reporting.plot import by_depth, legend, plot
from offramp.reporting.wording import (
    MEASURES,
    TIMES,
    capital,
    cost,
    interval,
    layers,
    points,
    score,
    speed_interval,
    threshold_of,
    times,
)


def headline(values: Mapping[str, Any]) -> str:
    """The figure that matters, in a sentence without its end."""
    one, measure = chosen(values), MEASURES[values["measure"]]
    lost = points(one["lost"][0])
    price = f"for {lost} points of {measure}"
    if one["lost"][0] <= 0 or lost == points(0):
        price = f"with no loss of {measure} on {values['rows']:,} rows"
    return f"{times(one['speed']['median'])} times as fast, {price}"


def chosen(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The system at the chosen threshold."""
    return next(system for system in values["systems"] if system["chosen"])


def stops(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the page shows at each place of the slider, in the words in which it shows it."""
    return [_stop(system, values) for system in by_depth(values["systems"])]


def _stop(system: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    speed, total = system["speed"], sum(system["left"])
    shares = [100 * count / total for count in system["left"]]
    lost, low, high = system["lost"]
    value = score(system["scores"][values["measure"]])
    threshold = threshold_of(system)
    return {
        "spoken": f"{threshold}: {times(speed['median'])} times as fast, "
        f"{MEASURES[values['measure']]} {value}, {layers(system['mean_layers'])} layers",
        "figures": {
            "at": threshold + (" (chosen)" if system["chosen"] else ""),
            "speed": times(speed["median"]) + TIMES,
            "speed-interval": speed_interval(speed),
            "score": value,
            "lost": points(lost),
            "lost-interval": interval(points(low), points(high)),
            "layers": layers(system["mean_layers"]),
            "cost": cost(system["seconds_per_million"], values["price_per_hour"]),
        },
        "shares": [round(share, 2) for share in shares],
        "said": [f"{share:.1f}%" for share in shares],
    }


def trade(values: Mapping[str, Any]) -> Markup:
    """The plot beside the slider; without a script it shows the chosen threshold."""
    systems = by_depth(values["systems"])
    place = next(i for i, system in enumerate(systems) if system["chosen"])
    stop = _stop(systems[place], values)
    title = f"{capital(MEASURES[values['measure']])} against wall clock"
    figure = tag(
        "figure",
        plot(values, 680, 430, "wide"),
        plot(values, 340, 330, "narrow"),
        tag(
            "figcaption",
            legend(values),
            tag(
                "p",
                "To the right is faster, and higher is better. The ring is the threshold shown "
                "with its figures; the table below has every number.",
                class_="note",
            ),
        ),
    )
    panel = tag(
        "div",
        _slider(place, len(systems), stop),
        _figures(values, stop),
        _leaving(values, stop),
        class_="panel",
    )
    return section("trade", title, tag("div", figure, panel, class_="trade"))


def _slider(place: int, many: int, stop: Mapping[str, Any]) -> Markup:
    return join(
        tag("p", "Threshold ", tag("strong", stop["figures"]["at"], data_figure="at"), class_="at"),
        tag(
            "div",
            tag("label", "Move through what was measured", for_="threshold"),
            tag(
                "input",
                id="threshold",
                type="range",
                min=0,
                max=many - 1,
                step=1,
                value=place,
                aria_valuetext=stop["spoken"],
                autocomplete="off",
            ),
            tag(
                "p",
                tag("span", "rows leave late"),
                tag("span", "rows leave early"),
                class_="ends",
                aria_hidden="true",
            ),
            class_="choose",
            hidden=True,  # until the script that moves it runs
        ),
    )


def _figures(values: Mapping[str, Any], stop: Mapping[str, Any]) -> Markup:
    def figure(name: str, words: str, more: str | None = None) -> Markup:
        small = None
        if more is not None:
            small = tag("small", tag("span", stop["figures"][more], data_figure=more))
        value = tag("span", stop["figures"][name], data_figure=name)
        return tag("div", tag("dt", words), tag("dd", value, small))

    n_layers, price = values["depths"][-1], values["price_per_hour"]
    plain = next(s["seconds_per_million"] for s in values["systems"] if s["kind"] == "plain")
    return tag(
        "dl",
        figure("speed", "as fast as plain", "speed-interval"),
        figure("lost", "points lost", "lost-interval"),
        figure("score", MEASURES[values["measure"]]),
        figure("layers", f"of {n_layers} layers, on average"),
        figure("cost", f"for a million texts; {cost(plain, price)} without exits"),
        class_="figures",
    )


def _leaving(values: Mapping[str, Any], stop: Mapping[str, Any]) -> Markup:
    rows = []
    for place, depth in enumerate(values["depths"]):
        share = stop["shares"][place]
        last = depth == values["depths"][-1]
        rows.append(
            tag(
                "tr",
                tag("th", f"{depth}, the last" if last else depth, scope="row"),
                tag("td", bar(share, data_share=place), aria_hidden="true"),
                tag("td", stop["said"][place], data_said=place),
            )
        )
    return table(("Layer", None, "Rows"), rows, "bars", "Where rows leave")
