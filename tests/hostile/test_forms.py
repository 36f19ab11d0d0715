"""Forms of every kind to /v1/videos, over a raw socket: bombs, lies about lengths, names with paths."""

import contextlib
import json
import os
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.factories import FULL, picture
from tests.processes import pids

COUNT = 10_000 if FULL else 300
LARGE = 27_000_000  # bytes, just below the limit
FIELD = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
FILE = b'--x\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\nContent-Type: a/b\r\n\r\n%s\r\n'
BASE64 = (
    b"--x\r\nContent-Disposition: form-data; name=prompt; filename=a\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n"
)
END = b"--x--\r\n"
PROMPT = FIELD % (b"prompt", b"A cat")


def head(stack, headers):
    lines = {
        "Host": "127.0.0.1",
        "Authorization": f"Bearer {stack.env['API_KEY']}",
        "Content-Type": "multipart/form-data; boundary=x",
        "Connection": "close",
    } | headers
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value is not None)
    return f"POST /v1/videos HTTP/1.1\r\n{text}\r\n".encode("latin-1")


def ask(stack, content, **headers):
    """The status and the answer; None if the server just closed."""
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    message = head(stack, {"Content-Length": str(len(content))} | headers) + content
    answer = b""
    with socket.create_connection(("127.0.0.1", int(stack.env["PORT"])), timeout=30) as connection:
        with contextlib.suppress(OSError):  # it may answer and close before it has read all
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while data := connection.recv(65536):
                answer += data
    if not answer:
        return None
    top, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in top, answer[:500]
    return int(answer[9:12]), json.loads(body)


def chunked(content, size):
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


LYING = {
    "cut in the prompt": (FIELD % (b"prompt", b"A cat and a dog"))[:-8],
    "cut in a file": PROMPT + (FILE % (b"input_reference", b"a.png", picture()))[:-20],
    "without its end": PROMPT,
    "with an end of another form": PROMPT + b"--y",
    "of nothing": b"",
    "of one boundary": b"--x",
    "of JSON": b'{"prompt": "A cat"}',
    "of zeros": bytes(100_000),
    "with a head without end": b"--x\r\nContent-Disposition: form-data; " + b"a" * 100_000,
    "with a name that is no text": FIELD % (b"\xff\xfe", b"a"),
    "with base64 that is none": BASE64 + b"!!!!\r\n" + END,
    "with a part without a name": PROMPT + b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n" + END,
    "with a file whose name is not UTF-8": PROMPT + FILE % (b"input_reference", b"\xff.png", picture()) + END,
}


@pytest.mark.parametrize("what", LYING)
def test_a_form_that_is_none_is_a_400(stack, what):
    status, answer = ask(stack, LYING[what])

    assert status == 400
    assert {*answer["error"]} == {"message", "type", "param", "code"}


@pytest.mark.parametrize("length", ["5", "0", str(len(PROMPT + END) - 3)])
def test_a_length_that_is_too_short_makes_no_job(stack, length):
    status, _ = ask(stack, PROMPT + END, Content_Length=length)

    assert status == 400


@pytest.mark.parametrize("kind", ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded"])
def test_a_length_that_is_too_long_makes_no_job(stack, kind):
    content = PROMPT + END if "multipart" in kind else b"prompt=A+cat"

    status, answer = ask(stack, content, Content_Length=str(len(content) + 10), Content_Type=kind)

    assert (status, answer["error"]["message"]) == (400, "The request body ended early.")


def test_a_length_above_the_limit_is_not_read(stack):
    assert ask(stack, PROMPT + END, Content_Length=str(10**12))[0] == 413


class TestChunks:
    def ask(self, stack, content, **headers):
        return ask(stack, content, Content_Length=None, Transfer_Encoding="chunked", **headers)

    @pytest.mark.parametrize("size", [1, 7, 100_000])
    def test_of_a_form_are_taken(self, stack, size):
        form = PROMPT + FILE % (b"input_reference", b"a.png", picture()) + END

        assert self.ask(stack, chunked(form, size))[0] == 200

    @pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded", ""])
    def test_of_another_body_are_not(self, stack, kind):
        assert self.ask(stack, chunked(PROMPT + END, 9), Content_Type=kind)[0] == 411

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"0\r\n\r\n",
            b"zz\r\n",
            b"ffffffffffffffff\r\n" + PROMPT,
            b"5\r\n" + PROMPT,
            chunked(PROMPT, 9),
            chunked(PROMPT + END, 9)[:-7],
            b"%x;%s\r\n" % (len(PROMPT), b"a" * 100_000) + PROMPT,
            chunked(PROMPT + END, 9)[:-2] + b"A: " + b"a" * 200_000,
        ],
    )
    def test_that_lie_are_a_400(self, stack, content):
        answer = self.ask(stack, content)

        assert answer is None or answer[0] == 400

    def test_without_end_are_a_413(self, stack, memory):
        memory.forget()
        before = memory.now()
        body = (
            PROMPT
            + b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'
            + b"a" * 2 * LARGE
        )

        assert self.ask(stack, chunked(body, 1_000_000))[0] == 413
        assert memory.peak() - before < 150


