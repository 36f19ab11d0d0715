"""JSON in, as strict as a row in Postgres needs it."""

from typing import IO, Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from jobs.errors import PayloadTooLarge


class StrictJSONParser(JSONParser):
    """An object in UTF-8; what is too large is 413 and what is nested beyond reason 400, both as JSON."""

    def parse(self, stream: IO[bytes], media_type: Any = None, parser_context: Any = None) -> dict[str, Any]:
        length = parser_context["request"].META.get("CONTENT_LENGTH") or ""
        if length.isdecimal() and int(length) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
            raise PayloadTooLarge
        try:
            data = super().parse(stream, media_type, parser_context | {"encoding": "utf-8"})
        except RequestDataTooBig:
            raise PayloadTooLarge from None
        except RecursionError:
            raise ParseError("The JSON is nested too deeply.") from None
        except ParseError:
            raise ParseError("The body is not JSON in UTF-8. (Line breaks inside a string must be escaped.)") from None
        if not isinstance(data, dict):
            raise ParseError("The body must be a JSON object.")
        return data
