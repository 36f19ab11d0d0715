"""``python -m local.door``: lets links to videos and posters through to the local S3 server, nothing else.

The S3 server has pages that need no key, and one of them removes everything. So it listens on loopback, at a
port that changes with each start. This listens where clients come, at a port that stays, and passes on what a
signed link asks for: GET and HEAD in the bucket. The S3 server checks the signature.
"""

import argparse
import asyncio
import logging

from aiohttp import ClientError, ClientSession, ClientTimeout, StreamReader, web
from yarl import URL

HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host", "date", "server"}
TIMEOUT = ClientTimeout(total=None, sock_connect=5, sock_read=60)
CHUNK = 256 * 1024  # bytes

logger = logging.getLogger("local.door")


class Door:
    """``to``: the S3 server. ``signed_for``: host and port that links are signed for, whatever name a client
    came by."""

    def __init__(self, to: str, bucket: str, signed_for: str):
        self.to, self.bucket, self.signed_for = to, bucket, signed_for
        self._session: ClientSession | None = None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        inside = request.path.startswith(f"/{self.bucket}/")
        if request.method not in ("GET", "HEAD") or not inside or "X-Amz-Signature" not in request.query:
            return web.Response(status=403, text="Only signed links are answered here.\n")
        if self._session is None:
            self._session = ClientSession(timeout=TIMEOUT, auto_decompress=False)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        url = URL(self.to + request.raw_path, encoded=True)
        try:
            async with self._session.request(
                request.method, url, headers=headers | {"Host": self.signed_for}, allow_redirects=False
            ) as answer:
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP}
                response = web.StreamResponse(status=answer.status, headers=kept)
                await response.prepare(request)
                await _copy(answer.content, response)
                return response
        except (ClientError, TimeoutError) as error:
            logger.warning("S3: %s", type(error).__name__)
            return web.Response(status=502, text="S3 does not answer; please try again shortly.\n")


async def _copy(content: StreamReader, response: web.StreamResponse) -> None:
    async for chunk in content.iter_chunked(CHUNK):
        await response.write(chunk)
    await response.write_eof()


async def run(door: Door, host: str, port: int) -> None:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", door.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("host", "to", "bucket", "signed-for"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(run(Door(options.to, options.bucket, options.signed_for), options.host, options.port))


if __name__ == "__main__":
    main()
