"""Images that want memory, time, or something that is no image. Each is made when it is asked for."""

import io
import struct
import zlib
from collections.abc import Callable

from PIL import Image, PngImagePlugin

from tests.profiles import adobe_rgb

LARGE = (8000, 4990)  # pixels: just below the limit of 40 megapixels
LONG = (16_384, 2440)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def plain(mode: str, size: tuple[int, int] = LARGE) -> Image.Image:
    return Image.new(mode, size)


def noise(mode: str, size: tuple[int, int]) -> Image.Image:
    """Something that does not compress well, so that decoding it is real work."""
    return Image.effect_noise(size, 60).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(
    width: int, height: int, *, depth: int = 8, colour: int = 2, rows: int = 1, extra: bytes = b""
) -> bytes:
    """A PNG by hand: ``rows`` rows of zeros, whatever its header promises."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    row = b"\0" * (1 + (width * channels * depth + 7) // 8) if rows else b""
    squeezer, data = zlib.compressobj(9), b""
    for _ in range(rows):
        data += squeezer.compress(row)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    palette = chunk(b"PLTE", b"\0\0\0") if colour == 3 else b""
    body = chunk(b"IHDR", header) + palette + extra + chunk(b"IDAT", data + squeezer.flush())
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def before_the_data(extra: bytes) -> bytes:
    return png(64, 64, rows=64, extra=extra)


def animation(format: str, frames: int, size: tuple[int, int]) -> bytes:
    images = [Image.new("RGB", size, (number % 256, 0, 0)) for number in range(frames)]
    return saved(images[0], format, save_all=True, append_images=images[1:])


def many_scans(size: tuple[int, int], times: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: few bytes, each a pass over everything."""
    data = saved(plain("L", size), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * times + data[-2:]


def exif_loop() -> bytes:
    """An IFD whose next IFD is itself."""
    entry = struct.pack("<HHII", 0x0112, 3, 1, 1)
    tiff = b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + struct.pack("<I", 8)
    return saved(plain("RGB", (64, 64)), "JPEG", exif=b"Exif\0\0" + tiff)


def exif_of(size: int) -> bytes:
    return saved(plain("RGB", (64, 64)), "JPEG", exif=b"Exif\0\0II*\0" + b"\xff" * size)


def text_bombs(count: int) -> bytes:
    info = PngImagePlugin.PngInfo()
    for number in range(count):
        info.add_text(f"note {number}", "x" * 1_000_000, zip=True)
    return saved(plain("RGB", (64, 64)), "PNG", pnginfo=info)


def compressed(size: int) -> bytes:
    return zlib.compress(b"\0" * size, 9)


def small(format: str, mode: str = "RGB") -> bytes:
    return saved(plain(mode, (64, 64)), format)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(/etc/passwd) (r) file\n"

# What it is, and whether a video may be made of it.
IMAGES: dict[str, tuple[Callable[[], bytes], bool]] = {
    "PNG of 169 megapixels": (lambda: saved(plain("1", (13_000, 13_000)), "PNG"), False),
    "PNG of 2^31 pixels a side": (lambda: png(2**31 - 1, 1, rows=0), False),
    "PNG of no width": (lambda: png(0, 64), False),
    "PNG as large as allowed": (lambda: saved(plain("RGB"), "PNG"), True),
    "PNG as large as allowed, with alpha": (lambda: saved(plain("RGBA"), "PNG"), True),
    "PNG as large as allowed, 16 bit grey": (lambda: saved(plain("I;16"), "PNG"), True),
    "PNG as large as allowed, 16 bit RGB": (lambda: png(*LARGE, depth=16, rows=LARGE[1]), True),
    "PNG as large as allowed, 16 bit RGBA": (lambda: png(*LARGE, depth=16, colour=6, rows=LARGE[1]), True),
    "PNG as large as allowed, grey with alpha": (lambda: saved(plain("LA"), "PNG"), True),
    "PNG as large as allowed, palette": (lambda: saved(plain("P"), "PNG"), True),
    "PNG as large as allowed, transparent palette": (
        lambda: saved(plain("P"), "PNG", transparency=b"\x00\x80"),
        True,
    ),
    "PNG as large as allowed, 1 bit": (lambda: saved(plain("1"), "PNG"), True),
    "PNG as long as allowed": (lambda: saved(plain("RGB", LONG), "PNG"), True),
    "PNG of noise": (lambda: saved(noise("L", (4000, 3500)), "PNG"), True),
    "PNG, cut off": (lambda: saved(noise("RGB", (800, 600)), "PNG")[:-5000], False),
    "PNG that promises more rows than it has": (lambda: png(8000, 4000, rows=1), False),
    "PNG with more data than it promises": (lambda: png(64, 64, rows=1_000_000), True),
    "PNG with a broken checksum": (lambda: small("PNG").replace(b"IDAT", b"IDAX"), False),
    "PNG with a header twice": (lambda: before_the_data(chunk(b"IHDR", b"\0" * 13)), False),
    "PNG with a header that is too short": (
        lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"\0\0\0\x40"),
        False,
    ),
    "PNG with a chunk of 2 GB": (lambda: before_the_data(struct.pack(">I", 2**31 - 1) + b"tEXt"), False),
    "PNG with 100,000 chunks": (lambda: before_the_data(chunk(b"tIME", b"\0" * 7) * 100_000), True),
    "PNG with compressed texts": (lambda: text_bombs(100), False),
    "PNG with one compressed text of 500 MB": (
        lambda: before_the_data(chunk(b"zTXt", b"note\0\0" + compressed(500_000_000))),
        False,
    ),
    "PNG with a colour profile of 500 MB": (
        lambda: before_the_data(chunk(b"iCCP", b"profile\0\0" + compressed(500_000_000))),
        False,
    ),
    "animated PNG of 1,000 frames": (lambda: animation("PNG", 1000, (64, 64)), True),
    "animated WebP": (lambda: animation("WEBP", 60, (1000, 1000)), True),
    "animated GIF": (lambda: animation("GIF", 60, (1000, 1000)), False),
    "WebP as large as allowed": (lambda: saved(plain("RGB"), "WEBP"), True),
    "WebP as large as allowed, lossless with alpha": (
        lambda: saved(plain("RGBA"), "WEBP", lossless=True),
        True,
    ),
    "WebP, cut off": (lambda: saved(noise("RGB", (800, 600)), "WEBP")[:-500], False),
    "JPEG as large as allowed": (lambda: saved(plain("RGB"), "JPEG"), True),
    "JPEG as large as allowed, progressive": (
        lambda: saved(plain("RGB"), "JPEG", progressive=True, subsampling=0),
        True,
    ),
    "JPEG as large as allowed, CMYK": (lambda: saved(plain("CMYK"), "JPEG"), True),
    "JPEG as long as allowed": (lambda: saved(plain("RGB", LONG), "JPEG"), True),
    "JPEG of noise": (lambda: saved(noise("RGB", (5000, 4000)), "JPEG", quality=75), True),
    "JPEG of 10,000 scans": (lambda: many_scans(LARGE, 10_000), False),
    "JPEG, cut off": (lambda: saved(noise("RGB", (800, 600)), "JPEG")[:-500], False),
    "JPEG with a colour profile of 15 MB": (
        lambda: saved(plain("RGB", (64, 64)), "JPEG", icc_profile=adobe_rgb() + b"\0" * 15_000_000),
        True,
    ),
    "JPEG that lost its middle": (
        lambda: (data := saved(noise("RGB", (800, 600)), "JPEG"))[:50_000] + data[60_000:],
        False,
    ),
    "JPEG with an EXIF that loops": (exif_loop, True),
    "JPEG with an EXIF of nonsense": (lambda: exif_of(60_000), True),
    "JPEG that claims 65,535 x 65,535": (
        lambda: small("JPEG").replace(struct.pack(">HH", 64, 64), b"\xff\xff\xff\xff", 1),
        False,
    ),
    "JPEG with a ZIP behind it": (lambda: small("JPEG") + b"PK\x03\x04" + b"\0" * 1000, True),
    "PNG with a page behind it": (lambda: small("PNG") + b"<script>alert(1)</script>", True),
    "SVG that reads a file": (lambda: SVG, False),
    "EPS that reads a file": (lambda: EPS, False),
    "TIFF": (lambda: small("TIFF"), False),
    "BMP": (lambda: small("BMP"), False),
    "ICO": (lambda: small("ICO", "RGBA"), False),
    "PDF": (lambda: small("PDF"), False),
    "JPEG 2000": (lambda: small("JPEG2000"), False),
    "WebP by name, GIF inside": (lambda: b"RIFF\x10\0\0\0WEBP" + small("GIF", "P"), False),
    "nothing": (lambda: b"\0", False),
}
