"""The reference image, from what a client sends to what the model gets."""

import io
import struct
import subprocess
import sys
import zlib
from fractions import Fraction

import av
import pytest
from PIL import Image, ImageCms

from jobs.media import images
from jobs.media.images import BadImage, CannotRead
from tests import profiles
from tests.hostile.images import IMAGES, chunk, many_scans, png, saved

DAMAGED = "The image is damaged or incomplete."


def normalised(image, format="PNG", **options):
    return Image.open(io.BytesIO(images.normalise(saved(image, format, **options))))


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


def photo(mode="RGB", size=(416, 240)):
    return Image.effect_noise(size, 60).convert(mode)


JPEGS = {
    "plain": ("RGB", {}),
    "full colour": ("RGB", {"subsampling": 0}),
    "as RGB": ("RGB", {"keep_rgb": True}),
    "odd size": ("RGB", {}),
    "progressive": ("RGB", {"progressive": True}),
    "restarts": ("RGB", {"restart_marker_blocks": 12}),
    "progressive, restarts": ("RGB", {"progressive": True, "restart_marker_rows": 1}),
    "grey": ("L", {}),
    "grey, progressive": ("L", {"progressive": True}),
    "CMYK": ("CMYK", {}),
    "CMYK, progressive": ("CMYK", {"progressive": True}),
}


