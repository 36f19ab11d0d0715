"""Converts images from the colours that their ICC profile names to sRGB: the model takes them for sRGB."""

import io

from PIL import Image, ImageCms

GREYS = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}  # Pillow's, by the name of the profile's colours
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
# Colours that sRGB has stay as they are, and black becomes black. (The perceptual intent would shift every
# colour, to make room for colours that sRGB does not have.)
INTENT, FLAGS = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION


def to_srgb(pixels: Image.Image, mode: str, icc: bytes | None) -> Image.Image:
    """``mode`` and ``icc`` are the file's. A profile that is broken or does not fit the mode is ignored."""
    if not icc:
        return pixels
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        if space not in _fitting(mode):
            return pixels
        transform = ImageCms.buildTransform(profile, SRGB, MODES[space], "RGB", INTENT, FLAGS)
        converted = ImageCms.applyTransform(pixels.convert(MODES[space]), transform)
    except (OSError, ValueError, ImageCms.PyCMSError):
        return pixels
    assert converted is not None  # noqa: S101 - it was not asked to work in place
    if pixels.mode == "RGBA":
        converted.putalpha(pixels.getchannel("A"))
    return converted


def _fitting(mode: str) -> tuple[str, ...]:
    if mode == "CMYK":
        return ("CMYK",)
    return ("GRAY", "RGB") if mode in GREYS else ("RGB",)  # as browsers do: RGB has greys, too
