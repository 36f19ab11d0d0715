"""The sizes of videos: what a model can render, and the one that fits an area and an image's shape."""

from math import sqrt

STEP = 16  # pixels: both sides are multiples of it
SIDES = range(256, 1280 + STEP, STEP)
AREAS = {"480p": 832 * 480, "720p": 1280 * 720}
LARGEST = 1280 * 720  # pixels


def of_area(area: int, aspect: float) -> tuple[int, int]:
    """Width and height with at most this area and about this aspect (width / height), in multiples of STEP.
    A shape that is too long for SIDES is made less long."""
    width = _side(sqrt(area * aspect))
    if width * _side(sqrt(area / aspect)) <= area:
        return width, _side(sqrt(area / aspect))
    return width, _side(area / width)


def _side(length: float) -> int:
    whole = int(length / STEP + 1e-9) * STEP  # the root of a square may be a hair below it
    return min(max(whole, SIDES[0]), SIDES[-1])
