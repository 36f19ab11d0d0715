"""Brings model files into ComfyUI's folders. Knows nothing of Django.

The host declares each file's size and SHA-256, as Hugging Face does: in the headers of its redirect.
A file gets its name only when both are right; until then it is NAME.partial, where the next run goes on.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import requests

# All files of the graphs are in this one repository; the text encoder and the VAE are those of WAN 2.1.
BASE_URL = "https://huggingface.co/Comfy-Org/Wan_2.2_ComfyUI_Repackaged/resolve/main/split_files"
PAUSES: tuple[float, ...] = (1, 5, 15, 30, 60)  # seconds between tries that bring nothing new
TIMEOUT = (10, 60)  # seconds to connect, and to wait for the next bytes
CHUNK = 64 * 1024  # bytes, which may be lost when a connection breaks off
AGAIN = (408, 425, 429, 500, 502, 503, 504)  # statuses after which another try may help

T = TypeVar("T")


class Problem(Exception):
    """One sentence for the operator."""


class Broken(Exception):
    """The connection or the host failed, and not the file: another try may help."""


@dataclass(frozen=True)
class ModelFile:
    """A model file as the host declares it, and where it goes."""

    url: str
    path: Path
    size: int
    sha256: str

    @property
    def partial(self) -> Path:
        return self.path.with_name(f"{self.path.name}.partial")

    def is_there(self, *, verify: bool) -> bool:
        if size_of(self.path) != self.size:
            return False
        return not verify or sha256(self.path) == self.sha256


def size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def check_space(folder: Path, files: list[ModelFile]) -> None:
    needed = sum(max(file.size - size_of(file.partial), 0) for file in files)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise Problem(f"{folder} has {gigabytes(free)} free, and {gigabytes(needed)} are needed: make room.")


def patiently(attempt: Callable[[], T], progress: Callable[[], int] = lambda: 0) -> T:
    """Tries again as long as there is progress, and a few times more."""
    pauses, best = iter(PAUSES), progress()
    while True:
        try:
            return attempt()
        except Broken as error:
            if (now := progress()) > best:
                pauses, best = iter(PAUSES), now
            if (pause := next(pauses, None)) is None:
                raise Problem(f"{error} Try again later: what is here is kept.") from error
            time.sleep(pause)


class Host:
    def __init__(self, base_url: str, token: str = ""):
        def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:
            if token:
                request.headers["Authorization"] = f"Bearer {token}"
            return request

        self.base_url = base_url.rstrip("/")
        self._session = requests.Session()
        self._session.headers["Accept-Encoding"] = "identity"  # or sizes and ranges would not be the file's
        self._session.auth = sign  # after a redirect to another host requests does not send the token

    def declared(self, models: Path, folder: str, name: str) -> ModelFile:
        url = f"{self.base_url}/{folder}/{name}"
        with patiently(lambda: self._ask("HEAD", url, allow_redirects=False)) as answer:
            size = answer.headers.get("X-Linked-Size", "")
            digest = answer.headers.get("X-Linked-ETag", "").strip('"')
        if not size.isdecimal() or not re.fullmatch("[0-9a-f]{64}", digest):
            raise Problem(
                f"{url} comes without size and SHA-256 (X-Linked-Size, X-Linked-ETag): use another host."
            )
        return ModelFile(url, models / folder / name, int(size), digest)

    def download(self, file: ModelFile, advance: Callable[[int], Any] = lambda count: None) -> None:
        """``advance`` hears of each number of bytes that came, or that were thrown away."""
        file.path.parent.mkdir(exist_ok=True)
        patiently(lambda: self._fetch(file, advance), progress=lambda: size_of(file.partial))
        if sha256(file.partial) != file.sha256:
            advance(-size_of(file.partial))
            file.partial.unlink()
            raise Problem(f"{file.url} is not what its SHA-256 says; it was removed: run this again.")
        file.partial.rename(file.path)

    def _ask(self, method: str, url: str, **options: Any) -> requests.Response:
        try:
            answer = self._session.request(method, url, timeout=TIMEOUT, **options)
        except requests.RequestException as error:
            raise Broken(f"{url} cannot be reached ({type(error).__name__}).") from error
        if answer.status_code in AGAIN:
            raise Broken(f"{url} answers {answer.status_code}.")
        if answer.status_code in (401, 403):
            raise Problem(f"{url} answers {answer.status_code}: set HF_TOKEN to a token that may read it.")
        if answer.status_code >= 400 and answer.status_code != 416:
            raise Problem(f"{url} answers {answer.status_code}: check the base URL.")
        return answer

    def _fetch(self, file: ModelFile, advance: Callable[[int], Any]) -> None:
        """Downloads the file from where its partial file ends."""
        have = size_of(file.partial)
        if have == file.size:
            return
        ranged = {"Range": f"bytes={have}-"} if 0 < have < file.size else {}
        with self._ask("GET", file.url, stream=True, headers=ranged) as answer:
            goes_on = answer.status_code == 206 and bool(ranged)
            self._check_size(file, answer, have if goes_on else 0)
            if not goes_on:
                advance(-have)
            self._write(file, answer, advance, mode="ab" if goes_on else "wb")
        if size_of(file.partial) < file.size:
            raise Broken(f"{file.url} broke off.")

    def _check_size(self, file: ModelFile, answer: requests.Response, start: int) -> None:
        """Raises Problem for a wrong size, before gigabytes are written in vain."""
        if answer.status_code == 206:
            right = answer.headers.get("Content-Range", "") == f"bytes {start}-{file.size - 1}/{file.size}"
        else:
            right = answer.headers.get("Content-Length", str(file.size)) == str(file.size)
        if not right or answer.status_code == 416:
            raise Problem(
                f"{file.url} does not have the {file.size} bytes that its host declares: try another host."
            )

    def _write(
        self, file: ModelFile, answer: requests.Response, advance: Callable[[int], Any], mode: str
    ) -> None:
        try:
            with file.partial.open(mode) as target:
                for chunk in answer.iter_content(CHUNK):
                    target.write(chunk)
                    advance(len(chunk))
                    if target.tell() > file.size:
                        target.truncate(0)
                        raise Problem(
                            f"{file.url} sends more than the {file.size} bytes that its host declares."
                        )
                target.flush()
                os.fsync(target.fileno())  # before the file gets its final name, which says that it is whole
        except requests.RequestException as error:
            raise Broken(f"{file.url} broke off ({type(error).__name__}).") from error
        except OSError as error:
            raise Problem(f"{file.partial} cannot be written ({error.strerror}).") from error
