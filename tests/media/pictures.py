"""Pictures, and what is said of those that are refused."""

import random
from functools import partial

import pytest
from PIL import Image

from jobs.media import images
from jobs.media.images import BadImage

DAMAGED = "The image is damaged or incomplete."
normalise = partial(images.normalise, shape="832x480")


def photo(mode="RGB", size=(416, 240)):
    """Noise, the same in each run. If the end mark alone is missing, it depends on the last pixels whether
    that can be seen."""
    pixels = random.Random(0).randbytes(size[0] * size[1])
    return Image.frombytes("L", size, pixels).convert(mode)


def refused(data):
    with pytest.raises(BadImage) as error:
        normalise(data)
    return str(error.value)