@pytest.mark.parametrize(
    "name",
    [
        b"../../../etc/passwd",
        b"..",
        b"/",
        b"C:\\\\a.png",
        b"a." + b"x" * 900,
        b"a\x00b.png",
        b"&#x2e;&#x2e;/a",
        b"%2e%2e%2fa",
    ],
)
def test_the_name_of_a_file_is_never_looked_at(stack, name):
    status, video = ask(stack, PROMPT + FILE % (b"input_reference", name, picture()) + END)

    assert (status, video["size"]) == (200, "720x544")  # of the picture, so it was not passed over


BOMBS = {
    "10,000 fields": FIELD % (b"a", b"b") * 10_000,
    "10,000 files": FILE % (b"input_reference", b"a.png", b"b") * 10_000,
    "fields of nothing": FIELD % (b"", b"") * (LARGE // 60),
    "boundaries": b"--x\r\n" * (LARGE // 5),
    "half boundaries": b"\r\n--" * (LARGE // 4),
    "line ends": b"\r\n" * (LARGE // 2),
    "one field": FIELD % (b"prompt", b"a" * LARGE),
    "one large name": FIELD % (b"a" * LARGE, b"b"),
    "a large file": PROMPT + FILE % (b"input_reference", b"a.png", b"a" * 26_000_000),
    "a file of half boundaries": PROMPT + FILE % (b"input_reference", b"a.png", b"\r\n--" * 5_000_000),
    "nine large files": PROMPT + b"".join(FILE % (b"f%d" % n, b"a", b"a" * 2_900_000) for n in range(9)),
    "base64": PROMPT + BASE64 + b"A\n" * (LARGE // 2 - 200),
}


@pytest.mark.parametrize("what", BOMBS)
def test_a_bomb_costs_little(stack, memory, figure, what):
    before = memory.now()
    memory.forget()
    began = time.monotonic()

    answer = ask(stack, BOMBS[what] + END)

    spent, size = time.monotonic() - began, memory.peak() - before
    figure(f"a form of {what}", f"{spent:.2f} s, web process {size:+} MiB")
    assert answer is None or answer[0] in (200, 400, 413)
    assert size < 200
    assert open_files(stack) == []


URL_ENCODED = {
    "10,000 fields": b"a=b&" * 10_000,
    "ends of fields": b"&" * LARGE,
    "escapes": b"prompt=" + b"%41" * (LARGE // 3),
    "as many escapes as there may be": b"prompt=" + (b"%41" + b"A" * 100) * 250_000,
    "one field": b"prompt=" + b"a" * LARGE,
    "one field of spaces": b"prompt=" + b"+" * LARGE,
}


@pytest.mark.parametrize("what", URL_ENCODED)
def test_a_urlencoded_bomb_as_well(stack, memory, figure, what):
    before = memory.now()
    memory.forget()

    status, _ = ask(stack, URL_ENCODED[what], Content_Type="application/x-www-form-urlencoded")

    size = memory.peak() - before
    figure(f"a urlencoded form of {what}", f"web process {size:+} MiB")
    assert status == 400
    assert size < 300


def test_many_large_files_at_once_are_told_to_come_back(stack, memory, figure):
    form = PROMPT + FILE % (b"input_reference", b"a.png", b"a" * 20_000_000) + END
    before = memory.now()
    memory.forget()

    with ThreadPoolExecutor(12) as clients:
        answers = list(clients.map(lambda _: ask(stack, form), range(12)))

    codes = [answer[0] for answer in answers if answer]
    size = memory.peak() - before
    figure("12 forms with 20 MB at once", f"{codes.count(503)} told to come back, web process {size:+} MiB")
    assert set(codes) <= {400, 503}
    assert size < 300


def open_files(stack):
    """The temporary files that the web processes hold."""
    found = []
    for pid in pids(stack, "gunicorn"):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = os.readlink(link)
                if target.startswith("/tmp/") and "wgunicorn" not in target and "wanapi" not in target:
                    found.append(target)
    return found


def mutated(dice):
    parts = [
        FIELD
        % (
            dice.choice([b"prompt", b"size", b"n", b"seconds", b"a[b]", b"[", b"]", b"input_reference"]),
            value,
        )
        for value in dice.choices([b"A cat", b"", b"\x00", b"\xff", b"1", b"9" * 400, b"{", b"None"], k=3)
    ]
    parts.append(FILE % (dice.choice([b"input_reference", b"prompt", b"a"]), b"a", picture()))
    dice.shuffle(parts)
    form = bytearray(b"".join(parts) + END)
    for _ in range(dice.randrange(4)):
        place = dice.randrange(len(form))
        form[place : place + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
    return bytes(form)


def test_no_random_form_is_a_5xx(stack, figure):
    dice, counts = random.Random(5), {}
    for _ in range(COUNT):
        form = mutated(dice)
        lie = dice.randrange(8)
        headers = {"Content_Length": str(max(0, len(form) + dice.randrange(-9, 9)))} if lie == 0 else {}
        if lie == 1:
            headers = {"Content_Length": None, "Transfer_Encoding": "chunked"}
            form = chunked(form, dice.randrange(1, 200)) if dice.randrange(2) else form
        answer = ask(stack, form, **headers)
        status = answer[0] if answer else "closed"
        counts[status] = counts.get(status, 0) + 1
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(counts.items(), key=str))
    figure(f"{COUNT:,} random forms", statuses)
    assert {*counts} <= {200, 400, 411, 413, "closed"}
    assert counts[200]
