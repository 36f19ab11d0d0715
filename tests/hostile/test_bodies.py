"""Bodies of every kind, and headers that lie about them, over a raw socket."""

import contextlib
import gzip
import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.factories import FULL

COUNT = 10_000 if FULL else 300
VALID = {"prompt": "A cat", "image_url": None, "image_base64": ""}
NAMES = [*VALID, "other", "", "prompt\x00", "\ud800", "preset", "seed", "negative_prompt", "size", "fit"]
NAMES += ["num_frames", "seconds", "fps", "last_image_url", "last_image_base64"]
VALUES = [
    None,
    True,
    0,
    -1,
    1.5,
    17,
    1e308,
    float("inf"),
    10**400,
    "",
    " ",
    "x" * 10_001,
    "\x00",
    "\ud800",
    "🐈",
    [],
    {},
    [[]],
    {"prompt": "A dog"},
    "http://127.0.0.1/",
    "data:image/png;base64,",
    "AAAA",
    "=",
]
TYPES = ["application/json"] * 6 + [
    "application/json; charset=utf-16",
    "application/json; charset=none",
    "text/plain",
    "",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "*/*",
    "application/json\x00",
]


def body(dice: random.Random) -> bytes:
    data = dict(VALID)
    for _ in range(dice.randrange(3)):
        data[dice.choice(NAMES)] = dice.choice(VALUES)  # type: ignore[assignment]
    text = json.dumps(data).encode()
    kind = dice.randrange(10)
    if kind == 0:
        return dice.randbytes(dice.randrange(2000))
    if kind == 1:
        return gzip.compress(text)
    if kind == 2:
        return dice.choice([b"[", b'{"a":', b'"', b"{", b"-", b"\xef\xbb\xbf"]) * dice.randrange(20_000)
    if kind == 3:
        return json.dumps(dice.choice([*VALUES, data])).encode(dice.choice(["utf-16", "utf-8", "utf-32"]))
    mutated = bytearray(text)
    for _ in range(dice.randrange(4)):
        place = dice.randrange(len(mutated))
        mutated[place : place + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
    return bytes(mutated)


def request(dice: random.Random, key: str) -> bytes:
    content = body(dice)
    headers = {"Host": "127.0.0.1", "X-API-Key": key, "Connection": "close"}
    headers["Content-Type"] = dice.choice(TYPES)
    length = str(len(content))
    lie = dice.randrange(12)
    if lie == 0:
        length = dice.choice(["", "x", "-1", "0", "1e3", str(2**70), str(len(content) + 10), "5"])
    elif lie == 1:
        headers["Transfer-Encoding"] = dice.choice(["chunked", "gzip, chunked", "identity", "x"])
    elif lie == 2:
        headers["Content-Encoding"] = dice.choice(["gzip", "deflate", "br", "x"])
    elif lie == 3:
        headers["Idempotency-Key"] = dice.choice(["", "a", "x" * 256, "é", "\x7f"])
    if lie != 4:
        headers["Content-Length"] = length
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /generate HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + content


def ask(port: int, message: bytes) -> bytes:
    """What the server answers before it closes; nothing, if it just closes."""
    answer = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        with contextlib.suppress(ConnectionError, OSError):  # it may answer and close before it has read all
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65536):
                answer += data
    return answer


def is_wrong(answer: bytes) -> bool:
    """Anything but JSON below 500; but gunicorn says 501 to a Transfer-Encoding, as RFC 9112 wants."""
    head, _, content = answer.partition(b"\r\n\r\n")
    broken = b"application/json" not in head or not isinstance(json.loads(content), dict)
    return bool(broken) or (answer[9:10] == b"5" and answer[9:12] != b"501")


def test_none_is_a_5xx(stack, memory, figure):
    dice, longest, wrong, counts = random.Random(4), 0.0, [], {}
    before = memory.now()
    for _ in range(COUNT):
        message = request(dice, stack.env["API_KEY"])
        began = time.monotonic()
        answer = ask(int(stack.env["PORT"]), message)
        longest = max(longest, time.monotonic() - began)
        status = answer[9:12].decode() or "closed"
        counts[status] = counts.get(status, 0) + 1
        if is_wrong(answer):
            wrong.append((message[:500], answer[:500]))
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(counts.items()))
    figure(
        f"{COUNT:,} random bodies and headers",
        f"{len(wrong)} wrong answers ({statuses}), {longest:.2f} s at most, "
        f"web processes {memory.now() - before:+} MiB",
    )
    assert wrong == []
    assert {"200", "400", "415"} <= counts.keys()


LARGE = 27_000_000  # bytes, just below the limit
NUMBERS = "[" + "1," * (LARGE // 2) + "1]"
LARGE_BODIES = {
    "brackets": "[" * LARGE,
    "objects": '{"prompt": [' + "{}," * (LARGE // 3) + "{}]}",
    "numbers": '{"prompt": ' + NUMBERS + "}",
    "names": "{" + ",".join(f'"{number}":0' for number in range(LARGE // 12)) + "}",
    "a long URL": json.dumps({"prompt": "A cat", "image_url": "http://" + "a." * (LARGE // 2)}),
    "a long prompt": json.dumps({"prompt": "x" * LARGE}),
    "an emoji": json.dumps({"prompt": "A cat", "image_base64": "🐈" + "A" * LARGE}, ensure_ascii=False),
    "no image": json.dumps({"prompt": "A cat", "image_base64": "A" * LARGE}),
    "one number": '{"prompt": ' + "1" * LARGE + "}",
}


def large(stack, what):
    content = LARGE_BODIES[what].encode()
    head = (
        f"POST /generate HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {stack.env['API_KEY']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + content


def test_many_large_ones_at_once_cost_no_more_than_two(stack, memory, figure):
    message, before = large(stack, "no image"), memory.now()
    memory.forget()

    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: ask(int(stack.env["PORT"]), message), range(12)))

    codes = [int(answer[9:12]) for answer in answers]
    size = memory.peak() - before
    figure("12 bodies of 27 MB at once", f"{codes.count(503)} told to come back, web process {size:+} MiB")
    assert set(codes) <= {400, 503}
    assert size < 500


@pytest.mark.parametrize("what", LARGE_BODIES)
def test_a_large_one_costs_little(stack, memory, figure, what):
    message = large(stack, what)
    before = memory.now()
    memory.forget()
    began = time.monotonic()

    answer = ask(int(stack.env["PORT"]), message)

    spent, size = time.monotonic() - began, memory.peak() - before
    figure(f"27 MB of {what}", f"{spent:.2f} s, web process {size:+} MiB")
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413"))
    assert size < 300
