"""S3: put, open, presign, delete. Plain functions; StorageError whenever S3 does not do what was asked.

boto3 finds its keys itself: AWS_ACCESS_KEY_ID and the like, or the machine's role.
"""

import base64
import functools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from django.conf import settings

AT_ONCE = 4  # requests of one web process that change what S3 holds: each holds a thread

_client_lock = threading.Lock()
_slots = threading.BoundedSemaphore(AT_ONCE)


class StorageError(Exception):
    """Trying again later can help: this is never the fault of a job."""


class ObjectMissing(StorageError):
    """There is no such object, and there will be none."""


@functools.cache
def _make_client(endpoint_url: str | None) -> Any:
    config = Config(
        signature_version="s3v4",
        connect_timeout=3,
        read_timeout=10,
        retries={"mode": "standard", "total_max_attempts": 2},
        s3={"addressing_style": "path" if endpoint_url else "auto"},
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint_url, config=config)


def _client(endpoint_url: str | None) -> Any:
    with _client_lock:  # a client may be shared between threads, but not made by two at once
        return _make_client(endpoint_url)


@contextmanager
def _s3() -> Iterator[Any]:
    try:
        yield _client(settings.S3_ENDPOINT_URL)
    except ClientError as error:
        missing = error.response.get("Error", {}).get("Code") in ("NoSuchKey", "404")
        raise (ObjectMissing if missing else StorageError)(str(error)) from error
    except BotoCoreError as error:
        raise StorageError(str(error)) from error


@contextmanager
def slot() -> Iterator[None]:
    """For the web process: an S3 that hangs holds some of its threads, and not all."""
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


def put_image(key: str, data: bytes, kind: str = "image/png") -> None:
    with _s3() as s3:
        s3.put_object(Bucket=settings.S3_BUCKET, Key=key, Body=data, ContentType=kind)


def get_input(key: str) -> bytes:
    with _s3() as s3:
        return s3.get_object(Bucket=settings.S3_BUCKET, Key=key)["Body"].read()


def put_video(key: str, path: Path, *, sha256: str, filename: str) -> None:
    """Uploads an MP4 in one request, with its checksum for S3 to compare, and looks whether it is there."""
    with _s3() as s3, path.open("rb") as file:
        s3.put_object(
            Bucket=settings.S3_BUCKET,
            Key=key,
            Body=file,
            ContentType="video/mp4",
            ContentDisposition=f'inline; filename="{filename}"',
            ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(),
        )
        stored = s3.head_object(Bucket=settings.S3_BUCKET, Key=key)["ContentLength"]
    if stored != path.stat().st_size:
        raise StorageError(f"S3 holds {stored} bytes of {key} instead of {path.stat().st_size}.")


def presign(key: str) -> str:
    """A link that anyone can GET for VIDEO_URL_TTL seconds, at the address that clients reach S3 by."""
    try:
        return _client(settings.S3_PUBLIC_ENDPOINT_URL).generate_presigned_url(
            "get_object",
            Params={"Bucket": settings.S3_BUCKET, "Key": key},
            ExpiresIn=settings.VIDEO_URL_TTL,
        )
    except BotoCoreError as error:
        raise StorageError(str(error)) from error


def delete(keys: Iterable[str]) -> None:
    """Removes objects; those that are not there are no error."""
    with _s3() as s3:
        for key in keys:
            s3.delete_object(Bucket=settings.S3_BUCKET, Key=key)


def listed(prefix: str) -> Iterator[tuple[str, datetime]]:
    """The keys below a prefix, and when each was written."""
    with _s3() as s3:
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=settings.S3_BUCKET, Prefix=prefix):
            for item in page.get("Contents", []):
                yield item["Key"], item["LastModified"]


def unfinished_uploads(prefix: str) -> Iterator[tuple[str, str, datetime]]:
    """Multipart uploads that were never completed: key, upload id, and when each was begun."""
    with _s3() as s3:
        for page in s3.get_paginator("list_multipart_uploads").paginate(
            Bucket=settings.S3_BUCKET, Prefix=prefix
        ):
            for item in page.get("Uploads", []):
                yield item["Key"], item["UploadId"], item["Initiated"]


def abort_upload(key: str, upload_id: str) -> None:
    with _s3() as s3:
        s3.abort_multipart_upload(Bucket=settings.S3_BUCKET, Key=key, UploadId=upload_id)
