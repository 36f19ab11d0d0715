"""The reference image, from what a client sends to what the model gets."""

import io

import pytest
from PIL import Image, ImageCms

from tests import profiles
from tests.media.pictures import normalise
from tests.pictures import saved


def normalised(image, format="PNG", **options):
    return Image.open(io.BytesIO(normalise(saved(image, format, **options))))


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


class TestColours:
    """A profile says which colours the numbers stand for. All but one of them are near the edge of sRGB."""

    SEEN = ((200, 60, 50), (60, 160, 70), (50, 80, 190), (230, 190, 60), (190, 140, 120), (120, 120, 120))

    def stored(self, colour, profile):
        """The numbers that ``profile`` has for a colour."""
        there = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), there, "RGB", "RGB", 1)
        return ImageCms.applyTransform(Image.new("RGB", (64, 64), colour), transform)

    @pytest.mark.parametrize("colour", SEEN)
    @pytest.mark.parametrize("profile", [profiles.display_p3, profiles.adobe_rgb, profiles.prophoto])
    def test_the_model_gets_what_a_viewer_shows(self, profile, colour):
        image = normalised(self.stored(colour, profile()), icc_profile=profile())

        assert near(image, colour)

    @pytest.mark.parametrize(
        ("format", "options"),
        [
            ("JPEG", {"quality": 95}),
            ("JPEG", {"progressive": True}),
            ("WEBP", {"lossless": True}),
            ("WEBP", {}),
        ],
    )
    def test_in_each_format(self, format, options):
        icc = profiles.adobe_rgb()
        image = normalised(self.stored((60, 160, 70), icc), format, icc_profile=icc, **options)

        assert near(image, (60, 160, 70))

    @pytest.mark.parametrize("sort", [lambda image: image.convert("RGBA"), lambda image: image.quantize(2)])
    def test_in_each_sort_of_pixels(self, sort):
        icc = profiles.adobe_rgb()

        assert near(normalised(sort(self.stored((60, 160, 70), icc)), icc_profile=icc), (60, 160, 70))

    def test_white_lies_behind_the_converted_colours(self):
        icc = profiles.prophoto()
        half = self.stored((60, 160, 70), icc)
        half.putalpha(128)

        assert near(normalised(half, icc_profile=icc), (157, 207, 162))

    @pytest.mark.parametrize(
        ("mode", "level", "seen"),
        [("L", 64, 137), ("LA", (64, 128), 196), ("I;16", 0x4000, 137), ("1", 1, 255)],
    )
    def test_greys(self, mode, level, seen):
        linear = normalised(Image.new(mode, (64, 64), level), icc_profile=profiles.grey(1.0))

        assert near(linear, (seen, seen, seen))

    def test_a_grey_photo_with_a_profile_for_rgb(self):
        dark = normalised(Image.new("L", (64, 64), 64), "JPEG", icc_profile=profiles.prophoto())

        assert near(dark, (82, 82, 82))

    @pytest.mark.parametrize(
        ("inks", "seen"), [((0, 0, 0, 0), 255), ((255, 0, 0, 0), 119), ((0, 0, 0, 255), 0)]
    )
    @pytest.mark.parametrize("progressive", [False, True])
    def test_cmyk_as_the_press_prints_it(self, inks, seen, progressive):
        options = {"icc_profile": profiles.press(), "progressive": progressive}

        assert near(normalised(Image.new("CMYK", (64, 64), inks), "JPEG", **options), (seen, seen, seen))

    @pytest.mark.parametrize(
        ("mode", "colour", "profile"),
        [
            ("RGB", (60, 160, 70), profiles.press()),
            ("RGB", (60, 160, 70), profiles.grey(1.0)),
            ("CMYK", (195, 95, 185, 0), profiles.adobe_rgb()),
            ("RGB", (60, 160, 70), b"no profile at all"),
            ("RGB", (60, 160, 70), profiles.adobe_rgb()[:200]),
            ("RGB", (60, 160, 70), profiles.adobe_rgb().replace(b"mntr", b"link")),
            ("RGB", (60, 160, 70), b"\0" * 4000),
        ],
        ids=["press", "grey", "cmyk", "text", "cut", "link", "zeros"],
    )
    def test_a_profile_that_is_broken_or_does_not_fit_is_ignored(self, mode, colour, profile):
        image = normalised(Image.new(mode, (64, 64), colour), "JPEG", quality=95, icc_profile=profile)

        assert near(image, (60, 160, 70))

    def test_a_profile_of_two_megabytes_is_taken(self):
        large = profiles.adobe_rgb() + b"\0" * 2_000_000

        assert near(normalised(self.stored((60, 160, 70), large), icc_profile=large), (60, 160, 70))


def near(image, colour):
    found = image.getpixel((416, 240))
    assert max(abs(ours - theirs) for ours, theirs in zip(found, colour, strict=True)) <= 3, found
    return True
