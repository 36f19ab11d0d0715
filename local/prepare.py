"""What must be there before the service starts: tables, bucket, the admin's user. S3 is tried with three
objects, so that wrong keys are told now and not by the first job."""

import os
import sys
import time

import boto3
import django
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import OperationalError, connection

DATABASE_PATIENCE = 30  # seconds


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "wanapi.settings")
    django.setup()
    wait_for_database()
    call_command("migrate", verbosity=0, skip_checks=True)
    make_admin()
    make_bucket()
    try_s3()


def wait_for_database() -> None:
    deadline = time.monotonic() + DATABASE_PATIENCE
    while True:
        try:
            return connection.ensure_connection()
        except OperationalError as error:
            if time.monotonic() > deadline:
                sys.exit(f"The database does not answer: {error}")
            time.sleep(0.1)


def make_admin() -> None:
    from django.contrib.auth.models import User

    password = os.environ.get("ADMIN_PASSWORD")  # not given for a database that is not the stack's own
    if password and not User.objects.filter(username="admin").exists():
        User.objects.create_superuser("admin", password=password)


def make_bucket() -> None:
    """Makes the bucket, if S3_ENDPOINT_URL is set; a bucket on AWS is made by its owner."""
    from django.conf import settings

    if not settings.S3_ENDPOINT_URL:
        return
    patience = Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 2})
    s3 = boto3.client("s3", endpoint_url=settings.S3_ENDPOINT_URL, config=patience)
    try:
        s3.head_bucket(Bucket=settings.S3_BUCKET)
    except ClientError:
        s3.create_bucket(Bucket=settings.S3_BUCKET)


def try_s3() -> None:
    from jobs.management.commands import check_setup
    from jobs.operators.health import Trouble

    try:
        if told := check_setup.s3():
            print(f"S3: {told}")
    except Trouble as trouble:
        sys.exit(f"S3 cannot be used: {trouble}")


if __name__ == "__main__":
    try:
        main()
    except ImproperlyConfigured as error:
        sys.exit(f"wanapi: {error}")
    except (ClientError, BotoCoreError) as error:
        sys.exit(f"S3 does not let us use the bucket: {error}")
