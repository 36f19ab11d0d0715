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
from django.http import QueryDict
from django.http import multipartparser as django
from rest_framework.exceptions import ParseError
from rest_framework.parsers import DataAndFiles, FormParser, MultiPartParser

from jobs.api.errors import PayloadTooLarge
from jobs.api.parsers import refuse_compressed


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
    """A body as it is read, to see whether it came whole: Django's parser takes a form that breaks off for a
    shorter one."""

    def __init__(self, stream: IO[bytes]):
        self.stream, self.count, self.tail = stream, 0, b""

    def read(self, *size: int) -> bytes:
        data = self.stream.read(*size)
        self.count += len(data)
        self.tail = (self.tail + data)[-100:]
        return data


class _Parser(django.MultiPartParser):
    def sanitize_file_name(self, file_name: str) -> str:
        return "file"  # whatever it is called: without a name Django would pass the file over


class Multipart(MultiPartParser):
    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> DataAndFiles:
        request = parser_context["request"]
        refuse_compressed(request)
        meta = request.META | {"CONTENT_TYPE": media_type}
        body: Any = Body(stream)
        try:
            parser = _Parser(meta, body, [Spool(request)], "utf-8")
            data, files = parser.parse()
        except (TooManyFieldsSent, TooManyFilesSent):
            raise ParseError("The form has too many parts.") from None
        except django.MultiPartParserError:
            raise ParseError("The body is not multipart/form-data with a boundary.") from None
        if body.count < int(request.META["CONTENT_LENGTH"]) or not body.tail.rstrip().endswith(b"--"):
            raise ParseError("The request body ended early.")
        return DataAndFiles(data, files)


class UrlEncoded(FormParser):
    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        request = parser_context["request"]
        refuse_compressed(request)
        text = stream.read()
        if len(text) < int(request.META["CONTENT_LENGTH"]):
            raise ParseError("The request body ended early.")
        try:
            return QueryDict(text, encoding="utf-8")
        except TooManyFieldsSent:
            raise ParseError("The form has too many parts.") from None
