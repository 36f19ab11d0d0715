"""The rendered MP4: is it what was asked for, and is it fit to be served?"""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import av

POSTER = (416, 416)  # pixels, at most


class Unplayable(Exception):
    """The file is no whole MP4: its renderer died or its disk was full while it wrote."""


class NotAsAsked(Exception):
    """The file plays, but is not the video that the workflow describes."""


@dataclass(frozen=True)
class Video:
    path: Path
    size: int  # bytes
    frames: int
    sha256: str  # hex


def finish(source: Path, target: Path, size: tuple[int, int], frames: tuple[int, int], fps: int) -> Video:
    """Checks ``source``, and writes it to ``target`` with its index first, so that playback begins before the
    download ends, and without ComfyUI's metadata, which holds the client's prompt. No re-encoding. What is
    asked for, and the errors, are those of ``check``; OSError is a disk of ours."""
    count = check(source, size, frames, fps)
    try:
        _remux(source, target)
    except av.FFmpegError as error:  # the source is whole, so our own disk failed
        raise OSError(str(error)) from error
    with target.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Video(target, target.stat().st_size, count, sha256)


def poster(path: Path) -> bytes:
    """A small JPEG of the first frame, for the operators' lists."""
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    image = frame.to_image()
    image.thumbnail(POSTER)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=80)
    return jpeg.getvalue()


def check(path: Path, size: tuple[int, int], frames: tuple[int, int], fps: int) -> int:
    """Returns the number of frames. Raises Unplayable, or NotAsAsked unless it is H.264 of this size in
    pixels, with the least to the most of ``frames``, ``fps`` of them per second. Decodes every frame, since
    a cut file can open and claim its full length."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            count = sum(1 for _ in container.decode(stream))
            context = stream.codec_context
            found = (context.name, context.width, context.height, stream.average_rate, count)
    except (av.FFmpegError, IndexError) as error:
        raise Unplayable(str(error)) from error
    least, most = frames
    wanted = ("h264", *size, fps, min(count, most))
    if count < least:
        raise Unplayable(f"{count} of {least} frames")
    if found != wanted:
        raise NotAsAsked(f"{found} instead of {wanted}")
    return count


def _remux(source: Path, target: Path) -> None:
    with av.open(str(source)) as old, av.open(str(target), "w", options={"movflags": "+faststart"}) as new:
        stream = old.streams.video[0]
        copy = new.add_stream_from_template(stream)
        copy.metadata.clear()
        for packet in old.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                new.mux(packet)
