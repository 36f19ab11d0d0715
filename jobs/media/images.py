"""The reference image: decoded from Base64, and made into the PNG that the model needs.

The decoding is done by ``jobs.media.decode`` in a process of its own, with a limit on its memory and its
time and without our settings: an image can be made to take minutes, or to break its decoder.
"""

import base64
import binascii
import logging
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

from jobs.media.decode import REFUSED, TOO_MUCH
from wanapi import limits

logger = logging.getLogger(__name__)

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 3  # of CPU for one image; the slowest honest one takes 1

_slots = threading.BoundedSemaphore(limits.IMAGE_DECODES)
_one_at_a_time = threading.Lock()


class BadImage(Exception):
    """One sentence for the client."""


class CannotRead(Exception):
    """This server cannot read any image at the moment; the log says why."""


class Busy(Exception):
    """Too many images are being taken in: the client should come back."""


def from_base64(text: str) -> bytes:
    """The bytes of an image file. A ``data:`` prefix, white space, missing padding and the URL-safe alphabet
    are all understood. Raises BadImage."""
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    if not text.isascii():
        raise BadImage("This is not valid Base64.")
    text = re.sub(r"\s+", "", text).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadImage("This is not valid Base64.") from None


def normalise(data: bytes, shape: str, fit: str = "cut") -> bytes:
    """A PNG in RGB from a PNG, JPEG or WebP file, scaled to a shape: 832x480, or an area in pixels with the
    image's own aspect. If the aspects differ it is cut at its centre, as the model's node would do it, or
    padded with black (``fit``: cut, pad).

    Raises BadImage and CannotRead; and Busy, at once, if IMAGE_DECODES images are decoded or wait already.
    """
    if not _slots.acquire(blocking=False):
        raise Busy
    try:
        with _one_at_a_time:
            return _decoded(data, shape, fit)
    finally:
        _slots.release()


def size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG that ``normalise`` made."""
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def _decoded(data: bytes, shape: str, fit: str) -> bytes:
    """What the decoder wrote. If it was ended by one of our own limits, the image is to blame (BadImage).

    Any other end is not the image's fault (CannotRead): a lower limit that the web process has, a kernel that
    needs the memory, a machine that starts no more processes, or one so busy that the decoder did not get its
    SECONDS of CPU within four times as many.
    """
    command = [sys.executable, "-m", "jobs.media.decode", str(SECONDS), shape, fit]
    try:
        done = subprocess.run(  # noqa: S603 - our own program, and nothing of the client's in its command
            command, input=data, capture_output=True, cwd=ROOT, env={}, timeout=4 * SECONDS, check=False
        )
    except (OSError, MemoryError, subprocess.TimeoutExpired) as error:
        logger.error("jobs.media.decode, which reads images, did not run to its end: %r", error)
        raise CannotRead from None
    if done.returncode == 0:
        return done.stdout
    if done.returncode == REFUSED:
        raise BadImage(done.stdout.decode())
    if done.returncode in (TOO_MUCH, -signal.SIGXCPU):
        raise BadImage("The image takes too much time or memory to decode.")
    reason = done.stderr.decode(errors="replace")[-500:]
    logger.error("jobs.media.decode, which reads images, ended with %s: %s", done.returncode, reason)
    raise CannotRead
