"""The program that decodes a reference image: ``python -m jobs.decode SECONDS``, the image on standard input.

What it writes is always our own encoding, WIDTH x HEIGHT pixels: ComfyUI looks at no upload, accepts
truncated files, and would decode anything at full size. Exit code 0: a PNG; REFUSED: a sentence for the
client.
"""

import io
import resource
import struct
import sys
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

from comfy.workflow import HEIGHT, WIDTH

REFUSED = 3
MEMORY = 1024**3  # bytes: a WebP of 40 megapixels takes 600 MB
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


class Refused(Exception):
    """One sentence for the client."""


def main() -> None:
    seconds = int(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")  # of metadata that we drop
    try:
        sys.stdout.buffer.write(normalise(sys.stdin.buffer.read()))
    except Refused as error:
        sys.stdout.write(str(error))
        sys.exit(REFUSED)


def normalise(data: bytes) -> bytes:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width not in SIDES or image.height not in SIDES:
                raise Refused(f"Each side must have {SIDES[0]} to {SIDES[-1]:,} pixels.")
            if image.width * image.height > MAX_PIXELS:
                raise Refused(f"The image has more than {MAX_PIXELS // 1_000_000} megapixels.")
            shrunk = _shrunk(image)
    except UnidentifiedImageError:
        raise Refused("The image is not a PNG, JPEG or WebP file.") from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error):  # what Pillow's decoders raise
        raise Refused("The image is damaged or incomplete.") from None
    return _png(_flat(shrunk))


def _shrunk(image: Image.Image) -> Image.Image:
    """To the size that the model needs, before anything else costs memory; then turned."""
    turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    sideways = turn in SIDEWAYS
    size = (HEIGHT, WIDTH) if sideways else (WIDTH, HEIGHT)
    image.draft("RGB", size)  # lets JPEG decode at a fraction of its size
    if image.mode.startswith("I;16") or image.mode == "I":  # 16 bit greys would all clip to white
        image = image.point(lambda value: value * (1 / 256)).convert("L")
    elif image.has_transparency_data and image.mode != "RGBA":  # a palette's, or one colour that is none
        image = image.convert("RGBA")
    elif image.mode not in ("L", "RGB", "RGBA"):
        image = image.convert("RGB")
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


if __name__ == "__main__":
    main()
