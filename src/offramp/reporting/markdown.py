"""The report's table of systems as Markdown, for a README: what the plot beside it draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from offramp.reporting.wording import (
    MEASURES,
    TIMES,
    capital,
    interval,
    layers,
    points,
    score,
    speed_interval,
    times,
)

Values = Mapping[str, Any]


def markdown(values: Values) -> str:
    """A row a system, and under it what it was measured on."""
    measure = MEASURES[values["measure"]]
    heads = ("System", "As fast as plain", capital(measure), "Points lost", "Layers")
    rows = [
        heads,
        ("---", *("---:" for _ in heads[1:])),
        *(_row(s, values) for s in _in_order(values)),
    ]
    return "\n".join((*(f"| {' | '.join(row)} |" for row in rows), "", _measured_on(values), ""))


def _in_order(values: Values) -> list[Values]:
    """Exits, the first layers alone, the plain model, and then the peers."""
    kinds = ("exits", "truncated", "plain", "peer")
    return sorted(values["systems"], key=lambda system: kinds.index(system["kind"]))


def _row(system: Values, values: Values) -> tuple[str, ...]:
    name, speed = str(system["name"]).replace("|", "\\|"), system["speed"]
    said, lost = f"{times(speed['median'])}{TIMES}", points(system["lost"][0])
    if system["kind"] != "plain":
        said += f" ({speed_interval(speed)})"
    if system["kind"] in ("exits", "truncated"):
        lost += f" ({interval(*map(points, system['lost'][1:]))})"
    return (
        f"**{name}, chosen**" if system["chosen"] else name,
        said,
        score(system["scores"][values["measure"]]),
        lost,
        layers(system["mean_layers"]),
    )


def _measured_on(values: Values) -> str:
    machine, data = values["machine"], str(values["data"]).replace("`", "'")
    versions = ", ".join(
        f"{name} {machine[name]}"
        for name in ("offramp", "torch", "transformers", "onnxruntime", "ctranslate2")
        if machine.get(name) is not None
    )
    few = "; of speeds the range of the rounds" if values["rounds"] < 6 else ""
    return (
        f"{values['rows']:,} rows of `{data}`, {values['timed_rows']:,} of them timed in "
        f"{values['rounds']} rounds, every system in turn; 95% intervals{few}. "
        f"{machine['processor']}, threads: {machine['threads']}; {versions}; {values['date']}."
    )
