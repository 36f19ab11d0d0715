"""Every setting with values that cannot work: each stops the start with a sentence that names it."""

import re
import runpy
import shutil
import socket

import pytest
from django.core.exceptions import ImproperlyConfigured

from comfy import presets
from jobs.workers import cluster
from local import serve
from local.parts import ROOT
from wanapi import environment
from wanapi import settings as module

NUMBERS = ("x", "-1", "+5", "1e3", "0x10", "1_0", "5.5", "٣", "1 0", "9" * 400, "10" + "0" * 13)
FLAGS = ("maybe", "2", "truee", "yes please")
URLS = (
    *("gpu:8188", "ftp://gpu", "//gpu:1", "http://", "http://:8188", "http://gpu:0", "http://gpu:99999"),
    *("http://gpu:x", "http://g pu", "http://gpu/a b", "http://gpu?a=1", "http://gpu/#a", "http://[::1"),
    *("http://300.1.1.1", "http://gpu\nhttp://b", "http://gpu\\x", "http://::1:8188", "http://gpu,http://b"),
)
HOSTS = (
    "https://a.example",
    "a.example:8443",
    "a.example/",
    "*.example",
    "a b",
    "::1",
    "a_b",
    "a.",
    "300.1.1.1",
)
ORIGINS = ("a.example", "a.example:3000", "https://a.example/admin", "https://", "*", "https://a.example?x=1")
STORES = (
    *(
        "images.local",
        "images.local:0",
        "images.local:70000",
        "images.local:",
        ":80",
        "http://a:80",
        "a b:80",
    ),
    *(
        "10.0.0.0/8",
        "10.0.0.1/8:80",
        "10.0.0.0/33:80",
        "::1:80",
        "[::1]",
        "[::1]:x",
        "*:80",
        "a:80,b",
        "/:80",
    ),
)
BAD = {
    "ALLOWED_HOSTS": (*HOSTS, "127.0.0.1, https://a.example", ",", "[::1", "[::1]:80", ".", "müller.example"),
    "API_KEY": ("schlüssel", "two words", "two\nlines", "tab\tbed", "x" * 2000),
    "BEHIND_TLS_PROXY": FLAGS,
    "COMFYUI_INPUT_DIR": ("/a\n/b",),
    "COMFYUI_OUTPUT_DIR": ("/a\n/b",),
    "COMFYUI_URL": (
        *URLS,
        "http://u:p@/",
        "http://u:1/2@gpu:8188",
        "http://token@gpu",
        "http://gpu/" + "x" * 500,
    ),
    "CORS_ALLOWED_ORIGINS": (
        *(one for one in ORIGINS if not one.startswith("ftp")),
        "https://*.example",
        "null",
        "https://u:p@a.example",
    ),
    "CSRF_TRUSTED_ORIGINS": (*ORIGINS, "https://*", "ftp://a.example"),
    "DATABASE_TIMEOUT": ("0", "86401"),
    "DATABASE_URL": (
        *("sqlite:///a.db", "nonsense://a/b", "postgresql://u:p@h:port/n", "postgresql://u:p@h:99999/n", "h"),
        *("postgresql://u:p@h", "postgresql://h/n?sslmod=require", "postgresql://h/n?sslmode=on"),
        *("postgresql://h/n\nx", "postgresql://h/a b", "postgresql://h/" + "n" * 64, "mysql://h/n"),
    ),
    "ENGINE_GRACE": ("0",),
    "ENGINE_LEASE": ("5",),
    "ENGINE_NAME": ("x" * 256, "a\nb"),
    "HOST": ("http://0.0.0.0", "0.0.0.0:8000", "[::]:8000", "a b", "*", "[a]", "1.2.3", "::g"),
    "IDEMPOTENCY_HOURS": ("0",),
    "IMAGE_MAX_BYTES": ("0",),
    "IMAGE_URL_ALLOW": STORES,
    "IMAGE_URL_TIMEOUT": ("0",),
    "JOB_LEASE": ("2",),
    "KEEPALIVE": ("0", "3601"),
    "KEY_MAX_PER_DAY": (),
    "KEY_MAX_QUEUED": (),
    "LOG_FORMAT": ("xml", "line,json"),
    "LOG_LEVEL": ("LOUD", "10"),
    "MAX_FRAMES": ("4", "1002"),
    "MAX_PIXELS": ("65535", "1638401"),
    "MAX_WAITING": ("0",),
    "METRICS_PORT": ("65536", "8000"),
    "PORT": ("65536", "http"),
    "PRESETS_DIR": ("/a\n/b",),
    "PROXY_ENTRIES": ("0", "11"),
    "RENDER_TIMEOUT": ("0",),
    "RETENTION_DAYS": (),
    "S3_PREFIX": ("/", "/a", "a//b", "..", "a/../b", "a b", "s3://a", "bücket", "x" * 201, "a\nb"),
    "S3_BUCKET": ("a/b", "s3://a", "a b", "a:b", "bücket", "x" * 256),
    "S3_ENDPOINT_URL": (*URLS, "http://key:secret@s3"),
    "S3_PUBLIC_ENDPOINT_URL": (*URLS, "http://key:secret@s3"),
    "SECRET_KEY_BEFORE": ("two\nlines", "\udcff"),
    "SECRET_KEY": ("two\nlines", "\udcff"),
    "STALL_TIMEOUT": ("0",),
    "STUCK_TIMEOUT": ("0",),
    "VIDEO_URL_TTL": ("0", "604801"),
    "WARM_UP": FLAGS,
    "WEBHOOK_SECRET": (
        *("secret", "whsec_", "whsec_%%%", "whsec_QUJD", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        "whsec_" + "A" * 32 + ",x",
        "whsec_" + "A" * 88,
    ),
    "WEBHOOK_TIMEOUT": ("0", "61"),
    "WEBHOOK_URL": (
        "a.example",
        "ftp://a.example",
        "https://",
        "https:///x",
        "https://a b",
        "https://ü.example",
    ),
    "WEBHOOK_URL_ALLOW": STORES,
    "WEB_WORKERS": ("0", "101", "two"),
    "WORKFLOW_PRESET": ("best", "Quality"),
}
ANY_TEXT = {"COMFYUI_RESTART_COMMAND"}
NEEDED = ("API_KEY", "SECRET_KEY", "S3_BUCKET", "DATABASE_URL")
SCRIPT_NAME = "SCRIPT_NAME is set, and the service cannot live below a path: give it a host name of its own."
NUMERIC = [name for name in BAD if type(getattr(module, name, None)) is int]


@pytest.fixture
def load(monkeypatch):
    """The settings' module itself, with the variables that are given."""

    def load(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        return runpy.run_path(str(ROOT / "wanapi" / "settings.py"))

    return load


def refusal(load, **variables):
    with pytest.raises(ImproperlyConfigured) as error:
        load(**variables)
    return str(error.value)


def test_each_setting_is_in_the_table_of_bad_values():
    assert set(BAD) | ANY_TEXT == set(environment.env.dump())


ROWS = re.findall(
    r"^\| (`[A-Z0-9_]+`(?:, `[A-Z0-9_]+`)*) \| (.*?) \|",
    (ROOT / "docs/settings.md").read_text(),
    re.MULTILINE,
)


def test_the_table_in_the_docs_has_each_setting_and_no_other():
    of_others = {*environment.AWS_KEYS, "AWS_DEFAULT_REGION", "SIMULATOR_SECONDS_PER_STEP"}
    of_make_serve = {"PUBLIC_ADDRESS", "S3_PORT"}

    told = set(re.findall(r"[A-Z0-9_]+", " ".join(names for names, _ in ROWS)))
    assert told == set(BAD) | ANY_TEXT | of_others | of_make_serve
    assert of_make_serve < set(serve.NAMES.split())


def told_defaults():
    """Each setting with its default, where the table has the value itself and no words about it."""
    for names, told in ROWS:
        names = re.findall(r"[A-Z0-9_]+", names)
        values = told.split(", ") if len(names) > 1 else [told]
        if len(names) == len(values):
            yield from zip(names, (value.strip("`") for value in values), strict=True)


def shown(value):
    if isinstance(value, list):
        return ",".join(value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value or "none")


SAID_IN_WORDS = {"S3_ENDPOINT_URL", "S3_PUBLIC_ENDPOINT_URL", "ENGINE_NAME", *NEEDED}


@pytest.mark.parametrize(("name", "told"), [pair for pair in told_defaults() if pair[0] in {*BAD, *ANY_TEXT}])
def test_the_docs_tell_the_default(load, name, told):
    if name in NEEDED:
        assert told == "needed"
    elif name not in SAID_IN_WORDS:
        assert told in (shown(default := load(**{name: ""})[name]), str(default))


@pytest.mark.parametrize("name", BAD)
def test_a_value_that_cannot_work_is_refused_by_name(load, name):
    for value in (*BAD[name], *(NUMBERS if name in NUMERIC else ())):
        sentence = refusal(load, **{name: value})
        assert sentence.startswith(f"{name} "), (value, sentence)
        assert "\n" not in sentence
        assert len(sentence) < 400


@pytest.mark.parametrize("name", NEEDED)
def test_what_is_needed_is_asked_for(load, name):
    for nothing in ("", " "):
        assert refusal(load, **{name: nothing}).startswith(f"{name} is not set: ")


@pytest.mark.parametrize("name", sorted({*BAD, *ANY_TEXT} - {*NEEDED}))
def test_what_is_set_to_nothing_has_its_default(load, monkeypatch, name):
    default = load(**{name: ""})[name]
    monkeypatch.delenv(name)

    assert load()[name] == default


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("ALLOWED_HOSTS", "127.0.0.1, video.example.com,", ["127.0.0.1", "video.example.com"]),
        ("ALLOWED_HOSTS", "*,.example.com,[2001:DB8:0::1]", ["*", ".example.com", "[2001:db8::1]"]),
        ("CSRF_TRUSTED_ORIGINS", "https://A.example:443/, http://b:80", ["https://a.example", "http://b"]),
        ("CSRF_TRUSTED_ORIGINS", "https://*.example.com", ["https://*.example.com"]),
        (
            "CORS_ALLOWED_ORIGINS",
            "http://localhost:3000/ ,http://[::1]:80,capacitor://localhost",
            ["http://localhost:3000", "http://[::1]", "capacitor://localhost"],
        ),
        (
            "IMAGE_URL_ALLOW",
            "store.internal:0443, my_store:80, [FD00:0::7]:9000",
            ["store.internal:443", "my_store:80", "[fd00::7]:9000"],
        ),
        ("COMFYUI_URL", "HTTP://comfy:p%40ss@my_gpu:8188/behind/", "http://comfy:p%40ss@my_gpu:8188/behind"),
        ("S3_ENDPOINT_URL", "https://[::1]:9000/storage/v1/s3/", "https://[::1]:9000/storage/v1/s3"),
        (
            "S3_BUCKET",
            "arn:aws:s3:eu-west-2:123456789012:accesspoint/videos",
            "arn:aws:s3:eu-west-2:123456789012:accesspoint/videos",
        ),
        ("HOST", "::", "[::]"),
        ("HOST", "[::1]", "[::1]"),
        ("HOST", "localhost", "localhost"),
        ("HOST", "fe80::1%eth0", "[fe80::1%eth0]"),
        ("WARM_UP", "NO", False),
        ("LOG_LEVEL", "debug", "DEBUG"),
        ("PORT", " 0080 ", 80),
    ],
)
def test_a_form_that_is_meant_well_is_taken(load, name, given, value):
    assert load(**{name: given})[name] == value


