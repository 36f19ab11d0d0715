"""The simulator's test card, and the MP4 that ComfyUI's SaveVideo would write of it.

The picture says SIMULATED in every frame, so that nobody takes it for the output of a model.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from PIL import Image, ImageDraw, ImageFont, ImageOps

STANDARD = 832 * 480 * 81  # pixels times frames: the request whose steps take --seconds-per-step
BARS = ("#bfbfbf", "#bfbf00", "#00bfbf", "#00bf00", "#bf00bf", "#bf0000", "#0000bf")
DARK = "#101418"
SMALLEST_TEXT = 8  # pixels
LONGEST_TEXT = 1000  # characters looked at; more than this fits on no card


@dataclass(frozen=True)
class Scene:
    """What stands in for the latents, images and videos that pass between the nodes."""

    width: int
    height: int
    frames: int
    text: str = ""
    seed: int = 0
    steps: int = 0  # sampled so far
    start: Image.Image | None = None
    end: Image.Image | None = None

    @property
    def work(self) -> float:
        """What a step of it costs, the standard request being 1."""
        return self.width * self.height * self.frames / STANDARD


def empty_scene(inputs: dict[str, Any]) -> Scene:
    """Sizes and lengths are not refused but rounded down: to multiples of 8, and to 4n + 1 frames."""
    width, height = (inputs[side] // 8 * 8 for side in ("width", "height"))
    return Scene(width, height, (inputs["length"] - 1) // 4 * 4 + 1)


def load(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def output_path(folder: Path, prefix: str, scene: Scene) -> Path:
    """The prefix with the next number: one more than the highest of that name in its folder."""
    for name, code in {
        "year": "Y",
        "month": "m",
        "day": "d",
        "hour": "H",
        "minute": "M",
        "second": "S",
    }.items():
        prefix = prefix.replace(f"%{name}%", time.strftime(f"%{code}"))
    prefix = prefix.replace("%width%", str(scene.width)).replace("%height%", str(scene.height))
    path = Path(os.path.abspath(folder / os.path.dirname(os.path.normpath(prefix))))
    name = os.path.basename(os.path.normpath(prefix))
    if not path.is_relative_to(folder):
        raise ValueError(f"Saving outside the output folder is not allowed: {prefix}")
    path.mkdir(parents=True, exist_ok=True)
    pattern = re.compile(re.escape(name) + r"_(\d+)")
    matches = (pattern.match(entry.name) for entry in path.iterdir())
    number = max((int(match[1]) for match in matches if match), default=0) + 1
    return path / f"{name}_{number:05}_.mp4"


def write_video(path: Path, scene: Scene, fps: float, tags: dict[str, Any]) -> None:
    """Encodes as SaveVideo does (H.264 High, CRF 23, no faststart, tags in the file), but faster."""
    # Without use_metadata_tags the MP4 muxer drops every tag that it does not know.
    with av.open(str(path), "w", format="mp4", options={"movflags": "use_metadata_tags"}) as container:
        for name, value in tags.items():
            container.metadata[name] = json.dumps(value)
        options = {"preset": "superfast", "crf": "23"}
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000), options=options)
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "yuv420p"
        stream.codec_context.thread_count = 2
        card = ImageCard(scene, fps) if scene.start or scene.end else BarsCard(scene, fps)
        for index in range(scene.frames):
            frame = av.VideoFrame.from_image(card.frame(index))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


class BarsCard:
    """Colour bars with a ball in front, the prompt's text below and a ruler that fills up."""

    def __init__(self, scene: Scene, fps: float) -> None:
        self.scene, self.fps = scene, fps
        width, height = scene.width, scene.height
        self.bars_height = round(height * 0.55)
        self.ruler_height = max(4, height // 28)
        self.small = font(min(height // 22, width // 38))
        self.stamp = simulated_stamp(width, self.bars_height)
        self.background = Image.new("RGB", (width, height), DARK)
        self.background.paste(colour_bars(width, self.bars_height))
        self._draw_words(ImageDraw.Draw(self.background))

    def _draw_words(self, draw: ImageDraw.ImageDraw) -> None:
        scene, margin = self.scene, self.scene.width // 26
        line_height = round(self.small.size * 1.35)
        top = self.bars_height + line_height // 2
        words = facts(scene, self.fps)
        if face := fitting(words, self.small, scene.width - 2 * margin):
            draw.text((margin, top), words, font=face, fill="#8fa3b5")
        room = scene.height - self.ruler_height - top - 2 * line_height
        lines = wrapped(scene.text, self.small, scene.width - 2 * margin, room // line_height)
        draw.text(
            (margin, top + line_height),
            "\n".join(lines),
            font=self.small,
            fill="white",
            spacing=line_height // 5,
        )

    def frame(self, index: int) -> Image.Image:
        image = self.background.copy()
        draw = ImageDraw.Draw(image)
        self._draw_ball(draw, index)
        image.paste(self.stamp, (0, (self.bars_height - self.stamp.height) // 2), self.stamp)
        self._draw_ruler(draw, index)
        return image

    def _draw_ball(self, draw: ImageDraw.ImageDraw, index: int) -> None:
        """A ball that crosses the bars once and back in 81 frames, bouncing; the seed is where it begins."""
        width, height = self.scene.width, self.bars_height
        radius = height // 9
        way = (index / 81 + self.scene.seed % 97 / 97) % 1
        x = radius + (width - 2 * radius) * abs(2 * way - 1)
        y = height - radius - (height - 2 * radius) * abs(math.sin(6 * math.pi * way))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill="white", outline="black", width=3)

    def _draw_ruler(self, draw: ImageDraw.ImageDraw, index: int) -> None:
        width, height, frames = self.scene.width, self.scene.height, self.scene.frames
        done = width * (index + 1) // frames
        draw.rectangle((0, height - self.ruler_height, done, height), fill="#e8b23a")
        counter = frame_counter(index, frames)
        place = (width - width // 26, height - self.ruler_height - 2)
        box = draw.textbbox(place, counter, font=self.small, anchor="rd")
        draw.rectangle((box[0] - 6, box[1] - 4, box[2] + 6, box[3] + 2), fill=DARK)
        draw.text(place, counter, font=self.small, fill="#e8b23a", anchor="rd")


class ImageCard:
    """The first and the last image, the one fading into the other, swaying a little; the prompt's text above,
    the facts below.

    The first frame is the start image exactly as the model is given it, the last frame the end image. Without
    an end image the start image stays; without a start image the colour bars are there first. Nothing is
    written on the row at three quarters of the height of usual sizes: there a test can see what is behind.
    """

    def __init__(self, scene: Scene, fps: float) -> None:
        self.scene, self.fps = scene, fps
        self.small = font(min(scene.height // 18, scene.width // 30))
        self.margin = scene.width // 26
        self.bottom = scene.height - self.margin  # of the lowest line that is free
        self.reach = (scene.width // 32, scene.height // 32)  # of the swaying
        size = scene.width, scene.height
        first = covering(scene.start, *size) if scene.start else colour_bars(*size)
        self.first = with_border(first, *self.reach)
        self.last = with_border(covering(scene.end, *size), *self.reach) if scene.end else self.first
        self.overlay = self._overlay()

    def _overlay(self) -> Image.Image:
        scene, margin = self.scene, self.margin
        overlay = Image.new("RGBA", (scene.width, scene.height))
        stamp = simulated_stamp(scene.width, scene.height)
        above = (scene.height - stamp.height) // 2
        overlay.paste(stamp, (0, above))
        most_lines = min(3, int((above - margin) // (self.small.size + 8)))
        lines = wrapped(scene.text, self.small, scene.width - 2 * margin, most_lines)
        self._write(overlay, (margin, margin), "\n".join(lines), "la")
        words = facts(scene, self.fps)
        if face := fitting(words, self.small, scene.width - 2 * margin):
            self._write(overlay, (margin, self.bottom), words, "ld", face)
            self.bottom -= round(1.3 * self.small.size)
        return overlay

    def frame(self, index: int) -> Image.Image:
        width, height, frames = self.scene.width, self.scene.height, self.scene.frames
        done = index / (frames - 1) if frames > 1 else 1.0
        turn = 2 * math.pi * done
        left = round(self.reach[0] * (1 + math.sin(turn)))
        top = round(self.reach[1] * (3 - math.cos(turn)) / 2)
        image = self._between(done).crop((left, top, left + width, top + height))
        image.paste(self.overlay, (0, 0), self.overlay)
        self._write(image, (width - self.margin, self.bottom), frame_counter(index, frames), "rd")
        return image

    def _between(self, done: float) -> Image.Image:
        """The first image for a third of the time, the last one for the last third, and a fade between."""
        part = min(1.0, max(0.0, 3 * done - 1))
        if part == 0 or self.last is self.first:
            return self.first
        return self.last if part == 1 else Image.blend(self.first, self.last, part)

    def _write(
        self,
        image: Image.Image,
        place: tuple[int, int],
        text: str,
        anchor: str,
        face: ImageFont.FreeTypeFont | None = None,
    ) -> None:
        outline: dict[str, Any] = {"stroke_width": 2, "stroke_fill": "black"}
        draw = ImageDraw.Draw(image)
        draw.text(place, text, font=face or self.small, fill="white", anchor=anchor, **outline)


def colour_bars(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(image)
    for index, colour in enumerate(BARS):
        left, right = (width * i // len(BARS) for i in (index, index + 1))
        draw.rectangle((left, 0, right - 1, height - 1), fill=colour)
    return image


def with_border(image: Image.Image, across: int, down: int) -> Image.Image:
    """With its own mirror image around it, so that a frame can move over it and never sees an edge."""
    larger = Image.new("RGB", (image.width + 2 * across, image.height + 2 * down))
    for column in (-1, 0, 1):
        for row in (-1, 0, 1):
            tile = ImageOps.mirror(image) if column else image
            place = (across + column * image.width, down + row * image.height)
            larger.paste(ImageOps.flip(tile) if row else tile, place)
    return larger


def covering(image: Image.Image, width: int, height: int) -> Image.Image:
    """Scaled to cover the frame and cropped in the centre, as WanImageToVideo does."""
    part = min(image.width / width, image.height / height)
    left, top = (image.width - width * part) / 2, (image.height - height * part) / 2
    box = (left, top, image.width - left, image.height - top)
    return image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS, box=box)


def simulated_stamp(width: int, height: int) -> Image.Image:
    """The word SIMULATED in white on a dark translucent band across the frame."""
    wanted = 0.72 * width
    size = 10 * wanted / font(10).getlength("SIMULATED")
    face = font(int(min(size, 0.45 * height)))
    band = Image.new("RGBA", (width, round(face.size * 1.3)), (0, 0, 0, 165))
    centre = (width // 2, band.height // 2)
    bold = round(face.size / 70)
    ImageDraw.Draw(band).text(centre, "SIMULATED", font=face, fill="white", anchor="mm", stroke_width=bold)
    return band


def font(size: int) -> ImageFont.FreeTypeFont:
    face = ImageFont.load_default(max(6, size))
    assert isinstance(face, ImageFont.FreeTypeFont), "Pillow was built without FreeType"  # noqa: S101 (for mypy)
    return face


def facts(scene: Scene, fps: float) -> str:
    steps = "1 step" if scene.steps == 1 else f"{scene.steps} steps"
    frames = "1 frame" if scene.frames == 1 else f"{scene.frames} frames"
    size = f"{scene.width}x{scene.height}"
    return "   ".join(("test card, no model ran", size, frames, f"{fps:g} fps", steps, f"seed {scene.seed}"))


def fitting(text: str, face: ImageFont.FreeTypeFont, width: int) -> ImageFont.FreeTypeFont | None:
    """The face, or a smaller one in which the text is no wider than that; None if nobody could read it."""
    size = int(min(face.size, face.size * width / face.getlength(text)))
    return font(size) if size >= SMALLEST_TEXT else None


def frame_counter(index: int, frames: int) -> str:
    return f"frame {index + 1:03} / {frames:03}"


def wrapped(text: str, face: ImageFont.FreeTypeFont, width: int, most_lines: int) -> list[str]:
    """The text in lines of at most `width` pixels; what does not fit is cut, with dots at the end."""
    lines = [""]
    words = text[:LONGEST_TEXT].replace("\\(", "(").replace("\\)", ")").split()
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if face.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:  # a word alone is broken only if it is wider than the line
            if face.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    if len(lines) > most_lines:
        lines = lines[: max(0, most_lines)]
        if lines:
            lines[-1] = lines[-1][:-3].rstrip() + "..."
    return lines
