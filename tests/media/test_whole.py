"""What the decoder would have to make up is refused (jobs.media.whole)."""

import struct
import zlib
from fractions import Fraction

import av
import pytest

from tests.media.pictures import DAMAGED, normalise, photo, refused
from tests.pictures import chunk, png, saved

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
        normalise(jpeg)

    @pytest.mark.parametrize("place", [0.05, 0.5, 0.8])
    def test_a_jpeg_that_lost_a_part(self, jpeg, place):
        begin = jpeg.index(b"\xff\xda") + 20
        lost = begin + int((len(jpeg) - begin) * place)

        assert refused(jpeg[:lost] + jpeg[lost + 2000 :]) == DAMAGED

    def test_a_jpeg_that_is_filled_up_with_zeros_before_its_end_is_whole(self, jpeg):
        assert normalise(jpeg[:-2] + bytes(2048) + jpeg[-2:])

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
        normalise(odd(saved(photo(), "JPEG")))

    @pytest.mark.parametrize(
        ("codec", "pixels"), [("mjpeg", "yuvj422p"), ("mjpeg", "yuvj444p"), ("ljpeg", "yuvj444p")]
    )
    def test_a_jpeg_of_another_encoder_is_taken_also_a_lossless_one(self, codec, pixels):
        normalise(encoded(codec, pixels))

    def test_a_jpeg_with_a_second_picture_is_taken_also_without_that(self):
        two = saved(photo(), "MPO", save_all=True, append_images=[photo("RGB", (208, 120))])

        normalise(two)
        normalise(two[: two.rindex(b"\xff\xd8\xff")])
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
        assert normalise(png(64, 64, rows=64))

    def test_a_png_that_ends_before_its_end(self):
        assert refused(saved(photo(), "PNG")[:-12]) == DAMAGED

    @pytest.mark.parametrize(("width", "height"), [(16, 16), (17, 19), (23, 16)])
    def test_an_interlaced_png_is_taken_if_it_is_whole(self, width, height):
        normalise(interlaced(width, height))
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
