"""What ``make serve`` says when it runs."""

import shlex
import subprocess
import sys

import pytest

from local import parts
from local.greeting import greeting
from local.parts import free_port
from local.stack import Stack
from tests.stack import FOLDER, SIMULATOR_URL, wait_for


@pytest.fixture
def outside():
    """The settings of a stack that starts no parts of its own."""
    urls = {"DATABASE_URL": "postgresql://h/n", "COMFYUI_URL": "http://127.0.0.1:1", "S3_BUCKET": "b"}
    return lambda **given: Stack(FOLDER / "outside", urls | given)


def test_it_shows_no_password_of_comfyui(outside):
    assert "Hush" not in greeting(outside(COMFYUI_URL="http://comfy:Hush@127.0.0.1:1"))


def test_its_first_request_can_be_pasted_whatever_the_key_is(outside):
    told = greeting(outside(API_KEY="k'\\$x"))

    [line] = [line for line in told.splitlines() if "curl" in line]
    words = shlex.split(line.partition("curl ")[2])
    assert words[0] == "http://127.0.0.1:8000/generate"
    assert "X-API-Key: k'\\$x" in words
    assert "/docs" in told


def test_it_says_how_other_machines_reach_it(outside):
    told = greeting(outside(PUBLIC_ADDRESS="gpu.example"))

    assert "http://gpu.example:8000/generate" in told
    assert "plain HTTP" in told
    assert "plain HTTP" not in greeting(outside())


def test_it_names_the_port_that_links_lead_to():
    urls = {"DATABASE_URL": "postgresql://h/n", "COMFYUI_URL": "http://127.0.0.1:1"}

    assert "links lead to port 9321" in greeting(Stack(FOLDER / "links", urls, 9321))


@pytest.fixture
def lacking():
    """A ComfyUI without one of its model files."""
    port = free_port()
    missing = ["wan_2.1_vae.safetensors"]
    part = parts.simulator(FOLDER / "lacking", port=port, missing=missing)
    with subprocess.Popen([sys.executable, "-m", "local.child", "--", *part.command]) as process:
        wait_for(f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
        process.terminate()


def test_it_says_how_comfyui_is_and_what_to_do(outside, lacking):
    assert "ready: " in greeting(outside(COMFYUI_URL=SIMULATOR_URL))
    assert "does not answer" in greeting(outside())
    told = greeting(outside(COMFYUI_URL=lacking, WORKFLOW_PRESET="fast"))
    assert "lacks 1 file of the preset fast" in told
    assert "manage.py download_models --preset fast" in told
