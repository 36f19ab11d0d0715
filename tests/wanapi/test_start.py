"""A setting that cannot work ends every program at its start, with one sentence."""

import os
import subprocess
import sys

import pytest

from local.parts import ROOT

SCRIPT_NAME = "SCRIPT_NAME is set, and the service cannot live below a path: give it a host name of its own."
PROGRAMS = {
    "web": ("-m", "gunicorn", "-c", "wanapi/gunicorn.py", "wanapi.wsgi"),
    "render": ("manage.py", "worker", "render"),
    "publish": ("manage.py", "worker", "publish"),
    "a command": ("manage.py", "stats"),
}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("WEB_WORKERS", "two", "WEB_WORKERS must be a number from 1 to 100, not 'two'."),
        ("LOG_FORMAT", "xml", "LOG_FORMAT must be one of line, json, not 'xml'."),
        ("SCRIPT_NAME", "/wan", SCRIPT_NAME),
        ("PRESETS_DIR", "/nowhere", "PRESETS_DIR: /nowhere: No such file or directory."),
    ],
)
def test_no_program_starts_with_it(program, name, value, sentence):
    done = subprocess.run(
        [sys.executable, *PROGRAMS[program]],
        cwd=ROOT,
        env=os.environ | {name: value},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"wanapi: {sentence}\n")


@pytest.mark.parametrize("value", ["x", "-1", "1e9", "nan", "inf", "0,2", "٣"])
def test_the_simulator_names_its_own_setting(value):
    command = [sys.executable, "-m", "comfy.simulator"]
    env = os.environ | {"SIMULATOR_SECONDS_PER_STEP": value}

    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=60)

    assert done.returncode == 2
    assert "SIMULATOR_SECONDS_PER_STEP must be a number of seconds as 0.2" in done.stderr
    assert "Traceback" not in done.stderr