def test_networks_of_image_stores_in_each_form(load):
    networks = load(IMAGE_URL_ALLOW="10.0.0.0/8:80, [fd00::/8]:443, [fd00::]/9:443,fc00::/7:1")[
        "IMAGE_URL_NETWORKS"
    ]

    assert [f"{network}:{port}" for network, port in networks] == [
        "10.0.0.0/8:80",
        "fd00::/8:443",
        "fd00::/9:443",
        "fc00::/7:1",
    ]


@pytest.mark.parametrize(
    "given",
    [
        "postgresql://u@h/n?sslmode=require&prepare_threshold=5",
        "postgres://%2Frun/n",
        "pgsql://u:p%40@[::1]:5433/n",
    ],
)
def test_a_database_that_can_be(load, given):
    assert load(DATABASE_URL=given)["DATABASES"]["default"]["NAME"] == "n"


class TestPasswords:
    @pytest.mark.parametrize(
        "name", ["DATABASE_URL", "COMFYUI_URL", "S3_ENDPOINT_URL", "CORS_ALLOWED_ORIGINS"]
    )
    @pytest.mark.parametrize(
        "form",
        [
            "http://u:Hush@h:x",
            "ftp://u:Hush@h",
            "postgresql://u:Hush@h:1x/n",
            "u:Hush@h",
            "http://u:Hush@h/?\nb@c",
        ],
    )
    def test_no_refusal_quotes_one(self, load, name, form):
        assert "Hush" not in refusal(load, **{name: form})

    def test_the_keys_are_not_quoted_either(self, load):
        assert "Hush" not in refusal(load, API_KEY="Hush Hush") + refusal(load, SECRET_KEY="Hush\n")


