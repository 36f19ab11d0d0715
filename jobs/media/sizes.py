"""The sizes of videos: what a model can render, and the one that fits an area and an image's shape."""

from math import sqrt

STEP = 16  # pixels: both sides are multiples of it
SIDES = range(256, 1280 + STEP, STEP)
AREAS = {"480p": 832 * 480, "720p": 1280 * 720}
LARGEST = 1280 * 720  # pixels


def of_area(area: int, aspect: float) -> tuple[int, int]:
    """Width and height with at most this area, which has at least 256x256 pixels, and about this aspect
    (width / height), in multiples of STEP. A shape that is too long for SIDES, or for the area with the
    shortest side, is made less long."""
    longest = _side(area / SIDES[0])
    width = min(_side(sqrt(area * aspect)), longest)
    return width, min(_side(sqrt(area / aspect)), _side(area / width))


def _side(length: float) -> int:
    whole = int(length / STEP + 1e-9) * STEP  # the root of a square may be a hair below it
    return min(max(whole, SIDES[0]), SIDES[-1])
