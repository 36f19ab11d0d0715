"""manage.py download_models, against a host that redirects, breaks off and lies."""

import hashlib
import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from django.core.management import CommandError, call_command

from comfy import downloads, presets

NAMES = [f"{folder}/{name}" for folder, name in presets.find("quality").files]
FIRST = NAMES[0]
FILES = {f"/{name}": name.encode() * 20_000 for name in NAMES}


class Handler(BaseHTTPRequestHandler):
    """The server's ``faults`` order what goes wrong, by name; each holds for the first file alone."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        content = FILES.get(self.path)
        if content is None:
            self.answer(404)
            return
        size = len(content) + self.server.fault("size", self.path)
        digest = hashlib.sha256(content + b"!" * self.server.fault("hash", self.path)).hexdigest()
        declared = {"X-Linked-Size": str(size), "X-Linked-ETag": f'"{digest}"'}
        self.redirect({} if self.server.fault("undeclared", self.path) else declared)

    def do_GET(self):
        self.server.seen.append(self.headers)
        if self.server.store is not None:
            self.redirect({})
        elif self.server.fault("busy", self.path):
            self.answer(503)
        else:
            self.send_file(FILES[self.path])

    def send_file(self, content):
        start = 0
        if (asked := self.headers.get("Range")) and not self.server.fault("no_range", self.path):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self.answer(206 if start else 200, headers, content[start:])

    def redirect(self, headers):
        self.answer(302, headers | {"Location": f"http://127.0.0.1:{self.server.store}{self.path}"})

    def answer(self, status, headers=None, body=b""):
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.server.fault("breaks", self.path):
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, store=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.store, self.seen, self.faults = store, [], {}
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def fault(self, name, path):
        """1 while the fault is ordered for more answers."""
        if path != f"/{FIRST}" or not self.faults.get(name):
            return 0
        self.faults[name] -= 1
        return 1


@pytest.fixture
def store():
    with Server() as server:
        yield server
        server.shutdown()


@pytest.fixture
def host(store):
    with Server(store.server_port) as server:
        yield server
        server.shutdown()


@pytest.fixture
def download(host, tmp_path, monkeypatch):
    monkeypatch.setattr(downloads, "PAUSES", (0, 0))

    def run(*options):
        output = io.StringIO()
        url = f"http://127.0.0.1:{host.server_port}"
        arguments = [str(tmp_path), "--preset", "quality", "--base-url", url, *options]
        call_command("download_models", *arguments, stdout=output)
        return output.getvalue()

    return run


@pytest.fixture
def refused(download):
    def run(*options):
        with pytest.raises(CommandError) as error:
            download(*options)
        assert error.value.returncode == 1
        return str(error.value)

    return run


def assert_complete(folder):
    there = {f"/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*.*")}
    assert there == FILES


def test_all_files_of_the_preset_come_into_their_folders(download, tmp_path, store):
    download()
    assert_complete(tmp_path)
    assert len(store.seen) == len(FILES)


def test_a_file_of_an_own_preset_is_the_operators_to_bring(download, own_preset, tmp_path, capsys):
    def change(files):
        graphs = [content for name, content in files.items() if name != "preset.json"]
        for inputs in (node["inputs"] for graph in graphs for node in graph.values()):
            inputs |= {"lora_name": "my_style.safetensors"} if "lora_name" in inputs else {}

    own_preset(change)

    told = download("--preset", "mine", "--dry-run")

    assert told.startswith(f"{FIRST.split('/')[1]}: ")
    assert "my_style.safetensors: put it into" in capsys.readouterr().err


def test_what_is_there_is_kept(download, tmp_path, store):
    download()
    store.seen.clear()
    assert f"{FIRST.split('/')[1]}: there" in download()
    assert not store.seen


def test_a_file_that_rotted_is_found_with_verify(download, tmp_path):
    download()
    (tmp_path / FIRST).write_bytes(b"?" * len(FILES[f"/{FIRST}"]))
    download()
    assert (tmp_path / FIRST).read_bytes()[:1] == b"?"
    download("--verify")
    assert_complete(tmp_path)


def test_a_dry_run_writes_nothing(download, tmp_path, store):
    assert "to download" in download("--dry-run")
    assert list(tmp_path.iterdir()) == []


def test_a_download_that_breaks_off_goes_on_where_it_was(download, tmp_path, store):
    store.faults["breaks"] = 3  # in halves, which is progress
    download()
    assert_complete(tmp_path)
    starts = [int(headers["Range"][6:-1]) for headers in store.seen[1:4]]
    assert 0 < starts[0] < starts[1] < starts[2]


def test_a_later_run_goes_on_as_well(download, tmp_path, store):
    (tmp_path / FIRST).parent.mkdir()
    (tmp_path / f"{FIRST}.partial").write_bytes(FILES[f"/{FIRST}"][:1000])
    download()
    assert_complete(tmp_path)
    assert store.seen[0]["Range"] == "bytes=1000-"


def test_a_host_that_ignores_ranges_starts_over(download, tmp_path, store):
    store.faults |= {"breaks": 1, "no_range": 1}
    download()
    assert_complete(tmp_path)


def test_a_busy_host_is_asked_again(download, tmp_path, store):
    store.faults["busy"] = 2
    download()
    assert_complete(tmp_path)


def test_a_host_that_always_breaks_off_is_given_up(refused, tmp_path, store):
    store.faults |= {"breaks": 99, "no_range": 99}
    assert refused().endswith("Try again later: what is here is kept.")


def test_a_wrong_hash_never_gets_the_name(refused, tmp_path, host):
    host.faults["hash"] = 1
    assert "is not what its SHA-256 says" in refused()
    assert not list(tmp_path.rglob(f"*{FIRST.split('/')[1]}*"))


def test_a_lie_about_the_size_is_told_before_the_download(refused, tmp_path, host):
    host.faults["size"] = 1
    assert "does not have the" in refused()
    assert not list(tmp_path.rglob("*.safetensors*"))


def test_a_host_that_declares_nothing_is_refused(refused, host):
    host.faults["undeclared"] = 1
    assert "comes without size and SHA-256" in refused()


def test_a_missing_file_is_named(refused, monkeypatch):
    monkeypatch.delitem(FILES, f"/{FIRST}")
    assert f"/{FIRST} answers 404" in refused()


def test_a_full_disk_is_told_before_the_download(refused, monkeypatch, tmp_path, store):
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    assert "make room" in refused()
    assert not store.seen


def test_the_token_stays_with_the_host(download, monkeypatch, host, store):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download()
    assert {headers["Authorization"] for headers in host.seen} == {"Bearer hf_secret"}
    assert {headers["Authorization"] for headers in store.seen} == {None}


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CommandError, match="name ComfyUI's models folder"):
        call_command("download_models", str(tmp_path / "nowhere"))
