"""The reference image: decode or fetch it, check it, and make of it the PNG that the model needs.

What leaves here is always our own encoding, WIDTH x HEIGHT pixels: ComfyUI looks at no upload, accepts
truncated files, and would decode anything at full size.
"""

import base64
import binascii
import io
import re
import struct
import threading

from PIL import Image, ImageOps, UnidentifiedImageError

from comfy.workflow import HEIGHT, WIDTH

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

_one_at_a_time = threading.Lock()  # a decoded image can take 160 MB


class BadImage(Exception):
    """One sentence for the client."""


def from_base64(text: str) -> bytes:
    """Takes a ``data:`` prefix, white space, missing padding and the URL-safe alphabet."""
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    text = re.sub(r"\s+", "", text).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadImage("This is not valid Base64.") from None


def normalise(data: bytes) -> bytes:
    """A PNG of WIDTH x HEIGHT pixels, RGB: cut to that shape at the centre, as the model's node would."""
    with _one_at_a_time:
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width not in SIDES or image.height not in SIDES:
                    raise BadImage(f"Each side must have {SIDES[0]} to {SIDES[-1]:,} pixels.")
                if image.width * image.height > MAX_PIXELS:
                    raise BadImage(f"The image has more than {MAX_PIXELS // 1_000_000} megapixels.")
                shrunk = _shrunk(image)
        except UnidentifiedImageError:
            raise BadImage("The image is not a PNG, JPEG or WebP file.") from None
        except (OSError, SyntaxError, ValueError, EOFError, struct.error):  # what Pillow's decoders raise
            raise BadImage("The image is damaged or incomplete.") from None
    return _png(_flat(shrunk))


def _shrunk(image: Image.Image) -> Image.Image:
    """To the size that the model needs, before anything else costs memory; then turned."""
    turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    sideways = turn in SIDEWAYS
    size = (HEIGHT, WIDTH) if sideways else (WIDTH, HEIGHT)
    image.draft("RGB", size)  # lets JPEG decode at a fraction of its size
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bit greys would all clip to white
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    elif image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    image = ImageOps.fit(image, size, Image.Resampling.LANCZOS)
    return image.transpose(turn) if turn is not None else image


def _flat(image: Image.Image) -> Image.Image:
    """On white, so that what the alpha channel hid stays hidden."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image).convert("RGB")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    Image.frombytes("RGB", image.size, image.tobytes()).save(buffer, "PNG")  # pixels alone, no metadata
    return buffer.getvalue()
