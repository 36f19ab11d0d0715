"""The size that follows an image: whatever its shape, within the area that is allowed."""

from math import sqrt

from hypothesis import given
from hypothesis import strategies as st

from jobs.media import sizes


@given(area=st.integers(256 * 256, 1280 * 1280), aspect=st.floats(1 / 1024, 1024))
def test_a_size_of_an_area_stays_within_it_and_near_the_aspect(area, aspect):
    width, height = sizes.of_area(area, aspect)

    assert width in sizes.SIDES
    assert height in sizes.SIDES
    assert width * height <= area
    if all(256 <= side <= 1280 for side in (sqrt(area * aspect), sqrt(area / aspect))):
        assert abs(width / height / aspect - 1) < 0.07  # a step of 16 in the shortest side, 256
        assert width * height > 0.85 * area
