"""Whether a file has its whole picture: Pillow fills what is missing with grey or black, and reports nothing.

A JPEG is read once more by the libjpeg that Pillow brings, since Pillow does not pass libjpeg's warnings on.
Only its coefficients are read, which takes a fraction of a second. (FFmpeg's decoder misses a quarter of what
libjpeg sees.) Of a PNG, Pillow checks neither the checksums of the pixels nor whether there are enough of
them. libwebp itself refuses a file that is cut off. Damaged data that can still be decoded is not noticed:
neither JPEG nor WebP has checksums.
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

MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])")  # not a stuffed 0xFF, and not a restart marker
SOI, EOI, SOS = 0xD8, 0xD9, 0xDA
SEQUENTIAL, PROGRESSIVE = (0xC0, 0xC1, 0xC9), (0xC2, 0xCA)  # starts of frames, of both ways of coding
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
    """Raises Damaged, or calls ``give_up`` with the error. That must end the process: libjpeg cannot go on
    after an error."""
    kinds = {kind for kind, _ in _segments(data)}
    if not kinds.isdisjoint((*SEQUENTIAL, *PROGRESSIVE)):  # a lossless one has no coefficients
        _read_coefficients(data, give_up)
        _check_scans(data)


def _read_coefficients(data: bytes, give_up: Callable[[Exception], NoReturn]) -> None:
    # libjpeg's functions are found by way of this module of Pillow, since it is linked to libjpeg.
    libjpeg = ctypes.CDLL(Image.core.__file__)
    errors, info = _Errors(), ctypes.create_string_buffer(632)  # libjpeg 6.2's jpeg_decompress_struct

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
    # A libjpeg of another version ends the process here, which manage.py check_setup shows.
    libjpeg.jpeg_CreateDecompress(info, 62, ctypes.c_size_t(len(info)))
    errors.error_exit, errors.emit_message = _ERROR(error), _MESSAGE(message)
    libjpeg.jpeg_mem_src(info, data, ctypes.c_ulong(len(data)))
    libjpeg.jpeg_read_header(info, 1)
    libjpeg.jpeg_read_coefficients(info)
    libjpeg.jpeg_destroy_decompress(info)


def _padding(data: bytes) -> int:
    """How many zero bytes stand before the last end marker: some encoders fill the last block up."""
    pixels = data[: data.rfind(b"\xff\xd9")]
    return len(pixels) - len(pixels.rstrip(b"\0"))


def _is_loss(warning: str, padding: int) -> bool:
    if stray := STRAY.match(warning):
        return int(stray[1]) > FEW + padding
    return warning.startswith("Corrupt JPEG data")  # a file that ends too early is Pillow's to notice


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The kind and the body of each segment, up to the end of the (first) picture."""
    position = 0
    while (found := MARKER.search(data, position)) and found[1][0] != EOI:
        position = found.end()
        if found[1][0] in (0x01, SOI):  # these have no body
            continue
        end = position + int.from_bytes(data[position : position + 2])
        yield found[1][0], data[position + 2 : end]
        position = end


def _check_scans(data: bytes) -> None:
    """Raises Damaged if a scan is missing: all bits of all coefficients of each component must be there."""
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
    """Raises Damaged if a checksum of the pixels is wrong or pixels are missing; struct.error if the file
    ends early."""
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
    """The kind, the body and the checksum of each chunk, up to the last one."""
    position, kind = 8, b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        yield kind, data[position + 8 : end], data[end : end + 4]
        position = end + 4


def _promised(header: bytes) -> int:
    """How many bytes of pixels the header promises, with the one byte before each row."""
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    total = 0
    for x, y, across, down in PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -((x - width) // across), -((y - height) // down)
        if columns:
            total += rows * (1 + (columns * depth * SAMPLES[colour] + 7) // 8)
    return total


def _inflated(pixels: "zlib._Decompress", body: bytes, most: int) -> int:
    """How many bytes ``body`` unpacks to. It stops soon after ``most``: they could be gigabytes."""
    count = 0
    while body and count < most and not pixels.eof:
        try:
            count += len(pixels.decompress(body, STEP))
        except zlib.error as error:
            raise Damaged(str(error)) from None
        body = pixels.unconsumed_tail
    return count
