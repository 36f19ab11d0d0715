"""The reference image, from what a client sends to what the model gets."""

import io

import pytest
from PIL import Image

from jobs import images


def normalised(image, format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return Image.open(io.BytesIO(images.normalise(buffer.getvalue())))


def halves(mode, left, right, size=(800, 600)):
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def test_a_photo_is_turned_by_its_exif():
    photo = halves("RGB", "red", "blue")
    exif = Image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side: the left edge is the top

    upright = normalised(photo, "JPEG", quality=95, exif=exif)

    assert upright.size == (832, 480)
    assert upright.getpixel((416, 20))[0] > 200  # red on top
    assert upright.getpixel((416, 460))[2] > 200  # blue below


def test_what_alpha_hides_stays_hidden():
    hidden = halves("RGBA", (255, 0, 0, 0), (0, 0, 255, 255))

    image = normalised(hidden)

    assert image.getpixel((20, 240)) == (255, 255, 255)
    assert image.getpixel((812, 240)) == (0, 0, 255)


def test_sixteen_bit_greys_do_not_clip_to_white():
    assert normalised(Image.new("I;16", (64, 64), 0x4000)).getpixel((20, 240)) == (0x40, 0x40, 0x40)
    assert normalised(Image.new("I;16", (64, 64), 0xC000)).getpixel((20, 240)) == (0xC0, 0xC0, 0xC0)


def test_cmyk_becomes_rgb():
    image = normalised(Image.new("CMYK", (800, 600), (0, 255, 255, 0)), "JPEG")

    red, green, blue = image.getpixel((100, 100))
    assert red > 200
    assert max(green, blue) < 60


def test_a_palette_with_transparency_is_flattened():
    image = Image.new("P", (100, 100), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])

    assert normalised(image, transparency=0).getpixel((400, 200)) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "colour"), [("RGB", (255, 0, 0)), ("L", 7)])
def test_a_colour_that_stands_for_none_is_not_seen(mode, colour):
    image = normalised(Image.new(mode, (100, 100), colour), transparency=colour)

    assert image.getpixel((400, 200)) == (255, 255, 255)


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]

    image = normalised(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)

    assert image.getpixel((400, 200)) == (255, 0, 0)


def test_no_metadata_survives():
    exif = Image.Exif()
    exif[0x010E] = "a private note"

    image = normalised(Image.new("RGB", (64, 64)), exif=exif)

    assert not image.getexif()
    assert not image.info
