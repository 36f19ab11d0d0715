"""Small ICC profiles (version 2), as cameras, editors and presses put them into pictures."""

import itertools
import struct


def display_p3() -> bytes:
    return _rgb((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841), gamma=2.2)


def adobe_rgb() -> bytes:
    return _rgb((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446), gamma=2.2)


def prophoto() -> bytes:
    return _rgb((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249), gamma=1.8)


def grey(gamma: float) -> bytes:
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": _curve(gamma)})


def press() -> bytes:
    """Of CMYK: cyan prints as a middle grey, which is L* 50; everything with another ink as black."""
    lightness = {(0, 0, 0, 0): 100, (1, 0, 0, 0): 50}
    table = b"".join(
        struct.pack(">3H", lightness.get(inks, 0) * 0xFF00 // 100, 0x8000, 0x8000)
        for inks in itertools.product((0, 1), repeat=4)
    )
    straight = struct.pack(">2H", 0, 0xFFFF)
    unity = b"".join(_fixed(float(row == column)) for row in range(3) for column in range(3))
    head = b"mft2" + bytes(4) + bytes((4, 3, 2, 0)) + unity + struct.pack(">2H", 2, 2)
    return _profile(b"prtr", b"CMYK", b"Lab ", {b"A2B0": head + straight * 4 + table + straight * 3})


def _rgb(*primaries: tuple[float, float, float], gamma: float) -> bytes:
    tags = {
        name: _xyz(*primary) for name, primary in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)
    }
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma))
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags | curves)


def _profile(kind: bytes, colours: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {b"desc": _description(b"A profile"), b"wtpt": _xyz(0.9642, 1.0, 0.8249)} | tags
    start, index, body = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, tag in tags.items():
        index += name + struct.pack(">2I", start + len(body), len(tag))
        body += tag + bytes(-len(tag) % 4)
    size, version = struct.pack(">I", start + len(body)), struct.pack(">I", 0x02100000)
    head = size + bytes(4) + version + kind + colours + connection + bytes(12) + b"acsp"
    light = _fixed(0.9642) + _fixed(1.0) + _fixed(0.8249)
    return head.ljust(68, b"\0") + light.ljust(60, b"\0") + index + body


def _description(text: bytes) -> bytes:
    return b"desc" + bytes(4) + struct.pack(">I", len(text) + 1) + text + bytes(1 + 78)


def _curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def _xyz(*values: float) -> bytes:
    return b"XYZ " + bytes(4) + b"".join(_fixed(value) for value in values)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))
