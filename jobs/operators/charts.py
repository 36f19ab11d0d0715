"""Charts of the last 24 hours, drawn as SVG without a script: the page's policy allows no inline styles."""

from collections.abc import Callable, Sequence
from typing import Any

WIDTH, HEIGHT, GAP = 240, 60, 2  # of a chart, in its own units
STEPS = (1, 2, 5)  # of an axis, times a power of ten
EVERY = 6  # hours between two labels


def chart(
    title: str,
    hours: Sequence[dict[str, Any]],
    value: Callable[[dict[str, Any]], float | None],
    unit: str,
    top: float = 0.0,
) -> dict[str, Any]:
    """A bar for each hour that has a value. ``unit`` formats a value; ``top`` is the end of the axis, or 0 to
    take a round number above the largest value."""
    values = [value(hour) for hour in hours]
    largest = max(filter(None, values), default=0)
    top = top or round_above(largest)
    last, step = values[-1], WIDTH / len(hours)
    return {
        "title": title,
        "box": f"0 0 {WIDTH} {HEIGHT}",
        "bars": [
            _bar(place * step, step, found / top, f"{hour['hour']:%H:%M} UTC: {unit.format(found)}")
            for place, (hour, found) in enumerate(zip(hours, values, strict=True))
            if found is not None
        ],
        "ticks": [unit.format(top), unit.format(top / 2) if top > 1 or "%" in unit else "", unit.format(0)],
        "hours": [f"{hour['hour']:%H:%M}" for hour in hours[::EVERY]],
        "largest": unit.format(largest),
        "last": "-" if last is None else unit.format(last),
        "values": ["-" if found is None else unit.format(found) for found in values],
    }


def _bar(x: float, step: float, share: float, text: str) -> dict[str, str]:
    height = HEIGHT * share
    return {
        "x": f"{x:.1f}",
        "y": f"{HEIGHT - height:.1f}",
        "width": f"{step - GAP:.1f}",
        "height": f"{height:.1f}",
        "text": text,
    }


def round_above(value: float) -> float:
    """The least of 1, 2, 5, 10, 20, 50 and so on that is not below the value."""
    power = 1.0
    while True:
        for step in STEPS:
            if step * power >= value:
                return step * power
        power *= 10
