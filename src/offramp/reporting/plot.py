"""The plot of score against wall clock, as SVG that scripts and style sheets can reach into."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from offramp.reporting.markup import Markup, tag
from offramp.reporting.wording import (
    MEASURES,
    TIMES,
    capital,
    listed,
    score,
    system_of,
    times,
)

_LETTER = 7.0  # px of a letter of a label, in the widest of usual system fonts
_GAP = 4  # px between labels
_SHORT, _NARROW = 50, 500  # px of a label, and of a plot
_LINE = 15  # px of a line of labels


@dataclass(frozen=True)
class Frame:
    """Where values lie in a drawing of `width` x `height` px: speeds by their logarithm."""

    width: int
    height: int
    speeds: tuple[float, float]
    scores: tuple[float, float]
    left: int = 46
    right: int = 14
    top: int = 26
    bottom: int = 44

    def x(self, speed: float) -> float:
        """Of a speed."""
        low, high = map(math.log, self.speeds)
        room = self.width - self.left - self.right
        return self.left + room * (math.log(speed) - low) / (high - low)

    def y(self, value: float) -> float:
        """Of a score, which grows upwards."""
        low, high = self.scores
        room = self.height - self.top - self.bottom
        return self.height - self.bottom - room * (value - low) / (high - low)


def plot(values: Mapping[str, Any], width: int, height: int, name: str) -> Markup:
    """What each system scores, and how many times as fast as the plain model it is.

    `name` is what the ids of its title and description begin with. Marks of exits have their place
    among them as `data-stop`.
    """
    systems, measure = values["systems"], values["measure"]
    frame = _frame(systems, measure, width, height)
    by_kind = {
        kind: [system for system in systems if system["kind"] == kind]
        for kind in ("truncated", "plain", "peer", "exits")
    }
    stops = by_depth(systems)
    title = f"{capital(MEASURES[measure])} against wall clock"
    return tag(
        "svg",
        tag("title", title, id=f"{name}-title"),
        tag("desc", _description(by_kind, measure), id=f"{name}-desc"),
        _axes(frame, measure),
        _line([*by_kind["truncated"], *by_kind["plain"]], measure, frame, "cut"),
        _line(stops, measure, frame, "exits"),
        *(
            _mark(system, measure, frame)
            for kind in by_kind
            if kind != "exits"
            for system in by_kind[kind]
        ),
        *(_mark(system, measure, frame, stop) for stop, system in enumerate(stops)),
        _labels(
            [*by_kind["plain"], *by_kind["peer"], *by_kind["truncated"]], stops, measure, frame
        ),
        class_=f"plot {name}",
        viewBox=f"0 0 {width} {height}",
        role="img",
        aria_labelledby=f"{name}-title {name}-desc",
    )


def by_depth(systems: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those with exits, from the one whose rows leave last: the places of the slider."""
    exits = (system for system in systems if system["kind"] == "exits")
    return sorted(exits, key=lambda system: -float(system["mean_layers"]))


def _frame(systems: Sequence[Mapping[str, Any]], measure: str, width: int, height: int) -> Frame:
    speeds = [system["speed"]["median"] for system in systems]
    scores = [system["scores"][measure] for system in systems]
    spread = max(max(scores) - min(scores), 0.01)
    return Frame(
        width,
        height,
        speeds=(min(speeds) / 1.25, max(speeds) * 1.25),
        scores=(min(scores) - spread * 0.1, max(scores) + spread * 0.14),
    )


