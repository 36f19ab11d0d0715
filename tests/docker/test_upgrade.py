"""A release runs its migrations while processes of the release before it still work: none may break them."""

import os
import re
import subprocess
import sys
import tarfile
import time
from types import SimpleNamespace

import pytest
import requests
from django.db import connection, migrations, models
from django.db.migrations.loader import MigrationLoader

from local.parts import ROOT, free_port
from tests.factories import eventually
from tests.stack import ENV, KEY

# The release before this one: its last migration, and its code. Whoever makes a release sets both.
RELEASED, CODE = ("jobs", "0006_created_event"), "8a59377"

GONE = (
    *(migrations.RemoveField, migrations.RenameField, migrations.DeleteModel, migrations.RenameModel),
    migrations.AlterModelTable,
)
IN_SQL = re.compile(r"\b(DROP|RENAME|TRUNCATE|NOT NULL|UNIQUE|CHECK|TRIGGER|DELETE)\b", re.IGNORECASE)


def breaks(operation, known):
    """Why processes cannot go on that know no other tables than those of ``known``; None if they can."""
    match operation:
        case migrations.SeparateDatabaseAndState():
            inner = [*operation.database_operations, *operation.state_operations]
            return next(filter(None, (breaks(one, known) for one in inner)), None)
        case migrations.RunSQL():
            return "SQL that takes away or forbids" if IN_SQL.search(str(operation.sql)) else None
        case migrations.RunPython():
            return None
    names = (getattr(operation, name, None) for name in ("model_name", "old_name", "name"))
    old = known.models.get(("jobs", next(filter(None, names)).lower()))
    return breaks_table(operation, old.fields) if old else None


def breaks_table(operation, fields):
    match operation:
        case migrations.RemoveField() if operation.name not in fields:
            return None  # it came and went within this release
        case _ if isinstance(operation, GONE):
            return "what they use is gone"
        case migrations.AddField():
            return without_a_value(operation.field)
        case migrations.AlterField() if operation.name in fields:
            return narrower(fields[operation.name], operation.field)
        case migrations.AddConstraint():
            return None if only_new(operation.constraint, fields) else "their rows could violate it"
        case migrations.AlterUniqueTogether():
            return "their rows could violate it"
    return None


def without_a_value(field):
    if field.many_to_many:
        return None
    if field.unique and not field.null:
        return "a second row of theirs has the same value"
    return (
        None if field.null or field.has_db_default() else "their INSERT leaves it out: it needs a db_default"
    )


def narrower(old, new):
    if type(old) is not type(new) or old.db_column != new.db_column:
        return "another type or column"
    if old.null and not new.null:
        return "they write NULL"
    if new.unique and not old.unique:
        return "they do not know that it is unique"
    if new.max_length is not None and (old.max_length is None or new.max_length < old.max_length):
        return "their longer values do not fit"
    return without_a_value(new) if old.has_db_default() else None


def only_new(constraint, fields):
    """A check of columns that they leave at their default; Postgres tries it on the rows that are there."""
    is_check = isinstance(constraint, models.CheckConstraint)
    return is_check and not constraint.condition.referenced_base_fields & set(fields)


def test_no_migration_breaks_the_release_before():
    loader = MigrationLoader(None)
    known, done = loader.project_state(RELEASED), loader.graph.forwards_plan(RELEASED)
    [leaf] = loader.graph.leaf_nodes("jobs")
    found = [
        f"{name}: {operation.describe()}: {why}"
        for app, name in loader.graph.forwards_plan(leaf)
        if app == "jobs" and (app, name) not in done
        for operation in loader.graph.nodes[app, name].operations
        if (why := breaks(operation, known))
    ]
    assert found == []


def add(field, name="hint"):
    return migrations.AddField("job", name, field)


def alter(name, field):
    return migrations.AlterField("job", name, field)


def check(**condition):
    return migrations.AddConstraint(
        "job", models.CheckConstraint(condition=models.Q(**condition), name="new")
    )


UNIQUE = models.UniqueConstraint(fields=["hint"], name="new")


