"""JSON in, as strict as a row in Postgres needs it."""

from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import JSONParser


class AlwaysJSON(DefaultContentNegotiation):
    """Whatever the client accepts: an error of negotiation would come before authentication."""

    def select_renderer(self, request: Any, renderers: Any, format_suffix: Any = None) -> Any:
        return renderers[0], renderers[0].media_type


class StrictJSONParser(JSONParser):
    """An object, in UTF-8 whatever the header says, not nested beyond reason."""

    def parse(self, stream: IO[bytes], media_type: Any = None, parser_context: Any = None) -> dict[str, Any]:
        try:
            data = super().parse(stream, media_type, parser_context | {"encoding": "utf-8"})
        except RecursionError:
            raise ParseError("The JSON is nested too deeply.") from None
        except ParseError:
            raise ParseError(
                "The body is not JSON in UTF-8. (Line breaks in a string must be escaped.)"
            ) from None
        if not isinstance(data, dict):
            raise ParseError("The body must be a JSON object.")
        return data
