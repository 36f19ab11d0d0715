"""S3 servers with the manners of stores that are not AWS, kept in memory. Signatures are not checked, but for
the region that they name."""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit

from tests import servers


@dataclass
class Store:
    """``region``: requests and links that are signed for another are refused. ``tells_region``: in a header,
    as AWS does. ``etag``: what stands in the answer to a PUT, if not the MD5. ``keeps``: what becomes of the
    bytes of a PUT. ``delete``: status and code of a DELETE of what is not there."""

    region: str = "us-east-1"
    tells_region: bool = True
    etag: str = ""
    keeps: Callable[[bytes], bytes] = bytes
    delete: tuple[int, str] = (204, "")
    lists: bool = True
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(store: Store) -> Iterator[Store]:
    with servers.serving(Handler, store=store) as store.url:
        yield store


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are two writes: the second would wait 40 ms
    store: Store

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        if self.store.tells_region:
            self.send_header("x-amz-bucket-region", self.store.region)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status: int, code: str) -> None:
        region = self.store.region if code == "AuthorizationHeaderMalformed" else ""
        text = f"<Error><Code>{code}</Code><Message>no</Message><Region>{region}</Region></Error>"
        self.answer(status, text.encode())

    def handle_any(self) -> None:
        store, parts = self.store, urlsplit(self.path)
        query, key = parse_qs(parts.query), unquote(parts.path).removeprefix("/wanapi").lstrip("/")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        store.requests.append((self.command, key, dict(self.headers)))
        credential = query.get("X-Amz-Credential", [""])[0] or self.headers.get("Authorization", "")
        signed = re.search(r"/\d{8}/([\w-]+)/s3/", credential)
        if not signed or signed[1] != store.region:
            self.error(400, "AuthorizationHeaderMalformed")
        elif self.command == "PUT":
            store.objects[key] = store.keeps(body)
            self.answer(200, ETag=f'"{store.etag or hashlib.md5(body).hexdigest()}"')
        elif self.command == "DELETE":
            status, code = (204, "") if store.objects.pop(key, None) is not None else store.delete
            self.error(status, code) if code else self.answer(status)
        elif not key and not store.lists:
            self.error(403, "AccessDenied")
        elif not key:
            self.answer(200, self.listing(query.get("prefix", [""])[0]))
        elif key in store.objects:
            self.answer(200, store.objects[key], **{"Content-Length": str(len(store.objects[key]))})
        else:
            self.error(404, "NoSuchKey")

    def listing(self, prefix: str) -> bytes:
        found = (key for key in self.store.objects if key.startswith(prefix))
        date = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        items = "".join(f"<Contents><Key>{key}</Key>{date}<Size>1</Size></Contents>" for key in found)
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode()

    do_GET = do_PUT = do_DELETE = do_HEAD = handle_any

    def log_message(self, *_: object) -> None:
        pass
