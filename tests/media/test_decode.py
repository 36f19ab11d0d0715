"""The process that decodes an image (jobs.media.decode): whose fault it is when it ends without one."""

import subprocess
import sys

import pytest

from jobs.media import images
from jobs.media.images import CannotRead
from tests.media.pictures import DAMAGED, normalise, photo, refused
from tests.pictures import IMAGES, many_scans, saved


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
            normalise(b"")

        assert "the reason" in caplog.text
        assert caplog.records[0].levelname == "ERROR"

    def test_a_machine_that_gives_no_time_is_our_fault(self, decoder, monkeypatch):
        monkeypatch.setattr("jobs.media.images.SECONDS", 0.1)
        decoder("exec sleep 60")

        with pytest.raises(CannotRead):
            normalise(b"")

    def test_a_decoder_that_cannot_be_started_is_our_fault(self, monkeypatch):
        monkeypatch.setattr("jobs.media.images.sys.executable", "/nothing/here")

        with pytest.raises(CannotRead):
            normalise(b"")

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
    images.normalise(data, "832x480")
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
        [sys.executable, "-c", program, "3", "832", "480"], input=data, capture_output=True, cwd=images.ROOT
    )
    return done.returncode, done.stdout
