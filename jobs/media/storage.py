"""S3: put, get, link, delete. Each function raises StorageError if S3 does not do what was asked.

boto3 finds its credentials itself: AWS_ACCESS_KEY_ID and the like, or the machine's role. A ``key`` here is
the name of an object without S3_PREFIX, which is put before it in the bucket. Only what every S3 server can
do is used: single requests, without checksum headers, and links signed for the region that the bucket itself
names.
"""

import functools
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings

from wanapi import limits

logger = logging.getLogger(__name__)

CHUNK = 1 << 20  # bytes
REGION_PAUSE = 10.0  # seconds until an S3 that did not tell the bucket's region is asked again

_client_lock = threading.Lock()
_slots = threading.BoundedSemaphore(limits.STORAGE_CHANGES)


class StorageError(Exception):
    """S3 did not do what was asked. That is never the fault of a job, and trying again later can help."""


class ObjectMissing(StorageError):
    """There is no such object; trying again does not help."""


def _new_client(endpoint_url: str | None, region: str | None = None, **more: Any) -> Any:
    options: dict[str, Any] = {
        "signature_version": "s3v4",
        "connect_timeout": 3,
        "read_timeout": 10,
        "retries": {"mode": "standard", "total_max_attempts": 2},
        # On AWS the bucket is part of the server's name, so that links, too, name the server of its region.
        # No certificate holds for a bucket with a dot in its name; that one goes into the path.
        "s3": {"addressing_style": "path" if endpoint_url or "." in settings.S3_BUCKET else "virtual"},
        # Some S3 servers refuse the newer checksum headers, and some store the frames that carry them as
        # part of the object.
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
    }
    config = Config(**options | more)
    return boto3.session.Session().client("s3", endpoint_url=endpoint_url, region_name=region, config=config)


_kept_client = functools.cache(_new_client)


def _client(endpoint_url: str | None, region: str | None = None) -> Any:
    with _client_lock:  # a client may be shared between threads, but not made by two at once
        return _kept_client(endpoint_url, region)


@contextmanager
def _s3() -> Iterator[Any]:
    try:
        yield _client(settings.S3_ENDPOINT_URL)
    except ClientError as error:
        # A 404 with another code may come from a wrong address, or mean that the bucket is not there.
        missing = error.response.get("Error", {}).get("Code") == "NoSuchKey"
        raise (ObjectMissing if missing else StorageError)(str(error)) from error
    except RecursionError:  # boto3 follows a redirect again and again
        raise StorageError("S3_ENDPOINT_URL leads to a redirect: name the address of S3 itself.") from None
    except (BotoCoreError, ValueError) as error:  # ValueError: it is not an address
        raise StorageError(str(error)) from error


@contextmanager
def slot() -> Iterator[None]:
    """For requests of the web process that change objects: if S3 hangs, they hold some of its threads and not
    all. Raises StorageError if none is free within a second."""
    if not _slots.acquire(timeout=1):
        raise StorageError("too many requests wait for S3")
    try:
        yield
    finally:
        _slots.release()


def check_bucket() -> None:
    """Raises StorageError if the bucket is not there, or closed to us."""
    with _s3() as s3:
        s3.head_bucket(Bucket=settings.S3_BUCKET)


# Objects


def put(key: str, data: bytes, content_type: str = "image/png") -> None:
    """Stores an image or a poster, and makes sure that S3 holds these very bytes."""
    with _s3() as s3:
        answer = s3.put_object(**_at(key), Body=data, ContentType=content_type)
    _compare(key, answer, size=len(data), md5=_md5([data]))


def get(key: str) -> bytes:
    """Raises ObjectMissing if there is no such object."""
    with _s3() as s3:
        return s3.get_object(**_at(key))["Body"].read()


def put_video(key: str, path: Path, *, filename: str) -> None:
    """Stores an MP4 in one request, as ``put`` does. Browsers save it under the name ``filename``."""
    with _s3() as s3, path.open("rb") as file:
        answer = s3.put_object(
            **_at(key),
            Body=file,
            ContentType="video/mp4",
            ContentDisposition=f'inline; filename="{filename}"',
        )
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        _compare(key, answer, size=size, md5=_md5(iter(partial(file.read, CHUNK), b"")))


