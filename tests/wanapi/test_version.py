"""The version stands in one place, and everything that shows it takes it from there."""

import re
import subprocess
import sys

from local.parts import ROOT
from wanapi import VERSION

SECTIONS = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_manage_py_prints_it_without_any_settings():
    run = subprocess.run(
        [sys.executable, "manage.py", "version"], cwd=ROOT, env={}, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, f"{VERSION}\n", "")


def test_the_openapi_document_names_it(client):
    assert client.get("/openapi.json").json()["info"]["version"] == VERSION


def test_the_newest_release_of_the_changelog_is_this_version():
    assert SECTIONS[0] == "Unreleased"
    assert re.fullmatch(rf"{re.escape(VERSION)} - \d{{4}}-\d\d-\d\d", SECTIONS[1])