class TestDamage:
    """What the decoder would have to make up is refused."""

    @pytest.fixture(params=JPEGS)
    def jpeg(self, request):
        mode, options = JPEGS[request.param]
        size = (417, 243) if request.param == "odd size" else (416, 240)
        return saved(photo(mode, size), "JPEG", **options)

    def test_a_whole_jpeg_is_taken(self, jpeg):
        images.normalise(jpeg)

    @pytest.mark.parametrize("place", [0.05, 0.5, 0.8])
    def test_a_jpeg_that_lost_a_part(self, jpeg, place):
        begin = jpeg.index(b"\xff\xda") + 20
        lost = begin + int((len(jpeg) - begin) * place)

        assert refused(jpeg[:lost] + jpeg[lost + 2000 :]) == DAMAGED

    def test_a_jpeg_that_is_filled_up_with_zeros_before_its_end_is_whole(self, jpeg):
        assert images.normalise(jpeg[:-2] + bytes(2048) + jpeg[-2:])

    def test_a_jpeg_with_zeros_in_its_middle(self, jpeg):
        middle = len(jpeg) // 2

        assert refused(jpeg[:middle] + bytes(4096) + jpeg[middle + 4096 :]) == DAMAGED

    def test_a_jpeg_whose_end_is_made_up(self, jpeg):
        assert refused(jpeg[: len(jpeg) * 3 // 4] + b"\xff\xd9") == DAMAGED
        assert refused(jpeg[:-2]) == DAMAGED

    def test_a_jpeg_without_one_of_its_restarts(self):
        jpeg = saved(photo(), "JPEG", restart_marker_rows=1)
        third, fourth = jpeg.index(b"\xff\xd3"), jpeg.index(b"\xff\xd4")

        assert refused(jpeg[:third] + jpeg[fourth:]) == DAMAGED

    def test_a_progressive_jpeg_without_its_last_scans(self):
        jpeg = saved(photo(), "JPEG", progressive=True)
        scan = jpeg.rindex(b"\xff\xda")

        assert refused(jpeg[:scan] + b"\xff\xd9") == DAMAGED
        assert refused(jpeg[: jpeg.rindex(b"\xff\xda", 0, scan)] + jpeg[scan:]) == DAMAGED

    @pytest.mark.parametrize(
        "odd",
        [
            lambda jpeg: jpeg[:-2] + b"\0\0\0" + jpeg[-2:],
            lambda jpeg: jpeg.replace(b"\xff\xdb", b"\0" * 10 + b"\xff\xdb", 1),
            lambda jpeg: jpeg + b"\0" * 1000,
            lambda jpeg: jpeg + saved(photo("L", (64, 64)), "JPEG")[:-500],  # a gain map, which was cut
            lambda jpeg: jpeg[:2] + b"\xff\xe1\x00\x0aExif\0\0" + jpeg[2:],
            lambda jpeg: jpeg[:2] + b"\xff\xe1\x00\x08\xff\xd8\xff\xda\xff\xd9" + jpeg[2:],
            lambda jpeg: jpeg.replace(b"JFIF\0\x01", b"JFIF\0\x07"),
        ],
        ids=["stray", "stray at the start", "trailing", "gain map", "exif", "markers in exif", "JFIF 7"],
    )
    def test_an_odd_jpeg_that_lost_nothing_is_taken(self, odd):
        images.normalise(odd(saved(photo(), "JPEG")))

    @pytest.mark.parametrize(
        ("codec", "pixels"), [("mjpeg", "yuvj422p"), ("mjpeg", "yuvj444p"), ("ljpeg", "yuvj444p")]
    )
    def test_a_jpeg_of_another_encoder_is_taken_also_a_lossless_one(self, codec, pixels):
        images.normalise(encoded(codec, pixels))

    def test_a_jpeg_with_a_second_picture_is_taken_also_without_that(self):
        two = saved(photo(), "MPO", save_all=True, append_images=[photo("RGB", (208, 120))])

        images.normalise(two)
        images.normalise(two[: two.rindex(b"\xff\xd8\xff")])
        assert refused(two[:20_000] + two[24_000:]) == DAMAGED

    @pytest.mark.parametrize("place", [0.05, 0.5, 0.95])
    @pytest.mark.parametrize("damage", [b"", bytes(16), b"\xff" * 16])
    @pytest.mark.parametrize("level", [0, 6])  # 0: not compressed, so that anything could be a pixel
    def test_a_png_whose_pixels_do_not_match_their_checksum(self, place, damage, level):
        data = saved(photo(), "PNG", compress_level=level)
        position = int(len(data) * place)

        assert refused(data[:position] + damage + data[position + 16 :]) == DAMAGED

    def test_a_png_with_a_wrong_checksum(self):
        data = saved(photo(), "PNG")
        checksum = len(data) - 12 - 4

        assert refused(data[:checksum] + b"none" + data[checksum + 4 :]) == DAMAGED

    def test_a_png_with_too_few_rows(self):
        assert refused(png(64, 64, rows=63)) == DAMAGED
        assert images.normalise(png(64, 64, rows=64))

    def test_a_png_that_ends_before_its_end(self):
        assert refused(saved(photo(), "PNG")[:-12]) == DAMAGED

    @pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 19), (23, 16)])
    def test_an_interlaced_png_is_taken_if_it_is_whole(self, width, height):
        images.normalise(interlaced(width, height))
        assert refused(interlaced(width, height, lost=1)) == DAMAGED

    @pytest.mark.parametrize("options", [{}, {"lossless": True}])
    def test_a_webp_that_was_cut_off(self, options):
        data = saved(photo(), "WEBP", **options)

        assert refused(data[: len(data) // 2]) == DAMAGED
        assert refused(data[:-20]) == DAMAGED


def encoded(codec, pixels):
    encoder = av.CodecContext.create(codec, "w")
    encoder.width, encoder.height, encoder.pix_fmt = 403, 301, pixels
    encoder.time_base, encoder.color_range = Fraction(1), 2
    frame = av.VideoFrame.from_image(photo(size=(403, 301))).reformat(format=pixels)
    return b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])


def interlaced(width, height, lost=0):
    """A grey PNG in Adam7's seven passes."""
    rows = [bytes(width)] * height
    steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    data = b"".join(
        b"\0" + row[x::across] for x, y, across, down in steps for row in rows[y::down] if row[x::across]
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data[: len(data) - lost]))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def refused(data):
    with pytest.raises(BadImage) as error:
        images.normalise(data)
    return str(error.value)


