"""To sRGB, which the model takes every image for: from the colours that the file's ICC profile names."""

import io

from PIL import Image, ImageCms

GREYS = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
MODES = {"GRAY": "L", "RGB": "RGB", "CMYK": "CMYK"}  # Pillow's, by the name of the profile's colours
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
# What sRGB has stays as it is, and black becomes black. (The perceptual intent would shift every colour, to
# make room for those that sRGB has not.)
INTENT, FLAGS = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION


def to_srgb(pixels: Image.Image, mode: str, icc: bytes | None) -> Image.Image:
    """``mode`` is that of the file. A profile that is broken or does not fit is ignored."""
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
    return ("GRAY", "RGB") if mode in GREYS else ("RGB",)  # as browsers do: grey is a colour of each RGB
