"""JSON in, as strict as a row in Postgres needs it."""

import json
from typing import IO, Any

from rest_framework.exceptions import ParseError, UnsupportedMediaType
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import JSONParser


class AlwaysJSON(DefaultContentNegotiation):
    """Answers in JSON, whatever the client's Accept says: otherwise a 406 would come before the 401."""

    def select_renderer(self, request: Any, renderers: Any, format_suffix: Any = None) -> Any:
        return renderers[0], renderers[0].media_type


# Each of these can make a Python object of some 60 bytes. An honest prompt may hold 10,000 such characters.
STRUCTURE = (b"[", b"{", b",", b":")
MAX_STRUCTURE = 30_000


class StrictJSONParser(JSONParser):
    """One object in UTF-8, whatever charset the header names: not nested too deeply, and each name only once
    in an object. Raises ParseError, or UnsupportedMediaType for a body that is compressed."""

    def parse(self, stream: IO[bytes], media_type: Any = None, parser_context: Any = None) -> dict[str, Any]:
        refuse_compressed(parser_context["request"])
        try:
            body = stream.read()
            if sum(map(body.count, STRUCTURE)) > MAX_STRUCTURE:
                raise ParseError("The JSON has too many parts.")
            # PowerShell and .NET like to put a byte order mark before it.
            data = json.loads(
                body.decode("utf-8-sig"), object_pairs_hook=_single_values, parse_constant=_refuse
            )
        except RecursionError:
            raise ParseError("The JSON is nested too deeply.") from None
        except ValueError as error:
            raise ParseError(_where(error)) from None
        if not isinstance(data, dict):
            raise ParseError("The body must be a JSON object.")
        return data


def refuse_compressed(request: Any) -> None:
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMediaType(encoding, "Send the body as it is, without a Content-Encoding.")


def _single_values(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A name that is given twice is refused: no value can be preferred."""
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ParseError("The JSON has a name twice in one object.")
    return data


def _where(error: ValueError) -> str:
    """A sentence about what is no JSON, which quotes nothing of it."""
    if isinstance(error, json.JSONDecodeError):
        place = f"line {error.lineno}, column {error.colno}: {error.msg.removesuffix(' at')}"
        hint = " (A line break in a string is written \\n.)" if "control character" in error.msg else ""
        return f"The body is not JSON: {place}.{hint}"
    if isinstance(error, UnicodeDecodeError):
        return f"The body is not JSON in UTF-8: byte {error.start + 1} is of another encoding."
    return "The body is not JSON in UTF-8: it has a number that JSON does not know."


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