@pytest.mark.parametrize(
    "operation",
    [
        migrations.RemoveField("job", "error"),
        migrations.RenameField("job", "error", "reason"),
        migrations.DeleteModel("Metric"),
        migrations.RenameModel("Event", "Happening"),
        migrations.AlterModelTable("event", "events"),
        add(models.TextField()),
        add(models.TextField(default="")),  # Django's default is not in the database
        add(models.IntegerField(db_default=0, unique=True)),
        alter("started_at", models.DateTimeField()),
        alter("prompt", models.CharField(max_length=10)),
        alter("seed", models.TextField()),
        alter("prompt", models.TextField(unique=True)),
        check(progress__lte=99),
        check(hint=models.F("progress")),
        migrations.AddConstraint("job", UNIQUE),
        migrations.AlterUniqueTogether("job", {("prompt", "seed")}),
        migrations.RunSQL("ALTER TABLE jobs_job ALTER error SET NOT NULL"),
        migrations.RunSQL([("alter table jobs_job drop column error", [])]),
        migrations.SeparateDatabaseAndState(database_operations=[migrations.RemoveField("job", "error")]),
    ],
    ids=lambda operation: operation.describe(),
)
def test_what_would_break_it_is_found(operation):
    assert breaks(operation, MigrationLoader(None).project_state(RELEASED))


@pytest.mark.parametrize(
    "operation",
    [
        migrations.CreateModel("Tombstone", [("id", models.UUIDField(primary_key=True))]),
        migrations.AddField("tombstone", "at", models.DateTimeField()),
        add(models.TextField(db_default="")),
        add(models.IntegerField(null=True, unique=True)),
        migrations.RemoveField("job", "hint"),
        alter("prompt", models.TextField(null=True)),
        check(hint__gte=0),
        migrations.AddIndex("job", models.Index(fields=["seed"], name="new")),
        migrations.RunSQL("UPDATE jobs_job SET error = '' WHERE error = ' '"),
        migrations.RunPython(migrations.RunPython.noop),
    ],
    ids=lambda operation: operation.describe(),
)
def test_what_does_no_harm_passes(operation):
    assert breaks(operation, MigrationLoader(None).project_state(RELEASED)) is None


# With the code of the release before


@pytest.fixture
def old_code(tmp_path):
    archive = subprocess.run(["git", "archive", CODE], cwd=ROOT, capture_output=True)
    if archive.returncode:
        pytest.skip(f"this checkout has no commit {CODE}")
    (tmp_path / "code.tar").write_bytes(archive.stdout)
    with tarfile.open(tmp_path / "code.tar") as tar:
        tar.extractall(tmp_path / "code", filter="data")
    return tmp_path / "code"


@pytest.fixture
def new_schema():
    """A database of its own, with the tables of this release; gives its URL."""
    url = ENV["DATABASE_URL"].rpartition("/")[0]
    with connection.cursor() as cursor:
        cursor.execute("DROP DATABASE IF EXISTS upgrade")
        cursor.execute("CREATE DATABASE upgrade")
    env = os.environ | {"DATABASE_URL": f"{url}/upgrade"}
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=env, check=True)
    return env["DATABASE_URL"]


@pytest.fixture
def old_release(old_code, new_schema):
    """Its web process and its workers."""
    env = os.environ | {"DATABASE_URL": new_schema, "PORT": str(free_port()), "HOST": "127.0.0.1"}
    programs = (["-m", "gunicorn", "-c", "wanapi/gunicorn.py", "wanapi.wsgi"],)
    programs += tuple(["manage.py", "worker", cluster] for cluster in ("render", "publish"))
    with (old_code / "log").open("wb") as log:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "local.child", "--", sys.executable, *program],
                cwd=old_code,
                env=env,
                stdout=log,
                stderr=log,
            )
            for program in programs
        ]
    yield SimpleNamespace(url=f"http://127.0.0.1:{env['PORT']}", log=old_code / "log")
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(20)


def answers(url):
    try:
        return requests.get(f"{url}/health/live", timeout=2).ok
    except requests.RequestException:
        return False


@pytest.mark.full
@pytest.mark.django_db(transaction=True)
def test_the_release_before_works_on_the_new_tables(old_release, simulator):
    eventually(lambda: answers(old_release.url))
    session = requests.Session()
    session.headers["X-API-Key"] = KEY
    body = {"prompt": "A cat"}
    accepted = session.post(f"{old_release.url}/generate", json=body, timeout=10)
    assert accepted.status_code == 200, accepted.text
    job = f"{old_release.url}/jobs/{accepted.json()['job_id']}"
    deadline = time.monotonic() + 60
    while (state := session.get(job, timeout=10).json())["status"] not in ("completed", "failed"):
        assert time.monotonic() < deadline, old_release.log.read_text()[-2000:]
        time.sleep(0.1)
    assert state["status"] == "completed", state
    assert session.delete(job, timeout=10).status_code == 204
    assert "Traceback" not in old_release.log.read_text()
