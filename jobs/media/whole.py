"""Whether a file has its whole picture: Pillow fills what is missing with grey or black, and tells nobody.

A JPEG is read once more by the libjpeg that Pillow brings, as Pillow keeps libjpeg's warnings to itself:
the coefficients alone, which takes a fraction of a second. (FFmpeg's decoder misses a quarter of what libjpeg
sees.) Of a PNG Pillow leaves out the checksums of the pixels, and does not look whether there are enough of
them. libwebp itself refuses what is cut off. Damaged data that can still be understood is not seen: neither
JPEG nor WebP has checksums.
"""

import ctypes
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NoReturn

from PIL import Image

FEW = 16  # stray bytes before a marker that do no harm; more are pixels that could not be decoded


class Damaged(ValueError):
    """A part of the picture is missing."""


# JPEG

MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # neither a stuffed 0xFF nor a restart
SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA)  # starts of frames; each by Huffman and arithmetic
COEFFICIENTS = 64  # of each component
STRAY = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes")

_ERROR = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_MESSAGE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int)
_FORMAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p)


class _Errors(ctypes.Structure):
    """The beginning of libjpeg's jpeg_error_mgr, and room for the rest."""

    _fields_ = (
        ("error_exit", _ERROR),
        ("emit_message", _MESSAGE),
        ("output_message", _ERROR),
        ("format_message", _FORMAT),
        ("rest", ctypes.c_char * 256),
    )


def check_jpeg(data: bytes, give_up: Callable[[Exception], NoReturn]) -> None:
    """``give_up`` must end the process: after an error libjpeg may not be returned to."""
    kinds = {kind for kind, _ in _segments(data)}
    if not kinds.isdisjoint((*SEQUENTIAL, *PROGRESSIVE)):  # a lossless one has no coefficients
        _read_coefficients(data, give_up)
        _check_scans(data)


def _read_coefficients(data: bytes, give_up: Callable[[Exception], NoReturn]) -> None:
    # A name that this module of Pillow lacks is looked for in the libraries that it is linked to.
    libjpeg = ctypes.CDLL(Image.core.__file__)
    errors, info = _Errors(), ctypes.create_string_buffer(632)  # of jpeg_decompress_struct, of libjpeg 6.2

    def text(pointer: int) -> str:
        message = ctypes.create_string_buffer(256)
        errors.format_message(pointer, message)
        return message.value.decode("ascii", "replace")

    def error(pointer: int) -> None:
        memory = text(pointer).startswith("Insufficient memory")
        give_up(MemoryError() if memory else Damaged(text(pointer)))

    padding = _padding(data)

    def message(pointer: int, level: int) -> None:
        if level < 0 and _is_loss(text(pointer), padding):
            give_up(Damaged(text(pointer)))

    libjpeg.jpeg_std_error(ctypes.byref(errors))
    ctypes.c_void_p.from_buffer(info).value = ctypes.addressof(errors)
    # A libjpeg of another version ends the process here: manage.py check_setup would tell.
    libjpeg.jpeg_CreateDecompress(info, 62, ctypes.c_size_t(len(info)))
    errors.error_exit, errors.emit_message = _ERROR(error), _MESSAGE(message)
    libjpeg.jpeg_mem_src(info, data, ctypes.c_ulong(len(data)))
    libjpeg.jpeg_read_header(info, 1)
    libjpeg.jpeg_read_coefficients(info)
    libjpeg.jpeg_destroy_decompress(info)


def _padding(data: bytes) -> int:
    """The zeros before the last end mark: some encoders fill a block up."""
    pixels = data[: data.rfind(b"\xff\xd9")]
    return len(pixels) - len(pixels.rstrip(b"\0"))


def _is_loss(warning: str, padding: int) -> bool:
    if stray := STRAY.match(warning):
        return int(stray[1]) > FEW + padding
    return warning.startswith("Corrupt JPEG data")  # that it stops before its end Pillow sees itself


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The kind and the body of each, up to the end of the (first) picture."""
    position = 0
    while (found := MARKER.search(data, position)) and found[1][0] != EOI:
        position = found.end()
        if found[1][0] in (0x01, SOI):  # these have no body
            continue
        end = position + int.from_bytes(data[position : position + 2])
        yield found[1][0], data[position + 2 : end]
        position = end


def _check_scans(data: bytes) -> None:
    """That no scan is missing: each coefficient of each component must have come, to its last bit."""
    missing: dict[int, set[int]] = {}
    progressive = False
    for kind, body in _segments(data):
        if kind in SEQUENTIAL or kind in PROGRESSIVE:
            progressive = kind in PROGRESSIVE
            missing = {component: set(range(COEFFICIENTS)) for component in body[6::3]}
        elif kind == SOS:
            first, last, approximation = body[-3:] if progressive else (0, COEFFICIENTS - 1, 0)
            if approximation & 0x0F == 0:
                for component in body[1:-3:2]:
                    missing[component] -= set(range(first, last + 1))
    if any(missing.values()):
        raise Damaged("scans are missing")


# PNG

PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # in a pixel, by the type of colour
STEP = 1 << 20


def check_png(data: bytes) -> None:
    """Its pixels' checksums, their number, and that it comes to its end."""
    left, pixels = 0, zlib.decompressobj()
    for kind, body, checksum in _chunks(data):
        if kind == b"IHDR":
            left = _promised(body)
        elif kind == b"IDAT":
            if zlib.crc32(kind + body).to_bytes(4) != checksum:
                raise Damaged("a checksum is wrong")
            left -= _inflated(pixels, body, left)
    if left > 0:
        raise Damaged("pixels are missing")


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The kind, the body and the checksum of each, up to the end."""
    position, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        yield kind, data[position + 8 : end], data[end : end + 4]
        position = end + 4


def _promised(header: bytes) -> int:
    """How many bytes its pixels have, with the one before each row."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    total = 0
    for x, y, across, down in PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((x - width) // across), -((y - height) // down)
        if columns:
            total += rows * (1 + (columns * depth * SAMPLES[colour] + 7) // 8)
    return total


def _inflated(pixels: "zlib._Decompress", body: bytes, most: int) -> int:
    """How many bytes these make; no more than ``most`` are looked at."""
    count = 0
    while body and count < most and not pixels.eof:
        try:
            count += len(pixels.decompress(body, STEP))
        except zlib.error as error:
            raise Damaged(str(error)) from None
        body = pixels.unconsumed_tail
    return count
