"""JSON in, as strict as a row in Postgres needs it."""

import json
from typing import IO, Any

from rest_framework.exceptions import ParseError, UnsupportedMediaType
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import JSONParser


class AlwaysJSON(DefaultContentNegotiation):
    """Whatever the client accepts: an error of negotiation would come before authentication."""

    def select_renderer(self, request: Any, renderers: Any, format_suffix: Any = None) -> Any:
        return renderers[0], renderers[0].media_type


# Each makes a Python object of maybe 60 bytes. A prompt may hold 10,000 of them.
STRUCTURE = (b"[", b"{", b",", b":")
MAX_STRUCTURE = 30_000


class StrictJSONParser(JSONParser):
    """An object, in plain UTF-8 whatever the header says, not nested beyond reason, each name once."""

    def parse(self, stream: IO[bytes], media_type: Any = None, parser_context: Any = None) -> dict[str, Any]:
        encoding = parser_context["request"].headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise UnsupportedMediaType(encoding, "Send the body as it is, without a Content-Encoding.")
        try:
            body = stream.read()
            if sum(map(body.count, STRUCTURE)) > MAX_STRUCTURE:
                raise ParseError("The JSON has too many parts.")
            # PowerShell and .NET like to put a byte order mark before it.
            data = json.loads(body.decode("utf-8-sig"), object_pairs_hook=_once, parse_constant=_refuse)
        except RecursionError:
            raise ParseError("The JSON is nested too deeply.") from None
        except ValueError:
            raise ParseError(
                "The body is not JSON in UTF-8. (Line breaks in a string must be escaped.)"
            ) from None
        if not isinstance(data, dict):
            raise ParseError("The body must be a JSON object.")
        return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Of a name that comes twice nobody can say which value was meant."""
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ParseError("The JSON has a name twice in one object.")
    return data


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
