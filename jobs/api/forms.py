"""Forms in, with files: multipart/form-data and application/x-www-form-urlencoded.

A file goes to disk while it comes, and is hashed on the way. Its name is never looked at.
"""

import hashlib
import tempfile
from typing import IO, Any

from django.conf import settings
from django.core.exceptions import TooManyFieldsSent, TooManyFilesSent
from django.core.files.uploadedfile import UploadedFile
from django.core.files.uploadhandler import FileUploadHandler
from django.http import QueryDict, UnreadablePostError
from django.http import multipartparser as django
from gunicorn.http.errors import ParseException
from rest_framework.exceptions import ParseError
from rest_framework.parsers import DataAndFiles, FormParser, MultiPartParser

from jobs.api.errors import PayloadTooLarge
from jobs.api.parsers import refuse_compressed

MAX_ESCAPED = 250_000  # each takes some hundred bytes while it is read; 8 MB of Base64 have so many


class Upload(UploadedFile):
    """A file of a form, in a temporary file that has no name and so leaves nothing behind."""

    def __init__(self, file: IO[bytes], sha256: str, size: int):
        super().__init__(file, name="file", size=size)
        self.sha256 = sha256

    def whole(self) -> bytes:
        self.seek(0)
        data: bytes = self.read()
        return data


class Spool(FileUploadHandler):
    def new_file(self, *args: Any, **options: Any) -> None:
        super().new_file(*args, **options)
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - Django closes it with the request
        self.sha256 = hashlib.sha256()

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        if start + len(raw_data) > settings.IMAGE_MAX_BYTES:
            self.file.close()
            raise PayloadTooLarge(f"A file has more than {settings.IMAGE_MAX_BYTES:,} bytes.")
        self.sha256.update(raw_data)
        self.file.write(raw_data)

    def file_complete(self, file_size: int) -> Upload:
        return Upload(self.file, self.sha256.hexdigest(), file_size)

    def upload_interrupted(self) -> None:
        self.file.close()


class Body:
    """A body as it is read, up to the limit, with a count of its boundaries: Django's parser takes a form
    that breaks off for a shorter one, and passes over parts whose head it cannot read."""

    def __init__(self, stream: IO[bytes], length: int | None):
        self.stream, self.length = stream, length
        self.boundary, self.boundaries = b"", 0
        self._count, self._tail = 0, b""

    def read(self, size: int) -> bytes:
        try:
            data = self.stream.read(size)
        except (OSError, ParseException) as error:  # gunicorn's, of a body in chunks
            raise UnreadablePostError(*error.args) from error
        self._count += len(data)
        if self._count > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
            raise PayloadTooLarge
        with_tail = self._tail + data
        self.boundaries += with_tail.count(self.boundary) - self._tail.count(self.boundary)
        self._tail = with_tail[-len(self.boundary) - 99 :]
        return data

    @property
    def ended(self) -> bool:
        """With the last boundary of the form, and where its length said."""
        return self.length in (None, self._count) and self._tail.rstrip().endswith(self.boundary + b"--")


class _Parser(django.MultiPartParser):
    def sanitize_file_name(self, file_name: str) -> str:
        return "file"  # whatever it is called: without a name Django would pass the file over


class Multipart(MultiPartParser):
    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> DataAndFiles:
        request = parser_context["request"]
        refuse_compressed(request)
        most = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        chunked = not request.META.get("CONTENT_LENGTH")
        body: Any = Body(stream, None if chunked else int(request.META["CONTENT_LENGTH"]))
        meta = {"CONTENT_TYPE": media_type, "CONTENT_LENGTH": body.length or most}
        try:
            parser: Any = _Parser(meta, body, [Spool(request)], "utf-8")
            body.boundary = b"--" + parser._boundary
            data, files = parser.parse()
        except (TooManyFieldsSent, TooManyFilesSent):
            raise ParseError("The form has too many parts.") from None
        except django.MultiPartParserError:
            raise ParseError("The body is not multipart/form-data with a boundary.") from None
        if not body.ended:
            raise ParseError("The request body ended early.")
        if body.boundaries != 1 + sum(len(values) for _, values in [*data.lists(), *files.lists()]):
            raise ParseError("The form has a part whose head is not text in UTF-8 with a name.")
        return DataAndFiles(data, files)


class UrlEncoded(FormParser):
    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        request = parser_context["request"]
        refuse_compressed(request)
        text = stream.read()
        if len(text) < int(request.META["CONTENT_LENGTH"]):
            raise ParseError("The request body ended early.")
        if text.count(b"%") > MAX_ESCAPED:
            raise ParseError("The form has too many escaped characters; send it as multipart/form-data.")
        try:
            return QueryDict(text, encoding="utf-8")
        except TooManyFieldsSent:
            raise ParseError("The form has too many parts.") from None
