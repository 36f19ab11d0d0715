"""Reads the JSON files of a preset's folder.

They are an operator's, perhaps ones that he found somewhere, and may be anything. So each is read as far as a
preset can be long, and no further.
"""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from comfy.preset import BadPreset

MAX_DEPTH = 30  # objects and lists in one another; a graph has 4
MAX_DIGITS = 20  # of a whole number: seeds have up to 20
# A request cannot carry a lone surrogate, and Postgres keeps no NUL.
NO_TEXT = re.compile("[\x00\ud800-\udfff]")


def read(path: Path, longest: int) -> Any:
    """What the file holds, of which there may be ``longest`` bytes. Raises BadPreset."""
    content = _content(path, longest)
    try:
        value = json.loads(
            content.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
            object_pairs_hook=_no_twins,
        )
        _check(value)
    except RecursionError:
        raise BadPreset(f"{path}: it is nested too deeply.") from None
    except UnicodeDecodeError as error:
        raise BadPreset(f"{path}: this is not UTF-8, at byte {error.start}.") from None
    except ValueError as error:  # of JSONDecodeError, too
        raise BadPreset(f"{path}: this is not the JSON of a preset: {error}.") from None
    return value


def _content(path: Path, longest: int) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a FIFO or a device would keep us waiting
            raise BadPreset(f"{path}: this is no file.")
        with open(path, "rb", opener=_at_once) as file:
            content: bytes = file.read(longest + 1) or b""
    except OSError as error:
        raise BadPreset(f"{path}: {error.strerror}.") from None
    if len(content) > longest:
        raise BadPreset(f"{path}: it has more than {longest:,} bytes.")
    if content.startswith(b"\xef\xbb\xbf"):
        raise BadPreset(f"{path}: it begins with a byte order mark. Save it as UTF-8 without one.")
    return content


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{text[:40]} is too large a number")
    return value


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > MAX_DIGITS:
        raise ValueError(f"a number has {len(text):,} digits, and {MAX_DIGITS} are the most")
    return int(text)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"{name[:100]!r} is there twice")
        found[name] = value
    return found


def _check(value: Any) -> None:
    """Raises ValueError for what could not be copied, stored or sent later."""
    level = [value]
    for _ in range(MAX_DEPTH):
        texts = [each for each in level if isinstance(each, str)]
        names = [name for each in level if isinstance(each, dict) for name in each]
        if any(map(NO_TEXT.search, texts)):
            raise ValueError("a text has a NUL or half a character (a lone surrogate)")
        for name in names:
            if not name.isprintable():
                raise ValueError(f"the name {name[:100]!r} has characters that cannot be printed")
        inner = [each.values() if isinstance(each, dict) else each for each in level if _is_nest(each)]
        level = [part for parts in inner for part in parts]
    if level:
        raise ValueError(f"it is nested too deeply, and {MAX_DEPTH} levels are the most")


def _is_nest(value: Any) -> bool:
    return isinstance(value, dict | list)