class TestDecoder:
    """Whose fault it is that there is no picture."""

    TOO_MUCH = "The image takes too much time or memory to decode."

    @pytest.fixture
    def decoder(self, tmp_path, monkeypatch):
        """Puts a shell script into the decoder's place."""
        script = tmp_path / "decoder"

        def put(command):
            script.write_text(f"#!/bin/sh\n{command}\n")
            script.chmod(0o755)
            monkeypatch.setattr("jobs.media.images.sys.executable", str(script))

        return put

    @pytest.mark.parametrize("end", ["kill -XCPU $$", "exit 4"])
    def test_our_own_limits_are_reached_by_the_image(self, decoder, end):
        decoder(end)

        assert refused(b"") == self.TOO_MUCH

    @pytest.mark.parametrize(
        "end", ["kill -KILL $$", "kill -SEGV $$", "kill -ABRT $$", "kill -TERM $$", "exit 1", "exit 127"]
    )
    def test_any_other_end_is_our_fault(self, decoder, end, caplog):
        decoder(f"echo the reason >&2; {end}")

        with pytest.raises(CannotRead):
            images.normalise(b"")

        assert "the reason" in caplog.text
        assert caplog.records[0].levelname == "ERROR"

    def test_a_machine_that_gives_no_time_is_our_fault(self, decoder, monkeypatch):
        monkeypatch.setattr("jobs.media.images.SECONDS", 0.1)
        decoder("exec sleep 60")

        with pytest.raises(CannotRead):
            images.normalise(b"")

    def test_a_decoder_that_cannot_be_started_is_our_fault(self, monkeypatch):
        monkeypatch.setattr("jobs.media.images.sys.executable", "/nothing/here")

        with pytest.raises(CannotRead):
            images.normalise(b"")

    def test_memory_that_we_give_ends_with_a_sentence_for_the_client(self):
        lower = "decode.MEMORY = 200_000_000"
        large = IMAGES["PNG as large as allowed, with alpha"][0]()

        assert python(f"import sys; from jobs.media import decode; {lower}; decode.main()", large) == (4, b"")


class TestInheritedLimits:
    """The decoder cannot have more than the web process may have."""

    NORMALISE = """
import resource, sys
from jobs.media import images
data = sys.stdin.buffer.read()
resource.setrlimit(resource.{kind}, ({limit}, {limit}))
try:
    images.normalise(data)
except Exception as error:
    print(type(error).__name__, error)
else:
    print("good")
"""

    def outcome(self, kind, limit, data):
        return python(self.NORMALISE.format(kind=kind, limit=limit), data)[1].decode().strip()

    @pytest.mark.parametrize(
        ("kind", "limit"), [("RLIMIT_AS", 900_000_000), ("RLIMIT_CPU", 2), ("RLIMIT_CORE", 0)]
    )
    def test_a_good_image_is_read_below_a_lower_limit(self, kind, limit):
        assert self.outcome(kind, limit, saved(photo(), "JPEG")) == "good"

    def test_a_damaged_one_is_still_told_so(self):
        cut = saved(photo(), "JPEG")[:-500]

        assert self.outcome("RLIMIT_AS", 900_000_000, cut) == f"BadImage {DAMAGED}"

    @pytest.mark.parametrize("large", ["PNG {}, with alpha", "WebP {}", "JPEG {}, CMYK"])
    def test_a_large_one_that_does_not_fit_is_not_blamed(self, large):
        data = IMAGES[large.format("as large as allowed")][0]()

        assert self.outcome("RLIMIT_AS", 200_000_000, data) == "CannotRead"

    @pytest.mark.parametrize(("kind", "limit"), [("RLIMIT_AS", 20_000_000), ("RLIMIT_NOFILE", 4)])
    def test_no_image_is_blamed_when_the_decoder_cannot_even_start(self, kind, limit):
        assert self.outcome(kind, limit, saved(photo(), "JPEG")) == "CannotRead"

    def test_less_time_than_ours_is_not_the_image_s_fault(self):
        assert self.outcome("RLIMIT_CPU", 1, many_scans((4000, 2490), 5_000)) == "CannotRead"


def python(program, data):
    done = subprocess.run(
        [sys.executable, "-c", program, "3"], input=data, capture_output=True, cwd=images.ROOT
    )
    return done.returncode, done.stdout
