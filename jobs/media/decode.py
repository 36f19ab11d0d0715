"""The program that decodes a reference image: ``python -m jobs.media.decode SECONDS SHAPE FIT``,
the image on standard input. SHAPE is 832x480, or an area in pixels, which is then given the image's own
aspect; FIT says what happens if the aspects differ: cut, or pad with black.

What it writes is always our own encoding, and of this size: ComfyUI looks at no upload, accepts
truncated files, and would decode anything at full size. Exit code 0: a PNG; REFUSED: a sentence for the
client; TOO_MUCH: it took all the memory that we give. Any other end is no fault of the image.
"""

import io
import os
import resource
import struct
import sys
import warnings
import zlib
from typing import Any, NoReturn

from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from jobs.media import colour, sizes, whole

REFUSED, TOO_MUCH = 3, 4
MEMORY = 1024**3  # bytes: a WebP of 40 megapixels takes 600 MB
PER_PIXEL = 17  # bytes of memory that decoding takes at most
MAX_PIXELS = 40_000_000
SIDES = range(16, 16_384 + 1)  # pixels
FORMATS = ("PNG", "JPEG", "WEBP")
ORIENTATION = 0x0112  # the EXIF tag
TURNS = {  # by its value
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (TURNS[5], TURNS[6], TURNS[7], TURNS[8])
Image.MAX_IMAGE_PIXELS = None  # Pillow only warns up to 179 megapixels; normalise() has a limit of its own
PngImagePlugin.MAX_TEXT_CHUNK = 4 * 1024**2  # bytes: Pillow's 1 MB is too little for some colour profiles
DECODERS_RAISE = (  # for a bad image; any other error, such as AttributeError, is a fault of our own
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
BLACK: dict[str, Any] = {"L": 0, "RGB": (0, 0, 0), "RGBA": (0, 0, 0, 255), "CMYK": (0, 0, 0, 255)}
DAMAGED = "The image is damaged or incomplete."


class Refused(Exception):
    """One sentence for the client."""


def main() -> None:
    seconds, (shape, fit) = int(sys.argv[1]), sys.argv[2:]
    _limit(resource.RLIMIT_CPU, seconds, seconds + 1)  # SIGXCPU is ours, SIGKILL is not
    _limit(resource.RLIMIT_AS, MEMORY, MEMORY)
    _limit(resource.RLIMIT_CORE, 0, 0)
    warnings.simplefilter("ignore")  # they are about metadata, which is dropped
    try:
        sys.stdout.buffer.write(normalise(sys.stdin.buffer.read(), shape, fit))
    except (Refused, MemoryError) as error:
        _give_up(error)


def _limit(kind: int, soft: int, hard: int) -> None:
    """Sets a limit, but not above the one that is there: a process may not raise that."""
    there = resource.getrlimit(kind)[1]
    if there != resource.RLIM_INFINITY:
        soft, hard = min(soft, there), min(hard, there)
    resource.setrlimit(kind, (soft, hard))


def _give_up(error: Exception) -> NoReturn:
    """Ends the process at once: libjpeg, which may have called this, cannot go on after an error."""
    if isinstance(error, MemoryError):
        limit = _memory()
        os.write(2, f"An image needs more memory than the limit of {limit:,} bytes leaves.".encode())
        os._exit(TOO_MUCH if limit == MEMORY else 1)
    os.write(1, (str(error) if isinstance(error, Refused) else DAMAGED).encode())
    os._exit(REFUSED)


def normalise(data: bytes, shape: str, fit: str) -> bytes:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image)
            if image.format == "PNG":
                whole.check_png(data)
            elif image.format != "WEBP":  # a JPEG, or an MPO: a JPEG with more pictures behind it
                whole.check_jpeg(data, _give_up)
            small = colour.to_srgb(_shrunk(image, shape, fit), image.mode, image.info.get("icc_profile"))
    except UnidentifiedImageError:
        raise Refused("The image is not a PNG, JPEG or WebP file.") from None
    except DECODERS_RAISE:
        _check_memory()
        raise Refused(DAMAGED) from None
    return _png(_flat(small))


def _check_size(image: Image.Image) -> None:
    if image.width not in SIDES or image.height not in SIDES:
        raise Refused(f"Each side must have {SIDES[0]} to {SIDES[-1]:,} pixels.")
    if image.width * image.height > MAX_PIXELS:
        raise Refused(f"The image has more than {MAX_PIXELS // 1_000_000} megapixels.")


def _memory() -> int:
    """The lowest memory limit of this process, in bytes: ours, or one that was inherited."""
    limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    return min(MEMORY, *(limit for limit in limits if limit != resource.RLIM_INFINITY))


def _check_memory() -> None:
    """Raises MemoryError if an inherited limit may have been too low for the image: libwebp reports a lack of
    memory in the same way as a damaged image."""
    if _memory() < MEMORY:
        bytearray(MAX_PIXELS * PER_PIXEL)  # as much as the largest image takes


def _shrunk(image: Image.Image, shape: str, fit: str) -> Image.Image:
    """To the size that is asked for, before anything else costs memory; then turned."""
    turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    if shape.isdigit():
        aspect = image.width / image.height
        width, height = sizes.of_area(int(shape), 1 / aspect if turn in SIDEWAYS else aspect)
    else:
        width, height = map(int, shape.split("x"))
    size = (height, width) if turn in SIDEWAYS else (width, height)
    image.draft("RGB", size)  # lets JPEG decode at a fraction of its size
    if image.mode.startswith("I;16") or image.mode == "I":  # convert() alone would make 16 bit greys white
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    elif image.has_transparency_data and image.mode != "RGBA":  # also where one colour means it
        image = image.convert("RGBA")
    elif image.mode == "1":
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "RGBA", "CMYK"):
        image = image.convert("RGB")
    factor = min(image.width // size[0], image.height // size[1]) // 3
    if factor > 1:  # first a quick way to about three times the size; nobody can see the difference
        image = image.reduce(factor)
    if fit == "pad":
        image = ImageOps.pad(image, size, Image.Resampling.LANCZOS, color=BLACK[image.mode])
    else:
        image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    return image.transpose(turn) if turn is not None else image


def _flat(image: Image.Image) -> Image.Image:
    """The image on a white ground, so that what the alpha channel hid stays hidden."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image).convert("RGB")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", image.size, image.tobytes()).save(buffer, "PNG")  # pixels alone, no metadata
    return buffer.getvalue()


if __name__ == "__main__":
    main()
