"""Which colours a PNG's numbers stand for. It may say so without a profile: then one is made of its words."""

import itertools
import struct

from PIL import Image

from jobs import whole

Point = tuple[float, float]  # x and y of a colour, as CIE counts them
Vector = tuple[float, ...]
Matrix = tuple[Vector, ...]

D65, D50 = (0.3127, 0.3290), (0.9642, 1.0, 0.8249)  # daylight, and the white of profiles, which is an XYZ
# Each has a white, a red, a green and a blue; those of sRGB come first.
BT709: tuple[Point, ...] = (D65, (0.64, 0.33), (0.3, 0.6), (0.15, 0.06))
DISPLAY_P3: tuple[Point, ...] = (D65, (0.68, 0.32), (0.265, 0.69), (0.15, 0.06))
BT2020: tuple[Point, ...] = (D65, (0.708, 0.292), (0.17, 0.797), (0.131, 0.046))
CODES = {bytes((number, 13, 0, 1)): points for number, points in ((1, BT709), (9, BT2020), (12, DISPLAY_P3))}
# From one white to another, as eyes do it.
BRADFORD = ((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296))
SRGB_CURVE = (3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)  # the kind of function, its parameters


def of_png(image: Image.Image, data: bytes) -> bytes | None:
    """cICP comes before iCCP, that before sRGB, and that before gAMA with cHRM, as the format has it."""
    for kind, body, _ in whole.png_chunks(data):
        if kind == b"cICP" and body in CODES:  # with sRGB's curve; one for HDR has a profile beside it
            return _profile(CODES[body], SRGB_CURVE)
    if "icc_profile" in image.info or "srgb" in image.info or "gamma" not in image.info:
        return image.info.get("icc_profile")
    gamma, numbers = image.info["gamma"], image.info.get("chromaticity")
    points = BT709
    if numbers:
        points = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    if abs(gamma - 1 / 2.2) < 0.005 and _near(points, BT709):
        return None  # how old programs say sRGB
    try:
        return _profile(points, (0, 1 / gamma))
    except (ArithmeticError, struct.error):
        return None


def _near(points: tuple[Point, ...], others: tuple[Point, ...]) -> bool:
    pairs = zip(itertools.chain(*points), itertools.chain(*others), strict=True)
    return all(abs(one - other) < 0.005 for one, other in pairs)


def _profile(points: tuple[Point, ...], curve: tuple[float, ...]) -> bytes:
    """Of version 4: three primaries and a curve."""
    function = b"para" + bytes(4) + struct.pack(">Hxx", int(curve[0])) + _fixed(*curve[1:])
    tags = {b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50)}
    for name, colour in zip(b"rgb", _primaries(*points), strict=True):
        tags[bytes((name,)) + b"XYZ"] = b"XYZ " + bytes(4) + _fixed(*colour)
        tags[bytes((name,)) + b"TRC"] = function
    place, index, body = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for key, tag in tags.items():
        index += key + struct.pack(">2I", place + len(body), len(tag))
        body += tag
    head = struct.pack(">I4xI", place + len(body), 0x04000000) + b"mntrRGB XYZ " + bytes(12) + b"acsp"
    return head.ljust(68, b"\0") + _fixed(*D50).ljust(60, b"\0") + index + body


def _fixed(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _primaries(white: Point, *points: Point) -> Matrix:
    """The XYZ of red, green and blue, as they look where D50 is white."""
    colours = _turned(tuple(_xyz(point) for point in points))
    amounts = _times(_inverse(colours), _xyz(white))
    from_white, to_white = _times(BRADFORD, _xyz(white)), _times(BRADFORD, D50)
    seen = []
    for colour, amount in zip(_turned(colours), amounts, strict=True):
        cones = _times(BRADFORD, tuple(part * amount for part in colour))
        adapted = tuple(cone * to / of for cone, to, of in zip(cones, to_white, from_white, strict=True))
        seen.append(_times(_inverse(BRADFORD), adapted))
    return tuple(seen)


def _xyz(point: Point) -> Vector:
    x, y = point
    return x / y, 1.0, (1 - x - y) / y


def _times(matrix: Matrix, vector: Vector) -> Vector:
    return tuple(sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix)


def _turned(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _inverse(matrix: Matrix) -> Matrix:
    a, b, c = matrix
    crosses = _cross(b, c), _cross(c, a), _cross(a, b)
    size = sum(x * y for x, y in zip(a, crosses[0], strict=True))
    return _turned(tuple(tuple(value / size for value in cross) for cross in crosses))


def _cross(a: Vector, b: Vector) -> Vector:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
