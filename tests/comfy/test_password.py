"""A ComfyUI behind basic authentication: the password of COMFYUI_URL works, and nobody gets to read it."""

import base64
import json
import logging
import threading
from functools import partial
from urllib.parse import unquote_to_bytes

import pytest
from django.core.management import CommandError, call_command
from websockets.sync.server import serve

from comfy.answers import Unreachable
from comfy.client import Comfy, shown
from comfy.listener import Listener
from jobs.models.engine import Engine
from tests.factories import eventually
from wanapi import logs

STATS = json.dumps({"system": {"comfyui_version": "0.3.64"}})


@pytest.fixture(params=["Hushhush", "Hushhush%40%2F%3a", "Hushhush%C3%BC%E2%82%AC", "Hushhush%25:40"])
def url(request):
    """Of a server that asks for a password, over HTTP and on its socket."""
    password = request.param
    wanted = "Basic " + base64.b64encode(b"comfy:" + unquote_to_bytes(password)).decode()

    def answer(connection, asked):
        if asked.headers.get("Authorization") != wanted:
            return connection.respond(401, f"<html>{asked.path}</html>")
        if asked.path.startswith("/ws"):
            return None
        return connection.respond(200, STATS if asked.path == "/system_stats" else "no JSON")

    def greet(connection):
        connection.send(json.dumps({"type": "status"}))

    with serve(greet, "127.0.0.1", 0, process_request=answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://comfy:{password}@127.0.0.1:{server.socket.getsockname()[1]}"
        server.shutdown()


def test_it_works_over_http_and_on_the_socket(url):
    with Comfy(url) as comfy, Listener(url) as listener:
        assert str(comfy.system()).startswith("ComfyUI 0.3.64")
        assert listener.changed.wait(10)


def trouble(url):
    """All that a ComfyUI in trouble makes the driver say."""
    for wrong in (url, url.replace("Hushhush", "Hushhushs"), url.rpartition(":")[0] + ":1"):
        with Comfy(wrong) as comfy:
            for ask in (comfy.queue, partial(comfy.missing, [("vae", "x")]), partial(comfy.cancel, "x")):
                with pytest.raises(Unreachable) as caught:
                    ask()
                error = caught.value
                yield f"{error} {error.message} {error.detail} {error!r} {error.__cause__!r}"


def test_no_error_of_the_driver_holds_it(url):
    assert "Hushhush" not in "".join(trouble(url))


@pytest.mark.parametrize("command", ["check_engine", "warm_up"])
def test_no_command_prints_it(url, command, capfd):
    with pytest.raises(CommandError) as error:
        call_command(command, "--url", url.rpartition(":")[0] + ":1")

    assert str(error.value).startswith("http://127.0.0.1:1: The GPU server does not answer.")
    assert "Hushhush" not in f"{error.value} {capfd.readouterr()}"


@pytest.mark.django_db
def test_no_page_of_the_admin_shows_it(admin_client, engine, url):
    Engine.objects.update(url=url)

    pages = [admin_client.get(f"/admin/jobs/engine/{rest}") for rest in ("", f"{engine.pk}/change/")]

    assert shown(url) in pages[1].text
    assert "Hushhush" not in pages[0].text + pages[1].text


def test_the_log_does_not_even_at_its_most_detailed(url, caplog):
    config = logs.config("DEBUG", "line")
    for name, logger in config["loggers"].items():
        logging.getLogger(name).setLevel(logger.get("level", "NOTSET"))
    caplog.set_level("DEBUG")

    with Listener(url) as listener, Listener(url.replace("Hushhush", "Hushhushs")) as refused:
        assert listener.changed.wait(10)
        eventually(lambda: "401" in caplog.text)
    assert not refused.connected
    list(trouble(url))

    secret = base64.b64encode(b"comfy:Hushhush").decode()[:18]
    assert "Hushhush" not in caplog.text
    assert secret not in caplog.text


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("http://u:p@gpu:8188/a", "http://gpu:8188/a"),
        ("http://u@[::1]:8188", "http://[::1]:8188"),
        ("http://u:p@ss@gpu", "http://gpu"),
        ("http://gpu:8188", "http://gpu:8188"),
    ],
)
def test_what_is_shown(url, right):
    assert shown(url) == right