def _axes(frame: Frame, measure: str) -> Markup:
    right, floor = frame.width - frame.right, frame.height - frame.bottom
    drawn = []
    for value in _even(*frame.scores):
        y = f"{frame.y(value):.1f}"
        drawn.append(tag("line", class_="grid", x1=frame.left, x2=right, y1=y, y2=y))
        digits = f"{value:.2f}" if round(value, 2) == round(value, 6) else f"{value:.3f}"
        drawn.append(
            tag("text", digits, class_="tick", x=frame.left - 8, y=y, dy=4, text_anchor="end")
        )
    for value in _of_ten(*frame.speeds, most=5 if frame.width < _NARROW else 8):
        x = f"{frame.x(value):.1f}"
        drawn.append(tag("line", class_="grid", x1=x, x2=x, y1=frame.top, y2=floor))
        drawn.append(
            tag("text", f"{value:g}{TIMES}", class_="tick", x=x, y=floor + 18, text_anchor="middle")
        )
    drawn.append(tag("text", MEASURES[measure], class_="axis", x=0, y=12))
    drawn.append(
        tag(
            "text",
            "times as fast as the plain model",
            class_="axis",
            x=right,
            y=frame.height - 6,
            text_anchor="end",
        )
    )
    return tag("g", *drawn, aria_hidden="true")