class TestFiles:
    @pytest.mark.parametrize("name", ["API_KEY", "PORT", "ALLOWED_HOSTS"])
    def test_a_file_that_cannot_be_read_is_named(self, load, name, tmp_path):
        (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        for path in ("/nowhere/x", tmp_path, tmp_path / "binary", tmp_path / "loop", "x" * 5000):
            assert refusal(load, **{f"{name}_FILE": path}).startswith(f"{name}_FILE must name a text file")

    def test_an_empty_file(self, load, tmp_path):
        (tmp_path / "key").write_text("\n")

        assert refusal(load, API_KEY_FILE=tmp_path / "key").startswith("API_KEY_FILE names an empty file")

    def test_two_values_for_one_setting(self, load, tmp_path):
        (tmp_path / "key").write_text("another\n")

        assert refusal(load, API_KEY_FILE=tmp_path / "key").startswith(
            "API_KEY and API_KEY_FILE say different"
        )
        assert load(API_KEY="another", API_KEY_FILE=tmp_path / "key")["API_KEY"] == "another"

    def test_also_of_what_gunicorn_alone_uses(self, load, tmp_path):
        (tmp_path / "port").write_text("8123\n")

        assert load(PORT="", PORT_FILE=tmp_path / "port")["PORT"] == 8123


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("AWS_DEFAULT_REGION", value) for value in ("eu west", "eu-west-2 ", "-", "https://s3", "1")),
        *((name, value) for name in environment.AWS_KEYS for value in ("", "a b", "a\n", "schlüssel")),
    ],
)
def test_what_boto3_reads_itself_is_looked_at_before(load, name, value):
    assert name in refusal(load, **{name: value})