def _compare(key: str, answer: dict[str, Any], *, size: int, md5: str) -> None:
    """Raises StorageError if S3 does not hold what it was given.

    Most servers answer with the MD5 of the content as the ETag. Those that encrypt with keys of their own,
    and some others, answer with something else: then the object is read back and compared.
    """
    with _s3() as s3:
        stored = s3.head_object(**_at(key))["ContentLength"]
        if stored != size:
            raise StorageError(f"S3 holds {stored} bytes of {key} instead of {size}.")
        if answer.get("ETag", "").strip('"').lower() == md5:
            return
        if _md5(s3.get_object(**_at(key))["Body"].iter_chunks(CHUNK)) != md5:
            raise StorageError(f"S3 holds other bytes of {key} than it was given.")


def _md5(chunks: Iterable[bytes]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()


def delete(keys: Iterable[str]) -> None:
    """Removes objects. An object that is not there is no error: AWS answers 204 then, other servers 404."""
    for key in keys:
        try:
            with _s3() as s3:
                s3.delete_object(**_at(key))
        except ObjectMissing:
            pass


def listed(prefix: str) -> Iterator[tuple[str, datetime]]:
    """The keys that begin with ``prefix``, and when each object was written."""
    with _s3() as s3:
        pages = s3.get_paginator("list_objects_v2").paginate(
            Bucket=settings.S3_BUCKET, Prefix=settings.S3_PREFIX + prefix
        )
        for page in pages:
            for item in page.get("Contents", []):
                yield item["Key"].removeprefix(settings.S3_PREFIX), item["LastModified"]


def _at(key: str) -> dict[str, str]:
    return {"Bucket": settings.S3_BUCKET, "Key": settings.S3_PREFIX + key}


# Links


def link(key: str) -> str:
    """A link that anyone can GET for VIDEO_URL_TTL seconds, at the address that clients reach S3 by."""
    return link_at(settings.S3_PUBLIC_ENDPOINT_URL, key)


def link_at(endpoint_url: str | None, key: str) -> str:
    """As ``link``, at another address of S3; None is the address of AWS."""
    region = _regions.of(settings.S3_ENDPOINT_URL, settings.S3_BUCKET)
    try:
        client = _client(endpoint_url, region)
        if "." in settings.S3_BUCKET:  # name the server of its region, which boto3 would not do by itself
            client = _client(client.meta.endpoint_url, region)
        return client.generate_presigned_url("get_object", Params=_at(key), ExpiresIn=settings.VIDEO_URL_TTL)
    except (BotoCoreError, ValueError) as error:
        raise StorageError(str(error)) from error


class Regions:
    """The region that S3 takes signatures for. boto3 follows S3's hints for its own requests, but a link is
    signed without a request, so that a wrong region would show only when somebody follows it.

    S3 is asked once for each bucket, and whoever needs the region meanwhile waits. If S3 did not tell, links
    are signed for the configured region. Then S3 is asked again every few seconds, by one caller, for whom
    the others do not wait.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str | None, str], str] = {}
        self._asking = threading.Lock()
        self._ask_at = 0.0

    def of(self, endpoint_url: str | None, bucket: str) -> str | None:
        place = endpoint_url, bucket
        first = self._ask_at == 0.0
        if place not in self._found and time.monotonic() >= self._ask_at and self._asking.acquire(first):
            try:
                self._ask(place)
            finally:
                self._asking.release()
        return self._found.get(place)

    def _ask(self, place: tuple[str | None, str]) -> None:
        if place in self._found or time.monotonic() < self._ask_at:
            return  # another thread asked, while this one waited
        try:
            self._found[place] = _signed_for(*place)
        except (BotoCoreError, ClientError, RecursionError, ValueError) as error:
            logger.warning("S3 did not tell the region of its bucket: %s", error)
            self._ask_at = time.monotonic() + REGION_PAUSE


def _signed_for(endpoint_url: str | None, bucket: str) -> str:
    """The region in the signature of a request that S3 accepted, after the hints that boto3 followed."""
    s3 = _new_client(endpoint_url, connect_timeout=1, read_timeout=2, retries={"total_max_attempts": 1})
    signatures: list[str] = []
    s3.meta.events.register(
        "before-send.s3", lambda request, **_: signatures.append(str(request.headers["Authorization"]))
    )
    try:
        s3.list_objects_v2(Bucket=bucket, Prefix=settings.S3_PREFIX, MaxKeys=1)
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":  # its signature was accepted
            raise
    found = re.search(r"/\d{8}/([^/]+)/s3/aws4_request", signatures[-1])
    return found[1] if found else ""


_regions = Regions()