def _even(low: float, high: float) -> list[float]:
    """Round values between two, three to seven of them."""
    power = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = next(power * k for k in (5, 2, 1) if power * k <= (high - low) / 3)
    return [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _of_ten(low: float, high: float, most: int) -> list[float]:
    """Round values between two, evenly spread by their logarithms, at most so many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for parts in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        found = [
            k * 10.0**power for power in powers for k in parts if low <= k * 10.0**power <= high
        ]
        if len(found) <= most:
            break
    return found


def _line(systems: Iterable[Mapping[str, Any]], measure: str, frame: Frame, name: str) -> Markup:
    places = (_place(system, measure, frame) for system in systems)
    joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return tag("polyline", class_=f"line {name}", points=joined)


def _mark(system: Mapping[str, Any], measure: str, frame: Frame, stop: int | None = None) -> Markup:
    x, y = _place(system, measure, frame)
    kind, speed = system["kind"], system["speed"]
    value = score(system["scores"][measure])
    said = f"{system['name']}: {times(speed['median'])} times as fast, {value}"
    shape = shape_of(kind, x, y, said)
    if stop is None:
        return shape
    ends = (
        frame.x(min(max(speed[end], frame.speeds[0]), frame.speeds[1])) for end in ("low", "high")
    )
    x1, x2 = (f"{end:.1f}" for end in ends)
    return tag(
        "g",
        tag("line", class_="spread", x1=x1, x2=x2, y1=f"{y:.1f}", y2=f"{y:.1f}"),
        tag("circle", class_="ring", cx=f"{x:.1f}", cy=f"{y:.1f}", r=9),
        shape,
        class_="stop on" if system["chosen"] else "stop",
        data_stop=stop,
    )


def shape_of(kind: str, x: float, y: float, said: str | None = None) -> Markup:
    """The mark of a kind of system at a place; `said` is shown where the mouse rests on it."""
    title = None if said is None else tag("title", said)
    if kind == "peer":
        path = f"M{x:.1f},{y - 5.5:.1f} l5.5,9.5 h-11 z"
        return tag("path", title, class_="mark peer", d=path)
    if kind == "plain":
        path = f"M{x:.1f},{y - 6.5:.1f} l6.5,6.5 l-6.5,6.5 l-6.5,-6.5 z"
        return tag("path", title, class_="mark plain", d=path)
    return tag("circle", title, class_=f"mark {kind}", cx=f"{x:.1f}", cy=f"{y:.1f}", r=4.5)


def _place(system: Mapping[str, Any], measure: str, frame: Frame) -> tuple[float, float]:
    return frame.x(system["speed"]["median"]), frame.y(system["scores"][measure])


def _labels(
    systems: Sequence[Mapping[str, Any]],
    stops: Sequence[Mapping[str, Any]],
    measure: str,
    frame: Frame,
) -> Markup:
    """Each where it covers no mark and no label before it, or not at all."""
    places = [_place(system, measure, frame) for system in (*systems, *stops)]
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in places]
    drawn, floor = [], frame.height - frame.bottom
    peers = {system_of(s["name"]) for s in systems if s["kind"] == "peer"}
    for system, (x, y) in zip(systems, places, strict=False):
        words = _label(system, is_alone=len(peers) == 1, is_narrow=frame.width < _NARROW)
        wide = _LETTER * len(words)
        for left, top in _beside(x, y, wide, frame):
            box = (left - _GAP / 2, top, left + wide + _GAP / 2, top + _LINE)
            inside = left >= frame.left and left + wide <= frame.width and top >= frame.top - 12
            if inside and box[3] <= floor and not any(_meet(box, other) for other in taken):
                taken.append(box)
                middle, line = f"{left + wide / 2:.1f}", f"{box[3] - 4:.1f}"
                drawn.append(
                    tag("text", words, class_="label", x=middle, y=line, text_anchor="middle")
                )
                break
    return tag("g", *drawn, aria_hidden="true")


def _beside(x: float, y: float, wide: float, frame: Frame) -> list[tuple[float, float]]:
    """Upper left corners of a label at a mark, the best first: above, below, beside.

    A long one at a mark's corner would seem to be of the next mark.
    """
    middle = min(max(x - wide / 2, frame.left + 2), frame.width - 2 - wide)
    above, below, level = y - 22, y + 7, y - 8
    right, left = x + 9, x - wide - 9
    near = [(middle, above), (middle, below), (right, level), (left, level)]
    corners = [(side, line) for line in (above, below) for side in (x + 4, x - wide - 4)]
    further = [(middle, above - _LINE), (middle, below + _LINE)]
    return [*near, *(corners if wide < _SHORT else []), *further]


Box = tuple[float, float, float, float]


def _meet(one: Box, two: Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def _label(system: Mapping[str, Any], is_alone: bool, is_narrow: bool) -> str:
    """Of a peer its name; of one that `is_alone` how it was run: the legend has its name."""
    name = str(system["name"])
    if system["kind"] == "truncated":
        return f"{system['mean_layers']:.0f}"
    if is_alone:
        return name.partition(", ")[2] or name
    return system_of(name) if is_narrow else name.removesuffix(", sorted")


def _description(by_kind: Mapping[str, Sequence[Mapping[str, Any]]], measure: str) -> str:
    """The plot in sentences; a table on the page has all of its numbers."""
    said = []
    for kind, words in (
        ("exits", "With exits"),
        ("plain", "The plain model"),
        ("truncated", "The first layers alone"),
        ("peer", "Peers"),
    ):
        each = (
            f"{times(s['speed']['median'])} times as fast at {score(s['scores'][measure])}"
            f"{', chosen' if s['chosen'] else ''}"
            for s in by_kind[kind]
        )
        if by_kind[kind]:
            said.append(f"{words}: {'; '.join(each)}.")
    return " ".join(said)


def legend(values: Mapping[str, Any]) -> Markup:
    """What the marks mean."""
    systems = values["systems"]
    peers = dict.fromkeys(system_of(s["name"]) for s in systems if s["kind"] == "peer")
    words = {
        "exits": "with exits, a mark a threshold",
        "truncated": "the first so many layers alone",
        "plain": "the plain model",
        "peer": listed(peers) if peers else "",
    }
    kinds = {system["kind"] for system in systems}
    return tag(
        "ul",
        *(
            tag(
                "li",
                tag(
                    "svg",
                    shape_of(kind, 8, 8),
                    viewBox="0 0 16 16",
                    class_="key",
                    aria_hidden="true",
                ),
                said,
            )
            for kind, said in words.items()
            if kind in kinds
        ),
        class_="legend",
    )


def standalone(values: Mapping[str, Any], rules: str) -> str:
    """The plot as a file of its own, with the style rules it needs; for light and dark pages."""
    drawn = plot(values, 680, 400, "wide")
    head, _, rest = drawn.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>{rules}</style>{rest}\n'