def test_a_path_before_all_addresses_is_refused(load):
    assert refusal(load, SCRIPT_NAME="/wan") == SCRIPT_NAME


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://u:p@gpu:8188", "gpu:8188"),
        ("http://gpu/first", "gpu/first"),  # a proxy in front of several
        ("http://[fd00::7]:8188", "[fd00::7]:8188"),
        ("http://localhost:8188/b", f"{socket.gethostname()}:8188/b"),
        ("http://gpu/" + "x" * 400, "gpu/" + "x" * 251),
    ],
)
def test_engines_that_are_not_named_are_told_apart(load, url, name):
    assert load(COMFYUI_URL=url)["ENGINE_NAME"] == name


class TestPresets:
    @pytest.fixture(autouse=True)
    def built_in_again(self):
        yield
        presets.load()

    def test_a_broken_one_stops_the_start_with_file_and_node(self, load, tmp_path):
        shutil.copytree(presets.BUILT_IN / "fast", tmp_path / "mine")
        path = tmp_path / "mine" / "text-to-video.json"
        path.write_text(path.read_text().replace('["decode", 0]', '["nowhere", 0]'))

        assert refusal(load, PRESETS_DIR=tmp_path) == (
            f"PRESETS_DIR: {path}: input 'images' of node 'video' is a link to node 'nowhere', which is not "
            "there."
        )

    def test_one_of_the_operators_can_be_the_default(self, load, tmp_path):
        assert refusal(load, WORKFLOW_PRESET="mine").startswith(
            "WORKFLOW_PRESET must be one of quality, fast"
        )
        shutil.copytree(presets.BUILT_IN / "fast", tmp_path / "mine")

        assert load(PRESETS_DIR=tmp_path, WORKFLOW_PRESET="mine")["WORKFLOW_PRESET"] == "mine"


def test_a_folder_of_comfyui_that_is_not_there_is_told(settings, caplog, tmp_path):
    settings.COMFYUI_INPUT_DIR, settings.COMFYUI_OUTPUT_DIR = str(tmp_path), str(tmp_path / "none")

    cluster.tell_of_missing_folders()

    [told] = caplog.messages
    assert told.startswith(f"COMFYUI_OUTPUT_DIR: there is no folder {tmp_path}/none")
